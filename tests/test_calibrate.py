"""calibrate: the fit against a plain loss, what it learns, what it says of itself."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from common import VOC, at_most, needs_data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_evidence import (
    CAMS,
    blob,
    maps_of,
    photo_of_a_disc,
    training_photos,
    two_classes,
    voc_photo,
)

from cuekit import run
from cuekit.__main__ import main
from cuekit.io import read_labels, read_maps, write_labels, write_maps
from cuekit.metrics import confusion_matrix, mean_iou
from cuekit.recipes import EVIDENCE_WEIGHTS, EvidenceWeights, calibrate, evidence
from cuekit.recipes.calibrate import (
    NAMES,
    PhotoTerms,
    _derivatives,
    _fit,
    _loss,
    fit_parts,
    measure,
    weigh,
)
from cuekit.run._calibrate import CompareLabels

START = EVIDENCE_WEIGHTS["position"]
FEW = pytest.mark.filterwarnings("ignore:.*photos say little", "ignore:the fitted weights are not")


def samples(count, *, upside_down=False):
    """Photos of a red disc at the bottom, or at the top, maps of a part of it, and masks."""
    rng = np.random.default_rng(0)
    photos, maps, truths = [], [], []
    for i in range(count):
        y, x = rng.integers(26, 36), rng.integers(24, 56)
        photo, mask = photo_of_a_disc((60, 80), (y, x), 18, seed=i)
        scores = blob((6, 8), (y / 10, x / 10), 1.2)
        if upside_down:
            photo, mask, scores = photo[::-1].copy(), mask[::-1], scores[::-1]
        photos.append(photo)
        maps.append(maps_of(scores[None]))
        truths.append(3 * mask.astype(np.uint8))
    return photos, maps, None, truths


# ---------------------------------------------------------------------------------------- the fit


def random_terms(rng, photos, classes=2, superpixels=12):
    """Terms of any values, and labels that follow the weights `true`."""
    true = rng.normal(size=len(NAMES))
    result = []
    for _ in range(photos):
        values = rng.normal(size=(classes, superpixels, len(NAMES)))
        values[..., -1] = 1
        scores = np.insert(values @ true, 0, 0, axis=0)
        odds = np.exp(scores - scores.max(0))
        result.append(PhotoTerms(values, odds / odds.sum(0) / superpixels))
    return result, true


def plain_loss(weights, photos):
    total = 0.0
    for values, shares in photos:
        for s in range(values.shape[1]):
            odds = np.exp([0.0, *(values[:, s] @ weights)])
            total -= shares[:, s] @ np.log(odds / odds.sum())
    return total


def sum_of_derivatives(weights, photos):
    return tuple(map(sum, zip(*(_derivatives(weights, each) for each in photos), strict=True)))


@at_most(25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_loss_and_its_derivatives(classes, count, seed):
    rng = np.random.default_rng(seed)
    photos, _ = random_terms(rng, count, classes)
    weights = rng.normal(size=len(NAMES))
    gradient, hessian = sum_of_derivatives(weights, photos)
    assert sum(_loss(weights, each) for each in photos) == pytest.approx(
        plain_loss(weights, photos), rel=1e-9
    )
    step = 1e-5  # central differences: an error of step ** 2
    for j in range(len(NAMES)):
        move = step * np.eye(len(NAMES))[j]
        high, low = (plain_loss(weights + sign * move, photos) for sign in (1, -1))
        assert gradient[j] == pytest.approx((high - low) / (2 * step), abs=1e-6)
        high, low = (sum_of_derivatives(weights + sign * move, photos)[0] for sign in (1, -1))
        np.testing.assert_allclose(hessian[j], (high - low) / (2 * step), atol=1e-6)


@at_most(25)
@given(st.floats(0.01, 1000), st.integers(0, 2**32 - 1))
def test_fit_is_the_minimum(ridge, seed):
    """No small step from it has a lower loss; the more ridge, the nearer to the start."""
    rng = np.random.default_rng(seed)
    photos, _ = random_terms(rng, 4)
    start = rng.normal(size=len(NAMES))
    spread = np.concatenate([each.values.reshape(-1, len(NAMES)) for each in photos]).std(0)
    spread[-1] = 1

    def loss(weights):
        return plain_loss(weights, photos) + ridge / 2 * ((spread * (weights - start)) ** 2).sum()

    found = _fit(photos, start, ridge)
    least = loss(found)
    for _ in range(10):
        # A gain below 1e-9 for each photo ends the fit.
        assert loss(found + 1e-3 * rng.normal(size=len(NAMES))) >= least - 1e-8
    nearer = _fit(photos, start, 10 * ridge)
    assert (
        np.linalg.norm(spread * (nearer - start)) <= np.linalg.norm(spread * (found - start)) + 1e-6
    )


def test_many_photos_give_the_weights_that_made_the_labels():
    photos, true = random_terms(np.random.default_rng(0), 100)
    np.testing.assert_allclose(_fit(photos, np.ones(len(NAMES)), 1e-6), true, atol=1e-3)
    fits = fit_parts(photos, EvidenceWeights(*np.ones(len(NAMES))), 2, None)
    assert fits.ridge == 10  # the least
    nearer = np.abs(np.array(dataclasses.astuple(fits.weights)) - true).max()
    assert nearer < 0.5 * np.abs(1 - true).max()


def test_labels_that_the_start_explains_leave_it_as_it_is():
    rng = np.random.default_rng(1)
    photos, true = random_terms(rng, 30)
    noisy = [  # one class for each superpixel, drawn with its probability
        PhotoTerms(
            values,
            np.stack([rng.multinomial(1, p / p.sum()) for p in shares.T], axis=1) / shares.shape[1],
        )
        for values, shares in photos
    ]
    fits = fit_parts(noisy, EvidenceWeights(*true), 3, None)
    assert fits.ridge == math.inf
    assert fits.weights == fits.start == fits.parts[0]


def test_weights_of_0_stay_0():
    photos, _ = random_terms(np.random.default_rng(2), 20)
    start = dataclasses.replace(START, x=0, y=0, constant=0)
    fits = fit_parts(photos, start, 2, 1.0)
    assert fits.weights.x == fits.weights.y == 0 != fits.weights.constant


def test_terms_that_are_the_same_everywhere_stay_as_they_are():
    photos, _ = random_terms(np.random.default_rng(3), 20)
    for each in photos:
        each.values[..., NAMES.index("features")] = 0.6
    assert fit_parts(photos, START, 2, 1.0).weights.features == START.features


def test_photos_of_a_part_do_not_change_its_weights():
    photos, _ = random_terms(np.random.default_rng(4), 10)
    other = [*photos[:5], *random_terms(np.random.default_rng(5), 5)[0]]
    one, two = (fit_parts(each, START, 2, 1.0) for each in (photos, other))
    assert one.parts[1] == two.parts[1]
    assert one.parts[0] != two.parts[0]
    assert one.of_photo(4) is one.parts[0]
    assert one.of_photo(5) is one.parts[1]


# ------------------------------------------------------------------------------------- measure


def test_terms_are_those_of_the_recipe():
    """Scores of the terms, painted, are labels like the recipe's: they lack the last CRF only."""
    photos, maps, _, truths = samples(1)
    values, shares = measure(photos[0], maps[0], None, truths[0], START)
    assert values.shape[0] == 1
    half = values.shape[1] // 2
    assert not values[:, :half, NAMES.index("recolour")].any()
    assert not values[:, half:, NAMES.index("colour")].any()
    assert shares.sum() == pytest.approx(1)
    assert shares[1].sum() == pytest.approx((truths[0] == 3).mean())
    found = (values[0] @ dataclasses.astuple(START) > 0).reshape(2, half)
    expected = (evidence(photos[0], maps[0]) == 3).mean()
    for each in found:
        assert (shares.sum(0).reshape(2, half)[0] * 2)[each].sum() == pytest.approx(
            expected, abs=0.05
        )


