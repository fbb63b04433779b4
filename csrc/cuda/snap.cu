// Pixels are grouped by superpixel once (superpixels.h). 32 channels at a time: the means of all
// superpixels go into a table, one block per image finds each channel's largest and leaves one bit
// per channel and superpixel, and every pixel takes its superpixel's bits.
//
// Bool cues are counted, exactly in any order. Maps are summed by one thread per superpixel and
// channel, in raster order: so the masks are the CPU's, bit by bit.
#include <algorithm>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "cuekit/snap.h"
#include "superpixels.h"

namespace cuekit::cuda {
namespace {

// Where rows and columns of the superpixels lie in the cues, once for all images.
__global__ void nearest_sources(std::int32_t* sources, SnapParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i < p.height) {
    sources[i] = static_cast<std::int32_t>(nearest_source(i, p.in_height, p.height));
  } else if (i < p.height + p.width) {
    sources[i] = static_cast<std::int32_t>(nearest_source(i - p.height, p.in_width, p.width));
  }
}

__global__ void bilinear_taps(BilinearTap* taps, SnapParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i < p.height) {
    taps[i] = bilinear_tap(i, p.in_height, p.height);
  } else if (i < p.height + p.width) {
    taps[i] = bilinear_tap(i - p.height, p.in_width, p.width);
  }
}

// words (images, h * w): bit k of a cell is on where channel first_channel + k is.
__global__ void pack_channels(const std::uint8_t* __restrict__ cues, std::int64_t first_channel,
                              std::int64_t channels, SnapParams p,
                              std::uint32_t* __restrict__ words) {
  const std::int64_t cells = p.in_height * p.in_width;
  const Position at = position(cells, 1);
  if (at.pixel >= cells) return;
  const std::uint8_t* cell = cues + (at.image * p.channels + first_channel) * cells + at.pixel;
  std::uint32_t word = 0;
#pragma unroll 8
  for (int k = 0; k < channels; ++k) word |= (cell[k * cells] != 0 ? 1u : 0u) << k;
  words[at.image * cells + at.pixel] = word;
}

// counts (piece_rows, table_width). A warp has one cut's pixels: of 32 pixels' words a ballot makes
// one word per channel, whose ones that channel's lane counts.
__global__ void count_pieces(const std::uint32_t* __restrict__ words,
                             const std::int32_t* __restrict__ rows,
                             const std::int32_t* __restrict__ columns, Grouped g,
                             std::int64_t channels, SnapParams p,
                             std::uint32_t* __restrict__ counts) {
  const std::int64_t which = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const auto width = static_cast<std::int32_t>(p.width);
  const std::int64_t cells = p.in_height * p.in_width;
  for_each_piece(g, which, [&](std::int64_t key, std::int64_t begin, std::int64_t end) {
    const std::uint32_t* image = words + key / g.num_superpixels * cells;
    std::uint32_t count = 0;
    for (std::int64_t first = begin; first < end; first += warp_size) {
      std::uint32_t word = 0;
      if (first + lane < end) {
        const std::int32_t pixel = g.pixel[first + lane];
        const std::int32_t y = pixel / width;
        word = image[rows[y] * p.in_width + columns[pixel - y * width]];
      }
      for (int k = 0; k < channels; ++k) {
        const unsigned on = __ballot_sync(all_lanes, (word >> k & 1u) != 0);
        if (lane == k) count += static_cast<std::uint32_t>(__popc(on));
      }
    }
    if (lane < channels) counts[(which + key) * table_width + lane] = count;
  });
}

template <class T>
struct Bilinear {
  const T* maps;
  std::int64_t channels, in_pixels;
  std::int32_t in_width, width;
  const BilinearTap* rows;
  const BilinearTap* columns;

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
__global__ void means_in_raster_order(Bilinear<T> sampler, Grouped g, std::int64_t first_channel,
                                      std::int64_t channels, double* __restrict__ means) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t key = i / channels, channel = i % channels;
  if (key >= g.groups()) return;
  const std::int64_t begin = g.starts[key], end = g.starts[key + 1];
  const std::int64_t map = key / g.num_superpixels * sampler.channels + first_channel + channel;
  double sum = 0.0;
#pragma unroll 4
  for (std::int64_t at = begin; at < end; ++at) sum += sampler.value(map, g.pixel[at]);
  means[key * table_width + channel] = begin < end ? sum / static_cast<double>(end - begin) : 0.0;
}

// One block of 32 warps per image, a lane per channel: bits (groups), bit k = channel k is on.
constexpr int decide_threads = 1024;

