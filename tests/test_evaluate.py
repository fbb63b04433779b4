"""cuekit.run.evaluate and `cuekit eval`: figures against the metrics, policies, failures."""

import csv
import json
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from common import at_most
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cuekit.__main__ import main
from cuekit.io import write_labels
from cuekit.metrics import (
    bootstrap,
    confusion_matrix,
    iou,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from cuekit.run import evaluate

POLICIES = {"background": 0, "ignore": "ignore", "mistake": "mistake"}
CLASSES = ("background", "cat", "dog", "name")  # the last is also a column of the table


@st.composite
def label_sets(draw, sets=2):
    """A few photos of any sizes, each with truth and labels: classes 0 to 3, and 255."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([[0, 1, 2, 3, 255], [0, 255], [0, 0, 0, 1, 2], [255], [2]]))
    photos = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        truth = rng.choice([0, 1, 2, 3, 255], shape)
        photos.append([truth, *(rng.choice(values, shape) for _ in range(sets - 1))])
    return photos


def write(folder, photos, kinds=("truth", "labels", "other")):
    """Write the maps of each photo into folders, and return these."""
    for i, maps in enumerate(photos):
        for kind, each in zip(kinds, maps, strict=False):
            (folder / kind).mkdir(exist_ok=True, parents=True)
            write_labels(folder / kind / f"p{i}.png", np.asarray(each))
    return [folder / kind for kind in kinds]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Return a new folder at every call."""
    return lambda: tmp_path_factory.mktemp("eval")


@pytest.mark.filterwarnings("ignore:truth holds nothing but class 0")  # of confusion_matrix
@at_most(100)  # each writes files
@given(label_sets(3), st.sampled_from(list(POLICIES)), st.sampled_from([None, [1], [0, 2, 3]]))
def test_equals_the_metrics(scratch, photos, unknown, mean_over):
    truth, labels, other = write(scratch(), photos)
    found = evaluate(
        labels,
        truth,
        classes=CLASSES,
        unknown=unknown,
        mean_over=mean_over,
        compare=other,
        samples=20,
    )
    policy = {"num_classes": 4, "unknown_as": POLICIES[unknown]}
    sets = [[confusion_matrix(photo[0], photo[i], **policy) for photo in photos] for i in (1, 2)]
    for result, matrices in zip((found, found.other), sets, strict=True):
        total = sum(matrices)
        np.testing.assert_array_equal(result.matrix[:, : total.shape[1]], total)
        assert not result.matrix[:, total.shape[1] :].any()
        np.testing.assert_array_equal(result.iou, iou(total))
        for i, photo in enumerate(result.by_photo()):
            one = matrices[i]
            np.testing.assert_equal(photo["mean_iou"], float(mean_iou(one, mean_over)))
            np.testing.assert_equal(photo["pixel_accuracy"], float(pixel_accuracy(one)))
            assert photo["pixels"] == one.sum()
    # The same samples, and sums of integers: all digits are equal.
    for name, statistic in {
        "mean_iou": lambda matrix: mean_iou(matrix, mean_over),
        "pixel_accuracy": pixel_accuracy,
        "mean_accuracy": lambda matrix: mean_accuracy(matrix, mean_over),
    }.items():
        expected = bootstrap(sets[0], statistic=statistic, samples=20)
        np.testing.assert_equal(tuple(getattr(found, name)), tuple(expected))
        expected = bootstrap(*sets, statistic=statistic, samples=20)
        np.testing.assert_equal(tuple(found.differences[name]), tuple(expected))


def test_samples_do_not_depend_on_how_many_are_in_memory(scratch, monkeypatch):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 4, (40, 2, 3, 5))
    truth, labels, _ = write(scratch(), photos)
    whole = evaluate(labels, truth, classes=CLASSES)
    monkeypatch.setattr("cuekit.run._evaluate._AT_A_TIME", 100)
    parts = evaluate(labels, truth, classes=CLASSES)
    assert parts.mean_iou == whole.mean_iou
    assert whole.mean_iou.low < whole.mean_iou.value < whole.mean_iou.high


def test_processes_give_the_same(scratch):
    photos = np.random.default_rng(0).integers(0, 4, (20, 2, 6, 5))
    truth, labels, _ = write(scratch(), photos)
    one, two = (evaluate(labels, truth, classes=CLASSES, jobs=jobs) for jobs in (1, 2))
    assert one.as_dict() == two.as_dict()


