// One thread per cell of the target.
#include "cuekit/resize.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

__global__ void resize_kernel(const std::uint8_t* __restrict__ cues, bool* __restrict__ out,
                              ResizeParams p) {
  const Position at = position(p.out_height * p.out_width, 1);
  if (at.pixel >= p.out_height * p.out_width) return;
  const std::uint8_t* map = cues + at.image * p.in_height * p.in_width;
  const std::int64_t y = at.pixel / p.out_width, x = at.pixel % p.out_width;
  bool on;
  if (p.rule == ResizeRule::nearest) {
    on = map[nearest_source(y, p.in_height, p.out_height) * p.in_width +
             nearest_source(x, p.in_width, p.out_width)] != 0;
  } else {
    const Cell rows = cell_of(y, p.in_height, p.out_height);
    const Cell columns = cell_of(x, p.in_width, p.out_width);
    std::int64_t area = 0;
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      std::int64_t length = 0;
      for (std::int64_t j = columns.begin; j < columns.end; ++j)
        length += map[i * p.in_width + j] != 0 ? columns.length_of(j) : 0;
      area += rows.length_of(i) * length;
    }
    on = 2 * area >= (p.rule == ResizeRule::any ? 1 : p.in_height * p.in_width);
  }
  out[at.image * p.out_height * p.out_width + at.pixel] = on;
}

}  // namespace

void resize(const std::uint8_t* cues, bool* out, const ResizeParams& p, Context& context) {
  const std::int64_t blocks = p.maps * blocks_per_image(p.out_height * p.out_width, 1);
  launch(resize_kernel, blocks, block_size, context.stream, cues, out, p);
}

}  // namespace cuekit::cuda
