"""Boundaries of photos: between which pixels they lie, and at which size."""

import re

import numpy as np
import pytest
from common import needs
from strategies import FLOATS, same_bits

import cuekit

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (7, 9, 3), np.uint8)


def by_loops(photo, contrast=0.3):
    """The docstring's definition, pixel by pixel."""
    colours = photo.astype(np.float64) / (255 if photo.dtype == np.uint8 else 1)
    height, width = colours.shape[:2]
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < width:
                    d = np.sqrt(((colours[y, x] - colours[v, u]) ** 2).mean())
                    out[y, x] = max(out[y, x], 1 - np.exp(-d / contrast))
    return out


@pytest.mark.parametrize("dtype", ["uint8", *FLOATS])
def test_equals_its_definition(dtype):
    photo = PHOTO if dtype == "uint8" else (PHOTO / 255).astype(dtype)
    for contrast in (0.3, 0.01, 5):
        result = cuekit.photo_boundary(photo, contrast=contrast)
        assert result.dtype == np.float32
        # float32 differences and exponentials.
        np.testing.assert_allclose(result, by_loops(photo, contrast), rtol=0, atol=1e-6)


def test_superpixels_have_one_colour():
    labels = np.repeat(np.arange(3), 3)[None] + np.zeros((7, 1), int)
    result = cuekit.photo_boundary(PHOTO, labels)
    assert (result[:, [2, 5]] > 0).all()
    assert (np.delete(result, [2, 5], axis=1) == 0).all()
    means = cuekit.superpixel_mean(np.moveaxis(PHOTO, -1, 0), labels) / 255
    expected = by_loops(np.moveaxis(means, 0, -1))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    none = np.full((7, 9), -1)
    assert same_bits(cuekit.photo_boundary(PHOTO, none), cuekit.photo_boundary(PHOTO))


@pytest.mark.parametrize("size", [(3, 4), (7, 9), (1, 1), (5, 20), (14, 18), (7, 2)])
def test_cells_have_the_largest_value_of_their_pixels(size):
    whole = cuekit.photo_boundary(PHOTO)
    result = cuekit.photo_boundary(PHOTO, size=size)
    assert result.shape == size
    for y in range(size[0]):
        for x in range(size[1]):
            rows, columns = (
                [i for i in range(length) if i * cells // length == cell]
                if cells <= length
                else [(2 * cell + 1) * length // (2 * cells)]
                for cell, cells, length in zip((y, x), size, (7, 9), strict=True)
            )
            assert result[y, x] == whole[np.ix_(rows, columns)].max()


def test_thin_boundaries_stay_closed():
    """A walk over coarse cells does not leave a superpixel of another colour."""
    photo = np.zeros((40, 40, 3), np.uint8)
    photo[11:27, 13:30] = 255
    boundary = cuekit.photo_boundary(photo, size=(10, 10), contrast=0.01)
    maps = np.zeros((1, 10, 10))
    maps[0, 4, 5] = 1
    walked = cuekit.random_walk(maps, boundary)[0]
    assert walked[4, 5] > 0
    assert walked[:2].max() < 1e-9
    assert walked[:, :3].max() < 1e-9
    assert walked[8:].max() < 1e-9


def test_one_colour_has_no_boundary():
    for photo in (np.full((5, 6, 3), 77, np.uint8), np.ones((1, 1, 3), np.uint8)):
        assert (cuekit.photo_boundary(photo) == 0).all()


@pytest.mark.parametrize("shape", [(0, 5, 6, 3), (0, 6, 3), (5, 0, 3), (2, 0, 0, 3)])
def test_no_pixels(shape):
    photo = np.zeros(shape, np.uint8)
    assert cuekit.photo_boundary(photo).shape == shape[:-1]
    if shape[0] != 0 or len(shape) == 3:
        message = f"image must have at least one pixel, got {shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            cuekit.photo_boundary(photo, size=(2, 2))
    else:
        assert cuekit.photo_boundary(photo, size=(2, 2)).shape == (0, 2, 2)


def test_channels():
    gray = PHOTO[..., 0]
    expected = cuekit.photo_boundary(gray, channel_axis=None)
    assert same_bits(cuekit.photo_boundary(gray[..., None]), expected)
    first = np.moveaxis(PHOTO, -1, 0)
    expected = cuekit.photo_boundary(PHOTO)
    assert same_bits(cuekit.photo_boundary(first, channel_axis=0), expected)
    with pytest.raises(ValueError, match="channels seem to come first"):
        cuekit.photo_boundary(first)


def test_torch():
    torch = needs("torch")
    result = cuekit.photo_boundary(torch.from_numpy(PHOTO), size=(3, 3))
    assert same_bits(result.numpy(), cuekit.photo_boundary(PHOTO, size=(3, 3)))


@pytest.mark.filterwarnings("ignore:image should lie")
@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_of_any_size(dtype):
    largest = np.finfo(dtype).max
    photo = np.array([[[largest], [-largest], [0]]], dtype)
    np.testing.assert_array_equal(cuekit.photo_boundary(photo), [[1, 1, 0]])
    photo[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"^image must be finite, got nan at index \(0, 1, 0\)$"):
        cuekit.photo_boundary(photo)


def test_range_of_floats_is_warned_of():
    with pytest.warns(UserWarning, match="image should lie in"):
        cuekit.photo_boundary(PHOTO.astype(np.float32))


@pytest.mark.parametrize(
    ("value", "error", "rule"),
    [
        (0, ValueError, "greater than 0, got 0.0"),
        (-1, ValueError, "greater than 0, got -1.0"),
        (np.nan, ValueError, "finite, got nan"),
        ("1", TypeError, "a number, got '1'"),
    ],
)
def test_wrong_contrast(value, error, rule):
    with pytest.raises(error, match=f"^contrast must be {re.escape(rule)}$"):
        cuekit.photo_boundary(PHOTO, contrast=value)


def test_wrong_superpixels():
    message = "superpixels must have shape (7, 9) to match image, got (9, 7)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cuekit.photo_boundary(PHOTO, np.zeros((9, 7), int))
    with pytest.raises(ValueError, match=r"^superpixels must be at least -1, got -2"):
        cuekit.photo_boundary(PHOTO, np.full((7, 9), -2))
    with pytest.raises(TypeError, match=r"^superpixels must have any integer dtype, got float64$"):
        cuekit.photo_boundary(PHOTO, np.zeros((7, 9)))
