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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cuekit.io import MapArchive
from cuekit.io._common import PathLike, check_path
from cuekit.run._shards import IS_TAR
from cuekit.run._sources import LABEL_SUFFIXES, Files, check_name
from cuekit.run._strings import Strings
from cuekit.run._workers import describe

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10**6
_BLOCK = 2**20  # bytes that are read at once from a remote tar
_MOST_IN_ONE_REQUEST = 2**20  # bytes; the stores' packages take more, and say no ETag then
_ARCHIVE_BLOCK = 2**16  # from a remote archive of maps: entries of one photo lie together


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


def is_archive(path: PathLike) -> bool:
    """Return whether an argument is an archive of the maps of many photos, by its form."""
    if is_url(path):
        return os.fspath(path).lower().endswith(".npz")
    file = check_path(path, "maps")
    if not file.is_file() or is_shard(path):
        return False
    if file.suffix.lower() != ".npz":
        raise ValueError(
            f"maps must be a folder with a file for each photo, or one .npz, got {file}"
        )
    return True


def archive_of(path: str) -> MapArchive:
    """Open an archive of maps. Of one in a store, the entries of a photo are fetched one by one."""
    if not is_url(path):
        return MapArchive(path)
    with clear_errors(path):
        file = _store(path).open(path, block_size=_ARCHIVE_BLOCK, cache_type="readahead")
        return MapArchive.of_file(file, path)


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
        pattern = path if is_url(path) else os.path.abspath(path)  # noqa: PTH100
        return _Shards(Remote(pattern), _shards(pattern), suffixes, kind)
    if is_url(path):
        return _Objects(os.fspath(path), suffixes, kind)
    return Files(path, suffixes, kind)


def label_files(path: PathLike, kind: str = "labels") -> Files:
    """Return label images: of a folder, of a URL, of tars, or of a folder of tars; see `labels`."""
    if is_shard(path):
        return files_of(os.fspath(path), LABEL_SUFFIXES, kind)
    place_of = place(path, kind)
    if isinstance(place_of, Remote):
        names = [name for name, _ in listed(os.fspath(place_of)) if IS_TAR.fullmatch(name)]
    else:
        names = [each.name for each in place_of.glob("*.tar") if IS_TAR.fullmatch(each.name)]
    if names:
        shards = [os.fspath(place_of / name) for name in sorted(names)]
        return _Shards(place_of, shards, LABEL_SUFFIXES, kind)
    return files_of(path, LABEL_SUFFIXES, kind)


class _RemoteFiles(Files):
    """Files by name, whose stamps are known when they are listed."""

    def __init__(self, folder: Path | Remote, lines: Iterable[str], kind: str) -> None:
        # Not that of Files, which lists a folder.
        self.folder: Any = folder
        self.kind = kind
        self._lines = Strings.in_order(lines)
        if not self._lines:
            raise FileNotFoundError(f"{folder} has no {kind}")


def _line(inner: str, wanted: frozenset[str], where: str, *rest: int | str) -> Iterator[str]:
    """Yield the line of a file, if it is one that is wanted."""
    name, suffix = os.path.splitext(inner)  # noqa: PTH122 - as Files does
    if suffix.lower() not in wanted:
        return
    check_name(name, where)
    if not any(part.startswith(".") for part in PurePosixPath(name).parts):
        yield "\0".join([name, suffix, *map(str, rest)])


class _Objects(_RemoteFiles):
    """The objects of a store whose keys begin with a URL."""

    def __init__(self, url: str, suffixes: Iterable[str], kind: str) -> None:
        url = url.rstrip("/")
        wanted = frozenset(suffixes)
        lines = (
            line
            for inner, stamp in listed(url)
            for line in _line(inner, wanted, url, stamp.st_size, stamp.st_mtime_ns)
        )
        super().__init__(Remote(url), lines, kind)

    def _place(self, line: Sequence[str]) -> Remote:
        name, suffix, size, tag = line
        return Remote(f"{self.folder.location}/{name}{suffix}", Stamp(int(size), tag))


