"""Scores of masks by maps, and labels by scores, against the oracle."""

import re

import numpy as np
import pytest
from common import needs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import (
    FLOATS,
    batches,
    by_image,
    channel_counts,
    cue_maps,
    masks,
    runs,
    same_bits,
    sizes,
    tags,
)
from test_snap_masks import rectangles

import cuekit
from cuekit import MaskScores, reference

RNG = np.random.default_rng(0)
FIELDS = MaskScores._fields
tops = st.sampled_from([0.2, 0.01, 0.5, 1.0, 0.77])
thresholds = st.sampled_from([0.0, 0.3, 0.5, 1.0, -0.5, 2.0])


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


@st.composite
def inputs(draw):
    """Maps of the masks' resolution, or lower, or higher."""
    batch, classes, size = draw(batches), draw(channel_counts), draw(sizes)
    maps = draw(cue_maps((*batch, classes, *draw(st.just(size) | sizes))))
    shape = (*batch, draw(st.integers(0, 5)), *size)
    return batch, maps, draw(masks(shape) | rectangles(shape))


def assert_close(result, expected, maps):
    """Counts and their quotients are equal. Sums run in another order than the oracle's.

    Each of up to 2e4 additions rounds by 1.1e-16 of the sum so far, which is at most the sum of
    magnitudes: the mean is off by 1e-12 of the largest magnitude at most.
    """
    magnitude = float(np.abs(maps.astype(np.float64)).max(initial=0))
    for name, got, oracle in zip(FIELDS, result, expected, strict=True):
        assert got.dtype == oracle.dtype == (np.int64 if name == "area" else np.float64)
        assert got.shape == oracle.shape
        if "mean" in name and maps.dtype.kind == "f":
            np.testing.assert_allclose(got, oracle, rtol=0, atol=1e-12 * magnitude, err_msg=name)
        else:
            np.testing.assert_array_equal(got, oracle, err_msg=name)


def of(run, *arrays, names=FIELDS, **options):
    """Arrays of a result of `mask_scores`, each computed by a call of its own."""

    def one(*arrays, name, **options):
        return getattr(cuekit.mask_scores(*arrays, **options), name)

    return [run(one, *arrays, name=name, **options) for name in names]


@given(inputs(), runs, tops, thresholds)
def test_equals_oracle(arrays, run, top, threshold):
    batch, maps, stack = arrays
    result = of(run, maps, stack, top=top, threshold=threshold)
    expected = [
        by_image(
            lambda m, s, i=i: reference.mask_scores(m, s, top, threshold)[i], batch, maps, stack
        )
        for i in range(len(FIELDS))
    ]
    assert_close(result, expected, maps)


@given(inputs(), runs)
def test_without_the_largest_values_the_rest_is_the_same(arrays, run):
    _, maps, stack = arrays
    others = [name for name in FIELDS if name != "top_mean"]
    expected = of(run, maps, stack, names=others)
    result = of(run, maps, stack, names=others, top=None)
    assert all(map(same_bits, result, expected))
    assert cuekit.mask_scores(maps, stack, top=None).top_mean is None


@given(inputs(), runs)
def test_neither_classes_nor_masks_have_an_order(arrays, run):
    """A score depends on its own mask and map only, to the last bit."""
    _, maps, stack = arrays
    result = of(run, maps, stack)
    for got, reordered in zip(result, of(run, maps, stack[..., ::-1, :, :]), strict=True):
        assert same_bits(np.ascontiguousarray(reordered), np.flip(got, stack.ndim - 3))
    for got, first in zip(result[1:], of(run, maps[..., :1, :, :], stack)[1:], strict=True):
        assert same_bits(first, np.ascontiguousarray(got[..., :1]))


# Empty pixels are skipped in blocks of 512, 64 and 8; what a mask covers is anywhere in them.
@pytest.mark.parametrize("one", [1, 255])
@pytest.mark.parametrize("size", [(1, 1301), (7, 193)])
def test_masks_of_one_pixel_and_of_few(size, one):
    pixels = size[0] * size[1]
    starts = np.concatenate([np.arange(pixels), RNG.integers(0, pixels, 400)])
    lengths = np.concatenate([np.ones(pixels, int), RNG.integers(2, 90, 400)])
    x = np.arange(pixels)
    covered = (x >= starts[:, None]) & (x < (starts + lengths)[:, None])
    masks = (one * covered).astype(np.uint8).reshape(-1, *size)
    maps = RNG.integers(0, 100, (3, *size)).astype(np.float32)
    scores = cuekit.mask_scores(maps, masks, top=None)
    np.testing.assert_array_equal(scores.area, covered.sum(1))
    sums = covered.astype(np.float64) @ maps.reshape(3, -1).T  # of integers, so exact
    np.testing.assert_array_equal(scores.mean, sums / covered.sum(1)[:, None])


