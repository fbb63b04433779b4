// The mean field pass of mean_field.h, in steps over 32 pixels at a time: slice, exponentials,
// sums, splat.
//
// - A pixel's operations are long chains of dependent instructions. In short steps over several
//   pixels, the processor overlaps the chains of different pixels. Between the steps, values are in
//   `scratch`, which stays in L1.
// - Upcoming simplices and unaries are prefetched. Upcoming values of lattice nodes are prefetched
//   where they do not fit in L2, and then into L2 only, because L1 can track only few outstanding
//   misses.
#include "mean_field.h"

#include <algorithm>
#include <type_traits>

#include "class_vector.h"
#include "cpu/simd.h"
#include "exp2_log2.h"

namespace cuekit::cpu {
namespace {

// If no logit of a group of pixels is larger than this, their sums of powers of 2 are finite, and
// the softmax need not subtract the largest logit first. The sums are not close to 0 either: the
// largest unary of a pixel is 0, and filters add positive values, up to rounding. Few pixels are
// beyond the limit: filters seldom add more than the sum of their weights.
constexpr float largest_power = 64.0f;

// For one filter: the simplices of the pixels from `pixel` on, and the values of one group of
// classes at their vertices. The pointers are copied from the filter, because otherwise the
// compiler would load them again after every store.
template <class X, int corners>
struct Simplices {
  const Node* nodes = nullptr;     // (pixels from the first on, corners)
  const float* weights = nullptr;  // (pixels from the first on, corners)
  float* values = nullptr;         // (nodes, stride), from the group's first class on
  std::int64_t stride = 0;
  std::int64_t prefetch_end = 0;  // pixels below it prefetch values
  static constexpr std::int64_t ahead = 16;

  CUEKIT_INLINE Simplices(const Filter* filter, const Workspace<float> Filter::* which,
                          std::int64_t row_stride, std::int64_t pixel, std::int64_t first_class) {
    if (filter == nullptr || filter->lattice == nullptr) return;
    nodes = filter->lattice->nodes.get() + pixel * corners;
    weights = filter->lattice->weights.get() + pixel * corners;
    values = (filter->*which).get() + first_class;
    stride = row_stride;
    if (filter->prefetch_values) prefetch_end = filter->lattice->pixels - pixel - ahead;
  }

  // The values at node k of pixel i.
  CUEKIT_INLINE float* row(std::int64_t i, int k) const {
    return computed_once(values + nodes[i * corners + k] * stride);
  }
  CUEKIT_INLINE void slice(std::int64_t i, X& sum) const {
    if (nodes == nullptr) return;
    for (int k = 0; k < corners; ++k) sum.add(X::load(row(i, k)), weights[i * corners + k]);
  }
  CUEKIT_INLINE void splat(std::int64_t i, const X& q) const {
    if (nodes == nullptr) return;
    for (int k = 0; k < corners; ++k) {
      float* const target = row(i, k);
      X sum = X::load(target);
      sum.add(q, weights[i * corners + k]);
      sum.store(target);
    }
  }

  // Prefetches the nodes and weights that pixel i of the next pixels_together will need.
  CUEKIT_INLINE void prefetch_simplex(std::int64_t i) const {
    if (nodes == nullptr) return;
    prefetch_once(nodes + (i + pixels_together) * corners, corners);
    prefetch_once(weights + (i + pixels_together) * corners, corners);
  }
  // Prefetches the values that pixel i + ahead will need.
  CUEKIT_INLINE void prefetch_values(std::int64_t i) const {
    if (i >= prefetch_end) return;
    for (int k = 0; k < corners; ++k) prefetch_far(row(i + ahead, k), X::size);
  }
};

// One: the classes of one run, or a group of them if there are many. Row: what is loaded at a time,
// One or those of all runs.
template <class One, class Row, bool many>
struct MeanField {
  using X = Row;
  static constexpr std::int64_t runs = Row::size / One::size;

  static CUEKIT_INLINE void run(const Pass* pass, std::int64_t first, std::int64_t last,
                                float* scratch, float* q) {
    const std::int64_t stride = many ? pass->stride : X::size;
    float factors[runs * pixels_together];
    for (std::int64_t i = first; i < last; i += pixels_together) {
      const std::int64_t count = std::min(pixels_together, last - i);
      X largest = X::zero();
      for (std::int64_t k = 0; k < stride; k += X::size)
        largest.raise_to(slice(*pass, stride, i, count, k, scratch));
      float maxima[X::size];
      largest.store(maxima);
      // The last pass always subtracts: then a pixel whose class is certain gets exactly 1.
      for (std::int64_t r = 0; r < runs; ++r)
        if (!pass->splat || max_of(One::load(maxima + r * One::size)) > largest_power)
          subtract_largest(stride, count, scratch + r * One::size);
      for (std::int64_t k = 0; k < count * stride; ++k) scratch[k] = exp2_of(scratch[k]);
      reciprocal_sums(stride / runs, count * runs, scratch, factors);
      if (runs > 1) multiply(count * runs, factors, scratch);
      for (std::int64_t k = 0; k < stride; k += X::size)
        splat(*pass, stride, i, count, k, scratch, factors,
              q == nullptr ? nullptr : q + (i - first) * stride + k);
    }
  }

