// The functions that depend on the element type of an array (any_type.h).
#include "any_type.h"

#include "finite.h"

namespace cuekit::cpu {

template <class T, class To>
void read_values(const void* values, std::int64_t step, std::int64_t count, To* out) {
  const T* const source = static_cast<const T*>(values);
  if (step == 1)
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(load(source[i]));
  else
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(load(source[i * step]));
}

template <class T, class From>
void write_values(const From* source, std::int64_t step, std::int64_t count, void* values) {
  T* const target = static_cast<T*>(values);
  // For half the conversion takes so long that one loop will do.
  if (step == 1 && !std::is_same_v<T, half>)
    for (std::int64_t i = 0; i < count; ++i) target[i] = store<T>(static_cast<double>(source[i]));
  else
    for (std::int64_t i = 0; i < count; ++i)
      target[i] = store<T>(static_cast<double>(source[i * step]));
}

template <class T>
bool finite_values(const void* values, std::int64_t count) {
  if constexpr (std::is_integral_v<T>)
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
CUEKIT_READ(std::uint8_t)
#undef CUEKIT_READ

template void write_values<half>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<float>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<half>(const double*, std::int64_t, std::int64_t, void*);
template void write_values<float>(const double*, std::int64_t, std::int64_t, void*);
template void write_values<double>(const float*, std::int64_t, std::int64_t, void*);
template void write_values<double>(const double*, std::int64_t, std::int64_t, void*);

}  // namespace cuekit::cpu
