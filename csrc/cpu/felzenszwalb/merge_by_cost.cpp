#include "merge_by_cost.h"

#include <algorithm>

#include "cpu/interrupt.h"
#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

// Whether both thresholds are above a cost, where a frozen region counts as above, and at least one
// of the regions is not frozen. Compares the bits as unsigned integers: with the sign bit set, they
// are larger than those of every cost.
bool needs_decision(float a_threshold, float b_threshold, float cost) {
  const auto a = bit_cast<std::uint32_t>(a_threshold), b = bit_cast<std::uint32_t>(b_threshold);
  const auto lowest = bit_cast<std::uint32_t>(cost);
  return (a > lowest) & (b > lowest) & ((a & b) >> 31 == 0);
}

// The largest number of edges between polls.
constexpr std::uint32_t most_at_once = std::uint32_t{1} << 20;

}  // namespace

void MergeByCost::run(const Area& area, BucketedEdges& edges, Candidates& candidates) {
  const std::int64_t area_pixels = (area.bottom - area.top) * (area.right - area.left);
  merges_ = 0;
  std::uint32_t rejected = 0;  // the rejected edges are edges[0..rejected - 1]
  PollAfterWork poll_after;
  for (std::int64_t bucket = 0; bucket < Buckets::count; ++bucket) {
    // Keeps the parents near their roots, so that select_candidates finds most pairs of pixels that
    // are in the same region.
    if (merges_ > area_pixels / 20) {
      for (std::int64_t y = area.top; y < area.bottom; ++y)
        forest_.halve_paths(y * graph_.width + area.left, y * graph_.width + area.right);
      merges_ = 0;
      poll_after(area_pixels);
    }
    const std::uint32_t first = edges.begin[bucket], last = edges.begin[bucket + 1];
    edges.begin[bucket] = rejected;
    if (first == last) continue;
    Edge* const selected = candidates.reserve(last - first);
    std::int64_t count = 0;
    for (std::uint32_t begin = first; begin < last;) {
      const std::uint32_t end = begin + std::min(last - begin, most_at_once);
      count += select_candidates(edges, begin, end, bucket, selected + count, rejected);
      poll_after(end - begin);
      begin = end;
    }
    // Larger counts come from the equal costs of flat colours. Hardly any of them are independent.
    if (count <= graph_.pixels / 8)
      count = decide_independent(selected, count, edges.edges, rejected);
    if (count == 0) continue;
    const Edge* const sorted = candidates.sort(graph_, bucket, count);
    polling_loop(0, count, [&](std::int64_t i) {
      prefetch_roots(sorted, i, count, forest_.regions);
      const Edge edge = sorted[i];
      const std::int32_t a = forest_.find_root(first_pixel(edge));
      const std::int32_t b = forest_.find_root(graph_.second_pixel(edge));
      if (a != b) decide(edge, a, b, edges.edges, rejected);
    });
  }
  edges.begin[Buckets::count] = rejected;
}

// Copies those of the given edges of a bucket that may merge two regions, or freeze one, to the
// candidates. Moves others between different regions to the rejected ones. Returns the number of
// candidates.
//
// Looks at parents instead of roots. Below the root thresholds are infinite, so an edge that cannot
// be judged yet becomes a candidate.
CUEKIT_INLINE std::int64_t MergeByCost::select_candidates(const BucketedEdges& edges_of,
                                                          std::uint32_t first, std::uint32_t last,
                                                          std::int64_t bucket, Edge* candidates,
                                                          std::uint32_t& rejected) const {
  // A region whose threshold is not above the lowest cost of the bucket can merge no more.
  const auto lowest_cost = static_cast<float>(bit_cast<double>(Buckets::lowest_cost_bits(bucket)));
  const Graph& graph = graph_;
  const std::int32_t* const parents = forest_.parents;
  const Region* const regions = forest_.regions;
  Edge* const edges = edges_of.edges;
  std::uint32_t new_rejected = rejected;
  std::int64_t count = 0;
  for (std::uint32_t i = first; i < last; ++i) {
    const Edge edge = edges[i];
    const Edge upcoming = edges[i + prefetch_distance];  // may be any value: see prefetch()
    prefetch(parents + first_pixel(upcoming), 1);
    prefetch(parents + graph.second_pixel(upcoming), 1);
    const Edge next = edges[std::min(i + 16, last - 1)];
    prefetch(regions + parents[first_pixel(next)], 1);
    prefetch(regions + parents[graph.second_pixel(next)], 1);
    const std::int32_t a = parents[first_pixel(edge)], b = parents[graph.second_pixel(edge)];
    const bool different = a != b;
    const bool candidate = needs_decision(regions[a].threshold, regions[b].threshold, lowest_cost);
    // Written to both, and kept by advancing one position or none: a branch would be mispredicted.
    edges[new_rejected] = edge;
    candidates[count] = edge;
    new_rejected += different & !candidate;
    count += different & candidate;
  }
  rejected = new_rejected;
  return count;
}

