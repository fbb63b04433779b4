"""`cuekit labels --shard-size`: the same labels in tars, each photo once, whatever ends a run."""

import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from common import CUEKIT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cuekit import io, run
from cuekit.run import _folder
from cuekit.run._shards import check_key
from cuekit.run._storage import label_files

RECIPE = """
import time
def strongest(photo, maps, tags=None, *, seconds=0.0):
    time.sleep(seconds)
    if photo[0, 0, 0] == 255:
        raise KeyError("no such thing")
    return maps.class_ids[maps.maps.argmax(0)].astype("uint8")
"""
SIZE = (6, 9)
NAMES = [*"abcdefg", "inner/h"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a recipe, 8 photos and their maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shard_recipe", raising=False)
    (tmp_path / "shard_recipe.py").write_text(RECIPE)
    for i, name in enumerate(NAMES):
        write_photo(name, i)
        write_maps(name, i)
    return tmp_path


def write_photo(name, seed, red=0):
    path = Path(f"photos/{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 250, (*SIZE, 3), np.uint8)
    pixels[0, 0, 0] = red
    Image.fromarray(pixels).save(path)


def write_maps(name, seed):
    path = Path(f"maps/{name}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    maps = np.random.default_rng(seed).random((2, *SIZE), np.float32)
    io.write_maps(path, maps, [3, 17], encoding="float16")


def labels(out="out", shard_size=3, **options):
    """Run in this process: a recipe that is a function."""
    import shard_recipe

    return run.labels(
        "photos", "maps", out, shard_recipe.strongest, shard_size=shard_size, **options
    )


def plain():
    """Return the label files of a run that writes no tars, of all photos as they are now."""
    shutil.rmtree("plain", ignore_errors=True)
    labels("plain", None)
    paths = Path("plain").rglob("*.png")
    return {path.relative_to("plain").as_posix(): path.read_bytes() for path in paths}


def members(folder="out"):
    """Return the content of all tars; each name must be there once."""
    found = {}
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in found, f"{member.name} twice"
                found[member.name] = archive.extractfile(member).read()
    return found


def sizes(folder="out"):
    found = {}
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as archive:
            found[path.name] = len(archive.getmembers())
    return found


# -------------------------------------------------------------------------------- what is written


def test_the_same_labels_in_tars():
    found = labels()
    assert (found.written, found.kept, found.failed) == (8, 0, {})
    assert found.pixels == labels("other", None).pixels
    assert sizes() == {"labels-000000.tar": 3, "labels-000001.tar": 3, "labels-000002.tar": 2}
    assert members() == plain()
    assert list(Path("out").rglob("*.png")) == []
    before = {path: path.read_bytes() for path in Path("out").glob("*.tar")}
    found = labels(shard_size=100)  # the size may change
    assert (found.written, found.kept) == (0, 8)
    assert {path: path.read_bytes() for path in Path("out").glob("*.tar")} == before


def test_the_command_with_two_jobs():
    command = [*CUEKIT, "labels", "--photos", "photos", "--maps", "maps", "--out", "out"]
    command += ["--recipe", "shard_recipe:strongest", "--jobs", "2", "--shard-size", "5"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603
    assert sizes() == {"labels-000000.tar": 5, "labels-000001.tar": 3}
    assert members() == plain()


def test_photos_that_fail_are_in_no_tar():
    write_photo("b", 1, red=255)
    Path("photos/d.png").unlink()
    found = labels()
    assert sorted(found.failed) == ["b", "d"]
    assert sorted(members()) == sorted(f"{name}.png" for name in NAMES if name not in "bd")
    assert labels().kept == 6
    write_photo("b", 1)
    assert labels().written == 1
    assert len(members()) == 7


def test_what_changed_is_written_again_and_once():
    labels()
    write_maps("b", 99)
    write_maps("inner/h", 98)
    found = labels()
    assert (found.written, found.kept) == (2, 6)
    assert members() == plain()
    # The tars that held the older labels have been written again, without them.
    assert sorted(sizes().values()) == [1, 2, 2, 3]
    assert labels().kept == 8


def test_a_photo_that_fails_after_it_was_done_is_replaced_when_it_is_mended():
    labels()
    write_photo("b", 1, red=255)
    assert list(labels().failed) == ["b"]
    write_photo("b", 77)
    assert labels().written == 1
    assert members() == plain()


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")]
)
def test_a_tar_that_is_lost_or_damaged_is_made_again(damage):
    labels()
    damage(Path("out/labels-000001.tar"))
    found = labels()
    assert (found.written, found.kept) == (3, 5)
    assert members() == plain()


def test_parts_leave_each_others_tars_alone():
    for number in (1, 2, 3):
        assert labels(part=(number, 3)).failed == {}
    assert sizes() == {
        f"labels-{number}-of-3-000000.tar": n for number, n in ((1, 3), (2, 3), (3, 2))
    }
    assert members() == plain()
    write_maps("a", 50)
    assert labels(part=(1, 3)).written == 1
    assert members() == plain()
    write_maps("b", 51)
    with pytest.raises(
        ValueError, match=r"labels-2-of-3-000000.tar has older labels of b, .* part"
    ):
        labels(part=(2, 2), names=["a", "b"])
    assert labels().written == 1  # a whole run may
    assert members() == plain()


def test_files_and_tars_are_not_mixed():
    labels()
    with pytest.raises(ValueError, match=r"only one of the runs writes tars \(--shard-size\)"):
        labels(shard_size=None)
    labels("plain", None)
    with pytest.raises(ValueError, match=r"only one of the runs writes tars"):
        labels("plain")
    Path("mine").mkdir()
    Path("mine/labels-000000.tar").write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=r"must be empty or .* got labels-000000.tar and no run.json"
    ):
        labels("mine")
    with pytest.raises(ValueError, match=r"shard_size must be at least 1, got 0"):
        labels(shard_size=0)


def test_a_dry_run_writes_nothing():
    found = labels(dry_run=True)
    assert (found.photos, found.done, found.failing) == (8, 0, {})
    assert not Path("out").exists()
    labels(limit=3)
    Path("out/labels-000000.tar").write_bytes(b"damaged")
    assert labels(dry_run=True).done == 0
    assert Path("out/labels-000000.tar").read_bytes() == b"damaged"


# ------------------------------------------------------------------------------------- interrupted


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written after it."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", range(10))
def test_a_driver_that_is_killed_anywhere(monkeypatch, count, after):
    """Before or after each of its writes, of which a cut one is the former or the latter."""
    labels(limit=6)
    write_maps("a", 60)
    write_maps("e", 61)
    done = 0

    def fatal(method):
        def call(self, *arguments):
            nonlocal done
            done += 1
            if done > count + after:
                raise Killed
            result = method(self, *arguments)
            if done > count:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("write_tar", "remove_tar", "record"):
            patch.setattr(_folder.OutputFolder, name, fatal(getattr(_folder.OutputFolder, name)))
        try:
            labels()
        except Killed:
            assert count < done
    members()
    assert labels().failed == {}
    assert members() == plain()
    assert labels().kept == 8


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_process_that_is_killed(name):
    for i in range(30):
        write_photo(f"many{i}", i)
        write_maps(f"many{i}", i)
    command = [*CUEKIT, "labels", "--photos", "photos", "--maps", "maps", "--out", "out"]
    command += ["--recipe", "shard_recipe:strongest", "--option", "seconds=0.03", "--jobs", "2"]
    process = subprocess.Popen([*command, "--shard-size", "4"], stderr=subprocess.PIPE)  # noqa: S603
    end = time.monotonic() + 60
    while not Path("out/labels-000001.tar").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    there = len(members())
    assert 8 <= there < 38
    subprocess.run([*command, "--shard-size", "9"], check=True, timeout=60)  # noqa: S603
    assert members() == plain()
    # Not all was done again.
    assert max(Counter(names_in_journal()).values()) == 1 or name == "SIGKILL"


def names_in_journal():
    lines = Path("out/journal.jsonl").read_text().splitlines()
    return [name for line in lines for name in re.findall('"name": "([^"]*)"', line)]


# ----------------------------------------------------------------------------------------- readers


def test_readers_take_a_folder_of_tars():
    labels()
    plain()
    for each in ("out", "out/labels-*.tar", "out/labels-{000000..000002}.tar"):
        found = run.evaluate(each, "plain")
        assert found.matrix.tolist() == run.evaluate("plain", "plain").matrix.tolist()
        assert found.names == tuple(NAMES)
    run.convert_labels("out", "converted")
    assert Path("converted/inner/h.png").exists()
    view = run.view("photos", ["out", "plain"], "view.html")
    assert view.photos == 8
    io.write_labels("plain/b.png", np.zeros((2, 2), np.uint8))
    found = run.evaluate("out", "plain")
    assert "labels-000000.tar: b.png: labels must have shape (2, 2)" in found.failures["b"]


def test_a_tar_of_another_name_beside_label_files_is_no_tar_of_labels():
    plain()
    Path("plain/labels.tar").write_bytes(b"a copy of somebody's")
    assert type(label_files("plain")).__name__ == "Files"


def is_name(text):
    """Whether a photo may have this name: paths of files, of which none begins with a dot."""
    return all(part and not part.startswith(".") for part in text.split("/"))


# The rule of WebDataset (tariterators.base_plus_ext, and its skip_meta).
KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
META = re.compile(r"__[^/]*__($|/)")


@given(st.text(st.sampled_from("a._/\n"), min_size=1, max_size=9).filter(is_name))
def test_names_are_keys_of_webdataset(name):
    try:
        check_key(name)
    except ValueError:
        key = KEY.match(f"{name}.png")
        wrong = key is None or key.groups() != (name, "png") or META.match(f"{name}.png")
        assert wrong or "\n" in name
    else:
        assert KEY.match(f"{name}.png").groups() == (name, "png")
        assert not META.match(f"{name}.png")


def test_a_name_that_is_no_key_is_listed():
    write_photo("x.y", 5)
    write_maps("x.y", 5)
    found = labels()
    assert found.written == 8
    assert found.failed["x.y"].startswith("in tars, a name must have no dot after its folders")


@pytest.mark.filterwarnings("ignore")  # it leaves files open
def test_webdataset_reads_them():
    reason = "needs webdataset: pip install webdataset"
    webdataset = pytest.importorskip("webdataset", reason=reason)
    labels()
    urls = sorted(map(str, Path("out").glob("*.tar")))
    read = webdataset.WebDataset(urls, shardshuffle=False)
    found = {each["__key__"]: each["png"] for each in read}
    assert found == {name.removesuffix(".png"): data for name, data in plain().items()}
