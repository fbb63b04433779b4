"""Steps 3 and 5: raw cues, snapping, fusing, resizing, and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuekit import _cpu
from cuekit._arrays import AnyArray, DeviceArray, DeviceLabels, adopt_anywhere, empty, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    FLOATS,
    check_any_array,
    check_array,
    check_choice,
    check_finite,
    check_integer,
    check_number,
    check_pixels,
    check_place,
    check_present,
    check_shape,
    check_size,
    check_threads,
    check_values,
)
from cuekit.superpixels import check_superpixels

IGNORE = 255


def raw_cues(
    cams: Any,
    background: Any = None,
    present: Any = None,
    *,
    foreground_threshold: float = 0.3,
    background_threshold: float = 0.2,
    validate: bool = False,
    threads: int | None = 1,
) -> Any:
    """Threshold activation maps and the background map into class-specific binary masks.

    Parameters
    ----------
    cams : (..., C, h, w) array or tensor of float16, float32 or float64
        Maps of the C foreground classes, as they are or from `subtract_classes`.
    background : (..., h, w) array or tensor, optional
        A floating background map, low = background, as `background_map` gives it; or a bool
        array, taken as the background cue itself; or None, which leaves channel 0 empty.
    present : (..., C) bool, optional
        Which classes the image contains; default: all. The background has no entry.
    foreground_threshold : float, optional
        Class c is on where M_c > foreground_threshold * max M_c; nowhere if max M_c <= 0.
    background_threshold : float, optional
        Background is on where the background map is < background_threshold.
    validate : bool, optional
        On a CUDA device, look for values that are not finite, and wait for it; on the CPU this
        is always done.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., C + 1, h, w) array or tensor of bool
        Channel 0 is the background. Channels may overlap.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or maps are not finite.

    Notes
    -----
    Compared in float64. Maps of absent classes are not read. Input that is not C-contiguous is
    copied once. Kolesnikov and Lampert (SEC) use 0.2 for the foreground; 0.3 is this paper's.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on extracting cues from classifiers.
    .. [2] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.raw_cues(np.array([[[1.0, 4.0]]]), np.array([[0.1, 0.9]])).astype(int)
    array([[[1, 0]],
    <BLANKLINE>
           [[0, 1]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(cams, "cams", FLOATS, ndim=3, layout="(..., C, h, w)")
    *batch, classes, height, width = maps.shape
    tags = check_present(present, "present", tuple(batch), classes, "cams", maps)
    foreground_threshold = check_number(foreground_threshold, "foreground_threshold")
    background_threshold = check_number(background_threshold, "background_threshold")
    check_values(validate, ("cams", maps), present=tags)
    out = empty((*batch, classes + 1, height, width), np.bool_, maps)
    images = math.prod(batch)
    flat = out.reshape(images, classes + 1, height * width)
    if background is not None:
        background = check_any_array(
            background,
            "background",
            (*FLOATS, "bool"),
            ndim=2,
            layout="(..., h, w)",
            beside=(maps, "cams"),
        )
        check_shape(background, "background", (*batch, height, width), "cams")
        check_values(validate, ("background", background))
    _raw_background(background, flat, background_threshold, threads)
    kernels, where = backend(maps, threads)
    finite = kernels.raw_foreground(
        maps.reshape(images, classes, height * width),
        tags.reshape(images, classes),
        flat,
        foreground_threshold,
        where,
    )
    if finite is False:
        check_finite(finite, ("cams", np.where(tags[..., None, None], maps, 0)))
    return like(out, cams)


def _raw_background(background: Any, out: AnyArray, threshold: float, threads: int) -> None:
    """Fill channel 0 of `out` (B, C + 1, N)."""
    images, _, pixels = out.shape
    flat = None if background is None else background.reshape(images, pixels)
    if isinstance(out, DeviceArray):
        kernels, device = backend(out, threads)
        kernels.raw_background(flat, out, threshold, device)
    elif flat is None:
        out[:, 0] = False
    elif flat.dtype == np.bool_:
        # A bool view of bytes may hold others than 0 and 1.
        out[:, 0] = flat.view(np.uint8) != 0
    else:
        finite = _cpu.raw_background(flat, out, threshold, threads)
        check_finite(finite, ("background", background))


def snap_cues(
    cues: Any,
    superpixels: Any,
    *,
    threshold: float = 0.3,
    accept: str = "mean",
    num_superpixels: int | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> Any:
    """Snap cues to superpixels: a superpixel takes a class as a whole or not at all.

    With m(k, s) the mean of channel k over superpixel s, channel k is on in s where
    m(k, s) > threshold * max over s' of m(k, s'), and never where m(k, s) <= 0.

    Parameters
    ----------
    cues : (..., K, h, w) array or tensor, bool, uint8 or floating
        Any number of channels; none is special. bool and uint8 are masks (nonzero = on), floating
        values are maps. Of any resolution: cues on a network's grid are resized on the fly.
    superpixels : (..., H, W) integers, or (..., R, H, W) bool
        Labels from 0 to 2**31 - 1, whatever made them; they need be neither consecutive nor
        connected. Or R masks that may overlap, such as a promptable segmenter gives. Then the
        mean is taken per mask, a pixel is on where any accepted mask covers it, and a pixel under
        no mask keeps its input: on where the cue is nonzero, or, for floating maps, where the map
        is above threshold * its maximum and 0.
    threshold : float, optional
        Relative to the largest mean of the channel. What it means for the input of floating maps
        is said above; with ``accept="sepl"`` it means nothing else.
    accept : {"mean", "sepl"}, optional
        Which masks a channel accepts: by their means; or, by the rule of SEPL [2]_, every mask M
        with |M ∩ P| > 0.5 |M| or |M ∩ P| >= 0.85 |P|, where P is the channel's input as above; a
        channel whose P is empty accepts none. ``"sepl"`` is for masks only, not for labels.
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
    (..., K, H, W) array or tensor of bool
        At the superpixels' resolution.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, labels are negative or too large,
        `accept` is ``"sepl"`` and the superpixels are labels, or maps are not finite.

    Notes
    -----
    SEPL makes one label map. It goes through the foreground classes in order, offers a mask that
    one class took to no later class, counts it as no cover for later classes either, and lets
    them overwrite. Here the channels know nothing of each other, so that their order means
    nothing: several may accept one mask, and every mask covers what is under it; `cues_to_labels`
    decides where channels overlap. Nor is the background left out: give the foreground's channels
    only, as SEPL does, or the background snaps to masks too. Pixels are counted, and compared as
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
    check_choice(accept, "accept", ("mean", "sepl"))
    check_pixels(maps, "cues")
    check_values(validate, ("cues", maps))
    kernel_maps = maps.view(np.uint8) if maps.dtype == np.bool_ else maps
    if adopt_anywhere(superpixels, "superpixels").dtype == np.bool_:
        if isinstance(maps, DeviceArray):
            raise ValueError(
                "superpixels must be labels where cues are on a CUDA device, got bool masks: "
                "masks that overlap have no kernel there; copy both to the CPU first"
            )
        masks = check_array(superpixels, "superpixels", ("bool",), ndim=3, layout="(..., R, H, W)")
        if masks.ndim != maps.ndim or masks.shape[:-3] != tuple(batch):
            raise ValueError(
                f"superpixels must have shape ({', '.join(map(str, (*batch, 'R', 'H', 'W')))}) "
                f"to match cues, when they are bool masks, got {masks.shape}"
            )
        check_pixels(masks, "superpixels")
        height, width = masks.shape[-2:]
        labels = None
    else:
        labels = check_superpixels(
            superpixels,
            tuple(batch),
            None,
            maps,
            "cues",
            num_superpixels=num_superpixels,
            validate=validate,
        )
        array = labels.array if isinstance(labels, DeviceLabels) else labels
        if accept != "mean":
            raise ValueError(
                f"accept must be 'mean' unless superpixels are bool masks, got {accept!r} with "
                f"superpixels of dtype {array.dtype}"
            )
        height, width = array.shape[-2:]
    out = empty((*batch, channels, height, width), np.bool_, maps)
    if out.size == 0:
        return like(out, cues)
    if in_height * in_width == 0:
        raise ValueError(f"cues must have at least one pixel, got {maps.shape}")
    kernel_maps = kernel_maps.reshape(-1, channels, in_height, in_width)
    flat = out.reshape(-1, channels, height, width)
    if labels is None:
        masks = masks.view(np.uint8).reshape(len(flat), -1, height, width)
        finite = _cpu.snap_masks(kernel_maps, masks, flat, threshold, accept, threads)
    else:
        kernels, where = backend(maps, threads)
        finite = kernels.snap(kernel_maps, labels, flat, threshold, where)
    check_finite(finite, ("cues", maps))
    return like(out, cues)


def fuse_cues(*cue_sets: Any, threads: int | None = 1) -> Any:
    """Fuse the cues of several classifiers: on where any set is on.

    Parameters
    ----------
    *cue_sets : (..., K, H, W) arrays or tensors of bool or uint8
        One or more sets of the same shape; nonzero = on.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., K, H, W) array or tensor of bool

    Raises
    ------
    TypeError, ValueError
        If there is no set, or one has the wrong type, dtype or shape.

    Notes
    -----
    Input that is not C-contiguous is copied once.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on modifying cues with super-pixels.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> color = np.array([[[True, False, False]]])
    >>> gray = np.array([[[False, False, True]]])
    >>> cuekit.fuse_cues(color, gray).astype(int)
    array([[[1, 0, 1]]])
    """
    threads = check_threads(threads)
    if not cue_sets:
        raise ValueError("cue_sets must be one or more sets of cues, got none")
    sets = _as_bytes(cue_sets)
    out = empty(sets[0].shape, np.bool_, sets[0])
    kernels, where = backend(sets[0], threads)
    kernels.fuse(sets, out, where)
    return like(out, cue_sets[0])


def _as_bytes(cue_sets: Sequence[Any]) -> list[Any]:
    sets: list[Any] = []
    for i, cues in enumerate(cue_sets):
        name = f"cue_sets[{i}]"
        array = check_any_array(cues, name, CUES, ndim=3, layout="(..., K, H, W)").view(np.uint8)
        if sets:
            check_place(array, name, sets[0], "cue_sets[0]")
            check_shape(array, name, sets[0].shape, "cue_sets[0]")
        sets.append(array)
    return sets


def resize_cues(
    cues: Any, size: tuple[int, int], *, rule: str = "nearest", threads: int | None = 1
) -> Any:
    """Bring cues to a network's grid, or back.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        Nonzero = on.
    size : (int, int)
        Height and width of the result.
    rule : {"nearest", "any", "half"}, optional
        What makes a cell of the new grid on: the pixel under its centre; any part of it; or at
        least half of its area.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., K, height, width) array or tensor of bool

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    Half-pixel centres: the source of cell i is floor((i + 1/2) * in / out). Areas are exact:
    pixels that a cell covers in part count for that part. Input that is not C-contiguous is
    copied once.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cues = np.array([[[True, False, False, True, True, True]]])
    >>> cuekit.resize_cues(cues, (1, 2), rule="half").astype(int)
    array([[[0, 1]]])
    """
    threads = check_threads(threads)
    maps = check_any_array(cues, "cues", CUES, ndim=3, layout="(..., K, H, W)")
    height, width = check_size(size, "size")
    check_choice(rule, "rule", ("nearest", "any", "half"))
    check_pixels(maps, "cues")
    out = empty((*maps.shape[:-2], height, width), np.bool_, maps)
    if out.size:
        if 0 in maps.shape[-2:]:
            raise ValueError(f"cues must have at least one pixel, got {maps.shape}")
        source = maps.view(np.uint8).reshape(-1, *maps.shape[-2:])
        kernels, where = backend(maps, threads)
        kernels.resize(source, out.reshape(-1, height, width), rule, where)
    return like(out, cues)


def cues_to_labels(
    cues: Any,
    *,
    classes: Sequence[int] | None = None,
    overlap: str = "smallest",
    background_overlap: str = "foreground",
    unknown: int = IGNORE,
    threads: int | None = 1,
) -> Any:
    """Give every pixel one label from cues that may overlap.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        Channel 0 is the background; nonzero = on.
    classes : sequence of K int, optional
        The label written for channel i; default i. Not 255, which is kept for ignored pixels.
    overlap : {"smallest", "ignore"}, optional
        Among foreground classes at a pixel: the one with the fewest pixels in its image wins,
        ties go to the lower index; or the pixel becomes 255.
    background_overlap : {"foreground", "background", "ignore"}, optional
        What wins where background and a foreground class are on; ``"ignore"`` writes 255.
    unknown : int, optional
        The label where nothing is on.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., H, W) array or tensor
        uint8 if `classes` and `unknown` lie in 0..255, else int32.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    Input that is not C-contiguous is copied once. That the smallest class wins is the rule of
    SEC's published cues.

    References
    ----------
    .. [1] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cues = np.array([[[1, 0, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 1, 0]]], dtype=bool)
    >>> cuekit.cues_to_labels(cues)
    array([[  1,   1,   2, 255]], dtype=uint8)
    """
    threads = check_threads(threads)
    maps = check_any_array(cues, "cues", CUES, ndim=3, layout="(..., K, H, W)")
    *batch, channels, height, width = maps.shape
    if channels == 0:
        raise ValueError(f"cues must have a background channel, got {maps.shape}")
    check_choice(overlap, "overlap", ("smallest", "ignore"))
    check_choice(background_overlap, "background_overlap", ("foreground", "background", "ignore"))
    names = _check_classes(classes, channels)
    unknown = check_integer(unknown, "unknown")
    written = [*names, unknown]
    if min(written) < -(2**31) or max(written) >= 2**31:
        raise ValueError(f"classes and unknown must fit in int32, got {written}")
    small = min(written) >= 0 and max(written) <= 255
    out = empty((*batch, height, width), np.uint8 if small else np.int32, maps)
    images = math.prod(batch)
    kernels, where = backend(maps, threads)
    if isinstance(maps, DeviceArray) and channels > kernels.max_label_channels:
        raise ValueError(
            f"cues must have at most {kernels.max_label_channels} channels on a CUDA device, got "
            f"{channels}"
        )
    kernels.labels(
        maps.view(np.uint8).reshape(images, channels, height * width),
        np.array(names, dtype=np.int64),
        out.reshape(images, height * width),
        overlap,
        background_overlap,
        unknown,
        where,
    )
    return like(out, cues)


def _check_classes(classes: Sequence[int] | None, channels: int) -> list[int]:
    if classes is None:
        classes = range(channels)
    if not isinstance(classes, Sequence | np.ndarray) or isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of integers, got {classes!r}")
    names = [check_integer(label, f"classes[{i}]") for i, label in enumerate(classes)]
    if len(names) != channels:
        raise ValueError(
            f"classes must have {channels} entries, one per channel of cues, got {len(names)}"
        )
    if IGNORE in names:
        raise ValueError(
            f"classes must not contain {IGNORE}, which marks ignored pixels, "
            f"got it for channel {names.index(IGNORE)}"
        )
    return names
