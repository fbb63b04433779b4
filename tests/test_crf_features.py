"""The CRF of points with any features against its oracle, one iteration at a time, and as a model.

`test_crf.py` says why one iteration. `test_pydensecrf.py` compares whole runs with pydensecrf.
"""

import re
from dataclasses import replace
from itertools import pairwise

import emulated
import numpy as np
import pytest
from common import INSTRUCTION_SETS, at_most, needs
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    NO_DEVICE,
    Run,
    batches,
    cpu_runs,
    reordered,
    runs_of,
    same_bits,
    tags,
)

import cuekit
from cuekit import CRFKernel, CRFParams, MeanField, crf, reference
from cuekit.crf_features import bilateral_features, gaussian_features, photo_kernels

NORMALIZATIONS = ("symmetric", "before", "after", "none")
channel_counts = st.sampled_from([2, 3, 4, 5, 8, 9, 17, 21, 33])
point_counts = st.sampled_from([1, 2, 3, 17, 64, 65, 130])
feature_counts = st.integers(1, 10)


@st.composite
def some_features(draw, shape):
    """Points that are close together, far apart, in one place, on a line."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=shape) * draw(st.sampled_from([0, 0.3, 1, 4, 10]))
    if draw(st.booleans()):
        values[..., 1:, :] = 0
    return draw(reordered((values + draw(st.sampled_from([0, 0, 40]))).astype(np.float32)))


@st.composite
def compatibilities(draw, channels):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["weight", "weights", "matrix"]))
    if kind == "weight":
        return draw(st.sampled_from([0, 1, 3.0, 10, -2]))
    if kind == "weights":
        return rng.normal(size=channels) * 3
    matrix = rng.normal(size=(channels, channels)) * 2
    return ((matrix + matrix.T) / 2).astype(np.float32)


@st.composite
def some_kernels(draw, channels, points, batch=()):
    count = draw(st.integers(0, 3))
    return [
        CRFKernel(
            draw(some_features((*batch, draw(feature_counts), points))),
            draw(compatibilities(channels)),
            draw(st.sampled_from(NORMALIZATIONS)),
        )
        for _ in range(count)
    ]


@st.composite
def probabilities(draw, shape, dtype="float32"):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=shape) * draw(st.sampled_from([0, 1, 4]))
    return draw(
        reordered(np.moveaxis(reference.softmax(np.moveaxis(logits, -2, 0)), 0, -2).astype(dtype))
    )


def penalties(compatibility, channels):
    """The matrix that means the same."""
    table = np.asarray(compatibility, np.float64)
    return table if table.ndim == 2 else -np.diag(np.broadcast_to(table, channels))


def oracle(kernels, channels, index=()):
    return reference.feature_messages(
        [
            (
                np.ascontiguousarray(k.features[index]),
                penalties(k.compatibility, channels),
                k.normalization,
            )
            for k in kernels
        ]
    )


def largest_message(kernels, channels):
    return sum(np.abs(penalties(k.compatibility, channels)).sum(1).max() for k in kernels)


def energies_of(maps, epsilon=1e-5):
    return -np.log(np.clip(maps.astype(np.float64), epsilon, 1))


def of_features(maps, present, *, kernels, **options):
    return cuekit.dense_crf_features(maps, kernels, present=present, **options)


@at_most(200)
@given(st.data(), batches, channel_counts, point_counts, st.sampled_from(FLOATS), cpu_runs)
def test_equals_oracle(data, batch, channels, points, dtype, run):
    """After 1 iteration and after 3.

    Messages are weighted means of Q times penalties, or for "before" and "none" up to some times as
    much; sums of float32 are good to 1e-6 of themselves, and an error of the exponents is at most
    halved by the softmax.
    """
    maps = data.draw(probabilities((*batch, channels, points), dtype))
    kernels = data.draw(some_kernels(channels, points, batch))
    for n in (0, 2):
        before, after = (
            run(of_features, maps, None, kernels=kernels, iterations=i) for i in (n, n + 1)
        )
        assert after.dtype == (np.float64 if dtype == "float64" else np.float32)
        for index in np.ndindex(batch):
            messages = oracle(kernels, channels, index)(before[index].astype(np.float64))
            logits = messages - energies_of(maps[index])
            largest = np.abs(messages).max(initial=0)
            np.testing.assert_allclose(
                after[index], reference.softmax(logits), rtol=0, atol=3e-6 * (1 + largest)
            )
            np.testing.assert_allclose(after[index].sum(0), 1, rtol=0, atol=2e-6)


@at_most(100)
@given(st.data(), channel_counts, point_counts, cpu_runs)
def test_present_is_the_crf_of_these_channels(data, channels, points, run):
    maps = data.draw(probabilities((channels, points)))
    kernels = data.draw(some_kernels(channels, points))
    present = data.draw(tags((channels - 1,)))
    result = run(of_features, maps, present, kernels=kernels, iterations=2)
    kept = np.concatenate([[True], present])
    assert not result[~kept].any()
    if kept.sum() == 1:
        assert (result[0] == 1).all()
        return
    chosen = [
        k._replace(
            compatibility=k.compatibility
            if np.ndim(k.compatibility) == 0
            else np.ascontiguousarray(k.compatibility[np.ix_(*[kept] * np.ndim(k.compatibility))])
        )
        for k in kernels
    ]
    alone = run(of_features, np.ascontiguousarray(maps[kept]), None, kernels=chosen, iterations=2)
    assert same_bits(result[kept], alone)


@pytest.mark.parametrize("channels", [2, 21])
def test_same_bits_for_any_threads_and_instructions(channels):
    """With points that threads divide among them."""
    rng = np.random.default_rng(channels)
    points = 70_000
    clusters = rng.normal(size=(4, 40)) * 9
    features = clusters[:, rng.integers(0, 40, points)] + rng.normal(size=(4, points)) / 3
    maps = rng.dirichlet(np.ones(channels), points).T.astype(np.float32)
    kernels = [(features, 3), (features[:2], np.ones((channels, channels)), "after")]
    expected = None
    for name in INSTRUCTION_SETS:
        for threads in (1, 3):
            run = Run(FRONT_ENDS[0], threads, name)
            result = run(of_features, maps, None, kernels=kernels, iterations=2)
            expected = result if expected is None else expected
            assert same_bits(result, expected), (name, threads)


# --------------------------------------------------------------------------- points in no order


def a_cloud(channels=5, points=40_000):
    """Return maps and kernels of points in no order, and an order of neighbours."""
    rng = np.random.default_rng(channels)
    clusters = rng.normal(size=(4, 40)) * 9
    of_cluster = rng.integers(0, 40, points)
    features = (clusters[:, of_cluster] + rng.normal(size=(4, points)) / 3).astype(np.float32)
    maps = rng.dirichlet(np.ones(channels), points).T.astype(np.float32)
    matrix = rng.normal(size=(channels, channels))
    kernels = [(features, 3), (features[:2], matrix + matrix.T, "after")]
    return maps, kernels, np.argsort(of_cluster, kind="stable")


def permuted(kernels, order):
    return [(features[:, order], *others) for features, *others in kernels]


@pytest.mark.parametrize("channels", [2, 5, 21])
@pytest.mark.parametrize("dtype", FLOATS)
def test_points_in_no_order_are_those_in_order(channels, dtype):
    """Points in no order are sorted within the call; those that come in order are not."""
    maps, kernels, order = a_cloud(channels)
    maps = maps.astype(dtype)
    present = np.arange(1, channels) % 3 != 2
    options = {"present": present, "iterations": 3}
    result = cuekit.dense_crf_features(maps, kernels, **options)
    expected = cuekit.dense_crf_features(maps[:, order], permuted(kernels, order), **options)
    # Vertices sum the same float32 values in another order.
    np.testing.assert_allclose(result[:, order], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.sum(0), 1, rtol=0, atol=1e-5)


def test_mean_field_of_points_in_no_order():
    maps, kernels, order = a_cloud()
    field, sorted_field = (
        MeanField(maps, kernels),
        MeanField(maps[:, order], permuted(kernels, order)),
    )
    q = np.random.default_rng(0).dirichlet(np.ones(5), maps.shape[1]).T
    expected = sorted_field.step(q[:, order])
    np.testing.assert_allclose(field.step(q)[:, order], expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(field.start()[:, order], sorted_field.start())
    assert same_bits(field.run(2), field.step(field.step(field.start())))
    assert same_bits(field.run(2), cuekit.dense_crf_features(maps, kernels, iterations=2))
    assert field.kl_divergence(q) == pytest.approx(sorted_field.kl_divergence(q[:, order]), 1e-5)


def test_a_bad_score_among_points_in_no_order():
    maps, kernels, _ = a_cloud()
    maps[2, 31_234] = np.nan
    with pytest.raises(ValueError, match=r"got nan at index \(2, 31234\)"):
        cuekit.dense_crf_features(maps, kernels)


def test_features_that_are_hard_to_sort_by():
    """One that is constant, one that has an outlier, and all equal."""
    maps, ((features, _), _), order = a_cloud()
    features[1], features[2, 7] = 3, 90_000
    for hard in (features, np.zeros_like(features), np.repeat(features[:1], 10, 0)):
        kernels = [(hard, 3)]
        result = cuekit.dense_crf_features(maps, kernels, iterations=1)
        expected = cuekit.dense_crf_features(maps[:, order], permuted(kernels, order), iterations=1)
        np.testing.assert_allclose(result[:, order], expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------ meaning of kernels


def points_and_maps(channels=4, points=60, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, points)).astype(np.float32)
    return features, rng.dirichlet(np.ones(channels), points).T.astype(np.float32)


def test_ways_to_write_potts_are_equal():
    features, maps = points_and_maps()
    expected = cuekit.dense_crf_features(maps, [(features, 3)])
    for same in (np.full(4, 3), 3 * (1 - np.eye(4)), -3 * np.eye(4), np.float32(3)):
        result = cuekit.dense_crf_features(maps, [CRFKernel(features, same)])
        # Ten iterations amplify the rounding of one.
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
    twice = cuekit.dense_crf_features(maps, [(features, 1), (features, 2)])
    np.testing.assert_allclose(twice, expected, rtol=0, atol=1e-4)


def test_without_kernels():
    _, maps = points_and_maps()
    np.testing.assert_allclose(cuekit.dense_crf_features(maps, []), maps, rtol=1e-5)


def test_penalties_of_one_pair_of_classes():
    """Points in one place: each pays 100 for the mean Q of the other class of the pair."""
    maps = np.full((3, 50), [[0.25], [0.35], [0.4]], np.float32)
    matrix = np.zeros((3, 3))
    matrix[0, 1] = matrix[1, 0] = 100
    kernels = [(np.zeros((1, 50)), matrix, "after")]
    result = cuekit.dense_crf_features(maps, kernels, iterations=1)
    expected = reference.softmax(np.log(maps) - [[35], [25], [0]])
    # The float32 rounding of logarithms of some 35.
    np.testing.assert_allclose(result, expected, rtol=3e-5)


def test_approximates_the_model():
    """Labels are those of the exact filter but for a few."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 4)) * 3
    group = rng.integers(0, 4, 400)
    features = centres[:, group] + rng.normal(size=(3, 400)) * 0.4
    maps = reference.softmax(2 * (np.arange(4)[:, None] == group) + rng.normal(size=(4, 400)))
    q = maps
    messages = reference.feature_messages(
        [(features.astype(np.float32), -3 * np.eye(4), "symmetric")], reference.exact_filter
    )
    for _ in range(10):
        q = reference.softmax(messages(q) + np.log(maps))
    ours = cuekit.dense_crf_features(maps, [(features, 3)])
    assert (ours.argmax(0) == q.argmax(0)).mean() > 0.99
    assert (ours.argmax(0) == group).mean() > (maps.argmax(0) == group).mean() + 0.1


