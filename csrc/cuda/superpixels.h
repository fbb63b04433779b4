// A batch's pixels, grouped by superpixel: what superpixel_mean and snap share.
//
// A key is image * num + label, or the number of all keys where the label is none: below 0, or num
// and above. Sorting pixels by their keys, which keeps the raster order within a superpixel, puts
// every superpixel's pixels side by side: sums then need no atomics and have a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arena.h"
#include "cuekit/half.h"
#include "cuekit/superpixels_view.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {

struct Grouped {
  std::int64_t images, pixels, num_superpixels;
  std::uint32_t* key_of;  // (images * pixels), in raster order
  std::uint32_t* keys;    // the same, sorted
  std::int32_t* raster;   // 0..pixels-1 of every image, in raster order
  std::int32_t* pixel;    // the same, in the order of `keys`: a pixel's place in its image
  std::uint32_t* starts;  // (groups + 1): where a key's pixels begin
  void* temporary;        // of the sort
  std::size_t temporary_bytes;

  Grouped(std::int64_t num_images, std::int64_t image_pixels, std::int64_t superpixels,
          Arena& arena);

  CUEKIT_HD std::int64_t size() const { return images * pixels; }
  CUEKIT_HD std::int64_t groups() const { return images * num_superpixels; }

  // Of `images` images from `first` on.
  void group(const SuperpixelsView& labels, std::int64_t first, cudaStream_t stream) const;
};

// Channels that share a table: a row of it is what a warp works on.
constexpr int table_width = 32;

// How many images to work on at a time: what bounds the workspace, and keeps keys within 32 bits.
std::int64_t images_at_a_time(std::int64_t batch, std::int64_t pixels,
                              std::int64_t num_superpixels);

// Sums go in pieces: where sorted pixels are cut every `cut` pixels and wherever a key ends. Pieces
// of one key are added in their order. A piece's row is the number of cuts plus the key before it:
// both only grow, and one of them does from piece to piece, so rows differ.
constexpr std::int64_t cut = 512;

__host__ __device__ inline std::int64_t piece_rows(const Grouped& g) {
  return (g.size() + cut - 1) / cut + g.groups();
}

// Calls body(key, begin, end) for every piece of cut `which`, one after the other. Pixels in no
// superpixel are the last of all and in no piece.
template <class Body>
__device__ void for_each_piece(const Grouped& g, std::int64_t which, Body body) {
  std::int64_t at = which * cut;
  const std::int64_t end = at + cut < g.size() ? at + cut : g.size();
  while (at < end) {
    const std::int64_t key = g.keys[at];
    if (key >= g.groups()) return;
    const std::int64_t next = g.starts[key + 1];
    const std::int64_t stop = next < end ? next : end;
    body(key, at, stop);
    at = stop;
  }
}

// means (groups, table_width): of the pieces' sums. Keys without pixels get 0.
template <class Sum, class Mean>
__global__ void add_pieces(const Sum* __restrict__ sums, Grouped g, std::int64_t channels,
                           Mean* __restrict__ means) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t key = i / channels, channel = i % channels;
  if (key >= g.groups()) return;
  const std::int64_t begin = g.starts[key], end = g.starts[key + 1];
  double mean = 0.0;
  if (begin < end) {
    Sum sum{};
    for (std::int64_t which = begin / cut; which <= (end - 1) / cut; ++which)
      sum += sums[(which + key) * table_width + channel];
    mean = static_cast<double>(sum) / static_cast<double>(end - begin);
  }
  means[key * table_width + channel] = store<Mean>(mean);
}

}  // namespace cuekit::cuda
