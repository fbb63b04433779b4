"""`cuekit calibrate`: weights of the recipe evidence for photos of one's own."""

from __future__ import annotations

import argparse
import dataclasses
import sys

SUMMARY = "Find weights of the recipe evidence for your photos, with a few masks or without."
EXAMPLES = """\
examples:
  cuekit calibrate --photos photos --maps cams --truth masks --list fifty.txt --out weights.json
  cuekit calibrate --photos photos --maps cams --out weights.json
  cuekit labels --recipe evidence --option weights=@weights.json --photos photos --maps cams ...

It is for photos, classes or classifiers of another kind than those that the weights of cuekit are
from. With masks, the report says by cross-validation how good labels are before and after, in
percent. Before, labels have the correction that --weights has; fitted weights have none. Those that
are not better beyond chance are not used: weights fitted to 20 photos are mostly worse, have 100 or
more with masks. Photos of one scene should be side by side in the list.

Without --truth, weights come from photos and maps alone, and nothing says how good they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--photos", required=True, metavar="DIR", help="folder of photos")
    add(
        "--maps",
        required=True,
        action="append",
        metavar="DIR|NPZ",
        help="folder with a file of maps for each photo, or one .npz of all; again for each "
        "further classifier",
    )
    add("--truth", metavar="DIR", help="folder of true label images, NAME.png")
    add("--out", required=True, metavar="FILE", help="write the weights to use, a .json")
    add("--list", metavar="FILE", help="text file with a name in each line (default: all)")
    add("--tags", metavar="FILE", help="the photos' classes: use no other maps")
    add("--classes", default="voc", metavar="voc|coco|FILE", help="the classes (default: voc)")
    add(
        "--weights",
        default="position",
        metavar="NAME",
        help="weights to start from: position, no-position or tags-only (default: %(default)s)",
    )
    add("--folds", type=int, default=5, metavar="N", help="parts of the cross-validation")
    add("--mean-over", metavar="CLASS,...", help="classes of the mean IoU (default: all)")
    add("--format", default="auto", metavar="NAME", help="format of the maps (default: found out)")
    add("--maps-key", metavar="KEY", help="entry of a map file that holds the maps")
    add("--ids-key", metavar="KEY", help="entry of a map file that holds the class ids")
    add("--json", metavar="FILE", help="write all figures")
    add("--jobs", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    add("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Fit, and write weights and figures."""
    from cuekit.run import calibrate
    from cuekit.run._pairs import check_output, write_failures, write_json

    check_output(arguments.out, ".json", "--out")
    check_output(arguments.json, ".json", "--json")
    found = calibrate(
        arguments.photos,
        arguments.maps,
        arguments.truth,
        names=arguments.list,
        tags=arguments.tags,
        classes=arguments.classes,
        weights=arguments.weights,
        folds=arguments.folds,
        mean_over=arguments.mean_over and arguments.mean_over.split(","),
        maps_format=arguments.format,
        maps_key=arguments.maps_key,
        ids_key=arguments.ids_key,
        jobs=arguments.jobs,
        progress=not arguments.quiet,
    )
    weights = found.weights
    write_json(arguments.out, weights if isinstance(weights, str) else dataclasses.asdict(weights))
    if arguments.json:
        write_json(arguments.json, found.as_dict())
    sys.stdout.write(f"{found}\n")
    write_failures(found.failures)
    return 1 if found.failures else 0
