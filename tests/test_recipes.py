"""Recipes against compositions of NumPy's steps and the oracles, and against pydensecrf.

The compositions take the steps of the published scripts one after the other, one run and one
classifier at a time, with `cuekit.dense_crf` as the CRF, which has tests of its own. Background
maps are computed in the dtype of the maps, as there. Other steps may round otherwise, and the CRF
amplifies that: labels are compared where the two best marginals differ by more than 1e-3, which
nearly all do.
"""

import inspect
import re

import numpy as np
import pytest
from common import DATA, ROOT, VOC, at_most, needs, needs_data
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS

import cuekit
from cuekit import CRFParams, crf, recipes, reference
from cuekit.io import MapArchive, Maps, read_photo
from cuekit.recipes import RECIPES

CAMS = DATA / "cams" / "color.npz"
CLOSE = 1e-3
NEED_PROBABILITIES = sorted(set(RECIPES) - {"evidence", "snap", "weclip"})


def options_of(name, photo):
    """What a recipe needs beyond photo and maps."""
    return {"masks": np.ones((1, *photo.shape[:2]), bool)} if name == "sepl" else {}


def files_maps(maps, ids, **others):
    """The maps that `read_maps` would return."""
    return Maps(maps, np.array(ids, np.int64), others.pop("background", None), "irn", **others)


@st.composite
def inputs(draw, classifiers=1):
    """A photo of a few patches, and maps of up to three classes in [0, 1] for each classifier."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.sampled_from([(1, 1), (9, 7), (12, 31), (30, 22)]))
    photo = np.kron(rng.integers(0, 256, (3, 3, 3)), np.ones((height, width, 1)))[::3, ::3]
    photo = (photo[:height, :width] + rng.integers(0, 30, (height, width, 3))).clip(0, 255)
    ids = rng.choice(np.arange(1, 21), draw(st.integers(1, 3)), replace=False).tolist()
    dtype = draw(st.sampled_from(FLOATS))
    sets = []
    for _ in range(classifiers):
        smaller = draw(st.booleans())
        size = (-(-height // 4), -(-width // 4)) if smaller else (height, width)
        sets.append(rng.random((len(ids), *size)).astype(dtype))
    return photo.astype(np.uint8), ids, sets


def enlarged(maps, photo):
    """Half-pixel centres, as the oracle; rounded to the dtype of the maps."""
    return reference.resize_bilinear(maps, photo.shape[:2]).astype(maps.dtype)


def one_run(probabilities, photo, setting, **options):
    """The marginals of one run, float64."""
    return cuekit.dense_crf(probabilities, photo, setting, **options).astype(np.float64)


def is_close(*runs):
    """Where the two best of a run's marginals are close (H, W)."""
    ordered = [np.sort(run, axis=0) for run in runs]
    return np.any([each[-1] - each[-2] < CLOSE for each in ordered], axis=0)


def two_thresholds(high, low, ids):
    """Foreground of the high run, background of both, 255 between."""
    first, second = (np.array([0, *ids])[run.argmax(0)] for run in (high, low))
    return np.select([first > 0, second == 0], [first, 0], 255)


def assert_alike(result, expected, unclear):
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[~unclear], expected[~unclear])


def powers(scores):
    """Softmax over channels."""
    raised = np.exp(scores.astype(np.float64))
    return raised / raised.sum(0)


# ------------------------------------------------------------------------------------ each recipe


@given(inputs(), st.sampled_from([0.0, 0.15, 0.5, 1.0]))
def test_threshold(drawn, threshold):
    photo, ids, [maps] = drawn
    result = recipes.threshold(photo, files_maps(maps, ids), threshold=threshold)
    full = enlarged(maps, photo)
    expected = np.zeros(photo.shape[:2], int)
    for y, x in np.ndindex(*expected.shape):
        best = max(range(len(ids)), key=lambda c: full[c, y, x])
        if full[best, y, x] > maps.dtype.type(threshold):
            expected[y, x] = ids[best]
    np.testing.assert_array_equal(result, expected)


