"""cuekit.run.sweep and `cuekit sweep`: figures against labels made at each threshold."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from common import DATA, at_most, needs_data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import FLOATS

import cuekit
from cuekit.__main__ import main
from cuekit.io import MapArchive, write_labels, write_maps
from cuekit.metrics import confusion_matrix
from cuekit.metrics import mean_iou as mean_iou_of
from cuekit.run import sweep
from cuekit.run._sweep import estimated_threshold

CLASSES = ("background", "cat", "dog", "owl")


def write(folder, photos):
    """Write truth and maps of each photo: (truth, maps, class ids)."""
    archive = {}
    (folder / "truth").mkdir(parents=True)
    for i, (truth, maps, ids) in enumerate(photos):
        write_labels(folder / "truth" / f"p{i}.png", truth)
        archive[f"p{i}/cams"], archive[f"p{i}/classes"] = maps, np.array(ids, np.int64)
    np.savez(folder / "maps.npz", **archive)
    return folder / "maps.npz", folder / "truth"


def direct(photos, **background):
    """The confusion matrix of the labels that a script makes at one threshold."""
    total = np.zeros((4, 4), np.int64)
    for truth, maps, ids in photos:
        resized = cuekit.resize_maps(maps, truth.shape)
        index = cuekit.with_background(resized, **background).argmax(0)
        total += confusion_matrix(truth, np.array([0, *ids])[index], 4)
    return total


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Return a new folder at every call."""
    return lambda: tmp_path_factory.mktemp("sweep")


