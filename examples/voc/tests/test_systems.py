"""The systems that the paper compares with: their parts, and each as a whole."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import needs

torch = needs("torch")
needs("tqdm")

import data  # noqa: E402 - needs torch
import loop  # noqa: E402
import models  # noqa: E402
import shapes  # noqa: E402
import train  # noqa: E402
from systems import SYSTEMS, affinity, dcsm, sec, spn, two_phase  # noqa: E402

import cuekit  # noqa: E402
from cuekit.metrics import confusion_matrix, mean_iou  # noqa: E402
from cuekit.random_walk import neighbour_offsets  # noqa: E402

EXAMPLE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _same_random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small(classes=3):
    network = models.build("small", classes, 8)
    network.eval()
    return network.requires_grad_(False)


# -------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("name", ["small", "mobilenet_v2"])
def test_looking_inside_changes_no_maps_and_gives_gradients(name):
    network = models.build(name, 3, 8)
    network.eval()
    photos = torch.randn(1, 3, 33, 41)
    middle, maps = network.look_inside(photos)
    assert torch.equal(maps, network(photos))
    assert len(middle) == len(network.middle)
    assert middle[0].shape[2:] == (5, 6)  # a stride of 8
    # The gradient, by finite differences along a random direction at the first of the layers.
    network.double()
    middle, maps = network.look_inside(photos.double())
    (gradient,) = torch.autograd.grad(maps[0, 1].mean(), middle[:1])
    step = 1e-6 * torch.randn_like(middle[0])
    layer = network.get_submodule(network.middle[0])

    def moved(_, __, out):
        return (*out[:-1], out[-1] + step) if isinstance(out, tuple) else out + step

    hook = layer.register_forward_hook(moved)
    change = network(photos.double())[0, 1].mean() - maps[0, 1].mean()
    hook.remove()
    # ReLU has corners, and the differences are of second order.
    torch.testing.assert_close(change, (gradient * step).sum(), rtol=1e-3, atol=0)


def test_saliency_is_the_median_of_the_strongest_gradients():
    network = small()
    photos = torch.randn(1, 3, 41, 33)
    present = torch.tensor([True, False, True])
    found = sec.saliency(network, photos, present)
    middle, maps = network.look_inside(photos)
    (gradient,) = torch.autograd.grad(maps[0, [0, 2]].mean((1, 2)).sum(), middle[:1])
    strongest = np.pad(np.abs(gradient[0].numpy()).max(0), 1, mode="reflect")
    expected = [
        [np.median(strongest[y : y + 3, x : x + 3]) for x in range(found.shape[1])]
        for y in range(found.shape[0])
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    assert found.max() > 0


def test_class_gradients_are_of_the_class():
    network = small()
    photos = torch.randn(1, 3, 33, 33)
    both = dcsm.class_gradients(network, photos, np.array([0, 2]))
    for first, second in zip(
        both, dcsm.class_gradients(network, photos, np.array([2])), strict=True
    ):
        np.testing.assert_array_equal(first[1], second[0])
        assert np.any(first[0] != first[1])


def test_neighbours_are_those_of_the_offsets():
    cells = torch.arange(42.0).reshape(1, 6, 7)
    for (dy, dx), found in zip(neighbour_offsets(5), affinity.neighbours(cells, -1), strict=True):
        for y, x in itertools.product(range(6), range(7)):
            inside = y + dy < 6 and 0 <= x + dx < 7
            assert found[0, y, x] == (cells[0, y + dy, x + dx] if inside else -1)


def test_affinity_losses_are_means_over_pairs():
    rng = np.random.default_rng(0)
    cues = rng.random((2, 3, 6, 5)) < 0.2
    affinities = torch.from_numpy(rng.random((2, 34, 6, 5)))
    labels = np.where(cues.any(1), cues.argmax(1), 255)
    sums = {"background": [], "class": [], "across": []}
    offsets = neighbour_offsets(5)
    for b, (k, (dy, dx)) in itertools.product(range(2), enumerate(offsets)):
        for y, x in itertools.product(range(6), range(5)):
            if not (y + dy < 6 and 0 <= x + dx < 5):
                continue
            own, other = labels[b, y, x], labels[b, y + dy, x + dx]
            value = float(affinities[b, k, y, x])
            if 255 in (own, other):
                continue
            name = "across" if own != other else "class" if own else "background"
            sums[name].append(-np.log((1 - value if own != other else value) + 1e-5))
    found = affinity.affinity_losses(affinities, {"cues": torch.from_numpy(cues)})
    expected = {
        name: np.mean(values) / (2 if name == "across" else 4) for name, values in sums.items()
    }
    assert {name: pytest.approx(float(value)) for name, value in found.items()} == expected


def test_superpixels_have_equal_shares():
    superpixels = np.array([[[0, 0, 0], [3, 3, 1]], [[0, 0, 0], [0, 0, 0]]])
    weights = spn.shares(superpixels)
    np.testing.assert_allclose(weights[0], [[1 / 9, 1 / 9, 1 / 9], [1 / 6, 1 / 6, 1 / 3]])
    np.testing.assert_allclose(weights[1], np.full((2, 3), 1 / 6))


def test_superpixel_pooling_has_a_gradient():
    photos = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    maps = torch.randn(2, 3, 8, 8, requires_grad=True)
    batch = {"photos": torch.from_numpy(photos), "tags": torch.ones(2, 3, dtype=torch.bool)}
    terms = spn.Spn(scale=50, min_size=20).losses(maps, batch)
    (gradient,) = torch.autograd.grad(terms["superpixels"], maps)
    # All tags are present: larger maps are better everywhere.
    assert (gradient < 0).all()
    assert set(terms) == {"superpixels", "cells"}


def test_the_second_network_does_not_see_what_the_first_one_sees_best():
    first, second = small(), small()
    photos = torch.randn(2, 3, 41, 41)
    network = two_phase.Second(second, first, 0.6)
    kept = network.kept(photos)
    maps = first(photos)
    top = second.top_layers(photos)[1]
    for i in range(2):
        scores = maps[i].mean((1, 2)).sigmoid()
        chosen = (scores >= 0.5) | (scores == scores.max())
        strong = torch.stack([m > 0.6 * m.max() for m in maps[i][chosen]]).any(0)
        assert strong.any()
        assert (kept[i, :, strong] == 0).all()
        assert torch.equal(kept[i, :, ~strong], top[i, :, ~strong])


# ------------------------------------------------------------------------------------ whole systems


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with classifiers and cues of a small data set, to which systems can be added."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.generate(root, train=60, val=12)
    out = tmp_path_factory.mktemp("run")
    settings = json.loads((EXAMPLE / "shapes.json").read_text(encoding="utf-8"))
    settings["segmenter"]["epochs"] = 1  # that it runs is enough
    short = tmp_path_factory.mktemp("settings") / "short.json"
    short.write_text(json.dumps(settings), encoding="utf-8")

    def stages(*options):
        settings = ("--settings-file", short, "--classes", *shapes.NAMES)
        fixed = ["--root", root, "--out", out, "--workers", 0, "--train", "train", *settings]
        train.parse([str(x) for x in ("all", *fixed, "--segmenters", *options)]).run()

    return root, out, stages


def test_every_system_labels_photos_and_trains_a_network(run):
    root, out, stages = run
    stages("merged", *SYSTEMS)
    folder = data.VocFolder.open(root)
    training, held_out = folder.training_ids(["train"])
    quality = {}
    for name in SYSTEMS:
        counts = 0
        for photo in [*training, *held_out]:
            labels = cuekit.io.read_labels(out / "cues" / name / f"{photo}.png")
            tags = 1 + np.flatnonzero(folder.tags[photo])
            assert set(np.unique(labels)) <= {0, 255, *tags.tolist()}
            truth = folder.truth(photo)
            assert labels.shape == truth.shape
            counts = counts + confusion_matrix(truth, labels, 6, unknown_as=5)
        found = counts[:-1, :-1].copy()
        found[:, 0] += counts[:-1, -1]
        quality[name] = mean_iou(found)
        assert loop.load(out / f"segmenter-{name}" / "checkpoint.pt")["finished"]
    # Labels that are background everywhere have 0.15 to 0.2. The gradients that DCSM sees in this
    # small network, which was not trained on anything else, do not show objects.
    del quality["dcsm"]
    assert min(quality.values()) > 0.25, quality
    tables = json.loads((out / "tables-val.json").read_text(encoding="utf-8"))
    (table,) = [t for t in tables if t["title"].startswith("Table 4")]
    assert [row[0] for row in table["rows"]] == ["merged", *SYSTEMS]
    assert all(cell != "–" for row in table["rows"][1:] for cell in row[:6])


def test_labels_of_a_system_resume_and_refuse_other_settings(run, tmp_path):
    root, out, _ = run
    stage = ["system", "--system", "dcsm", "--root", root, "--workers", 0, "--train", "train"]
    settings = json.loads((EXAMPLE / "shapes.json").read_text(encoding="utf-8"))["system"]
    options = ["--epochs", 5, "--learning-rate", 0.001, "--set", *settings["set"]]
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    whole = [*stage, "--out", copy, *options]
    labels = copy / "cues" / "dcsm"
    kept = {path.name: path.read_bytes() for path in labels.glob("*.png")}
    next(labels.glob("*.png")).unlink()
    train.parse(list(map(str, whole))).run()
    assert {path.name: path.read_bytes() for path in labels.glob("*.png")} == kept
    with pytest.raises(ValueError, match=r"made with other settings \(set.alpha"):
        train.parse([*map(str, whole), "dcsm.alpha=3"]).run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("x=1", "must be of"),
        ("spn.alpha=1", "must be of"),
        ("alpha", "NAME=VALUE"),
        ("alpha=q", "NAME=VALUE"),
        ("alpha=true", "must be a float"),
        ("stride=1.5", "must be a int"),
    ],
)
def test_unknown_settings_are_refused(change, message):
    name = "spn" if change.startswith("spn") else "dcsm"
    with pytest.raises(ValueError, match=message):
        train.changed(name, [change])


def test_settings_of_one_system_leave_the_others_alone():
    assert train.changed("dcsm", ["spn.scale=5", "dcsm.alpha=2"]) == dcsm.Dcsm(alpha=2)
    assert train.changed("spn", ["spn.scale=5", "dcsm.alpha=2"]) == spn.Spn(scale=5)
