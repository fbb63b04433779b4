// Local refinement (equations: cuekit/refine_local.h). One launch for the photos, one for the
// weights, one for the resized maps and one for each iteration.
//
//   read_photos    every thread converts one pixel's channels to planes of Real
//   find_weights   every thread computes the weights of one pixel, in the memory of the result
//   read_maps      every thread interpolates one value
//   iterate        every thread has one pixel and up to maps_per_thread maps: it loads a weight,
//   then
//                  the neighbour's value in each map. Threads of a warp are neighbours in a row, so
//                  loads of weights are coalesced, and those of values nearly; the rows that a
//                  block reads stay in L1
//
// All arithmetic is that of the CPU in its order, so results are the same bit by bit, up to
// denormals, which only the CPU flushes to zero.
//
// An iteration reads 48 weights (with six dilations) and, from L1, 48 values per map of every
// pixel: for 21 maps of 375 x 500, 36 MB of weights for each group of maps, from L2 where they fit,
// and 756 MB from L1. At 128 bytes per cycle and multiprocessor the latter takes some 0.025 ms.
//
// Workspace per pixel: weights, photo planes, and one or two copies of the maps, all in Real. The
// result is one of the two arrays that iterations alternate between, where its type is Real.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "arena.h"
#include "cuekit/refine_local.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

constexpr int maps_per_thread = 7;

template <class P, class Real>
__global__ void read_photos(const P* __restrict__ photos,  // (B, H, W, channels) or
                                                           // (B, channels, H, W)
                            Real* __restrict__ planes,     // (B, channels, H, W)
                            RefineLocalParams p) {
  const std::int64_t pixels = p.height * p.width, channels = p.photo_channels;
  const auto [image, pixel] = thread_position(pixels, 1);
  if (pixel >= pixels) return;
  const P* const source = photos + image * channels * pixels;
  Real* const target = planes + image * channels * pixels + pixel;
  for (std::int64_t c = 0; c < channels; ++c)
    target[c * pixels] =
        photo_value<Real>(source[p.channels_first ? c * pixels + pixel : pixel * channels + c]);
}

__device__ std::int64_t clamped(std::int64_t i, std::int64_t size) {
  return i < 0 ? 0 : i < size ? i : size - 1;
}

// Calls body(n, offset) for all neighbours n of a pixel, in ascending order; `offset` is from the
// plane's first pixel.
template <class Body>
__device__ void for_neighbours(const RefineLocalParams& p, std::int64_t pixel, Body body) {
  const std::int64_t y = pixel / p.width, x = pixel - y * p.width;
  for (int k = 0; k < p.dilation_count; ++k) {
    const std::int64_t d = p.dilations[k];
    const std::int64_t rows[3] = {clamped(y - d, p.height) * p.width, y * p.width,
                                  clamped(y + d, p.height) * p.width};
    const std::int64_t columns[3] = {clamped(x - d, p.width), x, clamped(x + d, p.width)};
#pragma unroll
    for (int i = 0; i < 8; ++i)
      body(8 * k + i, rows[direction_y(i) + 1] + columns[direction_x(i) + 1]);
  }
}

