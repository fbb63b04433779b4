"""The labels of one photo: read, made by the recipe, checked, written."""

from __future__ import annotations

import base64
import os
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit import io
from cuekit.io.labels import encode_labels
from cuekit.run._recipe import Recipe, load_recipe, source_hash, takes_batches
from cuekit.run._storage import archive_of, clear_errors, is_url, local_file, put
from cuekit.run._workers import RunStoppedError, attempt

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LabelTask:
    """Makes and writes the labels of one photo; made once in every worker.

    For a recipe that takes batches, it gets several photos at once, ``{"items": [item, ...]}``, and
    answers ``{"results": [result, ...]}``. It gives the recipe photos of one size, with maps of the
    same shapes, at most `batch` of them. If that fails, each of them is tried alone.
    """

    def __init__(self, settings: dict[str, Any], function: Recipe | None = None) -> None:
        self.settings = settings
        self.function = load_recipe(settings["recipe"]) if function is None else function
        source = settings.get("recipe_source")  # on a cluster: that of the caller
        if source is not None and source_hash(self.function) != source:
            raise ValueError(
                f"recipe {settings['recipe']} must be the caller's, got another file of that name "
                f"in {os.fspath(Path.cwd())}"
            )
        self.takes_batches = takes_batches(self.function)
        self.archives = {path: archive_of(path) for path in settings["archives"]}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return what the journal says of the photo."""
        if "items" in item:
            return {"results": self._in_batches(item["items"])}
        return self._written(item, self.make(item))

    def _written(self, item: dict[str, Any], found: NDArray[Any]) -> dict[str, Any]:
        """Write labels, and return what the journal says of the photo."""
        data = encode_labels(found)
        written = self._write(item, data)
        counts = np.bincount(found.astype(np.uint8).reshape(-1))  # encode_labels has checked them
        ids = np.flatnonzero(counts)
        return {
            "bytes": len(data),
            "crc32": zlib.crc32(data),
            "pixels": dict(zip(map(str, ids.tolist()), counts[ids].tolist(), strict=True)),
            **written,
        }

    def _in_batches(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what the journal says of each photo."""
        results: dict[int, dict[str, Any]] = {}
        groups: dict[Any, list[tuple[int, _Inputs]]] = {}
        for number, item in enumerate(items):
            loaded = attempt(self._load, item)
            if isinstance(loaded, _Inputs):
                groups.setdefault(loaded.shapes, []).append((number, loaded))
            else:
                results[number] = loaded
        size = self.settings["batch"]
        for group in groups.values():
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                found: Any = None
                if len(batch) > 1:
                    found = attempt(self._call, [inputs for _, inputs in batch])
                for i, (number, inputs) in enumerate(batch):
                    # A batch that has failed is done again, because of one of its photos perhaps.
                    labels = found[i] if isinstance(found, list) else None
                    results[number] = attempt(self._finish, items[number], inputs, labels)
        return [results[number] for number in range(len(items))]

    def _finish(
        self, item: dict[str, Any], inputs: _Inputs, found: NDArray[Any] | None
    ) -> dict[str, Any]:
        if found is None:
            found = self._call([inputs])[0]
        return self._written(item, _checked_labels(found, inputs.photo))

    def make(self, item: dict[str, Any]) -> NDArray[Any]:
        """Return the labels of a photo."""
        inputs = self._load(item)
        return _checked_labels(self._call([inputs])[0], inputs.photo)

    def _load(self, item: dict[str, Any]) -> _Inputs:
        """Read all that the recipe wants of a photo."""
        with local_file(item["photo"]) as path:
            photo = io.read_photo(path)
        maps = [self.read(where) for where in item["maps"]]
        for each in maps:
            check_sizes(each, photo)
        masks = None
        if item["masks"] is not None:
            with local_file(item["masks"]) as path:
                masks = io.read_masks(path)
        return _Inputs(photo, maps, item["tags"], masks)

    def _call(self, inputs: list[_Inputs]) -> list[Any]:
        """Return what the recipe returns of each photo; not more than one if it takes no lists."""
        photos = [each.photo for each in inputs]
        maps = [each.maps[0] if len(each.maps) == 1 else each.maps for each in inputs]
        tags = [each.tags for each in inputs]
        options = dict(self.settings["options"])
        if inputs[0].masks is not None:
            masks = [each.masks for each in inputs]
            options["masks"] = masks if self.takes_batches else masks[0]
        if not self.takes_batches:
            return [self.function(photos[0], maps[0], tags[0], **options)]
        found = list(self.function(photos, maps, tags, **options))
        if len(found) != len(inputs):
            raise ValueError(
                f"a recipe must return labels of each photo, {len(inputs)}, got {len(found)}"
            )
        return found

    def close(self) -> None:
        """Close the archives."""
        for archive in self.archives.values():
            archive.close()

    def read(self, where: list[str]) -> io.Maps:
        """Return the maps of a photo from a file, or from an archive."""
        if len(where) == 2:
            with clear_errors(where[0]):
                return self.archives[where[0]].read(where[1])
        with local_file(where[0]) as path:
            return io.read_maps(path, **self.settings["reading"])

    def _write(self, item: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Write labels; return what is to be known of that."""
        if self.settings["out"] is None:  # the driver writes them into a tar
            return {"png": base64.b64encode(data).decode()}
        if is_url(self.settings["out"]):
            url = f"{self.settings['out']}/{item['name']}.png"
            try:
                tag = put(url, data)
            except OSError as error:
                raise RunStoppedError(f"labels cannot be written: {error}") from error
            return {} if tag is None else {"tag": tag}
        target = Path(self.settings["out"]) / f"{item['name']}.png"
        # A process id would not do: processes of several machines may write into one folder.
        unfinished = Path(self.settings["unfinished"]) / f"{uuid.uuid4().hex}.part"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(target)
        except OSError as error:  # a full disk, a folder without permission: so for all photos
            raise RunStoppedError(
                error.errno, f"labels cannot be written: {error.strerror}", os.fspath(target)
            ) from error
        return {}


@dataclass(frozen=True)
class _Inputs:
    """What a recipe gets of one photo."""

    photo: NDArray[np.uint8]
    maps: list[io.Maps]
    tags: list[int] | None
    masks: NDArray[Any] | None

    @property
    def shapes(self) -> Any:
        """What photos of one batch have in common."""
        return self.photo.shape, tuple(each.maps.shape for each in self.maps)


def check_sizes(maps: io.Maps, photo: NDArray[np.uint8]) -> None:
    """Refuse maps of another photo, or of a photo that was turned.

    Networks resize photos to squares, or divide both sides by one number and round up or down.
    """
    height, width = photo.shape[:2]
    if maps.photo_size is not None and maps.photo_size != (height, width):
        raise ValueError(
            f"maps must be those of a photo of {height} x {width}, got maps of one of "
            f"{maps.photo_size[0]} x {maps.photo_size[1]}"
        )
    h, w = maps.maps.shape[-2:]
    # The strides that would give h and w, up to one cell.
    least = max(height / (h + 1), width / (w + 1))
    most = min(height / max(h - 1, 0.5), width / max(w - 1, 0.5))
    if h != w and least > most:
        raise ValueError(
            f"maps must have the proportions of the photo, {height} x {width}, or be square, "
            f"got {h} x {w}"
        )


def _checked_labels(found: Any, photo: NDArray[np.uint8]) -> NDArray[Any]:
    array = np.asarray(found)
    if array.shape != photo.shape[:2] or array.dtype.kind not in "iu":
        raise ValueError(
            f"a recipe must return integers of shape {photo.shape[:2]}, "
            f"got {array.dtype} {array.shape}"
        )
    return array
