// The blur of blur.h: along every axis, each vertex becomes itself plus half of both neighbours.
//
// It works in place along chains of neighbours (chains.h): every vertex is read and written once,
// and vertices without neighbours are not touched.
#include "blur.h"

#include <algorithm>
#include <vector>

#include "class_vector.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace cuekit::cpu {
namespace {

// About the number of a chain list's entries between polls.
constexpr std::int64_t most_at_once = std::int64_t{1} << 13;

// chain[0 .. count - 1] are whole chains. Chains are short, and where one ends is unpredictable, so
// no branch depends on it: every vertex is mixed with the entries before and after it in the list,
// with weight 0 where these belong to another chain. Values that fit in L2 are not prefetched,
// because then the loop is limited by its instructions, not by memory.
template <class V, int parts>
struct BlurChains {
  using X = ClassVector<V, parts>;
  using T = typename V::Value;
  static CUEKIT_INLINE void run(const Node* chain, std::int64_t count, T* values,
                                std::int64_t stride, bool in_l2) {
    if (count == 0) return;
    in_l2 ? blur<true>(chain, count, values, stride) : blur<false>(chain, count, values, stride);
  }

 private:
  template <bool in_l2>
  static CUEKIT_INLINE void blur(const Node* chain, std::int64_t count, T* values,
                                 std::int64_t stride) {
    const auto row = [&](Node entry) { return values + (entry ^ (entry >> 31)) * stride; };
    T* current = row(chain[0]);
    X own = X::load(current), half_previous = X::zero();
    for (std::int64_t i = 0; i < count; ++i) {
      if (!in_l2) prefetch_far(row(chain[i + Lattice::chain_padding]), X::size);
      const Node after = chain[i + 1];
      const T half = T{0.5} * static_cast<T>(1 + (after >> 31));  // 0 where a chain begins
      // The entry after the last one belongs to another task, which may write it now: do not read.
      T* const following = i + 1 < count ? row(after) : current;
      const X next = X::load(following);
      X mixed;
      for (int j = 0; j < parts; ++j) {
        mixed.part[j] = own.part[j] + (half_previous.part[j] + next.part[j] * half);
        half_previous.part[j] = own.part[j] * half;
      }
      mixed.store(current);
      own = next;
      current = following;
    }
  }
};

// Adds copies to their vertices, those in [first, last).
template <class V, int parts>
struct AddCopies {
  using X = ClassVector<V, parts>;
  using T = typename V::Value;
  static CUEKIT_INLINE void run(const Node* originals, std::int64_t count, T* values,
                                std::int64_t stride, std::int64_t first_copy, std::int64_t first,
                                std::int64_t last) {
    for (std::int64_t c = 0; c < count; ++c) {
      const std::int64_t vertex = originals[c];
      if (vertex < first || vertex >= last) continue;
      X sum = X::load(values + vertex * stride);
      sum.add(X::load(values + (first_copy + c) * stride));
      sum.store(values + vertex * stride);
    }
  }
};

// Sets copies to the values of their vertices.
template <class V, int parts>
struct SetCopies {
  using X = ClassVector<V, parts>;
  using T = typename V::Value;
  static CUEKIT_INLINE void run(const Node* originals, std::int64_t count, T* values,
                                std::int64_t stride, std::int64_t first_copy) {
    for (std::int64_t c = 0; c < count; ++c)
      X::load(values + originals[c] * stride).store(values + (first_copy + c) * stride);
  }
};

// Runs a kernel for each group of classes.
template <template <class, int> class Kernel, class T, class... Args>
void run_for_groups(std::int64_t classes, const Node* nodes, std::int64_t count, T* values,
                    std::int64_t stride, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    using Fours = Kernel<typename Group::template FourOf<T>, Group::fours>;
    using Wides = Kernel<typename Group::template WideOf<T>, Group::wides>;
    for (std::int64_t k = 0; k < stride; k += Group::size)
      dispatch_width<Fours, Wides, Wides>(nodes, count, values + k, stride, args...);
  });
}

}  // namespace

