"""Local refinement of maps by a photo: PAR and PAMR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_channel_last,
    check_choice,
    check_finite,
    check_integer,
    check_pixels,
    check_shape,
    check_threads,
    check_values,
    integers_of,
)
from cuekit._device import AnyArray, AnyFramework

Affinity: TypeAlias = Literal["par", "pamr"]

# Far more than anyone uses: eight neighbours each.
MOST_DILATIONS = 64
# Maps with more classes than any data set has in so few pixels are most likely channel-last.
FEWEST_PIXELS = 32


@dataclass(frozen=True)
class RefineParams:
    """Weights, neighbours and number of steps of a local refinement.

    Parameters
    ----------
    affinity : {"par", "pamr"}
        How neighbours are weighted, see `refine_local`.
    dilations : sequence of int
        Distances of the neighbours in pixels, eight neighbours each.
    iterations : int
        Number of steps; 0 resizes the maps only.

    Raises
    ------
    TypeError, ValueError
        If the affinity is another, a dilation is not an integer of at least 1, there are none or
        more than 64 of them, or `iterations` is negative.

    Examples
    --------
    >>> from cuekit.refine_local import PRESETS, RefineParams
    >>> PRESETS["toco"] == RefineParams("par", [1, 2, 4, 8, 12, 24], 10)
    True
    """

    affinity: Affinity
    dilations: Sequence[int]
    iterations: int

    def __post_init__(self) -> None:
        check_choice(self.affinity, "affinity", get_args(Affinity))
        object.__setattr__(self, "dilations", _check_dilations(self.dilations))
        iterations = check_integer(self.iterations, "iterations", minimum=0)
        object.__setattr__(self, "iterations", iterations)


def _check_dilations(value: Any) -> tuple[int, ...]:
    items = integers_of(value)
    if items is None:
        raise TypeError(f"dilations must be a sequence of integers, got {value!r}")
    if not 1 <= len(items) <= MOST_DILATIONS:
        raise ValueError(f"dilations must be 1 to {MOST_DILATIONS} numbers, got {len(items)}")
    dilations = tuple(
        check_integer(item, f"dilations[{i}]", minimum=1) for i, item in enumerate(items)
    )
    for i, dilation in enumerate(dilations):
        if dilation >= 2**31:
            raise ValueError(f"dilations[{i}] must be less than 2147483648, got {dilation}")
    return dilations


_SIX = (1, 2, 4, 8, 12, 24)
_PAR, _PAR_20 = RefineParams("par", _SIX, 10), RefineParams("par", _SIX, 20)
_PAMR, _PAMR_WIDE = RefineParams("pamr", _SIX, 10), RefineParams("pamr", (8, 16), 10)
PRESETS: Mapping[str, RefineParams] = MappingProxyType(
    {
        "par": _PAR,
        "pamr": _PAMR,
        "afa": _PAR,
        "toco": _PAR,
        "dupl": _PAR,
        "seco": _PAR,
        "more": _PAR,
        "cosa": _PAR,
        "excel": _PAR_20,
        "weclip": _PAR_20,
        "sclip": _PAMR_WIDE,
        "naclip": _PAMR_WIDE,
        "trident": _PAMR_WIDE,
    }
)
"""Settings of published code, by name; `refine_local` lists them."""


def refine_local(
    maps: AnyFramework,
    image: Any,
    preset: str | RefineParams = "par",
    *,
    dilations: Sequence[int] | None = None,
    iterations: int | None = None,
    channel_axis: int | None = -1,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Refine maps by a photo: iterated means over neighbours of similar colour (PAR, PAMR).

    Parameters
    ----------
    maps : (..., C, h, w) array or tensor of float16, float32 or float64
        Class activation maps, scores or probabilities, of any size and range. They are resized to
        the photo's size first, bilinear with aligned corners.
    image : (..., H, W, channels) array or tensor, uint8 or floating
        The photos, of any range: a factor or an offset makes no difference, up to rounding. Values
        beyond ±1e18 count as ±1e18.
    preset : str or RefineParams, optional
        The name of a preset, see Notes, or your own settings.
    dilations : sequence of int, optional
        Distances of the neighbours in pixels, instead of the preset's. They may exceed the photo.
    iterations : int, optional
        Number of steps, instead of the preset's; 0 resizes the maps only.
    channel_axis : int or None, optional
        Axis of the photos' channels: the last, or the third from the end, where torch has them.
        None for gray photos (..., H, W).
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., C, H, W) array or tensor of the dtype of `maps`
        The refined maps, at the photo's size.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, maps or photos are not finite, or
        a result would not be.

    Notes
    -----
    Each step replaces a map's value at every pixel by a weighted sum over the pixel's neighbours,
    eight for each dilation d: d rows and columns away, in eight directions. The pixel itself is
    none of them. A neighbour outside the photo counts as the pixel of the border nearest to it, so
    dilations may be larger than the photo. With colours I, averaged over channels, ::

        PAR   w = softmax(a) + 0.01 softmax(b),   over the neighbours n of a pixel p
              a = -(|I(n) - I(p)| / (s(p) + 1e-8) / 0.3)^2
              b = -(r(n) / (s_r + 1e-8) / 0.3)^2,   r = d, or sqrt(2) d in a diagonal direction
        PAMR  w = softmax(a)
              a = -|I(n) - I(p)| / (0.1 s(p) + 1e-8)

    s(p) is the standard deviation of a channel over the neighbours of p, s_r that of their
    distances, both divided by the number of values less 1. For PAMR the values of s(p) are those of
    all 3×3 windows: the neighbours, and the pixel itself once for each dilation. Where all of them
    have the same colour, as in a photo of one colour, softmax(a) is uniform.

    PAR's weights sum to 1.01, as in its published code, so every step makes maps larger by up to
    1 %. PAMR's sum to 1.

    The result equals the published torch modules' up to rounding: the exponents are computed by the
    same operations in the same order, in float32, or in float64 for float64 maps. The photo is
    converted to that dtype. Unlike in other functions, sums over neighbours are in float32, not
    float64, for maps of float16 and float32; values below 1e-37 may become 0. float16 maps are
    rounded to float16 once, at the end.

    Presets; dilations are 1, 2, 4, 8, 12, 24 where none are given:

    - ``"par"``, ``"afa"``, ``"toco"``, ``"dupl"``, ``"seco"``, ``"more"``, ``"cosa"``: PAR,
      10 iterations.
    - ``"excel"``, ``"weclip"``: PAR, 20 iterations.
    - ``"pamr"``: PAMR, 10 iterations, as published.
    - ``"sclip"``, ``"naclip"``, ``"trident"``: PAMR, dilations 8 and 16, 10 iterations.

    Many of these pipelines refine at half the photo's size to save time and memory: pass the photo
    at that size.

    Workspace with six dilations is some 245 bytes per pixel for each image that is worked on at a
    time, twice as much for float64 maps; up to 128 MB are kept for the next call. Photos of more
    than about 1000 rows need less, because only some hundred rows are in memory at a time: 34
    bytes per pixel for two maps of 3000 by 4000. On a CUDA device it is 204 bytes per pixel and 4
    more per map, 8 for float16 and twice as much for float64; as many photos of a batch are worked
    on at a time as fit in 4 GB, at least one. Input that is not C-contiguous is copied once. A call
    in the main thread runs signal handlers while it computes on the CPU, so Ctrl-C ends it.

    References
    ----------
    .. [1] L. Ru et al., "Learning affinity from attention: end-to-end weakly-supervised semantic
       segmentation with transformers", CVPR 2022, arXiv:2203.02664 (PAR).
    .. [2] N. Araslanov, S. Roth, "Single-stage semantic segmentation from image labels", CVPR 2020,
       arXiv:2005.08104 (PAMR).

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.zeros((4, 6, 3), np.uint8)
    >>> photo[:, 3:] = 200
    >>> coarse = np.array([[[0.0, 1.0]]], np.float32)  # 1×2 cells
    >>> cuekit.refine_local(coarse, photo, "pamr", dilations=[1, 2])[0, 0].round(2)
    array([0.15, 0.15, 0.15, 0.85, 0.85, 0.85], dtype=float32)
    """
    threads = check_threads(threads)
    settings = _settings(preset, dilations, iterations)
    adopted = check_any_array(maps, "maps", FLOATS, ndim=3, layout="(..., C, h, w)")
    *batch, channels, in_height, in_width = adopted.shape
    photos, channels_first = _check_photos(image, channel_axis, adopted)
    sides: tuple[int, ...] = photos.shape[-2 if channel_axis is None else -3 :]
    check_shape(photos, "image", (*batch, *sides), "maps")
    if channel_axis is None:
        (height, width), colours = sides, 1
    elif channels_first:
        colours, height, width = sides
    else:
        height, width, colours = sides
    if adopted.shape[-3:-1] == (height, width) and min(height, width) > FEWEST_PIXELS:
        raise ValueError(
            f"maps must have shape (..., C, h, w), got {adopted.shape}: the classes come last; "
            "move them before height and width"
        )
    check_pixels(adopted, "maps")
    if height * width >= 2**31:
        raise ValueError(f"image must have fewer than 2147483648 pixels, got {height * width}")
    check_values(validate, ("maps", adopted), ("image", photos))
    out = empty((*batch, channels, height, width), adopted.dtype, adopted)
    if out.size:
        if in_height * in_width == 0:
            raise ValueError(f"maps must have at least one pixel, got {adopted.shape}")
        images = math.prod(batch)
        kernels, context = backend(adopted, threads)
        layout = (colours, height, width) if channels_first else (height, width, colours)
        finite = kernels.refine_local(
            flat(adopted, images, channels, in_height, in_width),
            flat(photos, images, *layout),
            out.reshape(images, channels, height, width),
            settings.affinity,
            settings.dilations,
            min(settings.iterations, 2**62),
            channels_first,
            context,
        )
        if not finite:
            _raise_nonfinite(adopted, photos, settings)
    return like(out, maps)


