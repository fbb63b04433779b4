// Every binding, in one file that is compiled once for each backend: as cuekit._cpu, and with
// -DCUEKIT_BACKEND_CUDA as cuekit._cuda. cuekit/_kernels.pyi lists the same signatures.
//
// The Python side has checked and shaped all arguments. A binding reads sizes from the arrays,
// fills in the op's Params and calls the kernel for the array's dtype. The GIL is released during
// the kernel call. CPU kernels take it from time to time to run signal handlers; on the CUDA
// backend, allocate() takes it for a moment. Array data is not copied here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "cuekit/background.h"
#include "cuekit/bilateral_filter.h"
#include "cuekit/context.h"
#include "cuekit/crf.h"
#include "cuekit/crf_features.h"
#include "cuekit/fuse.h"
#include "cuekit/half.h"
#include "cuekit/labels.h"
#include "cuekit/mask_scores.h"
#include "cuekit/random_walk.h"
#include "cuekit/raw_cues.h"
#include "cuekit/refine_local.h"
#include "cuekit/resize.h"
#include "cuekit/snap.h"
#include "cuekit/subtract.h"
#include "cuekit/superpixel_mean.h"
#include "cuekit/suppress.h"

#ifdef CUEKIT_BACKEND_CUDA
#include "cuda/check.h"
#else
#include "cpu/interrupt.h"
#include "cpu/simd.h"
#include "cuekit/boundary_connectivity.h"
#include "cuekit/colour_evidence.h"
#include "cuekit/crf_gradient.h"
#include "cuekit/felzenszwalb.h"
#include "cuekit/resize_maps.h"
#include "cuekit/rgb_to_lab.h"
#include "cuekit/snap_masks.h"
#include "cuekit/superpixel_graph.h"
#include "cuekit/superpixel_walk.h"
#endif

namespace py = pybind11;

namespace {

using namespace cuekit;
namespace backend = cuekit::CUEKIT_BACKEND;

// ---- the GIL ----
//
// CPython ends every thread that takes the GIL once the interpreter finalizes. Before 3.14 it does
// so by unwinding the thread's stack, which aborts the process if there are C++ functions on it
// that must not throw. This happens to daemon threads that are in a kernel when the process exits.
// So from a hook at exit on, threads other than the one that exits sleep for ever instead of taking
// the GIL.

std::atomic<unsigned long> exiting_thread{0};  // 0: none. As PyThread_get_thread_ident gives it.
std::atomic<int> threads_taking_gil{0};        // that have found no exiting thread
std::atomic<unsigned long> main_thread{0};     // where Python runs signal handlers

void take_gil(PyThreadState* state) {
  ++threads_taking_gil;
  const unsigned long exiting = exiting_thread;
  if (exiting != 0 && exiting != PyThread_get_thread_ident()) {
    --threads_taking_gil;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
  PyEval_RestoreThread(state);
  --threads_taking_gil;
}

// The hook at exit. Those that are taking the GIL get it, while the interpreter is still whole.
void begin_exit() {
  exiting_thread = PyThread_get_thread_ident();
  const py::gil_scoped_release released;
  while (threads_taking_gil != 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

#if !defined(_WIN32)
// A forked child has but one thread, which is its main thread.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] {
  exiting_thread = 0;
  threads_taking_gil = 0;
  main_thread = PyThread_get_thread_ident();
});
#endif

void watch_threads() {
  // Subinterpreters end while the process goes on, and run no signal handlers.
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) return;
  exiting_thread = 0;
  main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  py::module_::import("atexit").attr("register")(py::cpp_function(&begin_exit));
}

thread_local PyThreadState* released_state = nullptr;  // of this thread, while it has no GIL

// Takes the GIL within a call that has released it.
class GilTaken {
 public:
  GilTaken() { take_gil(released_state); }
  GilTaken(const GilTaken&) = delete;
  GilTaken& operator=(const GilTaken&) = delete;
  ~GilTaken() { released_state = PyEval_SaveThread(); }
};

// Releases the GIL for a call of a kernel. In the main thread, signal handlers can end the call.
class GilReleased {
 public:
  GilReleased() : outer_(released_state) {
    released_state = PyEval_SaveThread();
#ifndef CUEKIT_BACKEND_CUDA
    if (PyThread_get_thread_ident() == main_thread) call_.emplace(&run_signal_handlers);
#endif
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;
  ~GilReleased() {
    PyThreadState* const state = released_state;
    released_state = outer_;
    take_gil(state);
  }

 private:
  PyThreadState* const outer_;  // of the kernel during which a signal handler made this call

#ifndef CUEKIT_BACKEND_CUDA
  // Whether one of them raised: then its exception is set.
  static bool run_signal_handlers() {
    const GilTaken taken;
    return PyErr_CheckSignals() != 0;
  }

  std::optional<cpu::InterruptibleCall> call_;
#endif
};

#ifndef CUEKIT_BACKEND_CUDA
void translate_interrupted(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const cpu::Interrupted&) {  // Python's exception is set
  }
}
#endif

// ---- arrays ----

// A C-contiguous array on the backend's device. `kind` is NumPy's: b, i, u or f.
struct View {
  void* data = nullptr;
  std::vector<std::int64_t> shape;
  char kind = 0;
  int itemsize = 0;

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t length : shape) product *= length;
    return product;
  }

  template <class T>
  bool holds() const {
    constexpr bool is_float = std::is_floating_point_v<T> || std::is_same_v<T, half>;
    constexpr bool is_bool = std::is_same_v<T, bool> || std::is_same_v<T, flag>;
    constexpr char wanted = is_float ? 'f' : is_bool ? 'b' : std::is_signed_v<T> ? 'i' : 'u';
    return kind == wanted && itemsize == static_cast<int>(sizeof(T));
  }

  template <class T>
  T* as() const {
    if (!holds<T>()) throw std::invalid_argument("a kernel's array has another dtype");
    return static_cast<T*>(data);
  }

  // Bool or uint8: nonzero is true.
  const std::uint8_t* as_flags() const {
    return holds<bool>() ? static_cast<const std::uint8_t*>(data) : as<std::uint8_t>();
  }

  SuperpixelsView as_superpixels() const { return {data, itemsize, kind == 'i'}; }
};

