// Prepares a convolution: checks its sizes, describes its kernel, and divides it into tasks.
#pragma once
#include <vector>

#include "plan.h"

namespace mmpelk {

// Return whether the kernels can compute with these sizes. The shape is N, C, H, W. Cells must be positive, symmetric, of an odd
// sum, and within 2 H - 1 rows and 2 W - 1 columns.
bool valid_sizes(const int64_t* shape, const int64_t* cell_heights, int64_t cell_rows, const int64_t* cell_widths,
                 int64_t cell_columns);

// One axis of a kernel.
struct CellAxis {
    std::vector<int> sizes, offsets, cell_at;  // see Plan
    int radius;
    CellAxis(const int64_t* cell_sizes, int64_t count);
};

// A plan that owns its arrays. The sizes must be valid.
class OwningPlan : public Plan {
  public:
    OwningPlan(const int64_t* shape, const int64_t* cell_heights, int64_t cell_rows, const int64_t* cell_widths,
               int64_t cell_columns);
    OwningPlan(const OwningPlan&) = delete;

  private:
    const CellAxis y_, x_;
    std::vector<int> tap_offsets_;
};

// The forward pass, divided among threads. The results do not depend on how it is divided.
class ForwardTasks {
  public:
    ForwardTasks(const Plan& plan, int lanes, int threads);
    int64_t count() const { return whole_units_ + (units_ - whole_units_) * bands_; }
    Task operator[](int64_t index) const;

  private:
    const Plan& plan_;
    const int lanes_;
    const int64_t groups_;         // of channels
    int strips_, chunks_, bands_;  // parts of the width, the images, and the height
    int64_t units_, whole_units_;
};

// The gradient of the weight, divided into slices. Each slice has its own sums, and consists of parts that are added to them in
// order. The division does not depend on the number of threads, so neither do the results.
class GradSlices {
  public:
    GradSlices(const Plan& plan, int lanes);
    int64_t groups() const { return groups_; }
    int64_t slices_per_group() const { return slices_per_group_; }
    int64_t first_part(int64_t slice) const { return parts_per_group_ * slice / slices_per_group_; }
    Task part(int64_t group, int64_t index) const;

  private:
    const Plan& plan_;
    const int lanes_;
    const int64_t groups_;
    int strips_, bands_;
    int64_t parts_per_group_, slices_per_group_;
};

}  // namespace mmpelk
