// The steps of Lattice::build(), each some launches. They fill the arrays of the lattice.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuekit/simplex.h"
#include "lattice.h"
#include "lattice_table.h"

namespace cuekit::cuda {

// Launches over vertices or copies, whose number only the GPU knows, have at most this many blocks,
// which fill any GPU, and loop.
constexpr std::int64_t most_blocks = 2048;

struct Embeddings {
  Embedding<5> bilateral;
  Embedding<2> spatial;
  float gaussian_sxy, bilateral_sxy, bilateral_srgb;
};

// Throws where keys do not fit into 64 bits.
Embeddings embeddings_for(const Lattice& lattice, const FilterParams& p);

// lattice_vertices.cu. Between the two, `numbering` must become the prefix sum of firsts_in_word.
// `tables` must be zero before the first.
void find_simplices(const Lattice& lattice, const Tables& tables, const Embeddings& embeddings,
                    const std::uint8_t* photos,  // (images, H, W, 3)
                    cudaStream_t stream);
void number_vertices(const Lattice& lattice, const Tables& tables, const Embeddings& embeddings,
                     cudaStream_t stream);

// lattice_copies.cu, in this order. After the first, `starts` must become the prefix sum of
// copy_count, which must be zero before it.
constexpr std::int64_t ones_stride = 4;  // of rows that have one value
void find_copies(const Lattice& lattice,
                 float* splatted,  // (entries, ones_stride): copies, where all pixels splat 1
                 cudaStream_t stream);
void list_copies(const Lattice& lattice, cudaStream_t stream);
void normalise(const Lattice& lattice,
               const float* filtered,  // (entries, ones_stride): the filter of ones, if needed
               const FilterParams& p, cudaStream_t stream);

}  // namespace cuekit::cuda
