"""Boundary connectivity and contrast against the oracle."""

import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, needs, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import FRONT_ENDS, THREADS, graphs, same_bits

import cuekit
from cuekit import reference

# Sums of lengths in another order, of up to 40 steps: relative 1e-14. The square of a distance of
# 11 sigma, beyond which weights are 0, has that of 60.
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


def assert_close(result, expected):
    for values, wanted in zip(result, expected, strict=True):
        assert values.dtype == np.float64
        assert values.shape == wanted.shape
        np.testing.assert_allclose(values, wanted, **TOLERANCE)


@given(
    graphs(),
    st.sampled_from([0.5, 7.0, 100.0]),
    st.sampled_from([0.0, 3.0, 40.0]),
    st.sampled_from([0.05, 0.4]),
)
def test_equals_oracle(graph, sigma, clip, spatial_sigma):
    result = cuekit.boundary_connectivity(
        graph, sigma=sigma, clip=clip, spatial_sigma=spatial_sigma
    )
    assert_close(result, reference.boundary_connectivity(graph, sigma, clip, spatial_sigma))


@given(graphs(), st.integers(0, 2**32 - 1))
def test_equals_oracle_for_any_border(graph, seed):
    """Few superpixels at the border, or none, so that paths lead through the image."""
    share = np.random.default_rng(seed).random(len(graph.sizes)) < 0.2
    graph = graph._replace(border_pixels=graph.border_pixels * share)
    assert_close(
        cuekit.boundary_connectivity(graph), reference.boundary_connectivity(graph, 7, 3, 0.4)
    )


def scattered(labels, pixels, seed=0):
    """Superpixels all over the image: each touches many others, at random, and no border counts."""
    rng = np.random.default_rng(seed)
    superpixels = rng.permutation(np.arange(pixels) % labels).reshape(20, -1)
    image = rng.integers(0, 256, (labels, 3), np.uint8)[superpixels]
    graph = cuekit.superpixel_graph(superpixels, image)
    return graph._replace(border_pixels=(np.arange(labels) < 2) * graph.border_pixels)


def test_a_graph_that_elimination_would_make_dense():
    """Its last nodes are not eliminated."""
    graph = scattered(labels=800, pixels=1600)
    result = cuekit.boundary_connectivity(graph, sigma=60, clip=20)
    assert_close(result, reference.boundary_connectivity(graph, 60, 20, 0.4))


@given(graphs())
def test_same_bits_for_any_threads_and_instructions(graph):
    expected = cuekit.boundary_connectivity(graph)
    for name in INSTRUCTION_SETS:
        set_instruction_set(name)
        for threads in THREADS:
            result = cuekit.boundary_connectivity(graph, threads=threads)
            assert all(map(same_bits, result, expected))


@given(graphs())
def test_ranges(graph):
    connectivity, contrast = cuekit.boundary_connectivity(graph)
    assert (connectivity >= 0).all()
    assert (contrast >= 0).all()
    if contrast.any():
        assert contrast.max() == 1
    # All border pixels, over the least area.
    assert (connectivity <= graph.border_pixels.sum() / np.sqrt(graph.sizes) + 1e-9).all()


def test_of_a_photo_against_scipy():
    """With Dijkstra's method from every superpixel."""
    csgraph, sparse = needs("scipy.sparse.csgraph"), needs("scipy.sparse")
    photo = needs("skimage.data").chelsea()
    graph = cuekit.superpixel_graph(cuekit.felzenszwalb(photo, 50, min_size=60), photo)
    count = len(graph.sizes)
    border = np.flatnonzero(graph.border_pixels)
    pairs = np.stack(np.triu_indices(len(border), 1))
    i, j = np.unique(np.concatenate([graph.edges.T, border[pairs]], axis=1), axis=1)
    steps = np.maximum(np.linalg.norm(graph.colours[i] - graph.colours[j], axis=-1) - 3, 0)
    # A length of 0 is no edge there.
    matrix = sparse.coo_array((np.maximum(steps, 1e-15), (i, j)), shape=(count, count)).tocsr()
    similar = np.exp(-(csgraph.dijkstra(matrix, directed=False) ** 2) / 98)
    expected = similar @ graph.border_pixels / np.sqrt(similar @ graph.sizes)
    result = cuekit.boundary_connectivity(graph).connectivity
    np.testing.assert_allclose(result, expected, rtol=1e-11)


# ----------------------------------------------------------------------- edges of what is possible


