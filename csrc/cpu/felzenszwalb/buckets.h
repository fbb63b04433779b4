// Buckets of nearly equal cost: the first stage of sorting edges by cost.
//
// A bucket holds the costs with the same exponent and the same leading bits of the mantissa, in the
// range of float32; lower costs fall into the first bucket, higher ones into the last. The bits of
// non-negative floating-point values order as the values do, so the bucket is a shift of the bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu::felzenszwalb_detail {

using Bucket = std::uint16_t;

struct Buckets {
  static constexpr int mantissa_bits = 6;
  // 255 exponents and not 256: the lowest cost of a bucket must be finite in float32.
  static constexpr std::int32_t count = 255 << mantissa_bits;
  // The number of low bits in which the costs of one bucket can differ; the first and the last
  // bucket hold costs outside of their range, too.
  static constexpr int free_bits = 52 - mantissa_bits;

  static CUEKIT_INLINE Bucket of(double cost) {
    const auto high = static_cast<std::uint32_t>(bit_cast<std::uint64_t>(cost) >> 32);
    const std::int32_t index = static_cast<std::int32_t>(high >> (20 - mantissa_bits)) - first;
    return static_cast<Bucket>(std::min(std::max(index, 0), count - 1));
  }

  // The bits of the lowest cost of a bucket. float32 represents this cost exactly.
  static std::uint64_t lowest_cost_bits(std::int64_t bucket) {
    return bucket == 0 ? 0 : static_cast<std::uint64_t>(first + bucket) << free_bits;
  }

  // Costs of any size fall into it.
  static bool is_unbounded(std::int64_t bucket) { return bucket == 0 || bucket == count - 1; }

 private:
  // The smallest exponent of float32, and mantissa bits of zero, as float64 stores them.
  static constexpr std::int32_t first = (1023 - 127) << mantissa_bits;
};

// Dropped edges get bucket numbers from Buckets::count on, chosen by direction and column. With a
// single such bucket, each dropped edge would read a counter that the one before has just written,
// a long chain of dependent loads and stores.
constexpr int dropped_buckets = 16;
CUEKIT_INLINE Bucket dropped_bucket(int direction, std::int64_t x) {
  return static_cast<Bucket>(Buckets::count + direction + 4 * (x & 3));
}

}  // namespace cuekit::cpu::felzenszwalb_detail
