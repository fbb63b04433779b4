"""Work on many photos, in this process or in several worker processes.

A *task* is a class: it is made once in every worker with the settings of the run, and is then
called with one item after the other. Settings, items and results are JSON, so that nothing large
and nothing that runs code passes between processes; a result holds counts and states, never pixels.

A worker is a new Python that runs `main`. It reads items from its standard input and writes
results to its standard output, one JSON value in each line. It does not import the caller's main
module, as workers of `multiprocessing` do. A worker that crashes loses the photo in work only:
that photo fails, and a new worker takes its place. If the caller is killed, the input ends, and so
do the workers, after the photo in work. They are not in the caller's process group: Ctrl-C reaches
the caller alone, who then ends them.

A time limit is kept by the caller, who kills a worker that is late. A worker whose caller is gone
ends itself after twice that time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, Any, TypeAlias

Item: TypeAlias = dict[str, Any]
Result: TypeAlias = dict[str, Any]

_PATIENCE = 0.4  # seconds that a worker in work gets to end by itself
_PATIENCE_IDLE = 10.0  # seconds that one without work gets


class RunStoppedError(OSError):
    """The run cannot go on, because all other photos would fail in the same way."""


def run_all(
    task: str | Callable[[dict[str, Any]], Callable[[Item], Result]],
    settings: dict[str, Any],
    items: Iterable[Item],
    jobs: int = 1,
    timeout: float | None = None,
    apart: bool = False,
) -> Generator[tuple[Item, Result], None, None]:
    """Call a task with every item, and yield each item with its result, in the order of completion.

    Close the iterator (`contextlib.closing`) to end the workers at once.

    Parameters
    ----------
    task : str or callable
        ``"module:Class"``. The class takes `settings`, and its objects take an item; they may have
        a method `close`. For one job, it may be the class itself.
    settings : dict
        JSON.
    items : iterable of dict
        JSON. They are taken one by one, when a worker is free.
    jobs : int, default 1
        Number of worker processes. 1: the work is done in this process, unless there is a
        `timeout`, or `apart` is set.
    timeout : float, optional
        Seconds that an item may take. Then its process is killed.
    apart : bool, default False
        Use a worker process for one job, too: code that may crash does not end this one.

    Yields
    ------
    item, result
        What the task returned; ``{"failed": reason}`` if it raised an exception, and also
        ``"process": True`` if its process ended.

    Raises
    ------
    RunStoppedError
        If the task raised it, or could not be made.
    """
    if not isinstance(task, str) or (jobs == 1 and timeout is None and not apart):
        work = (load(task) if isinstance(task, str) else task)(settings)
        try:
            for item in items:
                yield item, attempt(work, item)
        finally:
            getattr(work, "close", lambda: None)()
        return
    with contextlib.closing(Pool(task, settings, timeout)) as pool:
        yield from pool.run(items, jobs)


def load(name: str) -> Any:
    """Import what ``"module:name"`` means."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` does; ``{"failed": reason}`` if it raises an error."""
    try:
        return work(*arguments)
    except RunStoppedError:
        raise
    except Exception as error:  # whatever a recipe or a damaged file raises is this photo's failure
        return {"failed": describe(error)}
    except SystemExit as error:
        return {"failed": f"the recipe called sys.exit({error.code!r})"}


