"""Compare refiners on the same maps: quality with intervals, and cost.

``python -m benchmarks.refiners DATA`` prints the tables of ``docs/refiners.md``; with ``--write``
they go into that file. DATA is a folder with the photos and masks of PASCAL VOC (``voc-animals``),
the maps of two classifiers (``cams``) and SEC's published cues (``sec-cues``).

Quality is cue mIoU: unknown pixels count as background, pixels of truth 255 do not count, and one
matrix of 21 classes is summed over all photos. Every photo goes through all refiners before the
next one does, so that cost is compared under the same conditions. Cost is processor time, of one
thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import cuekit
from cuekit import io, recipes
from cuekit.io import Maps
from cuekit.metrics import bootstrap, confusion_matrix, mean_iou
from cuekit.recipes import EVIDENCE_WEIGHTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "refiners.md"
ANIMALS = (0, 8, 10, 12, 13, 15, 17)  # background, cat, cow, dog, horse, person, sheep
SCALES = (50, 100, 200, 400)  # of superpixels, min_size 60
SCALES_OF_MASKS = (100, 200, 400, 800)
# Best mIoU on the list "train": of all thresholds in steps of 0.01 by `cuekit sweep`; and of 0.05,
# 0.1, ... on every third photo.
THRESHOLD, THRESHOLD_OF_WALK = 0.21, 0.3
# What weights of `evidence` owe to masks, if they are not fitted to them.
MASKS = {"tags-only": "choice"}
STRIDE = 4  # of the cells of the random walk, in pixels

Array: TypeAlias = NDArray[Any]


class Photo(NamedTuple):
    """A photo (H, W, 3), its true labels (H, W), and maps of one or more classifiers."""

    pixels: Array
    truth: Array
    sets: list[Maps]


class Refiner(NamedTuple):
    """A row of a table; `masks` says what its constants owe to true masks."""

    name: str
    labels: Callable[[Array, list[Maps]], Array]
    masks: str = "no"


class Measured(NamedTuple):
    """What one refiner gave on N photos: matrices (N, 21, 21), and seconds of each call."""

    matrices: Array
    seconds: list[float]


# --------------------------------------------------------------------------------- the refiners


def scores_of(photo: Array, sets: list[Maps]) -> list[Array]:
    """Return each classifier's maps at the photo's size, divided by their maxima."""
    size = photo.shape[:2]
    return [
        cuekit.merge_scales([each.maps.astype(np.float32)], size=size, epsilon=0) for each in sets
    ]


def labels_of(probabilities: Array, sets: list[Maps]) -> Array:
    """Return the class ids of the largest probabilities."""
    return cuekit.probabilities_to_labels(probabilities, classes=[0, *sets[0].class_ids])


def raw(photo: Array, sets: list[Maps]) -> Array:
    """Label cues as they are."""
    features: Any = sets[0].features
    own = cuekit.subtract_classes(sets[0].maps)
    cues = cuekit.raw_cues(own, cuekit.background_map(*features[:, None]))
    return cues_to_labels(cuekit.resize_cues(cues, photo.shape[:2]), sets)


def cues_to_labels(cues: Array, sets: list[Maps]) -> Array:
    """Return one label per pixel; 255 where there is no cue."""
    return cuekit.cues_to_labels(cues, classes=[0, *sets[0].class_ids])


def psa_probabilities(photo: Array, sets: list[Maps]) -> Array:
    """Return what PSA gives its CRF."""
    return cuekit.with_background(np.mean(scores_of(photo, sets), axis=0), alpha=4)


def refined_locally(photo: Array, sets: list[Maps], preset: str) -> Array:
    """Refine PSA's probabilities with PAR or PAMR."""
    return labels_of(cuekit.refine_local(psa_probabilities(photo, sets), photo, preset), sets)


