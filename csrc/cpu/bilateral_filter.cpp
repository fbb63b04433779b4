// The bilateral filter of cuekit/bilateral_filter.h on the CPU, a batch of images, on the lattices
// of the CRF (crf/lattice.h): splat, blur, slice.
//
// The values of up to 32 channels of a pixel or node are side by side (crf/class_vector.h); more
// channels are filtered 32 at a time on the same lattice. Maps are transposed to such rows and back
// patch by patch (crf/patch.h).
//
// Memory, L = channels at a time, rounded up to whole vectors: 52 bytes per pixel; 4 L per vertex,
// 8 L for double, and some 100 more while the lattice is built. It is kept from call to call
// (workspace.h).
#include "cuekit/bilateral_filter.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

#include "cpu/crf/blur.h"
#include "cpu/crf/class_vector.h"
#include "cpu/crf/lattice.h"
#include "cpu/crf/patch.h"
#include "cpu/crf/transpose.h"
#include "cpu/finite.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace cuekit::cpu {
namespace {

constexpr int corners = 6;
constexpr std::int64_t most_channels = 32;
constexpr std::int64_t patch_pixels = strip_height * Patch::max_columns;

// The simplices of a patch's pixels, and the values of the nodes.
template <class C>
struct PatchOfLattice {
  const Node* nodes;     // (count, corners)
  const float* weights;  // (count, corners)
  const float* norms;    // (count): factors of the rows; null: none
  std::int64_t count;
  C* values;            // (nodes of the lattice, stride)
  bool prefetch_nodes;  // the values do not fit in L2

  static constexpr std::int64_t ahead = 16;

  // The values at node k of pixel i.
  template <class X>
  CUEKIT_INLINE C* row(std::int64_t i, int k) const {
    return computed_once(values + nodes[i * corners + k] * X::size);
  }
  template <class X>
  CUEKIT_INLINE void prefetch_values(std::int64_t i) const {
    if (!prefetch_nodes || i + ahead >= count) return;
    for (int k = 0; k < corners; ++k) prefetch_far(row<X>(i + ahead, k), X::size);
  }
};

// Adds rows to their nodes.
template <class V, int parts>
struct Splat {
  using X = ClassVector<V, parts>;
  using C = typename V::Value;
  static CUEKIT_INLINE void run(const PatchOfLattice<C>* patch,
                                const C* rows) {  // (count, stride)
    const PatchOfLattice<C> p = *patch;
    for (std::int64_t i = 0; i < p.count; ++i) {
      p.template prefetch_values<X>(i);
      X x = X::load(rows + i * X::size);
      if (p.norms != nullptr) x.multiply(static_cast<C>(p.norms[i]));
      for (int k = 0; k < corners; ++k) {
        C* const target = p.template row<X>(i, k);
        X sum = X::load(target);
        sum.add(x, static_cast<C>(p.weights[i * corners + k]));
        sum.store(target);
      }
    }
  }
};

// Writes weighted sums of nodes to rows.
template <class V, int parts>
struct Slice {
  using X = ClassVector<V, parts>;
  using C = typename V::Value;
  static CUEKIT_INLINE void run(const PatchOfLattice<C>* patch,
                                C* rows) {  // (count, stride)
    const PatchOfLattice<C> p = *patch;
    for (std::int64_t i = 0; i < p.count; ++i) {
      p.template prefetch_values<X>(i);
      X x = X::zero();
      for (int k = 0; k < corners; ++k)
        x.add(X::load(p.template row<X>(i, k)), static_cast<C>(p.weights[i * corners + k]));
      if (p.norms != nullptr) x.multiply(static_cast<C>(p.norms[i]));
      x.store(rows + i * X::size);
    }
  }
};

// Returns a word whose highest bit is set if any value is not finite or too large. Integer work,
// which vectorises: a magnitude from the limit on carries into the sign bit.
template <class T>
typename float_bits<T>::type out_of_range_bits(const T* values,  // (count)
                                               std::int64_t count) {
  using Bits = typename float_bits<T>::type;
  constexpr auto sign = static_cast<Bits>(Bits{1} << (8 * sizeof(T) - 1));
  // All finite values of float16 are small enough: from infinity on.
  const auto limit = bit_cast<Bits>(store<T>(largest_filtered_value));
  const auto room = static_cast<Bits>(sign - limit);
  Bits seen = 0;
  for (std::int64_t i = 0; i < count; ++i)
    seen |= static_cast<Bits>((bit_cast<Bits>(values[i]) & (sign - 1)) + room);
  return seen;
}

// From the maps of a patch to the rows of its pixels. Returns false for values that are not finite
// or too large.
template <class T, class C>
bool read_patch(const T* values,  // (channels, N)
                const Patch& patch, std::int64_t channels,
                C* rows,  // (pixels of the patch, stride)
                std::int64_t stride) {
  typename float_bits<T>::type seen = 0;
  for (std::int64_t r = 0; r < patch.rows; ++r) {
    for (std::int64_t k = 0; k < channels; ++k)
      seen |= out_of_range_bits(values + patch.offset(k, r), patch.columns);
    transpose(values + patch.offset(0, r), patch.pixels_of_image, channels, patch.columns,
              rows + r * stride, patch.rows * stride);
  }
  return !any_nonfinite(seen);
}

// From the rows of a patch's pixels to its maps.
template <class C>
void write_patch(const C* rows,  // (pixels of the patch, stride)
                 std::int64_t stride, const Patch& patch, std::int64_t channels,
                 C* out) {  // (channels, N)
  for (std::int64_t r = 0; r < patch.rows; ++r)
    transpose(rows + r * stride, patch.rows * stride, patch.columns, channels,
              out + patch.offset(0, r), patch.pixels_of_image);
}

// One image, up to most_channels of its channels.
template <class T>
class ChannelFilter {
  using Out = filtered_type<T>;
  using C = Out;  // what is computed in