@given(inputs(), st.sampled_from([(0.3, 0.05), (0.6, 0.6), (0.9, 0.2)]))
def test_irn(drawn, scores):
    photo, ids, [maps] = drawn
    high, low = scores
    result = recipes.irn(photo, files_maps(maps, ids), high=high, low=low, iterations=3)
    runs = []
    for score in scores:
        stack = np.stack([np.full(photo.shape[:2], maps.dtype.type(score)), *enlarged(maps, photo)])
        soft = np.full(stack.shape, 0.3 / len(ids))
        np.put_along_axis(soft, stack.argmax(0)[None], 0.7, axis=0)
        setting = CRFParams(3, 3, 10, 50, 5)
        runs.append(one_run(soft, photo, setting, iterations=3))
    assert_alike(result, two_thresholds(*runs, ids), is_close(*runs))


@given(inputs(), st.sampled_from([1, 4, 2.5]))
def test_psa(drawn, alpha):
    photo, ids, [maps] = drawn
    result = recipes.psa(photo, files_maps(maps, ids), alpha=alpha, iterations=3)
    run = run_with_alpha(photo, maps, alpha)
    assert_alike(result, np.array([0, *ids])[run.argmax(0)], is_close(run))


def run_with_alpha(photo, maps, alpha):
    full = enlarged(maps, photo)
    stack = np.stack([np.power(1 - full.max(0), alpha), *full])
    return one_run(stack, photo, CRFParams(3, 3, 10, 80, 13), iterations=3)


@given(inputs())
def test_psa_affinity(drawn):
    photo, ids, [maps] = drawn
    result = recipes.psa_affinity(photo, files_maps(maps, ids), iterations=3)
    low, high = (run_with_alpha(photo, maps, alpha) for alpha in (4, 32))
    expected = np.array([255, *ids])[low.argmax(0)]
    expected[high.argmax(0) == 0] = 0
    assert_alike(result, expected, is_close(low, high))


def test_background_of_the_high_alpha_wins(monkeypatch):
    """It seldom happens, so the CRF is replaced."""
    low, high = np.array([[[0.1]], [[0.9]]]), np.array([[[0.9]], [[0.1]]])
    monkeypatch.setattr("cuekit.recipes._steps.dense_crf", lambda *_, **__: np.stack([low, high]))
    photo, maps = np.zeros((1, 1, 3), np.uint8), files_maps(np.full((1, 1, 1), 0.5), [7])
    assert recipes.psa_affinity(photo, maps).tolist() == [[0]]


@given(inputs(), st.sampled_from([0, 0.6, 0.95]), st.sampled_from(["published", "plain"]))
def test_clip_es(drawn, confidence, colours):
    photo, ids, [maps] = drawn
    result = recipes.clip_es(
        photo, files_maps(maps, ids), confidence=confidence, colours=colours, iterations=3
    )
    full = enlarged(maps, photo)
    stack = np.stack([1 - full.max(0), *full])
    energies = -np.log(np.clip(stack, maps.dtype.type(1e-5), 1))
    assert energies.dtype == maps.dtype
    seen = photo
    if colours == "published":
        seen = np.empty_like(photo)
        for channel, mean in enumerate((104.008, 116.669, 122.675)):
            for value in range(256):
                seen[photo[..., 2 - channel] == value, channel] = int(value - mean) % 256
    energies = energies.astype(np.float32)
    run = one_run(energies, seen, CRFParams(3, 1, 4, 67, 3), iterations=3, unary="energies")
    expected = np.where(run.max(0) < confidence, 255, np.array([0, *ids])[run.argmax(0)])
    unclear = is_close(run) | (abs(run.max(0) - confidence) < CLOSE)
    assert_alike(result, expected, unclear)


@given(inputs(), st.sampled_from([(0.7, 0.25), (0.5, 0.5)]))
def test_toco(drawn, scores):
    photo, ids, [maps] = drawn
    result = recipes.toco(photo, files_maps(maps, ids), high=scores[0], low=scores[1], iterations=3)
    runs = []
    for score in scores:
        stack = np.stack([np.full(photo.shape[:2], maps.dtype.type(score)), *enlarged(maps, photo)])
        runs.append(one_run(powers(stack), photo, CRFParams(3, 3, 4, 36, 3), iterations=3))
    assert_alike(result, two_thresholds(*runs, ids), is_close(*runs))
    if scores[0] == scores[1]:  # the COCO script's labels: those of one run
        assert not (result == 255).any()


