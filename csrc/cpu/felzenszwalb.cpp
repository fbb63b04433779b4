// Kruskal's algorithm with the merge rule of include/cuekit/felzenszwalb.h. What makes it fast:
//
// - Smoothing and costs run row by row, in vectors; the smoothed photo is never stored.
// - An edge is 4 bytes: its first pixel and its direction. Its other pixel follows from them.
// - Edges are put into some ten thousand buckets of nearly equal cost. When a bucket's turn comes,
//   most of its edges lie within one region by now, or touch a region that can merge no more; only
//   the others, a quarter of all, are sorted. Those that step 3 rejects are kept for step 4, which
//   sorts the few that still part a small region from another.
// - Regions are a forest of parents, joined by size. Now and then every path is halved in one
//   sweep, so that one look at the parents usually tells whether two pixels belong together.
//
// Memory per pixel: costs 32 bytes, bucket numbers 8, edges 16, parents 4, regions 8; and for each
// edge of the largest bucket, few but in photos of flat colour, 8 bytes.
#include "cuekit/felzenszwalb.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "finite.h"
#include "kernels.h"
#include "parallel.h"
#include "simd.h"
#include "workspace.h"

namespace cuekit::cpu {
namespace {

inline std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

// ---- smoothing ----

struct Convert {
  template <class T>
  static CUEKIT_INLINE void run(const T* values, std::int64_t count, double* __restrict out) {
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_integral_v<T>)
        out[i] = values[i] * (1.0 / 255);
      else
        out[i] = load(values[i]);
    }
  }
};

// out[i] = the filter over rows[0..2R][i], of which rows[R] is the middle.
struct Smooth {
  static CUEKIT_INLINE void run(const double* const* rows, const double* weights,
                                std::int64_t radius, std::int64_t count, double* __restrict out) {
    // The radii of usual sigmas: a sum stays in its register.
    switch (radius) {
      case 1:
        return of_radius<1>(rows, weights, count, out);
      case 2:
        return of_radius<2>(rows, weights, count, out);
      case 3:
        return of_radius<3>(rows, weights, count, out);
      case 4:
        return of_radius<4>(rows, weights, count, out);
    }
    const double* const middle = rows[radius];
    for (std::int64_t i = 0; i < count; ++i) out[i] = middle[i] * weights[0];
    for (std::int64_t j = radius; j > 0; --j) {
      const double *const before = rows[radius - j], *const after = rows[radius + j];
      const double weight = weights[j];
      for (std::int64_t i = 0; i < count; ++i) out[i] += (before[i] + after[i]) * weight;
    }
  }

  template <int radius>
  static CUEKIT_INLINE void of_radius(const double* const* rows, const double* weights,
                                      std::int64_t count, double* __restrict out) {
    const double* tap[2 * radius + 1];
    double weight[radius + 1];
    for (int j = 0; j <= 2 * radius; ++j) tap[j] = rows[j];
    for (int j = 0; j <= radius; ++j) weight[j] = weights[j];
    for (std::int64_t i = 0; i < count; ++i) {
      double sum = tap[radius][i] * weight[0];
      for (int j = radius; j > 0; --j) sum += (tap[radius - j][i] + tap[radius + j][i]) * weight[j];
      out[i] = sum;
    }
  }
};

// pixels[x * channels] -> row[x]
struct Gather {
  static CUEKIT_INLINE void gather(const double* pixels, std::int64_t channels, std::int64_t count,
                                   double* __restrict row) {
    for (std::int64_t x = 0; x < count; ++x) row[x] = pixels[x * channels];
  }
  static CUEKIT_INLINE void run(const double* pixels, std::int64_t channels, std::int64_t count,
                                double* row) {
    if (channels == 3)
      gather(pixels, 3, count, row);  // a stride the compiler knows
    else
      gather(pixels, channels, count, row);
  }
};

// Position -1 is 0 again, -2 is 1, `size` is size - 1 and so on, however far out.
std::int64_t mirror(std::int64_t i, std::int64_t size) {
  i %= 2 * size;
  if (i < 0) i += 2 * size;
  return std::min(i, 2 * size - 1 - i);
}

// ---- costs and their buckets ----

using Bucket = std::uint16_t;