def test_unknown_pixels_and_other_classes_are_left_out():
    photos, maps, _, (truth,) = samples(1)
    truth[:10], truth[10:20] = 255, 7
    shares = measure(photos[0], maps[0], None, truth, START).shares
    assert shares.sum() == pytest.approx(1)
    assert shares[1].sum() == pytest.approx((truth[20:] == 3).mean())
    assert measure(photos[0], maps[0], [], truth, START) is None
    assert measure(photos[0], maps[0], None, np.full_like(truth, 255), START) is None


# --------------------------------------------------------------------------------- the function


def test_it_mends_weights_that_miss_objects():
    """Weights that count too much on objects being low, and photos where they are high."""
    start = dataclasses.replace(START, y=20, constant=-14)
    found = calibrate(*samples(20, upside_down=True), weights=start, folds=2, ridge=1.0)
    assert found.difference.low > 0
    assert found.fitted.value > 0.95 > 0.9 > found.before.value
    assert found.notes == ()
    assert found.weights == found.fitted_weights


@FEW
def test_figures_are_those_of_labels_by_weights_of_other_photos():
    photos, maps, tags, truths = samples(6)
    found = calibrate(photos, maps, tags, truths, folds=3, ridge=1.0)
    matrices = {"before": 0, "fitted": 0}
    for part in range(3):
        inside = range(2 * part, 2 * part + 2)
        outside = [i for i in range(6) if i not in inside]
        terms = [measure(photos[i], maps[i], None, truths[i], START) for i in outside]
        fitted = EvidenceWeights(*_fit(terms, np.array(dataclasses.astuple(START)), 1.0))
        for i in inside:
            for name, weights in (("before", "position"), ("fitted", fitted)):
                labels = evidence(photos[i], maps[i], weights=weights)
                matrices[name] += confusion_matrix(truths[i], labels, 4)
    assert found.before.value == pytest.approx(float(mean_iou(matrices["before"])))
    assert found.fitted.value == pytest.approx(float(mean_iou(matrices["fitted"])))
    assert found.difference.value == pytest.approx(found.fitted.value - found.before.value)


