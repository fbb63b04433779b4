"""Torch modules: replacements of published ones, and the dense CRF as a layer.

Of `PAR`, `PAMR` and `DenseEnergyLoss`, replacing an import is all: constructors and calls take what
those of the published modules take, in their order and by their names. `DenseCRF` has a call of its
own. The work is done by cuekit's functions, whose documentation says what they compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from cuekit._checks import check_choice, check_integer
from cuekit.crf import CRFParams, check_iterations, dense_crf, params_of
from cuekit.crf_features import CRFKernel, dense_crf_features, photo_kernels
from cuekit.refine_local import Affinity, RefineParams, refine_local

try:
    import torch
except ImportError as error:
    raise ImportError("cuekit.nn needs torch: pip install 'cuekit[torch]'") from error

from cuekit import losses

Learned: TypeAlias = Literal["nothing", "weights", "classes", "matrices"]


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


class DenseCRF(torch.nn.Module):
    """CRF-as-RNN: the dense CRF as a layer of a network, trained with it.

    Parameters
    ----------
    num_classes : int
        K, background included.
    params : str or CRFParams, optional
        Widths of the two kernels, which stay, and their weights to start from; a kernel of weight
        0 is left out.
    iterations : int, optional
        Steps of the mean field. The paper trains with 5 and tests with 10: set the attribute.
    learned : {"nothing", "weights", "classes", "matrices"}, optional
        What of each kernel is a parameter: nothing, its weight, a weight of each class, or a matrix
        of penalties for pairs of classes. All start as the weight of `params`.

    Attributes
    ----------
    compatibilities : torch.nn.ParameterList
        The parameters of the smoothness kernel and of the appearance kernel. Of a matrix the
        symmetric half, (M + M^T) / 2, is used.

    Notes
    -----
    ``module(logits, images, present=None)`` takes logits (B, K, H, W) of a network, or logarithms
    of probabilities, photos (B, C, H, W) in the unit of `bilateral_srgb`, and tags (B, K - 1), on
    the CPU, and returns probabilities Q (B, K, H, W). It is `cuekit.dense_crf` with
    ``differentiable=True``, or with parameters `cuekit.dense_crf_features` of the photos' features,
    which takes 1.3 to 1.5 times as long; the fastest photos are RGB of uint8. It uses as many
    threads as torch does. Unlike the layer of [1]_, matrices are symmetric, and kernels are
    normalised symmetrically.

    References
    ----------
    .. [1] S. Zheng et al., "Conditional random fields as recurrent neural networks", ICCV 2015,
       arXiv:1502.03240.

    Examples
    --------
    >>> import torch
    >>> from cuekit.nn import DenseCRF
    >>> layer = DenseCRF(3, "deeplab", learned="matrices")
    >>> logits = torch.zeros(1, 3, 4, 6, requires_grad=True)
    >>> q = layer(logits, torch.zeros(1, 3, 4, 6, dtype=torch.uint8))
    >>> q[:, 0].mean().backward()
    >>> logits.grad.shape, [each.grad.shape for each in layer.compatibilities]
    (torch.Size([1, 3, 4, 6]), [torch.Size([3, 3]), torch.Size([3, 3])])
    """

    def __init__(
        self,
        num_classes: int,
        params: str | CRFParams = "deeplab",
        *,
        iterations: int = 5,
        learned: Learned = "weights",
    ) -> None:
        super().__init__()
        self.num_classes = check_integer(num_classes, "num_classes", minimum=2)
        self.params = params_of(params)
        self.iterations = check_iterations(iterations)
        self.learned = check_choice(learned, "learned", get_args(Learned))
        weights = (self.params.gaussian_weight, self.params.bilateral_weight)
        self.compatibilities = torch.nn.ParameterList(
            torch.nn.Parameter(self._compatibility(weight))
            for weight in weights
            if weight > 0 and learned != "nothing"
        )

    def _compatibility(self, weight: float) -> torch.Tensor:
        if self.learned == "weights":
            return torch.tensor(weight)
        of_classes = torch.full((self.num_classes,), weight)
        return of_classes if self.learned == "classes" else -torch.diag(of_classes)

    def forward(
        self, logits: torch.Tensor, images: torch.Tensor, present: Any = None
    ) -> torch.Tensor:
        """Refine `logits` (B, K, H, W) by photos (B, C, H, W)."""
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must have shape (B, {self.num_classes}, H, W), got {tuple(logits.shape)}"
            )
        if images.ndim != 4 or images.shape[2:] != logits.shape[2:]:
            raise ValueError(
                f"images must have shape (B, C, {logits.shape[2]}, {logits.shape[3]}) to match "
                f"logits, got {tuple(images.shape)}"
            )
        for name, tensor in (("logits", logits), ("images", images)):
            if tensor.device.type != "cpu":
                raise ValueError(
                    f"{name} must be on the CPU, got a tensor on {tensor.device}: the CRF's "
                    "gradient has no kernel for other devices"
                )
        energies = -(logits.float() if logits.dtype == torch.bfloat16 else logits)
        photos = images.detach().movedim(1, -1)
        options: dict[str, Any] = {
            "present": present,
            "iterations": self.iterations,
            "unary": "energies",
            "differentiable": True,
            "threads": torch.get_num_threads(),
        }
        if self.learned == "nothing" or len(logits) == 0:
            return dense_crf(energies, photos, self.params, **options)
        each = [photo_kernels(photo, self.params) for photo in photos]
        kernels = []
        for f, compatibility in enumerate(self.compatibilities):
            features = torch.stack([torch.from_numpy(own[f].features.copy()) for own in each])
            symmetric = (
                compatibility if compatibility.ndim < 2 else ((compatibility + compatibility.T) / 2)
            )
            kernels.append(CRFKernel(features, symmetric))
        return dense_crf_features(energies.flatten(2), kernels, **options).reshape(logits.shape)

    def extra_repr(self) -> str:
        """Show the settings."""
        names = ("num_classes", "params", "iterations", "learned")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


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
