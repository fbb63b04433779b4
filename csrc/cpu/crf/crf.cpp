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
//   inference           one image
//
// Memory, L = classes that take part, rounded up to whole vectors: 4 L + 72 bytes per pixel; 8 L
// per vertex, and some 100 more while the lattice is built. It is kept from call to call
// (workspace.h).
#include "cuekit/crf.h"

#include <atomic>
#include <stdexcept>

#include "cpu/float_state.h"
#include "cpu/parallel.h"
#include "cuekit/half.h"
#include "inference.h"
#include "kept_lattices.h"

namespace cuekit::cpu {

template <class T>
bool crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present,
         marginal_type<T>* out, const CrfParams& p, Context& context) {
  if (p.half_storage)
    throw std::invalid_argument("storage must be 'float32' on the CPU, got 'float16'");
  const DefaultFloatState state;  // the kept lattice must not depend on the caller's
  std::shared_ptr<const Lattice> spatial;
  if (p.gaussian_weight > 0 && p.iterations > 0)
    spatial =
        kept_spatial_lattice(p.height, p.width, p.gaussian_sxy,
                             p.gaussian_weight * static_cast<float>(log2_of_e), context.threads);
  const std::int64_t pixels = p.height * p.width;
  std::atomic<bool> valid{true};
  for_each_image(p.batch, context.threads, [&](std::int64_t b, int threads) {
    Inference<T> inference(scores + b * p.channels * pixels, photos + b * 3 * pixels,
                           present + b * (p.channels - 1), out + b * p.channels * pixels,
                           spatial.get(), p, threads);
    if (!inference.run()) valid = false;
  });
  return valid;
}

template bool crf(const half*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const float*, const std::uint8_t*, const std::uint8_t*, float*, const CrfParams&,
                  Context&);
template bool crf(const double*, const std::uint8_t*, const std::uint8_t*, double*,
                  const CrfParams&, Context&);

}  // namespace cuekit::cpu
