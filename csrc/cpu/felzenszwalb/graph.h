// The photo as a graph: pixels are vertices, edges join neighbours.
//
// Every pixel has up to four edges: to the right, down, down right and up right. So each pair of
// 8-connected neighbours has exactly one edge. An edge is one 32-bit number from which both pixels
// follow; no list of pixel pairs is stored.
#pragma once

#include <cstdint>

#include "buckets.h"

namespace cuekit::cpu::felzenszwalb_detail {

struct Direction {
  enum : int { right, down, down_right, up_right, count };
};

using Edge = std::uint32_t;  // first pixel * 4 + direction

inline std::int64_t first_pixel(Edge edge) { return edge >> 2; }
inline std::int64_t direction_of(Edge edge) { return edge & 3u; }

// Rows top..bottom - 1 and columns left..right - 1 of the photo.
struct Area {
  std::int64_t top, bottom, left, right;
};

// Refers to arrays that it does not own: copies are cheap and share them.
struct Graph {
  Graph(std::int64_t photo_height, std::int64_t photo_width, double* edge_costs,
        Bucket* edge_buckets)
      : height(photo_height),
        width(photo_width),
        pixels(photo_height * photo_width),
        offsets{1, width, width + 1, 1 - width},
        costs(edge_costs),
        buckets(edge_buckets) {}

  Area whole() const { return {0, height, 0, width}; }
  std::int64_t second_pixel(Edge edge) const {
    return first_pixel(edge) + offsets[direction_of(edge)];
  }
  // By reference, so that it can be prefetched.
  const double& cost(Edge edge) const {
    return costs[direction_of(edge) * pixels + first_pixel(edge)];
  }

  std::int64_t height, width, pixels;
  std::int64_t offsets[Direction::count];  // second pixel - first pixel
  double* costs;                           // (4, H, W), by direction and first pixel
  Bucket* buckets;                         // (4, H, W), the bucket of each cost
};

}  // namespace cuekit::cpu::felzenszwalb_detail
