// The permutohedral lattice (Adams, Baek & Davis 2010, doi:10.1111/j.1467-8659.2009.01645.x): which
// simplex a point lies in, its barycentric weights, and the keys of the simplex's vertices.
//
// A point has d features. A vertex has d + 1 integer coordinates that sum to 0 and leave the same
// remainder when divided by d + 1. A simplex has d + 1 vertices, one of each remainder: vertex k is
// the one of remainder k.
//
// simplex_of() is compiled for one point (V = float) on a GPU and for a vector of points
// (V = cpu::Lanes<float, n>) on the CPU, with the same bits. Its arithmetic and the order of it are
// those of pydensecrf, so that points fall into the same simplices.
//
// The key of a vertex is one 64-bit number: the common remainder and d quotients, each in as much
// room as the features' ranges need. No key is 0. Neighbouring vertices, and the vertices of a
// simplex, differ by a constant.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "cuekit/host_device.h"

// Inlined always: vectors cannot be passed between functions of different instruction sets.
#if defined(__GNUC__)
#define CUEKIT_HD_INLINE CUEKIT_HD inline __attribute__((always_inline))
#else
#define CUEKIT_HD_INLINE CUEKIT_HD inline
#endif

// Templates are compiled for these numbers of features d. Photos of 8 channels have 10 features.
#define CUEKIT_FOR_ALL_FEATURE_COUNTS(body) \
  body(1) body(2) body(3) body(4) body(5) body(6) body(7) body(8) body(9) body(10)

namespace cuekit {

// What a filter is divided by.
enum class Normalisation {
  none,
  symmetric,  // half before and half after it: by the square root of the filter of ones
  mean        // after it, by the filter of ones: then filtered values are weighted means
};

// In which order values are blurred along the axes. Blurs along different axes do not commute where
// vertices lack neighbours: the two orders are each other's adjoint.
enum class AxisOrder { ascending, descending };

using LatticeKey = unsigned long long;  // the 64-bit type of CUDA's atomic operations

// ---- operations on V: these are for V = float, those for vectors are in cpu/lanes.h ----

// A V that has `value` in every element.
template <class V>
CUEKIT_HD_INLINE V broadcast(float value) {
  return V::all(value);
}
template <>
CUEKIT_HD_INLINE float broadcast<float>(float value) {
  return value;
}

template <class T>
CUEKIT_HD_INLINE T if_less(float a, float b, T yes, T no) {
  return a < b ? yes : no;
}

template <class T>
CUEKIT_HD_INLINE T if_equal(float a, float b, T yes, T no) {
  return a == b ? yes : no;
}

// ---- keys ----

// How features are scaled into the lattice, and how the coordinates of a vertex are packed into a
// key.
template <int d>
struct Embedding {
  static constexpr int remainder_bits = d < 8 ? 3 : 4;
  static_assert(d < 1 << remainder_bits, "the remainder is at most d");
  static constexpr LatticeKey remainder_mask = (LatticeKey{1} << remainder_bits) - 1;

  float scale[d];
  std::int64_t lowest[d];  // the quotient that is stored as 0
  LatticeKey multiple[d];  // what a quotient is multiplied by in a key

  // Feature i is in [0, highest[i]].
  explicit Embedding(const double (&highest)[d]) {
    set_scale();
    int bits = remainder_bits;
    for (int i = 0; i < d; ++i) {
      // Coordinate i: the sum of the scaled features from i on, minus i times feature i - 1.
      double low = 0, high = 0;
      for (int j = i; j < d; ++j) high += highest[j] * static_cast<double>(scale[j]);
      if (i > 0) low = -i * highest[i - 1] * static_cast<double>(scale[i - 1]);
      const std::int64_t count = set_range(i, low, high);
      const int first = bits;
      while (count >> (bits - first) > 0) ++bits;
      if (bits > 64) throw too_fine();
      multiple[i] = LatticeKey{1} << first;
    }
  }

  // For any features, given the ranges of all coordinates but the last. Keys have no unused bits.
  Embedding(const float (&low)[d], const float (&high)[d]) {
    set_scale();
    LatticeKey next = LatticeKey{1} << remainder_bits;
    for (int i = 0; i < d; ++i) {
      const auto count = static_cast<LatticeKey>(
          set_range(i, static_cast<double>(low[i]), static_cast<double>(high[i])));
      if (next > ~LatticeKey{0} / count) throw too_fine();
      multiple[i] = next;
      next *= count;
    }
  }

  // What quotient i adds to a key.
  CUEKIT_HD LatticeKey part(int i, int quotient) const {
    return static_cast<LatticeKey>(quotient - lowest[i]) * multiple[i];
  }
  // What quotient i adds to a key when it grows by 1. Coordinate d is not stored.
  CUEKIT_HD LatticeKey unit(int i) const { return i < d ? multiple[i] : LatticeKey{0}; }

