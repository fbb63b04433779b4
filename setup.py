"""Builds the compiled core; everything else stands in pyproject.toml."""

import os
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

if sys.platform == "win32":
    flags = ["/O2", "/fp:precise"]
else:
    # No contraction into FMA: every build and every processor gives the same bits. The two -fno
    # options give up errno and floating-point traps, which nobody reads, and change no result.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # Vectors are only passed between inlined functions: how else they would be is of no interest.
    flags += ["-Wall", "-Wextra", "-Wno-psabi"]
flags += os.environ.get("CUEKIT_CXXFLAGS", "").split()

root = Path(__file__).parent
cpu = Pybind11Extension(
    "cuekit._cpu",
    sorted(
        path.relative_to(root).as_posix()
        for path in [root / "csrc/bind_cpu.cpp", *root.glob("csrc/cpu/*.cpp")]
    ),
    include_dirs=["csrc", "csrc/include"],
    depends=[path.relative_to(root).as_posix() for path in root.glob("csrc/**/*.h")],
    extra_compile_args=flags,
    extra_link_args=os.environ.get("CUEKIT_LDFLAGS", "").split(),
    cxx_std=17,
)

ParallelCompile("CUEKIT_BUILD_JOBS").install()
setup(ext_modules=[cpu])
