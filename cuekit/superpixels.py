"""Step 4: superpixels, and means over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit import _cpu
from cuekit._arrays import AnyArray, Array, DeviceArray, DeviceLabels, adopt, empty, like
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    check_any_array,
    check_array,
    check_finite,
    check_integer,
    check_number,
    check_pixels,
    check_threads,
    check_values,
)


def check_superpixels(
    superpixels: Any,
    batch: tuple[int, ...],
    size: tuple[int, int] | None,
    beside: AnyArray,
    other: str,
    *,
    num_superpixels: int | None,
    validate: bool,
) -> Array | DeviceLabels:
    """Adopt a label map (*batch, H, W); the CPU's kernels check the labels themselves."""
    labels: AnyArray = check_any_array(
        superpixels, "superpixels", INTEGERS, ndim=2, layout="(..., H, W)", beside=(beside, other)
    )
    if labels.shape[:-2] != batch or (size is not None and labels.shape[-2:] != size):
        expected = ", ".join(map(str, (*batch, *(size or ("H", "W")))))
        raise ValueError(
            f"superpixels must have shape ({expected}) to match {other}, got {labels.shape}"
        )
    check_pixels(labels, "superpixels")
    if num_superpixels is not None:
        num_superpixels = check_integer(num_superpixels, "num_superpixels", minimum=1)
    if isinstance(labels, DeviceArray):
        return _count_superpixels(labels, num_superpixels, validate=validate)
    return labels


def _count_superpixels(labels: DeviceArray, count: int | None, *, validate: bool) -> DeviceLabels:
    """Bound the labels by the number of pixels, so that they bound the workspace."""
    pixels = labels.shape[-2] * labels.shape[-1]
    if count is not None and count > max(pixels, 1):
        raise ValueError(
            f"num_superpixels must be at most {pixels}, the number of pixels, got {count}; "
            "leave it out to have sparse labels renumbered"
        )
    if labels.size == 0:
        return DeviceLabels(labels, 1)
    if validate:
        index = labels.device.find_negative(labels)
        if index is not None:
            value = labels.device.item(labels, index)
            raise ValueError(f"superpixels must be at least 0, got {value} at index {index}")
    if count is None or validate:
        largest = labels.device.largest(labels)
        if validate and largest >= 2**31:
            raise ValueError(f"superpixels must be less than 2147483648, got {largest}")
        if count is None and largest >= pixels:
            labels = labels.device.consecutive(labels)
            largest = labels.device.largest(labels)
        if count is not None and largest >= count:
            raise ValueError(f"superpixels must be below num_superpixels, {count}, got {largest}")
        count = count or max(largest + 1, 1)
    return DeviceLabels(labels, count)


