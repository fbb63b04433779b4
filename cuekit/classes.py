"""Names and ids of the classes of PASCAL VOC and MS COCO, and of one's own.

A class id is an index into a tuple of names; 0 is the background. COCO's official ids of its 80
categories go from 1 to 90 with gaps, and label maps are published with both kinds of ids:
`coco_to_contiguous` and `contiguous_to_coco` convert them.

>>> VOC[15], COCO[1], COCO_CATEGORY_IDS[80], COCO[80]
('person', 'person', 90, 'toothbrush')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._arrays import like
from cuekit._checks import INTEGERS, check_array, check_integer

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

VOC = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The names of the classes of PASCAL VOC; the index of a name is its class id."""

COCO = (
    "background",
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut"),
    "cake",
    *("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator"),
    *("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""The names of the classes of COCO; the index of a name is its class id, 0 to 80."""

_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids of COCO that no category has
COCO_CATEGORY_IDS = (0, *(each for each in range(1, 91) if each not in _UNUSED))
"""The official category id, up to 90, of each of the classes of `COCO`."""

MOST_CLASSES = 255  # with the background; 255 = ignore
_BACKGROUND = ("background", "_background_", "__background__")  # labelme writes the second


def class_names(classes: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, the background first: the index of a name is its class id.

    Parameters
    ----------
    classes : {"voc", "coco"}, str, path-like or sequence of str
        A data set; the path of a text file with a name in each line, or of a ``labelmap.txt`` as
        CVAT and Datumaro write it; or the names themselves. The first name must say that it is the
        background: "background", or "_background_" as labelme writes it. Empty lines, and lines
        that begin with ``#``, are passed over. A file with the name of a data set is read as
        ``"./voc"``.

    Returns
    -------
    tuple of str

    Raises
    ------
    TypeError
        If `classes` is none of these.
    ValueError
        If the first name is not the background, if a name is empty or there twice, or if there are
        fewer than 2 or more than 255 names: id 255 means "ignore". The message names the file.
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> from cuekit.classes import class_names
    >>> class_names("voc")[:3]
    ('background', 'aeroplane', 'bicycle')
    >>> class_names(["background", "weed"])
    ('background', 'weed')
    """
    if isinstance(classes, str) and classes in ("voc", "coco"):
        return VOC if classes == "voc" else COCO
    from cuekit.io._common import check_path

    if isinstance(classes, Sequence) and not isinstance(classes, str | bytes):
        return check_names(classes, "classes")
    from cuekit.io.labelmap import HEADER, read_labelmap, read_lines

    path = check_path(classes, "classes")
    lines = read_lines(path)
    if lines and lines[0].startswith(HEADER):
        return check_names(read_labelmap(path)[0], str(path))
    return check_names([line for line in lines if line and line[0] != "#"], str(path))


def check_names(names: Sequence[Any], source: str) -> tuple[str, ...]:
    """Refuse what are not the names of classes with the background first."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{source}: names of classes must be strings, got {name!r}")
        if not name.strip() or not name.isprintable():
            raise ValueError(
                f"{source}: names of classes must be text in a line, got {name[:40]!r}"
            )
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"{source}: there must be 2 to {MOST_CLASSES} names of classes, the background "
            f"first, got {len(names)}"
        )
    if not is_background(names[0]):
        raise ValueError(
            f'{source}: the first name must be "background", which is class 0, got {names[0]!r}: '
            "put it before the others"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{source}: names of classes must be distinct, got {twice[0]!r} twice")
    return tuple(names)


def is_background(name: object) -> bool:
    """Tell whether the name of a class is one of those that mean the background."""
    return isinstance(name, str) and name.lower() in _BACKGROUND


def coco_to_contiguous(labels: Any, *, ignore: int = 255) -> Any:
    """Return COCO labels with ids 0 to 80 in place of COCO's official ids, 0 to 90 with gaps.

    Parameters
    ----------
    labels : array or tensor of any integer dtype and shape
        Labels, or class ids, 0 = background.
    ignore : int, default 255
        The label of pixels to ignore, which is kept.

    Returns
    -------
    array or tensor of uint8, of the same shape

    Raises
    ------
    TypeError
        If `labels` is not an array or tensor of integers, or `ignore` is not an integer.
    ValueError
        If a label is no id of COCO's, such as 12, or `ignore` is an id or not in 0..255.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.classes import coco_to_contiguous
    >>> coco_to_contiguous(np.array([0, 1, 13, 90, 255]))
    array([  0,   1,  12,  80, 255], dtype=uint8)
    """
    table = np.full(256, -1, np.int16)
    table[list(COCO_CATEGORY_IDS)] = np.arange(len(COCO))
    return _mapped(labels, table, ignore, "an official id of COCO's categories, or 0")


def contiguous_to_coco(labels: Any, *, ignore: int = 255) -> Any:
    """Return COCO labels with official ids, 0 to 90 with gaps, in place of the ids 0 to 80.

    Parameters
    ----------
    labels : array or tensor of any integer dtype and shape
        Labels, or class ids, 0 = background.
    ignore : int, default 255
        The label of pixels to ignore, which is kept.

    Returns
    -------
    array or tensor of uint8, of the same shape

    Raises
    ------
    TypeError
        If `labels` is not an array or tensor of integers, or `ignore` is not an integer.
    ValueError
        If a label is not in 0..80, or `ignore` is an id or not in 0..255.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.classes import contiguous_to_coco
    >>> contiguous_to_coco(np.array([0, 1, 12, 80, 255]))
    array([  0,   1,  13,  90, 255], dtype=uint8)
    """
    table = np.full(256, -1, np.int16)
    table[: len(COCO)] = COCO_CATEGORY_IDS
    return _mapped(labels, table, ignore, f"in 0..{len(COCO) - 1}")


def _mapped(labels: Any, table: NDArray[np.int16], ignore: int, rule: str) -> Any:
    ignore = check_integer(ignore, "ignore")
    if not 0 <= ignore <= 255 or ignore in COCO_CATEGORY_IDS or table[ignore] >= 0:
        raise ValueError(f"ignore must be in 91..255, or an id that is not used, got {ignore}")
    table[ignore] = ignore
    ids = check_array(labels, "labels", INTEGERS, ndim=0, layout="(...)")
    # Python integers: those of uint64 cannot be compared with negative ones in every NumPy.
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    wrong = low if low < 0 else high
    if low >= 0 and high <= 255:
        mapped = table[ids]
        if not (mapped < 0).any():
            return like(mapped.astype(np.uint8), labels)
        wrong = int(ids[mapped < 0].flat[0])
    raise ValueError(f"labels must be {rule}, or {ignore}, got {wrong}")
