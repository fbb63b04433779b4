"""Generates photos in PASCAL VOC's layout: textured shapes on a cluttered background.

Everything that needs VOC also runs on this data set, in seconds and on any machine::

    python shapes.py FOLDER --train 320 --val 80

The class of an object depends on both its color and its structure (`CLASS_OF`), and not on its
outline. Photos are composed in luma and chroma, so a grayscale photo keeps all structure and no
color.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cuekit import io

NAMES = ("drum", "kite", "sail", "tile")
COLORS = ("red", "violet", "cyan", "green")
STRUCTURES = ("bars", "dots", "posts", "grain")
# The class of an object of a color (row) and a structure (column); -1: no objects of this kind.
# Every color and every structure occurs in two classes, and half of a class's objects are on the
# diagonal: color alone, or structure alone, predicts the class of three objects in four.
CLASS_OF = np.array(
    [
        [0, 0, -1, 3],
        [0, 1, 1, -1],
        [-1, 1, 2, 2],
        [3, -1, 2, 3],
    ]
)
UNKNOWN = 255  # label of the border around objects

_HUES = np.radians([110, 20, 290, 200])  # of COLORS, in the plane of Cb and Cr
_SMALLEST, _LARGEST = 0.4, 0.65  # size of an object, as a share of the photo's shorter side


def generate(
    root: Path, *, train: int, val: int, seed: int = 0, size: tuple[int, int] = (72, 96)
) -> None:
    """Write a data set.

    ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png`` (0 = background, 1 to 4 = classes,
    255 = the border around objects), ``ImageSets/Segmentation/train.txt`` and ``val.txt``, and
    ``image_labels.npz`` with the tags: ``ids`` (N,) str, ``labels`` (N, 4) uint8, ``names`` (4,)
    str. Existing files are overwritten.

    Parameters
    ----------
    root : Path
        The folder; created if it does not exist.
    train, val : int
        Number of photos; with at least 4, every class occurs.
    seed : int, optional
        The same seed gives the same photos; a photo does not depend on the number of photos.
    size : (int, int), optional
        Height and width of the photos.
    """
    photos, masks, lists = (
        root / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    )
    for folder in (photos, masks, lists):
        folder.mkdir(parents=True, exist_ok=True)
    tags = {}
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        ids = [f"{split}_{i:06}" for i in range(count)]
        for i, name in enumerate(ids):
            rng = np.random.default_rng([seed, number, i])
            photo, labels = draw(rng, i % len(NAMES), size)
            Image.fromarray(photo).save(photos / f"{name}.jpg", quality=95)
            io.write_labels(masks / f"{name}.png", labels)
            tags[name] = [np.any(labels == c) for c in range(1, len(NAMES) + 1)]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    np.savez(
        root / "image_labels.npz",
        ids=np.array(list(tags), dtype=str),
        labels=np.array(list(tags.values()), dtype=np.uint8).reshape(-1, len(NAMES)),
        names=np.array(NAMES),
    )


def draw(
    rng: np.random.Generator, first: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a photo of one to three objects of one or two classes.

    Parameters
    ----------
    rng : Generator
        Source of all random numbers.
    first : int
        A class that the photo contains in any case, counted from 0.
    size : (int, int)
        Height and width.

    Returns
    -------
    photo : (H, W, 3) array of uint8
        RGB.
    labels : (H, W) array of uint8
        0 = background, 1 to 4 = classes, 255 = border.
    """
    luma, chroma = _background(rng, size)
    classes = [first, int(rng.integers(len(NAMES)))]
    labels = np.zeros(size, np.uint8)
    objects = np.zeros(size, np.uint8)
    for number in range(1, int(rng.integers(1, 4)) + 1):
        of_class = first if number == 1 else classes[int(rng.integers(2))]
        mask = _outline(rng, size, _SMALLEST, _LARGEST, inside=True)
        if objects[mask].any():
            continue  # objects must not overlap: one could hide another, whose tag would be wrong
        pairs = np.argwhere(of_class == CLASS_OF)
        color, structure = rng.choice(pairs, p=np.where(pairs[:, 0] == pairs[:, 1], 0.5, 0.25))
        luma[mask] = (rng.uniform(95, 160) + 35 * _structure(rng, size, STRUCTURES[structure]))[
            mask
        ]
        chroma[mask] = _chroma(rng.uniform(36, 50), _HUES[color] + rng.uniform(-0.25, 0.25))
        labels[mask] = of_class + 1
        objects[mask] = number
    luma += rng.normal(0, 4, size)
    labels[_border(objects)] = UNKNOWN
    planes = np.dstack([luma, chroma]).clip(0, 255).round().astype(np.uint8)
    bands = [Image.fromarray(plane) for plane in np.moveaxis(planes, -1, 0)]
    return np.asarray(Image.merge("YCbCr", bands).convert("RGB")), labels


