"""Step 2: the background map, where the network sees nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuekit._arrays import empty, like, zeros
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_finite,
    check_place,
    check_size,
    check_threads,
    check_values,
)


def background_map(
    *features: Any,
    size: tuple[int, int] | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> Any:
    """Sum the activations of a classifier's top layers into a map that is low on background.

    Parameters
    ----------
    *features : (..., D_i, h_i, w_i) arrays or tensors of float16, float32 or float64
        One or more feature tensors of the same batch and dtype, such as the outputs of the two
        top convolutional layers after their activation. Depths and sizes may differ.
    size : (int, int), optional
        Height and width of the result; default: those of the largest input.
    validate : bool, optional
        On a CUDA device, look for values that are not finite, and wait for it; on the CPU this
        is always done.
    threads : int or None, optional
        Threads to use; None means one per core. Never changes the result.

    Returns
    -------
    (..., height, width) array or tensor of the dtype of `features`
        In [0, 1]: each tensor summed over its channels and resized, the sums added and min-max
        normalised per image. **Low means background**, the opposite of PSA's ``bg_score``. A
        constant map gives 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or features are not finite.

    Notes
    -----
    Resizing is bilinear with half-pixel centres (``align_corners=False``), without antialiasing.
    Sums are float64. Input that is not C-contiguous is copied once.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749, on extracting cues from classifiers.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.background_map(np.array([[[0.0, 1.0]], [[0.0, 3.0]]]))
    array([[0., 1.]])
    """
    threads = check_threads(threads)
    if not features:
        raise ValueError("features must be one or more tensors, got none")
    tensors = [
        check_any_array(tensor, f"features[{i}]", FLOATS, ndim=3, layout="(..., D, h, w)")
        for i, tensor in enumerate(features)
    ]
    first = tensors[0]
    batch = first.shape[:-3]
    for i, tensor in enumerate(tensors):
        check_place(tensor, f"features[{i}]", first, "features[0]")
        if tensor.dtype != first.dtype:
            raise TypeError(
                f"features[{i}] must have dtype {first.dtype} to match features[0], "
                f"got {tensor.dtype}"
            )
        if tensor.shape[:-3] != batch:
            raise ValueError(
                f"features[{i}] must have shape ({', '.join(map(str, (*batch, 'D', 'h', 'w')))}) "
                f"to match features[0], got {tensor.shape}"
            )
    if size is None:
        largest = max(tensors, key=lambda tensor: tensor.shape[-2] * tensor.shape[-1])
        size = largest.shape[-2], largest.shape[-1]
    else:
        size = check_size(size, "size")
    check_values(validate, *((f"features[{i}]", tensor) for i, tensor in enumerate(tensors)))
    kernels, where = backend(first, threads)
    total = zeros((math.prod(batch), *size), np.float64, first)
    for i, tensor in enumerate(tensors):
        if 0 in tensor.shape[-2:] and 0 not in size:
            raise ValueError(f"features[{i}] must have at least one pixel, got {tensor.shape}")
        maps = tensor.reshape(len(total), *tensor.shape[-3:])
        check_finite(kernels.background_add(maps, total, where), (f"features[{i}]", tensor))
    out = empty((*batch, *size), first.dtype, first)
    finite = kernels.background_normalize(total, out.reshape(total.shape), where)
    check_finite(finite, *((f"features[{i}]", tensor) for i, tensor in enumerate(tensors)))
    return like(out, features[0])
