"""Gradients: how an op that has one is made known to torch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def differentiable_once(
    inputs: Sequence[Any], result: Any, backward: Callable[[Any], Sequence[Any]], name: str
) -> Any:
    """Return `result`, a tensor, which autograd then knows to depend on `inputs`.

    Parameters
    ----------
    inputs : sequence of tensor
    result : tensor
        What was computed from them, while grad mode was off.
    backward : callable
        The gradient with respect to the result -> those with respect to the inputs. They are
        constants for autograd: there are no second derivatives.
    name : str
        Of the function, for the error that says so.
    """
    return _function_once().apply(lambda: result, backward, name, *inputs)


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


@lru_cache(maxsize=1)
def _function_once() -> Any:
    import torch

    class Gradient(torch.autograd.Function):
        """What `backward` computes; it depends on the inputs, so that its gradient is refused."""

        @staticmethod
        def forward(
            gradient: Any, backward: Callable[[Any], Sequence[Any]], _: str, *__: Any
        ) -> Any:
            return tuple(backward(gradient))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
            ctx.name = inputs[2]

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(f"{ctx.name} has no second derivative: its gradient is a constant")

    class DifferentiableOnce(torch.autograd.Function):
        @staticmethod
        def forward(result: Callable[[], Any], *_: Any) -> Any:
            return result()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
            _, ctx.backward_of_op, ctx.name, *tensors = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            apply: Any = Gradient.apply
            of_inputs = apply(gradients[0], ctx.backward_of_op, ctx.name, *ctx.saved_tensors)
            return None, None, None, *of_inputs

    return DifferentiableOnce
