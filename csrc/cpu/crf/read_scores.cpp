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

// Finds values that are not valid: it returns a word whose sign bit is set. A magnitude above the
// limit carries into that bit when `room` is added. This is integer work without branches, so loops
// over it vectorise.
template <class T>
struct Check {
  Bits<T> room, less_for_negative;
  Bits<T> also_valid;  // one more value: infinity among energies, 0 where there is none

  static Check of_probabilities() {
    const auto room = static_cast<Bits<T>>(sign_bit<T> - 1 - bits_of<T>(1 + range_tolerance));
    return {room, static_cast<Bits<T>>(sign_bit<T> - 1 - room - bits_of<T>(range_tolerance)), 0};
  }
  static Check of_energies() {
    const Bits<T> infinity = bits_of<T>(std::numeric_limits<double>::infinity());
    const Bits<T> largest =
        std::min(static_cast<Bits<T>>(infinity - 1),
                 bits_of<T>(static_cast<double>(std::numeric_limits<float>::max())));
    return {static_cast<Bits<T>>(sign_bit<T> - 1 - largest), 0, infinity};
  }

  CUEKIT_INLINE Bits<T> operator()(Bits<T> bits) const {
    const auto is_negative = static_cast<Bits<T>>(bits >> (8 * sizeof(T) - 1));
    const auto all_if_negative = static_cast<Bits<T>>(0 - is_negative);
    const auto magnitude = static_cast<Bits<T>>(bits & (sign_bit<T> - 1));
    const auto found =
        static_cast<Bits<T>>(magnitude + room + (all_if_negative & less_for_negative));
    return bits == also_valid ? Bits<T>{0} : found;
  }
};

// Combines by OR what the check returns for all values of the patch.
template <class T>
struct ScanChannels {
  static CUEKIT_INLINE void run(const T* scores,  // (K, N)
                                const Patch* patch, std::int64_t channels, const Check<T>* check,
                                Bits<T>* seen) {
    const Check<T> is_invalid = *check;
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

// From probabilities of a row of max_columns pixels to their logarithms, relative to the largest of
// each pixel.
struct LogarithmsOfRow {
  static CUEKIT_INLINE void run(std::int64_t classes, float epsilon,
                                float* __restrict planes) {  // (classes, plane_size)
    float largest[max_columns];
    std::fill(largest, largest + max_columns, epsilon);
    for (std::int64_t k = 0; k < classes; ++k) {
      float* const plane = planes + k * plane_size;
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
};

// Rows are filled up to max_columns, because loops of known length compile better.
void read_probabilities(const Scores& scores, const Patch& patch,
                        const std::vector<std::int64_t>& channels, float epsilon,
                        float* planes) {  // (classes, plane_size)
  const auto classes = static_cast<std::int64_t>(channels.size());
  for (std::int64_t r = 0; r < patch.rows; ++r, planes += max_columns) {
    for (std::int64_t k = 0; k < classes; ++k) {
      float* const plane = planes + k * plane_size;
      scores.read_row(patch, channels.data()[k], r, plane);
      std::fill(plane + patch.columns, plane + max_columns, 1.0f);
    }
    dispatch<LogarithmsOfRow>(classes, epsilon, planes);
  }
}

// Negated energies, relative to the lowest of each pixel. Returns false where all are +inf.
bool read_energies(const Scores& scores, const Patch& patch,
                   const std::vector<std::int64_t>& channels,
                   float* planes) {  // (classes, plane_size)
  for (std::int64_t r = 0; r < patch.rows; ++r, planes += max_columns) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double energies[max_columns], lowest[max_columns];
    std::fill(lowest, lowest + max_columns, infinity);
    for (const std::int64_t c : channels) {
      scores.read_row(patch, c, r, energies);
      for (std::int64_t i = 0; i < patch.columns; ++i) lowest[i] = std::min(lowest[i], energies[i]);
    }
    if (std::find(lowest, lowest + patch.columns, infinity) != lowest + patch.columns) return false;
    float* logits = planes;
    for (const std::int64_t c : channels) {
      scores.read_row(patch, c, r, energies);
      for (std::int64_t i = 0; i < patch.columns; ++i)
        logits[i] = static_cast<float>(
            std::max(-(energies[i] - lowest[i]) * log2_of_e, static_cast<double>(impossible)));
      logits += plane_size;
    }
  }
  return true;
}

}  // namespace

template <class T>
bool valid_scores(const void* values, const Patch& patch, std::int64_t channels, bool energies) {
  const Check<T> check = energies ? Check<T>::of_energies() : Check<T>::of_probabilities();
  Bits<T> seen = 0;
  dispatch<ScanChannels<T>>(static_cast<const T*>(values), &patch, channels, &check, &seen);
  return (seen & sign_bit<T>) == 0;
}

template bool valid_scores<half>(const void*, const Patch&, std::int64_t, bool);
template bool valid_scores<float>(const void*, const Patch&, std::int64_t, bool);
template bool valid_scores<double>(const void*, const Patch&, std::int64_t, bool);

bool read_scores(const Scores& scores, const CrfParams& p, const Patch& patch,
                 const std::vector<std::int64_t>& channels, float* planes, float* unary,
                 std::int64_t stride, std::int64_t step) {
  if (!scores.valid(patch, p.channels, p.energies)) return false;
  if (!p.energies)
    read_probabilities(scores, patch, channels, p.epsilon, planes);
  else if (!read_energies(scores, patch, channels, planes))
    return false;
  const auto classes = static_cast<std::int64_t>(channels.size());
  for (std::int64_t x = 0; x < patch.columns; ++x)
    for (std::int64_t r = 0; r < patch.rows; ++r, unary += step) {
      for (std::int64_t k = 0; k < classes; ++k)
        unary[k] = planes[k * plane_size + r * max_columns + x];
      for (std::int64_t k = classes; k < stride; ++k) unary[k] = impossible;
    }
  return true;
}

}  // namespace cuekit::cpu
