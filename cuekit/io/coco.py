"""MS COCO's files: truth from an instances JSON, and label maps as such JSONs."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np

from cuekit._checks import check_choice, check_integer, check_switch
from cuekit.classes import COCO, COCO_CATEGORY_IDS, check_names, class_names, is_background
from cuekit.io._common import PathLike, check_path, replace_file
from cuekit.io._polygon import polygon_lengths
from cuekit.io._unpickle import show
from cuekit.io.labels import check_labels, voc_colours
from cuekit.io.rle import checked_lengths, checked_size, encode_rle

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_PIXELS = 2**28
_IGNORE = 255
_NO_CATEGORY = -1  # of the background, where no category is the background
_OFFICIAL = dict(zip(COCO_CATEGORY_IDS, COCO, strict=True))

Overlap: TypeAlias = Literal["later", "smaller"]
Crowds: TypeAlias = Literal["background", "class", "ignore"]


class CocoPhoto(NamedTuple):
    """A photo of an instances JSON.

    Parameters
    ----------
    id : int
        The photo's number in the file.
    file_name : str
        The photo's file, as it stands in the JSON.
    size : (height, width)
        In pixels.

    Examples
    --------
    >>> from cuekit.io import CocoPhoto
    >>> CocoPhoto(42, "COCO_val2014_000000000042.jpg", (478, 640)).size
    (478, 640)
    """

    id: int
    file_name: str
    size: tuple[int, int]


class _Object(NamedTuple):
    """An annotation, with its outline in a compact form."""

    id: object
    photo: int
    category: int
    is_crowd: object
    area: object
    segmentation: object


class CocoTruth:
    """What `read_coco` read: photos, and for each its labels and tags.

    Attributes
    ----------
    classes : tuple of str
        Names, the background first: the index of a name is its class id.
    category_ids : tuple of int
        The file's id of each class; of the background 0 with COCO's categories, -1 if no category
        is the background.
    photos : tuple of CocoPhoto
        In the order of the file.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        category_ids: tuple[int, ...],
        photos: Iterable[CocoPhoto],
        objects: dict[int, list[_Object]],
    ) -> None:
        self.classes = classes
        self.category_ids = category_ids
        self.photos = tuple(photos)
        self._objects = objects
        self._class_of = {each: class_id for class_id, each in enumerate(category_ids)}
        self._by_id = {photo.id: photo for photo in self.photos}
        self._by_name: dict[str, CocoPhoto | None] = {}
        for name, photo in [
            *((PurePosixPath(photo.file_name).stem, photo) for photo in self.photos),
            *((photo.file_name, photo) for photo in self.photos),
        ]:
            known = self._by_name.setdefault(name, photo)
            self._by_name[name] = photo if known == photo else None

    def photo(self, photo: int | str) -> CocoPhoto:
        """Return a photo by its id, its file name, or that without folder and suffix.

        Raises
        ------
        TypeError
            If `photo` is neither an integer nor a string.
        ValueError
            If there is no such photo, or several.
        """
        if isinstance(photo, str):
            found = self._by_name.get(photo)
        else:
            found = self._by_id.get(check_integer(photo, "photo"))
        if found is None:
            got = "several" if photo in self._by_name else "none"
            raise ValueError(f"there must be one photo {photo!r}, got {got}")
        return found

    def tags(self, photo: int | str, *, crowds: bool = True) -> NDArray[np.int64]:
        """Return the ids of a photo's classes, in ascending order.

        Parameters
        ----------
        photo : int or str
            The photo's id, its file name, or that without folder and suffix.
        crowds : bool, default True
            Whether the classes of crowds count, as in ReCAM's tags. With False they are the classes
            of the labels, but for objects that are hidden behind others.

        Returns
        -------
        (P,) array of int64
            Class ids, 1 to K - 1.
        """
        check_switch(crowds, "crowds")
        found = {
            self._class_of[each.category]
            for each in self._objects.get(self.photo(photo).id, ())
            if crowds or not each.is_crowd
        }
        return np.array(sorted(found - {0}), np.int64)

    def labels(
        self, photo: int | str, *, overlap: Overlap = "later", crowds: Crowds = "background"
    ) -> NDArray[np.uint8]:
        """Return a photo's label map.

        Parameters
        ----------
        photo : int or str
            The photo's id, its file name, or that without folder and suffix.
        overlap : {"later", "smaller"}, default "later"
            Which of two objects a pixel belongs to: the one that stands later in the file, or the
            one whose ``area`` in the file is smaller (of equal ones the earlier).
        crowds : {"background", "class", "ignore"}, default "background"
            What becomes of groups that are outlined as one (``iscrowd``): left out, painted like
            other objects, or 255 where no object is.

        Returns
        -------
        (H, W) array of uint8
            Class ids, 0 = background.

        Raises
        ------
        ValueError
            If there is no such photo, or if one of its objects has no outline, a damaged one, or
            one that is not for the photo's size. The message names the photo and the object.

        Notes
        -----
        The defaults are those of ReCAM's ``mscoco/annToMask.py``, to which others point (SIPE#13).
        ``overlap="smaller", crowds="class"`` is the rule of the program coco2voc, to which AFA and
        ToCo point. The label PNGs that RIB published, which many projects download, come without
        their rule.
        """
        check_choice(overlap, "overlap", get_args(Overlap))
        check_choice(crowds, "crowds", get_args(Crowds))
        found = self.photo(photo)
        objects = self._objects.get(found.id, [])
        try:
            if overlap == "smaller":
                objects = sorted(objects, key=_area)[::-1]
            if crowds == "background":
                objects = [each for each in objects if not each.is_crowd]
            elif crowds == "ignore":
                objects = sorted(objects, key=lambda each: not each.is_crowd)
            height, width = found.size
            columns = np.zeros(width * height, np.uint8)  # one after the other, as COCO's runs
            for each in objects:
                ignored = each.is_crowd and crowds == "ignore"
                value = _IGNORE if ignored else self._class_of[each.category]
                for lengths in _outline(each, found.size):
                    _paint(columns, lengths, value)
        except ValueError as error:
            rule = str(error)
        else:
            return np.ascontiguousarray(columns.reshape(width, height).T)
        raise ValueError(f"photo {found.id}, {found.file_name!r}: {rule}")


