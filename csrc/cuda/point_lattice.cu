// Builds the lattice of point_lattice.h, and filters on it.
#include <algorithm>
#include <cmath>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <limits>
#include <stdexcept>
#include <utility>

#include "lattice_build.h"
#include "launch.h"
#include "point_lattice.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// A constant, because device code cannot call quiet_NaN().
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

constexpr std::uint32_t no_entry = 0xffffffffu;

// Used while a lattice is built.
struct Build {
  std::int32_t* quotients;  // (d, points): coordinates of the simplex's vertex 0, over d + 1
  std::uint8_t* ranks;      // (d, points): of the coordinates
  std::uint32_t* slots;     // (slot_count): a hash table of vertices; each is its first entry
  std::uint32_t slot_count;
  std::uint32_t* firsts;       // (entries + 1): whether the entry is the first of its vertex
  std::uint32_t* first_entry;  // (entries): of each vertex
  Row* sorted_rows;            // (entries)
  std::uint32_t* numbers;      // (entries): 0, 1, 2, ...
  float* values[2];            // (entries, ones_stride) each: for the filter of ones
  void* temporary;             // of sorting and of prefix sums
  std::size_t sort_bytes, sum_bytes;

  Build(const PointLattice& lattice, void* memory, std::int64_t* bytes) {
    Arena arena(memory);
    const std::int64_t entries = lattice.entries(), features = lattice.corners - 1;
    slot_count = static_cast<std::uint32_t>(entries + entries / 2 + 1);  // never full
    quotients = arena.take<std::int32_t>(features * lattice.points);
    ranks = arena.take<std::uint8_t>(features * lattice.points);
    slots = arena.take<std::uint32_t>(slot_count);
    firsts = arena.take<std::uint32_t>(entries + 1);
    first_entry = arena.take<std::uint32_t>(entries);
    sorted_rows = arena.take<Row>(entries);
    numbers = arena.take<std::uint32_t>(entries);
    for (float*& each : values) each = arena.take<float>(entries * ones_stride);
    temporary = nullptr;
    sort(lattice, nullptr);
    sum(lattice, nullptr);
    temporary = arena.take<char>(static_cast<std::int64_t>(std::max(sort_bytes, sum_bytes)));
    if (bytes != nullptr) *bytes = arena.used();
  }

  // Without `temporary` they only set the number of bytes that it must have.
  void sort(const PointLattice& lattice, cudaStream_t stream) {
    const std::int64_t entries = lattice.entries();
    int bits = 1;
    while (entries >> bits != 0) ++bits;
    check(cub::DeviceRadixSort::SortPairs(temporary, sort_bytes, lattice.rows, sorted_rows, numbers,
                                          lattice.list, static_cast<std::uint32_t>(entries), 0,
                                          bits, stream));
  }
  void sum(const PointLattice& lattice, cudaStream_t stream) {
    check(cub::DeviceScan::ExclusiveSum(temporary, sum_bytes, firsts, lattice.numbering,
                                        lattice.entries() + 1, stream));
  }
};

// A vertex: coordinate i is (d + 1) quotient[i] + remainder. They sum to 0, so the last is left
// out.
struct Vertex {
  int d, remainder;
  std::int32_t quotient[most_features];

  __device__ Vertex(const PointLattice& lattice, const Build& b, std::uint32_t entry)
      : d(lattice.corners - 1), remainder(static_cast<int>(entry % lattice.corners)) {
    const std::int64_t i = entry / lattice.corners;
    // From vertex k - 1 to vertex k, the coordinate of rank d - k + 1 shrinks by d, others grow.
    for (int j = 0; j < d; ++j)
      quotient[j] = b.quotients[j * lattice.points + i] -
                    (b.ranks[j * lattice.points + i] > d - remainder ? 1 : 0);
  }

  __device__ bool operator==(const Vertex& other) const {
    bool same = remainder == other.remainder;
    for (int j = 0; j < d; ++j) same = same && quotient[j] == other.quotient[j];
    return same;
  }

  // Moves it along an axis, by 1 or -1. Coordinate `axis` grows by d and the others shrink by 1.
  __device__ void move(int axis, int by) {
    const bool wraps = remainder == (by > 0 ? 0 : d);
    for (int j = 0; j < d; ++j)
      if (wraps != (j == axis)) quotient[j] += wraps ? -by : by;
    remainder = wraps ? d - remainder : remainder - by;
  }

