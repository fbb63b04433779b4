// One update of the mean field for all pixels: slice, softmax, splat.
#pragma once

#include <cuda_runtime.h>

#include "lattice.h"
#include "value_rows.h"

namespace cuekit::cuda {

// A logit below this stands for probability 0. It is finite, and so are sums with it.
constexpr float impossible = -1e30f;

// Pixels are numbered (tile, pixel of the tile).
template <class V>
struct MeanField {
  Lattice lattice;
  float* unary;   // (tiles, tile_pixels, stride): logits in units of ln 2; without splat, Q is
                  // written here
  float* logits;  // (tiles, tile_pixels, stride): for more than classes_in_registers, else null
  ValueRows layout;
  const V* values;  // (entries, stride): filtered values of vertices, read if `slice`
  V* copies;        // (entries, stride): written if `splat`
  bool slice;       // false at first, when there is no Q yet
  bool splat;       // false at the end
};

constexpr std::int64_t classes_in_registers = 32;

// V is float or half.
template <class V>
void launch_mean_field(const MeanField<V>& mean_field, cudaStream_t stream);

}  // namespace cuekit::cuda
