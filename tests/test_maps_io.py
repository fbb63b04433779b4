"""cuekit.io.read_maps and write_maps: every published format, our own, and files that attack."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import textwrap
import time
import tracemalloc
import warnings
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from common import DATA, EXAMPLES, needs, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import cuekit
from cuekit.io import (
    Maps,
    SecCues,
    _archive,
    read_maps,
    read_masks,
    read_sec_cues,
    write_maps,
    write_sec_cues,
)

SEC = DATA / "sec-cues" / "localization_cues.pickle.gz"
RNG = np.random.default_rng(0)
H, W = 6, 9
MAPS = RNG.random((2, H, W), np.float32)
WITH_BACKGROUND = RNG.random((3, H, W), np.float32)
KEYS = np.array([0, 14])  # aeroplane and person, counted from 0
IDS = [1, 15]


def save(path, value, protocol=None):
    """Write as `numpy.save` does; NumPy 1 used other protocols."""
    if protocol is None:
        with path.open("wb") as file:
            np.save(file, value)
        return path
    holder = np.empty((), object)
    holder[()] = value
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    path.write_bytes(header.getvalue() + pickle.dumps(holder, protocol))
    return path


def check(maps, expected, ids, background=None, name=None):
    assert isinstance(maps, Maps)
    assert maps.maps.dtype == expected.dtype
    np.testing.assert_array_equal(maps.maps, expected)
    assert maps.class_ids.dtype == np.int64
    assert maps.class_ids.tolist() == list(ids)
    assert name in (None, maps.format)
    if background is None:
        assert maps.background is None
    else:
        np.testing.assert_array_equal(maps.background, background)
    for array in (maps.maps, maps.class_ids, maps.background):
        if array is not None:
            assert array.flags.writeable
            assert array.flags.c_contiguous
            assert array.dtype.isnative


def probabilities(count=3):
    scores = RNG.random((count, H, W), np.float32) + 0.1
    return scores / scores.sum(axis=0)


@contextmanager
def peak_below(limit):
    """Fail if Python and NumPy allocate more than `limit` bytes at a time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One path, for tests that write many small files one after the other."""
    return tmp_path_factory.mktemp("maps") / "file"


# ------------------------------------------------------------------------- formats, as written

# name: (what the writer saves, expected maps, expected ids, expected background)
FORMATS = {
    "psa": ({3: MAPS[0], 14: MAPS[1]}, MAPS, [4, 15], None),
    "psa with class 0": ({0: MAPS[0], 14: MAPS[1]}, MAPS, IDS, None),
    "psa with class 0 only": ({0: MAPS[0]}, MAPS[:1], [1], None),
    "irn": ({"keys": KEYS, "cam": MAPS[:, ::2, ::2], "high_res": MAPS}, MAPS, IDS, None),
    "irn (afa)": ({"keys": KEYS, "cam": MAPS}, MAPS, IDS, None),
    "irn (toco)": ({"keys": KEYS, "high_res": MAPS}, MAPS, IDS, None),
    "amn": (
        {"keys": KEYS, "cam": WITH_BACKGROUND[:, ::2], "high_res": WITH_BACKGROUND},
        WITH_BACKGROUND[1:],
        IDS,
        WITH_BACKGROUND[0],
    ),
    "clip-es": (
        {"keys": KEYS, "attn_highres": MAPS.astype(np.float16)},
        MAPS.astype(np.float16),
        IDS,
        None,
    ),
    "more": ({"valid_lam": MAPS, "keys": KEYS, "keys_gt": np.array([0, 3, 14])}, MAPS, IDS, None),
    "more (cam)": ({"valid_cam": MAPS, "keys": KEYS, "keys_gt": KEYS}, MAPS, IDS, None),
    "more (nothing found)": (
        {"valid_lam": MAPS[:0], "keys": KEYS[:0], "keys_gt": KEYS},
        MAPS[:0],
        [],
        None,
    ),
    "excel": (
        {"valid_lam": WITH_BACKGROUND, "keys_gt": KEYS},
        WITH_BACKGROUND[1:],
        IDS,
        WITH_BACKGROUND[0],
    ),
    "fma": (
        {"cam": MAPS, "fg_cls": KEYS, "fg_logit": MAPS[:, 0, 0], "all_logit": MAPS[0, 0]},
        MAPS,
        IDS,
        None,
    ),
    "weaktr": (
        {"prob": WITH_BACKGROUND, "keys": np.array([0, 2, 20])},
        WITH_BACKGROUND[1:],
        [2, 20],
        WITH_BACKGROUND[0],
    ),
    "weaktr (no background found)": (
        {"prob": MAPS, "keys": np.array([2, 20])},
        MAPS,
        [2, 20],
        None,
    ),
    "dhr": (
        {"keys": np.array([0, 7, 8]), "masks": WITH_BACKGROUND.astype(np.float16)},
        WITH_BACKGROUND[1:].astype(np.float16),
        [7, 8],
        WITH_BACKGROUND[0].astype(np.float16),
    ),
    "logits (afa)": (
        {"segs": MAPS[None] + 3, "msc_segs": WITH_BACKGROUND[None]},
        WITH_BACKGROUND[1:],
        [1, 2],
        WITH_BACKGROUND[0],
    ),
    "logits (toco)": (
        {"msc_seg": WITH_BACKGROUND[None]},
        WITH_BACKGROUND[1:],
        [1, 2],
        WITH_BACKGROUND[0],
    ),
}


@pytest.mark.parametrize("protocol", [None, 2, 3, 4, 5])
@pytest.mark.parametrize("case", FORMATS)
def test_published_formats(tmp_path, case, protocol):
    written, expected, ids, background = FORMATS[case]
    name = case.split()[0]
    path = save(tmp_path / "a.npy", written, protocol)
    check(read_maps(path), expected, ids, background, name)
    check(read_maps(path, name), expected, ids, background, name)
    path.write_bytes(pickle.dumps(written, protocol or 4))  # a plain pickle
    check(read_maps(path), expected, ids, background, name)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("case", [case for case in FORMATS if "psa" not in case])
def test_the_same_entries_in_an_npz(tmp_path, case, writer):
    written, expected, ids, background = FORMATS[case]
    writer(tmp_path / "a.npz", **written)
    check(read_maps(tmp_path / "a.npz"), expected, ids, background, case.split()[0])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", FORMATS)
def test_the_same_entries_written_by_torch(tmp_path, case, zipped):
    torch = needs("torch")
    written, expected, ids, background = FORMATS[case]
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in written.items()}
    for values in (written, tensors):
        torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        check(read_maps(tmp_path / "a.pt"), expected, ids, background, case.split()[0])
    for protocol in (None, 2, 3, 4, 5):
        save(tmp_path / "a.npy", tensors, protocol)
        check(read_maps(tmp_path / "a.npy"), expected, ids, background, case.split()[0])


def test_psa_crf_is_told_by_its_sum(tmp_path):
    scores = probabilities()
    for dtype in (np.float32, np.float16, np.float64):
        written = dict(zip([0, 4, 15], scores.astype(dtype), strict=True))
        path = save(tmp_path / "a.npy", written)
        expected = scores.astype(dtype)
        check(read_maps(path), expected[1:], [4, 15], expected[0], "psa-crf")
    # The caller knows better:
    check(read_maps(path, "psa"), expected, [1, 5, 16], None, "psa")
    path = save(tmp_path / "a.npy", FORMATS["psa with class 0"][0])
    check(read_maps(path, "psa-crf"), MAPS[1:], [14], MAPS[0], "psa-crf")


def test_other_entries_of_a_format(tmp_path):
    path = save(tmp_path / "a.npy", FORMATS["irn"][0])
    check(read_maps(path, "irn", maps_key="cam"), MAPS[:, ::2, ::2], IDS)
    path = save(tmp_path / "a.npy", FORMATS["logits (afa)"][0])
    check(read_maps(path, "logits", maps_key="segs"), MAPS[1:] + 3, [1], MAPS[0] + 3)
    path = save(tmp_path / "a.npy", {"cams": MAPS, "class_ids": np.array([1, 15])})
    check(read_maps(path, "weaktr", maps_key="cams", ids_key="class_ids"), MAPS, IDS)
    check(read_maps(path, "irn", maps_key="cams", ids_key="class_ids"), MAPS, [2, 16])
    path = save(tmp_path / "a.npy", {"scores": WITH_BACKGROUND})
    check(
        read_maps(path, "logits", maps_key="scores"),
        WITH_BACKGROUND[1:],
        [1, 2],
        WITH_BACKGROUND[0],
    )


def test_byte_orders_memory_orders_and_lists(tmp_path):
    for keys in (KEYS, KEYS.astype(">i2"), KEYS.astype(np.uint8), [0, 14], (0, 14)):
        for maps in (MAPS, MAPS.astype(">f4"), np.asfortranarray(MAPS), MAPS[:, ::-1]):
            path = save(tmp_path / "a.npy", {"keys": keys, "cam": maps})
            check(read_maps(path), maps.astype(np.float32), IDS)
    np.savez(tmp_path / "a.npz", keys=KEYS.astype(">i8"), cam=np.asfortranarray(MAPS[:, ::-1]))
    check(read_maps(tmp_path / "a.npz"), MAPS[:, ::-1], IDS)


def test_what_numpy_1_saved_is_read(tmp_path):
    """Protocol 2 has names as lines of text, so that they can be replaced."""
    path = save(tmp_path / "a.npy", FORMATS["irn"][0], 2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in path.read_bytes()
    check(read_maps(path), MAPS, IDS, None, "irn")


def test_further_entries_do_not_matter(tmp_path):
    extra = {"name": "2007_000032", "threshold": 0.3, "size": (375, 500), "nothing": None}
    extra |= FORMATS["irn"][0] | {"nested": {"a": 1, "b": {}}}
    path = save(tmp_path / "a.npy", extra)
    check(read_maps(path), MAPS, IDS, None, "irn")


# ------------------------------------------------------------------------------- torch's tensors


@pytest.mark.parametrize("zipped", [True, False, None])
def test_tensor_dtypes_views_and_shared_storages(tmp_path, zipped):
    torch = needs("torch")
    base = torch.arange(2 * 40 * 30).reshape(2, 40, 30) / 2**12
    views = {
        "contiguous": base,
        "view with an offset": base[:, 3:20, 5:],
        "transposed": base.transpose(1, 2),
        "strided": base[:, ::3, ::2],
        "expanded": base[:1, :1].expand(2, 7, 30),
        "one row": base[:, 1:2],
        "needs grad": base.clone().requires_grad_(),
    }

    def write(value):
        if zipped is None:
            save(tmp_path / "a.npy", value)
        else:
            torch.save(value, tmp_path / "a.npy", _use_new_zipfile_serialization=zipped)
        return tmp_path / "a.npy"

    for view in views.values():
        expected = view.detach().numpy()
        path = write({"keys": torch.tensor([0, 14]), "cam": view, "again": view})
        check(read_maps(path), np.ascontiguousarray(expected), IDS)
    for dtype in ("float16", "float32", "float64", "bfloat16"):
        view = base.to(getattr(torch, dtype))[:, 1:]
        expected = (view.float() if dtype == "bfloat16" else view).numpy()
        check(read_maps(write({"keys": KEYS, "cam": view})), expected, IDS)
    for dtype in ("int8", "uint8", "int16", "int32", "int64"):
        keys = torch.tensor([0, 14], dtype=getattr(torch, dtype))
        check(read_maps(write({"keys": keys, "cam": base})), base.numpy(), IDS)
    bools = write({"keys": KEYS, "cam": base, "mask": base > 0})
    check(read_maps(bools), base.numpy(), IDS)


def test_torch_is_not_imported(tmp_path):
    import subprocess
    import sys

    needs("torch")
    import torch

    save(tmp_path / "a.npy", {"keys": torch.tensor([0, 14]), "cam": torch.from_numpy(MAPS)})
    torch.save({"keys": KEYS, "cam": torch.from_numpy(MAPS)}, tmp_path / "a.pt")
    program = """
