"""The bilateral filter on the permutohedral lattice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit import _compile
from cuekit._arrays import empty, find_outside, flat, is_on_cpu, item, like
from cuekit._autograd import differentiable
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_photos_beside,
    check_shape,
    check_switch,
    check_threads,
    check_values,
    check_width,
)
from cuekit._device import AnyArray, AnyFramework

# Magnitudes are below it. csrc/include/cuekit/bilateral_filter.h has the same number, and says why.
LARGEST_VALUE = 1e28


def bilateral_filter(
    values: AnyFramework,
    image: Any,
    *,
    sxy: float,
    srgb: float,
    normalize: bool = False,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Sum each channel over the pixels that are close by and of a similar colour.

    Parameters
    ----------
    values : (..., K, H, W) array or tensor of float16, float32 or float64
        Maps of any number of channels. Magnitudes below 1e28.
    image : (..., H, W, 3) array or tensor of uint8
        The photos, at the size of `values`.
    sxy : float
        Standard deviation of the filter in pixels.
    srgb : float
        Its standard deviation in levels of each colour channel, 0 to 255.
    normalize : bool, optional
        Whether to divide each pixel's sum by the sum of its weights: then results are weighted
        means, and a constant map stays as it is.
    validate : bool, optional
        On a CUDA device, also check for values that are not finite or too large; this synchronises
        with the device. On the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, H, W) array or tensor, float64 for float64 values, otherwise float32
        At pixel i, the sum over all pixels j, i among them, of values at j times
        ``exp(-|p_i - p_j|^2 / 2 sxy^2 - |I_i - I_j|^2 / 2 srgb^2)``, with positions p and colours
        I.
        Sums over a photo leave float16's range, so float16 gives float32.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, values are not finite or too
        large, or a photo has 2**28 pixels or more, or so many for so narrow widths that the lattice
        cannot be addressed.

    Notes
    -----
    Sums are computed on the permutohedral lattice [1]_ in time that grows with the number of
    pixels, and are an approximation. With `normalize` it is off by 3 to 5 % for smooth maps and
    photos, by 11 to 30 % for noise. Without, it is the filter that `bilateralfilter` of [2]_
    computes, up to rounding, for photos of whole levels. Its sums are too small, because vertices
    without a neighbour lose what they would give to it: 0.5 to 0.6 of the exact ones on photos
    with widths of 20 to 100 and 13 to 15. Divided by this factor they are 4 to 11 % off for smooth
    maps, 10 to 16 % for noise. Widths below 0.125 count as 0.125, as for `dense_crf`, which filters
    in the same way.

    Computed in float32 for float16 and float32, and in float64 for float64; on a CUDA device always
    in float32. Positions in the lattice, weights and the normalisation are float32 everywhere. The
    error of float32 sums is some 1e-6 of them, and up to 1e-4 where a large photo has a single
    colour.

    Autograd knows the gradient with respect to `values`, first and higher derivatives; nothing
    flows to the photo. It is the adjoint of what is computed, on the lattice built anew: the
    lattice blurs along six axes in turn, the adjoint in the opposite order. The two differ where
    vertices lack neighbours: on photos by 1 to 2 % of most values, of some by much more. (The
    published code takes the filter itself for its gradient, and so does
    `losses.dense_energy_loss`.)

    On the CPU, workspace is 52 bytes per pixel, and for every vertex of the lattice 4 bytes (8 for
    float64) per channel, at most 32 channels at a time, and some 100 more; photos have 0.03 to a
    few vertices per pixel. Up to 128 MB of it are kept for the next call. A call in the main thread
    runs signal handlers while it computes, so Ctrl-C ends it. On a CUDA device the call does not
    synchronise, so workspace is allocated for the largest number of vertices that is possible: 48
    bytes per channel and pixel, at most 32 channels at a time, and some 560 per pixel. As many
    photos of a batch are filtered at the same time as fit in 4 GB, at least one. Results differ
    from the CPU's by the rounding of float32 and are the same in every call. Input that is not
    C-contiguous is copied once.

    References
    ----------
    .. [1] A. Adams, J. Baek, A. Davis, "Fast high-dimensional filtering using the permutohedral
       lattice", Eurographics 2010, :doi:`10.1111/j.1467-8659.2009.01645.x`.
    .. [2] M. Tang et al., "On regularized losses for weakly-supervised CNN segmentation", ECCV
       2018, arXiv:1803.09569.

    Examples
    --------
    A point spreads over the pixels of its colour.

    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.zeros((1, 6, 3), np.uint8)
    >>> photo[:, 3:] = 200
    >>> point = np.array([[[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]])
    >>> cuekit.bilateral_filter(point, photo, sxy=100, srgb=10).round(2)
    array([[[0.98, 0.97, 0.97, 0.  , 0.  , 0.  ]]])
    >>> cuekit.bilateral_filter(point, photo, sxy=100, srgb=10, normalize=True).round(2)
    array([[[0.33, 0.33, 0.33, 0.  , 0.  , 0.  ]]])
    """
    if _compile.takes(values):
        traced: AnyFramework = _compile.bilateral_filter(
            values, image, sxy, srgb, normalize, False, validate, threads
        )
        return traced
    threads = check_threads(threads)
    sxy, srgb = check_width(sxy, "sxy"), check_width(srgb, "srgb")
    check_switch(normalize, "normalize")
    return differentiable_filter(
        values, image, sxy, srgb, normalize, adjoint=False, validate=validate, threads=threads
    )


