"""The background channel, against what the published scripts do with NumPy."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, FRONT_ENDS, batches, channel_counts, reordered, same_bits, sizes

import cuekit


@st.composite
def inputs(draw):
    """Maps in [0, 1] with 0, 1 and ties, as after a division by the maximum."""
    shape = (*draw(batches), draw(channel_counts), *draw(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.random(shape) * rng.integers(0, 2, shape)
    if draw(st.booleans()):
        maps = np.round(maps * 8) / 8
    return draw(reordered(maps.astype(draw(st.sampled_from(FLOATS)))))


def padded(maps, threshold):
    """IRN's, CLIP-ES's: a constant is padded before the classes."""
    return np.pad(maps, ((1, 0), (0, 0), (0, 0)), mode="constant", constant_values=threshold)


def powered(maps, alpha):
    """PSA's and CLIP-ES's: a power of what the classes leave."""
    largest = np.max(maps, axis=0, keepdims=True)
    return np.concatenate((np.power(1 - largest, alpha), maps), axis=0)


def assert_equals(result, maps, script):
    """The same bits as a script for single images."""
    assert result.shape == (*maps.shape[:-3], maps.shape[-3] + 1, *maps.shape[-2:])
    for index in np.ndindex(*maps.shape[:-3]):
        assert same_bits(result[index], np.ascontiguousarray(script(maps[index])))


@given(inputs(), st.sampled_from([0, 0.05, 0.3, 0.7, 1]) | st.floats(0, 1), st.data())
def test_threshold_equals_the_scripts(maps, threshold, data):
    front_end = data.draw(st.sampled_from(FRONT_ENDS))
    wrapped = front_end.wrap(maps)
    result = front_end.unwrap(cuekit.with_background(wrapped, threshold=threshold))
    assert_equals(result, maps, lambda each: padded(each, threshold))


@given(inputs(), st.sampled_from([1, 2, 4, 16, 32, 1.0, 4.0, 0.5, 2.7]), st.data())
def test_alpha_equals_the_scripts(maps, alpha, data):
    front_end = data.draw(st.sampled_from(FRONT_ENDS))
    result = front_end.unwrap(cuekit.with_background(front_end.wrap(maps), alpha=alpha))
    assert_equals(result, maps, lambda each: powered(each, alpha))


@pytest.mark.parametrize("alpha", [1, 2, 4, 16, 32])
def test_every_value_of_float16(alpha):
    """The background is rounded to float16 after each step, as in the scripts."""
    values = np.arange(np.float16(1).view(np.uint16) + 1, dtype=np.uint16).view(np.float16)
    maps = values[None, None]
    assert_equals(cuekit.with_background(maps, alpha=alpha), maps, lambda m: powered(m, alpha))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"alpha": 4}])
def test_no_class(dtype, options):
    result = cuekit.with_background(np.zeros((2, 0, 3, 4), dtype), **options)
    expected = np.full((2, 1, 3, 4), options.get("threshold", 1), dtype)
    assert same_bits(result, expected)


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"alpha": 4}])
def test_empty(shape, options):
    result = cuekit.with_background(np.zeros(shape), **options)
    assert result.shape == (*shape[:-3], shape[-3] + 1, *shape[-2:])


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_outside_the_range_is_clipped_for_the_background(dtype):
    maps = np.array([[[1.0009, -0.0009]]], dtype)
    background, kept = cuekit.with_background(maps, alpha=0.5)
    np.testing.assert_array_equal(background, [[0, 1]])
    np.testing.assert_array_equal(kept, maps[0])


@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"alpha": 4}])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [-0.25, 1.5, 255.0])
def test_maps_that_are_not_normalised(options, dtype, value):
    maps = np.zeros((2, 3, 4), dtype)
    maps[1, 2, 3] = value
    message = (
        f"maps must lie in [0, 1], got {value} at index (1, 2, 3): divide each map by its maximum "
        "first, as merge_scales does"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cuekit.with_background(maps, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(value):
    with pytest.raises(ValueError, match=rf"^maps must be finite, got {value} at index \(0, 0, 1"):
        cuekit.with_background(np.array([[[0.0, value]]]), alpha=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of threshold and alpha must be given, got none"),
        (
            {"threshold": 0.3, "alpha": 4},
            "exactly one of threshold and alpha must be given, got threshold=0.3 and alpha=4",
        ),
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"threshold": 15}, "threshold must be at most 1, got 15.0"),
        ({"threshold": True}, "threshold must be a number, got True"),
        ({"threshold": np.nan}, "threshold must be finite, got nan"),
        ({"alpha": 0}, "alpha must be above 0 and at most 1000, got 0.0"),
        ({"alpha": 1e9}, "alpha must be above 0 and at most 1000, got 1000000000.0"),
        ({"alpha": "4"}, "alpha must be a number, got '4'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        cuekit.with_background(np.zeros((1, 2, 2)), **options)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_maps_of_another_dtype(dtype):
    message = f"maps must have dtype float16 or float32 or float64, got {dtype}"
    with pytest.raises(TypeError, match=f"^{message}$"):
        cuekit.with_background(np.zeros((1, 2, 2), dtype), threshold=0.3)
