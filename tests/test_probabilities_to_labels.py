"""One label per pixel from probabilities, against the oracle and CLIP-ES's steps."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    batches,
    by_image,
    channel_counts,
    float_maps,
    reordered,
    sizes,
    tags,
)

import cuekit
from cuekit import reference


@st.composite
def inputs(draw):
    """Probabilities with ties, tags or None, class ids or None."""
    batch, channels = draw(batches), draw(channel_counts)
    shape = (*batch, channels, *draw(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.random(shape) ** 0.2
    if draw(st.booleans()):
        values = np.round(values * 20) / 20
    probabilities = draw(reordered(values.astype(draw(st.sampled_from(FLOATS)))))
    present = draw(st.none() | tags((*batch, channels - 1)))
    labels = st.integers(0, 254) | st.integers(-(2**31), 2**31 - 1).filter(lambda x: x != 255)
    classes = draw(st.none() | st.lists(labels, min_size=channels, max_size=channels))
    return batch, probabilities, present, classes


@given(inputs(), st.sampled_from(FRONT_ENDS), st.sampled_from([None, 0, 0.8, 0.95, 1]))
def test_equals_oracle(arrays, front_end, confidence):
    batch, probabilities, present, classes = arrays
    before = probabilities.copy()
    result = front_end.unwrap(
        cuekit.probabilities_to_labels(
            front_end.wrap(probabilities), present=present, classes=classes, confidence=confidence
        )
    )
    np.testing.assert_array_equal(probabilities, before)
    channels = probabilities.shape[-3]
    ids = np.arange(channels) if classes is None else np.array(classes)
    every = np.ones((*batch, channels - 1), dtype=bool) if present is None else present
    expected = by_image(
        lambda p, t: reference.probabilities_to_labels(p, t, ids, confidence, 255),
        batch,
        probabilities,
        every,
    )
    np.testing.assert_array_equal(result, expected)
    assert result.shape == expected.shape
    assert result.dtype == (np.uint8 if 0 <= ids.min() <= ids.max() <= 255 else np.int32)


@given(st.integers(0, 2**32 - 1), st.sampled_from(FLOATS), sizes)
def test_equals_clip_es(seed, dtype, size):
    """eval_cam_with_crf.py: labels[confidence < 0.95] = 255, with values around 0.95."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-2, 3, (3, *size))
    values = np.array(0.95).astype(dtype) + steps * np.finfo(dtype).eps
    probabilities = values.astype(dtype)
    keys = np.array([0, 3, 15])
    expected = keys[np.argmax(probabilities, axis=0)]
    expected[np.max(probabilities, axis=0) < 0.95] = 255
    result = cuekit.probabilities_to_labels(probabilities, classes=keys, confidence=0.95)
    np.testing.assert_array_equal(result, expected)


@given(st.data(), st.sampled_from(FLOATS))
def test_any_scores_where_no_confidence_is_asked_for(data, dtype):
    scores = data.draw(float_maps((data.draw(channel_counts), 5, 6), dtype))
    result = cuekit.probabilities_to_labels(scores)
    np.testing.assert_array_equal(result, np.argmax(scores, axis=0))


def test_ties_go_to_the_lowest_channel():
    assert cuekit.probabilities_to_labels(np.full((4, 1, 1), 0.25)) == 0
    assert cuekit.probabilities_to_labels(np.array([[[0.0]], [[0.5]], [[0.5]]])) == 1
    assert cuekit.probabilities_to_labels(np.array([[[-0.0]], [[0.0]]])) == 0


def test_absent_classes_are_not_written():
    probabilities = np.array([[[0.1]], [[0.7]], [[0.2]]])
    assert cuekit.probabilities_to_labels(probabilities, present=[0, 1]) == 2
    assert cuekit.probabilities_to_labels(probabilities, present=[0, 0]) == 0
    # Its probability counts for nothing.
    result = cuekit.probabilities_to_labels(probabilities, present=[0, 1], confidence=0.5)
    assert result == 255
    # Scores below 0, too.
    assert cuekit.probabilities_to_labels(np.array([[[-5.0]], [[-1.0]]]), present=[0]) == 0


