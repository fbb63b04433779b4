"""The gradient of the dense CRF against mean field unrolled in torch's float64.

The oracle's filters are matrices: the lattice of `reference.py`, in float64, applied to each unit
vector. So autograd differentiates the same linear operator, and knows nothing of lattices.
"""

import gc
import re
import weakref

import numpy as np
import pytest
from common import INSTRUCTION_SETS, at_most, needs, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from strategies import THREADS, reordered, same_bits, tags

import cuekit
from cuekit import CRFKernel, CRFParams, reference
from cuekit.crf_features import photo_kernels

torch = needs("torch")

NORMALIZATIONS = ("symmetric", "before", "after", "none")
EPSILON = 1e-5
batches = st.sampled_from([(), (), (1,), (2,), (2, 2), (0,)])
channel_counts = st.sampled_from([2, 3, 4, 5, 9, 33])
sizes = st.sampled_from([(1, 1), (1, 7), (4, 5), (9, 8), (3, 21)])
# With larger weights, ten steps multiply rounding and gradients alike, until both are noise.
params = st.builds(
    CRFParams,
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0.1, 1, 3]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([3, 20]),
    st.sampled_from([5, 13, 40]),
)


@st.composite
def some_photos(draw, shape):
    """Two colours under noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    photo = rng.integers(0, 2, shape[-3:-1])[..., None] * 60 + rng.integers(0, 9, shape)
    return draw(reordered(photo.astype(np.uint8)))


def some_probabilities(rng, shape, axis, sharpness=1.0):
    logits = rng.normal(size=shape) * sharpness
    return np.moveaxis(reference.softmax(np.moveaxis(logits, axis, 0)), 0, axis)


def matrices(kernels):
    """The filter of each kernel, (N, N): row i is the result at i."""
    result = []
    for kernel in kernels:
        features = np.ascontiguousarray(kernel.features)
        units = np.eye(features.shape[1])
        messages = reference.feature_messages([(features, -units, kernel.normalization)])
        result.append(torch.from_numpy(messages(units).T.copy()))
    return result


def gains_of(compatibility, channels):
    """What a class adds to the logit of a class, (K, K)."""
    if not isinstance(compatibility, torch.Tensor):
        compatibility = torch.as_tensor(compatibility, dtype=torch.float64)
    if compatibility.ndim == 2:
        return -compatibility
    return torch.diag(compatibility.expand(channels))


def unrolled(logits, filters, gains, iterations):  # (K, N), [(N, N)], [(K, K)]
    q = logits.softmax(0)
    for _ in range(iterations):
        q = sum((g @ q @ a.T for a, g in zip(filters, gains, strict=True)), logits).softmax(0)
    return q


def logits_of(values, unary):
    return -values if unary == "energies" else values.clamp(EPSILON, 1).log()


def expected_gradients(values, present, kernels, of_out, *, iterations, unary):
    """Of one image (K, N): those of the values, in float64, and of the compatibilities."""
    channels = len(values)
    kept = np.flatnonzero([True, *present]) if present is not None else np.arange(channels)
    leaf = torch.from_numpy(values.astype(np.float64)).requires_grad_()
    tables = [
        torch.as_tensor(kernel.compatibility, dtype=torch.float64).clone().requires_grad_()
        for kernel in kernels
    ]
    gains = [gains_of(table, channels)[kept][:, kept] for table in tables]
    q = unrolled(logits_of(leaf[kept], unary), matrices(kernels), gains, iterations)
    loss = (q * torch.from_numpy(of_out[kept].astype(np.float64))).sum()
    zeros = [leaf * 0, *(table * 0 for table in tables)]
    (loss + sum(each.sum() for each in zeros)).backward()
    return leaf.grad.numpy(), [table.grad.numpy() for table in tables]


def in_log_units(gradient, values, unary):
    """Gradients with respect to logarithms: one scale for probabilities of 1e-5 and of 1."""
    return gradient if unary == "energies" else gradient * np.clip(values, EPSILON, 1)


def assert_close(result, expected, strength, iterations, of_out, count=1):
    """Compare gradients whose rounding is that of float32.

    A step multiplies gradients, and their errors, by up to half the strength, that is the largest
    sum of gains, and adds its own of some 1e-6 of them; a compatibility has the sum of `count`.
    """
    growth = sum((1 + strength / 2) ** step for step in range(iterations + 1))
    largest = np.abs(of_out).max(initial=0) * growth * (iterations + 1)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=3e-6 * largest * count)


def leaf_of(array):
    """A tensor that requires grad, in the memory order of the array where torch has it."""
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array).requires_grad_()


@at_most(300)
@given(
    st.data(),
    batches,
    channel_counts,
    sizes,
    st.sampled_from(["float16", "float32", "float64"]),
    params,
    st.integers(0, 3),
    st.sampled_from(["probabilities", "energies"]),
    st.sampled_from(THREADS),
    st.sampled_from(INSTRUCTION_SETS),
)
def test_photos_equal_oracle(
    data, batch, channels, size, dtype, setting, iterations, unary, threads, instruction_set
):
    set_instruction_set(instruction_set)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = some_probabilities(rng, (*batch, channels, *size), -3, sharpness=2)
    values = -np.log(values) if unary == "energies" else values
    values = data.draw(reordered(values.astype(dtype)))
    photos = data.draw(some_photos((*batch, *size, 3)))
    if data.draw(st.booleans()):
        photos = photos[..., 0]  # the kernel of any features
    present = data.draw(st.none() | tags((*batch, channels - 1)))
    options = {"present": present, "iterations": iterations, "unary": unary, "threads": threads}
    leaf = leaf_of(values)
    result = cuekit.dense_crf(leaf, photos, setting, differentiable=True, **options)
    plain = cuekit.dense_crf(values, photos, setting, **options)
    assert same_bits(result.detach().numpy(), plain)
    of_out = rng.normal(size=result.shape).astype(plain.dtype)
    result.backward(torch.from_numpy(of_out))
    assert leaf.grad.shape == leaf.shape
    assert leaf.grad.dtype == leaf.dtype
    strength = setting.gaussian_weight + setting.bilateral_weight
    for index in np.ndindex(batch):
        flat = values[index].reshape(channels, -1)
        expected, _ = expected_gradients(
            flat,
            None if present is None else present[index],
            photo_kernels(photos[index], setting),
            of_out[index].reshape(channels, -1),
            iterations=iterations,
            unary=unary,
        )
        got = leaf.grad.numpy()[index].reshape(channels, -1).astype(np.float64)
        if dtype == "float16":  # of which numbers have 11 bits
            expected = expected.astype(np.float16).astype(np.float64)
            got, expected = (in_log_units(each, flat, unary) for each in (got, expected))
            np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
            continue
        wide = flat.astype(np.float64)
        assert_close(
            in_log_units(got, wide, unary),
            in_log_units(expected, wide, unary),
            strength,
            iterations,
            of_out,
        )


@st.composite
def compatibilities(draw, channels):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["weight", "weights", "matrix"]))
    if kind == "weight":
        return np.array(draw(st.sampled_from([-1.0, 0.0, 2.0])))
    if kind == "weights":
        return rng.normal(size=channels)
    matrix = rng.normal(size=(channels, channels)) / channels
    return matrix + matrix.T


@at_most(300)
@given(
    st.data(),
    batches,
    channel_counts,
    st.sampled_from([1, 2, 17, 64, 65]),
    st.integers(0, 3),
    st.sampled_from(THREADS),
    st.sampled_from(INSTRUCTION_SETS),
)
def test_features_and_compatibilities_equal_oracle(
    data, batch, channels, points, iterations, threads, instruction_set
):
    set_instruction_set(instruction_set)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = some_probabilities(rng, (*batch, channels, points), -2).astype(np.float32)
    kernels = [
        CRFKernel(
            rng.normal(size=(*batch, data.draw(st.integers(1, 6)), points)).astype(np.float32),
            data.draw(compatibilities(channels)),
            data.draw(st.sampled_from(NORMALIZATIONS)),
        )
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    present = data.draw(st.none() | tags((*batch, channels - 1)))
    options = {"present": present, "iterations": iterations, "threads": threads}
    leaf = leaf_of(values).requires_grad_(data.draw(st.booleans()) or not kernels)
    tables = [
        leaf_of(kernel.compatibility).requires_grad_(not leaf.requires_grad or bool(f % 2))
        for f, kernel in enumerate(kernels)
    ]
    learned = [k._replace(compatibility=t) for k, t in zip(kernels, tables, strict=True)]
    result = cuekit.dense_crf_features(leaf, learned, differentiable=True, **options)
    fixed = [
        k._replace(compatibility=c.item() if (c := k.compatibility).ndim == 0 else c)
        for k in kernels
    ]
    plain = cuekit.dense_crf_features(values, fixed, **options)
    assert same_bits(result.detach().numpy(), plain)
    of_out = rng.normal(size=result.shape).astype(np.float32)
    result.backward(torch.from_numpy(of_out))
    expected, of_tables = np.zeros(values.shape), [np.zeros(t.shape) for t in tables]
    strength = 0
    for index in np.ndindex(batch):
        own = [k._replace(features=k.features[index]) for k in kernels]
        tags_of_image = None if present is None else present[index]
        expected[index], more = expected_gradients(
            values[index],
            tags_of_image,
            own,
            of_out[index],
            iterations=iterations,
            unary="probabilities",
        )
        for total, part in zip(of_tables, more, strict=True):
            total += part
        filters = matrices(own)
        sums = [max(a.sum(0).max().item(), a.sum(1).max().item()) for a in filters]
        gains = [gains_of(k.compatibility, channels).abs().sum(1).max().item() for k in kernels]
        strength = max(strength, sum(s * g for s, g in zip(sums, gains, strict=True)))
    if leaf.requires_grad:
        got = in_log_units(leaf.grad.numpy().astype(np.float64), values, "probabilities")
        wanted = in_log_units(expected, values.astype(np.float64), "probabilities")
        assert_close(got, wanted, strength, iterations, of_out)
    for table, wanted in zip(tables, of_tables, strict=True):
        if table.requires_grad:
            assert_close(
                table.grad.numpy(), wanted, strength, iterations, of_out, np.prod(values.shape)
            )


RNG = np.random.default_rng(0)
PHOTO = (RNG.integers(0, 2, (6, 7, 1)) * 60 + RNG.integers(0, 9, (6, 7, 3))).astype(np.uint8)
PROBABILITIES = some_probabilities(RNG, (3, 6, 7), 0).astype(np.float32)
SETTING = CRFParams(1, 1, 2, 5, 20)


def refined(leaf, photo=PHOTO, **options):
    options = {"params": SETTING, "iterations": 3, "differentiable": True, **options}
    return cuekit.dense_crf(leaf, photo, **options)


def test_gradcheck_of_the_oracle():
    filters = matrices(photo_kernels(PHOTO[:2, :3], SETTING))
    gains = [gains_of(w, 3) for w in (1, 2)]
    logits = torch.from_numpy(RNG.normal(size=(3, 6))).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: unrolled(u, filters, gains, 3), logits)


@pytest.mark.parametrize("unary", ["probabilities", "energies"])
def test_finite_differences(unary):
    """The op's own, in a direction: with steps of 0.01, Q's rounding is 1e-4 of the difference."""
    values = PROBABILITIES.astype(np.float64)
    values = -np.log(values) if unary == "energies" else values * 0.9 + 0.03
    direction, of_out = RNG.normal(size=(2, *values.shape))
    step = 0.01 * values.min() if unary == "probabilities" else 0.01

    def loss(at):
        return (refined(torch.from_numpy(at), unary=unary).numpy() * of_out).sum()

    difference = (loss(values + step * direction) - loss(values - step * direction)) / (2 * step)
    leaf = leaf_of(values)
    refined(leaf, unary=unary).backward(torch.from_numpy(of_out))
    slope = (leaf.grad.numpy() * direction).sum()
    assert abs(slope) > 0.1
    np.testing.assert_allclose(difference, slope, rtol=0.01)


def test_threads_and_instruction_sets_give_the_same_bits():
    """Of a photo in several bands, with blurs in several tasks."""
    photo = np.random.default_rng(1).integers(0, 256, (300, 257, 3), np.uint8)
    values = some_probabilities(RNG, (2, 300, 257), 0).astype(np.float32)
    of_out = torch.from_numpy(RNG.normal(size=values.shape).astype(np.float32))
    kernels = photo_kernels(photo, SETTING)
    results = []
    for instruction_set in INSTRUCTION_SETS:
        set_instruction_set(instruction_set)
        for threads in THREADS if instruction_set == INSTRUCTION_SETS[-1] else (2,):
            leaf, table = leaf_of(values), torch.full((2, 2), 0.5, requires_grad=True)
            refined(leaf, photo, iterations=1, threads=threads).backward(of_out)
            cuekit.dense_crf_features(
                leaf.flatten(1),
                [kernels[0]._replace(compatibility=table), kernels[1]],
                iterations=1,
                differentiable=True,
                threads=threads,
            ).backward(of_out.flatten(1))
            results.append((leaf.grad.numpy(), table.grad.numpy()))
    for gradient, of_table in results[1:]:
        assert same_bits(gradient, results[0][0])
        assert same_bits(of_table, results[0][1])


def test_points_in_no_order_have_the_gradient_of_those_in_order():
    """The former are sorted within the call."""
    rng = np.random.default_rng(0)
    points = 40_000
    of_cluster = rng.integers(0, 30, points)
    features = rng.normal(size=(3, 30))[:, of_cluster] * 9 + rng.normal(size=(3, points)) / 3
    values = rng.dirichlet(np.ones(4), points).T
    weights = torch.from_numpy(rng.random((4, points)))
    order = np.argsort(of_cluster, kind="stable")

    def gradients(order):
        leaf = torch.from_numpy(values[:, order]).requires_grad_()
        weight = torch.tensor(3.0).requires_grad_()
        result = cuekit.dense_crf_features(
            leaf, [(features[:, order], weight)], iterations=2, differentiable=True
        )
        return torch.autograd.grad(result, (leaf, weight), weights[:, order])

    of_values, of_weight = gradients(np.arange(points))
    expected, of_weight_expected = gradients(order)
    # Vertices sum the same float32 values in another order; gradients are up to 1 / epsilon.
    torch.testing.assert_close(
        of_values[:, order] * torch.from_numpy(values[:, order]),
        expected * torch.from_numpy(values[:, order]),
        rtol=0,
        atol=1e-4,
    )
    torch.testing.assert_close(of_weight, of_weight_expected, rtol=1e-3, atol=0)


def test_photos_that_follow_each_other_and_are_equal():
    """Without a gradient, they are computed in pairs."""
    both = leaf_of(np.stack([PROBABILITIES, PROBABILITIES[::-1].copy()]))
    result = refined(both, np.stack([PHOTO, PHOTO]))
    assert torch.equal(result, refined(both.detach(), np.stack([PHOTO, PHOTO])))
    of_out = torch.from_numpy(RNG.normal(size=result.shape).astype(np.float32))
    result.backward(of_out)
    for b in range(2):
        alone = both.detach()[b].clone().requires_grad_()
        refined(alone).backward(of_out[b])
        assert torch.equal(both.grad[b], alone.grad)


def test_gradients_of_any_layout_and_a_second_pass():
    leaf = leaf_of(PROBABILITIES)
    result = refined(leaf)
    weights = torch.from_numpy(RNG.normal(size=(7, 6, 3)).astype(np.float32)).permute(2, 1, 0)
    (first,) = torch.autograd.grad((result * weights).sum(), leaf, retain_graph=True)
    (second,) = torch.autograd.grad(result, leaf, weights.contiguous(), retain_graph=True)
    assert torch.equal(first, second)
    (of_sum,) = torch.autograd.grad(result.sum(), leaf)  # a gradient of stride 0
    np.testing.assert_allclose(of_sum.numpy(), 0, atol=1e-5)  # all sums are 1


@pytest.mark.parametrize("iterations", [0, 3])
def test_certain_pixels(iterations):
    """Probabilities of 0 and 1, and what rounding left outside, are clipped: finite gradients."""
    hard = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (6, 7))].transpose(2, 0, 1).copy()
    hard[:, 0, 0] = (1.0005, -0.0005, 0.5)
    leaf = leaf_of(hard)
    refined(leaf, iterations=iterations)[0].sum().backward()
    assert torch.isfinite(leaf.grad).all()
    inside = (hard >= EPSILON) & (hard <= 1)
    assert not leaf.grad.numpy()[~inside].any()
    assert leaf.grad.numpy()[inside].any()


def test_impossible_classes_get_no_gradient():
    energies = -np.log(PROBABILITIES)
    energies[1, :, ::2] = np.inf
    leaf = leaf_of(energies)
    refined(leaf, unary="energies")[0].sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert np.abs(leaf.grad.numpy()[np.isinf(energies)]).max() < 1e-30
    assert np.abs(leaf.grad.numpy()[np.isfinite(energies)]).max() > 1e-3


def test_background_alone_has_no_gradient():
    leaf = leaf_of(PROBABILITIES)
    table = torch.zeros((3, 3), requires_grad=True)
    refined(leaf, present=[False, False])[0].sum().backward()
    kernels = [CRFKernel(RNG.normal(size=(2, 42)), table)]
    flat = leaf.flatten(1)
    cuekit.dense_crf_features(flat, kernels, present=[False, False], differentiable=True)[
        0
    ].sum().backward()
    assert not leaf.grad.any()
    assert not table.grad.any()


def test_without_what_requires_grad_it_is_the_plain_call():
    plain = cuekit.dense_crf(PROBABILITIES, PHOTO, SETTING, iterations=3)
    result = refined(torch.from_numpy(PROBABILITIES))
    assert not result.requires_grad
    assert same_bits(result.numpy(), plain)
    with torch.no_grad():
        result = refined(leaf_of(PROBABILITIES))
    assert not result.requires_grad
    assert same_bits(result.numpy(), plain)


def test_second_derivatives_are_refused():
    leaf = leaf_of(PROBABILITIES)
    result = refined(leaf)
    # Autograd needs no second derivative for the gradient itself, nor for other parts of a sum.
    (gradient,) = torch.autograd.grad(result[0].sum(), leaf, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match=r"^dense_crf has no second derivative"):
        gradient.square().sum().backward()
    table = torch.tensor(2.0, requires_grad=True)
    features = RNG.normal(size=(2, 42))
    result = cuekit.dense_crf_features(
        leaf.detach().flatten(1), [(features, table)], differentiable=True
    )
    (gradient,) = torch.autograd.grad(result[0].sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^dense_crf_features has no second derivative"):
        gradient.backward()


def test_changes_in_place_are_found():
    leaf = leaf_of(PROBABILITIES)
    values = leaf * 1
    result = refined(values)
    values.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_functional_gradient():
    leaf = leaf_of(PROBABILITIES)
    refined(leaf)[0].sum().backward()
    result = torch.func.grad(lambda p: refined(p)[0].sum())(torch.from_numpy(PROBABILITIES))
    assert torch.equal(result, leaf.grad)


def test_nothing_keeps_the_result():
    gc.disable()
    try:
        result = refined(leaf_of(PROBABILITIES))
        alive = weakref.ref(result.grad_fn)
        del result
        assert alive() is None
    finally:
        gc.enable()


def raises(error, message):
    return pytest.raises(error, match="^" + re.escape(message))


def test_errors():
    leaf = leaf_of(PROBABILITIES)
    features = RNG.normal(size=(2, 42))
    flat, kernels = leaf.detach().flatten(1).requires_grad_(), [(features, 1)]
    features_of = cuekit.dense_crf_features
    for call in (
        lambda: refined(leaf, differentiable=False),
        lambda: features_of(flat, kernels),
    ):
        with raises(ValueError, "probabilities requires grad, and this function has no gradient "):
            call()
    with raises(ValueError, "kernels[0].compatibility requires grad"):
        features_of(flat.detach(), [(features, torch.ones(3, requires_grad=True))])
    for call in (
        lambda: refined(PROBABILITIES),
        lambda: features_of(PROBABILITIES.reshape(3, -1), kernels, differentiable=True),
    ):
        with raises(TypeError, "differentiable=True needs torch tensors, got probabilities of"):
            call()
    with raises(ValueError, "differentiable=True needs tensors on the CPU, got probabilities on"):
        refined(torch.empty((3, 6, 7), device="meta", requires_grad=True))
    with raises(TypeError, "differentiable must be True or False, got 1"):
        refined(leaf, differentiable=1)
    for call in (
        lambda: refined(leaf, tolerance=0.1),
        lambda: features_of(flat, kernels, differentiable=True, tolerance=0.1),
    ):
        with raises(ValueError, "tolerance must be None with differentiable=True, got 0.1"):
            call()
    with raises(ValueError, "storage must be 'float32' on the CPU, got 'float16'"):
        refined(leaf, storage="float16")
    with raises(ValueError, "probabilities must lie in [0, 1], got 2"):
        refined(leaf * 0 + 2)
    with raises(ValueError, "epsilon must be at most 1, got 2"):
        refined(leaf, epsilon=2)
    with raises(ValueError, "unary must be one of 'probabilities', 'energies', got 'x'"):
        refined(leaf, unary="x")
    with raises(TypeError, "probabilities must have a dtype that NumPy knows, got bfloat16"):
        refined(leaf.bfloat16())
    large = torch.zeros((2, 4096, 4096)).requires_grad_()
    with raises(ValueError, "iterations must be fewer with differentiable=True, which keeps"):
        refined(large, np.zeros((4096, 4096, 3), np.uint8), iterations=2**31 - 1)
    with raises(ValueError, "iterations must be fewer with differentiable=True, which keeps"):
        features_of(large.flatten(1), [], iterations=2**31 - 1, differentiable=True)
    with raises(TypeError, "kernels must be a list of kernels, got int"):
        features_of(flat, 3, differentiable=True)
