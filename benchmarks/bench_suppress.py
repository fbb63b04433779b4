"""suppress_absent on 21×375×500 float32 scores."""

from __future__ import annotations

import numpy as np
import torch

import cuekit
from benchmarks import inputs, peers, peers_compiled
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference


def case() -> Case:
    """Use three present classes of twenty."""
    scores = inputs.random_maps(inputs.CHANNELS, *inputs.SIZE)
    present = inputs.three_of_twenty()
    # Only minima, maxima and one subtraction in float32: all answers have equal bits.
    expected = reference.suppress_absent(scores, present, 1e-4)
    arrays = scores, present, np.empty_like(scores[0]), np.empty_like(scores)
    tensors = [torch.from_numpy(array) for array in arrays]

    def copy() -> np.ndarray:
        np.copyto(arrays[3], scores)
        return arrays[3]

    return Case(
        "suppress_absent, float32, 3 of 20 classes present",
        Contender("cuekit", lambda: cuekit.suppress_absent(scores, present), expected),
        [
            Contender("warm copy", copy, scores),
            Contender("NumPy", lambda: peers.suppress_numpy(*arrays), expected),
            Contender("torch", lambda: peers.suppress_torch(*tensors), expected),
            *peers_compiled.contenders(
                "torch, compiled",
                lambda: peers_compiled.suppress(tensors[0], tuple(present.tolist())),
                expected,
            ),
        ],
        [Claim("suppress_absent against a warm copy", ("warm copy",), at_most=1.5)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
