"""Quality of cues and label maps: confusion matrices, IoU, accuracy, precision, recall, intervals.

There is one confusion matrix over all photos, never a mean over photos. Pixels whose truth is
`ignore` (255 by default) are left out. A class that occurs in neither truth nor prediction has IoU
NaN and is excluded from means.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from cuekit._arrays import adopt
from cuekit._checks import (
    CUES,
    INTEGERS,
    check_array,
    check_choice,
    check_integer,
    check_masks,
    check_number,
    check_on_cpu,
    check_shape,
    integers_of,
)
from cuekit._device import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255
# A larger number of classes is a mistake: the matrix would take gigabytes.
MOST_CLASSES = 2**12
# Where all known pixels are background, a share of ignored pixels from which on they seem to be
# the object of a mask of 0 and 255. Slivers of a void border at the edge of a crop are fewer.
SUSPICIOUS_SHARE = 0.01

UnknownAs: TypeAlias = int | Literal["ignore", "mistake"]


def confusion_matrix(
    truth: Any,
    prediction: Any,
    num_classes: int = 21,
    *,
    ignore: int | None = IGNORE,
    unknown_as: UnknownAs = 0,
) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    truth, prediction : (..., H, W) arrays or tensors of any integer dtype, or lists of them
        Class ids 0 to num_classes - 1, or `ignore`. Lists hold one label map per photo, of any
        sizes; their pixels are counted together.
    num_classes : int, optional
        Number of classes, with the background; at most 4096.
    ignore : int or None, optional
        The value of pixels without a class: 255 in VOC, often -1 elsewhere. Pixels whose truth it
        is are left out; in a prediction it means "unknown". None means that there is no such value.
    unknown_as : int, "ignore" or "mistake", optional
        What becomes of pixels whose prediction is unknown. A class id: they count as that class;
        default: background, as in most published scripts. "ignore": they are left out.
        "mistake": they count as predictions of no class, in a last column of their own.

    Returns
    -------
    (num_classes, num_classes) array of int64
        Rows are true classes, columns predicted ones. With ``unknown_as="mistake"`` there is one
        more column, of predictions of no class; all functions here take such matrices, too. Add the
        matrices of several photos to get that of all of them.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or a class id is out of range.

    Warns
    -----
    UserWarning
        If all known pixels are background and at least 1 % of the pixels are ignored. In data
        sets of several classes such a photo is rare. In masks of 0 and 255, where 255 is the
        object, every photo is one: all pixels of the object are left out, and any prediction of 0
        and 255 has IoU 1. Python shows the warning once for each calling line.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.metrics import confusion_matrix
    >>> truth, prediction = np.array([[0, 1, 1, 255]]), np.array([[255, 1, 255, 1]])
    >>> confusion_matrix(truth, prediction, 2)
    array([[1, 0],
           [1, 1]])
    >>> confusion_matrix(truth, prediction, 2, unknown_as="mistake")
    array([[0, 0, 1],
           [0, 1, 1]])
    """
    num_classes = check_integer(num_classes, "num_classes", minimum=1)
    if num_classes > MOST_CLASSES:
        raise ValueError(f"num_classes must be at most {MOST_CLASSES}, got {num_classes}")
    ignore = _check_ignore(ignore)
    unknown = _check_unknown(unknown_as, num_classes)
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    ignored = 0
    for (true, predicted), (true_name, predicted_name) in _pairs(
        truth, prediction, ("truth", "prediction")
    ):
        true = check_array(true, true_name, INTEGERS, ndim=2, layout="(..., H, W)")
        predicted = check_array(predicted, predicted_name, INTEGERS, ndim=2, layout="(..., H, W)")
        check_shape(predicted, predicted_name, true.shape, true_name)
        known = _known(true, ignore)
        ignored += known.size - int(known.sum())
        rows = _class_ids(true[known], true_name, num_classes, ignore)
        columns = _class_ids(predicted[known], predicted_name, num_classes, ignore)
        cells = np.bincount(rows * (num_classes + 1) + columns, minlength=counts.size)
        counts += cells.reshape(counts.shape)
    if ignored:
        _warn_of_masks(counts.sum(1), ignored, ignore)
    if unknown == "mistake":
        return counts
    if unknown != "ignore":
        counts[:, unknown] += counts[:, num_classes]
    return counts[:, :num_classes].copy()


