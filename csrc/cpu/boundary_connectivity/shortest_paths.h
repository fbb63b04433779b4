// Distances of all pairs of nodes of a graph, for eight sources at a time.
//
// No heap of nodes for each source: nodes are eliminated once, those of fewest neighbours first. An
// elimination joins the node's neighbours by arcs as long as the way through it, so that distances
// between the nodes that are left stay as they are. From a source, all distances then follow in two
// passes over the arcs that nodes had when they were eliminated: forwards to the nodes eliminated
// later, and backwards from them. Superpixels touch few others, so there are few such arcs, and
// every step serves eight sources at once.
//
// Nodes that are all joined to each other, as those at the image's border are, are not eliminated:
// their arcs become as long as the shortest paths, and are followed once between the passes. Where
// arcs would become too many, which no planar graph makes them, the nodes that are left stay, too:
// their arcs are followed again and again until no distance gets shorter.
//
// Lengths are sums in another order than along the path: rounding differs.
#pragma once

#include <cstdint>
#include <vector>

namespace cuekit::cpu {

constexpr int sources_at_a_time = 8;

struct Arc {
  std::int32_t to;
  double length;  // not negative
};

class ShortestPaths {
 public:
  // neighbours[i] are the arcs from node i; every arc has one back. No pair has two.
  explicit ShortestPaths(std::vector<std::vector<Arc>> neighbours);

  // Nodes in the order of elimination: the node at each place.
  const std::vector<std::int32_t>& nodes() const { return nodes_; }

  // The distances between the nodes at all places and those at the places first .. first + 7, as
  // far as there are so many; infinite where there is no path.
  void find(std::int64_t first, double* distances) const;  // (places, 8)

 private:
  std::vector<std::int32_t> nodes_;
  std::int64_t eliminated_ = 0;
  bool closed_ = false;              // whether the arcs between the others are shortest paths
  std::vector<std::int64_t> begin_;  // the arcs of each place
  std::vector<Arc> arcs_;            // to later places; of those not eliminated, to all
};

}  // namespace cuekit::cpu
