"""Class subtraction: the part of a class's activation map that no other class claims."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_choice,
    check_finite,
    check_present,
    check_threads,
    check_values,
)
from cuekit._device import AnyFramework

Mode: TypeAlias = Literal["pairwise", "strongest", "dcsm"]


def subtract_classes(
    cams: AnyFramework,
    present: Any = None,
    *,
    mode: Mode = "pairwise",
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Subtract the other present classes' maps from each present class's own.

    The maps of classes that occur in one photo overlap. The subtraction reduces a map where those
    of other present classes are larger, before the maps are thresholded.

    Parameters
    ----------
    cams : (..., C, h, w) array or tensor of float16, float32 or float64
        Class activation maps of the C foreground classes. Nothing is normalised here: the maps
        are compared as they are, so a class whose maps are larger throughout wins everywhere.
        If each map is divided by its own maximum before, classes are compared by shape only, and
        the ratio of their scores is lost.
    present : (..., C) bool, or 0 and 1 of any dtype, optional
        Which classes the image contains; default: all. The background has no entry.
    mode : {"pairwise", "strongest", "dcsm"}, optional
        With M_c the map of class c, P the number of present classes and c' running over the
        present classes other than c:

        - ``"pairwise"``: 1 / (P - 1) * sum of max(M_c - M_c', 0).
        - ``"strongest"``: max(M_c - max of M_c', 0).
        - ``"dcsm"``: D_c = sum of tanh(3 * max(M_c - M_c', 0) / max of (M_c - M_c')), then
          tanh(3 * D_c / max D_c); maxima over the image, and a quotient is 0 where its maximum
          is not positive.

        A class that is present alone gives max(M_c, 0) in every mode.
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., C, h, w) array or tensor of the dtype of `cams`
        Zeros for absent classes.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or a present class's map is not finite.

    Notes
    -----
    Differences and sums are float64; results beyond the dtype's range become infinite. Those of
    ``"dcsm"`` never are, for any finite maps. Maps of absent classes are not read. Input that is
    not C-contiguous is copied once.

    ``"dcsm"`` departs from the authors' code: there a pair whose difference is
    nowhere positive is divided by a negative maximum, which inverts the map, and what is not
    positive counts 1e-20 instead of 0. And there candidate classes are padded to four.

    References
    ----------
    .. [1] W. Shimoda, K. Yanai, "Distinct class-specific saliency maps for weakly supervised
       semantic segmentation", ECCV 2016, :doi:`10.1007/978-3-319-46493-0_14` (pairwise, dcsm).
    .. [2] L. Chan et al., "HistoSegNet", ICCV 2019 (strongest).
    .. [3] T. Sun et al., arXiv:1904.01749, on extracting cues from classifiers (pairwise).

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cams = np.array([[[3.0, 1.0]], [[1.0, 2.0]]])
    >>> cuekit.subtract_classes(cams)
    array([[[2., 0.]],
    <BLANKLINE>
           [[0., 1.]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(cams, "cams", FLOATS, ndim=3, layout="(..., C, h, w)")
    *batch, classes, height, width = maps.shape
    tags = check_present(present, "present", tuple(batch), classes, maps, "cams", validate=validate)
    check_choice(mode, "mode", get_args(Mode))
    check_values(validate, ("cams", maps), present=tags)
    out = empty(maps.shape, maps.dtype, maps)
    shape = (math.prod(batch), classes, height * width)
    kernels, context = backend(maps, threads)
    finite = kernels.subtract(
        flat(maps, *shape), flat(tags, *shape[:2]), out.reshape(shape), mode, context
    )
    check_finite(finite, ("cams", maps), present=tags)
    return like(out, cams)
