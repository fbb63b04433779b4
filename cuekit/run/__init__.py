"""Work on whole folders: labels, evaluation, tables and pictures.

Each function is a command of `cuekit`, too.

==================  ============================================================================
`convert_labels`    label images, or COCO's truth -> another format
`convert_maps`      somebody's activation maps -> small files
`labels`            photos and activation maps -> label images; can be interrupted and resumed
`read_list`         a text file that lists photos -> their names
`read_tags`         a file of image tags -> the classes of each photo
==================  ============================================================================
"""

from __future__ import annotations

from cuekit.run._convert import Conversion, convert_labels, convert_maps
from cuekit.run._dry_run import DryRun
from cuekit.run._labels import LabelRun, labels
from cuekit.run._sources import read_list, read_tags

__all__ = [
    "Conversion",
    "DryRun",
    "LabelRun",
    "convert_labels",
    "convert_maps",
    "labels",
    "read_list",
    "read_tags",
]