// Calls body(T()), T being the array's type, one of those listed.
template <class T, class... Others, class Body>
auto visit(const View& array, Body&& body) {
  if (array.holds<T>()) return body(T());
  if constexpr (sizeof...(Others) > 0)
    return visit<Others...>(array, body);
  else
    throw std::invalid_argument("no kernel for this dtype");
}

template <class Body>
auto visit_floating(const View& array, Body&& body) {
  return visit<half, float, double>(array, body);
}

template <class Body>
auto visit_any(const View& array, Body&& body) {
  return visit<float, half, double, flag, std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
               std::uint32_t, std::int32_t, std::uint64_t, std::int64_t>(array, body);
}

// The enumerator named `value`. `choices` are the names of all enumerators, in their order.
template <class Enum, std::size_t count>
Enum one_of(const std::string& value, const std::array<const char*, count>& choices) {
  const auto found = std::find(choices.begin(), choices.end(), value);
  if (found == choices.end()) throw std::invalid_argument("no such choice: " + value);
  return static_cast<Enum>(found - choices.begin());
}

// ---- what differs between the backends: how an array and a context come from Python ----

#ifdef CUEKIT_BACKEND_CUDA

void* address_of(const py::handle& array) {
  return reinterpret_cast<void*>(array.attr("address").cast<std::uintptr_t>());
}

// From cuekit._device.DeviceArray.
View view_of(const py::handle& array) {
  if (!array.attr("is_contiguous").cast<bool>())
    throw std::invalid_argument("a kernel's array is not C-contiguous");
  const py::object dtype = array.attr("dtype");
  return {address_of(array), array.attr("shape").cast<std::vector<std::int64_t>>(),
          dtype.attr("kind").cast<std::string>()[0], dtype.attr("itemsize").cast<int>()};
}

// From cuekit._device.Device: its current stream and its allocator. While this object exists, the
// device is this thread's current one. The destructor frees the workspace after the launches, but
// maybe before they have run: the allocator reuses memory in the order of the stream.
class Call final : public cuda::Context {
 public:
  explicit Call(const py::handle& device)
      : Context(reinterpret_cast<cudaStream_t>(device.attr("stream")().cast<std::uintptr_t>())),
        device_(py::reinterpret_borrow<py::object>(device)),
        index_(device.attr("index").cast<int>()) {
    cuda::check(cudaGetDevice(&before_));
    // cudaSetDevice may create a context on the device, so it is not called without need.
    if (before_ != index_) cuda::check(cudaSetDevice(index_));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    if (before_ != index_) static_cast<void>(cudaSetDevice(before_));
  }

  void* allocate(std::int64_t bytes) override {
    if (bytes == 0) return nullptr;
    const GilTaken taken;
    blocks_.push_back(device_.attr("allocate")(bytes));
    return address_of(blocks_.back());
  }

 private:
  py::object device_;
  std::vector<py::object> blocks_;
  int index_;
  int before_ = 0;
};

#else

View view_of(const py::handle& value) {
  const auto array = py::reinterpret_borrow<py::array>(value);
  constexpr int required = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & required) != required)
    throw std::invalid_argument("a kernel's array is not C-contiguous and aligned");
  View view;
  view.data = const_cast<void*>(array.data());
  view.shape.assign(array.shape(), array.shape() + array.ndim());
  view.kind = array.dtype().kind();
  view.itemsize = static_cast<int>(array.itemsize());
  return view;
}

struct Call : cpu::Context {
  explicit Call(const py::handle& threads) : Context{threads.cast<int>()} {}
};

#endif

}  // namespace

namespace pybind11::detail {

template <>
struct type_caster<View> {
  PYBIND11_TYPE_CASTER(View, const_name("Array"));
  bool load(handle source, bool) {
#ifndef CUEKIT_BACKEND_CUDA
    if (!isinstance<array>(source)) return false;
#endif
    if (source.is_none()) return false;
    value = view_of(source);
    return true;
  }
};

// Kernels take a Context&; it lives as long as the call.
template <>
struct type_caster<Call> {
  static constexpr auto name = const_name("Context");
  template <class>
  using cast_op_type = Call&;
  operator Call&() { return *call; }
  bool load(handle source, bool) {
    call.emplace(source);
    return true;
  }
  std::optional<Call> call;
};

}  // namespace pybind11::detail

