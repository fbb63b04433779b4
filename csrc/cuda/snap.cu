// Snaps cues to superpixels (equation: cuekit/snap.h).
//
// Images are worked on in steps, which bounds the workspace. The pixels of a step are grouped by
// superpixel once (superpixels.h). Then, in one pass per 32 channels:
//
//   bool cues, counted (integers, exact in any order):
//     nearest_sources  the row and the column of the cues for every row and column of superpixels
//     pack_channels    every thread packs the channels of one pixel of the cues into a word
//     count_pieces     every warp counts the pixels that are on in every piece of one segment, for
//                      all channels
//     means_of_pieces  every thread adds up the counts of a superpixel for one channel
//   floating maps:
//     bilinear_taps    the taps for every row and column of superpixels
//     raster_means     every thread adds up one channel over one superpixel, in raster order, so
//                      that the result is the CPU's bit by bit
//     input_levels     every block finds the level of one channel's input, if any pixel is in no
//                      superpixel
//   both:
//     find_bits        every block finds, for one image, the largest mean of each channel, and sets
//                      a bit per superpixel and channel where the mean is above the threshold
//     paint_bits       every thread writes the bits of `width` pixels to all channels of the pass;
//                      pixels in no superpixel keep their input
//
// Workspace: the members of struct Workspace.
#include <algorithm>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "cuekit/snap.h"
#include "superpixels.h"

namespace cuekit::cuda {
namespace {

// One thread per row and per column of the superpixels.
__global__ void nearest_sources(std::int32_t* sources,  // (H + W): source rows, then source columns
                                SnapParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i < p.height) {
    sources[i] = static_cast<std::int32_t>(nearest_source(i, p.in_height, p.height));
  } else if (i < p.height + p.width) {
    sources[i] = static_cast<std::int32_t>(nearest_source(i - p.height, p.in_width, p.width));
  }
}

// One thread per row and per column of the superpixels.
__global__ void bilinear_taps(BilinearTap* taps,  // (H + W): of the rows, then of the columns
                              SnapParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i < p.height) {
    taps[i] = bilinear_tap(i, p.in_height, p.height);
  } else if (i < p.height + p.width) {
    taps[i] = bilinear_tap(i - p.height, p.in_width, p.width);
  }
}

// Bit k of a word: channel first_channel + k is on.
__global__ void pack_channels(const std::uint8_t* __restrict__ cues,  // (images, K, h * w)
                              std::int64_t first_channel, std::int64_t channels, SnapParams p,
                              std::uint32_t* __restrict__ words) {  // (images, h * w)
  const std::int64_t in_pixels = p.in_height * p.in_width;
  const auto [image, pixel] = thread_position(in_pixels, 1);
  if (pixel >= in_pixels) return;
  const std::uint8_t* source = cues + (image * p.channels + first_channel) * in_pixels + pixel;
  std::uint32_t word = 0;
#pragma unroll 8
  for (int k = 0; k < channels; ++k) word |= (source[k * in_pixels] != 0 ? 1u : 0u) << k;
  words[image * in_pixels + pixel] = word;
}

// A warp has one segment. Each lane loads the word of one pixel; then a ballot per channel gives
// the 32 pixels' bits of that channel, and the channel's lane counts them.
__global__ void count_pieces(const std::uint32_t* __restrict__ words,   // (images, h * w)
                             const std::int32_t* __restrict__ rows,     // (H): source rows
                             const std::int32_t* __restrict__ columns,  // (W): source columns
                             GroupedPixels g, std::int64_t channels, SnapParams p,
                             std::uint32_t* __restrict__ counts) {  // (piece_rows, 32)
  const std::int64_t segment = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const auto width = static_cast<std::int32_t>(p.width);
  const std::int64_t in_pixels = p.in_height * p.in_width;
  for_each_piece(g, segment, [&](std::int64_t key, std::int64_t begin, std::int64_t end) {
    const std::uint32_t* image_words = words + key / g.num_superpixels * in_pixels;
    std::uint32_t count = 0;
    for (std::int64_t first = begin; first < end; first += warp_size) {
      std::uint32_t word = 0;
      if (first + lane < end) {
        const std::int32_t pixel = g.sorted_pixels[first + lane];
        const std::int32_t y = pixel / width;
        word = image_words[rows[y] * p.in_width + columns[pixel - y * width]];
      }
      for (int k = 0; k < channels; ++k) {
        const unsigned on = __ballot_sync(all_lanes, (word >> k & 1u) != 0);
        if (lane == k) count += static_cast<std::uint32_t>(__popc(on));
      }
    }
    if (lane < channels) counts[(segment + key) * channels_per_pass + lane] = count;
  });
}

