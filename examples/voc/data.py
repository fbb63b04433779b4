"""A folder in PASCAL VOC's layout, and batches of it that can be resumed anywhere.

``ROOT/JPEGImages/ID.jpg``, ``ROOT/SegmentationClass/ID.png`` and
``ROOT/ImageSets/Segmentation/SPLIT.txt``. Tags come from ``ROOT/image_labels.npz`` (``ids``,
``labels``, and ``names`` where the classes are not VOC's), or from ``ROOT/Annotations/ID.xml``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
import zipfile
from dataclasses import dataclass
from pathlib import Path
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
HELD_OUT_EVERY = 10  # one of so many training photos is for choosing settings instead


@dataclass(frozen=True)
class VocFolder:
    """Where the photos, masks and tags are.

    Attributes
    ----------
    root : Path
        The folder.
    names : tuple of str
        The C foreground classes; class i has label i + 1.
    tags : dict of str to ndarray
        Photo id -> (C,) bool.
    """

    root: Path
    names: tuple[str, ...]
    tags: dict[str, np.ndarray]

    @classmethod
    def open(cls, root: Path) -> VocFolder:
        """Read which classes are in which photo; masks are not looked at."""
        root = Path(root)
        if not (root / "JPEGImages").is_dir():
            raise FileNotFoundError(f"--root must have VOC's layout: no {root / 'JPEGImages'}")
        if (root / "image_labels.npz").exists():
            try:
                # np.load refuses pickles.
                with (root / "image_labels.npz").open("rb") as content, np.load(content) as file:
                    labels = file["labels"].astype(bool)
                    names = tuple(file["names"].tolist()) if "names" in file else CLASSES
                    ids = file["ids"].tolist()
            except (KeyError, ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{root / 'image_labels.npz'}: {error}") from error
            if labels.shape != (len(ids), len(names)):
                raise ValueError(
                    f"image_labels.npz: labels must have shape {(len(ids), len(names))} to match "
                    f"ids and classes, got {labels.shape}"
                )
            return cls(root, names, dict(zip(ids, labels, strict=True)))
        found = sorted((root / "Annotations").glob("*.xml"))
        if not found:
            raise FileNotFoundError(f"no tags: neither image_labels.npz nor Annotations in {root}")
        return cls(root, CLASSES, {path.stem: _tags_of_annotation(path) for path in found})

    def ids(self, *splits: str) -> list[str]:
        """Return the photos of the splits, in their order."""
        folder = self.root / "ImageSets" / "Segmentation"
        names = [name for s in splits for name in (folder / f"{s}.txt").read_text().split()]
        if splits and not names:
            raise ValueError(f"no photos in {', '.join(splits)} of {folder}")
        if unknown := [name for name in names if name not in self.tags]:
            raise ValueError(f"no tags for {len(unknown)} photos, the first is {unknown[0]}")
        return names

    def training_ids(self, splits: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the photos to train on, and the tenth that is held out to choose settings on."""
        names = sorted(set(self.ids(*splits)))
        held_out = names[::HELD_OUT_EVERY]
        training = sorted(set(names) - set(held_out))
        if not training:
            raise ValueError(f"training needs at least two photos, got {len(names)}")
        return training, held_out

    def photo(self, name: str, *, gray: bool = False) -> Image.Image:
        """Read a photo as RGB; a gray one has its luminance in all channels.

        Raises
        ------
        ValueError
            If the file is missing or damaged.
        """
        path = self.root / "JPEGImages" / f"{name}.jpg"
        try:
            with Image.open(path) as file:
                return (file.convert("L") if gray else file).convert("RGB")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error}): replace it, or take it out of the splits"
            ) from error

    def truth(self, name: str) -> np.ndarray:
        """Read a mask: labels (H, W) uint8, 255 = do not count."""
        return cuekit.io.read_labels(self.mask(name))

    def mask(self, name: str) -> Path:
        """Return where a mask is."""
        return self.root / "SegmentationClass" / f"{name}.png"


def _tags_of_annotation(path: Path) -> np.ndarray:
    # expat stops entities that grow without bound (from 2.4.1 on), and reads no external ones.
    found = {node.text for node in ET.parse(path).iterfind("object/name")}  # noqa: S314
    return np.array([name in found for name in CLASSES])


class Photos(Dataset[dict[str, Any]]):
    """Photos of one size for training, with tags and, where asked for, cues.

    Parameters
    ----------
    folder : VocFolder
        Where the photos are.
    names : sequence of str
        Their ids.
    size : int
        Side of the square that photos are resized to, as SEC does.
    gray : bool
        Whether to drop the colours.
    cues, grid : Path and int, optional
        A folder of label maps at the photos' resolution, and the side of the grid they are brought
        to: a cell has a class where at least half of its pixels have.
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
        """Return photo (size, size, 3), tags (C,) and cues (C + 1, grid, grid), mirrored or not."""
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
    """Which photos each iteration takes, and which of them mirrored.

    A function of seed and iteration only: an interrupted run goes on with the photos that it would
    have had, and each of several processes takes its share of the same batch.

    Parameters
    ----------
    photos, batch : int
        Number of photos, and of photos per iteration over all processes.
    first, last : int
        Iterations to go through: first, …, last - 1.
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
                epoch, place = divmod(n, self.photos)
                if epoch != shuffled_epoch:
                    rng = np.random.default_rng([self.seed, epoch])
                    order = rng.permutation(self.photos)
                    mirrored = rng.random(self.photos) < 0.5
                    shuffled_epoch = epoch
                keys.append((int(order[place]), bool(mirrored[place])))
            yield keys[self.rank :: self.world]
