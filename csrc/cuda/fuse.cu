// Logical OR of several sets of cues.
//
// One launch ORs up to 16 sets, whose pointers are passed by value in the kernel's parameters. With
// more sets, every further launch ORs the result so far with up to 15 more. A thread ORs 16 bytes
// of every set (fuse_vectors) where all pointers are aligned to 16 bytes; the remaining bytes, or
// all of them, are left to fuse_bytes, with one byte per thread. No workspace.

#include "cuekit/fuse.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

constexpr int sets_per_launch = 16;

struct Sets {
  const std::uint8_t* data[sets_per_launch];  // `count` arrays (N), nonzero = on
  int count;
};

// Every nonzero byte becomes 1: adding 127 to its lower seven bits carries into its highest bit
// unless all seven are 0, and no carry leaves the byte.
__device__ std::uint32_t nonzero_to_one(std::uint32_t bytes) {
  return ((((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes) >> 7) & 0x01010101u;
}

__global__ void fuse_vectors(Sets sets,
                             std::uint32_t* out,  // (vectors, 4): 16 bools each; may be a set, too
                             std::int64_t vectors) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= vectors) return;
  Pack<std::uint32_t, 4> fused{};
  for (int s = 0; s < sets.count; ++s) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(sets.data[s]);
    const Pack<std::uint32_t, 4> vector = load_pack<4>(words + 4 * i);
    for (int j = 0; j < 4; ++j) fused.values[j] |= vector.values[j];
  }
  for (std::uint32_t& word : fused.values) word = nonzero_to_one(word);
  store_pack(fused, out + 4 * i);
}

__global__ void fuse_bytes(Sets sets,
                           bool* out,  // (N), of which [begin, end) is written; may be a set, too
                           std::int64_t begin, std::int64_t end) {
  const std::int64_t i = begin + std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= end) return;
  bool any = false;
  for (int s = 0; s < sets.count; ++s) any = any || sets.data[s][i] != 0;
  out[i] = any;
}

}  // namespace

void fuse(const std::uint8_t* const* sets,  // M arrays (N), nonzero = on; the list is on the host
          bool* out,                        // (N)
          const FuseParams& p, Context& context) {
  const cudaStream_t stream = context.stream;
  std::int64_t done = 0;
  while (done < p.sets) {
    Sets some{};
    // The result of the launches so far is a set, too.
    if (done > 0) some.data[some.count++] = reinterpret_cast<const std::uint8_t*>(out);
    while (some.count < sets_per_launch && done < p.sets) some.data[some.count++] = sets[done++];
    bool aligned = reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
    for (int s = 0; s < some.count; ++s)
      aligned = aligned && reinterpret_cast<std::uintptr_t>(some.data[s]) % 16 == 0;
    const std::int64_t vectors = aligned ? p.elements / 16 : 0;
    launch(fuse_vectors, ceil_div(vectors, block_size), block_size, stream, some,
           reinterpret_cast<std::uint32_t*>(out), vectors);
    launch(fuse_bytes, ceil_div(p.elements - 16 * vectors, block_size), block_size, stream, some,
           out, 16 * vectors, p.elements);
  }
}

}  // namespace cuekit::cuda
