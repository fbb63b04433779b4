"""What `evaluate`, `sweep` and `calibrate` share: files, results, failures, class ids."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.metrics import IGNORE, SUSPICIOUS_SHARE
from cuekit.run._progress import Progress
from cuekit.run._sources import Files
from cuekit.run._workers import Item, Result, run_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN_FAILURES = 10


def with_files(
    names: Iterable[str], folders: Mapping[str, Files], failures: dict[str, str]
) -> list[Item]:
    """Return an item for each photo that has its file in every folder; the others fail.

    Parameters
    ----------
    names : iterable of str
        The photos.
    folders : dict
        Key of the item -> files.
    failures : dict
        Photo -> reason; those without a file are added.
    """
    items = []
    for name in names:
        try:
            paths = {key: files.path(name) for key, files in folders.items()}
        except (ValueError, OSError) as error:
            failures[name] = str(error)
        else:
            items.append({"name": name, **{key: os.fspath(path) for key, path in paths.items()}})
    return items


def with_tags(
    items: Sequence[Item], tags: Mapping[str, Sequence[int]], failures: dict[str, str]
) -> list[Item]:
    """Return the items with tags; the others fail."""
    for item in items:
        if item["name"] not in tags:
            failures[item["name"]] = f"tags must list every photo, got none for {item['name']}"
    return [item | {"tags": list(tags[item["name"]])} for item in items if item["name"] in tags]


def results(
    task: str,
    settings: dict[str, Any],
    items: list[Item],
    failures: dict[str, str],
    jobs: int,
    progress: bool,
) -> Generator[tuple[str, Result]]:
    """Yield name and result of each photo that does not fail; the reasons go to `failures`."""
    shown = Progress(len(items), progress)
    with (
        contextlib.closing(shown),
        contextlib.closing(run_all(task, settings, items, jobs)) as all_,
    ):
        for item, result in all_:
            failed = "failed" in result
            shown.add(failed)
            if failed:
                failures[item["name"]] = result["failed"]
            else:
                yield item["name"], result


def refuse_nothing(counted: int, failures: Mapping[str, str]) -> None:
    """Refuse figures of no photo."""
    if not counted:
        first = next(iter(failures.values()), "no photo was asked for")
        raise ValueError(
            f"at least one photo must be readable, got none of {len(failures)}; the first: {first}"
        )


def write_failures(failures: Mapping[str, str]) -> None:
    """Write the first failures to standard error."""
    lines = [f"failed: {name}: {reason}" for name, reason in failures.items()]
    if len(lines) > SHOWN_FAILURES:
        lines[SHOWN_FAILURES:] = [f"failed: {len(lines) - SHOWN_FAILURES} more"]
    sys.stderr.writelines(line + "\n" for line in lines)


def check_output(path: PathLike | None, suffix: str, option: str) -> None:
    """Refuse to write over a file of another kind, such as a photo or a list."""
    if path is not None and check_path(path, option).suffix.lower() != suffix:
        raise ValueError(f"{option} must be the name of a {suffix} file, got {os.fspath(path)}")


def write_json(path: PathLike, value: Any) -> None:
    """Write a JSON file."""
    with replace_file(check_path(path)) as file:
        file.write(json.dumps(value, allow_nan=False).encode() + b"\n")


def class_ids_of(
    classes: Iterable[int | str] | None, class_names: tuple[str, ...]
) -> tuple[int, ...]:
    """Return the ids of classes that are given by name or id; None means all."""
    if classes is None:
        return tuple(range(len(class_names)))
    if isinstance(classes, str):
        raise TypeError(f"mean_over must be a sequence of names or ids, got {classes!r}")
    ids = {str(i): i for i in range(len(class_names))}
    ids |= {name: i for i, name in enumerate(class_names)}
    chosen = set()
    for each in classes:
        if str(each) not in ids:
            raise ValueError(
                f"mean_over must hold names of classes or ids 0 to {len(class_names) - 1}, got "
                f"{each!r}; the names are {', '.join(class_names)}"
            )
        chosen.add(ids[str(each)])
    if not chosen:
        raise ValueError("mean_over must hold at least one class, got none")
    return tuple(sorted(chosen))


def check_class_ids(
    values: NDArray[Any], name: str, class_names: Sequence[str], *, ignore: int | None = IGNORE
) -> None:
    """Refuse values that are neither a class nor `ignore`."""
    wrong = values[(values >= len(class_names)) & (values != ignore)]
    if not wrong.size:
        return
    largest = int(wrong.max())
    hint = "give the classes of these files with --classes (classes=)"
    if len(class_names) <= largest <= 80:
        hint = "pass the classes of the truth, such as --classes coco (classes='coco')"
    elif len(class_names) == 81 and largest <= 90:
        hint = "COCO's official ids have gaps: see cuekit.classes.coco_to_contiguous"
    raise ValueError(
        f"{name} must hold 0 to {len(class_names) - 1}, the ids of the classes"
        f"{'' if ignore is None else f', or {ignore}'}, got {largest}: {hint}"
    )


def truth_notes(true_pixels: NDArray[Any], left_out: int) -> tuple[str, ...]:
    """Say so if the truth seems to be masks of 0 and 255, where 255 is the object."""
    known = int(true_pixels.sum())
    if true_pixels[0] != known or left_out < SUSPICIOUS_SHARE * (known + left_out):
        return ()
    return (
        f"the truth holds nothing but class 0 and {IGNORE}, which is left out: if {IGNORE} marks "
        "the object, the figures mean nothing; write masks of 0 and 1",
    )
