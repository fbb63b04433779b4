// The spatial lattices of the last image sizes, kept between calls.
//
// A spatial lattice depends on the size, width and weight only. Training calls the CRF with one
// size again and again, and building the lattice costs as much as some iterations.
#pragma once

#include <cstdint>
#include <memory>

#include "lattice.h"

namespace cuekit::cpu {

// spatial_lattice(), from the cache if it is one of the last 4 different ones. The caller sets the
// default floating-point state (float_state.h), or later calls would see its own. All kept lattices
// together have at most 128 MB. Images of more than 2^20 pixels are not kept: their lattices take
// 25 to 60 MB and more each, and their sizes vary.
std::shared_ptr<const Lattice> kept_spatial_lattice(std::int64_t height, std::int64_t width,
                                                    float sxy, float weight, int threads);

}  // namespace cuekit::cpu
