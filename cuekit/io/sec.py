"""The localization cues published with SEC."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

from cuekit._checks import check_integer
from cuekit.io._common import PathLike, check_range
from cuekit.io._unpickle import show, unpickle_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_K = TypeVar("_K")

_CLASSES = 21
_GRID = 41
_KEY = re.compile(r"(0|[1-9][0-9]{0,8})_(labels|cues)")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, eq=False)
class SecCues:
    """The localization cues of one image.

    Attributes
    ----------
    labels : (P,) array of uint8
        The image's tags as VOC class ids 1 to 20, ascending, without the background.
    cues : (21, 41, 41) array of bool
        One mask per class, channel 0 = background, row 0 at the top of the image.
    """

    labels: NDArray[np.uint8]
    cues: NDArray[np.bool_]

    @property
    def present(self) -> NDArray[np.bool_]:
        """The tags as a bool array of shape (20,), entry 0 = class id 1; no background entry."""
        present = np.zeros(_CLASSES - 1, dtype=bool)
        present[self.labels - 1] = True
        return present


class _SecCuesByImage(Mapping[_K, SecCues]):
    """Stores (labels, coordinates) per image and makes the masks at every access.

    The masks of SEC's 10,582 images take 373 MB, their coordinates 13 MB.
    """

    def __init__(self, compact: Mapping[_K, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        self._compact = compact

    def __getitem__(self, key: _K) -> SecCues:
        labels, (classes, rows, columns) = self._compact[key]
        cues = np.zeros((_CLASSES, _GRID, _GRID), dtype=bool)
        cues[classes, rows, columns] = True
        return SecCues(labels.copy(), cues)

    def __contains__(self, key: object) -> bool:
        return key in self._compact  # Mapping's default would make the masks

    def __iter__(self) -> Iterator[_K]:
        return iter(self._compact)

    def __len__(self) -> int:
        return len(self._compact)

    def __repr__(self) -> str:
        return f"<SEC cues of {len(self)} images>"


@overload
def read_sec_cues(
    path: PathLike, *, image_list: None = None, max_bytes: int = ...
) -> Mapping[int, SecCues]: ...


@overload
def read_sec_cues(
    path: PathLike, *, image_list: PathLike, max_bytes: int = ...
) -> Mapping[str, SecCues]: ...


def read_sec_cues(
    path: PathLike, *, image_list: PathLike | None = None, max_bytes: int = 2**30
) -> Mapping[int, SecCues] | Mapping[str, SecCues]:
    """Read the localization cues published with SEC, without unpickling.

    The file is a pickled dictionary, gzipped or not, with two integer arrays per image i:
    ``"<i>_labels"``, the tags, and ``"<i>_cues"`` of shape (3, N), one column (class, y, x) per
    cue cell of a 41 x 41 grid, class 0 = background. The tags of the published file are VOC class
    ids 1 to 20, the same numbers as the cues' classes; the background is not listed.

    Parameters
    ----------
    path : str or path-like
        ``localization_cues.pickle`` or ``localization_cues.pickle.gz``.
    image_list : str or path-like, optional
        SEC's ``input_list.txt``, lines ``<file name> <i>``. Images are then named by the stem of
        their file name (``"2008_007028"``), in the order of the list. A shorter list selects
        images.
    max_bytes : int, default 2**30
        Size limit of the pickle after decompression, in bytes. The sum of its arrays' sizes has
        the same limit. Reading may need about three times as much memory.

    Returns
    -------
    Mapping of int or str to SecCues
        Image index i (ascending) or photo id -> tags and cues. Only coordinates are stored; each
        access makes new masks.

    Raises
    ------
    TypeError
        If `max_bytes` is not an integer.
    ValueError
        If the file is not such a pickle, contains anything else (for example code), is damaged,
        truncated or too large, or has no cues for an image of `image_list`. Nothing in the file is
        ever executed.
    OSError
        If a file cannot be opened or read.

    Notes
    -----
    Supported are arrays as NumPy pickles them: protocol 2 under Python 2, protocols 3 and 4 under
    Python 3.

    References
    ----------
    A. Kolesnikov and C. H. Lampert, "Seed, Expand and Constrain: Three Principles for
    Weakly-Supervised Image Segmentation", ECCV 2016. :doi:`10.1007/978-3-319-46493-0_42`
    """
    max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
    arrays = unpickle_arrays(path, _sec_array, max_bytes=max_bytes)
    by_index: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for index in sorted({int(str(key).partition("_")[0]) for key in arrays}):
        for key in (f"{index}_labels", f"{index}_cues"):
            if key not in arrays:
                raise ValueError(
                    f"{os.fspath(path)}: image {index} must have labels and cues, got no {key!r}"
                )
        by_index[index] = arrays[f"{index}_labels"], arrays[f"{index}_cues"]
    if image_list is None:
        return _SecCuesByImage(by_index)

    by_name: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for name, index in _read_image_list(image_list).items():
        if index not in by_index:
            raise ValueError(
                f"{os.fspath(image_list)}: every image must have cues in {os.fspath(path)}, "
                f"got {name!r} with index {index}, which has none"
            )
        by_name[name] = by_index[index]
    return _SecCuesByImage(by_name)


def _sec_array(key: int | str, value: object) -> NDArray[np.uint8]:
    """Check one entry of SEC's dictionary and convert it to uint8."""
    matched = _KEY.fullmatch(key) if isinstance(key, str) else None
    if matched is None:
        raise ValueError(f"keys must be '<i>_labels' or '<i>_cues', got {show(key)}")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise ValueError(f"{key} must be an integer array, got {show(value)}")
    if matched[2] == "labels":
        if value.ndim != 1 or value.size >= _CLASSES:
            raise ValueError(f"{key} must have shape (P,), P < {_CLASSES}, got {value.shape}")
        check_range(value, f"{key}: tags", 1, _CLASSES - 1)
        return np.unique(value).astype(np.uint8)
    cells = _CLASSES * _GRID**2
    if value.ndim != 2 or value.shape[0] != 3 or value.shape[1] > cells:
        raise ValueError(f"{key} must have shape (3, N), N <= {cells}, got {value.shape}")
    check_range(value[0], f"{key}: classes", 0, _CLASSES - 1)
    check_range(value[1], f"{key}: rows", 0, _GRID - 1)
    check_range(value[2], f"{key}: columns", 0, _GRID - 1)
    return value.astype(np.uint8, order="C")


def _read_image_list(path: PathLike) -> dict[str, int]:
    """Read lines ``<file name> <i>`` into {stem of the file name: i}."""
    indices: dict[str, int] = {}
    taken: set[int] = set()
    # surrogateescape: a file that is not text then fails below, with its name and line number.
    with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(iter(lambda: file.readline(4096), ""), start=1):
            fields = line.rsplit(maxsplit=1)
            if not fields:
                continue
            if len(fields) == 1 or _INDEX.fullmatch(fields[1]) is None:
                raise ValueError(
                    f"{os.fspath(path)}: lines must be '<file name> <index>', "
                    f"got {show(line)} in line {number}"
                )
            stem, index = PurePosixPath(fields[0]).stem, int(fields[1])
            if stem in indices or index in taken:
                raise ValueError(
                    f"{os.fspath(path)}: names and indices must be distinct, "
                    f"got {show(line)} in line {number}"
                )
            indices[stem] = index
            taken.add(index)
    return indices
