// Plain data that all instruction sets share. It has no functions: a function compiled for one instruction set must never be
// linked into the code of another.
#pragma once
#include <cstdint>

namespace mmpelk {

// An (N, C, H, W) tensor with any strides, in elements.
template <class Float>
struct TensorView {
    Float* data;
    int64_t image_stride, channel_stride, row_stride, column_stride;
};
using Input = TensorView<const float>;
using Output = TensorView<float>;

// The convolution, the same for every image and channel. A kernel consists of rows and columns of cells, with one weight for each
// cell. Offsets are positions in the map relative to the output's position.
struct Plan {
    int images, channels, height, width;
    int cell_rows, cell_columns;
    const int* cell_heights;        // (cell_rows)
    const int* row_offsets;         // (cell_rows): the first row of the map that each row of cells covers
    const int* cell_widths;         // (cell_columns)
    int row_radius, column_radius;  // the kernel covers the offsets from -radius to radius
    const int* cell_row_at;         // [row_radius + offset]: the row of cells that covers an offset
    const int* cell_column_at;      // [column_radius + offset]
    // Along x, taps are multiplied by prefix sums of a row at the borders of cells, or by the row itself if all cells are 1 wide.
    bool use_prefix_sums;
    int tap_count;
    const int* tap_offsets;
};

// What a thread computes at a time: a rectangle of the output, for some images and as many channels as a register has lanes.
struct Task {
    int first_image, image_end, first_channel, first_row, row_end, first_column, column_end;
};

struct Scratch {
    char* memory;  // aligned to 64 bytes
    int64_t bytes;
};

// The functions of an instruction set.
struct InstructionSet {
    const char* name;
    int lanes;
    // The scratch memory that the functions below take.
    int64_t (*forward_scratch_bytes)(const Plan&, const Task&);
    int64_t (*weight_grad_scratch_bytes)(const Plan&, const Task&);
    // Write the task's part of the output. The weight is (C, cell_rows, cell_columns). The bias is (C) or null.
    void (*forward)(const Plan&, const Task&, const Input&, const float* weight, const float* bias, const Output&,
                    const Scratch&);
    // Add the task's part of the weight's gradient to sums, (cell_rows, cell_columns, lanes), given the gradient of the output.
    void (*weight_grad)(const Plan&, const Task&, const Input& input, const Input& grad, double* sums, const Scratch&);
};

}  // namespace mmpelk
