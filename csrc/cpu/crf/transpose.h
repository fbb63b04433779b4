// Between maps, one row of pixels per channel, and rows of channels, one per pixel.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu {

#if CUEKIT_SSE2
// Four rows of four floats become four columns. Rows begin `source_step` apart, columns
// `target_step`.
CUEKIT_INLINE void transpose_4x4(const float* source, std::int64_t source_step, float* target,
                                 std::int64_t target_step) {
  __m128 a = _mm_loadu_ps(source), b = _mm_loadu_ps(source + source_step);
  __m128 c = _mm_loadu_ps(source + 2 * source_step), d = _mm_loadu_ps(source + 3 * source_step);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(target, a);
  _mm_storeu_ps(target + target_step, b);
  _mm_storeu_ps(target + 2 * target_step, c);
  _mm_storeu_ps(target + 3 * target_step, d);
}
#endif

// target[x, k] = source[k, x] for `rows` rows k of `columns` columns x, which begin `source_step`
// and `target_step` apart.
template <class From, class To>
void transpose(const From* source, std::int64_t source_step, std::int64_t rows,
               std::int64_t columns, To* target, std::int64_t target_step) {
  std::int64_t k = 0;
#if CUEKIT_SSE2
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float>) {
    const std::int64_t fours = columns / 4 * 4;
    for (; k + 4 <= rows; k += 4) {
      const float* const from = source + k * source_step;
      for (std::int64_t x = 0; x < fours; x += 4)
        transpose_4x4(from + x, source_step, target + x * target_step + k, target_step);
      for (std::int64_t x = fours; x < columns; ++x)
        for (std::int64_t j = 0; j < 4; ++j)
          target[x * target_step + k + j] = from[j * source_step + x];
    }
  }
#endif
  for (; k < rows; ++k)
    for (std::int64_t x = 0; x < columns; ++x)
      target[x * target_step + k] = static_cast<To>(load(source[k * source_step + x]));
}

}  // namespace cuekit::cpu
