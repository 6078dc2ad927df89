// The rows that the taps are multiplied by: sums of the map's rows for each row of cells, and the same for a map of ones.
#pragma once
#include "channels.h"

namespace mmpelk::MMPELK_NAMESPACE {
namespace {

// Running sums restart after this many steps, at the same rows and columns for all tasks. Their rounding errors stay small, and
// results do not depend on where tasks begin. Each restart costs as much as a few steps, and a task starts up to 31 rows early. A
// power of 2.
constexpr int kRestart = 32;

inline int restart_before(int position) { return position & ~(kRestart - 1); }

// For each row of cells, the sum of the map's rows that it covers. With prefix sums, these are sums of the rows' prefix sums. At
// both ends of a row, `padding` entries serve taps outside the map: zeros on the left, and the row's total on the right.
class RowSums {
  public:
    static int64_t bytes(const Plan& plan, const Task& task, int padding) {
        const int64_t length = row_length(plan, task, padding);
        return scratch_bytes<Vec>(kept_rows(plan) * length) + scratch_bytes<Vec>(plan.cell_rows * length) +
               scratch_bytes<Vec>(plan.width);
    }

    RowSums(const Plan& plan, const Task& task, int padding, Arena& arena)
        : plan_(plan),
          first_column_(first_input_column(plan, task)),
          length_(input_columns(plan, task)),
          padding_(padding),
          kept_rows_(kept_rows(plan)),
          row_length_(row_length(plan, task, padding)) {
        map_rows_ = arena.take<Vec>(kept_rows_ * row_length_);
        sums_of_cells_ = arena.take<Vec>(plan.cell_rows * row_length_);
        line_ = arena.take<Vec>(plan.width);
    }

    // The columns of the map that the task's taps reach.
    int first_column() const { return first_column_; }
    int length() const { return length_; }

    // Differences of prefix sums lose digits if the map has a large mean, so this is subtracted from the map first. Any value
    // would give the same result apart from rounding.
    Vec mean() const { return mean_; }

    // Whether a row of cells covers any row of the map for the output's row.
    bool inside(int cell_row, int output_row) const {
        const int first = output_row + plan_.row_offsets[cell_row];
        return first < plan_.height && first + plan_.cell_heights[cell_row] > 0;
    }

    // The sums of a row of cells. Entry 0 belongs to first_column(), or with prefix sums to its left border.
    const Vec* operator()(int cell_row, int output_row) const {
        return plan_.cell_heights[cell_row] == 1 ? map_row(output_row + plan_.row_offsets[cell_row]) : sums_of(cell_row);
    }

    // Prepare advance(input, first_row).
    void start(const ChannelReader& input, int first_row) {
        // Only the padding is cleared: the other entries are written before they are read.
        for (int64_t i = 0; i < kept_rows_ + plan_.cell_rows; i++) {
            Vec* row = i < kept_rows_ ? map_rows_ + i * row_length_ : sums_of_cells_ + (i - kept_rows_) * row_length_;
            std::memset((void*)row, 0, padding_ * sizeof(Vec));
            if (!plan_.use_prefix_sums) std::memset((void*)(row + padding_ + length_), 0, (padding_ + 1) * sizeof(Vec));
        }
        if (plan_.use_prefix_sums) mean_ = input.approximate_mean(plan_.height, line_);
        const int restart = restart_before(first_row);
        for (int row = std::max(0, restart - plan_.row_radius); row < restart + plan_.row_radius; row++) read(input, row);
        for (int row = restart; row < first_row; row++) advance(input, row);
    }

    // Move the sums from the output's previous row to this one. GCC 12 does not unroll the loops by itself. With unrolled loops, the
    // whole forward pass takes 0.92 to 0.97 of the time (AVX2, 2 cores of an AMD EPYC, 2026-11-29).
    void advance(const ChannelReader& input, int output_row) {
        read(input, output_row + plan_.row_radius);
        const int entries = plan_.use_prefix_sums ? length_ + 1 + padding_ : length_;
        for (int a = 0; a < plan_.cell_rows; a++) {
            if (plan_.cell_heights[a] == 1 || !inside(a, output_row)) continue;
            const int first = output_row + plan_.row_offsets[a], last = first + plan_.cell_heights[a] - 1;
            Vec* sums = sums_of(a);
            if (output_row % kRestart == 0 || last == 0) {
                const int begin = std::max(0, first), end = std::min(last + 1, plan_.height);
                std::memcpy(sums, map_row(begin), entries * sizeof(Vec));
                for (int row = begin + 1; row < end; row++) add(sums, map_row(row), entries);
            } else if (first > 0 && last < plan_.height) {
                const Vec* gained = map_row(last);
                const Vec* lost = map_row(first - 1);
#pragma GCC unroll 4
                for (int i = 0; i < entries; i++) sums[i] += gained[i] - lost[i];
            } else if (first > 0) {
                const Vec* lost = map_row(first - 1);
#pragma GCC unroll 4
                for (int i = 0; i < entries; i++) sums[i] -= lost[i];
            } else if (last < plan_.height) {
                add(sums, map_row(last), entries);
            }
        }
    }

  private:
    const Plan& plan_;
    const int first_column_, length_, padding_;
    const int64_t kept_rows_;  // the map's last rows, in a ring buffer
    const int64_t row_length_;
    Vec *map_rows_, *sums_of_cells_, *line_;
    Vec mean_ = {};

