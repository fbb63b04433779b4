// The CRF of cuekit/crf_features.h on a GPU, on the lattices of point_lattice.h.
//
// An iteration copies the unaries to the logits; then, for one kernel after the other, Q is
// splatted and blurred, and every point slices its vertices and adds what the kernel says of each
// class; then comes the softmax. All classes of a point or vertex are side by side in a row of
// floats: the background and the present classes, rounded up to a multiple of 4 with classes of
// probability 0.
//
// A lattice takes 24 + 8 (d + 1) bytes for each of the d + 1 entries of a point, and as much again
// while it is built. Besides, with L classes, rounded: 8 L bytes per entry of the largest lattice,
// 12 L per point, and 4 L more with a matrix of compatibilities.
#include <algorithm>
#include <utility>

#include "arena.h"
#include "crf_maps.h"
#include "crf_mean_field.h"
#include "cuekit/crf_features.h"
#include "launch.h"
#include "point_lattice.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// By `mean`, the factors are kept apart from the weights.
Normalisation of_lattice(CrfNormalisation normalisation) {
  switch (normalisation) {
    case CrfNormalisation::symmetric:
      return Normalisation::symmetric;
    case CrfNormalisation::none:
      return Normalisation::none;
    default:
      return Normalisation::mean;
  }
}

__device__ std::int64_t thread_number() {
  return std::int64_t{blockIdx.x} * block_size + threadIdx.x;
}

// ---- one thread for each value or point ----

// One channel, or the positions if `channel` is negative. `x_row`: the feature that is x, 0 or 1.
template <class T>
__global__ void photo_features(const T* __restrict__ photo,   // (pixels, channels)
                               float* __restrict__ features,  // (2 + channels, pixels)
                               std::int64_t pixels, std::int64_t width, int channels, int x_row,
                               float sx, float sy, int channel, float channel_width) {
  const std::int64_t i = thread_number();
  if (i >= pixels) return;
  if (channel < 0) {
    features[x_row * pixels + i] = static_cast<float>(i % width) / sx;
    features[(1 - x_row) * pixels + i] = static_cast<float>(i / width) / sy;
  } else {
    features[(2 + channel) * pixels + i] =
        static_cast<float>(load(photo[i * channels + channel])) / channel_width;
  }
}

struct Rows {
  std::int64_t points;
  const std::int32_t* channels;  // (stride): the channel of each class
  const std::int32_t* count;     // (1)
  ValueRows layout;

  __device__ std::int64_t values() const { return points * layout.stride; }
};

template <class Q>
__global__ void read_start(Rows r, const Q* __restrict__ start,  // (K, N)
                           float* __restrict__ q) {              // (points, stride)
  const std::int64_t i = thread_number();
  if (i >= r.points) return;
  float* const row = q + i * r.layout.stride;
  for (int k = 0; k < r.layout.used_of(0); ++k)
    row[k] = k < *r.count ? static_cast<float>(start[r.channels[k] * r.points + i]) : 0.0f;
}

// The bits of floats that are not negative are in the order of the floats; those of NaN come last.
template <class Q>
__global__ void find_change(Rows r, const Q* __restrict__ start,  // (K, N)
                            const float* __restrict__ q,          // (points, stride)
                            float* __restrict__ change) {         // (1)
  const std::int64_t i = thread_number();
  float largest = 0.0f;
  if (i < r.points)
    for (int k = 0; k < *r.count; ++k) {
      const float before = static_cast<float>(start[r.channels[k] * r.points + i]);
      const float difference = fabsf(q[i * r.layout.stride + k] - before);
      largest = difference <= largest ? largest : difference;
    }
  atomicMax(reinterpret_cast<unsigned*>(change), bit_cast<unsigned>(largest));
}

