"""Losses against the oracle, their gradients, and the inputs on which SEC's code fails."""

import re
from functools import partial

import numpy as np
import pytest
from common import at_most, needs
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import FRONT_ENDS, batches, masks, memory_orders, reordered, sides, tags

torch = needs("torch")

from cuekit import crf, losses, reference  # noqa: E402 - losses needs torch

# 41 x 41 is the grid that SEC's constants are for.
grids = st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 40), (41, 41)]))
small_grids = st.tuples(sides, sides)
channel_counts = st.sampled_from([2, 3, 4, 8, 21])
front_ends = st.sampled_from(FRONT_ENDS)

# Sums of at most 40 000 numbers, added pairwise: some roundings, 6e-8 in float32 and 1e-16 in
# float64. Near p = 1, -log p is small and has the rounding of p itself, absolutely.
TOLERANCES = {
    "float32": {"rtol": 1e-5, "atol": 1e-6},
    "float64": {"rtol": 1e-13, "atol": 1e-14},
}
# 1 - max p is 1e-4 or more and has two roundings of max p, which its logarithm magnifies 1e4 times.
EXPANSION_TOLERANCES = {
    "float32": {"rtol": 1e-5, "atol": 2e-3},
    "float64": {"rtol": 1e-13, "atol": 4e-12},
}


@st.composite
def softmaxed(draw, shape):
    """Even, noisy and saturated probabilities, down to exact zeros and ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=shape) * draw(st.sampled_from([0, 1, 20, 1000]))
    raised = np.exp(scores - scores.max(-3, keepdims=True))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return draw(reordered((raised / raised.sum(-3, keepdims=True)).astype(dtype)))


def tensor(array):
    """A tensor of its own memory, in the array's memory order where torch has it."""
    return torch.from_numpy(np.array(array))


def noise(*shape):
    """Probabilities (..., K, H, W) in float64, all different."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape)).softmax(-3)


def photos(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def batch_mean(oracle, batch, *arrays):
    """The oracle's mean over the images; no image counts as 0."""
    values = [oracle(*(array[index] for array in arrays)) for index in np.ndindex(batch)]
    return np.mean(values) if values else 0.0


def assert_loss(loss, expected, dtype, tolerances=TOLERANCES):
    assert loss.shape == ()
    assert str(loss.dtype) == f"torch.{dtype}"
    np.testing.assert_allclose(loss.item(), expected, **tolerances[str(dtype)])


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


# -------------------------------------------------------------------------------------- seed_loss


@given(st.data(), batches, channel_counts, grids, front_ends, st.booleans())
@at_most(200)
def test_seed_equals_oracle(data, batch, channels, grid, front_end, balanced):
    p = data.draw(softmaxed((*batch, channels, *grid)))
    cues = data.draw(masks(p.shape))
    if one := data.draw(st.sampled_from([0, 1, 255])):  # else bool
        cues = cues * np.uint8(one)
    loss = losses.seed_loss(tensor(p), front_end.wrap(cues), balanced=balanced)
    expected = batch_mean(partial(reference.seed_loss, balanced=balanced), batch, p, cues)
    assert_loss(loss, expected, p.dtype)


def test_balanced_seeds_of_one_kind():
    """Without elements of one kind, whose mean would be 0 / 0, the other one is the loss."""
    p = noise(3, 4, 4)
    for channel in (0, 2):
        cues = np.zeros(p.shape, dtype=bool)
        cues[channel, :2] = True
        plain, balanced = (losses.seed_loss(p, cues, balanced=b) for b in (False, True))
        torch.testing.assert_close(plain, balanced, rtol=1e-14, atol=0)
    many = np.ones(p.shape, dtype=bool)
    many[1:] = False
    many[1, 0, 0] = True
    floor = reference.floored(p.numpy())
    expected = -np.log(floor[0]).mean() - np.log(floor[1, 0, 0])
    assert_loss(losses.seed_loss(p, many, balanced=True), expected, "float64")
    with raises(TypeError, "balanced must be True or False, got 1"):
        losses.seed_loss(p, many, balanced=1)


def test_images_without_cues_count_as_zero():
    p = noise(2, 3, 4, 4)
    cues = np.zeros(p.shape, dtype=bool)
    assert losses.seed_loss(p, cues).item() == 0
    cues[0, 1, 2, 3] = True
    assert losses.seed_loss(p, cues) == losses.seed_loss(p[:1], cues[:1]) / 2


