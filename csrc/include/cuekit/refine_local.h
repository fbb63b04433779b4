// Local refinement of maps by a photo: PAR (Ru et al., CVPR 2022, arXiv 2203.02664) and PAMR
// (Araslanov & Roth, CVPR 2020, arXiv 2005.08104).
//
//   maps (B, C, h, w), photos I (B, H, W, channels) or (B, channels, H, W) -> out (B, C, H, W)
//
// The maps are resized to the photo's size, bilinear with aligned corners. Each iteration replaces
// a map's value m at every pixel p by a weighted sum over the pixel's neighbours n:
//
//   m(p) <- sum over n of w(p, n) m(n)
//
// Each dilation d gives 8 neighbours: d rows and columns away, in 8 directions, by row and column.
// Rows and columns outside the photo count as the nearest ones inside. The pixel itself is none.
//
//   par:   w = softmax(a) + 0.01 softmax(b), over n; the sum is 1.01
//          a(p, n) = mean over channels of -(|I(n) - I(p)| / (s(p) + 1e-8) / 0.3)^2
//          b(n)    = -(r(n) / (s_r + 1e-8) / 0.3)^2, with the distance r = d or sqrt(2) d
//   pamr:  w = softmax(a)
//          a(p, n) = mean over channels of -|I(n) - I(p)| / (0.1 s(p) + 1e-8)
//
// s is the standard deviation (divided by the number of values less 1) of a channel over the
// neighbours of p, for pamr over each dilation's neighbours and p; s_r that of the distances. Where
// all of these pixels have the same colour, softmax(a) is uniform.
//
// Weights and sums are in Real: float32 for maps of float16 and float32, float64 for float64. The
// terms of a are computed by the operations of the published modules in their order: where a is
// large, another order would change the weights. Standard deviations and the sum of exponentials
// are in float64. Sums over neighbours run in the order above.
//
// Public function: cuekit.refine_local.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuekit/context.h"
#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "cuekit/softmax_exp.h"

namespace cuekit {

enum class LocalAffinity : int { par, pamr };

constexpr int most_dilations = 64;

struct RefineLocalParams {
  std::int64_t batch, channels;      // B, C
  std::int64_t in_height, in_width;  // h, w
  std::int64_t height, width;        // H, W
  std::int64_t photo_channels;
  bool channels_first;  // of the photos
  LocalAffinity affinity;
  std::int64_t iterations;
  int dilation_count;
  std::int32_t dilations[most_dilations];
  // 0.01 softmax(b) for neighbours in a row or column and for diagonal ones; 0 for pamr.
  double straight[most_dilations], diagonal[most_dilations];

  CUEKIT_HD int neighbours() const { return 8 * dilation_count; }
  // Of the values whose standard deviation is taken.
  CUEKIT_HD int samples() const {
    return (affinity == LocalAffinity::par ? 8 : 9) * dilation_count;
  }
};

// What is computed in for maps of type T.
template <class T>
using refine_type = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Direction i of 8.
CUEKIT_HD inline int direction_y(int i) { return i < 3 ? -1 : i < 5 ? 0 : 1; }
CUEKIT_HD inline int direction_x(int i) {
  return i == 0 || i == 3 || i == 5 ? -1 : i == 1 || i == 6 ? 0 : 1;
}
CUEKIT_HD inline double distance_weight(const RefineLocalParams& p, int neighbour) {
  const int i = neighbour % 8;
  const bool diagonal = direction_y(i) != 0 && direction_x(i) != 0;
  return diagonal ? p.diagonal[neighbour / 8] : p.straight[neighbour / 8];
}

// Fills in the weights of distances.
inline void set_distance_weights(RefineLocalParams* p) {
  const double root = std::sqrt(2.0);
  double sum = 0.0, squares = 0.0, total = 0.0;
  for (int k = 0; k < p->dilation_count; ++k) sum += 4.0 * (1.0 + root) * p->dilations[k];
  const double mean = sum / p->neighbours();
  for (int k = 0; k < p->dilation_count; ++k) {
    const double straight = p->dilations[k] - mean, diagonal = root * p->dilations[k] - mean;
    squares += 4.0 * (straight * straight + diagonal * diagonal);
  }
  const double deviation = std::sqrt(squares / (p->neighbours() - 1)) + 1e-8;
  for (int k = 0; k < p->dilation_count; ++k) {
    const double straight = p->dilations[k] / deviation / 0.3, diagonal = root * straight;
    // Not less their maximum, as usual for softmax: the largest is at least e^-227.
    p->straight[k] = std::exp(-straight * straight);
    p->diagonal[k] = std::exp(-diagonal * diagonal);
    total += 4.0 * (p->straight[k] + p->diagonal[k]);
  }
  for (int k = 0; k < p->dilation_count; ++k) {
    const double factor = p->affinity == LocalAffinity::par ? 0.01 / total : 0.0;
    p->straight[k] *= factor;
    p->diagonal[k] *= factor;
  }
}

// A photo's value. Beyond 1e18 squares of differences would leave float32; NaN only occurs on a
// GPU, where values are not checked.
template <class Real, class P>
CUEKIT_HD inline Real photo_value(P stored) {
  constexpr double limit = 1e18;
  const double value = load(stored);
  return static_cast<Real>(value > -limit ? (value < limit ? value : limit) : -limit);
}

// A channel's part of a(p, n), times the number of channels.
template <class Real>
CUEKIT_HD inline Real par_term(Real neighbour, Real pixel, Real deviation) {
  const Real difference = neighbour - pixel;
  const Real size = difference < Real{0} ? -difference : difference;
  const Real scaled = size / (deviation + static_cast<Real>(1e-8)) / static_cast<Real>(0.3);
  return -(scaled * scaled);
}
template <class Real>
CUEKIT_HD inline Real pamr_term(Real neighbour, Real pixel, Real deviation) {
  const Real difference = neighbour - pixel;
  const Real size = difference < Real{0} ? -difference : difference;
  return -size / (static_cast<Real>(1e-8) + static_cast<Real>(0.1) * deviation);
}

// The mean of the terms; not -infinity, of which softmax would make NaN.
template <class Real>
CUEKIT_HD inline Real mean_of_terms(Real sum, Real channels) {
  constexpr Real lowest = static_cast<Real>(-1e38);
  const Real mean = sum / channels;
  return mean > lowest ? mean : lowest;
}

// Where pixel i of `out` pixels reads from `in` pixels, with aligned corners: at i (in - 1) /
// (out - 1), the quotient of integers.
struct CornerTap {
  std::int64_t low, high;
  double weight;  // of `high`
};
CUEKIT_HD inline CornerTap corner_tap(std::int64_t i, std::int64_t in, std::int64_t out) {
  if (in == 1 || out == 1) return {0, 0, 0.0};
  const std::int64_t position = i * (in - 1);
  const std::int64_t low = position / (out - 1), rest = position - low * (out - 1);
  return {low, rest > 0 ? low + 1 : low, static_cast<double>(rest) / static_cast<double>(out - 1)};
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// Returns false if a map, a floating photo or a result is not finite; a GPU does not check.
template <class T, class P>
bool refine_local(const T* maps,    // (B, C, h, w)
                  const P* photos,  // (B, H, W, channels), or (B, channels, H, W)
                  T* out,           // (B, C, H, W)
                  const RefineLocalParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
