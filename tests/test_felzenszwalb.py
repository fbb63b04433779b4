"""Superpixels against the oracle, scikit-image with a stable sort, and scikit-image as released.

scikit-image sorts the edges with an unstable sort: as released, its labels for edges of equal cost
depend on NumPy's version and the processor. With a stable sort, ours are equal for every photo; as
released, for photos without such edges, which is every photo here that is smoothed.
"""

import re
from unittest import mock

import numpy as np
import pytest
from common import INSTRUCTION_SETS, VOC, at_most, needs, needs_data, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    THREADS,
    assert_equal,
    by_image,
    cpu_runs,
    memory_orders,
    photos,
    reordered,
)

import cuekit
from cuekit import reference

SETTINGS = [(200, 0.8, 60), (100, 0.8, 20), (50, 0.5, 20), (1, 0, 1)]

out_of_range = pytest.mark.filterwarnings("ignore:image should lie in:UserWarning")

scales = st.sampled_from([0.0, 0.5, 1.0, 50.0, 200.0, 1e9])
sigmas = st.sampled_from([0.0, 1e-16, 0.1, 0.5, 0.8, 3.0, 11.0])
min_sizes = st.sampled_from([0, 1, 2, 20, 10_000])


def stable_peer(photo, scale, sigma, min_size):
    """scikit-image's function with a stable sort instead of its unstable one."""
    segmentation = needs("skimage.segmentation")
    argsort = np.argsort
    with mock.patch.object(np, "argsort", lambda costs: argsort(costs, kind="stable")):
        labels = segmentation.felzenszwalb(photo, scale, sigma, min_size)
    return labels.astype(np.int32)


def sample_photos():
    """Photos that come with scikit-image, and flat colours with many edges of equal cost."""
    data = needs("skimage.data")
    flat = np.random.default_rng(0).integers(0, 4, (40, 60, 3), np.uint8) * 85
    return [data.chelsea(), data.coffee(), data.astronaut()[::2, ::2], flat.repeat(3, 0)]


# -------------------------------------------------------------------------------------- equality


@at_most(300)
@given(
    st.data(), st.sampled_from([(), (1,), (3,), (2, 2), (0,)]), scales, sigmas, min_sizes, cpu_runs
)
def test_equals_oracle(data, batch, scale, sigma, min_size, run):
    # NumPy sums eight channels and more in another order, and more than 128 in yet another.
    photo = data.draw(photos(batch, (1, 2, 3, 4, 7, 8, 9, 17, 129, 300), largest=11))
    photo = data.draw(reordered(photo))
    options = {"scale": scale, "sigma": sigma, "min_size": min_size}
    # Said, since 3 or 4 rows of many channels look like photos with their channels first.
    result = run(cuekit.felzenszwalb, photo, channel_axis=photo.ndim - 1, **options)
    assert_equal(result, by_image(lambda p: reference.felzenszwalb(p, **options), batch, photo))


@pytest.mark.filterwarnings("ignore:Got image with third dimension:RuntimeWarning")
@given(photos(), scales, sigmas, min_sizes)
def test_equals_scikit_image_with_a_stable_sort(photo, scale, sigma, min_size):
    peer_photo = photo.astype(np.float64) if photo.dtype.kind == "f" else photo
    expected = stable_peer(peer_photo, scale, sigma, min_size)
    result = cuekit.felzenszwalb(photo, scale=scale, sigma=sigma, min_size=min_size)
    assert_equal(result, expected)


@pytest.mark.parametrize(("scale", "sigma", "min_size"), SETTINGS)
def test_equals_scikit_image_on_its_photos(scale, sigma, min_size):
    segmentation = needs("skimage.segmentation")
    for photo in sample_photos():
        result = cuekit.felzenszwalb(photo, scale=scale, sigma=sigma, min_size=min_size)
        assert_equal(result, stable_peer(photo, scale, sigma, min_size))
        if sigma > 0 and len(np.unique(photo)) > 4:
            shipped = segmentation.felzenszwalb(photo, scale, sigma, min_size)
            np.testing.assert_array_equal(result, shipped)


@needs_data(VOC)
@pytest.mark.parametrize(("scale", "sigma", "min_size"), SETTINGS)
def test_equals_scikit_image_on_voc(figures, scale, sigma, min_size):
    from PIL import Image

    first = 16 * SETTINGS.index((scale, sigma, min_size))
    files = sorted((VOC / "JPEGImages").glob("*.jpg"))[first::128]
    assert files
    for file in files:
        photo = np.array(Image.open(file).convert("RGB"))
        result = cuekit.felzenszwalb(photo, scale=scale, sigma=sigma, min_size=min_size)
        assert_equal(result, stable_peer(photo, scale, sigma, min_size))
    figures.append(
        f"felzenszwalb({scale}, {sigma}, {min_size}): labels of {len(files)} VOC photos equal "
        "to scikit-image's with a stable sort"
    )


def test_defaults():
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = cuekit.felzenszwalb(photo, scale=200, sigma=0.8, min_size=60)
    np.testing.assert_array_equal(cuekit.felzenszwalb(photo), expected)


