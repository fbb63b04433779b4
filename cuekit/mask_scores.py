"""Masks scored by maps, and labelled by these scores, tags and claims."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np

from cuekit._arrays import empty, first_true, flat, like
from cuekit._backend import backend
from cuekit._checks import (
    CUES,
    FLOATS,
    INTEGERS,
    check_any_array,
    check_array,
    check_choice,
    check_finite,
    check_integer,
    check_masks,
    check_number,
    check_pixels,
    check_present,
    check_shape,
    check_threads,
    check_values,
    integers_of,
)
from cuekit._device import AnyFramework, Array

# Of float64 maps: below it, the differences that interpolation computes are finite.
LIMIT = 2.0**1023

Rule: TypeAlias = Literal["verify", "sepl", "fma"]
Support: TypeAlias = Literal["mean", "top_mean", "inside"]


class MaskScores(NamedTuple):
    """What `mask_scores` returns: a named tuple of arrays, or of tensors.

    Parameters
    ----------
    area : (..., R) int64
        The number of pixels of each mask, ``|M|``.
    mean : (..., R, C) float64
        The mean of each map over each mask.
    top_mean : (..., R, C) float64, or None
        The mean of the largest values of each map in each mask; None if they were not wanted.
    inside : (..., R, C) float64
        ``|M ∩ P| / |M|``, with P the cue of the map: the share of the mask that is cue.
    covered : (..., R, C) float64
        ``|M ∩ P| / |P|``: the share of the cue that the mask covers.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> scores = cuekit.mask_scores(np.ones((1, 2, 2)), np.ones((3, 2, 2), dtype=bool))
    >>> type(scores).__name__, scores.area
    ('MaskScores', array([4, 4, 4]))
    """

    area: Any
    mean: Any
    top_mean: Any
    inside: Any
    covered: Any


def mask_scores(
    maps: AnyFramework,
    masks: Any,
    *,
    top: float | None = 0.2,
    threshold: float = 0.3,
    validate: bool = False,
    threads: int | None = 1,
) -> MaskScores:
    """Score every mask by every class's map.

    Parameters
    ----------
    maps : (..., C, h, w) array or tensor, bool, uint8 or floating
        One map for each class; none is special. bool and uint8 are cues (nonzero = on), floating
        values are activation maps or probabilities. Of any resolution: they are resized on the fly.
    masks : (..., R, H, W) bool or uint8
        Masks that may overlap, such as a promptable segmenter gives. R may be 0: a list of masks
        that may be empty becomes ``np.array(masks, dtype=bool).reshape(-1, H, W)``.
    top : float or None, optional
        The share of a mask's pixels that `top_mean` averages: in (0, 1]. Their number is
        ``top * |M|`` to the nearest integer, halves up, and at least 1. None: no `top_mean`, which
        takes most of the time.
    threshold : float, optional
        What the cue P of a floating map is: the pixels above threshold * its maximum and above 0,
        as in `raw_cues` and `snap_cues`. It means nothing for bool and uint8.
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    MaskScores
        A named tuple of `area`, `mean`, `top_mean`, `inside` and `covered`. All scores of an empty
        mask are 0, and `covered` is 0 where P is empty.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or maps are not finite or reach
        2**1023 (9e307) in magnitude.

    Notes
    -----
    `label_masks` accepts, rejects or relabels masks by these scores. `mean` is the score of FMA
    [1]_, `inside` and `covered` are the two ratios of SEPL [2]_. `top_mean` tells whether a map
    responds to some part of the mask: a map that responds to the head of a cow alone has a low mean
    over the cow.

    Scores are statistics and not maps: they are float64 whatever the dtype of the maps, so that
    quotients of pixel counts compare with 0.5 and 0.85 as integers would.

    Resizing uses half-pixel centres (``align_corners=False``) and no antialiasing: nearest for
    bool and uint8, bilinear for floating maps. The maximum is that of the map as it comes. Sums are
    float64 in a fixed order; that of a CUDA device is another one. The largest values are found
    exactly. Workspace on the CPU is some 50 bytes for every run of pixels under a mask, and 128
    bytes per mask and eight classes; for `top_mean`, each thread needs twice the values under the
    largest mask and, of maps that are resized or float16, 8 bytes per pixel. Input that is not
    C-contiguous is copied once.

    References
    ----------
    .. [1] X. Yang, X. Gong, "Foundation Model Assisted Weakly Supervised Semantic Segmentation",
       arXiv:2312.03585.
    .. [2] T. Chen et al., "Segment Anything Model (SAM) enhanced pseudo labels for weakly
       supervised semantic segmentation", arXiv:2305.05803.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> maps = np.array([[[1.0, 0.5, 0.1, 0.0]]])
    >>> masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 1]]], dtype=bool)
    >>> scores = cuekit.mask_scores(maps, masks)
    >>> scores.mean
    array([[0.75],
           [0.2 ]])
    >>> scores.top_mean
    array([[1. ],
           [0.5]])
    >>> scores.covered
    array([[1. ],
           [0.5]])
    """
    threads = check_threads(threads)
    sources = check_any_array(maps, "maps", (*CUES, *FLOATS), ndim=3, layout="(..., C, h, w)")
    *batch, classes, in_height, in_width = sources.shape
    if top is not None:
        top = check_number(top, "top")
        if not 0 < top <= 1:
            raise ValueError(f"top must be above 0 and at most 1, or None, got {top}")
    threshold = check_number(threshold, "threshold")
    check_pixels(sources, "maps")
    check_masks(sources, "maps", validate=validate)
    check_values(validate, ("maps", sources))
    stack = check_any_array(
        masks, "masks", CUES, ndim=3, layout="(..., R, H, W)", beside=(sources, "maps")
    )
    if stack.shape[:-3] != tuple(batch):
        expected = ", ".join(map(str, (*batch, "R", "H", "W")))
        raise ValueError(f"masks must have shape ({expected}) to match maps, got {stack.shape}")
    check_pixels(stack, "masks")
    check_masks(stack, "masks", validate=validate)
    count, height, width = stack.shape[-3:]
    if in_height * in_width == 0 and stack.size > 0 and classes > 0:
        raise ValueError(f"maps must have at least one pixel, got {sources.shape}")
    images, table = math.prod(batch), (*batch, count, classes)
    area = empty((*batch, count), np.int64, sources)
    mean, inside, covered = (empty(table, np.float64, sources) for _ in range(3))
    top_mean = None if top is None else empty(table, np.float64, sources)
    kernels, context = backend(sources, threads)
    in_maps = flat(sources, images, classes, in_height, in_width)
    if in_maps.dtype == np.bool_:
        in_maps = in_maps.view(np.uint8)
    shape = (images, count, classes)
    finite = kernels.mask_scores(
        in_maps,
        flat(stack, images, count, height, width),
        area.reshape(images, count),
        mean.reshape(shape),
        None if top_mean is None else top_mean.reshape(shape),
        inside.reshape(shape),
        covered.reshape(shape),
        threshold,
        1.0 if top is None else top,
        context,
    )
    limit = LIMIT if sources.dtype == np.float64 else math.inf
    check_finite(finite, ("maps", sources), limit=limit)
    return MaskScores(
        like(area, maps),
        like(mean, maps),
        None if top_mean is None else like(top_mean, maps),
        like(inside, maps),
        like(covered, maps),
    )


def label_masks(
    scores: MaskScores,
    present: Any = None,
    *,
    claims: Any = None,
    rule: Rule = "verify",
    support: Support = "top_mean",
    accept: float = 0.5,
    reject: float = 0.1,
    power: float = 1.0,
    classes: Any = None,
    ignore: int = 255,
) -> Any:
    """Give every mask a class, 0 (rejected), or `ignore` (in doubt), by its scores.

    ``rule="verify"`` checks masks, and what they claim to be, by tags and maps. The support of a
    class is its score named by `support`. A mask gets

    1. the class that it claims, if that is present and its support is at least `accept`;
    2. else the present class of the largest support, if that is at least `accept`;
    3. else 0, if that support is below `reject`, or no class is present;
    4. else `ignore`.

    ``rule="sepl"``: a mask gets the first present class with inside > 0.5 or covered >= 0.85, else
    0, as in SEPL [2]_.

    ``rule="fma"``: the class of the largest score, as in FMA [1]_. The score of a present class is
    its mean, at least 0, min-max normalised over the masks; that of the background, which wins ties
    and gives 0, is (1 - the largest of these) ** power.

    Parameters
    ----------
    scores : MaskScores
        What `mask_scores` gave, on the CPU. Only the scores that the rule needs are read.
    present : (..., C) bool, or 0/1 of any dtype, optional
        The image's tags; None means that all classes are present. No mask gets another class.
    claims : (..., R) integers, optional
        The class that each mask was prompted with, or is taken for: one of `classes`, or 0 or
        `ignore` for none. Of ``"verify"`` only.
    rule : {"verify", "sepl", "fma"}, optional
    support : {"mean", "top_mean", "inside"}, optional
        Of ``"verify"`` only. Means are in the units of the maps: divide each map by its maximum
        before, so that `accept` and `reject` mean the same for all.
    accept, reject : float, optional
        Of ``"verify"`` only. `reject` is at most `accept`; if they are equal, nothing is in doubt.
    power : float, optional
        Of ``"fma"`` only; above 0. The published settings for PASCAL VOC have 0.6 and 0.7.
    classes : C integers, optional
        The label of the class of map i; default i + 1. Neither 0 nor `ignore`.
    ignore : int, optional
        The label of masks in doubt; not 0.

    Returns
    -------
    (..., R) array or tensor
        uint8 if `classes` and `ignore` lie in 0..255, else int32.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    A label map is made by painting the masks, larger ones first so that smaller ones lie on top;
    rejected masks show what is under them (see the example). SEPL's published label map
    also keeps what was labelled before and paints in the order of classes: `sepl_labels` does that.

    FMA's published code orders masks by the level at which the segmenter found them and by their
    score, and it adds 1e-7 to the range that it divides by, as is done here.

    It runs in NumPy, on the CPU only: scores of a CUDA device are copied first, as in
    ``MaskScores(*(score.cpu() for score in scores))``.

    References
    ----------
    .. [1] X. Yang, X. Gong, "Foundation Model Assisted Weakly Supervised Semantic Segmentation",
       arXiv:2312.03585.
    .. [2] T. Chen et al., "Segment Anything Model (SAM) enhanced pseudo labels for weakly
       supervised semantic segmentation", arXiv:2305.05803.

    Examples
    --------
    Two classes, both present, and four masks that claim class 1. It is confirmed, changed to class
    2, in doubt, and rejected:

    >>> import numpy as np
    >>> import cuekit
    >>> maps = np.array([[[1.0, 0.0, 0.3, 0.0]], [[0.0, 1.0, 0.2, 0.0]]])
    >>> masks = np.array([[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]]], bool)
    >>> scores = cuekit.mask_scores(maps, masks)
    >>> labels = cuekit.label_masks(scores, [1, 1], claims=np.array([1, 1, 1, 1]))
    >>> labels
    array([  1,   2, 255,   0], dtype=uint8)

    As a label map, larger masks first:

    >>> label_map = np.zeros(masks.shape[-2:], labels.dtype)
    >>> for r in np.argsort(-scores.area, kind="stable"):
    ...     if labels[r] != 0:
    ...         label_map[masks[r]] = labels[r]
    >>> label_map
    array([[  1,   2, 255,   0]], dtype=uint8)
    """
    if not isinstance(scores, MaskScores):
        raise TypeError(f"scores must be MaskScores, got {type(scores).__name__}")
    check_choice(rule, "rule", get_args(Rule))
    check_choice(support, "support", get_args(Support))
    accept, reject = check_number(accept, "accept"), check_number(reject, "reject")
    if reject > accept:
        raise ValueError(f"reject must be at most accept, {accept}, got {reject}")
    if check_number(power, "power") <= 0:
        raise ValueError(f"power must be above 0, got {power}")
    if claims is not None and rule != "verify":
        raise ValueError(f"claims must be None unless rule is 'verify', got them with {rule!r}")
    fields = {"verify": (support,), "sepl": ("inside", "covered"), "fma": ("mean",)}[rule]
    tables = [_check_table(scores, field) for field in fields]
    first, first_name = tables[0], f"scores.{fields[0]}"
    for table, field in zip(tables[1:], fields[1:], strict=True):
        check_shape(table, f"scores.{field}", first.shape, first_name)
    *batch, count, num_classes = first.shape
    tags = check_present(present, "present", tuple(batch), num_classes, first, first_name)
    ignore = check_integer(ignore, "ignore")
    ids = _check_classes(classes, num_classes, ignore)
    tags = np.broadcast_to(tags[..., None, :], first.shape)  # (..., R, C)
    if rule == "sepl":
        chosen = _first_taken(tables[0], tables[1], tags)
    elif rule == "fma":
        chosen = _largest_score(first, tags, power)
    else:
        claimed = _claimed(claims, (*batch, count), first_name, ids, ignore)
        chosen = _verify(first, tags, claimed, accept, reject)
    labels = np.array([ignore, 0, *ids])
    dtype = np.uint8 if labels.min() >= 0 and labels.max() <= 255 else np.int32
    out: Array = labels.astype(dtype)[chosen + 2]
    return like(out, cast("Any", getattr(scores, fields[0])))


# What becomes of a mask, in place of the index of a class.
REJECTED, IN_DOUBT = -1, -2


def _verify(
    support: Array,  # (..., R, C)
    tags: Array,  # (..., R, C) bool
    claimed: Array,  # (..., R, C) bool
    accept: float,
    reject: float,
) -> Array:  # (..., R)
    """Return each mask's class, or what becomes of it."""
    allowed = np.where(tags, support, -np.inf)
    # Of an axis of length 0 there is no argmax: one more class, which is never allowed.
    allowed = np.concatenate([allowed, np.full((*allowed.shape[:-1], 1), -np.inf)], -1)
    confirmed = claimed & tags & (support >= accept)
    best, largest = allowed.argmax(-1), allowed.max(-1)
    other = np.where(largest >= accept, best, np.where(largest < reject, REJECTED, IN_DOUBT))
    return np.where(confirmed.any(-1), _first(confirmed), other)


