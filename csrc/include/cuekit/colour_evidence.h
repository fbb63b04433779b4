// Colour evidence: how often a class, and how often the background, has the colour of a pixel.
//
//   probabilities (B, K, N), image (B, N, 3) -> out (B, K - 1, N)
//
// The image is in sRGB, uint8, or in L*a*b*, float32.
//
//   bin(i) = (floor(L bins / 100), floor(a bins / 128 + gray), floor(b bins / 128 + gray)) of pixel
//            i's colour in L*a*b* (rgb_to_lab.h), rounded to float32;  gray = floor(bins / 2) +
//            1/2; each clipped to 0..bins - 1
//   counts(k, bin) = sum of probabilities(k, i) over the pixels i of the bin
//   shares = counts / N, smoothed along each axis: sum over j of shares(bin + j) * weight(|j|),
//            beyond the last bin 0
//   logs(k, bin) = log(max(shares(k, bin), 0) + floor)
//   out(k - 1, i) = logs(k, bin(i)) - logs(0, bin(i)), clipped to [-limit, limit]
//
// Bins are computed in float32, the rest in float64. Sums of counts run in raster order.
//
// Public function: cuekit.colour_evidence.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct ColourEvidenceParams {
  std::int64_t batch;
  std::int64_t channels;  // K, at least 2
  std::int64_t pixels;    // N
  std::int64_t bins;      // along each axis, at most 64
  const double* weights;  // (R + 1), of the distances 0..R
  std::int64_t radius;    // R, below the number of bins
  double floor, limit;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is float or double; C is std::uint8_t or float. All values are finite.
template <class T, class C>
void colour_evidence(const T* probabilities,  // (B, K, N)
                     const C* image,          // (B, N, 3)
                     T* out,                  // (B, K - 1, N)
                     const ColourEvidenceParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
