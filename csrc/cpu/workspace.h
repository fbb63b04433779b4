// Memory for a kernel's intermediate results, kept for the next call.
//
// The system hands out fresh memory page by page, at more than a microsecond each: for the tens of
// megabytes that a dense CRF works on, as much time as some of its iterations, in every call. So
// blocks that are given back stay in a list, `most_kept` bytes of them, and are found again. Large
// blocks ask for huge pages: so many values, read in no order, lie on more small pages than the
// processor keeps the addresses of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cuekit::cpu {

constexpr std::size_t most_kept = std::size_t{128} << 20;

// Begins where a cache line does. It is given back with the size it was asked for with.
void* take_memory(std::size_t size);
void give_memory(void* memory, std::size_t size) noexcept;

// Values that nobody has written yet.
template <class T>
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::int64_t count) : size_(static_cast<std::size_t>(count) * sizeof(T)) {
    values_ = static_cast<T*>(take_memory(size_));
  }
  Workspace(Workspace&& other) noexcept { swap(other); }
  Workspace& operator=(Workspace&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Workspace() {
    if (values_ != nullptr) give_memory(values_, size_);
  }

  T* get() const { return values_; }

 private:
  void swap(Workspace& other) {
    std::swap(values_, other.values_);
    std::swap(size_, other.size_);
  }

  T* values_ = nullptr;
  std::size_t size_ = 0;
};

template <class T>
struct WorkspaceAllocator {
  using value_type = T;
  WorkspaceAllocator() = default;
  template <class U>
  WorkspaceAllocator(const WorkspaceAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(take_memory(count * sizeof(T))); }
  void deallocate(T* memory, std::size_t count) { give_memory(memory, count * sizeof(T)); }
  friend bool operator==(WorkspaceAllocator, WorkspaceAllocator) { return true; }
  friend bool operator!=(WorkspaceAllocator, WorkspaceAllocator) { return false; }
};

template <class T>
using WorkspaceVector = std::vector<T, WorkspaceAllocator<T>>;

}  // namespace cuekit::cpu
