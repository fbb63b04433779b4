// Random walk (equation: cuekit/random_walk.h), a batch of images.
//
// One launch prepares a boundary, one each the affinities, the factors and the maps; then there is
// one launch per product with the matrix of a step, 92 for 256 steps in float; one more writes the
// result. In a product every thread has one cell of four maps: for each offset it reads two
// affinities and two neighbours, 16 bytes each for float. All of it comes from L1 and L2. These
// loads bound the time of large batches; that of a single image is bounded by the latency of the
// launches, some microseconds each.
//
// Planes and affinities have a frame of zeros as wide as the farthest neighbour, so no neighbour
// needs a test.
//
// Workspace, in values of walk_type (float, or double for double maps): per image and framed cell,
// K affinities, 2 more, and 4 per map, the number of maps rounded up to a multiple of 4. A batch is
// divided into parts of at most 4 GB of workspace, at least one image each.
#include <algorithm>
#include <utility>
#include <vector>

#include "arena.h"
#include "cuekit/half.h"
#include "cuekit/random_walk.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

constexpr int maps_per_thread = 4;
// A single image has few cells: small blocks spread them over more multiprocessors.
constexpr int step_threads = 128;

template <class C>
using Maps = Pack<C, maps_per_thread>;

// The layout of a framed plane. Cell (y, x) is at (y + frame, x + frame); a row's frame on the
// right is the next row's on the left.
struct Grid {
  std::int64_t height, width;
  std::int64_t groups;  // of maps_per_thread maps
  std::int64_t frame;
  std::int64_t pitch;  // from row to row
  std::int64_t plane;  // values of a plane

  Grid(const RandomWalkParams& p, const Offsets& offsets)
      : height(p.height),
        width(p.width),
        groups(ceil_div(p.channels, maps_per_thread)),
        frame(offsets.reach),
        pitch(width + frame),
        plane((height + 2 * frame) * pitch + 2 * frame) {}

  __device__ std::int64_t cells() const { return height * width; }
  __device__ std::int64_t framed(std::int64_t cell) const {
    return (cell / width + frame) * pitch + cell % width + frame;
  }
  // The cell at a place of the plane; -1: of the frame.
  __device__ std::int64_t cell_at(std::int64_t place) const {
    const std::int64_t shifted = place - frame;
    if (shifted < 0) return -1;
    const std::int64_t y = shifted / pitch - frame, x = shifted % pitch;
    return y < 0 || y >= height || x >= width ? -1 : y * width + x;
  }
};

// The number of this thread in a grid of blocks of block_size threads.
__device__ std::int64_t thread_number() {
  return std::int64_t{blockIdx.x} * block_size + threadIdx.x;
}

// Every thread has one place of a plane.
template <class E, class C>
__global__ void find_passable(const E* __restrict__ boundary,  // (images, h * w)
                              C* __restrict__ passable,        // (images, plane)
                              std::int64_t images, Grid grid, double beta) {
  const std::int64_t i = thread_number();
  if (i >= images * grid.plane) return;
  const std::int64_t image = i / grid.plane, cell = grid.cell_at(i % grid.plane);
  passable[i] = cell < 0 ? C{0}
                         : static_cast<C>(affinity_power(
                               1.0 - clipped(load(boundary[image * grid.cells() + cell])), beta));
}

// Every thread has one pair, of the i-th offset.
template <class C>
__global__ void affinities_from_boundary(const C* __restrict__ passable,  // (images, plane)
                                         C* __restrict__ affinities,      // (images, count, plane)
                                         std::int64_t images, Grid grid, Offsets offsets) {
  const std::int64_t i = thread_number();
  if (i >= images * offsets.count * grid.plane) return;
  const std::int64_t place = i % grid.plane, map = i / grid.plane;
  C least = C{0};
  if (grid.cell_at(place) >= 0) {
    const Offset offset = offsets.items[map % offsets.count];
    const C* here = passable + map / offsets.count * grid.plane + place;
    least = *here;
    const int left = offset.dx < 0 ? offset.dx : 0, right = offset.dx < 0 ? 0 : offset.dx;
    for (int dy = 0; dy <= offset.dy; ++dy)
      for (int dx = left; dx <= right; ++dx) {
        const C value = here[dy * grid.pitch + dx];
        if (on_path(offset, dy, dx) && value < least) least = value;
      }
  }
  affinities[i] = least;
}

