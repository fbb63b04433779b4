"""
What each setting of the dense CRF does
=======================================

The CRF has two kernels. The *bilateral* kernel connects pixels that are near each other and have
similar colours: ``bilateral_sxy`` says how near, ``bilateral_srgb`` how similar, and
``bilateral_weight`` how strongly. The *Gaussian* kernel connects pixels that are near each other
whatever their colours, and smooths. Each picture here changes one value and keeps the others.
Writes one picture per value::

    python crf_settings.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from picture import DATA, UNKNOWN, overlay

import cuekit
import cuekit.io
from cuekit.crf import PRESETS

# %%
# The start: cues of a coarse grid. Each label is right with probability 0.7, gray pixels are
# unknown.

photo = skimage.data.coffee()
with cuekit.io.MapArchive(DATA / "color.npz") as archive:
    maps = archive.read("coffee")
features: Any = maps.features
raw = cuekit.raw_cues(cuekit.subtract_classes(maps.maps), cuekit.background_map(*features[:, None]))
labels = cuekit.cues_to_labels(cuekit.resize_cues(raw, photo.shape[:2]), unknown=UNKNOWN)
IRN = PRESETS["irn"]


def refined(params: cuekit.CRFParams, confidence: float = 0.7, iterations: int = 10) -> np.ndarray:
    """Return the labels (H, W) after a CRF."""
    probabilities = cuekit.labels_to_probabilities(
        labels, len(raw), gt_prob=confidence, ignore=UNKNOWN
    )
    return cuekit.dense_crf(probabilities, photo, params, iterations=iterations).argmax(0)


def draw(name: str, values: Sequence[float], results: Sequence[np.ndarray]) -> None:
    """Write a picture with the labels of four values."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.8), layout="constrained")
    for ax, value, result in zip(axes.flat, values, results, strict=True):
        ax.imshow(overlay(photo, result))
        ax.set_title(f"{name} = {value:g}", fontsize=11)
        ax.set_axis_off()
    figure.savefig(f"crf_settings_{name}.png")


def vary(name: str, values: Sequence[float]) -> None:
    """Run the CRF with each value of one parameter, the others as IRN has them."""
    draw(name, values, [refined(dataclasses.replace(IRN, **{name: value})) for value in values])


figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for ax, image in zip(axes, (photo, overlay(photo, labels)), strict=True):
    ax.imshow(image)
    ax.set_axis_off()

# %%
# Colour: ``bilateral_srgb``
# --------------------------
# How far colours may differ, in levels of 0 to 255. If it is small, only pixels of nearly the same
# colour are connected: labels stop at every edge, and highlights and shadows within an object keep
# their label. If it is large, edges no longer stop labels: at 40, the cup's label runs into the
# table, and the red saucer's rim is lost to the red wood.

vary("bilateral_srgb", (2, 5, 13, 40))

# %%
# Reach: ``bilateral_sxy``
# ------------------------
# How far apart pixels may be, in pixels. A small reach moves the border of a label by a few pixels
# only, which is less than a cell of the maps. With a large one, pixels of similar colour agree all
# over the photo: at 120, dark parts of the saucer go to the dark table, and its shadow to the cup.
# Published settings for photos of 500 pixels are between 36 and 121.
# :meth:`cuekit.CRFParams.scaled` multiplies the widths for photos of another size.

vary("bilateral_sxy", (5, 20, 50, 120))

# %%
# Strength: ``bilateral_weight``
# ------------------------------
# How much the neighbours count against the unaries, which are what the maps say. At 0, only the
# Gaussian kernel is left: corners become round, and the photo has no say.

vary("bilateral_weight", (0, 1, 4, 10))

# %%
# Smoothing: ``gaussian_weight``
# ------------------------------
# The Gaussian kernel removes thin lines and small spots. It knows nothing of the photo: with a
# large weight, labels stay where the maps put them.

vary("gaussian_weight", (0, 3, 10, 30))

# %%
# Its width: ``gaussian_sxy``
# ---------------------------
# Kernels are normalised, so the width changes less than the weight: with IRN's weight of 3, hardly
# anything.

vary("gaussian_sxy", (1, 3, 10, 30))

# %%
# Confidence of the unaries
# -------------------------
# Not a setting of the CRF, but as important: labels that are given with a high confidence are hard
# to change. Near 1 / number of classes, here 0.5, they say nothing.

confidences = (0.55, 0.7, 0.9, 0.99)
draw("gt_prob", confidences, [refined(IRN, confidence=each) for each in confidences])

# %%
# Iterations
# ----------
# Ten are the usual number. Most of the change happens in the first few.

counts = (0, 1, 3, 10)
draw("iterations", counts, [refined(IRN, iterations=each) for each in counts])
