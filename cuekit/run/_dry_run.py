"""What a run would do, without writing anything."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuekit.io.labels import encode_labels
from cuekit.run._folder import OutputFolder
from cuekit.run._label_task import LabelTask
from cuekit.run._plan import Plan
from cuekit.run._progress import duration
from cuekit.run._recipe import Recipe
from cuekit.run._shards import check_key
from cuekit.run._storage import Remote, readable
from cuekit.run._strings import Strings
from cuekit.run._workers import describe

_SAMPLES = 3  # photos that labels are made of, to say how long all take
_SHOWN_FAILURES = 10


@dataclass(frozen=True)
class DryRun:
    """What `labels` would do, and what it found; `str` of it is a report.

    Attributes
    ----------
    photos, done : int
        Photos asked for, and those that are done already.
    failing : dict of str to str
        Photos that would fail: those with missing files, and those of the samples that failed.
    unused : int
        Photos in the folder that are not asked for.
    example : str
        What the first file of maps holds.
    tried : int
        Number of samples: photos of which labels were made without writing them.
    samples : dict of str to str
        Those of the samples that did not fail, with classes and time.
    seconds, nbytes : float
        Estimates for all photos that are left, from the samples; of one process.
    free : int or None
        Free space where the labels will be, in bytes; None in an object store.
    """

    photos: int
    done: int
    failing: dict[str, str]
    unused: int
    example: str
    tried: int
    samples: dict[str, str]
    seconds: float
    nbytes: float
    free: int | None
    jobs: int = 1

    def __str__(self) -> str:
        lines = [
            f"{self.photos} photos, {self.done} done already, at least {len(self.failing)} would "
            f"fail, {self.unused} more in the folder are not asked for",
            f"maps: {self.example}",
            f"labels were made of {len(self.samples)} of {self.tried} photos that were tried",
            *(f"{name}: {text}" for name, text in self.samples.items()),
            *(f"fails: {text}" for text in list(self.failing.values())[:_SHOWN_FAILURES]),
        ]
        if self.samples:
            lines.append(
                f"about {duration(self.seconds / self.jobs)} with {self.jobs} jobs, and "
                f"{self.nbytes / 1e6:.1f} MB of labels"
                + ("" if self.free is None else f"; {self.free / 1e9:.1f} GB are free")
            )
        return "\n".join(lines)


def dry_run(
    plan: Plan, function: Recipe, wanted: Strings, folder: OutputFolder, jobs: int
) -> DryRun:
    """Look at all that is there, and make labels of some photos without writing them."""
    failing: dict[str, str] = {}
    done = 0
    first: dict[str, Any] | None = None

    def left() -> Iterator[str]:
        nonlocal done, first
        for name in wanted:
            try:
                item = plan.item(name)
                if folder.shards is not None:
                    check_key(name)
            except (OSError, ValueError) as error:
                failing[name] = describe(error)
                continue
            first = first or item
            if folder.pixels_of(name, item["inputs"]) is None:
                yield name
            else:
                done += 1

    with contextlib.closing(folder):
        folder.look()
        pending = Strings(left())
    samples_of = pending[:: max(len(pending) // _SAMPLES, 1)][:_SAMPLES]
    samples: dict[str, str] = {}
    seconds, nbytes = [], []
    with contextlib.closing(LabelTask(plan.worker_settings(), function)) as task:
        example = "none" if first is None else _example(task, first)
        for name in samples_of:
            item = plan.item(name)
            start = time.monotonic()
            try:
                found = task.make(item)
            except Exception as error:  # whatever a recipe raises
                failing[name] = describe(error)
                continue
            seconds.append(time.monotonic() - start)
            nbytes.append(len(encode_labels(found)))
            classes = ", ".join(map(str, np.unique(found).tolist()))
            samples[name] = f"labels {classes} in {seconds[-1]:.2f} s"
    return DryRun(
        photos=len(wanted),
        done=done,
        failing=failing,
        unused=len(plan.photos.names()) - sum(name in plan.photos for name in wanted),
        example=example,
        tried=len(samples_of),
        samples=samples,
        seconds=len(pending) * float(np.median(seconds or [0])),
        nbytes=len(pending) * float(np.mean(nbytes or [0])),
        free=_free(folder.path),
        jobs=jobs,
    )


def _free(folder: Path | Remote) -> int | None:
    if isinstance(folder, Remote):
        return None
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(place).free


def _example(task: LabelTask, item: dict[str, Any]) -> str:
    """Say what a file of maps holds."""
    where = item["maps"][0]
    try:
        maps = task.read(where)
    except (OSError, ValueError) as error:
        return describe(error)
    values = "none"
    if maps.maps.size:
        values = f"values {maps.maps.min():.3g} to {maps.maps.max():.3g}"
    source = " of ".join(map(readable, reversed(where)))
    return (
        f"{source} has format {maps.format}, {maps.maps.dtype} "
        f"{maps.maps.shape}, class ids {maps.class_ids.tolist()}, {values}, "
        f"{'no background' if maps.background is None else 'a background map'}"
        f"{'' if maps.features is None else ', features'}"
    )