def test_cues_of_any_memory():
    p = noise(3, 5, 7)
    cues = np.random.default_rng(0).random((3, 5, 7)) < 0.3
    expected = losses.seed_loss(p, cues)
    for each in memory_orders(cues):
        assert losses.seed_loss(p, each) == expected
    cues.flags.writeable = False
    assert losses.seed_loss(p, cues) == expected
    # Masks of 0 and 255 viewed as bool are common; True is True whatever byte it is.
    odd = (cues * np.uint8(255)).view(np.bool_)
    assert losses.seed_loss(p, odd) == expected
    assert losses.seed_loss(p, torch.from_numpy(odd)) == expected


def test_gradient_of_seed():
    p = noise(2, 3, 4, 5).requires_grad_()
    cues = np.random.default_rng(1).random(p.shape) < 0.3
    for balanced in (False, True):
        assert torch.autograd.gradcheck(
            lambda p, balanced=balanced: losses.seed_loss(p, cues, balanced=balanced), p
        )


def test_a_lost_class_has_a_gradient():
    """Behind a clamp at 1e-4 it would have none, and never come back."""
    p = torch.tensor([[[1.0]], [[0.0]]]).requires_grad_()
    losses.seed_loss(p, torch.tensor([[[False]], [[True]]])).backward()
    # d/dp of -log((p + 1e-4) / S) is 1/S - 1/(p + 1e-4), with S = 1 + 2e-4.
    torch.testing.assert_close(p.grad[1].item(), 1 / 1.0002 - 1e4, rtol=1e-6, atol=0)


# --------------------------------------------------------------------------------- expansion_loss


@given(st.data(), batches, channel_counts, grids, front_ends)
@at_most(200)
def test_expansion_equals_oracle(data, batch, channels, grid, front_end):
    p = data.draw(softmaxed((*batch, channels, *grid)))
    present = data.draw(tags((*batch, channels - 1)))
    loss = losses.expansion_loss(tensor(p), front_end.wrap(present))
    expected = batch_mean(reference.expansion_loss, batch, p, present)
    assert_loss(loss, expected, p.dtype, EXPANSION_TOLERANCES)


def test_expansion_without_tags_and_with_all():
    """SEC's code gives NaN on both."""
    p = noise(4, 6, 6)
    background = reference.weighted_rank_pooling(reference.floored(p.numpy())[0], 0.999)
    none = losses.expansion_loss(p, [False, False, False])
    present = losses.expansion_loss(p, [True, True, True])
    assert none > -np.log(background)
    assert present > -np.log(background)
    assert losses.expansion_loss(p, None) == present


def test_gradient_of_expansion():
    p = noise(3, 4, 4, 5).requires_grad_()
    present = torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    assert torch.autograd.gradcheck(lambda p: losses.expansion_loss(p, present), p)


# --------------------------------------------------------------------- constrain_to_boundary_loss


class Recorded:
    """Stands in for `dense_crf`: calls it and keeps what went in and came out."""

    def __init__(self, context):
        self.real = crf.dense_crf
        context.setattr(crf, "dense_crf", self)

    def __call__(self, probabilities, image, *arguments, **options):
        self.probabilities, self.image = probabilities, image
        self.arguments, self.options = arguments, options
        self.result = self.real(probabilities, image, *arguments, **options)
        return self.result


@given(st.data(), batches, channel_counts, small_grids, small_grids, front_ends)
@at_most(200)
def test_constrain_equals_oracle(data, batch, channels, grid, size, front_end):
    p = data.draw(softmaxed((*batch, channels, *grid)))
    images = data.draw(reordered(photos(*batch, *size, seed=data.draw(st.integers(0, 99)))))
    present = data.draw(tags((*batch, channels - 1)))
    with pytest.MonkeyPatch.context() as context:
        recorded = Recorded(context)
        loss = losses.constrain_to_boundary_loss(tensor(p), front_end.wrap(images), present=present)
    np.testing.assert_array_equal(recorded.probabilities, p)
    if p.size == 0:
        assert_loss(loss, 0, p.dtype)
        return
    q = recorded.result.numpy()
    assert_loss(loss, batch_mean(reference.constrain_to_boundary_loss, batch, p, q), p.dtype)


