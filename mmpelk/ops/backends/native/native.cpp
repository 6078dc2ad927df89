// The C interface: plans a convolution once, shares its tasks among threads.
#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "plan.h"

namespace mmpelk {
namespace {

constexpr int kStrip = 128;          // columns of a task; wider maps are cut, so that its rows fit the second-level cache
constexpr int kWholeWidth = 192;     // the widest map that is not cut
constexpr int kLeastRows = 8;        // of a task
constexpr double kWarmUp = 0.08;     // cost of a row above or below a task's, in output rows
constexpr int kGradTasks = 8;        // tasks of a weight's gradient, at least, where the map is large enough

// Fastest first.
const std::vector<const Kernels*>& all_kernels() {
    static const std::vector<const Kernels*> kernels = [] {
        std::vector<const Kernels*> found;
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
            found.push_back(avx512_kernels());
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(avx2_kernels());
#endif
        found.push_back(portable_kernels());
        return found;
    }();
    return kernels;
}

const Kernels* find_kernels(const char* name) {
    for (const Kernels* kernels : all_kernels())
        if (!std::strcmp(kernels->name, name)) return kernels;
    return nullptr;
}

// Scratch memory that a thread keeps: mapping it afresh for each call costs as much as a small map.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }
    float* at_least(size_t bytes) {
        if (bytes > size) {
            std::free(memory);
            size = 0;
            if (posix_memalign(&memory, 64, bytes)) {
                memory = nullptr;
                throw std::bad_alloc();
            }
            size = bytes;
        }
        return (float*)memory;
    }
};
thread_local Scratch scratch;

struct Planned : Plan {
    std::vector<int> row_cells_, row_offsets_, column_cells_, row_cell_at_, column_cell_at_, taps_;

    Planned(int images, int channels, int height, int width, const int* row_sizes, int row_count, const int* column_sizes, int column_count, bool flip)
        : row_cells_(row_sizes, row_sizes + row_count), column_cells_(column_sizes, column_sizes + column_count) {
        this->images = images, this->channels = channels, this->height = height, this->width = width, this->flip = flip;
        rows = row_count, columns = column_count;
        row_radius = along(row_cells_, row_offsets_, row_cell_at_);
        std::vector<int> column_offsets;
        column_radius = along(column_cells_, column_offsets, column_cell_at_);
        prefix = *std::max_element(column_cells_.begin(), column_cells_.end()) > 1;
        taps_ = column_offsets;
        if (prefix) taps_.push_back(column_radius + 1);
        row_cells = row_cells_.data(), row_offsets = row_offsets_.data();
        column_cells = column_cells_.data(), row_cell_at = row_cell_at_.data(), column_cell_at = column_cell_at_.data();
        taps = taps_.size(), tap_offsets = taps_.data();
    }

    static int along(const std::vector<int>& cells, std::vector<int>& offsets, std::vector<int>& cell_at) {
        for (size_t i = 0; i < cells.size(); i++) {
            offsets.push_back(cell_at.size());
            cell_at.insert(cell_at.end(), cells[i], i);
        }
        const int radius = cell_at.size() / 2;
        for (int& offset : offsets) offset -= radius;
        return radius;
    }

