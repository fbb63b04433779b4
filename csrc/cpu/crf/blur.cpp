// The blur of blur.h: along every axis, each vertex becomes itself plus half of both neighbours.
//
// It works in place along chains of neighbours (lattice.h): every vertex is read and written once,
// and vertices without neighbours are not touched.
#include "blur.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "class_vector.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t windows_at_once = 8;  // between polls

// The chains of some windows. Those of two to four vertices have loops without branches: chains are
// short, and where one ends would be unpredictable. Values that fit in L2 are not prefetched,
// because then the loop is limited by its instructions, not by memory.
template <class V, int parts>
struct BlurChains {
  using X = ClassVector<V, parts>;
  using T = typename V::Value;
  static CUEKIT_INLINE void run(const Node* entries, std::int64_t count, T* values,
                                std::int64_t stride, const Chains::Window* windows, bool in_l2) {
    for (std::int64_t w = 0; w < count; ++w) {
      const Chains::Window window = windows[w];
      const Node* chain = entries + window.begin;
      // float64 is rare, and limited by memory: it has only the loop for chains of any length.
      if constexpr (std::is_same_v<T, float>) {
        chain = blur<2>(chain, window.twos, values, stride, in_l2);
        chain = blur<3>(chain, window.threes, values, stride, in_l2);
        chain = blur<4>(chain, window.fours, values, stride, in_l2);
      }
      while (chain < entries + window.end) chain = blur_long(chain, values, stride, in_l2);
    }
  }

 private:
  // Goes along one chain, from its first vertex to its last.
  struct Walk {
    T* current;
    X own = X::load(current), half = half_of(own), half_previous = X::zero();

    static CUEKIT_INLINE X half_of(X x) {
      x.multiply(T{0.5});
      return x;
    }
    CUEKIT_INLINE void step(T* following) {
      const X next = X::load(following), half_next = half_of(next);
      half_previous.add(half_next);
      finish();
      half_previous = half;
      half = half_next;
      own = next;
      current = following;
    }
    CUEKIT_INLINE void finish() {
      own.add(half_previous);
      own.store(current);
    }
  };
  static CUEKIT_INLINE void prefetch_row(const Node* entry, const T* values, std::int64_t stride) {
    const Node later = entry[Chains::padding];
    prefetch_far(values + (later ^ (later >> 31)) * stride, X::size);
  }

  // `count` chains of n vertices. Returns where the next chain begins.
  template <int n>
  static CUEKIT_INLINE const Node* blur(const Node* chain, std::int64_t count, T* values,
                                        std::int64_t stride, bool in_l2) {
    for (; count > 0; --count, chain += n) {
      if (!in_l2)
        for (int k = 0; k < n; ++k) prefetch_row(chain + k, values, stride);
      Walk walk{values + ~chain[0] * stride};
      CUEKIT_UNROLL
      for (int k = 1; k < n; ++k) walk.step(values + chain[k] * stride);
      walk.finish();
    }
    return chain;
  }

  // One chain of any length.
  static CUEKIT_INLINE const Node* blur_long(const Node* chain, T* values, std::int64_t stride,
                                             bool in_l2) {
    Walk walk{values + ~chain[0] * stride};
    for (;;) {
      if (!in_l2) prefetch_row(chain, values, stride);
      ++chain;
      if (*chain < 0) break;
      walk.step(values + *chain * stride);
    }
    walk.finish();
    return chain;
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

// Runs a kernel for every X::size values of a row.
template <class Kernel>
struct ForRow {
  template <class T, class... Args>
  static CUEKIT_INLINE void run(const Node* nodes, std::int64_t count, T* values,
                                std::int64_t stride, Args... args) {
    for (std::int64_t k = 0; k < stride; k += Kernel::X::size)
      Kernel::run(nodes, count, values + k, stride, args...);
  }
};

// Runs a kernel for each group of classes. Where there are kernels for AVX2, those of the baseline
// take up to 8 classes: it has fewer registers, and it is less code.
template <template <class, int> class Kernel, class T, class... Args>
void run_for_groups(std::int64_t classes, const Node* nodes, std::int64_t count, T* values,
                    std::int64_t stride, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    constexpr int fours = CUEKIT_MULTIVERSION ? std::min(Group::fours, 2) : Group::fours;
    using Fours = Kernel<typename Group::template FourOf<T>, fours>;
    using Wides = Kernel<typename Group::template WideOf<T>, Group::wides>;
    dispatch_width<ForRow<Fours>, ForRow<Wides>>(nodes, count, values, stride, args...);
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
    const Chains& chains = lattice.chains.data()[axis];
    const auto count = static_cast<std::int64_t>(chains.windows.size());
    in_tasks([&](std::int64_t t) {
      PollAfterWork poll_after;
      const std::int64_t last = (t + 1) * count / tasks;
      for (std::int64_t i = t * count / tasks, end; i < last; i = end) {
        end = std::min(i + windows_at_once, last);
        const Chains::Window* const windows = chains.windows.data();
        run_for_groups<BlurChains>(classes, chains.entries.data(), end - i, values, stride,
                                   windows + i, in_l2);
        poll_after((windows[end - 1].end - windows[i].begin) * stride);
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
