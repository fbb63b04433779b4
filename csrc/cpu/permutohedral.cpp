// Building the lattice of permutohedral.h.
//
// - Features become simplices and keys as in cuekit/permutohedral.h, in vectors of up to 16 pixels.
// - Places in the table are asked for some pixels ahead, and few branches depend on what is found.
#include "permutohedral.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <utility>

#include "cuekit/permutohedral.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

using Key = LatticeKey;
using Row = std::int32_t;

inline std::size_t to_size(std::int64_t n) { return static_cast<std::size_t>(n); }

// ---- vertices by key ----

// Places hold vertices, and keys stand apart: so many places, most of them empty, would not fit in
// the caches with their keys.
class VertexTable {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(keys_.size()); }
  Key key(std::int64_t vertex) const { return keys_[to_size(vertex)]; }

  // The vertex of a key, or -1, when there are any. Whether there is one is anybody's guess, so no
  // branch depends on it; that the first place tells is likely.
  CUEKIT_INLINE Row find(Key key) const {
    for (std::size_t at = place(key);; at = (at + 1) & mask_) {
      const Row vertex = places_[at];
      const Key taken = static_cast<Key>(~(std::int64_t{vertex} >> 63));  // all bits, or none
      if (((keys_[to_size(std::max(vertex, Row{0}))] ^ key) & taken) == 0) return vertex;
    }
  }

  CUEKIT_INLINE Row find_or_add(Key key) {
    std::size_t at = place(key);
    for (; places_[at] >= 0; at = (at + 1) & mask_)
      if (keys_[to_size(places_[at])] == key) return places_[at];
    return add(key, at);
  }

  CUEKIT_INLINE void prefetch_place(Key key) const { prefetch(&places_[place(key)], 1); }

 private:
  // Multiplication by 2^64 / the golden ratio spreads keys that differ in few bits; its highest
  // bits are the best mixed.
  CUEKIT_INLINE std::size_t place(Key key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15u) >> shift_);
  }

  Row add(Key key, std::size_t at) {
    const auto vertex = static_cast<Row>(keys_.size());
    places_[at] = vertex;
    keys_.push_back(key);
    if (8 * keys_.size() > places_.size()) grow();  // sparse: the first place should tell
    return vertex;
  }

  void grow() {
    --shift_;
    mask_ = 2 * mask_ + 1;
    places_.assign(mask_ + 1, Row{-1});
    for (std::size_t v = 0; v < keys_.size(); ++v) {
      std::size_t at = place(keys_[v]);
      while (places_[at] >= 0) at = (at + 1) & mask_;
      places_[at] = static_cast<Row>(v);
    }
  }

  static constexpr int first_bits = 10;
  int shift_ = 64 - first_bits;
  std::size_t mask_ = (std::size_t{1} << first_bits) - 1;
  WorkspaceVector<Row> places_ = WorkspaceVector<Row>(mask_ + 1, Row{-1});
  WorkspaceVector<Key> keys_;
};

// ---- from features to simplices ----

constexpr int block = 16;  // strips of pixels are padded to a multiple of the widest vector

// features[j][x], x in [0, count), count a multiple of the block ->
//   keys[x]           of the simplex's vertex of remainder 0
//   orders[x]         for p = 0..d, in 3 bits each, the coordinate of rank p
//   barycentric[k][x] weight of the vertex of remainder k
template <int d, class V>
struct Embed {
  static CUEKIT_INLINE void run(const Embedding<d>* e, const float* features, std::int64_t count,
                                Key* __restrict keys, float* __restrict quotients,
                                std::int32_t* __restrict orders, float* __restrict barycentric) {
    for (std::int64_t x = 0; x < count; x += V::size)
      embed(*e, features + x, count, quotients + x, orders + x, barycentric + x);
    for (std::int64_t x = 0; x < count; ++x) {
      Key key = 0;
      for (int i = 0; i < d; ++i) {
        const auto quotient = static_cast<std::int32_t>(quotients[i * count + x]);
        key += static_cast<Key>(quotient - e->lowest[i]) << e->shift[i];
      }
      keys[x] = key;
    }
  }

