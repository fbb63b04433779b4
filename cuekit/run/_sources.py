"""Where a run finds its photos: lists of names, folders of files, tags.

A photo's *name* is the path of its file within its folder, without the suffix. Maps, labels and
masks of a photo have the same name in their folders.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cuekit.io._common import PathLike, check_path
from cuekit.run._strings import Strings

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MAP_SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".pkl", ".pickle")
LABEL_SUFFIXES = (".png",)


class Files:
    """The files of a folder and of the folders in it, by name.

    Parameters
    ----------
    folder : str or path-like
        The folder. Files and folders whose name starts with a dot are left out.
    suffixes : sequence of str
        The suffixes of the files wanted, in lower case; those of files may be in upper case.
    kind : str
        What the files are, in the plural, for errors.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be listed.
    """

    def __init__(self, folder: PathLike, suffixes: Iterable[str], kind: str) -> None:
        self.folder = check_path(folder)
        self.kind = kind
        # NAME NUL SUFFIX, sorted. Subclasses write more after the suffix.
        self._lines = Strings.in_order(_walked(os.fspath(self.folder), frozenset(suffixes)))

    def names(self) -> Strings:
        """Return the names of all files, sorted."""
        names = (line.partition("\0")[0] for line in self._lines)
        return Strings(name for name, _ in itertools.groupby(names))

    def __contains__(self, name: str) -> bool:
        return bool(self._lines.starting_with(f"{name}\0"))

    def path(self, name: str) -> Path:
        """Return the path of a file.

        Raises
        ------
        FileNotFoundError
            If there is none of this name.
        ValueError
            If there are several.
        """
        lines = self._lines.starting_with(f"{name}\0")
        if not lines:
            raise FileNotFoundError(f"{self.folder} has no {self.kind} of {name}")
        if len(lines) > 1:
            files = " and ".join(str(self._place(line.split("\0"))) for line in lines)
            raise ValueError(
                f"{self.folder} must have one file of {self.kind} for each name, got {files}"
            )
        found: Path = self._place(lines[0].split("\0"))
        return found

    def _place(self, line: Sequence[str]) -> Any:
        """Return where the file of a line is."""
        name, suffix = line
        return self.folder / f"{name}{suffix}"


def _walked(start: str, suffixes: frozenset[str]) -> Iterator[str]:
    """Yield a line for each file of a folder and of the folders in it, most often in order."""
    os.scandir(start).close()  # raises where os.walk is silent
    for place, folders, files in os.walk(start, followlinks=True, onerror=_raise):
        visible = (each for each in folders if not each.startswith("."))
        folders[:] = sorted(visible, key=lambda each: f"{each}/")
        inner = os.path.relpath(place, start)
        before = "" if inner == "." else inner.replace(os.sep, "/") + "/"
        lines = []
        for file in files:
            stem, suffix = os.path.splitext(file)  # noqa: PTH122 - a Path takes 10 times as long
            if suffix.lower() in suffixes and not file.startswith("."):
                lines.append(f"{before}{stem}\0{suffix}")
        yield from sorted(lines)


def _raise(error: OSError) -> None:
    raise error


def read_list(path: PathLike) -> list[str]:
    """Read the names of photos from a text file, one in each line.

    Parameters
    ----------
    path : str or path-like
        A list such as VOC's ``ImageSets/Segmentation/train.txt``. A line holds a name, or the path
        of a photo and that of its labels, as lists of SBD do: the photo's name is then the last
        part of its path. Suffixes of photos are dropped; empty lines are ignored.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a line has another form, or names a photo a second time; or if there is no name.
    OSError
        If the file cannot be read.
    """
    file_path = check_path(path)
    try:
        lines = file_path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file_path}: a list of names must be UTF-8 text, got: {error}") from None
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (len(fields) == 2 and not _is_pair(fields)):
            raise ValueError(
                f"{file_path}, line {number}: a line must hold one name, or the paths of a photo "
                f"and of its labels, got {line[:100]!r}"
            )
        name = without_suffix(fields[0])
        name = PurePosixPath(name).name if len(fields) == 2 else name
        check_name(name, f"{file_path}, line {number}")
        if name in names:
            raise ValueError(
                f"{file_path}, line {number}: a name must be listed once, got {name!r} also in "
                f"line {names[name]}"
            )
        names[name] = number
    if not names:
        raise ValueError(f"{file_path}: a list must hold at least one name, got none")
    return list(names)


def listed_names(names: PathLike | Iterable[str]) -> list[str]:
    """Return the names of photos, from a file that lists them or from a sequence."""
    if isinstance(names, str | os.PathLike):
        return read_list(names)
    listed = [without_suffix(name) for name in names]
    for name in listed:
        check_name(name, "names")
    if len(set(listed)) != len(listed):
        twice = next(name for name, count in Counter(listed).items() if count > 1)
        raise ValueError(f"names must be distinct, got {twice!r} twice")
    return listed


def _is_pair(fields: list[str]) -> bool:
    photo, labels = (PurePosixPath(field).suffix.lower() for field in fields)
    return photo in PHOTO_SUFFIXES and labels in LABEL_SUFFIXES


def without_suffix(name: str) -> str:
    """Drop the suffix of a photo."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in PHOTO_SUFFIXES else name


