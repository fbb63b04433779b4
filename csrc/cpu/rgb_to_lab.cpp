// rgb_to_lab: chunks of pixels become planes, and planes become pixels again.
#include "cuekit/rgb_to_lab.h"

#include <algorithm>

#include "lab.h"
#include "parallel.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t pixels_per_task = 64 * lab_chunk;

struct ConvertPixels {
  template <class T>
  static CUEKIT_INLINE void run(const std::uint8_t* image,  // (count, 3)
                                const double* linear,       // (256)
                                std::int64_t count,
                                T* out) {  // (count, 3)
    double planes[3 * lab_chunk];
    for (std::int64_t begin = 0; begin < count; begin += lab_chunk) {
      const std::int64_t size = std::min(lab_chunk, count - begin);
      FindLab::run(image + 3 * begin, size, linear, lab_chunk, planes);
      T* const pixels = out + 3 * begin;
      for (std::int64_t i = 0; i < size; ++i)
        for (int j = 0; j < 3; ++j) pixels[3 * i + j] = static_cast<T>(planes[j * lab_chunk + i]);
    }
  }
};

}  // namespace

template <class T>
void rgb_to_lab(const std::uint8_t* image,  // (N, 3)
                T* out,                     // (N, 3)
                const RgbToLabParams& p, Context& context) {
  const double* const linear = linear_of_srgb().data();
  const std::int64_t tasks = (p.pixels + pixels_per_task - 1) / pixels_per_task;
  parallel_for(tasks, context.threads, [&](std::int64_t task) {
    const std::int64_t begin = task * pixels_per_task;
    const std::int64_t count = std::min(pixels_per_task, p.pixels - begin);
    dispatch<ConvertPixels>(image + 3 * begin, linear, count, out + 3 * begin);
  });
}

template void rgb_to_lab(const std::uint8_t*, float*, const RgbToLabParams&, Context&);
template void rgb_to_lab(const std::uint8_t*, double*, const RgbToLabParams&, Context&);

}  // namespace cuekit::cpu
