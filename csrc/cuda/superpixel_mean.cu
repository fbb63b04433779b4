// Pixels are grouped by superpixel once (superpixels.h); then, 32 channels at a time, the means of
// all superpixels go into a table, and every pixel takes its own row of it.
#include "cuekit/half.h"
#include "cuekit/superpixel_mean.h"
#include "superpixels.h"

namespace cuekit::cuda {
namespace {

// sums (piece_rows, table_width): of channels first_channel.. of every piece. A warp has one cut's
// pixels and up to eight channels.
constexpr int channels_per_warp = 8;

template <class T>
__global__ void __launch_bounds__(block_size, 3)
    sum_pieces(const T* __restrict__ values, Grouped g, std::int64_t first_channel,
               std::int64_t channels, std::int64_t all_channels, double* __restrict__ sums) {
  const std::int64_t warp = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t warps_per_cut = (channels + channels_per_warp - 1) / channels_per_warp;
  const std::int64_t which = warp / warps_per_cut;
  const std::int64_t offset = warp % warps_per_cut * channels_per_warp;
  const int last = static_cast<int>(channels - 1 - offset);
  for_each_piece(g, which, [&](std::int64_t key, std::int64_t begin, std::int64_t end) {
    const std::int64_t map = key / g.num_superpixels * all_channels + first_channel + offset;
    double sum[channels_per_warp] = {};
#pragma unroll 1
    for (std::int64_t i = begin + lane; i < end; i += warp_size) {
      // All loads before the first sum, and no branch between them: where there are fewer channels
      // the last is read again, from the cache, and goes nowhere.
      const T* source = values + map * g.pixels + g.pixel[i];
      T read[channels_per_warp];
#pragma unroll
      for (int j = 0; j < channels_per_warp; ++j)
        read[j] = source[(j < last ? j : last) * g.pixels];
#pragma unroll
      for (int j = 0; j < channels_per_warp; ++j) sum[j] += load(read[j]);
    }
#pragma unroll
    for (int j = 0; j < channels_per_warp; ++j) {
      sum[j] = reduce_warp(sum[j], Plus());
      if (lane == j && j <= last) sums[(which + key) * table_width + offset + j] = sum[j];
    }
  });
}

template <class Mean, int width>
__global__ void paint_means(const Mean* __restrict__ means, Grouped g, std::int64_t first_channel,
                            std::int64_t channels, std::int64_t all_channels,
                            Mean* __restrict__ out) {
  const Position at = position(g.pixels, width);
  if (at.pixel >= g.pixels) return;
  const std::uint32_t* keys = g.key_of + at.image * g.pixels + at.pixel;
  Mean* target = out + (at.image * all_channels + first_channel) * g.pixels + at.pixel;
  const Mean* row[width];  // null: in no superpixel
  for (int j = 0; j < width; ++j)
    row[j] = keys[j] < g.groups() ? means + keys[j] * std::int64_t{table_width} : nullptr;
  // Four channels of a row are one load, as four pixels of a channel are one store.
  constexpr int together = sizeof(Mean) == 8 ? 2 : 4;
  std::int64_t k = 0;
#pragma unroll 2
  for (; k + together <= channels; k += together) {
    Pack<Mean, together> of_pixel[width];
    for (int j = 0; j < width; ++j)
      of_pixel[j] = row[j] ? load_pack<together>(row[j] + k) : Pack<Mean, together>{};
#pragma unroll
    for (int i = 0; i < together; ++i) {
      Pack<Mean, width> pack;
      for (int j = 0; j < width; ++j) pack.values[j] = of_pixel[j].values[i];
      store_pack(pack, target + (k + i) * g.pixels);
    }
  }
  for (; k < channels; ++k) {
    Pack<Mean, width> pack;
    for (int j = 0; j < width; ++j) pack.values[j] = row[j] ? row[j][k] : store<Mean>(0.0);
    store_pack(pack, target + k * g.pixels);
  }
}

template <class T>
struct Workspace {
  Workspace(const SuperpixelMeanParams& p, std::int64_t images, Arena& arena)
      : grouped(images, p.height * p.width, p.num_superpixels, arena),
        sums(arena.take<double>(piece_rows(grouped) * table_width)),
        means(arena.take<T>(grouped.groups() * table_width)) {}

  Grouped grouped;
  double* sums;
  T* means;
};

template <class Mean>
std::int64_t workspace_bytes(const SuperpixelMeanParams& p, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace<Mean> workspace(p, images, arena);
  return arena.used();
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values, const SuperpixelsView& superpixels, mean_type<T>* out,
                     const SuperpixelMeanParams& p, Context& context) {
  using Mean = mean_type<T>;
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t step = images_at_a_time(p.batch, pixels, p.num_superpixels);
  void* const workspace = context.allocate(workspace_bytes<Mean>(p, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(workspace);
    const std::int64_t images = p.batch - first < step ? p.batch - first : step;
    const Workspace<Mean> at(p, images, arena);
    at.grouped.group(superpixels, first, stream);
    const std::int64_t offset = first * p.channels * pixels;
    for (std::int64_t k = 0; k < p.channels; k += table_width) {
      const std::int64_t channels =
          p.channels - k < table_width ? p.channels - k : std::int64_t{table_width};
      const std::int64_t warps =
          ceil_div(at.grouped.size(), cut) * ceil_div(channels, channels_per_warp);
      launch(sum_pieces<T>, ceil_div(warps * warp_size, block_size), block_size, stream,
             values + offset, at.grouped, k, channels, p.channels, at.sums);
      launch(add_pieces<double, Mean>, ceil_div(at.grouped.groups() * channels, block_size),
             block_size, stream, at.sums, at.grouped, channels, at.means);
      with_width<Mean>(pixels, {out}, [&](auto width) {
        launch(paint_means<Mean, width>, images * blocks_per_image(pixels, width), block_size,
               stream, at.means, at.grouped, k, channels, p.channels, out + offset);
      });
    }
  }
  return true;
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

}  // namespace cuekit::cuda
