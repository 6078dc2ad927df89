// What the instruction sets share: plain data, so that nothing compiled for one set can be linked into another.
#pragma once
#include <cstdint>

namespace mmpelk {

// A (N, C, H, W) tensor; strides in elements.
struct View {
    float* data;
    int64_t n, c, h, w;
};

// The convolution, the same for every image and channel.
struct Plan {
    int images, channels, height, width;
    int rows, columns;       // cells of the kernel
    const int* row_cells;    // sizes
    const int* row_offsets;  // of each cell's first row from the centre
    const int* column_cells;
    int row_radius, column_radius;
    const int* row_cell_at;     // [radius + offset]: the cell that an offset from the centre lies in
    const int* column_cell_at;
    // Along a row: taps on the row's prefix sums at the cells' borders, or on the row itself if all cells are 1 wide.
    bool prefix;
    int taps;
    const int* tap_offsets;
    bool flip;
};

// What one thread computes at a time: output rows [row, row_end) and columns [column, column_end) of some channels of an image.
struct Task {
    int image, channel, row, row_end, column, column_end;
};

// The functions that each instruction set has.
struct Kernels {
    const char* name;
    int lanes;
    // Writes y. weight is (C, rows, columns), bias (C) or null. Without scratch, returns the floats of scratch needed.
    int64_t (*forward)(const Plan&, const Task&, const View& x, const float* weight, const float* bias, const View& y, float* scratch);
    // Writes the task's share of the weight's gradient to grad, (rows, columns, lanes).
    int64_t (*weight_grad)(const Plan&, const Task&, const View& x, const View& grad_y, double* grad, float* scratch);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace mmpelk
