#include "mutual_neighbours.h"

#include <algorithm>
#include <limits>

#include "cpu/simd.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float no_neighbour = -1;  // equals no cost

// Whether an edge joins mutual nearest neighbours. `nearest_a` and `nearest_b` are the costs of the
// edges from its two pixels to their nearest neighbours.
CUEKIT_INLINE bool joins_mutual(float cost, float nearest_a, float nearest_b) {
  return (cost == nearest_a) & (cost == nearest_b);
}

// The lowest cost of each pixel's eight edges, if all others are higher and single pixels may merge
// at this cost.
struct FindNearest {
  static CUEKIT_INLINE void run(const RowCosts* above, const RowCosts* row, const RowCosts* below,
                                float threshold,  // of a single pixel
                                std::int64_t width) {
    float* __restrict nearest = row->nearest;
    const float *right = row->right, *down = row->down;
    const float *down_right = row->down_right, *up_right = row->up_right;
    const float *up = above->down, *up_left = above->down_right, *down_left = below->up_right;
    for (std::int64_t x = 0; x < width; ++x) {
      float lowest = right[x], second_lowest = threshold;
      const auto compare = [&](float cost) {
        const float higher = lowest < cost ? cost : lowest;
        second_lowest = higher < second_lowest ? higher : second_lowest;
        lowest = cost < lowest ? cost : lowest;
      };
      compare(right[x - 1]), compare(down[x]), compare(up[x]), compare(down_right[x]);
      compare(up_left[x - 1]), compare(up_right[x]), compare(down_left[x - 1]);
      nearest[x] = lowest < second_lowest ? lowest : no_neighbour;
    }
  }
};

// Drops the redundant edges between two rows, by changing their buckets. Looks at squares of four
// pixels, which have six edges, and at the four triangles in each:
//   a b   row y
//   c d   row y + 1
struct DropRedundant {
  static CUEKIT_INLINE void run(const RowCosts* row, const RowCosts* below, std::int64_t width,
                                // (W) each, buckets of the edges between the two rows
                                Bucket* __restrict upper_right, Bucket* __restrict lower_right,
                                Bucket* __restrict down, Bucket* __restrict down_right,
                                Bucket* __restrict up_right,
                                // (W), workspace: whether bd of the square to the left is dropped
                                std::int32_t* __restrict drop_right) {
    const float *ab_costs = row->right, *cd_costs = below->right, *vertical_costs = row->down;
    const float *ad_costs = row->down_right, *cb_costs = below->up_right;
    const float *nearest = row->nearest, *nearest_below = below->nearest;
    drop_right[0] = 0;
    for (std::int64_t x = 0; x < width - 1; ++x) {
      const float a = nearest[x], b = nearest[x + 1];
      const float c = nearest_below[x], d = nearest_below[x + 1];
      const float ab = ab_costs[x], cd = cd_costs[x];
      const float ac = vertical_costs[x], bd = vertical_costs[x + 1];
      const float ad = ad_costs[x], cb = cb_costs[x];
      const std::int32_t mutual_ab = joins_mutual(ab, a, b), mutual_cd = joins_mutual(cd, c, d);
      const std::int32_t mutual_ac = joins_mutual(ac, a, c), mutual_bd = joins_mutual(bd, b, d);
      const std::int32_t mutual_ad = joins_mutual(ad, a, d), mutual_cb = joins_mutual(cb, c, b);
      // Two of the three pixels of a triangle are mutual nearest neighbours.
      const std::int32_t abc = mutual_ab | mutual_ac | mutual_cb;
      const std::int32_t abd = mutual_ab | mutual_bd | mutual_ad;
      const std::int32_t acd = mutual_ac | mutual_cd | mutual_ad;
      const std::int32_t bcd = mutual_cb | mutual_cd | mutual_bd;
      // The edge costs more than both others of its triangle.
      const auto highest = [](float cost, float e, float f) -> std::int32_t {
        return (cost > e) & (cost > f);
      };
      const std::int32_t drop_ab =
          mutual_ab | (abc & highest(ab, ac, cb)) | (abd & highest(ab, bd, ad));
      const std::int32_t drop_cd =
          mutual_cd | (acd & highest(cd, ac, ad)) | (bcd & highest(cd, bd, cb));
      const std::int32_t drop_ac =
          mutual_ac | (abc & highest(ac, ab, cb)) | (acd & highest(ac, cd, ad));
      const std::int32_t drop_bd =
          mutual_bd | (abd & highest(bd, ab, ad)) | (bcd & highest(bd, cd, cb));
      const std::int32_t drop_ad =
          mutual_ad | (abd & highest(ad, ab, bd)) | (acd & highest(ad, ac, cd));
      const std::int32_t drop_cb =
          mutual_cb | (abc & highest(cb, ab, ac)) | (bcd & highest(cb, bd, cd));
      upper_right[x] = drop_ab ? dropped_bucket(Direction::right, x) : upper_right[x];
      lower_right[x] = drop_cd ? dropped_bucket(Direction::right, x) : lower_right[x];
      down[x] = drop_ac ? dropped_bucket(Direction::down, x) : down[x];
      down_right[x] = drop_ad ? dropped_bucket(Direction::down_right, x) : down_right[x];
      up_right[x] = drop_cb ? dropped_bucket(Direction::up_right, x) : up_right[x];
      drop_right[x + 1] = drop_bd;
    }
    for (std::int64_t x = 0; x < width; ++x)
      down[x] = drop_right[x] ? dropped_bucket(Direction::down, x) : down[x];
  }
};

