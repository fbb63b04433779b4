// A small cache of spatial lattices (kept_lattices.h), in order of use.
//
// Lattices are built outside the lock, so threads do not wait for each other; two that miss the
// same lattice at the same time both build it. A caller's shared_ptr keeps its lattice valid when
// the cache drops it.
#include "kept_lattices.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::size_t most_kept_lattices = 4;
constexpr std::int64_t most_pixels_kept = std::int64_t{1} << 20;

struct Entry {
  std::int64_t height, width;
  float sxy, weight;
  std::shared_ptr<const Lattice> lattice;

  bool same_key(const Entry& other) const {
    return height == other.height && width == other.width && sxy == other.sxy &&
           weight == other.weight;
  }
};

struct Cache {
  std::mutex mutex;
  std::vector<Entry> entries;  // the most recently used one last
};

// Never destroyed: threads may still use it while the process ends.
Cache* cache = new Cache;

#if !defined(_WIN32)
// The mutex may be locked forever in a forked child.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { cache = new Cache; });
#endif

// Null if the cache has no such lattice.
std::shared_ptr<const Lattice> find(const Entry& wanted) {
  const std::lock_guard<std::mutex> lock(cache->mutex);
  std::vector<Entry>& entries = cache->entries;
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.same_key(wanted); });
  if (found == entries.end()) return nullptr;
  std::rotate(found, found + 1, entries.end());
  return entries.back().lattice;
}

void keep(Entry entry) {
  std::shared_ptr<const Lattice> dropped;  // destroyed after the lock is released
  const std::lock_guard<std::mutex> lock(cache->mutex);
  std::vector<Entry>& entries = cache->entries;
  for (const Entry& other : entries)
    if (other.same_key(entry)) return;  // another thread was faster
  if (entries.size() == most_kept_lattices) {
    dropped = std::move(entries.front().lattice);
    entries.erase(entries.begin());
  }
  entries.push_back(std::move(entry));
}

}  // namespace

std::shared_ptr<const Lattice> kept_spatial_lattice(std::int64_t height, std::int64_t width,
                                                    float sxy, float weight, int threads) {
  const bool kept = height * width <= most_pixels_kept;
  Entry entry{height, width, sxy, weight, nullptr};
  if (kept) entry.lattice = find(entry);
  if (entry.lattice == nullptr) {
    entry.lattice =
        std::make_shared<const Lattice>(spatial_lattice(height, width, sxy, weight, threads));
    if (kept) keep(entry);
  }
  return entry.lattice;
}

}  // namespace cuekit::cpu
