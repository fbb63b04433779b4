"""Adapters with other people's call shapes: torch modules that replace published ones.

Replacing an import is all: constructors and calls take what those of the published modules take,
in their order and by their names. The work is done by cuekit's functions, whose documentation says
what they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cuekit.refine_local import Affinity, RefineParams, refine_local

try:
    import torch
except ImportError as error:
    raise ImportError("cuekit.nn needs torch: pip install 'cuekit[torch]'") from error


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
