// Mean field of include/cuekit/dense_crf.h on the lattices of permutohedral.h.
//
// An iteration is five launches, whatever the batch and the number of labels:
//
//   mean_field   of every pixel: read its 9 vertices, add the unary, softmax; of every tile: add up
//                its copies. Q stays in shared memory, and is only stored at the end
//   join         every vertex adds up its copies
//   blur, three  over the vertices that there are
//
// An image's labels are the background and its present classes. Labels of a pixel, a vertex or a
// copy stand side by side in a row of floats. Their number is rounded up to a multiple of 4 by
// labels of probability 0; what rows have beyond is neither read nor written. Weights and
// normalisation are part of the entries' weights. Vertices and copies can be stored as float16,
// which halves what moves of them; sums, unaries and Q are of float32 in any case.
//
// What moves in an iteration, for N pixels, M vertices, C copies and L labels, rounded:
//
//   through memory   N (4 L + 100) bytes of unary, rows, weights and order, and 8 L C of copies,
//                    written and read
//   through caches   36 L N of vertices sliced, most of them from the one close to the processor,
//                    for neighbours share them; the same to splat, from shared memory; and 4 L M
//                    for each vertex written or read by join and blur, some 5 to 20 of them
//
// A textured photo of 375 x 500 has M = 0.25 N and C = 1.7 N at 80/13: for 21 classes 37 + 62 MB
// through memory, 0.023 ms at 4.3 TB/s, if the second cache kept nothing; 162 + 162 + 50 MB through
// the caches, whose 128 bytes per cycle and processor are 0.01 to 0.02 ms. So ten iterations cannot
// take less than some 0.25 ms. Fifty launches that wait for each other add some 0.1.
//
// Workspace per pixel, for both filters: 76 L + 860 bytes, L for all classes, and 4 L more above 32
// labels; with float16, 40 L + 860. A batch is worked on in parts of at most 4 GB of it, at least
// one photo.
#include <algorithm>
#include <cmath>

#include "cuekit/crf.h"
#include "launch.h"
#include "permutohedral.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// Below this, a label's probability is 0 whatever else; a sum with it stays finite.
constexpr float impossible = -1e30f;

// How threads share labels: `lanes` of them have one pixel, each `parts` times 4 labels;
// `row_lanes` of them add up one copy.
template <int lanes_, int parts_, int row_lanes_>
struct Shape {
  static constexpr int lanes = lanes_, parts = parts_, row_lanes = row_lanes_;
  static constexpr int labels = 4 * lanes * parts;
  static constexpr int threads =
      tile_pixels * lanes < block_size ? tile_pixels * lanes : block_size;
  static constexpr int pixels_at_once = threads / lanes;
  static constexpr int copies_at_once = threads / row_lanes;
};

template <class V>
struct MeanField {
  Lattice lattice;
  float* unary;   // (tiles, tile_pixels, stride), and Q in the end
  float* logits;  // the same, where there are more labels than a shape has
  Rows rows;
  const V* values;  // (entries, stride): filtered
  V* copies;        // (entries, stride): to splat into
  bool slice, splat;
};

__device__ float max_of(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

__device__ float sum_of(float4 v) { return (v.x + v.y) + (v.z + v.w); }

__device__ float4 times(float4 v, float factor) {
  return {v.x * factor, v.y * factor, v.z * factor, v.w * factor};
}

__device__ float4 exp2_of(float4 v, float shift) {
  return {exp2f(v.x - shift), exp2f(v.y - shift), exp2f(v.z - shift), exp2f(v.w - shift)};
}

// Over the lanes that have one pixel.
template <int lanes, class Combine>
__device__ float over_lanes(float value, Combine combine) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}

// A thread's share of up to S::labels labels of one pixel. Of rows, `left` labels are there.
template <class S>
struct Labels {
  float4 part[S::parts];
  int lane;  // which of S::lanes this thread is

