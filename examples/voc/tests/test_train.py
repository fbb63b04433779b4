"""The stages of examples/voc: what they read and write, how they resume, and what they refuse."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from common import needs
from PIL import Image, ImageColor

torch = needs("torch")
needs("tqdm")

import cue_stage  # noqa: E402 - needs torch
import data  # noqa: E402
import evaluation  # noqa: E402
import loop  # noqa: E402
import panels  # noqa: E402
import shapes  # noqa: E402
import train  # noqa: E402

import cuekit  # noqa: E402
from cuekit.metrics import confusion_matrix, mean_iou  # noqa: E402

EXAMPLE = Path(__file__).parents[1]


# ---------------------------------------------------------------------------------- the data folder


def voc_folder(root, tags, *, size=(12, 16)):
    """Photos of one gray level each, whose masks are class 1 on the left half."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    ids = [f"photo{i}" for i in range(len(tags))]
    for i, name in enumerate(ids):
        Image.new("RGB", size[::-1], (i, 2 * i, 3 * i)).save(root / f"JPEGImages/{name}.jpg")
        labels = np.zeros(size, np.uint8)
        labels[:, : size[1] // 2] = 1
        cuekit.io.write_labels(root / f"SegmentationClass/{name}.png", labels)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids))
    tags = np.array(tags, np.uint8)
    names = np.array([f"class{c}" for c in range(tags.shape[1])])
    np.savez(root / "image_labels.npz", ids=np.array(ids), labels=tags, names=names)
    return data.VocFolder.open(root)


def test_a_tenth_of_the_training_photos_is_held_out(tmp_path):
    folder = voc_folder(tmp_path, np.ones((21, 2)))
    training, held_out = folder.training_ids(["train"])
    assert held_out == sorted(folder.tags)[::10]
    assert len(training) == 18
    assert sorted(training + held_out) == sorted(folder.tags)


def test_tags_of_annotations(tmp_path):
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><object><name>cat</name><part><name>head</name></part></object>"
        "<object><name>person</name></object><object><name>cat</name></object></annotation>"
    )
    folder = data.VocFolder.open(tmp_path)
    assert folder.names == data.CLASSES
    assert [folder.names[i] for i in np.flatnonzero(folder.tags["a"])] == ["cat", "person"]


def test_a_class_that_voc_has_not_is_refused(tmp_path):
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><object><name>zebra</name></object></annotation>"
    )
    with pytest.raises(ValueError, match=r"a\.xml has the class 'zebra', which VOC has not"):
        data.VocFolder.open(tmp_path)


def own_data(tmp_path, table):
    for name in ("b.jpg", "a.JPG", "c.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name, "PNG" if name == "c.png" else "JPEG")
    path = tmp_path / "tags.csv"
    path.write_text(table, encoding="utf-8")
    return data.VocFolder.open(tmp_path, path)


@pytest.mark.parametrize(
    ("table", "names", "of_a", "of_b"),
    [
        ("file,tags\na.JPG,polar bear;cat\nb.jpg,cat\n", ("cat", "polar bear"), "11", "10"),
        ('a.JPG,"cat, dog"\nb.jpg,dog\n', ("cat", "dog"), "11", "01"),
        ("File,Tags\r\na,cat dog\r\n\r\nb,dog\r\nc,\r\n", ("cat", "dog"), "11", "01"),
        ("\ufeffa.JPG,dog\na.JPG,cat\nb.jpg,dog\n", ("cat", "dog"), "11", "01"),
        ("a.JPG,größer Käse;\nb.jpg,x\n", ("größer Käse", "x"), "10", "01"),
    ],
)
def test_tags_of_a_csv_file(tmp_path, table, names, of_a, of_b):
    folder = own_data(tmp_path, table)
    assert folder.names == names
    for photo, bits in (("a", of_a), ("b", of_b)):
        assert folder.tags[photo].tolist() == [bit == "1" for bit in bits]
        assert folder.photo(photo).size == (8, 6)
    assert folder.ids("train", "train_aug") == sorted(folder.tags)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,tags\n", "has no tags"),
        ("a.JPG,cat,dog\n", "line 1: expected two columns, file and tags, got 3"),
        ("a.JPG\n", "line 1: expected two columns, file and tags, got 1"),
        ("a.JPG,cat\nsub/b.jpg,dog\n", "line 2: expected the name of a file, got 'sub/b.jpg'"),
        ("a.JPG,cat\nz.jpg,dog\n", "has the photo z, which is not in"),
        (
            "a.JPG,polar bear\nb.jpg,cat\n",
            "same photos have the tags 'polar' and 'bear'. Write 'polar bear;'",
        ),
    ],
)
def test_a_csv_file_that_cannot_be_meant_is_refused(tmp_path, table, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        own_data(tmp_path, table)


def test_photos_without_any_tag_are_not_trained_on(tmp_path):
    folder = voc_folder(tmp_path, np.zeros((12, 2)))
    with pytest.raises(ValueError, match="none of the 10 photos to train on has a tag"):
        folder.training_ids(["train"])


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"VOC's layout: no .*JPEGImages"):
        data.VocFolder.open(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(FileNotFoundError, match="no tags"):
        data.VocFolder.open(tmp_path)
    np.savez(tmp_path / "image_labels.npz", ids=np.array(["a"]), labels=np.zeros((2, 20)))
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 20\).*got \(2, 20\)"):
        data.VocFolder.open(tmp_path)


