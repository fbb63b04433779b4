// Lanes<T, n>: a SIMD vector of n values with element-wise arithmetic.
//
// It is the compiler's vector type (GCC, Clang), which the compiler splits into the registers that
// the target has, or an array with loops over it (other compilers). GCC and Clang get no arrays
// because they tend to keep small arrays in scalar registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuekit/half.h"
#include "simd.h"

namespace cuekit::cpu {

// Kernels for many channels take them in blocks: a pixel's values in 8 channels are side by side.
constexpr int channels_per_block = 8;

#if defined(__GNUC__)

template <class T, int count = channels_per_block>
struct Lanes {
  typedef T Vector __attribute__((vector_size(count * sizeof(T))));
  using Value = T;
  static constexpr int size = count;
  Vector values;

  static CUEKIT_INLINE Lanes zero() { return {Vector{}}; }
  static CUEKIT_INLINE Lanes all(T value) { return {Vector{} + value}; }
  static CUEKIT_INLINE Lanes load(const T* source) {  // (count)
    Lanes result;
    std::memcpy(&result.values, source, sizeof result.values);
    return result;
  }
  // Values of a narrower type, or of T.
  template <class Narrow>
  static CUEKIT_INLINE Lanes widen(const Narrow* source) {  // (count)
    typedef Narrow NarrowVector __attribute__((vector_size(count * sizeof(Narrow))));
    NarrowVector narrow;
    std::memcpy(&narrow, source, sizeof narrow);
    return {__builtin_convertvector(narrow, Vector)};
  }
  CUEKIT_INLINE void store(T* target) const { std::memcpy(target, &values, sizeof values); }
  // Stores past the caches (stream_16). `target` is aligned to 16 bytes.
  CUEKIT_INLINE void stream(T* target) const {  // (count)
    constexpr int step = 16 / static_cast<int>(sizeof(T));
    const auto* source = reinterpret_cast<const T*>(&values);
    for (int j = 0; j < count; j += step) stream_16(source + j, target + j);
  }

  // Values with the sign bit and values without it, each with 0 in place of the other kind. Integer
  // operations, because GCC compiles a comparison of vectors wider than a register value by value.
  CUEKIT_INLINE void split_by_sign(Lanes* negative, Lanes* positive) const {
    using Bits = typename float_bits<T>::type;
    typedef Bits Mask __attribute__((vector_size(count * sizeof(T))));
    const auto bits = reinterpret_cast<Mask>(values);
    const Mask sign = bits >> (8 * sizeof(T) - 1);
    negative->values = reinterpret_cast<Vector>(bits & (0 - sign));
    positive->values = reinterpret_cast<Vector>(bits & (sign - 1));
  }

  // Adds the low bits of another float32 to the exponent (exp2_of()).
  CUEKIT_INLINE Lanes with_exponents_of(Lanes other) const {
    typedef std::uint32_t Bits __attribute__((vector_size(count * sizeof(T))));
    return {reinterpret_cast<Vector>(reinterpret_cast<Bits>(values) +
                                     (reinterpret_cast<Bits>(other.values) << 23))};
  }
  // Value j is that of a at j ^ distance: of a neighbour, of the neighbouring pair, and so on.
  template <int distance>
  CUEKIT_INLINE Lanes swapped() const {
#if defined(__clang__)
    Lanes result;
    for (int j = 0; j < count; ++j) result.values[j] = values[j ^ distance];
    return result;
#else
    using Bits = typename float_bits<T>::type;
    typedef Bits Order __attribute__((vector_size(count * sizeof(T))));
    Order order;
    for (int j = 0; j < count; ++j) order[j] = static_cast<Bits>(j ^ distance);
    return {__builtin_shuffle(values, order)};
#endif
  }

