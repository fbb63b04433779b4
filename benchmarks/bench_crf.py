"""dense_crf and dense_crf_features, ten iterations: whole calls, with lattices and unaries.

The README of the benchmarks says which other packages are not timed here, and why.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, bound, measure, peak_bytes
from cuekit.crf import PRESETS
from cuekit.crf_features import bilateral_features, gaussian_features, photo_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 15  # the batch size of SEC
MEMORY_SIZE = (375, 500)
# The photo: random patches of 10×10 pixels, plus noise of up to 8 gray levels.
MEMORY_SETUP = """
import numpy as np
{setup}
rng = np.random.default_rng(0)
height, width = {size}
patches = rng.integers(8, 248, (height // 10 + 1, width // 10 + 1, 3)).repeat(10, 0).repeat(10, 1)
photo = patches[:height, :width] + rng.integers(-8, 9, (height, width, 3))
photo = np.ascontiguousarray(photo, np.uint8)
maps = rng.random((21, height, width), np.float32)
refine(maps[:, :40, :40].copy(), photo[:40, :40].copy())
def call():
    return refine(maps, photo)
"""
OURS = """
import cuekit
refine = cuekit.dense_crf
"""
PYDENSECRF = """
from benchmarks.peers import crf_pydensecrf
from cuekit.crf import PRESETS
def refine(maps, photo):
    return crf_pydensecrf(maps, photo, PRESETS["sec"])
"""


def case(
    title: str,
    ours: Callable[[], np.ndarray],
    theirs: Callable[[], np.ndarray],
    at_least: float,
    *,
    alike: float = 0.99999,
) -> Case:
    """Compare with pydensecrf; the labels of both must agree, and all calls must give equal bits.

    `equal_crf` compares the marginals. No single tolerance holds for them here, because mean
    field amplifies rounding at bistable pixels.
    """
    mine, other = ours(), theirs()
    share = (mine.argmax(-3) == other.argmax(-3)).mean()
    assert share >= alike, f"{title}: {share:.5%} of the labels are pydensecrf's"
    return Case(
        f"dense_crf, {title}",
        Contender("cuekit", ours, mine),
        [Contender("pydensecrf", theirs, other)],
        [Claim(f"dense_crf, {title}, against pydensecrf", ("pydensecrf",), at_least=at_least)],
        settled=True,
    )


def full_size() -> Iterator[Case]:
    """Use narrow and wide kernels on smooth and textured photos: small and large lattices.

    With AVX2 a call of sec executes 1.0e9 instructions and one of irn 1.3e9 or more (callgrind),
    2.8 per cycle at 3.2 GHz. In every iteration the filters multiply and add 54 vectors per pixel,
    load 54 and store 27. irn prefetches 36 cache lines besides, since its values are in L3; without
    that the textured photo takes 1.1 times as long. So irn stays below 5.5.
    """
    maps = inputs.smooth_probabilities(inputs.SIZE)
    limits = {"sec": (5.5, 9), "irn": (5, 9)}
    for kind, photo in inputs.smooth_and_textured().items():
        for name in ("sec", "irn"):
            for threads, number in ((1, "one thread"), (2, "two threads")):
                yield case(
                    f"{name}, {kind}, {number}",
                    partial(cuekit.dense_crf, maps, photo, name, threads=threads),
                    partial(peers.crf_pydensecrf, maps, photo, PRESETS[name]),
                    limits[name][threads - 1],
                )


def three_present() -> Case:
    """Use tags: `present` selects the classes here, and pydensecrf gets only these classes.

    A fifth of the time builds the lattice. With AVX2 3.3 instructions per cycle are executed.
    """
    photo = inputs.smooth_and_textured()["textured photo"]
    maps = inputs.smooth_probabilities(inputs.SIZE)
    present = inputs.three_of_twenty()
    kept = np.concatenate([[True], present])
    chosen = np.ascontiguousarray(maps[kept])

    def ours() -> np.ndarray:
        return cuekit.dense_crf(maps, photo, present=present)

    def theirs() -> np.ndarray:
        marginals = np.zeros_like(maps)
        marginals[kept] = peers.crf_pydensecrf(chosen, photo, PRESETS["sec"])
        return marginals

    return case("sec, textured photo, 3 of 20 present", ours, theirs, 4.4)


def training() -> Case:
    """Use SEC's grid, as in training.

    Its 1681 pixels are not a multiple of 4: pydensecrf appends three pixels of value 0. These add
    vertices to the lattice, through which messages pass. They are black and in a corner, so few
    pixels are affected.

    With AVX2 a call executes 13.5 million instructions, 3.1 per cycle at 3.2 GHz: 5.4 million in
    the passes over pixels, 2.9 in the blur, 5.2 to build the lattice and to read and write maps.
    Eight times as fast would be 4.2 per cycle.
    """
    grid = np.array(Image.fromarray(inputs.photo("chelsea")).resize(inputs.GRID))
    maps = inputs.smooth_probabilities(inputs.GRID, cell=4)
    return case(
        "sec-train, 41×41",
        lambda: cuekit.dense_crf(maps, grid, "sec-train"),
        lambda: peers.crf_pydensecrf(maps, grid, PRESETS["sec-train"]),
        5.5,
        alike=0.998,
    )


def training_batch() -> Case:
    """Use a batch of SEC's size, photos and mirrored photos, in one call."""
    photos = inputs.photo_batch()
    photos = np.concatenate([photos, photos[:, :, ::-1]])[:BATCH]
    grids = np.stack([np.array(Image.fromarray(photo).resize(inputs.GRID)) for photo in photos])
    maps = np.stack(
        [inputs.smooth_probabilities(inputs.GRID, cell=4, seed=i) for i in range(BATCH)]
    )
    pairs = list(zip(maps, grids, strict=True))

    def theirs() -> np.ndarray:
        return np.stack([peers.crf_pydensecrf(*pair, PRESETS["sec-train"]) for pair in pairs])

    return case(
        f"sec-train, 41×41, batch of {BATCH}, two threads",
        lambda: cuekit.dense_crf(maps, grids, "sec-train", threads=2),
        theirs,
        8,
        alike=0.998,
    )


def gray() -> Case:
    """Use one channel: a lattice of three dimensions."""
    photo = np.ascontiguousarray(inputs.photo("chelsea")[:, :, 1])
    photo = photo[: len(photo) // 4 * 4]
    maps = inputs.smooth_probabilities(photo.shape)
    flat = maps.reshape(len(maps), -1)

    def theirs() -> np.ndarray:
        kernels = [
            (gaussian_features(photo.shape, 3)[::-1].copy(), 3.0),
            (bilateral_features(photo, 80, 13), 10.0),
        ]
        return peers.crf_features_pydensecrf(flat, kernels).reshape(maps.shape)

    return case("sec, gray photo", partial(cuekit.dense_crf, maps, photo), theirs, 5)


def points(
    title: str, maps: np.ndarray, kernels: Callable[[], list[tuple[np.ndarray, float]]]
) -> Case:
    """Use any features, which both make anew."""
    return case(
        title,
        lambda: cuekit.dense_crf_features(maps, kernels())[:, None],
        lambda: peers.crf_features_pydensecrf(maps, kernels())[:, None],
        4,
    )


def volume() -> Case:
    """Use 40 slices, three times as far apart as pixels: a ball in noise."""
    shape, spacing = (40, 128, 128), (3, 1, 1)
    rng = np.random.default_rng(0)
    z, y, x = np.indices(shape)
    ball = 9 * (z - 20) ** 2 + (y - 64) ** 2 + (x - 64) ** 2 < 40**2
    values = (60 + 90 * ball + 8 * rng.normal(size=shape)).astype(np.float32)
    probability = 0.4 * ball + 0.6 * rng.random(shape)
    maps = np.stack([1 - probability, probability]).astype(np.float32).reshape(2, -1)

    def kernels() -> list[tuple[np.ndarray, float]]:
        return [
            (gaussian_features(shape, 3, spacing=spacing), 3.0),
            (bilateral_features(values, 30, 20, spacing=spacing), 10.0),
        ]

    return points("volume 40×128×128, 2 classes", maps, kernels)


def cloud() -> Case:
    """Use points in no order, in 30 clusters of six dimensions."""
    rng = np.random.default_rng(0)
    centres = 8 * rng.random((6, 30))
    features = centres[:, rng.integers(0, 30, 200_000)] + 0.5 * rng.normal(size=(6, 200_000))
    features = features.astype(np.float32)
    maps = np.ascontiguousarray(rng.dirichlet(np.ones(13), 200_000).T, np.float32)
    return points("200 000 points × 6 features, 13 classes", maps, lambda: [(features, 10.0)])


def gradient(title: str, size: tuple[int, int], name: str, *, learned: bool = False) -> Case:
    """Compare result and gradient with the result alone; there is no peer with the same filters.

    crfseg has no photo in its kernels. Others are no packages.
    """
    import torch

    grid = np.array(Image.fromarray(inputs.photo("chelsea")).resize(size[::-1]))
    maps = inputs.smooth_probabilities(size, cell=4 if size == inputs.GRID else 20)
    weights = torch.from_numpy(np.random.default_rng(0).random(maps.shape, np.float32))
    probabilities, photo = torch.from_numpy(maps), torch.from_numpy(grid)

    def result(values: torch.Tensor) -> torch.Tensor:
        if not learned:
            return cuekit.dense_crf(values, photo, name, differentiable=True)
        penalties = -10 * torch.eye(len(maps), requires_grad=values.requires_grad)
        kernels = [k._replace(compatibility=penalties) for k in photo_kernels(grid, name)]
        flat = cuekit.dense_crf_features(values.flatten(1), kernels, differentiable=True)
        return flat.reshape(values.shape)

    def forward() -> np.ndarray:
        return result(probabilities).numpy()

    def forward_and_backward() -> np.ndarray:
        leaf = probabilities.clone().requires_grad_()
        (slope,) = torch.autograd.grad(result(leaf), leaf, weights)
        return slope.numpy()

    claim = f"dense_crf, gradient, {title}: with the result, against the result alone"
    return Case(
        f"dense_crf, gradient, {title}",
        Contender("cuekit", forward_and_backward, forward_and_backward()),
        [Contender("result alone", forward, forward())],
        [Claim(claim, ("result alone",), at_most=3)],
        settled=True,
    )


def memory() -> Result:
    """Measure the peak memory of a call, including its result."""
    ours, theirs = (
        peak_bytes(MEMORY_SETUP.format(setup=setup, size=MEMORY_SIZE))
        / (MEMORY_SIZE[0] * MEMORY_SIZE[1])
        for setup in (OURS, PYDENSECRF)
    )
    text = f"dense_crf, peak memory of {ours:.0f} B per pixel against pydensecrf's {theirs:.0f} B"
    return Result("dense_crf, memory", [], [bound(text, ours / theirs, "×", 2)])


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    cases = (
        *full_size(),
        three_present(),
        training(),
        training_batch(),
        gray(),
        volume(),
        cloud(),
        gradient("sec, 375×500", (375, 500), "sec"),
        gradient("sec-train, 41×41", inputs.GRID, "sec-train"),
        gradient("sec-train, 41×41, two matrices", inputs.GRID, "sec-train", learned=True),
    )
    results = [measure(each, quick=quick) for each in cases]
    if Path("/proc/self/clear_refs").exists():
        results.append(memory())
    return results
