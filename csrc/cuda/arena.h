// Divides one workspace into arrays, each aligned to 256 bytes.
//
// An arena without memory (a null base) returns null pointers and only adds up the sizes: that is
// how the size of a workspace is found before it is allocated.
#pragma once

#include <cstdint>

#include "launch.h"

namespace cuekit::cuda {

class Arena {
 public:
  // `base` is aligned to 256 bytes, or null.
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  // An array of `count` values of any content.
  template <class T>
  T* take(std::int64_t count) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += ceil_div(count * static_cast<std::int64_t>(sizeof(T)), alignment) * alignment;
    return array;
  }
  // Bytes of all arrays taken so far, padding included.
  std::int64_t used() const { return used_; }

 private:
  static constexpr std::int64_t alignment = 256;
  char* base_;
  std::int64_t used_ = 0;
};

}  // namespace cuekit::cuda
