"""What torch.compile calls: ops that training uses, registered with torch as custom ops.

Tracing a function of this package would end at the compiled core. So each of these functions calls
a custom op of its own name while it is traced. The op has a rule for shape and dtype, and a
gradient where the function has one. When it runs, it calls the function itself, which checks the
arguments and raises as always.

The ops are registered when the first of them is traced: importing this package does not import
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any


def compiling() -> bool:
    """Tell whether torch.compile is tracing this call."""
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    return compiler is not None and compiler.is_compiling()


def takes(value: Any) -> bool:
    """Tell whether a function of `value`, its first argument, is to call its custom op."""
    return compiling() and _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _tensor(value: Any, beside: Any) -> Any:
    """Return an argument that may be an array or a list as a tensor; None stays."""
    import torch

    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(value, device=beside.device)


def superpixel_mean(
    values: Any,
    superpixels: Any,
    num_superpixels: int | None,
    validate: bool,
    threads: int | None,
) -> Any:
    """Call the op of `cuekit.superpixel_mean`."""
    import torch

    _register_ops()
    return torch.ops.cuekit.superpixel_mean(
        values, _tensor(superpixels, values), num_superpixels, validate, threads
    )


def bilateral_filter(
    values: Any,
    image: Any,
    sxy: float,
    srgb: float,
    normalize: bool,
    adjoint: bool,
    validate: bool,
    threads: int | None,
) -> Any:
    """Call the op of `cuekit.bilateral_filter`, or of its adjoint."""
    import torch

    _register_ops()
    return torch.ops.cuekit.bilateral_filter(
        values, _tensor(image, values), sxy, srgb, normalize, adjoint, validate, threads
    )


def suppress_absent(
    scores: Any,
    present: Any,
    margin: float,
    validate: bool,
    threads: int | None,
) -> Any:
    """Call the op of `cuekit.suppress_absent`."""
    import torch

    _register_ops()
    return torch.ops.cuekit.suppress_absent(
        scores, _tensor(present, scores), margin, validate, threads
    )


def dense_crf(
    probabilities: Any,
    image: Any,
    params: Sequence[float],
    present: Any,
    iterations: int,
    tolerance: float | None,
    epsilon: float,
    unary: str,
    storage: str,
    validate: bool,
    threads: int | None,
) -> Any:
    """Call the op of `cuekit.dense_crf`, which has no gradient."""
    import torch

    if probabilities.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "probabilities requires grad, and this function has no gradient: detach first, "
            "or call it under torch.no_grad()"
        )
    _register_ops()
    return torch.ops.cuekit.dense_crf(
        probabilities,
        _tensor(image, probabilities),
        list(params),
        _tensor(present, probabilities),
        iterations,
        tolerance,
        epsilon,
        unary,
        storage,
        validate,
        threads,
    )


@lru_cache(maxsize=1)
def _register_once() -> None:
    import torch

    import cuekit
    from cuekit._checks import check_threads
    from cuekit.bilateral_filter import differentiable_filter
    from cuekit.crf import CRFParams
    from cuekit.suppress import gradient_of_suppression

    ops = torch.ops.cuekit

    def define(
        name: str, schema: str, run: Callable[..., Any], result_dtype: Callable[[Any], Any]
    ) -> Any:
        def without_gradient(*arguments: Any) -> Any:
            with torch.no_grad():
                return run(*arguments)

        def fake(first: Any, *_: Any) -> Any:
            return torch.empty(first.shape, dtype=result_dtype(first.dtype), device=first.device)

        op: Any = torch.library.custom_op(
            f"cuekit::{name}", without_gradient, mutates_args=(), schema=schema
        )
        op.register_fake(fake)
        return op

    def at_least_float32(dtype: Any) -> Any:
        return torch.float64 if dtype is torch.float64 else torch.float32

    # ---- superpixel_mean

    def mean(values: Any, superpixels: Any, count: Any, validate: Any, threads: Any) -> Any:
        return cuekit.superpixel_mean(
            values, superpixels, num_superpixels=count, validate=validate, threads=threads
        )

    def keep_superpixels(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
        _, superpixels, ctx.count, _, ctx.threads = inputs
        ctx.save_for_backward(superpixels)

    def mean_of_gradient(ctx: Any, gradient: Any) -> Any:
        (superpixels,) = ctx.saved_tensors
        result = ops.superpixel_mean(gradient, superpixels, ctx.count, False, ctx.threads)
        return result, None, None, None, None

    define(
        "superpixel_mean",
        "(Tensor values, Tensor superpixels, int? count, bool validate, int? threads) -> Tensor",
        mean,
        lambda dtype: dtype if dtype.is_floating_point else torch.float32,
    ).register_autograd(mean_of_gradient, setup_context=keep_superpixels)

    # ---- bilateral_filter

    def filtered(
        values: Any,
        image: Any,
        sxy: float,
        srgb: float,
        normalize: Any,
        adjoint: Any,
        validate: Any,
        threads: Any,
    ) -> Any:
        if adjoint:
            return differentiable_filter(
                values,
                image,
                sxy,
                srgb,
                normalize,
                adjoint=True,
                validate=validate,
                threads=check_threads(threads),
            )
        return cuekit.bilateral_filter(
            values,
            image,
            sxy=sxy,
            srgb=srgb,
            normalize=normalize,
            validate=validate,
            threads=threads,
        )

    def keep_image(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
        _, image, *ctx.settings, ctx.adjoint, _, ctx.threads = inputs
        ctx.save_for_backward(image)

    def adjoint_of_gradient(ctx: Any, gradient: Any) -> Any:
        (image,) = ctx.saved_tensors
        result = ops.bilateral_filter(
            gradient, image, *ctx.settings, not ctx.adjoint, False, ctx.threads
        )
        return result, *[None] * 7

    define(
        "bilateral_filter",
        "(Tensor values, Tensor image, float sxy, float srgb, bool normalize, bool adjoint, "
        "bool validate, int? threads) -> Tensor",
        filtered,
        at_least_float32,
    ).register_autograd(adjoint_of_gradient, setup_context=keep_image)

    # ---- suppress_absent

    def suppressed(scores: Any, present: Any, margin: Any, validate: Any, threads: Any) -> Any:
        return cuekit.suppress_absent(
            scores, present, margin=margin, validate=validate, threads=threads
        )

    def keep_scores(ctx: Any, inputs: Any, output: Any) -> None:
        scores, present, *_ = inputs
        ctx.save_for_backward(scores, present, output)

    def gradient_of_scores(ctx: Any, gradient: Any) -> Any:
        scores, present, output = ctx.saved_tensors
        return gradient_of_suppression(gradient, scores, present, output), *[None] * 4

    define(
        "suppress_absent",
        "(Tensor scores, Tensor? present, float margin, bool validate, int? threads) -> Tensor",
        suppressed,
        lambda dtype: dtype,
    ).register_autograd(gradient_of_scores, setup_context=keep_scores)

    # ---- dense_crf

    def refined(
        probabilities: Any,
        image: Any,
        params: Any,
        present: Any,
        iterations: Any,
        tolerance: Any,
        epsilon: Any,
        unary: Any,
        storage: Any,
        validate: Any,
        threads: Any,
    ) -> Any:
        return cuekit.dense_crf(
            probabilities,
            image,
            CRFParams.from_numbers(params),
            present=present,
            iterations=iterations,
            tolerance=tolerance,
            epsilon=epsilon,
            unary=unary,
            storage=storage,
            validate=validate,
            threads=threads,
        )

    define(
        "dense_crf",
        "(Tensor probabilities, Tensor image, float[] params, Tensor? present, int iterations, "
        "float? tolerance, float epsilon, str unary, str storage, bool validate, int? threads) "
        "-> Tensor",
        refined,
        at_least_float32,
    )


def _register_ops() -> None:
    """Register all ops, once."""
    _register_once()


# torch.compile calls it while it traces, instead of tracing it.
_register_ops._dynamo_marked_constant = True  # type: ignore[attr-defined]