import sys
sys.modules["torch"] = None
from cuekit import io
for path in sys.argv[1:]:
    assert io.read_maps(path).maps.shape == (2, 6, 9)
"""
    paths = [str(tmp_path / name) for name in ("a.npy", "a.pt")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True, timeout=60)  # noqa: S603


# ------------------------------------------------------------------------------- what is refused

UNKNOWN = {
    "other names": (
        {"cams": MAPS, "class_ids": KEYS},
        r"known format; got \{'cams': float32 \(2, 6, 9\), 'class_ids': int64 \(2,\)\}; it can be "
        r'read with format="irn", maps_key="cams", ids_key="class_ids" \(ids from 0, no background'
        r'\) or format="weaktr", maps_key="cams", ids_key="class_ids" \(ids in which 0 is the back',
    ),
    "other names, background": (
        {"cams": WITH_BACKGROUND, "tags": KEYS},
        r'can be read with format="amn", maps_key="cams", ids_key="tags" \(ids from 0, and a back',
    ),
    "one map too many": (
        {"keys": KEYS, "cam": RNG.random((4, H, W))},
        r"known format; got \{'keys': int64 \(2,\), 'cam': float64 \(4, 6, 9\)\}; no format would",
    ),
    "one map too few": ({"keys": KEYS, "high_res": MAPS[:1]}, r"no format would read it"),
    "a second array as many": (
        {"keys": KEYS, "high_res": MAPS, "attn_highres": MAPS},
        r"must be given where several fit: irn or clip-es; got .*'attn_highres': float32",
    ),
    "excel or more": (
        {"valid_lam": WITH_BACKGROUND, "keys": KEYS, "keys_gt": KEYS},
        r"known format; .* it can be read with format=\"excel\"",
    ),
    "cam of two projects": (
        {"keys": KEYS, "fg_cls": KEYS, "cam": MAPS},
        r"must be given where several fit: irn or fma",
    ),
    "logits and more": (
        {"keys": KEYS, "cam": MAPS, "msc_seg": MAPS[None]},
        r"must be given where several fit: irn or logits",
    ),
    "integer maps": (
        {"keys": KEYS, "cam": MAPS.astype(int)},
        r"got \{'keys': int64 \(2,\), 'cam': int64 \(2, 6, 9\)\}; no format would read it",
    ),
    "no pixels": ({"keys": KEYS, "cam": MAPS[:, :0]}, r"no format would read it"),
    "floating keys": ({"keys": KEYS + 0.5, "cam": MAPS}, r"no format would read it"),
    "negative keys": ({"keys": KEYS - 1, "cam": MAPS}, r"distinct and in 0\.\.65534"),
    "double keys": ({"keys": KEYS * 0, "cam": MAPS}, r"class ids of format 'irn' must be distinct"),
    "sec": (
        {"0_labels": KEYS, "0_cues": KEYS},
        r"must have the maps of one photo; use read_sec_cues",
    ),
    "mixed keys": ({0: MAPS[0], "keys": KEYS}, r"known format; got \{0: float32 \(6, 9\), 'keys'"),
    "other values": (
        {"keys": KEYS, "cam": None, "a": "b", "c": 0.5, "d": {}},
        r"'keys': int64 \(2,\), 'cam': None, 'a': 'b', 'c': 0\.5, 'd': dict",
    ),
    "stacked by class": ({0: MAPS, 14: MAPS}, r"must have one \(H, W\) array of floats for each"),
    "sizes by class": ({0: MAPS[0], 14: MAPS[0, 1:]}, r"maps must have one shape and dtype"),
    "negative class": ({-1: MAPS[0]}, r"class ids of format 'psa' must be distinct and in 0\.\."),
    "NaN": ({0: MAPS[0], 14: MAPS[1] * np.nan}, r"must be finite where they tell PSA's CAMs"),
    "infinity": ({0: MAPS[0] * np.inf, 14: MAPS[1] * -np.inf}, r"must be finite where they tell"),
    "empty": ({}, r"must have at least one map, got an empty dict: no classes"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_known_is_refused(tmp_path, case):
    written, message = UNKNOWN[case]
    path = save(tmp_path / "a.npy", written)
    with pytest.raises(ValueError, match=message) as caught:
        read_maps(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_many_entries_are_shown_shortly(tmp_path):
    path = save(tmp_path / "a.npy", {f"{i}{'k' * 900}": MAPS for i in range(500)})
    with pytest.raises(ValueError, match="and 480 more; no format would read it") as caught:
        read_maps(path)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("irn", {}, r"format 'irn' must have maps as high_res or cam; got \{"),
        ("irn", {"maps_key": "x"}, r"format 'irn' must have maps as x; got"),
        ("fma", {"maps_key": "valid_lam"}, r"format 'fma' must have class ids as fg_cls; got"),
        (
            "more",
            {"ids_key": "keys_gt"},
            r"as many maps as class ids, not 3 for 2; got .* with format=\"excel\"",
        ),
        (
            "more",
            {"maps_key": "keys_gt", "ids_key": "keys_gt"},
            r"must have floating maps \(C, h, w\) as keys_gt",
        ),
        (
            "excel",
            {"ids_key": "valid_lam"},
            r"format 'excel' must have integers \(P,\) as valid_lam",
        ),
        ("logits", {}, r"logits must be floats .* as msc_segs or msc_seg or segs"),
        ("logits", {"maps_key": "keys_gt"}, r"logits must be floats .* as keys_gt"),
        ("psa", {}, r"must have one \(H, W\) array of floats for each class id"),
        ("psa-crf", {}, r"must have one \(H, W\) array of floats for each class id"),
        ("cuekit", {}, r"a file of write_maps must have format and class_ids"),
    ],
)
def test_a_format_that_the_file_does_not_have(tmp_path, name, options, message):
    path = save(tmp_path / "a.npy", {"valid_lam": WITH_BACKGROUND, "keys_gt": KEYS})
    with pytest.raises(ValueError, match=message):
        read_maps(path, name, **options)


def test_crf_output_without_background(tmp_path):
    path = save(tmp_path / "a.npy", {3: MAPS[0]})
    with pytest.raises(ValueError, match="CRF output must have key 0, the background"):
        read_maps(path, "psa-crf")
    path = save(tmp_path / "a.npy", {"msc_seg": MAPS[None, :1]})
    with pytest.raises(ValueError, match="logits must have the background and at least one class"):
        read_maps(path, "logits")


def test_wrong_options(tmp_path):
    path = save(tmp_path / "a.npy", FORMATS["irn"][0])
    with pytest.raises(ValueError, match=r"format must be one of 'auto', 'psa', .*, got 'IRN'"):
        read_maps(path, "IRN")
    with pytest.raises(TypeError, match="maps_key must be a string, got 3"):
        read_maps(path, "irn", maps_key=3)
    for name in ("auto", "psa", "psa-crf", "cuekit"):
        with pytest.raises(ValueError, match=f"ids_key must be given with a format that .*{name}"):
            read_maps(path, name, ids_key="keys")
    with pytest.raises(ValueError, match="ids_key must not be given for logits"):
        read_maps(path, "logits", ids_key="keys")
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        read_maps(path, max_bytes=0)
    with pytest.raises(TypeError, match="path must be a path, a str or path-like object, got 3"):
        read_maps(3)
    with pytest.raises(FileNotFoundError):
        read_maps(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read_maps(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            r"must be an \.npy, an \.npz, a file of torch\.save, or a pickle .* got first bytes b",
        ),
        (b"\x89PNG\r\n\x1a\n", r"got first bytes b'\\x89PNG"),
        (b"\x1f\x8b\x08", r"got first bytes b'\\x1f\\x8b\\x08'"),
        (b"\x93NUMPY", r"a \.npy must begin with its magic number"),
        (b"\x93NUMPY\x01\x00", r"a \.npy must begin with its magic number"),
        (b"\x93NUMPY\x04\x00\x10\x00", r"a \.npy must begin with its magic number"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", r"header must have at most 10000 bytes, got 21"),
        (b"\x93NUMPY\x02\x00\xff\xff", r"header must have at most 10000 bytes"),
        (b"\x93NUMPY\x01\x00\x05\x00{}", r"must have a plain dtype and a shape, got b'\{\}'"),
        (b"PK\x03\x04", r"a zip file must be whole and undamaged, got"),
        (pickle.dumps([1], 4), r"must contain a dict, got a list of 1 items"),
        (pickle.dumps(MAPS, 4), r"with their class ids, got one array|got an array|must contain"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_maps(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_maps_without_class_ids(tmp_path):
    np.save(tmp_path / "a.npy", MAPS)
    with pytest.raises(ValueError, match=r"with their class ids, got one array of shape \(2, 6, 9"):
        read_maps(tmp_path / "a.npy")
    objects = np.array([{"keys": 1}], object)
    np.save(tmp_path / "a.npy", objects)
    with pytest.raises(ValueError, match=r"an array of objects must hold one dict, got shape \(1,"):
        read_maps(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", keys=objects, cam=MAPS)
    with pytest.raises(ValueError, match="must be an array of numbers, got one of objects"):
        read_maps(tmp_path / "a.npz")
    torch = needs("torch")
    torch.save(torch.from_numpy(MAPS), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"with their class ids, got one array of shape \(2, 6, 9"):
        read_maps(tmp_path / "a.pt")


# ---------------------------------------------------------------------------- files that attack


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, sentinel):
        self.command = f"echo > {sentinel}"

    def __reduce__(self):
        return os.system, (self.command,)


def zip_of(path, entries, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are written twice
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_never_runs(tmp_path, protocol):
    sentinel, path = tmp_path / "sentinel", tmp_path / "maps"
    payload = {"keys": KEYS, "cam": MAPS, "x": Shell(sentinel)}
    plain = pickle.dumps(payload, protocol)
    files = [plain, save(path, payload, protocol).read_bytes()]
    zip_of(path, [("archive/data.pkl", plain), ("archive/version", "3")])
    files.append(path.read_bytes())
    files.append(_archive.LEGACY_MAGIC + pickle.dumps({"little_endian": True}, 2) + plain)
    files.append(_archive.LEGACY_MAGIC + plain)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    zip_of(path, [("keys.npy", header.getvalue() + plain), ("cam.npy", b"")])
    files.append(path.read_bytes())
    for data in files:
        path.write_bytes(data)
        for name in ("auto", "irn", "cuekit"):
            with pytest.raises(ValueError, match=r"is not allowed|must be|objects"):
                read_maps(path, name)
    assert not sentinel.exists()
    pickle.loads(plain)
    assert sentinel.exists()  # the payload would have run


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
LOAD = b"ctorch.storage\n_load_from_bytes\n"
HOOKS = b"ccollections\nOrderedDict\n)R"
FLOATS = b"ctorch\nFloatStorage\n"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def binary(value):
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def outside(count=8, kind=FLOATS, key="0", rest=b""):
    """Opcodes of a storage that the file has elsewhere."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + integer(count) + rest + b"tQ"