// A bucket holds the costs of equal exponent and leading bits of the mantissa, as far as float32
// reaches; what lies outside falls into the first or the last. Bits of floating values that are not
// negative order as the values do.
class Buckets {
 public:
  explicit Buckets(std::int64_t edges) {
    while (mantissa_ < 8 && edges >> (mantissa_ + 14) > 0) ++mantissa_;
  }

  std::int64_t count() const { return std::int64_t{octaves} << mantissa_; }

  CUEKIT_INLINE Bucket of(double cost) const {
    const auto high = static_cast<std::uint32_t>(bit_cast<std::uint64_t>(cost) >> 32);
    const std::int32_t index = static_cast<std::int32_t>(high >> (20 - mantissa_)) - first();
    const auto last = static_cast<std::int32_t>(count() - 1);
    return static_cast<Bucket>(std::min(std::max(index, 0), last));
  }

  // The lowest cost of a bucket, as bits; float32 holds it exactly.
  std::uint64_t floor(std::int64_t bucket) const {
    return bucket == 0 ? 0 : static_cast<std::uint64_t>(first() + bucket) << width();
  }

  // How many of the bits differ within a bucket other than the first and the last.
  int width() const { return 52 - mantissa_; }

 private:
  std::int32_t first() const { return (1023 - 127) << mantissa_; }  // where float32 begins

  static constexpr int octaves = 255;  // from 2^-127 on; a floor of 2^128 would be infinite
  int mantissa_ = 6;
};

// NumPy's order of summation along the last axis, which is scikit-image's for many channels: one
// after the other below eight values, eight partial sums up to 128, halves above.
template <class Value>
double sum_as_numpy(const Value& value, std::int64_t begin, std::int64_t count) {
  if (count > 128) {
    const std::int64_t half_count = count / 2 - count / 2 % 8;
    return sum_as_numpy(value, begin, half_count) +
           sum_as_numpy(value, begin + half_count, count - half_count);
  }
  double sum = 0.0;
  std::int64_t i = 0;
  if (count >= 8) {
    double partial[8] = {};
    for (; i < count - count % 8; ++i) partial[i % 8] += value(begin + i);
    sum = ((partial[0] + partial[1]) + (partial[2] + partial[3])) +
          ((partial[4] + partial[5]) + (partial[6] + partial[7]));
  }
  for (; i < count; ++i) sum += value(begin + i);
  return sum;
}

// Distances of the colours from[.][x] and to[.][x], and their buckets.
struct Measure {
  template <int channels>
  static CUEKIT_INLINE void distances(const double* const* from, const double* const* to,
                                      std::int64_t count, double* __restrict costs) {
    const double *a[channels], *b[channels];
    for (int c = 0; c < channels; ++c) a[c] = from[c], b[c] = to[c];
    for (std::int64_t x = 0; x < count; ++x) {
      double sum = 0.0;
      for (int c = 0; c < channels; ++c) sum += (a[c][x] - b[c][x]) * (a[c][x] - b[c][x]);
      costs[x] = std::sqrt(sum);
    }
  }

  static CUEKIT_INLINE void run(const double* const* from, const double* const* to,
                                std::int64_t channels, std::int64_t count, const Buckets* buckets,
                                double* costs, Bucket* __restrict bucket_of) {
    if (channels == 1) {
      distances<1>(from, to, count, costs);
    } else if (channels == 3) {
      distances<3>(from, to, count, costs);
    } else {
      for (std::int64_t x = 0; x < count; ++x) {
        const auto square = [&](std::int64_t c) {
          return (from[c][x] - to[c][x]) * (from[c][x] - to[c][x]);
        };
        costs[x] = std::sqrt(sum_as_numpy(square, 0, channels));
      }
    }
    const Buckets table = *buckets;
    for (std::int64_t x = 0; x < count; ++x) bucket_of[x] = table.of(costs[x]);
  }
};

// ---- edges and regions ----

// pixel * 4 + direction. The other pixel is to the right, below, below right, above right.
using Edge = std::uint32_t;
constexpr int directions = 4;

// What is known of a region, at the pixel that is its root.
struct Region {
  float threshold;  // the region merges over edges that cost less
  std::int32_t size;
};

