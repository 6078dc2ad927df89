#include "planner.h"

#include <algorithm>
#include <cstdint>

namespace mmpelk {
namespace {

// Larger sizes would overflow int, or integers that float represents exactly. They are far beyond what memory can hold.
constexpr int64_t kMaxImages = INT32_MAX, kMaxLength = 1 << 24, kMaxCells = 1 << 30;

// Wider maps are cut into strips. A task keeps a row of sums for each row of cells: for K = 51, 13 rows of 128 + 50 columns and a
// padding of 16 on both sides take 175 KB with 16 lanes and stay in a second-level cache. Strips also bound the length of the
// prefix sums, which lose digits with length. Neighbors compute the sums of K - 1 columns twice, so maps that are only a little
// wider are not cut.
constexpr int kStripWidth = 128;
constexpr int kMaxUncutWidth = 192;

// Work that cannot be divided evenly among the threads is cut into bands of rows. A band reads the rows above and below it again,
// which costs about this much of a row of outputs for each row. It is a rough value, as it only decides where to cut. Bands of
// fewer rows than the minimum would mostly read.
constexpr double kExtraRowCost = 0.08;
constexpr int kMinBandRows = 8;

// A task prepares its taps once for several images, as long as there are this many tasks for each thread, and up to about this
// many positions. Beyond them, the preparation takes too little time to matter.
constexpr int64_t kMinTasksPerThread = 4;
constexpr int64_t kMaxSharedPositions = 8192;

// The gradient of the weight is cut into bands if there would be fewer parts than this: enough for the common numbers of threads.
constexpr int kMinGradParts = 8;

// Slices allow as many threads to work at a time. Their sums take memory and time to add, so there are fewer of them if the
// kernel has many cells: their number does not grow with the batch.
constexpr int64_t kGradSlices = 64;
constexpr int64_t kMaxSumBytes = 8 << 20;

int64_t divide_up(int64_t total, int64_t part) { return (total + part - 1) / part; }

// The beginning of one of `count` parts of a length.
int cut(int length, int64_t part, int64_t count) { return (int)(length * part / count); }

int strip_count(int width) { return width <= kMaxUncutWidth ? 1 : (int)divide_up(width, kStripWidth); }

// Return into how many bands each unit is cut so that the threads finish first.
int band_count(const Plan& plan, int64_t units, int threads) {
    int best = 1;
    double best_time = 0;
    for (int bands = 1; bands <= std::max(1, plan.height / kMinBandRows) && bands <= 4 * threads; bands++) {
        const int64_t turns = divide_up(units * bands, threads);
        const double time = turns * ((double)plan.height / bands + 2 * kExtraRowCost * plan.row_radius);
        if (bands == 1 || time < best_time) best = bands, best_time = time;
    }
    return best;
}

bool valid_cells(const int64_t* cells, int64_t count, int64_t length) {
    const int64_t largest = 2 * length - 1;
    if (count < 1 || count > largest) return false;
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) {
        if (cells[i] < 1 || cells[i] > largest || cells[i] != cells[count - 1 - i]) return false;
        sum += cells[i];
    }
    return sum % 2 == 1 && sum <= largest;
}

}  // namespace

bool valid_sizes(const int64_t* shape, const int64_t* cell_heights, int64_t cell_rows, const int64_t* cell_widths,
                 int64_t cell_columns) {
    const int64_t images = shape[0], channels = shape[1], height = shape[2], width = shape[3];
    if (images < 0 || images > kMaxImages || channels < 1 || channels > kMaxImages) return false;
    if (height < 1 || height > kMaxLength || width < 1 || width > kMaxLength) return false;
    if (!valid_cells(cell_heights, cell_rows, height) || !valid_cells(cell_widths, cell_columns, width)) return false;
    return cell_rows * (cell_columns + 2) <= kMaxCells;
}

CellAxis::CellAxis(const int64_t* cell_sizes, int64_t count) : sizes(cell_sizes, cell_sizes + count) {
    for (size_t i = 0; i < sizes.size(); i++) {
        offsets.push_back((int)cell_at.size());
        cell_at.insert(cell_at.end(), sizes[i], (int)i);
    }
    radius = (int)cell_at.size() / 2;
    for (int& offset : offsets) offset -= radius;
}

