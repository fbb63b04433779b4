"""mask_scores: 100 overlapping masks of 375×500 pixels, 20 and 4 classes, maps of the same size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

# float32 sums of up to 2e5 values, in another order.
TOLERANCE = 1e-4


def masks() -> np.ndarray:
    """Return the 80 masks of `inputs.masks`, and 20 of them mirrored."""
    stack = inputs.masks()
    return np.ascontiguousarray(np.concatenate([stack, stack[:20, ::-1]]))


def table(scores: cuekit.MaskScores) -> np.ndarray:
    """Return all scores that were computed as one array."""
    return np.stack([each for each in scores[1:] if each is not None])


def ours(maps: np.ndarray, stack: np.ndarray, *, top: float | None = 0.2) -> np.ndarray:
    """Return cuekit's scores."""
    return table(cuekit.mask_scores(maps, stack, top=top))


def cases() -> Iterator[Case]:
    """Yield all cases."""
    stack = masks()
    words = stack.ravel().view(np.uint64)
    read = Contender("reading the masks", lambda: words.max(), words.max())
    for classes in (20, 4):
        maps = np.ascontiguousarray(inputs.full_size_cams()[:classes])
        scores = cuekit.mask_scores(maps, stack)
        means, no_top = scores.mean, table(scores._replace(top_mean=None))
        settings = f"100 masks, {classes} classes 375×500"
        yield Case(
            f"mask_scores without the largest values, {settings}",
            Contender(
                "cuekit",
                partial(ours, maps, stack, top=None),
                no_top,
            ),
            [
                read,
                Contender(
                    "NumPy matrix product, means only",
                    partial(peers.mask_means_product, maps, stack),
                    means,
                    TOLERANCE,
                ),
                Contender(
                    "NumPy matrix products, the same scores",
                    partial(peers.mask_scores_product, maps, stack),
                    no_top,
                    TOLERANCE,
                ),
            ],
            [
                # Of 5.7 ms for 20 classes, reading the masks takes 1.0, reading the maps twice 1.4
                # (the levels of cues depend on all values), interleaving them .6, and sums 2.
                Claim(
                    f"mask_scores, {classes} classes: means and both ratios",
                    ("NumPy matrix products, the same scores",),
                    at_least=10 if classes == 4 else 8,
                )
            ],
        )
        yield Case(
            f"mask_scores, {settings}",
            Contender("cuekit", partial(ours, maps, stack), table(scores)),
            [
                Contender(
                    "NumPy matrix products and partition",
                    partial(peers.mask_scores_numpy, maps, stack),
                    table(scores),
                    TOLERANCE,
                ),
            ],
        )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case, quick=quick) for case in cases()]