@at_most(20)  # the oracle of PAR is slow
@given(inputs(), st.sampled_from([1, 2, 4]))
def test_toco_par(drawn, reduction):
    photo, ids, [maps] = drawn
    result = recipes.toco_par(photo, files_maps(maps, ids), reduction=reduction)
    size = [max(side // reduction, 1) for side in photo.shape[:2]]
    small = reference.resize_bilinear(np.moveaxis(photo, 2, 0).astype(float), size)
    runs = []
    for score in (0.7, 0.25):
        full = enlarged(maps, photo).astype(np.float64)
        stack = np.stack([np.full(photo.shape[:2], score), *full])
        soft = powers(reference.resize_bilinear(stack, size))
        seen = np.moveaxis(small, 0, 2)
        refined = reference.refine_local(soft, seen, "par", (1, 2, 4, 8, 12, 24), 10)
        runs.append(reference.resize_bilinear(refined, photo.shape[:2]))
    # PAR smooths: its scores are closer to each other than marginals.
    assert_alike(result, two_thresholds(*runs, ids), is_close(*runs))


@given(inputs(), st.booleans())
def test_weclip(drawn, tagged):
    photo, ids, [maps] = drawn
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(21, *maps.shape[1:])) * 5).astype(maps.dtype)
    file = files_maps(logits[1:], range(1, 21), background=logits[0])
    channels = [0, *sorted(ids)] if tagged else list(range(21))
    result = recipes.weclip(photo, file, ids if tagged else None, iterations=3)
    soft = powers(enlarged(logits[channels], photo))
    run = one_run(soft, photo, CRFParams(3, 3, 4, 64, 5), iterations=3)
    assert_alike(result, np.array(channels)[run.argmax(0)], is_close(run))


def test_logits_need_a_background():
    photo, maps = np.zeros((4, 4, 3), np.uint8), files_maps(np.zeros((1, 4, 4)), [1])
    with pytest.raises(ValueError, match="maps must be logits with a background"):
        recipes.weclip(photo, maps)


@given(inputs(), st.sampled_from(["alpha", "threshold", "own", "neither"]))
def test_crf(drawn, kind):
    photo, ids, [maps] = drawn
    own = np.random.default_rng(1).random(maps.shape[1:]).astype(maps.dtype)
    options = {"alpha": {"alpha": 3}, "threshold": {"threshold": 0.4}}.get(kind, {})
    result = recipes.crf(
        photo,
        files_maps(maps, ids, background=None if kind == "neither" else own),
        params="irn",
        iterations=3,
        **options,
    )
    full = enlarged(maps, photo)
    background = {
        "alpha": np.power(1 - full.max(0), 3),
        "threshold": np.full(photo.shape[:2], maps.dtype.type(0.4)),
        "own": enlarged(own[None], photo)[0],
        "neither": 1 - full.max(0),
    }[kind]
    run = one_run(np.stack([background, *full]), photo, "irn", iterations=3)
    assert_alike(result, np.array([0, *ids])[run.argmax(0)], is_close(run))


@given(inputs(classifiers=2), st.sampled_from(["features", "background", "nothing"]))
def test_snap(drawn, kind):
    photo, ids, sets = drawn
    rng = np.random.default_rng(0)
    files, expected = [], False
    superpixels = cuekit.felzenszwalb(photo, 50, 0.8, 5)
    for maps in sets:
        layers = rng.random((2, 3, 4)).astype(np.float32)
        own = rng.random(maps.shape[1:]).astype(maps.dtype)
        others = {"features": {"features": layers}, "background": {"background": own}}
        files.append(files_maps(maps, ids, **others.get(kind, {})))
        low = {
            "features": reference.background_map(layers, size=maps.shape[1:]),
            "background": 1 - own,
            "nothing": None,
        }[kind]
        present = np.ones(len(ids), bool)
        subtracted = reference.subtract_classes(maps, present, "pairwise")
        cues = reference.raw_cues(subtracted, low, present, 0.4, 0.3)
        expected = expected | reference.snap_cues(cues, superpixels, 0.2)
    result = recipes.snap(
        photo,
        files,
        foreground_threshold=0.4,
        background_threshold=0.3,
        scale=50,
        min_size=5,
        threshold=0.2,
    )
    labels = np.full(photo.shape[:2], 255)
    labels[expected[0]] = 0
    for c in sorted(range(len(ids)), key=lambda c: -expected[c + 1].sum()):  # the smallest last
        labels[expected[c + 1]] = ids[c]
    areas = expected[1:].sum((1, 2)).tolist()
    if len(set(areas)) == len(areas):  # ties are cues_to_labels' own test
        np.testing.assert_array_equal(result, labels)


