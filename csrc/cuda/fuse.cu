// A thread ORs sixteen bytes of every set; the sets are an argument of the kernel, sixteen to a
// launch.
#include <algorithm>

#include "cuekit/fuse.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

constexpr int sets_per_launch = 16;

struct Sets {
  const std::uint8_t* data[sets_per_launch];
  int count;
};

// 1 in every byte that is not 0: adding 127 carries into the top bit from the seven below it.
__device__ std::uint32_t ones(std::uint32_t bytes) {
  return ((((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes) >> 7) & 0x01010101u;
}

__global__ void fuse_words(Sets sets, std::uint32_t* out, std::int64_t quads) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= quads) return;
  Pack<std::uint32_t, 4> any{};
  for (int s = 0; s < sets.count; ++s) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(sets.data[s]);
    const Pack<std::uint32_t, 4> quad = load_pack<4>(words + 4 * i);
    for (int j = 0; j < 4; ++j) any.values[j] |= quad.values[j];
  }
  for (std::uint32_t& word : any.values) word = ones(word);
  store_pack(any, out + 4 * i);
}

__global__ void fuse_bytes(Sets sets, bool* out, std::int64_t begin, std::int64_t end) {
  const std::int64_t i = begin + std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= end) return;
  bool any = false;
  for (int s = 0; s < sets.count; ++s) any = any || sets.data[s][i] != 0;
  out[i] = any;
}

}  // namespace

void fuse(const std::uint8_t* const* sets, bool* out, const FuseParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  std::int64_t done = 0;
  while (done < p.sets) {
    // What the launch before has fused is a set of the next.
    Sets some{};
    if (done > 0) some.data[some.count++] = reinterpret_cast<const std::uint8_t*>(out);
    while (some.count < sets_per_launch && done < p.sets) some.data[some.count++] = sets[done++];
    bool aligned = reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
    for (int s = 0; s < some.count; ++s)
      aligned = aligned && reinterpret_cast<std::uintptr_t>(some.data[s]) % 16 == 0;
    const std::int64_t quads = aligned ? p.elements / 16 : 0;
    launch(fuse_words, ceil_div(quads, block_size), block_size, stream, some,
           reinterpret_cast<std::uint32_t*>(out), quads);
    launch(fuse_bytes, ceil_div(p.elements - 16 * quads, block_size), block_size, stream, some, out,
           16 * quads, p.elements);
  }
}

}  // namespace cuekit::cuda
