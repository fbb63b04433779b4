"""Graph-based superpixels of Felzenszwalb and Huttenlocher."""

from __future__ import annotations

import math

import numpy as np

from cuekit._arrays import flat, like
from cuekit._backend import cpu_kernels
from cuekit._checks import (
    check_finite,
    check_integer,
    check_number,
    check_photos,
    check_threads,
    warn_of_range,
)
from cuekit._device import AnyFramework, Array

# A Gaussian of some 10^5 pixels is wider than any photo; its weights are an array, too.
MAX_SIGMA = 100_000


def _gaussian(sigma: float) -> Array:
    """Weights of the Gaussian filter from its centre outwards, as SciPy makes them."""
    if sigma <= 1e-15:
        return np.ones(1)
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return np.ascontiguousarray((weights / weights.sum())[radius:])


def felzenszwalb(
    image: AnyFramework,
    scale: float = 200,
    sigma: float = 0.8,
    min_size: int = 60,
    *,
    channel_axis: int | None = -1,
    threads: int | None = 1,
) -> AnyFramework:
    """Segment photos into superpixels with Felzenszwalb and Huttenlocher's graph-based method.

    Parameters
    ----------
    image : (..., H, W, channels) array or tensor, uint8 or floating
        uint8 is scaled by 1/255. Floating photos are taken as they are: they should lie in [0, 1],
        and a warning says so if they do not.
    scale : float, optional
        Larger means larger superpixels.
    sigma : float, optional
        Standard deviation of the Gaussian that smooths the photo first, in pixels.
    min_size : int, optional
        Superpixels of fewer pixels are merged into a neighbour.
    channel_axis : int or None, optional
        Axis of the channels; None for gray photos (..., H, W).
    threads : int or None, optional
        Photos of a batch segmented at the same time; None means one per core. The result does not
        depend on it.

    Returns
    -------
    (..., H, W) array or tensor of int32
        Labels 0..S-1, numbered by first appearance in raster order, independently per photo.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or value, a photo is not finite, or it has 2**30
        pixels or more.

    Notes
    -----
    Labels are those of `skimage.segmentation.felzenszwalb` for equal arguments, number by number.
    scikit-image leaves the order of edges of equal cost to an unstable sort; here it is that of a
    stable one: by direction (right, down, down right, up right), then in raster order. Photos
    smoothed with ``sigma`` above 0 hardly ever have such edges; flat-coloured ones do.

    The defaults are not scikit-image's, which give near-pixel segments, but suit cue work; the
    paper gives none. Workspace is some 70 bytes per pixel and thread, and up to 110 where most
    edges cost the same, as in photos of flat colour; for a large `sigma`, also 8 per value of the
    rows within its reach. Up to 128 MB, those of `dense_crf` included, are kept for the next call.
    Input that is not C-contiguous, or has its channels elsewhere, is copied once. Time grows with
    `sigma`.

    Called in the main thread, it runs signal handlers while it computes, so Ctrl-C ends it.

    References
    ----------
    .. [1] P. Felzenszwalb, D. Huttenlocher, "Efficient graph-based image segmentation",
       IJCV 59 (2004), :doi:`10.1023/B:VISI.0000022288.19776.77`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.array([[0, 9, 0, 200, 209, 200]] * 2, dtype=np.uint8)
    >>> cuekit.felzenszwalb(photo, sigma=0, min_size=1, scale=20, channel_axis=None)
    array([[0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1]], dtype=int32)
    """
    photos = check_photos(image, channel_axis)
    threads = check_threads(threads)
    scale = check_number(scale, "scale", minimum=0)
    sigma = check_number(sigma, "sigma", minimum=0)
    if sigma > MAX_SIGMA:
        raise ValueError(f"sigma must be at most {MAX_SIGMA}, got {sigma}")
    min_size = check_integer(min_size, "min_size", minimum=0)
    *batch, height, width, channels = photos.shape
    if height * width >= 2**30:
        raise ValueError(f"image must have fewer than 1073741824 pixels, got {height * width}")
    images = math.prod(batch)
    out = np.zeros((*batch, height, width), dtype=np.int32)
    if out.size:
        warn_of_range(photos)
        finite = cpu_kernels.felzenszwalb(
            flat(photos, images, height, width, channels),
            _gaussian(sigma),
            out.reshape(images, height, width),
            scale / 255,
            min(min_size, height * width),
            threads,
        )
        check_finite(finite, ("image", np.asarray(image)))
    return like(out, image)
