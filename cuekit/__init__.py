"""Sharp segmentation cues from classifier activation maps.

The functions take NumPy arrays, torch tensors or CuPy arrays, on the CPU or a CUDA device, and
return the same kind on the same device. Maps are channel-first, photos channel-last, and leading
dimensions mean "independently per image".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cuekit._backend import build_config
from cuekit.background import background_map
from cuekit.bilateral_filter import bilateral_filter
from cuekit.boundary_connectivity import BoundaryConnectivity, boundary_connectivity
from cuekit.colour_evidence import colour_evidence
from cuekit.confident_labels import confident_labels
from cuekit.crf import CRFParams, dense_crf, labels_to_probabilities
from cuekit.crf_features import CRFKernel, MeanField, dense_crf_features
from cuekit.felzenszwalb import felzenszwalb
from cuekit.fuse import fuse_cues
from cuekit.labels import cues_to_labels
from cuekit.mask_scores import MaskScores, label_masks, mask_scores
from cuekit.merge_scales import merge_scales
from cuekit.photo_boundary import photo_boundary
from cuekit.probabilities_to_labels import probabilities_to_labels
from cuekit.random_walk import random_walk
from cuekit.raw_cues import raw_cues
from cuekit.refine_local import RefineParams, refine_local
from cuekit.resize import resize_cues
from cuekit.resize_maps import resize_maps
from cuekit.rgb_to_lab import rgb_to_lab
from cuekit.sepl import sepl_labels
from cuekit.slic import slic
from cuekit.snap import snap_cues
from cuekit.subtract import subtract_classes
from cuekit.superpixel_graph import SuperpixelGraph, superpixel_graph
from cuekit.superpixel_mean import superpixel_mean
from cuekit.superpixel_walk import superpixel_walk
from cuekit.suppress import suppress_absent
from cuekit.with_background import with_background

if TYPE_CHECKING:
    from cuekit import classes, io, metrics, recipes, run
    from cuekit import losses as losses  # not in __all__: import * must not need torch
    from cuekit import nn as nn
    from cuekit import reference as reference

__version__ = "0.1.0"

__all__ = [
    "BoundaryConnectivity",
    "CRFKernel",
    "CRFParams",
    "MaskScores",
    "MeanField",
    "RefineParams",
    "SuperpixelGraph",
    "background_map",
    "bilateral_filter",
    "boundary_connectivity",
    "build_config",
    "classes",
    "colour_evidence",
    "confident_labels",
    "cues_to_labels",
    "dense_crf",
    "dense_crf_features",
    "felzenszwalb",
    "fuse_cues",
    "io",
    "label_masks",
    "labels_to_probabilities",
    "mask_scores",
    "merge_scales",
    "metrics",
    "photo_boundary",
    "probabilities_to_labels",
    "random_walk",
    "raw_cues",
    "recipes",
    "refine_local",
    "resize_cues",
    "resize_maps",
    "rgb_to_lab",
    "run",
    "sepl_labels",
    "slic",
    "snap_cues",
    "subtract_classes",
    "superpixel_graph",
    "superpixel_mean",
    "superpixel_walk",
    "suppress_absent",
    "with_background",
]

_SUBMODULES = ("classes", "io", "losses", "metrics", "nn", "recipes", "reference", "run")


def __getattr__(name: str) -> Any:
    """Import the submodules that not every user needs when they are first used."""
    if name in _SUBMODULES:
        import importlib

        return importlib.import_module(f"cuekit.{name}")
    raise AttributeError(f"module 'cuekit' has no attribute {name!r}")
