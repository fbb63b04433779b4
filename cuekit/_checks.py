"""Checks of arguments, and the wording of every error: argument, rule, actual value."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuekit._arrays import AnyArray, Array, DeviceArray, adopt, adopt_anywhere

FLOATS = ("float16", "float32", "float64")
CUES = ("bool", "uint8")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def check_threads(threads: int | None) -> int:
    """Return the number of threads to use; None means one per core this process may use."""
    if threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return min(check_integer(threads, "threads", minimum=1), 2**31 - 1)


def check_integer(value: Any, name: str, *, minimum: int | None = None) -> int:
    """Return an integer argument as int."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(value: Any, name: str, *, minimum: float | None = None) -> float:
    """Return a finite real argument as float."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return one of a few strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_size(value: Any, name: str) -> tuple[int, int]:
    """Return a (height, width) pair of positive integers."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (height, width), got {value!r}")
    height, width = (check_integer(side, name, minimum=1) for side in value)
    if height * width >= 2**31:
        raise ValueError(f"{name} must be fewer than 2147483648 pixels, got {value!r}")
    return height, width


def check_pixels(array: AnyArray, name: str) -> None:
    """Refuse maps of a size that 32-bit columns and counts cannot hold."""
    pixels = array.shape[-2] * array.shape[-1]
    if pixels >= 2**31:
        raise ValueError(f"{name} must have fewer than 2147483648 pixels, got {pixels}")


def check_array(value: Any, name: str, dtypes: Sequence[str], *, ndim: int, layout: str) -> Array:
    """Adopt an array on the CPU, of one of `dtypes`, with at least `ndim` dimensions.

    The result is C-contiguous and aligned: what is not costs one copy, as every function documents.
    """
    array = adopt(value, name)
    _check_dtype_and_ndim(array, name, dtypes, ndim, layout)
    return np.require(array, requirements=("C", "A"))


def check_any_array(
    value: Any,
    name: str,
    dtypes: Sequence[str],
    *,
    ndim: int,
    layout: str,
    beside: tuple[AnyArray, str] | None = None,
) -> Any:
    """`check_array` for the CPU and CUDA devices; where `beside` and its name say, if given."""
    array = adopt_anywhere(value, name)
    if beside is not None:
        check_place(array, name, *beside)
    _check_dtype_and_ndim(array, name, dtypes, ndim, layout)
    if isinstance(array, DeviceArray):
        return array.device.contiguous(array)
    return np.require(array, requirements=("C", "A"))


def _check_dtype_and_ndim(
    array: AnyArray, name: str, dtypes: Sequence[str], ndim: int, layout: str
) -> None:
    if array.dtype.name not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(dtypes)}, got {array.dtype}")
    if array.ndim < ndim:
        raise ValueError(f"{name} must have shape {layout}, got {array.shape}")


def place_of(array: AnyArray) -> str:
    """Where an array lies, for errors."""
    return str(array.device) if isinstance(array, DeviceArray) else "the CPU"


def check_place(array: AnyArray, name: str, first: AnyArray, of: str) -> None:
    """Refuse an array that does not lie where another argument does."""
    here = array.device if isinstance(array, DeviceArray) else None
    there = first.device if isinstance(first, DeviceArray) else None
    if here != there:
        raise ValueError(
            f"{name} must be on {place_of(first)}, as {of} is, got it on {place_of(array)}: "
            "nothing is moved between devices"
        )


def check_shape(array: AnyArray, name: str, shape: tuple[int, ...], other: str) -> None:
    """Refuse an array whose shape does not match another argument's."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to match {other}, got {array.shape}")


def check_present(
    present: Any,
    name: str,
    batch: tuple[int, ...],
    classes: int,
    of: str,
    beside: AnyArray | None = None,
) -> Any:
    """Return the tags as a C-contiguous bool array of shape (..., C); None means all present.

    They lie where `beside` does, or on the CPU. Lists are copied, arrays elsewhere are refused.
    """
    if present is None:
        shape = (*batch, classes)
        return (
            beside.device.true(shape) if isinstance(beside, DeviceArray) else np.ones(shape, bool)
        )
    from_list = isinstance(present, list | tuple)
    if from_list:  # tags are few: a list is welcome
        try:
            present = np.array(present) if len(present) else np.zeros(0, dtype=bool)
        except ValueError as error:
            raise ValueError(f"{name} must be rows of one length, got {present!r}") from error
    array = adopt_anywhere(present, name)
    if beside is not None and not from_list:
        check_place(array, name, beside, of)
    if array.dtype != np.bool_:
        raise TypeError(
            f"{name} must have dtype bool, one entry per foreground class, got {array.dtype}"
        )
    if array.shape != (*batch, classes):
        listed = array.ndim > 0 and array.shape[-1] == classes + 1
        raise ValueError(
            f"{name} must have shape {(*batch, classes)} to match {of}, got {array.shape}"
            + ("; the background is not listed" if listed else "")
        )
    if isinstance(array, DeviceArray):
        return array.device.contiguous(array)
    # A bool view of bytes may hold others than 0 and 1, which the kernels must not meet.
    tags = np.ascontiguousarray(array).view(np.uint8) != 0
    return beside.device.from_host(tags) if isinstance(beside, DeviceArray) else tags


def check_values(validate: bool, *arrays: tuple[str, AnyArray], present: Any = None) -> None:
    """Look for values that are not finite on a CUDA device, if the caller wants to wait for it.

    With `present`, among the present classes' maps only. On the CPU the kernels themselves look,
    always.
    """
    if not isinstance(validate, bool | np.bool_):
        raise TypeError(f"validate must be True or False, got {validate!r}")
    for name, array in arrays:
        if validate and isinstance(array, DeviceArray) and array.dtype.kind == "f":
            index = array.device.find_nonfinite(array, present)
            if index is not None:
                value = array.device.item(array, index)
                raise ValueError(f"{name} must be finite, got {value} at index {index}")


def check_finite(finite: bool | None, *arrays: tuple[str, Array]) -> None:
    """Raise the error for what a kernel found: one of the arrays was not finite.

    None is a CUDA kernel's answer, which has not looked.
    """
    if finite or finite is None:
        return
    for name, array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite, got {array[index]} at index {index}")
    raise ValueError(f"{arrays[0][0]} must be small enough for float64 sums, got an infinite sum")