# ---------------------------------------------------------------------------------------- MeanField


@given(st.data(), channel_counts, point_counts, st.sampled_from(FLOATS))
def test_mean_field_is_the_same_one_by_one(data, channels, points, dtype):
    maps = data.draw(probabilities((channels, points), dtype))
    kernels = data.draw(some_kernels(channels, points))
    present = data.draw(tags((channels - 1,)))
    field = MeanField(maps, kernels, present=present)
    q = field.start()
    energies = energies_of(maps)[np.concatenate([[True], present])]
    for n, (own, kl) in zip(range(4), field, strict=False):
        expected = cuekit.dense_crf_features(maps, kernels, present=present, iterations=n)
        assert same_bits(q, expected)
        assert same_bits(own, expected)
        assert same_bits(field.run(n), expected)
        assert kl == field.kl_divergence(q)
        if present.all():
            messages = oracle(kernels, channels)
            exact = reference.kl_divergence(q.astype(np.float64), energies, messages)
            largest = largest_message(kernels, channels) * max(points, 1)
            # Sums of float32 messages; those of "before" and "none" can be some times as large.
            assert abs(kl - exact) <= 1e-5 * (points * 12 + 3 * largest)
        q = field.step(q)


def test_step_takes_any_q():
    features, maps = points_and_maps()
    rng = np.random.default_rng(3)
    q = rng.dirichlet(np.ones(4), 60).T
    kernels = [CRFKernel(features, 2.0)]
    field = MeanField(maps, kernels)
    expected = reference.softmax(oracle(kernels, 4)(q) + np.log(maps))
    np.testing.assert_allclose(field.step(q), expected, rtol=0, atol=1e-5)
    torch = needs("torch")
    of_tensors = MeanField(torch.from_numpy(maps), kernels)
    result = of_tensors.step(torch.from_numpy(q))
    assert type(result) is torch.Tensor
    assert same_bits(result.numpy(), field.step(q))
    for wrong, message in (
        (q[:, 1:], "q must have shape (4, 60) to match probabilities, got (4, 59)"),
        (q * np.nan, "q must be finite, got nan at index (0, 0)"),
    ):
        with refused(message):
            field.step(wrong)


