"""One label per pixel, from cues that may overlap."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import empty, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    check_any_array,
    check_choice,
    check_integer,
    check_masks,
    check_threads,
    integers_of,
)
from cuekit._device import AnyFramework

IGNORE = 255  # as csrc/include/cuekit/labels.h has it

Overlap: TypeAlias = Literal["smallest", "ignore"]
BackgroundOverlap: TypeAlias = Literal["foreground", "background", "ignore"]


def cues_to_labels(
    cues: AnyFramework,
    *,
    classes: Any = None,
    overlap: Overlap = "smallest",
    background_overlap: BackgroundOverlap = "foreground",
    unknown: int = IGNORE,
    threads: int | None = 1,
) -> AnyFramework:
    """Give every pixel one label from cues that may overlap.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        Channel 0 is the background; nonzero = on.
    classes : K integers, optional
        The label written for channel i; default i. A sequence, array, tensor or a dictionary's
        keys. Not 255, which is kept for ignored pixels.
    overlap : {"smallest", "ignore"}, optional
        Among foreground classes at a pixel: the one with the fewest pixels in its image wins,
        ties go to the lower index; or the pixel becomes 255.
    background_overlap : {"foreground", "background", "ignore"}, optional
        What wins where background and a foreground class are on; ``"ignore"`` writes 255.
    unknown : int, optional
        The label where nothing is on.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

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
    check_masks(maps, "cues")
    check_choice(overlap, "overlap", get_args(Overlap))
    check_choice(background_overlap, "background_overlap", get_args(BackgroundOverlap))
    class_ids: list[int] = _check_classes(classes, channels)
    unknown = check_integer(unknown, "unknown")
    written = [*class_ids, unknown]
    if min(written) < -(2**31) or max(written) >= 2**31:
        raise ValueError(f"classes and unknown must fit in int32, got {written}")
    fits_uint8 = min(written) >= 0 and max(written) <= 255
    out = empty((*batch, height, width), np.uint8 if fits_uint8 else np.int32, maps)
    shape = (math.prod(batch), channels, height * width)
    kernels, context = backend(maps, threads)
    kernels.labels(
        flat(maps, *shape),
        class_ids,
        out.reshape(shape[0], shape[2]),
        overlap,
        background_overlap,
        unknown,
        context,
    )
    return like(out, cues)


def _check_classes(classes: Any, channels: int) -> list[int]:
    ids = list(range(channels)) if classes is None else integers_of(classes)
    if ids is None:
        raise TypeError(f"classes must be a sequence of integers, got {classes!r}")
    class_ids = [check_integer(label, f"classes[{i}]") for i, label in enumerate(ids)]
    if len(class_ids) != channels:
        raise ValueError(
            f"classes must have {channels} entries, one per channel of cues, got {len(class_ids)}"
        )
    if IGNORE in class_ids:
        raise ValueError(
            f"classes must not contain {IGNORE}, which marks ignored pixels, "
            f"got it for channel {class_ids.index(IGNORE)}"
        )
    return class_ids
