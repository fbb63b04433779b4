// Arrays whose element type is only known when a kernel runs. A kernel reads and writes some of
// their values at a time, through pointers to functions, and so is compiled once for all types.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/half.h"

namespace cuekit::cpu {

// These are compiled in any_type.cpp.

// out[i] = values[i * step], for `count` values of any type of maps. What is out of range becomes
// infinity.
template <class T, class To>
void read_values(const void* values, std::int64_t step, std::int64_t count, To* out);
// Whether all are finite; integers are.
template <class T>
bool finite_values(const void* values, std::int64_t count);
// values[i] = source[i * step], rounded once: from float to half, float or double, or from double
// to double.
template <class T, class From>
void write_values(const From* source, std::int64_t step, std::int64_t count, void* values);

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
  const void* get() const { return values_; }
  // Whether float32 holds every value of the type.
  bool exact_in_float() const { return exact_in_float_; }
  // The values, if they are of this type and so need no copy; else null. (A linker may fold equal
  // functions, and so make two types one that are read alike.)
  template <class T>
  const T* as() const {
    void (*const to_float)(const void*, std::int64_t, std::int64_t, float*) = read_values<T, float>;
    return to_float_ == to_float ? reinterpret_cast<const T*>(values_) : nullptr;
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

  // Writes values first, first + 1, ... from every `step`th of the source.
  void write(std::int64_t first, std::int64_t step, std::int64_t count, const Real* source) const {
    write_(source, step, count, values_ + first * size_);
  }
  bool finite(std::int64_t first, std::int64_t count) const {
    return finite_(values_ + first * size_, count);
  }

 private:
  char* values_;
  std::int64_t size_;  // of a value, in bytes
  void (*write_)(const Real*, std::int64_t, std::int64_t, void*);
  bool (*finite_)(const void*, std::int64_t);
};

}  // namespace cuekit::cpu
