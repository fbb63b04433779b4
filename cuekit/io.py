"""Readers and writers of the files people exchange.

No reader here can run code from a file. Pickles are not loaded: their opcodes are listed with
:func:`pickletools.genops`, which parses and executes nothing, and a small interpreter admits only
what a dictionary of plain NumPy arrays needs.
"""

from __future__ import annotations

import contextlib
import enum
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SecCues", "read_labels", "read_sec_cues", "write_labels"]

_PathLike: TypeAlias = str | os.PathLike[str]
_K = TypeVar("_K")
_T = TypeVar("_T")

_SEC_CLASSES = 21
_SEC_GRID = 41
_SEC_KEY = re.compile(r"(0|[1-9][0-9]{0,8})_(labels|cues)")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


# --------------------------------------------------------------------------- SEC localization cues


@dataclass(frozen=True, eq=False)
class SecCues:
    """The localization cues of one image.

    Attributes
    ----------
    labels : ndarray of uint8, shape (P,)
        The image's tags as VOC ids 1..20, ascending, without the background.
    cues : ndarray of bool, shape (21, 41, 41)
        One mask per class, channel 0 = background, row 0 at the top of the image.
    """

    labels: NDArray[np.uint8]
    cues: NDArray[np.bool_]

    @property
    def present(self) -> NDArray[np.bool_]:
        """The tags as a bool array of shape (20,), entry 0 = VOC id 1; no background entry."""
        present = np.zeros(_SEC_CLASSES - 1, dtype=bool)
        present[self.labels - 1] = True
        return present


