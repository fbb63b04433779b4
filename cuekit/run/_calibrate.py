"""Weights of the recipe evidence for a folder of photos: the run behind `cuekit calibrate`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_integer
from cuekit.io import MapArchive, read_labels, read_maps, read_photo
from cuekit.io._common import PathLike
from cuekit.recipes.calibrate import (
    Calibration,
    PhotoTerms,
    compare,
    fit_parts,
    measure,
    weigh,
    without_masks,
)
from cuekit.recipes.evidence import EvidenceWeights, Weights, check_weights
from cuekit.run._label_task import check_sizes
from cuekit.run._pairs import (
    check_class_ids,
    class_ids_of,
    refuse_nothing,
    results,
    with_files,
    with_tags,
)
from cuekit.run._plan import map_sources, tags_of
from cuekit.run._sources import LABEL_SUFFIXES, PHOTO_SUFFIXES, Files, listed_names

if TYPE_CHECKING:
    from cuekit.run._workers import Item, Result


def calibrate(
    photos: PathLike,
    maps: PathLike | Sequence[PathLike],
    truth: PathLike | None = None,
    *,
    names: PathLike | Iterable[str] | None = None,
    tags: PathLike | Mapping[str, Iterable[int]] | None = None,
    classes: PathLike | Sequence[str] = "voc",
    weights: Weights = "position",
    folds: int = 5,
    mean_over: Iterable[int | str] | None = None,
    maps_format: str = "auto",
    maps_key: str | None = None,
    ids_key: str | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Calibration:
    """Find weights of the recipe `evidence` for a folder of photos, with masks or without.

    What is fitted, and how good that is: see `cuekit.recipes.calibrate`.

    Parameters
    ----------
    photos : str or path-like
        A folder of photos.
    maps : str or path-like, or a sequence of them
        A folder with one file for each photo, in any format of `cuekit.io.read_maps`; or an
        ``.npz`` of many photos (`cuekit.io.MapArchive`). Several: those of several classifiers.
    truth : str or path-like, optional
        A folder of label PNGs of the same names. Truth 255 is left out.
    names : str, path-like or iterable of str, optional
        A text file that lists the photos, or their names. Default: all that have all files. The
        parts of the cross-validation are in this order.
    tags : str, path-like or dict, optional
        The classes of each photo: a file (see `read_tags`) or ``{name: class ids}``. Maps of other
        classes are not used. Default: all maps are.
    classes : {"voc", "coco"}, str, path-like or sequence of str, default "voc"
        The classes, as for `cuekit.classes.class_names`.
    weights, folds
        See `cuekit.recipes.calibrate`.
    mean_over : iterable of str or int, optional
        Names or ids of the classes that mean IoU is taken over. Default: all.
    maps_format, maps_key, ids_key : str, optional
        How maps are read: `format` and the keys of `cuekit.io.read_maps`.
    jobs : int, default 1
        Number of processes. 1: this process does the work.
    progress : bool, default False
        Show progress on standard error; with truth, of two passes over the photos.

    Returns
    -------
    Calibration
        A photo that cannot be used is in its `failures`, and in no figure.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; if a file has an id that is not one of the classes; if fewer photos
        than `folds` can be used.
    OSError
        If a folder or a list cannot be read.
    """
    from cuekit.classes import class_names

    jobs = check_integer(jobs, "jobs", minimum=1)
    folds = check_integer(folds, "folds", minimum=2)
    start = check_weights(weights)
    known_names = class_names(classes)
    averaged = class_ids_of(mean_over, known_names)
    sources = map_sources(maps)
    folders = {
        f"maps {i}": source.files for i, source in enumerate(sources) if source.files is not None
    }
    if truth is not None:
        folders["truth"] = Files(truth, LABEL_SUFFIXES, "truth")
    else:
        start = without_masks(start)
    folders["photo"] = Files(photos, PHOTO_SUFFIXES, "photos")
    with_maps = sorted(frozenset.intersection(*(frozenset(each.names()) for each in sources)))
    complete = [name for name in with_maps if all(name in each for each in folders.values())]
    failures: dict[str, str] = {}
    items = with_files(complete if names is None else listed_names(names), folders, failures)
    tag_ids = tags_of(tags, known_names)
    if tag_ids is not None:
        items = with_tags(items, tag_ids, failures)
    settings = {
        "archives": [
            None if source.files is not None else os.fspath(source.path) for source in sources
        ],
        "reading": {"format": maps_format, "maps_key": maps_key, "ids_key": ids_key},
        "start": dataclasses.asdict(start),
        "given": weights if isinstance(weights, str) else dataclasses.asdict(start),
    }
    terms: dict[str, PhotoTerms | None] = {}
    task = "cuekit.run._calibrate:MeasureTerms"
    with contextlib.closing(results(task, settings, items, failures, jobs, progress)) as found:
        for name, result in found:
            check_class_ids(np.array(result["true"], int), f"the truth of {name}", known_names)
            of_maps = np.array(result["maps"], int)
            check_class_ids(of_maps, f"the maps of {name}", known_names, ignore=None)
            terms[name] = result["terms"] and PhotoTerms(*map(np.array, result["terms"]))
    refuse_nothing(len(terms), failures)
    items = [item for item in items if item["name"] in terms]
    if truth is None:
        found_weights = weigh([terms[item["name"]] for item in items], start)
        return dataclasses.replace(found_weights, failures=failures)
    fits = fit_parts([terms[item["name"]] for item in items], start, folds, None)
    items = [
        item | {"fitted": dataclasses.asdict(fits.of_photo(i))} for i, item in enumerate(items)
    ]
    pairs: dict[str, list[Any]] = {}
    task = "cuekit.run._calibrate:CompareLabels"
    with contextlib.closing(results(task, settings, items, failures, jobs, progress)) as found:
        for name, result in found:
            pairs[name] = [np.array(each) for each in result["matrices"]]
    refuse_nothing(len(pairs), failures)
    calibration = fits.calibration(
        [pairs[item["name"]] for item in items if item["name"] in pairs],
        averaged,
        weights if isinstance(weights, str) else start,
    )
    return dataclasses.replace(calibration, failures=failures)


class _Task:
    """Reads photos with their maps, tags and truth."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._reading = settings["reading"]
        self._archives = [
            None if path is None else MapArchive(path) for path in settings["archives"]
        ]
        self._start = EvidenceWeights(**settings["start"])
        self._given = settings["given"]

    def close(self) -> None:
        """Close the archives."""
        for archive in self._archives:
            if archive is not None:
                archive.close()

    def _read(self, item: Item) -> tuple[Any, Any, Any, Any]:
        photo = read_photo(item["photo"])
        sets = [
            archive.read(item["name"]) if archive else read_maps(item[f"maps {i}"], **self._reading)
            for i, archive in enumerate(self._archives)
        ]
        for each in sets:
            check_sizes(each, photo)
        truth = read_labels(item["truth"]) if "truth" in item else None
        return photo, sets, item.get("tags"), truth


class MeasureTerms(_Task):
    """Measures the terms of a photo: a task for `run_all`."""

    def __call__(self, item: Item) -> Result:
        """Return the terms, and the class ids of truth and maps."""
        photo, sets, tags, truth = self._read(item)
        terms = measure(photo, sets, tags, truth, self._start)
        return {
            "terms": None if terms is None else [each.tolist() for each in terms],
            "true": [] if truth is None else np.unique(truth).tolist(),
            "maps": sets[0].class_ids.tolist(),
        }


class CompareLabels(_Task):
    """Makes labels of a photo by two sets of weights: a task for `run_all`."""

    def __call__(self, item: Item) -> Result:
        """Return the two confusion matrices."""
        fitted = EvidenceWeights(**item["fitted"])
        matrices = compare(*self._read(item), fitted, self._given)
        return {"matrices": [each.tolist() for each in matrices]}