namespace {

// ---- one binding for each kernel, in the order of _kernels.pyi ----

bool subtract(const View& maps, const View& present, const View& out, const std::string& mode,
              Call& context) {
  const SubtractParams p{maps.shape[0], maps.shape[1], maps.shape[2],
                         one_of<SubtractMode>(mode, std::array{"pairwise", "strongest", "dcsm"})};
  return visit_floating(maps, [&](auto type) {
    using T = decltype(type);
    return backend::subtract(maps.as<T>(), present.as_flags(), out.as<T>(), p, context);
  });
}

bool background_add(const View& features, const View& total, Call& context) {
  const BackgroundParams p{features.shape[0], features.shape[1], features.shape[2],
                           features.shape[3], total.shape[1],    total.shape[2]};
  return visit_floating(features, [&](auto type) {
    using T = decltype(type);
    return backend::background_add(features.as<T>(), total.as<double>(), p, context);
  });
}

bool background_normalize(const View& total, const View& out, Call& context) {
  const std::int64_t batch = total.shape[0], pixels = total.shape[1] * total.shape[2];
  return visit_floating(out, [&](auto type) {
    using T = decltype(type);
    return backend::background_normalize(total.as<double>(), out.as<T>(), batch, pixels, context);
  });
}

bool raw_foreground(const View& maps, const View& present, const View& out, double threshold,
                    Call& context) {
  const RawCuesParams p{maps.shape[0], maps.shape[1], maps.shape[2], threshold, 0.0};
  return visit_floating(maps, [&](auto type) {
    using T = decltype(type);
    return backend::raw_foreground(maps.as<T>(), present.as_flags(), out.as<bool>(), p, context);
  });
}

bool raw_background(const std::optional<View>& background, const View& out, double threshold,
                    Call& context) {
  const RawCuesParams p{out.shape[0], out.shape[1] - 1, out.shape[2], 0.0, threshold};
  if (!background) return backend::raw_background<flag>(nullptr, out.as<bool>(), p, context);
  return visit<flag, half, float, double>(*background, [&](auto type) {
    using T = decltype(type);
    return backend::raw_background<T>(background->as<T>(), out.as<bool>(), p, context);
  });
}

bool superpixel_mean(const View& values, const View& superpixels, std::int64_t num_superpixels,
                     const View& out, Call& context) {
  const SuperpixelMeanParams p{values.shape[0], values.shape[1], values.shape[2], values.shape[3],
                               num_superpixels};
  return visit_any(values, [&](auto type) {
    using T = decltype(type);
    return backend::superpixel_mean(values.as<T>(), superpixels.as_superpixels(),
                                    out.as<mean_type<T>>(), p, context);
  });
}

bool bilateral_filter(const View& values, const View& photos, const View& out, float sxy,
                      float srgb, bool normalize, bool adjoint, Call& context) {
  const BilateralFilterParams p{
      values.shape[0], values.shape[1], values.shape[2], values.shape[3], sxy, srgb,
      normalize,       adjoint};
  return visit_floating(values, [&](auto type) {
    using T = decltype(type);
    return backend::bilateral_filter(values.as<T>(), photos.as<std::uint8_t>(),
                                     out.as<filtered_type<T>>(), p, context);
  });
}

bool snap(const View& cues, const View& superpixels, std::int64_t num_superpixels, const View& out,
          double threshold, Call& context) {
  const SnapParams p{cues.shape[0], cues.shape[1], cues.shape[2], cues.shape[3],
                     out.shape[2],  out.shape[3],  threshold,     num_superpixels};
  return visit<std::uint8_t, half, float, double>(cues, [&](auto type) {
    using T = decltype(type);
    return backend::snap(cues.as<T>(), superpixels.as_superpixels(), out.as<bool>(), p, context);
  });
}

bool mask_scores(const View& maps, const View& masks, const View& area, const View& mean,
                 const std::optional<View>& top_mean, const View& inside, const View& covered,
                 double threshold, double top, Call& context) {
  const MaskScoresParams p{maps.shape[0],  maps.shape[1],  maps.shape[2],
                           maps.shape[3],  masks.shape[1], masks.shape[2],
                           masks.shape[3], threshold,      top};
  return visit<std::uint8_t, half, float, double>(maps, [&](auto type) {
    using T = decltype(type);
    return backend::mask_scores(maps.as<T>(), masks.as_flags(), area.as<std::int64_t>(),
                                mean.as<double>(), top_mean ? top_mean->as<double>() : nullptr,
                                inside.as<double>(), covered.as<double>(), p, context);
  });
}

void fuse(const std::vector<View>& sets, const View& out, Call& context) {
  std::vector<const std::uint8_t*> pointers;
  for (const View& set : sets) pointers.push_back(set.as_flags());
  const FuseParams p{static_cast<std::int64_t>(pointers.size()), out.size()};
  backend::fuse(pointers.data(), out.as<bool>(), p, context);
}

void resize(const View& cues, const View& out, const std::string& rule, Call& context) {
  const ResizeParams p{
      cues.shape[0], cues.shape[1], cues.shape[2],
      out.shape[1],  out.shape[2],  one_of<ResizeRule>(rule, std::array{"nearest", "any", "half"})};
  backend::resize(cues.as_flags(), out.as<bool>(), p, context);
}

void labels(const View& cues, const std::vector<std::int64_t>& class_ids, const View& out,
            const std::string& overlap, const std::string& background_overlap, std::int64_t unknown,
            std::int64_t ignore, Call& context) {
  const LabelsParams p{cues.shape[0],
                       cues.shape[1],
                       cues.shape[2],
                       one_of<ForegroundOverlap>(overlap, std::array{"smallest", "ignore"}),
                       one_of<BackgroundOverlap>(background_overlap,
                                                 std::array{"foreground", "background", "ignore"}),
                       unknown,
                       ignore};
  if (static_cast<std::int64_t>(class_ids.size()) != p.channels)
    throw std::invalid_argument("class_ids has another length than cues has channels");
  visit<std::uint8_t, std::int32_t>(out, [&](auto type) {
    using L = decltype(type);
    backend::labels(cues.as_flags(), class_ids.data(), out.as<L>(), p, context);
  });
}

bool suppress(const View& scores, const View& present, const View& out, double margin,
              Call& context) {
  const SuppressParams p{scores.shape[0], scores.shape[1], scores.shape[2], margin};
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    return backend::suppress(scores.as<T>(), present.as_flags(), out.as<T>(), p, context);
  });
}

