// mask_scores: means, largest values and overlaps of every mask and every class.
//
// Masks are read once, into spans (mask_spans.h); all else costs what the masks cover. Classes
// whose maps are 0 everywhere are skipped: their scores are 0.
//
// Means and overlaps, for 8 classes at a time (score_block), row by row: the rows of the maps are
// resized and interleaved, and every chunk of 8 pixels is added up; a span then costs its whole
// chunks and the pixels before and after them. Differences of prefix sums would cost less, but they
// lose the digits of small values that follow large ones. Maps of bytes are counted with them.
//
// The largest values, for one class at a time (TopOfClass), mask by mask: the values under the mask
// are copied side by side, with integer keys that have the same order. The n-th largest key is
// found by counting the keys above guesses: some 10 passes at several values per cycle, where a
// partial sort takes some 10 cycles per value. One more pass adds up the values above it.
#include "cuekit/mask_scores.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>
#include <vector>

#include "cuekit/half.h"
#include "interrupt.h"
#include "mask_spans.h"
#include "parallel.h"
#include "simd.h"
#include "snap_steps.h"
#include "workspace.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t pixels_per_chunk = 8;

// Pixels of the image that one mask covers, [begin, begin + length).
struct Stretch {
  std::int64_t begin;
  std::int32_t length;
};

// The masks of one image.
struct Masks {
  std::vector<Spans> rows;          // (H)
  std::vector<Stretch> stretches;   // the same spans, mask by mask, in raster order
  std::vector<std::int64_t> first;  // (R + 1): mask r has stretches first[r] .. first[r + 1]
};

// Writes the areas, too. `by_mask`: fills the members that only the largest values need.
Masks read_masks(const std::uint8_t* masks,  // (R, H, W)
                 const MaskScoresParams& p, bool by_mask, int threads,
                 std::int64_t* area) {  // (R)
  Masks result;
  result.rows = read_spans(masks, p.masks, p.height, p.width, threads);
  std::fill_n(area, p.masks, std::int64_t{0});
  for (const auto& row : result.rows)
    for (const Span& span : row) area[span.mask] += span.end - span.begin;
  if (!by_mask) return result;
  result.first.resize(p.masks + 1);
  for (const auto& row : result.rows)
    for (const Span& span : row) ++result.first[span.mask + 1];
  for (std::int64_t r = 0; r < p.masks; ++r) result.first[r + 1] += result.first[r];
  result.stretches.resize(result.first[p.masks]);
  std::vector<std::int64_t> next(result.first.begin(), result.first.end());
  for (std::int64_t y = 0; y < p.height; ++y)
    for (const Span& span : result.rows[y])
      result.stretches[next[span.mask]++] = {y * p.width + span.begin, span.end - span.begin};
  return result;
}

// A tally of pixels: for 8 classes the sum of their values, then for 8 classes the number of those
// in the cue, all float64.
constexpr std::int64_t tally_size = 2 * channels_per_block;

// The first `channels` classes of a tally in vector registers; `lanes` is what one of them holds.
template <int channels, int lanes>
class Tally {
 public:
  explicit CUEKIT_INLINE Tally(const double* level) {  // (8): a cue is on above it
    for (int i = 0; i < parts; ++i) {
      level_[i] = Part::load(level + i * lanes);
      sum_[i] = count_[i] = Part::zero();
    }
  }
  CUEKIT_INLINE void load(const double* tally) {  // (2, 8)
    for (int i = 0; i < parts; ++i) {
      sum_[i] = Part::load(tally + i * lanes);
      count_[i] = Part::load(tally + channels_per_block + i * lanes);
    }
  }
  CUEKIT_INLINE void store(double* tally) const {  // (2, 8)
    for (int i = 0; i < parts; ++i) {
      sum_[i].store(tally + i * lanes);
      count_[i].store(tally + channels_per_block + i * lanes);
    }
  }
  template <class S>
  CUEKIT_INLINE void add_pixels(const S* pixels,  // (count, 8)
                                std::int64_t count) {
    const auto one = Part::all(1.0), zero = Part::zero();
    for (; count > 0; --count, pixels += channels_per_block) {
      for (int i = 0; i < parts; ++i) {
        const auto value = Part::widen(pixels + i * lanes);
        sum_[i] = sum_[i] + value;
        count_[i] = count_[i] + if_less(level_[i], value, one, zero);
      }
    }
  }
  CUEKIT_INLINE void add_tallies(const double* tallies,  // (count, 2, 8)
                                 std::int64_t count) {
    for (; count > 0; --count, tallies += tally_size) {
      for (int i = 0; i < parts; ++i) {
        sum_[i] = sum_[i] + Part::load(tallies + i * lanes);
        count_[i] = count_[i] + Part::load(tallies + channels_per_block + i * lanes);
      }
    }
  }

