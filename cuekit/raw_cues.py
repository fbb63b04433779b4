"""Raw cues: thresholded activation maps and background map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_finite,
    check_number,
    check_present,
    check_shape,
    check_threads,
    check_values,
)
from cuekit._device import AnyFramework


def raw_cues(
    cams: AnyFramework,
    background: Any = None,
    present: Any = None,
    *,
    foreground_threshold: float = 0.3,
    background_threshold: float = 0.2,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Threshold activation maps and the background map into class-specific binary masks.

    Parameters
    ----------
    cams : (..., C, h, w) array or tensor of float16, float32 or float64
        Maps of the C foreground classes, as they are or from `subtract_classes`.
    background : (..., h, w) array or tensor, optional
        A floating background map, low = background, as `background_map` gives it; or a bool
        array, taken as the background cue itself; or None, which leaves channel 0 empty.
    present : (..., C) bool, or 0 and 1 of any dtype, optional
        Which classes the image contains; default: all. The background has no entry.
    foreground_threshold : float, optional
        Class c is on where M_c > foreground_threshold * max M_c; nowhere if max M_c <= 0.
    background_threshold : float, optional
        Background is on where the background map is < background_threshold.
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., C + 1, h, w) array or tensor of bool
        Channel 0 is the background. Channels may overlap.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or maps are not finite.

    Notes
    -----
    Compared in float64. Maps of absent classes are not read. Input that is not C-contiguous is
    copied once. Kolesnikov and Lampert (SEC) use 0.2 for the foreground; 0.3 is this paper's.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on extracting cues from classifiers.
    .. [2] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.raw_cues(np.array([[[1.0, 4.0]]]), np.array([[0.1, 0.9]])).astype(int)
    array([[[1, 0]],
    <BLANKLINE>
           [[0, 1]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(cams, "cams", FLOATS, ndim=3, layout="(..., C, h, w)")
    *batch, classes, height, width = maps.shape
    tags = check_present(present, "present", tuple(batch), classes, maps, "cams", validate=validate)
    foreground_threshold = check_number(foreground_threshold, "foreground_threshold")
    background_threshold = check_number(background_threshold, "background_threshold")
    check_values(validate, ("cams", maps), present=tags)
    images, pixels = math.prod(batch), height * width
    background_map = None
    if background is not None:
        background_map = check_any_array(
            background,
            "background",
            (*FLOATS, "bool"),
            ndim=2,
            layout="(..., h, w)",
            beside=(maps, "cams"),
        )
        check_shape(background_map, "background", (*batch, height, width), "cams")
        check_values(validate, ("background", background_map))
        background_map = flat(background_map, images, pixels)
    out = empty((*batch, classes + 1, height, width), np.bool_, maps)
    target = out.reshape(images, classes + 1, pixels)
    kernels, context = backend(maps, threads)
    finite = kernels.raw_background(background_map, target, background_threshold, context)
    check_finite(finite, ("background", background))
    finite = kernels.raw_foreground(
        flat(maps, images, classes, pixels),
        flat(tags, images, classes),
        target,
        foreground_threshold,
        context,
    )
    check_finite(finite, ("cams", maps), present=tags)
    return like(out, cams)
