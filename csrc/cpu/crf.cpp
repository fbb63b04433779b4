// Mean field of include/cuekit/dense_crf.h on the lattices of permutohedral.h. What makes it fast:
//
// - One pass over the pixels per iteration: read both lattices, add the unary, softmax, splat into
//   the next lattices. The first one reads the scores, and only the last one stores Q.
// - All labels of a pixel, or of a vertex, stand side by side and are worked on as vectors, padded
//   to whole ones with labels of probability 0.
// - Blurring works in place: along a chain of neighbours every vertex is read and written once, and
//   vertices without neighbours are not touched.
// - Weights and normalisation are part of the lattices' weights.
// - Pixels go down strips of a few rows, see permutohedral.h: what one of them read the next ones
//   find close by.
// - No branch depends on where a chain of neighbours ends.
// - What is needed soon is asked for ahead, what is far into the second cache only: the first one
//   waits for too few lines at a time. Memory is kept from call to call.
//
// Memory, L = labels padded: 4 L + 72 bytes per pixel; for every vertex 8 L and, in building the
// lattice, some 100.
#include "cuekit/crf.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuekit/crf.h"
#include "finite.h"
#include "float_state.h"
#include "lanes.h"
#include "parallel.h"
#include "permutohedral.h"
#include "simd.h"
#include "vector_math.h"
#include "workspace.h"

namespace cuekit::cpu {
namespace {

inline std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

using Values = Workspace<float>;

// One filter of the sum: its lattice, and the rows' values to read and to splat into.
struct Filter {
  const Lattice* lattice = nullptr;
  Values read, splat;
  bool far = false;  // the values are too many for the caches close to the processor
};

// All labels of one pixel or vertex, or a group of them: as many as registers hold.
template <class V, int parts>
struct Labels {
  static constexpr std::int64_t size = std::int64_t{parts} * V::size;
  V part[parts];

  static CUEKIT_INLINE Labels zero() {
    Labels result;
    for (int j = 0; j < parts; ++j) result.part[j] = V::zero();
    return result;
  }
  static CUEKIT_INLINE Labels load(const float* from) {
    Labels result;
    for (int j = 0; j < parts; ++j) result.part[j] = V::load(from + j * V::size);
    return result;
  }
  CUEKIT_INLINE void store(float* to) const {
    for (int j = 0; j < parts; ++j) part[j].store(to + j * V::size);
  }
  CUEKIT_INLINE void add(const Labels& other, float factor) {
    for (int j = 0; j < parts; ++j) part[j] = part[j] + other.part[j] * factor;
  }
  CUEKIT_INLINE void raise(const Labels& other) {
    for (int j = 0; j < parts; ++j) part[j] = larger(part[j], other.part[j]);
  }
};

CUEKIT_INLINE float max_of(Lanes<float, 4> v) {
  float a[4];
  v.store(a);
  return std::max(std::max(a[0], a[2]), std::max(a[1], a[3]));
}
CUEKIT_INLINE void split(Lanes<float, 8> v, Lanes<float, 4>* low, Lanes<float, 4>* high) {
  std::memcpy(low, &v, sizeof *low);
  std::memcpy(high, reinterpret_cast<const char*>(&v) + sizeof *low, sizeof *high);
}

// All labels added up but for the last four sums. Eight lanes are added pairwise, however wide the
// vectors are: every version gives the same bits. Four labels are one vector of four everywhere.
template <int parts>
CUEKIT_INLINE Lanes<float, 4> four_sums(const Labels<Lanes<float, 4>, parts>& x) {
  Lanes<float, 4> low = x.part[0];
  if (parts == 1) return low;
  Lanes<float, 4> high = x.part[1 % parts];
  for (int j = 2; j < parts; j += 2) {
    low = low + x.part[j];
    high = high + x.part[j + 1];
  }
  return low + high;
}
template <int parts>
CUEKIT_INLINE Lanes<float, 4> four_sums(const Labels<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  for (int j = 1; j < parts; ++j) all = all + x.part[j];
  Lanes<float, 4> low, high;
  split(all, &low, &high);
  return low + high;
}

template <int parts>
CUEKIT_INLINE float max_of(const Labels<Lanes<float, 4>, parts>& x) {
  Lanes<float, 4> all = x.part[0];
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  return max_of(all);
}
template <int parts>
CUEKIT_INLINE float max_of(const Labels<Lanes<float, 8>, parts>& x) {
  Lanes<float, 8> all = x.part[0];
  for (int j = 1; j < parts; ++j) all = larger(all, x.part[j]);
  Lanes<float, 4> low, high;
  split(all, &low, &high);
  return max_of(larger(low, high));
}

// What a pass over the pixels works on. Rows of values, and of the unary, are `stride` apart.
struct Pass {
  const float* unary;  // (N, stride)
  std::int64_t stride;
  const Filter* spatial;
  const Filter* bilateral;
  // A third filter that multiplies by a weight: Q of the iteration before, or null.
  const float* own;  // (N, stride)
  float own_weight;
  bool slice, splat;
};

// Up to this one, powers of 2 stay finite in a sum over labels, and the softmax can do without
// subtracting the largest. Nor does the sum vanish: the largest of a pixel's unaries is 0, and
// what filters add is positive but for rounding, and seldom more than the sum of their weights.
constexpr float largest_power = 64.0f;
constexpr std::int64_t together = 32;  // pixels; twice or half as many are no faster

// Slice, softmax and splat for pixels [first, last), in steps for some pixels together: a pixel's
// operations depend on one another in long chains, and the processor overlaps those of several
// pixels only where a step is short. In between, their labels stand in `scratch`.
template <class V, int parts, bool many>
struct MeanField {
  using L = Labels<V, parts>;