  __device__ std::uint32_t first_probe(std::uint32_t slot_count) const {
    std::uint64_t hash = static_cast<std::uint64_t>(remainder);
    for (int j = 0; j < d; ++j)
      hash = (hash ^ static_cast<std::uint32_t>(quotient[j])) * 0x9e3779b97f4a7c15u ^ hash >> 29;
    return static_cast<std::uint32_t>((hash >> 32) * slot_count >> 32);
  }
};

__device__ std::int64_t thread_number() {
  return std::int64_t{blockIdx.x} * block_size + threadIdx.x;
}

// ---- from points to vertices ----

// A thread has a point.
template <int d>
__global__ void embed(PointLattice lattice, Build b, Embedding<d> scales,
                      const float* __restrict__ features) {  // (d, points)
  const std::int64_t i = thread_number(), points = lattice.points;
  if (i >= points) return;
  float own[d];
#pragma unroll
  for (int j = 0; j < d; ++j) own[j] = features[j * points + i];
  const Simplex<d, float> simplex = simplex_of(own, scales);
  constexpr float limit = 1 << 17;  // beyond it float32 rounds coordinates too much
  bool valid = true;
#pragma unroll
  for (int j = 0; j <= d; ++j) valid = valid && fabsf(simplex.quotient[j]) <= limit;
#pragma unroll
  for (int j = 0; j < d; ++j) {
    b.quotients[j * points + i] = valid ? static_cast<std::int32_t>(simplex.quotient[j]) : 0;
    b.ranks[j * points + i] = static_cast<std::uint8_t>(valid ? simplex.rank[j] : 0.0f);
  }
#pragma unroll
  for (int k = 0; k <= d; ++k)
    lattice.weights[i * (d + 1) + k] = valid ? simplex.weight[k] : not_a_number;
}

// Every entry claims a slot for its vertex, or finds it there. Until vertices are numbered, `rows`
// holds slots.
__global__ void add_vertices(PointLattice lattice, Build b) {
  const std::int64_t e = thread_number();
  if (e >= lattice.entries()) return;
  const auto entry = static_cast<std::uint32_t>(e);
  const Vertex vertex(lattice, b, entry);
  std::uint32_t i = vertex.first_probe(b.slot_count);
  for (;;) {
    std::uint32_t found = __ldcg(b.slots + i);
    if (found == no_entry) found = atomicCAS(b.slots + i, no_entry, entry);
    if (found == no_entry) break;
    if (vertex == Vertex(lattice, b, found)) {
      if (entry < found) atomicMin(b.slots + i, entry);
      break;
    }
    i = i + 1 == b.slot_count ? 0 : i + 1;
  }
  lattice.rows[e] = i;
}

__global__ void mark_first_entries(PointLattice lattice, Build b) {
  const std::int64_t e = thread_number();
  if (e > lattice.entries()) return;
  b.firsts[e] =
      e < lattice.entries() && b.slots[lattice.rows[e]] == static_cast<std::uint32_t>(e) ? 1 : 0;
}

__global__ void number_entries(PointLattice lattice, Build b) {
  const std::int64_t e = thread_number();
  if (e >= lattice.entries()) return;
  const Row row = lattice.numbering[b.slots[lattice.rows[e]]];
  if (b.firsts[e] != 0) b.first_entry[row] = static_cast<std::uint32_t>(e);
  lattice.rows[e] = row;
  b.numbers[e] = static_cast<std::uint32_t>(e);
}

__device__ Row row_of(const PointLattice& lattice, const Build& b, const Vertex& vertex) {
  std::uint32_t i = vertex.first_probe(b.slot_count);
  for (;;) {
    const std::uint32_t found = b.slots[i];
    if (found == no_entry) return no_row;
    if (vertex == Vertex(lattice, b, found)) return lattice.numbering[found];
    i = i + 1 == b.slot_count ? 0 : i + 1;
  }
}

// Block b works on axis b % corners.
__global__ void find_neighbours(PointLattice lattice, Build b) {
  const int axis = static_cast<int>(blockIdx.x) % lattice.corners;
  const std::int64_t step = std::int64_t{gridDim.x} / lattice.corners * block_size;
  const std::int64_t count = lattice.vertices();
  for (std::int64_t v = std::int64_t{blockIdx.x} / lattice.corners * block_size + threadIdx.x;
       v < count; v += step) {
    Vertex after(lattice, b, b.first_entry[v]), before = after;
    after.move(axis, 1);
    before.move(axis, -1);
    lattice.neighbours[axis * lattice.entries() + v] = {row_of(lattice, b, before),
                                                        row_of(lattice, b, after)};
  }
}

