// Arrays of rows of values: one row for each pixel, vertex or copy of a lattice, with one value for
// each class. A thread works on 4 values of a row at a time, in float32. In memory they are float32
// or float16.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuekit/half.h"
#include "cuekit/host_device.h"

namespace cuekit::cuda {

using Row = std::uint32_t;
constexpr Row no_row = 0xffffffffu;

struct ValueRows {
  std::uint32_t stride;      // length of a row, a multiple of 4
  const std::int32_t* used;  // (images): how much of a row is used, a multiple of 4; null: all

  __device__ std::int32_t used_of(std::int64_t image) const {
    return used == nullptr ? static_cast<std::int32_t>(stride) : used[image];
  }
  // A product of two 32-bit numbers is one instruction, one of 64-bit numbers is several.
  CUEKIT_HD std::uint64_t offset(Row row) const { return std::uint64_t{row} * stride; }
};

CUEKIT_HD inline float4 all_of(float value) { return {value, value, value, value}; }

CUEKIT_HD inline float4 load4(const float* source) {  // (4)
  return *reinterpret_cast<const float4*>(source);
}

CUEKIT_HD inline void store4(float* target, float4 value) {  // (4)
  *reinterpret_cast<float4*>(target) = value;
}

CUEKIT_HD inline float4 load4(const half* source) {  // (4)
  const uint2 bits = *reinterpret_cast<const uint2*>(source);
  const auto value = [](std::uint32_t b) { return to_float({static_cast<std::uint16_t>(b)}); };
  return {value(bits.x), value(bits.x >> 16), value(bits.y), value(bits.y >> 16)};
}

// Values beyond the range of float16 become its largest value.
CUEKIT_HD inline std::uint32_t two_halves(float low, float high) {
  constexpr float largest = 65504.0f;
  low = low < largest ? low : largest;
  high = high < largest ? high : largest;
#ifdef __CUDA_ARCH__
  return bit_cast<std::uint32_t>(__floats2half2_rn(low, high));
#else
  return to_half(static_cast<double>(low)).bits |
         std::uint32_t{to_half(static_cast<double>(high)).bits} << 16;
#endif
}

CUEKIT_HD inline void store4(half* target, float4 value) {  // (4)
  *reinterpret_cast<uint2*>(target) = {two_halves(value.x, value.y), two_halves(value.z, value.w)};
}

// sum + factor * value
__device__ inline float4 add4(float4 sum, float factor, float4 value) {
  return {fmaf(factor, value.x, sum.x), fmaf(factor, value.y, sum.y), fmaf(factor, value.z, sum.z),
          fmaf(factor, value.w, sum.w)};
}

}  // namespace cuekit::cuda
