"""Losses for training a segmentation network from cues and tags; they need torch.

All take probabilities, a network's output after softmax. Where a loss takes their logarithm, they
are floored first, as in SEC's code: 1e-4 is added, then each pixel's probabilities are divided by
their sum. Logarithms and gradients are then finite, and a class whose probability is almost 0 gets
a large gradient, where clamping would give 0.

torch.compile traces all of them without graph breaks. Values are then not checked, as on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from cuekit import _compile, bilateral_filter, crf
from cuekit._arrays import adopt
from cuekit._checks import (
    CUES,
    INTEGERS,
    RANGE_TOLERANCE,
    check_choice,
    check_finite,
    check_integer,
    check_masks,
    check_number,
    check_present,
    check_switch,
    check_threads,
    check_width,
)
from cuekit._device import Array

try:
    import torch
except ImportError as error:
    raise ImportError("cuekit.losses needs torch: pip install 'cuekit[torch]'") from error

FLOOR = 1e-4
FLOATS = ("float16", "bfloat16", "float32", "float64")

Normalize: TypeAlias = Literal["pixels", "elements"]


def _check_probabilities(probabilities: Any) -> torch.Tensor:
    """Return probabilities (..., K, H, W) as float32 or float64, still attached to autograd."""
    if not isinstance(probabilities, torch.Tensor):
        raise TypeError(f"probabilities must be a torch tensor, got {type(probabilities).__name__}")
    _check_dense(probabilities, "probabilities")
    dtype, shape = _dtype_name(probabilities), tuple(probabilities.shape)
    if dtype not in FLOATS:
        raise TypeError(f"probabilities must have dtype {' or '.join(FLOATS)}, got {dtype}")
    if len(shape) < 3:
        raise ValueError(f"probabilities must have shape (..., K, H, W), got {shape}")
    if shape[-3] < 2:
        raise ValueError(
            "probabilities must have a background channel and at least one class, got shape "
            f"{shape}: for a single map p, stack [1 - p, p]"
        )
    # Not computed in 16 bits: too few for a sum over an image, and for 1 - 1e-4.
    p = probabilities if dtype in ("float32", "float64") else probabilities.float()
    values = _values(p)
    if values is not None and values.size:
        low, high = float(values.min()), float(values.max())
        check_finite(math.isfinite(low) and math.isfinite(high), ("probabilities", values))
        for wrong, rule in ((low < 0, "at least 0"), (high > 1 + RANGE_TOLERANCE, "at most 1")):
            if wrong:
                got = low if low < 0 else high
                raise ValueError(f"probabilities must be {rule}, got {got}: apply softmax first")
    return p


def _check_dense(tensor: torch.Tensor, name: str) -> None:
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


def _values(tensor: torch.Tensor) -> Array | None:
    """Return a tensor's values, float32 for bfloat16; None where they are not looked at.

    On a GPU that would synchronise. A meta or fake tensor has no values, neither has one that
    torch.compile traces, and under torch.func.vmap there is one for each example.
    """
    if _compile.compiling() or tensor.device.type != "cpu" or type(tensor).__name__ == "FakeTensor":
        return None
    functorch: Any = torch._C._functorch
    while functorch.is_gradtrackingtensor(tensor):  # within torch.func.grad and jvp
        tensor = functorch.get_unwrapped(tensor)
    if functorch.is_functorch_wrapped_tensor(tensor):
        return None
    with torch._C._DisableFuncTorch():
        tensor = tensor.detach()
        values: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values


def _dtype_name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _tensor(value: Any, name: str, dtypes: Sequence[str]) -> torch.Tensor:
    """Return an array or tensor of one of `dtypes` as a tensor on the same device."""
    if _compile.compiling():
        value = torch.as_tensor(value)
    if isinstance(value, torch.Tensor):
        _check_dense(value, name)
    else:
        value = adopt(value, name)
    if _dtype_name(value) not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(dtypes)}, got {_dtype_name(value)}")
    if isinstance(value, torch.Tensor):
        return value
    # A copy: torch does not support negative strides, and warns about read-only memory.
    return torch.from_numpy(value.copy())


def _check_matches(tensor: torch.Tensor, name: str, shape: Sequence[int], p: torch.Tensor) -> None:
    if tensor.device != p.device:
        raise ValueError(
            f"{name} must be on {p.device} to match probabilities, got {tensor.device}"
        )
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have shape {tuple(shape)} to match probabilities, got "
            f"{tuple(tensor.shape)}"
        )


def _mask(mask: torch.Tensor, name: str, shape: Sequence[int], p: torch.Tensor) -> torch.Tensor:
    """Check cues or tags and return them as a bool tensor on the device of `p`."""
    _check_matches(mask, name, shape, p)
    # A bool view of bytes may contain other values than 0 and 1.
    return mask != 0


def _tags(present: Any, p: torch.Tensor) -> torch.Tensor:
    """Check tags and return them as a bool tensor (..., K - 1) on the device of `p`."""
    *batch, channels, _, _ = p.shape
    if _compile.compiling():
        of_all = torch.ones((*batch, channels - 1), dtype=torch.bool, device=p.device)
        present = of_all if present is None else torch.as_tensor(present, device=p.device)
    if isinstance(present, torch.Tensor):
        _check_dense(present, "present")
        values = _values(present)
        if values is None:
            if present.is_complex():
                raise TypeError(
                    f"present must hold bool, or 0 and 1, got dtype {_dtype_name(present)}"
                )
            return _mask(present, "present", (*batch, channels - 1), p)
        present = values
    shape = (tuple(batch), channels - 1)
    tags = check_present(present, "present", *shape, None, "probabilities")
    return _mask(torch.from_numpy(tags), "present", (*batch, channels - 1), p)


def _floored(p: torch.Tensor) -> torch.Tensor:
    raised = p + FLOOR
    return raised / raised.sum(-3, keepdim=True)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of all values; 0 if there are none, where torch's mean is NaN."""
    return values.sum() / max(values.numel(), 1)


