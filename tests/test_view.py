"""cuekit.run.view and `cuekit view`: which photos, which figures, files that attack, a browser."""

import base64
import csv
import hashlib
import html
import json
import math
import tracemalloc
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from browser import Browser
from common import DATA, VOC, needs_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cuekit.__main__ import main
from cuekit.io import write_labels, write_maps
from cuekit.metrics import confusion_matrix, iou, mean_iou
from cuekit.run import _page, _panels, _view, evaluate, view

RNG = np.random.default_rng(0)
H, W = 24, 32
CLASSES = ("background", "cat", "dog")


def labels_with_errors(truth, share):
    """Return the truth with a share of the pixels of another class."""
    wrong = RNG.random(truth.shape) < share
    return np.where(wrong, (truth + 1) % len(CLASSES), truth).astype(np.uint8)


def make_truth():
    truth = np.zeros((H, W), np.uint8)
    truth[4:16, 6:20] = RNG.integers(1, len(CLASSES))
    truth[16:18, 6:20] = 255
    return truth


class Run:
    """Folders of synthetic photos, truths, labels and maps."""

    def __init__(self, folder, count=8):
        self.folder = folder
        self.names = [f"p{number:02}" for number in range(count)]
        for kind in ("photos", "truth", "labels", "other", "maps"):
            (folder / kind).mkdir()
        self.truths, self.labels, self.others = {}, {}, {}
        for number, name in enumerate(self.names):
            truth = make_truth()
            # Errors in an order other than that of the names.
            share = ((5 * number) % count) / count
            self.truths[name] = truth
            self.labels[name] = labels_with_errors(truth, share)
            self.others[name] = labels_with_errors(truth, 0.3)
            self.labels[name][0, :3] = 255
            write_labels(folder / "truth" / f"{name}.png", truth)
            write_labels(folder / "labels" / f"{name}.png", self.labels[name])
            write_labels(folder / "other" / f"{name}.png", self.others[name])
            photo = RNG.integers(0, 256, (H, W, 3), np.uint8)
            Image.fromarray(photo).save(folder / "photos" / f"{name}.jpg")
            write_maps(folder / "maps" / f"{name}.npz", RNG.random((2, 6, 8), np.float32), [1, 2])

    @property
    def page(self):
        return self.folder / "page.html"

    def view(self, **options):
        options = {
            "photos": self.folder / "photos",
            "labels": self.folder / "labels",
            "out": self.page,
            "truth": self.folder / "truth",
            "classes": CLASSES,
            **options,
        }
        return view(**options)

    def scores(self, labels, names=None):
        """Return the mean IoU of each photo, in a few lines."""
        return {
            name: float(mean_iou(confusion_matrix(self.truths[name], labels[name], len(CLASSES))))
            for name in names or self.names
        }


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