@given(batches, small_grids, small_grids, front_ends)
@example((2,), (41, 41), (375, 500), FRONT_ENDS[0])  # where float32 would round to another integer
def test_photos_are_resized_as_everywhere(batch, grid, size, front_end):
    images = photos(*batch, *size)
    with pytest.MonkeyPatch.context() as context:
        recorded = Recorded(context)
        p = torch.full((*batch, 2, *grid), 0.5)
        losses.constrain_to_boundary_loss(p, front_end.wrap(images))
    assert recorded.image.dtype == torch.uint8
    assert recorded.image.shape == (*batch, *grid, 3)
    if p.numel() == 0:
        return
    exact = reference.resize_bilinear(np.moveaxis(images, -1, -3), grid)
    # The nearest integer. Halfway between two it is either: there, the last bit decides.
    difference = np.moveaxis(recorded.image.numpy(), -1, -3) - exact
    assert np.abs(difference).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "params",
    [
        "sec",
        crf.CRFParams(
            gaussian_weight=2,
            gaussian_sxy=1.5,
            bilateral_weight=5,
            bilateral_sxy=4,
            bilateral_srgb=30,
        ),
    ],
)
def test_constrain_is_the_divergence_from_dense_crf(params):
    """At the photo's own size, with everything passed on."""
    p, image, present = noise(2, 4, 9, 11), photos(2, 9, 11), [[True, False, True], [False] * 3]
    options = {"present": present, "iterations": 3, "threads": 2}
    q = crf.dense_crf(p, image, params, **options).numpy()
    loss = losses.constrain_to_boundary_loss(p, image, params, **options)
    expected = batch_mean(reference.constrain_to_boundary_loss, (2,), p.numpy(), q)
    assert_loss(loss, expected, "float64")
    assert loss > 0.1  # or the comparison would tell little
    default = losses.constrain_to_boundary_loss(p, image)
    assert default == losses.constrain_to_boundary_loss(p, image, "sec-train")
    assert default != loss


def test_elements_are_the_paper_as_printed():
    p, image = noise(2, 5, 6, 6), photos(2, 6, 6)
    pixels = losses.constrain_to_boundary_loss(p, image)
    elements = losses.constrain_to_boundary_loss(p, image, normalize="elements")
    np.testing.assert_allclose(pixels, 5 * elements, rtol=1e-14)  # two orders of one sum


