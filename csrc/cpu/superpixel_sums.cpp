// The sums of superpixel_sums.h.
//
// Groups of 16 pixels are interleaved, so that the 8 values of a pixel are side by side, and then
// added run by run: the superpixel's 8 sums are read once, stay in registers over the run, and are
// written back. Each group is interleaved before the one in front of it is added: an addition waits
// for the one before it, and meanwhile the processor interleaves.
#include "superpixel_sums.h"

#include <algorithm>
#include <type_traits>

namespace cuekit::cpu {
namespace {

// Pixels that are interleaved at a time: so few that the processor sees the additions of one group
// and the interleaving of the next one together.
constexpr std::int64_t group_size = 16;

// Where a plane's next pixel is among the runs.
struct RunPosition {
  Run rest;         // of its run, what is still to be added
  const Run* next;  // the run after it
};

// Adds every value to its superpixel's sum, in raster order.
template <int width>
struct AddRuns {
  // The sums of a run are held in vectors of `width` values; for width 1 in an array, which is
  // faster there.
  template <class T>
  static CUEKIT_INLINE void add(const T* values,  // (length, 8)
                                std::int64_t length,
                                double* sum) {  // (8)
    if constexpr (width > 1) {
      using Values = Lanes<double, width>;
      constexpr int parts = channels_per_block / width;
      Values partial[parts];
      for (int k = 0; k < parts; ++k) partial[k] = Values::load(sum + k * width);
      for (std::int64_t x = 0; x < length; ++x, values += channels_per_block) {
        for (int k = 0; k < parts; ++k) {
          // GCC compiles the conversion of a whole vector to two of its halves.
          const auto narrow = Lanes<T, width>::load(values + k * width);
          Values wide;
          for (int j = 0; j < width; ++j) wide.values[j] = narrow.values[j];
          partial[k] = partial[k] + wide;
        }
      }
      for (int k = 0; k < parts; ++k) partial[k].store(sum + k * width);
    } else {
      double partial[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) partial[j] = sum[j];
      for (std::int64_t x = 0; x < length; ++x, values += channels_per_block) {
#pragma GCC unroll 8
        for (int j = 0; j < channels_per_block; ++j) partial[j] += values[j];
      }
      for (int j = 0; j < channels_per_block; ++j) sum[j] = partial[j];
    }
  }

  // Interleaves pixels [begin, begin + count).
  template <class T>
  static CUEKIT_INLINE void interleave_pixels(const T* const* planes,  // 8 of (pixels)
                                              std::int64_t begin, std::int64_t count,
                                              T* group) {  // (count, 8)
    const T* rows[channels_per_block];
    for (int j = 0; j < channels_per_block; ++j) rows[j] = planes[j] + begin;
    if constexpr (width == 4 && std::is_same_v<T, float>)
      interleave_halves(&rows[0], count, group);
    else
      interleave(&rows[0], count, group);
  }

  // Interleaves the group from `begin` on. The last one may have fewer pixels; for all others the
  // loops have a fixed length.
  template <class T>
  static CUEKIT_INLINE void interleave_group(const T* const* planes,  // 8 of (pixels)
                                             std::int64_t begin, std::int64_t pixels,
                                             T* group) {  // (group_size, 8)
    if (begin + group_size <= pixels)
      interleave_pixels(planes, begin, group_size, group);
    else if (begin < pixels)
      interleave_pixels(planes, begin, pixels - begin, group);
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* const* planes,  // 8 of (pixels)
                                std::int64_t pixels, RunPosition* position,
                                double* sums) {  // (S, 8)
    T groups[2][group_size * channels_per_block];
    interleave_group(planes, 0, pixels, groups[0]);
    RunPosition at = *position;
    for (std::int64_t begin = 0, index = 0; begin < pixels; begin += group_size, index ^= 1) {
      interleave_group(planes, begin + group_size, pixels, groups[index ^ 1]);
      const T* values = groups[index];
      for (std::int64_t room = std::min(group_size, pixels - begin); room > 0;) {
        if (at.rest.length == 0) at.rest = *at.next++;
        const auto count = static_cast<std::int32_t>(std::min<std::int64_t>(at.rest.length, room));
        add(values, count, sums + at.rest.label * std::int64_t{channels_per_block});
        values += count * channels_per_block;
        room -= count;
        at.rest.length -= count;
      }
    }
    *position = at;
  }
};

// The sums of values that are added from type W: float32 if it holds all of them exactly, because
// it is converted to float64 in one instruction, else float64.
template <class W>
std::vector<double> sums_from(const Source& values,  // (channels, pixels)
                              std::int64_t channels, const SuperpixelRuns& superpixels,
                              std::int64_t pixels) {
  // Values of another type are converted in pieces of whole groups. Their 8 channels fit in L1.
  constexpr std::int64_t piece_size = 32 * group_size;
  const W* const own = values.as<W>();
  const std::int64_t piece = own != nullptr ? pixels : piece_size;
  std::vector<double> sums(superpixels.rows() * channels_per_block);
  RunPosition position{{0, 0}, superpixels.begin()};
  for (std::int64_t begin = 0; begin < pixels; begin += piece) {
    const std::int64_t count = std::min(piece, pixels - begin);
    W converted[channels_per_block][piece_size];
    const W* planes[channels_per_block];
    for (std::int64_t j = 0; j < channels_per_block; ++j) {
      // In place of missing channels the last one is read again.
      const std::int64_t channel = std::min(j, channels - 1);
      const std::int64_t first = channel * pixels + begin;
      planes[j] = own != nullptr ? own + first : converted[channel];
      if (own == nullptr && j == channel) values.read(first, 1, count, &converted[j][0]);
    }
    dispatch_width_avx512<AddRuns<1>, AddRuns<4>, AddRuns<8>>(&planes[0], count, &position,
                                                              sums.data());
  }
  return sums;
}

}  // namespace

std::vector<double> sums_of_block(const Source& values, std::int64_t channels,
                                  const SuperpixelRuns& superpixels, std::int64_t pixels) {
  return values.exact_in_float() ? sums_from<float>(values, channels, superpixels, pixels)
                                 : sums_from<double>(values, channels, superpixels, pixels);
}

}  // namespace cuekit::cpu