template <LocalAffinity affinity, class Real>
__global__ void find_weights(const Real* __restrict__ planes,  // (B, channels, H, W)
                             Real* __restrict__ weights,       // (B, neighbours, H, W)
                             RefineLocalParams p) {
  constexpr bool with_pixel = affinity == LocalAffinity::pamr;
  const std::int64_t pixels = p.height * p.width;
  const auto [image, pixel] = thread_position(pixels, 1);
  if (pixel >= pixels) return;
  const double dilations = p.dilation_count, samples = p.samples();
  Real* const w = weights + image * p.neighbours() * pixels + pixel;
  for (std::int64_t c = 0; c < p.photo_channels; ++c) {
    const Real* const plane = planes + (image * p.photo_channels + c) * pixels;
    const Real own = plane[pixel];
    double mean = with_pixel ? dilations * own : 0.0;
    for_neighbours(p, pixel, [&](int, std::int64_t offset) { mean += plane[offset]; });
    mean /= samples;
    const double own_difference = own - mean;
    double squares = with_pixel ? dilations * (own_difference * own_difference) : 0.0;
    for_neighbours(p, pixel, [&](int, std::int64_t offset) {
      const double difference = plane[offset] - mean;
      squares += difference * difference;
    });
    const Real deviation = static_cast<Real>(sqrt(squares / (samples - 1.0)));
    for_neighbours(p, pixel, [&](int n, std::int64_t offset) {
      const Real value = plane[offset];
      const Real term = affinity == LocalAffinity::par ? par_term(value, own, deviation)
                                                       : pamr_term(value, own, deviation);
      w[n * pixels] = c == 0 ? term : w[n * pixels] + term;
    });
  }
  const Real channels = static_cast<Real>(p.photo_channels);
  const int count = p.neighbours();
  Real largest{};
  for (int n = 0; n < count; ++n) {
    const Real a = mean_of_terms(w[n * pixels], channels);
    w[n * pixels] = a;
    largest = n == 0 || largest < a ? a : largest;
  }
  double total = 0.0;
  for (int n = 0; n < count; ++n) {
    const Real e = softmax_exp(w[n * pixels] - largest);
    total += e;
    w[n * pixels] = e;
  }
  const Real factor = static_cast<Real>(1.0 / total);
  for (int n = 0; n < count; ++n)
    w[n * pixels] = w[n * pixels] * factor + static_cast<Real>(distance_weight(p, n));
}

template <class T, class Out>
__global__ void read_maps(const T* __restrict__ maps,  // (B, C, h, w)
                          Out* __restrict__ values,    // (B, C, H, W)
                          RefineLocalParams p) {
  const std::int64_t pixels = p.height * p.width;
  const auto [map, pixel] = thread_position(pixels, 1);
  if (pixel >= pixels) return;
  const std::int64_t y = pixel / p.width, x = pixel - y * p.width;
  const CornerTap row = corner_tap(y, p.in_height, p.height);
  const CornerTap column = corner_tap(x, p.in_width, p.width);
  const T* const low = maps + (map * p.in_height + row.low) * p.in_width;
  const T* const high = maps + (map * p.in_height + row.high) * p.in_width;
  const double left = interpolate(load(low[column.low]), load(high[column.low]), row.weight);
  const double right = interpolate(load(low[column.high]), load(high[column.high]), row.weight);
  values[map * pixels + pixel] = store<Out>(interpolate(left, right, column.weight));
}

template <class Real, class Out>
__global__ void iterate(const Real* __restrict__ weights,  // (B, neighbours, H, W)
                        const Real* __restrict__ source,   // (B, C, H, W)
                        Out* __restrict__ target,          // (B, C, H, W)
                        RefineLocalParams p) {
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t groups = (p.channels + maps_per_thread - 1) / maps_per_thread;
  const auto [part, pixel] = thread_position(pixels, 1);  // part = image * groups + group
  if (pixel >= pixels) return;
  const std::int64_t image = part / groups, first = part % groups * maps_per_thread;
  const std::int64_t rest = p.channels - first;
  const int count = static_cast<int>(rest < maps_per_thread ? rest : maps_per_thread);
  const Real* const w = weights + image * p.neighbours() * pixels + pixel;
  const std::int64_t map = (image * p.channels + first) * pixels;
  Real sums[maps_per_thread] = {};
  for_neighbours(p, pixel, [&](int n, std::int64_t offset) {
    const Real weight = w[n * pixels];
    const Real* const values = source + map + offset;
#pragma unroll
    for (int k = 0; k < maps_per_thread; ++k)
      if (k < count) sums[k] += values[k * pixels] * weight;
  });
#pragma unroll
  for (int k = 0; k < maps_per_thread; ++k)
    if (k < count) target[map + k * pixels + pixel] = store<Out>(static_cast<double>(sums[k]));
}

// The arrays for some images at a time.
template <class T>
struct Workspace {
  using Real = refine_type<T>;
  static constexpr bool in_place = std::is_same_v<T, Real>;

