// Kruskal's algorithm with the merge rule of include/cuekit/felzenszwalb.h. What makes it fast:
//
// - Smoothing and costs run row by row, in vectors; the smoothed photo is never stored.
// - Two pixels whose edge is the cheapest of both are united before anything is sorted, six pixels
//   of ten. Of two edges from such a pair to one pixel only the cheaper decides anything. So a
//   third of the edges goes, in vectors, too.
// - An edge is 4 bytes: its first pixel and its direction. Its other pixel follows from them.
// - Edges are put into some ten thousand buckets of nearly equal cost. When a bucket's turn comes,
//   most of its edges lie within one region by now, or touch a region that can merge no more. Of
//   the others, most share no region with another edge of the bucket, so that their order is of no
//   account; the rest, one edge in twenty, are sorted. Those that step 3 rejects are kept for
//   step 4, which sorts the few that still part a small region from another.
// - Regions are a forest of parents, joined by size. Now and then every path is halved in one
//   sweep, so that one look at the parents usually tells whether two pixels belong together.
// - A large photo is first merged patch by patch, as far as its other patches cannot interfere:
//   what is visited in order of cost, which is no order in space, must be in the cache.
//
// Memory per pixel: costs 32 bytes, bucket numbers 8, edges 16, parents 4, regions 8, marks 1; and
// for each edge of the largest bucket, few but in photos of flat colour, 8 bytes.
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
struct Buckets {
  static constexpr int mantissa = 6;
  static constexpr std::int32_t count = 255 << mantissa;  // a floor of 2^128 would be infinite
  // How many of the bits differ within a bucket other than the first and the last.
  static constexpr int width = 52 - mantissa;

  static CUEKIT_INLINE Bucket of(double cost) {
    const auto high = static_cast<std::uint32_t>(bit_cast<std::uint64_t>(cost) >> 32);
    const std::int32_t index = static_cast<std::int32_t>(high >> (20 - mantissa)) - first;
    return static_cast<Bucket>(std::min(std::max(index, 0), count - 1));
  }

  // The lowest cost of a bucket, as bits; float32 holds it exactly.
  static std::uint64_t floor(std::int64_t bucket) {
    return bucket == 0 ? 0 : static_cast<std::uint64_t>(first + bucket) << width;
  }

  static constexpr std::int32_t first = (1023 - 127) << mantissa;  // where float32 begins
};

// Where edges go that are not needed, by direction and column. One bucket for all of them would
// keep waiting for itself: its next place is known only when the last one has been taken.
constexpr int drop_buckets = 16;
CUEKIT_INLINE Bucket drop_bucket(int direction, std::int64_t x) {
  return static_cast<Bucket>(Buckets::count + direction + 4 * (x & 3));
}

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

// Distances of the colours from[.][x] and to[.][x], exact and rounded, and their buckets.
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
                                std::int64_t channels, std::int64_t count, double* costs,
                                float* __restrict rounded, Bucket* __restrict bucket_of) {
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
    for (std::int64_t x = 0; x < count; ++x) rounded[x] = static_cast<float>(costs[x]);
    for (std::int64_t x = 0; x < count; ++x) bucket_of[x] = Buckets::of(costs[x]);
  }
};

// ---- edges and regions ----

// pixel * 4 + direction. The other pixel is to the right, below, below right, above right.
using Edge = std::uint32_t;
constexpr int directions = 4;

// What is known of a region, at the pixel that is its root.
struct Region {
  float threshold;  // the region merges over edges that cost less; negative while it waits
  std::int32_t size;
};

// ---- mates ----

// Two pixels are mates when their edge costs less than any other edge of both. Whatever else is to
// be decided about them comes later in step 3, so they are united before it. All this is decided on
// costs rounded to float32: what is less after rounding was so before.

// Around a row of pixels, with a margin of one on both sides: the costs of the edges that begin in
// it, infinite where there is none; and each pixel's cheapest, or `no_mate`.
struct RowCosts {
  float *right, *down, *down_right, *up_right;
  float* cheapest;
};
constexpr float no_mate = -1;  // no edge costs that

// Whether an edge joins mates: what it costs is the cheapest of both its pixels.
CUEKIT_INLINE bool joins_mates(float cost, float a, float b) { return (cost == a) & (cost == b); }

