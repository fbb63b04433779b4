"""Work on many photos on a Ray cluster: `run_all` of `cuekit.run._workers`, beyond one machine.

The driver, which is the process that called `cuekit.run.labels`, makes *chunks* of items and has
Ray run `work_on` with each, on any node. There a worker process of `cuekit.run._workers` does the
items one by one, as on one machine: a recipe that crashes or hangs ends that process only, and the
photo has the same entry in the list of failures. The process is kept from chunk to chunk.

- A chunk takes some seconds: its length follows from the seconds per photo that workers measure.
- Two chunks are under way for each processor or GPU, and items are taken from the caller's iterator
  when there is room. So the driver's memory does not grow with the number of items.
- A chunk is lost if its Ray worker or its node is. Its items are then done again, each one alone,
  so that an item that ends workers takes no others with it. An item that was lost three times has
  failed. So has one whose process was ended three times.
- Ray's own retries are off: they would repeat whole chunks, and would not find the bad item.
- Ray's tasks, not its Data: a Data pipeline is stopped by one bad row, and the journal, which
  stays with the driver, already holds what is needed for going on later.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import queue
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cuekit
from cuekit.io._common import replace_file
from cuekit.run._storage import is_url
from cuekit.run._workers import Item, Pool, Result, RunStoppedError, describe

_CHUNK_SECONDS = 2.0
_MOST_CHUNKS_PER_SECOND = 50  # that end, on the whole cluster: each takes the driver 1 to 2 ms
_MOST_IN_CHUNK = 250
_CHUNKS_PER_WORKER = 2  # one in work, one that waits, so that no worker waits for the driver
_MOST_TRIES = 3
_PATIENCE = 120.0  # seconds to wait for a cluster that has no processor left
_REACH_SECONDS = 10.0
_LOOK_PERIOD = 5.0  # seconds between two looks at the size of the cluster
_OBJECT_STORE = 100 * 2**20  # bytes, of a Ray started here: chunks and results are small


def run_all_on_ray(
    task: str,
    settings: dict[str, Any],
    items: Iterable[Item],
    *,
    address: str | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    gpus_per_worker: float = 0,
) -> Generator[tuple[Item, Result], None, None]:
    """Call a task with every item on a Ray cluster; see `cuekit.run._workers.run_all`.

    Parameters
    ----------
    task : str
        ``"module:Class"``.
    settings : dict
        JSON. A recipe in a file of its own is sent along.
    items : iterable of dict
        JSON. They are taken when there is room for them.
    address : str, optional
        Of a cluster, as in ``ray.init``; ``"auto"``: the one that runs on this machine. Default:
        that one, if there is one, else Ray is started on this machine, and is ended at the end.
    jobs : int, optional
        Number of processors of a Ray that is started here; number of chunks in work at once on a
        cluster that was there. Default: all processors.
    timeout : float, optional
        Seconds that an item may take. Then its process is killed.
    gpus_per_worker : float, default 0
        GPUs of each worker process.

    Yields
    ------
    item, result
        As `run_all` yields them.

    Raises
    ------
    RunStoppedError
        If the task raised it, or could not be made on a node; or if the cluster has no processor.
    ImportError
        If Ray is not installed.
    OSError
        If there is no cluster at `address`.
    """
    ray = _import_ray()
    start = {
        "task": task,
        "settings": settings,
        "timeout": timeout,
        "cuekit": cuekit.__version__,
        "folder": os.fspath(Path.cwd()),
        "module": _module_of(settings.get("recipe", "")),
    }
    with _connected(ray, address, jobs) as is_own:
        driver = _Driver(ray, start, None if is_own else jobs, gpus_per_worker)
        try:
            yield from driver.run(items)
        finally:
            driver.cancel()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("engine 'ray' needs the package ray: pip install 'cuekit[ray]'") from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, jobs: int | None) -> Iterator[bool]:
    """Be connected to a cluster; yield whether it was started here, and end it then."""
    if ray.is_initialized():
        if address not in (None, "auto"):
            raise ValueError(
                f"address must be left out when this process is connected to Ray already, "
                f"got {address!r}"
            )
        yield False
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    # Ray sets what SIGTERM does.
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        is_own = _connect(ray, address, jobs)
        if in_main_thread:
            signal.signal(signal.SIGTERM, on_sigterm)
        yield is_own
    finally:
        ray.shutdown()
        if in_main_thread:
            signal.signal(signal.SIGTERM, on_sigterm)


def _connect(ray: Any, address: str | None, jobs: int | None) -> bool:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _check_reachable(address)
    try:
        ray.init(address or "auto", **quiet)
    except ConnectionError as error:
        if address is not None:
            raise OSError(
                f"address must be that of a Ray cluster that is running, got {address!r}: "
                f"{describe(error)} (a cluster with a token needs RAY_AUTH_MODE=token here, too)"
            ) from None
    else:
        return False
    ray.init(
        "local",
        num_cpus=jobs or os.cpu_count(),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE,
        **quiet,
    )
    return True


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers: Ray would wait for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "auto", "local"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"address must be that of a Ray cluster that is running, got {address!r}: "
            f"{describe(error)}"
        ) from None


def _module_of(recipe: str) -> dict[str, str] | None:
    """Return the module of a recipe ``"module:function"`` if it is one file, to be sent along."""
    name, colon, _ = recipe.partition(":")
    if not colon or "." in name:
        return None
    loaded = sys.modules.get(name)
    found = getattr(loaded, "__file__", None)
    if found is None or Path(found).name != f"{name}.py":
        return None
    return {"name": name, "text": Path(found).read_text(encoding="utf-8")}


@dataclass
class _Chunk:
    items: list[Item]
    tries: int = 0  # that have been lost; only of one item alone


class _Driver:
    """Keeps chunks under way on a cluster."""

    def __init__(self, ray: Any, start: dict[str, Any], most: int | None, gpus: float = 0) -> None:
        self._ray = ray
        # max_calls=0: with GPUs, Ray would start a new Ray worker for each chunk.
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "max_calls": 0}
        self._work_on = ray.remote(**options)(work_on)
        self._gpus = gpus
        self._start = json.dumps(start)
        self._most = most  # chunks under way, if the caller set it
        self._flying: dict[Any, _Chunk] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._again: deque[_Chunk] = deque()
        self._seconds: float | None = None  # per item
        self._workers = 0  # that can work at once
        self._looked = self._had_workers = -1e9

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        source = iter(items)
        self._had_workers = time.monotonic()
        while True:
            self._look()
            while len(self._flying) < self._room() and self._send(source):
                pass
            if not self._flying:
                return
            # Not ray.wait: it takes longer the more chunks are under way, and turns the exception
            # that a signal raises into another one.
            with contextlib.suppress(queue.Empty):
                yield from self._take(*self._done.get(timeout=1))

    def _look(self) -> None:
        """See how many workers there can be: nodes come and go."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_PERIOD:
            self._looked = now
            there = self._ray.cluster_resources()
            self._workers = int(there.get("CPU", 0))
            if self._gpus:
                self._workers = min(self._workers, int(there.get("GPU", 0) / self._gpus))
        if self._workers:
            self._had_workers = now
        elif now - self._had_workers > _PATIENCE:
            what = "GPU" if self._gpus else "processor"
            raise RunStoppedError(f"the cluster has had no {what} for {_PATIENCE:.0f} s")

    def _room(self) -> int:
        return self._most or max(self._workers, 1) * _CHUNKS_PER_WORKER

    def _send(self, source: Iterator[Item]) -> bool:
        if self._again:
            chunk = self._again.popleft()
        else:
            chunk = _Chunk(list(itertools.islice(source, self._length())))
        if chunk.items:
            reference = self._work_on.remote(self._start, json.dumps(chunk.items))
            self._flying[reference] = chunk
            reference.future().add_done_callback(partial(self._arrived, reference))
        return bool(chunk.items)

    def _arrived(self, reference: Any, future: Any) -> None:
        """Note a result, in a thread of Ray's."""
        self._done.put((reference, future))

    def _length(self) -> int:
        """Return how many items are the next chunk."""
        if self._seconds is None:
            return 1
        seconds = max(_CHUNK_SECONDS, self._workers / _MOST_CHUNKS_PER_SECOND)
        return min(max(int(seconds / max(self._seconds, 1e-6)), 1), _MOST_IN_CHUNK)

    def _take(self, reference: Any, future: Any) -> Iterator[tuple[Item, Result]]:
        chunk = self._flying.pop(reference)
        errors = self._ray.exceptions
        try:
            answer = json.loads(future.result())
        except errors.RayTaskError as error:  # in work_on, or before it: so for all chunks
            raise RunStoppedError(f"a Ray worker cannot work: {_last_line(error)}") from None
        except errors.RayError as error:
            yield from self._lost(chunk, _how(errors, error))
            return
        if "stop" in answer:
            raise RunStoppedError(f"node {answer['node']}: {answer['stop']}")
        if answer["seconds"] is not None:
            before = answer["seconds"] if self._seconds is None else self._seconds
            self._seconds = 0.8 * before + 0.2 * answer["seconds"]
        for item, result in zip(chunk.items, answer["results"], strict=True):
            tries = chunk.tries + 1
            # The caller does the photos of a group again, one by one.
            is_group = len(item.get("items", ())) > 1
            if result.get("process") and tries < _MOST_TRIES and not is_group:
                self._again.append(_Chunk([item], tries))
            else:
                yield item, result

    def _lost(self, chunk: _Chunk, how: str) -> Iterator[tuple[Item, Result]]:
        if len(chunk.items) > 1:  # one of them may be the reason, the others are not
            self._again.extend(_Chunk([item]) for item in chunk.items)
        elif chunk.tries + 1 < _MOST_TRIES:
            self._again.append(_Chunk(chunk.items, chunk.tries + 1))
        else:
            reason = f"it was tried {_MOST_TRIES} times; the last time, {how}"
            yield chunk.items[0], {"failed": reason, "process": True}

    def cancel(self) -> None:
        """End all that is under way."""
        for reference in self._flying:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference, force=True)


