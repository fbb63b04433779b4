"""superpixel_walk of three classes, on hundreds and on thousands of superpixels."""

from __future__ import annotations

from functools import partial

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import reference

TOLERANCE = 1e-8  # of the peer that iterates


def case(scale: float, min_size: int, at_least: float) -> Case:
    """Compare with sparse solvers."""
    graph = inputs.superpixel_graph(scale, min_size)
    values = np.random.default_rng(0).random((3, len(graph.sizes)))
    expected = reference.superpixel_walk(values, graph, 0.02, 10)
    title = f"superpixel_walk, 3 classes, {len(graph.sizes)} superpixels"
    return Case(
        title,
        Contender("cuekit", lambda: cuekit.superpixel_walk(values, graph), expected, 1e-10),
        [
            Contender(name, partial(way, values, graph), expected, TOLERANCE, "scipy")
            for name, way in (
                ("scipy, splu", peers.graph_walk_scipy),
                ("scipy, cg", peers.graph_walk_scipy_cg),
            )
        ],
        [Claim(f"{title}, against scipy", ("scipy",), at_least=at_least)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(each, quick=quick) for each in (case(50, 60, 1.2), case(5, 10, 1))]
