// Boundary connectivity of superpixels, and their contrast to what is background by it
// (Zhu, Liang, Wei, Sun, CVPR 2014, doi:10.1109/CVPR.2014.360).
//
//   step(i, j) = max(|colour(i) - colour(j)| - clip, 0) where i and j touch, or are both at the
//                image's border
//   g(i, j) = length of the shortest path from i to j of such steps;  infinite if there is none
//   s(i, j) = exp(-g(i, j)^2 / (2 sigma^2))
//   connectivity(i) = sum over j of s(i, j) border_pixels(j) / (sum over j of s(i, j) size(j))^1/2
//   contrast(i) = sum over j of |colour(i) - colour(j)| exp(-|centre(i) - centre(j)|^2 /
//                 (2 spatial_sigma^2)) (1 - exp(-connectivity(j)^2 / 2)) size(j), divided by the
//                 largest
//
// Weights below 1e-30 are 0. Sums are float64 and have a fixed order.
//
// Public function: cuekit.boundary_connectivity.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct BoundaryConnectivityParams {
  std::int64_t superpixels;  // S
  std::int64_t edges;        // E
  std::int64_t colours;      // D, the number of values of a colour
  double sigma, clip, spatial_sigma;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// All values are finite. Throws std::invalid_argument for an edge that is not one.
void boundary_connectivity(const std::int32_t* edges,          // (E, 2)
                           const std::int64_t* sizes,          // (S), above 0
                           const std::int64_t* border_pixels,  // (S)
                           const double* centres,              // (S, 2)
                           const double* colours,              // (S, D)
                           double* connectivity,               // (S)
                           double* contrast,                   // (S)
                           const BoundaryConnectivityParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
