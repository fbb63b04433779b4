"""Finds the compiled core and tells what was built and found."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

try:
    import cuekit._cpu as _cpu
except ImportError as error:
    raise ImportError(
        f"cuekit's compiled core does not load from {Path(__file__).parent} ({error}): in a clone "
        "of its sources run `pip install -e .`, or start Python in another folder"
    ) from error
from cuekit._arrays import AnyArray, DeviceArray


@lru_cache(maxsize=1)
def _import_cuda() -> tuple[Any, str]:
    """Return the CUDA kernels, or None and why there are none."""
    try:
        from cuekit import _cuda
    except ImportError as error:
        return None, _cpu.cuda_missing or f"built, but does not load: {error}"
    return _cuda, ""


def cuda_kernels() -> Any:
    """Return the module of CUDA kernels.

    Raises
    ------
    ValueError
        If there is none.
    """
    module, reason = _import_cuda()
    if module is None:
        raise ValueError(
            f"arrays on a CUDA device need cuekit's CUDA kernels, which are missing ({reason}): "
            "install cuekit from source with nvcc and CUEKIT_CUDA=1, or copy to the CPU first"
        )
    return module


def backend(array: AnyArray, threads: int) -> tuple[Any, Any]:
    """Return the kernels for where an array lies, and their last argument.

    That is the number of threads on the CPU; on a CUDA device, the device itself, which names the
    stream and allocates workspace.
    """
    if isinstance(array, DeviceArray):
        return cuda_kernels(), array.device
    return _cpu, threads


def build_config() -> dict[str, Any]:
    """Tell what was built and what was found.

    Returns
    -------
    dict
        Versions of cuekit, Python and NumPy, the machine, the compiler, the instruction
        set in use, CUDA (nvcc's version and the architectures, or None, and why there is none),
        and each package used where it is needed (None: not installed).
    """
    # Half of cuekit's import time, if they stood above.
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
        "compiler": _cpu.compiler,
        "instruction_set": _cpu.instruction_set(),
        "cuda": None if cuda is None else f"{cuda.version}: {cuda.architectures}",
        "cuda_missing": reason,
        **optional,
    }
