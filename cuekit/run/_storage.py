"""Photos, maps and labels that are not files of this machine: object stores, and members of tars.

A *location* is a string that tells a worker where its bytes are:

- a path, as everywhere;
- a URL such as ``s3://bucket/photos/a.jpg``, of any store that fsspec knows;
- a member of a tar: ``TAR NUL offset NUL size NUL member``, where TAR is a path or a URL. No path
  holds a NUL.

Workers copy such bytes into a temporary file, which the usual readers read. What stands for the
time of modification of a file is the ETag of an object.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cuekit.io._common import PathLike, check_path
from cuekit.run._sources import Files, check_name
from cuekit.run._workers import describe

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10**6
_BLOCK = 2**20  # bytes that are read at once from a remote tar


@dataclass(frozen=True)
class Stamp:
    """What says whether a file has changed, under the names of `os.stat_result`."""

    st_size: int
    st_mtime_ns: int | str


@dataclass(frozen=True)
class Remote:
    """A location that is no path, with what a run asks of a path."""

    location: str
    stamp: Stamp | None = None

    def __fspath__(self) -> str:
        return self.location

    def __str__(self) -> str:
        return readable(self.location)

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.location}/{name}")

    def stat(self) -> Stamp:
        """Return what was found when it was listed."""
        if self.stamp is None:
            raise ValueError(f"{self} was not listed")
        return self.stamp

    def resolve(self) -> Remote:
        """Return the location without the stamp."""
        return Remote(self.location.rstrip("/"))

    @property
    def parents(self) -> list[Remote]:
        """All locations that this one is in."""
        scheme, _, path = self.location.rstrip("/").partition("://")
        inner = PurePosixPath(path).parents
        return [Remote(f"{scheme}://{each}") for each in inner if str(each) != "."]


def is_url(path: Any) -> bool:
    """Return whether an argument is a URL."""
    return isinstance(path, str) and "://" in path


def is_shard(path: PathLike) -> bool:
    """Return whether an argument names tars."""
    return os.fspath(path).lower().endswith(".tar")


def place(path: PathLike, name: str) -> Path | Remote:
    """Return an argument that is a path or a URL."""
    if is_url(path):
        _store(os.fspath(path))
        return Remote(os.fspath(path).rstrip("/"))
    return check_path(path, name)


def files_of(path: PathLike, suffixes: Iterable[str], kind: str) -> Files:
    """Return the files of a folder, of a URL, or of tars; see `Files`."""
    if isinstance(path, str) and is_shard(path):
        return _Shards(path, suffixes, kind)
    if is_url(path):
        return _Objects(os.fspath(path), suffixes, kind)
    return Files(path, suffixes, kind)


class _RemoteFiles(Files):
    """Files by name, whose stamps are known when they are listed."""

    def __init__(self, location: str, suffixes: Iterable[str], kind: str) -> None:
        # Not that of Files, which lists a folder.
        self.folder: Any = Remote(location)
        self.kind = kind
        self._wanted = frozenset(suffixes)
        self._paths = {}
        self._stamps: dict[str, Stamp] = {}

    def _add(self, inner: str, location: str, stamp: Stamp) -> None:
        name, suffix = os.path.splitext(inner)  # noqa: PTH122 - as Files does
        if suffix.lower() not in self._wanted:
            return
        check_name(name, str(self.folder))
        if not any(part.startswith(".") for part in PurePosixPath(name).parts):
            self._paths.setdefault(name, []).append(location)
            self._stamps[location] = stamp

    def path(self, name: str) -> Any:
        found = self._paths.get(name)
        if found is None:
            raise FileNotFoundError(f"{self.folder} has no {self.kind} of {name}")
        if len(found) > 1:
            raise ValueError(
                f"{self.folder} must have one file of {self.kind} for each name, "
                f"got {' and '.join(map(readable, found))}"
            )
        return Remote(found[0], self._stamps[found[0]])


class _Objects(_RemoteFiles):
    """The objects of a store whose keys begin with a URL."""

    def __init__(self, url: str, suffixes: Iterable[str], kind: str) -> None:
        url = url.rstrip("/")
        super().__init__(url, suffixes, kind)
        for inner, stamp in listed(url).items():
            self._add(inner, f"{url}/{inner}", stamp)
        if not self._paths:
            raise FileNotFoundError(f"{url} has no {kind}")


class _Shards(_RemoteFiles):
    """The members of tars, as WebDataset has them: NAME.jpg, NAME.npz.

    Parameters
    ----------
    pattern : str
        Path or URL of a tar; ``{000..099}`` means many, and so does ``*`` in a path.
    """

    def __init__(self, pattern: str, suffixes: Iterable[str], kind: str) -> None:
        pattern = pattern if is_url(pattern) else os.path.abspath(pattern)  # noqa: PTH100
        super().__init__(pattern, suffixes, kind)
        for shard in _shards(pattern):
            opened: Any
            if is_url(shard):
                with _clear_errors(shard):
                    tag = _tag(_store(shard).info(shard))
                    opened = _store(shard).open(shard, block_size=_BLOCK, cache_type="readahead")
            else:
                tag = os.stat(shard).st_mtime_ns  # noqa: PTH116 - a string, as it came
                opened = open(shard, "rb")  # noqa: PTH123, SIM115
            with opened as file:
                self._index(shard, file, tag)
        if not self._paths:
            raise FileNotFoundError(f"{pattern} has no {kind}")

    def _index(self, shard: str, file: IO[bytes], tag: int | str) -> None:
        """Find where each member is; only headers are read."""
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    if not member.isreg() or member.issparse():
                        continue
                    inner = member.name.removeprefix("./")
                    location = f"{shard}\0{member.offset_data}\0{member.size}\0{inner}"
                    self._add(inner, location, Stamp(member.size, tag))
        except tarfile.TarError as error:
            raise ValueError(f"{shard} must be a tar without compression, got: {error}") from None


def _shards(pattern: str) -> list[str]:
    """Return the tars that a pattern means."""
    found = _RANGE.search(pattern)
    if found is not None:
        first, last = found.groups()
        if not int(first) <= int(last) < int(first) + _MOST_SHARDS:
            raise ValueError(
                f"a range of shards must go up, by at most {_MOST_SHARDS}, got {found.group()}"
            )
        numbers = range(int(first), int(last) + 1)
        before, after = pattern[: found.start()], pattern[found.end() :]
        return [
            shard
            for number in numbers
            for shard in _shards(f"{before}{number:0{len(first)}}{after}")
        ]
    if "*" in pattern and not is_url(pattern):
        return sorted(glob.glob(pattern))  # noqa: PTH207 - strings, as they came
    return [pattern]


def listed(url: str) -> dict[str, Stamp]:
    """Return all objects whose keys begin with a URL, by the rest of their keys."""
    store = _store(url)
    store.invalidate_cache()
    root = store._strip_protocol(url).rstrip("/") + "/"
    with _clear_errors(url):
        found = store.find(url, detail=True)
    return {
        key.removeprefix(root): Stamp(int(info["size"]), _tag(info))
        for key, info in found.items()
        if key.startswith(root)
    }


def _tag(info: dict[str, Any]) -> int | str:
    """Return what changes when an object does."""
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"):
        if info.get(key) is not None:
            return str(info[key]).strip('"')
    return 0


def get(url: str) -> bytes:
    """Return an object; raises FileNotFoundError."""
    with _clear_errors(url):
        found: bytes = _store(url).cat_file(url)
    return found


def put(url: str, data: bytes) -> None:
    """Write an object: whole, or not at all."""
    with _clear_errors(url):
        _store(url).pipe_file(url, data)


def remove(url: str) -> None:
    """Remove an object."""
    with _clear_errors(url):
        _store(url).rm_file(url)


@contextlib.contextmanager
def _clear_errors(url: str) -> Iterator[None]:
    """Raise errors of stores as OSError: each store has classes of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{url}: {describe(error)}") from error


