"""Label maps as PNG files, with the PASCAL VOC palette or in its colours."""

from __future__ import annotations

import io
import os
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import INTEGERS, check_array, check_choice
from cuekit.io._common import PathLike, check_path, check_range, replace_file
from cuekit.io._png import SIGNATURE, Header, read_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_labels(path: PathLike, labels: Any) -> None:
    """Write a label map as a PNG with the PASCAL VOC palette.

    The file is written under a temporary name and then renamed, so `path` never holds a partial
    file.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists. A symbolic link is followed.
    labels : (H, W) array or tensor of any integer dtype
        Class ids 0 to 255, 255 = ignore. H and W are at least 1.

    Raises
    ------
    TypeError
        If `path` is no path, or `labels` is not an array or tensor of integers.
    ValueError
        If the shape, the device or a value is not as described above.
    OSError
        If the file cannot be written, or `path` is a folder, a device or a pipe. What was at
        `path` is then unchanged. The message names `path`, or its folder where that is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import read_labels, write_labels
    >>> write_labels("labels.png", np.array([[0, 15], [15, 255]]))
    >>> read_labels("labels.png")
    array([[  0,  15],
           [ 15, 255]], dtype=uint8)
    """
    file_path = check_path(path)
    data = encode_labels(labels)
    with replace_file(file_path) as file:
        file.write(data)