  // Q goes to `kept`, (last - first, stride), unless that is null.
  static CUEKIT_INLINE void run(const Pass* pass, std::int64_t first, std::int64_t last,
                                float* scratch, float* kept) {
    const std::int64_t stride = many ? pass->stride : L::size;
    float factors[together];
    for (std::int64_t i = first; i < last; i += together) {
      const std::int64_t count = std::min(together, last - i);
      L largest = L::zero();
      for (std::int64_t label = 0; label < stride; label += L::size)
        largest.raise(slice(*pass, stride, i, count, label, scratch));
      // At the end in any case: the label of a pixel that is sure gets 1 then, to the last bit.
      if (!pass->splat || max_of(largest) > largest_power) subtract_largest(stride, count, scratch);
      for (std::int64_t k = 0; k < count * stride; ++k) scratch[k] = exp2_of(scratch[k]);
      reciprocal_sums(stride, count, scratch, factors);
      for (std::int64_t label = 0; label < stride; label += L::size)
        splat(*pass, stride, i, count, label, scratch, factors,
              kept == nullptr ? nullptr : kept + (i - first) * stride + label);
    }
  }

 private:
  // A group of labels at the vertices of one filter's simplices, from some pixel on. Held by value:
  // the compiler would read a filter's pointers again after every store of labels.
  template <int corners>
  struct Simplices {
    const std::int32_t* rows = nullptr;
    const float* weights = nullptr;
    float* values = nullptr;
    std::int64_t stride = 0, asked_until = 0;

    CUEKIT_INLINE Simplices(const Filter& filter, const Values& all, std::int64_t row_stride,
                            std::int64_t pixel, std::int64_t label) {
      if (filter.lattice == nullptr) return;
      rows = filter.lattice->rows.get() + pixel * corners;
      weights = filter.lattice->weights.get() + pixel * corners;
      values = all.get() + label;
      stride = row_stride;
      if (filter.far) asked_until = filter.lattice->pixels - pixel - ahead;
    }

    CUEKIT_INLINE float* row(std::int64_t i, int k) const {
      return computed_once(values + rows[i * corners + k] * stride);
    }
    CUEKIT_INLINE void slice(std::int64_t i, L& to) const {
      if (rows == nullptr) return;
      for (int k = 0; k < corners; ++k) to.add(L::load(row(i, k)), weights[i * corners + k]);
    }
    CUEKIT_INLINE void splat(std::int64_t i, const L& from) const {
      if (rows == nullptr) return;
      for (int k = 0; k < corners; ++k) {
        float* const to = row(i, k);
        L sum = L::load(to);
        sum.add(from, weights[i * corners + k]);
        sum.store(to);
      }
    }

