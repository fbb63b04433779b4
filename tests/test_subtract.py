"""Class subtraction against the oracle."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    FRONT_ENDS,
    assert_equal,
    batches,
    by_image,
    channel_counts,
    float_maps,
    runs,
    sizes,
    tags,
)

import cuekit
from cuekit import reference

MODES = ("pairwise", "strongest", "dcsm")


@st.composite
def inputs(draw):
    batch, classes, size = draw(batches), draw(channel_counts), draw(sizes)
    cams = draw(float_maps((*batch, classes, *size), draw(st.sampled_from(FLOATS))))
    return batch, cams, draw(tags((*batch, classes)))


def expected(batch, cams, present, mode):
    return by_image(lambda c, p: reference.subtract_classes(c, p, mode), batch, cams, present)


@given(inputs(), runs, st.sampled_from(["pairwise", "strongest"]))
def test_equals_oracle(arrays, run, mode):
    batch, cams, present = arrays
    result = run(cuekit.subtract_classes, cams, present, mode=mode)
    assert_equal(result, expected(batch, cams, present, mode))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 25),
    st.integers(1, 400),
    st.sampled_from(FLOATS),
    st.integers(0, 30),
    st.integers(-150, 130),
    runs,
    st.sampled_from(["pairwise", "strongest"]),
)
def test_any_range_of_values(seed, classes, pixels, dtype, digits, exponent, run, mode):
    """The kernel computes tiles with few binary digits between their values as integers."""
    rng = np.random.default_rng(seed)
    cams = np.ldexp(rng.standard_normal((classes, 1, pixels)), exponent)
    cams *= np.exp2(-rng.integers(0, digits + 1, cams.shape))
    cams[rng.random(cams.shape) < 0.2] = 0
    largest = np.finfo(dtype).max
    cams = np.clip(cams, -largest, largest).astype(dtype)
    result = run(cuekit.subtract_classes, cams, mode=mode)
    with np.errstate(over="ignore"):
        assert_equal(result, reference.subtract_classes(cams, np.ones(classes, bool), mode))


@given(inputs(), runs)
def test_dcsm_is_close_to_oracle(arrays, run):
    batch, cams, present = arrays
    result = run(cuekit.subtract_classes, cams, present, mode="dcsm")
    oracle = expected(batch, cams, present, "dcsm")
    assert result.dtype == oracle.dtype
    np.testing.assert_array_equal(result == 0, oracle == 0)
    if cams.dtype == np.float64:
        # The kernel's tanh is within 1e-15. D and max D are sums of such, their quotient is within
        # 2e-15; the second tanh does not enlarge that and adds 1e-15. The rest is left for NumPy's
        # tanh and for roundings (8 units in the last place, 2e-15, were seen). Below float64's
        # normal range a product is off by a unit of its smallest number.
        np.testing.assert_allclose(result, oracle, rtol=4e-15, atol=1e-322)
    else:
        # Such errors show only where they cross a rounding boundary: one unit in the last place.
        np.testing.assert_array_max_ulp(result, oracle, 1)


@given(inputs(), runs, st.floats(0.3, 1.0))
def test_dcsm_of_any_range(arrays, run, share):
    """Quotients of differences do not depend on the maps' scale, whether these fit in float64."""
    batch, cams, present = arrays
    cams = cams.astype(np.float64)
    largest = np.abs(cams).max(initial=0)
    if not 1e-3 < largest < 1e3:  # very small values would lose digits
        return
    huge = cams / largest * (share * np.finfo(float).max)
    result = run(cuekit.subtract_classes, huge, present, mode="dcsm")
    oracle = expected(batch, huge, present, "dcsm")
    np.testing.assert_allclose(result, oracle, rtol=4e-15, atol=1e-322)
    # One present class gives its positive values.
    several = (present.sum(-1) > 1)[..., None, None, None] & np.ones(cams.shape, dtype=bool)
    assert (result[several] <= 1).all()
    small = run(cuekit.subtract_classes, huge / 2**100, present, mode="dcsm")
    np.testing.assert_allclose(result[several], small[several], rtol=4e-15)


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, *DEVICES])
def test_dcsm_of_the_largest_float64(front_end):
    largest = np.finfo(float).max
    cams = np.array([[[1.0, -1.0, 0.5]], [[-1.0, 1.0, 0.5]], [[0.25, 0.25, 0.25]]])
    with front_end.active():
        results = [
            front_end.unwrap(cuekit.subtract_classes(front_end.wrap(maps), mode="dcsm"))
            for maps in (cams, cams * largest)
        ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-15)
    np.testing.assert_allclose(results[0][:, 0, :2].max(1), np.tanh([3, 3, 3]), rtol=1e-15)


