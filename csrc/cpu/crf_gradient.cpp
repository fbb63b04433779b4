// The gradient of cuekit/crf_gradient.h on the CPU: the passes of the mean field backwards, on the
// lattices and marginals that the forward pass has recorded (crf/record.h).
//
// A pass goes over the pixels in patches: it reads the blurred values of the pass before at their
// vertices (slice), goes back through the softmax, and adds the result to the vertices for the next
// blur (splat).
//
// Memory, L = classes that take part, rounded up to whole vectors: 4 L bytes per pixel, and for
// each kernel 8 L per vertex; besides the record.
#include "cuekit/crf_gradient.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/crf/block.h"
#include "cpu/crf/blur.h"
#include "cpu/crf/class_vector.h"
#include "cpu/crf/filter.h"
#include "cpu/crf/patch.h"
#include "cpu/crf/point_order.h"
#include "cpu/crf/record.h"
#include "cpu/crf/write_results.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t patch_size = strip_height * Patch::max_columns;

// Logits are in units of ln 2.
constexpr auto unit = static_cast<float>(1 / log2_of_e);

// Replaces the gradient with respect to Q by that with respect to its logits in their unit, and
// adds that with respect to natural logits to `sums`.
template <class X, bool many>
struct BackThroughSoftmax {
  static CUEKIT_INLINE void run(const float* q,  // (count, stride)
                                std::int64_t count, std::int64_t row,
                                float* gradients,  // (count, stride)
                                float* sums) {     // (count, stride)
    const std::int64_t stride = many ? row : X::size;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t own = i * stride;
      X products = X::zero();
      for (std::int64_t k = own; k < own + stride; k += X::size)
        products.add_product(X::load(q + k), X::load(gradients + k));
      float four[4];
      four_sums(products).store(four);
      const auto mean = X::all((four[0] + four[2]) + (four[1] + four[3]));
      for (std::int64_t k = own; k < own + stride; k += X::size) {
        X x = X::load(gradients + k), result = X::zero();
        x.subtract(mean);
        result.add_product(X::load(q + k), x);
        X sum = X::load(sums + k);
        sum.add(result);
        sum.store(sums + k);
        result.multiply(unit);
        result.store(gradients + k);
      }
    }
  }
};

// sums(l, k) is the sum of a(i, k) b(i, l).
template <class X, bool many>
struct SumProducts {
  static CUEKIT_INLINE void run(const float* a, const float* b,  // (count, stride)
                                std::int64_t count, std::int64_t row, std::int64_t rows,
                                float* sums) {  // (rows, stride)
    const std::int64_t stride = many ? row : X::size;
    for (std::int64_t l = 0; l < rows; ++l)
      for (std::int64_t k = 0; k < stride; k += X::size) {
        X sum = X::zero();
        for (std::int64_t i = 0; i < count; ++i)
          sum.add(X::load(a + i * stride + k), b[i * stride + l]);
        sum.store(sums + l * stride + k);
      }
  }
};

// One kernel of the CRF on its way back.
struct Term {
  const RecordedTerm& forward;
  Filter values;
  Workspace<float> gains;  // (rows, stride): g(k, l) at row k; or its diagonal
  double* of_gains;        // (K, K) or (K); null: not wanted
  Workspace<double> sums;  // (bands, rows, stride): parts of of_gains(k, l), at row l

  Term(const RecordedTerm& term, std::int64_t stride, std::int64_t bands, double* wanted)
      : forward(term), gains(term.rows * stride), of_gains(wanted) {
    values.allocate(term.lattice.get(), stride);
    values.prefetch_values = prefetch_pays(*term.lattice, stride);
    std::fill_n(gains.get(), term.rows * stride, 0.0f);
    for (std::int64_t l = 0; l < term.rows; ++l)
      for (std::int64_t k = 0; k < (one_row() ? stride : term.rows); ++k)
        gains.get()[one_row() ? k : k * stride + l] = term.gains.get()[l * stride + k];
    if (wanted == nullptr) return;
    sums = Workspace<double>(bands * term.rows * stride);
    std::fill_n(sums.get(), bands * term.rows * stride, 0.0);
  }

  bool one_row() const { return forward.rows == 1; }
  const float* norms(CrfNormalisation where) const {
    return forward.normalisation == where ? forward.lattice->norms.get() : nullptr;
  }
};

