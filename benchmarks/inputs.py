"""What everything is measured on: real superpixels, and maps on their grid."""

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
CAT = 8  # chelsea's channel among the 21 of PASCAL VOC
PRESENT = (2, 7, 14)  # the present classes where there are 3 of 20
DATA = Path(os.environ.get("CUEKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
VOC = DATA / "voc-animals" / "JPEGImages"
EXAMPLE_MAPS = Path(__file__).parent.parent / "examples" / "data" / "maps.npz"


@cache
def photo(name: str) -> np.ndarray:
    """Take a photo that comes inside scikit-image, resized to `SIZE`."""
    original = Image.fromarray(getattr(skimage.data, name)())
    return np.asarray(original.resize(SIZE[::-1], Image.Resampling.BILINEAR))


def natural_photos(count: int) -> list[np.ndarray]:
    """Take photos at their own size: VOC's where they are at hand, else scikit-image's, turned."""
    files = sorted(VOC.glob("*.jpg"))
    if files:
        chosen = files[:: len(files) // count][:count]
        return [np.array(Image.open(file).convert("RGB")) for file in chosen]
    photos = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "astronaut")]
    return [np.ascontiguousarray(np.rot90(photos[i % 3], i // 3)) for i in range(count)]


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


def in_four_ways(images: list[np.ndarray]) -> np.ndarray:
    """Every image as it is and mirrored in three ways."""
    flips = [slice(None), slice(None, None, -1)]
    return np.array([image[r, c] for image in images for r in flips for c in flips])


def photo_batch() -> np.ndarray:
    """8 photos."""
    return in_four_ways([photo("chelsea"), photo("astronaut")])


def superpixel_batch() -> np.ndarray:
    """8 label maps."""
    return in_four_ways([superpixels("chelsea"), superpixels("astronaut")])


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


def smooth_probabilities(size: tuple[int, int], *, cell: int = 16, seed: int = 0) -> np.ndarray:
    """Softmax of random logits on a grid of cells, resized: each of the 21 wins somewhere."""
    grid = [max(1, side // cell) for side in size]
    logits = 3 * np.random.default_rng(seed).standard_normal((CHANNELS, *grid))
    return reference.softmax(reference.resize_bilinear(logits, size)).astype(np.float32)


def smooth_and_textured() -> dict[str, np.ndarray]:
    """Of the photos of `SIZE`, those of which neighbours differ least and most."""
    photos = [photo for photo in natural_photos(24) if photo.shape[:2] == SIZE]
    photos = photos or [photo(name).copy() for name in ("chelsea", "coffee", "astronaut")]
    photos.sort(key=lambda photo: np.abs(np.diff(photo.astype(int), axis=1)).mean())
    return {"smooth photo": photos[0], "textured photo": photos[-1]}


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
