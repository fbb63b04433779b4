"""The dense CRF against its oracles, against pydensecrf, and as a model.

Mean field amplifies: where two classes are about equally likely, an iteration multiplies a
difference by up to half the sum of the weights, 6.5 in SEC's setting and 10^8 in ten iterations.
Hence the kernel is compared with the oracle one iteration at a time, each from the kernel's own
marginals before it: the tolerance stays near float32's rounding for any number of iterations.
"""

import ctypes
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations, pairwise
from threading import Barrier

import emulated
import numpy as np
import pytest
from common import INSTRUCTION_SETS, VOC, at_most, needs, needs_data, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    INTEGERS,
    NO_DEVICE,
    THREADS,
    Run,
    batches,
    cpu_runs,
    label_maps,
    memory_orders,
    reordered,
    runs_of,
    same_bits,
    tags,
)

import cuekit
from cuekit import CRFParams, _backend, _torch, crf, reference
from cuekit._checks import NARROWEST, RANGE_TOLERANCE

# One name of each setting.
SETTINGS = list({params: name for name, params in reversed(crf.PRESETS.items())}.values())
PEER_PRESETS = ("sec", "irn", "clip-es", "toco-seg")

# Around the widths of vector registers, and numbers of classes of data sets.
channel_counts = st.sampled_from([2, 3, 4, 5, 8, 9, 16, 17, 21, 24, 25, 33, 151])
sides = st.integers(1, 12)
sizes = st.one_of(
    st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 40), (40, 1), (13, 31), (31, 27)])
)
weights = st.sampled_from([0.0, 1.0, 3.0, 10.0, 100.0])
widths = st.sampled_from([1e-3, 0.125, 0.25, 1.0, 3.0, 13.0, 80.0, 1e4, 1e12])
params = st.one_of(
    st.sampled_from(list(crf.PRESETS.values())),
    st.builds(CRFParams, weights, widths, weights, widths, widths),
)


@st.composite
def photos(draw, shape):
    """Patches under noise, noise alone, one colour."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    *batch, height, width = shape
    noise = draw(st.sampled_from([0, 5, 255]))
    patches = rng.integers(0, 256, (*batch, 3, 3, 3))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 3 // width
    photo = patches[..., rows[:, None], columns, :] + rng.integers(-noise, noise + 1, (*shape, 3))
    if draw(st.booleans()):
        photo[:] = draw(st.sampled_from([0, 7, 255]))
    return draw(reordered(photo.clip(0, 255).astype(np.uint8)))


@st.composite
def probabilities(draw, shape):
    """Softmax, hard labels, undecided ones, and values that rounding left outside [0, 1]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["soft", "soft", "hard", "undecided", "any"]))
    values = rng.normal(size=shape)
    if kind == "soft":
        values = np.exp(draw(st.sampled_from([0.1, 1, 4])) * values)
        values /= values.sum(-3, keepdims=True)
    elif kind == "hard":
        values = values == values.max(-3, keepdims=True)
    elif kind == "undecided":
        values = np.full(shape, 1 / shape[-3])
    elif kind == "any":
        values = values.clip(-0.0004, 1.0004)
    return draw(reordered(values.astype(np.float32)))


@st.composite
def inputs(draw, sizes=sizes):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    maps = draw(probabilities((*batch, channels, *size)))
    return maps, draw(photos((*batch, *size))), draw(tags((*batch, channels - 1)))


def crf_of(maps, photo, present=None, *more, **options):
    return cuekit.dense_crf(maps, photo, *more, present=present, **options)


def energies_of(maps, epsilon=1e-5):
    return -np.log(np.clip(maps.astype(np.float64), epsilon, 1))


def assert_iteration(before, after, energies, messages, setting):
    """Compare one iteration of one image, (K, H, W), with the oracle.

    Sums of positive float32 values, each of a few hundred here, are good to some 1e-6 of
    themselves. Messages are as large as the weights, energies may be larger, and an error of the
    exponents is at most halved by the softmax.
    """
    flat = before.reshape(len(before), -1).astype(np.float64)
    expected = reference.softmax(messages(flat) - energies.reshape(len(before), -1))
    largest = setting.gaussian_weight + setting.bilateral_weight
    tolerance = 5e-7 * (1 + largest) + 1e-7 * np.abs(energies).max()
    np.testing.assert_allclose(after.reshape(flat.shape), expected, rtol=0, atol=tolerance)


def oracle_messages(photo, setting):
    """The oracle's messages on a lattice; widths below the narrowest count as the narrowest."""
    widths = ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb")
    computed = {name: max(getattr(setting, name), NARROWEST) for name in widths}
    return reference.crf_messages(photo, replace(setting, **computed), reference.lattice_filter)


def sample_photos():
    """Photos that come with scikit-image, with a number of pixels that 4 divides."""
    data = needs("skimage.data")
    photos = [data.chelsea()[:, :448], data.coffee(), data.astronaut()[::2, ::2]]
    return [np.ascontiguousarray(photo) for photo in photos]


def of_preset(photos, name):
    """Each preset has one of the photos in turn: settings matter here, not photos."""
    return photos[list(crf.PRESETS).index(name) % len(photos)]


