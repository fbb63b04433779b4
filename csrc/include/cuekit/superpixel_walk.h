// A random walk with restart on the graph of superpixels (superpixel_graph.h).
//
//   values (C, S) -> out (C, S)
//
//   out = r (I - (1 - r) P)^-1 values,   P = D^-1 W,   D(i, i) = sum over j of W(i, j)
//   W(i, j) = length of the border of i and j * exp(-|colour(i) - colour(j)|^2 / (2 sigma^2))
//
// r is the probability of a restart. A superpixel that touches none keeps its value.
//
// The system is solved for y = D^1/2 out, whose matrix I - (1 - r) D^-1/2 W D^-1/2 is symmetric and
// positive definite, by conjugate gradients, and then for `out` itself by Gauss-Seidel sweeps in
// alternating directions. A sweep brings the largest error down by the factor 1 - r at least, so
// the error after a sweep that changes no value by more than d is at most d (1 - r) / r. It ends
// where this is at most 1e-10 of the class's largest magnitude. Weights are kept as logarithms
// until they are divided by sums: none underflows that matters. Sums have a fixed order.
//
// Public function: cuekit.superpixel_walk.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct SuperpixelWalkParams {
  std::int64_t classes;      // C
  std::int64_t superpixels;  // S
  std::int64_t edges;        // E
  std::int64_t colours;      // D, the number of values of a colour
  double restart;            // r, in [1e-4, 1]
  double sigma;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// All values are finite. Throws std::invalid_argument for an edge that is not one.
void superpixel_walk(const double* values,         // (C, S)
                     const std::int32_t* edges,    // (E, 2)
                     const std::int64_t* lengths,  // (E), above 0
                     const double* colours,        // (S, D)
                     double* out,                  // (C, S)
                     const SuperpixelWalkParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
