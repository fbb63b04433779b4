"""The bilateral filter and the dense energy loss on a batch of 4 at 21×160×160, half of 321×321."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import losses

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, SIZE = 4, (160, 160)
# ToCo's and SeCo's widths, at half the size.
SXY, SRGB = 50, 15
THREADS = 2


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return smooth probabilities and photos."""
    photos = [
        np.asarray(Image.fromarray(photo).resize(SIZE[::-1], Image.Resampling.BILINEAR))
        for photo in inputs.natural_photos(BATCH)
    ]
    maps = [inputs.smooth_probabilities(SIZE, seed=i) for i in range(BATCH)]
    return np.stack(maps), np.stack(photos)


def case(title: str, ours: Callable[[], np.ndarray], maps: np.ndarray, photos: np.ndarray) -> Case:
    """Compare with pydensecrf's lattice, one per photo, which filters the maps one by one."""

    def theirs() -> np.ndarray:
        for values, photo in zip(maps, photos, strict=True):
            peers.filter_pydensecrf(values, photo, SXY, SRGB)
        return maps

    return Case(
        f"bilateral_filter, {BATCH}×{inputs.CHANNELS}×{SIZE[0]}×{SIZE[1]}, {title}",
        Contender("cuekit", ours, ours()),
        [Contender("pydensecrf's lattice, maps one by one", theirs, maps)],
        [
            Claim(
                f"bilateral_filter, {title}, against pydensecrf's lattice",
                ("pydensecrf's lattice, maps one by one",),
                at_least=4,
            )
        ],
        settled=True,
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    maps, photos = arrays()
    for values, photo in zip(maps, photos, strict=True):
        result = cuekit.bilateral_filter(values, photo, sxy=SXY, srgb=SRGB)
        theirs = peers.checked_filter_pydensecrf(values, photo, SXY, SRGB)
        np.testing.assert_allclose(result, theirs, rtol=0, atol=1e-5 * float(theirs.max()))
    probabilities = torch.from_numpy(maps)
    weights = torch.from_numpy(inputs.random_maps(*maps.shape))

    def forward(threads: int) -> np.ndarray:
        return cuekit.bilateral_filter(maps, photos, sxy=SXY, srgb=SRGB, threads=threads)

    def forward_and_backward() -> np.ndarray:
        values = probabilities.detach().requires_grad_()
        result = cuekit.bilateral_filter(values, photos, sxy=SXY, srgb=SRGB, threads=THREADS)
        (gradient,) = torch.autograd.grad(result, values, weights)
        return gradient.numpy()

    def loss() -> np.ndarray:
        values = probabilities.detach().requires_grad_()
        value = losses.dense_energy_loss(
            values, photos, sxy=SXY, srgb=SRGB, scale=1, weight=1e-7, threads=THREADS
        )
        (gradient,) = torch.autograd.grad(value, values)
        return gradient.numpy()

    cases = (
        case("forward, one thread", lambda: forward(1), maps, photos),
        case("forward and backward, two threads", forward_and_backward, maps, photos),
        case("dense_energy_loss, forward and backward, two threads", loss, maps, photos),
    )
    return [measure(each, quick=quick) for each in cases]
