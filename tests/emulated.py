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
from types import SimpleNamespace

import numpy as np
import pytest
from common import ROOT

STAND_IN = ROOT / "tests" / "emulated_cuda"
BUILD = ROOT / "build" / "emulated"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-DCUEKIT_BACKEND_CUDA", "-DCUEKIT_MODULE=cuekit_emulated", "-Wno-unknown-pragmas"]
FLAGS += ['-DCUEKIT_CUDA_VERSION="emulated"', '-DCUEKIT_CUDA_ARCHITECTURES="none"']


def sources():
    """What the module is compiled from."""
    kernels = sorted(ROOT.glob("csrc/cuda/**/*.cu"))
    return [*kernels, ROOT / "csrc/bind.cpp", STAND_IN / "emulated.cpp"]


def headers():
    """What any of the sources may include; a change of one recompiles all."""
    patterns = ("csrc/*.h", "csrc/include/**/*.h", "csrc/cuda/**/*.h", "tests/**/*.*h")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


# -------------------------------------------------------------------------------------- building


def compiler():
    """The C++ compiler and its first flags, on Linux; None where there is none."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    return command if sys.platform == "linux" and shutil.which(command[0]) else None


def wanted():
    """Whether to run emulated kernels: they can be built, and CUEKIT_TEST_EMULATED is not 0."""
    can = compiler() is not None and importlib.util.find_spec("pybind11") is not None
    return can and os.environ.get("CUEKIT_TEST_EMULATED", "1") != "0"


@contextmanager
def locked():
    """One process at a time: others wait, and find what this one has built."""
    import fcntl

    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build():
    """Return the path of the module; compile what has changed since it was built last.

    Objects are named by a hash of the compiler, its flags, all headers and the source, so an edit
    of one source compiles one file.
    """
    import pybind11

    flags = [*compiler(), *FLAGS, *shlex.split(os.environ.get("CUEKIT_CXXFLAGS", ""))]
    includes = [STAND_IN, ROOT / "csrc", ROOT / "csrc/include", pybind11.get_include()]
    flags += [f"-I{path}" for path in [*includes, sysconfig.get_path("include")]]
    link = [*compiler(), "-shared", *shlex.split(os.environ.get("CUEKIT_LDFLAGS", ""))]

    shared = hashlib.sha256(repr((flags, pybind11.__version__, sys.version)).encode())
    shared.update(run([*compiler(), "--version"]).encode())
    for path in headers():
        shared.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())

    def named(source):
        known = shared.copy()
        known.update(source.read_bytes())
        return BUILD / f"{source.stem}-{known.hexdigest()[:16]}.o"

    objects = {named(source): source for source in sources()}
    known = hashlib.sha256(repr((sorted(map(str, objects)), link)).encode())
    module = BUILD / f"cuekit_emulated-{known.hexdigest()[:16]}.so"
    if not module.exists():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda name: compile_one(flags, objects[name], name), objects))
        part = BUILD / "part.so"
        run([*link, *objects, "-o", part])
        part.replace(module)
    clean({"lock", module.name, *(each.name for each in objects)})
    return module


def compile_one(flags, source, name):
    if not name.exists():
        part = name.with_suffix(".part")
        run([*flags, "-x", "c++", "-c", source, "-o", part])
        part.replace(name)


def clean(current):
    """Remove what other sources or flags were built into; a process that has it loaded keeps it."""
    for path in BUILD.iterdir():
        if path.name not in current:
            path.unlink(missing_ok=True)


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def load():
    """Return the module of emulated kernels."""
    if "cuekit_emulated" not in sys.modules:
        with locked():
            spec = importlib.util.spec_from_file_location("cuekit_emulated", build())
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        sys.modules["cuekit_emulated"] = module
    return sys.modules["cuekit_emulated"]


# --------------------------------------------------------------------------------------- running


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
def installed(import_kernels=lambda: (load(), "")):
    """Let cuekit find the emulated kernels and the stand-in for CuPy."""
    from cuekit import _backend

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", stand_in_for_cupy())
        patch.setattr(_backend, "_import_cuda", import_kernels)
        yield


@contextmanager
def torch_on_device():
    """Let torch's CPU tensors play those of a device, but for streams and pinned memory."""
    import torch

    def from_host(device, array):
        return device.adopt(torch.from_numpy(array.copy()))

    from cuekit import _torch

    with installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_torch, "is_on_cuda", lambda _: True)
        patch.setattr(_torch.TorchDevice, "stream", lambda _: 0)
        patch.setattr(_torch.TorchDevice, "from_host", from_host)
        yield
