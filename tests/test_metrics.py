"""Confusion matrices, IoU, cue statistics and bootstrap intervals, on answers known by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FRONT_ENDS, INTEGERS, memory_orders

from cuekit import metrics


@st.composite
def label_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(3, 4), (1, 1), (2, 3, 4), (0, 3), (0, 3, 4), (2, 2, 3, 4)]))
    dtypes = st.sampled_from([d for d in INTEGERS if d != "int8"])  # which has no 255
    values = [0, 1, 2, 3, 255]
    return [rng.choice(values, shape).astype(draw(dtypes)) for _ in range(2)]


@given(label_pairs(), st.integers(0, 3), st.sampled_from(FRONT_ENDS))
def test_confusion_matrix_counts_pixels(pair, unknown_as, front_end):
    truth, prediction = pair
    matrix = metrics.confusion_matrix(
        front_end.wrap(truth), front_end.wrap(prediction), 4, unknown_as=unknown_as
    )
    expected = np.zeros((4, 4), np.int64)
    for true, predicted in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != 255:
            expected[true, unknown_as if predicted == 255 else predicted] += 1
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


@given(label_pairs())
def test_matrices_of_photos_add_up(pair):
    if pair[0].ndim == 3:
        whole = metrics.confusion_matrix(*pair, 4)
        parts = [metrics.confusion_matrix(a, b, 4) for a, b in zip(*pair, strict=True)]
        np.testing.assert_array_equal(whole, sum(parts, np.zeros((4, 4), int)))


def test_confusion_matrix_of_any_memory_order():
    truth = np.random.default_rng(0).integers(0, 4, (5, 6))
    prediction = np.roll(truth, 1)
    expected = metrics.confusion_matrix(truth, prediction, 4)
    for a, b in zip(memory_orders(truth), memory_orders(prediction)[::-1], strict=True):
        np.testing.assert_array_equal(metrics.confusion_matrix(a, b, 4), expected)


def test_int8_labels_and_a_large_unknown_class():
    zeros = np.zeros((2, 2), np.int8)
    assert metrics.confusion_matrix(zeros, zeros, 201, unknown_as=200)[0, 0] == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[-1]], [[0]], 2), ValueError, "truth must be 0 to 1 or 255, got -1"),
        (([[0]], [[2]], 2), ValueError, "prediction must be 0 to 1 or 255, got 2"),
        (([[0]], [[256]], 2), ValueError, "prediction must be 0 to 1 or 255, got 256"),
        (([[0]], [[0, 1]], 2), ValueError, r"prediction must have shape \(1, 1\) to match truth"),
        (([0], [0], 2), ValueError, r"truth must have shape \(..., H, W\), got \(1,\)"),
        (([[0.0]], [[0]], 2), TypeError, "truth must have any integer dtype, got float64"),
        (([[0]], [[True]], 2), TypeError, "prediction must have any integer dtype, got bool"),
        (([[0]], [[0]], 0), ValueError, "num_classes must be at least 1, got 0"),
        (([[0]], [[0]], 2.0), TypeError, "num_classes must be an integer, got 2.0"),
        (([[0]], [[0]], 2**40), ValueError, "num_classes must be at most 4096, got 1099511627776"),
    ],
)
def test_wrong_labels(arguments, error, message):
    truth, prediction, num_classes = arguments
    with pytest.raises(error, match=f"^{message}"):
        metrics.confusion_matrix(np.array(truth), np.array(prediction), num_classes)


def test_wrong_unknown_class():
    labels = np.zeros((1, 1), int)
    with pytest.raises(ValueError, match=r"^unknown_as must be less than 2, got 2$"):
        metrics.confusion_matrix(labels, labels, 2, unknown_as=2)
    with pytest.raises(ValueError, match=r"^unknown_as must be at least 0, got -1$"):
        metrics.confusion_matrix(labels, labels, 2, unknown_as=-1)
    with pytest.raises(ValueError, match=r"^unknown_as must be one of 'ignore', 'mistake', got 'x"):
        metrics.confusion_matrix(labels, labels, 2, unknown_as="x")
    for wrong in (None, 0.5, True, [0]):
        with pytest.raises(TypeError, match=r"^unknown_as must be an integer, got "):
            metrics.confusion_matrix(labels, labels, 2, unknown_as=wrong)


# Class 2 is in the prediction only, class 3 in neither.
MATRIX = np.array([[6, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_iou():
    np.testing.assert_array_equal(metrics.iou(MATRIX), [6 / 10, 2 / 5, 0, np.nan])
    stack = np.stack([MATRIX, np.zeros_like(MATRIX), np.eye(4, dtype=int)])
    np.testing.assert_array_equal(
        metrics.iou(stack), [metrics.iou(MATRIX), np.full(4, np.nan), np.ones(4)]
    )


def test_mean_iou():
    assert metrics.mean_iou(MATRIX) == pytest.approx((0.6 + 0.4 + 0) / 3, rel=1e-15)  # one rounding
    assert metrics.mean_iou(MATRIX, [0, 3]) == 0.6
    assert np.isnan(metrics.mean_iou(MATRIX, [3]))
    # A class left out of the mean still counts where it was mistaken for one in it.
    assert metrics.mean_iou(MATRIX, [1]) == 2 / 5
    stack = np.stack([MATRIX, np.zeros_like(MATRIX)])
    np.testing.assert_array_equal(metrics.mean_iou(stack), [metrics.mean_iou(MATRIX), np.nan])


def test_mean_iou_over_the_classes_in_the_truth():
    assert metrics.mean_iou(MATRIX, in_truth=True) == (0.6 + 0.4) / 2
    assert metrics.mean_iou(MATRIX, [0, 2], in_truth=True) == 0.6
    assert np.isnan(metrics.mean_iou(MATRIX, [2, 3], in_truth=True))
    with pytest.raises(TypeError, match=r"^in_truth must be True or False, got 1$"):
        metrics.mean_iou(MATRIX, in_truth=1)


def test_accuracies():
    assert metrics.pixel_accuracy(MATRIX) == 8 / 12
    assert metrics.mean_accuracy(MATRIX) == (6 / 8 + 2 / 4) / 2
    assert metrics.mean_accuracy(MATRIX, [0, 2]) == 6 / 8
    stack = np.stack([MATRIX, np.zeros_like(MATRIX)])
    np.testing.assert_array_equal(metrics.pixel_accuracy(stack), [8 / 12, np.nan])
    np.testing.assert_array_equal(metrics.mean_accuracy(stack), [5 / 8, np.nan])


# The same with pixels of no class in a last column: they are missed, and nothing else.
WITH_UNKNOWN = np.concatenate([MATRIX, [[2], [4], [0], [0]]], axis=1)


def test_predictions_of_no_class():
    np.testing.assert_array_equal(metrics.iou(WITH_UNKNOWN), [6 / 12, 2 / 9, 0, np.nan])
    assert metrics.mean_iou(WITH_UNKNOWN, [0, 1]) == (6 / 12 + 2 / 9) / 2
    assert metrics.pixel_accuracy(WITH_UNKNOWN) == 8 / 18
    assert metrics.mean_accuracy(WITH_UNKNOWN) == (6 / 10 + 2 / 8) / 2
    equal = [WITH_UNKNOWN] * 3
    assert metrics.bootstrap(equal).value == metrics.mean_iou(WITH_UNKNOWN)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_matrices_may_be_in_a_list(front_end):
    stack = photos()
    listed = [front_end.wrap(matrix) for matrix in stack]
    for function in FUNCTIONS:
        np.testing.assert_array_equal(function(listed), function(stack))
        np.testing.assert_array_equal(function(stack[0].tolist()), function(stack[0]))
    assert metrics.bootstrap(listed) == metrics.bootstrap(stack)


FUNCTIONS = [metrics.iou, metrics.mean_iou, metrics.pixel_accuracy, metrics.mean_accuracy]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_matrix_must_be_square_and_hold_counts(function):
    with pytest.raises(ValueError, match=r"^matrix must have shape \(..., K, K\), got \(3, 2\)$"):
        function(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"^matrix must be matrices of one shape"):
        function([np.zeros((2, 2)), np.zeros((3, 3))])
    with pytest.raises(ValueError, match=r"^matrix must be matrices of one shape"):
        function([[1, 2], [3]])
    with pytest.raises(TypeError, match=r"^matrix\[1\] must be a NumPy array or a torch tensor"):
        function([np.zeros((2, 2)), "x"])
    with pytest.raises(TypeError, match=r"^matrix must be a NumPy array .* got NoneType"):
        function(None)
    for wrong in (-1, np.nan, np.inf):
        matrix = np.eye(3)
        matrix[1, 2] = wrong
        with pytest.raises(ValueError, match=f"^matrix must hold finite counts, .* got {wrong}"):
            function(matrix)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "uint16"])
def test_counts_do_not_depend_on_the_dtype(dtype):
    """Sums of 40 000 are infinite in float16, and above 2**24 float32 has no odd numbers."""
    top = {"float16": 40_000, "float32": 2**24, "float64": 2**40, "uint8": 255, "int8": 127}
    matrix = np.full((2, 2), top.get(dtype, 2**16 - 1), dtype)
    np.testing.assert_array_equal(metrics.iou(matrix), [1 / 3, 1 / 3])
    assert metrics.mean_iou(matrix) == 1 / 3
    assert metrics.pixel_accuracy(matrix) == metrics.mean_accuracy(matrix) == 1 / 2
    matrix[0, 1] = 1
    exact = matrix.astype(np.int64)
    assert metrics.mean_iou(matrix) == metrics.mean_iou(exact)
    assert metrics.bootstrap(matrix[None]) == metrics.bootstrap(exact[None])


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "255"])
def test_cue_statistics(front_end, dtype):
    # Pixels: background right; class 1 on 1; class 1 on background; both on 2; ignored; no cue.
    truth = np.array([[0, 1, 0, 2, 255, 2]])
    cues = np.array([[[1, 0, 0, 0, 1, 0]], [[0, 1, 1, 1, 1, 0]], [[0, 0, 0, 1, 0, 0]]])
    cues = cues.astype("bool" if dtype == "bool" else "uint8") * (255 if dtype == "255" else 1)
    cues = cues.astype("bool" if dtype == "bool" else "uint8")
    result = metrics.cue_statistics(front_end.wrap(cues), front_end.wrap(truth))
    np.testing.assert_array_equal(result.precision, [1, 1 / 3, 1])
    np.testing.assert_array_equal(result.recall, [1 / 2, 1, 1 / 2])
    assert result.foreground_precision == 2 / 4
    assert result.foreground_recall == 2 / 3
    assert result.coverage == 4 / 5


def test_cue_statistics_over_photos_pool_their_pixels():
    rng = np.random.default_rng(0)
    cues, truth = rng.random((3, 4, 5, 6)) < 0.3, rng.integers(0, 4, (3, 5, 6))
    side_by_side = np.concatenate(list(cues), axis=2), np.concatenate(list(truth), axis=1)
    for a, b in zip(
        metrics.cue_statistics(cues, truth), metrics.cue_statistics(*side_by_side), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_cue_statistics_of_nothing():
    result = metrics.cue_statistics(np.zeros((2, 3, 3), dtype=bool), np.full((3, 3), 255))
    assert all(np.isnan(value).all() for value in result)


def test_cue_statistics_shapes():
    with pytest.raises(ValueError, match=r"^truth must have shape \(3, 4\) to match cues, got"):
        metrics.cue_statistics(np.zeros((2, 3, 4), dtype=bool), np.zeros((4, 3), int))


def photos(count=50, seed=0):
    return np.random.default_rng(seed).integers(1, 9, (count, 3, 3))


def test_bootstrap_of_equal_photos_has_no_spread():
    equal = np.broadcast_to(np.array([[3, 1], [0, 4]]), (9, 2, 2))
    value, low, high = metrics.bootstrap(equal)
    assert value == metrics.mean_iou(equal[0])
    # Sums of equal matrices have equal ratios up to a rounding each.
    assert low == pytest.approx(value, rel=1e-15)
    assert high == pytest.approx(value, rel=1e-15)


def test_bootstrap_interval_is_that_of_the_resampled_sums():
    matrices = photos()
    result = metrics.bootstrap(matrices, samples=500, confidence=0.9, seed=3)
    rng = np.random.default_rng(7)
    draws = [metrics.mean_iou(matrices[rng.integers(0, 50, 50)].sum(0)) for _ in range(5000)]
    low, high = np.quantile(draws, [0.05, 0.95])
    assert result.value == metrics.mean_iou(matrices.sum(0))
    # Quantiles of 500 draws: their standard error is a tenth of the interval's length; this is 4.
    assert abs(result.low - low) < 0.4 * (high - low)
    assert abs(result.high - high) < 0.4 * (high - low)
    assert result.low < result.value < result.high


def test_bootstrap_seed():
    matrices = photos()
    assert metrics.bootstrap(matrices, seed=1) == metrics.bootstrap(matrices, seed=1)
    assert metrics.bootstrap(matrices, seed=1) != metrics.bootstrap(matrices, seed=2)


def test_bootstrap_difference_is_paired():
    """The same photos are drawn for both: a constant gain has a narrow interval."""
    matrices = photos()
    assert metrics.bootstrap(matrices, matrices) == (0, 0, 0)
    better = matrices + 2 * np.eye(3, dtype=int)
    value, low, high = metrics.bootstrap(better, matrices)
    assert value == metrics.mean_iou(better.sum(0)) - metrics.mean_iou(matrices.sum(0))
    assert 0 < low <= value <= high
    alone = metrics.bootstrap(better)
    assert high - low < alone.high - alone.low


def test_bootstrap_confidence_and_statistic():
    matrices = photos()
    wide = metrics.bootstrap(matrices, confidence=0.99)
    narrow = metrics.bootstrap(matrices, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    total = metrics.bootstrap(matrices, statistic=lambda m: m.sum((-2, -1)))
    assert total.value == matrices.sum()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_bootstrap_of_either_framework(front_end):
    matrices = photos()
    wrapped = front_end.wrap(matrices)
    assert metrics.bootstrap(wrapped, wrapped + 1) == metrics.bootstrap(matrices, matrices + 1)


def test_bootstrap_of_a_class_in_few_photos():
    """Draws without the class have no IoU and are left out, without a warning."""
    matrices = np.zeros((4, 2, 2), int)
    matrices[0, 1, 1] = 5
    result = metrics.bootstrap(matrices, statistic=lambda m: metrics.mean_iou(m, [1]))
    assert result == (1, 1, 1)


def test_bootstrap_where_the_statistic_is_nowhere_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metrics.bootstrap(np.zeros((3, 2, 2), int))
    assert np.isnan(result).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"matrices": np.zeros((0, 2, 2))}, ValueError, r"matrices must have .* N > 0, got \(0"),
        ({"matrices": np.zeros((2, 2))}, ValueError, r"matrices must have .*, got \(2, 2\)"),
        ({"matrices": np.zeros((3, 2, 1))}, ValueError, r"matri.* must have .*, got \(3, 2, 1\)"),
        ({"other": np.zeros((4, 3, 3))}, ValueError, r"other must have .* to match matrices, got"),
        ({"other": -photos()}, ValueError, "other must hold finite counts, at least 0, got -"),
        ({"statistic": "x"}, TypeError, "statistic must be a function of matrices, got 'x'"),
        ({"statistic": np.sum}, ValueError, "statistic must give one number for each matrix, sha"),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"confidence": 1}, ValueError, "confidence must be less than 1, got 1"),
        ({"confidence": -0.1}, ValueError, "confidence must be at least 0, got -0.1"),
        ({"confidence": "0.9"}, TypeError, "confidence must be a number, got '0.9'"),
    ],
)
def test_wrong_bootstrap_options(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        metrics.bootstrap(**{"matrices": photos(), **options})


def test_mean_iou_of_classes_that_are_not_there():
    with pytest.raises(ValueError, match="classes must be less than 2"):
        metrics.mean_iou(np.eye(2, dtype=int), [7])
    with pytest.raises(ValueError, match=r"classes\[0\] must be at least 0, got -1"):
        metrics.mean_iou(np.eye(2, dtype=int), [-1])


@pytest.mark.parametrize("wrong", [3, np.array(3), "01", None.__class__])
def test_classes_must_be_a_sequence(wrong):
    for function in (metrics.mean_iou, metrics.mean_accuracy):
        with pytest.raises(TypeError, match=r"^classes must be a sequence of integers, got "):
            function(MATRIX, wrong)


def test_classes_of_any_kind():
    expected = metrics.mean_iou(MATRIX, [0, 1])
    for classes in ((0, 1), np.array([0, 1]), {0: "a", 1: "b"}, {0: 1, 1: 1}.keys()):
        assert metrics.mean_iou(MATRIX, classes) == expected


def test_cue_statistics_refuses_truth_without_a_channel():
    with pytest.raises(ValueError, match="truth must be 0 to 1 or 255, got 5"):
        metrics.cue_statistics(np.ones((2, 1, 1), dtype=bool), np.array([[5]]))
