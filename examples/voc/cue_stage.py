"""Computes cues of every photo, from the maps of a colour and a grayscale classifier.

Maps are stored as ``maps/KIND/ID.npz``. Cues are stored as label maps ``cues/SET/ID.png`` at the
photo's resolution, with overlaps resolved. For training, these label maps are resized to the
network's grid. "psa" and "evidence" are labels of `cuekit.recipes` instead, for comparison, and the
systems of `systems` have sets of their own.
"""

from __future__ import annotations

import time
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from data import square
from loop import rank_and_world, read_settings
from PIL import Image
from tqdm import tqdm

import cuekit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from data import VocFolder
    from models import Network
    from systems import System, Work

KINDS = ("color", "gray")
RECIPES = ("psa", "evidence")
SETS_OF_BOTH = ("merged", *RECIPES)  # of the colour and the gray classifier
SETS = ("raw-color", "snapped-color", "raw-gray", "snapped-gray", "merged", *RECIPES, "sec")


class Maps(NamedTuple):
    """A classifier's output for a photo.

    Attributes
    ----------
    cams : (C, h, w) array of float32
        Class activation maps of all classes, negative values set to 0.
    features : (2, h, w) array of float32
        The two top layers, each summed over its channels.
    scores : (C,) array of float32
        Probabilities of the tags.
    """

    cams: np.ndarray
    features: np.ndarray
    scores: np.ndarray


def size_in_cells(photo: Image.Image, longer_side: int, stride: int) -> tuple[int, int]:
    """Return height and width in cells of a photo resized to `longer_side` pixels."""
    scale = longer_side / max(photo.size) / stride
    width, height = (max(round(side * scale), 1) for side in photo.size)
    return height, width


def compute_maps(
    network: Network, photo: Image.Image, *, longer_side: int, size: int, device: torch.device
) -> Maps:
    """Compute the maps of a photo.

    The input for the maps has the photo's aspect ratio. The input for the scores is a square
    (size, size), as in training, but at the maps' stride.
    """
    height, width = size_in_cells(photo, longer_side, network.stride)
    resized = photo.resize(
        (width * network.stride, height * network.stride), Image.Resampling.BILINEAR
    )
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(resized))[None].to(device)
        below_top, top = network.top_layers(network.see(pixels))
        # Without the bias, which depends on how frequent a class is, not on where it is.
        weight = network.head.weight[:, :, 0, 0]
        cams = torch.einsum("kd,dhw->khw", weight, top[0]).clamp(min=0)
        features = torch.stack([below_top[0].sum(0), top[0].sum(0)])
        pixels = torch.from_numpy(square(photo, size))[None].to(device)
        scores = network(network.see(pixels)).mean((2, 3)).sigmoid()[0]
    return Maps(*(x.cpu().numpy() for x in (cams, features, scores)))


def write_maps(
    network: Network,
    folder: VocFolder,
    names: Sequence[str],
    out: Path,
    *,
    gray: bool,
    longer_side: int,
    size: int,
    device: torch.device,
) -> None:
    """Compute the maps of photos that have none yet."""
    out.mkdir(parents=True, exist_ok=True)
    network.move_to(device)
    network.eval()
    for name in missing(names, out, ".npz"):
        photo = folder.photo(name, gray=gray)
        maps = compute_maps(network, photo, longer_side=longer_side, size=size, device=device)
        part = out / f".{name}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, **maps._asdict())
        part.replace(out / f"{name}.npz")


def missing(names: Sequence[str], out: Path, suffix: str) -> Iterable[str]:
    """Return the photos of this process's share that have no file yet, with a progress bar."""
    rank, world = rank_and_world()
    # The share is taken first, because the other processes write files at the same time.
    todo = [name for name in names[rank::world] if not (out / f"{name}{suffix}").exists()]
    return tqdm(
        todo, desc=f"{out.parent.name}/{out.name}", disable=True if rank or not todo else None
    )


def read_maps(path: Path) -> Maps:
    """Read maps that `write_maps` wrote."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the stage cues, with its split in --test")
    try:
        with path.open("rb") as content, np.load(content) as file:
            return Maps(*(file[name] for name in Maps._fields))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from error


def raw_cues_of(
    maps: Maps, present: np.ndarray, foreground_threshold: float, background_threshold: float
) -> np.ndarray:
    """Return the paper's raw cues (C + 1, h, w) of the present classes (C,)."""
    return cuekit.raw_cues(
        cuekit.subtract_classes(maps.cams, present),
        cuekit.background_map(*maps.features[:, None]),
        present,
        foreground_threshold=foreground_threshold,
        background_threshold=background_threshold,
    )


