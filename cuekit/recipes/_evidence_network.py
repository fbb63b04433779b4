"""The small networks that correct the scores of `evidence`.

A network has one hidden layer. It knows the terms of a class in a superpixel, and how they compare
with the rest of the photo; it does not know which class it is. ``evidence.npz`` has the weights,
which ``benchmarks/evidence_weights.py`` fits to photos with masks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cuekit._device import Array
from cuekit.superpixel_graph import SuperpixelGraph
from cuekit.superpixel_walk import superpixel_walk

NETWORKS = ("position", "no-position")  # weights of these names have one
# Added to gradients before their logarithm.
GRADIENT_OFFSET = 0.3


@functools.cache
def _read_network(name: str) -> tuple[tuple[str, ...], Array, Array]:
    """Return the names of its T terms, and the weights (5 T + 2, N) and (N + 1) of its layers."""
    with np.load(Path(__file__).with_name("evidence.npz"), allow_pickle=False) as archive:
        terms, hidden, output = (
            archive[f"{name}/{part}"] for part in ("terms", "hidden", "output")
        )
    return tuple(terms.tolist()), hidden, output


def network_scores(
    name: str, terms: Mapping[str, Array], soft: Array, graph: SuperpixelGraph
) -> Array:
    """Return the scores (C, S) that a network of one hidden layer gives; soft is (C, S)."""
    names, hidden, output = _read_network(name)
    inputs = network_inputs(names, terms, soft, graph)
    # Not a matrix product, for which NumPy may take all cores.
    units = np.tanh(np.einsum("in,ics->ncs", hidden, inputs))
    scores: Array = np.einsum("n,ncs->cs", output[:-1], units) + output[-1]
    return scores


def network_inputs(
    names: Sequence[str], terms: Mapping[str, Array], soft: Array, graph: SuperpixelGraph
) -> Array:
    """Return the inputs (5 T + 2, C, S) of a network for the T terms of these names.

    These are the terms; their means over similar superpixels, over the photo, and over the class's
    part of it; their standard deviations; the logarithm of the number of classes; and 1.
    """
    table = np.stack([np.broadcast_to(terms[each], soft.shape) for each in names])
    shares = graph.sizes / graph.sizes.sum()
    within = soft * shares
    mean = (table * shares).sum(-1, keepdims=True)
    parts = [
        table,
        superpixel_walk(table, graph, restart=0.05),
        mean,
        (table * within).sum(-1, keepdims=True) / (within.sum(-1, keepdims=True) + 1e-12),
        np.sqrt(((table - mean) ** 2 * shares).sum(-1, keepdims=True)),
        np.full((1, 1, 1), np.log(len(soft))),
        np.ones((1, 1, 1)),
    ]
    full = [np.broadcast_to(part, (len(part), *soft.shape)) for part in parts]
    return np.concatenate(full, dtype=np.float32)


def network_terms(lab: Array, graph: SuperpixelGraph) -> dict[str, Array]:
    """Return the terms (S,) that networks have and sums do not; `lab` is the photo."""
    lightness = lab[..., 0]
    steps = [np.gradient(lightness, axis=k) for k in (0, 1) if lightness.shape[k] > 1]
    gradient = np.sqrt(sum((step**2 for step in steps), np.zeros_like(lightness)))
    return {
        "gradient": np.log(graph.mean(gradient) + GRADIENT_OFFSET),
        "border": (graph.border_pixels / np.sqrt(graph.sizes)).clip(max=8),
    }
