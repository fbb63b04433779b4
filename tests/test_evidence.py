"""The recipe evidence: against a plain version, what its terms do, and photos of one colour."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from common import DATA, VOC, needs, needs_data
from hypothesis import given
from hypothesis import strategies as st

import cuekit
from cuekit import recipes, reference
from cuekit.io import Maps, read_labels, read_photo
from cuekit.metrics import confusion_matrix, mean_iou
from cuekit.recipes import EVIDENCE_CRF, EVIDENCE_WEIGHTS, EvidenceWeights, evidence
from cuekit.recipes.evidence import evidence_graph

CAMS = [DATA / "cams" / f"{name}.npz" for name in ("color", "gray")]


def maps_of(maps, ids=(3,), **fields):
    return Maps(np.asarray(maps, np.float32), np.array(ids, np.int64), None, "cuekit", **fields)


def photo_of_a_disc(size=(90, 120), centre=(50, 60), radius=25, seed=0):
    """A red disc on green, with noise; its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: size[0], : size[1]]
    mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    photo = np.where(mask[..., None], (180, 60, 40), (60, 140, 70))
    return (photo + rng.integers(-12, 13, photo.shape)).astype(np.uint8), mask


def blob(size, centre, width):
    """A map that is high at one place, as those of classifiers are at an object's head."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# ------------------------------------------------------------------------------------- the oracle


def features_of(sets, size):
    """Each layer from 0 to 1, at its own size; their sum at the photo's, from 0 to 1."""

    def stretched(layer):
        return (layer - layer.min()) / max(layer.max() - layer.min(), 1e-12)

    layers = [layer.astype(np.float64) for each in sets for layer in each.features]
    return stretched(sum(reference.resize(stretched(each)[None], size)[0] for each in layers))


def plain_terms(photo, sets):
    """The terms (C, S) by name, with the oracles of the ops that the recipe calls, and the rest."""
    size = photo.shape[:2]
    superpixels = cuekit.felzenszwalb(photo, 50)  # has tests of its own, and no fast oracle

    def mean(values):  # (C, H, W) -> (C, S)
        return np.stack(
            [[v[superpixels == s].mean() for s in range(superpixels.max() + 1)] for v in values]
        )

    def relative(values):
        return values / values.max(1, keepdims=True)

    merged = sum(
        m / m.max((1, 2), keepdims=True)
        for m in (reference.resize(each.maps.astype(np.float64), size) for each in sets)
    )
    graph = cuekit.superpixel_graph(superpixels, photo)
    own = relative(mean(merged))
    connectivity, contrast = reference.boundary_connectivity(graph, 7.0, 3.0, 0.4)
    soft = np.concatenate([(1 - own.max(0, keepdims=True)) ** 3.5, own])
    soft /= soft.sum(0)
    rows, columns = np.gradient(cuekit.rgb_to_lab(photo)[..., 0].astype(np.float64))
    y, x = graph.centres.T
    terms = {
        "walk": np.log(relative(reference.superpixel_walk(own, graph, 0.02, 10.0)) + 0.03),
        "rivals": np.log(own.sum(0) - own + 0.03),
        "colour": mean(reference.colour_evidence(soft[:, superpixels], photo)),
        "features": mean(features_of(sets, size)[None]),
        "connectivity": np.minimum(connectivity, 8),
        "contrast": contrast,
        "x": (x - 0.5) ** 2,
        "y": y,
        "constant": 1.0,
        "gradient": np.log(mean(np.hypot(rows, columns)[None]) + 0.3),
        "border": np.minimum(graph.border_pixels / graph.sizes**0.5, 8),
    }
    return {k: np.broadcast_to(v, own.shape) for k, v in terms.items()}, soft, graph


def plain_network(name, terms, soft, graph):
    with np.load(Path(recipes.__file__).with_name("evidence.npz")) as archive:
        names, hidden, output = (
            archive[f"{name}/{part}"] for part in ("terms", "hidden", "output")
        )
    share = graph.sizes / graph.sizes.sum()
    scores = np.zeros(soft[1:].shape)
    smooth = {k: reference.superpixel_walk(terms[k], graph, 0.05, 10.0) for k in names}
    for c, s in np.ndindex(scores.shape):
        inside = share * soft[c + 1]
        rows = []
        for k in names:
            term = terms[k][c]
            mean = (term * share).sum()
            spread = ((term - mean) ** 2 * share).sum() ** 0.5
            rows.append(
                [term[s], smooth[k][c, s], mean, (term * inside).sum() / inside.sum(), spread]
            )
        inputs = [*np.array(rows).T.ravel(), np.log(len(scores)), 1]
        scores[c, s] = np.array([*np.tanh(inputs @ hidden), 1]) @ output
    return scores


