"""What all readers and writers share: paths, complete writes, checks of values."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PathLike: TypeAlias = str | os.PathLike[str]


def check_path(path: Any, name: str = "path") -> Path:
    """Return an argument that names a file as a Path."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{name} must be a path, a str or path-like object, got {path!r}")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"{name} must name a file, got {path!r}")
    return Path(path)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends.

    If the block fails, `path` is left as it was. The new file is in the same folder while it is
    written, because a file can only be replaced atomically within one file system. A symbolic link
    is followed: the file that it points to is replaced, or made if it is missing.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _check_replaceable(path)
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    if not target.parent.is_dir():
        code = errno.ENOTDIR if target.parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), os.fspath(target.parent))
    # Not tempfile: its files are readable by their owner only; this one follows the umask.
    unfinished = target.parent / f".{os.urandom(8).hex()}.tmp"
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(target)
    except BaseException as error:  # also KeyboardInterrupt: no temporary file may be left behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            # Name the caller's file, not the temporary one.
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


def _check_replaceable(path: Path) -> None:
    """Refuse what is there and is no regular file: renaming would remove a device or a pipe."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL,
            "only a regular file can be replaced, not a device or pipe",
            os.fspath(path),
        )


def check_range(values: NDArray[Any], name: str, low: int, high: int) -> None:
    """Refuse integers outside low..high."""
    if values.size == 0:
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        wrong = smallest if smallest < low else largest
        raise ValueError(f"{name} must be in {low}..{high}, got {wrong}")
