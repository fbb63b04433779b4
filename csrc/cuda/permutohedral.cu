// Building the lattices of permutohedral.h, and filtering on them.
//
// - Every photo has a table of vertices by key for each lattice, of half as many places again as it
//   has entries. Threads claim places by compare-and-swap; which place a vertex has depends on who
//   comes first, but not the least entry that has it, by which it is numbered.
// - A tile finds its copies in a table of its own in shared memory. There a vertex has a bit for
//   each pixel, so that an entry's place is a count of bits. Where a copy stands depends on the
//   order of threads, what is added up in it does not.
// - A vertex's copies are listed as threads come and then put in order: each counts those that
//   belong before it.
#include <algorithm>
#include <cmath>
#include <cub/device/device_scan.cuh>

#include "launch.h"
#include "permutohedral.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr std::uint32_t no_slot = 0xffffffffu;
// Launches over what only the GPU knows the number of: so many blocks fill any.
constexpr std::int64_t most_blocks = 2048;

// ---- vertices by key ----

// A place in a table. Zeros are a free one.
struct alignas(16) Slot {
  LatticeKey key;
  std::uint32_t not_first;  // the complement of the least entry that has the vertex
};

// One table per photo and lattice, the bilateral ones first. Slots are counted through all.
struct Tables {
  Slot* slots;
  std::uint32_t bilateral_slots, spatial_slots;  // of a table

  // Never full: there are fewer keys than slots.
  static std::uint32_t slots_for(std::int64_t entries) {
    return static_cast<std::uint32_t>(entries + entries / 2 + 1);
  }
  Tables(const Lattice& at, void* memory)
      : slots(static_cast<Slot*>(memory)),
        bilateral_slots(at.bilateral > 0 ? slots_for(at.pixels() * at.bilateral) : 0),
        spatial_slots(at.spatial > 0 ? slots_for(at.pixels() * at.spatial) : 0) {}
  std::int64_t bytes(const Lattice& at) const {
    return at.images * (std::int64_t{bilateral_slots} + spatial_slots) *
           static_cast<std::int64_t>(sizeof(Slot));
  }
  __device__ std::uint32_t first(std::uint32_t slot) const { return ~slots[slot].not_first; }
};

struct Table {
  Slot* slots;
  std::uint32_t size, first_slot;
};

__device__ Table bilateral_table(const Tables& all, std::int64_t image) {
  const std::int64_t first = image * all.bilateral_slots;
  return {all.slots + first, all.bilateral_slots, static_cast<std::uint32_t>(first)};
}

__device__ Table spatial_table(const Lattice& at, const Tables& all, std::int64_t image) {
  const std::int64_t first = at.images * all.bilateral_slots + image * all.spatial_slots;
  return {all.slots + first, all.spatial_slots, static_cast<std::uint32_t>(first)};
}

// Multiplication by 2^64 / the golden ratio spreads keys that differ in few bits; its highest bits
// are the best mixed.
__device__ std::uint32_t place_of(LatticeKey key, std::uint32_t size) {
  const LatticeKey mixed = key * 0x9e3779b97f4a7c15ull >> 32;
  return static_cast<std::uint32_t>(mixed * size >> 32);
}

// Returns the slot of the key, and notes an entry that has it. Reads go past the cache that only
// some threads share: what others have written long since would cost an atomic operation again and
// again. A key that is there stays; a place that looks free may no longer be.
__device__ std::uint32_t find_or_add(const Table& table, LatticeKey key, std::uint32_t entry) {
  std::uint32_t at = place_of(key, table.size);
  for (;;) {
    LatticeKey found = __ldcg(&table.slots[at].key);
    if (found == 0) found = atomicCAS(&table.slots[at].key, LatticeKey{0}, key);
    if (found == 0 || found == key) break;
    at = at + 1 == table.size ? 0 : at + 1;
  }
  if (__ldcg(&table.slots[at].not_first) < ~entry) atomicMax(&table.slots[at].not_first, ~entry);
  return table.first_slot + at;
}

__device__ std::uint32_t find(const Table& table, LatticeKey key) {
  std::uint32_t at = place_of(key, table.size);
  for (;;) {
    const LatticeKey found = table.slots[at].key;
    if (found == key) return table.first_slot + at;
    if (found == 0) return no_slot;
    at = at + 1 == table.size ? 0 : at + 1;
  }
}

// ---- pixels into simplices ----

struct Embeddings {
  Embedding<5> bilateral;
  Embedding<2> spatial;
  float gaussian_sxy, bilateral_sxy, bilateral_srgb;
};