    // What pixel i of the next block is going to need.
    CUEKIT_INLINE void ask_for_simplex(std::int64_t i) const {
      if (rows == nullptr) return;
      prefetch_once(rows + (i + together) * corners, corners);
      prefetch_once(weights + (i + together) * corners, corners);
    }
    // The values that a pixel a few on is going to need; only where they are far, for the processor
    // has enough to do.
    CUEKIT_INLINE void ask_for_values(std::int64_t i) const {
      if (i >= asked_until) return;
      for (int k = 0; k < corners; ++k) prefetch_far(row(i + ahead, k), L::size);
    }
    static constexpr std::int64_t ahead = 16;
  };

  // Returns the largest of each label, or 0.
  static CUEKIT_INLINE L slice(const Pass& pass, std::int64_t stride, std::int64_t first,
                               std::int64_t count, std::int64_t label, float* out) {
    const float* const unary = pass.unary + first * stride + label;
    const float* const own = pass.own == nullptr ? nullptr : pass.own + first * stride + label;
    const float own_weight = pass.own_weight;
    const Filter none;
    const Filter& f1 = pass.slice ? *pass.spatial : none;
    const Filter& f2 = pass.slice ? *pass.bilateral : none;
    const Simplices<3> spatial(f1, f1.read, stride, first, label);
    const Simplices<6> bilateral(f2, f2.read, stride, first, label);
    L largest = L::zero();
    for (std::int64_t i = 0; i < count; ++i) {
      L x = L::load(unary + i * stride);
      prefetch_once(unary + (i + together) * stride, L::size);
      spatial.ask_for_simplex(i);
      bilateral.ask_for_simplex(i);
      spatial.ask_for_values(i);
      bilateral.ask_for_values(i);
      spatial.slice(i, x);
      bilateral.slice(i, x);
      if (own != nullptr && pass.slice) x.add(L::load(own + i * stride), own_weight);
      largest.raise(x);
      x.store(out + label + i * stride);
    }
    return largest;
  }

  static CUEKIT_INLINE void splat(const Pass& pass, std::int64_t stride, std::int64_t first,
                                  std::int64_t count, std::int64_t label, const float* in,
                                  const float* factors, float* kept) {
    const Filter none;
    const Filter& f1 = pass.splat ? *pass.spatial : none;
    const Filter& f2 = pass.splat ? *pass.bilateral : none;
    const Simplices<3> spatial(f1, f1.splat, stride, first, label);
    const Simplices<6> bilateral(f2, f2.splat, stride, first, label);
    for (std::int64_t i = 0; i < count; ++i) {
      L x = L::load(in + label + i * stride);
      for (int j = 0; j < parts; ++j) x.part[j] = x.part[j] * factors[i];
      spatial.ask_for_values(i);
      bilateral.ask_for_values(i);
      spatial.splat(i, x);
      bilateral.splat(i, x);
      if (kept != nullptr) x.store(kept + i * stride);
    }
  }

  static CUEKIT_INLINE void subtract_largest(std::int64_t stride, std::int64_t count,
                                             float* labels) {
    for (std::int64_t i = 0; i < count; ++i, labels += stride) {
      L largest = L::load(labels);
      for (std::int64_t label = L::size; label < stride; label += L::size)
        largest.raise(L::load(labels + label));
      const V shift = V::all(max_of(largest));
      for (std::int64_t label = 0; label < stride; label += L::size) {
        L x = L::load(labels + label);
        for (int j = 0; j < parts; ++j) x.part[j] = x.part[j] - shift;
        x.store(labels + label);
      }
    }
  }

  // The last additions and the division for several pixels at a time.
  static CUEKIT_INLINE void reciprocal_sums(std::int64_t stride, std::int64_t count,
                                            const float* labels, float* factors) {
    float sums[4 * together];
    for (std::int64_t i = 0; i < count; ++i, labels += stride) {
      L sum = L::load(labels);
      for (std::int64_t label = L::size; label < stride; label += L::size) {
        const L other = L::load(labels + label);
        for (int j = 0; j < parts; ++j) sum.part[j] = sum.part[j] + other.part[j];
      }
      four_sums(sum).store(sums + 4 * i);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const float* const four = sums + 4 * i;
      factors[i] = 1.0f / ((four[0] + four[2]) + (four[1] + four[3]));
    }
  }
};

// chain[0 .. count - 1] are whole chains; Lattice::chain_end entries follow them. Chains are short,
// and where one ends is anybody's guess: no branch depends on it. Every vertex mixes with what is
// before and after it in the list, with weight 0 from one chain to another. Values that the second
// cache holds are not asked for: the loop is as long as its instructions then.
template <class V, int parts>
struct Blur {
  using L = Labels<V, parts>;
  static CUEKIT_INLINE void run(const std::int32_t* chain, std::int64_t count, float* values,
                                std::int64_t stride, bool near) {
    if (count == 0) return;
    near ? blur<true>(chain, count, values, stride) : blur<false>(chain, count, values, stride);
  }

