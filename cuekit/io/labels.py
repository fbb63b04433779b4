"""Label maps as PNG files with the PASCAL VOC palette."""

from __future__ import annotations

import functools
import io
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import INTEGERS, check_array
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
    """
    file_path = check_path(path)
    data = encode_labels(labels)
    with replace_file(file_path) as file:
        file.write(data)


def encode_labels(labels: Any) -> bytes:
    """Return the file that `write_labels` writes; it checks `labels` as described there."""
    from PIL import Image

    pixels = check_array(labels, "labels", INTEGERS, ndim=2, layout="(H, W)")
    if pixels.ndim != 2:
        raise ValueError(f"labels must have shape (H, W), got {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"labels must have at least one pixel, got shape {pixels.shape}")
    check_range(pixels, "labels", 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    image.putpalette(palette())
    file = io.BytesIO()
    # Looks for runs of equal bytes only: 4 times as fast as by default, and objects take no more.
    image.save(file, format="PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def read_labels(path: PathLike) -> NDArray[np.uint8]:
    """Read a label map from a PNG: the palette indices, or the values of a gray image.

    Parameters
    ----------
    path : str or path-like
        A palette PNG (its indices are read, its colours ignored), an 8-bit gray PNG, or a 1-bit
        gray PNG, which gives 0 and 1.

    Returns
    -------
    (H, W) array of uint8

    Raises
    ------
    TypeError
        If `path` is no path.
    ValueError
        If the file is not a PNG, is truncated or damaged, has colours or transparency instead of
        indices, is gray with 2, 4 or 16 bits, or has more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``. The message names the file.
    OSError
        If the file cannot be opened or read.

    Notes
    -----
    All checksums in the file are compared: that of every chunk, and that of the compressed pixels.
    The number of pixels must be right, and the file must be whole. Pillow alone does not check
    this, and reads other labels from some files with a flipped bit.
    """
    with check_path(path).open("rb") as file:
        data = file.read(len(SIGNATURE))
        if data == SIGNATURE:  # else nothing more is read: it may be a device without an end
            data += file.read()
    try:
        return read_pixels(data, _check_header)
    except _WrongKindError as error:
        rule = str(error)
    except ValueError as error:
        rule = f"be a whole, undamaged PNG, got: {error}"
    raise ValueError(f"{os.fspath(path)}: a label image must {rule}")


class _WrongKindError(Exception):
    """A PNG that is no label image; the message is the rule that it breaks."""


def _check_header(header: Header) -> None:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and header.width * header.height > limit:
        raise _WrongKindError(f"have at most {limit} pixels, got {header.width} x {header.height}")
    # Gray of 2 or 4 bits: some programs read 0..3, others spread it over 0..255.
    unclear = header.colour == 0 and header.depth in (2, 4)
    if header.mode not in ("P", "L", "1") or unclear:
        raise _WrongKindError(
            f"have mode P, L (8 bits) or 1, got {header.mode}, {header.depth} bits"
        )


@functools.cache
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
