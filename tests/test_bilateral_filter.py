"""The bilateral filter against the oracle, against pydensecrf, and as a model.

Tolerances are relative to the filter of the values' magnitudes: where values cancel, the error is
that of the sums, not of the result.
"""

import re

import numpy as np
import pytest
from common import INSTRUCTION_SETS, VOC, at_most, needs, needs_data, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    NO_DEVICE,
    THREADS,
    Run,
    batches,
    cpu_runs,
    float_maps,
    memory_orders,
    reordered,
    runs_of,
    same_bits,
)

import cuekit
from cuekit import reference
from cuekit._checks import NARROWEST
from cuekit.bilateral_filter import LARGEST_VALUE, differentiable_filter

# Around the widths of vector registers, and more than are filtered at a time.
channel_counts = st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 17, 21, 24, 25, 32, 33, 70])
sides = st.integers(1, 12)
sizes = st.one_of(
    st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 40), (40, 1), (13, 31), (31, 27)])
)
widths = st.sampled_from([1e-3, 0.125, 0.25, 1.0, 3.0, 13.0, 80.0, 1e4, 1e12])
switches = st.booleans()


def patches(height, width, noise, seed=0):
    """A photo of flat patches under noise."""
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, 256, (3, 4, 3))
    photo = flat[np.arange(height)[:, None] * 3 // height, np.arange(width) * 4 // width]
    photo = photo + rng.integers(-noise, noise + 1, (height, width, 3))
    return photo.clip(0, 255).astype(np.uint8)


@st.composite
def inputs(draw, sizes=sizes, dtypes=FLOATS):
    """Maps and photos: patches under noise, noise alone, one colour."""
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    dtype = draw(st.sampled_from(dtypes))
    values = draw(float_maps((*batch, channels, *size), dtype))
    if dtype != "float16":
        values = values.clip(-1e20, 1e20)
    noise, seed = draw(st.sampled_from([0, 5, 255])), draw(st.integers(0, 2**31))
    photo = np.zeros((*batch, *size, 3), np.uint8)
    for i, index in enumerate(np.ndindex(*batch)):
        photo[index] = patches(*size, noise, seed + i)
    if draw(switches):
        photo[:] = draw(st.sampled_from([0, 7, 255]))
    return values, draw(reordered(photo))


def filtered(values, photo, sxy, srgb, normalize=False, threads=1):
    return cuekit.bilateral_filter(
        values, photo, sxy=sxy, srgb=srgb, normalize=normalize, threads=threads
    )


def wide_enough(*values):
    """The widths that count."""
    return [max(value, NARROWEST) for value in values]


def adjoint(values, photo, sxy, srgb, normalize=False, threads=1):
    return differentiable_filter(
        values,
        photo,
        *wide_enough(sxy, srgb),
        normalize,
        adjoint=True,
        validate=False,
        threads=threads,
    )


def assert_close(result, expected, magnitudes, dtype, *, normalize=False, on_device=False):
    """Some roundings of the weights, and of float32 sums, relative to sums of magnitudes.

    Of the weights, which are float32 in float64, too, 16 roundings of 6e-8 may add up. A float32
    sum has half a rounding for each pixel at worst, where all are alike: that of the values, if
    they are not float64, and that of the normalisation. Where a pixel lies on a face of its
    simplex, a weight of 0 can round to some -1e-8: there, sums of magnitudes are next to 0, of
    either sign.
    """
    float32_sums = int(normalize) + int(dtype != "float64" or on_device)
    relative = 1e-6 + float32_sums * 3e-8 * result[..., 0, :, :].size
    magnitudes = np.abs(magnitudes) + 1e-8 * np.abs(magnitudes).max(initial=0)
    tolerance = relative * magnitudes + 1e-36
    assert (np.abs(result - expected) <= tolerance).all()


def check_against_oracle(arrays, sxy, srgb, normalize, run):
    values, photo = arrays
    result = run(filtered, values, photo, sxy=sxy, srgb=srgb, normalize=normalize)
    assert result.dtype == np.promote_types(values.dtype, np.float32)
    assert result.shape == values.shape
    for index in np.ndindex(values.shape[:-3]):
        arguments = photo[index], *wide_enough(sxy, srgb), normalize
        wide = values[index].astype(np.float64)
        expected = reference.bilateral_filter(wide, *arguments)
        magnitudes = reference.bilateral_filter(np.abs(wide), *arguments)
        assert_close(
            result[index],
            expected,
            magnitudes,
            values.dtype,
            normalize=normalize,
            on_device=run.on_device,
        )


@at_most(200)
@given(inputs(), widths, widths, switches, cpu_runs)
def test_equals_oracle(arrays, sxy, srgb, normalize, run):
    check_against_oracle(arrays, sxy, srgb, normalize, run)


small = inputs(st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 40), (9, 33)])))
device_runs = runs_of(DEVICES)
on_a_device = pytest.mark.skipif(not DEVICES, reason=NO_DEVICE)


