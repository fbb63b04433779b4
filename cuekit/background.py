"""Background map: low where a classifier's top layers respond to nothing."""

from __future__ import annotations

import math

import numpy as np

from cuekit._arrays import empty, flat, like, zeros
from cuekit._backend import backend
from cuekit._checks import (
    FLOATS,
    check_any_array,
    check_device,
    check_finite,
    check_size,
    check_threads,
    check_values,
)
from cuekit._device import AnyFramework


def background_map(
    *features: AnyFramework,
    size: tuple[int, int] | None = None,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Sum the activations of a classifier's top layers into a map that is low on background.

    Parameters
    ----------
    *features : (..., D_i, h_i, w_i) arrays or tensors of float16, float32 or float64
        One or more feature tensors of the same batch, such as the outputs of the two top
        convolutional layers after their activation. Depths, sizes and dtypes may differ.
    size : (int, int), optional
        Height and width of the result; default: those of the largest input.
    validate : bool, optional
        On a CUDA device, also check for non-finite values; this synchronises with the device. On
        the CPU they are always checked.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., height, width) array or tensor of the widest dtype of `features`
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
    batch: tuple[int, ...] = first.shape[:-3]
    for i, tensor in enumerate(tensors):
        check_device(tensor, f"features[{i}]", first, "features[0]")
        if tensor.shape[:-3] != batch:
            raise ValueError(
                f"features[{i}] must have shape ({', '.join(map(str, (*batch, 'D', 'h', 'w')))}) "
                f"to match features[0], got {tensor.shape}"
            )
    if size is None:
        largest = max(tensors, key=lambda tensor: tensor.shape[-2] * tensor.shape[-1])
        height, width = largest.shape[-2:]
    else:
        height, width = check_size(size, "size")
    check_values(validate, *((f"features[{i}]", tensor) for i, tensor in enumerate(tensors)))
    kernels, context = backend(first, threads)
    total = zeros((math.prod(batch), height, width), np.float64, first)
    for i, tensor in enumerate(tensors):
        if 0 in tensor.shape[-2:] and height * width > 0:
            raise ValueError(f"features[{i}] must have at least one pixel, got {tensor.shape}")
        maps = flat(tensor, len(total), *tensor.shape[-3:])
        check_finite(kernels.background_add(maps, total, context), (f"features[{i}]", tensor))
    dtype = np.result_type(*(tensor.dtype for tensor in tensors))
    out = empty((*batch, height, width), dtype, first)
    finite = kernels.background_normalize(total, out.reshape(total.shape), context)
    check_finite(finite, *((f"features[{i}]", tensor) for i, tensor in enumerate(tensors)))
    return like(out, features[0])