@given(inputs(), runs, st.sampled_from([1, 255]))
def test_uint8_masks_are_masks(arrays, run, one):
    _, maps, stack = arrays
    for got, expected in zip(
        of(run, maps, stack * np.uint8(one)), of(run, maps, stack), strict=True
    ):
        assert same_bits(got, expected)


# ------------------------------------------------------------------------------- the largest values


def largest(values, top, dtype=np.float64):
    """The mean of the largest values of a mask that covers everything."""
    values = np.asarray(values, dtype)
    stack = np.ones((1, *values.shape), dtype=bool)
    return cuekit.mask_scores(values[None], stack, top=top).top_mean[0, 0]


@pytest.mark.parametrize(
    ("area", "top", "count"),
    [(1, 0.2, 1), (2, 0.2, 1), (5, 0.2, 1), (7, 0.2, 1), (8, 0.2, 2), (10, 0.25, 3), (9, 1.0, 9)],
)
def test_number_of_largest_values(area, top, count):
    """The nearest integer, halves up, and at least 1."""
    values = 2.0 ** np.arange(area)
    assert largest([values], top) == values[::-1][:count].mean()


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 300)),
        elements=st.floats(-1e300, 1e300) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, -5e-324]),
    ),
    tops,
    st.sampled_from(FLOATS),
)
def test_any_values(values, top, dtype):
    """Denormals, ties, zeros of both signs, values of all magnitudes: the same as sorting."""
    limit = float(np.finfo(dtype).max) / 4
    values = values.clip(-limit, limit).astype(dtype).astype(np.float64)
    count = min(max(1, int(top * values.size + 0.5)), values.size)
    expected = np.sort(values, axis=None)[::-1][:count].mean()
    # Of the magnitudes that are added up: each addition rounds by 1.1e-16.
    scale = np.abs(values).max() * 1e-13
    assert abs(largest(values, top, dtype) - expected) <= scale


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "kind", ["noise", "smooth", "two values", "one outlier", "powers", "sorted"]
)
def test_many_values(kind, dtype):
    """Each distribution takes another path of the search."""
    size = (130, 257)
    values = {
        "noise": RNG.normal(size=size),
        "smooth": reference.resize_bilinear(RNG.random((1, 5, 6)), size)[0],
        "two values": RNG.integers(0, 2, size) * 0.7,
        "one outlier": np.where(np.arange(size[0] * size[1]).reshape(size) == 777, 6e4, 1e-4),
        "powers": 2.0 ** RNG.integers(-24, 15, size) * RNG.choice([-1, 1], size),
        "sorted": np.arange(size[0] * size[1]).reshape(size) / 1000.0,
    }[kind].astype(dtype)
    for top in (0.001, 0.2, 0.5, 0.9, 1.0):
        count = int(top * values.size + 0.5)
        ordered = np.sort(values.astype(np.float64), axis=None)[::-1]
        expected = ordered[:count].mean()
        # 3e4 additions, each of which rounds by 1.1e-16 of at most the sum of magnitudes.
        tolerance = 4e-12 * np.abs(ordered).max()
        assert abs(largest(values, top, dtype) - expected) <= tolerance


def test_small_values_after_large_ones_keep_their_digits():
    maps = np.array([[[1e17, 1e17, 1.0, 1.0, 3.0]]])
    stack = np.array([[[0, 0, 1, 1, 1]]], dtype=bool)
    scores = cuekit.mask_scores(np.repeat(maps, 20, -1), np.repeat(stack, 20, -1), top=0.3)
    assert scores.mean[0, 0] == 5 / 3
    assert scores.top_mean[0, 0] == 3


# --------------------------------------------------------------------------------- defined answers


