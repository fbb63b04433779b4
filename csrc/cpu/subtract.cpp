// subtract: every present class against every other one.
//
// pairwise and dcsm process pixels in tiles of 128. A tile holds the present classes' values as
// float64 and stays in L1 while each class is compared with each other. What a mode computes for a
// tile is in a kernel of its own, which knows nothing of the maps' type. FewTile, TwoTile and
// StrongestTile read the maps themselves. dcsm needs maxima over the whole image, so it makes three
// passes: the maxima of all differences (PairMaxima), the sums D and their maxima (PairTanh), the
// results (LastTanh). Maxima are taken by chunk and then over the chunks; a maximum is exact, so
// any number of threads gives the same bits. Where a maximum exceeds the range of float64, a pass
// in between computes the maxima of half the differences, and HalvedPairTanh takes the place of
// PairTanh.
//
// Maps of float16 are read as float32, a tile at a time.
#include "cuekit/subtract.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "finite.h"
#include "half_rows.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

// Pixels in a tile. With 20 classes it takes 20 KiB.
constexpr std::int64_t tile_size = 128;
// Between the rows of a tile, in values: one cache line more, because rows that begin at multiples
// of 1024 bytes would share a quarter of L1.
constexpr std::int64_t tile_stride = tile_size + 8;
// Pixels that StrongestTile and TwoTile take at a time. The two largest values of each pixel stay
// in L1, and the maps in L2 until they are read again.
constexpr std::int64_t wide_tile_size = 1024;
// Their pixels are a multiple of this, so that their loops need no part for the last few.
constexpr std::int64_t wide_tile_step = 16;

// max(value, 0) with integer operations: an arithmetic shift copies the sign bit to all bits, which
// then mask the value. A floating comparison has to handle NaN and signed zeros, and compilers emit
// more than one maximum instruction for it.
template <class V>
CUEKIT_INLINE V positive(V value) {
  using Bits = std::conditional_t<sizeof(V) == 4, std::int32_t, std::int64_t>;
  const auto bits = bit_cast<Bits>(value);
  return bit_cast<V>(static_cast<Bits>(bits & ~(bits >> (8 * sizeof(V) - 1))));
}

// The divisor for a maximum. Where the maximum is 0, no dividend is positive and every result is 0,
// whatever the divisor.
CUEKIT_INLINE double divisor(double maximum) { return maximum > 0.0 ? maximum : 1.0; }

// The pixels of a map from `begin` on.
template <class T>
CUEKIT_INLINE const T* pixels_of(const void* map, std::int64_t begin) {
  return static_cast<const T*>(map) + begin;
}
template <class T>
CUEKIT_INLINE T* pixels_of(void* map, std::int64_t begin) {
  return static_cast<T*>(map) + begin;
}

// Loads the present classes' values of one tile. From `count` on it is filled with zeros, so that
// inner loops have a fixed length. The zeros change no result: their differences are 0, and maxima
// are used only where they are positive.
template <class T>
struct LoadTile {
  static CUEKIT_INLINE void run(const void* const* maps,  // P of (N)
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                double* tile,    // (P, tile_stride)
                                bool* finite) {  // false where a value is not finite
    typename float_bits<T>::type seen = 0;
    for (std::int64_t c = 0; c < num_present; ++c) {
      const T* source = pixels_of<T>(maps[c], begin);
      double* target = tile + c * tile_stride;
      seen |= nonfinite_bits(source, count);
      for (std::int64_t i = 0; i < count; ++i) target[i] = source[i];
      std::fill(target + count, target + tile_size, 0.0);
    }
    *finite = !any_nonfinite(seen);
  }
};

// Stores rows of results.
template <class T>
struct StoreRows {
  static CUEKIT_INLINE void run(const double* rows,  // (number, stride), of which (number, count)
                                std::int64_t stride, std::int64_t number, std::int64_t begin,
                                std::int64_t count,
                                void* const* out) {  // `number` of (N)
    for (std::int64_t k = 0; k < number; ++k) {
      const double* source = rows + k * stride;
      T* target = pixels_of<T>(out[k], begin);
      for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<T>(source[i]);
    }
  }
};

// pairwise, what two classes add to each other's sums. One subtraction serves both: the positive
// part of d = M_c - M_c' is added to class c, the negative part to class c'.
template <int width>
struct Differences {
  using Values = Lanes<double, width>;
  double factor;

