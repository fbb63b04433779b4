// Finds the chains of chains.h: one lookup in the hash table for each vertex and axis gives both
// directions. Then every vertex that has a neighbour after it and none before it is the head of a
// chain, and the chains are listed, window by window.
//
// Most chains are short and their lengths are unpredictable, so no branch depends on the length of
// those of up to four vertices.
#include "chains.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "cpu/interrupt.h"
#include "cpu/simd.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t heads_per_window = 256;
// Once a window has so many entries, the next chain of more than four vertices begins a new one.
constexpr std::int64_t long_window = 2048;

// Lists the chains with these heads, `length` vertices in all.
Chains list_chains(const Node* next,   // of every vertex; next[-1] is -1
                   const Node* heads,  // (chains)
                   std::int64_t chains, std::int64_t length) {
  Chains result;
  result.entries.assign(length + Chains::padding, ~Node{0});
  Node* const entries = result.entries.data();
  Node* target = entries;
  // Every chain is written at the end of all lists. Only the list of its length then moves its end,
  // and the others overwrite it. Chains of two are written to their place.
  Node threes[3 * (heads_per_window + 1)], fours[4 * (heads_per_window + 1)];
  Node long_heads[heads_per_window + 1];
  PollAfterWork poll_after;
  for (std::int64_t first = 0; first < chains; first += heads_per_window) {
    const std::int64_t last = std::min(first + heads_per_window, chains);
    Node *begin = target, *two = target, *three = threes, *four = fours, *long_head = long_heads;
    for (std::int64_t i = first; i < last; ++i) {
      const Node a = heads[i], b = next[a], c = next[b], d = next[c], e = next[d];
      two[0] = three[0] = four[0] = ~a;
      two[1] = three[1] = four[1] = b;
      three[2] = four[2] = c;
      four[3] = d;
      *long_head = a;
      two += 2 * (c < 0 ? 1 : 0);
      three += 3 * ((c < 0 ? 0 : 1) & (d < 0 ? 1 : 0));
      four += 4 * ((d < 0 ? 0 : 1) & (e < 0 ? 1 : 0));
      long_head += e < 0 ? 0 : 1;
    }
    target = std::copy(fours, four, std::copy(threes, three, two));
    Chains::Window window{};
    window.twos = static_cast<Node>((two - begin) / 2);
    window.threes = static_cast<Node>((three - threes) / 3);
    window.fours = static_cast<Node>((four - fours) / 4);
    const auto close_window = [&] {
      window.begin = static_cast<Node>(begin - entries);
      window.end = static_cast<Node>(target - entries);
      result.windows.push_back(window);
      poll_after(target - begin);
      window = {};
      begin = target;
    };
    for (const Node* head = long_heads; head != long_head; ++head) {
      if (target - begin >= long_window) close_window();
      *target++ = ~*head;
      for (Node v = next[*head]; v >= 0; v = next[v]) {
        poll_sometimes(target - entries);
        *target++ = v;
      }
    }
    close_window();
  }
  return result;
}

}  // namespace

Chains find_chains(const AxisStep& step, const VertexTable& table, int axis) {
  const auto neighbour_key = [&](std::int64_t v) {
    const LatticeKey key = table.key(v);
    return key + step.steps[(key & step.remainder_mask) == 0];
  };
  const std::int64_t count = table.size();
  const Workspace<Node> next_of(count + 1);
  Node* const next = next_of.get() + 1;
  next[-1] = -1;
  WorkspaceVector<std::uint8_t> has_previous(count + 1);  // of vertex v at v + 1; 0 is not used
  polling_loop(0, count, [&](std::int64_t v) {
    table.prefetch_slot(neighbour_key(std::min(v + 16, count - 1)));
    const Node neighbour = table.find(neighbour_key(v));
    next[v] = neighbour;
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
    const std::int64_t leads = next[v] >= 0 ? 1 : 0;
    heads.get()[chains] = static_cast<Node>(v);
    chains += leads & (1 - follows);
    length += leads | follows;
  }
  return list_chains(next, heads.get(), chains, length);
}

// Vertices are numbered in the order in which pixels reach them, so pixel i has the vertices
// corners * i + k if all pixels have vertices of their own.
bool is_diagonal(const Lattice& lattice) {
  if (lattice.vertices != lattice.pixels * lattice.corners) return false;
  for (const auto& [entries, windows] : lattice.chains)
    for (std::size_t i = 1; i < entries.size(); ++i)
      if (entries[i] >= 0) {
        const Node before = entries[i - 1] < 0 ? ~entries[i - 1] : entries[i - 1];
        if (before / lattice.corners != entries[i] / lattice.corners) return false;
      }
  return true;
}

// Every vertex is mixed with the entries before and after it in the list, with weight 0 where these
// belong to another chain.
void blur_along(const Chains& chains, WorkspaceVector<float>& values) {
  const auto value = [&](Node entry) -> float& { return values.data()[entry ^ (entry >> 31)]; };
  const Node* const chain = chains.entries.data();
  float half_previous = 0, own = value(chain[0]);
  polling_loop(0, chains.length(), [&](std::int64_t i) {
    const Node after = chain[i + 1];
    const float half = 0.5f * static_cast<float>(1 + (after >> 31));  // 0 where a chain begins
    const float next = value(after);
    value(chain[i]) = own + (half_previous + next * half);
    half_previous = own * half;
    own = next;
  });
}

}  // namespace cuekit::cpu
