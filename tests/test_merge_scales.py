"""Merged scales, against the oracle and against what the published scripts do with torch."""

import re

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FRONT_ENDS,
    batches,
    by_image,
    channel_counts,
    reordered,
    same_bits,
    sides,
)

import cuekit
from cuekit import reference

MERGES = ("sum", "mean", "max")
NORMALIZE = ("max", "minmax", None)

image_sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def inputs(draw):
    """Maps of one to four scales, and perhaps of the mirror image."""
    batch, channels = draw(batches), draw(channel_counts)

    def one(size, dtype):
        shape = (*batch, channels, *size)
        rng = np.random.default_rng(draw(seeds))
        kind = draw(st.sampled_from(["noise", "ties", "constant", "negative"]))
        if kind == "noise":
            values = rng.uniform(-1, 4, shape)
        elif kind == "ties":
            values = rng.integers(-4, 17, shape) / 4
        else:
            values = np.full(shape, 3.1 if kind == "constant" else -1)
        return draw(reordered(values.astype(dtype)))

    scales = draw(st.lists(st.tuples(image_sizes, st.sampled_from(FLOATS)), min_size=1, max_size=4))
    maps = [one(*scale) for scale in scales]
    return batch, maps, [one(*scale) for scale in scales] if draw(st.booleans()) else None


@given(
    inputs(),
    st.sampled_from(FRONT_ENDS),
    st.none() | image_sizes,
    st.fixed_dictionaries(
        {
            "flips": st.sampled_from(MERGES),
            "scales": st.sampled_from(MERGES),
            "normalize": st.sampled_from(NORMALIZE),
            "epsilon": st.sampled_from([1e-5, 1e-3, 0.5]),
        }
    ),
)
def test_equals_oracle(arrays, front_end, size, options):
    batch, maps, flipped = arrays
    mirrored = None if flipped is None else [front_end.wrap(each) for each in flipped]
    wrapped = [front_end.wrap(each) for each in maps]
    result = front_end.unwrap(cuekit.merge_scales(wrapped, flipped=mirrored, size=size, **options))
    size = size or max((each.shape[-2:] for each in maps), key=np.prod)

    def oracle(*images):
        images, mirrors = [*images[: len(maps)]], [*images[len(maps) :]]
        return reference.merge_scales(images, mirrors or None, size, **options)

    expected = by_image(oracle, batch, *maps, *(flipped or []))
    assert result.dtype == np.result_type(*maps)
    assert result.shape == expected.shape
    assert result.flags.c_contiguous
    # Rounding in float64 of up to 8 maps with values up to 4, which is divided by `epsilon` or
    # more; and rounding to the dtype of the result.
    atol = 8 * 8 * 4 * np.finfo(np.float64).eps
    if options["normalize"] is not None:
        atol /= options["epsilon"]
    rtol = np.finfo(result.dtype).eps
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------- the published scripts


@st.composite
def photos(draw):
    """The size of a photo, and a network's maps of it at several scales, before ReLU."""
    torch = needs("torch")
    height, width = draw(st.tuples(st.integers(20, 70), st.integers(20, 70)))
    rng = np.random.default_rng(draw(seeds))
    maps = []
    for scale in (1, 0.5, 1.5, 2):
        size = int(height * scale) // 16 + 1, int(width * scale) // 16 + 1
        pair = rng.uniform(-0.5, 1, (2, 3, *size)).astype(np.float32)
        pair[:, 1] = -1  # a class that is not found
        maps.append(torch.from_numpy(pair))
    return (height, width), maps


def resized(maps, size):
    torch = needs("torch")
    mode = {"mode": "bilinear", "align_corners": False}
    return torch.nn.functional.interpolate(maps, size, **mode)


def largest(maps):
    return maps.amax((-2, -1), keepdim=True)


def assert_close(result, expected):
    """Equal up to the rounding of torch's float32.

    Positions, up to 9, are rounded three times: 2e-6 of the difference of neighbours, 1.5, for each
    of 8 maps; their sum is divided by its maximum, which is above 0.7 here.
    """
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=8 * 1.5 * 2e-6 / 0.7)


@given(photos())
def test_equals_psa(photo):
    """infer_cls.py: every map is resized, flipped back and added."""
    size, pairs = photo
    pairs = [pair.relu() for pair in pairs]
    total = sum(resized(pair[:1], size)[0] + resized(pair[1:], size)[0].flip(-1) for pair in pairs)
    maps, flipped = ([pair[i].numpy() for pair in pairs] for i in (0, 1))
    result = cuekit.merge_scales(maps, flipped=flipped, size=size)
    assert_close(result, total / (largest(total) + 1e-5))


