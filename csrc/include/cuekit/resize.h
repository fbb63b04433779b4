// Resizing: the convention that every op uses, and the op that resizes cues.
//
// The convention is half-pixel centres (align_corners=False), no antialiasing, edges clamped. For
// pixel i of `out` pixels that are read from `in` pixels:
//   nearest:   source = floor((i + 1/2) * in / out), in integers
//   bilinear:  position = max((i + 1/2) * in / out - 1/2, 0); between floor(position) and the next
//
// The op: cues (M, h, w) bool -> out (M, H, W) bool. A pixel of the output is a cell that covers
// in/out source pixels in each direction. The unit of length is 1/out source pixels: a cell is `in`
// long and a source pixel is `out` long, so all areas are integers and nothing is rounded.
//   nearest:  the source pixel at the cell's centre is on
//   any:      some part of the cell is on
//   half:     2 * (area that is on) >= area of the cell
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/host_device.h"

namespace cuekit {

enum class ResizeRule : int { nearest, any, half };

struct ResizeParams {
  std::int64_t maps;  // M: images times channels
  std::int64_t in_height, in_width;
  std::int64_t out_height, out_width;
  ResizeRule rule;
};

CUEKIT_HD inline std::int64_t nearest_source(std::int64_t i, std::int64_t in, std::int64_t out) {
  return (2 * i + 1) * in / (2 * out);
}

// One cell of the output, in one direction.
struct Cell {
  std::int64_t begin, end;  // the source pixels that it covers, [begin, end)
  std::int64_t low, high;   // its ends, in units of 1/out source pixels
  std::int64_t out;

  // The length of source pixel i that lies in the cell.
  CUEKIT_HD std::int64_t length_of(std::int64_t i) const {
    const std::int64_t left = i * out, right = left + out;
    return (right < high ? right : high) - (left > low ? left : low);
  }
};

CUEKIT_HD inline Cell cell_of(std::int64_t i, std::int64_t in, std::int64_t out) {
  const std::int64_t low = i * in;
  const std::int64_t high = low + in;
  return {low / out, (high + out - 1) / out, low, high, out};
}

struct BilinearTap {
  std::int64_t low, high;
  double weight;  // of `high`
};

CUEKIT_HD inline BilinearTap bilinear_tap(std::int64_t i, std::int64_t in, std::int64_t out) {
  const double position =
      (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
  if (!(position > 0.0)) return {0, 0, 0.0};
  const std::int64_t floor = static_cast<std::int64_t>(position);
  const std::int64_t low = floor < in - 1 ? floor : in - 1;
  return {low, low < in - 1 ? low + 1 : low, position - static_cast<double>(low)};
}

// Not a * (1 - weight) + b * weight: this form gives exactly a where a = b.
CUEKIT_HD inline double interpolate(double a, double b, double weight) {
  // With weight 0 the result must not depend on b: b - a may overflow.
  return weight == 0.0 ? a : a + weight * (b - a);
}

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

void resize(const std::uint8_t* cues,  // (M, h, w), nonzero = on
            bool* out,                 // (M, H, W)
            const ResizeParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
