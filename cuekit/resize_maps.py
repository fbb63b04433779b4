"""Bilinear resizing of floating maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit._arrays import flat, like
from cuekit._backend import cpu_kernels
from cuekit._checks import (
    CUES,
    FLOATS,
    check_array,
    check_finite,
    check_pixels,
    check_size,
)
from cuekit._device import AnyFramework, Array


def resize_maps(maps: AnyFramework, size: tuple[int, int]) -> AnyFramework:
    """Resize floating maps bilinearly, such as activation maps to the size of the photo.

    Cues, which are masks, are resized by `resize_cues`.

    Parameters
    ----------
    maps : (..., C, h, w) array or tensor of float16, float32 or float64
    size : (int, int)
        Height and width of the result.

    Returns
    -------
    (..., C, height, width) array or tensor of the dtype of `maps`

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or maps are not finite.

    Notes
    -----
    Half-pixel centres, no antialiasing, edges clamped: torch's ``interpolate(mode="bilinear",
    align_corners=False)`` and OpenCV's ``INTER_LINEAR``. Positions and sums are float64. Torch
    computes positions in float32, and so differs by up to 2e-7 times the number of pixels of a side
    of `maps`, times the difference between neighbours: 2e-5 for maps in [0, 1] with 100 pixels.

    There is no kernel for CUDA devices.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.resize_maps(np.array([[[0.0, 1.0]]]), (1, 4))
    array([[[0.  , 0.25, 0.75, 1.  ]]])
    """
    source: Array = check_maps(maps, "maps", "; resize_cues resizes cues")
    height, width = check_size(size, "size")
    out = np.empty((*source.shape[:-2], height, width), source.dtype)
    interpolate(source, out, "maps")
    return like(out, maps)


def check_maps(maps: Any, name: str, advice: str = "") -> Array:
    """Adopt maps (..., C, h, w) on the CPU; `advice` ends the error for masks."""
    source = check_array(maps, name, (*FLOATS, *CUES), ndim=3, layout="(..., C, h, w)")
    if source.dtype.name in CUES:
        raise TypeError(f"{name} must have dtype {' or '.join(FLOATS)}, got {source.dtype}{advice}")
    check_pixels(source, name)
    return source


def interpolate(
    maps: Array,  # (..., h, w)
    out: Array,  # (..., H, W)
    name: str,
) -> None:
    """Write the resized maps to `out`, rounded once to its dtype."""
    if out.size == 0:
        return
    if 0 in maps.shape[-2:]:
        raise ValueError(f"{name} must have at least one pixel, got {maps.shape}")
    # The lowest or the largest value is not finite if any is not.
    spread = float(maps.max()) - float(maps.min())
    check_finite(math.isfinite(spread), (name, maps), limit=np.finfo(np.float64).max / 2)
    count = math.prod(maps.shape[:-2])
    cpu_kernels.resize_maps(
        flat(maps.astype(out.dtype, copy=False), count, *maps.shape[-2:]),
        out.reshape(count, *out.shape[-2:]),
        1,
    )
