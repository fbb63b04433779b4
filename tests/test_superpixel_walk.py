"""The walk on the graph of superpixels, against a dense solver."""

import math
import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FRONT_ENDS,
    THREADS,
    batches,
    cpu_runs,
    float_maps,
    graphs,
    memory_orders,
    same_bits,
)

import cuekit
from cuekit import reference

# Of the largest magnitude: the bound of the solver, and the rounding of the dense one.
TOLERANCE = 1.1e-10

restarts = st.sampled_from([1e-4, 0.02, 0.5, 1.0])
sigmas = st.sampled_from([0.3, 10.0, 1e3])


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


@given(st.data(), graphs(), restarts, sigmas, cpu_runs)
def test_equals_dense_solution(data, graph, restart, sigma, run):
    batch = data.draw(batches)
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
    values = data.draw(float_maps((*batch, len(graph.sizes)), dtype))
    result = run(cuekit.superpixel_walk, values, graph=graph, restart=restart, sigma=sigma)
    assert result.dtype == dtype
    assert result.shape == values.shape
    rows = values.reshape(math.prod(batch), len(graph.sizes)).astype(np.float64)
    scale = np.maximum(np.abs(rows).max(-1, initial=0), 1e-300)[:, None]
    # The dense solver's rounding is multiplied by the condition, at most 10^4: some 1e-12.
    expected = reference.superpixel_walk(rows / scale, graph, restart, sigma)
    # The dtype's own rounding is relative to values that are at most the scale.
    rounding = 0 if dtype == "float64" else float(np.finfo(dtype).eps)
    # float16 has steps of 6e-8 near zero.
    step = 6e-8 if dtype == "float16" else 0
    difference = np.abs(result.reshape(rows.shape).astype(np.float64) - expected * scale)
    assert (difference <= (TOLERANCE + rounding) * scale + step).all()


@given(st.data(), graphs(), restarts)
def test_means_stay_between_values(data, graph, restart):
    values = data.draw(float_maps((3, len(graph.sizes)), "float64"))
    result = cuekit.superpixel_walk(values, graph, restart=restart)
    if result.size:
        assert (result >= values.min(-1, keepdims=True)).all()
        assert (result <= values.max(-1, keepdims=True)).all()
    constant = np.full(len(graph.sizes), 0.3)
    np.testing.assert_array_equal(cuekit.superpixel_walk(constant, graph), constant)


@given(graphs(), st.integers(0, 2**32 - 1))
def test_no_result_depends_on_other_classes_or_threads(graph, seed):
    """The same bits, whatever the number of classes, and for every instruction set."""
    values = np.random.default_rng(seed).random((6, len(graph.sizes)))
    values[2] *= 1e-30
    values[3] = 0
    expected = cuekit.superpixel_walk(values, graph)
    for name in INSTRUCTION_SETS:
        set_instruction_set(name)
        for threads in THREADS:
            assert same_bits(cuekit.superpixel_walk(values, graph, threads=threads), expected)
        for k in range(6):
            assert same_bits(cuekit.superpixel_walk(values[k], graph), expected[k])


def test_a_restart_of_1_and_superpixels_that_touch_none():
    superpixels = np.array([[0, 0, -1, 1], [2, 2, -1, 1]])
    graph = cuekit.superpixel_graph(superpixels, np.zeros((2, 4, 3), np.uint8))
    values = np.array([1.0, 7.0, 3.0])
    np.testing.assert_array_equal(cuekit.superpixel_walk(values, graph, restart=1), values)
    result = cuekit.superpixel_walk(values, graph)
    assert result[1] == 7
    # Of two that touch: their difference d is 0.02 (3 - 1) - 0.98 d.
    d = 0.02 * 2 / 1.98
    np.testing.assert_allclose(result[[0, 2]], [2 - d / 2, 2 + d / 2], rtol=0, atol=3 * TOLERANCE)
    alone = cuekit.superpixel_graph(np.zeros((3, 4), int), np.zeros((3, 4, 3), np.uint8))
    assert cuekit.superpixel_walk(np.array([5.0]), alone) == [5.0]
    none = cuekit.superpixel_graph(np.full((3, 4), -1), np.zeros((3, 4, 3), np.uint8))
    assert cuekit.superpixel_walk(np.zeros((2, 0)), none).shape == (2, 0)


def test_weights_that_underflow():
    """Rows of P are exact where all weights of a superpixel are below float64's range."""
    superpixels = np.arange(6)[None]
    features = np.array([[0.0], [1.0], [1000.0], [1000.5], [-2000.0], [3000.0]])
    graph = cuekit.superpixel_graph(superpixels, np.zeros((1, 6, 3), np.uint8))
    graph = graph._replace(colours=features)
    # Each is joined to the nearer of its neighbours, as far as float64 tells.
    nearest = np.array([1, 0, 3, 2, 3, 4])
    steps = np.zeros((6, 6))
    steps[np.arange(6), nearest] = 1
    values = np.random.default_rng(0).random(6)
    expected = np.linalg.solve(np.eye(6) - 0.98 * steps, 0.02 * values)
    result = cuekit.superpixel_walk(values, graph, sigma=1.0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)
    # Squares that overflow are no weight at all.
    far = graph._replace(colours=features * 1e200)
    np.testing.assert_array_equal(cuekit.superpixel_walk(values, far), values)


