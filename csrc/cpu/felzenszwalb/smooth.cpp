#include "smooth.h"

#include <algorithm>
#include <type_traits>

#include "cpu/any_type.h"
#include "cpu/interrupt.h"
#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

struct Convert {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count,
                                double* __restrict out) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_integral_v<T>)
        out[i] = values[i] * (1.0 / 255);
      else
        out[i] = values[i];
    }
  }
};

// A symmetric filter: out[i] = taps[R][i] * w0 + sum over j = R..1 of
// (taps[R - j][i] + taps[R + j][i]) * wj
struct Filter {
  static CUEKIT_INLINE void run(const double* const* taps,  // (2 R + 1) of (count)
                                const double* weights,      // (R + 1)
                                std::int64_t radius, std::int64_t count,
                                double* __restrict out) {  // (count)
    // The radii of usual sigmas: unrolled, so that the sum stays in a register.
    switch (radius) {
      case 1:
        return run_unrolled<1>(taps, weights, count, out);
      case 2:
        return run_unrolled<2>(taps, weights, count, out);
      case 3:
        return run_unrolled<3>(taps, weights, count, out);
      case 4:
        return run_unrolled<4>(taps, weights, count, out);
    }
    const double* const middle = taps[radius];
    for (std::int64_t i = 0; i < count; ++i) out[i] = middle[i] * weights[0];
    PollAfterWork poll_after;
    for (std::int64_t j = radius; j > 0; --j) {
      poll_after(count);
      const double *const before = taps[radius - j], *const after = taps[radius + j];
      const double weight = weights[j];
      for (std::int64_t i = 0; i < count; ++i) out[i] += (before[i] + after[i]) * weight;
    }
  }

  template <int radius>
  static CUEKIT_INLINE void run_unrolled(const double* const* taps, const double* weights,
                                         std::int64_t count, double* __restrict out) {
    const double* tap[2 * radius + 1];
    double weight[radius + 1];
    for (int j = 0; j <= 2 * radius; ++j) tap[j] = taps[j];
    for (int j = 0; j <= radius; ++j) weight[j] = weights[j];
    for (std::int64_t i = 0; i < count; ++i) {
      double sum = tap[radius][i] * weight[0];
      for (int j = radius; j > 0; --j) sum += (tap[radius - j][i] + tap[radius + j][i]) * weight[j];
      out[i] = sum;
    }
  }
};

// One channel of interleaved pixels: out[x] = pixels[x * channels].
struct GatherChannel {
  static CUEKIT_INLINE void run(const double* pixels,  // (W, C), from the channel on
                                std::int64_t channels, std::int64_t width,
                                double* out) {  // (W)
    if (channels == 3)
      gather(pixels, 3, width, out);  // a constant stride vectorises better
    else
      gather(pixels, channels, width, out);
  }

  static CUEKIT_INLINE void gather(const double* pixels, std::int64_t channels, std::int64_t width,
                                   double* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) out[x] = pixels[x * channels];
  }
};

// The index of a sequence mirrored at both ends (d c b a | a b c d | d c b a), for any position.
std::int64_t mirror(std::int64_t position, std::int64_t size) {
  position %= 2 * size;
  if (position < 0) position += 2 * size;
  return std::min(position, 2 * size - 1 - position);
}

}  // namespace

template <class T>
void convert(const void* values, std::int64_t count, double* out) {
  if constexpr (std::is_same_v<T, half>)
    read_values<half>(values, 1, count, out);
  else
    dispatch<Convert>(static_cast<const T*>(values), count, out);
}
template void convert<std::uint8_t>(const void*, std::int64_t, double*);
template void convert<half>(const void*, std::int64_t, double*);
template void convert<float>(const void*, std::int64_t, double*);
template void convert<double>(const void*, std::int64_t, double*);

RowSmoother::RowSmoother(const Photo& photo, const FelzenszwalbParams& p)
    : photo_(photo),
      p_(p),
      row_size_(p.width * p.channels),
      ring_rows_(std::min(p.height, 2 * p.radius + 1)),
      ring_(ring_rows_ * row_size_),
      taps_(2 * p.radius + 1),
      filtered_columns_(row_size_),
      padded_(p.width + 2 * p.radius) {}

void RowSmoother::next(double* smoothed) {
  const std::int64_t radius = p_.radius, width = p_.width, y = row_++;
  for (; converted_ < std::min(p_.height, y + radius + 1); ++converted_)
    photo_.convert(
        static_cast<const char*>(photo_.values) + converted_ * row_size_ * photo_.value_size,
        row_size_, ring_.data() + converted_ % ring_rows_ * row_size_);
  for (std::int64_t j = -radius; j <= radius; ++j)
    taps_[radius + j] = ring_.data() + mirror(y + j, p_.height) % ring_rows_ * row_size_;
  filter(row_size_, filtered_columns_.data());
  double* const first = padded_.data() + radius;
  for (std::int64_t c = 0; c < p_.channels; ++c) {
    dispatch<GatherChannel>(filtered_columns_.data() + c, p_.channels, width, first);
    for (std::int64_t j = 1; j <= radius; ++j) {
      first[-j] = first[mirror(-j, width)];
      first[width - 1 + j] = first[mirror(width - 1 + j, width)];
    }
    for (std::int64_t j = -radius; j <= radius; ++j) taps_[radius + j] = first + j;
    filter(width, smoothed + c * width);
  }
}

void RowSmoother::filter(std::int64_t count, double* out) const {
  dispatch<Filter>(taps_.data(), p_.weights, p_.radius, count, out);
}

}  // namespace cuekit::cpu::felzenszwalb_detail
