"""The labels of two runs, against the oracle and the published combination."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    reordered,
    sizes,
)

import cuekit
from cuekit import reference

# Two runs that nobody made have no order.
ANY_ORDER = pytest.mark.filterwarnings("ignore:high should have more background than low")


def published(high, low):
    """The last lines of IRN's and ToCo's scripts, for labels as they have them."""
    result = high.copy()
    result[high == 0] = 255
    result[low + high == 0] = 0
    return result.astype(np.uint8)


@st.composite
def label_pairs(draw):
    """Two label maps of few classes, of any integer dtypes, with and without ignored pixels."""
    shape = (*draw(batches), *draw(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = [0, 0, 1, 2, 20] + [100] * draw(st.booleans())

    def one():
        labels = rng.choice(names, shape).astype(draw(st.sampled_from(INTEGERS)))
        return draw(reordered(labels))

    return one(), one()


@ANY_ORDER
@given(label_pairs(), st.sampled_from(FRONT_ENDS))
def test_labels_equal_oracle(pair, front_end):
    high, low = pair
    wrapped = map(front_end.wrap, pair)
    result = front_end.unwrap(cuekit.confident_labels(*wrapped, ignore=100))
    batch = high.shape[:-2]
    expected = by_image(lambda *each: reference.confident_labels(*each, 100), batch, high, low)
    assert_equal(result, expected)
    assert result.flags.c_contiguous


@st.composite
def score_pairs(draw):
    """Scores of two runs with ties, and class ids or None."""
    batch, channels = draw(batches), draw(channel_counts)
    shape = (*batch, channels, *draw(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtypes = st.sampled_from(FLOATS)
    pair = [draw(reordered((rng.integers(0, 9, shape) / 8).astype(draw(dtypes)))) for _ in "hl"]
    classes = draw(st.none() | st.permutations(range(1, channels)).map(lambda ids: [0, *ids]))
    return *pair, classes


@ANY_ORDER
@given(score_pairs(), st.sampled_from(FRONT_ENDS))
def test_scores_equal_the_scripts(arrays, front_end):
    """Arg max, class ids, combination."""
    high, low, classes = arrays
    wrapped = front_end.wrap(high), front_end.wrap(low)
    result = front_end.unwrap(cuekit.confident_labels(*wrapped, classes=classes))
    keys = np.arange(high.shape[-3]) if classes is None else np.array(classes)
    best = [np.argmax(each, axis=-3) for each in (high, low)]
    assert_equal(result, published(*(keys[each] for each in best)))
    # The same from the channels of both runs, as IRN's refiner gives them.
    assert_equal(cuekit.confident_labels(*best, classes=keys), result)
    # And from label maps.
    labels = [cuekit.probabilities_to_labels(each, classes=classes) for each in (high, low)]
    assert_equal(cuekit.confident_labels(*labels), result)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.3, 0.05), (0.7, 0.25)]))
def test_two_thresholds_without_a_refiner(seed, thresholds):
    """ToCo's cam_to_label(ignore_mid=True): at most low, at most high, above."""
    maps = np.random.default_rng(seed).random((3, 6, 7), dtype=np.float32)
    maps[0, 0, :2] = thresholds  # a map that equals the threshold is not above it
    maps[1:, 0, :2] = 0
    high, low = (cuekit.with_background(maps, threshold=each) for each in thresholds)
    largest = maps.max(0)
    expected = maps.argmax(0) + 1
    expected[largest <= np.float32(thresholds[0])] = 255
    expected[largest <= np.float32(thresholds[1])] = 0
    np.testing.assert_array_equal(cuekit.confident_labels(high, low), expected)


def test_every_case():
    #                 both, low only, none; another class; in doubt
    high = np.array([[5, 0, 0, 5, 255, 0, 5, 255]])
    low = np.array([[5, 5, 0, 7, 0, 255, 0, 255]])
    np.testing.assert_array_equal(
        cuekit.confident_labels(high, low), [[5, 255, 0, 5, 255, 255, 5, 255]]
    )


def test_labels_whose_sum_overflows_are_not_background():
    """As they would be in uint8, where 128 + 128 is 0."""
    pair = np.array([[128, 0]], np.uint8), np.array([[128, 0]], np.uint8)
    np.testing.assert_array_equal(cuekit.confident_labels(*pair), [[128, 0]])