bool refine_local(const View& maps, const View& photos, const View& out,
                  const std::string& affinity, const std::vector<std::int32_t>& dilations,
                  std::int64_t iterations, bool channels_first, Call& context) {
  const std::size_t axis = channels_first ? 1 : 3;
  RefineLocalParams p{maps.shape[0],
                      maps.shape[1],
                      maps.shape[2],
                      maps.shape[3],
                      out.shape[2],
                      out.shape[3],
                      photos.shape[axis],
                      channels_first,
                      one_of<LocalAffinity>(affinity, std::array{"par", "pamr"}),
                      iterations,
                      static_cast<int>(dilations.size()),
                      {},
                      {},
                      {}};
  if (dilations.empty() || dilations.size() > most_dilations)
    throw std::invalid_argument("no kernel for this number of dilations");
  std::copy(dilations.begin(), dilations.end(), p.dilations);
  set_distance_weights(&p);
  return visit_floating(maps, [&](auto type) {
    using T = decltype(type);
    return visit<std::uint8_t, half, float, double>(photos, [&](auto photo_type) {
      using P = decltype(photo_type);
      return backend::refine_local(maps.as<T>(), photos.as<P>(), out.as<T>(), p, context);
    });
  });
}

bool crf(const View& scores, const View& photos, const View& present, const View& out,
         float gaussian_weight, float gaussian_sxy, float bilateral_weight, float bilateral_sxy,
         float bilateral_srgb, bool energies, std::int64_t iterations, float epsilon,
         const std::string& storage, Call& context) {
  enum class Storage { float32, float16 };
  const bool half_storage =
      one_of<Storage>(storage, std::array{"float32", "float16"}) == Storage::float16;
  const CrfParams p{scores.shape[0], scores.shape[1], scores.shape[2],  scores.shape[3],
                    gaussian_weight, gaussian_sxy,    bilateral_weight, bilateral_sxy,
                    bilateral_srgb,  energies,        iterations,       epsilon,
                    half_storage};
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    return backend::crf(scores.as<T>(), photos.as<std::uint8_t>(), present.as_flags(),
                        out.as<marginal_type<T>>(), p, context);
  });
}

bool random_walk(const View& maps, const std::optional<View>& boundary,
                 const std::optional<View>& affinities, const View& out, int radius, double beta,
                 std::int64_t steps, Call& context) {
  const RandomWalkParams p{maps.shape[0], maps.shape[1], maps.shape[2],
                           maps.shape[3], radius,        affinities ? affinities->shape[1] : 0,
                           beta,          steps};
  return visit_floating(maps, [&](auto type) {
    using T = decltype(type);
    return visit_floating(boundary ? *boundary : affinities.value(), [&](auto other_type) {
      using E = decltype(other_type);
      return backend::random_walk(maps.as<T>(), boundary ? boundary->as<E>() : nullptr,
                                  affinities ? affinities->as<E>() : nullptr, out.as<T>(), p,
                                  context);
    });
  });
}

CrfNormalisation crf_normalisation(const std::string& name) {
  return one_of<CrfNormalisation>(name, std::array{"symmetric", "before", "after", "none"});
}

#ifdef CUEKIT_BACKEND_CUDA

std::int64_t crf_filter_bytes(int features, std::int64_t points, const std::string& normalization) {
  return cuda::crf_filter_bytes(features, points, crf_normalisation(normalization));
}

void crf_filter(const View& features, const std::string& normalization, const View& memory,
                Call& context) {
  cuda::crf_filter(features.as<float>(), features.shape[1],
                   {memory.as<std::uint8_t>(), static_cast<int>(features.shape[0]),
                    crf_normalisation(normalization)},
                   context);
}

