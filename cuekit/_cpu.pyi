"""CPU kernels. Arrays are C-contiguous; the functions of `cuekit` check and shape them.

Kernels that read floating values return False when one of them was not finite.
"""

from collections.abc import Sequence
from typing import Any

from numpy import bool_, float64, int32, int64, uint8
from numpy.typing import NDArray

Array = NDArray[Any]

compiler: str
cuda_missing: str  # why there is no _cuda; empty if there is

class SpatialLattice:
    def __init__(
        self, height: int, width: int, sxy: float, weight: float, threads: int
    ) -> None: ...

def instruction_set() -> str: ...
def set_instruction_set(name: str) -> None: ...
def subtract(maps: Array, present: NDArray[bool_], out: Array, mode: str, threads: int) -> bool: ...
def background_add(features: Array, total: NDArray[float64], threads: int) -> bool: ...
def background_normalize(total: NDArray[float64], out: Array, threads: int) -> bool: ...
def raw_foreground(
    maps: Array, present: NDArray[bool_], out: NDArray[bool_], threshold: float, threads: int
) -> bool: ...
def raw_background(
    background: Array, out: NDArray[bool_], threshold: float, threads: int
) -> bool: ...
def felzenszwalb(
    photos: Array,
    weights: NDArray[float64],
    out: NDArray[int32],
    scale: float,
    min_size: int,
    threads: int,
) -> bool: ...
def superpixel_mean(values: Array, superpixels: Array, out: Array, threads: int) -> bool: ...
def snap(
    cues: Array, superpixels: Array, out: NDArray[bool_], threshold: float, threads: int
) -> bool: ...
def snap_masks(
    cues: Array,
    masks: NDArray[uint8],
    out: NDArray[bool_],
    threshold: float,
    accept: str,
    threads: int,
) -> bool: ...
def fuse(sets: Sequence[NDArray[uint8]], out: NDArray[bool_], threads: int) -> None: ...
def resize(cues: NDArray[uint8], out: NDArray[bool_], rule: str, threads: int) -> None: ...
def labels(
    cues: NDArray[uint8],
    classes: NDArray[int64],
    out: Array,
    overlap: str,
    background_overlap: str,
    unknown: int,
    threads: int,
) -> None: ...
def suppress(
    scores: Array, present: NDArray[bool_], out: Array, margin: float, threads: int
) -> bool: ...
def dense_crf(
    scores: Array,
    image: NDArray[uint8],
    present: NDArray[bool_],
    out: Array,
    spatial: SpatialLattice | None,
    bilateral_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    energies: bool,
    iterations: int,
    epsilon: float,
    threads: int,
) -> bool: ...