def plain_evidence(photo, sets, weights="position"):
    """One round of the recipe."""
    terms, soft, graph = plain_terms(photo, sets)
    fields = dataclasses.asdict(EVIDENCE_WEIGHTS[weights])
    scores = sum(fields[name] * term for name, term in terms.items() if name in fields)
    if weights != "tags-only":
        scores += (plain_network(weights, terms, soft, graph) - scores).clip(-1, 1)
    odds = np.exp(np.insert(scores, 0, 0, axis=0))
    soft = (odds / odds.sum(0))[:, graph.superpixels].astype(np.float32)
    refined = cuekit.dense_crf(soft, photo, EVIDENCE_CRF, iterations=5)
    return np.array([0, *sets[0].class_ids])[refined.argmax(0)]


def two_classes(seed=0):
    """A photo of two discs of other colours, and the maps and features of two classifiers."""
    rng = np.random.default_rng(seed)
    photo, _ = photo_of_a_disc(centre=(40, 35), seed=seed)
    y, x = np.ogrid[:90, :120]
    photo[(y - 55) ** 2 + (x - 90) ** 2 < 400] = (90, 60, 200)
    sets = [
        maps_of(
            [blob((12, 15), (5, 4), 2), 0.3 * blob((12, 15), (8, 11), 2)],
            ids=(8, 12),
            features=rng.random((2, 12, 15)).astype(np.float32),
        )
        for _ in range(2)
    ]
    return photo, sets


@pytest.mark.parametrize("weights", ["position", "no-position"])
def test_equals_a_plain_version(weights):
    """Sums in other orders move a label only where two scores are equal up to rounding."""
    photo, sets = two_classes()
    result = evidence(photo, sets, weights=weights, rounds=1)
    assert {*np.unique(result)} == {0, 8, 12}
    assert (result == plain_evidence(photo, sets, weights)).mean() > 0.999


@needs_data(VOC, *CAMS)
def test_equals_a_plain_version_on_photos():
    for name in training_photos()[:3]:
        photo, sets = voc_photo(name)
        photo = photo[:150, :200]  # the oracles are slow
        assert (evidence(photo, sets, rounds=1) == plain_evidence(photo, sets)).mean() > 0.999


def test_large_photos_have_no_more_superpixels_than_boundary_connectivity_takes():
    """Those of noise, of which there are most."""
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (side, 500, 3), np.uint8) for side in (900, 1300))
    np.testing.assert_array_equal(evidence_graph(small).superpixels, cuekit.felzenszwalb(small, 50))
    least = 1300 * 500 // 8192
    assert least > 60
    assert evidence_graph(large).sizes.min() >= least


def training_photos():
    return (VOC / "ImageSets" / "Segmentation" / "train.txt").read_text().split()


def voc_photo(name):
    sets = []
    for path in CAMS:
        with np.load(path) as archive:
            sets.append(
                maps_of(
                    archive[f"{name}/cams"],
                    archive[f"{name}/classes"],
                    features=archive[f"{name}/features"].astype(np.float32),
                )
            )
    return read_photo(VOC / "JPEGImages" / f"{name}.jpg"), sets


@needs_data(VOC, *CAMS)
def test_it_is_better_than_psa_on_photos(figures):
    """On 24 photos that the weights were fitted on: this guards the code, and proves no quality."""
    matrices = {"psa": [], "evidence": [], "tags-only": []}
    for name in training_photos()[:24]:
        photo, sets = voc_photo(name)
        truth = read_labels(VOC / "SegmentationClass" / f"{name}.png")
        matrices["psa"].append(confusion_matrix(truth, recipes.psa(photo, sets, normalize=True)))
        matrices["evidence"].append(confusion_matrix(truth, evidence(photo, sets)))
        labels = evidence(photo, sets, weights="tags-only")
        matrices["tags-only"].append(confusion_matrix(truth, labels))
    psa, ours, tags = (float(mean_iou(sum(each), [0, 8, 12, 15])) for each in matrices.values())
    text = f"evidence: mIoU {ours:.3f}, without masks {tags:.3f}, PSA's recipe {psa:.3f}"
    figures.append(f"{text}, 24 training photos")
    assert ours > psa + 0.02
    assert tags > psa


