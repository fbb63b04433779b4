"""Means over superpixels against the oracle."""

import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    float_maps,
    label_maps,
    masks,
    reordered,
    runs,
    sizes,
)

import cuekit
from cuekit import reference


@st.composite
def value_maps(draw, shape, dtype):
    if dtype in FLOATS:
        return draw(float_maps(shape, dtype))
    if dtype == "bool":
        return draw(masks(shape))
    info = np.iinfo(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return draw(reordered(rng.integers(info.min, info.max, shape, dtype, endpoint=True)))


@st.composite
def inputs(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, "bool"]))
    values = draw(value_maps((*batch, channels, *size), dtype))
    return batch, values, draw(label_maps((*batch, *size)))


@given(inputs(), runs)
def test_equals_oracle(arrays, run):
    batch, values, superpixels = arrays
    result = run(cuekit.superpixel_mean, values, superpixels)
    oracle = by_image(reference.superpixel_mean, batch, values, superpixels)
    if not run.on_device:
        assert_equal(result, oracle)
        return
    # On a device float64 sums run in another order, which changes some last places of the largest
    # value; where that changes the rounding to the result's type, one of its last places.
    assert result.dtype == oracle.dtype
    largest = np.abs(values.astype(np.float64)).max(initial=0)
    np.testing.assert_allclose(
        result, oracle, rtol=np.finfo(oracle.dtype).eps, atol=1e-13 * largest
    )


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_integers_and_bool_give_float32(dtype):
    values = np.array([[[0, 1, 1]]], dtype)
    result = cuekit.superpixel_mean(values, np.array([[0, 0, 1]]))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[[0.5, 0.5, 1.0]]])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_dtype(dtype):
    values = np.array([[[1.0, 3.0], [5.0, 7.0]]])
    largest = min(np.iinfo(dtype).max, 2**31 - 1)
    result = cuekit.superpixel_mean(values, np.array([[0, 0], [largest, 3]], dtype))
    np.testing.assert_array_equal(result, [[[2, 2], [5, 7]]])


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
@pytest.mark.parametrize("label_dtype", ["int8", "int16", "int32", "int64"])
def test_pixels_in_no_superpixel_keep_their_value(front_end, dtype, label_dtype):
    values = np.array([[[0, 1, 1, 1, 0]]], dtype)
    superpixels = np.array([[0, 0, -1, 5, -1]], label_dtype)
    with front_end.active():
        result = front_end.unwrap(
            cuekit.superpixel_mean(front_end.wrap(values), front_end.wrap(superpixels))
        )
    assert result.dtype == (dtype if dtype in FLOATS else "float32")
    np.testing.assert_array_equal(result, [[[0.5, 0.5, 1, 1, 0]]])


def test_values_in_no_superpixel_are_kept_exactly_and_never_added():
    values = np.array([[[1.7e308, 1.7e308, 5e-324, 0.1]]])
    superpixels = np.array([[-1, -1, -1, 0]])
    np.testing.assert_array_equal(cuekit.superpixel_mean(values, superpixels), values)
    for value in (np.nan, np.inf, -np.inf):
        values[0, 0, 1] = value
        message = rf"^values must be finite, got {value} at index \(0, 0, 1\)$"
        with pytest.raises(ValueError, match=message):
            cuekit.superpixel_mean(values, superpixels)
    large = np.array([[[2**24 + 1, 2**62 + 1]]])  # as float32 rounds them
    result = cuekit.superpixel_mean(large, np.array([[-1, -1]]))
    np.testing.assert_array_equal(result, large.astype(np.float32))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("label", [2**31 - 2, 2**31 - 1])
def test_a_large_label_takes_no_memory(front_end, label):
    values, superpixels = np.ones((3, 64, 64)), np.zeros((64, 64), np.int64)
    superpixels[5, 6] = label
    values[:, 5, 6] = 7
    tracemalloc.start()
    try:
        result = front_end.unwrap(
            cuekit.superpixel_mean(front_end.wrap(values), front_end.wrap(superpixels))
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(result, values)
    assert peak < 2**20  # what Python allocates; test_parallel limits the kernel's memory too


@pytest.mark.parametrize(
    ("dtype", "label", "rule"),
    [
        ("int8", -2, "at least -1"),
        ("int16", -300, "at least -1"),
        ("int32", -(2**31), "at least -1"),
        ("int64", -(2**32) - 1, "at least -1"),
        ("int64", -(2**63), "at least -1"),
        ("uint32", 2**31, "less than 2147483648"),
        ("int64", 2**31, "less than 2147483648"),
        ("int64", 2**32 + 1, "less than 2147483648"),
        ("int64", 2**63 - 1, "less than 2147483648"),
        ("uint64", 2**63 + 5, "less than 2147483648"),
        ("uint64", 2**64 - 1, "less than 2147483648"),
    ],
)
@pytest.mark.parametrize("function", [cuekit.superpixel_mean, cuekit.snap_cues])
@pytest.mark.parametrize("threads", [1, 2])
def test_labels_out_of_range(function, dtype, label, rule, threads):
    superpixels = np.zeros((2, 30, 31), dtype)
    superpixels[1, 29, 30] = label
    superpixels[1, 3, 4] = superpixels.dtype.type(-1) if dtype.startswith("i") else 0
    values = np.ones((2, 3, 30, 31), np.float32)
    with pytest.raises(ValueError, match=f"^superpixels must be {rule}, got {label}$"):
        function(values, superpixels, threads=threads)


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64", "object"])
def test_labels_of_another_dtype(dtype):
    with pytest.raises(TypeError, match=f"^superpixels must have any integer dtype, got {dtype}$"):
        cuekit.superpixel_mean(np.zeros((1, 2, 2)), np.zeros((2, 2), dtype))


def test_labels_of_another_shape():
    with pytest.raises(
        ValueError, match=r"^superpixels must have shape \(2, 3\) to match values, got \(3, 2\)$"
    ):
        cuekit.superpixel_mean(np.zeros((1, 2, 3)), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3\) to match values, got \(2, 3\)$"):
        cuekit.superpixel_mean(np.zeros((4, 1, 2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"^superpixels must have shape \(..., H, W\), got \(6,\)"):
        cuekit.superpixel_mean(np.zeros((1, 2, 3)), np.zeros(6, int))


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 0, 3, 3)])
def test_empty(shape):
    result = cuekit.superpixel_mean(np.zeros(shape), np.zeros((*shape[:-3], *shape[-2:]), int))
    assert result.shape == shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(0, 0, 0), (8, 20, 30), (3, 7, 29)])
def test_nonfinite_values(value, dtype, position):
    values = np.ones((9, 21, 31), dtype)
    values[position] = value
    message = re.escape(f"values must be finite, got {value} at index {position}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.superpixel_mean(values, np.arange(21 * 31).reshape(21, 31))


def test_infinities_that_cancel_to_nan_are_found():
    with pytest.raises(ValueError, match=r"^values must be finite, got inf"):
        cuekit.superpixel_mean(np.array([[[np.inf, -np.inf]]]), np.array([[0, 0]]))


def test_sums_beyond_float64():
    with pytest.raises(ValueError, match=r"^values must be small enough for float64 sums"):
        cuekit.superpixel_mean(np.full((1, 1, 2), 1.7e308), np.array([[0, 0]]))
