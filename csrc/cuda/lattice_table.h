// Hash tables from the keys of lattice vertices to slots, one for each photo and lattice, filled by
// all threads at once.
//
// Open addressing with linear probing. A table has half as many slots again as its lattice has
// entries. Threads claim slots with compare-and-swap. Which slot a vertex gets depends on the order
// in which threads run, but the first entry that has the vertex does not, and vertices are numbered
// by that one.
#pragma once

#include <cstdint>

#include "cuekit/simplex.h"
#include "lattice.h"

namespace cuekit::cuda {

constexpr std::uint32_t no_slot = 0xffffffffu;

struct alignas(16) Slot {
  LatticeKey key;           // 0: the slot is free
  std::uint32_t not_first;  // the complement of the first entry that has the vertex
};

// All tables, the bilateral ones first. Slots are numbered through all tables.
struct Tables {
  Slot* slots;                                   // (images, bilateral_slots + spatial_slots)
  std::uint32_t bilateral_slots, spatial_slots;  // of one table

  // A table is never full: there are fewer keys than slots.
  static std::uint32_t slots_for(std::int64_t entries) {
    return static_cast<std::uint32_t>(entries + entries / 2 + 1);
  }
  Tables(const Lattice& lattice, void* memory)
      : slots(static_cast<Slot*>(memory)),
        bilateral_slots(lattice.bilateral > 0 ? slots_for(lattice.pixels() * lattice.bilateral)
                                              : 0),
        spatial_slots(lattice.spatial > 0 ? slots_for(lattice.pixels() * lattice.spatial) : 0) {}
  std::int64_t bytes(const Lattice& lattice) const {
    return lattice.images * (std::int64_t{bilateral_slots} + spatial_slots) *
           static_cast<std::int64_t>(sizeof(Slot));
  }
  __device__ std::uint32_t first_entry(std::uint32_t slot) const { return ~slots[slot].not_first; }
};

struct Table {
  Slot* slots;  // (size)
  std::uint32_t size, first_slot;
};

__device__ inline Table bilateral_table(const Tables& tables, std::int64_t image) {
  const std::int64_t first = image * tables.bilateral_slots;
  return {tables.slots + first, tables.bilateral_slots, static_cast<std::uint32_t>(first)};
}

__device__ inline Table spatial_table(const Lattice& lattice, const Tables& tables,
                                      std::int64_t image) {
  const std::int64_t first = lattice.images * tables.bilateral_slots + image * tables.spatial_slots;
  return {tables.slots + first, tables.spatial_slots, static_cast<std::uint32_t>(first)};
}

// Multiplication by 2^64 / the golden ratio spreads keys that differ in few bits; its highest bits
// are the best mixed.
__device__ inline std::uint32_t first_probe(LatticeKey key, std::uint32_t size) {
  const LatticeKey mixed = key * 0x9e3779b97f4a7c15ull >> 32;
  return static_cast<std::uint32_t>(mixed * size >> 32);
}

// Returns the slot of the key, and notes that `entry` has it. Reads bypass L1 (__ldcg), which would
// show values that other threads have changed long since, and each of them would cost an atomic
// operation. A key that is read is final; a slot that looks free may be taken by now, so it is
// claimed by compare-and-swap.
__device__ inline std::uint32_t find_or_add(const Table& table, LatticeKey key,
                                            std::uint32_t entry) {
  std::uint32_t i = first_probe(key, table.size);
  for (;;) {
    LatticeKey found = __ldcg(&table.slots[i].key);
    if (found == 0) found = atomicCAS(&table.slots[i].key, LatticeKey{0}, key);
    if (found == 0 || found == key) break;
    i = i + 1 == table.size ? 0 : i + 1;
  }
  if (__ldcg(&table.slots[i].not_first) < ~entry) atomicMax(&table.slots[i].not_first, ~entry);
  return table.first_slot + i;
}

// The slot of the key, or no_slot. For when all keys have been added.
__device__ inline std::uint32_t find(const Table& table, LatticeKey key) {
  std::uint32_t i = first_probe(key, table.size);
  for (;;) {
    const LatticeKey found = table.slots[i].key;
    if (found == key) return table.first_slot + i;
    if (found == 0) return no_slot;
    i = i + 1 == table.size ? 0 : i + 1;
  }
}

}  // namespace cuekit::cuda
