// The steps of snap_steps.h: all that depends on the type of maps is here.
#include "snap_steps.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cuekit/half.h"
#include "superpixels.h"

namespace cuekit::cpu {
namespace {

const void* value_at(MapType type, const void* values, std::int64_t i) {
  constexpr std::int64_t sizes[] = {1, 2, 4, 8};
  return static_cast<const char*>(values) + i * sizes[static_cast<int>(type)];
}

// Compares bits as integers, which have the order of the values where these are positive.
struct Summarize {
  template <class T>
  static CUEKIT_INLINE void run(const T* values,  // (count)
                                std::int64_t count, MapSummary* summary) {
    using Bits = std::make_signed_t<typename float_bits<T>::type>;
    constexpr Bits magnitude = std::numeric_limits<Bits>::max();
    Bits largest_magnitude = 0, largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto bits = bit_cast<Bits>(values[i]);
      largest_magnitude = std::max<Bits>(largest_magnitude, bits & magnitude);
      largest = std::max(largest, bits);
    }
    // The bits of infinity, or of 2^1023: differences of float64 values must be finite.
    constexpr Bits one = 1;
    constexpr int mantissa = float_bits<T>::mantissa;
    constexpr Bits infinity = magnitude - ((one << mantissa) - 1);
    constexpr Bits limit = sizeof(T) == 8 ? infinity - (one << mantissa) : infinity;
    *summary = {largest_magnitude != 0, largest_magnitude < limit, load(bit_cast<T>(largest))};
  }
};

template <class T>
MapSummary summarize(const void* values, std::int64_t count) {
  MapSummary summary;
  dispatch<Summarize>(static_cast<const T*>(values), count, &summary);
  return summary;
}

// Tests that the first byte is zero and that each byte equals the next one, with memcmp, which is
// vectorised and stops at the first difference.
bool all_zero(const void* values, std::int64_t count) {
  const auto* bytes = static_cast<const std::uint8_t*>(values);
  return count == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, count - 1) == 0);
}

// Sets `bit` in the cells where a row is not 0.
CUEKIT_INLINE void set_bit(const std::uint8_t* __restrict row,  // (count)
                           std::uint8_t bit, std::int64_t count,
                           std::uint8_t* __restrict cells) {  // (count)
  for (std::int64_t c = 0; c < count; ++c)
    cells[c] = static_cast<std::uint8_t>(cells[c] | (row[c] != 0 ? bit : 0));
}

// Vertical: one row between two.
struct WeightRows {
  template <class S>
  static CUEKIT_INLINE void run(const S* above, const S* below,  // (count)
                                double weight, std::int64_t count,
                                double* row) {  // (count)
    for (std::int64_t i = 0; i < count; ++i) row[i] = interpolate(above[i], below[i], weight);
  }
};

// Horizontal: the pixels of one row, of `channels` values each.
template <int channels>
struct WeightColumns {
  static CUEKIT_INLINE void run(const double* columns,    // (in_width, channels)
                                const BilinearTap* taps,  // (width)
                                std::int64_t width,
                                double* values) {  // (width, channels)
    for (std::int64_t x = 0; x < width; ++x) {
      const double* left = columns + taps[x].low * channels;
      const double* right = columns + taps[x].high * channels;
      for (int j = 0; j < channels; ++j)
        values[x * channels + j] = interpolate(left[j], right[j], taps[x].weight);
    }
  }
};

// In vectors of `lanes`. Adding 2^j where value j is above its level sets bit j.
template <int lanes>
struct BitsAbove {
  static CUEKIT_INLINE void run(const double* values,  // (width, 8)
                                std::int64_t width,
                                const double* level,   // (8)
                                std::uint8_t* bits) {  // (width)
    using Part = Lanes<double, lanes>;
    constexpr double powers[channels_per_block] = {1, 2, 4, 8, 16, 32, 64, 128};
    for (std::int64_t x = 0; x < width; ++x, values += channels_per_block) {
      auto sums = Part::zero();
      for (int j = 0; j < channels_per_block; j += lanes)
        sums = sums + if_less(Part::load(level + j), Part::load(values + j), Part::load(powers + j),
                              Part::zero());
      double each[lanes];
      sums.store(each);
      double sum = 0.0;
      for (int j = 0; j < lanes; ++j) sum += each[j];
      bits[x] = static_cast<std::uint8_t>(static_cast<int>(sum));
    }
  }
};

struct PrefixSums {
  static CUEKIT_INLINE void run(const std::uint8_t* bits,  // (width)
                                std::int64_t width,
                                Count* before) {  // (width + 1, 8)
    auto total = Lanes<Count>::zero();
    for (std::int64_t x = 0; x < width; ++x) {
      total.store(before + x * channels_per_block);
      total = total + Lanes<Count>::load(bits_of_bytes[bits[x]].data());
    }
    total.store(before + width * channels_per_block);
  }
};