// The cheapest edge of each pixel, if all others cost more and a lone pixel may merge over it.
struct FindCheapest {
  static CUEKIT_INLINE void run(const RowCosts* above, const RowCosts* row, const RowCosts* below,
                                float threshold, std::int64_t count) {
    float* __restrict cheapest = row->cheapest;
    const float *right = row->right, *down = row->down;
    const float *down_right = row->down_right, *up_right = row->up_right;
    const float *up = above->down, *up_left = above->down_right, *down_left = below->up_right;
    for (std::int64_t x = 0; x < count; ++x) {
      float least = right[x], second = threshold;
      const auto compare = [&](float cost) {
        const float more = least < cost ? cost : least;
        second = more < second ? more : second;
        least = cost < least ? cost : least;
      };
      compare(right[x - 1]), compare(down[x]), compare(up[x]), compare(down_right[x]);
      compare(up_left[x - 1]), compare(up_right[x]), compare(down_left[x - 1]);
      cheapest[x] = least < second ? least : no_mate;
    }
  }
};

// Between two rows, drops the edges of mates; and where two edges lead from mates to one pixel, the
// one that costs more: when its turn comes, the other one has decided about the same two regions.
struct DropEdges {
  static CUEKIT_INLINE void run(const RowCosts* row, const RowCosts* below, std::int64_t width,
                                Bucket* __restrict upper_buckets, Bucket* __restrict lower_buckets,
                                Bucket* __restrict down_buckets,
                                Bucket* __restrict down_right_buckets,
                                Bucket* __restrict up_right_buckets,
                                std::int32_t* __restrict drop_right) {
    const float *right = row->right, *down = row->down, *down_right = row->down_right;
    const float *lower_right = below->right, *up_right = below->up_right;
    const float *cheapest = row->cheapest, *cheapest_below = below->cheapest;
    drop_right[0] = 0;
    for (std::int64_t x = 0; x < width - 1; ++x) {
      // Four pixels in a square, and their six edges.
      const float a = cheapest[x], b = cheapest[x + 1];
      const float c = cheapest_below[x], d = cheapest_below[x + 1];
      const float ab = right[x], cd = lower_right[x], ac = down[x], bd = down[x + 1];
      const float ad = down_right[x], cb = up_right[x];
      const std::int32_t mates_ab = joins_mates(ab, a, b), mates_cd = joins_mates(cd, c, d);
      const std::int32_t mates_ac = joins_mates(ac, a, c), mates_bd = joins_mates(bd, b, d);
      const std::int32_t mates_ad = joins_mates(ad, a, d), mates_cb = joins_mates(cb, c, b);
      // Two of the three pixels are mates.
      const std::int32_t abc = mates_ab | mates_ac | mates_cb, abd = mates_ab | mates_bd | mates_ad;
      const std::int32_t acd = mates_ac | mates_cd | mates_ad, bcd = mates_cb | mates_cd | mates_bd;
      const auto most = [](float cost, float e, float f) -> std::int32_t {
        return (cost > e) & (cost > f);
      };
      const std::int32_t drop_ab = mates_ab | (abc & most(ab, ac, cb)) | (abd & most(ab, bd, ad));
      const std::int32_t drop_cd = mates_cd | (acd & most(cd, ac, ad)) | (bcd & most(cd, bd, cb));
      const std::int32_t drop_ac = mates_ac | (abc & most(ac, ab, cb)) | (acd & most(ac, cd, ad));
      const std::int32_t drop_bd = mates_bd | (abd & most(bd, ab, ad)) | (bcd & most(bd, cd, cb));
      const std::int32_t drop_ad = mates_ad | (abd & most(ad, ab, bd)) | (acd & most(ad, ac, cd));
      const std::int32_t drop_cb = mates_cb | (abc & most(cb, ab, ac)) | (bcd & most(cb, bd, cd));
      upper_buckets[x] = drop_ab ? drop_bucket(0, x) : upper_buckets[x];
      lower_buckets[x] = drop_cd ? drop_bucket(0, x) : lower_buckets[x];
      down_buckets[x] = drop_ac ? drop_bucket(1, x) : down_buckets[x];
      down_right_buckets[x] = drop_ad ? drop_bucket(2, x) : down_right_buckets[x];
      up_right_buckets[x] = drop_cb ? drop_bucket(3, x) : up_right_buckets[x];
      drop_right[x + 1] = drop_bd;
    }
    for (std::int64_t x = 0; x < width; ++x)
      down_buckets[x] = drop_right[x] ? drop_bucket(1, x) : down_buckets[x];
  }
};