def _settings(preset: str | RefineParams, dilations: Any, iterations: int | None) -> RefineParams:
    if isinstance(preset, str):
        preset = PRESETS[check_choice(preset, "preset", tuple(PRESETS))]
    elif not isinstance(preset, RefineParams):
        raise TypeError(f"preset must be a preset's name or RefineParams, got {preset!r}")
    return RefineParams(
        preset.affinity,
        preset.dilations if dilations is None else dilations,
        preset.iterations if iterations is None else iterations,
    )


def _check_photos(image: Any, channel_axis: int | None, maps: AnyArray) -> tuple[AnyArray, bool]:
    """Return the adopted photos, and whether their channels come first."""
    dtypes, beside = ("uint8", *FLOATS), (maps, "maps")
    if channel_axis is None:
        layout = "(..., H, W)"
        return check_any_array(image, "image", dtypes, ndim=2, layout=layout, beside=beside), False
    layout = "(..., H, W, channels)"
    photos = check_any_array(image, "image", dtypes, ndim=2, layout=layout, beside=beside)
    if photos.ndim == 2:
        raise ValueError(
            f"image must have shape {layout}, got {photos.shape}; pass channel_axis=None for gray "
            "photos"
        )
    axis = check_integer(channel_axis, "channel_axis")
    if axis not in (-1, photos.ndim - 1, -3, photos.ndim - 3):
        raise ValueError(
            f"channel_axis must be -1 or -3 (the last axis, or the third from the end), or None "
            f"for gray photos, got {axis}"
        )
    channels_first = axis in (-3, photos.ndim - 3)
    if axis == -1:
        check_channel_last(photos, "image", f", or channel_axis={photos.ndim - 1} if they are last")
    if photos.shape[-3 if channels_first else -1] == 0:
        raise ValueError(f"image must have at least one channel, got {photos.shape}")
    return photos, channels_first


def _raise_nonfinite(maps: Any, photos: Any, settings: RefineParams) -> None:
    """Raise the error for what the CPU's kernel found."""
    everything_finite = all(
        array.dtype.kind != "f" or np.isfinite(array).all() for array in (maps, photos)
    )
    if everything_finite:
        raise ValueError(
            f"maps must be small enough for {maps.dtype}, got an infinite result after "
            f"{settings.iterations} iterations"
        )
    check_finite(False, ("maps", maps), ("image", photos))