 private:
  template <bool near>
  static CUEKIT_INLINE void blur(const std::int32_t* chain, std::int64_t count, float* values,
                                 std::int64_t stride) {
    const auto row = [&](std::int32_t entry) { return values + (entry ^ (entry >> 31)) * stride; };
    float* at = row(chain[0]);
    L own = L::load(at), half_previous = L::zero();
    for (std::int64_t i = 0; i < count; ++i) {
      if (!near) prefetch_far(row(chain[i + Lattice::chain_end]), L::size);
      const std::int32_t after = chain[i + 1];
      const float half = 0.5f * static_cast<float>(1 + (after >> 31));  // 0 where a chain begins
      float* const to = i + 1 < count ? row(after) : at;  // others' rows are not for reading
      const L next = L::load(to);
      L mixed;
      for (int j = 0; j < parts; ++j) {
        mixed.part[j] = own.part[j] + (half_previous.part[j] + next.part[j] * half);
        half_previous.part[j] = own.part[j] * half;
      }
      mixed.store(at);
      own = next;
      at = to;
    }
  }
};

// The kernels for labels in groups of 8 * eights, or of 4 for eights = 0.
template <int eights, bool many>
struct Groups {
  using Four = Lanes<float, 4>;
  using Wide = std::conditional_t<eights == 0, Four, Lanes<float, 8>>;
  static constexpr int fours = eights == 0 ? 1 : 2 * eights;
  static constexpr int wides = eights == 0 ? 1 : eights;
  static constexpr std::int64_t size = 4 * fours;

  static void mean_field(const Pass* pass, std::int64_t first, std::int64_t last, float* scratch,
                         float* kept) {
    using InFours = MeanField<Four, fours, many>;
    using InWides = MeanField<Wide, wides, many>;
    dispatch_width<InFours, InWides, InWides>(pass, first, last, scratch, kept);
  }
  static void blur(const std::int32_t* chain, std::int64_t count, float* values,
                   std::int64_t stride, bool near) {
    for (std::int64_t label = 0; label < stride; label += size)
      dispatch_width<Blur<Four, fours>, Blur<Wide, wides>, Blur<Wide, wides>>(
          chain, count, values + label, stride, near);
  }
};

struct Kernels {
  std::int64_t stride;  // labels, padded
  void (*mean_field)(const Pass*, std::int64_t, std::int64_t, float*, float*);
  void (*blur)(const std::int32_t*, std::int64_t, float*, std::int64_t, bool);

  template <int eights, bool many>
  static Kernels of(std::int64_t labels) {
    using G = Groups<eights, many>;
    return {(labels + G::size - 1) / G::size * G::size, G::mean_field, G::blur};
  }
  static Kernels for_labels(std::int64_t labels) {
    if (labels <= 4) return of<0, false>(labels);
    if (labels <= 8) return of<1, false>(labels);
    if (labels <= 16) return of<2, false>(labels);
    if (labels <= 24) return of<3, false>(labels);
    if (labels <= 32) return of<4, false>(labels);
    return of<2, true>(labels);
  }
};

// ---- between maps and labels side by side ----

// Columns of a strip that are turned at a time, and how far apart their maps are: row after row,
// and a bit more, for what lies a power of two apart gets in each other's way in the caches.
constexpr std::int64_t columns = 64;
constexpr std::int64_t area = strip_height * columns + 16;
// Below this, a label's probability is 0 whatever else; a sum with it stays finite.
constexpr float impossible = -1e30f;

// Some columns of a strip of maps (channels, N).
template <class T>
struct Patch {
  const T* from;  // its first pixel in channel 0
  std::int64_t pixels, width;
  std::int64_t rows, count;  // columns