def legacy(pickled, keys=("0",), data=((8, bytes(32)),), system=None):
    """A file of torch's first format."""
    system = {"protocol_version": 1001, "little_endian": True} if system is None else system
    storages = b"".join(struct.pack("<q", count) + content for count, content in data)
    return (
        _archive.LEGACY_MAGIC
        + pickle.dumps(system, 2)
        + b"\x80\x02"
        + pickled
        + b"."
        + pickle.dumps(list(keys), 2)
        + storages
    )


def inside(data=None):
    """Opcodes of a storage that the pickle contains."""
    return LOAD + binary(legacy(outside(rest=b"N")) if data is None else data) + b"\x85R"


def tensor(storage=None, offset=0, shape=(2, 2, 2), strides=(4, 2, 1), end=b"\x89" + HOOKS):
    storage = inside() if storage is None else storage
    parts = storage + integer(offset) + numbers(shape) + numbers(strides)
    return TENSOR + b"(" + parts + end + b"tR"


def dictionary(cam):
    return b"}(" + text("keys") + pickle.dumps([0, 14], 2)[2:-1] + text("cam") + cam + b"u"


def read_tensor(path, cam):
    """Read a plain pickle of a dict with this tensor."""
    path.write_bytes(b"\x80\x02" + dictionary(cam) + b".")
    return read_maps(path, max_bytes=2**20)


def test_the_tensor_beside_the_refused(scratch):
    """Without their modifications, the opcodes of the tests below make a valid tensor."""
    check(read_tensor(scratch, tensor()), np.zeros((2, 2, 2), np.float32), IDS)
    scratch.write_bytes(legacy(dictionary(tensor(outside(rest=b"N")))))
    check(read_maps(scratch), np.zeros((2, 2, 2), np.float32), IDS)
    zip_of(
        scratch,
        [
            ("a/data.pkl", b"\x80\x02" + dictionary(tensor(outside())) + b"."),
            ("a/data/0", bytes(32)),
        ],
    )
    check(read_maps(scratch), np.zeros((2, 2, 2), np.float32), IDS)


HUGE = 2**62


@pytest.mark.parametrize(
    ("cam", "message"),
    [
        (tensor(offset=1), r"a tensor must lie within its storage of 8 elements, got offset 1"),
        (tensor(strides=(5, 2, 1)), r"must lie within its storage"),
        (tensor(shape=(2, 2, 3)), r"must lie within its storage"),
        (tensor(offset=HUGE), r"must lie within its storage"),
        (tensor(shape=(2, HUGE, 2)), r"must lie within its storage|max_bytes"),
        (tensor(strides=(HUGE, HUGE, HUGE)), r"must lie within its storage"),
        (tensor(shape=(2, 2**20, 2**20), strides=(0, 0, 0)), r"at most max_bytes = 1048576 bytes"),
        (tensor(shape=(HUGE, HUGE, HUGE), strides=(0, 0, 0)), r"at most max_bytes"),
        (tensor(shape=(2, HUGE, 0), strides=(0, 0, 0)), r"no format|too big|[Mm]aximum"),
        (tensor(offset=-1), r"must be integers >= 0"),
        (tensor(shape=(2, -2, 2)), r"must be integers >= 0"),
        (tensor(strides=(-4, 2, 1)), r"must be integers >= 0"),
        (tensor(strides=(2, 1)), r"one stride for each axis"),
        (tensor(shape=(1,) * 17, strides=(1,) * 17), r"of at most 16 axes"),
        (tensor(end=b"\x89}"), r"_rebuild_tensor_v2 must be given"),
        (tensor(end=b"N" + HOOKS), r"_rebuild_tensor_v2 must be given"),
        (tensor(end=b"\x89" + HOOKS + b"N"), r"_rebuild_tensor_v2 must be given"),
        (tensor(b"N"), r"_rebuild_tensor_v2 must be given .* got \(None, 0"),
        (tensor(outside()), r"a pickle must contain its storages, got storage '0'"),
        (TENSOR + b"NR", r"the arguments of torch\._utils\._rebuild_tensor_v2 must be a tuple"),
        (LOAD + b"](K\1e\x85R", r"_load_from_bytes must be given one bytes object"),
        (LOAD + text("a") + b"\x85R", r"_load_from_bytes must be given one bytes object"),
        (FLOATS, r"values must be arrays, numbers or strings"),
        (TENSOR, r"values must be arrays, numbers or strings, got torch\._utils\._rebuild_tensor"),
        (inside(), r"values must be arrays, numbers or strings, got Storage"),
        (HOOKS, r"values must be arrays, numbers or strings, got _Hooks"),
        (b"ccollections\nOrderedDict\n](K\1e\x85R", r"only functions that make arrays"),
        (FLOATS + b")R", r"only functions that make arrays may be called"),
        (b"ctorch\nload\n", r"global 'torch\.load' is not allowed"),
        (b"ctorch\nComplexFloatStorage\n", r"is not allowed"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n", r"is not allowed"),
        (b"ctorch._utils\n_rebuild_parameter\n", r"is not allowed"),
        (b"ctorch\n_utils._rebuild_tensor_v2\n", r"_rebuild_tensor_v2|REBUILD"),
        (b"NQ", r"a storage must be named by"),
        (b"(tQ", r"a storage must be named by"),
        (outside(-1), r"a storage must be named by"),
        (outside(kind=text("FloatStorage")), r"a storage must be named by"),
        (outside(rest=b"K\1"), r"a storage must be named by"),
        (outside(rest=b"NN"), r"a storage must be named by"),
    ],
)
def test_hostile_tensors_are_refused(scratch, cam, message):
    with peak_below(8 * 2**20), pytest.raises(ValueError, match=message) as caught:
        read_tensor(scratch, cam)
    assert str(scratch) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"must begin with its magic number"),
        (pickle.dumps(1, 2), r"must begin with its magic number"),
        (_archive.LEGACY_MAGIC, r"must be a pickle of protocol 2 to 5"),
        (legacy(outside(), system={}), r"torch's file must say its byte order, got dict"),
        (legacy(outside(), system={"little_endian": 1}), r"must say its byte order"),
        (legacy(outside(), keys=()), r"must list its 1 storages, got a list of 0 items"),
        (legacy(outside(), keys=("1",)), r"must list its 1 storages"),
        (legacy(outside(), keys=("0", "0")), r"must list its 1 storages"),
        (legacy(outside(), keys=([],)), r"must list its 1 storages"),
        (legacy(outside(), data=()), r"a storage must have 8 elements, got 0"),
        (legacy(outside(), data=((8, bytes(31)),)), r"a storage must have 32 bytes, got 31"),
        (legacy(outside(), data=((8, bytes(33)),)), r"nothing may follow the last storage"),
        (legacy(outside(HUGE), data=((HUGE, b""),)), r"must have \d+ bytes, got 0"),
        (legacy(outside(2**40), data=((2**40, b""),)), r"must have 4398046511104 bytes, got 0"),
        (legacy(b"(" + outside() + outside(4) + b"t"), r"one dtype and size, got two for '0'"),
        (legacy(b"}"), r"must list its 0 storages"),
        (legacy(b"}", keys=(), data=()), r"a tensor's bytes must hold one storage, got dict"),
        (legacy(inside()), r"a storage must not contain another file"),
        (legacy(b"cos\nsystem\n"), r"global 'os\.system' is not allowed"),
    ],
)
def test_hostile_storages_in_a_pickle_are_refused(scratch, data, message):
    with peak_below(8 * 2**20), pytest.raises(ValueError, match=message):
        read_tensor(scratch, tensor(inside(data)))


