// Finds the copies of every tile and lists them by vertex, and normalises the weights
// (lattice_build.h).
//
// A tile finds its copies in a hash table in shared memory. There a vertex has a bit for each pixel
// of the tile, and counting bits gives an entry's position in `order`. A vertex's copies are first
// listed in the order in which threads run, and then sorted: each copy counts those that belong
// before it. So sums over copies have a fixed order.
#include <cmath>

#include "lattice_build.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr int local_slots = 2048;
constexpr int words = tile_pixels / 32;
static_assert(max_entries < local_slots, "the table of a tile is never full");

// The sum over the threads before this one, in a block of tile_pixels threads. *total: over all.
__device__ std::uint32_t sum_before(std::uint32_t value, std::uint32_t* total) {
  __shared__ std::uint32_t of_warp[words];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  std::uint32_t sum = value;
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const std::uint32_t other = __shfl_up_sync(all_lanes, sum, static_cast<unsigned>(offset));
    if (lane >= offset) sum += other;
  }
  if (lane == warp_size - 1) of_warp[warp] = sum;
  __syncthreads();
  sum -= value;
  *total = 0;
  for (int w = 0; w < words; ++w) {
    if (w < warp) sum += of_warp[w];
    *total += of_warp[w];
  }
  return sum;
}

// A block has one tile, a thread one pixel.
__global__ void find_copies_of_tile(Lattice lattice,
                                    float* __restrict__ splatted) {  // (entries, ones_stride)
  __shared__ Row vertex[local_slots];
  __shared__ std::uint32_t members[local_slots][words];  // a bit for each pixel that has the vertex
  __shared__ std::uint16_t begins[local_slots];
  __shared__ std::uint16_t order[max_entries];
  const std::int64_t tile = blockIdx.x, first_copy = lattice.first_copy(tile);
  const int i = static_cast<int>(threadIdx.x);
  for (int slot = i; slot < local_slots; slot += tile_pixels) {
    vertex[slot] = no_row;
    for (int w = 0; w < words; ++w) members[slot][w] = 0;
  }
  __syncthreads();

  int slots[max_corners];
#pragma unroll
  for (int k = 0; k < max_corners; ++k) {
    slots[k] = -1;
    if (k >= lattice.corners()) continue;
    const Row row = lattice.rows[lattice.entry(tile, k) + i];
    if (row == no_row) continue;
    int slot = static_cast<int>(row * 0x9e3779b9u >> 21);
    for (;;) {
      const Row found = atomicCAS(vertex + slot, no_row, row);
      if (found == no_row || found == row) break;
      slot = slot + 1 == local_slots ? 0 : slot + 1;
    }
    atomicOr(&members[slot][i / 32], 1u << i % 32);
    slots[k] = slot;
  }
  __syncthreads();

  // Copies (lower 16 bits) and entries (upper 16 bits) of this thread's 16 slots.
  std::uint32_t own = 0;
  for (int slot = i; slot < local_slots; slot += tile_pixels) {
    for (int w = 0; w < words; ++w)
      own += static_cast<std::uint32_t>(__popc(members[slot][w])) << 16;
    own += vertex[slot] != no_row ? 1 : 0;
  }
  std::uint32_t total;
  std::uint32_t next = sum_before(own, &total);
  const int copies = static_cast<int>(total & 0xffff);
  if (i == 0) lattice.copies[tile] = static_cast<std::uint32_t>(copies);
  for (int slot = i; slot < local_slots; slot += tile_pixels) {
    if (vertex[slot] == no_row) continue;
    const std::uint32_t begin = next >> 16;
    const std::int64_t copy = first_copy + (next & 0xffff);
    for (int w = 0; w < words; ++w)
      next += static_cast<std::uint32_t>(__popc(members[slot][w])) << 16;
    begins[slot] = static_cast<std::uint16_t>(begin);
    lattice.spans[copy] = begin | (next & 0xffff0000u);
    lattice.copy_row[copy] = vertex[slot];
    lattice.copy_arrival[copy] = atomicAdd(lattice.copy_count + vertex[slot], 1u);
    ++next;
  }
  __syncthreads();

#pragma unroll
  for (int k = 0; k < max_corners; ++k) {
    if (slots[k] < 0) continue;
    int position = begins[slots[k]];
    for (int w = 0; w < words; ++w) {
      const std::uint32_t bits = members[slots[k]][w];
      if (w < i / 32) position += __popc(bits);
      if (w == i / 32) position += __popc(bits & ((1u << i % 32) - 1u));
    }
    order[position] = static_cast<std::uint16_t>(k * tile_pixels + i);
  }
  __syncthreads();
  const int used = static_cast<int>(total >> 16);
  for (int j = i; j < used; j += tile_pixels) lattice.order[first_copy + j] = order[j];
  for (int c = i; c < copies; c += tile_pixels) {
    const std::uint32_t span = lattice.spans[first_copy + c];
    float sum = 0.0f;
    for (std::uint32_t j = span & 0xffff; j < span >> 16; ++j)
      sum += lattice.weights[lattice.entry(tile, order[j] / tile_pixels) + order[j] % tile_pixels];
    store4(splatted + (first_copy + c) * ones_stride, {sum, 0.0f, 0.0f, 0.0f});
  }
}