def test_photos_without_tags_are_refused(tmp_path):
    folder = voc_folder(tmp_path, np.ones((2, 2)))
    (tmp_path / "ImageSets/Segmentation/more.txt").write_text("photo1 photo7")
    with pytest.raises(ValueError, match="no tags for 1 photos, the first is photo7"):
        folder.ids("more")


def test_photos_are_resized_and_mirrored_with_their_cues(tmp_path):
    folder = voc_folder(tmp_path, [[1, 0], [0, 1]])
    photos = data.Photos(
        folder, ["photo0", "photo1"], 32, cues=tmp_path / "SegmentationClass", grid=4
    )
    item, mirrored = photos[0, False], photos[0, True]
    assert item["photos"].shape == (32, 32, 3)
    assert item["photos"].dtype == torch.uint8
    assert item["tags"].tolist() == [True, False]
    assert item["cues"].shape == (3, 4, 4)
    assert item["cues"][1].tolist() == [[True, True, False, False]] * 4
    assert item["cues"][0].equal(~item["cues"][1])
    assert mirrored["cues"].equal(item["cues"].flip(-1))
    assert mirrored["photos"].equal(item["photos"].flip(1))


def test_unknown_pixels_are_no_cue(tmp_path):
    folder = voc_folder(tmp_path, [[1, 0]])
    cuekit.io.write_labels(tmp_path / "photo0.png", np.full((12, 16), 255))
    assert not data.Photos(folder, ["photo0"], 32, cues=tmp_path, grid=4)[0, False]["cues"].any()


def test_gray_photos_have_their_luminance_in_all_channels(tmp_path):
    folder = voc_folder(tmp_path, np.ones((3, 2)))
    gray = np.asarray(folder.photo("photo2", gray=True))
    assert (gray == gray[..., :1]).all()
    assert not (np.asarray(folder.photo("photo2")) == gray).all()


def test_a_photo_that_cannot_be_read_is_named(tmp_path):
    folder = voc_folder(tmp_path, np.ones((3, 2)))
    photos = [tmp_path / f"JPEGImages/photo{i}.jpg" for i in range(3)]
    photos[0].write_bytes(photos[0].read_bytes()[:-100])
    photos[1].write_bytes(b"")
    photos[2].unlink()
    for photo in photos:
        with pytest.raises(ValueError, match=rf"{photo.name} cannot be read .*replace it, or take"):
            folder.photo(photo.stem)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_process_draws_its_share_wherever_a_run_began(world):
    whole = list(data.Draws(10, 4, 0, 25, seed=3, rank=0, world=1))
    flat = [key for keys in whole for key in keys]
    for epoch in range(10):
        seen = [index for index, _ in flat[10 * epoch : 10 * epoch + 10]]
        assert sorted(seen) == list(range(10))
    assert len({tuple(i for i, _ in flat[n : n + 10]) for n in range(0, 100, 10)}) > 1
    assert 20 < sum(mirrored for _, mirrored in flat) < 80
    for first in (0, 7):
        shares = [
            list(data.Draws(10, 4, first, 25, seed=3, rank=rank, world=world))
            for rank in range(world)
        ]
        for iteration, together in enumerate(zip(*shares, strict=True), first):
            assert sorted(key for keys in together for key in keys) == sorted(whole[iteration])