def check_name(name: str, where: str) -> None:
    """Refuse a name that would lead out of a folder."""
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise ValueError(f"{where}: a name must be a path within a folder, got {name!r}")


def read_tags(path: PathLike, class_names: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Read the tags of photos.

    Parameters
    ----------
    path : str or path-like
        One of these files:

        ==========  ======================================================================
        ``.npz``    ``ids`` (N,) names and ``labels`` (N, C) of 0 and 1; column 0 = class 1
        ``.npy``    a dict ``{name: (C,) of 0 and 1}``, as the ``cls_labels.npy`` of many
                    projects; nothing in it is executed
        ``.json``   ``{name: [class, ...]}``
        other       text; a line holds a name and its classes, separated by white space
        ==========  ======================================================================

        Classes are ids from 1 on, or names of `class_names`.
    class_names : sequence of str, optional
        Names of the classes, the background first.

    Returns
    -------
    dict
        Name of photo -> class ids, ascending.

    Raises
    ------
    ValueError
        If the file is not as described above, or a class is unknown. The message names the file.
    OSError
        If the file cannot be read.
    """
    file_path = check_path(path)
    suffix = file_path.suffix.lower()
    ids = {name: class_id for class_id, name in enumerate(class_names)}
    try:
        if suffix in (".npz", ".npy"):
            return _tags_of_arrays(file_path)
        text = file_path.read_text(encoding="utf-8-sig")
        if suffix == ".json":
            table = json.loads(text)
            if not isinstance(table, dict):
                raise ValueError("tags must be a dict of lists")  # noqa: TRY301
        else:
            lines = [line.split() for line in text.splitlines() if line.strip()]
            table = {fields[0]: fields[1:] for fields in lines}
            if len(table) != len(lines):
                raise ValueError("a photo must be listed once, got one twice")  # noqa: TRY301
        return {
            without_suffix(name): tuple(sorted({_class_id(each, ids, name) for each in classes}))
            for name, classes in table.items()
        }
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file_path}: {error}") from None


def _class_id(value: object, ids: Mapping[str, int], photo: str) -> int:
    if isinstance(value, str) and value in ids:
        value = ids[value]
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**16:
        known = f", or one of {', '.join(list(ids)[1:])}" if ids else ""
        raise ValueError(
            f"tags of {photo} must be class ids from 1 on{known}, with white space between them, "
            f"got {value!r}; names with spaces need a .json"
        )
    return value


def _tags_of_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    from cuekit.io._archive import NpzArray, read_container
    from cuekit.io._tensors import Tensor

    with path.open("rb") as file:
        found = read_container(file, os.fstat(file.fileno()).st_size, 2**30)
        if not isinstance(found, dict):
            raise ValueError("tags must be a dict, name -> array of 0 and 1")  # noqa: TRY004
        arrays = {
            key: value.array() if isinstance(value, NpzArray | Tensor) else value
            for key, value in found.items()
        }
    if set(arrays) >= {"ids", "labels"} and path.suffix.lower() == ".npz":
        names, rows = arrays["ids"], arrays["labels"]
        if names.ndim != 1 or names.dtype.kind != "U" or rows.shape[:1] != names.shape:
            raise ValueError(
                "ids must be (N,) strings and labels (N, C), got "
                f"{names.dtype} {names.shape}, {rows.dtype} {rows.shape}"
            )
        arrays = dict(zip(names.tolist(), rows, strict=True))
    return {str(name): _present(row, str(name)) for name, row in arrays.items()}


def _present(row: Any, name: str) -> tuple[int, ...]:
    if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype.kind not in "biuf":
        raise ValueError(f"tags of a photo must be an array (C,) of 0 and 1, got {name}: {row!r}")
    if not ((row == 0) | (row == 1)).all():
        raise ValueError(f"tags must be 0 or 1, got {row[(row != 0) & (row != 1)][0]} for {name}")
    return tuple((np.flatnonzero(row) + 1).tolist())
