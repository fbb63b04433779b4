"""A page with pictures of a run: photos, maps, labels and truth."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_integer, check_switch
from cuekit.classes import class_names
from cuekit.felzenszwalb import felzenszwalb
from cuekit.io import MapArchive, Maps, read_labels, read_maps, read_photo
from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.io.maps import Format
from cuekit.metrics import confusion_matrix, iou, mean_iou
from cuekit.run._beside import read_curve, read_tables
from cuekit.run._evaluation import averaged_text
from cuekit.run._label_task import check_sizes
from cuekit.run._page import GENERATOR, Class, Curve, Entry, Report, Table, page, percent
from cuekit.run._pairs import (
    check_class_ids,
    class_ids_of,
    refuse_nothing,
    truth_notes,
)
from cuekit.run._panels import (
    UNKNOWN,
    ContactSheet,
    Panel,
    draw_heat,
    draw_labels,
    draw_superpixels,
    thumbnail,
)
from cuekit.run._progress import Progress
from cuekit.run._sources import MAP_SUFFIXES, PHOTO_SUFFIXES, Files, listed_names
from cuekit.run._storage import label_files, local_file
from cuekit.run._workers import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_SHOWN = 200  # photos on a page: each takes about 0.15 MB
_MOST_MAPS = 6  # of a photo
_MOST_PROBLEMS = 200  # listed on the page


@dataclass(frozen=True)
class View:
    """What `view` wrote.

    Attributes
    ----------
    page : Path
        The page.
    photos : int
        Number of photos that were counted: those whose labels, and truth if given, were read.
    shown : tuple of str
        Names of the photos with pictures, in the page's order.
    mean_iou : tuple of float
        Of each set of labels; empty without a truth.
    failed : dict of str to str
        Photos with a file that is missing or damaged, and what is wrong.
    """

    page: Path
    photos: int
    shown: tuple[str, ...]
    mean_iou: tuple[float, ...]
    failed: dict[str, str]

    def __str__(self) -> str:
        means = "".join(f", mIoU {percent(mean)}" for mean in self.mean_iou)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.page}: {len(self.shown)} of {self.photos} photos shown{means}{failed}"


def view(
    photos: PathLike,
    labels: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    truth: PathLike | None = None,
    maps: PathLike | None = None,
    names: PathLike | Iterable[str] | None = None,
    classes: PathLike | Sequence[str] = "voc",
    mean_over: Iterable[int | str] | None = None,
    maps_format: Format = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    count: int = 24,
    superpixels: bool = False,
    sweep: PathLike | None = None,
    png: PathLike | None = None,
    progress: bool = False,
) -> View:
    """Write a page with pictures of photos, their labels, truth and activation maps.

    The page is one HTML file with all pictures in it. It has no script and loads nothing.

    Parameters
    ----------
    photos : str or path-like
        Folder of photos.
    labels : str or path-like, or sequence of them
        Folders of label PNGs, see `cuekit.io.read_labels`, or of tars of them that `labels` wrote.
        Labels of a photo have its name. Photos are chosen by the first folder, and compared with
        the second.
    out : str or path-like
        The page, a file ``.html``. An existing file is replaced only if it is a page of `view`.
    truth : str or path-like, optional
        Folder of label PNGs with the true classes; 255 = left out.
    maps : str or path-like, optional
        Folder of files that `cuekit.io.read_maps` reads, or a file for `cuekit.io.MapArchive`.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos (`read_list`), or their names. Default: all in the first
        folder of labels.
    classes : {"voc", "coco"}, str, path-like or sequence of str, default "voc"
        The classes, as for `cuekit.classes.class_names`.
    mean_over : iterable of str or int, optional
        Names or ids of the classes that mean IoU is taken over. Default: all. The other classes
        stay in the matrix: to confuse a class with them is still a mistake.
    maps_format, maps_key, ids_key : str, optional
        How maps are read: `format` and the keys of `cuekit.io.read_maps`.
    count : int, default 24
        How many photos are shown, at most 200. With a truth: a half of them are those with the
        lowest mean IoU in the first set of labels, the others those with the highest; with several
        sets, a third, and a third are those whose mean IoU differs most between the first two.
        Without: evenly spaced ones.
    superpixels : bool, default False
        Show borders of superpixels, `felzenszwalb` with its default parameters.
    sweep : str or path-like, optional
        A file of ``cuekit sweep --json``, whose curve is shown.
    png : str or path-like, optional
        A picture with the same panels to write, a file ``.png``. An existing file is replaced only
        if it is such a picture.
    progress : bool, default False
        Show progress on standard error.

    Returns
    -------
    View

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described above; or if no photo has all of its files. What is wrong
        with single photos is no error: it is shown on the page and listed in the result.
    OSError
        If a folder cannot be read or a file not be written.

    Notes
    -----
    Mean IoU is that of one confusion matrix of all photos, as `evaluate` counts it: truth 255 is
    left out, 255 in labels counts as background, a class in neither of them is left out of the
    mean. A photo's mean IoU is that of its own matrix. Photos without one of their files are not
    counted, so that several sets of labels are compared on the same photos.

    All labels and truths are read once, one after the other; photos and maps only of those shown.
    """
    count = check_integer(count, "count", minimum=1)
    if count > _MOST_SHOWN:
        raise ValueError(f"count must be at most {_MOST_SHOWN}, got {count}")
    superpixels = check_switch(superpixels, "superpixels")
    page_path = _check_output(out, "out", (".html", ".htm"))
    png_path = None if png is None else _check_output(png, "png", (".png",))
    curve = None if sweep is None else read_curve(check_path(sweep, "sweep"))
    reading = {"format": maps_format, "maps_key": maps_key, "ids_key": ids_key}
    with _Request(photos, labels, truth, maps, reading, names, classes, mean_over) as request:
        if png_path:
            _check_apart(png_path, request)
        totals = _count(request, progress)
        chosen = _choose(request, totals, count)
        title = f"Labels in {' and '.join(request.sets)}"
        contact = ContactSheet(title) if png_path else None
        groups = []
        for heading, chosen_names in chosen:
            entries = []
            for name in chosen_names:
                entry = _entry(request, name, superpixels=superpixels)
                if entry.notes:
                    totals.failed[name] = "; ".join(entry.notes)
                entries.append(entry)
                if contact:
                    contact.add(" ".join((f"{heading}: {name}", *entry.scores)), entry.panels)
            groups.append((heading, entries))
    report = _report(request, totals, groups, curve, title)
    with replace_file(page_path) as file:
        # A name may hold bytes that are no text; `page` has replaced such characters.
        file.writelines(part.encode() for part in page(report))
    if contact and png_path:
        _write_png(png_path, contact, request, totals)
    return View(
        page=page_path,
        photos=totals.photos,
        shown=tuple(name for _, chosen_names in chosen for name in chosen_names),
        mean_iou=tuple(report.means),
        failed=totals.failed,
    )


class _Request:
    """The files asked for. It is a context manager, for an archive of maps stays open."""

    def __init__(
        self,
        photos: PathLike,
        labels: PathLike | Sequence[PathLike],
        truth: PathLike | None,
        maps: PathLike | None,
        reading: dict[str, Any],
        names: PathLike | Iterable[str] | None,
        classes: PathLike | Sequence[str],
        mean_over: Iterable[int | str] | None,
    ) -> None:
        folders = [labels] if isinstance(labels, str | os.PathLike) else list(labels)
        if not folders:
            raise ValueError("labels must be at least one folder, got none")
        paths = [check_path(folder, "labels") for folder in folders]
        if len({path.resolve() for path in paths}) < len(paths):
            raise ValueError(f"labels must be different folders, got {', '.join(map(str, paths))}")
        self.labels = [label_files(path) for path in paths]
        short = [path.resolve().name for path in paths]
        self.sets = short if len(set(short)) == len(short) else [str(path) for path in paths]
        self.photos = Files(check_path(photos, "photos"), PHOTO_SUFFIXES, "photos")
        self.truth = None
        if truth is not None:
            self.truth = label_files(check_path(truth, "truth"), "truth")
        self.class_names = class_names(classes)
        self.averaged = class_ids_of(mean_over, self.class_names)
        self.names = self.labels[0].names() if names is None else listed_names(names)
        if not self.names:
            raise ValueError(f"{paths[0]}: a folder of labels must hold PNG files, got none")
        # Last, because it opens a file.
        self.maps = None if maps is None else _MapFiles(check_path(maps, "maps"), reading)

    def __enter__(self) -> _Request:
        return self

    def __exit__(self, *_: object) -> None:
        if self.maps:
            self.maps.close()

    def class_name(self, class_id: int) -> str:
        """Return what a label means."""
        if class_id == UNKNOWN:
            return "unknown"
        # Maps may have classes without a name; labels are checked.
        return dict(enumerate(self.class_names)).get(class_id, f"class {class_id}")

    def check_there(self, name: str) -> None:
        """Raise an error if a file of a photo is missing."""
        for files in (self.photos, *self.labels, self.truth, self.maps):
            if files is not None and name not in files:
                raise FileNotFoundError(f"{files.folder} has no {files.kind} of {name}")

    def read(self, files: Files, name: str) -> NDArray[np.uint8]:
        """Read labels or truth, and check the classes."""
        with local_file(os.fspath(files.path(name))) as path:
            labels = read_labels(path)
        check_class_ids(labels, f"{files.kind} of {name}", self.class_names)
        return labels


class _MapFiles:
    """Activation maps by name, of a folder or of an archive."""

    kind = "maps"

    def __init__(self, path: Path, reading: dict[str, Any]) -> None:
        self.folder = path
        self._reading = reading
        self._source: Files | MapArchive
        if path.is_file():
            self._source = MapArchive(path)
            self._names = frozenset(self._source.names)
        else:
            self._source = Files(path, MAP_SUFFIXES, self.kind)
            self._names = frozenset(self._source.names())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> Maps:
        """Read the maps of a photo."""
        if isinstance(self._source, MapArchive):
            return self._source.read(name)
        return read_maps(self._source.path(name), **self._reading)

    def close(self) -> None:
        """Close the archive."""
        if isinstance(self._source, MapArchive):
            self._source.close()


def _check_output(path: PathLike, name: str, suffixes: tuple[str, ...]) -> Path:
    """Refuse to replace a file that is not of `view`, before any work is done."""
    file_path = check_path(path, name)
    if file_path.suffix.lower() not in suffixes:
        raise ValueError(f"{name} must be a file {' or '.join(suffixes)}, got {file_path}")
    if not file_path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file_path.parent))
    if file_path.exists():
        start = b""
        if file_path.is_file():  # not a pipe, from which nothing may ever come
            with file_path.open("rb") as file:
                start = file.read(1024)
        if GENERATOR.encode() not in start:
            raise ValueError(
                f"{name} must be a new file, or one that cuekit view has written, to be replaced; "
                f"got {file_path}, which is something else"
            )
    return file_path


def _check_apart(png: Path, request: _Request) -> None:
    """Refuse a picture where it would be taken for a photo or a label image the next time."""
    for files in (request.photos, *request.labels, request.truth):
        if files is not None and png.resolve().is_relative_to(files.folder.resolve()):
            raise ValueError(f"png must not be in a folder of {files.kind}, got {png}")


# ------------------------------------------------------------------------- first pass: all photos


@dataclass
class _Totals:
    """What is counted over all photos, for each set of labels."""

    matrices: NDArray[np.int64]  # (sets, K, K) for K classes
    pixels: NDArray[np.int64]  # (sets, 256) of each label
    photos_with: NDArray[np.int64]  # (256,) photos whose truth, or labels without one, have a class
    photos: int = 0
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)  # mean IoU by name
    failed: dict[str, str] = field(default_factory=dict)
    left_out: int = 0  # pixels whose truth is 255


def _count(request: _Request, shows_progress: bool) -> _Totals:
    sets, classes = len(request.labels), len(request.class_names)
    totals = _Totals(
        np.zeros((sets, classes, classes), np.int64),
        np.zeros((sets, 256), np.int64),
        np.zeros(256, np.int64),
    )
    with contextlib.closing(Progress(len(request.names), shows_progress)) as progress:
        for name in request.names:
            try:
                _count_photo(request, name, totals)
            except (ValueError, OSError) as error:
                totals.failed[name] = describe(error)
            progress.add(failed=name in totals.failed)
    refuse_nothing(totals.photos, totals.failed)
    return totals


@dataclass(frozen=True)
class _Labels:
    """Labels and truth of a photo, and a confusion matrix for each set of labels."""

    sets: Sequence[NDArray[np.uint8]]
    true: NDArray[np.uint8] | None
    matrices: NDArray[np.int64] | None  # (sets, K, K); None without a truth


def _read(request: _Request, name: str) -> _Labels:
    request.check_there(name)
    sets = [request.read(files, name) for files in request.labels]
    if request.truth is None:
        return _Labels(sets, None, None)
    true = request.read(request.truth, name)
    return _Labels(sets, true, np.array([_matrix(request, true, labels) for labels in sets]))


def _count_photo(request: _Request, name: str, totals: _Totals) -> None:
    found = _read(request, name)
    pixels = np.array([np.bincount(labels.ravel(), minlength=256) for labels in found.sets])
    present = pixels[0]
    # From here on nothing fails: a photo is counted wholly, or not at all.
    totals.scores[name] = ()
    if found.true is not None and found.matrices is not None:
        present = np.bincount(found.true.ravel(), minlength=256)
        totals.matrices += found.matrices
        totals.left_out += int(present[UNKNOWN])
        totals.scores[name] = tuple(mean_iou(found.matrices, request.averaged).tolist())
    totals.pixels += pixels
    totals.photos_with += present > 0
    totals.photos += 1


def _matrix(
    request: _Request, true: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> NDArray[np.int64]:
    if labels.shape != true.shape:
        raise ValueError(
            f"labels must have the size of the truth, {_size(true)}, got {_size(labels)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one photo's truth: `truth_notes` looks at all
        return confusion_matrix(true, labels, len(request.class_names))


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _choose(request: _Request, totals: _Totals, count: int) -> list[tuple[str, list[str]]]:
    """Return groups of names, each with a heading."""
    names = list(totals.scores)
    if not request.truth:
        places = np.rint(np.linspace(0, len(names) - 1, min(count, len(names)))).astype(int)
        return [(f"{len(places)} of {len(names)} photos", [names[place] for place in places])]
    known = [name for name in names if not math.isnan(totals.scores[name][0])]
    ranked = sorted(known, key=lambda name: totals.scores[name][0])
    if len(ranked) <= count:
        return [("Photos, lowest IoU first", ranked)]
    parts = 2 if len(request.labels) == 1 else 3
    best = max(1, count // parts) if count > 1 else 0
    changed = []
    if parts == 3:
        by_change = sorted(
            (name for name in known if not math.isnan(totals.scores[name][1])),
            key=lambda name: -abs(totals.scores[name][1] - totals.scores[name][0]),
        )
        changed = by_change[: count // parts]
    worst = [name for name in ranked if name not in changed][: count - best - len(changed)]
    left = [name for name in reversed(ranked) if name not in changed and name not in worst]
    groups = [("Lowest IoU", worst), ("Highest IoU", left[:best])]
    if changed:
        heading = f"Largest difference between {request.sets[0]} and {request.sets[1]}"
        groups.append((heading, changed))
    return [(heading, chosen) for heading, chosen in groups if chosen]


# ------------------------------------------------------------------- second pass: photos shown


def _entry(request: _Request, name: str, *, superpixels: bool) -> Entry:
    """Draw the panels of a photo; what cannot be read is noted."""
    try:
        found = _read(request, name)
    except (ValueError, OSError) as error:  # it was there a moment ago
        return Entry(name, notes=[describe(error)])
    entry = Entry(name, _scores(request, found), _classes(request, found))
    notes, sets = entry.notes, found.sets
    try:
        photo = read_photo(request.photos.path(name))
    except (ValueError, OSError) as error:
        notes.append(describe(error))
        return entry
    small = thumbnail(photo)
    panels = [Panel("photo", f"photo {name}", small)]
    captions = ["labels"] if len(sets) == 1 else request.sets
    overlays = list(zip(captions, sets, strict=True))
    if found.true is not None:
        overlays.append(("truth", found.true))
    for caption, labels in overlays:
        if labels.shape != photo.shape[:2]:
            notes.append(
                f"{caption} must have the photo's size, {_size(photo)}, got {_size(labels)}"
            )
            continue
        there = ", ".join(request.class_name(each) for each in np.unique(labels).tolist())
        panels.append(Panel(caption, f"{caption} of {name}: {there}", draw_labels(small, labels)))
    if superpixels:
        segments = felzenszwalb(photo)
        caption = f"{int(segments.max()) + 1} superpixels"
        panels.append(Panel(caption, f"{caption} of {name}", draw_superpixels(small, segments)))
    try:
        panels += _map_panels(request, name, photo, small)
    except (ValueError, OSError) as error:
        notes.append(describe(error))
    entry.panels = panels
    return entry


def _map_panels(
    request: _Request, name: str, photo: NDArray[np.uint8], small: NDArray[np.uint8]
) -> Iterator[Panel]:
    if request.maps is None:
        return
    maps = request.maps.read(name)
    check_sizes(maps, photo)
    named = [
        (f"map of {request.class_name(class_id)}", values)
        for class_id, values in zip(maps.class_ids.tolist(), maps.maps, strict=True)
    ]
    if maps.background is not None:
        named.append(("background map", maps.background))
    named.sort(key=lambda each: -float(each[1].max(initial=0)))
    for caption, values in named:
        if not np.isfinite(values).all():
            raise ValueError(f"{caption} must be finite, got NaN or infinity")
    for caption, values in named[:_MOST_MAPS]:
        top = float(values.max(initial=0))
        caption = f"{caption}, max {top:.3g}"
        yield Panel(caption, f"{caption}, of {name}", draw_heat(small, values))


def _scores(request: _Request, found: _Labels) -> list[str]:
    if found.matrices is None:
        return []
    means = [percent(mean) for mean in mean_iou(found.matrices, request.averaged)]
    if len(means) == 1:
        return [f"mean IoU {means[0]}"]
    return [f"{name}: mean IoU {mean}" for name, mean in zip(request.sets, means, strict=True)]


def _classes(request: _Request, found: _Labels) -> list[Class]:
    """Return the classes of a photo: their IoU with a truth, their share of its pixels without."""
    pixels = np.array([np.bincount(labels.ravel(), minlength=256) for labels in found.sets])
    unknown = pixels[:, UNKNOWN].any()
    if found.matrices is None or found.true is None:
        values = pixels[:, :UNKNOWN] / pixels.sum(1, keepdims=True)
        there = pixels[:, :UNKNOWN].any(0)
        shares = (pixels[:, UNKNOWN] / pixels.sum(1)).tolist()
    else:
        values = iou(found.matrices)
        there = ~np.isnan(values).all(0)
        unknown |= (found.true == UNKNOWN).any()
        shares = []  # unknown pixels have no IoU
    classes = [_class(request, int(each), 1, values) for each in np.flatnonzero(there)]
    return [*classes, Class(UNKNOWN, "unknown", 1, shares)] if unknown else classes


def _class(request: _Request, class_id: int, photos: int, values: NDArray[np.float64]) -> Class:
    return Class(class_id, request.class_name(class_id), photos, values[:, class_id].tolist())


# --------------------------------------------------------------------------------- the page


def _report(
    request: _Request,
    totals: _Totals,
    groups: list[tuple[str, list[Entry]]],
    curve: Curve | None,
    title: str,
) -> Report:
    shares = totals.pixels / totals.pixels.sum(1, keepdims=True)
    facts = [("photos", f"{totals.photos}")]
    if totals.photos < len(request.names):
        facts = [("photos", f"{totals.photos} of {len(request.names)}")]
    one = len(request.sets) == 1
    if request.truth:
        values = iou(totals.matrices)
        means = mean_iou(totals.matrices, request.averaged).tolist()
        found = np.flatnonzero(~np.isnan(values).all(0)).tolist()
        measure = "IoU by class"
        policy = (
            f"IoU of one confusion matrix over all {totals.photos} photos. Pixels whose truth is "
            "255 are left out; labels of 255 (unknown) count as background. Means are over "
            f"{averaged_text(request.averaged, request.class_names)}, without those that occur "
            "neither in the truth nor in the labels. A photo's mean IoU is computed in the same "
            "way, from its own matrix."
        )
        facts += [
            ("mIoU" if one else f"mIoU, {name}", percent(mean))
            for name, mean in zip(request.sets, means, strict=True)
        ]
    else:
        values, means = shares, []
        found = np.flatnonzero(totals.pixels.any(0)).tolist()
        measure = "Share of the pixels by class"
        policy = (
            f"Share of the pixels of all {totals.photos} photos. “photos” counts those whose "
            "labels have the class" + ("." if one else f", in {request.sets[0]}.")
        )
    facts += [
        ("unknown pixels" if one else f"unknown, {name}", percent(share))
        for name, share in zip(request.sets, shares[:, UNKNOWN], strict=True)
    ]
    tables: list[Table] = []
    notes: list[str] = []
    if request.truth:
        notes += truth_notes(totals.matrices[0].sum(1), totals.left_out)
    for files, name in zip(request.labels, request.sets, strict=True):
        found_tables, found_notes = read_tables(files.folder, name)
        tables += found_tables
        notes += found_notes
    if len(totals.failed) > _MOST_PROBLEMS:
        notes.append(f"{len(totals.failed)} photos failed; the first {_MOST_PROBLEMS} are listed")
    sources = [("photos", str(request.photos.folder))]
    sources += [("labels", str(files.folder)) for files in request.labels]
    if request.truth:
        sources.append(("truth", str(request.truth.folder)))
    if request.maps:
        sources.append(("maps", str(request.maps.folder)))
    from cuekit import __version__

    return Report(
        title=title,
        facts=facts,
        sources=sources,
        policy=policy,
        sets=["IoU" if request.truth else "share"] if one else request.sets,
        measure=measure,
        classes=[_class(request, each, int(totals.photos_with[each]), values) for each in found],
        means=means,
        groups=groups,
        curve=curve,
        tables=tables,
        notes=notes,
        failures=list(totals.failed.items())[:_MOST_PROBLEMS],
        version=__version__,
    )


def _write_png(path: Path, contact: ContactSheet, request: _Request, totals: _Totals) -> None:
    from PIL.PngImagePlugin import PngInfo

    found = totals.pixels.any(0) | (totals.photos_with > 0)
    legend = [(int(each), request.class_name(int(each))) for each in np.flatnonzero(found)]
    note = PngInfo()
    note.add_text("Software", GENERATOR)  # by which it is known when it is to be replaced
    with replace_file(path) as file:
        contact.draw(legend).save(file, format="PNG", pnginfo=note)
