// Mean field inference of one image, or of two images of the same photo together (mean_field.h).
//
//   pass 0               reads the scores, softmax of the unaries, splat
//   pass 1 .. n          blur, then slice, softmax, splat; the last one writes Q and does not splat
//
// A pass goes over the bands in parallel, and over a band patch by patch.
#pragma once

#include <cstdint>
#include <vector>

#include "blur.h"
#include "cpu/workspace.h"
#include "cuekit/crf.h"
#include "filter.h"
#include "lattice.h"
#include "mean_field.h"
#include "patch.h"
#include "read_scores.h"
#include "record.h"

namespace cuekit::cpu {

class Inference {
 public:
  // A lattice is null if there is no such filter. It must outlive this. `recorded`: whether the
  // marginals of all steps are kept, for record(); of one run.
  Inference(std::int64_t runs,            // 1; or 2, for at most most_classes_of_pairs
            const Scores& scores,         // (runs, K, H, W)
            const std::uint8_t* present,  // (K - 1)
            const Target<float>& out,     // (runs, K, H, W)
            const Lattice* spatial, const Lattice* bilateral, const CrfParams& p, bool recorded,
            int threads);
  Inference(const Inference&) = delete;
  Inference& operator=(const Inference&) = delete;

  // False for scores that are not valid (cuekit/crf.h).
  bool run();

  // Of the run; it ends the use of this. The terms are left to the caller, who has the lattices.
  Record record();

 private:
  bool pass_over_pixels(std::int64_t number);
  // Where pass `number` keeps Q; null: nowhere.
  float* kept(std::int64_t number) const { return marginals_.get() + number * step_size_; }

  Scores scores_;
  Target<float> out_;
  const CrfParams& p_;
  int threads_;
  std::vector<Band> bands_;
  std::vector<std::int64_t> channels_;  // of each class: background and present classes
  std::int64_t runs_;
  std::int64_t stride_;  // of all runs together
  MeanFieldKernel mean_field_;
  Workspace<float> unary_;  // (N, stride)
  Filter spatial_, bilateral_;
  // A spatial filter that is a multiplication needs no lattice, only Q of the pass before.
  float own_weight_ = 0;
  Workspace<float> marginals_;  // (N, stride), or those of all steps, or nothing
  std::int64_t step_size_ = 0;  // from one step's marginals to the next; 0: they are in one place
};

}  // namespace cuekit::cpu