// Segments one photo after the other, in the same memory.
template <class T>
class Segmenter {
 public:
  explicit Segmenter(const FelzenszwalbParams& p)
      : p_(p),
        pixels_(p.height * p.width),
        buckets_(directions * pixels_),
        begin_(to_size(buckets_.count() + 1)),
        memory_(bytes_per_pixel * pixels_),
        costs_(reinterpret_cast<double*>(memory_.get())),
        regions_(reinterpret_cast<Region*>(costs_ + directions * pixels_)),
        edges_(reinterpret_cast<Edge*>(regions_ + pixels_)),
        parents_(reinterpret_cast<std::int32_t*>(edges_ + directions * pixels_)),
        bucket_of_(reinterpret_cast<Bucket*>(parents_ + pixels_)) {}

  void run(const T* photo, std::int32_t* labels) {
    std::fill(begin_.begin(), begin_.end(), 0u);
    measure_edges(photo);
    distribute_edges();
    merge_by_cost();
    if (p_.min_size > 1) merge_small();
    number_regions(labels);
  }

 private:
  std::int64_t from(Edge edge) const { return edge >> 2; }
  std::int64_t to(Edge edge) const { return from(edge) + offsets_[edge & 3u]; }
  const double& cost_of(Edge edge) const {
    return costs_[to_size((edge & 3u) * pixels_ + from(edge))];
  }

