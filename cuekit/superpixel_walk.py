"""A random walk with restart on the graph of superpixels."""

from __future__ import annotations

import math

import numpy as np

from cuekit._arrays import flat, like
from cuekit._backend import cpu_kernels
from cuekit._checks import (
    FLOATS,
    check_array,
    check_finite,
    check_number,
    check_shape,
    check_threads,
)
from cuekit._device import AnyFramework, Array
from cuekit.superpixel_graph import SuperpixelGraph, check_graph

MIN_RESTART = 1e-4


def superpixel_walk(
    values: AnyFramework,
    graph: SuperpixelGraph,
    *,
    restart: float = 0.02,
    sigma: float = 10.0,
    threads: int | None = 1,
) -> AnyFramework:
    """Spread the values of superpixels to others of similar colour that they are connected to.

    Each superpixel gets the mean of the values at the places where random walks that begin there
    are when they end. A walk goes on to a superpixel that touches, more likely over a long common
    border and to a similar colour, and ends at each place with the probability `restart`.

    Parameters
    ----------
    values : (..., S) array or tensor of float16, float32 or float64
        Values of the superpixels, for any number of classes, such as ``graph.mean(maps)``.
    graph : SuperpixelGraph
        The superpixels, from `superpixel_graph` with the photo. Other features than colours can
        stand in ``graph._replace(colours=features)``, which is (S, D) of float64.
    restart : float, optional
        Probability of a restart, from 0.0001 to 1: 1 - alpha, where alpha is that of going on.
    sigma : float, optional
        Colour difference in L*a*b* at which a step is less likely by the factor 0.61, greater
        than 0.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., S) array or tensor of the dtype of `values`
        Between the smallest and the largest value of the same class. Not normalised.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, values are not finite, or the
        graph has no colours.

    Notes
    -----
    The result is ``restart (I - (1 - restart) P)^-1 values``: the probabilities of a random walk
    with restart [1]_, [2]_ from each superpixel, times the values. P is the matrix of ::

        length(i, j) exp(-|colour(i) - colour(j)|^2 / (2 sigma^2))

    with its rows divided by their sums. A superpixel that touches none keeps its value.

    The solution is iterative, with memory in proportion to the graph, and its error is at most
    1e-10 of the largest magnitude of the class: there is a bound for it that holds for any graph.
    Computed in float64. There is no kernel for CUDA devices.

    References
    ----------
    .. [1] J.-Y. Pan, H.-J. Yang, C. Faloutsos, P. Duygulu, "Automatic multimedia cross-modal
       correlation discovery", KDD 2004, :doi:`10.1145/1014052.1014135`.
    .. [2] H. Tong, C. Faloutsos, J.-Y. Pan, "Fast random walk with restart and its applications",
       ICDM 2006, :doi:`10.1109/ICDM.2006.70`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.array([[[99, 0, 0], [96, 0, 0], [0, 0, 99], [0, 0, 96]]], dtype=np.uint8)
    >>> graph = cuekit.superpixel_graph(np.array([[0, 1, 2, 3]]), photo)
    >>> cuekit.superpixel_walk(np.array([1.0, 0.0, 0.0, 0.0]), graph).round(2)
    array([0.51, 0.49, 0.  , 0.  ])
    """
    table: Array = check_array(values, "values", FLOATS, ndim=1, layout="(..., S)")
    graph = check_graph(graph)
    restart = check_number(restart, "restart", minimum=MIN_RESTART)
    if restart > 1:
        raise ValueError(f"restart must be at most 1, got {restart}")
    sigma = check_number(sigma, "sigma")
    if sigma <= 0:
        raise ValueError(f"sigma must be greater than 0, got {sigma}")
    threads = check_threads(threads)
    batch: tuple[int, ...] = table.shape[:-1]
    count = len(graph.sizes)
    check_shape(table, "values", (*batch, count), "graph")
    check_finite(bool(np.isfinite(table).all()), ("values", table))
    out = np.zeros(table.shape)
    classes = math.prod(batch)
    if out.size:
        cpu_kernels.superpixel_walk(
            flat(table, classes, count).astype(np.float64),
            graph.edges,
            graph.edge_lengths,
            graph.colours,
            out.reshape(classes, count),
            restart,
            sigma,
            threads,
        )
    return like(out.astype(table.dtype, copy=False), values)
