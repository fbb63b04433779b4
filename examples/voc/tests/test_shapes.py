"""Generated photos: VOC's layout, masks and tags that agree, and classes that take two clues."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapes
from PIL import Image

from cuekit import io

FOLDER = Path(__file__).parents[1]

TRAIN, VAL, SIZE = 12, 4, (72, 96)
SUFFIXES = {".jpg", ".png", ".txt"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    shapes.generate(folder, train=TRAIN, val=VAL, seed=3)
    return folder


def ids(root, split):
    return (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def mask(root, name):
    return io.read_labels(root / "SegmentationClass" / f"{name}.png")


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.suffix in SUFFIXES}


def test_the_layout_is_that_of_voc(root):
    names = ids(root, "train") + ids(root, "val")
    assert len(ids(root, "train")) == TRAIN
    assert len(set(names)) == TRAIN + VAL
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        assert {p.name for p in (root / folder).iterdir()} == {name + suffix for name in names}
    for name in names:
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as photo:
            assert photo.mode == "RGB"
            assert photo.size == SIZE[::-1]
        assert mask(root, name).shape == SIZE


def test_tags_agree_with_the_masks(root):
    names = ids(root, "train") + ids(root, "val")
    with np.load(root / "image_labels.npz") as tags:
        assert tags["ids"].tolist() == names
        assert tags["labels"].dtype == np.uint8
        assert tags["names"].tolist() == list(shapes.NAMES)
        for name, present in zip(names, tags["labels"], strict=True):
            in_mask = set(np.unique(mask(root, name))) - {0, 255}
            assert in_mask == set(np.flatnonzero(present) + 1)
            assert 1 <= len(in_mask) <= 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_occurs(root, split):
    seen = np.concatenate([np.unique(mask(root, name)) for name in ids(root, split)])
    assert set(seen) == {0, 1, 2, 3, 4, 255}


def test_classes_touch_nothing_but_the_border(root):
    for name in ids(root, "train"):
        labels = mask(root, name)
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()


def test_the_border_is_thin(root):
    for name in ids(root, "train"):
        border = mask(root, name) == 255
        assert border.any()
        # No square of 5×5 pixels is all border.
        windows = np.lib.stride_tricks.sliding_window_view(border, (5, 5))
        assert not windows.all((-1, -2)).any()


def test_a_seed_gives_the_same_files_whatever_their_number(root, tmp_path):
    shapes.generate(tmp_path / "again", train=TRAIN, val=VAL, seed=3)
    assert files(tmp_path / "again") == files(root)
    shapes.generate(tmp_path / "fewer", train=2, val=1, seed=3)
    for path, content in files(tmp_path / "fewer").items():
        assert path.suffix == ".txt" or content == files(root)[path]


def test_seeds_and_splits_differ(root, tmp_path):
    shapes.generate(tmp_path, train=1, val=1, seed=4)
    photos = [path.read_bytes() for path in (tmp_path / "JPEGImages").iterdir()]
    photos += [(root / "JPEGImages" / f"{s}_000000.jpg").read_bytes() for s in ("train", "val")]
    assert len(set(photos)) == 4


def test_the_size_is_an_argument(tmp_path):
    shapes.generate(tmp_path, train=1, val=0, size=(40, 57))
    assert mask(tmp_path, "train_000000").shape == (40, 57)
    assert ids(tmp_path, "val") == []


def test_neither_color_nor_structure_alone_names_the_class():
    for table in (shapes.CLASS_OF, shapes.CLASS_OF.T):
        for row in table:
            assert len(set(row[row >= 0])) == 2
    assert set(shapes.CLASS_OF.ravel()) == {-1, 0, 1, 2, 3}


def test_a_photo_in_gray_has_lost_all_color():
    luma = np.full((4, 4), 120, np.uint8)
    for hue in shapes._HUES:
        planes = np.dstack([luma, np.broadcast_to(shapes._chroma(40, hue), (4, 4, 2))])
        bands = [Image.fromarray(plane.astype(np.uint8)) for plane in np.moveaxis(planes, -1, 0)]
        gray = np.asarray(Image.merge("YCbCr", bands).convert("RGB").convert("L"))
        assert np.abs(gray.astype(int) - 120).max() <= 1


def test_the_command_line(tmp_path):
    command = [sys.executable, FOLDER / "shapes.py", tmp_path, "--train", "2", "--val", "1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    assert "2 + 1 photos" in output.stdout
    assert len(list((tmp_path / "JPEGImages").iterdir())) == 3
