// The mean of every channel over every superpixel (equation: cuekit/superpixel_mean.h).
//
// Images are worked on in steps, which bounds the workspace. The pixels of a step are grouped by
// superpixel once (superpixels.h). Then, three launches per 32 channels:
//   sum_pieces       every warp adds up every piece of one segment, for up to 8 channels
//   means_of_pieces  every thread adds up the pieces of a superpixel for one channel
//   paint_means      every thread writes the means of `width` pixels to all channels of the pass;
//                    pixels in no superpixel keep their values
// The order of additions is fixed, but it is not raster order: sums differ from the CPU's by the
// rounding of float64.
//
// Workspace: the members of struct Workspace.
#include <algorithm>

#include "cuekit/half.h"
#include "cuekit/superpixel_mean.h"
#include "superpixels.h"

namespace cuekit::cuda {
namespace {

constexpr int channels_per_warp = 8;

// The lanes of a warp share the pixels of a piece. The launch bounds limit registers so that three
// blocks fit on a multiprocessor; a few bytes are spilled for it.
template <class T>
__global__ void __launch_bounds__(block_size, 3)
    sum_pieces(const T* __restrict__ values,  // (images, K, H * W)
               GroupedPixels g, std::int64_t first_channel, std::int64_t channels,
               std::int64_t all_channels,    // K
               double* __restrict__ sums) {  // (piece_rows, 32)
  const std::int64_t warp = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t warps_per_segment = (channels + channels_per_warp - 1) / channels_per_warp;
  const std::int64_t segment = warp / warps_per_segment;
  const std::int64_t warp_channel = warp % warps_per_segment * channels_per_warp;
  const int last = static_cast<int>(channels - 1 - warp_channel);
  for_each_piece(g, segment, [&](std::int64_t key, std::int64_t begin, std::int64_t end) {
    const std::int64_t map = key / g.num_superpixels * all_channels + first_channel + warp_channel;
    double sum[channels_per_warp] = {};
#pragma unroll 1
    for (std::int64_t i = begin + lane; i < end; i += warp_size) {
      // All loads are issued before the first addition, without a branch between them. Where the
      // warp has fewer channels, the last one is loaded again, from L1, and its sum is not stored.
      const T* source = values + map * g.pixels + g.sorted_pixels[i];
      T loaded[channels_per_warp];
#pragma unroll
      for (int j = 0; j < channels_per_warp; ++j)
        loaded[j] = source[(j < last ? j : last) * g.pixels];
#pragma unroll
      for (int j = 0; j < channels_per_warp; ++j) sum[j] += load(loaded[j]);
    }
#pragma unroll
    for (int j = 0; j < channels_per_warp; ++j) {
      sum[j] = reduce_warp(sum[j], Plus());
      if (lane == j && j <= last)
        sums[(segment + key) * channels_per_pass + warp_channel + j] = sum[j];
    }
  });
}

template <class T, int width>
__global__ void paint_means(const T* __restrict__ values,            // (images, K, H * W)
                            const mean_type<T>* __restrict__ means,  // (num_keys, 32)
                            GroupedPixels g, std::int64_t first_channel, std::int64_t channels,
                            std::int64_t all_channels,         // K
                            mean_type<T>* __restrict__ out) {  // (images, K, H * W)
  using Mean = mean_type<T>;
  const auto [image, pixel] = thread_position(g.pixels, width);
  if (pixel >= g.pixels) return;
  const std::uint32_t* keys = g.keys + image * g.pixels + pixel;
  const std::int64_t offset = (image * all_channels + first_channel) * g.pixels + pixel;
  Mean* target = out + offset;
  const Mean* row[width];  // of the pixel's superpixel
  bool inside = true;      // all pixels are in a superpixel
  for (int j = 0; j < width; ++j) {
    row[j] = means + keys[j] * std::int64_t{channels_per_pass};
    inside = inside && keys[j] < g.num_keys();
  }
  if (!inside) {
    for (std::int64_t k = 0; k < channels; ++k) {
      Pack<Mean, width> pack;
      for (int j = 0; j < width; ++j)
        pack.values[j] =
            keys[j] < g.num_keys()
                ? row[j][k]
                : store<Mean>(static_cast<double>(load(values[offset + k * g.pixels + j])));
      store_pack(pack, target + k * g.pixels);
    }
    return;
  }
  // One load has several channels of a pixel, one store several pixels of a channel.
  constexpr int channels_per_load = sizeof(Mean) == 8 ? 2 : 4;
  std::int64_t k = 0;
#pragma unroll 2
  for (; k + channels_per_load <= channels; k += channels_per_load) {
    Pack<Mean, channels_per_load> of_pixel[width];
    for (int j = 0; j < width; ++j) of_pixel[j] = load_pack<channels_per_load>(row[j] + k);
#pragma unroll
    for (int i = 0; i < channels_per_load; ++i) {
      Pack<Mean, width> pack;
      for (int j = 0; j < width; ++j) pack.values[j] = of_pixel[j].values[i];
      store_pack(pack, target + (k + i) * g.pixels);
    }
  }
  for (; k < channels; ++k) {
    Pack<Mean, width> pack;
    for (int j = 0; j < width; ++j) pack.values[j] = row[j][k];
    store_pack(pack, target + k * g.pixels);
  }
}

template <class Mean>
struct Workspace {
  Workspace(const SuperpixelMeanParams& p, std::int64_t images, Arena& arena)
      : grouped(images, p.height * p.width, p.num_superpixels, arena),
        sums(arena.take<double>(piece_rows(grouped) * channels_per_pass)),
        means(arena.take<Mean>(grouped.num_keys() * channels_per_pass)) {}

