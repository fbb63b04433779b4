"""superpixel_graph of a photo of 375×500: edges and their lengths, and colours."""

from __future__ import annotations

from functools import partial

import numpy as np

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import Case, Claim, Contender, Result, measure


def values_of(labels: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Return the parts of the graph that the peer has."""
    graph = cuekit.superpixel_graph(labels, photo)
    return np.concatenate([graph.edges.ravel(), graph.edge_lengths, graph.colours.ravel()])


def case() -> Case:
    """Compare with NumPy's sorting and counting and scikit-image's colours."""
    photo = inputs.photo("chelsea")
    labels = np.array(inputs.superpixel_graph().superpixels)
    expected = peers.superpixel_graph_numpy(labels, photo)
    # Sums of colours in another order, and scikit-image's own rounding.
    tolerance = 1e-10
    return Case(
        "superpixel_graph of 375×500",
        Contender("cuekit", partial(values_of, labels, photo), expected, tolerance),
        [Contender("numpy", partial(peers.superpixel_graph_numpy, labels, photo), expected)],
        [Claim("superpixel_graph against numpy", ("numpy",), at_least=5)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
