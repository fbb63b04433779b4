"""Quality of cues and label maps: confusion matrices, IoU, precision and recall, intervals.

There is one confusion matrix over all photos, never a mean over photos. Pixels whose truth is 255
are ignored. A class that occurs in neither truth nor prediction has IoU NaN and is excluded from
means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cuekit._arrays import adopt
from cuekit._checks import (
    INTEGERS,
    check_array,
    check_integer,
    check_number,
    check_on_cpu,
    check_shape,
)
from cuekit._device import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255


def confusion_matrix(
    truth: Any, prediction: Any, num_classes: int = 21, *, unknown_as: int = 0
) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    truth, prediction : (..., H, W) arrays or tensors of any integer dtype
        Class ids 0 to num_classes - 1, or 255. Pixels whose truth is 255 are ignored.
    num_classes : int, optional
        Number of classes, with the background.
    unknown_as : int, optional
        The class that a predicted 255 counts as; default: background.

    Returns
    -------
    (num_classes, num_classes) array of int64
        Rows are true classes, columns predicted ones. Add the matrices of several photos to get
        that of all of them.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or a class id is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.metrics import confusion_matrix
    >>> confusion_matrix(np.array([[0, 1, 255]]), np.array([[255, 1, 1]]), 2)
    array([[1, 0],
           [0, 1]])
    """
    num_classes = check_integer(num_classes, "num_classes", minimum=1)
    unknown_as = check_integer(unknown_as, "unknown_as", minimum=0)
    if unknown_as >= num_classes:
        raise ValueError(f"unknown_as must be less than {num_classes}, got {unknown_as}")
    true = check_array(truth, "truth", INTEGERS, ndim=2, layout="(..., H, W)")
    predicted = check_array(prediction, "prediction", INTEGERS, ndim=2, layout="(..., H, W)")
    check_shape(predicted, "prediction", true.shape, "truth")
    known = true != IGNORE
    true, predicted = true[known], predicted[known]
    predicted = np.where(predicted == IGNORE, unknown_as, predicted)
    for name, class_ids in (("truth", true), ("prediction", predicted)):
        if class_ids.size and not 0 <= class_ids.min() <= class_ids.max() < num_classes:
            wrong = class_ids[(class_ids < 0) | (class_ids >= num_classes)][0]
            raise ValueError(f"{name} must be 0 to {num_classes - 1} or 255, got {wrong}")
    flat = true.astype(np.int64) * num_classes + predicted.astype(np.int64)
    counts = np.bincount(flat, minlength=num_classes**2).astype(np.int64, copy=False)
    return counts.reshape(num_classes, num_classes)


def iou(matrix: Any) -> NDArray[np.float64]:
    """Intersection over union of every class.

    Parameters
    ----------
    matrix : (..., K, K) array or tensor
        Confusion matrices.

    Returns
    -------
    (..., K) array of float64
        In [0, 1]; NaN for a class in neither truth nor prediction.

    Raises
    ------
    ValueError
        If the matrix is not square.
    """
    counts = _check_matrix(matrix)
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(-1) + counts.sum(-2) - both
    result = np.full(either.shape, np.nan)
    np.divide(both, either, out=result, where=either > 0)
    return result


def mean_iou(matrix: Any, classes: Sequence[int] | None = None) -> Any:
    """Mean IoU over classes, without those that occur in neither truth nor prediction.

    Parameters
    ----------
    matrix : (..., K, K) array or tensor
        Confusion matrices.
    classes : sequence of int, optional
        The classes to average over; default: all. The other classes stay in the matrix: a pixel
        that is confused with one of them still counts as an error.

    Returns
    -------
    (...) array of float64, or a float64 for one matrix
        NaN where no class remains.

    Raises
    ------
    ValueError
        If the matrix is not square.
    """
    values = iou(matrix)
    if classes is not None:
        chosen = [check_integer(c, f"classes[{i}]", minimum=0) for i, c in enumerate(classes)]
        if max(chosen, default=0) >= values.shape[-1]:
            raise ValueError(
                f"classes must be less than {values.shape[-1]}, the size of matrix, got {chosen}"
            )
        values = values[..., chosen]
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    result = np.full(count.shape, np.nan)
    np.divide(total, count, out=result, where=count > 0)
    return result[()]


class CueStatistics(NamedTuple):
    """The result of `cue_statistics`; arrays have one entry per class, background first.

    Attributes
    ----------
    precision : (K,) array
        Share of a class's cue pixels whose true class it is; NaN for a class without cues.
    recall : (K,) array
        Share of a class's true pixels that its cue covers; NaN for a class not in the truth.
    foreground_precision, foreground_recall : float
        The same, with the pixels of all foreground classes summed before the division.
    coverage : float
        Share of the pixels with known truth that at least one cue covers.
    """

    precision: Array
    recall: Array
    foreground_precision: float
    foreground_recall: float
    coverage: float


