// How the values of all classes at one pixel or lattice node are stored and held in registers.
//
// They are side by side in memory, in a row of `stride` values: the number of classes rounded up to
// whole vectors. The padding takes part in all arithmetic, as classes of probability 0. A row is
// worked on in groups of classes that fit in registers: one group for up to 32 classes, groups of
// 16 for more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/lanes.h"

namespace cuekit::cpu {

// The values of one group of classes, in `parts` vectors.
template <class V, int parts>
struct ClassVector {
  using Vector = V;
  using Value = typename V::Value;
  static constexpr std::int64_t size = std::int64_t{parts} * V::size;
  V part[parts];

  static CUEKIT_INLINE ClassVector zero() {
    ClassVector result;
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) result.part[j] = V::zero();
    return result;
  }
  static CUEKIT_INLINE V all(Value value) { return V::all(value); }
  static CUEKIT_INLINE ClassVector load(const Value* source) {  // (size)
    ClassVector result;
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) result.part[j] = V::load(source + j * V::size);
    return result;
  }
  CUEKIT_INLINE void store(Value* target) const {  // (size)
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j].store(target + j * V::size);
  }
  CUEKIT_INLINE void add(const ClassVector& other) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] + other.part[j];
  }
  CUEKIT_INLINE void add(const ClassVector& other, Value factor) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] + other.part[j] * factor;
  }
  CUEKIT_INLINE void add_product(const ClassVector& a, const ClassVector& b) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] + a.part[j] * b.part[j];
  }
  CUEKIT_INLINE void subtract(V shift) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] - shift;
  }
  CUEKIT_INLINE void multiply(Value factor) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] * factor;
  }
  CUEKIT_INLINE void multiply_all(V factor) {
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = part[j] * factor;
  }
  CUEKIT_INLINE void raise_to(const ClassVector& other) {  // the larger of both, element-wise
    CUEKIT_UNROLL
    for (int j = 0; j < parts; ++j) part[j] = larger(part[j], other.part[j]);
  }
};

CUEKIT_INLINE float max_of(Lanes<float, 4> v) {
  float a[4];
  v.store(a);
  return std::max(std::max(a[0], a[2]), std::max(a[1], a[3]));
}
CUEKIT_INLINE void split(Lanes<float, 8> v, Lanes<float, 4>* low, Lanes<float, 4>* high) {
  std::memcpy(low, &v, sizeof *low);
  std::memcpy(high, reinterpret_cast<const char*>(&v) + sizeof *low, sizeof *high);
}

// The sum over all classes, up to its last four summands. The order of additions is that of vectors
// of eight, whatever the width of V, so that all instruction sets give the same bits. (A row of
// four classes is one vector of four everywhere.)
template <int parts>
CUEKIT_INLINE Lanes<float, 4> four_sums(const ClassVector<Lanes<float, 4>, parts>& x) {
  Lanes<float, 4> low = x.part[0];
  if (parts == 1) return low;
  Lanes<float, 4> high = x.part[1 % parts];
  for (int j = 2; j < parts; j += 2) {
    low = low + x.part[j];
    high = high + x.part[j + 1];
  }
  return low + high;
}
template <int parts>
CUEKIT_INLINE Lanes<float, 4> four_sums(const ClassVector<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = all + x.part[j];
  Lanes<float, 4> low, high;
  split(all, &low, &high);
  return low + high;
}

template <int parts>
CUEKIT_INLINE float max_of(const ClassVector<Lanes<float, 4>, parts>& x) {
  Lanes<float, 4> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  return max_of(all);
}
template <int parts>
CUEKIT_INLINE float max_of(const ClassVector<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  Lanes<float, 4> low, high;
  split(all, &low, &high);
  return max_of(larger(low, high));
}

// In every group of four lanes, the largest of their values or the sum of them, in all four.
template <class V>
CUEKIT_INLINE V largest_of_fours(V v) {
  v = larger(v, v.template swapped<2>());
  return larger(v, v.template swapped<1>());
}
template <class V>
CUEKIT_INLINE V sums_of_fours(V v) {
  v = v + v.template swapped<2>();
  return v + v.template swapped<1>();
}
// The same over all classes of a point, in all lanes. The order of additions is that of four_sums()
// and of mean_field.cpp.
template <int parts>
CUEKIT_INLINE Lanes<float, 4> largest_of(const ClassVector<Lanes<float, 4>, parts>& x) {
  Lanes<float, 4> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  return largest_of_fours(all);
}
template <int parts>
CUEKIT_INLINE Lanes<float, 8> largest_of(const ClassVector<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  return largest_of_fours(larger(all, all.template swapped<4>()));
}
template <int parts>
CUEKIT_INLINE Lanes<float, 4> sum_of(const ClassVector<Lanes<float, 4>, parts>& x) {
  return sums_of_fours(four_sums(x));
}
template <int parts>
CUEKIT_INLINE Lanes<float, 8> sum_of(const ClassVector<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  CUEKIT_UNROLL
  for (int j = 1; j < parts; ++j) all = all + x.part[j];
  return sums_of_fours(all + all.template swapped<4>());
}

// A group of 8 * eights classes, or of 4 for eights = 0; `many`: a row has more than one of them.
template <int eights, bool many_>
struct ClassGroup {
  static constexpr bool many = many_;
  // In vectors of the baseline's 4 floats, and of 8 where the processor has them. (16 would not
  // be faster.) Vectors of 4 or 8 doubles take two registers each.
  static constexpr int fours = eights == 0 ? 1 : 2 * eights;
  static constexpr int wides = eights == 0 ? 1 : eights;
  template <class T>
  using FourOf = Lanes<T, 4>;
  template <class T>
  using WideOf = Lanes<T, eights == 0 ? 4 : 8>;
  using Four = FourOf<float>;
  using Wide = WideOf<float>;
  static constexpr std::int64_t size = 4 * fours;
};

// body(ClassGroup) for the group that a number of classes is divided into.
template <class Body>
auto with_class_group(std::int64_t classes, Body&& body) {
  if (classes <= 4) return body(ClassGroup<0, false>{});
  if (classes <= 8) return body(ClassGroup<1, false>{});
  if (classes <= 16) return body(ClassGroup<2, false>{});
  if (classes <= 24) return body(ClassGroup<3, false>{});
  if (classes <= 32) return body(ClassGroup<4, false>{});
  return body(ClassGroup<2, true>{});
}

// The length of a row for so many classes.
inline std::int64_t class_stride(std::int64_t classes) {
  return with_class_group(classes, [=](auto group) {
    constexpr std::int64_t size = decltype(group)::size;
    return (classes + size - 1) / size * size;
  });
}

}  // namespace cuekit::cpu