__global__ void softmax(Rows r, const float* __restrict__ logits,  // (points, stride)
                        float* __restrict__ q) {                   // (points, stride)
  const std::int64_t i = thread_number();
  if (i >= r.points) return;
  const float* const own = logits + i * r.layout.stride;
  float* const result = q + i * r.layout.stride;
  const int used = r.layout.used_of(0);
  float largest = own[0], sum = 0.0f;
  for (int k = 1; k < used; ++k) largest = fmaxf(largest, own[k]);
  for (int k = 0; k < used; ++k) {
    result[k] = exp2f(own[k] - largest);
    sum += result[k];
  }
  const float factor = 1.0f / sum;
  for (int k = 0; k < used; ++k) result[k] *= factor;
}

// Adds a kernel's messages to the logits, or, for a matrix of gains, writes filtered values.
template <int group_size>
__global__ void slice(PointLattice lattice, Rows r, const float* __restrict__ norms,
                      const float* __restrict__ values,  // (vertices, stride)
                      const float* __restrict__ gains,   // (K): the diagonal of g, or null
                      float* __restrict__ target) {      // (points, stride)
  const std::int64_t i = thread_number() / group_size;
  if (i >= r.points) return;
  const std::int64_t first = i * lattice.corners;
  const int count = *r.count;
  for (int k = static_cast<int>(threadIdx.x) % group_size * 4; k < r.layout.used_of(0);
       k += group_size * 4) {
    float4 sum = all_of(0.0f);
    for (int c = 0; c < lattice.corners; ++c)
      sum = add4(sum, lattice.weights[first + c],
                 load4(values + r.layout.offset(lattice.rows[first + c]) + k));
    if (norms != nullptr) sum = add4(all_of(0.0f), norms[i], sum);
    float* const own = target + i * r.layout.stride + k;
    if (gains == nullptr) {
      store4(own, sum);
      continue;
    }
    const float four[] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (k + j < count)
        own[j] += gains[r.channels[k + j]] * static_cast<float>(log2_of_e) * four[j];
  }
}

__global__ void add_products(Rows r, std::int64_t all,
                             const float* __restrict__ filtered,  // (points, stride)
                             const float* __restrict__ gains,     // (K, K)
                             float* __restrict__ logits) {        // (points, stride)
  const std::int64_t value = thread_number();
  if (value >= r.values()) return;
  const std::int64_t i = value / r.layout.stride, k = value % r.layout.stride;
  const int count = *r.count;
  if (k >= count) return;
  float sum = logits[value];
  for (int l = 0; l < count; ++l)
    sum += gains[r.channels[k] * all + r.channels[l]] * static_cast<float>(log2_of_e) *
           filtered[i * r.layout.stride + l];
  logits[value] = sum;
}

// ---- energies ----

// What the logits of a point were counted from, in units of ln 2.
template <class T>
__device__ double lowest_energy(const Rows& r, const T* scores, std::int64_t i, bool energies,
                                float epsilon) {
  double best = load(scores[i]);
  for (int k = 1; k < *r.count; ++k) {
    const double value = load(scores[r.channels[k] * r.points + i]);
    best = energies ? Smaller()(best, value) : Larger()(best, value);
  }
  if (energies) return best * log2_of_e;
  const auto least = static_cast<double>(epsilon);
  return -log2(best < least ? least : best > 1.0 ? 1.0 : best);
}

// A block sums those of its points.
template <class T>
__global__ void energies_of_blocks(Rows r, const T* __restrict__ scores,  // (K, N)
                                   const float* __restrict__ q,           // (points, stride)
                                   const float* __restrict__ logits,      // (points, stride)
                                   bool energies, float epsilon,
                                   double* __restrict__ parts) {  // (blocks)
  const std::int64_t i = thread_number();
  double sum = 0;
  if (i < r.points) {
    sum = lowest_energy(r, scores, i, energies, epsilon);
    for (int k = 0; k < *r.count; ++k) {
      const auto p = static_cast<double>(q[i * r.layout.stride + k]);
      if (!(p <= 1e-30))
        sum += p * (log2(p) - static_cast<double>(logits[i * r.layout.stride + k]));
    }
  }
  sum = reduce_block(sum, Plus());
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block.
__global__ void sum_energies(const double* __restrict__ parts, std::int64_t count,
                             double* __restrict__ energy) {  // (1)
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += block_size) sum += parts[i];
  sum = reduce_block(sum, Plus());
  if (threadIdx.x == 0) *energy = sum / log2_of_e;
}

