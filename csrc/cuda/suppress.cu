// Suppression of absent classes (equation: cuekit/suppress.h). One launch, no workspace.
//
// Every thread has `width` neighbouring pixels and goes over the channels twice. First it copies
// the background and the present classes and finds their maximum; then it reads the absent classes
// and limits them to the ceiling below that maximum. A score is used in only one of
// the two passes, so every score is read once and written once.
#include "cuekit/half.h"
#include "cuekit/suppress.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

template <class T, int width>
__global__ void suppress_kernel(const T* __restrict__ scores,              // (B, K, N)
                                const std::uint8_t* __restrict__ present,  // (B, K - 1)
                                T* __restrict__ out,                       // (B, K, N)
                                SuppressParams p, T margin) {
  const auto [image, pixel] = thread_position(p.pixels, width);
  if (pixel >= p.pixels) return;
  const std::uint8_t* image_present = present + image * (p.channels - 1);
  const std::int64_t first = image * p.channels * p.pixels + pixel;
  Pack<T, width> ceiling = load_pack<width>(scores + first);
  store_pack(ceiling, out + first);
  const T* foreground = scores + first + p.pixels;
  T* foreground_out = out + first + p.pixels;
  for_channels_where<width>(foreground, p.channels - 1, p.pixels, image_present, true,
                            [&](std::int64_t k, const Pack<T, width>& values) {
                              store_pack(values, foreground_out + k * p.pixels);
                              for (int j = 0; j < width; ++j)
                                if (less(ceiling.values[j], values.values[j]))
                                  ceiling.values[j] = values.values[j];
                            });
  for (int j = 0; j < width; ++j) ceiling.values[j] = ceiling_below(ceiling.values[j], margin);
  for_channels_where<width>(foreground, p.channels - 1, p.pixels, image_present, false,
                            [&](std::int64_t k, Pack<T, width>& values) {
                              for (int j = 0; j < width; ++j)
                                if (less(ceiling.values[j], values.values[j]))
                                  values.values[j] = ceiling.values[j];
                              store_pack(values, foreground_out + k * p.pixels);
                            });
}

}  // namespace

template <class T>
bool suppress(const T* scores,              // (B, K, N)
              const std::uint8_t* present,  // (B, K - 1), nonzero = present
              T* out,                       // (B, K, N)
              const SuppressParams& p, Context& context) {
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
