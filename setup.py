"""Builds the compiled modules; all other settings are in pyproject.toml.

Optional environment variables:

CUEKIT_CUDA                 auto (the default): build the CUDA kernels if nvcc is found; 1: stop if
                            it is not found; 0: leave the CUDA kernels out
CUEKIT_CUDA_ARCHITECTURES   compute capabilities to compile for, such as "80 90"; default: one of
                            each GPU generation since Turing (75)
CUEKIT_CXXFLAGS, CUEKIT_LDFLAGS, CUEKIT_NVCCFLAGS   additional flags
CUEKIT_BUILD_JOBS           compilers that run in parallel; default: one per core
CXX                         the C++ compiler

Object files are kept in build/. A file is compiled again if it, a header that it includes or its
command line has changed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

root = Path(__file__).parent
windows = sys.platform == "win32"
cuda_module = "cuekit._cuda"
include_dirs = ["csrc", "csrc/include"]

if windows:
    flags = ["/O2", "/fp:precise"]
else:
    # No contraction into FMA: every build and every processor gives the same bits. The two -fno
    # options give up errno and floating-point traps, which are not used, and change no result.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # -Wno-psabi: only inlined functions pass vectors, so how an ABI passes them does not matter.
    flags += ["-Wall", "-Wextra", "-Wno-psabi"]
user_flags = os.environ.get("CUEKIT_CXXFLAGS", "").split()  # last, so that they win
link_flags = os.environ.get("CUEKIT_LDFLAGS", "").split()
if sys.platform == "linux":
    # A module exports its initialisation only, and no templates of the C++ library, which could be
    # replaced by those of other modules.
    link_flags.insert(0, "-Wl,--version-script=csrc/exports.map")
    # No symbols in wheels, unless debugging is asked for: they would be a tenth of a wheel's size.
    if "bdist_wheel" in sys.argv and "-g" not in user_flags:
        link_flags.insert(0, "-Wl,-s")
compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")

# What GCC's -O3 adds to -O2 makes the kernels twice as large, and most of it makes none faster. So
# files are compiled with the compact flags, and those whose loops were measured to need more with
# others in their place: [] is -O3. The lean flags are for all. A kernel in a header is compiled in
# each file that includes it, and the linker keeps one copy: such files belong into the same row.
lean_flags = ["-fno-unswitch-loops", "-fno-split-loops", "-fno-split-paths", "-fno-ipa-cp-clone"]
lean_flags += ["-fno-version-loops-for-strides", "--param=vect-epilogues-nomask=0"]
compact_flags = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"]
FLAGS_OF = {
    "embed lattice read_scores refine_local snap": [*compact_flags, "-fpeel-loops"],
    "background labels": ["-funswitch-loops"],
    "block blur mean_field lab rgb_to_lab subtract suppress "
    "bucketed_edges build_graph candidates edge_costs felzenszwalb merge_by_cost merge_patches "
    "merge_small mutual_neighbours smooth": [],
}

NO_COMPILER = """
cuekit is compiled when it is installed, but there is no working C++17 compiler ({reason}).
Install one, or set CXX to one that is installed, and repeat the command:
  Debian, Ubuntu   sudo apt install g++
  Fedora, RHEL     sudo dnf install gcc-c++
  macOS            xcode-select --install
  conda            conda install -c conda-forge cxx-compiler"""
NO_PYTHON_H = """
cuekit is compiled when it is installed, but Python's header files are missing ({reason}).
Install them and repeat the command:
  Debian, Ubuntu   sudo apt install python3-dev
  Fedora, RHEL     sudo dnf install python3-devel"""


def check_compiler() -> None:
    """Stop with a readable message if a C++17 compiler or Python's headers are missing.

    Runs before pip downloads anything. On Windows, setuptools has such a message itself.
    """
    if windows:
        return
    command = [*compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    code = "#include <optional>\nstd::optional<int> x;\n"
    try:
        result = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
    except OSError as error:
        raise SystemExit(NO_COMPILER.format(reason=f"{command[0]}: {error.strerror}")) from None
    if result.returncode:
        raise SystemExit(NO_COMPILER.format(reason=result.stderr.strip()))
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise SystemExit(NO_PYTHON_H.format(reason=f"no {header}"))


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None. Whether the machine has a GPU does not matter."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(home) / "bin" for home in homes if home] + [Path("/usr/local/cuda/bin")]
    return shutil.which("nvcc", path=os.pathsep.join(map(str, folders))) or shutil.which("nvcc")


def run(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def cuda_home(nvcc: str) -> Path:
    """Return the toolkit's folder as nvcc itself reports it: the nvcc found may be a link."""
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], text=True, capture_output=True, check=False
    )
    tops = [line.split("TOP=")[1] for line in dry.stderr.splitlines() if "TOP=" in line]
    return Path(tops[0].strip() if tops else Path(nvcc).resolve().parent.parent)


