// Every CPU kernel's declaration. Arrays are C-contiguous with the layouts given in
// include/cuekit/<op>.h; `threads` is at least 1 and never changes a bit of the result. Kernels
// that read floating values return false when one of them was not finite; the output is then
// undefined.
#pragma once

#include <cstdint>

#include "cuekit/background.h"
#include "cuekit/dense_crf.h"
#include "cuekit/felzenszwalb.h"
#include "cuekit/fuse.h"
#include "cuekit/half.h"
#include "cuekit/labels.h"
#include "cuekit/labels_view.h"
#include "cuekit/raw_cues.h"
#include "cuekit/resize.h"
#include "cuekit/snap.h"
#include "cuekit/snap_masks.h"
#include "cuekit/subtract.h"
#include "cuekit/superpixel_mean.h"
#include "cuekit/suppress.h"

namespace cuekit::cpu {

struct Lattice;  // permutohedral.h

template <class T>
bool subtract(const T* maps, const bool* present, T* out, const SubtractParams& p, int threads);

// Adds the feature tensor's resized channel sum to total (B, H, W); the caller starts it at zero.
template <class T>
bool background_add(const T* features, double* total, const BackgroundParams& p, int threads);
// Min-max normalises total (B, pixels) into out; false when a range is not finite.
template <class T>
bool background_normalize(const double* total, T* out, std::int64_t batch, std::int64_t pixels,
                          int threads);

// Fills channels 1..C; channel 0 is raw_background's.
template <class T>
bool raw_foreground(const T* maps, const bool* present, bool* out, const RawCuesParams& p,
                    int threads);
template <class T>
bool raw_background(const T* background, bool* out, const RawCuesParams& p, int threads);

// T is std::uint8_t or floating.
template <class T>
bool felzenszwalb(const T* photos, std::int32_t* labels, const FelzenszwalbParams& p, int threads);

// Writes the background's and the present classes' channels only. `spatial` is null where its
// weight is 0. Throws std::invalid_argument when the widths are too small for the photo's size.
template <class T>
bool dense_crf(const T* scores, const std::uint8_t* photos, const bool* present, T* out,
               const Lattice* spatial, const DenseCrfParams& p, int threads);

template <class T>
bool superpixel_mean(const T* values, const LabelsView& superpixels, mean_type<T>* out,
                     const SuperpixelMeanParams& p, int threads);

// T is std::uint8_t (nonzero = on) or floating, as for snap_masks.
template <class T>
bool snap(const T* cues, const LabelsView& superpixels, bool* out, const SnapParams& p,
          int threads);
template <class T>
bool snap_masks(const T* cues, const std::uint8_t* masks, bool* out, const SnapMasksParams& p,
                int threads);

void fuse(const std::uint8_t* const* sets, bool* out, const FuseParams& p, int threads);

void resize(const std::uint8_t* cues, bool* out, const ResizeParams& p, int threads);

template <class L>
void labels(const std::uint8_t* cues, const std::int64_t* classes, L* out, const LabelsParams& p,
            int threads);

template <class T>
bool suppress(const T* scores, const bool* present, T* out, const SuppressParams& p, int threads);

}  // namespace cuekit::cpu
