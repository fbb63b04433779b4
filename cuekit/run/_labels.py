"""Labels of a folder of photos: the run behind `cuekit labels`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import cuekit
from cuekit import io
from cuekit._checks import check_choice, check_integer
from cuekit.io._common import PathLike, check_path
from cuekit.io.labels import encode_labels
from cuekit.run._folder import OutputFolder
from cuekit.run._progress import Progress, duration
from cuekit.run._sources import (
    MAP_SUFFIXES,
    PHOTO_SUFFIXES,
    Files,
    check_name,
    read_list,
    read_tags,
    without_suffix,
)
from cuekit.run._workers import RunStoppedError, describe, run_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

Recipe: TypeAlias = Callable[..., Any]

_TASK = "cuekit.run._labels:LabelTask"
_MASK_SUFFIXES = (".json", ".npy", ".pkl", ".pickle", "")
_SHOWN_FAILURES = 10
_SAMPLES = 3  # photos that a dry run makes labels of, to say how long all take
_MOST_JOBS = 1024


@dataclass(frozen=True)
class LabelRun:
    """What `labels` did.

    Attributes
    ----------
    folder : Path
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

    folder: Path
    photos: int
    written: int
    kept: int
    failed: dict[str, str]
    pixels: dict[int, int]
    seconds: float

    def __str__(self) -> str:
        total = max(sum(self.pixels.values()), 1)
        background = 100 * self.pixels.get(0, 0) / total
        unknown = 100 * self.pixels.get(255, 0) / total
        classes = len(self.pixels.keys() - {0, 255})
        lines = [
            f"{self.written} written, {self.kept} kept from earlier, {len(self.failed)} failed "
            f"of {self.photos} photos in {duration(self.seconds)}: {self.folder}",
            f"pixels: {background:.1f} % background, {100 - background - unknown:.1f} % of "
            f"{classes} classes, {unknown:.1f} % unknown (255)",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class DryRun:
    """What `labels` would do, and what it found; `str` of it is a report.

    Attributes
    ----------
    photos, done : int
        Photos asked for, and those that are done already.
    failing : dict of str to str
        Photos that would fail, as far as it can be told without making their labels.
    unused : int
        Photos in the folder that are not asked for.
    example : str
        What the first file of maps holds.
    samples : dict of str to str
        Photos of which labels were made without writing them, with classes and time.
    seconds, nbytes : float
        Estimates for all photos that are left, from the samples; of one process.
    free : int
        Free space where the labels will be, in bytes.
    """

    photos: int
    done: int
    failing: dict[str, str]
    unused: int
    example: str
    samples: dict[str, str]
    seconds: float
    nbytes: float
    free: int
    jobs: int = 1

    def __str__(self) -> str:
        lines = [
            f"{self.photos} photos, {self.done} done already, {len(self.failing)} would fail, "
            f"{self.unused} more in the folder are not asked for",
            f"maps: {self.example}",
            *(f"{name}: {text}" for name, text in self.samples.items()),
            *(f"fails: {text}" for text in list(self.failing.values())[:_SHOWN_FAILURES]),
        ]
        if self.samples:
            lines.append(
                f"about {duration(self.seconds / self.jobs)} with {self.jobs} jobs, and "
                f"{self.nbytes / 1e6:.1f} MB of labels; {self.free / 1e9:.1f} GB are free"
            )
        return "\n".join(lines)


def labels(
    photos: PathLike,
    maps: PathLike | Sequence[PathLike],
    out: PathLike,
    recipe: str | Recipe = "crf",
    *,
    options: Mapping[str, Any] | None = None,
    names: PathLike | Iterable[str] | None = None,
    tags: PathLike | Mapping[str, Iterable[int]] | None = None,
    classes: Sequence[str] = (),
    masks: PathLike | None = None,
    maps_format: str = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    jobs: int = 1,
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
    recipe : str or callable, default "crf"
        A function of `cuekit.recipes`, by its name; ``"module:function"``, a function of your own,
        found in the current folder, too; or a function: ``(photo, maps, tags) -> labels``, as
        `cuekit.recipes` describes.
    options : dict, optional
        Keyword arguments of the recipe: numbers, strings, lists.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos (`read_list`), or their names. Default: all names that
        have maps.
    tags : str, path-like or dict, optional
        The classes of each photo: a file (see `read_tags`) or ``{name: class ids}``. Default: the
        classes of which there are maps. A photo without tags fails.
    classes : sequence of str, optional
        Names of the classes, the background first, for tags that are names.
    masks : str or path-like, optional
        A folder with masks for each photo (`cuekit.io.read_masks`), which are given to the recipe
        as ``masks=``.
    maps_format, maps_key, ids_key : str, optional
        How maps are read: `format` and the keys of `cuekit.io.read_maps`.
    jobs : int, default 1
        Number of processes. 1: this process does the work.
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
        If a folder is missing, `out` cannot be written or is in use by another run, or the disk is
        full. Labels that are complete stay.

    Notes
    -----
    A photo that cannot be read, has no maps, or for which the recipe raises an error is listed in
    ``failures.csv``, and the run goes on. Later runs leave it out unless `retry_failed` is set.

    Settings that change results are compared with those of earlier runs into the same folder:
    cuekit's version, the recipe, its options and the source file of a recipe of your own (not of
    what that imports), the paths, the contents of tags. Photos whose files or maps have changed
    since are done again.
    """
    jobs = check_integer(jobs, "jobs", minimum=1)
    if jobs > _MOST_JOBS:
        raise ValueError(f"jobs must be at most {_MOST_JOBS}, got {jobs}")
    if limit is not None:
        limit = check_integer(limit, "limit", minimum=1)
    start = time.monotonic()
    plan = _Plan(
        photos=Files(photos, PHOTO_SUFFIXES, "photos"),
        maps=_map_sources(maps),
        masks=None if masks is None else check_path(masks, "masks"),
        recipe=_recipe_name(recipe),
        options=dict(options or {}),
        tags=_tags(tags, classes),
        reading={"format": maps_format, "maps_key": maps_key, "ids_key": ids_key},
    )
    function = recipe if callable(recipe) else load_recipe(recipe)
    _check_options(function, plan.options, plan.recipe, has_masks=masks is not None)
    if jobs > 1 and callable(recipe):
        _check_importable(recipe)
    wanted = _wanted(names, plan)
    part = _check_part(part)
    if part is not None:
        wanted = wanted[part[0] - 1 :: part[1]]
    wanted = wanted[:limit]
    folder_path = check_path(out, "out")
    _check_apart(folder_path, [plan.photos.folder, *(source.path for source in plan.maps)])
    settings = plan.manifest(function)
    if dry_run:
        return _dry_run(plan, function, wanted, folder_path, jobs)
    with OutputFolder(folder_path, settings, part) as folder:
        return _run(plan, function, wanted, folder, jobs, retry_failed, progress, start)


# --------------------------------------------------------------------------- what is to be done


@dataclass(frozen=True)
class _MapSource:
    """A folder of map files, or an archive of many photos."""

    path: Path
    files: Files | None  # None: an archive
    names: frozenset[str]


def _map_sources(maps: PathLike | Sequence[PathLike]) -> list[_MapSource]:
    paths = [maps] if isinstance(maps, str | os.PathLike) else list(maps)
    if not paths:
        raise ValueError("maps must name at least one folder or archive, got none")
    sources = []
    for each in paths:
        path = check_path(each, "maps")
        if path.is_file():
            with io.MapArchive(path) as archive:
                sources.append(_MapSource(path, None, frozenset(archive.names)))
        else:
            files = Files(path, MAP_SUFFIXES, "maps")
            sources.append(_MapSource(path, files, frozenset(files.names())))
    return sources


@dataclass(frozen=True)
class _Plan:
    """The arguments of a run that say what the labels of a photo are."""

    photos: Files
    maps: list[_MapSource]
    masks: Path | None
    recipe: str
    options: dict[str, Any]
    tags: dict[str, tuple[int, ...]] | None
    reading: dict[str, Any]

    def manifest(self, function: Recipe) -> dict[str, Any]:
        """Return all that changes results."""
        tags = None
        if self.tags is not None:
            table = json.dumps(sorted(self.tags.items())).encode()
            tags = hashlib.sha256(table).hexdigest()
        try:
            options = json.loads(json.dumps(self.options))
        except TypeError as error:
            raise TypeError(f"options must be numbers, strings or lists, got: {error}") from None
        return {
            "cuekit": cuekit.__version__,
            "photos": os.fspath(self.photos.folder.resolve()),
            "maps": [os.fspath(source.path.resolve()) for source in self.maps],
            "masks": None if self.masks is None else os.fspath(self.masks.resolve()),
            "reading": self.reading,
            "recipe": self.recipe,
            "recipe_source": _source_hash(function),
            "options": options,
            "tags": tags,
        }

    def worker_settings(self) -> dict[str, Any]:
        """Return what a worker has to know for all photos."""
        return {
            "recipe": self.recipe,
            "options": self.options,
            "reading": self.reading,
            "archives": [os.fspath(s.path) for s in self.maps if s.files is None],
        }

    def item(self, name: str) -> dict[str, Any]:
        """Return what a worker has to know of one photo; raises if something is missing."""
        paths = [self.photos.path(name)]
        maps: list[list[str]] = []
        for source in self.maps:
            if source.files is not None:
                paths.append(source.files.path(name))
                maps.append([os.fspath(paths[-1])])
            elif name in source.names:
                paths.append(source.path)
                maps.append([os.fspath(source.path), name])
            else:
                raise FileNotFoundError(f"{source.path} has no maps of {name}")
        masks = None
        if self.masks is not None:
            paths.append(_masks_of(self.masks, name))
            masks = os.fspath(paths[-1])
        tags = None
        if self.tags is not None:
            if name not in self.tags:
                raise ValueError(f"tags must list every photo, got none for {name}")
            tags = list(self.tags[name])
        stamps = [path.stat() for path in paths]
        return {
            "name": name,
            "photo": os.fspath(paths[0]),
            "maps": maps,
            "masks": masks,
            "tags": tags,
            "inputs": [[stamp.st_size, stamp.st_mtime_ns] for stamp in stamps],
        }


def _masks_of(folder: Path, name: str) -> Path:
    for suffix in _MASK_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder} has no masks of {name}")


def _tags(
    tags: PathLike | Mapping[str, Iterable[int]] | None, classes: Sequence[str]
) -> dict[str, tuple[int, ...]] | None:
    if tags is None:
        return None
    if isinstance(tags, Mapping):
        return {
            name: tuple(sorted(check_integer(each, "tags", minimum=1) for each in set(ids)))
            for name, ids in tags.items()
        }
    return read_tags(tags, classes)


def _wanted(names: PathLike | Iterable[str] | None, plan: _Plan) -> list[str]:
    """Return the names of all photos asked for."""
    with_maps = frozenset[str]().union(*(source.names for source in plan.maps))
    if names is None:
        wanted = sorted(with_maps)
    elif isinstance(names, str | os.PathLike):
        wanted = read_list(names)
    else:
        wanted = [without_suffix(name) for name in names]
        for name in wanted:
            check_name(name, "names")
        if len(set(wanted)) != len(wanted):
            twice = next(name for name, count in Counter(wanted).items() if count > 1)
            raise ValueError(f"names must be distinct, got {twice!r} twice")
    if not any(name in plan.photos and name in with_maps for name in wanted):
        shown = (
            f"photo {next(iter(plan.photos.names()), 'none')!r}, "
            f"maps of {next(iter(sorted(with_maps)), 'none')!r}, "
            f"asked for {next(iter(wanted), 'none')!r}"
        )
        raise ValueError(f"no photo asked for has a photo and maps of its name: first {shown}")
    return wanted


def _check_part(part: tuple[int, int] | None) -> tuple[int, int] | None:
    if part is None:
        return None
    number, count = (check_integer(each, "part", minimum=1) for each in part)
    if number > count:
        raise ValueError(f"part must be i of n with i <= n, got {number} of {count}")
    return number, count


def _check_apart(out: Path, inputs: Iterable[Path]) -> None:
    target = out.resolve()
    for each in inputs:
        source = each.resolve()
        if target == source or source in target.parents or target in source.parents:
            raise ValueError(f"out must be a folder apart from {each}, got {out}")


# ---------------------------------------------------------------------------------- the recipe


def load_recipe(name: str) -> Recipe:
    """Return a recipe of `cuekit.recipes`, or the function that ``"module:function"`` means."""
    module_name, colon, function_name = name.partition(":")
    if not colon:
        from cuekit import recipes

        plain = name.replace("-", "_")
        check_choice(plain, "recipe", tuple(recipes.RECIPES))
        return recipes.RECIPES[plain]
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109 - text, as in sys.path
        sys.path.insert(0, "")  # as `python -m` does; the command has the folder of programs there
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"recipe {name!r} must be a function in a module, got: {error}") from error
    if not callable(found):
        raise TypeError(f"recipe {name!r} must be a function, got {found!r}")
    function: Recipe = found
    return function


def _recipe_name(recipe: str | Recipe) -> str:
    if isinstance(recipe, str):
        return recipe if ":" in recipe else recipe.replace("_", "-")
    if not callable(recipe):
        raise TypeError(f"recipe must be a name or a function, got {recipe!r}")
    module, name = getattr(recipe, "__module__", None), getattr(recipe, "__qualname__", None)
    if not module or not name:
        raise TypeError(f"recipe must be a function with a name, got {recipe!r}")
    return f"{module}:{name}"


def _check_importable(recipe: Recipe) -> None:
    name = _recipe_name(recipe)
    module = sys.modules.get(name.partition(":")[0])
    if name.startswith("__main__:") or getattr(module, recipe.__name__, None) is not recipe:
        raise ValueError(
            f"recipe must be a function of a module for jobs > 1, which worker processes can "
            f"import, got {name}; put it into a file of its own, or pass jobs=1"
        )


def _check_options(recipe: Recipe, options: dict[str, Any], name: str, has_masks: bool) -> None:
    parameters = inspect.signature(recipe).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    for option in options:
        if option not in known or option == "masks":
            raise ValueError(
                f"options must be those of recipe {name}, {', '.join(known) or 'none'}, "
                f"got {option!r}"
            )
    if has_masks and "masks" not in known:
        raise ValueError(f"masks must be given for a recipe that takes them, got recipe {name}")
    needed = [
        each.name
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
        and each.default is each.empty
        and each.name not in options
        and not (each.name == "masks" and has_masks)
    ]
    if needed:
        raise ValueError(f"recipe {name} needs {', '.join(needed)}")


def _source_hash(recipe: Recipe) -> str | None:
    """Return the checksum of the file that a recipe is in; None for cuekit's own."""
    if (getattr(recipe, "__module__", "") or "").startswith("cuekit."):
        return None
    try:
        file = inspect.getsourcefile(recipe)
        content = Path(file).read_bytes() if file and Path(file).is_file() else None
        content = content or inspect.getsource(recipe).encode()
    except (OSError, TypeError):
        raise ValueError(
            f"recipe must be in a file, so that a change of it is noticed, got {recipe!r}"
        ) from None
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------- one photo


class LabelTask:
    """Makes and writes the labels of one photo; made once in every worker."""

    def __init__(self, settings: dict[str, Any], function: Recipe | None = None) -> None:
        self.settings = settings
        self.function = load_recipe(settings["recipe"]) if function is None else function
        self.archives = {path: io.MapArchive(path) for path in settings["archives"]}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return what the journal says of the photo."""
        found = self.make(item)
        data = encode_labels(found)
        self._write(item, data)
        ids, counts = np.unique(found, return_counts=True)
        return {
            "bytes": len(data),
            "crc32": zlib.crc32(data),
            "pixels": dict(zip(map(str, ids.tolist()), counts.tolist(), strict=True)),
        }

    def make(self, item: dict[str, Any]) -> NDArray[Any]:
        """Return the labels of a photo."""
        photo = io.read_photo(item["photo"])
        maps = [self.read(where) for where in item["maps"]]
        for each in maps:
            _check_sizes(each, photo)
        extra = {} if item["masks"] is None else {"masks": io.read_masks(item["masks"])}
        found = self.function(
            photo,
            maps[0] if len(maps) == 1 else maps,
            item["tags"],
            **self.settings["options"],
            **extra,
        )
        return _checked_labels(found, photo)

    def close(self) -> None:
        """Close the archives."""
        for archive in self.archives.values():
            archive.close()

    def read(self, where: list[str]) -> io.Maps:
        """Return the maps of a photo from a file, or from an archive."""
        if len(where) == 2:
            return self.archives[where[0]].read(where[1])
        return io.read_maps(where[0], **self.settings["reading"])

    def _write(self, item: dict[str, Any], data: bytes) -> None:
        target = Path(self.settings["out"]) / f"{item['name']}.png"
        unfinished = Path(self.settings["unfinished"]) / f"{os.getpid()}.png"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(target)
        except OSError as error:  # a full disk, a folder without permission: so for all photos
            raise RunStoppedError(
                error.errno, f"labels cannot be written: {error.strerror}", os.fspath(target)
            ) from error


def _check_sizes(maps: io.Maps, photo: NDArray[np.uint8]) -> None:
    """Refuse maps of another photo, or of a photo that was turned.

    Networks resize photos to squares, or divide both sides by one number and round up or down.
    """
    height, width = photo.shape[:2]
    if maps.photo_size is not None and maps.photo_size != (height, width):
        raise ValueError(
            f"maps must be those of a photo of {height} x {width}, got maps of one of "
            f"{maps.photo_size[0]} x {maps.photo_size[1]}"
        )
    h, w = maps.maps.shape[-2:]
    # The strides that would give h and w, up to one cell.
    least = max(height / (h + 1), width / (w + 1))
    most = min(height / max(h - 1, 0.5), width / max(w - 1, 0.5))
    if h != w and least > most:
        raise ValueError(
            f"maps must have the proportions of the photo, {height} x {width}, or be square, "
            f"got {h} x {w}"
        )


def _checked_labels(found: Any, photo: NDArray[np.uint8]) -> NDArray[Any]:
    array = np.asarray(found)
    if array.shape != photo.shape[:2] or array.dtype.kind not in "iu":
        raise ValueError(
            f"a recipe must return integers of shape {photo.shape[:2]}, "
            f"got {array.dtype} {array.shape}"
        )
    return array


# --------------------------------------------------------------------------------- the run


def _run(
    plan: _Plan,
    function: Recipe,
    wanted: list[str],
    folder: OutputFolder,
    jobs: int,
    retry_failed: bool,
    shows_progress: bool,
    start: float,
) -> LabelRun:
    settings = {
        **plan.worker_settings(),
        "out": os.fspath(folder.path),
        "unfinished": os.fspath(folder.unfinished),
    }
    task: Any = _TASK
    if jobs == 1:
        task = partial(LabelTask, function=function)
    pixels: Counter[int] = Counter()
    written = kept = failed = 0
    progress = Progress(len(wanted), shown=shows_progress)

    def fail(name: str, reason: str, inputs: list[list[int]] | None) -> None:
        nonlocal failed
        failed += 1
        folder.record(name, state="failed", reason=reason, inputs=inputs)
        progress.add(failed=True)
        if failed <= _SHOWN_FAILURES:
            progress.note(f"{name} failed: {reason}")

    def left() -> Iterator[dict[str, Any]]:
        """Yield the photos that are to be done; count the others."""
        nonlocal kept
        for name in wanted:
            try:
                item = plan.item(name)
            except (OSError, ValueError) as error:
                fail(name, describe(error), None)
                continue
            if folder.is_done(name, item["inputs"]):
                kept += 1
                pixels.update(_by_class(folder.pixels(name)))
                progress.add()
            elif folder.has_failed(name, item["inputs"]) and not retry_failed:
                progress.add(failed=True)
            else:
                yield item

    try:
        with contextlib.closing(run_all(task, settings, left(), jobs)) as results:
            for item, result in results:
                if "failed" in result:
                    fail(item["name"], result["failed"], item["inputs"])
                    continue
                folder.record(item["name"], state="done", inputs=item["inputs"], **result)
                written += 1
                pixels.update(_by_class(result["pixels"]))
                progress.add()
    finally:
        progress.close()
        folder.write_failures(wanted)
    failures = folder.failures_of(wanted)
    seconds = time.monotonic() - start
    return LabelRun(folder.path, len(wanted), written, kept, failures, dict(pixels), seconds)


def _by_class(pixels: Mapping[str, int]) -> dict[int, int]:
    return {int(class_id): count for class_id, count in pixels.items()}


# --------------------------------------------------------------------------------- a dry run


def _dry_run(plan: _Plan, function: Recipe, wanted: list[str], folder: Path, jobs: int) -> DryRun:
    """Look at all that is there, and make labels of some photos without writing them."""
    failing: dict[str, str] = {}
    items = []
    for name in wanted:
        try:
            items.append(plan.item(name))
        except (OSError, ValueError) as error:
            failing[name] = describe(error)
    journal = OutputFolder(folder, plan.manifest(function), None)
    journal.look()
    pending = [item for item in items if not journal.is_done(item["name"], item["inputs"])]
    samples: dict[str, str] = {}
    seconds, nbytes = [], []
    with contextlib.closing(LabelTask(plan.worker_settings(), function)) as task:
        example = _example(task, items)
        for item in pending[:: max(len(pending) // _SAMPLES, 1)][:_SAMPLES]:
            start = time.monotonic()
            try:
                found = task.make(item)
            except Exception as error:  # whatever a recipe raises
                failing[item["name"]] = describe(error)
                continue
            seconds.append(time.monotonic() - start)
            nbytes.append(len(encode_labels(found)))
            classes = ", ".join(map(str, np.unique(found).tolist()))
            samples[item["name"]] = f"labels {classes} in {seconds[-1]:.2f} s"
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return DryRun(
        photos=len(wanted),
        done=len(items) - len(pending),
        failing=failing,
        unused=len(set(plan.photos.names()) - set(wanted)),
        example=example,
        samples=samples,
        seconds=len(pending) * float(np.median(seconds or [0])),
        nbytes=len(pending) * float(np.mean(nbytes or [0])),
        free=shutil.disk_usage(place).free,
        jobs=jobs,
    )


def _example(task: LabelTask, items: list[dict[str, Any]]) -> str:
    """Say what a file of maps holds."""
    if not items:
        return "none"
    where = items[0]["maps"][0]
    try:
        maps = task.read(where)
    except (OSError, ValueError) as error:
        return describe(error)
    values = f"values {maps.maps.min():.3g} to {maps.maps.max():.3g}" if maps.maps.size else "none"
    return (
        f"{' of '.join(reversed(where))} has format {maps.format}, {maps.maps.dtype} "
        f"{maps.maps.shape}, class ids {maps.class_ids.tolist()}, {values}, "
        f"{'no background' if maps.background is None else 'a background map'}"
        f"{'' if maps.features is None else ', features'}"
    )
