// Two launches: the maxima of parts of every present map, then each map held against the maximum
// of its parts.
#include <cmath>

#include "cuekit/half.h"
#include "cuekit/raw_cues.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t pixels_per_part = 16 * block_size;

__host__ __device__ std::int64_t parts_of(const RawCuesParams& p) {
  return (p.pixels + pixels_per_part - 1) / pixels_per_part;
}

// maxima (B * C, parts); 0 where nothing is positive.
template <class T>
__global__ void part_maxima(const T* __restrict__ maps, const std::uint8_t* __restrict__ present,
                            double* __restrict__ maxima, RawCuesParams p) {
  const std::int64_t parts = parts_of(p);
  const std::int64_t map = blockIdx.x / parts, part = blockIdx.x % parts;
  if (present[map] == 0) return;
  const std::int64_t begin = part * pixels_per_part;
  double best = 0.0;
  for (int i = 0; i < pixels_per_part / block_size; ++i) {
    const std::int64_t pixel = begin + i * block_size + threadIdx.x;
    if (pixel < p.pixels) best = Larger()(best, load(maps[map * p.pixels + pixel]));
  }
  best = reduce_block(best, Larger());
  if (threadIdx.x == 0) maxima[blockIdx.x] = best;
}

// A block has `packs` times its threads' pixels: finding the maximum is worth that many.
constexpr int packs = 8;

template <class T, int width>
__global__ void above_level(const T* __restrict__ maps, const std::uint8_t* __restrict__ present,
                            const double* __restrict__ maxima, bool* __restrict__ out,
                            RawCuesParams p) {
  const Position at = position(p.pixels, width * packs);
  const std::int64_t map = at.image;  // b * C + c, and channel c + 1 of C + 1 in the result
  const std::int64_t begin = at.pixel - std::int64_t{threadIdx.x} * width * packs;
  bool* target = out + (map + map / p.classes + 1) * p.pixels;
  double level = HUGE_VAL;  // nothing is above it
  if (present[map] != 0) {
    const std::int64_t parts = parts_of(p);
    double maximum = 0.0;
    for (std::int64_t i = threadIdx.x; i < parts; i += block_size)
      maximum = Larger()(maximum, maxima[map * parts + i]);
    maximum = reduce_block(maximum, Larger());
    if (maximum > 0.0) level = p.foreground_threshold * maximum;
  }
  const bool any = level < HUGE_VAL;
#pragma unroll
  for (int i = 0; i < packs; ++i) {
    const std::int64_t pixel = begin + (i * block_size + std::int64_t{threadIdx.x}) * width;
    if (pixel >= p.pixels) return;
    Pack<bool, width> on{};
    if (any) {
      const Pack<T, width> values = load_pack<width>(maps + map * p.pixels + pixel);
      for (int j = 0; j < width; ++j) on.values[j] = load(values.values[j]) > level;
    }
    store_pack(on, target + pixel);
  }
}

__device__ bool is_background(flag value, double) { return value.byte != 0; }
template <class T>
__device__ bool is_background(T value, double threshold) {
  return load(value) < threshold;
}

template <class T, int width>
__global__ void background_cue(const T* __restrict__ background, bool* __restrict__ out,
                               RawCuesParams p) {
  const Position at = position(p.pixels, width);
  if (at.pixel >= p.pixels) return;
  Pack<bool, width> on{};
  if (background != nullptr) {
    const auto values = load_pack<width>(background + at.image * p.pixels + at.pixel);
    for (int j = 0; j < width; ++j)
      on.values[j] = is_background(values.values[j], p.background_threshold);
  }
  store_pack(on, out + at.image * (p.classes + 1) * p.pixels + at.pixel);
}

}  // namespace

template <class T>
bool raw_foreground(const T* maps, const std::uint8_t* present, bool* out, const RawCuesParams& p,
                    Context& context) {
  const cudaStream_t stream = context.stream;
  auto* maxima = allocate<double>(context, p.batch * p.classes * parts_of(p));
  launch(part_maxima<T>, p.batch * p.classes * parts_of(p), block_size, stream, maps, present,
         maxima, p);
  with_width<T>(p.pixels, {maps, out}, [&](auto width) {
    launch(above_level<T, width>, p.batch * p.classes * blocks_per_image(p.pixels, width * packs),
           block_size, stream, maps, present, maxima, out, p);
  });
  return true;
}

template <class T>
bool raw_background(const T* background, bool* out, const RawCuesParams& p, Context& context) {
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