 public:
  ChannelFilter(const Lattice& lattice, std::int64_t width, std::int64_t channels, bool adjoint,
                int threads)
      : lattice_(lattice),
        width_(width),
        channels_(channels),
        stride_(class_stride(channels)),
        adjoint_(adjoint),
        threads_(threads),
        in_l2_(lattice.node_count() * stride_ * static_cast<std::int64_t>(sizeof(C)) <=
               std::int64_t{1} << 19),
        nodes_(lattice.node_count() * stride_) {}

  bool operator()(const T* values,   // (channels, N)
                  Out* out) const {  // (channels, N)
    return with_class_group(channels_, [&](auto group) {
      using Group = decltype(group);
      if (!splat<Group>(values)) return false;
      blur_in_place(lattice_, nodes_.get(), channels_,
                    adjoint_ ? AxisOrder::descending : AxisOrder::ascending,
                    blur_tasks(lattice_.vertices, threads_), threads_);
      slice<Group>(out);
      return true;
    });
  }

 private:
  template <class Group>
  bool splat(const T* values) const {
    using Fours = Splat<typename Group::template FourOf<C>, Group::fours>;
    using Wides = Splat<typename Group::template WideOf<C>, Group::wides>;
    std::atomic<bool> valid{true};
    for_bands([&](const Band& band, C* rows) {
      clear(band.first_vertex, band.last_vertex);
      clear(lattice_.vertices + band.first_copy, lattice_.vertices + band.last_copy);
      std::fill_n(rows, patch_pixels * stride_, C{0});  // channels that pad a row stay 0
      for_patches(band, [&](const Patch& patch) {
        if (!read_patch(values, patch, channels_, rows, stride_)) valid = false;
        const PatchOfLattice<C> simplices = simplices_of(patch, adjoint_);
        dispatch_width<Fours, Wides>(&simplices, static_cast<const C*>(rows));
      });
    });
    return valid;
  }

  template <class Group>
  void slice(Out* out) const {
    using Fours = Slice<typename Group::template FourOf<C>, Group::fours>;
    using Wides = Slice<typename Group::template WideOf<C>, Group::wides>;
    for_bands([&](const Band& band, C* rows) {
      for_patches(band, [&](const Patch& patch) {
        const PatchOfLattice<C> simplices = simplices_of(patch, !adjoint_);
        dispatch_width<Fours, Wides>(&simplices, rows);
        write_patch(static_cast<const C*>(rows), stride_, patch, channels_, out);
      });
    });
  }

  template <class Body>
  void for_bands(const Body& body) const {
    parallel_for(static_cast<std::int64_t>(lattice_.bands.size()), threads_, [&](std::int64_t b) {
      const DenormalsFlushed state;
      const Workspace<C> rows(patch_pixels * stride_);
      body(lattice_.bands.data()[b], rows.get());
    });
  }

  template <class Body>
  void for_patches(const Band& band, const Body& body) const {
    PollAfterWork poll_after;
    for (const Strip& strip : strips_of(band, width_)) {
      poll_after(strip.rows * width_ * stride_);
      for (std::int64_t x = 0; x < width_; x += Patch::max_columns)
        body(Patch{strip.first_row, strip.rows, x, std::min(Patch::max_columns, width_ - x), width_,
                   lattice_.pixels});
    }
  }

  PatchOfLattice<C> simplices_of(const Patch& patch, bool normalised) const {
    const std::int64_t first = patch.first_pixel();
    const float* const norms = lattice_.norms.get();
    return {lattice_.nodes.get() + first * corners,
            lattice_.weights.get() + first * corners,
            norms == nullptr || !normalised ? nullptr : norms + first,
            patch.pixels(),
            nodes_.get(),
            !in_l2_};
  }

  void clear(std::int64_t first, std::int64_t last) const {
    std::fill(nodes_.get() + first * stride_, nodes_.get() + last * stride_, C{0});
  }

  const Lattice& lattice_;
  std::int64_t width_, channels_, stride_;
  bool adjoint_;
  int threads_;
  bool in_l2_;
  Workspace<C> nodes_;  // (nodes of the lattice, stride)
};

}  // namespace

template <class T>
bool bilateral_filter(const T* values, const std::uint8_t* photos, filtered_type<T>* out,
                      const BilateralFilterParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width;
  const Normalisation normalisation = p.normalize ? Normalisation::mean : Normalisation::none;
  std::atomic<bool> valid{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int threads) {
    const Lattice lattice = bilateral_lattice(photos + b * 3 * pixels, p.height, p.width, p.sxy,
                                              p.srgb, 1.0f, normalisation, threads);
    for (std::int64_t k = 0; k < p.channels; k += most_channels) {
      const std::int64_t map = (b * p.channels + k) * pixels;
      const ChannelFilter<T> filter(lattice, p.width, std::min(most_channels, p.channels - k),
                                    p.adjoint, threads);
      if (!filter(values + map, out + map)) valid = false;
    }
  });
  return valid;
}

template bool bilateral_filter(const half*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const float*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const double*, const std::uint8_t*, double*,
                               const BilateralFilterParams&, Context&);

}  // namespace cuekit::cpu