def describe(error: BaseException) -> str:
    """Return an error as one line of text."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and text:
        return text
    where = ""
    if error.__traceback__ is not None:  # these are faults of a program, most often of a recipe
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f" ({os.path.basename(last.filename)}, line {last.lineno})"  # noqa: PTH119
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


class _Worker:
    """A worker process, and the item that it works on."""

    def __init__(
        self,
        start: dict[str, Any],
        answers: queue.SimpleQueue[Any],
        folder: str | None,
        path: list[str],
    ) -> None:
        self.item: Item | None = None
        self.ready = False
        self.is_late = False
        self.since: float | None = None  # when it began with the item; None: it has answered
        # The standard library comes first until `main` sets the path: a file in the current folder
        # that has the name of one of its modules must not be taken for it. (Python 3.11 has -P.)
        program = f"import sys; sys.path = [each for each in sys.path if each] + {path!r}; "
        program += "from cuekit.run._workers import main; main()"
        self.process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )
        self._answers = answers
        self._send({**start, "path": path})
        # Its thread waits for answers, because pipes cannot be waited for together on Windows.
        threading.Thread(target=self._receive, daemon=True).start()

    def give(self, item: Item) -> None:
        self.item = item
        self.since = time.monotonic()
        self._send(item)

    def _send(self, value: dict[str, Any]) -> None:
        stream = self._stream(self.process.stdin)
        with contextlib.suppress(OSError):  # it has ended, which _receive will say
            stream.write(json.dumps(value).encode() + b"\n")
            stream.flush()

    def _receive(self) -> None:
        # ValueError: a line that was cut, because the process was ended.
        with self._stream(self.process.stdout) as lines, contextlib.suppress(ValueError):
            for line in lines:
                answer = json.loads(line)
                # An item that was given at once is begun when the worker is ready.
                self.since = time.monotonic() if "ready" in answer else None
                self._answers.put((self, answer))
        self._answers.put((self, None))

    @staticmethod
    def _stream(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise ValueError("a worker must have pipes")
        return stream

    def how_it_ended(self) -> str:
        status = self.process.wait()
        if status >= 0:
            return f"ended with exit status {status}"
        names = {each.value: each.name for each in signal.Signals}
        return f"was ended by {names.get(-status, f'signal {-status}')}"

    def close(self) -> None:
        """Let the process end: its input has no more items."""
        with contextlib.suppress(OSError):
            self._stream(self.process.stdin).close()


class Pool:
    """Worker processes, kept from one call of `run` to the next.

    Parameters
    ----------
    task : str
        ``"module:Class"``.
    settings : dict
        JSON.
    timeout : float or None
        Seconds that an item may take.
    folder : str, optional
        The current folder of the processes. Default: that of this process.
    path : list of str, optional
        Where they find modules. Default: where this process does.
    """

    def __init__(
        self,
        task: str,
        settings: dict[str, Any],
        timeout: float | None = None,
        folder: str | None = None,
        path: list[str] | None = None,
    ) -> None:
        self._start = {"task": task, "settings": settings, "timeout": timeout}
        self._timeout = timeout
        self._folder = folder
        # Paths that are relative to this process's current folder become absolute.
        self._path = [os.path.abspath(each) for each in sys.path] if path is None else path  # noqa: PTH100
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()

    def run(self, items: Iterable[Item], jobs: int) -> Iterator[tuple[Item, Result]]:
        """Have `jobs` processes do the items; see `run_all`."""
        source = iter(items)
        kept = [worker for worker in self._workers if not worker.is_late]
        for worker in kept:
            self._give(worker, source)
        for _ in range(jobs - len(kept)):
            self._start_worker(source)
        while any(worker.item is not None for worker in self._workers):
            worker, answer = self._next_answer()
            if answer is None:
                self._workers.discard(worker)
                worker.close()
                how = worker.how_it_ended()
                if not worker.ready:
                    raise RunStoppedError(f"a worker process {how} at its start")
                if worker.item is None:  # it had no work, or another took its place
                    continue
                if worker.is_late:
                    how = f"was ended after {self._timeout:g} s, the time limit"
                self._start_worker(source)
                yield worker.item, {"failed": f"the worker process {how}", "process": True}
            elif "stop" in answer:
                raise RunStoppedError(answer["stop"])
            elif not worker.ready:  # the first answer says that it is
                worker.ready = True
            else:
                done, worker.item = worker.item, None
                if worker.is_late:  # it answered while it was killed
                    self._start_worker(source)
                else:
                    self._give(worker, source)
                if done is not None:
                    yield done, answer

    def _give(self, worker: _Worker, source: Iterator[Item]) -> None:
        for item in itertools.islice(source, 1):
            worker.give(item)

    def _start_worker(self, source: Iterator[Item]) -> None:
        for item in itertools.islice(source, 1):
            worker = _Worker(self._start, self._answers, self._folder, self._path)
            self._workers.add(worker)
            worker.give(item)

    def _next_answer(self) -> tuple[_Worker, Result | None]:
        while True:
            self._end_late_workers()
            # With a timeout, because on Windows Ctrl-C does not end a wait without one.
            with contextlib.suppress(queue.Empty):
                worker, answer = self._answers.get(timeout=min(self._timeout or 1, 1))
                return worker, answer

    def _end_late_workers(self) -> None:
        if self._timeout is None:
            return
        limit = time.monotonic() - self._timeout
        for worker in self._workers:
            since = worker.since
            if worker.ready and since is not None and since < limit and not worker.is_late:
                worker.is_late = True
                worker.process.kill()

    def close(self) -> None:
        """End all workers: those that have work now, the others by themselves."""
        for worker in self._workers:
            if worker.item is None:
                worker.close()
            else:
                worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_PATIENCE_IDLE if worker.item is None else _PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self._workers.clear()


def main() -> None:
    """Work as a worker process, until there are no more items."""
    # What a recipe prints goes to standard error: answers alone are written to standard output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:  # noqa: PTH123 - os.devnull is a name, not a path
        os.dup2(nothing.fileno(), 0)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    start = json.loads(requests.readline() or "null")
    if start is None:
        return
    sys.path[:] = start["path"]
    try:
        try:
            work = load(start["task"])(start["settings"])
            answer({"ready": True})
            for line in requests:
                if start["timeout"] is not None:
                    faulthandler.dump_traceback_later(2 * start["timeout"] + 1, exit=True)
                found = attempt(work, json.loads(line))
                faulthandler.cancel_dump_traceback_later()
                answer(found)
        except RunStoppedError as error:
            answer({"stop": str(error)})
        except Exception as error:  # the task could not be made
            answer({"stop": describe(error)})
    except BrokenPipeError:  # the caller has ended; nobody reads what is left in the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