// Interpolates maps at a pixel of the superpixels.
template <class T>
struct Bilinear {
  const T* maps;  // (images, K, h * w)
  std::int64_t channels, in_pixels;
  std::int32_t in_width, width;
  const BilinearTap* rows;     // (H)
  const BilinearTap* columns;  // (W)

  __device__ double value(std::int64_t map, std::int32_t pixel) const {
    const BilinearTap row = rows[pixel / width];
    const BilinearTap column = columns[pixel % width];
    const T* above = maps + map * in_pixels + row.low * in_width;
    const T* below = maps + map * in_pixels + row.high * in_width;
    const double left = interpolate(load(above[column.low]), load(below[column.low]), row.weight);
    const double right =
        interpolate(load(above[column.high]), load(below[column.high]), row.weight);
    return interpolate(left, right, column.weight);
  }
};

template <class T>
__global__ void raster_means(Bilinear<T> sampler, GroupedPixels g, std::int64_t first_channel,
                             std::int64_t channels,
                             double* __restrict__ means) {  // (num_keys, 32)
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t key = i / channels, channel = i % channels;
  if (key >= g.num_keys()) return;
  const std::int64_t begin = g.starts[key], end = g.starts[key + 1];
  const std::int64_t map = key / g.num_superpixels * sampler.channels + first_channel + channel;
  double sum = 0.0;
#pragma unroll 4
  for (std::int64_t j = begin; j < end; ++j) sum += sampler.value(map, g.sorted_pixels[j]);
  means[key * channels_per_pass + channel] =
      begin < end ? sum / static_cast<double>(end - begin) : 0.0;
}

// One block per image and channel: the input of the channel is on above its level.
template <class T>
__global__ void input_levels(const T* __restrict__ maps,  // (images, K, h * w)
                             GroupedPixels g, std::int64_t first_channel, std::int64_t channels,
                             SnapParams p,
                             double* __restrict__ levels) {  // (images, 32)
  if (g.starts[g.num_keys()] == g.size()) return;            // every pixel is in a superpixel
  const std::int64_t image = blockIdx.x / channels, channel = blockIdx.x % channels;
  const std::int64_t in_pixels = p.in_height * p.in_width;
  const T* map = maps + (image * p.channels + first_channel + channel) * in_pixels;
  double best = 0.0;
  for (std::int64_t i = threadIdx.x; i < in_pixels; i += block_size)
    best = Larger()(best, load(map[i]));
  best = reduce_block(best, Larger());
  if (threadIdx.x == 0)
    levels[image * channels_per_pass + channel] = Larger()(0.0, p.threshold * best);
}

// The input of bool cues at a pixel of the superpixels. Bit k: channel k of the pass is on.
struct NearestInput {
  const std::uint32_t* words;   // (images, h * w)
  const std::int32_t* rows;     // (H): source rows
  const std::int32_t* columns;  // (W): source columns
  std::int64_t in_width, in_pixels;
  std::int32_t width;

  __device__ std::uint32_t bits(std::int64_t image, std::int32_t pixel) const {
    const std::int32_t y = pixel / width;
    return words[image * in_pixels + rows[y] * in_width + columns[pixel - y * width]];
  }
};

// The input of floating maps.
template <class T>
struct BilinearInput {
  Bilinear<T> sampler;
  const double* levels;  // (images, 32)
  std::int64_t first_channel, channels;

