// The CRF of cuekit/crf_features.h on the CPU, on the lattices of crf/lattice.h.
//
// A pass goes over the points in blocks: it reads the blurred values at their vertices (slice),
// adds what each kernel says of each class, takes the softmax, and adds the new Q to the vertices
// for the next blur (splat). All classes of a point are side by side (crf/class_vector.h). Unlike
// the pass of crf/mean_field.h, whose two filters have known numbers of features, each step is a
// loop over a block for one kernel.
//
// Memory, L = classes that take part, rounded up to whole vectors: 4 L bytes per point, 8 L if
// energies are wanted; for each kernel 8 (D + 1) per point, 8 L per vertex.
#include "cuekit/crf_features.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/crf/blur.h"
#include "cpu/crf/class_vector.h"
#include "cpu/crf/exp2_log2.h"
#include "cpu/crf/filter.h"
#include "cpu/crf/lattice.h"
#include "cpu/crf/patch.h"
#include "cpu/crf/read_scores.h"
#include "cpu/crf/write_results.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t block_size = Patch::max_columns;

// The simplices of a block's points, and the values at the nodes of their lattice.
struct Block {
  const Node* nodes;     // (count, corners)
  const float* weights;  // (count, corners)
  const float* norms;    // (count): factors of the points; null: none
  float* values;         // (nodes of the lattice, stride)
  std::int64_t corners, count, stride;
  std::int64_t prefetch_end;  // points below it prefetch values

  static constexpr std::int64_t ahead = 16;
};

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
    if (i >= b.prefetch_end) return;
    for (std::int64_t c = 0; c < corners; ++c) prefetch_far(row(i + Block::ahead, c, 0), stride);
  }
};

template <class X, bool many, int known_corners>
struct Splat {
  static CUEKIT_INLINE void run(const Block* block, const float* rows) {  // (count, stride)
    const Block b = *block;
    const Simplices<X, many, known_corners> simplices{b};
    const std::int64_t corners = simplices.corners, stride = simplices.stride;
    for (std::int64_t i = 0; i < b.count; ++i) {
      simplices.prefetch_values(i);
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

// Adds gains times filtered values to the logits, or writes filtered values if `gains` is null.
template <class X, bool many, int known_corners>
struct Slice {
  static CUEKIT_INLINE void run(const Block* block,
                                const float* gains,  // (stride): the diagonal of g
                                float* logits,       // (count, stride)
                                float* filtered) {   // (count, stride)
    const Block b = *block;
    const Simplices<X, many, known_corners> simplices{b};
    const std::int64_t corners = simplices.corners, stride = simplices.stride;
    for (std::int64_t i = 0; i < b.count; ++i) {
      simplices.prefetch_values(i);
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::zero();
        for (std::int64_t c = 0; c < corners; ++c)
          x.add(X::load(simplices.row(i, c, k)), b.weights[i * corners + c]);
        if (b.norms != nullptr) x.multiply(b.norms[i]);
        if (gains == nullptr) {
          x.store(filtered + i * stride + k);
        } else {
          X sum = X::load(logits + i * stride + k);
          sum.add_product(X::load(gains + k), x);
          sum.store(logits + i * stride + k);
        }
      }
    }
  }
};

// Adds gains times filtered values to the logits.
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

// Replaces logits in units of ln 2 by probabilities.
template <class X, bool many>
struct Softmax {
  static CUEKIT_INLINE void run(std::int64_t count, std::int64_t row,
                                float* values) {  // (count, stride)
    const std::int64_t stride = many ? row : X::size;
    for (std::int64_t i = 0; i < count; ++i) {
      float* const own = values + i * stride;
      X largest = X::load(own);
      for (std::int64_t k = X::size; k < stride; k += X::size) largest.raise_to(X::load(own + k));
      const auto shift = X::all(max_of(largest));
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(own + k);
        x.subtract(shift);
        x.store(own + k);
      }
    }
    for (std::int64_t k = 0; k < count * stride; ++k) values[k] = exp2_of(values[k]);
    for (std::int64_t i = 0; i < count; ++i) {
      float* const own = values + i * stride;
      X sum = X::load(own);
      for (std::int64_t k = X::size; k < stride; k += X::size) sum.add(X::load(own + k));
      float four[4];
      four_sums(sum).store(four);
      const float factor = 1.0f / ((four[0] + four[2]) + (four[1] + four[3]));
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(own + k);
        x.multiply(factor);
        x.store(own + k);
      }
    }
  }
};

