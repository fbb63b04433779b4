"""Readers and writers of the files people exchange.

No reader here can run code from a file. Pickles are not unpickled: their opcodes are listed with
``pickletools.genops``, which parses without executing anything, and a small interpreter accepts
only the opcodes that dictionaries of NumPy arrays and torch tensors need.

=====================  =============================================================================
`write_labels`         label map -> PNG with the PASCAL VOC palette
`write_colours`        label map -> RGB PNG in the PASCAL VOC colours
`read_labels`          PNG (palette, gray, or RGB in given colours) -> label map
`read_coco`            COCO's instances JSON -> label map and tags of each photo
`write_coco`           label maps -> an instances JSON
`write_coco_panoptic`  label maps -> COCO's panoptic JSON and PNGs
`write_label_studio`   label maps -> tasks of Label Studio with predictions
`read_labelmap`        `labelmap.txt` of CVAT and Datumaro -> names and colours of classes
`write_labelmap`       names and colours of classes -> such a file
`encode_rle`           mask -> COCO's compressed run lengths
`decode_rle`           COCO's run lengths -> mask
`label_studio_rle`     mask -> Label Studio's brush run lengths
`read_photo`           photo of any common format -> RGB, upright
`read_maps`            activation maps of one photo, as PSA, IRN, CLIP-ES and others write -> `Maps`
`MapArchive`           activation maps of many photos in one ``.npz`` -> `Maps` of each
`read_masks`           masks of one photo, as SAM's programs write them -> bool stack or label map
`write_maps`           activation maps or cues of one photo -> a small ``.npz``, read by `read_maps`
`read_sec_cues`        the localization cues published with SEC, a pickle -> `SecCues` per image
`write_sec_cues`       cues -> a file like SEC's
=====================  =============================================================================
"""

from __future__ import annotations

from cuekit.io.coco import CocoPhoto, CocoTruth, read_coco, write_coco, write_coco_panoptic
from cuekit.io.label_studio import label_studio_rle, write_label_studio
from cuekit.io.labelmap import read_labelmap, write_labelmap
from cuekit.io.labels import read_labels, write_colours, write_labels
from cuekit.io.map_archive import MapArchive
from cuekit.io.maps import Maps, read_maps, write_maps
from cuekit.io.masks import read_masks
from cuekit.io.photo import read_photo
from cuekit.io.rle import decode_rle, encode_rle
from cuekit.io.sec import SecCues, read_sec_cues, write_sec_cues

__all__ = [
    "CocoPhoto",
    "CocoTruth",
    "MapArchive",
    "Maps",
    "SecCues",
    "decode_rle",
    "encode_rle",
    "label_studio_rle",
    "read_coco",
    "read_labelmap",
    "read_labels",
    "read_maps",
    "read_masks",
    "read_photo",
    "read_sec_cues",
    "write_coco",
    "write_coco_panoptic",
    "write_colours",
    "write_label_studio",
    "write_labelmap",
    "write_labels",
    "write_maps",
    "write_sec_cues",
]