struct Decide {
  static CUEKIT_INLINE void run(const double* sizes,  // (regions): pixels
                                std::int64_t regions, double threshold,
                                double* means,     // (regions, 8): sums at first
                                std::uint8_t* on,  // (regions): bit j is channel j of the block
                                bool* finite) {    // false where a mean is not finite
    double largest[channels_per_block] = {};
    double residue[channels_per_block] = {};  // x - x is 0 unless x is not finite
    for (std::int64_t s = 0; s < regions; ++s) {
      const double size = sizes[s] > 0.0 ? sizes[s] : 1.0;  // a region without pixels has mean 0
      for (int j = 0; j < channels_per_block; ++j) {
        const double mean = means[s * channels_per_block + j] / size;
        means[s * channels_per_block + j] = mean;
        residue[j] += mean - mean;
        largest[j] = largest[j] < mean ? mean : largest[j];
      }
    }
    double level[channels_per_block];
    *finite = true;
    for (int j = 0; j < channels_per_block; ++j) {
      level[j] = std::max(threshold * largest[j], 0.0);
      *finite = *finite && residue[j] == 0.0;
    }
    for (std::int64_t s = 0; s < regions; ++s) {
      unsigned bits = 0;
      for (int j = 0; j < channels_per_block; ++j)
        bits |= static_cast<unsigned>(means[s * channels_per_block + j] > level[j]) << j;
      on[s] = static_cast<std::uint8_t>(bits);
    }
  }
};

// row[i] = whether `bit`, the bit of one channel, is set in bits[i].
CUEKIT_INLINE void select_bit(const std::uint8_t* __restrict bits,  // (pixels)
                              std::uint8_t bit, std::int64_t pixels,
                              std::uint8_t* __restrict row) {  // (pixels)
  for (std::int64_t i = 0; i < pixels; ++i) {
    const auto masked = static_cast<std::uint8_t>(bits[i] & bit);
    row[i] = masked < 1 ? masked : std::uint8_t{1};
  }
}

struct SelectBit {
  static CUEKIT_INLINE void run(const std::uint8_t* bits, std::uint8_t bit, std::int64_t count,
                                bool* out) {  // (count)
    auto* row = reinterpret_cast<std::uint8_t*>(out);
    // Whole cache lines, and 64 pixels at each end, which may overlap with these lines.
    constexpr std::int64_t line = 64;
    if (count < line) return select_bit(bits, bit, count, row);
    select_bit(bits, bit, line, row);
    for (std::int64_t i = until_aligned(row, count); i + line <= count; i += line)
      select_bit(bits + i, bit, line, row + i);
    select_bit(bits + count - line, bit, line, row + count - line);
  }
};

}  // namespace

Maps maps_of(const std::uint8_t* values, std::int64_t pixels) {
  return {MapType::bytes, values, pixels};
}
Maps maps_of(const half* values, std::int64_t pixels) { return {MapType::float16, values, pixels}; }
Maps maps_of(const float* values, std::int64_t pixels) {
  return {MapType::float32, values, pixels};
}
Maps maps_of(const double* values, std::int64_t pixels) {
  return {MapType::float64, values, pixels};
}

const void* Maps::map(std::int64_t k) const { return value_at(type, values, k * pixels); }

MapSummary Maps::summarize(std::int64_t k) const {
  const void* const first = map(k);
  switch (type) {
    case MapType::float16:
      return cpu::summarize<half>(first, pixels);
    case MapType::float32:
      return cpu::summarize<float>(first, pixels);
    case MapType::float64:
      return cpu::summarize<double>(first, pixels);
    default:
      const bool any = !all_zero(first, pixels);
      return {any, true, any ? 1.0 : 0.0};
  }
}

void ChannelBlock::read_levels(double* levels) const {
  for (std::int64_t j = 0; j < channels_per_block; ++j)
    levels[j] = j < count ? channels[j].level : 0.0;
}

std::int64_t Channels::blocks() const { return channel_blocks(count()); }

ChannelBlock Channels::block(std::int64_t i) const {
  const std::int64_t first = i * channels_per_block;
  return {type, channels.data() + first,
          std::min<std::int64_t>(channels_per_block, count() - first)};
}

Resizing resizing_of(std::int64_t in_height, std::int64_t in_width, std::int64_t height,
                     std::int64_t width) {
  Resizing result{in_height,
                  in_width,
                  height,
                  width,
                  std::vector<std::int32_t>(width),
                  std::vector<BilinearTap>(width)};
  for (std::int64_t x = 0; x < width; ++x) {
    result.columns[x] = static_cast<std::int32_t>(nearest_source(x, in_width, width));
    result.taps[x] = bilinear_tap(x, in_width, width);
  }
  return result;
}

