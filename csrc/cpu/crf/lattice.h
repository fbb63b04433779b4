// The permutohedral lattice of one image: Gaussian filters over positions and colours, in time that
// grows with the number of pixels (Adams, Baek & Davis 2010, doi:10.1111/j.1467-8659.2009.01645.x).
//
// A pixel's d features place it in a simplex of d + 1 vertices (cuekit/simplex.h). To filter values
// of pixels, every pixel adds its value to its vertices (splat), half of both neighbours
// is added to every vertex, along each of d + 1 axes in turn (blur), and every pixel reads its
// vertices (slice). Splat and slice use the same barycentric weights.
//
// Vertices are numbered in the order in which pixels first reach them. A band (bands.h) that
// reaches a vertex of an earlier band splats into a copy of its own, so that bands can splat in
// parallel and sums do not depend on threads. Copies are added to their vertices before the blur
// and set to the result after it. Vertices and copies together are the nodes of the lattice:
//
//   nodes [0, vertices)                  the vertices; band b reached those in
//                                        [first_vertex, last_vertex) first
//         [vertices, vertices + copies)  the copies; band b has
//                                        [vertices + first_copy, vertices + last_copy)
//
// What the filtered values are is up to the caller.
#pragma once

#include <cstdint>
#include <vector>

#include "bands.h"
#include "cpu/workspace.h"
#include "cuekit/simplex.h"

namespace cuekit::cpu {

struct PointOrder;

using Node = std::int32_t;  // the index of a vertex or copy

// The vertices that have a neighbour along an axis, as chains of successive neighbours, one chain
// after the other. Chains are listed in windows of up to 256 chains, fewer where they are long. A
// window has its chains of two vertices first, then those of three, of four, and the longer ones.
struct Chains {
  static constexpr std::int64_t padding = 64;
  struct Window {
    Node begin, end;           // its entries
    Node twos, threes, fours;  // the number of chains of this length
  };
  // The first vertex of a chain is stored as ~vertex. The list is padded with `padding` times ~0,
  // because it is read that far ahead.
  WorkspaceVector<Node> entries;
  WorkspaceVector<Window> windows;

  std::int64_t length() const { return static_cast<std::int64_t>(entries.size()) - padding; }
};

struct Lattice {
  int corners = 0;  // d + 1: vertices of a simplex, and axes
  std::int64_t pixels = 0;
  std::int64_t vertices = 0;
  Workspace<Node> nodes;  // (pixels, corners): the nodes of each pixel
  // (pixels, corners): barycentric weight times the square root of the filter's weight, and for
  // Normalisation::symmetric times the pixel's normalisation, so that splat and slice need no other
  // factor.
  Workspace<float> weights;
  Workspace<float> norms;  // (pixels): for Normalisation::mean, what the sliced values take
  std::vector<Band> bands;
  WorkspaceVector<Node> originals;  // (copies): the vertex of each copy
  std::vector<Chains> chains;       // (corners): along each axis
  // Whether the filter is multiplication by `weight`, because no two pixels have a vertex, or
  // neighbouring vertices, in common.
  bool diagonal = false;
  float weight = 0;

  std::int64_t copies() const { return static_cast<std::int64_t>(originals.size()); }
  std::int64_t node_count() const { return vertices + copies(); }
};

// Features (x / sxy, y / sxy). The filter is multiplied by `weight`, and normalised symmetrically.
Lattice spatial_lattice(std::int64_t height, std::int64_t width, float sxy, float weight,
                        int threads);
// Features (x / sxy, y / sxy, r / srgb, g / srgb, b / srgb).
Lattice bilateral_lattice(const std::uint8_t* photo,  // (H, W, 3)
                          std::int64_t height, std::int64_t width, float sxy, float srgb,
                          float weight, Normalisation normalisation, int threads);
// Any d features, 1 to 10, of points that are no image (bands.h). They must be finite. The pixels
// of the lattice are the places of `order` (point_order.h), or the points if it is null. Throws
// std::invalid_argument where features span so many standard deviations that keys have no room for
// it.
Lattice lattice_of_points(const float* features,  // (d, points)
                          int d, std::int64_t points, const PointOrder* order,
                          Normalisation normalisation, int threads);

}  // namespace cuekit::cpu