// Every thread has one pair, of the i-th offset.
template <class E, class C>
__global__ void affinities_as_given(const E* __restrict__ given,  // (images, K, h * w)
                                    C* __restrict__ affinities,   // (images, count, plane)
                                    std::int64_t images, Grid grid, Offsets offsets,
                                    RandomWalkParams p) {
  const std::int64_t i = thread_number();
  if (i >= images * offsets.count * grid.plane) return;
  const std::int64_t place = i % grid.plane, map = i / grid.plane, cell = grid.cell_at(place);
  const Offset offset = offsets.items[map % offsets.count];
  C value = C{0};
  if (cell >= 0 && grid.cell_at(place + offset.dy * grid.pitch + offset.dx) >= 0) {
    const E* plane = given + (map / offsets.count * p.offsets + offset.k) * grid.cells();
    value = static_cast<C>(affinity_power(clipped(load(plane[cell])), p.beta));
  }
  affinities[i] = value;
}

// Every thread has one cell: 1 / (1 + sum of affinities).
template <class C>
__global__ void find_factors(const C* __restrict__ affinities,  // (images, count, plane)
                             C* __restrict__ factors,           // (images, h * w)
                             std::int64_t images, Grid grid, Offsets offsets) {
  const std::int64_t i = thread_number();
  if (i >= images * grid.cells()) return;
  const C* here =
      affinities + i / grid.cells() * offsets.count * grid.plane + grid.framed(i % grid.cells());
  C sum = C{1};
  for (int k = 0; k < offsets.count; ++k, here += grid.plane) {
    const std::int64_t step = offsets.items[k].dy * grid.pitch + offsets.items[k].dx;
    sum += here[0] + here[-step];
  }
  factors[i] = C{1} / sum;
}

// Every thread has one place of a group of planes. Both copies get zeros in the frame.
template <class T, class E, class C>
__global__ void read_maps(const T* __restrict__ maps,         // (images, C, h * w)
                          const E* __restrict__ boundary,     // (images, h * w), or null
                          Maps<C>* __restrict__ planes,       // (images, groups, plane)
                          Maps<C>* __restrict__ others,       // (images, groups, plane)
                          Maps<C>* __restrict__ differences,  // (images, groups, h * w)
                          Maps<C>* __restrict__ sums,         // (images, groups, h * w)
                          std::int64_t images, Grid grid, std::int64_t channels) {
  const std::int64_t i = thread_number();
  if (i >= images * grid.groups * grid.plane) return;
  const std::int64_t cell = grid.cell_at(i % grid.plane);
  const std::int64_t image = i / grid.plane / grid.groups;
  const std::int64_t first = i / grid.plane % grid.groups * maps_per_thread;
  Maps<C> values;
  for (int m = 0; m < maps_per_thread; ++m) values.values[m] = C{0};
  if (cell >= 0) {
    const double share =
        boundary == nullptr ? 1.0 : 1.0 - clipped(load(boundary[image * grid.cells() + cell]));
    for (int m = 0; m < maps_per_thread && first + m < channels; ++m)
      values.values[m] =
          scaled_down(maps[(image * channels + first + m) * grid.cells() + cell], share);
  }
  planes[i] = values;
  others[i] = values;
  if (cell < 0) return;
  const std::int64_t plain = i / grid.plane * grid.cells() + cell;
  sums[plain] = values;
  for (C& value : values.values) value = C{0};
  differences[plain] = values;
}