class _SecCuesByImage(Mapping[_K, SecCues]):
    """Keeps (labels, coordinates) per image and draws the masks anew at every access.

    The masks of SEC's 10,582 images take 373 MB, their coordinates 13 MB.
    """

    def __init__(self, compact: Mapping[_K, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        self._compact = compact

    def __getitem__(self, key: _K) -> SecCues:
        labels, (classes, rows, columns) = self._compact[key]
        cues = np.zeros((_SEC_CLASSES, _SEC_GRID, _SEC_GRID), dtype=bool)
        cues[classes, rows, columns] = True
        return SecCues(labels.copy(), cues)

    def __contains__(self, key: object) -> bool:
        return key in self._compact  # without drawing masks, as Mapping's own would

    def __iter__(self) -> Iterator[_K]:
        return iter(self._compact)

    def __len__(self) -> int:
        return len(self._compact)

    def __repr__(self) -> str:
        return f"<SEC cues of {len(self)} images>"


@overload
def read_sec_cues(
    path: _PathLike, *, image_list: None = None, max_bytes: int = ...
) -> Mapping[int, SecCues]: ...


@overload
def read_sec_cues(
    path: _PathLike, *, image_list: _PathLike, max_bytes: int = ...
) -> Mapping[str, SecCues]: ...


def read_sec_cues(
    path: _PathLike, *, image_list: _PathLike | None = None, max_bytes: int = 2**30
) -> Mapping[int, SecCues] | Mapping[str, SecCues]:
    """Read the localization cues published with SEC, without loading a pickle.

    The file is a pickled dictionary, gzipped or not, with two integer arrays per image i:
    ``"<i>_labels"``, the tags, and ``"<i>_cues"`` of shape (3, N), one column (class, y, x) per
    cue cell of a 41 x 41 grid, class 0 = background. The labels of the published file are VOC ids
    1..20, the same numbers as the cues' classes, and do not list the background.

    Parameters
    ----------
    path : str or path-like
        ``localization_cues.pickle`` or ``localization_cues.pickle.gz``.
    image_list : str or path-like, optional
        SEC's ``input_list.txt``, lines ``<file name> <i>``. Images are then named by the stem of
        their file (``"2008_007028"``), in the order of the list. A shorter list selects images.
    max_bytes : int, default 2**30
        Largest pickle accepted, in bytes after decompression. The bytes of all its arrays
        together obey the same limit. Reading may take some three times as much memory.

    Returns
    -------
    Mapping of int or str to SecCues
        Image index i (ascending) or photo id -> tags and cues. Only coordinates are kept; each
        access draws new masks.

    Raises
    ------
    ValueError
        If the file is not such a pickle, holds anything else (code, for one), is damaged,
        truncated or too large, or an image of `image_list` has no cues in it. Nothing in the
        file is ever executed.
    OSError
        If a file cannot be opened or read.

    Notes
    -----
    Arrays are taken as NumPy pickles them with protocol 2 from Python 2 and 3 or 4 from Python 3.

    References
    ----------
    A. Kolesnikov and C. H. Lampert, "Seed, Expand and Constrain: Three Principles for
    Weakly-Supervised Image Segmentation", ECCV 2016. :doi:`10.1007/978-3-319-46493-0_42`
    """
    arrays = _unpickle_arrays(path, _sec_array, max_bytes=max_bytes)
    by_index: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for index in sorted({int(str(key).partition("_")[0]) for key in arrays}):
        for key in (f"{index}_labels", f"{index}_cues"):
            if key not in arrays:
                msg = f"{os.fspath(path)}: image {index} must have labels and cues, {key!r} missing"
                raise ValueError(msg)
        by_index[index] = arrays[f"{index}_labels"], arrays[f"{index}_cues"]
    if image_list is None:
        return _SecCuesByImage(by_index)

    by_name: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for name, index in _read_image_list(image_list).items():
        if index not in by_index:
            msg = (
                f"{os.fspath(image_list)}: every image must have cues in {os.fspath(path)}, "
                f"got {name!r} with index {index}, which has none"
            )
            raise ValueError(msg)
        by_name[name] = by_index[index]
    return _SecCuesByImage(by_name)


def _sec_array(key: int | str, value: object) -> NDArray[np.uint8]:
    """Check one entry of SEC's dictionary and shrink it to uint8."""
    matched = _SEC_KEY.fullmatch(key) if isinstance(key, str) else None
    if matched is None:
        msg = f"keys must be '<i>_labels' or '<i>_cues', got {_show(key)}"
        raise ValueError(msg)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        msg = f"{key} must be an integer array, got {_show(value)}"
        raise ValueError(msg)
    if matched[2] == "labels":
        if value.ndim != 1 or value.size >= _SEC_CLASSES:
            msg = f"{key} must have shape (P,), P < {_SEC_CLASSES}, got {value.shape}"
            raise ValueError(msg)
        _check_range(f"{key}: tags", value, 1, _SEC_CLASSES - 1)
        return np.unique(value).astype(np.uint8)
    cells = _SEC_CLASSES * _SEC_GRID**2
    if value.ndim != 2 or value.shape[0] != 3 or value.shape[1] > cells:
        msg = f"{key} must have shape (3, N), N <= {cells}, got {value.shape}"
        raise ValueError(msg)
    _check_range(f"{key}: classes", value[0], 0, _SEC_CLASSES - 1)
    _check_range(f"{key}: rows", value[1], 0, _SEC_GRID - 1)
    _check_range(f"{key}: columns", value[2], 0, _SEC_GRID - 1)
    return value.astype(np.uint8, order="C")


def _read_image_list(path: _PathLike) -> dict[str, int]:
    """Read lines ``<file name> <i>`` into {stem of the file name: i}."""
    indices: dict[str, int] = {}
    taken: set[int] = set()
    # surrogateescape: a file that is not text shall fail below, by name and line.
    with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(iter(lambda: file.readline(4096), ""), start=1):
            fields = line.rsplit(maxsplit=1)
            if not fields:
                continue
            if len(fields) == 1 or _INDEX.fullmatch(fields[1]) is None:
                msg = (
                    f"{os.fspath(path)}: lines must be '<file name> <index>', "
                    f"got {_show(line)} in line {number}"
                )
                raise ValueError(msg)
            stem, index = PurePosixPath(fields[0]).stem, int(fields[1])
            if stem in indices or index in taken:
                msg = (
                    f"{os.fspath(path)}: names and indices must be distinct, "
                    f"got {_show(line)} in line {number}"
                )
                raise ValueError(msg)
            indices[stem] = index
            taken.add(index)
    return indices


def _check_range(name: str, values: NDArray[Any], low: int, high: int) -> None:
    if values.size == 0:
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        got = smallest if smallest < low else largest
        msg = f"{name} must be in {low}..{high}, got {got}"
        raise ValueError(msg)


# ----------------------------------------------------------------------- pickled arrays, not loaded

# Most opcodes a pickle may have. Each costs up to some 100 bytes and a microsecond, whatever the
# size of its file: a gigabyte of "make an empty dict" gzips to one megabyte. SEC's file has 0.4 M.
_MAX_OPCODES = 5_000_000
_MAX_STACK = 10_000  # picklers flush a dict every 1000 items, that is 2000 entries
_MAX_TUPLE = 16
_MAX_TEXT = 1000
_CHUNK = 2**20

# Opcodes admitted, with the most bytes that one read of their operand may ask for. None: as many
# as the file may have. Whatever is not listed is refused before its operand is read.
_OPERAND_LIMITS: dict[str, int | None] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL"), 8),
    **dict.fromkeys(("REDUCE", "BUILD", "EMPTY_DICT", "SETITEM", "SETITEMS"), 8),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), 8),
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"), 8),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), 8),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"), 8),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _MAX_TEXT),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), None),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), None),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Global(enum.Enum):
    """The callables a pickle may name. They are names here and are never looked up."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"


_GLOBALS = {
    "numpy._core.multiarray._reconstruct": _Global.RECONSTRUCT,
    **{member.value: member for member in _Global},
}
_NAME_LINE = re.compile(rb"[A-Za-z0-9_.]+\n")
_MARK = object()


class _DType:
    """A dtype, waiting for BUILD to give it a byte order."""

    __slots__ = ("code", "value")

    def __init__(self, code: str) -> None:
        self.code = code
        self.value: np.dtype[Any] | None = None


class _Array:
    """An array, waiting for BUILD to give it shape, dtype and data."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


