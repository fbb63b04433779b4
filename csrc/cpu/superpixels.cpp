#include "superpixels.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace cuekit::cpu {
namespace {

constexpr std::int64_t label_limit = std::int64_t{1} << 31;

// Any label as int64; what does not fit becomes the largest value, which is refused anyway.
template <class L>
CUEKIT_INLINE std::int64_t widen(L label) {
  if constexpr (sizeof(L) == 8 && !std::numeric_limits<L>::is_signed) {
    constexpr auto largest = std::numeric_limits<std::int64_t>::max();
    return label > static_cast<L>(largest) ? largest : static_cast<std::int64_t>(label);
  } else {
    return static_cast<std::int64_t>(label);
  }
}

struct Range {
  std::int64_t low, high;
};

// The runs of one row; `edge` is scratch for width + 8 bytes. Returns where the runs end.
struct FindRuns {
  template <class L>
  static CUEKIT_INLINE void run(const L* row, std::int64_t width, std::uint8_t* __restrict edge,
                                Run** runs, Range* range) {
    for (std::int64_t x = 0; x < width - 1; ++x) edge[x] = row[x + 1] != row[x];
    edge[width - 1] = 1;  // the row's end
    std::fill_n(edge + width, 8, std::uint8_t{0});
    Run* end = *runs;
    for (std::int64_t x = 0; x < width; x += 8) {
      std::uint64_t word;
      std::memcpy(&word, edge + x, sizeof word);
      if (word == 0) continue;  // eight pixels on which no run ends
      // No branch: a run that does not end at a pixel is overwritten by the next one.
      for (std::int64_t i = x; i < x + 8; ++i) {
        end->length = static_cast<std::int32_t>(i + 1);
        end += edge[i];
      }
    }
    std::int32_t start = 0;
    for (Run* run = *runs; run != end; ++run) {
      const std::int64_t label = widen(row[start]);
      range->low = std::min(range->low, label);
      range->high = std::max(range->high, label);
      const std::int32_t next = run->length;
      *run = {static_cast<std::int32_t>(label), next - start};
      start = next;
    }
    *runs = end;
  }
};

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
Superpixels read_typed(const L* labels, std::int64_t height, std::int64_t width) {
  Superpixels result;
  std::vector<std::uint8_t> edge(to_size(width + 8));
  // A row has at most `width` runs and writes one more: room is made before it is read.
  Range range{std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()};
  std::int64_t found = 0;
  for (std::int64_t y = 0; y < height; ++y) {
    result.row_begin.push_back(found);
    if (result.runs.size() <= to_size(found + width))
      result.runs.resize(std::max(to_size(found + width + 1), 2 * result.runs.size()));
    Run* end = result.runs.data() + found;
    dispatch<FindRuns>(labels + y * width, width, edge.data(), &end, &range);
    found = end - result.runs.data();
  }
  result.row_begin.push_back(found);
  result.runs.resize(to_size(found));
  if (range.low < 0)
    throw std::invalid_argument("superpixels must be at least 0, got " +
                                std::to_string(range.low));
  if (range.high >= label_limit)
    throw std::invalid_argument("superpixels must be less than 2147483648, got " +
                                std::to_string(range.high));
  result.count = range.high < height * width ? range.high + 1 : renumber(result.runs);
  result.sizes.resize(to_size(result.count));
  for (const Run& run : result.runs) result.sizes[to_size(run.label)] += run.length;
  return result;
}

template <class Signed, class Unsigned>
Superpixels read_of_size(const LabelsView& labels, std::int64_t b, std::int64_t height,
                         std::int64_t width) {
  const std::int64_t offset = b * height * width;
  if (labels.is_signed)
    return read_typed(static_cast<const Signed*>(labels.data) + offset, height, width);
  return read_typed(static_cast<const Unsigned*>(labels.data) + offset, height, width);
}

}  // namespace

Superpixels read_superpixels(const LabelsView& labels, std::int64_t b, std::int64_t height,
                             std::int64_t width) {
  switch (labels.itemsize) {
    case 1:
      return read_of_size<std::int8_t, std::uint8_t>(labels, b, height, width);
    case 2:
      return read_of_size<std::int16_t, std::uint16_t>(labels, b, height, width);
    case 4:
      return read_of_size<std::int32_t, std::uint32_t>(labels, b, height, width);
    default:
      return read_of_size<std::int64_t, std::uint64_t>(labels, b, height, width);
  }
}

}  // namespace cuekit::cpu
