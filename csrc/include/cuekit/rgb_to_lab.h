// sRGB to CIE L*a*b* (IEC 61966-2-1; white D65 of the 2 degree observer), as scikit-image 0.26.
//
//   image (N, 3) uint8 -> out (N, 3)
//
//   v = value / 255;  linear(v) = ((v + 0.055) / 1.055)^2.4, or v / 12.92 where v <= 0.04045
//   (X, Y, Z) = M linear(R, G, B), each divided by that of the white
//   f(t) = t^(1/3), or 7.787 t + 16 / 116 where t <= 0.008856
//   L = 116 f(Y) - 16,  a = 500 (f(X) - f(Y)),  b = 200 (f(Y) - f(Z))
//
// Computed in float64. The cube root is three of Halley's steps after an estimate from the
// exponent, and is good to some units in the last place.
//
// Public function: cuekit.rgb_to_lab.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct RgbToLabParams {
  std::int64_t pixels;  // N
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is float or double.
template <class T>
void rgb_to_lab(const std::uint8_t* image,  // (N, 3)
                T* out,                     // (N, 3)
                const RgbToLabParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