def _unpickle_arrays(
    path: _PathLike, convert: Callable[[int | str, object], _T], *, max_bytes: int
) -> dict[int | str, _T]:
    """Read a pickled dict of arrays and scalars, plain or gzipped, without unpickling.

    Parameters
    ----------
    path : str or path-like
    convert : callable
        Called with each key (int or str) and value (None, bool, int, str, bytes or a read-only
        array) as it is read; what it returns is kept. A ValueError it raises is reported
        with file and position.
    max_bytes : int
        Largest pickle after decompression, and largest sum of the arrays' bytes.

    Returns
    -------
    dict of int or str to what `convert` returns
        Keys that Python 2 wrote as ``str`` become text.

    Raises
    ------
    ValueError
        If the file breaks any rule. The message names the file, the rule and the byte of the
        decompressed pickle where the offending opcode starts.
    OSError
        If the file cannot be opened or read.
    """
    import gzip
    import zlib

    if max_bytes < 1:
        msg = f"max_bytes must be at least 1, got {max_bytes}"
        raise ValueError(msg)
    with Path(path).open("rb") as file:
        source = file
        if file.peek(2)[:2] == b"\x1f\x8b":
            # Buffered again, because GzipFile's own small reads run in Python.
            source = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)))
        stream = _PickleStream(source, max_bytes)
        try:
            return _interpret(stream, convert)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            rule = f"gzip data must be whole and undamaged, got: {error}"
        except ValueError as error:
            rule = str(error)
        msg = f"{os.fspath(path)}: {rule} (at byte {stream.opcode_position} of the pickle)"
        raise ValueError(msg)


def _interpret(
    stream: _PickleStream, convert: Callable[[int | str, object], _T]
) -> dict[int | str, _T]:
    import pickletools

    machine = _Machine(convert, stream.max_bytes)
    opcodes = pickletools.genops(cast("IO[bytes]", stream))
    for _ in range(_MAX_OPCODES):
        stream.expect_opcode()
        opcode, argument, _ = next(opcodes)
        if opcode.name == "STOP":
            result = machine.result()
            # Reading on also makes gzip compare its checksum.
            if not stream.exhausted():
                msg = "nothing may follow the pickle's STOP, got more bytes"
                raise ValueError(msg)
            return result
        machine.step(opcode.name, argument)
    msg = f"the pickle must have at most {_MAX_OPCODES} opcodes, got more"
    raise ValueError(msg)


