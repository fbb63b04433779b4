"""Containers of arrays: `.npy` files, `.npz` archives, and the zip files of `torch.save`.

All are opened with limits: of the bytes that a zip file expands to, of its number of entries, and
of a header's length. Arrays of objects are not read from `.npz` files.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from cuekit.io._tensors import Storage
from cuekit.io._unpickle import (
    LEGACY_MAGIC,
    Budget,
    read_bytes,
    read_legacy,
    show,
    unpickle_objects,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
_MAX_HEADER = 10_000  # of a .npy; structured dtypes, which need more, are not read
# The largest piece of a zip file that is read at once. It bounds the list of entries: some 20 000.
_MAX_READ = 2**20
_STORED, _DEFLATED = 0, 8  # compression methods; others may need much memory
_MAX_ENTRIES = 1000
_ENTRY_BYTES = 200  # of an entry in a zip file's directory, with a name of up to 150 characters
_MAX_TEXT = 10_000  # characters of a string in an .npz
# NumPy writes the three keys in this order, with repr; other writers differ in spaces only.
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?)([biufOU])([0-9]{0,5})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\),?\s*\}\s*"
)
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


class NpyHeader:
    """What a `.npy` says of its array. `dtype` is None for an array of objects."""

    def __init__(self, source: IO[bytes]) -> None:
        start = source.read(10)
        major = start[6:7]
        if start[:6] != NPY_MAGIC or len(start) < 10 or major not in (b"\1", b"\2", b"\3"):
            raise ValueError(f"a .npy must begin with its magic number, got {show(start)}")
        if major == b"\1":
            (length,) = struct.unpack("<H", start[8:])
        else:
            (length,) = struct.unpack("<I", start[8:] + source.read(2).ljust(2, b"\xff"))
        if length > _MAX_HEADER:
            raise ValueError(f"a .npy's header must have at most {_MAX_HEADER} bytes, got {length}")
        text = source.read(length)
        found = _HEADER.fullmatch(text.decode("latin-1"))
        if found is None or len(text) != length:
            raise ValueError(f"a .npy must have a plain dtype and a shape, got {show(text)}")
        order, kind, size, fortran, shape = found.groups()
        self.fortran = fortran == "True"
        self.shape = tuple(int(side) for side in shape.replace(",", " ").split())
        self.dtype = _plain_dtype(order, kind, size)
        if len(self.shape) > 16:
            raise ValueError(f"arrays must have at most 16 axes, got {len(self.shape)}")

    @property
    def nbytes(self) -> int:
        """The number of bytes that follow the header."""
        return math.prod(self.shape) * (0 if self.dtype is None else self.dtype.itemsize)

    def array(self, data: bytes) -> NDArray[Any]:
        """Return the array of the bytes that follow the header, without a copy."""
        if self.dtype is None:
            raise ValueError("arrays of objects are not read")
        if len(data) != self.nbytes:
            raise ValueError(
                f"an array's data must have {self.nbytes} bytes for shape {self.shape} of "
                f"{self.dtype}, got {len(data)}"
            )
        array: NDArray[Any] = np.ndarray(
            self.shape, self.dtype, data, order="F" if self.fortran else "C"
        )
        if self.dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
            raise ValueError("bool arrays must hold bytes 0 and 1, got others")
        return array


def _plain_dtype(order: str, kind: str, size: str) -> np.dtype[Any] | None:
    if kind == "O" and not size:
        return None
    if kind == "U" and size and 1 <= int(size) <= _MAX_TEXT:
        return np.dtype(f"{order}U{int(size)}")
    if kind in _SIZES and size and int(size) in _SIZES[kind]:
        return np.dtype(f"{order}{kind}{int(size)}")
    raise ValueError(
        f"an array's dtype must be a plain one of numbers, got {show(order + kind + size)}"
    )


class NpzArray:
    """An array of an `.npz`, of which only the header has been read."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive = archive
        self._name = name
        with archive.open(name) as entry:
            header = NpyHeader(entry)
        if header.dtype is None:
            raise ValueError(f"{show(name)} must be an array of numbers, got one of objects")
        self.dtype: np.dtype[Any] = header.dtype
        self.shape = header.shape

    def array(self) -> NDArray[Any]:
        """Return the array, read-only."""
        with self._archive.open(self._name) as entry:
            header = NpyHeader(entry)
            return header.array(self._archive.read(entry, header.nbytes))


