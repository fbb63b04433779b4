"""The dense CRF of points with any features: volumes, depth, other photos, point clouds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from cuekit._arrays import (
    find_all_infinite,
    find_outside,
    first_true,
    flat,
    is_on_cpu,
    item,
    like,
    part,
    zeros,
)
from cuekit._backend import cpu_kernels, cuda_kernels
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    LARGEST,
    check_any_array,
    check_array,
    check_choice,
    check_integer,
    check_number,
    check_present,
    check_switch,
    check_threads,
    check_values,
    integers_of,
    lattice_width,
    warn_caller,
)
from cuekit._device import AnyArray, AnyFramework, Array, DeviceArray
from cuekit._torch import is_tensor, needs_gradient
from cuekit.crf import (
    MOST_CHANNELS,
    PHOTO_DTYPES,
    CRFParams,
    Unary,
    check_any_photos,
    check_classes,
    check_epsilon,
    check_iterations,
    check_tolerance,
    fault_of_values,
    params_of,
)
from cuekit.crf_gradient import (
    check_record,
    check_tensor,
    refuse_gradient,
    refuse_tolerance,
    unrolled,
)

if TYPE_CHECKING:
    from cuekit._kernels import CrfFilter, CrfOrder, CrfRecord

Normalization: TypeAlias = Literal["symmetric", "before", "after", "none"]

MOST_FEATURES = 10
# Vertices are numbered in 32 bits, and a point has up to 11 of them.
MOST_POINTS = 2**27


class CRFKernel(NamedTuple):
    """One Gaussian kernel of a CRF: which points are alike, and what that means for their classes.

    Parameters
    ----------
    features : (..., D, N) array or tensor
        D features of each point, 1 to 10, each divided by its standard deviation.
    compatibility : float, or (), (K,) or (K, K) array or tensor, optional
        A weight w, Potts: points that are alike get the same class. A weight for each class. Or a
        symmetric matrix of penalties: [k, l] is what a pair costs of which one has class k and the
        other l. The weight w is the matrix that is w off the diagonal and 0 on it, or -w on it and
        0 elsewhere: the result is the same.
    normalization : {"symmetric", "before", "after", "none"}, optional
        The kernel ``e(i, j) = exp(-|f_i - f_j|^2 / 2)``, with n_i the sum of e(i, j) over j, is
        divided by sqrt(n_i n_j); by n_j, "before" the filter; by n_i, "after" it; or by nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit import CRFKernel
    >>> depth = np.array([[0.9, 1.0, 4.2]])
    >>> CRFKernel(depth / 0.5, 3, "after").normalization
    'after'
    """

    features: Any
    compatibility: Any = 1.0
    normalization: Normalization = "symmetric"


def dense_crf_features(
    probabilities: AnyFramework,
    kernels: Sequence[CRFKernel | tuple[Any, ...]],
    *,
    present: Any = None,
    iterations: int = 10,
    tolerance: float | None = None,
    epsilon: float = 1e-5,
    unary: Unary = "probabilities",
    differentiable: bool = False,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Refine class probabilities of points: mean field of the CRF with the given kernels.

    `dense_crf` is this for the pixels of photos.

    Parameters
    ----------
    probabilities : (..., K, N) array or tensor of float16, float32 or float64
        As for `dense_crf`, of N points: the voxels of a volume, the points of a cloud. Reshape
        volumes, (K, Z, Y, X), to (K, Z * Y * X), and the result back.
    kernels : sequence of CRFKernel or tuple
        Tuples are (features, compatibility) or (features, compatibility, normalization), see
        `CRFKernel`. `cuekit.crf_features` has functions that make the features of grids:
        `gaussian_features` of positions, `bilateral_features` of positions and colours.
    present : (..., K - 1) bool or None, optional
        As for `dense_crf`.
    iterations : int, optional
        Steps of the mean field, at most; 0 gives the softmax of the unaries.
    tolerance : float or None, optional
        Stop after the step in which no probability changed by more than this. None: never. On a
        CUDA device it synchronises after every step.
    epsilon : float, optional
        As for `dense_crf`.
    unary : {"probabilities", "energies"}, optional
        As for `dense_crf`.
    differentiable : bool, optional
        As for `dense_crf`. Compatibilities that are tensors may then require grad, too, of any
        shape: a weight, (K,) or (K, K). A `tolerance` is refused.
    validate : bool, optional
        On a CUDA device, also check the values of `probabilities`, `present` and features; this
        synchronises with the device. On the CPU they are always checked. Without the check,
        features that are not finite or too large make the Q of what they reach NaN.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, N) array or tensor, float64 for float64 probabilities, otherwise float32
        The marginals Q; they sum to 1 at every point.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value: what `dense_crf` refuses; features
        that are not finite, fewer than 1 or more than 10; a matrix that is not symmetric; features
        that span so many standard deviations that the lattice cannot be addressed.

    Notes
    -----
    The model and its computation are those of `dense_crf`: mean field on the permutohedral lattice,
    which approximates the filters, in float32. The result is that of pydensecrf's `DenseCRF` with
    the same features, up to rounding; the order of the features matters for the approximation.

    Features further than some 200 000 standard deviations from 0 are refused, because float32 would
    round them: subtract their means. With many features of a wide range the lattice cannot be
    addressed: features from 0 to 200 000, 30 000, 3900, 900, 320, 130 and 40 standard deviations
    are always possible with D = 3, 4, 5, 6, 7, 8 and 10, and much wider ones where features depend
    on each other, as the channels of photos.

    Workspace for K classes, rounded up to 4, 8, 16 or more: 4 K bytes for each point, and for each
    kernel 8 (D + 1) for each point and 8 K + 100 for each vertex of its lattice. Points in no
    order, as those of a shuffled cloud, are sorted within the call, which is faster and takes 10
    bytes more for each. The last bits depend on the order, because sums do.

    On a CUDA device, features must be float32. Workspace is allocated for the largest number of
    vertices that is possible: for each of the D + 1 corners of a point, some 100 bytes, 8 (D + 1)
    for each kernel, and 8 K. Results differ from the CPU's by the rounding of float32, and are the
    same in every call.

    Examples
    --------
    A volume of two halves whose labels are known at the border only.

    >>> import numpy as np
    >>> import cuekit
    >>> from cuekit.crf_features import bilateral_features, gaussian_features
    >>> volume = np.zeros((3, 4, 6), np.uint16)
    >>> volume[..., 3:] = 900
    >>> probabilities = np.full((2, 3, 4, 6), 0.5)
    >>> probabilities[..., 0] = [[[0.9]], [[0.1]]]
    >>> probabilities[..., 5] = [[[0.1]], [[0.9]]]
    >>> kernels = [
    ...     (gaussian_features(volume.shape, 1, spacing=(2.5, 1, 1)), 3),
    ...     (bilateral_features(volume, 10, 100, spacing=(2.5, 1, 1)), 10),
    ... ]
    >>> refined = cuekit.dense_crf_features(probabilities.reshape(2, -1), kernels)
    >>> refined.argmax(0).reshape(volume.shape)[1]
    array([[0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1]])
    """
    threads = check_threads(threads)

    def refined(records: list[CrfRecord] | None) -> AnyFramework:
        return _refined(
            probabilities,
            kernels,
            present,
            iterations,
            tolerance,
            epsilon,
            unary,
            records,
            validate=validate,
            threads=threads,
        )

    if check_switch(differentiable, "differentiable"):
        check_tensor(probabilities)
        refuse_tolerance(tolerance)
        listed = kernels if isinstance(kernels, list | tuple) else []
        compatibilities: list[Any] = [_compatibility(kernel) for kernel in listed]
        if any(map(needs_gradient, (probabilities, *compatibilities))):
            result: AnyFramework = unrolled(
                probabilities,
                compatibilities,
                refined,
                1,
                energies=unary == "energies",
                epsilon=epsilon,
                threads=threads,
                name="dense_crf_features",
            )
            return result
    refuse_gradient(probabilities, "probabilities")
    return refined(None)


