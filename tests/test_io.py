"""cuekit.io: files are read correctly, and no file can run code or exhaust memory."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from common import at_most
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cuekit import io
from cuekit.io import _unpickle

DATA = Path(
    os.environ.get("CUEKIT_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data")
)
SEC = DATA / "sec-cues" / "localization_cues.pickle.gz"
VOC = DATA / "voc-animals"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One path, for tests that write many small files one after the other."""
    return tmp_path_factory.mktemp("io") / "file"


# ---------------------------------------------------------------------- pickles, opcode by opcode


def string(data):
    """Python 2's str."""
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + uint4(len(data)) + data


def text(value):
    return b"X" + uint4(len(value.encode())) + value.encode()


def uint4(value):
    return struct.pack("<I", value)


def integer(value):
    return b"J" + struct.pack("<i", value)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
EMPTY = RECONSTRUCT + NDARRAY + b"K\0\x85" + string(b"b") + b"\x87R"


FROM_BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
REST = b"NNN" + integer(-1) + integer(-1) + b"K\0"


def dtype(code=b"i8", order=b"<", version=b"K\3", rest=REST):
    return (
        b"cnumpy\ndtype\n" + string(code) + b"K\0K\1\x87R(" + version + string(order) + rest + b"tb"
    )


INT64 = dtype()


def array(shape=(1,), data=bytes(8), dtype=INT64, fortran=b"\x89", version=b"K\1"):
    """An array, pickled as NumPy does under Python 2 with protocol 2."""
    lengths = b"(" + b"".join(integer(length) for length in shape) + b"t"
    return EMPTY + b"(" + version + lengths + dtype + fortran + string(data) + b"tb"


def from_buffer(data=bytes(8), dtype=INT64, shape=b"K\1\x85", order=b"C"):
    """An array, pickled as NumPy does with protocol 5."""
    buffer = b"\x96" + struct.pack("<Q", len(data)) + data
    return FROM_BUFFER + b"(" + buffer + dtype + shape + text(order.decode()) + b"tR"


def python2_array(value):
    order = {"|": b"|", "=": b"<", "<": b"<", ">": b">"}[value.dtype.byteorder]
    fortran = value.ndim > 1 and value.flags.f_contiguous and not value.flags.c_contiguous
    data = value.tobytes("F" if fortran else "C")
    code = value.dtype.str[1:].encode()
    return array(value.shape, data, dtype(code, order), b"\x88" if fortran else b"\x89")


def python2_dict(arrays, key=text):
    items = b"".join(key(name) + python2_array(value) for name, value in arrays.items())
    return b"\x80\x02}(" + items + b"u."


def entry(operations):
    """A pickled dictionary with one value, which these opcodes make."""
    return b"\x80\x02}" + text("k") + operations + b"s."


def keep(_key, value):
    return value.copy() if isinstance(value, np.ndarray) else value


def unpickle(path, data, max_bytes=2**20):
    path.write_bytes(data)
    return _unpickle.unpickle_arrays(path, keep, max_bytes=max_bytes)


def write_sec(path, labels, cues, index=0):
    path.write_bytes(
        python2_dict({f"{index}_labels": np.array(labels), f"{index}_cues": np.array(cues)})
    )
    return path


VALID = python2_dict({"0_labels": np.array([12]), "0_cues": np.array([[0, 12], [1, 40], [2, 0]])})


