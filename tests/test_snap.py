"""Snapping to superpixels, against the oracle; what masks share with them is tested here too."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    cue_maps,
    label_maps,
    runs,
    sizes,
)

import cuekit
from cuekit import reference

thresholds = st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0, -0.5, 2.0])


@st.composite
def inputs(draw):
    """Cues of the superpixels' resolution, or lower, or higher."""
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    cues = draw(cue_maps((*batch, channels, *draw(st.just(size) | sizes))))
    return batch, cues, draw(label_maps((*batch, *size)))


@given(inputs(), runs, thresholds)
def test_equals_oracle(arrays, run, threshold):
    batch, cues, superpixels = arrays
    result = run(cuekit.snap_cues, cues, superpixels, threshold=threshold)
    oracle = by_image(lambda c, s: reference.snap_cues(c, s, threshold), batch, cues, superpixels)
    assert_equal(result, oracle)


def test_relative_to_the_channel_s_largest_mean():
    # Means 1/2, 1/4, 1/8 in the first channel, 1/8, 0, 0 in the second.
    cues = np.zeros((2, 3, 8), dtype=bool)
    cues[0, 0, :4] = cues[0, 1, :2] = cues[0, 2, 0] = cues[1, 0, 0] = True
    superpixels = np.repeat([[0], [1], [2]], 8, axis=1)
    for threshold, rows in (
        (0.24, [1, 1, 1]),
        (0.25, [1, 1, 0]),
        (0.3, [1, 1, 0]),
        (0.5, [1, 0, 0]),
    ):
        result = cuekit.snap_cues(cues, superpixels, threshold=threshold)
        np.testing.assert_array_equal(result[0, :, 0], rows)  # equal to the level is not above
        np.testing.assert_array_equal(result[1, :, 0], [1, 0, 0])
    np.testing.assert_array_equal(
        cuekit.snap_cues(cues, superpixels), cuekit.snap_cues(cues, superpixels, threshold=0.3)
    )


@pytest.mark.parametrize("threshold", [-1.0, 0.0])
def test_never_where_the_mean_is_not_positive(threshold):
    cues = np.array([[[2.0, -1.0, 0.0]]])
    result = cuekit.snap_cues(cues, np.array([[0, 1, 2]]), threshold=threshold)
    np.testing.assert_array_equal(result, [[[True, False, False]]])
    empty = cuekit.snap_cues(-np.abs(cues), np.array([[0, 1, 2]]), threshold=threshold)
    assert not empty.any()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_dtype(dtype):
    largest = min(np.iinfo(dtype).max, 2**31 - 2)
    superpixels = np.array([[largest, largest, 0, 1]], dtype)
    result = cuekit.snap_cues(np.array([[[True, False, False, False]]]), superpixels)
    np.testing.assert_array_equal(result, [[[1, 1, 0, 0]]])


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("threshold", [0.3, -1.0])
def test_pixels_in_no_superpixel_keep_their_input(front_end, dtype, threshold):
    """The label -1 of SAM's label maps means "no region"."""
    superpixels = np.array([[0, 0, -1, -1, -1, 7]], dtype)
    masks = np.array([[[0, 1, 1, 0, 1, 0]]], dtype=bool)
    # The input is above 0.3 times the map's maximum of 4, which no superpixel contains.
    maps = np.array([[[1.0, 1.0, 1.5, 1.0, 4.0, 0.0]]])
    on = [[[1, 1, 1, 1, 1, 0]]] if threshold < 0 else [[[1, 1, 1, 0, 1, 0]]]
    for cues, expected in (
        (masks, [[[1, 1, 1, 0, 1, 0]]]),
        (masks * np.uint8(255), [[[1, 1, 1, 0, 1, 0]]]),
        (maps, on),
        (maps.astype(np.float16), on),
        (-maps, np.zeros_like(masks)),
    ):
        with front_end.active():
            result = front_end.unwrap(
                cuekit.snap_cues(
                    front_end.wrap(cues), front_end.wrap(superpixels), threshold=threshold
                )
            )
        np.testing.assert_array_equal(result, expected)


@given(inputs(), runs, thresholds)
def test_without_superpixels_and_without_masks_are_the_same(arrays, run, threshold):
    batch, cues, superpixels = arrays
    nowhere = np.full(superpixels.shape, -1)
    result = run(cuekit.snap_cues, cues, nowhere, threshold=threshold)
    no_masks = np.zeros((*batch, 0, *superpixels.shape[-2:]), dtype=bool)
    assert_equal(result, cuekit.snap_cues(cues, no_masks, threshold=threshold))


@pytest.mark.parametrize("shape", [(0, 3, 3), (0, 2, 3, 3), (2, 0, 3, 3), (0, 0, 0)])
@pytest.mark.parametrize("regions", ["labels", "masks"])
def test_empty(shape, regions):
    *batch, channels, _, _ = shape
    superpixels = (
        np.zeros((*batch, 4, 5), int)
        if regions == "labels"
        else np.zeros((*batch, 2, 4, 5), dtype=bool)
    )
    result = cuekit.snap_cues(np.zeros(shape, dtype=bool), superpixels)
    assert result.shape == (*batch, channels, 4, 5)


