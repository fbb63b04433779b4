#include "cuekit/snap.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "decide.h"
#include "finite.h"
#include "parallel.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// Counts of bool cues are integers, exact in any order; a label map has fewer than 2^31 pixels.
using Count = std::uint32_t;

// What the position of a pixel means in the grid of the cues, for every column of the superpixels
// and one past the last.
struct Geometry {
  std::vector<std::int32_t> columns;  // nearest: the source column
  std::vector<std::int32_t> offsets;  // ... and how many columns left of this one have it too
  std::vector<Count> widths;          // how many columns of the superpixels a source column has
  std::vector<BilinearTap> taps;      // bilinear

  explicit Geometry(const SnapParams& p) : widths(to_size(p.in_width + 1)) {
    for (std::int64_t x = 0; x < p.width; ++x) {
      const auto column = static_cast<std::int32_t>(nearest_source(x, p.in_width, p.width));
      const bool same = x > 0 && columns.back() == column;
      offsets.push_back(same ? offsets.back() + 1 : 0);
      columns.push_back(column);
      ++widths[to_size(column)];
      taps.push_back(bilinear_tap(x, p.in_width, p.width));
    }
    columns.push_back(static_cast<std::int32_t>(p.in_width));
    offsets.push_back(0);
  }
};

// One row of bool cues, eight channels to a column, for counting how many of the pixels left of x
// are on: before[c] + offset * on[c] with c the column of x and offset as in Geometry. A run's
// counts are then a difference of two such values whatever its length, and one such row serves all
// rows of superpixels that lie over it.
struct CountRow {
  static CUEKIT_INLINE void run(const std::uint8_t* const* rows, std::int64_t in_width,
                                const Geometry* geometry, std::uint8_t* pixels,
                                Count* __restrict on, Count* __restrict before) {
    interleave(rows, in_width, pixels);
    for (std::int64_t i = 0; i < in_width * lanes; ++i) on[i] = pixels[i] != 0;
    for (int j = 0; j < lanes; ++j) on[in_width * lanes + j] = 0;
    auto total = Lanes<Count>::zero();
    for (std::int64_t c = 0; c <= in_width; ++c) {
      total.store(before + c * lanes);
      total = total + Lanes<Count>::load(on + c * lanes) * geometry->widths[to_size(c)];
    }
  }
};

struct AddCounts {
  static CUEKIT_INLINE void run(const Geometry* geometry, const Count* on, const Count* before,
                                const Run* run, const Run* end, Count* counts) {
    const std::int32_t* column = geometry->columns.data();
    const std::int32_t* offset = geometry->offsets.data();
    auto last = Lanes<Count>::zero();
    for (; run != end; ++run) {
      column += run->length;
      offset += run->length;
      const auto on_here = Lanes<Count>::load(on + *column * std::int64_t{lanes});
      const auto now = Lanes<Count>::load(before + *column * std::int64_t{lanes}) +
                       on_here * static_cast<Count>(*offset);
      Count* count = counts + run->label * std::int64_t{lanes};
      (Lanes<Count>::load(count) + now - last).store(count);
      last = now;
    }
  }
};

// Floating maps: two rows of the source, `lanes` channels side by side, are interpolated down to
// one row of source columns; then every pixel across, straight into its superpixel's sum.
struct AddInterpolated {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* above, const T* const* below, double weight,
                                std::int64_t in_width, const BilinearTap* taps, const Run* run,
                                const Run* end, T* pixels, double* columns, double* sums) {
    T* lower = pixels + in_width * lanes;
    interleave(above, in_width, pixels);
    interleave(below, in_width, lower);
    for (std::int64_t i = 0; i < in_width * lanes; ++i)
      columns[i] = interpolate(load(pixels[i]), load(lower[i]), weight);
    for (; run != end; ++run) {
      double* sum = sums + run->label * std::int64_t{lanes};
      double partial[lanes];
      for (int j = 0; j < lanes; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < run->length; ++x, ++taps) {
        const double* left = columns + taps->low * lanes;
        const double* right = columns + taps->high * lanes;
        for (int j = 0; j < lanes; ++j) partial[j] += interpolate(left[j], right[j], taps->weight);
      }
      for (int j = 0; j < lanes; ++j) sum[j] = partial[j];
    }
  }
};

// Consecutive rows of eight channels: first every pixel's byte, one bit per channel, then each
// channel's bit of it.
struct PaintBand {
  static CUEKIT_INLINE void select_bit(const std::uint8_t* __restrict bytes, std::uint8_t bit,
                                       std::int64_t pixels, std::uint8_t* __restrict row) {
    for (std::int64_t i = 0; i < pixels; ++i) {
      const auto masked = static_cast<std::uint8_t>(bytes[i] & bit);
      row[i] = masked < 1 ? masked : std::uint8_t{1};
    }
  }

  static CUEKIT_INLINE void run(const std::uint8_t* on, const Run* run, const Run* end,
                                std::int64_t pixels, std::int64_t channels, std::uint8_t* bytes,
                                bool* const* out, std::int64_t offset) {
    paint_runs(run, end, pixels, bytes, [on](std::int32_t label) { return on[label]; });
    for (std::int64_t j = 0; j < channels; ++j) {
      auto* row = reinterpret_cast<std::uint8_t*>(out[j] + offset);
      const auto bit = static_cast<std::uint8_t>(1u << j);
      const std::int64_t aligned = until_aligned(row, pixels);
      select_bit(bytes, bit, aligned, row);
      select_bit(bytes + aligned, bit, pixels - aligned, row + aligned);
    }
  }
};