def cues_of(
    maps: dict[str, Maps],
    present: np.ndarray,
    photo: np.ndarray,
    *,
    foreground_threshold: float,
    background_threshold: float,
    snap_threshold: float,
    sec_threshold: float,
    scale: float,
    min_size: int,
) -> dict[str, np.ndarray]:
    """Compute all sets of cues from the maps of both classifiers, by the steps of the paper.

    Parameters
    ----------
    maps : dict of str to Maps
        For "color" and "gray".
    present : (C,) array of bool
        The photo's tags.
    photo : (H, W, 3) array of uint8
        The photo, for its superpixels.
    foreground_threshold, background_threshold, snap_threshold : float
        See `cuekit.raw_cues` and `cuekit.snap_cues`.
    sec_threshold : float
        Foreground threshold of the cues for SEC's recipe.
    scale, min_size : float, int
        See `cuekit.felzenszwalb`.

    Returns
    -------
    dict of str to array of bool
        Cues (C + 1, …) for every name in `SETS` but those of `RECIPES`: raw ones at the resolution
        of the maps, the others at that of the photo. "sec" are cues of the colour network as in
        SEC: without class subtraction, and with their own threshold.
    """
    superpixels = cuekit.felzenszwalb(photo, scale=scale, min_size=min_size)
    cues = {
        "sec": cuekit.raw_cues(
            maps["color"].cams,
            cuekit.background_map(*maps["color"].features[:, None]),
            present,
            foreground_threshold=sec_threshold,
            background_threshold=background_threshold,
        )
    }
    for kind in KINDS:
        raw = raw_cues_of(maps[kind], present, foreground_threshold, background_threshold)
        cues[f"raw-{kind}"] = raw
        cues[f"snapped-{kind}"] = cuekit.snap_cues(raw, superpixels, threshold=snap_threshold)
    cues["merged"] = cuekit.fuse_cues(cues["snapped-color"], cues["snapped-gray"])
    return cues


def labels_of_recipes(
    maps: dict[str, Maps], present: np.ndarray, photo: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the labels (H, W) of every recipe in `RECIPES`, from the maps of both classifiers."""
    tags = 1 + np.flatnonzero(present)
    of_tags = [
        cuekit.io.Maps(each.cams[present], tags, None, "voc", features=each.features)
        for each in maps.values()
    ]
    # PSA's recipe takes maps in [0, 1]. Weights that were fitted to masks would not be fair here.
    return {
        "psa": cuekit.recipes.psa(photo, of_tags, normalize=True),
        "evidence": cuekit.recipes.evidence(photo, of_tags, weights="tags-only"),
    }


def write_label_map(path: Path, cues: np.ndarray, size: tuple[int, int]) -> None:
    """Write cues as labels at a photo's resolution; where cues overlap, the smallest wins."""
    cuekit.io.write_labels(path, cuekit.cues_to_labels(cuekit.resize_cues(cues, size)))


def write_cues(
    folder: VocFolder, names: Sequence[str], maps: Path, out: Path, **settings: Any
) -> None:
    """Write every set of cues of every photo as a label map at the photo's resolution.

    `settings` are the thresholds and superpixel parameters of `cues_of`.
    """
    for name in SETS:
        (out / name).mkdir(parents=True, exist_ok=True)
    # The last set is written last: if its file exists, all exist.
    for name in missing(names, out / SETS[-1], ".png"):
        photo = np.asarray(folder.photo(name))
        both = {kind: read_maps(maps / kind / f"{name}.npz") for kind in KINDS}
        cues = cues_of(both, folder.tags[name], photo, **settings)
        labels = labels_of_recipes(both, folder.tags[name], photo)
        for each in SETS:
            if each in labels:
                cuekit.io.write_labels(out / each / f"{name}.png", labels[each])
            else:
                write_label_map(out / each / f"{name}.png", cues[each], photo.shape[:2])


def write_labels_of_system(
    system: System, work: Work, networks: Any, names: Sequence[str], out: Path
) -> None:
    """Write a system's labels of photos that have none yet, and the seconds that each took."""
    out.mkdir(parents=True, exist_ok=True)
    rank, _ = rank_and_world()
    for name in missing(names, out, ".png"):
        start = time.monotonic()
        cuekit.io.write_labels(out / f"{name}.png", system.labels(work, networks, name))
        with (out / f"seconds-{rank}.csv").open("a", encoding="utf-8") as file:
            file.write(f"{name},{time.monotonic() - start:.3f}\n")


def cue_settings(cues: Path) -> dict[str, Any]:
    """Return the settings of a set of cues: its own, or those that several sets have in common."""
    return read_settings(cues if (cues / "settings.json").exists() else cues.parent)
