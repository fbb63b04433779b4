// A label map of any integer type: (B, H, W), contiguous.
#pragma once

#include <cstdint>

namespace cuekit {

struct LabelsView {
  const void* data;
  int itemsize;  // bytes: 1, 2, 4 or 8
  bool is_signed;
};

}  // namespace cuekit