# ------------------------------------------------------------------------------------- tags, tables


def test_the_threshold_finds_the_share_of_tags_asked_for():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.3], [0.6, 0.7]])
    tags = np.array([[1, 0], [0, 1], [1, 1], [0, 1]], bool)  # found: .9 .8 .7 .4 .3
    for recall, threshold in ((0.2, 0.9), (0.6, 0.7), (0.61, 0.4), (0.8, 0.4), (1.0, 0.3)):
        chosen = evaluation.choose_threshold(scores, tags, recall)
        assert chosen == threshold
        assert evaluation.judge_tags(scores, tags, chosen).recall >= recall


def test_the_top_class_is_always_a_tag():
    scores = np.array([[0.1, 0.2, 0.05], [0.6, 0.7, 0.2]])
    assert evaluation.tags_of(scores, 0.5).tolist() == [[False, True, False], [True, True, False]]


def test_tags_are_judged():
    scores = np.array([[0.9, 0.6, 0.0], [0.9, 0.0, 0.0]])
    tags = np.array([[1, 0, 1], [1, 0, 0]], bool)
    judged = evaluation.judge_tags(scores, tags, 0.5)
    assert judged == (0.5, pytest.approx(2 / 3), pytest.approx(2 / 3), 0.5)


def test_cue_table_counts_what_is_unknown_apart():
    # Truth (rows) background and two classes; labels, the last column is unknown.
    counts = np.array([[[5, 1, 0, 4], [0, 6, 0, 2], [1, 1, 2, 0], [0, 0, 0, 0]]])
    [row] = evaluation.cue_table("", {"cues": counts}, [0, 1, 2]).rows
    iou = np.array([9 / 13, 6 / 10, 2 / 4]) - [0, 0, 0]
    iou[0] = (5 + 4) / (10 + 1 + 2)
    assert row == [
        "cues",
        f"{100 * iou.mean():.1f}",
        f"{100 * 8 / 10:.1f}",
        f"{100 * 8 / 12:.1f}",
        f"{100 * 16 / 22:.1f}",
    ]
    assert evaluation.unknown_as_background(counts)[0].tolist() == [[9, 1, 0], [2, 6, 0], [1, 1, 2]]


def test_bars_are_as_long_as_their_values(tmp_path):
    path = tmp_path / "bars.png"
    panels.draw_bars(("x", "y"), {"a": (10.0, 20.0), "b": (float("nan"), 5.0)}, path)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    high = 2 * panels.BAR + 2 * panels.GAP
    lengths = []
    for n, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y = panels.HEADER + n * high + panels.GAP + k * panels.BAR + 2
        color = ImageColor.getrgb(panels.BAR_COLORS[k])
        lengths.append((pixels[y] == color).all(-1).sum() - 1)
    expected = [10, 20, 0, 5]
    assert np.maximum(lengths, 0).tolist() == [panels.SCALE * x for x in expected]


