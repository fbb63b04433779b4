// A thread has `width` neighbouring pixels and goes twice over the channels: those that keep their
// scores are copied while their maximum is found, then the absent ones are read, for the first
// time, and held below it. So every score is read once and written once, in one launch.
#include "cuekit/half.h"
#include "cuekit/suppress.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

template <class T, int width>
__global__ void suppress_kernel(const T* __restrict__ scores,
                                const std::uint8_t* __restrict__ present, T* __restrict__ out,
                                SuppressParams p, T margin) {
  const Position at = position(p.pixels, width);
  if (at.pixel >= p.pixels) return;
  const std::uint8_t* tags = present + at.image * (p.channels - 1);
  const std::int64_t first = at.image * p.channels * p.pixels + at.pixel;
  Pack<T, width> ceiling = load_pack<width>(scores + first);
  store_pack(ceiling, out + first);
  const T* foreground = scores + first + p.pixels;
  T* target = out + first + p.pixels;
  for_tagged<width>(foreground, p.channels - 1, p.pixels, tags, true,
                    [&](std::int64_t k, const Pack<T, width>& values) {
                      store_pack(values, target + k * p.pixels);
                      for (int j = 0; j < width; ++j)
                        if (less(ceiling.values[j], values.values[j]))
                          ceiling.values[j] = values.values[j];
                    });
  for (int j = 0; j < width; ++j) ceiling.values[j] = ceiling_below(ceiling.values[j], margin);
  for_tagged<width>(foreground, p.channels - 1, p.pixels, tags, false,
                    [&](std::int64_t k, Pack<T, width>& values) {
                      for (int j = 0; j < width; ++j)
                        if (less(ceiling.values[j], values.values[j]))
                          values.values[j] = ceiling.values[j];
                      store_pack(values, target + k * p.pixels);
                    });
}

}  // namespace

template <class T>
bool suppress(const T* scores, const std::uint8_t* present, T* out, const SuppressParams& p,
              Context& context) {
  with_width<T>(p.pixels, {scores, out}, [&](auto width) {
    launch(suppress_kernel<T, width>, p.batch * blocks_per_image(p.pixels, width), block_size,
           context.stream, scores, present, out, p, store<T>(p.margin));
  });
  return true;
}

template bool suppress(const half*, const std::uint8_t*, half*, const SuppressParams&, Context&);
template bool suppress(const float*, const std::uint8_t*, float*, const SuppressParams&, Context&);
template bool suppress(const double*, const std::uint8_t*, double*, const SuppressParams&,
                       Context&);

}  // namespace cuekit::cuda
