// From the features of many pixels to their simplices.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/simplex.h"

namespace cuekit::cpu {

constexpr std::int64_t widest_vector = 8;  // `count` below is a multiple of it

// The coordinates of a pixel by rank, each in a few bits of one number.
template <int d>
struct Order {
  static constexpr int bits = d < 8 ? 3 : 4;
  using Code = std::conditional_t<(d < 8), std::int32_t, std::int64_t>;

  static int coordinate(Code code, int rank) {
    return static_cast<int>(code >> (bits * rank)) & ((1 << bits) - 1);
  }
};
template <int d>
using OrderCode = typename Order<d>::Code;

// The simplices of `count` pixels, by simplex_of() on vectors of pixels.
template <int d>
void embed(const Embedding<d>& embedding,
           const float* features,  // (d, count)
           std::int64_t count,
           LatticeKey* keys,     // (count): of vertex 0 of each simplex
           float* quotients,     // (d, count): scratch
           OrderCode<d>* order,  // (count)
           float* barycentric);  // (d + 1, count): the weight of each vertex

}  // namespace cuekit::cpu