  CUEKIT_INLINE void begin(const double*, std::int64_t) {}

  static CUEKIT_INLINE void add_pair(Values own, Values theirs, Values& own_sum,
                                     Values& their_sum) {
    Values negative, positive;
    (own - theirs).split_by_sign(&negative, &positive);
    own_sum = own_sum + positive;
    their_sum = their_sum - negative;
  }

  CUEKIT_INLINE Values result(Values, Values sum) const { return sum * factor; }
};

// The same in fewer instructions, for a tile loaded by LoadEvenTile: as max(a - b, 0) is
// max(a, b) - b, the maximum of two values is added to both sums, and the sum of all other classes'
// values is subtracted at the end. Values are integers there, in the low bits of float64, so sums
// are sums of those bits: exact, modulo 2^64. The sums of Differences are exact there, too.
template <int width>
struct Maxima {
  using Values = Lanes<double, width>;
  using Integers = Lanes<std::uint64_t, width>;
  double factor;                      // includes the unit
  Integers total = Integers::zero();  // of all classes

  template <class To, class From>
  static CUEKIT_INLINE To same_bits(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
  }

  CUEKIT_INLINE void begin(const double* tile,  // (P, tile_stride), of which (P, width)
                           std::int64_t num_present) {
    total = Integers::zero();
    for (std::int64_t c = 0; c < num_present; ++c)
      total = total + same_bits<Integers>(Values::load(tile + c * tile_stride));
  }

  static CUEKIT_INLINE void add_pair(Values own, Values theirs, Values& own_sum,
                                     Values& their_sum) {
    const auto larger_one = same_bits<Integers>(larger(own, theirs));
    own_sum = same_bits<Values>(same_bits<Integers>(own_sum) + larger_one);
    their_sum = same_bits<Values>(same_bits<Integers>(their_sum) + larger_one);
  }

  CUEKIT_INLINE Values result(Values own, Values sum) const {
    // As an integer below 2^52, which 2^52 has room for in its low bits.
    const auto zero = Values::all(0x1p52);
    const auto count = same_bits<Integers>(sum) + same_bits<Integers>(own) - total;
    return (same_bits<Values>(count + same_bits<Integers>(zero)) - zero) * factor;
  }
};

// Loads a tile as integers, if its values allow that: if all are multiples of one unit, and so few
// binary digits apart that every sum of their differences is a multiple of it below 2^52 units.
// Then float64 holds every sum exactly, in whatever order and way it is computed. A value is stored
// as 1.5 * 2^52 units more: that is its number of units in the low bits of the float64, and all
// such numbers are positive and have one exponent.
//
// It is for float32. Values that were float16 have fewer binary digits, so more tiles are such.
struct LoadEvenTile {
  static CUEKIT_INLINE void run(const void* const* maps,  // P of (N)
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                int digits,
                                double* tile,    // (P, tile_stride)
                                double* unit) {  // 0: the tile is not loaded
    constexpr int mantissa = float_bits<float>::mantissa, bias = 127;
    // Bits of absolute values; the lowest one is that of values other than zero, less 1.
    std::uint32_t lowest = ~std::uint32_t{0}, highest = 0;
    for (std::int64_t c = 0; c < num_present; ++c) {
      const float* source = pixels_of<float>(maps[c], begin);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint32_t bits = bit_cast<std::uint32_t>(source[i]) & 0x7fffffffu;
        highest = std::max(highest, bits);
        lowest = std::min(lowest, bits - 1);
      }
    }
    *unit = 0.0;
    const int high = std::max(static_cast<int>(highest >> mantissa), 1);
    if (high == 2 * bias + 1) return;  // not finite
    // Values are multiples of 2^(low - bias - digits) and below 2^(high + 1 - bias).
    const int low = std::max(static_cast<int>((lowest + 1) >> mantissa), 1);  // 1 if all are 0
    const auto power = [](int exponent) {
      return bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
    };
    const double least = power(low - bias - digits);
    if (2.0 * static_cast<double>(num_present) * power(high + 1 - bias) > 0x1p52 * least) return;
    const double base = 0x1.8p52 * least;
    for (std::int64_t c = 0; c < num_present; ++c) {
      const float* source = pixels_of<float>(maps[c], begin);
      double* target = tile + c * tile_stride;
      for (std::int64_t i = 0; i < count; ++i) target[i] = base + source[i];
      std::fill(target + count, target + tile_size, base);
    }
    *unit = least;
  }
};