def superpixel_mean(
    values: Any,
    superpixels: Any,
    *,
    num_superpixels: int | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> Any:
    """Replace every value by the mean of its channel over its superpixel.

    Parameters
    ----------
    values : (..., K, H, W) array or tensor, floating, integer or bool
        Maps of any number of channels.
    superpixels : (..., H, W) array or tensor of any integer dtype
        Labels from 0 to 2**31 - 1; they need not be consecutive.
    num_superpixels : int, optional
        On a CUDA device, a number above all labels, at most H * W: without it the largest label is
        read back, which waits for the device. Pixels with labels from it on, or below 0, are in no
        superpixel. Not needed on the CPU.
    validate : bool, optional
        On a CUDA device, look for values that are not finite and for labels out of range, and
        wait for it; on the CPU this is always done.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., K, H, W) array or tensor
        Of the dtype of floating `values`; float32 for integers and bool.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, labels are negative or too large, or
        values are not finite.

    Notes
    -----
    Sums are float64 and run in raster order within a superpixel; on a CUDA device in another
    order, always the same, which changes means by some 1e-16 of the largest value. Input that is
    not C-contiguous is copied once.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.superpixel_mean(np.array([[[1.0, 3.0, 5.0]]]), np.array([[0, 0, 1]]))
    array([[[2., 2., 5.]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(
        values, "values", (*FLOATS, *INTEGERS, "bool"), ndim=3, layout="(..., K, H, W)"
    )
    *batch, channels, height, width = maps.shape
    check_values(validate, ("values", maps))
    labels = check_superpixels(
        superpixels,
        tuple(batch),
        (height, width),
        maps,
        "values",
        num_superpixels=num_superpixels,
        validate=validate,
    )
    floating = maps.dtype.kind == "f"
    out = empty(maps.shape, maps.dtype if floating else np.float32, maps)
    if maps.size:
        shape = (math.prod(batch), channels, height, width)
        kernels, where = backend(maps, threads)
        finite = kernels.superpixel_mean(maps.reshape(shape), labels, out.reshape(shape), where)
        check_finite(finite, ("values", maps))
    return like(out, values)


def _photos(image: Any, channel_axis: int | None) -> Array:
    """Adopt photos, uint8 or floats, as (..., H, W, channels); any memory order."""
    photos = check_array(
        image,
        "image",
        ("uint8", *FLOATS),
        ndim=2 if channel_axis is None else 3,
        layout="(..., H, W)" if channel_axis is None else "(..., H, W, channels)",
    )
    if channel_axis is None:
        return photos[..., None]
    axis = check_integer(channel_axis, "channel_axis")
    if not -photos.ndim <= axis < photos.ndim:
        raise ValueError(f"channel_axis must be an axis of image {photos.shape}, got {axis}")
    photos = np.moveaxis(photos, axis, -1)
    if photos.shape[-1] == 0:
        raise ValueError(f"image must have at least one channel, got {tuple(image.shape)}")
    return photos


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
    image: Any,
    *,
    scale: float = 200,
    sigma: float = 0.8,
    min_size: int = 60,
    channel_axis: int | None = -1,
    threads: int | None = 1,
) -> Any:
    """Segment photos into superpixels with Felzenszwalb and Huttenlocher's graph-based method.

    Parameters
    ----------
    image : (..., H, W, channels) array or tensor, uint8 or floating
        uint8 is scaled by 1/255; floating photos are taken as they are.
    scale : float, optional
        Larger means larger superpixels.
    sigma : float, optional
        Standard deviation of the Gaussian that smooths the photo first, in pixels.
    min_size : int, optional
        Superpixels of fewer pixels are merged into a neighbour.
    channel_axis : int or None, optional
        Axis of the channels; None for gray photos (..., H, W).
    threads : int or None, optional
        Photos of a batch worked on at a time; None means one per core. Never changes the result.

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
    paper gives none. Workspace is some 70 bytes per pixel and thread, 100 for photos of flat
    colour; up to 128 MB, those of `dense_crf` included, are kept for the next call. Time grows
    with `sigma`.

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
    photos = _photos(image, channel_axis)
    threads = check_threads(threads)
    scale = check_number(scale, "scale", minimum=0)
    sigma = check_number(sigma, "sigma", minimum=0)
    if sigma > MAX_SIGMA:
        raise ValueError(f"sigma must be at most {MAX_SIGMA}, got {sigma}")
    min_size = check_integer(min_size, "min_size", minimum=0)
    *batch, height, width, channels = photos.shape
    if height * width >= 2**30:
        raise ValueError(f"image must have fewer than 1073741824 pixels, got {height * width}")
    out = np.zeros((*batch, height, width), dtype=np.int32)
    if out.size:
        finite = _cpu.felzenszwalb(
            np.ascontiguousarray(photos).reshape(-1, height, width, channels),
            _gaussian(sigma),
            out.reshape(-1, height, width),
            scale / 255,
            min(min_size, height * width),
            threads,
        )
        check_finite(finite, ("image", adopt(image, "image")))
    return like(out, image)


def slic(
    image: Any,
    *,
    n_segments: int = 100,
    compactness: float = 10.0,
    sigma: float = 0.0,
    channel_axis: int | None = -1,
    threads: int | None = 1,
) -> Any:
    """Segment photos into superpixels of about equal size with SLIC, through scikit-image.

    Parameters
    ----------
    image : (..., H, W, channels) array or tensor, uint8 or floating
        Three channels are taken as RGB and compared as Lab, any other number as they are: leave
        out alpha. Every photo's values are scaled to [0, 1] first, whatever their range.
    n_segments : int, optional
        Superpixels wanted per photo; the number returned is about that.
    compactness : float, optional
        Weight of distance in the photo against distance in colour: larger means squarer.
    sigma : float, optional
        Standard deviation of the Gaussian that smooths the photo first, in pixels; 0 = none.
    channel_axis : int or None, optional
        Axis of the channels; None for gray photos (..., H, W).
    threads : int or None, optional
        Photos of a batch worked on at a time; None means one per core.

    Returns
    -------
    (..., H, W) array or tensor of int32
        Labels 0..S-1, independently per photo.

    Raises
    ------
    ImportError
        If scikit-image, which does the work, is not installed.
    TypeError, ValueError
        If an argument has the wrong type, dtype or value, or the photo is not finite.

    Notes
    -----
    Labels are those of `skimage.segmentation.slic` with ``start_label=0``, whose defaults these
    are. What it can do beyond (masks, SLIC-zero, volumes) is had by calling it: `snap_cues` takes
    any integer label map, and labels from 1 too.

    References
    ----------
    .. [1] R. Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods",
       TPAMI 34 (2012), :doi:`10.1109/TPAMI.2012.120`.
    """
    photos = _photos(image, channel_axis)
    if photos.dtype.kind == "f":
        check_finite(bool(np.isfinite(photos).all()), ("image", adopt(image, "image")))
    threads = check_threads(threads)
    n_segments = check_integer(n_segments, "n_segments", minimum=1)
    compactness = check_number(compactness, "compactness")
    if compactness <= 0:
        raise ValueError(f"compactness must be greater than 0, got {compactness}")
    sigma = check_number(sigma, "sigma", minimum=0)
    out = np.zeros(photos.shape[:-1], dtype=np.int32)
    if out.size:
        from concurrent.futures import ThreadPoolExecutor

        try:
            from skimage.segmentation import slic as segment
        except ImportError as error:
            raise ImportError(
                "slic needs scikit-image: pip install 'cuekit[superpixels]'"
            ) from error
        flat = photos.reshape(-1, *photos.shape[-3:])
        labels = out.reshape(-1, *out.shape[-2:])

        def work(i: int) -> None:
            labels[i] = segment(
                flat[i],
                n_segments=n_segments,
                compactness=compactness,
                sigma=sigma,
                start_label=0,
                channel_axis=-1,
            )

        with ThreadPoolExecutor(min(threads, len(flat))) as pool:
            list(pool.map(work, range(len(flat))))
    return like(out, image)
