"""Snapping to masks that may overlap, against the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    CUES,
    FLOATS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    cpu_runs,
    cue_maps,
    label_maps,
    masks,
    sizes,
)

import cuekit
from cuekit import reference

thresholds = st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0, -0.5, 2.0])
rules = st.sampled_from(["mean", "sepl"])


@st.composite
def rectangles(draw, shape):
    """Masks of long runs, where `masks` draws scattered pixels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])
    top, bottom = rng.integers(0, shape[-2] + 1, (2, *shape[:-2], 1, 1))
    left, right = rng.integers(0, shape[-1] + 1, (2, *shape[:-2], 1, 1))
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


@st.composite
def inputs(draw):
    """Cues of the masks' resolution, or lower, or higher."""
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    cues = draw(cue_maps((*batch, channels, *draw(st.just(size) | sizes))))
    shape = (*batch, draw(st.integers(0, 5)), *size)
    return batch, cues, draw(masks(shape) | rectangles(shape))


@given(inputs(), cpu_runs, thresholds, rules)
def test_equals_oracle(arrays, run, threshold, accept):
    batch, cues, regions = arrays
    result = run(cuekit.snap_cues, cues, regions, threshold=threshold, accept=accept)
    oracle = by_image(
        lambda c, r: reference.snap_cues_to_masks(c, r, threshold, accept), batch, cues, regions
    )
    assert_equal(result, oracle)


