#include "bucketed_edges.h"

#include <algorithm>

#include "cpu/interrupt.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

// Pixels first..last - 1 of a row, and which of their edges have a pixel in an area. In addition,
// pixels last..last_down - 1 have an edge down only: at most one, the last of a row of the photo.
struct RowEdges {
  std::int64_t first, last, last_down;
  bool right, down, up;
};

// Visits the rows of an area and those next to it.
template <class Visit>
void for_each_row(const Graph& graph, const Area& area, const Visit& visit) {
  PollAfterWork poll_after;
  for (std::int64_t y = std::max<std::int64_t>(area.top - 1, 0);
       y < std::min(area.bottom + 1, graph.height); ++y) {
    const std::int64_t row = y * graph.width;
    poll_after(area.right - area.left);
    visit(RowEdges{row + std::max<std::int64_t>(area.left - 1, 0),
                   row + std::min(area.right, graph.width - 1), row + area.right,
                   area.top <= y && y < area.bottom, y < area.bottom && y < graph.height - 1,
                   y >= area.top && y > 0});
  }
}

}  // namespace

// A counting sort.
void BucketedEdges::collect(const Graph& graph, const Area& area) {
  const std::int64_t pixels = graph.pixels;
  std::fill(begin.begin(), begin.end(), 0u);
  for_each_row(graph, area, [&](const RowEdges& row) {
    const auto count = [&](int direction, std::int64_t last) {
      const Bucket* const buckets = graph.buckets + direction * pixels;
      for (std::int64_t pixel = row.first; pixel < last; ++pixel) ++begin[buckets[pixel]];
    };
    if (row.right) count(Direction::right, row.last);
    if (row.down) count(Direction::down, row.last_down), count(Direction::down_right, row.last);
    if (row.up) count(Direction::up_right, row.last);
  });

  std::uint32_t total = 0;
  for (std::int64_t bucket = 0; bucket < Buckets::count + dropped_buckets; ++bucket) {
    const std::uint32_t count = bucket < Buckets::count ? begin[bucket] : 0;
    begin[bucket] = total;
    total += count;
  }

  // Dropped edges are all written to the element behind the others: cheaper than a branch.
  const auto put = [&](std::int64_t pixel, int direction) {
    const Bucket bucket = graph.buckets[direction * pixels + pixel];
    const std::uint32_t position = begin[bucket];
    edges[position] = static_cast<Edge>(pixel << 2 | direction);
    begin[bucket] = position + (bucket < Buckets::count);
  };
  for_each_row(graph, area, [&](const RowEdges& row) {
    if (row.right && row.down && row.up) {  // nearly always: a loop without branches
      for (std::int64_t pixel = row.first; pixel < row.last; ++pixel) {
        put(pixel, Direction::right), put(pixel, Direction::down);
        put(pixel, Direction::down_right), put(pixel, Direction::up_right);
      }
    } else {
      for (std::int64_t pixel = row.first; pixel < row.last; ++pixel) {
        if (row.right) put(pixel, Direction::right);
        if (row.down) put(pixel, Direction::down), put(pixel, Direction::down_right);
        if (row.up) put(pixel, Direction::up_right);
      }
    }
    if (row.down && row.last < row.last_down) put(row.last, Direction::down);
  });

  // begin[b] has moved to the end of bucket b, which is where bucket b + 1 begins.
  std::copy_backward(begin.begin(), begin.begin() + Buckets::count,
                     begin.begin() + Buckets::count + 1);
  begin[0] = 0;
}

}  // namespace cuekit::cpu::felzenszwalb_detail
