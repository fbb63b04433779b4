"""Cues of every photo, from the maps of a colour and a gray classifier.

Maps are kept as ``maps/KIND/ID.npz``. Cues are kept as ``cues/SET/ID.png``: overlaps are resolved
at the photo's resolution, and what is brought to a network's grid later are these labels.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from data import square
from loop import rank_and_world
from PIL import Image
from tqdm import tqdm

import cuekit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from data import VocFolder
    from models import Network

KINDS = ("color", "gray")
SETS = ("raw-color", "snapped-color", "raw-gray", "snapped-gray", "merged", "sec")


class Maps(NamedTuple):
    """What a classifier says of a photo.

    Attributes
    ----------
    cams : ndarray of float32, shape (C, h, w)
        Class activation maps of all classes, negative values clipped.
    features : ndarray of float32, shape (2, h, w)
        The two top layers, each summed over its channels.
    scores : ndarray of float32, shape (C,)
        Probabilities of the tags.
    """

    cams: np.ndarray
    features: np.ndarray
    scores: np.ndarray


def size_in_cells(photo: Image.Image, longer_side: int, stride: int) -> tuple[int, int]:
    """Return the height and width in cells, the longer of which is `longer_side` pixels."""
    scale = longer_side / max(photo.size) / stride
    width, height = (max(round(side * scale), 1) for side in photo.size)
    return height, width


def compute_maps(
    network: Network, photo: Image.Image, *, longer_side: int, size: int, device: torch.device
) -> Maps:
    """Compute the maps of a photo.

    The maps are taken of the photo in its own shape. The scores are those of a square (size, size),
    as in training, though at the maps' stride.
    """
    height, width = size_in_cells(photo, longer_side, network.stride)
    resized = photo.resize(
        (width * network.stride, height * network.stride), Image.Resampling.BILINEAR
    )
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(resized))[None].to(device)
        below_top, top = network.top_layers(network.see(pixels))
        # The bias says how common a class is, not where it is.
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
    network.to(device, memory_format=torch.channels_last).eval()
    for name in missing(names, out, ".npz"):
        photo = folder.photo(name, gray=gray)
        maps = compute_maps(network, photo, longer_side=longer_side, size=size, device=device)
        part = out / f".{name}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, **maps._asdict())
        part.replace(out / f"{name}.npz")


def missing(names: Sequence[str], out: Path, suffix: str) -> Iterable[str]:
    """Go through those of this process's share of the photos that have no file yet."""
    rank, world = rank_and_world()
    # Shares first: what is missing changes while the other processes write.
    left = [name for name in names[rank::world] if not (out / f"{name}{suffix}").exists()]
    return tqdm(
        left, desc=f"{out.parent.name}/{out.name}", disable=True if rank or not left else None
    )


def read_maps(path: Path) -> Maps:
    """Read what `write_maps` wrote."""
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
    """Take the paper's steps from the maps of both classifiers to sets of cues.

    Parameters
    ----------
    maps : dict of str to Maps
        For "color" and "gray".
    present : ndarray of bool, shape (C,)
        The photo's tags.
    photo : ndarray of uint8, shape (H, W, 3)
        For its superpixels.
    foreground_threshold, background_threshold, snap_threshold : float
        See `cuekit.raw_cues` and `cuekit.snap_cues`.
    sec_threshold : float
        Foreground threshold of the cues that SEC is trained on.
    scale, min_size : float, int
        See `cuekit.felzenszwalb`.

    Returns
    -------
    dict of str to ndarray of bool
        For every name in `SETS` cues (C + 1, …): raw ones at the maps' resolution, the others at
        the photo's. "sec" are the colour network's as SEC takes them: of maps that nothing was
        subtracted from, at their own threshold.
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


def write_label_map(path: Path, cues: np.ndarray, size: tuple[int, int]) -> None:
    """Write cues as labels at a photo's resolution: what overlaps goes to the smallest class."""
    cuekit.io.write_labels(path, cuekit.cues_to_labels(cuekit.resize_cues(cues, size)))


def write_cues(
    folder: VocFolder, names: Sequence[str], maps: Path, out: Path, **settings: float
) -> None:
    """Write every set of cues of every photo as labels at the photo's resolution."""
    for name in SETS:
        (out / name).mkdir(parents=True, exist_ok=True)
    # The last set is written last: where it is there, all are.
    for name in missing(names, out / SETS[-1], ".png"):
        photo = np.asarray(folder.photo(name))
        both = {kind: read_maps(maps / kind / f"{name}.npz") for kind in KINDS}
        cues = cues_of(both, folder.tags[name], photo, **settings)
        for each in SETS:
            write_label_map(out / each / f"{name}.png", cues[each], photo.shape[:2])
