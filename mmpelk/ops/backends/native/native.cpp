// The C interface. Its functions throw nothing; they return a status.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "instruction_sets.h"
#include "parallel.h"
#include "planner.h"

using namespace mmpelk;

namespace {

// Must be increased with every change of the functions below, together with __init__.py.
constexpr int kInterfaceVersion = 2;

enum Status : int { kSuccess = 0, kOutOfMemory = 1, kUnknownInstructionSet = 2, kInvalidArguments = 3, kOtherError = 4 };

// More threads are of no use, and products with their number must not overflow.
constexpr int kMaxThreads = 4096;

template <class Body>
int status_of(Body body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    } catch (...) {
        return kOtherError;
    }
}

template <class Float>
TensorView<Float> view(Float* data, const int64_t* strides) {
    return {data, strides[0], strides[1], strides[2], strides[3]};
}

void compute_forward(const InstructionSet& set, const Plan& plan, int threads, const Input& x, const float* weight,
                     const float* bias, const Output& y) {
    const ForwardTasks tasks(plan, set.lanes, threads);
    parallel_for(tasks.count(), threads, [&](int64_t index) {
        const Task task = tasks[index];
        set.forward(plan, task, x, weight, bias, y, thread_scratch(set.forward_scratch_bytes(plan, task)));
    });
}

// Add the sums of a group's slices, (slices, cells, lanes), in their order, and write them to its channels of the gradient.
void add_slices(double* sums, int64_t slices, int64_t cells, int lanes, int channels, float* grad_weight) {
    for (int64_t slice = 1; slice < slices; slice++)
        for (int64_t i = 0; i < cells * lanes; i++) sums[i] += sums[slice * cells * lanes + i];
    for (int lane = 0; lane < channels; lane++)
        for (int64_t cell = 0; cell < cells; cell++) grad_weight[lane * cells + cell] = (float)sums[cell * lanes + lane];
}

void compute_weight_grad(const InstructionSet& set, const Plan& plan, int threads, const Input& x, const Input& grad,
                         float* grad_weight) {
    const GradSlices slices(plan, set.lanes);
    const int64_t groups = slices.groups(), per_group = slices.slices_per_group();
    const int64_t cells = (int64_t)plan.cell_rows * plan.cell_columns, slice_size = cells * set.lanes;
    const std::unique_ptr<double[]> sums(new double[groups * per_group * slice_size]);  // not cleared: each slice clears its own
    std::vector<std::atomic<int64_t>> finished(groups);
    parallel_for(groups * per_group, threads, [&](int64_t index) {
        // The groups of an image follow each other, because they share its cache lines in channels_last maps.
        const int64_t group = index % groups, slice = index / groups;
        double* group_sums = &sums[group * per_group * slice_size];
        double* slice_sums = group_sums + slice * slice_size;
        std::fill(slice_sums, slice_sums + slice_size, 0.0);
        for (int64_t part = slices.first_part(slice); part < slices.first_part(slice + 1); part++) {
            const Task task = slices.part(group, part);
            set.weight_grad(plan, task, x, grad, slice_sums, thread_scratch(set.weight_grad_scratch_bytes(plan, task)));
        }
        if (++finished[group] < per_group) return;
        const int64_t channel = group * set.lanes;
        const int channels = (int)std::min<int64_t>(set.lanes, plan.channels - channel);
        add_slices(group_sums, per_group, cells, set.lanes, channels, grad_weight + channel * cells);
    });
}

}  // namespace

extern "C" {

int mmpelk_version() { return kInterfaceVersion; }

// Return the name of the index-th instruction set that this machine has, fastest first, or null beyond the last.
const char* mmpelk_instruction_set(int index) {
    const InstructionSet* set = instruction_set_at(index);
    return set ? set->name : nullptr;
}

// Compute y, the depthwise 'same' correlation of x with the weight spread over its cells.
//
// x and y are (N, C, H, W) with any strides, in elements, and must not overlap. The weight is (C, cell_rows, cell_columns), and
// the bias is (C) or null; both are contiguous. Cell sizes are positive, symmetric, and of an odd sum, which is at most 2 H - 1
// for rows and 2 W - 1 for columns.
int mmpelk_forward(const char* instruction_set, int threads, const int64_t* shape, const float* x, const int64_t* x_strides,
                   const float* weight, const float* bias, float* y, const int64_t* y_strides, const int64_t* cell_heights,
                   int64_t cell_rows, const int64_t* cell_widths, int64_t cell_columns) {
    return status_of([&] {
        if (!instruction_set || !shape || !x_strides || !weight || !y_strides || !cell_heights || !cell_widths)
            return kInvalidArguments;
        if (threads < 1 || !valid_sizes(shape, cell_heights, cell_rows, cell_widths, cell_columns)) return kInvalidArguments;
        const InstructionSet* set = find_instruction_set(instruction_set);
        if (!set) return kUnknownInstructionSet;
        if (shape[0] == 0) return kSuccess;  // empty tensors have no memory
        if (!x || !y) return kInvalidArguments;
        const OwningPlan plan(shape, cell_heights, cell_rows, cell_widths, cell_columns);
        compute_forward(*set, plan, std::min(threads, kMaxThreads), view(x, x_strides), weight, bias, view(y, y_strides));
        return kSuccess;
    });
}

// Compute the gradient of the weight, (C, cell_rows, cell_columns) and contiguous, from x and the gradient of y. The arguments
// are those of mmpelk_forward. The result has the same bits for any number of threads.
int mmpelk_weight_grad(const char* instruction_set, int threads, const int64_t* shape, const float* x, const int64_t* x_strides,
                       const float* grad_y, const int64_t* grad_strides, float* grad_weight, const int64_t* cell_heights,
                       int64_t cell_rows, const int64_t* cell_widths, int64_t cell_columns) {
    return status_of([&] {
        if (!instruction_set || !shape || !x_strides || !grad_strides || !grad_weight || !cell_heights || !cell_widths)
            return kInvalidArguments;
        if (threads < 1 || !valid_sizes(shape, cell_heights, cell_rows, cell_widths, cell_columns)) return kInvalidArguments;
        const InstructionSet* set = find_instruction_set(instruction_set);
        if (!set) return kUnknownInstructionSet;
        if (shape[0] > 0 && (!x || !grad_y)) return kInvalidArguments;
        const OwningPlan plan(shape, cell_heights, cell_rows, cell_widths, cell_columns);
        compute_weight_grad(*set, plan, std::min(threads, kMaxThreads), view(x, x_strides), view(grad_y, grad_strides),
                            grad_weight);
        return kSuccess;
    });
}
}
