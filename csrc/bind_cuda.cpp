// Every binding of the CUDA kernels. The Python side has checked and shaped everything and hands
// over arrays as it describes them (cuekit/_arrays.py: address, shape, dtype) and their device,
// which allocates workspace and names the stream. Nothing here waits for the GPU.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/check.h"
#include "cuda/kernels.h"

namespace py = pybind11;

namespace {

using namespace cuekit;

// An array on the device. Kind and size of its items are NumPy's.
struct View {
  void* data;
  std::vector<std::int64_t> shape;
  char kind;
  int itemsize;

  explicit View(const py::handle& array)
      : data(reinterpret_cast<void*>(array.attr("address").cast<std::uintptr_t>())),
        shape(array.attr("shape").cast<std::vector<std::int64_t>>()),
        kind(array.attr("dtype").attr("kind").cast<std::string>()[0]),
        itemsize(array.attr("dtype").attr("itemsize").cast<int>()) {}

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t length : shape) product *= length;
    return product;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// The caller's stream on the arrays' device, which is current while this lives.
class Call {
 public:
  explicit Call(py::object device)
      : device_(std::move(device)),
        index_(device_.attr("index").cast<int>()),
        stream_(reinterpret_cast<cudaStream_t>(device_.attr("stream")().cast<std::uintptr_t>())) {
    cuda::check(cudaGetDevice(&before_));
    // Setting a device, even back, would make a context on one that is not used.
    if (before_ != index_) cuda::check(cudaSetDevice(index_));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    if (before_ != index_) static_cast<void>(cudaSetDevice(before_));
  }

  cudaStream_t stream() const { return stream_; }

  // Freed with this: after the launches, on whose stream the allocator reuses it.
  void* workspace(std::int64_t bytes) {
    if (bytes == 0) return nullptr;
    workspace_ = device_.attr("allocate")(bytes);
    return View(workspace_).data;
  }

