// mask_scores: means, largest values and overlaps of every mask and every class.
//
// Masks are read once, into spans (mask_spans.h); all else costs what the masks cover. Classes
// whose maps are 0 everywhere are skipped: their scores are 0.
//
// Means and overlaps, for 8 classes at a time (ClassBlock), row by row:
//   the row of each map is resized, and its values are interleaved;
//   values are added up in chunks of 16 pixels, so a span costs its whole chunks and the pixels
//     before and after them. Differences of prefix sums would cost less, but they lose the digits
//     of small values that follow large ones;
//   the pixels of the cues are counted by prefix sums, which are integers.
//
// The largest values, for one class at a time (TopOfClass), mask by mask: the values under the mask
// are copied side by side, with integer keys that have the same order. The n-th largest key is
// found by counting the keys above a guess until only one is left: 5 to 10 passes at several values
// per cycle, where a partial sort takes some 10 cycles per value. One more pass adds up the values
// above it.
#include "cuekit/mask_scores.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "interrupt.h"
#include "mask_spans.h"
#include "parallel.h"
#include "snap_steps.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t pixels_per_chunk = 16;

// Pixels of the image that one mask covers, [begin, begin + length).
struct Stretch {
  std::int64_t begin;
  std::int32_t length;
};

// The masks of one image.
struct Masks {
  std::vector<std::vector<Span>> rows;  // (H): spans ordered by mask, then from left to right
  std::vector<Stretch> stretches;       // the same spans, mask by mask, in raster order
  std::vector<std::int64_t> first;      // (R + 1): mask r has stretches first[r] .. first[r + 1]
};

// Writes the areas, too.
Masks read_masks(const std::uint8_t* masks,  // (R, H, W)
                 const MaskScoresParams& p, int threads,
                 std::int64_t* area) {  // (R)
  const std::int64_t pixels = p.height * p.width;
  Masks result;
  result.rows.resize(p.height);
  parallel_for((p.height + band_height - 1) / band_height, threads, [&](std::int64_t band) {
    const std::int64_t end = std::min(p.height, (band + 1) * band_height);
    for (std::int64_t r = 0; r < p.masks; ++r) {
      for_each_span(masks + r * pixels, band * band_height, end, p.width,
                    [&](std::int64_t y, std::int32_t begin, std::int32_t stop) {
                      result.rows[y].push_back({r, begin, stop});
                    });
    }
  });
  std::fill_n(area, p.masks, std::int64_t{0});
  result.first.resize(p.masks + 1);
  for (const auto& row : result.rows) {
    for (const Span& span : row) {
      area[span.mask] += span.end - span.begin;
      ++result.first[span.mask + 1];
    }
  }
  for (std::int64_t r = 0; r < p.masks; ++r) result.first[r + 1] += result.first[r];
  result.stretches.resize(result.first[p.masks]);
  std::vector<std::int64_t> next(result.first.begin(), result.first.end());
  for (std::int64_t y = 0; y < p.height; ++y)
    for (const Span& span : result.rows[y])
      result.stretches[next[span.mask]++] = {y * p.width + span.begin, span.end - span.begin};
  return result;
}

// Whether any value is not 0.
template <class T>
bool any_nonzero(const T* values,  // (count)
                 std::int64_t count) {
  using Bits = typename float_bits<T>::type;
  constexpr std::int64_t part = 1024;
  for (std::int64_t begin = 0; begin < count; begin += part) {
    const std::int64_t end = std::min(count, begin + part);
    Bits seen = 0;
    for (std::int64_t i = begin; i < end; ++i) seen |= bit_cast<Bits>(values[i]);
    if (static_cast<Bits>(seen << 1) != 0) return true;  // without the sign: -0 is 0
  }
  return false;
}

// The largest value of a map, but at least 0, and whether all values can be interpolated; else the
// largest means nothing. In one pass over memory: the parts are in L1 when they are read again.
struct FiniteLargest {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, bool* finite, double* largest) {
    // Values are compared as they are, but float16, which has no arithmetic, as float64.
    using Value = std::conditional_t<std::is_same_v<T, half>, double, T>;
    constexpr int accumulators = 16;
    constexpr std::int64_t part = 4096;
    Value best[accumulators] = {};
    *finite = true;
    for (std::int64_t begin = 0; begin < count; begin += part) {
      const T* const source = values + begin;
      const std::int64_t length = std::min(part, count - begin);
      *finite = *finite && can_interpolate(source, length);
      std::int64_t i = 0;
      for (; i + accumulators <= length; i += accumulators) {
        for (int j = 0; j < accumulators; ++j) {
          const auto value = static_cast<Value>(load(source[i + j]));
          best[j] = best[j] < value ? value : best[j];
        }
      }
      for (; i < length; ++i) best[0] = std::max(best[0], static_cast<Value>(load(source[i])));
    }
    *largest = static_cast<double>(*std::max_element(best, best + accumulators));
  }
};

