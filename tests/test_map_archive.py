"""`io.MapArchive`: the maps of many photos in one .npz."""

import warnings
import zipfile

import numpy as np
import pytest
from common import DATA, needs_data

from cuekit.io import MapArchive

RNG = np.random.default_rng(0)


def arrays(name, classes=(3, 17), size=(4, 5), dtype=np.float16):
    maps = RNG.random((len(classes), *size)).astype(dtype)
    return {
        f"{name}/cams": maps,
        f"{name}/classes": np.array(classes),
        f"{name}/background": RNG.random(size),
        f"{name}/features": RNG.random((2, 3, 7), np.float32),
        f"{name}/scores": np.array(["anything"]),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_was_written_is_read(tmp_path, save):
    written = arrays("a") | arrays("x/b", (2,), (7, 2), np.float64)
    del written["x/b/background"], written["x/b/features"], written["x/b/scores"]
    save(tmp_path / "maps.npz", **written)
    with MapArchive(tmp_path / "maps.npz") as archive:
        assert archive.names == ("a", "x/b")
        for name in (*archive.names, *archive.names):
            maps = archive.read(name)
            np.testing.assert_array_equal(maps.maps, written[f"{name}/cams"])
            assert maps.maps.dtype == written[f"{name}/cams"].dtype
            np.testing.assert_array_equal(maps.class_ids, written[f"{name}/classes"])
            assert maps.format == "archive"
        np.testing.assert_array_equal(archive.read("a").features, written["a/features"])
        expected = written["a/background"].astype(np.float16)
        np.testing.assert_array_equal(archive.read("a").background, expected)
        assert maps.background is None
        assert maps.features is None


def test_memory_orders(tmp_path):
    maps = np.asfortranarray(RNG.random((2, 4, 5))).astype(">f4")
    np.savez(tmp_path / "a.npz", **{"a/cams": maps, "a/classes": np.array([1, 2], ">i2")})
    with MapArchive(tmp_path / "a.npz") as archive:
        read = archive.read("a")
    assert read.maps.dtype == np.float32
    assert read.maps.flags.c_contiguous
    assert read.maps.flags.writeable
    np.testing.assert_array_equal(read.maps, maps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a/classes": None}, "an archive of maps must have classes of each photo, got none"),
        ({"a/classes": np.array([1])}, "classes must have 2 entries to match cams, got 1"),
        ({"a/classes": np.array([0, 1])}, "classes must be at least 1, the first class, got 0"),
        ({"a/classes": np.array([4, 4])}, r"must be distinct and in 0..65534, got \[4, 4\]"),
        ({"a/classes": np.array([-1, 4])}, r"must be distinct and in 0..65534, got \[-1, 4\]"),
        (
            {"a/classes": np.array([1.0, 4.0])},
            "classes must have 1 axes and be integers, got float",
        ),
        ({"a/cams": np.zeros((2, 4, 5), int)}, "cams must have 3 axes and be floats, got int64"),
        (
            {"a/cams": np.zeros((2, 4))},
            r"cams must have 3 axes and be floats, got float64 \(2, 4\)",
        ),
        ({"a/cams": np.zeros((2, 0, 5))}, r"cams must have 3 axes .* \(2, 0, 5\)"),
        ({"a/background": np.zeros((4, 4))}, r"background must have shape \(4, 5\) to match cams"),
        ({"a/features": np.zeros((4, 4))}, r"features must have 3 axes and be floats"),
    ],
)
def test_wrong_entries(tmp_path, change, message):
    written = {name: array for name, array in (arrays("a") | change).items() if array is not None}
    np.savez(tmp_path / "maps.npz", **written)
    with (
        MapArchive(tmp_path / "maps.npz") as archive,
        pytest.raises(ValueError, match=rf"maps.npz, a: {message}|maps.npz, a: .*{message}"),
    ):
        archive.read("a")


def test_wrong_files(tmp_path):
    (tmp_path / "a").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match="a: a zip file must be whole and undamaged"):
        MapArchive(tmp_path / "a")
    np.savez(tmp_path / "b.npz", cams=np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"b.npz: an archive must have NAME/cams for each photo"):
        MapArchive(tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError, match="none"):
        MapArchive(tmp_path / "none")
    with pytest.raises(TypeError, match="path must be a path"):
        MapArchive(3)
    np.savez(tmp_path / "c.npz", **arrays("c"))
    with MapArchive(tmp_path / "c.npz") as archive:
        for name in ("d", "", "../c", "c/"):
            with pytest.raises(ValueError, match=r"c.npz, .*: the archive must have maps of this"):
                archive.read(name)


def test_sizes_are_limited_photo_by_photo(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays("a"), **arrays("b", size=(40, 50)))
    with MapArchive(tmp_path / "a.npz", max_bytes=2000) as archive:
        for _ in range(20):
            archive.read("a")
        with pytest.raises(ValueError, match="must have at most max_bytes = 2000 bytes together"):
            archive.read("b")


def test_more_photos_than_read_maps_takes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for i in range(3000):
            archive.writestr(f"{i}/cams.npy", b"")
    with MapArchive(tmp_path / "a.npz") as maps:
        assert len(maps.names) == 3000
        with pytest.raises(ValueError, match=r"a.npz, 7: "):
            maps.read("7")


def test_mutations_are_refused_or_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **arrays("a"))
    data = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(len(data)))] = int(rng.integers(256))
        (tmp_path / "b.npz").write_bytes(
            damaged[: int(rng.integers(len(data) // 2, 2 * len(data)))]
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with MapArchive(tmp_path / "b.npz") as archive:
                    assert archive.read(archive.names[0]).maps.dtype.kind == "f"
        except ValueError:
            refused += 1
    assert 500 < refused < 1000


@needs_data(DATA / "cams" / "color.npz")
def test_maps_of_real_classifiers():
    with (
        MapArchive(DATA / "cams" / "color.npz") as archive,
        np.load(DATA / "cams" / "color.npz") as file,
    ):
        assert len(archive.names) == 1022
        for name in archive.names[::100]:
            maps = archive.read(name)
            np.testing.assert_array_equal(maps.maps, file[f"{name}/cams"])
            np.testing.assert_array_equal(maps.class_ids, file[f"{name}/classes"])
            np.testing.assert_array_equal(maps.features, file[f"{name}/features"])
