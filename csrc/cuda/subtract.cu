// A thread has `width` neighbouring pixels. Of up to eight present classes it holds all values in
// registers; of more it reads those it compares with again, from the cache. One launch for
// `pairwise` and `strongest`; `dcsm` needs two maxima over the image, so it takes three.
//
// Workspace of dcsm, float64: maxima (B, C, C) of M_c - M_c', peaks (B, C) of D_c, D (B, C, N).
// Maxima and peaks count from 0, where doubles are ordered as their bits are: an integer maximum
// finds them, in whatever order threads come.
#include <cmath>

#include "cuekit/half.h"
#include "cuekit/subtract.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr int in_registers = 8;
constexpr int pixels_per_part = 16 * block_size;

__device__ double positive(double value) { return value > 0.0 ? value : 0.0; }

__device__ std::int64_t count_present(const std::uint8_t* present, std::int64_t classes) {
  std::int64_t count = 0;
  for (std::int64_t c = 0; c < classes; ++c) count += present[c] != 0 ? 1 : 0;
  return count;
}

// The classes of `present`, a bit each.
template <class T, int width>
__device__ void pairwise_in_registers(const T* maps, std::uint64_t present, int count,
                                      std::int64_t pixels, T* out) {
  std::int64_t place[in_registers];
  Pack<T, width> own[in_registers];
  // All loads before the first use, and no branch between them: past the last class that one is
  // read again, from the cache.
#pragma unroll
  for (int i = 0; i < in_registers; ++i) {
    place[i] = (__ffsll(static_cast<long long>(present)) - 1) * pixels;
    if (i + 1 < count) present &= present - 1;
    own[i] = load_pack<width>(maps + place[i]);
  }
  const double share = 1.0 / static_cast<double>(count - 1);
#pragma unroll
  for (int i = 0; i < in_registers; ++i) {
    if (i >= count) return;
    Pack<T, width> result;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const double value = load(own[i].values[j]);
      double sum = 0.0;
#pragma unroll
      for (int other = 0; other < in_registers; ++other)
        if (other != i && other < count) sum += positive(value - load(own[other].values[j]));
      result.values[j] = store<T>(sum * share);
    }
    store_pack(result, out + place[i]);
  }
}

