"""CUDA kernels. Arrays are C-contiguous and on `device`, whose stream they are put on."""

from collections.abc import Sequence

from cuekit._arrays import Device, DeviceArray, DeviceLabels

version: str  # nvcc's
architectures: str
max_label_channels: int

def subtract(
    maps: DeviceArray, present: DeviceArray, out: DeviceArray, mode: str, device: Device
) -> None: ...
def background_add(features: DeviceArray, total: DeviceArray, device: Device) -> None: ...
def background_normalize(total: DeviceArray, out: DeviceArray, device: Device) -> None: ...
def raw_foreground(
    maps: DeviceArray, present: DeviceArray, out: DeviceArray, threshold: float, device: Device
) -> None: ...
def raw_background(
    background: DeviceArray | None, out: DeviceArray, threshold: float, device: Device
) -> None: ...
def superpixel_mean(
    values: DeviceArray, superpixels: DeviceLabels, out: DeviceArray, device: Device
) -> None: ...
def snap(
    cues: DeviceArray, superpixels: DeviceLabels, out: DeviceArray, threshold: float, device: Device
) -> None: ...
def fuse(sets: Sequence[DeviceArray], out: DeviceArray, device: Device) -> None: ...
def resize(cues: DeviceArray, out: DeviceArray, rule: str, device: Device) -> None: ...
def labels(
    cues: DeviceArray,
    classes: Sequence[int],
    out: DeviceArray,
    overlap: str,
    background_overlap: str,
    unknown: int,
    device: Device,
) -> None: ...
def suppress(
    scores: DeviceArray, present: DeviceArray, out: DeviceArray, margin: float, device: Device
) -> None: ...
def dense_crf(
    scores: DeviceArray,
    image: DeviceArray,
    present: DeviceArray,
    out: DeviceArray,
    gaussian_weight: float,
    gaussian_sxy: float,
    bilateral_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    energies: bool,
    iterations: int,
    epsilon: float,
    half_storage: bool,
    device: Device,
) -> None: ...
def dlpack(capsule: object) -> tuple[int, tuple[int, ...], int, int]: ...
