"""Bottom-up, top-down and smoothness cues, fused by a CRF that is trained with the network.

A. Roy, S. Todorovic, "Combining bottom-up, top-down, and smoothness cues for weakly supervised
image segmentation", CVPR 2017, doi:10.1109/CVPR.2017.770.

- Bottom-up: the maps of a classifier.
- Top-down: where the features of a class lie, given the class: the likelihood of each cell under
  the positive weights of the class, as in excitation backprop (arXiv:1608.00507).
- Smoothness: a dense CRF as a recurrent layer.

All is trained at once, and from tags alone: the loss is on what the CRF returns.

This is a simple form of it. Departures: attention goes down by one layer, to the features below the
head, and gradients do not flow through it; the CRF has Gaussian kernels over positions and colours,
with learnt weights, in place of attention passed between neighbours; the loss is SEC's expansion
loss, a weighted rank pooling, and the network starts from the colour classifier.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from data import Photos
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

import cuekit
from cuekit.crf import PRESETS
from cuekit.losses import expansion_loss
from cuekit.nn import DenseCRF
from systems.base import System, labels_of_tags

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work

SEC_PIXELS = 321  # side of the photos that the widths of "sec" are for


@dataclass(frozen=True)
class AttentionCRF(System):
    """Labels of the fused cues.

    Attributes
    ----------
    size, stride : int
        Side of the square that photos are resized to in training, and pixels per cell.
    iterations : int
        Steps of the CRF in training.
    longer_side : int
        Longer side of the photo at the input for the labels.
    background : float
        Added to the score of the background before labels are made.
    """

    size: int = 224
    stride: int = 8
    iterations: int = 5
    longer_side: int = 416
    background: float = -3.0

    def train(self, work: Work) -> Fusion:
        """Train classifier, fusion and CRF on the tags."""
        classifier = work.classifier(self.stride)
        classifier.requires_grad_(True)
        classifier.freeze_batch_norm()
        network = Fusion(classifier)
        grid = self.size // self.stride
        widths = PRESETS["sec"].scaled(grid / SEC_PIXELS)
        layer = DenseCRF(1 + len(work.folder.names), widths, iterations=self.iterations)
        network.fusion.add_module("crf", layer)

        def losses(scores: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            small = adaptive_avg_pool2d(batch["photos"].permute(0, 3, 1, 2).float(), grid)
            fused = layer(scores.cpu(), small.round().byte().cpu()).to(scores.device)
            return {"tags": expansion_loss(fused, batch["tags"])}

        photos = Photos(work.folder, work.names, self.size)
        settings = self.only("size", "stride", "iterations")
        return cast("Fusion", work.fit("fusion", network, photos, losses, **settings))

    def labels(self, work: Work, trained: Fusion, name: str) -> np.ndarray:
        """Return the labels after a CRF at the photo's resolution, with the learnt weights."""
        photo, present = work.photo(name), work.folder.tags[name]
        with torch.inference_mode():
            pixels = work.pixels(photo, self.longer_side, self.stride)
            scores = trained(trained.see(pixels))[0].cpu().numpy()
        scores[0] += self.background
        chosen = cuekit.resize_maps(scores[np.concatenate([[True], present])], photo.shape[:2])
        crf = cast("DenseCRF", trained.fusion["crf"])
        smoothness, appearance = (max(w.item(), 0.0) for w in crf.compatibilities)
        weights = {"gaussian_weight": smoothness, "bilateral_weight": appearance}
        params = dataclasses.replace(PRESETS["sec"], **weights)
        refined = cuekit.dense_crf(-chosen, photo, params, unary="energies")
        return labels_of_tags(refined, present)


class Fusion(nn.Module):
    """Scores of background and classes from bottom-up maps and top-down attention."""

    def __init__(self, classifier: Network) -> None:
        super().__init__()
        self.classifier, self.see = classifier, classifier.see
        self.fusion = nn.ModuleDict({"weights": Weights()})

    @property
    def head(self) -> nn.ModuleList:
        """The layers that learn fast."""
        return nn.ModuleList([self.classifier.head, self.fusion])

    def move_to(self, device: torch.device) -> None:
        """Move the network to a device; the CRF stays on the CPU."""
        self.classifier.move_to(device)
        self.fusion["weights"].to(device)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute scores (B, 1 + C, h, w)."""
        top: torch.Tensor = self.classifier.top_layers(photos)[1]
        bottom_up = self.classifier.head(top)
        with torch.no_grad():
            positive = self.classifier.head.weight[:, :, 0, 0].clamp(min=0)
            likelihood = torch.einsum("kd,bdhw->bkhw", positive, top)
            likelihood /= likelihood.amax((2, 3), keepdim=True).clamp(min=1e-6)
        scores: torch.Tensor = self.fusion["weights"](bottom_up, likelihood)
        return scores


class Weights(nn.Module):
    """The sum of bottom-up maps and logarithms of likelihoods, and a score of the background."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom_up = nn.Parameter(torch.tensor(1.0))
        self.top_down = nn.Parameter(torch.tensor(1.0))
        self.background = nn.Parameter(torch.tensor(0.0))

    def forward(self, bottom_up: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
        """Return scores (B, 1 + C, h, w)."""
        scores = self.bottom_up * bottom_up + self.top_down * (likelihood + 1e-3).log()
        background: Any = self.background.expand(len(scores), 1, *scores.shape[2:])
        return torch.cat([background, scores], 1)