class _PickleStream:
    """The file as genops reads it: bounded, and refusing an opcode before its operand is read."""

    def __init__(self, source: io.BufferedReader, max_bytes: int) -> None:
        import pickletools

        self.max_bytes = max_bytes
        self.opcode_position = 0
        self._source = source
        self._position = 0
        self._opcode = ""  # "": the next read is of an opcode
        self._names = {op.code: op.name for op in pickletools.opcodes}

    def exhausted(self) -> bool:
        return not self._source.read(1)

    def expect_opcode(self) -> None:
        self.opcode_position = self._position
        self._opcode = ""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not self._opcode:
            code = self._take(size)
            if self._position <= 1 and code != b"\x80":
                msg = f"the file must be a pickle of protocol 2 to 5, gzipped or not, got {code!r}"
                raise ValueError(msg)
            name = self._names.get(code.decode("latin-1"), "")
            if code and name not in _OPERAND_LIMITS:
                msg = f"opcode {name or repr(code)} is not allowed in a file of arrays"
                raise ValueError(msg)
            self._opcode = name
            return code
        limit = _OPERAND_LIMITS[self._opcode]
        if limit is not None and size > limit:
            msg = f"the operand of {self._opcode} must have at most {limit} bytes, got {size}"
            raise ValueError(msg)
        return self._take(size)

    def readline(self) -> bytes:
        """Read a line of GLOBAL, the only admitted opcode whose operand is text lines."""
        line = self._source.readline(_MAX_TEXT)
        self._position += len(line)
        # genops would interpret escapes, and warn about wrong ones.
        if _NAME_LINE.fullmatch(line) is None:
            msg = f"GLOBAL must have two lines of dotted names, got {_show(line)}"
            raise ValueError(msg)
        return line

    def _take(self, size: int) -> bytes:
        if self._position + size > self.max_bytes:
            msg = (
                f"the pickle must have at most max_bytes = {self.max_bytes} bytes, "
                f"got at least {self._position + size}"
            )
            raise ValueError(msg)
        data = self._source.read(min(size, _CHUNK))
        if size > _CHUNK:
            # In pieces, so that a false length costs no more memory than the file has bytes.
            pieces = [data]
            missing = size - len(data)
            while missing and pieces[-1]:
                pieces.append(self._source.read(min(missing, _CHUNK)))
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        self._position += len(data)
        return data


