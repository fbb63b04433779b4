"""An array on a CUDA device in NumPy's words, whichever library it belongs to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]


class CupyArray(Protocol):
    """What tells a CuPy array from others, for type checkers: CuPy has no type hints."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Any: ...
    def get(self) -> Any: ...


# The caller's first argument: the result is of the same framework.
AnyFramework = TypeVar("AnyFramework", Array, "Tensor", CupyArray)


class Device(Protocol):
    """A CUDA device as one library sees it: its allocator, its stream, a few operations."""

    index: int

    def adopt(self, array: Any) -> DeviceArray:
        """View an array of the library."""

    def stream(self) -> int:
        """Return the handle of the caller's current stream."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return uninitialised memory."""

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return zeros."""

    def ones(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return ones."""

    def allocate(self, nbytes: int) -> DeviceArray:
        """Return workspace. It goes back to the library's allocator when it is dropped."""

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        """Return the array, or a copy if it is not C-contiguous."""

    def from_host(self, array: Array) -> DeviceArray:
        """Copy a small array to the device."""

    def largest(self, array: DeviceArray) -> int:
        """Return the largest value of an array of integers. Synchronises."""

    def consecutive(self, array: DeviceArray) -> DeviceArray:
        """Return labels >= 0 renumbered from 0 per image, as int32. Synchronises."""

    def find_nonfinite(
        self, array: DeviceArray, present: DeviceArray | None
    ) -> tuple[int, ...] | None:
        """Return the index of a non-finite value (of a present class), or None. Synchronises."""

    def find_outside(
        self, array: DeviceArray, lowest: float, largest: float, *, allow_infinity: bool
    ) -> tuple[int, ...] | None:
        """Return the index of a value that is not in [lowest, largest] (nor +inf), or None.

        NaN is in no range. Synchronises.
        """

    def find_all_infinite(self, array: DeviceArray, present: DeviceArray) -> tuple[int, ...] | None:
        """Return the index of a pixel with +inf for channel 0 and all present ones, or None.

        The index is that in `array` without the axis of channels. Synchronises.
        """

    def find_below(self, array: DeviceArray, least: int) -> tuple[int, ...] | None:
        """Return the index of a value of a signed integer dtype below `least`. Synchronises."""

    def holds_masks(self, array: DeviceArray) -> bool:
        """Tell whether uint8 values are all 0 and 1, or all 0 and 255. Synchronises."""

    def holds_tags(self, array: DeviceArray) -> bool:
        """Tell whether all values are 0 or 1. Synchronises."""

    def nonzero(self, array: DeviceArray) -> DeviceArray:
        """Return which values are not 0, as bool."""

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        """Return one value. Synchronises."""


class DeviceArray:
    """A view of an array on a CUDA device. The kernels take its address.

    Attributes
    ----------
    owner : tensor or CuPy array
        The array of the caller's framework, which holds the memory.
    device : Device
    address : int
    shape : tuple of int
    dtype : numpy.dtype
    is_contiguous : bool
        Whether it is C-contiguous.
    """

    __slots__ = ("address", "device", "dtype", "is_contiguous", "owner", "shape")

    def __init__(
        self,
        owner: Any,
        device: Device,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        is_contiguous: bool = True,
    ) -> None:
        self.owner, self.device, self.address = owner, device, address
        self.shape, self.dtype, self.is_contiguous = shape, dtype, is_contiguous

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of items."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def view(self, dtype: npt.DTypeLike) -> DeviceArray:
        """Return the same memory as items of another type of the same size."""
        return DeviceArray(self.owner, self.device, self.address, self.shape, np.dtype(dtype))

    def reshape(self, *shape: Any) -> DeviceArray:
        """Return the same contiguous memory in another shape, one length of which may be -1."""
        lengths = list(shape[0] if isinstance(shape[0], tuple) else shape)
        if -1 in lengths:
            known = math.prod(length for length in lengths if length != -1)
            lengths[lengths.index(-1)] = self.size // known
        return DeviceArray(self.owner, self.device, self.address, tuple(lengths), self.dtype)


AnyArray: TypeAlias = Array | DeviceArray

# How to run a kernel: the number of threads on the CPU, or the device.
Context: TypeAlias = int | Device
