"""`cuekit labels` and `cuekit.run.labels`: a folder of photos in, label images out.

The recipes of these tests are in a module of their own, written into the folder of each test:
worker processes import it.
"""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from common import CUEKIT, children, is_running
from PIL import Image

from cuekit import io, recipes, run
from cuekit.__main__ import main

RECIPES = '''
import os, signal, sys, time
import numpy as np

def strongest(photo, maps, tags=None, *, threshold=0.5):
    """The class of the largest value, where it is above a threshold; maps have the photo's size."""
    ids = np.concatenate([[0], maps.class_ids])
    background = np.full((1, *maps.maps.shape[1:]), threshold)
    labels = ids[np.concatenate([background, maps.maps]).argmax(0)].astype(np.uint8)
    if tags is not None:
        labels[~np.isin(labels, tags)] = 0
    return labels

def both(photo, maps, tags=None):
    assert [type(each).__name__ for each in maps] == ["Maps", "Maps"]
    return strongest(photo, maps[0]) | strongest(photo, maps[1])

def slow(photo, maps, tags=None, *, seconds=0.02):
    time.sleep(seconds)
    return strongest(photo, maps)

def fragile(photo, maps, tags=None):
    if photo[0, 0, 0] == 255:
        raise KeyError("no such thing")
    return strongest(photo, maps)

def crashing(photo, maps, tags=None):
    if photo[0, 0, 0] == 255:
        os.kill(os.getpid(), signal.SIGSEGV)
    return strongest(photo, maps)

def hanging(photo, maps, tags=None):
    if photo[0, 0, 0] == 255:
        time.sleep(1000)
    return strongest(photo, maps)

def talkative(photo, maps, tags=None):
    print("a recipe may print")
    sys.stdin.read()
    return strongest(photo, maps)

def leaving(photo, maps, tags=None):
    sys.exit("goodbye")

def first_mask(photo, maps, tags=None, *, masks):
    return masks[0].astype(np.uint8) * 7

def of_floats(photo, maps, tags=None):
    return np.zeros(photo.shape[:2])

def transposed(photo, maps, tags=None):
    return np.zeros(photo.shape[1::-1], int)

def too_large(photo, maps, tags=None):
    return np.full(photo.shape[:2], 256)
'''
COMMAND = ["labels", "--photos", "photos", "--maps", "maps"]
pytestmark = pytest.mark.usefixtures("place")
SIZE = (6, 9)  # height and width of photos


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module of recipes, 7 photos and their maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("run_recipes", None)
    (tmp_path / "run_recipes.py").write_text(RECIPES)
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    (tmp_path / "maps" / "inner").mkdir(parents=True)
    for i, name in enumerate([*"abcdef", "inner/g"]):
        write_photo(tmp_path / "photos" / f"{name}.png", i)
        write_maps(tmp_path / "maps" / f"{name}.npz", i)
    return tmp_path


