// Class subtraction (equations: cuekit/subtract.h).
//
// pairwise, strongest: one launch without workspace. Every thread computes `width` neighbouring
// pixels of all classes. For pairwise it keeps the values of up to 8 present classes in registers;
// with more, it reads the other classes again for every class, from the caches.
//
// dcsm, three launches:
//   pair_maxima   every block finds the maxima of M_c - M_c' over some pixels of an image
//   sum_tanh      every thread computes D of one pixel for all classes; every block finds the
//                 largest D of each class among its pixels
//   final_tanh    every thread computes one pixel of one class of the result
// Workspace of dcsm, one float64 array: maxima (B, C, C) of M_c - M_c', half_maxima (B, C, C) of
// half of it, peaks (B, C) of D_c, then D (B, C, N). half_maxima are found and used where maxima
// exceed the range of float64. Blocks combine maxima with integer atomics, whose result does not
// depend on the order: maxima are at least 0, and nonnegative doubles are ordered as their bits
// are.
#include <cmath>
#include <type_traits>

#include "cuekit/half.h"
#include "cuekit/subtract.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr int max_in_registers = 8;  // present classes

__device__ double positive(double value) { return value > 0.0 ? value : 0.0; }

__device__ std::int64_t count_present(const std::uint8_t* present,  // (C)
                                      std::int64_t classes) {
  std::int64_t count = 0;
  for (std::int64_t c = 0; c < classes; ++c) count += present[c] != 0 ? 1 : 0;
  return count;
}

template <class T, int width>
__device__ void pairwise_in_registers(const T* maps,  // (C, N), from the thread's first pixel on
                                      T* out,         // the same
                                      std::uint64_t present,  // bit c is set: class c is present
                                      int count,              // of present classes, at least 2
                                      std::int64_t pixels) {
  std::int64_t offset[max_in_registers];  // of a present class's map
  Pack<T, width> own[max_in_registers];
  // All loads are issued before the first use, without a branch between them. Where fewer classes
  // are present, the last one is loaded again; it comes from L1.
#pragma unroll
  for (int i = 0; i < max_in_registers; ++i) {
    offset[i] = (__ffsll(static_cast<long long>(present)) - 1) * pixels;
    if (i + 1 < count) present &= present - 1;
    own[i] = load_pack<width>(maps + offset[i]);
  }
  const double share = 1.0 / static_cast<double>(count - 1);
#pragma unroll
  for (int i = 0; i < max_in_registers; ++i) {
    if (i >= count) return;
    Pack<T, width> result;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const double value = load(own[i].values[j]);
      double sum = 0.0;
#pragma unroll
      for (int other = 0; other < max_in_registers; ++other)
        if (other != i && other < count) sum += positive(value - load(own[other].values[j]));
      result.values[j] = store<T>(sum * share);
    }
    store_pack(result, out + offset[i]);
  }
}

template <class T, int width>
__device__ void pairwise_of_many(const T* maps,  // (C, N), from the thread's first pixel on
                                 const std::uint8_t* present,  // (C)
                                 T* out,              // (C, N), from the thread's first pixel on
                                 std::int64_t count,  // of present classes, at least 2
                                 std::int64_t classes, std::int64_t pixels) {
  const double share = 1.0 / static_cast<double>(count - 1);
  for (std::int64_t c = 0; c < classes; ++c) {
    if (present[c] == 0) continue;
    const Pack<T, width> own = load_pack<width>(maps + c * pixels);
    double sums[width] = {};
#pragma unroll 4
    for (std::int64_t other = 0; other < classes; ++other) {
      if (present[other] == 0 || other == c) continue;
      const Pack<T, width> theirs = load_pack<width>(maps + other * pixels);
      for (int j = 0; j < width; ++j)
        sums[j] += positive(load(own.values[j]) - load(theirs.values[j]));
    }
    Pack<T, width> result;
    for (int j = 0; j < width; ++j) result.values[j] = store<T>(sums[j] * share);
    store_pack(result, out + c * pixels);
  }
}

// Only the class with the largest value at a pixel is positive there, by its difference to the
// second largest value.
template <class T, int width>
__device__ void strongest(const T* maps,                // (C, N), from the thread's first pixel on
                          const std::uint8_t* present,  // (C)
                          T* out,                       // (C, N), from the thread's first pixel on
                          std::int64_t classes, std::int64_t pixels) {
  double first[width], second[width];
  std::int64_t winner[width];
  for (int j = 0; j < width; ++j) {
    first[j] = second[j] = -HUGE_VAL;
    winner[j] = -1;
  }
  for_channels_where<width>(
      maps, classes, pixels, present, true, [&](std::int64_t c, const Pack<T, width>& values) {
        for (int j = 0; j < width; ++j) {
          const double value = load(values.values[j]);
          const bool largest = winner[j] < 0 || value > first[j];
          second[j] = largest ? first[j] : value > second[j] ? value : second[j];
          first[j] = largest ? value : first[j];
          winner[j] = largest ? c : winner[j];
        }
      });
  for (std::int64_t c = 0; c < classes; ++c) {
    Pack<T, width> result;
    for (int j = 0; j < width; ++j)
      result.values[j] = store<T>(winner[j] == c ? positive(first[j] - second[j]) : 0.0);
    store_pack(result, out + c * pixels);
  }
}

