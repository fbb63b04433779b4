"""Random walk that spreads activation maps up to the boundaries of objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit._arrays import empty, find_outside, flat, is_on_cpu, item, like
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    RANGE_TOLERANCE,
    check_any_array,
    check_finite,
    check_integer,
    check_number,
    check_pixels,
    check_threads,
    check_values,
)
from cuekit._device import AnyArray, AnyFramework, Array

# Published code has 5. Neighbours, and so time and memory, grow with its square: 396 pairs here.
MAX_RADIUS = 16
BETA_OF_BOUNDARY = 10.0  # IRN
BETA_OF_AFFINITIES = 8.0  # PSA


def neighbour_offsets(radius: int = 5) -> Array:
    """Return the offsets of a cell's neighbours, in the order of the channels of `affinities`.

    Parameters
    ----------
    radius : int, optional
        Neighbours are cells at a distance below it; from 2 to 16.

    Returns
    -------
    (K, 2) array of int64
        Pairs (dy, dx), one of each two opposite offsets: first (0, 1), (0, 2), ...; then dy = 1, 2,
        ..., and dx ascending within each. K is 34 for radius 5. This is PSA's order.

    Raises
    ------
    TypeError, ValueError
        If the radius is not such a number.

    Examples
    --------
    >>> from cuekit.random_walk import neighbour_offsets
    >>> neighbour_offsets(2).tolist()
    [[0, 1], [1, -1], [1, 0], [1, 1]]
    """
    radius = _check_radius(radius)
    offsets = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(1 - radius if dy else 1, radius)
        if dy * dy + dx * dx < radius * radius
    ]
    return np.array(offsets)


def random_walk(
    maps: AnyFramework,
    boundary: Any = None,
    *,
    affinities: Any = None,
    radius: int = 5,
    beta: float | None = None,
    steps: int = 256,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Spread maps over neighbouring cells, up to where a boundary separates them.

    The form of IRN [1]_ with `boundary`, `propagate_to_edge` in its code, and that of PSA [2]_ with
    `affinities`; exactly one of the two is given. Equal to the code of both up to rounding, without
    their dense matrix of all pairs of cells.

    Parameters
    ----------
    maps : (..., C, h, w) array or tensor of float16, float32 or float64
        Maps of any number of classes, such as class activation maps.
    boundary : (..., h, w) array or tensor of float16, float32 or float64
        How much each cell is on a boundary of objects, in [0, 1]; rounding may exceed this range by
        0.001. `photo_boundary` makes one from a photo alone.
    affinities : (..., K, h, w) array or tensor of float16, float32 or float64
        How much two cells belong together, in [0, 1] up to the same rounding: ``[k, y, x]`` is for
        cells (y, x) and (y + dy, x + dx), (dy, dx) being the k-th of `neighbour_offsets`. Where the
        second cell is outside the map, the value does not matter.
    radius : int, optional
        Neighbours are cells at a distance below it, from 2 to 16. It may exceed the map: there are
        no neighbours outside.
    beta : float, optional
        Exponent of the affinities, greater than 0. Default: 10 with `boundary`, as in IRN, and 8
        with `affinities`, as in PSA.
    steps : int, optional
        Steps of the walk. Published code squares the transition matrix 8 times, which is 256 steps.
    validate : bool, optional
        On a CUDA device, also check the values of all arrays; this synchronises with the device. On
        the CPU they are always checked. Without the check, values outside [0, 1] are clipped.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., C, h, w) array or tensor of the dtype of `maps`
        Not normalised; published code divides by the maximum.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, both or none of `boundary` and
        `affinities` are given, maps are not finite, or the others are outside [0, 1].

    Notes
    -----
    In each step, the value of cell i becomes the mean of its own and its neighbours' values,
    weighted by affinities ::

        x(i) <- (x(i) + sum_j a(i, j) x(j)) / (1 + sum_j a(i, j))
        a(i, j) = affinity(i, j)^beta, or (1 - max of boundary over the path from i to j)^beta

    The path has the cells of the rectangle between i and j whose distance from the straight line is
    below 1, both ends included. With `boundary`, the walk starts from maps * (1 - boundary), as in
    IRN; with `affinities`, from the maps.

    All arrays have one size, h × w; another one raises. Networks have 1/4 of the photo's size in
    IRN and 1/8 in PSA: resize the maps to it first, and the result to the photo's size afterwards.

    PSA's code leaves out pairs that start in the last four rows or in the first or last four
    columns. To have the same from its network's affinities, bring them to this layout with zeros
    there: ``np.pad(aff.reshape(34, h - 4, w - 8), ((0, 0), (0, 4), (4, 4)))``.

    Computed in float64 if `maps` are, otherwise in float32. The power of the transition matrix is
    expanded in Chebyshev polynomials, of which 92 suffice for 256 steps in float32, and 134 in
    float64: what is left out is below their rounding. In float32 results are good to some 1e-6 of
    the largest value. Values below 1e-34 may become 0.

    Workspace is K + 2 values per cell and 4 for each of at most 8 maps at a time, of these dtypes,
    plus padding; every image of a batch that is worked on at a time has its own. Up to 128 MB of it
    are kept for the next call. Input that is not C-contiguous is copied once. On the CPU, a call in
    the main thread runs signal handlers while it computes, so Ctrl-C ends it.

    References
    ----------
    .. [1] J. Ahn, S. Cho, S. Kwak, "Weakly supervised learning of instance segmentation with
       inter-pixel relations", CVPR 2019, arXiv:1904.05044.
    .. [2] J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision for
       weakly supervised semantic segmentation", CVPR 2018, arXiv:1803.10464.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> maps = np.array([[[0.0, 0.9, 0.0, 0.0, 0.0, 0.0]]])
    >>> boundary = np.array([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    >>> cuekit.random_walk(maps, boundary).round(2)
    array([[[0.3, 0.3, 0.3, 0. , 0. , 0. ]]])
    """
    threads = check_threads(threads)
    values = check_any_array(maps, "maps", FLOATS, ndim=3, layout="(..., C, h, w)")
    *batch, channels, height, width = values.shape
    check_pixels(values, "maps")
    radius = _check_radius(radius)
    if (boundary is None) == (affinities is None):
        given = "none" if boundary is None else "both"
        raise ValueError(f"one of boundary and affinities must be given, got {given}")
    shape: tuple[int, ...] = (height, width)
    if boundary is not None:
        name, beta_of_paper = "boundary", BETA_OF_BOUNDARY
        relations = _check_relations(boundary, name, "(..., h, w)", values, shape)
    else:
        name, beta_of_paper = "affinities", BETA_OF_AFFINITIES
        shape = (len(neighbour_offsets(radius)), *shape)
        relations = _check_relations(affinities, name, "(..., K, h, w)", values, shape)
    beta = check_number(beta_of_paper if beta is None else beta, "beta")
    if beta <= 0:
        raise ValueError(f"beta must be greater than 0, got {beta}")
    steps = min(check_integer(steps, "steps", minimum=0), 2**31 - 1)
    check_values(validate, ("maps", values))
    if validate and not is_on_cpu(relations):
        _check_range(relations, name)
    out = empty(values.shape, values.dtype, values)
    if out.size:
        images = math.prod(batch)
        flat_relations = flat(relations, images, *shape)
        kernels, context = backend(values, threads)
        valid = kernels.random_walk(
            flat(values, images, channels, height, width),
            flat_relations if affinities is None else None,
            flat_relations if boundary is None else None,
            out.reshape(images, channels, height, width),
            radius,
            beta,
            steps,
            context,
        )
        if not valid:
            _check_range(relations, name)
            check_finite(valid, ("maps", values))
    return like(out, maps)


