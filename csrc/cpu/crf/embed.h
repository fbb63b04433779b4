// From the features of many pixels to their simplices.
#pragma once

#include <cstdint>

#include "cuekit/simplex.h"

namespace cuekit::cpu {

constexpr std::int64_t widest_vector = 16;  // `count` below is a multiple of it

// The simplices of `count` pixels, by simplex_of() on vectors of pixels. order[i] packs the
// coordinates of pixel i by rank, see coordinate_of_rank().
template <int d>
void embed(const Embedding<d>& embedding,
           const float* features,  // (d, count)
           std::int64_t count,
           LatticeKey* keys,     // (count): of vertex 0 of each simplex
           float* quotients,     // (d, count): scratch
           std::int32_t* order,  // (count)
           float* barycentric);  // (d + 1, count): the weight of each vertex

inline int coordinate_of_rank(std::int32_t order, int rank) { return order >> (3 * rank) & 7; }

}  // namespace cuekit::cpu
