// The exponential function of what is not positive, for weights.
#pragma once

#include <cstdint>

#include "cuekit/half.h"
#include "cuekit/host_device.h"

namespace cuekit {

// e^x for x <= 0, within some units in the last place; 0 below 1e-30, so that results have no
// denormals. Basic operations only: loops over it vectorise, and every processor gives the same
// bits. x = power * ln 2 + r, with ln 2 in two parts, and e^r is Taylor's series.
CUEKIT_HD inline float softmax_exp(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: the low bits of a sum are an integer
  const float clamped = x > -69.0f ? x : -69.0f;
  const float shifted = clamped * 1.44269504f + round;
  const float power = shifted - round;
  const float r = (clamped - power * 0.693359375f) + power * 2.12194440e-4f;
  float e = 1.0f / 5040.0f;  // the next term is below 2^-27
  e = e * r + 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const std::uint32_t bits = bit_cast<std::uint32_t>(e) + (bit_cast<std::uint32_t>(shifted) << 23);
  return x > -69.0f ? bit_cast<float>(bits) : 0.0f;
}
CUEKIT_HD inline double softmax_exp(double x) {
  constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  const double clamped = x > -69.0 ? x : -69.0;
  const double shifted = clamped * 1.4426950408889634 + round;
  const double power = shifted - round;
  const double r =
      (clamped - power * 6.93147180369123816490e-01) - power * 1.90821492927058770002e-10;
  double e = 1.0 / 479001600.0;  // the next term is below 2^-52
  e = e * r + 1.0 / 39916800.0;
  e = e * r + 1.0 / 3628800.0;
  e = e * r + 1.0 / 362880.0;
  e = e * r + 1.0 / 40320.0;
  e = e * r + 1.0 / 5040.0;
  e = e * r + 1.0 / 720.0;
  e = e * r + 1.0 / 120.0;
  e = e * r + 1.0 / 24.0;
  e = e * r + 1.0 / 6.0;
  e = e * r + 0.5;
  e = e * r + 1.0;
  e = e * r + 1.0;
  const std::uint64_t bits = bit_cast<std::uint64_t>(e) + (bit_cast<std::uint64_t>(shifted) << 52);
  return x > -69.0 ? bit_cast<double>(bits) : 0.0;
}

}  // namespace cuekit
