// Steps that snap_masks and mask_scores share. Masks are mostly empty, so they are read once, into
// spans (runs of covered pixels); every later step costs what the masks cover. Counts under a span
// are one difference of prefix sums, whatever its length. Channels come in blocks of 8.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "lanes.h"
#include "simd.h"

namespace cuekit::cpu {

// Counts of pixels. Integers, so exact in any order; an image has fewer than 2^31 pixels.
using Count = std::uint32_t;

// Consecutive pixels of one row that a mask covers, [begin, end).
struct Span {
  std::int64_t mask;
  std::int32_t begin, end;
};

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
inline std::int64_t next_covered(const std::uint8_t* mask,  // (pixels)
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

// Calls body(y, begin, end) for every span of rows [first, last) of a mask, in raster order. Empty
// rows are skipped together.
template <class Body>
void for_each_span(const std::uint8_t* mask,  // (H, W)
                   std::int64_t first, std::int64_t last, std::int64_t width, Body&& body) {
  const std::int64_t pixels = last * width;
  for (std::int64_t i = next_covered(mask, first * width, pixels); i < pixels;) {
    const std::int64_t y = i / width, row = y * width;
    const void* zero = std::memchr(mask + i, 0, row + width - i);
    const std::int64_t end = zero ? static_cast<const std::uint8_t*>(zero) - mask : row + width;
    body(y, static_cast<std::int32_t>(i - row), static_cast<std::int32_t>(end - row));
    i = next_covered(mask, end, pixels);
  }
}

// Whether any value is not 0.
struct AnyOn {
  static CUEKIT_INLINE void run(const std::uint8_t* values,  // (count)
                                std::int64_t count, bool* any) {
    std::uint8_t seen = 0;
    for (std::int64_t i = 0; i < count; ++i) seen = static_cast<std::uint8_t>(seen | values[i]);
    *any = seen != 0;
  }
};

// The bits of every byte as 8 counts.
constexpr std::array<std::array<Count, channels_per_block>, 256> bits_of_bytes = [] {
  std::array<std::array<Count, channels_per_block>, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte)
    for (unsigned j = 0; j < channels_per_block; ++j) table[byte][j] = byte >> j & 1u;
  return table;
}();

// Prefix sums of one row: before[x] is the number of pixels left of x that are on.
struct PrefixSums {
  static CUEKIT_INLINE void run(const std::uint8_t* bits,  // (width)
                                std::int64_t width,
                                Count* before) {  // (width + 1, 8)
    auto total = Lanes<Count>::zero();
    for (std::int64_t x = 0; x < width; ++x) {
      total.store(before + x * channels_per_block);
      total = total + Lanes<Count>::load(bits_of_bytes[bits[x]].data());
    }
    total.store(before + width * channels_per_block);
  }
};

// Adds the counts of one row's spans to their masks.
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

}  // namespace cuekit::cpu