bool NearestRows::move_to(std::int64_t y) {
  const std::int64_t row = nearest_source(y, resizing_.in_height, resizing_.height);
  if (row == source_) return false;
  source_ = row;
  cells_.assign(resizing_.in_width, std::uint8_t{0});
  // In vectors of 16 bytes. The last one may overlap with the one before.
  constexpr std::int64_t step = 16;
  const std::int64_t in_width = resizing_.in_width;
  std::uint8_t* const cells = cells_.data();
  for (std::int64_t j = 0; j < block_.count; ++j) {
    const auto* cues = static_cast<const std::uint8_t*>(block_.channels[j].map) + row * in_width;
    const auto bit = static_cast<std::uint8_t>(1u << j);
    for (std::int64_t c = 0; c + step <= in_width; c += step)
      set_bit(cues + c, bit, step, cells + c);
    if (in_width < step)
      set_bit(cues, bit, in_width, cells);
    else
      set_bit(cues + in_width - step, bit, step, cells + in_width - step);
  }
  return true;
}

void NearestRows::read(std::uint8_t* bits) const {
  const std::uint8_t* const cells = cells_.data();
  const std::int32_t* const columns = resizing_.columns.data();
  for (std::int64_t x = 0; x < resizing_.width; ++x) bits[x] = cells[columns[x]];
}

// Missing channels repeat the first one.
template <class S>
const S* BilinearRows::source(std::int64_t row) {
  auto& sources = std::get<Sources<S>>(sources_);
  std::vector<S>& source = sources.row[row % 2];
  if (sources.held[row % 2] == row) return source.data();
  sources.held[row % 2] = row;
  const std::int64_t in_width = resizing_.in_width;
  const S* rows[channels_per_block];
  halves_.resize(block_.type == MapType::float16 ? in_width * lanes_ : 0);
  for (std::int64_t j = 0; j < lanes_; ++j) {
    const Channel& channel = block_.channels[j < block_.count ? j : 0];
    const void* const map = value_at(block_.type, channel.map, row * in_width);
    if constexpr (std::is_same_v<S, float>) {
      if (block_.type == MapType::float16) {
        const auto* halves = static_cast<const half*>(map);
        float* const floats = halves_.data() + j * in_width;
        for (std::int64_t x = 0; x < in_width; ++x) floats[x] = to_float(halves[x]);
        rows[j] = floats;
        continue;
      }
    }
    rows[j] = static_cast<const S*>(map);
  }
  source.resize(in_width * lanes_);
  if (lanes_ == 1)
    std::copy_n(rows[0], in_width, source.data());
  else
    interleave(rows, in_width, source.data());
  return source.data();
}
template const float* BilinearRows::source(std::int64_t);
template const double* BilinearRows::source(std::int64_t);

template <class S>
void BilinearRows::weight_rows(std::int64_t y) {
  const BilinearTap tap = bilinear_tap(y, resizing_.in_height, resizing_.height);
  dispatch<WeightRows>(source<S>(tap.low), source<S>(tap.high), tap.weight,
                       resizing_.in_width * lanes_, columns_.data());
}

const double* BilinearRows::columns(std::int64_t y) {
  columns_.resize(resizing_.in_width * lanes_);
  if (block_.type == MapType::float64)
    weight_rows<double>(y);
  else
    weight_rows<float>(y);
  return columns_.data();
}

const double* BilinearRows::values(std::int64_t y) {
  const double* const row = columns(y);
  if (resizing_.in_width == resizing_.width) return row;
  values_.resize(resizing_.width * lanes_);
  if (lanes_ == 1)
    dispatch<WeightColumns<1>>(row, resizing_.taps.data(), resizing_.width, values_.data());
  else
    dispatch<WeightColumns<channels_per_block>>(row, resizing_.taps.data(), resizing_.width,
                                                values_.data());
  return values_.data();
}

void bits_above(const double* values, std::int64_t width, const double* level, std::uint8_t* bits) {
  dispatch_width<BitsAbove<2>, BitsAbove<4>>(values, width, level, bits);
}

void prefix_sums(const std::uint8_t* bits, std::int64_t width, Count* before) {
  dispatch<PrefixSums>(bits, width, before);
}

bool decide(const double* sizes, std::int64_t regions, double threshold, double* sums,
            std::uint8_t* on) {
  bool finite;
  dispatch<Decide>(sizes, regions, threshold, sums, on, &finite);
  return finite;
}

void select_bits(const std::uint8_t* bits, std::int64_t count, const ChannelBlock& block, bool* out,
                 std::int64_t pixels, std::int64_t offset) {
  for (std::int64_t j = 0; j < block.count; ++j)
    dispatch_avx512<SelectBit>(bits, static_cast<std::uint8_t>(1u << j), count,
                               out + block.channels[j].index * pixels + offset);
}

}  // namespace cuekit::cpu