@on_a_device
@at_most(60)
@given(small, widths, widths, switches, device_runs)
def test_equals_oracle_on_a_device(arrays, sxy, srgb, normalize, run):
    check_against_oracle(arrays, sxy, srgb, normalize, run)


def sample_photo():
    """A photo that comes with scikit-image, with a number of pixels that 4 divides."""
    return np.ascontiguousarray(needs("skimage.data").chelsea()[:, :448])


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_oracle_on_a_photo(normalize):
    photo = sample_photo()[60:171, 90:217]
    values = np.random.default_rng(0).normal(size=(5, 111, 127)).astype(np.float32)
    result = filtered(values, photo, 50, 15, normalize, threads=2)
    expected = reference.bilateral_filter(values, photo, 50, 15, normalize)
    magnitudes = reference.bilateral_filter(np.abs(values), photo, 50, 15, normalize)
    # Values differ, so the roundings of float32 sums do not add up.
    assert (np.abs(result - expected) <= 5e-6 * magnitudes).all()


# --------------------------------------------------------------------------------- the adjoint


def check_adjoint(arrays, sxy, srgb, normalize, run):
    """<A x, y> = <x, A' y>, with an error relative to the sum of magnitudes."""
    values, photo = arrays
    others = np.random.default_rng(0).normal(size=values.shape).astype(values.dtype)
    options = {"sxy": sxy, "srgb": srgb, "normalize": normalize}
    ahead, back = (
        run(function, array, photo, **options).astype(np.float64)
        for function, array in ((filtered, values), (adjoint, others))
    )
    x, y = values.astype(np.float64), others.astype(np.float64)
    # The sum of magnitudes, for which the filter of magnitudes is at most the largest of all.
    largest = run(filtered, np.abs(values), photo, **options).astype(np.float64)
    scale = np.abs(y * largest).sum() + 1e-36
    precise = values.dtype == np.float64 and not run.on_device
    assert abs((ahead * y).sum() - (x * back).sum()) <= (1e-14 if precise else 5e-6) * scale


@at_most(150)
@given(inputs(), widths, widths, switches, cpu_runs)
def test_adjoint(arrays, sxy, srgb, normalize, run):
    check_adjoint(arrays, sxy, srgb, normalize, run)


@on_a_device
@at_most(40)
@given(small, widths, widths, switches, device_runs)
def test_adjoint_on_a_device(arrays, sxy, srgb, normalize, run):
    check_adjoint(arrays, sxy, srgb, normalize, run)


