"""Reads a folder in PASCAL VOC's layout, or of one's own, and makes batches that can be resumed.

``ROOT/JPEGImages/ID.jpg`` (or .jpeg or .png), ``ROOT/SegmentationClass/ID.png`` (or
``SegmentationClassAug``) and ``ROOT/ImageSets/Segmentation/SPLIT.txt`` (or ``ImageSets/Main``).
Tags come from ``ROOT/image_labels.npz`` (``ids``, ``labels``, and ``names`` if the classes are not
VOC's), or from ``ROOT/Annotations/ID.xml``.

Own data: photos in one folder, and a CSV file of two columns, the name of a photo and its tags.
"""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

import cuekit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
PHOTO_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
LIST_FOLDERS = ("Segmentation", "Main")
HELD_OUT_EVERY = 10  # every tenth training photo is held out, to choose settings


@dataclass(frozen=True)
class VocFolder:
    """A data set's folder and tags.

    Attributes
    ----------
    root : Path
        The folder.
    names : tuple of str
        The C foreground classes; class i has class id i + 1.
    tags : dict of str to (C,) array of bool
        Tags by photo id.
    """

    root: Path
    names: tuple[str, ...]
    tags: dict[str, np.ndarray]

    @classmethod
    def open(cls, root: Path, tags: Path | None = None) -> VocFolder:
        """Read the tags of all photos, from a CSV file if one is given; masks are not read."""
        root = Path(root)
        if tags is not None:
            folder = cls(root, *_tags_of_csv(Path(tags)))
            for name in folder.tags:
                if not folder.photo_file(name).exists():
                    raise FileNotFoundError(f"{tags} has the photo {name}, which is not in {root}")
            return folder
        if not (root / "JPEGImages").is_dir():
            raise FileNotFoundError(f"--root must have VOC's layout: no {root / 'JPEGImages'}")
        if (root / "image_labels.npz").exists():
            return cls(root, *_tags_of_table(root / "image_labels.npz"))
        found = sorted((root / "Annotations").glob("*.xml"))
        if not found:
            raise FileNotFoundError(f"no tags: neither image_labels.npz nor Annotations in {root}")
        return cls(root, CLASSES, {path.stem: _tags_of_annotation(path) for path in found})

    def ids(self, *splits: str) -> list[str]:
        """Return the photo ids of the splits, in the order of their files.

        Without lists, these are all photos, in the order of their names.
        """
        if not has_lists(self.root):
            return sorted(self.tags)
        folder = self.root / "ImageSets"
        names = [name for split in splits for name in _ids_of_list(_list_of_split(folder, split))]
        if splits and not names:
            raise ValueError(f"no photos in {', '.join(splits)} of {folder}")
        if unknown := [name for name in names if name not in self.tags]:
            raise ValueError(f"no tags for {len(unknown)} photos, the first is {unknown[0]}")
        return names

    def training_ids(self, splits: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the ids of the photos to train on, and of those held out to choose settings."""
        names = sorted(set(self.ids(*splits)))
        held_out = names[::HELD_OUT_EVERY]
        training = sorted(set(names) - set(held_out))
        if not training:
            raise ValueError(f"training needs at least two photos, got {len(names)}")
        if not any(self.tags[name].any() for name in training):
            raise ValueError(f"none of the {len(training)} photos to train on has a tag")
        return training, held_out

    def photo(self, name: str, *, gray: bool = False) -> Image.Image:
        """Read a photo as RGB, upright; if `gray`, all channels are its luminance.

        Raises
        ------
        ValueError
            If the file is missing or damaged.
        """
        path = self.photo_file(name)
        try:
            photo = Image.fromarray(cuekit.io.read_photo(path))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): replace it, or take it out of the splits"
            ) from error
        return photo.convert("L").convert("RGB") if gray else photo

    def photo_file(self, name: str) -> Path:
        """Return the path of a photo, with whichever suffix it has."""
        folders = (self.root / "JPEGImages", self.root)
        paths = [folder / f"{name}{suffix}" for folder in folders for suffix in PHOTO_SUFFIXES]
        return next((path for path in paths if path.exists()), paths[0])

    def truth(self, name: str) -> np.ndarray:
        """Read a mask: class ids (H, W) uint8, 255 = ignore."""
        return cuekit.io.read_labels(self.mask(name))

    def mask(self, name: str) -> Path:
        """Return the path of a mask; it need not exist."""
        paths = [self.root / folder / f"{name}.png" for folder in MASK_FOLDERS]
        return next((path for path in paths if path.exists()), paths[0])


def has_lists(root: Path) -> bool:
    """Return whether there are lists of splits; otherwise all photos are for training."""
    return (Path(root) / "ImageSets").is_dir()


def _list_of_split(folder: Path, split: str) -> Path:
    """Return the path of a split's list."""
    paths = [folder / name / f"{split}.txt" for name in LIST_FOLDERS]
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(f"no split {split}: neither {paths[0]} nor {paths[1]} exists")


def _ids_of_list(path: Path) -> list[str]:
    """Read the photo ids of a list, as VOC, DeepLab or IRN write it.

    A line is an id; or the paths of photo and mask, ``/JPEGImages/ID.jpg
    /SegmentationClassAug/ID.png``; or, in VOC's lists of classes in ``ImageSets/Main``, an id and
    1, 0 or -1. There, only ids with 1 are taken: these photos surely contain the class.
    """
    names = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1] in ("1", "0", "-1"):
            fields = fields[:1] if fields[1] == "1" else []
        ids = [_id_of_path(field) for field in fields]
        names += ids[:1] if len(set(ids)) == 1 else ids
    return names