def write_photo(path, seed, red=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
    pixels[0, 0, 0] = red
    Image.fromarray(pixels).save(path)


def write_maps(path, seed, size=SIZE):
    maps = np.random.default_rng(seed).random((2, *size), np.float32)
    io.write_maps(path, maps, [3, 17], encoding="float16")


def labels(recipe="run_recipes:strongest", out="out", maps="maps", **options):
    return run.labels("photos", maps, out, recipe, **options)


def expected(name, threshold=0.5):
    maps = io.read_maps(f"maps/{name}.npz").maps
    background = np.full((1, *SIZE), threshold)
    return np.array([0, 3, 17])[np.concatenate([background, maps]).argmax(0)]


def contents(folder):
    """Return all label files of a folder, and nothing else of it."""
    paths = sorted(Path(folder).rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


NAMES = [*"abcdef", "inner/g"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_labels_are_those_of_the_recipe(jobs):
    found = labels(jobs=jobs)
    assert (found.photos, found.written, found.kept, found.failed) == (7, 7, 0, {})
    pixels = np.zeros(256, int)
    for name in NAMES:
        written = io.read_labels(f"out/{name}.png")
        np.testing.assert_array_equal(written, expected(name))
        pixels += np.bincount(written.ravel(), minlength=256)
    assert found.pixels == {i: pixels[i] for i in (0, 3, 17)}
    assert sorted(contents("out")) == sorted(f"{name}.png" for name in NAMES)
    assert Path("out/failures.csv").read_text() == "name,reason\n"
    assert not Path("out/.unfinished").exists()


def test_the_command_does_the_same(capsys):
    arguments = [*COMMAND, "--recipe", "run_recipes:strongest"]
    assert main([*arguments, "--out", "a", "--quiet"]) == 0
    assert "7 written, 0 kept" in capsys.readouterr().out
    labels(out="b")
    assert contents("a") == contents("b") != {}
    assert main([*arguments, "--out", "c", "--option", "threshold=0.9", "--quiet"]) == 0
    np.testing.assert_array_equal(io.read_labels("c/a.png"), expected("a", 0.9))
    assert contents("c") != contents("b")


def test_the_default_is_evidence_and_says_if_it_saw_masks(capsys):
    assert main([*COMMAND, "--out", "a", "--limit", "1", "--quiet"]) == 0
    assert "evidence were fitted to masks" in capsys.readouterr().out
    plain = ["--option", "weights=tags-only"]
    assert main([*COMMAND, "--out", "b", "--limit", "1", "--quiet", *plain]) == 0
    assert "masks" not in capsys.readouterr().out
    photo, maps = io.read_photo("photos/a.png"), io.read_maps("maps/a.npz")
    for out, weights in (("a", "position"), ("b", "tags-only")):
        wanted = recipes.evidence(photo, maps, weights=weights)
        np.testing.assert_array_equal(io.read_labels(f"{out}/a.png"), wanted)


def test_a_whole_process():
    command = [sys.executable, "-m", "cuekit", "labels", "--photos", "photos", "--maps", "maps"]
    command += ["--out", "out", "--recipe", "run_recipes:strongest", "--jobs", "2"]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(contents("out")) == 7


def test_functions_are_recipes_too():
    import run_recipes

    labels(out="named")
    labels(run_recipes.strongest, out="function", jobs=2)
    assert contents("named") == contents("function")

    def local(photo, maps, tags=None):
        return run_recipes.strongest(photo, maps, tags)

    assert labels(local, out="local").written == 7
    with pytest.raises(ValueError, match=r"importable|worker processes can import, got .*local"):
        labels(local, out="local2", jobs=2)


def test_archives_and_several_classifiers(place):
    arrays = {}
    for i, name in enumerate(NAMES):
        maps = io.read_maps(f"maps/{name}.npz")
        arrays |= {f"{name}/cams": maps.maps, f"{name}/classes": maps.class_ids}
        write_maps(place / "maps" / f"{name}.npz", i + 100)
    np.savez("all.npz", **arrays)
    assert labels(out="one", maps="all.npz", jobs=2).written == 7
    labels(out="other")
    labels("run_recipes:both", out="both", maps=["all.npz", "maps"])
    for name in NAMES:
        of_one, of_other = io.read_labels(f"one/{name}.png"), io.read_labels(f"other/{name}.png")
        np.testing.assert_array_equal(io.read_labels(f"both/{name}.png"), of_one | of_other)


# ------------------------------------------------------------------------------------- resuming


def test_a_second_call_keeps_what_is_complete():
    assert labels(names=["a", "inner/g"]).written == 2
    found = labels(jobs=2)
    assert (found.written, found.kept) == (5, 2)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    found = labels()
    assert (found.written, found.kept) == (0, 7)
    assert found.pixels == labels(out="new").pixels
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    ],
)
def test_a_file_that_exists_is_not_taken_for_complete(place, damage):
    labels()
    before = contents("out")
    damage(place / "out" / "c.png")
    found = labels()
    assert (found.written, found.kept) == (1, 6)
    assert contents("out") == before


def test_photos_and_maps_that_changed_are_done_again(place):
    labels()
    write_maps(place / "maps" / "b.npz", 99)
    write_photo(place / "photos" / "d.png", 98)
    found = labels()
    assert (found.written, found.kept) == (2, 5)
    np.testing.assert_array_equal(io.read_labels("out/b.png"), expected("b"))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_journal_that_was_cut_loses_one_photo(place, cut):
    labels()
    journal = place / "out" / "journal.jsonl"
    before = contents("out")
    journal.write_bytes(journal.read_bytes()[:-cut])
    found = labels()
    # Cutting the last newline only leaves the entry whole.
    assert (found.written, found.kept) == ((0, 7) if cut == 1 else (1, 6))
    assert labels().kept == 7
    assert contents("out") == before


def test_lines_of_any_content_in_a_journal_are_ignored():
    labels(names=["a"])
    with Path("out/journal.jsonl").open("ab") as file:
        file.write(b'\n[]\n3\nnull\n{"name": 3}\n\xff\xfe\n{"name": ["a"], "time": 1}\n')
        file.write(b'{"name": "b", "time": "x"}\n{"name": "b", "time": 1, "state": "done"}\n')
    assert labels().written == 6


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"options": {"threshold": 0.4}}, r"options: \{\} there, \{\"threshold\": 0.4\} now"),
        ({"recipe": "run_recipes:slow"}, "recipe: "),
        ({"maps": "maps2"}, "maps: "),
        ({"tags": {name: [3] for name in NAMES}}, "the tags are not the same"),
        ({"maps_format": "cuekit"}, "reading: "),
    ],
)
def test_other_settings_are_refused(options, what):
    shutil.copytree("maps", "maps2")
    labels()
    before = contents("out")
    with pytest.raises(ValueError, match=f"made with other settings: .*{what}"):
        labels(**options)
    assert contents("out") == before
    assert labels().kept == 7


