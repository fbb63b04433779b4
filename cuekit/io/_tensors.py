"""Torch tensors of files as NumPy arrays: shapes and strides over plain memory, without torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# torch's storage classes by name, with the dtype of their elements. "bf16" is bfloat16, which NumPy
# does not have: its bits are the upper half of a float32's.
STORAGES = {
    "BoolStorage": "b1",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
}


class Storage:
    """The memory of tensors: `count` elements in a row.

    Made before its bytes are read, because a file may have them after the tensors.
    """

    __slots__ = ("code", "count", "data", "stored")

    def __init__(self, code: str, count: int, *, little_endian: bool) -> None:
        self.code = code
        self.count = count
        dtype = np.dtype("u2" if code == "bf16" else code)
        self.stored = dtype.newbyteorder("<" if little_endian else ">")
        self.data: bytes | None = None

    @property
    def nbytes(self) -> int:
        """The number of bytes that the file must have for it."""
        return self.count * self.stored.itemsize

    def fill(self, data: bytes) -> None:
        """Set the bytes."""
        if len(data) != self.nbytes:
            raise ValueError(f"a storage must have {self.nbytes} bytes, got {len(data)}")
        self.data = data


class Tensor:
    """A shape, and strides over a storage, both counted in elements.

    Raises
    ------
    ValueError
        If an element would lie outside the storage.
    """

    __slots__ = ("_offset", "_storage", "_strides", "shape")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
    ) -> None:
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(
                "a tensor's offset, shape and strides must be integers >= 0, one stride for each "
                f"axis, got {offset!r}, {shape!r}, {strides!r}"
            )
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= storage.count:
            raise ValueError(
                f"a tensor must lie within its storage of {storage.count} elements, got offset "
                f"{offset}, shape {shape}, strides {strides}"
            )
        self._storage = storage
        self._offset = offset
        self._strides = strides
        self.shape: tuple[int, ...] = shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array."""
        return np.dtype("f4" if self._storage.code == "bf16" else self._storage.code)

    @property
    def nbytes(self) -> int:
        """The size of the array, which may be larger than the storage: strides may be 0."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> NDArray[Any]:
        """Return the elements as a read-only array, a view where possible."""
        storage = self._storage
        if storage.data is None:
            raise ValueError("a tensor's storage must be in the file, got none")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        size = storage.stored.itemsize
        # An axis of length 1 may have any stride, even one that no address has.
        steps = zip(self.shape, self._strides, strict=True)
        strides = [size * step if n > 1 else 0 for n, step in steps]
        stored: NDArray[Any] = np.ndarray(
            self.shape, storage.stored, storage.data, self._offset * size, strides
        )
        if storage.code == "bf16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if storage.code == "b1" and int(stored.view(np.uint8).max()) > 1:
            raise ValueError("bool tensors must hold bytes 0 and 1, got others")
        return stored
