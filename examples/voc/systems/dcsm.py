"""DCSM: maps of single classes from gradients, the maps of other classes subtracted, and a CRF.

W. Shimoda, K. Yanai, "Distinct class-specific saliency maps for weakly supervised semantic
segmentation", ECCV 2016, doi:10.1007/978-3-319-46493-0_14. The gradient of a class's score at
several layers shows where it comes from, in more detail than an activation map, but maps of
different classes are alike. The subtraction of candidate classes makes them distinct.

Departures: MobileNetV2 instead of VGG-16, and plain gradients instead of guided ones, which are for
ReLU only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

import cuekit
from systems.base import System, divided_by_maximum, labels_of_tags

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work


@dataclass(frozen=True)
class Dcsm(System):
    """Distinct class-specific saliency maps.

    Attributes
    ----------
    longer_sides : tuple of int
        Sizes of the photo at the input; the maps of all sizes are averaged.
    stride : int
        Pixels per cell of the network.
    candidates : int
        Classes of which maps are computed, at least: the tags, and the classes with the highest
        scores. Maps of the others are only subtracted.
    alpha : float
        The background is (1 - largest map) ** alpha.
    """

    longer_sides: tuple[int, ...] = (320, 512)
    stride: int = 16
    candidates: int = 3
    alpha: float = 1.0

    def train(self, work: Work) -> Network:
        """Return the classifier: nothing else is trained."""
        return work.classifier(self.stride)

    def labels(self, work: Work, trained: Network, name: str) -> np.ndarray:
        """Return the labels of the maps after the CRF."""
        photo, present = work.photo(name), work.folder.tags[name]
        maps = divided_by_maximum(self.maps(work, trained, name))[present]
        maps = cuekit.resize_maps(maps, photo.shape[:2])
        scores = cuekit.with_background(maps, alpha=self.alpha)
        return labels_of_tags(cuekit.dense_crf(scores, photo, "psa"), present)

    def maps(self, work: Work, network: Network, name: str) -> np.ndarray:
        """Return the distinct maps (C, h, w), averaged over layers and sizes."""
        photo, present = work.photo(name), work.folder.tags[name]
        scores = np.where(present, np.inf, work.maps(name).scores)
        padded = present | (scores >= np.sort(scores)[-min(self.candidates, len(scores))])
        size = tuple(-(-side // 8) for side in photo.shape[:2])
        found = []
        for longer_side in self.longer_sides:
            pixels = network.see(work.pixels(photo, longer_side, self.stride))
            for gradients in class_gradients(network, pixels, np.flatnonzero(padded)):
                maps = np.zeros((len(present), *gradients.shape[1:]), np.float32)
                maps[padded] = gradients
                distinct = cuekit.subtract_classes(maps, padded, mode="dcsm")
                found.append(cuekit.resize_maps(distinct, size))
        return np.mean(found, axis=0)


def class_gradients(
    network: Network, photos: torch.Tensor, classes: np.ndarray
) -> list[np.ndarray]:
    """Return a map (len(classes), h, w) of every middle layer.

    The map of a class is the largest magnitude over the channels of the gradient of its score.
    """
    middle, maps = network.look_inside(photos)
    scores = maps[0].mean((1, 2))
    by_class = [
        [g[0].abs().amax(0) for g in torch.autograd.grad(scores[c], middle, retain_graph=True)]
        for c in classes.tolist()
    ]
    return [torch.stack(each).cpu().numpy() for each in zip(*by_class, strict=True)]
