"""Resizing cues: to a network's grid, and back."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    check_any_array,
    check_choice,
    check_masks,
    check_pixels,
    check_size,
    check_threads,
)
from cuekit._device import AnyFramework

Rule: TypeAlias = Literal["nearest", "any", "half"]


def resize_cues(
    cues: AnyFramework,
    size: tuple[int, int],
    *,
    rule: Rule = "nearest",
    threads: int | None = 1,
) -> AnyFramework:
    """Bring cues to a network's grid, or back.

    Floating maps are resized by `resize_maps`.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        uint8 holds 0 and 1, or 0 and 255.
    size : (int, int)
        Height and width of the result.
    rule : {"nearest", "any", "half"}, optional
        What makes a cell of the new grid on: the pixel under its centre; any part of it; or at
        least half of its area.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, height, width) array or tensor of bool

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    Half-pixel centres: the source of cell i is floor((i + 1/2) * in / out). Areas are exact:
    pixels that a cell covers in part count for that part. Input that is not C-contiguous is
    copied once.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cues = np.array([[[True, False, False, True, True, True]]])
    >>> cuekit.resize_cues(cues, (1, 2), rule="half").astype(int)
    array([[[0, 1]]])
    """
    threads = check_threads(threads)
    maps: Any = check_any_array(cues, "cues", CUES, ndim=3, layout="(..., K, H, W)")
    height, width = check_size(size, "size")
    check_choice(rule, "rule", get_args(Rule))
    check_pixels(maps, "cues")
    check_masks(maps, "cues")
    out = empty((*maps.shape[:-2], height, width), np.bool_, maps)
    if out.size:
        if 0 in maps.shape[-2:]:
            raise ValueError(f"cues must have at least one pixel, got {maps.shape}")
        kernels, context = backend(maps, threads)
        source = flat(maps, math.prod(maps.shape[:-2]), *maps.shape[-2:])
        kernels.resize(source, out.reshape(len(source), height, width), rule, context)
    return like(out, cues)
