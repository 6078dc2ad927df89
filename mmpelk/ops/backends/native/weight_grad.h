// The gradient of the weight for one instruction set: for each tap, the sum over all positions of the row that the tap reads
// times the gradient of the output.
//
// Sums over many positions lose digits in float. So kTermsInRegister products are summed in a register, about kTermsInFloat in a
// float in memory, and the rest in double. Longer sums would lose digits, and shorter ones would take more time for the additions
// between the levels.
#pragma once
#include "row_sums.h"

namespace mmpelk::MMPELK_NAMESPACE {
namespace {

constexpr int kTermsInRegister = 32;
constexpr int kTermsInFloat = 512;

// The taps whose sums are held in registers at a time. Each gradient is loaded once for all of them.
constexpr int kGradTaps = MMPELK_GRAD_TAPS;

// Add the products of a row and a row of the output's gradient to the sums of `Taps` taps.
template <int Taps>
void add_products(const Vec* row, const Vec* grad, int length, const int* offsets, Vec* sums) {
    const Vec* shifted[Taps];
    for (int t = 0; t < Taps; t++) shifted[t] = row + offsets[t];
    for (int start = 0; start < length; start += kTermsInRegister) {
        const int end = std::min(length, start + kTermsInRegister);
        Vec sum[Taps] = {};
        for (int i = start; i < end; i++) {
            const Vec g = grad[i];
#pragma GCC unroll 16
            for (int t = 0; t < Taps; t++) sum[t] += g * shifted[t][i];
        }
        for (int t = 0; t < Taps; t++) sums[t] += sum[t];
    }
}

typedef void (*AddProducts)(const Vec*, const Vec*, int, const int*, Vec*);

// [Taps - 1]
template <int... Index>
const AddProducts* product_functions(std::integer_sequence<int, Index...>) {
    static const AddProducts functions[] = {add_products<Index + 1>...};
    return functions;
}

inline void add_as_double(double* sums, Vec value) {
    for (int i = 0; i < kLanes; i++) sums[i] += value[i];
}

// Sums in float, which are added to the sums in double from time to time.
struct FloatSums {
    const Plan& plan;
    Vec* of_taps;   // (cell_rows, tap_count)
    Vec* of_cells;  // (cell_rows, cell_columns): the sums for a map of ones, as RowSums subtracts the mean