// ---- mean field ----

// One kernel of the CRF in a call.
struct Term {
  PointLattice lattice;
  CrfNormalisation normalisation;
  const float* gains;
  bool is_diagonal;

  Term(const CrfTerm& term, std::int64_t points, Arena arena)
      : lattice(term.filter->d, points, of_lattice(term.filter->normalisation), arena),
        normalisation(term.filter->normalisation),
        gains(term.gains),
        is_diagonal(term.is_diagonal) {}

  const float* norms(CrfNormalisation where) const {
    return normalisation == where ? lattice.norms : nullptr;
  }
};

// The arrays of a call. `points`: as one row of pixels, for the kernels of crf_maps.h.
struct Workspace {
  Workspace(const CrfFeaturesParams& p, std::int64_t entries, bool with_matrix, bool with_energy,
            Arena& arena)
      : stride(ceil_div(p.channels, 4) * 4),
        points(1, 1, p.points, FilterParams{}, arena),
        classes{stride, arena.take<std::int32_t>(stride), arena.take<std::int32_t>(1),
                arena.take<std::int32_t>(1)} {
    const std::int64_t values = points.tiles() * tile_pixels * stride;
    for (float** rows : {&unary, &logits, &q}) *rows = arena.take<float>(values);
    filtered = with_matrix ? arena.take<float>(values) : nullptr;
    for (float*& each : vertices) each = arena.take<float>(entries * stride);
    parts = with_energy ? arena.take<double>(ceil_div(p.points, block_size)) : nullptr;
  }

  std::int64_t stride;
  Lattice points;
  ClassLists classes;
  float *unary, *logits, *q, *filtered;  // (points, stride)
  float* vertices[2];                    // (entries of the largest lattice, stride)
  double* parts;
};

void add_messages(const Term& term, const Rows& rows, const Workspace& w, std::int64_t channels,
                  cudaStream_t stream) {
  const float* const values =
      splat_and_blur(term.lattice, w.q, term.norms(CrfNormalisation::before), w.vertices[0],
                     w.vertices[1], rows.layout, stream);
  with_group_size(rows.layout, [&](auto size) {
    constexpr int group_size = decltype(size)::value;
    launch(slice<group_size>, ceil_div(rows.points * group_size, block_size), block_size, stream,
           term.lattice, rows, term.norms(CrfNormalisation::after), values,
           term.is_diagonal ? term.gains : nullptr, term.is_diagonal ? w.logits : w.filtered);
  });
  if (!term.is_diagonal)
    launch(add_products, ceil_div(rows.points * w.stride, block_size), block_size, stream, rows,
           channels, w.filtered, term.gains, w.logits);
}

}  // namespace

std::int64_t crf_filter_bytes(int d, std::int64_t points, CrfNormalisation normalisation) {
  Arena arena(nullptr);
  const PointLattice lattice(d, points, of_lattice(normalisation), arena);
  return arena.used();
}

void crf_filter(const float* features, std::int64_t points, const CrfFilter& filter,
                Context& context) {
  Arena arena(filter.memory);
  const PointLattice lattice(filter.d, points, of_lattice(filter.normalisation), arena);
  lattice.build(features, of_lattice(filter.normalisation),
                context.allocate(lattice.scratch_bytes()), context.stream);
}

template <class T>
void crf_photo_features(const T* photo, float* features, std::int64_t height, std::int64_t width,
                        float sx, float sy, const std::vector<float>& channel_widths,
                        Context& context) {
  const auto channels = static_cast<int>(channel_widths.size());
  const int x_row = channels == 3 || channels == 0 ? 0 : 1;
  for (int channel = -1; channel < channels; ++channel)
    launch(photo_features<T>, ceil_div(height * width, block_size), block_size, context.stream,
           photo, features, height * width, width, channels, x_row, sx, sy, channel,
           channel < 0 ? 1.0f : channel_widths[static_cast<std::size_t>(channel)]);
}

