"""SEPL: a label map sharpened with masks, each of which belongs to one class."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from cuekit._arrays import like
from cuekit._checks import (
    CUES,
    INTEGERS,
    check_array,
    check_integer,
    check_masks,
    check_shape,
)
from cuekit._device import AnyFramework, Array


def sepl_labels(labels: AnyFramework, masks: Any, *, ignore: int | None = 255) -> AnyFramework:
    """Sharpen a label map with masks, as SEPL's published code does.

    Classes take masks in ascending order. With P the pixels of a class in `labels`, it takes every
    mask M with ``|M ∩ P| > 0.5 |M|`` or ``|M ∩ P| >= 0.85 |P|`` that no earlier class took. The
    class is written to the masks it took and to the pixels of P under no mask that was still free;
    later classes overwrite earlier ones. All other pixels become background, also those of P under
    masks that no class took.

    Parameters
    ----------
    labels : (..., H, W) array or tensor of any integer dtype
        One label per pixel, such as `cues_to_labels` gives: 0 is the background, which takes no
        masks, and all others are classes.
    masks : (..., R, H, W) bool or uint8
        Masks that may overlap, such as a promptable segmenter gives. Their order means nothing, and
        R may be 0.
    ignore : int or None, optional
        The label of pixels of which nothing is known. It is no class, and such a pixel keeps it
        where no class is written. None means that there is no such label.

    Returns
    -------
    (..., H, W) array or tensor of the dtype of `labels`

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or a label is negative and not
        `ignore`.

    Warns
    -----
    UserWarning
        If labels hold nothing but 0 and 255, and 255 is ignored: most likely they are a binary
        mask, whose object has the value 255.

    Notes
    -----
    This is the published result of SEPL [1]_: equal to that of the authors' code (the method
    ``max_iou_imp2``) for labels from 0 to 20. That code has no `ignore`: pixels with any other
    label become background there.

    ``snap_cues(..., accept="sepl")`` has the same rule for a single class, but no order of classes:
    it takes cues that may overlap, several channels may accept one mask, and every mask covers what
    is under it. Results differ where classes compete for a mask.

    Pixels are counted, and compared as integers. It runs in NumPy, on the CPU only.

    References
    ----------
    .. [1] T. Chen et al., "Segment Anything Model (SAM) enhanced pseudo labels for weakly
       supervised semantic segmentation", arXiv:2305.05803.

    Examples
    --------
    Class 1 takes the mask. Class 2 then overwrites its own pixel, which no free mask covers:

    >>> import numpy as np
    >>> import cuekit
    >>> labels = np.array([[0, 1, 1, 2, 0]], dtype=np.uint8)
    >>> masks = np.array([[[1, 1, 1, 1, 0]]], dtype=bool)
    >>> cuekit.sepl_labels(labels, masks)
    array([[1, 1, 1, 2, 0]], dtype=uint8)
    """
    names = check_array(labels, "labels", INTEGERS, ndim=2, layout="(..., H, W)")
    stack = check_array(masks, "masks", CUES, ndim=3, layout="(..., R, H, W)")
    *batch, height, width = names.shape
    regions = stack.shape[-3]
    check_shape(stack, "masks", (*batch, regions, height, width), "labels")
    check_masks(stack, "masks")
    if ignore is not None:
        ignore = check_integer(ignore, "ignore")
    unknown = np.zeros(names.shape, dtype=bool) if ignore is None else names == ignore
    wrong = np.argwhere((names < 0) & ~unknown)
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        allowed = "at least 0" + ("" if ignore is None else f" or {ignore}")
        raise ValueError(f"labels must be {allowed}, got {names[index]} at index {index}")
    if ignore == 255 and unknown.any() and not names[~unknown].any():
        warnings.warn(
            "labels hold nothing but 0 and 255, and 255 is ignored: for a binary mask of 0 and 255 "
            "pass (mask > 0).astype(int)",
            stacklevel=2,
        )
    out = np.zeros(names.shape, names.dtype)
    out[unknown] = names[unknown]
    for index in np.ndindex(*batch):
        image = np.where(unknown[index], names.dtype.type(0), names[index])
        image_masks = stack[index].reshape(regions, height * width)
        _write_classes(image.ravel(), image_masks.view(np.uint8), out[index].reshape(-1))
    return like(out, labels)


def _write_classes(
    labels: Array,  # (N,): 0 is no class
    masks: Array,  # (R, N), nonzero = on
    out: Array,  # (N,)
) -> None:
    """Write the classes of one image, and leave all other pixels as they are."""
    values, classes, areas = np.unique(labels, return_inverse=True, return_counts=True)
    classes = classes.reshape(labels.shape)  # (N,): index into values
    counts = np.zeros((len(masks), len(values)), np.int64)  # pixels of each class under each mask
    covers = np.zeros(len(labels), np.int32)  # (N,): masks that cover the pixel and are free
    for mask, row in zip(masks, counts, strict=True):
        pixels = np.flatnonzero(mask != 0)
        row[:] = np.bincount(classes[pixels], minlength=len(values))
        covers[pixels] += 1
    sizes = counts.sum(1)
    free = np.ones(len(masks), dtype=bool)
    for c, value in enumerate(values):
        if value == 0:
            continue
        overlaps = counts[:, c]
        taken = free & ((2 * overlaps > sizes) | (20 * overlaps >= 17 * areas[c]))
        for r in np.flatnonzero(taken):
            pixels = np.flatnonzero(masks[r] != 0)
            out[pixels] = value
            covers[pixels] -= 1
        free &= ~taken
        out[(classes == c) & (covers == 0)] = value
