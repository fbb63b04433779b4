r"""Make examples/data/color.npz and gray.npz: real activation maps of scikit-image's photos.

The network is MobileNetV2 1.0 trained on ImageNet (by TensorFlow's authors, Apache-2.0), with batch
norm folded into the convolutions. The photos are part of the scikit-image package, so the
quickstart needs no download. Unlike the quickstart, this script needs torch::

    python make_example_maps.py --weights mobilenet_v2_imagenet_fp16.npz \
        --labels imagenet_labels.txt
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch.nn.functional import pad

sys.path.insert(0, str(Path(__file__).parent / "voc"))

from models import Network, build  # examples/voc/models.py

log = logging.getLogger(__name__)


class Example(NamedTuple):
    """A photo from scikit-image and its classes.

    Attributes
    ----------
    longer_side : int
        The photo's longer side at the network's input. The network was trained on objects that
        fill 224 pixels. At a larger side it finds smaller objects, but splits large ones into
        parts.
    classes : dict of str to tuple of str
        Class name -> the ImageNet classes that are merged into it.
    """

    longer_side: int
    classes: dict[str, tuple[str, ...]]


EXAMPLES = {
    "chelsea": Example(320, {"cat": ("tabby", "tiger cat", "Egyptian cat")}),
    "coffee": Example(320, {"cup": ("espresso", "cup", "coffee mug")}),
    "astronaut": Example(
        448,
        {"space shuttle": ("space shuttle",), "helmet": ("crash helmet", "football helmet")},
    ),
}


def probabilities(network: Network, photo: torch.Tensor) -> torch.Tensor:
    """Return the class probabilities (1001,) of a normalised photo (1, 3, H, W)."""
    return network(photo).mean((0, 2, 3)).softmax(dim=0)


def maps_of(
    network: Network, photo: torch.Tensor, classes: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return activation maps (C, h, w) and summed features (2, h, w) of a normalised photo.

    A class's map is its classifier weights, applied to the features of every cell. The bias is left
    out: it depends on how frequent a class is, not on where it is, and would only shift which
    values are positive. Merged classes are combined by their maximum.
    """
    # TensorFlow pads strided layers at the right and the bottom only, so cell j is centred on pixel
    # stride * j + stride - 1. Resizing assumes that a cell is centred on the stride pixels that it
    # covers. Shifting the photo by half a cell makes both agree.
    half = network.stride // 2
    below_top, top = network.top_layers(pad(photo, (half, -half, half, -half)))
    weight = network.head.weight[:, :, 0, 0]
    cams = [torch.einsum("kd,dhw->khw", weight[merged], top[0]).amax(dim=0) for merged in classes]
    return torch.stack(cams).clamp(min=0), torch.stack([below_top[0].sum(0), top[0].sum(0)])


def resized(network: Network, photo: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """Resize a photo to (width, height) and normalise it to (1, 3, H, W)."""
    pixels = np.array(photo.resize(size, Image.Resampling.BILINEAR))
    return network.normalize(torch.from_numpy(pixels)[None])


def main() -> None:
    """Compute the maps of every example, and write an archive for each kind of photo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="the network's weights (npz)")
    parser.add_argument(
        "--labels", type=Path, required=True, help="names of its classes: imagenet_labels.txt"
    )
    parser.add_argument("--stride", type=int, choices=(32, 16, 8), default=16, help="default 16")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "data", help="folder to write to"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # a fixed order of summation, so that the file is reproducible
    classifier = build("mobilenet_v2", 1001, 32, args.weights).eval()
    localizer = build("mobilenet_v2", 1001, args.stride, args.weights).eval()
    # One line per class, "<index> <name>, <synonym>, …".
    lines = args.labels.read_text(encoding="utf-8").splitlines()
    names = [line.split(maxsplit=1)[1].split(",")[0].strip() for line in lines]

    class_names = ["background", *(name for each in EXAMPLES.values() for name in each.classes)]
    arrays: dict[str, dict[str, Any]] = {"color": {}, "gray": {}}
    for name, example in EXAMPLES.items():
        color = Image.fromarray(getattr(skimage.data, name)())
        scale = example.longer_side / max(color.size)
        size = tuple(round(side * scale / args.stride) * args.stride for side in color.size)
        class_ids = np.array([class_names.index(each) for each in example.classes], np.uint8)
        for kind, photo in {"color": color, "gray": color.convert("L").convert("RGB")}.items():
            best = probabilities(classifier, resized(classifier, photo, (224, 224))).topk(3)
            seen = [
                f"{names[int(i)]} {p:.2f}" for p, i in zip(best.values, best.indices, strict=True)
            ]
            log.info("%s, %s, at 224 x 224: %s", name, kind, ", ".join(seen))
            merged = [[names.index(n) for n in group] for group in example.classes.values()]
            cams, features = maps_of(localizer, resized(localizer, photo, size), merged)
            arrays[kind][f"{name}/cams"] = cams.numpy().astype(np.float16)
            arrays[kind][f"{name}/classes"] = class_ids
            arrays[kind][f"{name}/features"] = features.numpy().astype(np.float16)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "classes.txt").write_text("\n".join(class_names) + "\n")
    for kind, entries in arrays.items():
        path = args.out / f"{kind}.npz"
        np.savez_compressed(path, **entries)  # NumPy dates every entry 1980-01-01: reproducible
        log.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
