// Runs the native library's functions on small cases and compares them with loops over all taps in double. It needs no Python, so
// that sanitizers see nothing else (see sanitize.py). Prints the number of cases.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "planner.h"

extern "C" {
int mmpelk_version();
const char* mmpelk_instruction_set(int index);
int mmpelk_forward(const char*, int, const int64_t*, const float*, const int64_t*, const float*, const float*, float*,
                   const int64_t*, const int64_t*, int64_t, const int64_t*, int64_t);
int mmpelk_weight_grad(const char*, int, const int64_t*, const float*, const int64_t*, const float*, const int64_t*, float*,
                       const int64_t*, int64_t, const int64_t*, int64_t);
}

namespace {

typedef std::vector<int64_t> Cells;

int cases = 0;

void expect(bool condition, const std::string& what) {
    cases++;
    if (condition) return;
    std::fprintf(stderr, "failed: %s\n", what.c_str());
    std::exit(1);
}

enum Layout { kContiguous, kChannelsLast, kChannelSlice, kTransposed, kEverySecondColumn, kLayouts };
const char* const kLayoutNames[] = {"contiguous", "channels_last", "channel slice", "transposed", "every second column"};

// An (N, C, H, W) tensor. Its memory ends with its last value, so that AddressSanitizer reports reads beyond it. A slice of
// channels has other channels around it, which must not change.
struct Tensor {
    int64_t shape[4], strides[4];
    std::vector<float> memory;
    int64_t start = 0;

    Tensor(const int64_t* sizes, Layout layout) {
        std::copy(sizes, sizes + 4, shape);
        const int64_t n = shape[0], c = shape[1], h = shape[2], w = shape[3];
        const auto set = [&](int64_t a, int64_t b, int64_t y, int64_t x) {
            strides[0] = a, strides[1] = b, strides[2] = y, strides[3] = x;
        };
        if (layout == kContiguous) set(c * h * w, h * w, w, 1);
        if (layout == kChannelsLast) set(c * h * w, 1, w * c, c);
        if (layout == kChannelSlice) set((c + 5) * h * w, 1, w * (c + 5), c + 5), start = 3;
        if (layout == kTransposed) set(c * h * w, h * w, 1, h);
        if (layout == kEverySecondColumn) set(c * h * w * 2, h * w * 2, w * 2, 2);
        memory.assign(std::max<int64_t>(1, n) * strides[0], kUntouched);
        if (layout == kChannelsLast || layout == kContiguous) memory.shrink_to_fit();
    }
    float* data() { return memory.data() + start; }
    int64_t index(int64_t n, int64_t c, int64_t y, int64_t x) const {
        return start + n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
    }
    float at(int64_t n, int64_t c, int64_t y, int64_t x) const { return memory[index(n, c, y, x)]; }
    template <class Body>
    void each(Body body) {
        for (int64_t n = 0; n < shape[0]; n++)
            for (int64_t c = 0; c < shape[1]; c++)
                for (int64_t y = 0; y < shape[2]; y++)
                    for (int64_t x = 0; x < shape[3]; x++) body(n, c, y, x);
    }
    void fill(std::mt19937& random, float mean) {
        std::normal_distribution<float> normal(mean, 1);
        each([&](int64_t n, int64_t c, int64_t y, int64_t x) { memory[index(n, c, y, x)] = normal(random); });
    }
    // Whether the memory between the tensor's values is as it was.
    bool surroundings_untouched() {
        std::vector<float> copy = memory;
        each([&](int64_t n, int64_t c, int64_t y, int64_t x) { copy[index(n, c, y, x)] = kUntouched; });
        return std::all_of(copy.begin(), copy.end(), [](float value) { return value == kUntouched; });
    }

