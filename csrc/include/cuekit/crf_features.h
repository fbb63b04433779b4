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

namespace cuekit::cpu {

struct Lattice;

// The filter of one kernel. It can be used by several threads.
struct CrfFilter {
  std::shared_ptr<const Lattice> lattice;
  CrfNormalisation normalisation;
};

// Throws std::invalid_argument where features span too many standard deviations for the lattice.
CrfFilter crf_filter(const float* features,  // (d, points), finite
                     int d, std::int64_t points, CrfNormalisation normalisation, Context& context);

struct CrfTerm {
  const CrfFilter* filter;
  const float* gains;  // g, (K, K); or its diagonal (K), the others being 0
  bool is_diagonal;
};

// Scores are valid, and false is returned, as in crf.h. `out` is not written for absent classes.
template <class T>
bool crf_features(const T* scores,                // (K, N)
                  const std::uint8_t* present,    // (K - 1), nonzero = present
                  const marginal_type<T>* start,  // (K, N): the first Q; null: of the unaries
                  marginal_type<T>* out,          // (K, N)
                  double* energy,                 // (iterations), or one more; null: not wanted
                  const std::vector<CrfTerm>& terms, const CrfFeaturesParams& p, Context& context);

}  // namespace cuekit::cpu
