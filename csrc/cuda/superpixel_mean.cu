// Pixels are grouped by superpixel once (superpixels.h); then, 32 channels at a time, the means of
// all superpixels go into a table, and every pixel takes its own row of it.
#include "kernels.h"
#include "superpixels.h"

namespace cuekit::cuda {
namespace {

// Values as they lie, one per pixel.
template <class T>
struct AsTheyLie {
  using Sum = double;
  const T* values;  // of the first of the grouped images
  std::int64_t channels, pixels;

  __device__ std::int32_t place(std::int32_t pixel) const { return pixel; }
  __device__ double value(std::int64_t map, std::int32_t pixel) const {
    return load(values[map * pixels + pixel]);
  }
};

template <class Mean, int width>
__global__ void paint_means(const Mean* __restrict__ means, Grouped g, std::int64_t first_channel,
                            std::int64_t channels, std::int64_t all_channels,
                            Mean* __restrict__ out) {
  const Position at = position(g.pixels, width);
  if (at.pixel >= g.pixels) return;
  const std::uint32_t* keys = g.key_of + at.image * g.pixels + at.pixel;
  Mean* target = out + (at.image * all_channels + first_channel) * g.pixels + at.pixel;
  std::int64_t row[width];
  for (int j = 0; j < width; ++j) row[j] = keys[j] * std::int64_t{table_width};
  const std::int64_t rows = g.groups() * table_width;
#pragma unroll 4
  for (std::int64_t k = 0; k < channels; ++k) {
    Pack<Mean, width> pack;
    for (int j = 0; j < width; ++j)
      pack.values[j] = row[j] < rows ? means[row[j] + k] : store<Mean>(0.0);
    store_pack(pack, target + k * g.pixels);
  }
}

template <class T>
struct Workspace {
  Workspace(const SuperpixelMeanParams& p, std::int64_t num_superpixels, std::int64_t images,
            Arena& arena)
      : grouped(images, p.height * p.width, num_superpixels, arena),
        sums(arena.take<double>(piece_rows(grouped) * table_width)),
        means(arena.take<T>(grouped.groups() * table_width)) {}

  Grouped grouped;
  double* sums;
  T* means;
};

}  // namespace

std::int64_t superpixel_mean_workspace(const SuperpixelMeanParams& p,
                                       std::int64_t num_superpixels) {
  Arena arena(nullptr);
  const std::int64_t images = images_at_a_time(p.batch, p.height * p.width, num_superpixels);
  const Workspace<double> workspace(p, num_superpixels, images, arena);
  return arena.used();
}

template <class T>
void superpixel_mean(const T* values, const LabelsView& superpixels, std::int64_t num_superpixels,
                     mean_type<T>* out, const SuperpixelMeanParams& p, void* workspace,
                     cudaStream_t stream) {
  using Mean = mean_type<T>;
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t step = images_at_a_time(p.batch, pixels, num_superpixels);
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(workspace);
    const std::int64_t images = p.batch - first < step ? p.batch - first : step;
    const Workspace<Mean> at(p, num_superpixels, images, arena);
    at.grouped.group(superpixels, first, stream);
    const std::int64_t offset = first * p.channels * pixels;
    const AsTheyLie<T> sampler{values + offset, p.channels, pixels};
    for (std::int64_t k = 0; k < p.channels; k += table_width) {
      const std::int64_t channels =
          p.channels - k < table_width ? p.channels - k : std::int64_t{table_width};
      means_of_pieces(sampler, at.grouped, k, channels, at.sums, at.means, stream);
      with_width<Mean>(pixels, {out}, [&](auto width) {
        launch(paint_means<Mean, width>, images * blocks_per_image(pixels, width), block_size,
               stream, at.means, at.grouped, k, channels, p.channels, out + offset);
      });
    }
  }
}

#define CUEKIT_INSTANTIATE(T)                                                             \
  template void superpixel_mean(const T*, const LabelsView&, std::int64_t, mean_type<T>*, \
                                const SuperpixelMeanParams&, void*, cudaStream_t);
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

}  // namespace cuekit::cuda
