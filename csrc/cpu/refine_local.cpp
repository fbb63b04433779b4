// refine_local: the weights of all pixels are computed once, then few maps at a time go through all
// iterations.
//
// An iteration reads 48 weights (with six dilations) and 48 neighbours of every pixel. For one
// neighbour, the pixels of a row read consecutive weights and consecutive values of another row, so
// a SIMD vector is some pixels of a row. Weights lie in blocks of 16 pixels, in the order in which
// they are read. One load of weights serves all maps of a group, whose sums stay in registers. Rows
// have borders that hold the nearest pixel's value, and pointers to the rows above and below are
// clamped: no neighbour needs a test.
//
// Without contraction into FMA, a neighbour costs one multiplication and one addition per map and
// vector: with AVX-512 at 2.6 GHz at least 1.15 ns per pixel, map and iteration. Rows in L1
// take 1.8 ns, because most loads of neighbours cross a cache line; a photo of 375 x 500 takes 2.4
// ns, because its weights come from L3 or memory.
//
// Memory per pixel: 4 bytes of weights per neighbour (8 for float64), and two copies of a group's
// maps with their borders. Weights are read from memory once per group and iteration, so a group
// has as many maps as 250 bytes per pixel with six dilations allow.
//
// Of a large photo that would be gigabytes, whose pages the system clears in up to half of the
// time. It is refined in waves from its top to its bottom instead: every iteration follows the one
// before at a distance of some rows, and only the rows between the first and the last step are in
// memory.
#include "cuekit/refine_local.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "any_type.h"
#include "float_state.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"
#include "workspace.h"

namespace cuekit::cpu {
namespace {

constexpr int block = 16;     // pixels, whose weights lie side by side: the widest vector of floats
constexpr int most_maps = 5;  // of a group
constexpr std::int64_t rows_of_task = 8;
constexpr int most_neighbours = 8 * most_dilations;

constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b * b; }

// Of row y among the `rows` last ones.
constexpr std::int64_t place_of(std::int64_t y, std::int64_t rows) {
  return y < rows ? y : y % rows;
}

// Some planes of pixels: row y of each, then row y + 1 of each. All rows have a border. With fewer
// rows than the photo, row y takes the place of row y - rows.
struct Planes {
  Planes(const RefineLocalParams& p, std::int64_t plane_count, std::int64_t row_count)
      : height(p.height),
        width(p.width),
        count(plane_count),
        rows(row_count),
        blocks(round_up(p.width, block) / block) {
    for (int k = 0; k < p.dilation_count; ++k)
      reach = std::max<std::int64_t>(reach, std::min<std::int64_t>(p.dilations[k], p.width - 1));
    border = round_up(reach, block);
    // Rows that are a multiple of 1 KB apart would share few sets of L1.
    stride = blocks * block + 2 * border;
    if (stride % 256 == 0) stride += block;
  }

  std::int64_t size() const { return rows * count * stride; }
  std::int64_t offset(std::int64_t y, std::int64_t plane) const {
    return (place_of(y, rows) * count + plane) * stride + border;
  }
  std::int64_t clamped_row(std::int64_t y) const {
    return std::clamp<std::int64_t>(y, 0, height - 1);
  }

  // Fills what is beside the pixels of a row.
  template <class Real>
  void fill_border(Real* row) const {  // at its first pixel
    std::fill(row - border, row, row[0]);
    std::fill(row + width, row + stride - border, row[width - 1]);
  }

  // Where the neighbours of row y's first pixel lie in the first plane. Those of the next pixels
  // follow, up to the last block's last: reads stay within the row and its border.
  template <class Real>
  void find_neighbours(const RefineLocalParams& p, const Real* planes, std::int64_t y,
                       const Real** neighbours) const {  // (8 * dilations)
    for (int k = 0; k < p.dilation_count; ++k) {
      const std::int64_t dy = std::min<std::int64_t>(p.dilations[k], height);
      const std::int64_t dx = std::min<std::int64_t>(p.dilations[k], width - 1);
      for (int i = 0; i < 8; ++i)
        *neighbours++ =
            planes + offset(clamped_row(y + direction_y(i) * dy), 0) + direction_x(i) * dx;
    }
  }

