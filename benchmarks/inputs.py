"""Inputs of the benchmarks: photos, superpixels of them, maps and cues."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

import cuekit
from cuekit import reference

SIZE = (375, 500)
CHANNELS = 21
GRID = (41, 41)
CAT = 8  # the channel of cat, which chelsea shows, among the 21 of PASCAL VOC
PRESENT = (2, 7, 14)  # the present classes in cases with 3 of 20
DATA = Path(os.environ.get("CUEKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
VOC = DATA / "voc-animals" / "JPEGImages"
EXAMPLE_MAPS = Path(__file__).parent.parent / "examples" / "data" / "color.npz"


@cache
def photo(name: str) -> np.ndarray:
    """Return a photo from the scikit-image package, resized to `SIZE`."""
    original = Image.fromarray(getattr(skimage.data, name)())
    return np.asarray(original.resize(SIZE[::-1], Image.Resampling.BILINEAR))


def natural_photos(count: int) -> list[np.ndarray]:
    """Return photos at their own size: VOC's if available, else scikit-image's, rotated."""
    files = sorted(VOC.glob("*.jpg"))
    if files:
        chosen = files[:: len(files) // count][:count]
        return [cuekit.io.read_photo(file) for file in chosen]
    photos = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "astronaut")]
    return [np.ascontiguousarray(np.rot90(photos[i % 3], i // 3)) for i in range(count)]


@cache
def superpixels(name: str = "chelsea") -> np.ndarray:
    """Return the superpixels of a photo."""
    return cuekit.felzenszwalb(photo(name))


@cache
def superpixel_graph(scale: float = 50, min_size: int = 60) -> cuekit.SuperpixelGraph:
    """Return the graph of finer superpixels of a photo."""
    labels = cuekit.felzenszwalb(photo("chelsea"), scale=scale, min_size=min_size)
    return cuekit.superpixel_graph(labels, photo("chelsea"))


@cache
def masks() -> np.ndarray:
    """Return masks like those of a promptable segmenter: objects, their parts, and parts of these.

    They are the 80 largest segments of three segmentations, coarse to fine, without the very
    largest. They overlap, and leave some pixels uncovered.
    """
    segments = [
        cuekit.felzenszwalb(photo("chelsea"), scale=scale, min_size=scale)
        for scale in (1000, 300, 100)
    ]
    stack = np.concatenate(
        [labels == np.arange(labels.max() + 1)[:, None, None] for labels in segments]
    )
    largest = np.argsort(-stack.sum((1, 2)), kind="stable")[1:81]
    return stack[np.sort(largest)]


def in_four_ways(images: list[np.ndarray]) -> np.ndarray:
    """Return every image and its three mirror images."""
    flips = [slice(None), slice(None, None, -1)]
    return np.array([image[r, c] for image in images for r in flips for c in flips])


def photo_batch() -> np.ndarray:
    """Return 8 photos."""
    return in_four_ways([photo("chelsea"), photo("astronaut")])


def superpixel_batch() -> np.ndarray:
    """Return the superpixels of `photo_batch`."""
    return in_four_ways([superpixels("chelsea"), superpixels("astronaut")])


def describe(labels: np.ndarray) -> str:
    """Return the number of superpixels and the mean length of runs of one label within rows."""
    runs = labels.shape[0] + np.count_nonzero(np.diff(labels, axis=1))
    return f"{labels.max() + 1} superpixels, mean run {labels.size / runs:.1f} pixels"


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    """Return float32 values in [0, 1), for functions whose time does not depend on values."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def activations(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 values after ReLU, like those of a layer."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.maximum(values, 0)


def full_size_cams() -> np.ndarray:
    """Return 20 smooth maps: a network's grid, resized to the photo."""
    return reference.resize_bilinear(activations(CHANNELS - 1, *GRID), SIZE).astype(np.float32)


def smooth_probabilities(size: tuple[int, int], *, cell: int = 16, seed: int = 0) -> np.ndarray:
    """Return the softmax of random logits on a grid of cells, resized to `size`.

    Each of the 21 classes is the most probable one somewhere.
    """
    grid = [max(1, side // cell) for side in size]
    logits = 3 * np.random.default_rng(seed).standard_normal((CHANNELS, *grid))
    return reference.softmax(reference.resize_bilinear(logits, size)).astype(np.float32)


def smooth_and_textured() -> dict[str, np.ndarray]:
    """Return the photos of `SIZE` whose neighbouring pixels differ least and most."""
    photos = [photo for photo in natural_photos(24) if photo.shape[:2] == SIZE]
    photos = photos or [photo(name).copy() for name in ("chelsea", "coffee", "astronaut")]
    photos.sort(key=lambda photo: np.abs(np.diff(photo.astype(int), axis=1)).mean())
    return {"smooth photo": photos[0], "textured photo": photos[-1]}


def random_cues(seed: int = 0) -> np.ndarray:
    """Return cues with all 21 channels on in 30 % of the cells, more than for real photos."""
    return np.random.default_rng(seed).random((CHANNELS, *GRID)) < 0.3


def real_cues() -> np.ndarray:
    """Return cues of chelsea's activation maps: background and cat, 19 empty channels."""
    with np.load(EXAMPLE_MAPS) as data:
        cams = reference.resize_bilinear(data["chelsea/cams"], GRID)
        below_top, top = data["chelsea/features"][:, None].astype(np.float64)
    cues = np.zeros((CHANNELS, *GRID), dtype=bool)
    ground = cuekit.background_map(below_top, top, size=GRID)
    cues[0], cues[CAT] = cuekit.raw_cues(cams, ground)
    return cues


def three_of_twenty() -> np.ndarray:
    """Return the tags of a photo with three classes."""
    present = np.zeros(CHANNELS - 1, dtype=bool)
    present[list(PRESENT)] = True
    return present