def test_classes_are_written_for_channels():
    high = np.array([[0, 1, 2, 0]])
    low = np.array([[0, 1, 2, 1]])
    result = cuekit.confident_labels(high, low, classes=[80, 0, 7])
    np.testing.assert_array_equal(result, [[80, 0, 7, 255]])
    assert result.dtype == np.uint8
    result = cuekit.confident_labels(high, low, classes=[80, 0, 1000], ignore=-1)
    np.testing.assert_array_equal(result, [[80, 0, 1000, -1]])
    assert result.dtype == np.int32
    # Pixels that are ignored in a run have no class.
    result = cuekit.confident_labels(high, np.where(low == 0, 255, low), classes=[80, 0, 7])
    np.testing.assert_array_equal(result, [[255, 0, 7, 255]])
    result = cuekit.confident_labels(np.where(high == 1, 255, high), low, classes=[80, 0, 7])
    np.testing.assert_array_equal(result, [[80, 255, 7, 255]])


def test_more_channels_than_255():
    scores = np.eye(300)[:, None]
    ids = [0, *range(1000, 1299)]
    np.testing.assert_array_equal(cuekit.confident_labels(scores, scores, classes=ids), [ids])


def test_runs_in_the_wrong_order_warn():
    maps = np.linspace(0, 1, 300).reshape(3, 10, 10)
    high, low = (cuekit.with_background(maps, threshold=each) for each in (0.9, 0.7))
    cuekit.confident_labels(high, low)
    with pytest.warns(UserWarning, match=r"^high should have more background than low, got less:"):
        cuekit.confident_labels(low, high)
    # A refiner may shift some pixels.
    low = np.zeros((10, 20), int)
    high = low.copy()
    high[0, :2] = 1
    cuekit.confident_labels(high, low)
    high[0, 2] = 1
    with pytest.warns(UserWarning, match=r"^high should have more background than low, got less:"):
        cuekit.confident_labels(high, low)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 3)])
def test_empty(shape):
    assert cuekit.confident_labels(np.zeros(shape, int), np.zeros(shape, int)).shape == shape
    scores = np.zeros((*shape[:-2], 2, *shape[-2:]))
    assert cuekit.confident_labels(scores, scores).shape == shape


LABELS = np.array([[0, 3]])
SCORES = np.zeros((2, 1, 2))


@pytest.mark.parametrize(
    ("high", "low", "options", "message"),
    [
        (LABELS, LABELS[0], {}, "low must have shape (..., H, W), got (2,)"),
        (LABELS, LABELS.T, {}, "low must have shape (1, 2) to match high, got (2, 1)"),
        (LABELS, SCORES, {}, "low must have any integer dtype, got float64"),
        (SCORES, LABELS, {}, "low must have dtype float16 or float32 or float64, got int64"),
        (SCORES, SCORES[:1], {}, "low must have shape (2, 1, 2) to match high, got (1, 1, 2)"),
        (SCORES[0], SCORES[0], {}, "high must have shape (..., K, H, W), got (1, 2)"),
        (SCORES[:0], SCORES[:0], {}, "high must have a background channel, got (0, 1, 2)"),
        (SCORES * np.nan, SCORES, {}, "high must be finite, got nan at index (0, 0, 0)"),
        (SCORES, SCORES + np.inf, {}, "low must be finite, got inf at index (0, 0, 0)"),
        (-LABELS, LABELS, {}, "high must be at least 0 or 255, got -3 at index (0, 1)"),
        (LABELS, -LABELS, {}, "low must be at least 0 or 255, got -3 at index (0, 1)"),
        (
            LABELS,
            LABELS,
            {"classes": [0, 7]},
            "high must be from 0 to 1 or 255, got 3 at index (0, 1)",
        ),
        (
            LABELS,
            LABELS,
            {"classes": []},
            "classes must have an entry for the background, got none",
        ),
        (
            LABELS,
            LABELS,
            {"classes": [0, 8, 9, 7], "ignore": 2},
            "ignore must not be a channel, 0 to 3, got 2: pass another",
        ),
        (LABELS, LABELS, {"classes": 3}, "classes must be a sequence of integers, got 3"),
        (
            SCORES,
            SCORES,
            {"classes": [0, 1, 2]},
            "classes must have 2 entries, one per channel of high, got 3",
        ),
        (
            SCORES,
            SCORES,
            {"ignore": 1},
            "classes must not contain 1, the label of ignored pixels, got it for channel 1; pass "
            "another ignore=",
        ),
        (
            LABELS,
            LABELS,
            {"ignore": 0},
            "ignore must not be 0, the label of the background, got 0",
        ),
        (
            LABELS.astype(np.int8),
            LABELS,
            {},
            "ignore must fit in int8, the dtype of high, got 255: convert high, or pass another "
            "ignore=",
        ),
        (LABELS, LABELS, {"ignore": None}, "ignore must be an integer, got None"),
        (LABELS > 0, LABELS, {}, "high must have dtype float16 or float32 or float64 or any"),
    ],
)
def test_wrong_arguments(high, low, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        cuekit.confident_labels(high, low, **options)
