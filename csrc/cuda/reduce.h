// Reductions over the threads of a warp or a block, in a fixed order.
#pragma once

#include <cuda_runtime.h>

namespace cuekit::cuda {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int warp_size = 32;

template <class T, class Combine>
__device__ T reduce_warp(T value, Combine combine) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}

// For every thread of a block of whole warps. May be called again at once.
template <class T, class Combine>
__device__ T reduce_block(T value, Combine combine) {
  __shared__ T of_warp[32];
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  value = reduce_warp(value, combine);
  if (lane == 0) of_warp[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = of_warp[0];
  for (int w = 1; w < warps; ++w) value = combine(value, of_warp[w]);
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
