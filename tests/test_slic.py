"""SLIC superpixels, which scikit-image computes."""

import re
import sys

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, FRONT_ENDS, assert_equal, memory_orders, photos

import cuekit

segmentation = needs("skimage.segmentation")


def patches(*shape):
    """Photos of flat patches of 5 by 5 pixels: noise alone would be one superpixel."""
    small = (*shape[:-3], shape[-3] // 5, shape[-2] // 5, shape[-1])
    colours = np.random.default_rng(1).integers(0, 256, small, np.uint8)
    return colours.repeat(5, -3).repeat(5, -2)


def peer(photo, **options):
    return segmentation.slic(photo, start_label=0, **options).astype(np.int32)


@given(
    photos(),
    st.sampled_from([1, 2, 7, 40, 10_000]),
    st.sampled_from([0.01, 1.0, 10.0, 500.0]),
    st.sampled_from([0.0, 0.8]),
    st.sampled_from(FRONT_ENDS),
)
def test_equals_scikit_image(photo, n_segments, compactness, sigma, front_end):
    before = photo.copy()
    options = {"n_segments": n_segments, "compactness": compactness, "sigma": sigma}
    result = front_end.unwrap(cuekit.slic(front_end.wrap(photo), **options))
    np.testing.assert_array_equal(photo, before)
    assert_equal(result, peer(photo, **options))


def test_defaults_are_scikit_image_s():
    photo = patches(40, 50, 3)
    result = cuekit.slic(photo)
    assert_equal(result, peer(photo))
    assert result.max() > 20
    for options in ({"n_segments": 50}, {"compactness": 30.0}, {"sigma": 0.8}):
        assert not np.array_equal(cuekit.slic(photo, **options), result)


@given(photos(), st.sampled_from([2, 7, 40]), st.sampled_from([0.01, 10.0]))
def test_labels_run_from_0_without_gaps(photo, n_segments, compactness):
    labels = cuekit.slic(photo, n_segments=n_segments, compactness=compactness)
    values = np.unique(labels)
    np.testing.assert_array_equal(values, np.arange(len(values)))


@given(photos(channel_counts=(1,)))
def test_gray(photo):
    result = cuekit.slic(photo[..., 0], channel_axis=None, n_segments=9)
    assert_equal(result, peer(photo[..., 0], channel_axis=None, n_segments=9))
    np.testing.assert_array_equal(result, cuekit.slic(photo, n_segments=9))


@given(photos())
def test_channel_axis_and_memory_order(photo):
    expected = cuekit.slic(photo, n_segments=9)
    for axis in (-3, 0, 1):
        moved = np.moveaxis(photo, -1, axis)
        np.testing.assert_array_equal(cuekit.slic(moved, n_segments=9, channel_axis=axis), expected)
    for array in memory_orders(photo):
        np.testing.assert_array_equal(cuekit.slic(array, n_segments=9), expected)


@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("threads", [1, 2, None])
def test_batch_is_a_loop(batch, threads):
    photos = patches(*batch, 20, 30, 3)
    photos //= np.arange(1, photos.size // 1800 + 1, dtype=np.uint8).reshape(*batch, 1, 1, 1)
    result = cuekit.slic(photos, n_segments=20, threads=threads)
    assert result.shape == (*batch, 20, 30)
    for index in np.ndindex(batch):
        # Every photo is scaled by its own range.
        np.testing.assert_array_equal(result[index], peer(photos[index], n_segments=20))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_photos_of_the_largest_range(dtype, channels):
    """Their range is more than their dtype holds: scikit-image divides by an infinite one."""
    photo = (patches(20, 30, channels) / 127.5 - 1).astype(dtype)
    photo[0, 0], photo[0, 1] = 1, -1
    largest = np.finfo(dtype).max
    result = cuekit.slic(photo * largest, n_segments=20)
    assert result.max() > 3
    np.testing.assert_array_equal(result, cuekit.slic(photo * (largest / 4), n_segments=20))
    assert cuekit.slic(np.full((4, 5, channels), largest)).shape == (4, 5)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3), (0, 4, 4, 3)])
def test_empty(shape):
    result = cuekit.slic(np.zeros(shape, np.uint8))
    assert result.shape == shape[:-1]
    assert result.dtype == np.int32


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_photos(dtype, value):
    photo = np.zeros((4, 5, 3), dtype)
    photo[3, 4, 2] = value
    message = re.escape(f"image must be finite, got {value} at index (3, 4, 2)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.slic(photo)
    with pytest.raises(ValueError, match=r"at index \(2, 3, 4\)$"):
        cuekit.slic(np.moveaxis(photo, -1, 0), channel_axis=0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_segments": 0}, ValueError),
        ({"n_segments": 2.5}, TypeError),
        ({"compactness": 0.0}, ValueError),
        ({"compactness": -1.0}, ValueError),
        ({"compactness": 1e-16}, ValueError),
        ({"compactness": np.nan}, ValueError),
        ({"compactness": "1"}, TypeError),
        ({"sigma": -0.1}, ValueError),
        ({"sigma": 2**31}, ValueError),
        ({"sigma": None}, TypeError),
        ({"channel_axis": 3}, ValueError),
        ({"channel_axis": -4}, ValueError),
        ({"channel_axis": 0.0}, TypeError),
        ({"threads": 0}, ValueError),
        ({"threads": True}, TypeError),
    ],
)
def test_wrong_options(options, error):
    [(name, value)] = options.items()
    with pytest.raises(error, match=f"^{name} must be .*, got {value!r}"):
        cuekit.slic(np.zeros((4, 5, 3), np.uint8), **options)


def test_wrong_photos():
    with pytest.raises(ValueError, match=r"^image must have shape .*, got \(4, 5\); pass channel"):
        cuekit.slic(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"^image must have at least one channel, got \(4, 5, 0\)"):
        cuekit.slic(np.zeros((4, 5, 0), np.uint8))
    with pytest.raises(TypeError, match=r"^image must have dtype uint8 or .*, got int64$"):
        cuekit.slic(np.zeros((4, 5, 3), np.int64))


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"^slic needs .* pip install 'cuekit\[superpixels\]'"):
        cuekit.slic(np.zeros((4, 5, 3), np.uint8))