  CUEKIT_INLINE const T* row(std::int64_t channel, std::int64_t r) const {
    return from + channel * pixels + r * width;
  }
};

// Sets words of nonfinite_bit.
template <class T>
struct ScanChannels {
  static CUEKIT_INLINE void run(const Patch<T>* patch, std::int64_t channels,
                                typename float_bits<T>::type* seen) {
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t r = 0; r < patch->rows; ++r) {
        const T* const from = patch->row(c, r);
        prefetch(from + columns, columns);
        *seen |= nonfinite_bits(from, patch->count);
      }
  }
};

// Logarithms of probabilities, relative to each pixel's largest; maps (labels, area). Behind a
// row's columns others are computed along: compilers like loops of a known length.
template <class T>
struct ReadProbabilities {
  static CUEKIT_INLINE void run(const Patch<T>* patch, const std::int64_t* channels,
                                std::int64_t labels, float epsilon, float* __restrict maps) {
    for (std::int64_t r = 0; r < patch->rows; ++r, maps += columns) {
      float largest[columns];
      std::fill(largest, largest + columns, epsilon);
      for (std::int64_t k = 0; k < labels; ++k) {
        const T* const from = patch->row(channels[k], r);
        float* const to = maps + k * area;
        for (std::int64_t i = 0; i < patch->count; ++i) to[i] = static_cast<float>(load(from[i]));
        std::fill(to + patch->count, to + columns, 1.0f);
        for (std::int64_t i = 0; i < columns; ++i) {
          const float p = to[i], l = largest[i];
          const float clipped = p < epsilon ? epsilon : p > 1.0f ? 1.0f : p;
          to[i] = clipped;
          largest[i] = l < clipped ? clipped : l;
        }
      }
      for (std::int64_t i = 0; i < columns; ++i) largest[i] = log2_of(largest[i]);
      for (std::int64_t k = 0; k < labels; ++k)
        for (std::int64_t i = 0; i < columns; ++i)
          maps[k * area + i] = log2_of(maps[k * area + i]) - largest[i];
    }
  }
};

// Energies, relative to each pixel's lowest, with the sign turned.
template <class T>
void read_energies(const Patch<T>& patch, const std::vector<std::int64_t>& channels, float* maps) {
  for (std::int64_t r = 0; r < patch.rows; ++r, maps += columns)
    for (std::int64_t i = 0; i < patch.count; ++i) {
      double lowest = std::numeric_limits<double>::infinity();
      for (const std::int64_t c : channels) lowest = std::min(lowest, load(patch.row(c, r)[i]));
      for (std::size_t k = 0; k < channels.size(); ++k) {
        const double energy = load(patch.row(channels[k], r)[i]) - lowest;
        maps[static_cast<std::int64_t>(k) * area + i] =
            static_cast<float>(std::max(-energy * log2_of_e, static_cast<double>(impossible)));
      }
    }
}

// One image.
template <class T>
class Inference {
 public:
  Inference(const T* scores, const std::uint8_t* photo, const std::uint8_t* present, T* out,
            const Lattice* spatial, const CrfParams& p, int threads)
      : scores_(scores),
        out_(out),
        p_(p),
        threads_(threads),
        pixels_(p.height * p.width),
        bands_(divide_into_bands(p.height, p.width)) {
    channels_.push_back(0);
    for (std::int64_t c = 1; c < p.channels; ++c)
      if (present[c - 1]) channels_.push_back(c);
    kernels_ = Kernels::for_labels(static_cast<std::int64_t>(channels_.size()));
    unary_ = Values(pixels_ * kernels_.stride);
    if (spatial != nullptr && spatial->diagonal) {
      own_ = Values(pixels_ * kernels_.stride);
      own_weight_ = spatial->weight;
    } else if (spatial != nullptr) {
      use(spatial_, spatial);
    }
    if (p.bilateral_weight > 0 && p.iterations > 0) {
      bilateral_lattice_ =
          bilateral_lattice(photo, p.height, p.width, p.bilateral_sxy, p.bilateral_srgb,
                            p.bilateral_weight * static_cast<float>(log2_of_e), threads);
      use(bilateral_, &bilateral_lattice_);
      // Both share the caches, and this one fills them: from 4 MB on, for it is there twice.
      spatial_.far = bilateral_.far =
          bilateral_lattice_.row_count() * kernels_.stride > std::int64_t{1} << 20;
    }
  }

  // False when a score is not finite.
  bool run() {
    if (!pass(true, p_.iterations == 0)) return false;
    for (std::int64_t i = 1; i <= p_.iterations; ++i) {
      blur_both();
      pass(false, i == p_.iterations);
    }
    return true;
  }