def smooth_probabilities(size, channels=21, seed=0):
    """Probabilities as of a network whose maps are 16 times as coarse as the photo."""
    grid = [max(1, side // 16) for side in size]
    logits = 3 * np.random.default_rng(seed).normal(size=(channels, *grid))
    return reference.softmax(reference.resize_bilinear(logits, size)).astype(np.float32)


# ---------------------------------------------------------------- against the oracle on a lattice


def check_against_oracle(arrays, setting, iterations, run):
    maps, photo, _ = arrays
    results = [
        run(crf_of, maps, photo, None, params=setting, iterations=n)
        for n in (iterations - 1, iterations)
    ]
    for index in np.ndindex(maps.shape[:-3]):
        before, after = (result[index] for result in results)
        messages = oracle_messages(photo[index], setting)
        assert_iteration(before, after, energies_of(maps[index]), messages, setting)
        np.testing.assert_allclose(after.sum(0, dtype=np.float64), 1, rtol=0, atol=2e-6)


@at_most(200)
@given(inputs(), params, st.integers(1, 10), cpu_runs)
def test_equals_oracle(arrays, setting, iterations, run):
    check_against_oracle(arrays, setting, iterations, run)


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_oracle_on_a_photo(name):
    """Larger than the blocks that the kernel works on; lattices that grow while they are built."""
    setting = crf.PRESETS[name]
    photo = of_preset(sample_photos(), name)
    patch = photo[60:171, 90:217]
    maps = smooth_probabilities(patch.shape[:2], seed=1)
    messages = oracle_messages(patch, setting)
    for n in (1, 10):
        before, after = (
            cuekit.dense_crf(maps, patch, setting, iterations=i, threads=2) for i in (n - 1, n)
        )
        assert_iteration(before, after, energies_of(maps), messages, setting)


def check_without_iterations(arrays, epsilon, run):
    maps, photo, _ = arrays
    result = run(crf_of, maps, photo, None, iterations=0, epsilon=epsilon)
    clipped = np.clip(maps.astype(np.float64), epsilon, 1)
    expected = clipped / clipped.sum(-3, keepdims=True)
    # The rounding of a logarithm of up to 85, and of the exponential of that.
    np.testing.assert_allclose(result, expected, rtol=3e-5, atol=1e-7)


@given(inputs(), st.sampled_from([1e-37, 1e-5, 0.3, 1.0]), cpu_runs)
def test_no_iteration_is_the_softmax_of_the_unaries(arrays, epsilon, run):
    check_without_iterations(arrays, epsilon, run)


@given(inputs(), cpu_runs)
def test_defaults(arrays, run):
    maps, photo, _ = arrays
    expected = run(
        crf_of, maps, photo, None, params="sec", iterations=10, epsilon=1e-5, unary="probabilities"
    )
    assert same_bits(run(crf_of, maps, photo, None), expected)


def check_dtype(arrays, dtype, setting, run):
    maps, photo, present = arrays
    maps = maps.astype(np.float16)
    expected = run(crf_of, maps.astype(np.float32), photo, present, params=setting, iterations=3)
    result = run(crf_of, maps.astype(dtype), photo, present, params=setting, iterations=3)
    assert same_bits(result, expected.astype(np.promote_types(dtype, np.float32)))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_float16_gives_float32(front_end):
    """The marginals are not rounded to float16."""
    maps = smooth_probabilities((90, 88), 5).astype(np.float16)
    photo = np.ascontiguousarray(sample_photos()[0][:90, :88])
    result = front_end.unwrap(cuekit.dense_crf(front_end.wrap(maps), front_end.wrap(photo)))
    expected = cuekit.dense_crf(maps.astype(np.float32), photo)
    assert same_bits(result, expected)
    assert not same_bits(result.astype(np.float16).astype(np.float32), result)


@given(inputs(), st.sampled_from(FLOATS), params, cpu_runs)
def test_every_dtype_is_computed_in_float32(arrays, dtype, setting, run):
    check_dtype(arrays, dtype, setting, run)


def check_energies(arrays, setting, run):
    """Energies are compared by an iteration: a logarithm has rounded those of probabilities."""
    maps, photo, present = arrays
    energies = energies_of(maps).astype(np.float32)
    options = {"params": setting, "unary": "energies"}
    for dtype in ("float32", "float64"):
        before, after = (
            run(crf_of, energies.astype(dtype), photo, None, iterations=n, **options)
            for n in (2, 3)
        )
        for index in np.ndindex(maps.shape[:-3]):
            messages = oracle_messages(photo[index], setting)
            wide = energies[index].astype(np.float64)
            assert_iteration(before[index], after[index], wide, messages, setting)
    first = run(crf_of, energies, photo, present, iterations=1, **options)
    alike = run(crf_of, maps, photo, present, iterations=1, params=setting)
    largest = setting.gaussian_weight + setting.bilateral_weight
    np.testing.assert_allclose(first, alike, rtol=0, atol=2e-6 * (1 + largest))


@at_most(100)
@given(inputs(), params, cpu_runs)
def test_energies(arrays, setting, run):
    check_energies(arrays, setting, run)


@pytest.mark.parametrize("size", [1e3, 1e20, 3e38])
def test_energies_of_any_size(size):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (9, 10, 3), np.uint8)
    energies = (rng.permuted(np.tile([-1.0, 0.0, 1.0], (90, 1)), axis=1).T * size).reshape(3, 9, 10)
    for dtype in ("float32", "float64"):
        result = cuekit.dense_crf(energies.astype(dtype), photo, unary="energies")
        np.testing.assert_allclose(result, energies < 0, rtol=0, atol=1e-30)


def with_impossible_classes(maps, seed=0):
    """Energies, +inf for about half of them, and not for all classes of a pixel."""
    rng = np.random.default_rng(seed)
    impossible = rng.random(maps.shape) < 0.5
    impossible[..., 0, :, :] &= ~impossible[..., 1:, :, :].all(-3)
    return np.where(impossible, np.inf, energies_of(maps)), impossible


def check_impossible_classes(arrays, dtype, setting, iterations, run):
    maps, photo, present = arrays
    energies, impossible = with_impossible_classes(maps)
    present = present | impossible[..., 0, :, :].any((-2, -1))[..., None]
    options = {"params": setting, "iterations": iterations, "unary": "energies"}
    result = run(crf_of, energies.astype(dtype), photo, present, **options)
    huge = np.where(impossible, np.finfo(dtype).max if dtype == "float16" else 1e37, energies)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.sum(-3, dtype=np.float64), 1, rtol=0, atol=2e-6)
    if setting.gaussian_weight + setting.bilateral_weight < 1e3:
        assert (result[impossible] < 1e-37).all()
        assert same_bits(result, run(crf_of, huge.astype(dtype), photo, present, **options))


@given(inputs(), st.sampled_from(FLOATS), params, st.integers(0, 3), cpu_runs)
def test_energies_of_impossible_classes(arrays, dtype, setting, iterations, run):
    check_impossible_classes(arrays, dtype, setting, iterations, run)


def test_the_energy_of_probability_0():
    """-log 0 is what people have; the class stays out whatever its neighbours say."""
    rng = np.random.default_rng(0)
    maps = smooth_probabilities((20, 24), 4)
    maps[:, rng.random((20, 24)) < 0.3] = np.array([0.0, 0.6, 0.4, 0.0], np.float32)[:, None]
    photo = np.full((20, 24, 3), 80, np.uint8)
    with np.errstate(divide="ignore"):
        energies = -np.log(maps)
    result = cuekit.dense_crf(energies, photo, unary="energies")
    assert np.isinf(energies).any()
    assert (result[np.isinf(energies)] < 1e-37).all()
    np.testing.assert_allclose(result.sum(0), 1, rtol=0, atol=2e-6)


@given(inputs(), st.integers(0, 10), cpu_runs)
def test_hard_probabilities_stay_finite(arrays, iterations, run):
    maps, photo, _ = arrays
    hard = (maps == maps.max(-3, keepdims=True)).astype(np.float32)
    result = run(crf_of, hard, photo, None, iterations=iterations, epsilon=1e-37)
    assert np.isfinite(result).all()
    assert ((result >= 0) & (result <= 1)).all()


# ---------------------------------------------------------------------------------- closed forms


def assert_closed_form(maps, photo, setting, messages, iterations=4, **options):
    results = [
        cuekit.dense_crf(maps, photo, setting, iterations=n, **options)
        for n in range(iterations + 1)
    ]
    for before, after in pairwise(results):
        assert_iteration(before, after, energies_of(maps), messages, setting)
    return results[-1]


@pytest.mark.parametrize("channels", [2, 21])
def test_pixels_out_of_reach_of_each_other(channels):
    """A kernel of no width sends a pixel its own marginals; some 400 000 vertices, all apart."""
    size = (211, 307)
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    maps = smooth_probabilities(size, channels)
    setting = CRFParams(3, 0.125, 10, 0.125, 13)
    assert_closed_form(maps, photo, setting, lambda q: 13 * q, threads=2)


@pytest.mark.parametrize("width", [1e-3, 1e-30])
def test_narrow_widths_count_as_the_narrowest(width):
    photo = sample_photos()[0][:40, :41]
    maps = smooth_probabilities(photo.shape[:2])
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        results = [
            cuekit.dense_crf(maps, photo, replace(crf.PRESETS["sec"], **{name: value}))
            for value in (width, 0.05, 0.125)
        ]
        assert same_bits(results[0], results[2])
        assert same_bits(results[1], results[2])
    # What narrower kernels would give: pixels of one colour see each other, all others do not.
    stripes = np.repeat(np.arange(0, 240, 6, dtype=np.uint8)[:, None, None], 41, 1).repeat(3, 2)
    setting = CRFParams(0, 1, 10, 1e12, width)

    def messages(marginals):
        rows = marginals.reshape(21, 40, 41)
        return 10 * np.broadcast_to(rows.mean(2, keepdims=True), rows.shape).reshape(21, -1)

    assert_closed_form(maps, stripes, setting, messages)


@pytest.mark.parametrize("weight", [5, 50, 150, 1500])
def test_widths_beyond_the_photo(weight):
    """Every pixel sees all: the message is the mean of the marginals, times weights of any size."""
    photo = np.full((12, 15, 3), 99, np.uint8)
    maps = smooth_probabilities((12, 15), 5, seed=3)
    setting = CRFParams(weight / 5 * 2, 1e12, weight / 5 * 3, 1e300, 13)
    assert_closed_form(maps, photo, setting, lambda q: weight * q.mean(1, keepdims=True) + 0 * q)


@given(channel_counts, st.sampled_from(sorted(crf.PRESETS)), st.integers(0, 2**32 - 1))
def test_one_pixel(channels, name, seed):
    rng = np.random.default_rng(seed)
    maps = rng.random((channels, 1, 1), dtype=np.float32)
    photo = rng.integers(0, 256, (1, 1, 3), np.uint8)
    setting = crf.PRESETS[name]
    largest = setting.gaussian_weight + setting.bilateral_weight
    assert_closed_form(maps, photo, setting, lambda q: largest * q)


@given(channel_counts, sizes, params, st.data())
def test_even_probabilities_stay_even(channels, size, setting, data):
    photo = data.draw(photos(size))
    maps = np.full((channels, *size), 1 / channels, np.float32)
    result = cuekit.dense_crf(maps, photo, setting)
    np.testing.assert_allclose(result, 1 / channels, rtol=2e-6)


