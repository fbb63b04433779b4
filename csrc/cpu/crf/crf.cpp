// The dense CRF of cuekit/crf.h on the CPU, a batch of images. The files of this folder:
//
//   bands, patch        how an image is divided, and the order in which its pixels are visited
//   lattice             the permutohedral lattice; embed, vertex_table, chains build it;
//                       kept_lattices keeps the spatial ones between calls
//   class_vector        all classes of a pixel, in registers
//   read_scores         from scores to logits
//   mean_field          slice, softmax, splat
//   blur                along the axes of a lattice
//   write_results       from marginals to maps
//   inference           one image, or two of the same photo
//   record              what is kept for the gradient (crf_gradient.cpp)
//   block               the steps of the mean field for any number of kernels and features
//
// Memory, L = classes that take part, rounded up to whole vectors, of both images if two are
// computed together: 4 L + 72 bytes per pixel; 8 L per vertex, and some 100 more while the lattice
// is built. It is kept from call to call (workspace.h).
#include "cuekit/crf.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <vector>

#include "cpu/float_state.h"
#include "cpu/parallel.h"
#include "cuekit/crf_features.h"
#include "cuekit/crf_gradient.h"
#include "cuekit/half.h"
#include "inference.h"
#include "kept_lattices.h"
#include "record.h"

namespace cuekit::cpu {
namespace {

// The first image of every row of images that have the same photo, and the number of images. They
// share its lattice, and are computed in pairs where they have few classes: publications refine the
// maps of a photo twice, with two background scores.
std::vector<std::int64_t> first_images_of_photos(const std::uint8_t* photos,  // (B, H, W, 3)
                                                 const CrfParams& p) {
  const std::int64_t size = p.height * p.width * 3;
  std::vector<std::int64_t> firsts;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const std::uint8_t* photo = photos + b * size;
    if (b == 0 || !std::equal(photo, photo + size, photo - size)) firsts.push_back(b);
  }
  firsts.push_back(p.batch);
  return firsts;
}

// A filter that is part of its lattice's weights, for all classes alike.
RecordedTerm recorded_term(std::shared_ptr<const Lattice> lattice, std::int64_t stride) {
  Workspace<float> gains(stride);
  std::fill_n(gains.get(), stride, 1.0f);
  return {std::move(lattice), CrfNormalisation::symmetric, true, std::move(gains), 1};
}

// Null if there is no such filter.
std::shared_ptr<const Lattice> spatial_lattice_of(const CrfParams& p, int threads) {
  if (p.gaussian_weight <= 0 || p.iterations == 0) return nullptr;
  return kept_spatial_lattice(p.height, p.width, p.gaussian_sxy,
                              p.gaussian_weight * static_cast<float>(log2_of_e), threads);
}

std::shared_ptr<const Lattice> bilateral_lattice_of(const std::uint8_t* photo,  // (H, W, 3)
                                                    std::int64_t height, std::int64_t width,
                                                    float sxy, float srgb, float weight,
                                                    int threads) {
  return std::make_shared<const Lattice>(bilateral_lattice(photo, height, width, sxy, srgb,
                                                           weight * static_cast<float>(log2_of_e),
                                                           Normalisation::symmetric, threads));
}

// `records` (B): of each image; null: not wanted.
bool run(const Scores& scores, const std::uint8_t* photos, const std::uint8_t* present,
         const Target<float>& out, const CrfParams& p, CrfRecord* records, Context& context) {
  if (p.half_storage)
    throw std::invalid_argument("storage must be 'float32' on the CPU, got 'float16'");
  const DefaultFloatState state;  // the kept lattice must not depend on the caller's
  const std::shared_ptr<const Lattice> spatial = spatial_lattice_of(p, context.threads);
  const std::int64_t pixels = p.height * p.width;
  const std::vector<std::int64_t> firsts = first_images_of_photos(photos, p);
  const auto count = static_cast<std::int64_t>(firsts.size()) - 1;
  std::atomic<bool> valid{true};
  for_each_image(count, context.threads, [&](std::int64_t i, int threads) {
    const std::int64_t first = firsts[static_cast<std::size_t>(i)];
    const std::int64_t last = firsts[static_cast<std::size_t>(i) + 1];
    const bool filters = p.bilateral_weight > 0 && p.iterations > 0;
    std::shared_ptr<const Lattice> bilateral;
    if (filters)
      bilateral =
          bilateral_lattice_of(photos + first * 3 * pixels, p.height, p.width, p.bilateral_sxy,
                               p.bilateral_srgb, p.bilateral_weight, threads);
    const std::int64_t tags = p.channels - 1;
    for (std::int64_t b = first, runs; b < last; b += runs) {
      const std::uint8_t* const present_here = present + b * tags;
      const std::int64_t classes = 1 + tags - std::count(present_here, present_here + tags, 0);
      const bool pair = records == nullptr && b + 1 < last && classes <= most_classes_of_pairs &&
                        std::equal(present_here, present_here + tags, present_here + tags);
      runs = pair ? 2 : 1;
      const std::int64_t map = b * p.channels * pixels;
      Inference inference(runs, scores.from(map), present_here, out.from(map), spatial.get(),
                          bilateral.get(), p, records != nullptr, threads);
      if (!inference.run()) valid = false;
      if (records == nullptr) continue;
      Record record = inference.record();
      for (const auto& lattice : {spatial, bilateral})
        if (lattice != nullptr) record.terms.push_back(recorded_term(lattice, record.stride));
      records[b].record = std::make_shared<const Record>(std::move(record));
    }
  });
  return valid;
}

std::vector<CrfRecord> run_recorded(const Scores& scores, const std::uint8_t* photos,
                                    const std::uint8_t* present, const Target<float>& out,
                                    const CrfParams& p, Context& context) {
  std::vector<CrfRecord> records(static_cast<std::size_t>(p.batch));
  if (!run(scores, photos, present, out, p, records.data(), context)) records.clear();
  return records;
}

bool run_on_filter(const Scores& scores, const CrfFilter& bilateral, const std::uint8_t* present,
                   const Target<float>& out, const CrfParams& p, int threads) {
  if (bilateral.height == 0 || bilateral.height != p.height || bilateral.width != p.width)
    throw std::invalid_argument("the filter must be one of the photo's");
  const DefaultFloatState state;
  const std::shared_ptr<const Lattice> spatial = spatial_lattice_of(p, threads);
  Inference inference(1, scores, present, out, spatial.get(),
                      p.iterations > 0 ? bilateral.lattice.get() : nullptr, p, false, threads);
  return inference.run();
}

}  // namespace

