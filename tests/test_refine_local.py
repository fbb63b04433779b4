"""PAR and PAMR against the oracle, and against the published computation in torch."""

import importlib.util
import re

import numpy as np
import pytest
from common import DATA, INSTRUCTION_SETS, ROOT, VOC, needs, needs_data, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    NO_DEVICE,
    batches,
    by_image,
    channel_counts,
    float_maps,
    photos,
    reordered,
    runs,
    same_bits,
    sizes,
)

import cuekit
from cuekit import reference
from cuekit.refine_local import PRESETS, RefineParams

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (19, 23, 3), np.uint8)
MAPS = RNG.random((4, 5, 6)).astype(np.float32)
SIX = (1, 2, 4, 8, 12, 24)

# Some are larger than the photos.
dilation_lists = st.sampled_from([(1,), (2, 1), (3, 3), (5, 40), SIX, (2**31 - 1, 7)])
affinities = st.sampled_from(["par", "pamr"])


def assert_close(result, expected, maps):
    """Equal up to rounding.

    Weights differ by some 1e-7 of themselves (exponentials and softmax in float32 in the oracle,
    float64 in the kernel), sums of 48 terms by 48 * 2**-24 of the largest value, in each of at most
    three iterations: together below 1e-5 of the largest value. In float64 that is 1e-13, and
    exponents up to 1e5 in magnitude are rounded to 1e-11. The kernels may read values below the
    normal range as 0. float16 is rounded once more, to one part in 2**11.
    """
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    largest = float(np.abs(maps.astype(np.float64)).max(initial=0))
    relative = {"float16": 1e-5, "float32": 1e-5, "float64": 1e-9}[maps.dtype.name]
    tiny = {"float16": 1e-7, "float32": 1e-37, "float64": 1e-300}[maps.dtype.name]
    rounding = 2**-10 if maps.dtype == np.float16 else 0
    np.testing.assert_allclose(result, expected, rtol=rounding, atol=relative * largest + tiny)


@st.composite
def inputs(draw):
    batch = draw(batches)
    photo = draw(reordered(draw(photos(batch))))
    size = draw(st.one_of(st.just(photo.shape[-3:-1]), sizes))
    maps = draw(float_maps((*batch, draw(channel_counts), *size), draw(st.sampled_from(FLOATS))))
    return batch, maps, photo


# ------------------------------------------------------------------------------------- the oracle


@given(inputs(), runs, affinities, dilation_lists, st.integers(0, 3))
def test_equals_oracle(arrays, run, affinity, dilations, iterations):
    batch, maps, photo = arrays
    params = RefineParams(affinity, dilations, iterations)

    def oracle(maps, photo):
        return reference.refine_local(maps, photo, affinity, dilations, iterations)

    result = run(cuekit.refine_local, maps, photo, preset=params)
    assert_close(result, by_image(oracle, batch, maps, photo), maps)


@given(inputs(), runs, st.integers(0, 2))
def test_channel_axes(arrays, run, iterations):
    """Channels first, as torch has them, and gray photos."""
    _, maps, photo = arrays
    options = {"iterations": iterations, "dilations": (1, 6)}
    expected = run(cuekit.refine_local, maps, photo, **options, channel_axis=photo.ndim - 1)
    first = np.ascontiguousarray(np.moveaxis(photo, -1, -3))
    for axis in (-3, photo.ndim - 3):
        result = run(cuekit.refine_local, maps, first, **options, channel_axis=axis)
        assert same_bits(result, expected)
    gray = np.ascontiguousarray(photo[..., 0])
    result = run(cuekit.refine_local, maps, gray, **options, channel_axis=None)
    expected = run(cuekit.refine_local, maps, gray[..., None], **options, channel_axis=-1)
    assert same_bits(result, expected)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [1, 4, 5, 6, 11, 21])
def test_groups_of_maps(instruction_set, dtype, channels):
    """Rows of more than one block, all sizes of groups, more rows than a task has."""
    photo = RNG.integers(0, 256, (40, 53, 3), np.uint8)
    maps = RNG.random((channels, 7, 9)).astype(dtype)
    set_instruction_set(instruction_set)
    result = cuekit.refine_local(maps, photo, threads=2, iterations=3)
    assert_close(result, reference.refine_local(maps, photo, "par", SIX, 3), maps)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("affinity", ["par", "pamr"])
