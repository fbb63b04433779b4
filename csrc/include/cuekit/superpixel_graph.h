// The graph of superpixels of one image: which ones touch, and what each one is.
//
//   superpixels (H, W) -> labels (H, W): 0..S-1, in the order of the given labels; -1 stays
//
//   edges    pairs i < j of superpixels with pixels side by side or one below the other, sorted
//   lengths  of each edge: the number of such pairs of pixels
//   nodes    of each superpixel: its first pixel in raster order, its number of pixels, how many of
//            them are at the image's border, and the sums of their rows and of their columns
//
// Pixels in no superpixel (superpixels_view.h) touch nothing.
//
//   colours(i) = mean of L*a*b* (rgb_to_lab.h) over superpixel i
//   table(k, i) = mean of channel k over superpixel i, as superpixel_mean.h
//
// Sums of colours are float64, in raster order.
//
// Public functions: cuekit.superpixel_graph, and the methods of its result.
#pragma once

#include <cstdint>

#include "cuekit/context.h"
#include "cuekit/superpixel_mean.h"
#include "cuekit/superpixels_view.h"

namespace cuekit {

struct SuperpixelGraphParams {
  std::int64_t height, width;
};

constexpr int node_columns = 5;

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// The arrays have room for as many superpixels as pixels, and for as many edges as pairs of pixels.
void superpixel_graph(const SuperpixelsView& superpixels,  // (1, H, W)
                      std::int32_t* labels,                // (H, W)
                      std::int64_t* counts,                // (2): S and the number of edges
                      std::int32_t* edges,                 // (H (W - 1) + W (H - 1), 2)
                      std::int64_t* lengths,               // (H (W - 1) + W (H - 1))
                      std::int64_t* nodes,                 // (H W, 5)
                      const SuperpixelGraphParams& p, Context& context);

void superpixel_colours(const std::uint8_t* image,   // (H, W, 3)
                        const std::int32_t* labels,  // (H, W)
                        double* colours,             // (S, 3)
                        std::int64_t superpixels, const SuperpixelGraphParams& p, Context& context);

// Returns false if a sum is not finite.
template <class T>
bool superpixel_table(const T* values,             // (K, H, W)
                      const std::int32_t* labels,  // (H, W)
                      mean_type<T>* table,         // (K, S)
                      std::int64_t channels, std::int64_t superpixels,
                      const SuperpixelGraphParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
