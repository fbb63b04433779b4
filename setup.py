"""Builds the compiled core; everything else stands in pyproject.toml.

Environment variables, all optional:

CUEKIT_CUDA                 auto (the default) builds CUDA kernels where nvcc is found; 1 insists, 0
                            leaves them out
CUEKIT_CUDA_ARCHITECTURES   as nvcc numbers them, such as "80 90"; default: each generation from 75
CUEKIT_CXXFLAGS, CUEKIT_LDFLAGS, CUEKIT_NVCCFLAGS   further flags
CUEKIT_BUILD_JOBS           compilers at a time; default: one per core
"""

import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

root = Path(__file__).parent
windows = sys.platform == "win32"

if windows:
    flags = ["/O2", "/fp:precise"]
else:
    # No contraction into FMA: every build and every processor gives the same bits. The two -fno
    # options give up errno and floating-point traps, which nobody reads, and change no result.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # Vectors are only passed between inlined functions: how else they would be is of no interest.
    flags += ["-Wall", "-Wextra", "-Wno-psabi"]
flags += os.environ.get("CUEKIT_CXXFLAGS", "").split()
link_flags = os.environ.get("CUEKIT_LDFLAGS", "").split()


def find_nvcc() -> str | None:
    """Return nvcc's path, or None: a compiler decides whether CUDA is built, never a GPU."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [Path(home) / "bin" for home in homes if home] + [Path("/usr/local/cuda/bin")]
    return shutil.which("nvcc", path=os.pathsep.join(map(str, places))) or shutil.which("nvcc")


def run(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def cuda_home(nvcc: str) -> Path:
    """Return the toolkit's folder as nvcc itself names it: what is on the path may be a link."""
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], text=True, capture_output=True, check=False
    )
    tops = [line.split("TOP=")[1] for line in dry.stderr.splitlines() if "TOP=" in line]
    return Path(tops[0].strip() if tops else Path(nvcc).resolve().parent.parent)


def architectures(nvcc: str) -> list[str]:
    """Return those asked for, or each generation that nvcc knows: 86 and 89 run what 80 does."""
    asked = os.environ.get("CUEKIT_CUDA_ARCHITECTURES", "").replace(";", " ").replace(",", " ")
    if asked.split():
        return [arch.removeprefix("sm_") for arch in asked.split()]
    known = run(nvcc, "--list-gpu-arch").split()
    return [a for a in ("75", "80", "90", "100", "120") if f"compute_{a}" in known]


class BuildCuda(build_ext):
    """Lets nvcc compile what is CUDA's, and the C++ compiler the rest."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        """Compile what is CUDA's first: to the C++ compiler it is objects to link."""
        # Both extensions compile bind.cpp: each into a folder of its own.
        self.build_temp = str(Path(self.build_temp).parent / ext.name)
        if ext.name == "cuekit._cuda":
            ext.extra_objects = self.compile_cuda()
            ext.depends = [*ext.depends, *ext.extra_objects]
        super().build_extension(ext)

    def compile_cuda(self) -> list[str]:
        """Return the objects of all of csrc/cuda, compiled where they are older than a source."""
        folder = Path(self.build_temp) / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        sources = sorted(root.glob("csrc/cuda/*.cu"))
        targets = [folder / f"{source.stem}{'.obj' if windows else '.o'}" for source in sources]
        # No contraction into FMA: the CPU's bits.
        command = [nvcc, "-std=c++17", "-O3", "--fmad=false", "-Icsrc", "-Icsrc/include"]
        command += ["-DCUEKIT_BACKEND_CUDA"]
        command += [
            "-Xfatbin=-compress-all",
            "-Xcompiler",
            "/O2" if windows else "-fPIC,-fvisibility=hidden,-O3",
        ]
        for arch in archs:
            command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        # Newer GPUs compile the last one's PTX.
        command += ["-gencode", f"arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
        command += shlex.split(os.environ.get("CUEKIT_NVCCFLAGS", ""))
        written = folder / "command"  # another one makes all objects stale
        if not written.exists() or written.read_text() != " ".join(command):
            written.write_text(" ".join(command))
        inputs = [*root.glob("csrc/**/*.[hc]*"), written]
        newest = max(path.stat().st_mtime for path in inputs)
        stale = [
            (source, target)
            for source, target in zip(sources, targets, strict=True)
            if not target.exists() or target.stat().st_mtime < newest or self.force
        ]

        def compile_one(pair: tuple[Path, Path]) -> None:
            source, target = pair
            part = target.with_suffix(".part" + target.suffix)
            self.spawn([*command, "-c", str(source.relative_to(root)), "-o", str(part)])
            part.replace(target)

        jobs = int(os.environ.get("CUEKIT_BUILD_JOBS", os.cpu_count() or 1))
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(compile_one, stale))
        return [str(target) for target in targets]


wish = os.environ.get("CUEKIT_CUDA", "auto")
if wish not in ("auto", "0", "1"):
    raise SystemExit(f"CUEKIT_CUDA must be auto, 0 or 1, got {wish!r}")
nvcc = None if wish == "0" else find_nvcc()
if wish == "1" and nvcc is None:
    raise SystemExit("CUEKIT_CUDA=1, but nvcc is neither on the path nor under CUDA_HOME")
missing = "left out by CUEKIT_CUDA=0" if wish == "0" else "no nvcc when it was built"

cpu = Pybind11Extension(
    "cuekit._cpu",
    sorted(
        path.relative_to(root).as_posix()
        for path in [root / "csrc/bind.cpp", *root.glob("csrc/cpu/**/*.cpp")]
    ),
    include_dirs=["csrc", "csrc/include"],
    depends=[path.relative_to(root).as_posix() for path in root.glob("csrc/**/*.h")],
    define_macros=[
        ("CUEKIT_MODULE", "_cpu"),
        ("CUEKIT_CUDA_MISSING", f'"{"" if nvcc else missing}"'),
    ],
    extra_compile_args=flags,
    extra_link_args=link_flags,
    cxx_std=17,
)
extensions = [cpu]

if nvcc:
    home = cuda_home(nvcc)
    archs = architectures(nvcc)
    version = run(nvcc, "--version").split("release ")[1].split(",")[0]
    libraries = [home / "lib/x64"] if windows else [home / "lib64", home / "lib"]
    cuda = Pybind11Extension(
        "cuekit._cuda",
        ["csrc/bind.cpp"],
        include_dirs=["csrc", "csrc/include", str(home / "include")],
        depends=[path.relative_to(root).as_posix() for path in root.glob("csrc/**/*.[hc]*")],
        define_macros=[
            ("CUEKIT_MODULE", "_cuda"),
            ("CUEKIT_BACKEND_CUDA", None),
            ("CUEKIT_CUDA_VERSION", f'"{version}"'),
            ("CUEKIT_CUDA_ARCHITECTURES", f'"{" ".join(archs)}"'),
        ],
        library_dirs=[str(folder) for folder in libraries],
        # Static: the module loads where there is no CUDA, and meets nobody else's runtime.
        libraries=["cudart_static"] if windows else ["cudart_static", "rt", "dl", "pthread"],
        extra_compile_args=flags,
        extra_link_args=link_flags,
        cxx_std=17,
    )
    extensions.append(cuda)

ParallelCompile("CUEKIT_BUILD_JOBS").install()
setup(ext_modules=extensions, cmdclass={"build_ext": BuildCuda})