def _background(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a gradient, patches, lines and blotches: luma (H, W) and chroma (H, W, 2)."""
    rows, columns = _grid(size)
    slope = rng.uniform(-40, 40, 2)
    base = rng.uniform(100, 150)
    luma = base + slope[0] * (rows / size[0]) + slope[1] * (columns / size[1])
    chroma = np.full((*size, 2), _chroma(rng.uniform(0, 15), rng.uniform(0, 2 * np.pi)))
    for _ in range(rng.integers(4, 8)):
        patch = _outline(rng, size, 0.2, 0.8)
        luma[patch] = base + rng.uniform(-35, 35)
        # Objects have higher chroma than patches, with a small overlap of the two ranges.
        chroma[patch] = _chroma(rng.uniform(0, 28), rng.uniform(0, 2 * np.pi))
    for _ in range(rng.integers(2, 5)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * size
        distance = (rows - offset[0]) * np.cos(angle) + (columns - offset[1]) * np.sin(angle)
        luma[np.abs(distance) < rng.uniform(0.5, 1.2)] = base + rng.uniform(-50, 50)
    return luma + 6 * _blotches(rng, size, 4), chroma


def _structure(rng: np.random.Generator, size: tuple[int, int], name: str) -> np.ndarray:
    """Draw a structure that fills the photo: (H, W), values of about -1 to 1."""
    if name == "grain":
        return _blotches(rng, size, 3).clip(-1.2, 1.2)
    angle, wave = rng.uniform(-0.2, 0.2), 2 * np.pi / rng.uniform(5.5, 7.5)
    rows, columns = _grid(size)
    u = np.sin(wave * (rows * np.cos(angle) + columns * np.sin(angle)))
    if name == "bars":
        return u
    v = np.sin(wave * (columns * np.cos(angle) - rows * np.sin(angle)))
    if name == "posts":
        return v
    return np.where(u + v > 0.5, 1.0, -0.6)  # dots


def _outline(
    rng: np.random.Generator,
    size: tuple[int, int],
    smallest: float,
    largest: float,
    *,
    inside: bool = False,
) -> np.ndarray:
    """Draw the mask (H, W) of a blob of two to five lobes; `inside` keeps it within the photo."""
    radius = min(size) * rng.uniform(smallest, largest) / 2
    margin = radius if inside else 0
    center = [rng.uniform(margin, side - margin) for side in size]
    rows, columns = _grid(size)
    angle = np.arctan2(rows - center[0], columns - center[1]) + rng.uniform(0, 2 * np.pi)
    lobes, depth = rng.integers(2, 6), rng.uniform(0, 0.3)
    edge = radius * (1 + depth * np.cos(lobes * angle)) / (1 + depth)
    return np.hypot(rows - center[0], columns - center[1]) < edge


def _border(objects: np.ndarray) -> np.ndarray:
    """Return the borders of objects (H, W): one pixel inside the object and one outside."""
    border = np.zeros(objects.shape, bool)
    for axis in (0, 1):
        ids, marked = (np.moveaxis(a, axis, 0) for a in (objects, border))
        differs = ids[1:] != ids[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    return border


def _blotches(rng: np.random.Generator, size: tuple[int, int], pixels: int) -> np.ndarray:
    """Draw smooth noise (H, W) of mean 0 and deviation about 1, in blotches of `pixels` pixels."""
    coarse = rng.normal(0, 1.4, (-(-size[0] // pixels), -(-size[1] // pixels)))
    image = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def _chroma(strength: float, hue: float) -> np.ndarray:
    """Return Cb and Cr of polar coordinates in the chroma plane."""
    return 128 + strength * np.array([np.cos(hue), np.sin(hue)])


def _grid(size: tuple[int, int]) -> np.ndarray:
    """Return row and column of every pixel: (2, H, W)."""
    return np.mgrid[: size[0], : size[1]].astype(float)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=320, help="photos for training")
    parser.add_argument("--val", type=int, default=80, help="photos for validation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generate(args.root, train=args.train, val=args.val, seed=args.seed)
    sys.stdout.write(f"{args.root}: {args.train} + {args.val} photos\n")


if __name__ == "__main__":
    main()