def test_panels_show_every_column(tmp_path):
    photo = Image.new("RGB", (40, 20), (10, 20, 30))
    labels = np.full((20, 40), 2)
    cuekit.io.write_labels(tmp_path / "labels.png", labels)
    path = tmp_path / "panels.png"
    panels.draw([photo, photo], {"a": [tmp_path / "labels.png"] * 2}, path)
    with Image.open(path) as sheet:
        width = 2 * panels.HEIGHT
        assert sheet.size == (
            2 * (width + panels.GAP) + panels.GAP,
            panels.HEADER + 2 * (panels.HEIGHT + panels.GAP),
        )
        seen = sheet.getpixel((panels.GAP + width + panels.GAP + 30, panels.HEADER + 30))
    green = (0, 128, 0)  # VOC's colour of class 2
    o = panels.OPACITY
    assert seen == pytest.approx(
        [(1 - o) * p + o * c for p, c in zip((10, 20, 30), green, strict=True)], abs=1
    )


# ------------------------------------------------------------------------------- the whole chain

SETTINGS = json.loads((EXAMPLE / "shapes.json").read_text(encoding="utf-8"))
THRESHOLDS = (SETTINGS["cues"]["foreground_threshold"], train.Cues.background_threshold)
SUPERPIXELS = {key: SETTINGS["cues"][key] for key in ("scale", "min_size")}
LEARNING = ["--size", "96", "--stride", "8", "--batch", "8", "--learning-rate", "0.001"]


def run(stage, root, out, *options):
    folders = ["--root", str(root), "--out", str(out)]
    fixed = ["--workers", "0", "--train", "train"]
    train.parse([stage, *folders, *fixed, *map(str, options)]).run()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.generate(root, train=320, val=80)
    return root


def run_all(root, out, *options):
    run("all", root, out, "--settings-file", EXAMPLE / "shapes.json", *options)


@pytest.fixture(scope="module")
def chain(root, tmp_path_factory):
    """Everything from tags to tables."""
    out = tmp_path_factory.mktemp("run")
    began = time.monotonic()
    run_all(root, out, "--segmenters", "merged", "--panels", 3)
    return out, time.monotonic() - began


def miou(pairs):
    classes = len(shapes.NAMES) + 1
    return mean_iou(sum(confusion_matrix(truth, labels, classes) for truth, labels in pairs))


def truths(root):
    folder = data.VocFolder.open(root)
    return {name: folder.truth(name) for name in folder.ids("val")}


def labels_of(folder, names):
    return [cuekit.io.read_labels(folder / f"{name}.png") for name in names]


def test_snapping_helps_and_misplaced_superpixels_harm(root, chain, figures):
    out, seconds = chain
    folder, truth = data.VocFolder.open(root), truths(root)
    values = {
        name: miou(zip(truth.values(), labels_of(out / "cues" / name, truth), strict=True))
        for name in cue_stage.SETS
    }
    misplaced = []
    for name, mask in truth.items():
        maps = cue_stage.read_maps(out / "maps" / "color" / f"{name}.npz")
        raw = cue_stage.raw_cues_of(maps, folder.tags[name], *THRESHOLDS)
        # As many superpixels, of the same shapes and sizes, in the wrong place.
        superpixels = cuekit.felzenszwalb(np.asarray(folder.photo(name)), **SUPERPIXELS)
        snapped = cuekit.snap_cues(
            raw, superpixels[::-1, ::-1], threshold=SETTINGS["cues"]["snap_threshold"]
        )
        misplaced.append((mask, cuekit.cues_to_labels(snapped)))
    values["misplaced"] = miou(misplaced)
    figures.append(
        f"Generated shapes, cue mIoU ({seconds:.0f} s from tags to tables): "
        + ", ".join(f"{name} {100 * value:.1f}" for name, value in values.items())
    )
    assert values["snapped-color"] > values["raw-color"]
    assert values["snapped-gray"] > values["raw-gray"]
    assert values["misplaced"] < values["raw-color"]