  __device__ std::uint32_t bits(std::int64_t image, std::int32_t pixel) const {
    std::uint32_t word = 0;
    for (int k = 0; k < channels; ++k) {
      const double value = sampler.value(image * sampler.channels + first_channel + k, pixel);
      word |= (value > levels[image * channels_per_pass + k] ? 1u : 0u) << k;
    }
    return word;
  }
};

// One block of 32 warps per image; a lane per channel. Bit k of a word: channel k is on.
constexpr int find_bits_threads = 1024;

__global__ void find_bits(const double* __restrict__ means,  // (num_keys, 32)
                          GroupedPixels g, std::int64_t channels, double threshold,
                          std::uint32_t* __restrict__ bits) {  // (num_keys)
  __shared__ double thread_maxima[find_bits_threads];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const std::int64_t first_key = std::int64_t{blockIdx.x} * g.num_superpixels;
  const bool has_channel = lane < channels;
  double best = 0.0;
  for (std::int64_t s = warp; s < g.num_superpixels; s += find_bits_threads / warp_size)
    if (has_channel) best = Larger()(best, means[(first_key + s) * channels_per_pass + lane]);
  thread_maxima[threadIdx.x] = best;
  __syncthreads();
  for (int w = 0; w < find_bits_threads / warp_size; ++w)
    best = Larger()(best, thread_maxima[w * warp_size + lane]);
  const double level = Larger()(0.0, threshold * best);  // a mean <= 0 is never on
  for (std::int64_t s = warp; s < g.num_superpixels; s += find_bits_threads / warp_size) {
    const bool on = has_channel && means[(first_key + s) * channels_per_pass + lane] > level;
    const unsigned word = __ballot_sync(all_lanes, on);
    if (lane == 0) bits[first_key + s] = word;
  }
}

template <class Input, int width>
__global__ void paint_bits(const std::uint32_t* __restrict__ bits,  // (num_keys)
                           Input input, GroupedPixels g, std::int64_t first_channel,
                           std::int64_t channels,
                           std::int64_t all_channels,  // K
                           bool* __restrict__ out) {   // (images, K, H * W)
  const auto [image, pixel] = thread_position(g.pixels, width);
  if (pixel >= g.pixels) return;
  const std::uint32_t* keys = g.keys + image * g.pixels + pixel;
  bool* target = out + (image * all_channels + first_channel) * g.pixels + pixel;
  std::uint32_t on[width];
  bool inside = true;  // all pixels are in a superpixel
  for (int j = 0; j < width; ++j) {
    on[j] = keys[j] < g.num_keys() ? bits[keys[j]] : 0;
    inside = inside && keys[j] < g.num_keys();
  }
  if (!inside) {
    for (int j = 0; j < width; ++j)
      if (keys[j] >= g.num_keys()) on[j] = input.bits(image, static_cast<std::int32_t>(pixel) + j);
  }
  for (int k = 0; k < channels; ++k) {
    Pack<bool, width> pack;
    for (int j = 0; j < width; ++j) pack.values[j] = (on[j] >> k & 1u) != 0;
    store_pack(pack, target + k * g.pixels);
  }
}

struct Workspace {
  Workspace(const SnapParams& p, std::int64_t images, Arena& arena)
      : grouped(images, p.height * p.width, p.num_superpixels, arena),
        words(arena.take<std::uint32_t>(images * p.in_height * p.in_width)),
        counts(arena.take<std::uint32_t>(piece_rows(grouped) * channels_per_pass)),
        means(arena.take<double>(grouped.num_keys() * channels_per_pass)),
        bits(arena.take<std::uint32_t>(grouped.num_keys())),
        sources(arena.take<std::int32_t>(p.height + p.width)),
        taps(arena.take<BilinearTap>(p.height + p.width)),
        levels(arena.take<double>(images * channels_per_pass)) {}

  GroupedPixels grouped;
  std::uint32_t* words;   // (images, h * w)
  std::uint32_t* counts;  // (piece_rows, 32)
  double* means;          // (num_keys, 32)
  std::uint32_t* bits;    // (num_keys)
  std::int32_t* sources;  // (H + W)
  BilinearTap* taps;      // (H + W)
  double* levels;         // (images, 32)
};

