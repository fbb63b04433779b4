"""
What the recipe evidence looks at
=================================

Maps, a walk, colours, features and the border. Takes three photos of scikit-image and the
activation maps in the folder ``data``; writes one picture::

    python evidence.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from picture import DATA, PHOTOS, overlay

import cuekit
from cuekit import io, recipes
from cuekit.recipes import EVIDENCE_WEIGHTS
from cuekit.recipes.evidence import evidence_terms

KINDS = ("color", "gray")  # the classifier's input
SIDE = 2.1  # of a panel, in inches

# %%
# The terms of the score are values of superpixels; the score is their sum with the weights of
# :data:`cuekit.recipes.EVIDENCE_WEIGHTS`. A small network corrects it; the CRF, and a second round
# with the colours of what it found, come after it.


def steps(photo: np.ndarray, maps: list[io.Maps]) -> dict[str, np.ndarray]:
    """Return what each step gives, (C, H, W) or (H, W): maps and terms, high on objects."""
    weights = EVIDENCE_WEIGHTS["position"]
    graph = cuekit.superpixel_graph(cuekit.felzenszwalb(photo, scale=50), photo)
    terms, soft = evidence_terms(maps, photo, graph)
    colours = graph.mean(cuekit.colour_evidence(soft, photo))
    fixed = sum(getattr(weights, name) * each for name, each in terms.items())
    scores = fixed + weights.colour * colours
    size = photo.shape[:2]
    both = [cuekit.merge_scales([each.maps], size=size, epsilon=0) for each in maps]
    return {
        "maps": np.mean(both, axis=0),
        "walk": graph.paint(np.exp(terms["walk"])),
        "colours": graph.paint(colours),
        "features": graph.paint(terms["features"]),
        "not at the border": graph.paint(-terms["connectivity"]),
        "score": graph.paint(scores.clip(-3, 3)),
    }


# %%
# The picture. Bright means object. Where a photo has several classes, a pixel shows the largest
# value of them. Most of the space shuttle is lost: it is high up, and the other terms outvote its
# map.


def draw(path: Path) -> None:
    """Write one picture: a row per photo, a column per step."""
    archives = [io.MapArchive(DATA / f"{kind}.npz") for kind in KINDS]
    rows = []
    for name in PHOTOS:
        photo = getattr(skimage.data, name)()
        maps = [archive.read(name) for archive in archives]
        labels = recipes.evidence(photo, maps)
        rows.append((photo, steps(photo, maps), overlay(photo, labels)))
    titles = ("photo", *rows[0][1], "labels")
    heights = [photo.shape[0] / photo.shape[1] for photo, *_ in rows]
    size = (SIDE * len(titles), SIDE * sum(heights) + 0.4)
    figure = plt.figure(figsize=size, layout="constrained", dpi=75)
    axes = figure.subplots(len(rows), len(titles), height_ratios=heights)
    for line, (photo, found, labels) in zip(axes, rows, strict=True):
        for ax, image in zip(line, (photo, *found.values(), labels), strict=True):
            shown = image.max(axis=0) if image.ndim == 3 and image.shape[2] != 3 else image
            ax.imshow(shown, cmap="magma")
            ax.set_axis_off()
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    figure.savefig(path)


def main() -> None:
    """Compute the steps and write the picture."""
    parser = argparse.ArgumentParser(description="What the recipe evidence looks at.")
    parser.add_argument("--out", type=Path, default=Path("evidence.png"), help="file to write")
    path = parser.parse_args().out
    draw(path)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
