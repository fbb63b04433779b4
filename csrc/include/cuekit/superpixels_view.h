// Superpixel labels of any integer type: (B, H, W), C-contiguous.
#pragma once

#include <cstdint>

namespace cuekit {

struct SuperpixelsView {
  const void* data;  // (B, H, W)
  int itemsize;      // bytes: 1, 2, 4 or 8
  bool is_signed;
};

// All superpixel labels are below this. On the CPU it is the limit if the caller gives none.
constexpr std::int64_t superpixel_limit = std::int64_t{1} << 31;

}  // namespace cuekit