def _how(errors: Any, error: BaseException) -> str:
    if isinstance(error, errors.OutOfMemoryError):
        return "its node was out of memory"
    if isinstance(error, errors.NodeDiedError | errors.ObjectLostError):
        return "its node was lost"
    if isinstance(error, errors.WorkerCrashedError):
        return "its Ray worker was ended, or its node lost"
    return f"Ray said {type(error).__name__}"


def _last_line(error: BaseException) -> str:
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason")


# ---------------------------------------------------------------------- in a Ray worker, on a node


def work_on(start: str, items: str) -> str:
    """Do a chunk of items; all is JSON."""
    try:
        before = _Kept.current
        pool = _Kept.pool(start, os.environ.get("CUDA_VISIBLE_DEVICES"))
        results, ends = [], [time.monotonic()]
        for _, result in pool.run(json.loads(items), 1):
            results.append(result)
            ends.append(time.monotonic())
    except RunStoppedError as error:
        _Kept.close()
        return json.dumps({"stop": str(error), "node": socket.gethostname()})
    # The first item of a process takes as long as its start, too.
    first = 0 if pool is before else 1
    count = len(results) - first
    seconds = (ends[-1] - ends[first]) / count if count > 0 else None
    return json.dumps({"results": results, "seconds": seconds})


