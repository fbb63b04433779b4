"""One label per pixel, from cues that may overlap."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    check_any_array,
    check_choice,
    check_classes,
    check_integer,
    check_masks,
    check_threads,
    label_dtype,
)
from cuekit._device import AnyFramework

Overlap: TypeAlias = Literal["smallest", "ignore"]
BackgroundOverlap: TypeAlias = Literal["foreground", "background", "ignore"]


def cues_to_labels(
    cues: AnyFramework,
    *,
    classes: Any = None,
    overlap: Overlap = "smallest",
    background_overlap: BackgroundOverlap = "foreground",
    unknown: int | None = None,
    ignore: int | None = 255,
    threads: int | None = 1,
) -> AnyFramework:
    """Give every pixel one label from cues that may overlap.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        Channel 0 is the background. uint8 holds 0 and 1, or 0 and 255.
    classes : K integers, optional
        The label written for channel i; default i. A sequence, array, tensor or a dictionary's
        keys. Not the value of `ignore`.
    overlap : {"smallest", "ignore"}, optional
        Among foreground classes at a pixel: the one with the fewest pixels in its image wins,
        ties go to the lower index; or the pixel becomes `ignore`.
    background_overlap : {"foreground", "background", "ignore"}, optional
        What wins where background and a foreground class are on; ``"ignore"`` writes `ignore`.
    unknown : int, optional
        The label where nothing is on; default: `ignore`.
    ignore : int or None, optional
        The label of pixels that training leaves out, such as -1; default 255, that of PASCAL VOC.
        None: there is none, so that 255 may be a class; then `unknown` must be given and nothing
        can be ignored.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., H, W) array or tensor
        uint8 if all labels that can be written lie in 0..255, else int32.

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
    check_masks(maps, "cues")
    check_choice(overlap, "overlap", get_args(Overlap))
    check_choice(background_overlap, "background_overlap", get_args(BackgroundOverlap))
    ignores = "ignore" in (overlap, background_overlap)
    if ignore is not None:
        ignore = check_integer(ignore, "ignore")
    elif unknown is None:
        raise ValueError("unknown must be given where ignore is None, got None")
    elif ignores:
        raise ValueError("overlap='ignore' needs a label to ignore, got ignore=None")
    class_ids: list[int] = check_classes(classes, channels, "cues", ignore)
    unknown_label: int = check_integer(ignore if unknown is None else unknown, "unknown")
    ignore_label: int = unknown_label if ignore is None else ignore  # not written in the first case
    written: list[int] = [*class_ids, unknown_label]
    if ignores:
        written.append(ignore_label)
    dtype = label_dtype(written, "classes, unknown and ignore")
    out = empty((*batch, height, width), dtype, maps)
    shape = (math.prod(batch), channels, height * width)
    kernels, context = backend(maps, threads)
    kernels.labels(
        flat(maps, *shape),
        class_ids,
        out.reshape(shape[0], shape[2]),
        overlap,
        background_overlap,
        unknown_label,
        ignore_label,
        context,
    )
    return like(out, cues)
