"""The folder that a run writes, in an object store.

It holds what `cuekit.run._folder` describes, with these differences, because objects are written
whole and cannot be appended to or locked:

- The journal is a number of objects, ``journal-TIME-RANDOM.jsonl``. One is written every 30 seconds
  and at the end. If the driver is killed, the photos of the last 30 seconds are done again.
- There is no lock. Two runs at once into one place do work twice, and no harm: both write the same
  bytes, and no object is ever partial.
- A photo is done if the object has the size that the journal says. Its checksum is not computed
  again, because that would fetch all labels.
"""

from __future__ import annotations

import io
import time
import uuid
from pathlib import Path
from typing import Any, cast

from cuekit.run import _storage
from cuekit.run._folder import MANIFEST, MAX_MANIFEST, OutputFolder
from cuekit.run._storage import Remote

_PERIOD = 30.0  # seconds between two objects of the journal


class RemoteFolder(OutputFolder):
    """The place of a run in an object store; see `OutputFolder`."""

    def __init__(
        self, path: Remote, settings: dict[str, Any], part: tuple[int, int] | None
    ) -> None:
        super().__init__(cast("Path", path), settings, part)
        self._segment = io.BytesIO()
        self._written = time.monotonic()
        self._sizes: dict[str, int] = {}

    def __enter__(self) -> RemoteFolder:
        self._look(writes=True)
        self._journal = self._segment
        return self

    def __exit__(self, *_: object) -> None:
        self._write_segment()
        self._journal = None

    def look(self) -> None:
        """Read what is there without changing anything."""
        self._look(writes=False)

    def _look(self, writes: bool) -> None:
        found = _storage.listed(str(self.path))
        self._sizes = {name: stamp.st_size for name, stamp in found.items()}
        self._check_manifest(writes)
        for name in sorted(self._sizes):
            if name.startswith("journal") and name.endswith(".jsonl"):
                self._read(_storage.get(f"{self.path}/{name}").splitlines())

    def _manifest(self) -> bytes:
        return _storage.get(f"{self.path}/{MANIFEST}")[:MAX_MANIFEST]

    def _label(self) -> str | None:
        return next((name for name in self._sizes if name.endswith(".png")), None)

    def _forget_failures(self) -> None:
        for name in list(self._sizes):
            if name.startswith(("journal", "failures")):
                _storage.remove(f"{self.path}/{name}")
                del self._sizes[name]

    def _write(self, path: Path, data: bytes) -> None:
        _storage.put(str(path), data)

    def is_done(self, name: str, inputs: list[list[Any]]) -> bool:
        """Return whether the labels of a photo are complete, and made from these inputs."""
        entry = self._entry(name)
        return (
            entry.get("state") == "done"
            and entry.get("inputs") == inputs
            and self._sizes.get(f"{name}.png", -1) == entry.get("bytes")
        )

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
    path: Path | Remote, settings: dict[str, Any], part: tuple[int, int] | None
) -> OutputFolder:
    """Return the folder of a run, on a disk or in an object store."""
    if isinstance(path, Remote):
        return RemoteFolder(path, settings, part)
    return OutputFolder(path, settings, part)
