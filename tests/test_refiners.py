"""docs/refiners.md and the script that measures its tables."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from common import ROOT, needs
from test_evidence import blob, maps_of, photo_of_a_disc

import cuekit
from cuekit.io import Maps

SCRIPT = ROOT / "benchmarks" / "refiners.py"
if not SCRIPT.exists():
    pytest.skip("needs benchmarks/refiners.py: run the tests in a clone", allow_module_level=True)
spec = importlib.util.spec_from_file_location("benchmark_of_refiners", SCRIPT)
refiners = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = refiners
spec.loader.exec_module(refiners)

OF_MAPS, OF_CUES, Photo = refiners.OF_MAPS, refiners.OF_CUES, refiners.Photo
PAGE = refiners.PAGE.read_text(encoding="utf-8")


def rows_of(name):
    table = PAGE.split(f"<!-- table: {name} -->")[1].split("<!-- /table -->")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("name", "rows"), [("maps", OF_MAPS), ("cues", OF_CUES)])
def test_the_page_has_the_rows_of_the_script(name, rows):
    found = rows_of(name)[2:]
    assert [(row[0], row[1]) for row in found] == [(each.name, each.masks) for each in rows]


def test_the_page_has_all_changes():
    found = rows_of("changed")
    heads = [head.split(", against")[0] for head in found[0]]
    assert heads == ["photos", *(each.name for each in refiners.OF_CHANGED)]
    assert [row[0] for row in found[2:]] == [*refiners.CHANGES]


def test_python_of_the_page_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    photo, mask = photo_of_a_disc()
    maps = cuekit.resize_maps(blob((9, 12), (4, 5), 2)[None], photo.shape[:2])
    names = {"cuekit": cuekit, "photo": photo, "maps": maps}
    exec(block, names)  # noqa: S102
    assert (names["labels"] == mask).mean() > 0.8


@pytest.fixture(scope="module")
def disc():
    photo, mask = photo_of_a_disc()
    maps = blob((9, 12), (5, 6), 2)[None].astype(np.float32)
    features = np.concatenate([maps, maps])
    return Photo(photo, mask.astype(np.uint8) * 3, [maps_of(maps, features=features)] * 2)


@pytest.mark.parametrize("refiner", OF_MAPS, ids=lambda each: each.name)
def test_refiners_of_maps_label_a_disc(refiner, disc):
    """A threshold refines nothing; ToCo's is so high that little of the disc is left."""
    labels = refiner.labels(disc.pixels, disc.sets)
    known = (labels != 255) & (labels > 0)
    assert labels.shape == disc.truth.shape
    assert (labels[known] == 3).all()
    assert (disc.truth[known] == 3).mean() > 0.4
    assert known.sum() > 0.05 * (disc.truth == 3).sum()


@pytest.mark.parametrize("refiner", OF_CUES, ids=lambda each: each.name)
def test_refiners_of_cues_label_a_disc(refiner, disc):
    cue = (blob((9, 12), (5, 6), 2) > 0.5).astype(np.float32)
    background = (blob((9, 12), (5, 6), 2) < 0.1).astype(np.float32)
    cues = [Maps(cue[None], np.array([3]), background, "cuekit")]
    labels = refiner.labels(disc.pixels, cues)
    assert {*np.unique(labels)} <= {0, 3, 255}
    assert (disc.truth[labels == 3] == 3).mean() > 0.6
    assert (labels == 3).sum() > 0.3 * (disc.truth == 3).sum()


def test_maps_are_turned_with_the_photo(disc):
    left = refiners.turned(disc, np.rot90)
    assert left.pixels.shape == (120, 90, 3)
    assert left.sets[0].maps.shape == (1, 12, 9)
    assert np.array_equal(left.pixels, np.rot90(disc.pixels))
    assert np.array_equal(left.sets[0].maps[0], np.rot90(disc.sets[0].maps[0]))
    assert np.array_equal(left.sets[1].features[1], np.rot90(disc.sets[1].features[1]))
    assert np.array_equal(left.truth, np.rot90(disc.truth))


def test_a_window_has_its_objects_only(disc):
    middle = refiners.cropped(disc, 0.5, 0.5)
    assert np.array_equal(middle.pixels, disc.pixels[22:67, 30:90])
    assert np.array_equal(middle.truth, disc.truth[22:67, 30:90])
    assert middle.sets[0].maps.shape == (1, 45, 60)
    y, x = np.unravel_index(middle.sets[0].maps[0].argmax(), (45, 60))
    assert max(abs(y + 22 - 50), abs(x + 30 - 60)) < 6  # less than a cell
    corner = disc._replace(truth=np.zeros_like(disc.truth))
    assert refiners.cropped(corner, 0, 1).sets[0].maps.shape == (0, 45, 60)


def test_photos_are_resized_and_maps_are_not(disc):
    large = refiners.resized(disc, 240)
    assert large.pixels.shape == (180, 240, 3)
    assert np.array_equal(large.truth[::2, ::2], disc.truth)
    assert large.sets is disc.sets


def test_figures():
    """Two photos: `psa` finds half of an object, the other refiner all of it and as much again."""
    truth = np.zeros((4, 8), np.uint8)
    truth[:, :2] = 8
    widths = {"`psa`": 1, "other": 4, "none": 0}
    rows = [
        refiners.Refiner(name, lambda photo, _, width=width: np.where(photo[..., 0] < width, 8, 0))
        for name, width in widths.items()
    ]
    photo = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None], (4, 8, 3))
    found = refiners.measure(rows, iter([Photo(photo, truth, [])] * 2), 2)
    psa, other, none = refiners.figures(rows, found)
    # IoU of background 24/28 and of cat 4/8; then 16/24 and 8/16; then 24/32 and 0.
    assert psa[:5] == ["67.9 [67.9, 67.9]", "–", "100", "50", "0"]
    assert other[:5] == ["58.3 [58.3, 58.3]", "-9.5 [-9.5, -9.5]", "50", "100", "0"]
    assert (none[0], *none[2:5]) == ("37.5 [37.5, 37.5]", "0", "0", "100")


def test_tables_are_written_between_their_markers(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: maps -->\nold\n<!-- /table -->\nb\n<!-- table: cues -->\n")
    monkeypatch.setattr(refiners, "PAGE", page)
    refiners.write("maps", "new\n")
    text = "a\n<!-- table: maps -->\nnew\n<!-- /table -->\nb\n<!-- table: cues -->\n"
    assert page.read_text() == text
    with pytest.raises(ValueError, match=r"page.md has no <!-- table: cues --> ... <!-- /table"):
        refiners.write("cues", "new\n")
    assert page.read_text() == text


def test_the_example_draws_its_steps(tmp_path, monkeypatch):
    needs("matplotlib")
    needs("skimage")
    monkeypatch.syspath_prepend(ROOT / "examples")
    import evidence

    for name in ("evidence", "picture"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--out", str(tmp_path / "steps.png")])
    evidence.main()
    assert (tmp_path / "steps.png").stat().st_size > 100_000
