// Graph-based superpixels (Felzenszwalb & Huttenlocher, IJCV 59, 2004,
// doi:10.1023/B:VISI.0000022288.19776.77), with the same labels as scikit-image 0.26.
//
//   photos (B, H, W, C) -> labels (B, H, W) int32, 0..S-1 by first appearance in raster order
//
//   1. uint8 is scaled by 1/255. A Gaussian filter smooths every channel, down the columns and then
//      along the rows, mirrored at the borders (d c b a | a b c d | d c b a). A filtered value is
//      w0 * x0 + sum over j = R..1 of (x-j + x+j) * wj, summed in this order.
//   2. The photo is a graph. A pixel has edges to its neighbours right, down, down right and up
//      right. The cost of an edge is the Euclidean distance of the two smoothed colours.
//   3. At first every pixel is a region. Edges are visited in ascending order of cost; edges of
//      equal cost by direction, in the order above, and then in raster order of their first pixels.
//      The two regions of an edge merge when
//        cost < min over both regions of float32(cost of the region's last merge + scale / size)
//      where size is in pixels, and the cost of the last merge is 0 for a single pixel.
//   4. All edges are visited again in the same order. The two regions of an edge merge when one of
//      them has fewer than min_size pixels.
//
// All arithmetic is in float64; only the threshold is rounded to float32 before the comparison.
//
// Public function: cuekit.felzenszwalb.
#pragma once

#include <cstdint>

#include "cuekit/context.h"

namespace cuekit {

struct FelzenszwalbParams {
  std::int64_t batch;
  std::int64_t height, width;
  std::int64_t channels;
  const double* weights;  // (R + 1), w0..wR of the Gaussian
  std::int64_t radius;    // R
  double scale;           // the scale of the Python function / 255
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