def test_one_storage_many_times_is_refused(scratch):
    """A pickle of one megabyte would make a copy of it for each of 10 000 tensors."""
    data = legacy(outside(2**17), data=((2**17, bytes(2**19)),))
    first = LOAD + binary(data) + b"q\1\x85R"
    again = LOAD + b"h\1\x85R"
    scratch.write_bytes(b"\x80\x02}(" + first + again * 4000 + b".")
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="must have at most max_bytes = 10"):
        read_maps(scratch, max_bytes=2**20)


def test_one_text_many_times_is_refused(scratch):
    """The same for bytes as Python 3 writes them in protocol 2."""
    encode = b"c_codecs\nencode\n"
    first = encode + text("a" * 2**19) + b"q\1" + text("latin1") + b"\x86R"
    again = encode + b"h\1" + text("latin1") + b"\x86R"
    scratch.write_bytes(b"\x80\x02}(" + first + again * 4000 + b".")
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="must have at most max_bytes = 10"):
        read_maps(scratch, max_bytes=2**20)


@pytest.mark.parametrize("last", [b"K\1", b"N"])
def test_one_list_many_times_is_refused(scratch, last):
    """A row that a list holds many times is looked at many times, for each of many keys."""
    row = b"](" + b"K\1" * 8000 + last + b"eq\1"
    outer = b"](" + row + b"h\1" * 8000 + b"eq\2"
    keys = b"".join(text(f"{i}") + b"h\2" for i in range(1000))
    scratch.write_bytes(b"\x80\x02}(" + text("a") + outer + keys + b"u.")
    start = time.perf_counter()
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="must have at most max_bytes = 10"):
        read_maps(scratch, max_bytes=2**20)
    assert time.perf_counter() - start < 5


def test_one_tuple_many_times_costs_no_time(scratch):
    """10 000 tuples that all are one of 10 000 items: 10**8 items to look at, 50 times."""
    inner = b"(" + b"K\1" * 9000 + b"tq\1"
    scratch.write_bytes(b"\x80\x02}" + inner + (b"(" + b"h\1" * 9000 + b"tq\2") * 50 + b"\x85\x85.")
    start = time.thread_time()
    with pytest.raises(ValueError, match="tuples must be nested at most 2 deep"):
        read_maps(scratch)
    assert time.thread_time() - start < 20  # 2 seconds where no other program runs


def test_bool_tensors_hold_0_and_1(scratch):
    kind = b"ctorch\nBoolStorage\n"
    data = legacy(outside(8, kind), data=((8, bytes([0, 1] * 4)),))
    with pytest.raises(ValueError, match=r"'cam': bool \(2, 2, 2\)\}; no format would"):
        read_tensor(scratch, tensor(inside(data)))
    shape = dictionary(tensor(inside(legacy(outside(8, kind), data=((8, b"\2" * 8),)))))
    scratch.write_bytes(b"\x80\x02" + shape.replace(text("cam"), text("a")) + b".")
    with pytest.raises(ValueError, match="no format"):
        read_maps(scratch)


OBJECT = b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R"
OBJECT_STATE = b"(K\3" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + b"U\1b" + b"\x87R"


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        # Bytes must never become an array of objects: they would be used as pointers.
        (EMPTY_ARRAY + b"(K\1)" + OBJECT + OBJECT_STATE + b"\x89B\x08\0\0\0AAAAAAAAtb", "state"),
        (EMPTY_ARRAY + b"(K\1K\1\x85" + OBJECT + OBJECT_STATE + b"\x89]}atb", "state must be"),
        (EMPTY_ARRAY + b"(K\1)" + OBJECT + OBJECT_STATE + b"\x89](}}etb", "state must be"),
        (EMPTY_ARRAY + b"(K\1)" + OBJECT + OBJECT_STATE + b"\x89]Natb", "state must be"),
        (EMPTY_ARRAY + b"(K\1)" + OBJECT + b"\x89]}atb", "state must be"),
        (OBJECT + b"(K\3" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb", "object dt"),
        (OBJECT + b")b", "the state of an object dtype must be"),
        (
            b"cnumpy.core.numeric\n_frombuffer\n(B\x08\0\0\0AAAAAAAA"
            + OBJECT
            + OBJECT_STATE
            + b"K\1\x85U\1CtR",
            "_frombuffer must be given",
        ),
        (
            b"cnumpy.core.multiarray\nscalar\n" + OBJECT + OBJECT_STATE + b"U\x08AAAAAAAA\x86R",
            "a scalar must be given",
        ),
    ],
)
def test_objects_are_only_the_dict_of_numpy_save(scratch, opcodes, message):
    scratch.write_bytes(b"\x80\x02" + opcodes + b".")
    with pytest.raises(ValueError, match=message):
        read_maps(scratch)


# ------------------------------------------------------------------------------------- hostile zips


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


KEYS_NPY, CAM_NPY = npy(KEYS), npy(MAPS)


def zip_with_header(path, **fields):
    """An .npz whose second entry has other fields in the zip file's directory."""
    zip_of(path, [("keys.npy", KEYS_NPY), ("cam.npy", CAM_NPY)])
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    offsets = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "size": (24, "<I")}
    for name, value in fields.items():
        offset, code = offsets[name]
        struct.pack_into(code, data, start + offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crc": 1}, "undamaged, got: Bad CRC-32"),
        ({"size": 10}, "must begin|must have|undamaged"),
        ({"method": 14}, r"must be stored or deflated, got 'cam\.npy' with compression method 14"),
        ({"method": 99}, "must be stored or deflated"),
        ({"method": 8}, "undamaged|must begin"),
        ({"flags": 1}, "undamaged, got: .*encrypted"),
    ],
)
def test_damaged_zip_entries_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read_maps(zip_with_header(tmp_path / "a.npz", **fields))


def torch_entries(cam, storage):
    """The entries of torch's zip files: a dict with this tensor, and one storage."""
    return [("a/data.pkl", b"\x80\x02" + dictionary(cam) + b"."), ("a/data/0", storage)]