// pairwise. c ascends, and c' > c ascends within it, so each class still adds the other classes in
// ascending order. Up to four c are paired with each c' while the value and the sum of c' are in
// registers. Vectors hold `width` pixels.
template <int width, template <int> class Pairs>
struct PairwiseTile {
  static constexpr int block = 4;  // classes that are paired with each other class at once
  using Values = Lanes<double, width>;

  // Pairs the classes c .. c + n - 1 with each other and with all above them, in `width` pixels.
  // Then their sums are complete and their values are not needed any more: the results replace them
  // in the tile. `first`: the sums have no values yet.
  template <int n, bool first>
  static CUEKIT_INLINE void add_classes(double* tile,  // (P, tile_stride), of which (P, width)
                                        std::int64_t c, std::int64_t num_present,
                                        const Pairs<width>& pairs,
                                        double* sums) {  // (P, width)
    Values own[n], own_sum[n];
    CUEKIT_UNROLL
    for (int k = 0; k < n; ++k) {
      own[k] = Values::load(tile + (c + k) * tile_stride);
      own_sum[k] = first ? Values::zero() : Values::load(sums + (c + k) * width);
    }
    CUEKIT_UNROLL
    for (int k = 0; k < n; ++k) CUEKIT_UNROLL
    for (int other = k + 1; other < n; ++other)
      pairs.add_pair(own[k], own[other], own_sum[k], own_sum[other]);
    for (std::int64_t other = c + n; other < num_present; ++other) {
      const auto theirs = Values::load(tile + other * tile_stride);
      auto their_sum = first ? Values::zero() : Values::load(sums + other * width);
      CUEKIT_UNROLL
      for (int k = 0; k < n; ++k) pairs.add_pair(own[k], theirs, own_sum[k], their_sum);
      their_sum.store(sums + other * width);
    }
    CUEKIT_UNROLL
    for (int k = 0; k < n; ++k)
      pairs.result(own[k], own_sum[k]).store(tile + (c + k) * tile_stride);
  }

  // The same for all classes from c on, at most n.
  template <int n>
  static CUEKIT_INLINE void add_last(double* tile, std::int64_t c, std::int64_t num_present,
                                     const Pairs<width>& pairs, double* sums) {
    if (num_present - c == n)
      add_classes<n, false>(tile, c, num_present, pairs, sums);
    else if constexpr (n > 1)
      add_last<n - 1>(tile, c, num_present, pairs, sums);
  }

  static CUEKIT_INLINE void run(double* tile,  // (P, tile_stride): values, then results
                                std::int64_t num_present, std::int64_t count, double factor,
                                double* sums,                               // (P, width): scratch
                                const void* const* maps, void* const* out,  // P of (N) each
                                std::int64_t begin, std::int64_t value_size) {
    Pairs<width> pairs{factor};
    for (std::int64_t i = 0; i < count; i += width) {
      pairs.begin(tile + i, num_present);
      // The hardware prefetcher cannot follow one short row for each of many classes. So the next
      // tile's values, and the lines that this tile's results go to, are prefetched here, while
      // there is arithmetic to do.
      const bool new_line = i * value_size % 64 == 0;
      for (std::int64_t c = 0; new_line && c < num_present; ++c) {
        prefetch(pixels_of<char>(maps[c], (begin + tile_size + i) * value_size), 1);
        prefetch(pixels_of<char>(out[c], (begin + i) * value_size), 1);
      }
      std::int64_t c = 0;
      if (num_present >= block) {
        add_classes<block, true>(tile + i, 0, num_present, pairs, sums);
        c = block;
      } else {
        std::fill_n(sums, num_present * width, 0.0);
      }
      for (; c + block <= num_present; c += block)
        add_classes<block, false>(tile + i, c, num_present, pairs, sums);
      add_last<block - 1>(tile + i, c, num_present, pairs, sums);
    }
  }
};

