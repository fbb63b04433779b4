"""SPN: a classifier whose maps are constant within superpixels, and so have sharp boundaries.

S. Kwak, S. Hong, B. Han, "Weakly supervised semantic segmentation using superpixel pooling
network", AAAI 2017, doi:10.1609/aaai.v31i1.11213.

A superpixel pooling layer averages the feature maps over every superpixel; a score is the mean over
superpixels, to which large and small ones contribute alike. A second branch of ordinary pooling
is trained with it. Pooling and head are linear, so that the head is applied before the pooling
here, which gives the same scores with 20 maps to pool instead of 1280.

Departures: MobileNetV2 and bilinear enlargement instead of VGG-16 with deconvolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from data import Photos
from models import build
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

import cuekit
from systems.base import System, divided_by_maximum

if TYPE_CHECKING:
    from models import Network

    from systems.base import Work

EVERY = (
    4  # pixels per position of the pooling layer, as in the paper: a quarter of the photo's size
)


@dataclass(frozen=True)
class Spn(System):
    """Superpixel pooling network.

    Attributes
    ----------
    size, stride : int
        Side of the photos in training, and pixels per cell.
    longer_side : int
        Longer side of the photo at the input for the maps.
    foreground_threshold, background_threshold : float
        A superpixel has a class from the first share of the map's maximum, and is background if all
        maps are at most the second.
    scale, min_size : float, int
        See `cuekit.felzenszwalb`.
    """

    size: int = 352
    stride: int = 16
    longer_side: int = 416
    foreground_threshold: float = 0.3
    background_threshold: float = 0.2
    scale: float = 200.0
    min_size: int = 60

    def train(self, work: Work) -> Network:
        """Train the classifier with both branches."""
        torch.manual_seed(work.schedule.seed)  # for the initial weights of the head
        network = build(work.network, len(work.folder.names), self.stride, work.weights)
        if work.weights is not None:
            network.freeze_batch_norm()
        photos = Photos(work.folder, work.names, self.size)
        return work.fit(
            "classifier",
            network,
            photos,
            self.losses,
            **self.only("size", "stride", "scale", "min_size"),
        )

    def losses(self, maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the loss of the tags for the scores of both branches."""
        superpixels = self.superpixels(batch["photos"].cpu().numpy())
        superpixels = np.ascontiguousarray(superpixels[:, EVERY // 2 :: EVERY, EVERY // 2 :: EVERY])
        large = interpolate(maps, superpixels.shape[1:], mode="bilinear", align_corners=False).cpu()
        pooled = cuekit.superpixel_mean(large, torch.from_numpy(superpixels))
        scores = (pooled * torch.from_numpy(shares(superpixels))[:, None]).sum((2, 3))
        tags = batch["tags"].float()
        return {
            "superpixels": binary_cross_entropy_with_logits(scores.to(maps.device), tags),
            "cells": binary_cross_entropy_with_logits(maps.mean((2, 3)), tags),
        }

    def superpixels(self, photos: np.ndarray) -> np.ndarray:
        """Return the superpixels (…, H, W) of photos (…, H, W, 3)."""
        return cuekit.felzenszwalb(photos, scale=self.scale, min_size=self.min_size)

    def labels(self, work: Work, trained: Network, name: str) -> np.ndarray:
        """Return the labels of the superpixels whose maps are high, or low for all tags."""
        photo, present = work.photo(name), work.folder.tags[name]
        with torch.inference_mode():
            maps = trained(trained.see(work.pixels(photo, self.longer_side, self.stride)))[0]
        cams = maps.cpu().numpy()[present].clip(min=0)
        large = cuekit.resize_maps(cams, photo.shape[:2])
        pooled = divided_by_maximum(cuekit.superpixel_mean(large, self.superpixels(photo)))
        labels = 1 + np.flatnonzero(present)[pooled.argmax(0)]
        labels[pooled.max(0) < self.foreground_threshold] = 255
        labels[pooled.max(0) <= self.background_threshold] = 0
        return labels


def shares(superpixels: np.ndarray) -> np.ndarray:
    """Return weights (B, H, W): their sum is 1 in a photo, and the same in all its superpixels."""
    weights = np.empty(superpixels.shape, np.float32)
    for each, labels in zip(weights, superpixels, strict=True):
        sizes = np.bincount(labels.ravel())
        each[:] = 1 / (sizes[labels] * np.count_nonzero(sizes))
    return weights
