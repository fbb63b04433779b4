"""Modules with the calls of published code, against what that code computes."""

import re

import numpy as np
import pytest
from common import needs

torch = needs("torch")

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
