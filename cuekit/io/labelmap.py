"""`labelmap.txt`: names and colours of classes, as CVAT and Datumaro exchange them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit.classes import check_names, class_names
from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.io._unpickle import show
from cuekit.io.labels import check_colours, voc_colours

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER = "# label:color_rgb:parts:actions"
_LINE = re.compile(r"(.+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*", re.ASCII)
_MAX_BYTES = 2**20


def read_labelmap(path: PathLike) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Read the names and the colours of classes from a ``labelmap.txt``.

    `read_labels` takes the colours to read masks that CVAT or Datumaro wrote as RGB.

    Parameters
    ----------
    path : str or path-like
        A text file with lines ``name:red,green,blue:parts:actions``. Empty lines, and lines that
        begin with ``#``, are passed over.

    Returns
    -------
    names : tuple of str
        In the order of the file. The first is the background.
    colours : (K, 3) array of uint8

    Raises
    ------
    TypeError
        If `path` is no path.
    ValueError
        If a line is not as described, if the first class is not the background, or if names or
        colours are there twice. The message names the file.
    OSError
        If the file cannot be opened or read.
    """
    file_path = check_path(path)
    names, colours = [], []
    for line in read_lines(file_path):
        if not line or line[0] == "#":
            continue
        found = _LINE.fullmatch(line)
        if found is None or max(map(int, found.groups()[1:])) > 255:
            raise ValueError(
                f"{file_path}: lines must be name:red,green,blue:parts:actions, got {show(line)}"
            )
        names.append(found[1])
        colours.append([int(each) for each in found.groups()[1:]])
    checked = check_names(names, str(file_path))
    table = np.array(colours, np.uint8)
    if len(np.unique(table, axis=0)) != len(table):
        raise ValueError(f"{file_path}: colours must be distinct, got some twice")
    return checked, table


def read_lines(path: Path) -> list[str]:
    """Return the lines of a small text file, without space around them."""
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(
            f"{path}: names of classes must be in a file of at most {_MAX_BYTES} bytes"
        )
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        rule = str(error)
    raise ValueError(f"{path}: names of classes must be in a text file (UTF-8), got: {rule}")


def write_labelmap(
    path: PathLike,
    classes: str | os.PathLike[str] | Sequence[str],
    *,
    colours: Any = "voc",
) -> None:
    """Write a ``labelmap.txt`` for CVAT and Datumaro: names and colours of classes.

    Both read label maps as RGB PNGs, which `write_colours` writes, with this file beside.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists.
    classes : {"voc", "coco"}, path or sequence of str
        The names of the classes, the background first, as for `class_names`.
    colours : "voc" or (K, 3) array of uint8, default "voc"
        The colour of each class, distinct. "voc": those that `write_colours` writes.

    Raises
    ------
    TypeError
        If `path` is no path, or `classes` or `colours` has a wrong type.
    ValueError
        If a name has a colon, or the number of colours is not that of the classes.
    OSError
        If the file cannot be written. What was at `path` is then unchanged.

    Examples
    --------
    >>> from cuekit.io import read_labelmap, write_labelmap
    >>> write_labelmap("labelmap.txt", ["background", "cat"])
    >>> names, colours = read_labelmap("labelmap.txt")
    >>> names, colours.tolist()
    (('background', 'cat'), [[0, 0, 0], [128, 0, 0]])
    """
    file_path = check_path(path)
    names = class_names(classes)
    for name in names:
        if ":" in name or name[0] == "#":
            raise ValueError(f"names in a labelmap.txt must have no ':' and no '#', got {name!r}")
    is_voc = isinstance(colours, str) and colours == "voc"
    table = voc_colours()[: len(names)] if is_voc else check_colours(colours)
    if len(table) != len(names):
        raise ValueError(f"colours must be one for each of {len(names)} classes, got {len(table)}")
    lines = [
        f"{name}:{','.join(map(str, colour))}::"
        for name, colour in zip(names, table.tolist(), strict=True)
    ]
    with replace_file(file_path) as file:
        file.write("\n".join([HEADER, *lines, ""]).encode())