def _compatibility(kernel: Any) -> Any:
    """Return the second item of a kernel that may be anything."""
    return kernel[1] if isinstance(kernel, tuple) and len(kernel) > 1 else None


def _refined(
    probabilities: AnyFramework,
    kernels: Any,
    present: Any,
    iterations: int,
    tolerance: float | None,
    epsilon: float,
    unary: Unary,
    records: list[CrfRecord] | None,
    *,
    validate: bool,
    threads: int,
) -> AnyFramework:
    """Check the arguments and return the result; append records for a gradient."""
    scores = check_any_array(probabilities, "probabilities", FLOATS, ndim=2, layout="(..., K, N)")
    checked = _checked(scores, kernels, present, epsilon, unary, threads, validate=validate)
    iterations, tolerance = check_iterations(iterations), check_tolerance(tolerance)
    if records is not None:
        check_record(iterations, scores.size)
    out = zeros(scores.shape, np.promote_types(scores.dtype, np.float32), scores)
    if out.size:
        for index in np.ndindex(*scores.shape[:-2]):
            field = checked.field(index)
            if not field.run_until(iterations, tolerance, part(out, index), records):
                raise ValueError(checked.fault())
    return like(out, probabilities)


class MeanField:
    """The mean field of `dense_crf_features`, one iteration at a time.

    Iteration gives Q and its KL divergence, first of the start, then of each step, without end::

        for q, kl in MeanField(probabilities, kernels): ...

    Parameters
    ----------
    probabilities : (K, N) array or tensor
        As for `dense_crf_features`, and so are all others.
    kernels : sequence of CRFKernel or tuple
    present, epsilon, unary, threads : optional

    Raises
    ------
    TypeError, ValueError
        As for `dense_crf_features`.

    Notes
    -----
    Lattices are built once. A loop that stops after n steps computes what `dense_crf_features` does
    in n iterations, bit for bit. On a CUDA device values are not checked, and the KL divergence
    synchronises.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.zeros((4, 6, 3), np.uint8)
    >>> photo[:, 3:] = 90
    >>> probabilities = np.random.default_rng(0).dirichlet((2, 1), (4, 6)).transpose(2, 0, 1)
    >>> field = cuekit.MeanField.of_photo(probabilities, photo, "irn")
    >>> for step, (q, kl) in enumerate(field):
    ...     print(step, round(kl, 1))
    ...     if step == 2:
    ...         break
    0 -192.6
    1 -299.3
    2 -302.5
    """

    def __init__(
        self,
        probabilities: Any,
        kernels: Sequence[CRFKernel | tuple[Any, ...]],
        *,
        present: Any = None,
        epsilon: float = 1e-5,
        unary: Unary = "probabilities",
        threads: int | None = 1,
    ) -> None:
        scores = check_any_array(probabilities, "probabilities", FLOATS, ndim=2, layout="(K, N)")
        if scores.ndim != 2:
            raise ValueError(f"probabilities must have shape (K, N), got {scores.shape}")
        self._begin(probabilities, scores, kernels, present, epsilon, unary, threads)
        self._dtype = np.promote_types(scores.dtype, np.float32)

    @classmethod
    def of_photo(
        cls,
        probabilities: Any,
        image: Any,
        params: str | CRFParams = "sec",
        *,
        present: Any = None,
        epsilon: float = 1e-5,
        unary: Unary = "probabilities",
        threads: int | None = 1,
    ) -> MeanField:
        """Return the mean field of a photo: `dense_crf`, one iteration at a time.

        All arguments are those of `dense_crf`, for one image: probabilities (K, H, W), image
        (H, W, C) or (H, W). Every Q has the shape (K, H, W).
        """
        layout = "(K, H, W)"
        scores = check_any_array(probabilities, "probabilities", FLOATS, ndim=3, layout=layout)
        if scores.ndim != 3:
            raise ValueError(f"probabilities must have shape {layout}, got {scores.shape}")
        photo = check_any_photos(image, scores)
        own = kernels_of_photo(flat(photo, *photo.shape), params_of(params))
        field = cls.__new__(cls)
        field._begin(probabilities, scores, own, present, epsilon, unary, threads)
        return field

    def _begin(
        self,
        probabilities: Any,
        scores: Any,
        kernels: Any,
        present: Any,
        epsilon: Any,
        unary: Any,
        threads: Any,
    ) -> None:
        self._first, self._shape = probabilities, scores.shape
        points = flat(scores, len(scores), math.prod(scores.shape[1:]))
        self._checked = _checked(
            points, kernels, present, epsilon, unary, check_threads(threads), sort=scores.ndim == 2
        )
        self._field = self._checked.field(())
        self._dtype = np.promote_types(scores.dtype, np.float32)

    def start(self) -> Any:
        """Return the softmax of the unaries, of the shape of the probabilities."""
        return self.run(0)

    def run(self, iterations: int) -> Any:
        """Return Q after so many iterations from the start."""
        return like(self._call(None, check_iterations(iterations)), self._first)

    def step(self, q: Any) -> Any:
        """Return Q after one iteration from any Q."""
        return like(self._call(self._adopt(q), 1), self._first)

    def kl_divergence(self, q: Any) -> float:
        """Return the KL divergence of Q from the CRF's distribution, up to a constant.

        sum_i sum_k Q_k(i) (log Q_k(i) + u_k(i)), plus for each kernel the sum over all pairs i, j,
        both orders and i = j included, of its penalties: what pydensecrf's `klDivergence` returns.
        """
        energy = self._zeros((1,), np.float64)
        self._call(self._adopt(q), 0, energy)
        return self._value(energy)

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield Q and its KL divergence, after 0, 1, 2, ... iterations."""
        q = self._call(None, 0)
        while True:
            energy = self._zeros((1,), np.float64)
            following = self._call(q, 1, energy)
            yield like(q, self._first), self._value(energy)
            q = following

    def _adopt(self, q: Any) -> Any:
        beside = (self._checked.scores, "probabilities")
        array = check_any_array(q, "q", FLOATS, ndim=0, layout="", beside=beside)
        if array.shape != self._shape:
            raise ValueError(
                f"q must have shape {self._shape} to match probabilities, got {array.shape}"
            )
        if not is_on_cpu(array):
            if array.dtype != self._dtype:
                raise TypeError(
                    f"q must have dtype {self._dtype} on a CUDA device, got {array.dtype}"
                )
            return flat(array, *self._shape)
        index = first_true(~np.isfinite(array))
        if index is not None:
            raise ValueError(f"q must be finite, got {array[index]} at index {index}")
        return np.require(array, self._dtype, ("C", "A"))

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return zeros(shape, dtype, self._checked.scores)

    def _call(self, start: Any, iterations: int, energy: Any = None) -> Any:
        out = self._zeros(self._shape, self._dtype)
        points = self._checked.scores.shape
        first = None if start is None else start.reshape(points)
        if out.size and not self._field.run(first, iterations, out.reshape(points), energy):
            raise ValueError(self._checked.fault())
        return out

    def _value(self, energy: Any) -> float:
        return float(item(energy, (0,))) + self._shift()

    def _shift(self) -> float:
        """Return the sum of the lowest energies, from which the CPU's kernel counts."""
        each = self._checked
        if not is_on_cpu(each.scores):
            return 0.0
        taking_part = each.scores[np.concatenate([[True], each.tags])].astype(np.float64)
        if each.energies:
            return float(taking_part.min(0).sum())
        return float(-np.log(np.clip(taking_part.max(0), each.epsilon, 1)).sum())