 private:
  using Part = Lanes<double, lanes>;
  static constexpr int parts = channels / lanes;
  Part level_[parts], sum_[parts], count_[parts];
};

// Adds one row to the tallies of the masks, and to that of the image, which is like one more mask.
template <int channels, int lanes>
struct AddRow {
  template <class S>
  static CUEKIT_INLINE void run(const S* pixels,      // (width, 8): values, interleaved
                                const Span image,     // the whole row
                                const double* level,  // (8)
                                const Span* span, const Span* end,
                                double* chunks,     // (width / 8, 2, 8): scratch
                                double* tallies) {  // (R + 1, 2, 8)
    constexpr std::int64_t step = pixels_per_chunk * channels_per_block;
    for (std::int64_t i = 0; i < image.end / pixels_per_chunk; ++i) {
      Tally<channels, lanes> chunk(level);
      chunk.add_pixels(pixels + i * step, pixels_per_chunk);
      chunk.store(chunks + i * tally_size);
    }
    for (const Span* each = &image;; each = span++) {
      // Whole chunks [first, last), after the pixels before them.
      const std::int64_t first = (each->begin + pixels_per_chunk - 1) / pixels_per_chunk;
      const std::int64_t last = each->end / pixels_per_chunk;
      Tally<channels, lanes> tally(level);
      tally.load(tallies + each->mask * tally_size);
      std::int64_t x = each->begin;
      if (first < last) {
        tally.add_pixels(pixels + x * channels_per_block, first * pixels_per_chunk - x);
        tally.add_tallies(chunks + first * tally_size, last - first);
        x = last * pixels_per_chunk;
      }
      tally.add_pixels(pixels + x * channels_per_block, each->end - x);
      tally.store(tallies + each->mask * tally_size);
      if (span == end) break;
    }
  }
};

// Most photos have few classes: half a block, if that is all, takes half the time.
template <class S, class... Others>
void add_row(std::int64_t classes, const S* pixels, Others... others) {
  if (classes <= 4)
    dispatch_width<AddRow<4, 2>, AddRow<4, 4>>(pixels, others...);
  else
    dispatch_width<AddRow<8, 2>, AddRow<8, 4>>(pixels, others...);
}

std::int64_t work_of_row(const Spans& spans, const MaskScoresParams& p) {
  return p.in_width + p.width + static_cast<std::int64_t>(spans.size());
}

// The tallies of one block of classes, under each mask and of the image. Maps of bytes are counted:
// a sum is the number of pixels in the cue, too.
std::vector<double> tally_cues(const ChannelBlock& block, const Masks& masks,
                               const Resizing& resizing, const MaskScoresParams& p) {
  std::vector<Count> counts((p.masks + 1) * channels_per_block);
  std::vector<Count> before((p.width + 1) * channels_per_block);
  Count* const totals = counts.data() + p.masks * channels_per_block;
  std::vector<std::uint8_t> bits(p.width);
  NearestRows rows(block, resizing);
  PollAfterWork poll_after;
  for (std::int64_t y = 0; y < p.height; ++y) {
    if (rows.move_to(y)) {
      rows.read(bits.data());
      prefix_sums(bits.data(), p.width, before.data());
    }
    add_counts(masks.rows[y], before.data(), p.width, counts.data(), totals);
    poll_after(work_of_row(masks.rows[y], p));
  }
  std::vector<double> tallies(2 * counts.size());
  for (std::size_t i = 0; i < tallies.size(); ++i)
    tallies[i] = counts[i / tally_size * channels_per_block + i % channels_per_block];
  return tallies;
}

