"""Reads pickled dictionaries of arrays without unpickling: nothing in a file is ever executed.

`pickletools.genops` parses the file into opcodes and executes nothing. An interpreter then accepts
the few opcodes that pickled arrays, lists and numbers consist of, and refuses everything else with
its position in the file. Names of functions are compared with a short list and never imported.
Memory and time are bounded as well: a small file cannot make the interpreter allocate much or work
for long.

Torch tensors are read as well where a reader asks for them, without torch: a tensor is a shape and
strides over a *storage*, which is plain memory (`cuekit.io._tensors`). torch's `_load_from_bytes`,
which would unpickle, is not called: the bytes that it is given hold pickles, which go through this
interpreter like any other.
"""

from __future__ import annotations

import contextlib
import enum
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from cuekit.io._tensors import STORAGES, Storage, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit.io._common import PathLike

    LoadStorage = Callable[[str, str, int], Storage]

_T = TypeVar("_T")

# Limits of the number of opcodes. Each costs up to about 100 bytes of memory and two microseconds,
# and the size of the decompressed file does not limit them: a gigabyte of EMPTY_DICT opcodes is one
# megabyte after gzip. SEC's file has 0.4 million. Arrays and lists of small integers have at most
# four opcodes per byte after gzip.
_MAX_OPCODES = 5_000_000
_FEW_OPCODES = 100_000  # allowed in the smallest file
_OPCODES_PER_BYTE = 8
# Photos of MS COCO have 246 000 keys, two each.
_MAX_KEYS = 400_000
_MAX_STACK = 10_000  # picklers write a dict in batches of 1000 items, which are 2000 stack entries
_MAX_DIMENSIONS = 16
_MAX_TEXT = 1000  # bytes of a name, a key, or a line of GLOBAL
_CHUNK = 2**20

# The accepted opcodes, with the limit of bytes per read of their operand. None: only `max_bytes`
# limits it. An opcode that is not listed is refused before its operand is read.
_OPERAND_LIMITS: dict[str, int | None] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL"), 8),
    **dict.fromkeys(("REDUCE", "BUILD", "EMPTY_DICT", "SETITEM", "SETITEMS"), 8),
    **dict.fromkeys(("EMPTY_LIST", "APPEND", "APPENDS"), 8),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), 8),
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"), 8),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), 8),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"), 8),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), None),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), None),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), None),
}
_TENSOR_OPERAND_LIMITS = {**_OPERAND_LIMITS, "BINPERSID": 8}
_TEXT_OPCODES = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OBJECT_DTYPES = ("O8", "O4")  # the number is the size of a pointer
# What precedes the objects in a file of torch's first format: a magic number, and version 1001.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Global(enum.Enum):
    """The callables that a pickle may name. They are only names here and are never imported."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    FROM_BUFFER = "numpy.core.numeric._frombuffer"  # protocol 5
    SCALAR = "numpy.core.multiarray.scalar"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    # Python 3 writes bytes with these in protocol 2, which has no opcode for bytes.
    ENCODE = "_codecs.encode"
    BYTES = "__builtin__.bytes"


class _StorageType:
    """A torch storage class, of which only the elements' dtype matters."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _TensorGlobal(enum.Enum):
    """The further callables of a pickle with torch tensors."""

    REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
    LOAD_FROM_BYTES = "torch.storage._load_from_bytes"
    ORDERED_DICT = "collections.OrderedDict"  # of a tensor's hooks; always empty here


_GLOBALS = {
    **{member.value: member for member in _Global},
    **{  # NumPy 2
        member.value.replace("numpy.core.", "numpy._core."): member
        for member in (_Global.RECONSTRUCT, _Global.FROM_BUFFER, _Global.SCALAR)
    },
}
_TENSOR_GLOBALS: dict[str, object] = {
    **_GLOBALS,
    **{member.value: member for member in _TensorGlobal},
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in STORAGES.items()},
}
_NAME_LINE = re.compile(rb"[A-Za-z0-9_.]+\n")
_MARK = object()
_LATIN_1 = bytes(range(0xC4))  # the bytes that UTF-8 needs for U+0000 to U+00FF