double last_position(std::int64_t count, float width) {
  return static_cast<double>(static_cast<float>(count - 1) / width);
}

Embeddings embeddings_for(const Lattice& at, const FilterParams& p) {
  double x = 0, y = 0, colour = 0, flat_x = 0, flat_y = 0;
  if (at.bilateral > 0) {
    x = last_position(at.width, p.bilateral_sxy);
    y = last_position(at.height, p.bilateral_sxy);
    colour = last_position(256, p.bilateral_srgb);
  }
  if (at.spatial > 0) {
    flat_x = last_position(at.width, p.gaussian_sxy);
    flat_y = last_position(at.height, p.gaussian_sxy);
  }
  return {Embedding<5>({x, y, colour, colour, colour}), Embedding<2>({flat_x, flat_y}),
          p.gaussian_sxy, p.bilateral_sxy, p.bilateral_srgb};
}

// A pixel's corners, from `corner` on. Until vertices are numbered, rows hold slots.
template <int d>
__device__ void add_simplex(const Lattice& at, const Table& table, const Simplex<d>& simplex,
                            std::int64_t tile, int corner, int i) {
#pragma unroll
  for (int k = 0; k <= d; ++k) {
    const std::int64_t entry = at.entry(tile, corner + k) + i;
    at.rows[entry] = find_or_add(table, simplex.keys[k], static_cast<std::uint32_t>(entry));
    at.weights[entry] = simplex.weights[k];
  }
}

__global__ void embed(Lattice at, Tables all, Embeddings e,
                      const std::uint8_t* __restrict__ photos) {
  const std::int64_t tile = blockIdx.x, image = tile / at.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= at.pixels_in(tile)) {
    for (int k = 0; k < at.corners(); ++k) {
      at.rows[at.entry(tile, k) + i] = no_slot;
      at.weights[at.entry(tile, k) + i] = 0.0f;
    }
    return;
  }
  const Lattice::Position p = at.position(tile, i);
  const auto x = static_cast<float>(p.x), y = static_cast<float>(p.y);
  if (at.bilateral > 0) {
    const std::uint8_t* rgb =
        photos + 3 * (image * at.pixels() + std::int64_t{p.y} * at.width + p.x);
    const float features[] = {x / e.bilateral_sxy, y / e.bilateral_sxy,
                              static_cast<float>(rgb[0]) / e.bilateral_srgb,
                              static_cast<float>(rgb[1]) / e.bilateral_srgb,
                              static_cast<float>(rgb[2]) / e.bilateral_srgb};
    add_simplex(at, bilateral_table(all, image), simplex_of(features, e.bilateral), tile, 0, i);
  }
  if (at.spatial > 0) {
    const float features[] = {x / e.gaussian_sxy, y / e.gaussian_sxy};
    add_simplex(at, spatial_table(at, all, image), simplex_of(features, e.spatial), tile,
                at.bilateral, i);
  }
}

// ---- vertices into rows ----

// A bit for every entry that is the first of its vertex, and their number in each word of bits.
__global__ void mark_firsts(Lattice at, Tables all) {
  const std::int64_t entry = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (entry == 0) at.firsts_in_word[at.entries() / 32] = 0;
  if (entry >= at.entries()) return;  // whole warps
  const std::uint32_t slot = at.rows[entry];
  const bool first = slot != no_slot && all.first(slot) == static_cast<std::uint32_t>(entry);
  const unsigned bits = __ballot_sync(all_lanes, first);
  if (entry % 32 != 0) return;
  at.first_bits[entry / 32] = bits;
  at.firsts_in_word[entry / 32] = static_cast<std::uint32_t>(__popc(bits));
}

__device__ Row row_of(const Lattice& at, const Tables& all, std::uint32_t slot) {
  const std::uint32_t first = all.first(slot);
  const std::uint32_t earlier = at.first_bits[first / 32] & ((1u << first % 32) - 1u);
  return at.numbering[first / 32] + static_cast<Row>(__popc(earlier));
}

__global__ void number_vertices(Lattice at, Tables all) {
  const std::int64_t entry = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (entry >= at.entries()) return;
  const std::uint32_t slot = at.rows[entry];
  if (slot == no_slot) return;  // which is no_row, too
  const Row row = row_of(at, all, slot);
  at.rows[entry] = row;
  if (all.first(slot) != static_cast<std::uint32_t>(entry)) return;
  at.slot_of[row] = slot;
  at.image_of[row] = static_cast<std::uint32_t>(at.image_of_entry(entry));
}

