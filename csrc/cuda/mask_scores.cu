// Scores of masks by maps (equation: cuekit/mask_scores.h).
//
//   resize_taps      the taps, or nearest sources, for every row and column of the masks
//   cue_levels       floating maps: every block finds the value above which one map's cue is on
//   tally_pieces     every block adds up one piece of one mask, for up to 8 classes: values, pixels
//                    in the cues, and pixels. One more mask that covers everything gives |P|
//   combine_pieces   every thread adds up the pieces of one mask for one class, and writes the
//                    scores
//   average_largest  floating maps, if wanted: every block finds the n-th largest value of one map
//                    under one mask, by radix selection over the bits of float64, 11 at a time with
//                    integer counts; then it adds up the larger values
//
// The order of additions is fixed, but it is not the CPU's: sums differ by the rounding of float64.
//
// Workspace: the members of struct Workspace.
#include "arena.h"
#include "cuekit/half.h"
#include "cuekit/mask_scores.h"
#include "cuekit/resize.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

constexpr int classes_per_block = 8;

// Groups of classes that one block takes together. At least one: areas do not need classes.
__host__ __device__ inline std::int64_t class_groups(const MaskScoresParams& p) {
  return p.classes > 0 ? (p.classes + classes_per_block - 1) / classes_per_block : 1;
}

// One thread per row and per column of the masks.
__global__ void resize_taps(BilinearTap* taps,  // (H + W): of the rows, then of the columns
                            bool nearest, MaskScoresParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= p.height + p.width) return;
  const bool is_row = i < p.height;
  const std::int64_t index = is_row ? i : i - p.height;
  const std::int64_t in = is_row ? p.in_height : p.in_width;
  const std::int64_t out = is_row ? p.height : p.width;
  if (nearest) {
    const std::int64_t source = nearest_source(index, in, out);
    taps[i] = {source, source, 0.0};
  } else {
    taps[i] = bilinear_tap(index, in, out);
  }
}

// Reads maps at a pixel of the masks.
template <class T>
struct Sampler {
  const T* maps;            // (B * C, h * w)
  const BilinearTap* taps;  // (H + W)
  bool same_size;
  std::int64_t in_pixels, in_width, height, width;

  __device__ double value(std::int64_t map, std::int64_t pixel) const {
    const T* source = maps + map * in_pixels;
    if (same_size) return read(source[pixel]);
    const BilinearTap row = taps[pixel / width], column = taps[height + pixel % width];
    const T* above = source + row.low * in_width;
    const T* below = source + row.high * in_width;
    const double left = interpolate(read(above[column.low]), read(below[column.low]), row.weight);
    const double right =
        interpolate(read(above[column.high]), read(below[column.high]), row.weight);
    return interpolate(left, right, column.weight);
  }

 private:
  static __device__ double read(std::uint8_t value) { return value != 0 ? 1.0 : 0.0; }
  template <class Floating>
  static __device__ double read(Floating value) {
    return load(value);
  }
};

// One block per map. Levels of maps of bytes are 0.
template <class T>
__global__ void cue_levels(const T* __restrict__ maps,  // (B * C, h * w)
                           MaskScoresParams p,
                           double* __restrict__ levels) {  // (B * C)
  const std::int64_t map = blockIdx.x, in_pixels = p.in_height * p.in_width;
  double best = 0.0;
  for (std::int64_t i = threadIdx.x; i < in_pixels; i += block_size)
    best = Larger()(best, load(maps[map * in_pixels + i]));
  best = reduce_block(best, Larger());
  if (threadIdx.x == 0) levels[map] = Larger()(0.0, p.threshold * best);
}

// Sums and counts of the pieces of all masks.
struct Pieces {
  std::int64_t per_image;  // pieces of one mask
  double* sums;            // (B, R + 1, pieces, C)
  std::uint32_t* counts;   // (B, R + 1, pieces, C): pixels in the cues
  std::uint32_t* sizes;    // (B, R + 1, pieces)
};