class _DType:
    """A dtype whose byte order is still missing; BUILD sets it."""

    __slots__ = ("code", "value")

    def __init__(self, code: str) -> None:
        self.code = code
        self.value: np.dtype[Any] | None = None


class _ObjectDType:
    """The dtype of the 0-d array in which `numpy.save` stores a dict.

    A class of its own, so that no array of bytes can ever get it: they would be used as pointers.
    """

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False


class _OuterTuple(tuple[object, ...]):
    """A tuple that contains tuples. Its type tells so without a look at all items of all items."""

    __slots__ = ()


class _Hooks:
    """The empty OrderedDict that is a tensor's last field."""

    __slots__ = ()


class _Array:
    """An array whose shape, dtype and data are still missing; BUILD sets them."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


def unpickle_arrays(
    path: PathLike, convert: Callable[[int | str, object], _T], *, max_bytes: int
) -> dict[int | str, _T]:
    """Read a pickled dict of arrays and scalars, plain or gzipped, without unpickling.

    Parameters
    ----------
    path : str or path-like
    convert : callable
        Called with each key (int or str) and value (None, bool, int, float, str, bytes or a
        read-only array) when it is read; its result is stored. Lists and tuples of integers, or of
        rows of integers, are arrays by then. If it raises a ValueError, the file and the position
        are added to the message.
    max_bytes : int
        Size limit of the pickle after decompression, and of the sum of the arrays' sizes.

    Returns
    -------
    dict of int or str to what `convert` returns
        Keys that Python 2 wrote as ``str`` become Python 3's ``str``.

    Raises
    ------
    ValueError
        If the file breaks a rule. The message names the file, the rule and the position of the
        opcode that breaks it, in bytes of the decompressed pickle.
    OSError
        If the file cannot be opened or read.
    """
    import gzip
    import zlib

    with Path(path).open("rb") as file:
        source = file
        if file.peek(2)[:2] == b"\x1f\x8b":
            # A second buffer, because GzipFile implements small reads in Python.
            source = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)))
        budget = Budget(os.fstat(file.fileno()).st_size, max_bytes)
        stream = _PickleStream(source, max_bytes, _OPERAND_LIMITS)
        try:
            return _whole_dict(stream, _Interpreter(convert, budget), budget)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            rule = f"gzip data must be whole and undamaged, got: {error}"
        except ValueError as error:
            rule = str(error)
        raise ValueError(
            f"{os.fspath(path)}: {rule} (at byte {stream.opcode_position} of the pickle)"
        )


def _whole_dict(
    stream: _PickleStream, interpreter: _Interpreter[_T], budget: Budget
) -> dict[int | str, _T]:
    """Run the pickle of a file that contains one dict and nothing else."""
    result = _interpret(stream, interpreter, budget)
    if not isinstance(result, dict):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
            f"the pickle must contain one dict, got {show(result)} and 0 more objects"
        )
    # Reading to the end also makes gzip compare its checksum.
    if not stream.exhausted():
        raise ValueError("nothing may follow the pickle's STOP, got more bytes")
    return result


class Budget:
    """What all pickles of one file may cost together."""

    def __init__(self, file_size: int, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.most_opcodes = min(_MAX_OPCODES, _FEW_OPCODES + _OPCODES_PER_BYTE * file_size)
        self._opcodes = 0
        self._keys = 0
        self._array_bytes = 0
        self._copied_bytes = 0

    def count_opcode(self) -> None:
        self._opcodes += 1
        if self._opcodes > self.most_opcodes:
            raise ValueError(
                f"the pickle must have at most {self.most_opcodes} opcodes, got more: write "
                "arrays, not lists"
            )

    def count_key(self) -> None:
        self._keys += 1
        if self._keys > _MAX_KEYS:
            raise ValueError(f"the dict must have at most {_MAX_KEYS} keys, got more")

    def count_copy(self, nbytes: int) -> None:
        # A pickle can name one string many times; what is made of it each time adds up.
        self._copied_bytes += nbytes
        if self._copied_bytes > self.max_bytes:
            raise ValueError(
                f"storages, lists, and bytes that are written as text must have at most max_bytes "
                f"= {self.max_bytes} bytes together, got {self._copied_bytes}"
            )

    def count_array(self, nbytes: int) -> None:
        # Counted per key: one array of the file can be stored under many keys.
        self._array_bytes += nbytes
        if self._array_bytes > self.max_bytes:
            raise ValueError(
                f"arrays must have at most max_bytes = {self.max_bytes} bytes together, "
                f"got {self._array_bytes}"
            )


def unpickle_objects(
    source: IO[bytes], budget: Budget, load_storage: LoadStorage | None = None
) -> object:
    """Read one pickle of arrays, torch tensors and plain values, without unpickling.

    Parameters
    ----------
    source : binary file
        Read up to the pickle's end, not further.
    budget : Budget
    load_storage : callable, optional
        Called with the key, the dtype and the number of elements of a storage that the file has
        elsewhere. Without it, a pickle must contain its storages.

    Returns
    -------
    object
        What the pickle holds: a dict, whose values are as in `unpickle_arrays`, Tensors, further
        dicts, or lists of anything; a Storage; or a list. A 0-d object array, as `numpy.save`
        writes for a dict, gives the dict in it.

    Raises
    ------
    ValueError
        As `unpickle_arrays`, but without the file's name.
    """
    stream = _PickleStream(source, budget.max_bytes, _TENSOR_OPERAND_LIMITS)
    interpreter = _TensorInterpreter(budget, load_storage)
    try:
        return _interpret(stream, interpreter, budget)
    except ValueError as error:
        raise ValueError(f"{error} (at byte {stream.opcode_position} of the pickle)") from None


def read_legacy(source: IO[bytes], size: int, budget: Budget) -> object:
    """Read a file of torch's first format, whose storages follow the pickled objects.

    `torch.save` wrote it before torch 1.6. Pickled tensors still contain it: each holds its storage
    as such a file.

    Parameters
    ----------
    source : binary file
    size : int
        Its size in bytes.
    budget : Budget

    Raises
    ------
    ValueError
        As `unpickle_objects`, or if the file does not begin with `LEGACY_MAGIC`, is damaged, or has
        more bytes after the last storage.
    """
    budget.count_copy(size)
    if source.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC:
        raise ValueError("a file of torch's first format must begin with its magic number")
    system = unpickle_objects(source, budget)
    little = system.get("little_endian") if isinstance(system, dict) else None
    if not isinstance(little, bool):
        raise ValueError(f"torch's file must say its byte order, got {show(system)}")  # noqa: TRY004
    storages: dict[str, Storage] = {}

    def load_storage(key: str, dtype: str, count: int) -> Storage:
        new = Storage(dtype, count, little_endian=little)
        known = storages.setdefault(key, new)
        if (known.code, known.count) != (dtype, count):
            raise ValueError(f"a storage must have one dtype and size, got two for {show(key)}")
        return known

    found = unpickle_objects(source, budget, load_storage)
    keys = unpickle_objects(source, budget)
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(keys, list) or not listed or sorted(keys) != sorted(storages):
        raise ValueError(f"torch's file must list its {len(storages)} storages, got {show(keys)}")
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(source.read(8), "little")
        if count != storage.count:
            raise ValueError(f"a storage must have {storage.count} elements, got {count}")
        storage.fill(read_bytes(source, storage.nbytes))
    if source.read(1):
        raise ValueError("nothing may follow the last storage, got more bytes")
    return found


def read_bytes(source: IO[bytes], size: int) -> bytes:
    """Read `size` bytes, or fewer where the file ends.

    In pieces, so that a false length allocates no more than the file really contains.
    """
    data = source.read(min(size, _CHUNK))
    if size <= _CHUNK:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and pieces[-1]:
        pieces.append(source.read(min(missing, _CHUNK)))
        missing -= len(pieces[-1])
    return b"".join(pieces)


def _interpret(stream: _PickleStream, interpreter: _Interpreter[Any], budget: Budget) -> object:
    """Run one pickle, up to its STOP."""
    import pickletools

    opcodes = pickletools.genops(cast("IO[bytes]", stream))
    while True:
        budget.count_opcode()
        stream.expect_opcode()
        opcode, argument, _ = next(opcodes)
        if opcode.name == "STOP":
            return interpreter.result()
        interpreter.step(opcode.name, argument)


class _PickleStream:
    """The file object that genops reads: limits sizes, refuses opcodes before their operands."""

    def __init__(
        self, source: IO[bytes], max_bytes: int, operand_limits: dict[str, int | None]
    ) -> None:
        import pickletools

        self._max_bytes = max_bytes
        self._operand_limits = operand_limits
        self.opcode_position = 0
        self._source = source
        self._position = 0
        self._opcode = ""  # empty: the next byte read is an opcode
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
                raise ValueError(
                    f"the file must be a pickle of protocol 2 to 5, gzipped or not, got {code!r}"
                )
            name = self._names.get(code.decode("latin-1"), "")
            if code and name not in self._operand_limits:
                raise ValueError(
                    f"opcode {name or repr(code)} is not allowed in a pickle of arrays"
                )
            self._opcode = name
            return code
        limit = self._operand_limits[self._opcode]
        if limit is not None and size > limit:
            raise ValueError(
                f"the operand of {self._opcode} must have at most {limit} bytes, got {size}"
            )
        data = self._take(size)
        # Long text is the data of an array, bytes that are written as Latin-1. One wide character
        # would make Python store all of them in 4 bytes.
        if size > _MAX_TEXT and self._opcode in _TEXT_OPCODES and data.translate(None, _LATIN_1):
            raise ValueError(f"text of more than {_MAX_TEXT} bytes must be Latin-1, got {size}")
        return data

    def readline(self) -> bytes:
        """Read a line of GLOBAL, the only accepted opcode whose operand is text lines."""
        line = self._source.readline(_MAX_TEXT)
        self._position += len(line)
        # genops would decode escape sequences, and warn about invalid ones.
        if _NAME_LINE.fullmatch(line) is None:
            raise ValueError(f"GLOBAL must have two lines of dotted names, got {show(line)}")
        return line

    def _take(self, size: int) -> bytes:
        if self._position + size > self._max_bytes:
            raise ValueError(
                f"the pickle must have at most max_bytes = {self._max_bytes} bytes, "
                f"got at least {self._position + size}"
            )
        data = read_bytes(self._source, size)
        self._position += len(data)
        return data


class _Interpreter(Generic[_T]):
    """A pickle interpreter that can build dictionaries of arrays and scalars, and nothing else."""

    globals: Mapping[str, object] = _GLOBALS

    def __init__(self, convert: Callable[[int | str, object], _T], budget: Budget) -> None:
        self._convert = convert
        self._budget = budget
        self._started = False
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def step(self, name: str, argument: Any) -> None:
        # In the order of frequency: the cases are compared one after the other.
        match name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                self._push(argument)
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(
                        f"memo entries must be stored before use, got entry {argument}"
                    )
                self._push(self._memo[argument])
            case "MEMOIZE":
                self._memoize(len(self._memo))
            case "BINPUT" | "LONG_BINPUT":
                self._memoize(argument)
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self._push(argument)
            case "SHORT_BINSTRING" | "BINSTRING":  # Python 2's str; genops reads it as Latin-1
                self._push(argument.encode("latin-1"))
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self._push(bytes(argument))
            case "MARK":
                self._push(_MARK)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(_FIXED_TUPLES[name])]
                self._push_tuple(items[::-1])
            case "TUPLE":
                self._push_tuple(self._pop_to_mark())
            case "REDUCE":
                self._reduce()
            case "BUILD":
                self._build()
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                self._push(_CONSTANTS[name])
            case "EMPTY_LIST":
                self._push([])
            case "APPEND":
                self._append([self._pop()])
            case "APPENDS":
                self._append(self._pop_to_mark())
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
                    raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
                        f"the name of a global must be a string, got {show(module)}, "
                        f"{show(attribute)}"
                    )
                self._push_global(f"{module}.{attribute}")
            case "PROTO":
                if self._started or not 2 <= argument <= 5:
                    raise ValueError(
                        f"the pickle must start with one protocol 2 to 5, got {argument}"
                    )
                self._started = True
            case "FRAME":  # the size of the writer's next output buffer, not content
                pass

    def result(self) -> object:
        found = self._pop()
        if self._stack:
            raise ValueError(
                "the pickle must contain one dict, "
                f"got {show(found)} and {len(self._stack)} more objects"
            )
        return found

    def _push(self, item: object) -> None:
        if len(self._stack) >= _MAX_STACK:
            raise ValueError(f"the stack must have at most {_MAX_STACK} entries, got more")
        self._stack.append(item)

    def _pop(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError(
                "an opcode must have its operands on the stack, got an empty stack or MARK"
            )
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while self._stack:
            item = self._stack.pop()
            if item is _MARK:
                return items[::-1]
            items.append(item)
        raise ValueError("an opcode must have its MARK on the stack, got none")

    def _push_tuple(self, items: list[object]) -> None:
        # The deepest tuple needed is an array's state, which contains its shape.
        if any(type(item) is _OuterTuple for item in items):
            raise ValueError("tuples must be nested at most 2 deep, got 3")
        outer = any(type(item) is tuple for item in items)
        self._push(_OuterTuple(items) if outer else tuple(items))

    def _append(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise ValueError(  # noqa: TRY004 - as above
                f"items must be appended to a list, got {show(target)}"
            )
        target.extend(items)
        self._push(target)

    def _memoize(self, index: int) -> None:
        item = self._pop()
        # pickle numbers memo entries from 0, cPickle from 1.
        if index > len(self._memo) + 1:
            raise ValueError(
                f"memo entries must be numbered in order, got {index} after {len(self._memo)}"
            )
        self._memo[index] = item
        self._stack.append(item)

    def _push_global(self, name: str) -> None:
        if name not in self.globals:
            raise ValueError(
                f"global {show(name)} is not allowed, only {', '.join(sorted(self.globals))} are"
            )
        self._push(self.globals[name])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise ValueError(  # noqa: TRY004 - as above
                f"the arguments of {show(function)} must be a tuple, got {show(arguments)}"
            )
        if function is _Global.RECONSTRUCT:
            if arguments != (_Global.NDARRAY, (0,), b"b"):
                raise ValueError(
                    f"_reconstruct must be given (ndarray, (0,), b'b'), got {show(arguments)}"
                )
            self._push(_Array())
        elif function is _Global.DTYPE:
            self._push(_DType(_dtype_code(arguments)))
        elif function is _Global.FROM_BUFFER:
            array = _Array()
            array.value = _from_buffer(arguments)
            self._push(array)
        elif function is _Global.SCALAR:
            self._push(_scalar(arguments))
        elif function is _Global.ENCODE:
            encoded = _encoded(arguments)
            self._budget.count_copy(len(encoded))
            self._push(encoded)
        elif function is _Global.BYTES and arguments == ():
            self._push(b"")
        else:
            raise ValueError(f"only functions that make arrays may be called, got {show(function)}")

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, _DType | _Array) or not isinstance(state, tuple):
            raise ValueError(  # noqa: TRY004 - as above
                f"only arrays and dtypes have a state, got {show(target)}, {show(state)}"
            )
        if target.value is not None:
            raise ValueError(f"a state must be set once, got a second for {show(target)}")
        if isinstance(target, _DType):
            target.value = _dtype(target.code, state)
        else:
            target.value = _ndarray(state)
        self._push(target)

    def _set_items(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"items must be pairs for a dict, got {len(items)} for {show(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            name = _text(key) if isinstance(key, str | bytes) else key
            if type(name) is not str and type(name) is not int:
                raise ValueError(
                    f"keys must be strings of at most {_MAX_TEXT} characters or integers, got "
                    f"{show(key)}"
                )
            self._budget.count_key()
            if name in target:
                raise ValueError(f"keys must be distinct, got {show(name)} twice")
            target[name] = self._convert(name, self._finished(value))
        self._push(target)

    def _finished(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if isinstance(value, list | tuple):
            return self._listed(value)
        if not isinstance(value, _Array) or value.value is None:
            raise ValueError(f"values must be arrays, numbers or strings, got {show(value)}")
        self._budget.count_array(value.value.nbytes)
        return _checked(value.value)

    def _listed(self, items: list[object] | tuple[object, ...]) -> NDArray[np.int64]:
        """Return the array of a list of integers, or of a list of rows of integers."""
        # A row that occurs many times is stored once, and copied many times: counted first.
        lengths = [_length(item) for item in items]
        self._budget.count_array(8 * sum(1 if length is None else length for length in lengths))
        if set(lengths) <= {None}:
            return _integers(items)
        if len(set(lengths)) > 1:
            raise ValueError("a list must hold integers, or rows of equal length, got both or more")
        rows = [
            _integers(item) if isinstance(item, list | tuple) else _vector(item) for item in items
        ]
        return np.stack(rows)


class _TensorInterpreter(_Interpreter[object]):
    """An interpreter that also builds torch tensors, as Tensors, and dicts within dicts."""

    globals = _TENSOR_GLOBALS

    def __init__(self, budget: Budget, load_storage: LoadStorage | None) -> None:
        super().__init__(lambda _, value: value, budget)
        self._load_storage = load_storage

    def step(self, name: str, argument: Any) -> None:
        if name == "BINPERSID":
            self._push(self._outside_storage(self._pop()))
        else:
            super().step(name, argument)

    def _outside_storage(self, name: object) -> Storage:
        match name:
            case (
                "storage",
                _StorageType(dtype=dtype),
                str() as key,
                str(),  # the device that it was on
                int() as count,
                *rest,
            ) if type(count) is int and count >= 0 and rest in ([], [None]):
                pass
            case _:
                raise ValueError(
                    "a storage must be named by ('storage', type, key, device, number of "
                    f"elements), got {show(name)}"
                )
        if self._load_storage is None:
            raise ValueError(f"a pickle must contain its storages, got storage {show(key)}")
        return self._load_storage(key, dtype, count)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            self._push(function)
            self._push(arguments)
            super()._reduce()  # which raises
        elif function is _TensorGlobal.LOAD_FROM_BYTES:
            self._push(self._inside_storage(arguments))
        elif function is _TensorGlobal.REBUILD_TENSOR:
            self._push(_tensor(arguments))
        elif function is _TensorGlobal.ORDERED_DICT and arguments == ():
            self._push(_Hooks())
        elif function is _Global.DTYPE and _is_object_dtype(arguments):
            self._push(_ObjectDType())
        else:
            self._push(function)
            self._push(arguments)
            super()._reduce()

    def _inside_storage(self, arguments: object) -> Storage:
        match arguments:
            case (bytes() as data,):
                pass
            case _:
                raise ValueError(
                    f"_load_from_bytes must be given one bytes object, got {show(arguments)}"
                )
        if self._load_storage is not None:
            raise ValueError("a storage must not contain another file")
        storage = read_legacy(io.BytesIO(data), len(data), self._budget)
        if not isinstance(storage, Storage):
            raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
                f"a tensor's bytes must hold one storage, got {show(storage)}"
            )
        return storage

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if isinstance(target, _ObjectDType):
            _check_object_dtype(target, state)
            self._push(target)
            return
        match target, state:
            case (
                _Array(value=None),
                (1, (), _ObjectDType(complete=True), False, [dict() as content]),
            ):
                self._push(content)
            case _:
                self._push(target)
                self._push(state)
                super()._build()

    def _finished(self, value: object) -> object:
        if isinstance(value, Tensor):
            self._budget.count_array(value.nbytes)
            return value
        if isinstance(value, dict):
            return value
        if isinstance(value, list | tuple):
            # A row that a list holds many times is looked at many times: counted first.
            rows = sum(len(row) for row in value if isinstance(row, list | tuple))
            self._budget.count_copy(8 * (len(value) + rows))
            if not _is_numeric(value):
                return value
        return super()._finished(value)


def _is_numeric(items: list[object] | tuple[object, ...]) -> bool:
    """Tell whether `_listed` makes an array of a list: of integers, or of rows of integers."""
    return all(type(item) is int for item in items) or all(
        all(type(item) is int for item in row)
        if isinstance(row, list | tuple)
        else isinstance(row, _Array) and row.value is not None and _is_vector(row.value)
        for row in items
    )


def _is_vector(array: NDArray[Any]) -> bool:
    return array.ndim == 1 and array.dtype.kind in "iu"


def _is_object_dtype(arguments: object) -> bool:
    return (
        isinstance(arguments, tuple)
        and arguments[1:] == (False, True)
        and _text(arguments[0]) in _OBJECT_DTYPES
    )


def _check_object_dtype(dtype: _ObjectDType, state: object) -> None:
    match state:
        case (3, str() | bytes() as order, None, None, None, -1, -1, 63) if _text(order) == "|":
            dtype.complete = True
        case _:
            raise ValueError(
                "the state of an object dtype must be (3, '|', None, None, None, -1, -1, 63), "
                f"got {show(state)}"
            )


def _tensor(arguments: object) -> Tensor:
    """Return the tensor of _rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks)."""
    match arguments:
        case (
            Storage() as storage,
            int() as offset,
            tuple() as shape,
            tuple() as strides,
            bool(),
            _Hooks(),
        ) if len(shape) <= _MAX_DIMENSIONS:
            return Tensor(storage, offset, shape, strides)
    raise ValueError(
        "_rebuild_tensor_v2 must be given (storage, offset, shape, strides, bool, OrderedDict()) "
        f"of at most {_MAX_DIMENSIONS} axes, got {show(arguments)}"
    )


def _length(item: object) -> int | None:
    """Return the length of a row; None for what is no row."""
    if isinstance(item, list | tuple):
        return len(item)
    return item.value.size if isinstance(item, _Array) and item.value is not None else None


def _integers(items: list[object] | tuple[object, ...]) -> NDArray[np.int64]:
    for item in items:
        if type(item) is not int or not -(2**63) <= item < 2**63:
            raise ValueError(f"lists must hold integers of int64's range, got {show(item)}")
    return np.array(items, np.int64)


def _vector(item: object) -> NDArray[np.int64]:
    array = item.value if isinstance(item, _Array) else None
    if array is None or not _is_vector(array):
        raise ValueError(f"rows must be integers, got {show(item)}")
    if array.size and int(array.max()) >= 2**63:
        raise ValueError(f"rows must be of int64's range, got {array.max()}")
    return array.astype(np.int64)


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise ValueError(
            f"bool arrays must hold bytes 0 and 1, got {int(array.view(np.uint8).max())}"
        )
    return array


def _encoded(arguments: object) -> bytes:
    """Return the bytes of Python's encode(text, "latin1"), which writes them in protocol 2."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            with contextlib.suppress(UnicodeEncodeError):
                return text.encode("latin-1")
    raise ValueError(f"encode must be given Latin-1 text and 'latin1', got {show(arguments)}")


