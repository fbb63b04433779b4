// colour_evidence: the bin of each pixel first. Then blocks of four channels, whose values of a bin
// lie side by side: neighbouring pixels mostly have the same bin, and one addition to it waits for
// the one before, so four channels take as long as one.
#include "cuekit/colour_evidence.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "interrupt.h"
#include "lab.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

constexpr std::int64_t block = 4;
constexpr std::int64_t pixels_per_task = 64 * lab_chunk;

// Colours in L*a*b*, as planes of float32.
void read_colours(const std::uint8_t* image,  // (count, 3)
                  std::int64_t count,
                  float* planes) {  // (3, lab_chunk), of which (3, count)
  double wide[3 * lab_chunk];
  find_lab(image, count, lab_chunk, wide);
  for (std::int64_t j = 0; j < 3; ++j)
    for (std::int64_t i = 0; i < count; ++i)
      planes[j * lab_chunk + i] = static_cast<float>(wide[j * lab_chunk + i]);
}
void read_colours(const float* image,  // (count, 3)
                  std::int64_t count,
                  float* planes) {  // (3, lab_chunk), of which (3, count)
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < 3; ++j) planes[j * lab_chunk + i] = image[3 * i + j];
}

struct FindBins {
  static CUEKIT_INLINE void run(const float* planes,  // (3, lab_chunk), of which (3, count)
                                std::int64_t count, std::int32_t bins,
                                std::int32_t* __restrict found) {  // (count)
    const auto of_lightness = static_cast<float>(bins / 100.0);
    const auto of_colour = static_cast<float>(bins / 128.0);
    const float gray = static_cast<float>(bins / 2) + 0.5f, last = static_cast<float>(bins - 1);
    const auto bin = [last](float step) {
      return static_cast<std::int32_t>(std::min(std::max(step, 0.0f), last));
    };
    const float *l = planes, *a = planes + lab_chunk, *b = planes + 2 * lab_chunk;
    for (std::int64_t i = 0; i < count; ++i)
      found[i] = (bin(l[i] * of_lightness) * bins + bin(a[i] * of_colour + gray)) * bins +
                 bin(b[i] * of_colour + gray);
  }
};

template <class C>
std::vector<std::int32_t> find_bins(const C* image,  // (N, 3)
                                    const ColourEvidenceParams& p, int threads) {
  std::vector<std::int32_t> bins(p.pixels);
  const std::int64_t tasks = (p.pixels + pixels_per_task - 1) / pixels_per_task;
  parallel_for(tasks, threads, [&](std::int64_t task) {
    const std::int64_t end = std::min((task + 1) * pixels_per_task, p.pixels);
    float planes[3 * lab_chunk];
    for (std::int64_t begin = task * pixels_per_task; begin < end; begin += lab_chunk) {
      const std::int64_t count = std::min(lab_chunk, end - begin);
      read_colours(image + 3 * begin, count, planes);
      dispatch<FindBins>(static_cast<const float*>(planes), count,
                         static_cast<std::int32_t>(p.bins), bins.data() + begin);
    }
  });
  return bins;
}

template <class T>
void count_colours(const T* const* planes,  // 4 of (pixels)
                   const std::int32_t* bins, std::int64_t pixels,
                   double* counts) {  // (bins^3, 4)
  polling_loop(0, pixels, [&](std::int64_t i) {
    double* const sums = counts + block * bins[i];
    for (std::int64_t k = 0; k < block; ++k) sums[k] += planes[k][i];
  });
}

// Along one axis of an array (outer, bins, inner).
struct Smooth {
  static CUEKIT_INLINE void run(const double* values, std::int64_t outer, std::int64_t bins,
                                std::int64_t inner, const double* weights, std::int64_t radius,
                                double* __restrict out) {
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < bins; ++i) {
        double* const line = out + (o * bins + i) * inner;
        std::fill_n(line, inner, 0.0);
        const std::int64_t end = std::min(i + radius + 1, bins);
        for (std::int64_t j = std::max<std::int64_t>(i - radius, 0); j < end; ++j) {
          const double* const source = values + (o * bins + j) * inner;
          const double weight = weights[std::abs(i - j)];
          for (std::int64_t k = 0; k < inner; ++k) line[k] += source[k] * weight;
        }
      }
    }
  }
};