def test_a_folder_without_labels_takes_other_settings():
    failed = labels("run_recipes:of_floats")
    assert (len(failed.failed), "pixels" in str(failed)) == (7, False)
    assert labels(dry_run=True).done == 0
    found = labels()
    assert (found.written, found.failed, failures()) == (7, {}, {})
    assert json.loads(Path("out/run.json").read_text())["recipe"] == "run_recipes:strongest"


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_a_damaged_manifest(text):
    labels()
    before = contents("out")
    Path("out/run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run.json must be (a JSON object|JSON)"):
        labels()
    assert contents("out") == before


def test_a_recipe_that_was_edited_is_another_recipe(place):
    labels()
    (place / "run_recipes.py").write_text(RECIPES + "\n# edited\n")
    with pytest.raises(ValueError, match="the file of the recipe has changed"):
        labels()


def test_a_folder_of_other_files_is_refused():
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=r"must be empty or the folder of an earlier run, got a.png"
    ):
        labels()
    assert Path("out/a.png").read_bytes() == b"mine"


# ------------------------------------------------------------------------------------- failures


def failures(path="out/failures.csv"):
    with Path(path).open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "reason"]
    return dict(rows[1:])


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("recipe", ["fragile", "crashing"])
def test_a_bad_photo_is_listed_and_the_others_are_done(place, jobs, recipe):
    write_photo(place / "photos" / "b.png", 0, red=255)
    photo = place / "photos" / "c.png"
    photo.write_bytes(photo.read_bytes()[:-30])
    (place / "photos" / "d.png").unlink()
    (place / "maps" / "e.npz").write_bytes(b"PK\x03\x04 is no archive")
    write_maps(place / "maps" / "f.npz", 0, SIZE[::-1])
    found = labels(f"run_recipes:{recipe}", jobs=jobs)
    assert (found.written, sorted(contents("out"))) == (2, ["a.png", "inner/g.png"])
    assert failures() == found.failed
    crash = "the worker process was ended by SIGSEGV"
    fault = r"KeyError: 'no such thing' \(run_recipes.py, line \d+\)"
    assert re.fullmatch(crash if recipe == "crashing" else fault, found.failed["b"])
    assert "c.png: a photo must be a whole, undamaged picture" in found.failed["c"]
    assert found.failed["d"] == "photos has no photos of d"
    assert "e.npz: a zip file must be whole" in found.failed["e"]
    assert "proportions of the photo, 6 x 9, or be square, got 9 x 6" in found.failed["f"]