 private:
  // For pixels [first, first + count) and the classes of X from `k` on: writes unary plus filtered
  // values to `scratch`. Returns the largest value of each class, or 0.
  static CUEKIT_INLINE X slice(const Pass& pass, std::int64_t stride, std::int64_t first,
                               std::int64_t count, std::int64_t k,
                               float* scratch) {  // (count, stride)
    const float* const unary = pass.unary + first * stride + k;
    const float* const own = pass.own == nullptr ? nullptr : pass.own + first * stride + k;
    const float own_weight = pass.own_weight;
    const Simplices<X, 3> spatial(pass.slice ? pass.spatial : nullptr, &Filter::sliced, stride,
                                  first, k);
    const Simplices<X, 6> bilateral(pass.slice ? pass.bilateral : nullptr, &Filter::sliced, stride,
                                    first, k);
    X largest = X::zero();
    for (std::int64_t i = 0; i < count; ++i) {
      X x = X::load(unary + i * stride);
      prefetch_once(unary + (i + pixels_together) * stride, X::size);
      spatial.prefetch_simplex(i);
      bilateral.prefetch_simplex(i);
      spatial.prefetch_values(i);
      bilateral.prefetch_values(i);
      spatial.slice(i, x);
      bilateral.slice(i, x);
      if (own != nullptr && pass.slice) x.add(X::load(own + i * stride), own_weight);
      largest.raise_to(x);
      x.store(scratch + k + i * stride);
    }
    return largest;
  }

  // For the same pixels and classes: splats Q, and writes it to `q` unless that is null.
  static CUEKIT_INLINE void splat(const Pass& pass, std::int64_t stride, std::int64_t first,
                                  std::int64_t count, std::int64_t k,
                                  const float* scratch,  // (count, stride): powers of 2, or Q
                                  const float* factors,  // (count): power * factor = Q
                                  float* q) {            // (count, stride), from class k on
    const Simplices<X, 3> spatial(pass.splat ? pass.spatial : nullptr, &Filter::splatted, stride,
                                  first, k);
    const Simplices<X, 6> bilateral(pass.splat ? pass.bilateral : nullptr, &Filter::splatted,
                                    stride, first, k);
    for (std::int64_t i = 0; i < count; ++i) {
      X x = X::load(scratch + k + i * stride);
      if (runs == 1) x.multiply(factors[i]);
      spatial.prefetch_values(i);
      bilateral.prefetch_values(i);
      spatial.splat(i, x);
      bilateral.splat(i, x);
      if (q != nullptr) x.store(q + i * stride);
    }
  }

  // For one run, the first of a row.
  static CUEKIT_INLINE void subtract_largest(std::int64_t stride, std::int64_t count,
                                             float* values) {  // (count, stride)
    const std::int64_t classes = stride / runs;
    for (std::int64_t i = 0; i < count; ++i, values += stride) {
      One largest = One::load(values);
      for (std::int64_t k = One::size; k < classes; k += One::size)
        largest.raise_to(One::load(values + k));
      const auto shift = One::all(max_of(largest));
      for (std::int64_t k = 0; k < classes; k += One::size) {
        One x = One::load(values + k);
        x.subtract(shift);
        x.store(values + k);
      }
    }
  }

  // The last additions and the division are in a separate loop, which vectorises over pixels.
  static CUEKIT_INLINE void reciprocal_sums(std::int64_t stride, std::int64_t count,
                                            const float* values,  // (count, stride)
                                            float* factors) {     // (count)
    float sums[4 * runs * pixels_together];
    for (std::int64_t i = 0; i < count; ++i, values += stride) {
      One sum = One::load(values);
      for (std::int64_t k = One::size; k < stride; k += One::size) sum.add(One::load(values + k));
      four_sums(sum).store(sums + 4 * i);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const float* const four = sums + 4 * i;
      factors[i] = 1.0f / ((four[0] + four[2]) + (four[1] + four[3]));
    }
  }

  static CUEKIT_INLINE void multiply(std::int64_t count, const float* factors,  // (count)
                                     float* values) {  // (count, One::size)
    for (std::int64_t i = 0; i < count; ++i, values += One::size) {
      One x = One::load(values);
      x.multiply(factors[i]);
      x.store(values);
    }
  }
};

template <class Group, int runs>
void mean_field(const Pass* pass, std::int64_t first, std::int64_t last, float* scratch, float* q) {
  using Four = typename Group::Four;
  using Wide = typename Group::Wide;
  using Fours = MeanField<ClassVector<Four, Group::fours>, ClassVector<Four, runs * Group::fours>,
                          Group::many>;
  // Two runs of four classes fill a wide vector.
  using WideRow =
      std::conditional_t<runs == 2 && Group::wides * Wide::size == 4,
                         ClassVector<Lanes<float, 8>, 1>, ClassVector<Wide, runs * Group::wides>>;
  using Wides = MeanField<ClassVector<Wide, Group::wides>, WideRow, Group::many>;
  dispatch_width<Fours, Wides>(pass, first, last, scratch, q);
}

}  // namespace

MeanFieldKernel mean_field_kernel(std::int64_t classes, std::int64_t runs) {
  return with_class_group(classes, [=](auto group) -> MeanFieldKernel {
    using Group = decltype(group);
    if constexpr (Group::size <= most_classes_of_pairs)
      if (runs == 2) return &mean_field<Group, 2>;
    return &mean_field<Group, 1>;
  });
}

}  // namespace cuekit::cpu
