"""refine_local beside the published torch modules: whole calls, with weights and all iterations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

import cuekit
from benchmarks import inputs
from benchmarks.harness import (
    Case,
    Claim,
    Contender,
    Result,
    Row,
    bound,
    judge,
    measure,
    peak_bytes,
    seconds,
    trial,
)
from benchmarks.peers import REFINE

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_SETUP = """
import numpy as np
{setup}
rng = np.random.default_rng(0)
photo = rng.integers(0, 256, (375, 500, 3), np.uint8)
maps = rng.random((21, 375, 500), np.float32)
refine(maps[:, :40, :40].copy(), photo[:40, :40].copy())
def call():
    return refine(maps, photo)
"""
OURS = """
import cuekit
refine = cuekit.refine_local
"""
TORCH = """
import torch
from benchmarks.peers_torch import refine_published
torch.set_num_threads(1)
def refine(maps, photo):
    images = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    return refine_published(torch.from_numpy(maps)[None], images, "par")
"""
CHANNELS = inputs.CHANNELS
SLOW_SECONDS = 4  # slower peers are timed once


def check(title: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare with a peer: labels, and values relative to the maps' range."""
    alike = (ours.argmax(0) == theirs.argmax(0)).mean()
    off = np.abs(ours - theirs).max() / np.ptp(theirs)
    assert alike >= 0.9999, f"{title}: {alike:.5%} of the labels are alike"
    assert off <= 1e-5, f"{title}: differs by {off:.1e} of the range"


def compare(
    title: str, ours: Callable[[], np.ndarray], peer: Callable[[], torch.Tensor], name: str
) -> Row:
    """Time five calls of ours beside each of a peer that may take half a minute."""
    trial(Contender("cuekit", ours, None))
    turns: list[tuple[float, float]] = []
    while not turns or (len(turns) < 3 and turns[0][1] < SLOW_SECONDS):
        before = [seconds(ours) for _ in range(5)]
        start = perf_counter()
        theirs = peer()
        turns.append((median(before), perf_counter() - start))
        check(title, ours(), theirs[0].numpy())
    ratios = [peer_s / ours_s for ours_s, peer_s in turns]
    ours_ms, peer_ms = (1e3 * median(times) for times in zip(*turns, strict=True))
    return Row(name, "", ours_ms, peer_ms, median(ratios), min(ratios), max(ratios), len(turns))


def case(preset: str, channels: int, at_least: float, *, quick: bool) -> Result:
    """Use full-size maps, or a quarter of their sides for a quick check, and one thread."""
    step = 4 if quick else 1
    photo = np.ascontiguousarray(inputs.photo("chelsea")[::step, ::step])
    maps = inputs.smooth_probabilities(inputs.SIZE)[:channels, ::step, ::step].copy()
    images = torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
    batch = torch.from_numpy(maps)[None]
    title = f"refine_local, {preset}, {channels} maps"

    def ours() -> np.ndarray:
        return cuekit.refine_local(maps, photo, preset)

    rows = [
        compare(title, ours, partial(peer, batch, images, preset), name)
        for name, peer in REFINE.items()
    ]
    claim = Claim(
        f"{title}, against torch as published", ("torch, as published",), at_least=at_least
    )
    return Result(title, rows, [judge(claim, rows)])


def two_threads() -> Case:
    """Compare two threads with one."""
    photo, maps = inputs.photo("chelsea"), inputs.smooth_probabilities(inputs.SIZE)
    one, two = (partial(cuekit.refine_local, maps, photo, threads=n) for n in (1, 2))
    expected = one()
    title = f"refine_local, par, {CHANNELS} maps, two threads"
    return Case(
        title,
        Contender("cuekit", two, expected),
        [Contender("one thread", one, expected)],
        [Claim(f"{title}, against one", ("one thread",), at_least=1.8)],
        settled=True,
    )


def memory() -> Result:
    """Measure the peak memory of a call without its result."""
    pixels = inputs.SIZE[0] * inputs.SIZE[1]
    ours, theirs = (
        peak_bytes(MEMORY_SETUP.format(setup=setup)) / pixels - 4 * CHANNELS
        for setup in (OURS, TORCH)
    )
    text = f"refine_local, memory beside input and output (torch as published: {theirs:.0f} B)"
    return Result("refine_local, memory", [], [bound(text, ours, " B per pixel", 250)])


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    settings = ("par", CHANNELS, 40), ("par", 4, 20), ("pamr", 4, 20)
    results = [case(*each, quick=quick) for each in settings]
    results.append(measure(two_threads(), quick=quick))
    if Path("/proc/self/clear_refs").exists():
        results.append(memory())
    return results