def _first_taken(inside: Array, covered: Array, tags: Array) -> Array:  # (..., R, C) each
    """Return the first class that takes each mask by SEPL's rule."""
    taken = tags & ((inside > 0.5) | (covered >= 0.85))
    return np.where(taken.any(-1), _first(taken), REJECTED)


def _first(found: Array) -> Array:  # (..., R, C) bool -> (..., R)
    """Return the first true class; 0 where there is none."""
    return found.argmax(-1) if found.shape[-1] else np.zeros(found.shape[:-1], np.intp)


def _largest_score(mean: Array, tags: Array, power: float) -> Array:  # (..., R, C) each
    """Return the class of the largest normalised mean, the background's included."""
    score = np.where(tags, np.maximum(mean, 0.0), 0.0)
    if score.size == 0:
        return np.full(score.shape[:-1], REJECTED)
    low, high = score.min(-2, keepdims=True), score.max(-2, keepdims=True)
    score = (score - low) / (high - low + 1e-7)
    largest = score.max(-1)
    background = (1.0 - largest) ** power
    return np.where(largest > background, score.argmax(-1), REJECTED)


def _check_table(scores: MaskScores, field: str) -> Array:  # (..., R, C)
    name = f"scores.{field}"
    value = getattr(scores, field)
    if value is None:
        raise ValueError(f"{name} must not be None: call mask_scores with top")
    table = check_array(value, name, FLOATS, ndim=2, layout="(..., R, C)")
    index = first_true(~np.isfinite(table))
    if index is not None:
        raise ValueError(f"{name} must be finite, got {table[index]} at index {index}")
    return table.astype(np.float64)