// pairwise of three or four classes of float32 or float64: everything is in registers between the
// maps and the results. `end - begin` is a multiple of `width`.
template <class T, int width>
struct FewTile {
  // Adds the classes in pairs, as PairwiseTile does.
  template <int n>
  static CUEKIT_INLINE void add_all(const void* const* maps,  // n of (N)
                                    std::int64_t begin, std::int64_t end, double factor,
                                    void* const* out) {  // n of (N)
    using Values = Lanes<double, width>;
    const T* source[n];
    T* target[n];
    for (int k = 0; k < n; ++k) {
      source[k] = pixels_of<T>(maps[k], 0);
      target[k] = pixels_of<T>(out[k], 0);
    }
    for (std::int64_t i = begin; i < end; i += width) {
      Values own[n], own_sum[n];
      for (int k = 0; k < n; ++k) {
        double wide[width];
        for (int j = 0; j < width; ++j) wide[j] = source[k][i + j];
        own[k] = Values::load(wide);
        own_sum[k] = Values::zero();
      }
      for (int k = 0; k < n; ++k)
        for (int other = k + 1; other < n; ++other)
          Differences<width>::add_pair(own[k], own[other], own_sum[k], own_sum[other]);
      for (int k = 0; k < n; ++k) {
        const auto result = own_sum[k] * factor;
        Lanes<T, width> narrow;
        for (int j = 0; j < width; ++j) narrow.values[j] = static_cast<T>(result.values[j]);
        narrow.store(target[k] + i);
      }
    }
  }

  static CUEKIT_INLINE void run(const void* const* maps,  // P of (N)
                                std::int64_t num_present, std::int64_t begin, std::int64_t end,
                                double factor,
                                void* const* out,  // P of (N)
                                bool* finite) {    // false where a value is not finite
    typename float_bits<T>::type seen = 0;
    for (std::int64_t c = 0; c < num_present; ++c)
      seen |= nonfinite_bits(pixels_of<T>(maps[c], begin), end - begin);
    *finite = !any_nonfinite(seen);
    if (num_present == 3)
      add_all<3>(maps, begin, end, factor, out);
    else
      add_all<4>(maps, begin, end, factor, out);
  }
};

// What strongest, TwoTile and a class alone are computed in: float32 for float32 and float16.
// Rounding a difference of two of them from float64 to their own type, or from float32 to float16,
// gives the bits of rounding it once: the wider type has more than twice as many digits.
template <class T>
using difference_type = std::conditional_t<std::is_same_v<T, double>, double, float>;

// pairwise and strongest of two classes, which are the same. They have one difference.
template <class V>
struct TwoTile {
  static CUEKIT_INLINE void run(const void* const* maps,  // 2 of (N)
                                std::int64_t begin, std::int64_t count,
                                void* const* out,  // 2 of (N), or the maps
                                bool* finite) {    // false where a value is not finite
    count &= -wide_tile_step;                      // tells the compiler
    const V *one = pixels_of<V>(maps[0], begin), *other = pixels_of<V>(maps[1], begin);
    V *of_one = pixels_of<V>(out[0], begin), *of_other = pixels_of<V>(out[1], begin);
    *finite = !any_nonfinite(nonfinite_bits(one, count) | nonfinite_bits(other, count));
    for (std::int64_t i = 0; i < count; ++i) {
      const V difference = one[i] - other[i];
      of_one[i] = positive(difference);
      of_other[i] = positive(-difference);
    }
  }
};

// strongest, and every mode where only one class is present. At each pixel only the largest value
// has a result above 0: its distance to the second largest. So the two largest values suffice, and
// max(M_c - second, 0) is the result of every class. A class that is alone is compared with 0.
template <class V>
struct StrongestTile {
  static CUEKIT_INLINE void raise(V value, V& first, V& second) {
    const V lower = value < first ? value : first;
    first = value < first ? first : value;
    second = second < lower ? lower : second;
  }

  static CUEKIT_INLINE void run(const void* const* maps,  // P of (N)
                                std::int64_t num_present, std::int64_t begin, std::int64_t count,
                                void* const* out,  // P of (N), or the maps
                                bool* finite) {    // false where a value is not finite
    count &= -wide_tile_step;
    constexpr V none = -std::numeric_limits<V>::infinity();
    V first[wide_tile_size], second[wide_tile_size];
    typename float_bits<V>::type seen = 0;
    std::fill_n(first, count, none);
    std::fill_n(second, count, num_present == 1 ? V{0} : none);
    std::int64_t c = 0;
    for (; c + 2 <= num_present; c += 2) {  // two classes, while the values so far are in registers
      const V *one = pixels_of<V>(maps[c], begin), *other = pixels_of<V>(maps[c + 1], begin);
      for (std::int64_t i = 0; i < count; ++i) {
        V a = first[i], b = second[i];
        raise(one[i], a, b);
        raise(other[i], a, b);
        seen |= nonfinite_bit(one[i]) | nonfinite_bit(other[i]);
        first[i] = a;
        second[i] = b;
      }
    }
    if (c < num_present) {
      const V* last = pixels_of<V>(maps[c], begin);
      for (std::int64_t i = 0; i < count; ++i) {
        raise(last[i], first[i], second[i]);
        seen |= nonfinite_bit(last[i]);
      }
    }
    for (c = 0; c < num_present; ++c) {
      const V* values = pixels_of<V>(maps[c], begin);
      V* results = pixels_of<V>(out[c], begin);
      for (std::int64_t i = 0; i < count; ++i) results[i] = positive(values[i] - second[i]);
    }
    *finite = !any_nonfinite(seen);
  }
};