  std::int64_t height, width, count, rows, blocks;
  std::int64_t reach = 0, border = 0, stride = 0;
};

struct Rows {
  std::int64_t first, end;
};

// Calls body(rows) for some rows at a time, on all threads.
template <class Body>
void for_rows(std::int64_t height, int threads, Body&& body) {
  parallel_for((height + rows_of_task - 1) / rows_of_task, threads, [&](std::int64_t task) {
    // Maps and weights decay to values as small as one likes, and denormals are slow.
    const DenormalsFlushed state;
    body(Rows{task * rows_of_task, std::min(height, (task + 1) * rows_of_task)});
  });
}

// ---- weights ----

template <class Real>
void read_photo(const Source& photo,  // (H, W, channels), or (channels, H, W)
                Real* pixels,         // planes
                const RefineLocalParams& p, const Planes& planes, Rows rows) {
  const std::int64_t step = p.channels_first ? 1 : p.photo_channels;
  for (std::int64_t y = rows.first; y < rows.end; ++y) {
    for (std::int64_t c = 0; c < p.photo_channels; ++c) {
      const std::int64_t first =
          p.channels_first ? (c * p.height + y) * p.width : y * p.width * p.photo_channels + c;
      Real* const row = pixels + planes.offset(y, c);
      photo.read(first, step, p.width, row);
      for (std::int64_t x = 0; x < p.width; ++x) row[x] = photo_value<Real>(row[x]);
      planes.fill_border(row);
    }
  }
}

// The weights of one row.
struct RowWeights {
  // Adds one neighbour's terms of a channel to the sums of a block. The first channel's are the
  // sums. __restrict: otherwise there is a second loop, for arrays that overlap.
  template <class Real, class Term>
  static CUEKIT_INLINE void add_terms_of_one(bool first,
                                             const Real* __restrict neighbour,  // (block)
                                             const Real* __restrict pixel,      // (block)
                                             const Real* __restrict deviation,  // (block)
                                             Real* __restrict sums,             // (block)
                                             Term term) {
    if (first)
      for (int j = 0; j < block; ++j) sums[j] = term(neighbour[j], pixel[j], deviation[j]);
    else
      for (int j = 0; j < block; ++j) sums[j] += term(neighbour[j], pixel[j], deviation[j]);
  }
  // The same for all neighbours, whose values begin `shift` from neighbours[n].
  template <class Real, class Term>
  static CUEKIT_INLINE void add_terms(bool first, const Real* const* neighbours, int count,
                                      std::int64_t shift, const Real* pixel, const Real* deviation,
                                      Real* sums,  // (neighbours, block)
                                      Term term) {
    for (int n = 0; n < count; ++n)
      add_terms_of_one(first, neighbours[n] + shift, pixel, deviation, sums + n * block, term);
  }