def test_modes_of_subtraction():
    rng = np.random.default_rng(3)
    photo = rng.integers(0, 256, (20, 30, 3), np.uint8)
    maps = files_maps(rng.random((3, 20, 30)), [1, 2, 3])
    first, *others = (
        recipes.snap(photo, maps, subtract=mode, scale=1, min_size=1)
        for mode in ("pairwise", "strongest", "dcsm")
    )
    assert all((other != first).any() for other in others)


@given(inputs(), st.sampled_from(["threshold", "toco"]))
def test_sepl(drawn, recipe):
    photo, ids, [maps] = drawn
    rng = np.random.default_rng(0)
    masks = rng.random((4, *photo.shape[:2])) < 0.6
    file = files_maps(maps, ids)
    result = recipes.sepl(photo, file, masks=masks, recipe=recipe, normalize=True)
    before = RECIPES[recipe](photo, file, normalize=True)
    np.testing.assert_array_equal(result, reference.sepl_labels(before, masks, 255))


def test_sepl_of_unsure_pixels_alone():
    """`sepl_labels` would warn that this looks like a mask."""
    photo, maps = np.zeros((2, 3, 3), np.uint8), files_maps(np.zeros((1, 2, 3)), [4])
    before = recipes.snap(photo, maps)
    assert (before == 255).all()
    result = recipes.sepl(photo, maps, masks=np.ones((1, 2, 3), bool), recipe="snap")
    np.testing.assert_array_equal(result, before)


# --------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_signature_and_documentation(name):
    function = RECIPES[name]
    assert function is getattr(recipes, name)
    first, *others = inspect.signature(function).parameters.values()
    assert [first.name, *(each.name for each in others[:2])] == ["photo", "maps", "tags"]
    assert others[1].default is None
    options = [each for each in others[2:] if each.kind is not each.VAR_KEYWORD]
    text = inspect.getdoc(function)
    assert re.match(r"[A-Z].*\.\n\n", text)
    described = text.split("Parameters\n")[1].split("Returns\n")[0]
    for each in options:
        assert each.kind is each.KEYWORD_ONLY
        assert re.search(rf"^.*\b{each.name}\b.*$", described, re.MULTILINE), each.name
        plain = each.name == "masks" or isinstance(each.default, int | float | str | None)
        assert plain, "the command line passes numbers and strings"
    assert name in ("snap", "crf") or "References\n---" in text


def test_published_settings():
    defaults = {
        name: {
            each.name: each.default
            for each in inspect.signature(function).parameters.values()
            if each.kind is each.KEYWORD_ONLY and each.default not in (None, False)
        }
        for name, function in RECIPES.items()
    }
    assert defaults["irn"] == {
        "high": 0.3,
        "low": 0.05,
        "gt_prob": 0.7,
        "params": "irn",
        "iterations": 10,
    }
    assert defaults["psa"] == {"alpha": 4, "params": "psa", "iterations": 10}
    assert defaults["psa_affinity"]["low_alpha"] == 4
    assert defaults["psa_affinity"]["high_alpha"] == 32
    assert defaults["clip_es"]["alpha"] == 1
    assert defaults["clip_es"]["confidence"] == 0.95
    assert defaults["clip_es"]["colours"] == "published"
    assert (defaults["toco"]["high"], defaults["toco"]["low"]) == (0.7, 0.25)
    assert (defaults["toco_par"]["high"], defaults["toco_par"]["low"]) == (0.7, 0.25)
    assert defaults["snap"]["foreground_threshold"] == 0.3
    assert defaults["snap"]["background_threshold"] == 0.2
    assert defaults["threshold"]["threshold"] == 0.15
    for name in ("irn", "clip_es", "weclip"):
        assert defaults[name]["params"] == name.replace("_", "-")
    assert defaults["toco"]["params"] == "toco-cam"
    assert set(defaults) == set(RECIPES)


