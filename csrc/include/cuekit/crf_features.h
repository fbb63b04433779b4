// The dense CRF of points with any features: mean field as in cuekit/crf.h, with any number of
// kernels, each with its own compatibility of classes and its own normalisation.
//
//   scores (K, N) probabilities or energies, present (K - 1), for each kernel f features (D_f, N)
//     -> out (K, N)
//
//   u_k(i) = log(min(max(p_k(i), epsilon), 1)), or minus the energy
//   Q      = softmax_k(u), or what the caller has; then, `iterations` times,
//   Q_k(i) = softmax_k(m_k(i)),  m_k(i) = u_k(i) + sum_f sum_l g_f(k, l) sum_j k_f(i, j) Q_l(j)
//
//   e(i, j) = exp(-|f(i) - f(j)|^2 / 2),  n(i) = sum_j e(i, j), and k_f(i, j) is e(i, j) times
//   1 / sqrt(n(i) n(j)) (symmetric), 1 / n(j) (before), 1 / n(i) (after) or 1 (none)
//
// The free energy of Q, which mean field lowers, is sum_i sum_k Q_k(i) (log Q_k(i) - m_k(i)): the
// KL divergence from the CRF's distribution, up to a constant and as the literature's code counts
// pairs, twice.
//
// Public functions: cuekit.dense_crf_features, cuekit.MeanField, cuekit.dense_crf.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuekit/context.h"
#include "cuekit/crf.h"

namespace cuekit {

enum class CrfNormalisation { symmetric, before, after, none };

struct CrfFeaturesParams {
  std::int64_t channels, points;  // K, N; fewer than 2^27 points
  bool energies;                  // scores are energies, -log p
  std::int64_t iterations;
  float epsilon;
  bool energy_of_result;  // besides those of all Q before it; takes a pass more
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

#ifdef CUEKIT_BACKEND_CUDA

// The filter of one kernel, in memory of the caller's.
struct CrfFilter {
  void* memory;  // crf_filter_bytes()
  int d;
  CrfNormalisation normalisation;
};

std::int64_t crf_filter_bytes(int d, std::int64_t points, CrfNormalisation normalisation);

// Features need not be finite: what a point whose features are not, or are too large, reaches is
// NaN. Throws std::invalid_argument for more points than can be addressed.
void crf_filter(const float* features,  // (d, points)
                std::int64_t points, const CrfFilter& filter, Context& context);

// Features of a photo's pixels: x / sx, y / sy, if it has 3 channels or none, else y / sy, x / sx;
// then each channel / its width.
template <class T>
void crf_photo_features(const T* photo,   // (H, W, channels)
                        float* features,  // (2 + channels, H * W)
                        std::int64_t height, std::int64_t width, float sx, float sy,
                        const std::vector<float>& channel_widths, Context& context);

#else

struct Lattice;
struct PointOrder;

// The order in which a CRF visits points (cpu/crf/point_order.h). It can be used by several
// threads.
struct CrfOrder {
  std::shared_ptr<const PointOrder> order;  // null: that of the caller
};

// The filter of one kernel. It can be used by several threads.
struct CrfFilter {
  std::shared_ptr<const Lattice> lattice;
  CrfNormalisation normalisation;
  std::shared_ptr<const PointOrder> order;
  std::int64_t height = 0, width = 0;  // of the photo; 0: other points
};

// An order in which points of similar features are close to each other.
CrfOrder crf_order(const float* features,  // (d, points), finite
                   int d, std::int64_t points, Context& context);
// All filters of a CRF have the same order. Throws std::invalid_argument where features span too
// many standard deviations for the lattice.
CrfFilter crf_filter(const float* features,  // (d, points), finite
                     int d, std::int64_t points, CrfNormalisation normalisation,
                     const CrfOrder& order, Context& context);

// The bilateral filter of one photo, for crf_of_photo().
CrfFilter crf_photo_filter(const std::uint8_t* photo,  // (H, W, 3)
                           std::int64_t height, std::int64_t width, float sxy, float srgb,
                           float weight, Context& context);
// crf() (crf.h) of one photo whose bilateral filter is there already: several calls share it.
// p.batch is 1. Throws std::invalid_argument for a filter of a photo of another size, or of points.
template <class T>
bool crf_of_photo(const T* scores,              // (K, H, W)
                  const CrfFilter& bilateral,   // of crf_photo_filter()
                  const std::uint8_t* present,  // (K - 1)
                  marginal_type<T>* out,        // (K, H, W)
                  const CrfParams& p, Context& context);

#endif

struct CrfTerm {
  const CrfFilter* filter;
  const float* gains;  // g, (K, K); or its diagonal (K), the others being 0
  bool is_diagonal;
};

// Scores are valid, and false is returned, as in crf.h. On the CPU `out` is not written for absent
// classes, and energies are counted from the lowest one of each point. On a GPU `start` may be
// `out`.
template <class T>
bool crf_features(const T* scores,                // (K, N)
                  const std::uint8_t* present,    // (K - 1), nonzero = present
                  const marginal_type<T>* start,  // (K, N): the first Q; null: of the unaries
                  marginal_type<T>* out,          // (K, N)
                  double* energy,                 // (iterations), or one more; null: not wanted
#ifdef CUEKIT_BACKEND_CUDA
                  float* change,  // (1): the largest |out - start|; null: not wanted
#endif
                  const std::vector<CrfTerm>& terms, const CrfFeaturesParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
