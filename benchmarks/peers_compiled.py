"""Peers for torch.compile: it fuses their loops and writes C++, which needs a compiler."""

from __future__ import annotations

import os
from shutil import which
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from benchmarks.harness import Contender

if TYPE_CHECKING:
    from collections.abc import Callable

    Way: TypeAlias = Callable[..., torch.Tensor]

Tensor = torch.Tensor
# One kernel for the given sizes, or an error.
compiled: Callable[[Way], Way] = torch.compile(fullgraph=True, dynamic=False)


def contenders(
    name: str, call: Callable[[], Any], expected: Any, tolerance: float = 0.0, group: str = ""
) -> list[Contender]:
    """Return the contender in a list, which is empty without the C++ compiler."""
    found = which(os.environ.get("CXX", "g++"))
    return [Contender(name, call, expected, tolerance, group)] if found else []


# --- superpixel_mean: values (K, N) float32, labels (N,), out (K, N) ------------------------------


@compiled
def mean(values: Tensor, labels: Tensor, segments: int, out: Tensor) -> Tensor:
    """`index_add_` along the pixels, then `index_select`."""
    sums = torch.zeros(len(values), segments).index_add(1, labels, values)
    sizes = torch.zeros(segments).index_add(0, labels, torch.ones(len(labels)))
    return out.copy_((sums / sizes).index_select(1, labels))


# --- suppress_absent: scores (K, H, W) float32 ----------------------------------------------------


def _next_below(values: Tensor) -> Tensor:
    """Return the next smaller float32, as `nextafter` does, whose loop would not vectorise."""
    bits = values.view(torch.int32)
    below_zero = torch.where(values < 0, bits + 1, -(2**31) + 1)
    return torch.where(values > 0, bits - 1, below_zero).view(torch.float32)


@compiled
def suppress(scores: Tensor, present: tuple[bool, ...]) -> Tensor:
    """Take the maximum over the kept channels, then one minimum per absent channel."""
    kept = (True, *present)
    ceiling = torch.stack([scores[k] for k, keep in enumerate(kept) if keep]).amax(0)
    limit = torch.minimum(ceiling - 1e-4, _next_below(ceiling))
    # With `out=` the loops are not fused.
    return torch.stack(
        [scores[k] if keep else torch.minimum(scores[k], limit) for k, keep in enumerate(kept)]
    )


# --- background_map: two layers (D, h, w) ---------------------------------------------------------


@compiled
def background(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """Sum over the channels by products with ones: compiled sums over the first axis are slow."""
    sums = [torch.ones(1, len(maps)) @ maps.flatten(1) for maps in (first, second)]
    total = sums[0] + sums[1]
    low, high = torch.aminmax(total)
    return out.copy_(((total - low) / (high - low)).view_as(out))


# --- subtract_classes: maps and out (C, N); all classes present -----------------------------------


@compiled
def pairwise(maps: Tensor, out: Tensor) -> Tensor:
    """Subtract all pairs."""
    return out.copy_((maps[:, None] - maps).clamp(min=0).sum(1) / (len(maps) - 1))


@compiled
def strongest(maps: Tensor, out: Tensor) -> Tensor:
    """Find the two largest values by running maxima over the classes."""
    first, second = maps[0], torch.full_like(maps[0], -torch.inf)
    for own in maps[1:]:
        second = torch.maximum(second, torch.minimum(first, own))
        first = torch.maximum(first, own)
    return out.copy_((maps - second).clamp(min=0))


@compiled
def dcsm(maps: Tensor, out: Tensor) -> Tensor:
    """Subtract all pairs."""
    differences = (maps[:, None] - maps).clamp(min=0)
    sums = (differences * _quotient(differences.amax(2, keepdim=True))).tanh().sum(1)
    return out.copy_((sums * _quotient(sums.amax(1, keepdim=True))).tanh())


def _quotient(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, 3 / scale, 0)
