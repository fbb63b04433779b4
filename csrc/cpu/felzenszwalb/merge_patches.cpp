#include "merge_patches.h"

#include <algorithm>

#include "cpu/simd.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

constexpr std::int64_t patch_size = 256;

// Visits the pixels around an area.
template <class Visit>
void for_each_pixel_around(const Graph& graph, const Area& area, const Visit& visit) {
  const std::int64_t first = std::max<std::int64_t>(area.left - 1, 0);
  const std::int64_t last = std::min(area.right, graph.width - 1);
  for (std::int64_t y = std::max<std::int64_t>(area.top - 1, 0);
       y <= std::min(area.bottom, graph.height - 1); ++y) {
    const bool inside = area.top <= y && y < area.bottom;
    for (std::int64_t x = first; x <= last; ++x) {
      if (inside && x == area.left) x = area.right;
      if (x <= last) visit(y * graph.width + x);
    }
  }
}

// Drops the edges between pixels with the same parent.
struct DropInner {
  static CUEKIT_INLINE void run(const std::int32_t* first_parents,   // (count)
                                const std::int32_t* second_parents,  // (count)
                                std::int64_t count, int direction,
                                Bucket* __restrict buckets) {  // (count)
    for (std::int64_t x = 0; x < count; ++x)
      buckets[x] =
          first_parents[x] == second_parents[x] ? dropped_bucket(direction, x) : buckets[x];
  }
};

// Drops edges within regions, of those whose first pixel is in an area. The parents of the area's
// pixels must be roots.
void drop_inner_edges(const Graph& graph, const std::int32_t* parents, const Area& area) {
  const std::int64_t width = area.right - area.left;
  const std::int64_t width_to_right = std::min(area.right, graph.width - 1) - area.left;
  for (std::int64_t y = area.top; y < area.bottom; ++y) {
    const std::int64_t pixel = y * graph.width + area.left;
    const auto drop = [&](int direction, std::int64_t count) {
      dispatch<DropInner>(parents + pixel, parents + pixel + graph.offsets[direction], count,
                          direction, graph.buckets + direction * graph.pixels + pixel);
    };
    drop(Direction::right, width_to_right);
    if (y < graph.height - 1) {
      drop(Direction::down, width);
      drop(Direction::down_right, width_to_right);
    }
    if (y > 0) drop(Direction::up_right, width_to_right);
  }
}

}  // namespace

void merge_patches(const Graph& graph, const Forest& forest, MergeByCost& merge_by_cost,
                   BucketedEdges& edges, Candidates& candidates) {
  for (std::int64_t top = 0; top < graph.height; top += patch_size) {
    for (std::int64_t left = 0; left < graph.width; left += patch_size) {
      const Area patch = {top, std::min(top + patch_size, graph.height), left,
                          std::min(left + patch_size, graph.width)};
      // What is around the patch is frozen from the start.
      for_each_pixel_around(graph, patch, [&](std::int64_t pixel) {
        float& threshold = forest.regions[forest.find_root(pixel)].threshold;
        threshold = frozen(threshold);
      });
      edges.collect(graph, patch);
      merge_by_cost.run(patch, edges, candidates);
      for_each_pixel_around(graph, patch, [&](std::int64_t pixel) {
        float& threshold = forest.regions[forest.find_root(pixel)].threshold;
        threshold = unfrozen(threshold);
      });
      for (std::int64_t y = patch.top; y < patch.bottom; ++y) {
        for (std::int64_t x = patch.left; x < patch.right; ++x) {
          const std::int64_t pixel = y * graph.width + x;
          forest.parents[pixel] = forest.find_root(pixel);
          float& threshold = forest.regions[pixel].threshold;
          threshold = unfrozen(threshold);
        }
      }
      drop_inner_edges(graph, forest.parents, patch);
    }
  }
}

}  // namespace cuekit::cpu::felzenszwalb_detail
