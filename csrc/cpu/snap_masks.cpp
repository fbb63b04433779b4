// snap_masks: which masks each channel accepts, and the union of these masks.
//
// Masks are mostly empty, so they are read once, into spans (runs of covered pixels) that lie row
// by row; every later step costs what the masks cover and not R times the image. Channels that are
// on somewhere are taken in blocks of 8:
//   each row of the cues is resized: one byte per pixel with a bit for each channel (the input)
//   and,
//     for means of floating maps, the values, interleaved;
//   counts under a span are one difference of prefix sums, whatever its length; values are added
//   one
//     by one;
//   a mask's decision is one byte, a bit for each channel; painting combines these bytes by OR in
//     the pixels of the mask's spans, then extracts each channel's bit.
#include "cuekit/snap_masks.h"

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "mask_spans.h"
#include "parallel.h"
#include "snap_steps.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

// The masks of one image.
struct Masks {
  std::vector<std::vector<Span>> rows;  // (H): spans ordered by mask, then from left to right
  std::vector<std::uint8_t> uncovered;  // (H, W): 0xff where no mask covers the pixel, else 0
  std::vector<double> sizes;            // (R): pixels
};

Masks read_masks(const std::uint8_t* masks,  // (R, H, W)
                 const SnapMasksParams& p, int threads) {
  const std::int64_t pixels = p.height * p.width;
  Masks result;
  result.rows.resize(p.height);
  result.uncovered.assign(pixels, std::uint8_t{0xff});
  result.sizes.resize(p.masks);
  parallel_for((p.height + band_height - 1) / band_height, threads, [&](std::int64_t band) {
    const std::int64_t end = std::min(p.height, (band + 1) * band_height);
    for (std::int64_t r = 0; r < p.masks; ++r) {
      for_each_span(masks + r * pixels, band * band_height, end, p.width,
                    [&](std::int64_t y, std::int32_t begin, std::int32_t stop) {
                      result.rows[y].push_back({r, begin, stop});
                      std::fill_n(result.uncovered.begin() + y * p.width + begin, stop - begin,
                                  std::uint8_t{0});
                    });
    }
  });
  for (const auto& row : result.rows)
    for (const Span& span : row) result.sizes[span.mask] += span.end - span.begin;
  return result;
}

// One channel that is on somewhere.
template <class T>
struct Channel {
  const T* map;  // (h, w)
  bool* out;     // (H, W)
  double level;  // floating maps: the input is on above it
};

// Adds the values of one row's spans to their masks.
struct AddValues {
  static CUEKIT_INLINE void run(const Span* span, const Span* end,
                                const double* values,  // (width, 8)
                                double* sums) {        // (R, 8)
    for (; span != end; ++span) {
      double* sum = sums + span->mask * channels_per_block;
      auto partial = Lanes<double>::load(sum);
      for (std::int64_t x = span->begin; x < span->end; ++x)
        partial = partial + Lanes<double>::load(values + x * channels_per_block);
      partial.store(sum);
    }
  }
};

// The output of one row: the accepted masks' union; the input where no mask covers the pixel.
struct PaintRow {
  static CUEKIT_INLINE void run(const Span* span, const Span* end,
                                const std::uint8_t* on,         // (R): one bit per channel
                                const std::uint8_t* uncovered,  // (width)
                                std::int64_t width,
                                std::uint8_t* __restrict bits) {  // (width): input, then output
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
  static CUEKIT_INLINE void run(const std::uint8_t* bits,  // (pixels)
                                std::uint8_t bit, std::int64_t pixels,
                                bool* out) {  // (pixels)
    select_bit(bits, bit, pixels, reinterpret_cast<std::uint8_t*>(out));
  }
};

// One block of at most 8 channels of one image.
template <class T>
class ChannelBlock {
 public:
  ChannelBlock(const Channel<T>* channels,  // (count)
               std::int64_t count, const Masks& masks, const SnapMasksParams& p)
      : channels_(channels),
        count_(count),
        masks_(masks),
        p_(p),
        zeros_(p.in_width),
        bits_(p.height * p.width),
        counts_(counts() ? p.masks * channels_per_block : 0),
        sums_(counts() ? 0 : p.masks * channels_per_block) {}

  // Returns false where a mean is not finite.
  bool snap() {
    if constexpr (std::is_integral_v<T>) {
      read_nearest();
    } else {
      read_bilinear();
    }
    std::vector<std::uint8_t> on(p_.masks);  // one bit per channel
    bool finite = true;
    if (p_.accept == MaskRule::sepl) {
      accept_by_overlap(on.data());
    } else if (counts()) {
      accept_by_mean(counts_, on.data(), &finite);
    } else {
      accept_by_mean(sums_, on.data(), &finite);
    }
    for (std::int64_t y = 0; y < p_.height; ++y) {
      dispatch<PaintRow>(spans_begin(y), spans_end(y), on.data(),
                         masks_.uncovered.data() + y * p_.width, p_.width,
                         bits_.data() + y * p_.width);
    }
    for (std::int64_t j = 0; j < count_; ++j) {
      dispatch<SelectBit>(bits_.data(), static_cast<std::uint8_t>(1u << j), p_.height * p_.width,
                          channels_[j].out);
    }
    return finite;
  }

 private:
  // Bool cues, and the rule sepl, need counts of pixels; means of floating maps need sums.
  bool counts() const { return std::is_integral_v<T> || p_.accept == MaskRule::sepl; }

