// boundary_connectivity: for eight superpixels at a time, whose values lie side by side, first
// their distances to all others (shortest_paths.h), then the sums.
#include "cuekit/boundary_connectivity.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cpu/graph_edges.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuekit/softmax_exp.h"
#include "shortest_paths.h"

namespace cuekit::cpu {
namespace {

constexpr int block = sources_at_a_time;

ShortestPaths geodesics(const std::int32_t* edges, const std::int64_t* border_pixels,
                        const double* colours, const BoundaryConnectivityParams& p) {
  std::vector<std::vector<Arc>> neighbours(p.superpixels);
  const auto join = [&](std::int32_t a, std::int32_t b) {
    const double difference = std::sqrt(squared_distance(colours, p.colours, a, b));
    const double length = std::max(difference - p.clip, 0.0);
    neighbours[a].push_back({b, length});
    neighbours[b].push_back({a, length});
  };
  for (std::int64_t e = 0; e < p.edges; ++e) {
    const std::int32_t a = edges[2 * e], b = edges[2 * e + 1];
    if (border_pixels[a] == 0 || border_pixels[b] == 0) join(a, b);
  }
  std::vector<std::int32_t> at_border;
  for (std::int32_t i = 0; i < p.superpixels; ++i) {
    if (border_pixels[i] == 0) continue;
    for (const std::int32_t other : at_border) join(other, i);
    at_border.push_back(i);
  }
  return ShortestPaths(std::move(neighbours));
}

// In place: distances become similarities. Then their sums, weighted.
struct AddSimilar {
  static CUEKIT_INLINE void run(double* values,  // (places, 8)
                                std::int64_t places, double factor,
                                const double* sizes,   // (places)
                                const double* border,  // (places)
                                double* sums) {        // (2, 8)
    for (std::int64_t i = 0; i < block * places; ++i)
      values[i] = softmax_exp(values[i] * values[i] * factor);
    double area[block] = {}, length[block] = {};
    for (std::int64_t place = 0; place < places; ++place) {
      for (int k = 0; k < block; ++k) {
        area[k] += values[block * place + k] * sizes[place];
        length[k] += values[block * place + k] * border[place];
      }
    }
    std::copy_n(area, block, sums);
    std::copy_n(length, block, sums + block);
  }
};

// The contrasts of eight superpixels, not yet divided by the largest.
struct AddContrast {
  static CUEKIT_INLINE void run(const double* centres,  // (S, 2)
                                const double* colours,  // (S, D)
                                const double* weights,  // (S)
                                std::int64_t superpixels, std::int64_t dimensions, double factor,
                                const std::int64_t* chosen,  // (8)
                                double* sums) {              // (8)
    double sum[block] = {}, y[block], x[block];
    for (int k = 0; k < block; ++k) {
      y[k] = centres[2 * chosen[k]];
      x[k] = centres[2 * chosen[k] + 1];
    }
    for (std::int64_t j = 0; j < superpixels; ++j) {
      double squares[block] = {}, nearness[block];
      for (std::int64_t d = 0; d < dimensions; ++d) {
        const double here = colours[j * dimensions + d];
        for (int k = 0; k < block; ++k) {
          const double difference = here - colours[chosen[k] * dimensions + d];
          squares[k] += difference * difference;
        }
      }
      const double row = centres[2 * j], column = centres[2 * j + 1];
      for (int k = 0; k < block; ++k) {
        const double dy = row - y[k], dx = column - x[k];
        nearness[k] = softmax_exp((dy * dy + dx * dx) * factor);
      }
      for (int k = 0; k < block; ++k) sum[k] += std::sqrt(squares[k]) * nearness[k] * weights[j];
    }
    std::copy_n(sum, block, sums);
  }
};

}  // namespace

void boundary_connectivity(const std::int32_t* edges,          // (E, 2)
                           const std::int64_t* sizes,          // (S)
                           const std::int64_t* border_pixels,  // (S)
                           const double* centres,              // (S, 2)
                           const double* colours,              // (S, D)
                           double* connectivity,               // (S)
                           double* contrast,                   // (S)
                           const BoundaryConnectivityParams& p, Context& context) {
  check_edges(edges, p.edges, p.superpixels);
  const ShortestPaths paths = geodesics(edges, border_pixels, colours, p);
  const std::vector<std::int32_t>& nodes = paths.nodes();
  std::vector<double> areas, border;  // by place
  for (const std::int32_t node : nodes) {
    areas.push_back(static_cast<double>(sizes[node]));
    border.push_back(static_cast<double>(border_pixels[node]));
  }
  const std::int64_t blocks = (p.superpixels + block - 1) / block;
  parallel_for(blocks, context.threads, [&](std::int64_t task) {
    const std::int64_t first = task * block;
    std::vector<double> values(block * p.superpixels);
    double sums[2 * block];
    paths.find(first, values.data());
    dispatch<AddSimilar>(values.data(), p.superpixels, -1.0 / (2.0 * p.sigma * p.sigma),
                         static_cast<const double*>(areas.data()),
                         static_cast<const double*>(border.data()), &sums[0]);
    for (int k = 0; k < block && first + k < p.superpixels; ++k)
      connectivity[nodes[first + k]] = sums[block + k] / std::sqrt(sums[k]);
  });
  std::vector<double> weights;
  for (std::int64_t i = 0; i < p.superpixels; ++i) {
    const double background = 1.0 - softmax_exp(connectivity[i] * connectivity[i] / -2.0);
    weights.push_back(background * static_cast<double>(sizes[i]));
  }
  parallel_for(blocks, context.threads, [&](std::int64_t task) {
    const std::int64_t first = task * block;
    std::int64_t chosen[block];
    double sums[block];
    for (int k = 0; k < block; ++k) chosen[k] = std::min(first + k, p.superpixels - 1);
    dispatch<AddContrast>(centres, colours, static_cast<const double*>(weights.data()),
                          p.superpixels, p.colours,
                          -1.0 / (2.0 * p.spatial_sigma * p.spatial_sigma),
                          static_cast<const std::int64_t*>(chosen), &sums[0]);
    std::copy_n(sums, std::min<std::int64_t>(block, p.superpixels - first), contrast + first);
  });
  const double largest = *std::max_element(contrast, contrast + p.superpixels);
  if (largest > 0)
    for (std::int64_t i = 0; i < p.superpixels; ++i) contrast[i] /= largest;
}

}  // namespace cuekit::cpu