template <int d>
__device__ Neighbours find_both(const Lattice& at, const Tables& all, const Table& table,
                                const Embedding<d>& e, LatticeKey key, int axis) {
  const std::uint32_t before = find(table, e.before(key, axis));
  const std::uint32_t after = find(table, e.after(key, axis));
  return {before == no_slot ? no_row : row_of(at, all, before),
          after == no_slot ? no_row : row_of(at, all, after)};
}

// Blocks take turns at the axes.
__global__ void find_neighbours(Lattice at, Tables all, Embeddings e) {
  const int axes = at.axes(), axis = static_cast<int>(blockIdx.x) % axes;
  const std::int64_t step = std::int64_t{gridDim.x} / axes * block_size;
  const std::int64_t begin = std::int64_t{blockIdx.x} / axes * block_size + threadIdx.x;
  const std::int64_t bilateral = at.bilateral_vertices();
  const std::int64_t count = axis < at.spatial ? at.vertices() : bilateral;
  Neighbours* const neighbours = at.neighbours + axis * at.entries();
  for (std::int64_t v = begin; v < count; v += step) {
    const std::uint32_t slot = at.slot_of[v];
    const LatticeKey key = all.slots[slot].key;
    if (v < bilateral) {
      const Table table = bilateral_table(all, at.image_of[v]);
      neighbours[v] = find_both(at, all, table, e.bilateral, key, axis);
    } else {
      const Table table = spatial_table(at, all, at.image_of[v]);
      neighbours[v] = find_both(at, all, table, e.spatial, key, axis);
    }
  }
}

// ---- copies ----

constexpr int local_slots = 2048;  // more than a tile has entries
constexpr int words = tile_pixels / 32;
static_assert(max_entries < local_slots, "the table of a tile never fills up");

// The sum over the threads before this one in a block of tile_pixels threads; *total: of all.
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

// A block has one tile. `ones` (entries, 4): what is splatted where every value is 1.
__global__ void find_copies(Lattice at, float* __restrict__ ones) {
  __shared__ Row vertex[local_slots];
  __shared__ std::uint32_t members[local_slots][words];  // a bit for each pixel
  __shared__ std::uint16_t begins[local_slots];
  __shared__ std::uint16_t order[max_entries];
  const std::int64_t tile = blockIdx.x, first_copy = at.first_copy(tile);
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
    if (k >= at.corners()) continue;
    const Row row = at.rows[at.entry(tile, k) + i];
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

  // Copies and entries of 16 slots per thread are counted together, entries in the upper half.
  std::uint32_t own = 0;
  for (int slot = i; slot < local_slots; slot += tile_pixels) {
    for (int w = 0; w < words; ++w)
      own += static_cast<std::uint32_t>(__popc(members[slot][w])) << 16;
    own += vertex[slot] != no_row ? 1 : 0;
  }
  std::uint32_t total;
  std::uint32_t next = sum_before(own, &total);
  const int copies = static_cast<int>(total & 0xffff);
  if (i == 0) at.copies[tile] = static_cast<std::uint32_t>(copies);
  for (int slot = i; slot < local_slots; slot += tile_pixels) {
    if (vertex[slot] == no_row) continue;
    const std::uint32_t begin = next >> 16;
    const std::int64_t copy = first_copy + (next & 0xffff);
    for (int w = 0; w < words; ++w)
      next += static_cast<std::uint32_t>(__popc(members[slot][w])) << 16;
    begins[slot] = static_cast<std::uint16_t>(begin);
    at.spans[copy] = begin | (next & 0xffff0000u);
    at.copy_row[copy] = vertex[slot];
    at.copy_arrival[copy] = atomicAdd(at.copy_count + vertex[slot], 1u);
    ++next;
  }
  __syncthreads();

#pragma unroll
  for (int k = 0; k < max_corners; ++k) {
    if (slots[k] < 0) continue;
    int place = begins[slots[k]];
    for (int w = 0; w < words; ++w) {
      const std::uint32_t bits = members[slots[k]][w];
      if (w < i / 32) place += __popc(bits);
      if (w == i / 32) place += __popc(bits & ((1u << i % 32) - 1u));
    }
    order[place] = static_cast<std::uint16_t>(k * tile_pixels + i);
  }
  __syncthreads();
  const int used = static_cast<int>(total >> 16);
  for (int j = i; j < used; j += tile_pixels) at.order[first_copy + j] = order[j];
  for (int c = i; c < copies; c += tile_pixels) {
    const std::uint32_t span = at.spans[first_copy + c];
    float sum = 0.0f;
    for (std::uint32_t j = span & 0xffff; j < span >> 16; ++j)
      sum += at.weights[at.entry(tile, order[j] / tile_pixels) + order[j] % tile_pixels];
    store4(ones + (first_copy + c) * 4, {sum, 0.0f, 0.0f, 0.0f});
  }
}