def iou(matrix: Any) -> NDArray[np.float64]:
    """Intersection over union of every class.

    Parameters
    ----------
    matrix : (..., K, K) array or tensor, or a list of (K, K) ones
        Confusion matrices; a list is stacked. Or (..., K, K + 1), the last column being
        predictions of no class.

    Returns
    -------
    (..., K) array of float64
        In [0, 1]; NaN for a class in neither truth nor prediction.

    Raises
    ------
    TypeError, ValueError
        If the matrix does not hold finite numbers, at least 0, or has another shape.
    """
    both, true, predicted = _sums(_check_matrix(matrix))
    return _ratio(both, true + predicted - both)


def mean_iou(matrix: Any, classes: Any = None, *, in_truth: bool = False) -> Any:
    """Mean IoU over classes, without those that occur in neither truth nor prediction.

    Parameters
    ----------
    matrix : (..., K, K) or (..., K, K + 1) array or tensor, or a list of such matrices
        Confusion matrices, as for `iou`.
    classes : integers, optional
        The classes to average over; default: all. A sequence, array, tensor or a dictionary's
        keys. The other classes stay in the matrix: a pixel that is confused with one of them still
        counts as an error.
    in_truth : bool, optional
        Average over classes that occur in the truth only. By default a class that is only
        predicted takes part, with IoU 0.

    Returns
    -------
    (...) array of float64, or a float64 for one matrix
        NaN where no class remains.

    Raises
    ------
    TypeError, ValueError
        If the matrix does not hold finite numbers, at least 0, or has another shape; if a class is
        no integer or not in the matrix.
    """
    if not isinstance(in_truth, bool | np.bool_):
        raise TypeError(f"in_truth must be True or False, got {in_truth!r}")
    both, true, predicted = _sums(_check_matrix(matrix))
    values = _ratio(both, true + predicted - both)
    if in_truth:
        values = np.where(true > 0, values, np.nan)
    return _mean_of_known(values, classes)


def pixel_accuracy(matrix: Any) -> Any:
    """Share of the pixels whose class is predicted correctly.

    Parameters
    ----------
    matrix : (..., K, K) or (..., K, K + 1) array or tensor, or a list of such matrices
        Confusion matrices, as for `iou`.

    Returns
    -------
    (...) array of float64, or a float64 for one matrix
        NaN for a matrix without pixels.

    Raises
    ------
    TypeError, ValueError
        If the matrix does not hold finite numbers, at least 0, or has another shape.
    """
    both, true, _ = _sums(_check_matrix(matrix))
    return _ratio(both.sum(-1), true.sum(-1))[()]


def mean_accuracy(matrix: Any, classes: Any = None) -> Any:
    """Mean over classes of the share of their true pixels that are predicted correctly.

    Parameters
    ----------
    matrix : (..., K, K) or (..., K, K + 1) array or tensor, or a list of such matrices
        Confusion matrices, as for `iou`.
    classes : integers, optional
        The classes to average over, as for `mean_iou`. Classes that do not occur in the truth are
        left out.

    Returns
    -------
    (...) array of float64, or a float64 for one matrix
        NaN where no class remains.

    Raises
    ------
    TypeError, ValueError
        If the matrix does not hold finite numbers, at least 0, or has another shape; if a class is
        no integer or not in the matrix.
    """
    both, true, _ = _sums(_check_matrix(matrix))
    return _mean_of_known(_ratio(both, true), classes)


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


