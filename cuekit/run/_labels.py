"""Labels of a folder of photos: the run behind `cuekit labels`."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuekit._checks import check_integer
from cuekit.classes import class_names
from cuekit.io._common import PathLike
from cuekit.run._dry_run import DryRun
from cuekit.run._dry_run import dry_run as dry_run_of
from cuekit.run._engine import Engine
from cuekit.run._folder import OutputFolder
from cuekit.run._plan import MaskFiles, Plan, check_apart, map_sources, tags_of, wanted_names
from cuekit.run._progress import Progress, duration
from cuekit.run._recipe import (
    Recipe,
    check_options,
    load_recipe,
    recipe_name,
)
from cuekit.run._remote_folder import output_folder
from cuekit.run._shards import check_key
from cuekit.run._sources import PHOTO_SUFFIXES
from cuekit.run._storage import Remote, files_of, place
from cuekit.run._strings import Strings
from cuekit.run._workers import describe

_SHOWN_FAILURES = 10


@dataclass(frozen=True)
class LabelRun:
    """What `labels` did.

    Attributes
    ----------
    folder : Path or URL
        Where the labels are.
    photos : int
        Number of photos asked for.
    written : int
        Photos whose labels this call has written.
    kept : int
        Photos whose labels were complete before.
    failed : dict of str to str
        Photos without labels, and why.
    pixels : dict of int to int
        Class id -> number of pixels, over all photos with labels.
    seconds : float
        How long this call took.
    """

    folder: Path | Remote
    photos: int
    written: int
    kept: int
    failed: dict[str, str]
    pixels: dict[int, int]
    seconds: float

    def __str__(self) -> str:
        text = (
            f"{self.written} written, {self.kept} kept from earlier, {len(self.failed)} failed "
            f"of {self.photos} photos in {duration(self.seconds)}: {self.folder}"
        )
        if self.failed:
            text += (
                f"\nreasons: {self.folder}/failures.csv; photos that failed are tried again with "
                "--retry-failed, or when their files have changed"
            )
        total = sum(self.pixels.values())
        if not total:
            return text
        background = 100 * self.pixels.get(0, 0) / total
        unknown = 100 * self.pixels.get(255, 0) / total
        classes = len(self.pixels.keys() - {0, 255})
        return (
            f"{text}\npixels: {background:.1f} % background, {100 - background - unknown:.1f} % "
            f"of {classes} classes, {unknown:.1f} % unknown (255)"
        )


def labels(
    photos: PathLike,
    maps: PathLike | Sequence[PathLike],
    out: PathLike,
    recipe: str | Recipe = "evidence",
    *,
    options: Mapping[str, Any] | None = None,
    names: PathLike | Iterable[str] | None = None,
    tags: PathLike | Mapping[str, Iterable[int]] | None = None,
    classes: PathLike | Sequence[str] = "voc",
    masks: PathLike | None = None,
    maps_format: str = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    jobs: int | None = None,
    engine: str = "local",
    address: str | None = None,
    timeout: float | None = None,
    gpus_per_worker: float = 0,
    batch: int | None = None,
    shard_size: int | None = None,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> LabelRun | DryRun:
    """Make labels of many photos from their activation maps, and write them as PNGs.

    The same call again goes on where an earlier one stopped. `out` never holds a partial file.

    Parameters
    ----------
    photos : str or path-like
        A folder of photos, which may have folders in it. The *name* of a photo is its path there,
        without the suffix.
    maps : str or path-like, or a sequence of them
        The activation maps: a folder with one file for each photo, of the same name, in any format
        of `cuekit.io.read_maps`; or an ``.npz`` of many photos (`cuekit.io.MapArchive`). Several:
        those of several classifiers, which the recipe combines.
    out : str or path-like
        The folder of the labels. It is made if it is missing. Labels of NAME are ``NAME.png``, with
        the palette of PASCAL VOC; 255 = unknown. It also holds the manifest ``run.json``, the
        journal and ``failures.csv``.
    recipe : str or callable, default "evidence"
        A function of `cuekit.recipes`, by its name; ``"module:function"``, a function of your own,
        found in the current folder, too; or a function: ``(photo, maps, tags) -> labels``, as
        `cuekit.recipes` describes. The default has weights that were fitted to masks of other
        photos; see `cuekit.recipes.evidence`, also for weights that were not.
    options : dict, optional
        Keyword arguments of the recipe: numbers, strings, lists.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos (`read_list`), or their names. Default: all names that
        have maps.
    tags : str, path-like or dict, optional
        The classes of each photo: a file (see `read_tags`) or ``{name: class ids}``. Default: the
        classes of which there are maps. A photo without tags fails.
    classes : str, path-like or sequence of str, default "voc"
        Names of the classes, for tags that are names; see `cuekit.classes.class_names`.
    masks : str or path-like, optional
        A folder with masks for each photo (`cuekit.io.read_masks`), which are given to the recipe
        as ``masks=``. In a store and in tars, those of a photo are one file.
    maps_format, maps_key, ids_key : str, optional
        How maps are read: `format` and the keys of `cuekit.io.read_maps`.
    jobs : int, optional
        Number of processes. Default: 1, a process beside this one, or this one if `recipe` is a
        function; with Ray, all processors there are.
    engine : {"local", "ray"}, default "local"
        Where the processes are: on this machine, or on a cluster of Ray (``cuekit[ray]``), all of
        whose machines have cuekit and see the same files under the same paths.
    address : str, optional
        The cluster of Ray: ``"auto"``, the one on this machine; ``"HOST:PORT"`` or
        ``"ray://HOST:PORT"``. Default: the one on this machine, if there is one; else Ray is
        started on this machine for this call, with `jobs` processors.
    timeout : float, optional
        Seconds that a photo may take. Then its process is killed, and the photo has failed. With
        `batch`: seconds that a batch may take; then its photos are done one by one.
    gpus_per_worker : float, default 0
        GPUs of each process on a cluster of Ray, for recipes of your own that use them: 1, or 0.5
        for two processes with one GPU. A process sees its own only, and with 0 none. The recipes
        of cuekit run on CPUs.
    batch : int, optional
        For a recipe of your own that takes batches: at most so many photos at once. See Notes.
    shard_size : int, optional
        Write tars with the labels of so many photos each, ``labels-000000.tar`` and so on, instead
        of PNGs, as WebDataset reads them: a member is ``NAME.png``. Photos with a dot in the last
        part of their name fail. `evaluate` and others take the folder as one of PNGs. This process
        writes the tars, and has the one that it fills in memory; if it is killed, the photos of
        that one are done again.
    part : (i, n), optional
        Do part i of n only, i from 1 to n: photos i, i + n, ... of the list. Several parts can run
        at once, on several machines with a common folder.
    limit : int, optional
        Do the first `limit` photos (of the part) only.
    retry_failed : bool, default False
        Also try photos again that failed in an earlier run.
    dry_run : bool, default False
        Write nothing; check what can be checked.
    progress : bool, default False
        Show progress and failures on standard error.

    Returns
    -------
    LabelRun
        Counts; or a DryRun, with `dry_run`.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or `out` has labels that were made with other settings.
    OSError
        If a folder is missing, `out` cannot be written or is in use by another run, the disk is
        full, or there is no cluster at `address`. Labels that are complete stay.
    ImportError
        If `engine` is "ray" and Ray is not installed.

    Notes
    -----
    All paths but that of `classes` may be URLs of object stores, such as ``s3://bucket/photos``,
    which fsspec reads (``cuekit[remote]``). `photos`, `maps` and `masks` may be members of tars
    without compression: ``"photos-{000..099}.tar"`` or ``"photos-*.tar"``. A store has no lock: two
    runs at once into one place do the work twice, and must not write tars.

    A recipe whose first parameter is named ``photos`` takes batches, as networks on a GPU need
    them: ``(photos, maps, tags) -> labels``, where all four are lists with an entry for each photo.
    The photos have one size, and their maps one shape. A batch that fails is done again photo by
    photo, so that one bad photo is one failure.

    A cluster gives the same bits as one machine. A process or machine that is lost there takes no
    photos with it: they are done again, three times at most. A recipe ``"module:function"`` whose
    module is one file is sent to all machines; what it imports must be installed there.

    A photo that cannot be read, has no maps, or for which the recipe raises an error is listed in
    ``failures.csv``, and the run goes on. Later runs leave it out unless `retry_failed` is set.

    Settings that change results are compared with those of earlier runs into the same folder:
    cuekit's version, the recipe, its options and the source file of a recipe of your own (not of
    what that imports), the paths, the contents of tags. Photos whose files or maps have changed
    since are done again.
    """
    is_apart = isinstance(recipe, str)  # others may not be importable
    where = Engine(engine, jobs, address, timeout, gpus_per_worker, batch, is_apart)
    if limit is not None:
        limit = check_integer(limit, "limit", minimum=1)
    if shard_size is not None:
        shard_size = check_integer(shard_size, "shard_size", minimum=1)
    start = time.monotonic()
    plan = Plan(
        photos=files_of(photos, PHOTO_SUFFIXES, "photos"),
        maps=map_sources(maps),
        masks=None if masks is None else MaskFiles(masks),
        recipe=recipe_name(recipe),
        options=dict(options or {}),
        tags=tags_of(tags, class_names(classes)),
        reading={"format": maps_format, "maps_key": maps_key, "ids_key": ids_key},
    )
    function = recipe if callable(recipe) else load_recipe(recipe)
    check_options(function, plan.options, plan.recipe, has_masks=masks is not None)
    where.check(recipe, function)
    wanted = wanted_names(names, plan)
    part = _check_part(part)
    if part is not None:
        wanted = wanted[part[0] - 1 :: part[1]]
    wanted = wanted[:limit]
    folder_path = place(out, "out")
    check_apart(folder_path, [plan.photos.folder, *(source.path for source in plan.maps)])
    settings = plan.manifest(function)
    if shard_size is not None:
        settings["shards"] = True
    output = output_folder(folder_path, settings, part, shard_size)
    if dry_run:
        return dry_run_of(plan, function, wanted, output, where.jobs or 1)
    with output as folder:
        return _run(plan, function, wanted, folder, where, retry_failed, progress, start)


def _check_part(part: tuple[int, int] | None) -> tuple[int, int] | None:
    if part is None:
        return None
    number, count = (check_integer(each, "part", minimum=1) for each in part)
    if number > count:
        raise ValueError(f"part must be i of n with i <= n, got {number} of {count}")
    return number, count


def _run(
    plan: Plan,
    function: Recipe,
    wanted: Strings,
    folder: OutputFolder,
    engine: Engine,
    retry_failed: bool,
    shows_progress: bool,
    start: float,
) -> LabelRun:
    settings = {
        **plan.worker_settings(),
        "out": None if folder.shards else os.fspath(folder.path),
        "unfinished": None if folder.shards else os.fspath(folder.unfinished),
    }
    pixels: Counter[int] = Counter()
    written = kept = failed = 0
    progress = Progress(len(wanted), shown=shows_progress)

    def fail(name: str, reason: str, inputs: list[list[int]] | None) -> None:
        nonlocal failed
        failed += 1
        folder.fail(name, inputs, reason)
        progress.add(failed=True)
        if failed <= _SHOWN_FAILURES:
            progress.note(f"{name} failed: {reason}")

    def left() -> Iterator[dict[str, Any]]:
        """Yield the photos that are to be done; count the others."""
        nonlocal kept
        for name in wanted:
            try:
                item = plan.item(name)
                if folder.shards is not None:
                    check_key(name)
            except (OSError, ValueError) as error:
                fail(name, describe(error), None)
                continue
            counts = folder.pixels_of(name, item["inputs"])
            if counts is not None:
                kept += 1
                pixels.update(_by_class(counts))
                progress.add()
            elif folder.has_failed(name, item["inputs"]) and not retry_failed:
                progress.add(failed=True)
            else:
                yield item

    try:
        with contextlib.closing(engine.run(function, settings, left())) as results:
            for item, result in results:
                if "failed" in result:
                    fail(item["name"], result["failed"], item["inputs"])
                    continue
                folder.done(item["name"], item["inputs"], result)
                written += 1
                pixels.update(_by_class(result["pixels"]))
                progress.add()
    except BaseException:
        with contextlib.suppress(OSError):  # such as a full disk: the reason is known already
            folder.write_failures(wanted)
        raise
    finally:
        progress.close()
    folder.write_failures(wanted)
    failures = folder.failures_of(wanted)
    seconds = time.monotonic() - start
    return LabelRun(folder.path, len(wanted), written, kept, failures, dict(pixels), seconds)


def _by_class(pixels: Mapping[str, int]) -> dict[int, int]:
    return {int(class_id): count for class_id, count in pixels.items()}
