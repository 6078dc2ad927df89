// The forward pass for one instruction set.
//
// The lanes of a register are channels. Along y, each row of cells reads one row: the sum of the map's rows that it covers. Along
// x, a row of cells with weights w_0 .. w_n and borders e_0 .. e_n+1 is, by summation by parts,
//     sum_b w_b (P[e_b+1] - P[e_b]) = sum_i (w_i-1 - w_i) P[e_i]
// with P the prefix sums of that row: n + 2 taps, regardless of the widths of the cells.
#pragma once
#include "row_sums.h"

namespace mmpelk::MMPELK_NAMESPACE {
namespace {

// The outputs of a row are computed in tiles of at most this width, whose sums stay in registers.
constexpr int kTileWidth = MMPELK_TILE_WIDTH;

// Rows of cells are added to all tiles in groups of about this size.
constexpr int64_t kGroupBytes = MMPELK_GROUP_BYTES;

// A row of cells on the current row of the output.
struct TapRow {
    const Vec* sums;  // what the taps are multiplied by, see RowSums
    const Vec* tap_weights;
    const Vec* tails;  // [i]: the sum of the weights of the taps from i on
};

// Add `Taps` taps that lie `Distance` apart to a tile. The weights stay in registers, and each vector of the row is loaded once.
template <int Width, int Taps, int Distance>
inline void add_taps(const Vec* row, const Vec* tap_weights, Vec* tile) {
    Vec w[Taps];
    for (int t = 0; t < Taps; t++) w[t] = tap_weights[t];
#pragma GCC unroll 32
    for (int i = 0; i < Width + (Taps - 1) * Distance; i++) {
        const Vec v = row[i];
#pragma GCC unroll 8
        for (int t = 0; t < Taps; t++) {
            const int output = i - t * Distance;
            if (output >= 0 && output < Width) tile[output] += w[t] * v;
        }
    }
}

// Add the taps [first_tap, tap_end) of some rows of cells to the outputs of a tile, whose first column is `column`.
template <int Width>
void add_to_tile(const TapRow* rows, int row_count, int column, const int* offsets, int first_tap, int tap_end, Vec* outputs) {
    // Without the pragmas, GCC 12 copies these arrays in memory with `rep movs`, which costs about 4% of the time with AVX2
    // (2 cores of an AMD EPYC, 2026-11-24).
    Vec tile[Width];
#pragma GCC unroll 32
    for (int i = 0; i < Width; i++) tile[i] = outputs[i];
    for (int r = 0; r < row_count; r++) {
        for (int t = first_tap; t < tap_end;) {
            const Vec* row = rows[r].sums + column + offsets[t];
            const Vec* tap_weights = rows[r].tap_weights + t;
            // Whether the tap that lies `steps` further on exists and has this distance.
            const auto next = [&](int steps, int distance) {
                return t + steps < tap_end && offsets[t + steps] - offsets[t] == distance;
            };
            // Around the center, the cells of PeLK's grids are 1 wide: 8 adjacent taps are those of a center of 7 cells or a part
            // of a full kernel, and 6 those of a center of 5 cells. Cells that are 4 wide make a pair of taps 4 apart; wider
            // cells do not overlap enough within a tile.
            if (MMPELK_SHARE_LOADS && next(7, 7)) {
                add_taps<Width, 8, 1>(row, tap_weights, tile), t += 8;
            } else if (MMPELK_SHARE_LOADS && next(5, 5)) {
                add_taps<Width, 6, 1>(row, tap_weights, tile), t += 6;
            } else if (MMPELK_SHARE_LOADS && next(1, 4)) {
                add_taps<Width, 2, 4>(row, tap_weights, tile), t += 2;
            } else {
                add_taps<Width, 1, 1>(row, tap_weights, tile), t += 1;
            }
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < Width; i++) outputs[i] = tile[i];
}

typedef void (*AddToTile)(const TapRow*, int, int, const int*, int, int, Vec*);

// [width - 1]
template <int... Index>
const AddToTile* tile_functions(std::integer_sequence<int, Index...>) {
    static const AddToTile functions[] = {add_to_tile<Index + 1>...};
    return functions;
}

inline int divide_up(int total, int part) { return (total + part - 1) / part; }

// A part of an output row, and the taps that differ within it.
struct Tile {
    int first_column, width;  // relative to the task's first column
    // Taps before these read zeros. Taps after them read the total of the row, or zeros without prefix sums.
    int first_tap, tap_end;
};

inline int tile_count(const Task& task) { return divide_up(task.column_end - task.first_column, kTileWidth); }

// `column` is the task's first column, relative to the first entry of the sums.
inline void make_tiles(const Plan& plan, const Task& task, int column, int entries, Tile* tiles) {
    const int columns = task.column_end - task.first_column, count = tile_count(task);
    for (int i = 0, first = 0; i < count; i++) {
        Tile& tile = tiles[i];
        tile.first_column = first;
        tile.width = (columns - first) / (count - i);
        tile.first_tap = 0, tile.tap_end = plan.tap_count;
        const int left = column + first, right = left + tile.width - 1;
        while (tile.first_tap < tile.tap_end && right + plan.tap_offsets[tile.first_tap] < (plan.use_prefix_sums ? 1 : 0))
            tile.first_tap++;
        while (tile.tap_end > tile.first_tap && left + plan.tap_offsets[tile.tap_end - 1] >= entries) tile.tap_end--;
        first += tile.width;
    }
}

// The weights of the task's channels.
struct TaskWeight {
    Vec* cells;        // (cell_rows, cell_columns)
    Vec* tap_weights;  // (cell_rows, tap_count)
    Vec* tails;        // (cell_rows, tap_count + 1): [.., i] is the sum of the weights of the taps from i on

    static int64_t bytes(const Plan& plan) {
        const int64_t cell_rows = plan.cell_rows;
        return scratch_bytes<Vec>(cell_rows * plan.cell_columns) + scratch_bytes<Vec>(cell_rows * plan.tap_count) +
               scratch_bytes<Vec>(cell_rows * (plan.tap_count + 1));
    }

    TaskWeight(const Plan& plan, const Task& task, const float* weight, Arena& arena) {
        const int cell_rows = plan.cell_rows, cell_columns = plan.cell_columns;
        cells = arena.take<Vec>((int64_t)cell_rows * cell_columns);
        tap_weights = arena.take<Vec>((int64_t)cell_rows * plan.tap_count);
        tails = arena.take<Vec>((int64_t)cell_rows * (plan.tap_count + 1));
        const int64_t count = (int64_t)cell_rows * cell_columns;
        gather(weight + task.first_channel * count, count, 1, channel_count(plan, task), count, cells);
        for (int a = 0; a < cell_rows; a++) {
            const Vec* w = cells + (int64_t)a * cell_columns;
            Vec* row_weights = tap_weights + (int64_t)a * plan.tap_count;
            Vec* row_tails = tails + (int64_t)a * (plan.tap_count + 1);
            if (plan.use_prefix_sums) {
                row_weights[0] = -w[0];
                for (int b = 1; b < cell_columns; b++) row_weights[b] = w[b - 1] - w[b];
                row_weights[cell_columns] = w[cell_columns - 1];
            } else {
                std::memcpy(row_weights, w, cell_columns * sizeof(Vec));
            }
            row_tails[plan.tap_count] = Vec{};
            for (int t = plan.tap_count; t-- > 0;) row_tails[t] = row_tails[t + 1] + row_weights[t];
        }
    }
};

inline int tile_padding(const Task& task) { return divide_up(task.column_end - task.first_column, tile_count(task)); }

int64_t forward_scratch_bytes(const Plan& plan, const Task& task) {
    return 2 * scratch_bytes<Vec>(plane_size(plan)) + RowSums::bytes(plan, task, tile_padding(task)) +
           OnesConvolution::bytes(plan, task) + TaskWeight::bytes(plan) + scratch_bytes<Tile>(tile_count(task)) +
           scratch_bytes<TapRow>(plan.cell_rows) + scratch_bytes<Vec>(task.column_end - task.first_column);
}

void forward(const Plan& plan, const Task& task, const Input& input, const float* weight_data, const float* bias_data,
             const Output& output, const Scratch& scratch) {
    const AddToTile* add_taps_to = tile_functions(std::make_integer_sequence<int, kTileWidth>());
    const int columns = task.column_end - task.first_column;
    Arena arena(scratch);
    Vec* input_plane = arena.take<Vec>(plane_size(plan));
    Vec* output_plane = arena.take<Vec>(plane_size(plan));
    RowSums sums(plan, task, tile_padding(task), arena);
    OnesConvolution ones(plan, task, arena);
    const TaskWeight weight(plan, task, weight_data, arena);
    Tile* tiles = arena.take<Tile>(tile_count(task));
    TapRow* tap_rows = arena.take<TapRow>(plan.cell_rows);
    Vec* out = arena.take<Vec>(columns);

    make_tiles(plan, task, task.first_column - sums.first_column(), sums.length(), tiles);
    if (plan.use_prefix_sums) ones.prepare(weight.cells);
    const int64_t row_bytes = (sums.length() + tile_padding(task)) * (int64_t)sizeof(Vec);
    const int group_rows = (int)std::max<int64_t>(1, kGroupBytes / row_bytes);
    const Vec bias = bias_data ? load_first(bias_data + task.first_channel, channel_count(plan, task)) : Vec{};

    for (int image = task.first_image; image < task.image_end; image++) {
        const ChannelReader reader(plan, task, image, input, input_plane);
        const ChannelWriter writer(plan, task, image, output, output_plane);
        sums.start(reader, task.first_row);
        for (int row = task.first_row; row < task.row_end; row++) {
            sums.advance(reader, row);
            if (plan.use_prefix_sums) {
                ones.advance(row);
                for (int i = 0; i < columns; i++) out[i] = bias + sums.mean() * ones.row()[i];
            } else {
                std::fill(out, out + columns, bias);
            }
            int tap_row_count = 0;
            for (int a = 0; a < plan.cell_rows; a++)
                if (sums.inside(a, row))
                    tap_rows[tap_row_count++] = {sums(a, row), weight.tap_weights + (int64_t)a * plan.tap_count,
                                                 weight.tails + (int64_t)a * (plan.tap_count + 1)};
            for (int i = 0; i < tile_count(task); i++) {
                const Tile& tile = tiles[i];
                if (!plan.use_prefix_sums || tile.tap_end == plan.tap_count) continue;
                Vec sum = {};
                for (int r = 0; r < tap_row_count; r++) sum += tap_rows[r].tails[tile.tap_end] * tap_rows[r].sums[sums.length()];
                for (int j = 0; j < tile.width; j++) out[tile.first_column + j] += sum;
            }
            for (int first = 0; first < tap_row_count; first += group_rows)
                for (int i = 0; i < tile_count(task); i++) {
                    const Tile& tile = tiles[i];
                    const int column = task.first_column - sums.first_column() + tile.first_column;
                    add_taps_to[tile.width - 1](tap_rows + first, std::min(group_rows, tap_row_count - first), column,
                                                plan.tap_offsets, tile.first_tap, tile.tap_end, out + tile.first_column);
                }
            writer.write(row, task.first_column, columns, out);
        }
        writer.finish(task.first_row, task.row_end);
    }
}

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
