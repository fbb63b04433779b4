"""Activation maps of many photos in one `.npz` file."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_integer
from cuekit.io._archive import Archive, NpzArray, undamaged
from cuekit.io._common import PathLike, check_path
from cuekit.io.maps import Maps, checked_class_ids

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_MAX_ENTRIES = 2**20


class MapArchive:
    """Activation maps of many photos in one ``.npz`` file, read photo by photo.

    The file has these arrays for each photo, as ``numpy.savez`` or ``numpy.savez_compressed`` write
    them. NAME is the photo's name; it may contain slashes.

    ===================  =====================================================================
    ``NAME/cams``        (C, h, w) floating maps, without the background
    ``NAME/classes``     (C,) integers: the maps' class ids, 1 = the first class
    ``NAME/background``  (h, w), optional: the score of class 0, high = background
    ``NAME/features``    (D, h', w'), optional: see `Maps.features`
    ===================  =====================================================================

    Other entries are ignored. The file stays open until `close`, or until the object is deleted; it
    is a context manager, too. An object is for one thread.

    Parameters
    ----------
    path : str or path-like
        The file.
    max_bytes : int, default 2**30
        Size limit of the arrays of one photo together, in bytes.

    Attributes
    ----------
    names : tuple of str
        The photos' names, in the file's order.

    Raises
    ------
    TypeError
        If `path` is no path.
    ValueError
        If the file is damaged, has more than 2**20 entries, or has no ``NAME/cams``.
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import MapArchive
    >>> cams = np.ones((2, 3, 4), np.float16)
    >>> np.savez("maps.npz", **{"street/cams": cams, "street/classes": np.array([7, 15])})
    >>> with MapArchive("maps.npz") as archive:
    ...     found = archive.read("street")
    >>> archive.names, found.class_ids
    (('street',), array([ 7, 15]))
    """

    def __init__(self, path: PathLike, *, max_bytes: int = 2**30) -> None:
        file_path = check_path(path)
        max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
        self._open(file_path.open("rb"), os.fspath(file_path), max_bytes)

    @classmethod
    def of_file(cls, file: IO[bytes], path: str, max_bytes: int = 2**30) -> MapArchive:
        """Take a file that is open, such as one of a store; errors name `path`.

        The file is closed with the object.
        """
        archive = cls.__new__(cls)
        archive._open(file, path, max_bytes)
        return archive

    def _open(self, file: IO[bytes], path: str, max_bytes: int) -> None:
        self._file = file
        self._path = path
        try:
            with undamaged():
                self._archive = Archive(self._file, max_bytes, _MAX_ENTRIES)
            self._entries = frozenset(self._archive.names)
            self.names = tuple(
                entry.removesuffix("/cams.npy")
                for entry in self._archive.names
                if entry.endswith("/cams.npy")
            )
            if not self.names:
                raise ValueError("an archive must have NAME/cams for each photo")  # noqa: TRY301
        except ValueError as error:
            self._file.close()
            raise ValueError(f"{self._path}: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> Maps:
        """Read the maps of one photo.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        Maps
            Its `format` is "archive". Values are not changed or checked: NaNs stay.

        Raises
        ------
        ValueError
            If the file has no such photo, or the photo's entries are damaged, too large or not as
            described above. The message names the file and the photo.
        OSError
            If the file cannot be read.
        """
        try:
            with undamaged():
                self._archive.forget_read()
                return self._read(name)
        except ValueError as error:
            raise ValueError(f"{self._path}, {name}: {error}") from None

    def _read(self, name: str) -> Maps:
        if f"{name}/cams.npy" not in self._entries:
            raise ValueError("the archive must have maps of this photo, got none")
        maps = self._array(name, "cams", 3, "f")
        ids = self._array(name, "classes", 1, "iu")
        if len(ids) != len(maps):
            raise ValueError(f"classes must have {len(maps)} entries to match cams, got {len(ids)}")
        class_ids = checked_class_ids(ids.tolist(), "archive")
        if 0 in class_ids:
            raise ValueError("classes must be at least 1, the first class, got 0")
        background = None
        if f"{name}/background.npy" in self._entries:
            background = self._array(name, "background", 2, "f").astype(maps.dtype)
            if background.shape != maps.shape[1:]:
                raise ValueError(
                    f"background must have shape {maps.shape[1:]} to match cams, "
                    f"got {background.shape}"
                )
        features = None
        if f"{name}/features.npy" in self._entries:
            features = self._array(name, "features", 3, "f")
        return Maps(maps, class_ids, background, "archive", features=features)

    def _array(self, name: str, entry: str, ndim: int, kinds: str) -> NDArray[Any]:
        if f"{name}/{entry}.npy" not in self._entries:
            raise ValueError(f"an archive of maps must have {entry} of each photo, got none")
        stored = NpzArray(self._archive, f"{name}/{entry}.npy")
        if len(stored.shape) != ndim or stored.dtype.kind not in kinds or 0 in stored.shape[1:]:
            raise ValueError(
                f"{entry} must have {ndim} axes and be {'floats' if kinds == 'f' else 'integers'}, "
                f"got {stored.dtype} {stored.shape}"
            )
        array = stored.array()
        return np.array(array, array.dtype.newbyteorder("="), order="C")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # else it could not be opened
            self.close()

    def __enter__(self) -> MapArchive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
