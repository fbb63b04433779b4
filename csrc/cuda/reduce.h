// Reductions over the threads of a warp or a block. Values are combined in a fixed order, so sums
// are the same bit by bit in every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"

namespace cuekit::cuda {

constexpr unsigned all_lanes = 0xffffffffu;  // mask of a whole warp
constexpr int warp_size = 32;

// Pixels of one map that one block reduces, in kernels that find a maximum or a range; a second
// kernel combines the results of the map's blocks.
constexpr int pixels_per_reduction = 16 * block_size;

// Blocks that reduce one map.
__host__ __device__ inline std::int64_t reductions_per_map(std::int64_t pixels) {
  return (pixels + pixels_per_reduction - 1) / pixels_per_reduction;
}

// Every lane gets the result.
template <class T, class Combine>
__device__ T reduce_warp(T value, Combine combine) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}

// Every thread gets the result. All threads of the block must call it, and the block must consist
// of whole warps. It ends with a barrier, so it may be called again at once.
template <class T, class Combine>
__device__ T reduce_block(T value, Combine combine) {
  __shared__ T warp_results[32];
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  value = reduce_warp(value, combine);
  if (lane == 0) warp_results[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = warp_results[0];
  for (int w = 1; w < warps; ++w) value = combine(value, warp_results[w]);
  __syncthreads();
  return value;
}

struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

struct Smaller {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

}  // namespace cuekit::cuda
