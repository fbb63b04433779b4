#include "workspace.h"

#include <mutex>
#include <new>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::align_val_t line{64};

struct Block {
  void* memory;
  std::size_t size;
};

struct Kept {
  std::mutex mutex;
  std::vector<Block> blocks;
  std::size_t size = 0;
};

// Never destroyed: threads may still give memory back while the process ends.
Kept* kept = new Kept;

#if !defined(_WIN32)
// The lock may be held for ever in a forked child.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { kept = new Kept; });
#endif

}  // namespace

void* take_memory(std::size_t* size) {
  {
    const std::lock_guard<std::mutex> lock(kept->mutex);
    std::vector<Block>& blocks = kept->blocks;
    // The smallest that is large enough, but not one of more than twice the size.
    std::size_t best = blocks.size();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].size < *size || blocks[i].size / 2 > *size) continue;
      if (best == blocks.size() || blocks[i].size < blocks[best].size) best = i;
    }
    if (best < blocks.size()) {
      const Block found = blocks[best];
      blocks[best] = blocks.back();
      blocks.pop_back();
      kept->size -= found.size;
      *size = found.size;
      return found.memory;
    }
  }
  return ::operator new(*size, line);
}

void give_memory(void* memory, std::size_t size) noexcept {
  try {
    const std::lock_guard<std::mutex> lock(kept->mutex);
    if (kept->size + size <= most_kept) {
      kept->blocks.push_back({memory, size});
      kept->size += size;
      return;
    }
  } catch (...) {  // no memory for the list: then not kept
  }
  ::operator delete(memory, line);
}

}  // namespace cuekit::cpu
