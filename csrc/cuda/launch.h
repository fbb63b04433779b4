// Launching kernels: on the caller's stream, without waiting, and with CUDA's own words where it
// refuses. Which pixels a thread works on, and how many of them with one load.
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

constexpr int block_size = 256;

// `blocks` blocks of `threads` threads; nothing where there are none.
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

// Workspace for `count` values.
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

// Of this thread, in a grid of blocks_per_image blocks for each image; pixels may end before it.
__device__ inline Position position(std::int64_t pixels, int width) {
  const auto blocks = static_cast<unsigned>((pixels + std::int64_t{block_size} * width - 1) /
                                            (std::int64_t{block_size} * width));
  const unsigned image = blockIdx.x / blocks;
  const unsigned block = blockIdx.x - image * blocks;
  return {image, (std::int64_t{block} * block_size + threadIdx.x) * width};
}

// Neighbours that are read and written with one instruction.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T values[width];
};

template <int width, class T>
__device__ Pack<T, width> load_pack(const T* source) {
  return *reinterpret_cast<const Pack<T, width>*>(source);
}

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

// As one word, past the first cache, which has no use for it: assigned as a struct, the compiler
// stores every item by itself.
template <int width, class T>
__device__ void store_pack(const Pack<T, width>& pack, T* target) {
  using Whole = typename Word<sizeof pack>::type;
  Whole word;
  memcpy(&word, &pack, sizeof word);
  __stcg(reinterpret_cast<Whole*>(target), word);
}

// Calls body(k, values) for those of `channels` rows of maps, `pixels` apart, whose tag is set or,
// if `set` is false, is not. Four loads are under way at a time: one would not fill the memory's
// pipeline.
template <int width, class T, class Body>
__device__ void for_tagged(const T* maps, std::int64_t channels, std::int64_t pixels,
                           const std::uint8_t* tags, bool set, Body body) {
  constexpr int at_a_time = 4;
  for (std::int64_t k = 0; k < channels; k += at_a_time) {
    Pack<T, width> values[at_a_time];
    bool chosen[at_a_time];
#pragma unroll
    for (int i = 0; i < at_a_time; ++i) {
      chosen[i] = k + i < channels && (tags[k + i] != 0) == set;
      if (chosen[i]) values[i] = load_pack<width>(maps + (k + i) * pixels);
    }
#pragma unroll
    for (int i = 0; i < at_a_time; ++i)
      if (chosen[i]) body(k + i, values[i]);
  }
}

// Calls body(integral_constant<width>): four pixels a thread (two of eight bytes) where rows of
// `pixels` and every pointer allow it, else one. T: the largest type that is read or written.
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