// The regions of a row before step 3: single pixels, and pairs of mutual nearest neighbours. The
// first pixel of a pair's edge is its root.
struct UniteMutual {
  static CUEKIT_INLINE void run(const RowCosts* above, const RowCosts* row, const RowCosts* below,
                                const double* costs,  // (4, H, W), from this row on
                                std::int64_t pixels, double scale, std::int32_t first_pixel,
                                std::int32_t width,
                                std::int32_t* __restrict parents,  // (W)
                                float* __restrict thresholds,      // (W), workspace
                                Region* __restrict regions) {      // (W)
    const float* nearest = row->nearest;
    const float *nearest_above = above->nearest, *nearest_below = below->nearest;
    for (std::int32_t x = 0; x < width; ++x) {
      const float own = nearest[x];
      const auto is_parent = [=](float cost, float nearest_other) {
        return joins_mutual(cost, nearest_other, own);
      };
      std::int32_t parent = first_pixel + x;
      parent -= is_parent(row->right[x - 1], nearest[x - 1]) ? 1 : 0;
      parent -= is_parent(above->down[x], nearest_above[x]) ? width : 0;
      parent -= is_parent(above->down_right[x - 1], nearest_above[x - 1]) ? width + 1 : 0;
      parent += is_parent(below->up_right[x - 1], nearest_below[x - 1]) ? width - 1 : 0;
      parents[x] = parent;
    }
    const double half_scale = scale / 2;
    const auto single_threshold = static_cast<float>(scale);
    for (std::int32_t x = 0; x < width; ++x) {
      const float own = nearest[x];
      const bool right = joins_mutual(row->right[x], own, nearest[x + 1]);
      const bool down = joins_mutual(row->down[x], own, nearest_below[x]);
      const bool down_right = joins_mutual(row->down_right[x], own, nearest_below[x + 1]);
      const bool up_right = joins_mutual(row->up_right[x], own, nearest_above[x + 1]);
      double cost = costs[x];
      cost = down ? costs[Direction::down * pixels + x] : cost;
      cost = down_right ? costs[Direction::down_right * pixels + x] : cost;
      cost = up_right ? costs[Direction::up_right * pixels + x] : cost;
      const auto pair_threshold = static_cast<float>(cost + half_scale);
      thresholds[x] = (right | down | down_right | up_right) ? pair_threshold : -1;
    }
    for (std::int32_t x = 0; x < width; ++x) {
      const bool root = parents[x] == first_pixel + x, paired = thresholds[x] >= 0;
      const float threshold = paired ? thresholds[x] : single_threshold;
      regions[x].threshold = root ? threshold : infinity;
      regions[x].size = paired ? 2 : 1;
    }
  }
};

}  // namespace

MutualNeighbours::MutualNeighbours(double scale, const Graph& graph, const Forest& forest)
    : scale_(scale),
      graph_(graph),
      forest_(forest),
      costs_(4 * Direction::count * (graph.width + 2), infinity),
      nearest_(4 * (graph.width + 2), no_neighbour),
      thresholds_(graph.width),
      drop_right_(graph.width) {
  const std::int64_t stride = graph.width + 2;
  for (std::int64_t y = 0; y < 4; ++y) {
    float* const first = costs_.data() + y * Direction::count * stride + 1;
    rows_[y] = {first, first + stride, first + 2 * stride, first + 3 * stride,
                nearest_.data() + y * stride + 1};
  }
}

void MutualNeighbours::end_rows() {
  // No edge joins the last row to a row below it.
  const RowCosts &last = row(graph_.height - 1), &below = row(graph_.height);
  for (float* const costs : {last.down, last.down_right, below.up_right})
    std::fill_n(costs, graph_.width, infinity);
}

void MutualNeighbours::find_nearest(std::int64_t y) const {
  dispatch<FindNearest>(&row(y - 1), &row(y), &row(y + 1), static_cast<float>(scale_),
                        graph_.width);
}

void MutualNeighbours::unite(std::int64_t y) {
  const std::int64_t width = graph_.width, pixels = graph_.pixels, first_pixel = y * width;
  if (y < graph_.height - 1) {
    const auto buckets = [&](int direction, std::int64_t pixel) {
      return graph_.buckets + direction * pixels + pixel;
    };
    dispatch<DropRedundant>(&row(y), &row(y + 1), width, buckets(Direction::right, first_pixel),
                            buckets(Direction::right, first_pixel + width),
                            buckets(Direction::down, first_pixel),
                            buckets(Direction::down_right, first_pixel),
                            buckets(Direction::up_right, first_pixel + width), drop_right_.data());
  }
  dispatch<UniteMutual>(&row(y - 1), &row(y), &row(y + 1), graph_.costs + first_pixel, pixels,
                        double{scale_}, static_cast<std::int32_t>(first_pixel),
                        static_cast<std::int32_t>(width), forest_.parents + first_pixel,
                        thresholds_.data(), forest_.regions + first_pixel);
}

}  // namespace cuekit::cpu::felzenszwalb_detail
