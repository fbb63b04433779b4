"""snap_cues: cues of 41×41 cells, 80 overlapping masks of 375×500 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Contender, Result, measure
from cuekit import reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cuekit.snap import Accept


class Setting:
    """Data of all cases: masks of one photo, and an output array for the peers."""

    def __init__(self) -> None:
        self.stack = inputs.masks()
        self.masks = self.stack.reshape(len(self.stack), -1)
        self.ones = self.masks.astype(np.float32)
        self.cells = peers.nearest_cells(inputs.GRID, inputs.SIZE)
        self.out = np.empty((inputs.CHANNELS, self.masks.shape[1]), dtype=bool)

    def ours(self, cues: np.ndarray, accept: Accept) -> Contender:
        """Return cuekit's contender, whose answer must be equal to the oracle's."""
        expected = reference.snap_cues_to_masks(cues, self.stack, 0.3, accept)
        return Contender(
            "cuekit", lambda: cuekit.snap_cues(cues, self.stack, accept=accept), expected
        )

    def read(self) -> Contender:
        """Return a contender that only reads the masks, to find their largest 64-bit word."""
        words = self.masks.ravel().view(np.uint64)
        return Contender("reading the masks", lambda: words.max(), words.max())

    def case(self, name: str, cues: np.ndarray, accept: Accept) -> Case:
        """Return the case of one set of bool cues and one rule."""
        ours = self.ours(cues, accept)
        answer = ours.expected.reshape(len(cues), -1)
        numpy = Contender(
            "NumPy per channel and mask",
            lambda: peers.snap_masks_numpy(cues, self.masks, self.cells, accept, self.out),
            answer,
        )
        product = Contender(
            "NumPy matrix product",
            lambda: peers.snap_masks_product(
                cues, self.masks, self.ones, self.cells, accept, self.out
            ),
            answer,
        )
        return Case(
            f"snap_cues to {len(self.stack)} masks, {accept}, {name} cues 41×41 bool",
            ours,
            [self.read(), numpy, product],
        )


def cases() -> Iterator[Case]:
    """Yield all cases."""
    setting = Setting()
    yield setting.case("real", inputs.real_cues(), "mean")
    yield setting.case("random", inputs.random_cues(), "mean")
    yield setting.case("real", inputs.real_cues(), "sepl")


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case, quick=quick) for case in cases()]
