// Sums over channels, in parts: coarse maps have few pixels and many channels, so one thread per
// pixel would leave most of the GPU idle. The parts depend on the shape only and are added in their
// order, so results are the same bit by bit from call to call; they differ from a sum in one piece
// by the rounding of float64.
//
// Workspace: of background_add (parts, B, h, w) float64; of background_normalize the lowest and
// highest value of parts of every image, (B, parts, 2) float64.
#include "cuekit/background.h"
#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t enough_threads = 1 << 18;  // some of the largest GPU's
constexpr std::int64_t least_channels = 16;  // of a part: below, parts cost more than they save

__host__ __device__ std::int64_t channels_per_part(const BackgroundParams& p) {
  const std::int64_t pixels = p.batch * p.in_height * p.in_width;
  const std::int64_t parts = pixels < enough_threads ? enough_threads / (pixels + 1) : 1;
  const std::int64_t channels = (p.channels + parts - 1) / parts;
  return channels < least_channels ? least_channels : channels;
}

__host__ __device__ std::int64_t channel_parts(const BackgroundParams& p) {
  const std::int64_t parts = (p.channels + channels_per_part(p) - 1) / channels_per_part(p);
  return parts > 0 ? parts : 1;
}

template <class T>
__global__ void sum_channels(const T* __restrict__ features, double* __restrict__ sums,
                             BackgroundParams p) {
  const std::int64_t pixels = p.in_height * p.in_width;
  const Position at = position(pixels, 1);  // an "image" is a part of one
  if (at.pixel >= pixels) return;
  const std::int64_t part = at.image / p.batch, b = at.image % p.batch;
  const std::int64_t begin = part * channels_per_part(p);
  const std::int64_t end = begin + channels_per_part(p);
  const T* source = features + b * p.channels * pixels + at.pixel;
  double sum = 0.0;
#pragma unroll 8
  for (std::int64_t d = begin; d < (end < p.channels ? end : p.channels); ++d)
    sum += load(source[d * pixels]);
  sums[at.image * pixels + at.pixel] = sum;
}

__global__ void add_parts(double* sums, BackgroundParams p) {
  const std::int64_t size = p.batch * p.in_height * p.in_width;
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= size) return;
  double sum = sums[i];
  for (std::int64_t part = 1; part < channel_parts(p); ++part) sum += sums[part * size + i];
  sums[i] = sum;
}

__global__ void add_resized(const double* __restrict__ sums, double* __restrict__ total,
                            BackgroundParams p) {
  const std::int64_t pixels = p.out_height * p.out_width;
  const Position at = position(pixels, 1);
  if (at.pixel >= pixels) return;
  const BilinearTap row = bilinear_tap(at.pixel / p.out_width, p.in_height, p.out_height);
  const BilinearTap column = bilinear_tap(at.pixel % p.out_width, p.in_width, p.out_width);
  const double* map = sums + at.image * p.in_height * p.in_width;
  const double* above = map + row.low * p.in_width;
  const double* below = map + row.high * p.in_width;
  const double left = interpolate(above[column.low], below[column.low], row.weight);
  const double right = interpolate(above[column.high], below[column.high], row.weight);
  const double value = interpolate(left, right, column.weight);
  total[at.image * pixels + at.pixel] += value;
}

constexpr std::int64_t pixels_per_part = 16 * block_size;

__host__ __device__ std::int64_t parts_of(std::int64_t pixels) {
  return (pixels + pixels_per_part - 1) / pixels_per_part;
}

__global__ void part_ranges(const double* __restrict__ total, double* __restrict__ ranges,
                            std::int64_t pixels) {
  const std::int64_t parts = parts_of(pixels);
  const double* image = total + blockIdx.x / parts * pixels;
  const std::int64_t begin = blockIdx.x % parts * pixels_per_part;
  double low = image[begin], high = low;
  for (int i = 0; i < pixels_per_part / block_size; ++i) {
    const std::int64_t pixel = begin + i * block_size + threadIdx.x;
    if (pixel < pixels) {
      low = Smaller()(low, image[pixel]);
      high = Larger()(high, image[pixel]);
    }
  }
  low = reduce_block(low, Smaller());
  high = reduce_block(high, Larger());
  if (threadIdx.x == 0) {
    ranges[2 * std::int64_t{blockIdx.x}] = low;
    ranges[2 * std::int64_t{blockIdx.x} + 1] = high;
  }
}

template <class T, int width>
__global__ void normalize(const double* __restrict__ total, const double* __restrict__ ranges,
                          T* __restrict__ out, std::int64_t pixels) {
  const Position at = position(pixels, width);
  const std::int64_t parts = parts_of(pixels);
  const double* range = ranges + 2 * at.image * parts;
  double low = range[0], high = range[1];
  for (std::int64_t i = threadIdx.x; i < parts; i += block_size) {
    low = Smaller()(low, range[2 * i]);
    high = Larger()(high, range[2 * i + 1]);
  }
  low = reduce_block(low, Smaller());
  high = reduce_block(high, Larger());
  if (at.pixel >= pixels) return;
  const double span = high - low;
  const std::int64_t first = at.image * pixels + at.pixel;
  Pack<T, width> result;
  for (int j = 0; j < width; ++j)
    result.values[j] = store<T>(span > 0.0 ? (total[first + j] - low) / span : 0.0);
  store_pack(result, out + first);
}

}  // namespace

template <class T>
bool background_add(const T* features, double* total, const BackgroundParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.in_height * p.in_width;
  const std::int64_t parts = channel_parts(p);
  auto* sums = allocate<double>(context, parts * p.batch * pixels);
  launch(sum_channels<T>, parts * p.batch * blocks_per_image(pixels, 1), block_size, stream,
         features, sums, p);
  if (parts > 1)
    launch(add_parts, ceil_div(p.batch * pixels, block_size), block_size, stream, sums, p);
  launch(add_resized, p.batch * blocks_per_image(p.out_height * p.out_width, 1), block_size, stream,
         sums, total, p);
  return true;
}

template <class T>
bool background_normalize(const double* total, T* out, std::int64_t batch, std::int64_t pixels,
                          Context& context) {
  const cudaStream_t stream = context.stream;
  auto* ranges = allocate<double>(context, 2 * batch * parts_of(pixels));
  launch(part_ranges, batch * parts_of(pixels), block_size, stream, total, ranges, pixels);
  with_width<T>(pixels, {out}, [&](auto width) {
    launch(normalize<T, width>, batch * blocks_per_image(pixels, width), block_size, stream, total,
           ranges, out, pixels);
  });
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                         \
  template bool background_add(const T*, double*, const BackgroundParams&, Context&); \
  template bool background_normalize(const double*, T*, std::int64_t, std::int64_t, Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
