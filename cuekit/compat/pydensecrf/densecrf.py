"""The classes and constants of `pydensecrf.densecrf`.

Learning, which pydensecrf's classes do not offer either, is left out. So the types of kernels,
which tell what can be learnt, change no result.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cuekit._checks import check_integer, check_threads
from cuekit.crf import CRFParams, dense_crf
from cuekit.crf_features import CRFKernel, MeanField, Normalization, gaussian_features

Matrix: TypeAlias = npt.NDArray[np.float32]


class NormalizationType(IntEnum):
    """Where a kernel is divided by the sum over all points."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


class KernelType(IntEnum):
    """What of a kernel's features could be learnt; no result depends on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC
CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL

_NAMES: dict[NormalizationType, Normalization] = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}


class Unary:
    """Energies of the classes of each point, (K, N)."""

    def __init__(self, energies: Matrix) -> None:
        self.energies = energies


class ConstUnary(Unary):
    """Energies as they are."""

    def __init__(self, u: Any) -> None:
        super().__init__(_matrix(u, "u"))


class LogisticUnary(Unary):
    """Energies L @ f, with L (K, F) and the features f (F, N)."""

    def __init__(self, L: Any, f: Any) -> None:  # noqa: N803 - pydensecrf's names
        super().__init__(_matrix(L, "L") @ _matrix(f, "f"))


class DenseCRF:
    """A CRF of `nvar` points and `nlabels` classes with any pairwise energies.

    `threads` is not in pydensecrf: the number of threads of inference, None for one per core.
    """

    threads: int | None = 1

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar = check_integer(nvar, "nvar", minimum=1)
        self._nlabel = check_integer(nlabels, "nlabels", minimum=1)
        self._unary: Matrix | None = None
        self._kernels: list[CRFKernel] = []
        self._field: MeanField | None = None

    def addPairwiseEnergy(  # noqa: N802
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of features (D, N).

        `compat` is a weight that pulls points that are alike to one class, or penalties: of pairs
        in each class (K), or of each pair of classes (K, K).
        """
        values = _matrix(features, "features")
        if values.shape[1] != self._nvar:
            raise ValueError(f"features must have shape (D, {self._nvar}), got {values.shape}")
        KernelType(kernel)
        name = _NAMES[NormalizationType(normalization)]
        self._kernels.append(CRFKernel(values, self._compatibility(compat), name))
        self._field = None

    def setUnary(self, u: Unary) -> None:  # noqa: N802
        """Set the energies of the classes of each point."""
        expected = (self._nlabel, self._nvar)
        if u.energies.shape != expected:
            raise ValueError(f"the unary must have shape {expected}, got {u.energies.shape}")
        if np.isnan(u.energies).any() or np.isneginf(u.energies).any():
            raise ValueError("the unary must hold energies that are finite or +inf, got others")
        self._unary = u.energies
        self._field = None

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:  # noqa: N802
        """Set energies (K, N), such as -log p; or (K, F) and features (F, N), see LogisticUnary."""
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def inference(self, niter: int) -> Matrix:
        """Return the probabilities of the classes, (K, N), after `niter` iterations."""
        niter = check_integer(niter, "niter", minimum=0)
        if self._nlabel == 1:
            return np.ones((1, self._nvar), np.float32)
        result: Matrix = self._mean_field().run(niter)
        return result

    def startInference(self) -> tuple[Matrix, Matrix, Matrix]:  # noqa: N802
        """Return Q before the first step, and two arrays that `stepInference` does not need."""
        return self.inference(0), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Matrix, tmp1: Any = None, tmp2: Any = None) -> None:  # noqa: N802, N803, ARG002
        """Replace Q by what one iteration makes of it."""
        Q[...] = self._mean_field().step(Q) if self._nlabel > 1 else 1

    def klDivergence(self, Q: Any) -> float:  # noqa: N802, N803
        """Return the KL divergence of Q from the CRF, up to a constant."""
        if self._nlabel == 1:
            raise ValueError("nlabels must be at least 2 for a divergence, got 1")
        return self._mean_field().kl_divergence(np.asarray(Q, np.float32))

    def _compatibility(self, compat: Any) -> Any:
        if np.ndim(compat) == 0:
            return float(compat)
        table = np.asarray(compat, np.float64)
        k = self._nlabel
        if table.shape not in ((k,), (k, k)):
            raise ValueError(
                f"compat must be a number, ({k},) or ({k}, {k}), got shape {table.shape}"
            )
        return -table if table.ndim == 1 else (table + table.T) / 2

    def _energies(self) -> Matrix:
        if self._unary is None:
            return np.zeros((self._nlabel, self._nvar), np.float32)
        return self._unary

    def _mean_field(self) -> MeanField:
        check_threads(self.threads)
        if self._field is None:
            self._field = MeanField(
                self._energies(), self._kernels, unary="energies", threads=self.threads
            )
        return self._field


