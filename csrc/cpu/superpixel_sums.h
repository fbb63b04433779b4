// The sums of 8 channels over every superpixel, for superpixel_mean and superpixel_table.
#pragma once

#include <cstdint>
#include <vector>

#include "any_type.h"
#include "superpixels.h"

namespace cuekit::cpu {

// The sums of a block of at most 8 channels, (rows(), 8), added in raster order; those of missing
// channels have no meaning.
std::vector<double> sums_of_block(const Source& values,  // (channels, pixels)
                                  std::int64_t channels, const SuperpixelRuns& superpixels,
                                  std::int64_t pixels);

}  // namespace cuekit::cpu