std::vector<double> tally_maps(const ChannelBlock& block, const Masks& masks,
                               const Resizing& resizing, const MaskScoresParams& p) {
  std::vector<double> tallies((p.masks + 1) * tally_size);
  double level[channels_per_block];
  block.read_levels(level);
  std::vector<double> chunks(p.width / pixels_per_chunk * tally_size);
  const Span image{p.masks, 0, static_cast<std::int32_t>(p.width)};
  BilinearRows rows(block, resizing);
  PollAfterWork poll_after;
  for (std::int64_t y = 0; y < p.height; ++y) {
    const Spans& spans = masks.rows[y];
    const auto add = [&](const auto* row) {
      add_row(block.count, row, image, static_cast<const double*>(level), spans.data(),
              spans.data() + spans.size(), chunks.data(), tallies.data());
    };
    if (!resizing.same_size())
      add(rows.values(y));
    else if (block.type == MapType::float64)
      add(rows.source<double>(y));
    else
      add(rows.source<float>(y));
    poll_after(work_of_row(spans, p));
  }
  return tallies;
}

// Means and overlaps of one block of classes. Returns false where a mean is not finite. `top_mean`
// is written for maps of bytes only.
bool score_block(const ChannelBlock& block, const Masks& masks, const Resizing& resizing,
                 const MaskScoresParams& p,
                 const std::int64_t* area,  // (R)
                 double* mean,              // (R, C)
                 double* top_mean,          // (R, C), or null
                 double* inside,            // (R, C)
                 double* covered) {         // (R, C)
  const std::vector<double> tallies = block.floating() ? tally_maps(block, masks, resizing, p)
                                                       : tally_cues(block, masks, resizing, p);
  const double* const image = tallies.data() + p.masks * tally_size;
  double residue = 0.0;  // x - x is 0 unless x is not finite
  for (std::int64_t r = 0; r < p.masks; ++r) {
    const double* const tally = tallies.data() + r * tally_size;
    for (std::int64_t j = 0; j < block.count; ++j) {
      const std::int64_t target = r * p.classes + block.channels[j].index;
      const double both = tally[channels_per_block + j];
      mean[target] = quotient(tally[j], area[r]);
      residue += mean[target] - mean[target];
      if (top_mean != nullptr && !block.floating()) {
        const std::int64_t n = top_count(area[r], p.top);
        top_mean[target] = quotient(std::min(both, static_cast<double>(n)), n);
      }
      inside[target] = quotient(both, area[r]);
      covered[target] = quotient(both, static_cast<std::int64_t>(image[channels_per_block + j]));
    }
  }
  return residue == 0.0;
}

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

// The number of keys >= guess, in vectors of `width` bytes. Four in each step: a shorter loop takes
// half as long again where it happens to cross a cache line.
template <int width>
struct CountFrom {
  template <class K>
  static CUEKIT_INLINE void run(const K* keys,  // (count)
                                std::int64_t count, K guess, std::int64_t* from) {
    constexpr int lanes = width / static_cast<int>(sizeof(K));
    using Part = Lanes<K, lanes>;
    const auto limit = Part::all(guess), zero = Part::zero(), one = Part::all(1);
    auto below = zero;
    std::int64_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes) {
      CUEKIT_UNROLL
      for (int j = 0; j < 4; ++j)
        below = below + if_less(Part::load(keys + i + j * lanes), limit, one, zero);
    }
    K each[lanes];
    below.store(each);
    std::int64_t number = i;
    for (int j = 0; j < lanes; ++j) number -= each[j];
    for (; i < count; ++i) number += keys[i] >= guess ? 1 : 0;
    *from = number;
  }
};

constexpr std::int64_t values_per_step = 32;