def example(classes=3, size=(12, 17), seed=0):
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (12, 17, 3), np.uint8)
    maps = rng.random((classes, *size), np.float32)
    ids = [15, 3, 8][:classes]
    background = rng.random(size, np.float32)
    return photo, Maps(maps, np.array(ids, np.int64), background, "amn")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_tags_leave_maps_out(name):
    photo, maps = example()
    fewer = Maps(maps.maps[[0, 2]], maps.class_ids[[0, 2]], maps.background, "amn")
    options = options_of(name, photo)
    expected = RECIPES[name](photo, fewer, **options)
    for tags in ([8, 15], (15, 8, 8), np.array([15, 8]), {8, 15}):
        result = RECIPES[name](photo, maps, tags, **options)
        np.testing.assert_array_equal(result, expected)
    assert set(np.unique(expected)) <= {0, 15, 8, 255}


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("how", ["no tags", "no maps"])
def test_without_a_class_all_is_background(name, how):
    photo, maps = example(3 if how == "no tags" else 0)
    result = RECIPES[name](photo, maps, [] if how == "no tags" else None, **options_of(name, photo))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.zeros((12, 17)))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_map_of_zeros(name):
    """A class that the classifier did not find is nowhere."""
    photo, maps = example()
    maps.maps[1] = 0
    result = RECIPES[name](photo, maps, **options_of(name, photo))
    assert name == "weclip" or not (result == 3).any()


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"snap"}))
def test_several_classifiers_are_averaged(name):
    photo, first = example()
    _, second = example(size=(6, 9), seed=1)
    order = [2, 0, 1]  # the classes of a file may come in any order
    second = Maps(second.maps[order], first.class_ids[order], second.background, "amn")
    options = options_of(name, photo)
    result = RECIPES[name](photo, [first, second], **options)
    back = np.argsort(order)
    if name == "weclip":  # probabilities are, not logits
        soft = [
            powers(enlarged(np.stack([each.background, *each.maps]), photo)).astype(np.float32)
            for each in (first, Maps(second.maps[back], first.class_ids, second.background, ""))
        ]
        run = one_run(np.mean(soft, axis=0), photo, "weclip")
        expected = np.array([0, *first.class_ids])[run.argmax(0)]
        assert_alike(result, expected, is_close(run))
        return
    mean = np.mean([first.maps, enlarged(second.maps[back], photo)], axis=0)
    background = np.mean([first.background, enlarged(second.background[None], photo)[0]], axis=0)
    one = Maps(mean, first.class_ids, background, "amn")
    np.testing.assert_array_equal(result, RECIPES[name](photo, one, **options))


@pytest.mark.parametrize("name", NEED_PROBABILITIES)
def test_maps_that_are_not_normalized(name):
    photo, maps = example()
    factors = np.array([30, 0.5, 2], np.float32)[:, None, None]
    scaled = Maps(maps.maps * factors, maps.class_ids, maps.background, "psa")
    scaled.maps[0, 0, 0] = -5
    options = options_of(name, photo)
    with pytest.raises(ValueError, match=r"maps must lie in \[0, 1\], got .* pass normalize=True"):
        RECIPES[name](photo, scaled, **options)
    result = RECIPES[name](photo, scaled, normalize=True, **options)
    divided = np.maximum(scaled.maps, 0) / scaled.maps.max((1, 2), keepdims=True)
    by_hand = Maps(divided, maps.class_ids, maps.background, "psa")
    np.testing.assert_array_equal(result, RECIPES[name](photo, by_hand, **options))


@pytest.mark.parametrize("name", NEED_PROBABILITIES)
def test_normalizing_maps_of_zeros(name):
    photo, maps = example()
    maps.maps[1:] = 0
    RECIPES[name](photo, maps, normalize=True, **options_of(name, photo))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_cues_are_maps_of_0_and_1(name):
    photo, maps = example()
    cues = Maps(maps.maps > 0.5, maps.class_ids, maps.background, "cuekit")
    as_maps = Maps(cues.maps.astype(np.float32), maps.class_ids, maps.background, "cuekit")
    options = options_of(name, photo)
    result = RECIPES[name](photo, cues, **options)
    np.testing.assert_array_equal(result, RECIPES[name](photo, as_maps, **options))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_large_class_ids(name):
    photo, maps = example()
    large = Maps(maps.maps, np.array([300, 3, 1203]), maps.background, "amn")
    options = options_of(name, photo)
    result = RECIPES[name](photo, large, **options)
    assert result.dtype == np.int32
    # SEPL's classes take masks in ascending order: the ids are in the order of the others.
    small = Maps(maps.maps, np.array([7, 3, 9]), maps.background, "amn")
    expected = RECIPES[name](photo, small, **options).astype(int)
    for before, after in ((7, 300), (9, 1203)):
        expected[expected == before] = after
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_arguments_are_not_changed(name):
    photo, maps = example()
    before = photo.copy(), maps.maps.copy(), maps.background.copy()
    first = RECIPES[name](photo, maps, **options_of(name, photo))
    for array in (photo, maps.maps, maps.background):
        array.flags.writeable = False
    second = RECIPES[name](photo, maps, **options_of(name, photo))
    np.testing.assert_array_equal(first, second)
    for array, copy in zip((photo, maps.maps, maps.background), before, strict=True):
        np.testing.assert_array_equal(array, copy)