def test_energies_and_their_divergence():
    features, maps = points_and_maps()
    energies = -np.log(maps.astype(np.float64)) + 5  # a constant per point
    energies[1, ::3] = np.inf
    kernels = [CRFKernel(features, 2.0)]
    field = MeanField(energies, kernels, unary="energies")
    q = field.run(3)
    assert (q[1, ::3] < 1e-37).all()
    finite = np.where(np.isinf(energies), 0, energies)
    exact = reference.kl_divergence(q, finite, oracle(kernels, 4))
    assert abs(field.kl_divergence(q) - exact) < 1e-3


def test_divergence_falls():
    """With a kernel that is wide enough, mean field lowers it in every step."""
    features, maps = points_and_maps()
    field = MeanField(maps, [CRFKernel(features, 1.0)])
    divergences = [kl for _, (_, kl) in zip(range(6), field, strict=False)]
    assert (np.diff(divergences) < 1e-5).all()
    assert divergences[5] < divergences[0] - 0.1


def test_tolerance():
    features, maps = points_and_maps()
    kernels = [(features, 1)]
    steps = [cuekit.dense_crf_features(maps, kernels, iterations=n) for n in range(30)]
    changes = [np.abs(b - a).max() for a, b in pairwise(steps)]
    for tolerance in (0.1, 1e-3, 2.0):
        enough = next(i for i, change in enumerate(changes) if change <= tolerance) + 1
        result = cuekit.dense_crf_features(maps, kernels, iterations=29, tolerance=tolerance)
        assert same_bits(result, steps[enough])
    assert same_bits(cuekit.dense_crf_features(maps, kernels, iterations=3, tolerance=0), steps[3])


