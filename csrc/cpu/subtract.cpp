// subtract: every present class against every other one.
//
// Pixels are processed in tiles of 128. A tile holds the present classes' values as float64 and
// stays in L1 while each class is compared with each other. What a mode computes for a tile is in a
// kernel of its own: PairwiseTile, StrongestTile; AloneTile where only one class is present. dcsm
// needs maxima over the whole image, so it makes three passes: the maxima of all differences
// (PairMaxima), the sums D and their maxima (PairTanh), the results (LastTanh). Maxima are taken by
// chunk and then over the chunks; a maximum is exact, so any number of threads gives the same bits.
// Where a maximum exceeds the range of float64, a pass in between computes the maxima of half the
// differences, and HalvedPairTanh takes the place of PairTanh.
#include "cuekit/subtract.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "finite.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels in a tile. With 20 classes it takes 20 KiB.
constexpr std::int64_t tile_size = 128;

// max(value, 0) with integer operations: an arithmetic shift copies the sign bit to all bits, which
// then mask the value. A floating comparison has to handle NaN and signed zeros, and compilers emit
// more than one maximum instruction for it.
CUEKIT_INLINE double positive(double value) {
  const auto bits = bit_cast<std::int64_t>(value);
  return bit_cast<double>(bits & ~(bits >> 63));
}

// The divisor for a maximum. Where the maximum is 0, no dividend is positive and every result is 0,
// whatever the divisor.
CUEKIT_INLINE double divisor(double maximum) { return maximum > 0.0 ? maximum : 1.0; }

// Loads the present classes' values of one tile. From `count` on it is filled with zeros, so that
// inner loops have a fixed length. The zeros change no result: their differences are 0, and maxima
// are used only where they are positive.
struct LoadTile {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* maps,  // P of (N)
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                double* tile,    // (P, tile_size)
                                bool* finite) {  // false where a value is not finite
    typename float_bits<T>::type seen = 0;
    for (std::int64_t c = 0; c < num_present; ++c) {
      const T* source = maps[c] + begin;
      double* target = tile + c * tile_size;
      seen |= nonfinite_bits(source, count);
      for (std::int64_t i = 0; i < count; ++i) target[i] = load(source[i]);
      std::fill(target + count, target + tile_size, 0.0);
    }
    *finite = !any_nonfinite(seen);
  }
};

template <class T>
CUEKIT_INLINE void store_tile(const double* result,  // (count)
                              std::int64_t count,
                              T* out) {  // (count)
  for (std::int64_t i = 0; i < count; ++i) out[i] = store<T>(result[i]);
}

// pairwise. One subtraction serves two classes: the positive part of d = M_c - M_c' is added to
// class c, the negative part to class c'. c ascends, and c' > c ascends within it, so each class
// still adds the other classes in ascending order. Up to four c are paired with each c' while the
// value and the sum of c' are in registers. Vectors hold `width` pixels.
template <int width>
struct PairwiseTile {
  using Values = Lanes<double, width>;

  static CUEKIT_INLINE void add_pair(Values own, Values theirs, Values& own_sum,
                                     Values& their_sum) {
    const auto difference = own - theirs;
    Values negative, positive;
    difference.split_by_sign(&negative, &positive);
    own_sum = own_sum + positive;
    their_sum = their_sum - negative;
  }