__global__ void list_copies(Lattice at) {
  const std::int64_t tile = blockIdx.x, first = at.first_copy(tile);
  for (std::uint32_t c = threadIdx.x; c < at.copies[tile]; c += tile_pixels)
    at.arrived[at.starts[at.copy_row[first + c]] + at.copy_arrival[first + c]] =
        static_cast<Row>(first + c);
}

__global__ void order_copies(Lattice at) {
  const std::int64_t tile = blockIdx.x, first = at.first_copy(tile);
  for (std::uint32_t c = threadIdx.x; c < at.copies[tile]; c += tile_pixels) {
    const auto copy = static_cast<Row>(first + c);
    const Row vertex = at.copy_row[copy];
    const std::uint32_t begin = at.starts[vertex], end = at.starts[vertex + 1];
    std::uint32_t place = begin;
#pragma unroll 4
    for (std::uint32_t j = begin; j < end; ++j) place += at.arrived[j] < copy ? 1 : 0;
    at.list[place] = copy;
  }
}

// What a filter of ones gives is what it is normalised by, half of it on either side.
__device__ void normalize_filter(const Lattice& at, const float* ones, std::int64_t tile, int i,
                                 int corner, int corners, float alpha, double scale) {
  float sum = 0.0f;
  for (int k = corner; k < corner + corners; ++k) {
    const std::int64_t entry = at.entry(tile, k) + i;
    sum += at.weights[entry] * ones[std::int64_t{at.rows[entry]} * 4];
  }
  const double norm = 1.0 / sqrt(static_cast<double>(alpha * sum) + 1e-20);
  for (int k = corner; k < corner + corners; ++k)
    at.weights[at.entry(tile, k) + i] *= static_cast<float>(norm * scale);
}

// Blurring makes values 1 + 2^-d times as large.
constexpr float bilateral_alpha = 1.0f / (1.0f + 1.0f / 32);
constexpr float spatial_alpha = 1.0f / (1.0f + 1.0f / 4);

__global__ void normalize(Lattice at, const float* __restrict__ ones, double bilateral_scale,
                          double spatial_scale) {
  const std::int64_t tile = blockIdx.x;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= at.pixels_in(tile)) return;
  normalize_filter(at, ones, tile, i, 0, at.bilateral, bilateral_alpha, bilateral_scale);
  normalize_filter(at, ones, tile, i, at.bilateral, at.spatial, spatial_alpha, spatial_scale);
}

// ---- filtering ----

// A group of `lanes` threads has one vertex. Of the copies of a vertex, the first few are added by
// its group, and the others, where large areas are of one colour, by all groups of its warp.
constexpr std::uint32_t added_alone = 16;

template <int lanes, class V>
__global__ void join(Lattice at, const V* __restrict__ copies, V* __restrict__ values, Rows rows) {
  constexpr int groups = warp_size / lanes;
  const std::int64_t warp = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const std::int64_t warps = std::int64_t{gridDim.x} * (block_size / warp_size);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / lanes;
  const std::int64_t count = at.vertices();
  for (std::int64_t first = warp * groups; first < count; first += warps * groups) {
    const std::int64_t v = first + group;
    const std::uint32_t begin = v < count ? at.starts[v] : 0;
    const std::uint32_t end = v < count ? at.starts[v + 1] : 0;
    const std::uint32_t alone = end - begin < added_alone ? end : begin + added_alone;
    const std::int32_t used = v < count ? rows.used_of(at.image_of[v]) : 0;
    const unsigned with_more = __ballot_sync(all_lanes, alone < end);
    for (int label = lane % lanes * 4; label - lane % lanes * 4 < static_cast<int>(rows.stride);
         label += lanes * 4) {
      const V* const from = copies + label;
      float4 sum = all_of(0.0f);
      if (label < used) {
#pragma unroll 4
        for (std::uint32_t j = begin; j < alone; ++j)
          sum = add4(sum, 1.0f, load4(from + rows.offset(at.list[j])));
      }
      for (unsigned bits = with_more; bits != 0;) {
        const int theirs = (__ffs(static_cast<int>(bits)) - 1) / lanes;
        bits &= ~(((1u << (lanes - 1)) * 2u - 1u) << theirs * lanes);
        const std::uint32_t until = __shfl_sync(all_lanes, end, theirs * lanes);
        const std::uint32_t j = __shfl_sync(all_lanes, alone, theirs * lanes);
        const std::int32_t used_there = __shfl_sync(all_lanes, used, theirs * lanes);
        float4 more = all_of(0.0f);
        if (label < used_there) {
#pragma unroll 4
          for (std::int64_t l = std::int64_t{j} + group; l < until; l += groups)
            more = add4(more, 1.0f, load4(from + rows.offset(at.list[l])));
        }
        for (int offset = lanes; offset < warp_size; offset *= 2) {
          const float4 other{__shfl_xor_sync(all_lanes, more.x, offset),
                             __shfl_xor_sync(all_lanes, more.y, offset),
                             __shfl_xor_sync(all_lanes, more.z, offset),
                             __shfl_xor_sync(all_lanes, more.w, offset)};
          more = add4(more, 1.0f, other);
        }
        if (group == theirs) sum = add4(sum, 1.0f, more);
      }
      if (label < used) store4(values + rows.offset(static_cast<Row>(v)) + label, sum);
    }
  }
}