def test_tolerance_of_photos():
    """And all steps of a photo, with their divergences."""
    photo = np.ascontiguousarray(needs("skimage.data").chelsea()[60:80, 90:119])
    maps = np.random.default_rng(0).dirichlet(np.ones(3), photo.shape[:2]).transpose(2, 0, 1)
    weak = CRFParams(1, 3, 1, 30, 20)
    for image in (photo, photo[..., 0]):
        field = MeanField.of_photo(maps, image, weak)
        steps = [q for _, (q, _) in zip(range(20), field, strict=False)]
        changes = [np.abs(b - a).max() for a, b in pairwise(steps)]
        for tolerance in (0.1, 0.005):
            enough = next(i for i, change in enumerate(changes) if change <= tolerance) + 1
            options = {"iterations": 19, "tolerance": tolerance}
            assert same_bits(cuekit.dense_crf(maps, image, weak, **options), steps[enough])
        both = cuekit.dense_crf(
            np.stack([maps, maps[::-1]]), np.stack([image] * 2), weak, **options
        )
        assert same_bits(both[0], cuekit.dense_crf(maps, image, weak, **options))
    # The kernel for RGB photos, which this is without a tolerance, differs by rounding.
    plain = cuekit.dense_crf(maps, photo, "irn", iterations=2)
    own = MeanField.of_photo(maps, photo, "irn").run(2)
    np.testing.assert_allclose(own, plain, rtol=0, atol=1e-4)


def test_mean_field_of_a_photo():
    photo = np.ascontiguousarray(needs("skimage.data").chelsea()[60:80, 90:119])
    maps = np.random.default_rng(0).dirichlet(np.ones(3), photo.shape[:2]).transpose(2, 0, 1)
    options = {"present": [True, False], "unary": "energies", "threads": 2}
    energies = -np.log(maps)
    field = MeanField.of_photo(energies, photo, "irn", **options)
    kernels = photo_kernels(photo, "irn")
    points = MeanField(energies.reshape(3, -1), kernels, **options)
    for (q, kl), (own, own_kl), _ in zip(field, points, range(3), strict=False):
        assert q.shape == maps.shape
        assert same_bits(q.reshape(3, -1), own)
        assert kl == own_kl == field.kl_divergence(q)
    assert same_bits(field.run(3), field.step(field.step(field.step(field.start()))))
    # Pixels stay in their order, even where the values of a photo are in none.
    noise = np.random.default_rng(1).integers(0, 256, (190, 180), np.uint8)
    maps = np.random.default_rng(2).dirichlet(np.ones(3), noise.shape).transpose(2, 0, 1)
    q = MeanField.of_photo(maps, noise, "irn").run(2)
    assert same_bits(q, cuekit.dense_crf(maps, noise, "irn", iterations=2))
    with refused("probabilities must have shape (K, H, W), got (1, 3, 20, 29)"):
        MeanField.of_photo(np.zeros((1, 3, 20, 29)), photo[None])
    with refused("q must have shape (3, 20, 29) to match probabilities, got (3, 580)"):
        field.step(np.zeros((3, 580)))


# --------------------------------------------------------------------------- photos of other kinds

photo_dtypes = st.sampled_from(["uint8", "uint16", *FLOATS])
pairs = st.sampled_from([0.01, 1.0, 3.0, (3.0, 7.0), (50.0, 2.0)])


@st.composite
def photos(draw, shape):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(photo_dtypes))
    noise = rng.integers(0, 40, shape) + 90 * (np.indices(shape)[-2] > 2)
    return draw(reordered((noise / (1 if dtype.kind == "u" else 100)).astype(dtype)))


def crf_of(maps, photo, present=None, *more, **options):
    return cuekit.dense_crf(maps, photo, *more, present=present, **options)


@at_most(150)
@pytest.mark.filterwarnings("ignore:bilateral_srgb should be less")
@given(
    st.data(),
    batches,
    st.sampled_from([2, 3, 5, 9]),
    st.sampled_from([(1, 1), (5, 7), (9, 13)]),
    st.sampled_from([None, 1, 2, 3, 4, 8]),
    st.sampled_from(FLOATS),
    cpu_runs,
)
def test_any_photo_equals_oracle(data, batch, classes, size, channels, dtype, run):
    """Gray without an axis and with one, RGB of any dtype, and more channels."""
    shape = (*batch, *size) if channels is None else (*batch, *size, channels)
    photo = data.draw(photos(shape))
    maps = data.draw(probabilities((*batch, classes, size[0] * size[1]), dtype))
    maps = maps.reshape(*batch, classes, *size)
    srgb = data.draw(st.sampled_from([5.0, 20.0, None]))
    if srgb is None:
        srgb = tuple(np.linspace(5, 30, channels or 1).tolist())
    setting = CRFParams(3, data.draw(pairs), 10, data.draw(pairs), srgb)
    before, after = (run(crf_of, maps, photo, None, params=setting, iterations=n) for n in (1, 2))
    gray = photo[..., None] if channels is None else photo
    lowest = {
        name: tuple(np.maximum(getattr(setting, name), 0.125) * np.ones(2))
        for name in ("gaussian_sxy", "bilateral_sxy")
    }
    computed = replace(setting, **lowest)
    for index in np.ndindex(batch):
        own = gray[index].astype(np.float32)
        messages = reference.crf_messages(own, computed, reference.lattice_filter)
        flat = before[index].reshape(classes, -1).astype(np.float64)
        logits = messages(flat) - energies_of(maps[index]).reshape(classes, -1)
        expected = reference.softmax(logits).reshape(maps[index].shape)
        np.testing.assert_allclose(after[index], expected, rtol=0, atol=3e-5)


