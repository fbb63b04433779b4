"""Suppression of absent classes against the oracle."""

import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, set_instruction_set
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
    same_bits,
    sizes,
    tags,
)

import cuekit
from cuekit import reference

# Of the order of a score, too small to change one, and none.
margins = st.sampled_from([1e-4, 0.0, 0.25, 1e-9, 1e-300])


@st.composite
def inputs(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    scores = draw(float_maps((*batch, channels, *size), draw(st.sampled_from(FLOATS))))
    return batch, scores, draw(tags((*batch, channels - 1)))


@given(inputs(), runs, margins)
def test_equals_oracle(arrays, run, margin):
    batch, scores, present = arrays
    result = run(cuekit.suppress_absent, scores, present, margin=margin)
    oracle = by_image(lambda s, p: reference.suppress_absent(s, p, margin), batch, scores, present)
    assert_equal(result, oracle)


@given(inputs(), runs, margins)
def test_no_absent_class_is_the_arg_max(arrays, run, margin):
    batch, scores, present = arrays
    result = run(cuekit.suppress_absent, scores, present, margin=margin)
    for index in np.ndindex(batch):
        kept = np.concatenate([[True], present[index]])
        if not kept.all():
            assert (result[index][~kept] < result[index][kept].max(0)).all()


@given(inputs(), runs)
def test_background_and_present_classes_keep_their_bits(arrays, run):
    batch, scores, present = arrays
    result = run(cuekit.suppress_absent, scores, present)
    kept = np.concatenate([np.ones((*batch, 1), dtype=bool), present], axis=-1)
    assert same_bits(result[kept], scores[kept])


@given(inputs(), runs)
def test_present_none_changes_nothing(arrays, run):
    _, scores, _ = arrays
    assert same_bits(run(cuekit.suppress_absent, scores, None), np.ascontiguousarray(scores))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ceiling", [1.0, 1000.0, -1000.0, 0.0, -0.0, 2.0**-14, -(2.0**-24)])
def test_margin_that_rounds_away(dtype, ceiling):
    """Then the next value below the ceiling keeps the class out."""
    scores = np.array([[[ceiling]], [[ceiling]]], dtype)
    result = cuekit.suppress_absent(scores, [False], margin=0)
    assert result[1] == np.nextafter(scores[0], scores.dtype.type(-np.inf))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_large_outputs(dtype, instruction_set):
    """Above 12 MB stores are non-temporal; channels do not begin at a cache line."""
    scores = np.random.default_rng(0).standard_normal((2, 17, 431, 433)).astype(dtype)
    present = np.arange(2 * 16).reshape(2, 16) % 5 == 0
    set_instruction_set(instruction_set)
    result = cuekit.suppress_absent(scores, present, threads=2)
    for image in range(2):
        oracle = reference.suppress_absent(scores[image], present[image], 1e-4)
        assert_equal(result[image], oracle)
    scores[1, 16, 430, 200] = np.nan
    with pytest.raises(ValueError, match=r"got nan at index \(1, 16, 430, 200\)"):
        cuekit.suppress_absent(scores, present)


def test_lower_scores_stay():
    scores = np.array([[[0.5]], [[-3.0]]])
    assert same_bits(cuekit.suppress_absent(scores, [False]), scores)


def test_longer_than_a_tile():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 4, 131, 127)).astype(np.float32)
    present = np.array([[True, False, True], [False, False, False]])
    oracle = by_image(lambda s, p: reference.suppress_absent(s, p, 1e-4), (2,), scores, present)
    for threads in (1, 2):
        assert_equal(cuekit.suppress_absent(scores, present, threads=threads), oracle)


@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 0, 2, 3, 3)])
def test_background_alone_or_empty(shape):
    scores = np.ones(shape, np.float16)
    present = np.zeros((*shape[:-3], shape[-3] - 1), dtype=bool)
    assert same_bits(cuekit.suppress_absent(scores, present), scores)


def test_no_background_channel():
    with pytest.raises(
        ValueError, match=r"^scores must have a background channel, got \(0, 2, 2\)$"
    ):
        cuekit.suppress_absent(np.zeros((0, 2, 2)), None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 130, 130), (2, 60, 17)])
def test_nonfinite_scores(value, dtype, position):
    """Of absent classes too, since they are returned."""
    scores = np.ones((3, 131, 131), dtype)
    scores[position] = value
    message = re.escape(f"scores must be finite, got {value} at index {position}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.suppress_absent(scores, [True, False])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", FLOATS)
def test_margins_beyond_the_dtype(dtype):
    scores = np.zeros((2, 1, 1), dtype)
    largest = float(np.finfo(dtype).max)
    result = cuekit.suppress_absent(scores, [False], margin=largest)
    np.testing.assert_array_equal(result.ravel(), [0, -largest])
    if dtype != "float64":
        for margin in (np.nextafter(largest, np.inf), 1e300):
            message = f"margin must fit in {dtype}, the dtype of scores, got {margin}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                cuekit.suppress_absent(scores, [False], margin=margin)


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (np.inf, ValueError), (-1e-9, ValueError), ("0", TypeError)],
)
def test_wrong_margin(value, error):
    with pytest.raises(error, match=f"^margin must be .*, got {value!r}$"):
        cuekit.suppress_absent(np.zeros((2, 2, 2)), None, margin=value)
