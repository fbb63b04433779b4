"""Files, metrics and losses: wrong answers without a word, and refusals for no good reason."""

import re
import warnings

import numpy as np
import pytest

from cuekit import metrics

RNG = np.random.default_rng(0)


def raises(error, *parts):
    """An error whose message has these parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# ------------------------------------------------------------------------------ masks of 0 and 255


OBJECT = np.zeros((20, 30), np.uint8)
OBJECT[4:15, 6:20] = 1
MASK = OBJECT * np.uint8(255)
HINT = "truth holds nothing but class 0 and 255, which is left out: if 255 marks the object"


def test_masks_of_0_and_255_are_warned_of():
    for prediction in (MASK, 255 - MASK, OBJECT):
        with pytest.warns(UserWarning, match=HINT):
            metrics.confusion_matrix(MASK, prediction, 2)
    with pytest.warns(UserWarning, match=HINT):
        metrics.confusion_matrix([MASK, MASK.T], [MASK, MASK.T], 2)
    with pytest.warns(UserWarning, match=HINT):
        metrics.cue_statistics(np.stack([MASK == 0, MASK > 0]), MASK)


def test_the_hint_leads_to_the_right_result():
    matrix = metrics.confusion_matrix(MASK // 255, (255 - MASK) // 255, 2)
    np.testing.assert_array_equal(metrics.iou(matrix), [0, 0])
    with raises(ValueError, "truth must be 0 to 1, got 255: for masks of 0 and 255, pass mask //"):
        metrics.confusion_matrix(MASK, MASK, 2, ignore=None)


def test_python_shows_the_warning_once(recwarn):
    warnings.simplefilter("default")
    for size in (3, 5, 9):
        metrics.confusion_matrix(np.pad(MASK, size), np.pad(MASK, size), 2)
    assert len(recwarn) == 1


def photos_of_one_class():
    background = np.zeros((20, 30), np.uint8)
    yield background
    yield np.full((20, 30), 255, np.uint8)  # nothing is known
    yield np.where(OBJECT, 255, 12).astype(np.uint8)  # a cow among cows that are not annotated
    crop = np.zeros((50, 60), np.uint8)
    crop[0, :20] = 255  # a sliver of the border of an object outside the crop
    yield crop
    border = OBJECT.copy()
    border[4, 6:20] = 255
    yield border


@pytest.mark.parametrize("truth", list(photos_of_one_class()))
def test_photos_of_one_class_are_not(truth, recwarn):
    metrics.confusion_matrix(truth, truth)
    metrics.cue_statistics(np.arange(21)[:, None, None] == truth, truth)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("ignore", "dtype"), [(255, "uint8"), (200, "uint8"), (-1, "int8"), (-1, "int64"), (2, "uint8")]
)
def test_ignore_is_any_integer(ignore, dtype):
    truth = np.array([[0, 1, 1, 2, 0, 1, 2]]).astype(dtype)
    prediction = np.array([[0, 1, 0, 1, 1, 0, 0]]).astype(dtype)
    truth[0, 3] = ignore
    left_out = truth == ignore
    expected = metrics.confusion_matrix(truth[:, ~left_out[0]], prediction[:, ~left_out[0]], 3)
    matrix = metrics.confusion_matrix(truth, prediction, 3, ignore=ignore)
    np.testing.assert_array_equal(matrix, expected)
    cues = np.arange(3)[:, None, None] == prediction
    statistics = metrics.cue_statistics(cues, truth, ignore=ignore)
    np.testing.assert_array_equal(
        statistics.recall, metrics._ratio(np.diag(expected), expected.sum(1))
    )


@pytest.mark.parametrize("ignore", [None, -1, 256, 2**70, -(2**70)])
def test_nothing_is_left_out_where_the_dtype_has_no_such_value(ignore):
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    matrix = metrics.confusion_matrix(truth, truth, 256, ignore=ignore)
    np.testing.assert_array_equal(matrix, np.eye(256))


def test_other_values_to_ignore_are_named():
    minus = np.array([[0, 1, -1]])
    for function in (
        lambda **options: metrics.confusion_matrix(minus, np.abs(minus), 2, **options),
        lambda **options: metrics.cue_statistics(np.ones((2, 1, 3), bool), minus, **options),
    ):
        with raises(ValueError, "truth must be 0 to 1 or 255, got -1: pass ignore=-1 if it marks"):
            function()
        with raises(ValueError, "truth must be 0 to 1, got -1"):
            function(ignore=None)
        with raises(TypeError, "ignore must be an integer, got 'x'"):
            function(ignore="x")
        function(ignore=-1)


# ---------------------------------------------------------------------------------- predicted 255


TRUTH = RNG.choice([0, 1, 2, 3, 255], (2, 30, 40))
PREDICTION = RNG.choice([0, 1, 2, 3, 255], (2, 30, 40))


def test_unknown_pixels_can_be_left_out():
    expected = metrics.confusion_matrix(np.where(PREDICTION == 255, 255, TRUTH), PREDICTION, 4)
    matrix = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="ignore")
    np.testing.assert_array_equal(matrix, expected)


def test_unknown_pixels_can_be_mistakes():
    matrix = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="mistake")
    left_out = metrics.confusion_matrix(TRUTH, PREDICTION, 4, unknown_as="ignore")
    np.testing.assert_array_equal(matrix[:, :4], left_out)
    unknown = [(PREDICTION[c == TRUTH] == 255).sum() for c in range(4)]
    np.testing.assert_array_equal(matrix[:, 4], unknown)
    # As if they were predicted as a fifth class, which is not averaged over.
    fifth = np.where(PREDICTION == 255, 4, PREDICTION)
    same = metrics.confusion_matrix(TRUTH, fifth, 5)
    np.testing.assert_array_equal(metrics.iou(matrix), metrics.iou(same)[:4])
    parts = [
        metrics.confusion_matrix(*each, 4, unknown_as="mistake")
        for each in zip(TRUTH, PREDICTION, strict=True)
    ]
    np.testing.assert_array_equal(sum(parts), matrix)


def test_a_class_id_can_be_ignored():
    truth, prediction = np.array([[1, 2, 2]]), np.array([[2, 2, 1]])
    for unknown_as, column in ((0, 0), (1, 1), ("mistake", 3)):
        matrix = metrics.confusion_matrix(truth, prediction, 3, ignore=2, unknown_as=unknown_as)
        assert matrix[1, column] == matrix.sum() == 1
    assert not metrics.confusion_matrix(truth, prediction, 3, ignore=2, unknown_as="ignore").any()


def test_a_large_unknown_class_does_not_wrap():
    truth = np.zeros((1, 2), np.uint8)
    matrix = metrics.confusion_matrix(truth, truth + np.uint8(255), 300, unknown_as=299)
    assert matrix[0, 299] == matrix.sum() == 2
    with raises(ValueError, "prediction must be 0 to 1 or 255, got 18446744073709551615"):
        metrics.confusion_matrix(truth, np.full((1, 2), 2**64 - 1, np.uint64), 2)


def test_photos_in_lists_are_counted_together():
    truths = [TRUTH[0], TRUTH[1, :9, :7]]
    predictions = [PREDICTION[0], PREDICTION[1, :9, :7]]
    whole = metrics.confusion_matrix(truths, predictions, 4)
    parts = [metrics.confusion_matrix(*pair, 4) for pair in zip(truths, predictions, strict=True)]
    np.testing.assert_array_equal(whole, sum(parts))
    assert metrics.confusion_matrix([], [], 4).sum() == 0
    cues = [np.arange(4)[:, None, None] == p for p in predictions]
    statistics = metrics.cue_statistics(cues, truths)
    kept = metrics.confusion_matrix(truths, predictions, 4, unknown_as="ignore")
    np.testing.assert_array_equal(statistics.precision, np.diag(kept) / kept.sum(0))
    with raises(ValueError, "truth and prediction must be lists of equal length", "2 items and 1"):
        metrics.confusion_matrix(truths, predictions[:1], 4)
    with raises(ValueError, "must be lists of equal length where one is a list", "one array"):
        metrics.confusion_matrix(truths, PREDICTION, 4)
    with raises(ValueError, "truth[1] must be 0 to 2 or 255, got 3"):
        metrics.confusion_matrix([truths[0] * 0, truths[1]], [truths[0] * 0, truths[1]], 3)
    with raises(TypeError, "truth[0] must be a NumPy array or a torch tensor, got list"):
        metrics.confusion_matrix([[0, 1]], [[0, 1]], 2)
    with raises(ValueError, "cues[1] must have 4 classes to match cues[0], got 3"):
        metrics.cue_statistics([cues[0], cues[1][:3]], truths)


def test_heat_maps_are_no_cues():
    heat = (RNG.random((2, 5, 6)) * 60).astype(np.uint8)
    with raises(ValueError, "cues must hold 0 and 1, or 0 and 255"):
        metrics.cue_statistics(heat, np.zeros((5, 6), int))
