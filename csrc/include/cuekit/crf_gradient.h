// The gradient of the dense CRF: mean field as in cuekit/crf.h and cuekit/crf_features.h, unrolled
// (Zheng et al. 2015, "Conditional random fields as recurrent neural networks", arXiv:1502.03240).
//
//   of_out (B, K, H, W) -> of_logits (B, K, H, W), for each kernel f of_gains (B, K, K), or (B, K)
//
// With G = of_out, for the steps t = n .. 0, Q^t being the marginals after t iterations,
//
//   D_k(i)  = Q^t_k(i) (G_k(i) - sum_l Q^t_l(i) G_l(i))                       through the softmax
//   of_logits_k(i) += D_k(i)                                                  u is in every step
//   for t > 0:  B^f_k(j) = sum_i k_f(i, j) D_k(i)                             the filters' adjoints
//               of_gains_f(k, l) += sum_j B^f_k(j) Q^(t-1)_l(j)
//               G_l(j) = sum_f sum_k g_f(k, l) B^f_k(j)
//
// of_logits is the gradient with respect to u: those of the logarithm and of the limits of
// probabilities are left to the caller. The adjoint of a filter on the lattice is the same lattice
// blurred along its axes in the opposite order: splat and slice are each other's transpose.
//
// The marginals of all steps are kept from the forward pass, and so are the lattices.
//
// Public functions: cuekit.dense_crf, cuekit.dense_crf_features with differentiable=True.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuekit/context.h"
#include "cuekit/crf.h"
#include "cuekit/crf_features.h"

namespace cuekit::cpu {

struct Record;

// What the gradient of one image needs of the forward pass. It can be used by several threads.
struct CrfRecord {
  std::shared_ptr<const Record> record;
};

// crf() and crf_features() with the same bits, and a record of each image; none for scores that are
// not valid.
template <class T>
std::vector<CrfRecord> crf_recorded(const T* scores, const std::uint8_t* photos,
                                    const std::uint8_t* present, marginal_type<T>* out,
                                    const CrfParams& p, Context& context);
template <class T>
std::vector<CrfRecord> crf_features_recorded(const T* scores, const std::uint8_t* present,
                                             marginal_type<T>* out,
                                             const std::vector<CrfTerm>& terms,
                                             const CrfFeaturesParams& p, Context& context);

// `of_logits` is not written for absent classes.
template <class Q>
void crf_gradient(const std::vector<CrfRecord>& records,  // (B)
                  const Q* of_out,                        // (B, K, N)
                  Q* of_logits,                           // (B, K, N)
                  // For each kernel (B, K, K), or (B, K) where its gains are a diagonal; null: not
                  // wanted. Empty: none of them.
                  const std::vector<double*>& of_gains, std::int64_t channels, Context& context);

}  // namespace cuekit::cpu
