"""Superpixels against scikit-image."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, FRONT_ENDS, assert_equal, memory_orders

import cuekit

segmentation = pytest.importorskip("skimage.segmentation")


@st.composite
def photos(draw, channels=3):
    """Patches of flat colour under noise: something to segment."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    patches = rng.integers(0, 256, (4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    photo = patches[rows[:, None], columns] + rng.integers(-9, 10, (height, width, channels))
    photo = photo.clip(0, 255)
    dtype = draw(st.sampled_from(["uint8", *FLOATS]))
    return photo.astype(np.uint8) if dtype == "uint8" else (photo / 255).astype(dtype)


@given(
    photos(),
    st.sampled_from([0.0, 1.0, 50.0, 200.0]),
    st.sampled_from([0.0, 0.5, 0.8]),
    st.sampled_from([0, 1, 20, 10_000]),
    st.sampled_from(FRONT_ENDS),
)
def test_equals_scikit_image(photo, scale, sigma, min_size, front_end):
    before = photo.copy()
    result = front_end.unwrap(
        cuekit.felzenszwalb(front_end.wrap(photo), scale=scale, sigma=sigma, min_size=min_size)
    )
    np.testing.assert_array_equal(photo, before)
    peer = photo.astype(np.float64) if photo.dtype.kind == "f" else photo
    expected = segmentation.felzenszwalb(peer, scale=scale, sigma=sigma, min_size=min_size)
    assert_equal(result, expected.astype(np.int32))


def test_defaults():
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = segmentation.felzenszwalb(photo, scale=200, sigma=0.8, min_size=60)
    np.testing.assert_array_equal(cuekit.felzenszwalb(photo), expected)


@given(photos())
def test_numbered_by_first_appearance(photo):
    labels = cuekit.felzenszwalb(photo, scale=10, min_size=2)
    names, first = np.unique(labels, return_index=True)
    np.testing.assert_array_equal(names, np.arange(len(names)))
    assert (np.diff(first) > 0).all()


@given(photos(channels=1))
def test_gray(photo):
    result = cuekit.felzenszwalb(photo[..., 0], channel_axis=None)
    np.testing.assert_array_equal(result, cuekit.felzenszwalb(photo))


@given(photos())
def test_channel_axis_and_memory_order(photo):
    expected = cuekit.felzenszwalb(photo, scale=20)
    for axis in (-3, 0, 1):
        moved = np.moveaxis(photo, -1, axis)
        np.testing.assert_array_equal(
            cuekit.felzenszwalb(moved, scale=20, channel_axis=axis), expected
        )
    for array in memory_orders(photo):
        np.testing.assert_array_equal(cuekit.felzenszwalb(array, scale=20), expected)


@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 2)])
def test_batch_is_a_loop(batch):
    photos = np.random.default_rng(1).integers(0, 256, (*batch, 20, 30, 3), np.uint8)
    result = cuekit.felzenszwalb(photos, scale=50, min_size=5)
    assert result.shape == (*batch, 20, 30)
    for index in np.ndindex(batch):
        alone = cuekit.felzenszwalb(photos[index], scale=50, min_size=5)
        np.testing.assert_array_equal(result[index], alone)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3), (0, 4, 4, 3)])
def test_empty(shape):
    result = cuekit.felzenszwalb(np.zeros(shape, np.uint8))
    assert result.shape == shape[:-1]
    assert result.dtype == np.int32


def test_one_pixel_and_constant_photos():
    for shape in ((1, 1, 3), (1, 7, 3), (7, 1, 3), (9, 9, 3)):
        assert not cuekit.felzenszwalb(np.full(shape, 9, np.uint8)).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_photos(dtype, value):
    photo = np.zeros((4, 5, 3), dtype)
    photo[3, 4, 2] = value
    message = re.escape(f"image must be finite, got {value} at index (3, 4, 2)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.felzenszwalb(photo)


def test_nonfinite_index_is_the_caller_s_for_any_channel_axis():
    photo = np.zeros((3, 4, 5))
    photo[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"at index \(2, 3, 4\)$"):
        cuekit.felzenszwalb(photo, channel_axis=0)
    with pytest.raises(ValueError, match=r"at index \(3, 4\)$"):
        cuekit.felzenszwalb(photo[2], channel_axis=None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"scale": -1}, ValueError),
        ({"scale": np.nan}, ValueError),
        ({"scale": "1"}, TypeError),
        ({"sigma": -0.1}, ValueError),
        ({"sigma": None}, TypeError),
        ({"min_size": -1}, ValueError),
        ({"min_size": 2.5}, TypeError),
        ({"channel_axis": 3}, ValueError),
        ({"channel_axis": -4}, ValueError),
        ({"channel_axis": 0.0}, TypeError),
    ],
)
def test_wrong_options(options, error):
    [(name, value)] = options.items()
    with pytest.raises(error, match=f"^{name} must be .*, got {value!r}"):
        cuekit.felzenszwalb(np.zeros((4, 5, 3), np.uint8), **options)


def test_wrong_photos():
    with pytest.raises(ValueError, match=r"^image must have shape .*, got \(4, 5\)$"):
        cuekit.felzenszwalb(np.zeros((4, 5), np.uint8))
    with pytest.raises(TypeError, match=r"^image must have dtype uint8 or .*, got int64$"):
        cuekit.felzenszwalb(np.zeros((4, 5, 3), np.int64))


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'cuekit\[superpixels\]'"):
        cuekit.felzenszwalb(np.zeros((4, 5, 3), np.uint8))