def _mean_where(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of finite values (..., N) over those that the mask selects; 0 if it selects none."""
    return (mask * values).sum(-1) / mask.sum(-1).clamp(min=1)


def seed_loss(probabilities: torch.Tensor, cues: Any, *, balanced: bool = False) -> torch.Tensor:
    """Cross-entropy of the cues; pixels without a cue have no influence.

    Parameters
    ----------
    probabilities : (..., K, H, W) tensor of float16, bfloat16, float32 or float64
        A segmentation network's output after softmax. Leading dimensions are the batch.
    cues : (..., K, H, W) array or tensor of bool or uint8
        One mask per class; uint8 holds 0 and 1, or 0 and 255. Where cues overlap, each of their
        classes counts.
    balanced : bool, optional
        Whether the background's cue, channel 0, and those of the other classes are two sums, each
        divided by its own number of elements and then added. So many elements of the one do not
        outweigh few of the other.

    Returns
    -------
    tensor of no dimensions, float64 for float64 probabilities, otherwise float32
        The sum of -log p over an image's cue elements, divided by their number; then the mean
        over the batch. A sum over no element counts as 0. The loss of an empty batch is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or device, there is one channel only or, on
        the CPU, probabilities are outside [0, 1] by more than rounding, or cues or tags are not
        masks.

    Notes
    -----
    Equation 3 of [1]_, which is SEC's [2]_. SEC's code gives NaN for an image without cues.
    `balanced` is the seeding loss of DSRG [3]_.
    Probabilities are floored as in SEC's code: 1e-4 is added, then they are divided by their sum.
    Nothing is moved between devices, and on a GPU nothing synchronises.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749.
    .. [2] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.
    .. [3] Z. Huang et al., "Weakly-supervised semantic segmentation network with deep seeded region
       growing", CVPR 2018, :doi:`10.1109/CVPR.2018.00733`.

    Examples
    --------
    >>> import torch
    >>> from cuekit import losses
    >>> even = torch.full((2, 1, 3), 0.5)
    >>> cues = torch.tensor([[[True, False, False]], [[False, True, False]]])
    >>> losses.seed_loss(even, cues)
    tensor(0.6931)
    """
    check_switch(balanced, "balanced")
    p = _check_probabilities(probabilities)
    masks = _tensor(cues, "cues", CUES)
    on = _mask(masks, "cues", p.shape, p)
    values = _values(masks)
    if values is not None:
        check_masks(values, "cues")
    losses = -_floored(p).log()
    if balanced:
        background, foreground = (
            _mean_where(on[..., part, :, :].flatten(-3), losses[..., part, :, :].flatten(-3))
            for part in (slice(1), slice(1, None))
        )
        return _mean(background + foreground)
    return _mean(_mean_where(on.flatten(-3), losses.flatten(-3)))


def _bilinear_samples(length: int, size: int, device: Any) -> tuple[torch.Tensor, ...]:
    """Return how to resize `length` pixels to `size` with half-pixel centres.

    For every target pixel: the index of the pixel before, that of the pixel after, and the weight
    of the latter. In float64, because positions rounded to float32 change results by hundredths of
    a gray level.
    """
    position = torch.arange(size, dtype=torch.float64, device=device) + 0.5
    position = (position * (length / size) - 0.5).clamp(0, length - 1)
    low = position.long()
    return low, (low + 1).clamp(max=length - 1), position - low


def _photos(photos: Any, name: str, batch: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """Check photos (*batch, h, w, 3) and resize them to (*batch, *size, 3)."""
    tensor = _tensor(photos, name, ("uint8",))
    shape = tuple(tensor.shape)
    if shape[:-3] != tuple(batch) or len(shape) < 3 or shape[-1] != 3:
        expected = ", ".join(map(str, (*batch, "H", "W", 3)))
        raise ValueError(f"{name} must have shape ({expected}) to match probabilities, got {shape}")
    if 0 in batch or 0 in size:
        return tensor.new_zeros((*batch, *size, 3))
    if 0 in shape:
        raise ValueError(f"{name} must have at least one pixel, got {shape}")
    # Not torch's `interpolate`: converting whole photos to float64 takes as long as the CRF.
    top, bottom, down = _bilinear_samples(shape[-3], size[0], tensor.device)
    left, right, across = _bilinear_samples(shape[-2], size[1], tensor.device)

    def resized_rows(index: torch.Tensor) -> torch.Tensor:
        pixels = tensor.index_select(-3, index)
        before, after = (pixels.index_select(-2, i).double() for i in (left, right))
        return before + (after - before) * across[:, None]

    upper, lower = resized_rows(top), resized_rows(bottom)
    return (upper + (lower - upper) * down[:, None, None]).round().byte()


def _smoothed(
    p: torch.Tensor,
    images: Any,
    params: str | crf.CRFParams,
    present: Any,
    iterations: int,
    threads: int | None,
) -> torch.Tensor:
    """Return Q, the CRF's marginals for the probabilities, detached from autograd."""
    *batch, _, height, width = p.shape
    if isinstance(images, list | tuple):
        if len(images) != math.prod(batch):
            raise ValueError(
                f"images must be {math.prod(batch)} photos to match probabilities, "
                f"got {len(images)}"
            )
        each = [_photos(im, f"images[{i}]", (), (height, width)) for i, im in enumerate(images)]
        blank = torch.zeros((0, height, width, 3), dtype=torch.uint8, device=p.device)
        photos = (torch.stack(each) if each else blank).reshape(*batch, height, width, 3)
    else:
        photos = _photos(images, "images", batch, (height, width))

    def refined(values: torch.Tensor) -> torch.Tensor:
        return crf.dense_crf(
            values.detach(),
            photos,
            params,
            present=present,
            iterations=iterations,
            threads=threads,
        )

    q = _constant(p, refined, "constrain_to_boundary_loss", "CRF").clamp(min=FLOOR)
    smoothed: torch.Tensor = q / q.sum(-3, keepdim=True)
    return smoothed


def _constant(
    values: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor], loss: str, part: str
) -> torch.Tensor:
    """Return function(values), which autograd and torch.func take for a constant."""
    if _compile.compiling():
        return function(values.detach())
    apply: Any = _Constant.apply
    result: torch.Tensor = apply(values, function, loss, part)
    return result


