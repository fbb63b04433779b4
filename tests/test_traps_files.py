"""Files, metrics and losses: wrong answers without a word, and refusals for no good reason."""

import os
import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cuekit
from cuekit import metrics

RNG = np.random.default_rng(0)


def raises(error, *parts):
    """An error whose message has these parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# ------------------------------------------------------------------------------ masks of 0 and 255


OBJECT = np.zeros((20, 30), np.uint8)
OBJECT[4:15, 6:20] = 1
MASK = OBJECT * np.uint8(255)
HINT = "truth holds nothing but class 0 and 255, which is left out: if 255 marks the object"


def test_masks_of_0_and_255_are_warned_of():
    for prediction in (MASK, 255 - MASK, OBJECT):
        with pytest.warns(UserWarning, match=HINT):
            metrics.confusion_matrix(MASK, prediction, 2)
    with pytest.warns(UserWarning, match=HINT):
        metrics.confusion_matrix([MASK, MASK.T], [MASK, MASK.T], 2)
    with pytest.warns(UserWarning, match=HINT):
        metrics.cue_statistics(np.stack([MASK == 0, MASK > 0]), MASK)


def test_the_hint_leads_to_the_right_result():
    matrix = metrics.confusion_matrix(MASK // 255, (255 - MASK) // 255, 2)
    np.testing.assert_array_equal(metrics.iou(matrix), [0, 0])
    with raises(ValueError, "truth must be 0 to 1, got 255: for masks of 0 and 255, pass mask //"):
        metrics.confusion_matrix(MASK, MASK, 2, ignore=None)


def test_python_shows_the_warning_once(recwarn):
    warnings.simplefilter("default")
    for size in (3, 5, 9):
        metrics.confusion_matrix(np.pad(MASK, size), np.pad(MASK, size), 2)
    assert len(recwarn) == 1


def photos_of_one_class():
    background = np.zeros((20, 30), np.uint8)
    yield background
    yield np.full((20, 30), 255, np.uint8)  # nothing is known
    yield np.where(OBJECT, 255, 12).astype(np.uint8)  # a cow among cows that are not annotated
    crop = np.zeros((50, 60), np.uint8)
    crop[0, :20] = 255  # a sliver of the border of an object outside the crop
    yield crop
    border = OBJECT.copy()
    border[4, 6:20] = 255
    yield border


@pytest.mark.parametrize("truth", list(photos_of_one_class()))
def test_photos_of_one_class_are_not(truth, recwarn):
    metrics.confusion_matrix(truth, truth)
    metrics.cue_statistics(np.arange(21)[:, None, None] == truth, truth)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("ignore", "dtype"), [(255, "uint8"), (200, "uint8"), (-1, "int8"), (-1, "int64"), (2, "uint8")]
)
def test_ignore_is_any_integer(ignore, dtype):
    truth = np.array([[0, 1, 1, 2, 0, 1, 2]]).astype(dtype)
    prediction = np.array([[0, 1, 0, 1, 1, 0, 0]]).astype(dtype)
    truth[0, 3] = ignore
    left_out = truth == ignore
    expected = metrics.confusion_matrix(truth[:, ~left_out[0]], prediction[:, ~left_out[0]], 3)
    matrix = metrics.confusion_matrix(truth, prediction, 3, ignore=ignore)
    np.testing.assert_array_equal(matrix, expected)
    cues = np.arange(3)[:, None, None] == prediction
    statistics = metrics.cue_statistics(cues, truth, ignore=ignore)
    np.testing.assert_array_equal(
        statistics.recall, metrics._ratio(np.diag(expected), expected.sum(1))
    )


@pytest.mark.parametrize("ignore", [None, -1, 256, 2**70, -(2**70)])
def test_nothing_is_left_out_where_the_dtype_has_no_such_value(ignore):
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    matrix = metrics.confusion_matrix(truth, truth, 256, ignore=ignore)
    np.testing.assert_array_equal(matrix, np.eye(256))


def test_other_values_to_ignore_are_named():
    minus = np.array([[0, 1, -1]])
    for function in (
        lambda **options: metrics.confusion_matrix(minus, np.abs(minus), 2, **options),
        lambda **options: metrics.cue_statistics(np.ones((2, 1, 3), bool), minus, **options),
    ):
        with raises(ValueError, "truth must be 0 to 1 or 255, got -1: pass ignore=-1 if it marks"):
            function()
        with raises(ValueError, "truth must be 0 to 1, got -1"):
            function(ignore=None)
        with raises(TypeError, "ignore must be an integer, got 'x'"):
            function(ignore="x")
        function(ignore=-1)


# ---------------------------------------------------------------------------------- predicted 255


TRUTH = RNG.choice([0, 1, 2, 3, 255], (2, 30, 40))
PREDICTION = RNG.choice([0, 1, 2, 3, 255], (2, 30, 40))


def test_unknown_pixels_can_be_left_out():
    expected = metrics.confusion_matrix(np.where(PREDICTION == 255, 255, TRUTH), PREDICTION, 4)
    matrix = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="ignore")
    np.testing.assert_array_equal(matrix, expected)


def test_unknown_pixels_can_be_mistakes():
    matrix = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="mistake")
    left_out = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="ignore")
    np.testing.assert_array_equal(matrix[:, :4], left_out)
    unknown = [(PREDICTION[c == TRUTH] == 255).sum() for c in range(4)]
    np.testing.assert_array_equal(matrix[:, 4], unknown)
    # As if they were predicted as a fifth class, which is not averaged over.
    fifth = np.where(PREDICTION == 255, 4, PREDICTION)
    same = metrics.confusion_matrix(TRUTH, fifth, 5)
    np.testing.assert_array_equal(metrics.iou(matrix), metrics.iou(same)[:4])
    parts = [
        metrics.confusion_matrix(*each, 4, unknown_as="mistake")
        for each in zip(TRUTH, PREDICTION, strict=True)
    ]
    np.testing.assert_array_equal(sum(parts), matrix)


def test_a_class_id_can_be_ignored():
    truth, prediction = np.array([[1, 2, 2]]), np.array([[2, 2, 1]])
    for unknown_as, column in ((0, 0), (1, 1), ("mistake", 3)):
        matrix = metrics.confusion_matrix(truth, prediction, 3, ignore=2, unknown_as=unknown_as)
        assert matrix[1, column] == matrix.sum() == 1
    assert not metrics.confusion_matrix(truth, prediction, 3, ignore=2, unknown_as="ignore").any()


def test_a_large_unknown_class_does_not_wrap():
    truth = np.zeros((1, 2), np.uint8)
    matrix = metrics.confusion_matrix(truth, truth + np.uint8(255), 300, unknown_as=299)
    assert matrix[0, 299] == matrix.sum() == 2
    with raises(ValueError, "prediction must be 0 to 1 or 255, got 18446744073709551615"):
        metrics.confusion_matrix(truth, np.full((1, 2), 2**64 - 1, np.uint64), 2)


def test_photos_in_lists_are_counted_together():
    truths = [TRUTH[0], TRUTH[1, :9, :7]]
    predictions = [PREDICTION[0], PREDICTION[1, :9, :7]]
    whole = metrics.confusion_matrix(truths, predictions, 4)
    parts = [metrics.confusion_matrix(*pair, 4) for pair in zip(truths, predictions, strict=True)]
    np.testing.assert_array_equal(whole, sum(parts))
    assert metrics.confusion_matrix([], [], 4).sum() == 0
    cues = [np.arange(4)[:, None, None] == p for p in predictions]
    statistics = metrics.cue_statistics(cues, truths)
    kept = metrics.confusion_matrix(truths, predictions, 4, unknown_as="ignore")
    np.testing.assert_array_equal(statistics.precision, np.diag(kept) / kept.sum(0))
    with raises(ValueError, "truth and prediction must be lists of equal length", "2 items and 1"):
        metrics.confusion_matrix(truths, predictions[:1], 4)
    with raises(ValueError, "must be lists of equal length where one is a list", "one array"):
        metrics.confusion_matrix(truths, PREDICTION, 4)
    with raises(ValueError, "truth[1] must be 0 to 2 or 255, got 3"):
        metrics.confusion_matrix([truths[0] * 0, truths[1]], [truths[0] * 0, truths[1]], 3)
    with raises(TypeError, "truth[0] must be a NumPy array or a torch tensor, got list"):
        metrics.confusion_matrix([[0, 1]], [[0, 1]], 2)
    with raises(ValueError, "cues[1] must have 4 classes to match cues[0], got 3"):
        metrics.cue_statistics([cues[0], cues[1][:3]], truths)


def test_heat_maps_are_no_cues():
    heat = (RNG.random((2, 5, 6)) * 60).astype(np.uint8)
    with raises(ValueError, "cues must hold 0 and 1, or 0 and 255"):
        metrics.cue_statistics(heat, np.zeros((5, 6), int))


# --------------------------------------------------------------------------- cue files of one's own


def cells(classes, height, width, count=40, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, n, count) for n in (classes, height, width)])


FORMS = {
    "arrays": lambda labels, cues: (labels, cues),
    "lists": lambda labels, cues: (labels.tolist(), cues.tolist()),
    "tuples": lambda labels, cues: (tuple(labels.tolist()), tuple(map(tuple, cues.tolist()))),
    "NumPy integers": lambda labels, cues: (list(labels), [list(row) for row in cues]),
    "np.nonzero": lambda labels, cues: (list(labels), tuple(cues)),
    "int16, Fortran order": lambda labels, cues: (
        labels.astype(np.int16),
        np.asfortranarray(cues.astype(np.int16)),
    ),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_cue_files_as_people_write_them(tmp_path, protocol, form):
    entries, expected = {}, {}
    for name in ("2008_007028", "2007_000032", "日本"):
        cues, labels = cells(21, 41, 41, seed=len(entries)), np.array([5, 2])
        expected[name] = cues
        entries[f"{name}_labels"], entries[f"{name}_cues"] = form(labels, cues)
    (tmp_path / "cues").write_bytes(pickle.dumps(entries, protocol))
    read = cuekit.io.read_sec_cues(tmp_path / "cues")
    assert list(read) == list(expected)
    for name, (classes, rows, columns) in expected.items():
        masks = np.zeros((21, 41, 41), bool)
        masks[classes, rows, columns] = True
        np.testing.assert_array_equal(read[name].cues, masks)
        assert read[name].labels.tolist() == [2, 5]


@pytest.mark.parametrize("shape", [(2, 3, 5), (81, 321, 400), (300, 4, 4)])
def test_cue_files_of_any_grid_and_number_of_classes(tmp_path, shape):
    classes, *size = shape
    cues = cells(*shape, count=15)
    file = tmp_path / "cues"
    file.write_bytes(pickle.dumps({"0_labels": [classes - 1], "0_cues": cues}))
    read = cuekit.io.read_sec_cues(file, num_classes=classes, size=size)[0]
    masks = np.zeros(shape, bool)
    masks[tuple(cues)] = True
    np.testing.assert_array_equal(read.cues, masks)
    assert np.flatnonzero(read.present).tolist() == [classes - 2]
    with raises(ValueError, "0_labels", "must", "got"):
        cuekit.io.read_sec_cues(file, num_classes=classes - 1, size=size)
    with raises(ValueError, "0_cues: rows must be in 0..", f"got {cues[1].max()}"):
        cuekit.io.read_sec_cues(file, num_classes=classes, size=(cues[1].max(), size[1]))


@pytest.mark.parametrize("nothing", [[], (), np.array([]), np.zeros(0, int)])
def test_images_without_cues_or_tags(tmp_path, nothing):
    for cells_of_none in (nothing, [nothing] * 3):
        entries = {"0_labels": nothing, "0_cues": cells_of_none}
        (tmp_path / "cues").write_bytes(pickle.dumps(entries))
        try:
            read = cuekit.io.read_sec_cues(tmp_path / "cues")[0]
        except ValueError as error:  # three rows of floats
            assert "rows must be integers" in str(error)  # noqa: PT017
            continue
        assert not read.cues.any()
        assert not read.labels.size


def test_wrong_options_of_read_sec_cues(tmp_path):
    file = tmp_path / "cues"
    file.write_bytes(pickle.dumps({"cat_labels": [1], "cat_cues": [[0], [0], [0]]}))
    for wrong in (float("nan"), "x", 1e9, None):
        with raises(TypeError, "max_bytes must be an integer, got"):
            cuekit.io.read_sec_cues(file, max_bytes=wrong)
    with raises(ValueError, "num_classes must be at least 1, got 0"):
        cuekit.io.read_sec_cues(file, num_classes=0)
    with raises(ValueError, "num_classes must be at most 65536, and 2147483648 cells"):
        cuekit.io.read_sec_cues(file, num_classes=2**16, size=(2**10, 2**10))
    with raises(TypeError, "size must be a pair (height, width), got 41"):
        cuekit.io.read_sec_cues(file, size=41)
    with raises(TypeError, "path must be a path, a str or path-like object, got None"):
        cuekit.io.read_sec_cues(None)
    with raises(TypeError, "image_list must be a path, a str or path-like object, got ['a']"):
        cuekit.io.read_sec_cues(file, image_list=["a"])
    with raises(
        ValueError, "image_list is for files of image indices, got photo ids such as 'cat'"
    ):
        cuekit.io.read_sec_cues(file, image_list=tmp_path / "list")


# ------------------------------------------------------------------------------------- label maps


def test_a_missing_folder_is_named(tmp_path):
    folder = tmp_path / "labels" / "none"
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(folder)))):
        cuekit.io.write_labels(folder / "a.png", OBJECT)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=re.escape(repr(str(tmp_path / "file")))):
        cuekit.io.write_labels(tmp_path / "file" / "a.png", OBJECT)
    with pytest.raises(IsADirectoryError, match=re.escape(repr(str(tmp_path)))):
        cuekit.io.write_labels(tmp_path, OBJECT)
    name = tmp_path / ("a" * 300)
    with pytest.raises(OSError, match=re.escape(repr(str(name)))):
        cuekit.io.write_labels(name, OBJECT)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.png").symlink_to(Path("far") / "real.png")
    for labels in (OBJECT, 1 - OBJECT):  # the file is made, then replaced
        cuekit.io.write_labels(tmp_path / "link.png", labels)
        assert (tmp_path / "link.png").is_symlink()
        np.testing.assert_array_equal(cuekit.io.read_labels(tmp_path / "far/real.png"), labels)
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(OSError, match=r"loop\.png"):
        cuekit.io.write_labels(tmp_path / "loop.png", OBJECT)
    (tmp_path / "lost.png").symlink_to(tmp_path / "none" / "a.png")
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(tmp_path / "none")))):
        cuekit.io.write_labels(tmp_path / "lost.png", OBJECT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_and_pipes_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/full")):
        if path.exists():
            with pytest.raises(OSError, match=f"only a regular file can be replaced.*{path}"):
                cuekit.io.write_labels(path, OBJECT)
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("wrong", [None, 3, b"a.png", ["a.png"]])
def test_a_path_is_named(wrong):
    for function in (
        cuekit.io.read_labels,
        cuekit.io.read_photo,
        lambda path: cuekit.io.write_labels(path, OBJECT),
    ):
        with raises(TypeError, "path must be a path, a str or path-like object, got", repr(wrong)):
            function(wrong)
        for nothing in ("", "a\0.png"):
            with raises(ValueError, "path must name a file, got"):
                function(nothing)


# ----------------------------------------------------------------------------------------- photos


PHOTO = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def read_back(path, image, **options):
    image.save(path, **options)
    photo = cuekit.io.read_photo(path)
    assert photo.dtype == np.uint8
    assert photo.flags.writeable
    assert photo.flags.c_contiguous
    return photo


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "PNG"])
def test_photos_without_loss(tmp_path, suffix):
    read = read_back(tmp_path / f"a.{suffix}", Image.fromarray(PHOTO))
    np.testing.assert_array_equal(read, PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation):
    """By hand what the EXIF standard says: where the first row and column belong."""
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    exif = Image.Exif()
    exif[0x112] = orientation
    read = read_back(tmp_path / "a.png", Image.fromarray(PHOTO), exif=exif)
    np.testing.assert_array_equal(read, upright[orientation](PHOTO))
    read = read_back(tmp_path / "a.jpg", Image.fromarray(PHOTO), exif=exif, quality=95)
    assert np.abs(read.astype(int) - upright[orientation](PHOTO)).mean() < 10


def test_gray_palette_and_1_bit(tmp_path):
    image = Image.fromarray(PHOTO)
    for mode in ("L", "1"):
        expected = np.asarray(image.convert(mode).convert("L"))
        read = read_back(tmp_path / "a.png", image.convert(mode))
        np.testing.assert_array_equal(read, np.stack([expected] * 3, -1))
    palette = image.quantize(256)
    read = read_back(tmp_path / "a.png", palette)
    np.testing.assert_array_equal(read, np.asarray(palette.convert("RGB")))


def test_cmyk(tmp_path):
    cmyk = Image.fromarray(PHOTO).convert("CMYK")
    read = read_back(tmp_path / "a.jpg", cmyk, quality=95)
    assert np.abs(read.astype(int) - PHOTO).mean() < 10
    np.testing.assert_array_equal(read_back(tmp_path / "a.tif", cmyk), PHOTO)


def test_16_bits(tmp_path):
    deep = (PHOTO[..., 0].astype(np.uint16) << 8) | 0x7F
    read = read_back(tmp_path / "a.png", Image.fromarray(deep))
    np.testing.assert_array_equal(read, np.stack([PHOTO[..., 0]] * 3, -1))
    for pixels in (deep, deep.astype(np.int32), deep.astype(np.float32)):
        with raises(ValueError, "a.tif: a photo must have 8 bits per channel, or be a PNG, got TI"):
            read_back(tmp_path / "a.tif", Image.fromarray(pixels))


def test_transparency(tmp_path):
    opaque = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    read = read_back(tmp_path / "a.png", Image.fromarray(opaque))
    np.testing.assert_array_equal(read, PHOTO)
    opaque[3, 4, 3] = 254
    gray = Image.fromarray(opaque).convert("LA")
    for image, options in (
        (Image.fromarray(opaque), {}),
        (gray, {}),
        (Image.fromarray(PHOTO).quantize(16), {"transparency": 0}),
        (Image.fromarray(PHOTO), {"transparency": tuple(PHOTO[0, 0].tolist())}),
    ):
        with raises(ValueError, "a.png: a photo must have no transparency, got mode", "background"):
            read_back(tmp_path / "a.png", image, **options)


def test_photos_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.fromarray(PHOTO).save(path)
    whole = path.read_bytes()
    for data in (b"", b"photo", whole[:-60], whole[:100], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        path.write_bytes(data)
        with raises(ValueError, str(path), "a photo must be a whole, undamaged picture, got: "):
            cuekit.io.read_photo(path)
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PHOTO[..., 0].size - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with raises(ValueError, str(path), "a photo must have at most 767 pixels, got 32 x 24"):
            cuekit.io.read_photo(path)
    with raises(ValueError, str(path), "a photo must be within Pillow's size limit"):
        cuekit.io.read_photo(path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.jpg"))):
        cuekit.io.read_photo(tmp_path / "none.jpg")


# -------------------------------------------------------------------------------- examples/voc


@pytest.fixture
def data():
    pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "voc"))
    yield __import__("data")
    del sys.path[0]


def voc_folder(data, root, ids, suffixes=(".jpg",)):
    (root / "JPEGImages").mkdir(parents=True)
    for folder in ("Segmentation", "Main"):
        (root / "ImageSets" / folder).mkdir(parents=True)
    for i, name in enumerate(ids):
        Image.fromarray(PHOTO).save(root / "JPEGImages" / (name + suffixes[i % len(suffixes)]))
    np.savez(root / "image_labels.npz", ids=np.array(ids), labels=np.eye(len(ids), 20))
    return data.VocFolder.open(root)


@pytest.mark.parametrize(
    ("place", "text", "ids"),
    [
        ("Segmentation", "a\nb.c\n\n", ["a", "b.c"]),
        ("Segmentation", "a b.c\r\nd", ["a", "b.c", "d"]),
        ("Segmentation", "a.jpg\nb.c.JPG", ["a", "b.c"]),
        (
            "Segmentation",
            "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"
            "/JPEGImages/b.c.jpg /SegmentationClassAug/b.c.png\n",
            ["a", "b.c"],
        ),
        ("Main", "a  1\nb.c -1\nd  0\n", ["a"]),
    ],
)
def test_lists_of_photos_as_people_have_them(data, tmp_path, place, text, ids):
    folder = voc_folder(data, tmp_path, ["a", "b.c", "d"])
    (tmp_path / "ImageSets" / place / "some.txt").write_text(text)
    assert folder.ids("some") == ids


def test_a_split_without_a_list_is_named(data, tmp_path):
    folder = voc_folder(data, tmp_path, ["a"])
    with raises(
        FileNotFoundError, "no split some: neither", "Segmentation", "some.txt nor", "Main"
    ):
        folder.ids("some")


def test_photos_of_any_suffix(data, tmp_path):
    ids = ["a", "b", "c", "d"]
    folder = voc_folder(data, tmp_path, ids, (".jpg", ".JPG", ".png", ".jpeg"))
    for name in ids:
        assert folder.photo(name).size == PHOTO.shape[1::-1]
    with raises(ValueError, "e.jpg cannot be read"):
        folder.photo("e")


def test_photos_of_the_example_are_upright(data, tmp_path):
    folder = voc_folder(data, tmp_path, ["a"])
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    assert folder.photo("a").size == PHOTO.shape[:2]
    assert folder.photo("a", gray=True).size == PHOTO.shape[:2]


def test_masks_of_deeplabs_folder(data, tmp_path):
    folder = voc_folder(data, tmp_path, ["a"])
    (tmp_path / "SegmentationClassAug").mkdir()
    cuekit.io.write_labels(tmp_path / "SegmentationClassAug" / "a.png", OBJECT)
    np.testing.assert_array_equal(folder.truth("a"), OBJECT)
    assert not folder.mask("b").exists()


def test_tags_of_objects_name_the_remedy(data, tmp_path):
    voc_folder(data, tmp_path, ["a"])
    table = tmp_path / "image_labels.npz"
    np.savez(table, ids=np.array(["a"], object), labels=np.eye(1, 20))
    with raises(ValueError, str(table), "Object arrays", "dtype=str)"):
        data.VocFolder.open(tmp_path)
    np.savez(table, ids=np.array(["a"]), labels=np.full((1, 20), 3))
    with raises(ValueError, str(table), "labels must be 0 and 1, one column for each class"):
        data.VocFolder.open(tmp_path)
