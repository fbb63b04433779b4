"""The result of `evaluate`: figures, and the texts and tables made of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.metrics import Interval, _mean_of_known, _ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

Unknown: TypeAlias = Literal["background", "ignore", "mistake"]

_COUNTED_AS = {
    "background": "counted as background",
    "ignore": "left out",
    "mistake": "counted as mistakes",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well labels agree with the truth, over all photos together; `str` of it is a report.

    K is the number of classes, N that of photos. Shares are in [0, 1], and NaN where there is
    nothing to divide by.

    Attributes
    ----------
    folder : str
        The folder of the labels.
    class_names : tuple of K str
        Names of the classes, the background first.
    averaged : tuple of int
        The classes that mean IoU and mean accuracy are taken over.
    unknown : str
        What a predicted 255 counts as: "background", "ignore" or "mistake".
    names : tuple of N str
        The photos that are counted.
    matrix : (K, K + 1) array of int64
        Pixels by true class (rows) and predicted class (columns), of all photos. The last column
        has predictions of no class: zeros, except for ``unknown="mistake"``.
    counts : (N, 3, K) array of int32
        Correct, true and predicted pixels of each class in each photo.
    unknown_pixels, left_out_pixels : (N,) arrays of int64
        In each photo: pixels with known truth that are predicted 255, whatever they count as;
        pixels whose truth is 255.
    mean_iou, pixel_accuracy, mean_accuracy : Interval
        The value, and the ends of its 95 % bootstrap interval over photos.
    failures : dict of str to str
        Photos that are not counted, and why.
    without_labels : int
        Files of the truth that belong to no photo asked for.
    notes : tuple of str
        What seems to be wrong with the input.
    other : Evaluation or None
        The same for the labels that these are compared with, on the same photos.
    differences : dict of str to Interval
        "mean_iou", "pixel_accuracy", "mean_accuracy" -> these labels minus the others, with the
        interval of the paired difference. Empty without a comparison.
    """

    folder: str
    class_names: tuple[str, ...]
    averaged: tuple[int, ...]
    unknown: Unknown
    names: tuple[str, ...]
    matrix: NDArray[np.int64]
    counts: NDArray[np.int32]
    unknown_pixels: NDArray[np.int64]
    left_out_pixels: NDArray[np.int64]
    mean_iou: Interval
    pixel_accuracy: Interval
    mean_accuracy: Interval
    failures: Mapping[str, str]
    without_labels: int
    notes: tuple[str, ...]
    other: Evaluation | None
    differences: Mapping[str, Interval]

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """(K,) array: the IoU of each class."""
        return iou_of(self._totals)

    @cached_property
    def accuracy(self) -> NDArray[np.float64]:
        """(K,) array: the share of each class's true pixels that are predicted correctly."""
        return _ratio(self._totals[0], self._totals[1])

    @cached_property
    def _totals(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.sum(0, dtype=np.int64))

    def by_photo(self) -> Iterator[dict[str, Any]]:
        """Yield the figures of each photo.

        Yields
        ------
        dict
            "name"; "mean_iou", over those of `averaged` that occur in the photo's truth or labels;
            "pixel_accuracy"; "pixels", the number that are counted; "unknown_share", the share of
            255 in the labels where the truth is known; "iou", a dict: name of each class that
            occurs -> IoU.
        """
        for name, counts, unknown in zip(self.names, self.counts, self.unknown_pixels, strict=True):
            pixels = int(counts[1].sum())
            known = pixels + (int(unknown) if self.unknown == "ignore" else 0)
            yield {
                "name": name,
                "mean_iou": float(measure_of("mean_iou", counts, self.averaged)),
                "pixel_accuracy": float(measure_of("pixel_accuracy", counts, ())),
                "pixels": pixels,
                "unknown_share": _share(int(unknown), known),
                "iou": _by_class(iou_of(counts), self.class_names),
            }

    # -------------------------------------------------------------------------------- as text

    def __str__(self) -> str:
        rows = self._table()
        width = max(len(row[0]) for row in rows)
        lines = [row[0].ljust(width) + "".join(each.rjust(16) for each in row[1:]) for row in rows]
        figures = [f"{title:<16}{text}" for title, text in self._figures()]
        return "\n".join([*self._photos(), "", *lines, "", *figures, "", *self._policy()])

    def markdown(self) -> str:
        """Return a table in Markdown, with what the figures mean below."""
        header, *rows = self._table()
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines[:0] = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        texts = [f"{title} {text}" for title, text in self._figures()]
        return "\n".join([*lines, "", "; ".join([*texts, *self._photos(), *self._policy()]) + "."])

    def _table(self) -> list[list[str]]:
        """Return the header, a row for each class that occurs, and the means."""
        header = ["class", "IoU", "accuracy", "share of truth"]
        shares = self._totals[1] / max(int(self._totals[1].sum()), 1)
        occurs = ~np.isnan(self.iou)
        if self.other is not None:
            header += ["other IoU", "difference"]
            occurs |= ~np.isnan(self.other.iou)
        rows = []
        for i in np.flatnonzero(occurs):
            row = [percent(self.iou[i]), percent(self.accuracy[i]), percent(shares[i])]
            if self.other is not None:
                other = self.other.iou[i]
                row += [percent(other), percent(self.iou[i] - other, "+")]
            rows.append([self.class_names[i], *row])
        count = int(np.isfinite(self.iou[list(self.averaged)]).sum())
        means = [percent(self.mean_iou.value), percent(self.mean_accuracy.value), ""]
        means.insert(0, f"mean of {count}")
        if self.other is not None:
            difference = self.differences["mean_iou"].value
            means += [percent(self.other.mean_iou.value), percent(difference, "+")]
        return [header, *rows, means]

    def _figures(self) -> list[tuple[str, str]]:
        """Return the measures over all photos: title, text."""
        lines = []
        for key in MEASURES:
            text = _interval_text(getattr(self, key))
            if self.other is not None:
                text += f", difference {_interval_text(self.differences[key], '+')}"
            lines.append((key.replace("_", " ").replace("iou", "IoU"), text))
        return lines

    def _photos(self) -> list[str]:
        asked = len(self.names) + len(self.failures)
        lines = [f"{self.folder}: {len(self.names)} of {asked} photos"]
        if self.other is not None:
            lines.append(f"other labels, of the same photos: {self.other.folder}")
        if self.failures:
            lines.append(f"failed, and in no figure: {len(self.failures)}")
        if self.without_labels:
            lines.append(f"truth of photos not asked for: {self.without_labels} files")
        return lines

    def _policy(self) -> list[str]:
        """Say what the figures leave out and include."""
        true, totals = self._totals[1], int(self._totals[1].sum())
        left_out, unknown = int(self.left_out_pixels.sum()), int(self.unknown_pixels.sum())
        known = totals + (unknown if self.unknown == "ignore" else 0)
        averaged = list(self.averaged)
        absent = int(np.isnan(self.iou[averaged]).sum())
        added = int(((true == 0) & ~np.isnan(self.iou))[averaged].sum())
        return [
            f"truth 255: left out, {percent(_share(left_out, known + left_out))} % of the pixels",
            f"labels 255: {_COUNTED_AS[self.unknown]}, {percent(_share(unknown, known))} % of the "
            "pixels with known truth",
            f"means: over {averaged_text(self.averaged, self.class_names)}; of these, {absent} in "
            f"neither truth nor labels are left out, {added} in labels only count with IoU 0",
            "[ ]: 95 % bootstrap interval over photos",
            *(f"NOTE: {note}" for note in self.notes),
        ]

    # -------------------------------------------------------------------------------- as files

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as values for JSON; NaN becomes None."""
        values: dict[str, Any] = {
            "folder": self.folder,
            "photos": len(self.names),
            "classes": list(self.class_names),
            "averaged": [self.class_names[i] for i in self.averaged],
            "unknown": self.unknown,
            "pixels": int(self._totals[1].sum()),
            "unknown_pixels": int(self.unknown_pixels.sum()),
            "left_out_pixels": int(self.left_out_pixels.sum()),
            **{key: without_nan(getattr(self, key)._asdict()) for key in MEASURES},
            "iou": _by_class(self.iou, self.class_names),
            "accuracy": _by_class(self.accuracy, self.class_names),
            "matrix": self.matrix.tolist(),
            "by_photo": [without_nan(figures) for figures in self.by_photo()],
            "failures": dict(self.failures),
            "without_labels": self.without_labels,
            "notes": list(self.notes),
        }
        if self.other is not None:
            values["differences"] = {
                key: without_nan(interval._asdict()) for key, interval in self.differences.items()
            }
            values["other"] = self.other.as_dict()
        return values

    def write_csv(self, path: PathLike) -> None:
        """Write a table with a row for each photo.

        Its columns are name, mean_iou, pixel_accuracy, pixels, unknown_share, failed (the reason,
        if the photo is not counted), in a comparison other_mean_iou and difference, and "iou "
        and the name of each class. What is not defined is empty.

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        TypeError, OSError
            If `path` is no path, or the file cannot be written.
        """
        figures = ["name", "mean_iou", "pixel_accuracy", "pixels", "unknown_share", "failed"]
        others: list[float] = []
        if self.other is not None:
            figures += ["other_mean_iou", "difference"]
            others = [photo["mean_iou"] for photo in self.other.by_photo()]
        text = io.StringIO()
        columns = {name: f"iou {name}" for name in self.class_names}
        table = csv.DictWriter(text, [*figures, *columns.values()], extrasaction="ignore")
        table.writeheader()
        for i, photo in enumerate(self.by_photo()):
            row = photo | {columns[name]: value for name, value in photo["iou"].items()}
            if others:
                row["other_mean_iou"] = others[i]
                row["difference"] = photo["mean_iou"] - others[i]
            table.writerow({key: "" if value != value else value for key, value in row.items()})
        for name, reason in self.failures.items():
            table.writerow({"name": name, "failed": reason})
        with replace_file(check_path(path)) as file:
            file.write(text.getvalue().encode())


# ------------------------------------------------------------------------------------ measures

MEASURES = ("mean_iou", "pixel_accuracy", "mean_accuracy")


def iou_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU (..., K) of counts (..., 3, K): correct, true and predicted pixels."""
    correct, true, predicted = np.moveaxis(counts, -2, 0)
    return _ratio(correct, true + predicted - correct)


