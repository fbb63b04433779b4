// Steps that snap and snap_masks share. A region is a superpixel or a mask; channels come in blocks
// of 8.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuekit/half.h"
#include "cuekit/resize.h"
#include "lanes.h"
#include "simd.h"
#include "superpixels.h"

namespace cuekit::cpu {

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