template <class T>
__global__ void __launch_bounds__(block_size)
    tally_pieces(Sampler<T> sampler,
                 const std::uint8_t* __restrict__ masks,  // (B, R, H * W)
                 const double* __restrict__ levels,       // (B, C), or null: 0
                 MaskScoresParams p, Pieces pieces) {
  constexpr int warps = block_size / warp_size;
  __shared__ double warp_sums[classes_per_block][warps];
  __shared__ std::uint32_t warp_counts[classes_per_block + 1][warps];
  const std::int64_t groups = class_groups(p);
  const std::int64_t group = blockIdx.x % groups;
  const std::int64_t row = blockIdx.x / groups;  // of sizes
  const std::int64_t piece = row % pieces.per_image;
  const std::int64_t mask = row / pieces.per_image % (p.masks + 1);
  const std::int64_t image = row / pieces.per_image / (p.masks + 1);
  const std::int64_t pixels = p.height * p.width;
  const std::int64_t first_class = group * classes_per_block;
  const auto last = static_cast<int>(p.classes - 1 - first_class);  // of the block, if below 8
  const std::int64_t first_map = image * p.classes + first_class;
  const std::uint8_t* covered = masks + (image * p.masks + mask) * pixels;

  double level[classes_per_block], sum[classes_per_block] = {};
  std::uint32_t count[classes_per_block + 1] = {};  // the last one: of all pixels
#pragma unroll
  for (int j = 0; j < classes_per_block; ++j)
    level[j] = levels != nullptr && j <= last ? levels[first_map + j] : 0.0;
  for (int i = 0; i < pixels_per_reduction / block_size; ++i) {
    const std::int64_t pixel = piece * pixels_per_reduction + i * block_size + threadIdx.x;
    if (pixel >= pixels) break;
    if (mask < p.masks && covered[pixel] == 0) continue;
    ++count[classes_per_block];
#pragma unroll
    for (int j = 0; j < classes_per_block; ++j) {
      if (j > last) break;
      const double value = sampler.value(first_map + j, pixel);
      sum[j] += value;
      count[j] += value > level[j] ? 1u : 0u;
    }
  }

  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
#pragma unroll
  for (int j = 0; j <= classes_per_block; ++j) {
    const std::uint32_t total = reduce_warp(count[j], Plus());
    if (lane == 0) warp_counts[j][warp] = total;
    if (j < classes_per_block) {
      const double warp_sum = reduce_warp(sum[j], Plus());
      if (lane == 0) warp_sums[j][warp] = warp_sum;
    }
  }
  __syncthreads();
  const auto j = static_cast<int>(threadIdx.x);
  if (j > classes_per_block) return;
  std::uint32_t block_count = 0;
  for (int w = 0; w < warps; ++w) block_count += warp_counts[j][w];
  if (j == classes_per_block) {
    if (group == 0) pieces.sizes[row] = block_count;
  } else if (j <= last) {
    double block_sum = 0.0;
    for (int w = 0; w < warps; ++w) block_sum += warp_sums[j][w];
    pieces.sums[row * p.classes + first_class + j] = block_sum;
    pieces.counts[row * p.classes + first_class + j] = block_count;
  }
}

// One thread per mask and class, or per mask where there are no classes.
__global__ void combine_pieces(Pieces pieces, bool bytes, MaskScoresParams p,
                               std::int64_t* __restrict__ area,  // (B, R)
                               double* __restrict__ mean,        // (B, R, C)
                               double* __restrict__ top_mean,    // (B, R, C), or null
                               double* __restrict__ inside,      // (B, R, C)
                               double* __restrict__ covered) {   // (B, R, C)
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t columns = p.classes > 0 ? p.classes : 1;
  const std::int64_t c = i % columns, mask = i / columns % p.masks, image = i / columns / p.masks;
  if (image >= p.batch) return;
  const std::int64_t row = (image * (p.masks + 1) + mask) * pieces.per_image;
  const std::int64_t all = (image * (p.masks + 1) + p.masks) * pieces.per_image;
  std::int64_t size = 0, both = 0, total = 0;
  double sum = 0.0;
  for (std::int64_t k = 0; k < pieces.per_image; ++k) {
    size += pieces.sizes[row + k];
    if (p.classes == 0) continue;
    both += pieces.counts[(row + k) * p.classes + c];
    total += pieces.counts[(all + k) * p.classes + c];
    sum += pieces.sums[(row + k) * p.classes + c];
  }
  if (c == 0) area[image * p.masks + mask] = size;
  if (p.classes == 0) return;
  mean[i] = quotient(sum, size);
  inside[i] = quotient(static_cast<double>(both), size);
  covered[i] = quotient(static_cast<double>(both), total);
  if (bytes && top_mean != nullptr) {  // the largest values are the ones
    const std::int64_t n = top_count(size, p.top);
    top_mean[i] = quotient(static_cast<double>(both < n ? both : n), n);
  }
}