  template <class Real>
  static CUEKIT_INLINE void run(const RefineLocalParams* p, const Planes* planes,
                                const Real* pixels,             // photo planes
                                const Real* const* neighbours,  // (neighbours), in plane 0
                                std::int64_t y,
                                Real* weights) {  // (blocks, neighbours, block)
    const bool par = p->affinity == LocalAffinity::par;
    const int count = p->neighbours();
    // How often the pixel itself is among the samples.
    const double own = par ? 0.0 : p->dilation_count, samples = p->samples();
    for (std::int64_t b = 0; b < planes->blocks; ++b) {
      Real* const w = weights + b * count * block;
      for (std::int64_t c = 0; c < p->photo_channels; ++c) {
        const Real* const pixel = pixels + planes->offset(y, c) + b * block;
        const std::int64_t shift = c * planes->stride + b * block;
        double mean[block], squares[block];
        for (int j = 0; j < block; ++j) mean[j] = own * pixel[j];
        for (int n = 0; n < count; ++n) {
          const Real* const row = neighbours[n] + shift;
          for (int j = 0; j < block; ++j) mean[j] += row[j];
        }
        for (int j = 0; j < block; ++j) {
          mean[j] /= samples;
          const double difference = pixel[j] - mean[j];
          squares[j] = own * (difference * difference);
        }
        for (int n = 0; n < count; ++n) {
          const Real* const row = neighbours[n] + shift;
          for (int j = 0; j < block; ++j) {
            const double difference = row[j] - mean[j];
            squares[j] += difference * difference;
          }
        }
        Real deviation[block];
        for (int j = 0; j < block; ++j)
          deviation[j] = static_cast<Real>(std::sqrt(squares[j] / (samples - 1.0)));
        if (par)
          add_terms(c == 0, neighbours, count, shift, pixel, deviation, w, par_term<Real>);
        else
          add_terms(c == 0, neighbours, count, shift, pixel, deviation, w, pamr_term<Real>);
      }
      Real largest[block];
      double total[block];
      const Real channels = static_cast<Real>(p->photo_channels);
      std::fill_n(largest, block, -std::numeric_limits<Real>::infinity());
      for (int n = 0; n < count; ++n) {
        Real* const a = w + n * block;
        for (int j = 0; j < block; ++j) {
          a[j] = mean_of_terms(a[j], channels);
          largest[j] = largest[j] < a[j] ? a[j] : largest[j];
        }
      }
      for (int j = 0; j < block; ++j) total[j] = 0.0;
      for (int n = 0; n < count; ++n) {
        Real* const a = w + n * block;
        for (int j = 0; j < block; ++j) {
          a[j] = softmax_exp(a[j] - largest[j]);
          total[j] += a[j];
        }
      }
      Real factor[block];
      for (int j = 0; j < block; ++j) factor[j] = static_cast<Real>(1.0 / total[j]);
      for (int n = 0; n < count; ++n) {
        Real* const a = w + n * block;
        const Real distance = static_cast<Real>(distance_weight(*p, n));
        for (int j = 0; j < block; ++j) a[j] = a[j] * factor[j] + distance;
      }
    }
  }
};

// Weights of all pixels, or of the last rows.
template <class Real>
struct Weights {
  const Real* row(std::int64_t y) const { return values + place_of(y, rows) * row_size; }
  Real* row(std::int64_t y) { return values + place_of(y, rows) * row_size; }

