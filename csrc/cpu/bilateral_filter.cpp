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

#include "cpu/any_type.h"
#include "cpu/crf/block.h"
#include "cpu/crf/blur.h"
#include "cpu/crf/class_vector.h"
#include "cpu/crf/lattice.h"
#include "cpu/crf/patch.h"
#include "cpu/crf/transpose.h"
#include "cpu/finite.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace cuekit::cpu {
namespace {

constexpr int corners = 6;
constexpr std::int64_t most_channels = 32;
constexpr std::int64_t patch_pixels = strip_height * Patch::max_columns;

// Splat and slice for rows of doubles (block.h has them for floats): four channels at a time.
struct DoubleSimplices {
  using V = Lanes<double, 4>;
  const Block& b;
  double* nodes;  // the values of all nodes

  CUEKIT_INLINE double* row(std::int64_t i, int c) const {
    return computed_once(nodes + b.nodes[i * corners + c] * b.stride);
  }
  CUEKIT_INLINE void prefetch_rows(std::int64_t i) const {
    if (!b.prefetches) return;
    for (int c = 0; c < corners; ++c) prefetch_far(row(i + Block::ahead, c), b.stride);
  }
  CUEKIT_INLINE double weight(std::int64_t i, int c) const {
    return static_cast<double>(b.weights[i * corners + c]);
  }
  CUEKIT_INLINE V normalised(V x, std::int64_t i) const {
    return b.norms == nullptr ? x : x * static_cast<double>(b.norms[i]);
  }
};

struct SplatDoubles {
  static CUEKIT_INLINE void run(const Block* block, const double* rows, double* nodes) {
    using V = DoubleSimplices::V;
    const Block b = *block;
    const DoubleSimplices simplices{b, nodes};
    for (std::int64_t i = 0; i < b.count; ++i) {
      simplices.prefetch_rows(i);
      for (std::int64_t k = 0; k < b.stride; k += V::size) {
        const V x = simplices.normalised(V::load(rows + i * b.stride + k), i);
        for (int c = 0; c < corners; ++c) {
          double* const target = simplices.row(i, c) + k;
          (V::load(target) + x * simplices.weight(i, c)).store(target);
        }
      }
    }
  }
};

struct SliceDoubles {
  static CUEKIT_INLINE void run(const Block* block, double* nodes, double* rows) {
    using V = DoubleSimplices::V;
    const Block b = *block;
    const DoubleSimplices simplices{b, nodes};
    for (std::int64_t i = 0; i < b.count; ++i) {
      simplices.prefetch_rows(i);
      for (std::int64_t k = 0; k < b.stride; k += V::size) {
        V x = V::zero();
        for (int c = 0; c < corners; ++c)
          x = x + V::load(simplices.row(i, c) + k) * simplices.weight(i, c);
        simplices.normalised(x, i).store(rows + i * b.stride + k);
      }
    }
  }
};

// Adds rows (count, stride) to the values of nodes (nodes of the lattice, stride); writes weighted
// sums of them to rows.
void splat_rows(std::int64_t channels, Block block, const float* rows, float* nodes) {
  block.values = nodes;
  splat(channels, block, rows);
}
void splat_rows(std::int64_t, const Block& block, const double* rows, double* nodes) {
  dispatch<SplatDoubles>(&block, rows, nodes);
}
void slice_rows(std::int64_t channels, Block block, float* nodes, float* rows) {
  block.values = nodes;
  slice(channels, block, nullptr, nullptr, nullptr, rows);
}
void slice_rows(std::int64_t, const Block& block, double* nodes, double* rows) {
  dispatch<SliceDoubles>(&block, nodes, rows);
}

// Returns a word whose highest bit is set if any value is not finite or too large. Integer work,
// which vectorises: a magnitude from the limit on carries into the sign bit.
template <class C>
typename float_bits<C>::type out_of_range_bits(const C* values,  // (count)
                                               std::int64_t count) {
  using Bits = typename float_bits<C>::type;
  constexpr Bits sign = Bits{1} << (8 * sizeof(C) - 1);
  const Bits room = sign - bit_cast<Bits>(static_cast<C>(largest_filtered_value));
  Bits seen = 0;
  for (std::int64_t i = 0; i < count; ++i) seen |= (bit_cast<Bits>(values[i]) & (sign - 1)) + room;
  return seen;
}

// From the maps of a patch to the rows of its pixels. Returns false for values that are not finite
// or too large.
template <class C>
bool read_patch(const Source& values,  // (channels, N)
                const Patch& patch, std::int64_t channels,
                C* planes,  // (channels, max_columns): for values of another type
                C* rows,    // (pixels of the patch, stride)
                std::int64_t stride) {
  typename float_bits<C>::type seen = 0;
  const C* const maps = values.as<C>();
  const std::int64_t step = maps == nullptr ? Patch::max_columns : patch.pixels_of_image;
  for (std::int64_t r = 0; r < patch.rows; ++r) {
    const C* const source = maps == nullptr ? planes : maps + patch.offset(0, r);
    for (std::int64_t k = 0; k < channels; ++k) {
      if (maps == nullptr)
        values.read(patch.offset(k, r), 1, patch.columns, planes + k * Patch::max_columns);
      seen |= out_of_range_bits(source + k * step, patch.columns);
    }
    transpose(source, step, channels, patch.columns, rows + r * stride, patch.rows * stride);
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
template <class C>
class ChannelFilter {
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

  bool operator()(const Source& values,  // (channels, N)
                  C* out) const {        // (channels, N)
    if (!splat(values)) return false;
    blur_in_place(lattice_, nodes_.get(), channels_,
                  adjoint_ ? AxisOrder::descending : AxisOrder::ascending,
                  blur_tasks(lattice_.vertices, threads_), threads_);
    slice(out);
    return true;
  }

 private:
  bool splat(const Source& values) const {
    std::atomic<bool> valid{true};
    for_bands([&](const Band& band, C* rows, C* planes) {
      clear(band.first_vertex, band.last_vertex);
      clear(lattice_.vertices + band.first_copy, lattice_.vertices + band.last_copy);
      std::fill_n(rows, patch_pixels * stride_, C{0});  // channels that pad a row stay 0
      for_patches(band, [&](const Patch& patch) {
        if (!read_patch(values, patch, channels_, planes, rows, stride_)) valid = false;
        splat_rows(channels_, block_of_patch(band, patch, adjoint_), rows, nodes_.get());
      });
    });
    return valid;
  }

  void slice(C* out) const {
    for_bands([&](const Band& band, C* rows, C*) {
      for_patches(band, [&](const Patch& patch) {
        slice_rows(channels_, block_of_patch(band, patch, !adjoint_), nodes_.get(), rows);
        write_patch(rows, stride_, patch, channels_, out);
      });
    });
  }

  template <class Body>
  void for_bands(const Body& body) const {
    parallel_for(static_cast<std::int64_t>(lattice_.bands.size()), threads_, [&](std::int64_t b) {
      const DenormalsFlushed state;
      const Workspace<C> rows(patch_pixels * stride_), planes(channels_ * Patch::max_columns);
      body(lattice_.bands.data()[b], rows.get(), planes.get());
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

  Block block_of_patch(const Band& band, const Patch& patch, bool normalised) const {
    const std::int64_t first = patch.first_pixel();
    const float* const norms = lattice_.norms.get();
    return {lattice_.nodes.get() + first * corners,
            lattice_.weights.get() + first * corners,
            norms == nullptr || !normalised ? nullptr : norms + first,
            nullptr,
            corners,
            patch.pixels(),
            stride_,
            !in_l2_ && first + patch.pixels() + Block::ahead <= band.last_pixel};
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

// A batch. Returns false for values that are not finite or too large.
template <class C>
bool filter_images(const Source& values, const std::uint8_t* photos, C* out,
                   const BilateralFilterParams& p, int all_threads) {
  const std::int64_t pixels = p.height * p.width;
  const Normalisation normalisation = p.normalize ? Normalisation::mean : Normalisation::none;
  std::atomic<bool> valid{true};
  for_each_image(p.batch, all_threads, [&](std::int64_t b, int threads) {
    const Lattice lattice = bilateral_lattice(photos + b * 3 * pixels, p.height, p.width, p.sxy,
                                              p.srgb, 1.0f, normalisation, threads);
    for (std::int64_t k = 0; k < p.channels; k += most_channels) {
      const std::int64_t map = (b * p.channels + k) * pixels;
      const ChannelFilter<C> filter(lattice, p.width, std::min(most_channels, p.channels - k),
                                    p.adjoint, threads);
      if (!filter(values.from(map), out + map)) valid = false;
    }
  });
  return valid;
}

}  // namespace

template <class T>
bool bilateral_filter(const T* values, const std::uint8_t* photos, filtered_type<T>* out,
                      const BilateralFilterParams& p, Context& context) {
  return filter_images(Source(values), photos, out, p, context.threads);
}

template bool bilateral_filter(const half*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const float*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const double*, const std::uint8_t*, double*,
                               const BilateralFilterParams&, Context&);

}  // namespace cuekit::cpu
