"""The random walk against the dense matrix form, and what it promises."""

import re

import numpy as np
import pytest
from common import at_most
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DEVICES,
    FLOATS,
    batches,
    by_image,
    channel_counts,
    cpu_runs,
    float_maps,
    reordered,
    runs_of,
    same_bits,
)

import cuekit
from cuekit import reference
from cuekit._checks import RANGE_TOLERANCE
from cuekit.random_walk import neighbour_offsets

RNG = np.random.default_rng(0)
# The oracle's matrix has the square of the number of cells. Rows are longer than vectors here and
# there, and maps smaller than the radius.
sizes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([(1, 1), (1, 40), (40, 1), (9, 17), (2, 67), (3, 33)]),
)
radii = st.sampled_from([5, 5, 5, 2, 3, 4, 8, 16])
betas = st.sampled_from([10, 8, 1, 0.5, 2.5, 63, 64, 65, 1e3])
steps_taken = st.sampled_from([0, 1, 2, 7, 256, 10_000])


@st.composite
def shares(draw, shape):
    """Values in [0, 1] up to rounding: any, lines of 0 and 1, few levels, constants."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["any", "any", "lines", "levels", "constant"]))
    if kind == "any":
        array = rng.uniform(-0.0009, 1.0009, shape)
        array = np.where(array < 1, array ** draw(st.sampled_from([1, 3])), array)
    elif kind == "lines":
        array = rng.random(shape) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    elif kind == "levels":
        array = rng.integers(0, 4, shape) / 3
    else:
        array = np.full(shape, draw(st.sampled_from([0.0, 1.0, 0.5])))
    return draw(reordered(np.asarray(array).astype(draw(st.sampled_from(FLOATS)))))


@st.composite
def inputs(draw):
    """Batch, maps, a boundary or None, affinities or None, and the radius."""
    batch, channels, size = draw(batches), draw(channel_counts), draw(sizes)
    radius = draw(radii)
    maps = draw(float_maps((*batch, channels, *size), draw(st.sampled_from(FLOATS))))
    if draw(st.booleans()):
        return batch, maps, draw(shares((*batch, *size))), None, radius
    pairs = len(neighbour_offsets(radius))
    return batch, maps, None, draw(shares((*batch, pairs, *size))), radius


def walk(maps, boundary, affinities, **options):
    return cuekit.random_walk(maps, boundary, affinities=affinities, **options)


def rounding(dtype, steps, beta):
    """How far a result may be from the oracle's, relative to the largest value.

    A weighted mean of up to 793 values is good to a few times the unit roundoff if errors are
    random, and so is each affinity; a hundred times more, if beta is no small integer, that of
    pow() and of the oracle's. Errors of steps add up.
    """
    unit = 2.0**-53 if dtype == np.float64 else 2.0**-24
    return unit * (10 + 4 * steps) + 2.0**-53 * beta * (1 + steps)


def assert_walks(result, expected, maps, steps, beta):
    assert result.dtype == maps.dtype
    assert result.shape == expected.shape
    largest = np.abs(maps.astype(np.float64)).max(initial=0)
    # Denormals of the type that is computed in, scaled by 1024, may be flushed to 0.
    tiny = 1e-304 if maps.dtype == np.float64 else 1e-34
    tolerance = rounding(maps.dtype, steps, beta) * largest + tiny
    final = np.finfo(maps.dtype).eps  # the rounding of the result itself, twice
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=final, atol=tolerance)


def check_against_oracle(arrays, beta, steps, run):
    batch, maps, boundary, affinities, radius = arrays
    options = {"radius": radius, "beta": beta, "steps": steps}
    result = run(walk, maps, boundary, affinities, **options)
    expected = by_image(
        lambda *image: reference.random_walk(*image, **options), batch, maps, boundary, affinities
    )
    assert_walks(result, expected, maps, steps, beta)


# ----------------------------------------------------------------------------- against the oracle


@at_most(150)
@given(inputs(), betas, steps_taken, cpu_runs)
def test_equals_oracle(arrays, beta, steps, run):
    check_against_oracle(arrays, beta, steps, run)


@pytest.mark.skipif(not DEVICES, reason="needs a device")
@at_most(60)
@given(inputs(), betas, st.sampled_from([0, 1, 3]), runs_of(DEVICES or [None]))
def test_equals_oracle_on_a_device(arrays, beta, steps, run):
    check_against_oracle(arrays, beta, steps, run)


@given(inputs(), cpu_runs)
def test_defaults(arrays, run):
    _, maps, boundary, affinities, _ = arrays
    if affinities is not None:
        affinities = np.resize(affinities, (*maps.shape[:-3], 34, *maps.shape[-2:]))
    beta = 10 if affinities is None else 8
    expected = run(walk, maps, boundary, affinities, radius=5, beta=beta, steps=256)
    assert same_bits(run(walk, maps, boundary, affinities), expected)


def least_affinities(boundary):
    """Affinities of IRN in float64, by slices: (34, h, w), zeros for pairs that do not exist."""
    height, width = boundary.shape
    out = np.zeros((34, height, width))
    framed = np.pad(boundary, ((0, 4), (4, 4)), constant_values=1)
    for k, (dy, dx) in enumerate(neighbour_offsets()):
        cells = [framed[y : y + height, 4 + x : 4 + x + width] for y, x in reference.path(dy, dx)]
        out[k] = (1 - np.max(cells, 0)) ** 10
    return out


def walk_by_slices(maps, boundary, steps):
    """Walk in float64 at a real size, where the oracle's matrix would take minutes."""
    affinities = least_affinities(boundary)
    height, width = boundary.shape

    def spread(values):
        total = values.copy()
        for affinity, (dy, dx) in zip(affinities, neighbour_offsets(), strict=True):
            here = slice(0, height - dy), slice(max(0, -dx), min(width, width - dx))
            there = slice(dy, height), slice(max(0, dx), min(width, width + dx))
            total[(..., *here)] += affinity[here] * values[(..., *there)]
            total[(..., *there)] += affinity[here] * values[(..., *here)]
        return total

    sums = spread(np.ones((1, height, width)))
    values = maps * (1 - boundary)
    for _ in range(steps):
        values = spread(values) / sums
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_the_size_of_published_code(dtype):
    """Stride 4 of a photo of 375×500, with a photo-like boundary."""
    size = (94, 125)
    coarse = RNG.random((4, 6, 8))
    maps = reference.resize_bilinear(coarse, size).astype(dtype)
    lines = reference.resize_bilinear(RNG.normal(size=(1, 12, 16)), size)[0]
    boundary = np.exp(-((lines / 0.1) ** 2)).astype(dtype)
    result = cuekit.random_walk(maps, boundary, threads=2)
    expected = walk_by_slices(maps.astype(np.float64), boundary.astype(np.float64), 256)
    largest = expected.max()
    # Measured: 1e-6, and 5e-13, where the rounding is that of the sums by slices. The aim is 1e-4.
    assert np.abs(result - expected).max() <= (5e-6 if dtype == "float32" else 2e-12) * largest
    assert (result.argmax(0) == expected.argmax(0)).mean() >= 0.9999