// dcsm, first pass: raises maxima[c][c'] to the maximum over the tile of M_c - M_c'.
struct PairMaxima {
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_stride)
                                std::int64_t num_present,
                                double* maxima) {  // (P, P)
    constexpr int accumulators = 32;               // partial maxima, in registers
    for (std::int64_t c = 0; c < num_present; ++c) {
      for (std::int64_t other = 0; other < num_present; ++other) {
        double best[accumulators];
        std::fill_n(best, accumulators, maxima[c * num_present + other]);
        for (std::int64_t i = 0; i < tile_size; i += accumulators) {
          const double* own = tile + c * tile_stride + i;
          const double* theirs = tile + other * tile_stride + i;
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
CUEKIT_INLINE void raise_peaks(const double* sums,  // (P, stride), of which (P, tile_stride)
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
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_stride)
                                std::int64_t num_present,
                                const double* maxima,  // (P, P)
                                double* sums,          // (P, stride), of which (P, tile_stride)
                                std::int64_t stride,
                                double* peaks) {  // (P)
    for (std::int64_t c = 0; c < num_present; ++c) std::fill_n(sums + c * stride, tile_size, 0.0);
    for (std::int64_t c = 0; c < num_present; ++c) {
      for (std::int64_t other = c + 1; other < num_present; ++other) {
        const double* own = tile + c * tile_stride;
        const double* theirs = tile + other * tile_stride;
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
  static CUEKIT_INLINE void run(const double* tile,  // (P, tile_stride)
                                std::int64_t num_present,
                                const double* maxima,       // (P, P), some of them infinite
                                const double* half_maxima,  // (P, P): of half the differences
                                double* sums,  // (P, stride), of which (P, tile_stride)
                                std::int64_t stride,
                                double* peaks) {  // (P)
    for (std::int64_t c = 0; c < num_present; ++c) {
      double* sum = sums + c * stride;
      std::fill_n(sum, tile_size, 0.0);
      for (std::int64_t other = 0; other < num_present; ++other) {
        if (other == c) continue;
        const double* own = tile + c * tile_stride;
        const double* theirs = tile + other * tile_stride;
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

// dcsm, third pass: one class's results, in the place of its D.
struct LastTanh {
  static CUEKIT_INLINE void run(double* sums,  // (count)
                                double peak, std::int64_t count) {
    const double maximum = divisor(peak);
    for (std::int64_t i = 0; i < count; ++i) sums[i] = tanh_to_three(3.0 * (sums[i] / maximum));
  }
};

// One image, whatever the type of its maps. Threads work on chunks of pixels.
class Image {
 public:
  Image(const void* maps,             // (C, N)
        const std::uint8_t* present,  // (C)
        void* out,                    // (C, N)
        const SubtractParams& p, std::int64_t value_size)
      : value_size_(value_size),
        pixels_(p.pixels),
        chunks_((p.pixels + chunk_size - 1) / chunk_size) {
    for (std::int64_t c = 0; c < p.classes; ++c) {
      const std::int64_t offset = c * pixels_ * value_size_;
      (present[c] ? out_ : absent_).push_back(pixels_of<char>(out, offset));
      if (present[c]) maps_.push_back(pixels_of<char>(maps, offset));
    }
    num_present_ = static_cast<std::int64_t>(maps_.size());
  }

  // Returns false where a value is not finite.
  bool subtract(SubtractMode mode, int threads) {
    clear_absent(threads);
    if (mode == SubtractMode::dcsm && num_present_ > 1) {
      dcsm(threads);
    } else if (num_present_ > 0) {
      const bool pairs = mode == SubtractMode::pairwise && num_present_ > 2;
      for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        pairs ? pairwise(begin, end) : strongest(begin, end);
      });
    }
    return finite_;
  }

 protected:
  ~Image() = default;

  // What depends on the type. Pixels [begin, begin + count) each.
  //
  // LoadTile.
  virtual void load_tile(std::int64_t begin, std::int64_t count,
                         double* tile) = 0;  // (P, tile_stride)
  // LoadEvenTile, returns the unit.
  virtual double load_even_tile(std::int64_t begin, std::int64_t count,
                                double* tile) = 0;  // (P, tile_stride)
  // Stores the results of the classes from c on.
  virtual void store_rows(const double* rows,  // (number, stride), of which (number, count)
                          std::int64_t stride, std::int64_t c, std::int64_t number,
                          std::int64_t begin, std::int64_t count) = 0;
  // pairwise by FewTile; false if that is not for these maps.
  virtual bool pairwise_of_few(std::int64_t begin, std::int64_t count, double factor) = 0;
  // strongest, at most wide_tile_size pixels. Also pairwise of two classes, and every mode of one.
  virtual void strongest_tile(std::int64_t begin, std::int64_t count) = 0;

  static constexpr std::int64_t largest_width = 8;  // of PairwiseTile and FewTile

  const std::int64_t value_size_;  // bytes
  std::int64_t num_present_ = 0;
  std::vector<const void*> maps_;  // P of (N)
  std::vector<void*> out_;         // P of (N)
  std::atomic<bool> finite_{true};

 private:
  static constexpr std::int64_t tiles_per_chunk = 32;
  static constexpr std::int64_t chunk_size = tiles_per_chunk * tile_size;

  // Calls body(chunk, begin, end) in parallel, for pixels [begin, end).
  template <class Body>
  void for_each_chunk(int threads, Body body) {
    parallel_for(chunks_, threads, [&](std::int64_t chunk) {
      body(chunk, chunk * chunk_size, std::min(pixels_, (chunk + 1) * chunk_size));
    });
  }

  // Calls body(tile, tile_begin) for each tile of the pixels [begin, end).
  template <class Body>
  void for_each_tile(std::int64_t begin, std::int64_t end, Body body) {
    const std::unique_ptr<double[]> tile(new double[num_present_ * tile_stride]);
    for (std::int64_t i = begin; i < end; i += tile_size) {
      load_tile(i, std::min(tile_size, end - i), tile.get());
      body(tile.get(), i);
    }
  }

  // Pixels [begin, end).
  void strongest(std::int64_t begin, std::int64_t end) {
    const std::int64_t last = end - (end - begin) % wide_tile_step;
    for (std::int64_t i = begin; i < last; i += wide_tile_size)
      strongest_tile(i, std::min(wide_tile_size, last - i));
    if (last < end) strongest_tile(last, end - last);
  }

  // Pixels [begin, end). With vectors twice as wide, add_classes would run out of registers.
  void pairwise(std::int64_t begin, std::int64_t end) {
    const double factor = 1.0 / static_cast<double>(num_present_ - 1);
    if (pairwise_of_few(begin, end - begin, factor)) return;
    const std::unique_ptr<double[]> tile(new double[num_present_ * tile_stride]);
    const std::unique_ptr<double[]> sums(new double[num_present_ * largest_width]);
    for (std::int64_t i = begin; i < end; i += tile_size) {
      const std::int64_t count = std::min(tile_size, end - i);
      if (!pairwise_even(i, count, factor, tile.get(), sums.get())) {
        load_tile(i, count, tile.get());
        dispatch_width_avx512<PairwiseTile<4, Differences>, PairwiseTile<4, Differences>,
                              PairwiseTile<8, Differences>>(tile.get(), num_present_, count, factor,
                                                            sums.get(), maps_.data(), out_.data(),
                                                            i, value_size_);
      }
      store_rows(tile.get(), tile_stride, 0, num_present_, i, count);
    }
  }

  // One tile by Maxima; false if its values do not allow that.
  bool pairwise_even(std::int64_t begin, std::int64_t count, double factor, double* tile,
                     double* sums) {
    // Maxima compares vectors that are wider than the baseline's registers, value by value there.
    if (num_present_ <= 4 || instruction_set == InstructionSet::baseline) return false;
    const double unit = load_even_tile(begin, count, tile);
    if (unit == 0.0) return false;
    // The baseline's kernel stands for none: it does not get here.
    dispatch_width_avx512<PairwiseTile<4, Differences>, PairwiseTile<4, Maxima>,
                          PairwiseTile<8, Maxima>>(tile, num_present_, count, unit * factor, sums,
                                                   maps_.data(), out_.data(), begin, value_size_);
    return true;
  }

  void clear_absent(int threads) {
    parallel_for(static_cast<std::int64_t>(absent_.size()), threads,
                 [&](std::int64_t i) { std::memset(absent_[i], 0, pixels_ * value_size_); });
  }

  void dcsm(int threads) {
    const std::int64_t pairs = num_present_ * num_present_;
    std::vector<double> chunk_maxima(chunks_ * pairs);
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t) {
        dispatch<PairMaxima>(tile, num_present_, chunk_maxima.data() + chunk * pairs);
      });
    });
    const std::vector<double> maxima = maximum_of_chunks(chunk_maxima, pairs);
    std::vector<double> half_maxima;  // only where a maximum is infinite, which takes float64 maps
    if (std::any_of(maxima.begin(), maxima.end(), [](double each) { return std::isinf(each); })) {
      std::fill(chunk_maxima.begin(), chunk_maxima.end(), 0.0);
      for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
        for_each_tile(begin, end, [&](double* tile, std::int64_t) {
          for (std::int64_t c = 0; c < num_present_; ++c)
            for (std::int64_t i = 0; i < tile_size; ++i) tile[c * tile_stride + i] *= 0.5;
          dispatch<PairMaxima>(static_cast<const double*>(tile), num_present_,
                               chunk_maxima.data() + chunk * pairs);
        });
      });
      half_maxima = maximum_of_chunks(chunk_maxima, pairs);
    }
    const std::int64_t stride = chunks_ * chunk_size;
    const std::unique_ptr<double[]> sums(new double[num_present_ * stride]);
    std::vector<double> chunk_peaks(chunks_ * num_present_);
    for_each_chunk(threads, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      for_each_tile(begin, end, [&](const double* tile, std::int64_t tile_begin) {
        double* const tile_sums = sums.get() + tile_begin;
        double* const peaks = chunk_peaks.data() + chunk * num_present_;
        if (half_maxima.empty())
          dispatch_avx512<PairTanh>(tile, num_present_, maxima.data(), tile_sums, stride, peaks);
        else
          dispatch_avx512<HalvedPairTanh>(tile, num_present_, maxima.data(), half_maxima.data(),
                                          tile_sums, stride, peaks);
      });
    });
    const std::vector<double> peaks = maximum_of_chunks(chunk_peaks, num_present_);
    for_each_chunk(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = 0; c < num_present_; ++c) {
        double* const results = sums.get() + c * stride + begin;
        dispatch<LastTanh>(results, peaks[c], end - begin);
        store_rows(results, stride, c, 1, begin, end - begin);
      }
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

  const std::int64_t pixels_;
  const std::int64_t chunks_;
  std::vector<void*> absent_;  // outputs of the absent classes, C - P of (N)
};

// One image with maps of type T, which kernels read as V.
template <class T>
class ImageOf final : public Image {
 public:
  ImageOf(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p)
      : Image(maps, present, out, p, sizeof(T)) {}

 private:
  using V = difference_type<T>;

  void load_tile(std::int64_t begin, std::int64_t count, double* tile) override {
    bool finite = true;
    with_rows(begin, count, [&](const void* const* maps, std::int64_t at) {
      dispatch<LoadTile<V>>(maps, num_present_, at, count, tile, &finite);
    });
    if (!finite) finite_ = false;
  }

  double load_even_tile(std::int64_t begin, std::int64_t count, double* tile) override {
    double unit = 0.0;
    if constexpr (std::is_same_v<V, float>) {
      with_rows(begin, count, [&](const void* const* maps, std::int64_t at) {
        dispatch<LoadEvenTile>(maps, num_present_, at, count, float_bits<T>::mantissa, tile, &unit);
      });
    }
    return unit;
  }

  void store_rows(const double* rows, std::int64_t stride, std::int64_t c, std::int64_t number,
                  std::int64_t begin, std::int64_t count) override {
    if constexpr (std::is_same_v<T, half>) {
      for (std::int64_t k = 0; k < number; ++k)
        narrow(rows + k * stride, count, pixels_of<half>(out_[c + k], begin));
    } else {
      dispatch<StoreRows<T>>(rows, stride, number, begin, count, out_.data() + c);
    }
  }

  bool pairwise_of_few(std::int64_t begin, std::int64_t count, double factor) override {
    if constexpr (std::is_same_v<T, V>) {
      if (num_present_ > 4) return false;
      const std::int64_t last = count % largest_width, whole = count - last;
      few_tile(maps_.data(), begin, whole, factor, out_.data());
      if (last == 0) return true;
      T values[4][largest_width] = {};  // of the last pixels, then their results
      void* rows[4];
      for (std::int64_t c = 0; c < num_present_; ++c) {
        rows[c] = values[c];
        std::copy_n(pixels_of<T>(maps_[c], begin + whole), last, values[c]);
      }
      few_tile(rows, 0, largest_width, factor, rows);
      for (std::int64_t c = 0; c < num_present_; ++c)
        std::copy_n(values[c], last, pixels_of<T>(out_[c], begin + whole));
      return true;
    }
    return false;
  }

  void few_tile(const void* const* maps, std::int64_t begin, std::int64_t count, double factor,
                void* const* out) {
    bool finite = true;
    dispatch_width_avx512<FewTile<V, 2>, FewTile<V, 4>, FewTile<V, 8>>(
        maps, num_present_, begin, begin + count, factor, out, &finite);
    if (!finite) finite_ = false;
  }

  void strongest_tile(std::int64_t begin, std::int64_t count) override {
    bool finite = true;
    const auto subtract = [&](const void* const* maps, std::int64_t at, std::int64_t size,
                              void* const* out) {
      if (num_present_ == 2)
        dispatch<TwoTile<V>>(maps, at, size, out, &finite);
      else
        dispatch<StrongestTile<V>>(maps, num_present_, at, size, out, &finite);
    };
    if (std::is_same_v<T, V> && count % wide_tile_step == 0) {
      subtract(maps_.data(), begin, count, out_.data());
    } else {
      with_copy(begin, count, [&](void* const* rows, std::int64_t size) {
        subtract(rows, 0, size, rows);
        for (std::int64_t c = 0; c < num_present_; ++c)
          store_row(pixels_of<V>(rows[c], 0), count, pixels_of<T>(out_[c], begin));
      });
    }
    if (!finite) finite_ = false;
  }

  // Calls body(maps, at) where pixels [at, at + count) of these maps hold V.
  template <class Body>
  void with_rows(std::int64_t begin, std::int64_t count, Body body) const {
    if constexpr (std::is_same_v<T, V>)
      body(maps_.data(), begin);
    else
      with_copy(begin, count, [&](void* const* rows, std::int64_t) { body(rows, 0); });
  }

  // Calls body(rows, size) with a copy of the pixels as V, to which zeros are added up to whole
  // steps.
  template <class Body>
  void with_copy(std::int64_t begin, std::int64_t count, Body body) const {
    const std::int64_t size = (count + wide_tile_step - 1) & -wide_tile_step;
    const std::unique_ptr<V[]> copy(new V[num_present_ * size]);
    std::vector<void*> rows;
    for (std::int64_t c = 0; c < num_present_; ++c) {
      V* const row = copy.get() + c * size;
      load_row(pixels_of<T>(maps_[c], begin), count, row);
      std::fill(row + count, row + size, V{0});
      rows.push_back(row);
    }
    body(rows.data(), size);
  }

  static void load_row(const T* source, std::int64_t count, V* row) {
    if constexpr (std::is_same_v<T, half>)
      widen(source, count, row);
    else
      std::copy_n(source, count, row);
  }
  static void store_row(const V* row, std::int64_t count, T* target) {
    if constexpr (std::is_same_v<T, half>)
      narrow(row, count, target);
    else
      std::copy_n(row, count, target);
  }
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
    ImageOf<T> image(maps + offset, present + b * p.classes, out + offset, p);
    if (!image.subtract(p.mode, inner_threads)) all_finite = false;
  });
  return all_finite;
}

template bool subtract(const half*, const std::uint8_t*, half*, const SubtractParams&, Context&);
template bool subtract(const float*, const std::uint8_t*, float*, const SubtractParams&, Context&);
template bool subtract(const double*, const std::uint8_t*, double*, const SubtractParams&,
                       Context&);

}  // namespace cuekit::cpu
