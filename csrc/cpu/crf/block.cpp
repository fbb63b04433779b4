// The steps of block.h, compiled for each group of classes and number of corners.
#include "block.h"

#include <algorithm>

namespace cuekit::cpu {
namespace {

// For the block's simplices. X: the classes of a point, or a group of them if there are many. Loops
// over a number of corners that is known are faster; 0 means that it is not.
template <class X, bool many, int known_corners>
struct Simplices {
  const Block& b;
  const std::int64_t corners = known_corners == 0 ? b.corners : known_corners;
  const std::int64_t stride = many ? b.stride : X::size;

  // The values at corner c of point i, from class k on.
  CUEKIT_INLINE float* row(std::int64_t i, std::int64_t c, std::int64_t k) const {
    return computed_once(b.values + b.nodes[i * corners + c] * stride + k);
  }
  CUEKIT_INLINE void prefetch_values(std::int64_t i) const {
    for (std::int64_t c = 0; c < corners; ++c) prefetch(row(i + Block::ahead, c, 0), stride);
  }
};

template <class X, bool many, int known_corners>
struct Splat {
  static CUEKIT_INLINE void run(const Block* block, const float* rows) {  // (count, stride)
    block->prefetches ? splat<true>(*block, rows) : splat<false>(*block, rows);
  }

 private:
  template <bool prefetches>
  static CUEKIT_INLINE void splat(const Block b, const float* rows) {
    const Simplices<X, many, known_corners> simplices{b};
    const std::int64_t corners = simplices.corners, stride = simplices.stride;
    for (std::int64_t i = 0; i < b.count; ++i) {
      if (prefetches) simplices.prefetch_values(i);
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(rows + i * stride + k);
        if (b.norms != nullptr) x.multiply(b.norms[i]);
        for (std::int64_t c = 0; c < corners; ++c) {
          float* const target = simplices.row(i, c, k);
          X sum = X::load(target);
          sum.add(x, b.weights[i * corners + c]);
          sum.store(target);
        }
      }
    }
  }
};

template <class X, bool many, int known_corners>
struct Slice {
  static CUEKIT_INLINE void run(const Block* block,
                                const float* gains,   // (stride): the diagonal of g
                                const float* before,  // (count, stride)
                                float* logits,        // (count, stride)
                                float* filtered) {    // (count, stride)
    block->prefetches ? slice<true>(*block, gains, before, logits, filtered)
                      : slice<false>(*block, gains, before, logits, filtered);
  }

 private:
  template <bool prefetches>
  static CUEKIT_INLINE void slice(const Block b, const float* gains, const float* before,
                                  float* logits, float* filtered) {
    const Simplices<X, many, known_corners> simplices{b};
    const std::int64_t corners = simplices.corners, stride = simplices.stride;
    for (std::int64_t i = 0; i < b.count; ++i) {
      if (prefetches) simplices.prefetch_values(i);
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::zero();
        for (std::int64_t c = 0; c < corners; ++c)
          x.add(X::load(simplices.row(i, c, k)), b.weights[i * corners + c]);
        if (b.norms != nullptr) x.multiply(b.norms[i]);
        if (gains == nullptr) {
          x.store(filtered + i * stride + k);
        } else {
          X sum = X::load(before + i * stride + k);
          sum.add_product(X::load(gains + k), x);
          sum.store(logits + i * stride + k);
        }
      }
    }
  }
};

template <class X, bool many>
struct AddProducts {
  static CUEKIT_INLINE void run(const float* filtered,  // (count, stride)
                                std::int64_t count, std::int64_t row,
                                const float* gains,  // (classes, stride): g, transposed
                                std::int64_t classes,
                                float* logits) {  // (count, stride)
    const std::int64_t stride = many ? row : X::size;
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(logits + i * stride + k);
        for (std::int64_t l = 0; l < classes; ++l)
          x.add(X::load(gains + l * stride + k), filtered[i * stride + l]);
        x.store(logits + i * stride + k);
      }
  }
};

// run_for_group() for a kernel of simplices that have `corners` corners.
template <template <class, bool, int> class Kernel, int corners, class... Args>
void run_for_corners(std::int64_t classes, const Block* block, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    // With many classes the loop over corners is not the inner one. Where there are kernels for
    // AVX2, those of the baseline are compiled once, for any number.
    constexpr int known = Group::many ? 0 : corners, baseline = CUEKIT_MULTIVERSION ? 0 : known;
    using Fours = Kernel<ClassVector<typename Group::Four, Group::fours>, Group::many, baseline>;
    using Wides = Kernel<ClassVector<typename Group::Wide, Group::wides>, Group::many, known>;
    dispatch_width<Fours, Wides>(block, args...);
  });
}

// The number of corners is known for 2 to 6 features.
template <template <class, bool, int> class Kernel, class... Args>
void run_for_simplices(std::int64_t classes, const Block* block, Args... args) {
  switch (block->corners) {
    case 3:
      return run_for_corners<Kernel, 3>(classes, block, args...);
    case 4:
      return run_for_corners<Kernel, 4>(classes, block, args...);
    case 5:
      return run_for_corners<Kernel, 5>(classes, block, args...);
    case 6:
      return run_for_corners<Kernel, 6>(classes, block, args...);
    case 7:
      return run_for_corners<Kernel, 7>(classes, block, args...);
    default:
      return run_for_corners<Kernel, 0>(classes, block, args...);
  }
}

}  // namespace

Block block_of(const Filter& filter, const Workspace<float>& values, const float* norms,
               const Band& band, std::int64_t first, std::int64_t count, std::int64_t stride) {
  const Lattice& lattice = *filter.lattice;
  const std::int64_t corners = lattice.corners;
  return {lattice.nodes.get() + first * corners,
          lattice.weights.get() + first * corners,
          norms == nullptr ? nullptr : norms + first,
          values.get(),
          corners,
          count,
          stride,
          filter.prefetch_values && first + count + Block::ahead <= band.last_pixel};
}

void clear_splatted(const Filter& filter, std::int64_t b, std::int64_t stride) {
  if (filter.lattice == nullptr) return;
  const Lattice& lattice = *filter.lattice;
  const Band& band = lattice.bands.data()[b];
  const auto clear = [&](std::int64_t first, std::int64_t last) {
    std::fill(filter.splatted.get() + first * stride, filter.splatted.get() + last * stride, 0.0f);
  };
  clear(band.first_vertex, band.last_vertex);
  clear(lattice.vertices + band.first_copy, lattice.vertices + band.last_copy);
}

void splat(std::int64_t classes, const Block& block, const float* rows) {
  run_for_simplices<Splat>(classes, &block, rows);
}

void slice(std::int64_t classes, const Block& block, const float* gains, const float* before,
           float* logits, float* filtered) {
  run_for_simplices<Slice>(classes, &block, gains, before, logits, filtered);
}

void add_products(std::int64_t classes, const float* filtered, std::int64_t count,
                  std::int64_t stride, const float* gains, std::int64_t rows, float* logits) {
  run_for_group<AddProducts>(classes, filtered, count, stride, gains, rows, logits);
}

}  // namespace cuekit::cpu
