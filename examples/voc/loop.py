"""Training loop for classifiers and segmentation networks, which can be interrupted and resumed.

Run again, the same command continues from its checkpoint, with the photos and random numbers that
it would have had without the interruption. Under ``torchrun`` the processes share every batch.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from data import Draws, Photos
from models import NETWORKS, Network, build
from torch import distributed
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from data import VocFolder

    Losses = Callable[[torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

SAVE_SECONDS = 60  # between checkpoints


@dataclass(frozen=True)
class Schedule:
    """Settings of the training: AdamW with polynomial decay of the learning rate, power 0.9.

    Attributes
    ----------
    iterations, batch : int
        Number of batches, and of photos per batch over all processes.
    learning_rate : float
        Initial learning rate.
    clip : float
        Largest norm of the gradient. Without batch norm, which is folded into the convolutions,
        nothing else limits the size of a step.
    seed, workers : int
        Seed, and number of processes that read photos.
    bfloat16 : bool
        Whether the network computes in bfloat16. Parameters, maps and losses stay float32.
    """

    iterations: int
    batch: int
    learning_rate: float
    clip: float
    seed: int
    workers: int
    bfloat16: bool = False


class InterruptedTrainingError(Exception):
    """A signal stopped the training, after the checkpoint was written."""


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and the number of processes, as set by ``torchrun``."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Join the process group of ``torchrun``, if there is one, and yield this process's device."""
    _, world = rank_and_world()
    local = torch.device(device)
    if local.type == "cuda" and world > 1:
        local = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if local.type == "cuda":
        torch.cuda.set_device(local)
    joins = world > 1 and not distributed.is_initialized()
    if joins:
        distributed.init_process_group("nccl" if local.type == "cuda" else "gloo")
    try:
        yield local
    finally:
        if joins:
            distributed.destroy_process_group()


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: an older one is replaced by a complete file only."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; code in the file is never run."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run its stage first")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from error
    return content


