// Emulates the part of CUB's radix sort that the kernels use, on the CPU; see ../../cuda_runtime.h.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* temporary, std::size_t& bytes, const Key* keys_in,
                               Key* keys_out, const Value* values_in, Value* values_out,
                               std::int64_t count, int begin_bit, int end_bit,
                               cudaStream_t = nullptr) {
    if (temporary == nullptr) {
      bytes = 1;
      return cudaSuccess;
    }
    const int bits = end_bit - begin_bit;
    const auto digits = [&](std::int64_t i) {
      const std::uint64_t key = static_cast<std::uint64_t>(keys_in[i]) >> begin_bit;
      return bits >= 64 ? key : key & ((std::uint64_t{1} << bits) - 1);
    };
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return digits(a) < digits(b); });
    for (std::int64_t i = 0; i < count; ++i) {
      keys_out[i] = keys_in[order[static_cast<std::size_t>(i)]];
      values_out[i] = values_in[order[static_cast<std::size_t>(i)]];
    }
    return cudaSuccess;
  }
};

}  // namespace cub
