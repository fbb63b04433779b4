// Hash table from the keys of lattice vertices (cuekit/simplex.h) to their numbers.
//
// Open addressing with linear probing. A slot holds a vertex's number, and keys are in an array of
// their own: the table is sparse, at most one slot in 8 is taken, and would not fit in the caches
// with the keys in it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/simd.h"
#include "cpu/workspace.h"
#include "cuekit/simplex.h"
#include "lattice.h"

namespace cuekit::cpu {

class VertexTable {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(keys_.size()); }
  LatticeKey key(std::int64_t vertex) const { return keys_.data()[vertex]; }

  // The vertex of a key, or -1. The table must not be empty. Whether a key is there is
  // unpredictable, so no branch depends on it. The first slot nearly always decides.
  CUEKIT_INLINE Node find(LatticeKey key) const {
    for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      const Node vertex = slots_[slot];
      // All bits set where the slot is taken, none where it is free.
      const auto taken = static_cast<LatticeKey>(~(std::int64_t{vertex} >> 63));
      if (((keys_.data()[std::max(vertex, Node{0})] ^ key) & taken) == 0) return vertex;
    }
  }

  CUEKIT_INLINE Node find_or_add(LatticeKey key) {
    std::size_t slot = slot_of(key);
    for (; slots_[slot] >= 0; slot = (slot + 1) & mask_)
      if (keys_.data()[slots_[slot]] == key) return slots_[slot];
    return add(key, slot);
  }

  CUEKIT_INLINE void prefetch_slot(LatticeKey key) const { prefetch(&slots_[slot_of(key)], 1); }

 private:
  // Multiplication by 2^64 / the golden ratio spreads keys that differ in few bits; its highest
  // bits are the best mixed.
  CUEKIT_INLINE std::size_t slot_of(LatticeKey key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15u) >> shift_);
  }

  Node add(LatticeKey key, std::size_t slot) {
    const auto vertex = static_cast<Node>(keys_.size());
    slots_[slot] = vertex;
    keys_.push_back(key);
    if (8 * keys_.size() > slots_.size()) grow();
    return vertex;
  }

  void grow() {
    --shift_;
    mask_ = 2 * mask_ + 1;
    slots_.assign(mask_ + 1, Node{-1});
    for (std::size_t v = 0; v < keys_.size(); ++v) {
      std::size_t slot = slot_of(keys_[v]);
      while (slots_[slot] >= 0) slot = (slot + 1) & mask_;
      slots_[slot] = static_cast<Node>(v);
    }
  }

  static constexpr int first_bits = 10;
  int shift_ = 64 - first_bits;
  std::size_t mask_ = (std::size_t{1} << first_bits) - 1;
  WorkspaceVector<Node> slots_ = WorkspaceVector<Node>(mask_ + 1, Node{-1});  // -1: free
  WorkspaceVector<LatticeKey> keys_;                                          // of each vertex
};

}  // namespace cuekit::cpu