def test_empty_masks_and_empty_cues_score_0():
    maps = np.stack([np.ones((3, 4)), np.zeros((3, 4)), -np.ones((3, 4))])
    stack = np.stack([np.zeros((3, 4), dtype=bool), np.ones((3, 4), dtype=bool)])
    scores = cuekit.mask_scores(maps, stack)
    np.testing.assert_array_equal(scores.area, [0, 12])
    for table in scores[1:]:
        np.testing.assert_array_equal(table[0], 0)
    np.testing.assert_array_equal(scores.mean[1], [1, 0, -1])
    np.testing.assert_array_equal(scores.top_mean[1], [1, 0, -1])
    np.testing.assert_array_equal(scores.inside[1], [1, 0, 0])
    np.testing.assert_array_equal(scores.covered[1], [1, 0, 0])
    bits = cuekit.mask_scores(maps > 0, stack)
    np.testing.assert_array_equal(bits.top_mean[1], [1, 0, 0])


@given(runs, st.sampled_from(["bool", "float32"]))
def test_nothing_to_score(run, dtype):
    """No classes, no masks, no pixels, no images."""
    for batch, classes, count, size in (
        ((), 0, 2, (3, 4)),
        ((), 2, 0, (3, 4)),
        ((), 2, 3, (0, 4)),
        ((0,), 2, 3, (3, 4)),
        ((2,), 1, 2, (1, 1)),
    ):
        maps = np.ones((*batch, classes, *size), dtype)
        stack = np.ones((*batch, count, *size), dtype=bool)
        area, *tables = of(run, maps, stack)
        np.testing.assert_array_equal(area, np.full((*batch, count), size[0] * size[1]))
        for table in tables:
            expected = np.full((*batch, count, classes), 1.0 if 0 not in size else 0.0)
            np.testing.assert_array_equal(table, expected)


def test_the_cue_of_a_map():
    maps = np.array([[[10.0, 4.0, 3.0, 0.0, -5.0]]])
    stack = np.array([[[0, 1, 1, 1, 1]]], dtype=bool)
    for threshold, both, total in (
        (0.3, 1, 2),
        (0.2, 2, 3),
        (0.0, 2, 3),
        (-1.0, 2, 3),
        (1.0, 0, 0),
    ):
        scores = cuekit.mask_scores(maps, stack, threshold=threshold)
        assert scores.inside[0, 0] == both / 4
        assert scores.covered[0, 0] == (both / total if total else 0)


def test_agrees_with_raw_cues():
    maps = RNG.random((4, 9, 11))
    cues = cuekit.raw_cues(maps)[1:]
    stack = RNG.random((5, 9, 11)) < 0.4
    scores, of_cues = cuekit.mask_scores(maps, stack), cuekit.mask_scores(cues, stack)
    assert same_bits(scores.inside, of_cues.inside)
    assert same_bits(scores.covered, of_cues.covered)
    np.testing.assert_array_equal(of_cues.mean, of_cues.inside)


def test_the_framework_of_the_maps():
    torch = needs("torch")
    maps, stack = RNG.random((2, 3, 4)), RNG.random((3, 3, 4)) < 0.5
    expected = cuekit.mask_scores(maps, stack)
    result = cuekit.mask_scores(torch.from_numpy(maps), stack)
    for got, array in zip(result, expected, strict=True):
        assert type(got) is torch.Tensor
        assert same_bits(got.numpy(), array)
    labels = cuekit.label_masks(result)
    assert same_bits(labels.numpy(), cuekit.label_masks(expected))


# ------------------------------------------------------------------------------------ wrong values

MAPS, STACK = np.ones((2, 3, 4)), np.ones((3, 3, 4), dtype=bool)


@pytest.mark.parametrize("top", [0, -0.1, 1.01, 2])
def test_wrong_top(top):
    with raises(ValueError, f"top must be above 0 and at most 1, or None, got {float(top)}"):
        cuekit.mask_scores(MAPS, STACK, top=top)


