// snap: each channel's mean over each superpixel, thresholded and painted. The resized cues are
// never stored.
//
// Channels that are on somewhere are taken in blocks of 8, interleaved. For each row of
// superpixels:
//   bool cues: prefix sums along the cues' row give the count of any run as one difference of two
//     vectors of 8 counts, whatever the run's length; rows of superpixels over the same row of cues
//     share the prefix sums.
//   floating maps: two rows of the maps are interpolated vertically once; then each pixel is
//     interpolated horizontally and added to its superpixel's sums.
// A superpixel's decision for a block is one byte, a bit for each channel. Painting writes these
// bytes run by run, then extracts each channel's bit. Pixels in no superpixel are added and painted
// like the others, as one more superpixel; then the bytes of their input are written over it.
#include "cuekit/snap.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "parallel.h"
#include "simd.h"
#include "snap_steps.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// What the prefix sums along one row of bool cues take from the resizing.
struct CueColumns {
  std::vector<Count> widths;          // (in_width): how many columns read this one
  std::vector<std::int32_t> columns;  // (W + 1): column of the cues; last entry: in_width
  std::vector<Count> offsets;         // (W + 1): how many columns to the left read it too

  explicit CueColumns(const Resizing& resizing)
      : widths(resizing.in_width), columns(resizing.width + 1), offsets(resizing.width + 1) {
    for (std::int64_t x = 0; x < resizing.width; ++x) {
      columns[x] = resizing.columns[x];
      offsets[x] = widths[columns[x]]++;
    }
    columns.back() = static_cast<std::int32_t>(resizing.in_width);
  }
};

// Prefix sums along one row of bool cues. The number of pixels left of x that are on is
//   before[c] + offsets[x] * on[c], c = columns[x].
// The count of a run is the difference of two such numbers.
struct PrefixSums {
  static CUEKIT_INLINE void run(const std::uint8_t* cells,  // (in_width): one bit per channel
                                const Count* widths,        // (in_width)
                                std::int64_t in_width,
                                Count* on,        // (in_width + 1, 8)
                                Count* before) {  // (in_width + 1, 8)
    auto total = Lanes<Count>::zero();
    for (std::int64_t c = 0; c < in_width; ++c) {
      const auto cell = Lanes<Count>::load(bits_of_bytes[cells[c]].data());
      cell.store(on + c * channels_per_block);
      total.store(before + c * channels_per_block);
      total = total + cell * widths[c];
    }
    Lanes<Count>::zero().store(on + in_width * channels_per_block);
    total.store(before + in_width * channels_per_block);
  }
};

// Adds the counts of one row's runs to their superpixels.
struct AddCounts {
  static CUEKIT_INLINE void run(const std::int32_t* column,  // (W + 1)
                                const Count* offset,         // (W + 1)
                                const Count* on,             // (in_width + 1, 8)
                                const Count* before,         // (in_width + 1, 8)
                                const Run* run, const Run* end,
                                Count* counts) {  // (rows(), 8)
    auto last = Lanes<Count>::zero();
    for (; run != end; ++run) {
      column += run->length;
      offset += run->length;
      const auto on_here = Lanes<Count>::load(on + *column * std::int64_t{channels_per_block});
      const auto now = Lanes<Count>::load(before + *column * std::int64_t{channels_per_block}) +
                       on_here * *offset;
      Count* count = counts + run->label * std::int64_t{channels_per_block};
      (Lanes<Count>::load(count) + now - last).store(count);
      last = now;
    }
  }
};

// Adds the interpolated values of one row's pixels to their superpixels.
struct AddInterpolated {
  static CUEKIT_INLINE void run(const double* columns,    // (in_width, 8)
                                const BilinearTap* taps,  // (W)
                                const Run* run, const Run* end,
                                double* sums) {  // (rows(), 8)
    for (; run != end; ++run) {
      double* sum = sums + run->label * std::int64_t{channels_per_block};
      double partial[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < run->length; ++x, ++taps) {
        const double* left = columns + taps->low * channels_per_block;
        const double* right = columns + taps->high * channels_per_block;
        for (int j = 0; j < channels_per_block; ++j)
          partial[j] += interpolate(left[j], right[j], taps->weight);
      }
      for (int j = 0; j < channels_per_block; ++j) sum[j] = partial[j];
    }
  }
};

// Paints consecutive rows of one block of channels, one bit per channel, in vectors of `width`
// bytes.
template <int width>
struct PaintBytes {
  static CUEKIT_INLINE void run(const std::uint8_t* on,  // (rows()): one bit per channel
                                const Run* run, const Run* end, std::int64_t pixels,
                                std::uint8_t* bytes) {  // (pixels)
    paint_runs<width>(run, end, pixels, 1, bytes,
                      [on](std::int32_t label, std::int64_t) { return on[label]; });
  }
};