def test_an_rgb_photo_of_floats_is_that_of_uint8():
    """Up to rounding: other code for the same features in the same order."""
    photo = np.ascontiguousarray(needs("skimage.data").chelsea()[60:140, 90:190])
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(5), photo.shape[:2]).transpose(2, 0, 1).astype(np.float32)
    expected = cuekit.dense_crf(maps, photo, "irn")
    for other in (photo.astype(np.float32), photo.astype(np.uint16), photo.astype(np.float64)):
        result = cuekit.dense_crf(maps, other, "irn")
        assert (result.argmax(0) == expected.argmax(0)).mean() > 0.9999
        assert np.quantile(np.abs(result - expected), 0.999) < 1e-3
    gray = cuekit.dense_crf(maps, photo[..., 1], "irn")
    assert (gray.argmax(0) != expected.argmax(0)).any()


def test_equal_numbers_are_the_plain_kernel():
    """Written as tuples; and widths that differ are those of x and of y."""
    photo = np.ascontiguousarray(needs("skimage.data").chelsea()[60:100, 90:150])
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(3), photo.shape[:2]).transpose(2, 0, 1).astype(np.float32)
    expected = cuekit.dense_crf(maps, photo, CRFParams(3, 3, 10, 50, 5))
    same = CRFParams(3, (3, 3), 10, [50, 50], (5, 5, 5))
    assert same_bits(cuekit.dense_crf(maps, photo, same), expected)
    assert CRFParams(3, (3, 3), 10, (50, 50), (5,)) == crf.PRESETS["irn"]
    wide = CRFParams(5, (30, 0.1), 0, 1, 1)
    rows = np.zeros((2, 20, 30), np.float32)
    rows[0], rows[1] = 0.5, 0.5
    rows[0, 7, :20] = 0.95
    rows[1, 7, :20] = 0.05
    spread = cuekit.dense_crf(rows, photo[:20, :30], wide)
    assert (spread[0, 7] > 0.6).all()
    assert (np.abs(np.delete(spread[0], 7, 0) - 0.5) < 0.01).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_photos_that_are_not_finite(dtype):
    maps, photo = np.full((2, 4, 5), 0.5), np.zeros((4, 5), dtype)
    photo[2, 3] = np.nan
    with refused("image must be finite, got nan at index (2, 3, 0)"):
        cuekit.dense_crf(maps, photo)


def test_levels_below_the_width_are_warned_of(recwarn):
    maps, photo = np.full((2, 4, 5), 0.5), np.linspace(0, 1, 20).reshape(4, 5)
    message = r"^bilateral_srgb should be less than the range of image"
    for call in (
        lambda: cuekit.dense_crf(maps, photo),
        lambda: cuekit.MeanField.of_photo(maps, photo),
        lambda: photo_kernels(photo),
    ):
        with pytest.warns(UserWarning, match=message) as warned:
            call()
        assert [each.filename for each in warned] == [__file__]
    recwarn.clear()
    cuekit.dense_crf(maps, photo * 255)
    cuekit.dense_crf(maps, photo, CRFParams(3, 3, 10, 50, 0.05))
    cuekit.dense_crf(maps, photo * 0)
    assert not recwarn.list


def test_lattices_that_are_kept_between_calls():
    """They depend on sizes and widths, and each pair of these is its own."""
    rng = np.random.default_rng(0)
    calls = [
        (rng.integers(0, 256, size, np.uint8), CRFParams(3, sxy, weight, 20, 13))
        for size in ((12, 17), (17, 12))
        for sxy in (3, (2, 5), (5, 2))
        for weight in (0, 5)
    ]
    for photo, setting in [*calls, *calls[::-1]]:
        maps = rng.dirichlet(np.ones(3), photo.shape).transpose(2, 0, 1)
        result = cuekit.dense_crf(maps, photo, setting, iterations=2)
        expected = MeanField(maps.reshape(3, -1), photo_kernels(photo, setting)).run(2)
        assert same_bits(result.reshape(3, -1), expected)


def test_photo_kernels():
    photo = np.ascontiguousarray(needs("skimage.data").chelsea()[60:80, 90:119])
    maps = np.random.default_rng(0).dirichlet(np.ones(3), photo.shape[:2]).transpose(2, 0, 1)
    for image in (photo[..., 0], photo[..., :2], photo.astype(np.float32)):
        expected = cuekit.dense_crf(maps, image, "irn", iterations=4)
        field = MeanField(maps.reshape(3, -1), photo_kernels(image, "irn"))
        assert same_bits(field.run(4).reshape(maps.shape), expected)
    first = photo_kernels(np.moveaxis(photo, -1, 0), "irn", channel_axis=0)
    for kernel, other in zip(first, photo_kernels(photo, "irn"), strict=True):
        assert same_bits(kernel.features, other.features)
        assert kernel.compatibility == other.compatibility
    assert photo_kernels(photo, CRFParams(0, 1, 0, 1, 1)) == []
    with refused("image must have shape (H, W) or (H, W, C) with 1 to 8 channels, got (20, 29, 9)"):
        photo_kernels(np.zeros((20, 29, 9), np.uint8))


# ------------------------------------------------------------------------------ features of grids


