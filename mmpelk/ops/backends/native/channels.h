// How a task reads and writes its channels of an image, as rows of vectors with one vector for each position.
#pragma once
#include "arena.h"
#include "vec.h"

namespace mmpelk::MMPELK_NAMESPACE {
namespace {

// A channel's mean is estimated from at most as many rows. The rows of a map differ from its mean by more than the estimate does.
constexpr int kMeanRows = 8;

inline int channel_count(const Plan& plan, const Task& task) { return std::min(kLanes, plan.channels - task.first_channel); }

// Rows that are shorter than a register are transposed together with the whole map, which is then kept as a plane.
template <class Float>
bool uses_plane(const Plan& plan, const TensorView<Float>& view) {
    return plan.width < kLanes && view.channel_stride != 1 && view.row_stride == plan.width && view.column_stride == 1;
}

inline int64_t plane_size(const Plan& plan) { return plan.width < kLanes ? (int64_t)plan.height * plan.width : 0; }

// The address of a task's first channel in an image.
template <class Float>
Float* channel_data(const TensorView<Float>& view, int image, const Task& task) {
    return view.data + image * view.image_stride + task.first_channel * view.channel_stride;
}

class ChannelReader {
  public:
    // `plane` is memory for plane_size(plan) vectors.
    ChannelReader(const Plan& plan, const Task& task, int image, const Input& input, Vec* plane)
        : data_(channel_data(input, image, task)),
          view_(input),
          count_(channel_count(plan, task)),
          width_(plan.width),
          plane_(uses_plane(plan, input) ? plane : nullptr) {
        if (plane_) gather(data_, view_.channel_stride, 1, count_, plane_size(plan), plane_);
    }

    void read(int row, int column, int length, Vec* to) const {
        if (plane_) {
            std::memcpy(to, plane_ + row * width_ + column, length * sizeof(Vec));
            return;
        }
        const float* from = data_ + row * view_.row_stride + column * view_.column_stride;
        if (view_.channel_stride != 1) return gather(from, view_.channel_stride, view_.column_stride, count_, length, to);
        if (count_ == kLanes)
            for (int i = 0; i < length; i++) to[i] = load(from + i * view_.column_stride);
        else
            for (int i = 0; i < length; i++) to[i] = load_first(from + i * view_.column_stride, count_);
    }

    // The mean of evenly spaced rows, the same for all tasks. `line` is memory for a row.
    Vec approximate_mean(int height, Vec* line) const {
        const int step = (height + kMeanRows - 1) / kMeanRows;
        Vec sum = {};
        int rows = 0;
        for (int row = 0; row < height; row += step, rows++) {
            read(row, 0, width_, line);
            Vec row_sum = {};
            for (int i = 0; i < width_; i++) row_sum += line[i];
            sum += row_sum;
        }
        return sum / ((float)rows * (float)width_);
    }

  private:
    const float* data_;
    Input view_;
    int count_, width_;
    Vec* plane_;
};

class ChannelWriter {
  public:
    // `plane` is memory for plane_size(plan) vectors.
    ChannelWriter(const Plan& plan, const Task& task, int image, const Output& output, Vec* plane)
        : data_(channel_data(output, image, task)),
          view_(output),
          count_(channel_count(plan, task)),
          width_(plan.width),
          plane_(uses_plane(plan, output) ? plane : nullptr) {}

    void write(int row, int column, int length, const Vec* from) const {
        if (plane_) {
            std::memcpy(plane_ + row * width_ + column, from, length * sizeof(Vec));
            return;
        }
        float* to = data_ + row * view_.row_stride + column * view_.column_stride;
        if (view_.channel_stride != 1) return scatter(from, length, to, view_.channel_stride, view_.column_stride, count_);
        if (count_ == kLanes)
            for (int i = 0; i < length; i++) store(to + i * view_.column_stride, from[i]);
        else
            for (int i = 0; i < length; i++) store_first(to + i * view_.column_stride, from[i], count_);
    }

    // Must be called once after the rows have been written.
    void finish(int first_row, int row_end) const {
        if (!plane_) return;
        const int64_t count = (int64_t)(row_end - first_row) * width_;
        scatter(plane_ + first_row * width_, count, data_ + first_row * view_.row_stride, view_.channel_stride, 1, count_);
    }

  private:
    float* data_;
    Output view_;
    int count_, width_;
    Vec* plane_;
};

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
