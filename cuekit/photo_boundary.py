"""A boundary map from a photo alone, for `random_walk` without a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit._arrays import like
from cuekit._checks import (
    INTEGERS,
    check_array,
    check_finite,
    check_number,
    check_photos,
    check_size,
    check_superpixels,
    check_threads,
    warn_of_range,
)
from cuekit._device import AnyFramework, Array
from cuekit.superpixel_mean import superpixel_mean


def photo_boundary(
    image: AnyFramework,
    superpixels: Any = None,
    *,
    size: tuple[int, int] | None = None,
    contrast: float = 0.3,
    channel_axis: int | None = -1,
    threads: int | None = 1,
) -> AnyFramework:
    """Make a boundary map from the colour differences between neighbouring pixels or superpixels.

    It needs no network and no training, and knows nothing of objects: a strong edge within an
    object counts as much as its outline. With superpixels, such as those of `felzenszwalb`, it is
    clearly better than without.

    Parameters
    ----------
    image : (..., H, W, channels) array or tensor, uint8 or floating
        uint8 is scaled by 1/255. Floating photos are taken as they are: they should lie in [0, 1],
        and a warning says so if they do not.
    superpixels : (..., H, W) array or tensor of any integer dtype, optional
        If given, pixels have the mean colour of their superpixel, so boundaries are only where
        superpixels meet, and not in texture. A pixel with label -1 keeps its own colour.
    size : (int, int), optional
        Height and width of the result, such as the size of the maps that are to walk; default: the
        photo's. Every cell gets the largest value of its pixels, so thin boundaries stay closed.
    contrast : float, optional
        Colour difference at which the boundary is 0.63, greater than 0: larger means weaker
        boundaries.
    channel_axis : int or None, optional
        Axis of the channels; None for gray photos (..., H, W).
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., height, width) array or tensor of float32
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or the photo is not finite.

    Notes
    -----
    The boundary at a pixel is ``1 - exp(-d / contrast)``, where d is the larger of its colour
    differences to the pixels on the right and below; the difference of two colours is the root mean
    square over the channels. So in `random_walk` the affinity of two cells is
    ``exp(-beta d / contrast)``, d being the largest difference on the path between them. There is
    no kernel for CUDA devices.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.array([[10, 12, 200, 200]] * 2, dtype=np.uint8)
    >>> cuekit.photo_boundary(photo, channel_axis=None).round(2)
    array([[0.03, 0.91, 0.  , 0.  ],
           [0.03, 0.91, 0.  , 0.  ]], dtype=float32)
    """
    photos = check_photos(image, channel_axis)
    threads = check_threads(threads)
    contrast = check_number(contrast, "contrast")
    if contrast <= 0:
        raise ValueError(f"contrast must be greater than 0, got {contrast}")
    *batch, height, width, channels = photos.shape
    rows, columns = (height, width) if size is None else check_size(size, "size")
    if photos.dtype.kind == "f":
        check_finite(bool(np.isfinite(photos).all()), ("image", np.asarray(image)))
    colours: Any = np.moveaxis(photos, -1, -3)
    if superpixels is not None:
        labels = check_array(superpixels, "superpixels", INTEGERS, ndim=2, layout="(..., H, W)")
        check_superpixels(
            labels, tuple(batch), (height, width), "image", num_superpixels=None, validate=False
        )
        colours = superpixel_mean(colours, labels, threads=threads)
    if height * width == 0 and rows * columns > 0 and math.prod(batch) > 0:
        raise ValueError(f"image must have at least one pixel, got {photos.shape}")
    if photos.size:
        warn_of_range(photos)
    unit = 255.0 if photos.dtype == np.uint8 else 1.0
    computed = np.float64 if photos.dtype == np.float64 else np.float32
    along_x = np.zeros((*batch, height, width), computed)
    along_y = np.zeros_like(along_x)
    with np.errstate(over="ignore"):
        for k in range(channels):
            colour = colours[..., k, :, :].astype(computed)
            along_x[..., :-1] += np.diff(colour, axis=-1) ** 2
            along_y[..., :-1, :] += np.diff(colour, axis=-2) ** 2
    largest = cell_maxima(np.maximum(along_x, along_y), rows, columns)
    out: Array = -np.expm1(np.sqrt(largest / channels) / -(contrast * unit))
    return like(out.astype(np.float32, copy=False), image)


def cell_maxima(values: Array, rows: int, columns: int) -> Array:
    """Return the largest value of every cell of a grid; where it is finer, the nearest value.

    A pixel is in the cell that has its first corner.
    """
    for axis, cells in ((-2, rows), (-1, columns)):
        length = values.shape[axis]
        if cells > length:
            nearest = (2 * np.arange(cells) + 1) * length // (2 * cells)
            values = np.take(values, nearest, axis=axis)
        elif cells < length:
            starts = -(-np.arange(cells) * length // cells)
            values = np.maximum.reduceat(values, starts, axis=axis)
    return values
