"""A background channel for maps of foreground classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from cuekit._arrays import like
from cuekit._checks import FLOATS, check_array, check_number, check_unit_range, widened
from cuekit._device import AnyFramework

# Beyond it, a background map is 0 wherever any class is seen at all. Published are 1 to 32.
LARGEST_ALPHA = 1000


def with_background(
    maps: AnyFramework, *, threshold: float | None = None, alpha: float | None = None
) -> AnyFramework:
    """Put a background map before the maps of the foreground classes.

    Exactly one of `threshold` and `alpha` is given.

    Parameters
    ----------
    maps : (..., C, h, w) array or tensor of float16, float32 or float64
        Maps of the classes that are in the image, in [0, 1]. C may be 0.
    threshold : float, optional
        The background map is this value everywhere, so that a class wins where its map is above
        it. IRN [2]_ has 0.05 and 0.3 for its two runs and 0.15 in its evaluation, ToCo [4]_ 0.25
        and 0.7.
    alpha : float, optional
        The background map is (1 - m) ** alpha, where m is the largest of the classes' maps. The
        larger alpha, the less background. PSA [1]_ has 4, 16 and 32, CLIP-ES [3]_ has 1, and 1
        or 2 in its evaluation.

    Returns
    -------
    (..., C + 1, h, w) array or tensor of the dtype of `maps`
        Channel 0 is the background, the others are `maps`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value. Maps outside [0, 1] are refused:
        divide each by its maximum first, as `merge_scales` does.

    Notes
    -----
    Here, high means background: the opposite of `background_map`.

    The result is that of the published NumPy code [1]_ [2]_ [3]_, bit for bit: the background is
    computed in the dtype of `maps`. Rounding may leave maps up to 0.001 outside [0, 1]; m is
    clipped to [0, 1]. PSA's ``infer_aff.py`` has the operator ``**``, which may differ from its
    ``np.power`` in the last bit.

    It runs in NumPy, on the CPU only.

    References
    ----------
    .. [1] J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision",
       CVPR 2018, arXiv:1803.10464; ``infer_cls.py``.
    .. [2] J. Ahn, S. Cho, S. Kwak, "Weakly supervised learning of instance segmentation with
       inter-pixel relations", CVPR 2019, arXiv:1904.05044; ``step/cam_to_ir_label.py``.
    .. [3] Y. Lin et al., "CLIP is also an efficient segmenter", CVPR 2023, arXiv:2212.09506;
       ``eval_cam_with_crf.py``.
    .. [4] L. Ru et al., "Token contrast for weakly-supervised semantic segmentation", CVPR 2023,
       arXiv:2303.01267; ``tools/infer_cam_crf_label.py``.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> maps = np.array([[[0.5, 0.0]], [[0.25, 0.125]]])
    >>> cuekit.with_background(maps, threshold=0.3)[0]
    array([[0.3, 0.3]])
    >>> cuekit.with_background(maps, alpha=2)[0]
    array([[0.25    , 0.765625]])
    """
    source = check_array(maps, "maps", FLOATS, ndim=3, layout="(..., C, h, w)")
    if (threshold is None) == (alpha is None):
        raise ValueError(
            "exactly one of threshold and alpha must be given, got "
            + ("none" if alpha is None else f"threshold={threshold!r} and alpha={alpha!r}")
        )
    wide = widened(source, "maps")
    check_unit_range(wide, "maps", "divide each map by its maximum first, as merge_scales does")
    background: Any
    if threshold is not None:
        background = check_number(threshold, "threshold", minimum=0)
        if background > 1:
            raise ValueError(f"threshold must be at most 1, got {background}")
    else:
        exponent = check_number(alpha, "alpha")
        if not 0 < exponent <= LARGEST_ALPHA:
            raise ValueError(f"alpha must be above 0 and at most {LARGEST_ALPHA}, got {exponent}")
        largest = np.minimum(np.max(wide, axis=-3, initial=0), 1).astype(source.dtype)
        background = np.power(1 - largest, exponent)
    *batch, classes, height, width = source.shape
    out = np.empty((*batch, classes + 1, height, width), source.dtype)
    out[..., 0, :, :] = background
    out[..., 1:, :, :] = source
    return like(out, maps)
