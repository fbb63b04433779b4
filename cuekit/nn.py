"""Modules with the constructors and calls of published code: to use them, replace an import.

They are adapters. What they compute, and on which terms, is said by the functions that they call.
"""

from __future__ import annotations

import warnings
from typing import Any

try:
    import torch
except ImportError as error:
    raise ImportError("cuekit.nn needs torch: pip install 'cuekit[torch]'") from error

from cuekit import losses


class DenseEnergyLoss(torch.nn.Module):
    """The module of RRM, AFA, ToCo, SeCo, DuPL; without labels, DenseCRFLoss of rloss.

    It calls `losses.dense_energy_loss`.

    Parameters
    ----------
    weight : float
        Factor of the loss.
    sigma_rgb : float
        Standard deviation of the filter in levels of each colour channel.
    sigma_xy : float
        Its standard deviation in pixels of the images as they are given.
    scale_factor : float
        The loss is computed on images of this fraction of the size.

    Notes
    -----
    The call is ``(images, segmentations, ROIs, seg_label)``:

    - images (N, 3, H, W), floating or uint8: levels from 0 to 255, as after undoing a
      normalisation. They are rounded to whole numbers, which these levels are but for rounding;
      others move by at most half a level. On the CPU, levels outside 0 to 255 raise, because most
      likely they are still normalised.
    - segmentations (N, K, H, W), probabilities.
    - ROIs (N, H, W) of 0 and 1, in the published code floating; None is all.
    - seg_label (N, 1, H, W), or (N, H, W), with 255 for pixels without a label; None, or left out,
      is the loss without a gate.

    The result has one element, shape (1,), as in the published code, and is on the device of the
    segmentations. Other arguments are moved there, which the published code does, too. Sizes are
    scaled as with ``recompute_scale_factor=True``, as ToCo does; for odd sizes other code samples
    slightly differently.

    Examples
    --------
    >>> import torch
    >>> from cuekit.nn import DenseEnergyLoss
    >>> loss_layer = DenseEnergyLoss(weight=1e-7, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
    >>> segmentations = torch.full((1, 2, 4, 6), 0.5)
    >>> loss_layer(
    ...     torch.zeros(1, 3, 4, 6), segmentations, torch.ones(1, 4, 6), torch.zeros(1, 1, 4, 6)
    ... ).shape
    torch.Size([1])
    """

    def __init__(
        self, weight: float, sigma_rgb: float, sigma_xy: float, scale_factor: float
    ) -> None:
        super().__init__()
        self.weight = weight
        self.sigma_rgb = sigma_rgb
        self.sigma_xy = sigma_xy
        self.scale_factor = scale_factor

    def forward(
        self,
        images: torch.Tensor,
        segmentations: torch.Tensor,
        ROIs: torch.Tensor | None,  # noqa: N803 - the published name
        seg_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss."""
        device = segmentations.device
        labels = seg_label
        if labels is not None:
            labels = labels.to(device).long()
            if labels.ndim == 4:
                labels = labels.squeeze(1)
        loss = losses.dense_energy_loss(
            segmentations,
            _levels(images.to(device)),
            sxy=self.sigma_xy,
            srgb=self.sigma_rgb,
            scale=self.scale_factor,
            weight=self.weight,
            roi=None if ROIs is None else ROIs.to(device),
            labels=labels,
        )
        return loss.reshape(1)

    def extra_repr(self) -> str:
        """Show the settings."""
        names = ("sigma_rgb", "sigma_xy", "weight", "scale_factor")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _levels(images: torch.Tensor) -> torch.Tensor:
    """Return images (N, 3, H, W) as photos (N, H, W, 3) of uint8."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
    images = images.detach()
    if images.dtype != torch.uint8:
        seen: Any = losses._values(images)
        if seen is not None and seen.size:
            low, high = float(seen.min()), float(seen.max())
            if not (low >= -0.5 and high <= 255.5):  # not for NaN either
                raise ValueError(
                    f"images must have levels from 0 to 255, got {low:g} to {high:g}: undo the "
                    "normalisation first"
                )
            if 0 < high <= 1 and (seen % 1 != 0).any():
                warnings.warn(
                    "images should have levels from 0 to 255, got none above 1: multiply by 255",
                    stacklevel=4,
                )
        images = images.round().clamp(0, 255).byte()
    return images.movedim(1, -1)