# ------------------------------------------------------------------------------------ policies

TRUTH = np.array([[0, 0, 1, 1, 255, 255]], np.uint8)
LABELS = np.array([[0, 255, 1, 255, 255, 0]], np.uint8)


@pytest.mark.parametrize(
    ("unknown", "background", "cat", "accuracy", "text"),
    [
        ("background", 2 / 3, 1 / 2, 3 / 4, "counted as background"),
        ("ignore", 1, 1, 1, "labels 255: left out"),
        ("mistake", 1 / 2, 1 / 2, 1 / 2, "counted as mistakes"),
    ],
)
def test_unknown_labels(scratch, unknown, background, cat, accuracy, text):
    truth, labels, _ = write(scratch(), [[TRUTH, LABELS]])
    found = evaluate(labels, truth, classes=CLASSES, unknown=unknown)
    np.testing.assert_array_equal(found.iou, [background, cat, np.nan, np.nan])
    assert found.pixel_accuracy.value == accuracy
    assert found.mean_iou.value == (background + cat) / 2
    assert found.unknown_pixels.tolist() == [2]
    assert found.left_out_pixels.tolist() == [2]
    assert text in str(found)
    assert "50.00 % of the pixels with known truth" in str(found)
    assert "truth 255: left out, 33.33 % of the pixels" in str(found)
    assert "of these, 2 in neither truth nor labels are left out" in str(found)
    assert next(found.by_photo())["unknown_share"] == 0.5


def test_a_class_in_labels_only_has_iou_0(scratch):
    truth, labels, _ = write(scratch(), [[[[0, 1]], [[0, 2]]]])
    found = evaluate(labels, truth, classes=CLASSES)
    np.testing.assert_array_equal(found.iou, [1, 0, 0, np.nan])
    assert "1 in labels only count with IoU 0" in str(found)


def test_masks_of_0_and_255_are_noticed(scratch):
    truth, labels, _ = write(scratch(), [[[[0, 255]], [[0, 0]]]])
    found = evaluate(labels, truth, classes=CLASSES)
    assert "if 255 marks the object, the figures mean nothing" in found.notes[0]
    assert found.notes[0] in str(found)


@pytest.mark.parametrize("chosen", [["cat", "dog"], [1, 2], ["1", "dog", "dog"]])
def test_mean_over(scratch, chosen):
    truth, labels, _ = write(scratch(), [[[[0, 1, 2, 2]], [[1, 1, 2, 0]]]])
    found = evaluate(labels, truth, classes=CLASSES, mean_over=chosen)
    assert found.averaged == (1, 2)
    assert found.mean_iou.value == 0.5
    assert "means: over cat, dog" in str(found)


def test_one_photo_and_nothing_but_ignored_pixels(scratch):
    truth, labels, _ = write(scratch(), [[[[255]], [[0]]]])
    found = evaluate(labels, truth, classes=CLASSES)
    assert np.isnan(found.mean_iou).all()
    assert "mean IoU        - [-, -]" in str(found)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["mean_iou"]["value"] is None


# ------------------------------------------------------------------------------------ failures


@pytest.fixture
def five(tmp_path):
    """Five photos: a good one, and files that are missing, of another size, cut, in colours."""
    photos = [[np.array([[0, 1, 2], [0, 0, 255]])] * 2] * 5
    truth, labels, _ = write(tmp_path, photos)
    (truth / "p1.png").unlink()
    write_labels(labels / "p2.png", np.zeros((2, 4), int))
    (labels / "p3.png").write_bytes((labels / "p3.png").read_bytes()[:-20])
    Image.new("RGB", (3, 2)).save(truth / "p4.png")
    return truth, labels


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_listed_and_not_counted(five, jobs):
    truth, labels = five
    found = evaluate(labels, truth, classes=CLASSES, jobs=jobs)
    assert found.names == ("p0",)
    assert found.mean_iou.value == 1
    assert set(found.failures) == {"p1", "p2", "p3", "p4"}
    assert "has no truth of p1" in found.failures["p1"]
    assert "labels must have shape (2, 3) to match the truth, got (2, 4)" in found.failures["p2"]
    assert "must be a whole, undamaged PNG" in found.failures["p3"]
    assert "must have mode P, L (8 bits) or 1" in found.failures["p4"]
    assert "1 of 5 photos\nfailed, and in no figure: 4" in str(found)


