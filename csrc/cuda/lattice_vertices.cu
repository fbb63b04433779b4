// Finds the vertices of all pixels, numbers them, and finds their neighbours (lattice_build.h).
//
// Every entry adds its key to the hash table of its photo. Then a bit per entry says whether it is
// the first one of its vertex, and a vertex's number is the count of such bits before its own. So
// the numbering does not depend on the order in which threads run.
#include <algorithm>

#include "lattice_build.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// ---- from pixels to simplices ----

// Writes a pixel's entries from `corner` on. Until vertices are numbered, `rows` holds slots.
template <int d>
__device__ void add_simplex(const Lattice& lattice, const Table& table, const float (&features)[d],
                            const Embedding<d>& embedding, std::int64_t tile, int corner, int i) {
  const Simplex<d, float> simplex = simplex_of(features, embedding);
  LatticeKey key_0 = 0, unit[d + 1], keys[d + 1];
#pragma unroll
  for (int j = 0; j < d; ++j) key_0 += embedding.part(j, static_cast<int>(simplex.quotient[j]));
#pragma unroll
  for (int j = 0; j <= d; ++j) unit[j] = embedding.unit(j);
  simplex_keys<d>(key_0, [&](int rank) { return simplex.by_rank(rank, unit); }, keys);
#pragma unroll
  for (int k = 0; k <= d; ++k) {
    const std::int64_t entry = lattice.entry(tile, corner + k) + i;
    lattice.rows[entry] = find_or_add(table, keys[k], static_cast<std::uint32_t>(entry));
    lattice.weights[entry] = simplex.weight[k];
  }
}

// A block has one tile, a thread one pixel.
__global__ void embed(Lattice lattice, Tables tables, Embeddings e,
                      const std::uint8_t* __restrict__ photos) {  // (images, H, W, 3)
  const std::int64_t tile = blockIdx.x, image = tile / lattice.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= lattice.pixels_in(tile)) {
    for (int k = 0; k < lattice.corners(); ++k) {
      lattice.rows[lattice.entry(tile, k) + i] = no_slot;
      lattice.weights[lattice.entry(tile, k) + i] = 0.0f;
    }
    return;
  }
  const Lattice::Position p = lattice.position(tile, i);
  const auto x = static_cast<float>(p.x), y = static_cast<float>(p.y);
  if (lattice.bilateral > 0) {
    const std::uint8_t* rgb =
        photos + 3 * (image * lattice.pixels() + std::int64_t{p.y} * lattice.width + p.x);
    const float features[] = {x / e.bilateral_sxy, y / e.bilateral_sxy,
                              static_cast<float>(rgb[0]) / e.bilateral_srgb,
                              static_cast<float>(rgb[1]) / e.bilateral_srgb,
                              static_cast<float>(rgb[2]) / e.bilateral_srgb};
    add_simplex(lattice, bilateral_table(tables, image), features, e.bilateral, tile, 0, i);
  }
  if (lattice.spatial > 0) {
    const float features[] = {x / e.gaussian_sxy, y / e.gaussian_sxy};
    add_simplex(lattice, spatial_table(lattice, tables, image), features, e.spatial, tile,
                lattice.bilateral, i);
  }
}

// ---- from slots to rows ----

// Sets a bit for every entry that is the first of its vertex, and counts the bits of each word.
__global__ void mark_firsts(Lattice lattice, Tables tables) {
  const std::int64_t entry = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (entry == 0) lattice.firsts_in_word[lattice.entries() / 32] = 0;
  if (entry >= lattice.entries()) return;  // whole warps: entries are a multiple of tile_pixels
  const std::uint32_t slot = lattice.rows[entry];
  const bool first =
      slot != no_slot && tables.first_entry(slot) == static_cast<std::uint32_t>(entry);
  const unsigned bits = __ballot_sync(all_lanes, first);
  if (entry % 32 != 0) return;
  lattice.first_bits[entry / 32] = bits;
  lattice.firsts_in_word[entry / 32] = static_cast<std::uint32_t>(__popc(bits));
}

__device__ Row row_of(const Lattice& lattice, const Tables& tables, std::uint32_t slot) {
  const std::uint32_t first = tables.first_entry(slot);
  const std::uint32_t earlier = lattice.first_bits[first / 32] & ((1u << first % 32) - 1u);
  return lattice.numbering[first / 32] + static_cast<Row>(__popc(earlier));
}

// Replaces slots by rows in `rows`.
__global__ void write_rows(Lattice lattice, Tables tables) {
  const std::int64_t entry = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (entry >= lattice.entries()) return;
  const std::uint32_t slot = lattice.rows[entry];
  static_assert(no_slot == no_row, "an entry without a pixel keeps its value");
  if (slot == no_slot) return;
  const Row row = row_of(lattice, tables, slot);
  lattice.rows[entry] = row;
  if (tables.first_entry(slot) != static_cast<std::uint32_t>(entry)) return;
  lattice.slot_of[row] = slot;
  lattice.image_of[row] = static_cast<std::uint32_t>(lattice.image_of_entry(entry));
}

template <int d>
__device__ Neighbours find_both(const Lattice& lattice, const Tables& tables, const Table& table,
                                const Embedding<d>& embedding, LatticeKey key, int axis) {
  const std::uint32_t before = find(table, embedding.before(key, axis));
  const std::uint32_t after = find(table, embedding.after(key, axis));
  return {before == no_slot ? no_row : row_of(lattice, tables, before),
          after == no_slot ? no_row : row_of(lattice, tables, after)};
}

// Block b works on axis b % axes.
__global__ void find_neighbours(Lattice lattice, Tables tables, Embeddings e) {
  const int axes = lattice.axes(), axis = static_cast<int>(blockIdx.x) % axes;
  const std::int64_t step = std::int64_t{gridDim.x} / axes * block_size;
  const std::int64_t begin = std::int64_t{blockIdx.x} / axes * block_size + threadIdx.x;
  const std::int64_t bilateral = lattice.bilateral_vertices();
  const std::int64_t count = axis < lattice.spatial ? lattice.vertices() : bilateral;
  Neighbours* const neighbours = lattice.neighbours + axis * lattice.entries();
  for (std::int64_t v = begin; v < count; v += step) {
    const std::uint32_t slot = lattice.slot_of[v];
    const LatticeKey key = tables.slots[slot].key;
    if (v < bilateral) {
      const Table table = bilateral_table(tables, lattice.image_of[v]);
      neighbours[v] = find_both(lattice, tables, table, e.bilateral, key, axis);
    } else {
      const Table table = spatial_table(lattice, tables, lattice.image_of[v]);
      neighbours[v] = find_both(lattice, tables, table, e.spatial, key, axis);
    }
  }
}

}  // namespace

void find_simplices(const Lattice& lattice, const Tables& tables, const Embeddings& embeddings,
                    const std::uint8_t* photos, cudaStream_t stream) {
  launch(embed, lattice.tiles(), tile_pixels, stream, lattice, tables, embeddings, photos);
  launch(mark_firsts, ceil_div(lattice.entries(), block_size), block_size, stream, lattice, tables);
}

void number_vertices(const Lattice& lattice, const Tables& tables, const Embeddings& embeddings,
                     cudaStream_t stream) {
  const std::int64_t blocks = ceil_div(lattice.entries(), block_size), axes = lattice.axes();
  launch(write_rows, blocks, block_size, stream, lattice, tables);
  launch(find_neighbours, axes * std::min(blocks, most_blocks / axes), block_size, stream, lattice,
         tables, embeddings);
}

}  // namespace cuekit::cuda
