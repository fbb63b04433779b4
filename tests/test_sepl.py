"""SEPL's label maps, against the oracle and against the steps of the published code."""

import re

import numpy as np
import pytest
from common import DATA, VOC, needs_data
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FRONT_ENDS,
    INTEGERS,
    assert_equal,
    batches,
    by_image,
    masks,
    reordered,
    sizes,
)

import cuekit
from cuekit import reference

CAMS = DATA / "cams" / "color.npz"


def published(labels, regions, num_classes=21):
    """The steps of the authors' code, one mask at a time; its quotients are float64."""
    result = np.zeros_like(labels)
    used = set()
    for value in range(1, num_classes):
        seed = labels == value
        if np.sum(seed) == 0:
            continue
        offered = np.zeros(labels.shape, dtype=bool)
        merged = np.zeros(labels.shape, dtype=int)
        for r, region in enumerate(regions):
            if r in used:
                continue
            offered |= region
            overlap = np.sum(region & seed)
            if 2 * overlap - np.sum(region) > 0 or overlap / np.sum(seed) >= 0.85:
                merged += region
                used.add(r)
        merged += seed & ~offered
        result[merged > 0] = value
    return result


@st.composite
def inputs(draw):
    """Label maps of few classes, and masks of which some resemble a class."""
    batch, size = draw(batches), draw(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    top = min(255, np.iinfo(dtype).max)
    values = np.array(draw(st.sampled_from([[0, 1], [0, 1, 2, 5], [0, 3, 20, top], [7], [0]])))
    labels = rng.choice(values, (*batch, *size)).astype(dtype)
    regions = draw(masks((*batch, draw(st.integers(0, 5)), *size)))
    grown = labels[..., None, :, :] == rng.choice(values, regions.shape[:-2])[..., None, None]
    similar = rng.random(regions.shape[:-2]) < 0.6
    regions = np.where(similar[..., None, None], grown ^ (rng.random(regions.shape) < 0.1), regions)
    return batch, draw(reordered(labels)), draw(reordered(regions))


NOTHING_BUT_255 = "ignore:labels hold nothing but 0 and 255"


@pytest.mark.filterwarnings(NOTHING_BUT_255)
@given(inputs(), st.sampled_from(FRONT_ENDS), st.sampled_from([255, 0, 5, None, -1]))
def test_equals_oracle(arrays, front_end, ignore):
    batch, labels, regions = arrays
    if ignore == -1 and labels.dtype.kind == "i":
        labels = np.where(labels == 1, labels.dtype.type(-1), labels)
    wrapped = front_end.wrap(labels), front_end.wrap(regions)
    result = front_end.unwrap(cuekit.sepl_labels(*wrapped, ignore=ignore))
    oracle = by_image(
        lambda each, stack: reference.sepl_labels(each, stack, ignore), batch, labels, regions
    )
    assert_equal(result, oracle)


@given(inputs())
def test_equals_the_published_code(arrays):
    batch, labels, regions = arrays
    labels = np.where(labels > 20, labels.dtype.type(0), labels)
    assert_equal(cuekit.sepl_labels(labels, regions), by_image(published, batch, labels, regions))


@needs_data(VOC, CAMS)
def test_equals_the_published_code_on_photos():
    """Maps of photos with two classes or more, and superpixels of three scales as masks."""
    image = pytest.importorskip("PIL.Image")
    with np.load(CAMS) as file:
        several = [key for key in file.files if key.endswith("/classes") and len(file[key]) > 1]
        photos = {key.split("/")[0]: file[key] for key in several[:6]}
        maps = {name: file[f"{name}/cams"] for name in photos}
    independent = 0
    for name, classes in photos.items():
        with image.open(VOC / "JPEGImages" / f"{name}.jpg") as file:
            photo = np.asarray(file.convert("RGB"))
        cues = cuekit.resize_cues(cuekit.raw_cues(maps[name], None), photo.shape[:2])
        labels = cuekit.cues_to_labels(cues, classes=[0, *classes], unknown=0)
        scales = [cuekit.felzenszwalb(photo, scale=scale) for scale in (100, 400, 1600)]
        regions = np.concatenate([np.unique(s)[:, None, None] == s for s in scales])
        result = cuekit.sepl_labels(labels, regions)
        assert_equal(result, published(labels, regions))
        assert (result != labels).any()
        on = np.stack([labels == value for value in (0, *classes)])
        on[0] = False
        snapped = cuekit.snap_cues(on, regions, accept="sepl")
        other = cuekit.cues_to_labels(snapped, classes=[0, *classes], unknown=0)
        independent += np.sum(other != result)
    assert independent > 0  # snap_cues lets every class take every mask


def test_a_mask_is_taken_once_and_later_classes_overwrite():
    labels = np.array([[1, 1, 1, 2, 2, 0]])
    first = np.array([[1, 1, 1, 1, 0, 0]], dtype=bool)  # taken by 1, no cover for 2
    both = np.array([[0, 0, 1, 1, 1, 1]], dtype=bool)  # all of 2; a third of 1
    result = cuekit.sepl_labels(labels, np.stack([first, both]))
    np.testing.assert_array_equal(result, [[1, 1, 2, 2, 2, 2]])
    # No class takes this mask: what it covers becomes background.
    rejected = np.array([[0, 0, 1, 0, 0, 1]], dtype=bool)
    result = cuekit.sepl_labels(labels, rejected[None])
    np.testing.assert_array_equal(result, [[1, 1, 0, 2, 2, 0]])


def test_ignored_pixels_are_no_class_and_stay_where_no_class_is_written():
    labels = np.array([[1, 1, 255, 255, 0]], np.uint8)
    mask = np.array([[[1, 1, 1, 0, 0]]], dtype=bool)
    result = cuekit.sepl_labels(labels, mask)
    np.testing.assert_array_equal(result, [[1, 1, 1, 255, 0]])
    # As a class, 255 takes no mask that 1 took, which does not cover it any more.
    result = cuekit.sepl_labels(labels, mask, ignore=None)
    np.testing.assert_array_equal(result, [[1, 1, 255, 255, 0]])
    result = cuekit.sepl_labels(np.where(labels == 255, -1, labels.astype(int)), mask, ignore=-1)
    np.testing.assert_array_equal(result, [[1, 1, 1, -1, 0]])


def test_binary_masks_of_0_and_255_as_labels_warn():
    labels = np.array([[0, 255, 255]], np.uint8)
    mask = np.array([[[0, 1, 1]]], dtype=bool)
    with pytest.warns(UserWarning, match="nothing but 0 and 255, and 255 is ignored"):
        result = cuekit.sepl_labels(labels, mask)
    np.testing.assert_array_equal(result, labels)


@pytest.mark.parametrize("one", [1, 255])
def test_uint8_masks(one):
    labels = np.array([[[1, 1, 2, 0]], [[0, 2, 2, 2]]])
    regions = np.array([[[[1, 1, 0, 0]]], [[[0, 1, 1, 0]]]], np.uint8)
    expected = cuekit.sepl_labels(labels, regions.astype(bool))
    np.testing.assert_array_equal(cuekit.sepl_labels(labels, regions * np.uint8(one)), expected)
    regions[0, 0, 0, 0] = 7
    with pytest.raises(ValueError, match=r"^masks must hold 0 and 1, or 0 and 255, where"):
        cuekit.sepl_labels(labels, regions)


def test_no_masks_and_no_pixels():
    labels = np.array([[3, 0, 255]], np.uint8)
    none = np.zeros((0, 1, 3), dtype=bool)
    np.testing.assert_array_equal(cuekit.sepl_labels(labels, none), labels)
    for shape in ((0, 3), (3, 0), (0, 2, 3), (2, 0, 3)):
        stack = np.ones((*shape[:-2], 4, *shape[-2:]), dtype=bool)
        assert cuekit.sepl_labels(np.zeros(shape, int), stack).shape == shape


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0, -1]], {}, "labels must be at least 0 or 255, got -1 at index (0, 1)"),
        ([[0, -2]], {"ignore": -1}, "labels must be at least 0 or -1, got -2 at index (0, 1)"),
        ([[-1, 1]], {"ignore": None}, "labels must be at least 0, got -1 at index (0, 0)"),
        ([[0, 0, 0]], {}, "masks must have shape (2, 1, 3) to match labels, got (2, 1, 2)"),
        ([[0.5, 0]], {}, "labels must have any integer dtype, got float64"),
        ([[0, 0]], {"ignore": 2.5}, "ignore must be an integer, got 2.5"),
    ],
)
def test_wrong_arguments(labels, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        cuekit.sepl_labels(np.array(labels), np.ones((2, 1, 2), dtype=bool), **options)
