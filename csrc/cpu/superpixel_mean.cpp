// superpixel_mean: sums over superpixels, then means painted back.
//
// Channels are processed in blocks of 8. Values are read once (superpixel_sums.cpp) and written
// once, so the speed is close to that of a copy. Pixels in no superpixel are added and painted like
// the others, as one more superpixel; then their own values are written over it.
#include "cuekit/superpixel_mean.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "parallel.h"
#include "superpixel_sums.h"

namespace cuekit::cpu {
namespace {

// Writes each superpixel's means to its pixels, in vectors of `width` bytes.
template <int width>
struct PaintMeans {
  template <class M>
  static CUEKIT_INLINE void run(const M* means,  // (S, 8)
                                const Run* run, const Run* end, std::int64_t pixels,
                                std::int64_t channels,
                                M* out) {  // (channels, pixels)
    paint_runs<width>(run, end, pixels, channels, out, [means](std::int32_t label, std::int64_t j) {
      return means[label * std::int64_t{channels_per_block} + j];
    });
  }
};

// Writes the values of the runs with label `outside`, which are in no superpixel, in one channel.
// Returns false where such a value is not finite.
template <class M>
bool keep_values(const Source& values,  // (pixels)
                 const Run* run, const Run* end, std::int64_t outside,
                 M* out) {  // (pixels)
  // float32 holds every float16, and is what integers become.
  std::vector<std::conditional_t<std::is_same_v<M, double>, double, float>> kept;
  bool all_finite = true;
  for (std::int64_t first = 0; run != end; first += run->length, ++run) {
    if (run->label != outside) continue;
    kept.resize(run->length);
    values.read(first, 1, run->length, kept.data());
    all_finite = all_finite && values.finite(first, run->length);
    for (std::int32_t x = 0; x < run->length; ++x)
      out[first + x] = store<M>(static_cast<double>(kept[x]));
  }
  return all_finite;
}

// One block of at most 8 channels of one image. Returns false where a sum, or the value of a pixel
// in no superpixel, is not finite.
template <class M>
bool mean_of_block(const Source& values,  // (channels, pixels)
                   M* out,                // (channels, pixels)
                   std::int64_t channels, std::int64_t pixels, const SuperpixelRuns& superpixels) {
  const std::vector<double> sums = sums_of_block(values, channels, superpixels, pixels);
  bool finite = true;
  std::vector<M> means(sums.size());
  for (std::int64_t s = 0; s < superpixels.count; ++s) {
    // A label without pixels has size 0; its mean is never painted.
    const double size = std::max(superpixels.sizes[s], 1.0);
    for (std::int64_t i = s * channels_per_block; i < s * channels_per_block + channels; ++i) {
      finite = finite && std::isfinite(sums[i]);
      means[i] = store<M>(sums[i] / size);
    }
  }
  dispatch_width_avx512<PaintMeans<16>, PaintMeans<32>, PaintMeans<64>>(
      std::as_const(means).data(), superpixels.begin(), superpixels.end(), pixels, channels, out);
  for (std::int64_t j = 0; superpixels.any_outside && j < channels; ++j) {
    if (!keep_values(values.from(j * pixels), superpixels.begin(), superpixels.end(),
                     superpixels.count, out + j * pixels))
      finite = false;
  }
  return finite;
}

template <class M>
bool mean_of_images(const Source& values,                // (B, K, H, W)
                    const SuperpixelsView& superpixels,  // (B, H, W)
                    M* out,                              // (B, K, H, W)
                    const SuperpixelMeanParams& p, int threads) {
  const std::int64_t pixels = p.height * p.width;
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, threads, [&](std::int64_t b, int inner_threads) {
    const SuperpixelRuns runs = read_runs(superpixels, b, p.height, p.width, p.num_superpixels);
    parallel_for(channel_blocks(p.channels), inner_threads, [&](std::int64_t block) {
      const std::int64_t first = block * channels_per_block;
      const std::int64_t offset = (b * p.channels + first) * pixels;
      const std::int64_t channels = std::min<std::int64_t>(channels_per_block, p.channels - first);
      if (!mean_of_block(values.from(offset), out + offset, channels, pixels, runs))
        all_finite = false;
    });
  });
  return all_finite;
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values,                     // (B, K, H, W)
                     const SuperpixelsView& superpixels,  // (B, H, W)
                     mean_type<T>* out,                   // (B, K, H, W)
                     const SuperpixelMeanParams& p, Context& context) {
  return mean_of_images(Source(values), superpixels, out, p, context.threads);
}

#define CUEKIT_INSTANTIATE(T)                                                    \
  template bool superpixel_mean(const T*, const SuperpixelsView&, mean_type<T>*, \
                                const SuperpixelMeanParams&, Context&);
CUEKIT_INSTANTIATE(flag)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(std::int8_t)
CUEKIT_INSTANTIATE(std::uint16_t)
CUEKIT_INSTANTIATE(std::int16_t)
CUEKIT_INSTANTIATE(std::uint32_t)
CUEKIT_INSTANTIATE(std::int32_t)
CUEKIT_INSTANTIATE(std::uint64_t)
CUEKIT_INSTANTIATE(std::int64_t)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
