"""The folder that a run writes: its manifest, its journal, its lock.

==========================  ===================================================================
``NAME.png``                the labels of a photo; complete, or not there
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
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from cuekit.io._common import replace_file

MANIFEST = "run.json"
MAX_MANIFEST = 2**20  # bytes


# For settings of which the manifest has only a checksum.
_DIFFERENCES = {
    "recipe_source": "the file of the recipe has changed",
    "tags": "the tags are not the same, or only one of the runs has tags",
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
    """

    def __init__(self, path: Path, settings: dict[str, Any], part: tuple[int, int] | None) -> None:
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
        self._entries: dict[str, bytes] = {}  # as lines: parsed, they would take 5 times as much

    def __enter__(self) -> OutputFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            undo.callback(self._locks.close)
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
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        try:
            if self._journal is not None:
                self._journal.close()
        finally:
            self._locks.close()

    def look(self) -> None:
        """Read what is there without changing anything."""
        if self.path.is_dir():
            self._check_manifest(writes=False)
            self._read_journals()

    def _read_journals(self) -> None:
        for journal in sorted(self.path.glob("journal*.jsonl")):
            with journal.open("rb") as file:
                self._read(file)

    def _manifest(self) -> bytes:
        with (self.path / MANIFEST).open("rb") as file:
            return file.read(MAX_MANIFEST)

    def _label(self) -> str | None:
        """Return a label file that is there, or None."""
        found = next(self.path.rglob("*.png"), None)
        return None if found is None else os.fspath(found.relative_to(self.path))

    def _write(self, path: Path, data: bytes) -> None:
        with replace_file(path) as file:
            file.write(data)

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

    def _read(self, journal: Iterable[bytes]) -> None:
        """Keep the last entry of each photo."""
        for line in journal:
            try:
                entry = json.loads(line)
                name, when = str(entry["name"]), float(entry["time"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # cut when the process was killed: that photo is done again
            if when >= float(self._entry(name).get("time", 0)):
                self._entries[name] = line

    def _entry(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._entries.get(name, b"{}"))
        return found

    def is_done(self, name: str, inputs: list[list[Any]]) -> bool:
        """Return whether the labels of a photo are complete, and made from these inputs."""
        entry = self._entry(name)
        if entry.get("state") != "done" or entry.get("inputs") != inputs:
            return False
        try:
            data = (self.path / f"{name}.png").read_bytes()
        except OSError:
            return False
        return [len(data), zlib.crc32(data)] == [entry.get("bytes"), entry.get("crc32")]

    def failure(self, name: str) -> str | None:
        """Return why a photo failed, or None if it did not."""
        entry = self._entry(name)
        return str(entry.get("reason")) if entry.get("state") == "failed" else None

    def has_failed(self, name: str, inputs: list[list[Any]]) -> bool:
        """Return whether a photo failed with these inputs."""
        entry = self._entry(name)
        return entry.get("state") == "failed" and entry.get("inputs") == inputs

    def pixels(self, name: str) -> dict[str, int]:
        """Return the number of pixels of each class of a photo that is done."""
        found: dict[str, int] = self._entry(name).get("pixels", {})
        return found

    def record(self, name: str, **entry: Any) -> None:
        """Append a photo's entry to the journal; only failures are kept in memory."""
        if self._journal is None:
            raise ValueError("the folder must be locked before anything is recorded")
        line = json.dumps({"name": name, "time": time.time(), **entry}).encode() + b"\n"
        self._journal.write(line)
        self._flush()
        self._entries.pop(name, None)
        if entry["state"] == "failed":
            self._entries[name] = line

    def _flush(self) -> None:
        if self._journal is not None:
            self._journal.flush()

    def failures_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return those of the photos that failed, with the reasons."""
        reasons = {name: self.failure(name) for name in names}
        return {name: reason for name, reason in reasons.items() if reason is not None}

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