// Fills workspace.means. Returns the cues' input.
NearestInput find_means(const std::uint8_t* cues,  // (images, K, h, w), nonzero = on
                        const Workspace& workspace, const SnapParams& p, std::int64_t first_channel,
                        std::int64_t channels, cudaStream_t stream) {
  const GroupedPixels& g = workspace.grouped;
  std::int32_t* const rows = workspace.sources;
  std::int32_t* const columns = workspace.sources + p.height;
  launch(nearest_sources, ceil_div(p.height + p.width, block_size), block_size, stream,
         workspace.sources, p);
  launch(pack_channels, g.images * blocks_per_image(p.in_height * p.in_width, 1), block_size,
         stream, cues, first_channel, channels, p, workspace.words);
  launch(count_pieces, ceil_div(ceil_div(g.size(), segment_pixels) * warp_size, block_size),
         block_size, stream, workspace.words, rows, columns, g, channels, p, workspace.counts);
  launch(means_of_pieces<std::uint32_t, double>, ceil_div(g.num_keys() * channels, block_size),
         block_size, stream, workspace.counts, g, channels, workspace.means);
  return {workspace.words,
          rows,
          columns,
          p.in_width,
          p.in_height * p.in_width,
          static_cast<std::int32_t>(p.width)};
}

template <class T>
BilinearInput<T> find_means(const T* maps,  // (images, K, h, w)
                            const Workspace& workspace, const SnapParams& p,
                            std::int64_t first_channel, std::int64_t channels,
                            cudaStream_t stream) {
  const GroupedPixels& g = workspace.grouped;
  launch(bilinear_taps, ceil_div(p.height + p.width, block_size), block_size, stream,
         workspace.taps, p);
  const Bilinear<T> sampler{maps,
                            p.channels,
                            p.in_height * p.in_width,
                            static_cast<std::int32_t>(p.in_width),
                            static_cast<std::int32_t>(p.width),
                            workspace.taps,
                            workspace.taps + p.height};
  launch(raster_means<T>, ceil_div(g.num_keys() * channels, block_size), block_size, stream,
         sampler, g, first_channel, channels, workspace.means);
  launch(input_levels<T>, g.images * channels, block_size, stream, maps, g, first_channel, channels,
         p, workspace.levels);
  return {sampler, workspace.levels, first_channel, channels};
}

std::int64_t workspace_bytes(const SnapParams& p, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace workspace(p, images, arena);
  return arena.used();
}

}  // namespace

template <class T>
bool snap(const T* cues,                       // (B, K, h, w)
          const SuperpixelsView& superpixels,  // (B, H, W)
          bool* out,                           // (B, K, H, W)
          const SnapParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.height * p.width;
  if (p.batch * p.channels * pixels == 0) return true;
  const std::int64_t step = images_per_step(p.batch, pixels, p.num_superpixels);
  // The last step may have fewer images, which never need more.
  void* const memory = context.allocate(workspace_bytes(p, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    const std::int64_t images = std::min(step, p.batch - first);
    Arena arena(memory);
    const Workspace workspace(p, images, arena);
    workspace.grouped.group(superpixels, first, stream);
    const T* step_cues = cues + first * p.channels * p.in_height * p.in_width;
    bool* step_out = out + first * p.channels * pixels;
    for (std::int64_t k = 0; k < p.channels; k += channels_per_pass) {
      const std::int64_t channels = std::min<std::int64_t>(channels_per_pass, p.channels - k);
      const auto input = find_means(step_cues, workspace, p, k, channels, stream);
      launch(find_bits, images, find_bits_threads, stream, workspace.means, workspace.grouped,
             channels, p.threshold, workspace.bits);
      with_width<bool>(pixels, {step_out}, [&](auto width) {
        launch(paint_bits<decltype(input), width>, images * blocks_per_image(pixels, width),
               block_size, stream, workspace.bits, input, workspace.grouped, k, channels,
               p.channels, step_out);
      });
    }
  }
  return true;
}

template bool snap(const std::uint8_t*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
template bool snap(const half*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
template bool snap(const float*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
template bool snap(const double*, const SuperpixelsView&, bool*, const SnapParams&, Context&);

}  // namespace cuekit::cuda
