// Builds the lattice of lattice.h: every band finds its vertices in a hash table of its own, the
// bands' vertices are joined and numbered, chains of neighbours are found along each axis, and the
// weights are normalised.
#include "lattice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <utility>

#include "chains.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cuekit/simplex.h"
#include "embed.h"
#include "point_order.h"
#include "vertex_table.h"

namespace cuekit::cpu {
namespace {

// The vertices that a band's pixels reach, numbered by first appearance in the band.
struct BandVertices {
  VertexTable table;
  WorkspaceVector<float> ones;  // of each vertex: the sum of what pixels of value 1 splat to it
  WorkspaceVector<Node> nodes;  // of each vertex: its node in the lattice
};

// Writes the features of a strip's pixels in their order, (d, padded).
using Fill = std::function<void(const Strip& strip, float* features, std::int64_t padded)>;

// Finds the vertices of a band's pixels. Writes the pixels' weights, and as their nodes the band's
// own numbers of the vertices.
template <int d>
void embed_band(const Embedding<d>& embedding, std::int64_t width, std::int64_t rows_of_strip,
                const Fill& fill, Lattice& lattice, const Band& band, BandVertices& found) {
  constexpr int corners = d + 1;
  constexpr std::int64_t ahead = 8;  // pixels whose slots in the hash table are prefetched
  const std::vector<Strip> strips = strips_of(band, width, rows_of_strip);
  const std::int64_t largest = strips[0].rows * width;
  const std::int64_t padded = (largest + widest_vector - 1) / widest_vector * widest_vector;
  const Workspace<float> features(d * padded), quotients(d * padded);
  std::fill_n(features.get(), d * padded, 0.0f);
  const Workspace<float> barycentric(corners * padded);
  const Workspace<LatticeKey> keys(padded);
  const Workspace<OrderCode<d>> orders(padded);
  LatticeKey unit[1 << Order<d>::bits] = {};
  for (int i = 0; i < d; ++i) unit[i] = embedding.unit(i);

  Node* nodes = lattice.nodes.get() + band.first_pixel * corners;
  float* weights = lattice.weights.get() + band.first_pixel * corners;
  PollAfterWork poll_after;
  for (const Strip& strip : strips) {
    const std::int64_t count = strip.rows * width;
    poll_after(count * corners);
    fill(strip, features.get(), padded);
    embed(embedding, features.get(), padded, keys.get(), quotients.get(), orders.get(),
          barycentric.get());
    const auto find_keys = [&](std::int64_t i, LatticeKey(&result)[corners]) {
      const OrderCode<d> order = orders.get()[i];
      const auto unit_of_rank = [&](int rank) { return unit[Order<d>::coordinate(order, rank)]; };
      simplex_keys<d>(keys.get()[i], unit_of_rank, result);
      for (const LatticeKey key : result) found.table.prefetch_slot(key);
    };
    LatticeKey upcoming[ahead][corners];  // keys of the next pixels, in turn
    for (std::int64_t i = 0; i < std::min(ahead, count); ++i) find_keys(i, upcoming[i % ahead]);
    for (std::int64_t i = 0; i < count; ++i) {
      LatticeKey(&own)[corners] = upcoming[i % ahead];
      for (int k = 0; k < corners; ++k) nodes[k] = found.table.find_or_add(own[k]);
      if (i + ahead < count) find_keys(i + ahead, own);
      found.ones.resize(found.table.size());
      for (int k = 0; k < corners; ++k) {
        const float weight = barycentric.get()[k * padded + i];
        weights[k] = weight;
        found.ones.data()[nodes[k]] += weight;
      }
      nodes += corners;
      weights += corners;
    }
  }
}

// Numbers the vertices of all bands, band after band, and the copies. Returns the table of all
// vertices and in `ones`, (vertices), the sum of what the bands have splatted.
VertexTable join_bands(Lattice& lattice, std::vector<BandVertices>& found,
                       WorkspaceVector<float>& ones) {
  VertexTable table;
  std::int64_t copies = 0;
  for (std::size_t b = 0; b < found.size(); ++b) {
    BandVertices& own = found[b];
    Band& band = lattice.bands[b];
    const std::int64_t count = own.table.size();
    band.first_vertex = table.size();
    band.first_copy = copies;
    own.nodes.resize(count);
    Node* const nodes = own.nodes.data();
    if (b == 0) {
      table = std::move(own.table);
      ones = std::move(own.ones);
      for (std::int64_t v = 0; v < count; ++v) nodes[v] = static_cast<Node>(v);
    } else {
      for (std::int64_t v = 0; v < count; ++v) {
        poll_sometimes(v);
        const Node vertex = table.find_or_add(own.table.key(v));
        ones.resize(table.size());
        ones.data()[vertex] += own.ones.data()[v];
        if (vertex >= band.first_vertex) {
          nodes[v] = vertex;
        } else {
          nodes[v] = static_cast<Node>(~copies++);  // until the number of vertices is known
          lattice.originals.push_back(vertex);
        }
      }
    }
    band.last_vertex = table.size();
    band.last_copy = copies;
  }
  lattice.vertices = table.size();
  for (BandVertices& own : found)
    for (Node& node : own.nodes)
      if (node < 0) node = static_cast<Node>(lattice.vertices + ~node);
  return table;
}

// Replaces the bands' own numbers of vertices by nodes, and multiplies the weights by the square
// root of the filter's weight and, if it is symmetric, by the normalisation: of the filter of ones,
// `ones` (vertices), half divides before the filter and half after, so each weight takes the square
// root of it. In blocks, so that roots and divisions are in a loop that vectorises.
void normalise(Lattice& lattice, const std::vector<BandVertices>& found,
               const WorkspaceVector<float>& ones, Normalisation normalisation, int threads) {
  const int corners = lattice.corners;
  // Blurring along all axes makes values 1 + 2^-d times as large.
  const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, 1 - corners));
  const double scale = std::sqrt(static_cast<double>(lattice.weight) * static_cast<double>(alpha));
  if (normalisation == Normalisation::mean) lattice.norms = Workspace<float>(lattice.pixels);
  parallel_for(static_cast<std::int64_t>(found.size()), threads, [&](std::int64_t b) {
    struct Vertex {
      Node node;
      float ones;
    };
    const WorkspaceVector<Node>& nodes_of = found.data()[b].nodes;
    const Workspace<Vertex> vertices(static_cast<std::int64_t>(nodes_of.size()));
    for (std::size_t v = 0; v < nodes_of.size(); ++v) {
      const Node node = nodes_of[v];
      const bool is_copy = node >= lattice.vertices;
      const Node vertex = is_copy ? lattice.originals.data()[node - lattice.vertices] : node;
      vertices.get()[v] = {node, ones.data()[vertex]};
    }
    constexpr std::int64_t block = 256;
    float sums[block], factors[block];
    const Band& band = lattice.bands.data()[b];
    for (std::int64_t first = band.first_pixel; first < band.last_pixel; first += block) {
      const std::int64_t count = std::min(block, band.last_pixel - first);
      Node* const nodes = lattice.nodes.get() + first * corners;
      float* const weights = lattice.weights.get() + first * corners;
      for (std::int64_t i = 0; i < count; ++i) {
        float sum = 0;
        for (std::int64_t k = i * corners; k < (i + 1) * corners; ++k) {
          const Vertex vertex = vertices.get()[nodes[k]];
          nodes[k] = vertex.node;
          sum += weights[k] * vertex.ones;
        }
        sums[i] = sum;
      }
      const bool symmetric = normalisation == Normalisation::symmetric;
      for (std::int64_t i = 0; i < count; ++i) {
        const double of_ones = static_cast<double>(alpha * sums[i]) + 1e-20;
        sums[i] = static_cast<float>(1 / of_ones);
        factors[i] = static_cast<float>(symmetric ? scale * (1 / std::sqrt(of_ones)) : scale);
      }
      if (normalisation == Normalisation::mean)
        std::copy_n(sums, count, lattice.norms.get() + first);
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t k = i * corners; k < (i + 1) * corners; ++k) weights[k] *= factors[i];
    }
  });
}

