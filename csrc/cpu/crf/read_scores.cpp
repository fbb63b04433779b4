// Reads scores as read_scores.h says: checks the patch for non-finite values while it is brought
// into cache, computes logits plane by plane (vectors of pixels), then transposes the planes.
#include "read_scores.h"

#include <algorithm>
#include <limits>

#include "cpu/finite.h"
#include "cpu/simd.h"
#include "exp2_log2.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t max_columns = Patch::max_columns;

// Combines words of nonfinite_bit.
template <class T>
struct ScanChannels {
  static CUEKIT_INLINE void run(const T* scores,  // (K, N)
                                const Patch* patch, std::int64_t channels,
                                typename float_bits<T>::type* seen) {
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t r = 0; r < patch->rows; ++r) {
        const T* const row = scores + patch->offset(c, r);
        prefetch(row + max_columns, max_columns);
        *seen |= nonfinite_bits(row, patch->columns);
      }
  }
};

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

// Negated energies, relative to the lowest of each pixel.
template <class T>
void read_energies(const T* scores,  // (K, N)
                   const Patch& patch, const std::vector<std::int64_t>& channels,
                   float* planes) {  // (classes, plane_size)
  for (std::int64_t r = 0; r < patch.rows; ++r, planes += max_columns)
    for (std::int64_t i = 0; i < patch.columns; ++i) {
      double lowest = std::numeric_limits<double>::infinity();
      for (const std::int64_t c : channels)
        lowest = std::min(lowest, load(scores[patch.offset(c, r) + i]));
      float* logit = planes + i;
      for (const std::int64_t c : channels) {
        const double energy = load(scores[patch.offset(c, r) + i]) - lowest;
        *logit = static_cast<float>(std::max(-energy * log2_of_e, static_cast<double>(impossible)));
        logit += plane_size;
      }
    }
}

}  // namespace

template <class T>
bool read_scores(const T* scores, const CrfParams& p, const Patch& patch,
                 const std::vector<std::int64_t>& channels, float* planes, float* unary,
                 std::int64_t stride) {
  const auto classes = static_cast<std::int64_t>(channels.size());
  typename float_bits<T>::type seen = 0;
  dispatch<ScanChannels<T>>(scores, &patch, p.channels, &seen);
  if (any_nonfinite(seen)) return false;
  if (p.energies)
    read_energies(scores, patch, channels, planes);
  else
    dispatch<ReadProbabilities<T>>(scores, &patch, channels.data(), classes, p.epsilon, planes);
  for (std::int64_t x = 0; x < patch.columns; ++x)
    for (std::int64_t r = 0; r < patch.rows; ++r, unary += stride) {
      for (std::int64_t k = 0; k < classes; ++k)
        unary[k] = planes[k * plane_size + r * max_columns + x];
      for (std::int64_t k = classes; k < stride; ++k) unary[k] = impossible;
    }
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                         \
  template bool read_scores(const T*, const CrfParams&, const Patch&, \
                            const std::vector<std::int64_t>&, float*, float*, std::int64_t);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