    static constexpr float kUntouched = 12345;
};

struct Case {
    int64_t shape[4];
    Cells heights, widths;
    float mean;
    std::string name() const {
        std::string text = "shape";
        for (int64_t size : shape) text += " " + std::to_string(size);
        text += ", " + std::to_string(heights.size()) + " x " + std::to_string(widths.size()) + " cells, mean " +
                std::to_string(mean);
        return text;
    }
};

std::vector<int> cell_of_taps(const Cells& cells) {
    std::vector<int> result;
    for (size_t i = 0; i < cells.size(); i++) result.insert(result.end(), cells[i], (int)i);
    return result;
}

// Call body(n, c, y, x, cell, input value) for each position and tap inside the map.
template <class Body>
void each_tap(const Case& test, Tensor& input, Body body) {
    const std::vector<int> rows = cell_of_taps(test.heights), columns = cell_of_taps(test.widths);
    const int64_t height = test.shape[2], width = test.shape[3], dy = rows.size() / 2, dx = columns.size() / 2;
    input.each([&](int64_t n, int64_t c, int64_t y, int64_t x) {
        for (int64_t i = std::max<int64_t>(0, dy - y); i < (int64_t)rows.size() && y + i - dy < height; i++)
            for (int64_t j = std::max<int64_t>(0, dx - x); j < (int64_t)columns.size() && x + j - dx < width; j++)
                body(n, c, y, x, rows[i] * test.widths.size() + columns[j], input.at(n, c, y + i - dy, x + j - dx));
    });
}

double largest_error = 0;

// Whether values agree relative to the largest value, or to the largest root of the sums of squared terms, as terms may cancel.
bool near(const std::vector<double>& actual, const std::vector<double>& expected, const std::vector<double>& squares) {
    double scale = 0, error = 0;
    for (size_t i = 0; i < actual.size(); i++) {
        scale = std::max({scale, std::abs(expected[i]), std::sqrt(squares[i])});
        const double difference = std::abs(actual[i] - expected[i]);
        if (!std::isfinite(difference)) return false;
        error = std::max(error, difference);
    }
    largest_error = std::max(largest_error, error / scale);
    return error <= 5e-6 * scale;
}

struct Problem {
    Case test;
    Tensor input, grad;
    std::vector<float> weight, bias;
    Layout output_layout;

    Problem(const Case& test, Layout input_layout, Layout output_layout, unsigned seed)
        : test(test), input(test.shape, input_layout), grad(test.shape, output_layout), output_layout(output_layout) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        input.fill(random, test.mean), grad.fill(random, 0);
        weight.resize(test.shape[1] * cells()), bias.resize(test.shape[1]);
        for (float& w : weight) w = normal(random);
        for (float& b : bias) b = normal(random);
    }
    int64_t cells() const { return test.heights.size() * test.widths.size(); }
    Tensor forward(const char* set, int threads, bool with_bias = true) {
        Tensor output(test.shape, output_layout);
        const int status = mmpelk_forward(set, threads, test.shape, input.data(), input.strides, weight.data(),
                                          with_bias ? bias.data() : nullptr, output.data(), output.strides, test.heights.data(),
                                          test.heights.size(), test.widths.data(), test.widths.size());
        expect(status == 0, "status of forward");
        expect(output.surroundings_untouched(), "memory around the output");
        return output;
    }
    std::vector<float> weight_grad(const char* set, int threads) {
        std::vector<float> result(weight.size());
        const int status =
            mmpelk_weight_grad(set, threads, test.shape, input.data(), input.strides, grad.data(), grad.strides, result.data(),
                               test.heights.data(), test.heights.size(), test.widths.data(), test.widths.size());
        expect(status == 0, "status of the weight's gradient");
        return result;
    }
};

void compare_with_loops(const char* set, const Case& test, Layout input_layout, Layout output_layout) {
    Problem problem(test, input_layout, output_layout, 1);
    const std::string name =
        std::string(set) + ", " + test.name() + ", " + kLayoutNames[input_layout] + " to " + kLayoutNames[output_layout];
    const int64_t cells = problem.cells();

    std::vector<double> grad(problem.weight.size()), grad_squares(grad.size());
    Tensor& input = problem.input;
    std::vector<double> expected, squares;
    input.each([&](int64_t, int64_t c, int64_t, int64_t) {
        expected.push_back(problem.bias[c]), squares.push_back(problem.bias[c] * problem.bias[c]);
    });
    const int64_t c_count = test.shape[1], h = test.shape[2], w = test.shape[3];
    each_tap(test, input, [&](int64_t n, int64_t c, int64_t y, int64_t x, int64_t cell, double value) {
        const int64_t position = ((n * c_count + c) * h + y) * w + x;
        const double product = value * problem.weight[c * cells + cell], up = problem.grad.at(n, c, y, x) * value;
        expected[position] += product, squares[position] += product * product;
        grad[c * cells + cell] += up, grad_squares[c * cells + cell] += up * up;
    });

    const std::vector<float> first_grad = problem.weight_grad(set, 1);
    expect(near(std::vector<double>(first_grad.begin(), first_grad.end()), grad, grad_squares), "weight's gradient of " + name);
    const Tensor first_output = problem.forward(set, 1);
    std::vector<double> actual;
    input.each([&](int64_t n, int64_t c, int64_t y, int64_t x) { actual.push_back(first_output.at(n, c, y, x)); });
    expect(near(actual, expected, squares), "output of " + name);
    for (int threads : {2, 5}) {
        expect(problem.forward(set, threads).memory == first_output.memory, "bits of the output with more threads, " + name);
        expect(problem.weight_grad(set, threads) == first_grad, "bits of the weight's gradient with more threads, " + name);
    }
}

