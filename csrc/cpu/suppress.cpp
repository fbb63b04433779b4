#include "cuekit/suppress.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <type_traits>

#include "finite.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Values of one channel worked on at a time: the tile's ceiling stays in the L2 cache while the
// channels stream past it.
constexpr std::int64_t tile_size = 32768;

// How far ahead of the values due their source is asked for, in bytes. The hardware's own foresight
// stops at a page's end, and streamed stores leave it no slack to catch up.
constexpr std::int64_t ahead = 4096;

// Values of 16 bytes: every instruction set's registers hold them, and memory is what it waits for.
template <class T>
constexpr int quarter = 16 / static_cast<int>(sizeof(T));
template <class T>
using Quarter = Lanes<T, quarter<T>>;

// Streams a channel's values line by line; returns where the last whole line ends.
template <class T, class Change>
CUEKIT_INLINE std::int64_t stream_channel(const T* source, std::int64_t begin, std::int64_t count,
                                          T* target, bool* finite, Change change) {
  auto residue = Quarter<T>::zero();  // x - x is 0 unless x is not finite
  std::int64_t i = begin;
  for (; i + 4 * quarter<T> <= count; i += 4 * quarter<T>) {
    prefetch(source + i + ahead / static_cast<std::int64_t>(sizeof(T)), 1);
    for (std::int64_t at = i; at < i + 4 * quarter<T>; at += quarter<T>) {
      const auto value = Quarter<T>::load(source + at);
      residue = residue + (value - value);
      change.run(at, value).stream(target + at);
    }
  }
  for (int j = 0; j < quarter<T>; ++j) *finite = *finite && residue.values[j] == T{0};
  return i;
}

// What one channel adds to the ceiling, and the channel itself copied.
template <class T>
struct Keep {
  T* ceiling;
  bool first;

  CUEKIT_INLINE Quarter<T> run(std::int64_t i, Quarter<T> value) const {
    (first ? value : larger(Quarter<T>::load(ceiling + i), value)).store(ceiling + i);
    return value;
  }
};

template <class T>
struct Cap {
  const T* limit;

  CUEKIT_INLINE Quarter<T> run(std::int64_t i, Quarter<T> value) const {
    return smaller(Quarter<T>::load(limit + i), value);
  }
};

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
  static CUEKIT_INLINE void run(const T* scores, const std::uint8_t* present, T* out,
                                const SuppressParams* p, std::int64_t count, bool streaming,
                                T* ceiling, bool* finite) {
    const T margin = store<T>(p->margin);
    typename float_bits<T>::type seen = 0;
    for (std::int64_t k = 0; k < p->channels; ++k) {
      if (k > 0 && !present[k - 1]) continue;
      const T* source = scores + k * p->pixels;
      T* target = out + k * p->pixels;
      std::int64_t cut = until_aligned(target, count);
      seen |= keep(source, cut, k == 0, ceiling, target);
      if constexpr (std::is_floating_point_v<T>)
        if (streaming)
          cut = stream_channel(source, cut, count, target, finite, Keep<T>{ceiling, k == 0});
      seen |= keep(source + cut, count - cut, k == 0, ceiling + cut, target + cut);
    }
    for (std::int64_t i = 0; i < count; ++i) ceiling[i] = ceiling_below(ceiling[i], margin);
    for (std::int64_t k = 1; k < p->channels; ++k) {
      if (present[k - 1]) continue;
      const T* source = scores + k * p->pixels;
      T* target = out + k * p->pixels;
      std::int64_t cut = until_aligned(target, count);
      seen |= cap(source, cut, ceiling, target);
      if constexpr (std::is_floating_point_v<T>)
        if (streaming) cut = stream_channel(source, cut, count, target, finite, Cap<T>{ceiling});
      seen |= cap(source + cut, count - cut, ceiling + cut, target + cut);
    }
    if (streaming) finish_streaming();
    *finite = *finite && !any_nonfinite(seen);
  }
};

}  // namespace

template <class T>
bool suppress(const T* scores, const std::uint8_t* present, T* out, const SuppressParams& p,
              Context& context) {
  const std::int64_t tiles = (p.pixels + tile_size - 1) / tile_size;
  const bool streaming =
      p.batch * p.channels * p.pixels * static_cast<std::int64_t>(sizeof(T)) >= streaming_size;
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch * tiles, context.threads, [&](std::int64_t task) {
    const std::int64_t b = task / tiles;
    const std::int64_t begin = task % tiles * tile_size;
    const std::int64_t offset = b * p.channels * p.pixels + begin;
    const std::unique_ptr<T[]> ceiling(new T[static_cast<std::size_t>(tile_size)]);
    bool finite = true;
    dispatch<SuppressTile>(scores + offset, present + b * (p.channels - 1), out + offset, &p,
                           std::min(tile_size, p.pixels - begin), streaming, ceiling.get(),
                           &finite);
    if (!finite) all_finite = false;
  });
  return all_finite;
}

template bool suppress(const half*, const std::uint8_t*, half*, const SuppressParams&, Context&);
template bool suppress(const float*, const std::uint8_t*, float*, const SuppressParams&, Context&);
template bool suppress(const double*, const std::uint8_t*, double*, const SuppressParams&,
                       Context&);

}  // namespace cuekit::cpu