    // The map in strips of columns, for each image and each `lanes` channels. What does not share out evenly among `threads` is cut into
    // bands of rows, which read the rows around them twice.
    std::vector<Task> tasks(int lanes, int threads) const {
        const int strips = width <= kWholeWidth ? 1 : (width + kStrip - 1) / kStrip;
        const int groups = (channels + lanes - 1) / lanes, units = images * groups * strips, whole = units / threads * threads;
        const int bands = bands_for(units - whole, threads);
        std::vector<Task> tasks;
        for (int unit = 0; unit < units; unit++) {
            const int image = unit / (groups * strips), channel = unit / strips % groups * lanes, strip = unit % strips;
            const int count = unit < whole ? 1 : bands;
            for (int band = 0; band < count; band++)
                tasks.push_back({image, channel, cut(height, band, count), cut(height, band + 1, count), cut(width, strip, strips), cut(width, strip + 1, strips)});
        }
        return tasks;
    }
    static int cut(int length, int part, int parts) { return (int)((int64_t)length * part / parts); }
    // The number of bands of each unit that keeps the threads busy for the shortest time.
    int bands_for(int units, int threads) const {
        int best = 1;
        double least = 0;
        for (int bands = 1; bands <= std::max(1, height / kLeastRows) && bands <= 4 * threads; bands++) {
            const int turns = (units * bands + threads - 1) / threads;
            const double time = turns * ((double)height / bands + 2 * kWarmUp * row_radius);
            if (bands == 1 || time < least) best = bands, least = time;
        }
        return best;
    }
};

// OpenMP's threads do not survive a fork.
bool forked = false;
struct ForkGuard {
    ForkGuard() { pthread_atfork(nullptr, nullptr, [] { forked = true; }); }
} fork_guard;

template <class Run>
void share(int count, int threads, size_t scratch_floats, Run run) {
    threads = std::max(1, std::min(threads, count));
    if (forked) threads = 1;
    bool failed = false;
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
#endif
    for (int i = 0; i < count; i++) {
        try {
            run(i, scratch.at_least(scratch_floats * sizeof(float)));
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
}

}  // namespace
}  // namespace mmpelk

using namespace mmpelk;

extern "C" {

// The name of the i-th instruction set that this machine has, fastest first; null beyond the last.
const char* mmpelk_instruction_set(int index) {
    return index < (int)all_kernels().size() ? all_kernels()[index]->name : nullptr;
}

// y (N, C, H, W) = the 'same' correlation of x with the (C, rows, columns) weight spread over its cells, plus a (C) bias or null. Strides
// are those of N, C, H and W, in elements. Cell sizes are symmetric and sum to odd numbers, at most 2 H - 1 and 2 W - 1. `flip`
// turns the kernel about. Returns 0, 1 without memory, 2 if the machine lacks the instruction set.
int mmpelk_forward(const char* instruction_set, int threads, const int* shape, const float* x, const int64_t* x_strides, const float* weight,
                   const float* bias, float* y, const int64_t* y_strides, const int* row_cells, int rows, const int* column_cells, int columns,
                   int flip) try {
    const Kernels* kernels = find_kernels(instruction_set);
    if (!kernels) return 2;
    const Planned plan(shape[0], shape[1], shape[2], shape[3], row_cells, rows, column_cells, columns, flip);
    const std::vector<Task> tasks = plan.tasks(kernels->lanes, threads);
    const View from = {const_cast<float*>(x), x_strides[0], x_strides[1], x_strides[2], x_strides[3]};
    const View to = {y, y_strides[0], y_strides[1], y_strides[2], y_strides[3]};
    int64_t floats = 0;
    for (const Task& task : tasks) floats = std::max(floats, kernels->forward(plan, task, from, weight, bias, to, nullptr));
    share(tasks.size(), threads, floats, [&](int i, float* memory) { kernels->forward(plan, tasks[i], from, weight, bias, to, memory); });
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

// grad_weight (C, rows, columns), the gradient of the weight given grad_y. The same for any number of threads.
int mmpelk_weight_grad(const char* instruction_set, int threads, const int* shape, const float* x, const int64_t* x_strides, const float* grad_y,
                       const int64_t* grad_strides, float* grad_weight, const int* row_cells, int rows, const int* column_cells, int columns) try {
    const Kernels* kernels = find_kernels(instruction_set);
    if (!kernels) return 2;
    const Planned plan(shape[0], shape[1], shape[2], shape[3], row_cells, rows, column_cells, columns, false);
    const int lanes = kernels->lanes;
    const std::vector<Task> tasks = plan.tasks(lanes, kGradTasks);
    const View from = {const_cast<float*>(x), x_strides[0], x_strides[1], x_strides[2], x_strides[3]};
    const View up = {const_cast<float*>(grad_y), grad_strides[0], grad_strides[1], grad_strides[2], grad_strides[3]};
    int64_t floats = 0;
    for (const Task& task : tasks) floats = std::max(floats, kernels->weight_grad(plan, task, from, up, nullptr, nullptr));
    const int64_t cells = (int64_t)rows * columns;
    std::vector<double> parts(tasks.size() * cells * lanes);
    share(tasks.size(), threads, floats, [&](int i, float* memory) { kernels->weight_grad(plan, tasks[i], from, up, &parts[i * cells * lanes], memory); });
    std::vector<double> sum(plan.channels * cells);
    for (size_t i = 0; i < tasks.size(); i++)
        for (int c = 0; c < std::min(lanes, plan.channels - tasks[i].channel); c++)
            for (int64_t cell = 0; cell < cells; cell++) sum[(tasks[i].channel + c) * cells + cell] += parts[(i * cells + cell) * lanes + c];
    std::copy(sum.begin(), sum.end(), grad_weight);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
