// random_walk: the affinities of all pairs are computed once; then every product with the matrix of
// a step is a stencil of 2 K neighbours over planes, one for each map, with all SIMD lanes along a
// row.
//
// It takes 6 K operations per cell and map, and reads all affinities. Those of a map of 94 x 125
// cells, 1.8 MB, stay in L2. Up to four maps are worked on together, so that an affinity in a
// register serves all of them.
//
// Planes and affinities are surrounded by zeros as far as the farthest neighbour, so no neighbour
// needs a test. Pairs that do not exist have an affinity of 0.
//
// Bits do not depend on how cells are divided among threads: every product reads one copy of the
// planes and writes another.
#include "cuekit/random_walk.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>
#include <vector>

#include "any_type.h"
#include "float_state.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"
#include "workspace.h"

namespace cuekit::cpu {
namespace {

// Elements before and after arrays, which reads of whole vectors may reach: no fewer than the
// farthest neighbour.
constexpr std::int64_t margin = max_radius;

// Maps that walk at the same time: it bounds the memory of their planes.
constexpr std::int64_t maps_at_a_time = 8;

// Multiplications of a task: some milliseconds.
constexpr std::int64_t task_work = std::int64_t{1} << 24;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

// The layout of planes and affinities in memory.
struct Grid {
  Grid(std::int64_t map_height, std::int64_t map_width, const Offsets& offsets, std::int64_t line)
      : height(map_height),
        width(map_width),
        frame(offsets.reach),
        columns(round_up(width, line)),
        pitch(round_up(width + frame, line)),
        plane((height + 2 * frame) * pitch),
        row_of_affinities(offsets.count * pitch) {}

  std::int64_t height, width;
  std::int64_t frame;    // rows of zeros above and below; columns of zeros after every row
  std::int64_t columns;  // that are computed: whole cache lines
  std::int64_t pitch;    // from row to row of a plane, and from offset to offset of affinities
  std::int64_t plane;    // from plane to plane
  std::int64_t row_of_affinities;  // from row to row
};

// An array of zeros between two margins.
template <class C>
class Zeros {
 public:
  explicit Zeros(std::int64_t count) : memory_(count + 2 * margin) {
    std::fill_n(memory_.get(), count + 2 * margin, C{0});
  }
  C* get() const { return memory_.get() + margin; }

 private:
  Workspace<C> memory_;
};

// One image's transition from step to step.
template <class C>
struct Transition {
  Transition(const Offsets& all, std::int64_t height, std::int64_t width)
      : offsets(all),
        grid(height, width, all, 64 / static_cast<std::int64_t>(sizeof(C))),
        affinity_memory(grid.pitch + height * grid.row_of_affinities),
        factor_memory(height * grid.columns),
        affinities(affinity_memory.get() + grid.pitch),
        factors(factor_memory.get()) {}

  // Planes of zeros. Cell (0, 0) of the first is at first_cell().
  Zeros<C> planes(std::int64_t count) const { return Zeros<C>(count * grid.plane); }
  C* first_cell(const Zeros<C>& planes) const { return planes.get() + grid.frame * grid.pitch; }

  // From a cell's first affinity to that of its pair at minus the i-th offset.
  std::int64_t backwards(std::int64_t y, int i) const {
    const Offset& offset = offsets.items[i];
    if (y < offset.dy) return -y * grid.row_of_affinities - grid.pitch - offset.dx;
    return i * grid.pitch - offset.dy * grid.row_of_affinities - offset.dx;
  }

