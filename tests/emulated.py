"""The CUDA kernels on the CPU: built for the tests, with `emulated_cuda` in place of CUDA.

Arrays come in as those of a stand-in for CuPy, which is NumPy under another name. So everything
but the GPU itself is what runs there: adopting, checks, bindings, kernels.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]


def compiler():
    """The C++ compiler and its first flags, on Linux; None where there is none."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    return command if sys.platform == "linux" and shutil.which(command[0]) else None


def wanted():
    """Whether to run emulated kernels: where they can be built, and nobody says no."""
    can = compiler() is not None and importlib.util.find_spec("pybind11") is not None
    return can and os.environ.get("CUEKIT_TEST_EMULATED", "1") != "0"


def build():
    """Return the path of the module, built if its sources have changed."""
    import pybind11

    stand_in = ROOT / "tests/emulated_cuda"
    sources = [
        *sorted(ROOT.glob("csrc/cuda/*.cu")),
        ROOT / "csrc/bind.cpp",
        stand_in / "emulated.cpp",
    ]
    flags = [*FLAGS, *shlex.split(os.environ.get("CUEKIT_CXXFLAGS", ""))]
    includes = [stand_in, ROOT / "csrc", ROOT / "csrc/include", pybind11.get_include()]
    flags += [f"-I{path}" for path in [*includes, sysconfig.get_path("include")]]
    flags += ["-DCUEKIT_BACKEND_CUDA", "-DCUEKIT_MODULE=cuekit_emulated"]
    flags += ['-DCUEKIT_CUDA_VERSION="emulated"', '-DCUEKIT_CUDA_ARCHITECTURES="none"']
    flags += ["-Wno-unknown-pragmas"]

    known = hashlib.sha256(repr(flags).encode())
    for path in sorted([*sources, *ROOT.glob("csrc/**/*.h"), *stand_in.glob("**/*.*h")]):
        known.update(path.read_bytes())
    folder = ROOT / "build" / f"emulated-{known.hexdigest()[:16]}"
    module = folder / "cuekit_emulated.so"
    if not module.exists():
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source):
            target = folder / f"{source.name}.o"
            run([*compiler(), *flags, "-x", "c++", "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources))
        link = shlex.split(os.environ.get("CUEKIT_LDFLAGS", ""))
        part = folder / "part.so"
        run([*compiler(), "-shared", *objects, *link, "-o", part])
        part.replace(module)  # another process may build the same
    return module


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def load():
    """Return the module of emulated kernels."""
    if "cuekit_emulated" not in sys.modules:
        spec = importlib.util.spec_from_file_location("cuekit_emulated", build())
        sys.modules["cuekit_emulated"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["cuekit_emulated"])
    return sys.modules["cuekit_emulated"]


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    """CuPy's array: NumPy's that says it lies on a device."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return SimpleNamespace(id=0)


def to_device(array):
    """What CuPy's copy of a NumPy array is."""
    return np.array(array, order="K", copy=True, subok=False).view(ndarray)


@contextmanager
def nothing(_):
    yield


def poisoned(shape, dtype):
    """Memory with a content that shows where it is used before it is written."""
    array = np.empty(shape, dtype)
    array.view(np.uint8).fill(0xA5) if array.flags.c_contiguous and array.ndim else None
    return array.view(ndarray)


def stand_in_for_cupy():
    """The part of CuPy that cuekit uses."""
    return SimpleNamespace(
        ndarray=ndarray,
        empty=poisoned,
        zeros=lambda shape, dtype: np.zeros(shape, dtype).view(ndarray),
        ones=lambda shape, dtype: np.ones(shape, dtype).view(ndarray),
        asarray=to_device,
        ascontiguousarray=lambda array: np.ascontiguousarray(array).view(ndarray),
        isfinite=np.isfinite,
        unique=np.unique,
        stack=np.stack,
        where=lambda *arrays: np.where(*arrays).view(ndarray),
        argwhere=np.argwhere,
        cuda=SimpleNamespace(
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            Device=nothing,
        ),
    )


@contextmanager
def installed():
    """Let cuekit find the emulated kernels and the stand-in for CuPy."""
    from cuekit import _backend

    before = sys.modules.get("cupy"), _backend._import_cuda
    sys.modules["cupy"] = stand_in_for_cupy()
    _backend._import_cuda = lambda: (load(), "")
    try:
        yield
    finally:
        _backend._import_cuda = before[1]
        if before[0] is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before[0]