@st.composite
def inputs_with_labels(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    cues = draw(cue_maps((*batch, channels, *draw(st.just(size) | sizes))))
    return batch, cues, draw(label_maps((*batch, *size)))


@given(inputs_with_labels(), cpu_runs)
def test_superpixels_as_masks_give_the_same(arrays, run):
    """Masks that never overlap are superpixels; pixels under no mask are in no superpixel."""
    batch, cues, superpixels = arrays
    _, labels = np.unique(superpixels, return_inverse=True)
    labels = np.where(superpixels < 0, -1, labels.reshape(superpixels.shape) % 50)
    stack = np.arange(50)[:, None, None] == labels[..., None, :, :]
    assert_equal(run(cuekit.snap_cues, cues, stack), run(cuekit.snap_cues, cues, labels))
    assert stack.shape == (*batch, 50, *superpixels.shape[-2:])


@given(inputs(), cpu_runs, rules)
def test_neither_channels_nor_masks_have_an_order(arrays, run, accept):
    _, cues, regions = arrays
    result = run(cuekit.snap_cues, cues, regions, accept=accept)
    backwards = run(cuekit.snap_cues, cues[..., ::-1, :, :], regions, accept=accept)
    assert_equal(backwards[..., ::-1, :, :], result)
    assert_equal(run(cuekit.snap_cues, cues, regions[..., ::-1, :, :], accept=accept), result)
    alone = run(cuekit.snap_cues, cues[..., :1, :, :], regions, accept=accept)
    assert_equal(alone, result[..., :1, :, :])


@pytest.mark.parametrize("accept", ["mean", "sepl"])
def test_uncovered_pixels_keep_their_input(accept):
    regions = np.array([[[True, True, False, False]], [[False, True, True, False]]])
    bits = np.array([[[1, 0, 0, 1]], [[0, 0, 0, 0]]], np.uint8)
    result = cuekit.snap_cues(bits, regions, accept=accept)
    # By its mean the first mask is the best; half of it is not most of it.
    first = [1, 1, 0, 1] if accept == "mean" else [0, 0, 0, 1]
    np.testing.assert_array_equal(result[:, 0], [first, [0, 0, 0, 0]])
    # The last pixel, under no mask: 1 against 0.3 times the map's maximum of 4, then of 3.
    maps = np.array([[[4.0, 0.0, 0.0, 1.0]], [[3.0, 0.0, 0.0, 1.0]]])
    result = cuekit.snap_cues(maps, regions, accept=accept)
    np.testing.assert_array_equal(result[:, 0, 3], [False, True])


@pytest.mark.parametrize("accept", ["mean", "sepl"])
@pytest.mark.parametrize("threshold", [-1.0, 0.0])
def test_the_input_of_maps_is_never_where_they_are_not_positive(accept, threshold):
    maps = np.array([[[2.0, 0.0, -1.0]]])
    for regions in (np.zeros((0, 1, 3), dtype=bool), np.array([[[True, False, False]]])):
        result = cuekit.snap_cues(maps, regions, threshold=threshold, accept=accept)
        np.testing.assert_array_equal(result, [[[True, False, False]]])


@pytest.mark.parametrize("accept", ["mean", "sepl"])
@pytest.mark.parametrize("cue", [*CUES, *FLOATS])
@pytest.mark.parametrize("mask", ["bool", "uint8"])
def test_no_masks_keep_the_input(cue, mask, accept):
    cues = np.array([[[0, 1, 1]]], cue)
    none = np.array([], dtype=mask).reshape(-1, 1, 3)
    result = cuekit.snap_cues(cues, none, accept=accept)
    np.testing.assert_array_equal(result, cues != 0)


# ----------------------------------------------------------------------------------------- SEPL


def test_sepl_most_of_the_mask():
    """More than half; half is not enough. The input has more pixels than any mask holds."""
    cues = np.zeros((1, 2, 40), dtype=bool)
    cues[0, 0] = True
    for inside, outside, accepted in ((3, 2, 1), (3, 3, 0), (4, 3, 1), (1, 0, 1), (1, 1, 0)):
        mask = np.zeros((1, 2, 40), dtype=bool)
        mask[0, 0, :inside] = mask[0, 1, :outside] = True
        result = cuekit.snap_cues(cues, mask, accept="sepl")
        np.testing.assert_array_equal(result, (cues & ~mask) | (mask & bool(accepted)))


def test_sepl_85_percent_of_the_input_as_float64_tells():
    """All quotients up to 60 / 60 at once; the masks are too large for the other half of the rule.

    Integers are compared; the authors' code divides. No quotient comes out differently.
    """
    cases = [(both, total) for total in range(1, 61) for both in range(total + 1)]
    cues = np.zeros((len(cases), 1, 1, 200), dtype=bool)
    regions = np.zeros((len(cases), 1, 1, 200), dtype=bool)
    regions[..., 60:] = True
    for i, (both, total) in enumerate(cases):
        cues[i, ..., :total] = True
        regions[i, ..., :both] = True
    accepted = np.array([both / total >= 0.85 for both, total in cases])
    assert accepted[cases.index((17, 20))]
    assert not accepted[cases.index((50, 59))]
    result = cuekit.snap_cues(cues, regions, accept="sepl")
    np.testing.assert_array_equal(result[..., -1].ravel(), accepted)


def test_sepl_empty_input_and_empty_masks():
    covered = np.ones((1, 2, 3), dtype=bool)
    for empty in (np.zeros((1, 2, 3), dtype=bool), np.zeros((1, 2, 3)), -np.ones((1, 2, 3))):
        assert not cuekit.snap_cues(empty, covered, accept="sepl").any()
    # No pixel is above the maximum.
    assert not cuekit.snap_cues(np.ones((1, 2, 3)), covered, threshold=1.0, accept="sepl").any()
    cues = np.array([[[True, False]]])
    empty = np.zeros((1, 1, 2), dtype=bool)
    np.testing.assert_array_equal(cuekit.snap_cues(cues, empty, accept="sepl"), cues)


def test_sepl_threshold_says_what_the_input_of_maps_is():
    maps = np.array([[[10.0, 6.0, 4.0, 0.0, 0.0]]])
    mask = np.array([[[False, True, True, True, False]]])
    for threshold, accepted in ((0.3, 1), (0.4, 0), (0.5, 0)):  # two of three, then one
        result = cuekit.snap_cues(maps, mask, threshold=threshold, accept="sepl")
        np.testing.assert_array_equal(result[0, 0], [1, accepted, accepted, accepted, 0])
    # Of masks there is nothing to threshold.
    for threshold in (-1.0, 0.4, 5.0):
        result = cuekit.snap_cues(maps > 0, mask, threshold=threshold, accept="sepl")
        np.testing.assert_array_equal(result[0, 0], [1, 1, 1, 1, 0])


def test_sepl_channels_that_overlap_accept_the_same_mask():
    cues = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 1]]], dtype=bool)
    mask = np.array([[[1, 1, 1, 0]]], dtype=bool)
    result = cuekit.snap_cues(cues, mask, accept="sepl")
    np.testing.assert_array_equal(result[:, 0], [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])