// One class whose map is not 0 everywhere.
template <class T>
struct ClassMap {
  const T* map;         // (h, w)
  std::int64_t column;  // c: its column in the tables of scores
};

// One row of maps that have the masks' resolution, interleaved, and the bits of their cues.
struct PlainRow {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* rows,  // 8 of (width)
                                std::int64_t width,
                                const double* level,   // (8)
                                T* pixels,             // (width, 8): scratch
                                double* values,        // (width, 8)
                                std::uint8_t* bits) {  // (width)
    interleave(rows, width, pixels);
    for (std::int64_t i = 0; i < width * channels_per_block; ++i) values[i] = load(pixels[i]);
    for (std::int64_t x = 0; x < width; ++x) {
      unsigned on = 0;
      for (int j = 0; j < channels_per_block; ++j)
        on |= static_cast<unsigned>(values[x * channels_per_block + j] > level[j]) << j;
      bits[x] = static_cast<std::uint8_t>(on);
    }
  }
};

// Adds up the whole chunks of one row.
struct SumChunks {
  static CUEKIT_INLINE void run(const double* values,  // (width, 8)
                                std::int64_t width,
                                double* chunks) {  // (width / 16, 8)
    for (std::int64_t i = 0; i < width / pixels_per_chunk; ++i) {
      const double* source = values + i * pixels_per_chunk * channels_per_block;
      auto sum = Lanes<double>::load(source);
      for (std::int64_t x = 1; x < pixels_per_chunk; ++x)
        sum = sum + Lanes<double>::load(source + x * channels_per_block);
      sum.store(chunks + i * channels_per_block);
    }
  }
};

// Adds the values of one row's spans to their masks.
struct AddSpans {
  static CUEKIT_INLINE void run(const Span* span, const Span* end,
                                const double* values,  // (width, 8)
                                const double* chunks,  // (width / 16, 8)
                                double* sums) {        // (R, 8)
    for (; span != end; ++span) {
      double* sum = sums + span->mask * channels_per_block;
      auto total = Lanes<double>::load(sum);
      std::int64_t x = span->begin;
      const std::int64_t first = (x + pixels_per_chunk - 1) / pixels_per_chunk;
      const std::int64_t last = span->end / pixels_per_chunk;
      if (first < last) {
        for (; x < first * pixels_per_chunk; ++x)
          total = total + Lanes<double>::load(values + x * channels_per_block);
        for (std::int64_t i = first; i < last; ++i)
          total = total + Lanes<double>::load(chunks + i * channels_per_block);
        x = last * pixels_per_chunk;
      }
      for (; x < span->end; ++x)
        total = total + Lanes<double>::load(values + x * channels_per_block);
      total.store(sum);
    }
  }
};

// Means and overlaps of at most 8 classes of one image.
template <class T>
class ClassBlock {
 public:
  ClassBlock(const ClassMap<T>* classes,  // (count)
             std::int64_t count, const Masks& masks, const MaskScoresParams& p)
      : classes_(classes),
        count_(count),
        masks_(masks),
        p_(p),
        zeros_(p.in_width),
        bits_(p.width),
        before_((p.width + 1) * channels_per_block),
        counts_(p.masks * channels_per_block) {}