@pytest.mark.parametrize("cue", ["bool", "float32"])
def test_superpixels_without_pixels(cue):
    result = cuekit.snap_cues(np.ones((2, 3, 3), cue), np.zeros((0, 7), int))
    assert result.shape == (2, 0, 7)


@pytest.mark.parametrize("regions", [np.zeros((4, 5), int), np.zeros((2, 4, 5), dtype=bool)])
def test_pixels_from_no_pixels(regions):
    with pytest.raises(ValueError, match=r"^cues must have at least one pixel, got \(2, 0, 3\)$"):
        cuekit.snap_cues(np.zeros((2, 0, 3), dtype=bool), regions)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(0, 0, 0), (8, 8, 10), (3, 7, 4)])
def test_nonfinite_maps(value, dtype, position):
    cues = np.ones((9, 9, 11), dtype)
    cues[position] = value
    message = re.escape(f"cues must be finite, got {value} at index {position}")
    covered = np.ones((1, 20, 22), dtype=bool)
    for regions in (np.arange(440).reshape(20, 22), covered, ~covered):
        with pytest.raises(ValueError, match=f"^{message}$"):
            cuekit.snap_cues(cues, regions)


@pytest.mark.parametrize("value", [2.0**1023, -1.7e308])
def test_maps_whose_differences_exceed_float64(value):
    cues = np.zeros((2, 3, 4))
    cues[1, 2, 3] = value
    message = re.escape(
        f"cues must be below 8.99e+307 in magnitude, got {value} at index (1, 2, 3): differences "
        "must fit in float64"
    )
    for regions in (np.arange(42).reshape(6, 7), np.ones((1, 6, 7), dtype=bool)):
        with pytest.raises(ValueError, match=f"^{message}$"):
            cuekit.snap_cues(cues, regions)
    largest = np.nextafter(2.0**1023, 0)
    cues[0, 0, 0], cues[1, 2, 3] = -largest, largest
    for accept, regions in (
        ("mean", np.arange(42).reshape(6, 7)),
        ("sepl", np.ones((1, 6, 7), dtype=bool)),
    ):
        result = cuekit.snap_cues(cues, regions, accept=accept)
        assert_equal(result, cuekit.snap_cues(cues / 2, regions, accept=accept))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_values_that_no_pixel_samples(value, dtype):
    """They raise at any resolution of the superpixels."""
    cues = np.ones((1, 9, 9), dtype)
    cues[0, 0, 0] = value
    for regions in (np.zeros((1, 1), int), np.ones((1, 1, 1), dtype=bool)):
        with pytest.raises(ValueError, match=f"^cues must be finite, got {value} at index"):
            cuekit.snap_cues(cues, regions)


def test_batch_error_has_the_caller_s_index():
    cues = np.ones((2, 3, 4, 5))
    cues[1, 2, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"at index \(1, 2, 3, 4\)$"):
        cuekit.snap_cues(cues, np.zeros((2, 4, 5), int))
    with pytest.raises(ValueError, match=r"at index \(0, 1, 2, 3, 4\)$"):
        cuekit.snap_cues(cues[None], np.zeros((1, 2, 4, 5), int))
    with pytest.raises(ValueError, match=r"at index \(2, 3, 4\)$"):
        cuekit.snap_cues(cues[1], np.zeros((4, 5), int))


@pytest.mark.parametrize(
    ("superpixels", "message"),
    [
        (np.zeros((3, 4, 5), int), r"shape \(H, W\) to match cues, got \(3, 4, 5\)"),
        (np.zeros(20, int), r"shape \(\.\.\., H, W\), got \(20,\)"),
        (
            np.zeros((4, 5), dtype=bool),
            r"shape \(R, H, W\) to match cues, when they are masks, got \(4, 5\)",
        ),
        (
            np.zeros((2, 3, 4, 5), dtype=bool),
            r"shape .*R.*H.*W.* to match cues, .* got \(2, 3, 4, 5\)",
        ),
        (np.zeros((4, 5)), r"dtype bool or any integer dtype, got float64"),
    ],
)
def test_wrong_superpixels(superpixels, message):
    with pytest.raises((ValueError, TypeError), match=f"^superpixels must have {message}"):
        cuekit.snap_cues(np.zeros((2, 4, 5), dtype=bool), superpixels)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint16", "int64", "complex128"])
def test_cues_of_another_dtype(dtype):
    with pytest.raises(TypeError, match=f"^cues must have dtype bool or .*, got {dtype}$"):
        cuekit.snap_cues(np.zeros((2, 4, 5), dtype), np.zeros((4, 5), int))


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (-np.inf, ValueError), ("0.3", TypeError), (True, TypeError)],
)
def test_wrong_threshold(value, error):
    with pytest.raises(error, match=f"^threshold must be .*, got {value!r}$"):
        cuekit.snap_cues(np.zeros((2, 4, 5)), np.zeros((4, 5), int), threshold=value)