Cells cropped(Cells cells, int64_t length) {
    int64_t excess = std::max<int64_t>(0, std::accumulate(cells.begin(), cells.end(), (int64_t)0) / 2 - (length - 1));
    while (excess > 0 && cells.size() > 1 && cells.front() <= excess)
        excess -= cells.front(), cells = Cells(cells.begin() + 1, cells.end() - 1);
    if (cells.size() == 1) return {cells[0] - 2 * excess};
    cells.front() -= excess, cells.back() -= excess;
    return cells;
}

Cells mirrored(Cells half) {
    Cells cells = half;
    cells.insert(cells.end(), half.rbegin() + 1, half.rend());
    return cells;
}

std::vector<Case> all_cases() {
    const std::vector<Cells> halves = {
        {1}, {5}, {9, 8, 4, 2, 1, 1, 1}, {17, 16, 8, 4, 2, 1, 1, 1, 1}, Cells(7, 1), {7, 3, 11, 5}, {30, 1}, {4, 4, 1}};
    const std::vector<std::vector<int64_t>> shapes = {
        {1, 1, 1, 1},    {2, 3, 7, 5},   {1, 17, 14, 14}, {5, 9, 14, 14}, {3, 16, 9, 15},
        {1, 23, 24, 40}, {1, 40, 3, 33}, {2, 4, 70, 6},   {1, 2, 9, 300},
    };
    std::vector<Case> cases;
    for (const auto& shape : shapes)
        for (const auto& half : halves)
            for (float mean : {0.f, 100.f})
                cases.push_back({{shape[0], shape[1], shape[2], shape[3]},
                                 cropped(mirrored(half), shape[2]),
                                 cropped(mirrored(half), shape[3]),
                                 mean});
    cases.push_back({{2, 5, 8, 9}, {1, 1, 1}, {3, 1, 3}, 1});  // cells that differ between the axes
    cases.push_back({{1, 3, 60, 4}, mirrored(Cells(30, 1)), {7}, 0});
    return cases;
}

void check_arguments() {
    const char* set = mmpelk_instruction_set(0);
    const int64_t shape[4] = {1, 1, 4, 4}, none[4] = {0, 1, 4, 4}, strides[4] = {16, 16, 4, 1};
    const int64_t cells[3] = {1, 1, 1};
    std::vector<float> x(16, 1), w(9, 1), y(16);
    const auto forward = [&](const char* name, int threads, const int64_t* sizes, const float* from, const Cells& heights,
                             const Cells& widths) {
        return mmpelk_forward(name, threads, sizes, from, strides, w.data(), nullptr, y.data(), strides, heights.data(),
                              heights.size(), widths.data(), widths.size());
    };
    const auto grad = [&](const char* name, int threads, const int64_t* sizes, const float* from, const Cells& heights,
                          const Cells& widths) {
        return mmpelk_weight_grad(name, threads, sizes, from, strides, x.data(), strides, w.data(), heights.data(),
                                  heights.size(), widths.data(), widths.size());
    };
    const Cells good = {1, 1, 1};
    const auto both = [&](int status, const char* name, int threads, const int64_t* sizes, const float* from,
                          const Cells& heights, const Cells& widths) {
        const std::vector<float> before = w;
        expect(forward(name, threads, sizes, from, heights, widths) == status,
               "status of forward with arguments that give " + std::to_string(status));
        expect(grad(name, threads, sizes, from, heights, widths) == status,
               "status of the gradient with arguments that give " + std::to_string(status));
        w = before;
    };
    both(0, set, 1, shape, x.data(), good, good);
    both(0, set, 1, none, nullptr, good, good);
    both(2, "avx10", 1, shape, x.data(), good, good);
    both(3, nullptr, 1, shape, x.data(), good, good);
    both(3, set, 0, shape, x.data(), good, good);
    both(3, set, 1, nullptr, x.data(), good, good);
    both(3, set, 1, shape, nullptr, good, good);
    const std::vector<Cells> bad = {
        {}, {0}, {-1}, {2}, {1, 1}, {1, 1, 3}, {3, -1, 3}, {9}, {3, 3, 3}, {(int64_t)1 << 33 | 1}, {INT64_MAX}, Cells(9, 1)};
    for (const Cells& cells : bad) {
        both(3, set, 1, shape, x.data(), cells, good);
        both(3, set, 1, shape, x.data(), good, cells);
    }
    for (int axis = 0; axis < 4; axis++)
        for (int64_t size : {(int64_t)0, (int64_t)-1, (int64_t)1 << 40}) {
            if (axis == 0 && size == 0) continue;
            int64_t sizes[4] = {1, 1, 4, 4};
            sizes[axis] = size;
            both(3, set, 1, sizes, x.data(), good, good);
        }
    expect(mmpelk_forward(set, 1, shape, x.data(), strides, nullptr, nullptr, y.data(), strides, cells, 3, cells, 3) == 3,
           "no weight");
    expect(mmpelk_forward(set, 1, shape, x.data(), strides, w.data(), nullptr, nullptr, strides, cells, 3, cells, 3) == 3,
           "no output");
    expect(mmpelk_forward(set, 1, shape, x.data(), nullptr, w.data(), nullptr, y.data(), strides, cells, 3, cells, 3) == 3,
           "no strides");
    expect(mmpelk_forward(set, 1, shape, x.data(), strides, w.data(), nullptr, y.data(), strides, nullptr, 3, cells, 3) == 3,
           "no cells");
    expect(mmpelk_instruction_set(-1) == nullptr && mmpelk_instruction_set(99) == nullptr, "instruction sets beyond the last");

    std::fill(w.begin(), w.end(), 7.f);
    expect(grad(set, 1, none, nullptr, good, good) == 0 && w == std::vector<float>(9, 0.f),
           "the gradient of an empty batch is zero");
}

