// fuse: logical OR of M sets, in chunks, so that each chunk of the output stays in L1 while the
// sets stream past.
#include "cuekit/fuse.h"

#include <algorithm>

#include "parallel.h"

namespace cuekit::cpu {

void fuse(const std::uint8_t* const* sets,  // M of (N)
          bool* out,                        // (N)
          const FuseParams& p, Context& context) {
  constexpr std::int64_t chunk_size = 16384;
  const std::int64_t chunks = (p.elements + chunk_size - 1) / chunk_size;
  parallel_for(chunks, context.threads, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * chunk_size;
    const std::int64_t count = std::min(chunk_size, p.elements - begin);
    bool* target = out + begin;
    const std::uint8_t* first = sets[0] + begin;
    for (std::int64_t i = 0; i < count; ++i) target[i] = first[i] != 0;
    for (std::int64_t m = 1; m < p.sets; ++m) {
      const std::uint8_t* source = sets[m] + begin;
      for (std::int64_t i = 0; i < count; ++i) target[i] = target[i] | (source[i] != 0);
    }
  });
}

}  // namespace cuekit::cpu
