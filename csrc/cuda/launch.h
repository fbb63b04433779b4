// Launches kernels on the caller's stream without synchronising, and helps kernels that work pixel
// by pixel: which pixels belong to a thread, and loads and stores of neighbouring pixels as one
// vector.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "check.h"
#include "cuekit/context.h"
#include "cuekit/host_device.h"

namespace cuekit::cuda {

constexpr int block_size = 256;  // threads of a block, unless a kernel says otherwise

// Launches a grid of `blocks` blocks of `threads` threads. No launch where `blocks` is 0, which
// CUDA would refuse.
template <class... Expected, class... Actual>
void launch(void (*kernel)(Expected...), std::int64_t blocks, int threads, cudaStream_t stream,
            Actual&&... arguments) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<std::int32_t>::max())
    throw std::invalid_argument("CUDA: too large for one launch: split the batch");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Actual>(arguments)...));
}

// Uninitialised workspace for `count` values.
template <class T>
T* allocate(Context& context, std::int64_t count) {
  return static_cast<T*>(context.allocate(count * static_cast<std::int64_t>(sizeof(T))));
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Blocks that cover one image when every thread has `width` pixels.
constexpr std::int64_t blocks_per_image(std::int64_t pixels, int width) {
  return ceil_div(pixels, std::int64_t{block_size} * width);
}

struct Position {
  std::int64_t image, pixel;
};

// The image of this thread and the first of its `width` pixels, in a grid of blocks_per_image()
// blocks per image. The last block of an image also has threads past its end: pixel >= pixels.
__device__ inline Position thread_position(std::int64_t pixels, int width) {
  const auto blocks = static_cast<unsigned>((pixels + std::int64_t{block_size} * width - 1) /
                                            (std::int64_t{block_size} * width));
  const unsigned image = blockIdx.x / blocks;
  const unsigned block = blockIdx.x - image * blocks;
  return {image, (std::int64_t{block} * block_size + threadIdx.x) * width};
}

// `width` neighbouring values, aligned so that one instruction loads or stores them.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T values[width];
};

template <int width, class T>
__device__ Pack<T, width> load_pack(const T* source) {  // (width), aligned as a Pack
  return *reinterpret_cast<const Pack<T, width>*>(source);
}

// A type of `bytes` bytes that one store instruction can write.
template <std::size_t bytes>
struct Word;
template <>
struct Word<1> {
  using type = unsigned char;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// Stores a pack with one instruction, bypassing L1: results are not read again by the same kernel.
// A Pack that is assigned as a struct would be stored value by value, so it is copied to a word.
template <int width, class T>
__device__ void store_pack(const Pack<T, width>& pack,
                           T* target) {  // (width), aligned as a Pack
  using WordOfPack = typename Word<sizeof pack>::type;
  WordOfPack word;
  memcpy(&word, &pack, sizeof word);
  __stcg(reinterpret_cast<WordOfPack*>(target), word);
}

// Calls body(k, values) in ascending order for every channel k whose class is present (is_present
// true) or absent (false); `values` are the thread's pixels of channel k. Four channels are loaded
// before the first is used: one load in flight per thread would not saturate the memory.
template <int width, class T, class Body>
__device__ void for_channels_where(const T* maps,  // (channels, pixels), from the thread's pixel on
                                   std::int64_t channels, std::int64_t pixels,
                                   const std::uint8_t* present,  // (channels), nonzero = present
                                   bool is_present, Body body) {
  constexpr int loads = 4;
  for (std::int64_t k = 0; k < channels; k += loads) {
    Pack<T, width> values[loads];
    bool chosen[loads];
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      chosen[i] = k + i < channels && (present[k + i] != 0) == is_present;
      if (chosen[i]) values[i] = load_pack<width>(maps + (k + i) * pixels);
    }
#pragma unroll
    for (int i = 0; i < loads; ++i)
      if (chosen[i]) body(k + i, values[i]);
  }
}

// Calls body(std::integral_constant<int, width>()) with the number of pixels per thread: 4 (or 2
// if T has 8 bytes) where the number of pixels of an image and the alignment of all pointers allow
// vector loads and stores, else 1. T is the largest type that is loaded or stored.
template <class T, class Body>
void with_width(std::int64_t pixels, std::initializer_list<const void*> pointers, Body body) {
  constexpr int wide = sizeof(T) == 8 ? 2 : 4;
  bool fits = pixels % wide == 0;
  for (const void* pointer : pointers)
    fits = fits && reinterpret_cast<std::uintptr_t>(pointer) % (sizeof(T) * wide) == 0;
  if (fits) {
    body(std::integral_constant<int, wide>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

}  // namespace cuekit::cuda
