// Background map (equation: cuekit/background.h).
//
// background_add, three launches:
//   sum_channels  every thread adds up one pixel of one slice of the channels. Feature maps are
//                 small and have many channels: with one thread per pixel most of the GPU would be
//                 idle, so channels are split into slices
//   add_slices    every thread adds up the slices of one pixel, in ascending order
//   add_resized   every thread interpolates one pixel of the result and adds it to the total
// The slices depend on the shape only, so the result is the same bit by bit in every run. It
// differs from a sum over all channels in one piece by the rounding of float64.
//
// background_normalize, two launches:
//   find_ranges   every block finds minimum and maximum of some pixels of an image
//   normalize     every block combines the ranges of its image; every thread normalises `width`
//                 pixels
//
// Workspace: background_add: sums (slices, B, h, w) float64. background_normalize: ranges
// (B, reductions, 2) float64, where `reductions` is reductions_per_map(H * W).
#include "cuekit/background.h"
#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t enough_threads = 1 << 18;  // about as many as the largest GPUs run at once
// Of a slice. In smaller slices, adding up the slices would take longer than is saved.
constexpr std::int64_t min_channels = 16;

__host__ __device__ std::int64_t channels_per_slice(const BackgroundParams& p) {
  const std::int64_t pixels = p.batch * p.in_height * p.in_width;
  const std::int64_t slices = pixels < enough_threads ? enough_threads / (pixels + 1) : 1;
  const std::int64_t channels = (p.channels + slices - 1) / slices;
  return channels < min_channels ? min_channels : channels;
}

// At least 1: without channels, one slice of zeros.
__host__ __device__ std::int64_t slices_of(const BackgroundParams& p) {
  const std::int64_t slices = (p.channels + channels_per_slice(p) - 1) / channels_per_slice(p);
  return slices > 0 ? slices : 1;
}

template <class T>
__global__ void sum_channels(const T* __restrict__ features,  // (B, D, h * w)
                             double* __restrict__ sums,       // (slices, B, h * w)
                             BackgroundParams p) {
  const std::int64_t pixels = p.in_height * p.in_width;
  const auto [map, pixel] = thread_position(pixels, 1);  // map = slice * B + b
  if (pixel >= pixels) return;
  const std::int64_t slice = map / p.batch, b = map % p.batch;
  const std::int64_t begin = slice * channels_per_slice(p);
  const std::int64_t end = begin + channels_per_slice(p);
  const T* source = features + b * p.channels * pixels + pixel;
  double sum = 0.0;
#pragma unroll 8
  for (std::int64_t d = begin; d < (end < p.channels ? end : p.channels); ++d)
    sum += load(source[d * pixels]);
  sums[map * pixels + pixel] = sum;
}

__global__ void add_slices(double* sums,  // (slices, B, h * w); the result in slice 0
                           BackgroundParams p) {
  const std::int64_t size = p.batch * p.in_height * p.in_width;
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= size) return;
  double sum = sums[i];
  for (std::int64_t slice = 1; slice < slices_of(p); ++slice) sum += sums[slice * size + i];
  sums[i] = sum;
}

__global__ void add_resized(const double* __restrict__ sums,  // (B, h, w)
                            double* __restrict__ total,       // (B, H, W)
                            BackgroundParams p) {
  const std::int64_t pixels = p.out_height * p.out_width;
  const auto [image, pixel] = thread_position(pixels, 1);
  if (pixel >= pixels) return;
  const BilinearTap row = bilinear_tap(pixel / p.out_width, p.in_height, p.out_height);
  const BilinearTap column = bilinear_tap(pixel % p.out_width, p.in_width, p.out_width);
  const double* map = sums + image * p.in_height * p.in_width;
  const double* above = map + row.low * p.in_width;
  const double* below = map + row.high * p.in_width;
  const double left = interpolate(above[column.low], below[column.low], row.weight);
  const double right = interpolate(above[column.high], below[column.high], row.weight);
  const double value = interpolate(left, right, column.weight);
  total[image * pixels + pixel] += value;
}

__global__ void find_ranges(const double* __restrict__ total,  // (B, H * W)
                            double* __restrict__ ranges,       // (B, reductions, 2)
                            std::int64_t pixels) {
  const std::int64_t reductions = reductions_per_map(pixels);
  const double* image = total + blockIdx.x / reductions * pixels;
  const std::int64_t begin = blockIdx.x % reductions * pixels_per_reduction;
  double low = image[begin], high = low;
  for (int i = 0; i < pixels_per_reduction / block_size; ++i) {
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
__global__ void normalize(const double* __restrict__ total,   // (B, H * W)
                          const double* __restrict__ ranges,  // (B, reductions, 2)
                          T* __restrict__ out,                // (B, H * W)
                          std::int64_t pixels) {
  const auto [image, pixel] = thread_position(pixels, width);
  const std::int64_t reductions = reductions_per_map(pixels);
  const double* range = ranges + 2 * image * reductions;
  double low = range[0], high = range[1];
  for (std::int64_t i = threadIdx.x; i < reductions; i += block_size) {
    low = Smaller()(low, range[2 * i]);
    high = Larger()(high, range[2 * i + 1]);
  }
  low = reduce_block(low, Smaller());
  high = reduce_block(high, Larger());
  if (pixel >= pixels) return;
  const double span = high - low;
  const std::int64_t first = image * pixels + pixel;
  Pack<T, width> result;
  for (int j = 0; j < width; ++j)
    result.values[j] = store<T>(span > 0.0 ? (total[first + j] - low) / span : 0.0);
  store_pack(result, out + first);
}

}  // namespace

template <class T>
bool background_add(const T* features,  // (B, D, h, w)
                    double* total,      // (B, H, W)
                    const BackgroundParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.in_height * p.in_width;
  const std::int64_t slices = slices_of(p);
  auto* sums = allocate<double>(context, slices * p.batch * pixels);
  launch(sum_channels<T>, slices * p.batch * blocks_per_image(pixels, 1), block_size, stream,
         features, sums, p);
  if (slices > 1)
    launch(add_slices, ceil_div(p.batch * pixels, block_size), block_size, stream, sums, p);
  launch(add_resized, p.batch * blocks_per_image(p.out_height * p.out_width, 1), block_size, stream,
         sums, total, p);
  return true;
}

template <class T>
bool background_normalize(const double* total,  // (B, N)
                          T* out,               // (B, N)
                          std::int64_t batch, std::int64_t pixels, Context& context) {
  const cudaStream_t stream = context.stream;
  auto* ranges = allocate<double>(context, 2 * batch * reductions_per_map(pixels));
  launch(find_ranges, batch * reductions_per_map(pixels), block_size, stream, total, ranges,
         pixels);
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
