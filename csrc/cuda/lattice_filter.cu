// Filters splatted values on the lattices of lattice.h: join sums the copies of each vertex, and
// three blurs follow.
//
// A group of 1, 2, 4 or 8 threads works on one vertex, each on 4 values of its row at a time.
#include <algorithm>

#include "lattice.h"
#include "lattice_build.h"
#include "launch.h"
#include "reduce.h"

namespace cuekit::cuda {
namespace {

// A group sums the first copies of its vertex, up to this many. The rest, where large areas have
// one colour, is summed by all groups of its warp together.
constexpr std::uint32_t summed_by_group = 16;

template <int group_size, class V>
__global__ void join(Lattice lattice,
                     const V* __restrict__ copies,  // (entries, stride)
                     V* __restrict__ values,        // (vertices, stride)
                     ValueRows layout) {
  constexpr int groups = warp_size / group_size;
  const std::int64_t warp = (std::int64_t{blockIdx.x} * block_size + threadIdx.x) / warp_size;
  const std::int64_t warps = std::int64_t{gridDim.x} * (block_size / warp_size);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / group_size;
  const int first_value = lane % group_size * 4;
  const std::int64_t count = lattice.vertices();
  for (std::int64_t first = warp * groups; first < count; first += warps * groups) {
    const std::int64_t v = first + group;
    const std::uint32_t begin = v < count ? lattice.starts[v] : 0;
    const std::uint32_t end = v < count ? lattice.starts[v + 1] : 0;
    const std::uint32_t shared_from = end - begin < summed_by_group ? end : begin + summed_by_group;
    const std::int32_t used = v < count ? layout.used_of(lattice.image_of[v]) : 0;
    const unsigned with_more = __ballot_sync(all_lanes, shared_from < end);
    // All threads of a warp take part in every round, whether or not they have values in it.
    for (int k = first_value; k - first_value < static_cast<int>(layout.stride);
         k += group_size * 4) {
      const V* const copies_k = copies + k;
      float4 sum = all_of(0.0f);
      if (k < used) {
#pragma unroll 4
        for (std::uint32_t j = begin; j < shared_from; ++j)
          sum = add4(sum, 1.0f, load4(copies_k + layout.offset(lattice.list[j])));
      }
      for (unsigned bits = with_more; bits != 0;) {
        const int owner = (__ffs(static_cast<int>(bits)) - 1) / group_size;
        bits &= ~(((1u << (group_size - 1)) * 2u - 1u) << owner * group_size);
        const std::uint32_t shared_end = __shfl_sync(all_lanes, end, owner * group_size);
        const std::uint32_t shared_begin = __shfl_sync(all_lanes, shared_from, owner * group_size);
        const std::int32_t used_by_owner = __shfl_sync(all_lanes, used, owner * group_size);
        float4 more = all_of(0.0f);
        if (k < used_by_owner) {
#pragma unroll 4
          for (std::int64_t j = std::int64_t{shared_begin} + group; j < shared_end; j += groups)
            more = add4(more, 1.0f, load4(copies_k + layout.offset(lattice.list[j])));
        }
        for (int offset = group_size; offset < warp_size; offset *= 2) {
          const float4 other{__shfl_xor_sync(all_lanes, more.x, offset),
                             __shfl_xor_sync(all_lanes, more.y, offset),
                             __shfl_xor_sync(all_lanes, more.z, offset),
                             __shfl_xor_sync(all_lanes, more.w, offset)};
          more = add4(more, 1.0f, other);
        }
        if (group == owner) sum = add4(sum, 1.0f, more);
      }
      if (k < used) store4(values + layout.offset(static_cast<Row>(v)) + k, sum);
    }
  }
}

// One step of three: two axes of the bilateral lattice, and one of the spatial lattice. Two axes at
// a time read the 8 neighbours of a vertex, as far as they exist, and the vertex itself. Of the
// two, the blur along axis 2 * step + first comes first.
template <int group_size, class V>
__global__ void blur(Lattice lattice,
                     const V* __restrict__ in,  // (vertices, stride)
                     V* __restrict__ out,       // (vertices, stride)
                     ValueRows layout, int step, int first) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  const std::int64_t groups = std::int64_t{gridDim.x} * (block_size / group_size);
  const std::int64_t bilateral = lattice.bilateral_vertices(), count = lattice.vertices();
  constexpr Neighbours none{no_row, no_row};
  for (std::int64_t v = thread / group_size; v < count; v += groups) {
    const Neighbours* const of_first =
        lattice.neighbours + (v < bilateral ? 2 * step + first : step) * lattice.entries();
    const Neighbours* const of_second =
        lattice.neighbours + (2 * step + 1 - first) * lattice.entries();
    // All loads are issued before the first result is used.
    const Neighbours far = v < bilateral ? of_second[v] : none;
    const Neighbours near[3] = {of_first[v], far.before == no_row ? none : of_first[far.before],
                                far.after == no_row ? none : of_first[far.after]};
    const Row centre[3] = {static_cast<Row>(v), far.before, far.after};
    const std::int32_t used = layout.used_of(lattice.image_of[v]);
    for (int k = static_cast<int>(thread % group_size) * 4; k < used; k += group_size * 4) {
      const auto value = [&](Row row) {
        return row == no_row ? all_of(0.0f) : load4(in + layout.offset(row) + k);
      };
      float4 own[3], before[3], after[3];
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        own[j] = value(centre[j]);
        before[j] = value(near[j].before);
        after[j] = value(near[j].after);
      }
#pragma unroll
      for (int j = 0; j < 3; ++j) own[j] = add4(add4(own[j], 0.5f, before[j]), 0.5f, after[j]);
      store4(out + layout.offset(centre[0]) + k, add4(add4(own[0], 0.5f, own[1]), 0.5f, own[2]));
    }
  }
}

template <int group_size, class V>
void join_and_blur_in_groups(const Lattice& lattice, V* copies, V* scratch, const ValueRows& layout,
                             cudaStream_t stream, AxisOrder order) {
  const std::int64_t blocks =
      std::min(ceil_div(lattice.entries() * group_size, block_size), most_blocks);
  launch(join<group_size, V>, blocks, block_size, stream, lattice, copies, scratch, layout);
  const bool ascending = order == AxisOrder::ascending;
  const auto blur_step = [&](const V* in, V* out, int step) {
    launch(blur<group_size, V>, blocks, block_size, stream, lattice, in, out, layout,
           ascending ? step : 2 - step, ascending ? 0 : 1);
  };
  blur_step(scratch, copies, 0);
  blur_step(copies, scratch, 1);
  blur_step(scratch, copies, 2);
}

}  // namespace

template <class V>
void join_and_blur(const Lattice& lattice, V* copies, V* scratch, const ValueRows& layout,
                   cudaStream_t stream, AxisOrder order) {
  if (layout.stride <= 4)
    return join_and_blur_in_groups<1>(lattice, copies, scratch, layout, stream, order);
  if (layout.stride <= 8)
    return join_and_blur_in_groups<2>(lattice, copies, scratch, layout, stream, order);
  if (layout.stride <= 16)
    return join_and_blur_in_groups<4>(lattice, copies, scratch, layout, stream, order);
  return join_and_blur_in_groups<8>(lattice, copies, scratch, layout, stream, order);
}

template void join_and_blur(const Lattice&, float*, float*, const ValueRows&, cudaStream_t,
                            AxisOrder);
template void join_and_blur(const Lattice&, half*, half*, const ValueRows&, cudaStream_t,
                            AxisOrder);

}  // namespace cuekit::cuda
