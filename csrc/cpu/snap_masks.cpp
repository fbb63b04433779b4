#include "cuekit/snap_masks.h"

#include <algorithm>
#include <array>
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

// Counts are exact in any order; an image has fewer than 2^31 pixels.
using Count = std::uint32_t;

// Consecutive pixels of one row under one mask.
struct Span {
  std::int64_t mask;
  std::int32_t begin, end;
};

// One image's masks, read once: every later step costs what the masks cover, not R times the image.
struct Masks {
  std::vector<std::vector<Span>> rows;  // of every row: mask by mask, from left to right
  std::vector<std::uint8_t> uncovered;  // of every pixel: all bits set under no mask, else none
  std::vector<double> sizes;            // pixels per mask
};

// From x on in blocks of pixels, as long as they are empty.
template <int block>
std::int64_t skip_empty(const std::uint8_t* row, std::int64_t x, std::int64_t width) {
  for (; x + block <= width; x += block) {
    std::uint64_t words[block / 8], any = 0;
    std::memcpy(words, row + x, block);
    for (const std::uint64_t word : words) any |= word;
    if (any != 0) break;
  }
  return x;
}

// The first pixel from x on that the mask covers. Masks are mostly empty.
std::int64_t next_covered(const std::uint8_t* row, std::int64_t x, std::int64_t width) {
  x = skip_empty<8>(row, skip_empty<64>(row, x, width), width);
  while (x < width && row[x] == 0) ++x;
  return x;
}

// Rows read by one task: a piece of every mask that lies together in memory.
constexpr std::int64_t band_height = 32;

Masks read_masks(const std::uint8_t* masks, const SnapMasksParams& p, int threads) {
  const std::int64_t pixels = p.height * p.width;
  Masks result{std::vector<std::vector<Span>>(to_size(p.height)),
               std::vector<std::uint8_t>(to_size(pixels), std::uint8_t{0xff}),
               std::vector<double>(to_size(p.masks))};
  parallel_for((p.height + band_height - 1) / band_height, threads, [&](std::int64_t band) {
    const std::int64_t end = std::min(p.height, (band + 1) * band_height);
    for (std::int64_t r = 0; r < p.masks; ++r) {
      for (std::int64_t y = band * band_height; y < end; ++y) {
        const std::uint8_t* row = masks + r * pixels + y * p.width;
        for (std::int64_t x = next_covered(row, 0, p.width); x < p.width;) {
          const void* zero = std::memchr(row + x, 0, to_size(p.width - x));
          const std::int64_t stop = zero ? static_cast<const std::uint8_t*>(zero) - row : p.width;
          result.rows[to_size(y)].push_back(
              {r, static_cast<std::int32_t>(x), static_cast<std::int32_t>(stop)});
          std::fill_n(result.uncovered.begin() + y * p.width + x, stop - x, std::uint8_t{0});
          x = next_covered(row, stop, p.width);
        }
      }
    }
  });
  for (const auto& row : result.rows)
    for (const Span& span : row) result.sizes[to_size(span.mask)] += span.end - span.begin;
  return result;
}

// The largest value, at least 0.
struct Largest {
  template <class T>
  static CUEKIT_INLINE void run(const T* values, std::int64_t count, double* largest) {
    double best[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      for (int j = 0; j < lanes; ++j) {
        const double value = load(values[i + j]);
        best[j] = best[j] < value ? value : best[j];
      }
    }
    for (; i < count; ++i) best[0] = std::max(best[0], load(values[i]));
    *largest = *std::max_element(best, best + lanes);
  }
};

struct AnyOn {
  static CUEKIT_INLINE void run(const std::uint8_t* values, std::int64_t count, bool* any) {
    std::uint8_t seen = 0;
    for (std::int64_t i = 0; i < count; ++i) seen = static_cast<std::uint8_t>(seen | values[i]);
    *any = seen != 0;
  }
};

// One channel that is not empty, where its output goes, and above what its input is on.
template <class T>
struct Channel {
  const T* map;
  bool* out;
  double level;
};