class _Kept:
    """What a Ray worker keeps from chunk to chunk: the worker process of the run it works for."""

    key: tuple[str, str | None] = ("", None)
    current: Pool | None = None

    @classmethod
    def pool(cls, start: str, gpus: str | None) -> Pool:
        """Return the process; it has the GPUs that its Ray worker had when it was started."""
        if cls.current is None or cls.key != (start, gpus):
            cls.close()
            cls.current, cls.key = cls._made(json.loads(start)), (start, gpus)
        return cls.current

    @classmethod
    def _made(cls, start: dict[str, Any]) -> Pool:
        if start["cuekit"] != cuekit.__version__:
            raise RunStoppedError(
                f"all nodes must have cuekit {start['cuekit']}, got {cuekit.__version__} here"
            )
        unfinished = start["settings"].get("unfinished")
        folder = start["folder"] if Path(start["folder"]).is_dir() else None
        if (
            unfinished is not None
            and not is_url(unfinished)
            and not Path(folder or "/", unfinished).is_dir()
        ):
            raise RunStoppedError(
                f"all nodes must see the folder of the labels under the same path, "
                f"this one has no {unfinished}"
            )
        path = list(sys.path)
        if start["module"] is not None:
            path.insert(0, os.fspath(_folder_of(**start["module"])))
        return Pool(start["task"], start["settings"], start["timeout"], folder=folder, path=path)

    @classmethod
    def close(cls) -> None:
        if cls.current is not None:
            cls.current.close()
        cls.current = None


def _folder_of(name: str, text: str) -> Path:
    """Return a folder with a module.

    It is the same one for the same text. So there is nothing to remove when a process ends, which a
    process that is killed could not do.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has a folder for each user
    base = Path(tempfile.gettempdir(), f"cuekit-{user}")
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    status = base.lstat()  # not of what a link of somebody else points to
    if os.name == "posix" and (not stat.S_ISDIR(status.st_mode) or status.st_uid != user):
        raise RunStoppedError(f"{base} must be a folder of this user, for recipes that are sent")
    folder = base / hashlib.sha256(text.encode()).hexdigest()
    folder.mkdir(mode=0o700, exist_ok=True)
    with replace_file(folder / f"{name}.py") as file:
        file.write(text.encode())
    return folder