# ------------------------------------------------------------------------------ published layouts


def test_offsets_are_psas():
    """First those in the row, then row by row from left to right."""
    offsets = neighbour_offsets()
    assert offsets.shape == (34, 2)
    assert offsets[:4].tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]
    rows = [[x for y, x in offsets.tolist() if y == row] for row in range(1, 5)]
    assert rows == [[*range(-4, 5)], [*range(-4, 5)], [*range(-3, 4)], [*range(-2, 3)]]
    assert (np.diff(offsets[:, 0]) >= 0).all()
    for radius in range(2, 17):
        assert [*map(tuple, neighbour_offsets(radius).tolist())] == reference.half_disk(radius)


def test_affinities_of_psas_network():
    """As its code makes the matrix, after padding as the docstring says."""
    height, width = 11, 13
    aff = RNG.random((34, (height - 4) * (width - 8)))
    maps = RNG.random((3, height, width))
    index = np.arange(height * width).reshape(height, width)
    first = index[: height - 4, 4 : width - 4]
    matrix = np.eye(height * width)
    for k, (dy, dx) in enumerate(neighbour_offsets()):
        second = index[dy : dy + height - 4, 4 + dx : width - 4 + dx]
        matrix[first, second] = matrix[second, first] = aff[k].reshape(first.shape)
    matrix = matrix**8
    expected = maps.reshape(3, -1) @ np.linalg.matrix_power(matrix / matrix.sum(0), 256)
    padded = np.pad(aff.reshape(34, height - 4, width - 8), ((0, 0), (0, 4), (4, 4)))
    result = cuekit.random_walk(maps, affinities=padded)
    np.testing.assert_allclose(result, expected.reshape(maps.shape), rtol=1e-11)


