// The permutohedral lattices (cuekit/simplex.h) of the photos of a batch: a bilateral one of every
// photo, with 6 corners per pixel, and a spatial one, with 3. Either may be left out. All lattices
// share the same arrays, so every step is one launch for all photos and both lattices.
//
//   tile    128 pixels close to each other, whose values are combined in shared memory. Photos are
//           divided into strips of 8 pixel rows, which are read column by column
//   entry   a corner of a pixel: its vertex and its weight. Entries are numbered (tile, corner,
//           pixel), the bilateral ones of all photos first, then the spatial ones
//   vertex  numbered by the first entry that has it: those of the bilateral lattices come first,
//           and those of a photo are consecutive. Only the GPU knows how many there are: arrays
//           have room for the largest possible number, and kernels loop over the actual number
//   copy    a vertex as seen by one tile: the sum of what the tile's pixels splat to it. Copy c of
//           a tile is row tile * corners * 128 + c of the splatted values
//
// To splat, a tile sums each of its copies in the order of its pixels, and a vertex sums its copies
// in the order of their tiles. No sum depends on the order in which threads run, so results have
// the same bits from call to call. Textured photos have 0.1 to 2 vertices and 1.5 to 4 copies per
// pixel: three times less memory traffic than gathering every entry.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arena.h"
#include "cuekit/host_device.h"
#include "cuekit/simplex.h"
#include "value_rows.h"

namespace cuekit::cuda {

constexpr int tile_pixels = 128;
constexpr int strip_rows = 8;
constexpr int bilateral_corners = 6, spatial_corners = 3;
constexpr int max_corners = bilateral_corners + spatial_corners;
constexpr int max_entries = max_corners * tile_pixels;  // of a tile

struct alignas(8) Neighbours {
  Row before, after;
};

// Weights and widths of the two filters. A filter of weight 0 is left out.
struct FilterParams {
  float gaussian_weight, gaussian_sxy;
  float bilateral_weight, bilateral_sxy, bilateral_srgb;
  Normalisation normalisation = Normalisation::symmetric;  // `mean` is for one filter alone
};

// Blurring along all axes makes values 1 + 2^-d times as large. These are the reciprocals.
constexpr float bilateral_alpha = 1.0f / (1.0f + 1.0f / 32);
constexpr float spatial_alpha = 1.0f / (1.0f + 1.0f / 4);

// Comments give the number of elements of each array; `entries` is entries().
struct Lattice {
  std::int32_t height, width;
  std::int64_t images, tiles_per_image;
  int bilateral, spatial;  // corners: 6 and 3, or 0 for a filter that is left out

  Row* rows;  // (entries): the vertex, or no_row where a tile has fewer pixels
  // (entries): barycentric weight times the scale of the filter, and times the normalisation if
  // that is symmetric
  float* weights;
  float* norms;  // (tiles, tile_pixels): for Normalisation::mean what results take, else null
  // The copies of a tile. `spans` and `order` of a tile begin at first_copy(tile).
  std::uint32_t* copies;  // (tiles): how many copies the tile has
  std::uint32_t* spans;   // (entries): where a copy's entries begin in `order`, and end << 16
  std::uint16_t* order;   // (entries): corner * tile_pixels + pixel, copy after copy
  // Of each vertex.
  std::uint32_t* image_of;   // (entries): its photo
  Neighbours* neighbours;    // (axes, entries)
  std::uint32_t* starts;     // (entries + 1): where its copies begin in `list`
  Row* list;                 // (entries): the copies of each vertex, in the order of their tiles
  std::uint32_t* numbering;  // (entries / 32 + 1): vertices whose first entry is in earlier words

  // Used while the lattice is built.
  std::uint32_t* firsts_in_word;  // (entries / 32 + 1)
  std::uint32_t* first_bits;      // (entries / 32): a bit per entry, whether it is the first
  std::uint32_t* slot_of;         // (entries): of each vertex, its slot in the hash table
  std::uint32_t* copy_count;      // (entries + 1): of each vertex
  Row* copy_row;                  // (entries): of each copy, its vertex
  std::uint32_t* copy_arrival;    // (entries): of each copy, how many of its vertex came before it
  Row* arrived;                   // (entries): `list` in the order in which threads ran
  void* temporary;                // of prefix sums
  std::size_t temporary_bytes;

  // Takes the arrays from `arena`. Throws where keys do not fit into 64 bits.
  Lattice(std::int64_t photos, std::int64_t photo_height, std::int64_t photo_width,
          const FilterParams& p, Arena& arena);

  // Finds vertices, weights, neighbours and copies.
  void build(const std::uint8_t* photos,  // (images, H, W, 3)
             const FilterParams& p,
             void* scratch,  // scratch_bytes()
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
  // The first entry of a tile's corner. Bilateral corners come before spatial ones.
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

  // How many pixels a tile has. Only the last one of a photo can have fewer than tile_pixels.
  CUEKIT_HD int pixels_in(std::int64_t tile) const {
    const std::int64_t left = pixels() - tile % tiles_per_image * tile_pixels;
    return left < tile_pixels ? static_cast<int>(left) : tile_pixels;
  }
  // Pixel i of a tile in its photo.
  struct Position {
    std::int32_t x, y;
  };
  CUEKIT_HD Position position(std::int64_t tile, int i) const {
    const auto number = static_cast<std::uint32_t>(tile % tiles_per_image * tile_pixels + i);
    const auto strip = number / (std::uint32_t{strip_rows} * static_cast<std::uint32_t>(width));
    const auto top = static_cast<std::int32_t>(strip) * strip_rows;
    const auto in_strip = number - strip * strip_rows * static_cast<std::uint32_t>(width);
    const auto rows_of_strip =
        static_cast<std::uint32_t>(height - top < strip_rows ? height - top : strip_rows);
    return {static_cast<std::int32_t>(in_strip / rows_of_strip),
            top + static_cast<std::int32_t>(in_strip % rows_of_strip)};
  }
};

// Sums the copies of each vertex and blurs along all axes. The result is written over `copies`. V
// is float or half.
template <class V>
void join_and_blur(const Lattice& lattice,
                   V* copies,   // (entries, stride): splatted values, then filtered ones
                   V* scratch,  // (entries, stride)
                   const ValueRows& layout, cudaStream_t stream,
                   AxisOrder order = AxisOrder::ascending);

}  // namespace cuekit::cuda