# ----------------------------------------------------------------------------------------- errors


def with_value(value):
    _, maps = example()
    maps.maps[1, 2, 3] = value
    return maps


PHOTO, MAPS = example()
OTHERS = Maps(MAPS.maps, np.array([15, 3, 9]), None, "irn")
PORTRAIT = Maps(np.zeros((1, 17, 12)), np.array([15]), np.zeros((17, 12)), "irn")
WRONG = {
    "a photo without colours": (
        (PHOTO[..., 0], MAPS),
        ValueError,
        r"photo must have shape \(H, W, 3\), got \(12, 17\)",
    ),
    "a photo with its channels first": (
        (np.moveaxis(PHOTO, 2, 0), MAPS),
        ValueError,
        r"photo must have shape \(H, W, 3\), .* got \(3, 12, 17\)",
    ),
    "a photo without pixels": ((PHOTO[:0], MAPS), ValueError, r"H and W >= 1, got \(0, 17, 3\)"),
    "a floating photo": ((PHOTO / 255, MAPS), TypeError, "photo must have dtype uint8, got float"),
    "a dictionary": ((PHOTO, {"cam": 1}), TypeError, "maps must be Maps, or a list .* got dict"),
    "an array": ((PHOTO, MAPS.maps), TypeError, "maps must be Maps, or a list of Maps, got ndarr"),
    "a list of arrays": ((PHOTO, [MAPS.maps]), TypeError, "maps must be Maps, or a list of Maps"),
    "no classifier": ((PHOTO, []), ValueError, "at least one classifier, got an empty list"),
    "a tag without a map": (
        (PHOTO, MAPS, [15, 16]),
        ValueError,
        r"tags must be of the classes that have maps, \[15, 3, 8\], got 16",
    ),
    "the background as tag": ((PHOTO, MAPS, [0]), ValueError, "tags must be of the .* got 0"),
    "a tag of the second classifier alone": (
        (PHOTO, [MAPS, OTHERS], [9]),
        ValueError,
        r"tags must be of the classes that have maps, \[15, 3, 8\], got 9",
    ),
    "a tag of the first classifier alone": (
        (PHOTO, [MAPS, OTHERS], [8]),
        ValueError,
        r"tags must be of the classes that have maps, \[15, 3, 9\], got 8",
    ),
    "classifiers of other classes": (
        (PHOTO, [MAPS, OTHERS]),
        ValueError,
        r"maps of several classifiers must be of the classes .* \[15, 3, 9\], got 8",
    ),
    "a classifier of more classes": (
        (PHOTO, [Maps(MAPS.maps[:2], MAPS.class_ids[:2], None, "irn"), MAPS]),
        ValueError,
        r"must be of the same classes, got \[15, 3\] and \[15, 3, 8\]: pass tags",
    ),
    "a name as tag": ((PHOTO, MAPS, ["cat"]), TypeError, "tags must be an integer, got 'cat'"),
    "a string as tags": ((PHOTO, MAPS, "15"), TypeError, "tags must be a sequence of class ids"),
    "flags as tags": ((PHOTO, MAPS, [True, False]), TypeError, "tags must be an integer, got True"),
    "a class twice": (
        (PHOTO, Maps(MAPS.maps, np.array([1, 2, 1]), None, "irn")),
        ValueError,
        r"maps must have one map for each class, got 3 for \[1, 2, 1\]",
    ),
    "too few ids": (
        (PHOTO, Maps(MAPS.maps, np.array([1, 2]), None, "irn")),
        ValueError,
        r"maps must have one map for each class, got 3 for \[1, 2\]",
    ),
    "the label of unsure pixels": (
        (PHOTO, Maps(MAPS.maps, np.array([1, 255, 2]), MAPS.background, "irn")),
        ValueError,
        r"class ids must not be 255, the label of unsure pixels, got \[1, 255, 2\]",
    ),
    "the size of another photo": (
        (PHOTO, Maps(MAPS.maps, MAPS.class_ids, None, "cuekit", (24, 34))),
        ValueError,
        r"photo must have the size that the maps' file names, \(24, 34\), got \(12, 17\)",
    ),
    "a photo that is turned": (
        (PHOTO, PORTRAIT),
        ValueError,
        r"maps must be of this photo of size \(12, 17\), got maps of size \(17, 12\)",
    ),
    "maps of one class without a dimension for it": (
        (PHOTO, Maps(MAPS.maps[0], np.array([1]), None, "irn")),
        ValueError,
        r"maps must have .* \(C, h, w\), got shape \(12, 17\)|\(C, h, w\).* got \(12, 17\)",
    ),
    "maps of bytes": (
        (PHOTO, Maps(np.zeros((1, 12, 17), np.uint8), np.array([1]), None, "irn")),
        TypeError,
        "maps must have dtype bool or float16 or float32 or float64, got uint8",
    ),
    "maps without pixels": (
        (PHOTO, Maps(np.zeros((1, 0, 17)), np.array([1]), None, "irn")),
        ValueError,
        r"\(C, h, w\), h and w >= 1, got \(1, 0, 17\)",
    ),
    "NaN": ((PHOTO, with_value(np.nan)), ValueError, "must be finite, got nan"),
    "infinity": ((PHOTO, with_value(np.inf)), ValueError, "must be finite, got inf"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_wrong_arguments(name, wrong):
    arguments, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        RECIPES[name](*arguments, **options_of(name, PHOTO))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", NEED_PROBABILITIES)
def test_maps_that_are_not_finite_are_not_normalized(name, value):
    with pytest.raises(ValueError, match="maps must be finite"):
        RECIPES[name](PHOTO, with_value(value), normalize=True, **options_of(name, PHOTO))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("irn", {"high": 0.1, "low": 0.2}, ValueError, "low must be at most high = 0.1, got 0.2"),
        ("toco", {"high": 0.1}, ValueError, "low must be at most high = 0.1, got 0.25"),
        ("irn", {"high": "0.1"}, TypeError, "high must be a number"),
        ("irn", {"high": 1.5}, ValueError, "threshold must be at most 1, got 1.5"),
        ("irn", {"gt_prob": 1}, ValueError, "gt_prob must be between 0 and 1"),
        ("psa", {"alpha": 0}, ValueError, "alpha must be above 0"),
        ("psa_affinity", {"low_alpha": 33}, ValueError, "low_alpha must be at most high_alpha"),
        ("crf", {"alpha": 1, "threshold": 0.2}, ValueError, "exactly one of threshold and alpha"),
        ("crf", {"params": "sed"}, ValueError, "params must be one of"),
        ("crf", {"iterations": -1}, ValueError, "iterations must be at least 0"),
        ("crf", {"normalize": 1}, TypeError, "normalize must be True or False, got 1"),
        ("clip_es", {"colours": "bgr"}, ValueError, "colours must be one of 'published', 'plain'"),
        ("clip_es", {"confidence": 2}, ValueError, "confidence must be at most 1"),
        ("toco_par", {"reduction": 0}, ValueError, "reduction must be at least 1"),
        ("toco_par", {"preset": "pap"}, ValueError, "preset must be one of"),
        ("snap", {"subtract": "all"}, ValueError, "mode must be one of"),
        ("sepl", {"masks": np.ones((1, 2, 2), bool)}, ValueError, "masks must have shape"),
        ("sepl", {"recipe": "sepl"}, ValueError, "recipe must be one of"),
        ("sepl", {"recipe": "irm"}, ValueError, "recipe must be one of"),
        ("sepl", {"beta": 3}, TypeError, "unexpected keyword argument 'beta'"),
    ],
)
def test_wrong_options(name, options, error, message):
    with pytest.raises(error, match=message):
        RECIPES[name](PHOTO, MAPS, **{**options_of(name, PHOTO), **options})