  __device__ explicit Labels(int which) : lane(which) {
#pragma unroll
    for (float4& p : part) p = all_of(impossible);
  }
  __device__ int place(int j) const { return 4 * (lane + j * S::lanes); }
  __device__ void load(const float* from, int left) {
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (place(j) < left) part[j] = load4(from + place(j));
  }
  __device__ void store(float* to, int left) const {
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (place(j) < left) store4(to + place(j), part[j]);
  }
  template <class V>
  __device__ void add(const V* from, int left, float factor) {
#pragma unroll
    for (int j = 0; j < S::parts; ++j)
      if (place(j) < left) part[j] = add4(part[j], factor, load4(from + place(j)));
  }
  __device__ float largest() const {
    float result = max_of(part[0]);
    for (int j = 1; j < S::parts; ++j) result = fmaxf(result, max_of(part[j]));
    return result;
  }
  __device__ float sum() const {
    float result = sum_of(part[0]);
    for (int j = 1; j < S::parts; ++j) result += sum_of(part[j]);
    return result;
  }
  __device__ void become_powers_of_2(float shift) {
    for (float4& p : part) p = exp2_of(p, shift);
  }
  __device__ void multiply(float factor) {
    for (float4& p : part) p = times(p, factor);
  }
};

__device__ Row pixel_row(std::int64_t tile, int i) {
  return static_cast<Row>(tile) * tile_pixels + static_cast<Row>(i);
}

// One filter's message to a pixel, from its corners in a tile. All of them are asked for before the
// first is needed.
template <int corners, class S, class V>
__device__ void add_message(const Row* rows, const float* weights, const V* values,
                            const Rows& of_values, int left, Labels<S>& x) {
  Row row[corners];
#pragma unroll
  for (int k = 0; k < corners; ++k) row[k] = rows[k * tile_pixels];
#pragma unroll
  for (int k = 0; k < corners; ++k)
    x.add(values + of_values.offset(row[k]), left, weights[k * tile_pixels]);
}

// Labels from `first` on: unary and messages, in units of ln 2. weights (corners, tile_pixels).
template <class S, class V>
__device__ void add_messages(const MeanField<V>& m, std::int64_t tile, int i, int first, int left,
                             const float* weights, Labels<S>& x) {
  const Lattice& at = m.lattice;
  x.load(m.unary + m.rows.offset(pixel_row(tile, i)) + first, left);
  if (m.slice && at.bilateral > 0)
    add_message<bilateral_corners>(at.rows + at.entry(tile, 0) + i, weights + i, m.values + first,
                                   m.rows, left, x);
  if (m.slice && at.spatial > 0)
    add_message<spatial_corners>(at.rows + at.entry(tile, at.bilateral) + i,
                                 weights + at.bilateral * tile_pixels + i, m.values + first, m.rows,
                                 left, x);
}

// q (tile_pixels, S::labels): of labels from `first` on.
template <class S, class V>
__device__ void splat(const MeanField<V>& m, std::int64_t tile, int first, int left,
                      const float* weights, const float* q) {
  const Lattice& at = m.lattice;
  const std::int64_t first_copy = at.first_copy(tile);
  const int lane = static_cast<int>(threadIdx.x) % S::row_lanes;
  if (4 * lane >= S::labels || 4 * lane >= left) return;
  const std::uint16_t* const order = at.order + first_copy;
  const auto copies = static_cast<int>(at.copies[tile]);
  for (int c = static_cast<int>(threadIdx.x) / S::row_lanes; c < copies; c += S::copies_at_once) {
    const std::uint32_t span = at.spans[first_copy + c];
    float4 sum = all_of(0.0f);
#pragma unroll 4
    for (std::uint32_t j = span & 0xffff; j < span >> 16; ++j) {
      const int entry = order[j];
      sum = add4(sum, weights[entry], load4(q + entry % tile_pixels * S::labels + 4 * lane));
    }
    store4(m.copies + m.rows.offset(static_cast<Row>(first_copy + c)) + first + 4 * lane, sum);
  }
}

// Registers for so many threads of a multiprocessor: they hide what gathers wait for.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int threads_at_once = 1024;  // Turing has no more
#else
constexpr int threads_at_once = 1280;
#endif

