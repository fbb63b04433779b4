// Emulates the part of CUDA's runtime that the kernels use, on the CPU. Only the tests build it:
// the same .cu files, compiled by a C++ compiler with this folder first among the include folders,
// run without a GPU.
//
// The threads of a block are fibers of one system thread. A fiber runs until it reaches a barrier
// or exchanges values with its warp; then the next fiber runs. So results do not depend on timing,
// a barrier that some threads never reach is an error, and sanitizers see every access. About
// every second launch runs its threads and blocks in the opposite order, so that a result that
// depends on the order differs from launch to launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess, cudaErrorUnknown };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "unknown error";
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline cudaError_t cudaMemsetAsync(void* target, int value, std::size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(target, value, bytes);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };
inline cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                                   cudaMemcpyKind, cudaStream_t) {
  if (bytes > 0) std::memcpy(target, source, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorUnknown;
}

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

// Runs a kernel: kernel() once for every thread of every block.
void run(dim3 grid, dim3 block, const std::function<void()>& kernel);

enum class Scope { warp, block };
// Returns when all threads of the warp or block have called it, except those that have ended.
void barrier(Scope scope);

// Returns the values (32) that the lanes of the warp passed to the same exchange. For lanes that
// have ended they are unspecified, as in CUDA.
const std::uint64_t* exchange(std::uint64_t value);

template <class T>
T from_lane(T value, unsigned lane) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits)[lane % 32];
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned this_lane() { return threadIdx.x % 32; }

}  // namespace emulated

template <class... Expected, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...),
                               Actual&&... arguments) {
  emulated::run(config->gridDim, config->blockDim,
                [&] { kernel(static_cast<Expected>(arguments)...); });
  return cudaSuccess;
}

inline void __syncthreads() { emulated::barrier(emulated::Scope::block); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulated::from_lane(value, static_cast<unsigned>(lane));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::from_lane(value, emulated::this_lane() ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = emulated::this_lane();
  return emulated::from_lane(value, lane < delta ? lane : lane - delta);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const std::uint64_t* values = emulated::exchange(predicate ? 1 : 0);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(values[lane]) << lane;
  return bits;
}

template <class T>
void __stcg(T* target, T value) {
  std::memcpy(target, &value, sizeof value);  // the object there may have another type than T
}

inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <class T>
T __ldcg(const T* source) {
  return *source;
}

// Only one thread runs at a time, so these are atomic.
template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target = before + value;
  return before;
}
template <class T>
T atomicMax(T* target, T value) {
  const T before = *target;
  if (before < value) *target = value;
  return before;
}
template <class T>
T atomicMin(T* target, T value) {
  const T before = *target;
  if (value < before) *target = value;
  return before;
}
template <class T>
T atomicOr(T* target, T value) {
  const T before = *target;
  *target = before | value;
  return before;
}
template <class T>
T atomicCAS(T* target, T expected, T value) {
  const T before = *target;
  if (before == expected) *target = value;
  return before;
}