void crf_photo_features(const View& photo, const View& features, float sx, float sy,
                        const std::vector<float>& channel_widths, Call& context) {
  visit<std::uint8_t, std::uint16_t, half, float, double>(photo, [&](auto type) {
    using T = decltype(type);
    cuda::crf_photo_features(photo.as<T>(), features.as<float>(), photo.shape[0], photo.shape[1],
                             sx, sy, channel_widths, context);
  });
}

bool crf_features(const View& scores, const View& present, const std::optional<View>& start,
                  const View& out, const std::optional<View>& energy,
                  const std::optional<View>& change, const std::vector<View>& filters,
                  const std::vector<int>& counts, const std::vector<std::string>& normalizations,
                  const std::vector<View>& gains, bool energies, std::int64_t iterations,
                  float epsilon, Call& context) {
  const CrfFeaturesParams p{scores.shape[0], scores.shape[1],
                            energies,        iterations,
                            epsilon,         energy && energy->shape[0] > iterations};
  std::vector<cuda::CrfFilter> kernels;
  for (std::size_t f = 0; f < filters.size(); ++f)
    kernels.push_back(
        {filters[f].as<std::uint8_t>(), counts.at(f), crf_normalisation(normalizations.at(f))});
  std::vector<cuda::CrfTerm> terms;
  for (std::size_t f = 0; f < filters.size(); ++f)
    terms.push_back({&kernels[f], gains.at(f).as<float>(), gains.at(f).shape.size() == 1});
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    using Q = marginal_type<T>;
    return cuda::crf_features(scores.as<T>(), present.as_flags(), start ? start->as<Q>() : nullptr,
                              out.as<Q>(), energy ? energy->as<double>() : nullptr,
                              change ? change->as<float>() : nullptr, terms, p, context);
  });
}

#else

bool felzenszwalb(const View& photos, const View& weights, const View& out, double scale,
                  std::int64_t min_size, Call& context) {
  const FelzenszwalbParams p{
      photos.shape[0],      photos.shape[1],    photos.shape[2], photos.shape[3],
      weights.as<double>(), weights.size() - 1, scale,           min_size};
  return visit<std::uint8_t, half, float, double>(photos, [&](auto type) {
    using T = decltype(type);
    return backend::felzenszwalb(photos.as<T>(), out.as<std::int32_t>(), p, context);
  });
}

void resize_maps(const View& maps, const View& out, Call& context) {
  const ResizeMapsParams p{maps.shape[0], maps.shape[1], maps.shape[2], out.shape[1], out.shape[2]};
  visit<half, float, double>(maps, [&](auto type) {
    using T = decltype(type);
    backend::resize_maps(maps.as<T>(), out.as<T>(), p, context);
  });
}

bool snap_masks(const View& cues, const View& masks, const View& out, double threshold,
                const std::string& accept, Call& context) {
  const SnapMasksParams p{
      cues.shape[0], cues.shape[1],  cues.shape[2],
      cues.shape[3], masks.shape[1], out.shape[2],
      out.shape[3],  threshold,      one_of<MaskRule>(accept, std::array{"mean", "sepl"})};
  return visit<std::uint8_t, half, float, double>(cues, [&](auto type) {
    using T = decltype(type);
    return backend::snap_masks(cues.as<T>(), masks.as_flags(), out.as<bool>(), p, context);
  });
}

void rgb_to_lab(const View& image, const View& out, Call& context) {
  const RgbToLabParams p{image.shape[0]};
  visit<float, double>(out, [&](auto type) {
    using T = decltype(type);
    backend::rgb_to_lab(image.as<std::uint8_t>(), out.as<T>(), p, context);
  });
}

void colour_evidence(const View& probabilities, const View& image, const View& weights,
                     const View& out, std::int64_t bins, double floor, double limit,
                     Call& context) {
  const ColourEvidenceParams p{probabilities.shape[0],
                               probabilities.shape[1],
                               probabilities.shape[2],
                               bins,
                               weights.as<double>(),
                               weights.size() - 1,
                               floor,
                               limit};
  visit<float, double>(out, [&](auto type) {
    using T = decltype(type);
    visit<std::uint8_t, float>(image, [&](auto colour) {
      using C = decltype(colour);
      backend::colour_evidence(probabilities.as<T>(), image.as<C>(), out.as<T>(), p, context);
    });
  });
}

void superpixel_graph(const View& superpixels, const View& labels, const View& counts,
                      const View& edges, const View& lengths, const View& nodes, Call& context) {
  const SuperpixelGraphParams p{labels.shape[0], labels.shape[1]};
  backend::superpixel_graph(superpixels.as_superpixels(), labels.as<std::int32_t>(),
                            counts.as<std::int64_t>(), edges.as<std::int32_t>(),
                            lengths.as<std::int64_t>(), nodes.as<std::int64_t>(), p, context);
}

void superpixel_colours(const View& image, const View& labels, const View& colours, Call& context) {
  const SuperpixelGraphParams p{labels.shape[0], labels.shape[1]};
  backend::superpixel_colours(image.as<std::uint8_t>(), labels.as<std::int32_t>(),
                              colours.as<double>(), colours.shape[0], p, context);
}

