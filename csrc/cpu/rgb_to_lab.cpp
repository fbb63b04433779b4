// rgb_to_lab: chunks of pixels become planes, and planes become pixels again.
#include "cuekit/rgb_to_lab.h"

#include <algorithm>

#include "lab.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t pixels_per_task = 64 * lab_chunk;

// Planes of float64 become pixels.
struct JoinPlanes {
  template <class T>
  static CUEKIT_INLINE void run(const double* planes,  // (3, lab_chunk), of which (3, count)
                                std::int64_t count,
                                T* out) {  // (count, 3)
    for (std::int64_t i = 0; i < count; ++i)
      for (int j = 0; j < 3; ++j) out[3 * i + j] = static_cast<T>(planes[j * lab_chunk + i]);
  }
};

}  // namespace

template <class T>
void rgb_to_lab(const std::uint8_t* image,  // (N, 3)
                T* out,                     // (N, 3)
                const RgbToLabParams& p, Context& context) {
  const std::int64_t tasks = (p.pixels + pixels_per_task - 1) / pixels_per_task;
  parallel_for(tasks, context.threads, [&](std::int64_t task) {
    const std::int64_t end = std::min((task + 1) * pixels_per_task, p.pixels);
    double planes[3 * lab_chunk];
    for (std::int64_t begin = task * pixels_per_task; begin < end; begin += lab_chunk) {
      const std::int64_t count = std::min(lab_chunk, end - begin);
      find_lab(image + 3 * begin, count, lab_chunk, planes);
      dispatch<JoinPlanes>(static_cast<const double*>(planes), count, out + 3 * begin);
    }
  });
}

template void rgb_to_lab(const std::uint8_t*, float*, const RgbToLabParams&, Context&);
template void rgb_to_lab(const std::uint8_t*, double*, const RgbToLabParams&, Context&);

}  // namespace cuekit::cpu
