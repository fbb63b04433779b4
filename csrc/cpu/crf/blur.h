// Blurs the values of all classes at the vertices of a lattice.
#pragma once

#include <cstdint>

#include "filter.h"

namespace cuekit::cpu {

// Blurs the splatted values of each filter in place and swaps them with the values to slice.
// Filters without a lattice are left out.
class Blur {
 public:
  Blur(std::int64_t classes, int threads);
  void operator()(Filter& spatial, Filter& bilateral) const;

 private:
  using Kernel = void (*)(const Node* chain,  // (count + Lattice::chain_padding)
                          std::int64_t count,
                          float* values,  // (nodes, stride)
                          std::int64_t stride, bool in_l2);

  void blur(const Filter& filter, std::int64_t tasks) const;

  std::int64_t stride_;
  int threads_;
  Kernel kernel_;
};

}  // namespace cuekit::cpu
