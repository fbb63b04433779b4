// The bilateral filter: sums over the pixels that are close and of a similar colour, for maps of
// any number of channels.
//
//   values (B, K, H, W), photos (B, H, W, 3) -> out (B, K, H, W)
//
//   out_k(i) = c(i) sum_j e(i, j) values_k(j),   e(i, j) = exp(-|f(i) - f(j)|^2 / 2)
//   f = ((x, y) / sxy, (r, g, b) / srgb)
//   c(i) = 1, or with `normalize` 1 / sum_j e(i, j): then a constant map stays what it is
//
// The sums include j = i. They are computed on the permutohedral lattice (simplex.h), which
// approximates e by the matrix e' = S^T B_5 ... B_0 S: S adds values to vertices, B_a blurs along
// axis a. Each B_a is symmetric, but where vertices lack neighbours the B_a do not commute, so e'
// is not quite symmetric. `adjoint`: the transposed matrix, S^T B_0 ... B_5 S c.
//
// Public function: cuekit.bilateral_filter.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/context.h"
#include "cuekit/half.h"

namespace cuekit {

// Sums over a photo leave float16's range.
template <class T>
using filtered_type = std::conditional_t<std::is_same_v<T, half>, float, T>;

// Magnitudes of values are below it. So sums over the 2^28 pixels of the largest photo, which the
// six blurs make up to 2^6 times as large, fit in float32. cuekit/bilateral_filter.py has the same
// number.
constexpr double largest_filtered_value = 1e28;

struct BilateralFilterParams {
  std::int64_t batch, channels;  // B, K
  std::int64_t height, width;
  float sxy, srgb;
  bool normalize, adjoint;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// The CPU computes double in double, a GPU everything in float. Returns false for values that are
// not finite or too large; a GPU does not check.
//
// Throws std::invalid_argument where sxy or srgb are too small for the size of the photos.
template <class T>
bool bilateral_filter(const T* values,             // (B, K, H, W)
                      const std::uint8_t* photos,  // (B, H, W, 3)
                      filtered_type<T>* out,       // (B, K, H, W)
                      const BilateralFilterParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