# ------------------------------------------------------------------------------------ behaviour


@pytest.mark.parametrize("weights", EVIDENCE_WEIGHTS)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_map_of_a_part_finds_the_whole(weights, rounds):
    photo, mask = photo_of_a_disc()
    maps = maps_of([blob((9, 12), (4, 5), 1.2)])
    part = recipes.threshold(photo, maps, threshold=0.3, normalize=True) == 3
    labels = evidence(photo, maps, weights=weights, rounds=rounds)
    assert iou(labels == 3, mask) > 0.9 > 0.6 > iou(part, mask)


def test_without_position_a_mirror_image_has_mirrored_labels():
    """But for superpixels, which depend on the order of pixels a little."""
    photo, _ = photo_of_a_disc(centre=(30, 40))
    maps = maps_of([blob((9, 12), (3, 4), 1.5)])
    upside_down = dataclasses.replace(maps, maps=maps.maps[:, ::-1, ::-1].copy())
    labels = evidence(photo, maps, weights="no-position")
    turned = evidence(photo[::-1, ::-1].copy(), upside_down, weights="no-position")
    assert (labels == turned[::-1, ::-1]).mean() > 0.97
    assert (labels == 3).any()


def test_the_correction_is_of_named_weights_and_has_a_limit():
    """Without it, weights and their name are the same; a wider limit changes more."""
    photo, sets = two_classes()
    plain = evidence(photo, sets, correction=0)
    assert np.array_equal(plain, evidence(photo, sets, weights=EVIDENCE_WEIGHTS["position"]))
    changed = [(evidence(photo, sets, correction=c) != plain).mean() for c in (1e-9, 1, 9)]
    assert changed[0] == 0
    assert changed[0] < changed[1] < changed[2]


def test_one_classifier_is_two_equal_ones():
    photo, sets = two_classes()
    one = evidence(photo, sets[0])
    assert (one == evidence(photo, [sets[0], sets[0]])).mean() > 0.999


def test_scale_of_the_maps_does_not_matter():
    photo, sets = two_classes()
    scaled = [dataclasses.replace(each, maps=each.maps * np.float32(8)) for each in sets]
    assert np.array_equal(evidence(photo, sets), evidence(photo, scaled))


def test_features_are_optional():
    """Background maps of the files stand for them, and then a constant."""
    photo, mask = photo_of_a_disc()
    maps = maps_of([blob((9, 12), (4, 5), 1.2)])
    background = dataclasses.replace(maps, background=(1 - maps.maps[0]))
    features = dataclasses.replace(maps, features=maps.maps)
    for each in (maps, background, features, [maps, features]):
        assert iou(evidence(photo, each) == 3, mask) > 0.9
    assert np.array_equal(evidence(photo, background), evidence(photo, features))


def test_cues_are_maps_of_0_and_1():
    photo, mask = photo_of_a_disc()
    cues = blob((9, 12), (4, 5), 1.2) > 0.5
    maps = dataclasses.replace(maps_of(cues[None]), maps=cues[None])
    assert iou(evidence(photo, maps) == 3, mask) > 0.9


def test_tags_choose_the_classes():
    photo, sets = two_classes()
    assert {*np.unique(evidence(photo, sets, tags=[12]))} == {0, 12}
    assert (evidence(photo, sets, tags=[]) == 0).all()


def test_it_is_a_recipe_by_name():
    assert recipes.RECIPES["evidence"] is evidence


def test_real_photo():
    """A map on the head of scikit-image's cat."""
    data = needs("skimage.data")
    photo = data.chelsea()
    maps = maps_of(
        [blob((19, 29), (7, 14), 4)], ids=(8,), features=blob((19, 29), (9, 14), 8)[None]
    )
    labels = evidence(photo, maps)
    assert {*np.unique(labels)} == {0, 8}
    assert (labels[80:160, 150:290] == 8).mean() > 0.5  # the face
    assert (labels[:40, :60] == 8).mean() < 0.1  # the wall


