"""What all readers and writers share: paths, complete writes, checks of values."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PathLike: TypeAlias = str | os.PathLike[str]


@contextlib.contextmanager
def replace_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends.

    If the block fails, `path` is left as it was. The new file is in the same folder while it is
    written, because a file can only be replaced atomically within one file system.
    """
    # Not tempfile: its files are readable by their owner only; this one follows the umask.
    unfinished = Path(path).parent / f".{os.urandom(8).hex()}.tmp"
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(path)
    except BaseException:  # also KeyboardInterrupt: no temporary file may be left behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def check_range(values: NDArray[Any], name: str, low: int, high: int) -> None:
    """Refuse integers outside low..high."""
    if values.size == 0:
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        wrong = smallest if smallest < low else largest
        raise ValueError(f"{name} must be in {low}..{high}, got {wrong}")
