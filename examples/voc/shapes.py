"""Generated photos in PASCAL VOC's layout: textured shapes on a cluttered background.

Everything that needs VOC runs on them in seconds, on any machine::

    python shapes.py FOLDER --train 320 --val 80

Color and structure both say what an object is, and neither says it alone: `CLASS_OF`. The outline
says nothing. Photos are composed in luma and chroma, so that a photo in gray keeps all structure
and loses all color.
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
# The class of an object of a color (row) and a structure (column); -1: there are no such objects.
# Every color and every structure belongs to two classes, and half of a class's objects stand on the
# diagonal: either clue alone names the class of three objects in four.
CLASS_OF = np.array(
    [
        [0, 0, -1, 3],
        [0, 1, 1, -1],
        [-1, 1, 2, 2],
        [3, -1, 2, 3],
    ]
)
UNKNOWN = 255  # in the masks: the border around objects

_HUES = np.radians([110, 20, 290, 200])  # of COLORS, in the plane of Cb and Cr
_SMALLEST, _LARGEST = 0.4, 0.65  # of an object, as a share of the photo's shorter side


def generate(
    root: Path, *, train: int, val: int, seed: int = 0, size: tuple[int, int] = (72, 96)
) -> None:
    """Write a data set.

    ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png`` (0 = background, 1 to 4 = classes,
    255 = the border around objects), ``ImageSets/Segmentation/train.txt`` and ``val.txt``, and
    ``image_labels.npz`` with the tags: ``ids`` (N,) str, ``labels`` (N, 4) uint8, ``names`` (4,)
    str. Files that are there are overwritten.

    Parameters
    ----------
    root : Path
        The folder; made if it is not there.
    train, val : int
        How many photos; from 4 on, every class occurs.
    seed : int, optional
        The same seed gives the same photos, and a photo does not depend on how many there are.
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
        Where all chance comes from.
    first : int
        The class that is surely there, from 0.
    size : (int, int)
        Height and width.

    Returns
    -------
    photo : ndarray of uint8, shape (H, W, 3)
        RGB.
    labels : ndarray of uint8, shape (H, W)
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
            continue  # an object behind another could be hidden, and its tag wrong
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
        # Objects' chroma begins where that of patches ends, so a little is shared.
        chroma[patch] = _chroma(rng.uniform(0, 28), rng.uniform(0, 2 * np.pi))
    for _ in range(rng.integers(2, 5)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * size
        away = (rows - offset[0]) * np.cos(angle) + (columns - offset[1]) * np.sin(angle)
        luma[np.abs(away) < rng.uniform(0.5, 1.2)] = base + rng.uniform(-50, 50)
    return luma + 6 * _blotches(rng, size, 4), chroma


def _structure(rng: np.random.Generator, size: tuple[int, int], name: str) -> np.ndarray:
    """Draw a structure that fills the photo: (H, W) of about -1 to 1."""
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
    """Draw a blob of two to five lobes, as a mask (H, W); `inside`: not cut by the photo's edge."""
    radius = min(size) * rng.uniform(smallest, largest) / 2
    margin = radius if inside else 0
    center = [rng.uniform(margin, side - margin) for side in size]
    rows, columns = _grid(size)
    angle = np.arctan2(rows - center[0], columns - center[1]) + rng.uniform(0, 2 * np.pi)
    lobes, depth = rng.integers(2, 6), rng.uniform(0, 0.3)
    edge = radius * (1 + depth * np.cos(lobes * angle)) / (1 + depth)
    return np.hypot(rows - center[0], columns - center[1]) < edge


def _border(objects: np.ndarray) -> np.ndarray:
    """Find the pixels beside another object or the background: two pixels wide, one inside."""
    border = np.zeros(objects.shape, bool)
    for axis in (0, 1):
        here, there = (np.moveaxis(a, axis, 0) for a in (objects, border))
        differs = here[1:] != here[:-1]
        there[1:] |= differs
        there[:-1] |= differs
    return border


def _blotches(rng: np.random.Generator, size: tuple[int, int], pixels: int) -> np.ndarray:
    """Draw smooth noise of blotches of so many pixels: (H, W), mean 0, deviation about 1."""
    coarse = rng.normal(0, 1.4, (-(-size[0] // pixels), -(-size[1] // pixels)))
    image = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def _chroma(strength: float, hue: float) -> np.ndarray:
    """Turn polar coordinates of the plane of Cb and Cr into the two."""
    return 128 + strength * np.array([np.cos(hue), np.sin(hue)])


def _grid(size: tuple[int, int]) -> np.ndarray:
    """Row and column of every pixel: (2, H, W)."""
    return np.mgrid[: size[0], : size[1]].astype(float)


def main() -> None:
    """Write the data set that the arguments describe."""
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