  // Returns false where a value or a mean is not finite. `top_mean` is written for maps of bytes
  // only.
  bool score(const std::int64_t* area,  // (R)
             double* mean,              // (R, C)
             double* top_mean,          // (R, C), or null
             double* inside,            // (R, C)
             double* covered) {         // (R, C)
    if constexpr (std::is_integral_v<T>) {
      read_nearest();
    } else {
      if (!find_levels()) return false;
      read_bilinear();
    }
    double residue = 0.0;  // x - x is 0 unless x is not finite
    for (std::int64_t r = 0; r < p_.masks; ++r) {
      for (std::int64_t j = 0; j < count_; ++j) {
        const std::int64_t target = r * p_.classes + classes_[j].column;
        const Count both = counts_[r * channels_per_block + j];
        inside[target] = quotient(both, area[r]);
        covered[target] = quotient(both, totals_[j]);
        if constexpr (std::is_integral_v<T>) {
          mean[target] = inside[target];
          if (top_mean != nullptr) {
            const std::int64_t n = top_count(area[r], p_.top);
            top_mean[target] = quotient(std::min<double>(both, static_cast<double>(n)), n);
          }
        } else {
          mean[target] = quotient(sums_[r * channels_per_block + j], area[r]);
          residue += mean[target] - mean[target];
        }
      }
    }
    return residue == 0.0;
  }

 private:
  const Span* spans_begin(std::int64_t y) const { return masks_.rows[y].data(); }
  const Span* spans_end(std::int64_t y) const { return spans_begin(y) + masks_.rows[y].size(); }

  // Row y of each class's map. Missing classes read zeros.
  void point_to_row(std::int64_t y, const T** rows) const {  // (8)
    for (int j = 0; j < channels_per_block; ++j)
      rows[j] = j < count_ ? classes_[j].map + y * p_.in_width : zeros_.data();
  }

  // Floating maps: a cue is on above its level. Returns false where a value is not finite.
  bool find_levels() {
    bool all_finite = true;
    for (std::int64_t j = 0; j < count_; ++j) {
      bool finite;
      double largest;
      dispatch<FiniteLargest>(classes_[j].map, p_.in_height * p_.in_width, &finite, &largest);
      all_finite = all_finite && finite;
      levels_[j] = std::max(p_.threshold * largest, 0.0);
    }
    return all_finite;
  }

  void count_row(std::int64_t y) {
    dispatch<AddCounts>(spans_begin(y), spans_end(y), before_.data(), p_.width, counts_.data(),
                        &totals_[0]);
  }

  void read_nearest() {
    std::vector<std::int32_t> columns;
    for (std::int64_t x = 0; x < p_.width; ++x)
      columns.push_back(static_cast<std::int32_t>(nearest_source(x, p_.in_width, p_.width)));
    std::vector<std::uint8_t> cells(p_.in_width);
    std::int64_t current = -1;
    PollAfterWork poll_sometimes;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const std::int64_t source = nearest_source(y, p_.in_height, p_.height);
      if (source != current) {
        const T* rows[channels_per_block];
        point_to_row(source, rows);
        dispatch<NearestRow>(&rows[0], p_.in_width, columns.data(), p_.width, cells.data(),
                             bits_.data());
        dispatch<PrefixSums>(bits_.data(), p_.width, before_.data());
        current = source;
      }
      count_row(y);
      poll_sometimes(p_.in_width + p_.width + (spans_end(y) - spans_begin(y)));
    }
  }

  void read_bilinear() {
    const bool same_size = p_.in_height == p_.height && p_.in_width == p_.width;
    std::vector<BilinearTap> taps;
    for (std::int64_t x = 0; x < p_.width; ++x)
      taps.push_back(bilinear_tap(x, p_.in_width, p_.width));
    sums_.resize(p_.masks * channels_per_block);
    std::vector<T> pixels(2 * p_.in_width * channels_per_block);
    std::vector<double> columns(p_.in_width * channels_per_block);
    std::vector<double> values(p_.width * channels_per_block);
    std::vector<double> chunks(p_.width / pixels_per_chunk * channels_per_block);
    PollAfterWork poll_sometimes;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const BilinearTap row = bilinear_tap(y, p_.in_height, p_.height);
      const T *above[channels_per_block], *below[channels_per_block];
      point_to_row(row.low, above);
      point_to_row(row.high, below);
      if (same_size) {
        dispatch<PlainRow>(&above[0], p_.width, &levels_[0], pixels.data(), values.data(),
                           bits_.data());
      } else {
        dispatch<BilinearRow>(&above[0], &below[0], row.weight, p_.in_width, taps.data(), p_.width,
                              &levels_[0], pixels.data(), columns.data(), values.data(),
                              bits_.data());
      }
      dispatch<PrefixSums>(bits_.data(), p_.width, before_.data());
      count_row(y);
      dispatch<SumChunks>(values.data(), p_.width, chunks.data());
      dispatch<AddSpans>(spans_begin(y), spans_end(y), values.data(), chunks.data(), sums_.data());
      poll_sometimes(p_.in_width + p_.width + (spans_end(y) - spans_begin(y)));
    }
  }

  const ClassMap<T>* classes_;
  std::int64_t count_;
  const Masks& masks_;
  const MaskScoresParams& p_;
  std::vector<T> zeros_;                   // (w)
  std::vector<std::uint8_t> bits_;         // (W): the cues; bit per class
  std::vector<Count> before_;              // (W + 1, 8): prefix sums of the bits
  std::vector<Count> counts_;              // (R, 8): pixels of the cues under each mask
  std::vector<double> sums_;               // (R, 8): values under each mask
  Count totals_[channels_per_block] = {};  // pixels of the cues
  double levels_[channels_per_block] = {};
};

