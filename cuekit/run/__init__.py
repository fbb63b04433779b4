"""Work on whole folders: labels, evaluation, tables and pictures.

Each function is a command of `cuekit`, too.

==================  ============================================================================
`calibrate`         photos with masks and activation maps -> weights of the recipe `evidence`
`convert_labels`    label images, or COCO's truth -> another format
`convert_maps`      somebody's activation maps -> small files
`evaluate`          label images and the truth -> IoU, accuracy, intervals, differences
`labels`            photos and activation maps -> label images; can be interrupted and resumed
`read_list`         a text file that lists photos -> their names
`read_tags`         a file of image tags -> the classes of each photo
`sweep`             activation maps, with truth or photos -> the best background threshold
`view`              a page with pictures of photos, maps, labels and truth
==================  ============================================================================
"""

from __future__ import annotations

from cuekit.run._calibrate import calibrate
from cuekit.run._convert import Conversion, convert_labels, convert_maps
from cuekit.run._curve import Sweep
from cuekit.run._dry_run import DryRun
from cuekit.run._evaluate import evaluate
from cuekit.run._evaluation import Evaluation
from cuekit.run._labels import LabelRun, labels
from cuekit.run._sources import read_list, read_tags
from cuekit.run._sweep import sweep
from cuekit.run._view import View, view

__all__ = [
    "Conversion",
    "DryRun",
    "Evaluation",
    "LabelRun",
    "Sweep",
    "View",
    "calibrate",
    "convert_labels",
    "convert_maps",
    "evaluate",
    "labels",
    "read_list",
    "read_tags",
    "sweep",
    "view",
]
