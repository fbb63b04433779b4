// The bilateral filter of cuekit/bilateral_filter.h on a GPU, a batch of photos, on the lattices of
// the CRF (lattice.h), in float32.
//
//   splat         every tile reads its pixels' values into shared memory and sums its copies
//   join, blur    lattice_filter.cu
//   slice         every pixel of a tile sums its six vertices; results go to the maps by way of
//                 shared memory, so that neighbouring threads write neighbouring pixels
//
// Up to 32 channels are filtered at a time, their values side by side in rows of `stride` floats;
// more channels follow on the same lattices. Building the lattices takes some twenty launches, the
// filter six.
//
// Traffic to memory for N pixels, C copies and L channels at a time (rounded to a multiple of 4): 8
// L N bytes of maps, some 100 N of rows, weights and order, and 8 L C of copies, written and read.
// Textured photos have 1.5 to 4 copies per pixel.
//
// Workspace per pixel: 48 L + 560 bytes. A batch is divided into parts of at most 4 GB of
// workspace, at least one photo each.
#include <algorithm>
#include <type_traits>

#include "arena.h"
#include "cuekit/bilateral_filter.h"
#include "lattice.h"
#include "lattice_tile.h"
#include "launch.h"
#include "value_rows.h"

namespace cuekit::cuda {
namespace {

constexpr std::int64_t most_channels = 32;  // at a time

// Some channels of a batch of maps, (images, K, H, W).
struct Channels {
  std::int64_t all;           // K
  std::int64_t first, count;  // channels [first, first + count)
};

// Rows in shared memory are 4 floats longer than their values, so that threads that write or read
// rows of neighbouring pixels use different banks.
template <int channels>
constexpr int row_length = channels + 4;

// Threads that sum one copy.
template <int channels>
constexpr int copy_threads = channels <= 4    ? 1
                             : channels <= 8  ? 2
                             : channels <= 16 ? 4
                                              : 8;

// Where pixel i of a tile is in the first of the channels.
__device__ std::int64_t offset_in_maps(const Lattice& lattice, const Channels& channels,
                                       std::int64_t tile, int i) {
  const Lattice::Position p = lattice.position(tile, i);
  const std::int64_t image = tile / lattice.tiles_per_image;
  return (image * channels.all + channels.first) * lattice.pixels() +
         std::int64_t{p.y} * lattice.width + p.x;
}

// A block has one tile. `most`: the number of channels rounded up to a multiple of 8, or 4.
template <int most, class T>
__global__ void __launch_bounds__(block_size)
    splat(Lattice lattice, Channels channels, bool normalised,
          const T* __restrict__ values,  // (images, K, H, W)
          float* __restrict__ copies,    // (entries, stride)
          ValueRows layout) {
  constexpr int length = row_length<most>;
  __shared__ float4 rows_of_tile[tile_pixels * length / 4];
  __shared__ float weights[bilateral_corners * tile_pixels];
  float* const rows = &rows_of_tile[0].x;
  const std::int64_t tile = blockIdx.x, pixels = lattice.pixels();
  const int i = static_cast<int>(threadIdx.x) % tile_pixels;
  const auto count = static_cast<int>(channels.count);
  load_weights(lattice, tile, block_size, weights);
  if (i < lattice.pixels_in(tile)) {
    const T* const pixel = values + offset_in_maps(lattice, channels, tile, i);
    const float factor = normalised ? lattice.norms[tile * tile_pixels + i] : 1.0f;
    for (int k = static_cast<int>(threadIdx.x) / tile_pixels * 4; k < most;
         k += block_size / tile_pixels * 4) {
      const auto value = [&](int c) {
        return c < count ? static_cast<float>(load(pixel[c * pixels])) * factor : 0.0f;
      };
      store4(rows + i * length + k, {value(k), value(k + 1), value(k + 2), value(k + 3)});
    }
  }
  __syncthreads();
  splat_tile<copy_threads<most>, length>(lattice, tile, block_size, static_cast<int>(layout.stride),
                                         weights, rows, copies, layout);
}

// A block has one tile.
template <int most, class Out>
__global__ void __launch_bounds__(block_size)
    slice(Lattice lattice, Channels channels, bool normalised,
          const float* __restrict__ filtered,  // (vertices, stride)
          Out* __restrict__ out,               // (images, K, H, W)
          ValueRows layout) {
  constexpr int length = row_length<most>, parts = most / 4;
  __shared__ float4 rows_of_tile[tile_pixels * length / 4];
  float* const rows = &rows_of_tile[0].x;
  const std::int64_t tile = blockIdx.x, pixels = lattice.pixels();
  const int inside = lattice.pixels_in(tile);
  for (int j = static_cast<int>(threadIdx.x); j < inside * parts; j += block_size) {
    const int i = j / parts, k = j % parts * 4;
    if (k >= static_cast<int>(layout.stride)) continue;
    const std::int64_t entry = lattice.entry(tile, 0) + i;
    float4 sum = all_of(0.0f);
#pragma unroll
    for (int corner = 0; corner < bilateral_corners; ++corner) {
      const std::int64_t at = entry + corner * tile_pixels;
      sum = add4(sum, lattice.weights[at], load4(filtered + layout.offset(lattice.rows[at]) + k));
    }
    store4(rows + i * length + k, sum);
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x) % tile_pixels;
  if (i >= inside) return;
  Out* const pixel = out + offset_in_maps(lattice, channels, tile, i);
  const float factor = normalised ? lattice.norms[tile * tile_pixels + i] : 1.0f;
  const auto count = static_cast<int>(channels.count);
  for (int k = static_cast<int>(threadIdx.x) / tile_pixels * 4; k < count;
       k += block_size / tile_pixels * 4) {
    const float4 four = load4(rows + i * length + k);
    const float results[] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (k + c < count) pixel[(k + c) * pixels] = static_cast<Out>(results[c] * factor);
  }
}

FilterParams filters_of(const BilateralFilterParams& p) {
  return {0.0f, 1.0f, 1.0f, p.sxy, p.srgb, p.normalize ? Normalisation::mean : Normalisation::none};
}

// The arrays for `images` photos at a time.
struct Workspace {
  Workspace(const BilateralFilterParams& p, std::int64_t images, Arena& arena)
      : stride(ceil_div(std::min(p.channels, most_channels), 4) * 4),
        lattice(images, p.height, p.width, filters_of(p), arena),
        values(arena.take<float>(std::max(
            2 * lattice.entries() * stride,
            ceil_div(lattice.scratch_bytes(), static_cast<std::int64_t>(sizeof(float)))))) {}

