#include "edge_costs.h"

#include <cmath>

#include "cpu/simd.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

// Sums in the order in which NumPy sums along the last axis, which scikit-image does for many
// channels: in sequence below 8 values, in 8 partial sums up to 128, by halves above.
template <class Value>
double sum_as_numpy(const Value& value, std::int64_t begin, std::int64_t count) {
  if (count > 128) {
    const std::int64_t half_count = count / 2 - count / 2 % 8;
    return sum_as_numpy(value, begin, half_count) +
           sum_as_numpy(value, begin + half_count, count - half_count);
  }
  double sum = 0.0;
  std::int64_t i = 0;
  if (count >= 8) {
    double partial[8] = {};
    for (; i < count - count % 8; ++i) partial[i % 8] += value(begin + i);
    sum = ((partial[0] + partial[1]) + (partial[2] + partial[3])) +
          ((partial[4] + partial[5]) + (partial[6] + partial[7]));
  }
  for (; i < count; ++i) sum += value(begin + i);
  return sum;
}

struct MeasureCosts {
  static CUEKIT_INLINE void run(const double* first,   // (C, stride)
                                const double* second,  // (C, stride)
                                std::int64_t channels, std::int64_t stride, std::int64_t count,
                                double* costs,                 // (count)
                                float* __restrict rounded,     // (count)
                                Bucket* __restrict buckets) {  // (count)
    if (channels == 1) {
      distances<1>(first, second, stride, count, costs);
    } else if (channels == 3) {
      distances<3>(first, second, stride, count, costs);
    } else {
      for (std::int64_t x = 0; x < count; ++x) {
        const auto square = [&](std::int64_t c) {
          const double difference = first[c * stride + x] - second[c * stride + x];
          return difference * difference;
        };
        costs[x] = std::sqrt(sum_as_numpy(square, 0, channels));
      }
    }
    for (std::int64_t x = 0; x < count; ++x) rounded[x] = static_cast<float>(costs[x]);
    for (std::int64_t x = 0; x < count; ++x) buckets[x] = Buckets::of(costs[x]);
  }

  template <int channels>
  static CUEKIT_INLINE void distances(const double* first, const double* second,
                                      std::int64_t stride, std::int64_t count,
                                      double* __restrict costs) {
    const double *a[channels], *b[channels];
    for (int c = 0; c < channels; ++c) a[c] = first + c * stride, b[c] = second + c * stride;
    for (std::int64_t x = 0; x < count; ++x) {
      double sum = 0.0;
      for (int c = 0; c < channels; ++c) sum += (a[c][x] - b[c][x]) * (a[c][x] - b[c][x]);
      costs[x] = std::sqrt(sum);
    }
  }
};

}  // namespace

void measure_costs(const double* first, const double* second, std::int64_t channels,
                   std::int64_t stride, std::int64_t count, double* costs, float* rounded,
                   Bucket* buckets) {
  dispatch<MeasureCosts>(first, second, channels, stride, count, costs, rounded, buckets);
}

}  // namespace cuekit::cpu::felzenszwalb_detail