def test_hostile_zips_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    deflated = zipfile.ZIP_DEFLATED
    huge = npy(np.zeros(0, np.float32)).replace(b"(0,), }" + b" " * 12, b"(1, 67108864, 99), }")
    big = npy(np.zeros((2, 2**12, 2**12), np.uint8))[: -(2**25)].replace(b"|u1", b"<f4")
    cases = [
        ([("keys.npy", KEYS_NPY), ("keys.npy", KEYS_NPY)], "must have distinct names"),
        ([(f"{i}.npy", KEYS_NPY) for i in range(1001)], "at most 1000 entries, got 1001"),
        ([("keys.npy", KEYS_NPY), ("a.txt", "a")], r"must be an \.npz, or be torch's, got entries"),
        ([("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"")], r"must be an \.npz, or be torch's"),
        ([("a/data.pkl", b"\x80\x02}.x")], "nothing may follow the pickle's STOP"),
        ([("a/data.pkl", b"\x80\x02}."), ("a/byteorder", "middle")], "must be little or big"),
        ([("a/data.pkl", b"\x80\x02}."), ("a/byteorder", "x" * 2000)], "at most 1000 bytes"),
        ([("keys.npy", KEYS_NPY), ("cam.npy", huge)], "no format|at most max_bytes"),
        ([("keys.npy", KEYS_NPY), ("cam.npy", big + bytes(2**25))], "at most max_bytes = 4194304"),
        ([("keys.npy", KEYS_NPY), ("cam.npy", CAM_NPY + b"x")], "an entry must have 432 bytes"),
        ([("keys.npy", KEYS_NPY), ("cam.npy", CAM_NPY[:-1])], "an entry must have 432 bytes"),
        ([("keys.npy", KEYS_NPY), ("cam.npy", bytes(2**26))], "must begin with its magic number"),
        (
            torch_entries(tensor(outside(2**22)), bytes(2**24)),
            "at most max_bytes = 4194304",
        ),
        (
            torch_entries(tensor(outside()), bytes(33)),
            "an entry must have 32 bytes, got more or fewer",
        ),
        (
            [("a/data.pkl", b"\x80\x02" + dictionary(tensor(outside(key="../../keys"))) + b".")],
            r"undamaged, got: .*a/data/\.\./\.\./keys",
        ),
        (
            [("a/data.pkl", b"\x80\x02" + dictionary(tensor(inside())) + b".")],
            "a storage must not contain another file",
        ),
        (
            # A zip file within a zip file is an entry like any other: it is not opened.
            [("keys.npy", KEYS_NPY), ("cam.npy", zip_of(path, [("a", "b")]).read_bytes())],
            "must begin with its magic number",
        ),
        ([("a/data.pkl", b"\x80\x02" + b"(" * 2**25)], "at most|opcodes"),
    ]
    for entries, message in cases:
        zip_of(path, entries, deflated)
        with peak_below(24 * 2**20), pytest.raises(ValueError, match=message):
            read_maps(path, max_bytes=2**22)
        assert path.stat().st_size < 2**18


def test_a_directory_of_many_entries_is_not_read(tmp_path):
    path = zip_of(tmp_path / "a.npz", [(f"{i}{'a' * 200}", b"") for i in range(5000)])
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="directory must have at most 1048"):
        read_maps(path)


def test_storages_are_read_once(tmp_path):
    """Many tensors of one storage, with one name or with two dtypes, cost no more than allowed."""
    items = b"".join(text(str(i)) + tensor(outside(2**18)) for i in range(500))
    zip_of(
        tmp_path / "a.pt",
        [("a/data.pkl", b"\x80\x02}(" + items + b"u."), ("a/data/0", bytes(2**20))],
    )
    with peak_below(8 * 2**20), pytest.raises(ValueError, match="no format would read it"):
        read_maps(tmp_path / "a.pt", max_bytes=2**20)
    items = tensor(outside(2**18)) + text("b") + tensor(outside(2**17, b"ctorch\nLongStorage\n"))
    zip_of(
        tmp_path / "a.pt",
        [
            ("a/data.pkl", b"\x80\x02}(" + text("a") + items + b"u."),
            ("a/data/0", bytes(2**20)),
        ],
    )
    with pytest.raises(ValueError, match="at most max_bytes = 1048576 bytes together"):
        read_maps(tmp_path / "a.pt", max_bytes=2**20)


def test_headers_cost_no_time(tmp_path):
    """A header that a regular expression could match in many ways."""
    for shape in (
        "1" * 9000,
        "1, " * 3000,
        "1," * 4500,
        "1 " * 4500,
        " " * 9000,
        "1, " * 3000 + "x",
    ):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".encode()
        start = time.perf_counter()
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
        with pytest.raises(ValueError, match=r"must have|must hold|class ids"):
            read_maps(tmp_path / "a.npy")
        assert time.perf_counter() - start < 1


# ------------------------------------------------------------------------------------- mutations


def small_files(folder):
    """Files of every kind, written by the libraries themselves."""
    maps = RNG.random((2, 3, 4), np.float32)
    written = {
        "psa": save(folder / "a", {0: maps[0], 14: maps[1]}),
        "irn": save(folder / "b", {"keys": KEYS, "cam": maps}, 2),
        "clip-es": save(folder / "c", {"keys": KEYS, "attn_highres": maps.astype("f2")}, 5),
    }
    np.savez(folder / "d.npz", keys=KEYS, cam=maps)
    np.savez_compressed(folder / "e.npz", cam=maps, fg_cls=KEYS, att=maps)
    write_maps(folder / "f", maps, [1, 15], background=maps[0], photo_size=(9, 9), provenance="x")
    write_maps(folder / "g", maps > 0.5, [1, 15], features=maps)
    written |= {name: folder / name for name in ("d.npz", "e.npz", "f", "g")}
    try:
        import torch
    except ImportError:
        return written
    tensors = {"keys": torch.tensor([0, 14]), "cam": torch.from_numpy(maps)[:, 1:]}
    written["tensors"] = save(folder / "h", tensors)
    torch.save(tensors, folder / "i")
    torch.save(tensors, folder / "j", _use_new_zipfile_serialization=False)
    return written | {"torch": folder / "i", "torch's first": folder / "j"}


def mutate_file(data, rng):
    """Damage a file, or an entry of a zip file, whose checksum is then right."""
    if not data.startswith(b"PK") or rng.random() < 0.3:
        return mutate(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(entries)))
    entries[name] = mutate(entries[name], rng)
    rezipped = io.BytesIO()
    with zipfile.ZipFile(rezipped, "w") as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    return rezipped.getvalue()


def mutate(data, rng):
    """Damage some bytes: flip, overwrite by extreme numbers, cut, repeat, or move a part."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(0, len(data)))
        length = int(rng.integers(1, 40))
        match rng.integers(0, 7):
            case 0 | 1:
                data[start] ^= 1 << int(rng.integers(0, 8))
            case 2:
                data[start] = int(rng.integers(0, 256))
            case 3:
                extreme = int(rng.choice([0, 1, 2**15, 2**31, 2**31 - 1, 2**32 - 1, 2**63 - 1]))
                size = int(rng.choice([2, 4, 8]))
                data[start : start + size] = (extreme % 2 ** (8 * size)).to_bytes(size, "little")
            case 4:
                del data[start : start + length]
            case 5:
                data[start:start] = data[start : start + length]
            case 6:
                part = bytes(data[start : start + length])
                del data[start : start + length]
                where = int(rng.integers(0, len(data) + 1))
                data[where:where] = part
        if not data:
            break
    return bytes(data)


def read_or_refuse(path, **options):
    """Read a damaged file: anything but maps or a ValueError that names the file is a failure."""
    start = time.perf_counter()
    try:
        maps = read_maps(path, **options)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert len(str(error)) < 20_000  # noqa: PT017
    else:
        arrays = [maps.maps, maps.class_ids]
        assert all(type(array) is np.ndarray and array.dtype.kind in "bfi" for array in arrays)
        assert maps.maps.ndim == 3
        assert len(maps.maps) == len(maps.class_ids)
    assert time.perf_counter() - start < 5  # milliseconds, but on a machine that does other work


def test_mutations_are_refused_or_read_as_arrays(tmp_path):
    files = small_files(tmp_path)
    rng = np.random.default_rng(7)
    path = tmp_path / "damaged"
    # 12 500 in CI.
    for data in [file.read_bytes() for file in files.values()]:
        for _ in range(25 * EXAMPLES // len(files) + 1):
            path.write_bytes(mutate_file(data, rng))
            read_or_refuse(path, max_bytes=2**22)


def test_mutations_take_little_memory(tmp_path):
    files = small_files(tmp_path)
    rng = np.random.default_rng(8)
    path = tmp_path / "damaged"
    for data in [file.read_bytes() for file in files.values()]:
        with peak_below(24 * 2**20):  # as much as a file within max_bytes may take
            for _ in range(2 * EXAMPLES // len(files) + 1):
                path.write_bytes(mutate_file(data, rng))
                read_or_refuse(path, max_bytes=2**22)


def test_every_truncation_is_refused(tmp_path):
    for file in small_files(tmp_path).values():
        data = file.read_bytes()
        read_maps(file)
        for length in range(0, len(data), 3 if EXAMPLES >= 500 else 11):
            (tmp_path / "cut").write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"cut: "):
                read_maps(tmp_path / "cut")


# ------------------------------------------------------------------------------------ our own file


def float_maps(dtypes=(np.float16, np.float32, np.float64), limit=60_000):
    shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)
    # float16's largest number is 65504. Elements are drawn as float16, and exact in every dtype.
    elements = st.floats(-limit, limit, width=16) | st.floats(-1, 1, width=16)
    return st.sampled_from(dtypes).flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=elements)
    )


@settings(deadline=None)
@given(float_maps(), st.booleans(), st.none() | st.just((375, 500)))
def test_quantised_maps_are_within_the_stated_bound(scratch, maps, with_background, photo_size):
    ids = list(range(3, 3 + len(maps)))
    background = maps[0] / 2 if with_background else None
    write_maps(scratch, maps, ids, background=background, photo_size=photo_size)
    read = read_maps(scratch)
    assert read.format == "cuekit"
    assert read.photo_size == photo_size
    assert read.class_ids.tolist() == ids
    pairs = [(read.maps, maps)]
    assert (read.background is None) == (background is None)
    if background is not None:
        pairs.append((read.background[None], background[None]))
    for got, written in pairs:
        assert got.dtype == np.float32
        for one, other in zip(got.astype(float), written.astype(float), strict=True):
            span, largest = np.ptp(other), np.abs(other).max()
            # 2**-24 is the rounding of float32; 2**-50 covers that of the float64 arithmetic.
            bound = span / 510 * (1 + 2**-50) + largest * (2**-24 + 2**-50)
            assert np.abs(one - other).max() <= bound
            np.testing.assert_array_equal(one[other == other.min()], other.min())


@settings(deadline=None)
@given(float_maps())
def test_float16_maps_are_within_the_stated_bound(scratch, maps):
    write_maps(scratch, maps, range(1, len(maps) + 1), encoding="float16")
    read = read_maps(scratch)
    assert read.maps.dtype == np.float16
    np.testing.assert_array_equal(read.maps, maps.astype(np.float16))
    wide = maps.astype(float)
    assert (np.abs(read.maps - wide) <= np.maximum(np.abs(wide) / 2048, 3e-8)).all()


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=20)))
def test_cues_are_exact(scratch, cues):
    write_maps(scratch, cues[1:], range(7, 6 + len(cues)), background=cues[0])
    check(read_maps(scratch), cues[1:], range(7, 6 + len(cues)), cues[0], "cuekit")


def test_no_classes(tmp_path):
    for dtype in (bool, np.float32):
        none = np.zeros((0, 4, 5), dtype)
        write_maps(tmp_path / "a", none, [])
        check(read_maps(tmp_path / "a"), none, [], None, "cuekit")
        first = np.ones((4, 5), dtype)
        write_maps(tmp_path / "a", none, [], background=first)
        check(read_maps(tmp_path / "a"), none, [], first, "cuekit")


@pytest.mark.parametrize(
    "maps",
    [
        np.full((1, 2, 3), 7.25),
        np.zeros((1, 2, 3)),
        np.array([[[-1e-320, 0, 1e-320]]]),
        np.array([[[3.4e38, -3.4e38]]]),
        np.array([[[1e30, 1e30 * (1 + 1e-15)]]]),
    ],
)
def test_extreme_maps(tmp_path, maps):
    write_maps(tmp_path / "a", maps, [1])
    read = read_maps(tmp_path / "a").maps.astype(float)
    bound = np.ptp(maps) / 510 * (1 + 2**-50) + np.abs(maps).max() * 2**-23 + 2.0**-149
    assert np.abs(read - maps).max() <= bound


def test_everything_is_kept(tmp_path):
    path = tmp_path / "a.npz"
    features = RNG.random((3, 2, 5)) * 7680
    write_maps(
        path,
        MAPS,
        (300, 2),
        features=features,
        photo_size=[375, 500],
        provenance="ResNet, 日本, epoch 3",
    )
    read = read_maps(path)
    np.testing.assert_array_equal(read.features, features.astype(np.float16))
    assert read.class_ids.tolist() == [300, 2]
    assert read.photo_size == (375, 500)
    assert read.provenance == "ResNet, 日本, epoch 3"
    assert read_maps(path, "cuekit").provenance == read.provenance
    for wrong in ("irn", "logits"):
        with pytest.raises(ValueError, match=r"must have|must be"):
            read_maps(path, wrong)


def test_torch_tensors_are_written(tmp_path):
    torch = needs("torch")
    write_maps(tmp_path / "a", torch.from_numpy(MAPS), torch.tensor([1, 15]), encoding="float16")
    check(read_maps(tmp_path / "a"), MAPS.astype(np.float16), IDS)


def test_numpy_alone_reads_it(tmp_path):
    """The lines of the docstring."""
    for maps, encoding in ((MAPS, "uint8"), (MAPS, "float16"), (MAPS > 0.5, "uint8")):
        write_maps(tmp_path / "a.npz", maps, IDS, encoding=encoding)
        lines = textwrap.dedent(
            write_maps.__doc__.split("Without cuekit::")[1].split("Examples")[0]
        )
        names = {"np": np, "path": tmp_path / "a.npz"}
        exec(lines, names)  # noqa: S102 - what the docstring says
        expected = read_maps(tmp_path / "a.npz").maps
        np.testing.assert_array_equal(names["maps"].astype(expected.dtype), expected)
        with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
            assert file["class_ids"].tolist() == IDS


def test_equal_maps_give_equal_files(tmp_path):
    for name in "ab":
        write_maps(tmp_path / name, MAPS, IDS, background=MAPS[0], provenance="x")
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in "ab"}
    assert len(digests) == 1


def test_layouts_do_not_matter(tmp_path):
    for maps in (np.asfortranarray(MAPS), MAPS[:, ::-1, ::2]):
        write_maps(tmp_path / "a", maps, IDS, encoding="float16")
        check(read_maps(tmp_path / "a"), maps.astype(np.float16), IDS)
    write_maps(tmp_path / "a", (MAPS > 0.5)[:, ::-1, ::2], IDS)
    check(read_maps(tmp_path / "a"), (MAPS > 0.5)[:, ::-1, ::2], IDS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"maps": MAPS[0]}, ValueError, r"maps must have shape \(C, h, w\), got \(6, 9\)"),
        ({"maps": MAPS[None]}, ValueError, r"maps must have shape \(C, h, w\), h and w >= 1, got"),
        ({"maps": MAPS[:, :0]}, ValueError, r"maps must have shape \(C, h, w\), h and w >= 1, got"),
        ({"maps": MAPS.astype(int)}, TypeError, r"maps must have dtype bool or float16 or float"),
        ({"maps": "a"}, TypeError, r"maps must be"),
        ({"maps": MAPS * np.nan}, ValueError, r"maps must be finite, got NaN or infinity"),
        (
            {"maps": MAPS.astype(float) * 1e39},
            ValueError,
            r"maps must be within the range of float32",
        ),
        (
            {"maps": MAPS * 1e6, "encoding": "float16"},
            ValueError,
            r"maps must be at most 65504 for float16, got",
        ),
        ({"class_ids": [1]}, ValueError, r"class_ids must have one id for each of 2 maps, got 1"),
        ({"class_ids": [1, 1]}, ValueError, r"class_ids must be distinct, got \[1, 1\]"),
        ({"class_ids": [0, 1]}, ValueError, r"class_ids must be in 1\.\.65535, got 0: pass the ba"),
        ({"class_ids": [1, 65536]}, ValueError, r"class_ids must be in 1\.\.65535, got 65536"),
        ({"class_ids": [1.0, 2.0]}, TypeError, r"class_ids must be an integer, got 1\.0"),
        ({"class_ids": 3}, TypeError, r"class_ids must be a sequence of integers, got 3"),
        ({"background": MAPS}, ValueError, r"background must have shape \(6, 9\) to match maps"),
        ({"background": MAPS[0, 1:]}, ValueError, r"background must have shape \(6, 9\) to match"),
        ({"background": MAPS[0] > 0}, TypeError, r"background must have dtype float32, got bool"),
        (
            {"features": MAPS[0]},
            ValueError,
            r"features must have shape \(D, h, w\), got",
        ),
        (
            {"features": MAPS[:0]},
            ValueError,
            r"features must have shape \(D, h, w\), each >= 1, got",
        ),
        ({"features": MAPS * np.inf}, ValueError, r"features must be finite, got NaN or infinity"),
        ({"features": MAPS * 1e6}, ValueError, r"features must be at most 65504, .* got .*divide"),
        ({"features": MAPS > 0}, TypeError, r"features must have dtype float16 or float32"),
        ({"photo_size": 3}, TypeError, r"photo_size must be a pair \(height, width\), got 3"),
        ({"photo_size": (0, 3)}, ValueError, r"photo_size must be at least 1, got 0"),
        ({"encoding": "jpeg"}, ValueError, r"encoding must be one of 'uint8', 'float16', got 'jp"),
        ({"provenance": 3}, TypeError, r"provenance must be a string, got 3"),
        ({"provenance": "a" * 10_001}, ValueError, r"provenance must have at most 10000 char"),
        ({"provenance": "a\0"}, ValueError, r"provenance must have .* no NUL"),
        ({"path": 3}, TypeError, r"path must be a path"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path, arguments, error, message):
    given_arguments = {"path": tmp_path / "a", "maps": MAPS, "class_ids": IDS, **arguments}
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(error, match=message):
        write_maps(**given_arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_maps(tmp_path / "a", MAPS, IDS)
    before = (tmp_path / "a").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_maps(tmp_path / "a", MAPS * 2, IDS)
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


OWN = {
    "format": np.array("cuekit maps 1"),
    "class_ids": np.array([1, 15], np.uint8),
    "maps": np.zeros((2, 3, 4), np.uint8),
    "scale": np.array([[0.0, 0.1]] * 2),
}
BITS = {
    "format": np.array("cuekit maps 1"),
    "class_ids": np.array([1, 15], np.uint8),
    "maps": np.zeros((2, 2), np.uint8),
    "size": np.array([3, 4], np.int32),
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({**OWN, "format": np.array("cuekit maps 2")}, r"format must be 'cuekit maps 1' for this"),
        ({**OWN, "format": np.array(["cuekit maps 1"])}, r"format must be an array as write_maps"),
        ({**OWN, "class_ids": np.array([1, 15])}, r"class_ids must be an array as write_maps"),
        ({**OWN, "class_ids": np.array([1, 1], "u1")}, r"must be distinct"),
        ({**OWN, "class_ids": np.array([1], "u1")}, r"maps must have shape \(1, h, w\), got \(2,"),
        ({**OWN, "maps": np.zeros((2, 3, 4), "i4")}, r"maps must be an array as write_maps"),
        ({**OWN, "maps": np.zeros((2, 3, 4), "f2")}, r"quantised maps must be uint8"),
        ({**OWN, "maps": np.zeros((2, 0, 4), "u1")}, r"maps must have shape \(2, h, w\)"),
        ({**OWN, "scale": np.zeros((1, 2))}, r"with a scale \(C, 2\)"),
        ({**OWN, "scale": np.full((2, 2), np.nan)}, r"scale must be finite"),
        ({**OWN, "scale": np.zeros((2, 2), int)}, r"scale must be an array as write_maps"),
        ({**OWN, "features": np.zeros((2, 3), "f2")}, r"features must be an array as write_maps"),
        ({**OWN, "features": np.zeros((2, 3, 0), "f2")}, r"features must have shape \(D, h, w\)"),
        ({**OWN, "photo_size": np.array([3], "i4")}, r"photo_size must be two numbers >= 1"),
        ({**OWN, "photo_size": np.array([0, 3], "i4")}, r"photo_size must be two numbers >= 1"),
        ({**OWN, "provenance": np.array(3)}, r"provenance must be an array as write_maps"),
        ({key: OWN[key] for key in ("format", "class_ids")}, r"maps must be an array as .*None"),
        ({key: OWN[key] for key in ("format", "class_ids", "maps")}, r"or have a scale or a size"),
        ({**BITS, "size": np.array([3, 6], "i4")}, r"packed masks .* got uint8 \(2, 2\), int32"),
        ({**BITS, "size": np.array([2, 4], "i4")}, r"packed masks must be"),
        ({**BITS, "size": np.array([-3, -4], "i4")}, r"packed masks must be"),
        ({**BITS, "size": np.array([12], "i4")}, r"packed masks must be"),
        ({**BITS, "size": np.array([2**31 - 1] * 2, "i8")}, r"packed masks must be"),
        ({**BITS, "maps": np.zeros((2, 2, 2), "u1")}, r"packed masks must be"),
    ],
)
def test_damaged_files_of_our_own_are_refused(tmp_path, entries, message):
    np.savez(tmp_path / "a.npz", **entries)
    with pytest.raises(ValueError, match=message):
        read_maps(tmp_path / "a.npz")


@pytest.mark.parametrize("code", [0xD800, 0x110000, 2**32 - 1])
def test_characters_that_do_not_exist(tmp_path, code):
    np.savez(tmp_path / "a.npz", **OWN, provenance=np.array("abc"))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["provenance.npy"] = entries["provenance.npy"][:-4] + struct.pack("<I", code)
    with pytest.raises(ValueError, match="can't decode"):
        read_maps(zip_of(tmp_path / "a.npz", entries.items()))


def test_strings_of_the_other_byte_order(tmp_path):
    np.savez(tmp_path / "a.npz", **OWN, provenance=np.array("日本").astype(">U5"))
    assert read_maps(tmp_path / "a.npz").provenance == "日本"


def test_our_own_file_is_bounded(tmp_path):
    cues = np.zeros((4, 1000, 1000), bool)
    write_maps(tmp_path / "cues", cues, range(1, 5))
    write_maps(tmp_path / "maps", cues[:1].astype(np.float32), [1])
    assert (tmp_path / "cues").stat().st_size < 2**12
    for name in ("cues", "maps"):
        with peak_below(2**21), pytest.raises(ValueError, match="at most max_bytes = 1500000"):
            read_maps(tmp_path / name, max_bytes=1_500_000)


# ------------------------------------------------------------------------------------- SEC's cues


def sec_cues(shape, seed=0, tags=(2, 5)):
    cues = np.random.default_rng(seed).random(shape) < 0.2
    return SecCues(np.array(tags), cues)


def assert_equal_cues(read, written):
    assert list(read) == list(written)
    for key, each in written.items():
        np.testing.assert_array_equal(read[key].cues, each.cues)
        assert read[key].labels.tolist() == sorted(each.labels.tolist())


@pytest.mark.parametrize("name", ["cues.pickle", "cues.pickle.gz"])
@pytest.mark.parametrize("keys", [(0, 7, 12), ("2008_007028", "a_cues", "日本"), ("000", "1")])
def test_sec_cues_are_read_back(tmp_path, name, keys):
    written = {key: sec_cues((21, 41, 41), seed) for seed, key in enumerate(keys)}
    write_sec_cues(tmp_path / name, written)
    assert_equal_cues(read_sec_cues(tmp_path / name), written)
    first = (tmp_path / name).read_bytes()
    write_sec_cues(tmp_path / name, read_sec_cues(tmp_path / name))
    assert (tmp_path / name).read_bytes() == first


@settings(deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=15)),
    st.data(),
)
def test_sec_cues_of_any_shape(scratch, masks, data):
    tags = data.draw(st.lists(st.integers(1, len(masks)), unique=True)) if len(masks) > 1 else []
    tags = [tag for tag in tags if tag < len(masks)]
    written = {5: SecCues(np.array(tags, np.uint8), masks)}
    write_sec_cues(scratch, written)
    read = read_sec_cues(scratch, num_classes=len(masks), size=masks.shape[1:])
    assert_equal_cues(read, written)
    with scratch.open("rb") as file:
        unpickled = pickle.load(file)
    np.testing.assert_array_equal(unpickled["5_cues"], np.nonzero(masks))


@pytest.mark.parametrize("options", [{}, {"encoding": "latin1"}, {"encoding": "ASCII"}])
def test_pickle_reads_what_write_sec_cues_writes(tmp_path, options):
    cues = sec_cues((300, 200, 130))
    write_sec_cues(tmp_path / "a", {12: cues, 3: SecCues(np.array([], int), cues.cues & False)})
    with (tmp_path / "a").open("rb") as file:
        read = pickle.load(file, **options)
    assert list(read) == ["12_labels", "12_cues", "3_labels", "3_cues"]
    for key, expected in {
        "12_labels": [2, 5],
        "12_cues": np.nonzero(cues.cues),
        "3_labels": [],
        "3_cues": np.zeros((3, 0)),
    }.items():
        assert read[key].dtype == np.dtype("<i8")
        np.testing.assert_array_equal(read[key], expected)
    assert b"numpy._core" not in (tmp_path / "a").read_bytes()  # which NumPy 1 does not have


def test_sec_cues_by_an_image_list(tmp_path):
    names = tmp_path / "input_list.txt"
    names.write_text("b c.jpg 8\n\ndir/a.jpg 10\n")
    written = {"a": sec_cues((21, 41, 41)), "b c": sec_cues((21, 41, 41), 1)}
    write_sec_cues(tmp_path / "a", written, image_list=names)
    assert list(read_sec_cues(tmp_path / "a")) == [8, 10]
    read = read_sec_cues(tmp_path / "a", image_list=names)
    assert_equal_cues({key: read[key] for key in written}, written)
    with pytest.raises(ValueError, match="photos of cues must be in image_list, got 'd'"):
        write_sec_cues(tmp_path / "a", {"d": written["a"]}, image_list=names)
    with pytest.raises(ValueError, match="photos of cues must be in image_list, got 8"):
        write_sec_cues(tmp_path / "a", {8: written["a"]}, image_list=names)


def test_no_images(tmp_path):
    write_sec_cues(tmp_path / "a", {})
    assert len(read_sec_cues(tmp_path / "a")) == 0


CUES = sec_cues((21, 4, 5))


@pytest.mark.parametrize(
    ("cues", "error", "message"),
    [
        ([CUES], TypeError, r"cues must be a mapping of SecCues, got list"),
        ({0: CUES.cues}, TypeError, r"values of cues must be SecCues, got ndarray for 0"),
        ({1.5: CUES}, TypeError, r"keys of cues must be integers or strings, got 1\.5"),
        ({True: CUES}, TypeError, r"keys of cues must be integers or strings, got True"),
        ({-1: CUES}, ValueError, r"image indices must be in 0\.\.999999999, got -1"),
        ({10**9: CUES}, ValueError, r"image indices must be in 0\.\.999999999"),
        ({"": CUES}, ValueError, r"photo ids must be text of 1 to 900 bytes, got ''"),
        ({"日" * 301: CUES}, ValueError, r"photo ids must be text of 1 to 900 bytes"),
        ({"\udcff": CUES}, ValueError, r"photo ids must be text"),
        ({"12": CUES}, ValueError, r"photo ids that all look like .* got '12' first: pass them as"),
        ({"a": CUES, 3: CUES}, ValueError, r"keys of cues must be all indices or all photo ids"),
        ({0: CUES, 1: sec_cues((21, 5, 5))}, ValueError, r"must have one shape, got \(21, 5, 5\) "),
        ({0: sec_cues((4, 5))}, ValueError, r"cues\[0\]\.cues must have shape \(K, H, W\)"),
        ({0: sec_cues((4, 5, 5))}, ValueError, r"cues\[0\]\.labels must be in 1\.\.3, got 5"),
        ({0: sec_cues((9, 5, 5), 0, [0])}, ValueError, r"labels must be in 1\.\.8, got 0"),
        ({0: sec_cues((9, 5, 5), 0, [2, 2])}, ValueError, r"labels must be distinct, of shape"),
        ({0: sec_cues((9, 5, 5), 0, [0.5])}, TypeError, r"labels must have any integer dtype"),
        ({0: SecCues(np.array([1]), CUES.cues * 1)}, TypeError, r"\.cues must have dtype bool"),
    ],
)
def test_wrong_cues_write_nothing(tmp_path, cues, error, message):
    with pytest.raises(error, match=message):
        write_sec_cues(tmp_path / "a", cues)
    assert list(tmp_path.iterdir()) == []


@needs_data(SEC)
def test_the_published_cues_are_written_as_they_are(tmp_path):
    cues = read_sec_cues(SEC)
    some = {index: cues[index] for index in list(cues)[:300]}
    write_sec_cues(tmp_path / "a", some)
    with gzip.open(SEC) as published, (tmp_path / "a").open("rb") as written:
        expected = pickle.load(published, encoding="latin1")
        read = pickle.load(written)
    assert len(read) == 600
    for key, array in read.items():
        assert array.dtype == expected[key].dtype
        np.testing.assert_array_equal(array, expected[key])


# ------------------------------------------------------------------------------------------ masks


def run_lengths(mask):
    """COCO's uncompressed run lengths, pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(rle):
    """The characters of COCO's maskApi, written from its description."""
    text = ""
    counts = rle["counts"]
    for i, count in enumerate(counts):
        number = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            piece = number & 31
            number >>= 5
            more = number != (-1 if piece & 16 else 0)
            text += chr(48 + piece + 32 * more)
    return {"size": rle["size"], "counts": text}


def as_records(segmentations):
    """What SAM's mask generator returns."""
    return [
        {
            "segmentation": segmentation,
            "area": 7,
            "bbox": [1.0, 2, 3.5, 4],
            "predicted_iou": 0.9,
            "point_coords": [[3.5, 4.5]],
            "stability_score": 0.97,
            "crop_box": [0, 0, 9, 6],
        }
        for segmentation in segmentations
    ]


def write_folder(folder, masks):
    """As SAM's amg.py."""
    folder.mkdir(exist_ok=True)
    rows = ["id,area,bbox_x0,predicted_iou"]
    for i, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{i}.png")
        rows.append(f"{i},7,1.0,0.9")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


MASKS = RNG.random((12, H, W)) < 0.3
MASKS[0] = False
MASKS[1] = True

FORMS = {
    "JSON, compressed": lambda masks: json.dumps(
        as_records([compressed(run_lengths(mask)) for mask in masks])
    ).encode(),
    "JSON, lists": lambda masks: json.dumps(
        as_records([run_lengths(mask) for mask in masks])
    ).encode(),
    "pickle, lists": lambda masks: pickle.dumps(as_records([run_lengths(mask) for mask in masks])),
    "pickle, compressed": lambda masks: pickle.dumps(
        as_records([compressed(run_lengths(mask)) for mask in masks]), 2
    ),
    "pickle, bytes": lambda masks: pickle.dumps(
        as_records(
            [
                {"size": mask.shape, "counts": compressed(run_lengths(mask))["counts"].encode()}
                for mask in masks
            ]
        )
    ),
    "pickle, bool": lambda masks: pickle.dumps(as_records(list(masks)), 3),
    "pickle, bool of other orders": lambda masks: pickle.dumps(
        as_records([np.asfortranarray(mask) for mask in masks]), 5
    ),
}


def check_masks(read, expected):
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)
    assert read.flags.c_contiguous
    assert read.flags.writeable


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_masks_of_a_file(tmp_path, form):
    (tmp_path / "a").write_bytes(form(MASKS))
    check_masks(read_masks(tmp_path / "a"), MASKS)