class DeviceFilter(NamedTuple):
    """The filter of one kernel on a CUDA device."""

    memory: DeviceArray
    features: int  # how many
    normalization: Normalization


class Field(NamedTuple):
    """The checked arguments of one set of points, with its lattices."""

    scores: Any  # (K, N)
    tags: Any  # (K - 1)
    filters: Sequence[Any]  # CrfFilter, or DeviceFilter on a device
    gains: Sequence[Any]  # (K) or (K, K)
    energies: bool
    epsilon: float
    threads: int

    def record(self, iterations: int, out: Array) -> list[CrfRecord]:
        """Write Q to `out` and return what its gradient needs; nothing for bad scores. CPU only."""
        return cpu_kernels.crf_features_recorded(
            self.scores,
            self.tags,
            out,
            self.filters,
            self.gains,
            self.energies,
            iterations,
            self.epsilon,
            self.threads,
        )

    def run(self, start: Any, iterations: int, out: Any, energy: Any = None) -> bool:
        """Write Q to `out`. False for scores that are not valid."""
        if not is_on_cpu(self.scores):
            return self._run_on_device(start, iterations, out, energy, None)
        return cpu_kernels.crf_features(
            self.scores,
            self.tags,
            start,
            out,
            energy,
            self.filters,
            self.gains,
            self.energies,
            iterations,
            self.epsilon,
            self.threads,
        )

    def run_until(
        self,
        iterations: int,
        tolerance: float | None,
        out: Any,
        records: list[CrfRecord] | None,
    ) -> bool:
        """Write Q to `out`, of at most so many iterations. False for scores that are not valid.

        `records`, unless None, gets what the gradient needs; this is for the CPU and no tolerance.
        """
        if records is not None:
            found = self.record(iterations, out)
            records += found
            return len(found) > 0
        if tolerance is None:
            return self.run(None, iterations, out)
        if not self.run(None, 0, out):
            return False
        for _ in range(iterations):
            if self._step(out) <= tolerance:
                break
        return True

    def _step(self, q: Any) -> float:
        """Replace Q by that after one iteration, and return by how much it changed at most."""
        if is_on_cpu(q):
            before = q.copy()
            self.run(before, 1, q)
            return float(np.abs(q - before).max())
        change = q.device.empty((1,), np.float32)
        self._run_on_device(q, 1, q, None, change)
        return float(item(change, (0,)))

    def _run_on_device(
        self, start: Any, iterations: int, out: Any, energy: Any, change: Any
    ) -> bool:
        return cuda_kernels().crf_features(
            self.scores,
            self.tags,
            start,
            out,
            energy,
            change,
            [each.memory for each in self.filters],
            [each.features for each in self.filters],
            [each.normalization for each in self.filters],
            self.gains,
            self.energies,
            iterations,
            self.epsilon,
            self.scores.device,
        )


