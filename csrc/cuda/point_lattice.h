// The permutohedral lattice (cuekit/simplex.h) of points with any 1 to 10 features.
//
// lattice.h is for photos, whose pixels it combines tile by tile. Points have no such order: an
// entry, a corner of a point, is a vertex and a weight, and every vertex has a list of its entries.
// To splat, a vertex sums its entries in the order of that list, so results have the same bits from
// call to call. Only the GPU knows how many vertices there are: arrays have room for the largest
// possible number, and kernels loop over the actual one.
//
// Keys are the vertices' coordinates as integers. So any features can be addressed, and nothing
// must be known of their range before the launch. Where one is not finite, or so large that float32
// would round its coordinates, the point's weights become NaN: then what the point reaches is NaN.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "arena.h"
#include "cuekit/simplex.h"
#include "lattice.h"
#include "value_rows.h"

namespace cuekit::cuda {

constexpr int most_features = 10;

struct PointLattice {
  int corners;  // d + 1
  std::int64_t points;
  Row* rows;                 // (points, corners): the vertex of each entry
  float* weights;            // (points, corners): with Normalisation::symmetric times the points'
  float* norms;              // (points): 1 / the filter of ones, or null
  Neighbours* neighbours;    // (corners, entries): of each vertex along each axis
  std::uint32_t* starts;     // (entries + 1): where a vertex's entries begin in `list`
  std::uint32_t* list;       // (entries)
  std::uint32_t* numbering;  // (entries + 1): vertices whose first entry is an earlier one

  // Takes the arrays from `arena`. Throws if entries cannot be numbered.
  PointLattice(int d, std::int64_t number, Normalisation normalisation, Arena& arena);

  void build(const float* features,  // (d, points)
             Normalisation normalisation,
             void* scratch,  // scratch_bytes()
             cudaStream_t stream) const;
  std::int64_t scratch_bytes() const;

  CUEKIT_HD std::int64_t entries() const { return points * corners; }
  __device__ std::int64_t vertices() const { return numbering[entries()]; }
};

// Every point adds its row of values to its vertices, and they are blurred along all axes. Returns
// which of the two arrays has the result.
float* splat_and_blur(const PointLattice& lattice,
                      const float* rows,   // (points, stride), or null: all values are 1
                      const float* norms,  // (points): factors of the rows, or null
                      float* values,       // (entries, stride)
                      float* scratch,      // (entries, stride)
                      const ValueRows& layout, cudaStream_t stream);

// How many threads, each with 4 values at a time, share a row.
template <class Body>
void with_group_size(const ValueRows& layout, Body body) {
  if (layout.stride <= 4) return body(std::integral_constant<int, 1>{});
  if (layout.stride <= 8) return body(std::integral_constant<int, 2>{});
  if (layout.stride <= 16) return body(std::integral_constant<int, 4>{});
  return body(std::integral_constant<int, 8>{});
}

}  // namespace cuekit::cuda
