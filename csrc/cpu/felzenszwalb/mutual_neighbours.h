// Unites mutual nearest neighbours before any edge is sorted, and drops edges that this makes
// redundant.
//
// Two pixels are mutual nearest neighbours when their edge costs less than every other edge of
// either pixel. Step 3 would visit this edge before all others of both pixels. If single pixels may
// merge at this cost, they are united here, in vectorised loops: about 60 % of the pixels of a
// photo. Two kinds of edges become redundant, about a third of all:
// - The edge of mutual nearest neighbours itself.
// - Of two edges from such a pair to the same third pixel, the one that costs more: when its turn
//   comes, the cheaper one has already decided about the same two regions.
//
// Costs are compared after rounding to float32: rounding keeps the order, so what is less after
// rounding was less before.
#pragma once

#include <cstdint>
#include <vector>

#include "forest.h"
#include "graph.h"

namespace cuekit::cpu::felzenszwalb_detail {

// The rounded costs of the edges whose first pixel is in one row, infinite where there is no edge.
// All arrays are (W), with one more element at either end.
struct RowCosts {
  float *right, *down, *down_right, *up_right;
  float* nearest;  // the cost of the edge to the nearest neighbour, or -1: see find_nearest
};

// Holds four rows of costs at a time. Whether a pixel is a mutual nearest neighbour is known when
// the row after the next has been measured.
class MutualNeighbours {
 public:
  MutualNeighbours(double scale, const Graph& graph, const Forest& forest);
  MutualNeighbours(const MutualNeighbours&) = delete;
  MutualNeighbours& operator=(const MutualNeighbours&) = delete;

  // Where the costs of row y are written. Row y replaces row y - 4.
  const RowCosts& row(std::int64_t y) const { return rows_[y & 3]; }

  // Call when the costs of the last row are written.
  void end_rows();

  // Finds the nearest neighbour of each pixel in row y. A pixel has none (-1) if its two lowest
  // costs are equal, or if single pixels may not merge at the lowest. Needs the costs of row y + 1.
  void find_nearest(std::int64_t y) const;

  // Initialises the forest of row y: single pixels and pairs of mutual nearest neighbours. Drops
  // redundant edges between rows y and y + 1. Needs the nearest neighbours of row y + 1.
  void unite(std::int64_t y);

 private:
  const double scale_;
  const Graph graph_;
  const Forest forest_;
  std::vector<float> costs_;    // (4 rows, 4 directions, W + 2)
  std::vector<float> nearest_;  // (4 rows, W + 2)
  RowCosts rows_[4];
  std::vector<float> thresholds_;         // (W), workspace
  std::vector<std::int32_t> drop_right_;  // (W), workspace
};

}  // namespace cuekit::cpu::felzenszwalb_detail
