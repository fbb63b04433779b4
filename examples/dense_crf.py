"""
Dense CRF: before and after
===========================

The dense CRF aligns the cues of a coarse grid with the edges of the photo. Takes three photos of
scikit-image and the activation maps in the folder ``data``; writes one picture::

    python dense_crf.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from picture import UNKNOWN, draw_labels

import cuekit
import cuekit.io

TITLES = ("photo", "cues of the maps", "after the dense CRF")

# %%
# The CRF needs the probability of each class at each pixel. Labels become probabilities by the
# confidence that they have: here each is right with probability 0.7. Unknown pixels get equal
# probabilities. ``"irn"`` is one of the published settings, see :func:`cuekit.dense_crf`.


def before_and_after(photo: np.ndarray, maps: cuekit.io.Maps) -> tuple[np.ndarray, ...]:
    """Return labels (H, W) of a photo (H, W, 3): those of its cues, and those after a CRF."""
    features: Any = maps.features  # this file has them
    own = cuekit.subtract_classes(maps.maps)
    raw = cuekit.raw_cues(own, cuekit.background_map(*features[:, None]))
    labels = cuekit.cues_to_labels(cuekit.resize_cues(raw, photo.shape[:2]), unknown=UNKNOWN)
    probabilities = cuekit.labels_to_probabilities(labels, len(raw), gt_prob=0.7, ignore=UNKNOWN)
    return labels, cuekit.dense_crf(probabilities, photo, "irn").argmax(0)


# %%
# The picture. Gray pixels are unknown, dark ones background.


def main() -> None:
    """Compute the labels and write the picture."""
    parser = argparse.ArgumentParser(description="Before and after a dense CRF.")
    parser.add_argument("--out", type=Path, default=Path("dense_crf.png"), help="file to write")
    draw_labels(before_and_after, TITLES, 4, parser.parse_args().out)


if __name__ == "__main__":
    main()