def test_spacing():
    expected = gaussian_features((3, 4, 5), (2.0, 4.0, 8.0))
    result = gaussian_features((3, 4, 5), 8, spacing=(4, 2, 1))
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(expected.reshape(3, 3, 4, 5)[0, :, 1, 2], [0, 0.5, 1])


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["uint8", "int64", "float16", "float64"]),
    st.integers(0, 3),
)
def test_bilateral_features(shape, dtype, axis):
    rng = np.random.default_rng(len(shape))
    image = rng.integers(0, 100, shape).astype(dtype)
    result = bilateral_features(image, 2, 7)
    np.testing.assert_array_equal(result[:-1], gaussian_features(shape, 2))
    np.testing.assert_array_equal(result[-1], image.ravel().astype(np.float32) / np.float32(7))
    axis = min(axis, len(shape))
    coloured = np.stack([image, image + 1], axis)
    both = bilateral_features(coloured, 2, (7, 3), channel_axis=axis)
    np.testing.assert_array_equal(both[:-1], result)
    np.testing.assert_array_equal(both[-1], (image + 1).ravel().astype(np.float32) / np.float32(3))


# --------------------------------------------------------------------------- on a CUDA device

device_runs = runs_of(DEVICES)
on_a_device = pytest.mark.skipif(not DEVICES, reason=NO_DEVICE)


@pytest.fixture(params=DEVICES, ids=lambda front_end: front_end.name)
def device(request):
    with request.param.active():
        yield request.param


def of_wrapped(maps, present, *features, kernels, **options):
    """Kernels with these features, which are on the device of the maps."""
    own = [k._replace(features=each) for k, each in zip(kernels, features, strict=True)]
    return cuekit.dense_crf_features(maps, own, present=present, **options)


def on_device(device, kernels):
    return [k._replace(features=device.wrap(k.features)) for k in kernels]


@on_a_device
@at_most(60)
@given(st.data(), batches, channel_counts, point_counts, st.sampled_from(FLOATS), device_runs)
def test_equals_the_cpu_on_a_device(data, batch, channels, points, dtype, run):
    """After 1 iteration, with the tolerance of `test_equals_oracle`."""
    maps = data.draw(probabilities((*batch, channels, points), dtype))
    kernels = data.draw(some_kernels(channels, points, batch))
    present = data.draw(tags((*batch, channels - 1)))
    options = {"kernels": kernels, "iterations": 1}
    expected = of_features(maps, present, **options)
    result = run(of_wrapped, maps, present, *(k.features for k in kernels), **options)
    assert result.dtype == expected.dtype
    # Filters that are not normalised give at most the number of points.
    largest = largest_message(kernels, channels) * max(points, 1)
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * (1 + largest))
    assert not result[expected == 0].any()


@on_a_device
@at_most(40)
@pytest.mark.filterwarnings("ignore:bilateral_srgb should be less")
@given(
    st.data(),
    batches,
    st.sampled_from([None, 1, 2, 3, 4, 8]),
    st.sampled_from(FLOATS),
    device_runs,
)
def test_any_photo_on_a_device(data, batch, channels, dtype, run):
    size, classes = (9, 13), 5
    photo = data.draw(photos((*batch, *size) if channels is None else (*batch, *size, channels)))
    maps = data.draw(probabilities((*batch, classes, size[0] * size[1]), dtype))
    maps = maps.reshape(*batch, classes, *size)
    widths = tuple(np.linspace(5, 30, channels or 1).tolist())
    setting = CRFParams(3, data.draw(pairs), 10, data.draw(pairs), widths)
    options = {"params": setting, "iterations": 2}
    expected = crf_of(maps, photo, **options)
    result = run(crf_of, maps, photo, None, **options)
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-5)


def test_one_by_one_on_a_device(device):
    features, maps = points_and_maps()
    kernels = [CRFKernel(features, 1.0), CRFKernel(features[:2].copy(), 1 - np.eye(4), "after")]
    energies = -np.log(maps) + 3
    for scores, unary in ((maps, "probabilities"), (energies, "energies")):
        expected = MeanField(scores, kernels, present=[1, 0, 1], unary=unary)
        tags = device.wrap(np.array([True, False, True]))
        field = MeanField(
            device.wrap(scores), on_device(device, kernels), present=tags, unary=unary
        )
        for (q, kl), (own, own_kl), _ in zip(expected, field, range(4), strict=False):
            np.testing.assert_allclose(device.unwrap(own), q, rtol=0, atol=1e-5)
            assert abs(own_kl - kl) < 1e-3
            assert field.kl_divergence(own) == own_kl
            np.testing.assert_allclose(
                device.unwrap(field.step(own)), expected.step(q), rtol=0, atol=1e-5
            )
        assert not device.unwrap(own)[2].any()
    with refused("q must have dtype float32 on a CUDA device, got float64", TypeError):
        field.step(device.wrap(maps.astype(np.float64)))


