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
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, Any, TypeAlias

Item: TypeAlias = dict[str, Any]
Result: TypeAlias = dict[str, Any]

_PATIENCE = 0.4  # seconds that a worker gets to end by itself


class RunStoppedError(OSError):
    """The run cannot go on, because all other photos would fail in the same way."""


def run_all(
    task: str | Callable[[dict[str, Any]], Callable[[Item], Result]],
    settings: dict[str, Any],
    items: Iterable[Item],
    jobs: int = 1,
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
        Number of worker processes. 1: the work is done in this process.

    Yields
    ------
    item, result
        What the task returned; ``{"failed": reason}`` if it raised an exception, or if its process
        ended.

    Raises
    ------
    RunStoppedError
        If the task raised it, or could not be made.
    """
    if jobs == 1 or not isinstance(task, str):
        work = (load(task) if isinstance(task, str) else task)(settings)
        try:
            for item in items:
                yield item, _attempt(work, item)
        finally:
            getattr(work, "close", lambda: None)()
        return
    pool = _Pool(task, settings)
    try:
        yield from pool.run(items, jobs)
    finally:
        pool.close()


def load(name: str) -> Any:
    """Import what ``"module:name"`` means."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _attempt(work: Callable[[Item], Result], item: Item) -> Result:
    try:
        return work(item)
    except RunStoppedError:
        raise
    except Exception as error:  # whatever a recipe or a damaged file raises is this photo's failure
        return {"failed": describe(error)}


def describe(error: BaseException) -> str:
    """Return an error as one line of text."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Worker:
    """A worker process, and the item that it works on."""

    def __init__(self, start: dict[str, Any], answers: queue.SimpleQueue[Any]) -> None:
        self.item: Item | None = None
        self.ready = False
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from cuekit.run._workers import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._answers = answers
        self._send(start)
        # Its thread waits for answers, because pipes cannot be waited for together on Windows.
        threading.Thread(target=self._receive, daemon=True).start()

    def give(self, item: Item) -> None:
        self.item = item
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
                self._answers.put((self, json.loads(line)))
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


class _Pool:
    """Worker processes that take items from one iterator."""

    def __init__(self, task: str, settings: dict[str, Any]) -> None:
        self._start = {"task": task, "settings": settings}
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()

    def run(self, items: Iterable[Item], jobs: int) -> Iterator[tuple[Item, Result]]:
        source = iter(items)
        for item in itertools.islice(source, jobs):
            self._start_worker(item)
        while self._workers:
            worker, answer = self._next_answer()
            if answer is None:
                self._workers.discard(worker)
                worker.close()
                how = worker.how_it_ended()
                if not worker.ready:
                    raise RunStoppedError(f"a worker process {how} at its start")
                if worker.item is None:  # there was no more to do
                    continue
                yield worker.item, {"failed": f"the worker process {how}"}
                for item in itertools.islice(source, 1):
                    self._start_worker(item)
            elif "stop" in answer:
                raise RunStoppedError(answer["stop"])
            elif not worker.ready:  # the first answer says that it is
                worker.ready = True
            else:
                done, worker.item = worker.item, None
                for item in itertools.islice(source, 1):
                    worker.give(item)
                if worker.item is None:
                    worker.close()
                if done is not None:
                    yield done, answer

    def _start_worker(self, item: Item) -> None:
        worker = _Worker(self._start, self._answers)
        self._workers.add(worker)
        worker.give(item)

    def _next_answer(self) -> tuple[_Worker, Result | None]:
        while True:
            # With a timeout, because on Windows Ctrl-C does not end a wait without one.
            with contextlib.suppress(queue.Empty):
                worker, answer = self._answers.get(timeout=1)
                return worker, answer

    def close(self) -> None:
        """End all workers now."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()


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
    with contextlib.suppress(BrokenPipeError):  # the caller has ended
        try:
            work = load(start["task"])(start["settings"])
            answer({"ready": True})
            for line in requests:
                answer(_attempt(work, json.loads(line)))
        except RunStoppedError as error:
            answer({"stop": str(error)})
        except Exception as error:  # the task could not be made
            answer({"stop": describe(error)})