@pytest.mark.parametrize(
    ("height", "dilations", "iterations", "channels"),
    [
        (96, (1,), 1, 1),  # a whole number of chunks
        (97, (1,), 1, 6),  # a last chunk of one row
        (150, (8, 2), 2, 3),  # neighbours as far away as a chunk is long
        (250, (9,), 3, 21),  # several tasks in a chunk
        (400, (3, 10**6), 1, 2),  # farther than the photo: no waves
    ],
)
def test_tall_photos(instruction_set, affinity, height, dilations, iterations, channels):
    """They are refined in waves, of which few rows are in memory at a time."""
    set_instruction_set(instruction_set)
    photo = RNG.integers(0, 256, (2, height, 21, 3), np.uint8)
    maps = RNG.random((2, channels, height // 3, 5)).astype(np.float32)
    params = RefineParams(affinity, dilations, iterations)
    result = cuekit.refine_local(maps, photo, params)
    for own, each, image in zip(result, maps, photo, strict=True):
        expected = reference.refine_local(each, image, affinity, dilations, iterations)
        assert_close(own, expected, maps)
    for threads in (2, 8):
        assert same_bits(cuekit.refine_local(maps, photo, params, threads=threads), result)
    alone = cuekit.refine_local(maps[:1], photo[:1], params, threads=2)
    assert same_bits(alone, result[:1])


def test_tall_photos_whose_result_is_not_finite():
    """Weights sum to 1.01: values near the largest of float16 leave it, here in some row."""
    photo = np.zeros((200, 9, 3), np.uint8)
    for row in (0, 100, 199):
        maps = np.zeros((1, 200, 9), np.float16)
        maps[:, max(0, row - 1) : row + 2] = np.finfo(np.float16).max
        with pytest.raises(ValueError, match="finite"):
            cuekit.refine_local(maps, photo, dilations=[1], iterations=1)


def test_without_iterations_maps_are_resized():
    result = cuekit.refine_local(MAPS, PHOTO, iterations=0)
    np.testing.assert_array_equal(result[:, ::18, ::22], MAPS[:, ::4, ::5])  # corners are aligned
    expected = reference.resize_corners(MAPS, (19, 23))
    np.testing.assert_allclose(result, expected, rtol=1e-7)
    same_size = RNG.random((2, 19, 23))
    for dtype in FLOATS:
        maps = same_size.astype(dtype)
        assert same_bits(cuekit.refine_local(maps, PHOTO, iterations=0), maps)


def test_resizing_equals_torch():
    torch = needs("torch")
    maps = RNG.random((3, 31, 17))
    for size in [(1, 1), (1, 9), (31, 17), (62, 34), (100, 5)]:
        photo = np.zeros((*size, 3), np.uint8)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=True
        )[0]
        result = cuekit.refine_local(maps, photo, iterations=0)
        # torch rounds positions, which are up to 31, in float64.
        np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-13)


# --------------------------------------------------------------------------------- defined answers


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("colour", [0, 1, 0.1, 255])
def test_photo_of_one_colour(dtype, colour):
    """No standard deviation: colours say nothing, all neighbours count the same."""
    photo = np.full((9, 9, 3), colour, dtype)
    maps = np.zeros((1, 9, 9), np.float32)
    maps[0, 4, 4] = 1
    result = cuekit.refine_local(maps, photo, "pamr", dilations=[2], iterations=1)[0]
    expected = np.zeros((9, 9))
    expected[2:7:2, 2:7:2] = 1 / 8
    expected[4, 4] = 0
    np.testing.assert_allclose(result, expected, rtol=1e-7)
    uniform = cuekit.refine_local(np.ones_like(maps), photo, iterations=1)
    np.testing.assert_allclose(uniform, 1.01, rtol=1e-6)


def test_one_pixel():
    for photo in (np.zeros((1, 1, 3), np.uint8), np.array([[[0.3, 7.0]]])):
        result = cuekit.refine_local(np.full((2, 3, 3), 0.5), photo, "pamr")
        np.testing.assert_allclose(result, np.full((2, 1, 1), 0.5), rtol=1e-12)


def test_dilations_beyond_the_photo_reach_its_border():
    """But their distance counts, in PAR."""
    near, far = (
        cuekit.refine_local(MAPS, PHOTO, "pamr", dilations=[d], iterations=2)
        for d in (23, 2**31 - 1)
    )
    assert same_bits(near, far)
    photo = np.zeros((3, 3, 1), np.uint8)
    maps = np.arange(9.0).reshape(1, 3, 3)
    result = cuekit.refine_local(maps, photo, "pamr", dilations=[10**6], iterations=1)
    assert result[0, 1, 1] == pytest.approx(np.mean([0, 1, 2, 3, 5, 6, 7, 8]))
    assert result[0, 0, 0] == pytest.approx(np.mean([0, 0, 2, 0, 2, 6, 6, 8]))