def threads() -> int:
    """Return the number of threads that this process may use."""
    return max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def fit(
    network: Network,
    photos: Photos,
    losses: Losses,
    folder: Path,
    *,
    settings: dict[str, Any],
    schedule: Schedule,
    device: torch.device,
) -> None:
    """Train a network, starting from its last checkpoint if there is one.

    Parameters
    ----------
    network : Network
        The network. Its head has ten times the learning rate of the other layers.
    photos : Photos
        Training data.
    losses : callable
        (maps, batch) -> the terms of the loss, by name; their sum is minimised.
    folder : Path
        Folder for ``checkpoint.pt`` and ``log.csv``.
    settings : dict
        Everything that the result depends on. A checkpoint with other settings is refused.
    schedule : Schedule
        Length and parameters of the training.
    device : torch.device
        Device to train on.

    Raises
    ------
    ValueError
        If the checkpoint in the folder was made with other settings or photos, or the batch size is
        not a multiple of the number of processes.
    RuntimeError
        If the gradient is not finite.
    InterruptedTrainingError
        After SIGINT or SIGTERM, when the checkpoint is written.
    """
    rank, world = rank_and_world()
    iterations, seed, rate = schedule.iterations, schedule.seed, schedule.learning_rate
    if schedule.batch % world:
        raise ValueError(f"batch must be a multiple of {world} processes, got {schedule.batch}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    network.move_to(device)
    network.train()
    head = list(network.head.parameters())
    rest = [p for p in network.parameters() if all(p is not h for h in head)]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "factor": 1.0}, {"params": head, "factor": 10.0}], lr=rate
    )
    settings = {**settings, "photos": len(photos)}
    first = 0
    if path.exists():
        checkpoint = load(path)
        refuse_other_settings(path, checkpoint["settings"], settings)
        first = checkpoint["iteration"]
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    if first == iterations:
        return

    def write() -> None:
        if rank == 0:
            states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            steps = {"iteration": iteration + 1, "finished": iteration + 1 == iterations}
            save(path, {"settings": settings, **steps, **states})

    parallel = DistributedDataParallel(network) if world > 1 else network
    draws = Draws(len(photos), schedule.batch, first, iterations, seed=seed, rank=rank, world=world)
    loader = DataLoader(
        photos,
        batch_sampler=draws,
        num_workers=schedule.workers,
        worker_init_fn=leave_signals_alone,
    )
    log = Log(folder / "log.csv", first) if rank == 0 else None
    saved = time.monotonic()
    bar = tqdm(
        loader, desc=folder.name, initial=first, total=iterations, disable=True if rank else None
    )
    with Signals() as signals:
        for iteration, items in enumerate(bar, first):
            # The random numbers of dropout depend on the iteration, not on where the run started.
            torch.manual_seed(
                int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1)[0])
            )
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"] * (1 - iteration / iterations) ** 0.9
            on_device = {name: value.to(device) for name, value in items.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
                maps = parallel(network.see(on_device["photos"]))
            terms = losses(maps.float(), on_device)
            total = torch.stack([term.float() for term in terms.values()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(total)
            norm = torch.nn.utils.clip_grad_norm_(
                network.parameters(), schedule.clip, error_if_nonfinite=True
            )
            optimizer.step()
            if log is not None:
                row = {name: term.item() for name, term in terms.items()}
                log.add(iteration, {**row, "total": total.item(), "gradient_norm": norm.item()})
                bar.set_postfix(loss=f"{total.item():.3f}")
            stop = signals.came(device)
            due = time.monotonic() - saved > SAVE_SECONDS
            if stop or due or iteration + 1 == iterations:
                write()
                saved = time.monotonic()
            if stop:
                raise InterruptedTrainingError(
                    f"interrupted after {iteration + 1} of {iterations} iterations; "
                    "the same command goes on from here"
                )
    wait_for_all()  # one process writes the checkpoint, and all read it afterwards


def tag_losses(maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Compute the multi-label loss of the scores, which are the means of the maps."""
    return {"tags": binary_cross_entropy_with_logits(maps.mean((2, 3)), batch["tags"].float())}


def leave_signals_alone(_: int) -> None:
    """Ignore signals in a worker process: the main process handles them and ends its workers.

    Terminals and schedulers send signals to all processes of a group.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def refuse_other_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError if a file was made with other settings."""
    before, now = flat(before), flat(now)
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        changes = ", ".join(f"{k} {before.get(k)!r} → {now.get(k)!r}" for k in differing)
        raise ValueError(
            f"{path} was made with other settings ({changes}): choose another --out, or delete "
            f"{path.parent}"
        )


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to names with dots."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return result


def trained(
    folder: VocFolder, path: Path, train: Sequence[str], stride: int | None = None
) -> tuple[Network, dict[str, Any]]:
    """Load a network and the settings of its training; `stride` replaces that of the training.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no network, if its training is not finished, or if it was trained for other
        classes or on other splits than `train`, which would have other held-out photos.
    """
    checkpoint = load(path)
    settings = checkpoint["settings"]
    if not checkpoint["finished"]:
        raise ValueError(f"{path} is of an interrupted training: run its stage again")
    refuse_other_settings(
        path,
        {key: settings[key] for key in ("classes", "train")},
        {"classes": list(folder.names), "train": list(train)},
    )
    # A segmentation network has one output more than a classifier: the background.
    outputs = len(checkpoint["network"][f"{NETWORKS[settings['network']].head_name}.weight"])
    network = build(settings["network"], outputs, stride or settings["stride"])
    network.load_state_dict(checkpoint["network"])
    return network, settings


def keep_settings(folder: Path, **settings: Any) -> None:
    """Store the settings of a folder's files; raise if the folder has other settings already."""
    path = folder / "settings.json"
    if path.exists():
        refuse_other_settings(path, read_settings(folder), settings)
    elif rank_and_world()[0] == 0:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        part.replace(path)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read settings that `keep_settings` wrote."""
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run its stage first")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(content).__name__}")  # noqa: TRY004
    return content


class Log:
    """Appends rows to a CSV file; rows after the checkpoint that a run resumes from are removed."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.start = path, time.monotonic()
        self.seconds = 0.0
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if int(row["iteration"]) < first]
        self.path = path.with_suffix(".part")
        self.path.unlink(missing_ok=True)
        for row in kept:
            self._append(row)
            self.seconds = float(row["seconds"])
        if kept:
            self.path.replace(path)
        else:
            path.unlink()
        self.path = path

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Write a row; ``seconds`` is the total over all runs of an interrupted training."""
        seconds = self.seconds + time.monotonic() - self.start
        row = {"iteration": str(iteration), "seconds": f"{seconds:.1f}"}
        self._append({**row, **{name: f"{value:.6g}" for name, value in values.items()}})

    def _append(self, row: dict[str, str]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


class Signals:
    """Records SIGINT and SIGTERM, so that the loop can stop between two iterations."""

    def __enter__(self) -> Signals:
        self.caught = False
        self.before = {s: signal.signal(s, self._catch) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, *_: object) -> None:
        self.caught = True

    def came(self, device: torch.device) -> bool:
        """Return whether any process got a signal: all must stop after the same iteration."""
        if rank_and_world()[1] == 1:
            return self.caught
        flag = torch.tensor(float(self.caught), device=device)
        distributed.all_reduce(flag)
        return bool(flag > 0)


def wait_for_all() -> None:
    """Wait until all processes have called this."""
    if distributed.is_initialized():
        distributed.barrier()