std::int64_t blur_tasks(std::int64_t vertices, int threads) {
  return std::clamp<std::int64_t>(vertices >> 15, 1, std::min(threads, 64));
}

template <class T>
void blur_in_place(const Lattice& lattice, T* values, std::int64_t classes, AxisOrder order,
                   std::int64_t tasks, int threads) {
  const Node* const originals = lattice.originals.data();
  const std::int64_t copies = lattice.copies(), stride = class_stride(classes);
  // Limit: 512 kB of values. A usual L2 then still has room for the other data.
  const bool in_l2 =
      lattice.node_count() * stride * static_cast<std::int64_t>(sizeof(T)) <= std::int64_t{1} << 19;
  const auto in_tasks = [&](const auto& body) {
    parallel_for(tasks, threads, [&](std::int64_t t) {
      const DenormalsFlushed state;
      body(t);
    });
  };
  // Each vertex belongs to one task, which adds its copies in ascending order. So the sums do not
  // depend on the number of tasks.
  in_tasks([&](std::int64_t t) {
    const std::int64_t first = t * lattice.vertices / tasks;
    const std::int64_t last = (t + 1) * lattice.vertices / tasks;
    run_for_groups<AddCopies>(classes, originals, copies, values, stride, lattice.vertices, first,
                              last);
  });
  for (int step = 0; step < lattice.corners; ++step) {
    const int axis = order == AxisOrder::ascending ? step : lattice.corners - 1 - step;
    const WorkspaceVector<Node>& chain = lattice.chains.data()[axis];
    const std::int64_t length = static_cast<std::int64_t>(chain.size()) - Lattice::chain_padding;
    const auto chain_from = [&](std::int64_t i) {  // where the next chain begins
      while (chain.data()[i] >= 0) ++i;
      return i;
    };
    in_tasks([&](std::int64_t t) {
      PollAfterWork poll_after;
      const std::int64_t last = chain_from((t + 1) * length / tasks);
      for (std::int64_t i = chain_from(t * length / tasks), end; i < last; i = end) {
        end = chain_from(std::min(i + most_at_once, last));
        run_for_groups<BlurChains>(classes, chain.data() + i, end - i, values, stride, in_l2);
        poll_after((end - i) * stride);
      }
    });
  }
  in_tasks([&](std::int64_t t) {
    const std::int64_t first = t * copies / tasks, last = (t + 1) * copies / tasks;
    run_for_groups<SetCopies>(classes, originals + first, last - first, values, stride,
                              lattice.vertices + first);
  });
}

// With many vertices, the lattices are blurred one after the other, and all threads share the
// vertices of the current one. With few vertices, each thread blurs one whole lattice.
void blur_filters(Filter& spatial, Filter& bilateral, std::int64_t classes, int threads) {
  std::vector<Filter*> filters;
  std::int64_t most_vertices = 0;
  for (Filter* filter : {&spatial, &bilateral}) {
    if (filter->lattice == nullptr) continue;
    filters.push_back(filter);
    most_vertices = std::max(most_vertices, filter->lattice->vertices);
  }
  const std::int64_t tasks = blur_tasks(most_vertices, threads);
  parallel_for(static_cast<std::int64_t>(filters.size()), tasks == 1 ? threads : 1,
               [&](std::int64_t f) {
                 Filter& filter = *filters.data()[f];
                 blur_in_place(*filter.lattice, filter.splatted.get(), classes,
                               AxisOrder::ascending, tasks, threads);
                 std::swap(filter.sliced, filter.splatted);
               });
}

template void blur_in_place(const Lattice&, float*, std::int64_t, AxisOrder, std::int64_t, int);
template void blur_in_place(const Lattice&, double*, std::int64_t, AxisOrder, std::int64_t, int);

}  // namespace cuekit::cpu