def test_masks_of_a_folder(tmp_path):
    folder = write_folder(tmp_path / "a", MASKS)
    (folder / "overview.png").write_bytes(b"not a mask")
    check_masks(read_masks(folder), MASKS)  # 10.png after 9.png
    lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\r\n".join([lines[0], *lines[:0:-1], ""]))
    check_masks(read_masks(folder), MASKS[::-1])


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i4", "<i8", "u2"])
def test_label_maps(tmp_path, dtype):
    labels = RNG.integers(0, 9, (H, W)).astype(dtype)
    if labels.dtype.kind == "i":
        labels[2, 3] = -1
    for each in (labels, np.asfortranarray(labels)):
        np.save(tmp_path / "a.npy", each)
        check_masks(read_masks(tmp_path / "a.npy"), labels.astype(np.int32))


def test_masks_are_superpixels(tmp_path):
    cues = MAPS[:, ::2, ::2] > 0.5
    labels = RNG.integers(-1, 4, (H, W))
    np.save(tmp_path / "labels.npy", labels)
    stack = labels == np.arange(4)[:, None, None]
    (tmp_path / "stack").write_bytes(FORMS["JSON, compressed"](stack))
    first = cuekit.snap_cues(cues, read_masks(tmp_path / "labels.npy"))
    second = cuekit.snap_cues(cues, read_masks(tmp_path / "stack"))
    np.testing.assert_array_equal(first[:, labels >= 0], second[:, labels >= 0])


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)))
def test_run_lengths_are_decoded(scratch, mask):
    for segmentation in (compressed(run_lengths(mask)), run_lengths(mask)):
        scratch.write_text(json.dumps(as_records([segmentation])))
        check_masks(read_masks(scratch), mask[None])


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)))
def test_run_lengths_are_those_of_pycocotools(scratch, mask):
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encoded["counts"].decode() == compressed(run_lengths(mask))["counts"]
    segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    scratch.write_text(json.dumps(as_records([segmentation])))
    check_masks(read_masks(scratch), mask[None])