// The regions before step 3: pixels alone, and mates, of whom the one with the edge is the root.
struct UniteMates {
  static CUEKIT_INLINE void run(const RowCosts* above, const RowCosts* row, const RowCosts* below,
                                const double* costs, std::int64_t stride, double scale,
                                std::int32_t begin, std::int32_t width,
                                std::int32_t* __restrict parents, float* __restrict thresholds,
                                Region* __restrict regions) {
    const float* cheapest = row->cheapest;
    const float *cheapest_above = above->cheapest, *cheapest_below = below->cheapest;
    for (std::int32_t x = 0; x < width; ++x) {
      const float own = cheapest[x];
      const auto leads_here = [=](float cost, float there) {
        return joins_mates(cost, there, own);
      };
      std::int32_t parent = begin + x;
      parent -= leads_here(row->right[x - 1], cheapest[x - 1]) ? 1 : 0;
      parent -= leads_here(above->down[x], cheapest_above[x]) ? width : 0;
      parent -= leads_here(above->down_right[x - 1], cheapest_above[x - 1]) ? width + 1 : 0;
      parent += leads_here(below->up_right[x - 1], cheapest_below[x - 1]) ? width - 1 : 0;
      parents[x] = parent;
    }
    const double half = scale / 2;
    const auto alone = static_cast<float>(scale);
    for (std::int32_t x = 0; x < width; ++x) {
      const float own = cheapest[x];
      const bool right = joins_mates(row->right[x], own, cheapest[x + 1]);
      const bool down = joins_mates(row->down[x], own, cheapest_below[x]);
      const bool down_right = joins_mates(row->down_right[x], own, cheapest_below[x + 1]);
      const bool up_right = joins_mates(row->up_right[x], own, cheapest_above[x + 1]);
      double cost = costs[x];
      cost = down ? costs[stride + x] : cost;
      cost = down_right ? costs[2 * stride + x] : cost;
      cost = up_right ? costs[3 * stride + x] : cost;
      const auto together = static_cast<float>(cost + half);
      thresholds[x] = right | down | down_right | up_right ? together : -1;
    }
    for (std::int32_t x = 0; x < width; ++x) {
      const bool root = parents[x] == begin + x, mated = thresholds[x] >= 0;
      const float threshold = mated ? thresholds[x] : alone;
      regions[x].threshold = root ? threshold : std::numeric_limits<float>::infinity();
      regions[x].size = mated ? 2 : 1;
    }
  }
};

// Drops the edges between pixels of one region.
struct DropInner {
  static CUEKIT_INLINE void run(const std::int32_t* from, const std::int32_t* to,
                                std::int64_t count, int direction, Bucket* __restrict bucket_of) {
    for (std::int64_t x = 0; x < count; ++x)
      bucket_of[x] = from[x] == to[x] ? drop_bucket(direction, x) : bucket_of[x];
  }
};

// Segments one photo after the other, in the same memory.
template <class T>
class Segmenter {
 public:
  explicit Segmenter(const FelzenszwalbParams& p)
      : p_(p),
        pixels_(p.height * p.width),
        begin_(to_size(Buckets::count + drop_buckets)),
        memory_(bytes_per_pixel * pixels_ + ask_ahead * std::int64_t{sizeof(Edge)}),
        costs_(reinterpret_cast<double*>(memory_.get())),
        regions_(reinterpret_cast<Region*>(costs_ + directions * pixels_)),
        edges_(reinterpret_cast<Edge*>(regions_ + pixels_)),
        parents_(reinterpret_cast<std::int32_t*>(edges_ + directions * pixels_)),
        bucket_of_(reinterpret_cast<Bucket*>(parents_ + pixels_)),
        marks_(reinterpret_cast<std::uint8_t*>(bucket_of_ + directions * pixels_)) {}

