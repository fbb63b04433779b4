"""Feeds damaged files to every reader of cuekit.io, guided by the code that they reach.

    python tests/fuzz_readers.py FOLDER [options of libFuzzer, such as -max_total_time=60] [INPUT]

Needs atheris. Valid files are written to FOLDER/corpus, and inputs that reach new code are added:
with the same folder, the next run begins where this one ended. The first byte of an input chooses
the reader, the rest is the file. A reader must return or raise ValueError; it must run nothing, and
finish in 20 seconds and 2 GB. An input that breaks this is written to `crash-...` in the working
directory; with its name as INPUT, that input alone is run.

`tests/fuzz.sh` runs this, and the properties of the ops.
"""

import contextlib
import json
import pickle
import sys
import warnings
import zlib
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["cuekit"]):
    from cuekit import io

FOLDER = Path(sys.argv[1])


def read_sec(path):
    """Read every image: entries are checked when they are asked for."""
    return dict(io.read_sec_cues(path, max_bytes=2**24))


def read_coco(path):
    """Read every photo: outlines are checked when they are needed."""
    truth = io.read_coco(path, max_bytes=2**24)
    # A photo of any size may be claimed.
    return [
        truth.labels(p.id, crowds="ignore") for p in truth.photos if p.size[0] * p.size[1] < 2**20
    ]


def read_archive(path):
    """Read the maps of every photo."""
    with io.MapArchive(path, max_bytes=2**24) as archive:
        return [archive.read(name) for name in archive.names]


READERS = [
    lambda path: io.read_maps(path, max_bytes=2**24),
    lambda path: io.read_masks(path, max_bytes=2**24),
    read_sec,
    read_coco,
    read_archive,
    io.read_labels,
    io.read_photo,
    io.read_labelmap,
    lambda path: io.decode_rle(
        {"size": [*path.read_bytes()[:2]], "counts": path.read_bytes()[2:]}, max_pixels=2**16
    ),
]
MAPS, MASKS, SEC, COCO, ARCHIVE, LABELS, PHOTO, LABELMAP, RLE = range(len(READERS))

# Events of sys.addaudithook that no reader may cause.
FORBIDDEN = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "pickle.find_class")
FORBIDDEN += ("ctypes.dlopen", "os.remove", "os.rename", "socket.connect", "subprocess.Popen")
caused: list[str] = []


def seeds(folder):
    """Write one valid file of each kind into a folder, with the byte that chooses its reader."""
    cues = np.zeros((3, 4, 5), bool)
    cues[0, :2] = cues[1, 2:] = True
    labels = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    maps = np.linspace(0, 1, 40, dtype=np.float32).reshape(2, 4, 5)
    rle = io.encode_rle(cues[0])
    counts = rle["counts"]
    by_class = {3: maps[0], 7: maps[1]}
    path = folder / "file"

    def written(write, *arguments, suffix="", **options):
        name = path.with_suffix(suffix)
        write(name, *arguments, **options)
        data = name.read_bytes()
        name.unlink()
        return data

    files = [
        (MAPS, written(io.write_maps, maps, [1, 2], suffix=".npz")),
        (MAPS, written(np.save, np.array(by_class), suffix=".npy", allow_pickle=True)),
        (MAPS, written(np.savez, keys=np.arange(2), high_res=maps, suffix=".npz")),
        *((MAPS, pickle.dumps({"keys": np.arange(2), "cam": maps}, n)) for n in range(2, 6)),
        (MASKS, json.dumps([{"segmentation": {**rle, "counts": str(counts)}}]).encode()),
        (MASKS, pickle.dumps([{"segmentation": mask} for mask in cues])),
        (MASKS, written(np.save, labels.astype(np.int64), suffix=".npy")),
        (SEC, pickle.dumps({"0_labels": [1], "0_cues": np.array([[1], [2], [3]])}, 2)),
        (COCO, written(io.write_coco, [("a.jpg", labels)], suffix=".json")),
        (ARCHIVE, written(np.savez, suffix=".npz", **{"a/cams": maps, "a/classes": [1, 2]})),
        (LABELS, written(io.write_labels, labels, suffix=".png")),
        *(
            (PHOTO, written(Image.fromarray(labels).convert("RGB").save, suffix=suffix))
            for suffix in (".png", ".jpg", ".bmp", ".gif", ".ppm")
        ),
        (LABELMAP, written(io.write_labelmap, ["background", "cat"], suffix=".txt")),
        (RLE, bytes([4, 5]) + (counts if isinstance(counts, bytes) else counts.encode())),
    ]
    for reader, data in files:
        (folder / f"{reader}-{zlib.crc32(data):08x}").write_bytes(bytes([reader]) + data)
        READERS[reader](_as_file(data))


def _as_file(data):
    path = FOLDER / "input"
    path.write_bytes(data)
    return path


def one_input(data):
    """Run one reader on one file."""
    if not data:
        return
    path = _as_file(data[1:])
    caused.clear()
    with contextlib.suppress(ValueError):
        READERS[data[0] % len(READERS)](path)
    if caused:
        raise AssertionError(f"a reader must run nothing, got {caused}")


def note(event: str, _arguments: object) -> None:
    """Remember an event that no reader may cause."""
    if event in FORBIDDEN:
        caused.append(event)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.addaudithook(note)
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds(corpus)
    limits = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096"]
    options = [option for option in sys.argv[2:] if option.startswith("-")]
    inputs = [name for name in sys.argv[2:] if not name.startswith("-")] or [str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *options, *inputs], one_input)
    atheris.Fuzz()