// Adds up the values above a threshold, in a fixed order, and counts them. There are 16 sums, in
// vectors of `lanes`.
template <int lanes>
struct SumAbove {
  template <class E>
  static CUEKIT_INLINE void run(const E* values,  // (count)
                                std::int64_t count, E threshold, double* sum, std::int64_t* above) {
    using Part = Lanes<double, lanes>;
    constexpr int parts = 16 / lanes;
    Part sums[parts];
    for (int j = 0; j < parts; ++j) sums[j] = Part::zero();
    const auto limit = Part::all(static_cast<double>(threshold)), zero = Part::zero();
    std::int64_t number = 0;
    std::int64_t i = 0;
    for (; i + values_per_step <= count; i += values_per_step) {
      const E* const step = values + i;
      Key<E> step_above = 0;
      for (int j = 0; j < values_per_step; ++j)
        step_above += step[j] > threshold ? Key<E>{1} : Key<E>{0};
      if (step_above == 0) continue;
      number += step_above;
      CUEKIT_UNROLL
      for (int j = 0; j < values_per_step / lanes; ++j) {
        const auto value = Part::widen(step + j * lanes);
        sums[j % parts] = sums[j % parts] + if_less(limit, value, value, zero);
      }
    }
    double each[16];
    for (int j = 0; j < parts; ++j) sums[j].store(each + j * lanes);
    double total = 0.0;
    for (int j = 0; j < 8; ++j) total += each[j] + each[j + 8];
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
      std::copy_n(map + stretch->begin, stretch->length, values_.get() + count);
      count += stretch->length;
    }
    const E threshold = find_threshold(count, wanted);
    double sum;
    std::int64_t above;
    dispatch_width<SumAbove<2>, SumAbove<4>>(static_cast<const E*>(values_.get()), count, threshold,
                                             &sum, &above);
    return sum + static_cast<double>(wanted - above) * static_cast<double>(threshold);
  }

 private:
  // The n-th largest of the first `count` values, or a value between it and the next smaller one.
  E find_threshold(std::int64_t count, std::int64_t n) {
    Key<E> low, high;  // the n-th largest key is between them
    dispatch<MakeKeys>(static_cast<const E*>(values_.get()), count, keys_.get(), &low, &high);
    if (n == count) return value_of<E>(low);
    // How many keys too many are >= low, and how many more than those above `high` are wanted. An
    // end that stays where it is counts half from then on, so that the next guess is nearer to it
    // (the Illinois method).
    auto too_many = static_cast<double>(count - n), too_few = static_cast<double>(n);
    bool low_moved = false, high_moved = false;
    for (int pass = 0; low < high; ++pass) {
      // In turns where the n-th would be if values were spread evenly, and in the middle of the
      // keys, which ends the search after four times as many passes as a key has bits. The latter
      // moves the end to a key that occurs: many may be equal.
      const bool halving = pass % 4 == 3;
      Division<Key<E>> division;
      Key<E> guess;
      if (halving) {
        guess = middle(low, high);
        dispatch<Divide>(static_cast<const Key<E>*>(keys_.get()), count, guess, &division);
      } else {
        const auto bottom = static_cast<double>(value_of<E>(low));
        const auto top = static_cast<double>(value_of<E>(high));
        const double share = too_few / (too_few + too_many);
        guess = std::clamp(key_of(static_cast<E>(top - (top - bottom) * share)), low + 1, high);
        division.smallest_from = guess;
        division.largest_below = guess - 1;
        dispatch_width<CountFrom<16>, CountFrom<32>>(static_cast<const Key<E>*>(keys_.get()), count,
                                                     guess, &division.from);
      }
      if (division.from == n) return value_of<E>(guess - 1);  // those above it are what is wanted
      if (division.from > n) {
        low = division.smallest_from;
        too_many = static_cast<double>(division.from - n);
        if (low_moved) too_few /= 2.0;
        low_moved = true;
        high_moved = false;
      } else {
        high = division.largest_below;
        too_few = static_cast<double>(n - division.from);
        if (high_moved) too_many /= 2.0;
        high_moved = true;
        low_moved = false;
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

  Workspace<E> values_;
  Workspace<Key<E>> keys_;
};

// Writes one column of top_mean. Returns false where it is not finite.
template <class E>
bool score_top(const E* map,  // (H, W)
               const Masks& masks, const std::int64_t* area, const MaskScoresParams& p,
               double* top_mean) {  // (R, C), from the class's column on
  TopOfClass<E> top(*std::max_element(area, area + p.masks));
  double residue = 0.0;
  PollAfterWork poll_after;
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
    poll_after(area[r]);
  }
  return residue == 0.0;
}

// The same for a map of any type.
bool score_top(MapType type, const Channel& map, const Masks& masks, const std::int64_t* area,
               const Resizing& resizing, const MaskScoresParams& p, double* top_mean) {  // (R, C)
  double* const column = top_mean + map.index;
  if (resizing.same_size() && type == MapType::float32)
    return score_top(static_cast<const float*>(map.map), masks, area, p, column);
  if (resizing.same_size() && type == MapType::float64)
    return score_top(static_cast<const double*>(map.map), masks, area, p, column);
  const Workspace<double> resized(p.height * p.width);
  BilinearRows rows(type, map, resizing);
  PollAfterWork poll_after;
  for (std::int64_t y = 0; y < p.height; ++y) {
    std::copy_n(rows.values(y), p.width, resized.get() + y * p.width);
    poll_after(p.in_width + p.width);
  }
  return score_top(static_cast<const double*>(resized.get()), masks, area, p, column);
}

bool mask_scores(const Maps& maps,           // (B, C, h, w)
                 const std::uint8_t* masks,  // (B, R, H, W)
                 std::int64_t* area,         // (B, R)
                 double* mean,               // (B, R, C)
                 double* top_mean,           // (B, R, C), or null
                 double* inside,             // (B, R, C)
                 double* covered,            // (B, R, C)
                 const MaskScoresParams& p, Context& context) {
  const std::int64_t table = p.masks * p.classes;
  const Resizing resizing = resizing_of(p.in_height, p.in_width, p.height, p.width);
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    std::int64_t* const image_area = area + b * p.masks;
    double* const image_top = top_mean == nullptr ? nullptr : top_mean + b * table;
    const bool search_largest = image_top != nullptr && maps.floating();
    const Masks image_masks = read_masks(masks + b * p.masks * p.height * p.width, p,
                                         search_largest, inner_threads, image_area);
    for (double* scores : {mean, top_mean, inside, covered})
      if (scores != nullptr) std::fill_n(scores + b * table, table, 0.0);
    if (p.masks == 0 || p.height * p.width == 0) return;

    std::vector<MapSummary> summaries(p.classes);
    parallel_for(p.classes, inner_threads,
                 [&](std::int64_t c) { summaries[c] = maps.summarize(b * p.classes + c); });
    Channels classes{maps.type, {}};
    for (std::int64_t c = 0; c < p.classes; ++c) {
      if (!summaries[c].finite) all_finite = false;
      if (summaries[c].any)
        classes.channels.push_back(
            {maps.map(b * p.classes + c), std::max(p.threshold * summaries[c].largest, 0.0), c});
    }
    if (!all_finite) return;

    parallel_for(classes.blocks(), inner_threads, [&](std::int64_t i) {
      if (!score_block(classes.block(i), image_masks, resizing, p, image_area, mean + b * table,
                       image_top, inside + b * table, covered + b * table))
        all_finite = false;
    });
    if (!search_largest || !all_finite) return;
    parallel_for(classes.count(), inner_threads, [&](std::int64_t i) {
      if (!score_top(maps.type, classes.channels[i], image_masks, image_area, resizing, p,
                     image_top))
        all_finite = false;
    });
  });
  return all_finite;
}

}  // namespace

template <class T>
bool mask_scores(const T* maps, const std::uint8_t* masks, std::int64_t* area, double* mean,
                 double* top_mean, double* inside, double* covered, const MaskScoresParams& p,
                 Context& context) {
  return mask_scores(maps_of(maps, p.in_height * p.in_width), masks, area, mean, top_mean, inside,
                     covered, p, context);
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