def test_tolerance_on_a_device(device):
    features, maps = points_and_maps()
    kernels = [CRFKernel(features, 1)]
    scores, own = device.wrap(maps), on_device(device, kernels)
    for tolerance in (0.1, 1e-3, 2.0, 0):
        options = {"iterations": 20, "tolerance": tolerance}
        expected = cuekit.dense_crf_features(maps, kernels, **options)
        result = device.unwrap(cuekit.dense_crf_features(scores, own, **options))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_features_that_cannot_be_used_on_a_device(device):
    """Without the check they give NaN where they reach, and only there."""
    features = np.arange(12, dtype=np.float32).reshape(1, 12) * 40
    maps = np.full((2, 12), 0.5, np.float32)
    for wrong in (np.nan, np.inf, -np.inf, 3e6):
        features[0, 5] = wrong
        kernels = [(device.wrap(features), 3)]
        result = device.unwrap(cuekit.dense_crf_features(device.wrap(maps), kernels))
        assert np.isnan(result[:, 5]).all()
        assert (np.delete(result, 5, 1) == 0.5).sum() >= 20
        message = (
            "kernels[0].features must be finite and at most 227023 in magnitude, got "
            f"{wrong} at index (0, 5)"
        )
        with refused(message):
            cuekit.dense_crf_features(device.wrap(maps), kernels, validate=True)


def test_wrong_arguments_on_a_device(device):
    features, maps = points_and_maps()
    scores, own = device.wrap(maps), device.wrap(features)
    for arguments, message in (
        ((device.wrap(features.astype(np.float64)), 1), r"kernels\[0\].features must have dtype "),
        ((features, 1), r"kernels\[0\].features must be on "),
        ((own, device.wrap(np.ones(4))), r"kernels\[0\].compatibility must be on the CPU"),
        ((own, 1, "mean"), r"kernels\[0\].normalization must be one of"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            cuekit.dense_crf_features(scores, [arguments])
    maps[1, 2] = np.nan
    with refused("probabilities must be finite, got nan at index (1, 2)"):
        cuekit.dense_crf_features(device.wrap(maps), [(own, 1)], validate=True)
    maps[:, 2] = np.inf
    with pytest.raises(
        ValueError, match=r"^probabilities must hold a finite .* at index \(:, 2\)$"
    ):
        cuekit.dense_crf_features(device.wrap(maps), [], unary="energies", validate=True)
    photo = np.zeros((4, 5), np.float32)
    photo[1, 2] = np.nan
    with refused("image must be finite, got nan at index (1, 2)"):
        cuekit.dense_crf(
            device.wrap(np.full((2, 4, 5), 0.5)), device.wrap(photo), "sec", validate=True
        )


@on_a_device
def test_torch_tensors_on_a_device():
    """Torch's CPU tensors play those of a device."""
    torch = needs("torch")
    features, maps = points_and_maps()
    expected = cuekit.dense_crf_features(maps, [(features, 3)], iterations=2)
    tensors = torch.from_numpy(maps), torch.from_numpy(features)
    with emulated.torch_on_device():
        kernels = [(tensors[1], 3)]
        result = cuekit.dense_crf_features(
            tensors[0], kernels, iterations=2, validate=True, tolerance=0
        )
        photo = tensors[1].reshape(3, 6, 10).permute(1, 2, 0)
        refined = cuekit.dense_crf(tensors[0].reshape(4, 6, 10), photo, CRFParams(3, 3, 10, 9, 1))
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-5)
    of_photo = cuekit.dense_crf(
        maps.reshape(4, 6, 10),
        np.moveaxis(features.reshape(3, 6, 10), 0, -1),
        CRFParams(3, 3, 10, 9, 1),
    )
    np.testing.assert_allclose(refined.numpy(), of_photo, rtol=0, atol=1e-3)


def test_photo_kernels_on_a_device(device):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (20, 29, 4), np.uint8)
    for image, axis in ((photo, -1), (photo[..., :3].copy(), None), (photo[..., 0].copy(), None)):
        own = photo_kernels(device.wrap(image), "irn", channel_axis=axis)
        for kernel, other in zip(own, photo_kernels(image, "irn"), strict=True):
            assert same_bits(device.unwrap(kernel.features), other.features)
    with refused("channel_axis must be the last axis on a CUDA device, got 0"):
        photo_kernels(device.wrap(photo), "irn", channel_axis=0)


# ----------------------------------------------------------------------------------------- errors


def refused(message, error=ValueError):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (
            np.zeros((2, 5)),
            TypeError,
            "kernels[0] must be a CRFKernel or a tuple (features, compatibility), got ndarray",
        ),
        ((np.zeros((0, 5)), 1), ValueError, "kernels[0].features must be 1 to 10 features, got 0"),
        (
            (np.zeros((11, 5)), 1),
            ValueError,
            "kernels[0].features must be 1 to 10 features, got 11",
        ),
        (
            (np.zeros((2, 4)), 1),
            ValueError,
            "kernels[0].features must have shape (D, 5) to match probabilities, got (2, 4)",
        ),
        ((np.zeros(5), 1), ValueError, "kernels[0].features must have shape (..., D, N), got (5,)"),
        (
            (np.full((1, 5), np.inf), 1),
            ValueError,
            "kernels[0].features must be finite in float32, got inf at index (0, 0)",
        ),
        (
            (np.full((1, 5), 1e300), 1),
            ValueError,
            "kernels[0].features must be finite in float32, got 1e+300 at index (0, 0)",
        ),
        (
            (np.full((1, 5), 1e9), 1),
            ValueError,
            "kernels[0].features must span fewer standard "
            "deviations: the lattice of 1 features from 1000000000.0 to 1000000000.0 cannot be "
            "addressed; subtract their means, or divide by larger widths",
        ),
        ((np.zeros((1, 5)), "3"), TypeError, "kernels[0].compatibility must be a number, got '3'"),
        (
            (np.zeros((1, 5)), np.ones(2)),
            ValueError,
            "kernels[0].compatibility must be a number or "
            "have shape (3,) or (3, 3) to match probabilities, got (2,)",
        ),
        (
            (np.zeros((1, 5)), np.arange(9.0).reshape(3, 3)),
            ValueError,
            "kernels[0].compatibility must be symmetric, got 1.0 at index (0, 1) and 3.0 at (1, 0)",
        ),
        (
            (np.zeros((1, 5)), np.full(3, np.nan)),
            ValueError,
            "kernels[0].compatibility must be at most 1e+30 in magnitude, got nan",
        ),
        (
            (np.zeros((1, 5)), 1, "mean"),
            ValueError,
            "kernels[0].normalization must be one of "
            "'symmetric', 'before', 'after', 'none', got 'mean'",
        ),
    ],
)
def test_wrong_kernels(kernel, error, message):
    with refused(message, error):
        cuekit.dense_crf_features(np.full((3, 5), 1 / 3), [kernel])