// The sums of the weight's gradient are bounded, and each part is in one slice.
void check_slices() {
    for (int64_t images : {1, 16, 1000}) {
        const int64_t shape[4] = {images, 124, 56, 56};
        const Cells cells(51, 1);
        const mmpelk::OwningPlan plan(shape, cells.data(), 51, cells.data(), 51);
        const mmpelk::GradSlices slices(plan, 16);
        expect(slices.groups() * slices.slices_per_group() * 51 * 51 * 16 * 8 <= 8 << 20, "memory of the weight's gradient");
        expect(slices.first_part(0) == 0 && slices.first_part(slices.slices_per_group()) >= images,
               "parts of the weight's gradient");
    }
}

// Problems that are large enough for several tasks.
std::vector<Problem> examples() {
    const Cells cells = mirrored({9, 8, 4, 2, 1, 1, 1});
    std::vector<Problem> problems;
    problems.emplace_back(Case{{2, 37, 60, 45}, cells, cells, 0}, kContiguous, kContiguous, 2);
    problems.emplace_back(Case{{2, 37, 60, 45}, cells, cells, 1}, kChannelsLast, kChannelSlice, 3);
    return problems;
}

void check_concurrent_calls(const char* set) {
    std::vector<Problem> problems = examples();
    std::vector<std::thread> callers;
    std::vector<char> same(problems.size(), 1);
    std::vector<Tensor> outputs;
    std::vector<std::vector<float>> grads;
    for (Problem& problem : problems) outputs.push_back(problem.forward(set, 1)), grads.push_back(problem.weight_grad(set, 1));
    for (size_t i = 0; i < problems.size(); i++)
        callers.emplace_back([&, i] {
            const Problem& p = problems[i];
            for (int repeat = 0; repeat < 3; repeat++) {
                Tensor output(p.test.shape, p.output_layout);
                Problem copy = p;
                std::vector<float> grad(p.weight.size());
                same[i] &=
                    !mmpelk_forward(set, 2, p.test.shape, copy.input.data(), p.input.strides, p.weight.data(), p.bias.data(),
                                    output.data(), output.strides, p.test.heights.data(), 13, p.test.widths.data(), 13);
                same[i] &= !mmpelk_weight_grad(set, 2, p.test.shape, copy.input.data(), p.input.strides, copy.grad.data(),
                                               p.grad.strides, grad.data(), p.test.heights.data(), 13, p.test.widths.data(), 13);
                same[i] &= output.memory == outputs[i].memory && grad == grads[i];
            }
        });
    for (std::thread& caller : callers) caller.join();
    for (char result : same) expect(result, std::string("concurrent calls with ") + set);
}

void check_fork(const char* set) {
    Problem problem = examples()[0];
    const Tensor output = problem.forward(set, 2);
    const std::vector<float> grad = problem.weight_grad(set, 2);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // a child that waits for threads it has not inherited dies
        const bool same = problem.forward(set, 2).memory == output.memory && problem.weight_grad(set, 2) == grad;
        _exit(same ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, std::string("a forked process with ") + set);
    expect(problem.forward(set, 2).memory == output.memory, "the parent after the fork");
}

}  // namespace

int main() {
    std::vector<const char*> sets;
    while (const char* name = mmpelk_instruction_set((int)sets.size())) sets.push_back(name);
    check_arguments();
    check_slices();
    for (const char* set : sets) {
        int index = 0;
        for (const Case& test : all_cases()) {
            // Each case has two layouts, and all pairs of layouts occur.
            const int pair = index++ * 7;
            compare_with_loops(set, test, (Layout)(pair % kLayouts), (Layout)(pair / kLayouts % kLayouts));
        }
        check_fork(set);
        check_concurrent_calls(set);
        check_fork(set);
    }
    std::string names;
    for (const char* set : sets) names += std::string(" ") + set;
    std::printf("%d checks passed with the instruction sets%s; the largest relative error is %.1e\n", cases, names.c_str(),
                largest_error);
}
