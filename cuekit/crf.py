"""Dense CRF: mean field that aligns class probabilities with the edges of the photo."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from cuekit import _compile, _torch
from cuekit._arrays import (
    empty,
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
from cuekit._backend import backend, cpu_kernels
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    LARGEST,
    RANGE_TOLERANCE,
    check_any_array,
    check_array,
    check_choice,
    check_integer,
    check_number,
    check_present,
    check_switch,
    check_threads,
    check_values,
    lattice_width,
    refuse_other_orders,
)
from cuekit._device import AnyArray, AnyFramework, Array
from cuekit.crf_gradient import (
    check_record,
    check_tensor,
    refuse_gradient,
    refuse_tolerance,
    unrolled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._kernels import CrfFilter, CrfRecord

Unary: TypeAlias = Literal["probabilities", "energies"]
Storage: TypeAlias = Literal["float32", "float16"]

PHOTO_DTYPES = ("uint8", "uint16", *FLOATS)
MOST_CHANNELS = 8

# More classes than any data set has: a larger number is a mistake, and would take for ever.
MOST_CLASSES = 2**16


@dataclass(frozen=True)
class CRFParams:
    """Weights and widths of the two kernels of a dense CRF.

    Parameters
    ----------
    gaussian_weight : float
        Weight of the smoothness kernel, which compares positions only; 0 leaves it out.
    gaussian_sxy : float or (float, float)
        Its standard deviation in pixels, or that along x and that along y, in this order.
    bilateral_weight : float
        Weight of the appearance kernel, which compares positions and colours; 0 leaves it out.
    bilateral_sxy : float or (float, float)
        Its standard deviation in pixels, or that along x and that along y, in this order.
    bilateral_srgb : float or tuple of float
        Its standard deviation in the unit of the photo, for uint8 in levels from 0 to 255: the
        same for all channels, or one for each.

    Raises
    ------
    TypeError, ValueError
        If a value is not a number, or not so many numbers, or not finite, a weight is negative or
        above 1e30, or a width is not positive.

    Examples
    --------
    >>> from cuekit.crf import PRESETS, CRFParams
    >>> PRESETS["irn"] == CRFParams(3, 3, 10, 50, 5)
    True
    >>> PRESETS["sec"].scaled(0.5)  # for photos and maps at half the size
    CRFParams(gaussian_weight=3.0, gaussian_sxy=1.5, bilateral_weight=10.0, bilateral_sxy=40.0, \
bilateral_srgb=13.0)
    """

    gaussian_weight: float
    gaussian_sxy: float | tuple[float, float]
    bilateral_weight: float
    bilateral_sxy: float | tuple[float, float]
    bilateral_srgb: float | tuple[float, ...]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name = field.name
            value = getattr(self, name)
            if name.endswith("weight"):
                value = check_number(value, name, minimum=0)
                if value > LARGEST:
                    raise ValueError(f"{name} must be at most {LARGEST:g}, got {value}")
            elif isinstance(value, tuple | list):
                if len(value) == 0 or (len(value) != 2 and name.endswith("sxy")):
                    pair = "a pair (x, y)" if name.endswith("sxy") else "one for each channel"
                    raise ValueError(f"{name} must be a number or {pair}, got {value!r}")
                value = tuple(_checked_width(each, name) for each in value)
                if len(value) == 1 or (name.endswith("sxy") and value[0] == value[1]):
                    value = value[0]
            else:
                value = _checked_width(value, name)
            object.__setattr__(self, name, value)

    def scaled(self, factor: float) -> CRFParams:
        """Multiply the two `sxy`: for maps and photos that are `factor` times as large.

        Colours do not shrink with a photo, and weights belong to the unaries: both stay.
        """
        factor = check_number(factor, "factor")
        if factor <= 0:
            raise ValueError(f"factor must be greater than 0, got {factor}")
        names = ("gaussian_sxy", "bilateral_sxy")
        widths = {name: tuple(w * factor for w in self.widths(name, 2)) for name in names}
        return dataclasses.replace(self, **widths)  # type: ignore[arg-type]

    def widths(self, name: str, count: int) -> tuple[float, ...]:
        """Return one of the widths as `count` numbers."""
        value = getattr(self, name)
        result: tuple[float, ...] = value if isinstance(value, tuple) else (value,) * count
        if len(result) != count:
            raise ValueError(f"{name} must be a number or {count} to match image, got {value!r}")
        return result

    def numbers(self) -> list[float]:
        """Return all numbers in a row: what `from_numbers` makes the same object of."""
        srgb = self.bilateral_srgb
        return [
            self.gaussian_weight,
            *self.widths("gaussian_sxy", 2),
            self.bilateral_weight,
            *self.widths("bilateral_sxy", 2),
            *(srgb if isinstance(srgb, tuple) else [srgb]),
        ]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> CRFParams:
        """Undo `numbers`."""
        gaussian, x, y, bilateral, wide_x, wide_y, *srgb = numbers
        return cls(gaussian, (x, y), bilateral, (wide_x, wide_y), tuple(srgb))


def _checked_width(value: Any, name: str) -> float:
    width = check_number(value, name, minimum=0)
    if width == 0:
        raise ValueError(f"{name} must be greater than 0, got {width}")
    return width


_SEC = CRFParams(3, 3, 10, 80, 13)
_DEEPLAB = CRFParams(3, 1, 4, 67, 3)
_TOCO_SEG = CRFParams(1, 1, 4, 121, 5)
_WECLIP = CRFParams(3, 3, 4, 64, 5)
PRESETS: Mapping[str, CRFParams] = MappingProxyType(
    {
        # kolesman/SEC, as halbielee/SEC_pytorch:CRF/krahenbuhl2013/CRF.py has it.
        "sec": _SEC,
        "sec-train": _SEC.scaled(1 / 12),
        "psa": _SEC,  # jiwoon-ahn/psa:tool/imutils.py
        "irn": CRFParams(3, 3, 10, 50, 5),  # jiwoon-ahn/irn:misc/imutils.py
        "deeplab": _DEEPLAB,  # kazuto1011/deeplab-pytorch:configs/voc12.yaml
        "clip-es": _DEEPLAB,  # linyq2117/CLIP-ES:eval_cam_with_crf.py
        "beco": _DEEPLAB,  # ShenghaiRong/BECO:utils/crf.py
        "excel": _DEEPLAB,  # zwyang6/ExCEL:tools/infer_lam.py
        "more": _DEEPLAB,  # zwyang6/MoRe:tools/infer_lam.py
        "toco-cam": CRFParams(3, 3, 4, 36, 3),  # rulixiang/ToCo:tools/infer_cam_crf_label.py
        "toco-seg": _TOCO_SEG,  # rulixiang/ToCo:tools/infer_seg_voc.py
        "cosa": _TOCO_SEG,  # youshyee/CoSA:utils/seg_helper.py
        "dupl": _TOCO_SEG,  # Wu0409/DuPL:tools/eval_seg_voc.py
        "seco": _TOCO_SEG,  # zwyang6/SeCo:tools/infer_seg_voc.py
        "weclip": _WECLIP,  # zbf1991/WeCLIP:test_msc_flip_voc.py
        "afa": _WECLIP,  # rulixiang/afa:scripts/test_msc_flip.py
        "mctformer": CRFParams(3, 4, 3, 83, 5),  # xulianuwa/MCTformer:seg/tool/imutils.py
        "weaktr": CRFParams(3, 3, 3, 83, 5),  # hustvl/WeakTr:OnlineRetraining/segm/eval/densecrf.py
        "cutler": CRFParams(7, 3, 10, 50, 5),  # facebookresearch/CutLER:maskcut/crf.py
        "fma": CRFParams(2, 2, 4, 65, 3),  # HAL-42/FMA-WSSS:configs/patterns/crf/deeplab_crf.py
    }
)
"""Settings of published code, by name; `dense_crf` tells which unary each of them goes with."""


def dense_crf(
    probabilities: AnyFramework,
    image: Any,
    params: str | CRFParams = "sec",
    *,
    present: Any = None,
    iterations: int = 10,
    tolerance: float | None = None,
    epsilon: float = 1e-5,
    unary: Unary = "probabilities",
    storage: Storage = "float32",
    differentiable: bool = False,
    validate: bool = False,
    threads: int | None = 1,
) -> AnyFramework:
    """Refine class probabilities with a photo: mean field of the fully connected CRF.

    Parameters
    ----------
    probabilities : (..., K, H, W) array or tensor of float16, float32 or float64
        Channel 0 = background. Values in [0, 1]; rounding may exceed this range by 0.001. They
        are clipped to [`epsilon`, 1] before the logarithm, and need not sum to 1. Apply softmax to
        logits first. Results of `suppress_absent` with a margin above 0.001 can be negative: clip
        them first.
    image : (..., H, W, 3) array or tensor of uint8; or (..., H, W) or (..., H, W, C)
        The photos, at the size of `probabilities`. Gray, or of up to 8 channels, uint8, uint16,
        float16, float32 or float64 in any range: depth, bands, bands and depth. An alpha channel
        is one of the channels: leave it out. `bilateral_srgb` is in the photo's unit.
    params : str or CRFParams, optional
        The name of a preset, see Notes, or your own weights and widths.
    present : (..., K - 1) bool or None, optional
        Which foreground classes the image contains. Only the background and these take part, and
        the others are exactly 0. The background has no entry. None means all.
    iterations : int, optional
        Steps of the mean field, at most; 0 gives the softmax of the unaries.
    tolerance : float or None, optional
        Stop after the step in which no probability of the photo changed by more than this. None:
        never. On a CUDA device it synchronises after every step.
    epsilon : float, optional
        The least probability, from 1e-37 to 1.
    unary : {"probabilities", "energies"}, optional
        What the first argument holds. "energies" are -log p, up to a constant per pixel: values
        in float32's range, or +inf where a class is impossible, such as -log 0. `epsilon` does not
        apply to them. At every pixel, the background or a present class needs a finite energy.
    storage : {"float32", "float16"}, optional
        On a CUDA device, the dtype in which the lattices' values are stored; sums are always
        float32. "float16" halves the memory and the memory traffic. It is for RGB photos of uint8
        with equal widths; the CPU has float32 only.
    differentiable : bool, optional
        Whether autograd knows the gradient with respect to `probabilities`, which are then torch
        tensors on the CPU; see Notes. A `tolerance` is refused. Without it, a tensor that requires
        grad is refused.
    validate : bool, optional
        On a CUDA device, also check the values of `probabilities`, `present` and floating photos;
        this synchronises with the device. On the CPU they are always checked. Without the check,
        values outside [0, 1] are clipped, a pixel without a finite energy has equal probabilities
        before the first iteration, and what the photo's values that are not finite reach is NaN.
    threads : int or None, optional
        Number of threads; None means one per core. The result does not depend on it.

    Returns
    -------
    (..., K, H, W) array or tensor, float64 for float64 probabilities, otherwise float32
        The marginals Q; they sum to 1 at every pixel. Where a class is impossible, its Q is below
        1e-37.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, probabilities lie outside [0, 1],
        energies are NaN, -inf or beyond float32's range, all energies of a pixel are +inf, or a
        photo has 2**28 pixels or more, or so many for so narrow widths that the lattice cannot be
        addressed; values of a floating photo that are not finite.

    Warns
    -----
    UserWarning
        If no channel of a floating photo spans more than `bilateral_srgb`: presets are for levels
        from 0 to 255, not for values from 0 to 1.

    Notes
    -----
    With labels x, positions p and colours I, the energy is that of equations 1 and 2 of [1]_, ::

        E(x)    = sum_i u_i(x_i) + sum_{i<j} [x_i != x_j] k(i, j),   u_i(l) = -log p_i(l)
        k(i, j) = bilateral_weight exp(-|p_i - p_j|^2 / 2 sxy^2 - |I_i - I_j|^2 / 2 srgb^2)
                + gaussian_weight  exp(-|p_i - p_j|^2 / 2 sxy^2)

    and the mean field of [2]_ starts at the softmax of -u and repeats Q = softmax(K Q - u). As in
    the code of SEC and of pydensecrf, and unlike the equations as printed, each kernel is
    normalised symmetrically, k(i, j) / sqrt(s_i s_j) with s_i = sum_j k(i, j), and includes the
    pixel itself, j = i. K Q is computed on the permutohedral lattice [3]_, an approximation: one
    bilateral filter is off by 3 to 9 % of smooth maps, by up to 26 % of noise. This error is much
    larger than the rounding of float32, so all is computed in float32 whatever the dtype: results
    are pydensecrf's up to rounding. Results for float16 probabilities are float32, unlike in other
    functions: Q is often compared with thresholds near 1, where float16 values are 0.0005 apart,
    so a threshold of 0.95 would select other pixels.

    RGB photos of uint8 with equal widths have a kernel of their own, 1.3 to 1.5 times as fast.
    Others, and all with a `tolerance`, are computed as `dense_crf_features` does, one image at a
    time. `MeanField.of_photo` gives Q and its KL divergence after each iteration.

    The lattice's error depends on the order of features. They are x, y, r, g, b for three channels,
    as in pydensecrf's `addPairwiseBilateral`, and y, x, channels for other photos, as in its
    `create_pairwise_bilateral`; those of the smoothness kernel are x, y.

    Widths below 0.125 count as 0.125, but for colours of floating photos. At this width, two pixels
    next to each other, or two gray levels, are 8 standard deviations apart, which is out of the
    lattice's reach. A narrower kernel has the same result up to the lattice's error.

    `suppress_absent` keeps absent classes below a ceiling before the CRF only: messages can raise
    them above it. Pass `present` here to leave them out of the CRF; with fewer classes it is also
    faster.

    Presets set the pairwise terms; you choose the unary. The list has bilateral weight, sxy, srgb;
    Gaussian weight, sxy; and the unary that the authors use:

    - ``"sec"``: 10, 80, 13; 3, 3. -log p of the network.
    - ``"sec-train"``: 10, 80/12, 13; 3, 3/12. -log p at 41×41. SEC divides by 12; the true scale
      of 41×41 maps of 321×321 photos is ``PRESETS["sec"].scaled(41 / 321)``.
    - ``"psa"``: as "sec". -log p, p at least 1e-5.
    - ``"irn"``: 10, 50, 5; 3, 3. `labels_to_probabilities` of hard labels, gt_prob 0.7.
    - ``"deeplab"``: 4, 67, 3; 3, 1. Softmax; DeepLab-v2 in its port to PyTorch.
    - ``"clip-es"``: the same. Class activation maps with 1 - their maximum as background; then
      labels of confidence below 0.95 are set to 255. Their published run feeds a photo minus its
      mean, in BGR, cast to uint8, where it wraps: a plain photo gives another result.
    - ``"beco"``, ``"excel"``, ``"more"``: the same. Softmax; maps with a background; maps with
      1 - their maximum as background.
    - ``"toco-cam"``: 4, 36, 3; 3, 3. Softmax.
    - ``"toco-seg"``, ``"dupl"``, ``"seco"``: 4, 121, 5; 1, 1. Softmax. ``"cosa"``: the same with
      ``iterations=1``.
    - ``"weclip"``, ``"afa"``: 4, 64, 5; 3, 3. Softmax.
    - ``"mctformer"``: 3, 83, 5; 3, 4. Softmax; of the final segmentation only.
    - ``"weaktr"``: 3, 83, 5; 3, 3. Softmax, on VOC; on COCO WeakTr has those of "deeplab".
    - ``"cutler"``: 10, 50, 5; 7, 3. Softmax of a mask and 1 - the mask.
    - ``"fma"``: 4, 65, 3; 2, 2. FMA-WSSS; its file of settings does not name the unary.

    Workspace is 4 bytes per class and pixel, 72 more per pixel, and for every vertex of the
    lattice 8 bytes per class and some 100 more; photos have 0.03 to a few vertices per pixel. Up
    to 128 MB of it are kept for the next call, and every image of a batch that is worked on at a
    time has its own. What depends on the size only is kept from call to call for the last four
    sizes of up to 2**20 pixels, up to another 128 MB; for other photos than RGB, up to 2**19 pixels
    and the same. Input that is not C-contiguous is copied
    once. On the CPU, images of a batch that follow each other and have the same photo share its
    lattice, and are computed in pairs if they have the same up to 8 classes: two maps of one photo
    take 1.2 to 1.5 times as long in one call as one. And a call in the main thread runs signal
    handlers while it computes, so Ctrl-C ends it.

    With ``differentiable=True``, the gradient is that of the mean field unrolled, as in CRF-as-RNN
    [4]_: through all iterations, their softmax, the filters, and the logarithm of probabilities.
    Those that are clipped get 0, and nothing flows to the photo. The result has the same bits. The
    lattices, and Q after each iteration, are kept for as long as autograd keeps the graph: 4 bytes
    per iteration, class and pixel, the number of classes rounded up to 4, 8, 16, 24, 32 or a
    multiple of 16. Result and gradient together take 2.1 to 2.5 times as long as the result alone,
    and for 21 classes and ten iterations 1.8 kB per pixel instead of 0.4. Like the result it is
    computed in float32; it is the exact one of what is computed, not of the filters that the
    lattice approximates. There is no second derivative. The function that calls it cannot be traced
    by torch.compile. `cuekit.losses` does without: there, nothing flows through the CRF.

    On a CUDA device the call does not synchronise, so workspace is allocated for the largest number
    of vertices that is possible: 76 bytes per class and pixel, the number of classes rounded up to
    a multiple of 4, and some 860 per pixel; with float16 storage 40 and 860. As many photos of a
    batch are processed at the same time as fit in 4 GB, at least one. Results differ from the CPU's
    by the rounding of float32, or float16, and are the same in every call.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749.
    .. [2] P. Krähenbühl, V. Koltun, "Efficient inference in fully connected CRFs with Gaussian
       edge potentials", NIPS 2011, arXiv:1210.5644.
    .. [3] A. Adams, J. Baek, A. Davis, "Fast high-dimensional filtering using the permutohedral
       lattice", Eurographics 2010, :doi:`10.1111/j.1467-8659.2009.01645.x`.
    .. [4] S. Zheng et al., "Conditional random fields as recurrent neural networks", ICCV 2015,
       arXiv:1502.03240.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.zeros((4, 8, 3), np.uint8)
    >>> photo[:, 5:] = 200
    >>> labels = (photo[..., 0] > 0).astype(int)
    >>> labels[1, 2], labels[3, 6] = 1, 255  # one is wrong, one is unknown
    >>> probabilities = cuekit.labels_to_probabilities(labels, 2)
    >>> cuekit.dense_crf(probabilities, photo, "irn").argmax(0)
    array([[0, 0, 0, 0, 0, 1, 1, 1],
           [0, 0, 0, 0, 0, 1, 1, 1],
           [0, 0, 0, 0, 0, 1, 1, 1],
           [0, 0, 0, 0, 0, 1, 1, 1]])
    """
    params = params_of(params)
    if check_switch(differentiable, "differentiable"):
        check_tensor(probabilities)
        refuse_tolerance(tolerance)
    if _compile.takes(probabilities):
        traced: AnyFramework = _compile.dense_crf(
            probabilities,
            image,
            params.numbers(),
            present,
            iterations,
            tolerance,
            epsilon,
            unary,
            storage,
            validate,
            threads,
        )
        return traced
    threads = check_threads(threads)

    def refined(records: list[CrfRecord] | None) -> AnyFramework:
        return _refined(
            probabilities,
            image,
            params,
            present,
            iterations,
            tolerance,
            epsilon,
            unary,
            storage,
            records,
            validate=validate,
            threads=threads,
        )

    if differentiable and _torch.needs_gradient(probabilities):
        result: AnyFramework = unrolled(
            probabilities,
            [],
            refined,
            2,
            energies=unary == "energies",
            epsilon=epsilon,
            threads=threads,
            name="dense_crf",
        )
        return result
    refuse_gradient(probabilities, "probabilities")
    return refined(None)


def _refined(
    probabilities: AnyFramework,
    image: Any,
    params: CRFParams,
    present: Any,
    iterations: int,
    tolerance: float | None,
    epsilon: float,
    unary: Unary,
    storage: Storage,
    records: list[CrfRecord] | None,
    *,
    validate: bool,
    threads: int,
    kept: list[CrfFilter] | None = None,
) -> AnyFramework:
    """Check the arguments of `dense_crf` and return its result; append records for a gradient.

    `kept`: for one image on the CPU, a list of its bilateral filter. If it is empty, the filter is
    built and appended.
    """
    layout = "(..., K, H, W)"
    scores = check_any_array(probabilities, "probabilities", FLOATS, ndim=3, layout=layout)
    *batch, channels, height, width = scores.shape
    check_classes(scores, -3)
    photos = check_any_photos(image, scores)
    tags = check_present(
        present,
        "present",
        tuple(batch),
        channels - 1,
        scores,
        "probabilities",
        validate=validate,
    )
    iterations = check_iterations(iterations)
    tolerance = check_tolerance(tolerance)
    if records is not None:
        check_record(iterations, scores.size)
    epsilon = check_epsilon(epsilon)
    energies = check_choice(unary, "unary", get_args(Unary)) == "energies"
    check_choice(storage, "storage", get_args(Storage))
    if height * width >= 2**28:
        raise ValueError(f"image must have fewer than 268435456 pixels, got {height * width}")
    check_values(validate)
    if validate and not is_on_cpu(scores):
        fault = _fault(scores, tags, energies=energies)
        if fault is not None:
            raise ValueError(fault)
        check_values(validate, ("image", photos))
    # On the CPU the kernel writes the classes that take part; fresh zeros for the others are free.
    blank = zeros if is_on_cpu(scores) and not tags.all() else empty
    out = blank(scores.shape, np.promote_types(scores.dtype, np.float32), scores)
    shape = (math.prod(batch), channels, height, width)
    if tolerance is not None or not _is_plain(photos, params):
        _check_float32(storage, scores)
        each = _Inference(energies, iterations, tolerance, epsilon, records, threads)
        _refine_any_photo(scores, photos, params, tags, out, each)
    elif kept is not None and params.bilateral_weight > 0 and iterations > 0 and out.size:
        if not kept:
            kept.append(
                cpu_kernels.crf_photo_filter(
                    flat(photos, height, width, 3),
                    lattice_width(params.widths("bilateral_sxy", 2)[0]),
                    lattice_width(params.widths("bilateral_srgb", 3)[0]),
                    params.bilateral_weight,
                    threads,
                )
            )
        valid = cpu_kernels.crf_of_photo(
            flat(scores, channels, height, width),
            kept[0],
            tags,
            out,
            params.gaussian_weight,
            lattice_width(params.widths("gaussian_sxy", 2)[0]),
            energies,
            iterations,
            epsilon,
            threads,
        )
        _check_valid(scores, tags, valid=valid, energies=energies)
    elif out.size:
        kernels, context = backend(scores, threads)
        arguments = (
            flat(scores, *shape),
            flat(photos, shape[0], height, width, 3),
            flat(tags, shape[0], channels - 1),
            out.reshape(shape),
            params.gaussian_weight,
            lattice_width(params.widths("gaussian_sxy", 2)[0]),
            params.bilateral_weight,
            lattice_width(params.widths("bilateral_sxy", 2)[0]),
            lattice_width(params.widths("bilateral_srgb", 3)[0]),
            energies,
            iterations,
            epsilon,
        )
        if records is None:
            valid = kernels.crf(*arguments, storage, context)
        else:
            _check_float32(storage, scores)
            records += cpu_kernels.crf_recorded(*arguments, threads)
            valid = len(records) > 0
        _check_valid(scores, tags, valid=valid, energies=energies)
    return like(out, probabilities)


class PhotoCRF:
    """`dense_crf` of one photo, again and again.

    Its bilateral lattice is built once, if the kernel for RGB photos of uint8 can take it.
    """

    def __init__(self, photo: NDArray[np.uint8], params: str | CRFParams) -> None:
        self._photo, self._params = photo, params_of(params)
        self._kept: list[CrfFilter] = []

    def __call__(self, probabilities: Array, iterations: int) -> Array:
        """Return `dense_crf` of probabilities (K, H, W)."""
        refined: Array = _refined(
            probabilities,
            self._photo,
            self._params,
            present=None,
            iterations=iterations,
            tolerance=None,
            epsilon=1e-5,
            unary="probabilities",
            storage="float32",
            records=None,
            validate=False,
            threads=1,
            kept=self._kept,
        )
        return refined


def _check_valid(scores: AnyArray, tags: AnyArray, *, valid: bool, energies: bool) -> None:
    """Refuse scores for which the kernel has returned False."""
    if not valid:
        fault = _fault(scores, tags, energies=energies)
        raise ValueError(fault or "probabilities must not change while they are read")


def params_of(params: Any) -> CRFParams:
    """Return a preset by its name, or parameters as they are."""
    if isinstance(params, str):
        return PRESETS[check_choice(params, "params", tuple(PRESETS))]
    if not isinstance(params, CRFParams):
        raise TypeError(f"params must be a preset's name or CRFParams, got {params!r}")
    return params


def check_classes(scores: AnyArray, axis: int) -> None:
    """Refuse scores with fewer than two classes along an axis."""
    if scores.shape[axis] < 2:
        raise ValueError(
            "probabilities must have a background channel and at least one class, got shape "
            f"{scores.shape}: for a single map p, stack [1 - p, p]"
        )


def check_iterations(value: Any) -> int:
    """Return a number of iterations that the kernels can count."""
    return min(check_integer(value, "iterations", minimum=0), 2**31 - 1)


def check_tolerance(value: Any) -> float | None:
    """Return the change at which the mean field stops, or None."""
    return None if value is None else check_number(value, "tolerance", minimum=0)


def check_epsilon(value: Any) -> float:
    """Return the least probability."""
    epsilon = check_number(value, "epsilon", minimum=1e-37)
    if epsilon > 1:
        raise ValueError(f"epsilon must be at most 1, got {epsilon}")
    return epsilon


def check_any_photos(image: Any, scores: AnyArray) -> Any:
    """Adopt photos beside scores (..., K, H, W), as (..., H, W, C); gray ones get C = 1."""
    *batch, _, height, width = scores.shape
    layout = "(..., H, W) or (..., H, W, C)"
    photos = check_any_array(
        image, "image", PHOTO_DTYPES, ndim=2, layout=layout, beside=(scores, "probabilities")
    )
    size = (*batch, height, width)
    if photos.shape == size:
        return flat(photos, *size, 1)
    if photos.shape[:-1] != size:
        refuse_other_orders(photos, scores, "probabilities", layout)
        names = ", ".join(map(str, size))
        raise ValueError(
            f"image must have shape ({names}) or ({names}, C) to match probabilities, got "
            f"{photos.shape}"
        )
    if not 1 <= photos.shape[-1] <= MOST_CHANNELS:
        raise ValueError(
            f"image must have 1 to {MOST_CHANNELS} channels, got {photos.shape[-1]} in shape "
            f"{photos.shape}"
        )
    return photos


def _is_plain(photos: AnyArray, params: CRFParams) -> bool:
    """Tell whether the kernel for RGB photos of uint8 and equal widths can take these."""
    is_rgb = photos.shape[-1] == 3 and photos.dtype == np.uint8
    srgb = params.widths("bilateral_srgb", photos.shape[-1])
    sxy = (params.gaussian_sxy, params.bilateral_sxy)
    return is_rgb and len(set(srgb)) == 1 and not any(isinstance(pair, tuple) for pair in sxy)


class _Inference(NamedTuple):
    energies: bool
    iterations: int
    tolerance: float | None
    epsilon: float
    records: list[CrfRecord] | None  # of each image, for a gradient; None: not wanted
    threads: int


def _refine_any_photo(
    scores: Any,  # (..., K, H, W)
    photos: Any,  # (..., H, W, C)
    params: CRFParams,
    tags: Any,
    out: Any,
    each: _Inference,
) -> None:
    """Write to `out` what the CRF of the photos' features gives."""
    from cuekit.crf_features import Checked, kept_gaussian_filter, kernels_of_photo

    channels, pixels = scores.shape[-3], scores.shape[-2] * scores.shape[-1]
    scores, photos = flat(scores, *scores.shape), flat(photos, *photos.shape)
    for index in np.ndindex(*scores.shape[:-3]) if out.size else ():
        own = Checked.of(
            part(scores, index).reshape(channels, pixels),
            part(tags, index),
            kernels_of_photo(part(photos, index), params),
            each.energies,
            each.epsilon,
            each.threads,
        )
        target = part(out, index).reshape(channels, pixels)
        first = kept_gaussian_filter(part(photos, index), params, each.threads)
        field = own.field((), first)
        if not field.run_until(each.iterations, each.tolerance, target, each.records):
            fault = _fault(scores, tags, energies=each.energies)
            raise ValueError(fault or "probabilities must not change while they are read")


