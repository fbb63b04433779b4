"""Names and ids of classes, in data sets and in files."""

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st

from cuekit import classes, io
from cuekit.classes import COCO, COCO_CATEGORY_IDS, VOC, class_names


def test_names_of_the_data_sets():
    assert len(VOC) == 21
    assert len(COCO) == len(COCO_CATEGORY_IDS) == 81
    # As the VOC development kit and COCO's instances_val2014.json list them.
    assert [VOC[each] for each in (0, 1, 8, 15, 20)] == [
        "background",
        "aeroplane",
        "cat",
        "person",
        "tvmonitor",
    ]
    official = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack"}
    official |= {28: "umbrella", 31: "handbag", 44: "bottle", 46: "wine glass", 65: "bed"}
    official |= {67: "dining table", 70: "toilet", 72: "tv", 82: "refrigerator", 84: "book"}
    official |= {90: "toothbrush"}
    assert {each: COCO[COCO_CATEGORY_IDS.index(each)] for each in official} == official
    assert COCO_CATEGORY_IDS[0] == 0
    assert list(COCO_CATEGORY_IDS) == sorted(set(COCO_CATEGORY_IDS))
    assert len(set(COCO)) == 81


def test_class_names_of_data_sets_and_sequences():
    assert class_names("voc") is VOC
    assert class_names("coco") is COCO
    for names in (["background", "weed"], ("_background_", "weed"), ("Background", "weed")):
        assert class_names(names) == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        "background\nsoil\nwild oat\n",
        "\ufeffbackground\r\nsoil\r\n\r\nwild oat",
        "# my classes\n background\n soil \nwild oat\n",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsoil:128,0,0::\nwild oat:1,2,3:a:b\n",
    ],
)
def test_class_names_of_files(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert class_names(path) == class_names(str(path)) == ("background", "soil", "wild oat")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], r"the first name must be \"background\".*got 'cat': put it before"),
        (["dog", "background"], "the first name must be"),
        (["background"], "2 to 255 names of classes, the background first, got 1"),
        ([], "got 0"),
        (["background", *map(str, range(255))], "got 256"),
        (["background", "cat", "cat"], "distinct, got 'cat' twice"),
        (["background", " "], "text in a line"),
        (["background", "a\nb"], "text in a line"),
    ],
)
def test_unclear_names_are_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=f"^classes: .*{message}"):
        class_names(names)
    if "\n" in "".join(names) or " " in names:
        return
    path = tmp_path / "c.txt"
    path.write_text("\n".join(names))
    with pytest.raises(ValueError, match=f"c.txt: .*{message}"):
        class_names(path)


@pytest.mark.parametrize("names", [3, None, b"voc", ["background", 1], {"background", "cat"}])
def test_names_of_a_wrong_type_are_refused(names):
    with pytest.raises(TypeError):
        class_names(names)


def test_files_that_are_no_lists_are_refused(tmp_path):
    path = tmp_path / "c.txt"
    for data, message in [
        (b"background\n\xff\xfe", "text file"),
        (b"background\n" * 200_000, "at most 1048576 bytes"),
        (b"background:0,0,0::\ncat:1,1,1::\n", "the first name must be"),  # without its header
        (b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,1::", "lines must be"),
        (b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,1,256::", "lines must be"),
        (b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:0,0,0::", "distinct"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"c.txt: .*{message}"):
            class_names(path)
    with pytest.raises(FileNotFoundError):
        class_names(tmp_path / "none.txt")


# --------------------------------------------------------------------------------------- COCO's ids


def test_ids_of_coco_both_ways():
    official = np.array([*COCO_CATEGORY_IDS, 255])
    contiguous = np.array([*range(81), 255])
    for dtype in ("uint8", "int16", "int64", "uint64"):
        there = classes.coco_to_contiguous(official.astype(dtype).reshape(2, 41))
        assert there.dtype == np.uint8
        np.testing.assert_array_equal(there, contiguous.reshape(2, 41))
        np.testing.assert_array_equal(classes.contiguous_to_coco(there), official.reshape(2, 41))
    assert classes.coco_to_contiguous(np.zeros((0, 3), int)).shape == (0, 3)
    assert classes.contiguous_to_coco(np.array(12)) == 13


@given(st.integers(-(2**62), 2**62) | st.integers(-3, 300))
def test_ids_that_do_not_exist_are_refused(label):
    labels = np.array([[0, label]])
    for convert, ids in (
        (classes.coco_to_contiguous, {*COCO_CATEGORY_IDS, 255}),
        (classes.contiguous_to_coco, {*range(81), 255}),
    ):
        if label in ids:
            convert(labels)
        else:
            with pytest.raises(ValueError, match=rf"labels must be .* or 255, got {label}$"):
                convert(labels)


def test_options_of_the_ids():
    assert classes.coco_to_contiguous(np.array([91]), ignore=91) == [91]
    assert classes.coco_to_contiguous(np.array([12, 90]), ignore=12).tolist() == [12, 80]
    for ignore in (-1, 0, 1, 256):
        with pytest.raises(ValueError, match="ignore must be"):
            classes.coco_to_contiguous(np.array([1]), ignore=ignore)
    with pytest.raises(ValueError, match="ignore must be"):
        classes.contiguous_to_coco(np.array([1]), ignore=12)
    with pytest.raises(TypeError, match="any integer dtype"):
        classes.coco_to_contiguous(np.array([1.0]))


def test_ids_of_torch():
    torch = needs("torch")
    there = classes.coco_to_contiguous(torch.tensor([[13, 255]]))
    assert there.tolist() == [[12, 255]]
    assert there.dtype == torch.uint8


# ------------------------------------------------------------------------------------- labelmap.txt


def test_labelmap_there_and_back(tmp_path):
    path = tmp_path / "labelmap.txt"
    io.write_labelmap(path, "voc")
    lines = path.read_text().split("\n")
    assert lines[:3] == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "aeroplane:128,0,0::",
    ]
    assert lines[-2:] == ["tvmonitor:0,64,128::", ""]
    names, colours = io.read_labelmap(path)
    assert names == VOC == class_names(path)
    assert colours.dtype == np.uint8
    assert colours.shape == (21, 3)
    own = np.array([[9, 9, 9], [1, 2, 3]], np.uint8)
    io.write_labelmap(path, ["background", "wild oat"], colours=own)
    names, colours = io.read_labelmap(path)
    assert names == ("background", "wild oat")
    np.testing.assert_array_equal(colours, own)


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        (["background", "a:b"], "voc", "no ':' and no '#', got 'a:b'"),
        (["background", "#a"], "voc", "no ':' and no '#', got '#a'"),
        (["background", "a"], np.zeros((3, 3), np.uint8), "distinct"),
        (["background", "a"], np.eye(3, dtype=np.uint8), "one for each of 2 classes, got 3"),
        (["background", "a"], "coco", "colours must be one of 'voc', got 'coco'"),
        (["background", "a"], np.zeros((2, 4), np.uint8), r"shape \(K, 3\), K in 1..256, got"),
    ],
)
def test_labelmap_refuses(tmp_path, names, colours, message):
    with pytest.raises(ValueError, match=message):
        io.write_labelmap(tmp_path / "labelmap.txt", names, colours=colours)
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_labelmap_is_read_or_refused(tmp_path_factory, data, place):
    path = tmp_path_factory.getbasetemp() / "damaged-labelmap.txt"
    io.write_labelmap(path, "voc")
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + data + whole[place + len(data) :])
    try:
        names, colours = io.read_labelmap(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - or it is read
    else:
        assert names[0].lower() == "background"
        assert len(names) == len(colours)
