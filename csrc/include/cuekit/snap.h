// Snapping cues to superpixels (Sun et al., arXiv 1904.01749, on modifying cues with super-pixels).
//
//   cues (B, K, h, w), superpixels (B, H, W) -> out (B, K, H, W) bool
//   m(k, s)   = mean over superpixel s of cues_k, resized to (H, W) as in resize.h: bool and uint8
//               (nonzero = 1) nearest, floating maps bilinear
//   out(k, n) = m(k, s(n)) > threshold * max over s of m(k, s)  and  m(k, s(n)) > 0
//
// With `masks` (B, R, H, W) bool, which may overlap, in the place of superpixels: m(k, r) is the
// mean over mask r; out(k, n) is on where any mask over n is; a pixel under no mask keeps its
// input: nonzero (bool, uint8), or > threshold * max of the channel and > 0 (floating maps).
//
// The resized cues are never stored. Counts of bool cues are exact in any order; sums of floating
// maps run in raster order within a region.
#pragma once

#include <cstdint>

namespace cuekit {

struct SnapParams {
  std::int64_t batch;
  std::int64_t channels;             // K
  std::int64_t in_height, in_width;  // of the cues
  std::int64_t height, width;        // of the superpixels or masks
  std::int64_t masks;                // R; unused with superpixels
  double threshold;
};

}  // namespace cuekit
