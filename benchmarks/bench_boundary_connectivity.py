"""boundary_connectivity of a photo of 375×500."""

from __future__ import annotations

from functools import partial

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure


def connectivity() -> Case:
    """Compare with Dijkstra's method from every superpixel."""
    graph = inputs.superpixel_graph()
    expected = peers.boundary_connectivity_scipy(graph)
    title = f"boundary_connectivity, {len(graph.sizes)} superpixels"
    # Sums of lengths in another order, squared.
    tolerance = 1e-10
    return Case(
        title,
        Contender(
            "cuekit", lambda: np.stack(cuekit.boundary_connectivity(graph)), expected, tolerance
        ),
        [
            Contender(
                "scipy, Dijkstra",
                partial(peers.boundary_connectivity_scipy, graph),
                expected,
                tolerance,
            )
        ],
        [Claim(f"{title}, against scipy", ("scipy, Dijkstra",), at_least=10)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(connectivity(), quick=quick)]