class _Shards(_RemoteFiles):
    """The members of tars, as WebDataset has them: NAME.jpg, NAME.npz.

    Parameters
    ----------
    folder : Path or Remote
        Where they are, for errors.
    shards : iterable of str
        Paths and URLs of the tars.
    """

    def __init__(
        self, folder: Path | Remote, shards: Iterable[str], suffixes: Iterable[str], kind: str
    ) -> None:
        self._shards: list[tuple[str, int | str]] = []  # with what changes when they do
        super().__init__(folder, self._members(shards, frozenset(suffixes)), kind)

    def _members(self, shards: Iterable[str], wanted: frozenset[str]) -> Iterator[str]:
        for number, shard in enumerate(shards):
            opened: Any
            if is_url(shard):
                tag: int | str = stamp_of(shard).st_mtime_ns
                with clear_errors(shard):
                    opened = _store(shard).open(shard, block_size=_BLOCK, cache_type="readahead")
            else:
                tag = os.stat(shard).st_mtime_ns  # noqa: PTH116 - a string, as it came
                opened = open(shard, "rb")  # noqa: PTH123, SIM115
            self._shards.append((shard, tag))
            with opened as file:
                for inner, offset, size in _index(shard, file):
                    yield from _line(inner, wanted, shard, number, offset, size)

    def _place(self, line: Sequence[str]) -> Remote:
        name, suffix, number, offset, size = line
        shard, tag = self._shards[int(number)]
        location = f"{shard}\0{offset}\0{size}\0{name}{suffix}"
        return Remote(location, Stamp(int(size), tag))


def _index(shard: str, file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Yield where each member of a tar is: name, offset, size; only headers are read."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            # Offset 0: there are no members, and `next` of Python 3.10 would raise an OSError.
            while archive.offset and (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # else all are kept
                if member.isreg() and not member.issparse():
                    yield member.name.removeprefix("./"), member.offset_data, member.size
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


def listed(url: str) -> Iterator[tuple[str, Stamp]]:
    """Yield all objects whose keys begin with a URL, by the rest of their keys."""
    store = _store(url)
    store.invalidate_cache()
    root = store._strip_protocol(url).rstrip("/") + "/"
    with clear_errors(url):
        found = store.find(url, detail=True)
    store.invalidate_cache()  # which would keep all that was found
    for key, info in found.items():
        if key.startswith(root):
            yield key.removeprefix(root), Stamp(int(info["size"]), _tag(info))


def _tag(info: dict[str, Any]) -> str:
    """Return what changes when an object does."""
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"):
        if info.get(key) is not None:
            return str(info[key]).strip('"')
    return ""


def stamp_of(url: str) -> Stamp:
    """Return what says whether an object has changed; raises FileNotFoundError."""
    with clear_errors(url):
        info = _store(url).info(url)
    return Stamp(int(info["size"]), _tag(info))


def get(url: str) -> bytes:
    """Return an object; raises FileNotFoundError."""
    with clear_errors(url):
        found: bytes = _store(url).cat_file(url)
    return found


def put(url: str, data: bytes) -> str | None:
    """Write an object: whole, or not at all. Return its ETag, if the store says it."""
    with clear_errors(url):
        answer = _store(url).pipe_file(url, data)
        if answer is None and len(data) > _MOST_IN_ONE_REQUEST:  # written in several
            answer = _store(url).info(url)
    tag = answer.get("ETag") if isinstance(answer, dict) else None
    return None if tag is None else str(tag).strip('"')


def remove(url: str) -> None:
    """Remove an object."""
    with clear_errors(url):
        _store(url).rm_file(url)


@contextlib.contextmanager
def clear_errors(url: str) -> Iterator[None]:
    """Raise errors of stores as OSError: each store has classes of its own."""
    try:
        yield
    except (OSError, ValueError):
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
        with clear_errors(path):
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


@contextlib.contextmanager
def fetched(path: PathLike) -> Iterator[PathLike]:
    """Have a path for an argument that is a path or a URL."""
    if is_url(path):
        with local_file(os.fspath(path)) as copy:
            yield copy
    else:
        yield path


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