 private:
  static CUEKIT_INLINE void embed(const Embedding<d>& e, const float* features, std::int64_t count,
                                  float* quotients, std::int32_t* orders, float* barycentric) {
    const V zero = V::zero(), one = V::all(1), size = V::all(d + 1);
    const V shrink = V::all(1.0f / (d + 1));
    const V rounding = V::all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    V coordinate[d + 1], quotient[d + 1], distance[d + 1], rank[d + 1];
    V sum = zero;
    for (int j = d; j > 0; --j) {
      const V scaled = V::load(features + (j - 1) * count) * e.scale[j - 1];
      coordinate[j] = sum - scaled * static_cast<float>(j);
      sum = sum + scaled;
    }
    coordinate[0] = sum;

    // The closest point whose coordinates are multiples of d + 1. Their sum should be 0.
    V excess = zero;
    for (int i = 0; i <= d; ++i) {
      quotient[i] = (coordinate[i] * shrink + rounding) - rounding;
      distance[i] = coordinate[i] - quotient[i] * size;
      excess = excess + quotient[i];
      rank[i] = zero;
    }
    // Rank 0 has the coordinate that lies furthest above.
    for (int i = 0; i < d; ++i)
      for (int j = i + 1; j <= d; ++j) {
        const V less = if_less(distance[i], distance[j], one, zero);
        rank[i] = rank[i] + less;
        rank[j] = rank[j] + (one - less);
      }
    // Where the sum is not 0, those that were rounded furthest are rounded the other way.
    for (int i = 0; i <= d; ++i) {
      rank[i] = rank[i] + excess;
      const V turn = if_less(rank[i], zero, one, zero) - if_less(rank[i], size, zero, one);
      rank[i] = rank[i] + turn * size;
      quotient[i] = quotient[i] + turn;
      distance[i] = (coordinate[i] - quotient[i] * size) * shrink;
    }

    V sorted[d + 1];  // distances by rank
    V order = zero;   // exact: below 8^6
    float place = 1;
    for (int p = 0; p <= d; ++p, place *= 8) {
      const V wanted = V::all(static_cast<float>(p));
      sorted[p] = distance[0];
      V coordinate_there = zero;
      for (int i = 1; i <= d; ++i) {
        sorted[p] = if_equal(rank[i], wanted, distance[i], sorted[p]);
        coordinate_there =
            if_equal(rank[i], wanted, V::all(static_cast<float>(i)), coordinate_there);
      }
      order = order + coordinate_there * place;
    }
    // The vertex of remainder k goes with rank d - k.
    for (int p = 0; p < d; ++p) (sorted[p] - sorted[p + 1]).store(barycentric + (d - p) * count);
    (sorted[d] + (one - sorted[0])).store(barycentric);
    for (int i = 0; i < d; ++i) quotient[i].store(quotients + i * count);
    float codes[V::size];
    order.store(codes);
    for (int l = 0; l < V::size; ++l) orders[l] = static_cast<std::int32_t>(codes[l]);
  }
};

template <int d>
void embed_strip(const Embedding<d>& e, const float* features, std::int64_t count, Key* keys,
                 float* quotients, std::int32_t* orders, float* barycentric) {
  dispatch_width<Embed<d, Lanes<float, 4>>, Embed<d, Lanes<float, 8>>, Embed<d, Lanes<float, 16>>>(
      &e, features, count, keys, quotients, orders, barycentric);
}

// ---- the lattice ----

// What a band finds, its vertices numbered by first appearance in it.
struct BandVertices {
  VertexTable table;
  WorkspaceVector<float> ones;  // splatted from every pixel
  WorkspaceVector<Row> rows;    // of the lattice
};