// The evidence of one image.
template <class T>
class Histograms {
 public:
  Histograms(const T* probabilities,          // (K, N)
             std::vector<std::int32_t> bins,  // (N)
             T* out,                          // (K - 1, N)
             const ColourEvidenceParams& p, int threads)
      : probabilities_(probabilities),
        out_(out),
        p_(p),
        threads_(threads),
        count_(p.bins * p.bins * p.bins),
        bins_(std::move(bins)) {}

  void compare() {
    compare(0);  // has the background, which all others need
    parallel_for((p_.channels - 1) / block, threads_, [&](std::int64_t i) { compare(i + 1); });
  }

 private:
  // The channels of a block.
  void compare(std::int64_t index) {
    const std::int64_t first = index * block;
    const T* planes[block];  // in place of missing channels the last one is read again
    for (std::int64_t k = 0; k < block; ++k)
      planes[k] = probabilities_ + std::min(first + k, p_.channels - 1) * p_.pixels;
    const std::vector<double> shares = smoothed_shares(planes);
    if (index == 0) {
      for (std::int64_t bin = 0; bin < count_; ++bin)
        background_.push_back(log_of(shares[block * bin]));
    }
    std::vector<T> evidence(count_);
    const std::int64_t end = std::min(first + block, p_.channels);
    for (std::int64_t channel = std::max<std::int64_t>(first, 1); channel < end; ++channel) {
      for (std::int64_t bin = 0; bin < count_; ++bin) {
        const double ratio = log_of(shares[block * bin + channel - first]) - background_[bin];
        evidence[bin] = static_cast<T>(std::min(std::max(ratio, -p_.limit), p_.limit));
      }
      T* const target = out_ + (channel - 1) * p_.pixels;
      for (std::int64_t i = 0; i < p_.pixels; ++i) target[i] = evidence[bins_[i]];
      poll();
    }
  }

  std::vector<double> smoothed_shares(const T* const* planes) const {  // (bins^3, 4)
    std::vector<double> shares(block * count_), smoothed(block * count_);
    count_colours(planes, bins_.data(), p_.pixels, shares.data());
    for (double& share : shares) share /= static_cast<double>(p_.pixels);
    std::int64_t outer = 1;
    for (int axis = 0; axis < 3; ++axis, outer *= p_.bins) {
      dispatch<Smooth>(static_cast<const double*>(shares.data()), outer, p_.bins,
                       block * count_ / (outer * p_.bins), p_.weights, p_.radius, smoothed.data());
      shares.swap(smoothed);
      poll();
    }
    return shares;
  }

  double log_of(double share) const { return std::log(std::max(share, 0.0) + p_.floor); }

  const T* const probabilities_;
  T* const out_;
  const ColourEvidenceParams& p_;
  const int threads_;
  const std::int64_t count_;              // of all bins
  const std::vector<std::int32_t> bins_;  // (N)
  std::vector<double> background_;        // (bins^3), logarithms
};

}  // namespace

template <class T, class C>
void colour_evidence(const T* probabilities,  // (B, K, N)
                     const C* image,          // (B, N, 3)
                     T* out,                  // (B, K - 1, N)
                     const ColourEvidenceParams& p, Context& context) {
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int threads) {
    Histograms<T>(probabilities + b * p.channels * p.pixels,
                  find_bins(image + b * p.pixels * 3, p, threads),
                  out + b * (p.channels - 1) * p.pixels, p, threads)
        .compare();
  });
}

#define CUEKIT_INSTANTIATE(T, C) \
  template void colour_evidence(const T*, const C*, T*, const ColourEvidenceParams&, Context&);
CUEKIT_INSTANTIATE(float, std::uint8_t)
CUEKIT_INSTANTIATE(float, float)
CUEKIT_INSTANTIATE(double, std::uint8_t)
CUEKIT_INSTANTIATE(double, float)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
