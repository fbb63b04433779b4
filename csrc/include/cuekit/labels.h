// One label per pixel from cues that may overlap.
//
//   cues (B, K, N) bool, class_ids (K) -> out (B, N)
//   out(n) = class_ids(k) of the channel k that is on at n; `unknown` where no channel is on
//   Foreground (channels 1..K-1): where two or more are on,
//     smallest   the one with the fewest pixels in its image, ties to the lower index
//     ignore     the label `ignore`
//   Background (channel 0) and foreground both on: foreground, background, or the label `ignore`.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

enum class ForegroundOverlap : int { smallest, ignore };
enum class BackgroundOverlap : int { foreground, background, ignore };

struct LabelsParams {
  std::int64_t batch;
  std::int64_t channels;  // K
  std::int64_t pixels;    // N
  ForegroundOverlap overlap;
  BackgroundOverlap background_overlap;
  std::int64_t unknown, ignore;  // labels
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// L is std::uint8_t or std::int32_t. On a GPU at most 960 channels: their class ids are passed by
// value in the kernel's parameters.
template <class L>
void labels(const std::uint8_t* cues,       // (B, K, N), nonzero = on
            const std::int64_t* class_ids,  // (K), in host memory
            L* out,                         // (B, N)
            const LabelsParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
