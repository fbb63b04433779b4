// Prediction-ceiling suppression: absent classes never have the largest score (Sun et al.,
// arXiv 1904.01749, on testing with the prediction).
//
//   scores (B, K, N), present (B, K - 1) -> out (B, K, N), channel 0 = background
//   c(n)          = max over k in {0} + present of scores(k, n)
//   out(k, n)     = scores(k, n)                                          for k in {0} + present
//   out(k, n)     = min(scores(k, n), c(n) - margin, next value below c(n))         for absent k
//
// Everything is computed in the scores' type T. The next value below c keeps absent classes out of
// the arg max even where c - margin rounds to c.
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/half.h"

namespace cuekit {

struct SuppressParams {
  std::int64_t batch;
  std::int64_t channels;  // K, background included
  std::int64_t pixels;    // N
  double margin;
};

// The next representable value towards -infinity, for finite values.
template <class T>
CUEKIT_HD inline T next_below(T value) {
  using Bits = typename float_bits<T>::type;
  constexpr Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const Bits bits = bit_cast<Bits>(value);
  const bool zero = static_cast<Bits>(bits & static_cast<Bits>(~sign)) == 0;
  const Bits moved = static_cast<Bits>((bits & sign) != 0 ? bits + 1 : bits - 1);
  return bit_cast<T>(zero ? static_cast<Bits>(sign | 1) : moved);
}

template <class T>
CUEKIT_HD inline T minus_margin(T value, T margin) {
  return value - margin;
}
template <>
CUEKIT_HD inline half minus_margin(half value, half margin) {
  return to_half(static_cast<double>(to_float(value) - to_float(margin)));
}

template <class T>
CUEKIT_HD inline bool less(T a, T b) {
  return a < b;
}
template <>
CUEKIT_HD inline bool less(half a, half b) {
  return to_float(a) < to_float(b);
}

// The largest value that an absent class may have: min(c - margin, next value below c).
template <class T>
CUEKIT_HD inline T ceiling_below(T ceiling, T margin) {
  const T lowered = minus_margin(ceiling, margin);
  const T below = next_below(ceiling);
  return less(below, lowered) ? below : lowered;
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// Returns false if a score is not finite; a GPU does not check.
template <class T>
bool suppress(const T* scores,              // (B, K, N)
              const std::uint8_t* present,  // (B, K - 1), nonzero = present
              T* out,                       // (B, K, N)
              const SuppressParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