def disc(height=60, width=80):
    """A bright disc on a dark background, each cut into squares of 4 by 4 pixels."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < 15**2
    squares = rows // 4 * (width // 4) + columns // 4
    photo = np.where(inside[..., None], (230, 180, 40), (40, 60, 90)).astype(np.uint8)
    return squares * 2 + inside, photo, inside


def test_an_object_and_its_background():
    superpixels, photo, inside = disc()
    graph = cuekit.superpixel_graph(superpixels, photo)
    connectivity, contrast = map(graph.paint, cuekit.boundary_connectivity(graph))
    assert connectivity[inside].max() < 1e-6
    # 276 border pixels over the root of the area of the rest.
    expected = 276 / np.sqrt((~inside).sum())
    np.testing.assert_allclose(connectivity[~inside], expected, rtol=1e-6)
    assert contrast[inside].min() > 0.5
    assert contrast[~inside].max() < 1e-6


def test_one_superpixel_one_colour_and_none():
    one = cuekit.superpixel_graph(np.zeros((3, 4), int), np.zeros((3, 4, 3), np.uint8))
    connectivity, contrast = cuekit.boundary_connectivity(one)
    np.testing.assert_allclose(connectivity, 10 / np.sqrt(12), rtol=1e-15)
    assert contrast.tolist() == [0]
    flat = cuekit.superpixel_graph(np.arange(12).reshape(3, 4), np.full((3, 4, 3), 7, np.uint8))
    connectivity, contrast = cuekit.boundary_connectivity(flat)
    np.testing.assert_allclose(connectivity, 10 / np.sqrt(12), rtol=1e-14)
    assert not contrast.any()
    none = cuekit.superpixel_graph(np.full((3, 4), -1), np.zeros((3, 4, 3), np.uint8))
    assert [field.shape for field in cuekit.boundary_connectivity(none)] == [(0,), (0,)]


def test_nothing_at_the_border():
    superpixels = np.full((5, 6), -1)
    superpixels[1:-1, 1:-1] = np.arange(12).reshape(3, 4)
    photo = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    graph = cuekit.superpixel_graph(superpixels, photo)
    for values in cuekit.boundary_connectivity(graph):
        assert not values.any()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_frameworks(front_end):
    superpixels, photo, _ = disc()
    expected = cuekit.boundary_connectivity(cuekit.superpixel_graph(superpixels, photo))
    wrapped = cuekit.superpixel_graph(front_end.wrap(superpixels), front_end.wrap(photo))
    result = cuekit.boundary_connectivity(wrapped)
    assert all(map(same_bits, map(front_end.unwrap, result), expected))


# ---------------------------------------------------------------------------------------- errors

GRAPH = cuekit.superpixel_graph(np.arange(6).reshape(2, 3), np.zeros((2, 3, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma": 0}, ValueError, "sigma must be at least 1e-06, got 0.0"),
        ({"clip": -1}, ValueError, "clip must be at least 0, got -1.0"),
        ({"spatial_sigma": np.nan}, ValueError, "spatial_sigma must be finite, got nan"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
    ],
)
def test_wrong_options(options, error, message):
    with raises(error, message):
        cuekit.boundary_connectivity(GRAPH, **options)


@pytest.mark.parametrize(
    ("graph", "error", "message"),
    [
        (tuple(GRAPH), TypeError, "graph must be SuperpixelGraph, got tuple"),
        (GRAPH._replace(colours=None), ValueError, "graph must have colours, got None"),
        (
            GRAPH._replace(border_pixels=-GRAPH.border_pixels),
            ValueError,
            "graph.border_pixels must be at least 0, got -1",
        ),
        (
            GRAPH._replace(colours=np.full((6, 3), 1e200)),
            ValueError,
            "graph.colours must be below 1e+100 in magnitude, got 1e+200 at index (0, 0)",
        ),
        (
            GRAPH._replace(edges=GRAPH.edges[::-1]),
            ValueError,
            "graph.edges must be sorted and each there once, got (3, 4) after (4, 5)",
        ),
        (
            GRAPH._replace(edges=np.array([[0, 1]] * 7, np.int32)),
            ValueError,
            "graph.edges must be sorted and each there once, got (0, 1) after (0, 1)",
        ),
    ],
)
def test_wrong_graphs(graph, error, message):
    with raises(error, message):
        cuekit.boundary_connectivity(graph)


def test_too_many_superpixels():
    def each_pixel(height, width):
        superpixels = np.arange(height * width).reshape(height, width)
        return cuekit.superpixel_graph(superpixels, np.zeros((height, width, 3), np.uint8))

    with raises(ValueError, "graph must have at most 16384 superpixels, got 16512; use larger"):
        cuekit.boundary_connectivity(each_pixel(128, 129))
    message = "graph must have at most 2048 superpixels at the image's border, got 2049; use "
    with raises(ValueError, message):
        cuekit.boundary_connectivity(each_pixel(1, 2049))