def read_coco(path: PathLike, *, max_bytes: int = 2**30) -> CocoTruth:
    """Read truth from an instances JSON, as MS COCO publishes it and labelling tools export it.

    pycocotools is not needed; masks equal its masks pixel by pixel.

    Parameters
    ----------
    path : str or path-like
        For example ``instances_val2014.json``.
    max_bytes : int, default 2**30
        Size limit of the file, in bytes. COCO's largest has 0.45 GB. Reading takes about three
        times the file's size; a file that is made to take much may take 30 times.

    Returns
    -------
    CocoTruth
        Of a file with COCO's categories, or some of them, the classes are COCO's: 81, with ids 0 to
        80. Of another file they are its categories, in the order of their ids, from 1 on; one that
        is named "background" is class 0.

    Raises
    ------
    TypeError
        If `path` is no path, or `max_bytes` is not an integer.
    ValueError
        If the file is no such JSON, is damaged or too large; if photos, categories or ids are there
        twice or missing; or if it has more than 254 classes. The message names the file. Outlines
        are checked when `CocoTruth.labels` needs them.
    OSError
        If the file cannot be opened or read.

    References
    ----------
    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014,
    :doi:`10.1007/978-3-319-10602-1_48`; the format: https://cocodataset.org/#format-data

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import read_coco, write_coco
    >>> labels = np.array([[0, 0, 2], [0, 2, 2]])
    >>> write_coco("instances.json", [("street.jpg", labels)], ["background", "car", "dog"])
    >>> truth = read_coco("instances.json")
    >>> truth.classes
    ('background', 'car', 'dog')
    >>> truth.labels("street")
    array([[0, 0, 2],
           [0, 2, 2]], dtype=uint8)
    """
    file_path = check_path(path)
    max_bytes = check_integer(max_bytes, "max_bytes", minimum=1)
    with file_path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"{file_path}: a JSON must have at most {max_bytes} bytes, got {size}")
        try:
            return _truth(_parsed(file.read(size)))
        except ValueError as error:
            rule = str(error)
    raise ValueError(f"{file_path}: {rule}")


