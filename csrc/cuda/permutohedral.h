// The permutohedral lattices of the photos of a batch (include/cuekit/permutohedral.h): a bilateral
// one of every photo, of 6 corners per pixel, and a spatial one, of 3, each of which may be left
// out. They share all arrays, so that every step is one launch for all photos and both lattices.
//
//   tile    128 pixels that are close to each other, whose values meet in shared memory: photos are
//           read in strips of 8 rows, column by column
//   entry   a corner of a pixel: its vertex and its weight. rows, weights: the bilateral entries of
//           all photos (tile, corner, pixel), then the spatial ones
//   vertex  numbered by the first entry that has it: those of the bilateral lattices come first,
//           and every photo's stand together. How many there are is known to the GPU only; arrays
//           are as large as they could have to be, launches go over those that there are
//   copy    a vertex as one tile sees it: what the tile's pixels splat to it. copy c of a tile is
//           row tile * corners * 128 + c of the values
//
// To splat, a tile adds up each of its copies, in the order of its pixels, and a vertex its copies,
// in the order of their tiles. No sum depends on the order in which threads come: filters are the
// same bit by bit from call to call. Textured photos have 0.1 to 2 vertices and 1.5 to 4 copies per
// pixel: values go through memory a third as often as if every entry were gathered.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arena.h"
#include "cuekit/half.h"
#include "cuekit/host_device.h"
#include "cuekit/permutohedral.h"

namespace cuekit::cuda {

using Row = std::uint32_t;
constexpr Row no_row = 0xffffffffu;

constexpr int tile_pixels = 128;
constexpr int strip_rows = 8;
constexpr int bilateral_corners = 6, spatial_corners = 3;
constexpr int max_corners = bilateral_corners + spatial_corners;
constexpr int max_entries = max_corners * tile_pixels;  // of a tile

struct alignas(8) Neighbours {
  Row before, after;
};

// Weights and widths of the two filters; one of weight 0 is left out.
struct FilterParams {
  float gaussian_weight, gaussian_sxy;
  float bilateral_weight, bilateral_sxy, bilateral_srgb;
};

struct Lattice {
  std::int32_t height, width;
  std::int64_t images, tiles_per_image;
  int bilateral, spatial;  // corners: 6 and 3, or 0

  Row* rows;       // (entries); no_row where a tile has fewer pixels
  float* weights;  // (entries): barycentric, and the normalisation and scale of its filter
  // Of a tile's copies, at tile * corners * tile_pixels: their number, where in `order` each begins
  // and, in the upper half, ends, and their entries, as corner * tile_pixels + pixel.
  std::uint32_t* copies;  // (tiles)
  std::uint32_t* spans;   // (entries)
  std::uint16_t* order;   // (entries)
  // Of a vertex: its photo, its neighbours along each axis (axes, entries), and where its copies
  // begin in `list`, which has them in the order of their tiles.
  std::uint32_t* image_of;  // (entries)
  Neighbours* neighbours;
  std::uint32_t* starts;     // (entries + 1)
  Row* list;                 // (entries)
  std::uint32_t* numbering;  // (entries / 32 + 1): how many vertices have an earlier first entry

  // In building only.
  std::uint32_t* firsts_in_word;  // (entries / 32 + 1)
  std::uint32_t* first_bits;      // (entries / 32)
  std::uint32_t* slot_of;         // (entries): of a vertex, in the table
  std::uint32_t* copy_count;      // (entries + 1): of a vertex
  Row* copy_row;                  // (entries): of a copy
  std::uint32_t* copy_arrival;    // (entries): a copy's place among its vertex's, as threads came
  Row* arrived;                   // (entries): the list, in that order
  void* temporary;                // of prefix sums
  std::size_t temporary_bytes;

  // Throws where keys would not fit.
  Lattice(std::int64_t photos, std::int64_t rows_of_one, std::int64_t columns,
          const FilterParams& p, Arena& arena);

  // Finds vertices, weights, neighbours and copies, in `scratch` of scratch_bytes().
  void build(const std::uint8_t* photos, const FilterParams& p, void* scratch,
             cudaStream_t stream) const;
  std::int64_t scratch_bytes() const;