// Entries are sorted by vertex, and all vertices have some.
__global__ void find_starts(PointLattice lattice, Build b) {
  const std::int64_t p = thread_number(), last = lattice.entries() - 1;
  if (p > last) return;
  const Row row = b.sorted_rows[p];
  if (p == 0 || row != b.sorted_rows[p - 1]) lattice.starts[row] = static_cast<std::uint32_t>(p);
  if (p == last) lattice.starts[row + 1] = static_cast<std::uint32_t>(p + 1);
}

// ---- filters ----

// A warp has a vertex. Each group of its threads sums every so many of the vertex's entries.
template <int group_size>
__global__ void splat(PointLattice lattice,
                      const float* __restrict__ rows,   // (points, stride), or null
                      const float* __restrict__ norms,  // (points), or null
                      float* __restrict__ values,       // (vertices, stride)
                      ValueRows layout) {
  constexpr int groups = warp_size / group_size;
  const std::int64_t warps = std::int64_t{gridDim.x} * (block_size / warp_size);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / group_size;
  const std::int64_t count = lattice.vertices();
  const int used = layout.used_of(0);
  for (std::int64_t v = thread_number() / warp_size; v < count; v += warps) {
    const std::uint32_t begin = lattice.starts[v], end = lattice.starts[v + 1];
    // All threads of a warp take part in every round, whether or not they have values in it.
    for (int first = 0; first < used; first += 4 * group_size) {
      const int k = first + lane % group_size * 4;
      float4 sum = all_of(0.0f);
      if (k < used) {
#pragma unroll 4
        for (std::int64_t j = std::int64_t{begin} + group; j < end; j += groups) {
          const std::uint32_t entry = lattice.list[j], i = entry / lattice.corners;
          const float weight = lattice.weights[entry] * (norms == nullptr ? 1.0f : norms[i]);
          sum = add4(sum, weight,
                     rows == nullptr ? all_of(1.0f) : load4(rows + layout.offset(i) + k));
        }
      }
      for (int offset = group_size; offset < warp_size; offset *= 2) {
        const float4 other{
            __shfl_xor_sync(all_lanes, sum.x, offset), __shfl_xor_sync(all_lanes, sum.y, offset),
            __shfl_xor_sync(all_lanes, sum.z, offset), __shfl_xor_sync(all_lanes, sum.w, offset)};
        sum = add4(sum, 1.0f, other);
      }
      if (group == 0 && k < used) store4(values + layout.offset(static_cast<Row>(v)) + k, sum);
    }
  }
}

template <int group_size>
__global__ void blur(PointLattice lattice, int axis,
                     const float* __restrict__ in,  // (vertices, stride)
                     float* __restrict__ out,       // (vertices, stride)
                     ValueRows layout) {
  const std::int64_t groups = std::int64_t{gridDim.x} * (block_size / group_size);
  const std::int64_t count = lattice.vertices();
  const Neighbours* const of_axis = lattice.neighbours + axis * lattice.entries();
  const int used = layout.used_of(0);
  for (std::int64_t v = thread_number() / group_size; v < count; v += groups) {
    const Neighbours near = of_axis[v];
    const auto row = static_cast<Row>(v);
    for (int k = static_cast<int>(threadIdx.x) % group_size * 4; k < used; k += group_size * 4) {
      const auto value = [&](Row of) {
        return of == no_row ? all_of(0.0f) : load4(in + layout.offset(of) + k);
      };
      store4(out + layout.offset(row) + k,
             add4(add4(value(row), 0.5f, value(near.before)), 0.5f, value(near.after)));
    }
  }
}

