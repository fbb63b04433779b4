"""Activation maps of one photo: the files that published code writes, and a compact one of our own.

Names of entries do not identify a format: several projects write the same names with another
meaning. A format is recognised by its entries and by the number of its maps, which is the number of
class ids, or one more if a background map comes first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np

from cuekit._checks import (
    FLOATS,
    check_array,
    check_choice,
    check_integer,
    check_size,
    integers_of,
)
from cuekit.io._archive import NpyHeader, NpzArray, read_container
from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.io._tensors import Tensor
from cuekit.io._unpickle import show

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Stored: TypeAlias = "NDArray[Any] | Tensor | NpzArray"
_Entries: TypeAlias = Mapping[int | str, object]

_VERSION = "cuekit maps 1"
_MAX_CLASS_ID = 2**16 - 1
_MAX_PROVENANCE = 10_000  # characters
_SHOWN = 20  # entries in an error
_LARGEST_HALF = 65520  # from here on values round to infinity in float16
# PSA's CRF output sums to 1 at every pixel, up to the rounding of float16.
_SUM_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Maps:
    """The activation maps of one photo.

    Attributes
    ----------
    maps : (C, h, w) array of float16, float32, float64 or bool
        One map for each class of `class_ids`, without the background. Cues are bool.
    class_ids : (C,) array of int64
        Class ids, in the order of `maps`; 1 is the first class, VOC's are 1 to 20.
    background : (h, w) array of the same dtype, or None
        The score of class 0, **high = background**, if the file has one. `background_map` and
        `raw_cues` use the opposite sense, low = background.
    format : str
        The file's format, one of those listed in `read_maps`.
    photo_size : (height, width) or None
        The size of the photo, if the file says it. Maps are often smaller.
    provenance : str
        Where the maps come from, if the file says it.
    features : (D, h', w') array of float16 or float32, or None
        Layers of the classifier, each summed over its channels, if the file has them: the input of
        `background_map`.
    """

    maps: NDArray[Any]
    class_ids: NDArray[np.int64]
    background: NDArray[Any] | None
    format: str
    photo_size: tuple[int, int] | None = None
    provenance: str = ""
    features: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Layout:
    """How a dict with one array of maps and one of class ids is read."""

    maps_keys: tuple[str, ...]  # the first that is there is read
    ids_key: str
    background_first: bool = False  # an additional first map is the background's
    first_class: int = 1  # what is added to the ids; 0: the ids count the background as class 0
    absent: tuple[str, ...] = ()  # keys that only another format has


_LAYOUTS = {
    "irn": _Layout(("high_res", "cam"), "keys"),
    "amn": _Layout(("high_res", "cam"), "keys", background_first=True),
    "clip-es": _Layout(("attn_highres",), "keys"),
    "more": _Layout(("valid_lam", "valid_cam"), "keys"),
    "excel": _Layout(("valid_lam",), "keys_gt", background_first=True, absent=("keys",)),
    "fma": _Layout(("cam",), "fg_cls"),
    "weaktr": _Layout(("prob",), "keys", first_class=0),
    "dhr": _Layout(("masks",), "keys", first_class=0),
}
# One format of each meaning, for files with other names.
_MEANINGS = {
    "irn": "ids from 0, no background",
    "amn": "ids from 0, and a background map first",
    "weaktr": "ids in which 0 is the background",
}
_LOGITS_KEYS = ("msc_segs", "msc_seg", "segs")

Format: TypeAlias = Literal[
    "auto",
    "psa",
    "psa-crf",
    "irn",
    "amn",
    "clip-es",
    "more",
    "excel",
    "fma",
    "weaktr",
    "dhr",
    "logits",
    "cuekit",
]
_FORMATS: tuple[str, ...] = get_args(Format)


class _UnfitError(Exception):
    """A file that does not have the format asked for; the message says what it lacks."""


def read_maps(
    path: PathLike,
    format: Format = "auto",  # noqa: A002 - what it is called everywhere
    *,
    maps_key: str | None = None,
    ids_key: str | None = None,
    max_bytes: int = 2**30,
) -> Maps:
    """Read the activation maps of one photo, as published code writes them.

    Files are read whatever wrote them: ``.npy`` files of a dict, ``.npz`` archives, files of
    ``torch.save`` of both kinds, and plain pickles. Arrays in them may be torch tensors; torch
    need not be installed. Nothing in a file is ever executed.

    Parameters
    ----------
    path : str or path-like
        A file with the maps of one photo.
    format : str, default "auto"
        What the file's entries mean. "auto" finds out, and refuses a file that may mean several
        things, or nothing known. P = number of the photo's classes; ids are made to start at 1.

        ===========  =====================================================================
        "psa"        ``{class: (H, W)}``, class 0 = the first: CAMs of PSA, MCTformer, WeakTr
        "psa-crf"    ``{class: (H, W)}``, class 0 = background: the CRF output of PSA
        "irn"        ``keys``, and P maps ``high_res`` (photo size) or ``cam``: IRN, ReCAM,
                     AMN's first step, ToCo, AFA
        "amn"        the same entries with P + 1 maps, background first: AMN
        "clip-es"    ``keys``, and P maps ``attn_highres``: CLIP-ES, TagCLIP, WeCLIP
        "more"       ``keys``, and P maps ``valid_lam`` or ``valid_cam``: MoRe
        "excel"      ``keys_gt``, and P + 1 maps ``valid_lam``, background first: ExCEL
        "fma"        ``fg_cls``, and P maps ``cam``: FMA-WSSS
        "weaktr"     ``keys``, which count the background as class 0, and maps ``prob``
                     of these classes: WeakTr's segmentation
        "dhr"        the same with ``masks`` in place of ``prob``: DHR
        "logits"     ``msc_segs``, ``msc_seg`` or ``segs``, (1, K, h, w) for K classes with
                     the background first: AFA, ToCo, WeCLIP, SeCo, MoRe, ExCEL. They are
                     logits, not probabilities: apply a softmax
        "cuekit"     a file of `write_maps`
        ===========  =====================================================================

    maps_key : str, optional
        The entry to read as maps in place of the format's own: ``"cam"`` for IRN's maps at stride
        4, ``"segs"`` for logits of one scale, or any name in a file of one's own. `format` must
        then be given.
    ids_key : str, optional
        The entry to read as class ids in place of the format's own; likewise.
    max_bytes : int, default 2**30
        Size limit of the file's pickle, and of the sum of its arrays' sizes, in bytes. Reading may
        need about four times as much memory.

    Returns
    -------
    Maps
        New arrays in native byte order and C order, with the file's dtype. Quantised maps of
        `write_maps` become float32. Values are not changed or checked: NaNs stay.

    Raises
    ------
    TypeError
        If `path` is no path, or an option has a wrong type.
    ValueError
        If the file is damaged, too large, or contains anything else than arrays and plain values;
        if it does not have the format asked for; or if "auto" finds none or several. The message
        names the file, lists its entries with their shapes, and says which options would read it.
    OSError
        If the file cannot be opened or read.

    Notes
    -----
    PSA's two dictionaries look alike where class 0 is in both. They are told apart by the sum of
    the maps, which is 1 at every pixel of a CRF's output. TagCLIP's files for COCO-Stuff are those
    of "clip-es"; that data set has no background, and its ids are one less than the ids here.

    A dictionary with the classes' own ids (1, 2, ...) and no background cannot be told from PSA's,
    whose ids start at 0.

    Examples
    --------
    A file as PSA writes it: a dictionary of one map for each class, counted from 0.

    >>> import numpy as np
    >>> from cuekit.io import read_maps
    >>> np.save("2007_000033.npy", {14: np.ones((3, 4), np.float32)}, allow_pickle=True)
    >>> found = read_maps("2007_000033.npy")
    >>> found.format, found.class_ids, found.maps.shape
    ('psa', array([15]), (1, 3, 4))
    """
    file_path = check_path(path)
    check_choice(format, "format", _FORMATS)
    max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
    for name, key in (("maps_key", maps_key), ("ids_key", ids_key)):
        if key is not None and not isinstance(key, str):
            raise TypeError(f"{name} must be a string, got {key!r}")
        if key is not None and format in ("auto", "psa", "psa-crf", "cuekit"):
            raise ValueError(f"{name} must be given with a format that has keys, got {format!r}")
    if ids_key is not None and format == "logits":
        raise ValueError(f"ids_key must not be given for logits, which have none, got {ids_key!r}")
    with file_path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            entries = _entries(read_container(file, size, max_bytes))
            return _read(entries, format, maps_key, ids_key, max_bytes)
        except ValueError as error:
            rule = str(error)
        except _UnfitError as error:
            rule = f"{error}; {_advice(entries)}"
    raise ValueError(f"{os.fspath(path)}: {rule}")


def _entries(found: object) -> _Entries:
    if isinstance(found, NpyHeader | Tensor | np.ndarray):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
            f"maps must be stored with their class ids, got one array of shape {found.shape} alone"
        )
    if not isinstance(found, dict):
        raise ValueError(f"a map file must contain a dict, got {show(found)}")  # noqa: TRY004
    if not found:
        raise ValueError("a map file must have at least one map, got an empty dict: no classes")
    return found


def _read(
    entries: _Entries, name: str, maps_key: str | None, ids_key: str | None, max_bytes: int
) -> Maps:
    if name == "auto":
        name = _recognise(entries)
    if name in ("psa", "psa-crf"):
        return _read_by_class(entries, name)
    if name == "cuekit":
        return _read_own(entries, max_bytes)
    if name == "logits":
        return _read_logits(entries, maps_key)
    return _read_layout(entries, name, maps_key, ids_key)


def _recognise(entries: _Entries) -> str:
    """Return the only format that the entries can have."""
    if _is_own(entries):
        return "cuekit"
    if all(type(key) is int for key in entries):
        return _recognise_by_class(entries)
    fitting = [name for name in _LAYOUTS if _fits(entries, name)]
    if any(key in entries for key in _LOGITS_KEYS):
        fitting.append("logits")
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _UnfitError(f"the format must be given where several fit: {' or '.join(fitting)}")
    if any(str(key).endswith(("_labels", "_cues")) for key in entries):
        raise _UnfitError("a map file must have the maps of one photo; use read_sec_cues for SEC's")
    raise _UnfitError("the entries must be those of a known format")


# ------------------------------------------------------------------------- one map for each class


def _recognise_by_class(entries: _Entries) -> str:
    if 0 not in entries or len(entries) == 1:
        return "psa"
    with np.errstate(all="ignore"):  # any bits may be in a file
        total = _stacked_by_class(entries).sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise _UnfitError("maps must be finite where they tell PSA's CAMs from its CRF output")
    return "psa-crf" if (np.abs(total - 1) < _SUM_TOLERANCE).all() else "psa"


def _read_by_class(entries: _Entries, name: str) -> Maps:
    maps = _stacked_by_class(entries)
    ids = checked_class_ids([int(key) for key in entries], name)
    if name == "psa":
        return Maps(maps, ids + 1, None, name)
    if 0 not in ids:
        raise _UnfitError("PSA's CRF output must have key 0, the background")
    return _without_background(maps, ids, name)


def _stacked_by_class(entries: _Entries) -> NDArray[Any]:
    maps = []
    for key, value in entries.items():
        if type(key) is not int or not _is_floats(value, 2):
            raise _UnfitError("PSA's files must have one (H, W) array of floats for each class id")
        maps.append(_array(value))
    first = maps[0]
    if any((each.shape, each.dtype) != (first.shape, first.dtype) for each in maps):
        raise _UnfitError("PSA's maps must have one shape and dtype")
    return np.stack(maps).astype(first.dtype.newbyteorder("="), copy=False)


# ------------------------------------------------------------------ an array of maps, one of ids


def _fits(entries: _Entries, name: str) -> bool:
    return _lack(entries, name) is None and not any(key in entries for key in _LAYOUTS[name].absent)


def _lack(
    entries: _Entries, name: str, maps_key: str | None = None, ids_key: str | None = None
) -> str | None:
    """Return what the entries lack for a layout, or None."""
    layout = _LAYOUTS[name]
    maps_key = maps_key or _first(entries, layout.maps_keys)
    ids_key = ids_key or layout.ids_key
    if maps_key is None or maps_key not in entries:
        return f"maps as {maps_key or ' or '.join(layout.maps_keys)}"
    if ids_key not in entries:
        return f"class ids as {ids_key}"
    if not _is_floats(entries[maps_key], 3):
        return f"floating maps (C, h, w) as {maps_key}"
    if not _is_ids(entries[ids_key]):
        return f"integers (P,) as {ids_key}"
    ids = _shape(entries[ids_key])[0]
    maps = _shape(entries[maps_key])[0]
    if maps != ids + layout.background_first:
        plus = " + 1, background first," if layout.background_first else ","
        return f"as many maps as class ids{plus} not {maps} for {ids}"
    return None


def _read_layout(entries: _Entries, name: str, maps_key: str | None, ids_key: str | None) -> Maps:
    lack = _lack(entries, name, maps_key, ids_key)
    layout = _LAYOUTS[name]
    if lack is not None:
        raise _UnfitError(f"format {name!r} must have {lack}")
    maps = _copy(entries[maps_key or cast(str, _first(entries, layout.maps_keys))])
    ids = checked_class_ids(_array(entries[ids_key or layout.ids_key]).tolist(), name)
    if layout.background_first:
        return Maps(maps[1:].copy(), ids + layout.first_class, maps[0].copy(), name)
    if layout.first_class:
        return Maps(maps, ids + layout.first_class, None, name)
    return _without_background(maps, ids, name)


def _without_background(maps: NDArray[Any], ids: NDArray[np.int64], name: str) -> Maps:
    """Split off the map of class 0, which may be missing: a network may not have found it."""
    foreground = ids != 0
    background = None if foreground.all() else maps[~foreground][0]
    return Maps(maps[foreground], ids[foreground], background, name)


def _read_logits(entries: _Entries, maps_key: str | None) -> Maps:
    key = maps_key or _first(entries, _LOGITS_KEYS)
    value = entries.get(key) if key is not None else None
    if _is_floats(value, 4) and _shape(value)[0] == 1:
        logits = _copy(value)[0]
    elif _is_floats(value, 3):
        logits = _copy(value)
    else:
        raise _UnfitError(
            f"logits must be floats (1, K, h, w) or (K, h, w) as {key or ' or '.join(_LOGITS_KEYS)}"
        )
    if not 2 <= len(logits) <= _MAX_CLASS_ID:
        raise _UnfitError("logits must have the background and at least one class")
    return Maps(logits[1:], np.arange(1, len(logits)), logits[0], "logits")


def _advice(entries: _Entries) -> str:
    """List the entries, and the options that would read them."""
    shown = [f"{show(key)}: {_describe(entries[key])}" for key in list(entries)[:_SHOWN]]
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    options = [f'format="{name}"' for name in _LAYOUTS if _lack(entries, name) is None]
    if any(key in entries for key in _LOGITS_KEYS):
        options.append('format="logits"')
    if not options:
        names = [key for key in list(entries)[:_SHOWN] if isinstance(key, str)]
        maps_keys = [key for key in names if _is_floats(entries[key], 3)]
        ids_keys = [key for key in names if _is_ids(entries[key])]
        options = [
            f'format="{name}", maps_key="{maps_key}", ids_key="{ids_key}" ({meaning})'
            for maps_key in maps_keys
            for ids_key in ids_keys
            for name, meaning in _MEANINGS.items()
            if _lack(entries, name, maps_key, ids_key) is None
        ][:_SHOWN]
    advice = f"it can be read with {' or '.join(options)}" if options else "no format would read it"
    return f"got {{{', '.join(shown)}}}{more}; {advice}"


# ------------------------------------------------------------------------------- values of a file


def _shape(value: object) -> tuple[int, ...]:
    return cast("_Stored", value).shape


def _is_floats(value: object, ndim: int) -> bool:
    return (
        isinstance(value, np.ndarray | Tensor | NpzArray)
        and value.dtype.kind == "f"
        and len(value.shape) == ndim
        and min(value.shape[-2:]) > 0
    )


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, np.ndarray | Tensor | NpzArray)
        and len(value.shape) == 1
        and (value.dtype.kind in "iu" or value.shape == (0,))
    )


def _array(value: object) -> NDArray[Any]:
    """Return the array that an entry holds, which may be read-only."""
    return value if isinstance(value, np.ndarray) else cast("Tensor | NpzArray", value).array()


def _copy(value: object) -> NDArray[Any]:
    array = _array(value)
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray | Tensor | NpzArray):
        return f"{value.dtype} {value.shape}"
    return show(value)


def _first(entries: _Entries, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in entries), None)


def checked_class_ids(ids: list[int], name: str) -> NDArray[np.int64]:
    """Return the class ids of a file of format `name`; refuse what cannot be class ids."""
    if any(not 0 <= each < _MAX_CLASS_ID for each in ids) or len(set(ids)) != len(ids):
        raise ValueError(
            f"class ids of format {name!r} must be distinct and in 0..{_MAX_CLASS_ID - 1}, "
            f"got {ids[:_SHOWN]}"
        )
    return np.array(ids, np.int64)


# --------------------------------------------------------------------------------- our own format


def write_maps(
    path: PathLike,
    maps: Any,
    class_ids: Any,
    *,
    background: Any = None,
    features: Any = None,
    photo_size: Any = None,
    encoding: Literal["uint8", "float16"] = "uint8",
    provenance: str = "",
) -> None:
    """Write the activation maps, or the cues, of one photo as a small ``.npz``.

    The file is read by `read_maps`, and by ``numpy.load`` without cuekit and without pickles. It is
    written under a temporary name and then renamed, so `path` never holds a partial file. Equal
    arguments give equal files.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists. ``.npz`` is not appended.
    maps : (C, h, w) array or tensor of float16, float32, float64 or bool
        One map for each class, without the background, finite. Maps are stored at the size they
        have: a network's own is enough, as all functions resize. C may be 0.
    class_ids : sequence of int, (C,)
        The classes' ids, distinct, 1 to 65535.
    background : (h, w) array or tensor of the same dtype, optional
        The score, or the cue, of class 0; high = background.
    features : (D, h', w') array or tensor of float16, float32 or float64, optional
        Layers of the classifier, each summed over its channels, for `background_map`. Finite; they
        are stored as float16, whatever `encoding`.
    photo_size : pair of int, optional
        Height and width of the photo.
    encoding : {"uint8", "float16"}, default "uint8"
        How floating maps are stored. "uint8": each map has 256 levels from its smallest to its
        largest value. A value changes by at most (largest - smallest) / 510, and by the rounding of
        float32; the smallest value stays exact. "float16": a value changes by at most one part in
        2048, or by 3e-8 if it is below 6.1e-5. Cues take one bit per pixel, whatever `encoding`.
    provenance : str, optional
        Where the maps come from, at most 10 000 characters.

    Raises
    ------
    TypeError
        If `path` is no path, or an array or option has a wrong type.
    ValueError
        If a shape, an id or a value is not as described above, or a value is too large for float16
        (65504) where that is asked for. The message names the argument.
    OSError
        If the file cannot be written. What was at `path` is then unchanged.

    Notes
    -----
    The entries, all plain arrays, are compressed by deflate:

    ==============  ==========================================================================
    ``format``      "cuekit maps 1"
    ``class_ids``   (C,) uint8 or uint16; 0 first if there is a background map
    ``maps``        (C, h, w) float16, or uint8 levels with ``scale``; or uint8 (C, bytes) with
                    ``size``: the bits of each mask row by row, the highest bit first
    ``scale``       (C, 2) float64: the value of level 0, and the step from level to level
    ``size``        (2,) int32: h and w of packed masks
    ``features``    (D, h', w') float16, if given
    ``photo_size``  (2,) int32, if given
    ``provenance``  a string, if given
    ==============  ==========================================================================

    Sizes, for 200 photos of PASCAL VOC with 1.5 maps each, of a network of stride 16, resized:

    ========================  ========  ========  ==========
    kilobytes for each photo  stride 4  stride 8  photo size
    ========================  ========  ========  ==========
    uint8                          9.0       3.5          51
    float16                         23       6.8         288
    cues                           1.2       1.0
    PSA's ``.npy``, float32                             1083
    ========================  ========  ========  ==========

    So the 10 582 photos that the field trains on take 96 MB at stride 4, and 37 MB at stride 8.

    Without cuekit::

        with np.load(path) as file:
            maps = file["maps"]
            if "scale" in file:
                low, step = file["scale"].T[:, :, None, None]
                maps = low + step * maps
            elif "size" in file:
                h, w = file["size"]
                maps = np.unpackbits(maps, axis=1, count=h * w).reshape(-1, h, w)

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import read_maps, write_maps
    >>> maps = np.array([[[0.0, 1.0], [0.25, 0.5]]], np.float32)
    >>> write_maps("photo.npz", maps, [15], photo_size=(375, 500))
    >>> found = read_maps("photo.npz")
    >>> found.class_ids, found.photo_size
    (array([15]), (375, 500))
    >>> bool(np.abs(found.maps - maps).max() < 0.002)  # 1 / 510, and rounding
    True
    """
    file_path = check_path(path)
    check_choice(encoding, "encoding", ("uint8", "float16"))
    stack = check_array(maps, "maps", ("bool", *FLOATS), ndim=3, layout="(C, h, w)")
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise ValueError(f"maps must have shape (C, h, w), h and w >= 1, got {stack.shape}")
    ids = _written_ids(class_ids, len(stack))
    if background is not None:
        first = check_array(background, "background", (stack.dtype.name,), ndim=2, layout="(h, w)")
        if first.shape != stack.shape[1:]:
            raise ValueError(
                f"background must have shape {stack.shape[1:]} to match maps, got {first.shape}"
            )
        stack, ids = np.concatenate([first[None], stack]), [0, *ids]
    if stack.dtype.kind == "f" and not np.isfinite(stack).all():
        raise ValueError("maps must be finite, got NaN or infinity")
    entries = {
        "format": np.array(_VERSION),
        "class_ids": np.array(ids, np.uint8 if max(ids, default=0) < 256 else np.uint16),
        **_encoded(stack, encoding),
    }
    if features is not None:
        entries["features"] = _written_features(features)
    if photo_size is not None:
        entries["photo_size"] = np.array(check_size(photo_size, "photo_size"), np.int32)
    if not isinstance(provenance, str):
        raise TypeError(f"provenance must be a string, got {provenance!r}")
    if len(provenance) > _MAX_PROVENANCE or "\0" in provenance:
        raise ValueError(
            f"provenance must have at most {_MAX_PROVENANCE} characters and no NUL, got "
            f"{show(provenance)}"
        )
    if provenance:
        entries["provenance"] = np.array(provenance)
    with replace_file(file_path) as file:
        _write_npz(file, entries)


def _written_ids(class_ids: Any, count: int) -> list[int]:
    items = integers_of(class_ids)
    if items is None:
        raise TypeError(f"class_ids must be a sequence of integers, got {class_ids!r}")
    ids = [check_integer(item, "class_ids") for item in items]
    if len(ids) != count:
        raise ValueError(f"class_ids must have one id for each of {count} maps, got {len(ids)}")
    for each in ids:
        if not 1 <= each <= _MAX_CLASS_ID:
            hint = ": pass the background as background=" if each == 0 else ""
            raise ValueError(f"class_ids must be in 1..{_MAX_CLASS_ID}, got {each}{hint}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"class_ids must be distinct, got {ids}")
    return ids


def _written_features(features: Any) -> NDArray[np.float16]:
    stack = check_array(features, "features", FLOATS, ndim=3, layout="(D, h, w)")
    if stack.ndim != 3 or 0 in stack.shape:
        raise ValueError(f"features must have shape (D, h, w), each >= 1, got {stack.shape}")
    if not np.isfinite(stack).all():
        raise ValueError("features must be finite, got NaN or infinity")
    largest = float(np.abs(stack).max())
    if largest >= _LARGEST_HALF:
        raise ValueError(
            f"features must be at most 65504, the largest float16, got {largest:g}: divide them, "
            "as background_map normalises each layer"
        )
    return stack.astype(np.float16)


def _encoded(stack: NDArray[Any], encoding: str) -> dict[str, NDArray[Any]]:
    if stack.dtype == bool:
        flat = stack.reshape(len(stack), stack.shape[1] * stack.shape[2])
        return {"maps": np.packbits(flat, axis=1), "size": np.array(stack.shape[1:], np.int32)}
    largest = float(np.abs(stack).max(initial=0))
    if encoding == "float16":
        if largest >= _LARGEST_HALF:
            raise ValueError(f"maps must be at most 65504 for float16, got {largest:g}")
        return {"maps": stack.astype(np.float16)}
    if largest > np.finfo(np.float32).max:
        raise ValueError(f"maps must be within the range of float32, got {largest:g}")
    wide = stack.astype(np.float64)
    low = wide.min(axis=(1, 2))
    step = (wide.max(axis=(1, 2)) - low) / 255
    usable = np.where(step > 0, step, 1)
    levels = np.rint((wide - low[:, None, None]) / usable[:, None, None])
    return {
        "maps": levels.clip(0, 255).astype(np.uint8),
        "scale": np.stack([low, step], axis=1),
    }


def _write_npz(file: IO[bytes], entries: Mapping[str, NDArray[Any]]) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in entries.items():
            # A fixed date, as NumPy's: equal maps give equal files.
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _is_own(entries: _Entries) -> bool:
    value = entries.get("format")
    return isinstance(value, NpzArray) and value.dtype.kind == "U" and "class_ids" in entries


def _read_own(entries: _Entries, max_bytes: int) -> Maps:
    if not _is_own(entries):
        raise _UnfitError("a file of write_maps must have format and class_ids")
    version = _string(entries, "format")
    if version != _VERSION:
        raise ValueError(f"format must be {_VERSION!r} for this cuekit, got {show(version)}")
    ids = _own_array(entries, "class_ids", "u", 1)
    stored = _own_array(entries, "maps", "uf", None)
    maps: NDArray[Any]
    if "scale" in entries:
        maps = _dequantised(stored, _own_array(entries, "scale", "f", 2), max_bytes)
    elif "size" in entries:
        maps = _unpacked(stored, _own_array(entries, "size", "i", 1), max_bytes)
    elif stored.dtype == np.float16:
        maps = np.array(stored, order="C")
    else:
        raise ValueError(f"maps must be float16, or have a scale or a size, got {stored.dtype}")
    if maps.ndim != 3 or len(maps) != len(ids) or 0 in maps.shape[1:]:
        raise ValueError(f"maps must have shape ({len(ids)}, h, w), got {maps.shape}")
    found = _without_background(maps, checked_class_ids(ids.tolist(), "cuekit"), "cuekit")
    size = _own_array(entries, "photo_size", "i", 1) if "photo_size" in entries else None
    if size is not None and (size.shape != (2,) or size.min() < 1):
        raise ValueError(f"photo_size must be two numbers >= 1, got {size.tolist()[:10]}")
    features = _own_array(entries, "features", "f", 3) if "features" in entries else None
    if features is not None and 0 in features.shape:
        raise ValueError(f"features must have shape (D, h, w), each >= 1, got {features.shape}")
    return Maps(
        found.maps,
        found.class_ids,
        found.background,
        "cuekit",
        None if size is None else (int(size[0]), int(size[1])),
        _string(entries, "provenance") if "provenance" in entries else "",
        None if features is None else _copy(features),
    )


def _own_array(entries: _Entries, name: str, kinds: str, ndim: int | None) -> NDArray[Any]:
    value = entries.get(name)
    right = isinstance(value, NpzArray) and value.dtype.kind in kinds
    if not isinstance(value, NpzArray) or not right or ndim not in (None, len(value.shape)):
        raise ValueError(f"{name} must be an array as write_maps writes it, got {_describe(value)}")
    return value.array()


def _string(entries: _Entries, name: str) -> str:
    array = _own_array(entries, name, "U", 0)
    # Not str(): NumPy does not check the characters, which may be any 32 bits in a damaged file.
    order = "be" if array.dtype.str[0] == ">" else "le"
    return array.tobytes().decode(f"utf-32-{order}").rstrip("\0")


def _dequantised(levels: NDArray[Any], scale: NDArray[Any], max_bytes: int) -> NDArray[np.float32]:
    if levels.dtype != np.uint8 or levels.ndim != 3 or scale.shape != (len(levels), 2):
        raise ValueError(
            "quantised maps must be uint8 (C, h, w) with a scale (C, 2), got "
            f"{_describe(levels)}, {_describe(scale)}"
        )
    if not np.isfinite(scale).all():
        raise ValueError("scale must be finite, got NaN or infinity")
    _check_expanded(4 * levels.size, max_bytes)
    maps = np.empty(levels.shape, np.float32)
    for source, target, (low, step) in zip(levels, maps, scale.astype(np.float64), strict=True):
        with np.errstate(all="ignore"):
            table = (low + step * np.arange(256)).astype(np.float32)
        target[...] = table[source]
    return maps


def _unpacked(bits: NDArray[Any], size: NDArray[Any], max_bytes: int) -> NDArray[np.bool_]:
    sides = size.tolist()
    right = bits.dtype == np.uint8 and bits.ndim == 2 and len(sides) == 2 and min(sides) >= 1
    if not right or bits.shape[1] != -(-sides[0] * sides[1] // 8):
        raise ValueError(
            "packed masks must be uint8 (C, ceil(h * w / 8)) with a size (h, w), got "
            f"{_describe(bits)}, {_describe(size)}"
        )
    _check_expanded(8 * bits.size, max_bytes)
    flat = np.unpackbits(bits, axis=1, count=sides[0] * sides[1])
    return flat.view(bool).reshape(len(bits), *sides)


def _check_expanded(nbytes: int, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise ValueError(f"maps must have at most max_bytes = {max_bytes} bytes, got {nbytes}")
