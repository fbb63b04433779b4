// Background map: low where the network's top features are weak (Sun et al., arXiv 1904.01749, on
// extracting cues from classifiers).
//
//   features_i (B, D_i, h_i, w_i) -> out (B, H, W) in [0, 1], low = background
//   total = sum over i of resize(sum over channels of features_i), bilinear as in resize.h
//   out   = (total - min) / (max - min) per image; 0 where max = min
//
// Sums are float64, channels in ascending order.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct BackgroundParams {
  std::int64_t batch;
  std::int64_t channels;  // D of this feature tensor
  std::int64_t in_height, in_width;
  std::int64_t out_height, out_width;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// Adds one feature tensor to `total`: its sums over channels, resized. The caller sets `total` to
// zero before the first call. Returns false if a sum is not finite; a GPU does not check.
template <class T>
bool background_add(const T* features,  // (B, D, h, w)
                    double* total,      // (B, H, W)
                    const BackgroundParams& p, Context& context);

// Normalises each image of `total`. Returns false if the range of an image is not finite; a GPU
// does not check.
template <class T>
bool background_normalize(const double* total,  // (B, N)
                          T* out,               // (B, N)
                          std::int64_t batch, std::int64_t pixels, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