def test_a_recipe_that_leaves_the_program():
    found = labels("run_recipes:leaving", jobs=2)
    assert set(found.failed.values()) == {"the recipe called sys.exit('goodbye')"}


def test_a_file_with_the_name_of_a_module_of_python(place):
    (place / "json.py").write_text("raise ImportError('not me')")
    assert labels(jobs=2).written == 7


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_photo_that_takes_too_long_is_listed(place, jobs):
    write_photo(place / "photos" / "b.png", 0, red=255)
    write_photo(place / "photos" / "e.png", 0, red=255)
    begin = time.monotonic()
    found = labels("run_recipes:hanging", jobs=jobs, timeout=1)
    # Two photos of a second, one after the other or at once, and starts of processes.
    assert time.monotonic() - begin < 30
    reason = "the worker process was ended after 1 s, the time limit"
    assert found.failed == {"b": reason, "e": reason}
    assert failures() == found.failed
    assert (found.written, len(contents("out"))) == (5, 5)
    labels(out="other", names=["a", "c", "d", "f", "inner/g"])
    assert contents("out") == contents("other")


def test_exit_status_and_retries(place, capsys):
    write_photo(place / "photos" / "b.png", 0, red=255)
    command = [*COMMAND, "--out", "out", "--recipe", "run_recipes:fragile"]
    assert main(command) == 1
    assert "b failed: KeyError: 'no such thing'" in capsys.readouterr().err
    assert main(command) == 1  # it is still without labels
    assert "0 written, 6 kept from earlier, 1 failed of 7" in capsys.readouterr().out
    write_photo(place / "photos" / "b.png", 0)  # another photo: it is tried without being asked to
    assert main(command) == 0
    assert failures() == {}
    assert len(contents("out")) == 7


def test_failed_photos_are_tried_again_when_asked(place):
    (place / "flag.py").write_text("BAD = True")
    (place / "run_recipes.py").write_text(
        "import numpy as np, pathlib\n"
        "def sometimes(photo, maps, tags=None):\n"
        "    if pathlib.Path('bad').exists(): raise ValueError('bad day')\n"
        "    return np.zeros(photo.shape[:2], int)\n"
    )
    Path("bad").touch()
    assert set(labels("run_recipes:sometimes").failed.values()) == {"bad day"}
    Path("bad").unlink()
    assert len(labels("run_recipes:sometimes").failed) == 7
    assert labels("run_recipes:sometimes", retry_failed=True).written == 7
    assert failures() == {}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("of_floats", r"a recipe must return integers of shape \(6, 9\), got float64 \(6, 9\)"),
        ("transposed", r"a recipe must return integers of shape \(6, 9\), got int64 \(9, 6\)"),
        ("too_large", r"labels must be in 0..255, got 256"),
    ],
)
def test_results_that_are_no_labels(recipe, reason):
    found = labels(f"run_recipes:{recipe}", names=["a"])
    assert re.search(reason, found.failed["a"])
    assert contents("out") == {}


def test_a_full_disk_stops_the_run(monkeypatch):
    import run_recipes

    recipe = run_recipes.strongest  # a function: this process does the work, so it can be patched
    labels(recipe, names=["a"])

    def write_bytes(_path, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="labels cannot be written: No space left on device"):
            labels(recipe)
    found = labels(recipe)
    assert (found.kept, len(contents("out"))) == (1, 7)


