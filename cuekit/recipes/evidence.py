"""Our own recipe: what maps, colours, border and place say of each superpixel, weighed up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cuekit._checks import check_choice, check_integer, check_number
from cuekit.background import background_map
from cuekit.boundary_connectivity import boundary_connectivity
from cuekit.colour_evidence import colour_evidence
from cuekit.crf import CRFParams, PhotoCRF
from cuekit.felzenszwalb import felzenszwalb
from cuekit.io.maps import Maps
from cuekit.recipes._evidence_network import NETWORKS, network_scores, network_terms
from cuekit.recipes._steps import (
    Labels,
    MapsOfPhoto,
    Tags,
    at_photo_size,
    choose_maps,
    normalized,
    softmax,
    to_labels,
)
from cuekit.rgb_to_lab import rgb_to_lab
from cuekit.superpixel_graph import SuperpixelGraph, superpixel_graph
from cuekit.superpixel_walk import superpixel_walk
from cuekit.with_background import with_background

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._device import Array


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


Weights: TypeAlias = "str | EvidenceWeights | Mapping[str, float]"

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
        "tags-only": EvidenceWeights(
            walk=0.64,
            rivals=-0.12,
            colour=0.3,
            recolour=0.14,
            features=1.28,
            connectivity=-0.17,
            contrast=1.53,
            x=-4.06,
            y=1.07,
            constant=-0.75,
        ),
    }
)
"""The weights of `evidence` by name. "position" and "no-position" have seen masks.

These two are those of a multinomial logistic regression, rounded, on the superpixels of 797 photos
of PASCAL VOC and SBD with animals and persons, with true masks, and maps of two classifiers that
had seen the photos; chosen by two-fold cross-validation. The networks of their correction were
fitted to these photos and to 113 of VOC's val.

The numbers of "tags-only" are from 602 of these photos without their masks. All terms have the same
weight, 0.3 over the term's standard deviation, with the sign that it must have; the class's own map
counts twice, and its rivals half, since no other term tells classes apart. The constant is such
that as much of the photos is foreground as with the maps alone and the background
(1 - maximum) ** 3.5. But masks of 113 other photos chose among ten rules of this kind; and which
terms the recipe has, was found with masks, too.

