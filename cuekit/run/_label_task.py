"""The labels of one photo: read, made by the recipe, checked, written."""

from __future__ import annotations

import os
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit import io
from cuekit.io.labels import encode_labels
from cuekit.run._recipe import Recipe, load_recipe, source_hash
from cuekit.run._storage import is_url, local_file, put
from cuekit.run._workers import RunStoppedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LabelTask:
    """Makes and writes the labels of one photo; made once in every worker."""

    def __init__(self, settings: dict[str, Any], function: Recipe | None = None) -> None:
        self.settings = settings
        self.function = load_recipe(settings["recipe"]) if function is None else function
        source = settings.get("recipe_source")  # on a cluster: that of the caller
        if source is not None and source_hash(self.function) != source:
            raise ValueError(
                f"recipe {settings['recipe']} must be the caller's, got another file of that name "
                f"in {os.fspath(Path.cwd())}"
            )
        self.archives = {path: io.MapArchive(path) for path in settings["archives"]}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return what the journal says of the photo."""
        found = self.make(item)
        data = encode_labels(found)
        self._write(item, data)
        counts = np.bincount(found.astype(np.uint8).reshape(-1))  # encode_labels has checked them
        ids = np.flatnonzero(counts)
        return {
            "bytes": len(data),
            "crc32": zlib.crc32(data),
            "pixels": dict(zip(map(str, ids.tolist()), counts[ids].tolist(), strict=True)),
        }

    def make(self, item: dict[str, Any]) -> NDArray[Any]:
        """Return the labels of a photo."""
        with local_file(item["photo"]) as path:
            photo = io.read_photo(path)
        maps = [self.read(where) for where in item["maps"]]
        for each in maps:
            check_sizes(each, photo)
        extra = {} if item["masks"] is None else {"masks": io.read_masks(item["masks"])}
        found = self.function(
            photo,
            maps[0] if len(maps) == 1 else maps,
            item["tags"],
            **self.settings["options"],
            **extra,
        )
        return _checked_labels(found, photo)

    def close(self) -> None:
        """Close the archives."""
        for archive in self.archives.values():
            archive.close()

    def read(self, where: list[str]) -> io.Maps:
        """Return the maps of a photo from a file, or from an archive."""
        if len(where) == 2:
            return self.archives[where[0]].read(where[1])
        with local_file(where[0]) as path:
            return io.read_maps(path, **self.settings["reading"])

    def _write(self, item: dict[str, Any], data: bytes) -> None:
        if is_url(self.settings["out"]):
            url = f"{self.settings['out']}/{item['name']}.png"
            try:
                put(url, data)
            except OSError as error:
                raise RunStoppedError(f"labels cannot be written: {error}") from error
            return
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