class _Constant(torch.autograd.Function):
    """Apply a function to a tensor; autograd and torch.func take the result for a constant."""

    @staticmethod
    def forward(
        values: torch.Tensor,
        function: Callable[[torch.Tensor], torch.Tensor],
        loss: str,  # noqa: ARG004
        part: str,  # noqa: ARG004
    ) -> Any:
        return function(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ARG004
        return None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:  # noqa: ARG004
        *_, loss, part = arguments
        raise TypeError(
            f"{loss} cannot be mapped by torch.func.vmap: its {part} takes whole batches; give the "
            "batch as leading dimensions"
        )


def constrain_to_boundary_loss(
    probabilities: torch.Tensor,
    images: Any,
    params: str | crf.CRFParams = "sec-train",
    *,
    present: Any = None,
    iterations: int = 10,
    normalize: Normalize = "pixels",
    threads: int | None = 1,
) -> torch.Tensor:
    """KL divergence of the probabilities from those that a dense CRF computes from them.

    Parameters
    ----------
    probabilities : (..., K, H, W) tensor of float16, bfloat16, float32 or float64
        A segmentation network's output after softmax, channel 0 = background. Leading dimensions
        are the batch.
    images : (..., h, w, 3) array or tensor of uint8, or a list of (h, w, 3) ones, one per image
        The network's photos, before colours are normalised; of any size.
    params : str or CRFParams, optional
        The CRF's pairwise terms on the grid of the probabilities, as for `dense_crf`. "sec-train"
        are the published numbers of SEC's training: spatial widths of 80/12 and 3/12 on a grid of
        41 by 41 for photos of 321 by 321. The factor 1/12 is not the ratio of grid and photo: for
        widths of 80 and 3 pixels of the photo use ``PRESETS["sec"].scaled(41 / 321)``.
    present : (..., K - 1) bool, or 0 and 1 of any dtype, or None, optional
        Tags, as for `dense_crf`: Q has the background and these classes only. None means all.
    iterations : int, optional
        Mean field iterations of the CRF.
    normalize : {"pixels", "elements"}, optional
        The divisor of the sum of Q log(Q/p): the number of pixels of all images, as in SEC's
        code, or that times K, as printed in the paper, which makes the loss K times smaller.
    threads : int or None, optional
        Threads of the CRF; None means one per core. The result does not depend on it.

    Returns
    -------
    tensor of no dimensions, float64 for float64 probabilities, otherwise float32
        The mean of KL(Q || p), at least 0 up to rounding. Without images or pixels it is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or device, there is one channel only or, on
        the CPU, probabilities are outside [0, 1] by more than rounding, or cues or tags are not
        masks; what `dense_crf` raises.

    Notes
    -----
    Equation 4 of [1]_, after SEC [2]_. Q is a constant: as in SEC's code, no gradient flows
    through the CRF, and training moves p towards Q. The CRF takes the probabilities before they
    are floored and clips them at 1e-5 (SEC's takes the scores before softmax, unclipped). Then p
    and Q are floored as in SEC's code: 1e-4 is added to p, values of Q below 1e-4 become 1e-4, and
    both are divided by their sums.

    Photos are resized to (H, W) with half-pixel centres, without antialiasing, edges clamped,
    rounded to uint8. SEC's code aligns the corners instead. Nothing is moved between devices:
    probabilities and photos must be on one device, as for `dense_crf`.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749.
    .. [2] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.

    Examples
    --------
    A boundary at an edge of the photo has a lower loss than one beside the edge.

    >>> import torch
    >>> from cuekit import losses
    >>> photo = torch.zeros(4, 8, 3, dtype=torch.uint8)
    >>> photo[:, 4:] = 255
    >>> left = torch.full((4, 8), 0.05)
    >>> left[:, :4] = 0.95
    >>> on_edge = torch.stack([left, 1 - left])
    >>> beside = on_edge.roll(1, dims=-1)
    >>> low, high = (losses.constrain_to_boundary_loss(p, photo) for p in (on_edge, beside))
    >>> bool(low < high)
    True
    """
    p = _check_probabilities(probabilities)
    check_choice(normalize, "normalize", get_args(Normalize))
    q = _smoothed(p, images, params, present, iterations, threads)
    if p.numel() == 0:
        return p.sum()
    elements = q * (q / _floored(p)).log()
    return _mean(elements if normalize == "elements" else elements.sum(-3))


def _pooled(maps: torch.Tensor, decay: float) -> torch.Tensor:
    """Global weighted rank pooling of (..., N): the j-th largest value, j >= 0, weighs decay^j."""
    weights = decay ** torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    # Not a matrix product: autocast would compute that in half precision.
    return (maps.sort(-1, descending=True).values * weights).sum(-1) / weights.sum()


def expansion_loss(probabilities: torch.Tensor, present: Any) -> torch.Tensor:
    """SEC's expansion loss: present classes cover part of the image, absent classes no pixel.

    Parameters
    ----------
    probabilities : (..., K, H, W) tensor of float16, bfloat16, float32 or float64
        A segmentation network's output after softmax, channel 0 = background. Leading dimensions
        are the batch.
    present : (..., K - 1) bool, or 0 and 1 of any dtype, or None
        The foreground classes in the image. The background has no entry. None means all. If the
        probabilities are on another device than the CPU, a tensor on that device.

    Returns
    -------
    tensor of no dimensions, float64 for float64 probabilities, otherwise float32
        The mean over the batch of the sum of three terms: the mean over present classes of
        -log G(p_c, 0.996), the mean over absent classes of -log(1 - max p_c), and
        -log G(p_0, 0.999). G(p, d) is the weighted mean of a map's values in descending order;
        value j, from j = 0, has weight d**j. A mean over no class is 0. Without images or pixels
        the loss is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or device, there is one channel only or, on
        the CPU, probabilities are outside [0, 1] by more than rounding, or cues or tags are not
        masks.

    Notes
    -----
    This term of SEC [1]_ is left out by the paper [2]_; it is here for comparison. SEC's code
    gives NaN for an image without tags, or with all. The decays are SEC's, for a grid of 41 by 41:
    the sums of their weights are about 250 and 1000 pixels for any larger grid, too. Probabilities
    are floored as in SEC's code: 1e-4 is added, then they are divided by their sum. Nothing is
    moved between devices, and on a GPU nothing synchronises.

    References
    ----------
    .. [1] A. Kolesnikov, C. Lampert, "Seed, expand and constrain", ECCV 2016,
       :doi:`10.1007/978-3-319-46493-0_42`.
    .. [2] T. Sun et al., arXiv:1904.01749.

    Examples
    --------
    Background and three classes of equal probabilities, one of them present: log 4 for it, log 4/3
    on average for the two absent classes, log 4 for the background.

    >>> import torch
    >>> from cuekit import losses
    >>> losses.expansion_loss(torch.full((4, 2, 2), 0.25), [True, False, False])
    tensor(3.0603)
    """
    p = _check_probabilities(probabilities)
    tags = _tags(present, p)
    if p.numel() == 0:
        return p.sum()
    maps = _floored(p).flatten(-2)
    background, foreground = maps[..., 0, :], maps[..., 1:, :]
    missed = -_pooled(foreground, 0.996).log()
    found = -(1 - foreground.amax(-1)).log()
    return _mean(
        _mean_where(tags, missed) + _mean_where(~tags, found) - _pooled(background, 0.999).log()
    )


def _of_size(values: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Resize (N, C, H, W) as the code that the dense energy loss comes from does."""
    if tuple(values.shape[-2:]) == size:
        return values
    align = False if mode == "bilinear" else None
    return torch.nn.functional.interpolate(values, size, mode=mode, align_corners=align)


def _nearest_photos(images: Any, p: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Check photos (..., h, w, 3), or a list of them, and resize them to (N, *size, 3)."""
    *batch, _, height, width = p.shape
    count, needed = math.prod(batch), height * width > 0
    if isinstance(images, list | tuple):
        if len(images) != count:
            raise ValueError(
                f"images must be {count} photos to match probabilities, got {len(images)}"
            )
        each = [_check_photos(im, f"images[{i}]", (), needed) for i, im in enumerate(images)]
    else:
        each = [_check_photos(images, "images", batch, needed)]
    resized = [
        _of_size(photos.reshape(-1, *photos.shape[-3:]).movedim(-1, 1), size, "nearest")
        for photos in each
        if photos.numel()
    ]
    blank = torch.zeros((0, 3, *size), dtype=torch.uint8, device=p.device)
    return (torch.cat(resized) if resized else blank).movedim(1, -1).contiguous()


def dense_energy_loss(
    probabilities: torch.Tensor,
    images: Any,
    *,
    sxy: float = 100,
    srgb: float = 15,
    scale: float = 0.5,
    weight: float = 1e-7,
    roi: Any = None,
    labels: Any = None,
    ignore: int = 255,
    threads: int | None = 1,
) -> torch.Tensor:
    """Energy of a dense CRF: high where pixels that are alike have different probabilities.

    Parameters
    ----------
    probabilities : (..., K, H, W) tensor of float16, bfloat16, float32 or float64
        A segmentation network's output after softmax. Leading dimensions are the batch.
    images : (..., h, w, 3) array or tensor of uint8, or a list of (h, w, 3) ones, one per image
        The network's photos, before colours are normalised; of any size.
    sxy : float, optional
        Standard deviation of the bilateral filter in pixels of the (H, W) grid.
    srgb : float, optional
        Its standard deviation in levels of each colour channel.
    scale : float, optional
        The loss is computed on a grid of (H * scale, W * scale), rounded down, at least 1. Above 0,
        at most 1.
    weight : float, optional
        Factor of the loss, at least 0: 1e-7 in ToCo, SeCo and others with labels, 1e-9 to 2e-9 in
        the code of [1]_.
    roi : (..., H, W) bool, or 0 and 1 of any dtype, or None, optional
        The pixels that count, such as those of the photo within a padded crop. None means all.
    labels : (..., H, W) array or tensor of any integer dtype, or None, optional
        The pseudo labels that the network is trained with. With them, the loss has a gate, see
        Returns. None: no gate.
    ignore : int, optional
        The label of pixels that have none.
    threads : int or None, optional
        Threads of the filter; None means one per core. The result does not depend on it.

    Returns
    -------
    tensor of no dimensions, float64 for float64 probabilities, otherwise float32
        -weight * sum(S * gate * AS) / N over all classes, pixels and the N images of the batch: S
        are the probabilities on the smaller grid times `roi`, and AS is S after
        `bilateral_filter`, not normalised, of widths sxy * scale and srgb. The gate is 1 where the
        label is `ignore`, elsewhere max(roi - p, 0), with p the largest probability of the pixel;
        without labels it is 1 everywhere. Without images or pixels the loss is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape, device or value, there is one channel only
        or, on the CPU, probabilities are outside [0, 1] by more than rounding, or `roi` holds other
        values than 0 and 1; what `bilateral_filter` raises.

    Notes
    -----
    The loss of [1]_ without labels; with them the form of RRM [2]_, which AFA, ToCo, SeCo and DuPL
    share. As in their code, the gradient with respect to S is -2 * weight * gate * AS * roi / N.
    Without a gate, that is the derivative, up to the lattice's own asymmetry: see
    `bilateral_filter`. With one, it is not, because a pair of pixels has two gates, and the gates
    depend on S: it pulls each pixel towards those that are alike, by its own gate. Nothing flows
    to the gate or to the photo.

    As in their code, photos, `roi` and labels are resized by nearest neighbours, probabilities
    bilinearly with half-pixel centres and without antialiasing. The nearest neighbour of pixel i is
    that at i * h / (H * scale), rounded down: at half the size, the even pixels. (Elsewhere in this
    package it is the one whose centre is nearest.) Nothing is moved between devices. On a GPU
    nothing synchronises. `cuekit.nn.DenseEnergyLoss` has the call of the published modules.

    References
    ----------
    .. [1] M. Tang et al., "On regularized losses for weakly-supervised CNN segmentation", ECCV
       2018, arXiv:1803.09569.
    .. [2] B. Zhang et al., "Reliability does matter: an end-to-end weakly supervised semantic
       segmentation approach", AAAI 2020, arXiv:1911.08039.

    Examples
    --------
    A boundary at an edge of the photo has a lower energy than one beside the edge.

    >>> import torch
    >>> from cuekit import losses
    >>> photo = torch.zeros(4, 8, 3, dtype=torch.uint8)
    >>> photo[:, 4:] = 255
    >>> left = torch.full((4, 8), 0.05)
    >>> left[:, :4] = 0.95
    >>> on_edge = torch.stack([left, 1 - left])
    >>> beside = on_edge.roll(1, dims=-1)
    >>> low, high = (
    ...     losses.dense_energy_loss(p, photo, scale=1, weight=1) for p in (on_edge, beside)
    ... )
    >>> bool(low < high)
    True
    """
    sxy, srgb = check_width(sxy, "sxy"), check_width(srgb, "srgb")
    scale = check_number(scale, "scale")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {scale}")
    weight = check_number(weight, "weight", minimum=0)
    ignore = check_integer(ignore, "ignore")
    threads = check_threads(threads)
    p = _check_probabilities(probabilities)
    *batch, channels, height, width = p.shape
    count = math.prod(batch)
    size = max(1, int(height * scale)), max(1, int(width * scale))
    photos = _nearest_photos(images, p, size)
    inside = None if roi is None else _roi(roi, p)
    unknown = None if labels is None else _labels_equal(labels, ignore, p)
    if p.numel() == 0:
        return p.sum()

    def resized(mask: torch.Tensor) -> torch.Tensor:  # (..., H, W) bool -> (N, 1, h, w) bool
        maps = mask.reshape(count, 1, height, width)
        return _of_size(maps.byte(), size, "nearest") != 0

    inside = None if inside is None else resized(inside)
    unknown = None if unknown is None else resized(unknown)
    small = _of_size(p.reshape(count, channels, height, width), size, "bilinear")

    def gated(s: torch.Tensor) -> torch.Tensor:
        similar = bilateral_filter(
            s if inside is None else s * inside,
            photos,
            sxy=sxy * scale,
            srgb=srgb,
            threads=threads,
        )
        factor = None if inside is None else inside.to(s.dtype)  # (N, 1, *size)
        if unknown is not None:
            whole = 1 if factor is None else factor
            gate = torch.where(unknown, 1, (whole - s.amax(1, keepdim=True)).clamp(min=0))
            factor = gate * whole
        return similar if factor is None else similar.mul_(factor)

    pull = _constant(small, gated, "dense_energy_loss", "filter")
    energy = (small * pull).sum()
    # The value of the energy, and twice its gradient.
    return -weight / count * (2 * energy - energy.detach())


def _check_photos(
    photos: Any,
    name: str,
    batch: Sequence[int],
    needed: bool,
) -> torch.Tensor:
    tensor = _tensor(photos, name, ("uint8",))
    shape = tuple(tensor.shape)
    if shape[:-3] != tuple(batch) or len(shape) < 3 or shape[-1] != 3:
        expected = ", ".join(map(str, (*batch, "H", "W", 3)))
        raise ValueError(f"{name} must have shape ({expected}) to match probabilities, got {shape}")
    if needed and 0 in shape[-3:]:
        raise ValueError(f"{name} must have at least one pixel, got {shape}")
    return tensor


def _roi(roi: Any, p: torch.Tensor) -> torch.Tensor:
    """Check a region of interest and return it as a bool tensor (..., H, W)."""
    tensor = _tensor(roi, "roi", ("bool", *INTEGERS, *FLOATS))
    values = _values(tensor)
    if values is not None and values.dtype != bool and not ((values == 0) | (values == 1)).all():
        wrong = values[(values != 0) & (values != 1)].flat[0]
        raise ValueError(f"roi must hold 0 and 1, got {wrong}")
    return _mask(tensor, "roi", (*p.shape[:-3], *p.shape[-2:]), p)


def _labels_equal(labels: Any, label: int, p: torch.Tensor) -> torch.Tensor:
    """Check labels (..., H, W) of an integer dtype and tell which are `label`."""
    tensor = _tensor(labels, "labels", INTEGERS)
    _check_matches(tensor, "labels", (*p.shape[:-3], *p.shape[-2:]), p)
    if not -(2**63) <= label < 2**63:
        return torch.zeros_like(tensor, dtype=torch.bool)
    return tensor.long() == label
