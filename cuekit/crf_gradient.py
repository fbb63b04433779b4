"""The gradient of the dense CRF: mean field unrolled, as in CRF-as-RNN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit import _torch
from cuekit._arrays import adopt, flat
from cuekit._autograd import differentiable_once
from cuekit._backend import cpu_kernels

if TYPE_CHECKING:
    from cuekit._kernels import CrfRecord


def check_tensor(probabilities: Any) -> None:
    """Refuse what autograd, or the gradient's kernel, does not know."""
    if not _torch.is_tensor(probabilities):
        raise TypeError(
            "differentiable=True needs torch tensors, got probabilities of type "
            f"{type(probabilities).__name__}"
        )
    if probabilities.device.type != "cpu":
        raise ValueError(
            "differentiable=True needs tensors on the CPU, got probabilities on "
            f"{probabilities.device}: the gradient has no kernel for other devices"
        )


def refuse_tolerance(tolerance: Any) -> None:
    """Refuse to stop early: how many steps there are would depend on the values."""
    if tolerance is not None:
        raise ValueError(f"tolerance must be None with differentiable=True, got {tolerance!r}")


def refuse_gradient(value: Any, name: str) -> None:
    """Say what the choices are where autograd would record a call without a gradient."""
    if _torch.needs_gradient(value):
        raise ValueError(
            f"{name} requires grad, and this function has no gradient unless differentiable=True: "
            "detach first, call it under torch.no_grad(), or, on the CPU, pass "
            "differentiable=True"
        )


def check_record(iterations: int, size: int) -> None:
    """Refuse more values than any memory has, whose number the kernels would not count."""
    if iterations * size >= 2**50:
        raise ValueError(
            "iterations must be fewer with differentiable=True, which keeps the result of each, "
            f"got {iterations} of {size} values"
        )


def unrolled(
    probabilities: Any,  # (..., K, H, W) or (..., K, N)
    compatibilities: Sequence[Any],
    refined: Callable[[list[CrfRecord]], Any],
    spatial_axes: int,
    *,
    energies: bool,
    epsilon: float,
    threads: int,
    name: str,
) -> Any:
    """Return what `refined` does, with its gradient.

    Parameters
    ----------
    probabilities : tensor
    compatibilities : sequence
        Of each kernel; those that are tensors that require grad get a gradient. May be empty.
    refined : callable
        Computes the result while grad mode is off, and appends the record of each image.
    """
    import torch

    records: list[CrfRecord] = []
    with torch.no_grad(), torch._C._DisableFuncTorch():
        result = refined(records)
    # Nothing that autograd keeps may refer to the result.
    shape, dtype = tuple(result.shape), str(result.dtype).removeprefix("torch.")
    channels = shape[-spatial_axes - 1]
    wide = probabilities.to(result.dtype)
    # What the kernel's gradient is with respect to. Its logits have other bits, and are not these.
    logits = -wide if energies else wide.clamp(epsilon, 1).log()
    wanted = [f for f, each in enumerate(compatibilities) if _torch.needs_gradient(each)]
    gains = [_gains(compatibilities[f], channels) for f in wanted]

    def backward(of_result: Any) -> list[Any]:
        of_logits = np.zeros(shape, dtype)
        of_gains: list[Any] = [None] * len(compatibilities)
        for f, table in zip(wanted, gains, strict=True):
            of_gains[f] = np.zeros((len(records), *table.shape))
        if records:
            images = len(records), channels, math.prod(shape[-spatial_axes:])
            given = flat(adopt(of_result, "gradient"), *images)
            cpu_kernels.crf_gradient(records, given, of_logits.reshape(images), of_gains, threads)
        return [
            torch.from_numpy(of_logits),
            *(
                torch.from_numpy(of_gains[f].sum(0)).to(table.dtype)
                for f, table in zip(wanted, gains, strict=True)
            ),
        ]

    return differentiable_once((logits, *gains), result, backward, name)


def _gains(compatibility: Any, channels: int) -> Any:
    """Return what the kernel makes of a compatibility: what a class adds to the logit of one."""
    return -compatibility if compatibility.ndim == 2 else compatibility.expand(channels)