template <class T>
bool crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present,
         marginal_type<T>* out, const CrfParams& p, Context& context) {
  return run(Scores(scores), photos, present, Target<float>(out), p, nullptr, context);
}

template <class T>
std::vector<CrfRecord> crf_recorded(const T* scores, const std::uint8_t* photos,
                                    const std::uint8_t* present, marginal_type<T>* out,
                                    const CrfParams& p, Context& context) {
  return run_recorded(Scores(scores), photos, present, Target<float>(out), p, context);
}

template <class T>
bool crf_of_photo(const T* scores, const CrfFilter& bilateral, const std::uint8_t* present,
                  marginal_type<T>* out, const CrfParams& p, Context& context) {
  return run_on_filter(Scores(scores), bilateral, present, Target<float>(out), p, context.threads);
}

CrfFilter crf_photo_filter(const std::uint8_t* photo, std::int64_t height, std::int64_t width,
                           float sxy, float srgb, float weight, Context& context) {
  const DefaultFloatState state;
  return {bilateral_lattice_of(photo, height, width, sxy, srgb, weight, context.threads),
          CrfNormalisation::symmetric, nullptr, height, width};
}

template bool crf(const half*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const float*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const double*, const std::uint8_t*, const std::uint8_t*, double*,
                  const CrfParams&, Context&);
template std::vector<CrfRecord> crf_recorded(const half*, const std::uint8_t*, const std::uint8_t*,
                                             float*, const CrfParams&, Context&);
template std::vector<CrfRecord> crf_recorded(const float*, const std::uint8_t*, const std::uint8_t*,
                                             float*, const CrfParams&, Context&);
template std::vector<CrfRecord> crf_recorded(const double*, const std::uint8_t*,
                                             const std::uint8_t*, double*, const CrfParams&,
                                             Context&);
template bool crf_of_photo(const half*, const CrfFilter&, const std::uint8_t*, float*,
                           const CrfParams&, Context&);
template bool crf_of_photo(const float*, const CrfFilter&, const std::uint8_t*, float*,
                           const CrfParams&, Context&);
template bool crf_of_photo(const double*, const CrfFilter&, const std::uint8_t*, double*,
                           const CrfParams&, Context&);

}  // namespace cuekit::cpu
