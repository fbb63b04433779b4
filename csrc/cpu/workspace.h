// Memory for a kernel's intermediate results, kept for later calls.
//
// Fresh memory comes from the system page by page, and each page costs more than a microsecond. A
// dense CRF works on tens of megabytes: in every call their pages would cost as much time as some
// of its iterations. So freed blocks stay in a list, up to `most_kept` bytes in total, and later
// calls reuse them. Large blocks use huge pages where the system has them, because the TLB holds
// too few entries for small pages that are read in no order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cuekit::cpu {

constexpr std::size_t most_kept = std::size_t{128} << 20;

// Uninitialised memory that starts at a cache line. give_memory takes the same size.
void* take_memory(std::size_t size);
void give_memory(void* memory, std::size_t size) noexcept;

// An array of `count` uninitialised values.
template <class T>
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::int64_t count) : size_(count * sizeof(T)) {
    values_ = static_cast<T*>(take_memory(size_));
  }
  Workspace(Workspace&& other) noexcept { swap(other); }
  Workspace& operator=(Workspace&& other) noexcept {
    Workspace moved(std::move(other));  // frees what this had when it goes out of scope
    swap(moved);
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
  std::size_t size_ = 0;  // bytes
};

// Room for values that are needed for a short time, again and again. It grows to the largest count.
template <class T>
class Scratch {
 public:
  // Uninitialised: what earlier calls returned is lost.
  T* room_for(std::int64_t count) {
    if (count > capacity_) {
      const std::int64_t larger = std::max(count, capacity_ + capacity_ / 2);
      capacity_ = 0;
      values_ = Workspace<T>();  // frees the old room first
      values_ = Workspace<T>(larger);
      capacity_ = larger;
    }
    return values_.get();
  }

 private:
  Workspace<T> values_;
  std::int64_t capacity_ = 0;
};

// The same memory for standard containers.
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