  Real* values;  // (rows, blocks, neighbours, block)
  std::int64_t rows, row_size;
};

template <class Real>
void find_weights(const Real* pixels,  // planes
                  Weights<Real> weights, const RefineLocalParams& p, const Planes& planes,
                  Rows rows) {
  const Real* neighbours[most_neighbours];
  for (std::int64_t y = rows.first; y < rows.end; ++y) {
    planes.find_neighbours(p, pixels, y, neighbours);
    dispatch_avx512<RowWeights>(&p, &planes, pixels, static_cast<const Real* const*>(neighbours), y,
                                weights.row(y));
  }
}

// ---- maps ----

// Reads a group of maps at the photo's size.
template <class Real>
void read_maps(const Source& maps,        // (count, h, w)
               const CornerTap* columns,  // (W)
               Real* values,              // planes
               const RefineLocalParams& p, const Planes& planes, Rows rows) {
  std::vector<double> low(p.in_width), high(p.in_width);
  for (std::int64_t y = rows.first; y < rows.end; ++y) {
    const CornerTap tap = corner_tap(y, p.in_height, p.height);
    for (std::int64_t k = 0; k < planes.count; ++k) {
      const std::int64_t map = k * p.in_height;
      Real* const row = values + planes.offset(y, k);
      if (tap.weight == 0.0 && p.in_width == p.width) {
        maps.read((map + tap.low) * p.in_width, 1, p.width, row);
      } else {
        maps.read((map + tap.low) * p.in_width, 1, p.in_width, low.data());
        maps.read((map + tap.high) * p.in_width, 1, p.in_width, high.data());
        for (std::int64_t x = 0; x < p.in_width; ++x)
          low[x] = interpolate(low[x], high[x], tap.weight);
        for (std::int64_t x = 0; x < p.width; ++x) {
          const CornerTap& column = columns[x];
          row[x] = static_cast<Real>(interpolate(low[column.low], low[column.high], column.weight));
        }
      }
      planes.fill_border(row);
    }
  }
}

// One iteration of one row of a group of maps. A vector has `bytes` bytes.
template <int bytes, int maps>
struct RefineRow {
  template <class Real>
  static CUEKIT_INLINE void run(const Real* weights,            // (blocks, neighbours, block)
                                const Real* const* neighbours,  // (neighbours), of the first map
                                std::int64_t blocks, int count, std::int64_t stride,
                                Real* target) {  // at the first pixel of the first map
    using V = Lanes<Real, bytes / static_cast<int>(sizeof(Real))>;
    for (std::int64_t b = 0; b < blocks; ++b) {
      for (int part = 0; part < block; part += V::size) {
        const std::int64_t x = b * block + part;
        const Real* factors = weights + b * count * block + part;
        V sums[maps];
        for (int k = 0; k < maps; ++k) sums[k] = V::zero();
        for (int n = 0; n < count; ++n, factors += block) {
          const V factor = V::load(factors);
          // The next block's: the hardware prefetcher stops at the end of a page.
          if (part == 0) prefetch(factors + count * block, block);
          const Real* const values = neighbours[n] + x;
          for (int k = 0; k < maps; ++k) sums[k] = sums[k] + V::load(values + k * stride) * factor;
        }
        for (int k = 0; k < maps; ++k) sums[k].store(target + k * stride + x);
      }
    }
  }
};

// The same for `map_count` maps, at most `maps`.
template <int maps, class Real>
void refine_row(std::int64_t map_count, const Real* weights, const Real* const* neighbours,
                std::int64_t blocks, int count, std::int64_t stride, Real* target) {
  if constexpr (maps > 1)
    if (map_count < maps)
      return refine_row<maps - 1>(map_count, weights, neighbours, blocks, count, stride, target);
  dispatch_width_avx512<RefineRow<16, maps>, RefineRow<32, maps>, RefineRow<64, maps>>(
      weights, neighbours, blocks, count, stride, target);
}

// One iteration of a group of maps.
template <class Real>
void iterate(const Weights<Real>& weights,
             const Real* source,  // planes
             Real* target,        // planes
             const RefineLocalParams& p, const Planes& planes, Rows rows) {
  const Real* neighbours[most_neighbours];
  for (std::int64_t y = rows.first; y < rows.end; ++y) {
    planes.find_neighbours(p, source, y, neighbours);
    Real* const row = target + planes.offset(y, 0);
    refine_row<most_maps, Real>(planes.count, weights.row(y), neighbours, planes.blocks,
                                p.neighbours(), planes.stride, row);
    for (std::int64_t k = 0; k < planes.count; ++k) planes.fill_border(row + k * planes.stride);
  }
}

// Returns false if a result is not finite.
template <class Real>
bool write_maps(const Real* values,       // planes
                const Target<Real>& out,  // (count, H, W)
                const RefineLocalParams& p, const Planes& planes, Rows rows) {
  bool all_finite = true;
  for (std::int64_t k = 0; k < planes.count; ++k) {
    for (std::int64_t y = rows.first; y < rows.end; ++y)
      out.write((k * p.height + y) * p.width, 1, p.width, values + planes.offset(y, k));
    if (!out.finite((k * p.height + rows.first) * p.width, (rows.end - rows.first) * p.width))
      all_finite = false;
  }
  return all_finite;
}

// ---- one photo ----

// Some maps that are refined together.
struct Group {
  std::int64_t first, count;
};

// Groups of sizes as equal as possible, at most `most_maps`.
std::vector<Group> divide(std::int64_t channels) {
  const std::int64_t count = (channels + most_maps - 1) / most_maps;
  std::vector<Group> groups;
  for (std::int64_t g = 0; g < count; ++g) {
    const std::int64_t first = channels * g / count;
    groups.push_back({first, channels * (g + 1) / count - first});
  }
  return groups;
}

// What all steps of one photo and its maps need.
template <class Real>
struct Photo {
  Source maps;               // (C, h, w)
  const CornerTap* columns;  // (W)
  Source photo;              // (H, W, channels), or (channels, H, W)
  Target<Real> out;          // (C, H, W)
  const RefineLocalParams& p;
  const std::vector<Group>& groups;
  int threads;

  Source maps_of(const Group& group) const {
    return maps.from(group.first * p.in_height * p.in_width);
  }
  Target<Real> out_of(const Group& group) const {
    return out.from(group.first * p.height * p.width);
  }
};

// Whole maps, iteration by iteration and group by group.
template <class Real>
class InSweeps {
 public:
  explicit InSweeps(const Photo<Real>& of)
      : of_(of),
        photo_planes_(of.p, of.p.photo_channels, of.p.height),
        weights_{nullptr, of.p.height, photo_planes_.blocks * of.p.neighbours() * block} {
    for (const Group& group : of.groups)
      map_size_ = std::max(map_size_, Planes(of.p, group.count, of.p.height).size());
  }

