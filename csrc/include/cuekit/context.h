// The backend that is being compiled, and what a kernel is given beside its arrays.
//
// An op's header declares the op once, in `namespace cuekit::CUEKIT_BACKEND`. That is `cpu`, or
// `cuda` in a compilation with -DCUEKIT_BACKEND_CUDA.
#pragma once

#include <cstdint>

#ifdef CUEKIT_BACKEND_CUDA

#include <cuda_runtime.h>
#define CUEKIT_BACKEND cuda

namespace cuekit::cuda {

// Where a kernel is launched, and where its workspace comes from. Kernels do not synchronise and do
// not call cudaMalloc.
class Context {
 public:
  explicit Context(cudaStream_t caller_stream) : stream(caller_stream) {}

  // Workspace of any content, aligned to 256 bytes, from the allocator of the caller's framework.
  // It may be used by everything that this call puts on `stream`. Null for 0 bytes.
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
  int threads;  // at least 1; never changes a bit of a result
};

}  // namespace cuekit::cpu

#endif