template <class T>
bool crf_features(const T* scores, const std::uint8_t* present, const marginal_type<T>* start,
                  marginal_type<T>* out, double* energy, float* change,
                  const std::vector<CrfTerm>& listed, const CrfFeaturesParams& p,
                  Context& context) {
  std::vector<Term> terms;
  std::int64_t entries = 0;
  bool with_matrix = false;
  for (const CrfTerm& term : listed) {
    terms.emplace_back(term, p.points, Arena(term.filter->memory));
    entries = std::max(entries, terms.back().lattice.entries());
    with_matrix = with_matrix || !term.is_diagonal;
  }
  Arena sizes(nullptr);
  static_cast<void>(Workspace(p, entries, with_matrix, energy != nullptr, sizes));
  Arena arena(context.allocate(sizes.used()));
  const Workspace w(p, entries, with_matrix, energy != nullptr, arena);
  const cudaStream_t stream = context.stream;
  const Rows rows{p.points, w.classes.channels, w.classes.counts,
                  ValueRows{static_cast<std::uint32_t>(w.stride), w.classes.rounded}};
  const auto for_points = [&](auto kernel, auto... arguments) {
    launch(kernel, ceil_div(p.points, block_size), block_size, stream, rows, arguments...);
  };

  list_classes(w.classes, 1, p.channels, present, stream);
  CrfParams reading{};
  reading.channels = p.channels;
  reading.energies = p.energies;
  reading.epsilon = p.epsilon;
  read_scores(w.points, w.classes, reading, scores, w.unary, stream);
  if (start == nullptr)
    for_points(softmax, w.unary, w.q);
  else
    for_points(read_start<marginal_type<T>>, start, w.q);

  // The energy of a Q needs its messages.
  const std::int64_t last = p.iterations + (p.energy_of_result ? 1 : 0);
  for (std::int64_t i = 0; i < last; ++i) {
    check(cudaMemcpyAsync(w.logits, w.unary,
                          static_cast<std::size_t>(p.points * w.stride) * sizeof(float),
                          cudaMemcpyDeviceToDevice, stream));
    for (const Term& term : terms) add_messages(term, rows, w, p.channels, stream);
    if (energy != nullptr) {
      for_points(energies_of_blocks<T>, scores, w.q, w.logits, p.energies, p.epsilon, w.parts);
      launch(sum_energies, 1, block_size, stream, w.parts, ceil_div(p.points, block_size),
             energy + i);
    }
    if (i < p.iterations) for_points(softmax, w.logits, w.q);
  }
  if (change != nullptr) {
    check(cudaMemsetAsync(change, 0, sizeof *change, stream));
    for_points(find_change<marginal_type<T>>, start, w.q, change);
  }
  write_results(w.points, w.classes, p.channels, w.q, out, stream);
  return true;
}

template void crf_photo_features(const std::uint8_t*, float*, std::int64_t, std::int64_t, float,
                                 float, const std::vector<float>&, Context&);
template void crf_photo_features(const std::uint16_t*, float*, std::int64_t, std::int64_t, float,
                                 float, const std::vector<float>&, Context&);
template void crf_photo_features(const half*, float*, std::int64_t, std::int64_t, float, float,
                                 const std::vector<float>&, Context&);
template void crf_photo_features(const float*, float*, std::int64_t, std::int64_t, float, float,
                                 const std::vector<float>&, Context&);
template void crf_photo_features(const double*, float*, std::int64_t, std::int64_t, float, float,
                                 const std::vector<float>&, Context&);

template bool crf_features(const half*, const std::uint8_t*, const float*, float*, double*, float*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const float*, const std::uint8_t*, const float*, float*, double*, float*,
                           const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);
template bool crf_features(const double*, const std::uint8_t*, const double*, double*, double*,
                           float*, const std::vector<CrfTerm>&, const CrfFeaturesParams&, Context&);

}  // namespace cuekit::cuda
