"""Checks of arguments, and the wording of every error: argument, rule, actual value."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable, Sequence, Sized
from functools import lru_cache
from typing import Any

import numpy as np

from cuekit._arrays import adopt, find_outside, is_on_cpu
from cuekit._device import AnyArray, Array, DeviceArray

FLOATS = ("float16", "float32", "float64")
CUES = ("bool", "uint8")
# Rounding of float16, resizing and softmax leaves values this far outside [0, 1].
RANGE_TOLERANCE = 1e-3
# A Gaussian of some 10^5 pixels is wider than any photo; its weights are an array, too.
MAX_SIGMA = 100_000
# The label of pixels in no superpixel.
NO_SUPERPIXEL = -1
# Superpixel labels are below it on the CPU, whatever their number.
SUPERPIXEL_LIMIT = 2**31
# Beyond these, weights and reciprocals of widths would leave float32, in which a lattice is built.
LARGEST = 1e30
# What differs by one pixel or gray level is 8 standard deviations apart then, and the lattice
# reaches no farther than 6 (simplex, blur, simplex): narrower kernels have the same result, up to
# the lattice's own error.
NARROWEST = 0.125
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name, which NumPy makes anew each time, in two microseconds."""
    return dtype.name


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


def check_sigma(value: Any) -> float:
    """Return the standard deviation of a Gaussian filter, in pixels."""
    sigma = check_number(value, "sigma", minimum=0)
    if sigma > MAX_SIGMA:
        raise ValueError(f"sigma must be at most {MAX_SIGMA}, got {sigma}")
    return sigma


def check_width(value: Any, name: str) -> float:
    """Return the width of a filter on the lattice as it is computed."""
    width = check_number(value, name, minimum=0)
    if width == 0:
        raise ValueError(f"{name} must be greater than 0, got {width}")
    return lattice_width(width)


def lattice_width(value: float) -> float:
    """Return the width that a lattice has instead of one too narrow or too wide for it."""
    return min(max(value, NARROWEST), LARGEST)


def check_switch(value: Any, name: str) -> bool:
    """Return an argument that is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return one of a few strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_size(value: Any, name: str) -> tuple[int, int]:
    """Return a (height, width) pair of positive integers, from any sequence or array of two."""
    sides = integers_of(value)
    if sides is None or len(sides) != 2:
        raise TypeError(f"{name} must be a pair (height, width), got {value!r}")
    height, width = (check_integer(side, name, minimum=1) for side in sides)
    if height * width >= 2**31:
        raise ValueError(f"{name} must be fewer than 2147483648 pixels, got {value!r}")
    return height, width


def integers_of(value: Any) -> list[Any] | None:
    """Return the items of a sequence, a dictionary's keys, or a 1-D array or tensor; else None."""
    if isinstance(value, str | bytes):
        return None
    if hasattr(value, "tolist"):
        items = value.tolist()
        # tolist() of an array of floats gives floats, which are not integers.
        return items if isinstance(items, list) else None
    return list(value) if isinstance(value, Iterable) and isinstance(value, Sized) else None


def check_classes(classes: Any, channels: int | None, name: str, ignore: int | None) -> list[int]:
    """Return the label of each channel of `name`; None means that channel i has label i.

    With `channels` None, there may be any number of them.
    """
    ids = list(range(channels or 0)) if classes is None else integers_of(classes)
    if ids is None:
        raise TypeError(f"classes must be a sequence of integers, got {classes!r}")
    class_ids = [check_integer(label, f"classes[{i}]") for i, label in enumerate(ids)]
    if not class_ids and channels is None:
        raise ValueError("classes must have an entry for the background, got none")
    if channels is not None and len(class_ids) != channels:
        raise ValueError(
            f"classes must have {channels} entries, one per channel of {name}, got {len(class_ids)}"
        )
    if ignore in class_ids:
        raise ValueError(
            f"classes must not contain {ignore}, the label of ignored pixels, "
            f"got it for channel {class_ids.index(ignore)}; pass another ignore="
        )
    return class_ids


def label_dtype(labels: list[int], names: str) -> np.dtype[Any]:
    """Return the dtype of a label map: uint8 if all labels lie in 0..255, else int32."""
    if min(labels) < -(2**31) or max(labels) >= 2**31:
        raise ValueError(f"{names} must fit in int32, got {labels}")
    return np.dtype(np.uint8 if min(labels) >= 0 and max(labels) <= 255 else np.int32)


def check_pixels(array: AnyArray, name: str) -> None:
    """Refuse maps of a size that 32-bit columns and counts cannot hold."""
    pixels = array.shape[-2] * array.shape[-1]
    if pixels >= 2**31:
        raise ValueError(f"{name} must have fewer than 2147483648 pixels, got {pixels}")


