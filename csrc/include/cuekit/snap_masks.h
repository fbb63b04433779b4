// Snapping cues to masks that may overlap, such as those of a promptable segmenter.
//
//   cues (B, K, h, w), masks (B, R, H, W) bool -> out (B, K, H, W) bool
//
// Cues are resized to (H, W) as in resize.h: bool and uint8 (nonzero = 1) nearest, floating maps
// bilinear. A channel's input P_k is the set of pixels where it is nonzero (bool, uint8), or where
// it is > threshold * max of the channel and > 0 (floating maps). Mask M_r is accepted for channel
// k:
//   mean:  m(k, r) > threshold * max over r of m(k, r)  and  m(k, r) > 0,
//          with m(k, r) the mean of cues_k over M_r
//   sepl:  |M_r and P_k| > 0.5 |M_r|  or  |M_r and P_k| >= 0.85 |P_k|,  never where P_k is empty
//          (Chen et al., arXiv 2305.05803)
// out(k, n) is on where an accepted mask covers n. A pixel that no mask covers keeps its input.
// Channels are independent of each other.
//
// Counts are integers, exact in any order. Sums of floating maps are float64, in raster order
// within a mask. sepl compares integers, 2 a > b and 20 a >= 17 b. Comparing float64 quotients with
// 0.5 and 0.85 gives the same answers: with fewer than 2^31 pixels, no other quotient rounds to
// these two.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

enum class MaskRule : int { mean, sepl };

struct SnapMasksParams {
  std::int64_t batch;
  std::int64_t channels;             // K
  std::int64_t in_height, in_width;  // of the cues
  std::int64_t masks;                // R
  std::int64_t height, width;        // of the masks
  double threshold;
  MaskRule accept;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is std::uint8_t (nonzero = on) or a floating type. Returns false if a cue has a value that
// is non-finite or at least 2^1023 in magnitude.
template <class T>
bool snap_masks(const T* cues,              // (B, K, h, w)
                const std::uint8_t* masks,  // (B, R, H, W), nonzero = on
                bool* out,                  // (B, K, H, W)
                const SnapMasksParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
