"""`cuekit convert`: activation maps and labels in other formats."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

SUMMARY = "Convert activation maps and label images between formats."
EXAMPLES = """\
examples:
  cuekit convert --maps cams --out small --stride 4 --photos JPEGImages
  cuekit convert --labels pseudo --to coco --out pseudo.json
  cuekit convert --labels pseudo --to label-studio --out tasks.json --url '/data/local-files/?d='
  cuekit convert --labels pseudo --to colours --out for_cvat --classes classes.txt
  cuekit convert --labels rgb_masks --colours voc --out masks
  cuekit convert --labels rgb_masks --colours labelmap.txt --classes labelmap.txt --out masks
  cuekit convert --labels coco_masks --official-ids --out masks
  cuekit convert --coco instances_val2014.json --out masks

Photos whose files cannot be read are listed, and the others are converted; the exit status is 1
then. Pixels of label 255 are in no annotation of coco, coco-panoptic and label-studio."""

_OPTIONS_OF = {
    "maps": ("photos", "stride", "size", "encoding", "format", "maps_key", "ids_key", "jobs"),
    "labels": ("classes", "colours", "official_ids", "photo_suffix", "to", "url"),
    "coco": ("overlap", "crowds", "to", "url"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from cuekit.io.coco import Crowds, Overlap
    from cuekit.run._convert import LabelFormat

    sources = parser.add_mutually_exclusive_group(required=True)
    source = sources.add_argument
    source("--maps", metavar="DIR|NPZ", help="maps to convert: a folder, or one .npz of all photos")
    source("--labels", metavar="DIR", help="label images to convert, NAME.png")
    source("--coco", metavar="FILE", help="an instances JSON to convert to label images")
    add = parser.add_argument
    add("--out", required=True, metavar="PATH", help="folder, or JSON, to write")
    add("--list", metavar="FILE", help="text file with a name in each line (default: all)")
    add("--quiet", action="store_true", help="show no progress")

    add = parser.add_argument_group("with --maps").add_argument
    add("--photos", metavar="DIR", help="folder of the photos, whose sizes are written")
    add("--stride", type=int, metavar="N", help="one value for every N x N pixels of the photo")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="resize all maps to this size")
    add("--encoding", choices=("uint8", "float16"), help="how values are stored (default: uint8)")
    add("--format", metavar="NAME", help="format of the maps (default: found out)")
    add("--maps-key", metavar="KEY", help="entry of a map file that holds the maps")
    add("--ids-key", metavar="KEY", help="entry of a map file that holds the class ids")
    add("--jobs", type=int, metavar="N", help="number of processes (default: 1)")

    add = parser.add_argument_group("with --labels and --coco").add_argument
    add("--to", choices=get_args(LabelFormat), help="format to write (default: png)")
    add("--url", metavar="TEXT", help="what comes before file names, for label-studio")

    add = parser.add_argument_group("with --labels").add_argument
    add("--classes", metavar="voc|coco|FILE", help="names of the classes (default: voc)")
    add(
        "--colours",
        metavar="voc|FILE",
        help="read RGB images in these colours, or a labelmap.txt's",
    )
    add(
        "--official-ids",
        action="store_const",
        const=True,
        help="the images have COCO's ids 0 to 90; they become 0 to 80",
    )
    add("--photo-suffix", metavar=".EXT", help="what photos' names end with (default: .jpg)")

    add = parser.add_argument_group("with --coco").add_argument
    add("--overlap", choices=get_args(Overlap), help="which object is in front (default: later)")
    add("--crowds", choices=get_args(Crowds), help="what crowds become (default: background)")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and write a summary."""
    from cuekit.run import convert_labels, convert_maps

    kind = next(each for each in _OPTIONS_OF if getattr(arguments, each) is not None)
    options = {}
    for option in dict.fromkeys(each for group in _OPTIONS_OF.values() for each in group):
        value = getattr(arguments, option)
        if value is None:
            continue
        if option not in _OPTIONS_OF[kind]:
            raise ValueError(f"--{option.replace('_', '-')} must not be given with --{kind}")
        options["maps_format" if option == "format" else option] = value
    if options.get("colours", "voc") != "voc":
        from cuekit.io import read_labelmap

        options["colours"] = read_labelmap(options["colours"])[1]
    convert = convert_maps if kind == "maps" else convert_labels
    found = convert(
        getattr(arguments, kind),
        arguments.out,
        names=arguments.list,
        progress=not arguments.quiet,
        **options,
    )
    sys.stdout.write(f"{found}\n")
    return 1 if found.failed else 0
