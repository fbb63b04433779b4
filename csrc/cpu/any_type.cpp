// The functions that depend on the element type of an array (any_type.h).
#include "any_type.h"

#include <algorithm>
#include <type_traits>

#include "finite.h"
#include "half_rows.h"

namespace cuekit::cpu {
namespace {

// The loop over contiguous values vectorises.
template <class From, class To>
void convert(const From* source, std::int64_t step, std::int64_t count, To* out) {
  if (step == 1)
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(load(source[i]));
  else
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(load(source[i * step]));
}

// The code that converts half is long: it stands in half_rows.cpp, for float32.
void convert(const half* source, std::int64_t step, std::int64_t count, float* out) {
  if (step == 1) return widen(source, count, out);
  for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(source[i * step]);
}
void convert(const half* source, std::int64_t step, std::int64_t count, double* out) {
  constexpr std::int64_t most = 64;
  float part[most];
  for (std::int64_t i = 0; i < count; i += most) {
    const std::int64_t size = std::min(most, count - i);
    convert(source + i * step, step, size, part);
    std::copy_n(part, size, out + i);
  }
}
void convert(const float* source, std::int64_t step, std::int64_t count, half* out) {
  if (step == 1) return narrow(source, count, out);
  for (std::int64_t i = 0; i < count; ++i) out[i] = to_half(static_cast<double>(source[i * step]));
}

}  // namespace

template <class T, class To>
void read_values(const void* values, std::int64_t step, std::int64_t count, To* out) {
  convert(static_cast<const T*>(values), step, count, out);
}

template <class T, class From>
void write_values(const From* source, std::int64_t step, std::int64_t count, void* values) {
  convert(source, step, count, static_cast<T*>(values));
}

template <class T>
bool finite_values(const void* values, std::int64_t count) {
  if constexpr (std::is_integral_v<T> || std::is_same_v<T, flag>)
    return true;
  else
    return !any_nonfinite(nonfinite_bits(static_cast<const T*>(values), count));
}

#define CUEKIT_READ(T)                                                                    \
  template void read_values<T, float>(const void*, std::int64_t, std::int64_t, float*);   \
  template void read_values<T, double>(const void*, std::int64_t, std::int64_t, double*); \
  template bool finite_values<T>(const void*, std::int64_t);
CUEKIT_READ(half)
CUEKIT_READ(float)
CUEKIT_READ(double)
CUEKIT_READ(flag)
CUEKIT_READ(std::uint8_t)
CUEKIT_READ(std::int8_t)
CUEKIT_READ(std::uint16_t)
CUEKIT_READ(std::int16_t)
CUEKIT_READ(std::uint32_t)
CUEKIT_READ(std::int32_t)
CUEKIT_READ(std::uint64_t)
CUEKIT_READ(std::int64_t)
#undef CUEKIT_READ

template void write_values<half>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<float>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<double>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<double>(const double*, std::int64_t, std::int64_t, void*);

}  // namespace cuekit::cpu
