"""CuPy arrays, viewed as device arrays.

CuPy is never imported here. Where the caller has not imported it, there are no CuPy arrays.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from cuekit._device import Array, DeviceArray


def is_cupy(value: object) -> bool:
    """Tell whether `value` is a CuPy array."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(value, kind)


def adopt(array: Any, name: str) -> DeviceArray:
    """View a CuPy array as a device array, without a copy."""
    if np.dtype(array.dtype).isbuiltin != 1:
        raise TypeError(f"{name} must have a dtype that NumPy knows, got {array.dtype}")
    return CupyDevice(array.device.id).adopt(array)


class CupyDevice:
    """A CUDA device as CuPy sees it."""

    def __init__(self, index: int) -> None:
        self.cupy, self.index = sys.modules["cupy"], index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CupyDevice) and other.index == self.index

    def __hash__(self) -> int:
        return hash(self.index)

    def __str__(self) -> str:
        return f"CUDA device {self.index} (CuPy)"

    def adopt(self, array: Any) -> DeviceArray:
        """View an array."""
        return DeviceArray(
            array,
            self,
            array.data.ptr,
            tuple(array.shape),
            np.dtype(array.dtype),
            is_contiguous=bool(array.flags.c_contiguous),
        )

    def _current(self) -> Any:
        """CuPy computes on the current device, whichever its arrays are on."""
        return self.cupy.cuda.Device(self.index)

    def stream(self) -> int:
        with self._current():
            handle: int = self.cupy.cuda.get_current_stream().ptr
            return handle

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.empty(shape, dtype))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.zeros(shape, dtype))

    def ones(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.ones(shape, dtype))

    def allocate(self, nbytes: int) -> DeviceArray:
        return self.empty((nbytes,), np.uint8)

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        if array.is_contiguous:
            return array
        with self._current():
            return self.adopt(self.cupy.ascontiguousarray(array.owner))

    def from_host(self, array: Array) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.asarray(array))

    def largest(self, array: DeviceArray) -> int:
        with self._current():
            return int(array.owner.max())

    def consecutive(self, array: DeviceArray) -> DeviceArray:
        with self._current():
            images = array.owner.reshape(-1, *array.shape[-2:])
            labels = [self.cupy.unique(image, return_inverse=True)[1] for image in images]
            stacked = self.cupy.stack([each.reshape(array.shape[-2:]) for each in labels])
            stacked = self.cupy.where(images >= 0, stacked, -1).astype(np.int32)
            return self.adopt(stacked.reshape(array.shape))

    def find_nonfinite(
        self, array: DeviceArray, present: DeviceArray | None
    ) -> tuple[int, ...] | None:
        with self._current():
            bad = ~self.cupy.isfinite(array.owner)
            return self._first(bad if present is None else bad & present.owner[..., None, None])

    def find_outside(
        self, array: DeviceArray, lowest: float, largest: float, *, allow_infinity: bool
    ) -> tuple[int, ...] | None:
        with self._current():
            values = array.owner
            inside = (values >= lowest) & (values <= largest)
            return self._first(~(inside | (values == math.inf) if allow_infinity else inside))

    def find_all_infinite(self, array: DeviceArray, present: DeviceArray) -> tuple[int, ...] | None:
        with self._current():
            infinite = array.owner == math.inf
            absent = ~present.owner[..., None, None]
            return self._first(infinite[..., 0, :, :] & (infinite[..., 1:, :, :] | absent).all(-3))

    def find_below(self, array: DeviceArray, least: int) -> tuple[int, ...] | None:
        with self._current():
            return self._first(array.owner < least)

    def _first(self, bad: Any) -> tuple[int, ...] | None:
        indices = self.cupy.argwhere(bad)
        return tuple(int(i) for i in indices[0]) if len(indices) else None

    def holds_masks(self, array: DeviceArray) -> bool:
        with self._current():
            values = array.owner
            return bool((values <= 1).all() | ((values == 0) | (values == 255)).all())

    def holds_tags(self, array: DeviceArray) -> bool:
        with self._current():
            return bool(((array.owner == 0) | (array.owner == 1)).all())

    def nonzero(self, array: DeviceArray) -> DeviceArray:
        with self._current():
            return self.adopt(array.owner != 0)

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        return array.owner[index].item()
