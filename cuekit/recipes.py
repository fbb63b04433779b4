"""Recipes: from a photo and its activation maps to a label map, as published code does it.

A recipe is a function ``(photo, maps, tags=None, *, options) -> labels`` on cuekit's other
functions, and no longer than the script that it stands for. Write your own in the same way. In
all of them:

photo : (H, W, 3) array of uint8
    As `cuekit.io.read_photo` reads it.
maps : Maps, or a sequence of Maps
    As `cuekit.io.read_maps` reads them; several are of several classifiers, for the same classes.
    Maps of another size than the photo's are resized to it, bilinear, by `resize_maps`. Of several
    classifiers, `snap` fuses the cues by OR, and the other recipes average the maps.
tags : integers, optional
    Ids of the classes that are in the photo. Other maps are left out. None means all maps.
normalize : bool, default False
    Whether to divide each map by its maximum, and set negative values to 0. Without it, recipes
    that compare maps with thresholds, or take them as probabilities, refuse values outside [0, 1].
labels : (H, W) array of uint8, or of int32 where class ids are above 255
    Class ids, 0 for the background, 255 for pixels of which the recipe is not sure. Without any
    class, all is background.

All raise TypeError or ValueError if an argument has the wrong type, shape or value: if a tag has no
map, or the same class comes twice; if maps are not finite, or not in [0, 1] where they should be;
if a file says that its maps are of a photo of another size, or maps of a portrait come with a
landscape; if a class id is 255.

Options default to the published settings. `RECIPES` has the recipes by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from cuekit._checks import (
    FLOATS,
    check_array,
    check_choice,
    check_finite,
    check_integer,
    check_number,
    check_switch,
    check_unit_range,
    integers_of,
)
from cuekit.background import background_map
from cuekit.boundary_connectivity import boundary_connectivity
from cuekit.colour_evidence import colour_evidence
from cuekit.confident_labels import confident_labels
from cuekit.crf import CRFParams, Unary, dense_crf, labels_to_probabilities
from cuekit.felzenszwalb import felzenszwalb
from cuekit.fuse import fuse_cues
from cuekit.io.maps import Maps
from cuekit.labels import cues_to_labels
from cuekit.probabilities_to_labels import probabilities_to_labels
from cuekit.raw_cues import raw_cues
from cuekit.refine_local import RefineParams, refine_local
from cuekit.resize_maps import resize_maps
from cuekit.sepl import sepl_labels
from cuekit.snap import snap_cues
from cuekit.subtract import Mode, subtract_classes
from cuekit.superpixel_graph import superpixel_graph
from cuekit.superpixel_walk import superpixel_walk
from cuekit.with_background import with_background

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._device import Array

MapsOfPhoto: TypeAlias = Maps | Sequence[Maps]
Tags: TypeAlias = Iterable[int] | None
Labels: TypeAlias = "NDArray[np.uint8] | NDArray[np.int32]"

UNSURE = 255
NOT_NORMALIZED = "pass normalize=True (--normalize), or take the recipe weclip if they are logits"
# Of the photos that CLIP's authors trained on: blue, green, red.
CLIP_ES_MEAN = (104.008, 116.669, 122.675)


def snap(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    subtract: Mode = "pairwise",
    foreground_threshold: float = 0.3,
    background_threshold: float = 0.2,
    scale: float = 200,
    sigma: float = 0.8,
    min_size: int = 60,
    threshold: float = 0.3,
) -> Labels:
    """Snap cues to superpixels, and fuse those of several classifiers: the paper's cues [1]_.

    Class-subtracted maps are thresholded, superpixels take a class as a whole or not at all, and
    a pixel has the label of the smallest cue that covers it, or 255.

    Parameters
    ----------
    photo, maps, tags
        See `cuekit.recipes`.
    subtract : {"pairwise", "strongest", "dcsm"}
        See `subtract_classes`.
    foreground_threshold, background_threshold : float
        See `raw_cues`. The background map is made from the layers of the classifier that the file
        holds, ``Maps.features``; without them, it is 1 - the background map of the file; without
        that, nothing is labelled background.
    scale, sigma, min_size : float, float, int
        See `felzenszwalb`.
    threshold : float
        See `snap_cues`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    Cues are made at the size of the maps, and resized as masks. The paper does not say which class
    wins where cues overlap: here the smallest, as in SEC, and all classes before the background.

    References
    ----------
    .. [1] T. Sun et al., arXiv:1904.01749.
    """
    sets, ids = _chosen(photo, maps, tags)
    if not ids:
        return np.zeros(photo.shape[:2], np.uint8)
    superpixels = felzenszwalb(photo, scale, sigma, min_size)
    snapped = []
    for each in sets:
        cues = raw_cues(
            subtract_classes(each.maps, mode=subtract),
            _background_map(each),
            foreground_threshold=foreground_threshold,
            background_threshold=background_threshold,
        )
        snapped.append(snap_cues(cues, superpixels, threshold=threshold))
    labels: Labels = cues_to_labels(fuse_cues(*snapped), classes=[0, *ids])
    return labels


def threshold(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    threshold: float = 0.15,
    normalize: bool = False,
) -> Labels:
    """Take the class with the largest map where it is above a threshold: no refinement.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    threshold : float
        The score of the background. 0.15 is that of IRN's evaluation.

    Returns
    -------
    (H, W) array of uint8 or int32

    References
    ----------
    .. [1] J. Ahn, S. Cho, S. Kwak, arXiv:1904.05044; jiwoon-ahn/irn:step/eval_cam.py.
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    return _labels(with_background(scores, threshold=threshold), ids)