// A block has one tile. Where a shape has all labels, they stay in registers until the softmax is
// done; else logits go through memory, and Q is splatted group by group of labels.
template <class S, bool many, class V>
__global__ void __launch_bounds__(S::threads, threads_at_once / S::threads)
    mean_field(MeanField<V> m) {
  __shared__ float4 q_of_tile[tile_pixels * S::labels / 4];
  __shared__ float weights[max_entries];
  __shared__ float factors[many ? tile_pixels : 1];
  float* const q = &q_of_tile[0].x;
  const std::int64_t tile = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % S::lanes;
  const int begin = static_cast<int>(threadIdx.x) / S::lanes;
  const int count = m.lattice.pixels_in(tile);
  const int used = m.rows.used_of(tile / m.lattice.tiles_per_image);
  const auto row = [&](float* rows, int i, int first) {
    return rows + m.rows.offset(pixel_row(tile, i)) + first;
  };
  if (m.slice || m.splat) {
    for (int l = static_cast<int>(threadIdx.x); l < m.lattice.corners() * tile_pixels;
         l += S::threads)
      weights[l] = m.lattice.weights[m.lattice.entry(tile, l / tile_pixels) + l % tile_pixels];
    __syncthreads();
  }

  // Every thread of a warp takes part in what goes over lanes, with a pixel or without.
  for (int i = begin; i < tile_pixels; i += S::pixels_at_once) {
    const bool inside = i < count;
    if constexpr (!many) {
      Labels<S> x(lane);
      if (inside) add_messages(m, tile, i, 0, used, weights, x);
      x.become_powers_of_2(over_lanes<S::lanes>(x.largest(), Larger()));
      x.multiply(1.0f / over_lanes<S::lanes>(x.sum(), Plus()));
      if (m.splat) {
        x.store(q + i * S::labels, S::labels);
      } else if (inside) {
        x.store(row(m.unary, i, 0), used);
      }
    } else {
      float largest = impossible, sum = 0.0f;
      for (int first = 0; first < used; first += S::labels) {
        Labels<S> x(lane);
        if (inside) add_messages(m, tile, i, first, used - first, weights, x);
        if (inside) x.store(row(m.logits, i, first), used - first);
        largest = fmaxf(largest, x.largest());
      }
      largest = over_lanes<S::lanes>(largest, Larger());
      for (int first = 0; first < used; first += S::labels) {
        Labels<S> x(lane);
        if (inside) x.load(row(m.logits, i, first), used - first);
        x.become_powers_of_2(largest);
        if (inside) x.store(row(m.logits, i, first), used - first);
        sum += x.sum();
      }
      sum = over_lanes<S::lanes>(sum, Plus());
      if (lane == 0) factors[i] = 1.0f / sum;
    }
  }
  if constexpr (!many) {
    if (!m.splat) return;
    __syncthreads();
    splat<S>(m, tile, 0, used, weights, q);
  } else {
    for (int first = 0; first < used; first += S::labels) {
      __syncthreads();
      for (int i = begin; i < count; i += S::pixels_at_once) {
        Labels<S> x(lane);
        x.load(row(m.logits, i, first), used - first);
        x.multiply(factors[i]);
        if (m.splat) {
          x.store(q + i * S::labels, S::labels);
        } else {
          x.store(row(m.unary, i, first), used - first);
        }
      }
      __syncthreads();
      if (m.splat) splat<S>(m, tile, first, used - first, weights, q);
    }
  }
}

template <class V>
void launch_mean_field(const MeanField<V>& m, cudaStream_t stream) {
  const auto run = [&](auto shape, auto many) {
    using S = decltype(shape);
    launch(mean_field<S, many, V>, m.lattice.tiles(), S::threads, stream, m);
  };
  constexpr std::false_type few{};
  if (m.rows.stride <= 4) {
    run(Shape<1, 1, 1>{}, few);
  } else if (m.rows.stride <= 8) {
    run(Shape<2, 1, 2>{}, few);
  } else if (m.rows.stride <= 16) {
    run(Shape<4, 1, 4>{}, few);
  } else if (m.rows.stride <= 24) {
    run(Shape<2, 3, 8>{}, few);
  } else if (m.rows.stride <= 32) {
    run(Shape<8, 1, 8>{}, few);
  } else {
    run(Shape<8, 1, 8>{}, std::true_type{});
  }
}

constexpr std::int64_t most_in_a_row = 32;  // labels that need no `logits`

// ---- between maps and rows ----

