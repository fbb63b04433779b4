// The order in which the CRF visits points.
//
// Points in no order, as those of a shuffled cloud, reach lattice vertices in no order. Where the
// values of all vertices do not fit in the caches, nearly every access then waits for memory. So
// such points are sorted: neighbours in the order are near each other, and have most of their
// vertices in common. Points that are in order already, such as the voxels of a volume, stay as
// they are.
//
// Points are numbered by the caller; places are numbers in the order. Maps are those of points,
// (K, N). Rows, (N, stride), are those of places.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"
#include "patch.h"
#include "write_results.h"

namespace cuekit::cpu {

struct PointOrder {
  Workspace<std::int32_t> point_at;  // (N): the point at each place
  Workspace<std::int32_t> place_of;  // (N): the place of each point
};

// Null if the points stay as they are: they are in order, or few. It depends on the features only.
std::shared_ptr<const PointOrder> order_of_points(const float* features,  // (d, N), finite
                                                  int d, std::int64_t points);

// body(band, patch, rows, places) for all points in the caller's order, one patch after the other.
// `rows`, (pixels of the patch, stride), is scratch; `places` are those of the patch's points.
template <class Body>
void for_points(const PointOrder& order, const std::vector<Band>& bands, std::int64_t stride,
                int threads, const Body& body) {
  constexpr std::int64_t most = Patch::max_columns;
  const std::int64_t points = bands.back().last_pixel;
  parallel_for(static_cast<std::int64_t>(bands.size()), threads, [&](std::int64_t b) {
    const Workspace<float> rows(most * stride);
    const Band& band = bands.data()[b];
    PollAfterWork poll_after;
    for (std::int64_t i = band.first_pixel; i < band.last_pixel; i += most) {
      const std::int64_t count = std::min(most, band.last_pixel - i);
      poll_after(count * stride);
      body(b, Patch{0, 1, i, count, points, points}, rows.get(), order.place_of.get() + i);
    }
  });
}

inline void write_in_order(const float* all_rows, std::int64_t stride, const PointOrder& order,
                           const std::vector<Band>& bands,
                           const std::vector<std::int64_t>& channels, int threads,
                           const Target<float>& out) {
  for_points(order, bands, stride, threads,
             [&](std::int64_t, const Patch& patch, float* rows, const std::int32_t* places) {
               for (std::int64_t i = 0; i < patch.columns; ++i)
                 std::copy_n(all_rows + places[i] * stride, stride, rows + i * stride);
               write_results(rows, stride, patch, channels, out);
             });
}

}  // namespace cuekit::cpu
