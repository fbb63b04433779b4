"""Fusing cue sets against the oracle."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_equal, batches, by_image, channel_counts, masks, runs, sizes

import cuekit
from cuekit import reference


@st.composite
def cue_sets(draw):
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    dtypes = draw(st.lists(st.sampled_from(["bool", "uint8"]), min_size=1, max_size=4))
    return batch, [draw(masks((*batch, channels, *size), dtype)) for dtype in dtypes]


@given(cue_sets(), runs)
def test_equals_oracle(sets, run):
    batch, arrays = sets
    result = run(cuekit.fuse_cues, *arrays)
    assert_equal(result, by_image(reference.fuse_cues, batch, *arrays))


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_any_number_of_large_sets(count):
    """Larger than the blocks that kernels work on."""
    sets = np.random.default_rng(count).random((count, 5, 91, 97)) < 0.5 / count
    for threads in (1, 2):
        np.testing.assert_array_equal(cuekit.fuse_cues(*sets, threads=threads), sets.any(0))


def test_one_set_is_copied():
    cues = np.zeros((1, 2, 2), dtype=bool)
    fused = cuekit.fuse_cues(cues)
    assert not np.shares_memory(fused, cues)
    assert_equal(fused, cues)


def test_the_same_set_twice():
    cues = np.array([[[0, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(cuekit.fuse_cues(cues, cues), [[[False, True, True]]])


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 2, 3, 3)])
def test_empty(shape):
    cues = np.zeros(shape, dtype=bool)
    assert cuekit.fuse_cues(cues, cues).shape == shape


def test_no_sets():
    with pytest.raises(ValueError, match=r"^cue_sets must be one or more sets of cues, got none$"):
        cuekit.fuse_cues()


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 3, 4), (1, 2, 3, 4)])
def test_sets_of_different_shapes(shape):
    message = f"cue_sets[1] must have shape (2, 3, 4) to match cue_sets[0], got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cuekit.fuse_cues(np.zeros((2, 3, 4), dtype=bool), np.zeros(shape, dtype=bool))


@pytest.mark.parametrize("dtype", ["float32", "int64", "int8"])
def test_sets_of_another_dtype(dtype):
    with pytest.raises(
        TypeError, match=rf"^cue_sets\[1\] must have dtype bool or uint8, got {dtype}$"
    ):
        cuekit.fuse_cues(np.zeros((2, 3, 4), dtype=bool), np.zeros((2, 3, 4), dtype))
