"""Means over superpixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit import _compile
from cuekit._arrays import empty, flat, like
from cuekit._autograd import differentiable
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    check_any_array,
    check_finite,
    check_superpixels,
    check_threads,
    check_values,
)
from cuekit._device import AnyFramework


def superpixel_mean(
    values: AnyFramework,
    superpixels: Any,
    *,
    num_superpixels: int | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Replace every value by the mean of its channel over its superpixel.

    Parameters
    ----------
    values : (..., K, H, W) array or tensor, floating, integer or bool
        Maps of any number of channels.
    superpixels : (..., H, W) array or tensor of any integer dtype
        Labels from 0 to 2**31 - 1; they need not be consecutive. A pixel with label -1 is in no
        superpixel and keeps its own value.
    num_superpixels : int, optional
        A number above all labels, at most H * W. On the CPU a label that is not below it raises;
        the number is not needed there. On a CUDA device pixels whose labels are not in
        0..num_superpixels - 1 are in no superpixel; without it the largest label is read back,
        which synchronises with the device.
    validate : bool, optional
        On a CUDA device, also check for non-finite values and for labels out of range; this
        synchronises with the device. On the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, H, W) array or tensor
        Of the dtype of floating `values`; float32 for integers and bool.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, labels are below -1 or too large, or
        values are not finite.

    Notes
    -----
    Sums are float64 and run in raster order within a superpixel. On a CUDA device the order is
    another one, the same in every call; means differ by some 1e-16 of the largest value. Input that
    is not C-contiguous is copied once.

    Means over several segmentations depend less on the choice of one::

        segmentations = [felzenszwalb(photo, scale) for scale in (50, 100, 200, 400)]
        mean = np.mean([superpixel_mean(maps, each) for each in segmentations], axis=0)

    Autograd knows the gradient with respect to `values`, first and higher derivatives: the mean
    over superpixels of the gradient with respect to the result, which pixels in no superpixel keep
    as it is.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.superpixel_mean(np.array([[[1.0, 3.0, 5.0]]]), np.array([[0, 0, 1]]))
    array([[[2., 2., 5.]]])
    """
    if _compile.takes(values):
        traced: AnyFramework = _compile.superpixel_mean(
            values, superpixels, num_superpixels, validate, threads
        )
        return traced
    threads = check_threads(threads)

    def mean(array: Any) -> Any:
        return _mean(array, superpixels, num_superpixels, validate=validate, threads=threads)

    def gradient(of_means: Any) -> Any:
        # The matrix of the means is symmetric: its adjoint is the mean again. At pixels in no
        # superpixel it is the identity, too.
        return superpixel_mean(
            of_means, superpixels, num_superpixels=num_superpixels, threads=threads
        )

    result: AnyFramework = differentiable(values, mean, gradient)
    return result


def _mean(
    values: AnyFramework,
    superpixels: Any,
    num_superpixels: int | None,
    *,
    validate: bool,
    threads: int,
) -> AnyFramework:
    maps = check_any_array(
        values, "values", (*FLOATS, *INTEGERS, "bool"), ndim=3, layout="(..., K, H, W)"
    )
    *batch, channels, height, width = maps.shape
    check_values(validate, ("values", maps))
    labels = check_any_array(
        superpixels,
        "superpixels",
        INTEGERS,
        ndim=2,
        layout="(..., H, W)",
        beside=(maps, "values"),
    )
    labels, limit = check_superpixels(
        labels,
        tuple(batch),
        (height, width),
        "values",
        num_superpixels=num_superpixels,
        validate=validate,
    )
    floating = maps.dtype.kind == "f"
    out = empty(maps.shape, maps.dtype if floating else np.float32, maps)
    if maps.size:
        images = math.prod(batch)
        shape = (images, channels, height, width)
        kernels, context = backend(maps, threads)
        finite = kernels.superpixel_mean(
            flat(maps, *shape),
            flat(labels, images, height, width),
            limit,
            out.reshape(shape),
            context,
        )
        check_finite(finite, ("values", maps))
    return like(out, values)
