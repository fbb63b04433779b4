"""Readers and writers of the files people exchange.

No reader here can run code from a file. Pickles are not loaded: their opcodes are listed with
:func:`pickletools.genops`, which parses and executes nothing, and a small interpreter admits only
what a dictionary of plain NumPy arrays needs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np

from cuekit._unpickle import show, unpickle_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SecCues", "read_labels", "read_sec_cues", "write_labels"]

_PathLike: TypeAlias = str | os.PathLike[str]
_K = TypeVar("_K")
_T = TypeVar("_T")

_SEC_CLASSES = 21
_SEC_GRID = 41
_SEC_KEY = re.compile(r"(0|[1-9][0-9]{0,8})_(labels|cues)")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


# --------------------------------------------------------------------------- SEC localization cues


@dataclass(frozen=True, eq=False)
class SecCues:
    """The localization cues of one image.

    Attributes
    ----------
    labels : ndarray of uint8, shape (P,)
        The image's tags as VOC ids 1..20, ascending, without the background.
    cues : ndarray of bool, shape (21, 41, 41)
        One mask per class, channel 0 = background, row 0 at the top of the image.
    """

    labels: NDArray[np.uint8]
    cues: NDArray[np.bool_]

    @property
    def present(self) -> NDArray[np.bool_]:
        """The tags as a bool array of shape (20,), entry 0 = VOC id 1; no background entry."""
        present = np.zeros(_SEC_CLASSES - 1, dtype=bool)
        present[self.labels - 1] = True
        return present


class _SecCuesByImage(Mapping[_K, SecCues]):
    """Keeps (labels, coordinates) per image and draws the masks anew at every access.

    The masks of SEC's 10,582 images take 373 MB, their coordinates 13 MB.
    """

    def __init__(self, compact: Mapping[_K, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        self._compact = compact

    def __getitem__(self, key: _K) -> SecCues:
        labels, (classes, rows, columns) = self._compact[key]
        cues = np.zeros((_SEC_CLASSES, _SEC_GRID, _SEC_GRID), dtype=bool)
        cues[classes, rows, columns] = True
        return SecCues(labels.copy(), cues)

    def __contains__(self, key: object) -> bool:
        return key in self._compact  # without drawing masks, as Mapping's own would

    def __iter__(self) -> Iterator[_K]:
        return iter(self._compact)

    def __len__(self) -> int:
        return len(self._compact)

    def __repr__(self) -> str:
        return f"<SEC cues of {len(self)} images>"


@overload
def read_sec_cues(
    path: _PathLike, *, image_list: None = None, max_bytes: int = ...
) -> Mapping[int, SecCues]: ...


@overload
def read_sec_cues(
    path: _PathLike, *, image_list: _PathLike, max_bytes: int = ...
) -> Mapping[str, SecCues]: ...


def read_sec_cues(
    path: _PathLike, *, image_list: _PathLike | None = None, max_bytes: int = 2**30
) -> Mapping[int, SecCues] | Mapping[str, SecCues]:
    """Read the localization cues published with SEC, without loading a pickle.

    The file is a pickled dictionary, gzipped or not, with two integer arrays per image i:
    ``"<i>_labels"``, the tags, and ``"<i>_cues"`` of shape (3, N), one column (class, y, x) per
    cue cell of a 41 x 41 grid, class 0 = background. The labels of the published file are VOC ids
    1..20, the same numbers as the cues' classes, and do not list the background.

    Parameters
    ----------
    path : str or path-like
        ``localization_cues.pickle`` or ``localization_cues.pickle.gz``.
    image_list : str or path-like, optional
        SEC's ``input_list.txt``, lines ``<file name> <i>``. Images are then named by the stem of
        their file (``"2008_007028"``), in the order of the list. A shorter list selects images.
    max_bytes : int, default 2**30
        Largest pickle accepted, in bytes after decompression. The bytes of all its arrays
        together obey the same limit. Reading may take some three times as much memory.

    Returns
    -------
    Mapping of int or str to SecCues
        Image index i (ascending) or photo id -> tags and cues. Only coordinates are kept; each
        access draws new masks.

    Raises
    ------
    ValueError
        If the file is not such a pickle, holds anything else (code, for one), is damaged,
        truncated or too large, or an image of `image_list` has no cues in it. Nothing in the
        file is ever executed.
    OSError
        If a file cannot be opened or read.

    Notes
    -----
    Arrays are taken as NumPy pickles them with protocol 2 from Python 2 and 3 or 4 from Python 3.

    References
    ----------
    A. Kolesnikov and C. H. Lampert, "Seed, Expand and Constrain: Three Principles for
    Weakly-Supervised Image Segmentation", ECCV 2016. :doi:`10.1007/978-3-319-46493-0_42`
    """
    arrays = unpickle_arrays(path, _sec_array, max_bytes=max_bytes)
    by_index: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for index in sorted({int(str(key).partition("_")[0]) for key in arrays}):
        for key in (f"{index}_labels", f"{index}_cues"):
            if key not in arrays:
                msg = f"{os.fspath(path)}: image {index} must have labels and cues, {key!r} missing"
                raise ValueError(msg)
        by_index[index] = arrays[f"{index}_labels"], arrays[f"{index}_cues"]
    if image_list is None:
        return _SecCuesByImage(by_index)

    by_name: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for name, index in _read_image_list(image_list).items():
        if index not in by_index:
            msg = (
                f"{os.fspath(image_list)}: every image must have cues in {os.fspath(path)}, "
                f"got {name!r} with index {index}, which has none"
            )
            raise ValueError(msg)
        by_name[name] = by_index[index]
    return _SecCuesByImage(by_name)


def _sec_array(key: int | str, value: object) -> NDArray[np.uint8]:
    """Check one entry of SEC's dictionary and shrink it to uint8."""
    matched = _SEC_KEY.fullmatch(key) if isinstance(key, str) else None
    if matched is None:
        msg = f"keys must be '<i>_labels' or '<i>_cues', got {show(key)}"
        raise ValueError(msg)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        msg = f"{key} must be an integer array, got {show(value)}"
        raise ValueError(msg)
    if matched[2] == "labels":
        if value.ndim != 1 or value.size >= _SEC_CLASSES:
            msg = f"{key} must have shape (P,), P < {_SEC_CLASSES}, got {value.shape}"
            raise ValueError(msg)
        _check_range(f"{key}: tags", value, 1, _SEC_CLASSES - 1)
        return np.unique(value).astype(np.uint8)
    cells = _SEC_CLASSES * _SEC_GRID**2
    if value.ndim != 2 or value.shape[0] != 3 or value.shape[1] > cells:
        msg = f"{key} must have shape (3, N), N <= {cells}, got {value.shape}"
        raise ValueError(msg)
    _check_range(f"{key}: classes", value[0], 0, _SEC_CLASSES - 1)
    _check_range(f"{key}: rows", value[1], 0, _SEC_GRID - 1)
    _check_range(f"{key}: columns", value[2], 0, _SEC_GRID - 1)
    return value.astype(np.uint8, order="C")


