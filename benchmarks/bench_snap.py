"""snap_cues: cues of 41×41 cells and of full size, superpixels of 375×500 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference

if TYPE_CHECKING:
    from collections.abc import Iterator


class Setting:
    """Data of all cases: superpixels of one photo, and an output array for the peers."""

    def __init__(self) -> None:
        self.superpixels = inputs.superpixels()
        self.labels = self.superpixels.ravel().astype(np.intp)
        self.segments = int(self.labels.max()) + 1
        self.full = np.empty((inputs.CHANNELS, *inputs.SIZE), dtype=bool)
        self.out = self.full.reshape(inputs.CHANNELS, -1)

    def ours(self, cues: np.ndarray) -> Contender:
        """Return cuekit's contender, whose answer must be equal to the oracle's."""
        expected = reference.snap_cues(cues, self.superpixels, 0.3)
        return Contender("cuekit", lambda: cuekit.snap_cues(cues, self.superpixels), expected)

    def write(self) -> Contender:
        """Return a contender that only writes the bytes of the output."""

        def fill() -> np.ndarray:
            self.full.fill(True)
            return self.full

        return Contender("writing the output", fill, np.ones_like(self.full))

    def peer(self, name: str, way: Any, maps: Any, ours: Contender, *args: Any) -> Contender:
        """Return a NumPy peer; `args` are its arguments between superpixels and output."""
        answer = ours.expected.reshape(len(self.out), -1)
        return Contender(
            name, lambda: way(maps, self.labels, self.segments, *args, self.out), answer
        )


def small_cues(setting: Setting, name: str, cues: np.ndarray) -> Case:
    """Snap bool cues on a network's grid."""
    cells = peers.nearest_cells(inputs.GRID, inputs.SIZE)
    ours = setting.ours(cues)
    return Case(
        f"snap_cues, {name} cues 41×41 bool, {cues.any((1, 2)).sum()} of 21 channels in use",
        ours,
        [
            setting.write(),
            setting.peer("NumPy per channel", peers.snap_numpy_cues, cues, ours, cells),
            setting.peer(
                "NumPy joint histogram", peers.snap_numpy_joint, cues, ours, (cells[None], None)
            ),
        ],
        [
            # The peer skips empty channels: its full cost shows only if no channel is empty. A call
            # of it empties the caches: beside it ours takes .7 ms, beside one that only writes the
            # output .35.
            *(
                [
                    Claim(
                        "snap_cues, random cues, against NumPy", ("NumPy per channel",), at_least=13
                    )
                ]
                if name == "random"
                else []
            ),
            Claim(
                f"snap_cues, {name} cues, against writing the output",
                ("writing the output",),
                at_most=4,
            ),
        ],
    )


def small_maps(setting: Setting) -> Case:
    """Snap float maps on a network's grid, resized bilinearly."""
    maps = inputs.activations(inputs.CHANNELS, *inputs.GRID)
    resize = tuple(
        peers.bilinear_matrix(cells, size)
        for cells, size in zip(inputs.GRID, inputs.SIZE, strict=True)
    )
    corners = peers.bilinear_corners(inputs.GRID, inputs.SIZE)
    ours = setting.ours(maps)
    tensors = [torch.from_numpy(part) for part in (maps, setting.labels, setting.out)]
    return Case(
        "snap_cues, random maps 41×41 float32",
        ours,
        [
            setting.write(),
            setting.peer("NumPy per channel", peers.snap_numpy_maps, maps, ours, resize),
            setting.peer("NumPy joint histogram", peers.snap_numpy_joint, maps, ours, corners),
            Contender(
                "torch interpolate, index_add_",
                lambda: peers.snap_torch(
                    tensors[0], tensors[1], setting.segments, inputs.SIZE, tensors[2]
                ),
                ours.expected.reshape(len(maps), -1),
            ),
        ],
    )


def full_size(setting: Setting) -> Case:
    """Snap bool cues at the photo's resolution."""
    cues = reference.resize_nearest(inputs.random_cues(), inputs.SIZE)
    ours = setting.ours(cues)
    return Case(
        "snap_cues, random cues 375×500 bool",
        ours,
        [
            setting.write(),
            setting.peer("NumPy per channel", peers.snap_numpy_cues, cues, ours, None),
        ],
    )


def cases() -> Iterator[Case]:
    """Yield all cases."""
    setting = Setting()
    yield small_cues(setting, "real", inputs.real_cues())
    yield small_cues(setting, "random", inputs.random_cues())
    yield small_maps(setting)
    yield full_size(setting)


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case, quick=quick) for case in cases()]
