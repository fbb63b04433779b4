// The CRF of cuekit/crf_features.h on the CPU, on the lattices of crf/lattice.h.
//
// A pass goes over the points in blocks: it reads the blurred values at their vertices (slice),
// adds what each kernel says of each class, takes the softmax, and adds the new Q to the vertices
// for the next blur (splat). All classes of a point are side by side (crf/class_vector.h). Unlike
// the pass of crf/mean_field.h, whose two filters have known numbers of features, each step is a
// loop over a block for one kernel.
//
// Memory, L = classes that take part, rounded up to whole vectors: 4 L bytes per point, 8 L if
// energies are wanted; for each kernel 8 (D + 1) per point, 8 L per vertex; 10 bytes per point if
// the points are sorted.
#include "cuekit/crf_features.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/crf/block.h"
#include "cpu/crf/blur.h"
#include "cpu/crf/class_vector.h"
#include "cpu/crf/exp2_log2.h"
#include "cpu/crf/filter.h"
#include "cpu/crf/lattice.h"
#include "cpu/crf/patch.h"
#include "cpu/crf/point_order.h"
#include "cpu/crf/read_scores.h"
#include "cpu/crf/record.h"
#include "cpu/crf/write_results.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"
#include "cuekit/crf_gradient.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t block_size = Patch::max_columns;

// Replaces logits in units of ln 2 by probabilities. The maximum, the sum and the reciprocal of a
// point are in all lanes of a vector: no step waits for a scalar value. Three loops, because a
// point's operations depend on each other, and the processor overlaps more points of a short loop.
template <class X, bool many>
struct Softmax {
  using V = typename X::Vector;
  static CUEKIT_INLINE void run(std::int64_t count, std::int64_t row,
                                float* values) {  // (count, stride)
    const std::int64_t stride = many ? row : X::size;
    for (std::int64_t i = 0; i < count; ++i) {
      float* const own = values + i * stride;
      X largest = X::load(own);
      for (std::int64_t k = X::size; k < stride; k += X::size) largest.raise_to(X::load(own + k));
      const V shift = largest_of(largest);
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(own + k);
        x.subtract(shift);
        x.store(own + k);
      }
    }
    for (std::int64_t k = 0; k < count * stride; k += V::size)
      exp2_of_each(V::load(values + k)).store(values + k);
    for (std::int64_t i = 0; i < count; ++i) {
      float* const own = values + i * stride;
      X sum = X::load(own);
      for (std::int64_t k = X::size; k < stride; k += X::size) sum.add(X::load(own + k));
      const V factor = V::all(1.0f) / sum_of(sum);
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X x = X::load(own + k);
        x.multiply_all(factor);
        x.store(own + k);
      }
    }
  }
};

// The same for rows of four classes. V: the values of one point, or of two.
template <class V>
struct SoftmaxOfFours {
  static CUEKIT_INLINE void run(std::int64_t count,
                                float* values) {  // (count, 4), and room for one point more
    for (std::int64_t i = 0; i < 4 * count; i += V::size) {
      V x = V::load(values + i);
      x = exp2_of_each(x - largest_of_fours(x));
      (x * (V::all(1.0f) / sums_of_fours(x))).store(values + i);
    }
  }
};

void softmax(std::int64_t classes, std::int64_t count, std::int64_t stride, float* values) {
  if (stride > 4) return run_for_group<Softmax>(classes, count, stride, values);
  dispatch_width<SoftmaxOfFours<Lanes<float, 4>>, SoftmaxOfFours<Lanes<float, 8>>>(count, values);
}

// One kernel of the CRF in a call: its lattice and values, and its gains for the classes that take
// part.
struct Term {
  const CrfFilter& filter;
  bool is_diagonal;
  Filter values;
  Workspace<float> gains;  // (rows, stride)
  std::int64_t rows;