 private:
  void use(Filter& filter, const Lattice* lattice) {
    filter.lattice = lattice;
    filter.read = Values(lattice->row_count() * kernels_.stride);
    filter.splat = Values(lattice->row_count() * kernels_.stride);
  }

  // A loop whose arithmetic is not slowed down by what is next to nothing.
  template <class Body>
  void each(std::int64_t count, Body&& body) {
    parallel_for(count, threads_, [&](std::int64_t i) {
      const DenormalsFlushed state;
      body(i);
    });
  }

  // Over all pixels, some columns of a strip at a time: the first pass reads the scores as it comes
  // to them, and the last one writes what it has just found. False when a score is not finite.
  bool pass(bool first, bool last) {
    const Pass pass{unary_.get(), kernels_.stride, &spatial_, &bilateral_,
                    own_.get(),   own_weight_,     !first,    !last};
    const auto labels = static_cast<std::int64_t>(channels_.size());
    std::atomic<bool> finite{true};
    each(static_cast<std::int64_t>(bands_.size()), [&](std::int64_t b) {
      if (!last)
        for (const Filter* filter : {&spatial_, &bilateral_}) clear(*filter, b);
      const Values scratch(together * kernels_.stride);
      const Values maps(first ? labels * area : 0);
      const Values result(last ? strip_height * columns * kernels_.stride : 0);
      for (const Strip& strip : strips_of(bands_[to_size(b)], p_.width))
        for (std::int64_t x = 0; x < p_.width; x += columns) {
          const std::int64_t count = std::min(columns, p_.width - x);
          const std::int64_t pixel = strip.first_row * p_.width + x * strip.rows;
          const std::int64_t at = pixel * kernels_.stride;
          if (first && !read_patch(strip, x, count, maps.get(), unary_.get() + at)) {
            finite = false;
            return;
          }
          float* const own = own_.get() == nullptr ? nullptr : own_.get() + at;
          kernels_.mean_field(&pass, pixel, pixel + count * strip.rows, scratch.get(),
                              last ? result.get() : own);
          if (last) write_patch(strip, x, count, result.get());
        }
    });
    return finite;
  }

  bool read_patch(const Strip& strip, std::int64_t x, std::int64_t count, float* maps,
                  float* unary) {
    const Patch<T> patch{scores_ + strip.first_row * p_.width + x, pixels_, p_.width, strip.rows,
                         count};
    const auto labels = static_cast<std::int64_t>(channels_.size());
    typename float_bits<T>::type seen = 0;
    dispatch<ScanChannels<T>>(&patch, p_.channels, &seen);
    if (any_nonfinite(seen)) return false;
    if (p_.energies)
      read_energies(patch, channels_, maps);
    else
      dispatch<ReadProbabilities<T>>(&patch, channels_.data(), labels, p_.epsilon, maps);
    for (std::int64_t i = 0; i < patch.count; ++i)
      for (std::int64_t r = 0; r < patch.rows; ++r, unary += kernels_.stride) {
        for (std::int64_t k = 0; k < labels; ++k) unary[k] = maps[k * area + r * columns + i];
        for (std::int64_t k = labels; k < kernels_.stride; ++k) unary[k] = impossible;
      }
    return true;
  }

  void write_patch(const Strip& strip, std::int64_t x, std::int64_t count, const float* from) {
    const std::int64_t step = strip.rows * kernels_.stride;
    for (std::int64_t r = 0; r < strip.rows; ++r, from += kernels_.stride)
      for (std::size_t k = 0; k < channels_.size(); ++k) {
        T* const to = out_ + channels_[k] * pixels_ + (strip.first_row + r) * p_.width + x;
        for (std::int64_t i = 0; i < count; ++i)
          to[i] = store<T>(static_cast<double>(from[i * step + static_cast<std::int64_t>(k)]));
      }
  }

  void clear(const Filter& filter, std::int64_t b) {
    if (filter.lattice == nullptr) return;
    const Band& band = filter.lattice->bands[to_size(b)];
    const auto zero = [&](std::int64_t first, std::int64_t last) {
      std::fill(filter.splat.get() + first * kernels_.stride,
                filter.splat.get() + last * kernels_.stride, 0.0f);
    };
    zero(band.first_vertex, band.last_vertex);
    zero(filter.lattice->vertices + band.first_copy, filter.lattice->vertices + band.last_copy);
  }

