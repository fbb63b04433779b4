// The permutohedral lattice: Gaussian filters in a space of colours and positions, in time that
// grows with the number of pixels (Adams, Baek & Davis 2010, doi:10.1111/j.1467-8659.2009.01645.x).
//
// A pixel's features, d of them, place it in a simplex of d + 1 vertices. To filter values, every
// pixel adds its own to its vertices (splat), every vertex mixes with its neighbours along d + 1
// axes (blur), and every pixel reads its vertices again (slice), with the same barycentric weights.
//
// Pixels are divided into bands, by their number only, so that threads change no bit, and bands
// into strips of a few rows. In a strip, pixels are numbered down a column and then on to the next:
// those that follow one another are close in both directions, and their vertices are still in the
// caches. Vertices are numbered by first appearance; a band that meets a vertex of an earlier band
// splats to a copy of its own, numbered behind all vertices. A row is a vertex or a copy:
//
//   rows  0 .. vertices - 1              those that band b met first from its first_vertex on
//         vertices .. vertices + copies  those of band b from vertices + its first_copy on
//
// Here everything is for one photo. What the values are is left to the caller.
#pragma once

#include <cstdint>
#include <vector>

#include "workspace.h"

namespace cuekit::cpu {

struct Band {
  std::int64_t first_pixel, last_pixel;    // [first, last)
  std::int64_t first_vertex, last_vertex;  // that no earlier band has
  std::int64_t first_copy, last_copy;      // counted from 0; row = vertices + copy
};

constexpr std::int64_t strip_height = 4;

// Rows [first_row, first_row + rows) of pixels. That of column x and row first_row + r has the
// number first_row * width + x * rows + r.
struct Strip {
  std::int64_t first_row, rows;  // rows <= strip_height
};

struct Lattice {
  static constexpr std::int64_t chain_end = 64;
  int corners = 0;  // vertices of a simplex, d + 1, and axes
  std::int64_t pixels = 0;
  std::int64_t vertices = 0;
  // Pixel-major (pixels, corners). The weights hold everything that a filter is multiplied with:
  // barycentric weight, normalisation, and the square root of what the filter is scaled by.
  Workspace<std::int32_t> rows;
  Workspace<float> weights;
  std::vector<Band> bands;
  WorkspaceVector<std::int32_t> originals;  // of each copy
  // Along each axis, the vertices that have a neighbour, one chain of neighbours after the other.
  // The first of a chain is stored as its complement, ~vertex. Some such entries end the list: it
  // is read that far ahead.
  std::vector<WorkspaceVector<std::int32_t>> chains;
  // No two pixels share a vertex or have neighbouring ones: the filter is multiplication by
  // `weight`.
  bool diagonal = false;
  float weight = 0;

  std::int64_t row_count() const { return vertices + static_cast<std::int64_t>(originals.size()); }
};

// Whole rows of pixels, few bands: two from 2^16 pixels on, and then, up to 64 bands, one per 2^16
// to 2^17 pixels. Vertices are for a lattice to fill in.
std::vector<Band> divide_into_bands(std::int64_t height, std::int64_t width);
std::vector<Strip> strips_of(const Band& band, std::int64_t width);

// Features (x / sxy, y / sxy); filtered values are multiplied by `weight`.
Lattice spatial_lattice(std::int64_t height, std::int64_t width, float sxy, float weight,
                        int threads);
// Features (x / sxy, y / sxy, r / srgb, g / srgb, b / srgb).
Lattice bilateral_lattice(const std::uint8_t* photo, std::int64_t height, std::int64_t width,
                          float sxy, float srgb, float weight, int threads);

}  // namespace cuekit::cpu
