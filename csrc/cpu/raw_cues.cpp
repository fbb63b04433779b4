#include "cuekit/raw_cues.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "finite.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

constexpr int lanes = 16;

struct Foreground {
  template <class T>
  static CUEKIT_INLINE void run(const T* map, std::int64_t pixels, double threshold, bool* out,
                                bool* finite) {
    *finite = !any_nonfinite(nonfinite_bits(map, pixels));
    double best[lanes];
    std::fill_n(best, lanes, 0.0);
    const std::int64_t whole = pixels - pixels % lanes;
    for (std::int64_t i = 0; i < whole; i += lanes) {
      for (int j = 0; j < lanes; ++j) {
        const double value = load(map[i + j]);
        best[j] = best[j] < value ? value : best[j];
      }
    }
    for (std::int64_t i = whole; i < pixels; ++i) best[0] = std::max(best[0], load(map[i]));
    const double maximum = *std::max_element(best, best + lanes);
    // No value is above infinity: that empties the class.
    const double level =
        maximum > 0.0 ? threshold * maximum : std::numeric_limits<double>::infinity();
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = load(map[i]) > level;
  }
};

struct Background {
  template <class T>
  static CUEKIT_INLINE void run(const T* map, std::int64_t pixels, double threshold, bool* out,
                                bool* finite) {
    *finite = !any_nonfinite(nonfinite_bits(map, pixels));
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = load(map[i]) < threshold;
  }
  static CUEKIT_INLINE void run(const flag* cue, std::int64_t pixels, double, bool* out,
                                bool* finite) {
    *finite = true;
    for (std::int64_t i = 0; i < pixels; ++i) out[i] = cue[i].byte != 0;
  }
};

}  // namespace

template <class T>
bool raw_foreground(const T* maps, const std::uint8_t* present, bool* out, const RawCuesParams& p,
                    Context& context) {
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch * p.classes, context.threads, [&](std::int64_t task) {
    const std::int64_t b = task / p.classes;
    bool* target = out + (task + b + 1) * p.pixels;  // channel c + 1 of C + 1
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
bool raw_background(const T* background, bool* out, const RawCuesParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  parallel_for(p.batch, context.threads, [&](std::int64_t b) {
    bool* target = out + b * (p.classes + 1) * p.pixels;  // channel 0 of C + 1
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
