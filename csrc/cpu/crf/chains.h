// Chains of neighbouring vertices, along which the lattice is blurred.
#pragma once

#include "cpu/workspace.h"
#include "lattice.h"
#include "vertex_table.h"

namespace cuekit::cpu {

// Lattice::chains[axis]. `axis` is below d + 1.
template <int d>
Chains find_chains(const Embedding<d>& embedding, const VertexTable& table, int axis);

// Lattice::diagonal.
bool is_diagonal(const Lattice& lattice);

// Blurs one value per vertex along the chains of one axis. (blur.h does this for all classes of the
// CRF.)
void blur_along(const Chains& chains, WorkspaceVector<float>& values);

}  // namespace cuekit::cpu
