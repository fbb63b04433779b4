"""Where the photos of a run are worked on: here, or on a cluster of Ray."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cuekit._checks import check_choice, check_integer, check_number
from cuekit.run._label_task import LabelTask
from cuekit.run._recipe import Recipe, check_importable, source_hash
from cuekit.run._workers import Item, Result, run_all

_TASK = "cuekit.run._label_task:LabelTask"
_MOST_JOBS = 1024  # on one machine


@dataclass(frozen=True)
class Engine:
    """The arguments of a run that do not change the labels; see `cuekit.run.labels`."""

    name: str
    jobs: int | None
    address: str | None
    timeout: float | None
    gpus_per_worker: float = 0

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
        return self.name == "local" and self.timeout is None and self.jobs in (None, 1)

    def check(self, recipe: str | Recipe) -> None:
        """Refuse a recipe that worker processes could not import."""
        if callable(recipe) and not self.is_in_process:
            check_importable(recipe)

    def run(
        self, function: Recipe, settings: dict[str, Any], items: Iterable[Item]
    ) -> Generator[tuple[Item, Result], None, None]:
        """Make and write the labels of photos; see `run_all`."""
        if self.name == "ray":
            from cuekit.run._ray import run_all_on_ray

            return run_all_on_ray(
                _TASK,
                {**settings, "recipe_source": source_hash(function)},
                items,
                address=self.address,
                jobs=self.jobs,
                timeout=self.timeout,
                gpus_per_worker=self.gpus_per_worker,
            )
        task = partial(LabelTask, function=function) if self.is_in_process else _TASK
        return run_all(task, settings, items, self.jobs or 1, self.timeout)