    // All rows that the kernel covers for two successive rows of the output.
    static int64_t kept_rows(const Plan& plan) { return std::min(plan.height, 2 * plan.row_radius + 2); }
    static int first_input_column(const Plan& plan, const Task& task) {
        return std::max(0, task.first_column - plan.column_radius);
    }
    static int input_columns(const Plan& plan, const Task& task) {
        return std::min(plan.width, task.column_end + plan.column_radius) - first_input_column(plan, task);
    }
    static int64_t row_length(const Plan& plan, const Task& task, int padding) {
        return input_columns(plan, task) + 1 + 2 * (int64_t)padding;
    }

    Vec* map_row(int row) const { return map_rows_ + row % kept_rows_ * row_length_ + padding_; }
    Vec* sums_of(int cell_row) const { return sums_of_cells_ + cell_row * row_length_ + padding_; }

    static void add(Vec* sums, const Vec* row, int entries) {
#pragma GCC unroll 4
        for (int i = 0; i < entries; i++) sums[i] += row[i];
    }

    void read(const ChannelReader& input, int row) {
        if (row >= plan_.height) return;
        Vec* to = map_row(row);
        if (!plan_.use_prefix_sums) return input.read(row, first_column_, length_, to);
        input.read(row, first_column_, length_, line_);
        Vec sum = {};
        to[0] = sum;
        for (int i = 0; i < length_; i++) to[i + 1] = sum += line_[i] - mean_;
        for (int i = 1; i <= padding_; i++) to[length_ + i] = sum;
    }
};

// The number of positions of [0, length) that a cell covers.
inline int covered(int first, int size, int length) { return std::max(0, std::min(length, first + size) - std::max(0, first)); }

// The convolution of a map of ones, row by row: for each position, the sum of the taps that lie inside the map. Times the mean,
// it makes up for the mean that RowSums subtracts.
class OnesConvolution {
  public:
    static int64_t bytes(const Plan& plan, const Task& task) {
        const int64_t columns = task.column_end - task.first_column;
        return scratch_bytes<Vec>(plan.cell_rows * columns) + scratch_bytes<Vec>(columns) + scratch_bytes<Vec>(plan.cell_rows);
    }

    OnesConvolution(const Plan& plan, const Task& task, Arena& arena)
        : plan_(plan), task_(task), columns_(task.column_end - task.first_column) {
        row_table_ = arena.take<Vec>((int64_t)plan.cell_rows * columns_);
        row_ = arena.take<Vec>(columns_);
        column_ = arena.take<Vec>(plan.cell_rows);
    }

    // (columns of the task)
    const Vec* row() const { return row_; }

    // For each row of cells, compute the sums along x. The weight is (cell_rows, cell_columns).
    void prepare(const Vec* weight) {
        for (int column = restart_before(task_.first_column); column < task_.column_end; column++) {
            if (column % kRestart == 0) {
                std::memset((void*)column_, 0, plan_.cell_rows * sizeof(Vec));
                for (int b = 0, first = column - plan_.column_radius; b < plan_.cell_columns; first += plan_.cell_widths[b++])
                    add_to_column(weight + b, (float)covered(first, plan_.cell_widths[b], plan_.width));
            } else {
                const int gained = cell_at(plan_.cell_column_at, plan_.column_radius, -column);
                const int lost = cell_at(plan_.cell_column_at, plan_.column_radius, plan_.width - column);
                if (gained >= 0) add_to_column(weight + gained, 1);
                if (lost >= 0) add_to_column(weight + lost, -1);
            }
            if (column < task_.first_column) continue;
            for (int a = 0; a < plan_.cell_rows; a++) table_row(a)[column - task_.first_column] = column_[a];
        }
    }

    // Move from the output's previous row to this one. The first row of the task may follow any row.
    void advance(int output_row) {
        if (output_row == task_.first_row)
            for (int row = restart_before(output_row); row < output_row; row++) step(row);
        step(output_row);
    }

  private:
    const Plan& plan_;
    const Task& task_;
    const int columns_;
    Vec *row_table_, *row_, *column_;

    Vec* table_row(int cell_row) const { return row_table_ + (int64_t)cell_row * columns_; }

    static int cell_at(const int* cells, int radius, int offset) {
        return offset < -radius || offset > radius ? -1 : cells[radius + offset];
    }

    // Add a column of cells, whose first weight is given, to the sums along x.
    void add_to_column(const Vec* weight, float times) {
        for (int a = 0; a < plan_.cell_rows; a++) column_[a] += times * weight[(int64_t)a * plan_.cell_columns];
    }

    void add(int cell_row, float times) {
        const Vec* from = table_row(cell_row);
        for (int i = 0; i < columns_; i++) row_[i] += times * from[i];
    }

    void step(int output_row) {
        if (output_row % kRestart == 0) {
            std::memset((void*)row_, 0, columns_ * sizeof(Vec));
            for (int a = 0; a < plan_.cell_rows; a++) {
                const int rows = covered(output_row + plan_.row_offsets[a], plan_.cell_heights[a], plan_.height);
                if (rows) add(a, (float)rows);
            }
            return;
        }
        const int gained = cell_at(plan_.cell_row_at, plan_.row_radius, -output_row);
        const int lost = cell_at(plan_.cell_row_at, plan_.row_radius, plan_.height - output_row);
        if (gained == lost) return;
        if (gained >= 0) add(gained, 1);
        if (lost >= 0) add(lost, -1);
    }
};

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
