"""Times `cuekit labels` on a folder of photos: JPEG and map files in, PNGs out.

``python -m benchmarks.labels_run`` prints Markdown: photos per second with one and with two
processes, alternately; and how long one process takes for each step of a photo. The photos are
those of PASCAL VOC in the data folder, or scikit-image's.

``--memory N`` labels a folder of N photos instead, and prints the resident memory of all processes
at each tenth of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import cuekit
from benchmarks import inputs
from cuekit import io, recipes
from cuekit.io.labels import encode_labels

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
STRIDE = 4  # of the maps, in pixels


def fill(folder: Path, count: int) -> None:
    """Write photos, and files of maps in the layout of PSA (photo size) and in our own."""
    for name in ("photos", "psa", "own"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for i, photo in enumerate(inputs.natural_photos(min(count, 100))):
        Image.fromarray(photo).save(folder / "photos" / f"{i}.jpg", quality=90)
        size = (photo.shape[0] // STRIDE, photo.shape[1] // STRIDE)
        coarse = rng.random((2, 5, 7), np.float32) ** 2
        maps = cuekit.resize_maps(coarse / coarse.max((1, 2), keepdims=True), size)
        io.write_maps(folder / "own" / f"{i}.npz", maps, [8, 15], photo_size=photo.shape[:2])
        full = cuekit.resize_maps(maps, photo.shape[:2])
        np.save(folder / "psa" / f"{i}.npy", np.array({7: full[0], 14: full[1]}), allow_pickle=True)
    written = len(list((folder / "photos").iterdir()))
    for i in range(written, count):
        for name, suffix in (("photos", "jpg"), ("psa", "npy"), ("own", "npz")):
            os.link(folder / name / f"{i % written}.{suffix}", folder / name / f"{i}.{suffix}")


def command(folder: Path, out: Path, recipe: str, jobs: int, maps: str = "psa") -> list[str]:
    """Return the command line of a run."""
    run = [sys.executable, "-m", "cuekit", "labels", "--photos", str(folder / "photos")]
    run += ["--maps", str(folder / maps), "--out", str(out), "--recipe", recipe]
    return [*run, "--jobs", str(jobs), "--quiet"]


def two_against_one(folder: Path, recipe: str, count: int) -> str:
    """Return a row: photos per second of one and of two processes, and the ratio."""
    times: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(ROUNDS):
            for jobs in (1, 2):
                out = Path(scratch) / f"{i}-{jobs}"
                start = time.perf_counter()
                subprocess.run(  # noqa: S603
                    command(folder, out, recipe, jobs), check=True, stdout=subprocess.DEVNULL
                )
                times[jobs].append(time.perf_counter() - start)
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    rates = [f"{count / median(times[jobs]):.1f}" for jobs in (1, 2)]
    return f"| {recipe} | {' | '.join(rates)} | {median(ratios):.2f} |"


def steps(folder: Path, recipe: str, maps: str) -> str:
    """Return a row: milliseconds of one process for each step of a photo."""
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        spent[name].append(1e3 * (time.perf_counter() - start))
        return result

    function = recipes.RECIPES[recipe]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "a.png"
        for path in sorted((folder / "photos").iterdir()):
            [file] = (folder / maps).glob(f"{path.stem}.*")
            photo = timed("photo", io.read_photo, path)
            found = timed("maps", io.read_maps, file)
            labels = timed("recipe", function, photo, found)
            data = timed("encode", encode_labels, labels)
            timed("write", target.write_bytes, data)
    shown = [
        f"{median(spent[name]):.1f}" for name in ("photo", "maps", "recipe", "encode", "write")
    ]
    return f"| {recipe}, {maps} | {' | '.join(shown)} |"


def memory(folder: Path, count: int) -> None:
    """Label a folder and print the resident memory of the processes as it goes on."""
    out = folder / "out"
    process = subprocess.Popen(command(folder, out, "threshold", 2, "own"))  # noqa: S603
    shown = 0
    while process.poll() is None:
        time.sleep(0.5)
        try:
            done = sum(1 for _ in (out / "journal.jsonl").open())
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            sizes = [resident(each) for each in (str(process.pid), *children)]
        except OSError:
            continue
        if done >= shown + count // 10:
            shown = done
            sys.stdout.write(f"{done} photos: {', '.join(f'{size:.0f}' for size in sizes)} MB\n")
            sys.stdout.flush()


def resident(process: str) -> float:
    """Return the resident memory of a process in megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(kilobytes) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=100, metavar="N", help="default 100")
    parser.add_argument("--memory", type=int, metavar="N", help="photos of the memory's run")
    parser.add_argument("--recipes", nargs="+", default=["irn", "psa"], help="default irn psa")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder, args.memory or args.photos)
        if args.memory:
            memory(folder, args.memory)
            return
        sys.stdout.write("| recipe | one process, photos/s | two | ratio |\n|---|---|---|---|\n")
        for recipe in args.recipes:
            sys.stdout.write(two_against_one(folder, recipe, args.photos) + "\n")
        sys.stdout.write(
            "\n| recipe, maps | read photo, ms | read maps | recipe | encode PNG | write |\n"
            "|---|---|---|---|---|---|\n"
        )
        for recipe in (*args.recipes, "threshold"):
            for maps in ("psa", "own"):
                sys.stdout.write(steps(folder, recipe, maps) + "\n")


if __name__ == "__main__":
    main()