  CUEKIT_HD int corners() const { return bilateral + spatial; }
  CUEKIT_HD int axes() const { return bilateral > spatial ? bilateral : spatial; }
  CUEKIT_HD std::int64_t pixels() const { return std::int64_t{height} * width; }
  CUEKIT_HD std::int64_t tiles() const { return images * tiles_per_image; }
  CUEKIT_HD std::int64_t entries() const { return tiles() * corners() * tile_pixels; }
  CUEKIT_HD std::int64_t first_copy(std::int64_t tile) const {
    return tile * corners() * tile_pixels;
  }
  // Bilateral corners come before spatial ones.
  CUEKIT_HD std::int64_t entry(std::int64_t tile, int corner) const {
    return (corner < bilateral ? tile * bilateral + corner
                               : tiles() * bilateral + tile * spatial + (corner - bilateral)) *
           tile_pixels;
  }
  CUEKIT_HD std::int64_t image_of_entry(std::int64_t entry) const {
    const std::int64_t of_one = tiles_per_image * tile_pixels;
    const std::int64_t first_spatial = images * of_one * bilateral;
    return entry < first_spatial ? entry / (of_one * bilateral)
                                 : (entry - first_spatial) / (of_one * spatial);
  }
  __device__ std::int64_t bilateral_vertices() const {
    return numbering[tiles() * bilateral * (tile_pixels / 32)];
  }
  __device__ std::int64_t vertices() const { return numbering[entries() / 32]; }

  // How many pixels a tile has, and where pixel i of it lies in its photo.
  CUEKIT_HD int pixels_in(std::int64_t tile) const {
    const std::int64_t left = pixels() - tile % tiles_per_image * tile_pixels;
    return left < tile_pixels ? static_cast<int>(left) : tile_pixels;
  }
  struct Position {
    std::int32_t x, y;
  };
  CUEKIT_HD Position position(std::int64_t tile, int i) const {
    const auto at = static_cast<std::uint32_t>(tile % tiles_per_image * tile_pixels + i);
    const auto strip = at / (std::uint32_t{strip_rows} * static_cast<std::uint32_t>(width));
    const auto top = static_cast<std::int32_t>(strip) * strip_rows;
    const auto inside = at - strip * strip_rows * static_cast<std::uint32_t>(width);
    const auto rows_here =
        static_cast<std::uint32_t>(height - top < strip_rows ? height - top : strip_rows);
    return {static_cast<std::int32_t>(inside / rows_here),
            top + static_cast<std::int32_t>(inside % rows_here)};
  }
};

// ---- rows of values: `stride` of them, a multiple of 4, of which a thread works on 4 at a time
// ----

struct Rows {
  std::uint32_t stride;
  const std::int32_t* used;  // (images): how many of them count, a multiple of 4; null: all

  __device__ std::int32_t used_of(std::int64_t image) const {
    return used == nullptr ? static_cast<std::int32_t>(stride) : used[image];
  }
  // One instruction, as a product of 64 bits would not be.
  CUEKIT_HD std::uint64_t offset(Row row) const { return std::uint64_t{row} * stride; }
};

CUEKIT_HD inline float4 all_of(float value) { return {value, value, value, value}; }

CUEKIT_HD inline float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }

CUEKIT_HD inline void store4(float* to, float4 value) { *reinterpret_cast<float4*>(to) = value; }

// float16 is for storage only: sums are of float32. What is too large becomes the largest value.
CUEKIT_HD inline float4 load4(const half* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const auto value = [](std::uint32_t b) { return to_float({static_cast<std::uint16_t>(b)}); };
  return {value(bits.x), value(bits.x >> 16), value(bits.y), value(bits.y >> 16)};
}

CUEKIT_HD inline std::uint32_t two_halves(float low, float high) {
  constexpr float largest = 65504.0f;
  low = low < largest ? low : largest;
  high = high < largest ? high : largest;
#ifdef __CUDA_ARCH__
  return bit_cast<std::uint32_t>(__floats2half2_rn(low, high));
#else
  return to_half(static_cast<double>(low)).bits |
         std::uint32_t{to_half(static_cast<double>(high)).bits} << 16;
#endif
}

CUEKIT_HD inline void store4(half* to, float4 value) {
  *reinterpret_cast<uint2*>(to) = {two_halves(value.x, value.y), two_halves(value.z, value.w)};
}

// sum + factor * value
__device__ inline float4 add4(float4 sum, float factor, float4 value) {
  return {fmaf(factor, value.x, sum.x), fmaf(factor, value.y, sum.y), fmaf(factor, value.z, sum.z),
          fmaf(factor, value.w, sum.w)};
}

// Splatted copies (entries, stride) -> vertices' values (entries, stride) in `to`, blurred along
// all axes, with `copies` as the place in between: results lie in `copies`, which is overwritten.
// Of float or half.
template <class V>
void join_and_blur(const Lattice& at, V* copies, V* to, const Rows& rows, cudaStream_t stream);

}  // namespace cuekit::cuda