// The steps of building a lattice that depend on the number of features, d.
struct Embedder {
  int corners;  // d + 1
  std::function<void(Lattice&, const Band&, BandVertices&)> embed_band;
  std::function<AxisStep(int axis)> step_along;
};

Lattice build(const Embedder& embedder, std::vector<Band> bands_of_pixels, float weight,
              Normalisation normalisation, int threads) {
  Lattice lattice;
  lattice.corners = embedder.corners;
  lattice.pixels = bands_of_pixels.back().last_pixel;
  lattice.nodes = Workspace<Node>(lattice.pixels * lattice.corners);
  lattice.weights = Workspace<float>(lattice.pixels * lattice.corners);
  lattice.bands = std::move(bands_of_pixels);
  lattice.weight = weight;
  const auto bands = static_cast<std::int64_t>(lattice.bands.size());
  std::vector<BandVertices> found(bands);
  parallel_for(bands, threads, [&](std::int64_t b) {
    embedder.embed_band(lattice, lattice.bands.data()[b], found.data()[b]);
  });
  WorkspaceVector<float> ones;
  const VertexTable table = join_bands(lattice, found, ones);
  lattice.chains.resize(lattice.corners);
  parallel_for(lattice.corners, threads, [&](std::int64_t i) {
    const auto axis = static_cast<int>(i);
    lattice.chains.data()[axis] = find_chains(embedder.step_along(axis), table, axis);
  });
  lattice.diagonal = is_diagonal(lattice);
  if (normalisation != Normalisation::none)
    for (const Chains& chains : lattice.chains) blur_along(chains, ones);
  normalise(lattice, found, ones, normalisation, threads);
  return lattice;
}