// One row of bool cues at the masks' resolution: a byte per pixel, a bit per channel.
struct NearestRow {
  static CUEKIT_INLINE void run(const std::uint8_t* const* rows, std::int64_t in_width,
                                const std::int32_t* columns, std::int64_t width,
                                std::uint8_t* cells, std::uint8_t* bits) {
    std::fill_n(cells, in_width, std::uint8_t{0});
    for (int j = 0; j < lanes; ++j) {
      const auto bit = static_cast<std::uint8_t>(1u << j);
      for (std::int64_t c = 0; c < in_width; ++c)
        cells[c] = static_cast<std::uint8_t>(cells[c] | (rows[j][c] != 0 ? bit : 0));
    }
    for (std::int64_t x = 0; x < width; ++x) bits[x] = cells[columns[x]];
  }
};

// One row of floating maps at the masks' resolution, eight channels side by side, and the bits of
// what is above the levels.
struct BilinearRow {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* above, const T* const* below, double weight,
                                std::int64_t in_width, const BilinearTap* taps, std::int64_t width,
                                const double* level, T* pixels, double* columns, double* values,
                                std::uint8_t* bits) {
    T* lower = pixels + in_width * lanes;
    interleave(above, in_width, pixels);
    interleave(below, in_width, lower);
    for (std::int64_t i = 0; i < in_width * lanes; ++i)
      columns[i] = interpolate(load(pixels[i]), load(lower[i]), weight);
    for (std::int64_t x = 0; x < width; ++x) {
      const double* left = columns + taps[x].low * lanes;
      const double* right = columns + taps[x].high * lanes;
      unsigned on = 0;
      for (int j = 0; j < lanes; ++j)
        values[x * lanes + j] = interpolate(left[j], right[j], taps[x].weight);
      for (int j = 0; j < lanes; ++j)
        on |= static_cast<unsigned>(values[x * lanes + j] > level[j]) << j;
      bits[x] = static_cast<std::uint8_t>(on);
    }
  }
};

// The eight bits of every byte, side by side.
constexpr std::array<std::array<Count, lanes>, 256> bits_of_bytes = [] {
  std::array<std::array<Count, lanes>, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte)
    for (unsigned j = 0; j < lanes; ++j) table[byte][j] = byte >> j & 1u;
  return table;
}();

// before[x]: how many of the pixels left of x are on. A span's counts are then one difference,
// whatever its length.
struct CountRow {
  static CUEKIT_INLINE void run(const std::uint8_t* bits, std::int64_t width, Count* before) {
    auto total = Lanes<Count>::zero();
    for (std::int64_t x = 0; x < width; ++x) {
      total.store(before + x * lanes);
      total = total + Lanes<Count>::load(bits_of_bytes[bits[x]].data());
    }
    total.store(before + width * lanes);
  }
};

struct AddCounts {
  static CUEKIT_INLINE void run(const Span* span, const Span* end, const Count* before,
                                std::int64_t width, Count* counts, Count* totals) {
    (Lanes<Count>::load(totals) + Lanes<Count>::load(before + width * lanes)).store(totals);
    for (; span != end; ++span) {
      Count* count = counts + span->mask * lanes;
      (Lanes<Count>::load(count) + Lanes<Count>::load(before + span->end * std::int64_t{lanes}) -
       Lanes<Count>::load(before + span->begin * std::int64_t{lanes}))
          .store(count);
    }
  }
};

struct AddValues {
  static CUEKIT_INLINE void run(const Span* span, const Span* end, const double* values,
                                double* sums) {
    for (; span != end; ++span) {
      double* sum = sums + span->mask * lanes;
      auto partial = Lanes<double>::load(sum);
      for (std::int64_t x = span->begin; x < span->end; ++x)
        partial = partial + Lanes<double>::load(values + x * lanes);
      partial.store(sum);
    }
  }
};

// Where no mask is, the input; elsewhere the bits of the masks that cover the pixel.
struct PaintRow {
  static CUEKIT_INLINE void run(const Span* span, const Span* end, const std::uint8_t* on,
                                const std::uint8_t* uncovered, std::int64_t width,
                                std::uint8_t* __restrict bits) {
    for (std::int64_t x = 0; x < width; ++x)
      bits[x] = static_cast<std::uint8_t>(bits[x] & uncovered[x]);
    for (; span != end; ++span) {
      const std::uint8_t channels = on[span->mask];
      if (channels == 0) continue;
      for (std::int32_t x = span->begin; x < span->end; ++x)
        bits[x] = static_cast<std::uint8_t>(bits[x] | channels);
    }
  }
};

