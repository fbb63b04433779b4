"""Time to import cuekit in a program that has already imported NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.harness import QUICK_ROUNDS, ROUNDS, Result, absolute

LIMIT_MS = 30
PROGRAM = """
import sys
from time import perf_counter
start = perf_counter()
import numpy
middle = perf_counter()
import cuekit
end = perf_counter()
heavy = {"torch", "skimage", "matplotlib"} & set(sys.modules)
sys.stdout.write(f"{end - middle} {middle - start} {','.join(heavy)}")
"""


def import_ms() -> tuple[float, float]:
    """Import both in a fresh process; return milliseconds of cuekit and of NumPy."""
    command = [sys.executable, "-c", PROGRAM]
    # With byte code, as in any installation.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)  # noqa: S603
    ours, numpy, *heavy = done.stdout.split()
    if heavy:
        raise RuntimeError(f"importing cuekit imported {heavy[0]}")
    return 1e3 * float(ours), 1e3 * float(numpy)


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    import_ms()  # not timed: compiles byte code and loads files into the page cache
    samples = [import_ms() for _ in range(QUICK_ROUNDS if quick else ROUNDS)]
    ours, numpy = zip(*samples, strict=True)
    times = {"import cuekit": ours, "import numpy": numpy}
    return [absolute("import cuekit after numpy", "import over NumPy", times, LIMIT_MS)]
