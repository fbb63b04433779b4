// The loops of mask_spans.h.
#include "mask_spans.h"

#include <algorithm>
#include <cstring>

#include "interrupt.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// The next 8 pixels as one number, the first pixel as its lowest byte. Compilers make one load of
// it.
CUEKIT_INLINE std::uint64_t load_word(const std::uint8_t* mask) {
  std::uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= std::uint64_t{mask[i]} << (8 * i);
  return word;
}

// The first 8 pixels from x on with a covered one among them, or the pixels after the last whole
// 8. Larger blocks are tried first, because most of a mask is empty.
struct SkipEmpty {
  static CUEKIT_INLINE void run(const std::uint8_t* mask,  // (pixels)
                                std::int64_t pixels, std::int64_t* x) {
    *x = skip<8>(mask, pixels, skip<64>(mask, pixels, skip<512>(mask, pixels, *x)));
  }

 private:
  template <int block>
  static CUEKIT_INLINE std::int64_t skip(const std::uint8_t* mask,  // (pixels)
                                         std::int64_t pixels, std::int64_t x) {
    for (; x + block <= pixels; x += block) {
      std::uint64_t any = 0;
      CUEKIT_UNROLL
      for (int i = 0; i < block; i += 8) {
        std::uint64_t word;
        std::memcpy(&word, mask + x + i, sizeof word);
        any |= word;
      }
      if (any != 0) break;
    }
    return x;
  }
};

// The first pixel from x on that the mask covers, or `pixels`.
std::int64_t next_covered(const std::uint8_t* mask,  // (pixels)
                          std::int64_t x, std::int64_t pixels) {
  dispatch<SkipEmpty>(mask, pixels, &x);
  // A loop over these 8 pixels would end at an unpredictable branch. The top bit is set because the
  // caller's other threads may have cleared the mask meanwhile.
  constexpr std::uint64_t top_bit = std::uint64_t{1} << 63;
  if (x + 8 <= pixels) return x + lowest_bit(load_word(mask + x) | top_bit) / 8;
  while (x < pixels && mask[x] == 0) ++x;
  return x;
}

// Rows that one task reads, so that it reads a contiguous part of each mask.
constexpr std::int64_t band_height = 32;

// Adds the spans of rows [first, last) of one mask, in raster order. Empty rows are skipped
// together.
void add_spans(const std::uint8_t* mask,  // (H, W)
               std::int64_t r, std::int64_t first, std::int64_t last, std::int64_t width,
               Spans* rows) {  // (H)
  const std::int64_t pixels = last * width;
  for (std::int64_t i = next_covered(mask, first * width, pixels); i < pixels;) {
    const std::int64_t y = i / width, row = y * width;
    const void* zero = std::memchr(mask + i, 0, row + width - i);
    const std::int64_t end = zero ? static_cast<const std::uint8_t*>(zero) - mask : row + width;
    rows[y].push_back(
        {r, static_cast<std::int32_t>(i - row), static_cast<std::int32_t>(end - row)});
    i = next_covered(mask, end, pixels);
  }
}

struct AddCounts {
  static CUEKIT_INLINE void run(const Span* span, const Span* end,
                                const Count* before,  // (width + 1, 8)
                                std::int64_t width,
                                Count* counts,    // (R, 8)
                                Count* totals) {  // (8): pixels under a mask or not
    (Lanes<Count>::load(totals) + Lanes<Count>::load(before + width * channels_per_block))
        .store(totals);
    for (; span != end; ++span) {
      Count* count = counts + span->mask * channels_per_block;
      (Lanes<Count>::load(count) +
       Lanes<Count>::load(before + span->end * std::int64_t{channels_per_block}) -
       Lanes<Count>::load(before + span->begin * std::int64_t{channels_per_block}))
          .store(count);
    }
  }
};

}  // namespace

std::vector<Spans> read_spans(const std::uint8_t* masks, std::int64_t count, std::int64_t height,
                              std::int64_t width, int threads) {
  std::vector<Spans> rows(height);
  // One thread reads every mask from the first to the last row, in the order of memory.
  const std::int64_t band = threads > 1 ? band_height : std::max<std::int64_t>(1, height);
  parallel_for((height + band - 1) / band, threads, [&](std::int64_t i) {
    const std::int64_t begin = i * band, end = std::min(height, begin + band);
    PollAfterWork poll_after;
    for (std::int64_t r = 0; r < count; ++r) {
      add_spans(masks + r * height * width, r, begin, end, width, rows.data());
      poll_after((end - begin) * width);
    }
  });
  return rows;
}

void add_counts(const Spans& spans, const Count* before, std::int64_t width, Count* counts,
                Count* totals) {
  dispatch<AddCounts>(spans.data(), spans.data() + spans.size(), before, width, counts, totals);
}

}  // namespace cuekit::cpu
