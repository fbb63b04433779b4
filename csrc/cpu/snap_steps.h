// Steps that snap, snap_masks and mask_scores share: reading maps of any type, and resizing them
// row by row. A region is a superpixel or a mask; channels come in blocks of 8.
//
// Only what reads the maps depends on their type. Float16 maps are converted to float32 row by row.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "cuekit/resize.h"
#include "lanes.h"
#include "simd.h"

namespace cuekit::cpu {

// Counts of pixels. Integers, so exact in any order; an image has fewer than 2^31 pixels.
using Count = std::int32_t;

// What a map holds.
struct MapSummary {
  bool any;     // not all values are 0
  bool finite;  // all values can be interpolated
  // Of a floating map: the largest value, but at least 0, if all are finite. Of bytes: 1 or 0.
  double largest;
};

// The type of maps. Bytes are bool or uint8: nonzero is on. (Not a Source: what is read of bytes
// depends on the step.)
enum class MapType { bytes, float16, float32, float64 };

// Maps of one type.
struct Maps {
  MapType type;
  const void* values;   // (maps, h, w)
  std::int64_t pixels;  // h * w

  bool floating() const { return type != MapType::bytes; }
  const void* map(std::int64_t k) const;  // (h, w)
  MapSummary summarize(std::int64_t k) const;
};

Maps maps_of(const std::uint8_t* values,  // (maps, h, w)
             std::int64_t pixels);
Maps maps_of(const half* values, std::int64_t pixels);
Maps maps_of(const float* values, std::int64_t pixels);
Maps maps_of(const double* values, std::int64_t pixels);

// One channel that is on somewhere.
struct Channel {
  const void* map;     // (h, w)
  double level;        // floating maps are on above it
  std::int64_t index;  // in the image
};

// At most 8 channels of one image.
struct ChannelBlock {
  MapType type;
  const Channel* channels;  // (count)
  std::int64_t count;

  bool floating() const { return type != MapType::bytes; }
  void read_levels(double* levels) const;  // (8)
};

// The channels of one image.
struct Channels {
  MapType type;
  std::vector<Channel> channels;

  std::int64_t count() const { return static_cast<std::int64_t>(channels.size()); }
  std::int64_t blocks() const;
  ChannelBlock block(std::int64_t i) const;
};

// From the resolution of the maps to that of the regions.
struct Resizing {
  std::int64_t in_height, in_width, height, width;
  std::vector<std::int32_t> columns;  // (width): nearest
  std::vector<BilinearTap> taps;      // (width)

  bool same_size() const { return in_height == height && in_width == width; }
};

Resizing resizing_of(std::int64_t in_height, std::int64_t in_width, std::int64_t height,
                     std::int64_t width);

// The rows of one block of bool cues, resized: one bit per channel.
class NearestRows {
 public:
  NearestRows(const ChannelBlock& block, const Resizing& resizing)
      : block_(block), resizing_(resizing) {}

  // Goes to row y. Returns false where it is the same as the row before.
  bool move_to(std::int64_t y);
  void read(std::uint8_t* bits) const;                         // (width): the row
  const std::uint8_t* cells() const { return cells_.data(); }  // (in_width): before resizing

 private:
  const ChannelBlock block_;
  const Resizing& resizing_;
  std::int64_t source_ = -1;
  std::vector<std::uint8_t> cells_;
};

// The rows of floating maps, resized: of one map, or of one block of maps, interleaved.
class BilinearRows {
 public:
  BilinearRows(MapType type, const Channel& map, const Resizing& resizing)
      : block_{type, &map, 1}, resizing_(resizing), lanes_(1) {}
  BilinearRows(const ChannelBlock& block, const Resizing& resizing)
      : block_(block), resizing_(resizing), lanes_(channels_per_block) {}

  // Row `row` of the maps themselves. S is double for maps of float64, otherwise float.
  template <class S>
  const S* source(std::int64_t row);  // (in_width), or (in_width, 8)
  // Row y after the vertical half of resizing: it still has the maps' columns.
  const double* columns(std::int64_t y);  // (in_width), or (in_width, 8)
  // Row y after both.
  const double* values(std::int64_t y);  // (width), or (width, 8)

 private:
  // The last even and the last odd row of the maps.
  template <class S>
  struct Sources {
    std::vector<S> row[2];
    std::int64_t held[2] = {-1, -1};
  };

  template <class S>
  void weight_rows(std::int64_t y);

  const ChannelBlock block_;
  const Resizing& resizing_;
  const int lanes_;  // 1 or 8
  std::tuple<Sources<float>, Sources<double>> sources_;
  std::vector<float> halves_;
  std::vector<double> columns_, values_;
};

// bits[x] = bit j is whether values[x][j] > level[j].
void bits_above(const double* values,  // (width, 8)
                std::int64_t width,
                const double* level,  // (8)
                std::uint8_t* bits);  // (width)

// The bits of every byte as 8 counts.
inline constexpr std::array<std::array<Count, channels_per_block>, 256> bits_of_bytes = [] {
  std::array<std::array<Count, channels_per_block>, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte)
    for (unsigned j = 0; j < channels_per_block; ++j)
      table[byte][j] = static_cast<Count>(byte >> j & 1u);
  return table;
}();

// Prefix sums of one row: before[x] is the number of pixels left of x that are on.
void prefix_sums(const std::uint8_t* bits,  // (width): one bit per channel
                 std::int64_t width,
                 Count* before);  // (width + 1, 8)

// Decides in which regions each channel is on: where its mean is above threshold * its largest
// mean, and above 0. Returns false where a mean is not finite.
bool decide(const double* sizes,  // (regions): pixels
            std::int64_t regions, double threshold,
            double* sums,       // (regions, 8); means, later
            std::uint8_t* on);  // (regions): one bit per channel

// Writes the bits of consecutive rows to the channels.
void select_bits(const std::uint8_t* bits,  // (pixels): one bit per channel
                 std::int64_t count, const ChannelBlock& block,
                 bool* out,             // (K, H, W): of the image
                 std::int64_t pixels,   // H * W
                 std::int64_t offset);  // of the first row, in pixels

}  // namespace cuekit::cpu
