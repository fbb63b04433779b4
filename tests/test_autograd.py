"""Gradients: of the ops that have one, against finite differences."""

import numpy as np
import pytest
from common import needs

import cuekit

torch = needs("torch")

RNG = np.random.default_rng(0)
SUPERPIXELS = RNG.integers(0, 5, (2, 4, 6))


def values(requires_grad=True):
    return torch.from_numpy(RNG.normal(size=(2, 3, 4, 6))).requires_grad_(requires_grad)


def test_superpixel_mean_first_and_second_derivatives():
    def mean(maps):
        return cuekit.superpixel_mean(maps, SUPERPIXELS)

    assert torch.autograd.gradcheck(mean, values())
    # The op is linear, so its square is what has a second derivative.
    assert torch.autograd.gradgradcheck(lambda maps: mean(maps) ** 2, values())


def test_pixels_in_no_superpixel_keep_their_gradient():
    superpixels = SUPERPIXELS - 1  # about a fifth of the pixels
    outside = torch.from_numpy(superpixels < 0)[:, None].expand(2, 3, 4, 6)
    assert outside.any()

    def mean(maps):
        return cuekit.superpixel_mean(maps, superpixels)

    assert torch.autograd.gradcheck(mean, values())
    assert torch.autograd.gradgradcheck(lambda maps: mean(maps) ** 2, values())
    maps, weights = values(), values(requires_grad=False)
    (mean(maps) * weights).sum().backward()
    assert torch.equal(maps.grad[outside], weights[outside])
    assert torch.equal(maps.grad, mean(weights))


def test_the_result_is_that_without_a_gradient():
    maps = values()
    result = cuekit.superpixel_mean(maps, SUPERPIXELS, threads=2)
    assert result.requires_grad
    with torch.no_grad():
        plain = cuekit.superpixel_mean(maps, SUPERPIXELS)
    assert not plain.requires_grad
    assert torch.equal(result.detach(), plain)


def test_the_gradient_does_not_change_the_input_and_may_be_of_any_layout():
    maps = values()
    before = maps.detach().clone()
    weights = torch.from_numpy(RNG.normal(size=(6, 4, 3, 2))).permute(3, 2, 1, 0)
    (cuekit.superpixel_mean(maps, SUPERPIXELS) * weights).sum().backward()
    expected = cuekit.superpixel_mean(weights.contiguous(), SUPERPIXELS)
    assert torch.equal(maps.grad, expected)
    assert torch.equal(maps.detach(), before)


def test_wrong_arguments_are_named_with_a_gradient_too():
    with pytest.raises(ValueError, match=r"^superpixels must have shape \(2, 4, 6\) to match"):
        cuekit.superpixel_mean(values(), SUPERPIXELS[:1])
    with pytest.raises(TypeError, match=r"^values must have a dtype that NumPy knows, got bfloat"):
        cuekit.superpixel_mean(values().bfloat16(), SUPERPIXELS)


PHOTOS = RNG.integers(0, 256, (2, 4, 6, 3), np.uint8) // 8


@pytest.mark.parametrize("normalize", [False, True])
def test_bilateral_filter_first_and_second_derivatives(normalize):
    def filtered(maps):
        return cuekit.bilateral_filter(maps, PHOTOS, sxy=2, srgb=9, normalize=normalize)

    assert torch.autograd.gradcheck(filtered, values())
    assert torch.autograd.gradgradcheck(lambda maps: filtered(maps) ** 2, values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_gradient_of_the_bilateral_filter_has_the_dtype_of_the_values(dtype):
    maps = values(requires_grad=False)
    wide = maps.clone().requires_grad_()
    cuekit.bilateral_filter(wide, PHOTOS, sxy=2, srgb=9).square().sum().backward()
    maps = maps.to(dtype).requires_grad_()
    result = cuekit.bilateral_filter(maps, PHOTOS, sxy=2, srgb=9)
    assert result.dtype == torch.float32
    result.square().sum().backward()
    assert maps.grad.dtype == dtype
    error = torch.finfo(dtype).eps * wide.grad.abs().max()
    torch.testing.assert_close(maps.grad.double(), wide.grad, rtol=0, atol=float(8 * error))


TAGS = np.array([[True, False], [False, False]])


@pytest.mark.parametrize("margin", [0, 1e-4, 0.5])
@pytest.mark.parametrize("present", [None, TAGS, TAGS.tolist(), torch.from_numpy(TAGS)])
def test_suppress_absent_first_and_second_derivatives(present, margin):
    def suppressed(scores):
        return cuekit.suppress_absent(scores, present, margin=margin)

    scores = values()  # all different, and further apart than gradcheck's steps
    assert torch.autograd.gradcheck(suppressed, scores)
    assert torch.autograd.gradgradcheck(lambda maps: suppressed(maps) ** 2, scores)


def test_the_ceiling_gets_the_gradient_of_capped_classes():
    scores = torch.tensor([0.2, 0.7, 0.7, 0.9, 0.1]).reshape(5, 1, 1).requires_grad_()
    result = cuekit.suppress_absent(scores, [True, True, False, False])
    (result.flatten() * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])).sum().backward()
    # The first of the two highest classes sets the ceiling of class 3.
    assert scores.grad.flatten().tolist() == [1, 10, 4, 0, 16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_gradient_of_suppress_absent_has_the_dtype_of_the_scores(dtype):
    scores = values(requires_grad=False).to(dtype).requires_grad_()
    result = cuekit.suppress_absent(scores, TAGS)
    assert result.dtype == dtype
    with torch.no_grad():
        assert torch.equal(result, cuekit.suppress_absent(scores, TAGS))
    result.sum().backward()
    assert scores.grad.dtype == dtype
    assert torch.equal(scores.grad.sum(1), torch.full((2, 4, 6), 3, dtype=dtype))


def test_gradients_leave_no_memory_behind():
    """Nothing refers to a result but its caller."""
    import gc
    import weakref

    gc.disable()
    try:
        for call in (
            lambda maps: cuekit.suppress_absent(maps, TAGS),
            lambda maps: cuekit.bilateral_filter(maps, PHOTOS, sxy=2, srgb=9),
        ):
            result = call(values())
            alive = weakref.ref(result.grad_fn)
            del result
            assert alive() is None
    finally:
        gc.enable()


def test_gradients_on_a_device():
    """The kernels of a device, and torch's operations on its tensors."""
    import emulated

    if not emulated.wanted():
        pytest.skip("needs a C++ compiler and pybind11")
    maps = values(requires_grad=False).float()
    photos, tags = torch.from_numpy(PHOTOS), torch.from_numpy(TAGS)
    for call in (
        lambda maps: cuekit.suppress_absent(maps, tags),
        lambda maps: cuekit.bilateral_filter(maps, photos, sxy=2, srgb=9, normalize=True),
    ):
        gradients = []
        for place in (None, emulated.torch_on_device):
            leaf = maps.clone().requires_grad_()
            if place is None:
                call(leaf).square().sum().backward()
            else:
                with place():
                    call(leaf).square().sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_ops_without_a_gradient_say_so():
    with pytest.raises(ValueError, match=r"^cues requires grad, .* detach first"):
        cuekit.snap_cues(values(), SUPERPIXELS)