  Workspace(const RefineLocalParams& p, Arena& arena) {
    if (p.iterations == 0) return;
    const std::int64_t pixels = p.batch * p.height * p.width;
    planes = arena.take<Real>(pixels * p.photo_channels);
    weights = arena.take<Real>(pixels * p.neighbours());
    first = arena.take<Real>(pixels * p.channels);
    if (!in_place && p.iterations > 1) second = arena.take<Real>(pixels * p.channels);
  }

  Real* planes = nullptr;   // (B, channels, H, W)
  Real* weights = nullptr;  // (B, neighbours, H, W)
  Real* first = nullptr;    // (B, C, H, W)
  Real* second = nullptr;   // (B, C, H, W); null where the result serves
};

// Refines a part of a batch; p.batch is its size.
template <class T, class P>
void refine_part(const T* maps, const P* photos, T* out, const RefineLocalParams& p,
                 const Workspace<T>& workspace, cudaStream_t stream) {
  using Real = refine_type<T>;
  const std::int64_t blocks = blocks_per_image(p.height * p.width, 1);
  const std::int64_t map_blocks = p.batch * p.channels * blocks;
  if (p.iterations == 0) {
    launch(read_maps<T, T>, map_blocks, block_size, stream, maps, out, p);
    return;
  }
  launch(read_photos<P, Real>, p.batch * blocks, block_size, stream, photos, workspace.planes, p);
  const auto weigh = p.affinity == LocalAffinity::par ? find_weights<LocalAffinity::par, Real>
                                                      : find_weights<LocalAffinity::pamr, Real>;
  launch(weigh, p.batch * blocks, block_size, stream, workspace.planes, workspace.weights, p);
  // The last iteration reads `source` and writes the result.
  Real *source = workspace.first, *other = workspace.second;
  if constexpr (Workspace<T>::in_place) other = out;
  if (p.iterations % 2 == 0) std::swap(source, other);
  launch(read_maps<T, Real>, map_blocks, block_size, stream, maps, source, p);
  const std::int64_t groups = ceil_div(p.channels, maps_per_thread);
  for (std::int64_t i = 1; i < p.iterations; ++i) {
    launch(iterate<Real, Real>, p.batch * groups * blocks, block_size, stream, workspace.weights,
           source, other, p);
    std::swap(source, other);
  }
  launch(iterate<Real, T>, p.batch * groups * blocks, block_size, stream, workspace.weights, source,
         out, p);
}

}  // namespace

template <class T, class P>
bool refine_local(const T* maps,    // (B, C, h, w)
                  const P* photos,  // (B, H, W, channels), or (B, channels, H, W)
                  T* out,           // (B, C, H, W)
                  const RefineLocalParams& p, Context& context) {
  constexpr std::int64_t most_bytes = std::int64_t{1} << 32;
  const auto bytes_for = [&](std::int64_t images) {
    RefineLocalParams part = p;
    part.batch = images;
    Arena arena(nullptr);
    const Workspace<T> workspace(part, arena);
    return arena.used();
  };
  const std::int64_t one = std::max<std::int64_t>(bytes_for(1), 1);
  const std::int64_t step = std::clamp<std::int64_t>(most_bytes / one, 1, p.batch);
  void* const memory = context.allocate(bytes_for(step));
  const std::int64_t in_size = p.channels * p.in_height * p.in_width;
  const std::int64_t pixels = p.height * p.width;
  for (std::int64_t first = 0; first < p.batch; first += step) {
    RefineLocalParams part = p;
    part.batch = std::min(step, p.batch - first);
    Arena arena(memory);
    const Workspace<T> workspace(part, arena);
    refine_part(maps + first * in_size, photos + first * p.photo_channels * pixels,
                out + first * p.channels * pixels, part, workspace, context.stream);
  }
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                                 \
  template bool refine_local(const T*, const std::uint8_t*, T*, const RefineLocalParams&,     \
                             Context&);                                                       \
  template bool refine_local(const T*, const half*, T*, const RefineLocalParams&, Context&);  \
  template bool refine_local(const T*, const float*, T*, const RefineLocalParams&, Context&); \
  template bool refine_local(const T*, const double*, T*, const RefineLocalParams&, Context&);
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