def encode_labels(labels: Any) -> bytes:
    """Return the file that `write_labels` writes; it checks `labels` as described there."""
    from PIL import Image

    image = Image.fromarray(check_labels(labels))
    image.putpalette(palette())
    file = io.BytesIO()
    # Looks for runs of equal bytes only: 4 times as fast as by default, and objects take no more.
    image.save(file, format="PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def write_colours(path: PathLike, labels: Any) -> None:
    """Write a label map as an RGB PNG in the PASCAL VOC colours, to be looked at.

    `write_labels` writes the same colours as a palette, in a smaller file that other programs read
    as ids. This is for programs that need RGB, and for labels that RGB PNGs already stand beside.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists. A symbolic link is followed.
    labels : (H, W) array or tensor of any integer dtype
        Class ids 0 to 255, 255 = ignore. H and W are at least 1.

    Raises
    ------
    TypeError
        If `path` is no path, or `labels` is not an array or tensor of integers.
    ValueError
        If the shape, the device or a value is not as described above.
    OSError
        If the file cannot be written. What was at `path` is then unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import read_photo, write_colours
    >>> write_colours("colours.png", np.array([[0, 1]]))
    >>> read_photo("colours.png").tolist()
    [[[0, 0, 0], [128, 0, 0]]]
    """
    from PIL import Image

    file_path = check_path(path)
    image = Image.fromarray(voc_colours()[check_labels(labels)])
    with replace_file(file_path) as file:
        image.save(file, format="PNG")


def check_labels(labels: Any, name: str = "labels") -> NDArray[np.uint8]:
    """Return a label map that fits in uint8."""
    pixels = check_array(labels, name, INTEGERS, ndim=2, layout="(H, W)")
    if pixels.ndim != 2:
        raise ValueError(f"{name} must have shape (H, W), got {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"{name} must have at least one pixel, got shape {pixels.shape}")
    check_range(pixels, name, 0, 255)
    return pixels.astype(np.uint8)


def read_labels(path: PathLike, *, colours: Any = None) -> NDArray[np.uint8]:
    """Read a label map from a PNG: palette indices, the values of a gray image, or colours.

    Parameters
    ----------
    path : str or path-like
        A palette PNG (its indices are read, its colours ignored), an 8-bit gray PNG, or a 1-bit
        gray PNG, which gives 0 and 1. With `colours`: an RGB PNG of 8 bits, or a palette PNG, whose
        colours are then read and its indices ignored.
    colours : "voc" or (K, 3) array of uint8, optional
        The colour of each class id, distinct. "voc": the 256 colours of PASCAL VOC, of which
        (224, 224, 192) is id 255. `read_labelmap` returns the colours of a ``labelmap.txt``.

    Returns
    -------
    (H, W) array of uint8

    Raises
    ------
    TypeError
        If `path` is no path, or `colours` is no array of uint8.
    ValueError
        If the file is not a PNG, is truncated or damaged, has colours or transparency instead of
        indices, is gray with 2, 4 or 16 bits, or has more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``; or if a pixel has none of the `colours`. The message names
        the file.
    OSError
        If the file cannot be opened or read.

    Notes
    -----
    All checksums in the file are compared: that of every chunk, and that of the compressed pixels.
    The number of pixels must be right, and the file must be whole. Pillow alone does not check
    this, and reads other labels from some files with a flipped bit.

    Examples
    --------
    A palette PNG gives its indices. An RGB PNG needs the colours of the classes:

    >>> import numpy as np
    >>> from cuekit.io import read_labels, write_colours
    >>> write_colours("colours.png", np.array([[0, 1, 255]]))
    >>> read_labels("colours.png", colours="voc")
    array([[  0,   1, 255]], dtype=uint8)
    """
    file_path = check_path(path)
    table = None if colours is None else check_colours(colours)
    with file_path.open("rb") as file:
        data = file.read(len(SIGNATURE))
        if data == SIGNATURE:  # else nothing more is read: it may be a device without an end
            data += file.read()
    try:
        values, indexed = read_pixels(data, _check_header if table is None else _check_coloured)
        return values if table is None else _ids_of(values, indexed, table)
    except _WrongKindError as error:
        rule = str(error)
    except ValueError as error:
        rule = f"be a whole, undamaged PNG, got: {error}"
    raise ValueError(f"{os.fspath(path)}: a label image must {rule}")


def check_colours(colours: Any) -> NDArray[np.uint8]:
    """Return the colour of each class id, (K, 3)."""
    if isinstance(colours, str):
        check_choice(colours, "colours", ("voc",))
        return voc_colours()
    table = check_array(colours, "colours", ("uint8",), ndim=2, layout="(K, 3)")
    if table.ndim != 2 or table.shape[1] != 3 or not 1 <= len(table) <= 256:
        raise ValueError(f"colours must have shape (K, 3), K in 1..256, got {table.shape}")
    if len(np.unique(table, axis=0)) != len(table):
        raise ValueError("colours must be distinct, got some twice")
    return table


def _ids_of(
    values: NDArray[np.uint8], indexed: bytes, table: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the class id of each pixel's colour."""
    if values.ndim == 2:
        entries = np.frombuffer(indexed, np.uint8, len(indexed) // 3 * 3).reshape(-1, 3)
        if int(values.max()) >= len(entries):
            raise ValueError(f"index {values.max()} of a palette of {len(entries)} colours")
        values = entries[values]
    codes, known = _coded(values), _coded(table)
    order = known.argsort()
    # Regions are wide: colours are looked up where they change only.
    flat = codes.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    place = known[order].searchsorted(flat[starts]).clip(max=len(known) - 1)
    unknown = known[order][place] != flat[starts]
    if unknown.any():
        pixel = int(starts[unknown][0])
        y, x = divmod(pixel, codes.shape[1])
        raise _WrongKindError(
            f"have the given colours only, got {tuple(values[y, x].tolist())} at row {y}, "
            f"column {x}"
        )
    ids = order[place].astype(np.uint8)
    return np.repeat(ids, np.diff(starts, append=flat.size)).reshape(codes.shape)


def _coded(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return each colour as one number."""
    red, green, blue = np.moveaxis(colours, -1, 0).astype(np.uint32)
    coded: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return coded


class _WrongKindError(Exception):
    """A PNG that is no label image; the message is the rule that it breaks."""


def _check_header(header: Header) -> None:
    _check_number_of_pixels(header)
    # Gray of 2 or 4 bits: some programs read 0..3, others spread it over 0..255.
    unclear = header.colour == 0 and header.depth in (2, 4)
    if header.mode not in ("P", "L", "1") or unclear:
        hint = ' (pass colours="voc" for classes in PASCAL VOC\'s colours)'
        raise _WrongKindError(
            f"have mode P, L (8 bits) or 1, got {header.mode}, {header.depth} bits"
            f"{hint if header.mode == 'RGB' else ''}"
        )


def _check_coloured(header: Header) -> None:
    _check_number_of_pixels(header)
    if header.mode != "P" and (header.mode, header.depth) != ("RGB", 8):
        raise _WrongKindError(
            f"have mode RGB (8 bits) or P to be read by its colours, got {header.mode}, "
            f"{header.depth} bits"
        )


def _check_number_of_pixels(header: Header) -> None:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and header.width * header.height > limit:
        raise _WrongKindError(f"have at most {limit} pixels, got {header.width} x {header.height}")


@cache
def voc_colours() -> NDArray[np.uint8]:
    """Return the 256 PASCAL VOC colours, (256, 3), read-only."""
    colours = np.array(palette(), np.uint8).reshape(256, 3)
    colours.flags.writeable = False
    return colours


@cache
def palette() -> list[int]:
    """Return red, green, blue of the 256 PASCAL VOC colours, one after the other.

    Bits 0, 3 and 6 of a class id are the three highest bits of red, bit 0 the highest; bits 1, 4
    and 7 are those of green, bits 2 and 5 those of blue.
    """
    return [
        sum(((class_id >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for class_id in range(256)
        for channel in range(3)
    ]