@FEW
@pytest.mark.parametrize("name", ["position", "no-position"])
def test_a_name_is_compared_with_its_correction(name):
    """Labels of the default are the truth here: those without the correction are worse."""
    photo, sets = two_classes()
    truth = evidence(photo, sets, weights=name)
    count = 2
    found = calibrate(
        [photo] * count,
        [sets] * count,
        None,
        [truth] * count,
        weights=name,
        folds=count,
        ridge=1e9,  # so the fit changes nothing
    )
    assert found.weights == name
    assert found.before.value == 1 > found.fitted.value
    assert found.difference.high < 0


def test_what_speaks_against_the_weights():
    with pytest.warns(UserWarning, match="5 photos say little: have at least 20"):  # noqa: SIM117
        with pytest.warns(UserWarning, match="the fitted weights are not better beyond chance"):
            found = calibrate(*samples(5), weights=START, ridge=300.0)
    assert len(found.notes) == 2
    assert str(found).count("NOTE: ") == 2
    assert found.weights == START
    assert found.fitted_weights != found.start


@FEW
def test_result_as_text_and_as_json():
    found = calibrate(*samples(5), ridge=300.0, mean_over=[0, 3])
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert values["fitted_weights"] == dataclasses.asdict(found.fitted_weights)
    assert values["fitted"]["value"] == found.fitted.value
    again = dataclasses.replace(found, ridge=math.inf).as_dict()
    assert again["ridge"] is None
    assert f"fitted        {100 * found.fitted.value:9.2f}" in str(found)
    photos, maps, _, _ = samples(1)
    by_json = evidence(photos[0], maps[0], weights=values["fitted_weights"])
    assert np.array_equal(by_json, evidence(photos[0], maps[0], weights=found.fitted_weights))


@FEW
def test_photos_without_a_class_count():
    photos, maps, _, truths = samples(5)
    truths[4] = np.zeros_like(truths[4])
    found = calibrate(photos, maps, [[3]] * 4 + [[]], truths, ridge=300.0)
    assert found.photos == 5


class Read:
    """A sequence that makes its elements when they are asked for."""

    def __init__(self, elements):
        self.elements, self.asked = elements, []

    def __len__(self):
        return len(self.elements)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.elements[i]


@FEW
def test_photos_are_read_one_after_the_other():
    photos, maps, _, truths = samples(5)
    read = Read(photos)
    calibrate(read, maps, None, truths, ridge=300.0)
    assert read.asked == [0, 1, 2, 3, 4] * 2


# -------------------------------------------------------------------------------- without masks


NO_MASKS = pytest.mark.filterwarnings("ignore:no masks were given")