@given(inputs(), cpu_runs, st.sampled_from([1, 255]))
def test_uint8_masks_are_masks(arrays, run, one):
    _, cues, regions = arrays
    uint8 = regions * np.uint8(one)
    for options in ({}, {"accept": "sepl"}):
        expected = run(cuekit.snap_cues, cues, regions, **options)
        assert_equal(run(cuekit.snap_cues, cues, uint8, **options), expected)


def test_as_many_uint8_masks_as_cue_sets_are_refused():
    """They have the shape of a batch of label maps."""
    cues = np.ones((2, 3, 4, 5), dtype=bool)
    stack = np.zeros((2, 4, 5), np.uint8)
    stack[0, 1, 1] = 1
    message = (
        r"^superpixels that hold 0 and 1, or 0 and 255, where the dtype is uint8 can be masks or "
        r"labels, got shape \(2, 4, 5\): pass masks as bool, with shape \(2, R, H, W\), and "
        "labels with a wider integer dtype$"
    )
    for one in (1, 255):
        with pytest.raises(ValueError, match=message):
            cuekit.snap_cues(cues, stack * np.uint8(one))
    expected = cuekit.snap_cues(cues, stack.astype(np.int16))
    np.testing.assert_array_equal(cuekit.snap_cues(cues, stack + np.uint8(1)), expected)
    # One superpixel in each image.
    np.testing.assert_array_equal(cuekit.snap_cues(cues, 0 * stack), cues)
    # A single label map of two superpixels is no stack.
    assert cuekit.snap_cues(cues[0], stack[0]).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((6, 4, 5), 2, r"^superpixels of shape \(R, H, W\) are masks, which must be bool, or hold"),
        (
            (6, 4, 5),
            100,
            r"0 and 255, where the dtype is uint8; got other values in .*\(6, 4, 5\)$",
        ),
        (
            (1, 6, 4, 5),
            1,
            r"shape \(R, H, W\) to match cues, when they are masks, got \(1, 6, 4, 5",
        ),
        (
            (1, 6, 4, 5),
            2,
            r"^superpixels must have shape \(H, W\) to match cues, got \(1, 6, 4, 5\)",
        ),
    ],
)
def test_wrong_uint8_masks(shape, value, message):
    regions = np.zeros(shape, np.uint8)
    regions[..., 1, 1], regions[..., 2, 2] = 1, value
    with pytest.raises(ValueError, match=message):
        cuekit.snap_cues(np.ones((3, 4, 5)), regions)


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_sepl_with_labels(dtype):
    message = (
        "^accept must be 'mean' unless superpixels are masks, "
        f"got 'sepl' with superpixels of dtype {dtype}$"
    )
    with pytest.raises(ValueError, match=message):
        cuekit.snap_cues(np.ones((1, 2, 3)), np.zeros((2, 3), dtype), accept="sepl")


@pytest.mark.parametrize("value", ["SEPL", "", None, 1, ["mean"]])
@pytest.mark.parametrize("regions", [np.zeros((2, 3), int), np.zeros((1, 2, 3), dtype=bool)])
def test_wrong_accept(value, regions):
    with pytest.raises(ValueError, match=r"^accept must be one of 'mean', 'sepl', got "):
        cuekit.snap_cues(np.ones((1, 2, 3)), regions, accept=value)
