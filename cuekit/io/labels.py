"""Label maps as PNG files with the PASCAL VOC palette."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import INTEGERS, check_array
from cuekit.io._common import PathLike, check_range, replace_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


def write_labels(path: PathLike, labels: Any) -> None:
    """Write a label map as a PNG with the PASCAL VOC palette.

    The file is written under a temporary name and then renamed, so `path` never holds a partial
    file.

    Parameters
    ----------
    path : str or path-like
    labels : (H, W) array or tensor of any integer dtype
        Class ids 0 to 255, 255 = ignore. H and W are at least 1.

    Raises
    ------
    TypeError
        If `labels` is not an array or tensor of integers.
    ValueError
        If the shape, the device or a value is not as described above.
    OSError
        If the file cannot be written; an older file at `path` is then unchanged.
    """
    from PIL import Image

    pixels = check_array(labels, "labels", INTEGERS, ndim=2, layout="(H, W)")
    if pixels.ndim != 2:
        raise ValueError(f"labels must have shape (H, W), got {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"labels must have at least one pixel, got shape {pixels.shape}")
    check_range(pixels, "labels", 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    image.putpalette(palette())
    with replace_file(path) as file:
        image.save(file, format="PNG")


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
    ValueError
        If the file is not a PNG, is truncated or damaged, has colours or transparency instead of
        indices, is gray with 2, 4 or 16 bits (Pillow would rescale these values), or has more
        pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    OSError
        If the file cannot be opened or read.
    """
    from PIL import Image

    with Path(path).open("rb") as file:
        # signature (8 bytes), length and name of IHDR (8), width, height (8), bit depth, colour
        header = file.read(26)
        file.seek(0)
        try:
            # Only PNG: for some other formats Pillow starts external programs.
            with Image.open(file, formats=("PNG",)) as image:
                rule = _broken_rule(image, header, Image.MAX_IMAGE_PIXELS)
                if rule is None:
                    return np.array(image, dtype=np.uint8)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            rule = f"be within Pillow's size limit, got: {error}"
        except Exception as error:
            # For damaged files Pillow raises SyntaxError, struct.error, EOFError and more, and
            # OSError without errno. An OSError with errno comes from the operating system.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            rule = f"be a whole, undamaged PNG, got: {error}"
    raise ValueError(f"{os.fspath(path)}: a label image must {rule}")


def _broken_rule(image: Image, header: bytes, max_pixels: int | None) -> str | None:
    """Return the rule that an opened PNG breaks, before its pixels are decoded."""
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        return f"have at most {max_pixels} pixels, got {width} x {height}"
    depth, colour = header[24:26]
    rescaled = colour == 0 and depth in (2, 4)  # gray of 2 or 4 bits, which Pillow rescales to 8
    if image.mode not in ("P", "L", "1") or rescaled:
        return f"have mode P, L (8 bits) or 1, got {image.mode}, {depth} bits"
    return None


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