@at_most(25)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_weights_without_masks(classes, seed):
    """Each term times its standard deviation counts the same, and the area is that of the maps."""
    rng = np.random.default_rng(seed)
    photos, _ = random_terms(rng, 4, classes)
    for each in photos:
        each.values[:, :6, NAMES.index("recolour")] = 0  # the first round
        each.values[:, 6:, NAMES.index("colour")] = 0
    found = weigh([*photos, None], START)
    assert (found.photos, found.folds, found.before) == (5, 0, None)
    first = np.concatenate([each.values[:, :6].reshape(-1, len(NAMES)) for each in photos])
    for name, count in (("walk", 0.6), ("rivals", -0.15), ("x", -0.3), ("contrast", 0.3)):
        spread = first[:, NAMES.index(name)].std()
        assert getattr(found.weights, name) * spread == pytest.approx(count)
    vector = np.array(dataclasses.astuple(found.weights))
    # The score that is 0 is the last one of the background, up to rounding.
    area = sum(
        each.shares[:, :6].sum(0)[(each.values[:, :6] @ vector).max(0) > 1e-9].sum()
        for each in photos
    )
    wanted = sum(each.shares[1:, :6].sum() for each in photos)
    largest = max(each.shares.sum(0).max() for each in photos)
    assert wanted - largest <= area <= wanted + 1e-9


@NO_MASKS
def test_calibrate_without_masks():
    photos, maps, *_ = samples(8)
    found = calibrate(photos, maps)
    assert found.weights.features == 0  # there are none
    # Of other weights, only those that are 0 matter.
    assert calibrate(photos, maps, weights="tags-only").weights == found.weights
    without = calibrate(photos, maps, weights="no-position").weights
    assert without.x == without.y == 0 != found.weights.y
    assert "mean IoU" not in str(found)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["fitted"] is None


@NO_MASKS
@needs_data(VOC, *CAMS)
def test_weights_of_photos_without_masks():
    """A few photos have weights like those of the many that "tags-only" is from."""
    photos, maps = zip(*(voc_photo(name) for name in training_photos()[:6]), strict=True)
    found = dataclasses.asdict(calibrate(photos, maps).weights)
    for name, value in dataclasses.asdict(EVIDENCE_WEIGHTS["tags-only"]).items():
        if name != "constant":
            assert 0.5 < found[name] / value < 2, name
    assert found["constant"] == pytest.approx(EVIDENCE_WEIGHTS["tags-only"].constant, abs=1.5)


def test_what_speaks_against_weights_without_masks():
    photos, maps, *_ = samples(1)
    with pytest.warns(UserWarning, match="no masks were given: nothing says how good"):
        calibrate(photos, maps)
    with pytest.raises(ValueError, match=r"^photos must be at least one with a class, got none"):
        calibrate(photos, maps, [[]])


GOOD = samples(5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"truths": GOOD[3][:4]},
            ValueError,
            "truths must have one element for each photo, 5, got 4",
        ),
        ({"tags": [[3]]}, ValueError, "tags must have one element for each photo, 5, got 1"),
        ({"folds": 1}, ValueError, "folds must be at least 2, got 1"),
        ({"folds": 6}, ValueError, "photos must be at least as many as folds, 6, got 5"),
        ({"ridge": 0}, ValueError, "ridge must be above 0, got 0"),
        ({"weights": "mine"}, ValueError, "weights must be one of"),
        ({"mean_over": ["cat"]}, TypeError, "mean_over must be an integer"),
        (
            {"truths": [np.zeros((60, 80), np.uint8)] * 5},
            ValueError,
            "truths must have pixels of the classes of the maps, got none",
        ),
        (
            {"truths": [np.zeros((4, 4), np.uint8)] * 5},
            ValueError,
            "truth must have shape (60, 80) to match photo, got (4, 4)",
        ),
        ({"truths": [np.zeros((60, 80))] * 5}, TypeError, "truth must have any integer dtype"),
    ],
)
def test_bad_arguments(changes, error, message):
    arguments = dict(zip(("photos", "maps", "tags", "truths"), GOOD, strict=True)) | changes
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        calibrate(**arguments)


# -------------------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, maps and masks of six photos, one of them broken."""
    path = tmp_path_factory.mktemp("calibrate")
    for kind in ("photos", "maps", "truth"):
        (path / kind).mkdir()
    for i, (photo, maps, truth) in enumerate(zip(*(GOOD[j] for j in (0, 1, 3)), strict=True)):
        Image.fromarray(photo).save(path / "photos" / f"p{i}.png")
        write_maps(path / "maps" / f"p{i}.npz", maps.maps, maps.class_ids)
        write_labels(path / "truth" / f"p{i}.png", truth)
    (path / "photos" / "p5.png").write_bytes(b"")
    write_maps(path / "maps" / "p5.npz", maps.maps, maps.class_ids)
    write_labels(path / "truth" / "p5.png", truth)
    return path


def folders_of(path):
    return [path / kind for kind in ("photos", "maps", "truth")]


