"""SLIC superpixels, through scikit-image."""

from __future__ import annotations

import numpy as np

from cuekit._arrays import like
from cuekit._checks import (
    check_finite,
    check_integer,
    check_number,
    check_photos,
    check_sigma,
    check_threads,
)
from cuekit._device import AnyFramework, Array

# scikit-image divides colours by it, and squares of the quotients must fit in float32.
MIN_COMPACTNESS = 1e-15


def slic(
    image: AnyFramework,
    *,
    n_segments: int = 100,
    compactness: float = 10.0,
    sigma: float = 0.0,
    channel_axis: int | None = -1,
    threads: int | None = 1,
) -> AnyFramework:
    """Segment photos into superpixels of about equal size with SLIC, through scikit-image.

    Parameters
    ----------
    image : (..., H, W, channels) array or tensor, uint8 or floating
        Three channels are taken as RGB and compared as Lab, any other number as they are: leave
        out alpha. Every photo's values are scaled to [0, 1] first, whatever their range.
    n_segments : int, optional
        Superpixels wanted per photo; the number returned is about that.
    compactness : float, optional
        Weight of distance in the photo against distance in colour, at least 1e-15: larger means
        squarer.
    sigma : float, optional
        Standard deviation of the Gaussian that smooths the photo first, in pixels, at most 100 000;
        0 = none.
    channel_axis : int or None, optional
        Axis of the channels; None for gray photos (..., H, W).
    threads : int or None, optional
        Photos of a batch segmented at the same time; None means one per core.

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
    photos = check_photos(image, channel_axis)
    if photos.dtype.kind == "f":
        check_finite(bool(np.isfinite(photos).all()), ("image", np.asarray(image)))
    threads = check_threads(threads)
    n_segments = check_integer(n_segments, "n_segments", minimum=1)
    compactness = check_number(compactness, "compactness", minimum=MIN_COMPACTNESS)
    sigma = check_sigma(sigma)
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
                _within_range(flat[i]),
                n_segments=n_segments,
                compactness=compactness,
                sigma=sigma,
                start_label=0,
                channel_axis=-1,
            )

        with ThreadPoolExecutor(min(threads, len(flat))) as pool:
            list(pool.map(work, range(len(flat))))
    return like(out, image)


def _within_range(photo: Array) -> Array:
    """Return the photo, or a quarter of it where its range exceeds that of its dtype.

    scikit-image scales photos to [0, 1]: both give the same.
    """
    if photo.dtype.kind != "f":
        return photo
    low, high = float(photo.min()), float(photo.max())
    if high / 2 - low / 2 < float(np.finfo(photo.dtype).max) / 2:
        return photo
    return photo / 4
