"""`cuekit convert`: maps and labels of a folder in other formats."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from common import CUEKIT
from PIL import Image

import cuekit
from cuekit import io, run
from cuekit.__main__ import main
from cuekit.classes import COCO, COCO_CATEGORY_IDS, VOC

pytestmark = pytest.mark.usefixtures("place")
LABELS = {"a": [[0, 1, 255]], "b": [[20, 20], [0, 7]], "inner/c": [[3]]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_labels(labels=LABELS, folder="labels", write=io.write_labels):
    for name, rows in labels.items():
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, np.array(rows))


def read_folder(folder, **options):
    paths = sorted(Path(folder).rglob("*.png"))
    return {
        path.relative_to(folder).with_suffix("").as_posix(): io.read_labels(
            path, **options
        ).tolist()
        for path in paths
    }


def write_psa(folder="cams", names=("a", "inner/b"), size=(8, 12)):
    rng = np.random.default_rng(0)
    for name in names:
        path = Path(folder) / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        maps = {each: rng.random(size, np.float32) for each in (2, 11)}
        np.save(path, maps, allow_pickle=True)


def no_ignore(rows):
    return [[0 if each == 255 else each for each in row] for row in rows]


# --------------------------------------------------------------------------------------------- maps


def test_maps_of_a_folder(capsys):
    write_psa()
    assert main(["convert", "--maps", "cams", "--out", "small", "--encoding", "float16"]) == 0
    report = capsys.readouterr().out.splitlines()
    assert report[0].startswith("2 written, 0 failed in ")
    assert report[0].endswith(": small")
    before = sum(path.stat().st_size for path in Path("cams").rglob("*.npy"))
    after = sum(path.stat().st_size for path in Path("small").rglob("*.npz"))
    assert report[1] == f"{before / 1e3:.1f} kB before, {after / 1e3:.1f} kB after"
    for name in ("a", "inner/b"):
        theirs, ours = io.read_maps(f"cams/{name}.npy"), io.read_maps(f"small/{name}.npz")
        assert ours.class_ids.tolist() == [3, 12]
        assert ours.provenance == "converted from format psa"
        assert ours.photo_size is None
        np.testing.assert_array_equal(ours.maps, theirs.maps.astype(np.float16))


def write_photos(names, size):
    for name in names:
        path = Path("photos", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


def test_maps_are_resized():
    write_psa()
    write_photos(("a", "inner/b"), (8, 12))
    theirs = io.read_maps("cams/a.npy")
    for i, (options, size, photo_size) in enumerate(
        (
            ({"stride": 4, "photos": "photos"}, (2, 3), (8, 12)),
            ({"stride": 5, "photos": "photos"}, (2, 3), (8, 12)),
            ({"size": (3, 5), "photos": "photos"}, (3, 5), (8, 12)),
            ({"size": (3, 5)}, (3, 5), None),
            ({"size": (99, 5)}, (8, 5), None),  # nothing is enlarged
        )
    ):
        found = run.convert_maps("cams", f"small{i}", encoding="float16", **options)
        assert (found.written, found.failed) == (2, {})
        ours = io.read_maps(f"small{i}/a.npz")
        assert ours.maps.shape == (2, *size)
        assert ours.photo_size == photo_size
        expected = cuekit.resize_maps(theirs.maps, size).astype(np.float16)
        np.testing.assert_array_equal(ours.maps, expected)


def test_a_stride_needs_the_size_of_the_photo():
    write_psa()
    found = run.convert_maps("cams", "small", stride=4)
    assert found.written == 0
    assert set(found.failed.values()) == {
        "the size of the photo must be known for a stride, got maps of 8 x 12 and no size: "
        "pass --photos (photos=), or --size (size=)"
    }
    write_photos(("a", "inner/b"), (12, 8))
    found = run.convert_maps("cams", "turned", stride=4, photos="photos")
    assert "proportions of the photo, 12 x 8" in found.failed["a"]


def test_files_of_others_stay():
    write_psa()
    write_labels({"a": LABELS["a"]})
    Path("mine").mkdir()
    Path("mine/a.png").write_bytes(b"mine")
    Path("list.txt").write_bytes(b"mine")
    for arguments in (
        ["--maps", "cams", "--out", "mine"],
        ["--labels", "labels", "--out", "mine"],
        ["--labels", "labels", "--to", "coco", "--out", "list.txt"],
        ["--labels", "labels", "--to", "label-studio", "--out", "list.txt"],
        ["--labels", "labels", "--to", "coco-panoptic", "--out", "mine.json"],
    ):
        assert main(["convert", *arguments]) == 2
    assert Path("mine/a.png").read_bytes() == Path("list.txt").read_bytes() == b"mine"
    assert [path.name for path in Path("mine").iterdir()] == ["a.png"]


def test_a_folder_has_one_setting():
    write_psa()
    run.convert_maps("cams", "small", size=(2, 3))
    assert run.convert_maps("cams", "small", size=(2, 3)).written == 2
    with pytest.raises(ValueError, match="got small, which was written with others"):
        run.convert_maps("cams", "small", size=(2, 4))


def test_background_cues_and_provenance_are_kept():
    Path("cams").mkdir()
    rng = np.random.default_rng(0)
    maps, background = rng.random((2, 8, 8), np.float32), rng.random((8, 8), np.float32)
    options = {"photo_size": (16, 16), "provenance": "me", "encoding": "float16"}
    io.write_maps("cams/a.npz", maps, [1, 2], background=background, **options)
    cues = np.arange(64).reshape(1, 8, 8) % 8 < 4
    io.write_maps("cams/b.npz", cues, [4], photo_size=(8, 8))
    run.convert_maps("cams", "small", stride=4, encoding="float16")
    ours = io.read_maps("small/a.npz")
    assert ours.maps.shape == (2, 4, 4)  # a stride of the photo's pixels
    assert ours.photo_size == (16, 16)
    assert ours.provenance == "me"
    half = background.astype(np.float16)
    np.testing.assert_array_equal(ours.background, cuekit.resize_maps(half[None], (4, 4))[0])
    small = io.read_maps("small/b.npz")
    assert small.maps.dtype == bool
    assert small.maps.tolist() == [[[True, False]] * 2]


def test_maps_of_an_archive():
    rng = np.random.default_rng(0)
    entries = {}
    for name in ("a", "inner/b"):
        entries[f"{name}/cams"] = rng.random((2, 4, 4), np.float32)
        entries[f"{name}/classes"] = np.array([1, 5])
    np.savez("all.npz", **entries)
    found = run.convert_maps("all.npz", "small", names=["a.jpg"])
    assert (found.written, found.bytes_before) == (1, Path("all.npz").stat().st_size)
    assert [path.name for path in Path("small").rglob("*.npz")] == ["a.npz"]
    step = 1 / 255  # of uint8 levels, for maps in [0, 1]
    np.testing.assert_allclose(io.read_maps("small/a.npz").maps, entries["a/cams"], atol=step)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bad_map_file_is_listed(capsys, jobs):
    write_psa(names="abc")
    Path("cams/b.npy").write_bytes(Path("cams/b.npy").read_bytes()[:100])
    Path("list.txt").write_text("a\nb\nc\nd\n")
    arguments = ["--maps", "cams", "--out", "small", "--list", "list.txt", "--jobs", jobs]
    assert main(["convert", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out.startswith("2 written, 2 failed in ")
    lines = sorted(output.err.splitlines())
    assert lines[0].startswith("b failed: cams/b.npy: ")
    assert lines[1] == "d failed: cams has no maps of d"
    assert sorted(path.name for path in Path("small").glob("[!.]*")) == ["a.npz", "c.npz"]


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("to", ["png", "colours"])
def test_labels_and_colours(to):
    write_labels()
    found = run.convert_labels("labels", "there", to)
    assert (found.written, found.failed) == (3, {})
    assert found.bytes_before == sum(p.stat().st_size for p in Path("labels").rglob("*.png"))
    assert found.bytes_after == sum(p.stat().st_size for p in Path("there").rglob("[!.]*.*"))
    colours = None if to == "png" else "voc"
    assert read_folder("there", colours=colours) == LABELS
    run.convert_labels("there", "back", colours=colours)
    assert read_folder("back") == LABELS
    if to == "colours":
        assert io.read_labelmap("there/labelmap.txt")[0] == VOC
        with Image.open("there/inner/c.png") as image:
            assert image.mode == "RGB"


def test_masks_of_cvat():
    """RGB in the colours of a labelmap.txt."""
    table = np.array([[0, 0, 0], [250, 50, 83], [36, 179, 83]], np.uint8)
    Path("cvat").mkdir()
    io.write_labelmap("labelmap.txt", ["background", "soil", "oat"], colours=table)
    Image.fromarray(table[[[0, 2], [1, 0]]]).save("cvat/a.png")
    arguments = ["--labels", "cvat", "--colours", "labelmap.txt", "--classes", "labelmap.txt"]
    assert main(["convert", *arguments, "--out", "ids"]) == 0
    assert read_folder("ids") == {"a": [[0, 2], [1, 0]]}


def test_labels_become_cocos_and_come_back():
    write_labels()
    found = run.convert_labels("labels", "coco.json", "coco", photo_suffix=".jpeg")
    assert (found.written, found.bytes_after) == (3, Path("coco.json").stat().st_size)
    truth = io.read_coco("coco.json")
    assert truth.classes == VOC
    assert [photo.file_name for photo in truth.photos] == ["a.jpeg", "b.jpeg", "inner/c.jpeg"]
    assert main(["convert", "--coco", "coco.json", "--out", "ids", "--quiet"]) == 0
    assert read_folder("ids") == {name: no_ignore(rows) for name, rows in LABELS.items()}
    assert main(["convert", "--coco", "coco.json", "--to", "colours", "--out", "rgb"]) == 0
    assert read_folder("rgb", colours="voc") == read_folder("ids")


def test_overlap_and_crowds_are_passed_on():
    mask = io.encode_rle(np.array([[1, 1]], np.uint8))
    parts = [(1, mask, 0), (2, io.encode_rle(np.array([[1, 0]], np.uint8)), 1)]
    content = {
        "images": [{"id": 9, "file_name": "x.jpg", "height": 1, "width": 2}],
        "categories": [{"id": n, "name": COCO[n]} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": 9, "category_id": n, "segmentation": s, "iscrowd": c, "area": n}
            for n, s, c in parts
        ],
    }
    Path("coco.json").write_text(json.dumps(content))
    for out, options, expected in (
        ("1", [], [[1, 1]]),
        ("2", ["--crowds", "class"], [[2, 1]]),
        ("3", ["--crowds", "class", "--overlap", "smaller"], [[1, 1]]),
    ):
        assert main(["convert", "--coco", "coco.json", "--out", out, *options]) == 0
        assert read_folder(out) == {"x": expected}


def test_panoptic_and_label_studio():
    write_labels({"a": LABELS["a"], "b": LABELS["b"]})
    found = run.convert_labels("labels", "pan.json", "coco-panoptic")
    sizes = [path.stat().st_size for path in (Path("pan.json"), *Path("pan").glob("*.png"))]
    assert found.bytes_after == sum(sizes)
    assert sorted(path.name for path in Path("pan").glob("[!.]*")) == ["a.png", "b.png"]
    arguments = ["--to", "label-studio", "--out", "tasks.json", "--url", "s3://me/"]
    assert main(["convert", "--labels", "labels", *arguments]) == 0
    tasks = json.loads(Path("tasks.json").read_text())
    assert [each["data"]["image"] for each in tasks] == ["s3://me/a.jpg", "s3://me/b.jpg"]


def test_official_ids():
    write_labels({"a": [[0, 13, 90, 255]], "b": [[12]]})
    assert main(["convert", "--labels", "labels", "--official-ids", "--out", "ids"]) == 1
    assert read_folder("ids") == {"a": [[0, 12, 80, 255]]}
    arguments = ["--official-ids", "--to", "coco", "--out", "coco.json"]
    assert main(["convert", "--labels", "labels", *arguments]) == 1
    content = json.loads(Path("coco.json").read_text())
    assert [each["id"] for each in content["categories"]] == list(COCO_CATEGORY_IDS[1:])
    assert [each["category_id"] for each in content["annotations"]] == [13, 90]


@pytest.mark.parametrize("to", ["png", "colours", "coco", "coco-panoptic", "label-studio"])
def test_a_bad_label_image_is_listed(capsys, to):
    write_labels({"a": [[1]], "b": [[1]], "c": [[21]], "d": [[2]]})
    Path("labels/b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ["--labels", "labels", "--to", to, "--out", "out.json"]
    assert main(["convert", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out.startswith("2 written, 2 failed in ")
    first, second = output.err.splitlines()
    assert first.startswith("b failed: labels/b.png: a label image must be a whole")
    assert second == "c failed: labels, c: labels must be in 0..20, the classes, or 255, got 21"
    if to == "coco":
        assert [each.file_name for each in io.read_coco("out.json").photos] == ["a.jpg", "d.jpg"]


def test_some_names_only():
    write_labels()
    Path("list.txt").write_text("inner/c\nb\n")
    assert main(["convert", "--labels", "labels", "--list", "list.txt", "--out", "some"]) == 0
    assert read_folder("some") == {"b": LABELS["b"], "inner/c": LABELS["inner/c"]}


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "labels", "--out", "labels"], "out must be apart from labels, got labels"),
        (["--labels", "labels", "--out", "labels/new"], "out must be apart from labels"),
        (["--labels", "labels/inner", "--out", "labels"], "out must be apart from labels/inner"),
        (
            ["--labels", "labels", "--to", "coco-panoptic", "--out", "labels.json"],
            "out must be apart from labels",  # the PNGs would be there
        ),
        (["--maps", "cams", "--out", "./cams"], "out must be apart from cams"),
        (["--maps", "empty", "--out", "small"], "empty must have files of at least one photo"),
        (["--labels", "empty", "--out", "small"], "at least one photo, got none"),
        (["--maps", "none", "--out", "small"], "none"),
        (["--labels", "none", "--out", "small"], "none"),
        (["--coco", "none.json", "--out", "small"], "none.json"),
        (
            ["--maps", "cams", "--out", "small", "--to", "coco"],
            "--to must not be given with",
        ),
        (["--labels", "labels", "--out", "s", "--stride", "4"], "--stride must not be given with"),
        (
            ["--coco", "c.json", "--out", "s", "--classes", "voc"],
            "--classes must not be given",
        ),
        (["--maps", "cams", "--out", "s", "--stride", "0"], "stride must be at least 1, got 0"),
        (
            ["--maps", "cams", "--out", "s", "--stride", "4", "--size", "4", "4"],
            "be given both",
        ),
        (["--maps", "cams", "--out", "s", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--labels", "labels", "--out", "s", "--classes", "none"], "none"),
        (["--labels", "labels", "--out", "s", "--colours", "none"], "none"),
        (["--labels", "labels", "--out", "labels.png/x"], "labels.png"),
        (["--labels", "labels", "--to", "coco", "--out", "none/x.json"], "none"),
    ],
)
def test_requests_that_cannot_be_carried_out(capsys, arguments, message):
    write_labels()
    write_psa()
    Path("empty").mkdir()
    Path("labels.png").write_text("")
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert main(["convert", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("cuekit convert: ")
    assert message in output.err
    assert output.out == ""
    assert {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments", [[], ["--out", "x"], ["--maps", "a", "--labels", "b", "--out", "x"]]
)
def test_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["convert", *arguments])
    assert caught.value.code == 2
    assert "usage: cuekit convert" in capsys.readouterr().err


def test_names_that_lead_out_are_refused(capsys):
    io.write_coco("coco.json", [("../../evil.jpg", np.array([[1]]))])
    assert main(["convert", "--coco", "coco.json", "--out", "ids"]) == 2
    assert "must be a path within a folder, got '../../evil'" in capsys.readouterr().err
    io.write_coco("coco.json", [("a.jpg", np.array([[1]])), ("a.png", np.array([[2]]))])
    assert main(["convert", "--coco", "coco.json", "--out", "ids"]) == 2
    assert "photos must have distinct names" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["maps", "coco"])
def test_signals_leave_complete_files_only(number, kind):
    if kind == "maps":
        write_psa("cams", [f"{i:04}" for i in range(1000)], (40, 60))
        arguments = ["--maps", "cams", "--out", "out", "--jobs", "2"]
    else:
        write_labels({f"{i:04}": np.arange(900).reshape(30, 30) % 7 for i in range(2000)})
        arguments = ["--labels", "labels", "--to", "coco", "--out", "out/x.json"]
        Path("out").mkdir()
    command = [*CUEKIT, "convert", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(cuekit.__file__).parents[1])}
    process = subprocess.Popen(  # noqa: S603 - this interpreter
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    begun = ("*.npz", 3) if kind == "maps" else (".*.tmp", 0)
    for _ in range(600):
        if len(list(Path("out").glob(begun[0]))) > begun[1]:
            break
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert time.monotonic() - start < 5  # within a second on a machine that is not busy
    assert process.returncode == 128 + number
    assert not list(Path("out").glob(".unfinished*"))
    if kind == "coco":
        assert list(Path("out").glob("[!.]*")) == []
    else:
        written = list(Path("out").glob("[!.]*"))
        assert 3 < len(written) < 1000
        for path in written:
            io.read_maps(path)
