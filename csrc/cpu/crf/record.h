// What is kept of a forward pass for the gradient (cuekit/crf_gradient.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "bands.h"
#include "cpu/workspace.h"
#include "cuekit/crf_features.h"
#include "lattice.h"
#include "patch.h"

namespace cuekit::cpu {

// One kernel of the CRF.
struct RecordedTerm {
  std::shared_ptr<const Lattice> lattice;
  CrfNormalisation normalisation;
  bool is_diagonal;  // its gains
  // (rows, stride): g(k, l) at row l, in units of ln 2; or one row, its diagonal.
  Workspace<float> gains;
  std::int64_t rows;
};

struct Record {
  std::vector<std::int64_t> channels;  // of each class that takes part
  std::int64_t stride = 0, iterations = 0;
  std::int64_t pixels = 0, width = 0;  // width 0: points that are no image
  std::vector<Band> bands;
  std::shared_ptr<const PointOrder> order;  // of points; null: that of the caller
  std::vector<RecordedTerm> terms;
  Workspace<float> marginals;  // (iterations + 1, pixels, stride): Q after each step

  float* of_step(std::int64_t step) const { return marginals.get() + step * pixels * stride; }

  // body(patch) for all patches of a band, in the order of their pixels.
  template <class Body>
  void for_patches(const Band& band, const Body& body) const {
    constexpr std::int64_t most = Patch::max_columns;
    if (width == 0) {
      for (std::int64_t i = band.first_pixel; i < band.last_pixel; i += most)
        body(Patch{0, 1, i, std::min(most, band.last_pixel - i), pixels, pixels});
      return;
    }
    for (const Strip& strip : strips_of(band, width))
      for (std::int64_t x = 0; x < width; x += most)
        body(Patch{strip.first_row, strip.rows, x, std::min(most, width - x), width, pixels});
  }
};

}  // namespace cuekit::cpu