# --------------------------------------------------------------------------- what is degenerate


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 3),
    st.sampled_from(["noise", "zero", "one", "negative", "peak"]),
    st.sampled_from(["noise", "black", "gray"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_photo_has_labels(size, classes, kind, colours, features, seed):
    """One pixel, one superpixel, one colour, no class, constant maps: ids of the maps, or 0."""
    rng = np.random.default_rng(seed)
    photo = np.full((*size, 3), 128 * (colours == "gray"), np.uint8)
    if colours == "noise":
        photo = rng.integers(0, 256, photo.shape, np.uint8)
    shape = (classes, 3, 3)
    maps = {
        "noise": rng.random(shape),
        "zero": np.zeros(shape),
        "one": np.ones(shape),
        "negative": -rng.random(shape),
        "peak": np.eye(9)[4].reshape(3, 3) * np.ones(shape),
    }[kind]
    each = maps_of(
        maps, ids=range(1, classes + 1), features=maps[:1] if features and classes else None
    )
    labels = evidence(photo, [each, each])
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert {*np.unique(labels)} <= {*range(classes + 1)}
    if kind in ("zero", "negative") or not classes:
        assert (labels == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 700), (700, 1)])
def test_a_row_or_a_column_of_pixels(size):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    shape = (2, *(1 if side == 1 else 5 for side in size))
    maps = maps_of(rng.random(shape), ids=(4, 9), features=rng.random(shape))
    labels = evidence(photo, maps)
    assert labels.shape == size
    assert {*np.unique(labels)} <= {0, 4, 9}


@pytest.mark.parametrize("weights", EVIDENCE_WEIGHTS)
@pytest.mark.parametrize("others", [0, 1])
def test_a_class_whose_map_is_zero_is_nowhere(weights, others):
    """Whatever the features say."""
    photo, mask = photo_of_a_disc()
    features = blob((9, 12), (4, 5), 1.2)[None]
    maps = np.stack([np.zeros((9, 12)), *[features[0]] * others])
    labels = evidence(
        photo, maps_of(maps, ids=(3, 5)[: len(maps)], features=features), weights=weights
    )
    assert not (labels == 3).any()
    assert iou(labels == 5, mask) > 0.9 if others else (labels == 0).all()


@pytest.mark.parametrize("colour", [None, 0, 200])
def test_a_map_that_is_the_same_everywhere_is_everywhere(colour):
    """It says that the class is in every pixel, and so do the labels."""
    photo, _ = photo_of_a_disc()
    photo = photo if colour is None else np.full_like(photo, colour)
    labels = [evidence(photo, maps_of(np.full((1, 9, 12), value))) for value in (0.2, 7)]
    assert (labels[0] == 3).all()
    assert (labels[1] == 3).all()


PHOTO, _ = photo_of_a_disc((20, 20), (10, 10), 5)
MAPS = maps_of(np.ones((1, 4, 4)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"weights": "best"},
            ValueError,
            "weights must be one of 'position', 'no-position', 'tags-only', got 'best'",
        ),
        ({"weights": 3}, TypeError, "weights must be EvidenceWeights, a dict or a name, got int"),
        ({"weights": {"walk": 1}}, ValueError, "weights must have one number for each of colour, "),
        ({"correction": -1}, ValueError, "correction must be at least 0, got -1"),
        ({"correction": "1"}, TypeError, "correction must be a number"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1, got 0"),
        ({"rounds": 1.5}, TypeError, "rounds must be an integer"),
        ({"params": "none"}, ValueError, "params must be"),
        ({"tags": [7]}, ValueError, "tags must be of the classes that have maps, [3], got 7"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        evidence(PHOTO, MAPS, **options)


def test_maps_must_be_finite():
    with pytest.raises(ValueError, match=r"^maps must be finite, got nan"):
        evidence(PHOTO, maps_of(np.full((1, 4, 4), np.nan)))


def test_weights_are_numbers():
    good = dataclasses.asdict(EVIDENCE_WEIGHTS["position"])
    assert EvidenceWeights(**good) == EVIDENCE_WEIGHTS["position"]
    with pytest.raises(ValueError, match=r"^walk must be finite, got nan"):
        EvidenceWeights(**{**good, "walk": np.nan})
    with pytest.raises(TypeError, match=r"^x must be a number"):
        EvidenceWeights(**{**good, "x": "0"})
