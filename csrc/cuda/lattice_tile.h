// What kernels do with the pixels of one tile (lattice.h), one block for each tile.
#pragma once

#include <cstdint>

#include "lattice.h"
#include "value_rows.h"

namespace cuekit::cuda {

// Loads the weights of a tile's entries into shared memory. The caller puts a barrier after it.
__device__ inline void load_weights(const Lattice& lattice, std::int64_t tile, int block_threads,
                                    float* weights) {  // (corners, tile_pixels), shared
  for (int l = static_cast<int>(threadIdx.x); l < lattice.corners() * tile_pixels;
       l += block_threads)
    weights[l] = lattice.weights[lattice.entry(tile, l / tile_pixels) + l % tile_pixels];
}

// Sums the copies of a tile from the values of its pixels in shared memory, `copy_threads` threads
// for each copy. A pixel has a row of `length` values; the first `left` of them, at most
// 4 * copy_threads, are splatted.
template <int copy_threads, int length, class V>
__device__ void splat_tile(const Lattice& lattice, std::int64_t tile, int block_threads, int left,
                           const float* weights,  // (corners, tile_pixels), shared
                           const float* rows,     // (tile_pixels, length), shared
                           V* copies,             // (entries, stride), from the first value on
                           const ValueRows& layout) {
  const std::int64_t first_copy = lattice.first_copy(tile);
  const int member = static_cast<int>(threadIdx.x) % copy_threads;
  if (4 * member >= length || 4 * member >= left) return;
  const std::uint16_t* const order = lattice.order + first_copy;
  const auto count = static_cast<int>(lattice.copies[tile]);
  for (int c = static_cast<int>(threadIdx.x) / copy_threads; c < count;
       c += block_threads / copy_threads) {
    const std::uint32_t span = lattice.spans[first_copy + c];
    float4 sum = all_of(0.0f);
#pragma unroll 4
    for (std::uint32_t j = span & 0xffff; j < span >> 16; ++j) {
      const int entry = order[j];
      sum = add4(sum, weights[entry], load4(rows + entry % tile_pixels * length + 4 * member));
    }
    store4(copies + layout.offset(static_cast<Row>(first_copy + c)) + 4 * member, sum);
  }
}

}  // namespace cuekit::cuda