@given(photos())
def test_equals_irn(photo):
    """make_cam.py: the network adds the mirror image's; resized to a padded photo, and cropped."""
    size, pairs = photo
    outputs = [pair[0].relu() + pair[1].relu().flip(-1) for pair in pairs]
    maps = [output.numpy() for output in outputs]
    quarter = tuple((side - 1) // 4 + 1 for side in size)
    total = sum(resized(output[None], quarter)[0] for output in outputs)
    expected = total / (largest(total) + 1e-5)
    assert_close(cuekit.merge_scales(maps, size=quarter), expected)
    padded = tuple(((side - 1) // 16 + 1) * 16 for side in size)
    total = sum(resized(output[None], padded)[0] for output in outputs)
    total = total[..., : size[0], : size[1]]
    expected = total / (largest(total) + 1e-5)
    assert_close(cuekit.merge_scales(maps, size=padded, crop=size), expected)


@given(photos())
def test_equals_toco(photo):
    """multi_scale_cam2: the larger of both images, from the minimum to the maximum."""
    size, pairs = photo
    total = 0
    for pair in pairs:
        both = resized(pair, size)
        total = total + both[0].maximum(both[1].flip(-1)).relu()
    total = total + largest(-total)
    maps, flipped = ([pair[i].numpy() for pair in pairs] for i in (0, 1))
    result = cuekit.merge_scales(maps, flipped=flipped, size=size, flips="max", normalize="minmax")
    assert_close(result, total / (largest(total) + 1e-5))


@given(photos())
def test_equals_the_scores_of_toco(photo):
    """infer_seg_voc.py: signed scores, the largest of all scales."""
    size, pairs = photo
    scales = [resized(pair, size) for pair in pairs]
    scales = [both[0] + both[1].flip(-1) for both in scales]
    expected = scales[0].maximum(scales[1]).maximum(scales[2]).maximum(scales[3])
    maps, flipped = ([pair[i].numpy() for pair in pairs] for i in (0, 1))
    options = {"scales": "max", "normalize": None}
    assert_close(cuekit.merge_scales(maps, flipped=flipped, size=size, **options), expected)


@given(photos())
def test_equals_clip_es(photo):
    """scale_cam_image: a single map of positive values, normalised before it is resized."""
    size, pairs = photo
    maps = pairs[0][0].numpy() + np.float32(1)
    expected = maps - maps.min((-2, -1), keepdims=True)
    expected = expected / (np.float32(1e-7) + expected.max((-2, -1), keepdims=True))
    result = cuekit.merge_scales([maps], normalize="minmax", epsilon=1e-7)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2**-23)
    assert cuekit.resize_maps(result, size).shape == (3, *size)


# ------------------------------------------------------------------------------------- by example

SMALL = np.array([[[2.0]]])
LARGE = np.array([[[-1.0, 6.0]]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"normalize": None}, [1, 8]),
        ({"normalize": None, "scales": "mean"}, [0.5, 4]),
        ({"normalize": None, "scales": "max"}, [2, 6]),
        ({}, [0.25, 1]),  # 2 and 8
        ({"scales": "max"}, [2 / 6, 1]),
        ({"normalize": "minmax"}, [0, 1]),
        ({"epsilon": 8}, [0.125, 0.5]),
    ],
)
def test_rules(options, expected):
    result = cuekit.merge_scales([SMALL, LARGE], **{"epsilon": 0, **options})
    np.testing.assert_allclose(result, [[expected]], rtol=1e-15)


@pytest.mark.parametrize(
    ("flips", "expected"), [("sum", [-1 + 8, 6 + 4]), ("mean", [3.5, 5]), ("max", [8, 6])]
)
def test_mirror_images(flips, expected):
    mirrored = np.array([[[4.0, 8.0]]])
    result = cuekit.merge_scales([LARGE], flipped=[mirrored], flips=flips, normalize=None)
    np.testing.assert_array_equal(result, [[expected]])


@pytest.mark.parametrize("epsilon", [0, 1e-5])
@pytest.mark.parametrize("normalize", ["max", "minmax"])
def test_a_class_that_is_not_found_is_zero(normalize, epsilon):
    maps = np.array([[[-2.0, -1.0]], [[0.0, 0.0]], [[0.0, 1.0]]])
    result = cuekit.merge_scales([maps], normalize=normalize, epsilon=epsilon)
    np.testing.assert_allclose(result, [[[0, 0]], [[0, 0]], [[0, 1]]], atol=2e-5)


