"""What `view` shows of other commands: the settings and failures of a run, the curve of a sweep."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuekit._checks import check_choice
from cuekit.run._folder import MANIFEST
from cuekit.run._page import Curve, Table
from cuekit.run._workers import describe

_MOST_BYTES = 2**24  # of a file
_MOST_VALUES = 10_000  # of a sweep
_MOST_ROWS = 200  # of a table
_MOST_LISTS = 16  # of failures
_MOST_CHARACTERS = 500  # of a cell


def read_tables(folder: Path, name: str) -> tuple[list[Table], list[str]]:
    """Return what the program that wrote labels wrote beside them, and what could not be read."""
    tables, notes = [], []
    # A run of several parts has a list of failures for each part.
    lists = sorted(folder.glob("failures*.csv"))[:_MOST_LISTS]
    for path in (folder / MANIFEST, *lists):
        is_list = path in lists
        try:
            if path.is_file():
                rows = (_read_failures if is_list else _read_settings)(_read_text(path))
                if len(rows) > 1:
                    title = f"What failed in {name}" if is_list else f"How {name} was made"
                    tables.append(Table(title, rows[0], rows[1:]))
        except (ValueError, OSError, RecursionError, csv.Error) as error:
            notes.append(f"{path}: {describe(error)}")
    return tables, notes


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"a file must have at most {_MOST_BYTES} bytes, got more")
    return data.decode("utf-8")


def _read_settings(text: str) -> list[list[str]]:
    settings = json.loads(text)
    if not isinstance(settings, dict):
        raise ValueError(f"settings must be an object of JSON, got {type(settings).__name__}")  # noqa: TRY004
    pairs = list(itertools.islice(_flat(settings, ""), _MOST_ROWS + 1))
    rows = [["setting", "value"], *([_cut(key), _cut(value)] for key, value in pairs[:_MOST_ROWS])]
    return rows if len(pairs) <= _MOST_ROWS else [*rows, ["…", "…"]]


def _flat(settings: dict[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{before}{key}", shown


def _read_failures(text: str) -> list[list[str]]:
    rows = list(itertools.islice(csv.reader(text.splitlines()), _MOST_ROWS + 2))
    result = [[_cut(cell) for cell in row] for row in rows[: _MOST_ROWS + 1]]
    return result if len(rows) < _MOST_ROWS + 2 else [*result, ["…"]]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"


def read_curve(path: Path) -> Curve:
    """Read a file of `cuekit sweep --json`."""
    try:
        found = json.loads(_read_text(path), parse_int=float)  # an int has no largest value
        if not isinstance(found, dict):
            raise ValueError("a sweep must be an object of JSON")  # noqa: TRY301, TRY004
        parameter = found.get("parameter", "threshold")
        check_choice(parameter, "parameter", ("threshold", "alpha"))
        if "mean_iou" not in found:
            raise ValueError("a sweep must have mean_iou, which needs the truth")  # noqa: TRY301
        values = _numbers(found["values"], "values")
        means = _numbers(found["mean_iou"], "mean_iou", unknown=True)
        if len(values) != len(means):
            raise ValueError(  # noqa: TRY301
                f"values and mean_iou must have equal lengths, got {len(values)} and {len(means)}"
            )
        marks = [
            (name, _numbers([found[key]], key)[0])
            for key, name in (("best", "best"), ("estimate", "estimated without truth"))
            if found.get(key) is not None
        ]
        if parameter == "alpha" and min(values, default=1) <= 0:
            raise ValueError(f"alphas must be above 0, got {min(values)}")  # noqa: TRY301
        known = [mean for mean in means if not math.isnan(mean)]
        if not known or min(known) < 0 or max(known) > 1:
            raise ValueError(f"mean_iou must be in 0..1, got {means!r:.100}")  # noqa: TRY301
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} must be a file of cuekit sweep --json: {error}") from None
    return Curve(parameter, values, means, marks)


def _numbers(found: Any, name: str, *, unknown: bool = False) -> list[float]:
    """Return a list of finite numbers, with NaN for None where numbers may be unknown."""
    if not isinstance(found, list) or len(found) > _MOST_VALUES:
        raise ValueError(f"{name} must be a list of at most {_MOST_VALUES} numbers")
    numbers = [math.nan if each is None and unknown else each for each in found]
    for number in numbers:
        is_unknown = unknown and number != number
        if not isinstance(number, float) or not (is_unknown or math.isfinite(number)):
            raise ValueError(f"{name} must be numbers, got {number!r:.100}")
    return numbers