def test_the_largest_weights_give_finite_results():
    features, maps = points_and_maps()
    for how in NORMALIZATIONS:
        largest = 1e30 if how in ("symmetric", "after") else 1e20
        for weight in (largest, -largest, np.full((4, 4), largest)):
            result = cuekit.dense_crf_features(maps, [(features, weight, how)])
            np.testing.assert_allclose(result.sum(0), 1, atol=1e-6)
        with pytest.raises(ValueError, match=r"^kernels\[0\].compatibility must be at most"):
            cuekit.dense_crf_features(maps, [(features, 2 * largest, how)])


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_one_point(how):
    """It is alike to itself only: a matrix of 1 off the diagonal favours the class that is more."""
    maps = np.array([[0.25], [0.75]])
    features = np.full((3, 1), 7.0)
    result = cuekit.dense_crf_features(maps, [(features, 1 - np.eye(2), how)], iterations=1)
    share = 1.0
    if how == "none":  # the lattice's kernel of a point with itself is not quite 1
        share = reference.lattice_filter(features.T.astype(np.float32))(np.ones((1, 1)))[0, 0]
    expected = reference.softmax(np.log(maps) - share * maps[::-1])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_what_cannot_be_addressed():
    """Features of a wide range, where there are many; and more points than can be numbered."""
    rng = np.random.default_rng(0)
    for count, span in ((3, 400_000), (5, 50_000), (10, 1000)):
        features = rng.random((count, 40)) * span
        maps = np.full((2, 40), 0.5)
        with pytest.raises(
            ValueError, match=r"^kernels\[1\].features must span fewer standard dev"
        ):
            cuekit.dense_crf_features(maps, [(features[:1] / span, 1), (features, 1)])
        cuekit.dense_crf_features(maps, [(features / 40, 1)], iterations=1)
    many = np.broadcast_to(np.float32(0.5), (2, 2**27))
    message = "probabilities must have fewer than 134217728 points, got 134217728"
    with refused(message):
        cuekit.dense_crf_features(many, [(many, 1)])
    gray = np.broadcast_to(np.uint8(0), (2**14, 2**13))
    with refused("image must have fewer than 134217728 pixels, got 134217728"):
        photo_kernels(gray)


def test_wrong_arguments():
    maps, kernels = np.full((3, 5), 1 / 3), [(np.zeros((1, 5)), 1)]
    with refused("kernels must be a list of kernels, got ndarray", TypeError):
        cuekit.dense_crf_features(maps, np.zeros((1, 5)))
    with refused("tolerance must be at least 0, got -1.0"):
        cuekit.dense_crf_features(maps, kernels, tolerance=-1.0)
    with refused("probabilities must have shape (K, N), got (1, 3, 5)"):
        MeanField(maps[None], kernels)
    with pytest.raises(ValueError, match=r"^probabilities must have a background channel and"):
        cuekit.dense_crf_features(maps[:1], kernels)
    wrong = maps.copy()
    wrong[1, 2] = np.nan
    with refused("probabilities must be finite, got nan at index (1, 2)"):
        cuekit.dense_crf_features(wrong, kernels)
    with refused("probabilities must be finite, got nan at index (1, 1, 2)"):
        cuekit.dense_crf_features(np.stack([maps, wrong]), [(np.zeros((2, 1, 5)), 1)])
    wrong[:, 2] = np.inf
    with refused(
        "probabilities must hold a finite energy for the background or a present class at every "
        "point, got +inf for all of them at index (:, 2)"
    ):
        cuekit.dense_crf_features(wrong, kernels, unary="energies")
    with refused("shape must be fewer than 134217728 points, got (512, 512, 512)"):
        gaussian_features((512, 512, 512), 1)
    with refused("sigma must be one number or 2, got (1, 2, 3)"):
        gaussian_features((4, 4), (1, 2, 3))
    with refused("colour_sigma must be from 1e-30 to 1e+30, got 0.0"):
        bilateral_features(np.zeros((4, 4)), 1, 0)


@pytest.mark.parametrize("shape", [(2, 0), (0, 2, 3), (3, 2, 0)])
def test_empty(shape):
    kernels = [(np.zeros((*shape[:-2], 3, shape[-1])), 1)]
    result = cuekit.dense_crf_features(np.zeros(shape, np.float16), kernels)
    assert same_bits(result, np.zeros(shape, np.float32))
