"""Thresholding against the oracle."""

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
    masks,
    runs,
    sizes,
    tags,
)

import cuekit
from cuekit import reference

thresholds = st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.5, 1.0, -0.5])


@st.composite
def inputs(draw):
    batch, classes, size = draw(batches), draw(channel_counts), draw(sizes)
    cams = draw(float_maps((*batch, classes, *size), draw(st.sampled_from(FLOATS))))
    kind = draw(st.sampled_from([None, "bool", *FLOATS]))
    background = None
    if kind == "bool":
        background = draw(masks((*batch, *size)))
    elif kind:
        background = draw(float_maps((*batch, *size), kind))
    present = draw(tags((*batch, classes)))
    return batch, cams, background, present


@given(inputs(), runs, thresholds, thresholds)
def test_equals_oracle(arrays, run, foreground_threshold, background_threshold):
    batch, *arrays = arrays
    result = run(
        cuekit.raw_cues,
        *arrays,
        foreground_threshold=foreground_threshold,
        background_threshold=background_threshold,
    )
    oracle = by_image(
        lambda c, b, p: reference.raw_cues(c, b, p, foreground_threshold, background_threshold),
        batch,
        *arrays,
    )
    assert_equal(result, oracle)


def test_defaults():
    cams = np.array([[[1.0, 0.31, 0.3, 0.29]], [[0.0, -1.0, 0.0, -0.0]]])
    background = np.array([[0.0, 0.19, 0.2, 0.21]])
    result = cuekit.raw_cues(cams, background)
    np.testing.assert_array_equal(
        result[:, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    )  # strictly below, strictly above, and nothing of a map that is nowhere positive


def test_no_background_leaves_channel_0_empty():
    result = cuekit.raw_cues(np.ones((2, 3, 3)))
    assert not result[0].any()
    assert result[1:].all()


def test_bool_background_is_the_cue_itself():
    background = np.array([[True, False]])
    result = cuekit.raw_cues(np.ones((1, 1, 2)), background, background_threshold=-7)
    np.testing.assert_array_equal(result[0], background)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 0, 3, 3)])
@pytest.mark.parametrize("dtype", [*FLOATS, "bool", None])
def test_empty(shape, dtype):
    *batch, classes, height, width = shape
    background = None if dtype is None else np.zeros((*batch, height, width), dtype)
    result = cuekit.raw_cues(np.zeros(shape), background)
    assert result.shape == (*batch, classes + 1, height, width)
    assert result.dtype == bool


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 32, 70), (1, 69, 69)])
def test_nonfinite_maps(value, dtype, position):
    cams = np.ones((2, 70, 71), dtype)
    cams[position] = value
    message = re.escape(f"cams must be finite, got {value} at index {position}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.raw_cues(cams)
    message = re.escape(f"background must be finite, got {value} at index {position[1:]}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.raw_cues(np.ones((2, 70, 71)), cams[position[0]])


def test_maps_of_absent_classes_are_not_read():
    cams = np.array([[[np.nan, np.inf]], [[1.0, 0.0]]])
    result = cuekit.raw_cues(cams, present=[False, True])
    np.testing.assert_array_equal(result[:, 0], [[0, 0], [0, 0], [1, 0]])


def test_background_of_another_shape():
    with pytest.raises(
        ValueError, match=r"^background must have shape \(3, 4\) to match cams, got \(4, 3\)$"
    ):
        cuekit.raw_cues(np.zeros((2, 3, 4)), np.zeros((4, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "complex64", "object"])
def test_background_of_another_dtype(dtype):
    with pytest.raises(TypeError, match=f"^background must have dtype .*, got {dtype}$"):
        cuekit.raw_cues(np.zeros((2, 3, 4)), np.zeros((3, 4), dtype))


@pytest.mark.parametrize("name", ["foreground_threshold", "background_threshold"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (np.inf, ValueError), ("0.3", TypeError), (None, TypeError)],
)
def test_wrong_threshold(name, value, error):
    with pytest.raises(error, match=rf"^{name} must be .*, got {value!r}$"):
        cuekit.raw_cues(np.zeros((1, 2, 2)), **{name: value})
