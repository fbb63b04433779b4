"""Photos as RGB arrays, whatever the file's colours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from cuekit.io._common import PathLike, check_path

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# Formats that Pillow decodes itself: for some others it starts external programs. HEIF and AVIF are
# read where Pillow or a plugin of it can.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")


def read_photo(path: PathLike) -> NDArray[np.uint8]:
    """Read a photo as RGB, upright.

    Cameras store photos of any orientation as the sensor saw them, and an EXIF tag that says how to
    turn them. Programs that ignore the tag get photos that do not fit their masks.

    Parameters
    ----------
    path : str or path-like
        A JPEG, PNG, WebP, BMP, GIF, TIFF, PPM or JPEG 2000 file; AVIF and HEIF where Pillow reads
        them. Of a file with several pictures, the first is read.

    Returns
    -------
    (H, W, 3) array of uint8
        Red, green, blue. Gray and 1-bit pictures have three equal channels, palettes are looked up,
        CMYK is converted without its colour profile, and gray of 16 bits in a PNG loses its lower 8
        bits, as Pillow's 16-bit colours do. A transparency channel is dropped if the photo is
        opaque.

    Raises
    ------
    TypeError
        If `path` is no path.
    ValueError
        If the file is no such picture, is truncated or damaged; if parts of it are transparent, for
        it has no colours there until it is laid over a background; if its values have no fixed
        range (32-bit and floating pictures, 16-bit TIFF); or if it has more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``. The message names the file.
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from cuekit.io import read_photo
    >>> Image.fromarray(np.full((2, 3), 80, np.uint8)).save("gray.png")
    >>> read_photo("gray.png").shape
    (2, 3, 3)
    """
    from PIL import Image

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with check_path(path).open("rb") as file:
        try:
            with Image.open(file, formats=formats) as image:
                rule = _broken_rule(image, Image.MAX_IMAGE_PIXELS)
                if rule is None:
                    return _upright_rgb(image)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            rule = f"be within Pillow's size limit, got: {error}"
        except Exception as error:
            # For damaged files Pillow raises SyntaxError, struct.error, EOFError and more, and
            # OSError without errno. An OSError with errno comes from the operating system.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            rule = f"be a whole, undamaged picture, got: {error}"
    raise ValueError(f"{os.fspath(path)}: a photo must {rule}")


def _broken_rule(image: Image, max_pixels: int | None) -> str | None:
    """Return the rule that an opened photo breaks, before all of its pixels are converted."""
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        return f"have at most {max_pixels} pixels, got {width} x {height}"
    if image.has_transparency_data:
        if _is_deep(image):
            return f"have no transparency, got mode {image.mode} with transparency"
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            return (
                f"have no transparency, got mode {image.mode} with pixels that are transparent: "
                "lay it over a background first"
            )
    if image.mode == "F" or (_is_deep(image) and image.format != "PNG"):
        return f"have 8 bits per channel, or be a PNG, got {image.format} of mode {image.mode}"
    return None


def _is_deep(image: Image) -> bool:
    return image.mode.startswith("I")  # gray of 16 or 32 bits


def _upright_rgb(image: Image) -> NDArray[np.uint8]:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if _is_deep(upright):
        gray = (np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8)
        return np.stack([gray] * 3, axis=-1)
    if upright.has_transparency_data:  # opaque, as was checked
        upright = upright.convert("RGBA")
    return np.array(upright.convert("RGB"), dtype=np.uint8)