def test_photos_of_different_sizes():
    p = noise(2, 2, 3, 7, 6)
    sizes = [(7, 6), (20, 31), (1, 1), (13, 5)]
    images = [photos(*size, seed=i) for i, size in enumerate(sizes)]
    alone = [
        losses.constrain_to_boundary_loss(p[i // 2, i % 2], image) for i, image in enumerate(images)
    ]
    together = losses.constrain_to_boundary_loss(p, images)
    # Means of equally many pixels; their sums run in another order.
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-14, atol=0)
    tensors = tuple(map(torch.from_numpy, images))
    assert losses.constrain_to_boundary_loss(p, tensors) == together
    assert losses.constrain_to_boundary_loss(p[0, 0], images[:1]) == alone[0]


def test_threads_change_nothing():
    p, image = noise(2, 4, 9, 11), photos(2, 30, 40)
    one = losses.constrain_to_boundary_loss(p, image)
    for threads in (2, None):
        assert losses.constrain_to_boundary_loss(p, image, threads=threads) == one


def test_no_gradient_through_the_crf(monkeypatch):
    p, image = noise(2, 3, 4, 5).requires_grad_(), photos(2, 4, 5)
    recorded = Recorded(monkeypatch)
    losses.constrain_to_boundary_loss(p, image).backward()
    assert not recorded.probabilities.requires_grad
    fixed = recorded.result
    monkeypatch.setattr(crf, "dense_crf", lambda *_, **__: fixed)

    def loss(p):
        return losses.constrain_to_boundary_loss(p, image)

    assert torch.autograd.gradcheck(loss, p)
    (gradient,) = torch.autograd.grad(loss(p), p)
    assert torch.equal(gradient, p.grad)


# ------------------------------------------------------------------------------ dense_energy_loss


@st.composite
def energies(draw):
    """Arguments of one kind for all images: with and without a region, labels, and a scale."""
    batch, channels, grid = draw(batches), draw(channel_counts), draw(small_grids)
    p = draw(softmaxed((*batch, channels, *grid)))
    size = grid if draw(st.booleans()) else draw(small_grids)
    images = draw(reordered(photos(*batch, *size, seed=draw(st.integers(0, 99))) // 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    roi = rng.random((*batch, *grid)) < 0.7 if draw(st.booleans()) else None
    labels = rng.choice([0, 1, 255], (*batch, *grid)) if draw(st.booleans()) else None
    scale = draw(st.sampled_from([0.5, 0.5, 1, 0.3, 0.99]))
    return p, images, roi, labels, scale


def energy_oracle(p, images, roi, labels, params, make_filter=reference.lattice_filter):
    """The mean of the losses, and of the gradients, over the images; (..., h, w, 3) photos."""
    batch = p.shape[:-3]
    pairs = [
        reference.dense_energy_loss(
            p[index],
            np.ascontiguousarray(images[index]),
            np.ones(p.shape[-2:], bool) if roi is None else roi[index],
            None if labels is None else labels[index] == 255,
            params,
            make_filter,
        )
        for index in np.ndindex(batch)
    ]
    values, slopes = zip(*pairs, strict=True)
    return np.mean(values), np.stack(slopes) / len(values)


@given(energies(), front_ends)
@at_most(150)
def test_energy_equals_oracle(arrays, front_end):
    p, images, roi, labels, scale = arrays
    options = {"sxy": 20, "srgb": 15, "scale": scale, "weight": 0.5}
    loss = losses.dense_energy_loss(
        tensor(p),
        front_end.wrap(images),
        roi=None if roi is None else front_end.wrap(roi),
        labels=None if labels is None else front_end.wrap(labels),
        **options,
    )
    if p.size == 0:
        assert_loss(loss, 0, p.dtype)
        return
    expected, _ = energy_oracle(p, images, roi, labels, (20, 15, scale, 0.5))
    # Float32 filters and sums, and weights in float32 in float64, too: all terms are positive.
    np.testing.assert_allclose(loss.item(), expected, rtol=5e-6, atol=1e-6)
    assert loss.shape == ()
    assert str(loss.dtype) == f"torch.{p.dtype}"


@pytest.mark.parametrize("gate", [False, True])
def test_the_gradient_of_the_energy_is_that_of_the_sources(gate):
    p, images = noise(2, 4, 9, 11), photos(2, 9, 11) // 4
    rng = np.random.default_rng(0)
    roi, labels = rng.random((2, 9, 11)) < 0.8, rng.choice([0, 255], (2, 9, 11))
    options = {"roi": roi, "labels": labels} if gate else {"roi": None, "labels": None}
    q = p.clone().requires_grad_()
    losses.dense_energy_loss(q, images, scale=1, weight=0.5, **options).backward()
    params = (100, 15, 1, 0.5)
    _, expected = energy_oracle(p.numpy(), images, options["roi"], options["labels"], params)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(q.grad, expected, rtol=0, atol=1e-6 * scale)
    # And at half the size: that, through the resizing of p.
    small = torch.nn.functional.interpolate(
        q := p.clone().requires_grad_(), (4, 5), mode="bilinear"
    )
    _, expected = energy_oracle(
        p.numpy(), images, options["roi"], options["labels"], (100, 15, 0.5, 0.5)
    )
    (through,) = torch.autograd.grad(small, q, torch.from_numpy(expected))
    losses.dense_energy_loss(q, images, weight=0.5, **options).backward()
    torch.testing.assert_close(q.grad, through, rtol=0, atol=1e-6 * float(through.abs().max()))


@pytest.mark.parametrize("scale", [0.5, 1])
@pytest.mark.parametrize("ignored", [False, True])
def test_the_gradient_is_the_derivative_with_the_exact_filter(monkeypatch, scale, ignored):
    """That filter is symmetric. The gate must not depend on the probabilities: none, or all 1."""

    def exact(values, image, *, sxy, srgb, threads):  # noqa: ARG001
        each = [
            reference.bilateral_filter(v, photo, sxy, srgb, False, reference.exact_filter)
            for v, photo in zip(values.detach().numpy(), image.numpy(), strict=True)
        ]
        return torch.from_numpy(np.stack(each))

    monkeypatch.setattr(losses, "bilateral_filter", exact)
    images, roi = photos(2, 6, 8) // 4, np.random.default_rng(0).random((2, 6, 8)) < 0.8
    labels = np.full((2, 6, 8), 255) if ignored else None
    p = noise(2, 3, 6, 8).requires_grad_()

    def loss(p):
        return losses.dense_energy_loss(
            p, images, sxy=4, srgb=30, scale=scale, weight=1, roi=roi, labels=labels
        )

    assert torch.autograd.gradcheck(loss, p)


def test_energy_at_the_size_of_training():
    """On maps of half of 321, in float32."""
    p = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 5, 81, 81))).softmax(1).float()
    images = np.repeat(np.repeat(photos(1, 9, 9), 9, 1), 9, 2)
    loss = losses.dense_energy_loss(p, images, weight=1, threads=2)
    expected, _ = energy_oracle(p.numpy(), images, None, None, (100, 15, 0.5, 1))
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


