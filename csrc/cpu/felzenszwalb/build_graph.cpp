#include "build_graph.h"

#include <utility>
#include <vector>

#include "cpu/interrupt.h"
#include "edge_costs.h"
#include "mutual_neighbours.h"

namespace cuekit::cpu::felzenszwalb_detail {

void build_graph(const Photo& photo, const FelzenszwalbParams& p, const Graph& graph,
                 const Forest& forest) {
  const std::int64_t height = p.height, width = p.width, row_size = p.channels * width;
  RowSmoother smoother(photo, p);
  MutualNeighbours neighbours(p.scale, graph, forest);
  std::vector<double> colours(2 * row_size);  // (2, C, W): two smoothed rows
  double *row = colours.data(), *above = row + row_size;

  // The edges whose first pixels are in row y.
  const auto measure = [&](int direction, std::int64_t y, const double* first, const double* second,
                           std::int64_t count, float* rounded) {
    const std::int64_t offset = direction * graph.pixels + y * width;
    measure_costs(first, second, p.channels, width, count, graph.costs + offset, rounded,
                  graph.buckets + offset);
  };

  PollAfterWork poll_after;
  for (std::int64_t y = 0; y < height; ++y) {
    poll_after(row_size);
    smoother.next(row);
    const RowCosts &costs = neighbours.row(y), &costs_above = neighbours.row(y - 1);
    measure(Direction::right, y, row, row + 1, width - 1, costs.right);
    if (y > 0) {
      measure(Direction::down, y - 1, above, row, width, costs_above.down);
      measure(Direction::down_right, y - 1, above, row + 1, width - 1, costs_above.down_right);
      measure(Direction::up_right, y, row, above + 1, width - 1, costs.up_right);
      neighbours.find_nearest(y - 1);
    }
    if (y > 1) neighbours.unite(y - 2);
    std::swap(above, row);
  }
  neighbours.end_rows();
  neighbours.find_nearest(height - 1);
  if (height > 1) neighbours.unite(height - 2);
  neighbours.unite(height - 1);
}

}  // namespace cuekit::cpu::felzenszwalb_detail