def _check_float32(storage: str, scores: AnyArray) -> None:
    if storage != "float32":
        kind = "for photos that are not RGB of uint8, unequal widths, and with a tolerance"
        where = "on the CPU" if is_on_cpu(scores) else kind
        raise ValueError(f"storage must be 'float32' {where}, got {storage!r}")


def _fault(scores: AnyArray, tags: AnyArray, *, energies: bool) -> str | None:
    """Say which of the scores (..., K, H, W) is not valid; None if all are."""
    fault = fault_of_values(scores, energies=energies)
    index = find_all_infinite(scores, tags) if energies and fault is None else None
    if index is None:
        return fault
    *image, y, x = index
    position = ", ".join(map(str, (*image, ":", y, x)))
    return (
        "probabilities must hold a finite energy for the background or a present class at every "
        f"pixel, got +inf for all of them at index ({position})"
    )


def fault_of_values(scores: AnyArray, *, energies: bool) -> str | None:
    """Say which of the scores is not valid by itself; None if all are."""
    kind = scores.dtype.type
    lowest, largest = kind(-RANGE_TOLERANCE), kind(1 + RANGE_TOLERANCE)
    if energies:
        largest = min(np.finfo(kind).max, np.finfo(np.float32).max)
        lowest = -largest
    index = find_outside(scores, lowest, largest, allow_infinity=energies)
    if index is not None:
        value = kind(item(scores, index))
        got = f"got {value!s} at index {index}"
        is_finite = math.isfinite(value)
        if energies:
            rule = "in float32's range, or +inf" if is_finite else "that are finite or +inf"
            return f"probabilities must hold energies {rule}, {got}"
        if not is_finite:
            return f"probabilities must be finite, {got}"
        return (
            f"probabilities must lie in [0, 1], {got}: apply softmax first, or pass -log p with "
            'unary="energies"'
        )
    return None