  std::int64_t stride;
  Lattice lattice;
  float* values;  // (2, entries, stride), and the scratch of Lattice::build()
};

std::int64_t bytes_for(const BilateralFilterParams& p, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace workspace(p, images, arena);
  return arena.used();
}

// As many photos as 4 GB of workspace hold: fewer than that fill any GPU.
std::int64_t images_at_a_time(const BilateralFilterParams& p) {
  constexpr std::int64_t most_bytes = std::int64_t{1} << 32;
  return std::clamp<std::int64_t>(most_bytes / bytes_for(p, 1), 1, p.batch);
}

template <int most, class T>
void filter_channels(const Lattice& lattice, const Channels& channels,
                     const BilateralFilterParams& p,
                     const T* values,        // (images, K, H, W)
                     filtered_type<T>* out,  // (images, K, H, W)
                     float* copies, float* scratch, cudaStream_t stream) {
  const ValueRows layout{static_cast<std::uint32_t>(ceil_div(channels.count, 4) * 4), nullptr};
  launch(splat<most, T>, lattice.tiles(), block_size, stream, lattice, channels,
         p.normalize && p.adjoint, values, copies, layout);
  join_and_blur(lattice, copies, scratch, layout, stream,
                p.adjoint ? AxisOrder::descending : AxisOrder::ascending);
  launch(slice<most, filtered_type<T>>, lattice.tiles(), block_size, stream, lattice, channels,
         p.normalize && !p.adjoint, copies, out, layout);
}

}  // namespace

template <class T>
bool bilateral_filter(const T* values, const std::uint8_t* photos, filtered_type<T>* out,
                      const BilateralFilterParams& p, Context& context) {
  const std::int64_t pixels = p.height * p.width, step = images_at_a_time(p);
  void* const memory = context.allocate(bytes_for(p, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(memory);
    const Workspace workspace(p, std::min(step, p.batch - first), arena);
    const Lattice& lattice = workspace.lattice;
    lattice.build(photos + 3 * first * pixels, filters_of(p), workspace.values, context.stream);
    float* const copies = workspace.values;
    float* const scratch = workspace.values + lattice.entries() * workspace.stride;
    const T* const maps = values + first * p.channels * pixels;
    filtered_type<T>* const results = out + first * p.channels * pixels;
    for (std::int64_t k = 0; k < p.channels; k += most_channels) {
      const Channels channels{p.channels, k, std::min(most_channels, p.channels - k)};
      const auto run = [&](auto most) {
        filter_channels<decltype(most)::value>(lattice, channels, p, maps, results, copies, scratch,
                                               context.stream);
      };
      if (channels.count <= 4) {
        run(std::integral_constant<int, 4>{});
      } else if (channels.count <= 8) {
        run(std::integral_constant<int, 8>{});
      } else if (channels.count <= 16) {
        run(std::integral_constant<int, 16>{});
      } else if (channels.count <= 24) {
        run(std::integral_constant<int, 24>{});
      } else {
        run(std::integral_constant<int, 32>{});
      }
    }
  }
  return true;
}

template bool bilateral_filter(const half*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const float*, const std::uint8_t*, float*,
                               const BilateralFilterParams&, Context&);
template bool bilateral_filter(const double*, const std::uint8_t*, double*,
                               const BilateralFilterParams&, Context&);

}  // namespace cuekit::cuda
