// background_add: sums over channels, then one bilinear resizing of the sums for each image.
// background_normalize: min-max normalisation of each image.
//
// The sums over channels are the work: D values are read for each pixel. They are float64 and stay
// in L1 while the channels stream past, so the speed is that of reading the features.
#include "cuekit/background.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels whose sums stay in L1 (16 KiB) while the channels stream past.
constexpr std::int64_t chunk_size = 2048;

// sums[i] = sum over channels d of features[d][i], d ascending. Eight channels are added in one
// pass over the sums, so that the sums are read and written once and not eight times. The hardware
// prefetcher cannot follow eight short rows at once, so the next eight rows are prefetched
// explicitly. Vectors hold `width` pixels: as many values as a vector of float64 holds are
// converted straight from memory in half the work that a whole vector of float32 takes. With width
// 1, and for float16, the compiler chooses.
template <int width>
struct ChannelSum {
  // Adds n channels to the sums of `pixels` pixels.
  template <int n, int pixels, class T>
  static CUEKIT_INLINE void add(const T* rows,  // (n, stride)
                                std::int64_t stride,
                                double* sums) {  // (pixels)
    auto sum = Lanes<double, pixels>::load(sums);
    for (int k = 0; k < n; ++k) {
      const auto narrow = Lanes<T, pixels>::load(rows + k * stride);
      Lanes<double, pixels> wide;
      for (int j = 0; j < pixels; ++j) wide.values[j] = narrow.values[j];
      sum = sum + wide;
    }
    sum.store(sums);
  }

  template <int n, class T>
  static CUEKIT_INLINE void add_rows(const T* rows,  // (n, stride), of which (n, count)
                                     std::int64_t stride, std::int64_t count,
                                     double* sums) {  // (count)
    std::int64_t i = 0;
    if constexpr (width > 1 && std::is_floating_point_v<T>)
      for (; i + width <= count; i += width) add<n, width>(rows + i, stride, sums + i);
    for (; i < count; ++i) {
      double sum = sums[i];
      for (int k = 0; k < n; ++k) sum += load(rows[k * stride + i]);
      sums[i] = sum;
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(
      const T* features,  // (channels, stride), of which (channels, count)
      std::int64_t channels, std::int64_t stride, std::int64_t count,
      double* sums) {                   // (count)
    constexpr int group = 8;            // channels in one pass
    constexpr std::int64_t block = 64;  // pixels between two rounds of prefetching
    std::fill_n(sums, count, 0.0);
    std::int64_t d = 0;
    for (; d + group <= channels; d += group) {
      const T* rows = features + d * stride;
      for (std::int64_t i = 0; i < count; i += block) {
        for (int k = 0; k < group; ++k) prefetch(rows + (group + k) * stride + i, block);
        add_rows<group>(rows + i, stride, std::min(block, count - i), sums + i);
      }
    }
    for (; d < channels; ++d) add_rows<1>(features + d * stride, stride, count, sums);
  }
};

// Adds one image's sums, resized, to its total.
void add_resized(const double* sums,  // (h, w)
                 double* total,       // (H, W)
                 const BackgroundParams& p) {
  std::vector<BilinearTap> columns;
  for (std::int64_t x = 0; x < p.out_width; ++x)
    columns.push_back(bilinear_tap(x, p.in_width, p.out_width));
  std::vector<double> between(p.in_width);  // the two rows of the source
  for (std::int64_t y = 0; y < p.out_height; ++y) {
    const BilinearTap row = bilinear_tap(y, p.in_height, p.out_height);
    const double* above = sums + row.low * p.in_width;
    const double* below = sums + row.high * p.in_width;
    for (std::int64_t x = 0; x < p.in_width; ++x)
      between[x] = interpolate(above[x], below[x], row.weight);
    double* target = total + y * p.out_width;
    for (std::int64_t x = 0; x < p.out_width; ++x) {
      const BilinearTap& tap = columns[x];
      target[x] += interpolate(between[tap.low], between[tap.high], tap.weight);
    }
  }
}

}  // namespace

template <class T>
bool background_add(const T* features,  // (B, D, h, w)
                    double* total,      // (B, H, W)
                    const BackgroundParams& p, Context& context) {
  const std::int64_t pixels = p.in_height * p.in_width;
  const std::int64_t chunks = (pixels + chunk_size - 1) / chunk_size;
  const std::unique_ptr<double[]> sums(new double[p.batch * pixels]);
  parallel_for(p.batch * chunks, context.threads, [&](std::int64_t task) {
    const std::int64_t b = task / chunks;
    const std::int64_t begin = task % chunks * chunk_size;
    dispatch_width<ChannelSum<1>, ChannelSum<4>>(
        features + b * p.channels * pixels + begin, p.channels, pixels,
        std::min(chunk_size, pixels - begin), sums.get() + b * pixels + begin);
  });
  // A sum with a non-finite term is not finite.
  const bool finite = std::all_of(sums.get(), sums.get() + p.batch * pixels,
                                  [](double sum) { return std::isfinite(sum); });
  parallel_for(p.batch, context.threads, [&](std::int64_t b) {
    add_resized(sums.get() + b * pixels, total + b * p.out_height * p.out_width, p);
  });
  return finite;
}

template <class T>
bool background_normalize(const double* total,  // (B, N)
                          T* out,               // (B, N)
                          std::int64_t batch, std::int64_t pixels, Context& context) {
  if (pixels == 0) return true;
  std::atomic<bool> all_finite{true};
  parallel_for(batch, context.threads, [&](std::int64_t b) {
    const double* image = total + b * pixels;
    const auto [low, high] = std::minmax_element(image, image + pixels);
    const double minimum = *low;
    const double range = *high - minimum;
    const auto finite = [](double value) { return std::isfinite(value); };
    if (!finite(range) || !std::all_of(image, image + pixels, finite)) all_finite = false;
    for (std::int64_t i = 0; i < pixels; ++i)
      out[b * pixels + i] = store<T>(range > 0.0 ? (image[i] - minimum) / range : 0.0);
  });
  return all_finite;
}

template bool background_add(const half*, double*, const BackgroundParams&, Context&);
template bool background_add(const float*, double*, const BackgroundParams&, Context&);
template bool background_add(const double*, double*, const BackgroundParams&, Context&);
template bool background_normalize(const double*, half*, std::int64_t, std::int64_t, Context&);
template bool background_normalize(const double*, float*, std::int64_t, std::int64_t, Context&);
template bool background_normalize(const double*, double*, std::int64_t, std::int64_t, Context&);

}  // namespace cuekit::cpu