class Checked(NamedTuple):
    """The checked arguments of a batch."""

    scores: Any  # (..., K, N)
    tags: Any  # (..., K - 1)
    kernels: Sequence[CRFKernel]
    energies: bool
    epsilon: float
    threads: int
    sort: bool  # whether points may be visited in another order

    @classmethod
    def of(
        cls,
        scores: Any,
        tags: Any,
        kernels: Sequence[CRFKernel],
        energies: bool,
        epsilon: float,
        threads: int,
        *,
        validate: bool = False,
        sort: bool = False,
    ) -> Checked:
        """Check kernels; all else is checked."""
        listed = _check_kernels(kernels, scores, validate=validate)
        return cls(scores, tags, listed, energies, epsilon, threads, sort)

    def field(self, index: tuple[int, ...], first: CrfFilter | None = None) -> Field:
        """Build the lattices of one image; `first`: the one of the first kernel, if it is there."""
        channels, points = self.scores.shape[-2:]
        kernels = range(len(self.kernels)) if points else ()
        filters: list[Any]
        if is_on_cpu(self.scores):
            order = self._order(index) if self.sort and kernels else None
            filters = [
                first if f == 0 and first is not None else self._filter(f, index, order)
                for f in kernels
            ]
        else:
            filters = [self._device_filter(f, index) for f in kernels]
        return Field(
            flat(part(self.scores, index), channels, points),
            flat(part(self.tags, index), channels - 1),
            filters,
            [kernel.compatibility for kernel in self.kernels] if points else [],
            self.energies,
            self.epsilon,
            self.threads,
        )

    def _features(self, f: int, index: tuple[int, ...]) -> Array:
        features = self.kernels[f].features
        own: Array = flat(features[index], *features.shape[-2:])
        return own

    def _order(self, index: tuple[int, ...]) -> CrfOrder:
        """Return the order of the points by the kernel with the most features."""
        counts = [kernel.features.shape[-2] for kernel in self.kernels]
        widest = self._features(counts.index(max(counts)), index)
        return cpu_kernels.crf_order(widest, self.threads)

    def _filter(self, f: int, index: tuple[int, ...], order: CrfOrder | None) -> CrfFilter:
        own = self._features(f, index)
        try:
            return cpu_kernels.crf_filter(own, self.kernels[f].normalization, order, self.threads)
        except ValueError as error:
            raise ValueError(
                f"kernels[{f}].features must span fewer standard deviations: the lattice of "
                f"{len(own)} features from {own.min()} to {own.max()} cannot be addressed; "
                "subtract their means, or divide by larger widths"
            ) from error

    def _device_filter(self, f: int, index: tuple[int, ...]) -> DeviceFilter:
        features, _, normalization = self.kernels[f]
        kernels, device = cuda_kernels(), features.device
        own = part(features, index)
        memory = device.allocate(kernels.crf_filter_bytes(len(own), own.shape[1], normalization))
        kernels.crf_filter(own, normalization, memory, device)
        return DeviceFilter(memory, len(own), normalization)

    def fault(self) -> str:
        """Say which of the scores is not valid."""
        fault = _fault(self.scores, self.tags, energies=self.energies)
        return fault or "probabilities must not change while they are read"


