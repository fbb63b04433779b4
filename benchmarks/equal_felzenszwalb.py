"""Compare labels with scikit-image's: ``python -m benchmarks.equal_felzenszwalb FOLDER``.

Prints a line per setting: photos, photos whose labels differ from scikit-image's with a stable sort
of the edges (the specification), and photos whose labels differ from scikit-image as shipped, whose
unstable sort decides on edges of equal cost.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from skimage import __version__, segmentation

import cuekit

SETTINGS = ((200, 0.8, 60), (100, 0.8, 20), (50, 0.5, 20), (1, 0, 1))


def differences(file: Path) -> list[tuple[bool, bool]]:
    """Tell for every setting whether labels differ with a stable sort, and as shipped."""
    photo = np.array(Image.open(file).convert("RGB"))
    argsort = np.argsort
    found = []
    for scale, sigma, min_size in SETTINGS:
        ours = cuekit.felzenszwalb(photo, scale=scale, sigma=sigma, min_size=min_size)
        shipped = segmentation.felzenszwalb(photo, scale, sigma, min_size)
        with mock.patch.object(np, "argsort", lambda costs: argsort(costs, kind="stable")):
            stable = segmentation.felzenszwalb(photo, scale, sigma, min_size)
        found.append((not np.array_equal(ours, stable), not np.array_equal(ours, shipped)))
    return found


def main() -> int:
    """Go through the photos; the exit status says whether the specification holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with photos *.jpg")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth photo")
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.jpg"))[:: args.every]
    if not files:
        parser.error(f"no *.jpg in {args.folder}")
    totals = np.zeros((len(SETTINGS), 2), dtype=int)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, found in enumerate(pool.map(differences, files), 1):
            totals += np.array(found)
            sys.stderr.write(f"\r{done} of {len(files)} photos")
    sys.stderr.write("\n")
    lines = [
        f"scikit-image {__version__}, NumPy {np.__version__}, {len(files)} photos.",
        "",
        "| scale, sigma, min_size | differ from its stable sort | differ from it as shipped |",
        "|---|---|---|",
        *(
            f"| {', '.join(map(str, setting))} | {stable} | {shipped} |"
            for setting, (stable, shipped) in zip(SETTINGS, totals, strict=True)
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(totals[:, 0].any())


if __name__ == "__main__":
    sys.exit(main())