class Gradient {
 public:
  Gradient(const Record& record, const Source& of_out, const Target<float>& of_logits,
           const std::vector<double*>& of_gains, std::int64_t channels, int threads)
      : record_(record),
        of_out_(of_out),
        of_logits_(of_logits),
        channels_(channels),
        classes_(static_cast<std::int64_t>(record.channels.size())),
        stride_(record.stride),
        threads_(threads),
        logits_(record.pixels * record.stride) {
    terms_.reserve(record.terms.size());
    for (std::size_t f = 0; f < record.terms.size(); ++f)
      terms_.emplace_back(record.terms[f], stride_, static_cast<std::int64_t>(record.bands.size()),
                          of_gains.empty() ? nullptr : of_gains[f]);
  }
  Gradient(const Gradient&) = delete;
  Gradient& operator=(const Gradient&) = delete;

  void run() {
    for (std::int64_t step = record_.iterations; step >= 0; --step) {
      pass(step);
      for (Term& term : terms_) {
        if (step == 0) break;
        const Lattice& lattice = *term.values.lattice;
        blur_in_place(lattice, term.values.splatted.get(), classes_, AxisOrder::descending,
                      blur_tasks(lattice.vertices, threads_), threads_);
        std::swap(term.values.sliced, term.values.splatted);
      }
    }
    if (record_.order != nullptr)
      write_in_order(logits_.get(), stride_, *record_.order, record_.bands, record_.channels,
                     threads_, of_logits_);
    for (const Term& term : terms_)
      if (term.of_gains != nullptr) write_of_gains(term);
  }

 private:
  void pass(std::int64_t step) const {
    const bool first = step == record_.iterations, last = step == 0;
    parallel_for(static_cast<std::int64_t>(record_.bands.size()), threads_, [&](std::int64_t b) {
      const DenormalsFlushed state;
      const Band& band = record_.bands.data()[b];
      if (!last)
        for (const Term& term : terms_) clear_splatted(term.values, b, stride_);
      const Workspace<float> rows(patch_size * stride_), filtered(patch_size * stride_);
      PollAfterWork poll_after;
      record_.for_patches(band, [&](const Patch& patch) {
        const std::int64_t pixel = patch.first_pixel(), count = patch.pixels();
        poll_after(count * stride_ * static_cast<std::int64_t>(terms_.size() + 1));
        const float* const q = record_.of_step(step) + pixel * stride_;
        float* const logits = logits_.get() + pixel * stride_;
        std::fill_n(rows.get(), count * stride_, 0.0f);
        if (first) {
          read(patch, rows.get());
          std::fill_n(logits, count * stride_, 0.0f);
        } else {
          for (const Term& term : terms_)
            add_messages(term, b, pixel, count, q, filtered.get(), rows.get());
        }
        run_for_group<BackThroughSoftmax>(classes_, q, count, stride_, rows.get(), logits);
        if (!last)
          for (const Term& term : terms_) {
            const Block block =
                block_of(term.values, term.values.splatted, term.norms(CrfNormalisation::after),
                         band, pixel, count, stride_);
            splat(classes_, block, rows.get());
          }
        if (last && record_.order == nullptr)
          write_results(logits, stride_, patch, record_.channels, of_logits_);
      });
    });
  }

  void read(const Patch& patch, float* rows) const {  // (pixels of the patch, stride)
    if (record_.order != nullptr) return read_in_order(patch, rows);
    for (std::int64_t r = 0; r < patch.rows; ++r)
      for (std::int64_t k = 0; k < classes_; ++k) {
        float row[Patch::max_columns];
        of_out_.read(patch.offset(record_.channels.data()[k], r), 1, patch.columns, row);
        for (std::int64_t x = 0; x < patch.columns; ++x)
          rows[(x * patch.rows + r) * stride_ + k] = row[x];
      }
  }

  void read_in_order(const Patch& patch, float* rows) const {  // (pixels of the patch, stride)
    const std::int32_t* const point_at = record_.order->point_at.get() + patch.first_pixel();
    for (std::int64_t i = 0; i < patch.columns; ++i)
      for (std::int64_t k = 0; k < classes_; ++k)
        of_out_.read(record_.channels.data()[k] * record_.pixels + point_at[i], 1, 1,
                     rows + i * stride_ + k);
  }