// Every thread has one cell of a group of maps: from x_k to x_{k+1} (cuekit/random_walk.h).
template <class C>
__global__ void walk_step(const C* __restrict__ affinities,    // (images, count, plane)
                          const C* __restrict__ factors,       // (images, h * w)
                          const Maps<C>* __restrict__ source,  // (images, groups, plane)
                          Maps<C>* __restrict__ target,        // (images, groups, plane)
                          Maps<C>* __restrict__ differences,   // (images, groups, h * w)
                          Maps<C>* __restrict__ sums,          // (images, groups, h * w)
                          std::int64_t images, Grid grid, Offsets offsets, C gain, C weight) {
  const std::int64_t i = std::int64_t{blockIdx.x} * step_threads + threadIdx.x;
  if (i >= images * grid.groups * grid.cells()) return;
  const std::int64_t cell = i % grid.cells(), map = i / grid.cells(), image = map / grid.groups;
  const std::int64_t place = grid.framed(cell);
  const C* here = affinities + image * offsets.count * grid.plane + place;
  const Maps<C>* values = source + map * grid.plane + place;
  Maps<C> centre = *values, ahead, behind;
  for (int m = 0; m < maps_per_thread; ++m) ahead.values[m] = behind.values[m] = C{0};
#pragma unroll 4
  for (int k = 0; k < offsets.count; ++k) {
    const std::int64_t step = offsets.items[k].dy * grid.pitch + offsets.items[k].dx;
    const C first = here[k * grid.plane], second = here[k * grid.plane - step];
    const Maps<C> after = values[step], before = values[-step];
#pragma unroll
    for (int m = 0; m < maps_per_thread; ++m) {
      ahead.values[m] += first * (after.values[m] - centre.values[m]);
      behind.values[m] += second * (before.values[m] - centre.values[m]);
    }
  }
  const C factor = factors[image * grid.cells() + cell] * gain;
  Maps<C> difference = differences[i];
  for (int m = 0; m < maps_per_thread; ++m) {
    difference.values[m] += (ahead.values[m] + behind.values[m]) * factor;
    centre.values[m] += difference.values[m];
  }
  differences[i] = difference;
  target[map * grid.plane + place] = centre;
  Maps<C> sum = sums[i];
  for (int m = 0; m < maps_per_thread; ++m) sum.values[m] += difference.values[m] * weight;
  sums[i] = sum;
}

// Every thread has one cell of one map.
template <class T, class C>
__global__ void write_maps(const Maps<C>* __restrict__ sums,  // (images, groups, h * w)
                           T* __restrict__ out,               // (images, C, h * w)
                           std::int64_t images, Grid grid, std::int64_t channels) {
  const std::int64_t i = thread_number();
  if (i >= images * channels * grid.cells()) return;
  const std::int64_t cell = i % grid.cells(), map = i / grid.cells();
  const std::int64_t image = map / channels, channel = map % channels;
  const std::int64_t group = image * grid.groups + channel / maps_per_thread;
  out[i] = scaled_up<T>(sums[group * grid.cells() + cell].values[channel % maps_per_thread]);
}

// The arrays for `images` images at a time.
template <class C>
struct Workspace {
  Workspace(std::int64_t images, const Grid& grid, std::int64_t count, Arena& arena)
      : affinities(arena.take<C>(images * count * grid.plane)),
        passable(arena.take<C>(images * grid.plane)),
        factors(arena.take<C>(images * grid.plane)),
        source(arena.take<Maps<C>>(images * grid.groups * grid.plane)),
        target(arena.take<Maps<C>>(images * grid.groups * grid.plane)),
        differences(arena.take<Maps<C>>(images * grid.groups * grid.plane)),
        sums(arena.take<Maps<C>>(images * grid.groups * grid.plane)) {}

  C* affinities;         // (images, count, plane)
  C* passable;           // (images, plane)
  C* factors;            // (images, h * w)
  Maps<C>* source;       // (images, groups, plane)
  Maps<C>* target;       // (images, groups, plane)
  Maps<C>* differences;  // (images, groups, h * w)
  Maps<C>* sums;         // (images, groups, h * w)
};

