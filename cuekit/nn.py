"""Adapters with other people's call shapes: torch modules that replace published ones.

Replacing an import is all: constructors and calls take what those of the published modules take,
in their order and by their names. The work is done by cuekit's functions, whose documentation says
what they compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from cuekit.refine_local import Affinity, RefineParams, refine_local

try:
    import torch
except ImportError as error:
    raise ImportError("cuekit.nn needs torch: pip install 'cuekit[torch]'") from error

from cuekit import losses


class _LocalRefinement(torch.nn.Module):
    """What PAR and PAMR share: `refine_local` on tensors (B, C, h, w) and photos (B, 3, H, W)."""

    def __init__(self, affinity: Affinity, dilations: Sequence[int], num_iter: int) -> None:
        super().__init__()
        self.affinity = affinity
        self.dilations, self.num_iter = dilations, num_iter
        self._params()  # raises where they are wrong

    def _params(self) -> RefineParams:
        return RefineParams(self.affinity, self.dilations, self.num_iter)

    @torch.no_grad()
    def _refine(self, images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        # NumPy has no bfloat16. Every value of it is one of float32.
        wide = maps.float() if maps.dtype == torch.bfloat16 else maps
        photos = images.float() if images.dtype == torch.bfloat16 else images
        refined = refine_local(
            wide, photos, self._params(), channel_axis=-3, threads=torch.get_num_threads()
        )
        return refined.to(maps.dtype)

    def _load_from_state_dict(self, *_: Any) -> None:
        """Load nothing: a checkpoint may hold the constant kernels of the published module."""


class PAR(_LocalRefinement):
    """PAR as in AFA, ToCo, WeCLIP and others: ``PAR(num_iter=10, dilations=[...])(imgs, masks)``.

    Parameters
    ----------
    dilations : sequence of int
        Distances of the neighbours; the published settings are 1, 2, 4, 8, 12, 24.
    num_iter : int
        Number of steps.

    Notes
    -----
    ``module(imgs, masks)`` takes photos (B, 3, H, W) of any range and maps (B, C, h, w), on the CPU
    or a CUDA device, and returns maps (B, C, H, W) of the dtype of `masks`. The result does not
    require grad: the published code detaches it everywhere. On the CPU it uses as many threads as
    torch does. It is `cuekit.refine_local`, where the differences are documented.

    Examples
    --------
    >>> import torch
    >>> from cuekit.nn import PAR
    >>> par = PAR(num_iter=10, dilations=[1, 2, 4, 8, 12, 24])
    >>> par(torch.rand(2, 3, 20, 30), torch.rand(2, 21, 5, 7)).shape
    torch.Size([2, 21, 20, 30])
    """

    def __init__(self, dilations: Sequence[int], num_iter: int) -> None:
        super().__init__("par", dilations, num_iter)

    def forward(self, imgs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Refine `masks` (B, C, h, w) by `imgs` (B, 3, H, W)."""
        return self._refine(imgs, masks)


class PAMR(_LocalRefinement):
    """PAMR as in 1-stage-wseg, SCLIP and others: ``PAMR(num_iter, dilations)(x, mask)``.

    Parameters
    ----------
    num_iter : int, optional
        Number of steps.
    dilations : sequence of int, optional
        Distances of the neighbours.

    Notes
    -----
    As `PAR`, but for the weights and the order of the constructor's arguments.

    Examples
    --------
    >>> import torch
    >>> from cuekit.nn import PAMR
    >>> PAMR(10, dilations=[8, 16])(torch.rand(1, 3, 20, 30), torch.rand(1, 4, 20, 30)).shape
    torch.Size([1, 4, 20, 30])
    """

    def __init__(self, num_iter: int = 1, dilations: Sequence[int] = (1,)) -> None:
        super().__init__("pamr", dilations, num_iter)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Refine `mask` (B, C, h, w) by photos `x` (B, 3, H, W)."""
        return self._refine(x, mask)


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