@contextlib.contextmanager
def peak_below(limit):
    """Fail if Python and NumPy allocate more than `limit` bytes at a time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


# -------------------------------------------------------------------------------- SEC, real file


@pytest.mark.skipif(not SEC.exists(), reason=f"needs SEC's cues in {SEC.parent}")
def test_sec_published_file():
    photos = io.read_sec_cues(SEC, image_list=SEC.parent / "input_list.txt")
    assert len(photos) == 10_582
    assert next(iter(photos)) == "2008_007028"
    cells = 0
    for cues in photos.values():
        assert cues.cues.shape == (21, 41, 41)
        classes = np.flatnonzero(cues.cues.any(axis=(1, 2)))
        np.testing.assert_array_equal(classes, [0, *cues.labels])  # every tag has cues
        assert not (cues.cues.sum(axis=0) > 1).any()  # these cues do not overlap
        cells += int(cues.cues.sum())
    assert cells == 4_270_202


@pytest.mark.skipif(not SEC.exists(), reason=f"needs SEC's cues in {SEC.parent}")
@pytest.mark.skipif(not VOC.exists(), reason=f"needs VOC photos in {VOC}")
def test_sec_agrees_with_voc():
    photos = io.read_sec_cues(SEC, image_list=SEC.parent / "input_list.txt")
    with np.load(VOC / "image_labels.npz") as file:
        tags = {str(name): row != 0 for name, row in zip(file["ids"], file["labels"], strict=True)}
    both = [name for name in tags if name in photos]
    assert len(both) == 797
    equal = [np.array_equal(photos[name].present, tags[name]) for name in both]
    # SEC's tags omit a few objects and never name a wrong class. Shifted by one, none would match.
    assert sum(equal) == 750
    assert all((photos[name].present <= tags[name]).all() for name in both)

    right, swapped, cells = 0, 0, 0
    for name in both[:100]:
        truth = io.read_labels(VOC / "SegmentationClass" / f"{name}.png")
        rows, columns = (((np.arange(41) + 0.5) * n / 41).astype(int) for n in truth.shape)
        classes, y, x = np.nonzero(photos[name].cues)
        right += int((truth[rows[y], columns[x]] == classes).sum())
        swapped += int((truth[rows[x], columns[y]] == classes).sum())
        cells += classes.size
    # SEC reports no precision of its cues; 82 % of all cells agree, 59 % with axes swapped.
    assert right > 0.75 * cells
    assert swapped < 0.7 * cells


# --------------------------------------------------------------------------- SEC, generated files


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_sec_coordinates(tmp_path, compress):
    path = tmp_path / "cues"
    path.write_bytes(compress(VALID))
    images = io.read_sec_cues(path)
    assert list(images) == [0]
    assert 0 in images
    assert 1 not in images
    np.testing.assert_array_equal(images[0].labels, [12])
    assert images[0].cues.dtype == bool
    assert np.argwhere(images[0].cues).tolist() == [[0, 1, 2], [12, 40, 0]]
    assert np.flatnonzero(images[0].present).tolist() == [11]
    images[0].cues[:] = True  # every access makes a new array: the caller may change it
    images[0].labels[:] = 1
    assert images[0].cues.sum() == 2
    assert images[0].labels.tolist() == [12]


def test_sec_image_without_cells_or_tags(tmp_path):
    path = write_sec(tmp_path / "cues", np.zeros(0, int), np.zeros((3, 0), int))
    assert not io.read_sec_cues(path)[0].cues.any()
    assert io.read_sec_cues(path)[0].labels.size == 0


def test_sec_order_and_selection(tmp_path):
    path, names = tmp_path / "cues", tmp_path / "input_list.txt"
    arrays = {}
    for index in (10, 8, 1):
        arrays[f"{index}_cues"] = np.array([[index], [0], [0]])
        arrays[f"{index}_labels"] = np.array([3])
    path.write_bytes(python2_dict(arrays, key=lambda name: string(name.encode())))
    assert list(io.read_sec_cues(path)) == [1, 8, 10]
    names.write_text("b c.jpg 8\n\ndir/a.jpg 10\n")
    photos = io.read_sec_cues(path, image_list=names)
    assert list(photos) == ["b c", "a"]
    assert photos["a"].cues[10, 0, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.jpg 1\n", r"every image must have cues in .*cues, got 'a' with index 1"),
        ("a.jpg\n", r"lines must be '<file name> <index>', got 'a.jpg\\n' in line 1"),
        ("a.jpg 0\nb.jpg 0x1\n", r"lines must be .* in line 2"),
        ("a.jpg -1\n", r"lines must be"),
        ("a.jpg \u0661\n", r"lines must be"),
        ("a.jpg " + "9" * 5000, r"lines must be .* in line 1"),
        ("a.jpg 0\nb.jpg 0\n", r"must be distinct, got 'b.jpg 0\\n' in line 2"),
        ("a.jpg 0\na.png 1\n", r"must be distinct"),
        ("\udcff\udcfe\n", r"lines must be"),
    ],
)
def test_sec_image_list_refused(tmp_path, lines, message):
    path, names = tmp_path / "cues", tmp_path / "input_list.txt"
    path.write_bytes(VALID)
    names.write_text(lines, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"input_list\.txt: .*{message}"):
        io.read_sec_cues(path, image_list=names)


ONE_CELL = np.array([[0], [0], [0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"0_labels": np.array([0])}, r"0_labels: tags must be in 1\.\.20, got 0"),
        ({"0_labels": np.array([21])}, r"0_labels: tags must be in 1\.\.20, got 21"),
        ({"0_labels": np.array([257])}, r"tags must be in 1\.\.20, got 257"),
        ({"0_labels": np.array([[1]])}, r"0_labels must have shape \(P,\), .*got \(1, 1\)"),
        ({"0_labels": np.ones(21, int)}, r"0_labels must have shape \(P,\), P < 21, got \(21,\)"),
        ({"0_labels": np.array([1.0])}, r"0_labels must be an integer array, got float64 array"),
        ({"7_cues": np.array([[21], [0], [0]])}, r"7_cues: classes must be in 0\.\.20, got 21"),
        ({"7_cues": np.array([[0], [41], [0]])}, r"7_cues: rows must be in 0\.\.40, got 41"),
        ({"7_cues": np.array([[0], [0], [-1]])}, r"7_cues: columns must be in 0\.\.40, got -1"),
        ({"7_cues": np.zeros((2, 5), int)}, r"7_cues must have shape \(3, N\), .*got \(2, 5\)"),
        ({"7_cues": np.zeros((3, 35302), "u1")}, r"N <= 35301, got \(3, 35302\)"),
        ({"7_cues": ONE_CELL}, r"image 7 must have labels and cues, got no '7_labels'"),
        ({"7_labels": np.array([1])}, r"image 7 must have labels and cues, got no '7_cues'"),
        ({"07_cues": ONE_CELL}, r"image 07 must have labels and cues, got no '07_labels'"),
        ({"_cues": ONE_CELL}, r"keys must be '<i>_labels' or '<i>_cues', got '_cues'"),
        ({"7_cues": np.zeros((5, 3), int)}, r"must have shape \(3, N\), .* \(5, 3\): transpose it"),
        ({"7_cues2": ONE_CELL}, r"keys must be '<i>_labels' or '<i>_cues', got '7_cues2'"),
        ({"cues": ONE_CELL}, r"keys must be '<i>_labels' or '<i>_cues', got 'cues'"),
    ],
)
def test_sec_values_refused(tmp_path, arrays, message):
    path = tmp_path / "cues"
    path.write_bytes(python2_dict(arrays))
    with pytest.raises(ValueError, match=message) as caught:
        io.read_sec_cues(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [b"N", b"K\1", text("a"), string(b"a")])
def test_sec_needs_arrays(tmp_path, value):
    (tmp_path / "cues").write_bytes(b"\x80\x02}" + text("0_cues") + value + b"s.")
    with pytest.raises(ValueError, match="0_cues must be an integer array, got"):
        io.read_sec_cues(tmp_path / "cues")


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.read_sec_cues(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        io.read_labels(tmp_path / "none.png")


# ---------------------------------------------------------------------------- pickles, what is read

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=3000),
)
ARRAYS = hnp.arrays(
    st.one_of(
        st.just(np.dtype(bool)),
        hnp.integer_dtypes(endianness="?"),
        hnp.unsigned_integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
KEYS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"]), max_size=9),
)


@settings(deadline=None)
@given(
    st.dictionaries(
        KEYS,
        SCALARS | ARRAYS | ARRAYS.map(np.asfortranarray) | ARRAYS.map(np.transpose),
        max_size=4,
    ),
    st.sampled_from([2, 3, 4, 5]),
)
def test_what_python_3_pickles_is_read_back(scratch, values, protocol):
    read = unpickle(scratch, pickle.dumps(values, protocol))
    assert list(read) == list(values)
    for key, value in values.items():
        assert type(read[key]) is type(value)
        if isinstance(value, np.ndarray):
            assert read[key].dtype == value.dtype
            assert read[key].shape == value.shape
            assert read[key].tobytes() == value.tobytes()
        else:
            assert read[key] == value


INTS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.integers(0, 4).flatmap(
    lambda n: st.lists(st.lists(INTS, min_size=n, max_size=n), min_size=1, max_size=4)
)


@settings(deadline=None)
@given(
    st.lists(INTS, max_size=6) | ROWS,
    st.sampled_from(["list", "tuple", "NumPy integers", "arrays"]),
    st.sampled_from([2, 3, 4, 5]),
)
def test_lists_are_read_as_arrays(scratch, values, kind, protocol):
    nested = bool(values) and isinstance(values[0], list)
    if kind == "NumPy integers":
        written = [list(np.array(row)) for row in values] if nested else list(np.array(values, int))
    elif kind == "arrays":
        written = [np.array(row, int) for row in values] if nested else np.array(values, int)
    elif kind == "tuple":
        written = tuple(map(tuple, values)) if nested else tuple(values)
    else:
        written = values
    read = unpickle(scratch, pickle.dumps({"k": written}, protocol))["k"]
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, np.array(values, np.int64))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_scalars_are_read_as_numbers(scratch, protocol):
    values = {"i": np.int16(-3), "f": np.float32(0.5), "b": np.bool_(True), np.int64(7): 1}
    assert unpickle(scratch, pickle.dumps(values, protocol)) == {"i": -3, "f": 0.5, "b": True, 7: 1}


@settings(deadline=None)
@given(ARRAYS | ARRAYS.map(np.asfortranarray))
def test_what_python_2_pickled_is_read(scratch, value):
    data = python2_dict({"k": value})
    expected = pickle.loads(data, encoding="latin1")["k"]  # checks the helper python2_array
    read = unpickle(scratch, data)["k"]
    assert read.dtype == value.dtype
    assert read.shape == expected.shape == value.shape
    assert read.tobytes() == value.tobytes()
    np.testing.assert_array_equal(
        read, expected
    )  # NumPy may have converted it to native byte order


def test_arrays_are_read_only_views_on_the_file(scratch):
    flags = []
    scratch.write_bytes(entry(array()))
    _unpickle.unpickle_arrays(
        scratch, lambda _, value: flags.append(value.flags.writeable), max_bytes=999
    )
    assert flags == [False]


def test_shared_arrays_are_read(scratch):
    one = np.arange(3)
    read = unpickle(scratch, pickle.dumps({"a": one, "b": one, "c": one.dtype.itemsize}, 4))
    assert read["a"].tolist() == read["b"].tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------ pickles, hostile


class Shell:
    def __init__(self, sentinel):
        self.command = f"echo > {sentinel}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_code_never_runs(tmp_path, protocol, compress):
    sentinel, path = tmp_path / "sentinel", tmp_path / "cues"
    payload = pickle.dumps({"0_cues": Shell(sentinel), "0_labels": np.array([1])}, protocol)
    path.write_bytes(compress(payload))
    with pytest.raises(ValueError, match=r"is not allowed|must be a pickle of protocol 2 to 5"):
        io.read_sec_cues(path)
    assert not sentinel.exists()
    pickle.loads(payload)
    assert sentinel.exists()  # the payload would have run


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"cos\nsystem\n", r"global 'os\.system' is not allowed"),
        (b"cbuiltins\neval\n", r"global 'builtins\.eval' is not allowed"),
        (b"cnumpy\nload\n", r"global 'numpy\.load' is not allowed"),
        (b"cnumpy.core.multiarray\nfrombuffer\n", r"is not allowed"),
        (b"ctorch.storage\n_load_from_bytes\n", r"is not allowed"),
        (text("os") + text("system") + b"\x93", r"global 'os\.system' is not allowed"),
        (b"K\1K\1\x93", r"the name of a global must be a string, got 1, 1"),
        (b"cnumpy\nndarray.tofile\n", r"global 'numpy\.ndarray\.tofile' is not allowed"),
        (b"cnumpy\nnd\\qarray\n", r"GLOBAL must have two lines of dotted names"),
        (b"c" + b"a" * 2000 + b"\nb\n", r"GLOBAL must have two lines of dotted names"),
        (b"(ios\nsystem\n", r"opcode INST is not allowed"),
        (b"(o", r"opcode OBJ is not allowed"),
        (NDARRAY + b")\x81", r"opcode NEWOBJ is not allowed"),
        (NDARRAY + b")}\x92", r"opcode NEWOBJ_EX is not allowed"),
        (b"\x82\1", r"opcode EXT1 is not allowed"),
        (b"Pid\n", r"opcode PERSID is not allowed"),
        (b"NQ", r"opcode BINPERSID is not allowed"),
        (b"\x97", r"opcode NEXT_BUFFER is not allowed"),
        (b"(l", r"opcode LIST is not allowed"),
        (b"\x8f", r"opcode EMPTY_SET is not allowed"),
        (b"\x98", r"opcode READONLY_BUFFER is not allowed"),
        (b"cbuiltins\nlist\n", r"global 'builtins\.list' is not allowed"),
        (b"c_codecs\ndecode\n", r"global '_codecs\.decode' is not allowed"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R", r"encode must be given Lat"),
        (b"c_codecs\nencode\n" + text("\u0100") + text("latin1") + b"\x86R", r"encode must be"),
        (
            b"c_codecs\nencode\nK\1" + text("latin1") + b"\x86R",
            r"encode must be given Latin-1 text",
        ),
        (b"c__builtin__\nbytes\nK\5\x85R", r"only functions that make arrays .* got __builtin__"),
        (b"NK\1a", r"items must be appended to a list, got None"),
        (b"]NNe", r"must have its MARK"),
        (b"](K\1Ne", r"lists must hold integers of int64's range, got None"),
        (b"](K\1\x88e", r"lists must hold integers of int64's range, got True"),
        (b"](\x8a\x08" + b"\xff" * 7 + b"\x7fK\1]e", r"lists must hold|a list must hold"),
        (b"](]]K\1ae", r"a list must hold integers, or rows of equal length"),
        (b"](K\1]e", r"a list must hold integers, or rows of equal length"),
        (b"](](]K\1ae)e", r"a list must hold|lists must hold integers"),
        (b"]q\1h\1a", r"lists must hold integers of int64's range, got a list of 1 items"),
        (b"](" + array((1, 1)) + b"e", r"rows must be integers, got int64 array of shape \(1, 1\)"),
        (b"](" + array((1,), bytes(8), dtype(b"f8")) + b"e", r"rows must be integers, got float64"),
        (b"\xff", r"opcode b'\\xff' is not allowed"),
        (b"N0", r"opcode POP is not allowed"),
        (b"L" + b"9" * 10_000 + b"L\n", r"opcode LONG is not allowed"),
        (NDARRAY + b")R", r"only functions that make arrays may be called, got numpy\.ndarray"),
        (text("os") + b")R", r"only functions that make arrays may be called, got 'os'"),
        (b"R", r"the arguments of dict must be a tuple, got 'k'"),
        (b"\x87R", r"must have its operands"),
        (NDARRAY, r"values must be arrays, numbers or strings, got numpy\.ndarray"),
        (b"}", r"values must be arrays, numbers or strings, got dict"),
        (EMPTY, r"values must be arrays, numbers or strings, got an array without data"),
        (dtype(), r"values must be arrays, numbers or strings, got dtype i8"),
        (RECONSTRUCT + b"cnumpy\ndtype\nK\0\x85" + string(b"b") + b"\x87R", r"must be given"),
        (RECONSTRUCT + NDARRAY + b"K\5\x85" + string(b"b") + b"\x87R", r"must be given"),
        (RECONSTRUCT + b"NR", r"the arguments of .*_reconstruct must be a tuple, got None"),
    ],
)
def test_operation_refused(scratch, operations, message):
    with pytest.raises(ValueError, match=message) as caught:
        unpickle(scratch, entry(operations))
    assert str(scratch) in str(caught.value)
    assert "(at byte " in str(caught.value)


def test_message_names_file_and_position(scratch):
    data = b"\x80\x02}" + text("k") + b"NN\x86" + b"cos\nsystem\n."
    with pytest.raises(
        ValueError, match=rf"\(at byte {data.index(b'cos')} of the pickle\)"
    ) as caught:
        unpickle(scratch, data)
    assert str(caught.value).startswith(f"{scratch}: global 'os.system'")


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (array(dtype=dtype(b"O8", b"|")), r"a dtype must be one of .*, got \(b'O8', 0, 1\)"),
        (array(dtype=dtype(b"O", b"|")), r"a dtype must be one of"),
        (array(dtype=dtype(b"V8", b"|")), r"a dtype must be one of"),
        (array(dtype=dtype(b"S8", b"|")), r"a dtype must be one of"),
        (array(dtype=dtype(b"M8")), r"a dtype must be one of"),
        (array(dtype=dtype(b"c8")), r"a dtype must be one of"),
        (array(dtype=dtype(b"f16"), data=bytes(16)), r"a dtype must be one of"),
        (array(dtype=dtype(b"i8,O")), r"a dtype must be one of"),
        (array(dtype=dtype(b"\xff8")), r"a dtype must be one of"),
        (array(dtype=dtype().replace(b"K\0K\1", b"K\1K\1")), r"a dtype must be .* 1, 1\)"),
        (array(dtype=b"cnumpy\ndtype\n)R"), r"a dtype must be one of .*, got \(\)"),
        (
            array(dtype=b"cnumpy\ndtype\nNR"),
            r"the arguments of numpy\.dtype must be a tuple, got None",
        ),
        (array(dtype=dtype(order=b"|")), r"state of dtype i8 must be \(3, byte order of '<>'"),
        (array(dtype=dtype(order=b"")), r"state of dtype i8"),
        (array(dtype=dtype(order=b"<>")), r"state of dtype i8"),
        (array(dtype=dtype(order=b"=")), r"state of dtype i8"),
        (array(dtype=dtype(version=b"K\4")), r"state of dtype i8 .*, got \(4, "),
        (array(dtype=dtype(rest=b"")), r"state of dtype i8"),
        (array(dtype=dtype(rest=b"N)NJ\0\0\0\0J\0\0\0\0K\0")), r"state of dtype i8"),
        (array(dtype=dtype(rest=b"NNN" + integer(-1) * 2 + integer(63))), r"state of dtype i8"),
        (dtype() + b")b", r"a state must be set once, got a second for dtype i8"),
        (
            array() + b")b",
            r"a state must be set once, got a second for int64 array of shape \(1,\)",
        ),
        (EMPTY + b"Nb", r"only arrays and dtypes have a state, got an array without data, None"),
        (EMPTY + b")b", r"an array's state must be \(1, shape, dtype, bool, bytes\), got \(\)"),
        (b"K\1)b", r"only arrays and dtypes have a state, got 1, \(\)"),
        (NDARRAY + b")b", r"only arrays and dtypes have a state"),
        (b"})b", r"only arrays and dtypes have a state, got dict"),
        (array(version=b"K\2"), r"an array's state must be"),
        (array(dtype=b"N"), r"an array's state must be"),
        (array(dtype=EMPTY), r"an array's state must be"),
        (
            array(dtype=b"cnumpy\ndtype\n" + string(b"i8") + b"K\0K\1\x87R"),
            r"array's state must be",
        ),
        (array(fortran=b"K\0"), r"an array's state must be"),
        (array(data=bytes(7)), r"data must have 8 bytes for shape \(1,\) of int64, got 7"),
        (array(data=bytes(9)), r"data must have 8 bytes for shape \(1,\) of int64, got 9"),
        (array((2**31 - 1,)), r"data must have 17179869176 bytes .*, got 8"),
        (array((2**31 - 1,) * 16), r"data must have \d+ bytes"),
        (array((2**31 - 1,) * 8 + (0,), b""), r"too big|[Mm]aximum"),
        (array((-1,)), r"an array's shape must hold integers >= 0, got \(-1\)"),
        (array((-1, -1)), r"an array's shape must hold integers >= 0"),
        (
            array((), dtype=dtype()).replace(b"K\1(t", b"K\1(\x88t"),
            r"shape must hold integers >= 0",
        ),
        (array((1,) * 17), r"arrays must have at most 16 axes, got 17"),
        (array((1,) * 9000), r"arrays must have at most 16 axes, got 9000"),
        (
            FROM_BUFFER + b")R",
            r"_frombuffer must be given \(bytes, dtype, shape, order\), got \(\)",
        ),
        (from_buffer(order=b"A"), r"_frombuffer must be given"),
        (from_buffer(order=b"K"), r"_frombuffer must be given"),
        (from_buffer(data=bytes(7)), r"data must have 8 bytes for shape \(1,\) of int64, got 7"),
        (from_buffer(dtype=dtype(b"O8", b"|")), r"a dtype must be one of"),
        (from_buffer(shape=b"](K\1e"), r"_frombuffer must be given"),
        (from_buffer(shape=integer(-1) + b"\x85"), r"shape must hold integers >= 0, got \(-1\)"),
        (
            SCALAR + INT64 + string(bytes(7)) + b"\x86R",
            r"a scalar must be given a dtype and its by",
        ),
        (
            SCALAR + dtype(b"b1", b"|") + string(b"\2") + b"\x86R",
            r"bool arrays must hold bytes 0 and",
        ),
        (SCALAR + b"N" + string(bytes(8)) + b"\x86R", r"a scalar must be given a dtype"),
        (array((2,), b"\1\2", dtype(b"b1", b"|")), r"bool arrays must hold bytes 0 and 1, got 2"),
    ],
)
def test_array_refused(scratch, operations, message):
    with pytest.raises(ValueError, match=message):
        unpickle(scratch, entry(operations))


def test_array_accepted_beside_the_refused(scratch):
    """Without their modifications, the opcodes of the tests above make a valid array."""
    assert unpickle(scratch, entry(array()))["k"].tolist() == [0]
    assert unpickle(scratch, entry(array((2,), b"\1\0", dtype(b"b1", b"|"))))["k"].tolist() == [
        1,
        0,
    ]
    assert unpickle(scratch, entry(array((), bytes(8))))["k"].shape == ()


LONG = 2**62


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (
            b"\x8d" + struct.pack("<Q", LONG),
            r"at most max_bytes = 1048576 bytes, got at least 46",
        ),
        (b"\x8e" + struct.pack("<Q", LONG), r"at most max_bytes = 1048576 bytes"),
        (b"\x8e" + struct.pack("<Q", 2**64 - 1), r"byte count > sys\.maxsize"),
        (b"B" + uint4(2**32 - 1), r"at most max_bytes = 1048576 bytes"),
        (b"B" + uint4(2**19), r"expected 524288 bytes in a bytes4, but only"),
        (b"T" + uint4(2**31 - 1), r"at most max_bytes = 1048576 bytes"),
        (b"T" + uint4(2**32 - 1), r"byte count < 0"),
        (b"X" + uint4(2**32 - 1), r"at most max_bytes = 1048576 bytes, got at least 42"),
        (text("a" * 1001 + "\u0100"), r"text of more than 1000 bytes must be Latin-1, got 1003"),
        (text("\U0001f600" + "a" * 2**19), r"text of more than 1000 bytes must be Latin-1"),
        (b"X" + uint4(1) + b"\xff", r"can't decode"),
        (b"\x8b" + uint4(2**31 - 1), r"operand of LONG4 must have at most 8 bytes"),
        (b"\x8b" + uint4(2**32 - 1), r"byte count < 0"),
        (b"\x8b" + uint4(9) + bytes(9), r"operand of LONG4 must have at most 8 bytes, got 9"),
        (b"\x8a\xff" + bytes(255), r"operand of LONG1 must have at most 8 bytes, got 255"),
        (b"Nr" + uint4(2**31 - 1), r"memo entries must be numbered in order, got 2147483647"),
        (b"Nq\2", r"memo entries must be numbered in order, got 2 after 0"),
        (b"(q\0", r"an opcode must have its operands on the stack, got an empty stack or MARK"),
        (b"h\0", r"memo entries must be stored before use, got entry 0"),
        (b"j" + uint4(2**32 - 1), r"memo entries must be stored before use, got entry 4294967295"),
        (b"\x85" * 3, r"tuples must be nested at most 2 deep"),
        (b")\x85\x85", r"tuples must be nested at most 2 deep, got 3"),
        (
            b")q\0" + b"h\0\x86q\0" * 3,
            r"tuples must be nested at most 2 deep|must have its operands",
        ),
        (b"(" * 20_000, r"the stack must have at most 10000 entries"),
        (b"N" * 20_000, r"the stack must have at most 10000 entries"),
        (b"(" * 5000 + b"t" * 5000, r"tuples must be nested at most 2 deep"),
        (b"t", r"an opcode must have its MARK"),
        (b"\x87", r"must have its operands|nested"),
        (b"(\x85", r"must have its operands on the stack, got an empty stack or MARK"),
        (b"\x80\x02", r"must start with one protocol 2 to 5, got 2"),
    ],
)
def test_hostile_lengths_and_nesting_refused(scratch, operations, message):
    with peak_below(8 * 2**20), pytest.raises(ValueError, match=message):
        unpickle(scratch, b"\x80\x04}" + text("k") + operations)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"must be a pickle of protocol 2 to 5, gzipped or not, got b''"),
        (
            b"\x89PNG\r\n\x1a\n",
            r"must be a pickle of protocol 2 to 5, gzipped or not, got b'\\x89'",
        ),
        (b"PK\3\4", r"must be a pickle of protocol 2 to 5"),
        (b"(dp1\n.", r"must be a pickle of protocol 2 to 5"),
        (b"\x80\x01}.", r"must start with one protocol 2 to 5, got 1"),
        (b"\x80\x06}.", r"must start with one protocol 2 to 5, got 6"),
        (b"\x80\x02.", r"must have its operands on the stack, got an empty stack"),
        (b"\x80\x02N.", r"the pickle must contain one dict, got None and 0 more"),
        (b"\x80\x02N}.", r"the pickle must contain one dict, got dict and 1 more"),
        (b"\x80\x02" + array() + b".", r"the pickle must contain one dict, got int64 array"),
        (b"\x80\x02}.}", r"nothing may follow the pickle's STOP"),
        (b"\x80\x02}", r"pickle exhausted before seeing STOP"),
        (
            b"\x80\x02}NNs.",
            r"keys must be strings of at most 1000 characters or integers, got None",
        ),
        (
            b"\x80\x02}\x88Ns.",
            r"keys must be strings of at most 1000 characters or integers, got True",
        ),
        (
            b"\x80\x02})Ns.",
            r"keys must be strings of at most 1000 characters or integers, got \(\)",
        ),
        (
            b"\x80\x02}" + string(b"\xff") + b"Ns.",
            r"keys must be strings of at most 1000 characters or integers, got b'\\xff'",
        ),
        (
            b"\x80\x02}" + text("a" * 1001) + b"Ns.",
            r"keys must be strings of at most 1000 characters",
        ),
        (b"\x80\x02}(K\1NK\1Nu.", r"keys must be distinct, got 1 twice"),
        (
            b"\x80\x02}" + text("k") + b"Ns" + string(b"k") + b"Ns.",
            r"keys must be distinct, got 'k'",
        ),
        (b"\x80\x02}(K\1u.", r"items must be pairs for a dict, got 1 for dict"),
        (b"\x80\x02NK\1Ns.", r"items must be pairs for a dict, got 2 for None"),
        (b"\x80\x02}q\0K\1h\0s.", r"values must be arrays, numbers or strings, got dict"),
        (b"\x80\x02}K\1" + EMPTY + b"q\0(K\1)h\0\x89U\0tbs.", r"an array's state must be"),
    ],
)
def test_whole_pickle_refused(scratch, data, message):
    with pytest.raises(ValueError, match=message):
        unpickle(scratch, data)


def test_opcode_bomb_refused(scratch, monkeypatch):
    """One megabyte of such opcodes after gzip would make dicts of many gigabytes."""
    monkeypatch.setattr(_unpickle, "_MAX_OPCODES", 1000)
    with pytest.raises(ValueError, match="must have at most 1000 opcodes"):
        unpickle(scratch, b"\x80\x04}" + b"(}\x94t" * 1000)


def test_a_small_file_cannot_hold_many_opcodes(scratch):
    """A few kilobytes of gzip would be read for a quarter of a minute."""
    data = gzip.compress(entry(b"]" + (b"(" + b"K\1" * 1000 + b"e") * 3000))
    assert len(data) < 2**15
    with pytest.raises(ValueError, match=r"must have at most \d{6} opcodes, got more"):
        unpickle(scratch, data, max_bytes=2**30)


def test_the_number_of_keys_is_bounded(scratch, monkeypatch):
    monkeypatch.setattr(_unpickle, "_MAX_KEYS", 1000)
    unpickle(scratch, pickle.dumps(dict.fromkeys(range(1000))))
    with pytest.raises(ValueError, match="the dict must have at most 1000 keys, got more"):
        unpickle(scratch, pickle.dumps(dict.fromkeys(range(1001))))


def test_shared_list_bomb_refused(scratch):
    """A row that a list holds many times is copied many times."""
    row = b"](" + b"K\1" * 1000 + b"eq\1"
    data = entry(b"](" + row + b"h\1" * 2000 + b"e")
    with (
        peak_below(8 * 2**20),
        pytest.raises(ValueError, match="at most max_bytes = 1048576 bytes together"),
    ):
        unpickle(scratch, data)


def test_shared_array_bomb_refused(scratch):
    """One array under many keys counts many times, because readers convert it many times."""
    items = b"".join(integer(i) + b"h\1" for i in range(1, 2000))
    data = b"\x80\x02}K\0" + array((8192,), bytes(65536)) + b"q\1s(" + items + b"u."
    with (
        peak_below(8 * 2**20),
        pytest.raises(ValueError, match="at most max_bytes = 1048576 bytes tog"),
    ):
        unpickle(scratch, data)


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (
            b"\x80\x02}" + text("k") + b"T" + uint4(2**26) + bytes(2**26) + b"s.",
            "at most max_bytes",
        ),
        (b"\x80\x04" + (b"\x95" + bytes(8)) * 2**20, r"at least 10485[78]\d"),
        (bytes(2**26), "must be a pickle"),
    ],
)
def test_gzip_bomb_refused(scratch, inside, message):
    data = gzip.compress(inside)
    assert len(data) < 2**18
    with peak_below(8 * 2**20), pytest.raises(ValueError, match=message):
        unpickle(scratch, data)


def test_false_length_takes_no_memory(scratch):
    """The file is read in pieces: memory is allocated only for bytes that it contains."""
    data = entry(b"B" + uint4(2**28) + bytes(2**10))
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="expected 268435456 bytes"):
        unpickle(scratch, gzip.compress(data), max_bytes=2**30)


def test_large_array(scratch):
    value = np.arange(400_001)
    for compress in (bytes, gzip.compress):
        read = unpickle(scratch, compress(python2_dict({"k": value})), max_bytes=2**22)
        np.testing.assert_array_equal(read["k"], value)


def test_max_bytes_is_exact(scratch):
    assert len(unpickle(scratch, VALID, max_bytes=len(VALID))) == 2
    assert len(unpickle(scratch, gzip.compress(VALID), max_bytes=len(VALID))) == 2
    with pytest.raises(ValueError, match=f"must have at most max_bytes = {len(VALID) - 1} bytes"):
        unpickle(scratch, VALID, max_bytes=len(VALID) - 1)
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        io.read_sec_cues(scratch, max_bytes=0)
    with pytest.raises(TypeError, match=r"max_bytes must be an integer, got 1000000000\.0"):
        io.read_sec_cues(scratch, max_bytes=1e9)


SMALL = {
    "python 2": python2_dict({"a": np.arange(3), "b": np.zeros((2, 2), bool)}),
    "python 3": pickle.dumps({"a": np.arange(3), "b": np.zeros((2, 2), bool), "c": 7}, 4),
    "protocol 5": pickle.dumps(
        {"a": np.arange(3), "b": [[1, 2], np.int64([3, 4])], "c": np.int8(7)}, 5
    ),
}


@pytest.mark.parametrize("data", SMALL.values(), ids=SMALL)
def test_every_truncation_refused(scratch, data):
    assert unpickle(scratch, data)["a"].tolist() == [0, 1, 2]
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"\(at byte \d+ of the pickle\)"):
            unpickle(scratch, data[:length])


def test_every_truncation_of_gzip_refused(scratch):
    data = gzip.compress(SMALL["python 2"])
    for length in range(len(data)):  # the last eight bytes are the checksum and the length
        with pytest.raises(ValueError, match=r"gzip data must be whole|must be a pickle"):
            unpickle(scratch, data[:length])


def test_damaged_gzip_refused(scratch):
    data = bytearray(gzip.compress(SMALL["python 2"]))
    data[10] |= 6  # a deflate block of an invalid type
    with pytest.raises(ValueError, match="gzip data must be whole and undamaged, got: Error -3"):
        unpickle(scratch, data)


def test_gzip_checksum_is_compared(scratch):
    data = bytearray(gzip.compress(SMALL["python 2"]))
    data[-8] ^= 1
    with pytest.raises(ValueError, match="gzip data must be whole and undamaged, got: CRC"):
        unpickle(scratch, data)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(list(SMALL.values())),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_damage_is_refused_or_read_as_arrays(scratch, data, changes, zipped):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read = unpickle(scratch, gzip.compress(damaged) if zipped else damaged)
        except ValueError as error:
            message = str(error)
            assert str(scratch) in message
        else:
            assert all(
                value is None or type(value) in (bool, int, str, bytes, np.ndarray)
                for value in read.values()
            )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(sorted("()NRb}tusae]\x85\x86\x87\x88\x93.h\0q\0K\0")), max_size=30))
def test_any_order_of_opcodes_ends_in_a_dict_or_a_value_error(scratch, codes):
    data = b"\x80\x02" + EMPTY + b"q\0" + "".join(codes).encode("latin-1") + b"."
    with contextlib.suppress(ValueError):
        assert isinstance(unpickle(scratch, data), dict)


# ---------------------------------------------------------------------------------- label images


def png(width, height, depth, colour, rows, extra=b""):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@settings(deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.integer_dtypes(endianness="="), hnp.unsigned_integer_dtypes(endianness="=")),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.integers(0, 127),
    )
)
def test_labels_round_trip_any_integer_dtype(scratch, labels):
    io.write_labels(scratch, labels)
    read = io.read_labels(scratch)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


def test_labels_round_trip_every_value(tmp_path):
    labels = np.arange(256).reshape(8, 32)
    for given_labels in (labels, np.asfortranarray(labels), labels[::-1, ::2], labels.T):
        io.write_labels(tmp_path / "a.png", given_labels)
        read = io.read_labels(tmp_path / "a.png")
        np.testing.assert_array_equal(read, given_labels)
        assert read.flags.writeable
        assert read.flags.c_contiguous


def test_labels_have_the_voc_palette(tmp_path):
    io.write_labels(tmp_path / "a.png", np.arange(256).reshape(16, 16))
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.mode == "P"
        colours = np.array(image.convert("RGB")).reshape(256, 3)
    # As the VOC development kit lists them: background, aeroplane, ..., person 15, tv 20, ignore.
    assert colours[[0, 1, 2, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(colours, axis=0)) == 256


@pytest.mark.skipif(not VOC.exists(), reason=f"needs VOC masks in {VOC}")
def test_labels_look_like_the_published_ones(tmp_path):
    source = sorted((VOC / "SegmentationClass").glob("*.png"))[0]
    labels = io.read_labels(source)
    assert set(np.unique(labels)) <= {*range(21), 255}
    io.write_labels(tmp_path / "a.png", labels)
    with Image.open(source) as theirs, Image.open(tmp_path / "a.png") as ours:
        assert theirs.mode == ours.mode == "P"
        assert theirs.getpalette() == ours.getpalette()
        assert theirs.tobytes() == ours.tobytes()


def test_labels_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    labels = torch.arange(12).reshape(3, 4)
    io.write_labels(tmp_path / "a.png", labels.T)
    np.testing.assert_array_equal(io.read_labels(tmp_path / "a.png"), labels.T.numpy())
    with pytest.raises(TypeError, match=r"labels must have .*dtype.*, got float32"):
        io.write_labels(tmp_path / "b.png", labels.float())
    with pytest.raises(TypeError, match=r"labels must have .*dtype.*, got bfloat16"):
        io.write_labels(tmp_path / "b.png", labels.to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"labels must be on the CPU.*meta"):
        io.write_labels(tmp_path / "b.png", labels.to("meta"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            np.zeros((2, 2), np.float32),
            TypeError,
            r"labels must have any integer dtype, got float32",
        ),
        (np.zeros((2, 2), bool), TypeError, r"labels must have any integer dtype, got bool"),
        (np.zeros((2, 2), object), TypeError, r"labels must have any integer dtype, got object"),
        (np.zeros((2, 2), ">i4"), TypeError, r"labels must have native byte order, got .*>i4"),
        (np.array([[-1]]), ValueError, r"labels must be in 0\.\.255, got -1"),
        (np.array([[256]]), ValueError, r"labels must be in 0\.\.255, got 256"),
        (np.array([[2**64 - 1]], np.uint64), ValueError, r"got 18446744073709551615"),
        (np.zeros(4, int), ValueError, r"labels must have shape \(H, W\), got \(4,\)"),
        (np.zeros((1, 2, 2), int), ValueError, r"labels must have shape \(H, W\), got \(1, 2, 2\)"),
        (np.zeros((0, 4), int), ValueError, r"at least one pixel, got shape \(0, 4\)"),
        ([[1]], TypeError, r"labels must be a NumPy array or a torch tensor, got list"),
    ],
)
def test_labels_refused(tmp_path, labels, error, message):
    with pytest.raises(error, match=message):
        io.write_labels(tmp_path / "a.png", labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["save", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, error, step):
    path = tmp_path / "a.png"
    io.write_labels(path, np.array([[1, 2]]))
    before = path.read_bytes()

    def fail(_self, file, **_kwargs):
        if step == "save":
            file.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image if step == "save" else Path, step, fail)
    with pytest.raises(type(error)):
        io.write_labels(path, np.array([[3, 4]]))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    io.write_labels(path, np.array([[3, 4]]))
    assert io.read_labels(path).tolist() == [[3, 4]]


def test_write_into_a_missing_or_wrong_place(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.write_labels(tmp_path / "none" / "a.png", np.array([[1]]))
    with pytest.raises(OSError, match="directory"):
        io.write_labels(tmp_path, np.array([[1]]))
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob("*.tmp"))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_written_file_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        io.write_labels(tmp_path / "a.png", np.array([[1]]))
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (png(4, 1, 8, 0, b"\0\1\2\3\xff"), [1, 2, 3, 255]),
        (png(4, 1, 1, 0, b"\0\xa0"), [1, 0, 1, 0]),
        (png(4, 1, 8, 3, b"\0\1\2\3\4"), [1, 2, 3, 4]),
        (png(4, 1, 4, 3, b"\0\x12\x34"), [1, 2, 3, 4]),
        (png(4, 1, 2, 3, b"\0\x1b"), [0, 1, 2, 3]),
        (png(4, 1, 1, 3, b"\0\xa0"), [1, 0, 1, 0]),
    ],
)
def test_modes_read(tmp_path, data, values):
    (tmp_path / "a.png").write_bytes(data)
    read = io.read_labels(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert read.tolist() == [values]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_other_modes_refused(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=rf"a\.png: a label image must have mode P, .*got {mode}, "
    ):
        io.read_labels(tmp_path / "a.png")


@pytest.mark.parametrize(("depth", "row"), [(2, b"\0\x1b"), (4, b"\0\x12\x34")])
def test_rescaled_gray_refused(tmp_path, depth, row):
    (tmp_path / "a.png").write_bytes(png(4, 1, depth, 0, row))
    with pytest.raises(ValueError, match=f"must have mode P, L .8 bits. or 1, got L, {depth} bits"):
        io.read_labels(tmp_path / "a.png")


def other_format(name):
    data = BytesIO()
    Image.new("L", (3, 3)).save(data, name)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"labels", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", other_format("GIF")],
    ids=["empty", "text", "signature", "EPS", "GIF"],
)
def test_other_files_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png: a label image must be a whole, undamaged PNG"):
        io.read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_image_bomb_refused(tmp_path, side, action):
    """Pillow only warns about the first of these, and the warning may be disabled."""
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 0, bytes(1000)))
    with warnings.catch_warnings(), peak_below(2**20):
        warnings.simplefilter(action)
        with pytest.raises(ValueError, match=r"a\.png: .*(at most \d+ pixels|Pillow's size limit)"):
            io.read_labels(tmp_path / "a.png")


def test_second_header_cannot_hide_a_bomb(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    extra = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(png(4, 4, 8, 0, bytes(20), extra))
    with peak_below(2**20), pytest.raises(ValueError, match="a label image must"):
        io.read_labels(tmp_path / "a.png")


def test_every_truncation_of_a_png_is_refused(scratch):
    io.write_labels(scratch, np.random.default_rng(0).integers(0, 256, (17, 23)))
    data = scratch.read_bytes()
    for length in range(len(data)):
        scratch.write_bytes(data[:length])
        with pytest.raises(ValueError, match="must be a whole, undamaged PNG"):
            io.read_labels(scratch)


def regions(height, width):
    """A label map of a few regions with straight borders, as masks have."""
    y, x = np.mgrid[:height, :width]
    labels = np.where(x + y < width, 0, 15) + 12 * (x > 2 * y)
    return np.where(abs(x - 2 * y) < 3, 255, labels).astype(np.uint8)


def gray_png(labels):
    data = BytesIO()
    Image.fromarray(labels).save(data, "PNG")  # rows are filtered
    return data.getvalue()


@pytest.mark.parametrize("kind", ["palette", "gray, filtered"])
def test_no_flipped_bit_gives_other_labels(scratch, kind):
    """Pillow alone reads other labels from some of these files."""
    labels = regions(60, 80)
    io.write_labels(scratch, labels)
    data = gray_png(labels) if kind == "gray, filtered" else scratch.read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        scratch.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a label image must") as caught:
            io.read_labels(scratch)
        assert str(scratch) in str(caught.value)


def checked(data):
    """The PNG with right CRCs, whatever was done to its chunks."""
    position, result = 8, data[:8]
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        chunk = data[position + 4 : position + 8 + length]
        result += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        position += 12 + length
    return result


def test_no_flipped_bit_gives_other_labels_where_the_crc_is_right(scratch):
    """The checksum of the compressed pixels is compared, too."""
    labels = regions(40, 50)
    io.write_labels(scratch, labels)
    data = scratch.read_bytes()
    start = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, start - 4)
    for bit in range(8 * (start + 4), 8 * (start + 4 + length)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        scratch.write_bytes(checked(bytes(damaged)))
        try:
            read = io.read_labels(scratch)
        except ValueError as error:
            message = str(error)
            assert str(scratch) in message
        else:  # a bit that says nothing, such as the compression level
            np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(4, 2, 8, 0, bytes(5)), "the pixels take 10 bytes, and the file has less"),
        (png(4, 2, 8, 0, bytes(11)), "the pixels take 10 bytes, and the file has more"),
        (png(4, 2, 8, 0, bytes(10))[:-12], "the file ends before IEND"),
        (png(4, 2, 8, 0, b"\7" + bytes(9)), "cannot decode image data"),
        (png(4, 2, 8, 0, bytes(10)).replace(b"IDAT", b"IDAX"), "the CRC of the chunk at byte 33"),
        (checked(png(4, 2, 8, 0, bytes(10)).replace(b"IDAT", b"iDAT")), "file has less"),
        (png(4, 2, 3, 0, bytes(10)), "colour type 0 with 3 bits"),
        (png(4, 0, 8, 0, b""), "a size of 4 x 0"),
        (png(2**31, 1, 8, 0, b""), "a size of 2147483648 x 1"),
        (png(4, 2, 8, 0, bytes(10), b"\0\0\0\0IHDR" + b"\xa8\xa1\xae\x0a"), "a second IHDR"),
    ],
)
def test_pngs_that_break_the_format_are_refused(tmp_path, data, message):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=rf"must be a whole, undamaged PNG, got: .*{message}"):
        io.read_labels(tmp_path / "a.png")


def test_pixels_in_several_chunks(tmp_path):
    data = png(4, 1, 8, 3, b"\0\1\2\3\xff")
    start = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, start - 4)
    content = data[start + 4 : start + 4 + length]
    pieces = [content[:2], b"", content[2:]]
    chunks = b"".join(struct.pack(">I", len(p)) + b"IDAT" + p + bytes(4) for p in pieces)
    (tmp_path / "a.png").write_bytes(
        checked(data[: start - 4] + chunks + data[start + 8 + length :])
    )
    assert io.read_labels(tmp_path / "a.png").tolist() == [[1, 2, 3, 255]]


ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


@settings(deadline=None)
@given(
    st.sampled_from([(3, 1), (3, 2), (3, 4), (3, 8), (0, 1), (0, 8)]),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.sampled_from([0, 1, 4]),
    st.integers(0, 2**32 - 1),
)
def test_depths_filters_and_interlacing_are_read_as_pillow_does(
    scratch, kind, size, interlaced, largest_filter, seed
):
    (colour, depth), (width, height), rng = kind, size, np.random.default_rng(seed)
    parts = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, across in parts:
        lines, columns = len(range(top, height, down)), len(range(left, width, across))
        for _ in range(lines if columns else 0):
            rows += bytes([rng.integers(largest_filter + 1)])
            rows += rng.bytes((columns * depth + 7) // 8)
    data = bytearray(png(width, height, depth, colour, rows))
    data[28] = interlaced  # the last field of IHDR
    scratch.write_bytes(checked(bytes(data)))
    with Image.open(scratch) as image:
        expected = np.array(image, dtype=np.uint8)
    read = io.read_labels(scratch)
    np.testing.assert_array_equal(read, expected)
    assert read.flags.writeable
    assert read.flags.c_contiguous


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_png_is_refused(scratch, changes):
    labels = np.arange(256).reshape(16, 16)
    io.write_labels(scratch, labels)
    data = bytearray(scratch.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    scratch.write_bytes(data)
    try:
        read = io.read_labels(scratch)
    except ValueError as error:
        message = str(error)
        assert str(scratch) in message
    else:  # the changes were none
        np.testing.assert_array_equal(read, labels)


def test_system_errors_are_not_taken_for_damage(tmp_path, monkeypatch):
    io.write_labels(tmp_path / "a.png", np.array([[1]]))

    def fail(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(PermissionError):
        io.read_labels(tmp_path / "a.png")
    with pytest.raises(PermissionError):
        io.read_photo(tmp_path / "a.png")


# ------------------------------------------------------------------------------- labels in colours


@at_most(100)
@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 255)
    )
)
def test_colours_round_trip(scratch, labels):
    io.write_colours(scratch, labels)
    with Image.open(scratch) as image:
        assert image.mode == "RGB"
        colours = np.array(image)
    np.testing.assert_array_equal(io.read_labels(scratch, colours="voc"), labels)
    io.write_labels(scratch, labels)
    with Image.open(scratch) as image:
        np.testing.assert_array_equal(colours, np.array(image.convert("RGB")))
    # A palette PNG is read by its colours, too: programs reorder palettes.
    np.testing.assert_array_equal(io.read_labels(scratch, colours="voc"), labels)


def test_reordered_palette_is_read_by_its_colours(tmp_path):
    labels = np.array([[0, 15, 255], [1, 1, 20]])
    io.write_colours(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        image.quantize(5, dither=Image.Dither.NONE).save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "P"
    assert io.read_labels(tmp_path / "b.png").tolist() != labels.tolist()
    assert io.read_labels(tmp_path / "b.png", colours="voc").tolist() == labels.tolist()


def test_void_is_255_and_own_colours(tmp_path):
    pixels = np.array([[[0, 0, 0], [224, 224, 192], [128, 0, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert io.read_labels(tmp_path / "a.png", colours="voc").tolist() == [[0, 255, 1]]
    table = np.array([[128, 0, 0], [9, 9, 9], [224, 224, 192], [0, 0, 0]], np.uint8)
    assert io.read_labels(tmp_path / "a.png", colours=table).tolist() == [[3, 2, 0]]
    assert io.read_labels(tmp_path / "a.png", colours=table[::-1]).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("name", ["RGB", "P"])
def test_unknown_colour_is_named(tmp_path, name):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[2, 3] = 128, 1, 0
    pixels[3, 0] = 7
    image = Image.fromarray(pixels)
    (image if name == "RGB" else image.quantize(4)).save(tmp_path / "a.png")
    message = r"a\.png: .* the given colours only, got \(128, 1, 0\) at row 2, column 3"
    with pytest.raises(ValueError, match=message):
        io.read_labels(tmp_path / "a.png", colours="voc")


def test_rgb_without_colours_says_what_to_pass(tmp_path):
    io.write_colours(tmp_path / "a.png", np.array([[1, 2]]))
    with pytest.raises(ValueError, match=r'got RGB, 8 bits \(pass colours="voc" for classes in'):
        io.read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "L", "1"])
def test_modes_without_colours_are_refused(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"mode RGB \(8 bits\) or P .*, got {mode}, "):
        io.read_labels(tmp_path / "a.png", colours="voc")


def test_colours_of_16_bits_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, bytes(7)))
    for colours in (None, "voc"):
        with pytest.raises(ValueError, match="got RGB, 16 bits"):
            io.read_labels(tmp_path / "a.png", colours=colours)


@pytest.mark.parametrize(
    ("colours", "error", "message"),
    [
        ("coco", ValueError, "colours must be one of 'voc', got 'coco'"),
        ([[0, 0, 0]], TypeError, "colours must be a NumPy array"),
        (np.zeros((2, 3)), TypeError, "colours must have dtype uint8"),
        (np.zeros((2, 4), np.uint8), ValueError, r"shape \(K, 3\), K in 1..256, got \(2, 4\)"),
        (np.zeros((0, 3), np.uint8), ValueError, r"got \(0, 3\)"),
        (np.zeros((257, 3), np.uint8), ValueError, r"got \(257, 3\)"),
        (np.zeros((2, 3), np.uint8), ValueError, "distinct"),
    ],
)
def test_colours_refused(tmp_path, colours, error, message):
    io.write_colours(tmp_path / "a.png", np.array([[1, 2]]))
    with pytest.raises(error, match=message):
        io.read_labels(tmp_path / "a.png", colours=colours)


@at_most(100)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.sampled_from([0, 1, 4]),
    st.integers(0, 2**32 - 1),
)
def test_filters_and_interlacing_of_colours(scratch, size, interlaced, largest_filter, seed):
    """With all colours of the file in the table, ids are exact whatever the file's filters are."""
    (width, height), rng = size, np.random.default_rng(seed)
    rows = b""
    for top, left, down, across in ADAM7 if interlaced else ((0, 0, 1, 1),):
        lines, columns = len(range(top, height, down)), len(range(left, width, across))
        for _ in range(lines if columns else 0):
            # Few values, so that few colours come out of the filters' sums.
            rows += bytes([rng.integers(largest_filter + 1)])
            rows += rng.choice([0, 0, 0, 0, 64], 3 * columns).astype(np.uint8).tobytes()
    data = bytearray(png(width, height, 8, 2, rows))
    data[28] = interlaced  # the last field of IHDR
    scratch.write_bytes(checked(bytes(data)))
    with Image.open(scratch) as image:
        pixels = np.array(image)
    table = np.unique(pixels.reshape(-1, 3), axis=0)
    if len(table) > 256:
        with pytest.raises(ValueError, match="the given colours only"):
            io.read_labels(scratch, colours=table[:256])
        return
    labels = io.read_labels(scratch, colours=table)
    np.testing.assert_array_equal(table[labels], pixels)
    assert labels.flags.writeable
    assert labels.flags.c_contiguous


