// A list of freed blocks, the most recent last. A block is reused for a request that rounds to the
// same size; the blocks that were freed first leave the list when it holds too many bytes.
#include "workspace.h"

#include <cstdint>
#include <deque>
#include <mutex>
#include <new>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::align_val_t cache_line{64};
// Blocks smaller than a page are not kept: the heap serves them from pages that are in use anyway.
// With ASan no block is kept, so that it sees where every block ends.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t smallest_kept = SIZE_MAX;
#else
constexpr std::size_t smallest_kept = std::size_t{1} << 12;
#endif

// On Linux, all but small blocks are mapped from the system and unmapped again. Freed within the
// heap they would leave gaps, as would the alignment of large ones to huge pages, and the process
// would keep far more than `most_kept`. Not with ASan, which checks the heap only.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)

constexpr std::size_t smallest_mapped = std::size_t{1} << 17;  // as in glibc
constexpr std::size_t huge_page = std::size_t{1} << 21;

void* map(std::size_t size) {
  void* const mapped =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  return mapped;
}

// Sizes from huge_page on are rounded (below), and so are multiples of every page size.
void* allocate(std::size_t size) {
  if (size < smallest_mapped) return ::operator new(size, cache_line);
  if (size < huge_page) return map(size);
  const std::size_t mapped_size = size + huge_page;
  char* const begin = static_cast<char*>(map(mapped_size));
  const std::size_t before =
      (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
  char* const memory = begin + before;
  if (before > 0) munmap(begin, before);
  if (before < huge_page) munmap(memory + size, huge_page - before);
  // Only advice: without huge pages the memory works too.
  (void)madvise(memory, size, MADV_HUGEPAGE);
  return memory;
}

void release(void* memory, std::size_t size) noexcept {
  if (size < smallest_mapped)
    ::operator delete(memory, cache_line);
  else if (memory != nullptr)
    munmap(memory, size);
}

#else

void* allocate(std::size_t size) { return ::operator new(size, cache_line); }
void release(void* memory, std::size_t) noexcept { ::operator delete(memory, cache_line); }

#endif

struct Block {
  void* memory;
  std::size_t size;  // bytes
};

struct Kept {
  std::mutex mutex;
  std::deque<Block> blocks;  // the most recently freed last
  std::size_t size = 0;      // bytes, of all blocks
};

// Never destroyed, because threads may still free memory while the process ends.
Kept* kept = new Kept;

#if !defined(_WIN32)
// In a forked child the mutex may be locked for ever: the child gets a new list.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { kept = new Kept; });
#endif

// `size` rounded up to 4, 5, 6 or 7 times a power of two, so that photos of similar sizes reuse
// each other's blocks.
std::size_t rounded(std::size_t size) {
  std::size_t step = 1;
  while (size >> 3 >= step) step *= 2;
  return (size + step - 1) / step * step;
}

}  // namespace

void* take_memory(std::size_t size) {
  if (size < smallest_kept) return allocate(size);
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
  return allocate(size);
}

void give_memory(void* memory, std::size_t size) noexcept {
  if (size >= smallest_kept) size = rounded(size);
  if (size >= smallest_kept && size <= most_kept) {
    try {
      const std::lock_guard<std::mutex> lock(kept->mutex);
      kept->blocks.push_back({memory, size});
      kept->size += size;
      memory = nullptr;
      while (kept->size > most_kept) {
        const Block oldest = kept->blocks.front();
        kept->blocks.pop_front();
        kept->size -= oldest.size;
        release(oldest.memory, oldest.size);
      }
    } catch (...) {  // no memory for the list: the block is not kept
    }
  }
  release(memory, size);
}

}  // namespace cuekit::cpu
