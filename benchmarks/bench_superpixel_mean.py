"""superpixel_mean on 21×375×500 float32."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import cuekit
from benchmarks import inputs, peers, peers_compiled
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def case() -> Case:
    """Compare with a copy, and with other implementations."""
    labels = inputs.superpixels()
    values = inputs.random_maps(inputs.CHANNELS, *inputs.SIZE)
    expected = reference.superpixel_mean(values, labels)
    segments = int(labels.max()) + 1
    out = np.empty_like(values)

    def copy() -> np.ndarray:
        np.copyto(out, values)
        return out

    flat = values.reshape(len(values), -1), labels.ravel(), segments, out.reshape(len(out), -1)
    wide = flat[0], labels.ravel().astype(np.intp), segments, flat[3]
    tensors = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in wide]
    answer = expected.reshape(len(values), -1)
    # double: float64 sums, rounded once to float32. single: float32 sums, whose error over the
    # largest superpixel is up to 1e-4.
    single, double = 1e-4, 1e-6
    ways: list[tuple[str, Callable[..., Any], Sequence[Any], float, str]] = [
        ("NumPy bincount", peers.mean_numpy, wide, double, ""),
        ("NumPy reduceat of runs", peers.mean_numpy_runs, wide, single, ""),
        ("scipy.ndimage.mean", peers.mean_scipy, wide, double, ""),
        ("scipy.sparse product", peers.mean_scipy_sparse, wide, single, ""),
        ("torch index_add_", peers.mean_torch_index_add, tensors, single, "torch"),
        ("torch index_add_ of rows", peers.mean_torch_rows, tensors, single, "torch"),
        ("torch scatter_add_", peers.mean_torch_scatter_add, tensors, single, "torch"),
        ("torch scatter_reduce_", peers.mean_torch_scatter_reduce, tensors, single, "torch"),
        ("numba, runs", peers.mean_numba, flat, double, ""),
        ("numba, runs, 4 channels a pass", peers.mean_numba_tuned, flat, double, ""),
    ]
    return Case(
        f"superpixel_mean, float32, {inputs.describe(labels)}",
        Contender("cuekit", lambda: cuekit.superpixel_mean(values, labels), expected, double),
        [
            Contender("warm copy", copy, values),
            *(
                Contender(name, partial(way, *args), answer, tolerance, group)
                for name, way, args, tolerance, group in ways
            ),
            *peers_compiled.contenders(
                "torch index_add, compiled",
                partial(peers_compiled.mean, *tensors),
                answer,
                single,
                "torch",
            ),
        ],
        [
            Claim("superpixel_mean against a warm copy", ("warm copy",), at_most=2),
            Claim(
                "superpixel_mean against bincount, ndimage.mean",
                ("NumPy bincount", "scipy.ndimage.mean"),
                at_least=8,
            ),
            # A copy alone is 9 to 10 times as fast as torch, and ours takes 1.4 copies. 8 would be
            # 1.2 copies, with the sums: each waits 3 cycles for the one before it, and with AVX2 8
            # channels wait together. That is .5 ms at 3.2 GHz, half a copy, and the loops take .8.
            Claim("superpixel_mean against torch", ("torch",), at_least=6),
            Claim("superpixel_mean against numba by runs", ("numba, runs",), at_least=1.5),
        ],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
