// labels: cues painted one over the other.
//
// Foreground channels are painted in an order in which the one that must win comes last; a counter
// for each pixel says whether the foreground claims it never, once or more often, which decides
// overlaps. A tile of pixels stays in L1 while the channels stream past, and all selections are
// arithmetic, without branches, so that the loops vectorise.
#include "cuekit/labels.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels in a tile. Their labels and counters stay in L1 while the channels stream past.
constexpr std::int64_t tile_size = 8192;

// The foreground channels from most to fewest pixels, equal ones from higher to lower index:
// painted in this order, the smallest one wins.
std::vector<std::int64_t> painting_order(const std::uint8_t* cues,  // (K, N)
                                         const LabelsParams& p) {
  std::vector<std::int64_t> counts(p.channels);
  for (std::int64_t k = 1; k < p.channels; ++k) {
    const std::uint8_t* map = cues + k * p.pixels;
    counts[k] = p.pixels - std::count(map, map + p.pixels, std::uint8_t{0});
  }
  std::vector<std::int64_t> order(p.channels - 1);
  std::iota(order.rbegin(), order.rend(), std::int64_t{1});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return counts[a] > counts[b]; });
  return order;
}

struct PaintTile {
  template <class L>
  static CUEKIT_INLINE void run(const std::uint8_t* cues,       // (K, N), of which (K, count)
                                const std::int64_t* order,      // (K - 1)
                                const std::int64_t* class_ids,  // (K)
                                const LabelsParams* p, std::int64_t count,
                                L* out) {  // (count)
    // Foreground channels that are on at the pixel: 0, 1, or 2 for more than one.
    std::uint8_t claims[tile_size] = {};
    std::fill_n(out, count, static_cast<L>(p->unknown));
    for (std::int64_t j = 0; j < p->channels - 1; ++j) {
      const std::uint8_t* map = cues + order[j] * p->pixels;
      const L label = static_cast<L>(class_ids[order[j]]);
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = map[i] != 0 ? label : out[i];
        const std::uint8_t more = static_cast<std::uint8_t>(claims[i] + (map[i] != 0 ? 1 : 0));
        claims[i] = more > 2 ? 2 : more;
      }
    }
    if (p->overlap == ForegroundOverlap::ignore) {
      for (std::int64_t i = 0; i < count; ++i)
        out[i] = claims[i] > 1 ? static_cast<L>(p->ignore) : out[i];
    }
    const L background = static_cast<L>(class_ids[0]);
    if (p->background_overlap == BackgroundOverlap::foreground) {
      for (std::int64_t i = 0; i < count; ++i) {
        const bool paints = (cues[i] != 0) & (claims[i] == 0);
        out[i] = paints ? background : out[i];
      }
    } else {
      const L contested = p->background_overlap == BackgroundOverlap::ignore
                              ? static_cast<L>(p->ignore)
                              : background;
      for (std::int64_t i = 0; i < count; ++i) {
        const L label = claims[i] != 0 ? contested : background;
        out[i] = cues[i] != 0 ? label : out[i];
      }
    }
  }
};

}  // namespace

template <class L>
void labels(const std::uint8_t* cues,       // (B, K, N)
            const std::int64_t* class_ids,  // (K)
            L* out,                         // (B, N)
            const LabelsParams& p, Context& context) {
  const std::int64_t tiles = (p.pixels + tile_size - 1) / tile_size;
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const std::uint8_t* image = cues + b * p.channels * p.pixels;
    const std::vector<std::int64_t> order = painting_order(image, p);
    parallel_for(tiles, inner_threads, [&](std::int64_t t) {
      const std::int64_t begin = t * tile_size;
      dispatch<PaintTile>(image + begin, order.data(), class_ids, &p,
                          std::min(tile_size, p.pixels - begin), out + b * p.pixels + begin);
    });
  });
}

template void labels(const std::uint8_t*, const std::int64_t*, std::uint8_t*, const LabelsParams&,
                     Context&);
template void labels(const std::uint8_t*, const std::int64_t*, std::int32_t*, const LabelsParams&,
                     Context&);

}  // namespace cuekit::cpu
