"""Photos, maps and labels in object stores and in tars: the same labels as from folders.

The object store is a server of S3 in this process, of moto.
"""

import io as streams
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import object_store
import pytest
from object_store import label_files as objects
from PIL import Image

from cuekit import io, run
from cuekit.run import _storage
from cuekit.run._storage import Remote, files_of, local_file, place

RECIPE = """
import numpy as np
def strongest(photo, maps, tags=None):
    return maps.class_ids[maps.maps.argmax(0)].astype(np.uint8)
def first_mask(photo, maps, tags=None, *, masks):
    return masks[0].astype(np.uint8) * 7
"""
SIZE = (6, 9)
NAMES = [*"abcdef", "inner/g"]
# s3fs and moto leave connections open, which are warnings at the end of a test.
pytestmark = [pytest.mark.usefixtures("data"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with a recipe, 7 photos and their maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stored_recipe", raising=False)
    (tmp_path / "stored_recipe.py").write_text(RECIPE)
    for i, name in enumerate(NAMES):
        write_photo(f"photos/{name}.png", i)
        write_maps(f"maps/{name}.npz", i)
    return tmp_path


def write_photo(path, seed):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_maps(path, seed):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    maps = np.random.default_rng(seed).random((2, *SIZE), np.float32)
    io.write_maps(path, maps, [3, 17], encoding="float16")


@pytest.fixture(scope="module")
def server():
    if not object_store.is_installed():
        pytest.skip("needs s3fs and moto: pip install 'cuekit[test-cluster]'")
    with object_store.s3_server():
        yield


@pytest.fixture
def bucket(server, tmp_path):  # noqa: ARG001 - it must run
    """An empty bucket and its file system."""
    return object_store.new_bucket(f"bucket-{abs(hash(tmp_path)) % 10**9}")


def labels(photos="photos", maps="maps", out="out", **options):
    return run.labels(photos, maps, out, "stored_recipe:strongest", **options)


def contents(folder):
    paths = sorted(Path(folder).rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --------------------------------------------------------------------------------------- S3


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_in_a_store(bucket, jobs):
    store, url = bucket
    for folder in ("photos", "maps"):
        store.put(folder, f"{url}/{folder}", recursive=True)
    local = labels()
    found = labels(f"{url}/photos", f"{url}/maps", f"{url}/out", jobs=jobs)
    assert (found.written, found.failed, found.pixels) == (7, {}, local.pixels)
    assert objects(store, f"{url}/out") == contents("out")
    assert store.cat_file(f"{url}/out/failures.csv") == b"name,reason\n"
    assert json.loads(store.cat_file(f"{url}/out/run.json"))["photos"] == f"{url}/photos"
    assert f"7 photos in 0 s: {url}/out" in str(found) or f": {url}/out" in str(found)
    found = labels(f"{url}/photos", f"{url}/maps", f"{url}/out", jobs=jobs)
    assert (found.written, found.kept, found.pixels) == (0, 7, local.pixels)


@pytest.mark.parametrize("which", ["photos", "maps", "out"])
def test_one_of_them_in_a_store(bucket, which):
    store, url = bucket
    labels()
    if which != "out":
        store.put(which, f"{url}/{which}", recursive=True)
    found = labels(**{"out": "mixed", which: f"{url}/{which}"})
    assert found.written == 7
    made = objects(store, f"{url}/out") if which == "out" else contents("mixed")
    assert made == contents("out")


def test_what_changed_in_a_store_is_done_again(bucket):
    store, url = bucket
    store.put("maps", f"{url}/maps", recursive=True)
    arguments = {"maps": f"{url}/maps", "out": f"{url}/out"}
    labels(**arguments)
    write_maps("maps/b.npz", 99)
    store.put_file("maps/b.npz", f"{url}/maps/b.npz")
    store.rm_file(f"{url}/out/c.png")
    store.pipe_file(f"{url}/out/d.png", b"cut")
    data = store.cat_file(f"{url}/out/e.png")
    store.pipe_file(f"{url}/out/e.png", data[:-1] + b"x")  # of the same size: the ETag tells
    found = labels(**arguments)
    assert (found.written, found.kept) == (4, 3)
    labels(out="local")
    assert objects(store, f"{url}/out") == contents("local")


def test_a_run_that_stops_is_resumed(bucket, monkeypatch):
    store, url = bucket
    assert labels(out=f"{url}/out", limit=3).written == 3
    put = _storage.put

    def without_journal(target, data):
        if "journal" in target:
            raise OSError("the network is down")
        put(target, data)

    monkeypatch.setattr(_storage, "put", without_journal)
    with pytest.raises(OSError, match="the network is down"):
        labels(out=f"{url}/out", limit=5)
    monkeypatch.setattr(_storage, "put", put)
    assert len(objects(store, f"{url}/out")) == 5
    found = labels(out=f"{url}/out")
    assert (found.written, found.kept) == (4, 3)  # those that no journal has are done again
    labels(out="local")
    assert objects(store, f"{url}/out") == contents("local")


def test_failures_and_other_settings(bucket):
    store, url = bucket
    store.put("photos", f"{url}/photos", recursive=True)
    store.pipe_file(f"{url}/photos/b.png", b"no photo")
    store.rm_file(f"{url}/photos/d.png")
    found = labels(f"{url}/photos", out=f"{url}/out")
    assert sorted(found.failed) == ["b", "d"]
    # The object is named, not the temporary copy that was read.
    assert found.failed["b"].startswith(f"{url}/photos/b.png: ")
    assert found.failed["d"] == f"{url}/photos has no photos of d"
    assert b"has no photos of d" in store.cat_file(f"{url}/out/failures.csv")
    with pytest.raises(ValueError, match="made with other settings: "):
        labels(out=f"{url}/out")


def test_a_dry_run_writes_no_object(bucket):
    store, url = bucket
    text = str(labels(out=f"{url}/out", dry_run=True))
    assert "7 photos, 0 done already" in text
    assert "are free" not in text
    assert store.find(url) == []
    labels(out=f"{url}/out")
    assert labels(out=f"{url}/out", dry_run=True).done == 7


def test_a_place_with_labels_of_others_is_refused(bucket):
    store, url = bucket
    store.pipe_file(f"{url}/out/a.png", b"mine")
    with pytest.raises(ValueError, match=r"must be empty or .* got a.png and no run.json"):
        labels(out=f"{url}/out")
    assert store.cat_file(f"{url}/out/a.png") == b"mine"


def test_wrong_places(bucket):
    _, url = bucket
    with pytest.raises(FileNotFoundError, match="has no photos"):
        labels(f"{url}/none")
    with pytest.raises(OSError, match="bucket"):
        labels("s3://no-such-bucket-here/photos")
    with pytest.raises(ValueError, match="out must be apart from"):
        labels(maps="maps", photos=url_with_photos(bucket), out=f"{url}/photos/out")
    with pytest.raises(FileNotFoundError, match="has no masks"):
        labels(masks=f"{url}/masks")
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        labels(names=f"{url}/none.txt")
    with pytest.raises(OSError, match=r"none\.npz"):
        labels(maps=f"{url}/none.npz")


def test_an_archive_of_maps_in_a_store(bucket):
    store, url = bucket
    write_archive("cams.npz")
    store.put_file("cams.npz", f"{url}/cams.npz")
    labels(maps="cams.npz")
    found = labels(maps=f"{url}/cams.npz", out="stored", jobs=2)
    assert (found.written, found.failed) == (7, {})
    assert contents("stored") == contents("out")
    assert labels(maps=f"{url}/cams.npz", out="stored").kept == 7
    write_archive("cams.npz", seed=1)
    store.put_file("cams.npz", f"{url}/cams.npz")
    assert labels(maps=f"{url}/cams.npz", out="stored").written == 7
    store.pipe_file(f"{url}/cut.npz", Path("cams.npz").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^s3://.*cut\.npz: "):
        labels(maps=f"{url}/cut.npz")


def write_archive(path, seed=0):
    random = np.random.default_rng(seed)
    arrays = {f"{name}/cams": random.random((2, *SIZE), np.float32) for name in NAMES}
    np.savez(path, **arrays, **{f"{name}/classes": np.array([3, 17]) for name in NAMES})


@pytest.mark.parametrize("part", [None, (1, 1)])
def test_tars_out_into_a_store(bucket, part):
    store, url = bucket
    labels()
    found = labels(out=f"{url}/out", shard_size=3, jobs=2, part=part)
    assert (found.written, found.failed) == (7, {})
    assert stored_members(store, f"{url}/out") == contents("out")
    assert labels(out=f"{url}/out", shard_size=3, part=part).kept == 7
    write_maps("maps/b.npz", 99)
    assert labels(out=f"{url}/out", shard_size=3, part=part).written == 1
    labels()
    assert stored_members(store, f"{url}/out") == contents("out")
    assert run.evaluate(f"{url}/out", "out").matrix.trace() == 7 * SIZE[0] * SIZE[1]


def stored_members(store, url):
    """Return the content of all tars; each name must be there once."""
    store.invalidate_cache()
    found = {}
    for key in store.find(url):
        if key.endswith(".tar"):
            with tarfile.open(fileobj=streams.BytesIO(store.cat_file(key))) as archive:
                for member in archive:
                    assert member.name not in found
                    found[member.name] = archive.extractfile(member).read()
    return found


def url_with_photos(bucket):
    store, url = bucket
    store.put("photos", f"{url}/photos", recursive=True)
    return f"{url}/photos"


# ------------------------------------------------------------- any store: fsspec's in memory


@pytest.fixture
def memory():
    """An empty store of this process: recipes that are functions run in it."""
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install 'cuekit[remote]'")
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


def in_process(photos="photos", maps="maps", out="out", recipe="strongest", **options):
    import stored_recipe

    return run.labels(photos, maps, out, getattr(stored_recipe, recipe), **options)


def test_all_in_memory(memory):
    for folder in ("photos", "maps"):
        memory.put(folder, f"memory://{folder}", recursive=True)
    places = ("memory://photos", "memory://maps", "memory://out")
    local = labels()
    found = in_process(*places)
    assert (found.written, found.failed, found.pixels) == (7, {}, local.pixels)
    made = {key.removeprefix("/out/"): memory.cat_file(key) for key in memory.find("/out")}
    assert {key: data for key, data in made.items() if key.endswith(".png")} == contents("out")
    assert in_process(*places).kept == 7
    memory.rm_file("/out/b.png")
    memory.pipe_file("/maps/c.npz", Path("maps/d.npz").read_bytes())
    found = in_process(*places)
    assert (found.written, found.kept) == (2, 5)


def test_tars_in_memory(memory):
    labels()
    found = in_process(out="memory://out", shard_size=3)
    assert (found.written, found.failed) == (7, {})
    assert stored_members(memory, "/out") == contents("out")
    assert in_process(out="memory://out", shard_size=3).kept == 7
    memory.pipe_file("/out/labels-000001.tar", b"damaged")
    write_maps("maps/a.npz", 99)
    found = in_process(out="memory://out", shard_size=3)
    assert (found.written, found.kept) == (4, 3)
    labels()
    assert stored_members(memory, "/out") == contents("out")
    assert run.evaluate("memory://out", "out").names == tuple(NAMES)


def test_lists_tags_and_masks_in_a_store(memory):
    memory.pipe_file("/list.txt", b"a\nb.jpg\n")
    memory.pipe_file("/tags.json", json.dumps({name: [3] for name in NAMES}).encode())
    found = in_process(names="memory://list.txt", tags="memory://tags.json")
    assert (found.photos, found.failed) == (2, {})
    masks = [{"segmentation": {"size": SIZE, "counts": [0, SIZE[0] * SIZE[1]]}}]
    for name in "ab":
        memory.pipe_file(f"/masks/{name}.json", json.dumps(masks).encode())
    memory.pipe_file("/masks/c.json", b"[]")
    places = {"out": "masked", "recipe": "first_mask", "masks": "memory://masks"}
    found = in_process(**places, names=["a", "b", "c", "d"])
    assert found.pixels == {7: 2 * SIZE[0] * SIZE[1]}
    assert found.failed["c"].startswith("memory://masks/c.json: ")
    assert found.failed["d"] == "memory://masks has no masks of d"
    memory.pipe_file("/masks/a.json", json.dumps(masks * 2).encode())
    assert in_process(**places, names=["a", "b"]).written == 1
    memory.pipe_file("/list.txt", b"a b c\n")
    with pytest.raises(ValueError, match=r"^memory://list.txt, line 1: a line must hold one name"):
        in_process(names="memory://list.txt")
    memory.pipe_file("/tags.json", b"[3]")
    with pytest.raises(ValueError, match=r"^memory://tags.json: tags must be a dict"):
        in_process(tags="memory://tags.json")


def test_an_archive_of_maps_in_memory(memory):
    write_archive("cams.npz")
    memory.put_file("cams.npz", "/cams.npz")
    labels(maps="cams.npz")
    found = in_process(maps="memory://cams.npz", out="stored")
    assert (found.written, found.failed) == (7, {})
    assert contents("stored") == contents("out")
    assert in_process(maps="memory://cams.npz", out="stored").kept == 7
    memory.pipe_file("/cams.npz", b"no archive")
    with pytest.raises(ValueError, match=r"^memory://cams.npz: "):
        in_process(maps="memory://cams.npz", out="x")


# -------------------------------------------------------------------------------------- tars


def pack(folder, pattern, count=3):
    """Write the files of a folder into `count` tars."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for i in range(count):
        with tarfile.open(pattern.format(i), "w") as archive:
            for file in files[i::count]:
                archive.add(file, file.relative_to(folder).as_posix())


@pytest.mark.parametrize("jobs", [1, 2])
def test_tars_in(jobs):
    Path("shards").mkdir()
    pack("photos", "shards/photos-{:02}.tar")
    pack("maps", "shards/maps-{:02}.tar", count=2)
    labels()
    found = labels("shards/photos-{00..02}.tar", "shards/maps-*.tar", "from_tars", jobs=jobs)
    assert (found.written, found.failed) == (7, {})
    assert contents("from_tars") == contents("out")
    again = labels("shards/photos-{00..02}.tar", "shards/maps-*.tar", "from_tars", jobs=jobs)
    assert again.kept == 7
    os.utime("shards/maps-00.tar")  # a tar that changed: its members are done again
    again = labels("shards/photos-{00..02}.tar", "shards/maps-*.tar", "from_tars", jobs=jobs)
    assert again.written == 4


def test_tars_in_a_store(bucket):
    store, url = bucket
    Path("shards").mkdir()
    pack("photos", "shards/{}.tar")
    store.put("shards", f"{url}/shards", recursive=True)
    labels()
    found = labels(f"{url}/shards/{{0..2}}.tar", out=f"{url}/out")
    assert (found.written, found.failed) == (7, {})
    assert objects(store, f"{url}/out") == contents("out")


def one_tar(name, data=b"x", **fields):
    stream = streams.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for key, value in fields.items():
            setattr(member, key, value)
        archive.addfile(member, streams.BytesIO(data))
    Path("one.tar").write_bytes(stream.getvalue())
    return stream.getvalue()


def test_a_damaged_photo_in_a_tar_is_named():
    one_tar("a.jpg", b"no photo")
    found = labels("one.tar", names=["a"])
    assert found.failed["a"].startswith(f"{Path('one.tar').resolve()}: a.jpg: ")


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "b/../../a.jpg"])
def test_names_that_lead_out_are_refused(name):
    one_tar(name)
    with pytest.raises(ValueError, match="a name must be a path within a folder"):
        labels("one.tar")


def test_members_that_are_no_files():
    one_tar("a.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(FileNotFoundError, match="has no photos"):
        labels("one.tar")


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 700, b"x" * 5000, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_tar(content):
    Path("one.tar").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r"one\.tar"):
        labels("one.tar")


@pytest.mark.parametrize("cut", [1, 600, 1100])
def test_a_tar_that_was_cut(cut):
    """A member whose bytes are not all there fails, and no other bytes are taken for it."""
    data = one_tar("a.jpg", Path("photos/a.png").read_bytes() + bytes(2000))
    size = 512 + len(Path("photos/a.png").read_bytes()) + 2000
    Path("one.tar").write_bytes(data[: size - cut])
    try:
        found = labels("one.tar", names=["a"])
    except (ValueError, FileNotFoundError) as error:
        assert "one.tar" in str(error)  # noqa: PT017
    else:
        assert "must have" in found.failed["a"]


def test_one_photo_in_two_tars(data):
    Path("shards").mkdir()
    pack("photos", "shards/{}.tar", count=1)
    (data / "shards/1.tar").write_bytes((data / "shards/0.tar").read_bytes())
    found = labels("shards/{0..1}.tar")
    assert len(found.failed) == 7
    assert "must have one file of photos for each name, got " in found.failed["a"]
    with pytest.raises(ValueError, match=r"a range of shards must go up, .* got \{3..1\}"):
        labels("shards/{3..1}.tar")


# --------------------------------------------------------------------------------- locations


def test_paths_are_left_as_they_are():
    with local_file("photos/a.png") as path:
        assert path == "photos/a.png"
    assert place("out", "out") == Path("out")
    assert type(files_of("photos", [".png"], "photos")).__name__ == "Files"


def test_without_fsspec_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    _storage._made_store.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'cuekit\[remote\]'"):
        labels("s3://bucket/photos")


def test_parents_of_a_url():
    inner = Remote("s3://bucket/a/b")
    assert Remote("s3://bucket/a") in inner.parents
    assert Remote("s3://bucket/a/") not in inner.parents
    assert Remote("s3://bucket/a/").resolve() in inner.parents
    assert Remote("s3://bucket2") not in inner.parents