def labels_to_probabilities(
    labels: Any, num_classes: int, *, gt_prob: float = 0.7, ignore: int | None = 255
) -> Any:
    """Turn hard labels into probabilities for `dense_crf`.

    Parameters
    ----------
    labels : (..., H, W) array or tensor of any integer dtype
        Labels 0 to num_classes - 1, or `ignore`.
    num_classes : int
        K, background included.
    gt_prob : float, optional
        How sure the labels are: the probability of a pixel's label, between 0 and 1. The other
        classes share the rest evenly.
    ignore : int or None, optional
        The label of pixels of which nothing is known: all classes get 1/K there. Any integer, for
        example -1; it need not be in the range of the labels' dtype. None means that there is no
        such label.

    Returns
    -------
    (..., K, H, W) array or tensor of float32
        Probabilities that sum to 1 at every pixel; with a single class, 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or a label is none of the above.

    Warns
    -----
    UserWarning
        If with two classes and ``ignore=255`` the labels are 0 and 255 only. Most likely they are a
        binary mask, whose object has the value 255. Pass ``mask > 0`` as integers instead, with
        ``ignore=None``.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> cuekit.labels_to_probabilities(np.array([[0, 2, 255]]), 4).round(3)
    array([[[0.7 , 0.1 , 0.25]],
    <BLANKLINE>
           [[0.1 , 0.1 , 0.25]],
    <BLANKLINE>
           [[0.1 , 0.7 , 0.25]],
    <BLANKLINE>
           [[0.1 , 0.1 , 0.25]]], dtype=float32)
    """
    names = check_array(labels, "labels", INTEGERS, ndim=2, layout="(..., H, W)")
    classes = check_integer(num_classes, "num_classes", minimum=1)
    if classes > MOST_CLASSES:
        raise ValueError(f"num_classes must be at most {MOST_CLASSES}, got {classes}")
    sure = check_number(gt_prob, "gt_prob")
    if not 0 < sure < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, got {sure}")
    known = np.ones(names.shape, dtype=bool)
    if ignore is not None:
        known = names != check_integer(ignore, "ignore")
    index = first_true(known & ((names < 0) | (names >= classes)))
    if index is not None:
        allowed = f"from 0 to {classes - 1}" + ("" if ignore is None else f" or {ignore}")
        raise ValueError(f"labels must be {allowed}, got {names[index]} at index {index}")
    looks_like_mask = known.any() and not known.all() and not names[known].any()
    if classes == 2 and ignore == 255 and looks_like_mask:
        warnings.warn(
            "labels should hold class 1 where num_classes is 2, got nothing but 0 and 255, "
            "and 255 is ignored: for a binary mask of 0 and 255 pass (mask > 0).astype(int) with "
            "ignore=None",
            stacklevel=2,
        )
    *batch, height, width = names.shape
    out: Array = np.ones((*batch, classes, height, width), dtype=np.float32)
    if classes > 1:
        out[...] = (1 - sure) / (classes - 1)
        for k in range(classes):
            np.copyto(out[..., k, :, :], sure, where=names == k)
        if not known.all():
            np.copyto(out, 1 / classes, where=~known[..., None, :, :])
    return like(out, labels)
