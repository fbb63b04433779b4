"""Checks of arguments, and the wording of every error: argument, rule, actual value."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuekit._arrays import adopt, contiguous, is_on_cpu
from cuekit._device import AnyArray, Array, DeviceArray

FLOATS = ("float16", "float32", "float64")
CUES = ("bool", "uint8")
# Superpixel labels are below it on the CPU, whatever their number.
SUPERPIXEL_LIMIT = 2**31
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


def check_any_array(
    value: Any,
    name: str,
    dtypes: Sequence[str],
    *,
    ndim: int,
    layout: str,
    beside: tuple[AnyArray, str] | None = None,
) -> Any:
    """Adopt an array of one of `dtypes`, with at least `ndim` dimensions.

    If `beside` is given, another argument and its name, the array must be on the same device.

    The result is C-contiguous and aligned: an array that is not is copied once, as every function
    documents.
    """
    array = adopt(value, name)
    if beside is not None:
        check_device(array, name, *beside)
    if array.dtype.name not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(dtypes)}, got {array.dtype}")
    if array.ndim < ndim:
        raise ValueError(f"{name} must have shape {layout}, got {array.shape}")
    return contiguous(array)


def check_array(value: Any, name: str, dtypes: Sequence[str], *, ndim: int, layout: str) -> Array:
    """`check_any_array` for functions that have no kernel for CUDA devices."""
    array = adopt(value, name)
    check_on_cpu(array, name)
    result: Array = check_any_array(value, name, dtypes, ndim=ndim, layout=layout)
    return result


def check_photos(image: Any, channel_axis: int | None) -> Array:
    """Adopt photos on the CPU, uint8 or floating, as (..., H, W, channels) in any memory order."""
    photos = check_array(
        image,
        "image",
        ("uint8", *FLOATS),
        ndim=2 if channel_axis is None else 3,
        layout="(..., H, W)" if channel_axis is None else "(..., H, W, channels)",
    )
    if channel_axis is None:
        return photos[..., None]
    axis = check_integer(channel_axis, "channel_axis")
    if not -photos.ndim <= axis < photos.ndim:
        raise ValueError(f"channel_axis must be an axis of image {photos.shape}, got {axis}")
    photos = np.moveaxis(photos, axis, -1)
    if photos.shape[-1] == 0:
        raise ValueError(f"image must have at least one channel, got {tuple(image.shape)}")
    return photos


def check_on_cpu(array: AnyArray, name: str) -> None:
    """Refuse an array on a device for which there is no kernel."""
    if not is_on_cpu(array):
        raise ValueError(
            f"{name} must be on the CPU, got an array on {device_name(array)}: there is no kernel "
            "for other devices, and nothing is moved between devices; copy it to the CPU first"
        )


def device_name(array: AnyArray) -> str:
    """Name the device of an array, for errors."""
    return str(array.device) if isinstance(array, DeviceArray) else "the CPU"


def check_device(array: AnyArray, name: str, first: AnyArray, first_name: str) -> None:
    """Refuse an array that is not on the device of another argument."""
    here = array.device if isinstance(array, DeviceArray) else None
    there = first.device if isinstance(first, DeviceArray) else None
    if here != there:
        raise ValueError(
            f"{name} must be on {device_name(first)}, as {first_name} is, got it on "
            f"{device_name(array)}: nothing is moved between devices"
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
    first: AnyArray | None,
    first_name: str,
) -> Any:
    """Return the tags as a C-contiguous bool array (*batch, C); None means all are present.

    The result is on the device of `first`; None is the CPU. Lists are copied there; arrays on other
    devices are refused.
    """
    if present is None:
        shape = (*batch, classes)
        if isinstance(first, DeviceArray):
            return first.device.ones(shape, np.bool_)
        return np.ones(shape, np.bool_)
    from_list = isinstance(present, list | tuple)
    if from_list:  # tags are few: a list is welcome
        try:
            present = np.array(present) if len(present) else np.zeros(0, dtype=bool)
        except ValueError as error:
            raise ValueError(f"{name} must be rows of one length, got {present!r}") from error
    tags = adopt(present, name)
    if first is not None and not from_list:
        check_device(tags, name, first, first_name)
    if tags.dtype != np.bool_:
        raise TypeError(
            f"{name} must have dtype bool, one entry per foreground class, got {tags.dtype}"
        )
    if tags.shape != (*batch, classes):
        listed = tags.ndim > 0 and tags.shape[-1] == classes + 1
        raise ValueError(
            f"{name} must have shape {(*batch, classes)} to match {first_name}, got {tags.shape}"
            + ("; the background is not listed" if listed else "")
        )
    if is_on_cpu(tags) and isinstance(first, DeviceArray):
        return first.device.from_host(tags)
    return contiguous(tags)


def check_superpixels(
    labels: AnyArray,
    batch: tuple[int, ...],
    size: tuple[int, int] | None,
    first_name: str,
    *,
    num_superpixels: int | None,
    validate: bool,
) -> tuple[AnyArray, int]:
    """Check adopted superpixels (*batch, H, W); return them and a number above all labels.

    The CPU's kernels check the labels themselves. On a device, without `num_superpixels`, the
    largest label is read back, and labels are renumbered if it is not below the number of pixels:
    workspace must not grow with what the labels are.
    """
    if labels.shape[:-2] != batch or (size is not None and labels.shape[-2:] != size):
        expected = ", ".join(map(str, (*batch, *(size or ("H", "W")))))
        raise ValueError(
            f"superpixels must have shape ({expected}) to match {first_name}, got {labels.shape}"
        )
    check_pixels(labels, "superpixels")
    pixels = labels.shape[-2] * labels.shape[-1]
    if num_superpixels is not None:
        num_superpixels = check_integer(num_superpixels, "num_superpixels", minimum=1)
        if num_superpixels > max(pixels, 1):
            raise ValueError(
                f"num_superpixels must be at most {pixels}, the number of pixels, got "
                f"{num_superpixels}; leave it out to have sparse labels renumbered"
            )
    if not isinstance(labels, DeviceArray) or labels.size == 0:
        return labels, num_superpixels or SUPERPIXEL_LIMIT
    if validate:
        index = labels.device.find_negative(labels)
        if index is not None:
            value = labels.device.item(labels, index)
            raise ValueError(f"superpixels must be at least 0, got {value} at index {index}")
        largest = labels.device.largest(labels)
        limit = num_superpixels or SUPERPIXEL_LIMIT
        if largest >= limit:
            raise ValueError(f"superpixels must be less than {limit}, got {largest}")
    if num_superpixels is None:
        largest = labels.device.largest(labels)
        if largest >= pixels:
            labels = labels.device.consecutive(labels)
            largest = labels.device.largest(labels)
        num_superpixels = max(largest + 1, 1)
    return labels, num_superpixels


def check_values(validate: bool, *arrays: tuple[str, AnyArray], present: Any = None) -> None:
    """Check for non-finite values on a CUDA device if `validate` is set; this synchronises.

    With `present`, only the present classes' maps are checked. On the CPU the kernels check always.
    """
    if not isinstance(validate, bool | np.bool_):
        raise TypeError(f"validate must be True or False, got {validate!r}")
    for name, array in arrays:
        if validate and isinstance(array, DeviceArray) and array.dtype.kind == "f":
            index = array.device.find_nonfinite(array, present)
            if index is not None:
                value = array.device.item(array, index)
                raise ValueError(f"{name} must be finite, got {value} at index {index}")


def check_finite(finite: bool, *arrays: tuple[str, Array], present: Any = None) -> None:
    """Raise the error for what a kernel found: one of the arrays was not finite.

    With `present`, only the present classes' maps count.
    """
    if finite:
        return
    for name, array in arrays:
        if array.dtype.kind != "f":
            continue
        bad = ~np.isfinite(array)
        if present is not None:
            bad &= present[..., None, None]
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name} must be finite, got {array[index]} at index {index}")
    raise ValueError(f"{arrays[0][0]} must be small enough for float64 sums, got an infinite sum")
