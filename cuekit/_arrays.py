"""The only file that knows NumPy from torch from CuPy: adopt what comes in, return the same kind.

Adopting never copies: the result is a view of the caller's memory, of NumPy's on the CPU and a
`DeviceArray` on a CUDA device.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Protocol

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


def is_on_cuda(tensor: Any) -> bool:
    """Tell whether a torch tensor lies on a CUDA device."""
    return bool(tensor.device.type == "cuda")


def is_cupy(value: object) -> bool:
    """Tell whether `value` is a CuPy array."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(value, kind)


# ---------------------------------------------------------------------------------- CUDA devices


class Device(Protocol):
    """A CUDA device as one library sees it: where it allocates, and on which stream it works."""

    index: int

    def stream(self) -> int:
        """Return the handle of the caller's current stream."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return memory of any content."""

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return zeros."""

    def true(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return bools that are all set."""

    def allocate(self, nbytes: int) -> DeviceArray:
        """Return workspace, which goes back to the library's allocator when it is dropped."""

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        """Return the array, or a copy if it is not C-contiguous."""

    def from_host(self, array: Array) -> DeviceArray:
        """Copy a small array to the device."""

    def largest(self, array: DeviceArray) -> int:
        """Return the largest value of an array of integers; waits for the device."""

    def consecutive(self, array: DeviceArray) -> DeviceArray:
        """Return labels >= 0 renumbered from 0 per image, as int32; waits for the device."""

    def find_nonfinite(
        self, array: DeviceArray, present: DeviceArray | None
    ) -> tuple[int, ...] | None:
        """Return where a value (of a present class) is not finite; waits for the device."""

    def find_negative(self, array: DeviceArray) -> tuple[int, ...] | None:
        """Return where an integer is negative, or None; waits for the device."""

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        """Return one value; waits for the device."""


class DeviceArray:
    """An array on a CUDA device in NumPy's words; the kernels take its address.

    Attributes
    ----------
    owner : tensor or CuPy array
        What holds the memory.
    device : Device
    address : int
    shape : tuple of int
    dtype : numpy.dtype
    is_contiguous : bool
        Whether it is C-contiguous.
    """

    __slots__ = ("address", "device", "dtype", "is_contiguous", "keep", "owner", "shape")

    def __init__(
        self,
        owner: Any,
        device: Device,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        is_contiguous: bool = True,
        keep: Any = None,
    ) -> None:
        self.owner, self.device, self.address = owner, device, address
        self.shape, self.dtype, self.is_contiguous, self.keep = shape, dtype, is_contiguous, keep

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of items."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def view(self, dtype: npt.DTypeLike) -> DeviceArray:
        """Return the same memory as items of another type of the same size."""
        return self._like(self.shape, np.dtype(dtype))

    def reshape(self, *shape: Any) -> DeviceArray:
        """Return the same contiguous memory in another shape, one length of which may be -1."""
        lengths = list(shape[0] if isinstance(shape[0], tuple) else shape)
        if -1 in lengths:
            known = math.prod(length for length in lengths if length != -1)
            lengths[lengths.index(-1)] = self.size // known
        return self._like(tuple(lengths), self.dtype)

    def _like(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return DeviceArray(self.owner, self.device, self.address, shape, dtype, keep=self.keep)


AnyArray = Array | DeviceArray


@dataclass(frozen=True)
class DeviceLabels:
    """Superpixels on a device, and a number above all labels that count."""

    array: DeviceArray
    count: int


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
        """Describe a tensor."""
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

    def true(self, shape: tuple[int, ...]) -> DeviceArray:
        return self.adopt(self.torch.ones(shape, dtype=self.torch.bool, device=self.device))

    def allocate(self, nbytes: int) -> DeviceArray:
        return self.empty((nbytes,), np.uint8)

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        return array if array.is_contiguous else self.adopt(array.owner.contiguous())

    def from_host(self, array: Array) -> DeviceArray:
        # From pinned memory, or the copy would wait for the device.
        with self.torch.cuda.device(self.device):
            pinned = self.torch.from_numpy(np.array(array)).pin_memory()
            return self.adopt(pinned.to(self.device, non_blocking=True))

    def largest(self, array: DeviceArray) -> int:
        return int(array.owner.long().max())  # torch has few operations for wide unsigned integers

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

    def find_negative(self, array: DeviceArray) -> tuple[int, ...] | None:
        return self._first(array.owner.long() < 0)

    def _first(self, bad: Any) -> tuple[int, ...] | None:
        places = bad.nonzero()
        return tuple(places[0].tolist()) if len(places) else None

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        return array.owner[index].item()


class CupyDevice:
    """A CUDA device as CuPy sees it."""

    def __init__(self, index: int) -> None:
        self.cupy, self.index = sys.modules["cupy"], index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CupyDevice) and other.index == self.index

    def __hash__(self) -> int:
        return hash(self.index)

    def __str__(self) -> str:
        return f"CUDA device {self.index} (CuPy)"

    def adopt(self, array: Any) -> DeviceArray:
        """Describe an array, through DLPack."""
        from cuekit._backend import cuda_kernels

        # -1: the consumer works on the producer's own stream, and needs no other order.
        capsule = array.__dlpack__(stream=-1)
        address, shape, code, bits = cuda_kernels().dlpack(capsule)
        kinds = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode; 4 would be bfloat16
        if code not in kinds:
            raise TypeError(f"array must have a dtype that NumPy knows, got {array.dtype}")
        return DeviceArray(
            array,
            self,
            address,
            shape,
            np.dtype(f"{kinds[code]}{bits // 8}"),
            is_contiguous=bool(array.flags.c_contiguous),
            keep=capsule,
        )

    def _current(self) -> Any:
        """CuPy computes on the current device, whichever its arrays are on."""
        return self.cupy.cuda.Device(self.index)

    def stream(self) -> int:
        with self._current():
            handle: int = self.cupy.cuda.get_current_stream().ptr
            return handle

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.empty(shape, dtype))

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.zeros(shape, dtype))

    def true(self, shape: tuple[int, ...]) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.ones(shape, np.bool_))

    def allocate(self, nbytes: int) -> DeviceArray:
        return self.empty((nbytes,), np.uint8)

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        if array.is_contiguous:
            return array
        with self._current():
            return self.adopt(self.cupy.ascontiguousarray(array.owner))

    def from_host(self, array: Array) -> DeviceArray:
        with self._current():
            return self.adopt(self.cupy.asarray(array))

    def largest(self, array: DeviceArray) -> int:
        with self._current():
            return int(array.owner.max())

    def consecutive(self, array: DeviceArray) -> DeviceArray:
        with self._current():
            images = array.owner.reshape(-1, *array.shape[-2:])
            labels = [self.cupy.unique(image, return_inverse=True)[1] for image in images]
            stacked = self.cupy.stack([each.reshape(array.shape[-2:]) for each in labels])
            stacked = self.cupy.where(images >= 0, stacked, -1).astype(np.int32)
            return self.adopt(stacked.reshape(array.shape))

    def find_nonfinite(
        self, array: DeviceArray, present: DeviceArray | None
    ) -> tuple[int, ...] | None:
        with self._current():
            bad = ~self.cupy.isfinite(array.owner)
            return self._first(bad if present is None else bad & present.owner[..., None, None])

    def find_negative(self, array: DeviceArray) -> tuple[int, ...] | None:
        with self._current():
            return self._first(array.owner < 0)

    def _first(self, bad: Any) -> tuple[int, ...] | None:
        places = self.cupy.argwhere(bad)
        return tuple(int(i) for i in places[0]) if len(places) else None

    def item(self, array: DeviceArray, index: tuple[int, ...]) -> Any:
        return array.owner[index].item()