def _scalar(arguments: object) -> bool | int | float:
    """Return the number of NumPy's scalar(dtype, bytes)."""
    match arguments:
        case (_DType(value=np.dtype() as dtype), bytes() as data) if len(data) == dtype.itemsize:
            number: bool | int | float = _checked(np.frombuffer(data, dtype)).item()
            return number
    raise ValueError(f"a scalar must be given a dtype and its bytes, got {show(arguments)}")


def _from_buffer(arguments: object) -> NDArray[Any]:
    """Return the array of NumPy's _frombuffer(bytes, dtype, shape, order), without a copy.

    Where order is "K" a permutation of the axes follows.
    """
    match arguments:
        case (
            bytes() as data,
            _DType(value=np.dtype() as dtype),
            tuple() as shape,
            ("C" | "F") as order,
        ):
            return _array_of(shape, dtype, data, fortran=order == "F")
        case (
            bytes() as data,
            _DType(value=np.dtype() as dtype),
            tuple() as shape,
            "K",
            tuple() as axes,
        ) if _is_permutation(axes, len(shape)):
            return _array_of(shape, dtype, data, fortran=False).transpose(axes)
    raise ValueError(
        f"_frombuffer must be given (bytes, dtype, shape, order), got {show(arguments)}"
    )


def _dtype_code(arguments: object) -> str:
    """Return the code in the arguments of NumPy's dtype(code, align=False, copy=True)."""
    if isinstance(arguments, tuple) and arguments[1:] == (False, True):
        code = _text(arguments[0])
        if code in _DTYPES:
            return code
    raise ValueError(f"a dtype must be one of {', '.join(_DTYPES)}, got {show(arguments)}")