// Bands and strips divide the pixels as bands.h says.
template <int d>
Lattice build(const Embedding<d>& embedding, std::int64_t width, std::vector<Band> bands,
              std::int64_t rows_of_strip, float weight, Normalisation normalisation,
              const Fill& fill, int threads) {
  const Embedder embedder{d + 1,
                          [&](Lattice& lattice, const Band& band, BandVertices& found) {
                            embed_band(embedding, width, rows_of_strip, fill, lattice, band, found);
                          },
                          [&](int axis) {
                            return AxisStep{
                                embedding.remainder_mask,
                                {embedding.step(axis, false), embedding.step(axis, true)}};
                          }};
  return build(embedder, std::move(bands), weight, normalisation, threads);
}

// The feature of each of `count` positions or colour levels.
WorkspaceVector<float> scaled(std::int64_t count, float width) {
  WorkspaceVector<float> result(count);
  for (std::int64_t i = 0; i < count; ++i) result.data()[i] = static_cast<float>(i) / width;
  return result;
}

// The ranges of the coordinates of points. They have 0 in them, so that large coordinates are
// refused wherever they lie.
void find_ranges(const float* features,  // (d, points)
                 int d, std::int64_t points,
                 const float* scale,         // (d)
                 float* low, float* high) {  // (d)
  std::fill_n(low, d, 0.0f);
  std::fill_n(high, d, 0.0f);
  polling_loop(0, points, [&](std::int64_t i) {
    float sum = 0;
    for (int j = d; j >= 0; --j) {  // as in simplex_of()
      const float scaled = j > 0 ? features[(j - 1) * points + i] * scale[j - 1] : 0.0f;
      const float coordinate = sum - scaled * static_cast<float>(j);
      sum += scaled;
      if (j == d) continue;
      low[j] = std::min(low[j], coordinate);
      high[j] = std::max(high[j], coordinate);
    }
  });
}

