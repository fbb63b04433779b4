"""Every kernel's signature, once: csrc/bind.cpp has the same names in the same order.

Arrays are C-contiguous and on the backend's device; their layouts stand in
csrc/include/cuekit/<op>.h. `context` is what `_backend.backend` returns. Kernels that read floating
values return False if they found one that is not finite, `bilateral_filter`, `crf` and
`random_walk` also for others that their headers name; CUDA kernels do not check and return True.
"""

from collections.abc import Sequence
from typing import Protocol

from cuekit._device import AnyArray, Array, Context, Device, DeviceArray
from cuekit.crf import Storage
from cuekit.crf_features import Normalization
from cuekit.labels import BackgroundOverlap, Overlap
from cuekit.refine_local import Affinity
from cuekit.resize import Rule
from cuekit.snap import Accept
from cuekit.subtract import Mode

class Kernels(Protocol):
    """What both backends have."""

    def subtract(
        self, maps: AnyArray, present: AnyArray, out: AnyArray, mode: Mode, context: Context
    ) -> bool: ...
    def background_add(self, features: AnyArray, total: AnyArray, context: Context) -> bool: ...
    def background_normalize(self, total: AnyArray, out: AnyArray, context: Context) -> bool: ...
    def raw_foreground(
        self, maps: AnyArray, present: AnyArray, out: AnyArray, threshold: float, context: Context
    ) -> bool: ...
    def raw_background(
        self, background: AnyArray | None, out: AnyArray, threshold: float, context: Context
    ) -> bool: ...
    def superpixel_mean(
        self,
        values: AnyArray,
        superpixels: AnyArray,
        num_superpixels: int,
        out: AnyArray,
        context: Context,
    ) -> bool: ...
    def bilateral_filter(
        self,
        values: AnyArray,
        photos: AnyArray,
        out: AnyArray,
        sxy: float,
        srgb: float,
        normalize: bool,
        adjoint: bool,
        context: Context,
    ) -> bool: ...
    def snap(
        self,
        cues: AnyArray,
        superpixels: AnyArray,
        num_superpixels: int,
        out: AnyArray,
        threshold: float,
        context: Context,
    ) -> bool: ...
    def mask_scores(
        self,
        maps: AnyArray,
        masks: AnyArray,
        area: AnyArray,
        mean: AnyArray,
        top_mean: AnyArray | None,
        inside: AnyArray,
        covered: AnyArray,
        threshold: float,
        top: float,
        context: Context,
    ) -> bool: ...
    def fuse(self, sets: Sequence[AnyArray], out: AnyArray, context: Context) -> None: ...
    def resize(self, cues: AnyArray, out: AnyArray, rule: Rule, context: Context) -> None: ...
    def labels(
        self,
        cues: AnyArray,
        class_ids: Sequence[int],
        out: AnyArray,
        overlap: Overlap,
        background_overlap: BackgroundOverlap,
        unknown: int,
        ignore: int,
        context: Context,
    ) -> None: ...
    def suppress(
        self, scores: AnyArray, present: AnyArray, out: AnyArray, margin: float, context: Context
    ) -> bool: ...
    def refine_local(
        self,
        maps: AnyArray,
        photos: AnyArray,
        out: AnyArray,
        affinity: Affinity,
        dilations: Sequence[int],
        iterations: int,
        channels_first: bool,
        context: Context,
    ) -> bool: ...
    def crf(
        self,
        scores: AnyArray,
        photos: AnyArray,
        present: AnyArray,
        out: AnyArray,
        gaussian_weight: float,
        gaussian_sxy: float,
        bilateral_weight: float,
        bilateral_sxy: float,
        bilateral_srgb: float,
        energies: bool,
        iterations: int,
        epsilon: float,
        storage: Storage,
        context: Context,
    ) -> bool: ...
    def random_walk(
        self,
        maps: AnyArray,
        boundary: AnyArray | None,
        affinities: AnyArray | None,
        out: AnyArray,
        radius: int,
        beta: float,
        steps: int,
        context: Context,
    ) -> bool: ...

class CrfOrder:
    """The order in which a CRF visits points, without public members."""

class CrfFilter:
    """One kernel's filter of a CRF, without public members."""

class CrfRecord:
    """What the gradient of a CRF needs of the forward pass, without public members."""