def _fault(scores: Any, tags: Any, *, energies: bool) -> str | None:
    """Say which of the scores (..., K, N) is not valid; None if all are."""
    fault = fault_of_values(scores, energies=energies)
    if fault is not None or not energies:
        return fault
    of_pixels = (
        scores[..., None] if is_on_cpu(scores) else scores.device.adopt(scores.owner[..., None])
    )
    index = find_all_infinite(of_pixels, tags)
    if index is None:
        return None
    position = ", ".join(map(str, (*index[:-2], ":", index[-2])))
    return (
        "probabilities must hold a finite energy for the background or a present class "
        f"at every point, got +inf for all of them at index ({position})"
    )


def _checked(
    scores: AnyArray,
    kernels: Any,
    present: Any,
    epsilon: Any,
    unary: Any,
    threads: int,
    *,
    validate: bool = False,
    sort: bool = True,
) -> Checked:
    check_values(validate)
    *batch, channels, points = scores.shape
    check_classes(scores, -2)
    if points >= MOST_POINTS:
        raise ValueError(f"probabilities must have fewer than {MOST_POINTS} points, got {points}")
    tags = check_present(
        present,
        "present",
        tuple(batch),
        channels - 1,
        scores,
        "probabilities",
        validate=validate,
    )
    energies = check_choice(unary, "unary", get_args(Unary)) == "energies"
    epsilon = check_epsilon(epsilon)
    if validate and not is_on_cpu(scores):
        fault = _fault(scores, tags, energies=energies)
        if fault is not None:
            raise ValueError(fault)
    if not is_on_cpu(scores):
        scores, tags = flat(scores, *scores.shape), flat(tags, *tags.shape)
    return Checked.of(
        scores, tags, kernels, energies, epsilon, threads, validate=validate, sort=sort
    )