// Two axes of the bilateral lattice at a time, which reads what is there of a vertex's 8 neighbours
// and of itself, and one of the spatial lattice: so both take three steps.
template <int lanes, class V>
__global__ void blur(Lattice at, const V* __restrict__ in, V* __restrict__ out, Rows rows,
                     int step) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t groups = std::int64_t{gridDim.x} * (block_size / lanes);
  const std::int64_t bilateral = at.bilateral_vertices(), count = at.vertices();
  constexpr Neighbours none{no_row, no_row};
  for (std::int64_t v = thread / lanes; v < count; v += groups) {
    const Neighbours* const first =
        at.neighbours + (v < bilateral ? 2 * step : step) * at.entries();
    // Everything is asked for before anything is needed.
    const Neighbours far = v < bilateral ? first[at.entries() + v] : none;
    const Neighbours near[3] = {first[v], far.before == no_row ? none : first[far.before],
                                far.after == no_row ? none : first[far.after]};
    const Row centre[3] = {static_cast<Row>(v), far.before, far.after};
    const std::int32_t used = rows.used_of(at.image_of[v]);
    for (int label = static_cast<int>(thread % lanes) * 4; label < used; label += lanes * 4) {
      const auto value = [&](Row row) {
        return row == no_row ? all_of(0.0f) : load4(in + rows.offset(row) + label);
      };
      float4 own[3], before[3], after[3];
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        own[j] = value(centre[j]);
        before[j] = value(near[j].before);
        after[j] = value(near[j].after);
      }
#pragma unroll
      for (int j = 0; j < 3; ++j) own[j] = add4(add4(own[j], 0.5f, before[j]), 0.5f, after[j]);
      store4(out + rows.offset(centre[0]) + label, add4(add4(own[0], 0.5f, own[1]), 0.5f, own[2]));
    }
  }
}

template <int lanes, class V>
void join_and_blur_rows(const Lattice& at, V* copies, V* to, const Rows& rows,
                        cudaStream_t stream) {
  const std::int64_t blocks = std::min(ceil_div(at.entries() * lanes, block_size), most_blocks);
  launch(join<lanes, V>, blocks, block_size, stream, at, copies, to, rows);
  launch(blur<lanes, V>, blocks, block_size, stream, at, to, copies, rows, 0);
  launch(blur<lanes, V>, blocks, block_size, stream, at, copies, to, rows, 1);
  launch(blur<lanes, V>, blocks, block_size, stream, at, to, copies, rows, 2);
}

constexpr std::int64_t ones_stride = 4;  // of the rows that weights are normalised by

}  // namespace

