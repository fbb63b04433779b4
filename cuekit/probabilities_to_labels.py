"""One label per pixel, from probabilities or scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from cuekit._arrays import like
from cuekit._checks import (
    FLOATS,
    check_array,
    check_classes,
    check_integer,
    check_number,
    check_pixels,
    check_present,
    check_unit_range,
    label_dtype,
    widened,
)
from cuekit._device import AnyFramework, Array


def probabilities_to_labels(
    probabilities: AnyFramework,
    *,
    present: Any = None,
    classes: Any = None,
    confidence: float | None = None,
    ignore: int | None = 255,
) -> AnyFramework:
    """Give every pixel the label of its largest probability.

    Parameters
    ----------
    probabilities : (..., K, H, W) array or tensor of float16, float32 or float64
        Such as `dense_crf` gives; channel 0 is the background. Any finite scores, such as logits,
        where `confidence` is not given.
    present : (..., K - 1) array, tensor or list of bool, or of 0 and 1, optional
        The image's tags, without the background. Absent classes are not written. None means that
        all classes are present.
    classes : K integers, optional
        The label written for channel i; default i. A sequence, array, tensor or a dictionary's
        keys. Not the value of `ignore`.
    confidence : float, optional
        Where the largest probability is below it, `ignore` is written. CLIP-ES [1]_ has 0.95.
    ignore : int or None, optional
        The label of pixels that training leaves out; default 255, that of PASCAL VOC. None: there
        is none, so that 255 may be a class; then `confidence` must not be given.

    Returns
    -------
    (..., H, W) array or tensor
        uint8 if all labels that can be written lie in 0..255, else int32.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, values are not finite, or
        `confidence` is given and they are not in [0, 1].

    Notes
    -----
    Ties go to the lowest channel, as in ``np.argmax``. `confidence` is rounded to the dtype of
    `probabilities` and compared in it, as NumPy does it with a Python float, and so CLIP-ES's code:
    in float16, 0.95 is 0.9502.

    It runs in NumPy, on the CPU only.

    References
    ----------
    .. [1] Y. Lin et al., "CLIP is also an efficient segmenter", CVPR 2023, arXiv:2212.09506;
       ``eval_cam_with_crf.py``.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> probabilities = np.array([[[0.97, 0.5, 0.02]], [[0.03, 0.5, 0.98]]])
    >>> cuekit.probabilities_to_labels(probabilities, classes=[0, 15])
    array([[ 0,  0, 15]], dtype=uint8)
    >>> cuekit.probabilities_to_labels(probabilities, classes=[0, 15], confidence=0.95)
    array([[  0, 255,  15]], dtype=uint8)
    """
    scores = check_scores(probabilities, "probabilities")
    *batch, channels, _, _ = scores.shape
    tags = check_present(present, "present", tuple(batch), channels - 1, scores, "probabilities")
    wide = widened(scores, "probabilities")
    if ignore is not None:
        ignore = check_integer(ignore, "ignore")
    ids: list[int] = check_classes(classes, channels, "probabilities", ignore)
    if confidence is None:
        dtype = label_dtype(ids, "classes")
    else:
        confidence = check_number(confidence, "confidence", minimum=0)
        if confidence > 1:
            raise ValueError(f"confidence must be at most 1, got {confidence}")
        if ignore is None:
            raise ValueError(f"confidence={confidence} needs a label to ignore, got ignore=None")
        dtype = label_dtype([*ids, ignore], "classes and ignore")
        check_unit_range(wide, "probabilities", "apply softmax first")
    best, largest = find_largest(wide, tags)
    labels = np.array(ids, dtype)[best]
    if confidence is not None:
        labels[largest < scores.dtype.type(confidence)] = ignore
    return like(labels, probabilities)


def check_scores(scores: Any, name: str) -> Array:
    """Adopt scores (..., K, H, W) on the CPU, channel 0 of which is the background."""
    array = check_array(scores, name, FLOATS, ndim=3, layout="(..., K, H, W)")
    if array.shape[-3] == 0:
        raise ValueError(f"{name} must have a background channel, got {array.shape}")
    check_pixels(array, name)
    return array


def find_largest(
    scores: Array,  # (..., K, H, W), finite
    tags: Array | None = None,  # (..., K - 1) bool; None: all classes are present
) -> tuple[Array, Array]:  # (..., H, W) each
    """Return the channel with the largest score, the lowest of several, and this score.

    The same as ``np.argmax`` without a branch for each pixel, which is several times as fast.
    """
    largest = scores[..., 0, :, :].copy()
    best = np.zeros(largest.shape, np.uint8 if scores.shape[-3] <= 256 else np.int32)
    for k in range(1, scores.shape[-3]):
        channel = scores[..., k, :, :]
        if tags is not None and not tags[..., k - 1].all():
            channel = np.where(tags[..., k - 1, None, None], channel, -np.inf)
        larger = channel > largest
        np.maximum(largest, channel, out=largest)
        # All channels so far are below k.
        np.maximum(best, larger.view(np.uint8) * best.dtype.type(k), out=best)
    return best, largest