def _read_image_list(path: _PathLike) -> dict[str, int]:
    """Read lines ``<file name> <i>`` into {stem of the file name: i}."""
    indices: dict[str, int] = {}
    taken: set[int] = set()
    # surrogateescape: a file that is not text shall fail below, by name and line.
    with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(iter(lambda: file.readline(4096), ""), start=1):
            fields = line.rsplit(maxsplit=1)
            if not fields:
                continue
            if len(fields) == 1 or _INDEX.fullmatch(fields[1]) is None:
                msg = (
                    f"{os.fspath(path)}: lines must be '<file name> <index>', "
                    f"got {show(line)} in line {number}"
                )
                raise ValueError(msg)
            stem, index = PurePosixPath(fields[0]).stem, int(fields[1])
            if stem in indices or index in taken:
                msg = (
                    f"{os.fspath(path)}: names and indices must be distinct, "
                    f"got {show(line)} in line {number}"
                )
                raise ValueError(msg)
            indices[stem] = index
            taken.add(index)
    return indices


def _check_range(name: str, values: NDArray[Any], low: int, high: int) -> None:
    if values.size == 0:
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        got = smallest if smallest < low else largest
        msg = f"{name} must be in {low}..{high}, got {got}"
        raise ValueError(msg)


# ------------------------------------------------------------------------------------- label images


