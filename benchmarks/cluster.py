"""What `cuekit labels --engine ray` costs: the driver per photo, its memory, efficiency.

    pip install -e '.[ray]'
    python -m benchmarks.cluster                    # some minutes
    python -m benchmarks.cluster --items 1000000    # the driver's memory with a million items
    python -m benchmarks.cluster --lists 1000000 --resumed    # what their names take

Photos are simulated, so that the machine's load does not count: a worker sleeps for as long as a
photo would take.

- *Driver*: processor time of the driver's process, all its threads, for each item. "Engine": items
  from a generator, a task that does nothing, so that only the engine works. "Files": all the rest
  of `cuekit.run.labels`, which lists photos and maps, looks at their times, and writes the journal.
  "Tars": the same with ``shard_size=1000`` and labels of 4 kB.
- *Memory*: the driver's resident memory after a tenth of the items, and at the end. "Lists": what a
  run of `cuekit.run.labels` adds by knowing the names of many photos, with photos and maps in
  folders of a simulated file system, when it works on its first photo: resident memory then,
  and the highest until then; for a new run, and for one that is resumed after all but one photo.
- *Efficiency*: photos x seconds per photo / (workers x seconds of the run), with the start of the
  workers, and from the first result to the last.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from cuekit import io, run
from cuekit.run._engine import Engine
from cuekit.run._ray import run_all_on_ray

if sys.platform == "linux":
    PAGE = resource.getpagesize()


class Sleeper:
    """A task that takes as long as its settings say."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.seconds = settings["seconds"]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Answer as a photo's labels do."""
        time.sleep(self.seconds)
        return {"bytes": 5000, "crc32": item["number"], "pixels": {"0": 100000, "12": 87500}}


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def simulated(count: int) -> Iterator[dict[str, Any]]:
    """Yield items of the size of a photo's."""
    for number in range(count):
        name = f"folder/photo_{number:09}"
        yield {
            "name": name,
            "photo": f"/data/photos/{name}.jpg",
            "maps": [[f"/data/maps/{name}.npz"]],
            "masks": None,
            "tags": None,
            "inputs": [[123456, 1795969906546422384]] * 2,
            "number": number,
        }


def engine(count: int, seconds: float, jobs: int) -> dict[str, float]:
    """Run simulated items; return what it took."""
    start, cpu = time.monotonic(), time.process_time()
    first = last = early = 0.0
    done = 0
    task, settings = "benchmarks.cluster:Sleeper", {"seconds": seconds}
    results = run_all_on_ray(task, settings, simulated(count), address="local", jobs=jobs)
    with contextlib.closing(results):
        for _ in results:
            done += 1
            last = time.monotonic()
            if done == 1:
                # Ray has started, which takes processor time once.
                first, cpu = last, time.process_time()
            if done == count // 10:
                early = resident_mb()
        used = time.process_time() - cpu
        late = resident_mb()
    return {
        "ms_per_item": 1e3 * used / (done - 1),
        "mb_early": early,
        "mb_late": late,
        "efficiency": count * seconds / jobs / (last - start),
        "steady": (count - 1) * seconds / jobs / (last - first),
        "seconds": last - start,
    }


def without_engine(count: int, shard_size: int | None = None) -> float:
    """Return milliseconds of the driver per photo for all but the engine."""
    png = base64.b64encode(os.urandom(4000)).decode()

    def done(self: Engine, function: Any, settings: Any, items: Any) -> Iterator[Any]:  # noqa: ARG001
        for item in items:
            answer = {"bytes": 4000, "crc32": 1, "pixels": {"0": 100000, "12": 87500}}
            yield item, answer if shard_size is None else {**answer, "png": png}

    with tempfile.TemporaryDirectory() as folder:
        for each in ("photos", "maps"):
            os.makedirs(f"{folder}/{each}")  # noqa: PTH103
            Path(f"{folder}/{each}/file").touch()
            suffix = "jpg" if each == "photos" else "npz"
            for number in range(count):
                os.link(f"{folder}/{each}/file", f"{folder}/{each}/{number:07}.{suffix}")
        arguments = (f"{folder}/photos", f"{folder}/maps", f"{folder}/out")
        start = time.process_time()
        with mock.patch.object(Engine, "run", done):
            run.labels(*arguments, "crf", shard_size=shard_size)
        return 1e3 * (time.process_time() - start) / count


class StoppedError(BaseException):
    """Ends a run when its memory has been measured."""


def lists(count: int, resumed: bool) -> dict[str, float]:
    """Return MB that the names of many photos take; in a process that has done nothing else."""
    figures: dict[str, float] = {}
    start = 0.0

    def measuring(photo: Any, maps: io.Maps, tags: Any = None) -> Any:  # noqa: ARG001
        if not start:
            return np.zeros(photo.shape[:2], np.uint8)
        figures["mb"] = resident_mb() - start
        figures["mb_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - start
        raise StoppedError

    def walk(folder: str, **_: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        suffix = "png" if folder.endswith("photos") else "npz"
        for first in range(0, count, 1000):
            numbers = range(first, min(first + 1000, count))
            files = [f"photo_{number:09}.{suffix}" for number in numbers]
            yield f"{folder}/folder_{first // 1000:04}", [], files

    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            name = f"folder_0000/photo_{number:09}"
            for each in ("photos", "maps"):
                os.makedirs(f"{folder}/{each}/folder_0000", exist_ok=True)  # noqa: PTH103
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(f"{folder}/photos/{name}.png")
            io.write_maps(f"{folder}/maps/{name}.npz", np.zeros((1, 4, 4), np.float32), [3])
        arguments = (f"{folder}/photos", f"{folder}/maps", f"{folder}/out")
        if resumed:
            run.labels(*arguments, measuring, limit=1)
            with Path(f"{folder}/out/journal.jsonl").open("a+") as journal:
                journal.seek(0)
                line = journal.read()
                for number in range(2, count):
                    name = f"folder_{number // 1000:04}/photo_{number:09}"
                    journal.write(line.replace("folder_0000/photo_000000000", name))
        start = resident_mb()
        with mock.patch("os.walk", walk), contextlib.suppress(StoppedError):
            run.labels(*arguments, measuring)
    return figures


def main() -> None:
    """Measure, and write figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--photos", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=0.2, help="simulated, for efficiency")
    parser.add_argument("--lists", type=int, help="measure lists of so many photos only")
    parser.add_argument("--resumed", action="store_true", help="with --lists")
    arguments = parser.parse_args()
    if arguments.lists is not None:
        found = lists(arguments.lists, arguments.resumed)
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    figures: dict[str, Any] = {"engine": engine(arguments.items, 0.0, 2)}
    for jobs in (1, 2):
        figures[f"workers_{jobs}"] = engine(300 * jobs, arguments.seconds, jobs)
    for name, shard_size in (("files", None), ("tars", 1000)):
        figures[f"{name}_ms_per_photo"] = without_engine(arguments.photos, shard_size)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