  Term(const CrfTerm& term, const std::vector<std::int64_t>& channels, std::int64_t all,
       std::int64_t stride)
      : filter(*term.filter), is_diagonal(term.is_diagonal) {
    const auto classes = static_cast<std::int64_t>(channels.size());
    rows = term.is_diagonal ? 1 : classes;
    values.allocate(filter.lattice.get(), stride);
    values.prefetch_values = prefetch_pays(*filter.lattice, stride);
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

class PointInference {
 public:
  // `recorded`: whether the marginals of all steps are kept, for record().
  PointInference(const Scores& scores, const std::uint8_t* present,
                 const std::optional<Source>& start, const Target<float>& out, double* energy,
                 const std::vector<CrfTerm>& terms, const CrfFeaturesParams& p, bool recorded,
                 int threads)
      : scores_(scores), start_(start), out_(out), energy_(energy), p_(p), threads_(threads) {
    channels_.push_back(0);
    for (std::int64_t c = 1; c < p.channels; ++c)
      if (present[c - 1] != 0) channels_.push_back(c);
    classes_ = static_cast<std::int64_t>(channels_.size());
    stride_ = class_stride(classes_);
    unary_ = Workspace<float>(p.points * stride_);
    if (recorded) step_size_ = p.points * stride_;
    if (recorded || energy != nullptr)
      marginals_ = Workspace<float>(p.points * stride_ + p.iterations * step_size_);
    bands_ = divide_points(p.points);
    if (!terms.empty()) order_ = terms.front().filter->order;
    terms_.reserve(terms.size());
    for (const CrfTerm& term : terms) terms_.emplace_back(term, channels_, p.channels, stride_);
  }
  PointInference(const PointInference&) = delete;
  PointInference& operator=(const PointInference&) = delete;

  bool run() {
    if (order_ != nullptr && !read_in_order()) return false;
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
    if (order_ != nullptr)
      write_in_order(results(), stride_, *order_, bands_, channels_, threads_, out_);
    return true;
  }

  // Of the run; it ends the use of this.
  Record record() {
    Record result;
    result.channels = channels_;
    result.stride = stride_;
    result.iterations = p_.iterations;
    result.pixels = p_.points;
    result.bands = bands_;
    result.order = order_;
    for (Term& term : terms_)
      result.terms.push_back({term.filter.lattice, term.filter.normalisation, term.is_diagonal,
                              std::move(term.gains), term.rows});
    result.marginals = std::move(marginals_);
    return result;
  }

 private:
  // Q of each place after the last iteration. Without a record or energies it replaces the unaries.
  float* results() const {
    return marginals_.get() == nullptr ? unary_.get()
                                       : marginals_.get() + p_.iterations * step_size_;
  }

  bool read_in_order() const {
    std::atomic<bool> valid{true};
    const Workspace<float> planes(static_cast<std::int64_t>(bands_.size()) * planes_size());
    for_points(*order_, bands_, stride_, threads_,
               [&](std::int64_t b, const Patch& patch, float* rows, const std::int32_t* places) {
                 if (!read(patch, planes.get() + b * planes_size(), rows)) valid = false;
                 for (std::int64_t i = 0; i < patch.columns; ++i)
                   std::copy_n(rows + i * stride_, stride_, unary_.get() + places[i] * stride_);
               });
    return valid;
  }

  std::int64_t planes_size() const { return classes_ * plane_size; }

  // Pass 0 has no messages, and reads scores unless read_in_order() has. Passes after `write` only
  // find the energy.
  bool pass(std::int64_t number, bool write, bool splat) {
    std::atomic<bool> valid{true};
    std::vector<double> energies(bands_.size());
    parallel_for(static_cast<std::int64_t>(bands_.size()), threads_, [&](std::int64_t b) {
      const DenormalsFlushed state;
      const Band& band = bands_.data()[b];
      if (splat)
        for (const Term& term : terms_) clear_splatted(term.values, b, stride_);
      const bool reads = number == 0 && order_ == nullptr;
      const Workspace<float> planes(reads ? planes_size() : 0);
      const Workspace<float> rows(block_size * stride_), filtered(block_size * stride_);
      PollAfterWork poll_after;
      for (std::int64_t i = band.first_pixel; i < band.last_pixel; i += block_size) {
        const std::int64_t count = std::min(block_size, band.last_pixel - i);
        poll_after(count * stride_ * static_cast<std::int64_t>(terms_.size() + 1));
        const Patch patch{0, 1, i, count, p_.points, p_.points};
        float* const unary = unary_.get() + i * stride_;
        if (reads && !read(patch, planes.get(), unary)) {
          valid = false;
          return;
        }
        if (number > 0 && !terms_.empty())
          add_messages(band, i, count, unary, filtered.get(), rows.get());
        else
          std::copy_n(unary, count * stride_, rows.get());
        if (number > 0 && energy_ != nullptr)
          energies.data()[b] +=
              energy_of(marginals_.get() + i * stride_, rows.get(), count * stride_);
        if (number > p_.iterations) continue;
        softmax(classes_, count, stride_, rows.get());
        if (number == 0 && start_) read_start(patch, rows.get());
        if (marginals_.get() != nullptr)
          std::copy_n(rows.get(), count * stride_,
                      marginals_.get() + number * step_size_ + i * stride_);
        if (splat) splat_rows(band, i, count, rows.get());
        if (write && order_ == nullptr)
          write_results(rows.get(), stride_, patch, channels_, out_);
        else if (write && marginals_.get() == nullptr)
          std::copy_n(rows.get(), count * stride_, results() + i * stride_);
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
    for (std::int64_t i = 0; i < patch.columns; ++i) {
      const std::int64_t place = patch.first_column + i;
      const std::int64_t point = order_ == nullptr ? place : order_->point_at.get()[place];
      for (std::int64_t k = 0; k < classes_; ++k)
        start_->read(channels_.data()[k] * p_.points + point, 1, 1, rows + i * stride_ + k);
    }
  }

  // Writes logits: unaries and what all kernels add.
  void add_messages(const Band& band, std::int64_t first, std::int64_t count, const float* unary,
                    float* filtered, float* logits) const {
    const float* before = unary;
    for (const Term& term : terms_) {
      const Block block =
          block_of(term.values, term.values.sliced, term.norms(CrfNormalisation::after), band,
                   first, count, stride_);
      const float* const gains = term.gains.get();
      const bool diagonal = term.rows == 1;
      if (!diagonal && before != logits) std::copy_n(before, count * stride_, logits);
      slice(classes_, block, diagonal ? gains : nullptr, before, logits, filtered);
      if (!diagonal) add_products(classes_, filtered, count, stride_, gains, term.rows, logits);
      before = logits;
    }
  }

  void splat_rows(const Band& band, std::int64_t first, std::int64_t count,
                  const float* rows) const {
    for (const Term& term : terms_) {
      const Block block =
          block_of(term.values, term.values.splatted, term.norms(CrfNormalisation::before), band,
                   first, count, stride_);
      splat(classes_, block, rows);
    }
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

  Scores scores_;
  std::optional<Source> start_;
  Target<float> out_;
  double* energy_;
  const CrfFeaturesParams& p_;
  int threads_;
  std::vector<Band> bands_;
  std::shared_ptr<const PointOrder> order_;  // null: that of the caller
  std::vector<std::int64_t> channels_;       // of each class: background and present classes
  std::int64_t classes_, stride_;
  Workspace<float> unary_;      // (N, stride)
  Workspace<float> marginals_;  // (N, stride), or those of all steps, or nothing
  std::int64_t step_size_ = 0;  // from one step's marginals to the next; 0: they are in one place
  std::vector<Term> terms_;
};

bool infer(const Scores& scores, const std::uint8_t* present, const std::optional<Source>& start,
           const Target<float>& out, double* energy, const std::vector<CrfTerm>& terms,
           const CrfFeaturesParams& p, int threads) {
  const DefaultFloatState state;
  return PointInference(scores, present, start, out, energy, terms, p, false, threads).run();
}

std::vector<CrfRecord> infer_recorded(const Scores& scores, const std::uint8_t* present,
                                      const Target<float>& out, const std::vector<CrfTerm>& terms,
                                      const CrfFeaturesParams& p, int threads) {
  const DefaultFloatState state;
  PointInference inference(scores, present, {}, out, nullptr, terms, p, true, threads);
  if (!inference.run()) return {};
  return {{std::make_shared<const Record>(inference.record())}};
}

}  // namespace

CrfOrder crf_order(const float* features, int d, std::int64_t points, Context&) {
  const DefaultFloatState state;
  return {order_of_points(features, d, points)};
}

CrfFilter crf_filter(const float* features, int d, std::int64_t points,
                     CrfNormalisation normalisation, const CrfOrder& order, Context& context) {
  const DefaultFloatState state;
  // By `mean`, the factors are kept apart from the weights.
  const Normalisation of_lattice = normalisation == CrfNormalisation::symmetric
                                       ? Normalisation::symmetric
                                   : normalisation == CrfNormalisation::none ? Normalisation::none
                                                                             : Normalisation::mean;
  return {std::make_shared<const Lattice>(lattice_of_points(features, d, points, order.order.get(),
                                                            of_lattice, context.threads)),
          normalisation, order.order};
}

template <class T>
bool crf_features(const T* scores, const std::uint8_t* present, const marginal_type<T>* start,
                  marginal_type<T>* out, double* energy, const std::vector<CrfTerm>& terms,
                  const CrfFeaturesParams& p, Context& context) {
  std::optional<Source> first;
  if (start != nullptr) first.emplace(start);
  return infer(Scores(scores), present, first, Target<float>(out), energy, terms, p,
               context.threads);
}

template <class T>
std::vector<CrfRecord> crf_features_recorded(const T* scores, const std::uint8_t* present,
                                             marginal_type<T>* out,
                                             const std::vector<CrfTerm>& terms,
                                             const CrfFeaturesParams& p, Context& context) {
  return infer_recorded(Scores(scores), present, Target<float>(out), terms, p, context.threads);
}

template bool crf_features(const half*, const std::uint8_t*, const float*, float*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const float*, const std::uint8_t*, const float*, float*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const double*, const std::uint8_t*, const double*, double*, double*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template std::vector<CrfRecord> crf_features_recorded(const half*, const std::uint8_t*, float*,
                                                      const std::vector<CrfTerm>&,
                                                      const CrfFeaturesParams&, Context&);
template std::vector<CrfRecord> crf_features_recorded(const float*, const std::uint8_t*, float*,
                                                      const std::vector<CrfTerm>&,
                                                      const CrfFeaturesParams&, Context&);
template std::vector<CrfRecord> crf_features_recorded(const double*, const std::uint8_t*, double*,
                                                      const std::vector<CrfTerm>&,
                                                      const CrfFeaturesParams&, Context&);

}  // namespace cuekit::cpu
