// raw_foreground: the maximum of each present class's map, then a comparison of every value with
// the threshold times the maximum. raw_background: a comparison with a fixed threshold.
//
// A map is small (L1 or L2), so it is read from memory once, whatever the number of passes. One
// task for each class's map.
#include "cuekit/raw_cues.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "finite.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

struct Foreground {
  template <class T>
  static CUEKIT_INLINE void run(const T* map,  // (pixels)
                                std::int64_t pixels, double threshold,
                                bool* out,       // (pixels)
                                bool* finite) {  // false where a value is not finite
    // Independent maxima: a single one would make each step wait for the one before it.
    constexpr int accumulators = 16;
    *finite = !any_nonfinite(nonfinite_bits(map, pixels));
    double best[accumulators];
    std::fill_n(best, accumulators, 0.0);
    const std::int64_t whole = pixels - pixels % accumulators;
    for (std::int64_t i = 0; i < whole; i += accumulators) {
      for (int j = 0; j < accumulators; ++j) {
        const double value = load(map[i + j]);
        best[j] = best[j] < value ? value : best[j];
      }
    }
    for (std::int64_t i = whole; i < pixels; ++i) best[0] = std::max(best[0], load(map[i]));
    const double maximum = *std::max_element(best, best + accumulators);
    // No value is above infinity, so a class without a positive value gets no cue.
    const double level =
        maximum > 0.0 ? threshold * maximum : std::numeric_limits<double>::infinity();
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = load(map[i]) > level;
  }
};

struct Background {
  template <class T>
  static CUEKIT_INLINE void run(const T* map,  // (pixels)
                                std::int64_t pixels, double threshold,
                                bool* out,       // (pixels)
                                bool* finite) {  // false where a value is not finite
    *finite = !any_nonfinite(nonfinite_bits(map, pixels));
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = load(map[i]) < threshold;
  }
  static CUEKIT_INLINE void run(const flag* cue,  // (pixels)
                                std::int64_t pixels, double,
                                bool* out,  // (pixels)
                                bool* finite) {
    *finite = true;
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = cue[i].byte != 0;
  }
};

}  // namespace

template <class T>
bool raw_foreground(const T* maps,                // (B, C, N)
                    const std::uint8_t* present,  // (B, C)
                    bool* out,                    // (B, C + 1, N)
                    const RawCuesParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch * p.classes, context.threads, [&](std::int64_t task) {
    const std::int64_t b = task / p.classes;
    bool* target = out + (task + b + 1) * p.pixels;  // channel c + 1 of image b
    if (!present[task]) {
      std::fill_n(target, p.pixels, false);
      return;
    }
    bool finite = true;
    dispatch<Foreground>(maps + task * p.pixels, p.pixels, p.foreground_threshold, target, &finite);
    if (!finite) all_finite = false;
  });
  return all_finite;
}

template <class T>
bool raw_background(const T* background,  // (B, N), or null
                    bool* out,            // (B, C + 1, N)
                    const RawCuesParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch, context.threads, [&](std::int64_t b) {
    bool* target = out + b * (p.classes + 1) * p.pixels;  // channel 0 of image b
    if (background == nullptr) {
      std::fill_n(target, p.pixels, false);
      return;
    }
    bool finite = true;
    dispatch<Background>(background + b * p.pixels, p.pixels, p.background_threshold, target,
                         &finite);
    if (!finite) all_finite = false;
  });
  return all_finite;
}

template bool raw_foreground(const half*, const std::uint8_t*, bool*, const RawCuesParams&,
                             Context&);
template bool raw_foreground(const float*, const std::uint8_t*, bool*, const RawCuesParams&,
                             Context&);
template bool raw_foreground(const double*, const std::uint8_t*, bool*, const RawCuesParams&,
                             Context&);
template bool raw_background(const half*, bool*, const RawCuesParams&, Context&);
template bool raw_background(const float*, bool*, const RawCuesParams&, Context&);
template bool raw_background(const flag*, bool*, const RawCuesParams&, Context&);
template bool raw_background(const double*, bool*, const RawCuesParams&, Context&);

}  // namespace cuekit::cpu
