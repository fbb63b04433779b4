// Tests for non-finite values (NaN, infinity) with integer operations on their bits. Loops over
// them vectorise, and cost little because the values are in cache anyway.
#pragma once

#include "cuekit/half.h"
#include "simd.h"

namespace cuekit::cpu {

// NaN and infinity have an exponent of all ones: adding 1 to it carries into the sign bit. Returns
// a word whose highest bit is set if the value is not finite. Such words can be combined by OR.
template <class T>
CUEKIT_INLINE typename float_bits<T>::type nonfinite_bit(T value) {
  using Bits = typename float_bits<T>::type;
  constexpr int mantissa = float_bits<T>::mantissa;
  constexpr Bits exponent =
      static_cast<Bits>(static_cast<Bits>(static_cast<Bits>(~Bits{0}) << (mantissa + 1)) >> 1);
  constexpr Bits one = static_cast<Bits>(Bits{1} << mantissa);
  return static_cast<Bits>((bit_cast<Bits>(value) & exponent) + one);
}

// nonfinite_bit of all values, combined by OR.
template <class T>
CUEKIT_INLINE typename float_bits<T>::type nonfinite_bits(const T* values,  // (count)
                                                          std::int64_t count) {
  typename float_bits<T>::type seen = 0;
  for (std::int64_t i = 0; i < count; ++i) seen |= nonfinite_bit(values[i]);
  return seen;
}

template <class Bits>
CUEKIT_INLINE bool any_nonfinite(Bits seen) {
  return (seen >> (8 * sizeof(Bits) - 1)) != 0;
}

}  // namespace cuekit::cpu