def _check_kernels(kernels: Any, scores: AnyArray, *, validate: bool) -> list[CRFKernel]:
    """Return kernels with features of float32, and the gains of classes as compatibilities."""
    if isinstance(kernels, CRFKernel) or not isinstance(kernels, list | tuple):
        raise TypeError(f"kernels must be a list of kernels, got {type(kernels).__name__}")
    channels = scores.shape[-2]
    result = []
    for f, kernel in enumerate(kernels):
        name = f"kernels[{f}]"
        if not isinstance(kernel, tuple) or not 1 <= len(kernel) <= 3:
            raise TypeError(
                f"{name} must be a CRFKernel or a tuple (features, compatibility), got "
                f"{type(kernel).__name__}"
            )
        features, compatibility, normalization = CRFKernel(*kernel)
        check_choice(normalization, f"{name}.normalization", get_args(Normalization))
        gains = _gains(compatibility, f"{name}.compatibility", channels, normalization)
        result.append(
            CRFKernel(
                _check_features(features, f"{name}.features", scores, validate=validate),
                scores.device.from_host(gains) if isinstance(scores, DeviceArray) else gains,
                normalization,
            )
        )
    return result


def _check_features(value: Any, name: str, scores: AnyArray, *, validate: bool) -> Any:
    *batch, _, points = scores.shape
    dtypes = (*FLOATS, *INTEGERS) if is_on_cpu(scores) else ("float32",)
    features = check_any_array(
        value, name, dtypes, ndim=2, layout="(..., D, N)", beside=(scores, "probabilities")
    )
    count = features.shape[-2]
    if (*features.shape[:-2], features.shape[-1]) != (*batch, points):
        expected = ", ".join(map(str, (*batch, "D", points)))
        raise ValueError(
            f"{name} must have shape ({expected}) to match probabilities, got {features.shape}"
        )
    if not 1 <= count <= MOST_FEATURES:
        raise ValueError(f"{name} must be 1 to {MOST_FEATURES} features, got {count}")
    if not is_on_cpu(features):
        # Where all features are below it, so are the lattice's coordinates below 2**17.
        sizes = [math.sqrt(2 / 3 / (j * (j + 1))) for j in range(1, count + 1)]
        limit = 2**17 / sum(sizes)
        index = find_outside(features, -limit, limit, allow_infinity=False) if validate else None
        if index is not None:
            raise ValueError(
                f"{name} must be finite and at most {limit:.0f} in magnitude, got "
                f"{item(features, index)} at index {index}"
            )
        return flat(features, *features.shape)
    with np.errstate(over="ignore"):
        result: Array = features.astype(np.float32, copy=False)
    index = first_true(~np.isfinite(result))
    if index is not None:
        raise ValueError(
            f"{name} must be finite in float32, got {features[index]} at index {index}"
        )
    return result


def _gains(value: Any, name: str, channels: int, normalization: str) -> Array:
    """Return what a class adds to the logit of a class: (K, K), or its diagonal (K)."""
    # Without a factor after the filter, sums grow with the number of points.
    largest = LARGEST if normalization in ("symmetric", "after") else LARGEST / 1e10
    if is_tensor(value) and value.ndim == 0:
        value = check_array(value, name, (*FLOATS, *INTEGERS), ndim=0, layout="()").item()
    if np.ndim(value) == 0:
        table = np.full(channels, check_number(value, name))
    else:
        table = check_array(value, name, (*FLOATS, *INTEGERS), ndim=1, layout="(K,) or (K, K)")
        if table.shape not in ((channels,), (channels, channels)):
            raise ValueError(
                f"{name} must be a number or have shape ({channels},) or ({channels}, {channels}) "
                f"to match probabilities, got {table.shape}"
            )
        table = table.astype(np.float64)
    index = first_true(~(np.abs(table) <= largest))
    if index is not None:
        raise ValueError(f"{name} must be at most {largest:g} in magnitude, got {table[index]}")
    if table.ndim == 2:
        # Up to rounding.
        index = first_true(np.abs(table - table.T) > 1e-6 * np.abs(table).max())
        if index is not None:
            raise ValueError(
                f"{name} must be symmetric, got {table[index]} at index {index} and "
                f"{table[index[::-1]]} at {index[::-1]}"
            )
        table = -table
    return np.require(table, np.float32, ("C", "A"))


# ----------------------------------------------------------------------------- features of grids