  friend CUEKIT_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.values + b.values}; }
  friend CUEKIT_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.values - b.values}; }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, Lanes b) { return {a.values * b.values}; }
  friend CUEKIT_INLINE Lanes operator/(Lanes a, Lanes b) { return {a.values / b.values}; }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, T factor) { return {a.values * factor}; }
  // What follows compares, so it is for vectors no wider than a register, for the same reason.
  // a where a < b, else b
  friend CUEKIT_INLINE Lanes smaller(Lanes a, Lanes b) {
    return {a.values < b.values ? a.values : b.values};
  }
  // b where a < b, else a
  friend CUEKIT_INLINE Lanes larger(Lanes a, Lanes b) {
    return {a.values < b.values ? b.values : a.values};
  }
  // `yes` where a < b, else `no`
  friend CUEKIT_INLINE Lanes if_less(Lanes a, Lanes b, Lanes yes, Lanes no) {
    return {a.values < b.values ? yes.values : no.values};
  }
  // `yes` where a == b, else `no`
  friend CUEKIT_INLINE Lanes if_equal(Lanes a, Lanes b, Lanes yes, Lanes no) {
    return {a.values == b.values ? yes.values : no.values};
  }
};

#else

template <class T, int count = channels_per_block>
struct Lanes {
  using Value = T;
  static constexpr int size = count;
  T values[count];

  static CUEKIT_INLINE Lanes zero() { return {}; }
  static CUEKIT_INLINE Lanes all(T value) {
    Lanes result;
    for (int j = 0; j < count; ++j) result.values[j] = value;
    return result;
  }
  static CUEKIT_INLINE Lanes load(const T* source) {
    Lanes result;
    std::memcpy(result.values, source, sizeof result.values);
    return result;
  }
  template <class Narrow>
  static CUEKIT_INLINE Lanes widen(const Narrow* source) {
    Lanes result;
    for (int j = 0; j < count; ++j) result.values[j] = static_cast<T>(source[j]);
    return result;
  }
  CUEKIT_INLINE void store(T* target) const { std::memcpy(target, values, sizeof values); }
  CUEKIT_INLINE void stream(T* target) const {
    constexpr int step = 16 / static_cast<int>(sizeof(T));
    for (int j = 0; j < count; j += step) stream_16(values + j, target + j);
  }

  CUEKIT_INLINE void split_by_sign(Lanes* negative, Lanes* positive) const {
    for (int j = 0; j < count; ++j) {
      negative->values[j] = values[j] < T{0} ? values[j] : T{0};
      positive->values[j] = values[j] < T{0} ? T{0} : values[j];
    }
  }

  CUEKIT_INLINE Lanes with_exponents_of(const Lanes& other) const {
    Lanes result;
    for (int j = 0; j < count; ++j)
      result.values[j] = bit_cast<T>(bit_cast<std::uint32_t>(values[j]) +
                                     (bit_cast<std::uint32_t>(other.values[j]) << 23));
    return result;
  }
  template <int distance>
  CUEKIT_INLINE Lanes swapped() const {
    Lanes result;
    for (int j = 0; j < count; ++j) result.values[j] = values[j ^ distance];
    return result;
  }

  friend CUEKIT_INLINE Lanes operator+(Lanes a, const Lanes& b) {
    for (int j = 0; j < count; ++j) a.values[j] += b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator-(Lanes a, const Lanes& b) {
    for (int j = 0; j < count; ++j) a.values[j] -= b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, const Lanes& b) {
    for (int j = 0; j < count; ++j) a.values[j] *= b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator/(Lanes a, const Lanes& b) {
    for (int j = 0; j < count; ++j) a.values[j] /= b.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes operator*(Lanes a, T factor) {
    for (int j = 0; j < count; ++j) a.values[j] *= factor;
    return a;
  }
  friend CUEKIT_INLINE Lanes smaller(const Lanes& a, Lanes b) {
    for (int j = 0; j < count; ++j)
      b.values[j] = a.values[j] < b.values[j] ? a.values[j] : b.values[j];
    return b;
  }
  friend CUEKIT_INLINE Lanes larger(Lanes a, const Lanes& b) {
    for (int j = 0; j < count; ++j)
      a.values[j] = a.values[j] < b.values[j] ? b.values[j] : a.values[j];
    return a;
  }
  friend CUEKIT_INLINE Lanes if_less(const Lanes& a, const Lanes& b, const Lanes& yes, Lanes no) {
    for (int j = 0; j < count; ++j)
      if (a.values[j] < b.values[j]) no.values[j] = yes.values[j];
    return no;
  }
  friend CUEKIT_INLINE Lanes if_equal(const Lanes& a, const Lanes& b, const Lanes& yes, Lanes no) {
    for (int j = 0; j < count; ++j)
      if (a.values[j] == b.values[j]) no.values[j] = yes.values[j];
    return no;
  }
};

#endif

}  // namespace cuekit::cpu
