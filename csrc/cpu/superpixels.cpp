// Converts superpixel labels to runs, in two steps for each row. The first step compares
// neighbouring pixels into one bit for each pixel, 64 to a word, and reads the ends of the runs
// from the set bits. The second step reads one label for each run and keeps track of their range.
// Only if that shows a negative label, or one that is too large, are all pixels read again: to
// report the first bad label, or because some pixels have label -1.
#include "superpixels.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace cuekit::cpu {
namespace {

constexpr std::uint64_t top_bit = std::uint64_t{1} << 63;

CUEKIT_INLINE int count_bits(std::uint64_t word) {
#if defined(_MSC_VER) && !defined(__clang__)
  int count = 0;
  for (; word != 0; word &= word - 1) ++count;
  return count;
#else
  return __builtin_popcountll(word);
#endif
}

// 64 bytes, each 0 or 1, as the bits of one word.
CUEKIT_INLINE std::uint64_t pack_bits(const std::uint8_t* bytes) {  // (64)
  std::uint64_t word = 0;
#if CUEKIT_SSE2
  for (int i = 0; i < 64; i += 16) {
    const auto part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
    const int bits = _mm_movemask_epi8(_mm_cmpgt_epi8(part, _mm_setzero_si128()));
    word |= static_cast<std::uint64_t>(bits) << i;
  }
#else
  for (int i = 0; i < 64; ++i) word |= static_cast<std::uint64_t>(bytes[i]) << i;
#endif
  return word;
}

// The range of the labels read so far.
struct LabelRange {
  std::uint64_t bits = 0;    // all labels combined by OR: below 2^31 only if each label is
  std::int32_t largest = 0;  // valid if `bits` is below 2^31
};

// Finds the runs of one row. Writes them from *runs on and moves *runs past the last one.
//
// The ends of runs are unpredictable, so no branch depends on a single one: the ends within 64
// pixels are stored four at a time, even where fewer than four are left. The surplus entries are
// overwritten later, or lie past the last run: hence the room for `ends_at_once` more.
constexpr std::int64_t ends_at_once = 4;

struct FindRuns {
  template <class L>
  static CUEKIT_INLINE void run(const L* row,  // (width)
                                std::int64_t width,
                                std::uint8_t* __restrict is_last,  // (width + 64): scratch
                                Run** runs,                        // (width + ends_at_once)
                                LabelRange* range) {
    for (std::int64_t x = 0; x < width - 1; ++x) is_last[x] = row[x + 1] != row[x];
    is_last[width - 1] = 1;  // the row's end
    std::fill_n(is_last + width, 64, std::uint8_t{0});
    // First the column of each run's last pixel, stored in `length`.
    Run* end = *runs;
    for (std::int64_t x = 0; x < width; x += 64) {
      std::uint64_t word = pack_bits(is_last + x);
      Run* const first = end;
      end += count_bits(word);
      for (Run* group = first; group < end; group += ends_at_once) {
        for (int k = 0; k < ends_at_once; ++k, word &= word - 1)
          group[k].length = static_cast<std::int32_t>(x) + lowest_bit(word | top_bit);
      }
    }
    // Then each run's label and length.
    std::int32_t start = 0;
    LabelRange all = *range;
    for (Run* run = *runs; run != end; ++run) {
      const std::int32_t stop = run->length + 1;
      const L label = row[start];
      all.bits |= static_cast<std::uint64_t>(label);
      *run = {static_cast<std::int32_t>(label), stop - start};
      all.largest = std::max(all.largest, static_cast<std::int32_t>(label));
      start = stop;
    }
    *range = all;
    *runs = end;
  }
};

// Throws for the first label that is below -1, or not below `limit`, if there is one.
template <class L>
void check_labels(const L* superpixels,  // (count)
                  std::int64_t count, std::int64_t limit) {
  for (std::int64_t i = 0; i < count; ++i) {
    const L label = superpixels[i];
    const bool negative = label < L{0};
    if (static_cast<std::uint64_t>(label) < static_cast<std::uint64_t>(limit)) continue;
    if (negative && label == static_cast<L>(-1)) continue;
    throw std::invalid_argument(std::string("superpixels must be ") +
                                (negative ? "at least -1" : "less than " + std::to_string(limit)) +
                                ", got " + std::to_string(label));
  }
}

// Renumbers the labels that occur as 0, 1, ..., in ascending order, except -1. Returns how many
// there are.
std::int64_t renumber(std::vector<Run>& runs) {
  std::vector<std::int32_t> distinct;
  for (const Run& run : runs)
    if (run.label >= 0) distinct.push_back(run.label);
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (Run& run : runs) {
    if (run.label < 0) continue;
    const auto found = std::lower_bound(distinct.begin(), distinct.end(), run.label);
    run.label = static_cast<std::int32_t>(found - distinct.begin());
  }
  return static_cast<std::int64_t>(distinct.size());
}

template <class L>
SuperpixelRuns read_image(const L* superpixels,  // (height, width)
                          std::int64_t height, std::int64_t width, std::int64_t limit) {
  SuperpixelRuns result;
  std::vector<std::uint8_t> is_last(width + 64);
  // A first guess; before each row there is room for `width` more runs, the most that it can have.
  result.runs.resize(height * width / 16);
  result.row_begin.reserve(height + 1);
  LabelRange range;
  std::int64_t count = 0;
  for (std::int64_t y = 0; y < height; ++y) {
    result.row_begin.push_back(count);
    const auto needed = static_cast<std::size_t>(count + width + ends_at_once);
    if (result.runs.size() < needed) result.runs.resize(std::max(needed, 2 * result.runs.size()));
    Run* end = result.runs.data() + count;
    dispatch_avx512<FindRuns>(superpixels + y * width, width, is_last.data(), &end, &range);
    count = end - result.runs.data();
  }
  result.row_begin.push_back(count);
  result.runs.resize(count);
  const bool out_of_range = range.bits >= static_cast<std::uint64_t>(superpixel_limit);
  if (out_of_range || range.largest >= limit) check_labels(superpixels, height * width, limit);
  const std::int64_t largest = range.largest;
  result.count = largest < count ? largest + 1 : renumber(result.runs);
  result.any_outside = out_of_range;  // only -1 passes the check
  if (result.any_outside) {
    for (Run& run : result.runs)
      if (run.label < 0) run.label = static_cast<std::int32_t>(result.count);
  }
  result.sizes.resize(result.rows());
  for (const Run& run : result.runs) result.sizes[run.label] += run.length;
  return result;
}

template <class Signed, class Unsigned>
SuperpixelRuns read_image_of(const SuperpixelsView& superpixels, std::int64_t b,
                             std::int64_t height, std::int64_t width, std::int64_t limit) {
  const std::int64_t offset = b * height * width;
  if (superpixels.is_signed)
    return read_image(static_cast<const Signed*>(superpixels.data) + offset, height, width, limit);
  return read_image(static_cast<const Unsigned*>(superpixels.data) + offset, height, width, limit);
}

}  // namespace

SuperpixelRuns read_runs(const SuperpixelsView& superpixels, std::int64_t b, std::int64_t height,
                         std::int64_t width, std::int64_t limit) {
  switch (superpixels.itemsize) {
    case 1:
      return read_image_of<std::int8_t, std::uint8_t>(superpixels, b, height, width, limit);
    case 2:
      return read_image_of<std::int16_t, std::uint16_t>(superpixels, b, height, width, limit);
    case 4:
      return read_image_of<std::int32_t, std::uint32_t>(superpixels, b, height, width, limit);
    default:
      return read_image_of<std::int64_t, std::uint64_t>(superpixels, b, height, width, limit);
  }
}

}  // namespace cuekit::cpu
