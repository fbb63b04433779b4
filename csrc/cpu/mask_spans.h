// Masks as spans, for snap_masks and mask_scores. Masks are mostly empty, so they are read once,
// into spans (runs of covered pixels); every later step costs what the masks cover.
#pragma once

#include <cstdint>
#include <vector>

#include "snap_steps.h"

namespace cuekit::cpu {

// Consecutive pixels of one row that a mask covers, [begin, end).
struct Span {
  std::int64_t mask;
  std::int32_t begin, end;
};
using Spans = std::vector<Span>;

// The spans of every row, ordered by mask, then from left to right.
std::vector<Spans> read_spans(const std::uint8_t* masks,  // (count, height, width)
                              std::int64_t count, std::int64_t height, std::int64_t width,
                              int threads);

// Adds the counts of one row's spans to their masks. A count is one difference of prefix sums,
// whatever the length of the span.
void add_counts(const Spans& spans, const Count* before,  // (width + 1, 8)
                std::int64_t width,
                Count* counts,   // (R, 8)
                Count* totals);  // (8): pixels under a mask or not

}  // namespace cuekit::cpu
