// Class subtraction: how far each present class's map is above those of the other present classes.
//
//   maps (B, C, N), present (B, C) -> out (B, C, N); M_c is map c, P the number of present classes
//   pairwise    out_c = 1 / (P - 1) * sum over present c' != c of max(M_c - M_c', 0)
//   strongest   out_c = max(M_c - max over present c' != c of M_c', 0)
//   dcsm        D_c   = sum over present c' != c of tanh(3 * max(M_c - M_c', 0) / m_cc'),
//                       m_cc' = max over pixels of M_c - M_c' (a term is 0 where m_cc' <= 0)
//               out_c = tanh(3 * D_c / max over pixels of D_c)     (0 where that maximum is 0)
//   P = 1: out_c = max(M_c, 0). Absent classes: zeros, and their maps are never read.
// In dcsm, where m_cc' exceeds the range of float64, M_c and M_c' are halved: the quotient is the
// same.
//
// Differences and sums are float64, sums in ascending order of c'.
//
// Sources: Shimoda & Yanai, ECCV 2016, doi:10.1007/978-3-319-46493-0_14 (pairwise, dcsm);
// Chan et al., HistoSegNet, ICCV 2019 (strongest).
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/host_device.h"

namespace cuekit {

enum class SubtractMode : int { pairwise, strongest, dcsm };

struct SubtractParams {
  std::int64_t batch;
  std::int64_t classes;  // C
  std::int64_t pixels;   // N
  SubtractMode mode;
};

// Half the difference: within the range of float64 for all finite values.
CUEKIT_HD inline double half_difference(double a, double b) { return 0.5 * a - 0.5 * b; }

// tanh on [0, 3.1] by Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))), truncated
// after thirteen terms and written as one quotient of polynomials. All coefficients are positive,
// so there is no cancellation: the relative error is below 1e-15, of which 1.3e-16 is truncation.
// It has no branches, so a loop over it vectorises.
CUEKIT_HD inline double tanh_to_three(double x) {
  const double s = x * x;
  const double p = (((((s + 4095.0) * s + 2552550.0) * s + 523783260.0) * s + 41247931725.0) * s +
                    1159525191825.0) *
                       s +
                   7905853580625.0;
  const double q =
      (((((91.0 * s + 120120.0) * s + 41351310.0) * s + 5237832600.0) * s + 252070693875.0) * s +
       3794809718700.0) *
          s +
      7905853580625.0;
  return x * p / q;
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// Returns false if a present class's map has a non-finite value; a GPU does not check.
template <class T>
bool subtract(const T* maps,                // (B, C, N)
              const std::uint8_t* present,  // (B, C), nonzero = present
              T* out,                       // (B, C, N)
              const SubtractParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
