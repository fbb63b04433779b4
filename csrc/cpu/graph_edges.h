// The edges of a graph of superpixels, checked, and listed for each superpixel.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace cuekit::cpu {

// Throws where an edge does not join two different superpixels, or is not after the edge before it.
inline void check_edges(const std::int32_t* edges,  // (count, 2)
                        std::int64_t count, std::int64_t superpixels) {
  const auto text = [](const std::int32_t* edge) {
    return "(" + std::to_string(edge[0]) + ", " + std::to_string(edge[1]) + ")";
  };
  for (std::int64_t e = 0; e < count; ++e) {
    const std::int32_t *edge = edges + 2 * e, *before = edge - 2;
    if (edge[0] < 0 || edge[0] >= edge[1] || edge[1] >= superpixels)
      throw std::invalid_argument("graph.edges must be pairs i < j of numbers from 0 to " +
                                  std::to_string(superpixels - 1) + ", got " + text(edge));
    if (e > 0 && (edge[0] < before[0] || (edge[0] == before[0] && edge[1] <= before[1])))
      throw std::invalid_argument("graph.edges must be sorted and each there once, got " +
                                  text(edge) + " after " + text(before));
  }
}

// The arcs of superpixel i, one for each of its edges, are begin[i] .. begin[i + 1].
struct Arcs {
  std::vector<std::int64_t> begin;  // (S + 1)
  std::vector<std::int32_t> to;     // (2 E): the other superpixel
  std::vector<std::int64_t> edge;   // (2 E)

  // The edges are checked already.
  Arcs(const std::int32_t* edges,  // (count, 2)
       std::int64_t count, std::int64_t superpixels)
      : begin(superpixels + 1), to(2 * count), edge(2 * count) {
    for (std::int64_t i = 0; i < 2 * count; ++i) ++begin[edges[i] + 1];
    for (std::int64_t s = 0; s < superpixels; ++s) begin[s + 1] += begin[s];
    std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
    for (std::int64_t i = 0; i < 2 * count; ++i) {
      const std::int64_t arc = next[edges[i]]++;
      to[arc] = edges[i ^ 1];
      edge[arc] = i / 2;
    }
  }
};

// |colour(a) - colour(b)|^2
inline double squared_distance(const double* colours,  // (S, count)
                               std::int64_t count, std::int32_t a, std::int32_t b) {
  double sum = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    const double difference = colours[a * count + k] - colours[b * count + k];
    sum += difference * difference;
  }
  return sum;
}

}  // namespace cuekit::cpu
