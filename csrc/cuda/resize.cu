// Resizes cues (rules: cuekit/resize.h). One launch: every thread decides one pixel of the result,
// from the source pixel under its centre or from all source pixels under it. No workspace.
#include "cuekit/resize.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

__global__ void resize_kernel(const std::uint8_t* __restrict__ cues,  // (B, h, w), nonzero = on
                              bool* __restrict__ out,                 // (B, H, W)
                              ResizeParams p) {
  const std::int64_t out_pixels = p.out_height * p.out_width;
  const auto [map, pixel] = thread_position(out_pixels, 1);
  if (pixel >= out_pixels) return;
  const std::uint8_t* source = cues + map * p.in_height * p.in_width;
  const std::int64_t y = pixel / p.out_width, x = pixel % p.out_width;
  bool on;
  if (p.rule == ResizeRule::nearest) {
    on = source[nearest_source(y, p.in_height, p.out_height) * p.in_width +
                nearest_source(x, p.in_width, p.out_width)] != 0;
  } else {
    const Cell rows = cell_of(y, p.in_height, p.out_height);
    const Cell columns = cell_of(x, p.in_width, p.out_width);
    std::int64_t area = 0;
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      std::int64_t length = 0;
      for (std::int64_t j = columns.begin; j < columns.end; ++j)
        length += source[i * p.in_width + j] != 0 ? columns.length_of(j) : 0;
      area += rows.length_of(i) * length;
    }
    on = 2 * area >= (p.rule == ResizeRule::any ? 1 : p.in_height * p.in_width);
  }
  out[map * out_pixels + pixel] = on;
}

}  // namespace

void resize(const std::uint8_t* cues,  // (B, h, w), nonzero = on
            bool* out,                 // (B, H, W)
            const ResizeParams& p, Context& context) {
  const std::int64_t blocks = p.maps * blocks_per_image(p.out_height * p.out_width, 1);
  launch(resize_kernel, blocks, block_size, context.stream, cues, out, p);
}

}  // namespace cuekit::cuda
