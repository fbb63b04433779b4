"""`cuekit view`: pictures of a run on one page."""

from __future__ import annotations

import argparse
import sys
from typing import Any

SUMMARY = "Make a page with pictures of photos, maps and labels."
EXAMPLES = """\
With --truth, photos of the lowest and of the highest IoU are shown; without, evenly spaced ones.
The page is one file; it has no script and loads nothing. An existing file is replaced only if it
is a page of this command, or for --png a picture. What is missing or damaged of single photos is
shown on the page, and the exit status is 1.

examples:
  cuekit view --photos JPEGImages --labels pseudo
  cuekit view --photos JPEGImages --labels pseudo --truth SegmentationClass --maps cams \\
      --list val.txt --out report.html --png report.png
  cuekit view --photos JPEGImages --labels pseudo --labels other --truth SegmentationClass"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--photos", required=True, metavar="DIR", help="folder of photos")
    add(
        "--labels",
        required=True,
        action="append",
        metavar="DIR",
        help="folder of label PNGs; give it again for others to compare",
    )
    add("--truth", metavar="DIR", help="folder of label PNGs with the truth")
    add(
        "--maps",
        action=_Once,
        metavar="PATH",
        help="folder of activation maps, or one .npz of all photos",
    )
    add("--list", metavar="FILE", help="text file with a name in each line (default: all labels)")
    add(
        "--classes",
        default="voc",
        metavar="voc|coco|FILE",
        help="names of the classes (default: %(default)s)",
    )
    add(
        "--mean-over",
        metavar="CLASS,...",
        help="names or ids of the classes that means are taken over (default: all)",
    )
    add("--format", default="auto", metavar="NAME", help="format of the maps (default: found out)")
    add("--maps-key", metavar="KEY", help="entry of a map file that holds the maps")
    add("--ids-key", metavar="KEY", help="entry of a map file that holds the class ids")
    add("--count", type=int, default=24, metavar="N", help="photos to show (default: 24)")
    add("--superpixels", action="store_true", help="show the borders of superpixels, too")
    add("--sweep", metavar="FILE", help="what `cuekit sweep --json` wrote: its curve is shown")
    add("--out", default="report.html", metavar="FILE", help="the page (default: report.html)")
    add("--png", metavar="FILE", help="write the panels as one picture, too")
    add("--quiet", action="store_true", help="show no progress")


class _Once(argparse.Action):
    """Refuses a second value, which would take the place of the first."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{self.option_strings[0]} must be given once here, got {value!r}, too")
        setattr(namespace, self.dest, value)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; return 1 if files of single photos are missing or damaged."""
    from cuekit.run import view
    from cuekit.run._pairs import write_failures

    result = view(
        arguments.photos,
        arguments.labels,
        arguments.out,
        truth=arguments.truth,
        maps=arguments.maps,
        names=arguments.list,
        classes=arguments.classes,
        mean_over=arguments.mean_over and arguments.mean_over.split(","),
        maps_format=arguments.format,
        maps_key=arguments.maps_key,
        ids_key=arguments.ids_key,
        count=arguments.count,
        superpixels=arguments.superpixels,
        sweep=arguments.sweep,
        png=arguments.png,
        progress=not arguments.quiet,
    )
    sys.stdout.write(f"{result}\n")
    write_failures(result.failed)
    return 1 if result.failed else 0