  const Offsets& offsets;
  const Grid grid;
  const Zeros<C> affinity_memory, factor_memory;
  C* const affinities;  // (height, offsets.count, pitch), after a row of zeros
  C* const factors;     // (height, columns): 1 / (1 + sum of affinities); 0 outside the map
};

// What differs from row to row in addresses of the k-th offset.
struct Neighbour {
  std::int64_t cell;       // from a cell of a plane to that at the offset
  std::int64_t backwards;  // Transition::backwards()
};

// Arrays of some maps, and how to go from x_k to x_{k+1} (cuekit/random_walk.h).
template <class C>
struct Recurrence {
  const C* source;  // (maps, plane), from the first cell on: x_k
  C* target;        // (maps, plane), from the first cell on: x_{k+1}, maybe x_{k-1} before
  C* differences;   // (maps, height, columns): d_k, then d_{k+1}
  C* sums;          // (maps, height, columns)
  std::int64_t maps;
  C gain;    // d_{k+1} = d_k + gain (P - 1) x_k
  C weight;  // of d_{k+1} in the sums

  // From another cell on: at another place of a plane, and of an array without frame.
  CUEKIT_INLINE Recurrence moved(std::int64_t framed, std::int64_t plain) const {
    return {source + framed, target + framed, differences + plain, sums + plain, maps, gain,
            weight};
  }
};

// One step of the recurrence for rows [begin, end).
template <class C, int lanes>
struct Step {
  using Vector = Lanes<C, lanes>;

