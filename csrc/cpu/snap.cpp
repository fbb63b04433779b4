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
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "parallel.h"
#include "snap_steps.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// Pixels of bool cues that are on. Integers, so exact in any order; an image has fewer than 2^31
// pixels.
using Count = std::uint32_t;

// Horizontal resizing: what each column of the superpixels reads from the cues, of width w.
struct ColumnMap {
  std::vector<std::int32_t> columns;  // (W + 1) nearest: column of the cues; last entry: w
  std::vector<std::int32_t> offsets;  // (W + 1) nearest: how many columns to the left read it too
  std::vector<Count> widths;          // (w + 1) nearest: how many columns read this one
  std::vector<BilinearTap> taps;      // (W) bilinear

  explicit ColumnMap(const SnapParams& p) : widths(p.in_width + 1) {
    for (std::int64_t x = 0; x < p.width; ++x) {
      const auto column = static_cast<std::int32_t>(nearest_source(x, p.in_width, p.width));
      const bool same = x > 0 && columns.back() == column;
      offsets.push_back(same ? offsets.back() + 1 : 0);
      columns.push_back(column);
      ++widths[column];
      taps.push_back(bilinear_tap(x, p.in_width, p.width));
    }
    columns.push_back(static_cast<std::int32_t>(p.in_width));
    offsets.push_back(0);
  }
};

// Prefix sums along one row of bool cues. The number of pixels left of x that are on is
//   before[c] + offsets[x] * on[c], c = columns[x].
// The count of a run is the difference of two such numbers.
struct PrefixSums {
  static CUEKIT_INLINE void run(const std::uint8_t* const* rows,  // 8 of (in_width)
                                std::int64_t in_width, const ColumnMap* map,
                                std::uint8_t* pixels,        // (in_width, 8): scratch
                                Count* __restrict on,        // (in_width + 1, 8)
                                Count* __restrict before) {  // (in_width + 1, 8)
    interleave(rows, in_width, pixels);
    for (std::int64_t i = 0; i < in_width * channels_per_block; ++i) on[i] = pixels[i] != 0;
    for (int j = 0; j < channels_per_block; ++j) on[in_width * channels_per_block + j] = 0;
    auto total = Lanes<Count>::zero();
    for (std::int64_t c = 0; c <= in_width; ++c) {
      total.store(before + c * channels_per_block);
      total = total + Lanes<Count>::load(on + c * channels_per_block) * map->widths[c];
    }
  }
};

// Adds the counts of one row's runs to their superpixels.
struct AddCounts {
  static CUEKIT_INLINE void run(const ColumnMap* map,
                                const Count* on,      // (in_width + 1, 8)
                                const Count* before,  // (in_width + 1, 8)
                                const Run* run, const Run* end,
                                Count* counts) {  // (rows(), 8)
    const std::int32_t* column = map->columns.data();
    const std::int32_t* offset = map->offsets.data();
    auto last = Lanes<Count>::zero();
    for (; run != end; ++run) {
      column += run->length;
      offset += run->length;
      const auto on_here = Lanes<Count>::load(on + *column * std::int64_t{channels_per_block});
      const auto now = Lanes<Count>::load(before + *column * std::int64_t{channels_per_block}) +
                       on_here * static_cast<Count>(*offset);
      Count* count = counts + run->label * std::int64_t{channels_per_block};
      (Lanes<Count>::load(count) + now - last).store(count);
      last = now;
    }
  }
};

