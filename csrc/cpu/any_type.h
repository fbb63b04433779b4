// Arrays whose element type is only known when a kernel runs. A kernel reads and writes some of
// their values at a time, through pointers to functions, and so is compiled once for all types.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/half.h"

namespace cuekit::cpu {

// These are compiled in any_type.cpp: reading for all types of maps, writing for floating ones.

// out[i] = values[i * step], for `count` values.
template <class T, class To>
void read_values(const void* values, std::int64_t step, std::int64_t count, To* out);
// values[i] = source[i], rounded once.
template <class T, class From>
void write_values(const From* source, std::int64_t count, void* values);
template <class T>
bool finite_values(const void* values, std::int64_t count);

// An array that is read.
class Source {
 public:
  template <class T>
  explicit Source(const T* values)
      : values_(reinterpret_cast<const char*>(values)),
        size_(sizeof(T)),
        exact_in_float_(sizeof(T) <= 2 || std::is_same_v<T, float>),
        to_float_(read_values<T, float>),
        to_double_(read_values<T, double>),
        finite_(finite_values<T>) {}

  // The array from another value on.
  Source from(std::int64_t first) const {
    Source other = *this;
    other.values_ += first * size_;
    return other;
  }

  // Whether float32 holds every value of the type.
  bool exact_in_float() const { return exact_in_float_; }
  // The array, or null if its type is not To, which is float or double.
  template <class To>
  const To* as() const {
    void (*const read)(const void*, std::int64_t, std::int64_t, float*) = read_values<To, float>;
    return to_float_ == read ? reinterpret_cast<const To*>(values_) : nullptr;
  }

  // Reads values first, first + step, ...
  void read(std::int64_t first, std::int64_t step, std::int64_t count, float* out) const {
    to_float_(values_ + first * size_, step, count, out);
  }
  void read(std::int64_t first, std::int64_t step, std::int64_t count, double* out) const {
    to_double_(values_ + first * size_, step, count, out);
  }
  bool finite(std::int64_t first, std::int64_t count) const {
    return finite_(values_ + first * size_, count);
  }

 private:
  const char* values_;
  std::int64_t size_;  // of a value, in bytes
  bool exact_in_float_;
  void (*to_float_)(const void*, std::int64_t, std::int64_t, float*);
  void (*to_double_)(const void*, std::int64_t, std::int64_t, double*);
  bool (*finite_)(const void*, std::int64_t);
};

// An array that is written with values of type Real.
template <class Real>
class Target {
 public:
  template <class T>
  explicit Target(T* values)
      : values_(reinterpret_cast<char*>(values)),
        size_(sizeof(T)),
        write_(write_values<T, Real>),
        finite_(finite_values<T>) {}

  Target from(std::int64_t first) const {
    Target other = *this;
    other.values_ += first * size_;
    return other;
  }

  void write(const Real* source, std::int64_t first, std::int64_t count) const {
    write_(source, count, values_ + first * size_);
  }
  bool finite(std::int64_t first, std::int64_t count) const {
    return finite_(values_ + first * size_, count);
  }

 private:
  char* values_;
  std::int64_t size_;  // of a value, in bytes
  void (*write_)(const Real*, std::int64_t, void*);
  bool (*finite_)(const void*, std::int64_t);
};

}  // namespace cuekit::cpu
