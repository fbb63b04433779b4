// The backend that is being compiled, and the context that a kernel gets besides its arrays.
//
// An op's header declares the op once, in `namespace cuekit::CUEKIT_BACKEND`. That is `cpu`, or
// `cuda` in a compilation with -DCUEKIT_BACKEND_CUDA.
#pragma once

#include <cstdint>

#ifdef CUEKIT_BACKEND_CUDA

#include <cuda_runtime.h>
#define CUEKIT_BACKEND cuda

namespace cuekit::cuda {

// The stream that kernels are launched on, and the allocator of their workspace. Kernels do not
// synchronise and do not call cudaMalloc.
class Context {
 public:
  explicit Context(cudaStream_t caller_stream) : stream(caller_stream) {}

  // Uninitialised workspace, aligned to 256 bytes, from the allocator of the caller's framework.
  // Valid for everything that this call launches on `stream`. Null for 0 bytes.
  virtual void* allocate(std::int64_t bytes) = 0;

  const cudaStream_t stream;

 protected:
  ~Context() = default;
};

}  // namespace cuekit::cuda

#else

#define CUEKIT_BACKEND cpu

namespace cuekit::cpu {

struct Context {
  int threads;  // at least 1; results have the same bits for every number
};

}  // namespace cuekit::cpu

#endif