bool superpixel_table(const View& values, const View& labels, const View& table, Call& context) {
  const SuperpixelGraphParams p{values.shape[1], values.shape[2]};
  return visit_any(values, [&](auto type) {
    using T = decltype(type);
    return backend::superpixel_table(values.as<T>(), labels.as<std::int32_t>(),
                                     table.as<mean_type<T>>(), values.shape[0], table.shape[1], p,
                                     context);
  });
}

void superpixel_walk(const View& values, const View& edges, const View& lengths,
                     const View& colours, const View& out, double restart, double sigma,
                     Call& context) {
  const SuperpixelWalkParams p{values.shape[0],  values.shape[1], edges.shape[0],
                               colours.shape[1], restart,         sigma};
  backend::superpixel_walk(values.as<double>(), edges.as<std::int32_t>(),
                           lengths.as<std::int64_t>(), colours.as<double>(), out.as<double>(), p,
                           context);
}

void boundary_connectivity(const View& edges, const View& sizes, const View& border_pixels,
                           const View& centres, const View& colours, const View& connectivity,
                           const View& contrast, double sigma, double clip, double spatial_sigma,
                           Call& context) {
  const BoundaryConnectivityParams p{
      colours.shape[0], edges.shape[0], colours.shape[1], sigma, clip, spatial_sigma};
  backend::boundary_connectivity(edges.as<std::int32_t>(), sizes.as<std::int64_t>(),
                                 border_pixels.as<std::int64_t>(), centres.as<double>(),
                                 colours.as<double>(), connectivity.as<double>(),
                                 contrast.as<double>(), p, context);
}

cpu::CrfOrder crf_order(const View& features, Call& context) {
  return cpu::crf_order(features.as<float>(), static_cast<int>(features.shape[0]),
                        features.shape[1], context);
}

cpu::CrfFilter crf_filter(const View& features, const std::string& normalization,
                          const cpu::CrfOrder* order, Call& context) {
  return cpu::crf_filter(features.as<float>(), static_cast<int>(features.shape[0]),
                         features.shape[1], crf_normalisation(normalization),
                         order == nullptr ? cpu::CrfOrder{} : *order, context);
}

cpu::CrfFilter crf_photo_filter(const View& photo, float sxy, float srgb, float weight,
                                Call& context) {
  return cpu::crf_photo_filter(photo.as<std::uint8_t>(), photo.shape[0], photo.shape[1], sxy, srgb,
                               weight, context);
}

bool crf_of_photo(const View& scores, const cpu::CrfFilter& bilateral, const View& present,
                  const View& out, float gaussian_weight, float gaussian_sxy, bool energies,
                  std::int64_t iterations, float epsilon, Call& context) {
  CrfParams p{};
  p.batch = 1;
  p.channels = scores.shape[0];
  p.height = scores.shape[1];
  p.width = scores.shape[2];
  p.gaussian_weight = gaussian_weight;
  p.gaussian_sxy = gaussian_sxy;
  p.energies = energies;
  p.iterations = iterations;
  p.epsilon = epsilon;
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    return cpu::crf_of_photo(scores.as<T>(), bilateral, present.as_flags(),
                             out.as<marginal_type<T>>(), p, context);
  });
}

std::vector<cpu::CrfTerm> crf_terms(const std::vector<const cpu::CrfFilter*>& filters,
                                    const std::vector<View>& gains) {
  std::vector<cpu::CrfTerm> terms;
  for (std::size_t f = 0; f < filters.size(); ++f) {
    if (filters[f]->order != filters[0]->order)
      throw std::invalid_argument("filters must have one order of points");
    terms.push_back({filters[f], gains.at(f).as<float>(), gains.at(f).shape.size() == 1});
  }
  return terms;
}

bool crf_features(const View& scores, const View& present, const std::optional<View>& start,
                  const View& out, const std::optional<View>& energy,
                  const std::vector<const cpu::CrfFilter*>& filters, const std::vector<View>& gains,
                  bool energies, std::int64_t iterations, float epsilon, Call& context) {
  const CrfFeaturesParams p{scores.shape[0], scores.shape[1],
                            energies,        iterations,
                            epsilon,         energy && energy->shape[0] > iterations};
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    using Q = marginal_type<T>;
    return cpu::crf_features(scores.as<T>(), present.as_flags(), start ? start->as<Q>() : nullptr,
                             out.as<Q>(), energy ? energy->as<double>() : nullptr,
                             crf_terms(filters, gains), p, context);
  });
}

std::vector<cpu::CrfRecord> crf_recorded(const View& scores, const View& photos,
                                         const View& present, const View& out,
                                         float gaussian_weight, float gaussian_sxy,
                                         float bilateral_weight, float bilateral_sxy,
                                         float bilateral_srgb, bool energies,
                                         std::int64_t iterations, float epsilon, Call& context) {
  const CrfParams p{scores.shape[0],
                    scores.shape[1],
                    scores.shape[2],
                    scores.shape[3],
                    gaussian_weight,
                    gaussian_sxy,
                    bilateral_weight,
                    bilateral_sxy,
                    bilateral_srgb,
                    energies,
                    iterations,
                    epsilon,
                    false};
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    return cpu::crf_recorded(scores.as<T>(), photos.as<std::uint8_t>(), present.as_flags(),
                             out.as<marginal_type<T>>(), p, context);
  });
}