def test_a_map_whose_minimum_and_maximum_are_the_same():
    constant = np.full((1, 2, 3), 0.7, np.float32)
    assert (cuekit.merge_scales([constant], size=(5, 7), normalize="minmax", epsilon=0) == 0).all()
    assert (cuekit.merge_scales([constant], size=(5, 7), epsilon=0) == 1).all()


def test_what_is_cropped_does_not_count():
    maps = np.array([[[1.0, 2.0, 9.0]]])
    result = cuekit.merge_scales([maps], crop=(1, 2), epsilon=0)
    np.testing.assert_array_equal(result, [[[0.5, 1]]])


def test_one_map_of_one_scale_is_kept():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert same_bits(cuekit.merge_scales([maps], normalize=None), maps)


@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 2, 3, 4)])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_no_maps(shape, normalize):
    maps = [np.zeros(shape), np.zeros((*shape[:-2], 6, 8))]
    assert cuekit.merge_scales(maps, normalize=normalize).shape == (*shape[:-2], 6, 8)


def test_no_pixels():
    assert cuekit.merge_scales([np.zeros((2, 0, 3))]).shape == (2, 0, 3)
    with pytest.raises(ValueError, match=r"^maps\[1\] must have at least one pixel, got \(2, 0, 3"):
        cuekit.merge_scales([np.zeros((2, 4, 3)), np.zeros((2, 0, 3))])


# ------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        (SMALL, {}, "maps must be a sequence of arrays, one for each scale, got ndarray"),
        ("ab", {}, "maps must be a sequence of arrays, one for each scale, got str"),
        ([], {}, "maps must have at least one scale, got none"),
        ([SMALL[0]], {}, "maps[0] must have shape (..., C, h, w), got (1, 1)"),
        ([SMALL > 1], {}, "maps[0] must have dtype float16 or float32 or float64, got bool"),
        (
            [SMALL, np.ones((2, 3, 3))],
            {},
            "maps[1] must have shape (1, h, w) to match maps[0], got (2, 3, 3)",
        ),
        (
            [SMALL, LARGE],
            {"flipped": [SMALL]},
            "flipped must have one item for each of maps, 2, got 1",
        ),
        (
            [SMALL, LARGE],
            {"flipped": [SMALL, SMALL]},
            "flipped[1] must have shape (1, 1, 2) to match maps[1], got (1, 1, 1)",
        ),
        ([SMALL], {"flips": "add"}, "flips must be one of 'sum', 'mean', 'max', got 'add'"),
        ([SMALL], {"scales": None}, "scales must be one of 'sum', 'mean', 'max', got None"),
        ([SMALL], {"normalize": "min"}, "normalize must be one of 'max', 'minmax', got 'min'"),
        ([SMALL], {"epsilon": -1}, "epsilon must be at least 0, got -1.0"),
        ([SMALL], {"size": 3}, "size must be a pair (height, width), got 3"),
        ([LARGE], {"crop": (1, 3)}, "crop must be at most (1, 2), the size, got (1, 3)"),
        ([LARGE * np.nan], {}, "maps[0] must be finite, got nan at index (0, 0, 0)"),
        (
            [SMALL],
            {"flipped": [SMALL * np.inf]},
            "flipped[0] must be finite, got inf at index (0, 0, 0)",
        ),
    ],
)
def test_wrong_arguments(maps, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        cuekit.merge_scales(maps, **options)


@pytest.mark.parametrize(
    ("value", "dtype", "options"),
    [
        (4e4, "float16", {"normalize": None}),
        (8e307, "float64", {"normalize": None}),
        (8e307, "float64", {}),
        (-8e307, "float64", {"normalize": None}),
    ],
)
def test_sums_that_are_too_large(value, dtype, options):
    maps = [np.full((1, 1, 2), value, dtype)] * 3
    message = f"maps must be small enough for their sum in {dtype}, got a larger sum"
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.merge_scales(maps, **options)


def test_sums_of_float16_are_not_in_float16():
    maps = [np.array([[[3e4, 6e4]]], np.float16)] * 3
    np.testing.assert_allclose(cuekit.merge_scales(maps), [[[0.5, 1]]], rtol=1e-3)
