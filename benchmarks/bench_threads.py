"""Two threads compared with one, on a batch of 8 photos."""

from __future__ import annotations

from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

import numba
import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@numba.njit(nogil=True)
def _spin(steps: int) -> float:
    value = 0.0
    for i in range(steps):
        value += i / (value + 1)
    return value


def _spin_in_threads(threads: int, steps: int = 4_000_000) -> int:
    """Divide a loop without memory accesses among threads; return its number of steps."""
    workers = [Thread(target=_spin, args=(steps // threads,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return steps


@numba.njit(nogil=True, fastmath=True)
def _add_up(values: np.ndarray) -> float:
    total = np.float32(0)
    for value in values.flat:
        total += value
    return float(total)


def _read_in_threads(threads: int, images: np.ndarray) -> int:
    """Read a batch of maps, each image by one of the threads; return the number of bytes."""

    def read(first: int) -> None:
        for image in images[first::threads]:
            _add_up(image)

    workers = [Thread(target=read, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return images.nbytes


def control(title: str, call: Callable[[int], int]) -> Case:
    """Measure the speed-up by a second thread on this machine at this time, without cuekit."""
    expected = call(1)
    return Case(
        f"control: {title}, two threads",
        Contender("two threads", lambda: call(2), expected),
        [Contender("one thread", lambda: call(1), expected)],
        settled=True,
    )


def two_against_one(
    name: str,
    call: Callable[[int], np.ndarray],
    oracle: np.ndarray,
    tolerance: float,
    at_least: float = 1.6,
) -> Case:
    """Compare one thread with the oracle, and two threads with one for equal bits."""
    one = call(1)
    np.testing.assert_allclose(one, oracle, rtol=tolerance, atol=tolerance)
    return Case(
        f"{name}, batch of 8, two threads",
        Contender("cuekit, two threads", lambda: call(2), one),
        [Contender("cuekit, one thread", lambda: call(1), one)],
        [Claim(f"{name}, two threads against one", ("cuekit, one thread",), at_least=at_least)],
        settled=True,
    )


def cases() -> Iterator[Case]:
    """Yield cases of felzenszwalb and of the functions that use its superpixels."""
    yield control("a loop that touches no memory", _spin_in_threads)
    photos = inputs.photo_batch()
    yield two_against_one(
        "felzenszwalb",
        lambda threads: cuekit.felzenszwalb(photos, threads=threads),
        np.array([peers.felzenszwalb_skimage(photo) for photo in photos]),
        0,
        at_least=1.8,
    )
    labels = inputs.superpixel_batch()
    cues = np.array([inputs.random_cues(seed) for seed in range(len(labels))])
    yield two_against_one(
        "snap_cues, random cues",
        lambda threads: cuekit.snap_cues(cues, labels, threads=threads),
        np.array([reference.snap_cues(*pair, 0.3) for pair in zip(cues, labels, strict=True)]),
        0,
    )
    values = inputs.random_maps(len(labels), inputs.CHANNELS, *inputs.SIZE)
    # superpixel_mean does little else than read 126 MB from memory, which both threads share.
    yield control("reading the maps", partial(_read_in_threads, images=values))
    yield two_against_one(
        "superpixel_mean",
        lambda threads: cuekit.superpixel_mean(values, labels, threads=threads),
        np.array([reference.superpixel_mean(*pair) for pair in zip(values, labels, strict=True)]),
        1e-6,
        at_least=1.3,
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case, quick=quick) for case in cases()]