  // Vertices are shared out where they are many; else every thread takes a lattice, for the axes of
  // one must wait for each other.
  void blur_both() {
    std::vector<Filter*> filters;
    std::int64_t most = 0;
    for (Filter* filter : {&spatial_, &bilateral_}) {
      if (filter->lattice == nullptr) continue;
      filters.push_back(filter);
      most = std::max(most, filter->lattice->vertices);
    }
    const std::int64_t tasks = std::clamp<std::int64_t>(most >> 15, 1, std::min(threads_, 64));
    parallel_for(static_cast<std::int64_t>(filters.size()), tasks == 1 ? threads_ : 1,
                 [&](std::int64_t f) {
                   Filter& filter = *filters[to_size(f)];
                   blur(filter, tasks);
                   std::swap(filter.read, filter.splat);
                 });
  }

  void blur(const Filter& filter, std::int64_t tasks) {
    const Lattice& lattice = *filter.lattice;
    const auto copies = static_cast<std::int64_t>(lattice.originals.size());
    const std::int64_t stride = kernels_.stride;
    // 512 kB: a second cache of usual size has room for what else is in use.
    const bool near = lattice.row_count() * stride <= std::int64_t{1} << 17;
    float* const values = filter.splat.get();
    // A vertex's copies are added in order, whichever task has the vertex.
    each(tasks, [&](std::int64_t t) {
      const std::int64_t first = t * lattice.vertices / tasks;
      const std::int64_t last = (t + 1) * lattice.vertices / tasks;
      for (std::int64_t c = 0; c < copies; ++c) {
        const std::int64_t vertex = lattice.originals[to_size(c)];
        if (vertex < first || vertex >= last) continue;
        const float* const from = values + (lattice.vertices + c) * stride;
        float* const to = values + vertex * stride;
        for (std::int64_t k = 0; k < stride; ++k) to[k] += from[k];
      }
    });
    for (const auto& chain : lattice.chains) {
      const auto length = static_cast<std::int64_t>(chain.size()) - Lattice::chain_end;
      const auto start = [&](std::int64_t t) {
        std::int64_t i = t * length / tasks;
        while (chain[to_size(i)] >= 0) ++i;
        return i;
      };
      each(tasks, [&](std::int64_t t) {
        const std::int64_t first = start(t), last = start(t + 1);
        kernels_.blur(chain.data() + first, last - first, values, stride, near);
      });
    }
    each(tasks, [&](std::int64_t t) {
      for (std::int64_t c = t * copies / tasks; c < (t + 1) * copies / tasks; ++c)
        std::copy_n(values + lattice.originals[to_size(c)] * stride, stride,
                    values + (lattice.vertices + c) * stride);
    });
  }

  const T* scores_;
  T* out_;
  const CrfParams& p_;
  int threads_;
  std::int64_t pixels_;
  std::vector<Band> bands_;
  std::vector<std::int64_t> channels_;  // of the labels
  Kernels kernels_{};
  Values unary_;
  Lattice bilateral_lattice_;
  Filter spatial_, bilateral_;
  Values own_;
  float own_weight_ = 0;
};

}  // namespace

template <class T>
bool crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present, T* out,
         const CrfParams& p, Context& context) {
  if (p.half_storage)
    throw std::invalid_argument("storage must be 'float32' on the CPU, got 'float16'");
  const std::int64_t pixels = p.height * p.width;
  const bool filtered = p.gaussian_weight > 0 && p.iterations > 0;
  const Lattice lattice =
      filtered ? spatial_lattice(p.height, p.width, p.gaussian_sxy,
                                 p.gaussian_weight * static_cast<float>(log2_of_e), context.threads)
               : Lattice{};
  const Lattice* const spatial = filtered ? &lattice : nullptr;
  std::atomic<bool> finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner) {
    Inference<T> inference(scores + b * p.channels * pixels, photos + b * 3 * pixels,
                           present + b * (p.channels - 1), out + b * p.channels * pixels, spatial,
                           p, inner);
    if (!inference.run()) finite = false;
  });
  return finite;
}

template bool crf(const half*, const std::uint8_t*, const std::uint8_t*, half*, const CrfParams&,
                  Context&);
template bool crf(const float*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const double*, const std::uint8_t*, const std::uint8_t*, double*,
                  const CrfParams&, Context&);

}  // namespace cuekit::cpu