None was tried on other kinds of classes.
"""

EVIDENCE_CRF = CRFParams(3, 3, 3, 80, 5)
"""The CRF of `evidence`."""

# Added to maps before their logarithm.
EVIDENCE_OFFSET = 0.03
# In large photos small superpixels are merged until there are so few: `boundary_connectivity` takes
# time with their square, and refuses twice as many. Photos of 700 x 700 never have so many.
MOST_SUPERPIXELS = 8192
# Stands for the features of classifiers that give none. It is above their mean over photos: so the
# scores add up to what a fit without features gives.
USUAL_FEATURES = 0.6


def evidence(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags = None,
    *,
    weights: Weights = "position",
    correction: float = 1.0,
    rounds: int = 2,
    params: str | CRFParams | None = None,
    iterations: int = 5,
) -> Labels:
    """Weigh up what maps, colours, features, border and place say of each superpixel.

    Maps show where a class is, and not how far it reaches. Here each superpixel of the photo has a
    score for each class, the sum of several pieces of evidence with fixed weights, and a correction
    that depends on the photo. The scores become probabilities for the CRF, and its soft labels give
    new evidence from colours for the next round.

    Nothing is trained. But all weights except "tags-only" were fitted to true masks of photos,
    as `EVIDENCE_WEIGHTS` says: labels by these are not made from image tags alone.

    Parameters
    ----------
    photo, maps, tags
        See `cuekit.recipes`. Each map is divided by its maximum, so any scale will do; cues are
        taken as maps of 0 and 1. ``Maps.features`` of all classifiers together say where objects
        are. If there are none, the opposite of the background maps of the files stands for them,
        or else a constant.
    weights : {"position", "no-position", "tags-only"}, EvidenceWeights or dict
        What each piece of evidence weighs; a dict has the numbers of `EvidenceWeights` by name.
        "position" counts on objects that are low and in the middle, as in most photos by people,
        and is not for photos that are upside down, or from above; "no-position" does not look at
        it. "tags-only", with position, has numbers that come from no mask. `calibrate` fits weights
        to photos of your own with masks.
    correction : float
        How much a small network may change the sum that is the score of a class, at least 0: 1 is
        much. It is for "position" and "no-position", and has seen the same masks. With other
        weights, the sum stands as it is.
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
    Superpixels are those of `felzenszwalb` with ``scale=50``, and maps are averaged over them. Each
    has 60 pixels at least; in photos above 700 x 700, an 8192nd of all pixels. The score of a class
    in a superpixel is a sum of these terms, that of the background is 0:

    - the logarithms of 0.03 + the class's map after `superpixel_walk`, and of 0.03 + the sum of the
      other classes' maps;
    - `colour_evidence`, at first of the maps with the background (1 - their maximum) ** 3.5;
    - the features, as `background_map` sums them up;
    - `boundary_connectivity` and the contrast that comes with it [1]_;
    - (x - 0.5) ** 2 and y of the superpixel's centre, and a constant.

    The correction depends on the photo: it is what a network says instead, of one hidden layer,
    less the sum, within the limits. It sees the same terms and two more, the logarithm of 0.3 + the
    mean gradient of the lightness (what is in focus), and the pixels at the photo's border divided
    by the square root of the area. It sees them in the superpixel; as means over similar ones (by
    `superpixel_walk` with ``restart=0.05``), over the photo, and over the part of it where the
    class's map is high; and their deviations. Which class it is, it does not know. It is computed
    in the first round, and stays.

    On 112 photos of VOC's val with animals and persons (every second one), which neither the
    classifiers nor the fit had seen, mIoU was 0.650, and 0.606 without the correction (difference
    4.4 points, 95 % interval 0.9 to 8.1); with one round 0.651, without position 0.630, with one of
    the two classifiers 0.648 (of colour photos) and 0.635 (of gray ones), without features 0.606.
    With "tags-only" it was 0.603, which had been chosen on the other half; 0.581 if maps count no
    more than other terms in it. On all 225 it was 0.495 for `psa`.

    See Also
    --------
    psa : The recipe for tags alone.

    References
    ----------
    .. [1] W. Zhu et al., "Saliency optimization from robust background detection", CVPR 2014,
       doi:10.1109/CVPR.2014.360: the idea of connectivity and contrast. The recipe is cuekit's own.
    """
    weighed = check_weights(weights)
    correction = check_number(correction, "correction", minimum=0)
    rounds = check_integer(rounds, "rounds", minimum=1)
    sets, ids = choose_maps(photo, maps, tags)
    if not ids:
        return np.zeros(photo.shape[:2], np.uint8)
    graph = evidence_graph(photo)
    terms, soft = evidence_terms(sets, photo, graph)
    fixed = sum(getattr(weighed, name) * each for name, each in terms.items())
    lab = rgb_to_lab(photo)
    refine = PhotoCRF(photo, EVIDENCE_CRF if params is None else params)
    for i in range(rounds):
        colours = graph.mean(colour_evidence(soft, lab, space="lab"))
        if i == 0 and correction > 0 and isinstance(weights, str) and weights in NETWORKS:
            terms |= {"colour": colours} | network_terms(lab, graph)
            change = network_scores(weights, terms, graph.mean(soft)[1:], graph)
            change -= fixed + weighed.colour * colours
            fixed = fixed + change.clip(-correction, correction)
        scores = fixed + (weighed.recolour if i else weighed.colour) * colours
        soft = refine(graph.paint(with_zero(scores)), iterations)
    return to_labels(soft, ids)


def evidence_graph(photo: NDArray[np.uint8]) -> SuperpixelGraph:
    """Return the superpixels that `evidence` weighs."""
    min_size = max(60, photo.shape[0] * photo.shape[1] // MOST_SUPERPIXELS)
    return superpixel_graph(felzenszwalb(photo, scale=50, min_size=min_size), photo)


def evidence_terms(
    sets: Sequence[Maps], photo: NDArray[np.uint8], graph: SuperpixelGraph
) -> tuple[dict[str, Array], Array]:
    """Return what `evidence` weighs, but for colours, and its first soft labels.

    The terms, (C, S) or what becomes it, have the names of their weights; the soft labels, with the
    background first, are (C + 1, H, W).
    """
    merged: Array = np.sum([_relative_means(each.maps, photo, graph) for each in sets], axis=0)
    own = normalized(merged[..., None])  # (C, S, 1): functions for maps take it, too
    walked = normalized(superpixel_walk(own[..., 0], graph)[..., None])[..., 0]
    connectivity, contrast = boundary_connectivity(graph)
    y, x = graph.centres.T
    terms = {
        "walk": np.log(walked + EVIDENCE_OFFSET),
        "rivals": np.log((own.sum(0) - own)[..., 0] + EVIDENCE_OFFSET),
        "features": graph.mean(_features(sets, photo)),
        "connectivity": connectivity.clip(max=8),
        "contrast": contrast,
        "x": (x - 0.5) ** 2,
        "y": y,
        "constant": np.ones_like(y),
    }
    soft = with_background(own, alpha=3.5)
    return terms, graph.paint((soft / soft.sum(axis=0))[..., 0])


def with_zero(scores: Array) -> Array:
    """Return the probabilities (C + 1, S) of scores (C, S), the background's being 0."""
    return softmax(np.insert(scores, 0, 0, axis=0)[..., None])[..., 0].astype(np.float32)


def check_weights(weights: Weights) -> EvidenceWeights:
    """Return the weights that a name, or a dict as JSON has it, stands for."""
    if isinstance(weights, EvidenceWeights):
        return weights
    if isinstance(weights, Mapping):
        known = {field.name for field in dataclasses.fields(EvidenceWeights)}
        if set(weights) != known:
            wrong = sorted(map(str, known.symmetric_difference(weights)))
            raise ValueError(
                f"weights must have one number for each of {', '.join(sorted(known))}, got "
                f"{wrong[0]!r} missing or unknown"
            )
        return EvidenceWeights(**weights)
    if not isinstance(weights, str):
        raise TypeError(
            f"weights must be EvidenceWeights, a dict or a name, got {type(weights).__name__}"
        )
    return EVIDENCE_WEIGHTS[check_choice(weights, "weights", tuple(EVIDENCE_WEIGHTS))]


def _relative_means(maps: Array, photo: NDArray[np.uint8], graph: SuperpixelGraph) -> Array:
    """Return the means over superpixels (C, S) of maps, each divided by its maximum."""
    positive = maps.clip(min=0).astype(np.promote_types(maps.dtype, np.float32), copy=False)
    full = at_photo_size(positive, photo)
    peaks = full.max(axis=(1, 2))[:, None]
    means: Array = graph.mean(full) / np.where(peaks > 0, peaks, 1)
    return means


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
    # Those of one size are added before they are resized, which is quicker.
    sizes = dict.fromkeys(layer.shape for layer in layers)
    stacks = [np.stack([layer for layer in layers if layer.shape == size]) for size in sizes]
    return background_map(*stacks, size=photo.shape[:2])