  // Adds what comes back through a kernel to the gradient with respect to Q.
  void add_messages(const Term& term, std::int64_t b, std::int64_t pixel, std::int64_t count,
                    const float* q, float* filtered, float* gradients) const {
    const Band& band = record_.bands.data()[b];
    const Block block = block_of(term.values, term.values.sliced,
                                 term.norms(CrfNormalisation::before), band, pixel, count, stride_);
    const float* const gains = term.gains.get();
    const bool at_once = term.one_row() && term.of_gains == nullptr;
    slice(classes_, block, at_once ? gains : nullptr, gradients, gradients, filtered);
    if (at_once) return;
    if (term.one_row()) {
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t k = 0; k < stride_; ++k)
          gradients[i * stride_ + k] += gains[k] * filtered[i * stride_ + k];
    } else {
      add_products(classes_, filtered, count, stride_, gains, term.forward.rows, gradients);
    }
    if (term.of_gains != nullptr) add_of_gains(term, b, count, q, filtered);
  }

  void add_of_gains(const Term& term, std::int64_t b, std::int64_t count, const float* q,
                    const float* filtered) const {
    const std::int64_t rows = term.forward.rows;
    const Workspace<float> part(rows * stride_);  // of these pixels; all of them in double
    if (rows == 1) {
      std::fill_n(part.get(), stride_, 0.0f);
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t k = 0; k < stride_; ++k)
          part.get()[k] += filtered[i * stride_ + k] * q[i * stride_ + k];
    } else {
      run_for_group<SumProducts>(classes_, filtered, q, count, stride_, rows, part.get());
    }
    double* const sums = term.sums.get() + b * rows * stride_;
    for (std::int64_t j = 0; j < rows * stride_; ++j) sums[j] += static_cast<double>(part.get()[j]);
  }

  void write_of_gains(const Term& term) const {
    const std::int64_t rows = term.forward.rows;
    const bool is_diagonal = term.forward.is_diagonal;
    const double* sum = term.sums.get();
    std::fill_n(term.of_gains, channels_ * (is_diagonal ? 1 : channels_), 0.0);
    for (std::size_t b = 0; b < record_.bands.size(); ++b)
      for (std::int64_t l = 0; l < rows; ++l, sum += stride_)
        for (std::int64_t k = 0; k < classes_; ++k) {
          const std::int64_t row = record_.channels.data()[k];
          const std::int64_t column = record_.channels.data()[l];
          term.of_gains[is_diagonal ? row : row * channels_ + column] += sum[k] * log2_of_e;
        }
  }

  const Record& record_;
  Source of_out_;
  Target<float> of_logits_;
  std::int64_t channels_, classes_, stride_;
  int threads_;
  Workspace<float> logits_;  // (N, stride): the sum of all steps
  std::vector<Term> terms_;
};

// Of all images.
void find_gradients(const std::vector<CrfRecord>& records, const Source& of_out,
                    const Target<float>& of_logits, const std::vector<double*>& of_gains,
                    std::int64_t channels, Context& context) {
  const DefaultFloatState state;
  for_each_image(
      static_cast<std::int64_t>(records.size()), context.threads, [&](std::int64_t b, int threads) {
        const Record& record = *records.data()[b].record;
        std::vector<double*> own = of_gains;
        for (std::size_t f = 0; f < own.size(); ++f)
          if (own[f] != nullptr)
            own[f] += b * channels * (record.terms[f].is_diagonal ? 1 : channels);
        const std::int64_t map = b * channels * record.pixels;
        Gradient(record, of_out.from(map), of_logits.from(map), own, channels, threads).run();
      });
}

}  // namespace

template <class Q>
void crf_gradient(const std::vector<CrfRecord>& records, const Q* of_out, Q* of_logits,
                  const std::vector<double*>& of_gains, std::int64_t channels, Context& context) {
  find_gradients(records, Source(of_out), Target<float>(of_logits), of_gains, channels, context);
}

template void crf_gradient(const std::vector<CrfRecord>&, const float*, float*,
                           const std::vector<double*>&, std::int64_t, Context&);
template void crf_gradient(const std::vector<CrfRecord>&, const double*, double*,
                           const std::vector<double*>&, std::int64_t, Context&);

}  // namespace cuekit::cpu
