// How well each mask agrees with each class's map.
//
//   maps (B, C, h, w), masks (B, R, H, W) bool
//     -> area (B, R); mean, top_mean, inside and covered (B, R, C)
//
// Maps are resized to (H, W) as in resize.h: bool and uint8 (nonzero = 1) nearest, floating maps
// bilinear. With M the pixels of a mask, V the values of a map there, and P the map's cue, which is
// where it is nonzero (bool, uint8), or > threshold * its maximum and > 0 (floating maps):
//
//   area      |M|
//   mean      sum of V / |M|
//   top_mean  the mean of the n largest of V, with n = top_count(|M|, top)
//   inside    |M and P| / |M|
//   covered   |M and P| / |P|
//
// A quotient with denominator 0 is 0. The maximum is that of the map as it comes, as in snap.h.
//
// Counts are integers, exact in any order. Sums are float64, in an order that depends on the shapes
// and values only. The largest values are found exactly, not from a histogram.
//
// Public function: cuekit.mask_scores.
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/host_device.h"

namespace cuekit {

struct MaskScoresParams {
  std::int64_t batch;
  std::int64_t classes;              // C
  std::int64_t in_height, in_width;  // of the maps
  std::int64_t masks;                // R
  std::int64_t height, width;        // of the masks
  double threshold;                  // of the cue, relative to the map's maximum
  double top;                        // in (0, 1]: the share of a mask's pixels in top_mean
};

// top * area to the nearest integer, halves up, and at least 1. 0 for an empty mask.
CUEKIT_HD inline std::int64_t top_count(std::int64_t area, double top) {
  const auto count = static_cast<std::int64_t>(top * static_cast<double>(area) + 0.5);
  const std::int64_t at_least_one = count > 1 ? count : 1;
  return at_least_one < area ? at_least_one : area;
}

CUEKIT_HD inline double quotient(double numerator, std::int64_t denominator) {
  return denominator > 0 ? numerator / static_cast<double>(denominator) : 0.0;
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is std::uint8_t (nonzero = on) or a floating type. Returns false if a map has a value that is
// non-finite or at least 2^1023 in magnitude, or if a sum is infinite; a GPU does not check.
template <class T>
bool mask_scores(const T* maps,              // (B, C, h, w)
                 const std::uint8_t* masks,  // (B, R, H, W), nonzero = on
                 std::int64_t* area,         // (B, R)
                 double* mean,               // (B, R, C)
                 double* top_mean,           // (B, R, C), or null: not wanted
                 double* inside,             // (B, R, C)
                 double* covered,            // (B, R, C)
                 const MaskScoresParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
