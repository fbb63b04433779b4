"""Large photos and many classes: time per pixel and per class against a usual photo, and memory.

A large photo is a usual one and its mirror images side by side: as many edges, colours and
superpixels per pixel. What differs is the size alone.

Small results lie in memory that the process has had before. Those of some 32 MB and more lie in new
memory, whose pages the system clears when they are first written. Of functions that do little else
than write their result, that is most of the time; they are compared with a copy into new memory.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import numpy as np

import cuekit
from benchmarks import inputs
from benchmarks.harness import Result, Row, Verdict, bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDES = 8  # of the large photo, in usual photos: 64 of them, 12 megapixels
MAPS = 2
FEW = 21  # classes
MANY = (81, 151)
USED = (0, 3, 8, 15)  # background and three classes
AT_MOST = 1.3  # time per pixel and per class
ROUNDS = 5
ENOUGH_SECONDS = 1.0  # rounds stop after so long
SMALL_SECONDS = 0.05  # small calls are repeated for about so long in every round


def tiled(array: np.ndarray, sides: int, axes: tuple[int, int]) -> np.ndarray:
    """Return an image and its mirror images side by side."""
    for axis in axes:
        pair = array, np.flip(array, axis)
        array = np.concatenate([pair[i % 2] for i in range(sides)], axis)
    return array


@dataclass(frozen=True)
class Photo:
    """A photo of `sides` by `sides` usual ones, and what belongs to it."""

    sides: int

    @cached_property
    def pixels(self) -> np.ndarray:
        """Return the photo (H, W, 3) uint8."""
        return tiled(inputs.smooth_and_textured()["textured photo"], self.sides, (0, 1))

    @cached_property
    def maps(self) -> np.ndarray:
        """Return probabilities (MAPS, H, W) float32."""
        maps = inputs.smooth_probabilities(inputs.SIZE)[:MAPS]
        return tiled(maps / maps.sum(0), self.sides, (1, 2))

    @cached_property
    def superpixels(self) -> np.ndarray:
        """Return labels (H, W) int32, different ones in every part."""
        labels = cuekit.felzenszwalb(inputs.smooth_and_textured()["textured photo"])
        parts = np.arange(self.sides**2, dtype=np.int32).reshape(self.sides, self.sides)
        first = (labels.max() + 1) * np.kron(parts, np.ones_like(labels))
        return tiled(labels, self.sides, (0, 1)) + first

    @cached_property
    def cues(self) -> np.ndarray:
        """Return cues (MAPS, 41, 41) bool."""
        return inputs.random_cues()[:MAPS]


@dataclass(frozen=True)
class Op:
    """A function of a photo, and its limits."""

    name: str
    call: Callable[[Photo], Any]
    bytes_per_pixel: float
    at_most: float = AT_MOST  # time per pixel against a usual photo
    copies: float = 0  # or, if not 0: time against copying the maps into new memory


@dataclass(frozen=True)
class ClassOp:
    """A function of many maps."""

    name: str
    call: Callable[[], Any]
    copies: float = 0
    at_most: float = AT_MOST  # time per class against 21 classes


NONE_PRESENT = np.zeros(MAPS - 1, dtype=bool)  # the first map is the ceiling of the other
OPS = (
    # The union-find reads parents and thresholds of pixels in the order of costs, not of places:
    # from L2 and L3 for a usual photo, from memory for a large one. scikit-image slows down more:
    # a photo of 3 megapixels takes it 2.9 times the time per pixel.
    Op("felzenszwalb", lambda p: cuekit.felzenszwalb(p.pixels), 70, at_most=4),
    # In each of eleven passes it reads 88 bytes per pixel: for a usual photo from L3, for a large
    # one from memory, which takes 1.3 times as long. A large spatial lattice is not kept between
    # calls. Together that is 1.4. The system clears 1.9 GB of new pages besides, which a virtual
    # machine gets from its host: a tenth to a third of the time.
    Op("dense_crf", lambda p: cuekit.dense_crf(p.maps, p.pixels), 135, at_most=2),
    Op("refine_local", lambda p: cuekit.refine_local(p.maps, p.pixels), 50),
    Op("rgb_to_lab", lambda p: cuekit.rgb_to_lab(p.pixels), 13),
    Op("superpixel_graph", lambda p: cuekit.superpixel_graph(p.superpixels, p.pixels), 17),
    Op("colour_evidence", lambda p: cuekit.colour_evidence(p.maps, p.pixels), 12),
    Op("superpixel_mean", lambda p: cuekit.superpixel_mean(p.maps, p.superpixels), 10),
    Op("snap_cues", lambda p: cuekit.snap_cues(p.cues, p.superpixels), 5),
    Op("subtract_classes", lambda p: cuekit.subtract_classes(p.maps), 9, copies=1.5),
    Op("suppress_absent", lambda p: cuekit.suppress_absent(p.maps, NONE_PRESENT), 9, copies=1.5),
)


def seconds(call: Callable[[], Any]) -> float:
    """Return the processor time of a call in this thread: other processes disturb it little."""
    start = thread_time()
    result = call()
    elapsed = thread_time() - start
    del result
    return elapsed


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Return the peak of resident memory during a call, less that before it; None if unknown."""
    clear, libc = Path("/proc/self/clear_refs"), ctypes.CDLL(None)
    if not clear.exists() or not hasattr(libc, "malloc_trim"):
        return None

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

    libc.malloc_trim(0)  # freed memory back to the system
    clear.write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def alternate(
    large: Callable[[], Any], small: Callable[[], Any], *, quick: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of both, round by round."""
    repeats = max(1, min(100, int(SMALL_SECONDS / max(seconds(small), 1e-6))))
    times: list[tuple[float, float]] = []
    while len(times) < (1 if quick else ROUNDS) and sum(map(sum, times)) < ENOUGH_SECONDS:
        once = seconds(large)
        times.append((once, float(np.median([seconds(small) for _ in range(repeats)]))))
    both = np.array(times)
    return both[:, 0], both[:, 1]


def compared(
    title: str, text: str, peer: str, times: tuple[np.ndarray, np.ndarray], at_most: float
) -> Result:
    """Make the row and the verdict of ours and a peer, in seconds."""
    ours, theirs = times
    low, value, high = np.quantile(ours / theirs, (0.25, 0.5, 0.75))
    own_ms, peer_ms = 1e3 * np.median(ours), 1e3 * np.median(theirs)
    row = Row(peer, "", own_ms, peer_ms, 1 / value, 1 / high, 1 / low, len(ours))
    verdict = Verdict(text, "", value, low, high, f"≤ {at_most:g}×", "×", bool(value <= at_most))
    return Result(title, [row], [verdict])


def large_photo(op: Op, small: Photo, large: Photo, *, quick: bool) -> Result:
    """Compare a large photo with as many pixels of usual ones, or with a copy."""
    title = f"{op.name}, photo of 12 megapixels"
    op.call(small)
    peak = peak_bytes(lambda: op.call(large))
    if op.copies:
        peer = "copying the maps into new memory"
        times = alternate(lambda: op.call(large), large.maps.copy, quick=quick)
        result = compared(title, f"{title}, against {peer}", peer, times, op.copies)
    else:
        times = alternate(lambda: op.call(large), lambda: op.call(small), quick=quick)
        parts = times[0], times[1] * large.sides**2
        text = f"{op.name}, time per pixel of a photo of 12 megapixels against 375×500"
        result = compared(title, text, f"{large.sides**2} of 375×500", parts, op.at_most)
    if peak is not None:
        per_pixel = peak / large.pixels[..., 0].size
        result.verdicts.append(
            bound(f"{title}, peak memory per pixel", per_pixel, " B", op.bytes_per_pixel)
        )
    return result


def class_ops(count: int) -> tuple[np.ndarray, tuple[ClassOp, ...]]:
    """Return maps of so many classes, and calls on them."""
    photo = inputs.smooth_and_textured()["textured photo"]
    superpixels = Photo(1).superpixels
    maps = inputs.random_maps(count, *inputs.SIZE)
    maps /= maps.sum(0)
    used = np.isin(np.arange(count), USED)
    cues = used[:, None, None] & (inputs.random_maps(count, *inputs.GRID) < 0.3)
    present = used[1:]
    return maps, (
        ClassOp("dense_crf, 3 present", lambda: cuekit.dense_crf(maps, photo, present=present)),
        ClassOp("refine_local", lambda: cuekit.refine_local(maps, photo)),
        # Nearly all of it is writing results, which for 21 classes have 4 MB and for 151 have 28:
        # they do not stay in L3, where others' data is, too.
        ClassOp("snap_cues, 4 in use", lambda: cuekit.snap_cues(cues, superpixels), at_most=1.5),
        ClassOp("superpixel_mean", lambda: cuekit.superpixel_mean(maps, superpixels), 2),
        ClassOp("suppress_absent, 3 present", lambda: cuekit.suppress_absent(maps, present), 1.5),
        ClassOp(
            "subtract_classes, 3 present",
            lambda: cuekit.subtract_classes(maps, np.append(False, present)),
            1.5,
        ),
    )


def many_classes(*, quick: bool) -> Iterator[Result]:
    """Compare 81 and 151 classes with 21."""
    _, few = class_ops(FEW)
    for count in MANY:
        maps, many = class_ops(count)
        for op, of_few in zip(many, few, strict=True):
            if count > MANY[0] and op.name == "refine_local":  # seconds, and all maps are alike
                continue
            title = f"{op.name}, {count} classes"
            if op.copies:
                peer = "copying the maps into new memory"
                times = alternate(op.call, maps.copy, quick=quick)
                yield compared(title, f"{title}, against {peer}", peer, times, op.copies)
            else:
                ours, theirs = alternate(op.call, of_few.call, quick=quick)
                text = f"{title}, time per class against {FEW}"
                peer = f"{FEW} classes, per class"
                yield compared(title, text, peer, (ours, theirs * count / FEW), op.at_most)


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    small, large = Photo(1), Photo(SIDES)
    results = [large_photo(op, small, large, quick=quick) for op in OPS]
    return [*results, *many_classes(quick=quick)]
