// suppress: for each tile of pixels, the present channels are copied and their maximum (the
// ceiling) is taken; then the absent channels are copied, capped below the ceiling.
//
// Every score is read once and written once, so the speed is that of memory. Large outputs of float
// and double are streamed (simd.h), by whole cache lines; what is left at both ends of a channel's
// part, and everything else, goes through the plain loops of SuppressTile.
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

// Pixels in a tile. Their ceiling stays in L2 while the channels stream past.
constexpr std::int64_t tile_size = 32768;

// Streamed loops prefetch this many bytes ahead. The hardware prefetcher stops at the end of a
// page, and beside non-temporal stores it does not catch up.
constexpr std::int64_t prefetch_distance = 4096;

// Vectors of 16 bytes, which every instruction set has. Wider ones would gain nothing, because the
// streamed loops wait for memory.
template <class T>
constexpr int vector_size = 16 / static_cast<int>(sizeof(T));
template <class T>
using Vector = Lanes<T, vector_size<T>>;

// Applies `op` to one channel's values from `begin` on, in whole cache lines (4 vectors), and
// streams the results. `target + begin` is at the start of a cache line. Returns where the last
// whole line ends.
template <class T, class Op>
CUEKIT_INLINE std::int64_t stream_channel(const T* source,  // (count)
                                          std::int64_t begin, std::int64_t count,
                                          T* target,     // (count)
                                          bool* finite,  // false where a value is not finite
                                          Op op) {
  constexpr int line = 4 * vector_size<T>;
  auto residue = Vector<T>::zero();  // x - x is 0 unless x is not finite
  std::int64_t i = begin;
  for (; i + line <= count; i += line) {
    prefetch(source + i + prefetch_distance / static_cast<std::int64_t>(sizeof(T)), 1);
    for (std::int64_t k = i; k < i + line; k += vector_size<T>) {
      const auto value = Vector<T>::load(source + k);
      residue = residue + (value - value);
      op.run(k, value).stream(target + k);
    }
  }
  for (int j = 0; j < vector_size<T>; ++j) *finite = *finite && residue.values[j] == T{0};
  return i;
}

// A present channel: raises the ceiling, and is kept as it is.
template <class T>
struct Keep {
  T* ceiling;  // (count)
  bool first;  // the ceiling has no values yet

  CUEKIT_INLINE Vector<T> run(std::int64_t i, Vector<T> value) const {
    (first ? value : larger(Vector<T>::load(ceiling + i), value)).store(ceiling + i);
    return value;
  }
};

// An absent channel: capped.
template <class T>
struct Cap {
  const T* limit;  // (count)

  CUEKIT_INLINE Vector<T> run(std::int64_t i, Vector<T> value) const {
    return smaller(Vector<T>::load(limit + i), value);
  }
};

struct SuppressTile {
  // The same as Keep, for any type and count. Returns nonfinite_bits of the values.
  template <class T>
  static CUEKIT_INLINE typename float_bits<T>::type keep(const T* __restrict source,  // (count)
                                                         std::int64_t count, bool first,
                                                         T* __restrict ceiling,   // (count)
                                                         T* __restrict target) {  // (count)
    typename float_bits<T>::type seen = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = source[i];
      seen |= nonfinite_bit(value);
      target[i] = value;
      ceiling[i] = first || less(ceiling[i], value) ? value : ceiling[i];
    }
    return seen;
  }

  // The same as Cap, for any type and count. Returns nonfinite_bits of the values.
  template <class T>
  static CUEKIT_INLINE typename float_bits<T>::type cap(const T* __restrict source,  // (count)
                                                        std::int64_t count,
                                                        const T* __restrict limit,  // (count)
                                                        T* __restrict target) {     // (count)
    typename float_bits<T>::type seen = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = source[i];
      seen |= nonfinite_bit(value);
      target[i] = less(limit[i], value) ? limit[i] : value;
    }
    return seen;
  }

  // One channel's part: plain(begin, end) up to the first cache line, stream(begin) for whole
  // lines, which returns where they end, and plain for the rest. A loop, so that plain is compiled
  // once.
  template <class T, class Plain, class Stream>
  static CUEKIT_INLINE void write(T* target,  // (count)
                                  std::int64_t count, bool streaming, Plain plain, Stream stream) {
    std::int64_t begin = 0, end = until_aligned(target, count);
    for (;;) {
      plain(begin, end);
      if (end == count) return;
      begin = streaming ? stream(end) : end;
      end = count;
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* scores,              // (K, N), of which (K, count)
                                const std::uint8_t* present,  // (K - 1)
                                T* out,                       // (K, N), of which (K, count)
                                const SuppressParams* p, std::int64_t count, bool streaming,
                                T* ceiling,      // (count): scratch
                                bool* finite) {  // set to false where a score is not finite
    const T margin = store<T>(p->margin);
    typename float_bits<T>::type seen = 0;
    // Channel k, of which op writes vectors and plain the rest. float16 is not streamed.
    const auto write_channel = [&](std::int64_t k, auto plain, auto op) {
      const T* source = scores + k * p->pixels;
      T* target = out + k * p->pixels;
      write(
          target, count, streaming,
          [&](std::int64_t begin, std::int64_t end) {
            seen |= plain(source + begin, end - begin, ceiling + begin, target + begin);
          },
          [&](std::int64_t begin) {
            if constexpr (std::is_floating_point_v<T>)
              return stream_channel(source, begin, count, target, finite, op);
            return begin;
          });
    };
    for (std::int64_t k = 0; k < p->channels; ++k) {
      if (k > 0 && !present[k - 1]) continue;
      const auto plain = [k](const T* source, std::int64_t size, T* raised, T* target) {
        return keep(source, size, k == 0, raised, target);
      };
      write_channel(k, plain, Keep<T>{ceiling, k == 0});
    }
    for (std::int64_t i = 0; i < count; ++i) ceiling[i] = ceiling_below(ceiling[i], margin);
    for (std::int64_t k = 1; k < p->channels; ++k) {
      if (present[k - 1]) continue;
      const auto plain = [](const T* source, std::int64_t size, const T* limit, T* target) {
        return cap(source, size, limit, target);
      };
      write_channel(k, plain, Cap<T>{ceiling});
    }
    if (streaming) finish_streaming();
    *finite = *finite && !any_nonfinite(seen);
  }
};

}  // namespace

template <class T>
bool suppress(const T* scores,              // (B, K, N)
              const std::uint8_t* present,  // (B, K - 1)
              T* out,                       // (B, K, N)
              const SuppressParams& p, Context& context) {
  const std::int64_t tiles = (p.pixels + tile_size - 1) / tile_size;
  const bool streaming =
      p.batch * p.channels * p.pixels * static_cast<std::int64_t>(sizeof(T)) >= streaming_size;
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch * tiles, context.threads, [&](std::int64_t task) {
    const std::int64_t b = task / tiles;
    const std::int64_t begin = task % tiles * tile_size;
    const std::int64_t offset = b * p.channels * p.pixels + begin;
    const std::unique_ptr<T[]> ceiling(new T[tile_size]);
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
