// Bilinear resizing of maps, by the convention of resize.h.
//
//   maps (M, h, w) -> out (M, H, W)
//
// Along rows first, then along columns, each as a + weight * (b - a), in float64; rounded once.
//
// Public function: cuekit.resize_maps.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct ResizeMapsParams {
  std::int64_t maps;  // M: images times channels
  std::int64_t in_height, in_width;
  std::int64_t out_height, out_width;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is floating. The sizes are at least 1. Differences of values do not overflow float64.
template <class T>
void resize_maps(const T* maps,  // (M, h, w)
                 T* out,         // (M, H, W)
                 const ResizeMapsParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
