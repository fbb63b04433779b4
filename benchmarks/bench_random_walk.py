"""random_walk on maps of 94×125 cells, which is stride 4 of 375×500: whole calls, 256 steps."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import (
    Case,
    Claim,
    Contender,
    Result,
    Row,
    Verdict,
    bound,
    measure,
    peak_bytes,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = (94, 125)
SMALL = (31, 42)  # where the dense matrix takes seconds, not minutes
# float32, 256 steps. Sums of the peers round alike in every step, so their errors add up.
TOLERANCE, TOLERANCE_OF_PEERS = 1e-5, 2e-4
MEMORY_SETUP = """
import numpy as np
import cuekit
rng = np.random.default_rng(0)
maps = rng.random(({channels}, *{size}), np.float32)
boundary = rng.random({size}, np.float32) ** 4
cuekit.random_walk(maps[:1, :9, :9].copy(), boundary[:9, :9].copy())
def call():
    return cuekit.random_walk(maps, boundary)
"""


def maps_and_boundary(channels: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return maps at a network's stride, and the boundary of a photo."""
    logits = inputs.smooth_probabilities(size, cell=8)[:channels]
    photo = inputs.photo("chelsea")
    boundary = cuekit.photo_boundary(photo, inputs.superpixels(), size=size)
    return np.ascontiguousarray(logits), boundary


def cases() -> Iterator[Case]:
    """Compare with products of sparse matrices, with few and with many maps."""
    pattern = peers.walk_pattern(SIZE)
    for channels, at_least in ((4, 4), (21, 4)):
        maps, boundary = maps_and_boundary(channels, SIZE)
        expected = cuekit.random_walk(maps.astype(np.float64), boundary)

        def ours(maps: np.ndarray = maps, boundary: np.ndarray = boundary) -> np.ndarray:
            return cuekit.random_walk(maps, boundary)

        def rows(maps: np.ndarray = maps, boundary: np.ndarray = boundary) -> np.ndarray:
            return peers.walk_scipy_rows(maps, boundary, pattern)

        def diagonals(maps: np.ndarray = maps, boundary: np.ndarray = boundary) -> np.ndarray:
            return peers.walk_scipy_diagonals(maps, boundary, pattern)

        yield Case(
            f"random_walk, {channels} maps",
            Contender("cuekit", ours, expected, TOLERANCE),
            [
                Contender("scipy, CSR", rows, expected, TOLERANCE_OF_PEERS, "scipy"),
                Contender("scipy, DIA", diagonals, expected, TOLERANCE_OF_PEERS, "scipy"),
            ],
            [
                Claim(
                    f"random_walk, {channels} maps, against sparse matrices",
                    ("scipy",),
                    at_least=at_least,
                )
            ],
            settled=True,
        )


def two_threads() -> Case:
    """Compare one thread with two."""
    maps, boundary = maps_and_boundary(4, SIZE)
    expected = cuekit.random_walk(maps, boundary)
    return Case(
        "random_walk, 4 maps, two threads",
        Contender("cuekit", lambda: cuekit.random_walk(maps, boundary, threads=2), expected),
        [Contender("one thread", lambda: cuekit.random_walk(maps, boundary), expected)],
        settled=True,
    )


def dense(*, quick: bool) -> Result:
    """Compare with the dense matrix of published code, timed at a small size.

    Its time is that of products of matrices with one row per cell, so it grows with the cube of the
    number of cells. At the full size it takes minutes.
    """
    maps, boundary = maps_and_boundary(4, SMALL)
    tensors = torch.from_numpy(maps), torch.from_numpy(boundary)
    np.testing.assert_allclose(
        cuekit.random_walk(maps, boundary),
        peers.walk_torch_dense(*tensors),
        atol=TOLERANCE_OF_PEERS,
    )
    large = maps_and_boundary(4, SIZE)
    scale = (SIZE[0] * SIZE[1] / (SMALL[0] * SMALL[1])) ** 3
    rounds = 3 if quick else 7
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(1e3 * scale * seconds(lambda: peers.walk_torch_dense(*tensors)))
        ours.append(1e3 * min(seconds(lambda: cuekit.random_walk(*large)) for _ in range(5)))
    low, high = np.quantile(np.array(theirs) / np.array(ours), (0.25, 0.75))
    ours_ms, theirs_ms = median(ours), median(theirs)
    ratio = theirs_ms / ours_ms
    name = f"torch, dense; {SMALL[0]}×{SMALL[1]} scaled by the cube"
    row = Row(name, "", ours_ms, theirs_ms, ratio, float(low), float(high), rounds)
    text = "random_walk, 4 maps, against the dense matrix, scaled from a smaller one by the cube"
    verdict = Verdict(text, "", ratio, float(low), float(high), "≥ 200×", "×", ratio >= 200)
    return Result("random_walk, 4 maps, dense", [row], [verdict])


def boundary_of_photo() -> Case:
    """Time the boundary without a network, for reference only."""
    photo, labels = inputs.photo("chelsea"), inputs.superpixels()
    expected = cuekit.photo_boundary(photo, labels, size=SIZE)

    def copy() -> np.ndarray:
        return np.asarray(Image.fromarray(photo).resize(SIZE[::-1]))

    return Case(
        "photo_boundary of 375×500 at 94×125",
        Contender("cuekit", lambda: cuekit.photo_boundary(photo, labels, size=SIZE), expected),
        [Contender("Pillow's resize of the photo", copy, copy())],
    )


def memory() -> Result:
    """Measure the peak memory of a call, including its result."""
    verdicts = []
    for channels in (4, 21):
        peak = peak_bytes(MEMORY_SETUP.format(channels=channels, size=SIZE))
        text = f"random_walk, {channels} maps, peak memory"
        verdicts.append(bound(text, peak / (SIZE[0] * SIZE[1]), " B per cell", 400))
    return Result("random_walk, memory", [], verdicts)


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    chosen = (*cases(), two_threads(), boundary_of_photo())
    results = [measure(each, quick=quick) for each in chosen]
    results.append(dense(quick=quick))
    if Path("/proc/self/clear_refs").exists():
        results.append(memory())
    return results
