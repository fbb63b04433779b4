"""Real photos: superpixels in the right place help real cues, in the wrong place they harm.

Cue mIoU at the photo's resolution. Where cues overlap, foreground comes before background, then the
class with the fewest pixels; unknown counts as background; pixels of truth 255 do not count. One
matrix of 21 classes is summed over all photos; IoU is averaged over background, cat, cow, dog,
horse, person and sheep.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from common import DATA, VOC, needs_data
from PIL import Image

import cuekit
from cuekit.metrics import bootstrap, confusion_matrix, mean_iou

SEC = DATA / "sec-cues"
CAMS = DATA / "cams" / "color.npz"
pytestmark = needs_data(VOC, SEC, CAMS)

ANIMALS = (0, 8, 10, 12, 13, 15, 17)
SUPERPIXELS = {"scale": 200, "sigma": 0.8, "min_size": 60}


class Matrices(NamedTuple):
    """One photo's confusion matrices, or a set's as arrays of (N, 21, 21)."""

    raw: np.ndarray
    snapped: np.ndarray
    misplaced: np.ndarray


def photo_ids(*splits):
    lists = VOC / "ImageSets" / "Segmentation"
    return [name for split in splits for name in (lists / f"{split}.txt").read_text().split()]


def measure(name, cues):
    """The three matrices of one photo; its superpixels, the costly part, are computed once."""
    with Image.open(VOC / "JPEGImages" / f"{name}.jpg") as file:
        photo = np.asarray(file.convert("RGB"))
    truth = cuekit.io.read_labels(VOC / "SegmentationClass" / f"{name}.png")
    superpixels = cuekit.felzenszwalb(photo, **SUPERPIXELS)
    # As many superpixels, of the same shapes and sizes, in the wrong place.
    misplaced = superpixels[::-1, ::-1]
    variants = (
        cuekit.resize_cues(cues, truth.shape),
        cuekit.snap_cues(cues, superpixels, threshold=0.3),
        cuekit.snap_cues(cues, misplaced, threshold=0.3),
    )
    return Matrices(*(confusion_matrix(truth, cuekit.cues_to_labels(each)) for each in variants))


def measure_all(cues):
    """Photo id -> cues, to matrices; a process per core."""
    spawn = multiprocessing.get_context("spawn")  # the parent has threads: no forking
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        rows = list(pool.map(measure, cues, cues.values(), chunksize=8))
    return Matrices(*map(np.stack, zip(*rows, strict=True)))


@pytest.fixture(scope="session")
def sec():
    """SEC's published cues on all training photos."""
    published = cuekit.io.read_sec_cues(
        SEC / "localization_cues.pickle.gz", image_list=SEC / "input_list.txt"
    )
    names = photo_ids("train", "train_aug")
    assert len(names) == 797
    return measure_all({name: published[name].cues for name in names})


@pytest.fixture(scope="session")
def color():
    """Cues from a colour classifier's maps on photos that it has never seen."""
    names = photo_ids("val")[:40]
    cues = {}
    with np.load(CAMS) as file:
        for name in names:
            maps = file[f"{name}/cams"]
            cams = np.zeros((20, *maps.shape[1:]), maps.dtype)
            present = np.zeros(20, dtype=bool)
            cams[file[f"{name}/classes"] - 1] = maps
            present[file[f"{name}/classes"] - 1] = True
            background = cuekit.background_map(*file[f"{name}/features"][:, None])
            subtracted = cuekit.subtract_classes(cams, present)
            cues[name] = cuekit.raw_cues(subtracted, background, present, foreground_threshold=0.3)
    return measure_all(cues)


animal_iou = partial(mean_iou, classes=ANIMALS)


def points(matrices, other=None):
    """In percent, with a 95 % interval over photos."""
    value, low, high = (100 * x for x in bootstrap(matrices, other, statistic=animal_iou))
    return value, f"{value:5.1f} [{low:.1f}, {high:.1f}]"


def describe(title, matrices):
    lines = [f"{title}, cue mIoU over background + 6 animals, {len(matrices.raw)} photos:"]
    lines += [f"  {kind:<22} {points(getattr(matrices, kind))[1]}" for kind in Matrices._fields]
    lines.append(f"  {'snapped - raw':<22} {points(matrices.snapped, matrices.raw)[1]}")
    lines.append(f"  {'misplaced - raw':<22} {points(matrices.misplaced, matrices.raw)[1]}")
    return lines


def test_snapping_improves_published_cues(sec, figures):
    figures += describe("SEC's published cues", sec)
    gain, shown = points(sec.snapped, sec.raw)
    assert gain >= 6, shown


def test_misplaced_superpixels_harm_published_cues(sec):
    loss, shown = points(sec.misplaced, sec.raw)
    assert loss < 0, shown


def test_snapping_improves_cues_of_activation_maps(color, figures):
    figures += describe("Cues of colour activation maps at 0.3", color)
    gain, shown = points(color.snapped, color.raw)
    assert gain > 0, shown
