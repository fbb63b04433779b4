"""Modules with the calls of published code, against what that code computes."""

import re

import numpy as np
import pytest
from common import needs

torch = needs("torch")

import cuekit  # noqa: E402
from cuekit import nn, reference  # noqa: E402 - nn needs torch

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def batch(height, width, seed=0):
    """Photos as training code has them, after undoing the normalisation; and the rest of a call."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (2, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    photos = patches[:, rows[:, None], columns] + rng.integers(-6, 7, (2, height, width, 3))
    photos = torch.from_numpy(photos.clip(0, 255)).float()
    images = ((photos - MEAN) / STD * STD + MEAN).movedim(-1, 1).contiguous()
    assert not torch.equal(images, images.round())
    segmentations = torch.from_numpy(rng.normal(size=(2, 5, height, width))).softmax(1).float()
    rois = torch.zeros(2, height, width)
    rois[0], rois[1, 2:, 1:-2] = 1, 1
    labels = torch.from_numpy(rng.choice([0, 1, 4, 255], (2, 1, height, width)).astype(np.uint8))
    return images, segmentations, rois, labels


def published(images, segmentations, rois, labels, weight, srgb, sxy, scale):
    """The loss and its gradient, from the formula, with the oracle's lattice in float64."""
    resize = torch.nn.functional.interpolate
    options = {"scale_factor": scale, "recompute_scale_factor": True}
    segmentations = segmentations.double().requires_grad_()
    small = resize(segmentations, mode="bilinear", align_corners=False, **options)
    photos = resize(images, **options).round().byte().movedim(1, -1).numpy()
    inside = resize(rois[:, None], **options).double()
    s = (small * inside).detach()
    similar = torch.stack(
        [
            torch.from_numpy(reference.bilateral_filter(v, photo, sxy * scale, srgb, False))
            for v, photo in zip(s.numpy(), photos, strict=True)
        ]
    )
    gate = torch.ones_like(inside)
    if labels is not None:
        gate = (inside - small.detach().max(1, keepdim=True).values).clamp(min=0)
        gate[resize(labels, **options) == 255] = 1
    count = len(images)
    value = -weight * (s * gate * similar).sum() / count
    slope = -2 * weight * gate * similar * inside / count
    (gradient,) = torch.autograd.grad(small, segmentations, slope)
    return value, gradient


@pytest.mark.parametrize("size", [(20, 24), (21, 25), (17, 9)])
@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("gate", [True, False])
def test_dense_energy_loss_is_the_published_one(size, scale, gate):
    images, segmentations, rois, labels = batch(*size)
    labels = labels if gate else None
    layer = nn.DenseEnergyLoss(weight=1e-2, sigma_rgb=15, sigma_xy=100, scale_factor=scale)
    leaf = segmentations.clone().requires_grad_()
    loss = layer(images, leaf, rois, labels) if gate else layer(images, leaf, rois)
    loss.backward()
    value, gradient = published(images, segmentations, rois, labels, 1e-2, 15, 100, scale)
    assert loss.shape == (1,)
    assert loss.dtype == torch.float32
    # Float32 filters and sums.
    torch.testing.assert_close(loss.item(), value.item(), rtol=1e-5, atol=0)
    tolerance = 5e-6 * float(gradient.abs().max())
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=tolerance)


def test_what_training_code_passes():
    """Labels as they come, photos of bytes, no region; the arguments stay."""
    images, segmentations, rois, labels = batch(20, 24)
    layer = nn.DenseEnergyLoss(1e-2, 15, 100, 0.5)
    expected = layer(images, segmentations, rois, labels)
    before = [each.clone() for each in (images, segmentations, rois, labels)]
    for seg_label in (labels.float(), labels.long(), labels[:, 0], labels.int()):
        assert layer(images, segmentations, rois, seg_label) == expected
    assert layer(images.round().byte(), segmentations, rois, labels) == expected
    assert layer(images.double(), segmentations, rois.bool(), labels) == expected
    whole = layer(images, segmentations, torch.ones_like(rois), labels)
    assert layer(images, segmentations, None, labels) == whole
    for each, was in zip((images, segmentations, rois, labels), before, strict=True):
        assert torch.equal(each, was)
    images.requires_grad_()  # as by accident
    assert layer(images, segmentations, rois, labels) == expected


