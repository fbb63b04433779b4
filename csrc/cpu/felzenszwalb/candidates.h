// The candidates of a bucket: edges whose regions may merge, so that their order matters.
#pragma once

#include <cstdint>

#include "cpu/workspace.h"
#include "graph.h"

namespace cuekit::cpu::felzenszwalb_detail {

// Owns the workspace. It grows to the largest bucket so far: 8 bytes per edge, and 16 more where
// the edges of a bucket are few enough for sort_by_key.
class Candidates {
 public:
  // Room for this many candidates. The caller writes them there in raster order.
  Edge* reserve(std::int64_t count);

  // The first `count` candidates, ordered by cost, equal costs by direction and then in raster
  // order.
  const Edge* sort(const Graph& graph, std::int64_t bucket, std::int64_t count);

 private:
  void sort_by_comparison(const Graph& graph, std::int64_t count, Edge* sorted) const;
  void sort_by_key(const Graph& graph, std::int64_t bucket, std::int64_t count, Edge* sorted);

  Scratch<Edge> candidates_, sorted_;
  Edge* selected_ = nullptr;  // the candidates
  Scratch<std::uint64_t> keys_, partly_sorted_keys_;
};

}  // namespace cuekit::cpu::felzenszwalb_detail