  // Pairs the classes c .. c + n - 1 with each other and with all above them, in `width` pixels.
  // Then their sums are complete and their values are not needed any more: the results replace them
  // in the tile.
  template <int n>
  static CUEKIT_INLINE void add_classes(double* tile,  // (P, tile_size), of which (P, width)
                                        std::int64_t c, std::int64_t num_present, double factor,
                                        double* sums) {  // (P, width)
    Values own[n], own_sum[n];
    for (int k = 0; k < n; ++k) {
      own[k] = Values::load(tile + (c + k) * tile_size);
      own_sum[k] = Values::load(sums + (c + k) * width);
    }
    for (int k = 0; k < n; ++k)
      for (int other = k + 1; other < n; ++other)
        add_pair(own[k], own[other], own_sum[k], own_sum[other]);
    for (std::int64_t other = c + n; other < num_present; ++other) {
      const auto theirs = Values::load(tile + other * tile_size);
      auto their_sum = Values::load(sums + other * width);
      for (int k = 0; k < n; ++k) add_pair(own[k], theirs, own_sum[k], their_sum);
      their_sum.store(sums + other * width);
    }
    for (int k = 0; k < n; ++k) (own_sum[k] * factor).store(tile + (c + k) * tile_size);
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* const* maps,  // P of (N)
                                double* tile,          // (P, tile_size): values, then results
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                double* sums,     // (P, width): scratch
                                T* const* out) {  // P of (N)
    const double factor = 1.0 / static_cast<double>(num_present - 1);
    for (std::int64_t i = 0; i < tile_size; i += width) {
      std::fill_n(sums, num_present * width, 0.0);
      // The hardware prefetcher cannot follow one short row for each of many classes. So the next
      // tile's values, and the lines that this tile's results go to, are prefetched here, while
      // there is arithmetic to do.
      for (std::int64_t c = 0; c < num_present; ++c) {
        prefetch(maps[c] + begin + tile_size + i, width);
        prefetch(out[c] + begin + i, width);
      }
      std::int64_t c = 0;
      for (; c + 4 <= num_present; c += 4) add_classes<4>(tile + i, c, num_present, factor, sums);
      switch (num_present - c) {
        case 3:
          add_classes<3>(tile + i, c, num_present, factor, sums);
          break;
        case 2:
          add_classes<2>(tile + i, c, num_present, factor, sums);
          break;
        case 1:
          add_classes<1>(tile + i, c, num_present, factor, sums);
          break;
        default:
          break;
      }
    }
    for (std::int64_t c = 0; c < num_present; ++c)
      store_tile(tile + c * tile_size, count, out[c] + begin);
  }
};

// strongest. At each pixel only the largest value has a result above 0: its distance to the second
// largest. So the two largest values suffice, and max(M_c - second, 0) is the result of every
// class.
struct StrongestTile {
  template <class T>
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_size)
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                T* const* out) {  // P of (N)
    double first[tile_size], second[tile_size], result[tile_size];
    std::copy_n(tile, tile_size, first);
    std::copy_n(tile + tile_size, tile_size, second);
    for (std::int64_t i = 0; i < tile_size; ++i) {
      const double a = first[i], b = second[i];
      first[i] = a < b ? b : a;
      second[i] = a < b ? a : b;
    }
    for (std::int64_t c = 2; c < num_present; ++c) {
      const double* values = tile + c * tile_size;
      for (std::int64_t i = 0; i < tile_size; ++i) {
        const double value = values[i];
        const double lower = value < first[i] ? value : first[i];
        first[i] = value < first[i] ? first[i] : value;
        second[i] = second[i] < lower ? lower : second[i];
      }
    }
    for (std::int64_t c = 0; c < num_present; ++c) {
      const double* values = tile + c * tile_size;
      for (std::int64_t i = 0; i < tile_size; ++i) result[i] = positive(values[i] - second[i]);
      store_tile(result, count, out[c] + begin);
    }
  }
};

// Every mode where only one class is present.
struct AloneTile {
  template <class T>
  static CUEKIT_INLINE void run(const double* tile,  // (1, tile_size)
                                std::int64_t begin, std::int64_t count,
                                T* const* out) {  // 1 of (N)
    double result[tile_size];
    for (std::int64_t i = 0; i < tile_size; ++i) result[i] = positive(tile[i]);
    store_tile(result, count, out[0] + begin);
  }
};

