"""boundary_connectivity of a photo of 375×500, and the superpixel graph that it is computed on."""

from __future__ import annotations

from functools import partial

import numpy as np
from skimage import color

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


def colours() -> Case:
    """Compare the colours alone with scikit-image's."""
    photo = inputs.photo("chelsea")
    expected = color.rgb2lab(photo)
    return Case(
        "rgb_to_lab of 375×500",
        # Half a step of float32, of values up to 128.
        Contender("cuekit", lambda: cuekit.rgb_to_lab(photo), expected, 4e-6),
        [Contender("scikit-image", lambda: color.rgb2lab(photo), expected)],
        [Claim("rgb_to_lab against scikit-image", ("scikit-image",), at_least=10)],
    )


def graph() -> Case:
    """Time the whole graph, colours included, for reference only."""
    photo = inputs.photo("chelsea")
    labels = np.array(inputs.superpixel_graph().superpixels)
    expected = cuekit.superpixel_graph(labels, photo).colours
    lab = color.rgb2lab(photo)
    return Case(
        "superpixel_graph of 375×500",
        Contender("cuekit", lambda: cuekit.superpixel_graph(labels, photo).colours, expected),
        [Contender("scikit-image, colours of pixels", lambda: color.rgb2lab(photo), lab)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(each, quick=quick) for each in (connectivity(), colours(), graph())]
