"""Before and after a dense CRF: cues of a coarse grid are aligned with the edges of the photo.

Takes three photos from scikit-image and the activation maps in the folder ``data``; writes one
picture::

    python dense_crf.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from matplotlib import colormaps
from matplotlib.figure import Figure

import cuekit
import cuekit.io

MAPS = Path(__file__).parent / "data" / "color.npz"
PHOTOS = ("chelsea", "coffee", "astronaut")
TITLES = ("photo", "cues of the maps", "after the dense CRF")
UNKNOWN = 255


def before_and_after(photo: np.ndarray, maps: cuekit.io.Maps) -> tuple[np.ndarray, ...]:
    """Return labels (H, W) of a photo (H, W, 3): those of its cues, and those after a CRF."""
    features: Any = maps.features  # this file has them
    own = cuekit.subtract_classes(maps.maps)
    raw = cuekit.raw_cues(own, cuekit.background_map(*features[:, None]))
    labels = cuekit.cues_to_labels(cuekit.resize_cues(raw, photo.shape[:2]), unknown=UNKNOWN)
    # The cues have errors: each gets probability 0.7. Unknown pixels get equal probabilities.
    probabilities = cuekit.labels_to_probabilities(labels, len(raw), gt_prob=0.7, ignore=UNKNOWN)
    return labels, cuekit.dense_crf(probabilities, photo, "irn").argmax(0)


def overlay(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tint the classes, darken the background, and show unknown pixels in gray."""
    colours = colormaps["tab10"](range(10))[(labels - 1) % 10, :3] * 255
    shown = 0.45 * photo + 0.55 * colours
    shown = np.where((labels == 0)[..., None], 0.35 * photo, shown)
    gray = photo.mean(-1, keepdims=True)
    return np.where((labels == UNKNOWN)[..., None], gray, shown).astype(np.uint8)


def draw(
    results: Callable[[np.ndarray, cuekit.io.Maps], tuple[np.ndarray, ...]],
    titles: tuple[str, ...],
    side: float,
    path: Path,
) -> None:
    """Write one picture: a row per photo, which shows it and its labels; `side` is in inches."""
    photos = [getattr(skimage.data, name)() for name in PHOTOS]
    heights = [photo.shape[0] / photo.shape[1] for photo in photos]
    figure = Figure(figsize=(side * len(titles), side * sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(PHOTOS), len(titles), height_ratios=heights)
    with cuekit.io.MapArchive(MAPS) as archive:
        for row, name, photo in zip(axes, PHOTOS, photos, strict=True):
            labels = results(photo, archive.read(name))
            images = (photo, *(overlay(photo, each) for each in labels))
            for ax, image, title in zip(row, images, titles, strict=True):
                ax.imshow(image)
                ax.set_axis_off()
                ax.set_title(title if name == PHOTOS[0] else "")
    figure.savefig(path, dpi=75)
    sys.stdout.write(f"{path}\n")


def main() -> None:
    """Compute the labels and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dense_crf.png"), help="file to write")
    draw(before_and_after, TITLES, 4, parser.parse_args().out)


if __name__ == "__main__":
    main()