class CpuKernels(Kernels, Protocol):
    """What the CPU has: also the kernels that CUDA lacks."""

    compiler: str
    cuda_missing: str  # why there are no CUDA kernels; empty if there are

    def felzenszwalb(
        self,
        photos: Array,
        weights: Array,
        out: Array,
        scale: float,
        min_size: int,
        context: int,
    ) -> bool: ...
    def resize_maps(self, maps: Array, out: Array, context: int) -> None: ...
    def snap_masks(
        self,
        cues: Array,
        masks: Array,
        out: Array,
        threshold: float,
        accept: Accept,
        context: int,
    ) -> bool: ...
    def rgb_to_lab(self, image: Array, out: Array, context: int) -> None: ...
    def colour_evidence(
        self,
        probabilities: Array,
        image: Array,
        weights: Array,
        out: Array,
        bins: int,
        floor: float,
        limit: float,
        context: int,
    ) -> None: ...
    def superpixel_graph(
        self,
        superpixels: Array,
        labels: Array,
        counts: Array,
        edges: Array,
        lengths: Array,
        nodes: Array,
        context: int,
    ) -> None: ...
    def superpixel_colours(
        self, image: Array, labels: Array, colours: Array, context: int
    ) -> None: ...
    def superpixel_table(
        self, values: Array, labels: Array, table: Array, context: int
    ) -> bool: ...
    def superpixel_walk(
        self,
        values: Array,
        edges: Array,
        lengths: Array,
        colours: Array,
        out: Array,
        restart: float,
        sigma: float,
        context: int,
    ) -> None: ...
    def boundary_connectivity(
        self,
        edges: Array,
        sizes: Array,
        border_pixels: Array,
        centres: Array,
        colours: Array,
        connectivity: Array,
        contrast: Array,
        sigma: float,
        clip: float,
        spatial_sigma: float,
        context: int,
    ) -> None: ...
    def crf_order(self, features: Array, context: int) -> CrfOrder: ...
    def crf_filter(
        self, features: Array, normalization: Normalization, order: CrfOrder | None, context: int
    ) -> CrfFilter: ...
    def crf_photo_filter(
        self, photo: Array, sxy: float, srgb: float, weight: float, context: int
    ) -> CrfFilter: ...
    def crf_of_photo(
        self,
        scores: Array,
        bilateral: CrfFilter,  # of crf_photo_filter()
        present: Array,
        out: Array,
        gaussian_weight: float,
        gaussian_sxy: float,
        energies: bool,
        iterations: int,
        epsilon: float,
        context: int,
    ) -> bool: ...
    def crf_features(
        self,
        scores: Array,
        present: Array,
        start: Array | None,
        out: Array,
        energy: Array | None,
        filters: Sequence[CrfFilter],
        gains: Sequence[Array],
        energies: bool,
        iterations: int,
        epsilon: float,
        context: int,
    ) -> bool: ...
    def crf_recorded(
        self,
        scores: Array,
        photos: Array,
        present: Array,
        out: Array,
        gaussian_weight: float,
        gaussian_sxy: float,
        bilateral_weight: float,
        bilateral_sxy: float,
        bilateral_srgb: float,
        energies: bool,
        iterations: int,
        epsilon: float,
        context: int,
    ) -> list[CrfRecord]: ...  # empty for what `crf` returns False for
    def crf_features_recorded(
        self,
        scores: Array,
        present: Array,
        out: Array,
        filters: Sequence[CrfFilter],
        gains: Sequence[Array],
        energies: bool,
        iterations: int,
        epsilon: float,
        context: int,
    ) -> list[CrfRecord]: ...
    def crf_gradient(
        self,
        records: Sequence[CrfRecord],
        of_out: Array,
        of_logits: Array,
        of_gains: Sequence[Array | None],
        context: int,
    ) -> None: ...
    def set_instruction_set(self, name: str) -> None: ...
    def instruction_set(self) -> str: ...
    def widest_instruction_set(self) -> str: ...

class CudaKernels(Kernels, Protocol):
    """What CUDA has."""

    version: str  # of nvcc
    architectures: str

    def crf_filter_bytes(self, features: int, points: int, normalization: Normalization) -> int: ...
    def crf_filter(
        self,
        features: DeviceArray,
        normalization: Normalization,
        memory: DeviceArray,
        context: Device,
    ) -> None: ...
    def crf_photo_features(
        self,
        photo: DeviceArray,
        features: DeviceArray,
        sx: float,
        sy: float,
        channel_widths: Sequence[float],
        context: Device,
    ) -> None: ...
    def crf_features(
        self,
        scores: DeviceArray,
        present: DeviceArray,
        start: DeviceArray | None,
        out: DeviceArray,
        energy: DeviceArray | None,
        change: DeviceArray | None,
        filters: Sequence[DeviceArray],
        counts: Sequence[int],
        normalizations: Sequence[Normalization],
        gains: Sequence[DeviceArray],
        energies: bool,
        iterations: int,
        epsilon: float,
        context: Device,
    ) -> bool: ...
