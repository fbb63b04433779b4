"""Label images of a folder against the truth: the run behind `cuekit eval`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from cuekit._checks import check_choice, check_integer
from cuekit.io import read_labels
from cuekit.io._common import PathLike
from cuekit.metrics import IGNORE, Interval
from cuekit.run._evaluation import MEASURES, Evaluation, Unknown, measure_of
from cuekit.run._pairs import (
    check_class_ids,
    class_ids_of,
    refuse_nothing,
    results,
    truth_notes,
    with_files,
)
from cuekit.run._sources import listed_names
from cuekit.run._storage import label_files, local_file, readable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONFIDENCE = 0.95
_SEED = 0
_AT_A_TIME = 2**22  # numbers of the bootstrap in memory: 32 MiB


def evaluate(
    labels: PathLike,
    truth: PathLike,
    *,
    names: PathLike | Iterable[str] | None = None,
    classes: PathLike | Sequence[str] = "voc",
    unknown: Unknown = "background",
    mean_over: Iterable[int | str] | None = None,
    compare: PathLike | None = None,
    samples: int = 2000,
    jobs: int = 1,
    progress: bool = False,
) -> Evaluation:
    """Compare the label images of a folder with the truth.

    One confusion matrix is counted over all photos. Pixels whose truth is 255 are left out. A class
    in neither truth nor labels is left out of means; one in labels only has IoU 0.

    Parameters
    ----------
    labels, truth : str or path-like
        Folders of label PNGs, as `cuekit.io.read_labels` reads them. The two files of a photo have
        the same name. Also folders of tars that `labels` wrote, tars and URLs, as there.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos, or their names. Default: all names that have labels.
    classes : {"voc", "coco"}, str, path-like or sequence of str, default "voc"
        The classes, as for `cuekit.classes.class_names`.
    unknown : {"background", "ignore", "mistake"}, default "background"
        What a predicted 255 counts as: background, as in most published scripts; nothing, the pixel
        is left out; or a prediction of no class, which is always wrong.
    mean_over : iterable of str or int, optional
        Names or ids of the classes that mean IoU and mean accuracy are taken over. Default: all.
        The other classes stay in the matrix: to confuse a class with them is still a mistake.
    compare : str or path-like, optional
        A folder of other labels of the same photos.
    samples : int, default 2000
        Number of bootstrap samples.
    jobs : int, default 1
        Number of processes. 1: this process does the work.
    progress : bool, default False
        Show progress on standard error.

    Returns
    -------
    Evaluation
        A photo with a file that is missing or damaged, or with files of different sizes, is in its
        `failures`, and in no figure.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; if a file has an id that is not one of the classes; if there is no
        photo, or all fail.
    OSError
        If a folder or the list cannot be read.
    """
    from cuekit.classes import class_names

    check_choice(unknown, "unknown", get_args(Unknown))
    samples = check_integer(samples, "samples", minimum=1)
    jobs = check_integer(jobs, "jobs", minimum=1)
    known_names = class_names(classes)
    averaged = class_ids_of(mean_over, known_names)
    predicted = label_files(labels)
    truth_files = label_files(truth, "truth")
    folders = {"labels": predicted, "truth": truth_files}
    if compare is not None:
        folders["other"] = label_files(compare, "other labels")
    wanted = predicted.names() if names is None else listed_names(names)
    if not wanted:
        raise ValueError(f"{predicted.folder} must have label images (.png), got none")
    failures: dict[str, str] = {}
    items = with_files(wanted, folders, failures)
    sets = [
        _Count(files.folder, known_names, unknown)
        for key, files in folders.items()
        if key != "truth"
    ]
    task = "cuekit.run._evaluate:CountPixels"
    with contextlib.closing(results(task, {}, items, failures, jobs, progress)) as found:
        for name, result in found:
            for one, (pairs, pixels) in zip(sets, result["cells"], strict=True):
                one.add(name, pairs, pixels)
    # In the order of the list, not in that of the workers: the samples depend on it.
    counted = tuple(name for name in wanted if name in sets[0].photos)
    refuse_nothing(len(counted), failures)
    counts = [np.stack([one.photos[name] for name in counted]) for one in sets]
    *intervals, differences = _intervals(np.stack(counts, axis=1), averaged, samples)
    asked = frozenset(wanted)
    without_labels = sum(name not in asked for name in truth_files.names())

    def evaluation(i: int, other: Evaluation | None) -> Evaluation:
        one = sets[i]
        left_out = np.array([one.left_out[name] for name in counted], np.int64)
        return Evaluation(
            folder=os.fspath(one.folder),
            class_names=known_names,
            averaged=averaged,
            unknown=unknown,
            names=counted,
            matrix=one.matrix,
            counts=counts[i],
            unknown_pixels=np.array([one.unknown[name] for name in counted], np.int64),
            left_out_pixels=left_out,
            failures=failures,
            without_labels=without_labels,
            notes=truth_notes(one.matrix.sum(1), int(left_out.sum())),
            other=other,
            differences={} if other is None else differences,
            **intervals[i],
        )

    return evaluation(0, evaluation(1, None) if len(sets) == 2 else None)


class CountPixels:
    """Counts the pixels of a photo by their values in truth and labels: a task for `run_all`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Take no settings."""

    def __call__(self, item: Mapping[str, str]) -> dict[str, Any]:
        """Return the pairs of values, 256 * true + predicted, and how often they occur."""
        truth = _read(item["truth"])
        high = truth.astype(np.uint16) << 8
        cells = []
        for key in ("labels", "other"):
            if key not in item:
                continue
            labels = _read(item[key])
            if labels.shape != truth.shape:
                raise ValueError(
                    f"{readable(item[key])}: labels must have shape {truth.shape} to match the "
                    f"truth, got {labels.shape}"
                )
            pixels = np.bincount((high | labels).ravel())
            pairs = np.flatnonzero(pixels)
            cells.append([pairs.tolist(), pixels[pairs].tolist()])
        return {"cells": cells}


def _read(location: str) -> NDArray[np.uint8]:
    with local_file(location) as path:
        return read_labels(path)


class _Count:
    """The pixels of one set of labels: of all photos together, and of each."""

    def __init__(self, folder: Path, class_names: tuple[str, ...], unknown: Unknown) -> None:
        self.folder = folder
        self._class_names = class_names
        self._unknown_as = unknown
        self.matrix = np.zeros((len(class_names), len(class_names) + 1), np.int64)
        self.photos: dict[str, NDArray[np.int32]] = {}  # correct, true and predicted pixels
        self.unknown: dict[str, int] = {}
        self.left_out: dict[str, int] = {}

    def add(self, name: str, pairs: list[int], pixels: list[int]) -> None:
        """Add a photo."""
        classes = len(self._class_names)
        number = np.array(pixels, np.int64)
        true, predicted = np.divmod(np.array(pairs, np.int64), 256)
        check_class_ids(true, f"the truth of {name}", self._class_names)
        check_class_ids(predicted, f"the labels of {name}", self._class_names)
        known = true != IGNORE
        self.left_out[name] = int(number[~known].sum())
        is_unknown = predicted == IGNORE
        self.unknown[name] = int(number[known & is_unknown].sum())
        if self._unknown_as == "ignore":
            known &= ~is_unknown
        predicted[is_unknown] = 0 if self._unknown_as == "background" else classes
        matrix = np.zeros_like(self.matrix)
        np.add.at(matrix, (true[known], predicted[known]), number[known])
        self.matrix += matrix
        square = matrix[:, :classes]
        counts = [square.diagonal(), matrix.sum(1), square.sum(0)]
        self.photos[name] = np.array(counts, np.int32)


def _intervals(
    counts: NDArray[np.int32], averaged: Sequence[int], samples: int
) -> list[dict[str, Interval]]:
    """Return value and interval of each measure: for each set of labels, and for the difference.

    The samples are those of `cuekit.metrics.bootstrap`, which takes a matrix for each photo. For
    many photos of many classes these are too many numbers. The measures only need the sums of the
    matrix's rows and columns, and its diagonal.

    Parameters
    ----------
    counts : (N, M, 3, K) array
        Of N photos and one or two sets of labels.
    averaged : sequence of int
        The classes that means are taken over.
    samples : int
        Number of samples.

    Returns
    -------
    list of M + 1 dicts
        Measure -> interval. The last is the difference of the first two; empty if there is one.
    """
    photos, sets = counts.shape[:2]
    flat = counts.reshape(photos, -1)
    drawn = np.zeros((samples, flat.shape[1]))
    random = np.random.default_rng(_SEED)
    rows, block = max(1, _AT_A_TIME // photos), max(1, _AT_A_TIME // flat.shape[1])
    for i in range(0, samples, rows):
        size = min(rows, samples - i)
        weights = random.multinomial(photos, np.full(photos, 1 / photos), size=size)
        for j in range(0, photos, block):  # sums of integers, so that their order does not matter
            part = flat[j : j + block].astype(np.float64)
            drawn[i : i + size] += weights[:, j : j + block] @ part
    drawn = drawn.reshape(samples, *counts.shape[1:])
    total = counts.sum(0, dtype=np.int64)
    intervals: list[dict[str, Interval]] = [{} for _ in range(sets + 1)]
    for measure in MEASURES:
        values, draws = measure_of(measure, total, averaged), measure_of(measure, drawn, averaged)
        for i in range(sets):
            intervals[i][measure] = _interval(values[i], draws[:, i])
        if sets == 2:
            intervals[2][measure] = _interval(values[0] - values[1], draws[:, 0] - draws[:, 1])
    return intervals


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    tail = (1 - _CONFIDENCE) / 2
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [tail, 1 - tail]) if known.size else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))
