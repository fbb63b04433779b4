// Fusing the cues of several classifiers: logical OR (Sun et al., arXiv 1904.01749, on fusing
// cues).
//
//   sets (M arrays of N bytes, nonzero = on) -> out (N) bool
//   out(n) = set_1(n) or ... or set_M(n)
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

void fuse(const std::uint8_t* const* sets,  // M of (N), nonzero = on; the M pointers in host memory
          bool* out,                        // (N)
          const FuseParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
