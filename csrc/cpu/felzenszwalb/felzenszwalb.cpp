// Graph-based superpixels: Kruskal's algorithm with the merge rule of cuekit/felzenszwalb.h.
//
// The steps, in the order in which they run:
//   build_graph     smooths the photo (smooth), measures the costs of edges between neighbouring
//                   pixels (edge_costs) and unites mutual nearest neighbours (mutual_neighbours)
//   merge_patches   merges regions of a large photo patch by patch, as far as the result is certain
//   bucketed_edges  orders the edges by bucket, of which each holds nearly equal costs (buckets)
//   merge_by_cost   merges regions in ascending order of cost; sorts edges only where their order
//                   matters (candidates)
//   merge_small     merges regions that are smaller than min_size
//   number_regions  writes the labels
// What they share: the edges and their costs (graph), the regions as a union-find (forest).
#include "cuekit/felzenszwalb.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>

#include "bucketed_edges.h"
#include "build_graph.h"
#include "candidates.h"
#include "cpu/any_type.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"
#include "forest.h"
#include "graph.h"
#include "merge_by_cost.h"
#include "merge_patches.h"
#include "merge_small.h"

namespace cuekit::cpu {
namespace felzenszwalb_detail {
namespace {

// The arrays of one photo, 69 bytes per pixel. Not initialised. One block, which the workspace
// keeps for the next photo and puts on huge pages: accesses in order of cost are scattered over it.
struct Arrays {
  explicit Arrays(std::int64_t pixels)
      : block(pixels * bytes_per_pixel +
              MergeByCost::prefetch_distance * std::int64_t{sizeof(Edge)}),
        costs(reinterpret_cast<double*>(block.get())),
        regions(reinterpret_cast<Region*>(costs + Direction::count * pixels)),
        edges(reinterpret_cast<Edge*>(regions + pixels)),
        parents(reinterpret_cast<std::int32_t*>(edges + Direction::count * pixels +
                                                MergeByCost::prefetch_distance)),
        buckets(reinterpret_cast<Bucket*>(parents + pixels)),
        marks(reinterpret_cast<std::uint8_t*>(buckets + Direction::count * pixels)) {}

  static constexpr std::int64_t bytes_per_pixel =
      Direction::count * (sizeof(double) + sizeof(Edge) + sizeof(Bucket)) + sizeof(Region) +
      sizeof(std::int32_t) + sizeof(std::uint8_t);

  const Workspace<std::byte> block;
  double* const costs;          // (4, H, W)
  Region* const regions;        // (H, W)
  Edge* const edges;            // (4, H, W), and MergeByCost::prefetch_distance more
  std::int32_t* const parents;  // (H, W)
  Bucket* const buckets;        // (4, H, W)
  std::uint8_t* const marks;    // (H, W)
};

// Numbers the regions by first appearance in raster order.
void number_regions(const Forest& forest, std::int64_t pixels,
                    std::uint32_t* numbers,  // (H, W), workspace
                    std::int32_t* labels) {  // (H, W)
  constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  std::fill_n(numbers, pixels, none);
  std::uint32_t next = 0;
  polling_loop(0, pixels, [&](std::int64_t pixel) {
    std::uint32_t& number = numbers[forest.find_root(pixel)];
    if (number == none) number = next++;
    labels[pixel] = static_cast<std::int32_t>(number);
  });
}

// Segments one photo after the other in the same memory.
class Segmenter {
 public:
  explicit Segmenter(const FelzenszwalbParams& p)
      : p_(p),
        arrays_(p.height * p.width),
        graph_(p.height, p.width, arrays_.costs, arrays_.buckets),
        forest_{arrays_.parents, arrays_.regions},
        edges_(arrays_.edges),
        merge_by_cost_(p.scale, graph_, forest_, arrays_.marks) {
    std::fill_n(arrays_.marks, graph_.pixels, std::uint8_t{0});
  }

  void run(const Photo& photo,
           std::int32_t* labels) {  // (H, W)
    build_graph(photo, p_, graph_, forest_);
    if (graph_.pixels > max_cached_pixels)
      merge_patches(graph_, forest_, merge_by_cost_, edges_, candidates_);
    edges_.collect(graph_, graph_.whole());
    merge_by_cost_.run(graph_.whole(), edges_, candidates_);
    if (p_.min_size > 1) merge_small(p_.min_size, graph_, forest_, edges_, candidates_);
    number_regions(forest_, graph_.pixels, arrays_.edges, labels);
  }

 private:
  // Up to this size, what merge_by_cost accesses stays in the last-level cache.
  static constexpr std::int64_t max_cached_pixels = std::int64_t{1} << 21;

  const FelzenszwalbParams& p_;
  const Arrays arrays_;
  const Graph graph_;
  const Forest forest_;
  BucketedEdges edges_;
  Candidates candidates_;
  MergeByCost merge_by_cost_;
};

// Photos are independent tasks: each worker takes the next one when it has finished one.
bool segment_all(const Photo& photos,        // B of (H, W, C)
                 std::int32_t* superpixels,  // (B, H, W)
                 const FelzenszwalbParams& p, int threads,
                 bool (*is_finite)(const void* values, std::int64_t count)) {
  const std::int64_t pixels = p.height * p.width, values = pixels * p.channels;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> finite{true};
  parallel_for(std::min<std::int64_t>(threads, p.batch), threads, [&](std::int64_t) {
    if (next >= p.batch) return;
    Segmenter segmenter(p);
    for (std::int64_t b; (b = next.fetch_add(1)) < p.batch;) {
      Photo photo = photos;
      photo.values = static_cast<const char*>(photos.values) + b * values * photos.value_size;
      if (!is_finite(photo.values, values)) {
        finite = false;
        next = p.batch;  // stops the other workers, too
        return;
      }
      segmenter.run(photo, superpixels + b * pixels);
    }
  });
  return finite;
}

}  // namespace
}  // namespace felzenszwalb_detail

template <class T>
bool felzenszwalb(const T* photos,            // (B, H, W, C)
                  std::int32_t* superpixels,  // (B, H, W)
                  const FelzenszwalbParams& p, Context& context) {
  using namespace felzenszwalb_detail;
  return segment_all({photos, sizeof(T), convert<T>}, superpixels, p, context.threads,
                     finite_values<T>);
}

template bool felzenszwalb(const std::uint8_t*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const half*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const float*, std::int32_t*, const FelzenszwalbParams&, Context&);
template bool felzenszwalb(const double*, std::int32_t*, const FelzenszwalbParams&, Context&);

}  // namespace cuekit::cpu
