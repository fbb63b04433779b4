// Every CUDA kernel's declaration. Pointers are to memory of one device, arrays C-contiguous with
// the layouts given in include/cuekit/<op>.h. Work is put on the stream and not waited for; nothing
// is allocated: where a kernel needs workspace, its <op>_workspace says how many bytes. Values are
// not checked; no value and no label leads out of bounds.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuekit/background.h"
#include "cuekit/dense_crf.h"
#include "cuekit/fuse.h"
#include "cuekit/half.h"
#include "cuekit/labels.h"
#include "cuekit/labels_view.h"
#include "cuekit/raw_cues.h"
#include "cuekit/resize.h"
#include "cuekit/snap.h"
#include "cuekit/subtract.h"
#include "cuekit/superpixel_mean.h"
#include "cuekit/suppress.h"

namespace cuekit::cuda {

std::int64_t subtract_workspace(const SubtractParams& p);
template <class T>
void subtract(const T* maps, const std::uint8_t* present, T* out, const SubtractParams& p,
              void* workspace, cudaStream_t stream);

std::int64_t background_add_workspace(const BackgroundParams& p);
// Adds the feature tensor's resized channel sum to total (B, H, W); the caller starts it at zero.
template <class T>
void background_add(const T* features, double* total, const BackgroundParams& p, void* workspace,
                    cudaStream_t stream);
std::int64_t background_normalize_workspace(std::int64_t batch, std::int64_t pixels);
template <class T>
void background_normalize(const double* total, T* out, std::int64_t batch, std::int64_t pixels,
                          void* workspace, cudaStream_t stream);

// Fills channels 1..C; channel 0 is raw_background's.
std::int64_t raw_foreground_workspace(const RawCuesParams& p);
template <class T>
void raw_foreground(const T* maps, const std::uint8_t* present, bool* out, const RawCuesParams& p,
                    void* workspace, cudaStream_t stream);
// T is floating, or flag for a background cue; null is none.
template <class T>
void raw_background(const T* background, bool* out, const RawCuesParams& p, cudaStream_t stream);

// Superpixels are numbered below `num_superpixels`, which is at most H * W; pixels with other
// labels are in none: their means are 0.
std::int64_t superpixel_mean_workspace(const SuperpixelMeanParams& p, std::int64_t num_superpixels);
template <class T>
void superpixel_mean(const T* values, const LabelsView& superpixels, std::int64_t num_superpixels,
                     mean_type<T>* out, const SuperpixelMeanParams& p, void* workspace,
                     cudaStream_t stream);

std::int64_t snap_workspace(const SnapParams& p, std::int64_t num_superpixels);
// T is std::uint8_t (nonzero = on) or floating.
template <class T>
void snap(const T* cues, const LabelsView& superpixels, std::int64_t num_superpixels, bool* out,
          const SnapParams& p, void* workspace, cudaStream_t stream);

void fuse(const std::uint8_t* const* sets, bool* out, const FuseParams& p, cudaStream_t stream);

void resize(const std::uint8_t* cues, bool* out, const ResizeParams& p, cudaStream_t stream);

constexpr int max_label_channels = 960;  // their names travel as a kernel's argument
std::int64_t labels_workspace(const LabelsParams& p);
// `classes` is in host memory, at most max_label_channels.
template <class L>
void labels(const std::uint8_t* cues, const std::int64_t* classes, L* out, const LabelsParams& p,
            void* workspace, cudaStream_t stream);

template <class T>
void suppress(const T* scores, const std::uint8_t* present, T* out, const SuppressParams& p,
              cudaStream_t stream);

// The kernel that compares positions only, which has no lattice of its own here.
struct GaussianParams {
  float weight, sxy;
};
// Both throw where widths are too small for a photo's size. half_storage: what filters work on is
// stored as float16.
std::int64_t dense_crf_workspace(const DenseCrfParams& p, const GaussianParams& gaussian,
                                 bool half_storage);
template <class T>
void dense_crf(const T* scores, const std::uint8_t* photos, const std::uint8_t* present, T* out,
               const DenseCrfParams& p, const GaussianParams& gaussian, bool half_storage,
               void* workspace, cudaStream_t stream);

}  // namespace cuekit::cuda