def test_settings_are_shown():
    layer = nn.DenseEnergyLoss(weight=1e-7, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
    shown = "DenseEnergyLoss(sigma_rgb=15, sigma_xy=100, weight=1e-07, scale_factor=0.5)"
    assert repr(layer) == shown
    assert not list(layer.parameters())


def test_normalised_images_are_refused():
    images, segmentations, rois, labels = batch(8, 8)
    layer = nn.DenseEnergyLoss(1e-7, 15, 100, 0.5)
    normalised = (images - MEAN[:, None, None]) / STD[:, None, None]
    with pytest.raises(ValueError, match=r"^images must have levels from 0 to 255, got -2.*undo"):
        layer(normalised, segmentations, rois, labels)
    with pytest.raises(ValueError, match=r"^images must have levels from 0 to 255, got nan to nan"):
        layer(images * torch.nan, segmentations, rois, labels)
    with pytest.warns(UserWarning, match=r"^images should have levels from 0 to 255, got none ab"):
        layer(images / 256, segmentations, rois, labels)
    layer(torch.zeros_like(images), segmentations, rois, labels)


def test_wrong_arguments():
    images, segmentations, rois, labels = batch(8, 8)
    layer = nn.DenseEnergyLoss(1e-7, 15, 100, 0.5)
    for wrong in (images[0], images.movedim(1, -1), images[:, :2]):
        message = re.escape(f"images must have shape (N, 3, H, W), got {tuple(wrong.shape)}")
        with pytest.raises(ValueError, match=f"^{message}"):
            layer(wrong, segmentations, rois, labels)
    with pytest.raises(ValueError, match=r"^labels must have shape \(2, 8, 8\) to match"):
        layer(images, segmentations, rois, labels[:1])
    with pytest.raises(ValueError, match=r"^roi must have shape \(2, 8, 8\) to match"):
        layer(images, segmentations, rois[:1], labels)
    with pytest.raises(ValueError, match=r"^probabilities must be at least 0, got -0.99"):
        layer(images, segmentations - 1, rois, labels)


LEARNED = ("nothing", "weights", "classes", "matrices")


def crf_inputs(size=(12, 15), classes=5):
    rng = np.random.default_rng(2)
    photos = batch(*size)[0].round().byte()
    logits = torch.from_numpy(rng.normal(size=(2, classes, *size)).astype(np.float32))
    return logits.requires_grad_(), photos


@pytest.mark.parametrize("learned", LEARNED)
def test_dense_crf_is_the_function(learned):
    """At first. Float32 rounding: the path of any features sums in another order."""
    logits, photos = crf_inputs()
    layer = nn.DenseCRF(5, "deeplab", iterations=2, learned=learned)
    present = [[True, False, True, True], [True] * 4]
    options = {"present": present, "iterations": 2, "unary": "energies", "differentiable": True}
    of_q = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    results = []
    for q in (
        layer(logits, photos, present),
        cuekit.dense_crf(-logits, photos.movedim(1, -1), "deeplab", **options),
    ):
        (gradient,) = torch.autograd.grad(q, logits, of_q)
        results.append((q.detach(), gradient))
    tolerance = {"rtol": 0, "atol": 0 if learned == "nothing" else 1e-4}
    torch.testing.assert_close(results[0][0], results[1][0], **tolerance)
    torch.testing.assert_close(results[0][1], results[1][1], **tolerance)


@pytest.mark.parametrize("learned", LEARNED[1:])
def test_dense_crf_learns(learned):
    """Labels are what a CRF of other weights says; penalties stay symmetric."""
    logits, photos = crf_inputs()
    wanted = nn.DenseCRF(5, cuekit.CRFParams(1, 1, 6, 67, 3), learned="nothing")
    target = wanted(logits.detach(), photos).argmax(1)
    layer = nn.DenseCRF(5, cuekit.CRFParams(1, 1, 0.5, 67, 3), learned=learned)
    assert [each.ndim for each in layer.parameters()] == [LEARNED.index(learned) - 1] * 2
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = torch.nn.functional.nll_loss(layer(logits, photos).clamp(1e-6).log(), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    copy = nn.DenseCRF(5, cuekit.CRFParams(1, 1, 0.5, 67, 3), learned=learned)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(logits, photos), layer(logits, photos))


def test_dense_crf_takes_what_the_function_takes():
    logits, photos = crf_inputs()
    layer = nn.DenseCRF(5, cuekit.CRFParams(0, 1, 4, 20, 10))
    assert len(list(layer.parameters())) == 1  # no kernel of weight 0
    gray = layer(logits, photos[:, :1])
    assert gray.shape == logits.shape
    half = layer(logits.detach().bfloat16(), photos)
    assert torch.equal(half, layer(logits.detach().bfloat16().float(), photos))
    assert layer(logits[:0], photos[:0]).shape == (0, 5, 12, 15)
    layer.iterations = 0
    torch.testing.assert_close(layer(logits, photos), logits.softmax(1))
    assert repr(layer).startswith("DenseCRF(\n  num_classes=5, params=CRFParams(")


def test_dense_crf_names_what_is_wrong():
    logits, photos = crf_inputs()
    layer = nn.DenseCRF(5)
    with pytest.raises(ValueError, match=r"^logits must have shape \(B, 5, H, W\), got \(2, 4, 12"):
        layer(logits[:, :4], photos)
    with pytest.raises(ValueError, match=r"^images must have shape \(B, C, 12, 15\) to match log"):
        layer(logits, photos.movedim(1, -1))
    with pytest.raises(ValueError, match=r"^logits must be on the CPU, got a tensor on meta: "):
        layer(logits.to("meta"), photos.to("meta"))
    with pytest.raises(ValueError, match=r"^images must be on the CPU, got a tensor on meta: "):
        layer(logits, photos.to("meta"))
    with pytest.raises(ValueError, match=r"^learned must be one of 'nothing', 'weights', "):
        nn.DenseCRF(5, learned="all")
    with pytest.raises(ValueError, match=r"^num_classes must be at least 2, got 1"):
        nn.DenseCRF(1)
