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


def test_ops_without_a_gradient_say_so():
    with pytest.raises(ValueError, match=r"^cues requires grad, .* detach first"):
        cuekit.snap_cues(values(), SUPERPIXELS)