def gaussian_features(
    shape: Sequence[int], sigma: float | Sequence[float], *, spacing: Sequence[float] | None = None
) -> Array:
    """Return the positions of a grid's points, divided by standard deviations.

    Parameters
    ----------
    shape : sequence of int
        Of the grid, such as (H, W) or (Z, Y, X).
    sigma : float or sequence of float
        Standard deviation, the same along all axes or one for each axis, in the order of `shape`.
    spacing : sequence of float, optional
        Distance of neighbouring points along each axis, in the unit of `sigma`; 1 by default.

    Returns
    -------
    (D, N) array of float32
        A feature for each axis, in the order of the axes, and the grid's N points in C order: as
        pydensecrf's `create_pairwise_gaussian`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    >>> from cuekit.crf_features import gaussian_features
    >>> gaussian_features((2, 3), (1, 2))
    array([[0. , 0. , 0. , 1. , 1. , 1. ],
           [0. , 0.5, 1. , 0. , 0.5, 1. ]], dtype=float32)
    """
    sides = integers_of(shape)
    if sides is None or not 1 <= len(sides) <= MOST_FEATURES:
        raise TypeError(f"shape must be 1 to {MOST_FEATURES} integers, got {shape!r}")
    sides = [check_integer(side, "shape", minimum=0) for side in sides]
    if math.prod(sides) >= MOST_POINTS:
        raise ValueError(f"shape must be fewer than {MOST_POINTS} points, got {shape!r}")
    sigmas = check_widths(sigma, "sigma", len(sides))
    distances = check_widths(1 if spacing is None else spacing, "spacing", len(sides))
    result = np.empty((len(sides), *sides), np.float32)
    for axis, (side, width, distance) in enumerate(zip(sides, sigmas, distances, strict=True)):
        positions = np.arange(side, dtype=np.float32) / np.float32(width / distance)
        result[axis] = positions.reshape(-1, *[1] * (len(sides) - 1 - axis))
    return result.reshape(len(sides), -1)


def bilateral_features(
    image: Any,
    sigma: float | Sequence[float],
    colour_sigma: float | Sequence[float],
    *,
    spacing: Sequence[float] | None = None,
    channel_axis: int | None = None,
) -> Array:
    """Return positions and colours of a grid's points, divided by standard deviations.

    Parameters
    ----------
    image : array or tensor, integers or floats
        Of the grid's shape, such as (Z, Y, X), if `channel_axis` is None. Otherwise one more axis
        has the channels.
    sigma, spacing : float or sequence of float
        As for `gaussian_features`.
    colour_sigma : float or sequence of float
        Standard deviation of the values, in their unit: the same for all channels, or one for each.
    channel_axis : int or None, optional
        The axis of the channels. None: one channel, without an axis.

    Returns
    -------
    (D, N) array of float32
        First positions, as `gaussian_features`, then the channels: as pydensecrf's
        `create_pairwise_bilateral`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.crf_features import bilateral_features
    >>> bilateral_features(np.array([[0, 0, 100]]), 1, 50)
    array([[0., 0., 0.],
           [0., 1., 2.],
           [0., 0., 2.]], dtype=float32)
    """
    values = check_array(
        image, "image", (*FLOATS, *INTEGERS), ndim=1, layout="(..., Y, X), or with channel_axis"
    )
    if channel_axis is None:
        values = values[None]
    else:
        axis = check_integer(channel_axis, "channel_axis")
        if not -values.ndim <= axis < values.ndim:
            raise ValueError(f"channel_axis must be an axis of image {values.shape}, got {axis}")
        values = np.moveaxis(values, axis, 0)
    if values.ndim < 2:
        raise ValueError(f"image must have an axis besides channel_axis, got {values.shape}")
    channels, *shape = values.shape
    if channels + len(shape) > MOST_FEATURES:
        raise ValueError(
            f"image must have at most {MOST_FEATURES} axes and channels together, got "
            f"{len(shape)} axes and {channels} channels"
        )
    widths = check_widths(colour_sigma, "colour_sigma", channels)
    positions = gaussian_features(shape, sigma, spacing=spacing)
    colours = values.reshape(channels, -1).astype(np.float32)
    return np.concatenate([positions, colours / np.array(widths, np.float32)[:, None]])


def photo_kernels(
    image: Any, params: str | CRFParams = "sec", *, channel_axis: int | None = None
) -> list[CRFKernel]:
    """Return the kernels that `dense_crf` has for a photo.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array or tensor of uint8, uint16 or floating dtype
        A photo of 1 to 8 channels.
    params : str or CRFParams, optional
        The name of a preset, or weights and widths, as for `dense_crf`.
    channel_axis : int or None, optional
        Where the channels of `image` are; None: last, if it has three axes.

    Returns
    -------
    list of CRFKernel
        The smoothness kernel, then the appearance kernel; one of weight 0 is left out.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.
    """
    params = params_of(params)
    photo = check_any_array(image, "image", PHOTO_DTYPES, ndim=2, layout="(H, W) or (H, W, C)")
    if channel_axis is None or not is_on_cpu(photo):
        if channel_axis not in (None, -1, photo.ndim - 1):
            raise ValueError(
                f"channel_axis must be the last axis on a CUDA device, got {channel_axis!r}"
            )
        photo = flat(photo, *photo.shape, 1) if photo.ndim == 2 else photo
    elif photo.ndim == 3 and -3 <= check_integer(channel_axis, "channel_axis") < 3:
        photo = np.moveaxis(photo, channel_axis, -1)
    if photo.ndim != 3 or not 1 <= photo.shape[-1] <= MOST_CHANNELS:
        raise ValueError(
            f"image must have shape (H, W) or (H, W, C) with 1 to {MOST_CHANNELS} channels, got "
            f"{np.shape(image)}"
        )
    return kernels_of_photo(photo if is_on_cpu(photo) else flat(photo, *photo.shape), params)


