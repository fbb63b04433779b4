"""background_map of two layers, 2048 and 960 channels of 41×41 float32."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import cuekit
from benchmarks import inputs, peers, peers_compiled
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference


def case() -> Case:
    """Compare with reading the input, and with torch's and NumPy's sums."""
    features = [inputs.activations(depth, *inputs.GRID, seed=depth) for depth in (2048, 960)]
    tensors = [torch.from_numpy(maps) for maps in features]
    expected = reference.background_map(*features, size=inputs.GRID)
    largest = max(maps.max() for maps in features)
    total = sum(maps.sum(dtype=np.float64) for maps in features)
    out = np.empty(inputs.GRID, np.float32)
    tensor_out = torch.empty(inputs.GRID)
    # Sums of about 3000 values in float32. Subtracting the minimum, which is about nine tenths of
    # them, makes the relative error ten times larger.
    loose = 1e-4
    readers = [
        ("NumPy's maximum", lambda: peers.read_numpy(features), largest, 0.0),
        ("torch's maximum", lambda: peers.read_torch(tensors), largest, 0.0),
        ("torch's total sum", lambda: peers.read_torch_sum(tensors), total, loose),
        ("numba's total sum", lambda: peers.read_numba(features), total, loose),
    ]
    return Case(
        "background_map, 2048 and 960 × 41×41 float32",
        Contender("cuekit", lambda: cuekit.background_map(*features), expected, 1e-6),
        [
            *(
                Contender(f"reading it once, {name}", call, value, tolerance, "reading")
                for name, call, value, tolerance in readers
            ),
            Contender("NumPy", lambda: peers.background_numpy(features, out), expected, loose),
            *(
                Contender(name, partial(way, tensors, tensor_out), expected, loose, "torch")
                for name, way in (
                    ("torch, sums", peers.background_torch),
                    ("torch, products with ones", peers.background_torch_product),
                )
            ),
            *peers_compiled.contenders(
                "torch, compiled",
                partial(peers_compiled.background, *tensors, tensor_out),
                expected,
                loose,
                "torch",
            ),
        ],
        [
            # The readers add float32. A loop that only converts the same bytes to float64 and adds
            # them up takes 1.4 times as long: with AVX2 both operations share two ports, 4 values a
            # cycle, which is .39 ms at 3.2 GHz even if all lie in L1.
            Claim("background_map against reading the input once", ("reading",), at_most=1.5),
            Claim("background_map against torch", ("torch",), at_most=1),
        ],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
