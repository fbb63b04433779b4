// A patch: up to 64 columns of a strip (bands.h). Maps have one plane per channel, (K, H, W); the
// mean field has all classes of a pixel side by side, (N, stride). Scores and results are
// transposed between the two patch by patch.
#pragma once

#include <cstdint>

#include "bands.h"

namespace cuekit::cpu {

struct Patch {
  static constexpr std::int64_t max_columns = 64;

  std::int64_t first_row, rows;         // of its strip
  std::int64_t first_column, columns;   // columns <= max_columns
  std::int64_t width, pixels_of_image;  // W, H * W

  std::int64_t pixels() const { return rows * columns; }
  // The number of its first pixel, bands.h. Its pixels are consecutive.
  std::int64_t first_pixel() const { return first_row * width + first_column * rows; }
  // Where row r of it begins in a map.
  std::int64_t offset(std::int64_t channel, std::int64_t r) const {
    return channel * pixels_of_image + (first_row + r) * width + first_column;
  }
};

}  // namespace cuekit::cpu