class Seen(HTMLParser):
    """What a page holds: elements with attributes, and text by element."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("br", "img", "link", "meta"):  # they have no end
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def texts_of(self, tag):
        return [text for name, text in self.texts if name == tag]


def seen(run):
    return Seen(run.page.read_text("utf-8"))


def pictures(page):
    """Return size and format of all pictures."""
    result = []
    for attributes in page.all("img"):
        kind, _, data = attributes["src"].partition(";base64,")
        assert kind == "data:image/jpeg"
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            result.append(image.size)
            assert image.size == (int(attributes["width"]), int(attributes["height"]))
    return result


# ---------------------------------------------------------------------------------- figures


def test_figures_are_those_of_metrics(run):
    result = run.view()
    matrix = confusion_matrix(
        [run.truths[name] for name in run.names], [run.labels[name] for name in run.names], 3
    )
    assert result.photos == len(run.names)
    assert result.mean_iou == (float(mean_iou(matrix)),)
    assert result.failed == {}
    page = seen(run)
    expected = [f"{100 * value:.1f} %" for value in (*iou(matrix), mean_iou(matrix))]
    bars = [text for text in page.texts_of("span") if text.endswith("%")]
    assert bars == expected
    present = [
        sum((truth == class_id).any() for truth in run.truths.values()) for class_id in range(3)
    ]
    assert [text for text in page.texts_of("td") if text.isdecimal()] == list(map(str, present))
    assert page.texts_of("h3") == list(result.shown)


def test_figures_are_those_of_the_command_eval(run):
    other, mean_over = run.folder / "other", ["background", "dog"]
    folders = [run.folder / "labels", other]
    result = run.view(labels=folders, mean_over=mean_over, count=20)
    found = evaluate(
        *(folders[0], run.folder / "truth"),
        classes=CLASSES,
        mean_over=mean_over,
        compare=other,
    )
    assert result.mean_iou == (found.mean_iou.value, found.other.mean_iou.value)
    scores = {photo["name"]: photo["mean_iou"] for photo in found.by_photo()}
    assert list(result.shown) == sorted(run.names, key=scores.get)
    other_scores = {photo["name"]: photo["mean_iou"] for photo in found.other.by_photo()}
    shown = [text for text in seen(run).texts_of("p") if "other: mean IoU" in text]
    assert shown == [
        f"labels: mean IoU {_page.percent(scores[name])} · "
        f"other: mean IoU {_page.percent(other_scores[name])}"
        for name in result.shown
    ]


def test_mean_over(run):
    matrix = confusion_matrix(list(run.truths.values()), list(run.labels.values()), 3)
    result = run.view(mean_over=["cat", 2])
    assert result.mean_iou == (float(mean_iou(matrix, [1, 2])),)
    assert any("Means are over cat, dog," in text for text in seen(run).texts_of("p"))


def test_several_sets(run):
    folders = [run.folder / "labels", run.folder / "other"]
    result = run.view(labels=folders)
    for mean, labels in zip(result.mean_iou, (run.labels, run.others), strict=True):
        matrix = confusion_matrix(list(run.truths.values()), list(labels.values()), 3)
        assert mean == float(mean_iou(matrix))
    page = seen(run)
    assert {"labels", "other", "truth", "photo"} <= set(page.texts_of("figcaption"))


def test_shares_without_truth(run):
    result = run.view(truth=None)
    assert result.mean_iou == ()
    stacked = np.stack(list(run.labels.values()))
    expected = [f"{100 * (stacked == each).mean():.1f} %" for each in (0, 1, 2, 255)]
    assert [text for text in seen(run).texts_of("span") if text.endswith("%")] == expected


def test_a_truth_that_is_a_mask_is_told(run):
    for name in run.names:
        write_labels(run.folder / "truth" / f"{name}.png", np.where(run.truths[name] > 0, 255, 0))
    assert run.view().failed == {}
    assert any("write masks of 0 and 1" in text for text in seen(run).texts_of("li"))


# --------------------------------------------------------------------------- photos that are shown


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 20])
def test_worst_and_best_are_shown(run, count):
    result = run.view(count=count)
    scores = run.scores(run.labels)
    ranked = sorted(run.names, key=scores.get)
    if count >= len(run.names):
        assert list(result.shown) == ranked
        return
    best = count // 2
    assert list(result.shown) == ranked[: count - best] + ranked[::-1][:best]


def test_largest_differences_are_shown(run):
    result = run.view(labels=[run.folder / "labels", run.folder / "other"], count=6)
    first, second = run.scores(run.labels), run.scores(run.others)
    by_change = sorted(run.names, key=lambda name: -abs(second[name] - first[name]))
    left = [name for name in sorted(run.names, key=first.get) if name not in by_change[:2]]
    assert list(result.shown) == left[:2] + left[:-3:-1] + by_change[:2]


@given(st.integers(1, 40), st.integers(1, 40))
def test_evenly_spaced(photos, count):
    request = type("", (), {"truth": None})()
    totals = type("", (), {"scores": dict.fromkeys(map(str, range(photos)), ())})()
    ((_, shown),) = _view._choose(request, totals, count)
    places = list(map(int, shown))
    assert len(places) == min(photos, count)
    assert places[0] == 0
    steps = np.diff(places)
    assert len(places) == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    assert len(places) == 1 or places[-1] == photos - 1


@given(
    st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=30),
    st.integers(1, 12),
    st.booleans(),
)
def test_chosen_photos_are_different_and_known(scores, count, two_sets):
    labels = ["a", "b"] if two_sets else ["a"]
    request = type("", (), {"truth": True, "labels": labels, "sets": labels})()
    table = {str(i): (score, 1 - score)[: len(labels)] for i, score in enumerate(scores)}
    groups = _view._choose(request, type("", (), {"scores": table})(), count)
    shown = [name for _, names in groups for name in names]
    known = [name for name, values in table.items() if not math.isnan(values[0])]
    assert len(shown) == len(set(shown)) == min(count, len(known))
    assert set(shown) <= set(known)
    # No photo that is left out is worse than the worst.
    assert not known or min(table[name][0] for name in shown) == min(scores[int(n)] for n in known)


def test_names(run):
    assert set(run.view(names=["p03", "p01.jpg"]).shown) == {"p03", "p01"}
    (run.folder / "list.txt").write_text("p02\np05\n")
    assert set(run.view(names=run.folder / "list.txt").shown) == {"p02", "p05"}


# ---------------------------------------------------------------------------------- pictures


def test_panels(run):
    run.view(maps=run.folder / "maps", superpixels=True, count=3)
    page = seen(run)
    captions = page.texts_of("figcaption")
    assert captions[:3] == ["photo", "labels", "truth"]
    assert captions[3].endswith("superpixels")
    assert all(text.startswith(("map of cat", "map of dog")) for text in captions[4:6])
    assert pictures(page) == [(W, H)] * 18
    for attributes in page.all("img"):
        assert attributes["alt"]


labels_arrays = hnp.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 2, 8, 255]))


@given(labels_arrays, hnp.arrays(np.uint8, (9, 11, 3)))
def test_drawn_labels(labels, photo):
    drawn = _panels.draw_labels(photo, labels).astype(int)
    merged = np.where(labels == 255, 0, labels)
    near = np.zeros(labels.shape, bool)  # up to two pixels from a border
    for y, x in np.ndindex(labels.shape):
        window = merged[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        near[y, x] = (window != merged[y, x]).any()
    colours = np.array(_panels.palette()).reshape(256, 3)
    for class_id in (1, 2, 8):
        inside = (labels == class_id) & ~near
        mixed = 0.45 * photo[inside] + 0.55 * colours[class_id]
        assert (np.abs(drawn[inside] - mixed) <= 0.5 + 1e-9).all()  # rounded
        # A line of the class's colour: everywhere at a border with another class.
        edge = np.zeros(labels.shape, bool)
        edge[:, 1:] |= merged[:, 1:] != merged[:, :-1]
        edge[:, :-1] |= merged[:, 1:] != merged[:, :-1]
        edge[1:] |= merged[1:] != merged[:-1]
        edge[:-1] |= merged[1:] != merged[:-1]
        assert (drawn[edge & (labels == class_id)] == colours[class_id]).all()
    dark = (labels == 0) & ~near
    assert (np.abs(drawn[dark] - 0.35 * photo[dark]) <= 0.5 + 1e-9).all()
    gray = drawn[(labels == 255) & ~near]
    assert (gray == gray[..., :1]).all()
    assert (gray >= 90).all()


@given(hnp.arrays(np.float32, (5, 7), elements=st.floats(-4, 4, width=32)))
def test_drawn_maps_are_ever_brighter(values):
    photo = np.full((5, 7, 3), 100, np.uint8)
    drawn = _panels.draw_heat(photo, values)
    # ITU-R 601 luma. Rounding of three channels: less than 1.
    luma = drawn @ np.array([0.299, 0.587, 0.114])
    order = np.argsort(values, axis=None)
    assert (np.diff(luma.ravel()[order]) > -1).all()
    flat = drawn.reshape(-1, 3)[values.ravel() <= 0]
    assert (flat == flat[:1]).all()
    if values.max() > 0:
        assert luma.max() > 150


def test_superpixel_borders():
    photo = np.zeros((4, 6, 3), np.uint8)
    superpixels = np.repeat([[0, 0, 0, 70_000, 70_000, 70_000]], 4, 0)
    drawn = _panels.draw_superpixels(photo, superpixels)
    assert (drawn.any(-1) == [[False, False, False, True, False, False]] * 4).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (900, 40), (384, 384), (1000, 1500)])
def test_size_of_thumbnails(size):
    small = _panels.thumbnail(np.zeros((*size, 3), np.uint8))
    assert max(small.shape) <= 384
    assert small.shape[2] == 3
    if max(size) <= 384:
        assert small.shape[:2] == size
    labels = np.ones(size, np.uint8)
    for drawn in (
        _panels.draw_labels(small, labels),
        _panels.draw_heat(small, np.ones((1, 1), np.float16)),
        _panels.draw_superpixels(small, labels),
    ):
        assert drawn.shape == small.shape


def test_contact_sheet(run):
    path = run.folder / "sheet.png"
    run.view(maps=run.folder / "maps", png=path, count=4)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        pixels = np.asarray(image)
    # 5 panels of 32 x 24 in a row: photo, labels, truth, two maps; cells are 224 wide.
    assert pixels.shape[1] == 12 + 5 * 236
    assert (pixels != 255).any(-1).mean() > 0.01
    run.view(maps=run.folder / "maps", png=path, count=2)  # replaces its own picture


def test_page_is_the_same_each_time(run):
    run.view(maps=run.folder / "maps")
    first = run.page.read_bytes()
    run.view(maps=run.folder / "maps")
    assert run.page.read_bytes() == first


@needs_data(VOC, DATA / "cams" / "color.npz")
def test_size_of_a_page_of_real_photos(tmp_path):
    truth = VOC / "SegmentationClass"
    names = sorted(path.stem for path in truth.glob("*.png"))[:24]
    folders = (VOC / "JPEGImages", truth, tmp_path / "page.html")
    result = view(*folders, truth=truth, maps=DATA / "cams" / "color.npz", names=names)
    assert result.failed == {}
    assert result.mean_iou == (1,)
    assert len(result.shown) == 24
    assert (tmp_path / "page.html").stat().st_size < 6e6  # 3 MB


# ------------------------------------------------------------------------------ what attacks

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</style><style>body{display:none}",
    "]]>--><!--&lt;",
    "\u202etxt.exe",
    "javascript:alert(1)",
)
ALLOWED = {
    *("html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer"),
    *("section", "article", "h1", "h2", "h3", "p", "a", "b", "br", "ul", "li", "dl", "dt", "dd"),
    *("div", "span", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "details", "summary"),
    *("figure", "figcaption", "img", "svg", "rect", "path", "text", "polyline", "circle"),
}


def check_harmless(page):
    for tag, attributes in page.elements:
        assert tag in ALLOWED
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"  # the policy would refuse it
            if name in ("src", "href"):
                assert value.startswith(("data:image/jpeg;base64,", "data:,", "#"))
    assert len(page.all("style")) == 1


@given(st.text(max_size=40) | st.sampled_from(HOSTILE))
def test_text_is_escaped(value):
    escaped = _page.text(value)
    escaped.encode()  # no half of a pair
    assert not set(escaped) & set("<>\"'\n\r\0\u202e")
    page = Seen(f"<p>{escaped}</p>")
    assert [tag for tag, _ in page.elements] == ["p"]
    assert html.unescape(escaped) == _panels.printable(value)
    if value.isprintable():
        assert _panels.printable(value) == value


def hostile_run(folder):
    """A run in which all texts from files attack."""
    run = Run(folder, count=len(HOSTILE))
    # A file's name has no slash; a folder's name may end in "<".
    new = [name.replace("/", "\u2215") for name in HOSTILE]
    for kind, suffix in (("photos", "jpg"), ("labels", "png"), ("truth", "png"), ("maps", "npz")):
        for old, name in zip(run.names, new, strict=True):
            path = folder / kind / f"{old}.{suffix}"
            path.rename(path.with_name(f"{name}.{suffix}"))
    write_labels(folder / "labels" / "<b>lost<b>.png", np.zeros((H, W), int))
    settings = {text: {text: [text]} for text in HOSTILE}
    (folder / "labels" / "run.json").write_text(json.dumps(settings), "utf-8")
    with (folder / "labels" / "failures.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "reason"), *((text, text) for text in HOSTILE)])
    run.classes = ("background", HOSTILE[0], HOSTILE[1])
    return run


def test_hostile_texts(tmp_path):
    run = hostile_run(tmp_path)
    result = run.view(classes=run.classes, maps=tmp_path / "maps", png=tmp_path / "sheet.png")
    assert list(result.failed) == ["<b>lost<b>"]
    page = seen(run)
    check_harmless(page)
    assert set(page.texts_of("h3")) >= {HOSTILE[1], HOSTILE[2]}
    assert len(page.texts_of("h3")) == len(HOSTILE)
    cells = page.texts_of("td")
    assert cells.count(HOSTILE[0]) == 2  # of failures.csv
    assert cells.count(json.dumps([HOSTILE[0]])) == 1  # of run.json


def test_policy_admits_the_style_only(run):
    run.view()
    text = run.page.read_text("utf-8")
    style = text.partition("<style>")[2].partition("</style>")[0]
    policies = [
        each["content"]
        for each in seen(run).all("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    ]


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("run.json", b"{", "Expecting property name"),
        ("run.json", b"[1]", "must be an object of JSON"),
        ("run.json", b"\xff\xfe", "decode"),
        ("run.json", b"[" * 100_000, "recursion"),
        ("run.json", b" " * (2**24 + 1), "at most 16777216 bytes"),
        ("failures.csv", b"\xff", "decode"),
        ("failures.csv", b'a,"' + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_damaged_files_beside_labels_are_noted(run, name, content, note):
    (run.folder / "labels" / name).write_bytes(content)
    assert run.view().failed == {}
    notes = seen(run).texts_of("li")
    assert any(name in text and note in text for text in notes), notes


def test_settings_and_failures_are_shown(run):
    settings = {"recipe": "snap", "options": {"threshold": 0.3, "names": ["a", "ü"]}, "tags": None}
    (run.folder / "labels" / "run.json").write_text(json.dumps(settings))
    for number in (1, 2):
        rows = f"name,reason\nx{number},gone\n"
        (run.folder / "labels" / f"failures-{number}-of-2.csv").write_text(rows)
    (run.folder / "labels" / "failures.csv").write_text("name,reason\n")  # none: not shown
    run.view()
    page = seen(run)
    cells = page.texts_of("td")
    shown = [
        *("recipe", "snap", "options.threshold", "0.3", "options.names", '["a", "ü"]'),
        *("tags", "null", "x1", "gone", "x2", "gone"),
    ]
    assert cells[-len(shown) :] == shown
    assert len(page.all("details")) == 3


def test_long_tables_are_cut(run):
    settings = {f"k{number}": "v" * 10_000 for number in range(1000)}
    (run.folder / "labels" / "run.json").write_text(json.dumps(settings))
    rows = "".join(f"x{number},{'r' * 10_000}\n" for number in range(1000))
    (run.folder / "labels" / "failures.csv").write_text("name,reason\n" + rows)
    run.view(count=1)
    page = seen(run)
    assert run.page.stat().st_size < 300_000
    assert "k199" in page.texts_of("td")
    assert "k200" not in page.texts_of("td")
    assert page.texts_of("td").count("…") == 3


# ------------------------------------------------------------------------- missing and damaged


def damage(run, what):
    """Damage files of one photo; return its name and the reason."""
    name = "p03"
    photo, label, truth, maps = (
        run.folder / kind / f"{name}.{suffix}"
        for kind, suffix in (
            ("photos", "jpg"),
            ("labels", "png"),
            ("truth", "png"),
            ("maps", "npz"),
        )
    )
    if what == "no photo":
        photo.unlink()
        return name, f"has no photos of {name}"
    if what == "no truth":
        truth.unlink()
        return name, f"has no truth of {name}"
    if what == "no maps":
        maps.unlink()
        return name, f"has no maps of {name}"
    if what == "cut photo":
        photo.write_bytes(photo.read_bytes()[:300])
        return name, "a photo must be a whole, undamaged picture"
    if what == "cut labels":
        label.write_bytes(label.read_bytes()[:-20])
        return name, "a label image must be a whole, undamaged PNG"
    if what == "damaged truth":
        truth.write_bytes(b"nothing")
        return name, "a label image must be a whole, undamaged PNG"
    if what == "labels of another size":
        write_labels(label, np.zeros((W, H), int))
        return name, f"labels must have the size of the truth, {W} x {H}, got {H} x {W}"
    if what == "photo of another size":
        Image.fromarray(np.zeros((W, H, 3), np.uint8)).save(photo)
        return name, f"labels must have the photo's size, {H} x {W}, got {W} x {H}"
    if what == "unknown class":
        write_labels(label, np.full((H, W), 7))
        return name, "labels of p03 must hold 0 to 2"
    if what == "damaged maps":
        maps.write_bytes(maps.read_bytes()[:100])
        return name, str(maps)
    if what == "maps not finite":
        maps.unlink()
        values: Any = {0: np.full((3, 4), np.nan, np.float32)}
        np.save(maps.with_suffix(".npy"), values, allow_pickle=True)
        return name, "map of cat must be finite"
    if what == "maps of a turned photo":
        write_maps(maps, np.ones((1, 8, 6), np.float32), [1])
        return name, "maps must have the proportions of the photo"
    assert what == "two photos"
    photo.with_suffix(".png").write_bytes(b"")
    return name, "must have one file of photos for each name"


DAMAGES = (
    *("no photo", "no truth", "no maps", "cut photo", "cut labels", "damaged truth"),
    *("labels of another size", "photo of another size", "unknown class", "damaged maps"),
    *("maps not finite", "maps of a turned photo", "two photos"),
)


@pytest.mark.parametrize("what", DAMAGES)
def test_one_bad_photo(run, what, capsys):
    name, reason = damage(run, what)
    classes = run.folder / "classes.txt"
    classes.write_text("\n".join(CLASSES))
    arguments = [
        *("view", "--photos", f"{run.folder / 'photos'}", "--labels", f"{run.folder / 'labels'}"),
        *("--truth", f"{run.folder / 'truth'}", "--maps", f"{run.folder / 'maps'}", "--quiet"),
        *("--classes", f"{classes}", "--out", f"{run.page}"),
    ]
    assert main(arguments) == 1
    written = capsys.readouterr()
    assert written.err.startswith(f"failed: {name}: ")
    assert reason in written.err
    assert "1 failed" in written.out
    page = seen(run)
    assert any(reason in text for text in page.texts_of("li"))
    assert len(set(page.texts_of("h3")) - {name}) == len(run.names) - 1  # the others are shown
    if name in page.texts_of("h3"):
        assert any(reason in text for text in page.texts_of("p"))


def test_many_failures_are_cut(tmp_path):
    run = Run(tmp_path, count=2)
    for number in range(300):
        (tmp_path / "labels" / f"x{number}.png").write_bytes(b"")
        (tmp_path / "photos" / f"x{number}.jpg").write_bytes(b"")
        (tmp_path / "truth" / f"x{number}.png").write_bytes(b"")
    result = run.view()
    assert len(result.failed) == 300
    assert result.photos == 2
    texts = seen(run).texts_of("li")
    assert any("300 photos failed; the first 200 are listed" in text for text in texts)
    assert run.page.stat().st_size < 200_000


def test_names_that_are_no_text(run):
    """Linux allows any bytes in the name of a file."""
    name = b"caf\xe9"
    try:
        for kind, suffix in (("photos", "jpg"), ("labels", "png"), ("truth", "png")):
            path = run.folder / kind / f"p00.{suffix}"
            target = bytes(path.parent) + b"/" + name + f".{suffix}".encode()
            path.rename(target.decode("utf-8", "surrogateescape"))
    except (OSError, UnicodeError):
        pytest.skip("needs a file system that takes names of any bytes")
    assert run.view(png=run.folder / "sheet.png").failed == {}
    assert "caf\N{REPLACEMENT CHARACTER}" in seen(run).texts_of("h3")


def test_memory_does_not_grow_with_photos(tmp_path):
    """1.5 MB of label pixels are read; 500 photos more would take 190 MB."""
    labels = np.zeros((600, 640), np.uint8)
    for kind in ("labels", "truth"):
        (tmp_path / kind).mkdir()
        write_labels(tmp_path / kind / "0.png", labels)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((600, 640, 3), np.uint8)).save(tmp_path / "photos" / "0.jpg")
    for number in range(1, 60):
        for kind, suffix in (("labels", "png"), ("truth", "png"), ("photos", "jpg")):
            (tmp_path / kind / f"{number}.{suffix}").hardlink_to(tmp_path / kind / f"0.{suffix}")

    def peak(count):
        tracemalloc.start()
        try:
            names = list(map(str, range(count)))
            folders = (tmp_path / "photos", tmp_path / "labels", tmp_path / "page.html")
            view(*folders, truth=tmp_path / "truth", names=names, count=1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # modules are imported
    few, many = peak(2), peak(60)
    assert many < few + 100_000  # one label map has 384 000 bytes


# ------------------------------------------------------------------------- files that are replaced


@pytest.mark.parametrize(("argument", "name"), [("out", "a.html"), ("png", "a.png")])
def test_other_files_are_not_replaced(run, argument, name):
    path = run.folder / name
    path.write_bytes(b"<html>mine</html>")
    with pytest.raises(ValueError, match=f"{argument} must be a new file, or one that cuekit view"):
        run.view(**{argument: path})
    assert path.read_bytes() == b"<html>mine</html>"
    path.unlink()
    run.view(**{argument: path})
    first = path.read_bytes()
    run.view(**{argument: path}, count=2)
    assert path.read_bytes() != first


def test_a_failure_leaves_the_old_page(run, monkeypatch):
    run.view()
    before = run.page.read_bytes()

    def fails(_report):
        yield "half of a page"
        raise KeyboardInterrupt

    monkeypatch.setattr(_view, "page", fails)
    with pytest.raises(KeyboardInterrupt):
        run.view()
    assert run.page.read_bytes() == before
    assert [path.name for path in run.folder.glob(".*")] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "page.txt"}, ValueError, "out must be a file .html or .htm, got page.txt"),
        ({"png": "page.jpg"}, ValueError, "png must be a file .png, got page.jpg"),
        ({"png": "labels/all.png"}, ValueError, "png must not be in a folder of labels"),
        ({"out": "no/folder.html"}, OSError, "No such file"),
        ({"out": "folder.html"}, ValueError, "got folder.html, which is something else"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"count": 201}, ValueError, "count must be at most 200, got 201"),
        ({"labels": []}, ValueError, "labels must be at least one folder"),
        ({"labels": "missing"}, OSError, "missing"),
        ({"truth": "missing"}, OSError, "missing"),
        ({"maps": "missing"}, OSError, "missing"),
        ({"photos": "missing"}, OSError, "missing"),
        ({"sweep": "missing"}, OSError, "missing"),
        ({"names": ["../p00"]}, ValueError, "a name must be a path within a folder"),
        ({"names": ["p00", "p00"]}, ValueError, "names must be distinct"),
        ({"names": ["nobody"]}, ValueError, "got none of 1; the first: .* has no photos of nobody"),
        ({"mean_over": ["cow"]}, ValueError, "mean_over must hold names of classes"),
        ({"superpixels": 1}, TypeError, "superpixels must be True or False"),
        ({"classes": ("background", "cat")}, ValueError, "must hold 0 to 1"),
    ],
)
def test_wrong_arguments(run, options, error, message, monkeypatch):
    monkeypatch.chdir(run.folder)
    (run.folder / "folder.html").mkdir()
    names = options.get("names", [run.names[0]])
    if "classes" in options:
        write_labels(run.folder / "labels" / "p00.png", np.full((H, W), 2))
    with pytest.raises(error, match=message):
        run.view(**{"names": names, **options})
    assert not run.page.exists()


def test_the_same_labels_twice(run):
    folders = [run.folder / "labels", run.folder / "photos" / ".." / "labels"]
    with pytest.raises(ValueError, match="labels must be different folders"):
        run.view(labels=folders)


def test_an_empty_folder(run):
    (run.folder / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder of labels must hold PNG files, got none"):
        run.view(labels=run.folder / "empty")


# -------------------------------------------------------------------------------------- a sweep


SWEEP = {"parameter": "threshold", "values": [0.0, 1], "mean_iou": [0.1, 0.2], "best": 1}


def points_of(page):
    points = page.all("polyline")[0]["points"].split()
    return np.array([list(map(float, point.split(","))) for point in points])


def test_a_sweep_is_drawn(run):
    path = run.folder / "sweep.json"
    found = {
        "parameter": "threshold",
        "values": [0.0, 0.25, 0.5, 1],
        "mean_iou": [0.1, 0.5, None, 0.2],
        "best": 0.25,
        "estimate": 0.3,
    }
    path.write_text(json.dumps(found))
    run.view(sweep=path)
    page = seen(run)
    x, y = points_of(page).T
    assert len(x) == 3  # the unknown value is left out
    # Coordinates are written with one decimal.
    assert np.isclose((x[1] - x[0]) / (x[2] - x[0]), 0.25, atol=0.001)
    assert np.isclose((y[0] - y[1]) / (y[0] - y[2]), 4, atol=0.01)
    texts = page.texts_of("figcaption")
    assert "best: 0.25, mIoU 50.0 %" in texts
    assert "estimated without truth: 0.3, mIoU 50.0 %" in texts  # that of the nearest


def test_alphas_are_drawn_by_their_logarithm(run):
    path = run.folder / "sweep.json"
    found = {"parameter": "alpha", "values": [1, 2, 4, 16], "mean_iou": [0.1, 0.2, 0.3, 0.2]}
    path.write_text(json.dumps(found))
    run.view(sweep=path)
    x = points_of(seen(run))[:, 0]
    assert np.allclose((x - x[0]) / (x[-1] - x[0]), [0, 0.25, 0.5, 1], atol=0.001)


def test_a_file_of_the_command_is_read(run):
    path = run.folder / "sweep.json"
    (run.folder / "classes.txt").write_text("\n".join(CLASSES))
    arguments = [
        *("sweep", "--maps", f"{run.folder / 'maps'}", "--truth", f"{run.folder / 'truth'}"),
        *("--classes", f"{run.folder / 'classes.txt'}", "--json", f"{path}", "--quiet"),
    ]
    assert main(arguments) == 0
    run.view(sweep=path)
    assert len(points_of(seen(run))) == 101


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be an object of JSON"),
        ("{", "Expecting"),
        ({"mean_iou": None}, "mean_iou must be a list"),
        ({"mean_iou": ...}, "a sweep must have mean_iou, which needs the truth"),
        ({"values": ...}, "'values'"),
        ({"values": [0.5]}, "equal lengths, got 1 and 2"),
        ({"values": ["<b>", 1]}, "values must be numbers, got '<b>'"),
        ({"values": [math.nan, 1]}, "values must be numbers, got nan"),
        ({"values": [True, 1]}, "values must be numbers, got True"),
        ({"values": [10**400, 1]}, "values must be numbers, got inf"),
        ({"values": [0.5] * 10_001}, "at most 10000 numbers"),
        ({"best": "<b>"}, "best must be numbers, got '<b>'"),
        ({"estimate": [1]}, "estimate must be numbers"),
        ({"mean_iou": [None, None]}, "mean_iou must be in 0..1"),
        ({"mean_iou": [1, 47.5]}, "mean_iou must be in 0..1"),
        ({"parameter": "<b>"}, "parameter must be one of 'threshold', 'alpha'"),
        ({"parameter": "alpha"}, "alphas must be above 0, got 0.0"),
    ],
)
def test_wrong_sweeps(run, content, message):
    path = run.folder / "sweep.json"
    if isinstance(content, dict):
        content = {key: value for key, value in {**SWEEP, **content}.items() if value is not ...}
        content = json.dumps(content)
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        run.view(sweep=path)
    assert str(path) in str(error.value)


numbers = st.floats(-1e6, 1e6)


@given(
    st.lists(
        st.tuples(numbers, st.floats(0, 1) | st.just(math.nan)), min_size=1, max_size=9
    ).filter(lambda points: any(not math.isnan(y) for _, y in points)),
    numbers,
    st.booleans(),
)
def test_any_curve_stays_in_its_frame(points, mark, is_alpha):
    values, means = zip(*points, strict=True)
    if is_alpha:
        values = [abs(value) + 1e-9 for value in values]
    curve = _page.Curve("alpha" if is_alpha else "threshold", values, means, [("best", mark)])
    drawn = Seen(_page._curve(curve))
    x, y = points_of(drawn).T
    assert (np.diff(x) >= 0).all()
    circles = drawn.all("circle")
    x = np.append(x, [float(circle["cx"]) for circle in circles])
    y = np.append(y, [float(circle["cy"]) for circle in circles])
    assert ((x >= 48) & (x <= 430)).all()
    assert ((y >= 12) & (y <= 210)).all()


# ------------------------------------------------------------------------------------ a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_browser_sees_requests_and_scripts(browser, tmp_path):
    """The next tests can fail: of another page, the browser tells what it does."""
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://example.org/a.png"><script>console.log(1)</script>')
    browser.open(page)
    assert browser.requests() == [page.as_uri(), "http://example.org/a.png"]
    assert len(browser.complaints()) == 2


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1600, False)])
def test_page_in_a_browser(browser, tmp_path, width, dark):
    run = hostile_run(tmp_path)
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps(SWEEP))
    folders = [tmp_path / "labels", tmp_path / "other"]
    for old, name in zip(run.names, HOSTILE, strict=True):
        path = tmp_path / "other" / f"{old}.png"
        path.rename(path.with_name(name.replace("/", "\u2215") + ".png"))
    options = {"classes": run.classes, "maps": tmp_path / "maps", "sweep": sweep}
    run.view(labels=folders, superpixels=True, **options)
    browser.open(run.page, width, 900, dark)
    assert [url for url in browser.requests() if not url.startswith("data:")] == [run.page.as_uri()]
    assert browser.complaints() == []  # no script was refused, no style, nothing failed to load
    images = "[...document.images]"
    assert browser.value(f"{images}.length") == len(HOSTILE) * 7
    assert browser.value(f"{images}.every(image => image.complete && image.naturalWidth > 0)")
    assert browser.value("document.querySelectorAll('script').length") == 0
    # Nothing is wider than the window, and no panel lies over another.
    assert browser.value("document.documentElement.scrollWidth") <= width
    boxes = browser.value(
        "[...document.querySelectorAll('figure, h3, .chips, .scores, .facts div')]"
        ".map(each => each.getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.right, box.bottom])"
    )
    left, top, right, bottom = np.array(boxes).T
    across = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    down = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    overlap = (across > 1) & (down > 1)  # a pixel: sizes are fractions
    assert overlap.sum() == len(boxes)  # each with itself
    with Image.open(BytesIO(browser.screenshot())) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == width
    assert pixels.shape[0] > 900
    assert pixels.std() > 10  # not blank
    assert (pixels[2, 2].mean() < 128) == dark
