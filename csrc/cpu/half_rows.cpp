// The loops of half_rows.h.
#include "half_rows.h"

#include <algorithm>

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
  static CUEKIT_INLINE void run(const double* source,  // (count)
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
  constexpr std::int64_t block = 512;
  double wide[block];
  for (std::int64_t i = 0; i < count; i += block) {
    const std::int64_t size = std::min(block, count - i);
    std::copy_n(source + i, size, wide);
    narrow(wide, size, target + i);
  }
}

void narrow(const double* source, std::int64_t count, half* target) {
  dispatch<Narrow>(source, count, target);
}

}  // namespace cuekit::cpu