// dcsm, first pass: raises maxima[c][c'] to the maximum over the tile of M_c - M_c'.
struct PairMaxima {
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_size)
                                std::int64_t num_present,
                                double* maxima) {  // (P, P)
    constexpr int accumulators = 32;               // partial maxima, in registers
    for (std::int64_t c = 0; c < num_present; ++c) {
      for (std::int64_t other = 0; other < num_present; ++other) {
        double best[accumulators];
        std::fill_n(best, accumulators, maxima[c * num_present + other]);
        for (std::int64_t i = 0; i < tile_size; i += accumulators) {
          const double* own = tile + c * tile_size + i;
          const double* theirs = tile + other * tile_size + i;
          for (int j = 0; j < accumulators; ++j) {
            const double difference = own[j] - theirs[j];
            best[j] = best[j] < difference ? difference : best[j];
          }
        }
        maxima[c * num_present + other] = *std::max_element(best, best + accumulators);
      }
    }
  }
};

// Raises peaks[c] to the maximum of D_c.
CUEKIT_INLINE void raise_peaks(const double* sums,  // (P, stride), of which (P, tile_size)
                               std::int64_t stride, std::int64_t num_present,
                               double* peaks) {  // (P)
  constexpr int accumulators = 8;                // partial maxima, in registers
  for (std::int64_t c = 0; c < num_present; ++c) {
    const double* values = sums + c * stride;
    double best[accumulators];
    std::fill_n(best, accumulators, peaks[c]);
    for (std::int64_t i = 0; i < tile_size; i += accumulators) {
      for (int j = 0; j < accumulators; ++j)
        best[j] = best[j] < values[i + j] ? values[i + j] : best[j];
    }
    peaks[c] = *std::max_element(best, best + accumulators);
  }
}

// dcsm, second pass: stores D of the tile, and raises peaks[c] to the maximum of D_c. At most one
// of M_c - M_c' and M_c' - M_c is positive, so one tanh serves both classes.
struct PairTanh {
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_size)
                                std::int64_t num_present,
                                const double* maxima,  // (P, P)
                                double* sums,          // (P, stride), of which (P, tile_size)
                                std::int64_t stride,
                                double* peaks) {  // (P)
    for (std::int64_t c = 0; c < num_present; ++c) std::fill_n(sums + c * stride, tile_size, 0.0);
    for (std::int64_t c = 0; c < num_present; ++c) {
      for (std::int64_t other = c + 1; other < num_present; ++other) {
        const double* own = tile + c * tile_size;
        const double* theirs = tile + other * tile_size;
        double* own_sum = sums + c * stride;
        double* their_sum = sums + other * stride;
        const double own_maximum = divisor(maxima[c * num_present + other]);
        const double their_maximum = divisor(maxima[other * num_present + c]);
        for (std::int64_t i = 0; i < tile_size; ++i) {
          const double difference = own[i] - theirs[i];
          const bool ahead = difference > 0.0;
          const double share =
              (ahead ? difference : -difference) / (ahead ? own_maximum : their_maximum);
          const double term = tanh_to_three(3.0 * share);
          own_sum[i] += ahead ? term : 0.0;
          their_sum[i] += ahead ? 0.0 : term;
        }
      }
    }
    raise_peaks(sums, stride, num_present, peaks);
  }
};

// The same where a maximum exceeds the range of float64: such pairs are computed from half the
// differences. It is rare, so each class computes its own tanh.
struct HalvedPairTanh {
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_size)
                                std::int64_t num_present,
                                const double* maxima,       // (P, P), some of them infinite
                                const double* half_maxima,  // (P, P): of half the differences
                                double* sums,               // (P, stride), of which (P, tile_size)
                                std::int64_t stride,
                                double* peaks) {  // (P)
    for (std::int64_t c = 0; c < num_present; ++c) {
      double* sum = sums + c * stride;
      std::fill_n(sum, tile_size, 0.0);
      for (std::int64_t other = 0; other < num_present; ++other) {
        if (other == c) continue;
        const double* own = tile + c * tile_size;
        const double* theirs = tile + other * tile_size;
        const std::int64_t pair = c * num_present + other;
        const bool halved = std::isinf(maxima[pair]);
        const double maximum = divisor(halved ? half_maxima[pair] : maxima[pair]);
        for (std::int64_t i = 0; i < tile_size; ++i) {
          const double difference =
              halved ? half_difference(own[i], theirs[i]) : own[i] - theirs[i];
          sum[i] += tanh_to_three(3.0 * (positive(difference) / maximum));
        }
      }
    }
    raise_peaks(sums, stride, num_present, peaks);
  }
};

