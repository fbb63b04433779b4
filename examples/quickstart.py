"""
Quickstart: from activation maps to sharp cues
==============================================

Every step of the paper is one call. Without arguments, this script uses three photos of
scikit-image and the activation maps in the folder ``data``: this needs neither torch nor a
download. With ``--photo`` it uses your own photo and computes its maps with torchvision's
ResNet-50. It writes a label map per photo and one picture of all steps::

    python quickstart.py
    python quickstart.py --photo street.jpg --classes "sports car" "street sign"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import resnet_maps
import skimage.data
from picture import DATA, PHOTOS, Row, draw
from PIL import Image

import cuekit
import cuekit.io

KINDS = ("color", "gray")  # the network's input: the photo in colour, and in grayscale
LONGEST = 640  # pixels; the superpixels' default scale suits photos of about this size


# %%
# The steps
# ---------
# Raw cues are coarse: they have the size of the network's last layer. Snapping turns a class on or
# off for whole superpixels, and fusing takes what any of the classifiers has found.


def cues_of(photo: np.ndarray, classes: list[str], maps: dict[str, tuple[np.ndarray, Any]]) -> Row:
    """Compute every step of the paper, from activation maps to fused cues, and our own recipe.

    Parameters
    ----------
    photo : (H, W, 3) array of uint8
        RGB.
    classes : list of str
        Names of the C classes that the photo contains.
    maps : dict of str to (ndarray, ndarray)
        For "color" and "gray": the classes' activation maps (C, h, w), and the network's last two
        layers, each summed over its channels (2, h, w).
    """
    superpixels = cuekit.felzenszwalb(photo)
    raw, snapped = {}, {}
    for kind in KINDS:
        cams, (below_top, top) = maps[kind]
        own = cuekit.subtract_classes(cams)
        background = cuekit.background_map(below_top[None], top[None])
        raw[kind] = cuekit.raw_cues(own, background)
        snapped[kind] = cuekit.snap_cues(raw[kind], superpixels)
    fused = cuekit.fuse_cues(*snapped.values())
    ids = np.arange(1, len(classes) + 1)
    sets = [
        cuekit.io.Maps(cams, ids, None, "cuekit", features=features)
        for cams, features in maps.values()
    ]
    labels = cuekit.recipes.evidence(photo, sets)
    evidence = labels == np.arange(len(classes) + 1)[:, None, None]
    return Row(photo, classes, superpixels, raw, snapped, fused, evidence)


# %%
# The maps
# --------
# An archive holds the maps of many photos. This one was made by a MobileNet trained on ImageNet;
# ``features`` are sums of its last two layers, which are low on the background.


def example_rows() -> dict[str, Row]:
    """Compute the cues of scikit-image's photos from the activation maps in the data folder."""
    class_names = (DATA / "classes.txt").read_text().splitlines()
    archives = {kind: cuekit.io.MapArchive(DATA / f"{kind}.npz") for kind in KINDS}
    rows = {}
    for name in PHOTOS:
        read = {kind: archive.read(name) for kind, archive in archives.items()}
        classes = [class_names[class_id] for class_id in read["color"].class_ids]
        maps = {kind: (each.maps, each.features) for kind, each in read.items()}
        rows[name] = cues_of(getattr(skimage.data, name)(), classes, maps)
    return rows


# %%
# A photo of your own
# -------------------


class BadPhotoError(Exception):
    """The photo cannot be read; the message names the file and the reason."""


def own_row(path: Path, names: list[str]) -> dict[str, Row]:
    """Compute the maps and the cues of the user's own photo.

    Raises
    ------
    BadPhotoError
        If the file is missing, damaged or not an image.
    """
    try:
        photo = Image.fromarray(cuekit.io.read_photo(path))
    except (OSError, ValueError) as error:
        # Neither the system's text nor what follows the path repeats the path.
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise BadPhotoError(f"--photo: cannot read {path}: {reason}") from error
    photo.thumbnail((LONGEST, LONGEST))
    classes, maps = resnet_maps.compute(photo, names)
    return {path.stem: cues_of(np.asarray(photo), classes, maps)}


# %%
# Labels and the picture
# ----------------------
# Cues may overlap. :func:`cuekit.cues_to_labels` gives each pixel one label; pixels without a cue
# are 255, "unknown", which the training ignores.


def main() -> None:
    """Write the label maps and the picture; print their paths and what the cues cover."""
    parser = argparse.ArgumentParser(description="From activation maps to sharp cues.")
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart-output"), help="folder to write to"
    )
    parser.add_argument("--photo", type=Path, help="your own photo (needs torch, torchvision)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classes in --photo, as ImageNet names; default: predicted by the network. Give one "
        "class per object, because similar classes would be subtracted from each other",
    )
    args = parser.parse_args()
    if args.classes and not args.photo:
        parser.error("--classes needs --photo")

    try:
        args.out.mkdir(parents=True, exist_ok=True)
        rows = own_row(args.photo, args.classes) if args.photo else example_rows()
    except (OSError, BadPhotoError, resnet_maps.CannotComputeError) as error:
        parser.error(str(error))

    sys.stdout.write(
        "Percentages are shares of the photo's pixels. Cues may overlap, and pixels may have none: "
        "the shares need not add up to 100%.\n"
    )
    for name, row in rows.items():
        path = args.out / f"{name}-labels.png"
        cuekit.io.write_labels(path, cuekit.cues_to_labels(row.fused))
        sys.stdout.write(f"{path}\n")
        for channel, class_name in enumerate(["background", *row.classes]):
            kinds = {"raw": row.raw["color"], "fused": row.fused, "evidence": row.evidence}
            shares = ", ".join(f"{kind} {cues[channel].mean():.1%}" for kind, cues in kinds.items())
            sys.stdout.write(f"  {channel} {class_name}: {shares}\n")
    draw(list(rows.values()), args.out / "quickstart.png")
    sys.stdout.write(f"{args.out / 'quickstart.png'}\n")


if __name__ == "__main__":
    main()