@pytest.mark.parametrize("out", ["photos/d.png/out", "photos/d.png", "/proc/out"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_that_cannot_be_made(out, jobs, capsys):
    command = [*COMMAND, "--recipe", "run_recipes:strongest"]
    assert main([*command, "--out", out, "--jobs", str(jobs)]) == 2
    assert capsys.readouterr().err.startswith("cuekit labels: ")


# ------------------------------------------------------------------------------ what is asked for


def test_lists_parts_and_limits():
    Path("list.txt").write_text("b\n\nf.png\ninner/g\nnone\n")
    found = labels(names="list.txt")
    assert sorted(contents("out")) == ["b.png", "f.png", "inner/g.png"]
    assert found.failed == {"none": "photos has no photos of none"}
    assert labels(out="limited", limit=2).written == 2
    assert sorted(contents("limited")) == ["a.png", "b.png"]
    for part in range(1, 4):
        labels(out="parts", part=(part, 3))
    labels(out="whole")
    assert contents("parts") == contents("whole")
    assert (labels(out="parts").kept, labels(out="parts", part=(2, 7)).kept) == (7, 1)
    assert Path("parts/failures-2-of-3.csv").exists()


def test_tags():
    tags = {name: [3] for name in NAMES[:-1]}
    found = labels(tags=tags)
    assert found.failed == {"inner/g": "tags must list every photo, got none for inner/g"}
    assert set(found.pixels) == {0, 3}
    Path("tags.txt").write_text("\n".join(f"{name} 3" for name in NAMES[:-1]))
    assert labels(tags="tags.txt").kept == 6  # the same tags, from a file


def test_masks(place):
    Path("masks").mkdir()
    mask = np.random.default_rng(0).integers(0, 2, (1, *SIZE)).astype(bool)
    for name in "ab":
        folder = place / "masks" / name
        folder.mkdir()
        Image.fromarray(mask[0].astype(np.uint8) * 255).save(folder / "0.png")
        (folder / "metadata.csv").write_text("id,area\n0,1\n")
    found = labels("run_recipes:first_mask", masks="masks", names=["a", "b", "c"])
    np.testing.assert_array_equal(io.read_labels("out/b.png"), mask[0] * 7)
    assert found.failed == {"c": "masks has no masks of c"}
    with pytest.raises(ValueError, match="recipe run_recipes:first_mask needs masks"):
        labels("run_recipes:first_mask", out="x")
    with pytest.raises(ValueError, match="masks must be left out for a recipe that takes none"):
        labels(out="x", masks="masks")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_recipe_prints_is_no_answer(jobs, capfd):
    assert labels("run_recipes:talkative", jobs=jobs).written == 7
    assert "a recipe may print" in capfd.readouterr().err


def test_a_dry_run_writes_nothing(place, capsys):
    (place / "photos" / "d.png").unlink()
    write_photo(place / "photos" / "unused.png", 0)
    before = sorted(place.rglob("*"))
    command = [*COMMAND, "--out", "out", "--recipe", "run_recipes:strongest"]
    assert main([*command, "--dry-run"]) == 1
    text = capsys.readouterr().out
    assert "7 photos, 0 done already, at least 1 would fail, 1 more in the folder" in text
    assert "has format cuekit, float16 (2, 6, 9), class ids [3, 17]" in text
    assert "fails: photos has no photos of d" in text
    assert sorted(path for path in place.rglob("*") if "pycache" not in str(path)) == [
        path for path in before if "pycache" not in str(path)
    ]
    labels()
    assert labels(dry_run=True).done == 6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"recipe": "sharpest"}, ValueError, "recipe must be .*'sharpest'"),
        ({"recipe": "no_module:f"}, ValueError, "recipe 'no_module:f' must be a function"),
        (
            {"recipe": "run_recipes:none"},
            ValueError,
            "recipe 'run_recipes:none' must be a function",
        ),
        ({"recipe": 3}, TypeError, "recipe must be a name or a function, got 3"),
        ({"options": {"treshold": 1}}, ValueError, "threshold, got 'treshold'"),
        ({"recipe": "psa", "options": {"alpha": "big"}}, TypeError, "alpha must be"),
        ({"recipe": "irn", "options": {"params": "foo"}}, ValueError, "params must be .*'foo'"),
        ({"recipe": "./run_recipes.py:slow"}, ValueError, "pass run_recipes:slow, in the folder"),
        ({"maps_format": "foo"}, ValueError, "format must be one of 'auto', .* got 'foo'"),
        (
            {"maps": "run_recipes.py"},
            ValueError,
            "maps must be a folder .* or one .npz, got run_rec",
        ),
        ({"recipe": "sepl"}, ValueError, "recipe sepl needs masks"),
        ({"recipe": "sepl", "options": {"masks": 1}}, ValueError, "options must be .* got 'masks'"),
        ({"options": {"threshold": {1, 2}}}, TypeError, "options must be numbers"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"part": (4, 3)}, ValueError, "part must be i of n with i <= n, got 4 of 3"),
        ({"out": "photos"}, ValueError, "out must be apart from photos"),
        ({"out": "maps/out"}, ValueError, "out must be apart from maps"),
        ({"maps": "none"}, FileNotFoundError, "none"),
        ({"maps": []}, ValueError, "maps must name at least one"),
        ({"names": ["a", "a"]}, ValueError, "names must be distinct, got 'a' twice"),
        ({"names": ["../a"]}, ValueError, "must be a path within a folder, got '../a'"),
        ({"names": ["x"]}, ValueError, "no photo asked for has a photo and maps .* for 'x'"),
        ({"names": "none.txt"}, FileNotFoundError, "none.txt"),
        ({"tags": "none.txt"}, FileNotFoundError, "none.txt"),
    ],
)
def test_wrong_requests(change, error, message):
    with pytest.raises(error, match=message):
        labels(**change)
    assert not Path("out").exists()