  // What must be added to a vertex's key for its neighbour along an axis. Along axis j, coordinate
  // j grows by d and the others shrink by 1; a common remainder of 0 becomes d.
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
  // Larger float32 coordinates would be off by more than an eighth of a lattice step.
  static constexpr double limit = 1 << 18;

  void set_scale() {
    const auto deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (d + 1));
    for (int i = 0; i < d; ++i)
      scale[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) *
                                    static_cast<double>(deviation));
  }

  // For coordinate i in [low, high]. Returns the number of its quotients.
  std::int64_t set_range(int i, double low, double high) {
    // The vertices of a simplex and their neighbours are one further out; two are spare.
    const double first = std::floor(low / (d + 1)) - 3, last = std::ceil(high / (d + 1)) + 3;
    if (last - first > limit) throw too_fine();
    lowest[i] = static_cast<std::int64_t>(first);
    return static_cast<std::int64_t>(last - first) + 1;
  }

  static std::invalid_argument too_fine() {
    return std::invalid_argument("image is too large for widths (sxy, srgb) as small as these");
  }
};

// ---- simplices ----

// All arrays are indexed by constants once loops are unrolled, so they stay in registers.
template <int d, class V>
struct Simplex {
  V quotient[d + 1];  // coordinates of vertex 0, divided by d + 1
  V rank[d + 1];      // of each coordinate: 0 where the point lies furthest above vertex 0, up to d
  V weight[d + 1];    // barycentric weight of vertex k

  // values[i] of the coordinate i whose rank is p.
  template <class T>
  CUEKIT_HD_INLINE T by_rank(int p, const T (&values)[d + 1]) const {
    const V wanted = broadcast<V>(static_cast<float>(p));
    T result = values[0];
    for (int i = 1; i <= d; ++i) result = if_equal(rank[i], wanted, values[i], result);
    return result;
  }
};

template <int d, class V>
CUEKIT_HD_INLINE Simplex<d, V> simplex_of(const V (&features)[d], const Embedding<d>& embedding) {
  const V zero = broadcast<V>(0.0f), one = broadcast<V>(1.0f);
  const V size = broadcast<V>(d + 1), shrink = broadcast<V>(1.0f / (d + 1));
  const V rounding = broadcast<V>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Simplex<d, V> simplex;
  V coordinate[d + 1], distance[d + 1];
  V sum = zero;
  for (int j = d; j > 0; --j) {
    const V scaled = features[j - 1] * embedding.scale[j - 1];
    coordinate[j] = sum - scaled * static_cast<float>(j);
    sum = sum + scaled;
  }
  coordinate[0] = sum;

  // The closest point whose coordinates are multiples of d + 1. Their sum should be 0.
  V excess = zero;
  for (int i = 0; i <= d; ++i) {
    simplex.quotient[i] = (coordinate[i] * shrink + rounding) - rounding;
    distance[i] = coordinate[i] - simplex.quotient[i] * size;
    excess = excess + simplex.quotient[i];
    simplex.rank[i] = zero;
  }
  for (int i = 0; i < d; ++i)
    for (int j = i + 1; j <= d; ++j) {
      const V less = if_less(distance[i], distance[j], one, zero);
      simplex.rank[i] = simplex.rank[i] + less;
      simplex.rank[j] = simplex.rank[j] + (one - less);
    }
  // Where the sum is not 0, the coordinates that were rounded furthest are rounded the other way.
  for (int i = 0; i <= d; ++i) {
    V& rank = simplex.rank[i];
    V& quotient = simplex.quotient[i];
    rank = rank + excess;
    const V turn = if_less(rank, zero, one, zero) - if_less(rank, size, zero, one);
    rank = rank + turn * size;
    quotient = quotient + turn;
    distance[i] = (coordinate[i] - quotient * size) * shrink;
  }

  V sorted[d + 1];  // distances by rank
  for (int p = 0; p <= d; ++p) sorted[p] = simplex.by_rank(p, distance);
  simplex.weight[0] = sorted[d] + (one - sorted[0]);
  for (int k = 1; k <= d; ++k) simplex.weight[k] = sorted[d - k] - sorted[d - k + 1];
  return simplex;
}

// The keys of a simplex from that of its vertex 0. unit_of_rank(p): unit() of the coordinate of
// rank p. From vertex k - 1 to vertex k, the coordinate of rank d - k + 1 shrinks by d and the
// others grow by 1.
template <int d, class UnitOfRank>
CUEKIT_HD_INLINE void simplex_keys(LatticeKey key_0, const UnitOfRank& unit_of_rank,
                                   LatticeKey (&keys)[d + 1]) {
  keys[0] = key_0;
  for (int k = 1; k <= d; ++k) keys[k] = keys[k - 1] + 1 - unit_of_rank(d - k + 1);
}

}  // namespace cuekit
