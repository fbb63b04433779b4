// The dense CRF of cuekit/crf.h on a GPU, a batch of images.
//
// An iteration is five launches, whatever the batch and the number of classes:
//
//   mean_field    every pixel slices its 9 vertices, adds the unary and takes the softmax; every
//                 tile splats its Q, which is in shared memory, into its copies (crf_mean_field.cu)
//   join          every vertex sums its copies (lattice_filter.cu)
//   blur, 3 times all axes of all lattices (lattice_filter.cu)
//
// All classes of a pixel, vertex or copy are side by side in a row of floats. An image has the
// background and its present classes, rounded up to a multiple of 4 with classes of probability 0;
// the rest of a row is neither read nor written. The weights of the filters and their normalisation
// are part of the lattices' weights. Values of vertices and copies can be stored as float16, which
// halves their memory traffic; sums, unaries and Q are float32.
//
// Traffic of an iteration, for N pixels, M vertices, C copies and L classes (rounded):
//
//   memory   N (4 L + 100) bytes of unaries, rows, weights and order, and 8 L C of copies, written
//            and read
//   caches   36 L N bytes of sliced vertices, mostly in L1, because neighbouring pixels share them;
//            as much to splat, from shared memory; 4 L M for each vertex that join and blur write
//            or read, 5 to 20 of them
//
// A textured photo of 375 x 500 has M = 0.25 N and C = 1.7 N at 80/13. With 21 classes this is 37 +
// 62 MB of memory traffic, 0.023 ms at 4.3 TB/s if nothing were left in L2, and 162 + 162 + 50 MB
// of cache traffic, 0.01 to 0.02 ms at 128 bytes per cycle and multiprocessor. So ten iterations
// take at least 0.25 ms. Fifty dependent launches add about 0.1 ms.
//
// Workspace per pixel, for both filters: 76 L + 860 bytes, L for all classes, and 4 L more above 32
// classes; with float16, 40 L + 860. A batch is divided into parts of at most 4 GB of workspace, at
// least one photo each.
#include <algorithm>
#include <utility>

#include "arena.h"
#include "crf_maps.h"
#include "crf_mean_field.h"
#include "cuekit/crf.h"
#include "lattice.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

// Weights for logits in units of ln 2. Without iterations there is nothing to filter.
FilterParams filters_of(const CrfParams& p) {
  const float unit = static_cast<float>(log2_of_e) * (p.iterations > 0 ? 1.0f : 0.0f);
  return {p.gaussian_weight * unit, p.gaussian_sxy, p.bilateral_weight * unit, p.bilateral_sxy,
          p.bilateral_srgb};
}

// The arrays for `images` photos at a time. V: what values of vertices and copies are stored as.
template <class V>
struct Workspace {
  Workspace(const CrfParams& p, const FilterParams& filters, std::int64_t images, Arena& arena)
      : stride(ceil_div(p.channels, 4) * 4),
        lattice(images, p.height, p.width, filters, arena),
        classes{stride, arena.take<std::int32_t>(images * stride), arena.take<std::int32_t>(images),
                arena.take<std::int32_t>(images)},
        unary(arena.take<float>(lattice.tiles() * tile_pixels * stride)),
        logits(stride <= classes_in_registers
                   ? nullptr
                   : arena.take<float>(lattice.tiles() * tile_pixels * stride)),
        values(arena.take<V>(std::max(2 * lattice.entries() * stride,
                                      ceil_div(lattice.scratch_bytes(), sizeof(V))))) {}

  std::int64_t stride;
  Lattice lattice;
  ClassLists classes;
  float* unary;   // (tiles, tile_pixels, stride)
  float* logits;  // (tiles, tile_pixels, stride), or null
  V* values;      // (2, entries, stride), and the scratch of Lattice::build()
};

template <class V>
std::int64_t bytes_for(const CrfParams& p, const FilterParams& filters, std::int64_t images) {
  Arena arena(nullptr);
  const Workspace<V> workspace(p, filters, images, arena);
  return arena.used();
}

// As many photos as 4 GB of workspace hold: fewer than that fill any GPU.
template <class V>
std::int64_t images_at_a_time(const CrfParams& p, const FilterParams& filters) {
  constexpr std::int64_t most_bytes = std::int64_t{1} << 32;
  return std::clamp<std::int64_t>(most_bytes / bytes_for<V>(p, filters, 1), 1, p.batch);
}

template <class V, class T>
void infer_part(const T* scores,              // (images, K, H, W)
                const std::uint8_t* photos,   // (images, H, W, 3)
                const std::uint8_t* present,  // (images, K - 1)
                marginal_type<T>* out,        // (images, K, H, W)
                const CrfParams& p, const FilterParams& filters, const Workspace<V>& workspace,
                cudaStream_t stream) {
  const Lattice& lattice = workspace.lattice;
  const ClassLists& classes = workspace.classes;
  const ValueRows layout{static_cast<std::uint32_t>(workspace.stride), classes.rounded};
  list_classes(classes, lattice.images, p.channels, present, stream);
  read_scores(lattice, classes, p, scores, workspace.unary, stream);
  MeanField<V> mean_field{
      lattice, workspace.unary, workspace.logits, layout, nullptr, nullptr, false, false};
  if (lattice.corners() > 0) {
    lattice.build(photos, filters, workspace.values, stream);
    // Filtering is in place: the splatted values of one iteration are the sliced ones of the next.
    V* splatted = workspace.values;
    V* other = workspace.values + lattice.entries() * workspace.stride;
    for (std::int64_t i = 0; i < p.iterations; ++i) {
      mean_field.slice = i > 0;
      mean_field.splat = true;
      mean_field.values = other;
      mean_field.copies = splatted;
      launch_mean_field(mean_field, stream);
      join_and_blur(lattice, splatted, other, layout, stream);
      std::swap(splatted, other);
    }
    mean_field.slice = true;
    mean_field.splat = false;
    mean_field.values = other;
  }
  launch_mean_field(mean_field, stream);
  write_results(lattice, classes, p.channels, workspace.unary, out, stream);
}

template <class V, class T>
void infer(const T* scores, const std::uint8_t* photos, const std::uint8_t* present,
           marginal_type<T>* out, const CrfParams& p, Context& context) {
  const FilterParams filters = filters_of(p);
  const std::int64_t pixels = p.height * p.width, step = images_at_a_time<V>(p, filters);
  void* const memory = context.allocate(bytes_for<V>(p, filters, step));
  for (std::int64_t first = 0; first < p.batch; first += step) {
    Arena arena(memory);
    const Workspace<V> workspace(p, filters, std::min(step, p.batch - first), arena);
    const std::int64_t map = first * p.channels * pixels;
    infer_part(scores + map, photos + 3 * first * pixels, present + first * (p.channels - 1),
               out + map, p, filters, workspace, context.stream);
  }
}

}  // namespace

template <class T>
bool crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present,
         marginal_type<T>* out, const CrfParams& p, Context& context) {
  if (p.half_storage)
    infer<half>(scores, photos, present, out, p, context);
  else
    infer<float>(scores, photos, present, out, p, context);
  return true;
}

template bool crf(const half*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const float*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const double*, const std::uint8_t*, const std::uint8_t*, double*,
                  const CrfParams&, Context&);

}  // namespace cuekit::cuda
