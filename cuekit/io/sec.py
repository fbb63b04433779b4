"""The localization cues published with SEC."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

import numpy as np

from cuekit._checks import INTEGERS, check_array, check_integer, check_size
from cuekit.io._common import PathLike, check_path, check_range, replace_file
from cuekit.io._unpickle import show, unpickle_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_K = TypeVar("_K")

_KEY = re.compile(r"(.+)_(labels|cues)", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_MOST_CELLS = 2**31  # of all masks of an image
_LONGEST_NAME = 900  # bytes of a photo id; the reader's limit of a key is 1000
_MOST_IMAGES = 200_000  # the reader's limit is 400 000 entries

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


def write_sec_cues(
    path: PathLike, cues: Mapping[Any, SecCues], *, image_list: PathLike | None = None
) -> None:
    """Write localization cues in the layout of those published with SEC.

    `read_sec_cues` reads the file, and so does all code that unpickles SEC's: Python 2, and Python
    3 with or without ``encoding="latin1"``, whatever NumPy. The file is written under a temporary
    name and then renamed, so `path` never holds a partial file. Equal cues give equal files.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists. It is gzipped if the name ends in
        ``.gz``. A symbolic link is followed.
    cues : Mapping of int or str to SecCues
        Image index, or photo id, -> tags and cues. All images have the same number of classes and
        the same grid. The indices are integers below a billion.
    image_list : str or path-like, optional
        SEC's ``input_list.txt``, as for `read_sec_cues`: `cues` then has photo ids, which are
        written as the indices of this list. It is read, not written.

    Raises
    ------
    TypeError
        If `path` is no path, `cues` is no mapping, a key is neither an integer nor a string, or a
        value is no `SecCues` of a bool array and an integer array.
    ValueError
        If a shape, a tag or a key is not as described above, if a photo is not in `image_list`, or
        if there are more than 200 000 images. The message names the key.
    OSError
        If a file cannot be opened, read or written. What was at `path` is then unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import SecCues, read_sec_cues, write_sec_cues
    >>> cues = np.zeros((21, 41, 41), dtype=bool)
    >>> cues[15, 10, 20] = True
    >>> write_sec_cues("cues.pickle", {0: SecCues(np.array([15]), cues)})
    >>> found = read_sec_cues("cues.pickle")[0]
    >>> np.argwhere(found.cues).tolist()
    [[15, 10, 20]]
    """
    file_path = check_path(path)
    indices = None if image_list is None else _read_image_list(check_path(image_list, "image_list"))
    if not isinstance(cues, Mapping):
        raise TypeError(f"cues must be a mapping of SecCues, got {type(cues).__name__}")
    if len(cues) > _MOST_IMAGES:
        raise ValueError(f"cues must have at most {_MOST_IMAGES} images, got {len(cues)}")
    names = _written_names(cues, indices)
    with replace_file(file_path) as file:
        if file_path.name.endswith(".gz"):
            import gzip

            # No name and no time: equal cues give equal files.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
                _write_pickle(cast("IO[bytes]", compressed), cues, names)
        else:
            _write_pickle(file, cues, names)


def _written_names(cues: Mapping[Any, SecCues], indices: dict[str, int] | None) -> list[str]:
    """Return what stands for <i> in the keys of each image."""
    names: list[str] = []
    for key in cues:
        if isinstance(key, bool) or not isinstance(key, int | np.integer | str):
            raise TypeError(f"keys of cues must be integers or strings, got {key!r}")
        if indices is not None:
            if key not in indices:
                raise ValueError(f"photos of cues must be in image_list, got {key!r}")
            names.append(str(indices[str(key)]))
        elif isinstance(key, str):
            if not 1 <= len(key.encode(errors="replace")) <= _LONGEST_NAME or not _is_text(key):
                raise ValueError(
                    f"photo ids must be text of 1 to {_LONGEST_NAME} bytes, got {show(key)}"
                )
            names.append(key)
        elif not 0 <= key < 10**9:
            raise ValueError(f"image indices must be in 0..999999999, got {key}")
        else:
            names.append(str(int(key)))
    if len({isinstance(key, str) for key in cues}) > 1:
        raise ValueError("keys of cues must be all indices or all photo ids, got both")
    by_id = indices is None and any(isinstance(key, str) for key in cues)
    if by_id and all(map(_INDEX.fullmatch, names)):
        raise ValueError(
            f"photo ids that all look like image indices would be read as such, got {names[0]!r} "
            "first: pass them as integers"
        )
    return names


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)  # half characters


def _write_pickle(file: IO[bytes], cues: Mapping[Any, SecCues], names: list[str]) -> None:
    """Write the dict as Python 3 pickles it in protocol 2, with NumPy 1's names.

    NumPy 2 also has these names; the names that it writes itself, NumPy 1 does not have.
    """
    memo: set[bytes] = set()

    def once(index: bytes, opcodes: bytes) -> bytes:
        """Return the opcodes, and from the second time on the entry of the memo."""
        if index in memo:
            return b"h" + index
        memo.add(index)
        return opcodes + b"q" + index

    def pickled(array: NDArray[np.int64]) -> bytes:
        text = array.tobytes().decode("latin-1").encode()
        return b"".join(
            (
                once(b"\0", b"cnumpy.core.multiarray\n_reconstruct\n"),
                once(b"\1", b"cnumpy\nndarray\n"),
                b"K\0\x85U\1b\x87R(K\1(",
                *(b"J" + struct.pack("<i", side) for side in array.shape),
                b"t",
                once(b"\2", _INT64),
                b"\x89",
                once(b"\3", b"c_codecs\nencode\n"),
                b"X" + struct.pack("<I", len(text)) + text,
                once(b"\4", b"X\6\0\0\0latin1"),
                b"\x86Rtb",
            )
        )

    file.write(b"\x80\2}")
    shape = None
    for name, (key, value) in zip(names, cues.items(), strict=True):
        tags, masks = _checked_cues(key, value)
        if shape not in (None, masks.shape):
            raise ValueError(
                f"cues of all images must have one shape, got {masks.shape} for {key!r} after "
                f"{shape}"
            )
        shape = masks.shape
        cells = np.array(np.nonzero(masks), np.int64)
        file.write(b"(")
        for kind, array in (("labels", tags), ("cues", cells)):
            text = f"{name}_{kind}".encode()
            file.write(b"X" + struct.pack("<I", len(text)) + text + pickled(array))
        file.write(b"u")
    file.write(b".")


def _checked_cues(key: object, value: object) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if not isinstance(value, SecCues):
        raise TypeError(f"values of cues must be SecCues, got {type(value).__name__} for {key!r}")
    name = f"cues[{key!r}]"
    masks = check_array(value.cues, f"{name}.cues", ("bool",), ndim=3, layout="(K, H, W)")
    if masks.ndim != 3 or masks.shape[0] < 1:
        raise ValueError(f"{name}.cues must have shape (K, H, W), K >= 1, got {masks.shape}")
    tags = check_array(value.labels, f"{name}.labels", INTEGERS, ndim=1, layout="(P,)")
    if tags.ndim != 1 or len(set(tags.tolist())) != tags.size:
        raise ValueError(f"{name}.labels must be distinct, of shape (P,), got {show(tags)}")
    check_range(tags, f"{name}.labels", 1, len(masks) - 1)
    return tags.astype(np.int64), masks


# dtype("i8"), with its state: little endian.
_INT64 = b"cnumpy\ndtype\nU\2i8K\0K\1\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