def cue_statistics(cues: Any, truth: Any) -> CueStatistics:
    """Precision and recall of cues against true class ids; cues may overlap.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8
        Channel i is the cue of class i, channel 0 the background.
    truth : (..., H, W) array or tensor of any integer dtype
        Class ids; pixels of 255 are ignored.

    Returns
    -------
    CueStatistics

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape.
    """
    maps = check_array(cues, "cues", ("bool", "uint8"), ndim=3, layout="(..., K, H, W)")
    true = check_array(truth, "truth", INTEGERS, ndim=2, layout="(..., H, W)")
    check_shape(true, "truth", (*maps.shape[:-3], *maps.shape[-2:]), "cues")
    known = true != IGNORE
    wrong = true[known & ((true < 0) | (true >= maps.shape[-3]))]
    if wrong.size:
        raise ValueError(f"truth must be 0 to {maps.shape[-3] - 1} or 255, got {wrong[0]}")
    on = np.moveaxis(maps, -3, 0)[:, known] != 0  # (K, known pixels)
    of_class = true[known] == np.arange(len(on))[:, None]  # (K, known pixels)
    correct, covered, actual = (a.sum(-1) for a in (on & of_class, on, of_class))  # (K,) each
    return CueStatistics(
        precision=_ratio(correct, covered),
        recall=_ratio(correct, actual),
        foreground_precision=float(_ratio(correct[1:].sum(), covered[1:].sum())),
        foreground_recall=float(_ratio(correct[1:].sum(), actual[1:].sum())),
        coverage=float(_ratio(on.any(0).sum(), known.sum())),
    )


class Interval(NamedTuple):
    """An estimate and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(
    matrices: Any,
    other: Any = None,
    *,
    statistic: Callable[[Array], Any] = mean_iou,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval over photos, of a statistic or of a paired difference.

    Every sample draws as many photos as there are, with replacement, and computes the statistic of
    the sum of their matrices.

    Parameters
    ----------
    matrices : (N, K, K) array or tensor
        One confusion matrix per photo.
    other : (N, K, K) array or tensor, optional
        The matrices of another method on the same photos in the same order. The value is then
        statistic(matrices) - statistic(other), and every sample takes the same photos for both.
    statistic : callable, optional
        Maps matrices (..., K, K) to numbers (...); default `mean_iou`.
    samples : int, optional
        Number of bootstrap samples.
    confidence : float, optional
        Share of the samples inside the interval.
    seed : int, optional
        Seed of the samples: the same seed gives the same interval.

    Returns
    -------
    Interval
        The value over all photos, and the percentile interval.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.
    """
    samples = check_integer(samples, "samples", minimum=1)
    confidence = check_number(confidence, "confidence", minimum=0)
    if confidence >= 1:
        raise ValueError(f"confidence must be less than 1, got {confidence}")
    sets = [_check_matrix(matrices, "matrices")]
    seed = check_integer(seed, "seed", minimum=0)
    if other is not None:
        sets.append(_check_matrix(other, "other"))
        check_shape(sets[1], "other", sets[0].shape, "matrices")
    if sets[0].ndim != 3 or len(sets[0]) == 0:
        raise ValueError(f"matrices must have shape (N, K, K) with N > 0, got {sets[0].shape}")
    photos = len(sets[0])
    weights = np.random.default_rng(seed).multinomial(  # (samples, N): how often a photo is drawn
        photos, np.full(photos, 1 / photos), size=samples
    )
    draws, values = [], []
    for counts in sets:
        flat = counts.reshape(photos, -1).astype(np.float64)
        draws.append(statistic((weights @ flat).reshape(samples, *counts.shape[1:])))
        values.append(float(statistic(counts.sum(0))))
    difference = draws[0] - draws[1] if len(draws) == 2 else draws[0]
    tail = (1 - confidence) / 2
    known = difference[~np.isnan(difference)]
    low, high = np.quantile(known, [tail, 1 - tail]) if known.size else (np.nan, np.nan)
    return Interval(values[0] - sum(values[1:]), float(low), float(high))


def _check_matrix(matrix: Any, name: str = "matrix") -> Array:
    counts: Any = adopt(matrix, name)
    check_on_cpu(counts, name)
    if counts.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {counts.dtype}")
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2]:
        raise ValueError(f"{name} must have shape (..., K, K), got {counts.shape}")
    result: Array = counts
    return result


def _ratio(part: Array, whole: Array) -> Array:
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result