// An integer that has the order of a finite value among others; -0 comes before 0.
template <class E>
using Key = std::conditional_t<sizeof(E) == 8, std::int64_t, std::int32_t>;

template <class E>
CUEKIT_INLINE Key<E> key_of(E value) {
  const auto bits = bit_cast<Key<E>>(value);
  return bits ^ ((bits >> (8 * sizeof(E) - 1)) & std::numeric_limits<Key<E>>::max());
}

template <class E>
E value_of(Key<E> key) {
  return bit_cast<E>(key ^ ((key >> (8 * sizeof(E) - 1)) & std::numeric_limits<Key<E>>::max()));
}

// The keys of all values, and the smallest and largest of them.
struct MakeKeys {
  template <class E>
  static CUEKIT_INLINE void run(const E* values,  // (count)
                                std::int64_t count,
                                Key<E>* keys,  // (count)
                                Key<E>* smallest, Key<E>* largest) {
    Key<E> low = std::numeric_limits<Key<E>>::max(), high = std::numeric_limits<Key<E>>::min();
    for (std::int64_t i = 0; i < count; ++i) {
      const Key<E> key = key_of(values[i]);
      keys[i] = key;
      low = std::min(low, key);
      high = std::max(high, key);
    }
    *smallest = low;
    *largest = high;
  }
};

// How a guess divides the keys.
template <class K>
struct Division {
  std::int64_t from;  // number of keys >= guess
  K smallest_from;    // the smallest of these
  K largest_below;    // the largest key < guess
};

struct Divide {
  template <class K>
  static CUEKIT_INLINE void run(const K* keys,  // (count)
                                std::int64_t count, K guess, Division<K>* division) {
    // Masks of all ones or zeros, not conditions, of which the compiler makes branches. An image
    // has fewer than 2^31 pixels, so K can count them.
    constexpr K lowest = std::numeric_limits<K>::min(), highest = std::numeric_limits<K>::max();
    K from = 0, smallest = highest, largest = lowest;
    for (std::int64_t i = 0; i < count; ++i) {
      const K key = keys[i];
      const K mask = -static_cast<K>(key >= guess);
      from -= mask;
      smallest = std::min(smallest, (key & mask) | (highest & ~mask));
      largest = std::max(largest, (key & ~mask) | (lowest & mask));
    }
    *division = {from, smallest, largest};
  }
};

constexpr std::int64_t values_per_step = 32;

// Adds up the values above a threshold, in a fixed order, and counts them.
struct SumAbove {
  template <class E>
  static CUEKIT_INLINE void run(const E* values,  // (count)
                                std::int64_t count, E threshold, double* sum, std::int64_t* above) {
    Lanes<double> sums[2] = {Lanes<double>::zero(), Lanes<double>::zero()};
    std::int64_t number = 0;
    std::int64_t i = 0;
    for (; i + values_per_step <= count; i += values_per_step) {
      const E* const step = values + i;
      Key<E> step_above = 0;
      for (int j = 0; j < values_per_step; ++j)
        step_above += step[j] > threshold ? Key<E>{1} : Key<E>{0};
      if (step_above == 0) continue;
      double kept[values_per_step];
      for (int j = 0; j < values_per_step; ++j)
        kept[j] = static_cast<double>(step[j] > threshold ? step[j] : E{0});
      for (int j = 0; j < values_per_step; j += 2 * channels_per_block) {
        sums[0] = sums[0] + Lanes<double>::load(kept + j);
        sums[1] = sums[1] + Lanes<double>::load(kept + j + channels_per_block);
      }
      number += step_above;
    }
    double lanes[channels_per_block];
    (sums[0] + sums[1]).store(lanes);
    double total = 0.0;
    for (const double lane : lanes) total += lane;
    for (; i < count; ++i) {
      if (values[i] > threshold) {
        total += static_cast<double>(values[i]);
        ++number;
      }
    }
    *sum = total;
    *above = number;
  }
};