def test_a_pixel_that_differs_from_equal_neighbours():
    """The exponents are huge and equal: uniform weights, no NaN."""
    photo = np.full((7, 7, 3), 1e18)
    photo[3, 3] = -1e18
    maps = np.zeros((1, 7, 7), np.float32)
    maps[0, 2, 2] = 8
    for preset in ("par", "pamr"):
        result = cuekit.refine_local(maps, photo, preset, dilations=[1], iterations=1)
        assert np.isfinite(result).all()
        assert result[0, 3, 3] == pytest.approx(1, abs=0.02)


def test_values_of_photos_are_limited():
    photo = np.array([[[1e300], [-3e200], [0.0]]])
    limited = photo.clip(-1e18, 1e18)
    maps = RNG.random((2, 1, 3))
    assert same_bits(cuekit.refine_local(maps, photo), cuekit.refine_local(maps, limited))


def test_scale_and_offset_of_the_photo_make_no_difference():
    maps = RNG.random((3, 19, 23)).astype(np.float32)
    expected = cuekit.refine_local(maps, PHOTO)
    for photo in (PHOTO / 255, (PHOTO / 255 - 0.45) / 0.22, PHOTO.astype(np.float32)):
        # Rounding of exponents of up to some hundred, in float32.
        np.testing.assert_allclose(cuekit.refine_local(maps, photo), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 5, 6), (0, 5, 0), (0, 3, 5, 6), (2, 0, 3, 5, 6)])
def test_empty_maps_and_batches(shape):
    photo = np.zeros((*shape[:-3], 7, 8, 3), np.uint8)
    result = cuekit.refine_local(np.zeros(shape, np.float32), photo)
    assert result.shape == (*shape[:-2], 7, 8)


@pytest.mark.parametrize("size", [(0, 8), (7, 0), (0, 0)])
def test_empty_photos(size):
    result = cuekit.refine_local(MAPS, np.zeros((*size, 3), np.uint8))
    assert result.shape == (4, *size)


def test_maps_without_pixels():
    with pytest.raises(ValueError, match=r"^maps must have at least one pixel, got \(2, 0, 5\)$"):
        cuekit.refine_local(np.zeros((2, 0, 5)), PHOTO)


# -------------------------------------------------------------------------------------- settings


def test_presets():
    for name in ("par", "afa", "toco", "dupl", "seco", "more", "cosa"):
        assert PRESETS[name] == RefineParams("par", SIX, 10)
    for name in ("excel", "weclip"):
        assert PRESETS[name] == RefineParams("par", SIX, 20)
    assert PRESETS["pamr"] == RefineParams("pamr", SIX, 10)
    for name in ("sclip", "naclip", "trident"):
        assert PRESETS[name] == RefineParams("pamr", (8, 16), 10)
    expected = cuekit.refine_local(MAPS, PHOTO, "weclip")
    assert same_bits(cuekit.refine_local(MAPS, PHOTO, "par", iterations=20), expected)
    assert same_bits(cuekit.refine_local(MAPS, PHOTO, PRESETS["weclip"]), expected)
    for dilations in ([8, 16], np.array([8, 16]), range(8, 17, 8)):
        result = cuekit.refine_local(MAPS, PHOTO, "pamr", dilations=dilations)
        assert same_bits(result, cuekit.refine_local(MAPS, PHOTO, "naclip"))


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "parr"}, ValueError, f"preset must be one of {', '.join(map(repr, PRESETS))}, "
         "got 'parr'"),
        ({"preset": 3}, TypeError, "preset must be a preset's name or RefineParams, got 3"),
        ({"dilations": []}, ValueError, "dilations must be 1 to 64 numbers, got 0"),
        ({"dilations": [1] * 65}, ValueError, "dilations must be 1 to 64 numbers, got 65"),
        ({"dilations": 8}, TypeError, "dilations must be a sequence of integers, got 8"),
        ({"dilations": [1, 0]}, ValueError, "dilations[1] must be at least 1, got 0"),
        ({"dilations": [1.5]}, TypeError, "dilations[0] must be an integer, got 1.5"),
        ({"dilations": [2**31]}, ValueError, "dilations[0] must be less than 2147483648, got "
         "2147483648"),
        ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ({"iterations": 2.0}, TypeError, "iterations must be an integer, got 2.0"),
        ({"channel_axis": 1}, ValueError, "channel_axis must be -1 or -3 (the last axis, or the "
         "third from the end), or None for gray photos, got 1"),
        ({"channel_axis": "last"}, TypeError, "channel_axis must be an integer, got 'last'"),
        ({"validate": 1}, TypeError, "validate must be True or False, got 1"),
    ],
)  # fmt: skip
def test_wrong_settings(options, error, message):
    with raises(error, message):
        cuekit.refine_local(MAPS, PHOTO, **options)