@FEW
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_is_the_same(folder, jobs):
    found = run.calibrate(*folders_of(folder), jobs=jobs)
    assert set(found.failures) == {"p5"}
    maps = [read_maps(folder / "maps" / f"p{i}.npz") for i in range(5)]  # float16
    expected = calibrate(GOOD[0], maps, None, GOOD[3], mean_over=range(21))
    assert dataclasses.replace(found, failures={}) == expected


def test_a_task_compares_with_the_weights_as_they_are_given(tmp_path):
    photo, sets = two_classes()
    files = {name: tmp_path / name for name in ("photo.png", "maps.npz", "truth.png")}
    Image.fromarray(photo).save(files["photo.png"])
    write_maps(files["maps.npz"], sets[0].maps, sets[0].class_ids)
    write_labels(files["truth.png"], evidence(photo, read_maps(files["maps.npz"])))
    numbers = dataclasses.asdict(START)
    item = dict(zip(("photo", "maps 0", "truth"), files.values(), strict=True))
    settings = {"archives": [None], "reading": {}, "start": numbers}
    of_name, of_numbers = (
        np.array(CompareLabels(settings | {"given": each})(item | {"fitted": numbers})["matrices"])
        for each in ("position", numbers)
    )
    assert np.trace(of_name[0]) == of_name[0].sum() > np.trace(of_name[1])
    assert np.array_equal(of_numbers[0], of_numbers[1])


def test_command(folder, tmp_path, capsys):
    arguments = [f"--{path.name}={path}" for path in folders_of(folder)]
    files = [f"--out={tmp_path / 'weights.json'}", f"--json={tmp_path / 'all.json'}"]
    assert main(["calibrate", *arguments, *files, "--mean-over=background,3", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "cross-validated in 5 parts" in out
    assert "NOTE: 5 photos say little" in out
    assert "failed: p5: " in err
    weights = json.loads((tmp_path / "weights.json").read_text())
    assert json.loads((tmp_path / "all.json").read_text())["weights"] == weights

    labels = ["labels", *arguments[:2], f"--out={tmp_path / 'labels'}", "--recipe=evidence"]
    option = f"--option=weights=@{tmp_path / 'weights.json'}"
    assert main([*labels, option, "--limit=1", "--quiet"]) == 0
    found = read_labels(tmp_path / "labels" / "p0.png")
    maps = read_maps(folder / "maps" / "p0.npz")
    assert np.array_equal(found, evidence(GOOD[0][0], maps, weights=weights))


def test_command_without_masks(folder, tmp_path, capsys):
    photos, maps, _ = folders_of(folder)
    arguments = [f"--photos={photos}", f"--maps={maps}", f"--out={tmp_path / 'weights.json'}"]
    assert main(["calibrate", *arguments, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "NOTE: no masks were given" in out
    assert "failed: p5: " in err
    weights = json.loads((tmp_path / "weights.json").read_text())
    with pytest.warns(UserWarning, match="no masks were given"):
        expected = calibrate(GOOD[0], [read_maps(maps / f"p{i}.npz") for i in range(5)]).weights
    assert weights == dataclasses.asdict(expected)


def test_command_refuses(folder, tmp_path, capsys):
    arguments = ["calibrate", *(f"--{path.name}={path}" for path in folders_of(folder)), "--quiet"]
    assert main([*arguments, f"--out={tmp_path / 'weights.txt'}"]) == 2
    assert "--out must be the name of a .json file" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("background\ncat\n")
    names = f"--classes={tmp_path / 'names.txt'}"
    assert main([*arguments, f"--out={tmp_path / 'w.json'}", names]) == 2
    assert "the truth of p0 must hold 0 to 1" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("p0\np1\n")
    assert main([*arguments, f"--out={tmp_path / 'w.json'}", f"--list={tmp_path / 'two.txt'}"]) == 2
    assert "photos must be at least as many as folds, 5, got 2" in capsys.readouterr().err
    (tmp_path / "w.json").write_text('{"walk": 1')
    labels = ["labels", *arguments[1:3], f"--out={tmp_path / 'labels'}", "--recipe=evidence"]
    assert main([*labels, f"--option=weights=@{tmp_path / 'w.json'}"]) == 2
    assert "--option must name a JSON file after @" in capsys.readouterr().err
    (tmp_path / "w.json").write_text('{"walk": 1}')
    assert main([*labels, f"--option=weights=@{tmp_path / 'w.json'}"]) == 2
    assert "weights must have one number for each of colour, " in capsys.readouterr().err
