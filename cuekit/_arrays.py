"""Adopt what the caller gives, return the same kind.

Adopting never copies: the result is a view of the caller's memory, a NumPy array on the CPU and a
`DeviceArray` on a CUDA device.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from cuekit import _cupy, _torch
from cuekit._device import AnyArray, AnyFramework, Array, DeviceArray


def adopt(value: Any, name: str) -> AnyArray:
    """View a NumPy array, torch tensor or CuPy array, on the CPU or on a CUDA device.

    Raises
    ------
    TypeError
        If it is none of these, or of a kind that NumPy cannot view.
    ValueError
        If it is on another device, or a tensor that requires grad while grad mode is on.
    """
    if _torch.is_tensor(value):
        return _torch.adopt(value, name)
    if _cupy.is_cupy(value):
        return _cupy.adopt(value, name)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain NumPy array, got a masked array; fill it first")
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}"
        )
    if not value.dtype.isnative:
        raise TypeError(f"{name} must have native byte order, got dtype {value.dtype.str}")
    return value.view(np.ndarray)


def is_on_cpu(array: AnyArray) -> TypeGuard[Array]:
    """Tell whether an adopted array lies on the CPU."""
    return not isinstance(array, DeviceArray)


def flat(array: AnyArray, *shape: int) -> Any:
    """Return the array in another shape, C-contiguous and aligned: copied only if it is not."""
    if isinstance(array, DeviceArray):
        return array.device.contiguous(array).reshape(shape)
    # np.require alone takes two microseconds, as long as some kernels.
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, requirements=("C", "A"))
    return array.reshape(shape)


def part(array: AnyArray, index: tuple[int, ...]) -> Any:
    """Return a view of what is at an index of the first axes; C-contiguous on a device."""
    if isinstance(array, DeviceArray):
        shape = array.shape[len(index) :]
        first = int(np.ravel_multi_index(index, array.shape[: len(index)])) if index else 0
        address = array.address + first * math.prod(shape) * array.dtype.itemsize
        return DeviceArray(array.owner, array.device, address, shape, array.dtype)
    return array[index]


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: AnyArray) -> Any:
    """Return uninitialised memory on the device of `beside`."""
    if isinstance(beside, DeviceArray):
        return beside.device.empty(shape, dtype)
    return np.empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: AnyArray) -> Any:
    """Return zeros on the device of `beside`."""
    if isinstance(beside, DeviceArray):
        return beside.device.zeros(shape, dtype)
    return np.zeros(shape, dtype)


def like(result: AnyArray, first: AnyFramework) -> AnyFramework:
    """Return `result` in the framework of the caller's first argument, without a copy."""
    value: Any = result
    if isinstance(result, DeviceArray):
        value = result.owner
    elif _torch.is_tensor(first):
        value = _torch.from_numpy(result)
    return cast("AnyFramework", value)


# ------------------------------------------------------------- values; on a device they synchronise


def item(array: AnyArray, index: tuple[int, ...]) -> Any:
    """Return one value."""
    return array.device.item(array, index) if isinstance(array, DeviceArray) else array[index]


def find_outside(
    array: AnyArray, lowest: Any, largest: Any, *, allow_infinity: bool
) -> tuple[int, ...] | None:
    """Return the index of a value that is not in [lowest, largest] (nor +inf), or None."""
    if isinstance(array, DeviceArray):
        limits = float(lowest), float(largest)
        return array.device.find_outside(array, *limits, allow_infinity=allow_infinity)
    inside = (array >= lowest) & (array <= largest)
    return first_true(~(inside | (array == np.inf) if allow_infinity else inside))


def find_all_infinite(array: AnyArray, present: Any) -> tuple[int, ...] | None:
    """Return the index (..., y, x) of a pixel with +inf for channel 0 and all present ones."""
    if isinstance(array, DeviceArray):
        return array.device.find_all_infinite(array, present)
    infinite, absent = array == np.inf, ~present[..., None, None]
    return first_true(infinite[..., 0, :, :] & (infinite[..., 1:, :, :] | absent).all(-3))


def first_true(found: Array) -> tuple[int, ...] | None:
    """Return the index of the first true value, or None."""
    if not found.any():
        return None
    return tuple(map(int, np.unravel_index(found.argmax(), found.shape)))
