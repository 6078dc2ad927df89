// The structured evaluation of a depthwise convolution whose kernel is constant over cells, for one instruction set.
//
// Channels lie in the lanes of a register. Along y, each cell reads one row, the sum of the rows that it covers; from one output row to
// the next it gains a row and loses one. Along x, a row of cells w_0 .. w_n over borders e_0 .. e_n+1 is
// sum_b w_b (P[e_b+1] - P[e_b]) = sum_e (w_e-1 - w_e) P[e] with P the prefix sums of the row of sums: n + 2 taps whatever the widths.
//
// Prefix sums of maps with a large mean would cancel. So each channel's values are taken from a centre m (about their mean, any value is
// exact), and m times the convolution of a map of ones is added: that is, m times the sum of the taps that lie inside the map.
#pragma once
#include "sums.h"

namespace mmpelk::MMPELK_ISA {
namespace {

constexpr int kChain = 32;             // products that are summed in one register
constexpr int kTerms = 512;            // products that are summed in float

// `R` taps, `step` apart: the weights stay in registers, and each x is loaded once.
template <int B, int R, int step>
inline void sweep(const Vec* x, const Vec* weight, Vec* sum) {
    Vec w[R];
    for (int t = 0; t < R; t++) w[t] = weight[t];
#pragma GCC unroll 32
    for (int j = 0; j < B + (R - 1) * step; j++) {
        const Vec v = x[j];
#pragma GCC unroll 8
        for (int t = 0; t < R; t++) {
            const int i = j - t * step;
            if (i >= 0 && i < B) sum[i] += w[t] * v;
        }
    }
}

// Taps of some rows of cells on `B` outputs, which stay in registers.
template <int B>
void block(const Vec* const* rows, const Vec* const* weights, int row_count, const int* offsets, int first, int end, Vec* sums) {
    Vec sum[B];
    for (int i = 0; i < B; i++) sum[i] = sums[i];
    for (int a = 0; a < row_count; a++) {
        const Vec* row = rows[a];
        const Vec* weight = weights[a];
        for (int e = first; e < end;) {
            const Vec* x = row + offsets[e];
            const Vec* w = weight + e;
            const auto apart = [&](int taps, int distance) { return SWEEP && e + taps < end && offsets[e + taps] - offsets[e] == distance; };
            if (apart(7, 7)) {
                sweep<B, 8, 1>(x, w, sum), e += 8;
            } else if (apart(5, 5)) {
                sweep<B, 6, 1>(x, w, sum), e += 6;
            } else if (apart(1, 4)) {
                sweep<B, 2, 4>(x, w, sum), e += 2;
            } else {
                sweep<B, 1, 1>(x, w, sum), e += 1;
            }
        }
    }
    for (int i = 0; i < B; i++) sums[i] = sum[i];
}

typedef void (*Block)(const Vec* const*, const Vec* const*, int, const int*, int, int, Vec*);

template <int B>
struct Blocks : Blocks<B - 1> {
    Blocks() { this->table[B] = block<B>; }
};
template <>
struct Blocks<0> {
    Block table[BLOCK + 1];
};

// The products of one row of an output's gradient with `E` taps, added to `sums` after every kChain of them.
template <int E>
void products(const Vec* row, const Vec* grad, int length, const int* offsets, Vec* sums) {
    const Vec* x[E];
    for (int e = 0; e < E; e++) x[e] = row + offsets[e];
    for (int start = 0; start < length; start += kChain) {
        const int end = least(length, start + kChain);
        Vec sum[E] = {};
        for (int q = start; q < end; q++) {
            const Vec g = grad[q];
#pragma GCC unroll 16
            for (int e = 0; e < E; e++) sum[e] += g * x[e][q];
        }
        for (int e = 0; e < E; e++) sums[e] += sum[e];
    }
}

typedef void (*Products)(const Vec*, const Vec*, int, const int*, Vec*);

template <int E>
struct ProductsOf : ProductsOf<E - 1> {
    ProductsOf() { this->table[E] = products<E>; }
};
template <>
struct ProductsOf<0> {
    Products table[TAPS + 1];
};

inline int parts(int total, int largest) { return (total + largest - 1) / largest; }

// (rows, columns) of a task's channels, turned about if the plan asks for it.
inline void read_weight(const Plan& plan, const Task& task, const float* weight, Vec* to) {
    const int cells = plan.rows * plan.columns;
    gather(weight + (int64_t)task.channel * cells, cells, least(LANES, plan.channels - task.channel), cells, to);
    if (plan.flip)
        for (int i = 0, j = cells - 1; i < j; i++, j--) {
            const Vec swap = to[i];
            to[i] = to[j], to[j] = swap;
        }
}

int64_t forward(const Plan& plan, const Task& task, const View& x_view, const float* weight_data, const float* bias, const View& y_view, float* scratch) {
    static const Blocks<BLOCK> blocks;
    Arena arena{(Vec*)scratch};
    Channels x(plan, task, x_view, arena), y(plan, task, y_view, arena);
    const int columns = task.column_end - task.column;
    const int block_count = parts(columns, BLOCK), block_size = parts(columns, block_count);
    Sums sums(plan, task, block_size, arena);
    Ones ones(plan, task, arena);
    Vec* weight = arena.take(plan.rows * plan.columns);
    Vec* taps = arena.take(plan.rows * plan.taps);
    Vec* beyond = arena.take(plan.rows * (plan.taps + 1));  // sums of the taps from each on
    Vec* out = arena.take(columns);
    const Vec** rows = (const Vec**)arena.take(plan.rows);
    const Vec** row_taps = (const Vec**)arena.take(plan.rows);
    const Vec** at = (const Vec**)arena.take(plan.rows);
    int* row_index = (int*)arena.take(plan.rows);
    if (!scratch) return arena.floats();

    x.fetch(plan.height);
    read_weight(plan, task, weight_data, weight);
    for (int a = 0; a < plan.rows; a++) {
        const Vec* w = weight + a * plan.columns;
        Vec* tap = taps + a * plan.taps;
        Vec* after = beyond + a * (plan.taps + 1);
        for (int e = 0; e < plan.taps; e++)
            tap[e] = !plan.prefix ? w[e] : e == 0 ? -w[0] : e == plan.columns ? w[e - 1] : w[e - 1] - w[e];
        after[plan.taps] = Vec{};
        for (int e = plan.taps; e-- > 0;) after[e] = after[e + 1] + tap[e];
    }
    const Vec start = bias ? load_some(bias + task.channel, x.count) : Vec{};
    sums.start(x, task.row);
    if (plan.prefix) ones.prepare(weight);

    for (int p = task.row; p < task.row_end; p++) {
        sums.advance(x, p);
        if (plan.prefix) {
            ones.advance(p);
            for (int q = 0; q < columns; q++) out[q] = start + sums.centre * ones.sum[q];
        } else {
            for (int q = 0; q < columns; q++) out[q] = start;
        }
        int count = 0;
        for (int a = 0; a < plan.rows; a++) {
            if (!sums.inside(a, p)) continue;
            rows[count] = sums.row(a, p), row_taps[count] = taps + a * plan.taps, row_index[count++] = a;
        }
        for (int i = 0, q = 0; i < block_count; i++) {
            const int size = (columns - q) / (block_count - i);
            const int column = task.column + q - sums.first_column;  // from the first entry of the sums
            int first = 0, end = plan.taps;
            // Left of the map every prefix is 0; right of it, the whole row's sum.
            while (first < end && column + size - 1 + plan.tap_offsets[first] < (plan.prefix ? 1 : 0)) first++;
            while (end > first && column + plan.tap_offsets[end - 1] >= sums.length) end--;
            Vec common = {};
            for (int a = 0; a < count; a++) {
                at[a] = rows[a] + column;
                if (plan.prefix && end < plan.taps) common += beyond[row_index[a] * (plan.taps + 1) + end] * rows[a][sums.length];
            }
            if (end < plan.taps)
                for (int j = 0; j < size; j++) out[q + j] += common;
            blocks.table[size](at, row_taps, count, plan.tap_offsets, first, end, out + q);
            q += size;
        }
        y.write(p, task.column, columns, out);
    }
    y.flush(task.row, task.row_end);
    return 0;
}

// The gradient of the weight sums over many positions. In float over kChain of them, over about kTerms in sums of those, then in double.

inline void add_to(double* to, Vec value) {
    for (int i = 0; i < LANES; i++) to[i] += value[i];
}

int64_t weight_grad(const Plan& plan, const Task& task, const View& x_view, const View& grad_view, double* grad, float* scratch) {
    static const ProductsOf<TAPS> products;
    Arena arena{(Vec*)scratch};
    Channels x(plan, task, x_view, arena), grad_y(plan, task, grad_view, arena);
    Sums sums(plan, task, least(plan.width, plan.column_radius) + 1, arena);
    const int columns = task.column_end - task.column;
    Vec* line = arena.take(columns);
    Vec* prefix = arena.take(columns + 1);
    Vec* by_tap = arena.take(plan.rows * plan.taps);
    Vec* inside = arena.take(plan.columns);
    Vec* by_cell = arena.take(plan.rows * plan.columns);
    if (!scratch) return arena.floats();

    x.fetch(plan.height);
    grad_y.fetch(plan.height);
    sums.start(x, task.row);
    std::memset((void*)by_tap, 0, plan.rows * plan.taps * sizeof(Vec));
    std::memset((void*)by_cell, 0, plan.rows * plan.columns * sizeof(Vec));
    std::memset(grad, 0, plan.rows * plan.columns * LANES * sizeof(double));

    const int chunks = parts(plan.taps, TAPS);
    int terms = 0;
    for (int p = task.row; p < task.row_end; p++) {
        sums.advance(x, p);
        grad_y.read(p, task.column, columns, line);
        if (plan.prefix) {
            prefix[0] = Vec{};
            for (int q = 0; q < columns; q++) prefix[q + 1] = prefix[q] + line[q];
            for (int b = 0, offset = -plan.column_radius; b < plan.columns; b++) {
                inside[b] = Vec{};
                for (int j = 0; j < plan.column_cells[b]; j++, offset++) {
                    const int low = most(task.column, -offset), high = least(task.column_end, plan.width - offset);
                    if (low < high) inside[b] += prefix[high - task.column] - prefix[low - task.column];
                }
            }
        }
        for (int a = 0; a < plan.rows; a++) {
            if (!sums.inside(a, p)) continue;
            const Vec* row = sums.row(a, p) + task.column - sums.first_column;
            for (int i = 0, e = 0; i < chunks; i++) {
                const int many = (plan.taps - e) / (chunks - i);
                products.table[many](row, line, columns, plan.tap_offsets + e, by_tap + a * plan.taps + e);
                e += many;
            }
            if (plan.prefix) {
                const float count = (float)Ones::inside(plan.row_offsets[a], plan.row_cells[a], p, plan.height);
                for (int b = 0; b < plan.columns; b++) by_cell[a * plan.columns + b] += count * inside[b];
            }
        }
        terms += columns;
        if (terms < kTerms && p + 1 < task.row_end) continue;
        terms = 0;
        for (int a = 0; a < plan.rows; a++)
            for (int b = 0; b < plan.columns; b++) {
                double* to = grad + (a * plan.columns + b) * LANES;
                Vec* tap = by_tap + a * plan.taps + b;
                if (!plan.prefix) {
                    add_to(to, tap[0]);
                    continue;
                }
                Vec& cell = by_cell[a * plan.columns + b];
                for (int i = 0; i < LANES; i++) to[i] += (double)tap[1][i] - tap[0][i] + (double)sums.centre[i] * cell[i];
                cell = Vec{};
            }
        std::memset((void*)by_tap, 0, plan.rows * plan.taps * sizeof(Vec));
    }
    return 0;
}

}  // namespace
}  // namespace mmpelk::MMPELK_ISA

namespace mmpelk {
const Kernels* KERNELS() {
    static const Kernels kernels = {NAME, LANES, MMPELK_ISA::forward, MMPELK_ISA::weight_grad};
    return &kernels;
}
}  // namespace mmpelk