std::vector<cpu::CrfRecord> crf_features_recorded(const View& scores, const View& present,
                                                  const View& out,
                                                  const std::vector<const cpu::CrfFilter*>& filters,
                                                  const std::vector<View>& gains, bool energies,
                                                  std::int64_t iterations, float epsilon,
                                                  Call& context) {
  const CrfFeaturesParams p{scores.shape[0], scores.shape[1], energies, iterations, epsilon, false};
  return visit_floating(scores, [&](auto type) {
    using T = decltype(type);
    return cpu::crf_features_recorded(scores.as<T>(), present.as_flags(),
                                      out.as<marginal_type<T>>(), crf_terms(filters, gains), p,
                                      context);
  });
}

void crf_gradient(const std::vector<cpu::CrfRecord>& records, const View& of_out,
                  const View& of_logits, const std::vector<std::optional<View>>& of_gains,
                  Call& context) {
  std::vector<double*> gains;
  for (const auto& each : of_gains) gains.push_back(each ? each->as<double>() : nullptr);
  visit<float, double>(of_out, [&](auto type) {
    using Q = decltype(type);
    cpu::crf_gradient(records, of_out.as<Q>(), of_logits.as<Q>(), gains, of_out.shape[1], context);
  });
}

constexpr std::array instruction_sets{"baseline", "avx2", "avx512"};

void set_instruction_set(const std::string& name) {
  const auto wanted = one_of<cpu::InstructionSet>(name, instruction_sets);
  cpu::instruction_set = std::min(wanted, cpu::best_instruction_set());
}

std::string name_of(cpu::InstructionSet set) {
  return instruction_sets[static_cast<std::size_t>(set)];
}

std::string instruction_set() { return name_of(cpu::instruction_set); }

std::string widest_instruction_set() { return name_of(cpu::best_instruction_set()); }

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc";
#else
  return "unknown";
#endif
}

#endif

}  // namespace

