// Divides an image into bands and a band into strips (bands.h).
#include "bands.h"

#include <algorithm>

namespace cuekit::cpu {

std::vector<Band> divide_into_bands(std::int64_t height, std::int64_t width, std::int64_t most) {
  const std::int64_t pixels = height * width;
  std::int64_t count = pixels < 1 << 16 ? 1 : 2;
  while (count < most && count << 17 <= pixels) count *= 2;
  count = std::min(height, count);
  std::vector<Band> bands;
  for (std::int64_t b = 0; b < count; ++b)
    bands.push_back({b * height / count * width, (b + 1) * height / count * width});
  return bands;
}

std::vector<Strip> strips_of(const Band& band, std::int64_t width, std::int64_t rows) {
  const std::int64_t end = band.last_pixel / width;
  std::vector<Strip> strips;
  for (std::int64_t y = band.first_pixel / width; y < end; y += rows)
    strips.push_back({y, std::min(rows, end - y)});
  return strips;
}

}  // namespace cuekit::cpu