// Adds the interpolated values of one row's pixels to their superpixels.
struct AddInterpolated {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* above,  // 8 of (in_width)
                                const T* const* below,  // 8 of (in_width)
                                double weight, std::int64_t in_width,
                                const BilinearTap* taps,  // (W)
                                const Run* run, const Run* end,
                                T* pixels,        // (2, in_width, 8): scratch
                                double* columns,  // (in_width, 8): scratch
                                double* sums) {   // (rows(), 8)
    interpolate_rows(above, below, weight, in_width, pixels, columns);
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

// Writes the bits of consecutive rows to the channels.
struct SelectBits {
  static CUEKIT_INLINE void run(const std::uint8_t* bytes,  // (pixels): one bit per channel
                                std::int64_t pixels, std::int64_t channels,
                                bool* const* out,       // (channels) of (H, W)
                                std::int64_t offset) {  // of the first row, in pixels
    for (std::int64_t j = 0; j < channels; ++j) {
      auto* row = reinterpret_cast<std::uint8_t*>(out[j] + offset);
      const auto bit = static_cast<std::uint8_t>(1u << j);
      const std::int64_t aligned = until_aligned(row, pixels);
      select_bit(bytes, bit, aligned, row);
      select_bit(bytes + aligned, bit, pixels - aligned, row + aligned);
    }
  }
};

// Row y of each channel's map. Missing channels read zeros.
template <class T>
void point_to_row(const T* const* maps,  // (channels) of (h, w)
                  std::int64_t channels, std::int64_t y, const std::vector<T>& zeros,
                  const T** rows) {  // (8)
  const auto in_width = static_cast<std::int64_t>(zeros.size());
  for (int j = 0; j < channels_per_block; ++j)
    rows[j] = j < channels ? maps[j] + y * in_width : zeros.data();
}

// One block of at most 8 channels of one image.
template <class T>
class ChannelBlock {
 public:
  ChannelBlock(const T* const* maps,  // (channels) of (h, w)
               std::int64_t channels, const SuperpixelRuns& superpixels, const ColumnMap& columns,
               const SnapParams& p)
      : maps_(maps),
        channels_(channels),
        superpixels_(superpixels),
        columns_(columns),
        p_(p),
        zeros_(p.in_width),
        pixels_(2 * p.in_width * channels_per_block),
        sums_(superpixels.rows() * channels_per_block) {}

  // Returns false where a mean is not finite.
  bool decide(std::uint8_t* on) {  // (rows()): one bit per channel
    if constexpr (std::is_integral_v<T>) {
      add_counts();
    } else {
      add_interpolated();
    }
    std::vector<double> means(sums_.size());
    bool finite = true;
    dispatch<Decide>(std::as_const(sums_).data(), superpixels_.sizes.data(), superpixels_.count,
                     p_.threshold, means.data(), on, &finite);
    return finite;
  }

 private:
  using Sum = std::conditional_t<std::is_integral_v<T>, Count, double>;

  void add_counts() {
    std::vector<Count> on((p_.in_width + 1) * channels_per_block);
    std::vector<Count> before(on.size());
    std::int64_t current = -1;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const std::int64_t source = nearest_source(y, p_.in_height, p_.height);
      if (source != current) {
        const T* rows[channels_per_block];
        point_to_row(maps_, channels_, source, zeros_, rows);
        dispatch<PrefixSums>(&rows[0], p_.in_width, &columns_, pixels_.data(), on.data(),
                             before.data());
        current = source;
      }
      dispatch<AddCounts>(&columns_, on.data(), before.data(), superpixels_.row(y),
                          superpixels_.row(y + 1), sums_.data());
    }
  }

  void add_interpolated() {
    std::vector<double> columns(p_.in_width * channels_per_block);
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const BilinearTap row = bilinear_tap(y, p_.in_height, p_.height);
      const T *above[channels_per_block], *below[channels_per_block];
      point_to_row(maps_, channels_, row.low, zeros_, above);
      point_to_row(maps_, channels_, row.high, zeros_, below);
      dispatch<AddInterpolated>(&above[0], &below[0], row.weight, p_.in_width, columns_.taps.data(),
                                superpixels_.row(y), superpixels_.row(y + 1), pixels_.data(),
                                columns.data(), sums_.data());
    }
  }

  const T* const* maps_;
  std::int64_t channels_;
  const SuperpixelRuns& superpixels_;
  const ColumnMap& columns_;
  const SnapParams& p_;
  std::vector<T> zeros_;   // (w)
  std::vector<T> pixels_;  // (2, w, 8): scratch
  std::vector<Sum> sums_;  // (rows(), 8)
};

// The input of one block of channels at the pixels that are in no superpixel, rows [y, end).
template <class T>
void keep_input(const T* const* maps,  // (channels) of (h, w)
                std::int64_t channels,
                const double* levels,  // (channels): floating maps are on above them
                const SuperpixelRuns& superpixels, const ColumnMap& columns, const SnapParams& p,
                std::int64_t y, std::int64_t end,
                std::uint8_t* bytes) {  // (end - y, W): one bit per channel
  const std::vector<T> zeros(p.in_width);
  std::vector<std::uint8_t> input(p.width);
  std::vector<T> pixels(2 * p.in_width * channels_per_block);
  std::vector<double> resized((p.in_width + p.width) * channels_per_block);
  double level[channels_per_block] = {};
  if (!std::is_integral_v<T>) std::copy_n(levels, channels, level);
  for (; y < end; ++y, bytes += p.width) {
    const Run *run = superpixels.row(y), *const row_end = superpixels.row(y + 1);
    if (!superpixels.outside(run, row_end)) continue;
    const T *above[channels_per_block], *below[channels_per_block];
    if constexpr (std::is_integral_v<T>) {
      point_to_row(maps, channels, nearest_source(y, p.in_height, p.height), zeros, above);
      dispatch<NearestRow>(&above[0], p.in_width, columns.columns.data(), p.width, pixels.data(),
                           input.data());
    } else {
      const BilinearTap row = bilinear_tap(y, p.in_height, p.height);
      point_to_row(maps, channels, row.low, zeros, above);
      point_to_row(maps, channels, row.high, zeros, below);
      dispatch<BilinearRow>(&above[0], &below[0], row.weight, p.in_width, columns.taps.data(),
                            p.width, &level[0], pixels.data(), resized.data(),
                            resized.data() + p.in_width * channels_per_block, input.data());
    }
    for (std::int64_t x = 0; run != row_end; x += run->length, ++run) {
      if (run->label == superpixels.count) std::copy_n(input.begin() + x, run->length, bytes + x);
    }
  }
}

