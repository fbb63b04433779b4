// Superpixel labels of any integer type: (B, H, W), C-contiguous.
//
// A pixel with label -1 is in no superpixel. On a GPU, so is a pixel with any other label that is
// not in 0..num_superpixels-1; on the CPU such a label throws std::invalid_argument.
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
