// The order in which the CRF numbers and visits the pixels of an image.
//
// An image is divided into bands of whole pixel rows. Bands are what threads share, so the division
// depends on the image's size only: results do not depend on the number of threads. A band is
// divided into strips of up to 4 rows. Within a strip, pixels are numbered down a column and then
// on to the next column: consecutive pixels are close to each other in both directions, so most of
// their lattice vertices are still in cache.
#pragma once

#include <cstdint>
#include <vector>

namespace cuekit::cpu {

// Pixels [first_pixel, last_pixel), whole rows. The other members are set by the lattice that has
// this band (lattice.h).
struct Band {
  std::int64_t first_pixel, last_pixel;
  std::int64_t first_vertex = 0, last_vertex = 0;  // the vertices that no earlier band has
  std::int64_t first_copy = 0, last_copy = 0;      // copies of vertices of earlier bands
};

constexpr std::int64_t strip_height = 4;
constexpr std::int64_t strip_of_points = 256;

// Pixel rows [first_row, first_row + rows). The pixel in column x and row first_row + r has the
// number first_row * width + x * rows + r.
struct Strip {
  std::int64_t first_row, rows;
};

// One band below 2^16 pixels, two from there on, and then, up to `most`, one for every 2^16 to 2^17
// pixels.
std::vector<Band> divide_into_bands(std::int64_t height, std::int64_t width,
                                    std::int64_t most = 64);
std::vector<Strip> strips_of(const Band& band, std::int64_t width,
                             std::int64_t rows = strip_height);
// Fewer bands: points in no order reach the same vertices in every band, and each band has copies.
inline std::vector<Band> divide_points(std::int64_t points) {
  return divide_into_bands(points, 1, 8);
}

}  // namespace cuekit::cpu