@given(inputs(), st.integers(0, 3))
def test_no_weights(arrays, iterations):
    maps, photo, _ = arrays
    setting = CRFParams(0, 1, 0, 1, 1)
    result = cuekit.dense_crf(maps, photo, setting, iterations=iterations)
    expected = cuekit.dense_crf(maps, photo, iterations=0)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-12)


def test_the_largest_weights_give_finite_results():
    photo = sample_photos()[0][:20, :20]
    maps = smooth_probabilities((20, 20), 3)
    result = cuekit.dense_crf(maps, photo, CRFParams(1e30, 3, 1e30, 80, 13))
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-6)


# --------------------------------------------------------------------------------------- present


@given(inputs(), params, st.integers(0, 10), cpu_runs)
def test_present_is_the_crf_of_these_channels(arrays, setting, iterations, run):
    maps, photo, present = arrays
    options = {"params": setting, "iterations": iterations}
    result = run(crf_of, maps, photo, present, **options)
    for index in np.ndindex(maps.shape[:-3]):
        kept = np.concatenate([[True], present[index]])
        assert not result[index][~kept].any()
        if not present[index].any():
            assert (result[index][0] == 1).all()
            continue
        chosen = np.ascontiguousarray(maps[index][kept])
        alone = run(crf_of, chosen, photo[index].copy(), None, **options)
        assert same_bits(result[index][kept], alone)


def test_after_suppression():
    """Before the CRF suppression keeps absent classes out; after it only `present` does."""
    rows, columns = np.indices((12, 14))
    scores = np.empty((3, 12, 14), np.float32)
    scores[0] = np.where((rows + columns) % 2, 0.5, 0.1)
    scores[1] = 0.6 - scores[0]
    scores[2] = 0.8  # absent, and after suppression everywhere the second best
    photo = np.full((12, 14, 3), 80, np.uint8)
    present = [True, False]
    suppressed = cuekit.suppress_absent(scores, present)
    assert (suppressed.argmax(0) != 2).all()
    assert (cuekit.dense_crf(suppressed, photo).argmax(0) == 2).any()
    result = cuekit.dense_crf(suppressed, photo, present=present)
    assert not result[2].any()
    assert same_bits(result, cuekit.dense_crf(scores, photo, present=present))


@given(inputs(), st.sampled_from([1e-4, 9e-4]), cpu_runs)
def test_after_suppression_with_ceilings_below_the_margin(arrays, margin, run):
    """Absent classes are negative then, and clipped as everything else."""
    maps, photo, present = arrays
    low = np.abs(maps) * np.float32(1e-6)
    suppressed = cuekit.suppress_absent(low, present, margin=margin)
    result = run(crf_of, suppressed, photo, None)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.sum(-3, dtype=np.float64), 1, rtol=0, atol=2e-6)
    of_present = run(crf_of, suppressed, photo, present)
    assert same_bits(of_present, run(crf_of, low, photo, present))


# --------------------------------------------------------------------------- on a CUDA device

# Every run calls twice and compares the bits. Emulated runs are slow: few and small examples.
device_runs = runs_of(DEVICES)
small = inputs(st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 40), (9, 33)])))
on_a_device = pytest.mark.skipif(not DEVICES, reason=NO_DEVICE)


@pytest.fixture(params=DEVICES, ids=lambda front_end: front_end.name)
def device(request):
    return request.param


