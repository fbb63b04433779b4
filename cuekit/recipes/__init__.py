"""Recipes: from a photo and its activation maps to a label map, as published code does it.

A recipe is a function ``(photo, maps, tags=None, *, options) -> labels`` on cuekit's other
functions, and no longer than the script that it stands for. Write your own in the same way. In
all of them:

photo : (H, W, 3) array of uint8
    As `cuekit.io.read_photo` reads it.
maps : Maps, or a sequence of Maps
    As `cuekit.io.read_maps` reads them; several are of several classifiers, for the same classes.
    Maps of another size than the photo's are resized to it, bilinear, by `resize_maps`. Of several
    classifiers, `snap` fuses the cues by OR, and the other recipes average the maps.
tags : integers, optional
    Ids of the classes that are in the photo. Other maps are left out. None means all maps.
normalize : bool, default False
    Whether to divide each map by its maximum, and set negative values to 0. Without it, recipes
    that compare maps with thresholds, or take them as probabilities, refuse values outside [0, 1].
labels : (H, W) array of uint8, or of int32 where class ids are above 255
    Class ids, 0 for the background, 255 for pixels of which the recipe is not sure. Without any
    class, all is background.

All raise TypeError or ValueError if an argument has the wrong type, shape or value: if a tag has no
map, or the same class comes twice; if maps are not finite, or not in [0, 1] where they should be;
if a file says that its maps are of a photo of another size, or maps of a portrait come with a
landscape; if a class id is 255.

Options default to the published settings. `RECIPES` has the recipes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cuekit.recipes._steps import Labels
from cuekit.recipes.calibrate import Calibration, calibrate
from cuekit.recipes.evidence import EVIDENCE_CRF, EVIDENCE_WEIGHTS, EvidenceWeights, evidence
from cuekit.recipes.published import (
    clip_es,
    crf,
    irn,
    psa,
    psa_affinity,
    sepl,
    snap,
    threshold,
    toco,
    toco_par,
    weclip,
)

__all__ = [
    "EVIDENCE_CRF",
    "EVIDENCE_WEIGHTS",
    "RECIPES",
    "Calibration",
    "EvidenceWeights",
    "calibrate",
    "clip_es",
    "crf",
    "evidence",
    "irn",
    "psa",
    "psa_affinity",
    "sepl",
    "snap",
    "threshold",
    "toco",
    "toco_par",
    "weclip",
]

RECIPES: Mapping[str, Callable[..., Labels]] = MappingProxyType(
    {
        "clip_es": clip_es,
        "crf": crf,
        "evidence": evidence,
        "irn": irn,
        "psa": psa,
        "psa_affinity": psa_affinity,
        "sepl": sepl,
        "snap": snap,
        "threshold": threshold,
        "toco": toco,
        "toco_par": toco_par,
        "weclip": weclip,
    }
)
"""The recipes by name. On the command line, "-" may stand for "_"."""