@given(inputs(), runs, st.sampled_from(MODES))
def test_present_none_means_all(arrays, run, mode):
    _, cams, present = arrays
    result = run(cuekit.subtract_classes, cams, mode=mode)
    every = run(cuekit.subtract_classes, cams, np.ones_like(present), mode=mode)
    assert_equal(result, every)


@pytest.mark.parametrize("mode", MODES)
def test_worked_example(mode):
    cams = np.array([[[4.0, 1.0]], [[1.0, 2.0]], [[0.0, 2.0]], [[9.0, 9.0]]])
    result = cuekit.subtract_classes(cams, [True, True, True, False], mode=mode)
    tanh3 = np.tanh(3.0)
    wanted = {
        "pairwise": [[3.5, 0.0], [0.5, 0.5], [0.0, 0.5]],
        "strongest": [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        # Class 0 leads both others only at the first pixel. Class 1 leads class 2 at the first and
        # class 0 at the second, by the maximum each time; class 2 leads class 0 at the second.
        "dcsm": [[tanh3, 0.0], [tanh3, tanh3], [0.0, tanh3]],
    }[mode]
    np.testing.assert_allclose(result[:3, 0], wanted, rtol=1e-14)  # two roundings of tanh
    assert not result[3].any()


@pytest.mark.parametrize("mode", MODES)
def test_class_alone_keeps_its_positive_part(mode):
    cams = np.array([[[-1.0, 0.5]], [[7.0, 7.0]]])
    result = cuekit.subtract_classes(cams, [True, False], mode=mode)
    np.testing.assert_array_equal(result, [[[0.0, 0.5]], [[0.0, 0.0]]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0), (0, 2, 3, 3)])
def test_empty(mode, shape):
    result = cuekit.subtract_classes(np.zeros(shape, np.float32), mode=mode)
    assert result.shape == shape
    assert result.dtype == np.float32


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 69, 3), (1, 45, 20)])
def test_nonfinite_map_of_a_present_class(mode, value, dtype, position):
    cams = np.ones((3, 70, 71), dtype)
    cams[position] = value
    message = re.escape(f"cams must be finite, got {value} at index {position}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuekit.subtract_classes(cams, [True, True, False], mode=mode, threads=2)


@pytest.mark.parametrize("mode", MODES)
def test_maps_of_absent_classes_are_not_read(mode):
    cams = np.array([[[2.0, 1.0]], [[np.nan, np.inf]], [[1.0, 2.0]]])
    present = np.array([True, False, True])
    result = cuekit.subtract_classes(cams, present, mode=mode)
    assert not result[1].any()
    both = cuekit.subtract_classes(cams[present], mode=mode)
    np.testing.assert_array_equal(result[present], both)


def test_no_present_class_gives_zeros():
    cams = np.full((2, 3, 4), np.nan)
    assert not cuekit.subtract_classes(cams, [False, False]).any()


@pytest.mark.parametrize("mode", ["Pairwise", "", None, 1])
def test_unknown_mode(mode):
    with pytest.raises(
        ValueError, match=f"^mode must be one of 'pairwise', 'strongest', 'dcsm', got {mode!r}$"
    ):
        cuekit.subtract_classes(np.zeros((1, 2, 2)), mode=mode)
