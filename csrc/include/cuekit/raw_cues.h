// Raw cues: thresholded maps (Kolesnikov & Lampert 2016; Sun et al., arXiv 1904.01749, on
// extracting cues from classifiers).
//
//   maps (B, C, N), present (B, C), background (B, N) -> out (B, C + 1, N) bool
//   out_0     = background map < background_threshold, or the bool background given, or nothing
//   out_{c+1} = M_c > foreground_threshold * max over pixels of M_c, where c is present and the
//               maximum is > 0
//
// Compared in float64. Maps of absent classes are never read.
#pragma once

#include <cstdint>

namespace cuekit {

struct RawCuesParams {
  std::int64_t batch;
  std::int64_t classes;  // C
  std::int64_t pixels;   // N
  double foreground_threshold;
  double background_threshold;
};

}  // namespace cuekit
