// What CUDA refuses becomes an exception with CUDA's own words.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace cuekit::cuda {

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  // Reported here: whoever asks next must not find it again.
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

}  // namespace cuekit::cuda
