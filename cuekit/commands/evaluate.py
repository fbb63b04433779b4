"""`cuekit eval`: label images against the truth."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

SUMMARY = "Compare label images with the truth: IoU, accuracy, intervals."
EXAMPLES = """\
examples:
  cuekit eval --labels labels --truth SegmentationClass --list val.txt
  cuekit eval --labels labels --truth SegmentationClass --compare other_labels --csv photos.csv
  cuekit eval --labels labels --truth SegmentationClass --mean-over background,cat,dog
  cuekit eval --labels labels --truth coco_masks --classes coco --unknown ignore --jobs 8

One confusion matrix is counted over all photos. Figures are percent. Truth 255 is left out.
Photos that cannot be counted are listed, and the exit status is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from cuekit.run._evaluation import Unknown

    add = parser.add_argument
    add("--labels", required=True, metavar="DIR", help="folder of label images, NAME.png")
    add("--truth", required=True, metavar="DIR", help="folder of true label images, NAME.png")
    add("--list", metavar="FILE", help="text file with a name in each line (default: all labels)")
    add("--classes", default="voc", metavar="voc|coco|FILE", help="the classes (default: voc)")
    add(
        "--unknown",
        choices=get_args(Unknown),
        default="background",
        help="what 255 in labels counts as (default: %(default)s)",
    )
    add(
        "--mean-over",
        metavar="CLASS,...",
        help="names or ids of the classes that means are taken over (default: all)",
    )
    add("--compare", metavar="DIR", help="other labels: print the paired difference, too")
    add("--csv", metavar="FILE", help="write the figures of each photo")
    add("--json", metavar="FILE", help="write all figures")
    add("--markdown", action="store_true", help="print a table in Markdown")
    add("--jobs", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    add("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Count, and write the figures."""
    from cuekit.run import evaluate
    from cuekit.run._pairs import check_output, write_failures, write_json

    check_output(arguments.csv, ".csv", "--csv")
    check_output(arguments.json, ".json", "--json")
    found = evaluate(
        arguments.labels,
        arguments.truth,
        names=arguments.list,
        classes=arguments.classes,
        unknown=arguments.unknown,
        mean_over=arguments.mean_over and arguments.mean_over.split(","),
        compare=arguments.compare,
        jobs=arguments.jobs,
        progress=not arguments.quiet,
    )
    if arguments.csv:
        found.write_csv(arguments.csv)
    if arguments.json:
        write_json(arguments.json, found.as_dict())
    sys.stdout.write((found.markdown() if arguments.markdown else str(found)) + "\n")
    write_failures(found.failures)
    return 1 if found.failures else 0
