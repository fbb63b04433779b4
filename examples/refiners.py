"""
Three refiners side by side
===========================

PAR, a random walk and a dense CRF align maps with the photo. Takes three photos of scikit-image
and the activation maps in the folder ``data``; writes one picture::

    python refiners.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from picture import draw_labels

import cuekit
import cuekit.io

TITLES = ("photo", "maps", "PAR", "random walk", "dense CRF")
BACKGROUND_SCORE = 0.3
STRIDE = 4  # of the cells of the random walk, in pixels

# %%
# All three start from the same maps, to which a constant background is added. PAR works at the
# photo's size. The random walk works on cells of 4 by 4 pixels and stops at the boundary that
# :func:`cuekit.photo_boundary` makes from the photo alone. The CRF takes the maps as probabilities.


def labels_of(photo: np.ndarray, maps: cuekit.io.Maps) -> tuple[np.ndarray, ...]:
    """Return labels (H, W) of maps (C, h, w), and after PAR, a random walk and a dense CRF."""
    size = photo.shape[:2]
    cams = relative(cuekit.subtract_classes(maps.maps.astype(np.float32)))
    coarse = cuekit.refine_local(cams, photo, "par", iterations=0)  # resizes only
    refined = cuekit.refine_local(with_background(cams), photo, "par")

    cells = (size[0] // STRIDE, size[1] // STRIDE)
    boundary = cuekit.photo_boundary(photo, cuekit.felzenszwalb(photo), size=cells)
    on_cells = cuekit.refine_local(cams, np.zeros((*cells, 3), np.uint8), iterations=0)
    walked = relative(cuekit.random_walk(on_cells, boundary))
    walked = cuekit.refine_local(with_background(walked), photo, iterations=0)

    probabilities = with_background(coarse)
    probabilities /= probabilities.sum(0)
    crf = cuekit.dense_crf(probabilities, photo, "toco-cam")
    return tuple(each.argmax(0) for each in (with_background(coarse), refined, walked, crf))


def relative(cams: np.ndarray) -> np.ndarray:
    """Divide each map by its maximum."""
    largest = cams.max((1, 2), keepdims=True)
    return np.divide(cams, largest, out=np.zeros_like(cams), where=largest > 0)


def with_background(cams: np.ndarray) -> np.ndarray:
    """Put a constant map in front: a class wins where its map is above it."""
    return np.concatenate([np.full_like(cams[:1], BACKGROUND_SCORE), cams])


# %%
# The picture. Dark pixels are background.


def main() -> None:
    """Compute the labels and write the picture."""
    parser = argparse.ArgumentParser(description="Three refiners side by side.")
    parser.add_argument("--out", type=Path, default=Path("refiners.png"), help="file to write")
    draw_labels(labels_of, TITLES, 3, parser.parse_args().out)


if __name__ == "__main__":
    main()
