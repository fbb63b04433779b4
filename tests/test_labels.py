"""One label per pixel, against the oracle."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, by_image, channel_counts, masks, runs

import cuekit
from cuekit import reference

OVERLAPS = ("smallest", "ignore")
BACKGROUND_OVERLAPS = ("foreground", "background", "ignore")

# The oracle is a loop over pixels.
sizes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([(1, 1), (13, 31)])
)


@st.composite
def inputs(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    dtype = draw(st.sampled_from(["bool", "uint8"]))
    cues = draw(masks((*batch, channels, *size), dtype))
    small = st.integers(0, 254)
    label = draw(st.sampled_from([small, st.integers(-(2**31), 2**31 - 1)]))
    class_ids = st.lists(label.filter(lambda x: x != 255), min_size=channels, max_size=channels)
    return batch, cues, draw(st.none() | class_ids), draw(st.just(255) | label)


@given(inputs(), runs, st.sampled_from(OVERLAPS), st.sampled_from(BACKGROUND_OVERLAPS))
def test_equals_oracle(arrays, run, overlap, background_overlap):
    batch, cues, classes, unknown = arrays
    result = run(
        cuekit.cues_to_labels,
        cues,
        classes=classes,
        overlap=overlap,
        background_overlap=background_overlap,
        unknown=unknown,
    )
    class_ids = np.arange(cues.shape[-3]) if classes is None else np.array(classes)
    oracle = by_image(
        lambda c: reference.cues_to_labels(c, class_ids, overlap, background_overlap, unknown),
        batch,
        cues,
    )
    written = [*class_ids.tolist(), unknown]
    assert result.dtype == (np.uint8 if 0 <= min(written) <= max(written) <= 255 else np.int32)
    np.testing.assert_array_equal(result, oracle)
    assert result.shape == oracle.shape


# Columns: nothing, background, class 1, classes 1 and 2, background and 1, all three.
CUES = np.array([[[0, 1, 0, 0, 1, 1]], [[0, 0, 1, 1, 1, 1]], [[0, 0, 0, 1, 0, 1]]], dtype=bool)


@pytest.mark.parametrize(
    ("overlap", "background_overlap", "labels"),
    [
        ("smallest", "foreground", [255, 0, 1, 2, 1, 2]),
        ("smallest", "background", [255, 0, 1, 2, 0, 0]),
        ("smallest", "ignore", [255, 0, 1, 2, 255, 255]),
        ("ignore", "foreground", [255, 0, 1, 255, 1, 255]),
        ("ignore", "background", [255, 0, 1, 255, 0, 0]),
        ("ignore", "ignore", [255, 0, 1, 255, 255, 255]),
    ],
)
def test_rules(overlap, background_overlap, labels):
    result = cuekit.cues_to_labels(CUES, overlap=overlap, background_overlap=background_overlap)
    np.testing.assert_array_equal(result, [labels])


def test_ties_go_to_the_lower_index():
    np.testing.assert_array_equal(cuekit.cues_to_labels(np.ones((4, 2, 2), dtype=bool)), 1)


def test_smallest_is_counted_per_image():
    pair = np.stack([CUES, CUES[[0, 2, 1]]])
    result = cuekit.cues_to_labels(pair)
    np.testing.assert_array_equal(result[:, 0, 3], [2, 1])


def test_many_classes_on_one_pixel():
    """More than a byte can count."""
    cues = np.ones((600, 1, 1), dtype=bool)
    cues[0] = False
    assert cuekit.cues_to_labels(cues, classes=[0] * 600, overlap="ignore") == 255
    assert cuekit.cues_to_labels(cues, classes=[7, *range(1000, 1599)]) == 1000


def test_uint8_cues_count_pixels_not_values():
    cues = np.zeros((3, 1, 3), np.uint8)
    cues[1, 0, :1] = 255
    cues[2, 0, :2] = 255
    np.testing.assert_array_equal(cuekit.cues_to_labels(cues), [[1, 2, 255]])


def test_longer_than_a_tile():
    rng = np.random.default_rng(0)
    cues = rng.random((2, 5, 95, 96)) < 0.4
    oracle = by_image(
        lambda c: reference.cues_to_labels(c, np.arange(5), "smallest", "foreground", 255),
        (2,),
        cues,
    )
    for threads in (1, 2):
        np.testing.assert_array_equal(cuekit.cues_to_labels(cues, threads=threads), oracle)


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 0, 3, 3, 3)])
def test_empty(shape):
    result = cuekit.cues_to_labels(np.zeros(shape, dtype=bool))
    assert result.shape == (*shape[:-3], *shape[-2:])
    assert result.dtype == np.uint8


def test_background_alone():
    np.testing.assert_array_equal(
        cuekit.cues_to_labels(np.array([[[True, False]]]), unknown=7), [[0, 7]]
    )


def test_no_background_channel():
    with pytest.raises(ValueError, match=r"^cues must have a background channel, got \(0, 2, 2\)$"):
        cuekit.cues_to_labels(np.zeros((0, 2, 2), dtype=bool))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"classes": [0, 1]},
            ValueError,
            "classes must have 3 entries, one per channel of cues, got 2",
        ),
        ({"classes": [0, 255, 1]}, ValueError, "classes must not contain 255, .* for channel 1"),
        ({"classes": [0, 1.0, 2]}, TypeError, r"classes\[1\] must be an integer, got 1.0"),
        ({"classes": [0, True, 2]}, TypeError, r"classes\[1\] must be an integer, got True"),
        (
            {"classes": [0, 1, 2**31]},
            ValueError,
            "classes, unknown and ignore must fit in int32",
        ),
        (
            {"unknown": -(2**31) - 1},
            ValueError,
            "classes, unknown and ignore must fit in int32",
        ),
        ({"unknown": "7"}, TypeError, "unknown must be an integer, got '7'"),
        ({"overlap": "largest"}, ValueError, "overlap must be one of .*, got 'largest'"),
        ({"background_overlap": "smallest"}, ValueError, "background_overlap must be .*'smallest'"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        cuekit.cues_to_labels(CUES, **options)


@pytest.mark.parametrize("dtype", ["float32", "int32", "object"])
def test_cues_of_another_dtype(dtype):
    message = re.escape(f"cues must have dtype bool or uint8, got {dtype}")
    with pytest.raises(TypeError, match=f"^{message}$"):
        cuekit.cues_to_labels(CUES.astype(dtype))