class Archive:
    """A zip file that is read with limits: its number of entries, and the bytes read from them."""

    def __init__(self, file: IO[bytes], max_bytes: int, max_entries: int = _MAX_ENTRIES) -> None:
        import zipfile  # here, because it imports much

        self._max_bytes = max_bytes
        self._bytes = 0
        self._zip = zipfile.ZipFile(_Pieces(file, max(_MAX_READ, max_entries * _ENTRY_BYTES)))
        self.names = self._zip.namelist()
        if len(self.names) > max_entries:
            raise ValueError(
                f"a zip file must have at most {max_entries} entries, got {len(self.names)}: "
                "read_maps reads files of one photo each, MapArchive those of many"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError("the entries of a zip file must have distinct names, got some twice")

    def forget_read(self) -> None:
        """Count the bytes that are read from zero again."""
        self._bytes = 0

    def open(self, name: str) -> IO[bytes]:
        info = self._zip.getinfo(name)
        if info.compress_type not in (_STORED, _DEFLATED):
            raise ValueError(
                f"entries of a zip file must be stored or deflated, got {show(name)} with "
                f"compression method {info.compress_type}"
            )
        return self._zip.open(info)

    def read(self, entry: IO[bytes], size: int) -> bytes:
        """Read the rest of an entry, which must have `size` bytes."""
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise ValueError(
                f"arrays must have at most max_bytes = {self._max_bytes} bytes together, "
                f"got at least {self._bytes}"
            )
        data = read_bytes(entry, size)
        # Reading to the end makes zipfile compare the checksum.
        if len(data) != size or entry.read(1):
            raise ValueError(f"an entry must have {size} bytes, got more or fewer")
        return data

    def read_small(self, name: str, limit: int = 1000) -> bytes:
        with self.open(name) as entry:
            data = entry.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"{show(name)} must have at most {limit} bytes, got more")
        return data


class _Pieces(io.RawIOBase):
    """A file of which only small pieces are read at once: `zipfile` reads its directory whole."""

    def __init__(self, file: IO[bytes], max_read: int) -> None:
        self._file = file
        self._max_read = max_read

    def read(self, size: int | None = -1, /) -> bytes:
        to_end = size is None or size < 0
        data = self._file.read(self._max_read + 1 if to_end else min(size or 0, self._max_read + 1))
        if len(data) > self._max_read:
            raise ValueError(f"a zip file's directory must have at most {self._max_read} bytes")
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset < 0:
            raise ValueError("a zip file's offsets must lie within it, got a negative one")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def read_container(file: IO[bytes], file_size: int, max_bytes: int) -> object:
    """Read whatever a file of arrays contains: most often a dict, by its first bytes.

    Raises
    ------
    ValueError
        If the file is none of the kinds listed in `read_maps`, or is damaged or too large.
    """
    start = file.read(len(LEGACY_MAGIC))
    file.seek(0)
    budget = Budget(file_size, max_bytes)
    if start.startswith(NPY_MAGIC):
        return _read_npy(file, budget)
    if start.startswith(ZIP_MAGIC):
        return _read_zip(file, budget)
    if start == LEGACY_MAGIC:
        return read_legacy(file, file_size, budget)
    if not start.startswith(b"\x80"):
        raise ValueError(
            "a map file must be an .npy, an .npz, a file of torch.save, or a pickle of protocol 2 "
            f"to 5, got first bytes {show(start[:8])}"
        )
    found = unpickle_objects(file, budget)
    _check_end(file)
    return found


def _read_npy(file: IO[bytes], budget: Budget) -> object:
    header = NpyHeader(file)
    if header.dtype is not None:
        return header  # an array without class ids: its shape is for the error
    if header.shape != ():
        raise ValueError(f"an array of objects must hold one dict, got shape {header.shape}")
    found = unpickle_objects(file, budget)
    _check_end(file)
    return found


def _check_end(file: IO[bytes]) -> None:
    if file.read(1):
        raise ValueError("nothing may follow the pickle's STOP, got more bytes")


@contextlib.contextmanager
def undamaged() -> Iterator[None]:
    """Turn what zipfile raises for damaged files into a ValueError."""
    import zipfile

    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, struct.error, KeyError),
        *(NotImplementedError, RuntimeError, OverflowError, IndexError),
    ) as error:
        raise ValueError(f"a zip file must be whole and undamaged, got: {error}") from None


def _read_zip(file: IO[bytes], budget: Budget) -> object:
    with undamaged():
        return _read_entries(file, budget)


def _read_entries(file: IO[bytes], budget: Budget) -> object:
    archive = Archive(file, budget.max_bytes)
    pickles = [name for name in archive.names if name.endswith("/data.pkl")]
    if len(pickles) == 1 and pickles[0].count("/") == 1:
        return _read_torch(archive, pickles[0].removesuffix("data.pkl"), budget)
    if not all(name.endswith(".npy") for name in archive.names):
        shown = ", ".join(show(name) for name in archive.names[:10])
        raise ValueError(f"a zip file must be an .npz, or be torch's, got entries {shown}")
    return {name.removesuffix(".npy"): NpzArray(archive, name) for name in archive.names}


def _read_torch(archive: Archive, folder: str, budget: Budget) -> object:
    order = b"little"
    if folder + "byteorder" in archive.names:
        order = archive.read_small(folder + "byteorder")
    if order not in (b"little", b"big"):
        raise ValueError(f"torch's byte order must be little or big, got {show(order)}")
    storages: dict[str, Storage] = {}

    def load_storage(key: str, dtype: str, count: int) -> Storage:
        if key in storages and (storages[key].code, storages[key].count) == (dtype, count):
            return storages[key]
        storage = Storage(dtype, count, little_endian=order == b"little")
        with archive.open(f"{folder}data/{key}") as entry:
            storage.fill(archive.read(entry, storage.nbytes))
        storages[key] = storage
        return storage

    with archive.open(folder + "data.pkl") as entry:
        # A second buffer, because zipfile implements small reads in Python.
        source = io.BufferedReader(cast("io.RawIOBase", entry))
        found = unpickle_objects(source, budget, load_storage)
        _check_end(source)  # which also compares the checksum
    return found