// One present class: its positive values, and zeros for the absent classes.
template <class T, int width>
__device__ void one_class(const T* maps,                // (C, N), from the thread's first pixel on
                          const std::uint8_t* present,  // (C)
                          T* out,                       // (C, N), from the thread's first pixel on
                          std::int64_t classes, std::int64_t pixels) {
  for (std::int64_t c = 0; c < classes; ++c) {
    Pack<T, width> values{};
    if (present[c] != 0) values = load_pack<width>(maps + c * pixels);
    for (T& value : values.values) value = store<T>(positive(load(value)));
    store_pack(values, out + c * pixels);
  }
}

template <class T, int width>
__global__ void pairwise_kernel(const T* __restrict__ maps,                // (B, C, N)
                                const std::uint8_t* __restrict__ present,  // (B, C)
                                T* __restrict__ out,                       // (B, C, N)
                                SubtractParams p) {
  const auto [image, pixel] = thread_position(p.pixels, width);
  if (pixel >= p.pixels) return;
  const std::uint8_t* image_present = present + image * p.classes;
  const std::int64_t first = image * p.classes * p.pixels + pixel;
  const std::int64_t count = count_present(image_present, p.classes);
  if (count == 1) {
    one_class<T, width>(maps + first, image_present, out + first, p.classes, p.pixels);
    return;
  }
  std::uint64_t bits = 0;  // bit c is set: class c < 64 is present
  for (std::int64_t c = 0; c < p.classes; ++c) {
    if (image_present[c] == 0) {
      store_pack(Pack<T, width>{}, out + first + c * p.pixels);
    } else if (c < 64) {
      bits |= std::uint64_t{1} << c;
    }
  }
  if (count == 0) return;
  if (count <= max_in_registers && count == __popcll(bits)) {
    pairwise_in_registers<T, width>(maps + first, out + first, bits, static_cast<int>(count),
                                    p.pixels);
  } else {
    pairwise_of_many<T, width>(maps + first, image_present, out + first, count, p.classes,
                               p.pixels);
  }
}

template <class T, int width>
__global__ void strongest_kernel(const T* __restrict__ maps,                // (B, C, N)
                                 const std::uint8_t* __restrict__ present,  // (B, C)
                                 T* __restrict__ out,                       // (B, C, N)
                                 SubtractParams p) {
  const auto [image, pixel] = thread_position(p.pixels, width);
  if (pixel >= p.pixels) return;
  const std::uint8_t* image_present = present + image * p.classes;
  const std::int64_t first = image * p.classes * p.pixels + pixel;
  if (count_present(image_present, p.classes) == 1) {
    one_class<T, width>(maps + first, image_present, out + first, p.classes, p.pixels);
  } else {
    strongest<T, width>(maps + first, image_present, out + first, p.classes, p.pixels);
  }
}

// ---- dcsm ----

__device__ void atomic_max(double* maximum, double value) {  // both at least 0
  atomicMax(reinterpret_cast<unsigned long long*>(maximum), bit_cast<unsigned long long>(value));
}

// A block has `pixels_per_reduction` pixels of one image, and goes over all pairs of classes.
template <class T>
__global__ void pair_maxima(const T* __restrict__ maps,                // (B, C, N)
                            const std::uint8_t* __restrict__ present,  // (B, C)
                            double* __restrict__ maxima,               // (B, C, C), starting at 0
                            double* __restrict__ half_maxima,          // the same
                            SubtractParams p) {
  const std::int64_t reductions = reductions_per_map(p.pixels);
  const std::int64_t b = blockIdx.x / reductions;
  const std::int64_t begin = blockIdx.x % reductions * pixels_per_reduction;
  const std::uint8_t* image_present = present + b * p.classes;
  for (std::int64_t c = 0; c < p.classes; ++c) {
    for (std::int64_t other = 0; other < p.classes; ++other) {
      if (image_present[c] == 0 || image_present[other] == 0 || other == c) continue;
      const T* own = maps + (b * p.classes + c) * p.pixels;
      const T* theirs = maps + (b * p.classes + other) * p.pixels;
      const auto maximum = [&](auto difference) {
        double best = 0.0;
        for (int i = 0; i < pixels_per_reduction / block_size; ++i) {
          const std::int64_t pixel = begin + i * block_size + threadIdx.x;
          if (pixel < p.pixels)
            best = Larger()(best, difference(load(own[pixel]), load(theirs[pixel])));
        }
        return reduce_block(best, Larger());
      };
      const std::int64_t pair = (b * p.classes + c) * p.classes + other;
      const double best = maximum([](double x, double y) { return x - y; });
      if (threadIdx.x == 0) atomic_max(maxima + pair, best);
      if constexpr (std::is_same_v<T, double>) {
        // In the other blocks half the differences are smaller.
        if (best == HUGE_VAL) {
          const double half_best =
              maximum([](double x, double y) { return half_difference(x, y); });
          if (threadIdx.x == 0) atomic_max(half_maxima + pair, half_best);
        }
      }
    }
  }
}

