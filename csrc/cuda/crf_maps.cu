// The kernels of crf_maps.h. In those over pixels, a block has one tile and a thread one pixel.
#include <limits>

#include "crf_maps.h"
#include "crf_mean_field.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// A warp has one image.
__global__ void list_classes_of_image(
    ClassLists classes, std::int64_t channels,
    const std::uint8_t* __restrict__ present) {  // (images, K - 1)
  const std::int64_t image = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const std::uint8_t* const tags = present + image * (channels - 1);
  std::int32_t count = 0;
  for (std::int64_t first = 0; first < channels; first += warp_size) {
    const std::int64_t c = first + lane;
    const bool takes_part = c < channels && (c == 0 || tags[c - 1] != 0);
    const unsigned bits = __ballot_sync(all_lanes, takes_part);
    if (takes_part)
      classes.channels[image * classes.stride + count + __popc(bits & ((1u << lane) - 1u))] =
          static_cast<std::int32_t>(c);
    count += __popc(bits);
  }
  if (lane != 0) return;
  classes.counts[image] = count;
  classes.rounded[image] = (count + 3) / 4 * 4;
}

template <class T>
__device__ float log_of(T value, float epsilon) {
  const auto p = static_cast<float>(load(value));
  return log2f(p < epsilon ? epsilon : p > 1.0f ? 1.0f : p);
}

template <class T>
__global__ void read_tile(Lattice lattice, ClassLists classes, std::int64_t channels, bool energies,
                          float epsilon,
                          const T* __restrict__ scores,  // (images, K, H, W)
                          float* __restrict__ unary) {   // (tiles, tile_pixels, stride)
  const std::int64_t tile = blockIdx.x, image = tile / lattice.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= lattice.pixels_in(tile)) return;
  const Lattice::Position p = lattice.position(tile, i);
  const std::int64_t pixels = lattice.pixels();
  const T* const pixel =
      scores + image * channels * pixels + std::int64_t{p.y} * lattice.width + p.x;
  const std::int32_t* const channel = classes.channels + image * classes.stride;
  const std::int32_t count = classes.counts[image];
  // The lowest energy, or the largest probability.
  double best = load(pixel[0]);
#pragma unroll 4
  for (std::int32_t k = 1; k < count; ++k) {
    const double value = load(pixel[channel[k] * pixels]);
    best = energies ? Smaller()(best, value) : Larger()(best, value);
  }
  const float largest = energies ? 0.0f : log_of(best, epsilon);
  // Nothing is possible at this pixel. The caller has been told not to pass this; equal logits keep
  // NaN, which inf - inf is, out of the pixels around it.
  const bool none_possible = energies && best == infinity;
  float* const row = unary + (tile * tile_pixels + i) * classes.stride;
  for (std::int32_t first = 0; first < count; first += 4) {
    float logits[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      logits[j] = impossible;
      if (first + j >= count) continue;
      const T value = pixel[channel[first + j] * pixels];
      if (energies) {
        const double energy = none_possible ? 0.0 : (load(value) - best) * log2_of_e;
        logits[j] =
            energy > -static_cast<double>(impossible) ? impossible : static_cast<float>(-energy);
      } else {
        logits[j] = log_of(value, epsilon) - largest;
      }
    }
    store4(row + first, {logits[0], logits[1], logits[2], logits[3]});
  }
}

template <class Q>
__global__ void write_tile(Lattice lattice, ClassLists classes, std::int64_t channels,
                           const float* __restrict__ q,  // (tiles, tile_pixels, stride)
                           Q* __restrict__ out) {        // (images, K, H, W)
  const std::int64_t tile = blockIdx.x, image = tile / lattice.tiles_per_image;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= lattice.pixels_in(tile)) return;
  const Lattice::Position p = lattice.position(tile, i);
  const std::int64_t pixels = lattice.pixels();
  const float* const row = q + (tile * tile_pixels + i) * classes.stride;
  Q* const pixel = out + image * channels * pixels + std::int64_t{p.y} * lattice.width + p.x;
  const std::int32_t* const channel = classes.channels + image * classes.stride;
  const std::int32_t count = classes.counts[image];
  std::int64_t c = 0;
  for (std::int32_t first = 0; first < count; first += 4) {
    const float4 four = load4(row + first);
    const float values[] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j >= count) continue;
      for (; c < channel[first + j]; ++c) pixel[c * pixels] = Q{0};
      pixel[c++ * pixels] = static_cast<Q>(values[j]);
    }
  }
  for (; c < channels; ++c) pixel[c * pixels] = Q{0};
}

}  // namespace

void list_classes(const ClassLists& classes, std::int64_t images, std::int64_t channels,
                  const std::uint8_t* present, cudaStream_t stream) {
  launch(list_classes_of_image, images, warp_size, stream, classes, channels, present);
}

template <class T>
void read_scores(const Lattice& lattice, const ClassLists& classes, const CrfParams& p,
                 const T* scores, float* unary, cudaStream_t stream) {
  launch(read_tile<T>, lattice.tiles(), tile_pixels, stream, lattice, classes, p.channels,
         p.energies, p.epsilon, scores, unary);
}

template <class Q>
void write_results(const Lattice& lattice, const ClassLists& classes, std::int64_t channels,
                   const float* q, Q* out, cudaStream_t stream) {
  launch(write_tile<Q>, lattice.tiles(), tile_pixels, stream, lattice, classes, channels, q, out);
}

template void read_scores(const Lattice&, const ClassLists&, const CrfParams&, const half*, float*,
                          cudaStream_t);
template void read_scores(const Lattice&, const ClassLists&, const CrfParams&, const float*, float*,
                          cudaStream_t);
template void read_scores(const Lattice&, const ClassLists&, const CrfParams&, const double*,
                          float*, cudaStream_t);
template void write_results(const Lattice&, const ClassLists&, std::int64_t, const float*, float*,
                            cudaStream_t);
template void write_results(const Lattice&, const ClassLists&, std::int64_t, const float*, double*,
                            cudaStream_t);

}  // namespace cuekit::cuda
