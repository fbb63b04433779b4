#include "workspace.h"

#include <deque>
#include <mutex>
#include <new>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::align_val_t line{64};
constexpr std::size_t smallest_kept = std::size_t{1}
                                      << 16;  // smaller blocks come from pages in use anyway

struct Block {
  void* memory;
  std::size_t size;
};

struct Kept {
  std::mutex mutex;
  std::deque<Block> blocks;  // the latest last
  std::size_t size = 0;
};

// Never destroyed: threads may still give memory back while the process ends.
Kept* kept = new Kept;

#if !defined(_WIN32)
// The lock may be held for ever in a forked child.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { kept = new Kept; });
#endif

// Rounded up to 4, 5, 6 or 7 times a power of two, so that photos of about one size share blocks.
std::size_t rounded(std::size_t size) {
  std::size_t step = 1;
  while (size >> 3 >= step) step *= 2;
  return (size + step - 1) / step * step;
}

}  // namespace

void* take_memory(std::size_t size) {
  if (size < smallest_kept) return ::operator new(size, line);
  size = rounded(size);
  {
    const std::lock_guard<std::mutex> lock(kept->mutex);
    for (auto block = kept->blocks.rbegin(); block != kept->blocks.rend(); ++block) {
      if (block->size != size) continue;
      void* const memory = block->memory;
      kept->blocks.erase(std::next(block).base());
      kept->size -= size;
      return memory;
    }
  }
  return ::operator new(size, line);
}

void give_memory(void* memory, std::size_t size) noexcept {
  if (size >= smallest_kept && rounded(size) <= most_kept) {
    size = rounded(size);
    try {
      const std::lock_guard<std::mutex> lock(kept->mutex);
      kept->blocks.push_back({memory, size});
      kept->size += size;
      memory = nullptr;
      while (kept->size > most_kept) {
        const Block oldest = kept->blocks.front();
        kept->blocks.pop_front();
        kept->size -= oldest.size;
        ::operator delete(oldest.memory, line);
      }
    } catch (...) {  // no memory for the list: then not kept
    }
  }
  ::operator delete(memory, line);
}

}  // namespace cuekit::cpu
