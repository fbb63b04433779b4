"""Files in one format -> files in another: the runs behind `cuekit convert`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

import cuekit
from cuekit import io
from cuekit._checks import check_choice, check_integer, check_size, check_switch
from cuekit.classes import COCO, class_names, coco_to_contiguous
from cuekit.io._common import PathLike, check_path
from cuekit.io.coco import check_classes
from cuekit.run._label_task import check_sizes
from cuekit.run._plan import check_apart, map_sources
from cuekit.run._progress import Progress, duration
from cuekit.run._sources import (
    PHOTO_SUFFIXES,
    Files,
    check_name,
    listed_names,
    without_suffix,
)
from cuekit.run._storage import is_shard, label_files, local_file
from cuekit.run._workers import RunStoppedError, describe, run_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

LabelFormat: TypeAlias = Literal["png", "colours", "coco", "coco-panoptic", "label-studio"]

_TASK = "cuekit.run._convert:MapTask"
_SHOWN_FAILURES = 10
_MARKER = ".convert.json"  # in a folder that was written, with the arguments


@dataclass(frozen=True)
class Conversion:
    """What `convert_maps` or `convert_labels` did; `str` of it is a report.

    Attributes
    ----------
    out : Path
        What was written.
    written : int
        Number of photos.
    failed : dict of str to str
        Photos that were left out, and why.
    bytes_before, bytes_after : int
        Sizes of the files that were read, and of those that were written.
    seconds : float
        How long it took.
    """

    out: Path
    written: int
    failed: dict[str, str]
    bytes_before: int
    bytes_after: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.written} written, {len(self.failed)} failed in {duration(self.seconds)}: "
            f"{self.out}\n{_megabytes(self.bytes_before)} before, "
            f"{_megabytes(self.bytes_after)} after"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def convert_maps(
    maps: PathLike,
    out: PathLike,
    *,
    names: PathLike | Iterable[str] | None = None,
    photos: PathLike | None = None,
    stride: int | None = None,
    size: tuple[int, int] | None = None,
    encoding: Literal["uint8", "float16"] = "uint8",
    maps_format: str = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Conversion:
    """Write somebody's activation maps as small files of cuekit's, one for each photo.

    A file that cannot be read is listed, and the others are written. All files are complete
    whenever the run is stopped.

    Parameters
    ----------
    maps : str or path-like
        A folder with a file of maps for each photo, in any format of `read_maps`, or an archive,
        see `MapArchive`.
    out : str or path-like
        A folder, which is made: NAME.npz for each photo, see `write_maps`. It must be apart from
        `maps`.
    names : path, or iterable of str, optional
        A text file with names of photos, or the names. Default: all.
    photos : str or path-like, optional
        The folder of the photos. Their sizes are written beside the maps.
    stride : int, optional
        Resize maps to one value for every stride x stride pixels of the photo. The size of the
        photo must be known, from `photos` or from the file.
    size : (int, int), optional
        Resize all maps to this height and width. Without `stride` and `size`, and where a side is
        smaller already, maps keep theirs.
    encoding : {"uint8", "float16"}, default "uint8"
        As in `write_maps`.
    maps_format, maps_key, ids_key : str, optional
        As `format`, `maps_key` and `ids_key` in `read_maps`.
    jobs : int, default 1
        Number of processes.
    progress : bool, default False
        Show how far it is, on standard error.

    Returns
    -------
    Conversion

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described above, or there are no maps.
    OSError
        If a folder cannot be read or written.
    """
    start = time.monotonic()
    source, folder = check_path(maps, "maps"), check_path(out, "out")
    check_apart(folder, [source])
    if stride is not None and size is not None:
        raise ValueError("stride and size must not be given both")
    settings = {
        "out": os.fspath(folder),
        "archive": os.fspath(source) if source.is_file() else None,
        "stride": None if stride is None else check_integer(stride, "stride", minimum=1),
        "size": None if size is None else check_size(size, "size"),
        "encoding": check_choice(encoding, "encoding", ("uint8", "float16")),
        "reading": {"format": maps_format, "maps_key": maps_key, "ids_key": ids_key},
    }
    jobs = check_integer(jobs, "jobs", minimum=1)
    (found,) = map_sources(source)
    files = found.files
    pictures = None if photos is None else Files(photos, PHOTO_SUFFIXES, "photos")
    wanted = _wanted(names, found.names(), source)
    report = _Report(len(wanted), progress)

    def items() -> Iterator[dict[str, Any]]:
        for name in wanted:
            try:
                path = "" if files is None else os.fspath(files.path(name))
                photo = None if pictures is None else os.fspath(pictures.path(name))
            except (OSError, ValueError) as error:
                report.fail(name, error)
            else:
                yield {"name": name, "path": path, "photo": photo}

    _claim(folder, {**settings, "maps": os.fspath(source.resolve())})
    before = source.stat().st_size if files is None else 0
    after = 0
    with (
        contextlib.closing(report),
        # What is not complete is here, and is removed, if workers are ended.
        tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished,
        contextlib.closing(
            run_all(_TASK, {**settings, "unfinished": unfinished}, items(), jobs)
        ) as results,
    ):
        for item, result in results:
            if "failed" in result:
                report.fail(item["name"], result["failed"])
            else:
                report.add()
                before += result["before"]
                after += result["after"]
    seconds = time.monotonic() - start
    return Conversion(folder, report.written, report.failed, before, after, seconds)


class MapTask:
    """Converts the maps of one photo; made once in every worker."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        path = settings["archive"]
        self._archive = None if path is None else io.MapArchive(path)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the sizes of the two files."""
        if self._archive is None:
            found = io.read_maps(item["path"], **self._settings["reading"])
            before = Path(item["path"]).stat().st_size
        else:
            found = self._archive.read(item["name"])
            before = 0  # the archive is counted once
        if item["photo"] is not None:
            photo = io.read_photo(item["photo"])
            check_sizes(found, photo)
            found = dataclasses.replace(found, photo_size=photo.shape[:2])
        size, photo_size = self._sizes(found)
        target = Path(self._settings["out"]) / f"{item['name']}.npz"
        arguments = {
            "background": None
            if found.background is None
            else _resized(found.background[None], size)[0],
            "features": found.features,
            "photo_size": photo_size,
            "encoding": self._settings["encoding"],
            "provenance": found.provenance or f"converted from format {found.format}",
        }
        maps = _resized(found.maps, size)
        unfinished = Path(self._settings["unfinished"]) / f"{os.getpid()}.npz"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            io.write_maps(unfinished, maps, found.class_ids, **arguments)
            unfinished.replace(target)
        except OSError as error:  # a full disk, a folder without permission: so for all photos
            raise RunStoppedError(
                error.errno, f"maps cannot be written: {error.strerror}", os.fspath(target)
            ) from error
        return {"before": before, "after": target.stat().st_size}

    def close(self) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()

    def _sizes(self, found: io.Maps) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Return the size that the maps get, and that of the photo, if it is known."""
        height, width = found.maps.shape[1:]
        photo_size = found.photo_size
        stride, size = self._settings["stride"], self._settings["size"]
        if stride is not None:
            if photo_size is None:
                raise ValueError(
                    f"the size of the photo must be known for a stride, got maps of "
                    f"{height} x {width} and no size: pass --photos (photos=), or --size (size=)"
                )
            size = [-(-side // stride) for side in photo_size]
        if size is None:
            return (height, width), photo_size
        return (min(height, size[0]), min(width, size[1])), photo_size


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder, or take one that an earlier call with the same settings has written."""
    settings = {key: value for key, value in settings.items() if key != "out"}
    text = json.dumps(settings, indent=2, default=str) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    if marker.exists():
        if marker.read_text(encoding="utf-8") != text:
            raise ValueError(
                "out must be a new folder, or that of an earlier call with the same arguments, "
                f"got {folder}, which was written with others"
            )
    elif any(folder.iterdir()):
        raise ValueError(
            f"out must be a new or empty folder, or that of an earlier call, got {folder} with "
            f"{next(folder.iterdir()).name}"
        )
    else:
        marker.write_text(text, encoding="utf-8")


def _check_json(target: Path) -> None:
    """Refuse to write over a file that is no JSON, such as a photo or a list."""
    if target.suffix.lower() != ".json":
        raise ValueError(f"out must be the name of a .json file, got {target}")


def _resized(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if maps.shape[1:] == size:
        return maps
    if maps.dtype == bool:
        return cuekit.resize_cues(maps, size, rule="half")
    return cuekit.resize_maps(maps, size)


def convert_labels(
    labels: PathLike,
    out: PathLike,
    to: LabelFormat = "png",
    *,
    names: PathLike | Iterable[str] | None = None,
    classes: str | os.PathLike[str] | Sequence[str] = "voc",
    colours: Any = None,
    official_ids: bool = False,
    overlap: Literal["later", "smaller"] = "later",
    crowds: Literal["background", "class", "ignore"] = "background",
    photo_suffix: str = ".jpg",
    url: str = "",
    progress: bool = False,
) -> Conversion:
    """Write label images, or the truth in an instances JSON of COCO's, in another format.

    A photo whose labels cannot be read is listed, and the others are written. All files are
    complete whenever the run is stopped.

    Parameters
    ----------
    labels : str or path-like
        A folder with a label image NAME.png for each photo, or with tars of them that `labels`
        wrote; or an instances JSON.
    out : str or path-like
        What is written. It must be apart from `labels`.
    to : str, default "png"
        ==================  =====================================================================
        "png"               folder of NAME.png with class ids and the PASCAL VOC palette
        "colours"           folder of NAME.png in the PASCAL VOC colours (RGB), with the
                            ``labelmap.txt`` that CVAT and Datumaro want beside them
        "coco"              an instances JSON, see `write_coco`
        "coco-panoptic"     a panoptic JSON, and PNGs beside it, see `write_coco_panoptic`
        "label-studio"      a JSON of tasks, see `write_label_studio`
        ==================  =====================================================================

    names : path, or iterable of str, optional
        A text file with names of photos, or the names. Default: all.
    classes : {"voc", "coco"}, path or sequence of str, default "voc"
        The names of the classes, as for `class_names`. An instances JSON has its own.
    colours : "voc" or (K, 3) array of uint8, optional
        Read RGB images with these colours, see `read_labels`.
    official_ids : bool, default False
        The label images have COCO's official ids, 0 to 90; the ids become 0 to 80.
    overlap, crowds : str, optional
        How objects of an instances JSON become labels, see `CocoTruth.labels`.
    photo_suffix : str, default ".jpg"
        What photos' files end with, for formats that name them. An instances JSON names them.
    url : str, default ""
        As in `write_label_studio`.
    progress : bool, default False
        Show how far it is, on standard error.

    Returns
    -------
    Conversion

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described above, or there are no labels.
    OSError
        If a file or folder cannot be read or written.
    """
    start = time.monotonic()
    source, target = check_path(labels, "labels"), check_path(out, "out")
    check_choice(to, "to", get_args(LabelFormat))
    check_switch(official_ids, "official_ids")
    for each in [target, target.with_suffix("")] if to == "coco-panoptic" else [target]:
        check_apart(each, [source])
    if source.is_file() and not is_shard(source):
        reader: _TruthLabels | _FolderLabels = _TruthLabels(source, overlap, crowds)
    else:
        reader = _FolderLabels(source, classes, colours, official_ids, photo_suffix)
    wanted = _wanted(names, reader.names, source)
    report = _Report(len(wanted), progress)

    def photos() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield what can be read; report the rest."""
        for name in wanted:
            try:
                pair = reader.read(name)
                check_classes(pair[1], f"{source}, {name}: labels", reader.classes)
            except (OSError, ValueError) as error:
                report.fail(name, error)
            else:
                yield pair
                report.add()

    settings = {
        "labels": os.fspath(source.resolve()),
        "to": to,
        "classes": list(reader.classes),
        "colours": None if colours is None else np.asarray(colours).tolist(),
        "official_ids": official_ids,
        "rules": [overlap, crowds],
    }
    if to in ("png", "colours"):
        _claim(target, settings)
    else:
        _check_json(target)
    if to == "coco-panoptic":
        _claim(target.with_suffix(""), settings)
    with contextlib.closing(report):
        after = _write_labels(photos(), target, to, reader.classes, url)
    seconds = time.monotonic() - start
    return Conversion(target, report.written, report.failed, reader.bytes, after, seconds)


class _FolderLabels:
    """Label images of a folder."""

    def __init__(
        self, source: Path, classes: Any, colours: Any, official_ids: bool, photo_suffix: str
    ) -> None:
        self._files = label_files(source)
        self._colours = colours
        self._official_ids = official_ids
        self._photo_suffix = photo_suffix
        self.names = self._files.names()
        self.classes = COCO if official_ids else class_names(classes)
        self.bytes = 0

    def read(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        path = self._files.path(name)
        self.bytes += path.stat().st_size
        with local_file(os.fspath(path)) as file:
            labels = io.read_labels(file, colours=self._colours)
        if self._official_ids:
            labels = coco_to_contiguous(labels)
        return name + self._photo_suffix, labels


class _TruthLabels:
    """Labels of an instances JSON."""

    def __init__(self, source: Path, overlap: Any, crowds: Any) -> None:
        self._truth = io.read_coco(source)
        self._rules = {"overlap": overlap, "crowds": crowds}
        self._photos = {without_suffix(each.file_name): each for each in self._truth.photos}
        for name in self._photos:
            check_name(name, os.fspath(source))
        if len(self._photos) != len(self._truth.photos):
            raise ValueError(f"{source}: photos must have distinct names, got some twice")
        self.names = list(self._photos)
        self.classes = self._truth.classes
        self.bytes = source.stat().st_size

    def read(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        if name not in self._photos:
            raise ValueError(f"the JSON must have the photo, got none named {name}")
        photo = self._photos[name]
        return photo.file_name, self._truth.labels(photo.id, **self._rules)


def _write_labels(
    photos: Iterator[tuple[str, NDArray[np.uint8]]],
    target: Path,
    to: LabelFormat,
    classes: tuple[str, ...],
    url: str,
) -> int:
    """Write the photos, and return the number of bytes."""
    if to in ("png", "colours"):
        write = io.write_labels if to == "png" else io.write_colours
        total = 0
        for file_name, labels in photos:
            path = target / f"{without_suffix(file_name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, labels)
            total += path.stat().st_size
        if to == "colours":
            io.write_labelmap(target / "labelmap.txt", classes)
            total += (target / "labelmap.txt").stat().st_size
        return total
    if to == "coco":
        io.write_coco(target, photos, classes)
    elif to == "label-studio":
        io.write_label_studio(target, photos, classes, url=url)
    else:
        io.write_coco_panoptic(target, photos, classes)
    pictures = target.with_suffix("").glob("*.png") if to == "coco-panoptic" else ()
    return sum(path.stat().st_size for path in (target, *pictures))


class _Report:
    """Counts photos, and shows how far it is."""

    def __init__(self, total: int, shown: bool) -> None:
        self.written = 0
        self.failed: dict[str, str] = {}
        self._progress = Progress(total, shown=shown)

    def add(self) -> None:
        self.written += 1
        self._progress.add()

    def fail(self, name: str, reason: BaseException | str) -> None:
        self.failed[name] = reason if isinstance(reason, str) else describe(reason)
        self._progress.add(failed=True)
        if len(self.failed) <= _SHOWN_FAILURES:
            self._progress.note(f"{name} failed: {self.failed[name]}")

    def close(self) -> None:
        self._progress.close()


def _wanted(
    names: PathLike | Iterable[str] | None, there: Sequence[str], source: Path
) -> list[str]:
    """Return the names of all photos asked for."""
    if not there:
        raise ValueError(f"{source} must have files of at least one photo, got none")
    if names is None:
        return list(there)
    return listed_names(names)