// dcsm, third pass: one class's results from its D.
struct LastTanh {
  template <class T>
  static CUEKIT_INLINE void run(const double* sums,  // (count)
                                double peak, std::int64_t count,
                                T* out) {  // (count)
    const double maximum = divisor(peak);
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = store<T>(tanh_to_three(3.0 * (sums[i] / maximum)));
  }
};

// One image. Threads work on chunks of pixels.
template <class T>
class Image {
 public:
  Image(const T* maps,                // (C, N)
        const std::uint8_t* present,  // (C)
        T* out,                       // (C, N)
        const SubtractParams& p)
      : pixels_(p.pixels), chunks_((p.pixels + chunk_size - 1) / chunk_size) {
    for (std::int64_t c = 0; c < p.classes; ++c) {
      (present[c] ? out_ : absent_).push_back(out + c * pixels_);
      if (present[c]) maps_.push_back(maps + c * pixels_);
    }
    num_present_ = static_cast<std::int64_t>(maps_.size());
  }

  // Returns false where a value is not finite.
  bool subtract(SubtractMode mode, int threads) {
    if (mode == SubtractMode::dcsm && num_present_ > 1) {
      dcsm(threads);
    } else {
      clear_absent(threads);
      for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        const std::unique_ptr<double[]> sums(new double[num_present_ * largest_width]);
        for_each_tile(begin, end, [&](double* tile, std::int64_t tile_begin, std::int64_t count) {
          if (num_present_ == 1) {
            dispatch<AloneTile>(tile, tile_begin, count, out_.data());
          } else if (mode == SubtractMode::pairwise) {
            // With vectors twice as wide, add_classes would run out of registers.
            if (instruction_set == InstructionSet::avx512)
              dispatch<PairwiseTile<8>>(maps_.data(), tile, num_present_, tile_begin, count,
                                        sums.get(), out_.data());
            else
              dispatch<PairwiseTile<4>>(maps_.data(), tile, num_present_, tile_begin, count,
                                        sums.get(), out_.data());
          } else {
            dispatch<StrongestTile>(tile, num_present_, tile_begin, count, out_.data());
          }
        });
      });
    }
    return finite_;
  }

 private:
  static constexpr std::int64_t largest_width = 8;  // of PairwiseTile
  static constexpr std::int64_t tiles_per_chunk = 32;
  static constexpr std::int64_t chunk_size = tiles_per_chunk * tile_size;

  // Calls body(chunk, begin, end) in parallel, for pixels [begin, end).
  template <class Body>
  void for_each_chunk(int threads, Body body) {
    parallel_for(chunks_, threads, [&](std::int64_t chunk) {
      body(chunk, chunk * chunk_size, std::min(pixels_, (chunk + 1) * chunk_size));
    });
  }

  // Calls body(tile, tile_begin, count) for each tile of the pixels [begin, end).
  template <class Body>
  void for_each_tile(std::int64_t begin, std::int64_t end, Body body) {
    const std::unique_ptr<double[]> tile(new double[num_present_ * tile_size]);
    for (std::int64_t i = begin; i < end && num_present_ > 0; i += tile_size) {
      const std::int64_t count = std::min(tile_size, end - i);
      bool finite = true;
      dispatch<LoadTile>(maps_.data(), num_present_, i, count, tile.get(), &finite);
      if (!finite) finite_ = false;
      body(tile.get(), i, count);
    }
  }

  void clear_absent(int threads) {
    parallel_for(static_cast<std::int64_t>(absent_.size()), threads,
                 [&](std::int64_t i) { std::memset(absent_[i], 0, pixels_ * sizeof(T)); });
  }

  void dcsm(int threads) {
    const std::int64_t pairs = num_present_ * num_present_;
    std::vector<double> chunk_maxima(chunks_ * pairs);
    clear_absent(threads);
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t, std::int64_t) {
        dispatch<PairMaxima>(tile, num_present_, chunk_maxima.data() + chunk * pairs);
      });
    });
    const std::vector<double> maxima = maximum_of_chunks(chunk_maxima, pairs);
    std::vector<double> half_maxima;  // only where a maximum is infinite
    if (std::is_same_v<T, double> &&
        std::any_of(maxima.begin(), maxima.end(), [](double each) { return std::isinf(each); })) {
      std::fill(chunk_maxima.begin(), chunk_maxima.end(), 0.0);
      for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
        for_each_tile(begin, end, [&](double* tile, std::int64_t, std::int64_t) {
          for (std::int64_t i = 0; i < num_present_ * tile_size; ++i) tile[i] *= 0.5;
          dispatch<PairMaxima>(tile, num_present_, chunk_maxima.data() + chunk * pairs);
        });
      });
      half_maxima = maximum_of_chunks(chunk_maxima, pairs);
    }
    const std::int64_t stride = chunks_ * chunk_size;
    const std::unique_ptr<double[]> sums(new double[num_present_ * stride]);
    std::vector<double> chunk_peaks(chunks_ * num_present_);
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t tile_begin, std::int64_t) {
        double* const tile_sums = sums.get() + tile_begin;
        double* const peaks = chunk_peaks.data() + chunk * num_present_;
        if (half_maxima.empty())
          dispatch<PairTanh>(tile, num_present_, maxima.data(), tile_sums, stride, peaks);
        else
          dispatch<HalvedPairTanh>(tile, num_present_, maxima.data(), half_maxima.data(), tile_sums,
                                   stride, peaks);
      });
    });
    const std::vector<double> peaks = maximum_of_chunks(chunk_peaks, num_present_);
    for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = 0; c < num_present_; ++c)
        dispatch<LastTanh>(sums.get() + c * stride + begin, peaks[c], end - begin, out_[c] + begin);
    });
  }

  // (chunks, width) -> (width), at least 0
  std::vector<double> maximum_of_chunks(const std::vector<double>& values, std::int64_t width) {
    std::vector<double> maxima(width);
    for (std::size_t i = 0; i < values.size(); ++i) {
      double& maximum = maxima[i % width];
      maximum = std::max(maximum, values[i]);
    }
    return maxima;
  }

  std::int64_t pixels_;
  std::int64_t chunks_;
  std::int64_t num_present_ = 0;
  std::vector<const T*> maps_;  // P of (N)
  std::vector<T*> out_;         // P of (N)
  std::vector<T*> absent_;      // outputs of the absent classes, C - P of (N)
  std::atomic<bool> finite_{true};
};

}  // namespace

template <class T>
bool subtract(const T* maps,                // (B, C, N)
              const std::uint8_t* present,  // (B, C)
              T* out,                       // (B, C, N)
              const SubtractParams& p, Context& context) {
  std::atomic<bool> all_finite{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int inner_threads) {
    const std::int64_t offset = b * p.classes * p.pixels;
    Image<T> image(maps + offset, present + b * p.classes, out + offset, p);
    if (!image.subtract(p.mode, inner_threads)) all_finite = false;
  });
  return all_finite;
}

template bool subtract(const half*, const std::uint8_t*, half*, const SubtractParams&, Context&);
template bool subtract(const float*, const std::uint8_t*, float*, const SubtractParams&, Context&);
template bool subtract(const double*, const std::uint8_t*, double*, const SubtractParams&,
                       Context&);

}  // namespace cuekit::cpu