def patches(height, width, noise, seed=0):
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, 256, (3, 4, 3))
    photo = flat[np.arange(height)[:, None] * 3 // height, np.arange(width) * 4 // width]
    photo = photo + rng.integers(-noise, noise + 1, (height, width, 3))
    return photo.clip(0, 255).astype(np.uint8)


def assert_equals_the_cpu(device, maps, photo, setting, present=None, **options):
    """But for the few pixels at which mean field amplifies rounding."""
    run = Run(device, 1, INSTRUCTION_SETS[0])
    result = run(crf_of, maps, photo, present, params=setting, **options)
    expected = cuekit.dense_crf(maps, photo, setting, present=present, **options)
    assert result.dtype == expected.dtype
    difference = np.abs(result.astype(np.float64) - expected)
    assert np.quantile(difference, 0.999) <= 1e-3
    assert (result.argmax(-3) == expected.argmax(-3)).mean() >= 0.9999
    assert not result[expected == 0].any()
    return result


@on_a_device
@at_most(40)
@given(small, params, st.integers(1, 4), device_runs)
def test_equals_oracle_on_a_device(arrays, setting, iterations, run):
    check_against_oracle(arrays, setting, iterations, run)


@on_a_device
@at_most(40)
@given(small, st.sampled_from([1e-37, 1e-5, 0.3, 1.0]), device_runs)
def test_softmax_of_the_unaries_on_a_device(arrays, epsilon, run):
    check_without_iterations(arrays, epsilon, run)


@on_a_device
@at_most(15)
@given(small, st.sampled_from(FLOATS), params, device_runs)
def test_every_dtype_on_a_device(arrays, dtype, setting, run):
    check_dtype(arrays, dtype, setting, run)


@on_a_device
@at_most(15)
@given(small, params, device_runs)
def test_energies_on_a_device(arrays, setting, run):
    check_energies(arrays, setting, run)


@pytest.mark.parametrize("name", SETTINGS)
def test_presets_on_a_device(device, name):
    photo = patches(39, 45, noise=6)
    assert_equals_the_cpu(device, smooth_probabilities((39, 45), 9), photo, name, iterations=5)


@pytest.mark.parametrize("channels", [2, 5, 9, 17, 20, 24, 25, 33, 66])
def test_any_number_of_classes_on_a_device(device, channels):
    photo = patches(19, 23, noise=6)
    maps = smooth_probabilities((19, 23), channels)
    assert_equals_the_cpu(device, maps, photo, "irn", iterations=3)


@pytest.mark.parametrize("channels", [3, 5, 9, 17, 21, 30, 66])
def test_float16_storage_on_a_device(device, channels):
    """A value is rounded five times, to 2**-11 each, and messages are at most the weights' sum.

    So the first iteration moves a logit by 5 * 2**-11 * 13 = 0.032 at most, and Q by half of that:
    two logits may move against each other, and Q changes by a quarter of their difference.
    """
    photo = patches(23, 27, noise=6)
    maps = smooth_probabilities((23, 27), channels)
    run = Run(device, 1, INSTRUCTION_SETS[0])
    rounded = run(crf_of, maps, photo, None, params="irn", iterations=1, storage="float16")
    exact = run(crf_of, maps, photo, None, params="irn", iterations=1)
    assert np.abs(rounded - exact).max() <= 0.016
    assert not same_bits(rounded, exact)
    assert np.abs(rounded.sum(0) - 1).max() < 1e-5


@pytest.mark.parametrize("channels", [3, 21])
def test_labels_with_float16_storage_on_a_device(device, channels, figures):
    """After all iterations."""
    photo = patches(39, 45, noise=6)
    maps = smooth_probabilities((39, 45), channels)
    run = Run(device, 1, INSTRUCTION_SETS[0])
    rounded = run(crf_of, maps, photo, None, params="irn", storage="float16")
    exact = run(crf_of, maps, photo, None, params="irn")
    differ = (rounded.argmax(0) != exact.argmax(0)).mean()
    figures.append(
        f"dense_crf, {device.name}, float16 storage, {channels} classes: "
        f"{differ:.2%} of the labels differ, mean |dQ| {np.abs(rounded - exact).mean():.1e}"
    )
    assert differ < 0.01


def test_float16_storage_holds_the_largest_sums_on_a_device(device):
    """All pixels of one colour splat to a few vertices, and the weight is far beyond use."""
    photo = np.full((60, 130, 3), 7, np.uint8)
    maps = smooth_probabilities((60, 130), 3)
    run = Run(device, 1, INSTRUCTION_SETS[0])
    for weight in (10, 1e12):
        setting = CRFParams(3, 3, weight, 80, 13)
        result = run(crf_of, maps, photo, None, params=setting, iterations=2, storage="float16")
        assert np.isfinite(result).all()
        assert np.abs(result.sum(0) - 1).max() < 1e-5


def test_float16_storage_is_for_devices():
    maps, photo = np.ones((2, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8)
    for image in (photo, photo[..., 0]):
        with refused("storage must be 'float32' on the CPU, got 'float16'"):
            cuekit.dense_crf(maps, image, storage="float16")
    with pytest.raises(ValueError, match=r"^storage must be .*got 'float64'$"):
        cuekit.dense_crf(maps, photo, storage="float64")


def test_photos_of_a_batch_differ_on_a_device(device):
    photo = np.stack([patches(21, 33, noise, seed=noise) for noise in (0, 3, 200)])
    maps = np.stack([smooth_probabilities((21, 33), 6, seed) for seed in range(3)])
    present = np.arange(15).reshape(3, 5) % 4 > 0
    present[0] = False
    result = assert_equals_the_cpu(device, maps, photo, "sec", present, iterations=4)
    for one in range(3):
        alone = (array[one] for array in (maps, photo))
        run = Run(device, 1, INSTRUCTION_SETS[0])
        of_one = run(crf_of, *alone, present[one], params="sec", iterations=4)
        assert same_bits(result[one], of_one)


def test_labels_of_the_model_on_a_device(device, figures):
    """Against the model itself, as `test_error_of_the_lattice` does for the CPU."""
    agreements = []
    for name in PEER_PRESETS:
        setting = crf.PRESETS[name]
        patch = patches(30, 40, noise=6)
        maps = smooth_probabilities((30, 40))
        model = reference.dense_crf(maps, patch, setting, 10, 1e-5, reference.exact_filter)
        ours = Run(device, 1, INSTRUCTION_SETS[0])(crf_of, maps, patch, None, params=setting)
        agreements.append((ours.argmax(0) == model.argmax(0)).mean())
    figures.append(
        f"dense_crf, {device.name}: {min(agreements):.1%} of the model's labels at least"
    )
    assert min(agreements) > 0.95


def test_one_colour_on_a_device(device):
    """A vertex has pixels of more tiles than one block of threads adds up."""
    photo = np.full((60, 130, 3), 7, np.uint8)
    for channels in (3, 21):
        maps = smooth_probabilities((60, 130), channels)
        assert_equals_the_cpu(device, maps, photo, "sec", iterations=2)


@pytest.mark.parametrize("size", [1e3, 3e38])
def test_energies_of_any_size_on_a_device(device, size):
    energies = np.random.default_rng(0).choice([-size, 0, size], (4, 9, 10))
    for dtype in ("float32", "float64"):
        photo = patches(9, 10, noise=9)
        assert_equals_the_cpu(device, energies.astype(dtype), photo, "sec", unary="energies")


def test_float16_storage_is_for_rgb_photos_on_a_device(device):
    maps, photo = np.ones((2, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8)
    cases = [(photo[..., 0].copy(), "sec", None), (photo, CRFParams(3, (1, 2), 10, 80, 13), None)]
    with device.active():
        for image, params, tolerance in (*cases, (photo, "sec", 0.1)):
            arrays = device.wrap(maps), device.wrap(image)
            with pytest.raises(ValueError, match=r"^storage must be 'float32' for photos that are"):
                cuekit.dense_crf(*arrays, params, tolerance=tolerance, storage="float16")


def test_a_lattice_that_cannot_be_addressed_on_a_device(device):
    maps, photo = np.ones((2, 1500, 1500), np.float32), np.zeros((1500, 1500, 3), np.uint8)
    with device.active():
        arrays = device.wrap(maps), device.wrap(photo)
        with pytest.raises(ValueError, match=r"^image is too large for widths"):
            cuekit.dense_crf(*arrays, CRFParams(0, 1, 1, 1e-3, 1e-3))


def check_validation(wrap):
    maps = np.full((3, 8, 9), 1 / 3, np.float32)
    energies, present = np.ones((2, 4, 8, 9), np.float32), np.array([True, False, True])
    energies[1, :, 5, 6] = np.inf
    beyond = np.ones((3, 8, 9))
    beyond[2, 7, 8] = 1e39

    def changed(value, dtype="float32"):
        array = maps.astype(dtype)
        array[1, 2, 3] = value
        return array

    photo = patches(8, 9, noise=9)
    cases = [
        (changed(np.nan), {}, "probabilities must be finite, got nan at index (1, 2, 3)"),
        (
            changed(3.25, "float16"),
            {},
            f"probabilities must lie in [0, 1], got 3.25 at index (1, 2, 3): {SOFTMAX}",
        ),
        (
            changed(-0.5, "float64"),
            {},
            f"probabilities must lie in [0, 1], got -0.5 at index (1, 2, 3): {SOFTMAX}",
        ),
        (
            changed(np.nan, "float16"),
            {"unary": "energies"},
            "probabilities must hold energies that are finite or +inf, got nan at index (1, 2, 3)",
        ),
        (
            changed(-np.inf, "float64"),
            {"unary": "energies"},
            "probabilities must hold energies that are finite or +inf, got -inf at index (1, 2, 3)",
        ),
        (
            beyond,
            {"unary": "energies"},
            "probabilities must hold energies in float32's range, or +inf, got 1e+39 at index "
            "(2, 7, 8)",
        ),
        (energies, {"unary": "energies"}, f"{NOTHING_POSSIBLE}(1, :, 5, 6)"),
        (
            np.where(np.arange(4)[:, None, None] == 2, 1, energies[1]),
            {"unary": "energies", "present": wrap(present)},
            f"{NOTHING_POSSIBLE}(:, 5, 6)",
        ),
    ]
    for array, options, message in cases:
        photos = np.broadcast_to(photo, (*array.shape[:-3], *photo.shape))
        arrays = wrap(array), wrap(photos.copy())
        with refused(message):
            cuekit.dense_crf(*arrays, validate=True, **options)
        cuekit.dense_crf(*arrays, **options)  # not checked without validate=
    for dtype in FLOATS:
        for limit in (-RANGE_TOLERANCE, 1 + RANGE_TOLERANCE, 0, 1):
            cuekit.dense_crf(wrap(changed(limit, dtype)), wrap(photo), validate=True)
    valid = wrap(with_impossible_classes(maps)[0].astype(np.float32))
    cuekit.dense_crf(valid, wrap(photo), unary="energies", validate=True)


def test_validate_on_a_device(device):
    with device.active():
        check_validation(device.wrap)


@on_a_device
def test_validate_of_torch_tensors_on_a_device(monkeypatch):
    """On the CPU torch can play the device's part."""
    torch = needs("torch")
    monkeypatch.setattr(_torch, "is_on_cuda", lambda _: True)
    monkeypatch.setattr(_torch.TorchDevice, "stream", lambda _: 0)
    with emulated.installed():
        check_validation(torch.from_numpy)


def test_a_pixel_without_a_finite_energy_spoils_no_other_on_a_device(device):
    """It is not checked there: the pixel counts as one of equal energies."""
    energies = energies_of(smooth_probabilities((19, 23), 5)).astype(np.float32)
    equal = energies.copy()
    energies[:, 7, 9], equal[:, 7, 9] = np.inf, 1
    run = Run(device, 1, INSTRUCTION_SETS[0])
    photo = patches(19, 23, noise=6)
    results = [run(crf_of, e, photo, None, unary="energies") for e in (energies, equal)]
    assert same_bits(*results)
    assert np.isfinite(results[0]).all()


@on_a_device
@at_most(15)
@given(small, st.sampled_from(FLOATS), params, st.integers(0, 3), device_runs)
def test_energies_of_impossible_classes_on_a_device(arrays, dtype, setting, iterations, run):
    check_impossible_classes(arrays, dtype, setting, iterations, run)


# ------------------------------------------------------- threads, memory, floating-point state


@pytest.mark.parametrize("channels", [2, 4, 21, 33])
def test_same_bits_for_any_threads_and_instructions(channels):
    """On photos that threads divide among them, in a batch of fewer images than threads."""
    photo = sample_photos()[1][:223, :307]
    batch = np.stack([photo, photo[::-1], photo[:, ::-1]])
    maps = np.stack([smooth_probabilities((223, 307), channels, seed) for seed in range(3)])
    present = np.arange(3 * (channels - 1)).reshape(3, channels - 1) % 4 > 0
    for arrays in ((maps, batch, present), (maps[0], batch[0], None)):
        expected = None
        for name in INSTRUCTION_SETS:
            set_instruction_set(name)
            for threads in (*THREADS, 3):
                result = crf_of(*arrays, iterations=2, threads=threads)
                expected = result if expected is None else expected
                assert same_bits(result, expected), (name, threads)


# One, two and three images of one photo, in pairs where few classes take part.
@at_most(100)
@given(
    st.sampled_from([2, 3, 4, 5, 8, 9, 16, 17]),
    st.sampled_from([(30, 41), (9, 3), (67, 80)]),
    st.sampled_from(FLOATS),
    params,
    st.integers(0, 3),
    st.sampled_from([None, "same tags", "other tags"]),
    st.booleans(),
    cpu_runs,
)
def test_images_of_one_photo_are_as_alone(
    channels, size, dtype, setting, iterations, tagged, energies, run
):
    rng = np.random.default_rng(channels)
    first, second = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    almost = second.copy()
    almost[-1, -1, -1] ^= 1  # the last byte tells them apart
    batch = np.stack([first, first, second, almost, almost, almost, first])
    scores = rng.dirichlet(np.ones(channels), (len(batch), *size)).transpose(0, 3, 1, 2)
    scores = scores.astype(dtype) * (100 if energies else 1)
    present = None
    if tagged is not None:
        present = np.ones((len(batch), channels - 1), bool)
        present[:, ::3] = False
        if tagged == "other tags":
            present[1::2] ^= True
    options = {"iterations": iterations, "unary": "energies" if energies else "probabilities"}
    alone = []
    for i, pair in enumerate(zip(scores, batch, strict=True)):
        tags = None if present is None else present[i]
        alone.append(cuekit.dense_crf(*pair, setting, present=tags, **options))
    together = run(cuekit.dense_crf, scores, batch, params=setting, present=present, **options)
    assert same_bits(together, np.stack(alone))


@at_most(100)
@given(inputs(), params, st.integers(0, 3))
def test_a_crf_that_keeps_its_photo(arrays, setting, iterations):
    """It gives the same bits, for one set of probabilities after another."""
    maps, photo, _ = arrays
    for index in np.ndindex(maps.shape[:-3]):
        refine = crf.PhotoCRF(photo[index], setting)
        for scores in (maps[index], maps[index][::-1]):
            expected = cuekit.dense_crf(scores, photo[index], setting, iterations=iterations)
            assert same_bits(refine(scores, iterations), expected)


@pytest.mark.parametrize(
    ("photo", "setting"),
    [
        (np.arange(12, dtype=np.uint8).reshape(4, 3), "sec"),  # gray, three columns
        (np.zeros((4, 3, 3), np.uint8), CRFParams(3, 3, 10, 80, (13, 13, 5))),
        (np.zeros((4, 3, 3), np.uint8), CRFParams(3, 3, 0, 80, 13)),
    ],
)
def test_a_crf_that_keeps_any_photo(photo, setting):
    maps = smooth_probabilities((4, 3), 3)
    expected = cuekit.dense_crf(maps, photo, setting)
    assert same_bits(crf.PhotoCRF(photo, setting)(maps, 10), expected)


def test_a_crf_that_keeps_its_photo_checks_probabilities():
    refine = crf.PhotoCRF(np.zeros((4, 5, 3), np.uint8), "sec")
    with pytest.raises(ValueError, match="finite, got nan"):
        refine(np.full((2, 4, 5), np.nan), 1)
    with pytest.raises(ValueError, match=r"image must have shape .*5, 4"):
        refine(np.full((2, 5, 4), 0.5), 1)


def test_a_filter_of_another_photo():
    """The binding refuses what the Python code never passes."""
    kernels = _backend.cpu_kernels
    scores = np.full((2, 4, 6), 0.5, np.float32)
    sizes = [(4, 5), (6, 4), (1, 24)]
    filters = [kernels.crf_photo_filter(np.zeros((*s, 3), np.uint8), 80, 13, 10, 1) for s in sizes]
    of_points = kernels.crf_filter(np.zeros((5, 24), np.float32), "symmetric", None, 1)
    for each in (*filters, of_points):
        with pytest.raises(ValueError, match="filter must be one of the photo"):
            kernels.crf_of_photo(scores, each, np.ones(1, bool), scores, 3, 3, False, 1, 1e-5, 1)


def test_the_second_image_of_a_photo_is_checked():
    photo, scores = np.zeros((2, 4, 5, 3), np.uint8), np.full((2, 2, 4, 5), 0.5)
    scores[1, 0, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"finite, got nan at index \(1, 0, 2, 3\)"):
        cuekit.dense_crf(scores, photo)


def test_any_memory_order():
    photo = sample_photos()[0][:31, :33]
    maps = smooth_probabilities((31, 33), 9)
    expected = cuekit.dense_crf(maps, photo)
    for array in memory_orders(maps):
        assert same_bits(cuekit.dense_crf(array, photo), expected)
    for array in memory_orders(photo):
        assert same_bits(cuekit.dense_crf(maps, array), expected)


def test_what_is_kept_between_calls():
    """Spatial lattices: the last 4, looked up by the size, width and weight on which they depend.

    Results do not depend on whether a lattice is found or built, by one thread or by many.
    """
    photo = sample_photos()[0][:90, :88]
    maps = smooth_probabilities((90, 88), 5)
    wide = np.ascontiguousarray(photo.reshape(88, 90, 3))
    sec = crf.PRESETS["sec"]
    calls = [
        lambda **options: cuekit.dense_crf(maps, photo, **options),
        lambda **options: cuekit.dense_crf(maps, photo, replace(sec, gaussian_sxy=2), **options),
        lambda **options: cuekit.dense_crf(maps, photo, replace(sec, gaussian_weight=2), **options),
        lambda **options: cuekit.dense_crf(maps.reshape(5, 88, 90), wide, **options).reshape(
            maps.shape
        ),
        lambda **options: cuekit.dense_crf(maps, photo, "clip-es", **options),
        lambda **options: cuekit.dense_crf(maps[:, :-1], photo[:-1], **options),
    ]
    expected = [call() for call in calls]
    assert not any(same_bits(a, b) for a, b in combinations(expected[:5], 2))
    order = [0, 0, 1, 0, 2, 3, 4, 0, 5, 1, 1, 5, 4, 3, 2, 1, 0]
    for i in order:
        assert same_bits(calls[i](), expected[i])

    barrier = Barrier(8)

    def work(first):
        barrier.wait(timeout=60)
        return [(i, calls[i](threads=2)) for i in order[first:] + order[:first]]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            assert all(same_bits(result, expected[i]) for i, result in results)


def test_denormals_do_not_depend_on_the_caller_s_flags():
    """Marginals of unlikely classes are denormal; the caller's floating-point state is restored."""
    torch = needs("torch")
    photo = sample_photos()[0][:64, :65]
    energies = np.where(smooth_probabilities((64, 65), 6) > 0.3, 0, 95).astype(np.float32)
    sure = (energies > 0).astype(np.float32)
    calls = [
        lambda threads: cuekit.dense_crf(energies, photo, unary="energies", threads=threads),
        lambda threads: cuekit.dense_crf(sure, photo, epsilon=1e-37, threads=threads),
    ]

    def keeps_denormals():
        return float(torch.tensor(1e-40) * 1) != 0.0

    for call in calls:
        expected = call(1)
        assert keeps_denormals()
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor keeps denormals")
        try:
            for threads in (1, 4):
                assert same_bits(call(threads), expected)
                assert not keeps_denormals(), "the caller's own state is restored"
        finally:
            torch.set_flush_denormal(False)
        assert same_bits(call(4), expected)
        assert keeps_denormals()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="needs Linux on x86_64, whose rounding modes it sets",
)
def test_rounding_does_not_depend_on_the_caller_s_mode():
    """Nor does the lattice that a call in another mode keeps for the next."""
    upward, nearest = 0x800, 0
    libm = ctypes.CDLL("libm.so.6")
    photo = sample_photos()[0][:50, :61]
    maps = smooth_probabilities(photo.shape[:2], 5)
    assert libm.fesetround(upward) == 0
    try:
        first = cuekit.dense_crf(maps, photo)
    finally:
        libm.fesetround(nearest)
    assert same_bits(cuekit.dense_crf(maps, photo), first)  # with the lattice of the first call
    for width in range(4, 8):  # as many lattices as are kept
        cuekit.dense_crf(maps[..., :width], photo[:, :width])
    assert same_bits(cuekit.dense_crf(maps, photo), first)


# --------------------------------------------------------------------------------------- the model


def test_error_of_the_lattice(figures):
    """How far the lattice is from the model it approximates: a property of the method.

    Measured are one bilateral filter, of smooth maps and of noise, and labels after ten iterations.
    Bounds are what these photos show, with a margin.
    """
    rng = np.random.default_rng(0)
    for name in PEER_PRESETS:
        setting = crf.PRESETS[name]
        appearance = replace(setting, gaussian_weight=0)
        smooth_errors, noise_errors, agreements = [], [], []
        for photo in sample_photos():
            patch = np.ascontiguousarray(photo[: 8 * 27 : 8, : 8 * 36 : 8])
            maps = smooth_probabilities(patch.shape[:2])
            exact, lattice = (
                reference.crf_messages(patch, appearance, make)
                for make in (reference.exact_filter, reference.lattice_filter)
            )
            for errors, values in (
                (smooth_errors, maps.reshape(21, -1)),
                (noise_errors, rng.normal(size=(21, patch[..., 0].size))),
            ):
                truth = exact(values)
                errors.append(np.linalg.norm(lattice(values) - truth) / np.linalg.norm(truth))
            model = reference.dense_crf(maps, patch, setting, 10, 1e-5, reference.exact_filter)
            ours = cuekit.dense_crf(maps, patch, setting)
            agreements.append((ours.argmax(0) == model.argmax(0)).mean())
        figures.append(
            f"dense_crf, {name}: one bilateral filter is off by up to {max(smooth_errors):.1%} of "
            f"smooth maps, {max(noise_errors):.1%} of noise; of the model's labels "
            f"{min(agreements):.1%} at least"
        )
        assert max(smooth_errors) < 0.12
        assert max(noise_errors) < 0.3
        assert min(agreements) > 0.95


# ----------------------------------------------------------------------------- against pydensecrf


def peer(maps, photo, setting):
    """The marginals of pydensecrf, whose features and weights are float32 throughout."""
    densecrf = needs("pydensecrf.densecrf")
    channels, height, width = maps.shape
    model = densecrf.DenseCRF2D(width, height, channels)
    model.setUnaryEnergy(energies_of(maps).reshape(channels, -1).astype(np.float32))
    model.addPairwiseGaussian(sxy=setting.gaussian_sxy, compat=setting.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=setting.bilateral_sxy,
        srgb=setting.bilateral_srgb,
        rgbim=photo,
        compat=setting.bilateral_weight,
    )
    return np.array(model.inference(10)).reshape(maps.shape)


def assert_equals_peer(photos, name):
    """Equal means 99.999 % of the labels, and marginals that differ by 1e-6 on average.

    The largest difference would tell nothing: mean field amplifies at bistable pixels. Where 4 does
    not divide the number of pixels, pydensecrf adds vertices that belong to none.
    """
    pixels, same, differences = 0, 0, []
    for seed, photo in enumerate(photos):
        assert photo[..., 0].size % 4 == 0
        maps = smooth_probabilities(photo.shape[:2], seed=seed)
        ours = cuekit.dense_crf(maps, photo, name, threads=2)
        theirs = peer(maps, photo, crf.PRESETS[name])
        pixels += ours[0].size
        same += np.count_nonzero(ours.argmax(0) == theirs.argmax(0))
        differences.append(np.abs(ours - theirs).ravel())
    difference = np.concatenate(differences)
    assert same >= 0.99999 * pixels
    assert np.quantile(difference, 0.999) <= 1e-4
    assert difference.mean() <= 1e-6
    return f"{pixels - same} of {pixels} labels differ, mean |dQ| {difference.mean():.1e}"


@pytest.mark.parametrize("name", PEER_PRESETS)
def test_equals_pydensecrf(name):
    photos = sample_photos()
    assert_equals_peer(photos if name == "sec" else [of_preset(photos, name)], name)


@needs_data(VOC)
@pytest.mark.parametrize("name", PEER_PRESETS)
def test_equals_pydensecrf_on_voc(figures, name):
    from PIL import Image

    files = sorted((VOC / "JPEGImages").glob("*.jpg"))[PEER_PRESETS.index(name) * 60 :: 500]
    photos = [np.array(Image.open(file).convert("RGB")) for file in files]
    photos = [np.ascontiguousarray(photo[:, : photo.shape[1] // 4 * 4]) for photo in photos]
    text = assert_equals_peer(photos, name)
    figures.append(f"dense_crf, {name}, {len(files)} VOC photos against pydensecrf: {text}")


# ----------------------------------------------------------------------- parameters and presets


def test_presets():
    """As in the authors' code: bilateral weight, sxy, srgb; Gaussian weight, sxy."""
    published = {
        "sec": (10, 80, 13, 3, 3),
        "psa": (10, 80, 13, 3, 3),
        "irn": (10, 50, 5, 3, 3),
        **dict.fromkeys(("deeplab", "clip-es", "beco", "excel", "more"), (4, 67, 3, 3, 1)),
        "toco-cam": (4, 36, 3, 3, 3),
        **dict.fromkeys(("toco-seg", "cosa", "dupl", "seco"), (4, 121, 5, 1, 1)),
        **dict.fromkeys(("weclip", "afa"), (4, 64, 5, 3, 3)),
        "mctformer": (3, 83, 5, 3, 4),
        "weaktr": (3, 83, 5, 3, 3),
        "cutler": (10, 50, 5, 7, 3),
        "fma": (4, 65, 3, 2, 2),
    }
    for name, (bilateral, wide, srgb, gaussian, near) in published.items():
        assert crf.PRESETS[name] == CRFParams(gaussian, near, bilateral, wide, srgb)
    train = crf.PRESETS["sec-train"]
    np.testing.assert_allclose((train.gaussian_sxy, train.bilateral_sxy), (3 / 12, 80 / 12))
    assert train == crf.PRESETS["sec"].scaled(1 / 12)
    assert set(crf.PRESETS) == {*published, "sec-train"}
    with pytest.raises(TypeError, match="does not support item assignment"):
        crf.PRESETS["sec"] = train
    for name in crf.PRESETS:
        assert f'``"{name}"``' in cuekit.dense_crf.__doc__


@pytest.mark.parametrize("name", SETTINGS)
def test_a_preset_is_its_parameters(name):
    photo = sample_photos()[0][:20, :24]
    maps = smooth_probabilities((20, 24), 3)
    by_name = cuekit.dense_crf(maps, photo, name)
    assert same_bits(by_name, cuekit.dense_crf(maps, photo, crf.PRESETS[name]))


def test_params_are_numbers_that_stay():
    setting = CRFParams(1, np.float32(2), 3, 4, np.int64(5))
    assert [type(value) for value in vars(setting).values()] == [float] * 5
    assert hash(setting) == hash(CRFParams(1.0, 2.0, 3.0, 4.0, 5.0))
    with pytest.raises(AttributeError):
        setting.gaussian_sxy = 1
    assert setting.scaled(3) == CRFParams(1, 6, 3, 12, 5)
    assert setting == CRFParams(1, 2, 3, 4, 5)


FIELDS = tuple(vars(crf.PRESETS["sec"]))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("3", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_wrong_params(name, value, error):
    with pytest.raises(error, match=f"^{name} must be .*, got {re.escape(repr(value))}$"):
        replace(crf.PRESETS["sec"], **{name: value})


@pytest.mark.parametrize("name", FIELDS)
def test_params_out_of_range(name):
    if name.endswith("weight"):
        assert getattr(replace(crf.PRESETS["sec"], **{name: 0}), name) == 0
        with pytest.raises(ValueError, match=rf"^{name} must be at most 1e\+30, got 1e\+31$"):
            replace(crf.PRESETS["sec"], **{name: 1e31})
    else:
        with pytest.raises(ValueError, match=f"^{name} must be greater than 0, got 0.0$"):
            replace(crf.PRESETS["sec"], **{name: 0})


def test_widths_of_each_axis_and_channel():
    setting = CRFParams(3, (2, 4), 10, [80, 80], (1, 2, 3, 4))
    assert setting == CRFParams(3, (2.0, 4.0), 10, 80.0, (1.0, 2.0, 3.0, 4.0))
    assert hash(setting) == hash(CRFParams(3, (2, 4), 10, 80, (1, 2, 3, 4)))
    assert setting.scaled(0.5) == CRFParams(3, (1, 2), 10, 40, (1, 2, 3, 4))
    assert CRFParams.from_numbers(setting.numbers()) == setting
    assert CRFParams.from_numbers(crf.PRESETS["sec"].numbers()) == crf.PRESETS["sec"]
    for name, value, rule in (
        ("gaussian_sxy", (1, 2, 3), "a number or a pair (x, y)"),
        ("bilateral_sxy", (), "a number or a pair (x, y)"),
        ("bilateral_srgb", (), "a number or one for each channel"),
        ("bilateral_srgb", (1, 0), "greater than 0"),
    ):
        got = 0.0 if rule.startswith("greater") else value
        with refused(f"{name} must be {rule}, got {got!r}"):
            replace(crf.PRESETS["sec"], **{name: value})


def test_wrong_factor():
    with pytest.raises(TypeError, match=r"^factor must be a number, got '2'$"):
        crf.PRESETS["sec"].scaled("2")
    for factor in (0, -1):
        with pytest.raises(ValueError, match=rf"^factor must be greater than 0, got {factor}\.0$"):
            crf.PRESETS["sec"].scaled(factor)
    assert crf.PRESETS["sec"].scaled(np.float32(0.1)).bilateral_sxy == 80 * float(np.float32(0.1))


# ---------------------------------------------------------------------------------------- errors


MAPS = np.full((3, 4, 5), 1 / 3, np.float32)
PHOTO = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (0, 2, 3, 3), (2, 2, 0, 0), (0, 3, 2, 2)])
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_empty(shape, front_end):
    *batch, _, height, width = shape
    maps, photo = np.zeros(shape, np.float16), np.zeros((*batch, height, width, 3), np.uint8)
    result = cuekit.dense_crf(front_end.wrap(maps), front_end.wrap(photo))
    assert same_bits(front_end.unwrap(result), maps.astype(np.float32))


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


POSITIONS = ((0, 0, 0), (1, 130, 126), (2, 60, 17))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("iterations", [0, 2])
def test_nonfinite_probabilities(dtype, value, iterations):
    photo = np.zeros((131, 127, 3), np.uint8)
    for position in POSITIONS:
        maps = np.full((3, 131, 127), 1 / 3, dtype)
        maps[position] = value
        with refused(f"probabilities must be finite, got {value} at index {position}"):
            cuekit.dense_crf(maps, photo, iterations=iterations, threads=2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("iterations", [0, 2])
def test_nonfinite_energies(dtype, value, iterations):
    photo = np.zeros((131, 127, 3), np.uint8)
    for position in POSITIONS:
        energies = np.ones((3, 131, 127), dtype)
        energies[position] = value
        with refused(
            "probabilities must hold energies that are finite or +inf, "
            f"got {value} at index {position}"
        ):
            cuekit.dense_crf(energies, photo, unary="energies", iterations=iterations, threads=2)


SOFTMAX = 'apply softmax first, or pass -log p with unary="energies"'


def test_logits_are_no_probabilities():
    logits = np.zeros((3, 12, 14), np.float32)
    logits[1, 0, 5] = 3.2
    photo = np.zeros((12, 14, 3), np.uint8)
    with refused(f"probabilities must lie in [0, 1], got 3.2 at index (1, 0, 5): {SOFTMAX}"):
        cuekit.dense_crf(logits, photo)
    with refused(f"probabilities must lie in [0, 1], got 3.2 at index (1, 1, 0, 5): {SOFTMAX}"):
        cuekit.dense_crf(np.stack([logits * 0, logits]), np.stack([photo, photo]), threads=2)
    # Classes that do not take part are checked as well.
    with refused(f"probabilities must lie in [0, 1], got 3.2 at index (1, 0, 5): {SOFTMAX}"):
        cuekit.dense_crf(logits, photo, present=[False, True])
    cuekit.dense_crf(logits, photo, unary="energies")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_rounding_may_leave_0_to_1(dtype, instruction_set):
    """Up to the tolerance, and not one value of the dtype farther."""
    set_instruction_set(instruction_set)
    kind = np.dtype(dtype).type
    photo = np.zeros((131, 127, 3), np.uint8)
    maps = np.full((3, 131, 127), 1 / 3, dtype)
    for limit, beyond in ((-RANGE_TOLERANCE, -np.inf), (1 + RANGE_TOLERANCE, np.inf)):
        for position in POSITIONS:
            changed, clipped = maps.copy(), maps.copy()
            changed[position] = kind(limit)
            clipped[position] = kind(limit).clip(0, 1)
            result = cuekit.dense_crf(changed, photo, iterations=0)
            assert same_bits(result, cuekit.dense_crf(clipped, photo, iterations=0))
            wrong = np.nextafter(kind(limit), kind(beyond))
            changed[position] = wrong
            with refused(
                f"probabilities must lie in [0, 1], got {wrong!s} at index {position}: {SOFTMAX}"
            ):
                cuekit.dense_crf(changed, photo, iterations=0, threads=2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_value_outside_0_to_1_is_found(dtype):
    """Values of all magnitudes, of both signs."""
    kind = np.finfo(dtype)
    magnitudes = np.geomspace(0.002, float(kind.max) / 2, 60).astype(dtype)
    photo = np.zeros((4, 5, 3), np.uint8)
    inside = np.geomspace(float(kind.tiny), 1, 60).astype(dtype)
    for value in (*inside, 0.0, -0.0, kind.smallest_subnormal, -kind.smallest_subnormal):
        cuekit.dense_crf(np.full((2, 4, 5), value, dtype), photo, iterations=0)
    for value in (*magnitudes[magnitudes > 1.01], *-magnitudes):
        maps = MAPS.astype(dtype)
        maps[1, 2, 3] = value
        with pytest.raises(ValueError, match=r"^probabilities must lie in \[0, 1\], got "):
            cuekit.dense_crf(maps, photo, iterations=0)
        energies = maps.astype(np.float64).clip(-1e38, 1e38).astype(dtype)
        assert np.isfinite(cuekit.dense_crf(energies, photo, unary="energies")).all()


def test_a_wide_margin_of_suppression_leaves_no_probabilities():
    suppressed = cuekit.suppress_absent(MAPS, [True, False], margin=0.5)
    photo = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^probabilities must lie in \[0, 1\], got -0\.16"):
        cuekit.dense_crf(suppressed, photo)
    assert np.isfinite(cuekit.dense_crf(suppressed.clip(0, 1), photo)).all()


@pytest.mark.parametrize("value", [1e39, -1e39, np.finfo(np.float64).max, -1e308])
def test_energies_beyond_float32(value):
    energies = np.ones((3, 4, 5))
    energies[1, 2, 3] = value
    with refused(
        "probabilities must hold energies in float32's range, or +inf, "
        f"got {value} at index (1, 2, 3)"
    ):
        cuekit.dense_crf(energies, PHOTO, unary="energies")
    energies[1, 2, 3] = np.copysign(float(np.finfo(np.float32).max), value)
    assert np.isfinite(cuekit.dense_crf(energies, PHOTO, unary="energies")).all()


NOTHING_POSSIBLE = (
    "probabilities must hold a finite energy for the background or a present class at every "
    "pixel, got +inf for all of them at index "
)


@pytest.mark.parametrize("dtype", FLOATS)
def test_something_must_be_possible(dtype):
    photo = np.zeros((131, 127, 3), np.uint8)
    for _, y, x in POSITIONS:
        energies = np.ones((4, 131, 127), dtype)
        energies[:, y, x] = np.inf
        with refused(f"{NOTHING_POSSIBLE}(:, {y}, {x})"):
            cuekit.dense_crf(energies, photo, unary="energies", iterations=0, threads=2)
        energies[2, y, x] = 0
        cuekit.dense_crf(energies, photo, unary="energies", iterations=0)
        with refused(f"{NOTHING_POSSIBLE}(:, {y}, {x})"):
            cuekit.dense_crf(
                energies, photo, unary="energies", present=[True, False, True], iterations=0
            )
        batch = np.stack([np.ones_like(energies), energies])
        present = np.array([[True, True, True], [True, False, True]])
        with refused(f"{NOTHING_POSSIBLE}(1, :, {y}, {x})"):
            cuekit.dense_crf(
                batch, np.stack([photo] * 2), unary="energies", present=present, iterations=0
            )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"iterations": -1}, ValueError),
        ({"iterations": 1.0}, TypeError),
        ({"epsilon": 0}, ValueError),
        ({"epsilon": 9e-38}, ValueError),
        ({"epsilon": 1.5}, ValueError),
        ({"epsilon": np.nan}, ValueError),
        ({"epsilon": "1"}, TypeError),
        ({"unary": "logits"}, ValueError),
        ({"unary": None}, ValueError),
        ({"params": "SEC"}, ValueError),
        ({"params": None}, TypeError),
        ({"params": (3, 3, 10, 80, 13)}, TypeError),
    ],
)
def test_wrong_options(options, error):
    [(name, value)] = options.items()
    with pytest.raises(error, match=f"^{name} must be .*, got {re.escape(repr(value))}"):
        cuekit.dense_crf(MAPS, PHOTO, **options)


def test_wrong_arrays():
    with pytest.raises(
        TypeError, match=r"^image must have dtype uint8 or uint16 or .*, got int64$"
    ):
        cuekit.dense_crf(MAPS, PHOTO.astype(np.int64))
    for shape in ((5, 4), (5, 4, 3), (3, 4, 5), (1, 4, 5, 3), (4,), (5,)):
        message = re.escape(f", got {shape}")
        with pytest.raises(
            ValueError, match=f"^image must have shape .*{message}($|: the channels)"
        ):
            cuekit.dense_crf(MAPS, np.zeros(shape, np.uint8))
    for channels in (0, 9):
        shape = (4, 5, channels)
        message = f"image must have 1 to 8 channels, got {channels} in shape {shape}"
        with refused(message):
            cuekit.dense_crf(MAPS, np.zeros(shape, np.uint8))
    with refused("bilateral_srgb must be a number or 3 to match image, got (1.0, 2.0)"):
        cuekit.dense_crf(MAPS, PHOTO, CRFParams(3, 3, 10, 80, (1, 2)))
    with pytest.raises(
        ValueError,
        match=r"^probabilities must have a background channel .*, got shape \(0, 4, 5\): ",
    ):
        cuekit.dense_crf(MAPS[:0], PHOTO)


def test_a_lattice_that_cannot_be_addressed():
    """The keys of its vertices would not fit in 64 bits."""
    maps, photo = np.ones((2, 1500, 1500), np.float32), np.zeros((1500, 1500, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^image is too large for widths"):
        cuekit.dense_crf(maps, photo, CRFParams(0, 1, 1, 1e-3, 1e-3))


def test_too_many_pixels():
    """Zeros that are never read take no memory."""
    maps, photo = np.zeros((2, 2**14, 2**14), np.float16), np.zeros((2**14, 2**14, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^image must have fewer than 268435456 pixels, got 2684"):
        cuekit.dense_crf(maps, photo)


# ----------------------------------------------------------------------- labels_to_probabilities


@given(
    st.data(),
    batches,
    sizes,
    st.sampled_from([1, 2, 3, 21, 300]),
    st.sampled_from([0.5, 0.7, 0.999]),
    st.sampled_from([0, 1, 255, -1, 10**6, None]),
    st.sampled_from(FRONT_ENDS),
)
def test_labels_to_probabilities(data, batch, size, classes, sure, ignore, front_end):
    labels = data.draw(label_maps((*batch, *size)))
    labels = data.draw(reordered(labels % min(classes, np.iinfo(labels.dtype).max)))
    options = {"gt_prob": sure, "ignore": ignore}
    result = front_end.unwrap(
        cuekit.labels_to_probabilities(front_end.wrap(labels), classes, **options)
    )
    assert result.dtype == np.float32
    assert result.shape == (*batch, classes, *size)
    for *image, y, x in np.ndindex(labels.shape):
        label = labels[(*image, y, x)]
        expected = np.full(classes, (1 - sure) / max(classes - 1, 1))
        expected[label] = sure if classes > 1 else 1
        if label == ignore:
            expected[:] = 1 / classes
        pixel = result[(*image, slice(None), y, x)]
        np.testing.assert_array_equal(pixel, expected.astype(np.float32))


def test_labels_to_probabilities_is_pydensecrf_s_unary():
    utils = needs("pydensecrf.utils")
    labels = np.random.default_rng(0).integers(0, 21, (30, 40))
    expected = utils.unary_from_labels(labels, 21, gt_prob=0.7, zero_unsure=False)
    result = -np.log(cuekit.labels_to_probabilities(labels, 21))
    np.testing.assert_allclose(result.reshape(21, -1), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ignored_labels(dtype):
    ignore = np.iinfo(dtype).max
    labels = np.array([[0, 1, ignore, 2]], dtype)
    result = cuekit.labels_to_probabilities(labels, 4, ignore=int(ignore))
    np.testing.assert_array_equal(result[:, 0, 2], np.float32(0.25))
    np.testing.assert_allclose(result.sum(0), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_any_integer_may_be_ignored(dtype):
    """-1 in signed labels; in unsigned ones it does not occur, and is no error."""
    labels = np.array([[0, 1, 2, 1]], dtype)
    for ignore in (-1, 255, 2**63, -(2**63), 10**30):
        plain = cuekit.labels_to_probabilities(labels, 3, ignore=None)
        assert same_bits(cuekit.labels_to_probabilities(labels, 3, ignore=ignore), plain)
    if np.dtype(dtype).kind == "i":
        labels[0, 3] = -1
        result = cuekit.labels_to_probabilities(labels, 3, ignore=-1)
        np.testing.assert_array_equal(result[:, 0, 3], np.float32(1 / 3))
        message = "labels must be from 0 to 2 or 100, got -1 at index (0, 3)"
        with refused(message):
            cuekit.labels_to_probabilities(labels, 3, ignore=100)
    else:
        labels[0, 2] = 77
        with refused("labels must be from 0 to 2 or -1, got 77 at index (0, 2)"):
            cuekit.labels_to_probabilities(labels, 3, ignore=-1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_masks_of_0_and_255_are_warned_of(dtype):
    mask = np.zeros((2, 4, 5), dtype)
    mask[1, 2:, 1:] = 255
    with pytest.warns(UserWarning, match=r"^labels should hold class 1 .*mask > 0.*ignore=None$"):
        result = cuekit.labels_to_probabilities(mask, 2)
    np.testing.assert_array_equal(result[1, :, 3, 3], np.float32(0.5))
    meant = cuekit.labels_to_probabilities((mask > 0).astype(int), 2, ignore=None)
    np.testing.assert_array_equal(meant[1, :, 3, 3], np.float32([1 - 0.7, 0.7]))


def test_other_labels_are_not_warned_of(recwarn):
    for labels, classes, ignore in (
        ([[0, 0]], 2, 255),
        ([[255, 255]], 2, 255),
        ([[1, 255]], 2, 255),
        ([[0, 1, 255]], 2, 255),
        ([[0, 255]], 3, 255),
        ([[0, -1]], 2, -1),
        ([[0, 1]], 2, None),
    ):
        cuekit.labels_to_probabilities(np.array(labels), classes, ignore=ignore)
    assert not recwarn.list


@pytest.mark.parametrize("label", [-1, 3, 254, 2**40])
def test_wrong_labels(label):
    labels = np.zeros((2, 4, 5), np.int64)
    labels[1, 3, 2] = label
    message = f"labels must be from 0 to 2 or 255, got {label} at index (1, 3, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cuekit.labels_to_probabilities(labels, 3)
    labels[1, 3, 2] = 255
    assert cuekit.labels_to_probabilities(labels, 3).shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"^labels must be from 0 to 2, got 255 at index"):
        cuekit.labels_to_probabilities(labels, 3, ignore=None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_classes": 0}, ValueError),
        ({"num_classes": 2.0}, TypeError),
        ({"gt_prob": 0}, ValueError),
        ({"gt_prob": 1}, ValueError),
        ({"gt_prob": np.nan}, ValueError),
        ({"gt_prob": None}, TypeError),
        ({"ignore": "255"}, TypeError),
    ],
)
def test_wrong_options_of_labels(options, error):
    [(name, value)] = options.items()
    with pytest.raises(error, match=f"^{name} must be .*, got {value!r}"):
        cuekit.labels_to_probabilities(np.zeros((4, 5), int), **{"num_classes": 3, **options})
