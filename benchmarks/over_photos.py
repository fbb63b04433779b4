"""Runs a function on every photo of a folder; used by the scripts `equal_*`."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def over_photos(description: str | None, work: Callable[[int, Path], T]) -> list[T]:
    """Read the command line, call work(i, photo) in one process per core, and show progress."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="folder of photos *.jpg")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth photo")
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.jpg"))[:: args.every]
    if not files:
        parser.error(f"no *.jpg in {args.folder}")
    found = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for each in pool.map(work, range(len(files)), files):
            found.append(each)
            sys.stderr.write(f"\r{len(found)} of {len(files)} photos")
    sys.stderr.write("\n")
    return found