  void run(const T* photo, std::int32_t* labels) {
    std::fill_n(marks_, pixels_, std::uint8_t{0});
    measure_edges(photo);
    if (pixels_ > cached_pixels) merge_within_patches();
    const Area whole = {0, p_.height, 0, p_.width};
    distribute_edges(whole);
    merge_by_cost(whole);
    if (p_.min_size > 1) merge_small();
    number_regions(labels);
  }

 private:
  struct Area {
    std::int64_t top, bottom, left, right;
  };

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
    // Four rows in turns: a row's mates are known when the row after the next has been measured.
    const std::int64_t stride = width + 2;
    rounded_.assign(to_size(directions * 4 * stride), std::numeric_limits<float>::infinity());
    cheapest_.assign(to_size(4 * stride), no_mate);
    for (std::int64_t y = 0; y < 4; ++y) {
      float* const first = rounded_.data() + y * directions * stride + 1;
      row_costs_[y] = {first, first + stride, first + 2 * stride, first + 3 * stride,
                       cheapest_.data() + y * stride + 1};
    }
    drop_right_.resize(to_size(width));
    thresholds_.resize(to_size(width));
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
      measure_row(0, y, row_costs(y)->right, row, 0, row, 1);
      if (y > 0) {
        measure_row(1, y - 1, row_costs(y - 1)->down, above, 0, row, 0);
        measure_row(2, y - 1, row_costs(y - 1)->down_right, above, 0, row, 1);
        measure_row(3, y, row_costs(y)->up_right, row, 0, above, 1);
        find_cheapest(y - 1);
      }
      if (y > 1) unite_mates(y - 2);
      std::swap(above, row);
    }
    // No edge joins the last row to one below.
    const std::int64_t last = p_.height - 1;
    for (float* const none :
         {row_costs(last)->down, row_costs(last)->down_right, row_costs(last + 1)->up_right})
      std::fill_n(none, width, std::numeric_limits<float>::infinity());
    find_cheapest(last);
    if (last > 0) unite_mates(last - 1);
    unite_mates(last);
  }

  void smooth_taps(const std::vector<const double*>& taps, std::int64_t count, double* out) const {
    dispatch<Smooth>(taps.data(), p_.weights, p_.radius, count, out);
  }

  // The edges that begin in row y, from pixels x + from_x of one row to x + to_x of another.
  void measure_row(std::int64_t direction, std::int64_t y, float* rounded,
                   std::vector<double*> from, std::int64_t from_x, std::vector<double*> to,
                   std::int64_t to_x) {
    const std::int64_t offset = direction * pixels_ + y * p_.width;
    const std::int64_t count = p_.width - to_x;
    for (double*& row : from) row += from_x;
    for (double*& row : to) row += to_x;
    dispatch<Measure>(static_cast<const double* const*>(from.data()),
                      static_cast<const double* const*>(to.data()), p_.channels, count,
                      costs_ + offset, rounded, bucket_of_ + offset);
  }

  const RowCosts* row_costs(std::int64_t y) const { return &row_costs_[y & 3]; }

  void find_cheapest(std::int64_t y) const {
    dispatch<FindCheapest>(row_costs(y - 1), row_costs(y), row_costs(y + 1),
                           static_cast<float>(p_.scale), p_.width);
  }

  // Those of row y, when the cheapest of the next row are known, too.
  void unite_mates(std::int64_t y) {
    const std::int64_t width = p_.width, row = y * width;
    if (y < p_.height - 1) {
      Bucket* const buckets = bucket_of_ + row;
      dispatch<DropEdges>(row_costs(y), row_costs(y + 1), width, buckets, buckets + width,
                          buckets + pixels_, buckets + 2 * pixels_, buckets + 3 * pixels_ + width,
                          drop_right_.data());
    }
    dispatch<UniteMates>(row_costs(y - 1), row_costs(y), row_costs(y + 1),
                         static_cast<const double*>(costs_ + row), pixels_, double{p_.scale},
                         static_cast<std::int32_t>(row), static_cast<std::int32_t>(width),
                         parents_ + row, thresholds_.data(), regions_ + row);
  }

  // Patch by patch, merges what step 3 would merge if there were no other patches, as long as that
  // is for sure: a region waits from the first edge on that leads to another patch, or to a region
  // that waits, unless one of both can merge no more. The rest is decided by a pass over the whole
  // photo. Of a large photo, nothing is in the cache when it is visited in order of cost;
  // of a patch, everything is.
  void merge_within_patches() {
    for (std::int64_t top = 0; top < p_.height; top += patch_size) {
      for (std::int64_t left = 0; left < p_.width; left += patch_size) {
        const Area patch = {top, std::min(top + patch_size, p_.height), left,
                            std::min(left + patch_size, p_.width)};
        const auto wait = [&](std::int64_t pixel) {
          float& threshold = regions_[find_root(pixel)].threshold;
          threshold = -std::fabs(threshold);
        };
        const auto go_on = [&](std::int64_t pixel) {
          float& threshold = regions_[find_root(pixel)].threshold;
          threshold = std::fabs(threshold);
        };
        for_each_around(patch, wait);
        distribute_edges(patch);
        merge_by_cost(patch);
        for_each_around(patch, go_on);
        for (std::int64_t y = patch.top; y < patch.bottom; ++y) {
          for (std::int64_t i = y * p_.width + patch.left; i < y * p_.width + patch.right; ++i) {
            parents_[i] = find_root(i);
            regions_[i].threshold = std::fabs(regions_[i].threshold);
          }
        }
        drop_inner_edges(patch);
      }
    }
  }

  // The pixels next to an area.
  template <class Visit>
  void for_each_around(const Area& area, const Visit& visit) {
    const std::int64_t first = std::max<std::int64_t>(area.left - 1, 0);
    const std::int64_t last = std::min(area.right, p_.width - 1);
    for (std::int64_t y = std::max<std::int64_t>(area.top - 1, 0);
         y <= std::min(area.bottom, p_.height - 1); ++y) {
      const bool inside = area.top <= y && y < area.bottom;
      for (std::int64_t x = first; x <= last; ++x) {
        if (inside && x == area.left) x = area.right;
        if (x <= last) visit(y * p_.width + x);
      }
    }
  }

  void drop_inner_edges(const Area& area) {
    const std::int32_t* const parents = parents_;
    const std::int64_t count = std::min(area.right, p_.width - 1) - area.left;
    const auto drop = [&](int direction, std::int64_t pixel, std::int64_t edges) {
      dispatch<DropInner>(parents + pixel, parents + pixel + offsets_[direction], edges, direction,
                          bucket_of_ + direction * pixels_ + pixel);
    };
    for (std::int64_t y = area.top; y < area.bottom; ++y) {
      const std::int64_t pixel = y * p_.width + area.left;
      drop(0, pixel, count);
      if (y < p_.height - 1) {
        drop(1, pixel, area.right - area.left);
        drop(2, pixel, count);
      }
      if (y > 0) drop(3, pixel, count);
    }
  }

  // Those of an area's pixels. Pixel by pixel: edges that lie together in the photo then lie
  // together in their bucket, and so do the parents looked up for them.
  void distribute_edges(const Area& area) {
    std::fill(begin_.begin(), begin_.end(), 0u);
    for_each_row(area, [&](const Row& row) {
      const auto count = [&](int direction, std::int64_t last) {
        const Bucket* const bucket_of = bucket_of_ + direction * pixels_;
        for (std::int64_t pixel = row.first; pixel < last; ++pixel) ++begin_[bucket_of[pixel]];
      };
      if (row.right) count(0, row.last);
      if (row.down) count(1, row.last_down), count(2, row.last);
      if (row.up) count(3, row.last);
    });
    std::uint32_t next = 0;
    for (std::int64_t bucket = 0; bucket < Buckets::count + drop_buckets; ++bucket) {
      const std::uint32_t count = bucket < Buckets::count ? begin_[to_size(bucket)] : 0;
      begin_[to_size(bucket)] = next;
      next += count;
    }
    // Edges that are dropped are written after all others, one over the other.
    const auto put = [&](std::int64_t pixel, int direction) {
      const Bucket bucket = bucket_of_[to_size(direction * pixels_ + pixel)];
      const std::uint32_t place = begin_[bucket];
      edges_[place] = static_cast<Edge>(pixel << 2 | direction);
      begin_[bucket] = place + (bucket < Buckets::count);
    };
    for_each_row(area, [&](const Row& row) {
      if (row.right && row.down && row.up) {  // nearly always: a loop without branches
        for (std::int64_t pixel = row.first; pixel < row.last; ++pixel)
          put(pixel, 0), put(pixel, 1), put(pixel, 2), put(pixel, 3);
      } else {
        for (std::int64_t pixel = row.first; pixel < row.last; ++pixel) {
          if (row.right) put(pixel, 0);
          if (row.down) put(pixel, 1), put(pixel, 2);
          if (row.up) put(pixel, 3);
        }
      }
      if (row.down && row.last < row.last_down) put(row.last, 1);
    });
    // Every begin has moved to where the next one was.
    std::copy_backward(begin_.begin(), begin_.begin() + Buckets::count,
                       begin_.begin() + Buckets::count + 1);
    begin_[0] = 0;
  }

  // Pixels first..last - 1 of a row, and which of their edges lead into an area or out of it. The
  // photo's last pixel has an edge down only, if any.
  struct Row {
    std::int64_t first, last, last_down;
    bool right, down, up;
  };

  // The rows of an area and those next to it.
  template <class Visit>
  void for_each_row(const Area& area, const Visit& visit) const {
    for (std::int64_t y = std::max<std::int64_t>(area.top - 1, 0);
         y < std::min(area.bottom + 1, p_.height); ++y) {
      const std::int64_t row = y * p_.width;
      visit(Row{row + std::max<std::int64_t>(area.left - 1, 0),
                row + std::min(area.right, p_.width - 1), row + area.right,
                area.top <= y && y < area.bottom, y < area.bottom && y < p_.height - 1,
                y >= area.top && y > 0});
    }
  }

  // Of a bucket, the edges that may merge two regions in step 3 become candidates, and those that
  // may make one wait for another; others between regions move up to those kept for step 4. The
  // parents may lie below the roots, where thresholds are infinite: what is not known for sure
  // becomes a candidate.
  std::int64_t select_candidates(std::int64_t bucket, std::uint32_t& kept) {
    const std::uint32_t first = begin_[to_size(bucket)], last = begin_[to_size(bucket + 1)];
    begin_[to_size(bucket)] = kept;
    if (first == last) return 0;
    if (candidates_.size() < last - first) candidates_.resize(last - first);
    // A region whose threshold is not above the bucket's lowest cost merges no more in step 3.
    const auto floor = static_cast<float>(bit_cast<double>(Buckets::floor(bucket)));
    const std::int32_t* const parents = parents_;
    const Region* const regions = regions_;
    Edge *const edges = edges_, *const candidates = candidates_.data();
    std::uint32_t keep = kept;
    std::int64_t count = 0;
    for (std::uint32_t i = first; i < last; ++i) {
      const Edge edge = edges[i];
      const Edge soon = edges[i + ask_ahead];  // of this bucket or what lies behind it
      prefetch(parents + from(soon), 1);
      prefetch(parents + to(soon), 1);
      const std::int32_t a = parents[from(edge)], b = parents[to(edge)];
      const bool apart = a != b,
                 open = may_merge(regions[a].threshold, regions[b].threshold, floor);
      // Written in any case, and overwritten by the next: a branch would be mispredicted.
      edges[keep] = edge;
      candidates[count] = edge;
      keep += apart & !open;
      count += apart & open;
    }
    kept = keep;
    return count;
  }

  // Whether both thresholds are above a cost, waiting regions taken as if they were, and one of
  // the regions does not wait. In integers, of which those with the sign are the largest.
  static bool may_merge(float a, float b, float cost) {
    const auto a_bits = bit_cast<std::uint32_t>(a), b_bits = bit_cast<std::uint32_t>(b);
    const auto least = bit_cast<std::uint32_t>(cost);
    return (a_bits > least) & (b_bits > least) & ((a_bits & b_bits) >> 31 == 0);
  }

  // Orders the candidates of a bucket by cost, then direction, then raster order.
  void sort_candidates(std::int64_t bucket, std::int64_t count) {
    if (ordered_.size() < to_size(count)) ordered_.resize(to_size(count));
    constexpr int place_bits = 16;
    const bool open = bucket == 0 || bucket == Buckets::count - 1;  // costs of any width
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
    const std::uint64_t floor = Buckets::floor(bucket);
    int leading = 1;
    while (leading < max_leading && count >> leading > 0) ++leading;
    const int shift = Buckets::width + 2 + place_bits - leading;
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

  // Asks for the parents of the next edges' pixels, and for what is known where these point to: of
  // a large photo none of it is in the cache.
  template <class Known>
  void ask_for_roots(const Edge* edges, std::int64_t i, std::int64_t count,
                     const Known* known) const {
    const Edge later = edges[std::min(i + 16, count - 1)];
    const Edge soon = edges[std::min(i + 8, count - 1)];
    const std::int32_t* const parents = parents_;
    prefetch(parents + from(later), 1);
    prefetch(parents + to(later), 1);
    for (const std::int32_t above : {parents[from(soon)], parents[to(soon)]}) {
      prefetch(parents + above, 1);
      prefetch(known + above, 1);
    }
  }

  // Most often two steps suffice, or one: without a branch that tells which.
  std::int32_t find_near_root(std::int64_t pixel) {
    std::int32_t* const parents = parents_;
    const std::int32_t above = parents[parents[pixel]], root = parents[above];
    if (root != above) return find_root(above);
    parents[pixel] = root;
    return root;
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
  void halve_paths(std::int64_t begin, std::int64_t end) {
    std::int32_t* const parents = parents_;
    constexpr int together = 8;  // or each would wait for the one before to be written
    std::int64_t i = begin;
    for (; i + together <= end; i += together) {
      std::int32_t above[together];
      for (int j = 0; j < together; ++j) above[j] = parents[parents[i + j]];
      std::copy_n(above, together, parents + i);
    }
    for (; i < end; ++i) parents[i] = parents[parents[i]];
  }

  void halve_paths(const Area& area) {
    for (std::int64_t y = area.top; y < area.bottom; ++y)
      halve_paths(y * p_.width + area.left, y * p_.width + area.right);
  }

  // Step 3 for the regions of these roots, or what is known of it.
  void decide(Edge edge, std::int32_t a, std::int32_t b, std::uint32_t& kept) {
    Region* const regions = regions_;
    const double cost = cost_of(edge);
    const float a_threshold = regions[a].threshold, b_threshold = regions[b].threshold;
    if (cost < std::min(a_threshold, b_threshold)) {
      const std::int32_t root = join(a, b);
      regions[root].threshold = static_cast<float>(cost + p_.scale / regions[root].size);
      ++merged_;
      return;
    }
    edges_[kept] = edge;
    ++kept;
    // If one of them waits, so does the other, unless it can merge no more.
    const bool a_waits = std::signbit(a_threshold), b_waits = std::signbit(b_threshold);
    if ((a_waits | (cost < a_threshold)) & (b_waits | (cost < b_threshold))) {
      regions[a].threshold = -std::fabs(a_threshold);
      regions[b].threshold = -std::fabs(b_threshold);
    }
  }

  // Decides about the candidates of a bucket that no other candidate may interfere with: each of
  // their two regions has no other. They need not be sorted. Returns how many are left.
  std::int64_t decide_independent(std::int64_t count, std::uint32_t& kept) {
    if (ends_.size() < to_size(count)) ends_.resize(to_size(count));
    Edge* const candidates = candidates_.data();
    Ends* const ends = ends_.data();
    std::uint8_t* const marks = marks_;  // of a root: 0, 1 or more for no, one or more candidates
    std::int64_t apart = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      ask_for_roots(candidates, i, count, marks);
      const Edge edge = candidates[i];
      const std::int32_t a = find_near_root(from(edge)), b = find_near_root(to(edge));
      const unsigned differ = a != b;
      candidates[apart] = edge;
      ends[apart] = {a, b};
      apart += differ;
      marks[a] = static_cast<std::uint8_t>(marks[a] << differ | differ);
      marks[b] = static_cast<std::uint8_t>(marks[b] << differ | differ);
    }
    std::int64_t left = 0;
    for (std::int64_t i = 0; i < apart; ++i) {
      const std::int64_t soon = std::min(i + 16, apart - 1);
      prefetch(&cost_of(candidates[soon]), 1);
      prefetch(regions_ + ends[soon].a, 1);
      prefetch(regions_ + ends[soon].b, 1);
      const Edge edge = candidates[i];
      const auto [a, b] = ends[i];
      if ((marks[a] | marks[b]) > 1) {
        candidates[left] = edge;
        ends[left] = {a, b};
        ++left;
      } else {
        marks[a] = marks[b] = 0;
        decide(edge, a, b, kept);
      }
    }
    for (std::int64_t i = 0; i < left; ++i) marks[ends[i].a] = marks[ends[i].b] = 0;
    return left;
  }

  void merge_by_cost(const Area& area) {
    const std::int64_t pixels = (area.bottom - area.top) * (area.right - area.left);
    merged_ = 0;
    std::uint32_t kept = 0;
    for (std::int64_t bucket = 0; bucket < Buckets::count; ++bucket) {
      if (merged_ > pixels / 30) {
        halve_paths(area);
        merged_ = 0;
      }
      std::int64_t count = select_candidates(bucket, kept);
      // More are the equal costs of flat colours, hardly any of them independent.
      if (count <= pixels_ / 8) count = decide_independent(count, kept);
      if (count == 0) continue;
      sort_candidates(bucket, count);
      for (std::int64_t i = 0; i < count; ++i) {
        ask_for_roots(ordered_.data(), i, count, regions_);
        const Edge edge = ordered_[to_size(i)];
        const std::int32_t a = find_root(from(edge)), b = find_root(to(edge));
        if (a != b) decide(edge, a, b, kept);
      }
    }
    begin_[Buckets::count] = kept;
  }

  void merge_small() {
    halve_paths({0, p_.height, 0, p_.width});
    for (std::int64_t bucket = 0; bucket < Buckets::count; ++bucket) {
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
  static constexpr std::int64_t ask_ahead = 32;  // edges; so many may be read past the last one
  // Of so many pixels, what step 3 visits in order of cost stays in the last cache.
  static constexpr std::int64_t cached_pixels = std::int64_t{1} << 21;
  static constexpr std::int64_t patch_size = 256;

  const FelzenszwalbParams& p_;
  const std::int64_t pixels_;
  const std::int64_t offsets_[directions] = {1, p_.width, p_.width + 1, 1 - p_.width};
  std::vector<std::uint32_t> begin_;  // where in edges_ a bucket begins
  // One block, not cleared: everything is written before it is read. It is kept for the next photo,
  // and lies on huge pages, for regions are visited in order of cost, which is no order in space.
  static constexpr std::int64_t bytes_per_pixel =
      sizeof(Region) + sizeof(std::int32_t) + sizeof(std::uint8_t) +
      directions * (sizeof(double) + sizeof(Edge) + sizeof(Bucket));
  const Workspace<std::byte> memory_;
  double* const costs_;  // (directions, H, W)
  Region* const regions_;
  Edge* const edges_;  // by bucket
  std::int32_t* const parents_;
  Bucket* const bucket_of_;    // (directions, H, W)
  std::uint8_t* const marks_;  // of regions, at their roots: see decide_independent
  RowCosts row_costs_[4];
  std::vector<float> rounded_, cheapest_, thresholds_;
  std::vector<std::int32_t> drop_right_;
  struct Ends {
    std::int32_t a, b;
  };
  std::vector<Ends> ends_;
  std::int64_t merged_ = 0;  // since paths were halved
  std::vector<Edge> candidates_, ordered_;
  std::vector<std::uint64_t> keys_, spread_;
};

}  // namespace

template <class T>
bool felzenszwalb(const T* photos, std::int32_t* labels, const FelzenszwalbParams& p,
                  Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t workers = std::min<std::int64_t>(context.threads, p.batch);
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> all_finite{true};
  parallel_for(workers, context.threads, [&](std::int64_t) {
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

template bool felzenszwalb(const std::uint8_t*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const half*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const float*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const double*, std::int32_t*, const FelzenszwalbParams&, Context&);

}  // namespace cuekit::cpu
