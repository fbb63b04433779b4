"""All background thresholds of activation maps at once: the run behind `cuekit sweep`."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_integer, check_number, check_switch
from cuekit.felzenszwalb import felzenszwalb
from cuekit.io import MapArchive, Maps, read_labels, read_maps, read_photo
from cuekit.io._common import PathLike
from cuekit.metrics import IGNORE, mean_iou
from cuekit.recipes._steps import at_photo_size, maps_of_classes, mean_of_classifiers, normalized
from cuekit.run._curve import Sweep
from cuekit.run._label_task import check_sizes
from cuekit.run._pairs import (
    check_class_ids,
    class_ids_of,
    refuse_nothing,
    results,
    truth_notes,
    with_files,
    with_tags,
)
from cuekit.run._plan import map_sources, tags_of
from cuekit.run._sources import LABEL_SUFFIXES, PHOTO_SUFFIXES, Files, listed_names
from cuekit.superpixel_mean import superpixel_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_VALUES = 1000
_TOLERANCE = 1e-3  # what rounding may leave above 1, as in `with_background`
_ESTIMATES = 101  # thresholds that an estimate chooses from
_SCALE = 50  # of the superpixels of an estimate


def sweep(
    maps: PathLike | Sequence[PathLike],
    truth: PathLike | None = None,
    *,
    photos: PathLike | None = None,
    names: PathLike | Iterable[str] | None = None,
    tags: PathLike | Mapping[str, Iterable[int]] | None = None,
    classes: PathLike | Sequence[str] = "voc",
    thresholds: Iterable[float] | None = None,
    alphas: Iterable[float] | None = None,
    normalize: bool = False,
    mean_over: Iterable[int | str] | None = None,
    maps_format: str = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Sweep:
    """Evaluate activation maps at every background threshold, and estimate one without truth.

    Labels are the arg max of ``with_background(maps, threshold=)`` or ``(..., alpha=)``, the maps
    being resized to the truth's size by `resize_maps`. All thresholds are counted in one pass: the
    figures are exactly those of labels made at each.

    Parameters
    ----------
    maps : str or path-like, or a sequence of them
        A folder with one file for each photo, in any format of `cuekit.io.read_maps`; or an
        ``.npz`` of many photos (`cuekit.io.MapArchive`). Several: those of several classifiers,
        whose mean is taken as recipes do. A background map in the files is not used.
    truth : str or path-like, optional
        A folder of label PNGs of the same names. Truth 255 is left out.
    photos : str or path-like, optional
        A folder of the photos: estimate a threshold from maps and photos.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos, or their names. Default: all that have maps, and truth
        and photos where these are given.
    tags : str, path-like or dict, optional
        The classes of each photo: a file (see `read_tags`) or ``{name: class ids}``. Maps of other
        classes are not used. Default: all maps are. A photo without tags, or with a tag of which
        there is no map, fails.
    classes : {"voc", "coco"}, str, path-like or sequence of str, default "voc"
        The classes, as for `cuekit.classes.class_names`.
    thresholds : iterable of float, optional
        Ascending. Default: 0, 0.01, ..., 1.
    alphas : iterable of float, optional
        Ascending, above 0. Instead of thresholds: the background is (1 - largest map) ** alpha.
    normalize : bool, default False
        Divide each map by its maximum first.
    mean_over : iterable of str or int, optional
        Names or ids of the classes that mean IoU is taken over. Default: all.
    maps_format, maps_key, ids_key : str, optional
        How maps are read: `format` and the keys of `cuekit.io.read_maps`.
    jobs : int, default 1
        Number of processes. 1: this process does the work.
    progress : bool, default False
        Show progress on standard error.

    Returns
    -------
    Sweep
        A photo that cannot be read is in its `failures`, and in no figure.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; if maps exceed 1 and all thresholds, and `normalize` is not set;
        if a file has an id that is not one of the classes; if there is no photo, or all fail.
    OSError
        If a folder or a list cannot be read.

    Notes
    -----
    The estimate is a heuristic. Labels of the maps are compared with labels of the maps averaged
    over superpixels (`felzenszwalb` with scale 50), at 101 thresholds. Agreement is the IoU of the
    foreground, for which classes must be equal, or that of the background, whichever is lower: so
    it is 0 where all is foreground or nothing. The threshold of a photo is the one where agreement
    is highest, and the estimate is the mean over photos; as alpha, it is the one for which
    ``threshold == (1 - threshold) ** alpha``.

    It was chosen among many rules on 797 photos of six classes of PASCAL VOC, with maps of two
    classifiers, and then measured on 225 others. There it lost 0.1 to 0.2 points of mean IoU
    against the best threshold, 0.8 for maps averaged over superpixels of several sizes, and at most
    1.3 for powers of these maps from 0.7 to 2; the fixed threshold 0.25 lost up to 7.8, the
    minimum cross entropy of the maps' values up to 2.3, Otsu's method 2 to 36. A threshold for each
    photo, by any rule, was worse than one for all: by this one it lost 2 to 6. Nor did it help to
    move the threshold of a photo only part of the way that a rule says (Otsu's method, a mixture of
    two normal distributions, cross entropy, mean, a quantile, contrast along borders, this one; the
    part chosen on 113 photos): on 112 others, of what thresholds chosen with truth for each photo
    gain, 9 to 16 points, rules reached -8 to 6 %, none for several forms of maps. Other classes and
    small objects have not been tried.
    """
    from cuekit.classes import class_names

    jobs = check_integer(jobs, "jobs", minimum=1)
    if truth is None and photos is None:
        raise ValueError("truth or photos must be given, to evaluate or to estimate, got none")
    if thresholds is not None and alphas is not None:
        raise ValueError("one of thresholds and alphas must be given, got both")
    if alphas is not None:
        values = _ascending(alphas, "alphas")
        if values[0] <= 0:
            raise ValueError(f"alphas must be above 0, got {values[0]}")
    elif thresholds is not None:
        values = _ascending(thresholds, "thresholds")
    else:
        values = tuple(i / 100 for i in range(101))
    known_names = class_names(classes)
    averaged = class_ids_of(mean_over, known_names)
    sources = map_sources(maps)
    with_maps = sorted(frozenset.intersection(*(frozenset(each.names()) for each in sources)))
    folders = {
        f"maps {i}": source.files for i, source in enumerate(sources) if source.files is not None
    }
    if truth is not None:
        folders["truth"] = Files(truth, LABEL_SUFFIXES, "truth")
    if photos is not None:
        folders["photo"] = Files(photos, PHOTO_SUFFIXES, "photos")
    complete = [name for name in with_maps if all(name in each for each in folders.values())]
    if names is None and not complete:
        places = " and ".join(str(each.folder) for each in folders.values())
        raise ValueError(f"photos must have maps and files in {places}, got none that has all")
    wanted = complete if names is None else listed_names(names)
    failures: dict[str, str] = {}
    items = with_files(wanted, folders, failures)
    tag_ids = tags_of(tags, known_names)
    if tag_ids is not None:
        items = with_tags(items, tag_ids, failures)
    settings: dict[str, Any] = {
        "parameter": "threshold" if alphas is None else "alpha",
        "values": values,
        "archives": [
            None if source.files is not None else os.fspath(source.path) for source in sources
        ],
        "normalize": check_switch(normalize, "normalize"),
        "reading": {"format": maps_format, "maps_key": maps_key, "ids_key": ids_key},
    }
    pixels = np.zeros((len(known_names), len(known_names), len(values) + 1), np.int64)
    at_own_best = np.zeros((len(known_names), len(known_names)), np.int64)
    left_out = 0
    peaks: dict[str, float] = {}
    estimates: dict[str, float] = {}
    task = "cuekit.run._sweep:CountThresholds"
    with contextlib.closing(results(task, settings, items, failures, jobs, progress)) as found:
        for name, result in found:
            _check_peak(result["peak"], name, settings)
            cells = np.array(result["cells"], np.int64).reshape(4, -1)
            known = cells[:, cells[0] != IGNORE]
            check_class_ids(known[0], f"the truth of {name}", known_names)
            check_class_ids(known[1], f"the maps of {name}", known_names, ignore=None)
            np.add.at(pixels, tuple(known[:3]), known[3])
            ids, best = _at_own_best(known, len(values), alphas is not None)
            at_own_best[np.ix_(ids, ids)] += best
            left_out += int(cells[3].sum() - known[3].sum())
            peaks[name] = result["peak"]
            if result["estimate"] is not None:
                estimates[name] = result["estimate"]
    counted = tuple(name for name in wanted if name in peaks)
    refuse_nothing(len(counted), failures)
    estimate = None
    if estimates:  # fsum is exact: it does not depend on the order
        estimate = math.fsum(estimates.values()) / len(estimates)
        if alphas is not None:  # t = (1 - t) ** alpha
            estimate = math.log(estimate) / math.log1p(-estimate) if 0 < estimate < 1 else None
    return Sweep(
        folder=" and ".join(os.fspath(source.path) for source in sources),
        parameter=settings["parameter"],
        values=values,
        class_names=known_names,
        averaged=averaged,
        names=counted,
        matrices=None if truth is None else _matrices(pixels, alphas is not None),
        at_own_best=None if truth is None else at_own_best,
        left_out_pixels=left_out,
        peaks=(min(peaks.values()), max(peaks.values())),
        estimate=estimate,
        without_files=len(with_maps) - len(wanted) if names is None else 0,
        failures=failures,
        notes=() if truth is None else truth_notes(pixels.sum((1, 2)), left_out),
    )


class CountThresholds:
    """Counts the pixels of a photo by true class, best class and threshold: a task for `run_all`.

    A pixel with best class k has label k at as many of the thresholds as its value is above, and
    these are the first ones. So its count says all.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._values = np.array(settings["values"], np.float64)
        self._archives = [
            None if path is None else MapArchive(path) for path in settings["archives"]
        ]

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pixels of each combination, the largest value, the estimate."""
        sets = self._read(item)
        truth: Any = read_labels(item["truth"]) if "truth" in item else None
        photo: Any = read_photo(item["photo"]) if "photo" in item else None
        if truth is not None and photo is not None and truth.shape != photo.shape[:2]:
            raise ValueError(
                f"truth must have shape {photo.shape[:2]} to match the photo, got {truth.shape}"
            )
        maps, class_ids = self._prepared(sets, truth if photo is None else photo, item.get("tags"))
        best, value = _best(maps)
        peak = float(value.max()) if len(maps) else 0.0
        result: dict[str, Any] = {"cells": [], "estimate": None, "peak": peak}
        if truth is not None:
            result["cells"] = _cells(truth, best, self._count(value), class_ids)
        if photo is not None:
            limit = max(1.0, self._values[-1] if self._is_threshold else 1.0)
            result["estimate"] = estimated_threshold(maps, photo, limit)
        return result

    def close(self) -> None:
        """Close the archive."""
        for archive in self._archives:
            if archive is not None:
                archive.close()

    @property
    def _is_threshold(self) -> bool:
        return bool(self._settings["parameter"] == "threshold")

    def _read(self, item: Mapping[str, Any]) -> list[Maps]:
        """Read the maps of each classifier."""
        reading = self._settings["reading"]
        return [
            archive.read(item["name"]) if archive else read_maps(item[f"maps {i}"], **reading)
            for i, archive in enumerate(self._archives)
        ]

    def _prepared(
        self, sets: list[Maps], image: NDArray[np.uint8], tags: list[int] | None
    ) -> tuple[NDArray[Any], list[int]]:
        """Return maps of all classifiers together, at the size of an image, and class ids."""
        wanted = None if tags is None else set(tags)
        class_ids = [c for c in sets[0].class_ids.tolist() if wanted is None or c in wanted]
        resized = []
        for each in sets:
            check_sizes(each, image)
            if each.maps.dtype == np.bool_:
                raise ValueError("maps must be floating, got cues, which have no threshold")
            maps = at_photo_size(maps_of_classes(each, class_ids, wanted, image).maps, image)
            resized.append(normalized(maps) if self._settings["normalize"] else maps)
        return mean_of_classifiers(resized), class_ids

    def _count(self, value: NDArray[Any]) -> NDArray[np.intp]:
        """Return, for each pixel, at how many of the values it has the label of its best class.

        The comparisons are those of the arg max of `with_background`: in the dtype of the maps, and
        the background wins where both are equal.
        """
        if self._is_threshold:
            return _below(value, self._values)
        # The larger alpha is, the lower the background: the last ones count.
        count = np.zeros(value.shape, np.intp)
        rest = 1 - np.clip(value, 0, 1)
        for alpha in self._settings["values"]:
            count += value > np.power(rest, alpha)
        return count


def _ascending(values: Iterable[float], name: str) -> tuple[float, ...]:
    result = tuple(check_number(each, f"{name}[{i}]") for i, each in enumerate(values))
    if not 1 <= len(result) <= _MOST_VALUES:
        raise ValueError(f"{name} must be 1 to {_MOST_VALUES} numbers, got {len(result)}")
    for low, high in itertools.pairwise(result):
        if low >= high:
            raise ValueError(f"{name} must be ascending, got {low} before {high}")
    return result


def _check_peak(peak: float, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse maps that have not been divided by their maxima."""
    limit = max(1.0, settings["values"][-1]) if settings["parameter"] == "threshold" else 1.0
    if peak > limit + _TOLERANCE:
        raise ValueError(
            f"maps must be at most {limit:g}, got {peak:g} in those of {name}: pass --normalize "
            "(normalize=True) to divide each map by its maximum"
        )