  // `vectors` vectors of cells in `maps` planes. All addresses are those of the first cell.
  template <int maps, int vectors>
  static CUEKIT_INLINE void cells(const Grid& grid, const Neighbour* neighbours,  // (count)
                                  int count,
                                  const C* affinities,  // (count, pitch)
                                  const C* factors,     // (columns)
                                  const Recurrence<C>& at) {
    Vector centre[maps][vectors], ahead[maps][vectors], behind[maps][vectors];
#pragma GCC unroll 4
    for (int m = 0; m < maps; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        centre[m][v] = Vector::load(at.source + m * grid.plane + v * lanes);
        ahead[m][v] = behind[m][v] = Vector::zero();
      }
    for (int k = 0; k < count; ++k) {
      const C* const forwards = affinities + k * grid.pitch;
      const C* const backwards = affinities + neighbours[k].backwards;
      const std::int64_t cell = neighbours[k].cell;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const Vector first = Vector::load(forwards + v * lanes);
        const Vector second = Vector::load(backwards + v * lanes);
#pragma GCC unroll 4
        for (int m = 0; m < maps; ++m) {
          const C* const here = at.source + m * grid.plane + v * lanes;
          ahead[m][v] = ahead[m][v] + first * (Vector::load(here + cell) - centre[m][v]);
          behind[m][v] = behind[m][v] + second * (Vector::load(here - cell) - centre[m][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Vector factor = Vector::load(factors + v * lanes) * at.gain;
#pragma GCC unroll 4
      for (int m = 0; m < maps; ++m) {
        C* const kept = at.differences + m * grid.height * grid.columns + v * lanes;
        const Vector difference = Vector::load(kept) + (ahead[m][v] + behind[m][v]) * factor;
        const Vector next = centre[m][v] + difference;
        difference.store(kept);
        next.store(at.target + m * grid.plane + v * lanes);
        C* const sum = at.sums + m * grid.height * grid.columns + v * lanes;
        (Vector::load(sum) + difference * at.weight).store(sum);
      }
    }
  }

  // One row of `maps` planes. With few maps, several vectors at a time, so that enough sums are
  // independent of each other.
  template <int maps>
  static CUEKIT_INLINE void row(const Grid& grid, const Neighbour* neighbours, int count,
                                const C* affinities, const C* factors, Recurrence<C>& at) {
    constexpr int vectors = maps == 1 ? 4 : maps == 2 ? 2 : 1;
    const Recurrence<C> first = at;
    std::int64_t x = 0;
    for (; x + vectors * lanes <= grid.columns; x += vectors * lanes)
      cells<maps, vectors>(grid, neighbours, count, affinities + x, factors + x, first.moved(x, x));
    if constexpr (vectors > 1)
      for (; x < grid.columns; x += lanes)
        cells<maps, 1>(grid, neighbours, count, affinities + x, factors + x, first.moved(x, x));
    at = at.moved(maps * grid.plane, maps * grid.height * grid.columns);
    at.maps -= maps;
  }

  static CUEKIT_INLINE void run(const Transition<C>* transition, const Recurrence<C>* recurrence,
                                std::int64_t begin, std::int64_t end) {
    const Grid& grid = transition->grid;
    const int count = transition->offsets.count;
    Neighbour neighbours[max_offsets];
    for (std::int64_t y = begin; y < end; ++y) {
      for (int i = 0; i < count; ++i) {
        const Offset& offset = transition->offsets.items[i];
        neighbours[i] = {offset.dy * grid.pitch + offset.dx, transition->backwards(y, i)};
      }
      const C* const affinities = transition->affinities + y * grid.row_of_affinities;
      const C* const factors = transition->factors + y * grid.columns;
      Recurrence<C> at = recurrence->moved(y * grid.pitch, y * grid.columns);
      while (at.maps >= 4) row<4>(grid, neighbours, count, affinities, factors, at);
      if (at.maps == 3) row<3>(grid, neighbours, count, affinities, factors, at);
      if (at.maps == 2) row<2>(grid, neighbours, count, affinities, factors, at);
      if (at.maps == 1) row<1>(grid, neighbours, count, affinities, factors, at);
    }
  }
};

template <class C>
void step(const Transition<C>& transition, const Recurrence<C>& recurrence, int threads) {
  constexpr int size = static_cast<int>(sizeof(C));
  const Grid& grid = transition.grid;
  const std::int64_t work = 2 * std::max<std::int64_t>(grid.row_of_affinities, 1) * recurrence.maps;
  const std::int64_t most = (grid.height + threads - 1) / threads;
  const std::int64_t rows = std::clamp<std::int64_t>(task_work / work, 1, most);
  parallel_for((grid.height + rows - 1) / rows, threads, [&](std::int64_t task) {
    const DenormalsFlushed state;
    const std::int64_t begin = task * rows;
    dispatch_width<Step<C, 16 / size>, Step<C, 32 / size>>(&transition, &recurrence, begin,
                                                           std::min(begin + rows, grid.height));
  });
}

// The arrays of a call that computes in C.
template <class C>
struct Arrays {
  Source maps;             // (B, C, h, w)
  Source given;            // a boundary (B, h, w), or affinities (B, K, h, w)
  bool has_boundary;       // which of them
  double lowest, largest;  // that is valid in `given`: rounding may have left [0, 1]
  Target<C> out;           // (B, C, h, w)
  double largest_of_out;

  // Reads `count` values of `given` from number `first` on, clipped. Returns false if one is not
  // valid.
  bool read_given(std::int64_t first, std::int64_t count, double* values) const {
    given.read(first, 1, count, values);
    bool valid = true;
    for (std::int64_t i = 0; i < count; ++i) {
      if (!(values[i] >= lowest && values[i] <= largest)) valid = false;
      values[i] = clipped(values[i]);
    }
    return valid;
  }
};

// affinities[k][x] = the least of `passable` on the path of the k-th offset from cell x, for a row.
struct LeastOnPaths {
  template <class C>
  static CUEKIT_INLINE void run(const Transition<C>* transition,
                                const C* passable,  // (plane), from the row's first cell on
                                C* affinities) {    // (count, pitch)
    const Grid& grid = transition->grid;
    for (int i = 0; i < transition->offsets.count; ++i) {
      const Offset& offset = transition->offsets.items[i];
      C* __restrict const row = affinities + i * grid.pitch;
      for (std::int64_t x = 0; x < grid.columns; ++x) row[x] = passable[x];
      for (int dy = 0; dy <= offset.dy; ++dy)
        for (int dx = std::min<int>(0, offset.dx); dx <= std::max<int>(0, offset.dx); ++dx) {
          if (!on_path(offset, dy, dx)) continue;
          const C* const other = passable + dy * grid.pitch + dx;
          for (std::int64_t x = 0; x < grid.columns; ++x)
            row[x] = other[x] < row[x] ? other[x] : row[x];
        }
    }
  }
};

// Returns false if a value is not valid.
template <class C>
bool affinities_from_boundary(const Arrays<C>& arrays,
                              std::int64_t first,  // value of the boundary
                              const Transition<C>& transition, double beta, int threads) {
  const Grid& grid = transition.grid;
  // (1 - boundary)^beta. Powers keep the order, so they are taken before the minimum. Outside the
  // map it is 0, so pairs that do not exist get 0.
  const Zeros<C> plane = transition.planes(1);
  C* const passable = transition.first_cell(plane);
  std::atomic<bool> valid{true};
  parallel_for(grid.height, threads, [&](std::int64_t y) {
    std::vector<double> row(grid.width);
    if (!arrays.read_given(first + y * grid.width, grid.width, row.data())) valid = false;
    for (std::int64_t x = 0; x < grid.width; ++x)
      passable[y * grid.pitch + x] = static_cast<C>(affinity_power(1.0 - row[x], beta));
  });
  parallel_for(grid.height, threads, [&](std::int64_t y) {
    dispatch<LeastOnPaths>(&transition, static_cast<const C*>(passable + y * grid.pitch),
                           transition.affinities + y * grid.row_of_affinities);
  });
  return valid;
}

// Returns false if a value is not valid, also of a pair that does not exist.
template <class C>
bool affinities_as_given(const Arrays<C>& arrays,
                         std::int64_t first,  // value of the affinities
                         std::int64_t planes, const Transition<C>& transition, double beta,
                         int threads) {
  const Grid& grid = transition.grid;
  const Offsets& offsets = transition.offsets;
  std::atomic<bool> valid{true};
  parallel_for(grid.height, threads, [&](std::int64_t y) {
    std::vector<double> values(grid.width);
    int i = 0;  // the next offset
    for (std::int64_t k = 0; k < planes; ++k) {
      const std::int64_t here = first + (k * grid.height + y) * grid.width;
      if (!arrays.read_given(here, grid.width, values.data())) valid = false;
      if (i == offsets.count || offsets.items[i].k != k) continue;
      C* const row = transition.affinities + y * grid.row_of_affinities + i * grid.pitch;
      const Offset& offset = offsets.items[i++];
      if (y + offset.dy >= grid.height) continue;
      const std::int64_t end = std::min<std::int64_t>(grid.width, grid.width - offset.dx);
      for (std::int64_t x = std::max(0, -offset.dx); x < end; ++x)
        row[x] = static_cast<C>(affinity_power(values[x], beta));
    }
  });
  return valid;
}

struct FindFactors {
  template <class C>
  static CUEKIT_INLINE void run(const Transition<C>* transition, std::int64_t y) {
    const Grid& grid = transition->grid;
    const C* const affinities = transition->affinities + y * grid.row_of_affinities;
    C* __restrict const sums = transition->factors + y * grid.columns;
    std::fill_n(sums, grid.width, C{1});
    for (int i = 0; i < transition->offsets.count; ++i) {
      const C* const forwards = affinities + i * grid.pitch;
      const C* const backwards = affinities + transition->backwards(y, i);
      for (std::int64_t x = 0; x < grid.width; ++x) sums[x] += forwards[x] + backwards[x];
    }
    for (std::int64_t x = 0; x < grid.width; ++x) sums[x] = C{1} / sums[x];
  }
};

// Some maps of image b. Returns false if a value is not finite.
template <class C>
bool walk(const Arrays<C>& arrays, std::int64_t b,
          std::int64_t first,  // value of the maps
          std::int64_t count, const std::vector<double>& weights, const Transition<C>& transition,
          int threads) {
  const Grid& grid = transition.grid;
  const std::int64_t plain = count * grid.height * grid.columns;
  const Zeros<C> planes[] = {transition.planes(count), transition.planes(count)};
  const Zeros<C> differences(plain), sums(plain);
  C* source = transition.first_cell(planes[0]);
  C* target = transition.first_cell(planes[1]);
  std::atomic<bool> finite{true};
  parallel_for(count * grid.height, threads, [&](std::int64_t task) {
    const std::int64_t m = task / grid.height, y = task % grid.height;
    const std::int64_t here = first + task * grid.width;
    std::vector<double> row(grid.width), boundary(grid.width);
    if (!arrays.maps.finite(here, grid.width)) finite = false;
    arrays.maps.read(here, 1, grid.width, row.data());
    if (arrays.has_boundary)  // which was checked before
      arrays.read_given((b * grid.height + y) * grid.width, grid.width, boundary.data());
    C* const scaled = source + m * grid.plane + y * grid.pitch;
    C* const sum = sums.get() + task * grid.columns;
    for (std::int64_t x = 0; x < grid.width; ++x)
      sum[x] = scaled[x] = static_cast<C>(scaled_down(row[x], 1.0 - boundary[x]));
  });
  if (!finite) return false;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    const C gain = k == 0 ? C{1} : C{2}, weight = static_cast<C>(weights[k]);
    step<C>(transition, {source, target, differences.get(), sums.get(), count, gain, weight},
            threads);
    std::swap(source, target);
  }
  parallel_for(count * grid.height, threads, [&](std::int64_t task) {
    const C* const sum = sums.get() + task * grid.columns;
    const double largest = arrays.largest_of_out;
    std::vector<C> row(grid.width);
    for (std::int64_t x = 0; x < grid.width; ++x)
      row[x] = static_cast<C>(std::clamp(scaled_up<double>(sum[x]), -largest, largest));
    arrays.out.write(first + task * grid.width, 1, grid.width, row.data());
  });
  return true;
}

// A batch, computed in C. Returns false if a value is not valid.
template <class C>
bool walk_on_images(const Arrays<C>& arrays, const RandomWalkParams& p, int all_threads) {
  const Offsets offsets = all_offsets(p.radius, p.height, p.width);
  const std::vector<double> weights = walk_weights(p.steps, walk_tolerance<C>);
  const std::int64_t cells = p.height * p.width;
  const std::int64_t passes = (p.channels + maps_at_a_time - 1) / maps_at_a_time;
  std::atomic<bool> valid{true};
  for_each_image(p.batch, all_threads, [&](std::int64_t b, int threads) {
    const Transition<C> transition(offsets, p.height, p.width);
    if (!(arrays.has_boundary
              ? affinities_from_boundary(arrays, b * cells, transition, p.beta, threads)
              : affinities_as_given(arrays, b * p.offsets * cells, p.offsets, transition, p.beta,
                                    threads))) {
      valid = false;
      return;
    }
    parallel_for(p.height, threads, [&](std::int64_t y) { dispatch<FindFactors>(&transition, y); });
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t begin = pass * p.channels / passes;
      const std::int64_t end = (pass + 1) * p.channels / passes;
      const std::int64_t first = (b * p.channels + begin) * cells;
      if (!walk(arrays, b, first, end - begin, weights, transition, threads)) valid = false;
    }
  });
  return valid;
}

}  // namespace

template <class T, class E>
bool random_walk(const T* maps, const E* boundary, const E* affinities, T* out,
                 const RandomWalkParams& p, Context& context) {
  using C = walk_type<T>;
  const Arrays<C> arrays{Source(maps),
                         Source(boundary != nullptr ? boundary : affinities),
                         boundary != nullptr,
                         load(store<E>(-rounding_tolerance)),
                         load(store<E>(1.0 + rounding_tolerance)),
                         Target<C>(out),
                         load(scaled_up<T>(std::numeric_limits<C>::max()))};
  return walk_on_images<C>(arrays, p, context.threads);
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

}  // namespace cuekit::cpu
