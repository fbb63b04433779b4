// Step 2: the cost of an edge is the Euclidean distance of the colours of its two pixels.
#pragma once

#include <cstdint>

#include "buckets.h"

namespace cuekit::cpu::felzenszwalb_detail {

// The costs of `count` edges of one direction: edge x joins pixel x of `first` and pixel x of
// `second`, two rows of the smoothed photo. Channel c of both is at c * stride.
void measure_costs(const double* first,   // (C, stride)
                   const double* second,  // (C, stride)
                   std::int64_t channels, std::int64_t stride, std::int64_t count,
                   double* costs,     // (count)
                   float* rounded,    // (count), the costs rounded to float32
                   Bucket* buckets);  // (count), the buckets of the costs

}  // namespace cuekit::cpu::felzenszwalb_detail
