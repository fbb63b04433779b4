// Steps of the mean field over a block of pixels, one kernel of the CRF at a time: slice, splat,
// and what a kernel says of each class. For any number of features; mean_field.h has the two
// filters of photos in one step.
#pragma once

#include <cstdint>

#include "class_vector.h"
#include "cpu/simd.h"
#include "filter.h"

namespace cuekit::cpu {

// The simplices of a block's points, and the values at the nodes of their lattice.
struct Block {
  const Node* nodes;     // (count, corners)
  const float* weights;  // (count, corners)
  const float* norms;    // (count): factors of the points; null: none
  float* values;         // (nodes of the lattice, stride)
  std::int64_t corners, count, stride;
  bool prefetches;  // whether the values of points that come later are prefetched

  static constexpr std::int64_t ahead = 16;
};

// The points [first, first + count) of a band. `values` are those of the filter to slice or to
// splat into; `norms` are those of all points, or null.
Block block_of(const Filter& filter, const Workspace<float>& values, const float* norms,
               const Band& band, std::int64_t first, std::int64_t count, std::int64_t stride);
// Sets the values that a band splats into to 0; nothing if there is no filter.
void clear_splatted(const Filter& filter, std::int64_t band, std::int64_t stride);

// Whether prefetching the values at a point's vertices saves more time than it takes. Measured:
// rows of at least a cache line from 512 kB of values on, a usual L2, and shorter rows from 4 MB
// on.
inline bool prefetch_pays(const Lattice& lattice, std::int64_t stride) {
  const std::int64_t values = lattice.node_count() * stride;
  return values > std::int64_t{1} << (stride < 16 ? 20 : 17);
}

// Adds rows to the values at their vertices.
void splat(std::int64_t classes, const Block& block, const float* rows);  // (count, stride)
// Writes logits: `before`, which may be the same array, plus gains times filtered values. If
// `gains` is null, it writes filtered values.
void slice(std::int64_t classes, const Block& block,
           const float* gains,   // (stride): the diagonal of g
           const float* before,  // (count, stride)
           float* logits,        // (count, stride)
           float* filtered);     // (count, stride)
// Adds gains times filtered values to the logits.
void add_products(std::int64_t classes,
                  const float* filtered,  // (count, stride)
                  std::int64_t count, std::int64_t stride,
                  const float* gains,  // (rows, stride): g, transposed
                  std::int64_t rows,
                  float* logits);  // (count, stride)

// Runs a kernel for the group that the classes are divided into.
template <template <class, bool> class Kernel, class... Args>
void run_for_group(std::int64_t classes, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    using Fours = Kernel<ClassVector<typename Group::Four, Group::fours>, Group::many>;
    using Wides = Kernel<ClassVector<typename Group::Wide, Group::wides>, Group::many>;
    dispatch_width<Fours, Wides>(args...);
  });
}

}  // namespace cuekit::cpu