template <class T, int width>
__device__ void pairwise_of_many(const T* maps, const std::uint8_t* present, std::int64_t count,
                                 std::int64_t classes, std::int64_t pixels, T* out) {
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

// Only the class that is highest at a pixel keeps something there: what it has over the second.
template <class T, int width>
__device__ void strongest(const T* maps, const std::uint8_t* present, std::int64_t classes,
                          std::int64_t pixels, T* out) {
  double first[width], second[width];
  std::int64_t winner[width];
  for (int j = 0; j < width; ++j) {
    first[j] = second[j] = -HUGE_VAL;
    winner[j] = -1;
  }
  for_tagged<width>(maps, classes, pixels, present, true,
                    [&](std::int64_t c, const Pack<T, width>& values) {
                      for (int j = 0; j < width; ++j) {
                        const double value = load(values.values[j]);
                        const bool ahead = winner[j] < 0 || value > first[j];
                        second[j] = ahead ? first[j] : value > second[j] ? value : second[j];
                        first[j] = ahead ? value : first[j];
                        winner[j] = ahead ? c : winner[j];
                      }
                    });
  for (std::int64_t c = 0; c < classes; ++c) {
    Pack<T, width> result;
    for (int j = 0; j < width; ++j)
      result.values[j] = store<T>(winner[j] == c ? positive(first[j] - second[j]) : 0.0);
    store_pack(result, out + c * pixels);
  }
}

template <class T, int width>
__device__ void alone(const T* maps, const std::uint8_t* present, std::int64_t classes,
                      std::int64_t pixels, T* out) {
  for (std::int64_t c = 0; c < classes; ++c) {
    Pack<T, width> values{};
    if (present[c] != 0) values = load_pack<width>(maps + c * pixels);
    for (T& value : values.values) value = store<T>(positive(load(value)));
    store_pack(values, out + c * pixels);
  }
}

template <class T, int width>
__global__ void pairwise_kernel(const T* __restrict__ maps,
                                const std::uint8_t* __restrict__ present, T* __restrict__ out,
                                SubtractParams p) {
  const Position at = position(p.pixels, width);
  if (at.pixel >= p.pixels) return;
  const std::uint8_t* tags = present + at.image * p.classes;
  const std::int64_t first = at.image * p.classes * p.pixels + at.pixel;
  const std::int64_t count = count_present(tags, p.classes);
  if (count == 1) {
    alone<T, width>(maps + first, tags, p.classes, p.pixels, out + first);
    return;
  }
  std::uint64_t bits = 0;
  for (std::int64_t c = 0; c < p.classes; ++c) {
    if (tags[c] == 0) {
      store_pack(Pack<T, width>{}, out + first + c * p.pixels);
    } else if (c < 64) {
      bits |= std::uint64_t{1} << c;
    }
  }
  if (count == 0) return;
  if (count <= in_registers && count == __popcll(bits)) {
    pairwise_in_registers<T, width>(maps + first, bits, static_cast<int>(count), p.pixels,
                                    out + first);
  } else {
    pairwise_of_many<T, width>(maps + first, tags, count, p.classes, p.pixels, out + first);
  }
}

template <class T, int width>
__global__ void strongest_kernel(const T* __restrict__ maps,
                                 const std::uint8_t* __restrict__ present, T* __restrict__ out,
                                 SubtractParams p) {
  const Position at = position(p.pixels, width);
  if (at.pixel >= p.pixels) return;
  const std::uint8_t* tags = present + at.image * p.classes;
  const std::int64_t first = at.image * p.classes * p.pixels + at.pixel;
  if (count_present(tags, p.classes) == 1) {
    alone<T, width>(maps + first, tags, p.classes, p.pixels, out + first);
  } else {
    strongest<T, width>(maps + first, tags, p.classes, p.pixels, out + first);
  }
}

// ------------------------------------------------------------------------------------------ dcsm

__device__ void raise(double* maximum, double value) {
  atomicMax(reinterpret_cast<unsigned long long*>(maximum), bit_cast<unsigned long long>(value));
}

__host__ __device__ std::int64_t parts_of(const SubtractParams& p) {
  return (p.pixels + pixels_per_part - 1) / pixels_per_part;
}

// A block has one part of an image's pixels, for every pair.
template <class T>
__global__ void pair_maxima(const T* __restrict__ maps, const std::uint8_t* __restrict__ present,
                            double* __restrict__ maxima, SubtractParams p) {
  const std::int64_t parts = parts_of(p);
  const std::int64_t b = blockIdx.x / parts;
  const std::int64_t begin = blockIdx.x % parts * pixels_per_part;
  const std::uint8_t* tags = present + b * p.classes;
  for (std::int64_t c = 0; c < p.classes; ++c) {
    for (std::int64_t other = 0; other < p.classes; ++other) {
      if (tags[c] == 0 || tags[other] == 0 || other == c) continue;
      const T* own = maps + (b * p.classes + c) * p.pixels;
      const T* theirs = maps + (b * p.classes + other) * p.pixels;
      double best = 0.0;
      for (int i = 0; i < pixels_per_part / block_size; ++i) {
        const std::int64_t pixel = begin + i * block_size + threadIdx.x;
        if (pixel < p.pixels) best = Larger()(best, load(own[pixel]) - load(theirs[pixel]));
      }
      best = reduce_block(best, Larger());
      if (threadIdx.x == 0) raise(maxima + (b * p.classes + c) * p.classes + other, best);
    }
  }
}

template <class T>
__global__ void pair_tanh(const T* __restrict__ maps, const std::uint8_t* __restrict__ present,
                          const double* __restrict__ maxima, double* __restrict__ peaks,
                          double* __restrict__ sums, SubtractParams p) {
  const Position at = position(p.pixels, 1);
  const std::uint8_t* tags = present + at.image * p.classes;
  const std::int64_t first = at.image * p.classes * p.pixels + at.pixel;
  const bool inside = at.pixel < p.pixels;
  for (std::int64_t c = 0; c < p.classes; ++c) {
    if (tags[c] == 0) continue;
    double sum = 0.0;
    if (inside) {
      const double own = load(maps[first + c * p.pixels]);
      for (std::int64_t other = 0; other < p.classes; ++other) {
        if (tags[other] == 0 || other == c) continue;
        const double maximum = maxima[(at.image * p.classes + c) * p.classes + other];
        const double difference = positive(own - load(maps[first + other * p.pixels]));
        // Where the maximum is 0 nothing is positive.
        if (maximum > 0.0) sum += tanh_to_three(3.0 * (difference / maximum));
      }
      sums[first + c * p.pixels] = sum;
    }
    const double best = reduce_block(sum, Larger());
    if (threadIdx.x == 0) raise(peaks + at.image * p.classes + c, best);
  }
}

template <class T>
__global__ void last_tanh(const T* __restrict__ maps, const std::uint8_t* __restrict__ present,
                          const double* __restrict__ peaks, const double* __restrict__ sums,
                          T* __restrict__ out, SubtractParams p) {
  const Position at = position(p.pixels, 1);  // an "image" is one map
  if (at.pixel >= p.pixels) return;
  const std::int64_t i = at.image * p.pixels + at.pixel;
  const std::int64_t b = at.image / p.classes;
  double result = 0.0;
  if (present[at.image] != 0) {
    const double peak = peaks[at.image];
    if (count_present(present + b * p.classes, p.classes) == 1) {
      result = positive(load(maps[i]));
    } else if (peak > 0.0) {
      result = tanh_to_three(3.0 * (sums[i] / peak));
    }
  }
  out[i] = store<T>(result);
}

template <class T>
void dcsm(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p,
          Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t maps_of_batch = p.batch * p.classes;
  double* maxima = allocate<double>(context, maps_of_batch * (p.classes + 1 + p.pixels));
  double* peaks = maxima + p.batch * p.classes * p.classes;
  double* sums = peaks + p.batch * p.classes;
  check(
      cudaMemsetAsync(maxima, 0, static_cast<std::size_t>(sums - maxima) * sizeof(double), stream));
  const std::int64_t blocks = blocks_per_image(p.pixels, 1);
  launch(pair_maxima<T>, p.batch * parts_of(p), block_size, stream, maps, present, maxima, p);
  launch(pair_tanh<T>, p.batch * blocks, block_size, stream, maps, present, maxima, peaks, sums, p);
  launch(last_tanh<T>, p.batch * p.classes * blocks, block_size, stream, maps, present, peaks, sums,
         out, p);
}

}  // namespace

template <class T>
bool subtract(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p,
              Context& context) {
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

#define CUEKIT_INSTANTIATE(T) \
  template bool subtract(const T*, const std::uint8_t*, T*, const SubtractParams&, Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
