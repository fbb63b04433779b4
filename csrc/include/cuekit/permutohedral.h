// From features to the permutohedral lattice's simplices and keys (Adams, Baek & Davis 2010,
// doi:10.1111/j.1467-8659.2009.01645.x), with the arithmetic of pydensecrf in its order, so that
// pixels fall into the same simplices.
//
// A vertex has d + 1 coordinates, congruent modulo d + 1, that sum to 0. So its key is one 64-bit
// number: the common remainder and d quotients, each in as many bits as the photo's size and the
// widths call for. A key is never 0. The vertices of a simplex, and the neighbours of a vertex, are
// a constant away. Vertex k of a simplex is the one of remainder k.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "cuekit/host_device.h"

namespace cuekit {

using LatticeKey = unsigned long long;  // as CUDA's atomics take it

// How features are scaled, and where a quotient stands in a key.
template <int d>
struct Embedding {
  static constexpr int remainder_bits = 3;
  static_assert(d < 1 << remainder_bits, "the remainder is at most d");
  static constexpr LatticeKey remainder_mask = (LatticeKey{1} << remainder_bits) - 1;

  float scale[d];
  std::int64_t lowest[d];  // quotient that is stored as 0
  int shift[d];

  // Every feature lies in [0, highest].
  explicit Embedding(const double (&highest)[d]) {
    const auto deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (d + 1));
    for (int i = 0; i < d; ++i)
      scale[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) *
                                    static_cast<double>(deviation));
    int bits = remainder_bits;
    for (int i = 0; i < d; ++i) {
      // Coordinate i: the sum of the scaled features from i on, less i times the one before it.
      double low = 0, high = 0;
      for (int j = i; j < d; ++j) high += highest[j] * static_cast<double>(scale[j]);
      if (i > 0) low = -i * highest[i - 1] * static_cast<double>(scale[i - 1]);
      // The corners of a simplex and the neighbours of these reach one further; two to spare.
      const double first = std::floor(low / (d + 1)) - 3, last = std::ceil(high / (d + 1)) + 3;
      if (last - first > limit) throw too_fine();
      lowest[i] = static_cast<std::int64_t>(first);
      shift[i] = bits;
      const auto count = static_cast<std::int64_t>(last - first) + 1;
      while (count >> (bits - shift[i]) > 0) ++bits;
      if (bits > 64) throw too_fine();
    }
  }

  CUEKIT_HD LatticeKey unit(int i) const {
    return i < d ? LatticeKey{1} << shift[i] : LatticeKey{0};
  }

  // What leads from a vertex to its neighbour along an axis. Along axis j, coordinate j grows by d
  // and the others shrink by 1; where the common remainder is 0, it becomes d.
  CUEKIT_HD LatticeKey step(int axis, bool from_remainder_0) const {
    LatticeKey result = unit(axis);
    if (!from_remainder_0) return result - 1;
    for (int i = 0; i < d; ++i) result -= unit(i);
    return result + d;
  }
  CUEKIT_HD LatticeKey after(LatticeKey key, int axis) const {
    return key + step(axis, (key & remainder_mask) == 0);
  }
  CUEKIT_HD LatticeKey before(LatticeKey key, int axis) const {
    return key - step(axis, (key & remainder_mask) == d);
  }

 private:
  // Beyond, float32 coordinates would be off by more than an eighth of a lattice step.
  static constexpr double limit = 1 << 18;

  static std::invalid_argument too_fine() {
    return std::invalid_argument("image is too large for CRF widths (sxy, srgb) as small as these");
  }
};

template <int d>
struct Simplex {
  LatticeKey keys[d + 1];
  float weights[d + 1];  // barycentric
};

// Arrays are indexed by constants only: once loops are unrolled, all of it stands in registers.
template <int d>
CUEKIT_HD inline Simplex<d> simplex_of(const float (&features)[d], const Embedding<d>& e) {
  constexpr float shrink = 1.0f / (d + 1);
  constexpr float rounding = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  float coordinate[d + 1], distance[d + 1];
  int quotient[d + 1], rank[d + 1];
  float sum = 0.0f;
  for (int j = d; j > 0; --j) {
    const float scaled = features[j - 1] * e.scale[j - 1];
    coordinate[j] = sum - scaled * static_cast<float>(j);
    sum = sum + scaled;
  }
  coordinate[0] = sum;

  // The closest point whose coordinates are multiples of d + 1. Their sum should be 0.
  int excess = 0;
  for (int i = 0; i <= d; ++i) {
    const float nearest = (coordinate[i] * shrink + rounding) - rounding;
    distance[i] = coordinate[i] - nearest * (d + 1);
    quotient[i] = static_cast<int>(nearest);
    excess += quotient[i];
    rank[i] = 0;
  }
  // Rank 0 has the coordinate that lies furthest above.
  for (int i = 0; i < d; ++i)
    for (int j = i + 1; j <= d; ++j) {
      const int less = distance[i] < distance[j] ? 1 : 0;
      rank[i] += less;
      rank[j] += 1 - less;
    }
  // Where the sum is not 0, those that were rounded furthest are rounded the other way.
  for (int i = 0; i <= d; ++i) {
    rank[i] += excess;
    const int turn = (rank[i] < 0 ? 1 : 0) - (rank[i] < d + 1 ? 0 : 1);
    rank[i] += turn * (d + 1);
    quotient[i] += turn;
    distance[i] = (coordinate[i] - static_cast<float>(quotient[i]) * (d + 1)) * shrink;
  }

  float sorted[d + 1];     // distances by rank
  LatticeKey unit[d + 1];  // of the coordinates by rank
  for (int p = 0; p <= d; ++p) {
    sorted[p] = distance[0];
    unit[p] = e.unit(0);
    for (int i = 1; i <= d; ++i) {
      if (rank[i] == p) sorted[p] = distance[i];
      if (rank[i] == p) unit[p] = e.unit(i);
    }
  }
  Simplex<d> result;
  result.keys[0] = 0;
  for (int i = 0; i < d; ++i)
    result.keys[0] += static_cast<LatticeKey>(quotient[i] - e.lowest[i]) << e.shift[i];
  result.weights[0] = sorted[d] + (1.0f - sorted[0]);
  // From the vertex of remainder k - 1 to that of k, the coordinate of rank d - k + 1 shrinks by d
  // and the others grow by 1.
  for (int k = 1; k <= d; ++k) {
    result.keys[k] = result.keys[k - 1] + 1 - unit[d - k + 1];
    result.weights[k] = sorted[d - k] - sorted[d - k + 1];
  }
  return result;
}

}  // namespace cuekit
