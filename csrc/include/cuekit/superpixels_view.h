// Superpixel labels of any integer type: (B, H, W), C-contiguous.
#pragma once

#include <cstdint>

namespace cuekit {

struct SuperpixelsView {
  const void* data;
  int itemsize;  // bytes: 1, 2, 4 or 8
  bool is_signed;
};

// Superpixel labels are below this. On the CPU it is also the limit where the caller gives none.
constexpr std::int64_t superpixel_limit = std::int64_t{1} << 31;

}  // namespace cuekit
