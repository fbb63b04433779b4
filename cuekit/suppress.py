"""Prediction-ceiling suppression: at test time, absent classes score below present ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit import _compile
from cuekit._arrays import empty, flat, like
from cuekit._autograd import differentiable
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_finite,
    check_number,
    check_present,
    check_threads,
    check_values,
)
from cuekit._device import AnyFramework
from cuekit._torch import needs_gradient


def suppress_absent(
    scores: AnyFramework,
    present: Any,
    *,
    margin: float = 1e-4,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Cap the scores of absent classes just below those of background and present classes.

    Parameters
    ----------
    scores : (..., K, H, W) array or tensor of float16, float32 or float64
        A segmentation network's per-class maps, channel 0 = background: logits or probabilities.
    present : (..., K - 1) bool, 0 and 1 of any dtype, or None
        Which foreground classes the image contains: its tags, or a classifier's prediction. The
        background has no entry. None means all, and changes nothing.
    margin : float, optional
        Absent classes are at least this much below the ceiling, up to rounding.
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, H, W) array or tensor of the dtype of `scores`
        With c the largest score at a pixel among background and present classes, an absent
        class's f becomes min(f, c - margin, the next value below c). The others stay as they
        are, and probabilities are not renormalised.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or scores are not finite.

    Notes
    -----
    No absent class is the arg max of the result. This holds *before* a dense CRF only: its
    messages can raise a class above the ceiling. To keep absent classes out of a CRF, pass
    ``present`` to `dense_crf`: then they take no part in it.

    Results can be negative where `scores` are probabilities and `margin` is large: clip them before
    `dense_crf`. Computed in the dtype of `scores`. Input that is not C-contiguous is copied once.

    Autograd knows the gradient with respect to `scores`. Where a class is capped, the gradient of
    its result goes to the class that sets the ceiling, the first one where several do; everywhere
    else a result's gradient is its score's.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on testing with the prediction.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> scores = np.array([[[0.2]], [[0.3]], [[0.5]]])
    >>> cuekit.suppress_absent(scores, [True, False], margin=0.1).ravel()
    array([0.2, 0.3, 0.2])
    """
    if _compile.takes(scores):
        traced: AnyFramework = _compile.suppress_absent(scores, present, margin, validate, threads)
        return traced
    threads = check_threads(threads)
    recorded = needs_gradient(scores)
    saved: list[Any] = []

    def suppressed(array: Any) -> Any:
        result, tags = _suppressed(array, present, margin, validate=validate, threads=threads)
        if recorded:
            saved.extend(_capped(array, tags, result))
        return result

    def gradient(of_result: Any) -> Any:
        return _gradient(of_result, *saved)

    result: AnyFramework = differentiable(scores, suppressed, gradient)
    return result


def gradient_of_suppression(gradient: Any, scores: Any, present: Any, result: Any) -> Any:
    """Return the gradient with respect to the scores, all of them tensors; present may be None."""
    return _gradient(gradient, *_capped(scores, present, result))


def _capped(scores: Any, present: Any, result: Any) -> tuple[Any, Any]:
    """Return where the result is capped, and the class that sets the ceiling, (..., 1, H, W)."""
    import torch

    kept = torch.ones(scores.shape[:-2], dtype=torch.bool, device=scores.device)
    if present is not None:
        kept[..., 1:] = present != 0
    ceilings = scores.masked_fill(~kept[..., None, None], -math.inf)
    return result < scores, ceilings.argmax(-3, keepdim=True)


def _gradient(gradient: Any, capped: Any, highest: Any) -> Any:
    import torch

    moved = torch.where(capped, gradient, 0)
    own = torch.where(capped, 0, gradient)
    return own.scatter_add(-3, highest, moved.sum(-3, keepdim=True))


def _suppressed(
    scores: AnyFramework, present: Any, margin: float, *, validate: bool, threads: int
) -> tuple[AnyFramework, Any]:
    """Return the result, and for autograd the tags in the framework of the scores."""
    maps = check_any_array(scores, "scores", FLOATS, ndim=3, layout="(..., K, H, W)")
    *batch, channels, height, width = maps.shape
    if channels == 0:
        raise ValueError(f"scores must have a background channel, got {maps.shape}")
    tags = check_present(
        present, "present", tuple(batch), channels - 1, maps, "scores", validate=validate
    )
    margin = check_number(margin, "margin", minimum=0)
    if margin > float(np.finfo(maps.dtype).max):
        raise ValueError(f"margin must fit in {maps.dtype}, the dtype of scores, got {margin}")
    check_values(validate, ("scores", maps))
    out = empty(maps.shape, maps.dtype, maps)
    shape = (math.prod(batch), channels, height * width)
    kernels, context = backend(maps, threads)
    finite = kernels.suppress(
        flat(maps, *shape),
        flat(tags, shape[0], channels - 1),
        out.reshape(shape),
        margin,
        context,
    )
    check_finite(finite, ("scores", maps))
    return like(out, scores), like(tags, scores)
