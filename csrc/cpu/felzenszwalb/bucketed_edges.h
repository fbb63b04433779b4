// The edges of an area, ordered by bucket.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"

namespace cuekit::cpu::felzenszwalb_detail {

// Refers to the array of edges and owns the index of the buckets.
struct BucketedEdges {
  explicit BucketedEdges(Edge* array) : edges(array), begin(Buckets::count + dropped_buckets) {}

  // Collects all edges of which at least one pixel is in the area, without dropped ones. The edges
  // of a bucket are in raster order of their first pixels: edges that are close in the photo are
  // then close in the bucket, and so are the parents that are looked up for them.
  void collect(const Graph& graph, const Area& area);

  Edge* const edges;                 // (4, H, W), the edges of bucket b from begin[b] on
  std::vector<std::uint32_t> begin;  // (Buckets::count + dropped_buckets)
};

}  // namespace cuekit::cpu::felzenszwalb_detail
