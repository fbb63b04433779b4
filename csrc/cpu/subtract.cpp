#include "cuekit/subtract.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "finite.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels worked on at a time. A tile of 20 classes in float64 is 20 KiB: it stays in the L1 cache
// while every class is held against every other.
constexpr std::int64_t tile_size = 128;
// Pixels whose maxima are held in registers in dcsm's inner loop.
constexpr int block = 32;

// max(value, 0) in integers: the sign bit, drawn over all bits, masks the value. As a comparison it
// would have to care for NaN and signed zeros, and compilers then make more of it than one maximum.
CUEKIT_INLINE double positive(double value) {
  const auto bits = bit_cast<std::int64_t>(value);
  return bit_cast<double>(bits & ~(bits >> 63));
}

// What a maximum divides by: where it is 0 nothing is positive and the quotient is 0 anyway.
CUEKIT_INLINE double divisor(double maximum) { return maximum > 0.0 ? maximum : 1.0; }

// The present classes' values of one tile, (P, tile_size) float64. Past `count` it holds zeros, so
// that inner loops have a fixed length; they change no sum and no maximum of differences below 0.
struct LoadTile {
  template <class T>
  static CUEKIT_INLINE void run(const T* const* maps, std::int64_t num_present, std::int64_t begin,
                                std::int64_t count, double* tile, bool* finite) {
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
CUEKIT_INLINE void store_tile(const double* result, std::int64_t count, T* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = store<T>(result[i]);
}

// One subtraction serves two classes: of d = M_c - M_c' the positive part belongs to c, the
// negative part to c'. With c ascending and c' > c ascending, every class still adds the others in
// their order. Several c at a time meet each c' while it and its sum are in registers.
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

  // Classes c .. c + n - 1, of `width` pixels. Their values in the tile give way to the results:
  // only classes above them are still to come.
  template <int n>
  static CUEKIT_INLINE void add_classes(double* tile, std::int64_t c, std::int64_t num_present,
                                        double factor, double* sums) {
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
  static CUEKIT_INLINE void run(const T* const* maps, double* tile, std::int64_t num_present,
                                std::int64_t begin, std::int64_t count, double* sums,
                                T* const* out) {
    const double factor = 1.0 / static_cast<double>(num_present - 1);
    for (std::int64_t i = 0; i < tile_size; i += width) {
      std::fill_n(sums, num_present * width, 0.0);
      // Rows of so many classes, a tile each, are more than the hardware foresees: the next tile's
      // values and the places of this one's results are asked for while there is work to do.
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

// Only the strongest class at a pixel keeps anything, and what it keeps is its lead over the
// second: the two largest values say it for all classes at once.
struct StrongestTile {
  template <class T>
  static CUEKIT_INLINE void run(const double* tile, std::int64_t num_present, std::int64_t begin,
                                std::int64_t count, T* const* out) {
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

struct AloneTile {
  template <class T>
  static CUEKIT_INLINE void run(const double* tile, std::int64_t begin, std::int64_t count,
                                T* const* out) {
    double result[tile_size];
    for (std::int64_t i = 0; i < tile_size; ++i) result[i] = positive(tile[i]);
    store_tile(result, count, out[0] + begin);
  }
};

// dcsm, first pass: maxima[c * P + c'] = max over the tile of M_c - M_c'.
struct PairMaxima {
  static CUEKIT_INLINE void run(const double* tile, std::int64_t num_present, double* maxima) {
    for (std::int64_t c = 0; c < num_present; ++c) {
      for (std::int64_t other = 0; other < num_present; ++other) {
        double best[block];
        std::fill_n(best, block, maxima[c * num_present + other]);
        for (std::int64_t i = 0; i < tile_size; i += block) {
          const double* own = tile + c * tile_size + i;
          const double* theirs = tile + other * tile_size + i;
          for (int j = 0; j < block; ++j) {
            const double difference = own[j] - theirs[j];
            best[j] = best[j] < difference ? difference : best[j];
          }
        }
        maxima[c * num_present + other] = *std::max_element(best, best + block);
      }
    }
  }
};

// dcsm, second pass: D of a tile into sums (P rows, `stride` apart), and the largest into peaks
// (P). Of M_c - M_c' and M_c' - M_c one at most is positive, so one tanh serves both.
struct PairTanh {
  static CUEKIT_INLINE void run(const double* tile, std::int64_t num_present, const double* maxima,
                                double* sums, std::int64_t stride, double* peaks) {
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
    for (std::int64_t c = 0; c < num_present; ++c) {
      const double* values = sums + c * stride;
      double best[lanes];
      std::fill_n(best, lanes, peaks[c]);
      for (std::int64_t i = 0; i < tile_size; i += lanes) {
        for (int j = 0; j < lanes; ++j) best[j] = best[j] < values[i + j] ? values[i + j] : best[j];
      }
      peaks[c] = *std::max_element(best, best + lanes);
    }
  }
};

// dcsm, third pass.
struct LastTanh {
  template <class T>
  static CUEKIT_INLINE void run(const double* sums, double peak, std::int64_t count, T* out) {
    const double maximum = divisor(peak);
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = store<T>(tanh_to_three(3.0 * (sums[i] / maximum)));
  }
};

std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

// One image: its present classes' maps, worked on in chunks of pixels.
template <class T>
class Image {
 public:
  Image(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p)
      : pixels_(p.pixels), chunks_((p.pixels + chunk_size - 1) / chunk_size) {
    for (std::int64_t c = 0; c < p.classes; ++c) {
      (present[c] ? out_ : absent_).push_back(out + c * pixels_);
      if (present[c]) maps_.push_back(maps + c * pixels_);
    }
    num_present_ = static_cast<std::int64_t>(maps_.size());
  }

  bool subtract(SubtractMode mode, int threads) {
    if (mode == SubtractMode::dcsm && num_present_ > 1) {
      dcsm(threads);
    } else {
      clear_absent(threads);
      for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        const std::unique_ptr<double[]> sums(new double[to_size(num_present_ * lanes)]);
        for_each_tile(begin, end, [&](double* tile, std::int64_t at, std::int64_t count) {
          if (num_present_ == 1) {
            dispatch<AloneTile>(tile, at, count, out_.data());
          } else if (mode == SubtractMode::pairwise) {
            // The widest registers there are: twice as many values would not stay in them.
            if (instruction_set == InstructionSet::avx512)
              dispatch<PairwiseTile<8>>(maps_.data(), tile, num_present_, at, count, sums.get(),
                                        out_.data());
            else
              dispatch<PairwiseTile<4>>(maps_.data(), tile, num_present_, at, count, sums.get(),
                                        out_.data());
          } else {
            dispatch<StrongestTile>(tile, num_present_, at, count, out_.data());
          }
        });
      });
    }
    return finite_;
  }

 private:
  static constexpr std::int64_t tiles_per_chunk = 32;
  static constexpr std::int64_t chunk_size = tiles_per_chunk * tile_size;

  template <class Body>
  void for_each_chunk(int threads, Body body) {
    parallel_for(chunks_, threads, [&](std::int64_t chunk) {
      body(chunk, chunk * chunk_size, std::min(pixels_, (chunk + 1) * chunk_size));
    });
  }

  template <class Body>
  void for_each_tile(std::int64_t begin, std::int64_t end, Body body) {
    const std::unique_ptr<double[]> tile(new double[to_size(num_present_ * tile_size)]);
    for (std::int64_t at = begin; at < end && num_present_ > 0; at += tile_size) {
      const std::int64_t count = std::min(tile_size, end - at);
      bool finite = true;
      dispatch<LoadTile>(maps_.data(), num_present_, at, count, tile.get(), &finite);
      if (!finite) finite_ = false;
      body(tile.get(), at, count);
    }
  }

  void clear_absent(int threads) {
    parallel_for(static_cast<std::int64_t>(absent_.size()), threads, [&](std::int64_t i) {
      std::memset(absent_[to_size(i)], 0, to_size(pixels_) * sizeof(T));
    });
  }

  void dcsm(int threads) {
    const std::int64_t pairs = num_present_ * num_present_;
    std::vector<double> chunk_maxima(to_size(chunks_ * pairs));
    clear_absent(threads);
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t, std::int64_t) {
        dispatch<PairMaxima>(tile, num_present_, chunk_maxima.data() + chunk * pairs);
      });
    });
    const std::vector<double> maxima = maximum_of_chunks(chunk_maxima, pairs);
    const std::int64_t stride = chunks_ * chunk_size;
    const std::unique_ptr<double[]> sums(new double[to_size(num_present_ * stride)]);
    std::vector<double> chunk_peaks(to_size(chunks_ * num_present_));
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t at, std::int64_t) {
        dispatch<PairTanh>(tile, num_present_, maxima.data(), sums.get() + at, stride,
                           chunk_peaks.data() + chunk * num_present_);
      });
    });
    const std::vector<double> peaks = maximum_of_chunks(chunk_peaks, num_present_);
    for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::size_t c = 0; c < out_.size(); ++c) {
        const double* from = sums.get() + static_cast<std::int64_t>(c) * stride + begin;
        dispatch<LastTanh>(from, peaks[c], end - begin, out_[c] + begin);
      }
    });
  }

  std::vector<double> maximum_of_chunks(const std::vector<double>& values, std::int64_t width) {
    std::vector<double> maxima(to_size(width));
    for (std::size_t i = 0; i < values.size(); ++i) {
      double& maximum = maxima[i % to_size(width)];
      maximum = std::max(maximum, values[i]);
    }
    return maxima;
  }

  std::int64_t pixels_;
  std::int64_t chunks_;
  std::int64_t num_present_ = 0;
  std::vector<const T*> maps_;  // of the present classes
  std::vector<T*> out_;         // of the present classes
  std::vector<T*> absent_;      // where the absent classes' zeros go
  std::atomic<bool> finite_{true};
};

}  // namespace

template <class T>
bool subtract(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p,
              Context& context) {
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