// Decides about the candidates that are the only one of both of their regions, in any order. Moves
// the others to the front and returns their number.
CUEKIT_INLINE std::int64_t MergeByCost::decide_independent(Edge* candidates, std::int64_t count,
                                                           Edge* edges, std::uint32_t& rejected) {
  Roots* const roots = roots_.room_for(count);
  std::uint8_t* const marks = marks_;
  const Forest forest = forest_;
  std::int64_t between_regions = 0;
  polling_loop(0, count, [&](std::int64_t i) {
    prefetch_roots(candidates, i, count, marks);
    const Edge edge = candidates[i];
    const std::int32_t a = forest.find_near_root(first_pixel(edge));
    const std::int32_t b = forest.find_near_root(graph_.second_pixel(edge));
    const unsigned different = a != b;
    candidates[between_regions] = edge;
    roots[between_regions] = {a, b};
    between_regions += different;
    marks[a] = static_cast<std::uint8_t>(marks[a] << different | different);
    marks[b] = static_cast<std::uint8_t>(marks[b] << different | different);
  });
  std::int64_t dependent = 0;
  polling_loop(0, between_regions, [&](std::int64_t i) {
    const std::int64_t upcoming = std::min(i + 16, between_regions - 1);
    prefetch(&graph_.cost(candidates[upcoming]), 1);
    prefetch(forest.regions + roots[upcoming].a, 1);
    prefetch(forest.regions + roots[upcoming].b, 1);
    const Edge edge = candidates[i];
    const auto [a, b] = roots[i];
    if ((marks[a] | marks[b]) > 1) {
      candidates[dependent] = edge;
      roots[dependent] = {a, b};
      ++dependent;
    } else {
      marks[a] = marks[b] = 0;
      decide(edge, a, b, edges, rejected);
    }
  });
  for (std::int64_t i = 0; i < dependent; ++i) marks[roots[i].a] = marks[roots[i].b] = 0;
  return dependent;
}

// Merges the regions of an edge, given by their roots, or rejects the edge.
CUEKIT_INLINE void MergeByCost::decide(Edge edge, std::int32_t a, std::int32_t b, Edge* edges,
                                       std::uint32_t& rejected) {
  Region* const regions = forest_.regions;
  const double cost = graph_.cost(edge);
  const float a_threshold = regions[a].threshold, b_threshold = regions[b].threshold;
  if (cost < std::min(a_threshold, b_threshold)) {
    const std::int32_t root = forest_.unite(a, b);
    regions[root].threshold = static_cast<float>(cost + scale_ / regions[root].size);
    ++merges_;
    return;
  }
  edges[rejected] = edge;
  ++rejected;
  // A frozen region freezes the other one, unless one of both can merge no more. No cost is below a
  // frozen threshold, so frozen regions always get here. Of two regions that are not frozen, one
  // can merge no more.
  const bool a_may_merge = is_frozen(a_threshold) | (cost < a_threshold);
  const bool b_may_merge = is_frozen(b_threshold) | (cost < b_threshold);
  if (a_may_merge & b_may_merge) {
    regions[a].threshold = frozen(a_threshold);
    regions[b].threshold = frozen(b_threshold);
  }
}

// Prefetches the parents of the pixels of upcoming edges and the values at these parents. In a
// large photo none of them is in cache.
template <class Value>
CUEKIT_INLINE void MergeByCost::prefetch_roots(const Edge* edges, std::int64_t i,
                                               std::int64_t count, const Value* values) const {
  const std::int32_t* const parents = forest_.parents;
  const Edge later = edges[std::min(i + 16, count - 1)];
  const Edge next = edges[std::min(i + 8, count - 1)];
  prefetch(parents + first_pixel(later), 1);
  prefetch(parents + graph_.second_pixel(later), 1);
  for (const std::int32_t parent :
       {parents[first_pixel(next)], parents[graph_.second_pixel(next)]}) {
    prefetch(parents + parent, 1);
    prefetch(values + parent, 1);
  }
}

}  // namespace cuekit::cpu::felzenszwalb_detail
