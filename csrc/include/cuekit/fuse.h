// Fusing the cues of several classifiers: logical OR (Sun et al., arXiv 1904.01749, on fusing
// cues).
//
//   sets (M arrays of N bytes, nonzero = on) -> out (N) bool
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct FuseParams {
  std::int64_t sets;      // M
  std::int64_t elements;  // N
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

void fuse(
    const std::uint8_t* const* sets,  // M arrays (N), nonzero = on; the list is in host memory
    bool* out,                        // (N)
    const FuseParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
