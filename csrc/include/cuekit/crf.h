// The dense CRF: mean field inference of the fully connected conditional random field (Krähenbühl &
// Koltun 2011, arXiv:1210.5644). Scores become probabilities that follow the edges of the photo.
//
//   scores (B, K, H, W) probabilities or energies, photos (B, H, W, 3), present (B, K - 1)
//     -> out (B, K, H, W)
//
//   u_k(i) = log(min(max(p_k(i), epsilon), 1)), or minus the energy; an energy of +inf makes the
//            class impossible at this pixel
//   Q      = softmax_k(u); then, `iterations` times,
//   Q_k(i) = softmax_k(u_k(i) + w1 * sum_j g1(i, j) Q_k(j) + w2 * sum_j g2(i, j) Q_k(j))
//
//   g(i, j) = n(i) e(i, j) n(j),  e(i, j) = exp(-|f(i) - f(j)|^2 / 2),  n(i)^-2 = sum_j e(i, j)
//   f1 = (x, y) / gaussian_sxy                                            w1 = gaussian_weight
//   f2 = ((x, y) / bilateral_sxy, (r, g, b) / bilateral_srgb)             w2 = bilateral_weight
//
// The sums include j = i. The softmax is over the background, channel 0, and the present classes.
// The sums over j are computed on the permutohedral lattice (simplex.h), which approximates e.
//
// Public function: cuekit.dense_crf.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/context.h"
#include "cuekit/half.h"

namespace cuekit {

// Logits are in units of ln 2, so that the softmax is of powers of 2. So the filters' weights are
// multiplied by this.
constexpr double log2_of_e = 1.4426950408889634;

// How far outside [0, 1] a probability may lie. cuekit/_checks.py has the same number.
constexpr double range_tolerance = 1e-3;

// Marginals are computed in float32. float16 would lose what callers compare them with: thresholds
// near 1, where its values are 0.0005 apart.
template <class T>
using marginal_type = std::conditional_t<std::is_same_v<T, half>, float, T>;

struct CrfParams {
  std::int64_t batch, channels;  // B, K
  std::int64_t height, width;
  float gaussian_weight, gaussian_sxy;                    // weight 0 leaves the filter out
  float bilateral_weight, bilateral_sxy, bilateral_srgb;  // the same
  bool energies;                                          // scores are energies, -log p
  std::int64_t iterations;
  float epsilon;
  bool half_storage;  // on a GPU: filtered values are stored as float16; on the CPU it throws
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// A GPU writes 0 to the channels of absent classes. The CPU does not write them: there, the caller
// passes `out` filled with zeros (fresh memory from the system has them at no cost).
//
// Returns false for scores that are not valid; a GPU does not check. Valid are probabilities that
// lie in [0, 1] up to range_tolerance, and energies in float32's range or +inf, if at every pixel
// the background or a present class has a finite one.
//
// Throws std::invalid_argument where sxy or srgb are too small for the size of the photos.
template <class T>
bool crf(const T* scores,              // (B, K, H, W)
         const std::uint8_t* photos,   // (B, H, W, 3)
         const std::uint8_t* present,  // (B, K - 1), nonzero = present
         marginal_type<T>* out,        // (B, K, H, W)
         const CrfParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
