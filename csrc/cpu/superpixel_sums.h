// The sums of 8 channels over every superpixel, for superpixel_mean and superpixel_table.
//
// Chunks of about 64 pixels are interleaved, so that the 8 values of a pixel are side by side, and
// then added run by run: the superpixel's 8 sums are read once, stay in registers over the run, and
// are written back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "superpixels.h"

namespace cuekit::cpu {

// Pixels that are interleaved before they are added: they stay in L1. More of them would take so
// long for each channel's plane that the hardware prefetcher loses track of the other planes.
constexpr std::int64_t chunk_size = 64;

// The type that values are interleaved in. float32 holds every value of at most 16 bits exactly,
// and is converted to float64 in one instruction.
template <class T>
using interleaved_type = std::conditional_t<sizeof(T) <= 2, float, T>;

// Adds every value to its superpixel's sum, in raster order.
//
// Whole runs are interleaved until they make up a chunk, so the buffer has room for a chunk and the
// longest run. A run's sums are held in vectors of `width` values; for width 1, and for integers,
// in an array, which is faster there.
template <int width>
struct AddRuns {
  template <class T>
  static CUEKIT_INLINE void add(const T* values,  // (length, 8)
                                std::int32_t length,
                                double* sum) {  // (8)
    if constexpr (width > 1 && std::is_floating_point_v<T>) {
      using Values = Lanes<double, width>;
      constexpr int parts = channels_per_block / width;
      Values partial[parts];
      for (int k = 0; k < parts; ++k) partial[k] = Values::load(sum + k * width);
      for (std::int32_t x = 0; x < length; ++x, values += channels_per_block) {
        for (int k = 0; k < parts; ++k) {
          double wide[width];
          for (int j = 0; j < width; ++j) wide[j] = load(values[k * width + j]);
          partial[k] = partial[k] + Values::load(wide);
        }
      }
      for (int k = 0; k < parts; ++k) partial[k].store(sum + k * width);
    } else {
      double partial[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) partial[j] = sum[j];
      for (std::int32_t x = 0; x < length; ++x, values += channels_per_block) {
        for (int j = 0; j < channels_per_block; ++j) partial[j] += load(values[j]);
      }
      for (int j = 0; j < channels_per_block; ++j) sum[j] = partial[j];
    }
  }

  template <class T>
  static CUEKIT_INLINE void run(const T* const* planes,  // 8 of (pixels)
                                std::int64_t pixels, const Run* run, const Run* end,
                                std::int64_t room,            // the buffer's length in pixels
                                interleaved_type<T>* buffer,  // (room, 8); then, only for values
                                                              // that change type, (8, room)
                                double* sums) {               // (S, 8)
    for (std::int64_t begin = 0; run != end;) {
      const Run* first = run;
      std::int64_t count = 0;
      do count += run++->length;
      while (run != end && count < chunk_size);
      // Rounded up to 8 pixels: some more pixels are cheaper than the last few one by one.
      const std::int64_t rounded = std::min((count + 7) / 8 * 8, pixels - begin);
      const interleaved_type<T>* rows[channels_per_block];
      for (int j = 0; j < channels_per_block; ++j) {
        if constexpr (std::is_same_v<T, interleaved_type<T>>) {
          rows[j] = planes[j] + begin;
        } else {
          interleaved_type<T>* const converted = buffer + (channels_per_block + j) * room;
          for (std::int64_t x = 0; x < rounded; ++x)
            converted[x] = static_cast<float>(load(planes[j][begin + x]));
          rows[j] = converted;
        }
      }
      interleave(&rows[0], rounded, buffer);
      begin += count;
      const interleaved_type<T>* values = buffer;
      for (; first != run; ++first) {
        add(values, first->length, sums + first->label * std::int64_t{channels_per_block});
        values += first->length * std::int64_t{channels_per_block};
      }
    }
  }
};

// The sums of a block of at most 8 channels, (rows(), 8); those of missing channels have no
// meaning.
template <class T>
std::vector<double> sums_of_block(const T* values,  // (channels, H, W)
                                  std::int64_t channels, const SuperpixelRuns& superpixels,
                                  std::int64_t height, std::int64_t width) {
  const std::int64_t pixels = height * width;
  // In place of missing channels the last one is read again.
  const T* planes[channels_per_block];
  for (int j = 0; j < channels_per_block; ++j)
    planes[j] = values + std::min<std::int64_t>(j, channels - 1) * pixels;
  const std::int64_t room = chunk_size + width + 7;
  constexpr int buffers = std::is_same_v<T, interleaved_type<T>> ? 1 : 2;
  std::vector<interleaved_type<T>> buffer(room * channels_per_block * buffers);
  std::vector<double> sums(superpixels.rows() * channels_per_block);
  dispatch_width<AddRuns<1>, AddRuns<4>, AddRuns<8>>(
      &planes[0], pixels, superpixels.begin(), superpixels.end(), room, buffer.data(), sums.data());
  return sums;
}

}  // namespace cuekit::cpu