struct SelectBit {
  static CUEKIT_INLINE void run(const std::uint8_t* __restrict bits, std::uint8_t bit,
                                std::int64_t pixels, bool* out) {
    auto* __restrict bytes = reinterpret_cast<std::uint8_t*>(out);
    for (std::int64_t i = 0; i < pixels; ++i) {
      const auto masked = static_cast<std::uint8_t>(bits[i] & bit);
      bytes[i] = masked < 1 ? masked : std::uint8_t{1};
    }
  }
};

// Up to eight channels of one image.
template <class T>
class Tile {
 public:
  Tile(const Channel<T>* channels, std::int64_t count, const Masks& masks, const SnapMasksParams& p)
      : channels_(channels),
        count_(count),
        masks_(masks),
        p_(p),
        zeros_(to_size(p.in_width)),
        bits_(to_size(p.height * p.width)),
        counts_(to_size(counts() ? p.masks * lanes : 0)),
        sums_(to_size(counts() ? 0 : p.masks * lanes)) {}

  // False when a sum was not finite.
  bool snap() {
    if constexpr (std::is_integral_v<T>) {
      read_nearest();
    } else {
      read_bilinear();
    }
    std::vector<std::uint8_t> on(to_size(p_.masks));  // one bit per channel
    bool finite = true;
    if (p_.accept == MaskRule::sepl) {
      accept_by_overlap(on.data());
    } else if (counts()) {
      accept_by_mean(counts_, on.data(), &finite);
    } else {
      accept_by_mean(sums_, on.data(), &finite);
    }
    for (std::int64_t y = 0; y < p_.height; ++y) {
      dispatch<PaintRow>(first(y), last(y), on.data(), masks_.uncovered.data() + y * p_.width,
                         p_.width, bits_.data() + y * p_.width);
    }
    for (std::int64_t j = 0; j < count_; ++j) {
      dispatch<SelectBit>(bits_.data(), static_cast<std::uint8_t>(1u << j), p_.height * p_.width,
                          channels_[j].out);
    }
    return finite;
  }

 private:
  // Of bool cues, and for SEPL's rule, pixels are counted; else values are added.
  bool counts() const { return std::is_integral_v<T> || p_.accept == MaskRule::sepl; }

  template <class Sum>
  void accept_by_mean(const std::vector<Sum>& sums, std::uint8_t* on, bool* finite) const {
    std::vector<double> means(sums.size());
    dispatch<Decide>(sums.data(), masks_.sizes.data(), p_.masks, p_.threshold, means.data(), on,
                     finite);
  }

  void accept_by_overlap(std::uint8_t* on) const {
    for (std::int64_t r = 0; r < p_.masks; ++r) {
      const auto size = static_cast<std::int64_t>(masks_.sizes[to_size(r)]);
      unsigned bits = 0;
      for (int j = 0; j < lanes; ++j) {
        const std::int64_t both = counts_[to_size(r * lanes + j)];
        const std::int64_t total = totals_[j];
        const bool accepted = 2 * both > size || (total > 0 && 20 * both >= 17 * total);
        bits |= static_cast<unsigned>(accepted) << j;
      }
      on[r] = static_cast<std::uint8_t>(bits);
    }
  }

  const Span* first(std::int64_t y) const { return masks_.rows[to_size(y)].data(); }
  const Span* last(std::int64_t y) const { return first(y) + masks_.rows[to_size(y)].size(); }

  // Lanes past the last channel read zeros.
  void point_to_row(std::int64_t y, const T** rows) const {
    for (int j = 0; j < lanes; ++j)
      rows[j] = j < count_ ? channels_[j].map + y * p_.in_width : zeros_.data();
  }