def test_hostile_files_fail_alone(five):
    """A bomb, a file that is no PNG, a folder, a link to itself."""
    truth, labels = five
    header = (truth / "p0.png").read_bytes()[:16]
    (labels / "p1.png").write_bytes(
        header + (2**31 - 1).to_bytes(4, "big") * 2 + b"\x08\x03\0\0\0" * 9
    )
    (labels / "p2.png").write_bytes(b"GIF89a")
    (labels / "p3.png").unlink()
    (labels / "p3.png").symlink_to(labels / "p3.png")
    (labels / "p4.png").unlink()
    (labels / "p4.png").mkdir()
    write_labels(truth / "p1.png", np.zeros((2, 3), int))
    tracemalloc.start()
    found = evaluate(labels, truth, classes=CLASSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.names == ("p0",)
    assert set(found.failures) == {"p1", "p2", "p3"}  # a folder is not a file of labels
    assert peak < 2**24  # the samples of the bootstrap; the bomb has 2**62 pixels


def test_files_of_truth_without_labels_are_told(scratch):
    photos = [[np.array([[0, 1]])] * 2] * 3
    truth, labels, _ = write(scratch(), photos)
    (labels / "p1.png").unlink()
    found = evaluate(labels, truth, classes=CLASSES)
    assert found.without_labels == 1
    assert "truth of photos not asked for: 1 files" in str(found)
    listed = evaluate(labels, truth, classes=CLASSES, names=["p2.jpg", "p1"])
    assert listed.names == ("p2",)
    assert listed.without_labels == 1
    assert list(listed.failures) == ["p1"]


def test_a_comparison_is_over_the_same_photos(scratch):
    truth, labels, other = write(scratch(), [[np.array([[0, 1]])] * 3] * 3)
    (other / "p1.png").unlink()
    found = evaluate(labels, truth, classes=CLASSES, compare=other)
    assert found.names == found.other.names == ("p0", "p2")
    assert "has no other labels of p1" in found.failures["p1"]


def test_order_of_the_list_is_kept(scratch):
    truth, labels, _ = write(scratch(), [[np.array([[0, 1]])] * 2] * 3)
    assert evaluate(labels, truth, classes=CLASSES, names=["p2", "p0"]).names == ("p2", "p0")


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ([35, 0], "voc", "the truth of p0 must hold 0 to 20.* got 35: pass the classes"),
        ([90, 0], "coco", "the truth of p0 must hold 0 to 80.* got 90: COCO's official ids"),
        ([0, 35], "voc", "the labels of p0 must hold 0 to 20.* got 35: pass the classes"),
        ([0, 4], CLASSES, "the labels of p0 must hold 0 to 3.* got 4"),
        ([200, 0], "voc", "must hold 0 to 20.* got 200: give the classes of these files"),
    ],
)
def test_ids_beyond_the_classes(scratch, values, classes, message):
    truth, labels, _ = write(scratch(), [[[[value]] for value in values]])
    with pytest.raises(ValueError, match=message):
        evaluate(labels, truth, classes=classes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unknown": "foreground"}, ValueError, "unknown must be"),
        ({"mean_over": ["cat", "bird"]}, ValueError, "mean_over must hold names.* got 'bird'"),
        ({"mean_over": [4]}, ValueError, "mean_over must hold names.* ids 0 to 3, got 4"),
        ({"mean_over": []}, ValueError, "mean_over must hold at least one class"),
        ({"mean_over": "cat"}, TypeError, "mean_over must be a sequence"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"names": ["p0", "p0"]}, ValueError, "names must be distinct, got 'p0' twice"),
        ({"names": ["../p0"]}, ValueError, "a name must be a path within a folder"),
        ({"names": ["p7"]}, ValueError, "at least one photo must be readable, got none of 1"),
        ({"compare": "missing"}, FileNotFoundError, "missing"),
    ],
)
def test_errors(scratch, options, error, message):
    truth, labels, _ = write(scratch(), [[[[0]], [[0]]]])
    with pytest.raises(error, match=message):
        evaluate(labels, truth, **{"classes": CLASSES, **options})