// Eight channels of one image. Lanes past the last channel read zeros.
template <class T>
class Tile {
 public:
  Tile(const T* const* maps, std::int64_t channels, const Superpixels& superpixels,
       const Geometry& geometry, const SnapParams& p)
      : maps_(maps),
        channels_(channels),
        superpixels_(superpixels),
        geometry_(geometry),
        p_(p),
        zeros_(to_size(p.in_width)),
        pixels_(to_size(2 * p.in_width * lanes)),
        sums_(to_size(superpixels.count * lanes)) {}

  // Bits of the channels that are on, one byte per superpixel; false when a value was not finite.
  bool decide(std::uint8_t* on) {
    if constexpr (std::is_integral_v<T>) {
      add_counts();
    } else {
      add_interpolated();
    }
    std::vector<double> means(sums_.size());
    bool finite = true;
    dispatch<Decide>(sums_.data(), superpixels_.sizes.data(), superpixels_.count, p_.threshold,
                     means.data(), on, &finite);
    return finite;
  }

 private:
  using Sum = std::conditional_t<std::is_integral_v<T>, Count, double>;

  void point_to_row(std::int64_t y, const T** rows) const {
    for (int j = 0; j < lanes; ++j)
      rows[j] = j < channels_ ? maps_[j] + y * p_.in_width : zeros_.data();
  }

  void add_counts() {
    std::vector<Count> on(to_size((p_.in_width + 1) * lanes));
    std::vector<Count> before(on.size());
    std::int64_t current = -1;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const std::int64_t source = nearest_source(y, p_.in_height, p_.height);
      if (source != current) {
        const T* rows[lanes];
        point_to_row(source, rows);
        dispatch<CountRow>(&rows[0], p_.in_width, &geometry_, pixels_.data(), on.data(),
                           before.data());
        current = source;
      }
      dispatch<AddCounts>(&geometry_, on.data(), before.data(), superpixels_.row(y),
                          superpixels_.row(y + 1), sums_.data());
    }
  }

  void add_interpolated() {
    std::vector<double> columns(to_size(p_.in_width * lanes));
    for (std::int64_t y = 0; y < p_.height; ++y) {
      const BilinearTap row = bilinear_tap(y, p_.in_height, p_.height);
      const T *above[lanes], *below[lanes];
      point_to_row(row.low, above);
      point_to_row(row.high, below);
      dispatch<AddInterpolated>(&above[0], &below[0], row.weight, p_.in_width,
                                geometry_.taps.data(), superpixels_.row(y), superpixels_.row(y + 1),
                                pixels_.data(), columns.data(), sums_.data());
    }
  }

  const T* const* maps_;
  std::int64_t channels_;
  const Superpixels& superpixels_;
  const Geometry& geometry_;
  const SnapParams& p_;
  std::vector<T> zeros_;
  std::vector<T> pixels_;
  std::vector<Sum> sums_;
};

// Rows painted by one task.
constexpr std::int64_t band_height = 32;

// Values that no pixel samples count too.
template <class T>
bool all_values_finite([[maybe_unused]] const T* values, [[maybe_unused]] std::int64_t count) {
  if constexpr (std::is_integral_v<T>) {
    return true;
  } else {
    return !any_nonfinite(nonfinite_bits(values, count));
  }
}

template <class T>
bool all_zero(const T* values, std::int64_t count) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(values);
  const std::size_t size = to_size(count) * sizeof(T);
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0;
}

}  // namespace

template <class T>
bool snap(const T* cues, const SuperpixelsView& labels, bool* out, const SnapParams& p,
          Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t in_pixels = p.in_height * p.in_width;
  const std::int64_t bands = (p.height + band_height - 1) / band_height;
  const Geometry geometry(p);
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const Superpixels superpixels =
        read_superpixels(labels, b, p.height, p.width, p.num_superpixels);
    const std::int64_t count = superpixels.count;

    // Most photos contain few of the classes: a cue that is on nowhere only clears its channel.
    std::vector<const T*> maps;
    std::vector<bool*> targets, cleared;
    for (std::int64_t k = b * p.channels; k < (b + 1) * p.channels; ++k) {
      const T* map = cues + k * in_pixels;
      const bool empty = std::is_integral_v<T> && all_zero(map, in_pixels);
      if (!all_values_finite(map, in_pixels)) all_finite = false;
      (empty ? cleared : targets).push_back(out + k * pixels);
      if (!empty) maps.push_back(map);
    }
    parallel_for(static_cast<std::int64_t>(cleared.size()), inner_threads,
                 [&](std::int64_t i) { std::fill_n(cleared[to_size(i)], pixels, false); });

    const auto channels = static_cast<std::int64_t>(maps.size());
    const std::int64_t tiles = number_of_tiles(channels);
    const auto channels_of = [&](std::int64_t t) {
      return std::min<std::int64_t>(lanes, channels - t * lanes);
    };
    std::vector<std::uint8_t> on(to_size(tiles * count));  // one bit per channel of a tile
    parallel_for(tiles, inner_threads, [&](std::int64_t t) {
      Tile<T> tile(maps.data() + t * lanes, channels_of(t), superpixels, geometry, p);
      if (!tile.decide(on.data() + t * count)) all_finite = false;
    });
    parallel_for(bands * tiles, inner_threads, [&](std::int64_t task) {
      const std::int64_t t = task / bands;
      const std::int64_t y = task % bands * band_height;
      const std::int64_t end = std::min(p.height, y + band_height);
      std::vector<std::uint8_t> bytes(to_size((end - y) * p.width));
      dispatch<PaintBand>(on.data() + t * count, superpixels.row(y), superpixels.row(end),
                          (end - y) * p.width, channels_of(t), bytes.data(),
                          targets.data() + t * lanes, y * p.width);
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
