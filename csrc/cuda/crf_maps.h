// Between maps, (K, H, W) per image, and the mean field's rows of classes: which classes take part,
// from scores to logits, from marginals to maps.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuekit/crf.h"
#include "lattice.h"

namespace cuekit::cuda {

// Background and present classes of each image.
struct ClassLists {
  std::int64_t stride;
  std::int32_t* channels;  // (images, stride): the channel of each class
  std::int32_t* counts;    // (images)
  std::int32_t* rounded;   // (images): counts rounded up to a multiple of 4
};

void list_classes(const ClassLists& classes, std::int64_t images, std::int64_t channels,
                  const std::uint8_t* present,  // (images, channels - 1)
                  cudaStream_t stream);

// Writes the logits of all pixels in units of ln 2; the largest of a pixel is 0. Where all energies
// are +inf, all logits are 0.
template <class T>
void read_scores(const Lattice& lattice, const ClassLists& classes, const CrfParams& p,
                 const T* scores,  // (images, K, H, W)
                 float* unary,     // (tiles, tile_pixels, stride)
                 cudaStream_t stream);

// Channels of absent classes become 0.
template <class Q>
void write_results(const Lattice& lattice, const ClassLists& classes, std::int64_t channels,
                   const float* q,  // (tiles, tile_pixels, stride)
                   Q* out,          // (images, K, H, W)
                   cudaStream_t stream);

}  // namespace cuekit::cuda