def test_wrong_numbers():
    for name in ("top", "threshold"):
        with raises(TypeError, f"{name} must be a number, got '1'"):
            cuekit.mask_scores(MAPS, STACK, **{name: "1"})
        with raises(ValueError, f"{name} must be finite, got nan"):
            cuekit.mask_scores(MAPS, STACK, **{name: np.nan})
    with raises(TypeError, "validate must be True or False, got 1"):
        cuekit.mask_scores(MAPS, STACK, validate=1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("top", [0.2, None])
def test_values_that_are_not_finite(value, dtype, top):
    maps = np.ones((2, 3, 4), dtype)
    maps[1, 2, 3] = value
    for stack in (STACK, np.zeros((1, 30, 40), dtype=bool)):
        with raises(ValueError, f"maps must be finite, got {value} at index (1, 2, 3)"):
            cuekit.mask_scores(maps, stack, top=top)


def test_values_that_are_too_large():
    maps = np.full((1, 3, 4), 2.0**1023)
    with raises(ValueError, "maps must be below 8.99e+307 in magnitude, got 8.98"):
        cuekit.mask_scores(maps, STACK)
    with raises(ValueError, "maps must be small enough for float64 sums, got an infinite sum"):
        cuekit.mask_scores(maps / 2, STACK)
    large = np.nextafter(np.float64(2.0**1023), 0)
    one = np.zeros((1, 3, 4), dtype=bool)
    one[0, 0, 0] = True
    assert cuekit.mask_scores(np.full((1, 3, 4), large), one, threshold=2.0).mean[0, 0] == large


def test_wrong_masks():
    with raises(ValueError, "masks must have shape (R, H, W) to match maps, got (1, 3, 3, 4)"):
        cuekit.mask_scores(MAPS, STACK[None])
    with raises(
        ValueError, "masks must hold 0 and 1, or 0 and 255, where the dtype is uint8, got 7"
    ):
        cuekit.mask_scores(MAPS, np.full((3, 3, 4), 7, np.uint8))
    with raises(
        ValueError, "maps must hold 0 and 1, or 0 and 255, where the dtype is uint8, got 7"
    ):
        cuekit.mask_scores(np.full((3, 3, 4), 7, np.uint8), STACK)
    with raises(TypeError, "masks must have dtype bool or uint8, got int64"):
        cuekit.mask_scores(MAPS, STACK.astype(np.int64))
    with raises(ValueError, "maps must have at least one pixel, got (2, 0, 4)"):
        cuekit.mask_scores(MAPS[:, :0], STACK)


# ------------------------------------------------------------------------------------- label_masks


def with_scores(**tables):
    return MaskScores(**{**dict.fromkeys(FIELDS), **tables})


@st.composite
def verified(draw):
    shape = draw(st.tuples(st.integers(0, 6), st.integers(1, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (
        rng.integers(0, 11, shape) / 10,
        draw(tags(shape[1:])),
        rng.integers(0, shape[1] + 1, shape[0]),
    )


@given(verified(), st.sampled_from([(0.5, 0.1), (0.7, 0.7), (0.3, -1.0), (2.0, 1.5)]))
def test_verify_equals_oracle(arrays, limits):
    support, present, claims = arrays
    accept, reject = limits
    result = cuekit.label_masks(
        with_scores(inside=support),
        present,
        claims=claims,
        support="inside",
        accept=accept,
        reject=reject,
    )
    expected = reference.label_masks(support, present, claims, accept, reject, 255)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_verify_tells_the_four_cases():
    support = np.array([[0.6, 0.9], [0.4, 0.9], [0.4, 0.3], [0.05, 0.05]])
    scores = with_scores(top_mean=support)
    for claims, expected in (
        ([1, 1, 1, 1], [1, 2, 255, 0]),  # a claim is kept though another class has more support
        ([0, 255, 0, 0], [2, 2, 255, 0]),
    ):
        np.testing.assert_array_equal(cuekit.label_masks(scores, claims=np.array(claims)), expected)
    np.testing.assert_array_equal(
        cuekit.label_masks(scores, [True, False], claims=np.array([2, 2, 2, 2])), [1, 255, 255, 0]
    )
    np.testing.assert_array_equal(cuekit.label_masks(scores, [0, 0]), [0, 0, 0, 0])
    np.testing.assert_array_equal(cuekit.label_masks(with_scores(top_mean=support[:, :0])), 0)


def test_labels_that_are_written():
    scores = with_scores(top_mean=np.array([[0.9, 0.0], [0.0, 0.9], [0.3, 0.3]]))
    result = cuekit.label_masks(scores, classes=[8, 300], claims=np.array([8, 300, -1]), ignore=-1)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, [8, 300, -1])


def test_sepl_takes_the_masks_that_the_published_rule_takes():
    """Every class paints the masks that it took, in order; elsewhere is what no mask covers."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, (3, 4)).repeat(3, 0).repeat(3, 1)
        corners = rng.integers(0, 9, (6, 4))
        stack = np.zeros((6, 9, 12), dtype=bool)
        for mask, (top, left, height, width) in zip(stack, corners, strict=True):
            mask[top : top + height + 1, left : left + width + 1] = True
        cues = labels == np.arange(1, 3)[:, None, None]
        taken = cuekit.label_masks(cuekit.mask_scores(cues, stack), rule="sepl")
        expected = cuekit.sepl_labels(labels, stack)
        painted = np.zeros_like(labels)
        free = np.ones(6, dtype=bool)
        for c in (1, 2):
            uncovered = ~stack[free].any(0)
            painted[stack[taken == c].any(0) | ((labels == c) & uncovered)] = c
            free &= taken != c
        np.testing.assert_array_equal(painted, expected)


def test_fma_takes_the_largest_normalised_mean():
    mean = np.array([[4.0, 0.0], [2.0, 0.3], [0.4, 0.5], [-1.0, 0.0], [4.0, 0.5]])
    # Normalised: (1, 0), (.5, .6), (.1, 1), (0, 0), (1, 1); the background has (1 - largest) ** p.
    scores = with_scores(mean=mean)
    np.testing.assert_array_equal(cuekit.label_masks(scores, rule="fma"), [1, 2, 2, 0, 1])
    only = cuekit.label_masks(scores, [1, 0], rule="fma", power=0.5)
    np.testing.assert_array_equal(only, [1, 0, 0, 0, 1])  # 1 - .5 is below its root
    assert cuekit.label_masks(with_scores(mean=mean[:0]), rule="fma").shape == (0,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "semi"}, ValueError, "rule must be one of 'verify', 'sepl', 'fma', got 'semi'"),
        (
            {"support": "area"},
            ValueError,
            "support must be one of 'mean', 'top_mean', 'inside', got",
        ),
        ({"reject": 0.6}, ValueError, "reject must be at most accept, 0.5, got 0.6"),
        ({"accept": np.nan}, ValueError, "accept must be finite, got nan"),
        ({"power": 0}, ValueError, "power must be above 0, got 0"),
        ({"ignore": 0}, ValueError, "ignore must not be 0, the label of rejected masks, got 0"),
        (
            {"ignore": 2**31},
            ValueError,
            "classes and ignore must fit in int32, got [1, 2, 2147483648]",
        ),
        ({"classes": 3}, TypeError, "classes must be a sequence of integers, got 3"),
        ({"classes": [1]}, ValueError, "classes must have 2 entries, one per class, got 1"),
        (
            {"classes": [1, 255]},
            ValueError,
            "classes must not contain 255, the label of masks in doubt, got it for class 1",
        ),
        (
            {"classes": [0, 1]},
            ValueError,
            "classes must not contain 0, the label of rejected masks, got it for class 0",
        ),
        (
            {"claims": np.array([1, 3, 0])},
            ValueError,
            "claims must be among classes, or 0 or 255 for none, got 3 at index (1,)",
        ),
        (
            {"claims": np.array([1])},
            ValueError,
            "claims must have shape (3,) to match scores.top_mean, got (1,)",
        ),
        (
            {"claims": np.array([1, 1, 1]), "rule": "sepl"},
            ValueError,
            "claims must be None unless rule is 'verify', got them with 'sepl'",
        ),
    ],
)
def test_wrong_options(options, error, message):
    scores = cuekit.mask_scores(MAPS, STACK)
    with raises(error, message):
        cuekit.label_masks(scores, **options)


def test_wrong_scores():
    scores = cuekit.mask_scores(MAPS, STACK, top=None)
    with raises(TypeError, "scores must be MaskScores, got tuple"):
        cuekit.label_masks(tuple(scores))
    with raises(ValueError, "scores.top_mean must not be None: call mask_scores with top"):
        cuekit.label_masks(scores)
    wrong = scores._replace(mean=np.full((3, 2), np.nan))
    with raises(ValueError, "scores.mean must be finite, got nan at index (0, 0)"):
        cuekit.label_masks(wrong, support="mean")
    with raises(
        ValueError, "scores.covered must have shape (3, 2) to match scores.inside, got (3, 1)"
    ):
        cuekit.label_masks(scores._replace(covered=scores.covered[:, :1]), rule="sepl")
