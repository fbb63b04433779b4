"""Maps of one photo at several scales, and of its mirror image, merged into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from cuekit._arrays import like
from cuekit._checks import check_choice, check_number, check_shape, check_size
from cuekit._device import AnyFramework, Array
from cuekit.resize_maps import check_maps, interpolate

Merge: TypeAlias = Literal["sum", "mean", "max"]
Normalize: TypeAlias = Literal["max", "minmax"]


def merge_scales(
    maps: Sequence[AnyFramework],
    *,
    flipped: Sequence[Any] | None = None,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    flips: Merge = "sum",
    scales: Merge = "sum",
    normalize: Normalize | None = "max",
    epsilon: float = 1e-5,
) -> AnyFramework:
    """Merge the maps of one photo at several scales, and of its mirror image.

    All maps are resized to one size, those of the mirror image are flipped back and merged with
    their partners, then the scales are merged, and each class is normalised.

    Parameters
    ----------
    maps : sequence of (..., C, h_i, w_i) arrays or tensors of float16, float32 or float64
        One for each scale.
    flipped : sequence of (..., C, h_i, w_i) arrays or tensors, optional
        The maps of the photo flipped left to right, as the network gives them, in the same order.
    size : (int, int), optional
        Height and width of the result; default: those of the largest of `maps`.
    crop : (int, int), optional
        Height and width that are kept at the top left, before normalising: for maps of a photo that
        was padded at the bottom and on the right.
    flips, scales : {"sum", "mean", "max"}, optional
        How a map is merged with that of the mirror image, and how scales are merged.
    normalize : {"max", "minmax"} or None, optional
        ``"max"`` divides each class of each image by its maximum + `epsilon`; ``"minmax"``
        subtracts its minimum first. Before, negative values become 0, for each scale. None: neither
        of these, as for a segmentation network's scores.
    epsilon : float, optional
        Added to the maximum.

    Returns
    -------
    (..., C, height, width) array or tensor of the widest dtype of `maps`
        In [0, 1] if normalised. A class without positive values is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, maps are not finite, or their sum
        is too large for its dtype.

    Notes
    -----
    Published scripts in these terms. Results are equal up to the rounding of their float32, here
    float64: some 1e-6 for maps of 30 cells a side, more for larger ones (see `resize_maps`). With
    ``"minmax"``, a constant map is 0 here; in float32, rounding may leave noise there.

    - PSA [1]_ (``infer_cls.py``): the defaults, with `size` that of the photo.
    - IRN [2]_ (``make_cam.py``) and those that build on it: the defaults. The network adds the maps
      of the mirror image itself: no `flipped`. For ``cam``, `size` is ((H - 1) // 4 + 1,
      (W - 1) // 4 + 1); for ``high_res``, it is the photo's, rounded up to multiples of 16, and
      `crop` is the photo's.
    - ToCo [3]_ (``multi_scale_cam2``) and WeCLIP (``multi_scale_cam``): ``flips="max",
      normalize="minmax"``, with `size` that of the network's input.
    - ToCo's segmentation (``infer_seg_voc.py``): ``scales="max", normalize=None``.
    - CLIP-ES [4]_ merges nothing and normalises its maps, which are not negative, before it
      resizes them: ``merge_scales([maps], normalize="minmax", epsilon=1e-7)``, then `resize_maps`.

    It runs in NumPy, on the CPU only.

    References
    ----------
    .. [1] J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision",
       CVPR 2018, arXiv:1803.10464.
    .. [2] J. Ahn, S. Cho, S. Kwak, "Weakly supervised learning of instance segmentation with
       inter-pixel relations", CVPR 2019, arXiv:1904.05044.
    .. [3] L. Ru et al., "Token contrast for weakly-supervised semantic segmentation", CVPR 2023,
       arXiv:2303.01267.
    .. [4] Y. Lin et al., "CLIP is also an efficient segmenter", CVPR 2023, arXiv:2212.09506.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> small, large = np.array([[[2.0]]]), np.array([[[0.0, 6.0]]])
    >>> cuekit.merge_scales([small, large], epsilon=0)
    array([[[0.25, 1.  ]]])
    >>> mirrored = [small, np.array([[[0.0, 6.0]]])]
    >>> cuekit.merge_scales([small, large], flipped=mirrored, epsilon=0)
    array([[[1., 1.]]])
    """
    sources = _check_scales(maps, "maps")
    first: Array = sources[0]
    mirrored: list[Array | None] = [None] * len(sources)
    if flipped is not None:
        mirrored = [*_check_scales(flipped, "flipped")]
        if len(mirrored) != len(sources):
            raise ValueError(
                f"flipped must have one item for each of maps, {len(sources)}, got {len(mirrored)}"
            )
    for i, (source, mirror) in enumerate(zip(sources, mirrored, strict=True)):
        if source.shape[:-2] != first.shape[:-2]:
            expected = ", ".join(map(str, (*first.shape[:-2], "h", "w")))
            raise ValueError(
                f"maps[{i}] must have shape ({expected}) to match maps[0], got {source.shape}"
            )
        if mirror is not None:
            check_shape(mirror, f"flipped[{i}]", source.shape, f"maps[{i}]")
    check_choice(flips, "flips", get_args(Merge))
    check_choice(scales, "scales", get_args(Merge))
    if normalize is not None:
        check_choice(normalize, "normalize", get_args(Normalize))
    epsilon = check_number(epsilon, "epsilon", minimum=0)
    if size is None:
        largest = max(sources, key=lambda source: source.shape[-2] * source.shape[-1])
        height, width = largest.shape[-2:]
    else:
        height, width = check_size(size, "size")
    kept_height, kept_width = (height, width) if crop is None else check_size(crop, "crop")
    if kept_height > height or kept_width > width:
        raise ValueError(f"crop must be at most {(height, width)}, the size, got {crop!r}")

    shape = (*first.shape[:-2], height, width)
    merged = np.empty(shape)
    other, mirror_image = np.empty(shape), np.empty(shape)
    with np.errstate(over="ignore", invalid="ignore"):  # sums that are too large are found below
        for i, (source, mirror) in enumerate(zip(sources, mirrored, strict=True)):
            scale = other if i else merged
            interpolate(source, scale, f"maps[{i}]")
            if mirror is not None:
                interpolate(mirror, mirror_image, f"flipped[{i}]")
                _merge(scale, mirror_image[..., ::-1], flips)
                if flips == "mean":
                    scale /= 2
            if normalize is not None:
                np.maximum(scale, 0, out=scale)
            if i:
                _merge(merged, scale, scales)
        if scales == "mean":
            merged /= len(sources)
    merged = merged[..., :kept_height, :kept_width]
    dtype = np.result_type(*sources)
    if merged.size:
        limit = np.finfo(dtype if normalize is None else merged.dtype).max
        if not (merged.min() >= -limit and merged.max() <= limit):
            raise ValueError(
                f"maps must be small enough for their sum in {dtype}, got a larger sum"
            )
        if normalize is not None:
            _normalize(merged, normalize, epsilon)
    return like(merged.astype(dtype), maps[0])


def _check_scales(maps: Any, name: str) -> list[Array]:
    """Adopt a sequence of maps (..., C, h_i, w_i)."""
    if not isinstance(maps, Sequence) or isinstance(maps, str):
        raise TypeError(
            f"{name} must be a sequence of arrays, one for each scale, got {type(maps).__name__}"
        )
    if len(maps) == 0:
        raise ValueError(f"{name} must have at least one scale, got none")
    return [check_maps(each, f"{name}[{i}]") for i, each in enumerate(maps)]


def _merge(total: Array, maps: Array, how: Merge) -> None:
    """Merge `maps` into `total`; a mean is still to be divided by the number of them."""
    if how == "max":
        np.maximum(total, maps, out=total)
    else:
        total += maps


def _normalize(maps: Array, normalize: Normalize, epsilon: float) -> None:  # (..., H, W) float64
    """Normalise each map in place; one without positive values becomes 0."""
    if normalize == "minmax":
        maps -= maps.min((-2, -1), keepdims=True)
    divisor = maps.max((-2, -1), keepdims=True) + epsilon
    maps /= np.where(divisor > 0, divisor, 1)