def test_energy_of_photos_of_different_sizes():
    p = noise(2, 3, 7, 6)
    images = [photos(20, 31) // 4, photos(7, 6, seed=1) // 4]
    alone = [losses.dense_energy_loss(p[i], image, weight=1) for i, image in enumerate(images)]
    together = losses.dense_energy_loss(p, images, weight=1)
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-13, atol=0)


def test_regions_and_labels_of_any_dtype():
    p, images = noise(2, 3, 6, 8), photos(2, 6, 8) // 4
    rng = np.random.default_rng(0)
    roi, labels = rng.random((2, 6, 8)) < 0.8, rng.choice([0, 3, 77], (2, 6, 8))

    def loss(roi, labels, ignore=77):
        return losses.dense_energy_loss(p, images, weight=1, roi=roi, labels=labels, ignore=ignore)

    expected = loss(roi, labels)
    for dtype in ("uint8", "int64", "float16", "float32", "float64"):
        assert loss(roi.astype(dtype), labels) == expected
        assert loss(torch.from_numpy(roi.astype(dtype)), labels) == expected
    for dtype in ("uint8", "int8", "int16", "uint16", "int32", "int64", "uint64"):
        assert loss(roi, labels.astype(dtype)) == expected
        assert loss(roi, torch.from_numpy(labels.astype(dtype))) == expected
    assert loss(roi, labels - 78, -1) == expected
    none = loss(roi, np.where(labels == 77, 5, labels))
    assert none != expected
    for ignore in (200, -1, 2**63, 10**30):
        assert loss(roi, labels, ignore) == none


def test_wrong_arguments_of_the_energy():
    p, image = noise(2, 3, 6, 8), photos(2, 6, 8)
    loss = partial(losses.dense_energy_loss, p, image)
    for name in ("sxy", "srgb"):
        with raises(ValueError, f"{name} must be greater than 0, got 0.0"):
            loss(**{name: 0})
        with raises(TypeError, f"{name} must be a number, got '3'"):
            loss(**{name: "3"})
    for scale in (0, -1, 1.5):
        with raises(ValueError, f"scale must be above 0 and at most 1, got {float(scale)}"):
            loss(scale=scale)
    with raises(ValueError, "weight must be at least 0, got -1"):
        loss(weight=-1)
    with raises(ValueError, "threads must be at least 1, got 0"):
        loss(threads=0)
    with raises(TypeError, "ignore must be an integer, got None"):
        loss(labels=np.zeros((2, 6, 8), int), ignore=None)
    for name, wrong in (("roi", np.ones((2, 6, 7))), ("labels", np.ones((6, 8), int))):
        with raises(ValueError, f"{name} must have shape (2, 6, 8) to match probabilities, got"):
            loss(**{name: wrong})
    for value in (0.5, 2, -1, np.nan):
        with raises(ValueError, f"roi must hold 0 and 1, got {float(value)}"):
            loss(roi=np.full((2, 6, 8), value, float))
    with raises(TypeError, "labels must have dtype int8 or uint8 or "):
        loss(labels=np.ones((2, 6, 8)))
    with raises(TypeError, "images must have dtype uint8, got float32"):
        losses.dense_energy_loss(p, torch.ones(2, 6, 8, 3))
    with raises(ValueError, "images must have shape (2, H, W, 3) to match probabilities, got"):
        losses.dense_energy_loss(p, image[0])
    with raises(ValueError, "images must have at least one pixel, got (2, 0, 4, 3)"):
        losses.dense_energy_loss(p, np.zeros((2, 0, 4, 3), np.uint8))
    with raises(ValueError, "images must be 2 photos to match probabilities, got 3"):
        losses.dense_energy_loss(p, [image[0]] * 3)


# ------------------------------------------------------------------------------------- all losses


def seed(p):
    on = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    on[..., 0, ::2, :] = True
    return losses.seed_loss(p, on)


def expansion(p):
    present = torch.zeros(p.shape[:-2], dtype=torch.bool, device=p.device)[..., 1:]
    present[..., :1] = True
    return losses.expansion_loss(p, present)


def constrain(p):
    *batch, _, height, width = p.shape
    return losses.constrain_to_boundary_loss(
        p, np.broadcast_to(photos(height, width), (*batch, height, width, 3))
    )