def readable(location: str) -> str:
    """Return a location as a person reads it."""
    path, *member = location.split("\0")
    return f"{path}: {member[-1]}" if member else path


@contextlib.contextmanager
def local_file(location: str) -> Iterator[str]:
    """Have a path with the bytes of a location; errors name the location."""
    path, *member = location.split("\0")
    if not member and not is_url(path):
        yield location
        return
    start, size = (int(member[0]), int(member[1])) if member else (None, None)
    if is_url(path):
        end = None if start is None or size is None else start + size
        with _clear_errors(path):
            data = _store(path).cat_file(path, start=start, end=end)
    else:
        with open(path, "rb") as file:  # noqa: PTH123 - a string, as it came
            file.seek(start or 0)
            data = file.read(size or 0)
    if size is not None and len(data) != size:
        raise ValueError(f"{readable(location)} must have {size} bytes, got {len(data)}")
    suffix = PurePosixPath(member[-1] if member else path).suffix
    with tempfile.TemporaryDirectory(prefix="cuekit-") as folder:
        copy = os.fspath(Path(folder, f"copy{suffix}"))
        Path(copy).write_bytes(data)
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(copy, readable(location))) from None


def _store(url: str) -> Any:
    """Return fsspec's file system of a URL."""
    return _made_store(url.partition("://")[0])


@cache
def _made_store(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise ImportError(
            f"a path {scheme}:// needs the package fsspec: pip install 'cuekit[remote]'"
        ) from None
    try:
        return fsspec.filesystem(scheme)
    except ValueError as error:
        raise ValueError(
            f"a URL must be of a store that fsspec knows, got {scheme}://: {error}"
        ) from None
    except ImportError as error:
        raise ImportError(f"a path {scheme}:// needs a package more: {error}") from None
