#include <algorithm>
#include <atomic>
#include <memory>

#include "finite.h"
#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Values of one channel worked on at a time: the tile's ceiling stays in the L1 cache while the
// channels stream past it.
constexpr std::int64_t tile_size = 16384;

struct SuppressTile {
  // What one channel adds to the ceiling, and the channel itself copied.
  template <class T>
  static CUEKIT_INLINE typename float_bits<T>::type keep(const T* __restrict source,
                                                         std::int64_t count, bool first,
                                                         T* __restrict ceiling,
                                                         T* __restrict target) {
    typename float_bits<T>::type seen = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = source[i];
      seen |= nonfinite_bit(value);
      target[i] = value;
      ceiling[i] = first || less(ceiling[i], value) ? value : ceiling[i];
    }
    return seen;
  }

  template <class T>
  static CUEKIT_INLINE typename float_bits<T>::type cap(const T* __restrict source,
                                                        std::int64_t count,
                                                        const T* __restrict limit,
                                                        T* __restrict target) {
    typename float_bits<T>::type seen = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = source[i];
      seen |= nonfinite_bit(value);
      target[i] = less(limit[i], value) ? limit[i] : value;
    }
    return seen;
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* scores, const bool* present, T* out,
                                const SuppressParams* p, std::int64_t count, T* ceiling,
                                bool* finite) {
    const T margin = store<T>(p->margin);
    typename float_bits<T>::type seen = 0;
    for (std::int64_t k = 0; k < p->channels; ++k) {
      if (k > 0 && !present[k - 1]) continue;
      const T* source = scores + k * p->pixels;
      T* target = out + k * p->pixels;
      const std::int64_t cut = until_aligned(target, count);
      seen |= keep(source, cut, k == 0, ceiling, target);
      seen |= keep(source + cut, count - cut, k == 0, ceiling + cut, target + cut);
    }
    for (std::int64_t i = 0; i < count; ++i) ceiling[i] = ceiling_below(ceiling[i], margin);
    for (std::int64_t k = 1; k < p->channels; ++k) {
      if (present[k - 1]) continue;
      const T* source = scores + k * p->pixels;
      T* target = out + k * p->pixels;
      const std::int64_t cut = until_aligned(target, count);
      seen |= cap(source, cut, ceiling, target);
      seen |= cap(source + cut, count - cut, ceiling + cut, target + cut);
    }
    *finite = !any_nonfinite(seen);
  }
};

}  // namespace

template <class T>
bool suppress(const T* scores, const bool* present, T* out, const SuppressParams& p, int threads) {
  const std::int64_t tiles = (p.pixels + tile_size - 1) / tile_size;
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch * tiles, threads, [&](std::int64_t task) {
    const std::int64_t b = task / tiles;
    const std::int64_t begin = task % tiles * tile_size;
    const std::int64_t offset = b * p.channels * p.pixels + begin;
    const std::unique_ptr<T[]> ceiling(new T[static_cast<std::size_t>(tile_size)]);
    bool finite = true;
    dispatch<SuppressTile>(scores + offset, present + b * (p.channels - 1), out + offset, &p,
                           std::min(tile_size, p.pixels - begin), ceiling.get(), &finite);
    if (!finite) all_finite = false;
  });
  return all_finite;
}

template bool suppress(const half*, const bool*, half*, const SuppressParams&, int);
template bool suppress(const float*, const bool*, float*, const SuppressParams&, int);
template bool suppress(const double*, const bool*, double*, const SuppressParams&, int);

}  // namespace cuekit::cpu
