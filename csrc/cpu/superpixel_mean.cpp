// superpixel_mean: sums over superpixels, then means painted back.
//
// Channels are processed in blocks of 8. For each block, chunks of about 64 pixels are interleaved,
// so that the 8 values of a pixel are side by side, and then added run by run: the superpixel's 8
// sums are read once, stay in registers over the run, and are written back. Values are read once
// and written once, so the speed is close to that of a copy. Pixels in no superpixel are added and
// painted like the others, as one more superpixel; then their own values are written over it.
#include "cuekit/superpixel_mean.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "finite.h"
#include "parallel.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// Pixels that are interleaved before they are added: they stay in L1. More of them would take so
// long for each channel's plane that the hardware prefetcher loses track of the other planes.
constexpr std::int64_t chunk_size = 64;

// The type that values are interleaved in. float32 holds every value of at most 16 bits exactly,
// and is converted to float64 in one instruction.
template <class T>
using interleaved_type = std::conditional_t<sizeof(T) <= 2, float, T>;

// Adds every value to its superpixel's sum, in raster order.
//
// Whole runs are interleaved until they make up a chunk, so the buffer has room for a chunk and the
// longest run. A run's sums are held in vectors of `width` values; for width 1, and for integers,
// in an array, which is faster there.
template <int width>
struct AddRuns {
  template <class T>
  static CUEKIT_INLINE void add(const T* values,  // (length, 8)
                                std::int32_t length,
                                double* sum) {  // (8)
    if constexpr (width > 1 && std::is_floating_point_v<T>) {
      using Values = Lanes<double, width>;
      constexpr int parts = channels_per_block / width;
      Values partial[parts];
      for (int k = 0; k < parts; ++k) partial[k] = Values::load(sum + k * width);
      for (std::int32_t x = 0; x < length; ++x, values += channels_per_block) {
        for (int k = 0; k < parts; ++k) {
          double wide[width];
          for (int j = 0; j < width; ++j) wide[j] = load(values[k * width + j]);
          partial[k] = partial[k] + Values::load(wide);
        }
      }
      for (int k = 0; k < parts; ++k) partial[k].store(sum + k * width);
    } else {
      double partial[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < length; ++x, values += channels_per_block) {
        for (int j = 0; j < channels_per_block; ++j) partial[j] += load(values[j]);
      }
      for (int j = 0; j < channels_per_block; ++j) sum[j] = partial[j];
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* const* planes,  // 8 of (pixels)
                                std::int64_t pixels, const Run* run, const Run* end,
                                std::int64_t room,            // the buffer's length in pixels
                                interleaved_type<T>* buffer,  // (room, 8); then, only for values
                                                              // that change type, (8, room)
                                double* sums) {               // (S, 8)
    for (std::int64_t begin = 0; run != end;) {
      const Run* first = run;
      std::int64_t count = 0;
      do count += run++->length;
      while (run != end && count < chunk_size);
      // Rounded up to 8 pixels: some more pixels are cheaper than the last few one by one.
      const std::int64_t rounded = std::min((count + 7) / 8 * 8, pixels - begin);
      const interleaved_type<T>* rows[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) {
        if constexpr (std::is_same_v<T, interleaved_type<T>>) {
          rows[j] = planes[j] + begin;
        } else {
          interleaved_type<T>* const converted = buffer + (channels_per_block + j) * room;
          for (std::int64_t x = 0; x < rounded; ++x)
            converted[x] = static_cast<float>(load(planes[j][begin + x]));
          rows[j] = converted;
        }
      }
      interleave(&rows[0], rounded, buffer);
      begin += count;
      const interleaved_type<T>* values = buffer;
      for (; first != run; ++first) {
        add(values, first->length, sums + first->label * std::int64_t{channels_per_block});
        values += first->length * std::int64_t{channels_per_block};
      }
    }
  }
};

// Writes each superpixel's means to its pixels. It goes run by run through all channels of the
// block (paint_runs does one channel): the end of a run is mispredicted once, not once per channel.
struct PaintMeans {
  template <class M>
  static CUEKIT_INLINE void run(const M* means,  // (S, 8)
                                const Run* run, const Run* end, std::int64_t pixels,
                                std::int64_t channels,
                                M* out) {  // (channels, pixels)
    constexpr int chunk = 64 / sizeof(M);
    std::int64_t begin = 0;
    for (; run != end && pixels - begin >= std::int64_t{run->length} + 2 * chunk; ++run) {
      const M* mean = means + run->label * std::int64_t{channels_per_block};
      for (std::int64_t j = 0; j < channels; ++j) {
        M filled[chunk];
        std::fill_n(filled, chunk, mean[j]);
        M* target = out + j * pixels + begin;
        std::memcpy(target, filled, 64);
        std::memcpy(target + chunk, filled, 64);
        for (std::int64_t x = 2 * chunk; x < run->length; x += chunk)
          std::memcpy(target + x, filled, 64);
      }
      begin += run->length;
    }
    for (; run != end; begin += run->length, ++run) {
      for (std::int64_t j = 0; j < channels; ++j)
        std::fill_n(out + j * pixels + begin, run->length,
                    means[run->label * std::int64_t{channels_per_block} + j]);
    }
  }
};

// Writes the values of the runs with label `outside`, which are in no superpixel, in one channel.
struct KeepValues {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (pixels)
                                const Run* run, const Run* end, std::int32_t outside,
                                mean_type<T>* out,  // (pixels)
                                bool* finite) {     // false where such a value is not finite
    bool all_finite = true;
    for (; run != end; values += run->length, out += run->length, ++run) {
      if (run->label != outside) continue;
      for (std::int32_t x = 0; x < run->length; ++x)
        out[x] = store<mean_type<T>>(static_cast<double>(load(values[x])));
      if constexpr (std::is_same_v<T, mean_type<T>>)
        all_finite = all_finite && !any_nonfinite(nonfinite_bits(values, run->length));
    }
    *finite = all_finite;
  }
};