def architectures(nvcc: str) -> list[str]:
    """Return the architectures asked for, or one of each generation: 86 and 89 run code for 80."""
    asked = os.environ.get("CUEKIT_CUDA_ARCHITECTURES", "").replace(";", " ").replace(",", " ")
    if asked.split():
        return [arch.removeprefix("sm_") for arch in asked.split()]
    known = run(nvcc, "--list-gpu-arch").split()
    return [a for a in ("75", "80", "90", "100", "120") if f"compute_{a}" in known]


def size_flags(source: str) -> list[str]:
    """Return the flags that keep a file's code small and as fast."""
    if windows:
        return []
    if source == "csrc/bind.cpp":  # it has no loops
        return ["-Os"]
    if not is_gcc:  # other compilers have other flags, and make smaller code to begin with
        return []
    stem = Path(source).stem
    rows = [flags for stems, flags in FLAGS_OF.items() if stem in stems.split()]
    (row,) = rows or [compact_flags]
    return lean_flags + row


def nvcc_command() -> list[str]:
    """Return the command that compiles a .cu file, without the names of files."""
    # No contraction into FMA: the bits of the CPU.
    command = [nvcc, "-std=c++17", "-O3", "--fmad=false", "-Xfatbin=-compress-all"]
    command += ["-DCUEKIT_BACKEND_CUDA", *(f"-I{folder}" for folder in include_dirs)]
    command += ["-Xcompiler", "/O2" if windows else "-fPIC,-fvisibility=hidden,-O3"]
    for arch in archs:
        command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    # GPUs newer than all of these compile the PTX of the last one.
    command += ["-gencode", f"arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
    return command + shlex.split(os.environ.get("CUEKIT_NVCCFLAGS", ""))


def sources(folder: str, pattern: str) -> list[str]:
    """Return the sources in a folder and the folders in it."""
    return sorted(path.relative_to(root).as_posix() for path in (root / folder).rglob(pattern))


def dependencies(source: str, depfile: Path) -> list[Path]:
    """Return the files that an object was compiled from: what the compiler listed, if it can."""
    if windows:
        return [Path(source), *Path("csrc").rglob("*.h")]
    listed = depfile.read_text().replace("\\\n", " ").split(":", 1)[1]
    return [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", listed.strip())]


class BuildExtensions(build_ext):
    """Compiles the files that have changed, in parallel, and lets setuptools link the objects."""

    def build_extensions(self) -> None:
        """Replace the sources of each extension by objects, then link."""
        units = [(ext, source) for ext in self.extensions for source in ext.sources]
        jobs = int(os.environ.get("CUEKIT_BUILD_JOBS", os.cpu_count() or 1))
        # One at a time on Windows: setuptools' class for its compiler is not safe in threads.
        with ThreadPoolExecutor(1 if windows else jobs) as pool:
            objects = list(pool.map(lambda unit: self.compile(*unit), units))
        for ext in self.extensions:
            ext.extra_objects = [o for o, (e, _) in zip(objects, units, strict=True) if e is ext]
            ext.sources = []
        self.force = self.compiler.force = True  # always link: it takes a second
        super().build_extensions()
        self.remove_cuda(Path(self.build_lib))

    def compile(self, ext: Pybind11Extension, source: str) -> str:
        """Return the object of a source file, compiled if it is not up to date."""
        # Only bind.cpp knows of Python: the other objects are shared by all versions of it that
        # compile with the same flags. A folder for each extension: both have an object of bind.cpp.
        binds = source == "csrc/bind.cpp"
        python = sysconfig.get_config_var("EXT_SUFFIX").split(".")[1]
        kind = python if binds else sysconfig.get_platform()
        folder = Path("build", "objects", kind, ext.name)
        target = folder / Path(source).with_suffix(self.compiler.obj_extension)
        depfile, record = target.with_suffix(".d"), target.with_suffix(".command")
        depflags = [] if windows else ["-MMD", "-MF", str(depfile)]
        if source.endswith(".cu"):
            command = [*nvcc_command(), *depflags, "-c", source, "-o", str(target)]
            compile_it = partial(self.spawn, command)
            key = repr((command, nvcc_version))
        else:
            # The path of pybind11 changes from one isolated build to the next.
            options = {
                "macros": ext.define_macros if binds else [],
                "include_dirs": ext.include_dirs if binds else include_dirs,
                "extra_postargs": [
                    *ext.extra_compile_args,
                    *size_flags(source),
                    *user_flags,
                    *depflags,
                ],
                "output_dir": str(folder),
            }
            compile_it = partial(self.compiler.compile, [source], **options)
            key = repr((options, getattr(self.compiler, "compiler_so_cxx", None)))

        # The record holds the command line; its time is that at which the compiler was started.
        if not self.force and record.exists() and record.read_text() == key:
            start = record.stat().st_mtime_ns
            inputs = dependencies(source, depfile)
            if all(path.exists() and path.stat().st_mtime_ns <= start for path in inputs):
                return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        started = target.with_suffix(".started")
        started.write_text(key)
        compile_it()
        started.replace(record)
        return str(target)

    def copy_extensions_to_source(self) -> None:
        """Build in place, as an editable installation does."""
        super().copy_extensions_to_source()
        self.remove_cuda(root)

    def remove_cuda(self, folder: Path) -> None:
        """Remove the CUDA kernels of an earlier build if this one leaves them out."""
        if all(ext.name != cuda_module for ext in self.extensions):
            (folder / self.get_ext_filename(cuda_module)).unlink(missing_ok=True)


wish = os.environ.get("CUEKIT_CUDA", "auto")
if wish not in ("auto", "0", "1"):
    raise SystemExit(f"CUEKIT_CUDA must be auto, 0 or 1, got {wish!r}")
nvcc = None if wish == "0" else find_nvcc()
if wish == "1" and nvcc is None:
    raise SystemExit("CUEKIT_CUDA=1, but nvcc is neither on the path nor under CUDA_HOME")
check_compiler()
is_gcc = not windows and "Free Software Foundation" in run(*compiler, "--version")
missing = "left out by CUEKIT_CUDA=0" if wish == "0" else "no nvcc when it was built"

# Pybind11Extension extends the lists that it is given: each gets its own.
cpu = Pybind11Extension(
    "cuekit._cpu",
    ["csrc/bind.cpp", *sources("csrc/cpu", "*.cpp")],
    include_dirs=[*include_dirs],
    define_macros=[
        ("CUEKIT_MODULE", "_cpu"),
        ("CUEKIT_CUDA_MISSING", f'"{"" if nvcc else missing}"'),
    ],
    extra_compile_args=[*flags],
    extra_link_args=[*link_flags],
    cxx_std=17,
)
extensions = [cpu]

if nvcc:
    home = cuda_home(nvcc)
    archs = architectures(nvcc)
    nvcc_version = run(nvcc, "--version")
    release = nvcc_version.split("release ")[1].split(",")[0]
    libraries = [home / "lib/x64"] if windows else [home / "lib64", home / "lib"]
    cuda = Pybind11Extension(
        cuda_module,
        ["csrc/bind.cpp", *sources("csrc/cuda", "*.cu")],
        include_dirs=[*include_dirs, str(home / "include")],
        define_macros=[
            ("CUEKIT_MODULE", "_cuda"),
            ("CUEKIT_BACKEND_CUDA", None),
            ("CUEKIT_CUDA_VERSION", f'"{release}"'),
            ("CUEKIT_CUDA_ARCHITECTURES", f'"{" ".join(archs)}"'),
        ],
        library_dirs=[str(folder) for folder in libraries],
        # Static: the module loads on machines without CUDA, next to any version of the runtime.
        libraries=["cudart_static"] if windows else ["cudart_static", "rt", "dl", "pthread"],
        extra_compile_args=[*flags],
        extra_link_args=[*link_flags],
        cxx_std=17,
    )
    extensions.insert(0, cuda)  # first, because its files take longest to compile

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions})