# ------------------------------------------------------------------------------- being stopped


def started(*options, **keywords):
    command = [*CUEKIT, *COMMAND, "--out", "out", "--recipe", "run_recipes:slow", *options]
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def many_photos(count=80):
    for i in range(count):
        shutil.copy("photos/a.png", f"photos/{i:03}.png")
        shutil.copy("maps/a.npz", f"maps/{i:03}.npz")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals(jobs, number, figures):
    many_photos()
    process = started("--jobs", str(jobs))
    wait_for(lambda: len(contents("out")) >= 5)
    workers = children(process.pid)
    assert len(workers) == jobs
    begin = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    seconds = time.monotonic() - begin
    # A process that is killed cannot end its workers: they end after the photo in work.
    wait_for(lambda: not any(map(is_running, workers)), 10)
    figures.append(f"{number.name} ends cuekit labels --jobs {jobs} in {seconds:.2f} s")
    assert "Traceback" not in errors
    assert process.returncode == {2: 130, 15: 143, 9: -9}[number]
    done = contents("out")
    assert 5 <= len(done) < 80
    assert len(set(done.values())) < 5  # all of the same photo: no file is partial
    if number != signal.SIGKILL:
        assert not Path("out/.unfinished").exists()
        assert "written" not in output
    entries = len(Path("out/journal.jsonl").read_text().splitlines())
    assert 0 <= len(done) - entries <= jobs
    found = labels("run_recipes:slow", options={}, jobs=2)
    assert found.failed == {}
    assert found.kept >= len(done) - jobs
    assert len(contents("out")) == 87


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_two_runs_into_one_folder():
    many_photos()
    process = started("--jobs", "2")
    try:
        wait_for(lambda: Path("out/journal.jsonl").exists())
        with pytest.raises(OSError, match="another run is writing into out"):
            labels("run_recipes:slow")
        with pytest.raises(OSError, match="another run is writing into out"):
            labels("run_recipes:slow", part=(1, 3))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert labels("run_recipes:slow", limit=10).failed == {}  # the lock went with the process


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_parts_run_at_once():
    many_photos(30)
    processes = [started("--part", f"{part}/3", "--option", "seconds=0.01") for part in (1, 2, 3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len(contents("out")) == 37
    assert labels("run_recipes:slow", options={"seconds": 0.01}).kept == 37


def test_progress_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("cuekit.run._progress._PERIOD", 0)
    labels(progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("7 of 7 photos, ")
    assert lines[-1].endswith("0 s left, 0 failed")


def test_the_manifest_can_be_read_by_others(place):
    labels(options={"threshold": 0.25})
    settings = json.loads(Path("out/run.json").read_text())
    assert settings["recipe"] == "run_recipes:strongest"
    assert settings["options"] == {"threshold": 0.25}
    assert settings["photos"] == str(place / "photos")