def _dtype(code: str, state: tuple[object, ...]) -> np.dtype[Any]:
    """Return the dtype of NumPy's state (3, byte order, None, None, None, -1, -1, 0)."""
    order = _text(state[1]) if len(state) > 1 else None
    orders = "|" if code.endswith("1") else "<>"
    plain = state[:1] + state[2:] == (3, None, None, None, -1, -1, 0)
    if not plain or order is None or len(order) != 1 or order not in orders:
        raise ValueError(
            f"the state of dtype {code} must be (3, byte order of {orders!r}, None, None, None, "
            f"-1, -1, 0), got {show(state)}"
        )
    return np.dtype(order + code)


def _ndarray(state: tuple[object, ...]) -> NDArray[Any]:
    """Return the array of NumPy's state (1, shape, dtype, is Fortran, bytes), without a copy."""
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
            raise ValueError(
                f"an array's state must be (1, shape, dtype, bool, bytes), got {show(state)}"
            )
    return _array_of(shape, dtype, data, fortran=fortran)


def _is_permutation(axes: tuple[Any, ...], length: int) -> bool:
    return all(type(axis) is int for axis in axes) and sorted(axes) == list(range(length))


def _array_of(
    shape: tuple[Any, ...], dtype: np.dtype[Any], data: bytes, *, fortran: bool
) -> NDArray[Any]:
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"arrays must have at most {_MAX_DIMENSIONS} axes, got {len(shape)}")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"an array's shape must hold integers >= 0, got {show(shape)}")
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise ValueError(
            f"an array's data must have {size} bytes for shape {shape} of {dtype}, got {len(data)}"
        )
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _text(value: object) -> str | None:
    """Return a string that Python 2 or 3 wrote, or None."""
    if isinstance(value, bytes):
        return value.decode("ascii") if len(value) <= _MAX_TEXT and value.isascii() else None
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT else None


def show(value: object) -> str:
    """Return a short description of a value of any size and depth."""
    match value:
        case _Global() | _TensorGlobal():
            return str(value.value)
        case str() | bytes():
            shown = repr(value[:60])
            return shown if len(value) <= 60 else f"{shown}... ({len(value)} long)"
        case None | bool() | int() | float():
            return repr(value)
        case tuple():
            items = ["(...)" if isinstance(v, tuple) else show(v) for v in value[:_MAX_DIMENSIONS]]
            return f"({', '.join([*items, '...'] if len(value) > len(items) else items)})"
        case list():
            return f"a list of {len(value)} items"
        case np.ndarray():
            return f"{value.dtype} array of shape {value.shape}"
        case _Array() if value.value is None:
            return "an array without data"
        case _Array():
            return show(value.value)
        case _DType():
            return f"dtype {value.code}"
        case Tensor():
            return f"{value.dtype} tensor of shape {value.shape}"
        case _:
            return type(value).__name__