// Runs a kernel for the group that the classes are divided into.
template <template <class, bool> class Kernel, class... Args>
void run_for_group(std::int64_t classes, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    using Fours = Kernel<ClassVector<typename Group::Four, Group::fours>, Group::many>;
    using Wides = Kernel<ClassVector<typename Group::Wide, Group::wides>, Group::many>;
    dispatch_width<Fours, Wides, Wides>(args...);
  });
}

// The same for a kernel of simplices that have `corners` corners.
template <template <class, bool, int> class Kernel, int corners, class... Args>
void run_for_corners(std::int64_t classes, const Block* block, Args... args) {
  with_class_group(classes, [=](auto group) {
    using Group = decltype(group);
    // With many classes the loop over corners is not the inner one.
    constexpr int known = Group::many ? 0 : corners;
    using Fours = Kernel<ClassVector<typename Group::Four, Group::fours>, Group::many, known>;
    using Wides = Kernel<ClassVector<typename Group::Wide, Group::wides>, Group::many, known>;
    dispatch_up_to_avx2<Fours, Wides>(block, args...);
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

// One kernel of the CRF in a call: its lattice and values, and its gains for the classes that take
// part.
struct Term {
  const CrfFilter& filter;
  Filter values;
  Workspace<float> gains;  // (rows, stride)
  std::int64_t rows;

  Term(const CrfTerm& term, const std::vector<std::int64_t>& channels, std::int64_t all,
       std::int64_t stride)
      : filter(*term.filter) {
    const auto classes = static_cast<std::int64_t>(channels.size());
    rows = term.is_diagonal ? 1 : classes;
    values.allocate(filter.lattice.get(), stride);
    values.prefetch_values = filter.lattice->node_count() * stride > std::int64_t{1} << 17;
    gains = Workspace<float>(rows * stride);
    std::fill_n(gains.get(), rows * stride, 0.0f);
    const auto unit = static_cast<float>(log2_of_e);
    for (std::int64_t l = 0; l < rows; ++l)
      for (std::int64_t k = 0; k < classes; ++k) {
        const float gain = term.is_diagonal ? term.gains[channels[k]]
                                            : term.gains[channels[k] * all + channels[l]];
        gains.get()[l * stride + k] = gain * unit;
      }
  }

  const float* norms(CrfNormalisation where) const {
    return filter.normalisation == where ? filter.lattice->norms.get() : nullptr;
  }
};

template <class T>
class PointInference {
  using Q = marginal_type<T>;

 public:
  PointInference(const T* scores, const std::uint8_t* present, const Q* start, Q* out,
                 double* energy, const std::vector<CrfTerm>& terms, const CrfFeaturesParams& p,
                 int threads)
      : scores_(scores), start_(start), out_(out), energy_(energy), p_(p), threads_(threads) {
    channels_.push_back(0);
    for (std::int64_t c = 1; c < p.channels; ++c)
      if (present[c - 1] != 0) channels_.push_back(c);
    classes_ = static_cast<std::int64_t>(channels_.size());
    stride_ = class_stride(classes_);
    unary_ = Workspace<float>(p.points * stride_);
    if (energy != nullptr) marginals_ = Workspace<float>(p.points * stride_);
    bands_ = divide_points(p.points);
    terms_.reserve(terms.size());
    for (const CrfTerm& term : terms) terms_.emplace_back(term, channels_, p.channels, stride_);
  }
  PointInference(const PointInference&) = delete;
  PointInference& operator=(const PointInference&) = delete;

  bool run() {
    // The energy of a Q needs its messages, which are there one pass later.
    const std::int64_t last = p_.iterations + (p_.energy_of_result ? 1 : 0);
    for (std::int64_t i = 0; i <= last; ++i) {
      if (i > 0)
        for (Term& term : terms_) {
          const std::int64_t tasks = blur_tasks(term.values.lattice->vertices, threads_);
          blur_in_place(*term.values.lattice, term.values.splatted.get(), classes_,
                        AxisOrder::ascending, tasks, threads_);
          std::swap(term.values.sliced, term.values.splatted);
        }
      if (!pass(i, i == p_.iterations, i < last)) return false;
    }
    return true;
  }

 private:
  // Pass 0 has no messages, and is the only one that reads scores. Passes after `write` only find
  // the energy.
  bool pass(std::int64_t number, bool write, bool splat) {
    std::atomic<bool> valid{true};
    std::vector<double> energies(bands_.size());
    parallel_for(static_cast<std::int64_t>(bands_.size()), threads_, [&](std::int64_t b) {
      const DenormalsFlushed state;
      const Band& band = bands_.data()[b];
      if (splat)
        for (const Term& term : terms_) clear_splatted(term, b);
      const Workspace<float> planes(number == 0 ? classes_ * plane_size : 0);
      const Workspace<float> rows(block_size * stride_), filtered(block_size * stride_);
      PollAfterWork poll_after;
      for (std::int64_t i = band.first_pixel; i < band.last_pixel; i += block_size) {
        const std::int64_t count = std::min(block_size, band.last_pixel - i);
        poll_after(count * stride_ * static_cast<std::int64_t>(terms_.size() + 1));
        const Patch patch{0, 1, i, count, p_.points, p_.points};
        float* const unary = unary_.get() + i * stride_;
        if (number == 0 && !read(patch, planes.get(), unary)) {
          valid = false;
          return;
        }
        std::copy_n(unary, count * stride_, rows.get());
        if (number > 0) add_messages(band, i, count, filtered.get(), rows.get());
        if (number > 0 && energy_ != nullptr)
          energies.data()[b] +=
              energy_of(marginals_.get() + i * stride_, rows.get(), count * stride_);
        if (number > p_.iterations) continue;
        run_for_group<Softmax>(classes_, count, stride_, rows.get());
        if (number == 0 && start_ != nullptr) read_start(patch, rows.get());
        if (energy_ != nullptr)
          std::copy_n(rows.get(), count * stride_, marginals_.get() + i * stride_);
        if (splat) splat_rows(band, i, count, rows.get());
        if (write) write_results(rows.get(), stride_, patch, channels_, out_);
      }
    });
    if (number > 0 && energy_ != nullptr) {
      double sum = 0;
      for (const double part : energies) sum += part;
      energy_[number - 1] = sum / log2_of_e;
    }
    return valid;
  }

  bool read(const Patch& patch, float* planes, float* unary) const {
    CrfParams p{};
    p.channels = p_.channels;
    p.energies = p_.energies;
    p.epsilon = p_.epsilon;
    return read_scores(scores_, p, patch, channels_, planes, unary, stride_, stride_);
  }

  void read_start(const Patch& patch, float* rows) const {
    for (std::int64_t k = 0; k < classes_; ++k)
      for (std::int64_t i = 0; i < patch.columns; ++i)
        rows[i * stride_ + k] =
            static_cast<float>(start_[patch.offset(channels_.data()[k], 0) + i]);
  }

  Block block_of(const Term& term, const float* norms, float* values, const Band& band,
                 std::int64_t first, std::int64_t count) const {
    const Lattice& lattice = *term.values.lattice;
    const std::int64_t corners = lattice.corners;
    return {lattice.nodes.get() + first * corners,
            lattice.weights.get() + first * corners,
            norms == nullptr ? nullptr : norms + first,
            values,
            corners,
            count,
            stride_,
            term.values.prefetch_values ? band.last_pixel - first - Block::ahead : 0};
  }

  void add_messages(const Band& band, std::int64_t first, std::int64_t count, float* filtered,
                    float* logits) const {
    for (const Term& term : terms_) {
      const Block block = block_of(term, term.norms(CrfNormalisation::after),
                                   term.values.sliced.get(), band, first, count);
      const float* const gains = term.gains.get();
      const bool diagonal = term.rows == 1;
      run_for_simplices<Slice>(classes_, &block, diagonal ? gains : nullptr, logits, filtered);
      if (!diagonal)
        run_for_group<AddProducts>(classes_, static_cast<const float*>(filtered), count, stride_,
                                   gains, term.rows, logits);
    }
  }

  void splat_rows(const Band& band, std::int64_t first, std::int64_t count,
                  const float* rows) const {
    for (const Term& term : terms_) {
      const Block block = block_of(term, term.norms(CrfNormalisation::before),
                                   term.values.splatted.get(), band, first, count);
      run_for_simplices<Splat>(classes_, &block, rows);
    }
  }

  void clear_splatted(const Term& term, std::int64_t b) const {
    const Lattice& lattice = *term.values.lattice;
    const Band& band = lattice.bands.data()[b];
    float* const values = term.values.splatted.get();
    std::fill(values + band.first_vertex * stride_, values + band.last_vertex * stride_, 0.0f);
    std::fill(values + (lattice.vertices + band.first_copy) * stride_,
              values + (lattice.vertices + band.last_copy) * stride_, 0.0f);
  }

  // In units of ln 2. What pads a row has probability 0, and so has no part in it.
  static double energy_of(const float* q, const float* logits, std::int64_t count) {
    double sum = 0;
    for (std::int64_t k = 0; k < count; ++k) {
      const auto p = static_cast<double>(q[k]);
      if (p > 1e-30) sum += p * (std::log2(p) - static_cast<double>(logits[k]));
    }
    return sum;
  }

  const T* scores_;
  const Q* start_;
  Q* out_;
  double* energy_;
  const CrfFeaturesParams& p_;
  int threads_;
  std::vector<Band> bands_;
  std::vector<std::int64_t> channels_;  // of each class: background and present classes
  std::int64_t classes_, stride_;
  Workspace<float> unary_;      // (N, stride)
  Workspace<float> marginals_;  // (N, stride), or nothing
  std::vector<Term> terms_;
};

}  // namespace

CrfFilter crf_filter(const float* features, int d, std::int64_t points,
                     CrfNormalisation normalisation, Context& context) {
  const DefaultFloatState state;
  // By `mean`, the factors are kept apart from the weights.
  const Normalisation of_lattice = normalisation == CrfNormalisation::symmetric
                                       ? Normalisation::symmetric
                                   : normalisation == CrfNormalisation::none ? Normalisation::none
                                                                             : Normalisation::mean;
  return {std::make_shared<const Lattice>(
              lattice_of_points(features, d, points, of_lattice, context.threads)),
          normalisation};
}

template <class T>
bool crf_features(const T* scores, const std::uint8_t* present, const marginal_type<T>* start,
                  marginal_type<T>* out, double* energy, const std::vector<CrfTerm>& terms,
                  const CrfFeaturesParams& p, Context& context) {
  const DefaultFloatState state;
  return PointInference<T>(scores, present, start, out, energy, terms, p, context.threads).run();
}

template bool crf_features(const half*, const std::uint8_t*, const float*, float*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const float*, const std::uint8_t*, const float*, float*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const double*, const std::uint8_t*, const double*, double*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);

}  // namespace cuekit::cpu
