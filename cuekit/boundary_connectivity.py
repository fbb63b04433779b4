"""How much superpixels belong to the background, by how they are connected to the border."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cuekit._arrays import like
from cuekit._backend import cpu_kernels
from cuekit._checks import check_finite, check_number, check_threads
from cuekit.superpixel_graph import SuperpixelGraph, check_graph

# Time grows with the square of the first, and memory with that of the second.
MAX_SUPERPIXELS, MAX_AT_BORDER = 2**14, 2**11
MIN_SIGMA = 1e-6
COLOUR_LIMIT = 1e100


class BoundaryConnectivity(NamedTuple):
    """What `boundary_connectivity` returns: a named tuple of arrays, or of tensors.

    Parameters
    ----------
    connectivity : (S,) float64
        Border pixels of what is similar, divided by the square root of its area: the higher, the
        more a superpixel is background. An object that touches no border has some 0; a half-plane
        and more at the border has 2 and more.
    contrast : (S,) float64
        Contrast to the background nearby, from 0 to 1, which is the largest of the photo.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> superpixels = np.zeros((9, 9), int)
    >>> superpixels[3:6, 3:6] = 1
    >>> photo = np.where(superpixels[..., None], 200, np.zeros(3)).astype(np.uint8)
    >>> graph = cuekit.superpixel_graph(superpixels, photo)
    >>> connectivity, contrast = cuekit.boundary_connectivity(graph)
    >>> connectivity.round(2), contrast.round(2)
    (array([3.77, 0.  ]), array([0., 1.]))
    """

    connectivity: Any
    contrast: Any


def boundary_connectivity(
    graph: SuperpixelGraph,
    *,
    sigma: float = 7.0,
    clip: float = 3.0,
    spatial_sigma: float = 0.4,
    threads: int | None = 1,
) -> BoundaryConnectivity:
    """Measure how much superpixels are connected to the image's border, and contrast to what is.

    A background touches the border along much of its outline; an object, if at all, along little.
    It needs no maps and no training, and knows nothing of classes.

    Parameters
    ----------
    graph : SuperpixelGraph
        The superpixels, from `superpixel_graph` with the photo.
    sigma : float, optional
        Geodesic distance in L*a*b* at which two superpixels are similar by 0.61.
    clip : float, optional
        What is subtracted from each step of a path: smaller colour differences cost nothing.
    spatial_sigma : float, optional
        Distance at which the contrast to a superpixel counts 0.61, the photo's sides being 1.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    BoundaryConnectivity
        In the framework of `graph`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, the graph has no colours, more than 16384
        superpixels, or more than 2048 at the image's border.

    Notes
    -----
    The boundary connectivity and the background weighted contrast of Zhu et al. [1]_::

        g(i, j)         the shortest path from i to j by steps max(|colour difference| - clip, 0)
                        between superpixels that touch, or are both at the border
        s(i, j)         exp(-g(i, j)^2 / (2 sigma^2))
        connectivity(i) sum_j s(i, j) border_pixels(j) / sqrt(sum_j s(i, j) size(j))
        contrast(i)     sum_j |colour difference| exp(-distance^2 / (2 spatial_sigma^2))
                        (1 - exp(-connectivity(j)^2 / 2)) size(j), divided by the largest

    Departures: areas and border lengths are in pixels of each superpixel, where the paper counts
    superpixels of equal size, and so they weight the contrast; `clip` is a constant, where the
    authors' code estimates it for each photo. Weights below 1e-30 are taken as 0.

    If no pixel is at the border, as where those are in no superpixel, both are 0. The contrast of
    a photo of one colour is 0.

    Computed in float64. A photo with some hundreds of superpixels takes milliseconds, one with
    7000 of them one to two seconds: time grows with the square of their number, and with the cube
    of the number of those at the border. Memory grows with the edges and the square of the latter;
    it is some 32 MB for 10000 superpixels, 400 of them at the border. Called in the main thread, it
    runs signal handlers while it computes, so Ctrl-C ends it. There is no kernel for CUDA devices.

    References
    ----------
    .. [1] W. Zhu, S. Liang, Y. Wei, J. Sun, "Saliency optimization from robust background
       detection", CVPR 2014, :doi:`10.1109/CVPR.2014.360`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.full((6, 8, 3), 90, dtype=np.uint8)
    >>> graph = cuekit.superpixel_graph(np.arange(48).reshape(6, 8), photo)
    >>> cuekit.boundary_connectivity(graph).connectivity[:3].round(2)
    array([3.46, 3.46, 3.46])
    """
    fields = check_graph(graph)
    sigma = check_number(sigma, "sigma", minimum=MIN_SIGMA)
    clip = check_number(clip, "clip", minimum=0)
    spatial_sigma = check_number(spatial_sigma, "spatial_sigma", minimum=MIN_SIGMA)
    threads = check_threads(threads)
    count, at_border = len(fields.sizes), np.count_nonzero(fields.border_pixels)
    if count > MAX_SUPERPIXELS:
        raise ValueError(
            f"graph must have at most {MAX_SUPERPIXELS} superpixels, got {count}; use larger ones"
        )
    if at_border > MAX_AT_BORDER:
        raise ValueError(
            f"graph must have at most {MAX_AT_BORDER} superpixels at the image's border, got "
            f"{at_border}; use larger ones"
        )
    small = bool((np.abs(fields.colours) < COLOUR_LIMIT).all())
    check_finite(small, ("graph.colours", fields.colours), limit=COLOUR_LIMIT)
    connectivity, contrast = np.zeros(count), np.zeros(count)
    if count:
        cpu_kernels.boundary_connectivity(
            fields.edges,
            fields.sizes,
            fields.border_pixels,
            fields.centres,
            fields.colours,
            connectivity,
            contrast,
            sigma,
            clip,
            spatial_sigma,
            threads,
        )
    return BoundaryConnectivity(like(connectivity, graph.sizes), like(contrast, graph.sizes))