def walked(photo: Array, sets: list[Maps]) -> Array:
    """Let maps walk up to the photo's edges: IRN's walk, without its network."""
    cells = (max(photo.shape[0] // STRIDE, 1), max(photo.shape[1] // STRIDE, 1))
    boundary = cuekit.photo_boundary(photo, cuekit.felzenszwalb(photo), size=cells)
    maps = np.mean([cuekit.resize_maps(each, cells) for each in scores_of(photo, sets)], axis=0)
    spread = cuekit.merge_scales(
        [cuekit.random_walk(maps, boundary)], size=photo.shape[:2], epsilon=0
    )
    return labels_of(cuekit.with_background(spread, threshold=THRESHOLD_OF_WALK), sets)


def sepl(photo: Array, sets: list[Maps]) -> Array:
    """Sharpen thresholded maps with superpixels in place of a segmenter's masks."""
    segments = [cuekit.felzenszwalb(photo, scale=scale) for scale in SCALES_OF_MASKS]
    masks = np.concatenate([s == np.arange(s.max() + 1)[:, None, None] for s in segments])
    return recipes.sepl(photo, sets, masks=masks, threshold=THRESHOLD, normalize=True)


def multi_scale(photo: Array, sets: list[Maps]) -> Array:
    """Average maps over superpixels of several scales, and refine them with a CRF."""
    maps = np.max(scores_of(photo, sets), axis=0)
    segments = [cuekit.felzenszwalb(photo, scale=scale) for scale in SCALES]
    means = cuekit.merge_scales([cuekit.superpixel_mean(maps, s) for s in segments], epsilon=0)
    probabilities = cuekit.with_background(means, alpha=3)
    return labels_of(cuekit.dense_crf(probabilities, photo, "psa"), sets)


def without_features(photo: Array, sets: list[Maps], **options: Any) -> Array:
    """Run the recipe evidence on maps alone."""
    bare = [dataclasses.replace(each, features=None, background=None) for each in sets]
    return recipes.evidence(photo, bare, **options)


def first_of(labels: Callable[..., Array]) -> Callable[[Array, list[Maps]], Array]:
    """Give a recipe the first classifier's maps only."""
    return lambda photo, sets: labels(photo, sets[:1])


def on_normalized(recipe: Callable[..., Array], **options: Any) -> Callable[..., Array]:
    """Let a recipe divide maps by their maxima first."""
    return partial(recipe, normalize=True, **options)


OF_MAPS = (
    Refiner("raw cues .3/.2, one classifier", raw),
    Refiner("`snap`, one classifier", first_of(recipes.snap)),
    Refiner("`snap`, both merged: the paper's", recipes.snap),
    Refiner("`threshold`", on_normalized(recipes.threshold, threshold=THRESHOLD)),
    Refiner("`psa`", on_normalized(recipes.psa)),
    Refiner("`irn`, unsure is background", on_normalized(recipes.irn)),
    Refiner("`clip_es`, all labels kept", on_normalized(recipes.clip_es, confidence=0)),
    Refiner("`toco`, unsure is background", on_normalized(recipes.toco)),
    Refiner("PAR: `refine_local`", partial(refined_locally, preset="par")),
    Refiner("PAMR: `refine_local`", partial(refined_locally, preset="pamr")),
    Refiner("`random_walk`, `photo_boundary`", walked),
    Refiner("`sepl`, masks are superpixels", sepl),
    Refiner("superpixel means of four scales, CRF", multi_scale),
    Refiner("`evidence`", recipes.evidence, masks="yes"),
    Refiner("`evidence`, one round", partial(recipes.evidence, rounds=1), masks="yes"),
    *(
        Refiner(
            f'`evidence`, "{name}"',
            partial(recipes.evidence, weights=name),
            masks=MASKS.get(name, "yes"),
        )
        for name in list(EVIDENCE_WEIGHTS)[1:]
    ),
    Refiner("`evidence`, one classifier", first_of(recipes.evidence), masks="yes"),
    Refiner("`evidence`, without features", without_features, masks="yes"),
)


# ------------------------------------------------------------------- refiners of published cues


def with_background_cue(cues: list[Maps]) -> Array:
    """Return SEC's cues (K, 41, 41) of bool, channel 0 the background."""
    background: Any = cues[0].background
    return np.concatenate([background[None], cues[0].maps]) > 0


def published(photo: Array, cues: list[Maps]) -> Array:
    """Label SEC's cues as they are."""
    resized = cuekit.resize_cues(with_background_cue(cues), photo.shape[:2])
    return cues_to_labels(resized, cues)


def published_snapped(photo: Array, cues: list[Maps]) -> Array:
    """Snap SEC's cues to superpixels."""
    superpixels = cuekit.felzenszwalb(photo)
    return cues_to_labels(cuekit.snap_cues(with_background_cue(cues), superpixels), cues)


def published_crf(photo: Array, cues: list[Maps]) -> Array:
    """Give the CRF labels of which it is to be 70 % sure, and nothing where there is no cue."""
    labels = cuekit.cues_to_labels(cuekit.resize_cues(with_background_cue(cues), photo.shape[:2]))
    soft = cuekit.labels_to_probabilities(labels, len(cues[0].maps) + 1, gt_prob=0.7, ignore=255)
    return labels_of(cuekit.dense_crf(soft, photo, "irn"), cues)


OF_CUES = (
    Refiner("SEC's cues", published),
    Refiner("snapped", published_snapped),
    Refiner('`dense_crf`, "irn"', published_crf),
    Refiner("`psa`", recipes.psa),
    Refiner("PAR: `refine_local`", partial(refined_locally, preset="par")),
    Refiner("superpixel means of four scales, CRF", multi_scale),
    *(
        Refiner(
            f'`evidence`, "{name}"',
            partial(recipes.evidence, weights=name),
            masks=MASKS.get(name, "yes"),
        )
        for name in EVIDENCE_WEIGHTS
    ),
    *(
        Refiner(
            f'`evidence`, "{name}", background cue unused',
            partial(without_features, weights=name),
            masks=MASKS.get(name, "yes"),
        )
        for name in EVIDENCE_WEIGHTS
    ),
)


# ------------------------------------------------------------------------------- changed photos


def turned(photo: Photo, change: Callable[[Array], Array]) -> Photo:
    """Apply `change`, of the first two axes, to photo, truth and maps."""

    def planes(stack: Any) -> Any:  # (C, h, w)
        return np.moveaxis(change(np.moveaxis(stack, 0, -1)), -1, 0).copy()

    sets = [
        dataclasses.replace(
            each, maps=planes(each.maps), features=planes(each.features), photo_size=None
        )
        for each in photo.sets
    ]
    return Photo(change(photo.pixels).copy(), change(photo.truth).copy(), sets)


def cropped(photo: Photo, y: float, x: float) -> Photo:
    """Keep a window of half the height and width; y and x, from 0 to 1, say where it is."""
    height, width = photo.truth.shape
    top, left = int(y * (height - height // 2)), int(x * (width - width // 2))

    def window(plane: Array) -> Array:
        return plane[top : top + height // 2, left : left + width // 2]

    sets = []
    for each in photo.sets:
        features: Any = each.features
        sets.append(
            dataclasses.replace(
                each,
                maps=cuekit.resize_maps(each.maps, (height, width)),
                features=cuekit.resize_maps(features, (height, width)),
            )
        )
    crop = turned(Photo(photo.pixels, photo.truth, sets), window)
    shown = np.isin(crop.sets[0].class_ids, crop.truth)
    return crop._replace(
        sets=[
            dataclasses.replace(each, maps=each.maps[shown], class_ids=each.class_ids[shown])
            for each in crop.sets
        ]
    )


def resized(photo: Photo, longest: int) -> Photo:
    """Resize photo and truth; the maps stay as they are."""
    height, width = photo.truth.shape
    factor = longest / max(height, width)
    size = (round(width * factor), round(height * factor))
    pixels = np.asarray(Image.fromarray(photo.pixels).resize(size, Image.Resampling.BICUBIC))
    truth = np.asarray(Image.fromarray(photo.truth).resize(size, Image.Resampling.NEAREST))
    return Photo(pixels, truth, photo.sets)


CHANGES: Mapping[str, Callable[[Photo], Photo]] = {
    "as it is": lambda photo: photo,
    "mirrored": partial(turned, change=lambda plane: plane[:, ::-1]),
    "turned to the left": partial(turned, change=np.rot90),
    "upside down": partial(turned, change=lambda plane: plane[::-1]),
    "the middle, a quarter of the area": partial(cropped, y=0.5, x=0.5),
    "a corner at the bottom, a quarter": partial(cropped, y=1, x=0),
    "a corner at the top, a quarter": partial(cropped, y=0, x=1),
    **{f"{longest} pixels": partial(resized, longest=longest) for longest in (200, 800)},
}
OF_CHANGED = (
    Refiner("`psa`", on_normalized(recipes.psa)),
    *(
        Refiner(f'`evidence`, "{name}"', partial(recipes.evidence, weights=name), masks="yes")
        for name in ("position", "no-position")
    ),
)


# ------------------------------------------------------------------------------ photos, figures


def photos_of(data: Path, names: list[str]) -> Iterator[Photo]:
    """Read the photos of a list with the maps of both classifiers."""
    archives = [io.MapArchive(data / "cams" / f"{name}.npz") for name in ("color", "gray")]
    for name in names:
        yield Photo(*read(data, name), [archive.read(name) for archive in archives])


def photos_with_cues(data: Path, names: list[str]) -> Iterator[Photo]:
    """Read the photos of a list with SEC's cues: maps of 0 and 1, and a background of 0 and 1."""
    folder = data / "sec-cues"
    cues = io.read_sec_cues(
        folder / "localization_cues.pickle.gz", image_list=folder / "input_list.txt"
    )
    for name in names:
        ids = cues[name].labels.astype(np.int64)
        planes = cues[name].cues.astype(np.float32)
        yield Photo(*read(data, name), [Maps(planes[ids], ids, planes[0], "cuekit")])


def read(data: Path, name: str) -> tuple[Array, Array]:
    """Return a photo and its true labels."""
    folder = data / "voc-animals"
    return (
        io.read_photo(folder / "JPEGImages" / f"{name}.jpg"),
        io.read_labels(folder / "SegmentationClass" / f"{name}.png"),
    )


def measure(refiners: tuple[Refiner, ...], photos: Iterator[Photo], count: int) -> list[Measured]:
    """Run all refiners on every photo."""
    found = [Measured(np.zeros((count, 21, 21)), []) for _ in refiners]
    for i, photo in enumerate(photos):
        for each, into in zip(refiners, found, strict=True):
            start = time.process_time()
            labels = each.labels(photo.pixels, photo.sets)
            into.seconds.append(time.process_time() - start)
            into.matrices[i] = confusion_matrix(photo.truth, labels)
        sys.stderr.write(f"\r{i + 1} of {count} photos")
    sys.stderr.write("\n")
    return found


def figures(refiners: tuple[Refiner, ...], found: list[Measured]) -> list[list[str]]:
    """Return for each refiner mIoU, difference to `psa`, precision, recall, lost, and cost."""
    base = found[[each.name for each in refiners].index("`psa`")]
    rows = []
    for each in found:
        total = each.matrices.sum(0)
        correct = np.trace(total[1:, 1:])
        value, low, high = percent(each.matrices)
        against = [f"{number:+.1f}" for number in percent(each.matrices, base.matrices)]
        ratios = [a / b for a, b in zip(each.seconds, base.seconds, strict=True)]
        rows.append(
            [
                f"{value:.1f} [{low:.1f}, {high:.1f}]",
                "–" if each is base else "{} [{}, {}]".format(*against),
                f"{100 * correct / max(total[:, 1:].sum(), 1):.0f}",
                f"{100 * correct / total[1:].sum():.0f}",
                f"{100 * lost(each.matrices):.0f}",
                f"{1000 * median(each.seconds):.0f}",
                f"{median(ratios):.2g}",
            ]
        )
    return rows


def lost(matrices: Array) -> float:
    """Return the share of the photos' classes that no pixel has."""
    there, found = matrices.sum(2)[:, 1:] > 0, matrices.sum(1)[:, 1:] > 0
    return float((there & ~found).sum() / there.sum())


def percent(matrices: Array, other: Array | None = None) -> list[float]:
    """Return mIoU, or its difference, and the ends of the interval, in percent."""
    interval = bootstrap(matrices, other, statistic=partial(mean_iou, classes=ANIMALS))
    return [100 * number for number in interval]


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def table_of_maps(data: Path, names: list[str]) -> str:
    """Compare all refiners on the maps of two classifiers."""
    found = measure(OF_MAPS, photos_of(data, names), len(names))
    heads = [
        "refiner",
        "saw masks",
        "mIoU",
        "against `psa`",
        "precision",
        "recall",
        "lost",
        "ms",
        "× `psa`",
    ]
    rows = [
        [each.name, each.masks, *cells]
        for each, cells in zip(OF_MAPS, figures(OF_MAPS, found), strict=True)
    ]
    return markdown(heads, rows)


def table_of_cues(data: Path, names: list[str]) -> str:
    """Compare refiners on SEC's cues."""
    found = measure(OF_CUES, photos_with_cues(data, names), len(names))
    truth = found[0].matrices.sum((0, 2))
    others = [c for c in range(21) if truth[c] and c not in ANIMALS]
    heads = [
        "refiner",
        "saw masks",
        "mIoU",
        "against `psa`",
        "precision",
        "recall",
        "lost",
        f"mIoU of {len(others)} other classes",
    ]
    rows = [
        [
            each.name,
            each.masks,
            *cells[:5],
            f"{100 * mean_iou(one.matrices.sum(0), others):.1f}",
        ]
        for each, one, cells in zip(OF_CUES, found, figures(OF_CUES, found), strict=True)
    ]
    return markdown(heads, rows)


def table_of_changed(data: Path, names: list[str]) -> str:
    """Compare `psa` and two weights of `evidence` on turned, cropped and resized photos."""
    rows = []
    for name, change in CHANGES.items():
        found = measure(OF_CHANGED, map(change, photos_of(data, names)), len(names))
        rows.append([name, *row_of_changed([each.matrices for each in found])])
    psa, first, second = (each.name for each in OF_CHANGED)
    heads = ["photos", psa, f"{first}, against {psa}", f"{second}, against {first}"]
    return markdown(heads, rows)


def row_of_changed(found: list[Array]) -> list[str]:
    """Return mIoU of each, and its difference to the one before."""
    cells = [f"{percent(found[0])[0]:.1f}"]
    for base, each in pairwise(found):
        gain, low, high = percent(each, base)
        cells.append(f"{percent(each)[0]:.1f}, {gain:+.1f} [{low:+.1f}, {high:+.1f}]")
    return cells


# Lists, and N if photos N, 2 N, ... of them are taken. The networks of `evidence` were fitted to
# photos 1, 3, 5, ... of val.
TABLES = {
    "maps": (table_of_maps, ("val",), 2),
    "cues": (table_of_cues, ("train", "train_aug"), 1),
    "changed": (table_of_changed, ("val",), 4),
}


def write(name: str, text: str) -> None:
    """Put a table between its markers in the page."""
    begin, end = f"<!-- table: {name} -->\n", "<!-- /table -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name} has no {begin.strip()} ... {end}")
    PAGE.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with voc-animals and cams")
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default: all"
    )
    parser.add_argument(
        "--split", nargs="+", help="lists in ImageSets/Segmentation (default: each table's own)"
    )
    parser.add_argument("--every", type=int, metavar="N", help="take photos N, 2 N, ... only")
    parser.add_argument("--write", action="store_true", help="write into docs/refiners.md, too")
    args = parser.parse_args()
    lists = args.data / "voc-animals" / "ImageSets" / "Segmentation"
    for name in args.tables:
        table, splits, every = TABLES[name]
        names = [
            line
            for split in args.split or splits
            for line in (lists / f"{split}.txt").read_text().split()
        ]
        names = names[(args.every or every) - 1 :: args.every or every]
        text = f"{len(names)} photos.\n\n{table(args.data, names)}"
        sys.stdout.write(f"{text}\n")
        if args.write:
            write(name, text)


if __name__ == "__main__":
    main()