def write_labels(path: _PathLike, labels: Any) -> None:
    """Write a label map as a PNG with the PASCAL VOC palette.

    The file appears whole or not at all: it is written beside `path` and then takes its place.

    Parameters
    ----------
    path : str or path-like
    labels : ndarray or CPU torch tensor, shape (H, W), any integer dtype
        Class ids 0..255, 255 = ignore. H and W are at least 1.

    Raises
    ------
    TypeError
        If `labels` is neither an array nor a tensor.
    ValueError
        If dtype, shape, device or a value is not as above.
    OSError
        If the file cannot be written; what was at `path` is then still there.
    """
    from PIL import Image

    pixels = _label_pixels(labels)
    image = Image.fromarray(pixels)
    image.putpalette(_voc_palette())
    # Not tempfile: its files are private to the user, and a label map should follow the umask.
    unfinished = Path(path).parent / f".{os.urandom(8).hex()}.tmp"
    try:
        with unfinished.open("xb") as file:
            image.save(file, format="PNG")
        unfinished.replace(path)
    except BaseException:  # Ctrl-C too must leave nothing behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def read_labels(path: _PathLike) -> NDArray[np.uint8]:
    """Read a label map from a PNG: palette indices, or the values of a gray image.

    Parameters
    ----------
    path : str or path-like
        A palette PNG (its indices are read, its colours ignored), an 8-bit gray PNG, or a 1-bit
        gray PNG, which gives 0 and 1.

    Returns
    -------
    ndarray of uint8, shape (H, W)

    Raises
    ------
    ValueError
        If the file is not a PNG, is truncated or damaged, has colours or transparency instead of
        indices, is gray with 2, 4 or 16 bits (whose values Pillow would rescale), or has more
        pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    OSError
        If the file cannot be opened or read.
    """
    from PIL import Image

    name = os.fspath(path)
    with Path(path).open("rb") as file:
        header = file.read(26)  # signature, IHDR: length, name, width, height, depth, colour type
        file.seek(0)
        try:
            # PNG alone: among Pillow's formats are some that start other programs.
            with Image.open(file, formats=("PNG",)) as image:
                width, height = image.size
                limit = Image.MAX_IMAGE_PIXELS
                too_large = limit is not None and width * height > limit
                allowed = image.mode in ("P", "L", "1") and header[24:26] not in (b"\2\0", b"\4\0")
                mode = f"{image.mode}, {header[24]} bits"
                if allowed and not too_large:
                    return np.array(image, dtype=np.uint8)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            msg = f"{name}: a label image must be within Pillow's size limit, got: {error}"
            raise ValueError(msg) from error
        except Exception as error:
            # Pillow raises SyntaxError, struct.error, EOFError and more for damaged files, and
            # OSError without errno, as it does not come from the system.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            msg = f"{name}: a label image must be a whole, undamaged PNG, got: {error}"
            raise ValueError(msg) from error
    if too_large:
        msg = f"{name}: a label image must have at most {limit} pixels, got {width} x {height}"
    else:
        msg = f"{name}: a label image must have mode P, L (8 bits) or 1, got {mode}"
    raise ValueError(msg)


def _label_pixels(labels: Any) -> NDArray[np.uint8]:
    torch = sys.modules.get("torch")  # who passes a tensor has imported it
    if torch is not None and isinstance(labels, torch.Tensor):
        if labels.device.type != "cpu":
            msg = f"labels must be on the CPU, got device {labels.device}"
            raise ValueError(msg)
        if labels.is_floating_point() or labels.is_complex():  # bfloat16 has no NumPy dtype
            msg = f"labels must have integer dtype, got {labels.dtype}"
            raise ValueError(msg)
        labels = labels.numpy()
    if not isinstance(labels, np.ndarray):
        msg = f"labels must be a NumPy array or a torch tensor, got {type(labels).__name__}"
        raise TypeError(msg)
    if labels.dtype.kind not in "iu":
        msg = f"labels must have integer dtype, got {labels.dtype}"
        raise ValueError(msg)
    if labels.ndim != 2 or labels.size == 0:
        msg = f"labels must have shape (H, W) with at least one pixel, got {labels.shape}"
        raise ValueError(msg)
    _check_range("labels", labels, 0, 255)
    return np.ascontiguousarray(labels, dtype=np.uint8)


def _voc_palette() -> list[int]:
    """Red, green, blue of the 256 PASCAL VOC colours.

    Bits 0, 3, 6 of an id are the highest bits of red, from the top; 1, 4, 7 of green; 2, 5 of
    blue.
    """
    return [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for label in range(256)
        for channel in range(3)
    ]