  GroupedPixels grouped;
  double* sums;  // (piece_rows, 32)
  Mean* means;   // (num_keys, 32)
};

template <class Mean>
std::int64_t workspace_bytes(const SuperpixelMeanParams& p, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace<Mean> workspace(p, images, arena);
  return arena.used();
}

}  // namespace

template <class T>
bool superpixel_mean(const T* values,                     // (B, K, H, W)
                     const SuperpixelsView& superpixels,  // (B, H, W)
                     mean_type<T>* out,                   // (B, K, H, W)
                     const SuperpixelMeanParams& p, Context& context) {
  using Mean = mean_type<T>;
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.height * p.width;
  if (p.batch * p.channels * pixels == 0) return true;
  const std::int64_t step = images_per_step(p.batch, pixels, p.num_superpixels);
  // The last step may have fewer images, which never need more.
  void* const memory = context.allocate(workspace_bytes<Mean>(p, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    const std::int64_t images = std::min(step, p.batch - first);
    Arena arena(memory);
    const Workspace<Mean> workspace(p, images, arena);
    const GroupedPixels& g = workspace.grouped;
    g.group(superpixels, first, stream);
    const std::int64_t offset = first * p.channels * pixels;
    for (std::int64_t k = 0; k < p.channels; k += channels_per_pass) {
      const std::int64_t channels = std::min<std::int64_t>(channels_per_pass, p.channels - k);
      const std::int64_t warps =
          ceil_div(g.size(), segment_pixels) * ceil_div(channels, channels_per_warp);
      launch(sum_pieces<T>, ceil_div(warps * warp_size, block_size), block_size, stream,
             values + offset, g, k, channels, p.channels, workspace.sums);
      launch(means_of_pieces<double, Mean>, ceil_div(g.num_keys() * channels, block_size),
             block_size, stream, workspace.sums, g, channels, workspace.means);
      with_width<Mean>(pixels, {out}, [&](auto width) {
        launch(paint_means<T, width>, images * blocks_per_image(pixels, width), block_size, stream,
               values + offset, workspace.means, g, k, channels, p.channels, out + offset);
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
