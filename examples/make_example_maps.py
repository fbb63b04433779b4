r"""Make examples/data/maps.npz: real activation maps of three photos of scikit-image.

The maps are those of MobileNetV2 1.0 trained on ImageNet (TensorFlow's authors, Apache-2.0), with
batch norm folded into the convolutions. The photos are those inside the scikit-image package, so
the quickstart can draw the maps over them without a download. Needs torch, which the quickstart
does not::

    python make_example_maps.py --weights mobilenet_v2_imagenet_fp16.npz \
        --labels imagenet_labels.txt
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch.nn.functional import conv2d, pad, relu6

log = logging.getLogger(__name__)

BLOCKS = (  # (expansion, channels, repeats, stride) of the inverted residual blocks
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Example(NamedTuple):
    """A photo of scikit-image and what to look for in it.

    Attributes
    ----------
    longer_side : int
        The photo's longer side at the network's input. The network was trained on objects that
        fill 224 pixels: the larger this is, the smaller the objects it finds, and the more it
        breaks large ones into parts.
    classes : dict of str to tuple of str
        Class name -> the ImageNet classes merged into it.
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


class MobileNetV2:
    """MobileNetV2 as a fully convolutional network.

    Parameters
    ----------
    weights : path-like
        The npz file: ``features.{0..18}…``, ``classifier``.
    labels : path-like
        One line per class, ``<index> <name>, <synonym>, …``; index 0 is "background".
    """

    def __init__(self, weights: Path, labels: Path) -> None:
        with np.load(weights) as arrays:
            self.weights = {k: torch.from_numpy(arrays[k].astype(np.float32)) for k in arrays}
        lines = labels.read_text(encoding="utf-8").splitlines()
        self.names = [line.split(maxsplit=1)[1].split(",")[0].strip() for line in lines]

    def top_layers(self, photo: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs of the last two convolutional layers, after ReLU6.

        Parameters
        ----------
        photo : Tensor, shape (1, 3, H, W)
            Values in [-1, 1]; H and W are multiples of `stride`.
        stride : {32, 16, 8}
            Pixels per cell. 32 is the network's own; below it, the last strided layers keep
            their resolution and the layers after them are dilated instead, which computes the
            same function at more places.

        Returns
        -------
        depthwise : Tensor, shape (1, 960, H / stride, W / stride)
        pointwise : Tensor, shape (1, 1280, H / stride, W / stride)
        """
        x = relu6(self._conv(photo, "features.0", stride=2))
        reached, dilation, index = 2, 1, 1
        for expansion, _, repeats, block_stride in BLOCKS:
            for repeat in range(repeats):
                wanted = block_stride if repeat == 0 else 1
                taken = wanted if reached < stride else 1
                layers = [f"features.{index}.conv.{i}" for i in range(3 if expansion > 1 else 2)]
                y = relu6(self._conv(x, layers[0])) if expansion > 1 else x
                depthwise = relu6(self._conv(y, layers[-2], taken, dilation))
                y = self._conv(depthwise, layers[-1])
                x = x + y if repeat > 0 else y
                reached *= taken
                dilation *= wanted // taken  # for the layers after this one
                index += 1
        return depthwise, relu6(self._conv(x, "features.18"))

    def probabilities(self, photo: torch.Tensor) -> torch.Tensor:
        """Classify a photo: probabilities (1001,), at the network's own stride."""
        _, top = self.top_layers(photo, stride=32)
        pooled = top.mean(dim=(2, 3), keepdim=True)
        return self._conv(pooled, "classifier").flatten().softmax(dim=0)

    def maps(
        self, photo: torch.Tensor, classes: dict[str, tuple[str, ...]], stride: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute activation maps (C, h, w) and summed features (2, h, w) of a photo.

        A class's map is its classifier weights applied to the features of every cell. The bias
        is left out: it says how common a class is, not where it is, and would only shift the
        level above which a map is positive. Merged classes take their maximum.
        """
        # TensorFlow pads strided layers at the right and the bottom only, so cell j looks at
        # pixel stride * j + stride - 1. Moving the photo by half a cell puts that pixel where
        # resizing will put the cell: in the middle of the stride pixels that it covers.
        half = stride // 2
        depthwise, top = self.top_layers(pad(photo, (half, -half, half, -half)), stride)
        classifier = self.weights["classifier.weight"][:, :, 0, 0]
        cams = [
            torch.einsum("kd,dhw->khw", classifier[[self.names.index(n) for n in merged]], top[0])
            for merged in classes.values()
        ]
        maps = torch.stack([cam.amax(dim=0) for cam in cams]).clamp(min=0)
        return maps, torch.stack([depthwise[0].sum(dim=0), top[0].sum(dim=0)])

    def _conv(self, x: torch.Tensor, name: str, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        kernel = weight.shape[-1]
        rows, columns = (_same_padding(n, kernel, stride, dilation) for n in x.shape[-2:])
        groups = x.shape[1] // weight.shape[1]
        x = pad(x, (*columns, *rows))
        return conv2d(x, weight, bias, stride, dilation=dilation, groups=groups)


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Pad as TensorFlow does: to ceil(size / stride) cells, an odd pixel at the far side."""
    reach = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def network_input(photo: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """Resize an RGB photo to (width, height), as the (1, 3, H, W) the network was trained on."""
    pixels = np.asarray(photo.resize(size, Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy((pixels - 127.5) / 127.5).permute(2, 0, 1)[None]


def main() -> None:
    """Compute the maps of every example and write them to one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="the network's npz file")
    parser.add_argument("--labels", type=Path, required=True, help="its imagenet_labels.txt")
    parser.add_argument("--stride", type=int, choices=(32, 16, 8), default=16, help="default 16")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "data" / "maps.npz", help="the file"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # the order of sums, and with it the file, stays the same
    network = MobileNetV2(args.weights, args.labels)

    arrays: dict[str, Any] = {}
    for name, example in EXAMPLES.items():
        color = Image.fromarray(getattr(skimage.data, name)())
        scale = example.longer_side / max(color.size)
        size = tuple(round(side * scale / args.stride) * args.stride for side in color.size)
        arrays[f"{name}/classes"] = np.array(list(example.classes))
        arrays[f"{name}/imagenet"] = np.array(["; ".join(m) for m in example.classes.values()])
        for kind, photo in {"color": color, "gray": color.convert("L").convert("RGB")}.items():
            best = network.probabilities(network_input(photo, (224, 224))).topk(3)
            seen = [
                f"{network.names[int(i)]} {p:.2f}"
                for p, i in zip(best.values, best.indices, strict=True)
            ]
            log.info("%s, %s, at 224 x 224: %s", name, kind, ", ".join(seen))
            cams, features = network.maps(network_input(photo, size), example.classes, args.stride)
            arrays[f"{name}/{kind}/cams"] = cams.numpy().astype(np.float16)
            arrays[f"{name}/{kind}/features"] = features.numpy().astype(np.float16)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **arrays)  # NumPy dates every member 1980-01-01: reproducible
    log.info("%s: %d bytes", args.out, args.out.stat().st_size)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