def test_true_tags_help_and_wrong_ones_harm(root, chain, figures):
    out, _ = chain
    folder, truth = data.VocFolder.open(root), truths(root)
    network, settings = train.trained(folder, out / "segmenter-merged" / "checkpoint.pt", ["train"])
    network.eval()
    labels = {"none": [], "true": [], "wrong": []}
    for name, mask in truth.items():
        scores = evaluation.probabilities(
            network, folder.photo(name), settings["size"], torch.device("cpu")
        )
        tags = folder.tags[name]
        labels["none"].append((mask, scores.argmax(0)))
        for key, present in (("true", tags), ("wrong", ~tags)):
            labels[key].append((mask, cuekit.suppress_absent(scores, present).argmax(0)))
    values = {key: miou(pairs) for key, pairs in labels.items()}
    figures.append(
        "Generated shapes, network's mIoU before the CRF by tags: "
        + ", ".join(f"{key} {100 * value:.1f}" for key, value in values.items())
    )
    assert values["true"] >= values["none"]
    assert values["wrong"] < values["none"]


def test_evaluate_writes_tables_labels_and_a_picture(root, chain):
    out, _ = chain
    text = (out / "tables-val.md").read_text(encoding="utf-8")
    columns = "|  | CAM | merged cue | with prediction | with class labels |"
    assert columns in text
    tables = json.loads((out / "tables-val.json").read_text(encoding="utf-8"))
    assert [t["title"].split(":")[0] for t in tables if t["title"].startswith("Table")] == [
        "Table 1",
        "Table 2",
        "Table 2",
        "Table 3",
    ]
    names = data.VocFolder.open(root).ids("val")
    ways = ("CAM", "merged/without", "merged/with prediction", "merged/with class labels")
    after, before = (row[1:] for row in tables[0]["rows"])
    assert before[0] == "–"
    folders = dict(zip(ways, after, strict=True))
    folders |= {f"{way}/before the CRF": v for way, v in zip(ways[1:], before[1:], strict=True)}
    for way, shown in folders.items():
        pairs = zip(truths(root).values(), labels_of(out / "labels/val" / way, names), strict=True)
        unknown_as_background = [(t, np.where(p == 255, 0, p)) for t, p in pairs]
        assert shown == f"{100 * miou(unknown_as_background):.1f}"
    assert after[1:] != before[1:]
    with Image.open(out / "panels-val.png") as sheet:
        assert sheet.width > 8 * panels.HEIGHT
        assert sheet.height == panels.HEADER + 3 * (panels.HEIGHT + panels.GAP)


def test_finished_stages_are_not_run_again(root, chain, monkeypatch):
    out, _ = chain
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.p*") if path.is_file()}
    monkeypatch.setattr(loop, "DataLoader", None)
    monkeypatch.setattr(cue_stage, "compute_maps", None)
    monkeypatch.setattr(cue_stage, "cues_of", None)
    monkeypatch.setattr(evaluation, "probabilities", None)
    run_all(root, out, "--segmenters", "merged")
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("stage", "option", "value", "message"),
    [
        ("classifier", "epochs", 3, r"epochs 14 → 3"),
        ("cues", "foreground_threshold", 0.5, r"foreground_threshold 0\.6 → 0\.5"),
        ("segmenter", "size", 64, r"size 96 → 64"),
    ],
)
def test_other_settings_are_refused(root, chain, tmp_path, stage, option, value, message):
    out, _ = chain
    other = tmp_path / "settings.json"
    other.write_text(json.dumps(SETTINGS | {stage: SETTINGS[stage] | {option: value}}))
    with pytest.raises(ValueError, match=rf"other settings \({message}\): choose another --out"):
        run("all", root, out, "--settings-file", other, "--segmenters", "merged")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cues": {}, "classifier": {"epoch": 3}}', "classifier has no option 'epoch'"),
        ('{"segmenters": {}}', r"stages are .*, got 'segmenters'"),
        ('{"segmenter": {"recipe": "Sec"}}', r"recipe of segmenter must be of .*, got 'Sec'"),
        ('{"cues": ', "must be JSON"),
        ("[]", "must be a JSON object, got list"),
    ],
)
def test_a_settings_file_is_checked_before_anything_runs(root, tmp_path, text, message):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"settings\.json:? {message}"):
        run("all", root, tmp_path, "--settings-file", path)
    assert not (tmp_path / "classifier-color").exists()


