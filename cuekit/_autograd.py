"""Gradients: how an op that has one is made known to torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cuekit._torch import needs_gradient


def differentiable(
    value: Any, forward: Callable[[Any], Any], backward: Callable[[Any], Any]
) -> Any:
    """Return forward(value), which autograd can differentiate with respect to `value`.

    Parameters
    ----------
    value : array or tensor
        The op's first argument. Autograd takes part only if it is a tensor that requires grad
        while grad mode is on.
    forward : callable
        The op as a function of `value` alone. Called while grad mode is off.
    backward : callable
        The gradient with respect to the result -> the gradient with respect to `value`. If it is
        made of functions that autograd can differentiate, the op has second derivatives.
    """
    if not needs_gradient(value):
        return forward(value)
    return _function().apply(value, forward, backward)


@lru_cache(maxsize=1)
def _function() -> Any:
    """Make the autograd function: on use, because it needs torch."""
    import torch

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(value: Any, forward: Callable[[Any], Any], _: Callable[[Any], Any]) -> Any:
            return forward(value)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
            ctx.backward_of_op = inputs[2]

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return ctx.backward_of_op(gradients[0]), None, None

    return Differentiable