def _id_of_path(field: str) -> str:
    """Return the id in a list's field: without folders, and without the suffix of a picture."""
    path = PurePosixPath(field)
    return path.stem if path.suffix in PHOTO_SUFFIXES else path.name


def _tags_of_table(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return class names, and tags (C,) by photo id, of ``image_labels.npz``."""
    try:
        # np.load refuses pickles by default.
        with path.open("rb") as content, np.load(content) as file:
            labels = file["labels"]
            names = tuple(file["names"].tolist()) if "names" in file else CLASSES
            ids = file["ids"].tolist()
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        remedy = "; save ids and names as np.array(…, dtype=str)" if "Object" in str(error) else ""
        raise ValueError(f"{path}: {error}{remedy}") from error
    if labels.shape != (len(ids), len(names)):
        raise ValueError(
            f"{path}: labels must have shape {(len(ids), len(names))} to match ids and classes, "
            f"got {labels.shape}"
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{path}: labels must be 0 and 1, one column for each class")
    return names, dict(zip(map(str, ids), labels.astype(bool), strict=True))


def _tags_of_csv(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return class names, and tags (C,) by photo id, of a CSV file: file, tags.

    A line with the title "file" is skipped. Tags are separated by semicolons or commas; if the file
    has neither, by spaces. Several lines of a file add up. Classes are in the order of their names.
    """
    words: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0].strip().lower() == "file"):
                continue
            if len(row) != 2:
                raise ValueError(
                    f"{path}, line {number}: expected two columns, file and tags, got {len(row)}; "
                    "put several tags into quotes, or separate them by semicolons"
                )
            name = row[0].strip()
            if "/" in name or "\\" in name or not name:
                raise ValueError(
                    f"{path}, line {number}: expected the name of a file, got {name!r}"
                )
            words.setdefault(_id_of_path(name), []).append(row[1])
    spaces = not any(mark in cell for cells in words.values() for cell in cells for mark in ";,")
    tags = {
        name: list(dict.fromkeys(tag for cell in cells for tag in _split(cell, spaces=spaces)))
        for name, cells in words.items()
    }
    names = tuple(sorted(set().union(*tags.values())))
    if not names:
        raise ValueError(f"{path} has no tags")
    if spaces:
        _refuse_split_names(path, tags)
    if len(names) > 254:  # labels are uint8, 0 is the background and 255 unknown
        raise ValueError(f"{path} must have at most 254 classes, got {len(names)}")
    return names, {name: np.array([each in own for each in names]) for name, own in tags.items()}


def _split(cell: str, *, spaces: bool) -> list[str]:
    """Split a cell of a CSV file into tags."""
    parts = cell.split() if spaces else cell.replace(",", ";").split(";")
    return [part.strip() for part in parts if part.strip()]


