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
#include "half_rows.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels whose sums stay in L1 (16 KiB) while the channels stream past.
constexpr std::int64_t chunk_size = 2048;

constexpr int group = 8;  // channels that are added in one pass

// sums[i] += sum over channels d of features[d][i], d ascending. Eight channels are added in one
// pass over the sums, so that the sums are read and written once and not eight times. The hardware
// prefetcher cannot follow eight short rows at once, so the next eight rows are prefetched
// explicitly. Vectors hold `width` pixels: as many values as a vector of float64 holds are
// converted straight from memory in half the work that a whole vector of float32 takes. With width
// 1 the compiler chooses.
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
    if constexpr (width > 1)
      for (; i + width <= count; i += width) add<n, width>(rows + i, stride, sums + i);
    for (; i < count; ++i) {
      double sum = sums[i];
      for (int k = 0; k < n; ++k) sum += rows[k * stride + i];
      sums[i] = sum;
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(
      const T* features,  // (channels, stride), of which (channels, count)
      std::int64_t channels, std::int64_t stride, std::int64_t count,
      double* sums) {                   // (count)
    constexpr std::int64_t block = 64;  // pixels between two rounds of prefetching
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

// The same for any type: float16 is read as float32.
template <class T>
void add_channels(const T* features,  // (channels, stride), of which (channels, count)
                  std::int64_t channels, std::int64_t stride, std::int64_t count,
                  double* sums) {  // (count), count <= chunk_size
  if constexpr (std::is_same_v<T, half>) {
    const std::unique_ptr<float[]> wide(new float[group * chunk_size]);
    for (std::int64_t d = 0; d < channels; d += group) {
      const std::int64_t rows = std::min<std::int64_t>(group, channels - d);
      for (std::int64_t k = 0; k < rows; ++k)
        widen(features + (d + k) * stride, count, wide.get() + k * chunk_size);
      add_channels(wide.get(), rows, chunk_size, count, sums);
    }
  } else {
    dispatch_width<ChannelSum<1>, ChannelSum<4>>(features, channels, stride, count, sums);
  }
}

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

// The same for all images. Returns false if a sum is not finite.
bool add_all_resized(const double* sums,  // (B, h, w)
                     double* total,       // (B, H, W)
                     const BackgroundParams& p, int threads) {
  const std::int64_t pixels = p.in_height * p.in_width;
  // A sum with a non-finite term is not finite.
  const bool finite =
      std::all_of(sums, sums + p.batch * pixels, [](double sum) { return std::isfinite(sum); });
  parallel_for(p.batch, threads, [&](std::int64_t b) {
    add_resized(sums + b * pixels, total + b * p.out_height * p.out_width, p);
  });
  return finite;
}

// The smallest value of an image, and how far the largest one is above it.
struct Range {
  double minimum, size;
  bool finite;  // all values, and the size
};

Range range_of(const double* image,  // (pixels)
               std::int64_t pixels) {
  const auto [low, high] = std::minmax_element(image, image + pixels);
  const double size = *high - *low;
  const auto finite = [](double value) { return std::isfinite(value); };
  return {*low, size, finite(size) && std::all_of(image, image + pixels, finite)};
}

template <class T>
void normalize(const double* image,  // (pixels)
               const Range& range, std::int64_t pixels,
               T* out) {  // (pixels)
  // A range of 0 leaves only zeros to divide.
  const double minimum = range.minimum, divisor = range.size > 0.0 ? range.size : 1.0;
  for (std::int64_t i = 0; i < pixels; ++i) out[i] = static_cast<T>((image[i] - minimum) / divisor);
}

void normalize(const double* image, const Range& range, std::int64_t pixels, half* out) {
  double row[chunk_size];
  for (std::int64_t begin = 0; begin < pixels; begin += chunk_size) {
    const std::int64_t count = std::min(chunk_size, pixels - begin);
    normalize(image + begin, range, count, row);
    narrow(row, count, out + begin);
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
    const std::int64_t count = std::min(chunk_size, pixels - begin);
    double* const chunk_sums = sums.get() + b * pixels + begin;
    std::fill_n(chunk_sums, count, 0.0);
    add_channels(features + b * p.channels * pixels + begin, p.channels, pixels, count, chunk_sums);
  });
  return add_all_resized(sums.get(), total, p, context.threads);
}

template <class T>
bool background_normalize(const double* total,  // (B, N)
                          T* out,               // (B, N)
                          std::int64_t batch, std::int64_t pixels, Context& context) {
  if (pixels == 0) return true;
  std::atomic<bool> all_finite{true};
  parallel_for(batch, context.threads, [&](std::int64_t b) {
    const double* image = total + b * pixels;
    const Range range = range_of(image, pixels);
    if (!range.finite) all_finite = false;
    normalize(image, range, pixels, out + b * pixels);
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