// The sums of the largest values under every mask, for one class.
template <class E>
class TopOfClass {
 public:
  explicit TopOfClass(std::int64_t largest_area) : values_(largest_area), keys_(largest_area) {}

  // The sum of the `wanted` largest values under the mask; 1 <= wanted <= number of pixels.
  double sum(const E* map,  // (H, W)
             const Stretch* stretch, const Stretch* end, std::int64_t wanted) {
    std::int64_t count = 0;
    for (; stretch != end; ++stretch) {
      std::copy_n(map + stretch->begin, stretch->length, values_.data() + count);
      count += stretch->length;
    }
    const E threshold = nth_largest(count, wanted);
    double sum;
    std::int64_t above;
    dispatch<SumAbove>(static_cast<const E*>(values_.data()), count, threshold, &sum, &above);
    return sum + static_cast<double>(wanted - above) * static_cast<double>(threshold);
  }

 private:
  // Of the first `count` values.
  E nth_largest(std::int64_t count, std::int64_t n) {
    Key<E> low, high;  // the n-th largest key is between them; both are keys of values
    dispatch<MakeKeys>(static_cast<const E*>(values_.data()), count, keys_.data(), &low, &high);
    if (n == count) return value_of<E>(low);
    std::int64_t from_low = count, above_high = 0;  // number of keys >= low, > high
    for (bool interpolating = true; low < high; interpolating = !interpolating) {
      // In turns where the n-th is if values are spread evenly, which is often close, and in the
      // middle of the keys, which ends the search after as many passes as a key has bits.
      Key<E> guess = middle(low, high);
      if (interpolating) {
        const double share =
            static_cast<double>(n - above_high) / static_cast<double>(from_low - above_high);
        const auto bottom = static_cast<double>(value_of<E>(low));
        const auto top = static_cast<double>(value_of<E>(high));
        guess = std::clamp(key_of(static_cast<E>(top - (top - bottom) * share)), low + 1, high);
      }
      Division<Key<E>> division;
      dispatch<Divide>(static_cast<const Key<E>*>(keys_.data()), count, guess, &division);
      if (division.from == n) return value_of<E>(division.smallest_from);
      if (division.from > n) {
        low = division.smallest_from;
        from_low = division.from;
      } else {
        high = division.largest_below;
        above_high = division.from;
      }
    }
    return value_of<E>(low);
  }

  // Above `low`, at most `high`.
  static Key<E> middle(Key<E> low, Key<E> high) {
    using Unsigned = std::make_unsigned_t<Key<E>>;
    const auto distance = static_cast<Unsigned>(high) - static_cast<Unsigned>(low);
    return static_cast<Key<E>>(static_cast<Unsigned>(low) + distance - distance / 2);
  }

  std::vector<E> values_;
  std::vector<Key<E>> keys_;
};

// One map at the masks' resolution.
struct ResizeMap {
  template <class T>
  static CUEKIT_INLINE void run(const T* above, const T* below,  // (in_width)
                                double weight, std::int64_t in_width, const BilinearTap* taps,
                                std::int64_t width,
                                double* column,  // (in_width): scratch
                                double* out) {   // (width)
    for (std::int64_t i = 0; i < in_width; ++i)
      column[i] = interpolate(load(above[i]), load(below[i]), weight);
    for (std::int64_t x = 0; x < width; ++x)
      out[x] = interpolate(column[taps[x].low], column[taps[x].high], taps[x].weight);
  }
};

