// Raw cues: maps compared with thresholds (equation: cuekit/raw_cues.h).
//
// raw_foreground, two launches:
//   find_maxima      every block finds the maximum of some pixels of one present class's map
//   apply_threshold  every block combines the maxima of its map and compares `packs * width` pixels
//                    per thread with the threshold
// raw_background, one launch: every thread compares `width` pixels.
//
// Workspace of raw_foreground: maxima (B, C, reductions) float64, where `reductions` is
// reductions_per_map(N).
#include <cmath>

#include "cuekit/half.h"
#include "cuekit/raw_cues.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// A maximum is 0 where no value is positive. Maxima of absent classes are not written.
template <class T>
__global__ void find_maxima(const T* __restrict__ maps,                // (B * C, N)
                            const std::uint8_t* __restrict__ present,  // (B * C)
                            double* __restrict__ maxima,               // (B * C, reductions)
                            RawCuesParams p) {
  const std::int64_t reductions = reductions_per_map(p.pixels);
  const std::int64_t map = blockIdx.x / reductions, reduction = blockIdx.x % reductions;
  if (present[map] == 0) return;
  const std::int64_t begin = reduction * pixels_per_reduction;
  double best = 0.0;
  for (int i = 0; i < pixels_per_reduction / block_size; ++i) {
    const std::int64_t pixel = begin + i * block_size + threadIdx.x;
    if (pixel < p.pixels) best = Larger()(best, load(maps[map * p.pixels + pixel]));
  }
  best = reduce_block(best, Larger());
  if (threadIdx.x == 0) maxima[blockIdx.x] = best;
}

// Packs of `width` pixels per thread of apply_threshold: enough work to make up for combining the
// maxima, which every block repeats.
constexpr int packs = 8;

template <class T, int width>
__global__ void apply_threshold(const T* __restrict__ maps,                // (B * C, N)
                                const std::uint8_t* __restrict__ present,  // (B * C)
                                const double* __restrict__ maxima,         // (B * C, reductions)
                                bool* __restrict__ out,  // (B, C + 1, N), from channel 1 on
                                RawCuesParams p) {
  const auto [map, thread_pixel] = thread_position(p.pixels, width * packs);  // map = b * C + c
  // Neighbouring threads have neighbouring packs, so that accesses are coalesced.
  const std::int64_t block_pixel = thread_pixel - std::int64_t{threadIdx.x} * width * packs;
  bool* map_out = out + (map + map / p.classes + 1) * p.pixels;  // out[b, c + 1]

  double threshold = HUGE_VAL;  // no value is above it
  if (present[map] != 0) {
    const std::int64_t reductions = reductions_per_map(p.pixels);
    double maximum = 0.0;
    for (std::int64_t i = threadIdx.x; i < reductions; i += block_size)
      maximum = Larger()(maximum, maxima[map * reductions + i]);
    maximum = reduce_block(maximum, Larger());
    if (maximum > 0.0) threshold = p.foreground_threshold * maximum;
  }
  const bool any = threshold < HUGE_VAL;
#pragma unroll
  for (int i = 0; i < packs; ++i) {
    const std::int64_t pixel = block_pixel + (i * block_size + std::int64_t{threadIdx.x}) * width;
    if (pixel >= p.pixels) return;
    Pack<bool, width> on{};
    if (any) {
      const Pack<T, width> values = load_pack<width>(maps + map * p.pixels + pixel);
      for (int j = 0; j < width; ++j) on.values[j] = load(values.values[j]) > threshold;
    }
    store_pack(on, map_out + pixel);
  }
}

__device__ bool is_background(flag value, double) { return value.byte != 0; }
template <class T>
__device__ bool is_background(T value, double threshold) {
  return load(value) < threshold;
}

template <class T, int width>
__global__ void background_cue(const T* __restrict__ background,  // (B, N), or null
                               bool* __restrict__ out,            // (B, C + 1, N), channel 0
                               RawCuesParams p) {
  const auto [image, pixel] = thread_position(p.pixels, width);
  if (pixel >= p.pixels) return;
  Pack<bool, width> on{};
  if (background != nullptr) {
    const auto values = load_pack<width>(background + image * p.pixels + pixel);
    for (int j = 0; j < width; ++j)
      on.values[j] = is_background(values.values[j], p.background_threshold);
  }
  store_pack(on, out + image * (p.classes + 1) * p.pixels + pixel);
}

}  // namespace

template <class T>
bool raw_foreground(const T* maps,                // (B, C, N)
                    const std::uint8_t* present,  // (B, C), nonzero = present
                    bool* out,                    // (B, C + 1, N)
                    const RawCuesParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t blocks = p.batch * p.classes * reductions_per_map(p.pixels);
  auto* maxima = allocate<double>(context, blocks);
  launch(find_maxima<T>, blocks, block_size, stream, maps, present, maxima, p);
  with_width<T>(p.pixels, {maps, out}, [&](auto width) {
    launch(apply_threshold<T, width>,
           p.batch * p.classes * blocks_per_image(p.pixels, width * packs), block_size, stream,
           maps, present, maxima, out, p);
  });
  return true;
}

template <class T>
bool raw_background(const T* background,  // (B, N), or null: no background
                    bool* out,            // (B, C + 1, N)
                    const RawCuesParams& p, Context& context) {
  with_width<T>(p.pixels, {background, out}, [&](auto width) {
    launch(background_cue<T, width>, p.batch * blocks_per_image(p.pixels, width), block_size,
           context.stream, background, out, p);
  });
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                              \
  template bool raw_foreground(const T*, const std::uint8_t*, bool*, const RawCuesParams&, \
                               Context&);                                                  \
  template bool raw_background(const T*, bool*, const RawCuesParams&, Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE
template bool raw_background(const flag*, bool*, const RawCuesParams&, Context&);

}  // namespace cuekit::cuda
