// One label per pixel from cues that may overlap (rules: cuekit/labels.h). Two launches:
//   count_pixels  every block counts the pixels that are on in some part of one channel, and adds
//                 its count to the channel's with an atomic. Integer sums do not depend on the
//                 order
//   choose_label  every thread chooses the labels of `width` pixels from their channels. Class ids
//                 are passed by value in the kernel's parameters
//
// Workspace: counts (B, K) uint64.
#include <string>

#include "cuekit/labels.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t pixels_per_count = 64 * block_size;  // that one block of count_pixels reads
constexpr int max_channels = 960;  // whose class ids fit into the 4 KB of a kernel's parameters

struct ClassIds {
  std::int32_t of_channel[max_channels];
};

__global__ void count_pixels(const std::uint8_t* __restrict__ cues,    // (B * K, N), nonzero = on
                             unsigned long long* __restrict__ counts,  // (B * K), starting at 0
                             std::int64_t pixels) {
  const std::int64_t blocks_per_map = (pixels + pixels_per_count - 1) / pixels_per_count;
  const std::int64_t map = blockIdx.x / blocks_per_map;
  const std::int64_t begin = blockIdx.x % blocks_per_map * pixels_per_count;
  int count = 0;
  for (int i = 0; i < pixels_per_count / block_size; ++i) {
    const std::int64_t pixel = begin + i * block_size + threadIdx.x;
    if (pixel < pixels && cues[map * pixels + pixel] != 0) ++count;
  }
  count = reduce_block(count, Plus());
  if (threadIdx.x == 0 && count > 0)
    atomicAdd(counts + map, static_cast<unsigned long long>(count));
}

template <class L, int width>
__global__ void choose_label(const std::uint8_t* __restrict__ cues,          // (B, K, N)
                             const unsigned long long* __restrict__ counts,  // (B, K)
                             ClassIds class_ids,
                             L* __restrict__ out,  // (B, N)
                             LabelsParams p) {
  const auto [image, pixel] = thread_position(p.pixels, width);
  if (pixel >= p.pixels) return;
  const std::uint8_t* image_cues = cues + image * p.channels * p.pixels + pixel;
  const unsigned long long* count = counts + image * p.channels;
  int smallest[width] = {};    // foreground channel that is on and has the fewest pixels; 0 = none
  int foreground[width] = {};  // number of foreground channels that are on
#pragma unroll 4
  for (int k = 1; k < p.channels; ++k) {
    const auto on = load_pack<width>(image_cues + k * p.pixels);
    for (int j = 0; j < width; ++j) {
      if (on.values[j] == 0) continue;
      ++foreground[j];
      if (foreground[j] == 1 || count[k] < count[smallest[j]]) smallest[j] = k;
    }
  }
  const auto background = load_pack<width>(image_cues);
  Pack<L, width> result;
  for (int j = 0; j < width; ++j) {
    std::int64_t label = p.unknown;
    if (foreground[j] > 0) label = class_ids.of_channel[smallest[j]];
    if (foreground[j] > 1 && p.overlap == ForegroundOverlap::ignore) label = p.ignore;
    if (background.values[j] != 0) {
      if (foreground[j] == 0 || p.background_overlap == BackgroundOverlap::background) {
        label = class_ids.of_channel[0];
      } else if (p.background_overlap == BackgroundOverlap::ignore) {
        label = p.ignore;
      }
    }
    result.values[j] = static_cast<L>(label);
  }
  store_pack(result, out + image * p.pixels + pixel);
}

}  // namespace

template <class L>
void labels(const std::uint8_t* cues,       // (B, K, N), nonzero = on
            const std::int64_t* class_ids,  // (K), in host memory
            L* out,                         // (B, N)
            const LabelsParams& p, Context& context) {
  if (p.channels > max_channels)
    throw std::invalid_argument("cues must have at most " + std::to_string(max_channels) +
                                " channels on a CUDA device, got " + std::to_string(p.channels));
  if (p.batch == 0) return;
  const cudaStream_t stream = context.stream;
  const std::int64_t size = p.batch * p.channels;
  auto* counts = allocate<unsigned long long>(context, size);
  ClassIds ids{};
  for (std::int64_t k = 0; k < p.channels; ++k)
    ids.of_channel[k] = static_cast<std::int32_t>(class_ids[k]);
  check(cudaMemsetAsync(counts, 0, static_cast<std::size_t>(size) * sizeof *counts, stream));
  launch(count_pixels, size * ceil_div(p.pixels, pixels_per_count), block_size, stream, cues,
         counts, p.pixels);
  with_width<L>(p.pixels, {cues, out}, [&](auto width) {
    launch(choose_label<L, width>, p.batch * blocks_per_image(p.pixels, width), block_size, stream,
           cues, counts, ids, out, p);
  });
}

template void labels(const std::uint8_t*, const std::int64_t*, std::uint8_t*, const LabelsParams&,
                     Context&);
template void labels(const std::uint8_t*, const std::int64_t*, std::int32_t*, const LabelsParams&,
                     Context&);

}  // namespace cuekit::cuda
