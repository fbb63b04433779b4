"""What everything is measured on: real superpixels, and maps on their grid."""

from __future__ import annotations

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
CAT = 8  # chelsea's channel among the 21 of PASCAL VOC
PRESENT = (2, 7, 14)  # the present classes where there are 3 of 20
EXAMPLE_MAPS = Path(__file__).parent.parent / "examples" / "data" / "maps.npz"


@cache
def photo(name: str) -> np.ndarray:
    """Take a photo that comes inside scikit-image, resized to `SIZE`."""
    original = Image.fromarray(getattr(skimage.data, name)())
    return np.asarray(original.resize(SIZE[::-1], Image.Resampling.BILINEAR))


@cache
def superpixels(name: str = "chelsea") -> np.ndarray:
    """Segment a photo."""
    return cuekit.felzenszwalb(photo(name))


@cache
def masks() -> np.ndarray:
    """Imitate a promptable segmenter's answer: things, their parts and parts of these.

    The 80 largest segments of three segmentations, coarse to fine, without the largest of all:
    they overlap, and leave some pixels uncovered.
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


def superpixel_batch() -> np.ndarray:
    """Take two photos, each as it is and mirrored in three ways: 8 label maps."""
    flips = [slice(None), slice(None, None, -1)]
    maps = [
        superpixels(name)[rows, columns]
        for name in ("chelsea", "astronaut")
        for rows in flips
        for columns in flips
    ]
    return np.ascontiguousarray(maps)


def describe(labels: np.ndarray) -> str:
    """Tell the number of superpixels and the mean length of a run of one label in a row."""
    runs = labels.shape[0] + np.count_nonzero(np.diff(labels, axis=1))
    return f"{labels.max() + 1} superpixels, mean run {labels.size / runs:.1f} pixels"


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 values in [0, 1); no time here depends on them."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def activations(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 normal values after a ReLU, like a convolutional layer's."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.maximum(values, 0)


def full_size_cams() -> np.ndarray:
    """20 smooth maps: a network's grid, resized to the photo."""
    return reference.resize_bilinear(activations(CHANNELS - 1, *GRID), SIZE).astype(np.float32)


def random_cues(seed: int = 0) -> np.ndarray:
    """All 21 channels, on in 30 % of the cells: more than any photo asks for."""
    return np.random.default_rng(seed).random((CHANNELS, *GRID)) < 0.3


def real_cues() -> np.ndarray:
    """Cues of the photo's own activation maps: background and cat, 19 empty channels."""
    with np.load(EXAMPLE_MAPS) as data:
        cams = reference.resize_bilinear(data["chelsea/color/cams"], GRID)
        below_top, top = data["chelsea/color/features"][:, None].astype(np.float64)
    cues = np.zeros((CHANNELS, *GRID), dtype=bool)
    ground = cuekit.background_map(below_top, top, size=GRID)
    cues[0], cues[CAT] = cuekit.raw_cues(cams, ground)
    return cues


def three_of_twenty() -> np.ndarray:
    """Tags of a photo that shows three classes."""
    present = np.zeros(CHANNELS - 1, dtype=bool)
    present[list(PRESENT)] = True
    return present
