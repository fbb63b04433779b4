"""Fusing the cues of several classifiers: logical OR."""

from __future__ import annotations

from typing import Any

import numpy as np

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    check_any_array,
    check_device,
    check_masks,
    check_shape,
    check_threads,
)
from cuekit._device import AnyFramework


def fuse_cues(*cue_sets: AnyFramework, threads: int | None = 1) -> AnyFramework:
    """Fuse the cues of several classifiers: on where any set is on.

    Parameters
    ----------
    *cue_sets : (..., K, H, W) arrays or tensors of bool or uint8
        One or more sets of the same shape. uint8 holds 0 and 1, or 0 and 255.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, H, W) array or tensor of bool

    Raises
    ------
    TypeError, ValueError
        If there is no set, or one has the wrong type, dtype or shape.

    Notes
    -----
    Input that is not C-contiguous is copied once.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on modifying cues with super-pixels.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> color = np.array([[[True, False, False]]])
    >>> gray = np.array([[[False, False, True]]])
    >>> cuekit.fuse_cues(color, gray).astype(int)
    array([[[1, 0, 1]]])
    """
    threads = check_threads(threads)
    if not cue_sets:
        raise ValueError("cue_sets must be one or more sets of cues, got none")
    sets: list[Any] = []
    for i, cues in enumerate(cue_sets):
        name = f"cue_sets[{i}]"
        array = check_any_array(cues, name, CUES, ndim=3, layout="(..., K, H, W)")
        if sets:
            check_device(array, name, sets[0], "cue_sets[0]")
            check_shape(array, name, sets[0].shape, "cue_sets[0]")
        check_masks(array, name)
        sets.append(array)
    out = empty(sets[0].shape, np.bool_, sets[0])
    kernels, context = backend(sets[0], threads)
    kernels.fuse([flat(each, *each.shape) for each in sets], out, context)
    return like(out, cue_sets[0])
