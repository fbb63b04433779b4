"""The graph of superpixels, and its methods, against the oracle."""

import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, needs, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    batches,
    cpu_runs,
    float_maps,
    label_maps,
    masks,
    memory_orders,
    same_bits,
    sizes,
)

import cuekit
from cuekit import SuperpixelGraph, reference


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


@st.composite
def labelled_photos(draw):
    superpixels = draw(label_maps(draw(sizes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return superpixels, rng.integers(0, 256, (*superpixels.shape, 3), np.uint8)


def graph_of(superpixels, image, run):
    """The graph in NumPy, computed as `run` says."""
    set_instruction_set(run.instruction_set)
    graph = cuekit.superpixel_graph(
        run.front_end.wrap(superpixels), None if image is None else run.front_end.wrap(image)
    )
    return SuperpixelGraph(*(None if f is None else run.front_end.unwrap(f) for f in graph))


def assert_same(graph, expected):
    """Equal integers; means in float64 whose sums have another order, of values below 130."""
    for name, value, wanted in zip(graph._fields, graph, expected, strict=True):
        if wanted is None:
            assert value is None
            continue
        assert (value.dtype, value.shape) == (wanted.dtype, wanted.shape), name
        tolerance = 1e-11 if value.dtype.kind == "f" else 0
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance, err_msg=name)


@given(labelled_photos(), st.booleans(), cpu_runs)
def test_equals_oracle(arrays, with_image, run):
    superpixels, image = arrays
    image = image if with_image else None
    assert_same(graph_of(superpixels, image, run), reference.superpixel_graph(superpixels, image))


@given(labelled_photos(), cpu_runs)
def test_mirrored_and_turned(arrays, run):
    superpixels, image = arrays
    graph = graph_of(superpixels, image, run)
    mirrored = graph_of(superpixels[:, ::-1].copy(), image[:, ::-1].copy(), run)
    turned = graph_of(superpixels.T.copy(), image.swapaxes(0, 1).copy(), run)
    for other in (mirrored, turned):
        for name in ("labels", "edges", "edge_lengths", "sizes", "border_pixels"):
            np.testing.assert_array_equal(getattr(other, name), getattr(graph, name))
        np.testing.assert_allclose(other.colours, graph.colours, rtol=0, atol=1e-11)
    np.testing.assert_allclose(mirrored.centres, abs(graph.centres - (0, 1)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(turned.centres, graph.centres[:, ::-1], rtol=0, atol=1e-12)


@given(labelled_photos())
def test_sums(arrays):
    """Every pixel is in one superpixel, every pair of unequal ones on one border."""
    superpixels, _ = arrays
    graph = cuekit.superpixel_graph(superpixels)
    inside = superpixels >= 0
    assert graph.sizes.sum() == inside.sum()
    height, width = superpixels.shape
    rim = height * width - max(height - 2, 0) * max(width - 2, 0)
    assert graph.border_pixels.sum() <= rim
    if inside.all():
        assert graph.border_pixels.sum() == rim
    np.testing.assert_array_equal(graph.labels[graph.superpixels[inside]], superpixels[inside])
    np.testing.assert_array_equal(graph.superpixels == -1, ~inside)


@given(label_maps((9, 11)), st.integers(0, 2**32 - 1))
def test_order_of_labels_alone_matters(superpixels, seed):
    """Labels far apart give the same graph as labels without gaps."""
    labels = np.unique(superpixels[superpixels >= 0])
    far = np.sort(np.random.default_rng(seed).choice(2**31 - 1, len(labels), replace=False))
    renamed = np.full(superpixels.shape, -1)
    renamed[superpixels >= 0] = far[np.searchsorted(labels, superpixels[superpixels >= 0])]
    first, second = cuekit.superpixel_graph(superpixels), cuekit.superpixel_graph(renamed)
    np.testing.assert_array_equal(second.labels, far)
    for name in set(first._fields) - {"labels", "colours"}:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# --------------------------------------------------------------------------------------- methods


@st.composite
def maps_and_labels(draw):
    shape = draw(sizes)
    dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, "bool"]))
    full = (*draw(batches), *shape)
    maps = draw(float_maps(full, dtype) if dtype in FLOATS else masks(full, dtype))
    return maps, draw(label_maps(shape))


@given(maps_and_labels(), cpu_runs)
def test_mean_and_paint_are_superpixel_mean(arrays, run):
    """The same bits, for any dtype and any leading dimensions."""
    maps, superpixels = arrays
    graph = cuekit.superpixel_graph(superpixels)
    means = run(graph.mean, maps)
    assert means.shape == (*maps.shape[:-2], len(graph.sizes))
    painted = run.front_end.unwrap(graph.paint(run.front_end.wrap(means)))
    assert painted.flags.c_contiguous
    expected = cuekit.superpixel_mean(maps[..., None, :, :], _batched(superpixels, maps))
    expected = np.where(superpixels >= 0, expected[..., 0, :, :], 0)
    assert painted.dtype == expected.dtype
    np.testing.assert_array_equal(painted, expected)


def _batched(superpixels, maps):
    return np.broadcast_to(superpixels, maps.shape)


def test_paint_outside():
    graph = cuekit.superpixel_graph(np.array([[-1, 3], [3, 9]]))
    np.testing.assert_array_equal(graph.paint(np.array([1.5, 2.5])), [[0, 1.5], [1.5, 2.5]])
    painted = graph.paint(np.array([[1, 2]], np.uint8), outside=255)
    np.testing.assert_array_equal(painted, [[[255, 1], [1, 2]]])
    assert painted.dtype == np.uint8


# ----------------------------------------------------------------------- edges of what is possible


def test_one_superpixel_and_none():
    one = cuekit.superpixel_graph(np.full((3, 4), 5), np.zeros((3, 4, 3), np.uint8))
    assert (one.labels.tolist(), one.sizes.tolist(), one.border_pixels.tolist()) == (
        [5],
        [12],
        [10],
    )
    assert one.edges.shape == (0, 2)
    np.testing.assert_array_equal(one.centres, [[0.5, 0.5]])
    none = cuekit.superpixel_graph(np.full((3, 4), -1), np.zeros((3, 4, 3), np.uint8))
    assert [len(field) for field in none] == [3, 0, 0, 0, 0, 0, 0, 0]
    assert none.mean(np.ones((2, 3, 4))).shape == (2, 0)
    np.testing.assert_array_equal(none.paint(np.ones((2, 0))), np.zeros((2, 3, 4)))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_empty(shape):
    graph = cuekit.superpixel_graph(np.zeros(shape, int), np.zeros((*shape, 3), np.uint8))
    assert [f.shape for f in graph[1:]] == [(0,), (0, 2), (0,), (0,), (0,), (0, 2), (0, 3)]
    assert graph.superpixels.shape == shape
    assert graph.mean(np.ones((2, *shape))).shape == (2, 0)


def test_each_pixel_a_superpixel():
    """The most edges that there are, with labels as large as they may be."""
    height, width = 61, 83
    superpixels = np.arange(height * width).reshape(height, width) + (2**31 - height * width)
    graph = cuekit.superpixel_graph(superpixels)
    assert len(graph.edges) == height * (width - 1) + width * (height - 1)
    assert (graph.edge_lengths == 1).all()
    assert (graph.sizes == 1).all()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_frameworks(front_end):
    rng = np.random.default_rng(1)
    superpixels = rng.integers(0, 9, (12, 15))
    image = rng.integers(0, 256, (12, 15, 3), np.uint8)
    expected = cuekit.superpixel_graph(superpixels, image)
    graph = cuekit.superpixel_graph(front_end.wrap(superpixels), image)
    for field, wanted in zip(graph, expected, strict=True):
        assert same_bits(front_end.unwrap(field), wanted)
        assert front_end.unwrap(field).flags.owndata or front_end.name == "torch"
    maps = rng.random((3, 12, 15))
    means = front_end.unwrap(graph.mean(front_end.wrap(maps)))
    assert same_bits(means, expected.mean(maps))


def test_any_memory_order_and_instructions():
    rng = np.random.default_rng(2)
    superpixels = rng.integers(-1, 9, (12, 45))
    image = rng.integers(0, 256, (12, 45, 3), np.uint8)
    expected = cuekit.superpixel_graph(superpixels, image)
    for name in INSTRUCTION_SETS:
        set_instruction_set(name)
        for each, photo in zip(memory_orders(superpixels), memory_orders(image), strict=True):
            graph = cuekit.superpixel_graph(each, photo)
            assert all(map(same_bits, graph, expected))


def test_of_a_photo():
    """As scikit-image counts neighbours."""
    graph_module, data = needs("skimage.graph"), needs("skimage.data")
    photo = data.chelsea()
    superpixels = cuekit.felzenszwalb(photo)
    graph = cuekit.superpixel_graph(superpixels, photo)
    peer = graph_module.RAG(superpixels, connectivity=1)
    assert sorted(tuple(sorted(edge)) for edge in peer.edges) == list(map(tuple, graph.edges))


# ---------------------------------------------------------------------------------------- errors

GRAPH = cuekit.superpixel_graph(np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cuekit.superpixel_graph(np.zeros((2, 3, 4), int)),
            ValueError,
            "superpixels must have shape (H, W), got (2, 3, 4): a graph is of one photo",
        ),
        (
            lambda: cuekit.superpixel_graph(np.zeros((2, 3))),
            TypeError,
            "superpixels must have any integer dtype, got float64",
        ),
        (
            lambda: cuekit.superpixel_graph(np.array([[-2, 0]])),
            ValueError,
            "superpixels must be at least -1, got -2",
        ),
        (
            lambda: cuekit.superpixel_graph(np.array([[0, 2**31]])),
            ValueError,
            "superpixels must be less than 2147483648, got 2147483648",
        ),
        (
            lambda: cuekit.superpixel_graph(np.zeros((2, 3), int), np.zeros((3, 2, 3), np.uint8)),
            ValueError,
            "image must have shape (2, 3, 3) to match superpixels, got (3, 2, 3)",
        ),
        (
            lambda: cuekit.superpixel_graph(np.zeros((2, 3), int), np.zeros((2, 3, 3))),
            TypeError,
            "image must have dtype uint8, got float64",
        ),
        (lambda: cuekit.superpixel_graph([[0]]), TypeError, "superpixels must be a NumPy array"),
        (
            lambda: GRAPH.mean(np.zeros((1, 3, 2))),
            ValueError,
            "values must have shape (1, 2, 3) to match superpixels, got (1, 3, 2)",
        ),
        (
            lambda: GRAPH.mean(np.array([[0, np.nan, 0], [0, 0, 0]])),
            ValueError,
            "values must be finite, got nan at index (0, 1)",
        ),
        (
            lambda: GRAPH.mean(np.zeros((2, 3)), threads=0),
            ValueError,
            "threads must be at least 1, got 0",
        ),
        (
            lambda: GRAPH.paint(np.zeros((2, 5))),
            ValueError,
            "values must have shape (2, 6) to match graph, got (2, 5)",
        ),
        (
            lambda: GRAPH.paint(np.zeros(6), outside=np.nan),
            ValueError,
            "outside must be finite, got nan",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with raises(error, message):
        call()


@pytest.mark.parametrize("front_end", DEVICES, ids=lambda front_end: front_end.name)
def test_arrays_on_a_device_are_refused(front_end):
    with front_end.active():
        for call, name in (
            (lambda: cuekit.superpixel_graph(front_end.wrap(np.zeros((2, 3), int))), "superpixels"),
            (lambda: GRAPH.mean(front_end.wrap(np.zeros((2, 3)))), "values"),
            (lambda: GRAPH.paint(front_end.wrap(np.zeros(6))), "values"),
            (lambda: cuekit.superpixel_walk(front_end.wrap(np.zeros(6)), GRAPH), "values"),
            (
                lambda: cuekit.boundary_connectivity(
                    GRAPH._replace(colours=front_end.wrap(np.zeros((6, 3))))
                ),
                "graph.colours",
            ),
        ):
            with raises(ValueError, f"{name} must be on the CPU, got an array on "):
                call()


def test_nonfinite_values_in_no_superpixel_are_refused():
    graph = cuekit.superpixel_graph(np.array([[0, -1]]))
    with raises(ValueError, "values must be finite, got inf at index (0, 1)"):
        graph.mean(np.array([[0, np.inf]]))


def test_fields_that_were_changed_lead_nowhere():
    """Labels out of range raise; none is used as an index."""
    for labels in ([[0, 6, 0], [0, 0, 0]], [[0, -2, 0], [0, 0, 0]]):
        changed = GRAPH._replace(superpixels=np.array(labels, np.int32))
        with pytest.raises(ValueError, match=r"^superpixels must be "):
            changed.mean(np.zeros((2, 3)))