def _check_radius(radius: Any) -> int:
    checked = check_integer(radius, "radius", minimum=2)
    if checked > MAX_RADIUS:
        raise ValueError(f"radius must be at most {MAX_RADIUS}, got {checked}")
    return checked


def _check_relations(
    value: Any, name: str, layout: str, maps: AnyArray, shape: tuple[int, ...]
) -> AnyArray:
    """Adopt a boundary or affinities: batch dimensions as of the maps, then `shape`."""
    array: AnyArray = check_any_array(
        value, name, FLOATS, ndim=len(shape), layout=layout, beside=(maps, "maps")
    )
    whole = (*maps.shape[:-3], *shape)
    if array.shape != whole:
        other_size = array.shape[-2:] != shape[-2:]
        raise ValueError(
            f"{name} must have shape {whole} to match maps, got {array.shape}"
            + ("; resize one of the two" if other_size else "")
        )
    return array


def _check_range(array: AnyArray, name: str) -> None:
    """Raise if a value is not in [0, 1] up to rounding. On a device this synchronises."""
    kind = array.dtype.type
    limits = kind(-RANGE_TOLERANCE), kind(1 + RANGE_TOLERANCE)
    index = find_outside(array, *limits, allow_infinity=False)
    if index is not None:
        value = kind(item(array, index))
        rule = "lie in [0, 1]" if math.isfinite(value) else "be finite"
        raise ValueError(f"{name} must {rule}, got {value!s} at index {index}")