struct Maps {
  std::int64_t channels;
  bool energies;
  float epsilon;
  // Background and present classes of every image.
  std::int32_t* labels;   // (images, stride): their channels
  std::int32_t* counts;   // (images)
  std::int32_t* rounded;  // (images): up to a multiple of 4
};

// A warp has one image.
__global__ void list_labels(Maps maps, const std::uint8_t* __restrict__ present,
                            std::int64_t stride) {
  const std::int64_t image = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const std::uint8_t* const tags = present + image * (maps.channels - 1);
  std::int32_t count = 0;
  for (std::int64_t first = 0; first < maps.channels; first += warp_size) {
    const std::int64_t c = first + lane;
    const bool has = c < maps.channels && (c == 0 || tags[c - 1] != 0);
    const unsigned bits = __ballot_sync(all_lanes, has);
    if (has)
      maps.labels[image * stride + count + __popc(bits & ((1u << lane) - 1u))] =
          static_cast<std::int32_t>(c);
    count += __popc(bits);
  }
  if (lane != 0) return;
  maps.counts[image] = count;
  maps.rounded[image] = (count + 3) / 4 * 4;
}

template <class T>
__device__ float log_of(T value, float epsilon) {
  const auto p = static_cast<float>(load(value));
  return log2f(p < epsilon ? epsilon : p > 1.0f ? 1.0f : p);
}

// The logits of a pixel's labels: the largest becomes 0. A block has one tile.
template <class T>
__global__ void read_scores(Lattice at, Maps maps, const T* __restrict__ scores,
                            float* __restrict__ unary, std::int64_t stride) {
  const std::int64_t tile = blockIdx.x, image = tile / at.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= at.pixels_in(tile)) return;
  const Lattice::Position p = at.position(tile, i);
  const std::int64_t pixels = at.pixels();
  const T* const from =
      scores + image * maps.channels * pixels + std::int64_t{p.y} * at.width + p.x;
  const std::int32_t* const labels = maps.labels + image * stride;
  const std::int32_t count = maps.counts[image];
  // The energy that is lowest, or the probability that is largest.
  double best = load(from[0]);
#pragma unroll 4
  for (std::int32_t k = 1; k < count; ++k) {
    const double value = load(from[labels[k] * pixels]);
    best = maps.energies ? Smaller()(best, value) : Larger()(best, value);
  }
  const float largest = maps.energies ? 0.0f : log_of(best, maps.epsilon);
  float* const row = unary + (tile * tile_pixels + i) * stride;
  for (std::int32_t first = 0; first < count; first += 4) {
    float logits[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      logits[j] = impossible;
      if (first + j >= count) continue;
      const T value = from[labels[first + j] * pixels];
      if (maps.energies) {
        const double energy = (load(value) - best) * log2_of_e;
        logits[j] =
            energy > -static_cast<double>(impossible) ? impossible : static_cast<float>(-energy);
      } else {
        logits[j] = log_of(value, maps.epsilon) - largest;
      }
    }
    store4(row + first, {logits[0], logits[1], logits[2], logits[3]});
  }
}

// Absent classes get 0.
template <class T>
__global__ void write_probabilities(Lattice at, Maps maps, const float* __restrict__ rows,
                                    T* __restrict__ out, std::int64_t stride) {
  const std::int64_t tile = blockIdx.x, image = tile / at.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= at.pixels_in(tile)) return;
  const Lattice::Position p = at.position(tile, i);
  const float* const row = rows + (tile * tile_pixels + i) * stride;
  T* const to = out + image * maps.channels * at.pixels() + std::int64_t{p.y} * at.width + p.x;
  const std::int32_t* const labels = maps.labels + image * stride;
  const std::int32_t count = maps.counts[image];
  std::int64_t c = 0;
  for (std::int32_t first = 0; first < count; first += 4) {
    const float4 four = load4(row + first);
    const float values[] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j >= count) continue;
      for (; c < labels[first + j]; ++c) to[c * at.pixels()] = store<T>(0.0);
      to[c++ * at.pixels()] = store<T>(static_cast<double>(values[j]));
    }
  }
  for (; c < maps.channels; ++c) to[c * at.pixels()] = store<T>(0.0);
}

// ---- the call ----

