// From scores to the unary terms of the mean field.
#pragma once

#include <cstdint>
#include <vector>

#include "cuekit/crf.h"
#include "patch.h"

namespace cuekit::cpu {

// A logit below this stands for probability 0. It is finite, and so are sums with it.
constexpr float impossible = -1e30f;

// A plane has one class of a patch, row after row. Planes are slightly longer than patches, because
// addresses that are a power of two apart compete for the same cache sets.
constexpr std::int64_t plane_size = strip_height * Patch::max_columns + 16;

// Writes the logits of a patch in units of ln 2, the largest of each pixel is 0. Returns false for
// scores that are not valid (cuekit/crf.h), those of channels that do not take part among them.
template <class T>
bool read_scores(const T* scores,  // (K, N)
                 const CrfParams& p, const Patch& patch,
                 const std::vector<std::int64_t>& channels,  // (classes): the channel of each class
                 float* planes,                              // (classes, plane_size): scratch
                 float* unary,                               // (pixels of the patch, stride)
                 std::int64_t stride,
                 std::int64_t step);  // from one pixel's row to the next

}  // namespace cuekit::cpu
