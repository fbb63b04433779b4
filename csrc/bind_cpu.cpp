// Every binding of the CPU kernels. The Python side has checked and shaped everything; these
// functions read the shapes from the arrays, release the GIL and call the kernel. Arrays are taken
// as they are (noconvert, C-contiguous): nothing is copied here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/float_state.h"
#include "cpu/kernels.h"
#include "cpu/permutohedral.h"
#include "cpu/simd.h"

namespace py = pybind11;

namespace pybind11::detail {
template <>
struct npy_format_descriptor<cuekit::half> {
  static constexpr auto name = const_name("numpy.float16");
  static pybind11::dtype dtype() { return pybind11::dtype("float16"); }
};
template <>
struct npy_format_descriptor<cuekit::flag> {
  static constexpr auto name = const_name("bool");
  static pybind11::dtype dtype() { return pybind11::dtype("bool"); }
};
}  // namespace pybind11::detail

namespace {

using namespace cuekit;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
bool subtract(const Array<T>& maps, const Array<bool>& present, Array<T>& out,
              const std::string& mode, int threads) {
  const SubtractParams p{maps.shape(0), maps.shape(1), maps.shape(2),
                         mode == "pairwise"    ? SubtractMode::pairwise
                         : mode == "strongest" ? SubtractMode::strongest
                                               : SubtractMode::dcsm};
  const T* in = maps.data();
  const bool* tags = present.data();
  T* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::subtract(in, tags, result, p, threads);
}

template <class T>
bool background_add(const Array<T>& features, Array<double>& total, int threads) {
  const BackgroundParams p{features.shape(0), features.shape(1), features.shape(2),
                           features.shape(3), total.shape(1),    total.shape(2)};
  const T* in = features.data();
  double* result = total.mutable_data();
  const py::gil_scoped_release release;
  return cpu::background_add(in, result, p, threads);
}

template <class T>
bool background_normalize(const Array<double>& total, Array<T>& out, int threads) {
  const std::int64_t batch = total.shape(0);
  const std::int64_t pixels = total.shape(1) * total.shape(2);
  const double* in = total.data();
  T* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::background_normalize(in, result, batch, pixels, threads);
}

template <class T>
bool raw_foreground(const Array<T>& maps, const Array<bool>& present, Array<bool>& out,
                    double threshold, int threads) {
  const RawCuesParams p{maps.shape(0), maps.shape(1), maps.shape(2), threshold, 0.0};
  const T* in = maps.data();
  const bool* tags = present.data();
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::raw_foreground(in, tags, result, p, threads);
}

template <class T>
bool raw_background(const Array<T>& background, Array<bool>& out, double threshold, int threads) {
  const RawCuesParams p{out.shape(0), out.shape(1) - 1, out.shape(2), 0.0, threshold};
  const T* in = background.data();
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::raw_background(in, result, p, threads);
}

template <class T>
bool felzenszwalb(const Array<T>& photos, const Array<double>& weights, Array<std::int32_t>& out,
                  double scale, std::int64_t min_size, int threads) {
  const FelzenszwalbParams p{photos.shape(0), photos.shape(1),    photos.shape(2), photos.shape(3),
                             weights.data(),  weights.size() - 1, scale,           min_size};
  const T* in = photos.data();
  std::int32_t* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::felzenszwalb(in, result, p, threads);
}

// The lattice of a photo's positions: it depends on the size only, so Python keeps it.
class SpatialLattice {
 public:
  SpatialLattice(std::int64_t height, std::int64_t width, float sxy, float weight, int threads)
      : lattice_(build(height, width, sxy, weight, threads)) {}
  const cpu::Lattice* get() const { return &lattice_; }

 private:
  static cpu::Lattice build(std::int64_t height, std::int64_t width, float sxy, float weight,
                            int threads) {
    const cpu::DefaultFloatState state;
    return cpu::spatial_lattice(height, width, sxy, weight * static_cast<float>(log2_of_e),
                                threads);
  }

