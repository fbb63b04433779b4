"""Compare labels with scikit-image's: ``python -m benchmarks.equal_felzenszwalb FOLDER``.

Prints a line per setting: the photos whose labels differ from released scikit-image, where an
unstable sort determines the order of edges of equal cost, and those of them whose labels also
differ from scikit-image with a stable sort, which is the specification.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
from skimage import segmentation

import cuekit
from benchmarks.over_photos import over_photos

SETTINGS = ((200, 0.8, 60), (100, 0.8, 20), (50, 0.5, 20), (1, 0, 1))


def differences(_: int, file: Path) -> list[tuple[bool, bool]]:
    """Return for every setting whether labels differ: with the released, and with a stable sort."""
    photo = cuekit.io.read_photo(file)
    argsort = np.argsort
    found = []
    for scale, sigma, min_size in SETTINGS:
        ours = cuekit.felzenszwalb(photo, scale=scale, sigma=sigma, min_size=min_size)
        shipped = segmentation.felzenszwalb(photo, scale, sigma, min_size)
        if np.array_equal(ours, shipped):
            found.append((False, False))
            continue
        with mock.patch.object(np, "argsort", lambda costs: argsort(costs, kind="stable")):
            stable = segmentation.felzenszwalb(photo, scale, sigma, min_size)
        found.append((True, not np.array_equal(ours, stable)))
    return found


def main() -> int:
    """Compare all photos; the exit status is 1 if labels differ from the specification."""
    found = over_photos(__doc__, differences)
    totals = np.sum(found, axis=0)
    lines = [
        f"scikit-image {metadata.version('scikit-image')}, NumPy {np.__version__}, "
        f"{len(found)} photos.",
        "",
        "| scale, sigma, min_size | differ from the release | differ with a stable sort, too |",
        "|---|---|---|",
        *(
            f"| {', '.join(map(str, setting))} | {shipped} | {stable} |"
            for setting, (shipped, stable) in zip(SETTINGS, totals, strict=True)
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(totals[:, 1].any())


if __name__ == "__main__":
    sys.exit(main())
