"""Resizing cues against the oracle."""

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_equal, batches, by_image, channel_counts, masks, runs, sides, sizes

import cuekit
from cuekit import reference

RULES = ("nearest", "any", "half")


@st.composite
def inputs(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    dtype = draw(st.sampled_from(["bool", "uint8"]))
    return batch, draw(masks((*batch, channels, *size), dtype))


@given(inputs(), runs, st.tuples(sides, sides), st.sampled_from(RULES))
def test_equals_oracle(arrays, run, size, rule):
    batch, cues = arrays
    result = run(cuekit.resize_cues, cues, size=size, rule=rule)
    oracle = by_image(lambda c: reference.resize_cues(c, size, rule), batch, cues)
    assert_equal(result, oracle)


@pytest.mark.parametrize("size", [(500, 375), (41, 41), (1, 1), (700, 3)])
def test_photo_sizes(size):
    cues = np.random.default_rng(0).random((3, 41, 57)) < 0.3
    result = cuekit.resize_cues(cues, size, threads=2)
    assert_equal(result, reference.resize_cues(cues, size, "nearest"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", range(1, 9))
def test_every_short_row_to_every_short_row(rule, length):
    every = np.arange(2**length)[:, None] >> np.arange(length) & 1 != 0
    rows, columns = every[:, None, :], every[:, :, None]
    for out in range(1, 9):
        expected = reference.resize_cues(rows, (1, out), rule)
        assert_equal(cuekit.resize_cues(rows, (1, out), rule=rule), expected)
        turned = cuekit.resize_cues(columns, (out, 1), rule=rule)
        assert_equal(turned, np.ascontiguousarray(expected.swapaxes(1, 2)))


@given(inputs(), runs, st.sampled_from(RULES))
def test_same_size_changes_nothing(arrays, run, rule):
    _, cues = arrays
    result = run(cuekit.resize_cues, cues, size=cues.shape[-2:], rule=rule)
    assert_equal(result, cues != 0)


def test_half_is_exact():
    """A cell is on at half of its area, also where it cuts pixels: 3 pixels to 2 cells."""
    for pixels, cells in (
        ([1, 0, 0], [1, 0]),  # 1 of 1.5
        ([0, 1, 0], [0, 0]),  # 0.5 of 1.5
        ([0, 1, 1], [0, 1]),
    ):
        result = cuekit.resize_cues(np.array([[pixels]], np.uint8), (1, 2), rule="half")
        np.testing.assert_array_equal(result[0, 0], cells)
    two = np.array([[[1, 0], [0, 1]]], np.uint8)
    assert cuekit.resize_cues(two, (1, 1), rule="half").all()


def test_nearest_takes_the_pixel_under_the_centre():
    cues = np.eye(5, dtype=bool)[:, None]
    result = cuekit.resize_cues(cues, (1, 3))
    np.testing.assert_array_equal(result[:, 0].argmax(0), [0, 2, 4])  # centres 5/6, 5/2, 25/6
    pair = np.eye(4, dtype=bool)[:, None]
    np.testing.assert_array_equal(cuekit.resize_cues(pair, (1, 2))[:, 0].argmax(0), [1, 3])


@pytest.mark.parametrize("shape", [(0, 3, 3), (0, 2, 3, 3), (2, 0, 3, 3), (0, 0, 0)])
@pytest.mark.parametrize("rule", RULES)
def test_empty(shape, rule):
    result = cuekit.resize_cues(np.zeros(shape, dtype=bool), (4, 5), rule=rule)
    assert result.shape == (*shape[:-2], 4, 5)


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0)])
def test_pixels_from_no_pixels(shape):
    with pytest.raises(ValueError, match=r"^cues must have at least one pixel, got \(2, "):
        cuekit.resize_cues(np.zeros(shape, dtype=bool), (4, 5))


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((0, 3), ValueError),
        ((3, -1), ValueError),
        ((3,), TypeError),
        ((3, 3, 3), TypeError),
        (3, TypeError),
        (None, TypeError),
        ((3.0, 3), TypeError),
        ((True, 3), TypeError),
    ],
)
def test_wrong_size(size, error):
    with pytest.raises(error, match=r"^size must be .*, got "):
        cuekit.resize_cues(np.zeros((1, 2, 2), dtype=bool), size)


def test_size_from_a_shape():
    cues = np.ones((1, 2, 2), dtype=bool)
    assert cuekit.resize_cues(cues, [np.int64(3), 4]).shape == (1, 3, 4)
    torch = needs("torch")
    assert cuekit.resize_cues(cues, torch.zeros(3, 4).shape).shape == (1, 3, 4)


@pytest.mark.parametrize("rule", ["area", None, 0])
def test_unknown_rule(rule):
    with pytest.raises(
        ValueError, match=f"^rule must be one of 'nearest', 'any', 'half', got {rule!r}$"
    ):
        cuekit.resize_cues(np.zeros((1, 2, 2), dtype=bool), (1, 1), rule=rule)
