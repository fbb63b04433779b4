#include "half_rows.h"

#include "simd.h"

namespace cuekit::cpu {
namespace {

struct Widen {
  static CUEKIT_INLINE void run(const half* source,  // (count)
                                std::int64_t count,
                                float* target) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) target[i] = to_float(source[i]);
  }
};

struct Narrow {
  template <class T>
  static CUEKIT_INLINE void run(const T* source,  // (count)
                                std::int64_t count,
                                half* target) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) target[i] = to_half(source[i]);
  }
};

}  // namespace

void widen(const half* source, std::int64_t count, float* target) {
  dispatch<Widen>(source, count, target);
}

void narrow(const float* source, std::int64_t count, half* target) {
  dispatch<Narrow>(source, count, target);
}

void narrow(const double* source, std::int64_t count, half* target) {
  dispatch<Narrow>(source, count, target);
}

}  // namespace cuekit::cpu