template <class C>
std::int64_t bytes_for(std::int64_t images, const Grid& grid, std::int64_t count) {
  Arena arena(nullptr);
  const Workspace<C> workspace(images, grid, count, arena);
  return arena.used();
}

}  // namespace

template <class T, class E>
bool random_walk(const T* maps,        // (B, C, h, w)
                 const E* boundary,    // (B, h, w)
                 const E* affinities,  // (B, K, h, w)
                 T* out,               // (B, C, h, w)
                 const RandomWalkParams& p, Context& context) {
  using C = walk_type<T>;
  constexpr std::int64_t most_bytes = std::int64_t{1} << 32;
  const Offsets offsets = all_offsets(p.radius, p.height, p.width);
  const Grid grid(p, offsets);
  const std::vector<double> weights = walk_weights(p.steps, walk_tolerance<C>);
  const std::int64_t cells = p.height * p.width, count = offsets.count;
  const std::int64_t part =
      std::clamp<std::int64_t>(most_bytes / bytes_for<C>(1, grid, count), 1, p.batch);
  void* const memory = context.allocate(bytes_for<C>(part, grid, count));
  for (std::int64_t begin = 0; begin < p.batch; begin += part) {
    const std::int64_t images = std::min(part, p.batch - begin);
    Arena arena(memory);
    const Workspace<C> w(part, grid, count, arena);
    const E* const edges = boundary == nullptr ? nullptr : boundary + begin * cells;
    const auto run = [&](auto kernel, std::int64_t threads, auto... arguments) {
      launch(kernel, ceil_div(threads, block_size), block_size, context.stream, arguments...);
    };
    const std::int64_t pairs = images * count * grid.plane;
    if (edges != nullptr) {
      run(find_passable<E, C>, images * grid.plane, edges, w.passable, images, grid, p.beta);
      run(affinities_from_boundary<C>, pairs, w.passable, w.affinities, images, grid, offsets);
    } else {
      run(affinities_as_given<E, C>, pairs, affinities + begin * p.offsets * cells, w.affinities,
          images, grid, offsets, p);
    }
    run(find_factors<C>, images * cells, w.affinities, w.factors, images, grid, offsets);
    const std::int64_t first = begin * p.channels * cells;
    run(read_maps<T, E, C>, images * grid.groups * grid.plane, maps + first, edges, w.source,
        w.target, w.differences, w.sums, images, grid, p.channels);
    Maps<C>*source = w.source, *target = w.target;
    const std::int64_t blocks = ceil_div(images * grid.groups * cells, step_threads);
    for (std::size_t k = 0; k < weights.size(); ++k) {
      launch(walk_step<C>, blocks, step_threads, context.stream, w.affinities, w.factors, source,
             target, w.differences, w.sums, images, grid, offsets, k == 0 ? C{1} : C{2},
             static_cast<C>(weights[k]));
      std::swap(source, target);
    }
    run(write_maps<T, C>, images * p.channels * cells, w.sums, out + first, images, grid,
        p.channels);
  }
  return true;
}

#define CUEKIT_RANDOM_WALK(T, E) \
  template bool random_walk(const T*, const E*, const E*, T*, const RandomWalkParams&, Context&);
CUEKIT_RANDOM_WALK(half, half)
CUEKIT_RANDOM_WALK(half, float)
CUEKIT_RANDOM_WALK(half, double)
CUEKIT_RANDOM_WALK(float, half)
CUEKIT_RANDOM_WALK(float, float)
CUEKIT_RANDOM_WALK(float, double)
CUEKIT_RANDOM_WALK(double, half)
CUEKIT_RANDOM_WALK(double, float)
CUEKIT_RANDOM_WALK(double, double)
#undef CUEKIT_RANDOM_WALK

}  // namespace cuekit::cuda
