"""`cuekit sweep`: all background thresholds of activation maps."""

from __future__ import annotations

import argparse
import sys

SUMMARY = "Find the background threshold of activation maps, with or without truth."
EXAMPLES = """\
examples:
  cuekit sweep --maps cams --truth SegmentationClass --list train.txt --png curve.png
  cuekit sweep --maps cams --photos JPEGImages
  cuekit sweep --maps cams --truth SegmentationClass --thresholds 0.1:0.5:0.05
  cuekit sweep --maps cams.npz --truth SegmentationClass --normalize --alpha 1,2,4,8,16,32

Labels are the arg max of the maps and a background, which is the threshold, or
(1 - largest map) ** alpha. Figures are percent. All thresholds take one pass over the files.

Without --truth, a threshold is estimated from maps and photos: labels of the maps are compared with
labels of the maps' means over superpixels, and the threshold is where they agree best. This is a
heuristic. See `cuekit.run.sweep` for how far from the best it was found to be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "--maps",
        required=True,
        action="append",
        metavar="DIR|NPZ",
        help="folder with a file of maps for each photo, or one .npz of all; again for each "
        "further classifier",
    )
    add("--truth", metavar="DIR", help="folder of true label images, NAME.png")
    add("--photos", metavar="DIR", help="folder of photos: estimate a threshold from them, too")
    add("--list", metavar="FILE", help="text file with a name in each line (default: all maps)")
    add("--tags", metavar="FILE", help="the photos' classes: use no other maps")
    add("--classes", default="voc", metavar="voc|coco|FILE", help="the classes (default: voc)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--thresholds",
        type=_numbers,
        metavar="FIRST:LAST:STEP",
        help="thresholds, LAST included, or a list with commas (default: 0:1:0.01)",
    )
    choice.add_argument(
        "--alpha",
        type=_numbers,
        metavar="FIRST:LAST:STEP",
        help="values of alpha instead, or a list with commas",
    )
    add("--normalize", action="store_true", help="divide each map by its maximum first")
    add("--mean-over", metavar="CLASS,...", help="classes of the mean IoU (default: all)")
    add("--format", default="auto", metavar="NAME", help="format of the maps (default: found out)")
    add("--maps-key", metavar="KEY", help="entry of a map file that holds the maps")
    add("--ids-key", metavar="KEY", help="entry of a map file that holds the class ids")
    add("--png", metavar="FILE", help="draw the curve")
    add("--json", metavar="FILE", help="write all figures")
    add("--jobs", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    add("--quiet", action="store_true", help="show no progress")


def _numbers(text: str) -> list[float]:
    """Return the numbers of "0:1:0.01" or "1,2,4"."""
    try:
        if ":" not in text:
            return [float(each) for each in text.split(",")]
        first, last, step = (float(each) for each in text.split(":"))
        count = round((last - first) / step)
        if not 0 <= count < 1000 or abs(first + count * step - last) > 1e-6 * abs(step):
            raise ValueError  # noqa: TRY301 - the message is below
        # Rounded, so that 0.3 is the number that "0.3" means.
        return [round(first + i * step, 12) for i in range(count + 1)]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(
            "must be FIRST:LAST:STEP with LAST a whole number of steps from FIRST, or numbers with "
            f"commas, got {text!r}"
        ) from None


def run(arguments: argparse.Namespace) -> int:
    """Count, and write the figures."""
    from cuekit.run import sweep
    from cuekit.run._pairs import check_output, write_failures, write_json

    check_output(arguments.png, ".png", "--png")
    check_output(arguments.json, ".json", "--json")
    if arguments.png and not arguments.truth:
        raise ValueError("--png needs --truth: without truth there is no curve")
    found = sweep(
        arguments.maps,
        arguments.truth,
        photos=arguments.photos,
        names=arguments.list,
        tags=arguments.tags,
        classes=arguments.classes,
        thresholds=arguments.thresholds,
        alphas=arguments.alpha,
        normalize=arguments.normalize,
        mean_over=arguments.mean_over and arguments.mean_over.split(","),
        maps_format=arguments.format,
        maps_key=arguments.maps_key,
        ids_key=arguments.ids_key,
        jobs=arguments.jobs,
        progress=not arguments.quiet,
    )
    if arguments.png:
        found.write_png(arguments.png)
    if arguments.json:
        write_json(arguments.json, found.as_dict())
    sys.stdout.write(f"{found}\n")
    write_failures(found.failures)
    return 1 if found.failures else 0