def energy(p):
    *batch, _, height, width = p.shape
    labels = torch.zeros((*batch, height, width), dtype=torch.int64, device=p.device)
    labels[..., ::2, :] = 255
    images = np.broadcast_to(photos(height, width) // 4, (*batch, height, width, 3))
    return losses.dense_energy_loss(p, images, weight=0.1, labels=labels)


every = pytest.mark.parametrize("loss", [seed, expansion, constrain, energy])


@every
def test_batch_is_the_mean_of_its_images(loss):
    p = noise(2, 3, 4, 5, 6)
    alone = torch.stack([loss(image) for image in p.flatten(0, 1)])
    # Sums run in another order.
    torch.testing.assert_close(loss(p), alone.mean(), rtol=1e-13, atol=0)
    assert torch.equal(loss(p[:1, :1]), alone[0])


@every
@pytest.mark.parametrize("channels", [2, 3, 21])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated_probabilities(loss, channels, dtype):
    """Exact zeros and ones, right and wrong, with ties everywhere: finite, and so is the gradient.

    float16 ends at 65 504, but 1e4 is the largest slope of -log(p + 1e-4).
    """
    for likely in range(channels):
        p = torch.zeros(2, channels, 4, 4, dtype=dtype)
        p[:, likely] = 1
        p.requires_grad_()
        value = loss(p)
        value.backward()
        assert value.isfinite()
        assert p.grad.isfinite().all()
        assert p.grad.dtype == dtype


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    p = noise(2, 4, 6, 6).to(dtype)
    expected = loss(p.float())
    assert expected.dtype == torch.float32
    assert torch.equal(loss(p), expected)
    with torch.autocast("cpu", dtype):
        assert torch.equal(loss(p), expected)
        assert torch.equal(loss(p.float()), expected)


@every
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 3, 4, 4), (2, 3, 0, 4), (3, 4, 0)])
def test_no_pixel_gives_zero(loss, shape):
    p = torch.zeros(shape, requires_grad=True)
    value = loss(p)
    value.backward()
    assert value.item() == 0
    assert p.grad.shape == shape


@every
def test_probabilities_of_any_memory_stay_as_they_are(loss):
    p = noise(2, 4, 6, 5)
    expected = loss(p)
    before = p.clone()
    channels_last = p.contiguous(memory_format=torch.channels_last)
    strided = torch.stack([p, p], dim=-1)[..., 0]
    for each in (p, channels_last, strided):
        # Sums over other memory run in another order.
        torch.testing.assert_close(loss(each), expected, rtol=1e-13, atol=0)
    assert torch.equal(p, before)


@pytest.mark.parametrize("loss", [seed, expansion])
def test_no_value_is_read_on_other_devices(loss):
    """Meta tensors have no values: what would synchronise with a GPU, or copy from it, fails."""
    p = torch.rand(2, 4, 6, 6, device="meta", requires_grad=True)
    value = loss(p)
    assert value.device.type == "meta"
    value.backward()
    assert p.grad.device.type == "meta"


# ----------------------------------------------------------------------------------------- errors


@every
def test_wrong_probabilities(loss):
    with raises(TypeError, "probabilities must be a dense tensor, got layout torch.sparse_coo"):
        loss(torch.ones(2, 3, 3).to_sparse())
    for dtype in (torch.int64, torch.bool, torch.complex64):
        message = "probabilities must have dtype float16 or bfloat16 or float32 or float64, got "
        with raises(TypeError, message + str(dtype).removeprefix("torch.")):
            loss(torch.ones(2, 3, 3, dtype=dtype))


@pytest.mark.parametrize(
    "loss", [losses.seed_loss, losses.expansion_loss, losses.constrain_to_boundary_loss]
)
def test_probabilities_of_wrong_shape(loss):
    """It is checked before the other arguments."""
    with raises(TypeError, "probabilities must be a torch tensor, got ndarray"):
        loss(np.ones((2, 3, 3)), "unused")
    with raises(ValueError, "probabilities must have shape (..., K, H, W), got (3, 3)"):
        loss(torch.ones(3, 3), "unused")
    for channels in (0, 1):
        message = (
            "probabilities must have a background channel and at least one class, got shape "
            f"({channels}, 3, 3): for a single map p, stack [1 - p, p]"
        )
        with raises(ValueError, message):
            loss(torch.ones(channels, 3, 3), "unused")
    with raises(TypeError, "probabilities must be a dense tensor, got a nested tensor"):
        loss(torch.nested.nested_tensor([torch.ones(3, 2, 2)], layout=torch.jagged), "unused")


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nonfinite_probabilities(loss, value, dtype):
    p = torch.full((2, 3, 3), 0.5, dtype=dtype)
    p[1, 0, 2] = value
    with raises(ValueError, f"probabilities must be finite, got {value} at index (1, 0, 2)"):
        loss(p.requires_grad_())


