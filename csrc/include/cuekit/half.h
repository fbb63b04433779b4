// float16 (IEEE 754 binary16) as a storage type, and the conversion of every type to float64 and
// back.
//
// Kernels compute in float64. float16 is read through float32, which holds each of its values
// exactly.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuekit/host_device.h"

#ifdef __CUDA_ARCH__
#include <cuda_fp16.h>
#endif

namespace cuekit {

struct half {
  std::uint16_t bits;
};

template <class To, class From>
CUEKIT_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

CUEKIT_HD inline float to_float(half h) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(h.bits));
#else
  const std::uint32_t sign = (h.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = h.bits & 0x7fffu;
  if (magnitude < 0x0400u) {  // zero and subnormals: a multiple of 2^-24, exact in float32
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  const std::uint32_t exponent_shift =
      magnitude >= 0x7c00u ? (255u - 31u) << 23 : (127u - 15u) << 23;
  return bit_cast<float>(sign | ((magnitude << 13) + exponent_shift));
#endif
}

// Round to nearest, ties to even. Directly from float64, because a step through float32 would round
// twice.
CUEKIT_HD inline half to_half(double value) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__double2half(value))};
#else
  const std::uint64_t bits = bit_cast<std::uint64_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 48) & 0x8000u);
  const std::uint64_t magnitude = bits & 0x7fffffffffffffffu;
  const double absolute = bit_cast<double>(magnitude);
  if (absolute != absolute) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (absolute >= 65520.0) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (absolute < 0x1p-14) {  // subnormal: adding 2^28 rounds to a multiple of 2^-24
    const double rounded = absolute + 0x1p28;
    return {static_cast<std::uint16_t>(sign | (bit_cast<std::uint64_t>(rounded) & 0x7ffu))};
  }
  const std::uint64_t even = (magnitude >> 42) & 1u;
  const std::uint64_t rounded = (magnitude + 0x1ffffffffffu + even) >> 42;
  return {static_cast<std::uint16_t>(sign | (rounded - ((1023u - 15u) << 10)))};
#endif
}

// Reads a value as float64. Stores a float64, rounded once.
template <class T>
CUEKIT_HD inline double load(T value) {
  return static_cast<double>(value);
}
template <>
CUEKIT_HD inline double load(half value) {
  return static_cast<double>(to_float(value));
}

template <class T>
CUEKIT_HD inline T store(double value) {
  return static_cast<T>(value);
}
template <>
CUEKIT_HD inline half store(double value) {
  return to_half(value);
}

// A bool in memory that other code has written: every byte but 0 is true.
struct flag {
  std::uint8_t byte;
};
template <>
CUEKIT_HD inline double load(flag value) {
  return value.byte != 0 ? 1.0 : 0.0;
}

// The unsigned integer of the same size, for tests on the bits of a floating type, and the number
// of mantissa bits.
template <class T>
struct float_bits;
template <>
struct float_bits<half> {
  using type = std::uint16_t;
  static constexpr int mantissa = 10;
};
template <>
struct float_bits<float> {
  using type = std::uint32_t;
  static constexpr int mantissa = 23;
};
template <>
struct float_bits<double> {
  using type = std::uint64_t;
  static constexpr int mantissa = 52;
};

}  // namespace cuekit
