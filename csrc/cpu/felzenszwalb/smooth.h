// Step 1: converts a photo to float64 and smooths it with a Gaussian, row by row.
//
// Each row is filtered down the columns, then along the row. Only the input rows that the filter
// reaches are kept, so the smoothed photo is never stored as a whole.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/workspace.h"
#include "cuekit/felzenszwalb.h"

namespace cuekit::cpu::felzenszwalb_detail {

// A photo in memory, whatever its type.
struct Photo {
  const void* values;       // (H, W, C)
  std::int64_t value_size;  // bytes
  void (*convert)(const void* values, std::int64_t count, double* out);
};

// Photo::convert for values of type T.
template <class T>
void convert(const void* values,  // (count)
             std::int64_t count,
             double* out);  // (count)

class RowSmoother {
 public:
  RowSmoother(const Photo& photo, const FelzenszwalbParams& p);

  // Writes the next row of the smoothed photo, from the top, with the channels apart.
  void next(double* smoothed);  // (C, W)

 private:
  void filter(std::int64_t count, double* out) const;

  const Photo photo_;
  const FelzenszwalbParams& p_;
  const std::int64_t row_size_;           // W * C
  const std::int64_t ring_rows_;          // the rows that the filter reaches at a time
  std::int64_t row_ = 0;                  // the next one
  std::int64_t converted_ = 0;            // rows converted so far
  WorkspaceVector<double> ring_;          // (ring_rows, W, C): row y is at y % ring_rows
  std::vector<const double*> taps_;       // (2 R + 1), inputs of the filter
  std::vector<double> filtered_columns_;  // (W, C): the row, filtered down the columns
  std::vector<double> padded_;            // (W + 2 R): one channel of it, mirrored at both ends
};

}  // namespace cuekit::cpu::felzenszwalb_detail
