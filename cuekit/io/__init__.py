"""Readers and writers of the files people exchange.

No reader here can run code from a file. Pickles are not unpickled: their opcodes are listed with
:func:`pickletools.genops`, which parses without executing anything, and a small interpreter accepts
only the opcodes that dictionaries of NumPy arrays and torch tensors need.

====================  ==========================================================================
`write_labels`        label map -> PNG with the PASCAL VOC palette
`read_labels`         PNG (palette or gray) -> label map
`read_photo`          photo of any common format -> RGB, upright
`read_maps`           activation maps of one photo, as PSA, IRN, CLIP-ES and others write -> `Maps`
`MapArchive`          activation maps of many photos in one `.npz` -> `Maps` of each
`read_masks`          masks of one photo, as SAM's programs write them -> bool stack or label map
`write_maps`          activation maps or cues of one photo -> a small `.npz`, read by `read_maps`
`read_sec_cues`       the localization cues published with SEC, a pickle -> `SecCues` per image
`write_sec_cues`      cues -> a file like SEC's
====================  ==========================================================================
"""

from __future__ import annotations

from cuekit.io.labels import read_labels, write_labels
from cuekit.io.map_archive import MapArchive
from cuekit.io.maps import Maps, read_maps, write_maps
from cuekit.io.masks import read_masks
from cuekit.io.photo import read_photo
from cuekit.io.sec import SecCues, read_sec_cues, write_sec_cues

__all__ = [
    "MapArchive",
    "Maps",
    "SecCues",
    "read_labels",
    "read_maps",
    "read_masks",
    "read_photo",
    "read_sec_cues",
    "write_labels",
    "write_maps",
    "write_sec_cues",
]
