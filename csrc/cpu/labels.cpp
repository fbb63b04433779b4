#include "cuekit/labels.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels labelled at a time: the labels stay in the L1 cache while the channels stream past.
constexpr std::int64_t tile_size = 8192;

// Foreground channels, so that painting them in this order leaves the smallest on top: from most to
// fewest pixels, equal ones from higher to lower index.
std::vector<std::int64_t> painting_order(const std::uint8_t* cues, const LabelsParams& p) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(p.channels));
  for (std::int64_t k = 1; k < p.channels; ++k) {
    const std::uint8_t* map = cues + k * p.pixels;
    counts[static_cast<std::size_t>(k)] =
        p.pixels - std::count(map, map + p.pixels, std::uint8_t{0});
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(p.channels - 1));
  std::iota(order.rbegin(), order.rend(), std::int64_t{1});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return counts[static_cast<std::size_t>(a)] > counts[static_cast<std::size_t>(b)];
  });
  return order;
}

struct PaintTile {
  template <class L>
  static CUEKIT_INLINE void run(const std::uint8_t* cues, const std::int64_t* order,
                                const std::int64_t* classes, const LabelsParams* p,
                                std::int64_t count, L* out) {
    std::uint8_t claims[tile_size] = {};  // foreground classes at the pixel: 0, 1, or 2 for more
    std::fill_n(out, count, static_cast<L>(p->unknown));
    for (std::int64_t j = 0; j < p->channels - 1; ++j) {
      const std::uint8_t* map = cues + order[j] * p->pixels;
      const L label = static_cast<L>(classes[order[j]]);
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = map[i] != 0 ? label : out[i];
        const std::uint8_t more = static_cast<std::uint8_t>(claims[i] + (map[i] != 0 ? 1 : 0));
        claims[i] = more > 2 ? 2 : more;
      }
    }
    if (p->overlap == ForegroundOverlap::ignore) {
      for (std::int64_t i = 0; i < count; ++i)
        out[i] = claims[i] > 1 ? static_cast<L>(ignore_label) : out[i];
    }
    const L background = static_cast<L>(classes[0]);
    const bool both_ignored = p->background_overlap == BackgroundOverlap::ignore;
    const bool foreground_first = p->background_overlap == BackgroundOverlap::foreground;
    for (std::int64_t i = 0; i < count; ++i) {
      const bool claimed = claims[i] != 0;
      const L contested = foreground_first ? out[i]
                          : both_ignored   ? static_cast<L>(ignore_label)
                                           : background;
      out[i] = cues[i] == 0 ? out[i] : claimed ? contested : background;
    }
  }
};

}  // namespace

template <class L>
void labels(const std::uint8_t* cues, const std::int64_t* classes, L* out, const LabelsParams& p,
            Context& context) {
  const std::int64_t tiles = (p.pixels + tile_size - 1) / tile_size;
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const std::uint8_t* image = cues + b * p.channels * p.pixels;
    const std::vector<std::int64_t> order = painting_order(image, p);
    parallel_for(tiles, inner_threads, [&](std::int64_t t) {
      const std::int64_t begin = t * tile_size;
      dispatch<PaintTile>(image + begin, order.data(), classes, &p,
                          std::min(tile_size, p.pixels - begin), out + b * p.pixels + begin);
    });
  });
}

template void labels(const std::uint8_t*, const std::int64_t*, std::uint8_t*, const LabelsParams&,
                     Context&);
template void labels(const std::uint8_t*, const std::int64_t*, std::int32_t*, const LabelsParams&,
                     Context&);

}  // namespace cuekit::cpu
