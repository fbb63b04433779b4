// Groups the pixels of a batch by superpixel, for superpixel_mean and snap.
//
// A pixel's key is image * num_superpixels + label; where the label is not in
// 0..num_superpixels - 1, the pixel is in no superpixel, and its key is images * num_superpixels.
// Such pixels have no mean; they keep their input. A stable radix sort by key puts the pixels of
// every superpixel next to each other, in raster order. So sums need no atomics and have a fixed
// order.
//
// Sums are computed in pieces, because superpixels differ in size: sorted pixels are cut into
// segments of 512, and a piece is what one superpixel has in one segment. A warp adds up the pieces
// of a segment, then a thread adds up the pieces of a superpixel, in ascending order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arena.h"
#include "cuekit/half.h"
#include "cuekit/superpixels_view.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {

// Pointers to arrays in the workspace; passed to kernels by value.
struct GroupedPixels {
  std::int64_t images, pixels, num_superpixels;
  std::uint32_t* keys;          // (images, pixels), in raster order
  std::uint32_t* sorted_keys;   // (images * pixels)
  std::int32_t* indices;        // (images, pixels): 0..pixels-1, the index in the image
  std::int32_t* sorted_pixels;  // (images * pixels): the indices, in the order of sorted_keys
  std::uint32_t* starts;        // (num_keys + 1): where each key begins in sorted_keys
  void* sort_workspace;         // (sort_bytes)
  std::size_t sort_bytes;

  // Takes the arrays; does not fill them.
  GroupedPixels(std::int64_t num_images, std::int64_t image_pixels, std::int64_t superpixels,
                Arena& arena);

  CUEKIT_HD std::int64_t size() const { return images * pixels; }
  // Of pixels that are in a superpixel.
  CUEKIT_HD std::int64_t num_keys() const { return images * num_superpixels; }

  // Fills the arrays for `images` images, beginning with image `first`.
  void group(const SuperpixelsView& superpixels,  // (B, H, W)
             std::int64_t first, cudaStream_t stream) const;
};

// Channels that are computed in one pass over the pixels: one for each lane of a warp.
constexpr int channels_per_pass = 32;

// How many images are grouped at a time, at least 1: it bounds the workspace, and keeps keys within
// 32 bits. `batch` and `pixels` are at least 1.
std::int64_t images_per_step(std::int64_t batch, std::int64_t pixels, std::int64_t num_superpixels);

constexpr std::int64_t segment_pixels = 512;

// Rows of the table of pieces. The row of a piece is its segment's index plus its key: neither ever
// decreases from one piece to the next, and one of them increases, so no two pieces share a row.
__host__ __device__ inline std::int64_t piece_rows(const GroupedPixels& g) {
  return (g.size() + segment_pixels - 1) / segment_pixels + g.num_keys();
}

// Calls body(key, begin, end) for every piece of a segment, in ascending order. Pixels in no
// superpixel have the largest key, so they come last; they are in no piece.
template <class Body>
__device__ void for_each_piece(const GroupedPixels& g, std::int64_t segment, Body body) {
  std::int64_t begin = segment * segment_pixels;
  const std::int64_t segment_end =
      begin + segment_pixels < g.size() ? begin + segment_pixels : g.size();
  while (begin < segment_end) {
    const std::int64_t key = g.sorted_keys[begin];
    if (key >= g.num_keys()) return;
    const std::int64_t key_end = g.starts[key + 1];
    const std::int64_t end = key_end < segment_end ? key_end : segment_end;
    body(key, begin, end);
    begin = end;
  }
}

// Every thread computes the mean of one channel over one superpixel; 0 where it has no pixels.
template <class Sum, class Mean>
__global__ void means_of_pieces(const Sum* __restrict__ sums,  // (piece_rows, channels_per_pass)
                                GroupedPixels g, std::int64_t channels,
                                Mean* __restrict__ means) {  // (num_keys, channels_per_pass)
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t key = i / channels, channel = i % channels;
  if (key >= g.num_keys()) return;
  const std::int64_t begin = g.starts[key], end = g.starts[key + 1];
  double mean = 0.0;
  if (begin < end) {
    Sum sum{};
    for (std::int64_t segment = begin / segment_pixels; segment <= (end - 1) / segment_pixels;
         ++segment)
      sum += sums[(segment + key) * channels_per_pass + channel];
    mean = static_cast<double>(sum) / static_cast<double>(end - begin);
  }
  means[key * channels_per_pass + channel] = store<Mean>(mean);
}

}  // namespace cuekit::cuda
