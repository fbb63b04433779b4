// Runs the passes of inference.h.
#include "inference.h"

#include <algorithm>
#include <atomic>

#include "block.h"
#include "class_vector.h"
#include "cpu/float_state.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "write_results.h"

namespace cuekit::cpu {
namespace {

std::vector<std::int64_t> channels_that_take_part(const std::uint8_t* present,  // (channels - 1)
                                                  std::int64_t channels) {
  std::vector<std::int64_t> result{0};
  for (std::int64_t c = 1; c < channels; ++c)
    if (present[c - 1] != 0) result.push_back(c);
  return result;
}

}  // namespace

Inference::Inference(std::int64_t runs, const Scores& scores, const std::uint8_t* present,
                     const Target<float>& out, const Lattice* spatial, const Lattice* bilateral,
                     const CrfParams& p, bool recorded, int threads)
    : scores_(scores),
      out_(out),
      p_(p),
      threads_(threads),
      bands_(divide_into_bands(p.height, p.width)),
      channels_(channels_that_take_part(present, p.channels)),
      runs_(runs),
      stride_(runs * class_stride(static_cast<std::int64_t>(channels_.size()))),
      mean_field_(mean_field_kernel(static_cast<std::int64_t>(channels_.size()), runs)),
      unary_(p.height * p.width * stride_) {
  const std::int64_t size = p.height * p.width * stride_;
  const bool is_multiplication = spatial != nullptr && spatial->diagonal;
  if (recorded) step_size_ = size;
  if (recorded || is_multiplication)
    marginals_ = Workspace<float>(size + p.iterations * step_size_);
  if (is_multiplication) {
    own_weight_ = spatial->weight;
  } else if (spatial != nullptr) {
    spatial_.allocate(spatial, stride_);
  }
  if (bilateral != nullptr) {
    bilateral_.allocate(bilateral, stride_);
    // Both filters share the caches. Values of this one do not fit from 4 MB on, for those to slice
    // and as much again for those to splat into.
    spatial_.prefetch_values = bilateral_.prefetch_values =
        bilateral->node_count() * stride_ > std::int64_t{1} << 20;
  }
}

bool Inference::run() {
  if (!pass_over_pixels(0)) return false;
  for (std::int64_t i = 1; i <= p_.iterations; ++i) {
    blur_filters(spatial_, bilateral_, stride_, threads_);
    pass_over_pixels(i);
  }
  return true;
}

Record Inference::record() {
  Record result;
  result.channels = channels_;
  result.stride = stride_;
  result.iterations = p_.iterations;
  result.pixels = p_.height * p_.width;
  result.width = p_.width;
  result.bands = bands_;
  result.marginals = std::move(marginals_);
  return result;
}

// Returns false for scores that are not valid; only the first pass reads scores.
bool Inference::pass_over_pixels(std::int64_t number) {
  const bool first = number == 0, last = number == p_.iterations;
  const float* const own = own_weight_ > 0 && !first ? kept(number - 1) : nullptr;
  const Pass pass{unary_.get(), stride_, &spatial_, &bilateral_, own, own_weight_, !first, !last};
  const auto classes = static_cast<std::int64_t>(channels_.size());
  const std::int64_t map_size = p_.channels * p_.height * p_.width, run_stride = stride_ / runs_;
  std::atomic<bool> valid{true};
  parallel_for(static_cast<std::int64_t>(bands_.size()), threads_, [&](std::int64_t b) {
    const DenormalsFlushed state;  // Q has many, and arithmetic with them is slow
    if (!last)
      for (const Filter* filter : {&spatial_, &bilateral_}) clear_splatted(*filter, b, stride_);
    const Workspace<float> scratch(pixels_together * stride_);
    const Workspace<float> planes(first ? classes * plane_size : 0);
    const Workspace<float> results(last ? strip_height * Patch::max_columns * stride_ : 0);
    PollAfterWork poll_after;
    for (const Strip& strip : strips_of(bands_.data()[b], p_.width)) {
      poll_after(strip.rows * p_.width * stride_);
      for (std::int64_t x = 0; x < p_.width; x += Patch::max_columns) {
        const Patch patch{
            strip.first_row, strip.rows,          x, std::min(Patch::max_columns, p_.width - x),
            p_.width,        p_.height * p_.width};
        const std::int64_t pixel = patch.first_pixel();
        for (std::int64_t r = 0; first && r < runs_; ++r)
          if (!read_scores(scores_.from(r * map_size), p_, patch, channels_, planes.get(),
                           unary_.get() + pixel * stride_ + r * run_stride, run_stride, stride_)) {
            valid = false;
            return;
          }
        float* const q = marginals_.get() != nullptr ? kept(number) + pixel * stride_
                         : last                      ? results.get()
                                                     : nullptr;
        mean_field_(&pass, pixel, pixel + patch.pixels(), scratch.get(), q);
        for (std::int64_t r = 0; last && r < runs_; ++r)
          write_results(q + r * run_stride, stride_, patch, channels_, out_.from(r * map_size));
      }
    }
  });
  return valid;
}

}  // namespace cuekit::cpu
