"""Labels in tars, as WebDataset reads them: ``labels-000000.tar`` and so on, instead of many files.

Workers send the PNGs to the driver, which alone writes tars. The one that it fills is in its
memory. A tar is written whole, or is not there; then the journal gets a line of the tar, with a
random id and its checksum, and a line of each photo with that id. So

- a photo is done if its line names a tar with the id and checksum of that tar's line;
- a tar that is not as its line says, or has none, because the driver was killed in between, is
  removed when a run begins, and its photos are done again;
- a tar of an earlier run that holds older labels of a photo, whose files have changed since, is
  written again without them. No photo is in two tars.

The run of a part, such as 3 of 16, writes ``labels-3-of-16-000000.tar`` and leaves others' alone.
"""

from __future__ import annotations

import base64
import io
import re
import tarfile
import uuid
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cuekit.run._folder import OutputFolder
    from cuekit.run._journal import Journals

_OF_ANY_PART = r"(?:-\d+-of-\d+)?"
IS_TAR = re.compile(rf"labels{_OF_ANY_PART}-\d{{6,}}\.tar")


def check_key(name: str) -> None:
    """Refuse the name of a photo that WebDataset would read as another one."""
    path = PurePosixPath(name)
    # A key ends at the first dot after the folders; what begins with a folder __x__ is left out.
    if "." in path.name or "\n" in name or re.match(r"__[^/]*__/", name):
        raise ValueError(
            "in tars, a name must have no dot after its folders, where WebDataset ends it, no line "
            f"break, and not begin with a folder __x__, which it leaves out; got {name!r}"
        )


class ShardWriter:
    """The tars of a run.

    Parameters
    ----------
    folder : OutputFolder
        Where they are.
    size : int
        Number of photos in each.
    suffix : str
        Of the names of a part's files, such as "-3-of-16"; "": all parts are this run's.
    """

    def __init__(self, folder: OutputFolder, size: int, suffix: str) -> None:
        self._folder = folder
        self._size = size
        self._stem = f"labels{suffix}"
        self._own = re.compile(rf"labels{suffix}-\d{{6,}}\.tar") if suffix else IS_TAR
        self._journals: Journals | None = None
        # Name -> id of the tars that are as the journal says; None of those that are not.
        self._there: dict[str, str | None] = {}
        self._next = 0
        # Of the tar that is filled: entries and PNGs, and which of its photos older tars have.
        self._photos: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._older: dict[str, set[str]] = {}

    def look(self, journals: Journals, *, writes: bool) -> None:
        """See which tars are there, and remove those that no journal knows."""
        self._journals = journals
        for name in filter(self._own.fullmatch, self._folder.tars()):
            self._next = max(self._next, 1 + int(name[:-4].rpartition("-")[2]))
            if self._id_of(name) is None and writes:
                self._folder.remove_tar(name)

    def has(self, entry: dict[str, Any]) -> bool:
        """Return whether the labels of a photo with this entry are in a tar."""
        return self._tar_of(entry) is not None

    def _tar_of(self, entry: dict[str, Any]) -> str | None:
        match entry.get("shard"):
            case [str(name), str(id_)]:
                return name if self._id_of(name) == id_ else None
        return None

    def _id_of(self, name: str) -> str | None:
        if name not in self._there:
            known = None if self._journals is None else self._journals.shards.get(name)
            is_right = known is not None and self._folder.has_tar(name, known["checksum"])
            self._there[name] = known["id"] if known and is_right else None
        return self._there[name]

    def add(self, name: str, inputs: list[list[Any]], result: dict[str, Any]) -> None:
        """Take a photo's labels; write a tar if it is full."""
        older = None if self._journals is None else self._tar_of(self._journals.entry(name))
        if older is not None and self._own.fullmatch(older) is None:
            raise ValueError(
                f"{older} has older labels of {name}, whose files have changed since: run the part "
                "that wrote it, or all parts as one run"
            )
        png = base64.b64decode(result["png"])
        entry = {"name": name, "state": "done", "inputs": inputs, **result}
        del entry["png"]
        self._photos[name] = (entry, png)
        if older is not None:
            self._older.setdefault(older, set()).add(name)
        if len(self._photos) >= self._size:
            self.close()

    def close(self) -> None:
        """Write what there is."""
        if not self._photos:
            return
        for tar in sorted(self._older):
            self._take_out(tar, self._older[tar])
            del self._older[tar]
        tar, id_ = f"{self._stem}-{self._next:06}.tar", uuid.uuid4().hex
        data = _packed((f"{name}.png", png) for name, (_, png) in self._photos.items())
        checksum = self._folder.write_tar(tar, data)
        self._folder.record(
            {"shard": tar, "id": id_, "checksum": checksum},
            *({**entry, "shard": [tar, id_]} for entry, _ in self._photos.values()),
        )
        self._next += 1
        self._photos = {}

    def _take_out(self, tar: str, names: set[str]) -> None:
        """Write a tar again without some photos."""
        shard = [tar, self._there[tar]]
        # If the driver is killed below, these photos are still taken out by the next run.
        self._folder.record(*({"name": name, "state": "old", "shard": shard} for name in names))
        with tarfile.open(fileobj=io.BytesIO(self._folder.read_tar(tar))) as archive:
            members = [
                (member.name, _content(archive, member))
                for member in archive
                if member.name.removesuffix(".png") not in names
            ]
        if members:
            checksum = self._folder.write_tar(tar, _packed(members))
            self._folder.record({"shard": tar, "id": shard[1], "checksum": checksum})
        else:
            self._folder.remove_tar(tar)


def _packed(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar; it depends on names and contents only."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()
