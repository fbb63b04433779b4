"""Recipes that take several photos at once, `cuekit labels --batch`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cuekit import io, run

RECIPE = '''
import os, signal, time
import numpy as np

def one(photo, maps, tags=None, *, offset=0):
    if photo[0, 0, 0] == 255:
        raise KeyError("no such thing")
    return (maps.class_ids[maps.maps.argmax(0)] + offset).astype(np.uint8)

def many(photos, maps, tags, *, offset=0):
    """What `one` does, of a batch; photos and maps of one must have one shape."""
    with open("sizes", "a") as file:
        file.write(f"{len(photos)} ")
    np.stack(photos)
    np.stack([each.maps for each in maps])
    assert len(photos) == len(maps) == len(tags)
    if any(photo[0, 0, 0] == 254 for photo in photos):
        os.kill(os.getpid(), signal.SIGKILL)
    if any(photo[0, 0, 0] == 253 for photo in photos):
        time.sleep(1000)
    return [one(*each, offset=offset) for each in zip(photos, maps, tags)]

def few(photos, maps, tags):
    return many(photos, maps, tags)[:1]

def masked(photos, maps, tags, *, masks):
    return [each[0].astype(np.uint8) * 7 for each in masks]

def squares(photos, maps, tags):
    """Labels of a wrong shape of one photo."""
    found = many(photos, maps, tags)
    return [each[:3] if photo[0, 0, 0] == 252 else each for each, photo in zip(found, photos)]
'''
# Number of photos of each size.
SIZES = {(6, 9): 7, (9, 6): 4, (5, 5): 1}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "batch_recipes", raising=False)
    Path("batch_recipes.py").write_text(RECIPE)
    Path("photos").mkdir()
    Path("maps").mkdir()
    for i, size in enumerate(size for size, count in SIZES.items() for _ in range(count)):
        write_photo(f"{i:02}", size)
        maps = np.random.default_rng(i).random((2, *size), np.float32)
        io.write_maps(f"maps/{i:02}.npz", maps, [3, 17], encoding="float16")


def write_photo(name, size=(6, 9), red=0):
    pixels = np.random.default_rng(1).integers(0, 250, (*size, 3), np.uint8)
    pixels[0, 0, 0] = red
    Image.fromarray(pixels).save(f"photos/{name}.png")


def labels(recipe="many", out="out", **options):
    """Run in this process, unless `options` say otherwise."""
    import batch_recipes

    return run.labels("photos", "maps", out, getattr(batch_recipes, recipe), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.png")}


def sizes():
    return Path("sizes").read_text().split()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        # 4 batches of 3 photos are looked at together.
        (3, ["3", "3", "1", "3", "1", "1"]),
        (100, ["7", "4", "1"]),
        (1, ["1"] * 12),
        (None, ["1"] * 12),
    ],
)
def test_photos_of_one_size_are_put_together(batch, expected):
    found = labels(batch=batch, options={"offset": 1})
    assert (found.written, found.failed) == (12, {})
    assert sizes() == expected
    labels("one", "single", options={"offset": 1})
    assert contents("out") == contents("single")
    assert labels(batch=5, options={"offset": 1}).kept == 12


def test_maps_of_other_shapes_are_in_other_batches():
    io.write_maps("maps/01.npz", np.zeros((3, 6, 9), np.float32), [1, 2, 3], encoding="float16")
    assert labels(batch=100).failed == {}
    assert sizes() == ["6", "1", "4", "1"]


def test_one_bad_photo_is_one_failure():
    write_photo("02", red=255)
    Path("photos/03.png").write_bytes(b"no photo")
    Path("photos/04.png").unlink()
    found = labels(batch=8)
    assert sorted(found.failed) == ["02", "03", "04"]
    assert found.failed["02"].startswith("KeyError: 'no such thing' (batch_recipes.py, line ")
    assert found.written == 9


def test_results_are_checked_one_by_one():
    write_photo("02", red=252)
    found = labels("squares", batch=8)
    assert list(found.failed) == ["02"]
    assert "a recipe must return integers of shape (6, 9), got uint8 (3, 9)" in found.failed["02"]
    found = labels("few", "few", batch=8)
    # Each photo alone is right.
    assert (found.written, found.failed) == (12, {})


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_photo_that_ends_its_process_takes_no_other_with_it():
    write_photo("02", red=254)
    write_photo("10", (9, 6), red=253)
    found = labels(batch=2, jobs=2, timeout=2)
    assert found.failed == {
        "02": "the worker process was ended by SIGKILL",
        "10": "the worker process was ended after 2 s, the time limit",
    }
    assert found.written == 10


def test_masks_are_lists_too():
    Path("masks").mkdir()
    for path in Path("photos").glob("*.png"):
        with Image.open(path) as photo:
            masks = np.ones((1, photo.height, photo.width), bool)
        rows = [{"segmentation": {"size": list(masks.shape[1:]), "counts": [0, masks.size]}}]
        Path(f"masks/{path.stem}.json").write_text(json.dumps(rows))
    found = labels("masked", batch=4, masks="masks")
    assert found.pixels == {7: 6 * 9 * 11 + 25}


def test_a_dry_run_and_tars():
    assert len(labels(batch=4, dry_run=True).samples) == 3
    assert labels(batch=4, shard_size=5).written == 12
    labels("one", "single")
    assert run.evaluate("out", "single").matrix.trace() == 6 * 9 * 11 + 25


@pytest.mark.parametrize("recipe", ["one", "evidence"])
def test_recipes_of_one_photo_take_no_batches(recipe):
    with pytest.raises(ValueError, match=rf"batch must be left out .*, such as .*{recipe}"):
        labels(recipe, batch=4) if recipe == "one" else run.labels("photos", "maps", "o", batch=4)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        labels(batch=0)
