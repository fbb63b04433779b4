"""Background maps against the oracle."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    float_maps,
    runs,
    sizes,
)

import cuekit
from cuekit import reference


@st.composite
def feature_sets(draw):
    """One to three tensors of one batch and dtype, each of its own depth and size."""
    batch, dtype = draw(batches), draw(st.sampled_from(FLOATS))
    shapes = draw(st.lists(st.tuples(channel_counts, sizes), min_size=1, max_size=3))
    return batch, [draw(float_maps((*batch, depth, *size), dtype)) for depth, size in shapes]


@given(feature_sets(), runs, st.none() | sizes)
def test_equals_oracle(features, run, size):
    batch, tensors = features
    result = run(cuekit.background_map, *tensors, **({} if size is None else {"size": size}))
    if size is None:
        size = max((t.shape[-2:] for t in tensors), key=np.prod)
    oracle = by_image(lambda *each: reference.background_map(*each, size=size), batch, *tensors)
    assert_equal(result, oracle)


@given(feature_sets(), runs)
def test_spans_zero_to_one_or_is_zero(features, run):
    batch, tensors = features
    result = run(cuekit.background_map, *tensors)
    for index in np.ndindex(batch):
        image = result[index]
        assert image.min() == 0
        assert image.max() in (0, 1)


def test_worked_example():
    """Two cells to four pixels: centres at -1/4, 1/4, 3/4, 5/4 of the cells, edges clamped."""
    coarse = np.array([[[0.0, 2.0]], [[0.0, 2.0]]])
    fine = np.array([[[0.0, 0.0, 0.0, 4.0]]])
    result = cuekit.background_map(coarse, fine)
    np.testing.assert_array_equal(result, [[0, 1 / 8, 3 / 8, 1]])


def test_size_of_the_largest_input_by_pixels():
    wide, tall = np.zeros((1, 2, 9)), np.zeros((1, 5, 4))
    assert cuekit.background_map(wide, tall).shape == (5, 4)
    assert cuekit.background_map(tall, wide, size=(3, 7)).shape == (3, 7)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30])
def test_constant_map_gives_zero(value):
    # 0.1 has no exact float64: interpolating between equal values must not move them.
    features = np.full((5, 7, 3), value, np.float32)
    assert not cuekit.background_map(features, size=(31, 17)).any()


def test_no_channels_give_zero():
    assert not cuekit.background_map(np.zeros((0, 2, 3))).any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 0, 4, 3, 3)])
def test_empty(shape):
    result = cuekit.background_map(np.zeros(shape, np.float16))
    assert result.shape == (*shape[:-3], *shape[-2:])
    assert result.dtype == np.float16


def test_pixels_from_no_pixels():
    with pytest.raises(
        ValueError, match=r"^features\[0\] must have at least one pixel, got \(2, 0, 3\)$"
    ):
        cuekit.background_map(np.zeros((2, 0, 3)), size=(4, 4))
    with pytest.raises(ValueError, match=r"^features\[1\] must have at least one pixel"):
        cuekit.background_map(np.zeros((2, 2, 3)), np.zeros((2, 0, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nonfinite_features(value, dtype):
    good, bad = np.ones((4, 50, 51), dtype), np.ones((5, 50, 51), dtype)
    bad[4, 49, 50] = value
    message = re.escape(f"features[1] must be finite, got {value} at index (4, 49, 50)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.background_map(good, bad)


@pytest.mark.parametrize(
    "features",
    [
        [np.full((2, 1, 2), 1.7e308)],  # a channel sum
        [np.array([[[1.7e308, 0.0]]])] * 2,  # the sum of two maps
        [np.array([[[1.7e308, -1.7e308]]])],  # the range
    ],
    ids=["channels", "maps", "range"],
)
def test_sums_beyond_float64(features):
    with pytest.raises(ValueError, match=r"^features.* must be small enough"):
        cuekit.background_map(*features)


def test_no_features():
    with pytest.raises(ValueError, match=r"^features must be one or more tensors, got none$"):
        cuekit.background_map()


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float64", "float32")])
def test_mixed_dtypes(dtypes):
    """The result has the wider dtype; sums are float64 in any case."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 4, 5)), rng.normal(size=(2, 7, 6))
    first, second = first.astype(dtypes[0]), second.astype(dtypes[1])
    wider = np.result_type(*dtypes)
    expected = cuekit.background_map(first.astype(wider), second.astype(wider))
    assert_equal(cuekit.background_map(first, second), expected)


def test_mixed_batches():
    with pytest.raises(ValueError, match=r"^features\[1\] must have shape .*, got \(3, 1, 2, 2\)$"):
        cuekit.background_map(np.zeros((2, 1, 2, 2)), np.zeros((3, 1, 2, 2)))


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((0, 3), ValueError),
        ((3, -1), ValueError),
        ((3,), TypeError),
        ((3, 3, 3), TypeError),
        (3, TypeError),
        ("33", TypeError),
        ((3.0, 3), TypeError),
        ((True, 3), TypeError),
    ],
)
def test_wrong_size(size, error):
    with pytest.raises(error, match=r"^size must be .*, got "):
        cuekit.background_map(np.zeros((1, 2, 2)), size=size)


def test_values_too_far_apart_for_a_difference():
    """Where nothing is interpolated, no difference of neighbours may overflow."""
    result = cuekit.background_map(np.array([[[0.0, 8e307, -8e307, 0.0]]]))
    assert np.array_equal(result, [[0.5, 1.0, 0.0, 0.5]])
