"""Colour evidence against the oracle, and what it says of photos of a few colours."""

import re

import numpy as np
import pytest
from common import at_most, needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    THREADS,
    batches,
    channel_counts,
    label_maps,
    reordered,
    same_bits,
)

import cuekit
from cuekit import reference

# The rounding of the result, up to 12 in magnitude, to its dtype: a float16 step there is 2**-7.
# Sums of a few hundred pixels in float64 differ by less than any of these.
TOLERANCE = {"float16": 2.0**-7, "float32": 1e-5, "float64": 1e-9}

RED, BLUE = (200, 0, 0), (0, 0, 200)


@st.composite
def inputs(draw):
    """Soft labels, some of them hard, and photos of few colours or of noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, size = draw(batches), draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    shape = (*batch, draw(channel_counts), *size)
    weights = rng.random(shape)
    if draw(st.booleans()):
        weights = np.round(weights)
    palette = rng.integers(0, 256, (draw(st.sampled_from([1, 3, 500])), 3), np.uint8)
    photo = palette[rng.integers(0, len(palette), (*batch, *size))]
    labels = draw(st.none() | label_maps((*batch, *size), INTEGERS))
    dtype = draw(st.sampled_from(FLOATS))
    return draw(reordered(weights.astype(dtype))), draw(reordered(photo)), labels


options = st.fixed_dictionaries(
    {},
    optional={
        "bins": st.sampled_from([1, 2, 5, 16]),
        "sigma": st.sampled_from([0, 0.1, 0.7, 2.5]),
        "floor": st.sampled_from([1e-12, 1e-3, 1.0]),
        "limit": st.sampled_from([0, 0.5, 12]),
    },
)


@at_most(200)  # the oracle goes pixel by pixel
@given(inputs(), options, st.sampled_from(FRONT_ENDS), st.sampled_from(THREADS))
def test_equals_oracle(arrays, options, front_end, threads):
    weights, photo, labels = arrays
    wrapped = [None if each is None else front_end.wrap(each) for each in arrays]
    result = front_end.unwrap(cuekit.colour_evidence(*wrapped, threads=threads, **options))
    *batch, channels, height, width = weights.shape
    assert result.dtype == weights.dtype
    assert result.shape == (*batch, channels - 1, height, width)
    for index in np.ndindex(*batch):
        superpixels = None if labels is None else labels[index]
        expected = reference.colour_evidence(weights[index], photo[index], superpixels, **options)
        np.testing.assert_allclose(
            result[index], expected, rtol=0, atol=TOLERANCE[weights.dtype.name]
        )


@given(inputs(), options, st.sampled_from(FRONT_ENDS))
def test_photos_in_lab_are_the_same(arrays, options, front_end):
    weights, photo, labels = arrays
    lab = cuekit.rgb_to_lab(photo)
    wrapped = [None if each is None else front_end.wrap(each) for each in (weights, lab, labels)]
    result = front_end.unwrap(cuekit.colour_evidence(*wrapped, space="lab", **options))
    assert same_bits(result, cuekit.colour_evidence(weights, photo, labels, **options))


def test_colours_beyond_the_last_bin():
    lab = np.array(
        [[[-3e38, 3e38, -3e38], [3e38, -3e38, 3e38], [0, 0, 0], [100, 0, 0]]], np.float32
    )
    soft = np.array([[[0.2, 0.8, 0.2, 0.8]], [[0.8, 0.2, 0.8, 0.2]]])
    evidence = cuekit.colour_evidence(soft, lab, space="lab", sigma=0)
    np.testing.assert_allclose(evidence, np.log([[[4, 0.25, 4, 0.25]]]), atol=1e-3)  # the floor


def halves(*colours, share=(1.0, 0.0)):
    """A photo of vertical stripes, and soft labels that know the first and the last stripe."""
    photo = np.repeat(np.array(colours, np.uint8)[None], 4, axis=0).repeat(5, axis=1)
    foreground = np.full(photo.shape[:2], 0.5)
    foreground[:, :5], foreground[:, -5:] = share
    return np.stack([1 - foreground, foreground]), photo


def test_unsure_pixels_go_with_their_colour():
    probabilities, photo = halves(RED, RED, BLUE, BLUE)
    evidence = cuekit.colour_evidence(probabilities, photo)[0]
    assert (evidence[:, :10] > 1).all()
    assert (evidence[:, 10:] < -1).all()
    # The same of both, with the other sign.
    np.testing.assert_allclose(evidence[:, 0], -evidence[:, -1])


def test_it_is_the_logarithm_of_odds_that_a_count_gives():
    """Three of four red pixels are the object: log(3) without smoothing, but for the floor."""
    photo = np.full((2, 2, 3), RED, np.uint8)
    mask = np.array([[1.0, 1], [1, 0]])
    evidence = cuekit.colour_evidence(np.stack([1 - mask, mask]), photo, sigma=0, floor=1e-12)
    np.testing.assert_allclose(evidence, np.log(3), atol=1e-9)


def test_one_colour_says_the_same_everywhere():
    probabilities, _ = halves(RED, RED, RED)
    photo = np.full((4, 15, 3), 77, np.uint8)
    evidence = cuekit.colour_evidence(probabilities, photo)
    assert (evidence == evidence[0, 0, 0]).all()
    assert abs(evidence[0, 0, 0]) < 1e-9  # as much foreground as background


def test_gray_is_in_the_middle_of_a_bin():
    """What rounding makes of a and b of gray pixels does not move them to another bin."""
    grays = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    probabilities = np.stack([np.ones((256, 1)), np.linspace(0, 1, 256)[:, None]])
    for bins in (15, 16):
        one, other = (
            cuekit.colour_evidence(probabilities, grays + offset, bins=bins, sigma=0)
            for offset in (np.uint8([0, 0, 0]), np.uint8([0, 0, 1]))
        )
        same = np.abs(one - other)[0, :255] < 0.3  # brightness moves a few to the next bin
        assert same.mean() > 0.9


def test_limits_hold_after_the_mean():
    probabilities, photo = halves(RED, BLUE)
    labels = np.arange(10)[None].repeat(4, 0)
    wide = cuekit.colour_evidence(probabilities, photo, labels, sigma=0)
    assert np.abs(wide).max() == 8
    assert np.abs(cuekit.colour_evidence(probabilities, photo, labels, sigma=0, limit=2)).max() == 2
    one = cuekit.colour_evidence(probabilities, photo, np.zeros((4, 10), int), sigma=0)
    np.testing.assert_allclose(one, 0, atol=1e-9)


def test_size_of_the_photo_does_not_matter():
    probabilities, photo = halves(RED, RED, BLUE, BLUE, share=(0.9, 0.2))
    small = cuekit.colour_evidence(probabilities, photo)
    large = cuekit.colour_evidence(
        probabilities.repeat(3, 1).repeat(3, 2), photo.repeat(3, 0).repeat(3, 1)
    )
    np.testing.assert_allclose(large[:, ::3, ::3], small, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 1, 4, 5), (1, 0, 0), (3, 0, 5), (3, 4, 0)])
def test_empty(shape):
    evidence = cuekit.colour_evidence(
        np.zeros(shape), np.zeros((*shape[:-3], *shape[-2:], 3), np.uint8)
    )
    assert evidence.shape == (*shape[:-3], shape[-3] - 1, *shape[-2:])


def test_photo_with_known_corners():
    """A few sure pixels of cat and of background of a real photo, and the cat's colour."""
    data = needs("skimage.data")
    photo = data.chelsea()[::2, ::2]  # 150 x 226, a cat that fills most of it
    foreground = np.full(photo.shape[:2], 0.5)
    foreground[60:90, 90:130], foreground[:20, :40] = 1, 0
    evidence = cuekit.colour_evidence(np.stack([1 - foreground, foreground]), photo)[0]
    assert evidence[60:90, 90:130].mean() > 0 > evidence[:20, :40].mean()


