"""colour_evidence of a background and three classes on a photo of 375×500."""

from __future__ import annotations

from functools import partial

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure


def case() -> Case:
    """Compare with scikit-image's colours, NumPy's bincount and scipy's filter."""
    photo = inputs.photo("chelsea")
    soft = inputs.smooth_probabilities(inputs.SIZE)[:4]
    expected = peers.colour_evidence_numpy(soft, photo)
    title = "colour_evidence, 3 classes"
    # Both round the same sums of float64 to float32.
    tolerance = 1e-6
    return Case(
        title,
        Contender("cuekit", lambda: cuekit.colour_evidence(soft, photo), expected, tolerance),
        [
            Contender(
                "numpy", partial(peers.colour_evidence_numpy, soft, photo), expected, tolerance
            )
        ],
        [Claim(f"{title}, against numpy", ("numpy",), at_least=5)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