def test_empty_folders(tmp_path):
    truth, labels, _ = write(tmp_path, [[[[0]], [[0]]]])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty must have label images \(.png\), got none"):
        evaluate(empty, truth)
    with pytest.raises(ValueError, match=r"got none of 1; the first: .*empty has no truth of p0"):
        evaluate(labels, empty)
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "missing", truth)


# ------------------------------------------------------------------------------------- command


@pytest.fixture
def command(five, capsys):
    """Return a function that calls `cuekit eval`: exit status, what is printed, errors."""
    truth, labels = five
    names = truth.parent / "classes.txt"
    names.write_text("\n".join(CLASSES))

    def call(*options):
        folders = ["--labels", str(labels), "--truth", str(truth), "--classes", str(names)]
        status = main(["eval", *folders, *map(str, options)])
        return status, *capsys.readouterr()

    return call


def test_command(command):
    status, out, err = command()
    assert status == 1
    assert out.splitlines()[0].endswith("labels: 1 of 5 photos")
    assert re.search(r"^mean of \d+ +100.00", out, re.MULTILINE)
    assert "mean IoU        100.00 [100.00, 100.00]" in out
    assert len(err.splitlines()) == 4
    assert err.startswith("failed: p1: ")


def test_command_has_status_0_if_nothing_failed(command, tmp_path):
    (tmp_path / "list.txt").write_text("p0\n")
    status, out, err = command("--list", tmp_path / "list.txt", "--mean-over", "cat,2")
    assert (status, err) == (0, "")
    assert "means: over cat, dog;" in out


def test_command_has_status_2_for_a_wrong_request(command):
    status, out, err = command("--mean-over", "bird")
    assert (status, out) == (2, "")
    assert err.startswith("cuekit eval: mean_over must hold")
    with pytest.raises(SystemExit, match="2"):
        command("--unknown", "foreground")


def test_command_writes_tables(command, tmp_path):
    write_labels(tmp_path / "labels" / "p0.png", np.array([[0, 1, 255], [1, 0, 0]]))
    (tmp_path / "other").mkdir()
    write_labels(tmp_path / "other" / "p0.png", np.array([[0, 1, 2], [0, 0, 0]]))
    options = ["--compare", tmp_path / "other", "--unknown", "mistake"]
    status, out, _ = command(
        *options, "--markdown", "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json"
    )
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "| class | IoU | accuracy | share of truth | other IoU | difference |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| background | 66.67 | 66.67 | 60.00 | 100.00 | -33.33 |"
    assert lines[5] == "| mean of 3 | 38.89 | 55.56 |  | 100.00 | -61.11 |"
    assert lines[7].startswith("mean IoU 38.89 [38.89, 38.89], difference -61.11 [-61.11, -61.11];")

    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["p0", "p1", "p2", "p3", "p4"]
    assert float(rows[0]["mean_iou"]) == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert float(rows[0]["iou background"]) == 2 / 3
    assert rows[0]["iou name"] == ""
    assert float(rows[0]["unknown_share"]) == 1 / 5
    assert float(rows[0]["difference"]) == float(rows[0]["mean_iou"]) - 1
    assert rows[1]["mean_iou"] == ""
    assert "has no truth of p1" in rows[1]["failed"]

    values = json.loads((tmp_path / "a.json").read_text())
    assert values["iou"] == {"background": 2 / 3, "cat": 1 / 2, "dog": 0}
    assert values["unknown"] == "mistake"
    assert values["matrix"] == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0] * 5]
    assert values["by_photo"][0]["pixels"] == 5
    assert values["other"]["mean_iou"]["value"] == 1
    assert set(values["failures"]) == {"p1", "p2", "p3", "p4"}


def test_command_lists_few_failures(command, tmp_path):
    for i in range(5, 30):
        write_labels(tmp_path / "labels" / f"p{i}.png", np.zeros((1, 1), int))
    err = command()[2].splitlines()
    assert len(err) == 11
    assert err[-1] == "failed: 19 more"


def test_command_in_a_process_of_its_own(five):
    truth, labels = five
    arguments = ["eval", "--labels", labels, "--truth", truth, "--jobs", "2"]
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-W", "error", "-m", "cuekit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "1 of 5 photos" in done.stdout
    assert "means: over all 21 classes" in done.stdout
