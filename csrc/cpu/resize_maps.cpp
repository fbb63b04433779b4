// resize_maps: one task for each map. Each row of the source is resized once, when the first row of
// the result needs it, and kept while the next ones do.
#include "cuekit/resize_maps.h"

#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
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
    for (std::int64_t x = 0; x < count; ++x) out[x] = store<T>(a[x] + weight * (b[x] - a[x]));
  }
};

template <class T>
void resize_row(const T* row,  // (w)
                const std::vector<BilinearTap>& taps,
                double* out) {  // (W)
  for (const BilinearTap& tap : taps) {
    const double left = load(row[tap.low]), right = load(row[tap.high]);
    *out++ = left + tap.weight * (right - left);
  }
}

}  // namespace

template <class T>
void resize_maps(const T* maps,  // (M, h, w)
                 T* out,         // (M, H, W)
                 const ResizeMapsParams& p, Context& context) {
  std::vector<BilinearTap> taps;
  for (std::int64_t x = 0; x < p.out_width; ++x)
    taps.push_back(bilinear_tap(x, p.in_width, p.out_width));
  parallel_for(p.maps, context.threads, [&](std::int64_t m) {
    const T* const map = maps + m * p.in_height * p.in_width;
    std::vector<double> above(p.out_width), below(p.out_width);
    std::int64_t above_row = -1, below_row = -1;  // which rows of the source they are
    PollAfterWork poll;
    for (std::int64_t y = 0; y < p.out_height; ++y) {
      const BilinearTap tap = bilinear_tap(y, p.in_height, p.out_height);
      if (tap.low == below_row) {
        above.swap(below);
        std::swap(above_row, below_row);
      }
      if (tap.low != above_row) resize_row(map + tap.low * p.in_width, taps, above.data());
      if (tap.high != below_row) resize_row(map + tap.high * p.in_width, taps, below.data());
      above_row = tap.low;
      below_row = tap.high;
      dispatch<MixRows>(static_cast<const double*>(above.data()),
                        static_cast<const double*>(below.data()), tap.weight, p.out_width,
                        out + (m * p.out_height + y) * p.out_width);
      poll(2 * p.out_width);
    }
  });
}

template void resize_maps(const half*, half*, const ResizeMapsParams&, Context&);
template void resize_maps(const float*, float*, const ResizeMapsParams&, Context&);
template void resize_maps(const double*, double*, const ResizeMapsParams&, Context&);

}  // namespace cuekit::cpu
