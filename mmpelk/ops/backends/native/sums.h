// The sums that taps read: of the map's rows, for each cell along y, and of the weight, for a map of ones.
#pragma once
#include "channels.h"

namespace mmpelk::MMPELK_ISA {
namespace {

constexpr int kRestart = 32;           // steps of a running sum before it is summed afresh

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

}  // namespace
}  // namespace mmpelk::MMPELK_ISA
