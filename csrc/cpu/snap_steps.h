// Steps that snap and snap_masks share. A region is a superpixel or a mask; channels come in blocks
// of 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "finite.h"
#include "lanes.h"
#include "simd.h"
#include "superpixels.h"

namespace cuekit::cpu {

// Whether maps can be interpolated: all values are finite, and so are their differences, which in
// float64 holds below 2^1023.
template <class T>
bool can_interpolate([[maybe_unused]] const T* values,  // (count)
                     [[maybe_unused]] std::int64_t count) {
  if constexpr (std::is_integral_v<T>) {
    return true;
  } else if constexpr (std::is_same_v<T, double>) {
    // Adding 2 to an exponent of 2046, that of 2^1023, carries into the sign bit.
    constexpr std::uint64_t exponent = std::uint64_t{0x7ff} << 52, two = std::uint64_t{2} << 52;
    std::uint64_t seen = 0;
    for (std::int64_t i = 0; i < count; ++i)
      seen |= (bit_cast<std::uint64_t>(values[i]) & exponent) + two;
    return !any_nonfinite(seen);
  } else {
    return !any_nonfinite(nonfinite_bits(values, count));
  }
}

// The vertical half of bilinear resizing: two rows of the maps, weighted into one row that still
// has the maps' columns.
template <class T>
CUEKIT_INLINE void interpolate_rows(const T* const* above,  // 8 of (in_width)
                                    const T* const* below,  // 8 of (in_width)
                                    double weight, std::int64_t in_width,
                                    T* pixels,          // (2, in_width, 8): scratch
                                    double* columns) {  // (in_width, 8)
  T* lower = pixels + in_width * channels_per_block;
  interleave(above, in_width, pixels);
  interleave(below, in_width, lower);
  for (std::int64_t i = 0; i < in_width * channels_per_block; ++i)
    columns[i] = interpolate(load(pixels[i]), load(lower[i]), weight);
}

// The largest value, but at least 0.
struct Largest {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, double* largest) {
    constexpr int accumulators = 8;
    double best[accumulators] = {};
    std::int64_t i = 0;
    for (; i + accumulators <= count; i += accumulators) {
      for (int j = 0; j < accumulators; ++j) {
        const double value = load(values[i + j]);
        best[j] = best[j] < value ? value : best[j];
      }
    }
    for (; i < count; ++i) best[0] = std::max(best[0], load(values[i]));
    *largest = *std::max_element(best, best + accumulators);
  }
};

// One row of bool cues, resized to the regions' columns: one bit per channel.
struct NearestRow {
  static CUEKIT_INLINE void run(const std::uint8_t* const* rows,  // 8 of (in_width)
                                std::int64_t in_width,
                                const std::int32_t* columns,  // (width): columns of the cues
                                std::int64_t width,
                                std::uint8_t* cells,   // (in_width): scratch
                                std::uint8_t* bits) {  // (width)
    std::fill_n(cells, in_width, std::uint8_t{0});
    for (int j = 0; j < channels_per_block; ++j) {
      const auto bit = static_cast<std::uint8_t>(1u << j);
      for (std::int64_t c = 0; c < in_width; ++c)
        cells[c] = static_cast<std::uint8_t>(cells[c] | (rows[j][c] != 0 ? bit : 0));
    }
    for (std::int64_t x = 0; x < width; ++x) bits[x] = cells[columns[x]];
  }
};

// One row of floating maps, resized to the regions' columns, and the bits of the values above the
// channels' levels.
struct BilinearRow {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* above,  // 8 of (in_width)
                                const T* const* below,  // 8 of (in_width)
                                double weight, std::int64_t in_width,
                                const BilinearTap* taps,  // (width)
                                std::int64_t width,
                                const double* level,   // (8)
                                T* pixels,             // (2, in_width, 8): scratch
                                double* columns,       // (in_width, 8): scratch
                                double* values,        // (width, 8)
                                std::uint8_t* bits) {  // (width)
    interpolate_rows(above, below, weight, in_width, pixels, columns);
    for (std::int64_t x = 0; x < width; ++x) {
      const double* left = columns + taps[x].low * channels_per_block;
      const double* right = columns + taps[x].high * channels_per_block;
      unsigned on = 0;
      for (int j = 0; j < channels_per_block; ++j)
        values[x * channels_per_block + j] = interpolate(left[j], right[j], taps[x].weight);
      for (int j = 0; j < channels_per_block; ++j)
        on |= static_cast<unsigned>(values[x * channels_per_block + j] > level[j]) << j;
      bits[x] = static_cast<std::uint8_t>(on);
    }
  }
};

// Decides in which regions each channel is on: where its mean is above threshold * its largest
// mean, and above 0. Sums are pixel counts or sums of values.
struct Decide {
  template <class Sum>
  static CUEKIT_INLINE void run(const Sum* sums,      // (regions, 8)
                                const double* sizes,  // (regions): pixels
                                std::int64_t regions, double threshold,
                                double* means,     // (regions, 8): scratch
                                std::uint8_t* on,  // (regions): bit j is channel j of the block
                                bool* finite) {    // false where a mean is not finite
    double largest[channels_per_block] = {};
    double residue[channels_per_block] = {};  // x - x is 0 unless x is not finite
    for (std::int64_t s = 0; s < regions; ++s) {
      const double size = sizes[s] > 0.0 ? sizes[s] : 1.0;  // a region without pixels has mean 0
      for (int j = 0; j < channels_per_block; ++j) {
        const double mean = static_cast<double>(sums[s * channels_per_block + j]) / size;
        means[s * channels_per_block + j] = mean;
        residue[j] += mean - mean;
        largest[j] = largest[j] < mean ? mean : largest[j];
      }
    }
    double level[channels_per_block];
    *finite = true;
    for (int j = 0; j < channels_per_block; ++j) {
      level[j] = std::max(threshold * largest[j], 0.0);
      *finite = *finite && residue[j] == 0.0;
    }
    for (std::int64_t s = 0; s < regions; ++s) {
      unsigned bits = 0;
      for (int j = 0; j < channels_per_block; ++j)
        bits |= static_cast<unsigned>(means[s * channels_per_block + j] > level[j]) << j;
      on[s] = static_cast<std::uint8_t>(bits);
    }
  }
};

// row[i] = whether `bit`, the bit of one channel, is set in bytes[i].
CUEKIT_INLINE void select_bit(const std::uint8_t* __restrict bytes,  // (pixels)
                              std::uint8_t bit, std::int64_t pixels,
                              std::uint8_t* __restrict row) {  // (pixels)
  for (std::int64_t i = 0; i < pixels; ++i) {
    const auto masked = static_cast<std::uint8_t>(bytes[i] & bit);
    row[i] = masked < 1 ? masked : std::uint8_t{1};
  }
}

}  // namespace cuekit::cpu