// The counts of each superpixel, or the sums.
std::vector<double> add_up(const ChannelBlock& block, const SuperpixelRuns& superpixels,
                           const Resizing& resizing) {  // (rows(), 8)
  const std::int64_t size = superpixels.rows() * channels_per_block;
  if (block.floating()) {
    std::vector<double> sums(size);
    BilinearRows rows(block, resizing);
    for (std::int64_t y = 0; y < resizing.height; ++y)
      dispatch<AddInterpolated>(rows.columns(y), resizing.taps.data(), superpixels.row(y),
                                superpixels.row(y + 1), sums.data());
    return sums;
  }
  const CueColumns columns(resizing);
  std::vector<Count> counts(size), on((resizing.in_width + 1) * channels_per_block);
  std::vector<Count> before(on.size());
  NearestRows rows(block, resizing);
  for (std::int64_t y = 0; y < resizing.height; ++y) {
    if (rows.move_to(y))
      dispatch<PrefixSums>(rows.cells(), columns.widths.data(), resizing.in_width, on.data(),
                           before.data());
    dispatch<AddCounts>(columns.columns.data(), columns.offsets.data(), std::as_const(on).data(),
                        std::as_const(before).data(), superpixels.row(y), superpixels.row(y + 1),
                        counts.data());
  }
  return {counts.begin(), counts.end()};
}

// The input of one block at the pixels that are in no superpixel, rows [y, end).
void keep_input(const ChannelBlock& block, const SuperpixelRuns& superpixels,
                const Resizing& resizing, std::int64_t y, std::int64_t end,
                std::uint8_t* bytes) {  // (end - y, W): one bit per channel
  NearestRows nearest(block, resizing);
  BilinearRows bilinear(block, resizing);
  std::vector<std::uint8_t> input(resizing.width);
  double level[channels_per_block];
  block.read_levels(level);
  for (; y < end; ++y, bytes += resizing.width) {
    const Run *run = superpixels.row(y), *const row_end = superpixels.row(y + 1);
    if (!superpixels.outside(run, row_end)) continue;
    if (block.floating()) {
      bits_above(bilinear.values(y), resizing.width, level, input.data());
    } else if (nearest.move_to(y)) {
      nearest.read(input.data());
    }
    for (std::int64_t x = 0; run != row_end; x += run->length, ++run) {
      if (run->label == superpixels.count) std::copy_n(input.begin() + x, run->length, bytes + x);
    }
  }
}

// Rows that one task paints.
constexpr std::int64_t band_height = 32;

bool snap(const Maps& cues,                    // (B, K, h, w)
          const SuperpixelsView& superpixels,  // (B, H, W)
          bool* out,                           // (B, K, H, W)
          const SnapParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t bands = (p.height + band_height - 1) / band_height;
  const Resizing resizing = resizing_of(p.in_height, p.in_width, p.height, p.width);
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const SuperpixelRuns runs = read_runs(superpixels, b, p.height, p.width, p.num_superpixels);
    const std::int64_t rows = runs.rows();

    // Most photos contain few of the classes: channels that are 0 everywhere are only cleared.
    bool* const image_out = out + b * p.channels * pixels;
    Channels channels{cues.type, {}};
    std::vector<std::int64_t> cleared;
    for (std::int64_t k = 0; k < p.channels; ++k) {
      const MapSummary map = cues.summarize(b * p.channels + k);
      // Values that no pixel reads are checked too.
      if (!map.finite) all_finite = false;
      if (map.any)
        channels.channels.push_back(
            {cues.map(b * p.channels + k), std::max(p.threshold * map.largest, 0.0), k});
      else
        cleared.push_back(k);
    }
    parallel_for(static_cast<std::int64_t>(cleared.size()), inner_threads, [&](std::int64_t i) {
      std::fill_n(image_out + cleared[i] * pixels, pixels, false);
    });

    const std::int64_t blocks = channels.blocks();
    std::vector<std::uint8_t> on(blocks * rows);  // (blocks, rows): one bit per channel
    parallel_for(blocks, inner_threads, [&](std::int64_t i) {
      std::vector<double> sums = add_up(channels.block(i), runs, resizing);
      if (!decide(runs.sizes.data(), runs.count, p.threshold, sums.data(), on.data() + i * rows))
        all_finite = false;
    });
    parallel_for(bands * blocks, inner_threads, [&](std::int64_t task) {
      const std::int64_t i = task / bands;
      const std::int64_t y = task % bands * band_height;
      const std::int64_t end = std::min(p.height, y + band_height);
      const std::int64_t band_pixels = (end - y) * p.width;
      std::vector<std::uint8_t> bytes(band_pixels);
      dispatch_width_avx512<PaintBytes<16>, PaintBytes<32>, PaintBytes<64>>(
          std::as_const(on).data() + i * rows, runs.row(y), runs.row(end), band_pixels,
          bytes.data());
      const ChannelBlock block = channels.block(i);
      if (runs.any_outside) keep_input(block, runs, resizing, y, end, bytes.data());
      select_bits(bytes.data(), band_pixels, block, image_out, pixels, y * p.width);
    });
  });
  return all_finite;
}

}  // namespace

template <class T>
bool snap(const T* cues, const SuperpixelsView& superpixels, bool* out, const SnapParams& p,
          Context& context) {
  return snap(maps_of(cues, p.in_height * p.in_width), superpixels, out, p, context);
}

#define CUEKIT_INSTANTIATE(T) \
  template bool snap(const T*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