// A thread has a point: what its weights, or its norm, must be multiplied by.
__global__ void normalise_points(PointLattice lattice, const float* __restrict__ filtered,
                                 float alpha, Normalisation normalisation) {
  const std::int64_t i = thread_number();
  if (i >= lattice.points) return;
  float sum = 0.0f;
  for (std::int64_t e = i * lattice.corners;
       e < (i + 1) * lattice.corners && normalisation != Normalisation::none; ++e)
    sum += lattice.weights[e] * filtered[std::int64_t{lattice.rows[e]} * ones_stride];
  const double of_ones = static_cast<double>(alpha * sum) + 1e-20;
  double factor = sqrt(static_cast<double>(alpha));
  if (normalisation == Normalisation::symmetric) factor *= 1.0 / sqrt(of_ones);
  if (normalisation == Normalisation::mean) lattice.norms[i] = static_cast<float>(1.0 / of_ones);
  for (std::int64_t e = i * lattice.corners; e < (i + 1) * lattice.corners; ++e)
    lattice.weights[e] *= static_cast<float>(factor);
}

template <int d>
void launch_embed(const PointLattice& lattice, const Build& b, const float* features,
                  cudaStream_t stream) {
  const float none[d] = {};
  launch(embed<d>, ceil_div(lattice.points, block_size), block_size, stream, lattice, b,
         Embedding<d>(none, none), features);
}

}  // namespace

PointLattice::PointLattice(int d, std::int64_t number, Normalisation normalisation, Arena& arena)
    : corners(d + 1),
      points(number),
      rows(arena.take<Row>(entries())),
      weights(arena.take<float>(entries())),
      norms(normalisation == Normalisation::mean ? arena.take<float>(points) : nullptr),
      neighbours(arena.take<Neighbours>(corners * entries())),
      starts(arena.take<std::uint32_t>(entries() + 1)),
      list(arena.take<std::uint32_t>(entries())),
      numbering(arena.take<std::uint32_t>(entries() + 1)) {
  if (entries() >= std::int64_t{1} << 31)
    throw std::invalid_argument("too many points for a lattice of so many features");
}

std::int64_t PointLattice::scratch_bytes() const {
  std::int64_t bytes = 0;
  const Build build(*this, nullptr, &bytes);
  return bytes;
}

void PointLattice::build(const float* features, Normalisation normalisation, void* scratch,
                         cudaStream_t stream) const {
  Build b(*this, scratch, nullptr);
  switch (corners - 1) {
#define CUEKIT_CASE(d)                           \
  case d:                                        \
    launch_embed<d>(*this, b, features, stream); \
    break;
    CUEKIT_FOR_ALL_FEATURE_COUNTS(CUEKIT_CASE)
#undef CUEKIT_CASE
    default:
      throw std::invalid_argument("no lattice for this number of features");
  }
  const auto for_entries = [&](auto kernel, std::int64_t count) {
    launch(kernel, ceil_div(count, block_size), block_size, stream, *this, b);
  };
  check(cudaMemsetAsync(b.slots, 0xff, std::size_t{b.slot_count} * sizeof *b.slots, stream));
  for_entries(add_vertices, entries());
  for_entries(mark_first_entries, entries() + 1);
  b.sum(*this, stream);
  for_entries(number_entries, entries());
  const std::int64_t blocks = ceil_div(entries(), block_size);
  launch(find_neighbours, corners * std::min(blocks, most_blocks / corners), block_size, stream,
         *this, b);
  b.sort(*this, stream);
  for_entries(find_starts, entries());

  const float* filtered = nullptr;
  if (normalisation != Normalisation::none)
    filtered = splat_and_blur(*this, nullptr, nullptr, b.values[0], b.values[1],
                              ValueRows{ones_stride, nullptr}, stream);
  // Blurring along all axes makes values 1 + 2^-d times as large.
  const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, 1 - corners));
  launch(normalise_points, ceil_div(points, block_size), block_size, stream, *this, filtered, alpha,
         normalisation);
}

float* splat_and_blur(const PointLattice& lattice, const float* rows, const float* norms,
                      float* values, float* scratch, const ValueRows& layout, cudaStream_t stream) {
  with_group_size(layout, [&](auto size) {
    constexpr int group_size = decltype(size)::value;
    const auto blocks_for = [&](std::int64_t threads) {
      return std::min(ceil_div(lattice.entries() * threads, block_size), most_blocks);
    };
    launch(splat<group_size>, blocks_for(warp_size), block_size, stream, lattice, rows, norms,
           values, layout);
    for (int axis = 0; axis < lattice.corners; ++axis) {
      launch(blur<group_size>, blocks_for(group_size), block_size, stream, lattice, axis,
             static_cast<const float*>(values), scratch, layout);
      std::swap(values, scratch);
    }
  });
  return values;
}

}  // namespace cuekit::cuda
