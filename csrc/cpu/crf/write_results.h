// From the marginals Q of a patch to the output maps.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/any_type.h"
#include "patch.h"

namespace cuekit::cpu {

inline void write_results(
    const float* q,  // (pixels of the patch, stride)
    std::int64_t stride, const Patch& patch,
    const std::vector<std::int64_t>& channels,  // (classes): the channel of each
    const Target<float>& out) {                 // (K, N)
  const std::int64_t column_step = patch.rows * stride;
  const auto classes = static_cast<std::int64_t>(channels.size());
  for (std::int64_t r = 0; r < patch.rows; ++r, q += stride)
    for (std::int64_t k = 0; k < classes; ++k)
      out.write(patch.offset(channels.data()[k], r), column_step, patch.columns, q + k);
}

}  // namespace cuekit::cpu
