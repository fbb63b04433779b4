"""What the colours of a photo say about its classes."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import flat, like
from cuekit._backend import cpu_kernels
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    check_array,
    check_choice,
    check_finite,
    check_integer,
    check_number,
    check_photos_beside,
    check_pixels,
    check_shape,
    check_sigma,
    check_superpixels,
    check_threads,
    check_unit_range,
    widened,
)
from cuekit._device import AnyFramework, Array
from cuekit.superpixel_mean import superpixel_mean

Space: TypeAlias = Literal["rgb", "lab"]

MOST_BINS = 64  # along each axis: 2**18 bins in all
# The smallest bin of a histogram may be this share of a photo: its logarithm is finite in float64.
SMALLEST_FLOOR = 1e-12


def colour_evidence(
    probabilities: AnyFramework,
    image: Any,
    superpixels: Any = None,
    *,
    bins: int = 16,
    sigma: float = 1.0,
    floor: float = 5e-5,
    limit: float = 8.0,
    space: Space = "rgb",
    threads: int | None = 1,
) -> AnyFramework:
    """Compare how often a class and the background have the colour of each pixel.

    Soft labels, such as those of `dense_crf`, make one histogram of colours for each class; a
    pixel's evidence for a class is log(h_class(colour) / h_background(colour)). It brings in parts
    of an object that look like those that are known, and takes out what looks like the rest of the
    photo, wherever they are.

    Parameters
    ----------
    probabilities : (..., K, H, W) array or tensor of float16, float32 or float64
        Soft labels in [0, 1]; channel 0 is the background.
    image : (..., H, W, 3) array or tensor of uint8, or of float32
        The photo of each image.
    superpixels : (..., H, W) array or tensor of any integer dtype, optional
        If given, the evidence is averaged over each superpixel. A pixel with label -1 keeps its
        own.
    bins : int, optional
        Bins along each axis of L*a*b*, at most 64: of width 100 / bins for L, and 128 / bins for a
        and b, where gray is in the middle of a bin. Colours beyond are in the outermost bins.
    sigma : float, optional
        Standard deviation, in bins, of the Gaussian that smooths the histograms. 0: none.
    floor : float, optional
        What is added to every bin, as a share of the photo's pixels: the evidence of colours that
        are rare goes to 0. At least 1e-12.
    limit : float, optional
        The evidence is clipped to [-limit, limit].
    space : {"rgb", "lab"}, optional
        What `image` is: "lab" means float32, as `rgb_to_lab` returns it, and saves the conversion
        where one photo is compared again and again.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K - 1, H, W) array or tensor of the dtype of `probabilities`
        For each class without the background.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or probabilities are not in
        [0, 1].

    Notes
    -----
    Histograms count pixels and are not divided by the class's area: a class that is small in the
    photo starts with negative evidence everywhere, as its posterior does. What the Gaussian, cut
    off at 4 sigma, moves beyond the last bin is lost, for all classes alike. Sums are float64.

    The model is that of interactive segmentation [1]_ with soft labels in place of scribbles, and
    histograms in place of mixtures of Gaussians. There is no kernel for CUDA devices.

    References
    ----------
    .. [1] Y. Boykov, M.-P. Jolly, "Interactive graph cuts for optimal boundary and region
       segmentation of objects in N-D images", ICCV 2001, doi:10.1109/ICCV.2001.937505.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.array([[[0, 0, 200], [0, 0, 200], [200, 0, 0], [200, 0, 0]]], dtype=np.uint8)
    >>> probabilities = np.array([[[0.1, 0.1, 0.5, 0.9]], [[0.9, 0.9, 0.5, 0.1]]])
    >>> cuekit.colour_evidence(probabilities, photo).round(1)
    array([[[ 2.2,  2.2, -0.8, -0.8]]])
    """
    source = check_array(probabilities, "probabilities", FLOATS, ndim=3, layout="(..., K, H, W)")
    if source.shape[-3] == 0:
        raise ValueError(f"probabilities must have a background channel, got {source.shape}")
    check_pixels(source, "probabilities")
    *batch, channels, height, width = source.shape
    check_choice(space, "space", get_args(Space))
    dtype = "uint8" if space == "rgb" else "float32"
    check_photos_beside(image, source, "probabilities", dtype)
    photos: Array = check_array(image, "image", (dtype,), ndim=3, layout="(..., H, W, 3)")
    check_finite(space == "rgb" or bool(np.isfinite(photos).all()), ("image", photos))
    check_shape(photos, "image", (*batch, height, width, 3), "probabilities")
    if superpixels is not None:
        superpixels = check_array(
            superpixels, "superpixels", INTEGERS, ndim=2, layout="(..., H, W)"
        )
        check_superpixels(
            superpixels,
            tuple(batch),
            (height, width),
            "probabilities",
            num_superpixels=None,
            validate=False,
        )
    bins = check_integer(bins, "bins", minimum=1)
    if bins > MOST_BINS:
        raise ValueError(f"bins must be at most {MOST_BINS}, got {bins}")
    sigma = check_sigma(sigma)
    floor = check_number(floor, "floor", minimum=SMALLEST_FLOOR)
    limit = check_number(limit, "limit", minimum=0)
    threads = check_threads(threads)
    weights = widened(source, "probabilities")
    check_unit_range(weights, "probabilities", "apply softmax first")

    out = np.zeros((*batch, channels - 1, height, width), weights.dtype)
    images, pixels = math.prod(batch), height * width
    if out.size:
        cpu_kernels.colour_evidence(
            flat(weights, images, channels, pixels),
            flat(photos, images, pixels, 3),
            _gaussian(bins, sigma),
            out.reshape(images, channels - 1, pixels),
            bins,
            floor,
            limit if superpixels is None else math.inf,
            threads,
        )
    if superpixels is not None and out.size:
        out = superpixel_mean(out, superpixels, threads=threads).clip(-limit, limit)
    return like(out.astype(source.dtype, copy=False), probabilities)


def _gaussian(bins: int, sigma: float) -> Array:
    """Return the weights of the distances from 0 on, in bins, up to 4 sigma."""
    if sigma == 0:
        return np.ones(1)
    # As far as it goes on an axis without ends, its weights sum to 1.
    radius = int(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.ascontiguousarray((weights / weights.sum())[radius : radius + bins])
