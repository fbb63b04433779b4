"""What the examples share: where their maps are, and how their pictures are drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from skimage.color import gray2rgb, rgb2gray
from skimage.segmentation import mark_boundaries

import cuekit
import cuekit.io

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA = Path(__file__).parent / "data"
PHOTOS = ("chelsea", "coffee", "astronaut")  # of scikit-image; the data folder has their maps
UNKNOWN = 255
BACKGROUND = "#232a3d"
COLORS = ("#00c2a8", "#2f86ff", "#ff2e93", "#ffd000", "#8fdc00", "#a55cff")
OPACITY = 0.62
COLUMNS = (
    ("photo", ""),
    ("superpixels", ""),
    ("raw cues", "color photo"),
    ("snapped", "color photo"),
    ("raw cues", "same network, gray photo"),
    ("snapped", "same network, gray photo"),
    ("fused", "color or gray"),
    ("evidence", "recipe on both"),
)
DPI, PANEL, GAP, MARGIN, HEADER, FOOTER = 100, 2.3, 0.07, 0.1, 0.6, 0.46  # inches, except DPI


class Row(NamedTuple):
    """A photo and the result of every step.

    Attributes
    ----------
    photo : (H, W, 3) array of uint8
    classes : list of str
        Names of the C classes, without the background.
    superpixels : (H, W) array of int32
    raw : dict of str to (C + 1, h, w) array of bool
        The cues of "color" and "gray"; channel 0 is the background.
    snapped : dict of str to (C + 1, H, W) array of bool
    fused : (C + 1, H, W) array of bool
    evidence : (C + 1, H, W) array of bool
        The labels of the recipe, one mask per class.
    """

    photo: np.ndarray
    classes: list[str]
    superpixels: np.ndarray
    raw: dict[str, np.ndarray]
    snapped: dict[str, np.ndarray]
    fused: np.ndarray
    evidence: np.ndarray


def draw(rows: list[Row], path: Path) -> None:
    """Write all steps of the quickstart into one PNG: a row per photo, a column per step."""
    names = list(dict.fromkeys(name for row in rows for name in row.classes))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}

    heights = [PANEL * row.photo.shape[0] / row.photo.shape[1] for row in rows]
    width = 2 * MARGIN + len(COLUMNS) * (PANEL + GAP) - GAP
    height = HEADER + sum(heights) + GAP * (len(rows) - 1) + FOOTER
    figure = plt.figure(figsize=(width, height), dpi=DPI)
    axes = figure.subplots(
        len(rows),
        len(COLUMNS),
        squeeze=False,
        gridspec_kw={
            "left": MARGIN / width,
            "right": 1 - MARGIN / width,
            "bottom": FOOTER / height,
            "top": 1 - HEADER / height,
            "wspace": GAP / PANEL,
            "hspace": GAP / np.mean(heights),
            "height_ratios": heights,
        },
    )
    for axis, (title, detail) in zip(axes[0], COLUMNS, strict=True):
        above = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
        axis.annotate(title, (0.5, 1), (0, 21), fontsize=15, fontweight="bold", **above)
        axis.annotate(detail, (0.5, 1), (0, 7), fontsize=11.5, color="#555555", **above)
    for line, row in zip(axes, rows, strict=True):
        tints = [BACKGROUND, *(colors[name] for name in row.classes)]
        line[0].imshow(row.photo)
        line[1].imshow(mark_boundaries(row.photo, row.superpixels, color=(1, 0.9, 0)))
        gray = gray2rgb(rgb2gray(row.photo))
        _show_cues(line[2], row.photo, row.raw["color"], tints)
        _show_cues(line[3], row.photo, row.snapped["color"], tints)
        _show_cues(line[4], gray, row.raw["gray"], tints)
        _show_cues(line[5], gray, row.snapped["gray"], tints)
        _show_cues(line[6], row.photo, row.fused, tints)
        _show_cues(line[7], row.photo, row.evidence, tints)
        for axis in line:
            axis.axis("off")

    legend = [Patch(color=to_rgba(BACKGROUND, 0.85), label="background")]
    legend += [Patch(color=color, label=name) for name, color in colors.items()]
    legend += [Patch(facecolor="white", edgecolor="#999999", label="no cue: photo as it is")]
    figure.legend(
        handles=legend,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(legend),
        frameon=False,
        fontsize=14,
        handlelength=1.3,
        handleheight=1.1,
    )
    figure.savefig(path, pil_kwargs={"optimize": True})


def _show_cues(axes: Axes, photo: np.ndarray, cues: np.ndarray, tints: list[str]) -> None:
    """Draw the photo, tinted where there are cues."""
    labels = cuekit.cues_to_labels(cues, unknown=len(cues))
    palette = np.array([to_rgba(tint, OPACITY) for tint in tints] + [(0, 0, 0, 0)])
    # Raw cues have a lower resolution than the photo: the extent scales them to its size.
    height, width = photo.shape[:2]
    axes.imshow(photo, extent=(0, width, height, 0))
    axes.imshow(palette[labels], extent=(0, width, height, 0), interpolation="nearest")


def overlay(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tint the classes, darken the background, and show unknown pixels in gray."""
    colours = plt.colormaps["tab10"](range(10))[(labels - 1) % 10, :3] * 255
    shown = 0.45 * photo + 0.55 * colours
    shown = np.where((labels == 0)[..., None], 0.35 * photo, shown)
    gray = photo.mean(-1, keepdims=True)
    return np.where((labels == UNKNOWN)[..., None], gray, shown).astype(np.uint8)


def draw_labels(
    results: Callable[[np.ndarray, cuekit.io.Maps], tuple[np.ndarray, ...]],
    titles: tuple[str, ...],
    side: float,
    path: Path,
) -> None:
    """Write one picture: a row per photo, which shows it and its labels; `side` is in inches."""
    photos = [getattr(skimage.data, name)() for name in PHOTOS]
    heights = [photo.shape[0] / photo.shape[1] for photo in photos]
    size = (side * len(titles), side * sum(heights) + 0.4)
    figure = plt.figure(figsize=size, layout="constrained", dpi=75)
    axes = figure.subplots(len(PHOTOS), len(titles), height_ratios=heights)
    with cuekit.io.MapArchive(DATA / "color.npz") as archive:
        for row, name, photo in zip(axes, PHOTOS, photos, strict=True):
            labels = results(photo, archive.read(name))
            images = (photo, *(overlay(photo, each) for each in labels))
            for ax, image, title in zip(row, images, titles, strict=True):
                ax.imshow(image)
                ax.set_axis_off()
                ax.set_title(title if name == PHOTOS[0] else "")
    figure.savefig(path)
    sys.stdout.write(f"{path}\n")