  std::int64_t size() const {
    return of_.p.iterations == 0
               ? map_size_
               : weights_.rows * weights_.row_size + std::max(2 * map_size_, photo_planes_.size());
  }

  // Returns false if a result is not finite.
  bool run() {
    const RefineLocalParams& p = of_.p;
    const Workspace<Real> workspace(size());
    Real* scratch = workspace.get();
    if (p.iterations > 0) {
      weights_.values = scratch;
      scratch += weights_.rows * weights_.row_size;
      for_rows(p.height, of_.threads,
               [&](Rows rows) { read_photo(of_.photo, scratch, p, photo_planes_, rows); });
      for_rows(p.height, of_.threads,
               [&](Rows rows) { find_weights<Real>(scratch, weights_, p, photo_planes_, rows); });
    }
    std::atomic<bool> finite{true};
    for (const Group& group : of_.groups) {
      const Planes planes(p, group.count, p.height);
      Real *source = scratch, *target = scratch + planes.size();
      for_rows(p.height, of_.threads, [&](Rows rows) {
        read_maps(of_.maps_of(group), of_.columns, source, p, planes, rows);
      });
      for (std::int64_t i = 0; i < p.iterations; ++i) {
        for_rows(p.height, of_.threads,
                 [&](Rows rows) { iterate<Real>(weights_, source, target, p, planes, rows); });
        std::swap(source, target);
      }
      for_rows(p.height, of_.threads, [&](Rows rows) {
        if (!write_maps(source, of_.out_of(group), p, planes, rows)) finite = false;
      });
    }
    return finite;
  }

 private:
  const Photo<Real>& of_;
  Planes photo_planes_;
  Weights<Real> weights_;
  std::int64_t map_size_ = 0;
};

// All steps of all groups in one pass over the photo. A chunk is so many rows that a pixel's
// neighbours are in its own chunk or a next one. In wave w each step works on one chunk:
//   reading the photo           w
//   reading the maps            w - 1
//   weights                     w - 2
//   iteration i of n, from 1    w - 1 - 2 i
//   writing                     w - 2 - 2 n
// What a step reads was complete before the wave, so the steps of a wave are independent tasks.
template <class Real>
class InWaves {
 public:
  explicit InWaves(const Photo<Real>& of)
      : of_(of),
        chunk_(round_up(std::clamp<std::int64_t>(
                            *std::max_element(of.p.dilations, of.p.dilations + of.p.dilation_count),
                            1, of.p.height),
                        rows_of_task)),
        photo_planes_(of.p, of.p.photo_channels, kept_chunks * chunk_),
        weights_{nullptr, 2 * of.p.iterations * chunk_,
                 photo_planes_.blocks * of.p.neighbours() * block} {
    for (const Group& group : of.groups)
      map_planes_.emplace_back(of.p, group.count, photo_planes_.rows);
  }

  std::int64_t size() const {
    std::int64_t sum = weights_.rows * weights_.row_size + photo_planes_.size();
    for (const Planes& planes : map_planes_) sum += (of_.p.iterations + 1) * planes.size();
    return sum;
  }

  // Returns false if a result is not finite.
  bool run() {
    const Workspace<Real> workspace(size());
    weights_.values = workspace.get();
    pixels_ = weights_.values + weights_.rows * weights_.row_size;
    const std::int64_t groups = of_.groups.size(), iterations = of_.p.iterations;
    values_.assign(1, pixels_ + photo_planes_.size());
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t i = 0; i <= iterations; ++i)
        values_.push_back(values_.back() + map_planes_[g].size());
    const std::int64_t steps = 2 + groups * (iterations + 2);
    const std::int64_t chunks = (of_.p.height + chunk_ - 1) / chunk_;
    const std::int64_t parts = chunk_ / rows_of_task;
    for (std::int64_t wave = 0; wave < chunks + 2 + 2 * iterations; ++wave) {
      parallel_for(steps * parts, of_.threads, [&](std::int64_t task) {
        const DenormalsFlushed state;
        run_step(task / parts, wave, task % parts * rows_of_task);
      });
    }
    return finite_;
  }

 private:
  // Of the planes that a step writes: one that it writes, and three that the next step reads.
  static constexpr std::int64_t kept_chunks = 4;