def _best(maps: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return the class (H, W) whose map is largest, and its value; the first of equal ones."""
    if not len(maps):
        nowhere = np.full(maps.shape[1:], -np.inf, maps.dtype)
        return np.zeros(nowhere.shape, np.intp), nowhere
    return maps.argmax(0), maps.max(0)


def _below(values: NDArray[Any], thresholds: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many of the thresholds are below each value, in the dtype of the values."""
    keys = thresholds.astype(values.dtype)
    if values.dtype == np.float16:  # the same numbers, which are compared faster
        keys, values = keys.astype(np.float32), values.astype(np.float32)
    return np.searchsorted(keys, values.ravel()).reshape(values.shape)


def _above(counts: NDArray[Any]) -> NDArray[Any]:
    """Return, for each threshold i, the sum of the counts (..., n + 1) of more than i."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]


def _cells(
    truth: NDArray[np.uint8],
    best: NDArray[np.intp],
    count: NDArray[np.intp],
    class_ids: list[int],
) -> list[list[int]]:
    """Return true class, best class, count and number of pixels of each combination."""
    ids = np.array(class_ids or [0])
    most = int(count.max()) + 1
    pixels = np.bincount(((truth.astype(np.intp) * len(ids) + best) * most + count).ravel())
    cells = np.flatnonzero(pixels)
    rest, counts = np.divmod(cells, most)
    true, index = np.divmod(rest, len(ids))
    return [true.tolist(), ids[index].tolist(), counts.tolist(), pixels[cells].tolist()]


def _matrices(pixels: NDArray[np.int64], last: bool) -> NDArray[np.int64]:
    """Return the confusion matrix (n, K, K) at each value, of pixels (K, K, n + 1) by count.

    A pixel has the label of its best class at the first values, or at the last ones.
    """
    matrices = np.moveaxis(_above(pixels), -1, 0).copy()
    background = pixels.sum(1).cumsum(-1)[:, :-1]  # (K, n): pixels with at most i
    matrices[:, :, 0] += background.T
    return matrices[::-1] if last else matrices


def _at_own_best(
    cells: NDArray[np.int64], values: int, last: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes of a photo, and its confusion matrix at the value that is best for it."""
    ids = np.unique(np.append(cells[:2], 0))
    true, best = np.searchsorted(ids, cells[:2])
    pixels = np.zeros((len(ids), len(ids), values + 1), np.int64)
    np.add.at(pixels, (true, best, cells[2]), cells[3])
    matrices = _matrices(pixels, last)
    return ids, matrices[np.nan_to_num(mean_iou(matrices)).argmax()]


def estimated_threshold(
    maps: NDArray[Any], photo: NDArray[np.uint8], limit: float = 1.0
) -> float | None:
    """Estimate the threshold of one photo without truth; None if no map is above 0.

    Parameters
    ----------
    maps : (C, H, W) array of float
        At the photo's size.
    photo : (H, W, 3) array of uint8
        The photo.
    limit : float, default 1
        The largest threshold.
    """
    if not len(maps):
        return None
    maps = maps.astype(np.float32, copy=False)
    snapped = superpixel_mean(maps, felzenszwalb(photo, scale=_SCALE))
    (best, value), (best_snapped, value_snapped) = _best(maps), _best(snapped)
    thresholds = np.linspace(0, limit, _ESTIMATES)
    one, two = _below(value, thresholds), _below(value_snapped, thresholds)
    common = np.minimum(one, two)

    def pixels(counts: NDArray[np.intp]) -> NDArray[np.intp]:
        return _above(np.bincount(counts.ravel(), minlength=_ESTIMATES + 1))

    in_both, equal = pixels(common), pixels(common[best == best_snapped])
    in_either = pixels(one) + pixels(two) - in_both
    foreground = equal / np.maximum(in_either, 1)
    background = (one.size - in_either) / np.maximum(one.size - in_both, 1)
    agreement = np.minimum(foreground, background)
    return float(thresholds[agreement.argmax()]) if agreement.any() else None
