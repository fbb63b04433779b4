#include "cuekit/superpixel_mean.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// Pixels laid side by side before they are added: they stay in the L1 cache, and not so many that
// the hardware forgets the channels' planes, which take turns.
constexpr std::int64_t block_size = 64;

// What values are laid side by side as: float32 holds short ones exactly, and turns into float64 in
// one instruction.
template <class T>
using laid = std::conditional_t<sizeof(T) <= 2, float, T>;

// sums[label * lanes + j] += the values of an image, pixel after pixel. As many whole runs as make
// a block are interleaved, into room for a block and the longest run: `block` for all channels
// side by side and, for values that change their type, one channel after the other behind that.
// Then a run's sums are held in vectors of `width` values, or as an array where that does better:
// for integers, and in narrow registers.
template <int width>
struct AddTile {
  template <class T>
  static CUEKIT_INLINE void add(const T* values, std::int32_t length, double* sum) {
    if constexpr (width > 1 && std::is_floating_point_v<T>) {
      using Values = Lanes<double, width>;
      constexpr int parts = lanes / width;
      Values partial[parts];
      for (int k = 0; k < parts; ++k) partial[k] = Values::load(sum + k * width);
      for (std::int32_t x = 0; x < length; ++x, values += lanes) {
        for (int k = 0; k < parts; ++k) {
          double wide[width];
          for (int j = 0; j < width; ++j) wide[j] = load(values[k * width + j]);
          partial[k] = partial[k] + Values::load(wide);
        }
      }
      for (int k = 0; k < parts; ++k) partial[k].store(sum + k * width);
    } else {
      double partial[lanes];
      for (int j = 0; j < lanes; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < length; ++x, values += lanes) {
        for (int j = 0; j < lanes; ++j) partial[j] += load(values[j]);
      }
      for (int j = 0; j < lanes; ++j) sum[j] = partial[j];
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* const* planes, std::int64_t pixels, const Run* run,
                                const Run* end, std::int64_t room, laid<T>* block, double* sums) {
    for (std::int64_t begin = 0; run != end;) {
      const Run* first = run;
      std::int64_t count = 0;
      do count += run++->length;
      while (run != end && count < block_size);
      // A few pixels too many are cheaper than the last few one by one.
      const std::int64_t laid_count = std::min((count + 7) / 8 * 8, pixels - begin);
      const laid<T>* part[lanes];
      for (int j = 0; j < lanes; ++j) {
        if constexpr (std::is_same_v<T, laid<T>>) {
          part[j] = planes[j] + begin;
        } else {
          laid<T>* const wide = block + (lanes + j) * room;
          for (std::int64_t x = 0; x < laid_count; ++x)
            wide[x] = static_cast<float>(load(planes[j][begin + x]));
          part[j] = wide;
        }
      }
      interleave(&part[0], laid_count, block);
      begin += count;
      const laid<T>* values = block;
      for (; first != run; ++first) {
        add(values, first->length, sums + first->label * std::int64_t{lanes});
        values += first->length * std::int64_t{lanes};
      }
    }
  }
};

// Writes means[label * lanes + j] to every pixel of channel j. One run after the other in all
// channels, as paint_runs does it in one: where a run ends is mispredicted once for all of them.
struct PaintTile {
  template <class M>
  static CUEKIT_INLINE void run(const M* means, const Run* run, const Run* end, std::int64_t pixels,
                                std::int64_t channels, M* out) {
    constexpr int block = 64 / sizeof(M);
    std::int64_t begin = 0;
    for (; run != end && pixels - begin >= std::int64_t{run->length} + 2 * block; ++run) {
      const M* mean = means + run->label * std::int64_t{lanes};
      for (std::int64_t j = 0; j < channels; ++j) {
        M filled[block];
        std::fill_n(filled, block, mean[j]);
        M* to = out + j * pixels + begin;
        std::memcpy(to, filled, 64);
        std::memcpy(to + block, filled, 64);
        for (std::int64_t x = 2 * block; x < run->length; x += block)
          std::memcpy(to + x, filled, 64);
      }
      begin += run->length;
    }
    for (; run != end; begin += run->length, ++run) {
      for (std::int64_t j = 0; j < channels; ++j)
        std::fill_n(out + j * pixels + begin, run->length,
                    means[run->label * std::int64_t{lanes} + j]);
    }
  }
};

// Eight channels of one image; lanes past the last channel read it again.
template <class T>
bool tile_mean(const T* values, mean_type<T>* out, std::int64_t channels,
               const Superpixels& superpixels, const SuperpixelMeanParams& p) {
  const std::int64_t pixels = p.height * p.width;
  const Run* begin = superpixels.runs.data();
  const Run* end = begin + superpixels.runs.size();
  const T* planes[lanes];
  for (int j = 0; j < lanes; ++j)
    planes[j] = values + std::min<std::int64_t>(j, channels - 1) * pixels;
  const std::int64_t room = block_size + p.width + 7;
  std::vector<laid<T>> block(to_size(room * lanes * (std::is_same_v<T, laid<T>> ? 1 : 2)));
  std::vector<double> sums(to_size(superpixels.count * lanes));
  dispatch_width<AddTile<1>, AddTile<4>, AddTile<8>>(&planes[0], pixels, begin, end, room,
                                                     block.data(), sums.data());
  bool finite = true;
  std::vector<mean_type<T>> means(sums.size());
  for (std::int64_t s = 0; s < superpixels.count; ++s) {
    // Labels that no pixel has are never painted.
    const double size = std::max(superpixels.sizes[to_size(s)], 1.0);
    for (std::int64_t i = s * lanes; i < s * lanes + channels; ++i) {
      finite = finite && std::isfinite(sums[to_size(i)]);
      means[to_size(i)] = store<mean_type<T>>(sums[to_size(i)] / size);
    }
  }
  dispatch<PaintTile>(means.data(), begin, end, pixels, channels, out);
  return finite;
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values, const SuperpixelsView& labels, mean_type<T>* out,
                     const SuperpixelMeanParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const Superpixels superpixels =
        read_superpixels(labels, b, p.height, p.width, p.num_superpixels);
    parallel_for(number_of_tiles(p.channels), inner_threads, [&](std::int64_t tile) {
      const std::int64_t first = tile * lanes;
      const std::int64_t offset = (b * p.channels + first) * p.height * p.width;
      if (!tile_mean(values + offset, out + offset,
                     std::min<std::int64_t>(lanes, p.channels - first), superpixels, p))
        all_finite = false;
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
