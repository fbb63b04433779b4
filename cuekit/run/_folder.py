"""The folder that a run writes: its manifest, its journal, its lock.

==========================  ===================================================================
``NAME.png``                the labels of a photo; complete, or not there
``labels-NUMBER.tar``       instead, those of many photos; see `cuekit.run._shards`
``run.json``                the manifest: all settings that change results. Where there are
                            labels, a run with other settings is refused: a folder never holds a
                            mixture
``journal.jsonl``           one line of JSON for each photo that was done or failed, appended
``failures.csv``            the photos that failed, with the reasons
``.unfinished/``            files that are being written
``.lock`` and others        held while a run works in the folder
==========================  ===================================================================

A run of a part, such as 3 of 16, has a journal, failures, unfinished files and a lock of its own:
``journal-3-of-16.jsonl`` and so on. Runs of several parts can work in one folder at once.

A photo is done if its last line in the journals says so, the label file has the size and the
checksum of that line, and its photo, maps and masks have the size and the time of modification
that they had. A line that was cut when the process was killed is ignored.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from cuekit.io._common import replace_file
from cuekit.run._journal import Journals
from cuekit.run._shards import ShardWriter

MANIFEST = "run.json"
MAX_MANIFEST = 2**20  # bytes


# For settings of which the manifest has only a checksum.
_DIFFERENCES = {
    "recipe_source": "the file of the recipe has changed",
    "tags": "the tags are not the same, or only one of the runs has tags",
    "shards": "only one of the runs writes tars (--shard-size)",
}


class OutputFolder:
    """The folder of a run, locked while the object is used as a context manager.

    Parameters
    ----------
    path : Path
        The folder; it is made if it is missing.
    settings : dict
        All that changes results, JSON.
    part : (int, int) or None
        The number of this part, from 1 on, and the number of parts.
    shard_size : int or None
        Number of photos of each tar; None: each photo has a file.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        part: tuple[int, int] | None,
        shard_size: int | None = None,
    ) -> None:
        self.path = path
        self._settings = settings
        suffix = "" if part is None else f"-{part[0]}-of-{part[1]}"
        self._is_part = part is not None
        self.unfinished = path / f".unfinished{suffix}"
        self.failures = path / f"failures{suffix}.csv"
        self._journal_path = path / f"journal{suffix}.jsonl"
        self._part_lock = path / f".lock{suffix}"
        self._journal: IO[bytes] | None = None
        self._locks = contextlib.ExitStack()
        self._journals = Journals()
        self.shards = None if shard_size is None else ShardWriter(self, shard_size, suffix)

    def __enter__(self) -> OutputFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            undo.callback(self._locks.close)
            undo.callback(self.close)
            # A whole run keeps all others out, a part only whole runs and the same part.
            self._locks.enter_context(_locked(self.path / ".lock", shared=self._is_part))
            if self._is_part:
                self._locks.enter_context(_locked(self._part_lock))
            with _locked(self.path / ".lock-manifest", wait=True):  # parts may start together
                self._check_manifest()
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self.unfinished.mkdir()
            self._read_journals()
            self._journal = _opened_for_lines(self._journal_path)
            if self.shards is not None:
                self.shards.look(self._journals, writes=True)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.shards is not None:
                self.shards.close()
        finally:
            try:
                self.close()
            finally:
                shutil.rmtree(self.unfinished, ignore_errors=True)
                self._locks.close()

    def look(self) -> None:
        """Read what is there without changing anything; `close` ends that."""
        if self.path.is_dir():
            self._check_manifest(writes=False)
            self._read_journals()
            if self.shards is not None:
                self.shards.look(self._journals, writes=False)

    def close(self) -> None:
        """Close the files of the journals."""
        self._journals.close()
        if self._journal is not None:
            self._journal.close()

    def _read_journals(self) -> None:
        self._journals = Journals(sorted(self.path.glob("journal*.jsonl")))

    # What is different in an object store.

    def _manifest(self) -> bytes:
        with (self.path / MANIFEST).open("rb") as file:
            return file.read(MAX_MANIFEST)

    def _label(self) -> str | None:
        """Return a label file that is there, or None."""
        all_ = itertools.chain(self.path.glob("labels*.tar"), self.path.rglob("*.png"))
        found = next(all_, None)
        return None if found is None else os.fspath(found.relative_to(self.path))

    def _write(self, path: Path, data: bytes) -> None:
        with replace_file(path) as file:
            file.write(data)

    def tars(self) -> list[str]:
        """Return the names of the tars that are there."""
        return [path.name for path in self.path.glob("labels*.tar")]

    def has_tar(self, name: str, expected: Any) -> bool:
        """Return whether a tar is there, and is as `write_tar` said."""
        size = checksum = 0
        try:
            with (self.path / name).open("rb") as file:
                while data := file.read(2**20):
                    size += len(data)
                    checksum = zlib.crc32(data, checksum)
        except FileNotFoundError:
            return False
        return bool([size, checksum] == expected)

    def read_tar(self, name: str) -> bytes:
        """Return a tar."""
        return (self.path / name).read_bytes()

    def write_tar(self, name: str, data: bytes) -> list[Any]:
        """Write a tar; return its size and checksum."""
        unfinished = self.unfinished / name
        unfinished.write_bytes(data)
        unfinished.replace(self.path / name)
        return [len(data), zlib.crc32(data)]

    def remove_tar(self, name: str) -> None:
        """Remove a tar."""
        (self.path / name).unlink()

    def _check_manifest(self, writes: bool = True) -> None:
        found = self._read_manifest()
        if found == self._settings:
            return
        label = self._label()
        if label is not None and found is None:
            raise ValueError(
                f"{self.path} must be empty or the folder of an earlier run, got "
                f"{label} and no {MANIFEST}"
            )
        if found is not None and (label is not None or self._is_part):
            differences = [
                _DIFFERENCES.get(key)
                or f"{key}: {json.dumps(found.get(key))} there, "
                f"{json.dumps(self._settings.get(key))} now"
                for key in sorted({*found, *self._settings})
                if found.get(key) != self._settings.get(key)
            ]
            raise ValueError(
                f"{self.path} has labels that were made with other settings: "
                f"{'; '.join(differences)}. Choose another folder, or delete this one"
            )
        if writes:  # without labels, failures of other settings mean nothing
            self._forget_failures()
            text = json.dumps(self._settings, indent=2).encode() + b"\n"
            self._write(self.path / MANIFEST, text)

    def _forget_failures(self) -> None:
        for old in (*self.path.glob("journal*.jsonl"), *self.path.glob("failures*.csv")):
            old.unlink()

    def _read_manifest(self) -> dict[str, Any] | None:
        """Return the settings of earlier runs, or None if there were none."""
        try:
            found = json.loads(self._manifest())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.path / MANIFEST} must be JSON, got: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / MANIFEST} must be a JSON object, got {found!r:.100}")  # noqa: TRY004
        return found

    def pixels_of(self, name: str, inputs: list[list[Any]]) -> dict[str, int] | None:
        """Return the number of pixels of each class of a photo that is done.

        None: the labels of the photo are not complete, or were made from other inputs.
        """
        entry = self._journals.entry(name)
        if entry.get("state") != "done" or entry.get("inputs") != inputs:
            return None
        is_there = self._has_labels(name, entry) if self.shards is None else self.shards.has(entry)
        found: dict[str, int] = entry.get("pixels", {})
        return found if is_there else None

    def _has_labels(self, name: str, entry: dict[str, Any]) -> bool:
        try:
            data = (self.path / f"{name}.png").read_bytes()
        except OSError:
            return False
        return [len(data), zlib.crc32(data)] == [entry.get("bytes"), entry.get("crc32")]

    def has_failed(self, name: str, inputs: list[list[Any]]) -> bool:
        """Return whether a photo failed with these inputs."""
        entry = self._journals.failed.get(name)
        return entry is not None and entry.get("inputs") == inputs

    def done(self, name: str, inputs: list[list[Any]], result: dict[str, Any]) -> None:
        """Note what a worker answered for a photo."""
        if self.shards is not None:
            self.shards.add(name, inputs, result)
        else:
            self.record({"name": name, "state": "done", "inputs": inputs, **result})
        self._journals.failed.pop(name, None)

    def fail(self, name: str, inputs: list[list[Any]] | None, reason: str) -> None:
        """Note that a photo has failed."""
        entry: dict[str, Any] = {"name": name, "state": "failed"}
        entry |= {"reason": reason, "inputs": inputs}
        if self.shards is not None and (old := self._journals.entry(name).get("shard")):
            entry["shard"] = old  # which has the labels of an earlier run
        self.record(entry)
        self._journals.failed[name] = entry

    def record(self, *entries: dict[str, Any]) -> None:
        """Append entries to the journal."""
        if self._journal is None:
            raise ValueError("the folder must be locked before anything is recorded")
        lines = [json.dumps({"time": time.time(), **entry}) + "\n" for entry in entries]
        self._journal.write("".join(lines).encode())
        self._flush()

    def _flush(self) -> None:
        if self._journal is not None:
            self._journal.flush()

    def failures_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return those of the photos that failed, with the reasons."""
        failed = self._journals.failed
        return {name: str(failed[name].get("reason")) for name in names if name in failed}

    def write_failures(self, names: Iterable[str]) -> None:
        """Write the list of those of the photos that failed."""
        table = io.StringIO()
        rows = [("name", "reason"), *self.failures_of(names).items()]
        csv.writer(table, lineterminator="\n").writerows(rows)
        self._write(self.failures, table.getvalue().encode())


def _opened_for_lines(path: Path) -> IO[bytes]:
    """Open a file of lines for appending; a last line that was cut gets its end."""
    file = path.open("ab+")
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file


@contextlib.contextmanager
def _locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the operating system releases when the process ends, however it ends."""
    with path.open("ab") as file:
        try:
            _lock(file, shared, wait)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise OSError(f"another run is writing into {path.parent}") from None
        yield


def _lock(file: IO[bytes], shared: bool, wait: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, which has no shared locks: parts run one after the other there
        import msvcrt

        file.seek(0)
        mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined]
        msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined]
    else:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
