"""Find the compiled kernels, choose the backend, and tell what was built."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import cuekit._cpu as _cpu
except ImportError as error:
    raise ImportError(
        f"cuekit's compiled core does not load from {Path(__file__).parent} ({error}): in a clone "
        "of its sources run `pip install -e .`, or start Python in another folder"
    ) from error
from cuekit._checks import check_choice
from cuekit._device import AnyArray, Context, DeviceArray

if TYPE_CHECKING:
    from cuekit._kernels import CpuKernels, CudaKernels, Kernels

cpu_kernels: CpuKernels = _cpu
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
INSTRUCTION_SET_VARIABLE = "CUEKIT_INSTRUCTION_SET"


def _read_instruction_set() -> None:
    """Use the instruction set that the environment variable names, or the best up to it.

    All sets give the same bits. So a job that names a set which some machines lack only gets
    slower there: a warning. A name that does not exist is an error: ignored, it would put the
    figures of another set into somebody's table.
    """
    wanted = os.environ.get(INSTRUCTION_SET_VARIABLE)
    if not wanted:
        return
    cpu_kernels.set_instruction_set(
        check_choice(
            wanted, f"the environment variable {INSTRUCTION_SET_VARIABLE}", INSTRUCTION_SETS
        )
    )
    used = cpu_kernels.instruction_set()
    if used != wanted:
        warnings.warn(
            f"{INSTRUCTION_SET_VARIABLE} is {wanted}, which this processor lacks: "
            f"cuekit uses {used}",
            RuntimeWarning,
            stacklevel=2,
        )


_read_instruction_set()


@lru_cache(maxsize=1)
def _import_cuda() -> tuple[CudaKernels | None, str]:
    """Return the CUDA kernels, or None and why there are none."""
    try:
        from cuekit import _cuda
    except ImportError as error:
        return None, cpu_kernels.cuda_missing or f"built, but does not load: {error}"
    return _cuda, ""


def backend(array: AnyArray, threads: int) -> tuple[Kernels, Context]:
    """Return the kernels for the device on which an array lies, and their last argument.

    Raises
    ------
    ValueError
        If the array is on a CUDA device and there are no CUDA kernels.
    """
    if not isinstance(array, DeviceArray):
        return cpu_kernels, threads
    return cuda_kernels(), array.device


def cuda_kernels() -> CudaKernels:
    """Return the kernels for CUDA devices; a ValueError if there are none."""
    kernels, reason = _import_cuda()
    if kernels is None:
        raise ValueError(
            f"arrays on a CUDA device need cuekit's CUDA kernels, which are missing ({reason}): "
            "install cuekit from source with nvcc and CUEKIT_CUDA=1, or copy to the CPU first"
        )
    return kernels


def build_config() -> dict[str, Any]:
    """Tell what was built and what was found.

    Returns
    -------
    dict
        Versions of cuekit, Python and NumPy, the machine, the compiler, the instruction
        set in use and the widest that the processor has, CUDA (nvcc's version and the
        architectures, or None, and why there is none), and each optional package (None: not
        installed).

    Notes
    -----
    The environment variable ``CUEKIT_INSTRUCTION_SET`` (``baseline``, ``avx2`` or ``avx512``) is
    read when cuekit is imported, and limits the instructions of the CPU kernels. All give the same
    bits: it is for measuring what other processors do. Another name is an error. A set that the
    processor lacks is a warning, and the widest that it has is used.
    """
    # These imports take half of cuekit's import time: only on use.
    import platform
    from importlib import metadata

    from cuekit import __version__

    optional: dict[str, str | None] = {}
    for package in ("pillow", "torch", "scikit-image", "matplotlib", "numba"):
        try:
            optional[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            optional[package] = None
    cuda, reason = _import_cuda()
    return {
        "cuekit": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "compiler": cpu_kernels.compiler,
        "instruction_set": cpu_kernels.instruction_set(),
        "processor_has": cpu_kernels.widest_instruction_set(),
        "cuda": None if cuda is None else f"{cuda.version}: {cuda.architectures}",
        "cuda_missing": reason,
        **optional,
    }