// An unsigned integer that has the order of a value among others.
__device__ std::uint64_t key_of(double value) {
  constexpr std::uint64_t sign = std::uint64_t{1} << 63;
  const auto bits = bit_cast<std::uint64_t>(value);
  return (bits & sign) != 0 ? ~bits : bits | sign;
}
__device__ double value_of(std::uint64_t key) {
  constexpr std::uint64_t sign = std::uint64_t{1} << 63;
  return bit_cast<double>((key & sign) != 0 ? key & ~sign : ~key);
}

constexpr int digit_bits = 11;
constexpr int digits = 1 << digit_bits;
constexpr int digits_per_thread = digits / block_size;

// One block per mask and class.
template <class T>
__global__ void __launch_bounds__(block_size)
    average_largest(Sampler<T> sampler,
                    const std::uint8_t* __restrict__ masks,  // (B, R, H * W)
                    const std::int64_t* __restrict__ area,   // (B, R)
                    int passes,  // 11 bits in each; all lower bits of a key follow from its sign
                    MaskScoresParams p,
                    double* __restrict__ top_mean) {  // (B, R, C)
  __shared__ std::uint32_t counts[digits];            // keys that have each digit
  __shared__ std::uint32_t thread_counts[block_size];
  __shared__ std::int64_t chosen, still_wanted;
  const std::int64_t row = blockIdx.x / p.classes, c = blockIdx.x % p.classes;  // row: of area
  const std::int64_t map = row / p.masks * p.classes + c;
  const std::int64_t pixels = p.height * p.width;
  const std::uint8_t* covered = masks + row * pixels;
  const std::int64_t n = top_count(area[row], p.top);
  if (n == 0) {
    if (threadIdx.x == 0) top_mean[blockIdx.x] = 0.0;
    return;
  }

  std::uint64_t prefix = 0;  // the bits found so far, and zeros
  std::int64_t wanted = n;   // rank among the keys that have this prefix
  int shift = 64;            // the prefix is the bits from here on
  for (int pass = 0; pass < passes; ++pass) {
    const int above = shift;
    shift = above > digit_bits ? above - digit_bits : 0;
    for (int i = 0; i < digits_per_thread; ++i) counts[i * block_size + threadIdx.x] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < pixels; i += block_size) {
      if (covered[i] == 0) continue;
      const std::uint64_t key = key_of(sampler.value(map, i));
      const bool has_prefix = above == 64 || ((key ^ prefix) >> above) == 0;
      if (has_prefix) atomicAdd(counts + ((key >> shift) & (digits - 1)), 1u);
    }
    __syncthreads();
    // The last pass has fewer bits, and the digit above them is known: it is the prefix's.
    const int first = static_cast<int>(threadIdx.x) * digits_per_thread;
    std::uint32_t own = 0;
    for (int i = 0; i < digits_per_thread; ++i) own += counts[first + i];
    thread_counts[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      std::int64_t left = wanted;
      int t = block_size - 1;
      for (; t > 0 && left > thread_counts[t]; --t) left -= thread_counts[t];
      int digit = (t + 1) * digits_per_thread - 1;
      for (; digit > 0 && left > counts[digit]; --digit) left -= counts[digit];
      chosen = digit;
      still_wanted = left;
    }
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(chosen) << shift;
    wanted = still_wanted;
  }
  // Where not all bits were read, values are float32 or float16: their last bits are 0, and keys of
  // negative values have all bits flipped.
  if ((prefix >> 63) == 0) prefix |= (std::uint64_t{1} << shift) - 1;

  const double threshold = value_of(prefix);
  double sum = 0.0;
  std::int64_t larger = 0;
  for (std::int64_t i = threadIdx.x; i < pixels; i += block_size) {
    if (covered[i] == 0) continue;
    const double value = sampler.value(map, i);
    if (value > threshold) {
      sum += value;
      ++larger;
    }
  }
  sum = reduce_block(sum, Plus());
  larger = reduce_block(larger, Plus());
  if (threadIdx.x == 0)
    top_mean[blockIdx.x] = quotient(sum + static_cast<double>(n - larger) * threshold, n);
}