@st.composite
def photo_sets(draw):
    """Photos whose maps have the values of thresholds, values next to them, and any values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(st.sampled_from(FLOATS)))
    photos = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        ids = [1, 2, 3][: draw(st.sampled_from([0, 1, 2, 3]))]
        # At the truth's size, resizing leaves values as they are.
        small = size if draw(st.booleans()) else tuple(-(-n // 2) for n in size)
        steps = rng.integers(0, 101, (len(ids), *small)) / 100
        maps = steps.astype(dtype) if draw(st.booleans()) else rng.random(steps.shape).astype(dtype)
        toward = np.array(draw(st.sampled_from([0, 1])), dtype)
        maps = np.where(rng.random(maps.shape) < 0.3, np.nextafter(maps, toward), maps)
        photos.append((rng.choice([0, 1, 2, 3, 255], size), maps, ids))
    return photos


@pytest.mark.filterwarnings("ignore:truth holds nothing but class 0")  # of confusion_matrix
@at_most(100)  # each writes files, and makes labels at all thresholds
@given(photo_sets())
def test_equals_labels_made_at_each_threshold(scratch, photos):
    maps, truth = write(scratch(), photos)
    found = sweep(maps, truth, classes=CLASSES)
    assert found.values[30] == 0.3
    assert len(found.values) == len(found.matrices) == 101
    for threshold, matrix in zip(found.values, found.matrices, strict=True):
        np.testing.assert_array_equal(matrix, direct(photos, threshold=threshold))


@pytest.mark.filterwarnings("ignore:truth holds nothing but class 0")
@at_most(100)
@given(photo_sets())
def test_equals_labels_made_with_each_alpha(scratch, photos):
    maps, truth = write(scratch(), photos)
    alphas = [0.5, 1, 2, 4, 16, 100]
    found = sweep(maps, truth, classes=CLASSES, alphas=alphas)
    assert (found.parameter, found.values) == ("alpha", tuple(alphas))
    for alpha, matrix in zip(found.values, found.matrices, strict=True):
        np.testing.assert_array_equal(matrix, direct(photos, alpha=alpha))


RNG = np.random.default_rng(5)
PHOTOS = [
    (RNG.choice([0, 1, 2, 255], (9, 12)), RNG.random((2, 3, 4), np.float32), [1, 2])
    for _ in range(6)
]


def test_mean_iou_and_the_best(scratch):
    maps, truth = write(scratch(), PHOTOS)
    found = sweep(maps, truth, classes=CLASSES, thresholds=[0.1, 0.4, 0.8], mean_over=["cat", 2])
    expected = [mean_iou_of(direct(PHOTOS, threshold=t), [1, 2]) for t in found.values]
    np.testing.assert_array_equal(found.mean_iou, expected)
    assert found.best == found.values[int(np.argmax(expected))]
    assert found.left_out_pixels == sum((photo[0] == 255).sum() for photo in PHOTOS)
    assert f"best threshold: {found.best}, mean IoU {100 * max(expected):.2f} over cat, dog" in str(
        found
    )


@pytest.mark.parametrize(
    ("parameter", "values"), [("threshold", [0.2, 0.3, 0.5, 0.7]), ("alpha", [0.5, 4, 8, 16])]
)
def test_the_best_of_each_photo(scratch, parameter, values):
    maps, truth = write(scratch(), PHOTOS)
    found = sweep(maps, truth, classes=CLASSES, **{f"{parameter}s": values}, mean_over=[0, 1])
    total = np.zeros((4, 4), np.int64)
    for photo in PHOTOS:
        matrices = [direct([photo], **{parameter: value}) for value in values]
        total += max(matrices, key=mean_iou_of)
    np.testing.assert_array_equal(found.at_own_best, total)
    assert found.oracle == mean_iou_of(total, [0, 1]) == found.as_dict()["oracle"]
    usual = found.mean_iou[1]  # 0.3 and 4
    assert found.oracle > usual
    share = (np.max(found.mean_iou) - usual) / (found.oracle - usual)
    assert f"of each photo, chosen with truth: {100 * found.oracle:.2f}" in str(found)
    assert f"to it: the best {share:.0%}" in str(found)


def test_normalize_divides_each_map(scratch):
    scaled = [(t, m * np.float32([[[7]], [[0.01]]]), ids) for t, m, ids in PHOTOS]
    maps, truth = write(scratch(), scaled)
    with pytest.raises(ValueError, match=r"maps must be at most 1, got .* of p0: pass --normalize"):
        sweep(maps, truth, classes=CLASSES)
    found = sweep(maps, truth, classes=CLASSES, normalize=True, thresholds=[0.3])
    resized = [(t, cuekit.resize_maps(m, t.shape), ids) for t, m, ids in scaled]
    divided = [(t, m / m.max((1, 2), keepdims=True), ids) for t, m, ids in resized]
    np.testing.assert_array_equal(found.matrices[0], direct(divided, threshold=0.3))
    assert found.peaks == (1, 1)
    # Thresholds that reach the values are meant for maps as they are.
    assert sweep(maps, truth, classes=CLASSES, thresholds=[0, 7]).peaks[1] > 1


def test_tags_choose_maps(scratch):
    maps, truth = write(scratch(), PHOTOS)
    tags = {f"p{i}": [2] for i in range(4)} | {"p4": [2, 3]}
    found = sweep(maps, truth, classes=CLASSES, tags=tags, thresholds=[0.3])
    chosen = [(t, m[1:], [2]) for t, m, _ in PHOTOS[:4]]
    np.testing.assert_array_equal(found.matrices[0], direct(chosen, threshold=0.3))
    assert "tags must be of the classes that have maps" in found.failures["p4"]
    assert found.failures["p5"] == "tags must list every photo, got none for p5"


def test_several_classifiers_are_averaged(scratch):
    others = [(t, RNG.random((2, 5, 6), np.float32), [2, 1]) for t, _, _ in PHOTOS]
    (maps, truth), (more, _) = write(scratch(), PHOTOS), write(scratch(), others)
    found = sweep([maps, more], truth, classes=CLASSES, thresholds=[0.3], normalize=True)
    both = []
    for (t, one, _), (_, two, _) in zip(PHOTOS, others, strict=True):
        sets = [cuekit.resize_maps(each, t.shape) for each in (one, two[::-1])]
        sets = [each / each.max((1, 2), keepdims=True) for each in sets]
        both.append((t, np.mean(sets, axis=0), [1, 2]))
    np.testing.assert_array_equal(found.matrices[0], direct(both, threshold=0.3))


def test_a_folder_of_maps_and_processes(scratch):
    folder = scratch()
    maps, truth = write(folder, PHOTOS)
    (folder / "files").mkdir()
    with MapArchive(maps) as archive:
        for name in archive.names:
            each = archive.read(name)
            irn = {"keys": each.class_ids - 1, "high_res": each.maps}
            np.save(folder / "files" / f"{name}.npy", irn)
    one = sweep(maps, truth, classes=CLASSES)
    two = sweep(folder / "files", truth, classes=CLASSES, jobs=2)
    np.testing.assert_array_equal(two.matrices, one.matrices)
    assert two.names == one.names == tuple(f"p{i}" for i in range(6))


def test_photos_without_truth_are_told(scratch):
    maps, truth = write(scratch(), PHOTOS)
    (truth / "p0.png").unlink()
    found = sweep(maps, truth, classes=CLASSES)
    assert (len(found.names), found.without_files, found.failures) == (5, 1, {})
    assert "1 more have maps, but no truth or no photo" in str(found)
    listed = sweep(maps, truth, classes=CLASSES, names=["p2", "p0", "p9"])
    assert (listed.names, listed.without_files) == (("p2",), 0)
    assert set(listed.failures) == {"p0", "p9"}


def test_failures(scratch):
    nan = PHOTOS[0][1].copy()
    nan[0, 0, 0] = np.nan
    photos = [*PHOTOS[:1], (PHOTOS[0][0], nan, [1, 2]), (np.zeros((9, 30), int), nan, [1, 2])]
    maps, truth = write(scratch(), photos)
    (truth / "p3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = sweep(maps, truth, classes=CLASSES, names=["p0", "p1", "p2", "p3"])
    assert found.names == ("p0",)
    assert "maps must be finite" in found.failures["p1"]
    assert "maps must have the proportions of the photo" in found.failures["p2"]
    assert "p3" in found.failures


def test_cues_have_no_threshold(tmp_path):
    (tmp_path / "truth").mkdir()
    write_labels(tmp_path / "truth" / "p0.png", np.zeros((4, 4), int))
    (tmp_path / "maps").mkdir()
    write_maps(tmp_path / "maps" / "p0.npz", np.ones((1, 4, 4), bool), [1])
    with pytest.raises(ValueError, match="maps must be floating, got cues, which have no thresh"):
        sweep(tmp_path / "maps", tmp_path / "truth")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"truth": None}, ValueError, "truth or photos must be given"),
        ({"thresholds": [0.1], "alphas": [1]}, ValueError, "one of thresholds and alphas"),
        ({"thresholds": [0.2, 0.1]}, ValueError, r"thresholds must be ascending, got 0.2 before"),
        ({"thresholds": [0.2, 0.2]}, ValueError, r"thresholds must be ascending"),
        ({"thresholds": []}, ValueError, "thresholds must be 1 to 1000 numbers, got 0"),
        ({"thresholds": [float("nan")]}, ValueError, r"thresholds\[0\]"),
        ({"alphas": [0, 1]}, ValueError, "alphas must be above 0, got 0"),
        ({"alphas": ["one"]}, TypeError, r"alphas\[0\]"),
        ({"normalize": "yes"}, TypeError, "normalize"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"mean_over": ["fox"]}, ValueError, "mean_over must hold names"),
        ({"names": ["p9"]}, ValueError, "at least one photo must be readable"),
        ({"classes": ["background", "cat"]}, ValueError, "the truth of p0 must hold 0 to 1"),
        ({"tags": {"p0": ["cat"]}}, TypeError, "tags must be"),
    ],
)
def test_errors(scratch, options, error, message):
    maps, truth = write(scratch(), PHOTOS)
    with pytest.raises(error, match=message):
        sweep(maps, **{"truth": truth, "classes": CLASSES, **options})


@pytest.mark.parametrize("class_id", [4, 255])
def test_maps_beyond_the_classes(scratch, class_id):
    maps, truth = write(scratch(), [(*PHOTOS[0][:2], [1, class_id])])
    with pytest.raises(ValueError, match=f"the maps of p0 must hold 0 to 3, .*got {class_id}"):
        sweep(maps, truth, classes=CLASSES)


def test_nothing_in_common(scratch):
    folder = scratch()
    maps, truth = write(folder, PHOTOS)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"photos must have maps and files in .*empty, got none"):
        sweep(maps, folder / "empty")
    with pytest.raises(ValueError, match=r"photos must have maps and files in .*empty"):
        sweep(folder / "empty", truth)
    with pytest.raises(FileNotFoundError):
        sweep(folder / "missing", truth)


# ------------------------------------------------------------------------------- without truth


def blob(shift=0):
    """A photo of a bright disc, its mask, and a map that falls off around it."""
    y, x = np.mgrid[:60, :80]
    distance = np.hypot(y - 30, x - 40 - shift)
    mask = distance < 18
    photo = np.where(mask[..., None], (220, 180, 90), (40, 60, 120)).astype(np.uint8)
    return photo, mask, np.exp(-((distance / 22) ** 2)).astype(np.float32)


def test_estimate_finds_the_object():
    photo, mask, scores = blob()
    labels = scores > estimated_threshold(scores[None], photo)
    # Superpixels have the edge, but also a ring on both sides of it, where the photo is smoothed.
    assert (labels & mask).sum() / (labels | mask).sum() > 0.7


def test_estimate_of_nothing():
    photo, _, scores = blob()
    assert estimated_threshold(scores[None][:0], photo) is None
    assert estimated_threshold(-scores[None], photo) is None


def agreement(maps, snapped, threshold):
    one, two = (np.where(m.max(0) > threshold, 1 + m.argmax(0), 0) for m in (maps, snapped))
    same, either = (one == two) & (one > 0), (one > 0) | (two > 0)
    neither, not_both = (one == 0) & (two == 0), (one == 0) | (two == 0)
    return min(
        same.sum() / max(either.sum(), 1),
        neither.sum() / max(not_both.sum(), 1),
    )


@at_most(25)  # a hundred sets of labels for each
@given(st.integers(0, 2**32 - 1))
def test_estimate_is_where_labels_agree_best(seed):
    rng = np.random.default_rng(seed)
    photo = blob()[0] + rng.integers(0, 30, (60, 80, 3), np.uint8)
    maps = cuekit.resize_maps(rng.random((3, 4, 5), np.float32) ** 2, (60, 80))
    snapped = cuekit.superpixel_mean(maps, cuekit.felzenszwalb(photo, scale=50))
    scores = [agreement(maps, snapped, np.float32(t)) for t in np.linspace(0, 1, 101)]
    found = estimated_threshold(maps, photo)
    assert found == (pytest.approx(np.argmax(scores) / 100) if any(scores) else None)


@pytest.fixture
def blobs(tmp_path):
    """A folder of photos, maps, and truth."""
    for kind in ("photos", "maps", "truth"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        photo, mask, scores = blob(2 * i)
        Image.fromarray(photo).save(tmp_path / "photos" / f"p{i}.png")
        write_labels(tmp_path / "truth" / f"p{i}.png", mask.astype(np.uint8))
        np.save(tmp_path / "maps" / f"p{i}.npy", {0: scores})
    return tmp_path


def test_estimate_of_a_set(blobs):
    alone = sweep(blobs / "maps", photos=blobs / "photos")
    both = sweep(blobs / "maps", blobs / "truth", photos=blobs / "photos", mean_over=[0, 1])
    assert alone.estimate == both.estimate
    assert alone.matrices is alone.mean_iou is alone.best is alone.oracle is None
    thresholds = [
        estimated_threshold(scores[None], photo) for photo, _, scores in map(blob, range(0, 8, 2))
    ]
    assert alone.estimate == pytest.approx(np.mean(thresholds))
    assert f"threshold without truth, a heuristic: {alone.estimate:.3g}" in str(alone)
    assert both.mean_iou[both.nearest(both.estimate)] > 0.8
    alpha = sweep(blobs / "maps", photos=blobs / "photos", alphas=[1, 2]).estimate
    assert alone.estimate == pytest.approx((1 - alone.estimate) ** alpha)


def test_estimate_of_alpha_where_there_is_none(blobs):
    for path in (blobs / "maps").iterdir():
        np.save(path, {0: np.zeros((60, 80), np.float32)})
    found = sweep(blobs / "maps", photos=blobs / "photos", alphas=[1, 2])
    assert found.estimate is None
    assert "heuristic" not in str(found)


def test_photo_of_another_size_fails(blobs):
    Image.new("RGB", (40, 30)).save(blobs / "photos" / "p1.png")
    found = sweep(blobs / "maps", blobs / "truth", photos=blobs / "photos")
    assert list(found.failures) == ["p1"]
    assert "truth must have shape (30, 40) to match the photo, got (60, 80)" in found.failures["p1"]


# ------------------------------------------------------------------------------------- command


def command(capsys, folder, *options):
    status = main(["sweep", "--maps", str(folder / "maps"), *map(str, options)])
    return status, *capsys.readouterr()


def test_command(blobs, capsys):
    options = ["--truth", blobs / "truth", "--photos", blobs / "photos", "--mean-over", "0,1"]
    files = ["--png", blobs / "curve.png", "--json", blobs / "a.json"]
    status, out, err = command(capsys, blobs, *options, *files, "--thresholds", "0.1:0.9:0.1")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("maps: 4 of 4 photos")
    assert lines[3].split() == ["threshold", "mean", "IoU", "accuracy", "foreground"]
    assert len(lines) == 3 + 1 + 9 + 1 + 3
    assert sum("best" in line for line in lines[4:13]) == 1
    values = json.loads((blobs / "a.json").read_text())
    assert values["values"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert set(values["iou"]) == {"background", "aeroplane"}
    assert values["best"] in values["values"]
    assert max(values["mean_iou"]) == values["mean_iou"][values["values"].index(values["best"])]
    with Image.open(blobs / "curve.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (500, 800, 3)
    blue = (pixels[..., 2] > pixels[..., 0].astype(int) + 60).any(0)  # the curve
    assert blue[75:765].sum() > 650  # all but the marks


def test_command_without_truth(blobs, capsys):
    status, out, _ = command(capsys, blobs, "--photos", blobs / "photos")
    assert status == 0
    assert "threshold without truth, a heuristic: 0." in out
    assert "mean IoU" not in out
    status, _, err = command(capsys, blobs, "--photos", blobs / "photos", "--png", blobs / "a.png")
    assert status == 2
    assert "--png needs --truth" in err


def test_command_says_where_the_range_ends(blobs, capsys):
    options = ["--truth", blobs / "truth", "--thresholds", "0.9:1:0.05"]
    assert "NOTE: the best threshold is at an end" in command(capsys, blobs, *options)[1]


def test_command_has_status_1_for_failures(blobs, capsys):
    (blobs / "maps" / "p1.npy").write_bytes(b"\x93NUMPY")
    status, out, err = command(capsys, blobs, "--truth", blobs / "truth", "--alpha", "1,2,4")
    assert status == 1
    assert "3 of 4 photos" in out
    assert err.startswith("failed: p1: ")


@pytest.mark.parametrize(
    "text", ["0:1", "0:1:0", "1:0:0.1", "0:1:0.3", "a,b", "", "0:1:1e-9", "0:inf:1", "nan:1:0.1"]
)
def test_command_refuses_other_ranges(blobs, capsys, text):
    with pytest.raises(SystemExit, match="2"):
        command(capsys, blobs, "--truth", blobs / "truth", "--thresholds", text)
    assert "must be FIRST:LAST:STEP" in capsys.readouterr().err


def test_command_in_a_process_of_its_own(blobs):
    arguments = ["--maps", blobs / "maps", "--photos", blobs / "photos", "--jobs", "2"]
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-W", "error", "-m", "cuekit", "sweep", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a heuristic: 0." in done.stdout


@pytest.mark.parametrize("values", [[0.5], [0.5, math.nan, 0.6, 0.7], [0, 0, 0]])
def test_curves_of_any_length(values, tmp_path):
    from cuekit.run._plot import Mark, plot_curve

    x = list(range(1, len(values) + 1))
    image = plot_curve(x, values, [Mark("best", 1, values[0])], title="t", logarithmic=True)
    image.save(tmp_path / "a.png")
    assert image.getextrema() != ((255, 255),) * 3


# -------------------------------------------------------------------------------- real photos

COLOR, VOC = DATA / "cams" / "color.npz", DATA / "voc-animals"
ANIMALS = ["background", "cat", "cow", "dog", "horse", "person", "sheep"]


@needs_data(COLOR, VOC)
def test_estimate_on_real_photos(figures):
    names = (VOC / "ImageSets" / "Segmentation" / "train.txt").read_text().split()[:60]
    found = sweep(
        COLOR,
        VOC / "SegmentationClass",
        photos=VOC / "JPEGImages",
        names=names,
        normalize=True,
        mean_over=ANIMALS,
    )
    lost = found.mean_iou.max() - found.mean_iou[found.nearest(found.estimate)]
    text = f"best {found.best}, without truth {found.estimate:.3f}, mean IoU {lost:.4f} lower"
    figures.append(f"sweep of 60 photos: {text}")
    assert lost < 0.02  # 0.002 on 225 photos
