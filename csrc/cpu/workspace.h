// Memory for a kernel's intermediate results, kept for the next call.
//
// The system hands out fresh memory page by page, at more than a microsecond each: for the tens of
// megabytes that a dense CRF works on, as much time as some of its iterations, in every call. So
// blocks that are given back stay in a list, up to `most_kept` bytes in all, and are found again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace cuekit::cpu {

constexpr std::size_t most_kept = std::size_t{128} << 20;

// Begins where a cache line does. Of `*size` bytes or more: it says how many.
void* take_memory(std::size_t* size);
void give_memory(void* memory, std::size_t size) noexcept;

// Values that nobody has written yet.
template <class T>
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::int64_t count) : size_(static_cast<std::size_t>(count) * sizeof(T)) {
    values_ = static_cast<T*>(take_memory(&size_));
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

}  // namespace cuekit::cpu