def test_given_options_come_before_the_settings_file(root, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"classifier": {"network": "small", "seed": 3, "size": 96}}')
    options = ["--root", str(root), "--out", str(tmp_path), "--settings-file", str(path)]
    stage = train.parse(["all", *options]).stages()[0]
    assert (stage.network, stage.seed, stage.size) == ("small", 3, 96)
    # The default is given here: that is an option like any other.
    stage = train.parse(["all", *options, "--network", "mobilenet_v2"]).stages()[0]
    assert (stage.network, stage.seed, stage.size) == ("mobilenet_v2", 3, 96)


def test_unknown_segmenters_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"--segmenters must be of .*got \['snaped'\]"):
        run_all(root, tmp_path, "--segmenters", "snaped")


def test_own_photos_and_a_csv_file_are_all_it_needs(root, tmp_path):
    """Every stage runs on a folder without lists, annotations and masks."""
    photos, rows = tmp_path / "photos", ["file,tags"]
    photos.mkdir()
    folder = data.VocFolder.open(root)
    for name in folder.ids("train")[:40]:
        shutil.copy(folder.photo_file(name), photos)
        tags = [each for each, own in zip(folder.names, folder.tags[name], strict=True) if own]
        rows.append(f"{name}.jpg,{';'.join(f'a {tag}' for tag in tags)}")
    (tmp_path / "tags.csv").write_text("\n".join(rows))
    out = tmp_path / "run"
    settings = json.loads((EXAMPLE / "shapes.json").read_text())
    for stage in ("classifier", "segmenter"):
        settings[stage]["epochs"] = 1
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    options = ("--tags", tmp_path / "tags.csv", "--settings-file", tmp_path / "settings.json")
    run("all", photos, out, *options, "--segmenters", "merged", "--panels", 2)
    assert loop.load(out / "segmenter-merged" / "checkpoint.pt")["settings"]["classes"] == [
        f"a {name}" for name in shapes.NAMES
    ]
    written = sorted(path.stem for path in (out / "labels/held-out/merged/without").glob("*.png"))
    assert written == folder.ids("train")[:40:10]
    assert (out / "panels-held-out.png").exists()
    assert not (out / "tables-held-out.md").exists()


def test_stages_need_those_before_them(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"classifier-color.*run its stage first"):
        run("cues", root, tmp_path)
    with pytest.raises(FileNotFoundError, match="288 photos have no cues"):
        run("segmenter", root, tmp_path)
    with pytest.raises(ValueError, match="one of --color and --gray"):
        run("classifier", root, tmp_path, "--color", "--gray")
    with pytest.raises(ValueError, match="--classes must be of"):
        run("evaluate", root, tmp_path, "--classes", "unicorn")


def changed(out, tmp_path, **changes):
    """Copy a run's colour classifier, with another checkpoint."""
    content = loop.load(out / "classifier-color" / "checkpoint.pt")
    (tmp_path / "classifier-color").mkdir()
    loop.save(tmp_path / "classifier-color" / "checkpoint.pt", content | changes)
    return content["settings"]


def test_an_unfinished_network_is_not_used(root, chain, tmp_path):
    changed(chain[0], tmp_path, finished=False)
    with pytest.raises(ValueError, match="interrupted training: run its stage again"):
        run("cues", root, tmp_path)


@pytest.mark.parametrize("change", [{"classes": list("abcd")}, {"train": ["train", "val"]}])
def test_a_network_of_other_classes_or_photos_is_not_used(root, chain, tmp_path, change):
    settings = loop.load(chain[0] / "classifier-color" / "checkpoint.pt")["settings"]
    changed(chain[0], tmp_path, settings=settings | change)
    with pytest.raises(ValueError, match=rf"other settings \({next(iter(change))} "):
        run("cues", root, tmp_path)


