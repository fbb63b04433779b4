"""What journals say of each photo: they stay on the disk, and are read photo by photo."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

_OFFSET_BITS = 40  # of a place: the number of a journal, and an offset in it


class Journals:
    """The last entry of each photo and of each shard.

    In memory are 16 bytes for each line, all failures, and the entries of shards.

    Parameters
    ----------
    paths : iterable of Path
        Files of lines of JSON. A line that was cut when a process was killed is ignored.

    Attributes
    ----------
    failed : dict of str to dict
        Name -> entry, of photos whose last entry says so.
    shards : dict of str to dict
        Name -> entry, of tars with labels.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._paths = list(paths)
        self._file: IO[bytes] | None = None  # the one that was read last
        self._number = -1
        self.failed: dict[str, dict[str, Any]] = {}
        self.shards: dict[str, dict[str, Any]] = {}
        hashes, places = array("q"), array("q")
        failed = set()
        for number, path in enumerate(self._paths):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    entry = _parsed(line)
                    if "name" in entry:
                        hashes.append(hash(entry["name"]))
                        places.append(number << _OFFSET_BITS | offset)
                        if entry.get("state") == "failed":
                            failed.add(entry["name"])
                    elif entry.keys() >= {"shard", "id", "checksum"}:
                        before = self.shards.get(entry["shard"], entry)
                        if entry["time"] >= before["time"]:
                            self.shards[entry["shard"]] = entry
                    offset += len(line)
        order = np.array(hashes, np.int64).argsort(kind="stable")
        self._hashes = array("q", np.array(hashes, np.int64)[order].tobytes())
        self._places = array("q", np.array(places, np.int64)[order].tobytes())
        for name in failed:
            entry = self.entry(name)
            if entry.get("state") == "failed":
                self.failed[name] = entry

    def entry(self, name: str) -> dict[str, Any]:
        """Return the last entry of a photo, or an empty dict."""
        found: dict[str, Any] = {}
        low = bisect_left(self._hashes, hash(name))
        high = bisect_right(self._hashes, hash(name), low)
        for place in self._places[low:high]:
            entry = _parsed(self._line(place))
            if entry.get("name") == name and entry["time"] >= found.get("time", 0):
                found = entry
        return found

    def _line(self, place: int) -> bytes:
        number, offset = place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1
        if self._file is None or number != self._number:
            self.close()
            self._file, self._number = self._paths[number].open("rb"), number
        self._file.seek(offset)
        return self._file.readline()

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _parsed(line: bytes) -> dict[str, Any]:
    """Return an entry, whose name and time have the right types; or an empty dict."""
    try:
        entry = json.loads(line)
        entry["time"] = float(entry["time"])
        which = "name" if "name" in entry else "shard"
        entry[which] = str(entry[which])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    found: dict[str, Any] = entry
    return found
