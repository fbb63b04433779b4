// One of the two Gaussian filters of the CRF: its lattice and the values at the lattice's nodes.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/workspace.h"
#include "lattice.h"

namespace cuekit::cpu {

struct Filter {
  const Lattice* lattice = nullptr;  // null: there is no such filter
  // (nodes, stride): the filtered values to slice from, and those to splat into. They swap after
  // every blur.
  Workspace<float> sliced, splatted;
  bool prefetch_values = false;  // the values do not fit in L2

  void allocate(const Lattice* of, std::int64_t stride) {
    lattice = of;
    sliced = Workspace<float>(of->node_count() * stride);
    splatted = Workspace<float>(of->node_count() * stride);
  }
};

}  // namespace cuekit::cpu