// One block of at most 8 channels of one image. Returns false where a sum, or the value of a pixel
// in no superpixel, is not finite.
template <class T>
bool mean_of_block(const T* values,    // (channels, H, W)
                   mean_type<T>* out,  // (channels, H, W)
                   std::int64_t channels, const SuperpixelRuns& superpixels,
                   const SuperpixelMeanParams& p) {
  const std::int64_t pixels = p.height * p.width;
  // In place of missing channels the last one is read again.
  const T* planes[channels_per_block];
  for (int j = 0; j < channels_per_block; ++j)
    planes[j] = values + std::min<std::int64_t>(j, channels - 1) * pixels;
  const std::int64_t room = chunk_size + p.width + 7;
  constexpr int buffers = std::is_same_v<T, interleaved_type<T>> ? 1 : 2;
  std::vector<interleaved_type<T>> buffer(room * channels_per_block * buffers);
  std::vector<double> sums(superpixels.rows() * channels_per_block);
  dispatch_width<AddRuns<1>, AddRuns<4>, AddRuns<8>>(
      &planes[0], pixels, superpixels.begin(), superpixels.end(), room, buffer.data(), sums.data());
  bool finite = true;
  std::vector<mean_type<T>> means(sums.size());
  for (std::int64_t s = 0; s < superpixels.count; ++s) {
    // A label without pixels has size 0; its mean is never painted.
    const double size = std::max(superpixels.sizes[s], 1.0);
    for (std::int64_t i = s * channels_per_block; i < s * channels_per_block + channels; ++i) {
      finite = finite && std::isfinite(sums[i]);
      means[i] = store<mean_type<T>>(sums[i] / size);
    }
  }
  dispatch<PaintMeans>(means.data(), superpixels.begin(), superpixels.end(), pixels, channels, out);
  for (std::int64_t j = 0; superpixels.any_outside && j < channels; ++j) {
    bool kept_finite = true;
    dispatch<KeepValues>(values + j * pixels, superpixels.begin(), superpixels.end(),
                         static_cast<std::int32_t>(superpixels.count), out + j * pixels,
                         &kept_finite);
    finite = finite && kept_finite;
  }
  return finite;
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values,                     // (B, K, H, W)
                     const SuperpixelsView& superpixels,  // (B, H, W)
                     mean_type<T>* out,                   // (B, K, H, W)
                     const SuperpixelMeanParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const SuperpixelRuns runs = read_runs(superpixels, b, p.height, p.width, p.num_superpixels);
    parallel_for(channel_blocks(p.channels), inner_threads, [&](std::int64_t block) {
      const std::int64_t first = block * channels_per_block;
      const std::int64_t offset = (b * p.channels + first) * p.height * p.width;
      const std::int64_t channels = std::min<std::int64_t>(channels_per_block, p.channels - first);
      if (!mean_of_block(values + offset, out + offset, channels, runs, p)) all_finite = false;
    });
  });
  return all_finite;
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
