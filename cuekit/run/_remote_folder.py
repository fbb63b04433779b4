"""The folder that a run writes, in an object store.

It holds what `cuekit.run._folder` describes, with these differences, because objects are written
whole and cannot be appended to or locked:

- The journal is a number of objects, ``journal-TIME-RANDOM.jsonl``. One is written every 30 seconds
  and at the end. If the driver is killed, the photos of the last 30 seconds are done again.
- There is no lock. Two runs at once into one place do work twice, and no harm: both write the same
  bytes, and no object is ever partial.
- A photo is done if the object has the size and the ETag that the journal says. The ETag is what
  the store answered when the object was written; it changes with the content. Stores that say none
  have sizes only.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cuekit.run import _storage
from cuekit.run._folder import MANIFEST, MAX_MANIFEST, OutputFolder
from cuekit.run._journal import Journals
from cuekit.run._storage import Remote, Stamp
from cuekit.run._strings import Strings

_PERIOD = 30.0  # seconds between two objects of the journal


class RemoteFolder(OutputFolder):
    """The place of a run in an object store; see `OutputFolder`."""

    def __init__(
        self,
        path: Remote,
        settings: dict[str, Any],
        part: tuple[int, int] | None,
        shard_size: int | None = None,
    ) -> None:
        super().__init__(cast("Path", path), settings, part, shard_size)
        self._copies = contextlib.ExitStack()
        self._segment = io.BytesIO()
        self._written = time.monotonic()
        self._others: dict[str, Stamp] = {}  # all that is there, without labels of one photo
        self._labels = Strings()  # lines NAME.png NUL size NUL ETag

    def __enter__(self) -> RemoteFolder:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._look(writes=True)
            undo.pop_all()
        self._journal = self._segment
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.shards is not None:
                self.shards.close()
            self._write_segment()
        finally:
            self._journal = None
            self.close()

    def look(self) -> None:
        """Read what is there without changing anything; `close` ends that."""
        self._look(writes=False)

    def close(self) -> None:
        """Remove the copy of the journal."""
        self._journals.close()
        self._copies.close()

    def _look(self, writes: bool) -> None:
        self._labels = Strings.in_order(self._listed())
        self._check_manifest(writes)
        names = [
            name
            for name in sorted(self._others)
            if name.startswith("journal") and name.endswith(".jsonl")
        ]
        if names:
            # Into a file: they may be large, and are read as those on a disk are.
            copy = Path(self._copies.enter_context(tempfile.TemporaryDirectory(prefix="cuekit-")))
            with (copy / "journal.jsonl").open("wb") as file:
                for name in names:
                    file.write(_storage.get(f"{self.path}/{name}"))
            self._journals = Journals([copy / "journal.jsonl"])
        if self.shards is not None:
            self.shards.look(self._journals, writes=writes)

    def _listed(self) -> Iterator[str]:
        for name, stamp in _storage.listed(str(self.path)):
            if name.endswith(".png"):
                yield f"{name}\0{stamp.st_size}\0{stamp.st_mtime_ns}"
            else:
                self._others[name] = stamp

    def _manifest(self) -> bytes:
        return _storage.get(f"{self.path}/{MANIFEST}")[:MAX_MANIFEST]

    def _label(self) -> str | None:
        if self._labels:
            return self._labels[0].partition("\0")[0]
        return next(iter(self.tars()), None)

    def _forget_failures(self) -> None:
        for name in list(self._others):
            if name.startswith(("journal", "failures")):
                _storage.remove(f"{self.path}/{name}")
                del self._others[name]

    def _write(self, path: Path, data: bytes) -> None:
        _storage.put(str(path), data)

    def _has_labels(self, name: str, entry: dict[str, Any]) -> bool:
        for line in self._labels.starting_with(f"{name}.png\0"):
            _, size, tag = line.split("\0")
            return int(size) == entry.get("bytes") and entry.get("tag") in (None, tag)
        return False

    def tars(self) -> list[str]:
        """Return the names of the tars that are there."""
        return [
            name
            for name in self._others
            if name.startswith("labels") and name.endswith(".tar") and "/" not in name
        ]

    def has_tar(self, name: str, expected: Any) -> bool:
        """Return whether a tar is there, and is as `write_tar` said."""
        stamp = self._others.get(name)
        return stamp is not None and expected in (
            [stamp.st_size, None],
            [stamp.st_size, stamp.st_mtime_ns],
        )

    def read_tar(self, name: str) -> bytes:
        """Return a tar."""
        return _storage.get(f"{self.path}/{name}")

    def write_tar(self, name: str, data: bytes) -> list[Any]:
        """Write a tar; return its size and its ETag."""
        tag = _storage.put(f"{self.path}/{name}", data)
        self._written = -math.inf  # the journal follows at once
        return [len(data), tag]

    def remove_tar(self, name: str) -> None:
        """Remove a tar."""
        _storage.remove(f"{self.path}/{name}")

    def _flush(self) -> None:
        if time.monotonic() - self._written > _PERIOD:
            self._write_segment()

    def _write_segment(self) -> None:
        if self._segment.tell():
            # A name of its own: runs at once must not replace each other's.
            name = f"journal-{time.time_ns()}-{uuid.uuid4().hex}.jsonl"
            _storage.put(f"{self.path}/{name}", self._segment.getvalue())
            self._segment.seek(0)
            self._segment.truncate()
        self._written = time.monotonic()


def output_folder(
    path: Path | Remote,
    settings: dict[str, Any],
    part: tuple[int, int] | None,
    shard_size: int | None = None,
) -> OutputFolder:
    """Return the folder of a run, on a disk or in an object store."""
    if isinstance(path, Remote):
        return RemoteFolder(path, settings, part, shard_size)
    return OutputFolder(path, settings, part, shard_size)
