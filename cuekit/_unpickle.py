"""Reads pickled dictionaries of arrays without unpickling: nothing in a file is ever executed.

An interpreter for the few opcodes that pickled arrays consist of, over `pickletools.genops`, which
only parses. Everything else is refused with the position in the file.
"""

from __future__ import annotations

import enum
import io
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PathLike: TypeAlias = str | os.PathLike[str]
_T = TypeVar("_T")

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


def unpickle_arrays(
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
            msg = f"GLOBAL must have two lines of dotted names, got {show(line)}"
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
                    msg = f"text must be ASCII, got {show(argument)}"
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
                    msg = f"a global must be named by text, got {show(module)}, {show(attribute)}"
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
            msg = f"the pickle must hold one dict, got {show(found)} over {len(self._stack)} more"
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
            msg = f"global {show(name)} is not allowed, only {', '.join(sorted(_GLOBALS))} are"
            raise ValueError(msg)
        self._push(_GLOBALS[name])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if function is _Global.RECONSTRUCT:
            if arguments != (_Global.NDARRAY, (0,), b"b"):
                msg = f"_reconstruct must be given (ndarray, (0,), b'b'), got {show(arguments)}"
                raise ValueError(msg)
            self._push(_Array())
        elif function is _Global.DTYPE:
            self._push(_DType(_dtype_code(arguments)))
        else:
            msg = f"only _reconstruct and dtype may be called, got {show(function)}"
            raise ValueError(msg)

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, _DType | _Array) or not isinstance(state, tuple):
            msg = f"only arrays and dtypes have a state, got {show(target)}, {show(state)}"
            raise ValueError(msg)  # noqa: TRY004
        if target.value is not None:
            msg = f"a state must be set once, got a second for {show(target)}"
            raise ValueError(msg)
        if isinstance(target, _DType):
            target.value = _dtype(target.code, state)
        else:
            target.value = _ndarray(state)
        self._push(target)

    def _set_items(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(items) % 2:
            msg = f"items must be pairs for a dict, got {len(items)} for {show(target)}"
            raise ValueError(msg)
        for key, value in zip(items[::2], items[1::2], strict=True):
            name = _text(key) if isinstance(key, str | bytes) else key
            if type(name) is not str and type(name) is not int:
                msg = f"keys must be ASCII text or integers, got {show(key)}"
                raise ValueError(msg)
            if name in target:
                msg = f"keys must be distinct, got {show(name)} twice"
                raise ValueError(msg)
            target[name] = self._convert(name, self._finished(value))
        self._push(target)

    def _finished(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | str | bytes):
            return value
        if not isinstance(value, _Array) or value.value is None:
            msg = f"values must be arrays, numbers or text, got {show(value)}"
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
    msg = f"a dtype must be one of {', '.join(_DTYPES)}, got {show(arguments)}"
    raise ValueError(msg)


def _dtype(code: str, state: tuple[object, ...]) -> np.dtype[Any]:
    """Return the dtype of NumPy's state (3, byte order, None, None, None, -1, -1, 0)."""
    order = _text(state[1]) if len(state) > 1 else None
    orders = "|" if code.endswith("1") else "<>"
    plain = state[:1] + state[2:] == (3, None, None, None, -1, -1, 0)
    if not plain or order is None or len(order) != 1 or order not in orders:
        msg = (
            f"the state of dtype {code} must be (3, byte order of {orders!r}, None, None, None, "
            f"-1, -1, 0), got {show(state)}"
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
            msg = f"an array's state must be (1, shape, dtype, bool, bytes), got {show(state)}"
            raise ValueError(msg)
    if not all(type(length) is int and length >= 0 for length in shape):
        msg = f"an array's shape must hold integers >= 0, got {show(shape)}"
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


def show(value: object) -> str:
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
            return f"({', '.join('(...)' if type(v) is tuple else show(v) for v in value)})"
        case np.ndarray():
            return f"{value.dtype} array of shape {value.shape}"
        case _Array() if value.value is None:
            return "an array without data"
        case _Array():
            return show(value.value)
        case _DType():
            return f"dtype {value.code}"
        case _:
            return type(value).__name__