 private:
  py::object device_;
  py::object workspace_;
  int index_;
  int before_ = 0;
  cudaStream_t stream_;
};

template <class Body>
void with_floating(const View& view, Body body) {
  switch (view.itemsize) {
    case 2:
      return body(half{});
    case 4:
      return body(float{});
    default:
      return body(double{});
  }
}

template <class Body>
void with_any(const View& view, Body body) {
  if (view.kind == 'f') return with_floating(view, body);
  if (view.kind == 'b') return body(flag{});
  const bool is_signed = view.kind == 'i';
  switch (view.itemsize) {
    case 1:
      return is_signed ? body(std::int8_t{}) : body(std::uint8_t{});
    case 2:
      return is_signed ? body(std::int16_t{}) : body(std::uint16_t{});
    case 4:
      return is_signed ? body(std::int32_t{}) : body(std::uint32_t{});
    default:
      return is_signed ? body(std::int64_t{}) : body(std::uint64_t{});
  }
}

LabelsView view_labels(const View& labels) {
  return {labels.data, labels.itemsize, labels.kind == 'i'};
}

void subtract(const py::object& maps, const py::object& present, const py::object& out,
              const std::string& mode, const py::object& device) {
  const View in(maps);
  const SubtractParams p{in.shape[0], in.shape[1], in.shape[2],
                         mode == "pairwise"    ? SubtractMode::pairwise
                         : mode == "strongest" ? SubtractMode::strongest
                                               : SubtractMode::dcsm};
  Call call(device);
  with_floating(in, [&](auto type) {
    using T = decltype(type);
    cuda::subtract(in.as<T>(), View(present).as<std::uint8_t>(), View(out).as<T>(), p,
                   call.workspace(cuda::subtract_workspace(p)), call.stream());
  });
}

void background_add(const py::object& features, const py::object& total, const py::object& device) {
  const View in(features), sum(total);
  const BackgroundParams p{in.shape[0], in.shape[1],  in.shape[2],
                           in.shape[3], sum.shape[1], sum.shape[2]};
  Call call(device);
  with_floating(in, [&](auto type) {
    cuda::background_add(in.as<decltype(type)>(), sum.as<double>(), p,
                         call.workspace(cuda::background_add_workspace(p)), call.stream());
  });
}

void background_normalize(const py::object& total, const py::object& out,
                          const py::object& device) {
  const View in(total), result(out);
  const std::int64_t batch = in.shape[0], pixels = in.shape[1] * in.shape[2];
  Call call(device);
  with_floating(result, [&](auto type) {
    cuda::background_normalize(in.as<double>(), result.as<decltype(type)>(), batch, pixels,
                               call.workspace(cuda::background_normalize_workspace(batch, pixels)),
                               call.stream());
  });
}

void raw_foreground(const py::object& maps, const py::object& present, const py::object& out,
                    double threshold, const py::object& device) {
  const View in(maps);
  const RawCuesParams p{in.shape[0], in.shape[1], in.shape[2], threshold, 0.0};
  Call call(device);
  with_floating(in, [&](auto type) {
    cuda::raw_foreground(in.as<decltype(type)>(), View(present).as<std::uint8_t>(),
                         View(out).as<bool>(), p, call.workspace(cuda::raw_foreground_workspace(p)),
                         call.stream());
  });
}

// A floating background map, a bool cue, or None.
void raw_background(const py::object& background, const py::object& out, double threshold,
                    const py::object& device) {
  const View result(out);
  const RawCuesParams p{result.shape[0], result.shape[1] - 1, result.shape[2], 0.0, threshold};
  Call call(device);
  if (background.is_none()) {
    cuda::raw_background<flag>(nullptr, result.as<bool>(), p, call.stream());
    return;
  }
  const View in(background);
  if (in.kind == 'b') {
    cuda::raw_background(in.as<const flag>(), result.as<bool>(), p, call.stream());
    return;
  }
  with_floating(in, [&](auto type) {
    cuda::raw_background(in.as<const decltype(type)>(), result.as<bool>(), p, call.stream());
  });
}

void superpixel_mean(const py::object& values, const py::object& superpixels, const py::object& out,
                     const py::object& device) {
  const View in(values), labels(superpixels.attr("array"));
  const auto count = superpixels.attr("count").cast<std::int64_t>();
  const SuperpixelMeanParams p{in.shape[0], in.shape[1], in.shape[2], in.shape[3]};
  Call call(device);
  with_any(in, [&](auto type) {
    using T = decltype(type);
    cuda::superpixel_mean(in.as<T>(), view_labels(labels), count, View(out).as<mean_type<T>>(), p,
                          call.workspace(cuda::superpixel_mean_workspace(p, count)), call.stream());
  });
}

void snap(const py::object& cues, const py::object& superpixels, const py::object& out,
          double threshold, const py::object& device) {
  const View in(cues), labels(superpixels.attr("array")), result(out);
  const auto count = superpixels.attr("count").cast<std::int64_t>();
  const SnapParams p{in.shape[0],     in.shape[1],     in.shape[2], in.shape[3],
                     result.shape[2], result.shape[3], threshold};
  Call call(device);
  const auto run = [&](auto type) {
    cuda::snap(in.as<decltype(type)>(), view_labels(labels), count, result.as<bool>(), p,
               call.workspace(cuda::snap_workspace(p, count)), call.stream());
  };
  in.kind == 'f' ? with_floating(in, run) : run(std::uint8_t{});
}

void fuse(const std::vector<py::object>& sets, const py::object& out, const py::object& device) {
  std::vector<const std::uint8_t*> pointers;
  for (const auto& set : sets) pointers.push_back(View(set).as<std::uint8_t>());
  const View result(out);
  const FuseParams p{static_cast<std::int64_t>(pointers.size()), result.size()};
  Call call(device);
  cuda::fuse(pointers.data(), result.as<bool>(), p, call.stream());
}

void resize(const py::object& cues, const py::object& out, const std::string& rule,
            const py::object& device) {
  const View in(cues), result(out);
  const ResizeParams p{in.shape[0],
                       in.shape[1],
                       in.shape[2],
                       result.shape[1],
                       result.shape[2],
                       rule == "nearest" ? ResizeRule::nearest
                       : rule == "any"   ? ResizeRule::any
                                         : ResizeRule::half};
  Call call(device);
  cuda::resize(in.as<std::uint8_t>(), result.as<bool>(), p, call.stream());
}

void labels(const py::object& cues, const std::vector<std::int64_t>& classes, const py::object& out,
            const std::string& overlap, const std::string& background_overlap, std::int64_t unknown,
            const py::object& device) {
  const View in(cues), result(out);
  const LabelsParams p{
      in.shape[0],
      in.shape[1],
      in.shape[2],
      overlap == "smallest" ? ForegroundOverlap::smallest : ForegroundOverlap::ignore,
      background_overlap == "foreground"   ? BackgroundOverlap::foreground
      : background_overlap == "background" ? BackgroundOverlap::background
                                           : BackgroundOverlap::ignore,
      unknown};
  if (static_cast<std::int64_t>(classes.size()) != p.channels ||
      p.channels > cuda::max_label_channels)
    throw std::invalid_argument("CUDA: too many channels, or not one class for each");
  Call call(device);
  void* workspace = call.workspace(cuda::labels_workspace(p));
  const auto run = [&](auto type) {
    cuda::labels(in.as<std::uint8_t>(), classes.data(), result.as<decltype(type)>(), p, workspace,
                 call.stream());
  };
  result.itemsize == 1 ? run(std::uint8_t{}) : run(std::int32_t{});
}

void suppress(const py::object& scores, const py::object& present, const py::object& out,
              double margin, const py::object& device) {
  const View in(scores);
  const SuppressParams p{in.shape[0], in.shape[1], in.shape[2], margin};
  Call call(device);
  with_floating(in, [&](auto type) {
    using T = decltype(type);
    cuda::suppress(in.as<T>(), View(present).as<std::uint8_t>(), View(out).as<T>(), p,
                   call.stream());
  });
}

void dense_crf(const py::object& scores, const py::object& image, const py::object& present,
               const py::object& out, float gaussian_weight, float gaussian_sxy,
               float bilateral_weight, float bilateral_sxy, float bilateral_srgb, bool energies,
               std::int64_t iterations, float epsilon, bool half_storage,
               const py::object& device) {
  const View in(scores);
  const DenseCrfParams p{in.shape[0],   in.shape[1],    in.shape[2], in.shape[3], bilateral_weight,
                         bilateral_sxy, bilateral_srgb, energies,    iterations,  epsilon};
  const cuda::GaussianParams gaussian{gaussian_weight, gaussian_sxy};
  Call call(device);
  with_floating(in, [&](auto type) {
    using T = decltype(type);
    cuda::dense_crf(in.as<T>(), View(image).as<std::uint8_t>(), View(present).as<std::uint8_t>(),
                    View(out).as<T>(), p, gaussian, half_storage,
                    call.workspace(cuda::dense_crf_workspace(p, gaussian, half_storage)),
                    call.stream());
  });
}

// DLPack's structures, from its specification (github.com/dmlc/dlpack, version 1.0).
struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

// (address, shape, DLPack's type code, bits) of a capsule that its owner goes on owning. The caller
// keeps the capsule for as long as it uses the memory.
py::tuple dlpack(const py::capsule& capsule) {
  if (std::string(capsule.name()) != "dltensor")
    throw std::invalid_argument("not a DLPack capsule, or one that was used");
  const auto* tensor = static_cast<const DLTensor*>(capsule.get_pointer());
  if (tensor->lanes != 1) throw std::invalid_argument("vectors as items are not supported");
  py::list shape;
  for (int i = 0; i < tensor->ndim; ++i) shape.append(tensor->shape[i]);
  const auto address = reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset;
  return py::make_tuple(address, py::tuple(shape), tensor->code, tensor->bits);
}

}  // namespace

