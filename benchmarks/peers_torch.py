"""Peers in torch alone, for the CPU and for GPUs: `gpu.py` uses them too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cuekit.refine_local import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Tensor = torch.Tensor

# --- refine_local: maps (B, C, h, w), photos (B, channels, H, W) -> (B, C, H, W) ------------------

STEPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def gather_neighbours(planes: Tensor, dilations: Sequence[int], *, own: bool = False) -> Tensor:
    """Return (B, C, neighbours, H, W), by convolutions as the published modules do it.

    With `own` the pixel itself is there too, once per dilation.
    """
    batch, channels, height, width = planes.shape
    chosen = [3 * (y + 1) + x + 1 for y, x in [*STEPS, *([(0, 0)] if own else [])]]
    kernel = torch.eye(9, dtype=planes.dtype, device=planes.device)[chosen].view(-1, 1, 3, 3)
    single = planes.reshape(batch * channels, 1, height, width)
    parts = [
        functional.conv2d(functional.pad(single, [d] * 4, mode="replicate"), kernel, dilation=d)
        for d in dilations
    ]
    return torch.cat(parts, 1).view(batch, channels, -1, height, width)


def neighbour_weights(photos: Tensor, affinity: str, dilations: Sequence[int]) -> Tensor:
    """Return (B, 1, neighbours, H, W)."""
    around = gather_neighbours(photos, dilations)
    distance = (around - photos[:, :, None]).abs()
    if affinity == "pamr":
        deviation = gather_neighbours(photos, dilations, own=True).std(2, keepdim=True)
        return (-distance / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    colour = -((distance / (around.std(2, keepdim=True) + 1e-8) / 0.3) ** 2)
    steps = torch.tensor(STEPS, dtype=photos.dtype, device=photos.device).norm(dim=1)
    away = torch.cat([d * steps for d in dilations])
    position = -((away / (away.std() + 1e-8) / 0.3) ** 2)
    return colour.mean(1, keepdim=True).softmax(2) + 0.01 * position.softmax(0)[:, None, None]


def _resized(maps: Tensor, photos: Tensor) -> Tensor:
    size = photos.shape[-2:]
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)


def refine_published(maps: Tensor, photos: Tensor, preset: str) -> Tensor:
    """Use the operations of the published modules: all neighbours of all maps in one tensor."""
    params = PRESETS[preset]
    maps = _resized(maps, photos)
    weights = neighbour_weights(photos, params.affinity, params.dilations)
    for _ in range(params.iterations):
        maps = (gather_neighbours(maps, params.dilations) * weights).sum(2)
    return maps


def refine_slices(maps: Tensor, photos: Tensor, preset: str) -> Tensor:
    """Use views of padded maps, one neighbour after the other: small temporaries."""
    params = PRESETS[preset]
    maps = _resized(maps, photos)
    weights = neighbour_weights(photos, params.affinity, params.dilations)
    height, width = maps.shape[-2:]
    reach = max(params.dilations)
    for _ in range(params.iterations):
        padded = functional.pad(maps, [reach] * 4, mode="replicate")
        total = torch.zeros_like(maps)
        for n, (dy, dx) in enumerate((d * y, d * x) for d in params.dilations for y, x in STEPS):
            view = padded[..., reach + dy :, reach + dx :][..., :height, :width]
            total.addcmul_(view, weights[:, :, n])
        maps = total
    return maps


REFINE: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "torch, as published": refine_published,
    "torch, slices": refine_slices,
}