// Finds the vertices of the pixels in a band. fill(strip, features, padded) writes features[j][i]
// of the strip's pixels in their order, `padded` columns apart.
template <int d, class Fill>
void embed_band(const Embedding<d>& embedding, std::int64_t width, const Fill& fill,
                Lattice& lattice, const Band& band, BandVertices& found) {
  constexpr int corners = d + 1;
  const std::vector<Strip> strips = strips_of(band, width);
  const std::int64_t padded = (strips[0].rows * width + block - 1) / block * block;
  const Workspace<float> features(d * padded), quotients(d * padded);
  std::fill_n(features.get(), d * padded, 0.0f);
  const Workspace<float> barycentric(corners * padded);
  const Workspace<Key> keys(padded);
  const Workspace<std::int32_t> orders(padded);
  Key unit[8] = {};
  for (int i = 0; i < d; ++i) unit[i] = embedding.unit(i);

  constexpr std::int64_t ahead = 8;  // pixels whose places in the table are asked for
  Row* rows = lattice.rows.get() + band.first_pixel * corners;
  float* weights = lattice.weights.get() + band.first_pixel * corners;
  for (const Strip& strip : strips) {
    const std::int64_t count = strip.rows * width;
    fill(strip, features.get(), padded);
    embed_strip(embedding, features.get(), padded, keys.get(), quotients.get(), orders.get(),
                barycentric.get());
    // From the vertex of remainder k - 1 to that of k, the coordinate of rank d - k + 1 shrinks by
    // d and the others grow by 1.
    const auto find_corners = [&](std::int64_t i, Key* to) {
      const std::int32_t order = orders.get()[i];
      to[0] = keys.get()[i];
      for (int k = 1; k < corners; ++k) {
        to[k] = to[k - 1] + 1 - unit[order >> (3 * (d - k + 1)) & 7];
      }
      for (int k = 0; k < corners; ++k) found.table.prefetch_place(to[k]);
    };
    Key corner[ahead][corners];
    for (std::int64_t i = 0; i < std::min(ahead, count); ++i) find_corners(i, corner[i % ahead]);
    for (std::int64_t i = 0; i < count; ++i) {
      Key* const own = corner[i % ahead];
      for (int k = 0; k < corners; ++k) rows[k] = found.table.find_or_add(own[k]);
      if (i + ahead < count) find_corners(i + ahead, own);
      found.ones.resize(to_size(found.table.size()));
      for (int k = 0; k < corners; ++k) {
        const float weight = barycentric.get()[k * padded + i];
        weights[k] = weight;
        found.ones[to_size(rows[k])] += weight;
      }
      rows += corners;
      weights += corners;
    }
  }
}

// Joins the bands' vertices; `sums` is what they have splatted, together.
void join_bands(Lattice& lattice, std::vector<BandVertices>& found, VertexTable& table,
                WorkspaceVector<float>& sums) {
  std::int64_t copies = 0;
  for (std::size_t b = 0; b < found.size(); ++b) {
    BandVertices& own = found[b];
    Band& band = lattice.bands[b];
    band.first_vertex = table.size();
    band.first_copy = copies;
    own.rows.resize(to_size(own.table.size()));
    if (b == 0) {
      table = std::move(own.table);
      sums = std::move(own.ones);
      for (std::size_t v = 0; v < own.rows.size(); ++v) own.rows[v] = static_cast<Row>(v);
    } else {
      for (std::size_t v = 0; v < own.rows.size(); ++v) {
        const Row vertex = table.find_or_add(own.table.key(static_cast<std::int64_t>(v)));
        sums.resize(to_size(table.size()));
        sums[to_size(vertex)] += own.ones[v];
        if (vertex >= band.first_vertex) {
          own.rows[v] = vertex;
        } else {
          own.rows[v] = static_cast<Row>(~copies++);  // numbered once all vertices are
          lattice.originals.push_back(vertex);
        }
      }
    }
    band.last_vertex = table.size();
    band.last_copy = copies;
  }
  lattice.vertices = table.size();
  for (BandVertices& own : found)
    for (Row& row : own.rows)
      if (row < 0) row = static_cast<Row>(lattice.vertices + ~row);
}