def kernels_of_photo(photo: Any, params: CRFParams) -> list[CRFKernel]:
    """Return the kernels of a photo (H, W, C), on its device."""
    *size, channels = photo.shape
    if math.prod(size) >= MOST_POINTS:
        raise ValueError(f"image must have fewer than {MOST_POINTS} pixels, got {math.prod(size)}")
    srgb = params.widths("bilateral_srgb", channels)
    if photo.dtype.kind == "u":
        srgb = tuple(map(lattice_width, srgb))
    elif is_on_cpu(photo):
        _check_levels(photo, srgb)
    if not is_on_cpu(photo):
        return _kernels_on_device(photo, params, srgb)

    def yx(name: str) -> list[float]:
        return [lattice_width(width) for width in params.widths(name, 2)][::-1]

    kernels = []
    if params.gaussian_weight > 0:
        features = gaussian_features(size, yx("gaussian_sxy"))[::-1]
        kernels.append(CRFKernel(features, params.gaussian_weight))
    if params.bilateral_weight > 0:
        features = bilateral_features(photo, yx("bilateral_sxy"), srgb, channel_axis=-1)
        if channels == 3:
            features = features[[1, 0, 2, 3, 4]]
        kernels.append(CRFKernel(features, params.bilateral_weight))
    return kernels


def kept_gaussian_filter(photo: Any, params: CRFParams, threads: int) -> CrfFilter | None:
    """Return the filter of the first of `kernels_of_photo` if it is kept from call to call.

    It depends on the size only. Those of photos of up to 2**19 pixels take up to 32 MB each.
    """
    height, width, _ = photo.shape
    if not is_on_cpu(photo) or params.gaussian_weight == 0 or not 0 < height * width <= 2**19:
        return None
    sx, sy = map(lattice_width, params.widths("gaussian_sxy", 2))
    return _gaussian_filter(height, width, sx, sy, threads)


@lru_cache(maxsize=4)
def _gaussian_filter(height: int, width: int, sx: float, sy: float, threads: int) -> CrfFilter:
    features = np.ascontiguousarray(gaussian_features((height, width), (sy, sx))[::-1])
    return cpu_kernels.crf_filter(features, "symmetric", None, threads)


def _kernels_on_device(
    photo: DeviceArray, params: CRFParams, srgb: Sequence[float]
) -> list[CRFKernel]:
    height, width, _ = photo.shape

    def features(name: str, channel_widths: Sequence[float]) -> Any:
        result = photo.device.empty((2 + len(channel_widths), height * width), np.float32)
        sx, sy = map(lattice_width, params.widths(name, 2))
        cuda_kernels().crf_photo_features(photo, result, sx, sy, channel_widths, photo.device)
        return result.owner

    kernels = []
    if params.gaussian_weight > 0:
        kernels.append(CRFKernel(features("gaussian_sxy", ()), params.gaussian_weight))
    if params.bilateral_weight > 0:
        kernels.append(CRFKernel(features("bilateral_sxy", srgb), params.bilateral_weight))
    return kernels


def _check_levels(photo: Array, srgb: Sequence[float]) -> None:
    """Refuse floating photos that are not finite; warn of widths that see no colours in them."""
    index = first_true(~np.isfinite(photo))
    if index is not None:
        raise ValueError(f"image must be finite, got {photo[index]} at index {index}")
    if photo.size == 0:
        return
    spans = np.ptp(photo.astype(np.float64), axis=(0, 1))
    if spans.any() and (spans <= srgb).all():
        warn_caller(
            f"bilateral_srgb should be less than the range of image, which is {spans.max():g}, got "
            f"{min(srgb):g}: colours hardly matter; its unit is that of image, and presets are for "
            "levels from 0 to 255"
        )


def check_widths(value: Any, name: str, count: int) -> list[float]:
    """Return `count` positive numbers, from as many or from one for all."""
    many = isinstance(value, list | tuple | np.ndarray)
    items = list(value) if many else [value] * count
    if len(items) != count:
        raise ValueError(f"{name} must be one number or {count}, got {value!r}")
    widths = [check_number(item, name, minimum=0) for item in items]
    for width in widths:
        if not 1 / LARGEST <= width <= LARGEST:
            raise ValueError(f"{name} must be from {1 / LARGEST:g} to {LARGEST:g}, got {width}")
    return widths
