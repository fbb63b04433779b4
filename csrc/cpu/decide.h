// What snap and snap_masks share: which regions take a channel, by their means.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "simd.h"

namespace cuekit::cpu {

// Which of eight channels are on in a region, one bit each. Counts and sums alike become means
// here; false when one of them is not finite.
struct Decide {
  template <class Sum>
  static CUEKIT_INLINE void run(const Sum* sums, const double* sizes, std::int64_t regions,
                                double threshold, double* means, std::uint8_t* on, bool* finite) {
    double best[lanes] = {};
    double residue[lanes] = {};  // x - x is 0 unless x is not finite
    for (std::int64_t s = 0; s < regions; ++s) {
      const double size = sizes[s] > 0.0 ? sizes[s] : 1.0;  // regions without pixels: mean 0
      for (int j = 0; j < lanes; ++j) {
        const double mean = static_cast<double>(sums[s * lanes + j]) / size;
        means[s * lanes + j] = mean;
        residue[j] += mean - mean;
        best[j] = best[j] < mean ? mean : best[j];
      }
    }
    double level[lanes];
    *finite = true;
    for (int j = 0; j < lanes; ++j) {
      level[j] = std::max(threshold * best[j], 0.0);  // never where the mean is <= 0
      *finite = *finite && residue[j] == 0.0;
    }
    for (std::int64_t s = 0; s < regions; ++s) {
      unsigned bits = 0;
      for (int j = 0; j < lanes; ++j)
        bits |= static_cast<unsigned>(means[s * lanes + j] > level[j]) << j;
      on[s] = static_cast<std::uint8_t>(bits);
    }
  }
};

}  // namespace cuekit::cpu