template <class T>
__global__ void sum_tanh(const T* __restrict__ maps,                // (B, C, N)
                         const std::uint8_t* __restrict__ present,  // (B, C)
                         const double* __restrict__ maxima,         // (B, C, C)
                         const double* __restrict__ half_maxima,    // (B, C, C)
                         double* __restrict__ peaks,                // (B, C), starting at 0
                         double* __restrict__ sums,                 // (B, C, N)
                         SubtractParams p) {
  const auto [image, pixel] = thread_position(p.pixels, 1);
  const std::uint8_t* image_present = present + image * p.classes;
  const std::int64_t first = image * p.classes * p.pixels + pixel;
  const bool inside = pixel < p.pixels;
  for (std::int64_t c = 0; c < p.classes; ++c) {
    if (image_present[c] == 0) continue;
    double sum = 0.0;
    if (inside) {
      const double own = load(maps[first + c * p.pixels]);
      for (std::int64_t other = 0; other < p.classes; ++other) {
        if (image_present[other] == 0 || other == c) continue;
        const std::int64_t pair = (image * p.classes + c) * p.classes + other;
        const double theirs = load(maps[first + other * p.pixels]);
        double maximum = maxima[pair];
        double difference = own - theirs;
        if constexpr (std::is_same_v<T, double>) {
          if (maximum == HUGE_VAL) {
            maximum = half_maxima[pair];
            difference = half_difference(own, theirs);
          }
        }
        // Where the maximum is 0, no difference is positive.
        if (maximum > 0.0) sum += tanh_to_three(3.0 * (positive(difference) / maximum));
      }
      sums[first + c * p.pixels] = sum;
    }
    const double best = reduce_block(sum, Larger());
    if (threadIdx.x == 0) atomic_max(peaks + image * p.classes + c, best);
  }
}

template <class T>
__global__ void final_tanh(const T* __restrict__ maps,                // (B * C, N)
                           const std::uint8_t* __restrict__ present,  // (B * C)
                           const double* __restrict__ peaks,          // (B * C)
                           const double* __restrict__ sums,           // (B * C, N)
                           T* __restrict__ out,                       // (B * C, N)
                           SubtractParams p) {
  const auto [map, pixel] = thread_position(p.pixels, 1);  // map = b * C + c
  if (pixel >= p.pixels) return;
  const std::int64_t i = map * p.pixels + pixel;
  const std::int64_t b = map / p.classes;
  double result = 0.0;
  if (present[map] != 0) {
    const double peak = peaks[map];
    if (count_present(present + b * p.classes, p.classes) == 1) {
      result = positive(load(maps[i]));
    } else if (peak > 0.0) {
      result = tanh_to_three(3.0 * (sums[i] / peak));
    }
  }
  out[i] = store<T>(result);
}

template <class T>
void dcsm(const T* maps,                // (B, C, N)
          const std::uint8_t* present,  // (B, C), nonzero = present
          T* out,                       // (B, C, N)
          const SubtractParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t num_maps = p.batch * p.classes;
  double* maxima = allocate<double>(context, num_maps * (2 * p.classes + 1 + p.pixels));
  double* half_maxima = maxima + num_maps * p.classes;
  double* peaks = half_maxima + num_maps * p.classes;
  double* sums = peaks + num_maps;
  check(
      cudaMemsetAsync(maxima, 0, static_cast<std::size_t>(sums - maxima) * sizeof(double), stream));
  const std::int64_t blocks = blocks_per_image(p.pixels, 1);
  launch(pair_maxima<T>, p.batch * reductions_per_map(p.pixels), block_size, stream, maps, present,
         maxima, half_maxima, p);
  launch(sum_tanh<T>, p.batch * blocks, block_size, stream, maps, present, maxima, half_maxima,
         peaks, sums, p);
  launch(final_tanh<T>, num_maps * blocks, block_size, stream, maps, present, peaks, sums, out, p);
}

}  // namespace

template <class T>
bool subtract(const T* maps,                // (B, C, N)
              const std::uint8_t* present,  // (B, C), nonzero = present
              T* out,                       // (B, C, N)
              const SubtractParams& p, Context& context) {
  if (p.batch * p.classes * p.pixels == 0) return true;
  if (p.mode == SubtractMode::dcsm) {
    dcsm(maps, present, out, p, context);
    return true;
  }
  with_width<T>(p.pixels, {maps, out}, [&](auto width) {
    const auto kernel =
        p.mode == SubtractMode::pairwise ? pairwise_kernel<T, width> : strongest_kernel<T, width>;
    launch(kernel, p.batch * blocks_per_image(p.pixels, width), block_size, context.stream, maps,
           present, out, p);
  });
  return true;
}

template bool subtract(const half*, const std::uint8_t*, half*, const SubtractParams&, Context&);
template bool subtract(const float*, const std::uint8_t*, float*, const SubtractParams&, Context&);
template bool subtract(const double*, const std::uint8_t*, double*, const SubtractParams&,
                       Context&);

}  // namespace cuekit::cuda