  template <class Sum>
  void accept_by_mean(const std::vector<Sum>& sums,  // (R, 8)
                      std::uint8_t* on,              // (R): one bit per channel
                      bool* finite) const {
    std::vector<double> means(sums.size());
    dispatch<Decide>(sums.data(), masks_.sizes.data(), p_.masks, p_.threshold, means.data(), on,
                     finite);
  }

  void accept_by_overlap(std::uint8_t* on) const {  // (R): one bit per channel
    for (std::int64_t r = 0; r < p_.masks; ++r) {
      const auto size = static_cast<std::int64_t>(masks_.sizes[r]);
      unsigned bits = 0;
      for (int j = 0; j < channels_per_block; ++j) {
        const std::int64_t both = counts_[r * channels_per_block + j];
        const std::int64_t total = totals_[j];
        const bool accepted = 2 * both > size || (total > 0 && 20 * both >= 17 * total);
        bits |= static_cast<unsigned>(accepted) << j;
      }
      on[r] = static_cast<std::uint8_t>(bits);
    }
  }

  const Span* spans_begin(std::int64_t y) const { return masks_.rows[y].data(); }
  const Span* spans_end(std::int64_t y) const { return spans_begin(y) + masks_.rows[y].size(); }

  // Row y of each channel's map. Missing channels read zeros.
  void point_to_row(std::int64_t y, const T** rows) const {  // (8)
    for (int j = 0; j < channels_per_block; ++j)
      rows[j] = j < count_ ? channels_[j].map + y * p_.in_width : zeros_.data();
  }

  void read_nearest() {
    std::vector<std::int32_t> columns;
    for (std::int64_t x = 0; x < p_.width; ++x)
      columns.push_back(static_cast<std::int32_t>(nearest_source(x, p_.in_width, p_.width)));
    std::vector<std::uint8_t> cells(p_.in_width);
    std::vector<Count> before((p_.width + 1) * channels_per_block);
    std::int64_t current = -1;
    for (std::int64_t y = 0; y < p_.height; ++y) {
      std::uint8_t* bits = bits_.data() + y * p_.width;
      const std::int64_t source = nearest_source(y, p_.in_height, p_.height);
      if (source == current) {
        std::copy_n(bits - p_.width, p_.width, bits);
      } else {
        const T* rows[channels_per_block];
        point_to_row(source, rows);
        dispatch<NearestRow>(&rows[0], p_.in_width, std::as_const(columns).data(), p_.width,
                             cells.data(), bits);
        dispatch<PrefixSums>(bits, p_.width, before.data());
        current = source;
      }
      dispatch<AddCounts>(spans_begin(y), spans_end(y), before.data(), p_.width, counts_.data(),
                          &totals_[0]);
    }
  }

  void read_bilinear() {
    std::vector<BilinearTap> taps;
    for (std::int64_t x = 0; x < p_.width; ++x)
      taps.push_back(bilinear_tap(x, p_.in_width, p_.width));
    double level[channels_per_block] = {};
    for (std::int64_t j = 0; j < count_; ++j) level[j] = channels_[j].level;
    std::vector<T> pixels(2 * p_.in_width * channels_per_block);
    std::vector<double> columns(p_.in_width * channels_per_block);
    std::vector<double> values(p_.width * channels_per_block);
    std::vector<Count> before(counts() ? (p_.width + 1) * channels_per_block : 0);
    for (std::int64_t y = 0; y < p_.height; ++y) {
      std::uint8_t* bits = bits_.data() + y * p_.width;
      const BilinearTap row = bilinear_tap(y, p_.in_height, p_.height);
      const T *above[channels_per_block], *below[channels_per_block];
      point_to_row(row.low, above);
      point_to_row(row.high, below);
      dispatch<BilinearRow>(&above[0], &below[0], row.weight, p_.in_width,
                            std::as_const(taps).data(), p_.width, &level[0], pixels.data(),
                            columns.data(), values.data(), bits);
      if (counts()) {
        dispatch<PrefixSums>(bits, p_.width, before.data());
        dispatch<AddCounts>(spans_begin(y), spans_end(y), before.data(), p_.width, counts_.data(),
                            &totals_[0]);
      } else {
        dispatch<AddValues>(spans_begin(y), spans_end(y), values.data(), sums_.data());
      }
    }
  }

  const Channel<T>* channels_;
  std::int64_t count_;
  const Masks& masks_;
  const SnapMasksParams& p_;
  std::vector<T> zeros_;                   // (w)
  std::vector<std::uint8_t> bits_;         // (H, W): the input, later the output; bit per channel
  std::vector<Count> counts_;              // (R, 8): pixels of the input under each mask
  std::vector<double> sums_;               // (R, 8): values under each mask
  Count totals_[channels_per_block] = {};  // pixels of the input
};

}  // namespace

template <class T>
bool snap_masks(const T* cues,              // (B, K, h, w)
                const std::uint8_t* masks,  // (B, R, H, W)
                bool* out,                  // (B, K, H, W)
                const SnapMasksParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t in_pixels = p.in_height * p.in_width;
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const Masks image_masks = read_masks(masks + b * p.masks * pixels, p, inner_threads);

    // Most photos contain few of the classes: channels that are positive nowhere are only cleared.
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
        if (!can_interpolate(map, in_pixels)) all_finite = false;
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
    parallel_for(channel_blocks(count), inner_threads, [&](std::int64_t i) {
      const std::int64_t first = i * channels_per_block;
      ChannelBlock<T> block(channels.data() + first,
                            std::min<std::int64_t>(channels_per_block, count - first), image_masks,
                            p);
      if (!block.snap()) all_finite = false;
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
