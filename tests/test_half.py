"""float16: every value is read, and float64 is rounded to it as NumPy does."""

import numpy as np
import pytest
from common import INSTRUCTION_SETS, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import same_bits

import cuekit

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def means_of_columns(values):
    """The mean of each column of (n, columns) float16 values, by superpixels n high."""
    superpixels = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return cuekit.superpixel_mean(np.ascontiguousarray(values[None]), superpixels)[0, 0]


def rounded_means(values):
    return (values.astype(np.float64).sum(0) / len(values)).astype(np.float16)


@pytest.fixture(params=INSTRUCTION_SETS)
def _instructions(request):
    set_instruction_set(request.param)


@pytest.mark.usefixtures("_instructions")
def test_every_finite_value_is_read_and_written():
    result = means_of_columns(FINITE[None])
    # Sums start at +0, and +0 + -0 is +0: -0 alone comes back as its equal.
    assert same_bits(result, FINITE + np.float16(0))
    assert len(FINITE) == 63488
    # Where nothing is computed every bit stays, the sign of zero too.
    scores = FINITE.reshape(1, 1, -1)
    assert same_bits(cuekit.suppress_absent(scores, None), scores)


@pytest.mark.usefixtures("_instructions")
def test_every_value_that_is_not_finite_is_found():
    wrong = EVERY[~np.isfinite(EVERY)]
    assert len(wrong) == 2048
    for value in wrong[::50]:
        maps = np.array([[[1, value]]])
        for call in (
            lambda maps: cuekit.superpixel_mean(maps, np.array([[0, 1]])),
            lambda maps: cuekit.suppress_absent(maps, None),
            cuekit.subtract_classes,
            cuekit.raw_cues,
            cuekit.background_map,
        ):
            with pytest.raises(ValueError, match="must be finite"):
                call(maps)


@pytest.mark.usefixtures("_instructions")
def test_every_halfway_case_goes_to_even():
    """The mean of neighbours lies halfway between them."""
    ordered = np.unique(FINITE)
    pairs = np.stack([ordered[:-1], ordered[1:]])
    result = means_of_columns(pairs)
    assert_same_values(result, rounded_means(pairs))
    # float16's bits count upwards in magnitude, so an even last bit is an even value.
    assert not (result.view(np.uint16) & 1).any()


@pytest.mark.usefixtures("_instructions")
@pytest.mark.parametrize("sign", [1, -1])
def test_next_to_halfway_is_rounded_once(sign):
    """Beyond halfway by less than float32 can tell: rounding through float32 would go to even."""
    low = np.arange(1024, 1700)  # float16 has whole numbers only in this range
    total = 8 * low + 4
    # Seven whole numbers of this sum and the smallest float16: the mean is low + 1/2 + 2**-27.
    seven = total // 7 + (np.arange(7)[:, None] < total % 7)
    values = np.vstack([seven, np.full(low.shape, sign * 2.0**-24)]).astype(np.float16)
    result = means_of_columns(values)
    np.testing.assert_array_equal(result, low + (sign > 0))
    assert_same_values(result, rounded_means(values))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from(INSTRUCTION_SETS))
def test_random_means(seed, count, instruction_set):
    set_instruction_set(instruction_set)
    values = np.random.default_rng(seed).choice(FINITE, (count, 500))
    assert_same_values(means_of_columns(values), rounded_means(values))


def assert_same_values(result, expected):
    assert result.dtype == expected.dtype == np.float16
    np.testing.assert_array_equal(result, expected)