def differentiable_filter(
    values: AnyFramework,
    image: Any,
    sxy: float,
    srgb: float,
    normalize: bool,
    *,
    adjoint: bool,
    validate: bool,
    threads: int,
) -> AnyFramework:
    """Filter, or apply the adjoint of the filter; each has the other one for its gradient."""

    def filtered(array: Any) -> Any:
        return _filtered(
            array,
            image,
            sxy,
            srgb,
            normalize,
            adjoint=adjoint,
            validate=validate,
            threads=threads,
        )

    def gradient(of_result: Any) -> Any:
        return differentiable_filter(
            of_result,
            image,
            sxy,
            srgb,
            normalize,
            adjoint=not adjoint,
            validate=False,
            threads=threads,
        )

    result: AnyFramework = differentiable(values, filtered, gradient)
    return result


def _filtered(
    values: AnyFramework,
    image: Any,
    sxy: float,
    srgb: float,
    normalize: bool,
    *,
    adjoint: bool,
    validate: bool,
    threads: int,
) -> AnyFramework:
    layout = "(..., K, H, W)"
    maps = check_any_array(values, "values", FLOATS, ndim=3, layout=layout)
    *batch, channels, height, width = maps.shape
    photos = check_photos_beside(image, maps, "values")
    check_shape(photos, "image", (*batch, height, width, 3), "values")
    if height * width >= 2**28:
        raise ValueError(f"image must have fewer than 268435456 pixels, got {height * width}")
    check_values(validate)
    if validate and not is_on_cpu(maps):
        fault = _fault(maps)
        if fault is not None:
            raise ValueError(fault)
    out = empty(maps.shape, np.promote_types(maps.dtype, np.float32), maps)
    if out.size:
        images = math.prod(batch)
        shape = (images, channels, height, width)
        kernels, context = backend(maps, threads)
        valid = kernels.bilateral_filter(
            flat(maps, *shape),
            flat(photos, images, height, width, 3),
            out.reshape(shape),
            sxy,
            srgb,
            normalize,
            adjoint,
            context,
        )
        if not valid:
            raise ValueError(_fault(maps) or "values must not change while they are read")
    return like(out, values)


def _fault(maps: AnyArray) -> str | None:
    """Say which of the values is not valid; None if all are."""
    # The largest number below the limit; for float16 its largest one.
    kind = maps.dtype.type
    limit = kind(min(LARGEST_VALUE, float(np.finfo(kind).max)))
    if float(limit) >= LARGEST_VALUE:
        limit = np.nextafter(limit, kind(0))
    index = find_outside(maps, -limit, limit, allow_infinity=False)
    if index is None:
        return None
    value = kind(item(maps, index))
    rule = "below 1e+28 in magnitude" if math.isfinite(value) else "finite"
    return f"values must be {rule}, got {value!s} at index {index}"