def test_the_adjoint_is_the_oracle_with_axes_in_the_opposite_order():
    photo = patches(19, 23, 40)
    values = np.random.default_rng(0).normal(size=(4, 19, 23))
    features = reference.bilateral_features(photo, 5, 9)
    flat = values.reshape(4, -1)
    forward, backward = (
        reference.lattice_filter(features, adjoint=back)(flat).reshape(values.shape)
        for back in (False, True)
    )
    scale = np.abs(forward).max()
    np.testing.assert_allclose(filtered(values, photo, 5, 9), forward, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(adjoint(values, photo, 5, 9), backward, rtol=0, atol=1e-6 * scale)
    assert np.abs(forward - backward).max() > 1e-3 * scale  # or the order would not matter


def test_how_far_the_lattice_is_from_symmetric(figures):
    """What is lost where the filter itself is taken for its gradient, as in published code."""
    photo = sample_photo()[::2, ::2]
    values = np.random.default_rng(0).random((3, *photo.shape[:2]))
    forward, backward = (f(values, photo, 50, 15) for f in (filtered, adjoint))
    difference = np.abs(forward - backward)
    largest = difference.max() / forward.max()
    figures.append(
        f"bilateral_filter: the adjoint of 50, 15 differs by up to {largest:.1e} of the largest "
        f"value, {np.median(difference / forward):.1e} of each in the median"
    )
    assert 1e-6 < largest < 0.3


# --------------------------------------------------------------------------------- closed forms


@given(st.sampled_from(FLOATS), channel_counts, sizes, widths, widths)
def test_normalized_constants_stay(dtype, channels, size, sxy, srgb):
    values = np.arange(1, channels + 1)[:, None, None] * np.ones(size)
    result = filtered(values.astype(dtype), patches(*size, 30), sxy, srgb, normalize=True)
    # The rounding of sums of up to 837 equal values.
    np.testing.assert_allclose(result, values, rtol=3e-5)


def test_one_pixel_keeps_a_part_of_itself():
    """Its own weight is that of the lattice, between those of a vertex and of a simplex' centre."""
    for colour in (0, 77, 255):
        photo = np.full((1, 1, 3), colour, np.uint8)
        result = filtered(np.ones((1, 1, 1)), photo, 3, 3)
        assert 0.4 < result.item() < 1
        assert filtered(np.full((1, 1, 1), 5.0), photo, 3, 3, normalize=True).item() == (
            pytest.approx(5, rel=1e-6)
        )


def test_widths_beyond_the_photo_sum_all_pixels():
    values = np.random.default_rng(0).normal(size=(3, 12, 15))
    photo = np.full((12, 15, 3), 99, np.uint8)
    sums = filtered(values, photo, 1e12, 13)
    means = filtered(values, photo, 1e300, 13, normalize=True)
    np.testing.assert_allclose(means, values.mean((1, 2), keepdims=True) + 0 * values, atol=1e-6)
    # The lattice's own weight: the same for all.
    ratio = sums / values.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
    assert 0.4 < ratio[0, 0, 0] < 1


def test_narrow_widths_count_as_the_narrowest():
    values, photo = np.random.default_rng(0).normal(size=(2, 9, 11)), patches(9, 11, 9)
    for options in ({"sxy": 1e-30, "srgb": 9}, {"sxy": 5, "srgb": 1e-30}):
        wide = {name: max(value, NARROWEST) for name, value in options.items()}
        results = [cuekit.bilateral_filter(values, photo, **o) for o in (options, wide)]
        assert same_bits(*results)


# ------------------------------------------------------------------------------ threads, channels


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [1, 4, 21, 70])
def test_same_bits_for_any_threads_and_instructions(dtype, channels):
    """On photos that threads divide among them, in a batch of fewer images than threads."""
    photo = np.stack([patches(223, 307, 20, seed) for seed in range(3)])
    values = np.random.default_rng(0).normal(size=(3, channels, 223, 307)).astype(dtype)
    options = {"sxy": 20, "srgb": 13, "normalize": True}
    for arrays, function in (((values, photo), filtered), ((values[0], photo[0]), adjoint)):
        expected = None
        for name in INSTRUCTION_SETS:
            set_instruction_set(name)
            for threads in (*THREADS, 3):
                result = function(*arrays, threads=threads, **options)
                expected = result if expected is None else expected
                assert same_bits(result, expected), (name, threads)


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
@pytest.mark.parametrize("channels", [5, 21, 30, 33, 70])
def test_channels_are_independent(front_end, channels):
    photo = patches(19, 23, 20)
    values = np.random.default_rng(0).normal(size=(channels, 19, 23)).astype(np.float32)
    run = Run(front_end, 1, INSTRUCTION_SETS[0])
    result = run(filtered, values, photo, sxy=5, srgb=20)
    for k in {0, 3, channels - 1}:
        alone = run(filtered, values[k : k + 1].copy(), photo, sxy=5, srgb=20)
        assert same_bits(result[k : k + 1], alone)


