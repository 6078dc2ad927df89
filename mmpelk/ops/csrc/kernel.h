// The structured evaluation of a depthwise convolution whose kernel is constant over cells, for one instruction set.
//
// Channels lie in the lanes of a register. Along y, each cell reads one row, the sum of the rows that it covers; from one output row to
// the next it gains a row and loses one. Along x, a row of cells w_0 .. w_n over borders e_0 .. e_n+1 is
// sum_b w_b (P[e_b+1] - P[e_b]) = sum_e (w_e-1 - w_e) P[e] with P the prefix sums of the row of sums: n + 2 taps whatever the widths.
//
// Prefix sums of maps with a large mean would cancel. So each channel's values are taken from a centre m (about their mean, any value is
// exact), and m times the convolution of a map of ones is added: that is, m times the sum of the taps that lie inside the map.
#pragma once
#include "plan.h"
#include "vec.h"

namespace mmpelk::MMPELK_ISA {
namespace {

constexpr int kChain = 32;             // products that are summed in one register
constexpr int kTerms = 512;            // products that are summed in float
constexpr int kRestart = 32;           // steps of a running sum before it is summed afresh
constexpr int kCentreSamples = 2048;   // positions, about, that a channel's centre is the mean of

inline int least(int a, int b) { return a < b ? a : b; }
inline int most(int a, int b) { return a > b ? a : b; }
inline int clamp(int value, int low, int high) { return most(low, least(value, high)); }

// Hands out parts of the scratch memory; without memory it only counts.
struct Arena {
    Vec* memory;
    int64_t used = 0;
    Vec* take(int64_t count) {
        Vec* part = memory ? memory + used : nullptr;
        used += count;
        return part;
    }
    int64_t floats() const { return used * LANES; }
};

// The channels of a task in one image of a tensor, by rows of vectors.
struct Channels {
    float* data;
    View strides;
    int count;    // channels, at most LANES
    Vec* plane;   // rows shorter than a register are transposed together
    int width;

    Channels(const Plan& plan, const Task& task, const View& view, Arena& arena)
        : data(view.data ? view.data + task.image * view.n + task.channel * view.c : nullptr), strides(view), plane(nullptr), width(plan.width) {
        count = least(LANES, plan.channels - task.channel);
        if (by_plane()) plane = arena.take((int64_t)plan.height * width);
    }
    bool by_plane() const { return strides.c != 1 && width < LANES && strides.h == width && strides.w == 1; }
    void fetch(int height) {
        if (plane) gather(data, strides.c, count, height * width, plane);
    }
    void read(int row, int column, int length, Vec* to) const {
        if (plane) {
            std::memcpy(to, plane + row * width + column, length * sizeof(Vec));
            return;
        }
        const float* from = data + row * strides.h + column * strides.w;
        if (strides.c != 1) return gather(from, strides.c, count, length, to);
        if (count == LANES)
            for (int i = 0; i < length; i++) to[i] = load(from + i * strides.w);
        else
            for (int i = 0; i < length; i++) to[i] = load_some(from + i * strides.w, count);
    }
    void write(int row, int column, int length, const Vec* from) const {
        if (plane) {
            std::memcpy(plane + row * width + column, from, length * sizeof(Vec));
            return;
        }
        float* to = data + row * strides.h + column * strides.w;
        if (strides.c != 1) return scatter(from, length, to, strides.c, count);
        if (count == LANES)
            for (int i = 0; i < length; i++) store(to + i * strides.w, from[i]);
        else
            for (int i = 0; i < length; i++) store_some(to + i * strides.w, from[i], count);
    }
    void flush(int row, int row_end) const {
        if (plane) scatter(plane + row * width, (row_end - row) * width, data + row * strides.h, strides.c, count);
    }
    // A value near the mean: that of evenly spaced rows, the same whatever the task. `line` holds a row.
    Vec centre(int height, Vec* line) const {
        const int step = most(1, (int)((int64_t)height * width / kCentreSamples));
        Vec sum = {};
        int rows = 0;
        for (int row = 0; row < height; row += step, rows++) {
            read(row, 0, width, line);
            Vec part = {};
            for (int i = 0; i < width; i++) part += line[i];
            sum += part;
        }
        return sum / ((float)rows * (float)width);
    }
};

// For each cell along y the sum of the rows that it covers, with `pad` entries at either end for taps beyond the map.
struct Sums {
    const Plan& plan;
    int first_column, length, pad;  // input columns that the task's taps reach
    int depth;                      // rows of the map that are kept
    int64_t row_length;
    Vec* map;
    Vec* cells;
    Vec* line;
    Vec centre = {};

    Sums(const Plan& plan, const Task& task, int pad, Arena& arena) : plan(plan), pad(pad) {
        first_column = most(0, task.column - plan.column_radius);
        length = least(plan.width, task.column_end + plan.column_radius) - first_column;
        depth = least(plan.height, 2 * plan.row_radius + 2);
        row_length = length + 1 + 2 * pad;
        map = arena.take(depth * row_length);
        cells = arena.take(plan.rows * row_length);
        line = arena.take(plan.width);
    }

    // Entry 0 is the map's left border.
    Vec* map_row(int t) const { return map + t % depth * row_length + pad; }
    bool inside(int a, int p) const {
        const int t = p + plan.row_offsets[a];
        return t < plan.height && t + plan.row_cells[a] > 0;
    }
    const Vec* row(int a, int p) const { return plan.row_cells[a] == 1 ? map_row(p + plan.row_offsets[a]) : cell_row(a); }
    Vec* cell_row(int a) const { return cells + a * row_length + pad; }

