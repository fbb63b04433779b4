"""The functions of `pydensecrf.utils`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cuekit._checks import check_integer, check_number
from cuekit.crf_features import bilateral_features, gaussian_features

Matrix: TypeAlias = npt.NDArray[np.float32]


def unary_from_labels(
    labels: Any, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Matrix:
    """Return energies (K, N) of hard labels that are right with a probability of `gt_prob`.

    With `zero_unsure`, label 0 says nothing, and classes have the labels 1 to `n_labels`.
    Otherwise classes have the labels 0 to `n_labels` - 1.
    """
    count = check_integer(n_labels, "n_labels", minimum=2)
    if not 0 < check_number(gt_prob, "gt_prob") < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, got {gt_prob}")
    classes = np.asarray(labels).ravel()
    if classes.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {classes.dtype}")
    classes = classes.astype(np.int64) - (1 if zero_unsure else 0)
    lowest = -1 if zero_unsure else 0
    if classes.size and not lowest <= classes.min() <= classes.max() < count:
        first = int(zero_unsure)
        raise ValueError(
            f"labels must be from 0 to {count - 1 + first}, got {classes.min() + first} to "
            f"{classes.max() + first}"
        )
    energies = np.full((count, classes.size), -np.log((1 - gt_prob) / (count - 1)), np.float32)
    energies[classes, np.arange(classes.size)] = -np.log(gt_prob)
    energies[:, classes < 0] = -np.log(1 / count)
    return energies


def compute_unary(labels: Any, M: int, GT_PROB: float = 0.5) -> Matrix:  # noqa: N803
    """Call `unary_from_labels` by its former name."""
    warnings.warn("compute_unary is now unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: Any, scale: float | None = None, clip: float | None = 1e-5) -> Matrix:
    """Return energies -log p, (K, N), of probabilities (K, ...).

    With `scale`, between 0 and 1, probabilities are first mixed with even ones: scale p +
    (1 - scale) / K. They are at least `clip`.
    """
    probabilities = np.asarray(sm)
    count = len(probabilities)
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, got {scale}")
        probabilities = scale * probabilities.astype(np.float64) + (1 - scale) / count
    if clip is not None:
        probabilities = np.clip(probabilities, clip, 1.0)
    with np.errstate(divide="ignore"):
        energies: Matrix = -np.log(probabilities).reshape(count, -1).astype(np.float32)
    return energies


def softmax_to_unary(sm: Any, GT_PROB: float = 1) -> Matrix:  # noqa: N803
    """Call `unary_from_softmax` by its former name."""
    warnings.warn("softmax_to_unary is now unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Matrix:
    """Return the features (D, N) of positions in a grid; `sdims` has one width for each axis."""
    return gaussian_features(shape, sdims)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: Any, chdim: int = -1
) -> Matrix:
    """Return the features (D, N) of positions and colours; a `chdim` of -1 means no channels."""
    image = np.asarray(img)
    return bilateral_features(image, sdims, schan, channel_axis=None if chdim == -1 else chdim)