    static int64_t bytes(const Plan& plan) {
        return scratch_bytes<Vec>((int64_t)plan.cell_rows * plan.tap_count) +
               scratch_bytes<Vec>((int64_t)plan.cell_rows * plan.cell_columns);
    }
    FloatSums(const Plan& plan, Arena& arena) : plan(plan) {
        of_taps = arena.take<Vec>((int64_t)plan.cell_rows * plan.tap_count);
        of_cells = arena.take<Vec>((int64_t)plan.cell_rows * plan.cell_columns);
    }
    void clear() {
        std::memset((void*)of_taps, 0, (int64_t)plan.cell_rows * plan.tap_count * sizeof(Vec));
        std::memset((void*)of_cells, 0, (int64_t)plan.cell_rows * plan.cell_columns * sizeof(Vec));
    }
    // `sums` is (cell_rows, cell_columns, kLanes).
    void move_to(double* sums, Vec mean) {
        for (int a = 0; a < plan.cell_rows; a++)
            for (int b = 0; b < plan.cell_columns; b++) {
                const int64_t cell = (int64_t)a * plan.cell_columns + b;
                const Vec* tap = of_taps + (int64_t)a * plan.tap_count + b;
                double* to = sums + cell * kLanes;
                if (plan.use_prefix_sums)
                    for (int i = 0; i < kLanes; i++) to[i] += (double)tap[1][i] - tap[0][i] + (double)mean[i] * of_cells[cell][i];
                else
                    add_as_double(to, tap[0]);
            }
        clear();
    }
};

// For each column of cells, the sum of a gradient's row over the positions where the cell lies inside the map, once for each
// column of the map that it covers there.
inline void sum_where_inside(const Plan& plan, const Task& task, const Vec* grad, Vec* prefix, Vec* to) {
    prefix[0] = Vec{};
    for (int i = 0; i < task.column_end - task.first_column; i++) prefix[i + 1] = prefix[i] + grad[i];
    for (int b = 0, offset = -plan.column_radius; b < plan.cell_columns; b++) {
        to[b] = Vec{};
        for (int i = 0; i < plan.cell_widths[b]; i++, offset++) {
            const int first = std::max(task.first_column, -offset), end = std::min(task.column_end, plan.width - offset);
            if (first < end) to[b] += prefix[end - task.first_column] - prefix[first - task.first_column];
        }
    }
}

// A task's taps reach at most this far beyond the map.
inline int grad_padding(const Plan& plan) { return std::min(plan.width, plan.column_radius) + 1; }

int64_t weight_grad_scratch_bytes(const Plan& plan, const Task& task) {
    const int64_t columns = task.column_end - task.first_column;
    return 2 * scratch_bytes<Vec>(plane_size(plan)) + RowSums::bytes(plan, task, grad_padding(plan)) + FloatSums::bytes(plan) +
           scratch_bytes<Vec>(columns) + scratch_bytes<Vec>(columns + 1) + scratch_bytes<Vec>(plan.cell_columns);
}

void weight_grad(const Plan& plan, const Task& task, const Input& input, const Input& grad, double* sums_in_double,
                 const Scratch& scratch) {
    const AddProducts* add_products_of = product_functions(std::make_integer_sequence<int, kGradTaps>());
    const int columns = task.column_end - task.first_column;
    Arena arena(scratch);
    Vec* input_plane = arena.take<Vec>(plane_size(plan));
    Vec* grad_plane = arena.take<Vec>(plane_size(plan));
    RowSums rows(plan, task, grad_padding(plan), arena);
    FloatSums sums(plan, arena);
    Vec* grad_row = arena.take<Vec>(columns);
    Vec* grad_prefix = arena.take<Vec>(columns + 1);
    Vec* grad_inside = arena.take<Vec>(plan.cell_columns);

    sums.clear();
    const int groups = (plan.tap_count + kGradTaps - 1) / kGradTaps;
    for (int image = task.first_image; image < task.image_end; image++) {
        const ChannelReader reader(plan, task, image, input, input_plane), grad_reader(plan, task, image, grad, grad_plane);
        rows.start(reader, task.first_row);
        int terms = 0;
        for (int row = task.first_row; row < task.row_end; row++) {
            rows.advance(reader, row);
            grad_reader.read(row, task.first_column, columns, grad_row);
            if (plan.use_prefix_sums) sum_where_inside(plan, task, grad_row, grad_prefix, grad_inside);
            for (int a = 0; a < plan.cell_rows; a++) {
                if (!rows.inside(a, row)) continue;
                const Vec* sums_of_row = rows(a, row) + task.first_column - rows.first_column();
                for (int group = 0, t = 0; group < groups; group++) {
                    const int count = (plan.tap_count - t) / (groups - group);
                    add_products_of[count - 1](sums_of_row, grad_row, columns, plan.tap_offsets + t,
                                              sums.of_taps + (int64_t)a * plan.tap_count + t);
                    t += count;
                }
                if (plan.use_prefix_sums) {
                    const float covered_rows = (float)covered(row + plan.row_offsets[a], plan.cell_heights[a], plan.height);
                    Vec* of_cells = sums.of_cells + (int64_t)a * plan.cell_columns;
                    for (int b = 0; b < plan.cell_columns; b++) of_cells[b] += covered_rows * grad_inside[b];
                }
            }
            terms += columns;
            if (terms >= kTermsInFloat || row + 1 == task.row_end) sums.move_to(sums_in_double, rows.mean()), terms = 0;
        }
    }
}

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