@pytest.mark.parametrize("front_end", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_on_a_device_is_the_cpu_s(front_end, dtype):
    """Tiles that are not full, strips of fewer rows, photos that differ, one of one colour."""
    photo = np.stack([patches(41, 53, noise, noise) for noise in (0, 5, 90)])
    photo[0] = 7
    values = np.random.default_rng(0).random((3, 9, 41, 53)).astype(dtype)
    run = Run(front_end, 1, INSTRUCTION_SETS[0])
    for function in (filtered, adjoint):
        for normalize in (False, True):
            options = {"sxy": 12, "srgb": 20, "normalize": normalize}
            result = run(function, values, photo, **options)
            expected = function(values, photo, **options)
            assert result.dtype == expected.dtype
            np.testing.assert_allclose(result, expected, rtol=2e-5)


def test_any_memory_order():
    values = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    photo = patches(9, 11, 9)
    expected = filtered(values, photo, 3, 9)
    for array in memory_orders(values):
        assert same_bits(filtered(array, photo, 3, 9), expected)
    for array in memory_orders(photo):
        assert same_bits(filtered(values, array, 3, 9), expected)


def test_float16_gives_float32():
    """Sums leave its range."""
    values = np.full((1, 300, 300), 60000, np.float16)
    result = filtered(values, np.zeros((300, 300, 3), np.uint8), 1000, 13)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.min() > 65504


# ---------------------------------------------------------------------------------------- the model


def test_error_of_the_lattice(figures):
    """How far the filter is from the one it approximates: a property of the method."""
    patch = np.ascontiguousarray(sample_photo()[: 8 * 27 : 8, : 8 * 36 : 8])
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(21, 3, 4))
    smooth = reference.softmax(3 * reference.resize_bilinear(coarse, patch.shape[:2]))
    for name, values, limit in (
        ("smooth maps", smooth, 0.12),
        ("noise", rng.normal(size=smooth.shape), 0.3),
    ):
        for normalize in (False, True):
            exact = reference.bilateral_filter(
                values, patch, 50, 15, normalize, reference.exact_filter
            )
            ours = filtered(values, patch, 50, 15, normalize)
            # Without normalisation, vertices that lack neighbours lose about half of the sums.
            factor = 1 if normalize else (ours * exact).sum() / (exact * exact).sum()
            error = np.linalg.norm(ours / factor - exact) / np.linalg.norm(exact)
            figures.append(
                f"bilateral_filter, 50, 15, {name}{', normalized' if normalize else ''}: "
                f"{factor:.2f} times the filter without a lattice, and off by {error:.1%}"
            )
            assert error < limit
            assert normalize or 0.5 < factor < 0.7


# ----------------------------------------------------------------------------- against pydensecrf


