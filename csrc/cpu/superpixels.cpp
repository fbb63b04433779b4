#include "superpixels.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::uint64_t top_bit = std::uint64_t{1} << 63;

CUEKIT_INLINE int lowest_bit(std::uint64_t word) {
#if defined(_MSC_VER) && !defined(__clang__)
  unsigned long bit;
  _BitScanForward64(&bit, word);
  return static_cast<int>(bit);
#else
  return __builtin_ctzll(word);
#endif
}

CUEKIT_INLINE int count_bits(std::uint64_t word) {
#if defined(_MSC_VER) && !defined(__clang__)
  int count = 0;
  for (; word != 0; word &= word - 1) ++count;
  return count;
#else
  return __builtin_popcountll(word);
#endif
}

// 64 bytes that are 0 or 1 as one word.
CUEKIT_INLINE std::uint64_t pack_bits(const std::uint8_t* bytes) {
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

// What the labels of an image were seen to be.
struct Seen {
  std::uint64_t bits = 0;  // all labels combined by OR: below 2^31 only if each of them is
  std::int32_t high = 0;   // the largest, if bits is below 2^31
};

// The runs of one row, written from *runs on, which is moved past them; there is room for `width`
// and `spare` more. `edge` is scratch for width + 64 bytes.
//
// Where a run ends cannot be foreseen, so nothing branches on it: of 64 pixels' ends, four are
// taken without asking whether there are so many. Those too many are overwritten.
constexpr std::int64_t spare = 4;

struct FindRuns {
  template <class L>
  static CUEKIT_INLINE void run(const L* row, std::int64_t width, std::uint8_t* __restrict edge,
                                Run** runs, Seen* seen) {
    for (std::int64_t x = 0; x < width - 1; ++x) edge[x] = row[x + 1] != row[x];
    edge[width - 1] = 1;  // the row's end
    std::fill_n(edge + width, 64, std::uint8_t{0});
    // First where each run's last pixel is, in the place of its length.
    Run* end = *runs;
    for (std::int64_t x = 0; x < width; x += 64) {
      std::uint64_t word = pack_bits(edge + x);
      Run* const first = end;
      end += count_bits(word);
      for (Run* some = first; some < end; some += spare) {
        for (int k = 0; k < spare; ++k, word &= word - 1)
          some[k].length = static_cast<std::int32_t>(x) + lowest_bit(word | top_bit);
      }
    }
    std::int32_t start = 0;
    Seen all = *seen;
    for (Run* run = *runs; run != end; ++run) {
      const std::int32_t stop = run->length + 1;
      const L label = row[start];
      all.bits |= static_cast<std::uint64_t>(label);
      *run = {static_cast<std::int32_t>(label), stop - start};
      all.high = std::max(all.high, static_cast<std::int32_t>(label));
      start = stop;
    }
    *seen = all;
    *runs = end;
  }
};

// Throws for the first label that is negative, or `limit` or more, if there is one.
template <class L>
void refuse(const L* labels, std::int64_t count, std::int64_t limit) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (static_cast<std::uint64_t>(labels[i]) < static_cast<std::uint64_t>(limit)) continue;
    const bool negative = labels[i] < L{0};
    throw std::invalid_argument(std::string("superpixels must be ") +
                                (negative ? "at least 0" : "less than " + std::to_string(limit)) +
                                ", got " + std::to_string(labels[i]));
  }
}

// Numbers 0, 1, ... in ascending order of the labels there are.
std::int64_t renumber(std::vector<Run>& runs) {
  std::vector<std::int32_t> labels;
  for (const Run& run : runs) labels.push_back(run.label);
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  for (Run& run : runs) {
    const auto place = std::lower_bound(labels.begin(), labels.end(), run.label);
    run.label = static_cast<std::int32_t>(place - labels.begin());
  }
  return static_cast<std::int64_t>(labels.size());
}

template <class L>
Superpixels read_typed(const L* labels, std::int64_t height, std::int64_t width,
                       std::int64_t limit) {
  Superpixels result;
  std::vector<std::uint8_t> edge(to_size(width + 64));
  // A row has at most `width` runs: room is made before it is read.
  result.runs.resize(to_size(height * width / 16));
  result.row_begin.reserve(to_size(height + 1));
  Seen seen;
  std::int64_t found = 0;
  for (std::int64_t y = 0; y < height; ++y) {
    result.row_begin.push_back(found);
    const std::size_t room = to_size(found + width + spare);
    if (result.runs.size() < room) result.runs.resize(std::max(room, 2 * result.runs.size()));
    Run* end = result.runs.data() + found;
    dispatch<FindRuns>(labels + y * width, width, edge.data(), &end, &seen);
    found = end - result.runs.data();
  }
  result.row_begin.push_back(found);
  result.runs.resize(to_size(found));
  const bool wide = seen.bits >= static_cast<std::uint64_t>(superpixel_limit);
  if (wide || seen.high >= limit) refuse(labels, height * width, limit);
  const std::int64_t high = seen.high;
  result.count = high < found ? high + 1 : renumber(result.runs);
  result.sizes.resize(to_size(result.count));
  for (const Run& run : result.runs) result.sizes[to_size(run.label)] += run.length;
  return result;
}

template <class Signed, class Unsigned>
Superpixels read_of_size(const SuperpixelsView& labels, std::int64_t b, std::int64_t height,
                         std::int64_t width, std::int64_t limit) {
  const std::int64_t offset = b * height * width;
  if (labels.is_signed)
    return read_typed(static_cast<const Signed*>(labels.data) + offset, height, width, limit);
  return read_typed(static_cast<const Unsigned*>(labels.data) + offset, height, width, limit);
}

}  // namespace

Superpixels read_superpixels(const SuperpixelsView& labels, std::int64_t b, std::int64_t height,
                             std::int64_t width, std::int64_t limit) {
  switch (labels.itemsize) {
    case 1:
      return read_of_size<std::int8_t, std::uint8_t>(labels, b, height, width, limit);
    case 2:
      return read_of_size<std::int16_t, std::uint16_t>(labels, b, height, width, limit);
    case 4:
      return read_of_size<std::int32_t, std::uint32_t>(labels, b, height, width, limit);
    default:
      return read_of_size<std::int64_t, std::uint64_t>(labels, b, height, width, limit);
  }
}

}  // namespace cuekit::cpu
