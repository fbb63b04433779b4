// The loops of lab.h.
#include "lab.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuekit/half.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// linear(v) for the 256 values (256).
const std::vector<double>& linear_of_srgb() {
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
                                double* planes) {  // (3, pitch)
    double* __restrict const lightness = planes;
    double* __restrict const red = planes + pitch;
    double* __restrict const yellow = planes + 2 * pitch;
    double xyz[3][lab_chunk];
    for (std::int64_t begin = 0; begin < count; begin += lab_chunk) {
      const std::int64_t size = std::min(lab_chunk, count - begin);
      const std::uint8_t* const pixels = image + 3 * begin;
      for (std::int64_t i = 0; i < size; ++i)
        for (int j = 0; j < 3; ++j) xyz[j][i] = linear[pixels[3 * i + j]];
      // Whole vectors: the loops need no part for the last few pixels.
      const std::int64_t padded = (size + 7) & ~std::int64_t{7};
      for (auto& values : xyz) std::fill(values + size, values + padded, 0.0);
      for (std::int64_t i = 0; i < padded; ++i) {
        const double r = xyz[0][i], g = xyz[1][i], b = xyz[2][i];
        xyz[0][i] = ((0.412453 * r + 0.357580 * g) + 0.180423 * b) / 0.95047;
        xyz[1][i] = (0.212671 * r + 0.715160 * g) + 0.072169 * b;
        xyz[2][i] = ((0.019334 * r + 0.119193 * g) + 0.950227 * b) / 1.08883;
      }
      for (auto& values : xyz)
        for (std::int64_t i = 0; i < padded; ++i) values[i] = lab_root(values[i]);
      for (std::int64_t i = 0; i < size; ++i) {
        lightness[begin + i] = 116.0 * xyz[1][i] - 16.0;
        red[begin + i] = 500.0 * (xyz[0][i] - xyz[1][i]);
        yellow[begin + i] = 200.0 * (xyz[1][i] - xyz[2][i]);
      }
    }
  }
};

}  // namespace

void find_lab(const std::uint8_t* image, std::int64_t count, std::int64_t pitch, double* planes) {
  dispatch<FindLab>(image, count, linear_of_srgb().data(), pitch, planes);
}

}  // namespace cuekit::cpu