def measure_of(measure: str, counts: NDArray[Any], averaged: Sequence[int]) -> Any:
    """Return one of MEASURES (...) of counts (..., 3, K)."""
    correct, true, _ = np.moveaxis(counts, -2, 0)
    if measure == "mean_iou":
        return _mean_of_known(iou_of(counts), averaged)
    if measure == "mean_accuracy":
        return _mean_of_known(_ratio(correct, true), averaged)
    return _ratio(correct.sum(-1), true.sum(-1))


# --------------------------------------------------------------------------------------- texts


def averaged_text(averaged: Sequence[int], class_names: Sequence[str]) -> str:
    """Say which classes a mean is taken over."""
    if len(averaged) == len(class_names):
        return f"all {len(class_names)} classes"
    return ", ".join(class_names[i] for i in averaged)


def without_nan(value: Any) -> Any:
    """Return a dict or a number with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _by_class(values: NDArray[np.float64], class_names: Sequence[str]) -> dict[str, float]:
    """Return the values of the classes that have one."""
    return {
        name: value
        for name, value in zip(class_names, values.tolist(), strict=True)
        if not math.isnan(value)
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def percent(share: Any, sign: str = "") -> str:
    """Return a share as percent with two digits, and "-" for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f}"


def _interval_text(interval: Interval, sign: str = "") -> str:
    value, low, high = (percent(each, sign) for each in interval)
    return f"{value} [{low}, {high}]"