def _kinds(dtypes: Sequence[str]) -> str:
    """Name dtypes for errors: integers by their kind, the others one by one."""
    named = [name for name in dtypes if not set(INTEGERS) <= set(dtypes) or name not in INTEGERS]
    kinds = ["dtype " + " or ".join(named)] if named else []
    return " or ".join(kinds if len(named) == len(dtypes) else [*kinds, "any integer dtype"])


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

    The result has any memory order: kernels are given `flat` arrays, after all checks.
    """
    array = adopt(value, name)
    if beside is not None:
        check_device(array, name, *beside)
    if _name_of(array.dtype) not in dtypes:
        raise TypeError(f"{name} must have {_kinds(dtypes)}, got {array.dtype}")
    if array.ndim < ndim:
        raise ValueError(f"{name} must have shape {layout}, got {array.shape}")
    return array


def check_array(value: Any, name: str, dtypes: Sequence[str], *, ndim: int, layout: str) -> Array:
    """`check_any_array` for functions that have no kernel for CUDA devices."""
    array = adopt(value, name)
    check_on_cpu(array, name)
    result: Array = check_any_array(value, name, dtypes, ndim=ndim, layout=layout)
    return result


def check_photos(image: Any, channel_axis: int | None) -> Array:
    """Adopt photos on the CPU, uint8 or floating, as (..., H, W, channels) in any memory order."""
    dtypes = ("uint8", *FLOATS)
    if channel_axis is None:
        return check_array(image, "image", dtypes, ndim=2, layout="(..., H, W)")[..., None]
    photos = check_array(image, "image", dtypes, ndim=2, layout="(..., H, W, channels)")
    if photos.ndim == 2:
        raise ValueError(
            f"image must have shape (..., H, W, channels), got {photos.shape}; pass "
            "channel_axis=None for gray photos"
        )
    axis = check_integer(channel_axis, "channel_axis")
    if not -photos.ndim <= axis < photos.ndim:
        raise ValueError(f"channel_axis must be an axis of image {photos.shape}, got {axis}")
    if axis == -1:
        check_channel_last(photos, "image", f", or channel_axis={photos.ndim - 1} if they are last")
    photos = np.moveaxis(photos, axis, -1)
    if photos.shape[-1] == 0:
        raise ValueError(f"image must have at least one channel, got {np.shape(image)}")
    return photos


def check_photos_beside(image: Any, maps: AnyArray, name: str, dtype: str = "uint8") -> Any:
    """Adopt photos (..., H, W, 3) on the device of `maps`, which is (..., K, H, W).

    Channel-last maps and channel-first photos, which are common, are refused by name.
    """
    layout = "(..., H, W, 3)"
    photos = check_any_array(image, "image", (dtype,), ndim=3, layout=layout, beside=(maps, name))
    refuse_other_orders(photos, maps, name, layout)
    return photos


def refuse_other_orders(photos: AnyArray, maps: AnyArray, name: str, layout: str) -> None:
    """Refuse channel-first photos, and channel-last maps, beside maps (..., K, H, W)."""
    if photos.ndim < 3:
        return
    if photos.shape[-1] != 3 and photos.shape[-3] == 3 and photos.ndim == maps.ndim:
        raise ValueError(
            f"image must have shape {layout}, got {photos.shape}: the channels come first; "
            "move them to the end"
        )
    if photos.shape[:-1] == maps.shape[:-1] and photos.shape[-3:-1] != maps.shape[-2:]:
        what = "classes" if name == "probabilities" else "channels"
        raise ValueError(
            f"{name} must have shape (..., K, H, W), got {maps.shape}: the {what} come "
            "last; move them before height and width"
        )


def check_channel_last(photos: AnyArray, name: str, hint: str = "") -> None:
    """Refuse photos whose channels stand where torch has them: (..., 3, H, W)."""
    if photos.shape[-1] > 4 and photos.shape[-3] in (3, 4):
        raise ValueError(
            f"{name} must have shape (..., H, W, channels), got {photos.shape}: the channels seem "
            f"to come first; pass channel_axis=-3{hint}"
        )


def warn_caller(message: str) -> None:
    """Warn of the line that called cuekit, however deep in it the reason was found."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "cuekit":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def warn_of_range(photos: Array) -> None:
    """Warn of floating photos outside [0, 1]: scale and thresholds mean something else there."""
    if photos.dtype.kind != "f":
        return
    low, high = float(photos.min()), float(photos.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        warnings.warn(
            f"image should lie in [0, 1] where it is floating, got {low:g} to {high:g}: the result "
            "differs from that of the uint8 photo; divide by 255, or undo a normalisation",
            stacklevel=3,
        )


def check_masks(array: AnyArray, name: str, *, validate: bool = False) -> None:
    """Refuse uint8 that does not hold masks, which are 0 and 1, or 0 and 255.

    On a CUDA device only if `validate` is set; this synchronises.
    """
    if array.dtype != np.uint8 or array.size == 0:
        return
    advice = "pass activation maps as floats, and a label map as one mask for each class"
    rule = f"{name} must hold 0 and 1, or 0 and 255, where the dtype is uint8"
    if isinstance(array, DeviceArray):
        if validate and not array.device.holds_masks(array):
            raise ValueError(f"{rule}, got other values: {advice}")
        return
    if not holds_masks(array):
        bad = (array != 0) & (array != 255) if (array > 1).any() else array > 1
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{rule}, got {array[index]} at index {index}: {advice}")


def holds_masks(array: Array) -> bool:
    """Tell whether uint8 values are all 0 and 1, or all 0 and 255."""
    largest = int(array.max(initial=0))
    # 0 and 255 are the values that become 1 and 0 when 1 is added.
    return largest <= 1 or (largest == 255 and int((array + np.uint8(1)).max()) <= 1)


def uint8_masks(array: AnyArray) -> tuple[bool, bool]:
    """Tell whether uint8 values can be masks, and whether any value is not 0.

    On a CUDA device this synchronises.
    """
    if array.size == 0:
        return True, False
    if isinstance(array, DeviceArray):
        return array.device.holds_masks(array), array.device.largest(array) > 0
    return holds_masks(array), bool(array.any())


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
    *,
    validate: bool = False,
) -> Any:
    """Return the tags as a bool array (*batch, C); None means all are present.

    The result is on the device of `first`; None is the CPU. Lists are copied there; arrays on other
    devices are refused. On a CUDA device values other than 0 and 1 count as present, unless
    `validate` is set.
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
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be rows of 0 and 1, got {present!r}") from error
    tags = adopt(present, name)
    if first is not None and not from_list:
        check_device(tags, name, first, first_name)
    if tags.dtype.name not in ("bool", *INTEGERS, *FLOATS):
        raise TypeError(
            f"{name} must hold bool, or 0 and 1 of any dtype, one entry for each foreground class, "
            f"got dtype {tags.dtype}"
        )
    if is_on_cpu(tags) and tags.dtype != np.bool_:
        bad = (tags != 0) & (tags != 1)
        if bad.any():
            raise ValueError(
                f"{name} must hold 0 or 1 for each foreground class, got {tags[bad].flat[0]}: "
                "class ids and scores are not tags"
            )
        tags = tags != 0
    if tags.shape != (*batch, classes):
        listed = tags.ndim > 0 and tags.shape[-1] == classes + 1
        raise ValueError(
            f"{name} must have shape {(*batch, classes)} to match {first_name}, got {tags.shape}"
            + ("; the background is not listed" if listed else "")
        )
    if isinstance(tags, DeviceArray):
        if validate and not tags.device.holds_tags(tags):
            raise ValueError(f"{name} must hold 0 or 1 for each foreground class, got other values")
        return tags if tags.dtype == np.bool_ else tags.device.nonzero(tags)
    # A bool view of bytes may hold others than 0 and 1.
    tags = np.ascontiguousarray(tags).view(np.uint8) != 0
    return first.device.from_host(tags) if isinstance(first, DeviceArray) else tags


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

    The CPU's kernels check the labels themselves; pixels with label -1 are in no superpixel. On a
    device, without `num_superpixels`, the largest label is read back, and labels are renumbered if
    it is not below the number of pixels: workspace must not grow with what the labels are.
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
        signed = labels.dtype.kind == "i"
        index = labels.device.find_below(labels, NO_SUPERPIXEL) if signed else None
        if index is not None:
            value = labels.device.item(labels, index)
            raise ValueError(
                f"superpixels must be at least {NO_SUPERPIXEL}, got {value} at index {index}"
            )
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
    check_switch(validate, "validate")
    for name, array in arrays:
        if validate and isinstance(array, DeviceArray) and array.dtype.kind == "f":
            index = array.device.find_nonfinite(array, present)
            if index is not None:
                value = array.device.item(array, index)
                raise ValueError(f"{name} must be finite, got {value} at index {index}")


def check_finite(
    finite: bool, *arrays: tuple[str, Array], present: Any = None, limit: float = math.inf
) -> None:
    """Raise the error for what a kernel found: one of the arrays was not finite.

    With `present`, only the present classes' maps count. With `limit`, magnitudes must be below it.
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
        if limit < math.inf and (large := np.abs(array) >= limit).any():
            index = tuple(int(i) for i in np.argwhere(large)[0])
            raise ValueError(
                f"{name} must be below {limit:.3g} in magnitude, got {array[index]} at index "
                f"{index}: differences must fit in float64"
            )
    raise ValueError(f"{arrays[0][0]} must be small enough for float64 sums, got an infinite sum")


def widened(array: Array, name: str) -> Array:
    """Return values that must be finite; float16 as float32, which NumPy compares much faster."""
    wide = array.astype(np.float32) if array.dtype == np.float16 else array
    check_finite(bool(np.isfinite(wide).all()), (name, array))
    return wide


def check_unit_range(array: Array, name: str, advice: str) -> None:
    """Refuse finite values outside [0, 1] by more than rounding leaves."""
    lowest, largest = -RANGE_TOLERANCE, 1 + RANGE_TOLERANCE
    if array.size == 0 or (array.min() >= lowest and array.max() <= largest):
        return
    index = find_outside(array, lowest, largest, allow_infinity=False)
    if index is not None:
        value = array[index]
        raise ValueError(f"{name} must lie in [0, 1], got {value} at index {index}: {advice}")
