// Random walk between the cells of a map: values spread to neighbours that no boundary separates
// (IRN: Ahn, Cho, Kwak, arXiv 1904.05044; PSA: Ahn, Kwak, arXiv 1803.10464).
//
//   maps (B, C, h, w), and boundary (B, h, w) or affinities (B, K, h, w) -> out (B, C, h, w)
//   a(i, j) = (1 - max of boundary over the straight path from cell i to cell j)^beta, or
//             affinities(i, j)^beta
//   x_0     = maps (1 - boundary), or maps
//   x_{t+1}(i) = (x_t(i) + sum over j of a(i, j) x_t(j)) / (1 + sum over j of a(i, j))
//              = x_t(i) + (sum over j of a(i, j) (x_t(j) - x_t(i))) / (1 + sum over j of a(i, j))
//   out     = x_steps, which is P^steps x_0
//
// i and j are cells at a distance below `radius`. a is symmetric, so one value is given and stored
// for each pair: affinities(k, y, x) is that of cells (y, x) and (y + dy, x + dx), (dy, dx) being
// the k-th of K offsets in the order of all_offsets(). Pairs whose second cell is outside the map
// do not exist. The path of an offset has all cells of the rectangle between both ends, ends
// included, whose distance from the straight line is below 1.
//
// This is the product with the matrix of IRN's and PSA's code, T = A D^-1 with D the sums of A's
// columns, raised to the power `steps`: no matrix is formed, and a step reads K values per cell.
//
// The second form is computed. Within a region, values become nearly equal after some steps. In the
// first form, the rounding of its sums is then the same in every step and adds up: in float32, to
// more than 1e-4 of the values after 256 steps. In the second form it vanishes with the
// differences.
//
// Nor are all steps taken. With P the matrix of one step and T_k the Chebyshev polynomials,
//
//   P^steps = sum over k of Pr(|S| = k) T_k(P),   T_0 = 1, T_1 = P, T_{k+1} = 2 P T_k - T_{k-1},
//
// where S is the sum of `steps` random signs. (The eigenvalues of P are real because a is
// symmetric. For an eigenvalue cos t it says that cos(t)^steps is the mean of cos(t S).) |S| is
// hardly ever much larger than sqrt(steps), and no T_k(P) has an eigenvalue above 1. So terms whose
// probabilities together are below a fraction of the unit roundoff are left out: 92 products with P
// remain of 256 in float, 134 in double. By differences, with x_k = T_k(P) x_0 and d_k = x_k -
// x_{k-1}, this is
//
//   d_1 = (P - 1) x_0,   d_{k+1} = d_k + 2 (P - 1) x_k,   x_{k+1} = x_k + d_{k+1}
//   out = x_0 + sum over k > 0 of Pr(|S| >= k) d_k
//
// A walk is computed in double for double maps, else in float. Both backends add the terms of a
// cell in the same order: the neighbours at k = 0, 1, ..., K - 1; apart from them those at minus
// these offsets; then both sums.
//
// Public function: cuekit.random_walk.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cuekit/context.h"
#include "cuekit/half.h"