  cpu::Lattice lattice_;
};

template <class T>
bool dense_crf(const Array<T>& scores, const Array<std::uint8_t>& image, const Array<bool>& present,
               Array<T>& out, const SpatialLattice* spatial, float bilateral_weight,
               float bilateral_sxy, float bilateral_srgb, bool energies, std::int64_t iterations,
               float epsilon, int threads) {
  const DenseCrfParams p{scores.shape(0),  scores.shape(1), image.shape(1), image.shape(2),
                         bilateral_weight, bilateral_sxy,   bilateral_srgb, energies,
                         iterations,       epsilon};
  const T* in = scores.data();
  const std::uint8_t* photos = image.data();
  const bool* tags = present.data();
  T* result = out.mutable_data();
  const cpu::Lattice* lattice = spatial == nullptr ? nullptr : spatial->get();
  const py::gil_scoped_release release;
  return cpu::dense_crf(in, photos, tags, result, lattice, p, threads);
}

LabelsView view_labels(const py::array& superpixels) {
  return {superpixels.data(), static_cast<int>(superpixels.itemsize()),
          superpixels.dtype().kind() == 'i'};
}

template <class T>
bool superpixel_mean(const Array<T>& values, const py::array& superpixels, Array<mean_type<T>>& out,
                     int threads) {
  const SuperpixelMeanParams p{values.shape(0), values.shape(1), values.shape(2), values.shape(3)};
  const T* in = values.data();
  const LabelsView labels = view_labels(superpixels);
  mean_type<T>* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::superpixel_mean(in, labels, result, p, threads);
}

template <class T>
bool snap(const Array<T>& cues, const py::array& superpixels, Array<bool>& out, double threshold,
          int threads) {
  const SnapParams p{cues.shape(0), cues.shape(1), cues.shape(2), cues.shape(3),
                     out.shape(2),  out.shape(3),  threshold};
  const T* in = cues.data();
  const LabelsView labels = view_labels(superpixels);
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::snap(in, labels, result, p, threads);
}

template <class T>
bool snap_masks(const Array<T>& cues, const Array<std::uint8_t>& masks, Array<bool>& out,
                double threshold, const std::string& accept, int threads) {
  const SnapMasksParams p{
      cues.shape(0), cues.shape(1),  cues.shape(2),
      cues.shape(3), masks.shape(1), out.shape(2),
      out.shape(3),  threshold,      accept == "mean" ? MaskRule::mean : MaskRule::sepl};
  const T* in = cues.data();
  const std::uint8_t* regions = masks.data();
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::snap_masks(in, regions, result, p, threads);
}

void fuse(const std::vector<Array<std::uint8_t>>& sets, Array<bool>& out, int threads) {
  std::vector<const std::uint8_t*> pointers;
  for (const auto& set : sets) pointers.push_back(set.data());
  const FuseParams p{static_cast<std::int64_t>(pointers.size()), out.size()};
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  cpu::fuse(pointers.data(), result, p, threads);
}

void resize(const Array<std::uint8_t>& cues, Array<bool>& out, const std::string& rule,
            int threads) {
  const ResizeParams p{cues.shape(0),
                       cues.shape(1),
                       cues.shape(2),
                       out.shape(1),
                       out.shape(2),
                       rule == "nearest" ? ResizeRule::nearest
                       : rule == "any"   ? ResizeRule::any
                                         : ResizeRule::half};
  const std::uint8_t* in = cues.data();
  bool* result = out.mutable_data();
  const py::gil_scoped_release release;
  cpu::resize(in, result, p, threads);
}

template <class L>
void labels(const Array<std::uint8_t>& cues, const Array<std::int64_t>& classes, Array<L>& out,
            const std::string& overlap, const std::string& background_overlap, std::int64_t unknown,
            int threads) {
  const LabelsParams p{
      cues.shape(0),
      cues.shape(1),
      cues.shape(2),
      overlap == "smallest" ? ForegroundOverlap::smallest : ForegroundOverlap::ignore,
      background_overlap == "foreground"   ? BackgroundOverlap::foreground
      : background_overlap == "background" ? BackgroundOverlap::background
                                           : BackgroundOverlap::ignore,
      unknown};
  const std::uint8_t* in = cues.data();
  const std::int64_t* names = classes.data();
  L* result = out.mutable_data();
  const py::gil_scoped_release release;
  cpu::labels(in, names, result, p, threads);
}

template <class T>
bool suppress(const Array<T>& scores, const Array<bool>& present, Array<T>& out, double margin,
              int threads) {
  const SuppressParams p{scores.shape(0), scores.shape(1), scores.shape(2), margin};
  const T* in = scores.data();
  const bool* tags = present.data();
  T* result = out.mutable_data();
  const py::gil_scoped_release release;
  return cpu::suppress(in, tags, result, p, threads);
}

// The overload for each type has the argument's own name; noconvert picks it by dtype.
template <class T>
void bind_floating(py::module_& m) {
  using py::arg;
  m.def("subtract", &subtract<T>, arg("maps").noconvert(), arg("present").noconvert(),
        arg("out").noconvert(), arg("mode"), arg("threads"));
  m.def("background_add", &background_add<T>, arg("features").noconvert(), arg("total").noconvert(),
        arg("threads"));
  m.def("background_normalize", &background_normalize<T>, arg("total").noconvert(),
        arg("out").noconvert(), arg("threads"));
  m.def("raw_foreground", &raw_foreground<T>, arg("maps").noconvert(), arg("present").noconvert(),
        arg("out").noconvert(), arg("threshold"), arg("threads"));
  m.def("raw_background", &raw_background<T>, arg("background").noconvert(), arg("out").noconvert(),
        arg("threshold"), arg("threads"));
  m.def("dense_crf", &dense_crf<T>, arg("scores").noconvert(), arg("image").noconvert(),
        arg("present").noconvert(), arg("out").noconvert(), arg("spatial"), arg("bilateral_weight"),
        arg("bilateral_sxy"), arg("bilateral_srgb"), arg("energies"), arg("iterations"),
        arg("epsilon"), arg("threads"));
  m.def("suppress", &suppress<T>, arg("scores").noconvert(), arg("present").noconvert(),
        arg("out").noconvert(), arg("margin"), arg("threads"));
}

template <class T>
void bind_felzenszwalb(py::module_& m) {
  using py::arg;
  m.def("felzenszwalb", &felzenszwalb<T>, arg("photos").noconvert(), arg("weights").noconvert(),
        arg("out").noconvert(), arg("scale"), arg("min_size"), arg("threads"));
}

template <class T>
void bind_mean(py::module_& m) {
  using py::arg;
  m.def("superpixel_mean", &superpixel_mean<T>, arg("values").noconvert(),
        arg("superpixels").noconvert(), arg("out").noconvert(), arg("threads"));
}

template <class T>
void bind_snap(py::module_& m) {
  using py::arg;
  m.def("snap", &snap<T>, arg("cues").noconvert(), arg("superpixels").noconvert(),
        arg("out").noconvert(), arg("threshold"), arg("threads"));
  m.def("snap_masks", &snap_masks<T>, arg("cues").noconvert(), arg("masks").noconvert(),
        arg("out").noconvert(), arg("threshold"), arg("accept"), arg("threads"));
}

template <class L>
void bind_labels(py::module_& m) {
  using py::arg;
  m.def("labels", &labels<L>, arg("cues").noconvert(), arg("classes").noconvert(),
        arg("out").noconvert(), arg("overlap"), arg("background_overlap"), arg("unknown"),
        arg("threads"));
}

constexpr const char* instruction_sets[] = {"baseline", "avx2", "avx512"};

void set_instruction_set(const std::string& name) {
  const auto* end = std::end(instruction_sets);
  const auto* found = std::find(std::begin(instruction_sets), end, name);
  if (found == end) throw std::invalid_argument("no such instruction set: " + name);
  const auto wanted = static_cast<cpu::InstructionSet>(found - std::begin(instruction_sets));
  cpu::instruction_set = std::min(wanted, cpu::best_instruction_set());
}

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

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "CPU kernels of cuekit; private, see cuekit's own functions.";
  py::class_<SpatialLattice>(m, "SpatialLattice")
      .def(py::init<std::int64_t, std::int64_t, float, float, int>(), py::arg("height"),
           py::arg("width"), py::arg("sxy"), py::arg("weight"), py::arg("threads"),
           py::call_guard<py::gil_scoped_release>());
  bind_floating<half>(m);
  bind_floating<float>(m);
  bind_floating<double>(m);
  bind_felzenszwalb<std::uint8_t>(m);
  bind_felzenszwalb<half>(m);
  bind_felzenszwalb<float>(m);
  bind_felzenszwalb<double>(m);
  bind_mean<flag>(m);
  bind_mean<half>(m);
  bind_mean<float>(m);
  bind_mean<double>(m);
  bind_mean<std::uint8_t>(m);
  bind_mean<std::int8_t>(m);
  bind_mean<std::uint16_t>(m);
  bind_mean<std::int16_t>(m);
  bind_mean<std::uint32_t>(m);
  bind_mean<std::int32_t>(m);
  bind_mean<std::uint64_t>(m);
  bind_mean<std::int64_t>(m);
  bind_snap<std::uint8_t>(m);
  bind_snap<half>(m);
  bind_snap<float>(m);
  bind_snap<double>(m);
  bind_labels<std::uint8_t>(m);
  bind_labels<std::int32_t>(m);
  m.def("fuse", &fuse, py::arg("sets").noconvert(), py::arg("out").noconvert(), py::arg("threads"));
  m.def("resize", &resize, py::arg("cues").noconvert(), py::arg("out").noconvert(), py::arg("rule"),
        py::arg("threads"));
  m.def("set_instruction_set", &set_instruction_set, py::arg("name"),
        "Use these instructions, or the best the processor has where it lacks them.");
  m.def(
      "instruction_set",
      [] { return instruction_sets[static_cast<int>(cpu::instruction_set.load())]; },
      "What the kernels use.");
  m.attr("compiler") = compiler();
  m.attr("cuda_missing") = CUEKIT_CUDA_MISSING;  // why there is no _cuda; empty if there is
}