// Without iterations there is nothing to filter.
FilterParams filters_of(const CrfParams& p) {
  const float unit = static_cast<float>(log2_of_e) * (p.iterations > 0 ? 1.0f : 0.0f);
  return {p.gaussian_weight * unit, p.gaussian_sxy, p.bilateral_weight * unit, p.bilateral_sxy,
          p.bilateral_srgb};
}

template <class V>
struct Workspace {
  Workspace(const CrfParams& p, const FilterParams& filters, std::int64_t images, Arena& arena)
      : stride(ceil_div(p.channels, 4) * 4),
        lattice(images, p.height, p.width, filters, arena),
        maps{p.channels,
             p.energies,
             p.epsilon,
             arena.take<std::int32_t>(images * stride),
             arena.take<std::int32_t>(images),
             arena.take<std::int32_t>(images)},
        unary(arena.take<float>(lattice.tiles() * tile_pixels * stride)),
        logits(stride <= most_in_a_row ? nullptr
                                       : arena.take<float>(lattice.tiles() * tile_pixels * stride)),
        values(arena.take<V>(std::max(2 * lattice.entries() * stride,
                                      ceil_div(lattice.scratch_bytes(), sizeof(V))))) {}

  std::int64_t stride;
  Lattice lattice;
  Maps maps;
  float* unary;
  float* logits;
  V* values;
};

template <class V>
std::int64_t bytes_for(const CrfParams& p, const FilterParams& filters, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace<V> workspace(p, filters, images, arena);
  return arena.used();
}

// How many to work on at a time: some photos fill any GPU.
template <class V>
std::int64_t images_at_a_time(const CrfParams& p, const FilterParams& filters) {
  constexpr std::int64_t enough = std::int64_t{1} << 32;
  return std::clamp<std::int64_t>(enough / bytes_for<V>(p, filters, 1), 1, p.batch);
}

template <class T, class V>
void infer(const T* scores, const std::uint8_t* photos, const std::uint8_t* present, T* out,
           const CrfParams& p, const FilterParams& filters, Context& context) {
  const cudaStream_t stream = context.stream;
  const std::int64_t pixels = p.height * p.width, step = images_at_a_time<V>(p, filters);
  void* const workspace = context.allocate(bytes_for<V>(p, filters, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(workspace);
    const Workspace<V> at(p, filters, std::min(step, p.batch - first), arena);
    const Lattice& lattice = at.lattice;
    const std::int64_t map = first * p.channels * pixels;
    const Rows rows{static_cast<std::uint32_t>(at.stride), at.maps.rounded};
    launch(list_labels, lattice.images, warp_size, stream, at.maps,
           present + first * (p.channels - 1), at.stride);
    launch(read_scores<T>, lattice.tiles(), tile_pixels, stream, lattice, at.maps, scores + map,
           at.unary, at.stride);
    MeanField<V> m{lattice, at.unary, at.logits, rows, nullptr, nullptr, false, false};
    if (lattice.corners() > 0) {
      lattice.build(photos + 3 * first * pixels, filters, at.values, stream);
      // Both take turns: what is filtered lies where it was splatted.
      V* splatted = at.values;
      V* other = at.values + lattice.entries() * at.stride;
      for (std::int64_t i = 0; i < p.iterations; ++i) {
        m.slice = i > 0;
        m.splat = true;
        m.values = other;
        m.copies = splatted;
        launch_mean_field(m, stream);
        join_and_blur(lattice, splatted, other, rows, stream);
        std::swap(splatted, other);
      }
      m.slice = true;
      m.splat = false;
      m.values = other;
    }
    launch_mean_field(m, stream);
    launch(write_probabilities<T>, lattice.tiles(), tile_pixels, stream, lattice, at.maps, at.unary,
           out + map, at.stride);
  }
}

}  // namespace

template <class T>
bool crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present, T* out,
         const CrfParams& p, Context& context) {
  const FilterParams filters = filters_of(p);
  if (p.half_storage)
    infer<T, half>(scores, photos, present, out, p, filters, context);
  else
    infer<T, float>(scores, photos, present, out, p, filters, context);
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                                 \
  template bool crf(const T*, const std::uint8_t*, const std::uint8_t*, T*, const CrfParams&, \
                    Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
