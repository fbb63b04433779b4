// resize_maps: one task for each map. Each row of the source is resized once, when the first row of
// the result needs it, and kept while the next ones do.
#include "cuekit/resize_maps.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "half_rows.h"
#include "interrupt.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

struct MixRows {
  template <class T>
  static CUEKIT_INLINE void run(const double* a, const double* b,  // (count) each
                                double weight, std::int64_t count,
                                T* __restrict out) {  // (count)
    for (std::int64_t x = 0; x < count; ++x) out[x] = static_cast<T>(a[x] + weight * (b[x] - a[x]));
  }
};

template <class T>
void resize_row(const T* row,  // (w)
                const std::vector<BilinearTap>& taps,
                double* out) {  // (W)
  for (const BilinearTap& tap : taps) {
    const double left = row[tap.low], right = row[tap.high];
    *out++ = left + tap.weight * (right - left);
  }
}

// What depends on the maps' type. The rows begin at the given index of the memory.
struct Rows {
  void (*read)(const void* source, std::int64_t begin, std::int64_t width,
               const std::vector<BilinearTap>& taps, double* out);
  void (*write)(const std::vector<double>& above, const std::vector<double>& below, double weight,
                void* target, std::int64_t begin);
};

template <class T>
void read_row(const void* source, std::int64_t begin, std::int64_t width,
              const std::vector<BilinearTap>& taps, double* out) {
  const T* const row = static_cast<const T*>(source) + begin;
  if constexpr (std::is_same_v<T, half>) {
    std::vector<float> wide(width);
    widen(row, width, wide.data());
    resize_row(wide.data(), taps, out);
  } else {
    resize_row(row, taps, out);
  }
}

template <class T>
void write_row(const std::vector<double>& above, const std::vector<double>& below, double weight,
               void* target, std::int64_t begin) {
  const auto count = static_cast<std::int64_t>(above.size());
  T* const out = static_cast<T*>(target) + begin;
  if constexpr (std::is_same_v<T, half>) {
    std::vector<double> row(count);
    dispatch<MixRows>(above.data(), below.data(), weight, count, row.data());
    narrow(row.data(), count, out);
  } else {
    dispatch<MixRows>(above.data(), below.data(), weight, count, out);
  }
}

void resize_all(const void* maps,  // (M, h, w)
                void* out,         // (M, H, W)
                const Rows& rows, const ResizeMapsParams& p, int threads) {
  std::vector<BilinearTap> taps;
  for (std::int64_t x = 0; x < p.out_width; ++x)
    taps.push_back(bilinear_tap(x, p.in_width, p.out_width));
  parallel_for(p.maps, threads, [&](std::int64_t m) {
    std::vector<double> above(p.out_width), below(p.out_width);
    std::int64_t above_row = -1, below_row = -1;  // which rows of the source they are
    const auto read = [&](std::int64_t y, std::vector<double>& row) {
      rows.read(maps, (m * p.in_height + y) * p.in_width, p.in_width, taps, row.data());
    };
    PollAfterWork poll;
    for (std::int64_t y = 0; y < p.out_height; ++y) {
      const BilinearTap tap = bilinear_tap(y, p.in_height, p.out_height);
      if (tap.low == below_row) {
        above.swap(below);
        std::swap(above_row, below_row);
      }
      if (tap.low != above_row) read(tap.low, above);
      if (tap.high != below_row) read(tap.high, below);
      above_row = tap.low;
      below_row = tap.high;
      rows.write(above, below, tap.weight, out, (m * p.out_height + y) * p.out_width);
      poll(2 * p.out_width);
    }
  });
}

}  // namespace

template <class T>
void resize_maps(const T* maps,  // (M, h, w)
                 T* out,         // (M, H, W)
                 const ResizeMapsParams& p, Context& context) {
  resize_all(maps, out, {read_row<T>, write_row<T>}, p, context.threads);
}

template void resize_maps(const half*, half*, const ResizeMapsParams&, Context&);
template void resize_maps(const float*, float*, const ResizeMapsParams&, Context&);
template void resize_maps(const double*, double*, const ResizeMapsParams&, Context&);

}  // namespace cuekit::cpu
