// Exponential and logarithm to base 2 in float32. They use basic operations only, so loops over
// them vectorise and give the same bits on every processor.
#pragma once

#include <cstdint>

#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu {

// 2^x for x <= 126, within 2 units in the last place. x below -125 counts as -125.
CUEKIT_INLINE float exp2_of(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: after adding it, the low bits are an integer
  x = x < -125.0f ? -125.0f : x;
  const float shifted = x + round;
  const float fraction = x - (shifted - round);
  // Minimax polynomial for [-1/2, 1/2], relative error 9.2e-8, exact at 0.
  float p = 1.326472731307149e-3f;
  p = p * fraction + 9.671512991189957e-3f;
  p = p * fraction + 5.550733581185341e-2f;
  p = p * fraction + 2.4022242426872253e-1f;
  p = p * fraction + 6.931470036506653e-1f;
  p = p * fraction + 1.0f;
  const std::uint32_t exponent = bit_cast<std::uint32_t>(shifted) << 23;
  return bit_cast<float>(bit_cast<std::uint32_t>(p) + exponent);
}

// The same for each lane of a vector. Written with vectors, because the compiler works on a
// vector's values one by one if they are copied to an array for a loop.
template <class V>
CUEKIT_INLINE V exp2_of_each(V x) {
  const V round = V::all(12582912.0f);
  x = larger(x, V::all(-125.0f));
  const V shifted = x + round;
  const V fraction = x - (shifted - round);
  V p = V::all(1.326472731307149e-3f);
  p = p * fraction + V::all(9.671512991189957e-3f);
  p = p * fraction + V::all(5.550733581185341e-2f);
  p = p * fraction + V::all(2.4022242426872253e-1f);
  p = p * fraction + V::all(6.931470036506653e-1f);
  p = p * fraction + V::all(1.0f);
  return p.with_exponents_of(shifted);
}

// Binary logarithm of a positive normal number, with the polynomial of Cephes (Moshier 1992).
CUEKIT_INLINE float log2_of(float value) {
  constexpr std::int32_t root_half = 0x3f3504f3;  // bits of sqrt(1/2)
  const std::int32_t bits = bit_cast<std::int32_t>(value) - root_half;
  const float x = bit_cast<float>((bits & 0x7fffff) + root_half) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float square = x * x;
  const float natural = x + (p * x * square - 0.5f * square);
  return natural * 1.44269504f + static_cast<float>(bits >> 23);
}

}  // namespace cuekit::cpu