def _refuse_split_names(path: Path, tags: dict[str, list[str]]) -> None:
    """Raise if two words have the same photos: they may be one name with a space in it."""
    photos = defaultdict(set)
    for name, own in tags.items():
        for tag in own:
            photos[tag].add(name)
    words: dict[frozenset[str], str] = {}
    for tag, names in photos.items():
        other = words.setdefault(frozenset(names), tag)
        if len(tags) > 1 and other != tag:
            raise ValueError(
                f"{path}: the same photos have the tags {other!r} and {tag!r}. Write "
                f"'{other} {tag};' if this is one class, and '{other};{tag}' if these are two"
            )


def _tags_of_annotation(path: Path) -> np.ndarray:
    # expat limits the expansion of entities (since 2.4.1), and reads no external entities.
    found = {node.text for node in ET.parse(path).iterfind("object/name")}  # noqa: S314
    if unknown := {str(name) for name in found} - set(CLASSES):
        raise ValueError(
            f"{path} has the class {min(unknown)!r}, which VOC has not: give the tags of other "
            "classes in a CSV file, --tags, or in image_labels.npz with names"
        )
    return np.array([name in found for name in CLASSES])


class Photos(Dataset[dict[str, Any]]):
    """Photos of one size for training, with tags and optionally with cues.

    Parameters
    ----------
    folder : VocFolder
        The data set.
    names : sequence of str
        The photos' ids.
    size : int
        Side of the square that photos are resized to, as in SEC.
    gray : bool
        Whether to convert photos to grayscale.
    cues, grid : Path and int, optional
        A folder of label maps at the photos' resolution, and the side of the grid that they are
        resized to: a cell gets a class if at least half of its pixels have it.
    """

    def __init__(
        self,
        folder: VocFolder,
        names: Sequence[str],
        size: int,
        *,
        gray: bool = False,
        cues: Path | None = None,
        grid: int = 0,
    ) -> None:
        self.folder, self.names, self.size, self.gray = folder, list(names), size, gray
        self.cues, self.grid = cues, grid

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, bool]) -> dict[str, Any]:
        """Return photo (size, size, 3), tags (C,) and cues (C + 1, grid, grid) for a drawn key."""
        index, mirrored = key
        name = self.names[index]
        photo = square(self.folder.photo(name, gray=self.gray), self.size)
        item = {"photos": photo, "tags": self.folder.tags[name]}
        if self.cues is not None:
            labels = cuekit.io.read_labels(self.cues / f"{name}.png")
            masks = labels == np.arange(len(self.folder.names) + 1, dtype=np.uint8)[:, None, None]
            item["cues"] = cuekit.resize_cues(masks, (self.grid, self.grid), rule="half")
        if mirrored:
            item["photos"] = photo[:, ::-1]
            if self.cues is not None:
                item["cues"] = item["cues"][:, :, ::-1]
        return {name: torch.from_numpy(np.array(value)) for name, value in item.items()}


def square(photo: Image.Image, size: int) -> np.ndarray:
    """Resize a photo to (size, size, 3) uint8."""
    return np.array(photo.resize((size, size), Image.Resampling.BILINEAR))


class Draws(Sampler[list[tuple[int, bool]]]):
    """Draws the photos of each iteration, and which of them are mirrored.

    The draws depend on seed and iteration only. A resumed run therefore continues with the photos
    that it would have had without the interruption, and several processes share one batch.

    Parameters
    ----------
    photos, batch : int
        Number of photos in total, and per iteration over all processes.
    first, last : int
        The iterations are first, …, last - 1.
    seed, rank, world : int
        Seed, this process's number, and the number of processes.
    """

    def __init__(
        self, photos: int, batch: int, first: int, last: int, *, seed: int, rank: int, world: int
    ) -> None:
        self.photos, self.batch, self.first, self.last = photos, batch, first, last
        self.seed, self.rank, self.world = seed, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        shuffled_epoch, order, mirrored = -1, np.empty(0, int), np.empty(0, bool)
        for iteration in range(self.first, self.last):
            keys = []
            for n in range(iteration * self.batch, (iteration + 1) * self.batch):
                epoch, position = divmod(n, self.photos)
                if epoch != shuffled_epoch:
                    rng = np.random.default_rng([self.seed, epoch])
                    order = rng.permutation(self.photos)
                    mirrored = rng.random(self.photos) < 0.5
                    shuffled_epoch = epoch
                keys.append((int(order[position]), bool(mirrored[position])))
            yield keys[self.rank :: self.world]
