"""Masks of one photo, as SAM's programs write them: PNGs, run lengths, or a label map."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_integer
from cuekit.io._archive import NPY_MAGIC, NpyHeader
from cuekit.io._common import PathLike, check_path
from cuekit.io._unpickle import Budget, read_bytes, show, unpickle_objects
from cuekit.io.labels import read_labels
from cuekit.io.rle import checked_size, decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Parsed JSON takes up to some 30 times the memory of its text. SAM's files have some 100 kilobytes.
_MAX_JSON = 2**25
_MAX_CSV = 2**24
_ID = re.compile(r"0|[1-9][0-9]{0,8}")


def read_masks(path: PathLike, *, max_bytes: int = 2**30) -> NDArray[Any]:
    """Read the masks of one photo that SAM's programs write, for use as `superpixels`.

    Nothing in a file is ever executed; pycocotools is not needed.

    Parameters
    ----------
    path : str or path-like
        One of these:

        - a folder of SAM's ``amg.py``: ``metadata.csv``, and a PNG of 0 and 255 for each of its
          rows;
        - the JSON that ``amg.py --convert-to-rle`` writes: a list of masks, whose ``segmentation``
          is COCO's compressed run lengths ``{"size": [H, W], "counts": text}``. Uncompressed
          counts, a list of integers, are read as well;
        - such a list as a pickle of protocol 2 to 5, as SAM's mask generator returns it in any of
          its output modes: run lengths of both kinds, or bool arrays (H, W);
        - an ``.npy`` of integers (H, W): a label map, -1 = in no mask.
    max_bytes : int, default 2**30
        Size limit of the masks, and of a file, in bytes. Reading may need about three times as much
        memory.

    Returns
    -------
    (R, H, W) array of bool, or (H, W) array of int32
        The masks in the order of the file (a folder: of ``metadata.csv``), or the label map.
        Functions with an argument `superpixels` take both.

    Raises
    ------
    TypeError
        If `path` is no path, or `max_bytes` is not an integer.
    ValueError
        If the file is none of these, is damaged or too large, has masks of several sizes, or no
        mask at all: it does not say the photo's size then. The message names the file.
    OSError
        If a file cannot be opened or read.

    Examples
    --------
    A JSON of run lengths, as ``amg.py --convert-to-rle`` writes it:

    >>> import json
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from cuekit.io import encode_rle, read_masks
    >>> masks = [{"segmentation": encode_rle(np.eye(2, dtype=bool))}]
    >>> _ = Path("masks.json").write_text(json.dumps(masks))
    >>> read_masks("masks.json")
    array([[[ True, False],
            [False,  True]]])
    """
    file_path = check_path(path)
    max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
    try:
        if file_path.is_dir():
            return _read_folder(file_path, max_bytes)
        with file_path.open("rb") as file:
            return _read_file(file, os.fstat(file.fileno()).st_size, max_bytes)
    except ValueError as error:
        rule = str(error)
    raise ValueError(f"{os.fspath(path)}: {rule}")


def _read_file(file: IO[bytes], size: int, max_bytes: int) -> NDArray[Any]:
    start = file.read(len(NPY_MAGIC))
    file.seek(0)
    if start == NPY_MAGIC:
        return _read_label_map(file, max_bytes)
    if start.startswith(b"\x80"):
        found = unpickle_objects(file, Budget(size, max_bytes))
        if file.read(1):
            raise ValueError("nothing may follow the pickle's STOP, got more bytes")
    elif start.lstrip()[:1] == b"[":
        if size > _MAX_JSON:
            raise ValueError(f"a JSON of masks must have at most {_MAX_JSON} bytes, got {size}")
        found = _parsed(read_bytes(file, size))
    else:
        raise ValueError(
            "masks must be a folder of SAM's, a JSON list, a pickle of protocol 2 to 5, or an "
            f".npy, got first bytes {show(start)}"
        )
    return _stacked(found, max_bytes)


def _parsed(text: bytes) -> object:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a JSON of masks must be whole and undamaged, got: {error}") from None


# ----------------------------------------------------------------------------------------- folders


def _read_folder(folder: Path, max_bytes: int) -> NDArray[np.bool_]:
    ids = _listed_ids(folder / "metadata.csv")
    pictures = sum(_ID.fullmatch(entry.stem) is not None for entry in folder.glob("*.png"))
    if pictures != len(ids):
        # amg.py writes the list last: a run that was stopped has none.
        raise ValueError(
            f"metadata.csv must list all numbered PNGs, got {len(ids)} rows for {pictures} PNGs"
        )
    masks = None
    for row, each in enumerate(ids):
        values = read_labels(folder / f"{each}.png")
        on = values == 255
        if not (on | (values == 0)).all():
            raise ValueError(f"the pixels of masks must be 0 and 255, got others in {each}.png")
        if masks is None:
            masks = _empty_stack(len(ids), on.shape, max_bytes)
        if on.shape != masks.shape[1:]:
            raise ValueError(
                f"masks must have one size, got {on.shape} in {each}.png after {masks.shape[1:]}"
            )
        masks[row] = on
    if masks is None:
        raise ValueError("a folder of masks must have at least one mask, got none")
    return masks


def _listed_ids(path: Path) -> list[str]:
    import csv

    with path.open("rb") as file:
        data = read_bytes(file, _MAX_CSV + 1)
    if len(data) > _MAX_CSV:
        raise ValueError(f"metadata.csv must have at most {_MAX_CSV} bytes, got more")
    try:
        rows = [row for row in csv.reader(data.decode().splitlines()) if row]
    except csv.Error as error:
        raise ValueError(f"metadata.csv must be a table, got: {error}") from None
    if not rows or rows[0][0] != "id":
        raise ValueError(
            f"metadata.csv must begin with a column id, got {show(rows[0][0] if rows else '')}"
        )
    ids = [row[0] for row in rows[1:]]
    for each in ids:
        if _ID.fullmatch(each) is None:
            raise ValueError(f"the ids in metadata.csv must be numbers, got {show(each)}")
    if len(set(ids)) != len(ids):
        raise ValueError("the ids in metadata.csv must be distinct, got some twice")
    return ids


# --------------------------------------------------------------------------------- lists of masks


def _stacked(found: object, max_bytes: int) -> NDArray[np.bool_]:
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"masks must be a list of dicts, got {show(found)}")
    if not found:
        raise ValueError("a list of masks must have at least one mask, got none")
    masks = None
    for row, each in enumerate(found):
        segmentation = each.get("segmentation")
        if isinstance(segmentation, dict):
            size = checked_size(segmentation.get("size"))
        elif isinstance(segmentation, np.ndarray) and segmentation.dtype == bool:
            size = segmentation.shape
        else:
            raise ValueError(
                "a mask's segmentation must be a dict of size and counts, or a bool array, got "
                f"{show(segmentation)} for mask {row}"
            )
        if masks is None:
            if len(size) != 2 or 0 in size:
                raise ValueError(f"masks must have shape (H, W), H and W >= 1, got {size}")
            masks = _empty_stack(len(found), size, max_bytes)
        if size != masks.shape[1:]:
            raise ValueError(
                f"masks must have one size, got {size} for mask {row} after {masks.shape[1:]}"
            )
        if isinstance(segmentation, dict):
            masks[row] = decoded(segmentation.get("counts"), size)
        else:
            masks[row] = segmentation
    assert masks is not None  # noqa: S101 - the list is not empty
    return masks


def _empty_stack(count: int, size: tuple[int, ...], max_bytes: int) -> NDArray[np.bool_]:
    needed = count * size[0] * size[1]
    if needed > max_bytes:
        raise ValueError(
            f"masks must have at most max_bytes = {max_bytes} bytes, got {needed} for {count} of "
            f"{size[0]} x {size[1]} pixels"
        )
    return np.empty((count, *size), bool)


# -------------------------------------------------------------------------------------- label maps


def _read_label_map(file: IO[bytes], max_bytes: int) -> NDArray[np.int32]:
    header = NpyHeader(file)
    if header.dtype is None or header.dtype.kind not in "iu" or len(header.shape) != 2:
        dtype = "objects" if header.dtype is None else header.dtype
        raise ValueError(
            f"an .npy of masks must be a label map, integers (H, W), got {dtype} {header.shape}"
        )
    if 0 in header.shape:
        raise ValueError(f"a label map must have at least one pixel, got shape {header.shape}")
    if header.nbytes > max_bytes:
        raise ValueError(
            f"masks must have at most max_bytes = {max_bytes} bytes, got {header.nbytes}"
        )
    labels = header.array(read_bytes(file, header.nbytes))
    if file.read(1):
        raise ValueError("nothing may follow the label map, got more bytes")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= 2**31:
        raise ValueError(
            f"labels must be in -1..{2**31 - 1}, -1 = in no mask, got {low if low < -1 else high}"
        )
    return labels.astype(np.int32, order="C")
