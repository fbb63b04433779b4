// Computes the simplices of embed.h in vectors of 4, 8 or 16 pixels.
#include "embed.h"

#include "cpu/lanes.h"
#include "cpu/simd.h"

namespace cuekit::cpu {
namespace {

template <int d, class V>
struct Embed {
  static CUEKIT_INLINE void run(const Embedding<d>* embedding, const float* features,
                                std::int64_t count, LatticeKey* __restrict keys,
                                float* __restrict quotients, std::int32_t* __restrict order,
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
                                         std::int64_t count, float* quotients, std::int32_t* order,
                                         float* barycentric) {
    V feature[d], index[d + 1];
    for (int j = 0; j < d; ++j) feature[j] = V::load(features + j * count);
    for (int j = 0; j <= d; ++j) index[j] = V::all(static_cast<float>(j));
    const Simplex<d, V> simplex = simplex_of(feature, embedding);

    V packed = V::zero();  // below 8^6, so exact in float32
    float position = 1;
    for (int p = 0; p <= d; ++p, position *= 8)
      packed = packed + simplex.by_rank(p, index) * position;
    float codes[V::size];
    packed.store(codes);
    for (int l = 0; l < V::size; ++l) order[l] = static_cast<std::int32_t>(codes[l]);
    for (int k = 0; k <= d; ++k) simplex.weight[k].store(barycentric + k * count);
    for (int j = 0; j < d; ++j) simplex.quotient[j].store(quotients + j * count);
  }
};

}  // namespace

template <int d>
void embed(const Embedding<d>& embedding, const float* features, std::int64_t count,
           LatticeKey* keys, float* quotients, std::int32_t* order, float* barycentric) {
  dispatch_width<Embed<d, Lanes<float, 4>>, Embed<d, Lanes<float, 8>>,
                 Embed<d, Lanes<float, widest_vector>>>(&embedding, features, count, keys,
                                                        quotients, order, barycentric);
}

template void embed(const Embedding<2>&, const float*, std::int64_t, LatticeKey*, float*,
                    std::int32_t*, float*);
template void embed(const Embedding<5>&, const float*, std::int64_t, LatticeKey*, float*,
                    std::int32_t*, float*);

}  // namespace cuekit::cpu