    void start(const Channels& x, int first_row) {
        // What is left of the map stays zero; so does what is right of it where there is no prefix sum.
        for (int i = 0; i < depth + plan.rows; i++) {
            Vec* row = i < depth ? map + i * row_length : cells + (i - depth) * row_length;
            std::memset((void*)row, 0, pad * sizeof(Vec));
            if (!plan.prefix) std::memset((void*)(row + pad + length), 0, (pad + 1) * sizeof(Vec));
        }
        if (plan.prefix) centre = x.centre(plan.height, line);
        // Running sums depend on where they started: at the same rows for all tasks.
        const int begin = first_row & ~(kRestart - 1);
        for (int t = most(0, begin - plan.row_radius); t < begin + plan.row_radius; t++) read(x, t);
        for (int p = begin; p < first_row; p++) advance(x, p);
    }
    // From output row p - 1 to p.
    void advance(const Channels& x, int p) {
        read(x, p + plan.row_radius);
        for (int a = 0; a < plan.rows; a++) {
            const int height = plan.row_cells[a], t = p + plan.row_offsets[a], last = t + height - 1;
            if (height == 1 || !inside(a, p)) continue;
            Vec* to = cell_row(a);
            const int end = plan.prefix ? length + 1 + pad : length;
            if (p % kRestart == 0 || last == 0) {
                const int from = most(0, t), rows = least(last + 1, plan.height) - from;
                std::memcpy(to, map_row(from), end * sizeof(Vec));
                for (int i = 1; i < rows; i++) add(to, map_row(from + i), end);
            } else if (t > 0 && last < plan.height) {
                const Vec* gained = map_row(last);
                const Vec* lost = map_row(t - 1);
                for (int j = 0; j < end; j++) to[j] += gained[j] - lost[j];
            } else if (t > 0) {
                const Vec* lost = map_row(t - 1);
                for (int j = 0; j < end; j++) to[j] -= lost[j];
            } else if (last < plan.height) {
                add(to, map_row(last), end);
            }
        }
    }
    static void add(Vec* to, const Vec* row, int end) {
        for (int j = 0; j < end; j++) to[j] += row[j];
    }
    void read(const Channels& x, int t) {
        if (t >= plan.height) return;
        Vec* to = map_row(t);
        if (!plan.prefix) return x.read(t, first_column, length, to);
        x.read(t, first_column, length, line);
        Vec sum = {};
        to[0] = sum;
        for (int j = 0; j < length; j++) to[j + 1] = sum += line[j] - centre;
        for (int j = 1; j <= pad; j++) to[length + j] = sum;
    }
};

// The convolution of a map of ones, row by row.
struct Ones {
    const Plan& plan;
    const Task& task;
    int columns;
    Vec* table;  // (rows of cells, columns): sums over the taps of a row of cells that lie inside the map
    Vec* sum;    // (columns): over all taps inside

    Ones(const Plan& plan, const Task& task, Arena& arena) : plan(plan), task(task), columns(task.column_end - task.column) {
        table = arena.take((int64_t)plan.rows * columns);
        sum = arena.take(columns);
    }
    static int cell_at(const int* cells, int radius, int offset) { return offset < -radius || offset > radius ? -1 : cells[radius + offset]; }
    static int inside(int offset, int size, int position, int length) {
        return most(0, least(length, position + offset + size) - most(0, position + offset));
    }

    void prepare(const Vec* weight) {
        for (int a = 0; a < plan.rows; a++) {
            const Vec* w = weight + a * plan.columns;
            Vec running = {};
            for (int q = task.column & ~(kRestart - 1); q < task.column_end; q++) {
                if (q % kRestart == 0) {
                    running = Vec{};
                    for (int b = 0, offset = -plan.column_radius; b < plan.columns; offset += plan.column_cells[b++])
                        running += w[b] * (float)inside(offset, plan.column_cells[b], q, plan.width);
                } else {
                    const int gained = cell_at(plan.column_cell_at, plan.column_radius, -q);
                    const int lost = cell_at(plan.column_cell_at, plan.column_radius, plan.width - q);
                    if (gained >= 0) running += w[gained];
                    if (lost >= 0) running -= w[lost];
                }
                if (q >= task.column) table[a * columns + q - task.column] = running;
            }
        }
    }
    void add(int a, float times) {
        if (a < 0) return;
        const Vec* from = table + a * columns;
        for (int q = 0; q < columns; q++) sum[q] += times * from[q];
    }
    void advance(int p) {
        if (p == task.row) {
            for (int start = p & ~(kRestart - 1); start < p; start++) step(start);
        }
        step(p);
    }
    void step(int p) {
        if (p % kRestart == 0) {
            std::memset((void*)sum, 0, columns * sizeof(Vec));
            for (int a = 0; a < plan.rows; a++) {
                const int count = inside(plan.row_offsets[a], plan.row_cells[a], p, plan.height);
                if (count) add(a, (float)count);
            }
            return;
        }
        const int gained = cell_at(plan.row_cell_at, plan.row_radius, -p);
        const int lost = cell_at(plan.row_cell_at, plan.row_radius, plan.height - p);
        if (gained == lost) return;
        add(gained, 1);
        add(lost, -1);
    }
};

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
