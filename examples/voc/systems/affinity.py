"""AffinityNet (PSA): a network learns which neighbouring cells belong together; maps follow it.

J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision for weakly
supervised semantic segmentation", CVPR 2018, arXiv:1803.10464; jiwoon-ahn/psa.

1. Labels of which a CRF is sure, from the classifier's maps with little and with much background.
2. A head on three layers of the classifier learns affinities of cells closer than 5 to each other.
3. Maps and background walk along the affinities.

Departures: the head is trained alone, on the frozen classifier of this example, and has 128
features instead of 448; photos are resized to a square; no CRF refines the labels of the walk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cue_stage import missing
from data import Photos
from torch import nn
from torch.nn.functional import elu, interpolate, pad

import cuekit
from cuekit.random_walk import neighbour_offsets
from systems.base import System, divided_by_maximum, labels_of_tags

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work


FEATURES = 128  # in which cells are compared


@dataclass(frozen=True)
class Affinity(System):
    """AffinityNet's labels.

    Attributes
    ----------
    low_alpha, high_alpha : float
        Exponents of the background for the labels that affinities are learnt from.
    alpha : float
        Exponent of the background that walks.
    beta : float
        Exponent of the affinities.
    epochs, size : float, int
        Passes over the photos in training, less than for whole networks, and the side of the
        square that they are resized to.
    longer_side, stride : int
        Longer side of the photo at the input for the walk, and pixels per cell.
    """

    low_alpha: float = 4.0
    high_alpha: float = 32.0
    alpha: float = 8.0
    beta: float = 8.0
    epochs: float = 2.0
    size: int = 264
    longer_side: int = 416
    stride: int = 8

    def train(self, work: Work) -> AffinityNet:
        """Write the sure labels, and train the head on them."""
        sure = work.out / "sure"
        sure.mkdir(parents=True, exist_ok=True)
        for name in missing(work.names, sure, ".png"):
            labels = cuekit.recipes.psa_affinity(
                work.photo(name),
                work.maps_of_tags(name),
                low_alpha=self.low_alpha,
                high_alpha=self.high_alpha,
                normalize=True,
            )
            cuekit.io.write_labels(sure / f"{name}.png", labels)
        grid = self.size // self.stride
        settings = self.only("low_alpha", "high_alpha", "size", "stride")
        photos = Photos(work.folder, work.names, self.size, cues=sure, grid=grid)
        network = AffinityNet(work.classifier(self.stride))
        return work.lasting(self.epochs).fit(
            "affinity", network, photos, affinity_losses, **settings
        )

    def labels(self, work: Work, trained: AffinityNet, name: str) -> np.ndarray:
        """Return the labels of the maps and the background after the walk."""
        photo, present = work.photo(name), work.folder.tags[name]
        with torch.inference_mode():
            pixels = trained.see(work.pixels(photo, self.longer_side, self.stride))
            affinities = trained(pixels)[0].cpu().numpy()
        maps = divided_by_maximum(work.maps(name).cams[present])
        maps = cuekit.resize_maps(maps, affinities.shape[1:])
        scores = cuekit.with_background(maps, alpha=self.alpha)
        walked = cuekit.random_walk(scores, affinities=affinities, beta=self.beta)
        return labels_of_tags(cuekit.resize_maps(walked, photo.shape[:2]), present)


class AffinityNet(nn.Module):
    """Affinities of cells, from three layers of a frozen classifier.

    Parameters
    ----------
    classifier : Network
        Its weights are not trained.
    """

    def __init__(self, classifier: Network) -> None:
        super().__init__()
        self.classifier, self.see = classifier, classifier.see
        with torch.no_grad():
            side = 4 * classifier.stride + 1
            channels = [len(x[0]) for x in self.layers(torch.zeros(1, 3, side, side))]
        widths = (64, 128, 256)[-len(channels) :]
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, w, 1, bias=False) for c, w in zip(channels, widths, strict=True)
        )
        self.join = nn.Conv2d(sum(widths), FEATURES, 1, bias=False)

    @property
    def head(self) -> nn.ModuleList:
        """All layers that are trained."""
        return nn.ModuleList([self.reduce, self.join])

    def move_to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.classifier.move_to(device)
        self.to(device)

    def train(self, mode: bool = True) -> AffinityNet:
        """Switch to training or evaluation; the classifier stays in evaluation."""
        super().train(mode)
        self.classifier.train(False)
        return self

    def layers(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """Return the first middle layer and both top layers of the classifier."""
        middle: list[torch.Tensor] = []
        layer = self.classifier.get_submodule(self.classifier.middle[0])
        hook = layer.register_forward_hook(
            lambda _, __, out: middle.append(out[-1] if isinstance(out, tuple) else out)
        )
        try:
            top = self.classifier.top_layers(photos)
        finally:
            hook.remove()
        return [*middle, *top]

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute affinities (B, 34, h, w) in (0, 1]: channels as `neighbour_offsets`."""
        with torch.no_grad():
            layers = self.layers(photos)
        size = layers[-1].shape[2:]
        reduced = [
            interpolate(elu(conv(x)), size, mode="bilinear", align_corners=False)
            for conv, x in zip(self.reduce, layers, strict=True)
        ]
        features = elu(self.join(torch.cat(reduced, 1)))
        differences = [(features - other).abs().mean(1) for other in neighbours(features, 0)]
        return torch.exp(-torch.stack(differences, 1))


def neighbours(cells: torch.Tensor, outside: float) -> list[torch.Tensor]:
    """Return, for every offset, the neighbours (B, …, h, w) of all cells; `outside` where none."""
    height, width = cells.shape[-2:]
    around = pad(cells, (4, 4, 0, 4), value=outside)
    return [
        around[..., dy : dy + height, 4 + dx : 4 + dx + width]
        for dy, dx in neighbour_offsets(5).tolist()
    ]


def affinity_losses(affinities: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Compute PSA's three losses: pairs within the background, within a class, and across."""
    cues = batch["cues"]
    labels = torch.where(cues.any(1), cues.byte().argmax(1), 255).float()
    other = torch.stack(neighbours(labels, 255), 1)
    own = labels[:, None].expand_as(other)
    known = (own != 255) & (other != 255)
    alike = known & (own == other)
    pairs = {"background": alike & (own == 0), "class": alike & (own != 0)}
    terms = {name: mean(-(affinities + 1e-5).log(), where) / 4 for name, where in pairs.items()}
    return {**terms, "across": mean(-(1 - affinities + 1e-5).log(), known & ~alike) / 2}


def mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the mean of the chosen values; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
