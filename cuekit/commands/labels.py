"""`cuekit labels`: labels of a folder of photos."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SUMMARY = "Make labels of a folder of photos from their activation maps."
EXAMPLES = """\
examples:
  cuekit labels --photos JPEGImages --maps cams --out labels
  cuekit labels --photos JPEGImages --maps cams --out labels --recipe irn
  cuekit labels --photos JPEGImages --maps cams --out labels --recipe psa --option alpha=8
  cuekit labels --photos JPEGImages --maps cams --out labels --dry-run
  cuekit labels --photos JPEGImages --maps color --maps gray --out labels --recipe snap --jobs 8
  cuekit labels --photos JPEGImages --maps cams --out labels --recipe my_recipes:sharpest
  cuekit labels ... --engine ray --address auto --timeout 300
  cuekit labels --photos s3://bucket/photos --maps 'cams-{00..15}.tar' --out s3://bucket/labels
  cuekit labels ... --part $SLURM_ARRAY_TASK_ID/16

recipes: evidence, psa, psa-affinity, irn, clip-es, toco, toco-par, weclip, snap, sepl, crf,
threshold. One of your own is a function of a module in the current folder, or in PYTHONPATH.
The default, evidence, has weights that were fitted to masks of other photos; with --option
weights=tags-only it has none of these.
tags, as text: a line holds a photo's name and its classes, with white space between them. As .json:
{"NAME": [class, ...]}. As .npz: ids and labels of 0 and 1. As .npy: {NAME: labels of 0 and 1}.

The same command again goes on where it was stopped. Photos that fail are listed in
OUT/failures.csv, the others are not affected."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--photos", required=True, metavar="DIR", help="folder of photos, a URL, or tars")
    add(
        "--maps",
        required=True,
        action="append",
        metavar="DIR|NPZ",
        help="folder with a file of maps for each photo, or one .npz of all; again for each "
        "further classifier",
    )
    add("--out", required=True, metavar="DIR", help="folder or URL for the labels, NAME.png")
    add(
        "--recipe",
        default="evidence",
        metavar="NAME",
        help="a recipe of cuekit.recipes, or module:function (default: %(default)s)",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the recipe, or @FILE.json that holds its value; may be given several "
        "times",
    )
    add(
        "--normalize",
        action="store_true",
        help="divide each map by its maximum: for maps outside [0, 1] (--option normalize=true)",
    )
    add("--list", metavar="FILE", help="text file with a name in each line (default: all maps)")
    add("--tags", metavar="FILE", help="the photos' classes: .npz, .npy, .json or text")
    add("--classes", default="voc", metavar="voc|coco|FILE", help="names of the classes in --tags")
    add("--masks", metavar="DIR", help="masks of a promptable segmenter, for recipes that use them")
    add("--format", default="auto", metavar="NAME", help="format of the maps (default: found out)")
    add("--maps-key", metavar="KEY", help="entry of a map file that holds the maps")
    add("--ids-key", metavar="KEY", help="entry of a map file that holds the class ids")
    add("--jobs", type=int, metavar="N", help="number of processes (default: 1; with ray, all)")
    add(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="where the processes are: this machine, or a cluster of Ray (default: %(default)s)",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="the cluster of Ray, as ray:// too, or auto (default: one on this machine, which is "
        "started if there is none)",
    )
    add("--timeout", type=float, metavar="S", help="seconds that a photo may take")
    add(
        "--gpus-per-worker",
        type=float,
        default=0,
        metavar="N",
        help="GPUs of each process on a cluster, for recipes that use them (default: none)",
    )
    add("--batch", type=int, metavar="N", help="photos at once, for recipes that take batches")
    add(
        "--shard-size",
        type=int,
        metavar="N",
        help="write tars of N photos' labels, OUT/labels-000000.tar (default: a PNG for each)",
    )
    add("--part", type=_part, metavar="I/N", help="do part I of N, for array jobs")
    add("--limit", type=int, metavar="N", help="do the first N photos only")
    add("--retry-failed", action="store_true", help="try photos again that failed before")
    add("--dry-run", action="store_true", help="check everything, write nothing")
    add("--quiet", action="store_true", help="show no progress")


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    try:
        return int(number), int(count)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be I/N, such as 3/16, got {text!r}") from None


def run(arguments: argparse.Namespace) -> int:
    """Make the labels, and write a summary."""
    from cuekit.run import DryRun, labels

    options = dict(map(_option, arguments.option))
    if arguments.normalize:
        options["normalize"] = True
    found = labels(
        arguments.photos,
        arguments.maps,
        arguments.out,
        arguments.recipe,
        options=options,
        names=arguments.list,
        tags=arguments.tags,
        classes=arguments.classes,
        masks=arguments.masks,
        maps_format=arguments.format,
        maps_key=arguments.maps_key,
        ids_key=arguments.ids_key,
        jobs=arguments.jobs,
        engine=arguments.engine,
        address=arguments.address,
        timeout=arguments.timeout,
        gpus_per_worker=arguments.gpus_per_worker,
        batch=arguments.batch,
        shard_size=arguments.shard_size,
        part=arguments.part,
        limit=arguments.limit,
        retry_failed=arguments.retry_failed,
        dry_run=arguments.dry_run,
        progress=not arguments.quiet,
    )
    sys.stdout.write(f"{found}\n{_note(arguments.recipe, options)}")
    return 1 if (found.failing if isinstance(found, DryRun) else found.failed) else 0


def _note(recipe: str, options: dict[str, Any]) -> str:
    """Say so if labels are not made from tags alone."""
    weights = options.get("weights", "position")
    if recipe != "evidence" or weights not in ("position", "no-position"):
        return ""
    return (
        f"the weights {weights} of the recipe evidence were fitted to masks of other photos, those "
        "of --option weights=tags-only were not\n"
    )


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option must be NAME=VALUE, got {text!r}")
    if value.startswith("@"):
        return name.replace("-", "_"), _json_file(value[1:], text)
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), {"True": True, "False": False}.get(value, value)


def _json_file(path: str, text: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--option must name a JSON file after @, got {text!r}: {error}") from None