template <int d>
WorkspaceVector<Row> find_chains(const Embedding<d>& embedding, const VertexTable& table,
                                 int axis) {
  const Key steps[2] = {embedding.step(axis, false), embedding.step(axis, true)};
  const auto neighbour_key = [&](std::int64_t v) {
    const Key key = table.key(v);
    return key + steps[(key & embedding.remainder_mask) == 0];
  };
  const std::int64_t count = table.size();
  WorkspaceVector<Row> next(to_size(count));
  WorkspaceVector<std::uint8_t> has_previous(to_size(count + 1));  // vertex v's is at v + 1
  for (std::int64_t v = 0; v < count; ++v) {
    table.prefetch_place(neighbour_key(std::min(v + 16, count - 1)));
    next[to_size(v)] = table.find(neighbour_key(v));
    has_previous[to_size(next[to_size(v)] + 1)] = 1;
  }
  WorkspaceVector<Row> heads(to_size(count + 1));
  std::size_t chains = 0, length = 0;
  // From the last vertex to the first and back, axis by axis: each begins with what the one before,
  // or the pixels, left in the caches.
  const std::int64_t turn = axis % 2 == 0 ? count - 1 : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t v = std::abs(turn - i);
    const std::size_t follows = has_previous[to_size(v + 1)];
    const std::size_t leads = next[to_size(v)] >= 0 ? 1 : 0;
    heads[chains] = static_cast<Row>(v);
    chains += leads & (1 - follows);
    length += leads | follows;
  }
  // Chains are short, and where one ends is anybody's guess: no branch depends on it.
  WorkspaceVector<Row> chain(length + to_size(Lattice::chain_end), ~Row{0});
  heads[chains] = 0;
  Row at = heads[0], entry = ~at;
  std::size_t head = 0;
  for (std::size_t i = 0; i < length; ++i) {
    chain[i] = entry;
    const Row after = next[to_size(at)];
    head += after < 0 ? 1 : 0;
    at = after < 0 ? heads[head] : after;
    entry = after < 0 ? ~at : at;
  }
  return chain;
}

// Vertices are numbered by first appearance: those of a pixel that shares none follow one another.
bool is_diagonal(const Lattice& lattice) {
  if (lattice.vertices != lattice.pixels * lattice.corners) return false;
  for (const WorkspaceVector<Row>& chain : lattice.chains)
    for (std::size_t i = 1; i < chain.size(); ++i)
      if (chain[i] >= 0) {
        const Row before = chain[i - 1] < 0 ? ~chain[i - 1] : chain[i - 1];
        if (before / lattice.corners != chain[i] / lattice.corners) return false;
      }
  return true;
}

// As dense_crf.cpp does with labels: no branch depends on where a chain ends.
void blur(const WorkspaceVector<Row>& chain, WorkspaceVector<float>& values) {
  const auto value = [&](Row entry) -> float& { return values[to_size(entry ^ (entry >> 31))]; };
  float half_previous = 0, own = value(chain[0]);
  for (std::size_t i = 0; i + to_size(Lattice::chain_end) < chain.size(); ++i) {
    const Row after = chain[i + 1];
    const float half = 0.5f * static_cast<float>(1 + (after >> 31));
    const float next = value(after);
    value(chain[i]) = own + (half_previous + next * half);
    half_previous = own * half;
    own = next;
  }
}

template <int d, class Fill>
Lattice build(const Embedding<d>& embedding, std::int64_t height, std::int64_t width, float weight,
              const Fill& fill, int threads) {
  Lattice lattice;
  lattice.corners = d + 1;
  lattice.pixels = height * width;
  lattice.rows = Workspace<Row>(lattice.pixels * lattice.corners);
  lattice.weights = Workspace<float>(lattice.pixels * lattice.corners);
  lattice.bands = divide_into_bands(height, width);
  const auto bands = static_cast<std::int64_t>(lattice.bands.size());
  std::vector<BandVertices> found(to_size(bands));
  parallel_for(bands, threads, [&](std::int64_t b) {
    embed_band(embedding, width, fill, lattice, lattice.bands[to_size(b)], found[to_size(b)]);
  });
  VertexTable table;
  WorkspaceVector<float> ones;
  join_bands(lattice, found, table, ones);
  lattice.chains.resize(d + 1);
  parallel_for(d + 1, threads, [&](std::int64_t axis) {
    lattice.chains[to_size(axis)] = find_chains(embedding, table, static_cast<int>(axis));
  });
  lattice.weight = weight;
  lattice.diagonal = is_diagonal(lattice);
  for (const auto& chain : lattice.chains) blur(chain, ones);

  // What a filter of ones gives is what it is normalised by, half of it on either side.
  const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, -d));
  const double scale = std::sqrt(static_cast<double>(weight) * static_cast<double>(alpha));
  parallel_for(bands, threads, [&](std::int64_t b) {
    const Band& band = lattice.bands[to_size(b)];
    const WorkspaceVector<Row>& row_of = found[to_size(b)].rows;
    for (std::int64_t i = band.first_pixel; i < band.last_pixel; ++i) {
      Row* const rows = lattice.rows.get() + i * lattice.corners;
      float* const weights = lattice.weights.get() + i * lattice.corners;
      float sum = 0;
      for (int k = 0; k <= d; ++k) {
        rows[k] = row_of[to_size(rows[k])];
        const Row vertex = rows[k] < lattice.vertices
                               ? rows[k]
                               : lattice.originals[to_size(rows[k] - lattice.vertices)];
        sum += weights[k] * ones[to_size(vertex)];
      }
      const double norm = 1 / std::sqrt(static_cast<double>(alpha * sum) + 1e-20);
      for (int k = 0; k <= d; ++k) weights[k] *= static_cast<float>(norm * scale);
    }
  });
  return lattice;
}

