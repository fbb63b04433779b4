// The input of superpixel_mean and snap: superpixels as runs of pixels, and blocks of 8 channels.
//
// Superpixels are compact, so a row of a photo consists of a few dozen runs of equal labels. The
// superpixel labels are read once, checked and converted to runs. Kernels read the runs only, so no
// label can lead out of bounds. Channels are processed in blocks of 8: the 8 values of a pixel are
// interleaved (side by side), one vector operation serves 8 channels, and each channel's sum still
// runs in raster order.
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

// The number of blocks of 8 channels. The last block may have fewer.
inline std::int64_t channel_blocks(std::int64_t channels) {
  return (channels + channels_per_block - 1) / channels_per_block;
}

// Consecutive pixels of one row with the same superpixel label.
struct Run {
  std::int32_t label;
  std::int32_t length;
};

// The superpixels of one image.
struct SuperpixelRuns {
  std::vector<Run> runs;                // in raster order
  std::vector<std::int64_t> row_begin;  // (H + 1): row y is runs row_begin[y] .. row_begin[y + 1]
  std::int64_t count = 0;               // S: labels are 0..S-1, and S <= number of runs
  bool any_outside = false;             // some runs are in no superpixel: their label is S
  std::vector<double> sizes;            // (rows()): pixels per superpixel, as doubles for divisions

  // The length of tables with one row for each label.
  std::int64_t rows() const { return count + (any_outside ? 1 : 0); }
  // Whether some of the runs [run, end) are in no superpixel.
  bool outside(const Run* run, const Run* end) const {
    return any_outside &&
           std::any_of(run, end, [this](const Run& each) { return each.label == count; });
  }

  const Run* begin() const { return runs.data(); }
  const Run* end() const { return runs.data() + runs.size(); }
  const Run* row(std::int64_t y) const { return runs.data() + row_begin[y]; }
};

// Reads the superpixel labels of image `b`. Throws std::invalid_argument for a label below -1, or
// not below `limit`. Where the largest label is not below the number of runs, the labels are
// renumbered, so that workspace (S values for each channel) never grows with the labels' values.
SuperpixelRuns read_runs(const SuperpixelsView& superpixels, std::int64_t b, std::int64_t height,
                         std::int64_t width, std::int64_t limit);

// pixels[x][j] = rows[j][x]
template <class T>
CUEKIT_INLINE void interleave(const T* const* rows,  // 8 of (count)
                              std::int64_t count,
                              T* __restrict pixels) {  // (count, 8)
  const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const T *e = rows[4], *f = rows[5], *g = rows[6], *h = rows[7];
  for (std::int64_t x = 0; x < count; ++x) {
    pixels[x * channels_per_block + 0] = a[x];
    pixels[x * channels_per_block + 1] = b[x];
    pixels[x * channels_per_block + 2] = c[x];
    pixels[x * channels_per_block + 3] = d[x];
    pixels[x * channels_per_block + 4] = e[x];
    pixels[x * channels_per_block + 5] = f[x];
    pixels[x * channels_per_block + 6] = g[x];
    pixels[x * channels_per_block + 7] = h[x];
  }
}

// Writes value_of(label) to every pixel of the runs. Runs are short, so each one is written in
// whole chunks of 64 bytes. The last chunk may reach into the next run, which then overwrites it.
// The first two chunks are written whatever the run's length: a wasted store costs less than a
// branch misprediction. Only near the end of the output are the lengths exact.
template <class V, class ValueOf>
CUEKIT_INLINE void paint_runs(const Run* run, const Run* end, std::int64_t pixels,
                              V* out,  // (pixels)
                              ValueOf value_of) {
  constexpr int chunk = 64 / sizeof(V);
  V* const stop = out + pixels;
  for (; run != end && stop - out >= std::int64_t{run->length} + 2 * chunk; ++run) {
    V filled[chunk];
    std::fill_n(filled, chunk, value_of(run->label));
    std::memcpy(out, filled, 64);
    std::memcpy(out + chunk, filled, 64);
    for (std::int64_t x = 2 * chunk; x < run->length; x += chunk) std::memcpy(out + x, filled, 64);
    out += run->length;
  }
  for (; run != end; ++run) {
    const V value = value_of(run->label);
    for (std::int32_t x = 0; x < run->length; ++x) *out++ = value;
  }
}

}  // namespace cuekit::cpu
