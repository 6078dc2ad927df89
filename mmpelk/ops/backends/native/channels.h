// How a task reads and writes the channels of an image, and its scratch memory.
#pragma once
#include "plan.h"
#include "vec.h"

namespace mmpelk::MMPELK_ISA {
namespace {

constexpr int kCentreSamples = 2048;   // positions, about, that a channel's centre is the mean of

inline int least(int a, int b) { return a < b ? a : b; }
inline int most(int a, int b) { return a > b ? a : b; }

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

}  // namespace
}  // namespace mmpelk::MMPELK_ISA
