"""What recipes share: from files to maps of the photo's classes, and from scores to labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from cuekit._checks import (
    FLOATS,
    check_array,
    check_finite,
    check_integer,
    check_switch,
    check_unit_range,
    integers_of,
)
from cuekit.crf import CRFParams, Unary, dense_crf
from cuekit.io.maps import Maps
from cuekit.probabilities_to_labels import probabilities_to_labels
from cuekit.resize_maps import resize_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._device import Array

MapsOfPhoto: TypeAlias = Maps | Sequence[Maps]
Tags: TypeAlias = Iterable[int] | None
Labels: TypeAlias = "NDArray[np.uint8] | NDArray[np.int32]"

UNSURE = 255
NOT_NORMALIZED = "pass normalize=True (--normalize), or take the recipe weclip if they are logits"


# ------------------------------------------------------------------------------ from files to maps


def choose_maps(
    photo: NDArray[np.uint8], maps: MapsOfPhoto, tags: Tags
) -> tuple[list[Maps], list[int]]:
    """Return the maps of the photo's classes, in one order for all classifiers, and their ids."""
    pixels = check_array(photo, "photo", ("uint8",), ndim=3, layout="(H, W, 3)")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"photo must have shape (H, W, 3), H and W >= 1, got {pixels.shape}")
    sets = [maps] if isinstance(maps, Maps) else maps
    if not isinstance(sets, list | tuple) or not all(isinstance(each, Maps) for each in sets):
        raise TypeError(f"maps must be Maps, or a list of Maps, got {type(maps).__name__}")
    if not sets:
        raise ValueError("maps must be those of at least one classifier, got an empty list")
    wanted = _check_tags(tags)
    ids = [c for c in sets[0].class_ids.tolist() if wanted is None or c in wanted]
    if UNSURE in ids:
        raise ValueError(f"class ids must not be {UNSURE}, the label of unsure pixels, got {ids}")
    return [maps_of_classes(each, ids, wanted, pixels) for each in sets], ids


def _check_tags(tags: Tags) -> set[int] | None:
    if tags is None:
        return None
    items = integers_of(tags)
    if items is None:
        raise TypeError(f"tags must be a sequence of class ids, got {tags!r}")
    return {check_integer(item, "tags") for item in items}


def maps_of_classes(
    maps: Maps, ids: list[int], wanted: set[int] | None, photo: NDArray[np.uint8]
) -> Maps:
    """Check the maps of one classifier, and return those of some classes."""
    layout = "(C, h, w)"
    stack = check_array(maps.maps, "maps", ("bool", *FLOATS), ndim=3, layout=layout)
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise ValueError(f"maps must have shape {layout}, h and w >= 1, got {stack.shape}")
    own = maps.class_ids.tolist()
    if len(maps.maps) != len(own) or len(set(own)) != len(own):
        raise ValueError(f"maps must have one map for each class, got {len(maps.maps)} for {own}")
    missing = sorted((set(ids) if wanted is None else wanted) - set(own))
    if missing:
        name = "maps of several classifiers" if wanted is None else "tags"
        raise ValueError(f"{name} must be of the classes that have maps, {own}, got {missing[0]}")
    if wanted is None and len(own) != len(ids):
        raise ValueError(
            f"maps of several classifiers must be of the same classes, got {ids} and {own}: pass "
            "tags"
        )
    height, width = photo.shape[:2]
    if maps.photo_size not in (None, (height, width)):
        raise ValueError(
            f"photo must have the size that the maps' file names, {maps.photo_size}, got "
            f"{(height, width)}"
        )
    h, w = maps.maps.shape[1:]
    if (height - width) * (h - w) < 0:
        raise ValueError(
            f"maps must be of this photo of size {(height, width)}, got maps of size {(h, w)}: "
            "one of both is turned"
        )
    chosen = maps.maps if own == ids else maps.maps[[own.index(c) for c in ids]]
    if chosen.dtype == np.bool_:  # cues
        chosen = chosen.astype(np.float32)
    for array in (chosen, maps.background):
        if array is not None:
            check_finite(bool(np.isfinite(array).all()), ("maps", array))
    return dataclasses.replace(maps, maps=chosen, class_ids=np.array(ids, np.int64))


def merged_scores(
    photo: NDArray[np.uint8], maps: MapsOfPhoto, tags: Tags, *, normalize: bool
) -> tuple[Array, list[int]]:
    """Return maps in [0, 1] (C, H, W) at the photo's size, of all classifiers together."""
    sets, ids = choose_maps(photo, maps, tags)
    normalize = check_switch(normalize, "normalize")
    scores = [at_photo_size(each.maps, photo) for each in sets]
    if normalize:
        scores = [normalized(each) for each in scores]
    for each in scores:
        check_unit_range(each, "maps", NOT_NORMALIZED)
    return mean_of_classifiers(scores), ids


def at_photo_size(maps: Array, photo: NDArray[np.uint8]) -> Array:
    height, width = photo.shape[:2]
    return maps if maps.shape[-2:] == (height, width) else resize_maps(maps, (height, width))


def normalized(maps: Array) -> Array:
    peaks = maps.max(axis=(-2, -1), keepdims=True)
    result: Array = np.maximum(maps, 0) / np.where(peaks > 0, peaks, 1)
    return result


def mean_of_classifiers(sets: Sequence[Array]) -> Array:
    """Return the mean over classifiers; of one, the array itself."""
    return sets[0] if len(sets) == 1 else np.stack(sets).mean(axis=0, dtype=np.float32)


# ----------------------------------------------------------------------- from scores to labels


def softmax(scores: Array) -> Array:
    """Return the softmax over channels (..., K, H, W), in float32 at least."""
    wide = scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)
    powers: Array = wide - wide.max(axis=-3, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=-3, keepdims=True)
    return powers


def run_crf(
    scores: Array,  # (K, H, W), or (runs, K, H, W)
    photo: NDArray[np.uint8],
    params: str | CRFParams,
    iterations: int,
    unary: Unary = "probabilities",
) -> Array:
    """Return the CRF's marginals. The runs are one call: they share the photo's lattice."""
    if scores.shape[-3] == 1:  # the background alone
        return np.ones(scores.shape, np.float32)
    photos = np.broadcast_to(photo, (*scores.shape[:-3], *photo.shape))
    return dense_crf(scores, photos, params, iterations=iterations, unary=unary)


def to_labels(scores: Array, ids: list[int], confidence: float | None = None) -> Labels:
    found = probabilities_to_labels(scores, classes=[0, *ids], confidence=confidence)
    return cast("Labels", found)
