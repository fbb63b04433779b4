"""Bilinear resizing of maps, against the oracle and against torch."""

import re

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    assert_equal,
    batches,
    channel_counts,
    float_maps,
    sides,
    sizes,
)

import cuekit
from cuekit import reference

targets = st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 70), (130, 1), (67, 41)]))


@st.composite
def inputs(draw):
    shape = (*draw(batches), draw(channel_counts), *draw(sizes))
    return draw(float_maps(shape, draw(st.sampled_from(FLOATS))))


def assert_close(result, expected, peak):
    """Equal up to rounding.

    Two interpolations in float64, in another order: 8 roundings of the largest value. One more
    rounding to the dtype of the result.
    """
    rtol = np.finfo(result.dtype).eps if result.dtype != np.float64 else 0
    np.testing.assert_allclose(
        result.astype(np.float64), expected, rtol=rtol, atol=8 * np.finfo(np.float64).eps * peak
    )


@given(inputs(), targets, st.sampled_from(FRONT_ENDS))
def test_equals_oracle(maps, size, front_end):
    result = front_end.unwrap(cuekit.resize_maps(front_end.wrap(maps), size))
    assert result.dtype == maps.dtype
    assert result.shape == (*maps.shape[:-2], *size)
    assert result.flags.c_contiguous
    expected = reference.resize_bilinear(maps, size)
    if result.size:
        assert_close(result, expected.astype(maps.dtype), np.abs(maps.astype(np.float64)).max())


@given(inputs())
def test_the_same_size_changes_nothing(maps):
    assert_equal(cuekit.resize_maps(maps, maps.shape[-2:]), maps)


@given(st.floats(-1e4, 1e4, width=16), sizes, targets, st.sampled_from(FLOATS))
def test_constant_maps_stay_constant(value, size, target, dtype):
    result = cuekit.resize_maps(np.full((2, *size), value, dtype), target)
    np.testing.assert_array_equal(result, value)


@given(st.integers(0, 2**32 - 1), sizes, targets)
def test_mirror_images_stay_mirror_images(seed, size, target):
    maps = np.random.default_rng(seed).random((2, *size))
    turned = cuekit.resize_maps(maps[..., ::-1, ::-1], target)[..., ::-1, ::-1]
    # Positions, up to 130, are rounded in float64.
    np.testing.assert_allclose(cuekit.resize_maps(maps, target), turned, rtol=0, atol=1e-13)


@given(st.integers(0, 2**32 - 1), sizes, targets, st.sampled_from(["float32", "float64"]))
def test_equals_torch(seed, size, target, dtype):
    torch = needs("torch")
    maps = np.random.default_rng(seed).random((3, *size)).astype(dtype)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], target, mode="bilinear", align_corners=False
    )[0].numpy()
    # Torch rounds positions to the dtype, three times, and values, six times.
    unit = np.finfo(dtype).eps / 2
    tolerance = unit * (3 * max(size) + 6)
    result = cuekit.resize_maps(maps, target)
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [(375, 500), (64, 65), (129, 1)])
def test_photo_sizes(dtype, size):
    """More rows than are interpolated in one pass."""
    maps = np.random.default_rng(0).random((2, 94, 125)).astype(dtype)
    expected = reference.resize_bilinear(maps, size)
    assert_close(cuekit.resize_maps(maps, size), expected.astype(dtype), 1)


def test_known_values():
    maps = np.array([[[0.0, 4.0], [8.0, 12.0]]])
    edges = [0, 1, 3, 4]  # clamped
    expected = [[x + 2 * y for x in edges] for y in edges]
    np.testing.assert_array_equal(cuekit.resize_maps(maps, (4, 4)), [expected])
    # No antialiasing: only the two pixels beside the centre count.
    np.testing.assert_array_equal(cuekit.resize_maps(np.array([[[9.0, 1, 3, 9]]]), (1, 1)), [[[2]]])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 3, 4), (0, 2, 3, 4), (0, 0, 3)])
def test_no_maps(shape):
    assert cuekit.resize_maps(np.zeros(shape, np.float32), (5, 6)).shape == (*shape[:-2], 5, 6)


def test_no_pixels():
    with pytest.raises(ValueError, match=r"^maps must have at least one pixel, got \(2, 0, 3\)$"):
        cuekit.resize_maps(np.zeros((2, 0, 3)), (5, 6))


@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_cues_have_a_function_of_their_own(dtype):
    message = (
        f"maps must have dtype float16 or float32 or float64, got {dtype}; resize_cues resizes cues"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        cuekit.resize_maps(np.zeros((1, 2, 2), dtype), (4, 4))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(dtype, value):
    maps = np.zeros((2, 3, 4), dtype)
    maps[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"^maps must be finite, got {value} at index \(1, 2, 3"):
        cuekit.resize_maps(maps, (6, 6))


def test_values_whose_differences_overflow():
    maps = np.array([[[1.7e308, -1.7e308]]])
    with pytest.raises(ValueError, match=r"^maps must be below .* in magnitude, got 1.7e\+308 at"):
        cuekit.resize_maps(maps, (1, 3))


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ((0, 3), ValueError, "size must be at least 1, got 0"),
        ((3,), TypeError, "size must be a pair (height, width), got (3,)"),
        (3, TypeError, "size must be a pair (height, width), got 3"),
        ((2.0, 3), TypeError, "size must be an integer, got 2.0"),
    ],
)
def test_wrong_size(size, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        cuekit.resize_maps(np.zeros((1, 2, 2)), size)
