// raw_foreground: the maximum of each present class's map, then a comparison of every value with
// the threshold times the maximum. raw_background: a comparison with a fixed threshold.
//
// A map is small (L1 or L2), so it is read from memory once, whatever the number of passes. One
// task for each class's map. Maps of float16 are read as float32, a block at a time.
#include "cuekit/raw_cues.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "finite.h"
#include "half_rows.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Raises the maximum to that of the values.
struct RaiseMaximum {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, double* maximum,
                                bool* finite) {  // set to false where a value is not finite
    // Independent maxima: a single one would make each step wait for the one before it.
    constexpr int accumulators = 16;
    if (any_nonfinite(nonfinite_bits(values, count))) *finite = false;
    double best[accumulators];
    std::fill_n(best, accumulators, *maximum);
    const std::int64_t whole = count - count % accumulators;
    for (std::int64_t i = 0; i < whole; i += accumulators) {
      for (int j = 0; j < accumulators; ++j) {
        const double value = values[i + j];
        best[j] = best[j] < value ? value : best[j];
      }
    }
    for (std::int64_t i = whole; i < count; ++i)
      best[0] = std::max(best[0], static_cast<double>(values[i]));
    *maximum = *std::max_element(best, best + accumulators);
  }
};

struct FindAbove {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, double level,
                                bool* out) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) out[i] = values[i] > level;
  }
};

struct FindBelow {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, double level,
                                bool* out,       // (count)
                                bool* finite) {  // set to false where a value is not finite
    if (any_nonfinite(nonfinite_bits(values, count))) *finite = false;
    for (std::int64_t i = 0; i < count; ++i) out[i] = values[i] < level;
  }
};

struct CopyCue {
  static CUEKIT_INLINE void run(const flag* cue,  // (count)
                                std::int64_t count,
                                bool* out) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) out[i] = cue[i].byte != 0;
  }
};

// Calls body(values, begin, count) for a map, as a whole or in blocks: values [begin, begin +
// count), as a type that kernels compute in.
template <class T, class Body>
void for_each_block(const T* map,  // (pixels)
                    std::int64_t pixels, Body body) {
  if constexpr (std::is_same_v<T, half>) {
    constexpr std::int64_t block = 1024;
    float wide[block];
    for (std::int64_t begin = 0; begin < pixels; begin += block) {
      const std::int64_t count = std::min(block, pixels - begin);
      widen(map + begin, count, wide);
      body(static_cast<const float*>(wide), begin, count);
    }
  } else {
    body(map, std::int64_t{0}, pixels);
  }
}

template <class T>
void find_foreground(const T* map,  // (pixels)
                     std::int64_t pixels, double threshold,
                     bool* out,       // (pixels)
                     bool* finite) {  // set to false where a value is not finite
  double maximum = 0.0;
  for_each_block(map, pixels, [&](const auto* values, std::int64_t, std::int64_t count) {
    dispatch<RaiseMaximum>(values, count, &maximum, finite);
  });
  // No value is above infinity, so a class without a positive value gets no cue.
  const double level =
      maximum > 0.0 ? threshold * maximum : std::numeric_limits<double>::infinity();
  for_each_block(map, pixels, [&](const auto* values, std::int64_t begin, std::int64_t count) {
    dispatch<FindAbove>(values, count, level, out + begin);
  });
}

template <class T>
void find_background(const T* map,  // (pixels)
                     std::int64_t pixels, double threshold,
                     bool* out,       // (pixels)
                     bool* finite) {  // set to false where a value is not finite
  if constexpr (std::is_same_v<T, flag>) {
    dispatch<CopyCue>(map, pixels, out);
  } else {
    for_each_block(map, pixels, [&](const auto* values, std::int64_t begin, std::int64_t count) {
      dispatch<FindBelow>(values, count, threshold, out + begin, finite);
    });
  }
}

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
    find_foreground(maps + task * p.pixels, p.pixels, p.foreground_threshold, target, &finite);
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
    find_background(background + b * p.pixels, p.pixels, p.background_threshold, target, &finite);
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
