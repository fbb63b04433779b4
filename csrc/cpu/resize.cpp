#include "cuekit/resize.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace cuekit::cpu {
namespace {

void resize_nearest(const std::uint8_t* map, bool* out, const ResizeParams& p) {
  for (std::int64_t y = 0; y < p.out_height; ++y) {
    const std::uint8_t* row = map + nearest_source(y, p.in_height, p.out_height) * p.in_width;
    for (std::int64_t x = 0; x < p.out_width; ++x)
      out[y * p.out_width + x] = row[nearest_source(x, p.in_width, p.out_width)] != 0;
  }
}

// `any` and `half` alike measure how much of each cell is on, columns first.
void resize_area(const std::uint8_t* map, bool* out, const ResizeParams& p) {
  const std::int64_t twice_needed = p.rule == ResizeRule::any ? 1 : p.in_height * p.in_width;
  std::vector<std::int64_t> on_in_column(static_cast<std::size_t>(p.in_width));
  for (std::int64_t y = 0; y < p.out_height; ++y) {
    std::fill(on_in_column.begin(), on_in_column.end(), 0);
    const Cell rows = cell_of(y, p.in_height, p.out_height);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      const std::int64_t length = rows.length_of(i);
      const std::uint8_t* row = map + i * p.in_width;
      for (std::int64_t j = 0; j < p.in_width; ++j)
        on_in_column[static_cast<std::size_t>(j)] += row[j] != 0 ? length : 0;
    }
    for (std::int64_t x = 0; x < p.out_width; ++x) {
      const Cell columns = cell_of(x, p.in_width, p.out_width);
      std::int64_t area = 0;
      for (std::int64_t j = columns.begin; j < columns.end; ++j)
        area += columns.length_of(j) * on_in_column[static_cast<std::size_t>(j)];
      out[y * p.out_width + x] = 2 * area >= twice_needed;
    }
  }
}

}  // namespace

void resize(const std::uint8_t* cues, bool* out, const ResizeParams& p, Context& context) {
  parallel_for(p.maps, context.threads, [&](std::int64_t m) {
    const std::uint8_t* map = cues + m * p.in_height * p.in_width;
    bool* target = out + m * p.out_height * p.out_width;
    if (p.rule == ResizeRule::nearest) {
      resize_nearest(map, target, p);
    } else {
      resize_area(map, target, p);
    }
  });
}

}  // namespace cuekit::cpu