def _parsed(data: bytes) -> object:
    import json

    try:
        text = data.decode("utf-8-sig")
        del data
        return json.loads(text, object_hook=_compact, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a JSON must be whole and undamaged, got: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"numbers must be finite, got {constant}")


def _compact(found: dict[str, object]) -> object:
    """Turn a JSON object into what takes less memory, if it is an annotation or a photo."""
    if "image_id" in found and "category_id" in found:
        return _Object(
            found.get("id"),
            cast("int", found["image_id"]),  # checked later
            cast("int", found["category_id"]),
            found.get("iscrowd", 0),
            found.get("area"),
            _packed(found.get("segmentation")),
        )
    if "file_name" in found and "height" in found:
        size = found["height"], found.get("width")
        return CocoPhoto(found.get("id"), found["file_name"], size)  # type: ignore[arg-type]
    return found


def _packed(segmentation: object) -> object:
    """Return a segmentation with its numbers in arrays; what is not right stays as it is."""
    try:
        if isinstance(segmentation, list):
            return [array("d", each) for each in segmentation]
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
            return {**segmentation, "counts": np.array(array("q", segmentation["counts"]))}
    except (TypeError, OverflowError):
        pass  # refused when the mask is asked for
    return segmentation


def _truth(found: object) -> CocoTruth:
    if not isinstance(found, dict):
        raise ValueError(f"a JSON of COCO's must be an object, got {show(found)}")  # noqa: TRY004
    for key in ("images", "annotations", "categories"):
        if not isinstance(found.get(key), list):
            raise ValueError(  # noqa: TRY004
                f"a JSON of COCO's must have images, annotations and categories, got {key} = "
                f"{show(found.get(key))}"
            )
    category_ids, classes = _classes(found["categories"])
    photos = [_checked_photo(each) for each in found["images"]]
    objects: dict[int, list[_Object]] = {photo.id: [] for photo in photos}
    if len(objects) != len(photos):
        raise ValueError("the ids of images must be distinct, got some twice")
    known = {each["id"] for each in found["categories"]}
    for each in found["annotations"]:
        if not isinstance(each, _Object):
            raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
                f"an annotation must be an object with image_id and category_id, got {show(each)}"
            )
        if type(each.photo) is not int or each.photo not in objects:
            raise ValueError(
                f"every annotation must be of one of the images, got image_id "
                f"{show(each.photo)} in annotation {show(each.id)}"
            )
        if type(each.category) is not int or each.category not in known:
            raise ValueError(
                f"every annotation must be of one of the categories, got category_id "
                f"{show(each.category)} in annotation {show(each.id)}"
            )
        if each.is_crowd not in (0, 1):
            raise ValueError(
                f"iscrowd must be 0 or 1, got {show(each.is_crowd)} in annotation {show(each.id)}"
            )
        objects[each.photo].append(each)
    return CocoTruth(classes, category_ids, photos, objects)