namespace cuekit {

struct RandomWalkParams {
  std::int64_t batch;
  std::int64_t channels;  // C
  std::int64_t height, width;
  int radius;            // 2 to max_radius
  std::int64_t offsets;  // K
  double beta;
  std::int64_t steps;
};

// By so much may rounding have left values outside [0, 1]; RANGE_TOLERANCE of cuekit/_checks.py.
constexpr double rounding_tolerance = 1e-3;

constexpr int max_radius = 16;
constexpr int max_offsets = 396;  // K of the largest radius

// A neighbour, and the index of its plane in `affinities`.
struct Offset {
  std::int16_t dy, dx, k;
};

struct Offsets {
  int count;
  int reach;  // the largest distance along one axis
  Offset items[max_offsets];
};

// Offsets at a distance below `radius`, one of each pair of opposite ones: (0, 1), (0, 2), ...;
// then dy = 1, 2, ..., and dx ascending within each. Those that leave every map of this size are
// left out.
inline Offsets all_offsets(int radius, std::int64_t height, std::int64_t width) {
  Offsets offsets{};
  std::int16_t k = 0;
  for (int dy = 0; dy < radius; ++dy) {
    for (int dx = dy == 0 ? 1 : 1 - radius; dx < radius; ++dx) {
      if (dy * dy + dx * dx >= radius * radius) continue;
      const int side = dx < 0 ? -dx : dx;
      if (dy < height && side < width) {
        offsets.items[offsets.count++] = {static_cast<std::int16_t>(dy),
                                          static_cast<std::int16_t>(dx), k};
        const int larger = dy < side ? side : dy;
        if (offsets.reach < larger) offsets.reach = larger;
      }
      ++k;
    }
  }
  return offsets;
}

// Whether (y, x), in the rectangle from (0, 0) to the offset, is on its path.
CUEKIT_HD inline bool on_path(const Offset& offset, int y, int x) {
  const int across = offset.dy * x - offset.dx * y;
  return across * across < offset.dy * offset.dy + offset.dx * offset.dx;
}

// Pr(|S| >= k) for k = 1, 2, ..., S being the sum of `steps` random signs. Those that are left out
// are below `tolerance`.
inline std::vector<double> walk_weights(std::int64_t steps, double tolerance) {
  std::vector<double> weights;
  const double n = static_cast<double>(steps);
  // In the ratio of the binomial coefficients (n, (n - k) / 2), with a total that is not 1.
  double binomial = 1.0, total = 0.0;
  for (std::int64_t k = steps % 2;; k += 2) {
    const double both_signs = k == 0 ? binomial : 2.0 * binomial;
    total += both_signs;
    weights.resize(static_cast<std::size_t>(k));
    if (k > 0) weights.back() = both_signs;
    const double ratio = (n - static_cast<double>(k)) / (n + static_cast<double>(k) + 2.0);
    binomial *= ratio;
    // Further ratios are smaller: the rest is below a geometric series.
    if (2.0 * binomial <= tolerance * total * (1.0 - ratio)) break;
  }
  double sum = 0.0;
  for (auto weight = weights.rbegin(); weight != weights.rend(); ++weight) {
    sum += *weight / total;
    *weight = sum;
  }
  return weights;
}

// What maps of type T are computed in.
template <class T>
using walk_type = std::conditional_t<std::is_same_v<T, double>, double, float>;

// For walk_weights: an eighth of the unit roundoff.
template <class C>
constexpr double walk_tolerance = std::is_same_v<C, double> ? 0x1p-56 : 0x1p-27;

// base^beta for base in [0, 1]. Small integer exponents, which are the usual ones, by
// multiplication: it is faster, and the same on both backends.
CUEKIT_HD inline double affinity_power(double base, double beta) {
  const int whole = beta <= 64.0 ? static_cast<int>(beta) : 0;
  if (whole != beta) return pow(base, beta);
  double result = 1.0;
  for (int bits = whole; bits > 0; bits >>= 1) {
    if ((bits & 1) != 0) result *= base;
    base *= base;
  }
  return result;
}

// Values of a boundary and affinities may leave [0, 1] by rounding. NaN becomes 0.
CUEKIT_HD inline double clipped(double value) {
  return value > 0.0 ? (value < 1.0 ? value : 1.0) : 0.0;
}

// Values are scaled down for the walk, so that sums over a cell's at most 2 max_offsets neighbours
// are finite.
constexpr double walk_scale = 1.0 / 4096.0;

template <class T>
CUEKIT_HD inline walk_type<T> scaled_down(T value, double share) {
  return static_cast<walk_type<T>>(load(value) * walk_scale * share);
}

// Rounding can leave the range of T where the largest value was at its end.
template <class T>
CUEKIT_HD inline T scaled_up(walk_type<T> value) {
  const double largest = std::is_same_v<T, half>    ? 65504.0
                         : std::is_same_v<T, float> ? 3.4028234663852886e38
                                                    : 1.7976931348623157e308;
  const double wide = static_cast<double>(value) / walk_scale;
  return store<T>(wide > largest ? largest : wide < -largest ? -largest : wide);
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// One of `boundary` and `affinities` is null. Returns false if a map is not finite, or one of their
// values leaves [0, 1] by more than rounding_tolerance; a GPU does not check, and clips them.
template <class T, class E>
bool random_walk(const T* maps,        // (B, C, h, w)
                 const E* boundary,    // (B, h, w)
                 const E* affinities,  // (B, K, h, w)
                 T* out,               // (B, C, h, w)
                 const RandomWalkParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
