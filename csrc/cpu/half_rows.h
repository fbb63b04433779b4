// Rows of float16, converted: an op that computes in float32 or float64 needs no other code for it.
#pragma once

#include <cstdint>

#include "cuekit/half.h"

namespace cuekit::cpu {

// Exact.
void widen(const half* source,  // (count)
           std::int64_t count,
           float* target);  // (count)

// Rounded once.
void narrow(const float* source,  // (count)
            std::int64_t count,
            half* target);         // (count)
void narrow(const double* source,  // (count)
            std::int64_t count,
            half* target);  // (count)

}  // namespace cuekit::cpu
