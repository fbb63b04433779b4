// snap_masks: which masks each channel accepts, and the union of these masks.
//
// Masks are mostly empty, so they are read once, into spans (runs of covered pixels) that lie row
// by row; every later step costs what the masks cover and not R times the image. Channels that are
// on somewhere are taken in blocks of 8:
//   each row of the cues is resized: one byte per pixel, a bit for each channel (the input), and
//     the values, interleaved, for means of floating maps;
//   counts under a span are one difference of prefix sums, whatever its length; values are added
//     one by one;
//   a mask's decision is one byte, a bit for each channel; painting combines these bytes by OR in
//     the pixels of the mask's spans, then extracts each channel's bit.
#include "cuekit/snap_masks.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "cuekit/half.h"
#include "mask_spans.h"
#include "parallel.h"
#include "simd.h"
#include "snap_steps.h"

namespace cuekit::cpu {
namespace {

// The masks of one image.
struct Masks {
  std::vector<Spans> rows;              // (H)
  std::vector<std::uint8_t> uncovered;  // (H, W): 0xff where no mask covers the pixel, else 0
  std::vector<double> sizes;            // (R): pixels
};

Masks read_masks(const std::uint8_t* masks,  // (R, H, W)
                 const SnapMasksParams& p, int threads) {
  Masks result{read_spans(masks, p.masks, p.height, p.width, threads),
               std::vector<std::uint8_t>(p.height * p.width, std::uint8_t{0xff}),
               std::vector<double>(p.masks)};
  auto row = result.uncovered.begin();
  for (const Spans& spans : result.rows) {
    for (const Span& span : spans) {
      result.sizes[span.mask] += span.end - span.begin;
      std::fill(row + span.begin, row + span.end, std::uint8_t{0});
    }
    row += p.width;
  }
  return result;
}

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

// The rule sepl.
void accept_by_overlap(const Masks& masks,
                       const Count* counts,  // (R, 8): pixels of the input under each mask
                       const Count* totals,  // (8): pixels of the input
                       std::uint8_t* on) {   // (R): one bit per channel
  for (std::size_t r = 0; r < masks.sizes.size(); ++r) {
    const auto size = static_cast<std::int64_t>(masks.sizes[r]);
    unsigned bits = 0;
    for (int j = 0; j < channels_per_block; ++j) {
      const std::int64_t both = counts[r * channels_per_block + j];
      const std::int64_t total = totals[j];
      const bool accepted = 2 * both > size || (total > 0 && 20 * both >= 17 * total);
      bits |= static_cast<unsigned>(accepted) << j;
    }
    on[r] = static_cast<std::uint8_t>(bits);
  }
}

// Returns false where a mean is not finite.
bool snap_block(const ChannelBlock& block, const Masks& masks, const Resizing& resizing,
                const SnapMasksParams& p,
                bool* out) {  // (K, H, W)
  // Bool cues, and the rule sepl, need counts of pixels; means of floating maps need sums.
  const bool counting = !block.floating() || p.accept == MaskRule::sepl;
  std::vector<Count> counts(counting ? p.masks * channels_per_block : 0);
  std::vector<Count> before(counting ? (p.width + 1) * channels_per_block : 0);
  std::vector<double> sums(counting ? 0 : p.masks * channels_per_block);
  Count totals[channels_per_block] = {};
  std::vector<std::uint8_t> bits(p.height * p.width);  // the input, later the output
  double level[channels_per_block];
  block.read_levels(level);
  NearestRows nearest(block, resizing);
  BilinearRows bilinear(block, resizing);
  for (std::int64_t y = 0; y < p.height; ++y) {
    std::uint8_t* const row = bits.data() + y * p.width;
    const Spans& spans = masks.rows[y];
    bool changed = true;
    if (block.floating()) {
      const double* const values = bilinear.values(y);
      bits_above(values, p.width, level, row);
      if (!counting)
        dispatch<AddValues>(spans.data(), spans.data() + spans.size(), values, sums.data());
    } else {
      changed = nearest.move_to(y);
      if (changed)
        nearest.read(row);
      else
        std::copy_n(row - p.width, p.width, row);
    }
    if (counting) {
      if (changed) prefix_sums(row, p.width, before.data());
      add_counts(spans, before.data(), p.width, counts.data(), totals);
    }
  }
  std::vector<std::uint8_t> on(p.masks);  // one bit per channel
  bool finite = true;
  if (p.accept == MaskRule::sepl) {
    accept_by_overlap(masks, counts.data(), totals, on.data());
  } else {
    if (counting) sums.assign(counts.begin(), counts.end());
    finite = decide(masks.sizes.data(), p.masks, p.threshold, sums.data(), on.data());
  }
  for (std::int64_t y = 0; y < p.height; ++y) {
    const Spans& spans = masks.rows[y];
    dispatch<PaintRow>(spans.data(), spans.data() + spans.size(), std::as_const(on).data(),
                       masks.uncovered.data() + y * p.width, p.width, bits.data() + y * p.width);
  }
  select_bits(bits.data(), p.height * p.width, block, out, p.height * p.width, 0);
  return finite;
}

bool snap_masks(const Maps& cues,           // (B, K, h, w)
                const std::uint8_t* masks,  // (B, R, H, W)
                bool* out,                  // (B, K, H, W)
                const SnapMasksParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const Resizing resizing = resizing_of(p.in_height, p.in_width, p.height, p.width);
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const Masks image_masks = read_masks(masks + b * p.masks * pixels, p, inner_threads);

    // Most photos contain few of the classes: channels that are positive nowhere are only cleared.
    bool* const image_out = out + b * p.channels * pixels;
    Channels channels{cues.type, {}};
    for (std::int64_t k = 0; k < p.channels; ++k) {
      const MapSummary map = cues.summarize(b * p.channels + k);
      if (!map.finite) all_finite = false;
      if (map.largest > 0.0)
        channels.channels.push_back(
            {cues.map(b * p.channels + k), std::max(p.threshold * map.largest, 0.0), k});
      else
        std::fill_n(image_out + k * pixels, pixels, false);
    }

    parallel_for(channels.blocks(), inner_threads, [&](std::int64_t i) {
      if (!snap_block(channels.block(i), image_masks, resizing, p, image_out)) all_finite = false;
    });
  });
  return all_finite;
}

}  // namespace

template <class T>
bool snap_masks(const T* cues, const std::uint8_t* masks, bool* out, const SnapMasksParams& p,
                Context& context) {
  return snap_masks(maps_of(cues, p.in_height * p.in_width), masks, out, p, context);
}

#define CUEKIT_INSTANTIATE(T) \
  template bool snap_masks(const T*, const std::uint8_t*, bool*, const SnapMasksParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