__global__ void decide(const double* __restrict__ means, Grouped g, std::int64_t channels,
                       double threshold, std::uint32_t* __restrict__ bits) {
  __shared__ double of_warp[decide_threads];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const std::int64_t first = std::int64_t{blockIdx.x} * g.num_superpixels;
  const bool used = lane < channels;
  double best = 0.0;
  for (std::int64_t s = warp; s < g.num_superpixels; s += decide_threads / warp_size)
    if (used) best = Larger()(best, means[(first + s) * table_width + lane]);
  of_warp[threadIdx.x] = best;
  __syncthreads();
  for (int w = 0; w < decide_threads / warp_size; ++w)
    best = Larger()(best, of_warp[w * warp_size + lane]);
  const double level = Larger()(0.0, threshold * best);  // never where the mean is <= 0
  for (std::int64_t s = warp; s < g.num_superpixels; s += decide_threads / warp_size) {
    const bool on = used && means[(first + s) * table_width + lane] > level;
    const unsigned word = __ballot_sync(all_lanes, on);
    if (lane == 0) bits[first + s] = word;
  }
}

template <int width>
__global__ void paint_bits(const std::uint32_t* __restrict__ bits, Grouped g,
                           std::int64_t first_channel, std::int64_t channels,
                           std::int64_t all_channels, bool* __restrict__ out) {
  const Position at = position(g.pixels, width);
  if (at.pixel >= g.pixels) return;
  const std::uint32_t* keys = g.key_of + at.image * g.pixels + at.pixel;
  bool* target = out + (at.image * all_channels + first_channel) * g.pixels + at.pixel;
  std::uint32_t on[width];
  for (int j = 0; j < width; ++j) on[j] = keys[j] < g.groups() ? bits[keys[j]] : 0;
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
        counts(arena.take<std::uint32_t>(piece_rows(grouped) * table_width)),
        means(arena.take<double>(grouped.groups() * table_width)),
        bits(arena.take<std::uint32_t>(grouped.groups())),
        sources(arena.take<std::int32_t>(p.height + p.width)),
        taps(arena.take<BilinearTap>(p.height + p.width)) {}

  Grouped grouped;
  std::uint32_t* words;
  std::uint32_t* counts;
  double* means;
  std::uint32_t* bits;
  std::int32_t* sources;
  BilinearTap* taps;
};

void find_means(const std::uint8_t* cues, const Workspace& at, const SnapParams& p, std::int64_t k,
                std::int64_t channels, cudaStream_t stream) {
  const Grouped& g = at.grouped;
  launch(nearest_sources, ceil_div(p.height + p.width, block_size), block_size, stream, at.sources,
         p);
  launch(pack_channels, g.images * blocks_per_image(p.in_height * p.in_width, 1), block_size,
         stream, cues, k, channels, p, at.words);
  launch(count_pieces, ceil_div(ceil_div(g.size(), cut) * warp_size, block_size), block_size,
         stream, at.words, at.sources, at.sources + p.height, g, channels, p, at.counts);
  launch(add_pieces<std::uint32_t, double>, ceil_div(g.groups() * channels, block_size), block_size,
         stream, at.counts, g, channels, at.means);
}

template <class T>
void find_means(const T* maps, const Workspace& at, const SnapParams& p, std::int64_t k,
                std::int64_t channels, cudaStream_t stream) {
  launch(bilinear_taps, ceil_div(p.height + p.width, block_size), block_size, stream, at.taps, p);
  const Bilinear<T> sampler{maps,
                            p.channels,
                            p.in_height * p.in_width,
                            static_cast<std::int32_t>(p.in_width),
                            static_cast<std::int32_t>(p.width),
                            at.taps,
                            at.taps + p.height};
  launch(means_in_raster_order<T>, ceil_div(at.grouped.groups() * channels, block_size), block_size,
         stream, sampler, at.grouped, k, channels, at.means);
}

std::int64_t workspace_bytes(const SnapParams& p, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace workspace(p, images, arena);
  return arena.used();
}

}  // namespace

template <class T>
bool snap(const T* cues, const SuperpixelsView& superpixels, bool* out, const SnapParams& p,
          Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t step = images_at_a_time(p.batch, pixels, p.num_superpixels);
  void* const workspace = context.allocate(workspace_bytes(p, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(workspace);
    const std::int64_t images = std::min(step, p.batch - first);
    const Workspace at(p, images, arena);
    at.grouped.group(superpixels, first, stream);
    const T* maps = cues + first * p.channels * p.in_height * p.in_width;
    bool* target = out + first * p.channels * pixels;
    for (std::int64_t k = 0; k < p.channels; k += table_width) {
      const std::int64_t channels = std::min<std::int64_t>(table_width, p.channels - k);
      find_means(maps, at, p, k, channels, stream);
      launch(decide, images, decide_threads, stream, at.means, at.grouped, channels, p.threshold,
             at.bits);
      with_width<bool>(pixels, {target}, [&](auto width) {
        launch(paint_bits<width>, images * blocks_per_image(pixels, width), block_size, stream,
               at.bits, at.grouped, k, channels, p.channels, target);
      });
    }
  }
  return true;
}

#define CUEKIT_INSTANTIATE(T) \
  template bool snap(const T*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