def test_wrong_affinity():
    with raises(ValueError, "affinity must be one of 'par', 'pamr', got 'psa'"):
        RefineParams("psa", (1,), 1)


def test_photos_of_other_layouts_are_named():
    first = np.moveaxis(PHOTO, -1, 0)
    with pytest.raises(ValueError, match=r"the channels seem to come first; pass channel_axis=-3"):
        cuekit.refine_local(MAPS, first)
    with pytest.raises(ValueError, match=r"got \(19, 23\); pass channel_axis=None for gray"):
        cuekit.refine_local(MAPS, PHOTO[..., 0])
    with raises(ValueError, "image must have at least one channel, got (19, 23, 0)"):
        cuekit.refine_local(MAPS, PHOTO[..., :0])
    with raises(ValueError, "image must have shape (2, 19, 23, 3) to match maps, got (19, 23, 3)"):
        cuekit.refine_local(np.stack([MAPS, MAPS]), PHOTO)


def test_maps_whose_classes_come_last_are_named():
    photo = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(ValueError, match=r"got \(40, 50, 21\): the classes come last; move them"):
        cuekit.refine_local(np.zeros((40, 50, 21)), photo)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nonfinite_values(value, dtype):
    maps = np.zeros((2, 300, 301), dtype)
    maps[1, 299, 300] = value
    with raises(ValueError, f"maps must be finite, got {value} at index (1, 299, 300)"):
        cuekit.refine_local(maps, PHOTO)
    photo = PHOTO.astype(dtype)
    photo[18, 22, 2] = value
    for iterations in (0, 3):
        with raises(ValueError, f"image must be finite, got {value} at index (18, 22, 2)"):
            cuekit.refine_local(MAPS, photo, iterations=iterations)


@pytest.mark.parametrize("dtype", FLOATS)
def test_results_that_overflow(dtype):
    """PAR's weights sum to 1.01."""
    maps = np.full((1, 5, 5), np.finfo(dtype).max)
    message = f"maps must be small enough for {dtype}, got an infinite result after 10 iterations"
    with raises(ValueError, message):
        cuekit.refine_local(maps, PHOTO)
    largest = cuekit.refine_local(maps, PHOTO, iterations=0)
    np.testing.assert_array_equal(largest, np.finfo(dtype).max)


@pytest.mark.skipif(not DEVICES, reason=NO_DEVICE)
@pytest.mark.parametrize("device", DEVICES, ids=lambda front_end: front_end.name)
def test_nonfinite_values_on_a_device(device):
    with device.active():
        maps, photo = MAPS.copy(), PHOTO.astype(np.float32)
        maps[1, 2, 3] = np.nan
        result = device.unwrap(cuekit.refine_local(device.wrap(maps), device.wrap(photo)))
        assert np.isfinite(result[0]).all()
        with raises(ValueError, "maps must be finite, got nan at index (1, 2, 3)"):
            cuekit.refine_local(device.wrap(maps), device.wrap(photo), validate=True)
        photo[1, 2, 0] = np.inf
        result = device.unwrap(cuekit.refine_local(device.wrap(MAPS), device.wrap(photo)))
        assert np.isfinite(result).all()
        with raises(ValueError, "image must be finite, got inf at index (1, 2, 0)"):
            cuekit.refine_local(device.wrap(MAPS), device.wrap(photo), validate=True)


# ---------------------------------------------------------------------- the published computation