  void measure_edges(const T* photo) {
    const std::int64_t channels = p_.channels, width = p_.width, radius = p_.radius;
    const std::int64_t length = width * channels;
    // The rows of the photo that the filter reaches at a time, in turns.
    const std::int64_t reach = std::min(p_.height, 2 * radius + 1);
    std::vector<double> colours(to_size(reach * length));
    std::vector<const double*> taps(to_size(2 * radius + 1));
    std::vector<double> columns(to_size(length));               // a row, smoothed down the columns
    std::vector<double> margined(to_size(width + 2 * radius));  // a channel of it, with margins
    std::vector<double> smooth(to_size(2 * length));
    std::vector<double*> above, row;
    for (std::int64_t c = 0; c < channels; ++c) {
      above.push_back(smooth.data() + c * width);
      row.push_back(smooth.data() + (channels + c) * width);
    }
    std::int64_t converted = 0;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      for (; converted < std::min(p_.height, y + radius + 1); ++converted)
        dispatch<Convert>(photo + converted * length, length,
                          colours.data() + converted % reach * length);
      for (std::int64_t j = -radius; j <= radius; ++j)
        taps[to_size(radius + j)] = colours.data() + mirror(y + j, p_.height) % reach * length;
      smooth_taps(taps, length, columns.data());
      for (std::int64_t c = 0; c < channels; ++c) {
        double* const first = margined.data() + radius;
        dispatch<Gather>(static_cast<const double*>(columns.data() + c), channels, width, first);
        for (std::int64_t j = 1; j <= radius; ++j) {
          first[-j] = first[mirror(-j, width)];
          first[width - 1 + j] = first[mirror(width - 1 + j, width)];
        }
        for (std::int64_t j = -radius; j <= radius; ++j) taps[to_size(radius + j)] = first + j;
        smooth_taps(taps, width, row[to_size(c)]);
      }
      measure_row(0, y, row, 0, row, 1);
      if (y > 0) {
        measure_row(1, y - 1, above, 0, row, 0);
        measure_row(2, y - 1, above, 0, row, 1);
        measure_row(3, y, row, 0, above, 1);
      }
      std::swap(above, row);
    }
  }

  void smooth_taps(const std::vector<const double*>& taps, std::int64_t count, double* out) const {
    dispatch<Smooth>(taps.data(), p_.weights, p_.radius, count, out);
  }

  // The edges that begin in row y, from pixels x + from_x of one row to x + to_x of another.
  void measure_row(std::int64_t direction, std::int64_t y, std::vector<double*> from,
                   std::int64_t from_x, std::vector<double*> to, std::int64_t to_x) {
    const std::int64_t offset = direction * pixels_ + y * p_.width;
    const std::int64_t count = p_.width - to_x;
    for (double*& row : from) row += from_x;
    for (double*& row : to) row += to_x;
    dispatch<Measure>(static_cast<const double* const*>(from.data()),
                      static_cast<const double* const*>(to.data()), p_.channels, count, &buckets_,
                      costs_ + offset, bucket_of_ + offset);
    for (std::int64_t x = 0; x < count; ++x) ++begin_[bucket_of_[to_size(offset + x)]];
  }

  // Pixel by pixel: edges that lie together in the photo then lie together in their bucket, and
  // so do the parents looked up for them.
  void distribute_edges() {
    std::uint32_t next = 0;
    for (std::uint32_t& begin : begin_) {
      const std::uint32_t count = begin;
      begin = next;
      next += count;
    }
    const auto put = [&](std::int64_t pixel, int direction) {
      const Bucket bucket = bucket_of_[to_size(direction * pixels_ + pixel)];
      edges_[begin_[bucket]++] = static_cast<Edge>(pixel << 2 | direction);
    };
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const bool first = y == 0, last = y == p_.height - 1;
      const std::int64_t row = y * p_.width;
      for (std::int64_t pixel = row; pixel < row + p_.width - 1; ++pixel) {
        put(pixel, 0);
        if (!last) put(pixel, 1), put(pixel, 2);
        if (!first) put(pixel, 3);
      }
      if (!last) put(row + p_.width - 1, 1);
    }
    // Every begin has moved to where the next one was.
    std::copy_backward(begin_.begin(), begin_.end() - 1, begin_.end());
    begin_[0] = 0;
  }

  // Of a bucket, the edges that may merge two regions in step 3 become candidates; others between
  // regions move up to those kept for step 4. The parents may lie below the roots, where thresholds
  // are infinite: what is not known for sure becomes a candidate.
  std::int64_t select_candidates(std::int64_t bucket, std::uint32_t& kept) {
    const std::uint32_t first = begin_[to_size(bucket)], last = begin_[to_size(bucket + 1)];
    begin_[to_size(bucket)] = kept;
    if (first == last) return 0;
    if (candidates_.size() < last - first) candidates_.resize(last - first);
    // A region whose threshold is not above the bucket's lowest cost merges no more in step 3.
    const auto floor = static_cast<float>(bit_cast<double>(buckets_.floor(bucket)));
    const std::int32_t* const parents = parents_;
    const Region* const regions = regions_;
    Edge *const edges = edges_, *const candidates = candidates_.data();
    std::uint32_t keep = kept;
    std::int64_t count = 0;
    for (std::uint32_t i = first; i < last; ++i) {
      const Edge edge = edges[i];
      const Edge soon = edges[std::min(i + 32, last - 1)];
      prefetch(parents + from(soon), 1);
      prefetch(parents + to(soon), 1);
      const std::int32_t a = parents[from(edge)], b = parents[to(edge)];
      const bool apart = a != b,
                 open = (regions[a].threshold > floor) & (regions[b].threshold > floor);
      // Written in any case, and overwritten by the next: a branch would be mispredicted.
      edges[keep] = edge;
      candidates[count] = edge;
      keep += apart & !open;
      count += apart & open;
    }
    kept = keep;
    return count;
  }

  // Orders the candidates of a bucket by cost, then direction, then raster order.
  void sort_candidates(std::int64_t bucket, std::int64_t count) {
    if (ordered_.size() < to_size(count)) ordered_.resize(to_size(count));
    constexpr int place_bits = 16;
    const bool open = bucket == 0 || bucket == buckets_.count() - 1;  // costs of any width
    if (open || count > std::int64_t{1} << place_bits) {
      // Mostly the equal costs of flat colours. Candidates come in raster order.
      auto end = ordered_.begin();
      for (unsigned d = 0; d < directions; ++d)
        end = std::copy_if(candidates_.begin(), candidates_.begin() + count, end,
                           [=](Edge edge) { return (edge & 3u) == d; });
      const auto cheaper = [this](Edge a, Edge b) {
        return bit_cast<std::uint64_t>(cost_of(a)) < bit_cast<std::uint64_t>(cost_of(b));
      };
      if (!std::is_sorted(ordered_.begin(), end, cheaper))
        std::stable_sort(ordered_.begin(), end, cheaper);
      return;
    }
    if (keys_.size() < to_size(count)) {
      keys_.resize(to_size(count));
      spread_.resize(to_size(count));
    }
    // What a bucket's costs differ in, the direction and the place fit into 64 bits. One pass over
    // the leading bits leaves them nearly sorted.
    const std::uint64_t floor = buckets_.floor(bucket);
    int leading = 1;
    while (leading < max_leading && count >> leading > 0) ++leading;
    const int shift = buckets_.width() + 2 + place_bits - leading;
    std::uint32_t begin[(1 << max_leading) + 1];
    std::fill_n(begin, (1 << leading) + 1, 0u);
    std::uint64_t *const in = keys_.data(), *const keys = spread_.data();
    // Costs lie far apart. Asked for first, they come all at once, not a few at a time.
    for (std::int64_t i = 0; i < count; ++i) prefetch(&cost_of(candidates_[to_size(i)]), 1);
    for (std::int64_t i = 0; i < count; ++i) {
      const Edge edge = candidates_[to_size(i)];
      const std::uint64_t above = bit_cast<std::uint64_t>(cost_of(edge)) - floor;
      in[i] = (above << 2 | (edge & 3u)) << place_bits | static_cast<std::uint64_t>(i);
    }
    for (std::int64_t i = 0; i < count; ++i) ++begin[(in[i] >> shift) + 1];
    std::uint32_t most = 0;
    for (int b = 0; b < 1 << leading; ++b) {
      most = std::max(most, begin[b + 1]);
      begin[b + 1] += begin[b];
    }
    for (std::int64_t i = 0; i < count; ++i) keys[begin[in[i] >> shift]++] = in[i];
    if (most > 32) {
      if (!std::is_sorted(keys, keys + count)) std::sort(keys, keys + count);
    } else {
      for (std::int64_t i = 1; i < count; ++i) {
        const std::uint64_t key = keys[i];
        std::int64_t j = i;
        for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1];
        keys[j] = key;
      }
    }
    constexpr std::uint64_t place = (1u << place_bits) - 1;
    for (std::int64_t i = 0; i < count; ++i) ordered_[to_size(i)] = candidates_[keys[i] & place];
  }

  // Asks for what the next candidates will need: of a large photo none of it is in the cache.
  void ask_for_regions(std::int64_t i, std::int64_t count) const {
    const Edge later = ordered_[to_size(std::min(i + 16, count - 1))];
    const Edge soon = ordered_[to_size(std::min(i + 8, count - 1))];
    const std::int32_t* const parents = parents_;
    prefetch(parents + from(later), 1);
    prefetch(parents + to(later), 1);
    for (const std::int32_t above : {parents[from(soon)], parents[to(soon)]}) {
      prefetch(parents + above, 1);
      prefetch(regions_ + above, 1);
    }
  }

  std::int32_t find_root(std::int64_t pixel) {
    std::int32_t* const parents = parents_;
    std::int32_t p = parents[pixel];
    while (parents[p] != p) {
      parents[p] = parents[parents[p]];
      p = parents[p];
    }
    return p;
  }

  // Step 4 would merge the regions of these roots.
  bool is_small(std::int32_t a, std::int32_t b) const {
    return std::min(regions_[a].size, regions_[b].size) < p_.min_size;
  }

  // The larger region's root becomes that of both.
  std::int32_t join(std::int32_t a, std::int32_t b) {
    const std::int32_t a_size = regions_[to_size(a)].size, b_size = regions_[to_size(b)].size;
    // No branch: which one is larger cannot be predicted.
    const std::int32_t swap = (a ^ b) & -static_cast<std::int32_t>(a_size < b_size);
    const std::int32_t root = a ^ swap, other = b ^ swap;
    parents_[to_size(other)] = root;
    regions_[to_size(root)].size = a_size + b_size;
    regions_[to_size(other)].threshold = std::numeric_limits<float>::infinity();
    return root;
  }

  // Every pixel's parent becomes its grandparent.
  void halve_paths() {
    std::int32_t* const parents = parents_;
    for (std::int64_t i = 0; i < pixels_; ++i) parents[i] = parents[parents[i]];
  }

  void merge_by_cost() {
    const double scale = p_.scale;
    std::int32_t* const parents = parents_;
    Region* const regions = regions_;
    std::iota(parents, parents + pixels_, 0);
    std::fill_n(regions, pixels_, Region{static_cast<float>(p_.scale), 1});
    std::int64_t merged = 0;  // since paths were halved
    std::uint32_t kept = 0;
    for (std::int64_t bucket = 0; bucket < buckets_.count(); ++bucket) {
      if (merged > pixels_ / 20) {
        halve_paths();
        merged = 0;
      }
      const std::int64_t count = select_candidates(bucket, kept);
      if (count == 0) continue;
      sort_candidates(bucket, count);
      for (std::int64_t i = 0; i < count; ++i) {
        ask_for_regions(i, count);
        const Edge edge = ordered_[to_size(i)];
        const double cost = cost_of(edge);
        const std::int32_t a = find_root(from(edge)), b = find_root(to(edge));
        if (a == b) continue;
        if (!(cost < std::min(regions[a].threshold, regions[b].threshold))) {
          edges_[kept] = edge;
          ++kept;
          continue;
        }
        const std::int32_t root = join(a, b);
        const auto threshold = static_cast<float>(cost + scale / regions[root].size);
        regions[root].threshold = threshold;
        ++merged;
      }
    }
    begin_.back() = kept;
  }

  void merge_small() {
    halve_paths();
    for (std::int64_t bucket = 0; bucket < buckets_.count(); ++bucket) {
      const std::uint32_t first = begin_[to_size(bucket)], last = begin_[to_size(bucket + 1)];
      if (candidates_.size() < last - first) candidates_.resize(last - first);
      std::int64_t count = 0;
      for (std::uint32_t i = first; i < last; ++i) {
        const Edge edge = edges_[i];
        const std::int32_t a = find_root(from(edge)), b = find_root(to(edge));
        candidates_[to_size(count)] = edge;
        count += (a != b) & is_small(a, b);
      }
      if (count == 0) continue;
      // Step 3 leaves the edges that it rejected last, by cost.
      const auto end = candidates_.begin() + count;
      if (!std::is_sorted(candidates_.begin(), end)) std::sort(candidates_.begin(), end);
      sort_candidates(bucket, count);
      for (std::int64_t i = 0; i < count; ++i) {
        const Edge edge = ordered_[to_size(i)];
        const std::int32_t a = find_root(from(edge)), b = find_root(to(edge));
        if (a != b && is_small(a, b)) join(a, b);
      }
    }
  }

  void number_regions(std::int32_t* labels) {
    Edge* const numbers = edges_;  // the edges are not needed any more
    constexpr Edge none = std::numeric_limits<Edge>::max();
    std::fill_n(numbers, pixels_, none);
    Edge next = 0;
    for (std::int64_t i = 0; i < pixels_; ++i) {
      Edge& number = numbers[find_root(i)];
      if (number == none) number = next++;
      labels[i] = static_cast<std::int32_t>(number);
    }
  }

  static constexpr int max_leading = 11;

  const FelzenszwalbParams& p_;
  const std::int64_t pixels_;
  const std::int64_t offsets_[directions] = {1, p_.width, p_.width + 1, 1 - p_.width};
  const Buckets buckets_;
  std::vector<std::uint32_t> begin_;  // where in edges_ a bucket begins
  // One block, not cleared: everything is written before it is read. It is kept for the next photo,
  // and lies on huge pages, for regions are visited in order of cost, which is no order in space.
  static constexpr std::int64_t bytes_per_pixel =
      sizeof(Region) + sizeof(std::int32_t) +
      directions * (sizeof(double) + sizeof(Edge) + sizeof(Bucket));
  const Workspace<std::byte> memory_;
  double* const costs_;  // (directions, H, W)
  Region* const regions_;
  Edge* const edges_;  // by bucket
  std::int32_t* const parents_;
  Bucket* const bucket_of_;  // (directions, H, W)
  std::vector<Edge> candidates_, ordered_;
  std::vector<std::uint64_t> keys_, spread_;
};

}  // namespace

template <class T>
bool felzenszwalb(const T* photos, std::int32_t* labels, const FelzenszwalbParams& p, int threads) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t workers = std::min<std::int64_t>(threads, p.batch);
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> all_finite{true};
  parallel_for(workers, threads, [&](std::int64_t) {
    Segmenter<T> segmenter(p);
    for (std::int64_t b; (b = next.fetch_add(1)) < p.batch;) {
      const T* const photo = photos + b * pixels * p.channels;
      if constexpr (!std::is_integral_v<T>) {
        if (any_nonfinite(nonfinite_bits(photo, pixels * p.channels))) {
          all_finite = false;
          next = p.batch;  // nobody need go on
          return;
        }
      }
      segmenter.run(photo, labels + b * pixels);
    }
  });
  return all_finite;
}

template bool felzenszwalb(const std::uint8_t*, std::int32_t*, const FelzenszwalbParams&, int);
template bool felzenszwalb(const half*, std::int32_t*, const FelzenszwalbParams&, int);
template bool felzenszwalb(const float*, std::int32_t*, const FelzenszwalbParams&, int);
template bool felzenszwalb(const double*, std::int32_t*, const FelzenszwalbParams&, int);

}  // namespace cuekit::cpu