def _check_classes(classes: Any, count: int, ignore: int) -> list[int]:
    if ignore == 0:
        raise ValueError("ignore must not be 0, the label of rejected masks, got 0")
    ids = list(range(1, count + 1)) if classes is None else integers_of(classes)
    if ids is None:
        raise TypeError(f"classes must be a sequence of integers, got {classes!r}")
    ids = [check_integer(label, f"classes[{i}]") for i, label in enumerate(ids)]
    if len(ids) != count:
        raise ValueError(f"classes must have {count} entries, one per class, got {len(ids)}")
    for label, meaning in ((0, "rejected masks"), (ignore, "masks in doubt")):
        if label in ids:
            raise ValueError(
                f"classes must not contain {label}, the label of {meaning}, got it for class "
                f"{ids.index(label)}"
            )
    if min([*ids, ignore]) < -(2**31) or max([*ids, ignore]) >= 2**31:
        raise ValueError(f"classes and ignore must fit in int32, got {[*ids, ignore]}")
    return ids


def _claimed(
    claims: Any, shape: tuple[int, ...], first_name: str, ids: list[int], ignore: int
) -> Array:  # (..., R, C) bool
    """Tell which class each mask claims."""
    if claims is None:
        return np.zeros((*shape, len(ids)), dtype=bool)
    labels = check_array(claims, "claims", INTEGERS, ndim=1, layout="(..., R)")
    check_shape(labels, "claims", shape, first_name)
    claimed: Array = labels[..., None] == np.array(ids, np.int64)
    index = first_true(~claimed.any(-1) & (labels != 0) & (labels != ignore))
    if index is not None:
        raise ValueError(
            f"claims must be among classes, or 0 or {ignore} for none, got {labels[index]} at "
            f"index {index}"
        )
    return claimed