PYBIND11_MODULE(CUEKIT_MODULE, m, py::mod_gil_not_used()) {
  using py::arg;
  const auto kernel = [&](const char* name, auto function, auto... arguments) {
    m.def(name, function, arguments..., py::call_guard<GilReleased>());
  };
  watch_threads();
#ifndef CUEKIT_BACKEND_CUDA
  // pybind11 looks up NumPy's functions once, and releases and takes the GIL for it: here, and not
  // in a daemon thread's first call, which the exit of the process could end in between.
  static_cast<void>(py::detail::npy_api::get());
#endif
  m.doc() = "Kernels of cuekit for one backend; private, see cuekit's own functions.";
  kernel("subtract", subtract, arg("maps"), arg("present"), arg("out"), arg("mode"),
         arg("context"));
  kernel("background_add", background_add, arg("features"), arg("total"), arg("context"));
  kernel("background_normalize", background_normalize, arg("total"), arg("out"), arg("context"));
  kernel("raw_foreground", raw_foreground, arg("maps"), arg("present"), arg("out"),
         arg("threshold"), arg("context"));
  kernel("raw_background", raw_background, arg("background"), arg("out"), arg("threshold"),
         arg("context"));
  kernel("superpixel_mean", superpixel_mean, arg("values"), arg("superpixels"),
         arg("num_superpixels"), arg("out"), arg("context"));
  kernel("bilateral_filter", bilateral_filter, arg("values"), arg("photos"), arg("out"), arg("sxy"),
         arg("srgb"), arg("normalize"), arg("adjoint"), arg("context"));
  kernel("snap", snap, arg("cues"), arg("superpixels"), arg("num_superpixels"), arg("out"),
         arg("threshold"), arg("context"));
  kernel("mask_scores", mask_scores, arg("maps"), arg("masks"), arg("area"), arg("mean"),
         arg("top_mean"), arg("inside"), arg("covered"), arg("threshold"), arg("top"),
         arg("context"));
  kernel("fuse", fuse, arg("sets"), arg("out"), arg("context"));
  kernel("resize", resize, arg("cues"), arg("out"), arg("rule"), arg("context"));
  kernel("labels", labels, arg("cues"), arg("class_ids"), arg("out"), arg("overlap"),
         arg("background_overlap"), arg("unknown"), arg("ignore"), arg("context"));
  kernel("suppress", suppress, arg("scores"), arg("present"), arg("out"), arg("margin"),
         arg("context"));
  kernel("refine_local", refine_local, arg("maps"), arg("photos"), arg("out"), arg("affinity"),
         arg("dilations"), arg("iterations"), arg("channels_first"), arg("context"));
  kernel("crf", crf, arg("scores"), arg("photos"), arg("present"), arg("out"),
         arg("gaussian_weight"), arg("gaussian_sxy"), arg("bilateral_weight"), arg("bilateral_sxy"),
         arg("bilateral_srgb"), arg("energies"), arg("iterations"), arg("epsilon"), arg("storage"),
         arg("context"));
  kernel("random_walk", random_walk, arg("maps"), arg("boundary"), arg("affinities"), arg("out"),
         arg("radius"), arg("beta"), arg("steps"), arg("context"));
#ifdef CUEKIT_BACKEND_CUDA
  m.def("crf_filter_bytes", &crf_filter_bytes, arg("features"), arg("points"),
        arg("normalization"));
  kernel("crf_filter", crf_filter, arg("features"), arg("normalization"), arg("memory"),
         arg("context"));
  kernel("crf_photo_features", crf_photo_features, arg("photo"), arg("features"), arg("sx"),
         arg("sy"), arg("channel_widths"), arg("context"));
  kernel("crf_features", crf_features, arg("scores"), arg("present"), arg("start"), arg("out"),
         arg("energy"), arg("change"), arg("filters"), arg("counts"), arg("normalizations"),
         arg("gains"), arg("energies"), arg("iterations"), arg("epsilon"), arg("context"));
  m.attr("version") = CUEKIT_CUDA_VERSION;
  m.attr("architectures") = CUEKIT_CUDA_ARCHITECTURES;
#else
  py::register_local_exception_translator(&translate_interrupted);
  kernel("felzenszwalb", felzenszwalb, arg("photos"), arg("weights"), arg("out"), arg("scale"),
         arg("min_size"), arg("context"));
  kernel("resize_maps", resize_maps, arg("maps"), arg("out"), arg("context"));
  kernel("snap_masks", snap_masks, arg("cues"), arg("masks"), arg("out"), arg("threshold"),
         arg("accept"), arg("context"));
  kernel("rgb_to_lab", rgb_to_lab, arg("image"), arg("out"), arg("context"));
  kernel("colour_evidence", colour_evidence, arg("probabilities"), arg("image"), arg("weights"),
         arg("out"), arg("bins"), arg("floor"), arg("limit"), arg("context"));
  kernel("superpixel_graph", superpixel_graph, arg("superpixels"), arg("labels"), arg("counts"),
         arg("edges"), arg("lengths"), arg("nodes"), arg("context"));
  kernel("superpixel_colours", superpixel_colours, arg("image"), arg("labels"), arg("colours"),
         arg("context"));
  kernel("superpixel_table", superpixel_table, arg("values"), arg("labels"), arg("table"),
         arg("context"));
  kernel("superpixel_walk", superpixel_walk, arg("values"), arg("edges"), arg("lengths"),
         arg("colours"), arg("out"), arg("restart"), arg("sigma"), arg("context"));
  kernel("boundary_connectivity", boundary_connectivity, arg("edges"), arg("sizes"),
         arg("border_pixels"), arg("centres"), arg("colours"), arg("connectivity"), arg("contrast"),
         arg("sigma"), arg("clip"), arg("spatial_sigma"), arg("context"));
  // CrfOrder, CrfFilter and CrfRecord are not public names.
  py::class_<cpu::CrfOrder>(py::handle(), "CrfOrder", py::module_local());
  kernel("crf_order", crf_order, arg("features"), arg("context"));
  py::class_<cpu::CrfFilter>(py::handle(), "CrfFilter", py::module_local());
  kernel("crf_filter", crf_filter, arg("features"), arg("normalization"), arg("order"),
         arg("context"));
  kernel("crf_features", crf_features, arg("scores"), arg("present"), arg("start"), arg("out"),
         arg("energy"), arg("filters"), arg("gains"), arg("energies"), arg("iterations"),
         arg("epsilon"), arg("context"));
  kernel("crf_photo_filter", crf_photo_filter, arg("photo"), arg("sxy"), arg("srgb"), arg("weight"),
         arg("context"));
  kernel("crf_of_photo", crf_of_photo, arg("scores"), arg("bilateral"), arg("present"), arg("out"),
         arg("gaussian_weight"), arg("gaussian_sxy"), arg("energies"), arg("iterations"),
         arg("epsilon"), arg("context"));
  py::class_<cpu::CrfRecord>(py::handle(), "CrfRecord", py::module_local());
  kernel("crf_recorded", crf_recorded, arg("scores"), arg("photos"), arg("present"), arg("out"),
         arg("gaussian_weight"), arg("gaussian_sxy"), arg("bilateral_weight"), arg("bilateral_sxy"),
         arg("bilateral_srgb"), arg("energies"), arg("iterations"), arg("epsilon"), arg("context"));
  kernel("crf_features_recorded", crf_features_recorded, arg("scores"), arg("present"), arg("out"),
         arg("filters"), arg("gains"), arg("energies"), arg("iterations"), arg("epsilon"),
         arg("context"));
  kernel("crf_gradient", crf_gradient, arg("records"), arg("of_out"), arg("of_logits"),
         arg("of_gains"), arg("context"));
  m.def("set_instruction_set", &set_instruction_set, arg("name"),
        "Use these instructions, or the best the processor has where it lacks them.");
  m.def("instruction_set", &instruction_set, "The instructions that the kernels use.");
  m.def("widest_instruction_set", &widest_instruction_set, "The best that the processor has.");
  m.attr("compiler") = compiler();
  m.attr("cuda_missing") = CUEKIT_CUDA_MISSING;  // why _cuda was not built, or empty
#endif
}