def test_long_runs(tmp_path):
    """Counts of several pieces, rising and falling."""
    mask = np.zeros((700, 900), bool)
    mask[300:, 20:400] = True
    mask[:5, 500] = True
    mask[-1, -1] = True
    for form in ("JSON, compressed", "pickle, lists"):
        (tmp_path / "a").write_bytes(FORMS[form]([mask, ~mask]))
        check_masks(read_masks(tmp_path / "a"), np.stack([mask, ~mask]))


def json_of(size=(6, 9), counts=(54,), **fields):
    record = {"segmentation": {"size": list(size), "counts": counts}, **fields}
    return json.dumps([record]).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"must be a folder of SAM's, a JSON list, .* got first bytes b''"),
        (b"{}", r"got first bytes b'\{\}'"),
        (b"[", r"a JSON of masks must be whole and undamaged, got: Expecting value"),
        (b"[" * 10**6, r"must be whole and undamaged|recursion"),
        (b"[]", r"a list of masks must have at least one mask, got none"),
        (b"[1]", r"masks must be a list of dicts, got a list of 1 items"),
        (b"[{}]", r"must be a dict of size and counts, or a bool array, got None for mask 0"),
        (b"[\xff]", r"must be whole and undamaged"),
        (b"[" + b"9" * 5000 + b"]", r"must be whole and undamaged"),
        (json_of((6, 9, 1)), r"a mask's size must be \[height, width\], got a list of 3 items"),
        (json_of((6, -9)), r"a mask's size must be two integers >= 1, got \(6, -9\)"),
        (json_of((6, 0)), r"a mask's size must be two integers >= 1"),
        (json_of((6, True)), r"a mask's size must be two integers >= 1"),
        (json_of((6.0, 9)), r"a mask's size must be two integers >= 1"),
        (json_of((6, 2**31)), r"a mask's size must be two integers >= 1"),
        (json_of((2**30, 2**30)), r"at most max_bytes = 1048576 bytes, got 1152921504606846976"),
        (json_of(counts=None), r"counts of a mask must be text or integers, got None"),
        (json_of(counts=[54.0]), r"counts of a mask must be text or integers, got a list of 1"),
        (json_of(counts=[53]), r"counts of a mask of 6 x 9 must add up to 54"),
        (json_of(counts=[]), r"must add up to 54"),
        (json_of(counts=""), r"must add up to 54"),
        (json_of(counts=[55, -1]), r"integers >= 0, got others"),
        (json_of(counts=[2**63]), r"integers >= 0, got others"),
        (json_of(counts=[2**61] * 8), r"counts of a mask must be in 0\.\.54, got others"),
        (json_of(counts=[54] * 9), r"must add up to 54"),
        (json_of(counts="/"), r"compressed counts must be whole, in '0' to 'o', got '/'"),
        (json_of(counts="p"), r"compressed counts must be whole"),
        (json_of(counts="日"), r"compressed counts must be whole"),
        (json_of(counts="\ud800"), r"compressed counts must be whole"),
        (json_of(counts="P"), r"compressed counts must be whole"),
        (json_of(counts="P" * 7 + "0"), r"a compressed count must have at most 7 characters"),
        (json_of(counts="o" * 6 + "0"), r"counts of a mask must be in 0\.\.54, got others"),
        (json_of(counts="O"), r"counts of a mask must be in 0\.\.54, got others"),
        (
            json.dumps(as_records([run_lengths(MASKS[2]), run_lengths(MASKS[3, 1:])])).encode(),
            r"masks must have one size, got \(5, 9\) for mask 1 after \(6, 9\)",
        ),
        (pickle.dumps({"a": 1}), r"masks must be a list of dicts, got dict"),
        (pickle.dumps([]), r"at least one mask, got none"),
        (pickle.dumps(as_records([MASKS])), r"masks must have shape \(H, W\)"),
        (pickle.dumps(as_records([MASKS[0, :0]])), r"masks must have shape \(H, W\), H and W >= 1"),
        (pickle.dumps(as_records([MASKS[0] * 1])), r"or a bool array, got int64 array"),
        (pickle.dumps([]) + b"x", r"nothing may follow the pickle's STOP"),
    ],
)
def test_other_masks_are_refused(scratch, data, message):
    scratch.write_bytes(data)
    with peak_below(16 * 2**20), pytest.raises(ValueError, match=message) as caught:
        read_masks(scratch, max_bytes=2**20)
    assert str(caught.value).startswith(f"{scratch}: ")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (MASKS, r"must be a label map, integers \(H, W\), got bool \(12, 6, 9\)"),
        (MAPS[0], r"must be a label map, integers \(H, W\), got float32"),
        (np.array([{}], object), r"must be a label map, integers \(H, W\), got objects \(1,\)"),
        (np.zeros((0, 3), int), r"at least one pixel, got shape \(0, 3\)"),
        (np.full((2, 2), -2), r"labels must be in -1\.\.2147483647, -1 = in no mask, got -2"),
        (np.full((2, 2), 2**31), r"labels must be in -1\.\.2147483647, .* got 2147483648"),
        (np.zeros((400, 400), int), r"at most max_bytes = 1048576 bytes, got 1280000"),
    ],
)
def test_other_arrays_are_no_masks(scratch, array, message):
    with scratch.open("wb") as file:
        np.save(file, array)
    with pytest.raises(ValueError, match=message):
        read_masks(scratch, max_bytes=2**20)


