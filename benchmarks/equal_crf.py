"""Compare marginals with pydensecrf's: ``python -m benchmarks.equal_crf FOLDER``.

Uses random probabilities of 21 classes on every photo, and prints a line per preset: the labels
that differ, and the differences of the marginals. Photos are cropped to a width that is a multiple
of 4 pixels: for other sizes pydensecrf adds vertices that belong to no pixel.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.over_photos import over_photos
from cuekit.crf import PRESETS

NAMES = ("sec", "irn", "clip-es", "toco-seg")
# Limits on the share of equal labels, and on the differences of marginals: their 99.9 % quantile in
# the worst photo, and their mean. There is no limit on the largest difference, because mean field
# amplifies rounding at bistable pixels.
LEAST_ALIKE, MOST_IN_TAIL, MOST_IN_MEAN = 0.99999, 1e-4, 1e-6


def differences(seed: int, file: Path) -> list[tuple[int, int, float, float]]:
    """Return per preset: pixels, differing labels, 99.9 % quantile and mean of differences."""
    photo = cuekit.io.read_photo(file)
    photo = np.ascontiguousarray(photo[:, : photo.shape[1] // 4 * 4])
    maps = inputs.smooth_probabilities(photo.shape[:2], seed=seed)
    found = []
    for name in NAMES:
        ours = cuekit.dense_crf(maps, photo, name)
        theirs = peers.crf_pydensecrf(maps, photo, PRESETS[name])
        differ = int(np.count_nonzero(ours.argmax(0) != theirs.argmax(0)))
        difference = np.abs(ours - theirs)
        tail = float(np.quantile(difference, 0.999))
        found.append((ours[0].size, differ, tail, float(difference.mean(dtype=np.float64))))
    return found


def main() -> int:
    """Compare all photos; the exit status is 1 if a limit does not hold."""
    found = over_photos(__doc__, differences)
    pixels, differ, tails, means = np.array(found).transpose(2, 1, 0)  # each (presets, photos)
    alike = 1 - differ.sum(1) / pixels.sum(1)
    tail, mean = tails.max(1), np.average(means, axis=1, weights=pixels[0])
    lines = [
        f"pydensecrf2 {metadata.version('pydensecrf2')}, NumPy {np.__version__}, "
        f"{len(found)} photos, {pixels[0].sum() / 1e6:.1f} million pixels.",
        "",
        "| preset | labels that differ | equal | 99.9 % of differences below | mean difference |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {differ[i].sum():.0f} | {alike[i]:.5%} | {tail[i]:.1e} | {mean[i]:.1e} |"
            for i, name in enumerate(NAMES)
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    holds = (alike >= LEAST_ALIKE) & (tail <= MOST_IN_TAIL) & (mean <= MOST_IN_MEAN)
    return int(not holds.all())


if __name__ == "__main__":
    sys.exit(main())