class _Machine(Generic[_T]):
    """A pickle machine that can build dictionaries of arrays and scalars, and nothing else."""

    def __init__(self, convert: Callable[[int | str, object], _T], max_bytes: int) -> None:
        self._convert = convert
        self._max_bytes = max_bytes
        self._array_bytes = 0
        self._started = False
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def step(self, name: str, argument: Any) -> None:
        match name:
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    msg = f"memo entries must be stored before use, got entry {argument}"
                    raise ValueError(msg)
                self._push(self._memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
                self._push(argument)
            case "SHORT_BINSTRING" | "BINSTRING":  # Python 2's str; genops reads it as Latin-1
                self._push(argument.encode("latin-1"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(_FIXED_TUPLES[name])]
                self._push_tuple(items[::-1])
            case "TUPLE":
                self._push_tuple(self._pop_to_mark())
            case "MARK":
                self._push(_MARK)
            case "BINPUT" | "LONG_BINPUT":
                self._memoize(argument)
            case "MEMOIZE":
                self._memoize(len(self._memo))
            case "REDUCE":
                self._reduce()
            case "BUILD":
                self._build()
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                self._push(_CONSTANTS[name])
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                # ASCII, so that text takes no more memory than its bytes in the file.
                if not argument.isascii():
                    msg = f"text must be ASCII, got {_show(argument)}"
                    raise ValueError(msg)
                self._push(argument)
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                self._push(argument)
            case "EMPTY_DICT":
                self._push({})
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "GLOBAL":
                self._push_global(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    msg = f"a global must be named by text, got {_show(module)}, {_show(attribute)}"
                    raise ValueError(msg)  # noqa: TRY004 (what is wrong is the file)
                self._push_global(f"{module}.{attribute}")
            case "PROTO":
                if self._started or not 2 <= argument <= 5:
                    msg = f"the pickle must start with one protocol 2 to 5, got {argument}"
                    raise ValueError(msg)
                self._started = True
            case "FRAME":  # how the writer cut its output; says nothing about content
                pass

    def result(self) -> dict[int | str, _T]:
        found = self._pop()
        if not isinstance(found, dict) or self._stack:
            msg = f"the pickle must hold one dict, got {_show(found)} over {len(self._stack)} more"
            raise ValueError(msg)
        return found

    def _push(self, item: object) -> None:
        if len(self._stack) >= _MAX_STACK:
            msg = f"the stack must have at most {_MAX_STACK} entries, got more"
            raise ValueError(msg)
        self._stack.append(item)

    def _pop(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            msg = "an operation must find its operands, got an empty stack or a MARK"
            raise ValueError(msg)
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while self._stack:
            item = self._stack.pop()
            if item is _MARK:
                return items[::-1]
            items.append(item)
        msg = "an operation must find its MARK, got a stack without"
        raise ValueError(msg)

    def _push_tuple(self, items: list[object]) -> None:
        if len(items) > _MAX_TUPLE:
            msg = f"tuples must have at most {_MAX_TUPLE} items, got {len(items)}"
            raise ValueError(msg)
        # An array's state holds its shape: no deeper.
        if any(type(inner) is tuple for item in items if type(item) is tuple for inner in item):
            msg = "tuples must be nested at most 2 deep, got 3"
            raise ValueError(msg)
        self._push(tuple(items))

    def _memoize(self, index: int) -> None:
        item = self._pop()
        # Pickle and cPickle count from 0 and from 1.
        if index > len(self._memo) + 1:
            msg = f"memo entries must be numbered in order, got {index} after {len(self._memo)}"
            raise ValueError(msg)
        self._memo[index] = item
        self._stack.append(item)

    def _push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            msg = f"global {_show(name)} is not allowed, only {', '.join(sorted(_GLOBALS))} are"
            raise ValueError(msg)
        self._push(_GLOBALS[name])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if function is _Global.RECONSTRUCT:
            if arguments != (_Global.NDARRAY, (0,), b"b"):
                msg = f"_reconstruct must be given (ndarray, (0,), b'b'), got {_show(arguments)}"
                raise ValueError(msg)
            self._push(_Array())
        elif function is _Global.DTYPE:
            self._push(_DType(_dtype_code(arguments)))
        else:
            msg = f"only _reconstruct and dtype may be called, got {_show(function)}"
            raise ValueError(msg)

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, _DType | _Array) or not isinstance(state, tuple):
            msg = f"only arrays and dtypes have a state, got {_show(target)}, {_show(state)}"
            raise ValueError(msg)  # noqa: TRY004
        if target.value is not None:
            msg = f"a state must be set once, got a second for {_show(target)}"
            raise ValueError(msg)
        if isinstance(target, _DType):
            target.value = _dtype(target.code, state)
        else:
            target.value = _ndarray(state)
        self._push(target)

    def _set_items(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(items) % 2:
            msg = f"items must be pairs for a dict, got {len(items)} for {_show(target)}"
            raise ValueError(msg)
        for key, value in zip(items[::2], items[1::2], strict=True):
            name = _text(key) if isinstance(key, str | bytes) else key
            if type(name) is not str and type(name) is not int:
                msg = f"keys must be ASCII text or integers, got {_show(key)}"
                raise ValueError(msg)
            if name in target:
                msg = f"keys must be distinct, got {_show(name)} twice"
                raise ValueError(msg)
            target[name] = self._convert(name, self._finished(value))
        self._push(target)

    def _finished(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | str | bytes):
            return value
        if not isinstance(value, _Array) or value.value is None:
            msg = f"values must be arrays, numbers or text, got {_show(value)}"
            raise ValueError(msg)
        array = value.value
        # Counted where it is stored: one array in the file can stand under many keys.
        self._array_bytes += array.nbytes
        if self._array_bytes > self._max_bytes:
            msg = (
                f"arrays must have at most max_bytes = {self._max_bytes} bytes together, "
                f"got {self._array_bytes}"
            )
            raise ValueError(msg)
        if array.dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
            msg = f"bool arrays must hold bytes 0 and 1, got {int(array.view(np.uint8).max())}"
            raise ValueError(msg)
        return array


def _dtype_code(arguments: object) -> str:
    """Return the code in the arguments of NumPy's dtype(code, align=False, copy=True)."""
    if isinstance(arguments, tuple) and arguments[1:] == (False, True):
        code = _text(arguments[0])
        if code in _DTYPES:
            return code
    msg = f"a dtype must be one of {', '.join(_DTYPES)}, got {_show(arguments)}"
    raise ValueError(msg)


def _dtype(code: str, state: tuple[object, ...]) -> np.dtype[Any]:
    """Return the dtype of NumPy's state (3, byte order, None, None, None, -1, -1, 0)."""
    order = _text(state[1]) if len(state) > 1 else None
    orders = "|" if code.endswith("1") else "<>"
    plain = state[:1] + state[2:] == (3, None, None, None, -1, -1, 0)
    if not plain or order is None or len(order) != 1 or order not in orders:
        msg = (
            f"the state of dtype {code} must be (3, byte order of {orders!r}, None, None, None, "
            f"-1, -1, 0), got {_show(state)}"
        )
        raise ValueError(msg)
    return np.dtype(order + code)


def _ndarray(state: tuple[object, ...]) -> NDArray[Any]:
    """Return the array of NumPy's state (1, shape, dtype, Fortran, bytes), without a copy."""
    match state:
        case (
            1,
            tuple() as shape,
            _DType(value=np.dtype() as dtype),
            bool() as fortran,
            bytes() as data,
        ):
            pass
        case _:
            msg = f"an array's state must be (1, shape, dtype, bool, bytes), got {_show(state)}"
            raise ValueError(msg)
    if not all(type(length) is int and length >= 0 for length in shape):
        msg = f"an array's shape must hold integers >= 0, got {_show(shape)}"
        raise ValueError(msg)
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        msg = (
            f"an array's data must have {size} bytes for shape {shape} of {dtype}, got {len(data)}"
        )
        raise ValueError(msg)
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _text(value: object) -> str | None:
    """Text as either Python wrote it, or None."""
    if isinstance(value, bytes):
        return value.decode("ascii") if len(value) <= _MAX_TEXT and value.isascii() else None
    return value if isinstance(value, str) else None


def _show(value: object) -> str:
    """Describe shortly, whatever the value's size and depth."""
    match value:
        case _Global():
            return value.value
        case str() | bytes():
            shown = repr(value[:60])
            return shown if len(value) <= 60 else f"{shown}... ({len(value)} long)"
        case None | bool() | int():
            return repr(value)
        case tuple():
            return f"({', '.join('(...)' if type(v) is tuple else _show(v) for v in value)})"
        case np.ndarray():
            return f"{value.dtype} array of shape {value.shape}"
        case _Array() if value.value is None:
            return "an array without data"
        case _Array():
            return _show(value.value)
        case _DType():
            return f"dtype {value.code}"
        case _:
            return type(value).__name__


# ------------------------------------------------------------------------------------- label images


def write_labels(path: _PathLike, labels: Any) -> None:
    """Write a label map as a PNG with the PASCAL VOC palette.

    The file appears whole or not at all: it is written beside `path` and then takes its place.

    Parameters
    ----------
    path : str or path-like
    labels : ndarray or CPU torch tensor, shape (H, W), any integer dtype
        Class ids 0..255, 255 = ignore. H and W are at least 1.

    Raises
    ------
    TypeError
        If `labels` is neither an array nor a tensor.
    ValueError
        If dtype, shape, device or a value is not as above.
    OSError
        If the file cannot be written; what was at `path` is then still there.
    """
    from PIL import Image

    pixels = _label_pixels(labels)
    image = Image.fromarray(pixels)
    image.putpalette(_voc_palette())
    # Not tempfile: its files are private to the user, and a label map should follow the umask.
    unfinished = Path(path).parent / f".{os.urandom(8).hex()}.tmp"
    try:
        with unfinished.open("xb") as file:
            image.save(file, format="PNG")
        unfinished.replace(path)
    except BaseException:  # Ctrl-C too must leave nothing behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def read_labels(path: _PathLike) -> NDArray[np.uint8]:
    """Read a label map from a PNG: palette indices, or the values of a gray image.

    Parameters
    ----------
    path : str or path-like
        A palette PNG (its indices are read, its colours ignored), an 8-bit gray PNG, or a 1-bit
        gray PNG, which gives 0 and 1.

    Returns
    -------
    ndarray of uint8, shape (H, W)

    Raises
    ------
    ValueError
        If the file is not a PNG, is truncated or damaged, has colours or transparency instead of
        indices, is gray with 2, 4 or 16 bits (whose values Pillow would rescale), or has more
        pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    OSError
        If the file cannot be opened or read.
    """
    from PIL import Image

    name = os.fspath(path)
    with Path(path).open("rb") as file:
        header = file.read(26)  # signature, IHDR: length, name, width, height, depth, colour type
        file.seek(0)
        try:
            # PNG alone: among Pillow's formats are some that start other programs.
            with Image.open(file, formats=("PNG",)) as image:
                width, height = image.size
                limit = Image.MAX_IMAGE_PIXELS
                too_large = limit is not None and width * height > limit
                allowed = image.mode in ("P", "L", "1") and header[24:26] not in (b"\2\0", b"\4\0")
                mode = f"{image.mode}, {header[24]} bits"
                if allowed and not too_large:
                    return np.array(image, dtype=np.uint8)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            msg = f"{name}: a label image must be within Pillow's size limit, got: {error}"
            raise ValueError(msg) from error
        except Exception as error:
            # Pillow raises SyntaxError, struct.error, EOFError and more for damaged files, and
            # OSError without errno, as it does not come from the system.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            msg = f"{name}: a label image must be a whole, undamaged PNG, got: {error}"
            raise ValueError(msg) from error
    if too_large:
        msg = f"{name}: a label image must have at most {limit} pixels, got {width} x {height}"
    else:
        msg = f"{name}: a label image must have mode P, L (8 bits) or 1, got {mode}"
    raise ValueError(msg)


def _label_pixels(labels: Any) -> NDArray[np.uint8]:
    torch = sys.modules.get("torch")  # who passes a tensor has imported it
    if torch is not None and isinstance(labels, torch.Tensor):
        if labels.device.type != "cpu":
            msg = f"labels must be on the CPU, got device {labels.device}"
            raise ValueError(msg)
        if labels.is_floating_point() or labels.is_complex():  # bfloat16 has no NumPy dtype
            msg = f"labels must have integer dtype, got {labels.dtype}"
            raise ValueError(msg)
        labels = labels.numpy()
    if not isinstance(labels, np.ndarray):
        msg = f"labels must be a NumPy array or a torch tensor, got {type(labels).__name__}"
        raise TypeError(msg)
    if labels.dtype.kind not in "iu":
        msg = f"labels must have integer dtype, got {labels.dtype}"
        raise ValueError(msg)
    if labels.ndim != 2 or labels.size == 0:
        msg = f"labels must have shape (H, W) with at least one pixel, got {labels.shape}"
        raise ValueError(msg)
    _check_range("labels", labels, 0, 255)
    return np.ascontiguousarray(labels, dtype=np.uint8)


def _voc_palette() -> list[int]:
    """Red, green, blue of the 256 PASCAL VOC colours.

    Bits 0, 3, 6 of an id are the highest bits of red, from the top; 1, 4, 7 of green; 2, 5 of
    blue.
    """
    return [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for label in range(256)
        for channel in range(3)
    ]
