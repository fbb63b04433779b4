// Regions as a forest of pixels (union-find): a pixel points to its parent, a root to itself.
//
// Regions are united by size, and paths to the root are halved as they are followed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cuekit::cpu::felzenszwalb_detail {

// Valid at a region's root. At other pixels the threshold is infinite.
struct Region {
  // The region merges over edges that cost less. A set sign bit marks a frozen region: see
  // merge_patches.h.
  float threshold;
  std::int32_t size;  // in pixels
};

inline bool is_frozen(float threshold) { return std::signbit(threshold); }
inline float frozen(float threshold) { return -std::fabs(threshold); }
inline float unfrozen(float threshold) { return std::fabs(threshold); }

// Refers to arrays that it does not own: copies are cheap and share them.
struct Forest {
  std::int32_t* parents;  // (H, W)
  Region* regions;        // (H, W)

  std::int32_t find_root(std::int64_t pixel) const {
    std::int32_t p = parents[pixel];
    while (parents[p] != p) {
      parents[p] = parents[parents[p]];
      p = parents[p];
    }
    return p;
  }

  // The same, faster where one or two steps nearly always suffice: no branch depends on which.
  std::int32_t find_near_root(std::int64_t pixel) const {
    const std::int32_t grandparent = parents[parents[pixel]], root = parents[grandparent];
    if (root != grandparent) return find_root(grandparent);
    parents[pixel] = root;
    return root;
  }

  // Makes the root of the larger region the root of both, and returns it.
  std::int32_t unite(std::int32_t a, std::int32_t b) const {
    const std::int32_t a_size = regions[a].size, b_size = regions[b].size;
    // Which one is larger is unpredictable, so no branch depends on it.
    const std::int32_t swap = (a ^ b) & -static_cast<std::int32_t>(a_size < b_size);
    const std::int32_t root = a ^ swap, other = b ^ swap;
    parents[other] = root;
    regions[root].size = a_size + b_size;
    regions[other].threshold = std::numeric_limits<float>::infinity();
    return root;
  }

  // Makes the grandparent of each of the pixels begin..end - 1 its parent.
  void halve_paths(std::int64_t begin, std::int64_t end) const {
    // In groups, which read all before they write: a read would otherwise depend on the write
    // just before it.
    constexpr int group = 8;
    std::int64_t i = begin;
    for (; i + group <= end; i += group) {
      std::int32_t grandparents[group];
      for (int j = 0; j < group; ++j) grandparents[j] = parents[parents[i + j]];
      std::copy_n(grandparents, group, parents + i);
    }
    for (; i < end; ++i) parents[i] = parents[parents[i]];
  }
};

}  // namespace cuekit::cpu::felzenszwalb_detail
