// The mean field kernel of crf_mean_field.h. A block has one tile. Every pixel slices its 9
// vertices, adds the unary and takes the softmax; then every copy of the tile is summed from the Q
// of the tile's pixels, which is in shared memory.
//
// With up to 32 classes, the values of a pixel stay in the registers of the threads that share it
// until the softmax is done. With more, logits go through memory, and classes are splatted group by
// group.
#include <type_traits>

#include "crf_mean_field.h"
#include "lattice_tile.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// How threads share classes: `pixel_threads` threads have one pixel, each `parts` times 4 classes;
// `copy_threads` threads sum one copy.
template <int pixel_threads_, int parts_, int copy_threads_>
struct Shape {
  static constexpr int pixel_threads = pixel_threads_, parts = parts_;
  static constexpr int copy_threads = copy_threads_;
  static constexpr int classes = 4 * pixel_threads * parts;
  static constexpr int block_threads =
      tile_pixels * pixel_threads < block_size ? tile_pixels * pixel_threads : block_size;
  static constexpr int pixels_at_once = block_threads / pixel_threads;
};

__device__ float max_of(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

__device__ float sum_of(float4 v) { return (v.x + v.y) + (v.z + v.w); }

__device__ float4 times(float4 v, float factor) {
  return {v.x * factor, v.y * factor, v.z * factor, v.w * factor};
}

__device__ float4 exp2_of(float4 v, float shift) {
  return {exp2f(v.x - shift), exp2f(v.y - shift), exp2f(v.z - shift), exp2f(v.w - shift)};
}

// Reduces over the threads of one pixel. All threads of a warp must call it.
template <int pixel_threads, class Combine>
__device__ float over_pixel_threads(float value, Combine combine) {
  for (int offset = pixel_threads / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}

// A thread's share of up to S::classes classes of one pixel. Rows in memory have `left` of these
// classes; the others stay impossible.
template <class S>
struct Classes {
  float4 part[S::parts];
  int member;  // the number of this thread among those of the pixel

  __device__ explicit Classes(int number) : member(number) {
#pragma unroll
    for (float4& p : part) p = all_of(impossible);
  }
  __device__ int first_of(int j) const { return 4 * (member + j * S::pixel_threads); }
  __device__ void load(const float* row, int left) {  // (left)
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (first_of(j) < left) part[j] = load4(row + first_of(j));
  }
  __device__ void store(float* row, int left) const {  // (left)
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (first_of(j) < left) store4(row + first_of(j), part[j]);
  }
  template <class V>
  __device__ void add(const V* row, int left, float factor) {  // (left)
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (first_of(j) < left) part[j] = add4(part[j], factor, load4(row + first_of(j)));
  }
  __device__ float largest() const {
    float result = max_of(part[0]);
    for (int j = 1; j < S::parts; ++j) result = fmaxf(result, max_of(part[j]));
    return result;
  }
  __device__ float sum() const {
    float result = sum_of(part[0]);
    for (int j = 1; j < S::parts; ++j) result += sum_of(part[j]);
    return result;
  }
  __device__ void become_powers_of_2(float shift) {
    for (float4& p : part) p = exp2_of(p, shift);
  }
  __device__ void multiply(float factor) {
    for (float4& p : part) p = times(p, factor);
  }
};

__device__ Row row_of_pixel(std::int64_t tile, int i) {
  return static_cast<Row>(tile) * tile_pixels + static_cast<Row>(i);
}

// Adds one filter's values at a pixel. The rows of all corners are loaded before the first is used.
template <int corners, class S, class V>
__device__ void slice_filter(const Row* rows,       // (corners, tile_pixels), from the pixel on
                             const float* weights,  // (corners, tile_pixels), from the pixel on
                             const V* values,       // (vertices, stride), from the first class on
                             const ValueRows& layout, int left, Classes<S>& x) {
  Row row[corners];
#pragma unroll
  for (int k = 0; k < corners; ++k) row[k] = rows[k * tile_pixels];
#pragma unroll
  for (int k = 0; k < corners; ++k)
    x.add(values + layout.offset(row[k]), left, weights[k * tile_pixels]);
}

// The logits of pixel i for classes from `first` on: unary and both filters.
template <class S, class V>
__device__ void add_logits(const MeanField<V>& m, std::int64_t tile, int i, int first, int left,
                           const float* weights,  // (corners, tile_pixels)
                           Classes<S>& x) {
  const Lattice& lattice = m.lattice;
  x.load(m.unary + m.layout.offset(row_of_pixel(tile, i)) + first, left);
  if (m.slice && lattice.bilateral > 0)
    slice_filter<bilateral_corners>(lattice.rows + lattice.entry(tile, 0) + i, weights + i,
                                    m.values + first, m.layout, left, x);
  if (m.slice && lattice.spatial > 0)
    slice_filter<spatial_corners>(lattice.rows + lattice.entry(tile, lattice.bilateral) + i,
                                  weights + lattice.bilateral * tile_pixels + i, m.values + first,
                                  m.layout, left, x);
}

// Registers are limited so that a multiprocessor runs this many threads, which hide the latency of
// the gathers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
[[maybe_unused]] constexpr int resident_threads = 1024;  // the most that Turing has
#else
[[maybe_unused]] constexpr int resident_threads = 1280;
#endif

// `many`: there are more classes than the shape has.
template <class S, bool many, class V>
__global__ void __launch_bounds__(S::block_threads, resident_threads / S::block_threads)
    mean_field(MeanField<V> m) {
  __shared__ float4 q_of_tile[tile_pixels * S::classes / 4];
  __shared__ float weights[max_entries];
  __shared__ float factors[many ? tile_pixels : 1];
  float* const q = &q_of_tile[0].x;
  const std::int64_t tile = blockIdx.x;
  const int member = static_cast<int>(threadIdx.x) % S::pixel_threads;
  const int begin = static_cast<int>(threadIdx.x) / S::pixel_threads;
  const int count = m.lattice.pixels_in(tile);
  const int used = m.layout.used_of(tile / m.lattice.tiles_per_image);
  const auto row = [&](float* rows, int i, int first) {
    return rows + m.layout.offset(row_of_pixel(tile, i)) + first;
  };
  const auto splat = [&](int first) {
    splat_tile<S::copy_threads, S::classes>(m.lattice, tile, S::block_threads, used - first,
                                            weights, q, m.copies + first, m.layout);
  };
  if (m.slice || m.splat) {
    load_weights(m.lattice, tile, S::block_threads, weights);
    __syncthreads();
  }

  // All threads of a warp take part in over_pixel_threads, with a pixel or without.
  for (int i = begin; i < tile_pixels; i += S::pixels_at_once) {
    const bool inside = i < count;
    if constexpr (!many) {
      Classes<S> x(member);
      if (inside) add_logits(m, tile, i, 0, used, weights, x);
      x.become_powers_of_2(over_pixel_threads<S::pixel_threads>(x.largest(), Larger()));
      x.multiply(1.0f / over_pixel_threads<S::pixel_threads>(x.sum(), Plus()));
      if (m.splat) {
        x.store(q + i * S::classes, S::classes);
      } else if (inside) {
        x.store(row(m.unary, i, 0), used);
      }
    } else {
      float largest = impossible, sum = 0.0f;
      for (int first = 0; first < used; first += S::classes) {
        Classes<S> x(member);
        if (inside) add_logits(m, tile, i, first, used - first, weights, x);
        if (inside) x.store(row(m.logits, i, first), used - first);
        largest = fmaxf(largest, x.largest());
      }
      largest = over_pixel_threads<S::pixel_threads>(largest, Larger());
      for (int first = 0; first < used; first += S::classes) {
        Classes<S> x(member);
        if (inside) x.load(row(m.logits, i, first), used - first);
        x.become_powers_of_2(largest);
        if (inside) x.store(row(m.logits, i, first), used - first);
        sum += x.sum();
      }
      sum = over_pixel_threads<S::pixel_threads>(sum, Plus());
      if (member == 0) factors[i] = 1.0f / sum;
    }
  }
  if constexpr (!many) {
    if (!m.splat) return;
    __syncthreads();
    splat(0);
  } else {
    for (int first = 0; first < used; first += S::classes) {
      __syncthreads();
      for (int i = begin; i < count; i += S::pixels_at_once) {
        Classes<S> x(member);
        x.load(row(m.logits, i, first), used - first);
        x.multiply(factors[i]);
        if (m.splat) {
          x.store(q + i * S::classes, S::classes);
        } else {
          x.store(row(m.unary, i, first), used - first);
        }
      }
      __syncthreads();
      if (m.splat) splat(first);
    }
  }
}

}  // namespace

template <class V>
void launch_mean_field(const MeanField<V>& m, cudaStream_t stream) {
  const auto run = [&](auto shape, auto many) {
    using S = decltype(shape);
    launch(mean_field<S, many, V>, m.lattice.tiles(), S::block_threads, stream, m);
  };
  constexpr std::false_type few{};
  if (m.layout.stride <= 4) {
    run(Shape<1, 1, 1>{}, few);
  } else if (m.layout.stride <= 8) {
    run(Shape<2, 1, 2>{}, few);
  } else if (m.layout.stride <= 16) {
    run(Shape<4, 1, 4>{}, few);
  } else if (m.layout.stride <= 24) {
    run(Shape<2, 3, 8>{}, few);
  } else if (m.layout.stride <= classes_in_registers) {
    run(Shape<8, 1, 8>{}, few);
  } else {
    run(Shape<8, 1, 8>{}, std::true_type{});
  }
}

template void launch_mean_field(const MeanField<float>&, cudaStream_t);
template void launch_mean_field(const MeanField<half>&, cudaStream_t);

}  // namespace cuekit::cuda