def test_damaged_files_are_named(root, chain, tmp_path):
    out, _ = chain
    (tmp_path / "classifier-color").mkdir()
    whole = (out / "classifier-color" / "checkpoint.pt").read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2]):
        (tmp_path / "classifier-color" / "checkpoint.pt").write_bytes(part)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
            run("cues", root, tmp_path)
    path = tmp_path / "maps.npz"
    path.write_bytes((out / "maps" / "color" / "val_000000.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"maps\.npz is damaged"):
        cue_stage.read_maps(path)


def test_photos_without_masks_are_segmented_and_do_not_count(root, chain, tmp_path):
    """Of the training photos, as is usual, and of some that are segmented."""
    out, _ = chain
    names = data.VocFolder.open(root).ids("val")
    for name in ("JPEGImages", "ImageSets", "image_labels.npz"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "SegmentationClass").mkdir()
    for name in names[:20]:
        (tmp_path / f"SegmentationClass/{name}.png").symlink_to(
            root / f"SegmentationClass/{name}.png"
        )
    kept = json.loads((out / "tables-val.json").read_text(encoding="utf-8"))
    run("evaluate", tmp_path, out, "--segmenters", "merged")
    tables = json.loads((out / "tables-val.json").read_text(encoding="utf-8"))
    titles = [table["title"] for table in tables]
    assert "Table 2: cues of val (20 photos), given their tags, %" in titles
    assert not any("training photos" in title for title in titles)
    assert tables[0]["rows"] != kept[0]["rows"]
    run("evaluate", root, out, "--segmenters", "merged")
    assert json.loads((out / "tables-val.json").read_text(encoding="utf-8")) == kept


def test_all_trains_every_seed_of_the_segmentation_networks_only(tmp_path):
    options = ["all", "--root", str(tmp_path), "--out", str(tmp_path), "--seed", "5"]
    options += ["--segmenters", "raw", "sec"]
    *_, raw, sec, evaluate = train.parse(options).stages()
    assert [raw.name, sec.name] == ["segmenter-raw-seed5", "segmenter-sec-seed5"]
    assert evaluate.seeds == (5,)
    *classifiers, _, one, other, three, four, evaluate = train.parse(
        [*options, "--seeds", "0", "2"]
    ).stages()
    assert {stage.seed for stage in classifiers} == {5}
    names = ["segmenter-raw", "segmenter-sec", "segmenter-raw-seed2", "segmenter-sec-seed2"]
    assert [stage.name for stage in (one, other, three, four)] == names
    assert evaluate.seeds == (0, 2)


def test_seeds_are_counted_together(root, chain, tmp_path):
    out, _ = chain
    for name in ("cues", "maps", "segmenter-merged"):
        (tmp_path / name).symlink_to(out / name)

    def other_seed(**changes):
        checkpoint = final(out, "segmenter-merged")
        checkpoint["settings"] |= {"seed": 1, **changes}
        checkpoint["network"] = {k: 0 * v for k, v in checkpoint["network"].items()}
        (tmp_path / "segmenter-merged-seed1").mkdir(exist_ok=True)
        torch.save(checkpoint, tmp_path / "segmenter-merged-seed1" / "checkpoint.pt")

    def rows(*seeds):
        run("evaluate", root, tmp_path, "--segmenters", "merged", "--seeds", *seeds)
        tables = json.loads((tmp_path / "tables-val.json").read_text(encoding="utf-8"))
        return {table["title"]: {k: v for k, *v in table["rows"]} for table in tables}

    other_seed()
    one, other, both = rows(0), rows(1), rows(0, 1)
    title, by_seed = "Table 1: mean IoU, %", "Table 1 by seed: mean IoU, %"
    kept = json.loads((out / "tables-val.json").read_text(encoding="utf-8"))[0]
    assert one[title] == {k: v for k, *v in kept["rows"]}
    assert by_seed not in one
    assert both[by_seed]["mean IoU, seed 0"] == one[title]["mean IoU"]
    assert both[by_seed]["mean IoU, seed 1"] == other[title]["mean IoU"]
    # The other network predicts background everywhere.
    values = [float(each[title]["mean IoU"][1]) for each in (other, both, one)]
    assert values == sorted(set(values))
    other_seed(epochs=9.0)
    with pytest.raises(ValueError, match="epochs"):
        rows(0, 1)


def test_processes_share_photos_whatever_the_others_have_written(tmp_path, monkeypatch):
    names = [f"photo{i}" for i in range(9)]
    written = []
    for rank in range(2):
        monkeypatch.setattr(cue_stage, "rank_and_world", lambda r=rank: (r, 2))
        for name in cue_stage.missing(names, tmp_path, ".png"):
            (tmp_path / f"{name}.png").touch()
            written.append(name)
    assert sorted(written) == names


# -------------------------------------------------------------------- resuming, several processes

SHORT = ["--network", "small", *LEARNING, "--epochs", "0.5", "--size", "64"]


def final(out, name="classifier-color"):
    return loop.load(out / name / "checkpoint.pt")


def same(a, b):
    """All tensors equal in every bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def rows(out):
    with (out / "classifier-color" / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(root, tmp_path, monkeypatch):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run("classifier", root, whole, "--color", *SHORT)
    iterations = final(whole)["iteration"]
    assert iterations > 6
    for stop in (2, 5):
        count = iter(range(stop))
        monkeypatch.setattr(loop.Signals, "came", lambda *_, c=count: next(c, None) is None)
        with pytest.raises(loop.InterruptedTrainingError, match=f"of {iterations} iterations"):
            run("classifier", root, resumed, "--color", *SHORT)
    monkeypatch.undo()
    run("classifier", root, resumed, "--color", *SHORT)
    assert same(final(whole), final(resumed))
    assert rows(whole) == rows(resumed)
    assert len(rows(whole)) == iterations


def test_training_in_bfloat16_keeps_what_it_learns_in_float32(root, tmp_path):
    network = ["--network", "mobilenet_v2", "--stride", "8", "--epochs", "0.1", "--batch", "4"]
    for name, options in (("float32", []), ("bfloat16", ["--bfloat16"])):
        run("classifier", root, tmp_path / name, "--color", *SHORT, *network, *options)
    assert all(x.dtype == torch.float32 for x in final(tmp_path / "bfloat16")["network"].values())
    wide, narrow = (
        [float(r["total"]) for r in rows(tmp_path / n)] for n in ("float32", "bfloat16")
    )
    assert wide[0] != narrow[0]
    assert wide[0] == pytest.approx(narrow[0], rel=0.02)


def command(root, out, *options):
    arguments = [str(EXAMPLE / "train.py"), "classifier", "--root", str(root), "--out", str(out)]
    return [*arguments, "--train", "train", "--color", *SHORT, "--device", "cpu", *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM, which Windows lacks")
def test_a_signal_leaves_a_checkpoint(root, tmp_path):
    process = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, *command(root, tmp_path, "--epochs", "1000")],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    log = tmp_path / "classifier-color" / "log.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: to the workers, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on from here" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    checkpoint = final(tmp_path)
    assert len(rows(tmp_path)) == checkpoint["iteration"] > 1


def test_two_processes_do_what_one_does(root, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    # Without batch norm, whose statistics are each process's own.
    network = ["--network", "mobilenet_v2", "--stride", "32"]
    run("classifier", root, alone, "--color", *SHORT, *network)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, *launcher, *command(root, shared, "--workers", "0", *network)],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    one, two = final(alone), final(shared)
    assert one["iteration"] == two["iteration"]
    # Half batches are averaged in another order, and where a gradient is as small as that rounding,
    # AdamW, which divides by its size, takes steps of another sign. Those weights are few; where
    # processes do not share their gradients, most differ.
    apart = [(one["network"][key] - two["network"][key]).abs() > 1e-3 for key in one["network"]]
    assert sum(a.sum().item() for a in apart) < 1e-3 * sum(a.numel() for a in apart)


def test_options_of_the_command_line():
    stage = train.parse(
        ["segmenter", "--root", "a", "--out", "b", "--train", "x", "y", "--expansion"]
    )
    assert stage == train.Segmenter(root=Path("a"), out=Path("b"), train=("x", "y"), expansion=True)
    assert stage.name == "segmenter-merged-expansion"
    assert dataclasses.replace(stage, recipe="sec").name == "segmenter-sec"