OwningPlan::OwningPlan(const int64_t* shape, const int64_t* heights, int64_t height_count, const int64_t* widths,
                       int64_t width_count)
    : y_(heights, height_count), x_(widths, width_count) {
    images = (int)shape[0], channels = (int)shape[1], height = (int)shape[2], width = (int)shape[3];
    cell_rows = (int)height_count, cell_columns = (int)width_count;
    cell_heights = y_.sizes.data(), row_offsets = y_.offsets.data(), cell_row_at = y_.cell_at.data(), row_radius = y_.radius;
    cell_widths = x_.sizes.data(), cell_column_at = x_.cell_at.data(), column_radius = x_.radius;
    use_prefix_sums = *std::max_element(x_.sizes.begin(), x_.sizes.end()) > 1;
    tap_offsets_ = x_.offsets;
    if (use_prefix_sums) tap_offsets_.push_back(column_radius + 1);
    tap_count = (int)tap_offsets_.size(), tap_offsets = tap_offsets_.data();
}

// A unit is a strip of some images and channels.
ForwardTasks::ForwardTasks(const Plan& plan, int lanes, int threads)
    : plan_(plan), lanes_(lanes), groups_(divide_up(plan.channels, lanes)), strips_(strip_count(plan.width)) {
    const int64_t positions = (int64_t)plan.height * plan.width;
    const int64_t wanted_chunks = divide_up(kMinTasksPerThread * threads, groups_ * strips_);
    const int64_t shared_images = std::min(plan.images / std::max<int64_t>(1, wanted_chunks), kMaxSharedPositions / positions);
    chunks_ = (int)divide_up(plan.images, std::max<int64_t>(1, shared_images));
    units_ = groups_ * strips_ * chunks_;
    whole_units_ = units_ / threads * threads;
    bands_ = band_count(plan, units_ - whole_units_, threads);
}

Task ForwardTasks::operator[](int64_t index) const {
    const bool whole = index < whole_units_;
    const int64_t unit = whole ? index : whole_units_ + (index - whole_units_) / bands_;
    const int64_t band = whole ? 0 : (index - whole_units_) % bands_, bands = whole ? 1 : bands_;
    const int64_t strip = unit % strips_, group = unit / strips_ % groups_, chunk = unit / strips_ / groups_;
    Task task;
    task.first_image = cut(plan_.images, chunk, chunks_), task.image_end = cut(plan_.images, chunk + 1, chunks_);
    task.first_channel = (int)(group * lanes_);
    task.first_row = cut(plan_.height, band, bands), task.row_end = cut(plan_.height, band + 1, bands);
    task.first_column = cut(plan_.width, strip, strips_), task.column_end = cut(plan_.width, strip + 1, strips_);
    return task;
}

// A part is a band of a strip of an image.
GradSlices::GradSlices(const Plan& plan, int lanes)
    : plan_(plan), lanes_(lanes), groups_(divide_up(plan.channels, lanes)), strips_(strip_count(plan.width)) {
    const int64_t units = groups_ * strips_ * plan.images;
    bands_ = units < kMinGradParts ? band_count(plan, units, kMinGradParts) : 1;
    parts_per_group_ = (int64_t)plan.images * strips_ * bands_;
    const int64_t bytes = groups_ * lanes * plan.cell_rows * plan.cell_columns * (int64_t)sizeof(double);
    const int64_t wanted = std::min(divide_up(kGradSlices, groups_), kMaxSumBytes / bytes);
    slices_per_group_ = std::max<int64_t>(1, std::min(wanted, parts_per_group_));
}

Task GradSlices::part(int64_t group, int64_t index) const {
    const int64_t band = index % bands_, strip = index / bands_ % strips_, image = index / bands_ / strips_;
    Task task;
    task.first_image = (int)image, task.image_end = (int)image + 1;
    task.first_channel = (int)(group * lanes_);
    task.first_row = cut(plan_.height, band, bands_), task.row_end = cut(plan_.height, band + 1, bands_);
    task.first_column = cut(plan_.width, strip, strips_), task.column_end = cut(plan_.width, strip + 1, strips_);
    return task;
}

}  // namespace mmpelk
