// The mean of every channel over every superpixel, painted back.
//
//   values (B, K, H, W), superpixels (B, H, W) -> out (B, K, H, W)
//   out(k, n) = sum over n' with s(n') = s(n) of values(k, n') / number of such n'
//   out(k, n) = values(k, n) where n is in no superpixel (superpixels_view.h)
//
// Sums are float64, in raster order within a superpixel, so that every backend gives the same bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuekit/context.h"
#include "cuekit/half.h"
#include "cuekit/superpixels_view.h"

namespace cuekit {

// The type of the means: float32 for integers and bools, else the type of the values.
template <class T>
using mean_type = std::conditional_t<std::is_integral_v<T> || std::is_same_v<T, flag>, float, T>;

struct SuperpixelMeanParams {
  std::int64_t batch;
  std::int64_t channels;  // K
  std::int64_t height, width;
  std::int64_t num_superpixels;  // superpixel labels are below it
};

}  // namespace cuekit

namespace cuekit::CUEKIT_BACKEND {

// T is any integer or floating type, or flag. Returns false if a value is not finite; a GPU does
// not check.
template <class T>
bool superpixel_mean(const T* values,                     // (B, K, H, W)
                     const SuperpixelsView& superpixels,  // (B, H, W)
                     mean_type<T>* out,                   // (B, K, H, W)
                     const SuperpixelMeanParams& p, Context& context);

}  // namespace cuekit::CUEKIT_BACKEND