PYBIND11_MODULE(CUEKIT_CUDA_MODULE, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels of cuekit; private, see cuekit's own functions.";
  using py::arg;
  m.def("subtract", &subtract, arg("maps"), arg("present"), arg("out"), arg("mode"), arg("device"));
  m.def("background_add", &background_add, arg("features"), arg("total"), arg("device"));
  m.def("background_normalize", &background_normalize, arg("total"), arg("out"), arg("device"));
  m.def("raw_foreground", &raw_foreground, arg("maps"), arg("present"), arg("out"),
        arg("threshold"), arg("device"));
  m.def("raw_background", &raw_background, arg("background"), arg("out"), arg("threshold"),
        arg("device"));
  m.def("superpixel_mean", &superpixel_mean, arg("values"), arg("superpixels"), arg("out"),
        arg("device"));
  m.def("snap", &snap, arg("cues"), arg("superpixels"), arg("out"), arg("threshold"),
        arg("device"));
  m.def("fuse", &fuse, arg("sets"), arg("out"), arg("device"));
  m.def("resize", &resize, arg("cues"), arg("out"), arg("rule"), arg("device"));
  m.def("labels", &labels, arg("cues"), arg("classes"), arg("out"), arg("overlap"),
        arg("background_overlap"), arg("unknown"), arg("device"));
  m.def("suppress", &suppress, arg("scores"), arg("present"), arg("out"), arg("margin"),
        arg("device"));
  m.def("dense_crf", &dense_crf, arg("scores"), arg("image"), arg("present"), arg("out"),
        arg("gaussian_weight"), arg("gaussian_sxy"), arg("bilateral_weight"), arg("bilateral_sxy"),
        arg("bilateral_srgb"), arg("energies"), arg("iterations"), arg("epsilon"),
        arg("half_storage"), arg("device"));
  m.def("dlpack", &dlpack, arg("capsule"));
  m.attr("max_label_channels") = cuda::max_label_channels;
  m.attr("version") = CUEKIT_CUDA_VERSION;
  m.attr("architectures") = CUEKIT_CUDA_ARCHITECTURES;
}
