// Eight values side by side, worked on as one: one pixel's values in eight channels.
//
// A vector type of the compiler where it has one, which is cut into whatever registers the target
// has; arrays and loops elsewhere. Loops over plain arrays would do, but compilers tend to keep
// such arrays in scalar registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuekit/half.h"
#include "simd.h"

namespace cuekit::cpu {

constexpr int lanes = 8;

#if defined(__GNUC__)

template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(lanes * sizeof(T))));
  Vector values;

  static CUEKIT_INLINE Lanes zero() { return {Vector{}}; }
  static CUEKIT_INLINE Lanes load(const T* from) {
    Lanes result;
    std::memcpy(&result.values, from, sizeof result.values);
    return result;
  }
  CUEKIT_INLINE void store(T* to) const { std::memcpy(to, &values, sizeof values); }

  friend CUEKIT_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.values + b.values}; }
  friend CUEKIT_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.values - b.values}; }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, T factor) { return {a.values * factor}; }
};

#else

template <class T>
struct Lanes {
  T values[lanes];

  static CUEKIT_INLINE Lanes zero() { return {}; }
  static CUEKIT_INLINE Lanes load(const T* from) {
    Lanes result;
    std::memcpy(result.values, from, sizeof result.values);
    return result;
  }
  CUEKIT_INLINE void store(T* to) const { std::memcpy(to, values, sizeof values); }

  friend CUEKIT_INLINE Lanes operator+(Lanes a, const Lanes& b) {
    for (int j = 0; j < lanes; ++j) a.values[j] += b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator-(Lanes a, const Lanes& b) {
    for (int j = 0; j < lanes; ++j) a.values[j] -= b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, T factor) {
    for (int j = 0; j < lanes; ++j) a.values[j] *= factor;
    return a;
  }
};

#endif

}  // namespace cuekit::cpu
