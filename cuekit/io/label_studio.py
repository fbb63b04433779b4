"""Label Studio's files: brush masks, and tasks with label maps that are already there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit.classes import class_names
from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.io.coco import checked_photos
from cuekit.io.rle import check_mask, run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = 4  # Label Studio stores an RGBA picture; the mask is in all four
_WORD = 8  # bits of a value
_LENGTH_BITS = np.array([3, 4, 8, 16])  # a run's length, less 1, takes one of these


def label_studio_rle(mask: Any) -> list[int]:
    """Encode a mask as Label Studio stores brush strokes.

    Parameters
    ----------
    mask : (H, W) array or tensor of bool, or uint8 with 0 and 1, or 0 and 255
        H and W are at least 1, with at most 2**30 pixels.

    Returns
    -------
    list of int
        Bytes, for ``"value": {"format": "rle", "rle": ...}``.

    Raises
    ------
    TypeError
        If `mask` is not an array or tensor of these dtypes.
    ValueError
        If a shape or value is not as described above.

    Notes
    -----
    Run lengths of an RGBA picture row by row, with 0 and 255, in a stream of bits: the number of
    values (32), the size of a value less 1 (5), four sizes of lengths less 1 (4 each); then for
    each run a 1, which of the four sizes (2), the length less 1, and the value (8). The packing is
    that of the npm package ``@thi.ng/rle-pack``.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import label_studio_rle
    >>> label_studio_rle(np.array([[0, 1]], dtype=bool))
    [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    pixels = check_mask(mask)
    if pixels.size >= 2**30:
        raise ValueError(f"mask must have fewer than {2**30} pixels, got {pixels.size}")
    lengths = run_lengths(pixels.reshape(-1)) * _CHANNELS
    values = np.arange(lengths.size) % 2 * 255
    # A run that is too long for 16 bits is cut.
    pieces = -(-lengths // 2**16)
    last = np.cumsum(pieces) - 1
    values = np.repeat(values, pieces)
    cut = np.full(values.size, 2**16)
    full = lengths > 0
    cut[last[full]] = (lengths[full] - 1) % 2**16 + 1
    sizes = np.searchsorted(2**_LENGTH_BITS, cut)
    bits = _LENGTH_BITS[sizes]
    codes = ((4 | sizes) << bits | cut - 1) << _WORD | values
    header = f"{pixels.size * _CHANNELS:032b}{_WORD - 1:05b}"
    header += "".join(f"{size - 1:04b}" for size in _LENGTH_BITS)
    stream = np.concatenate([np.array(list(header), np.uint8), _bits(codes, 3 + bits + _WORD)])
    return np.packbits(stream).tolist()


def _bits(codes: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the lowest `widths` bits of each code, the highest first, one after the other."""
    raised = (codes << (32 - widths)).astype(">u4")
    table = np.unpackbits(raised.view(np.uint8).reshape(-1, 4), axis=1)
    return table[np.arange(32) < widths[:, None]]


def write_label_studio(
    path: PathLike,
    photos: Iterable[tuple[str, Any]],
    classes: str | os.PathLike[str] | Sequence[str],
    *,
    url: str = "",
    model_version: str = "cuekit",
) -> None:
    """Write label maps as tasks for Label Studio, with predictions that people can correct.

    Parameters
    ----------
    path : str or path-like
        A JSON file, or the name of a new one in a folder that exists.
    photos : iterable of (file name, labels)
        The name of each photo, and its label map, an (H, W) array or tensor of any integer dtype:
        class ids, 0 = background, 255 = ignore. They are asked for one by one.
    classes : {"voc", "coco"}, path or sequence of str
        The names of the classes, the background first, as for `class_names`.
    url : str, default ""
        What comes before the file name, for example ``"/data/local-files/?d=photos/"``.
    model_version : str, default "cuekit"
        What Label Studio calls the predictions.

    Raises
    ------
    TypeError
        If `path` is no path, `photos` has other items, or an option is no string.
    ValueError
        If a name is there twice, or a label is no class. The message names the photo.
    OSError
        If the file cannot be written. What was at `path` is then unchanged.

    Notes
    -----
    A photo has one brush stroke for each class; background and label 255 are left blank. The
    project's labelling configuration must have these names::

        <View>
          <Image name="image" value="$image"/>
          <BrushLabels name="tag" toName="image">
            <Label value="cat"/> ...
          </BrushLabels>
        </View>
    """
    import json

    file_path = check_path(path)
    names = class_names(classes)
    for option, value in (("url", url), ("model_version", model_version)):
        if not isinstance(value, str):
            raise TypeError(f"{option} must be a string, got {value!r}")
    with replace_file(file_path) as file:
        separator = b"["
        for file_name, labels, counts in checked_photos(photos, names):
            height, width = labels.shape
            strokes = [
                {
                    "id": f"class-{class_id}",
                    "type": "brushlabels",
                    "from_name": "tag",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {
                        "format": "rle",
                        "rle": label_studio_rle(labels == class_id),
                        "brushlabels": [names[class_id]],
                    },
                }
                for class_id in range(1, len(names))
                if counts[class_id]
            ]
            task = {
                "data": {"image": url + file_name},
                "predictions": [{"model_version": model_version, "result": strokes}],
            }
            file.write(separator + b"\n" + json.dumps(task).encode())
            separator = b","
        file.write(b"\n]\n" if separator == b"," else b"[]\n")
