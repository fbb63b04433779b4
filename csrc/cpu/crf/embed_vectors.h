// Computes the simplices of embed.h in vectors of 4 or 8 pixels.
#pragma once

#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/simd.h"
#include "embed.h"

namespace cuekit::cpu {

template <int d, class V>
struct Embed {
  static CUEKIT_INLINE void run(const Embedding<d>* embedding, const float* features,
                                std::int64_t count, LatticeKey* __restrict keys,
                                float* __restrict quotients, OrderCode<d>* __restrict order,
                                float* __restrict barycentric) {
    for (std::int64_t i = 0; i < count; i += V::size)
      embed_vector(*embedding, features + i, count, quotients + i, order + i, barycentric + i);
    for (std::int64_t i = 0; i < count; ++i) {
      LatticeKey key = 0;
      for (int j = 0; j < d; ++j)
        key += embedding->part(j, static_cast<std::int32_t>(quotients[j * count + i]));
      keys[i] = key;
    }
  }

 private:
  // Arrays begin at the vector's first pixel; their rows are `count` apart.
  static CUEKIT_INLINE void embed_vector(const Embedding<d>& embedding, const float* features,
                                         std::int64_t count, float* quotients, OrderCode<d>* order,
                                         float* barycentric) {
    V feature[d], index[d + 1];
    for (int j = 0; j < d; ++j) feature[j] = V::load(features + j * count);
    for (int j = 0; j <= d; ++j) index[j] = V::all(static_cast<float>(j));
    const Simplex<d, V> simplex = simplex_of(feature, embedding);

    constexpr int bits = Order<d>::bits, at_once = 24 / bits;  // 24 bits are exact in float32
    for (int first = 0; first <= d; first += at_once) {
      V packed = V::zero();
      float position = 1;
      for (int p = first; p <= std::min(d, first + at_once - 1); ++p, position *= 1 << bits)
        packed = packed + simplex.by_rank(p, index) * position;
      float codes[V::size];
      packed.store(codes);
      for (int l = 0; l < V::size; ++l) {
        const auto code = static_cast<OrderCode<d>>(codes[l]);
        order[l] = first == 0 ? code : order[l] | code << (bits * first);
      }
    }
    for (int k = 0; k <= d; ++k) simplex.weight[k].store(barycentric + k * count);
    for (int j = 0; j < d; ++j) simplex.quotient[j].store(quotients + j * count);
  }
};

template <int d>
void embed(const Embedding<d>& embedding, const float* features, std::int64_t count,
           LatticeKey* keys, float* quotients, OrderCode<d>* order, float* barycentric) {
  dispatch_width<Embed<d, Lanes<float, 4>>, Embed<d, Lanes<float, widest_vector>>>(
      &embedding, features, count, keys, quotients, order, barycentric);
}

}  // namespace cuekit::cpu

// embed() for a number of features.
#define CUEKIT_INSTANTIATE_EMBED(d)                                                              \
  template void cuekit::cpu::embed(const Embedding<d>&, const float*, std::int64_t, LatticeKey*, \
                                   float*, OrderCode<d>*, float*);