def test_no_flipped_bit_gives_other_colours(scratch):
    io.write_colours(scratch, regions(9, 12))
    data = scratch.read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        scratch.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a label image must"):
            io.read_labels(scratch, colours="voc")


def test_no_flipped_bit_gives_other_colours_where_the_crc_is_right(scratch):
    labels = regions(9, 12)
    for write in (io.write_colours, io.write_labels):
        write(scratch, labels)
        data = scratch.read_bytes()
        start = data.index(b"IDAT")
        (length,) = struct.unpack_from(">I", data, start - 4)
        for bit in range(8 * (start + 4), 8 * (start + 4 + length)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            scratch.write_bytes(checked(bytes(damaged)))
            with contextlib.suppress(ValueError):
                # else a bit that says nothing, such as the compression level
                np.testing.assert_array_equal(io.read_labels(scratch, colours="voc"), labels)


@pytest.mark.parametrize("palette", [b"", b"\0\0", b"\0\0\0", None])
def test_index_outside_the_palette_is_refused(tmp_path, palette):
    extra = b""
    if palette is not None:
        extra = struct.pack(">I", len(palette)) + b"PLTE" + palette + bytes(4)
    data = checked(png(2, 1, 8, 3, b"\0\0\1", extra))
    (tmp_path / "a.png").write_bytes(data)
    count = len(palette or b"") // 3
    with pytest.raises(ValueError, match=f"index 1 of a palette of {count} colours"):
        io.read_labels(tmp_path / "a.png", colours="voc")
    assert io.read_labels(tmp_path / "a.png").tolist() == [[0, 1]]


def test_colour_bomb_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, bytes(1000)))
    with peak_below(2**20), pytest.raises(ValueError, match=r"at most \d+ pixels"):
        io.read_labels(tmp_path / "a.png", colours="voc")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_gray_photos_are_read_as_rgb(tmp_path, kind):
    """COCO has gray JPEGs."""
    gray = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (16, 1))
    Image.fromarray(gray).save(tmp_path / "a", kind, quality=95)
    with Image.open(tmp_path / "a") as image:
        assert image.mode == "L"
        expected = np.array(image)
    photo = io.read_photo(tmp_path / "a")
    assert photo.shape == (16, 30, 3)
    assert (photo == expected[..., None]).all()


# ---------------------------------------------------------------------------------------- import


def test_import_is_cheap():
    code = (
        "import sys, cuekit.io; "
        "print(sorted({'PIL', 'gzip', 'pickletools', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.strip() == "[]"
