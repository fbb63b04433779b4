"""The result of `sweep`: figures at each threshold, as text, as values for JSON, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.metrics import iou, mean_iou, pixel_accuracy
from cuekit.run._evaluation import averaged_text, percent, without_nan

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 21  # of the table
_BAR = 50  # characters of the bar of mean IoU 1
_USUAL = {"threshold": 0.3, "alpha": 4.0}  # what scripts have where nothing was tuned
_NEAR = 0.005  # of mean IoU: thresholds that are as good as the best one


@dataclass(frozen=True, eq=False)
class Sweep:
    """The quality of maps at every background threshold; `str` of it is a report.

    n is the number of thresholds, K that of classes.

    Attributes
    ----------
    folder : str
        The folder or archive of the maps.
    parameter : str
        "threshold" or "alpha".
    values : tuple of n float
        The thresholds, or the alphas.
    class_names : tuple of K str
        Names of the classes, the background first.
    averaged : tuple of int
        The classes that mean IoU is taken over.
    names : tuple of str
        The photos that are counted.
    matrices : (n, K, K) array of int64, or None
        The confusion matrix of all photos at each value: rows are true classes, columns predicted
        ones. None without truth.
    at_own_best : (K, K) array of int64, or None
        The confusion matrix if each photo has the value that is best for it, chosen with truth.
        None without truth.
    left_out_pixels : int
        Pixels whose truth is 255.
    peaks : (float, float)
        The largest value in the maps of a photo: its range over photos.
    estimate : float or None
        The value that `sweep` estimates without truth. None without photos.
    without_files : int
        Maps that are not counted, because truth or photo is missing; 0 if the photos were listed.
    failures : dict of str to str
        Photos that are not counted, and why.
    notes : tuple of str
        What seems to be wrong with the input.
    """

    folder: str
    parameter: str
    values: tuple[float, ...]
    class_names: tuple[str, ...]
    averaged: tuple[int, ...]
    names: tuple[str, ...]
    matrices: NDArray[np.int64] | None
    at_own_best: NDArray[np.int64] | None
    left_out_pixels: int
    peaks: tuple[float, float]
    estimate: float | None
    without_files: int
    failures: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def mean_iou(self) -> NDArray[np.float64] | None:
        """(n,) array: the mean IoU at each value; None without truth."""
        return None if self.matrices is None else self._mean_iou

    @property
    def best(self) -> float | None:
        """The value with the highest mean IoU, the lowest of equal ones; None without truth."""
        if self.matrices is None or np.isnan(self._mean_iou).all():
            return None
        return self.values[int(np.nanargmax(self._mean_iou))]

    @property
    def oracle(self) -> float | None:
        """The mean IoU if each photo has the value that is best for it; None without truth."""
        return (
            None if self.at_own_best is None else float(mean_iou(self.at_own_best, self.averaged))
        )

    @cached_property
    def _mean_iou(self) -> NDArray[np.float64]:
        return np.asarray(mean_iou(self.matrices, self.averaged))

    def nearest(self, value: float | None) -> int | None:
        """Return the index of the value nearest to another; None for None."""
        return None if value is None else int(np.abs(np.array(self.values) - value).argmin())

    # -------------------------------------------------------------------------------- as text

    def __str__(self) -> str:
        lines = self._photos()
        if self.matrices is not None:
            lines += ["", *self._table(self.matrices), ""]
        return "\n".join([*lines, *self._found(), *(f"NOTE: {note}" for note in self.notes)])

    def _photos(self) -> list[str]:
        asked = len(self.names) + len(self.failures)
        lines = [f"{self.folder}: {len(self.names)} of {asked} photos"]
        if self.failures:
            lines.append(f"{len(self.failures)} photos failed, no figure includes them")
        if self.without_files:
            lines.append(f"{self.without_files} more have maps, but no truth or no photo")
        low, high = (f"{peak:.3g}" for peak in self.peaks)
        lines.append(f"the largest value in the maps of a photo: {low} to {high}")
        return lines

    def _table(self, matrices: NDArray[np.int64]) -> list[str]:
        """Return a line for some of the values, and for the two that were found."""
        marks = {self.nearest(self.estimate): "estimate", self.nearest(self.best): "best"}
        step = math.ceil(len(self.values) / _ROWS)
        chosen = sorted({*range(0, len(self.values), step), *marks} - {None})
        totals = matrices.sum((1, 2))
        foreground = 1 - matrices[:, :, 0].sum(1) / np.maximum(totals, 1)
        columns = [self._mean_iou, pixel_accuracy(matrices), foreground]
        lines = [f"{self.parameter:>9}{'mean IoU':>10}{'accuracy':>10}{'foreground':>12}"]
        for i in chosen:
            one, two, three = (percent(column[i]) for column in columns)
            bar = "#" * round(_BAR * float(np.nan_to_num(self._mean_iou[i])))
            line = f"{self.values[i]:9g}{one:>10}{two:>10}{three:>12}  {bar} {marks.get(i, '')}"
            lines.append(line.rstrip())
        return lines

    def _found(self) -> list[str]:
        """Say which value is best, and which was estimated."""
        lines = []
        best = self.nearest(self.best)
        if best is not None:
            near = np.flatnonzero(self._mean_iou >= self._mean_iou[best] - _NEAR)
            lines.append(
                f"best {self.parameter}: {self.values[best]:g}, mean IoU "
                f"{percent(self._mean_iou[best])} over "
                f"{averaged_text(self.averaged, self.class_names)}; at most {100 * _NEAR:g} less "
                f"from {self.values[near[0]]:g} to {self.values[near[-1]]:g}"
            )
            if best in (0, len(self.values) - 1) and len(self.values) > 1:
                lines.append(f"NOTE: the best {self.parameter} is at an end: sweep over more")
        if self.estimate is not None:
            line = f"{self.parameter} without truth, a heuristic: {self.estimate:.3g}"
            nearest = self.nearest(self.estimate)
            if best is not None and nearest is not None:
                lost = self._mean_iou[best] - self._mean_iou[nearest]
                line += f", {percent(lost)} below the best at {self.values[nearest]:g}"
            lines.append(line)
        return lines + self._share()

    def _share(self) -> list[str]:
        """Say how much of what can be gained the best value and the estimate reach."""
        usual, best = self.nearest(_USUAL[self.parameter]), self.nearest(self.best)
        if best is None or usual is None or self.oracle is None:
            return []
        line = f"the best {self.parameter} of each photo, chosen with truth: {percent(self.oracle)}"
        gain = self.oracle - self._mean_iou[usual]
        if gain > 0:
            reached = {"the best": best, "the estimate": self.nearest(self.estimate)}
            shares = [
                f"{name} {(self._mean_iou[i] - self._mean_iou[usual]) / gain:.0%}"
                for name, i in reached.items()
                if i is not None
            ]
            line += f"; of the gain from {self.values[usual]:g} to it: {', '.join(shares)}"
        return [line]

    # -------------------------------------------------------------------------------- as files

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as values for JSON; NaN becomes None."""
        values: dict[str, Any] = {
            "folder": self.folder,
            "photos": len(self.names),
            "parameter": self.parameter,
            "values": list(self.values),
            "best": self.best,
            "estimate": self.estimate,
            "oracle": None if self.oracle is None else without_nan(self.oracle),
            "peaks": list(self.peaks),
            "classes": list(self.class_names),
            "averaged": [self.class_names[i] for i in self.averaged],
            "left_out_pixels": self.left_out_pixels,
            "without_files": self.without_files,
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }
        if self.matrices is not None:
            by_class = iou(self.matrices).T.tolist()
            values["mean_iou"] = [without_nan(each) for each in self._mean_iou.tolist()]
            values["pixel_accuracy"] = [
                without_nan(each) for each in pixel_accuracy(self.matrices).tolist()
            ]
            values["iou"] = {
                name: [without_nan(each) for each in column]
                for name, column in zip(self.class_names, by_class, strict=True)
                if not all(map(math.isnan, column))
            }
        return values

    def write_png(self, path: PathLike) -> None:
        """Draw mean IoU over the thresholds, with the best and the estimated one.

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        ValueError
            If there is no truth, and so no curve.
        TypeError, OSError
            If `path` is no path, or the file cannot be written.
        """
        from cuekit.run._plot import Mark, plot_curve

        target = check_path(path)
        if self.mean_iou is None or self.best is None:
            raise ValueError("a curve needs the truth, got none")
        marks = []
        for name, value in (("best", self.best), ("without truth", self.estimate)):
            i = self.nearest(value)
            if i is not None:
                height = 100 * float(self._mean_iou[i])
                marks.append(Mark(f"{name}: {value:.3g}, {height:.2f}", self.values[i], height))
        image = plot_curve(
            self.values,
            (100 * self._mean_iou).tolist(),
            marks,
            title=f"mean IoU (%) by {self.parameter}, {len(self.names)} photos",
            logarithmic=self.parameter == "alpha",
        )
        with replace_file(target) as file:
            image.save(file, format="PNG")
