// Mean field of the fully connected CRF (Krähenbühl & Koltun 2011, arXiv:1210.5644).
//
//   scores (B, K, N) probabilities or energies, photos (B, H, W, 3) uint8, present (B, K - 1)
//     -> out (B, K, N), N = H * W
//
//   u_k(i) = log(min(max(p_k(i), epsilon), 1)), or minus the energy
//   Q      = softmax_k(u), and `iterations` times over
//   Q_k(i) = softmax_k(u_k(i) + w1 * sum_j g1(i, j) Q_k(j) + w2 * sum_j g2(i, j) Q_k(j))
//
//   g(i, j) = n(i) e(i, j) n(j),  e(i, j) = exp(-|f(i) - f(j)|^2 / 2),  n(i)^-2 = sum_j e(i, j)
//   f1 = (x, y) / gaussian_sxy
//   f2 = ((x, y) / bilateral_sxy, (r, g, b) / bilateral_srgb)
//
// The softmax is over background and present classes; the channels of the others are not written.
// j = i is part of the sums.
// The exponentials are those that the permutohedral lattice computes (cpu/permutohedral.h).
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

// The kernel's logits are in units of ln 2, so that the softmax takes powers of 2. The lattices'
// weights are multiplied by this, too.
constexpr double log2_of_e = 1.4426950408889634;

struct CrfParams {
  std::int64_t batch, channels;
  std::int64_t height, width;
  float gaussian_weight, gaussian_sxy;  // of the smoothness kernel; weight 0 leaves it out
  float bilateral_weight, bilateral_sxy, bilateral_srgb;  // of the appearance kernel
  bool energies;
  std::int64_t iterations;
  float epsilon;
  bool half_storage;  // on a GPU: the values that are filtered are stored as float16
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// A GPU writes 0 to the channels of classes that are not present. The CPU does not write them:
// there `out` starts at zero, which is free for fresh memory. Throws std::invalid_argument where
// the widths are too small for the photo's size. Returns false where a score is not finite; a GPU
// does not check.
template <class T>
bool crf(const T* scores,              // (B, K, H, W)
         const std::uint8_t* photos,   // (B, H, W, 3)
         const std::uint8_t* present,  // (B, K - 1), nonzero = present
         T* out,                       // (B, K, H, W)
         const CrfParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