class DenseCRF2D(DenseCRF):
    """A CRF of the w * h pixels of a photo, row after row."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._w = check_integer(w, "w", minimum=1)
        self._h = check_integer(h, "h", minimum=1)
        super().__init__(self._w * self._h, nlabels)
        self._plain = True  # whether `dense_crf` has this model: the parameters and the photo of it
        self._gaussian: tuple[float, float] | None = None
        self._bilateral: tuple[float, float, float] | None = None
        self._photo: npt.NDArray[np.uint8] | None = None

    def addPairwiseEnergy(  # noqa: N802
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of features (D, N)."""
        super().addPairwiseEnergy(features, compat, kernel, normalization)
        self._plain = False

    def addPairwiseGaussian(  # noqa: N802
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the kernel of positions; `sxy` is one standard deviation, or (x, y)."""
        pair = _numbers(sxy, 2, "sxy")
        plain = self._plain and self._gaussian is None
        super().addPairwiseEnergy(self._positions(pair), compat, kernel, normalization)
        self._plain = plain and _is_plain(pair, compat, normalization)
        if self._plain:
            self._gaussian = float(compat), pair[0]

    def addPairwiseBilateral(  # noqa: N802
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the kernel of positions and colours of a photo (h, w, 3) of uint8."""
        pair, levels = _numbers(sxy, 2, "sxy"), _numbers(srgb, 3, "srgb")
        photo = np.asarray(rgbim)
        if photo.dtype != np.uint8 or photo.shape != (self._h, self._w, 3):
            raise ValueError(
                f"rgbim must be uint8 of shape {(self._h, self._w, 3)}, got {photo.dtype} of shape "
                f"{photo.shape}: for others, utils.create_pairwise_bilateral makes the features"
            )
        colours = photo.reshape(-1, 3).T.astype(np.float32) / np.array(levels, np.float32)[:, None]
        plain = self._plain and self._bilateral is None
        features = np.concatenate([self._positions(pair), colours])
        super().addPairwiseEnergy(features, compat, kernel, normalization)
        self._plain = plain and _is_plain(pair, compat, normalization) and len(set(levels)) == 1
        if self._plain:
            self._bilateral = float(compat), pair[0], levels[0]
            self._photo = photo.copy()

    def inference(self, niter: int) -> Matrix:
        """Return the probabilities of the classes, (K, N), after `niter` iterations."""
        if not self._plain or self._nlabel == 1:
            return super().inference(niter)
        photo = np.zeros((self._h, self._w, 3), np.uint8) if self._photo is None else self._photo
        params = CRFParams(*(self._gaussian or (0, 1)), *(self._bilateral or (0, 1, 1)))
        energies = self._energies().reshape(self._nlabel, self._h, self._w)
        refined = dense_crf(
            energies,
            photo,
            params,
            iterations=check_integer(niter, "niter", minimum=0),
            unary="energies",
            threads=self.threads,
        )
        return refined.reshape(self._nlabel, self._nvar)

    def _positions(self, sxy: tuple[float, ...]) -> Matrix:
        """Return the features x, y."""
        return gaussian_features((self._h, self._w), sxy[::-1])[::-1]


def _matrix(value: Any, name: str) -> Matrix:
    result: Matrix = np.array(value, np.float32, order="C")  # theirs, too, copy
    if result.ndim != 2:
        raise ValueError(f"{name} must be two-dimensional, got shape {result.shape}")
    return result


def _numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    """Return one number for all, or as many, as a tuple."""
    values = (float(value),) * count if np.ndim(value) == 0 else tuple(map(float, value))
    if len(values) != count or not all(v > 0 for v in values):
        raise ValueError(f"{name} must be a positive number or {count} of them, got {value!r}")
    return values


def _is_plain(sxy: tuple[float, ...], compat: Any, normalization: int) -> bool:
    """Tell whether `dense_crf` has a kernel of these widths, compatibility and normalisation."""
    symmetric = normalization == NORMALIZE_SYMMETRIC
    return sxy[0] == sxy[1] and symmetric and np.ndim(compat) == 0 and float(compat) >= 0
