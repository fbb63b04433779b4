"""The only file that knows NumPy from torch: adopt what comes in, return the same kind.

Adopting never copies: the result is a NumPy view of the caller's memory.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _torch() -> Any:
    """Torch if the caller has imported it (a tensor cannot exist otherwise), else None."""
    return sys.modules.get("torch")


def is_tensor(value: object) -> bool:
    """Tell whether `value` is a torch tensor."""
    torch = _torch()
    # While another thread is still importing torch, the module has no Tensor yet.
    tensor = getattr(torch, "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def adopt(value: Any, name: str) -> Array:
    """View a NumPy array or a CPU torch tensor as a NumPy array.

    Raises
    ------
    TypeError
        If it is neither, or of a kind NumPy cannot view.
    ValueError
        If it is a tensor on another device, or one that requires grad while grad mode is on.
    """
    if is_tensor(value):
        return _adopt_tensor(value, name)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain NumPy array, got a masked array; fill it first")
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}"
        )
    if not value.dtype.isnative:
        raise TypeError(f"{name} must have native byte order, got dtype {value.dtype.str}")
    return value.view(np.ndarray)


def _adopt_tensor(tensor: Any, name: str) -> Array:
    torch = _torch()
    if tensor.device.type != "cpu":
        raise ValueError(
            f"{name} must be on the CPU, got a tensor on {tensor.device}: this version of cuekit "
            "has no kernels for other devices and moves nothing by itself; call .cpu() first"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires grad, and this function has no gradient: detach first, "
            f"or call it under torch.no_grad()"
        )
    if tensor.dtype is torch.bfloat16:
        raise TypeError(
            f"{name} must have a dtype that NumPy knows, got bfloat16; call .float() first"
        )
    if tensor.is_neg() or tensor.is_conj():
        raise TypeError(f"{name} must not be a lazy view; call .resolve_neg().resolve_conj() first")
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must have a dtype that NumPy knows, got {tensor.dtype}") from error
    return array


def like(result: Array, first: Any) -> Any:
    """Return `result` in the framework of the caller's first argument, without a copy."""
    return _torch().from_numpy(result) if is_tensor(first) else result
