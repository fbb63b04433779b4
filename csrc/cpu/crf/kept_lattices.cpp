// A small cache of spatial lattices (kept_lattices.h), in order of use.
//
// Lattices are built outside the lock, so threads do not wait for each other; two that miss the
// same lattice at the same time both build it. A caller's shared_ptr keeps its lattice valid when
// the cache drops it.
#include "kept_lattices.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace cuekit::cpu {
namespace {

constexpr std::size_t most_kept_lattices = 4;
constexpr std::size_t most_kept_bytes = std::size_t{128} << 20;  // of all of them
constexpr std::int64_t most_pixels_kept = std::int64_t{1} << 20;

std::size_t size_in_bytes(const Lattice& lattice) {
  const auto corners = static_cast<std::size_t>(lattice.corners);
  std::size_t size =
      static_cast<std::size_t>(lattice.pixels) * corners * (sizeof(Node) + sizeof(float));
  size += lattice.originals.capacity() * sizeof(Node);
  for (const auto& [entries, windows] : lattice.chains)
    size += entries.capacity() * sizeof(Node) + windows.capacity() * sizeof(Chains::Window);
  return size;
}

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
  std::vector<Entry> dropped;  // destroyed after the lock is released
  std::size_t size = size_in_bytes(*entry.lattice);
  const std::lock_guard<std::mutex> lock(cache->mutex);
  std::vector<Entry>& entries = cache->entries;
  for (const Entry& other : entries)
    if (other.same_key(entry)) return;  // another thread was faster
  // Keeps the most recent ones for which there is room, at least this one.
  auto first_kept = entries.end();
  while (first_kept != entries.begin() &&
         static_cast<std::size_t>(entries.end() - first_kept) + 1 < most_kept_lattices) {
    size += size_in_bytes(*std::prev(first_kept)->lattice);
    if (size > most_kept_bytes) break;
    --first_kept;
  }
  dropped.assign(std::move_iterator(entries.begin()), std::move_iterator(first_kept));
  entries.erase(entries.begin(), first_kept);
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
