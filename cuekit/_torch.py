"""Torch tensors: viewed as NumPy arrays on the CPU, and as device arrays on CUDA devices.

Torch is never imported here. Where the caller has not imported it, there are no tensors.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from cuekit._device import AnyArray, Array, DeviceArray


def _torch() -> Any:
    return sys.modules.get("torch")


def is_tensor(value: object) -> bool:
    """Tell whether `value` is a torch tensor."""
    # While another thread is still importing torch, the module has no Tensor yet.
    tensor = getattr(_torch(), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def is_on_cuda(tensor: Any) -> bool:
    """Tell whether a torch tensor lies on a CUDA device."""
    return bool(tensor.device.type == "cuda")


def needs_gradient(value: object) -> bool:
    """Tell whether autograd would record an operation on `value`."""
    if not is_tensor(value):
        return False
    return bool(value.requires_grad and _torch().is_grad_enabled())  # type: ignore[attr-defined]


def from_numpy(array: Array) -> Any:
    """View a NumPy array as a tensor."""
    return _torch().from_numpy(array)


def adopt(tensor: Any, name: str) -> AnyArray:
    """View a tensor as an array, without a copy."""
    torch = _torch()
    if tensor.device.type != "cpu" and not is_on_cuda(tensor):
        raise ValueError(
            f"{name} must be on the CPU or a CUDA device, got a tensor on {tensor.device}: cuekit "
            "has no kernels for other devices and moves nothing by itself; call .cpu() first"
        )
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {kind}")
    if needs_gradient(tensor):
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
    if type(tensor).__name__ == "FakeTensor":
        raise TypeError(f"{name} must hold values, got a fake tensor")
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        raise ValueError(f"{name} has a tangent, and this function has no forward derivative")
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(tensor):  # within torch.func.grad: no gradient is needed
        tensor = functorch.get_unwrapped(tensor)
    if functorch.is_functorch_wrapped_tensor(tensor):
        raise TypeError(
            f"{name} must be a plain tensor, got one of torch.func.vmap: leading dimensions are a "
            "batch, so call the function on the whole batch"
        )
    try:
        if is_on_cuda(tensor):
            return TorchDevice(tensor.device).adopt(tensor.detach())
        with torch._C._DisableFuncTorch():
            array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must have a dtype that NumPy knows, got {tensor.dtype}") from error
    return array


class TorchDevice:
    """A CUDA device as torch sees it."""

    def __init__(self, device: Any) -> None:
        self.torch, self.device, self.index = _torch(), device, device.index or 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchDevice) and other.device == self.device

    def __hash__(self) -> int:
        return hash(self.device)

    def __str__(self) -> str:
        return str(self.device)

    def adopt(self, tensor: Any) -> DeviceArray:
        """View a tensor."""
        return DeviceArray(
            tensor,
            self,
            tensor.data_ptr(),
            tuple(tensor.shape),
            np.dtype(str(tensor.dtype).removeprefix("torch.")),
            is_contiguous=tensor.is_contiguous(),
        )

    def _dtype(self, dtype: npt.DTypeLike) -> Any:
        return getattr(self.torch, np.dtype(dtype).name)

    def stream(self) -> int:
        handle: int = self.torch.cuda.current_stream(self.device).cuda_stream
        return handle

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        return self.adopt(self.torch.empty(shape, dtype=self._dtype(dtype), device=self.device))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        return self.adopt(self.torch.zeros(shape, dtype=self._dtype(dtype), device=self.device))

    def ones(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        return self.adopt(self.torch.ones(shape, dtype=self._dtype(dtype), device=self.device))

    def allocate(self, nbytes: int) -> DeviceArray:
        return self.empty((nbytes,), np.uint8)

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        return array if array.is_contiguous else self.adopt(array.owner.contiguous())

    def from_host(self, array: Array) -> DeviceArray:
        # From pinned memory: from other memory the copy would synchronise.
        with self.torch.cuda.device(self.device):
            pinned = self.torch.from_numpy(np.array(array)).pin_memory()
            return self.adopt(pinned.to(self.device, non_blocking=True))

    def largest(self, array: DeviceArray) -> int:
        values = array.owner.long()  # torch has few operations for wide unsigned integers
        if array.dtype == np.uint64 and bool((values < 0).any()):  # 2**63 and above
            return int(values[values < 0].max()) + 2**64
        return int(values.max())

    def consecutive(self, array: DeviceArray) -> DeviceArray:
        images = array.owner.long().reshape(-1, *array.shape[-2:])
        labels = [self.torch.unique(image, return_inverse=True)[1] for image in images]
        stacked = self.torch.stack(labels).where(images >= 0, -1).to(self.torch.int32)
        return self.adopt(stacked.reshape(array.shape))

    def find_nonfinite(
        self, array: DeviceArray, present: DeviceArray | None
    ) -> tuple[int, ...] | None:
        bad = ~self.torch.isfinite(array.owner)
        return self._first(bad if present is None else bad & present.owner[..., None, None])

    def find_outside(
        self, array: DeviceArray, lowest: float, largest: float, *, allow_infinity: bool
    ) -> tuple[int, ...] | None:
        values = array.owner
        inside = (values >= lowest) & (values <= largest)
        return self._first(~(inside | (values == math.inf) if allow_infinity else inside))

    def find_all_infinite(self, array: DeviceArray, present: DeviceArray) -> tuple[int, ...] | None:
        infinite = array.owner == math.inf
        absent = ~present.owner[..., None, None]
        return self._first(infinite[..., 0, :, :] & (infinite[..., 1:, :, :] | absent).all(-3))

    def find_below(self, array: DeviceArray, least: int) -> tuple[int, ...] | None:
        return self._first(array.owner < least)

    def _first(self, bad: Any) -> tuple[int, ...] | None:
        indices = bad.nonzero()
        return tuple(indices[0].tolist()) if len(indices) else None

    def holds_masks(self, array: DeviceArray) -> bool:
        values = array.owner
        return bool((values <= 1).all() | ((values == 0) | (values == 255)).all())

    def holds_tags(self, array: DeviceArray) -> bool:
        return bool(((array.owner == 0) | (array.owner == 1)).all())

    def nonzero(self, array: DeviceArray) -> DeviceArray:
        return self.adopt(array.owner != 0)

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        return array.owner[index].item()
