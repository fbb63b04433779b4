"""subtract_classes on 20×375×500 float32 maps, 3 or all 20 classes present."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

import cuekit
from benchmarks import inputs, peers, peers_compiled
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference
from cuekit.subtract import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# cuekit subtracts in float64 and rounds once; torch rounds each of its 20 float32 additions.
OURS, THEIRS = 1e-6, 1e-5


def ours(cams: np.ndarray, present: np.ndarray, mode: Mode) -> Contender:
    """Return cuekit's contender, whose answer is compared with the oracle's."""
    return Contender(
        "cuekit",
        lambda: cuekit.subtract_classes(cams, present, mode=mode),
        reference.subtract_classes(cams, present, mode),
        OURS,
    )


def three_present(cams: np.ndarray, mode: Mode) -> Case:
    """Compare with the necessary memory traffic: 3 maps read and written, 17 zeroed."""
    present = inputs.three_of_twenty()
    out = np.empty_like(cams)
    touched = np.where(present[:, None, None], cams, 0)
    floor = "copying 3 maps, zeroing 17"
    claims = [Claim(f"subtract_classes, 3 of 20, {mode}, against {floor}", (floor,), at_most=1.5)]
    return Case(
        f"subtract_classes, 3 of 20 present, {mode}",
        ours(cams, present, mode),
        [Contender(floor, lambda: peers.copy_three(cams, present, out), touched)],
        claims if mode != "dcsm" else (),
    )


def torch_ways(cams: np.ndarray, mode: Mode) -> dict[str, Callable[[], torch.Tensor]]:
    """Return torch's implementations of a mode, by name."""
    maps = torch.from_numpy(cams).flatten(1)
    out, buffer = torch.empty_like(maps), torch.empty_like(maps)
    if mode == "strongest":
        return {
            "running maxima": lambda: peers.strongest_torch_loop(maps, buffer, out),
            "topk": lambda: peers.strongest_torch(maps, out),
        }
    all_pairs = torch.empty(len(maps), *maps.shape)
    if mode == "pairwise":
        return {
            "class by class": lambda: peers.pairwise_torch_loop(maps, buffer, out),
            "broadcast": lambda: peers.pairwise_torch_broadcast(maps, all_pairs, out),
            "broadcast in blocks": lambda: peers.pairwise_torch_blocks(maps, out),
            "sort": lambda: peers.pairwise_torch_sort(maps, out),
        }
    return {
        "class by class": lambda: peers.dcsm_torch_loop(maps, buffer, out),
        "pair by pair": lambda: peers.dcsm_torch_pairs(maps, buffer, out),
        "broadcast": lambda: peers.dcsm_torch_broadcast(maps, all_pairs, out),
    }


def compiled_way(cams: np.ndarray, mode: Mode) -> Callable[[], torch.Tensor]:
    """Return torch's implementation of a mode for torch.compile."""
    maps = torch.from_numpy(cams).flatten(1)
    return partial(getattr(peers_compiled, mode), maps, torch.empty_like(maps))


def all_present(cams: np.ndarray, mode: Mode) -> Case:
    """Compare with torch."""
    own = ours(cams, np.ones(len(cams), dtype=bool), mode)
    answer = own.expected.reshape(len(cams), -1)
    claims = {
        # Each of the 190 pairs takes a maximum and two additions: with 4 pixels in a vector 27
        # million vector instructions, 2.1 ms at 3.2 GHz and 4 a cycle. Reading and writing takes 1
        # to 1.5 ms more, a tenth of torch's time together. All instructions, with loads, stores and
        # loops, are 61 million (callgrind); both signs of a difference took 97 million.
        "pairwise": [
            Claim("subtract_classes, 20 of 20, pairwise, against torch", ("torch",), at_least=4.5)
        ],
        "strongest": [
            Claim("subtract_classes, 20 of 20, strongest, against torch", ("torch",), at_least=1.5)
        ],
        "dcsm": [Claim("subtract_classes, 20 of 20, dcsm, against torch", ("torch",), at_most=1)],
    }
    compiled = peers_compiled.contenders(
        "torch, compiled", compiled_way(cams, mode), answer, THEIRS, "compiled"
    )
    text = f"subtract_classes, 20 of 20, {mode}, against compiled torch"
    against_compiled = Claim(text, ("compiled",), at_least=1)
    return Case(
        f"subtract_classes, 20 of 20 present, {mode}",
        own,
        [
            Contender(f"torch, {name}", call, answer, THEIRS, "torch")
            for name, call in torch_ways(cams, mode).items()
        ]
        + compiled,
        [*claims.get(mode, ()), *[against_compiled for _ in compiled]],
    )


def cases() -> Iterator[Case]:
    """Yield all cases; the buffers of one are freed before the next."""
    cams = inputs.full_size_cams()
    for build in (three_present, all_present):
        for mode in get_args(Mode):
            yield build(cams, mode)


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case, quick=quick) for case in cases()]
