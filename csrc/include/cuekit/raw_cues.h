// Raw cues: thresholded maps (Kolesnikov & Lampert 2016; Sun et al., arXiv 1904.01749, on
// extracting cues from classifiers).
//
//   maps (B, C, N), present (B, C), background (B, N) -> out (B, C + 1, N) bool
//   out_0     = background map < background_threshold; or a background cue (bool) as it is; or
//               off everywhere where no background is given
//   out_{c+1} = M_c > foreground_threshold * max over pixels of M_c, where c is present and the
//               maximum is > 0
//
// Comparisons are in float64. Maps of absent classes are never read.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct RawCuesParams {
  std::int64_t batch;
  std::int64_t classes;  // C
  std::int64_t pixels;   // N
  double foreground_threshold;
  double background_threshold;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// Writes channels 1..C. Returns false if a present class's map has a non-finite value; a GPU does
// not check.
template <class T>
bool raw_foreground(const T* maps,                // (B, C, N)
                    const std::uint8_t* present,  // (B, C), nonzero = present
                    bool* out,                    // (B, C + 1, N)
                    const RawCuesParams& p, Context& context);

// Writes channel 0. T is a floating type for a background map, or flag for a background cue.
// Returns false if the map has a non-finite value; a GPU does not check.
template <class T>
bool raw_background(const T* background,  // (B, N), or null for no background
                    bool* out,            // (B, C + 1, N)
                    const RawCuesParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
