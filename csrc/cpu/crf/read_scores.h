// From scores to the unary terms of the mean field.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/any_type.h"
#include "cuekit/crf.h"
#include "patch.h"

namespace cuekit::cpu {

// A logit below this stands for probability 0. It is finite, and so are sums with it.
constexpr float impossible = -1e30f;

// A plane has one class of a patch, row after row. Planes are slightly longer than patches, because
// addresses that are a power of two apart compete for the same cache sets.
constexpr std::int64_t plane_size = strip_height * Patch::max_columns + 16;

// Whether the values of a patch are valid (cuekit/crf.h), those of channels that do not take part
// among them. Compiled for half, float and double.
template <class T>
bool valid_scores(const void* values, const Patch& patch, std::int64_t channels, bool energies);

// Scores of one image, of any of these types.
class Scores {
 public:
  template <class T>
  explicit Scores(const T* values)  // (K, N)
      : values_(values), valid_(valid_scores<T>) {}

  // The scores from another value on.
  Scores from(std::int64_t first) const {
    Scores other = *this;
    other.values_ = values_.from(first);
    return other;
  }
  bool valid(const Patch& patch, std::int64_t channels, bool energies) const {
    return valid_(values_.get(), patch, channels, energies);
  }
  template <class Real>
  void read_row(const Patch& patch, std::int64_t channel, std::int64_t row, Real* out) const {
    values_.read(patch.offset(channel, row), 1, patch.columns, out);
  }

 private:
  Source values_;
  bool (*valid_)(const void*, const Patch&, std::int64_t, bool);
};

// Writes the logits of a patch in units of ln 2, the largest of each pixel is 0. Returns false for
// scores that are not valid.
bool read_scores(const Scores& scores, const CrfParams& p, const Patch& patch,
                 const std::vector<std::int64_t>& channels,  // (classes): the channel of each class
                 float* planes,                              // (classes, plane_size): scratch
                 float* unary,                               // (pixels of the patch, stride)
                 std::int64_t stride,
                 std::int64_t step);  // from one pixel's row to the next

}  // namespace cuekit::cpu
