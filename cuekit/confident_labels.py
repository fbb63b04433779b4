"""Labels of which two runs are sure: one with a high background score, one with a low."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from cuekit._arrays import adopt, first_true, like
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    check_array,
    check_classes,
    check_integer,
    check_shape,
    label_dtype,
    widened,
)
from cuekit._device import AnyFramework, Array
from cuekit.probabilities_to_labels import check_scores, find_largest


def confident_labels(
    high: AnyFramework, low: Any, *, classes: Any = None, ignore: int = 255
) -> AnyFramework:
    """Combine two runs: keep the surest foreground and background, and ignore the rest.

    Maps are refined twice, with a high and with a low background score. Foreground is what is
    foreground in the run with the high score, background is what is background in both, and all
    other pixels are ignored.

    Parameters
    ----------
    high, low : (..., H, W) of any integer dtype, or (..., K, H, W) of float16, float32 or float64
        The result of the run with the high background score, and of that with the low: label maps
        in which 0 is the background, or scores such as `dense_crf` and `with_background` give, in
        which channel 0 is the background and the largest score wins, ties going to the lowest
        channel. Labels may hold `ignore`, which is neither foreground nor background.
    classes : integers, optional
        The label written for channel i, or for label i of label maps; default i. A sequence, array,
        tensor or a dictionary's keys, background first. Not the value of `ignore`.
    ignore : int, optional
        The label of pixels of which the runs are not sure; default 255, that of PASCAL VOC.

    Returns
    -------
    (..., H, W) array or tensor
        uint8 if all labels that can be written lie in 0..255, else int32; for label maps without
        `classes`, the dtype of `high`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, scores are not finite, or labels
        are negative or not below the number of `classes`.

    Warns
    -----
    UserWarning
        If `high` has less background than `low`, by more than a hundredth of all pixels. Most
        likely they are in the wrong order.

    Notes
    -----
    Equal to the combination in the code of IRN [1]_ (``cam_to_ir_label.py``: background scores 0.3
    and 0.05, hard labels, CRF "irn") and of ToCo [2]_ (``infer_cam_crf_label.py``: 0.7 and 0.25,
    softmax, CRF "toco-cam"; and ``refine_cams_with_bkg_v2``, the same with PAR, which AFA and
    WeCLIP share). They differ in the two runs only. IRN calls the high score ``conf_fg_thres``.
    For COCO, ToCo's code writes the run with the high score alone.

    It runs in NumPy, on the CPU only.

    References
    ----------
    .. [1] J. Ahn, S. Cho, S. Kwak, "Weakly supervised learning of instance segmentation with
       inter-pixel relations", CVPR 2019, arXiv:1904.05044.
    .. [2] L. Ru et al., "Token contrast for weakly-supervised semantic segmentation", CVPR 2023,
       arXiv:2303.01267.

    Examples
    --------
    Without a refiner:

    >>> import numpy as np
    >>> import cuekit
    >>> maps = np.array([[[0.9, 0.2, 0.01]]])
    >>> high = cuekit.with_background(maps, threshold=0.3)
    >>> low = cuekit.with_background(maps, threshold=0.05)
    >>> cuekit.confident_labels(high, low, classes=[0, 15])
    array([[ 15, 255,   0]], dtype=uint8)
    """
    ignore = check_integer(ignore, "ignore")
    ids: list[int] = []  # none: labels are written as they are
    if adopt(high, "high").dtype.kind == "f":
        scores, other_scores = check_scores(high, "high"), check_scores(low, "low")
        check_shape(other_scores, "low", scores.shape, "high")
        ids = check_classes(classes, scores.shape[-3], "high", ignore)
        labels, _ = find_largest(widened(scores, "high"))
        others, _ = find_largest(widened(other_scores, "low"))
        foreground = labels != 0
    else:
        labels = check_array(high, "high", (*FLOATS, *INTEGERS), ndim=2, layout="(..., H, W)")
        others = check_array(low, "low", INTEGERS, ndim=2, layout="(..., H, W)")
        check_shape(others, "low", labels.shape, "high")
        if classes is not None:
            ids = check_classes(classes, None, "high", ignore)
            if 0 <= ignore < len(ids):
                raise ValueError(
                    f"ignore must not be a channel, 0 to {len(ids) - 1}, got {ignore}: pass another"
                )
        for name, array in (("high", labels), ("low", others)):
            _check_labels(array, name, len(ids), ignore)
        foreground = (labels != 0) & (labels != ignore)
    dtype = label_dtype([*ids, ignore], "classes and ignore") if ids else _own_dtype(labels, ignore)
    background, others_background = labels == 0, others == 0
    excess = np.count_nonzero(others_background) - np.count_nonzero(background)
    if 100 * excess > background.size:
        warnings.warn(
            "high should have more background than low, got less: the first argument is the run "
            "with the high background score",
            stacklevel=2,
        )
    out = np.full(labels.shape, ignore, dtype)
    kept = labels[foreground]
    out[foreground] = np.array(ids, dtype)[kept] if ids else kept
    out[background & others_background] = ids[0] if ids else 0
    return like(out, high)


def _check_labels(labels: Array, name: str, classes: int, ignore: int) -> None:
    """Refuse labels that are negative, or not below `classes` if it is not 0, and not `ignore`."""
    wrong = (labels < 0) | ((labels >= classes) if classes else False)
    index = first_true(wrong & (labels != ignore))
    if index is not None:
        allowed = f"from 0 to {classes - 1}" if classes else "at least 0"
        raise ValueError(
            f"{name} must be {allowed} or {ignore}, got {labels[index]} at index {index}"
        )


def _own_dtype(labels: Array, ignore: int) -> np.dtype[Any]:
    """Return the dtype of a label map in which `ignore` is written, too."""
    limits = np.iinfo(labels.dtype)
    if ignore == 0:
        raise ValueError("ignore must not be 0, the label of the background, got 0")
    if not limits.min <= ignore <= limits.max:
        raise ValueError(
            f"ignore must fit in {labels.dtype}, the dtype of high, got {ignore}: convert high, or "
            "pass another ignore="
        )
    return labels.dtype
