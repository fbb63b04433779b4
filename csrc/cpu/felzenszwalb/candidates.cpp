#include "candidates.h"

#include <algorithm>

#include "cpu/interrupt.h"
#include "cpu/simd.h"
#include "cuekit/half.h"

namespace cuekit::cpu::felzenszwalb_detail {
namespace {

// Within a bucket only the low bits of the costs differ. They, the direction and the index of the
// candidate fit into a key of 64 bits.
constexpr int index_bits = 16;
constexpr int direction_bits = 2;
constexpr int key_bits = Buckets::free_bits + direction_bits + index_bits;
constexpr std::int64_t max_keys = std::int64_t{1} << index_bits;

constexpr int max_radix_bits = 11;
constexpr std::uint32_t max_insertion_sort = 32;  // keys with the same leading bits

std::uint64_t bits_of(double cost) { return bit_cast<std::uint64_t>(cost); }

}  // namespace

Edge* Candidates::reserve(std::int64_t count) {
  selected_ = candidates_.room_for(count);
  return selected_;
}

const Edge* Candidates::sort(const Graph& graph, std::int64_t bucket, std::int64_t count) {
  Edge* const sorted = sorted_.room_for(count);
  if (Buckets::is_unbounded(bucket) || count > max_keys)
    sort_by_comparison(graph, count, sorted);
  else
    sort_by_key(graph, bucket, count, sorted);
  return sorted;
}

// Mostly for the many equal costs of photos with flat colours.
void Candidates::sort_by_comparison(const Graph& graph, std::int64_t count, Edge* sorted) const {
  Edge* end = sorted;
  for (std::int64_t d = 0; d < Direction::count; ++d)
    end = std::copy_if(selected_, selected_ + count, end,
                       [=](Edge edge) { return direction_of(edge) == d; });
  std::int64_t comparisons = 0;
  const auto cheaper = [&](Edge a, Edge b) {
    poll_sometimes(++comparisons);
    return bits_of(graph.cost(a)) < bits_of(graph.cost(b));
  };
  if (!std::is_sorted(sorted, end, cheaper)) std::stable_sort(sorted, end, cheaper);
}

// One pass of a radix sort over the leading bits, then an insertion sort.
void Candidates::sort_by_key(const Graph& graph, std::int64_t bucket, std::int64_t count,
                             Edge* sorted) {
  std::uint64_t* const unsorted = keys_.room_for(count);
  std::uint64_t* const keys = partly_sorted_keys_.room_for(count);
  const Edge* const candidates = selected_;
  // The costs are scattered in memory. Prefetching all of them first has more cache misses in
  // flight than loading them one by one.
  for (std::int64_t i = 0; i < count; ++i) prefetch(&graph.cost(candidates[i]), 1);
  const std::uint64_t lowest_cost = Buckets::lowest_cost_bits(bucket);
  for (std::int64_t i = 0; i < count; ++i) {
    const Edge edge = candidates[i];
    const std::uint64_t cost = bits_of(graph.cost(edge)) - lowest_cost;
    unsorted[i] = (cost << direction_bits | static_cast<std::uint64_t>(direction_of(edge)))
                      << index_bits |
                  static_cast<std::uint64_t>(i);
  }

  int radix_bits = 1;
  while (radix_bits < max_radix_bits && count >> radix_bits > 0) ++radix_bits;
  const int shift = key_bits - radix_bits;
  std::uint32_t begin[(1 << max_radix_bits) + 1];
  std::fill_n(begin, (1 << radix_bits) + 1, 0u);
  for (std::int64_t i = 0; i < count; ++i) ++begin[(unsorted[i] >> shift) + 1];
  std::uint32_t largest = 0;
  for (int digit = 0; digit < 1 << radix_bits; ++digit) {
    largest = std::max(largest, begin[digit + 1]);
    begin[digit + 1] += begin[digit];
  }
  for (std::int64_t i = 0; i < count; ++i) keys[begin[unsorted[i] >> shift]++] = unsorted[i];

  if (largest > max_insertion_sort) {
    if (!std::is_sorted(keys, keys + count)) std::sort(keys, keys + count);
  } else {
    for (std::int64_t i = 1; i < count; ++i) {
      const std::uint64_t key = keys[i];
      std::int64_t j = i;
      for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1];
      keys[j] = key;
    }
  }
  for (std::int64_t i = 0; i < count; ++i)
    sorted[i] = candidates[keys[i] & static_cast<std::uint64_t>(max_keys - 1)];
}

}  // namespace cuekit::cpu::felzenszwalb_detail
