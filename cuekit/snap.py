"""Snapping: a superpixel, or a mask, takes a class as a whole or not at all."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import empty, flat, is_on_cpu, like
from cuekit._backend import backend, cpu_kernels
from cuekit._checks import (
    CUES,
    FLOATS,
    INTEGERS,
    check_any_array,
    check_choice,
    check_finite,
    check_masks,
    check_number,
    check_on_cpu,
    check_pixels,
    check_superpixels,
    check_threads,
    check_values,
    uint8_masks,
)
from cuekit._device import AnyArray, AnyFramework

# Of float64 maps: below it, the differences that interpolation computes are finite.
LIMIT = 2.0**1023

Accept: TypeAlias = Literal["mean", "sepl"]


def snap_cues(
    cues: AnyFramework,
    superpixels: Any,
    *,
    threshold: float = 0.3,
    accept: Accept = "mean",
    num_superpixels: int | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Snap cues to superpixels: a superpixel takes a class as a whole or not at all.

    With m(k, s) the mean of channel k over superpixel s, channel k is on in s where
    m(k, s) > threshold * max over s' of m(k, s'), and never where m(k, s) <= 0.

    Parameters
    ----------
    cues : (..., K, h, w) array or tensor, bool, uint8 or floating
        Any number of channels; none is special. bool and uint8 are masks (nonzero = on), floating
        values are maps. Of any resolution: cues on a network's grid are resized on the fly.
    superpixels : (..., H, W) integers, or (..., R, H, W) bool or uint8
        Labels from 0 to 2**31 - 1, whatever made them; they need be neither consecutive nor
        connected. A pixel with label -1 is in no superpixel.

        Or R masks that may overlap, such as a promptable segmenter gives. Then the mean is taken
        per mask, and a pixel is on where any accepted mask covers it. uint8 that holds only 0 and
        1, or only 0 and 255, is masks too, if it has the shape of masks; in the shape of a batch
        of label maps it is refused, because it may be meant as masks. R may be 0: a list of masks
        that may be empty becomes ``np.array(masks, dtype=bool).reshape(-1, H, W)``.

        A pixel in no superpixel or under no mask keeps its input: on where the resized cue is
        nonzero, or, for floating maps, where the resized map is above threshold * the channel's
        maximum and above 0.
    threshold : float, optional
        Relative to the largest mean of the channel. What it means for the input of floating maps
        is said above; with ``accept="sepl"`` it means nothing else.
    accept : {"mean", "sepl"}, optional
        Which masks a channel accepts: by their means; or, by the rule of SEPL [2]_, every mask M
        with ``|M ∩ P| > 0.5 |M|`` or ``|M ∩ P| >= 0.85 |P|``, where P is the channel's input as
        above; a channel whose P is empty accepts none. ``"sepl"`` is for masks only, not for
        labels. It is SEPL's rule for one class, not its published result: for that, see
        `sepl_labels`.
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
    (..., K, H, W) array or tensor of bool
        At the superpixels' resolution.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, labels are below -1 or too large,
        `accept` is ``"sepl"`` and the superpixels are labels, or maps are not finite or reach
        2**1023 (9e307) in magnitude.

    Notes
    -----
    SEPL makes one label map, which `sepl_labels` computes: a mask that one class took is offered
    to no later class and does not count as cover there, and later classes overwrite. With
    ``accept="sepl"``, channels are independent of each other and their order means nothing:
    several may accept one mask, and every mask covers what is under it; `cues_to_labels` decides
    where channels overlap. The background is a channel like the others: pass the foreground's
    channels only, or the background snaps to masks too. Pixels are counted, and compared as
    integers.

    Resizing uses half-pixel centres (``align_corners=False``) and no antialiasing: nearest for
    bool and uint8, bilinear for floating maps. Means are float64: bool cues are counted exactly,
    floating sums run in raster order. Cues are never stored at full size: workspace is some 100
    bytes per superpixel and eight channels; with masks, a byte per pixel and eight channels, and
    16 bytes for every run of pixels under a mask. Input that is not C-contiguous is copied once.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on modifying cues with super-pixels.
    .. [2] T. Chen et al., "Segment Anything Model (SAM) enhanced pseudo labels for weakly
       supervised semantic segmentation", arXiv:2305.05803.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cues = np.array([[[True, False, False, False]]])
    >>> cuekit.snap_cues(cues, np.array([[0, 0, 1, 1]])).astype(int)
    array([[[1, 1, 0, 0]]])

    Two masks that overlap. Half of the first is on, and a third of the second, which has all of
    the cue but not most of its own pixels:

    >>> cues = np.array([[[False, True, False, False]]])
    >>> masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 1]]], dtype=bool)
    >>> cuekit.snap_cues(cues, masks, threshold=0.7).astype(int)
    array([[[1, 1, 0, 0]]])
    >>> cuekit.snap_cues(cues, masks, accept="sepl").astype(int)
    array([[[1, 1, 1, 1]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(cues, "cues", (*CUES, *FLOATS), ndim=3, layout="(..., K, h, w)")
    *batch, channels, in_height, in_width = maps.shape
    threshold = check_number(threshold, "threshold")
    check_choice(accept, "accept", get_args(Accept))
    check_pixels(maps, "cues")
    check_masks(maps, "cues", validate=validate)
    check_values(validate, ("cues", maps))
    regions = check_any_array(
        superpixels,
        "superpixels",
        (*INTEGERS, "bool"),
        ndim=2,
        layout="(..., H, W)",
        beside=(maps, "cues"),
    )
    are_masks = _are_masks(regions, tuple(batch), validate=validate)
    if are_masks:
        _check_masks(regions, tuple(batch), num_superpixels)
    else:
        if accept != "mean":
            raise ValueError(
                f"accept must be 'mean' unless superpixels are masks, got {accept!r} with "
                f"superpixels of dtype {regions.dtype}"
            )
        regions, limit = check_superpixels(
            regions,
            tuple(batch),
            None,
            "cues",
            num_superpixels=num_superpixels,
            validate=validate,
        )
    height, width = regions.shape[-2:]
    out = empty((*batch, channels, height, width), np.bool_, maps)
    if out.size == 0:
        return like(out, cues)
    if in_height * in_width == 0:
        raise ValueError(f"cues must have at least one pixel, got {maps.shape}")
    images = math.prod(batch)
    sources = flat(maps, images, channels, in_height, in_width)
    if maps.dtype == np.bool_:
        sources = sources.view(np.uint8)
    target = out.reshape(images, channels, height, width)
    if are_masks:
        regions = flat(regions, images, regions.shape[-3], height, width)
        finite = cpu_kernels.snap_masks(sources, regions, target, threshold, accept, threads)
    else:
        kernels, context = backend(maps, threads)
        regions = flat(regions, images, height, width)
        finite = kernels.snap(sources, regions, limit, target, threshold, context)
    check_finite(finite, ("cues", maps), limit=LIMIT if maps.dtype == np.float64 else math.inf)
    return like(out, cues)


def _are_masks(regions: AnyArray, batch: tuple[int, ...], *, validate: bool) -> bool:
    """Tell whether superpixels are masks: bool, or uint8 in the shape of masks.

    On a CUDA device the values of uint8 are checked only if `validate` is set; this synchronises.
    """
    if regions.dtype != np.uint8 or regions.ndim < 3:
        return bool(regions.dtype == np.bool_)
    masks_shape = f"({', '.join(map(str, (*batch, 'R', 'H', 'W')))})"
    fits_masks = regions.ndim == len(batch) + 3 and regions.shape[:-3] == batch
    fits_labels = regions.ndim == len(batch) + 2 and regions.shape[:-2] == batch
    if not is_on_cpu(regions) and not validate:
        return fits_masks
    can_be_masks, any_on = uint8_masks(regions)
    if fits_labels and can_be_masks and any_on:  # all zeros are one superpixel in each image
        raise ValueError(
            "superpixels that hold 0 and 1, or 0 and 255, where the dtype is uint8 can be masks or "
            f"labels, got shape {regions.shape}: pass masks as bool, with shape {masks_shape}, and "
            "labels with a wider integer dtype"
        )
    if fits_masks and not can_be_masks:
        raise ValueError(
            f"superpixels of shape {masks_shape} are masks, which must be bool, or hold 0 and 1, "
            f"or 0 and 255, where the dtype is uint8; got other values in shape {regions.shape}"
        )
    return can_be_masks and not fits_labels


def _check_masks(masks: AnyArray, batch: tuple[int, ...], num_superpixels: int | None) -> None:
    """Check masks (*batch, R, H, W), for which there is no CUDA kernel."""
    check_on_cpu(masks, "superpixels that are masks")
    if num_superpixels is not None:
        raise ValueError(
            f"num_superpixels must be None where superpixels are masks, got {num_superpixels!r}"
        )
    if masks.ndim != len(batch) + 3 or masks.shape[:-3] != batch:
        raise ValueError(
            f"superpixels must have shape ({', '.join(map(str, (*batch, 'R', 'H', 'W')))}) "
            f"to match cues, when they are masks, got {masks.shape}"
        )
    check_pixels(masks, "superpixels")