def peer(values, photo, sxy, srgb):
    """The filter of pydensecrf, from one step of its mean field.

    Values are taken for the marginals of as many labels, and 0 for those of one more. Without
    unaries, the logarithms of the marginals after the step are the filtered values, relative to
    that label's. The weight keeps them small, so that the softmax loses nothing.
    """
    densecrf = needs("pydensecrf.densecrf")
    channels, height, width = values.shape
    weight = float(4 / filtered(np.abs(values), photo, sxy, srgb).max())
    model = densecrf.DenseCRF2D(width, height, channels + 1)
    model.setUnaryEnergy(np.zeros((channels + 1, height * width), np.float32))
    model.addPairwiseBilateral(
        sxy=sxy,
        srgb=srgb,
        rgbim=photo,
        compat=weight,
        normalization=densecrf.NO_NORMALIZATION,
    )
    marginals, *temporary = model.startInference()
    np.asarray(marginals)[:-1] = values.reshape(channels, -1)
    np.asarray(marginals)[-1] = 0
    model.stepInference(marginals, *temporary)
    logarithms = np.log(np.array(marginals, np.float64))
    return ((logarithms[:-1] - logarithms[-1]) / weight).reshape(values.shape)


@pytest.mark.parametrize(("sxy", "srgb"), [(50, 15), (100, 15), (80, 13), (20, 60)])
def test_equals_pydensecrf(figures, sxy, srgb):
    """To 1e-5 of the maximum, on photos with a number of pixels that 4 divides."""
    rng = np.random.default_rng(0)
    data = needs("skimage.data")
    for name in ("chelsea", "coffee", "astronaut"):
        photo = np.ascontiguousarray(getattr(data, name)()[::2, ::2])
        photo = np.ascontiguousarray(photo[:, : photo.shape[1] // 4 * 4])
        coarse = rng.normal(size=(6, 9, 12))
        values = reference.softmax(3 * reference.resize_bilinear(coarse, photo.shape[:2]))
        values = values.astype(np.float32)
        ours, theirs = (f(values, photo, sxy, srgb) for f in (filtered, peer))
        difference = np.abs(ours - theirs).max() / theirs.max()
        figures.append(
            f"bilateral_filter, {sxy}, {srgb}, {name}: {difference:.1e} of the maximum from "
            "pydensecrf"
        )
        assert difference < 1e-5


@needs_data(VOC)
def test_equals_pydensecrf_on_voc(figures):
    """On real photos at their own size, with ToCo's widths."""
    files = sorted((VOC / "JPEGImages").glob("*.jpg"))[::200]
    rng, worst = np.random.default_rng(0), 0.0
    for file in files:
        photo = cuekit.io.read_photo(file)
        photo = np.ascontiguousarray(photo[:, : photo.shape[1] // 4 * 4])
        values = reference.softmax(3 * rng.normal(size=(3, *photo.shape[:2]))).astype(np.float32)
        ours, theirs = (f(values, photo, 100, 15) for f in (filtered, peer))
        worst = max(worst, float(np.abs(ours - theirs).max() / theirs.max()))
    figures.append(
        f"bilateral_filter, 100, 15, {len(files)} VOC photos: {worst:.1e} of the maximum from "
        "pydensecrf"
    )
    assert worst < 1e-5


# ------------------------------------------------------------------------------------------- errors


VALUES = np.ones((3, 4, 5), np.float32)
PHOTO = np.zeros((4, 5, 3), np.uint8)


def refused(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (0, 2, 3), (0, 2, 3, 3), (2, 0, 3, 3)])
@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
def test_empty(shape, front_end):
    *batch, _, height, width = shape
    values, photo = np.zeros(shape, np.float16), np.zeros((*batch, height, width, 3), np.uint8)
    run = Run(front_end, 1, INSTRUCTION_SETS[0])
    assert same_bits(run(filtered, values, photo, sxy=3, srgb=3), values.astype(np.float32))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0, 0), (40, 90, 126), (33, 60, 17)])
