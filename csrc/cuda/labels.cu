// Two launches: the pixels of every foreground channel are counted, then every pixel chooses among
// its channels. Counts are integers: the order in which they are added does not matter.
//
// Workspace: counts (B, K) int64.
#include <string>

#include "cuekit/labels.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t pixels_per_part = 64 * block_size;
constexpr int max_channels = 960;  // their class ids are passed by value: a launch takes 4 kB

struct Names {
  std::int32_t of[max_channels];
};

// An "image" is one channel of one.
__global__ void count_pixels(const std::uint8_t* __restrict__ cues,
                             unsigned long long* __restrict__ counts, std::int64_t pixels) {
  const std::int64_t parts = (pixels + pixels_per_part - 1) / pixels_per_part;
  const std::int64_t map = blockIdx.x / parts;
  const std::int64_t begin = blockIdx.x % parts * pixels_per_part;
  int count = 0;
  for (int i = 0; i < pixels_per_part / block_size; ++i) {
    const std::int64_t pixel = begin + i * block_size + threadIdx.x;
    if (pixel < pixels && cues[map * pixels + pixel] != 0) ++count;
  }
  count = reduce_block(count, Plus());
  if (threadIdx.x == 0 && count > 0)
    atomicAdd(counts + map, static_cast<unsigned long long>(count));
}

template <class L, int width>
__global__ void choose_label(const std::uint8_t* __restrict__ cues,
                             const unsigned long long* __restrict__ counts, Names names,
                             L* __restrict__ out, LabelsParams p) {
  const Position at = position(p.pixels, width);
  if (at.pixel >= p.pixels) return;
  const std::uint8_t* image = cues + at.image * p.channels * p.pixels + at.pixel;
  const unsigned long long* count = counts + at.image * p.channels;
  int smallest[width] = {};  // the channel; 0 = none of the foreground
  int claims[width] = {};
#pragma unroll 4
  for (int k = 1; k < p.channels; ++k) {
    const auto on = load_pack<width>(image + k * p.pixels);
    for (int j = 0; j < width; ++j) {
      if (on.values[j] == 0) continue;
      ++claims[j];
      if (claims[j] == 1 || count[k] < count[smallest[j]]) smallest[j] = k;
    }
  }
  const auto background = load_pack<width>(image);
  Pack<L, width> result;
  for (int j = 0; j < width; ++j) {
    std::int64_t label = p.unknown;
    if (claims[j] > 0) label = names.of[smallest[j]];
    if (claims[j] > 1 && p.overlap == ForegroundOverlap::ignore) label = ignore_label;
    if (background.values[j] != 0) {
      if (claims[j] == 0 || p.background_overlap == BackgroundOverlap::background) {
        label = names.of[0];
      } else if (p.background_overlap == BackgroundOverlap::ignore) {
        label = ignore_label;
      }
    }
    result.values[j] = static_cast<L>(label);
  }
  store_pack(result, out + at.image * p.pixels + at.pixel);
}

}  // namespace

template <class L>
void labels(const std::uint8_t* cues, const std::int64_t* classes, L* out, const LabelsParams& p,
            Context& context) {
  if (p.channels > max_channels)
    throw std::invalid_argument("cues must have at most " + std::to_string(max_channels) +
                                " channels on a CUDA device, got " + std::to_string(p.channels));
  if (p.batch == 0) return;
  const cudaStream_t stream = context.stream;
  const std::int64_t size = p.batch * p.channels;
  auto* counts = allocate<unsigned long long>(context, size);
  Names names{};
  for (std::int64_t k = 0; k < p.channels; ++k) names.of[k] = static_cast<std::int32_t>(classes[k]);
  check(cudaMemsetAsync(counts, 0, static_cast<std::size_t>(size) * sizeof *counts, stream));
  launch(count_pixels, p.batch * p.channels * ceil_div(p.pixels, pixels_per_part), block_size,
         stream, cues, counts, p.pixels);
  with_width<L>(p.pixels, {cues, out}, [&](auto width) {
    launch(choose_label<L, width>, p.batch * blocks_per_image(p.pixels, width), block_size, stream,
           cues, counts, names, out, p);
  });
}

template void labels(const std::uint8_t*, const std::int64_t*, std::uint8_t*, const LabelsParams&,
                     Context&);
template void labels(const std::uint8_t*, const std::int64_t*, std::int32_t*, const LabelsParams&,
                     Context&);

}  // namespace cuekit::cuda
