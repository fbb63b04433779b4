#include "merge_small.h"

#include <algorithm>

#include "cpu/interrupt.h"

namespace cuekit::cpu::felzenszwalb_detail {

void merge_small(std::int64_t min_size, const Graph& graph, const Forest& forest,
                 const BucketedEdges& edges, Candidates& candidates) {
  const auto is_small = [&](std::int32_t a, std::int32_t b) {
    return std::min(forest.regions[a].size, forest.regions[b].size) < min_size;
  };
  forest.halve_paths(0, graph.pixels);
  PollAfterWork poll_after;
  for (std::int64_t bucket = 0; bucket < Buckets::count; ++bucket) {
    const std::uint32_t first = edges.begin[bucket], last = edges.begin[bucket + 1];
    if (first == last) continue;
    Edge* const selected = candidates.reserve(last - first);
    std::int64_t count = 0;
    polling_loop(first, last, [&](std::int64_t i) {
      const Edge edge = edges.edges[i];
      const std::int32_t a = forest.find_root(first_pixel(edge));
      const std::int32_t b = forest.find_root(graph.second_pixel(edge));
      selected[count] = edge;
      count += (a != b) & is_small(a, b);
    });
    poll_after(last - first);
    if (count == 0) continue;
    // Step 3 appends the edges that it decides about in other than raster order.
    std::int64_t comparisons = 0;
    const auto is_before = [&](Edge a, Edge b) {
      poll_sometimes(++comparisons);
      return a < b;
    };
    if (!std::is_sorted(selected, selected + count, is_before))
      std::sort(selected, selected + count, is_before);
    const Edge* const sorted = candidates.sort(graph, bucket, count);
    polling_loop(0, count, [&](std::int64_t i) {
      const Edge edge = sorted[i];
      const std::int32_t a = forest.find_root(first_pixel(edge));
      const std::int32_t b = forest.find_root(graph.second_pixel(edge));
      if (a != b && is_small(a, b)) forest.unite(a, b);
    });
  }
}

}  // namespace cuekit::cpu::felzenszwalb_detail
