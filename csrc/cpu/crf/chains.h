// Chains of neighbouring vertices, along which the lattice is blurred.
#pragma once

#include "cpu/workspace.h"
#include "lattice.h"
#include "vertex_table.h"

namespace cuekit::cpu {

// What is added to the key of a vertex for that of its neighbour along an axis.
struct AxisStep {
  LatticeKey remainder_mask;
  LatticeKey steps[2];  // [1]: where the remainder is 0
};

// Lattice::chains[axis].
Chains find_chains(const AxisStep& step, const VertexTable& table, int axis);

// Lattice::diagonal.
bool is_diagonal(const Lattice& lattice);

// Blurs one value per vertex along the chains of one axis. (blur.h does this for all classes of the
// CRF.)
void blur_along(const Chains& chains, WorkspaceVector<float>& values);

}  // namespace cuekit::cpu
