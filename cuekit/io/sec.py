"""The localization cues published with SEC."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np

from cuekit._checks import check_integer, check_size
from cuekit.io._common import PathLike, check_path, check_range
from cuekit.io._unpickle import show, unpickle_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_K = TypeVar("_K")

_KEY = re.compile(r"(.+)_(labels|cues)", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_MOST_CELLS = 2**31  # of all masks of an image

_Compact: TypeAlias = "tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]"


@dataclass(frozen=True, eq=False)
class SecCues:
    """The localization cues of one image.

    Attributes
    ----------
    labels : (P,) array of uint8, or of uint16 with more than 256 classes
        The image's tags as class ids, VOC's 1 to 20, ascending, without the background.
    cues : (K, H, W) array of bool, (21, 41, 41) in the published file
        One mask per class, channel 0 = background, row 0 at the top of the image.
    """

    labels: NDArray[np.integer[Any]]
    cues: NDArray[np.bool_]

    @property
    def present(self) -> NDArray[np.bool_]:
        """The tags as a bool array (K - 1,), entry 0 = class id 1; no background entry."""
        present = np.zeros(len(self.cues) - 1, dtype=bool)
        present[self.labels - 1] = True
        return present


class _SecCuesByImage(Mapping[_K, SecCues]):
    """Stores (labels, coordinates) per image and makes the masks at every access.

    The masks of SEC's 10,582 images take 373 MB, their coordinates 13 MB.
    """

    def __init__(self, compact: Mapping[_K, _Compact], shape: tuple[int, int, int]) -> None:
        self._compact = compact
        self._shape = shape

    def __getitem__(self, key: _K) -> SecCues:
        labels, (classes, rows, columns) = self._compact[key]
        cues = np.zeros(self._shape, dtype=bool)
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
    path: PathLike,
    *,
    image_list: PathLike,
    num_classes: int = ...,
    size: Any = ...,
    max_bytes: int = ...,
) -> Mapping[str, SecCues]: ...


@overload
def read_sec_cues(
    path: PathLike,
    *,
    image_list: None = None,
    num_classes: int = ...,
    size: Any = ...,
    max_bytes: int = ...,
) -> Mapping[Any, SecCues]: ...


def read_sec_cues(
    path: PathLike,
    *,
    image_list: PathLike | None = None,
    num_classes: int = 21,
    size: Any = (41, 41),
    max_bytes: int = 2**30,
) -> Mapping[Any, SecCues]:
    """Read localization cues in the format of those published with SEC, without unpickling.

    The file is a pickled dictionary, gzipped or not, with two entries per image i:
    ``"<i>_labels"``, the tags, and ``"<i>_cues"`` of shape (3, N), one column (class, y, x) per
    cue cell of a grid, class 0 = background. The tags of the published file are VOC class ids 1 to
    20, the same numbers as the cues' classes; the background is not listed.

    Parameters
    ----------
    path : str or path-like
        ``localization_cues.pickle`` or ``localization_cues.pickle.gz``, or a file of one's own.
    image_list : str or path-like, optional
        SEC's ``input_list.txt``, lines ``<file name> <i>``. Images are then named by the stem of
        their file name (``"2008_007028"``), in the order of the list. A shorter list selects
        images.
    num_classes : int, optional
        Number of classes, with the background. The file does not say it.
    size : pair of int, optional
        Height and width of the grid. The file does not say it, either.
    max_bytes : int, default 2**30
        Size limit of the pickle after decompression, in bytes. The sum of its arrays' sizes has
        the same limit. Reading may need about five times as much memory.

    Returns
    -------
    Mapping of int or str to SecCues
        Image index i (ascending) or photo id -> tags and cues. Where an i of the file is no number
        below a billion, as in ``"2008_007028_cues"``, all are photo ids, in the order of the file.
        Only coordinates are stored; each access makes new masks.

    Raises
    ------
    TypeError
        If `path` is no path, or `num_classes`, `size` or `max_bytes` are not integers.
    ValueError
        If the file is not such a pickle, contains anything else (for example code), is damaged,
        truncated or too large, or has no cues for an image of `image_list`. Nothing in the file is
        ever executed.
    OSError
        If a file cannot be opened or read.

    Notes
    -----
    Supported are dictionaries as Python pickles them in protocols 2 to 5. Their entries are NumPy
    arrays of integers, as Python 2 or 3 and NumPy 1 or 2 write them, or lists and tuples: of
    integers or NumPy integers, or of three rows of these. A file has at most 400 000 entries and
    5 million steps of the pickle machine; lists need one for each number, arrays some 40.

    References
    ----------
    A. Kolesnikov and C. H. Lampert, "Seed, Expand and Constrain: Three Principles for
    Weakly-Supervised Image Segmentation", ECCV 2016. :doi:`10.1007/978-3-319-46493-0_42`
    """
    file_path = check_path(path)
    list_path = None if image_list is None else check_path(image_list, "image_list")
    max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
    classes = check_integer(num_classes, "num_classes", minimum=1)
    shape = (classes, *check_size(size, "size"))
    if math.prod(shape) > _MOST_CELLS or classes > 2**16:
        raise ValueError(
            f"num_classes must be at most 65536, and {_MOST_CELLS} cells with size, got {shape}"
        )
    arrays = unpickle_arrays(
        file_path, lambda key, value: _sec_array(key, value, shape), max_bytes=max_bytes
    )
    ids = list(dict.fromkeys(_split(key)[0] for key in arrays))
    by_index = all(map(_INDEX.fullmatch, ids))
    images: dict[int | str, _Compact] = {}
    for image_id in sorted(ids, key=int) if by_index else ids:
        for key in (f"{image_id}_labels", f"{image_id}_cues"):
            if key not in arrays:
                raise ValueError(
                    f"{file_path}: image {image_id} must have labels and cues, got no {key!r}"
                )
        images[int(image_id) if by_index else image_id] = (
            arrays[f"{image_id}_labels"],
            arrays[f"{image_id}_cues"],
        )
    if list_path is None:
        return _SecCuesByImage(images, shape)
    if not by_index:
        raise ValueError(
            f"{file_path}: image_list is for files of image indices, got photo ids such as "
            f"{show(ids[0])}; leave it out"
        )
    by_name: dict[str, _Compact] = {}
    for name, index in _read_image_list(list_path).items():
        if index not in images:
            raise ValueError(
                f"{list_path}: every image must have cues in {file_path}, "
                f"got {name!r} with index {index}, which has none"
            )
        by_name[name] = images[index]
    return _SecCuesByImage(by_name, shape)


def _split(key: int | str) -> tuple[str, str]:
    """Return the image and the kind of a key: "12_cues" is ("12", "cues")."""
    matched = _KEY.fullmatch(key) if isinstance(key, str) else None
    if matched is None:
        raise ValueError(f"keys must be '<i>_labels' or '<i>_cues', got {show(key)}")
    return matched[1], matched[2]


def _sec_array(
    key: int | str, value: object, shape: tuple[int, int, int]
) -> NDArray[np.integer[Any]]:
    """Check one entry of SEC's dictionary and convert it to a narrow dtype."""
    kind = _split(key)[1]
    classes, height, width = shape
    if not isinstance(value, np.ndarray) or value.dtype.kind not in (
        "iu" if value.size else "biuf"
    ):
        raise ValueError(f"{key} must be an integer array, got {show(value)}")
    if kind == "labels":
        if value.ndim != 1 or value.size >= classes:
            raise ValueError(f"{key} must have shape (P,), P < {classes}, got {value.shape}")
        check_range(value, f"{key}: tags", 1, classes - 1)
        return np.array(sorted(set(value.tolist())), np.min_scalar_type(classes - 1))
    cells = math.prod(shape)
    if value.shape == (0,):
        value = value.reshape(3, 0)
    if value.ndim != 2 or value.shape[0] != 3 or value.shape[1] > cells:
        hint = ": transpose it" if value.ndim == 2 and value.shape[1] == 3 else ""
        raise ValueError(f"{key} must have shape (3, N), N <= {cells}, got {value.shape}{hint}")
    # Two passes for all three rows: files have many small arrays.
    if value.size and (value.min() < 0 or (value.max(1) >= shape).any()):
        check_range(value[0], f"{key}: classes", 0, classes - 1)
        check_range(value[1], f"{key}: rows", 0, height - 1)
        check_range(value[2], f"{key}: columns", 0, width - 1)
    return value.astype(np.min_scalar_type(max(shape) - 1), order="C")


def _read_image_list(path: Path) -> dict[str, int]:
    """Read lines ``<file name> <i>`` into {stem of the file name: i}."""
    indices: dict[str, int] = {}
    taken: set[int] = set()
    # surrogateescape: a file that is not text then fails below, with its name and line number.
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(iter(lambda: file.readline(4096), ""), start=1):
            fields = line.rsplit(maxsplit=1)
            if not fields:
                continue
            if len(fields) == 1 or _INDEX.fullmatch(fields[1]) is None:
                raise ValueError(
                    f"{path}: lines must be '<file name> <index>', "
                    f"got {show(line)} in line {number}"
                )
            stem, index = PurePosixPath(fields[0]).stem, int(fields[1])
            if stem in indices or index in taken:
                raise ValueError(
                    f"{path}: names and indices must be distinct, got {show(line)} in line {number}"
                )
            indices[stem] = index
            taken.add(index)
    return indices