template <class T>
std::vector<double> resize_map(const T* map,  // (h, w)
                               const MaskScoresParams& p) {
  std::vector<BilinearTap> taps;
  for (std::int64_t x = 0; x < p.width; ++x) taps.push_back(bilinear_tap(x, p.in_width, p.width));
  std::vector<double> column(p.in_width), out(p.height * p.width);
  PollAfterWork poll_sometimes;
  for (std::int64_t y = 0; y < p.height; ++y) {
    const BilinearTap row = bilinear_tap(y, p.in_height, p.height);
    dispatch<ResizeMap>(map + row.low * p.in_width, map + row.high * p.in_width, row.weight,
                        p.in_width, static_cast<const BilinearTap*>(taps.data()), p.width,
                        column.data(), out.data() + y * p.width);
    poll_sometimes(p.in_width + p.width);
  }
  return out;
}

// Writes one column of top_mean. Returns false where it is not finite.
template <class E>
bool score_top(const E* map,  // (H, W)
               const Masks& masks, const std::int64_t* area, const MaskScoresParams& p,
               double* top_mean) {  // (R, C), from the class's column on
  TopOfClass<E> top(*std::max_element(area, area + p.masks));
  double residue = 0.0;
  PollAfterWork poll_sometimes;
  for (std::int64_t r = 0; r < p.masks; ++r) {
    const std::int64_t wanted = top_count(area[r], p.top);
    double& target = top_mean[r * p.classes];
    target = 0.0;
    if (wanted == 0) continue;
    const Stretch* stretches = masks.stretches.data();
    const double sum =
        top.sum(map, stretches + masks.first[r], stretches + masks.first[r + 1], wanted);
    target = quotient(sum, wanted);
    residue += target - target;
    poll_sometimes(area[r]);
  }
  return residue == 0.0;
}

template <class T>
bool score_top(const ClassMap<T>& map, const Masks& masks, const std::int64_t* area,
               const MaskScoresParams& p, double* top_mean) {  // (R, C)
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    if (p.in_height == p.height && p.in_width == p.width)
      return score_top(map.map, masks, area, p, top_mean + map.column);
  }
  const std::vector<double> resized = resize_map(map.map, p);
  return score_top(resized.data(), masks, area, p, top_mean + map.column);
}

}  // namespace

template <class T>
bool mask_scores(const T* maps,              // (B, C, h, w)
                 const std::uint8_t* masks,  // (B, R, H, W)
                 std::int64_t* area,         // (B, R)
                 double* mean,               // (B, R, C)
                 double* top_mean,           // (B, R, C), or null
                 double* inside,             // (B, R, C)
                 double* covered,            // (B, R, C)
                 const MaskScoresParams& p, Context& context) {
  const std::int64_t in_pixels = p.in_height * p.in_width;
  const std::int64_t table = p.masks * p.classes;
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    std::int64_t* const image_area = area + b * p.masks;
    const Masks image_masks =
        read_masks(masks + b * p.masks * p.height * p.width, p, inner_threads, image_area);
    double* const image_top = top_mean == nullptr ? nullptr : top_mean + b * table;
    for (double* scores : {mean, top_mean, inside, covered})
      if (scores != nullptr) std::fill_n(scores + b * table, table, 0.0);
    if (p.masks == 0 || p.height * p.width == 0) return;

    std::vector<ClassMap<T>> classes;
    for (std::int64_t c = 0; c < p.classes; ++c) {
      const T* map = maps + (b * p.classes + c) * in_pixels;
      bool any = false;
      if constexpr (std::is_integral_v<T>) {
        dispatch<AnyOn>(map, in_pixels, &any);
      } else {
        any = any_nonzero(map, in_pixels);
      }
      if (any) classes.push_back({map, c});
    }

    const auto count = static_cast<std::int64_t>(classes.size());
    parallel_for(channel_blocks(count), inner_threads, [&](std::int64_t i) {
      const std::int64_t first = i * channels_per_block;
      ClassBlock<T> block(classes.data() + first,
                          std::min<std::int64_t>(channels_per_block, count - first), image_masks,
                          p);
      if (!block.score(image_area, mean + b * table, image_top, inside + b * table,
                       covered + b * table))
        all_finite = false;
    });
    if constexpr (!std::is_integral_v<T>) {
      if (image_top == nullptr || !all_finite) return;
      parallel_for(count, inner_threads, [&](std::int64_t i) {
        if (!score_top(classes[i], image_masks, image_area, p, image_top)) all_finite = false;
      });
    }
  });
  return all_finite;
}

#define CUEKIT_INSTANTIATE(T)                                                               \
  template bool mask_scores(const T*, const std::uint8_t*, std::int64_t*, double*, double*, \
                            double*, double*, const MaskScoresParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
