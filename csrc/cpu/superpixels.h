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
#include <type_traits>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/superpixels_view.h"
#include "lanes.h"
#include "simd.h"

#define CUEKIT_SHUFFLES 0
#if defined(__GNUC__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#undef CUEKIT_SHUFFLES
#define CUEKIT_SHUFFLES 1
#endif
#endif

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

#if CUEKIT_SHUFFLES
typedef float EightFloats __attribute__((vector_size(32)));

// Four values of each of two rows.
CUEKIT_INLINE EightFloats load_halves(const float* low, const float* high) {
  typedef float FourFloats __attribute__((vector_size(16)));
  FourFloats a, b;
  std::memcpy(&a, low, sizeof a);
  std::memcpy(&b, high, sizeof b);
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
}

// The same for float32 and AVX2, whose vectors have two halves that few shuffles cross: so both
// halves are transposed alike, as squares of 4 by 4. Compilers make far more shuffles of the loop
// above; but not for AVX-512.
CUEKIT_INLINE void interleave_halves(const float* const* rows,  // 8 of (count)
                                     std::int64_t count,
                                     float* __restrict pixels) {  // (count, 8)
  const float *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const float *e = rows[4], *f = rows[5], *g = rows[6], *h = rows[7];
  const std::int64_t fours = count / 4 * 4;
  for (std::int64_t x = 0; x < fours; x += 4) {
    const EightFloats ae = load_halves(a + x, e + x), bf = load_halves(b + x, f + x);
    const EightFloats cg = load_halves(c + x, g + x), dh = load_halves(d + x, h + x);
    const EightFloats ab = __builtin_shufflevector(ae, bf, 0, 8, 1, 9, 4, 12, 5, 13);
    const EightFloats cd = __builtin_shufflevector(cg, dh, 0, 8, 1, 9, 4, 12, 5, 13);
    const EightFloats ef = __builtin_shufflevector(ae, bf, 2, 10, 3, 11, 6, 14, 7, 15);
    const EightFloats gh = __builtin_shufflevector(cg, dh, 2, 10, 3, 11, 6, 14, 7, 15);
    const EightFloats first = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13);
    const EightFloats second = __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    const EightFloats third = __builtin_shufflevector(ef, gh, 0, 1, 8, 9, 4, 5, 12, 13);
    const EightFloats fourth = __builtin_shufflevector(ef, gh, 2, 3, 10, 11, 6, 7, 14, 15);
    float* const target = pixels + x * channels_per_block;
    std::memcpy(target, &first, sizeof first);
    std::memcpy(target + channels_per_block, &second, sizeof second);
    std::memcpy(target + 2 * channels_per_block, &third, sizeof third);
    std::memcpy(target + 3 * channels_per_block, &fourth, sizeof fourth);
  }
  for (std::int64_t x = fours; x < count; ++x) {
    for (int j = 0; j < channels_per_block; ++j) pixels[x * channels_per_block + j] = rows[j][x];
  }
}
#else
CUEKIT_INLINE void interleave_halves(const float* const* rows, std::int64_t count, float* pixels) {
  interleave(rows, count, pixels);
}
#endif

// Writes value_of(label, channel) to every pixel of the runs, in each of the channels. Runs are
// short, so the first 64 bytes of each are written at once, and the others in vectors of `width`
// bytes. The last vector may reach into the next run, which then overwrites it. It goes run by run
// through all channels: the end of a run is mispredicted once, not once per channel.
template <int width, class V, class ValueOf>
CUEKIT_INLINE void paint_runs(const Run* run, const Run* end, std::int64_t pixels,
                              std::int64_t channels,
                              V* out,  // (channels, pixels)
                              ValueOf value_of) {
  // Vectors of integers: GCC fills one of floats by an addition, which turns -0 into 0.
  using Bits = std::conditional_t<
      sizeof(V) == 1, std::uint8_t,
      std::conditional_t<sizeof(V) == 2, std::uint16_t,
                         std::conditional_t<sizeof(V) == 4, std::uint32_t, std::uint64_t>>>;
  constexpr int step = width / static_cast<int>(sizeof(V));
  constexpr int first = 64 / static_cast<int>(sizeof(V));
  std::int64_t begin = 0;
  for (; run != end; ++run) {
    const std::int64_t length = run->length;
    if (pixels - begin < length + first) break;
    V* target = out + begin;
    for (std::int64_t j = 0; j < channels; ++j, target += pixels) {
      const auto filled = Lanes<Bits, step>::all(bit_cast<Bits>(value_of(run->label, j)));
      const auto store = [&](std::int64_t x) { filled.store(reinterpret_cast<Bits*>(target + x)); };
      for (int x = 0; x < first; x += step) store(x);
      for (std::int64_t x = first; x < length; x += step) store(x);
    }
    begin += length;
  }
  for (; run != end; begin += run->length, ++run) {
    for (std::int64_t j = 0; j < channels; ++j)
      std::fill_n(out + j * pixels + begin, run->length, value_of(run->label, j));
  }
}

}  // namespace cuekit::cpu