@every
def test_scores_before_softmax(loss):
    scores = torch.tensor([[[2.0]], [[-1.5]]])
    with raises(ValueError, "probabilities must be at least 0, got -1.5: apply softmax first"):
        loss(scores)
    with raises(ValueError, "probabilities must be at most 1, got 2.0: apply softmax first"):
        loss(scores.relu())
    loss(torch.tensor([[[1.0005]], [[0.0]]]))  # the rounding of float16 and of resizing


def test_wrong_cues():
    p = noise(2, 3, 4, 4)
    for wrong in (p, p.numpy(), np.ones(p.shape, np.int64)):
        with raises(TypeError, "cues must have dtype bool or uint8, got "):
            losses.seed_loss(p, wrong)
    with raises(TypeError, "cues must be a NumPy array or a torch tensor, got list"):
        losses.seed_loss(p, [[True]])
    for shape in ((), (3, 4, 4), (2, 3, 4, 5)):
        message = f"cues must have shape (2, 3, 4, 4) to match probabilities, got {shape}"
        with raises(ValueError, message):
            losses.seed_loss(p, np.ones(shape, dtype=bool))
        with raises(ValueError, message):
            losses.seed_loss(p, torch.ones(shape, dtype=torch.bool))


def test_wrong_tags():
    p = noise(2, 4, 5, 5)
    message = "present must have shape (2, 3) to match probabilities, got (2, 4); the background is"
    with raises(ValueError, message):
        losses.expansion_loss(p, np.ones((2, 4), dtype=bool))
    with raises(ValueError, message):
        losses.expansion_loss(p, torch.ones(2, 4, dtype=torch.bool))
    for wrong in ([[3, 14, 2]] * 2, torch.full((2, 3), 0.5), np.full((2, 3), -1)):
        with raises(ValueError, "present must hold 0 or 1 for each foreground class, got "):
            losses.expansion_loss(p, wrong)
    for device in ("cpu", "meta"):
        with raises(TypeError, "present must hold bool, or 0 and 1"):
            losses.expansion_loss(p.to(device), torch.ones(2, 3, dtype=torch.complex64).to(device))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_tags_are_0_and_1_of_any_dtype(dtype):
    p = noise(2, 4, 5, 5)
    present = torch.tensor([[1, 0, 1], [0, 1, 0]])
    expected = losses.expansion_loss(p, present.bool())
    assert losses.expansion_loss(p, present.to(dtype)) == expected
    assert losses.expansion_loss(p, present.to(dtype).tolist()) == expected
    meta = losses.expansion_loss(p.to("meta"), present.to("meta", dtype))
    assert meta.device.type == "meta"


def test_heat_maps_are_no_cues():
    p = noise(2, 3, 4, 4)
    masks = np.random.default_rng(0).random(p.shape) < 0.3
    expected = losses.seed_loss(p, masks)
    for one in (1, 255):
        cues = masks.astype(np.uint8) * np.uint8(one)
        assert losses.seed_loss(p, cues) == losses.seed_loss(p, torch.from_numpy(cues)) == expected
    heat = masks.astype(np.uint8) * np.uint8(60)
    for wrong in (heat, torch.from_numpy(heat)):
        with raises(ValueError, "cues must hold 0 and 1, or 0 and 255, where the dtype is uint8"):
            losses.seed_loss(p, wrong)


# ------------------------------------------------------------------------------------- torch.func


@every
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which torch.func uses
def test_gradients_of_torch_func(loss):
    p = noise(2, 4, 5, 6)
    expected = torch.autograd.grad(loss(q := p.clone().requires_grad_()), q)[0]
    torch.testing.assert_close(torch.func.grad(loss)(p), expected, rtol=1e-12, atol=0)
    tangent = torch.full_like(p, 0.1)
    value, change = torch.func.jvp(loss, (p,), (tangent,))
    torch.testing.assert_close(value, loss(p), rtol=1e-13, atol=0)
    torch.testing.assert_close(change, (expected * tangent).sum(), rtol=1e-9, atol=1e-12)
    with raises(ValueError, "probabilities must be at most 1, got 2.0: apply softmax first"):
        torch.func.grad(loss)(p * 0 + 2)


def test_vmap():
    p = noise(3, 4, 5, 6)
    cues = torch.from_numpy(np.random.default_rng(1).random(p.shape) < 0.3)
    present = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    for loss, marks in ((losses.seed_loss, cues), (losses.expansion_loss, present)):
        each = torch.stack([loss(*pair) for pair in zip(p, marks, strict=True)])
        torch.testing.assert_close(torch.func.vmap(loss)(p, marks), each, rtol=1e-12, atol=0)
    images = torch.from_numpy(photos(3, 5, 6))
    for loss in (losses.constrain_to_boundary_loss, losses.dense_energy_loss):
        with raises(TypeError, f"{loss.__name__} cannot be mapped by torch.func.vmap: its "):
            torch.func.vmap(loss)(p, images)


