// Hands out pieces of a workspace, each where a line begins; without one it only counts.
#pragma once

#include <cstdint>

#include "launch.h"

namespace cuekit::cuda {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += ceil_div(count * static_cast<std::int64_t>(sizeof(T)), line) * line;
    return piece;
  }
  std::int64_t used() const { return used_; }

 private:
  static constexpr std::int64_t line = 256;
  char* base_;
  std::int64_t used_ = 0;
};

}  // namespace cuekit::cuda