PHOTO = np.zeros((4, 5, 3), np.uint8)
SOFT = np.full((3, 4, 5), 0.3)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((SOFT[0], PHOTO), {}, ValueError, "probabilities must have shape (..., K, H, W), got"),
        ((SOFT[:0], PHOTO), {}, ValueError, "probabilities must have a background channel, got"),
        ((SOFT * 5, PHOTO), {}, ValueError, "probabilities must lie in [0, 1], got 1.5 at"),
        ((SOFT * np.nan, PHOTO), {}, ValueError, "probabilities must be finite, got nan"),
        ((SOFT > 0, PHOTO), {}, TypeError, "probabilities must have dtype float16 or"),
        ((SOFT, PHOTO[:3]), {}, ValueError, "image must have shape (4, 5, 3)"),
        ((SOFT, PHOTO / 255), {}, TypeError, "image must have dtype uint8"),
        ((SOFT, PHOTO), {"space": "lab"}, TypeError, "image must have dtype float32, got uint8"),
        (
            (SOFT, np.full((4, 5, 3), np.nan, np.float32)),
            {"space": "lab"},
            ValueError,
            "image must be finite, got nan",
        ),
        ((SOFT, PHOTO), {"space": "hsv"}, ValueError, "space must be one of 'rgb', 'lab', got"),
        (
            (SOFT, PHOTO, np.zeros((4, 4), int)),
            {},
            ValueError,
            "superpixels must have shape (4, 5)",
        ),
        ((SOFT, PHOTO, np.full((4, 5), -2)), {}, ValueError, "superpixels must be at least -1"),
        ((SOFT, PHOTO), {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
        ((SOFT, PHOTO), {"bins": 65}, ValueError, "bins must be at most 64, got 65"),
        ((SOFT, PHOTO), {"bins": 2.5}, TypeError, "bins must be an integer"),
        ((SOFT, PHOTO), {"sigma": -1}, ValueError, "sigma must be at least 0, got -1"),
        ((SOFT, PHOTO), {"floor": 0}, ValueError, "floor must be at least 1e-12, got 0"),
        ((SOFT, PHOTO), {"limit": -1}, ValueError, "limit must be at least 0, got -1"),
        ((SOFT, PHOTO), {"limit": np.inf}, ValueError, "limit must be finite"),
        ((SOFT, PHOTO), {"threads": 0}, ValueError, "threads must be"),
    ],
)
def test_bad_arguments(arrays, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        cuekit.colour_evidence(*arrays, **options)


def test_threads_do_not_matter():
    rng = np.random.default_rng(0)
    probabilities = rng.random((2, 67, 130), np.float32)
    photo = rng.integers(0, 256, (67, 130, 3), np.uint8)
    labels = rng.integers(0, 40, (67, 130))
    results = [cuekit.colour_evidence(probabilities, photo, labels, threads=t) for t in THREADS]
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])