def _classes(categories: list[Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the id and the name of each class, by class id."""
    names: dict[int, str] = {}
    for each in categories:
        category, name = (
            (each.get("id"), each.get("name")) if isinstance(each, dict) else (None, None)
        )
        if type(category) is not int or category < 0 or not isinstance(name, str):
            raise ValueError(
                f"a category must have an id >= 0 and a name, got {show(category)} and {show(name)}"
            )
        if category in names:
            raise ValueError(f"the ids of categories must be distinct, got {category} twice")
        names[category] = name
    if names and all(_OFFICIAL.get(each) == name for each, name in names.items()):
        return COCO_CATEGORY_IDS, COCO
    background = [each for each, name in names.items() if is_background(name)]
    foreground = sorted(set(names) - set(background))
    if len(background) > 1:
        raise ValueError("one category at most must be the background, got several")
    classes = check_names(["background", *(names[each] for each in foreground)], "categories")
    return (*(background or [_NO_CATEGORY]), *foreground), classes


def _checked_photo(photo: object) -> CocoPhoto:
    if not isinstance(photo, CocoPhoto):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not an argument
            f"an image must be an object with file_name, height and width, got {show(photo)}"
        )
    if type(photo.id) is not int or not isinstance(photo.file_name, str):
        raise ValueError(
            f"an image must have an integer id and a file_name, got {show(photo.id)} and "
            f"{show(photo.file_name)}"
        )
    height, width = photo.size
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(
            f"height and width of an image must be integers >= 1, got {show(height)} and "
            f"{show(width)} for {show(photo.file_name)}"
        )
    if height * width > _MAX_PIXELS:
        raise ValueError(f"an image must have at most {_MAX_PIXELS} pixels, got {height} x {width}")
    return photo


def _area(each: _Object) -> float:
    if type(each.area) not in (int, float):
        raise ValueError(f"annotation {show(each.id)} must have an area, got {show(each.area)}")
    return each.area  # type: ignore[return-value]


def _paint(columns: NDArray[np.uint8], lengths: NDArray[np.int64], value: int) -> None:
    """Set the pixels of every second run."""
    lengths = lengths[: lengths.size // 2 * 2]  # without the zeros after the last run
    if not lengths.size:
        return
    start, on = int(lengths[0]), np.arange(lengths.size - 1) % 2 == 0
    part = columns[start : int(lengths.sum())]
    part[np.repeat(on, lengths[1:])] = value


def _outline(each: _Object, size: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Return the run lengths of each part of an object."""
    try:
        return _parts(each.segmentation, size)
    except ValueError as error:
        rule = str(error)
    raise ValueError(f"the outline of annotation {show(each.id)} is not as it must be: {rule}")


def _parts(outline: object, size: tuple[int, int]) -> list[NDArray[np.int64]]:
    if isinstance(outline, dict):
        if checked_size(outline.get("size")) != size:
            raise ValueError(f"its size must be the photo's, {size}, got {outline['size']}")
        return [checked_lengths(outline.get("counts"), size)]
    if not isinstance(outline, list) or not outline:
        raise ValueError(f"it must have polygons or run lengths, got {show(outline)}")
    for polygon in outline:
        if not isinstance(polygon, array) or len(polygon) < 6 or len(polygon) % 2:
            corners = list(polygon[:10]) if isinstance(polygon, array) else polygon
            raise ValueError(
                f"a polygon must have x and y of at least 3 corners, got {show(corners)}"
            )
    return [polygon_lengths(np.array(each).reshape(-1, 2), size) for each in outline]


# ----------------------------------------------------------------------------------------- writers


def write_coco(
    path: PathLike,
    photos: Iterable[tuple[str, Any]],
    classes: str | os.PathLike[str] | Sequence[str] = "coco",
) -> None:
    """Write label maps as an instances JSON, with one annotation for each class of a photo.

    pycocotools, CVAT, FiftyOne and others read it. `path` never holds a partial file.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a new one in a folder that exists.
    photos : iterable of (file name, labels)
        The name of each photo, and its label map, an (H, W) array or tensor of any integer dtype:
        class ids, 0 = background, 255 = ignore. They are asked for one by one, so a generator that
        reads them takes little memory; each photo adds some 300 bytes.
    classes : {"voc", "coco"}, path or sequence of str, default "coco"
        The names of the classes, the background first, as for `class_names`. COCO's categories have
        their official ids, others their class ids.

    Raises
    ------
    TypeError
        If `path` is no path, or `photos` has other items.
    ValueError
        If a name is there twice, or a label is no class. The message names the photo.
    OSError
        If the file cannot be written. What was at `path` is then unchanged.

    Notes
    -----
    An annotation is a class and not an object: ``iscrowd`` is 0, and ``area`` and ``bbox`` are
    those of the class. The format has no "ignore": pixels of label 255 are in no annotation, as the
    background. Photos are numbered from 1 in their order.

    Examples
    --------
    >>> import json
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from cuekit.io import write_coco
    >>> write_coco("instances.json", [("street.jpg", np.array([[0, 1], [1, 1]]))], "voc")
    >>> annotation, = json.loads(Path("instances.json").read_text())["annotations"]
    >>> annotation["category_id"], annotation["area"], annotation["bbox"]
    (1, 3, [0, 0, 2, 2])
    """
    file_path = check_path(path)
    names = class_names(classes)
    ids = _written_ids(names)
    number = 0
    with replace_file(file_path) as file:
        writer = _JsonWriter(file, _categories(names, ids))
        for image_id, (file_name, labels, counts) in enumerate(checked_photos(photos, names), 1):
            writer.add_image(image_id, file_name, labels)
            for class_id in np.flatnonzero(counts[1:_IGNORE]) + 1:
                number += 1
                mask = labels == class_id
                writer.add_annotation(
                    {
                        "id": number,
                        "image_id": image_id,
                        "category_id": ids[class_id],
                        "segmentation": encode_rle(mask),
                        "area": int(counts[class_id]),
                        "bbox": _box(mask),
                        "iscrowd": 0,
                    }
                )
        writer.finish()


def write_coco_panoptic(
    path: PathLike,
    photos: Iterable[tuple[str, Any]],
    classes: str | os.PathLike[str] | Sequence[str] = "coco",
    *,
    things: Sequence[str] = (),
) -> None:
    """Write label maps in COCO's panoptic format: a JSON, and a PNG for each photo.

    Parameters
    ----------
    path : str or path-like
        The JSON. The PNGs go into the folder of the same name without ``.json``, which is made, as
        in COCO's own archives. The JSON is written last.
    photos : iterable of (file name, labels)
        As for `write_coco`. A PNG has the photo's name without folder and suffix.
    classes : {"voc", "coco"}, path or sequence of str, default "coco"
        As for `write_coco`.
    things : sequence of str, optional
        The names of classes that are things (``isthing`` = 1), whose segments are single objects.
        The others are stuff.

    Raises
    ------
    TypeError
        If `path` is no path, or `photos` has other items.
    ValueError
        If `path` does not end in ``.json``, if two PNGs would have one name, if a label is no
        class, or if `things` has a name that `classes` has not.
    OSError
        If a file cannot be written.

    Notes
    -----
    A segment is all of a class in a photo; its id is the category's, and its colour in the PNG
    (id mod 256, id // 256, 0). Background and label 255 are void, id 0.

    References
    ----------
    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, :doi:`10.1109/CVPR.2019.00963`; the
    format: https://cocodataset.org/#format-data
    """
    from PIL import Image

    file_path = check_path(path)
    if file_path.suffix != ".json":
        raise ValueError(f"path must end in .json, got {os.fspath(path)!r}")
    names = class_names(classes)
    unknown = sorted(set(things) - set(names[1:]))
    if isinstance(things, str) or unknown:
        raise ValueError(f"things must be a sequence of names of classes, got {things!r}")
    ids = np.array(_written_ids(names))
    folder = file_path.with_suffix("")
    folder.mkdir(exist_ok=True)
    categories = _categories(names, ids.tolist())
    for each in categories:
        each["isthing"] = int(each["name"] in things)
        each["color"] = voc_colours()[each["id"]].tolist()
    segment_ids = np.zeros(256, np.uint8)
    segment_ids[1 : len(names)] = ids[1:]
    pictures: set[str] = set()
    with replace_file(file_path) as file:
        writer = _JsonWriter(file, categories)
        for image_id, (file_name, labels, counts) in enumerate(checked_photos(photos, names), 1):
            picture = f"{PurePosixPath(file_name).stem}.png"
            if picture in pictures:
                raise ValueError(f"photos must have distinct names of PNGs, got {picture!r} twice")
            pictures.add(picture)
            segments = segment_ids[labels]
            with replace_file(folder / picture) as png:
                pixels = np.stack([segments, *[np.zeros_like(segments)] * 2], axis=-1)
                Image.fromarray(pixels).save(png, format="PNG")
            writer.add_image(image_id, file_name, labels)
            writer.add_annotation(
                {
                    "image_id": image_id,
                    "file_name": picture,
                    "segments_info": [
                        {
                            "id": int(ids[class_id]),
                            "category_id": int(ids[class_id]),
                            "area": int(counts[class_id]),
                            "bbox": _box(labels == class_id),
                            "iscrowd": 0,
                        }
                        for class_id in np.flatnonzero(counts[1:_IGNORE]) + 1
                    ],
                }
            )
        writer.finish()


class _JsonWriter:
    """Writes annotations as they come; the entries of photos, which are small, at the end."""

    def __init__(self, file: IO[bytes], categories: list[dict[str, Any]]) -> None:
        self._file = file
        self._images: list[str] = []
        self._separator = b""
        self._file.write(b'{"categories": ' + _json(categories).encode() + b', "annotations": [')

    def add_image(self, image_id: int, file_name: str, labels: NDArray[np.uint8]) -> None:
        height, width = labels.shape
        entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        self._images.append(_json(entry))

    def add_annotation(self, entry: dict[str, Any]) -> None:
        self._file.write(self._separator + b"\n" + _json(entry).encode())
        self._separator = b","

    def finish(self) -> None:
        self._file.write(b'\n], "images": [\n' + ",\n".join(self._images).encode() + b"\n]}\n")


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def _written_ids(names: tuple[str, ...]) -> list[int]:
    return list(COCO_CATEGORY_IDS) if names == COCO else list(range(len(names)))


def _categories(names: tuple[str, ...], ids: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": category, "name": name, "supercategory": ""}
        for category, name in zip(ids[1:], names[1:], strict=True)
    ]


def checked_photos(
    photos: Iterable[tuple[str, Any]], names: tuple[str, ...]
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield name, label map and the number of pixels of each label, of photos to be written."""
    seen: set[str] = set()
    for each in photos:
        if not isinstance(each, tuple) or len(each) != 2 or not isinstance(each[0], str):
            raise TypeError(f"photos must be pairs (file name, labels), got {show(each)}")
        file_name, labels = each
        if not file_name:
            raise ValueError("photos must have names, got an empty one")
        if file_name in seen:
            raise ValueError(f"photos must have distinct names, got {file_name!r} twice")
        seen.add(file_name)
        pixels = check_labels(labels, f"labels of {file_name!r}")
        counts = check_classes(pixels, f"labels of {file_name!r}", names)
        yield file_name, pixels, counts


def check_classes(
    labels: NDArray[np.uint8], name: str, names: tuple[str, ...]
) -> NDArray[np.int64]:
    """Return the number of pixels of each label; refuse labels that are no class."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    wrong = np.flatnonzero(counts[len(names) : _IGNORE])
    if wrong.size:
        raise ValueError(
            f"{name} must be in 0..{len(names) - 1}, the classes, or {_IGNORE}, got "
            f"{len(names) + int(wrong[0])}"
        )
    return counts


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """Return left, top, width and height of what is on."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
