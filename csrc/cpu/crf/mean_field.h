// One pass of the mean field over some pixels: slice, softmax, splat.
//
// Two runs on the same photo, with few classes, can be computed together: a row has the classes of
// the first run and then those of the second, and only the softmax tells them apart. So simplices
// are read once for both. Each run has the bits that it has alone.
#pragma once

#include <cstdint>

#include "filter.h"

namespace cuekit::cpu {

// The arrays of a pass over all pixels, N of them. `stride`: class_vector.h.
struct Pass {
  const float* unary;   // (N, stride): logits in units of ln 2; the largest of a pixel is 0
  std::int64_t stride;  // of all runs together
  const Filter* spatial;
  const Filter* bilateral;
  // Q of the previous iteration, if the spatial filter only multiplies Q by `own_weight`
  // (Lattice::diagonal); else null.
  const float* own;  // (N, stride)
  float own_weight;
  bool slice;  // false in the first pass, which has no Q yet
  bool splat;  // false in the last pass
};

constexpr std::int64_t pixels_together = 32;  // 16 and 64 are no faster

// Updates the pixels [first, last). Splats the new Q if pass->splat, and writes it to `q` if `q` is
// not null.
using MeanFieldKernel = void (*)(const Pass* pass, std::int64_t first, std::int64_t last,
                                 float* scratch,  // (pixels_together, stride)
                                 float* q);       // (last - first, stride)

// Two runs with more take longer together: rows of their values do not fit in registers and caches.
constexpr std::int64_t most_classes_of_pairs = 8;

// `runs` is 1 or 2; 2 for at most most_classes_of_pairs.
MeanFieldKernel mean_field_kernel(std::int64_t classes, std::int64_t runs);

}  // namespace cuekit::cpu