template <int d>
Lattice build_of_points(const float* features, std::int64_t points, const Fill& fill,
                        Normalisation normalisation, int threads) {
  float low[d] = {}, high[d] = {};
  const Embedding<d> scales(low, high);
  find_ranges(features, d, points, scales.scale, low, high);
  return build(Embedding<d>(low, high), 1, divide_points(points), strip_of_points, 1.0f,
               normalisation, fill, threads);
}

// Writes the features (x, y) of a strip's pixels, (2, padded).
void fill_positions(const Strip& strip, const WorkspaceVector<float>& xs,
                    const WorkspaceVector<float>& ys, float* features, std::int64_t padded) {
  for (const float x : xs)
    for (std::int64_t r = 0; r < strip.rows; ++r, ++features) {
      features[0] = x;
      features[padded] = ys.data()[strip.first_row + r];
    }
}

}  // namespace

Lattice spatial_lattice(std::int64_t height, std::int64_t width, float sxy, float weight,
                        int threads) {
  const WorkspaceVector<float> xs = scaled(width, sxy), ys = scaled(height, sxy);
  const Embedding<2> embedding({static_cast<double>(xs.back()), static_cast<double>(ys.back())});
  const auto fill = [&](const Strip& strip, float* features, std::int64_t padded) {
    fill_positions(strip, xs, ys, features, padded);
  };
  return build(embedding, width, divide_into_bands(height, width), strip_height, weight,
               Normalisation::symmetric, fill, threads);
}

Lattice bilateral_lattice(const std::uint8_t* photo, std::int64_t height, std::int64_t width,
                          float sxy, float srgb, float weight, Normalisation normalisation,
                          int threads) {
  const WorkspaceVector<float> xs = scaled(width, sxy), ys = scaled(height, sxy);
  const WorkspaceVector<float> levels = scaled(256, srgb);
  const auto last_x = static_cast<double>(xs.back()), last_y = static_cast<double>(ys.back());
  const auto last_level = static_cast<double>(levels.back());
  const Embedding<5> embedding({last_x, last_y, last_level, last_level, last_level});
  const auto fill = [&](const Strip& strip, float* features, std::int64_t padded) {
    fill_positions(strip, xs, ys, features, padded);
    for (std::int64_t r = 0; r < strip.rows; ++r) {
      const std::uint8_t* const row = photo + 3 * (strip.first_row + r) * width;
      for (int colour = 0; colour < 3; ++colour) {
        float* const target = features + (2 + colour) * padded + r;
        for (std::int64_t x = 0; x < width; ++x)
          target[x * strip.rows] = levels[row[3 * x + colour]];
      }
    }
  };
  return build(embedding, width, divide_into_bands(height, width), strip_height, weight,
               normalisation, fill, threads);
}

Lattice lattice_of_points(const float* features, int d, std::int64_t points,
                          const PointOrder* order, Normalisation normalisation, int threads) {
  const Fill fill = [&](const Strip& strip, float* target, std::int64_t padded) {
    for (int j = 0; j < d; ++j) {
      const float* const feature = features + j * points;
      if (order == nullptr) {
        std::copy_n(feature + strip.first_row, strip.rows, target + j * padded);
        continue;
      }
      const std::int32_t* const point_at = order->point_at.get() + strip.first_row;
      for (std::int64_t r = 0; r < strip.rows; ++r) target[j * padded + r] = feature[point_at[r]];
    }
  };
  switch (d) {
#define CUEKIT_CASE(d) \
  case d:              \
    return build_of_points<d>(features, points, fill, normalisation, threads);
    CUEKIT_FOR_ALL_FEATURE_COUNTS(CUEKIT_CASE)
#undef CUEKIT_CASE
    default:
      throw std::invalid_argument("no lattice for this number of features");
  }
}

}  // namespace cuekit::cpu