struct Workspace {
  Workspace(const MaskScoresParams& p, Arena& arena) : Workspace(p, rows_of(p), arena) {}

  Pieces pieces;
  double* levels;     // (B, C)
  BilinearTap* taps;  // (H + W)

 private:
  Workspace(const MaskScoresParams& p, std::int64_t rows, Arena& arena)
      : pieces{reductions_per_map(p.height * p.width), arena.take<double>(rows * p.classes),
               arena.take<std::uint32_t>(rows * p.classes), arena.take<std::uint32_t>(rows)},
        levels(arena.take<double>(p.batch * p.classes)),
        taps(arena.take<BilinearTap>(p.height + p.width)) {}

  static std::int64_t rows_of(const MaskScoresParams& p) {
    return p.batch * (p.masks + 1) * reductions_per_map(p.height * p.width);
  }
};

}  // namespace

template <class T>
bool mask_scores(const T* maps,              // (B, C, h, w)
                 const std::uint8_t* masks,  // (B, R, H, W)
                 std::int64_t* area,         // (B, R)
                 double* mean,               // (B, R, C)
                 double* top_mean,           // (B, R, C), or null
                 double* inside,             // (B, R, C)
                 double* covered,            // (B, R, C)
                 const MaskScoresParams& p, Context& context) {
  constexpr bool bytes = std::is_integral_v<T>;
  const cudaStream_t stream = context.stream;
  if (p.batch * p.masks == 0) return true;
  Arena sizes(nullptr);
  static_cast<void>(Workspace(p, sizes));
  Arena arena(context.allocate(sizes.used()));
  const Workspace workspace(p, arena);
  const Pieces& pieces = workspace.pieces;

  const bool same_size = p.in_height == p.height && p.in_width == p.width;
  const Sampler<T> sampler{maps,       workspace.taps, same_size, p.in_height * p.in_width,
                           p.in_width, p.height,       p.width};
  if (!same_size)
    launch(resize_taps, ceil_div(p.height + p.width, block_size), block_size, stream,
           workspace.taps, bytes, p);
  const double* levels = nullptr;
  if constexpr (!bytes) {
    launch(cue_levels<T>, p.batch * p.classes, block_size, stream, maps, p, workspace.levels);
    levels = workspace.levels;
  }
  launch(tally_pieces<T>, p.batch * (p.masks + 1) * pieces.per_image * class_groups(p), block_size,
         stream, sampler, masks, levels, p, pieces);
  const std::int64_t columns = p.classes > 0 ? p.classes : 1;
  launch(combine_pieces, ceil_div(p.batch * p.masks * columns, block_size), block_size, stream,
         pieces, bytes, p, area, mean, top_mean, inside, covered);
  if constexpr (!bytes) {
    if (top_mean != nullptr) {
      // float64 has 29 bits of the mantissa more than float32, which are 0 unless maps are resized.
      const bool short_keys = same_size && sizeof(T) < sizeof(double);
      launch(average_largest<T>, p.batch * p.masks * p.classes, block_size, stream, sampler, masks,
             static_cast<const std::int64_t*>(area), short_keys ? 4 : 6, p, top_mean);
    }
  }
  return true;
}

#define CUEKIT_INSTANTIATE(T)                                                               \
  template bool mask_scores(const T*, const std::uint8_t*, std::int64_t*, double*, double*, \
                            double*, double*, const MaskScoresParams&, Context&);
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cuda
