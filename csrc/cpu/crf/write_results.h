// From the marginals Q of a patch to the output maps.
#pragma once

#include <cstdint>
#include <vector>

#include "patch.h"

namespace cuekit::cpu {

template <class Q>
void write_results(const float* q,  // (pixels of the patch, stride)
                   std::int64_t stride, const Patch& patch,
                   const std::vector<std::int64_t>& channels,  // (classes): the channel of each
                   Q* out) {                                   // (K, N)
  const std::int64_t column_step = patch.rows * stride;
  const auto classes = static_cast<std::int64_t>(channels.size());
  for (std::int64_t r = 0; r < patch.rows; ++r, q += stride)
    for (std::int64_t k = 0; k < classes; ++k) {
      Q* const row = out + patch.offset(channels.data()[k], r);
      for (std::int64_t x = 0; x < patch.columns; ++x)
        row[x] = static_cast<Q>(q[x * column_step + k]);
    }
}

}  // namespace cuekit::cpu
