// Graph-based superpixels (Felzenszwalb & Huttenlocher, IJCV 59, 2004,
// doi:10.1023/B:VISI.0000022288.19776.77), with the labels of scikit-image 0.26 bit by bit.
//
//   photos (B, H, W, C) -> labels (B, H, W) int32, 0..S-1 by first appearance in raster order
//
//   1. uint8 is scaled by 1/255; a Gaussian smooths every channel, down the columns and then along
//      the rows, mirrored at the borders (d c b a | a b c d | d c b a). A filtered value is
//      w0 * x0 + sum over j = R..1 of (x-j + x+j) * wj, in this order.
//   2. A pixel has an edge to its neighbour right, below, below right and, from the pixel below it,
//      to the one above right; its cost is the Euclidean distance of the smoothed colours.
//   3. Edges in ascending order of cost, equal costs in the order (direction, raster): the two
//      regions of an edge merge when
//        cost < min over both of float32(last cost merged + scale / 255 / size)
//   4. All edges again in that order: two regions merge when one has fewer than min_size pixels.
//
// Everything is float64 but the threshold, which is rounded to float32 where it is compared.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct FelzenszwalbParams {
  std::int64_t batch;
  std::int64_t height, width;
  std::int64_t channels;
  const double* weights;  // of the Gaussian, w0..wR
  std::int64_t radius;    // R
  double scale;
  std::int64_t min_size;
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is std::uint8_t or floating. Returns false where a photo holds a non-finite value.
template <class T>
bool felzenszwalb(const T* photos,            // (B, H, W, C)
                  std::int32_t* superpixels,  // (B, H, W)
                  const FelzenszwalbParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
