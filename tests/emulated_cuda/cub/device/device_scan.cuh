// Emulates the part of CUB's prefix sum that the kernels use, on the CPU; see ../../cuda_runtime.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace cub {

struct DeviceScan {
  template <class T>
  static cudaError_t ExclusiveSum(void* temporary, std::size_t& bytes, const T* in, T* out,
                                  std::int64_t count, cudaStream_t = nullptr) {
    if (temporary == nullptr) {
      bytes = 1;
      return cudaSuccess;
    }
    T sum{};
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = in[i];
      out[i] = sum;
      sum += value;
    }
    return cudaSuccess;
  }
};

}  // namespace cub