# A threshold beyond float32 is infinite: so in the kernel, and in the oracle with a warning.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@out_of_range
@pytest.mark.parametrize("factor", [1e-300, 1e-45, 1e-39, 1.0, 1e37, 1e45, 1e150])
def test_costs_beyond_the_range_of_float32(factor):
    """They share the first or the last bucket of the sort."""
    photo = np.random.default_rng(3).random((12, 13, 3)) * factor
    for options in ({"scale": 100 * factor}, {"scale": 0.0}):
        options |= {"sigma": 0.5, "min_size": 4}
        expected = reference.felzenszwalb(photo, **options)
        assert_equal(cuekit.felzenszwalb(photo, **options), expected)
    assert expected.max() > 0


@out_of_range
def test_costs_that_overflow_give_labels():
    photo = np.random.default_rng(3).choice([-1.0, 1.0], (9, 9, 3)) * np.finfo(float).max
    labels = cuekit.felzenszwalb(photo, min_size=5)
    assert (np.diff(np.unique(labels)) == 1).all()


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_hundreds_of_thousands_of_nearly_equal_costs(noise):
    """More edges in one bucket of the sort than its fast path can number."""
    rng = np.random.default_rng(4)
    ramp = np.arange(620.0) * 1e-3 + rng.random((620, 620)) * noise
    photo = ramp[..., None]
    for scale in (0.5, 100):
        result = cuekit.felzenszwalb(photo, scale=scale, sigma=0, min_size=30)
        assert_equal(result, stable_peer(photo, scale, 0, 30))


@pytest.mark.parametrize("flat", [False, True])
def test_photos_that_are_merged_patch_by_patch(flat):
    """From two million pixels on: noise over larger shapes, and equal costs everywhere."""
    rng = np.random.default_rng(8)
    shapes = rng.integers(0, 4, (53, 67, 3)).repeat(40, 0).repeat(40, 1) * 60
    noise = rng.integers(0, 3, (2100, 1100, 3)) * (20 if flat else 5)
    photo = (shapes[: len(noise), : noise.shape[1]] + noise + 10).astype(np.uint8)
    options = {"scale": 60, "sigma": 0 if flat else 0.6, "min_size": 12}
    result = cuekit.felzenszwalb(photo, **options)
    assert 100 < result.max() < photo[..., 0].size / 12
    assert_equal(result, stable_peer(photo, **options))


def test_pairs_of_pixels_at_every_border():
    """Pixels united before the sort, in photos of one and two rows or columns, too."""
    rng = np.random.default_rng(9)
    for shape in ((1, 40), (40, 1), (2, 40), (40, 2), (3, 3), (17, 5), (6, 33)):
        for channels in (1, 3):
            photo = rng.random((*shape, channels))
            for scale in (0.02, 0.3, 3.0, 100.0):
                options = {"scale": scale, "sigma": 0.0, "min_size": 2}
                expected = reference.felzenszwalb(photo, **options)
                assert_equal(cuekit.felzenszwalb(photo, **options), expected)


# ------------------------------------------------------------------------------------ properties


@given(photos())
def test_numbered_by_first_appearance(photo):
    labels = cuekit.felzenszwalb(photo, scale=10, min_size=2)
    values, first = np.unique(labels, return_index=True)
    np.testing.assert_array_equal(values, np.arange(len(values)))
    assert (np.diff(first) > 0).all()


@given(photos(channel_counts=(1,)))
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


def test_same_labels_for_any_threads_and_instructions():
    rng = np.random.default_rng(5)
    batch = rng.integers(0, 256, (5, 60, 70, 3), np.uint8)
    expected = cuekit.felzenszwalb(batch, scale=100, min_size=9)
    for name in INSTRUCTION_SETS:
        set_instruction_set(name)
        for threads in THREADS:
            result = cuekit.felzenszwalb(batch, scale=100, min_size=9, threads=threads)
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3), (0, 4, 4, 3)])
def test_empty(shape):
    result = cuekit.felzenszwalb(np.zeros(shape, np.uint8))
    assert result.shape == shape[:-1]
    assert result.dtype == np.int32


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_one_pixel_and_constant_photos(front_end):
    for shape in ((1, 1, 3), (1, 7, 3), (7, 1, 3), (9, 9, 3)):
        photo = front_end.wrap(np.full(shape, 9, np.uint8))
        for options in ({}, {"sigma": 0}, {"sigma": 50}, {"min_size": 10**12}):
            assert not front_end.unwrap(cuekit.felzenszwalb(photo, **options)).any()
    each = cuekit.felzenszwalb(np.zeros((2, 3, 1), np.uint8), scale=0, min_size=0)
    np.testing.assert_array_equal(each, [[0, 1, 2], [3, 4, 5]])


def test_min_size_larger_than_the_photo():
    photo = np.random.default_rng(6).random((9, 8, 3))
    assert not cuekit.felzenszwalb(photo, scale=0, min_size=73).any()
    assert cuekit.felzenszwalb(photo, scale=0, min_size=4).any()


# ---------------------------------------------------------------------------------------- errors


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
        ({"sigma": 100_001.0}, ValueError),
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
    with pytest.raises(ValueError, match=r"^image must have shape .*, got \(4, 5\); pass channel"):
        cuekit.felzenszwalb(np.zeros((4, 5), np.uint8))
    with pytest.raises(TypeError, match=r"^image must have dtype uint8 or .*, got int64$"):
        cuekit.felzenszwalb(np.zeros((4, 5, 3), np.int64))


def test_too_many_pixels_for_the_numbers_of_the_edges():
    photo = np.zeros((2**15, 2**15, 1), np.uint8)  # never read: takes no memory
    with pytest.raises(ValueError, match=r"^image must have fewer than 1073741824 pixels, got"):
        cuekit.felzenszwalb(photo)
