// Turns the error code of a CUDA call into an exception with CUDA's own message.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace cuekit::cuda {

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  // The runtime also keeps the error as its last error. It is cleared, so that the next call of
  // cudaGetLastError, by whatever library, does not report it again.
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

}  // namespace cuekit::cuda
