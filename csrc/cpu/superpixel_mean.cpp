#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// sums[label * lanes + j] += the values of a row, pixel after pixel.
struct AddRow {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* rows, std::int64_t width, const Run* run,
                                const Run* end, T* pixels, double* sums) {
    // Eight channels take turns, a row each: too short for the hardware to foresee the next row.
    constexpr std::int64_t block = 64;
    for (std::int64_t begin = 0; begin < width; begin += block) {
      const T* part[lanes];
      for (int j = 0; j < lanes; ++j) {
        part[j] = rows[j] + begin;
        prefetch(part[j] + width, block);
      }
      interleave(&part[0], std::min(block, width - begin), pixels + begin * lanes);
    }
    for (; run != end; ++run) {
      double* sum = sums + run->label * std::int64_t{lanes};
      double partial[lanes];
      for (int j = 0; j < lanes; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < run->length; ++x, pixels += lanes) {
        for (int j = 0; j < lanes; ++j) partial[j] += load(pixels[j]);
      }
      for (int j = 0; j < lanes; ++j) sum[j] = partial[j];
    }
  }
};

struct PaintMeans {
  template <class M>
  static CUEKIT_INLINE void run(const M* means, const Superpixels* superpixels, std::int64_t pixels,
                                M* out) {
    const Run* runs = superpixels->runs.data();
    paint_runs(runs, runs + superpixels->runs.size(), pixels, out,
               [means](std::int32_t label) { return means[label]; });
  }
};

// Eight channels of one image; lanes past the last channel read zeros.
template <class T>
bool tile_mean(const T* values, mean_type<T>* out, std::int64_t channels,
               const Superpixels& superpixels, const SuperpixelMeanParams& p) {
  const std::int64_t pixels = p.height * p.width;
  const std::vector<T> zeros(to_size(p.width));
  std::vector<T> scratch(to_size(p.width * lanes));
  std::vector<double> sums(to_size(superpixels.count * lanes));
  for (std::int64_t y = 0; y < p.height; ++y) {
    const T* rows[lanes];
    for (int j = 0; j < lanes; ++j)
      rows[j] = j < channels ? values + j * pixels + y * p.width : zeros.data();
    dispatch<AddRow>(&rows[0], p.width, superpixels.row(y), superpixels.row(y + 1), scratch.data(),
                     sums.data());
  }
  bool finite = true;
  std::vector<mean_type<T>> means(to_size(superpixels.count));
  for (std::int64_t j = 0; j < channels; ++j) {
    for (std::int64_t s = 0; s < superpixels.count; ++s) {
      const double sum = sums[to_size(s * lanes + j)];
      finite = finite && std::isfinite(sum);
      // Labels that no pixel has are never painted.
      means[to_size(s)] = store<mean_type<T>>(sum / std::max(superpixels.sizes[to_size(s)], 1.0));
    }
    dispatch<PaintMeans>(means.data(), &superpixels, pixels, out + j * pixels);
  }
  return finite;
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values, const LabelsView& labels, mean_type<T>* out,
                     const SuperpixelMeanParams& p, int threads) {
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, threads, [&](std::int64_t b, int inner_threads) {
    const Superpixels superpixels = read_superpixels(labels, b, p.height, p.width);
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

#define CUEKIT_INSTANTIATE(T)                                               \
  template bool superpixel_mean(const T*, const LabelsView&, mean_type<T>*, \
                                const SuperpixelMeanParams&, int);
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