def test_a_background_map_that_is_no_probability():
    maps = Maps(MAPS.maps, MAPS.class_ids, MAPS.background + 3, "amn")
    with pytest.raises(ValueError, match=r"background must lie in \[0, 1\].*must not hold logits"):
        recipes.snap(PHOTO, maps)
    with pytest.raises(ValueError, match=r"background must lie in \[0, 1\].*pass alpha or thresh"):
        recipes.crf(PHOTO, maps)


# ------------------------------------------------------------------------------------ real photos


def test_snap_makes_the_quickstart_s_labels():
    """Both are the paper's cues, of the maps that are in this repository."""
    photo = needs("skimage.data").chelsea()
    files, snapped = [], []
    superpixels = cuekit.felzenszwalb(photo)
    for kind in ("color", "gray"):
        file = MapArchive(ROOT / "examples" / "data" / f"{kind}.npz").read("chelsea")
        files.append(file)
        low = cuekit.background_map(file.features[:1], file.features[1:])
        cues = cuekit.raw_cues(cuekit.subtract_classes(file.maps), low)
        snapped.append(cuekit.snap_cues(cues, superpixels))
    classes = [0, *files[0].class_ids]
    expected = cuekit.cues_to_labels(np.logical_or(*snapped), classes=classes)
    np.testing.assert_array_equal(recipes.snap(photo, files), expected)


