// The colours of some pixels in CIE L*a*b* (cuekit/rgb_to_lab.h), as three planes of float64.
#pragma once

#include <cstdint>

namespace cuekit::cpu {

// Pixels that are converted at a time, so that what is between the steps stays in L1.
constexpr std::int64_t lab_chunk = 256;

// `count` is at most `pitch`.
void find_lab(const std::uint8_t* image,  // (count, 3)
              std::int64_t count, std::int64_t pitch,
              double* planes);  // (3, pitch), of which (3, count)

}  // namespace cuekit::cpu
