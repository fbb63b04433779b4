"""Finds the compiled core and tells what was built and found."""

from __future__ import annotations

from typing import Any

import numpy as np

from cuekit import _cpu


def build_config() -> dict[str, Any]:
    """Tell what was built and what was found.

    Returns
    -------
    dict
        Versions of cuekit, Python, NumPy and Pillow, the machine, the compiler, the instruction
        set in use, CUDA (None: not built), and each optional package (None: not installed).
    """
    # Half of cuekit's import time, if they stood above.
    import platform
    from importlib import metadata

    optional: dict[str, str | None] = {}
    for package in ("torch", "scikit-image", "matplotlib", "numba"):
        try:
            optional[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            optional[package] = None
    return {
        "cuekit": metadata.version("cuekit"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": metadata.version("pillow"),
        "machine": platform.machine(),
        "compiler": _cpu.compiler,
        "instruction_set": _cpu.instruction_set(),
        "cuda": None,
        **optional,
    }
