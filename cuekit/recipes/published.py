"""The recipes of published projects: what their scripts compute, in their order.

The paper's own, `snap`, comes first; `threshold` and `crf` are the steps that others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cuekit._checks import check_choice, check_integer, check_number, check_unit_range
from cuekit.background import background_map
from cuekit.confident_labels import confident_labels
from cuekit.crf import CRFParams, labels_to_probabilities
from cuekit.felzenszwalb import felzenszwalb
from cuekit.fuse import fuse_cues
from cuekit.io.maps import Maps
from cuekit.labels import cues_to_labels
from cuekit.probabilities_to_labels import probabilities_to_labels
from cuekit.raw_cues import raw_cues
from cuekit.recipes._steps import (
    UNSURE,
    Labels,
    MapsOfPhoto,
    Tags,
    at_photo_size,
    choose_maps,
    mean_of_classifiers,
    merged_scores,
    run_crf,
    softmax,
    to_labels,
)
from cuekit.refine_local import RefineParams, refine_local
from cuekit.resize_maps import resize_maps
from cuekit.sepl import sepl_labels
from cuekit.snap import snap_cues
from cuekit.subtract import Mode, subtract_classes
from cuekit.with_background import with_background

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._device import Array

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
    """Snap cues to superpixels, and fuse those of several classifiers: the paper's cues.

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
    T. Sun et al., arXiv:1904.01749.
    """
    sets, ids = choose_maps(photo, maps, tags)
    if not ids:
        return np.zeros(photo.shape[:2], np.uint8)
    superpixels = felzenszwalb(photo, scale, sigma, min_size)
    snapped = []
    for each in sets:
        cues = raw_cues(
            subtract_classes(each.maps, mode=subtract),
            background_of(each),
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
    J. Ahn, S. Cho, S. Kwak, arXiv:1904.05044; jiwoon-ahn/irn:step/eval_cam.py.
    """
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    return to_labels(with_background(scores, threshold=threshold), ids)


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
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    own = _own_backgrounds(photo, maps)
    if alpha is None and threshold is None and own is not None:
        check_unit_range(own, "background", "pass alpha or threshold to make another")
        probabilities = np.concatenate([own, scores])
    else:
        if alpha is None and threshold is None:
            alpha = 1
        probabilities = with_background(scores, alpha=alpha, threshold=threshold)
    return to_labels(run_crf(probabilities, photo, params, iterations), ids)


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
    """Refine hard labels with two background scores, and keep what is sure: IRN's labels.

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
    J. Ahn, S. Cho, S. Kwak, arXiv:1904.05044; jiwoon-ahn/irn:step/cam_to_ir_label.py.
    """
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    hard = probabilities_to_labels(_with_two_backgrounds(scores, high, low), ignore=None)
    soft = labels_to_probabilities(hard, len(ids) + 1, gt_prob=gt_prob, ignore=None)
    refined = run_crf(soft, photo, params, iterations)
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
    """Refine maps and the background (1 - their maximum) ** alpha with the CRF, as PSA does.

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
    J. Ahn, S. Kwak, arXiv:1803.10464; jiwoon-ahn/psa:infer_cls.py.
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
    """Combine PSA's two runs into the labels from which it learns affinities.

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
    J. Ahn, S. Kwak, arXiv:1803.10464; jiwoon-ahn/psa:infer_cls.py and ``VOC12AffDataset``
    in jiwoon-ahn/psa:voc12/data.py.
    """
    if not check_number(low_alpha, "low_alpha") <= check_number(high_alpha, "high_alpha"):
        raise ValueError(f"low_alpha must be at most high_alpha = {high_alpha}, got {low_alpha}")
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    runs = [with_background(scores, alpha=alpha) for alpha in (low_alpha, high_alpha)]
    low, high = to_labels(run_crf(np.stack(runs), photo, params, iterations), ids)
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
    """Refine maps with the CRF, and keep labels of which it is sure: CLIP-ES's labels.

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
    Y. Lin et al., arXiv:2212.09506; linyq2117/CLIP-ES:eval_cam_with_crf.py.
    """
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    probabilities = with_background(scores, alpha=alpha)
    energies = -np.log(probabilities.clip(1e-5, 1)).astype(np.float32)
    if check_choice(colours, "colours", ("published", "plain")) == "published":
        shifted = photo[..., ::-1] - np.array(CLIP_ES_MEAN)
        photo = shifted.astype(np.int32).astype(np.uint8)  # modulo 256
    refined = run_crf(energies, photo, params, iterations, unary="energies")
    return to_labels(refined, ids, confidence=confidence)


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
    """Refine the softmax of maps with two background scores, and keep what is sure: ToCo.

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
    L. Ru et al., arXiv:2303.01267; rulixiang/ToCo:tools/infer_cam_crf_label.py and
    ``infer_cam_crf_label_coco.py``.
    """
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    soft = softmax(_with_two_backgrounds(scores, high, low))
    return _confident(run_crf(soft, photo, params, iterations), ids)


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
    """Refine the softmax of maps with PAR in place of a CRF: labels on which ToCo trains.

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
    L. Ru et al., arXiv:2303.01267; ``refine_cams_with_bkg_v2`` in
    rulixiang/ToCo:utils/camutils.py.
    """
    scores, ids = merged_scores(photo, maps, tags, normalize=normalize)
    factor = check_integer(reduction, "reduction", minimum=1)
    height, width = photo.shape[:2]
    size = max(height // factor, 1), max(width // factor, 1)
    small_photo = resize_maps(np.moveaxis(photo, -1, 0).astype(np.float32), size)
    soft = softmax(resize_maps(_with_two_backgrounds(scores, high, low), size))
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
    """Refine the softmax of a network's logits with the CRF: the last step of WeCLIP.

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
    B. Zhang et al., "Frozen CLIP: a strong backbone for weakly supervised semantic
    segmentation", CVPR 2024, arXiv:2406.11189; zbf1991/WeCLIP:WeCLIP/test_msc_flip_voc.py.
    """
    sets, ids = choose_maps(photo, maps, tags)
    probabilities = []
    for each in sets:
        if each.background is None:
            raise ValueError("maps must be logits with a background, got none of the background")
        logits = np.concatenate([each.background[None], each.maps])
        probabilities.append(softmax(at_photo_size(logits, photo)))
    return to_labels(run_crf(mean_of_classifiers(probabilities), photo, params, iterations), ids)


def sepl(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    masks: Any,
    recipe: str = "threshold",
    **options: Any,
) -> Labels:
    """Sharpen the labels of another recipe with masks, as SEPL does.

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
    T. Chen et al., arXiv:2305.05803; cskyl/SAM_WSSS:merge/max_iou_imp2.py.
    """
    from cuekit.recipes import RECIPES  # which has this function, too

    others = [name for name in RECIPES if name != "sepl"]
    labels = RECIPES[check_choice(recipe, "recipe", others)](photo, maps, tags, **options)
    if not ((labels != 0) & (labels != UNSURE)).any():
        return labels  # sepl_labels would take them for a mask
    return cast("Labels", sepl_labels(labels, masks))


def background_of(maps: Maps) -> Array | None:
    """Return a map (h, w) that is low on background, if the file has what it takes."""
    if maps.features is not None:
        height, width = maps.maps.shape[1:]
        return background_map(maps.features, size=(height, width))
    if maps.background is None:
        return None
    check_unit_range(maps.background, "background", "it must not hold logits")
    return 1 - maps.background


def _own_backgrounds(photo: NDArray[np.uint8], maps: MapsOfPhoto) -> Array | None:
    """Return the mean (1, H, W) of the background maps in the files, if all have one."""
    sets = [maps] if isinstance(maps, Maps) else maps
    own = [at_photo_size(m.background[None], photo) for m in sets if m.background is not None]
    return mean_of_classifiers(own) if len(own) == len(sets) else None


def _with_two_backgrounds(scores: Array, high: float, low: float) -> Array:
    """Return (2, C + 1, H, W), or (1, C + 1, H, W) if both background scores are the same."""
    if not check_number(low, "low") <= check_number(high, "high"):
        raise ValueError(f"low must be at most high = {high}, got {low}")
    thresholds = [high] if high == low else [high, low]
    return np.stack([with_background(scores, threshold=each) for each in thresholds])


def _confident(runs: Array, ids: list[int]) -> Labels:
    """Combine the run with the high background score and that with the low."""
    return cast("Labels", confident_labels(runs[0], runs[-1], classes=[0, *ids]))
