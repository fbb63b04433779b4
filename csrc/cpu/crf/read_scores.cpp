// Reads scores as read_scores.h says: checks the patch for values that are not valid while it is
// brought into cache, computes logits plane by plane (vectors of pixels), then transposes the
// planes.
#include "read_scores.h"

#include <algorithm>
#include <limits>

#include "cpu/simd.h"
#include "exp2_log2.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t max_columns = Patch::max_columns;

// The bits of a T as an integer. For values of one sign, a larger magnitude is a larger integer;
// infinity and then NaN are the largest.
template <class T>
using Bits = typename float_bits<T>::type;
template <class T>
constexpr Bits<T> sign_bit = static_cast<Bits<T>>(Bits<T>{1} << (8 * sizeof(T) - 1));
template <class T>
Bits<T> bits_of(double value) {
  return bit_cast<Bits<T>>(store<T>(value));
}

// What each of the following returns has the sign bit set if the value is not valid. A magnitude
// above the limit carries into that bit when `room` is added. This is integer work without
// branches, so loops over it vectorise.

template <class T>
struct ProbabilityCheck {
  Bits<T> below_zero = bits_of<T>(range_tolerance);
  Bits<T> room = static_cast<Bits<T>>(sign_bit<T> - 1 - bits_of<T>(1 + range_tolerance));
  Bits<T> less_for_negative = static_cast<Bits<T>>(sign_bit<T> - 1 - room - below_zero);

  CUEKIT_INLINE Bits<T> operator()(Bits<T> bits) const {
    const auto is_negative = static_cast<Bits<T>>(bits >> (8 * sizeof(T) - 1));
    const auto all_if_negative = static_cast<Bits<T>>(0 - is_negative);
    const auto magnitude = static_cast<Bits<T>>(bits & (sign_bit<T> - 1));
    return static_cast<Bits<T>>(magnitude + room + (all_if_negative & less_for_negative));
  }
};

template <class T>
struct EnergyCheck {
  Bits<T> infinity = bits_of<T>(std::numeric_limits<double>::infinity());
  Bits<T> largest = std::min(static_cast<Bits<T>>(infinity - 1),
                             bits_of<T>(static_cast<double>(std::numeric_limits<float>::max())));
  Bits<T> room = static_cast<Bits<T>>(sign_bit<T> - 1 - largest);

  CUEKIT_INLINE Bits<T> operator()(Bits<T> bits) const {
    const auto magnitude = static_cast<Bits<T>>(bits & (sign_bit<T> - 1));
    const auto found = static_cast<Bits<T>>(magnitude + room);
    return bits == infinity ? Bits<T>{0} : found;
  }
};

// Combines by OR what the check returns for all values of the patch.
template <class T, class Check>
struct ScanChannels {
  static CUEKIT_INLINE void run(const T* scores,  // (K, N)
                                const Patch* patch, std::int64_t channels, const Check* check,
                                Bits<T>* seen) {
    const Check is_invalid = *check;
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t r = 0; r < patch->rows; ++r) {
        const T* const row = scores + patch->offset(c, r);
        prefetch(row + max_columns, max_columns);
        Bits<T> found = 0;
        for (std::int64_t i = 0; i < patch->columns; ++i)
          found |= is_invalid(bit_cast<Bits<T>>(row[i]));
        *seen |= found;
      }
  }
};

template <class Check, class T>
bool all_valid(const T* scores,  // (K, N)
               const Patch& patch, std::int64_t channels) {
  const Check check;
  Bits<T> seen = 0;
  dispatch<ScanChannels<T, Check>>(scores, &patch, channels, &check, &seen);
  return (seen & sign_bit<T>) == 0;
}

// Logarithms of probabilities, relative to the largest of each pixel. Rows are filled up to
// max_columns, because loops of known length compile better.
template <class T>
struct ReadProbabilities {
  static CUEKIT_INLINE void run(const T* scores,  // (K, N)
                                const Patch* patch,
                                const std::int64_t* channels,  // (classes)
                                std::int64_t classes, float epsilon,
                                float* __restrict planes) {  // (classes, plane_size)
    for (std::int64_t r = 0; r < patch->rows; ++r, planes += max_columns) {
      float largest[max_columns];
      std::fill(largest, largest + max_columns, epsilon);
      for (std::int64_t k = 0; k < classes; ++k) {
        const T* const row = scores + patch->offset(channels[k], r);
        float* const plane = planes + k * plane_size;
        for (std::int64_t i = 0; i < patch->columns; ++i)
          plane[i] = static_cast<float>(load(row[i]));
        std::fill(plane + patch->columns, plane + max_columns, 1.0f);
        for (std::int64_t i = 0; i < max_columns; ++i) {
          const float p = plane[i], l = largest[i];
          const float clipped = p < epsilon ? epsilon : p > 1.0f ? 1.0f : p;
          plane[i] = clipped;
          largest[i] = l < clipped ? clipped : l;
        }
      }
      for (std::int64_t i = 0; i < max_columns; ++i) largest[i] = log2_of(largest[i]);
      for (std::int64_t k = 0; k < classes; ++k)
        for (std::int64_t i = 0; i < max_columns; ++i)
          planes[k * plane_size + i] = log2_of(planes[k * plane_size + i]) - largest[i];
    }
  }
};

// Negated energies, relative to the lowest of each pixel. Returns false where all are +inf.
template <class T>
bool read_energies(const T* scores,  // (K, N)
                   const Patch& patch, const std::vector<std::int64_t>& channels,
                   float* planes) {  // (classes, plane_size)
  for (std::int64_t r = 0; r < patch.rows; ++r, planes += max_columns)
    for (std::int64_t i = 0; i < patch.columns; ++i) {
      constexpr double infinity = std::numeric_limits<double>::infinity();
      double lowest = infinity;
      for (const std::int64_t c : channels)
        lowest = std::min(lowest, load(scores[patch.offset(c, r) + i]));
      if (lowest == infinity) return false;
      float* logit = planes + i;
      for (const std::int64_t c : channels) {
        const double energy = load(scores[patch.offset(c, r) + i]) - lowest;
        *logit = static_cast<float>(std::max(-energy * log2_of_e, static_cast<double>(impossible)));
        logit += plane_size;
      }
    }
  return true;
}

}  // namespace

template <class T>
bool read_scores(const T* scores, const CrfParams& p, const Patch& patch,
                 const std::vector<std::int64_t>& channels, float* planes, float* unary,
                 std::int64_t stride, std::int64_t step) {
  const auto classes = static_cast<std::int64_t>(channels.size());
  if (p.energies) {
    if (!all_valid<EnergyCheck<T>>(scores, patch, p.channels)) return false;
    if (!read_energies(scores, patch, channels, planes)) return false;
  } else {
    if (!all_valid<ProbabilityCheck<T>>(scores, patch, p.channels)) return false;
    dispatch<ReadProbabilities<T>>(scores, &patch, channels.data(), classes, p.epsilon, planes);
  }
  for (std::int64_t x = 0; x < patch.columns; ++x)
    for (std::int64_t r = 0; r < patch.rows; ++r, unary += step) {
      for (std::int64_t k = 0; k < classes; ++k)
        unary[k] = planes[k * plane_size + r * max_columns + x];
      for (std::int64_t k = classes; k < stride; ++k) unary[k] = impossible;
    }
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                               \
  template bool read_scores(const T*, const CrfParams&, const Patch&,                       \
                            const std::vector<std::int64_t>&, float*, float*, std::int64_t, \
                            std::int64_t);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