def pydensecrf_run(unary, photo, name):
    """Marginals (K, H, W) of energies (K, N) of a preset, by pydensecrf."""
    densecrf = needs("pydensecrf.densecrf")
    height, width = photo.shape[:2]
    model = densecrf.DenseCRF2D(width, height, len(unary))
    model.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    p = crf.PRESETS[name]
    model.addPairwiseGaussian(sxy=p.gaussian_sxy, compat=p.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=p.bilateral_sxy,
        srgb=p.bilateral_srgb,
        rgbim=np.ascontiguousarray(photo),
        compat=p.bilateral_weight,
    )
    return np.array(model.inference(10)).reshape(-1, height, width)


def of_voc(name):
    """A photo, its maps at the photo's size divided by their maxima, and its class ids."""
    photo = read_photo(VOC / "JPEGImages" / f"{name}.jpg")
    with np.load(CAMS) as data:
        ids = data[f"{name}/classes"].tolist()
        maps = reference.resize_bilinear(data[f"{name}/cams"].astype(float), photo.shape[:2])
    return photo, (maps / maps.max((1, 2), keepdims=True)).astype(np.float32), ids


@needs_data(VOC, CAMS)
@pytest.mark.parametrize("name", ["irn", "psa", "clip_es", "toco"])
def test_labels_are_pydensecrf_s(figures, name):
    """The steps of the scripts, with their CRF, on real photos: as a rule, no pixel differs."""
    needs("pydensecrf")
    differ = total = 0
    for photo_name in ("2007_000063", "2007_000836", "2008_002239"):
        photo, maps, ids = of_voc(photo_name)
        keys = np.array([0, *ids], np.uint8)
        shape = photo.shape[:2]
        if name == "irn":
            runs = []
            for score in (0.3, 0.05):
                hard = np.stack([np.full(shape, np.float32(score)), *maps]).argmax(0).ravel()
                energies = np.full((len(keys), hard.size), -np.log(0.3 / len(ids)))
                energies[hard, np.arange(hard.size)] = -np.log(0.7)
                runs.append(pydensecrf_run(energies, photo, "irn"))
            expected = two_thresholds(*runs, ids)
        elif name == "toco":
            runs = []
            for score in (0.7, 0.25):
                soft = powers(np.stack([np.full(shape, score), *maps]))
                energies = -np.log(soft.reshape(len(keys), -1))
                runs.append(pydensecrf_run(energies, photo, "toco-cam"))
            expected = two_thresholds(*runs, ids)
        else:
            if name == "clip_es":
                maps = maps.astype(np.float16)
            alpha = 4 if name == "psa" else 1
            stack = np.stack([(1 - maps.max(0)) ** alpha, *maps])
            energies = -np.log(np.clip(stack, stack.dtype.type(1e-5), 1)).reshape(len(keys), -1)
            seen = photo
            if name == "clip_es":
                seen = (photo[..., ::-1] - np.array([104.008, 116.669, 122.675])).astype(int) % 256
            run = pydensecrf_run(energies, seen.astype(np.uint8), name.replace("_", "-"))
            expected = keys[run.argmax(0)]
            if name == "clip_es":
                expected[run.max(0) < np.float32(0.95)] = 255
        result = RECIPES[name](photo, files_maps(maps, ids))
        differ += np.count_nonzero(result != expected)
        total += result.size
    figures.append(f"recipe {name} on 3 VOC photos: {differ} of {total} labels not pydensecrf's")
    assert differ <= 1e-5 * total  # mean field amplifies the rounding of bistable pixels