def test_thousands_of_superpixels(figures):
    """Too many for a dense matrix: how far the equation is from being met bounds the error."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 60, (90, 110, 3), np.uint8)
    graph = cuekit.superpixel_graph(np.arange(9900).reshape(90, 110), image)
    values = rng.random((2, 9900))
    result = cuekit.superpixel_walk(values, graph)
    i, j = graph.edges.T
    weights = graph.edge_lengths * np.exp(
        -((graph.colours[i] - graph.colours[j]) ** 2).sum(-1) / 200
    )
    sums = np.bincount(i, weights, 9900) + np.bincount(j, weights, 9900)
    for x, value in zip(result, values, strict=True):
        spread = np.bincount(i, weights * x[j], 9900) + np.bincount(j, weights * x[i], 9900)
        residual = 0.02 * value + 0.98 * spread / sums - x
        # The error is at most the residual's largest magnitude divided by the restart.
        bound = np.abs(residual).max() / 0.02
        assert bound < TOLERANCE
        figures.append(f"superpixel_walk, 9 900 superpixels: error below {bound:.1e}")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_frameworks_and_memory_orders(front_end):
    rng = np.random.default_rng(2)
    superpixels = rng.integers(0, 20, (12, 15))
    image = rng.integers(0, 256, (12, 15, 3), np.uint8)
    graph = cuekit.superpixel_graph(superpixels, image)
    values = rng.random((2, 3, 20)).astype(np.float32)
    expected = cuekit.superpixel_walk(values, graph)
    wrapped = cuekit.superpixel_graph(front_end.wrap(superpixels), front_end.wrap(image))
    for array in memory_orders(values):
        result = front_end.unwrap(cuekit.superpixel_walk(front_end.wrap(array), wrapped))
        assert same_bits(result, expected)
        assert not np.shares_memory(result, array)
    fortran = graph._replace(colours=np.asfortranarray(graph.colours), edges=graph.edges[:, ::-1])
    fortran = fortran._replace(edges=fortran.edges[:, ::-1])
    assert same_bits(cuekit.superpixel_walk(values, fortran), expected)


# ---------------------------------------------------------------------------------------- errors

SUPERPIXELS = np.arange(6).reshape(2, 3)
GRAPH = cuekit.superpixel_graph(SUPERPIXELS, np.zeros((2, 3, 3), np.uint8))
VALUES = np.ones((2, 6))


@pytest.mark.parametrize(
    ("values", "graph", "options", "error", "message"),
    [
        (VALUES.astype(int), GRAPH, {}, TypeError, "values must have dtype float16 or float32 or "),
        (
            VALUES[:, :5],
            GRAPH,
            {},
            ValueError,
            "values must have shape (2, 6) to match graph, got ",
        ),
        (VALUES * np.nan, GRAPH, {}, ValueError, "values must be finite, got nan at index (0, 0)"),
        (VALUES, SUPERPIXELS, {}, TypeError, "graph must be SuperpixelGraph, got ndarray"),
        (
            VALUES,
            cuekit.superpixel_graph(SUPERPIXELS),
            {},
            ValueError,
            "graph must have colours, got None: pass the photo to superpixel_graph",
        ),
        (VALUES, GRAPH, {"restart": 0}, ValueError, "restart must be at least 0.0001, got 0.0"),
        (VALUES, GRAPH, {"restart": 1.5}, ValueError, "restart must be at most 1, got 1.5"),
        (VALUES, GRAPH, {"sigma": 0}, ValueError, "sigma must be greater than 0, got 0.0"),
        (VALUES, GRAPH, {"threads": 0}, ValueError, "threads must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(values, graph, options, error, message):
    with raises(error, message):
        cuekit.superpixel_walk(values, graph, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"edges": np.array([[0, 6]] * 7, np.int32)},
            ValueError,
            "graph.edges must be pairs i < j of numbers from 0 to 5, got (0, 6)",
        ),
        (
            {"edges": np.array([[-1, 2]] * 7, np.int32)},
            ValueError,
            "graph.edges must be pairs i < j of numbers from 0 to 5, got (-1, 2)",
        ),
        (
            {"edges": np.array([[2, 2]] * 7, np.int32)},
            ValueError,
            "graph.edges must be pairs i < j of numbers from 0 to 5, got (2, 2)",
        ),
        (
            {"edges": np.zeros((7, 2))},
            TypeError,
            "graph.edges must have dtype int32, got float64",
        ),
        (
            {"edge_lengths": np.zeros(7, np.int64)},
            ValueError,
            "graph.edge_lengths must be at least 1, got 0",
        ),
        (
            {"edge_lengths": np.ones(5, np.int64)},
            ValueError,
            "graph.edge_lengths must have shape (7,) to match the other fields, got (5,)",
        ),
        (
            {"colours": np.full((6, 3), np.inf)},
            ValueError,
            "graph.colours must be finite, got inf at index (0, 0)",
        ),
        (
            {"colours": np.zeros((5, 3))},
            ValueError,
            "graph.colours must have shape (6, 3) to match the other fields, got (5, 3)",
        ),
    ],
)
def test_fields_that_were_changed(changes, error, message):
    with raises(error, message):
        cuekit.superpixel_walk(VALUES, GRAPH._replace(**changes))