def test_a_label_map_is_whole(scratch):
    with scratch.open("wb") as file:
        np.save(file, np.zeros((3, 4), np.int32))
    data = scratch.read_bytes()
    for wrong, message in ((data[:-1], "must have 48 bytes"), (data + b"x", "nothing may follow")):
        scratch.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            read_masks(scratch)


def test_wrong_folders(tmp_path):
    folder = write_folder(tmp_path / "a", MASKS[:3])
    table = folder / "metadata.csv"
    whole = table.read_text()

    def refused(message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            read_masks(folder, **options)

    refused("at most max_bytes = 100 bytes, got 162 for 3 of 6 x 9", max_bytes=100)
    table.write_text(whole.rsplit("\n", 1)[0])
    refused("must list all numbered PNGs, got 2 rows for 3 PNGs")
    table.write_text(whole + "\n3,7")
    refused("must list all numbered PNGs, got 4 rows for 3 PNGs")
    table.write_text(whole.replace("\n2,", "\n7,"))
    refused("7.png", FileNotFoundError)
    for wrong in ("../1", "1.5", "01", "", "x" * 5000):
        table.write_text(whole.replace("\n2,", f"\n{wrong},"))
        refused("the ids in metadata.csv must be numbers, got")
    table.write_text(whole.replace("\n2,", "\n1,"))
    refused("ids in metadata.csv must be distinct")
    for wrong in ("", "\n", "area,id\n1,2"):
        table.write_text(wrong)
        refused("metadata.csv must begin with a column id, got")
    table.write_bytes(b"\xff")
    refused("decode")
    table.write_text("id\n")
    refused("must list all numbered PNGs, got 0 rows for 3 PNGs")
    table.write_text(whole)
    Image.fromarray(MASKS[0, 1:].astype(np.uint8)).save(folder / "1.png")
    refused(r"masks must have one size, got \(5, 9\) in 1\.png after \(6, 9\)")
    Image.fromarray(np.full((H, W), 254, np.uint8)).save(folder / "1.png")
    refused(r"the pixels of masks must be 0 and 255, got others in 1\.png")
    (folder / "1.png").write_bytes(b"x")
    refused(r"1\.png: a label image must be a whole")
    for path in folder.glob("*.png"):
        path.unlink()
    table.write_text("id\n")
    refused("a folder of masks must have at least one mask, got none")
    table.unlink()
    refused("metadata.csv", FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        read_masks(tmp_path / "none")


def test_mutated_masks_are_refused_or_read(tmp_path):
    rng = np.random.default_rng(9)
    path = tmp_path / "damaged"
    for form in FORMS.values():
        data = form(MASKS[:4])
        for _ in range(4 * EXAMPLES // len(FORMS) + 1):
            path.write_bytes(mutate(data, rng))
            try:
                read = read_masks(path, max_bytes=2**20)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017
            else:
                assert read.dtype == bool
                assert read.ndim == 3