def test_nonfinite_values(dtype, value, position):
    values = np.ones((41, 91, 127), dtype)
    values[position] = value
    with refused(ValueError, f"values must be finite, got {value} at index {position}"):
        filtered(values, np.zeros((91, 127, 3), np.uint8), 3, 3, threads=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_beyond_the_range(dtype):
    photo = np.zeros((200, 300, 3), np.uint8)
    limit = np.nextafter(np.array(LARGEST_VALUE, dtype), np.array(0, dtype))
    for sign in (1, -1):
        result = filtered(np.full((1, 200, 300), sign * limit), photo, 1e3, 3)
        assert np.isfinite(result).all()
        values = np.ones((2, 200, 300), dtype)
        values[1, 2, 3] = sign * 1.01e28
        message = f"values must be below 1e+28 in magnitude, got {values[1, 2, 3]!s} at index (1, 2"
        with refused(ValueError, message):
            filtered(values, photo, 3, 3)


def check_validation(wrap):
    values = np.ones((3, 4, 5), np.float32)
    for value, rule in ((np.nan, "finite"), (1e30, "below 1e+28 in magnitude")):
        values[1, 2, 3] = value
        arrays = wrap(values.copy()), wrap(PHOTO.copy())
        with refused(
            ValueError, f"values must be {rule}, got {values[1, 2, 3]!s} at index (1, 2, 3)"
        ):
            cuekit.bilateral_filter(*arrays, sxy=3, srgb=3, validate=True)
        cuekit.bilateral_filter(*arrays, sxy=3, srgb=3)  # not checked without validate=


@pytest.mark.parametrize("front_end", DEVICES)
def test_validate_on_a_device(front_end):
    with front_end.active():
        check_validation(front_end.wrap)


@pytest.mark.parametrize("name", ["sxy", "srgb"])
@pytest.mark.parametrize(
    ("value", "error", "rule"),
    [
        (0, ValueError, "greater than 0, got 0.0"),
        (-1.0, ValueError, "at least 0, got -1.0"),
        (np.nan, ValueError, "finite, got nan"),
        (np.inf, ValueError, "finite, got inf"),
        ("3", TypeError, "a number, got '3'"),
        (None, TypeError, "a number, got None"),
        (True, TypeError, "a number, got True"),
    ],
)
def test_wrong_widths(name, value, error, rule):
    with refused(error, f"{name} must be {rule}"):
        cuekit.bilateral_filter(VALUES, PHOTO, **{"sxy": 3, "srgb": 3, name: value})


def test_wrong_arguments():
    for name in ("normalize", "validate"):
        with refused(TypeError, f"{name} must be True or False, got 1"):
            cuekit.bilateral_filter(VALUES, PHOTO, sxy=3, srgb=3, **{name: 1})
    with refused(TypeError, "values must have dtype float16 or float32 or float64, got int64"):
        filtered(VALUES.astype(np.int64), PHOTO, 3, 3)
    with refused(TypeError, "image must have dtype uint8, got float64"):
        filtered(VALUES, PHOTO / 255, 3, 3)
    for shape in ((4, 5), (5, 4, 3), (4, 5, 4)):
        with refused(ValueError, "image must have shape "):
            filtered(VALUES, np.zeros(shape, np.uint8), 3, 3)
    with refused(ValueError, "image must have shape (..., H, W, 3), got (3, 4, 5): the channels"):
        filtered(VALUES, np.moveaxis(PHOTO, -1, 0), 3, 3)
    message = "values must have shape (..., K, H, W), got (4, 5, 7): the channels come last"
    with refused(ValueError, message):
        filtered(np.ones((4, 5, 7)), PHOTO, 3, 3)


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
def test_a_lattice_that_cannot_be_addressed(front_end):
    """The keys of its vertices would not fit in 64 bits."""
    values, photo = np.ones((1, 1500, 1500), np.float32), np.zeros((1500, 1500, 3), np.uint8)
    with front_end.active(), refused(ValueError, "image is too large for widths (sxy, srgb) as"):
        filtered(front_end.wrap(values), front_end.wrap(photo), 1e-3, 1e-3)


def test_too_many_pixels():
    """Zeros that are never read take no memory."""
    values, photo = np.zeros((1, 2**14, 2**14), np.float16), np.zeros((2**14, 2**14, 3), np.uint8)
    with refused(ValueError, "image must have fewer than 268435456 pixels, got 268435456"):
        filtered(values, photo, 3, 3)