def crf(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    alpha: float | None = None,
    threshold: float | None = None,
    params: str | CRFParams = "sec",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Refine maps and a background map with the dense CRF: the general form of the others.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    alpha, threshold : float, optional
        The background map, see `with_background`. Without both, it is that of the file, such as of
        PSA's CRF output; and if the file has none, ``alpha=1``.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    own = _own_backgrounds(photo, maps)
    if alpha is None and threshold is None and own is not None:
        check_unit_range(own, "background", "pass alpha or threshold to make another")
        probabilities = np.concatenate([own, scores])
    else:
        if alpha is None and threshold is None:
            alpha = 1
        probabilities = with_background(scores, alpha=alpha, threshold=threshold)
    return _labels(_crf(probabilities, photo, params, iterations), ids)


def irn(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    high: float = 0.3,
    low: float = 0.05,
    gt_prob: float = 0.7,
    params: str | CRFParams = "irn",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Refine hard labels with two background scores, and keep what is sure: IRN's labels [1]_.

    Foreground is what the CRF says with the high background score, background is what it says with
    both, all other pixels are 255. IRN learns affinities from these labels.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    high, low : float
        The background scores: ``conf_fg_thres`` and ``conf_bg_thres`` of the script.
    gt_prob : float
        How sure hard labels are, see `labels_to_probabilities`.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    References
    ----------
    .. [1] J. Ahn, S. Cho, S. Kwak, arXiv:1904.05044; jiwoon-ahn/irn:step/cam_to_ir_label.py.
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    hard = probabilities_to_labels(_with_two_backgrounds(scores, high, low), ignore=None)
    soft = labels_to_probabilities(hard, len(ids) + 1, gt_prob=gt_prob, ignore=None)
    refined = _crf(soft, photo, params, iterations)
    return _confident(refined, ids)


def psa(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    alpha: float = 4,
    params: str | CRFParams = "psa",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Refine maps and the background (1 - their maximum) ** alpha with the CRF, as PSA does [1]_.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    alpha : float
        4 gives PSA's ``la_crf``, 32 its ``ha_crf``: the larger, the less background.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    The script stores the probabilities; these are the labels of the largest ones.

    References
    ----------
    .. [1] J. Ahn, S. Kwak, arXiv:1803.10464; jiwoon-ahn/psa:infer_cls.py.
    """
    return crf(
        photo,
        maps,
        tags,
        alpha=alpha,
        params=params,
        iterations=iterations,
        normalize=normalize,
    )


def psa_affinity(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    low_alpha: float = 4,
    high_alpha: float = 32,
    params: str | CRFParams = "psa",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Combine PSA's two runs into the labels from which it learns affinities [1]_.

    Background is what the run with the high alpha says, foreground what the run with the low one
    says elsewhere, all other pixels are 255.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    low_alpha, high_alpha : float
        Exponents of the background map. The low one gives more background, the high one less.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    Unlike in `irn`, background of the high run wins over foreground of the low one. PSA combines
    crops of the photo, enlarged or reduced and then averaged over 8×8 pixels, while it trains;
    here the whole photo is combined at its own size.

    References
    ----------
    .. [1] J. Ahn, S. Kwak, arXiv:1803.10464; jiwoon-ahn/psa:infer_cls.py and ``VOC12AffDataset``
       in jiwoon-ahn/psa:voc12/data.py.
    """
    if not check_number(low_alpha, "low_alpha") <= check_number(high_alpha, "high_alpha"):
        raise ValueError(f"low_alpha must be at most high_alpha = {high_alpha}, got {low_alpha}")
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    runs = [with_background(scores, alpha=alpha) for alpha in (low_alpha, high_alpha)]
    low, high = _labels(_crf(np.stack(runs), photo, params, iterations), ids)
    labels: Labels = np.where(high == 0, 0, np.where(low == 0, UNSURE, low)).astype(low.dtype)
    return labels


def clip_es(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    alpha: float = 1,
    confidence: float = 0.95,
    colours: str = "published",
    params: str | CRFParams = "clip-es",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Refine maps with the CRF, and keep labels of which it is sure: CLIP-ES's labels [1]_.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    alpha : float
        Exponent of the background map, see `with_background`.
    confidence : float
        Pixels whose largest probability is below it are 255. 0 keeps all, as the script's
        ``--eval_only`` does.
    colours : {"published", "plain"}
        What the CRF sees. The script gives it the photo minus a mean colour, as 8 bits without a
        sign, so that colours below the mean wrap around: dark pixels get bright. "plain" is the
        photo as it is.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    As in the script, the logarithms of the maps are computed in the maps' dtype. CLIP-ES writes
    float16.

    References
    ----------
    .. [1] Y. Lin et al., arXiv:2212.09506; linyq2117/CLIP-ES:eval_cam_with_crf.py.
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    probabilities = with_background(scores, alpha=alpha)
    energies = -np.log(probabilities.clip(1e-5, 1)).astype(np.float32)
    if check_choice(colours, "colours", ("published", "plain")) == "published":
        shifted = photo[..., ::-1] - np.array(CLIP_ES_MEAN)
        photo = shifted.astype(np.int32).astype(np.uint8)  # modulo 256
    refined = _crf(energies, photo, params, iterations, unary="energies")
    return _labels(refined, ids, confidence=confidence)


def toco(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    high: float = 0.7,
    low: float = 0.25,
    params: str | CRFParams = "toco-cam",
    iterations: int = 10,
    normalize: bool = False,
) -> Labels:
    """Refine the softmax of maps with two background scores, and keep what is sure: ToCo [1]_.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    high, low : float
        The background scores, ``bkg_thre_h`` and ``bkg_thre_l`` of the script. If they are equal,
        no pixel is 255: with 0.5 it is what the script for COCO writes.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    References
    ----------
    .. [1] L. Ru et al., arXiv:2303.01267; rulixiang/ToCo:tools/infer_cam_crf_label.py and
       ``infer_cam_crf_label_coco.py``.
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    soft = _softmax(_with_two_backgrounds(scores, high, low))
    return _confident(_crf(soft, photo, params, iterations), ids)


def toco_par(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    high: float = 0.7,
    low: float = 0.25,
    reduction: int = 2,
    preset: str | RefineParams = "toco",
    normalize: bool = False,
) -> Labels:
    """Refine the softmax of maps with PAR in place of a CRF: labels on which ToCo trains [1]_.

    Parameters
    ----------
    photo, maps, tags, normalize
        See `cuekit.recipes`.
    high, low : float
        The background scores. AFA, which has the same function, takes 0.55 and 0.35.
    reduction : int
        By how much photo and maps are reduced first; the result is enlarged again.
    preset : str or RefineParams
        See `refine_local`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    ToCo does this to crops of photos during training, here it is done to whole photos.

    References
    ----------
    .. [1] L. Ru et al., arXiv:2303.01267; ``refine_cams_with_bkg_v2`` in
       rulixiang/ToCo:utils/camutils.py.
    """
    scores, ids = _scores(photo, maps, tags, normalize=normalize)
    factor = check_integer(reduction, "reduction", minimum=1)
    height, width = photo.shape[:2]
    size = max(height // factor, 1), max(width // factor, 1)
    small_photo = resize_maps(np.moveaxis(photo, -1, 0).astype(np.float32), size)
    soft = _softmax(resize_maps(_with_two_backgrounds(scores, high, low), size))
    both = soft.reshape(-1, *size)  # one call: PAR treats channels alike
    refined = refine_local(both, np.moveaxis(small_photo, 0, -1), preset).reshape(soft.shape)
    return _confident(resize_maps(refined, (height, width)), ids)


def weclip(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    params: str | CRFParams = "weclip",
    iterations: int = 10,
) -> Labels:
    """Refine the softmax of a network's logits with the CRF: the last step of WeCLIP [1]_.

    The same for AFA, ToCo, SeCo, MoRe and ExCEL, with ``params="toco-seg"`` for ToCo and SeCo. For
    maps that are logits, with one of the background: the format "logits" of `read_maps`.

    Parameters
    ----------
    photo, maps, tags
        See `cuekit.recipes`. Classes that are not in `tags` are left out before the softmax; the
        script has no tags and keeps all.
    params, iterations : str or CRFParams, int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    References
    ----------
    .. [1] B. Zhang et al., "Frozen CLIP: a strong backbone for weakly supervised semantic
       segmentation", CVPR 2024, arXiv:2406.11189; zbf1991/WeCLIP:WeCLIP/test_msc_flip_voc.py.
    """
    sets, ids = _chosen(photo, maps, tags)
    probabilities = []
    for each in sets:
        if each.background is None:
            raise ValueError("maps must be logits with a background, got none of the background")
        logits = np.concatenate([each.background[None], each.maps])
        probabilities.append(_softmax(_at_photo_size(logits, photo)))
    return _labels(_crf(_mean(probabilities), photo, params, iterations), ids)


def sepl(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    masks: Any,
    recipe: str = "threshold",
    **options: Any,
) -> Labels:
    """Sharpen the labels of another recipe with masks, as SEPL does [1]_.

    Parameters
    ----------
    photo, maps, tags
        See `cuekit.recipes`.
    masks : (R, H, W) bool or uint8
        Masks of a promptable segmenter, such as `cuekit.io.read_masks` reads them.
    recipe : str
        The name of the recipe that makes the labels.
    **options
        Its options.

    Returns
    -------
    (H, W) array of uint8 or int32
        Pixels that are 255 keep it where no class is written.

    References
    ----------
    .. [1] T. Chen et al., arXiv:2305.05803; cskyl/SAM_WSSS:merge/max_iou_imp2.py.
    """
    others = [name for name in RECIPES if name != "sepl"]
    labels = RECIPES[check_choice(recipe, "recipe", others)](photo, maps, tags, **options)
    if not ((labels != 0) & (labels != UNSURE)).any():
        return labels  # sepl_labels would take them for a mask
    return cast("Labels", sepl_labels(labels, masks))


@dataclass(frozen=True)
class EvidenceWeights:
    """What each term of `evidence` weighs: the coefficients of a logistic regression.

    Parameters
    ----------
    walk, rivals : float
        Of the logarithms of the class's map after `superpixel_walk`, and of the sum of the other
        classes' maps before it.
    colour, recolour : float
        Of `colour_evidence`: in the first round, and in later ones, whose soft labels are surer.
    features : float
        Of the classifier's features, from 0 to 1.
    connectivity, contrast : float
        Of the two results of `boundary_connectivity`, the first at most 8.
    x, y : float
        Of the squared distance from the photo's vertical middle line, in photo widths; and of the
        height, from 0 at the top to 1 at the bottom.
    constant : float
        Of 1: the larger, the less background.

    Raises
    ------
    TypeError, ValueError
        If a weight is not a finite number.
    """

    walk: float
    rivals: float
    colour: float
    recolour: float
    features: float
    connectivity: float
    contrast: float
    x: float
    y: float
    constant: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            number = check_number(getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, number)


EVIDENCE_WEIGHTS: Mapping[str, EvidenceWeights] = MappingProxyType(
    {
        "position": EvidenceWeights(
            walk=0.85,
            rivals=-0.25,
            colour=0.77,
            recolour=0.5,
            features=2.4,
            connectivity=-0.27,
            contrast=0.5,
            x=-1.4,
            y=1.6,
            constant=-1.3,
        ),
        "no-position": EvidenceWeights(
            walk=0.83,
            rivals=-0.27,
            colour=0.77,
            recolour=0.5,
            features=2.05,
            connectivity=-0.28,
            contrast=0.57,
            x=0,
            y=0,
            constant=-0.46,
        ),
    }
)
"""The weights of `evidence` by name.

They are those of a multinomial logistic regression, rounded, on the superpixels of 797 photos of
PASCAL VOC and SBD with animals and persons, with true masks, and maps of two classifiers that had
seen the photos; chosen by two-fold cross-validation. They were not tried on other kinds of classes.
"""

EVIDENCE_CRF = CRFParams(3, 3, 3, 80, 5)
"""The CRF of `evidence`."""

# Added to maps before their logarithm.
EVIDENCE_OFFSET = 0.03
# Stands for the features of classifiers that give none. It is above their mean over photos: so the
# scores add up to what a fit without features gives.
USUAL_FEATURES = 0.6


def evidence(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    weights: str | EvidenceWeights = "position",
    rounds: int = 2,
    params: str | CRFParams | None = None,
    iterations: int = 5,
) -> Labels:
    """Weigh up what maps, colours, features, border and place say of each superpixel.

    Maps show where a class is, and not how far it reaches. Here each superpixel of the photo has a
    score for each class, the sum of several pieces of evidence with fixed weights. The scores
    become probabilities for the CRF, and its soft labels give new evidence from colours for the
    next round.

    No network is trained. But the weights were fitted to true masks of photos, as
    `EVIDENCE_WEIGHTS` says: labels of this recipe are not made from image tags alone.

    Parameters
    ----------
    photo, maps, tags
        See `cuekit.recipes`. Each map is divided by its maximum, so any scale will do; cues are
        taken as maps of 0 and 1. ``Maps.features`` of all classifiers together say where objects
        are. If there are none, the opposite of the background maps of the files stands for them,
        or else a constant.
    weights : {"position", "no-position"} or EvidenceWeights
        What each piece of evidence weighs. "position" counts on objects that are low and in the
        middle, as in most photos by people, and is not for photos that are turned or cropped, or
        of other things; "no-position" does not look at it.
    rounds : int
        How often colours are compared and the CRF runs, at least 1.
    params : str or CRFParams, optional
        See `dense_crf`. None means `EVIDENCE_CRF`, whose bilateral weight is small.
    iterations : int
        See `dense_crf`.

    Returns
    -------
    (H, W) array of uint8 or int32

    Notes
    -----
    Superpixels are those of `felzenszwalb` with ``scale=50``, and maps are averaged over them.
    The score of a class in a superpixel is a sum of these terms, that of the background is 0:

    - the logarithms of 0.03 + the class's map after `superpixel_walk`, and of 0.03 + the sum of the
      other classes' maps;
    - `colour_evidence`, at first of the maps with the background (1 - their maximum) ** 3.5;
    - the features, as `background_map` sums them up;
    - `boundary_connectivity` and the contrast that comes with it [1]_;
    - (x - 0.5) ** 2 and y of the superpixel's centre, and a constant.

    Photos of more than 16384 superpixels are refused, as by `boundary_connectivity`.

    On 225 photos of VOC's val with animals and persons, which neither the classifiers nor the fit
    had seen, mIoU was 0.495 for `psa`, 0.601 for one round and 0.604 for two; without position
    0.593, with one of the two classifiers 0.594, without features 0.561.

    See Also
    --------
    psa : The recipe for tags alone.

    References
    ----------
    .. [1] W. Zhu et al., "Saliency optimization from robust background detection", CVPR 2014,
       doi:10.1109/CVPR.2014.360: the idea of connectivity and contrast. The recipe is cuekit's own.
    """
    terms = _check_weights(weights)
    rounds = check_integer(rounds, "rounds", minimum=1)
    crf_params = EVIDENCE_CRF if params is None else params
    sets, ids = _chosen(photo, maps, tags)
    if not ids:
        return np.zeros(photo.shape[:2], np.uint8)
    merged = _normalized(_mean([_normalized(_at_photo_size(each.maps, photo)) for each in sets]))
    graph = superpixel_graph(felzenszwalb(photo, scale=50), photo)
    own = _normalized(graph.mean(merged)[..., None])  # (C, S, 1): functions for maps take it, too
    walked = _normalized(superpixel_walk(own[..., 0], graph)[..., None])[..., 0]
    connectivity, contrast = boundary_connectivity(graph)
    y, x = graph.centres.T
    fixed = (
        terms.walk * np.log(walked + EVIDENCE_OFFSET)
        + terms.rivals * np.log((own.sum(0) - own)[..., 0] + EVIDENCE_OFFSET)
        + terms.features * graph.mean(_features(sets, photo))
        + terms.connectivity * connectivity.clip(max=8)
        + terms.contrast * contrast
        + terms.x * (x - 0.5) ** 2
        + terms.y * y
        + terms.constant
    )
    soft = with_background(own, alpha=3.5)
    soft = graph.paint((soft / soft.sum(axis=0))[..., 0])
    for i in range(rounds):
        colours = graph.mean(colour_evidence(soft, photo))
        scores = fixed + (terms.recolour if i else terms.colour) * colours
        soft = _softmax(np.insert(scores, 0, 0, axis=0)[..., None])
        soft = _crf(graph.paint(soft[..., 0].astype(np.float32)), photo, crf_params, iterations)
    return _labels(soft, ids)


RECIPES: Mapping[str, Callable[..., Labels]] = MappingProxyType(
    {
        "clip_es": clip_es,
        "crf": crf,
        "evidence": evidence,
        "irn": irn,
        "psa": psa,
        "psa_affinity": psa_affinity,
        "sepl": sepl,
        "snap": snap,
        "threshold": threshold,
        "toco": toco,
        "toco_par": toco_par,
        "weclip": weclip,
    }
)
"""The recipes by name. On the command line, "-" may stand for "_"."""


# ------------------------------------------------------------------------------ from files to maps


def _chosen(
    photo: NDArray[np.uint8], maps: MapsOfPhoto, tags: Tags
) -> tuple[list[Maps], list[int]]:
    """Return the maps of the photo's classes, in one order for all classifiers, and their ids."""
    pixels = check_array(photo, "photo", ("uint8",), ndim=3, layout="(H, W, 3)")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"photo must have shape (H, W, 3), H and W >= 1, got {pixels.shape}")
    sets = [maps] if isinstance(maps, Maps) else maps
    if not isinstance(sets, list | tuple) or not all(isinstance(each, Maps) for each in sets):
        raise TypeError(f"maps must be Maps, or a list of Maps, got {type(maps).__name__}")
    if not sets:
        raise ValueError("maps must be those of at least one classifier, got an empty list")
    wanted = _check_tags(tags)
    ids = [c for c in sets[0].class_ids.tolist() if wanted is None or c in wanted]
    if UNSURE in ids:
        raise ValueError(f"class ids must not be {UNSURE}, the label of unsure pixels, got {ids}")
    return [_of_classes(each, ids, wanted, pixels) for each in sets], ids


def _check_tags(tags: Tags) -> set[int] | None:
    if tags is None:
        return None
    items = integers_of(tags)
    if items is None:
        raise TypeError(f"tags must be a sequence of class ids, got {tags!r}")
    return {check_integer(item, "tags") for item in items}


def _of_classes(
    maps: Maps, ids: list[int], wanted: set[int] | None, photo: NDArray[np.uint8]
) -> Maps:
    """Check the maps of one classifier, and return those of some classes."""
    layout = "(C, h, w)"
    stack = check_array(maps.maps, "maps", ("bool", *FLOATS), ndim=3, layout=layout)
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise ValueError(f"maps must have shape {layout}, h and w >= 1, got {stack.shape}")
    own = maps.class_ids.tolist()
    if len(maps.maps) != len(own) or len(set(own)) != len(own):
        raise ValueError(f"maps must have one map for each class, got {len(maps.maps)} for {own}")
    missing = sorted((set(ids) if wanted is None else wanted) - set(own))
    if missing:
        name = "maps of several classifiers" if wanted is None else "tags"
        raise ValueError(f"{name} must be of the classes that have maps, {own}, got {missing[0]}")
    if wanted is None and len(own) != len(ids):
        raise ValueError(
            f"maps of several classifiers must be of the same classes, got {ids} and {own}: pass "
            "tags"
        )
    height, width = photo.shape[:2]
    if maps.photo_size not in (None, (height, width)):
        raise ValueError(
            f"photo must have the size that the maps' file names, {maps.photo_size}, got "
            f"{(height, width)}"
        )
    h, w = maps.maps.shape[1:]
    if (height - width) * (h - w) < 0:
        raise ValueError(
            f"maps must be of this photo of size {(height, width)}, got maps of size {(h, w)}: "
            "one of both is turned"
        )
    chosen = maps.maps if own == ids else maps.maps[[own.index(c) for c in ids]]
    if chosen.dtype == np.bool_:  # cues
        chosen = chosen.astype(np.float32)
    for array in (chosen, maps.background):
        if array is not None:
            check_finite(bool(np.isfinite(array).all()), ("maps", array))
    return dataclasses.replace(maps, maps=chosen, class_ids=np.array(ids, np.int64))


def _scores(
    photo: NDArray[np.uint8], maps: MapsOfPhoto, tags: Tags, *, normalize: bool
) -> tuple[Array, list[int]]:
    """Return maps in [0, 1] (C, H, W) at the photo's size, of all classifiers together."""
    sets, ids = _chosen(photo, maps, tags)
    normalize = check_switch(normalize, "normalize")
    scores = [_at_photo_size(each.maps, photo) for each in sets]
    if normalize:
        scores = [_normalized(each) for each in scores]
    for each in scores:
        check_unit_range(each, "maps", NOT_NORMALIZED)
    return _mean(scores), ids


def _at_photo_size(maps: Array, photo: NDArray[np.uint8]) -> Array:
    height, width = photo.shape[:2]
    return maps if maps.shape[-2:] == (height, width) else resize_maps(maps, (height, width))


def _normalized(maps: Array) -> Array:
    result = np.zeros_like(maps)
    np.divide(maps, maps.max(axis=(-2, -1), keepdims=True), out=result, where=maps > 0)
    return result


def _mean(sets: Sequence[Array]) -> Array:
    """Return the mean over classifiers; of one, the array itself."""
    return sets[0] if len(sets) == 1 else np.stack(sets).mean(axis=0, dtype=np.float32)


# ---------------------------------------------------------------------------------- backgrounds


def _background_map(maps: Maps) -> Array | None:
    """Return a map (h, w) that is low on background, if the file has what it takes."""
    if maps.features is not None:
        height, width = maps.maps.shape[1:]
        return background_map(maps.features, size=(height, width))
    if maps.background is None:
        return None
    check_unit_range(maps.background, "background", "it must not hold logits")
    return 1 - maps.background


def _check_weights(weights: str | EvidenceWeights) -> EvidenceWeights:
    if isinstance(weights, EvidenceWeights):
        return weights
    if not isinstance(weights, str):
        raise TypeError(f"weights must be EvidenceWeights or a name, got {type(weights).__name__}")
    return EVIDENCE_WEIGHTS[check_choice(weights, "weights", tuple(EVIDENCE_WEIGHTS))]


def _features(sets: Sequence[Maps], photo: NDArray[np.uint8]) -> Array:
    """Return the layers of all classifiers as one map (H, W) in [0, 1], high on objects.

    Without layers it is the opposite of the files' background maps; without these, constant.
    """
    layers: list[Array] = []
    for each in sets:
        if each.features is not None:
            layers += [background_map(layer[None]) for layer in each.features]
        elif each.background is not None:
            layers.append(background_map((1 - each.background)[None]))
    if not layers:
        return np.full(photo.shape[:2], USUAL_FEATURES, np.float32)
    return background_map(*[layer[None] for layer in layers], size=photo.shape[:2])


def _own_backgrounds(photo: NDArray[np.uint8], maps: MapsOfPhoto) -> Array | None:
    """Return the mean (1, H, W) of the background maps in the files, if all have one."""
    sets = [maps] if isinstance(maps, Maps) else maps
    own = [_at_photo_size(m.background[None], photo) for m in sets if m.background is not None]
    return _mean(own) if len(own) == len(sets) else None


def _with_two_backgrounds(scores: Array, high: float, low: float) -> Array:
    """Return (2, C + 1, H, W), or (1, C + 1, H, W) if both background scores are the same."""
    if not check_number(low, "low") <= check_number(high, "high"):
        raise ValueError(f"low must be at most high = {high}, got {low}")
    thresholds = [high] if high == low else [high, low]
    return np.stack([with_background(scores, threshold=each) for each in thresholds])


# ----------------------------------------------------------------------- from scores to labels


def _softmax(scores: Array) -> Array:
    """Return the softmax over channels (..., K, H, W), in float32 at least."""
    wide = scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)
    powers: Array = wide - wide.max(axis=-3, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=-3, keepdims=True)
    return powers


def _crf(
    scores: Array,  # (K, H, W), or (runs, K, H, W)
    photo: NDArray[np.uint8],
    params: str | CRFParams,
    iterations: int,
    unary: Unary = "probabilities",
) -> Array:
    """Return the CRF's marginals. The runs are one call: they share the photo's lattice."""
    if scores.shape[-3] == 1:  # the background alone
        return np.ones(scores.shape, np.float32)
    photos = np.broadcast_to(photo, (*scores.shape[:-3], *photo.shape))
    return dense_crf(scores, photos, params, iterations=iterations, unary=unary)


def _labels(scores: Array, ids: list[int], confidence: float | None = None) -> Labels:
    found = probabilities_to_labels(scores, classes=[0, *ids], confidence=confidence)
    return cast("Labels", found)


def _confident(runs: Array, ids: list[int]) -> Labels:
    """Combine the run with the high background score and that with the low."""
    return cast("Labels", confident_labels(runs[0], runs[-1], classes=[0, *ids]))