def cue_statistics(cues: Any, truth: Any, *, ignore: int | None = IGNORE) -> CueStatistics:
    """Precision and recall of cues against true class ids; cues may overlap.

    Parameters
    ----------
    cues : (..., K, H, W) array or tensor of bool or uint8, or a list of them
        Channel i is the cue of class i, channel 0 the background; uint8 masks hold 0 and 1, or 0
        and 255. Lists hold one item per photo, of any sizes; their pixels are counted together.
    truth : (..., H, W) array or tensor of any integer dtype, or a list of them
        Class ids 0 to K - 1, or `ignore`.
    ignore : int or None, optional
        The value of pixels that are left out; None means that there is none.

    Returns
    -------
    CueStatistics

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Warns
    -----
    UserWarning
        If the truth seems to be a mask of 0 and 255, as for `confusion_matrix`.
    """
    ignore = _check_ignore(ignore)
    per_class: Array = np.zeros((3, 0), np.int64)  # correct, covered and true pixels of each class
    pixels = np.zeros(3, np.int64)  # under any cue, known, ignored
    for (cue, true), (cues_name, truth_name) in _pairs(cues, truth, ("cues", "truth")):
        maps = check_array(cue, cues_name, CUES, ndim=3, layout="(..., K, H, W)")
        true = check_array(true, truth_name, INTEGERS, ndim=2, layout="(..., H, W)")
        check_shape(true, truth_name, (*maps.shape[:-3], *maps.shape[-2:]), cues_name)
        check_masks(maps, cues_name)
        channels = maps.shape[-3]
        if not per_class.size:
            per_class = np.zeros((3, channels), np.int64)
        if channels != per_class.shape[1]:
            raise ValueError(
                f"{cues_name} must have {per_class.shape[1]} classes to match cues[0], "
                f"got {channels}"
            )
        known = _known(true, ignore)
        class_ids = true[known]
        wrong = class_ids[(class_ids < 0) | (class_ids >= channels)]
        if wrong.size:
            raise ValueError(_out_of_range(truth_name, channels, ignore, wrong[0]))
        on = np.moveaxis(maps, -3, 0)[:, known] != 0  # (K, known pixels)
        of_class = class_ids == np.arange(channels)[:, None]  # (K, known pixels)
        per_class += np.stack([a.sum(-1) for a in (on & of_class, on, of_class)])
        pixels += on.any(0).sum(), class_ids.size, true.size - class_ids.size
    correct, covered, actual = per_class
    if pixels[2]:
        _warn_of_masks(actual, int(pixels[2]), ignore)
    return CueStatistics(
        precision=_ratio(correct, covered),
        recall=_ratio(correct, actual),
        foreground_precision=float(_ratio(correct[1:].sum(), covered[1:].sum())),
        foreground_recall=float(_ratio(correct[1:].sum(), actual[1:].sum())),
        coverage=float(_ratio(pixels[0], pixels[1])),
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
    matrices : (N, K, K) or (N, K, K + 1) array or tensor, or a list of N matrices
        One confusion matrix per photo.
    other : as `matrices`, optional
        The matrices of another method on the same photos in the same order. The value is then
        statistic(matrices) - statistic(other), and every sample takes the same photos for both.
    statistic : callable, optional
        Maps matrices (..., K, K) of float64 to numbers (...); default `mean_iou`.
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
    seed = check_integer(seed, "seed", minimum=0)
    if not callable(statistic):
        raise TypeError(f"statistic must be a function of matrices, got {statistic!r}")
    sets = [_check_matrix(matrices, "matrices")]
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
        drawn = (weights @ counts.reshape(photos, -1)).reshape(samples, *counts.shape[1:])
        numbers = np.asarray(statistic(drawn), np.float64)
        if numbers.shape != (samples,):
            raise ValueError(
                f"statistic must give one number for each matrix, shape {(samples,)}, got shape "
                f"{numbers.shape}"
            )
        draws.append(numbers)
        values.append(float(statistic(counts.sum(0))))
    difference = draws[0] - draws[1] if len(draws) == 2 else draws[0]
    tail = (1 - confidence) / 2
    known = difference[~np.isnan(difference)]
    low, high = np.quantile(known, [tail, 1 - tail]) if known.size else (np.nan, np.nan)
    return Interval(values[0] - sum(values[1:]), float(low), float(high))


def _pairs(
    first: Any, second: Any, names: tuple[str, str]
) -> Iterator[tuple[tuple[Any, Any], tuple[str, str]]]:
    """Yield two arguments and their names, or the items of two lists of one item per photo."""
    lists = [isinstance(value, list | tuple) for value in (first, second)]
    if not any(lists):
        yield (first, second), names
        return
    if not all(lists) or len(first) != len(second):
        got = [
            f"{len(v)} items" if is_list else "one array"
            for v, is_list in zip((first, second), lists, strict=True)
        ]
        raise ValueError(
            f"{names[0]} and {names[1]} must be lists of equal length where one is a list, got "
            f"{got[0]} and {got[1]}"
        )
    for i, items in enumerate(zip(first, second, strict=True)):
        yield items, (f"{names[0]}[{i}]", f"{names[1]}[{i}]")


def _check_ignore(ignore: Any) -> int | None:
    return None if ignore is None else check_integer(ignore, "ignore")


def _check_unknown(unknown_as: Any, num_classes: int) -> UnknownAs:
    if isinstance(unknown_as, str):
        check_choice(unknown_as, "unknown_as", ("ignore", "mistake"))
        return cast("UnknownAs", unknown_as)
    unknown = check_integer(unknown_as, "unknown_as", minimum=0)
    if unknown >= num_classes:
        raise ValueError(f"unknown_as must be less than {num_classes}, got {unknown}")
    return unknown


def _known(true: Array, ignore: int | None) -> NDArray[np.bool_]:
    """Tell which pixels have a true class."""
    if ignore is None:
        return np.ones(true.shape, np.bool_)
    return np.asarray(true != ignore)


def _class_ids(values: Array, name: str, num_classes: int, ignore: int | None) -> NDArray[np.int64]:
    """Return class ids as int64, and `num_classes` where they are `ignore`."""
    # Compared in their own dtype: a uint64 above int64's range would become another class id.
    unknown = ~_known(values, ignore)
    bad = ((values < 0) | (values >= num_classes)) & ~unknown
    if bad.any():
        raise ValueError(_out_of_range(name, num_classes, ignore, values[bad][0]))
    result = values.astype(np.int64)
    result[unknown] = num_classes
    return result


def _out_of_range(name: str, num_classes: int, ignore: int | None, value: Any) -> str:
    allowed = f"0 to {num_classes - 1}" + ("" if ignore is None else f" or {ignore}")
    hint = ""
    if value == 255 and num_classes == 2:
        hint = ": for masks of 0 and 255, pass mask // 255"
    elif value in (255, -1):
        hint = f": pass ignore={value} if it marks pixels to leave out"
    return f"{name} must be {allowed}, got {value}{hint}"


def _warn_of_masks(true_pixels: Array, ignored: int, ignore: int | None) -> None:
    """Warn of a truth that seems to be a mask of 0 and 255, where 255 is the object."""
    known = int(true_pixels.sum())
    if known == 0 or true_pixels[0] != known or ignored < SUSPICIOUS_SHARE * (known + ignored):
        return
    # One text for all photos: Python shows it once.
    warnings.warn(
        f"truth holds nothing but class 0 and {ignore}, which is left out: if {ignore} marks the "
        f"object, pass masks of 0 and 1 (mask // 255 for 0 and 255); ignore=None leaves no pixel "
        "out",
        stacklevel=3,
    )


def _check_matrix(matrix: Any, name: str = "matrix") -> NDArray[np.float64]:
    """Return confusion matrices (..., K, K) or (..., K, K + 1) as float64, exact up to 2**53."""
    if isinstance(matrix, list | tuple):
        matrix = _stacked(matrix, name)
    counts: Any = adopt(matrix, name)
    check_on_cpu(counts, name)
    if counts.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {counts.dtype}")
    if counts.ndim < 2 or counts.shape[-1] - counts.shape[-2] not in (0, 1):
        raise ValueError(f"{name} must have shape (..., K, K), got {counts.shape}")
    result: NDArray[np.float64] = counts.astype(np.float64)
    bad = ~((result >= 0) & (result < np.inf))
    if bad.any():
        raise ValueError(f"{name} must hold finite counts, at least 0, got {result[bad][0]}")
    return result


def _stacked(matrices: Any, name: str) -> Array:
    """Stack a list of matrices, or make an array of nested lists of numbers."""
    nested = any(isinstance(each, list | tuple | int | float) for each in matrices)
    items = matrices if nested else [adopt(m, f"{name}[{i}]") for i, m in enumerate(matrices)]
    for i, item in enumerate(items):
        if not nested:
            check_on_cpu(item, f"{name}[{i}]")
    try:
        return np.array(items) if len(items) else np.zeros((0, 0, 0))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be matrices of one shape: {error}") from error


def _sums(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return correct, true and predicted pixels of each class."""
    classes = counts.shape[-2]
    both = np.diagonal(counts[..., :classes], axis1=-2, axis2=-1)
    return both, counts.sum(-1), counts[..., :classes].sum(-2)


def _mean_of_known(values: NDArray[np.float64], classes: Any) -> Any:
    """Mean over the chosen classes whose value is not NaN."""
    if classes is not None:
        listed = integers_of(classes)
        if listed is None:
            raise TypeError(f"classes must be a sequence of integers, got {classes!r}")
        chosen = [check_integer(c, f"classes[{i}]", minimum=0) for i, c in enumerate(listed)]
        if max(chosen, default=0) >= values.shape[-1]:
            raise ValueError(
                f"classes must be less than {values.shape[-1]}, the size of matrix, got {chosen}"
            )
        values = values[..., chosen]
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))[()]


def _ratio(part: Array, whole: Array) -> NDArray[np.float64]:
    """Divide; NaN where `whole` is 0."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result