def published():
    needs("torch")
    path = ROOT / "benchmarks" / "peers_torch.py"
    if not path.exists():
        pytest.skip("needs benchmarks/peers_torch.py: run the tests in a clone")
    spec = importlib.util.spec_from_file_location("peers_torch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.refine_published


def assert_published(maps, photo, preset):
    """Labels at 99.99 % of the pixels, and 1e-5 of the maps' range."""
    torch = needs("torch")
    images = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    theirs = published()(torch.from_numpy(maps)[None], images, preset)[0].numpy()
    ours = cuekit.refine_local(maps, photo, preset, threads=2)
    off = np.abs(ours - theirs).max() / np.ptp(theirs)
    alike = (ours.argmax(0) == theirs.argmax(0)).mean()
    assert off <= 1e-5
    assert alike >= 0.9999
    return off, alike


@pytest.mark.parametrize("preset", ["par", "weclip", "pamr", "naclip"])
def test_equals_the_published_modules(preset):
    patches = RNG.integers(0, 256, (6, 8, 3)).repeat(12, 0).repeat(12, 1)
    photo = (patches + RNG.integers(-9, 10, patches.shape)).clip(0, 255).astype(np.uint8)
    maps = RNG.random((5, 9, 11), np.float32)
    assert_published(maps, photo, preset)


@needs_data(VOC, DATA / "cams" / "color.npz")
@pytest.mark.parametrize("preset", ["par", "weclip", "pamr", "naclip"])
def test_equals_the_published_modules_on_real_photos(preset, figures):
    """With a background map beside the photos' class activation maps."""
    names = sorted(path.stem for path in (VOC / "JPEGImages").glob("*.jpg"))
    worst, least = 0.0, 1.0
    with np.load(DATA / "cams" / "color.npz") as data:
        for name in names[:: len(names) // 3][:3]:
            photo = cuekit.io.read_photo(VOC / "JPEGImages" / f"{name}.jpg")[:250, :300]
            cams = data[f"{name}/cams"].astype(np.float32)
            cams /= cams.max((1, 2), keepdims=True) + 1e-5
            maps = np.concatenate([(1 - cams.max(0, keepdims=True)) ** 2, cams])
            off, alike = assert_published(maps, np.ascontiguousarray(photo), preset)
            worst, least = max(worst, off), min(least, alike)
    figures.append(f"refine_local, {preset}: max |Δ| {worst:.1e} of the range, labels {least:.4%}")


# --------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_adapters(dtype):
    torch = needs("torch")
    from cuekit.nn import PAMR, PAR

    imgs = torch.rand(2, 3, 19, 23)
    masks = torch.rand(2, 4, 5, 6).to(getattr(torch, dtype)).requires_grad_()
    wide = masks.detach().float() if dtype == "bfloat16" else masks.detach()
    for module, preset in (
        (PAR([1, 2], 3), RefineParams("par", (1, 2), 3)),
        (PAR(num_iter=10, dilations=[1, 2, 4, 8, 12, 24]), "par"),
        (PAMR(3, [1, 2]), RefineParams("pamr", (1, 2), 3)),
        (PAMR(), RefineParams("pamr", (1,), 1)),
        (PAMR(num_iter=10, dilations=(8, 16)).eval(), "sclip"),
    ):
        result = module(imgs, masks)
        assert result.dtype == masks.dtype
        assert not result.requires_grad
        expected = cuekit.refine_local(wide, imgs, preset, channel_axis=-3)
        assert torch.equal(result, expected.to(masks.dtype))


def test_adapters_take_part_in_modules():
    torch = needs("torch")
    from cuekit.nn import PAMR, PAR

    net = torch.nn.ModuleDict({"par": PAR([1], 1), "pamr": PAMR(), "linear": torch.nn.Linear(1, 1)})
    state = {**net.state_dict(), "par.kernel": torch.zeros(8, 1, 3, 3)}
    state["pamr.aff_x.kernel"] = torch.zeros(8, 1, 3, 3)
    net.load_state_dict(state)  # a checkpoint of the published modules, strictly
    assert set(net.state_dict()) == {"linear.weight", "linear.bias"}
    assert net["par"].dilations == [1]
    net["par"].num_iter = 0
    masks = torch.rand(1, 2, 6, 7)
    assert torch.equal(net["par"](torch.rand(1, 3, 6, 7), masks), masks)
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        PAR([1], -1)


def test_adapters_run_on_the_device_of_the_masks():
    torch = needs("torch")
    emulated = pytest.importorskip("emulated")
    if not emulated.wanted():
        pytest.skip(NO_DEVICE)
    from cuekit.nn import PAR

    imgs, masks = torch.rand(2, 3, 19, 23), torch.rand(2, 4, 5, 6)
    expected = PAR([1, 2], 3)(imgs, masks)
    with emulated.torch_on_device():
        result = PAR([1, 2], 3)(imgs, masks)
    torch.testing.assert_close(result, expected)