  void run_step(std::int64_t step, std::int64_t wave, std::int64_t part) {
    const RefineLocalParams& p = of_.p;
    const auto rows_at = [&](std::int64_t chunk) {
      const std::int64_t first = chunk < 0 ? p.height : chunk * chunk_ + part;
      return Rows{first, std::min(p.height, first + rows_of_task)};
    };
    if (step == 0) return read_photo(of_.photo, pixels_, p, photo_planes_, rows_at(wave));
    if (step == 1)
      return find_weights<Real>(pixels_, weights_, p, photo_planes_, rows_at(wave - 2));
    const std::int64_t g = (step - 2) / (p.iterations + 2), i = (step - 2) % (p.iterations + 2);
    const Group& group = of_.groups[g];
    const Planes& planes = map_planes_[g];
    Real* const* const values = values_.data() + g * (p.iterations + 1);
    if (i == 0)
      return read_maps(of_.maps_of(group), of_.columns, values[0], p, planes, rows_at(wave - 1));
    if (i <= p.iterations)
      return iterate<Real>(weights_, values[i - 1], values[i], p, planes,
                           rows_at(wave - 1 - 2 * i));
    const Rows rows = rows_at(wave - 2 - 2 * p.iterations);
    if (rows.first < rows.end &&
        !write_maps(values[p.iterations], of_.out_of(group), p, planes, rows))
      finite_ = false;
  }

  const Photo<Real>& of_;
  std::int64_t chunk_;  // rows
  Planes photo_planes_;
  Weights<Real> weights_;
  std::vector<Planes> map_planes_;  // of each group
  Real* pixels_ = nullptr;
  std::vector<Real*> values_;  // of each group, before the first iteration and after each
  std::atomic<bool> finite_{true};
};

bool all_finite(const Source& values, std::int64_t count, int threads) {
  constexpr std::int64_t part = 1 << 16;
  std::atomic<bool> finite{true};
  parallel_for((count + part - 1) / part, threads, [&](std::int64_t i) {
    const std::int64_t begin = i * part;
    if (!values.finite(begin, std::min(part, count - begin))) finite = false;
  });
  return finite;
}

// A batch. Returns false if a value that is read or written is not finite.
template <class Real>
bool refine(const Source& maps, const Source& photos, const Target<Real>& out,
            const RefineLocalParams& p, int all_threads) {
  const std::int64_t in_pixels = p.in_height * p.in_width, pixels = p.height * p.width;
  if (!all_finite(maps, p.batch * p.channels * in_pixels, all_threads)) return false;
  if (!all_finite(photos, p.batch * p.photo_channels * pixels, all_threads)) return false;
  std::vector<CornerTap> columns;
  for (std::int64_t x = 0; x < p.width; ++x) columns.push_back(corner_tap(x, p.in_width, p.width));
  const std::vector<Group> groups = divide(p.channels);
  std::atomic<bool> finite{true};
  for_each_image(p.batch, all_threads, [&](std::int64_t b, int threads) {
    const Photo<Real> photo{maps.from(b * p.channels * in_pixels),
                            columns.data(),
                            photos.from(b * p.photo_channels * pixels),
                            out.from(b * p.channels * pixels),
                            p,
                            groups,
                            threads};
    InSweeps<Real> sweeps(photo);
    InWaves<Real> waves(photo);
    const bool large = p.iterations > 0 && 2 * waves.size() <= sweeps.size();
    if (!(large ? waves.run() : sweeps.run())) finite = false;
  });
  return finite;
}

}  // namespace

template <class T, class P>
bool refine_local(const T* maps, const P* photos, T* out, const RefineLocalParams& p,
                  Context& context) {
  using Real = refine_type<T>;
  return refine<Real>(Source(maps), Source(photos), Target<Real>(out), p, context.threads);
}

#define CUEKIT_INSTANTIATE(T)                                                                 \
  template bool refine_local(const T*, const std::uint8_t*, T*, const RefineLocalParams&,     \
                             Context&);                                                       \
  template bool refine_local(const T*, const half*, T*, const RefineLocalParams&, Context&);  \
  template bool refine_local(const T*, const float*, T*, const RefineLocalParams&, Context&); \
  template bool refine_local(const T*, const double*, T*, const RefineLocalParams&, Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
