"""Colours in L*a*b* against the oracle and scikit-image."""

import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, needs, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import THREADS, batches, cpu_runs, reordered, sizes

import cuekit
from cuekit import reference

# The largest difference of two orders of rounding in float64, and half a float32 step of values up
# to 128, plus that.
TOLERANCE = {"float64": 1e-12, "float32": 2.0**-18 + 1e-12}

dtypes = st.sampled_from(["float32", "float64"])


@st.composite
def rgb(draw):
    """Noise, and dark colours, which are on the straight part of both curves."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (*draw(batches), *draw(sizes), 3)
    largest = draw(st.sampled_from([0, 1, 12, 30, 255]))
    return draw(reordered(rng.integers(0, largest, shape, np.uint8, endpoint=True)))


def assert_close(result, expected, dtype):
    assert result.dtype == dtype
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE[dtype])


@given(rgb(), dtypes, cpu_runs)
def test_equals_oracle(image, dtype, run):
    result = run(cuekit.rgb_to_lab, image, dtype=dtype)
    assert_close(result, reference.rgb_to_lab(image), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_scikit_image(dtype, figures):
    """All grays, and a grid of all colours: every fifth value, both ends included."""
    color = needs("skimage.color")
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(52, -1, 3)
    grays = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    for image in (grid, grays):
        result, expected = cuekit.rgb_to_lab(image, dtype=dtype), color.rgb2lab(image)
        assert_close(result, expected, dtype)
    difference = np.abs(cuekit.rgb_to_lab(grid, dtype=dtype) - color.rgb2lab(grid)).max()
    figures.append(f"rgb_to_lab, {dtype}: {difference:.1e} from scikit-image at most")


def test_known_colours():
    """Black, white, and that equal channels have no hue up to the rounding of the constants."""
    image = np.array([[[0, 0, 0], [255, 255, 255], [128, 128, 128]]], np.uint8)
    lab = cuekit.rgb_to_lab(image, dtype="float64")
    np.testing.assert_allclose(lab[0, :2, 0], [0, 100], rtol=0, atol=1e-12)
    np.testing.assert_allclose(lab[..., 1:], 0, rtol=0, atol=0.02)


def test_same_bits_for_any_threads_and_instructions():
    image = np.random.default_rng(0).integers(0, 256, (130, 301, 3), np.uint8)
    for dtype in ("float32", "float64"):
        expected = cuekit.rgb_to_lab(image, dtype=dtype)
        for name in INSTRUCTION_SETS:
            set_instruction_set(name)
            for threads in THREADS:
                result = cuekit.rgb_to_lab(image, dtype=dtype, threads=threads)
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 4, 4, 3)])
def test_empty(shape):
    result = cuekit.rgb_to_lab(np.zeros(shape, np.uint8))
    assert result.shape == shape
    assert result.dtype == np.float32


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros((4, 5, 3)), {}, TypeError, "image must have dtype uint8, got float64"),
        (
            np.zeros((4, 5, 4), np.uint8),
            {},
            ValueError,
            "image must have shape (..., H, W, 3), got (4, 5, 4)",
        ),
        (
            np.zeros((3, 4, 5), np.uint8),
            {},
            ValueError,
            "image must have shape (..., H, W, 3), got (3, 4, 5): the channels come first; "
            "move them to the end",
        ),
        (
            np.zeros((4, 5, 3), np.uint8),
            {"dtype": "float16"},
            ValueError,
            "dtype must be one of 'float32', 'float64', got 'float16'",
        ),
    ],
)
def test_wrong_arguments(image, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        cuekit.rgb_to_lab(image, **options)