// A block has one tile. Writes `arrived`.
__global__ void list_arrived(Lattice lattice) {
  const std::int64_t tile = blockIdx.x, first = lattice.first_copy(tile);
  for (std::uint32_t c = threadIdx.x; c < lattice.copies[tile]; c += tile_pixels)
    lattice.arrived[lattice.starts[lattice.copy_row[first + c]] + lattice.copy_arrival[first + c]] =
        static_cast<Row>(first + c);
}

// A block has one tile. Writes `list`.
__global__ void sort_arrived(Lattice lattice) {
  const std::int64_t tile = blockIdx.x, first = lattice.first_copy(tile);
  for (std::uint32_t c = threadIdx.x; c < lattice.copies[tile]; c += tile_pixels) {
    const auto copy = static_cast<Row>(first + c);
    const Row vertex = lattice.copy_row[copy];
    const std::uint32_t begin = lattice.starts[vertex], end = lattice.starts[vertex + 1];
    std::uint32_t position = begin;
#pragma unroll 4
    for (std::uint32_t j = begin; j < end; ++j) position += lattice.arrived[j] < copy ? 1 : 0;
    lattice.list[position] = copy;
  }
}

// A symmetric normalisation divides by the filter of ones, half of it before the filter and half
// after: each weight takes the square root of it.
__device__ void normalise_filter(const Lattice& lattice,
                                 const float* filtered,  // (entries, ones_stride)
                                 std::int64_t tile, int i, int corner, int corners, float alpha,
                                 double scale, Normalisation normalisation) {
  if (corners == 0) return;  // the filter is left out
  float sum = 0.0f;
  for (int k = corner; k < corner + corners && normalisation != Normalisation::none; ++k) {
    const std::int64_t entry = lattice.entry(tile, k) + i;
    sum += lattice.weights[entry] * filtered[std::int64_t{lattice.rows[entry]} * ones_stride];
  }
  const double of_ones = static_cast<double>(alpha * sum) + 1e-20;
  double factor = scale;
  if (normalisation == Normalisation::symmetric) factor *= 1.0 / sqrt(of_ones);
  if (normalisation == Normalisation::mean)
    lattice.norms[tile * tile_pixels + i] = static_cast<float>(1.0 / of_ones);
  for (int k = corner; k < corner + corners; ++k)
    lattice.weights[lattice.entry(tile, k) + i] *= static_cast<float>(factor);
}

// A block has one tile, a thread one pixel.
__global__ void normalise_tile(Lattice lattice,
                               const float* __restrict__ filtered,  // (entries, ones_stride)
                               double bilateral_scale, double spatial_scale,
                               Normalisation normalisation) {
  const std::int64_t tile = blockIdx.x;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= lattice.pixels_in(tile)) return;
  normalise_filter(lattice, filtered, tile, i, 0, lattice.bilateral, bilateral_alpha,
                   bilateral_scale, normalisation);
  normalise_filter(lattice, filtered, tile, i, lattice.bilateral, lattice.spatial, spatial_alpha,
                   spatial_scale, normalisation);
}

}  // namespace

void find_copies(const Lattice& lattice, float* splatted, cudaStream_t stream) {
  launch(find_copies_of_tile, lattice.tiles(), tile_pixels, stream, lattice, splatted);
}

void list_copies(const Lattice& lattice, cudaStream_t stream) {
  launch(list_arrived, lattice.tiles(), tile_pixels, stream, lattice);
  launch(sort_arrived, lattice.tiles(), tile_pixels, stream, lattice);
}

void normalise(const Lattice& lattice, const float* filtered, const FilterParams& p,
               cudaStream_t stream) {
  const auto scale = [](float weight, float alpha) {
    return std::sqrt(static_cast<double>(weight) * static_cast<double>(alpha));
  };
  launch(normalise_tile, lattice.tiles(), tile_pixels, stream, lattice, filtered,
         scale(p.bilateral_weight, bilateral_alpha), scale(p.gaussian_weight, spatial_alpha),
         p.normalisation);
}

}  // namespace cuekit::cuda
