"""Two-phase learning: a second classifier must find what the first one does not look at.

D. Kim, D. Cho, D. Yoo, I. S. Kweon, "Two-phase learning for weakly supervised object localization",
ICCV 2017, arXiv:1708.02108.

The second network sees features that are 0 wherever the first one's maps are highest. Both maps are
made to cues as those of the paper, and fused.

Departure: the maps of both networks come from the photos of this example's stage `cues`, and their
cues are fused by OR, as the paper fuses those of a colour and a gray network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from cue_stage import Maps, raw_cues_of
from data import Photos
from loop import tag_losses
from models import build
from torch import nn

import cuekit
from systems.base import System

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work


@dataclass(frozen=True)
class TwoPhase(System):
    """Cues of two classifiers, the second trained with the first one's strongest places suppressed.

    Attributes
    ----------
    size, stride : int
        Side of the photos in training of the second classifier, and pixels per cell.
    suppressed : float
        Cells are suppressed from this share of the maximum of a map.
    longer_side, map_stride : int
        Longer side of the photo at the input for the maps, and the pixels per cell there.
    foreground_threshold, background_threshold : float
        See `cuekit.raw_cues`.
    """

    size: int = 352
    stride: int = 32
    suppressed: float = 0.6
    longer_side: int = 416
    map_stride: int = 16
    foreground_threshold: float = 0.5
    background_threshold: float = 0.2

    def train(self, work: Work) -> Second:
        """Train the second network; return it with the stride of the maps."""
        torch.manual_seed(work.schedule.seed)  # for the initial weights of the head
        classes = len(work.folder.names)
        second = build(work.network, classes, self.stride, work.weights)
        if work.weights is not None:
            second.freeze_batch_norm()
        photos = Photos(work.folder, work.names, self.size)
        network = Second(second, work.classifier(self.stride), self.suppressed)
        network = work.fit(
            "second", network, photos, tag_losses, **self.only("size", "stride", "suppressed")
        )
        finer = build(work.network, classes, self.map_stride)
        finer.load_state_dict(network.second.state_dict())
        finer.move_to(work.device)
        finer.eval()
        return Second(finer, work.classifier(self.map_stride), self.suppressed)

    def labels(self, work: Work, trained: Second, name: str) -> np.ndarray:
        """Return the labels of the fused cues; where they overlap, the smallest one wins."""
        photo, present = work.photo(name), work.folder.tags[name]
        with torch.inference_mode():
            pixels = trained.see(work.pixels(photo, self.longer_side, self.map_stride))
            top = trained.kept(pixels)
            weight = trained.head.weight[:, :, 0, 0]
            cams = torch.einsum("kd,dhw->khw", weight, top[0]).clamp(min=0).cpu().numpy()
        first = work.maps(name)
        second = Maps(cams, first.features, first.scores)
        thresholds = (self.foreground_threshold, self.background_threshold)
        cues = cuekit.fuse_cues(
            *(raw_cues_of(maps, present, *thresholds) for maps in (first, second))
        )
        return cuekit.cues_to_labels(cuekit.resize_cues(cues, photo.shape[:2]))


class Second(nn.Module):
    """A classifier whose features are 0 where a first, frozen one has its strongest places."""

    def __init__(self, second: Network, first: Network, suppressed: float) -> None:
        super().__init__()
        self.second, self.first, self.suppressed = second, first, suppressed
        self.see, self.head = second.see, second.head

    def move_to(self, device: torch.device) -> None:
        """Move both networks to a device."""
        self.second.move_to(device)
        self.first.move_to(device)

    def train(self, mode: bool = True) -> Second:
        """Switch to training or evaluation; the first network stays in evaluation."""
        super().train(mode)
        self.first.train(False)
        return self

    def kept(self, photos: torch.Tensor) -> torch.Tensor:
        """Return the second network's top layer (B, D, h, w), suppressed.

        Of the first network, the maps of the classes that it predicts count: those with a score of
        0.5 or more, and the one with the highest score.
        """
        with torch.no_grad():
            maps = self.first(photos)
            scores = maps.mean((2, 3)).sigmoid()
            predicted = (scores >= 0.5) | (scores == scores.amax(1, keepdim=True))
            strong = maps > self.suppressed * maps.amax((2, 3), keepdim=True)
            suppressed = (strong & predicted[:, :, None, None]).any(1, keepdim=True)
        top: torch.Tensor = self.second.top_layers(photos)[1]
        return top * ~suppressed

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, K, h, w) of the suppressed features."""
        maps: torch.Tensor = self.head(self.kept(photos))
        return maps