# -------------------------------------------------------------------------------------- devices


def test_nothing_is_moved_between_devices():
    p = torch.ones(2, 4, 5, 5)
    cues, present = torch.ones(p.shape, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    for value in (cues, cues.numpy()):
        with raises(ValueError, "cues must be on meta to match probabilities, got cpu"):
            losses.seed_loss(p.to("meta"), value)
    for value in (present, present.numpy(), [[True] * 3] * 2, None):
        with raises(ValueError, "present must be on meta to match probabilities, got cpu"):
            losses.expansion_loss(p.to("meta"), value)
    with raises(ValueError, "cues must be on cpu to match probabilities, got meta"):
        losses.seed_loss(p, cues.to("meta"))
    with raises(ValueError, "present must be on cpu to match probabilities, got meta"):
        losses.expansion_loss(p, present.to("meta"))
    with raises(ValueError, "present must have shape (2, 3) to match probabilities, got (2, 4)"):
        losses.expansion_loss(p.to("meta"), torch.ones(2, 4, dtype=torch.bool, device="meta"))
    with pytest.raises(ValueError, match=r"must be on the CPU or .*, got a tensor on meta"):
        losses.constrain_to_boundary_loss(p.to("meta"), photos(2, 5, 5))
    with pytest.raises(ValueError, match=r"must be on the CPU or .*, got a tensor on meta"):
        losses.constrain_to_boundary_loss(p, torch.from_numpy(photos(2, 5, 5)).to("meta"))


def test_wrong_photos():
    p = noise(2, 3, 4, 4)
    loss = losses.constrain_to_boundary_loss
    with raises(TypeError, "images must have dtype uint8, got float32"):
        loss(p, torch.ones(2, 4, 4, 3))
    for shape in ((), (4, 3), (4, 4, 3), (3, 4, 4, 3), (2, 3, 4, 4), (2, 4, 4, 4)):
        with raises(
            ValueError, f"images must have shape (2, H, W, 3) to match probabilities, got {shape}"
        ):
            loss(p, np.zeros(shape, np.uint8))
    with raises(ValueError, "images must have at least one pixel, got (2, 0, 4, 3)"):
        loss(p, np.zeros((2, 0, 4, 3), np.uint8))
    image = photos(4, 4)
    with raises(ValueError, "images must be 2 photos to match probabilities, got 3"):
        loss(p, [image] * 3)
    with raises(TypeError, "images[1] must be a NumPy array or a torch tensor, got NoneType"):
        loss(p, [image, None])
    with raises(ValueError, "images[1] must have shape (H, W, 3) to match probabilities, got"):
        loss(p, (image, image[..., 0]))


def test_an_empty_batch_looks_at_its_arguments():
    p = noise(2, 3, 4, 4)[:0]
    loss = losses.constrain_to_boundary_loss
    assert loss(p, photos(0, 4, 4)) == loss(p, []) == 0
    with raises(TypeError, "images must have dtype uint8, got float32"):
        loss(p, torch.ones(0, 4, 4, 3))
    with raises(TypeError, "images must be a NumPy array or a torch tensor, got str"):
        loss(p, "photos")
    with raises(ValueError, "images must have shape (0, H, W, 3) to match probabilities, got"):
        loss(p, photos(0, 4, 4)[..., 0])
    with raises(ValueError, "images must be 0 photos to match probabilities, got 1"):
        loss(p, [photos(4, 4)])
    with raises(ValueError, "threads must be at least 1, got 0"):
        loss(p, photos(0, 4, 4), threads=0)
    with pytest.raises(ValueError, match=r"^present must have shape"):
        loss(p, photos(0, 4, 4), present=[True])


def test_wrong_options():
    p, image = noise(3, 4, 4), photos(4, 4)
    with raises(ValueError, "normalize must be one of 'pixels', 'elements', got 'batch'"):
        losses.constrain_to_boundary_loss(p, image, normalize="batch")
    with raises(ValueError, "threads must be at least 1, got 0"):
        losses.constrain_to_boundary_loss(p, image, threads=0)
    with pytest.raises(ValueError, match=r"^params must be .*'sce'"):
        losses.constrain_to_boundary_loss(p, image, "sce")
    with pytest.raises(TypeError, match="positional argument"):
        losses.constrain_to_boundary_loss(p, image, "sec", None)