// Rows that one task paints.
constexpr std::int64_t band_height = 32;

// Whether all bytes are zero. Tests that the first byte is zero and that each byte equals the next
// one, with memcmp, which is vectorised and stops at the first difference.
template <class T>
bool all_zero(const T* values,  // (count)
              std::int64_t count) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(values);
  const std::size_t size = count * sizeof(T);
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0;
}

}  // namespace

template <class T>
bool snap(const T* cues,                       // (B, K, h, w)
          const SuperpixelsView& superpixels,  // (B, H, W)
          bool* out,                           // (B, K, H, W)
          const SnapParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t in_pixels = p.in_height * p.in_width;
  const std::int64_t bands = (p.height + band_height - 1) / band_height;
  const ColumnMap columns(p);
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const SuperpixelRuns runs = read_runs(superpixels, b, p.height, p.width, p.num_superpixels);
    const std::int64_t rows = runs.rows();

    // Most photos contain few of the classes: channels of bool cues that are off everywhere are
    // only cleared.
    std::vector<const T*> maps;
    std::vector<bool*> targets, cleared;
    for (std::int64_t k = b * p.channels; k < (b + 1) * p.channels; ++k) {
      const T* map = cues + k * in_pixels;
      const bool empty = std::is_integral_v<T> && all_zero(map, in_pixels);
      // Values that no pixel reads are checked too.
      if (!can_interpolate(map, in_pixels)) all_finite = false;
      (empty ? cleared : targets).push_back(out + k * pixels);
      if (!empty) maps.push_back(map);
    }
    parallel_for(static_cast<std::int64_t>(cleared.size()), inner_threads,
                 [&](std::int64_t i) { std::fill_n(cleared[i], pixels, false); });

    const auto channels = static_cast<std::int64_t>(maps.size());
    std::vector<double> levels(channels);  // thresholds; only for pixels in no superpixel
    for (std::int64_t k = 0; !std::is_integral_v<T> && runs.any_outside && k < channels; ++k) {
      double largest = 0.0;
      dispatch<Largest>(maps[k], in_pixels, &largest);
      levels[k] = std::max(p.threshold * largest, 0.0);
    }
    const std::int64_t blocks = channel_blocks(channels);
    const auto channels_of = [&](std::int64_t block) {
      return std::min<std::int64_t>(channels_per_block, channels - block * channels_per_block);
    };
    std::vector<std::uint8_t> on(blocks * rows);  // (blocks, rows): one bit per channel
    parallel_for(blocks, inner_threads, [&](std::int64_t i) {
      ChannelBlock<T> block(maps.data() + i * channels_per_block, channels_of(i), runs, columns, p);
      if (!block.decide(on.data() + i * rows)) all_finite = false;
    });
    parallel_for(bands * blocks, inner_threads, [&](std::int64_t task) {
      const std::int64_t i = task / bands;
      const std::int64_t y = task % bands * band_height;
      const std::int64_t end = std::min(p.height, y + band_height);
      const std::int64_t first = i * channels_per_block, band_pixels = (end - y) * p.width;
      std::vector<std::uint8_t> bytes(band_pixels);
      dispatch_width_avx512<PaintBytes<16>, PaintBytes<32>, PaintBytes<64>>(
          std::as_const(on).data() + i * rows, runs.row(y), runs.row(end), band_pixels,
          bytes.data());
      if (runs.any_outside)
        keep_input(maps.data() + first, channels_of(i), levels.data() + first, runs, columns, p, y,
                   end, bytes.data());
      dispatch_avx512<SelectBits>(bytes.data(), band_pixels, channels_of(i), targets.data() + first,
                                  y * p.width);
    });
  });
  return all_finite;
}

#define CUEKIT_INSTANTIATE(T) \
  template bool snap(const T*, const SuperpixelsView&, bool*, const SnapParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
