"""Where the photos of a run are worked on: here, or on a cluster of Ray."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cuekit._checks import check_choice, check_integer, check_number
from cuekit.run._label_task import LabelTask
from cuekit.run._recipe import (
    Recipe,
    check_importable,
    recipe_name,
    source_hash,
    takes_batches,
)
from cuekit.run._workers import Item, Result, run_all

_TASK = "cuekit.run._label_task:LabelTask"
_MOST_JOBS = 1024  # on one machine
_MOST_BATCH = 1024
_BATCHES_AT_ONCE = 4  # photos of one size are looked for among the photos of so many batches


@dataclass(frozen=True)
class Engine:
    """The arguments of a run that do not change the labels; see `cuekit.run.labels`."""

    name: str
    jobs: int | None
    address: str | None
    timeout: float | None
    gpus_per_worker: float = 0
    batch: int | None = None
    is_apart: bool = False  # whether one job has a process of its own: a recipe may crash

    def __post_init__(self) -> None:
        check_choice(self.name, "engine", ("local", "ray"))
        if self.jobs is not None:
            check_integer(self.jobs, "jobs", minimum=1)
            if self.name == "local" and self.jobs > _MOST_JOBS:
                raise ValueError(f"jobs must be at most {_MOST_JOBS}, got {self.jobs}")
        if self.address is not None and self.name == "local":
            raise ValueError(
                f"address must be left out for engine 'local', got {self.address!r}: "
                "it is that of a cluster of Ray"
            )
        if self.timeout is not None:
            check_number(self.timeout, "timeout", minimum=0.1)
        if self.batch is not None:
            check_integer(self.batch, "batch", minimum=1)
            if self.batch > _MOST_BATCH:
                raise ValueError(f"batch must be at most {_MOST_BATCH}, got {self.batch}")
        if check_number(self.gpus_per_worker, "gpus_per_worker", minimum=0) > 0:
            if self.name == "local":
                raise ValueError(
                    f"gpus_per_worker must be left out for engine 'local', got "
                    f"{self.gpus_per_worker}: its processes see all GPUs"
                )
            if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:  # a rule of Ray
                raise ValueError(
                    f"gpus_per_worker must be below 1 or whole, got {self.gpus_per_worker}"
                )

    @property
    def is_in_process(self) -> bool:
        """Whether this process does the work."""
        needs_no_process = self.timeout is None and not self.is_apart and self.jobs in (None, 1)
        return self.name == "local" and needs_no_process

    def check(self, recipe: str | Recipe, function: Recipe) -> None:
        """Refuse a recipe that worker processes could not import, or that takes no batches."""
        if callable(recipe) and not self.is_in_process:
            check_importable(recipe)
        if self.batch is not None and not takes_batches(function):
            raise ValueError(
                f"batch must be left out for a recipe of one photo, such as {recipe_name(recipe)}: "
                "the first parameter of one that takes batches is named photos"
            )

    def run(
        self, function: Recipe, settings: dict[str, Any], items: Iterable[Item]
    ) -> Generator[tuple[Item, Result], None, None]:
        """Make and write the labels of photos; see `run_all`."""
        if takes_batches(function):
            return self._run_groups(function, settings, items)
        return self._run(function, settings, items, self.timeout)

    def _run_groups(
        self, function: Recipe, settings: dict[str, Any], items: Iterable[Item]
    ) -> Generator[tuple[Item, Result], None, None]:
        """Have workers do several photos at once; see `LabelTask`."""
        batch = self.batch or 1
        size = batch * _BATCHES_AT_ONCE if batch > 1 else 1
        timeout = None if self.timeout is None else self.timeout * _BATCHES_AT_ONCE
        settings = {**settings, "batch": batch}
        alone = []
        with contextlib.closing(
            self._run(function, settings, _grouped(items, size), timeout)
        ) as results:
            for group, result in results:
                if "failed" not in result:
                    yield from zip(group["items"], result["results"], strict=True)
                elif size == 1:
                    yield group["items"][0], result
                else:  # its process was ended, for one of the photos perhaps
                    alone += group["items"]
        if alone:
            again = self._run(function, settings, _grouped(alone, 1), self.timeout)
            with contextlib.closing(again) as results:
                for group, result in results:
                    found = [result] if "failed" in result else result["results"]
                    yield group["items"][0], found[0]

    def _run(
        self,
        function: Recipe,
        settings: dict[str, Any],
        items: Iterable[Item],
        timeout: float | None,
    ) -> Generator[tuple[Item, Result], None, None]:
        if self.name == "ray":
            from cuekit.run._ray import run_all_on_ray

            return run_all_on_ray(
                _TASK,
                {**settings, "recipe_source": source_hash(function)},
                items,
                address=self.address,
                jobs=self.jobs,
                timeout=timeout,
                gpus_per_worker=self.gpus_per_worker,
            )
        task = partial(LabelTask, function=function) if self.is_in_process else _TASK
        return run_all(task, settings, items, self.jobs or 1, timeout, apart=self.is_apart)


def _grouped(items: Iterable[Item], size: int) -> Iterator[Item]:
    source = iter(items)
    while group := list(itertools.islice(source, size)):
        yield {"items": group}
