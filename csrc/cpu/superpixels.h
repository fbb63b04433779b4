// What superpixel_mean and snap work on: superpixels as runs, and channels side by side.
//
// Superpixels are compact, so a row of a photo is a few dozen runs of one label. The labels are
// read once, checked, and turned into runs; from then on no kernel looks at them again, so no label
// can lead out of bounds. Channels are taken eight at a time ("lanes"): a pixel's eight values lie
// side by side, one vector operation serves eight channels, and each channel's sum still runs in
// raster order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/superpixels_view.h"
#include "lanes.h"
#include "simd.h"

namespace cuekit::cpu {

inline std::int64_t number_of_tiles(std::int64_t channels) {
  return (channels + lanes - 1) / lanes;
}

inline std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

// `length` pixels of one label, in one row.
struct Run {
  std::int32_t label;
  std::int32_t length;
};

// One image's superpixels.
struct Superpixels {
  std::vector<Run> runs;                // in raster order
  std::vector<std::int64_t> row_begin;  // row y has runs row_begin[y] .. row_begin[y + 1]
  std::int64_t count = 0;               // S: labels are 0..S-1, and S <= number of runs
  std::vector<double> sizes;            // pixels per label

  const Run* row(std::int64_t y) const { return runs.data() + row_begin[to_size(y)]; }
};

// Reads image `b` of the labels. Throws std::invalid_argument for one that is negative, or `limit`
// or more. Labels are renumbered where the largest is not below the number of runs: workspace must
// not grow with what the labels are.
Superpixels read_superpixels(const SuperpixelsView& labels, std::int64_t b, std::int64_t height,
                             std::int64_t width, std::int64_t limit);

// rows[j][x] -> pixels[x * lanes + j]
template <class T>
CUEKIT_INLINE void interleave(const T* const* rows, std::int64_t count, T* __restrict pixels) {
  const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const T *e = rows[4], *f = rows[5], *g = rows[6], *h = rows[7];
  for (std::int64_t x = 0; x < count; ++x) {
    pixels[x * lanes + 0] = a[x];
    pixels[x * lanes + 1] = b[x];
    pixels[x * lanes + 2] = c[x];
    pixels[x * lanes + 3] = d[x];
    pixels[x * lanes + 4] = e[x];
    pixels[x * lanes + 5] = f[x];
    pixels[x * lanes + 6] = g[x];
    pixels[x * lanes + 7] = h[x];
  }
}

// Writes value_of(label) to every pixel. Runs are short, so each is written in whole blocks that
// reach into the next run, which then overwrites them. The first two are written without asking
// how long the run is: a wasted store costs less than a mispredicted branch. Only the last pixels
// must be exact.
template <class V, class ValueOf>
CUEKIT_INLINE void paint_runs(const Run* run, const Run* end, std::int64_t pixels, V* out,
                              ValueOf value_of) {
  constexpr int block = 64 / sizeof(V);
  V* const stop = out + pixels;
  for (; run != end && stop - out >= std::int64_t{run->length} + 2 * block; ++run) {
    V filled[block];
    std::fill_n(filled, block, value_of(run->label));
    std::memcpy(out, filled, 64);
    std::memcpy(out + block, filled, 64);
    for (std::int64_t x = 2 * block; x < run->length; x += block) std::memcpy(out + x, filled, 64);
    out += run->length;
  }
  for (; run != end; ++run) {
    const V value = value_of(run->label);
    for (std::int32_t x = 0; x < run->length; ++x) *out++ = value;
  }
}

}  // namespace cuekit::cpu
