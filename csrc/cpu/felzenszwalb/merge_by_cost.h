// Step 3: visits edges in ascending order of cost, and merges the two regions of an edge when its
// cost is below the thresholds of both.
//
// Only a small part of the edges is sorted exactly. Bucket by bucket:
// 1. Most edges need no decision, as one look at the parents and thresholds shows: both pixels are
//    in the same region by now, or one of the regions can merge no more. The other edges are the
//    candidates.
// 2. Most candidates are the only one of both of their regions. Their order does not matter.
// 3. The rest, about one edge in twenty, is sorted.
// Edges between regions that do not merge are rejected: they are kept for step 4.
#pragma once

#include <cstdint>

#include "bucketed_edges.h"
#include "candidates.h"
#include "cpu/workspace.h"
#include "forest.h"
#include "graph.h"

namespace cuekit::cpu::felzenszwalb_detail {

class MergeByCost {
 public:
  // `marks` (H, W) is workspace. It must be zero, and is zero again after each run that is not
  // interrupted.
  MergeByCost(double scale, const Graph& graph, const Forest& forest, std::uint8_t* marks)
      : scale_(scale), graph_(graph), forest_(forest), marks_(marks) {}

  // Visits `edges`, which were collected for the area, and leaves the rejected ones: bucket by
  // bucket, in no particular order within a bucket.
  void run(const Area& area, BucketedEdges& edges, Candidates& candidates);

  // In edges. So many elements behind the array of edges must be readable.
  static constexpr std::int64_t prefetch_distance = 32;

 private:
  struct Roots {
    std::int32_t a, b;
  };

  // Defined in merge_by_cost.cpp, where alone they are called.
  inline std::int64_t select_candidates(const BucketedEdges& edges, std::uint32_t first,
                                        std::uint32_t last, std::int64_t bucket, Edge* candidates,
                                        std::uint32_t& rejected) const;
  inline std::int64_t decide_independent(Edge* candidates, std::int64_t count, Edge* edges,
                                         std::uint32_t& rejected);
  inline void decide(Edge edge, std::int32_t a, std::int32_t b, Edge* edges,
                     std::uint32_t& rejected);
  template <class Value>
  inline void prefetch_roots(const Edge* edges, std::int64_t i, std::int64_t count,
                             const Value* values) const;

  const double scale_;
  const Graph graph_;
  const Forest forest_;
  std::uint8_t* const marks_;  // at a root: 0 for no candidate, 1 for one, more for several
  Scratch<Roots> roots_;       // of the candidates
  std::int64_t merges_ = 0;    // since all paths were halved
};

}  // namespace cuekit::cpu::felzenszwalb_detail