def test_border_is_irns():
    """Its code pads with a boundary of 1 and cuts the padding off the matrix."""
    maps, boundary = RNG.random((2, 6, 9)), RNG.random((6, 9)) ** 3
    padded = np.pad(boundary, 5, constant_values=1.0)
    wide = cuekit.random_walk(np.pad(maps, ((0, 0), (5, 5), (5, 5))), padded)
    np.testing.assert_allclose(cuekit.random_walk(maps, boundary), wide[:, 5:-5, 5:-5], rtol=1e-12)


# ------------------------------------------------------------------------------------- properties


@given(inputs(), betas, steps_taken, cpu_runs)
def test_results_are_means(arrays, beta, steps, run):
    """Between the least and the largest value that the walk starts from; of every dtype."""
    _, maps, boundary, affinities, radius = arrays
    result = run(walk, maps, boundary, affinities, radius=radius, beta=beta, steps=steps)
    start = maps.astype(np.float64)
    if boundary is not None:
        start = start * (1 - np.clip(boundary.astype(np.float64), 0, 1))[..., None, :, :]
    if maps.size:
        room = np.abs(start).max(initial=0) * (
            rounding(maps.dtype, steps, beta) + np.finfo(maps.dtype).eps
        ) + (1e-304 if maps.dtype == np.float64 else 1e-34)
        room += np.finfo(maps.dtype).smallest_subnormal  # float16 results of 1e-5 are rounded to it
        low, high = start.min((-1, -2)), start.max((-1, -2))
        assert (result >= (low - room)[..., None, None]).all()
        assert (result <= (high + room)[..., None, None]).all()


def test_a_closed_boundary_is_not_crossed():
    boundary = np.zeros((12, 15))
    boundary[2, 2:10] = boundary[8, 2:10] = boundary[2:9, 2] = boundary[2:9, 9] = 1
    maps = np.zeros((2, 12, 15))
    maps[0, 5, 5], maps[1, 11, 14] = 1, 1
    inside = np.zeros((12, 15), dtype=bool)
    inside[3:8, 3:9] = True
    walked = cuekit.random_walk(maps, boundary, steps=2000)
    assert (walked[0][~inside] == 0).all()
    assert (walked[1][inside] == 0).all()
    # Without a boundary inside, weights depend on the number of neighbours only, and the walk ends
    # at one value.
    assert np.ptp(walked[0][inside]) < 1e-12
    assert walked[0, 5, 5] > 0


