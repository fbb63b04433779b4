// Snapping cues to superpixels (Sun et al., arXiv 1904.01749, on modifying cues with super-pixels).
//
//   cues (B, K, h, w), superpixels (B, H, W) -> out (B, K, H, W) bool
//   m(k, s)   = mean over superpixel s of cues_k, resized to (H, W) as in resize.h: bool and uint8
//               (nonzero = 1) nearest, floating maps bilinear
//   out(k, n) = m(k, s(n)) > threshold * max over s of m(k, s)  and  m(k, s(n)) > 0
// A pixel in no superpixel (superpixels_view.h) keeps its input, as a pixel under no mask does in
// snap_masks.h: on where the resized cue is nonzero (bool, uint8), or where the resized map is
// > threshold * max of the channel before resizing and > 0 (floating maps).
//
// The resized cues are never stored. Counts of bool cues are integers, exact in any order. Sums of
// floating maps are float64, in raster order within a superpixel.
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/superpixels_view.h"

namespace cuekit {

struct SnapParams {
  std::int64_t batch;
  std::int64_t channels;             // K
  std::int64_t in_height, in_width;  // of the cues
  std::int64_t height, width;        // of the superpixels
  double threshold;
  std::int64_t num_superpixels;  // superpixel labels are below it
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is std::uint8_t (nonzero = on) or a floating type. Returns false if a cue has a value that
// is non-finite or at least 2^1023 in magnitude; a GPU does not check.
template <class T>
bool snap(const T* cues,                       // (B, K, h, w)
          const SuperpixelsView& superpixels,  // (B, H, W)
          bool* out,                           // (B, K, H, W)
          const SnapParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
