// Fusing the cues of several classifiers: logical OR (Sun et al., arXiv 1904.01749, on fusing
// cues).
//
//   sets (M arrays of N bytes, nonzero = on) -> out (N) bool
#pragma once

#include <cstdint>

namespace cuekit {

struct FuseParams {
  std::int64_t sets;      // M
  std::int64_t elements;  // N
};

}  // namespace cuekit
