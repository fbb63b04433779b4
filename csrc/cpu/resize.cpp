// resize: one task for each map. The rules `any` and `half` add up integer areas, first within each
// column of the source, then over the columns of each cell.
#include "cuekit/resize.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace cuekit::cpu {
namespace {

void resize_nearest(const std::uint8_t* map,  // (h, w)
                    bool* out,                // (H, W)
                    const ResizeParams& p) {
  for (std::int64_t y = 0; y < p.out_height; ++y) {
    const std::uint8_t* row = map + nearest_source(y, p.in_height, p.out_height) * p.in_width;
    for (std::int64_t x = 0; x < p.out_width; ++x)
      out[y * p.out_width + x] = row[nearest_source(x, p.in_width, p.out_width)] != 0;
  }
}

// Both `any` and `half` compute the area of each cell that is on: `any` needs 1 unit of area,
// `half` half of the cell's.
void resize_area(const std::uint8_t* map,  // (h, w)
                 bool* out,                // (H, W)
                 const ResizeParams& p) {
  const std::int64_t twice_needed = p.rule == ResizeRule::any ? 1 : p.in_height * p.in_width;
  std::vector<std::int32_t> on_in_column(p.in_width);  // lengths, at most in_height
  for (std::int64_t y = 0; y < p.out_height; ++y) {
    std::fill(on_in_column.begin(), on_in_column.end(), 0);
    const Cell rows = cell_of(y, p.in_height, p.out_height);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      const auto length = static_cast<std::int32_t>(rows.length_of(i));
      const std::uint8_t* row = map + i * p.in_width;
      for (std::int64_t j = 0; j < p.in_width; ++j) on_in_column[j] += row[j] != 0 ? length : 0;
    }
    for (std::int64_t x = 0; x < p.out_width; ++x) {
      const Cell columns = cell_of(x, p.in_width, p.out_width);
      std::int64_t area = 0;
      for (std::int64_t j = columns.begin; j < columns.end; ++j)
        area += columns.length_of(j) * on_in_column[j];
      out[y * p.out_width + x] = 2 * area >= twice_needed;
    }
  }
}

}  // namespace

void resize(const std::uint8_t* cues,  // (M, h, w)
            bool* out,                 // (M, H, W)
            const ResizeParams& p, Context& context) {
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
