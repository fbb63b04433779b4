// Snapping cues to masks that may overlap, such as a promptable segmenter gives.
//
//   cues (B, K, h, w), masks (B, R, H, W) bool -> out (B, K, H, W) bool
//
// Cues are resized to (H, W) as in resize.h: bool and uint8 (nonzero = 1) nearest, floating maps
// bilinear. A channel's input P_k is the set of pixels where it is nonzero (bool, uint8), or where
// it is > threshold * max of the channel and > 0 (floating maps). Mask r is accepted for channel k:
//   m(k, r) > threshold * max over r of m(k, r)  and  m(k, r) > 0,  m = mean of cues_k over mask r
// out(k, n) is on where an accepted mask covers n; a pixel under no mask keeps its input.
//
// Counts of bool cues are exact in any order; sums of floating maps run in raster order within a
// mask.
#pragma once

#include <cstdint>

namespace cuekit {

struct SnapMasksParams {
  std::int64_t batch;
  std::int64_t channels;             // K
  std::int64_t in_height, in_width;  // of the cues
  std::int64_t masks;                // R
  std::int64_t height, width;        // of the masks
  double threshold;
};

}  // namespace cuekit