Lattice::Lattice(std::int64_t photos, std::int64_t rows_of_one, std::int64_t columns,
                 const FilterParams& p, Arena& arena)
    : height(static_cast<std::int32_t>(rows_of_one)),
      width(static_cast<std::int32_t>(columns)),
      images(photos),
      tiles_per_image(ceil_div(rows_of_one * columns, tile_pixels)),
      bilateral(p.bilateral_weight > 0 ? bilateral_corners : 0),
      spatial(p.gaussian_weight > 0 ? spatial_corners : 0),
      rows(arena.take<Row>(entries())),
      weights(arena.take<float>(entries())),
      copies(arena.take<std::uint32_t>(tiles())),
      spans(arena.take<std::uint32_t>(entries())),
      order(arena.take<std::uint16_t>(entries())),
      image_of(arena.take<std::uint32_t>(entries())),
      neighbours(arena.take<Neighbours>(axes() * entries())),
      starts(arena.take<std::uint32_t>(entries() + 1)),
      list(arena.take<Row>(entries())),
      numbering(arena.take<std::uint32_t>(entries() / 32 + 1)),
      firsts_in_word(arena.take<std::uint32_t>(entries() / 32 + 1)),
      first_bits(arena.take<std::uint32_t>(entries() / 32)),
      slot_of(arena.take<std::uint32_t>(entries())),
      copy_count(arena.take<std::uint32_t>(entries() + 1)),
      copy_row(arena.take<Row>(entries())),
      copy_arrival(arena.take<std::uint32_t>(entries())),
      arrived(arena.take<Row>(entries())),
      temporary(nullptr),
      temporary_bytes(0) {
  static_cast<void>(embeddings_for(*this, p));
  // That of the longer of the two sums is enough for both.
  check(cub::DeviceScan::ExclusiveSum(nullptr, temporary_bytes, copy_count, starts, entries() + 1));
  temporary = arena.take<char>(static_cast<std::int64_t>(temporary_bytes));
}

std::int64_t Lattice::scratch_bytes() const {
  const std::int64_t ones = 2 * entries() * ones_stride * static_cast<std::int64_t>(sizeof(float));
  return std::max(ones, Tables(*this, nullptr).bytes(*this));
}

void Lattice::build(const std::uint8_t* photos, const FilterParams& p, void* scratch,
                    cudaStream_t stream) const {
  const Embeddings embeddings = embeddings_for(*this, p);
  const Tables tables(*this, scratch);
  const std::int64_t entry_blocks = ceil_div(entries(), block_size);
  std::size_t bytes = temporary_bytes;
  check(cudaMemsetAsync(tables.slots, 0, static_cast<std::size_t>(tables.bytes(*this)), stream));
  launch(embed, tiles(), tile_pixels, stream, *this, tables, embeddings, photos);
  launch(mark_firsts, entry_blocks, block_size, stream, *this, tables);
  check(cub::DeviceScan::ExclusiveSum(temporary, bytes, firsts_in_word, numbering,
                                      entries() / 32 + 1, stream));
  launch(number_vertices, entry_blocks, block_size, stream, *this, tables);
  launch(find_neighbours, axes() * std::min(entry_blocks, most_blocks / axes()), block_size, stream,
         *this, tables, embeddings);

  // The tables are no longer needed.
  auto* const blurred = static_cast<float*>(scratch);
  float* const splatted = blurred + entries() * ones_stride;
  check(cudaMemsetAsync(copy_count, 0,
                        static_cast<std::size_t>(entries() + 1) * sizeof(std::uint32_t), stream));
  launch(find_copies, tiles(), tile_pixels, stream, *this, splatted);
  check(cub::DeviceScan::ExclusiveSum(temporary, bytes, copy_count, starts, entries() + 1, stream));
  launch(list_copies, tiles(), tile_pixels, stream, *this);
  launch(order_copies, tiles(), tile_pixels, stream, *this);
  join_and_blur_rows<1>(*this, splatted, blurred, {ones_stride, nullptr}, stream);
  const auto scale = [](float weight, float alpha) {
    return std::sqrt(static_cast<double>(weight) * static_cast<double>(alpha));
  };
  launch(normalize, tiles(), tile_pixels, stream, *this, splatted,
         scale(p.bilateral_weight, bilateral_alpha), scale(p.gaussian_weight, spatial_alpha));
}

template <class V>
void join_and_blur(const Lattice& at, V* copies, V* to, const Rows& rows, cudaStream_t stream) {
  if (rows.stride <= 4) return join_and_blur_rows<1>(at, copies, to, rows, stream);
  if (rows.stride <= 8) return join_and_blur_rows<2>(at, copies, to, rows, stream);
  if (rows.stride <= 16) return join_and_blur_rows<4>(at, copies, to, rows, stream);
  return join_and_blur_rows<8>(at, copies, to, rows, stream);
}

template void join_and_blur(const Lattice&, float*, float*, const Rows&, cudaStream_t);
template void join_and_blur(const Lattice&, half*, half*, const Rows&, cudaStream_t);

}  // namespace cuekit::cuda
