// The colours of some pixels in CIE L*a*b* (cuekit/rgb_to_lab.h), as three planes of float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cuekit/half.h"
#include "simd.h"

namespace cuekit::cpu {

// Pixels that are converted at a time, so that what is between the steps stays in L1.
constexpr std::int64_t lab_chunk = 256;

// linear(v) for the 256 values (256).
inline const std::vector<double>& linear_of_srgb() {
  static const std::vector<double> table = [] {
    std::vector<double> linear;
    for (int i = 0; i < 256; ++i) {
      const double value = i / 255.0;
      linear.push_back(value > 0.04045 ? std::pow((value + 0.055) / 1.055, 2.4) : value / 12.92);
    }
    return linear;
  }();
  return table;
}

// One step of Halley's method, which triples the number of correct digits.
template <class Real>
CUEKIT_INLINE Real closer_cube_root(Real root, Real value) {
  const Real cube = root * root * root;
  return root * (cube + (value + value)) / ((cube + cube) + value);
}

// f(t), t in [0, 1.1].
CUEKIT_INLINE double lab_root(double t) {
  // A third of the exponent: within 4 %. The steps leave 4e-5, float32's rounding, and float64's.
  const float narrow = static_cast<float>(t);
  const auto bits = static_cast<float>(bit_cast<std::int32_t>(narrow));
  const auto third = static_cast<std::int32_t>(bits * (1.0f / 3.0f)) + 709921077;
  const double root = closer_cube_root(closer_cube_root(bit_cast<float>(third), narrow), narrow);
  return t > 0.008856 ? closer_cube_root(root, t) : 7.787 * t + 16.0 / 116.0;
}

struct FindLab {
  static CUEKIT_INLINE void run(const std::uint8_t* image,  // (count, 3)
                                std::int64_t count,
                                const double* linear,  // (256)
                                std::int64_t pitch,
                                double* planes) {  // (3, pitch), count <= pitch
    double* __restrict const lightness = planes;
    double* __restrict const red = planes + pitch;
    double* __restrict const yellow = planes + 2 * pitch;
    double r[lab_chunk], g[lab_chunk], b[lab_chunk];
    for (std::int64_t begin = 0; begin < count; begin += lab_chunk) {
      const std::int64_t size = std::min(lab_chunk, count - begin);
      const std::uint8_t* const pixels = image + 3 * begin;
      for (std::int64_t i = 0; i < size; ++i) {
        r[i] = linear[pixels[3 * i]];
        g[i] = linear[pixels[3 * i + 1]];
        b[i] = linear[pixels[3 * i + 2]];
      }
      for (std::int64_t i = 0; i < size; ++i) {
        const double x = ((0.412453 * r[i] + 0.357580 * g[i]) + 0.180423 * b[i]) / 0.95047;
        const double y = (0.212671 * r[i] + 0.715160 * g[i]) + 0.072169 * b[i];
        const double z = ((0.019334 * r[i] + 0.119193 * g[i]) + 0.950227 * b[i]) / 1.08883;
        const double root_x = lab_root(x), root_y = lab_root(y), root_z = lab_root(z);
        lightness[begin + i] = 116.0 * root_y - 16.0;
        red[begin + i] = 500.0 * (root_x - root_y);
        yellow[begin + i] = 200.0 * (root_y - root_z);
      }
    }
  }
};

}  // namespace cuekit::cpu