# --------------------------------------------------------------------------------------- adopting


def adopt(value: Any, name: str) -> Array:
    """View a NumPy array or a CPU torch tensor as a NumPy array.

    Raises
    ------
    TypeError
        If it is neither, or of a kind NumPy cannot view.
    ValueError
        If it is on another device, or a tensor that requires grad while grad mode is on.
    """
    array = adopt_anywhere(value, name)
    if isinstance(array, DeviceArray):
        raise ValueError(  # noqa: TRY004 - the type is right, the place is not
            f"{name} must be on the CPU, got an array on {array.device}: this function has no "
            "kernel for other devices, and nothing is moved; copy it to the CPU first"
        )
    return array


def adopt_anywhere(value: Any, name: str) -> AnyArray:
    """View an array or tensor on the CPU or on a CUDA device."""
    if is_tensor(value):
        return _adopt_tensor(value, name)
    if is_cupy(value):
        return CupyDevice(value.__dlpack_device__()[1]).adopt(value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain NumPy array, got a masked array; fill it first")
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}"
        )
    if not value.dtype.isnative:
        raise TypeError(f"{name} must have native byte order, got dtype {value.dtype.str}")
    return value.view(np.ndarray)


def _adopt_tensor(tensor: Any, name: str) -> AnyArray:
    torch = _torch()
    if tensor.device.type != "cpu" and not is_on_cuda(tensor):
        raise ValueError(
            f"{name} must be on the CPU or a CUDA device, got a tensor on {tensor.device}: cuekit "
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
        if is_on_cuda(tensor):
            return TorchDevice(tensor.device).adopt(tensor.detach())
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must have a dtype that NumPy knows, got {tensor.dtype}") from error
    return array


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: AnyArray) -> Any:
    """Return memory of any content where `beside` lies."""
    if isinstance(beside, DeviceArray):
        return beside.device.empty(shape, dtype)
    return np.empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: AnyArray) -> Any:
    """Return zeros where `beside` lies."""
    if isinstance(beside, DeviceArray):
        return beside.device.zeros(shape, dtype)
    return np.zeros(shape, dtype)


def like(result: AnyArray, first: Any) -> Any:
    """Return `result` in the framework of the caller's first argument, without a copy."""
    if isinstance(result, DeviceArray):
        return result.owner
    return _torch().from_numpy(result) if is_tensor(first) else result