@pytest.mark.parametrize("channels", [255, 256, 257, 300])
def test_more_channels_than_a_byte_counts(channels):
    probabilities = np.eye(channels)[:, None]
    result = cuekit.probabilities_to_labels(probabilities, ignore=None)
    np.testing.assert_array_equal(result, [np.arange(channels)])
    assert result.dtype == (np.uint8 if channels <= 256 else np.int32)


def test_255_may_be_a_class_and_another_label_ignored():
    probabilities = np.array([[[0.9, 0.6, 0.1]], [[0.1, 0.4, 0.9]]])
    options = {"classes": [0, 255], "confidence": 0.8}
    result = cuekit.probabilities_to_labels(probabilities, ignore=7, **options)
    np.testing.assert_array_equal(result, [[0, 7, 255]])
    assert result.dtype == np.uint8
    result = cuekit.probabilities_to_labels(probabilities, ignore=-1, **options)
    np.testing.assert_array_equal(result, [[0, -1, 255]])
    assert result.dtype == np.int32


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 3, 0), (0, 2, 3, 3)])
def test_empty(shape):
    result = cuekit.probabilities_to_labels(np.zeros(shape), confidence=0.5)
    assert result.shape == (*shape[:-3], *shape[-2:])
    assert result.dtype == np.uint8


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("confidence", [None, 0.5])
def test_what_is_not_finite(dtype, value, confidence):
    probabilities = np.zeros((2, 2, 3), dtype)
    probabilities[1, 0, 2] = value
    message = f"probabilities must be finite, got {value} at index (1, 0, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cuekit.probabilities_to_labels(probabilities, confidence=confidence)


PROBABILITIES = np.zeros((3, 2, 2))


@pytest.mark.parametrize(
    ("probabilities", "options", "message"),
    [
        (
            PROBABILITIES[:0],
            {},
            "probabilities must have a background channel, got (0, 2, 2)",
        ),
        (
            PROBABILITIES + 4,
            {"confidence": 0.95},
            "probabilities must lie in [0, 1], got 4.0 at index (0, 0, 0): apply softmax first",
        ),
        (
            PROBABILITIES.astype(int),
            {},
            "probabilities must have dtype float16 or float32 or float64, got int64",
        ),
        (PROBABILITIES, {"confidence": 95}, "confidence must be at most 1, got 95.0"),
        (PROBABILITIES, {"confidence": -0.1}, "confidence must be at least 0, got -0.1"),
        (PROBABILITIES, {"confidence": "0.9"}, "confidence must be a number, got '0.9'"),
        (
            PROBABILITIES,
            {"confidence": 0.9, "ignore": None},
            "confidence=0.9 needs a label to ignore, got ignore=None",
        ),
        (PROBABILITIES, {"ignore": 2.0}, "ignore must be an integer, got 2.0"),
        (
            PROBABILITIES,
            {"classes": [0, 1]},
            "classes must have 3 entries, one per channel of probabilities, got 2",
        ),
        (
            PROBABILITIES,
            {"classes": [0, 255, 1]},
            "classes must not contain 255, the label of ignored pixels, got it for channel 1; pass "
            "another ignore=",
        ),
        (
            PROBABILITIES,
            {"classes": [0, 1, 2**31]},
            "classes must fit in int32, got [0, 1, 2147483648]",
        ),
        (
            PROBABILITIES,
            {"ignore": 2**31, "confidence": 0.5},
            "classes and ignore must fit in int32, got [0, 1, 2, 2147483648]",
        ),
        (
            PROBABILITIES,
            {"present": [1, 1, 1]},
            "present must have shape (2,) to match probabilities, got (3,); the background is not "
            "listed",
        ),
    ],
)
def test_wrong_arguments(probabilities, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        cuekit.probabilities_to_labels(probabilities, **options)