WorkspaceVector<float> positions(std::int64_t count, float width) {
  WorkspaceVector<float> result(to_size(count));
  for (std::int64_t i = 0; i < count; ++i) result[to_size(i)] = static_cast<float>(i) / width;
  return result;
}

// features[0][i] and features[1][i], for the pixels of a strip.
void fill_positions(const Strip& strip, const WorkspaceVector<float>& across,
                    const WorkspaceVector<float>& down, float* features, std::int64_t padded) {
  for (const float x : across)
    for (std::int64_t r = 0; r < strip.rows; ++r, ++features) {
      features[0] = x;
      features[padded] = down[to_size(strip.first_row + r)];
    }
}

}  // namespace

std::vector<Band> divide_into_bands(std::int64_t height, std::int64_t width) {
  const std::int64_t pixels = height * width;
  std::int64_t count = pixels < 1 << 16 ? 1 : 2;
  while (count < 64 && count << 17 <= pixels) count *= 2;
  count = std::min(height, count);
  std::vector<Band> bands;
  for (std::int64_t b = 0; b < count; ++b)
    bands.push_back({b * height / count * width, (b + 1) * height / count * width, 0, 0, 0, 0});
  return bands;
}

std::vector<Strip> strips_of(const Band& band, std::int64_t width) {
  const std::int64_t end = band.last_pixel / width;
  std::vector<Strip> strips;
  for (std::int64_t y = band.first_pixel / width; y < end; y += strip_height)
    strips.push_back({y, std::min(strip_height, end - y)});
  return strips;
}

Lattice spatial_lattice(std::int64_t height, std::int64_t width, float sxy, float weight,
                        int threads) {
  const WorkspaceVector<float> across = positions(width, sxy), down = positions(height, sxy);
  const Embedding<2> embedding(
      {static_cast<double>(across.back()), static_cast<double>(down.back())});
  const auto fill = [&](const Strip& strip, float* features, std::int64_t padded) {
    fill_positions(strip, across, down, features, padded);
  };
  return build(embedding, height, width, weight, fill, threads);
}

Lattice bilateral_lattice(const std::uint8_t* photo, std::int64_t height, std::int64_t width,
                          float sxy, float srgb, float weight, int threads) {
  const WorkspaceVector<float> across = positions(width, sxy), down = positions(height, sxy);
  const WorkspaceVector<float> colours = positions(256, srgb);
  const auto x_end = static_cast<double>(across.back()), y_end = static_cast<double>(down.back());
  const auto colour_end = static_cast<double>(colours.back());
  const Embedding<5> embedding({x_end, y_end, colour_end, colour_end, colour_end});
  const auto fill = [&](const Strip& strip, float* features, std::int64_t padded) {
    fill_positions(strip, across, down, features, padded);
    for (std::int64_t r = 0; r < strip.rows; ++r) {
      const std::uint8_t* const pixels = photo + 3 * (strip.first_row + r) * width;
      for (int channel = 0; channel < 3; ++channel) {
        float* const to = features + (2 + channel) * padded + r;
        for (std::int64_t x = 0; x < width; ++x)
          to[x * strip.rows] = colours[pixels[3 * x + channel]];
      }
    }
  };
  return build(embedding, height, width, weight, fill, threads);
}

}  // namespace cuekit::cpu