  void read_nearest() {
    std::vector<std::int32_t> columns;
    for (std::int64_t x = 0; x < p_.width; ++x)
      columns.push_back(static_cast<std::int32_t>(nearest_source(x, p_.in_width, p_.width)));
    std::vector<std::uint8_t> cells(to_size(p_.in_width));
    std::vector<Count> before(to_size((p_.width + 1) * lanes));
    std::int64_t current = -1;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      std::uint8_t* bits = bits_.data() + y * p_.width;
      const std::int64_t source = nearest_source(y, p_.in_height, p_.height);
      if (source == current) {
        std::copy_n(bits - p_.width, p_.width, bits);
      } else {
        const T* rows[lanes];
        point_to_row(source, rows);
        dispatch<NearestRow>(&rows[0], p_.in_width, columns.data(), p_.width, cells.data(), bits);
        dispatch<CountRow>(bits, p_.width, before.data());
        current = source;
      }
      dispatch<AddCounts>(first(y), last(y), before.data(), p_.width, counts_.data(), &totals_[0]);
    }
  }

  void read_bilinear() {
    std::vector<BilinearTap> taps;
    for (std::int64_t x = 0; x < p_.width; ++x)
      taps.push_back(bilinear_tap(x, p_.in_width, p_.width));
    double level[lanes] = {};
    for (std::int64_t j = 0; j < count_; ++j) level[j] = channels_[j].level;
    std::vector<T> pixels(to_size(2 * p_.in_width * lanes));
    std::vector<double> columns(to_size(p_.in_width * lanes));
    std::vector<double> values(to_size(p_.width * lanes));
    std::vector<Count> before(to_size(counts() ? (p_.width + 1) * lanes : 0));
    for (std::int64_t y = 0; y < p_.height; ++y) {
      std::uint8_t* bits = bits_.data() + y * p_.width;
      const BilinearTap row = bilinear_tap(y, p_.in_height, p_.height);
      const T *above[lanes], *below[lanes];
      point_to_row(row.low, above);
      point_to_row(row.high, below);
      dispatch<BilinearRow>(&above[0], &below[0], row.weight, p_.in_width, taps.data(), p_.width,
                            &level[0], pixels.data(), columns.data(), values.data(), bits);
      if (counts()) {
        dispatch<CountRow>(bits, p_.width, before.data());
        dispatch<AddCounts>(first(y), last(y), before.data(), p_.width, counts_.data(),
                            &totals_[0]);
      } else {
        dispatch<AddValues>(first(y), last(y), values.data(), sums_.data());
      }
    }
  }

  const Channel<T>* channels_;
  std::int64_t count_;
  const Masks& masks_;
  const SnapMasksParams& p_;
  std::vector<T> zeros_;
  std::vector<std::uint8_t> bits_;
  std::vector<Count> counts_;  // per mask: pixels of the input under it
  std::vector<double> sums_;   // per mask: values under it
  Count totals_[lanes] = {};   // pixels of the input
};

}  // namespace

template <class T>
bool snap_masks(const T* cues, const std::uint8_t* masks, bool* out, const SnapMasksParams& p,
                Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t in_pixels = p.in_height * p.in_width;
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const Masks read = read_masks(masks + b * p.masks * pixels, p, inner_threads);

    // Most photos contain few of the classes: a channel that is positive nowhere is only cleared.
    std::vector<Channel<T>> channels;
    for (std::int64_t k = b * p.channels; k < (b + 1) * p.channels; ++k) {
      const T* map = cues + k * in_pixels;
      double level = 0.0;
      bool empty = false;
      if constexpr (std::is_integral_v<T>) {
        bool any = false;
        dispatch<AnyOn>(map, in_pixels, &any);
        empty = !any;
      } else {
        if (any_nonfinite(nonfinite_bits(map, in_pixels))) all_finite = false;
        double largest = 0.0;
        dispatch<Largest>(map, in_pixels, &largest);
        level = std::max(p.threshold * largest, 0.0);
        empty = largest <= 0.0;
      }
      if (empty) {
        std::fill_n(out + k * pixels, pixels, false);
      } else {
        channels.push_back({map, out + k * pixels, level});
      }
    }

    const auto count = static_cast<std::int64_t>(channels.size());
    parallel_for(number_of_tiles(count), inner_threads, [&](std::int64_t t) {
      Tile<T> tile(channels.data() + t * lanes, std::min<std::int64_t>(lanes, count - t * lanes),
                   read, p);
      if (!tile.snap()) all_finite = false;
    });
  });
  return all_finite;
}

#define CUEKIT_INSTANTIATE(T) \
  template bool snap_masks(const T*, const std::uint8_t*, bool*, const SnapMasksParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
