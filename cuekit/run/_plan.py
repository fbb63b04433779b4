"""What is to be done: which photos, with which maps, tags and settings."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cuekit
from cuekit._checks import check_choice, check_integer
from cuekit.io._common import PathLike, check_path
from cuekit.io.maps import Format
from cuekit.run._recipe import Recipe, source_hash
from cuekit.run._sources import (
    MAP_SUFFIXES,
    Files,
    listed_names,
    read_list,
    read_tags,
)
from cuekit.run._storage import (
    Remote,
    archive_of,
    fetched,
    files_of,
    is_archive,
    is_shard,
    is_url,
    place,
    stamp_of,
)
from cuekit.run._strings import Strings

_MASK_SUFFIXES = (".json", ".npy", ".pkl", ".pickle", "")


@dataclass(frozen=True)
class MapSource:
    """A folder of map files, or an archive of many photos."""

    path: Path | Remote
    files: Files | None  # None: an archive
    archived: frozenset[str] = frozenset()

    def names(self) -> Strings:
        """Return the names of the photos, sorted."""
        return Strings(sorted(self.archived)) if self.files is None else self.files.names()

    def __contains__(self, name: str) -> bool:
        return name in (self.archived if self.files is None else self.files)


def map_sources(maps: PathLike | Sequence[PathLike]) -> list[MapSource]:
    """Return the folders and archives of maps that an argument names."""
    paths = [maps] if isinstance(maps, str | os.PathLike) else list(maps)
    if not paths:
        raise ValueError("maps must name at least one folder or archive, got none")
    sources = []
    for each in paths:
        if is_archive(each):
            with archive_of(os.fspath(each)) as archive:
                path = place(each, "maps")
                if isinstance(path, Remote):
                    path = Remote(path.location, stamp_of(path.location))
                sources.append(MapSource(path, None, frozenset(archive.names)))
        else:
            files = files_of(each, MAP_SUFFIXES, "maps")
            sources.append(MapSource(files.folder, files))
    return sources


@dataclass(frozen=True)
class Plan:
    """The arguments of a run that say what the labels of a photo are."""

    photos: Files
    maps: list[MapSource]
    masks: MaskFiles | None
    recipe: str
    options: dict[str, Any]
    tags: dict[str, tuple[int, ...]] | None
    reading: dict[str, Any]

    def __post_init__(self) -> None:
        check_choice(self.reading["format"], "format", get_args(Format))

    def manifest(self, function: Recipe) -> dict[str, Any]:
        """Return all that changes results."""
        tags = None
        if self.tags is not None:
            table = json.dumps(sorted(self.tags.items())).encode()
            tags = hashlib.sha256(table).hexdigest()
        try:
            options = json.loads(json.dumps(self.options))
        except TypeError as error:
            raise TypeError(f"options must be numbers, strings or lists, got: {error}") from None
        return {
            "cuekit": cuekit.__version__,
            "photos": os.fspath(self.photos.folder.resolve()),
            "maps": [os.fspath(source.path.resolve()) for source in self.maps],
            "masks": None if self.masks is None else os.fspath(self.masks.folder.resolve()),
            "reading": self.reading,
            "recipe": self.recipe,
            "recipe_source": source_hash(function),
            "options": options,
            "tags": tags,
        }

    def worker_settings(self) -> dict[str, Any]:
        """Return what a worker has to know for all photos."""
        return {
            "recipe": self.recipe,
            "options": self.options,
            "reading": self.reading,
            "archives": [os.fspath(s.path) for s in self.maps if s.files is None],
        }

    def item(self, name: str) -> dict[str, Any]:
        """Return what a worker has to know of one photo; raises if something is missing."""
        paths: list[Path | Remote] = [self.photos.path(name)]
        maps: list[list[str]] = []
        for source in self.maps:
            if source.files is not None:
                paths.append(source.files.path(name))
                maps.append([os.fspath(paths[-1])])
            elif name in source:
                paths.append(source.path)
                maps.append([os.fspath(source.path), name])
            else:
                raise FileNotFoundError(f"{source.path} has no maps of {name}")
        masks = None
        if self.masks is not None:
            paths.append(self.masks.path(name))
            masks = os.fspath(paths[-1])
        tags = None
        if self.tags is not None:
            if name not in self.tags:
                raise ValueError(f"tags must list every photo, got none for {name}")
            tags = list(self.tags[name])
        stamps = [path.stat() for path in paths]
        return {
            "name": name,
            "photo": os.fspath(paths[0]),
            "maps": maps,
            "masks": masks,
            "tags": tags,
            "inputs": [[stamp.st_size, stamp.st_mtime_ns] for stamp in stamps],
        }


class MaskFiles:
    """The masks of each photo: a file or a folder, on a disk; else a file."""

    def __init__(self, path: PathLike) -> None:
        self._files: Files | None = None
        if is_url(path) or is_shard(path):
            self._files = files_of(path, filter(None, _MASK_SUFFIXES), "masks")
        self.folder = check_path(path, "masks") if self._files is None else self._files.folder

    def path(self, name: str) -> Path:
        """Return where the masks of a photo are."""
        if self._files is not None:
            return self._files.path(name)
        for suffix in _MASK_SUFFIXES:
            path = self.folder / f"{name}{suffix}"
            if path.exists():
                return path
        raise FileNotFoundError(f"{self.folder} has no masks of {name}")


def tags_of(
    tags: PathLike | Mapping[str, Iterable[int]] | None, classes: Sequence[str]
) -> dict[str, tuple[int, ...]] | None:
    """Return the classes of each photo, from a file or a dict."""
    if tags is None:
        return None
    if isinstance(tags, Mapping):
        return {
            name: tuple(sorted(check_integer(each, "tags", minimum=1) for each in set(ids)))
            for name, ids in tags.items()
        }
    with fetched(tags) as path:
        return read_tags(path, classes)


def wanted_names(names: PathLike | Iterable[str] | None, plan: Plan) -> Strings:
    """Return the names of all photos asked for."""
    if names is None:
        with_maps = [source.names() for source in plan.maps]
        merged = (name for name, _ in itertools.groupby(heapq.merge(*with_maps)))
        wanted = with_maps[0] if len(with_maps) == 1 else Strings(merged)
    else:
        if isinstance(names, str | os.PathLike):
            with fetched(names) as path:
                names = read_list(path)
        wanted = Strings(listed_names(names))
    if not any(name in plan.photos and any(name in each for each in plan.maps) for name in wanted):
        maps = min((name for source in plan.maps for name in source.names()), default="none")
        shown = (
            f"photo {next(iter(plan.photos.names()), 'none')!r}, maps of {maps!r}, "
            f"asked for {next(iter(wanted), 'none')!r}"
        )
        raise ValueError(f"no photo asked for has a photo and maps of its name: first {shown}")
    return wanted


def check_apart(out: Path | Remote, inputs: Iterable[Path | Remote]) -> None:
    """Refuse an output that is one of the inputs, or in one, or around one."""
    target = out.resolve()
    for each in inputs:
        source = each.resolve()
        if target == source or source in target.parents or target in source.parents:
            raise ValueError(f"out must be apart from {each}, got {out}")
