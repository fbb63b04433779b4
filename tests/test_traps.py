"""Calls that gave a wrong answer without a word, or were refused for no good reason."""

import re

import numpy as np
import pytest
from common import needs

import cuekit

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 14, 3), np.uint8)
MAPS = RNG.random((3, 6, 7))
SUPERPIXELS = np.arange(12 * 14).reshape(12, 14) // 40
PROBABILITIES = np.full((4, 12, 14), 0.25, np.float32)


def raises(error, *parts):
    """An error whose message has these parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


# ------------------------------------------------------------------------------ channel order


@pytest.mark.parametrize("function", [cuekit.felzenszwalb, cuekit.slic])
@pytest.mark.parametrize("shape", [(3, 12, 14), (5, 3, 12, 14), (4, 12, 14)])
def test_channel_first_photos_are_refused(function, shape):
    if function is cuekit.slic:
        needs("skimage")
    photo = RNG.integers(0, 256, shape, np.uint8)
    with raises(ValueError, "image must have shape (..., H, W, channels), got", "channel_axis=-3"):
        function(photo)
    first = function(photo, channel_axis=-3)
    np.testing.assert_array_equal(first, function(np.moveaxis(photo, -3, -1)))


def test_photos_of_many_channels_and_few_rows_can_be_meant():
    photo = RNG.random((3, 12, 14))
    assert cuekit.felzenszwalb(photo, channel_axis=2).shape == (3, 12)


def test_channel_first_photos_of_the_crf_are_named():
    with raises(
        ValueError, "image must have shape (..., H, W) or (..., H, W, C), got (3, 12, 14)", "first"
    ):
        cuekit.dense_crf(PROBABILITIES, np.moveaxis(PHOTO, -1, 0))


def test_channel_last_scores_of_the_crf_are_named():
    with raises(ValueError, "probabilities must have shape (..., K, H, W), got", "last"):
        cuekit.dense_crf(np.moveaxis(PROBABILITIES, 0, -1), PHOTO)


def test_gray_photos_get_the_hint():
    with raises(ValueError, "got (12, 14)", "channel_axis=None"):
        cuekit.felzenszwalb(PHOTO[..., 0])


# ---------------------------------------------------------------------------- masks and tags


CUE_FUNCTIONS = {
    "snap_cues": lambda cues: cuekit.snap_cues(cues, SUPERPIXELS),
    "fuse_cues": lambda cues: cuekit.fuse_cues(cues, cues > 0),
    "fuse_cues, second": lambda cues: cuekit.fuse_cues(cues > 0, cues),
    "resize_cues": lambda cues: cuekit.resize_cues(cues, (3, 3)),
    "cues_to_labels": cuekit.cues_to_labels,
}


@pytest.mark.parametrize("function", CUE_FUNCTIONS.values(), ids=CUE_FUNCTIONS.keys())
def test_heat_maps_and_label_maps_are_no_masks(function):
    masks = MAPS > 0.5
    expected = function(masks)
    for one in (1, 255):
        np.testing.assert_array_equal(function(masks.astype(np.uint8) * np.uint8(one)), expected)
    for wrong in ((MAPS * 60).astype(np.uint8), masks.astype(np.uint8) * np.uint8(2)):
        with raises(ValueError, "must hold 0 and 1, or 0 and 255", "uint8, got"):
            function(wrong)
    mixed = masks.astype(np.uint8)
    mixed[0, 0, 0] = 255
    with raises(ValueError, "must hold 0 and 1, or 0 and 255", "uint8, got 1 at index"):
        function(mixed)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint16", "float16", "float32"])
def test_tags_are_0_and_1_of_any_dtype(dtype):
    tags = np.array([1, 0, 1])
    expected = cuekit.subtract_classes(MAPS, tags.astype(bool))
    np.testing.assert_array_equal(cuekit.subtract_classes(MAPS, tags.astype(dtype)), expected)
    np.testing.assert_array_equal(
        cuekit.subtract_classes(MAPS, tags.astype(dtype).tolist()), expected
    )


@pytest.mark.parametrize(
    "tags", [[3, 14], [0, 1, 2], [0.5, 1, 0], np.array([-1, 0, 1]), [np.nan] * 3]
)
def test_other_numbers_are_no_tags(tags):
    with raises(ValueError, "present must hold 0 or 1 for each foreground class, got", "class ids"):
        cuekit.subtract_classes(MAPS, tags)


def test_tags_that_require_grad_in_a_list():
    torch = needs("torch")
    with raises(ValueError, "present must be rows of 0 and 1"):
        cuekit.subtract_classes(MAPS, [torch.ones(3, requires_grad=True)])


# ------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize("photo", [PHOTO.astype(np.float32), (PHOTO / 255.0 - 0.5) / 0.25])
def test_floating_photos_outside_0_to_1_are_warned_of(photo):
    with pytest.warns(UserWarning, match=r"image should lie in \[0, 1\] where it is floating"):
        cuekit.felzenszwalb(photo)


def test_floating_photos_of_0_to_1_are_not(recwarn):
    cuekit.felzenszwalb(PHOTO / 255.0)
    assert not recwarn.list


def test_a_single_map_is_no_crf():
    with raises(ValueError, "at least one class, got shape (1, 12, 14)", "stack [1 - p, p]"):
        cuekit.dense_crf(PROBABILITIES[:1], PHOTO)


def test_the_number_of_classes_is_bounded():
    with raises(ValueError, "num_classes must be at most 65536, got 1099511627776"):
        cuekit.labels_to_probabilities(np.zeros((0, 9, 13), int), 2**40)


# ------------------------------------------------------------------- what people pass, accepted


def test_classes_are_any_sequence_of_integers():
    cues = MAPS > 0.5
    expected = cuekit.cues_to_labels(cues, classes=[0, 7, 9])
    many = [(0, 7, 9), np.array([0, 7, 9]), {0: "a", 7: "b", 9: "c"}.keys(), {0: 1, 7: 1, 9: 1}]
    for classes in many:
        np.testing.assert_array_equal(cuekit.cues_to_labels(cues, classes=classes), expected)
    for wrong in (np.array(1), 3, "012"):
        with raises(TypeError, "classes must be a sequence of integers, got"):
            cuekit.cues_to_labels(cues, classes=wrong)
    with raises(TypeError, "classes[0] must be an integer, got 7.0"):
        cuekit.cues_to_labels(cues, classes=np.array([0.0, 7.0, 9.0])[[1, 1, 2]].astype(object))


def test_classes_from_a_tensor():
    torch = needs("torch")
    cues = torch.from_numpy(MAPS > 0.5)
    result = cuekit.cues_to_labels(cues, classes=torch.tensor([0, 7, 9]))
    assert torch.equal(result, cuekit.cues_to_labels(cues, classes=[0, 7, 9]))
    size = torch.zeros(4, 5).shape
    assert cuekit.resize_cues(cues, size).shape[-2:] == (4, 5)


def test_a_size_may_be_an_array():
    assert cuekit.resize_cues(MAPS > 0.5, np.array([4, 5])).shape[-2:] == (4, 5)
    assert cuekit.background_map(MAPS, size=[4, 5]).shape == (4, 5)
    for wrong in (4, np.array(4), (4, 5, 6), "45", {4.0, 5.0}):
        with raises(TypeError, "size must be"):
            cuekit.resize_cues(MAPS > 0.5, wrong)


def test_features_of_different_dtypes():
    halves = MAPS.astype(np.float16)
    mixed = cuekit.background_map(MAPS.astype(np.float32), halves)
    same = cuekit.background_map(MAPS.astype(np.float32), halves.astype(np.float32))
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed, same)


def test_felzenszwalb_takes_scikit_images_positional_call():
    result = cuekit.felzenszwalb(PHOTO, 100, 0.8, 20)
    expected = cuekit.felzenszwalb(PHOTO, scale=100, sigma=0.8, min_size=20)
    np.testing.assert_array_equal(result, expected)


def test_dtypes_are_named_by_their_kind():
    with raises(TypeError, "superpixels must have dtype bool or any integer dtype, got float64"):
        cuekit.snap_cues(MAPS > 0.5, MAPS[0])
    with raises(TypeError, "labels must have any integer dtype, got float64"):
        cuekit.labels_to_probabilities(MAPS[0], 3)


# --------------------------------------------------------------------- refusals before any cost


def test_a_size_is_refused_before_the_input_is_copied():
    huge = np.broadcast_to(np.zeros(1, bool), (1, 2**16, 2**16))  # 4 GiB, if it were copied
    with raises(ValueError, "cues must have fewer than 2147483648 pixels, got 4294967296"):
        cuekit.snap_cues(huge, SUPERPIXELS)


# ---------------------------------------------------------------------- tensors of other kinds


def test_fake_nested_and_mapped_tensors_are_named():
    torch = pytest.importorskip("torch", reason="needs torch")
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3, 6, 7)
    with raises(TypeError, "cams must hold values, got a fake tensor"):
        cuekit.subtract_classes(fake)
    with pytest.warns(UserWarning, match="nested"):  # torch's own, of a prototype
        nested = torch.nested.nested_tensor([torch.zeros(3, 6, 7)])
    with raises(TypeError, "cams must be a dense tensor, got a nested tensor"):
        cuekit.subtract_classes(nested)
    with raises(TypeError, "cams must be a plain tensor, got one of torch.func.vmap", "batch"):
        torch.func.vmap(cuekit.subtract_classes)(torch.zeros(2, 3, 6, 7))


# torch.func.jvp imports a part of torch that warns of torch.jit.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torch_func_grad():
    torch = pytest.importorskip("torch", reason="needs torch")
    maps, superpixels = torch.from_numpy(MAPS), np.arange(42).reshape(6, 7) // 5
    expected = cuekit.superpixel_mean(torch.ones_like(maps), superpixels)

    def total(values):
        return cuekit.superpixel_mean(values, superpixels).sum()

    torch.testing.assert_close(torch.func.grad(total)(maps), expected)
    with raises(ValueError, "cams requires grad, and this function has no gradient"):
        torch.func.grad(lambda values: cuekit.subtract_classes(values).sum())(maps)
    for function in (cuekit.subtract_classes, lambda m: cuekit.superpixel_mean(m, superpixels)):
        with raises((ValueError, RuntimeError), "forward"):
            torch.func.jvp(function, (maps,), (maps,))


# ------------------------------------------------------------------------- labels to be ignored


def test_any_label_may_be_the_ignored_one():
    cues = np.array([[[1, 0, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 1, 0]]], dtype=bool)
    result = cuekit.cues_to_labels(cues, overlap="ignore", ignore=-1)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, [[1, 1, -1, -1]])
    result = cuekit.cues_to_labels(cues, classes=[0, 255, 7], ignore=None, unknown=9)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, [[255, 255, 7, 9]])


def test_without_an_ignored_label_nothing_can_be_ignored():
    cues = MAPS > 0.5
    with raises(ValueError, "unknown must be given where ignore is None"):
        cuekit.cues_to_labels(cues, ignore=None)
    with raises(ValueError, "overlap='ignore' needs a label to ignore, got ignore=None"):
        cuekit.cues_to_labels(cues, ignore=None, unknown=0, overlap="ignore")
    with raises(ValueError, "classes must not contain 7", "for channel 1; pass another ignore="):
        cuekit.cues_to_labels(cues, classes=[0, 7, 9], ignore=7)
    with raises(TypeError, "ignore must be an integer, got '255'"):
        cuekit.cues_to_labels(cues, ignore="255")