def test_nothing_moves_where_all_is_boundary():
    maps = RNG.random((2, 5, 6))
    np.testing.assert_array_equal(cuekit.random_walk(maps, np.ones((5, 6))), 0)
    none = np.zeros((34, 5, 6))
    np.testing.assert_array_equal(cuekit.random_walk(maps, affinities=none), maps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_maps_stay(dtype):
    maps = np.full((3, 40, 50), 0.3, dtype)
    result = cuekit.random_walk(maps, np.zeros((40, 50), dtype))
    assert same_bits(result, maps)


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_maps_have_mirrored_results(axis):
    maps, boundary = RNG.random((2, 14, 17)), RNG.random((14, 17)) ** 4
    result = cuekit.random_walk(maps, boundary)
    mirrored = cuekit.random_walk(np.flip(maps, axis), np.flip(boundary, axis))
    np.testing.assert_allclose(np.flip(mirrored, axis), result, rtol=1e-12)


def test_maps_do_not_depend_on_their_number():
    """Up to four are worked on together, and up to sixteen at a time."""
    maps, boundary = RNG.random((21, 9, 70)), RNG.random((9, 70)) ** 4
    whole = cuekit.random_walk(maps, boundary, steps=9)
    for first, last in ((0, 1), (1, 3), (3, 6), (6, 10), (10, 15), (0, 18)):
        part = cuekit.random_walk(maps[first:last], boundary, steps=9)
        assert same_bits(part, whole[first:last])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_at_the_end_of_the_range(dtype, sign):
    largest = np.finfo(dtype).max
    maps = np.full((2, 40, 40), sign * largest, dtype)
    maps[1, ::2] *= -1
    for radius in (5, 16):
        result = cuekit.random_walk(maps, np.zeros((40, 40)), radius=radius)
        assert np.isfinite(result).all()
        assert same_bits(result[0], maps[0])


def test_the_boundary_may_have_another_dtype():
    maps = RNG.random((2, 7, 8)).astype(np.float32)
    boundary = RNG.random((7, 8)).astype(np.float16)
    pairs = RNG.random((34, 7, 8)).astype(np.float16)
    for dtype in FLOATS[1:]:
        same = cuekit.random_walk(maps, boundary.astype(dtype))
        assert same_bits(cuekit.random_walk(maps, boundary), same)
        same = cuekit.random_walk(maps, affinities=pairs.astype(dtype))
        assert same_bits(cuekit.random_walk(maps, affinities=pairs), same)


def test_radius_beyond_the_map():
    """No neighbour is farther away than the map is large: any larger radius is the same."""
    maps, boundary = RNG.random((2, 3, 4)), RNG.random((3, 4)) ** 4
    expected = cuekit.random_walk(maps, boundary, radius=5)
    for radius in (6, 9, 16):
        assert same_bits(cuekit.random_walk(maps, boundary, radius=radius), expected)


def test_values_of_pairs_that_do_not_exist_do_not_matter():
    maps = RNG.random((2, 6, 7))
    pairs, others = RNG.random((34, 6, 7)), RNG.random((34, 6, 7))
    for k, (dy, dx) in enumerate(neighbour_offsets()):
        exists = slice(0, max(0, 6 - dy)), slice(max(0, -dx), max(0, min(7, 7 - dx)))
        others[k][exists] = pairs[k][exists]
    expected = cuekit.random_walk(maps, affinities=pairs)
    assert same_bits(cuekit.random_walk(maps, affinities=others), expected)


@pytest.mark.parametrize(
    "shape", [(0, 5, 6), (2, 0, 6), (2, 5, 0), (0, 2, 5, 6), (2, 0, 5, 6), (2, 3, 0, 0)]
)
def test_nothing_to_walk(shape):
    maps, size = np.ones(shape, np.float16), (*shape[:-3], *shape[-2:])
    result = cuekit.random_walk(maps, np.zeros(size))
    assert same_bits(result, maps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_single_cell(dtype):
    maps = np.array([[[0.75]], [[-3]]], dtype)
    boundary = np.array([[0.25]], dtype)
    assert same_bits(cuekit.random_walk(maps, boundary), maps * dtype_of(maps)(0.75))
    assert same_bits(cuekit.random_walk(maps, affinities=np.ones((34, 1, 1))), maps)


def dtype_of(array):
    return array.dtype.type


# ----------------------------------------------------------------------------------------- errors


MAPS, BOUNDARY = np.ones((2, 5, 6)), np.zeros((5, 6))


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_exactly_one_of_boundary_and_affinities():
    with raises(ValueError, "one of boundary and affinities must be given, got none"):
        cuekit.random_walk(MAPS)
    with raises(ValueError, "one of boundary and affinities must be given, got both"):
        cuekit.random_walk(MAPS, BOUNDARY, affinities=np.zeros((34, 5, 6)))


def test_sizes_must_match():
    message = "boundary must have shape (5, 6) to match maps, got (10, 12); resize one of the two"
    with raises(ValueError, message):
        cuekit.random_walk(MAPS, np.zeros((10, 12)))
    with raises(ValueError, "boundary must have shape (5, 6) to match maps, got (1, 5, 6)"):
        cuekit.random_walk(MAPS, BOUNDARY[None])
    with raises(ValueError, "affinities must have shape (34, 5, 6) to match maps, got (4, 5, 6)"):
        cuekit.random_walk(MAPS, affinities=np.zeros((4, 5, 6)))
    with raises(ValueError, "affinities must have shape (4, 5, 6) to match maps, got (34, 5, 6)"):
        cuekit.random_walk(MAPS, affinities=np.zeros((34, 5, 6)), radius=2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [1.01, -0.01, 255.0, np.nan, np.inf, -np.inf])
def test_values_outside_0_to_1(dtype, value):
    """Of pairs that do not exist, too: here the last row has no neighbours below."""
    value = np.dtype(dtype).type(value)  # printed with the digits that tell it from others
    rule = "lie in [0, 1]" if np.isfinite(value) else "be finite"
    boundary = np.zeros((5, 6), dtype)
    boundary[4, 5] = value
    with raises(ValueError, f"boundary must {rule}, got {value!s} at index (4, 5)"):
        cuekit.random_walk(MAPS, boundary)
    affinities = np.zeros((2, 34, 5, 6), dtype)
    affinities[1, 30, 4, 2] = value
    with raises(ValueError, f"affinities must {rule}, got {value!s} at index (1, 30, 4, 2)"):
        cuekit.random_walk(np.ones((2, 2, 5, 6)), affinities=affinities)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_outside_0_to_1_is_clipped(dtype):
    """Up to the limit itself, in the array's own dtype."""
    kind = np.dtype(dtype).type
    low, high = kind(-RANGE_TOLERANCE), kind(1 + RANGE_TOLERANCE)
    boundary = np.where(RNG.random((5, 6)) < 0.5, low, high).astype(dtype)
    expected = cuekit.random_walk(MAPS, boundary.clip(0, 1))
    assert same_bits(cuekit.random_walk(MAPS, boundary), expected)
    for wrong in (np.nextafter(low, kind(-1)), np.nextafter(high, kind(2))):
        boundary[1, 1] = wrong
        with pytest.raises(ValueError, match=r"^boundary must lie in \[0, 1\]"):
            cuekit.random_walk(MAPS, boundary)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", [(0, 0, 0), (20, 4, 5)])
def test_nonfinite_maps(value, dtype, index):
    maps = np.ones((21, 5, 6), dtype)
    maps[index] = value
    message = f"maps must be finite, got {value} at index {index}"
    for options in ({"boundary": BOUNDARY}, {"affinities": np.ones((34, 5, 6))}):
        with raises(ValueError, message):
            cuekit.random_walk(maps, **options)


@pytest.mark.parametrize("front_end", DEVICES, ids=lambda front_end: front_end.name)
def test_validate_on_a_device(front_end):
    with front_end.active():
        maps, boundary = MAPS.copy(), BOUNDARY.copy()
        boundary[2, 3] = 2
        wrapped = front_end.wrap(maps), front_end.wrap(boundary)
        with raises(ValueError, "boundary must lie in [0, 1], got 2.0 at index (2, 3)"):
            cuekit.random_walk(*wrapped, validate=True)
        clipped = front_end.unwrap(cuekit.random_walk(*wrapped, steps=2))
        expected = cuekit.random_walk(maps, boundary.clip(0, 1), steps=2)
        np.testing.assert_allclose(clipped, expected, rtol=1e-12)
        maps[1, 2, 3] = np.nan
        with raises(ValueError, "maps must be finite, got nan at index (1, 2, 3)"):
            cuekit.random_walk(front_end.wrap(maps), front_end.wrap(BOUNDARY), validate=True)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("radius", 1, ValueError, "radius must be at least 2, got 1"),
        ("radius", 17, ValueError, "radius must be at most 16, got 17"),
        ("radius", 5.0, TypeError, "radius must be an integer, got 5.0"),
        ("beta", 0, ValueError, "beta must be greater than 0, got 0.0"),
        ("beta", -1, ValueError, "beta must be greater than 0, got -1.0"),
        ("beta", np.inf, ValueError, "beta must be finite, got inf"),
        ("beta", "8", TypeError, "beta must be a number, got '8'"),
        ("steps", -1, ValueError, "steps must be at least 0, got -1"),
        ("steps", 2.0, TypeError, "steps must be an integer, got 2.0"),
        ("validate", 1, TypeError, "validate must be True or False, got 1"),
    ],
)
def test_wrong_options(option, value, error, message):
    with raises(error, message):
        cuekit.random_walk(MAPS, BOUNDARY, **{option: value})
    if option == "radius":
        with raises(error, message):
            neighbour_offsets(value)


@pytest.mark.parametrize("name", ["maps", "boundary"])
def test_integers_are_refused(name):
    arrays = {"maps": MAPS, "boundary": BOUNDARY}
    arrays[name] = arrays[name].astype(np.uint8)
    message = f"{name} must have dtype float16 or float32 or float64, got uint8"
    with raises(TypeError, message):
        cuekit.random_walk(**arrays)
