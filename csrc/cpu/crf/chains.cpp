// Finds the chains of chains.h: one lookup in the hash table for each vertex and axis gives both
// directions, then the vertices of each chain are listed from its first to its last.
//
// Most chains are short and their lengths are unpredictable, so no branch depends on where one
// ends.
#include "chains.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "cpu/interrupt.h"
#include "cpu/simd.h"
#include "embed.h"

namespace cuekit::cpu {

template <int d>
WorkspaceVector<Node> find_chains(const Embedding<d>& embedding, const VertexTable& table,
                                  int axis) {
  const LatticeKey steps[2] = {embedding.step(axis, false), embedding.step(axis, true)};
  const auto neighbour_key = [&](std::int64_t v) {
    const LatticeKey key = table.key(v);
    return key + steps[(key & embedding.remainder_mask) == 0];
  };
  const std::int64_t count = table.size();
  const Workspace<Node> next(count);
  WorkspaceVector<std::uint8_t> has_previous(count + 1);  // of vertex v at v + 1; 0 is not used
  polling_loop(0, count, [&](std::int64_t v) {
    table.prefetch_slot(neighbour_key(std::min(v + 16, count - 1)));
    const Node neighbour = table.find(neighbour_key(v));
    next.get()[v] = neighbour;
    has_previous.data()[neighbour + 1] = 1;
  });
  const Workspace<Node> heads(count + 1);  // the first vertex of each chain
  std::int64_t chains = 0, length = 0;
  // Chains are listed from the last vertex to the first on even axes, and from the first to the
  // last on odd ones. So the blur along an axis starts with the vertices that are still in cache
  // from the axis before, or, on axis 0, from the splat.
  const std::int64_t turn = axis % 2 == 0 ? count - 1 : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t v = std::abs(turn - i);
    const std::int64_t follows = has_previous.data()[v + 1];
    const std::int64_t leads = next.get()[v] >= 0 ? 1 : 0;
    heads.get()[chains] = static_cast<Node>(v);
    chains += leads & (1 - follows);
    length += leads | follows;
  }
  WorkspaceVector<Node> chain(length + Lattice::chain_padding, ~Node{0});
  heads.get()[chains] = 0;
  Node vertex = heads.get()[0], entry = ~vertex;
  std::int64_t head = 0;
  polling_loop(0, length, [&](std::int64_t i) {
    chain.data()[i] = entry;
    const Node after = next.get()[vertex];
    head += after < 0 ? 1 : 0;
    vertex = after < 0 ? heads.get()[head] : after;
    entry = after < 0 ? ~vertex : vertex;
  });
  return chain;
}

#define CUEKIT_INSTANTIATE(d) \
  template WorkspaceVector<Node> find_chains(const Embedding<d>&, const VertexTable&, int);
CUEKIT_FOR_ALL_FEATURE_COUNTS(CUEKIT_INSTANTIATE)
#undef CUEKIT_INSTANTIATE

// Vertices are numbered in the order in which pixels reach them, so pixel i has the vertices
// corners * i + k if all pixels have vertices of their own.
bool is_diagonal(const Lattice& lattice) {
  if (lattice.vertices != lattice.pixels * lattice.corners) return false;
  for (const WorkspaceVector<Node>& chain : lattice.chains)
    for (std::size_t i = 1; i < chain.size(); ++i)
      if (chain[i] >= 0) {
        const Node before = chain[i - 1] < 0 ? ~chain[i - 1] : chain[i - 1];
        if (before / lattice.corners != chain[i] / lattice.corners) return false;
      }
  return true;
}

// The same steps as in blur.cpp.
void blur_along(const WorkspaceVector<Node>& chain, WorkspaceVector<float>& values) {
  const auto value = [&](Node entry) -> float& { return values.data()[entry ^ (entry >> 31)]; };
  const std::int64_t length = static_cast<std::int64_t>(chain.size()) - Lattice::chain_padding;
  float half_previous = 0, own = value(chain[0]);
  polling_loop(0, length, [&](std::int64_t i) {
    const Node after = chain.data()[i + 1];
    const float half = 0.5f * static_cast<float>(1 + (after >> 31));  // 0 where a chain begins
    const float next = value(after);
    value(chain.data()[i]) = own + (half_previous + next * half);
    half_previous = own * half;
    own = next;
  });
}

}  // namespace cuekit::cpu
