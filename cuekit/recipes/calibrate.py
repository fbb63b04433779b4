"""The weights of `evidence` for photos of one's own: fitted to a few masks, or from maps alone."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cuekit._checks import INTEGERS, check_array, check_integer, check_number, check_shape
from cuekit.colour_evidence import colour_evidence
from cuekit.metrics import IGNORE, Interval, bootstrap, confusion_matrix, mean_iou
from cuekit.recipes._steps import MapsOfPhoto, Tags, choose_maps, run_crf
from cuekit.recipes.evidence import (
    EVIDENCE_CRF,
    EVIDENCE_WEIGHTS,
    EvidenceWeights,
    Weights,
    check_weights,
    evidence,
    evidence_graph,
    evidence_terms,
    with_zero,
)
from cuekit.rgb_to_lab import rgb_to_lab

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cuekit._device import Array

NAMES = tuple(field.name for field in dataclasses.fields(EvidenceWeights))
CONSTANT = NAMES.index("constant")
FEW_PHOTOS = 20
# Without masks: what each term counts, times its standard deviation. Signs are what terms mean; the
# class's own map is the one term that tells classes apart, with its rivals. In the order of NAMES.
COUNTS = {
    "walk": 0.6,
    "rivals": -0.15,
    "colour": 0.3,
    "recolour": 0.3,
    "features": 0.3,
    "connectivity": -0.3,
    "contrast": 0.3,
    "x": -0.3,
    "y": 0.3,
}
# Ridges to choose from; infinity leaves the weights as they are.
RIDGES = (10.0, 30.0, 100.0, 300.0, math.inf)
_PARTS = 5  # of the photos of a fit, to choose the ridge
_FLAT = 1e-6  # the standard deviation of a term that rounding alone makes differ
_MOST_STEPS = 50
_MOST_HALVINGS = 30
_GAIN = 1e-9  # of the loss per photo: a smaller step is the last


@dataclass(frozen=True)
class Calibration:
    """Weights for photos of one's own, and how good they are; `str` of it is a report.

    Attributes
    ----------
    weights : EvidenceWeights or str
        Those to use: the fitted ones if they are better beyond chance, or else those given, a name
        where it was a name.
    fitted_weights : EvidenceWeights
        Fitted to all photos.
    start : EvidenceWeights
        The weights that the fit started from and is drawn to.
    ridge : float
        How strongly; infinity leaves them as they are. NaN without masks.
    photos, folds : int
        The number of photos, and of parts that they were divided into; 0 parts without masks.
    before, fitted, difference : Interval, or None without masks
        Mean IoU of the recipe with the weights given, and with their correction if they are given
        by name; with weights that are fitted to the other parts than the photo's; and the second
        minus the first: the value, and the 95 % bootstrap interval over photos.
    notes : tuple of str
        What speaks against the fitted weights.
    failures : dict of str to str
        Photos of a folder that could not be used, and why.
    """

    weights: EvidenceWeights | str
    fitted_weights: EvidenceWeights
    start: EvidenceWeights
    ridge: float
    photos: int
    folds: int
    before: Interval | None
    fitted: Interval | None
    difference: Interval | None
    notes: tuple[str, ...]
    failures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{'weight':14}{'before':>9}{'fitted':>9}"]
        for name in NAMES:
            before, fitted = getattr(self.start, name), getattr(self.fitted_weights, name)
            lines.append(f"{name:14}{before:9.3f}{fitted:9.3f}")
        if self.folds:
            parts = f"cross-validated in {self.folds} parts"
            lines += ["", f"mean IoU of {self.photos} photos, {parts}:"]
        for name, interval in self._intervals().items():
            value, low, high = (f"{100 * each:.2f}" for each in interval)
            lines.append(f"{name:14}{value:>9}  [{low}, {high}]")
        return "\n".join([*lines, *(f"NOTE: {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as values for JSON; NaN and infinity become None."""
        values = dataclasses.asdict(self)
        values["ridge"] = self.ridge if math.isfinite(self.ridge) else None
        for name, interval in self._intervals().items():
            items = interval._asdict().items()
            values[name] = {key: None if math.isnan(each) else each for key, each in items}
        return values

    def _intervals(self) -> dict[str, Interval]:
        named = {"before": self.before, "fitted": self.fitted, "difference": self.difference}
        return {name: interval for name, interval in named.items() if interval is not None}


class PhotoTerms(NamedTuple):
    """The terms of a photo's superpixels, and what these are. Each is there once for each round.

    Attributes
    ----------
    values : (C, S, J) array
        The J terms.
    shares : (C + 1, S) array
        The pixels of the background and of each class, as shares of all of these pixels, halved.
    """

    values: NDArray[np.float64]
    shares: NDArray[np.float64]


def calibrate(
    photos: Sequence[NDArray[np.uint8]],
    maps: Sequence[MapsOfPhoto],
    tags: Sequence[Tags] | None = None,
    truths: Sequence[NDArray[Any]] | None = None,
    *,
    weights: Weights = "position",
    folds: int = 5,
    ridge: float | None = None,
    mean_over: Iterable[int] | None = None,
) -> Calibration:
    """Find weights of the recipe `evidence` for photos of your own, with masks or without.

    It is for photos, classes or classifiers of another kind than those that `EVIDENCE_WEIGHTS` are
    from. With masks the weights are fitted to them, and a cross-validation says how much that
    helps. The fit is drawn to the weights that it starts from: a few photos change them a little,
    or not at all. Labels made with fitted weights are not made from image tags alone.

    Without masks the weights are made from the maps and the photos as those of "tags-only" are.
    Nothing says then how good they are.

    Parameters
    ----------
    photos, maps, tags, truths : sequences of the same length
        The arguments of `cuekit.recipes` for each photo, and its true labels: an (H, W) array of
        class ids, 0 for the background, 255 for pixels that are not known. ``tags=None`` means all
        maps, ``truths=None`` no masks. Photos are used one after the other, with masks twice: the
        sequences may be objects that read a file in ``__getitem__``.
    weights : {"position", "no-position", "tags-only"}, EvidenceWeights or dict
        The weights to start from, see `evidence`. Those that are 0 stay 0, but for the constant.
        Without masks, nothing else of them is used.
    folds : int
        Number of parts for the cross-validation, at least 2. They are consecutive, so that photos
        of one scene, side by side, are mostly in one part.
    ridge : float, optional
        How strongly the fit is drawn to `weights`, above 0. None: of 10 to 300 and infinity, the
        largest that is not worse than the best one beyond chance, by cross-validation of the loss
        among the photos of each fit. Infinity, which leaves `weights` as they are, is frequent.
    mean_over : iterable of int, optional
        Ids of the classes that mean IoU is taken over. Default: all.

    Returns
    -------
    Calibration
        Its `weights` are the fitted ones only if they are better in the cross-validation, beyond
        chance; its `notes` say what speaks against the fitted ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value; if there are fewer photos than parts; if
        no photo has true pixels of the classes of its maps.

    Warns
    -----
    UserWarning
        For each of the notes: fewer than 20 photos say little; and fitted weights whose mean IoU
        is not above that of `weights` beyond chance are not used. Weights fitted to 20 photos can
        be worse by 10 points and more.

    Notes
    -----
    The weights are those of a multinomial logistic regression on superpixels, with the terms that
    `evidence` lists. The soft labels that the second round compares colours of are those of the
    first with the weights to start from. The loss is the cross entropy, averaged over the known
    pixels of a photo and over both rounds, summed over photos, and
    ``ridge / 2 * sum((spread * change) ** 2)``: `spread` is the standard deviation of a term over
    superpixels, 1 for the constant, and `change` that of its weight. Newton's method finds the
    minimum. True pixels of classes that are not among the photo's are left out of the fit, and
    count in mean IoU.

    On photos of VOC with animals and persons, 50 photos without masks gave, before the CRF, mean
    IoU 0.585 to 0.590 on 225 others, where "tags-only" has 0.589 and "position", without the
    correction, 0.593; for maps without features, 0.564 to 0.568, 0.552 and 0.567.
    """
    start = check_weights(weights)
    count = len(photos)
    for name, each in (("maps", maps), ("tags", tags), ("truths", truths)):
        if each is not None and len(each) != count:
            raise ValueError(
                f"{name} must have one element for each photo, {count}, got {len(each)}"
            )
    if truths is not None:
        check_fit(count, folds, ridge)
    averaged = None if mean_over is None else [check_integer(c, "mean_over") for c in mean_over]

    def of_photo(i: int) -> tuple[NDArray[np.uint8], MapsOfPhoto, Tags, Any]:
        tags_of_photo = None if tags is None else tags[i]
        return photos[i], maps[i], tags_of_photo, None if truths is None else truths[i]

    if truths is None:
        start = without_masks(start)
        found = weigh([measure(*of_photo(i), start) for i in range(count)], start)
        warnings.warn(found.notes[0], UserWarning, stacklevel=2)
        return found
    measured = [measure(*of_photo(i), start) for i in range(count)]
    given = weights if isinstance(weights, str) else start
    fits = fit_parts(measured, start, folds, ridge)
    pairs = [compare(*of_photo(i), fits.of_photo(i), given) for i in range(count)]
    found = fits.calibration(pairs, averaged, given)
    for note in found.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return found


def measure(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags,
    truth: NDArray[Any] | None,
    start: EvidenceWeights,
) -> PhotoTerms | None:
    """Return the terms of a photo; None if it has no class, or no known pixel of them.

    Without truth, labels of the maps stand for it.
    """
    sets, ids = choose_maps(photo, maps, tags)
    if truth is not None:
        check_shape(
            check_array(truth, "truth", INTEGERS, ndim=2, layout="(H, W)"),
            "truth",
            photo.shape[:2],
            "photo",
        )
    if not ids:
        return None
    graph = evidence_graph(photo)
    terms, soft = evidence_terms(sets, photo, graph)
    labels = np.array([0, *ids])[soft.argmax(axis=0)] if truth is None else truth
    pixels = graph.mean(np.stack([labels == c for c in (0, *ids)])).astype(np.float64) * graph.sizes
    if not pixels.any():
        return None
    fixed = sum(getattr(start, name) * each for name, each in terms.items())
    lab = rgb_to_lab(photo)
    rounds = []
    for name, other in (("colour", "recolour"), ("recolour", "colour")):
        colours = graph.mean(colour_evidence(soft, lab, space="lab"))
        named = terms | {name: colours, other: np.zeros(())}
        rounds.append(np.stack([np.broadcast_to(named[n], colours.shape) for n in NAMES], axis=-1))
        if name == "colour":
            scores = with_zero(fixed + start.colour * colours)
            soft = run_crf(graph.paint(scores), photo, EVIDENCE_CRF, 5)
    shares = np.concatenate([pixels, pixels], axis=1) / (2 * pixels.sum())
    return PhotoTerms(np.concatenate(rounds, axis=1), shares)


def compare(
    photo: NDArray[np.uint8],
    maps: MapsOfPhoto,
    tags: Tags,
    truth: NDArray[Any],
    fitted: EvidenceWeights,
    given: EvidenceWeights | str,
) -> list[NDArray[np.int64]]:
    """Return the confusion matrices of labels by the weights given, and by fitted ones."""
    found = [evidence(photo, maps, tags, weights=weights) for weights in (given, fitted)]
    known = truth[truth != IGNORE]
    classes = 1 + max(int(each.max(initial=0)) for each in (known, *found))
    return [confusion_matrix(truth, each, classes) for each in found]


# -------------------------------------------------------------------------------- without masks


def without_masks(start: EvidenceWeights) -> EvidenceWeights:
    """Return "tags-only", with 0 for the weights that are 0 in `start`."""
    zeros = {name: 0.0 for name in COUNTS if getattr(start, name) == 0}
    return dataclasses.replace(EVIDENCE_WEIGHTS["tags-only"], **zeros)


def weigh(measured: Sequence[PhotoTerms | None], start: EvidenceWeights) -> Calibration:
    """Give each term a weight by its standard deviation, and find the constant by area.

    The constant is the one with which as much is foreground, in the first round, as by `shares`.
    """
    photos = [each for each in measured if each is not None]
    if not photos:
        raise ValueError("photos must be at least one with a class, got none")
    rounds = [np.split(each.values, 2, axis=1) for each in photos]
    shares = [np.split(each.shares, 2, axis=1)[0] for each in photos]
    spread = _spread([first for first, _ in rounds])
    recolour = NAMES.index("recolour")
    spread[recolour] = _spread([second for _, second in rounds])[recolour]
    weights = {
        name: count / float(each) if getattr(start, name) != 0 and each > _FLAT else 0.0
        for (name, count), each in zip(COUNTS.items(), spread[:-1], strict=True)
    }
    vector = np.array([*weights.values(), 0.0])  # without the constant
    scores = np.concatenate([(first @ vector).max(axis=0) for first, _ in rounds])
    areas = np.concatenate([each.sum(axis=0) for each in shares])
    background = sum(float(each[0].sum()) for each in shares)
    order = scores.argsort()
    highest = min(int(areas[order].cumsum().searchsorted(background)), len(order) - 1)
    weights["constant"] = -float(scores[order[highest]])
    note = "no masks were given: nothing says how good these weights are"
    found = EvidenceWeights(**weights)
    return Calibration(found, found, start, math.nan, len(measured), 0, None, None, None, (note,))


# ---------------------------------------------------------------------------------- the fit


@dataclass(frozen=True)
class Fits:
    """The fits of a cross-validation: one to all photos, and one to all but each part."""

    start: EvidenceWeights
    weights: EvidenceWeights
    ridge: float
    photos: int
    parts: Sequence[EvidenceWeights]

    def of_photo(self, i: int) -> EvidenceWeights:
        """Return the weights that were not fitted to a photo."""
        return self.parts[i * len(self.parts) // self.photos]

    def calibration(
        self,
        pairs: Sequence[Sequence[NDArray[np.int64]]],
        averaged: Sequence[int] | None,
        given: EvidenceWeights | str,
    ) -> Calibration:
        """Return the result, of the two confusion matrices of each photo."""
        largest = max([1, *(len(pair[0]) for pair in pairs), *(1 + c for c in averaged or ())])
        matrices = np.zeros((2, len(pairs), largest, largest), np.int64)
        for i, pair in enumerate(pairs):
            for j, each in enumerate(pair):
                matrices[j, i, : len(each), : len(each)] = each
        before, fitted, difference = (
            bootstrap(*each, statistic=lambda sums: mean_iou(sums, averaged))
            for each in ((matrices[0],), (matrices[1],), (matrices[1], matrices[0]))
        )
        notes = []
        if self.photos < FEW_PHOTOS:
            notes.append(f"{self.photos} photos say little: have at least {FEW_PHOTOS} with masks")
        better = difference.low > 0
        if not better:
            notes.append("the fitted weights are not better beyond chance: those before are kept")
        return Calibration(
            self.weights if better else given,
            self.weights,
            self.start,
            self.ridge,
            self.photos,
            len(self.parts),
            before,
            fitted,
            difference,
            tuple(notes),
        )


def check_fit(count: int, folds: int, ridge: float | None) -> None:
    """Refuse settings of a fit with which there is none."""
    check_integer(folds, "folds", minimum=2)
    if ridge is not None and check_number(ridge, "ridge") <= 0:
        raise ValueError(f"ridge must be above 0, got {ridge}")
    if count < folds:
        raise ValueError(f"photos must be at least as many as folds, {folds}, got {count}")


def fit_parts(
    measured: Sequence[PhotoTerms | None], start: EvidenceWeights, folds: int, ridge: float | None
) -> Fits:
    """Fit weights to all photos, and to all but each of the parts."""
    count = len(measured)
    check_fit(count, folds, ridge)
    if not any(each is not None and each.shares[1:].any() for each in measured):
        raise ValueError("truths must have pixels of the classes of the maps, got none")

    def fitted(left_out: int | None) -> tuple[EvidenceWeights, float]:
        used = [
            each
            for i, each in enumerate(measured)
            if each is not None and i * folds // count != left_out
        ]
        weights = np.array(dataclasses.astuple(start))
        chosen = _choose_ridge(used, weights) if ridge is None else ridge
        return EvidenceWeights(*_fit(used, weights, chosen).tolist()), chosen

    weights, chosen = fitted(None)
    return Fits(start, weights, chosen, count, [fitted(part)[0] for part in range(folds)])


def _choose_ridge(photos: Sequence[PhotoTerms], start: Array) -> float:
    """Return the largest ridge whose loss on unseen photos is not above the least beyond chance.

    So the weights are left as they are, unless the photos speak clearly against them. What is
    beyond chance is one standard error of the paired difference, as in [1]_.

    References
    ----------
    .. [1] T. Hastie, R. Tibshirani, J. Friedman, "The elements of statistical learning", 2009,
       section 7.10: the one-standard-error rule.
    """
    count = len(photos)
    losses = np.zeros((count, len(RIDGES)))
    for part in range(_PARTS):
        inside = range(-(-part * count // _PARTS), -(-(part + 1) * count // _PARTS))
        seen = [photos[i] for i in range(count) if i not in inside]
        for j, ridge in enumerate(RIDGES):
            weights = _fit(seen, start, ridge)
            for i in inside:
                losses[i, j] = _loss(weights, photos[i])
    above = losses - losses[:, [losses.mean(axis=0).argmin()]] if count else losses
    error = above.std(axis=0) / math.sqrt(max(count - 1, 1))
    return RIDGES[int(np.flatnonzero(above.mean(axis=0) <= error).max())] if count else math.inf


def _fit(photos: Sequence[PhotoTerms], start: Array, ridge: float) -> Array:
    """Minimise the loss by Newton's method, which for a convex loss finds the minimum."""
    if not photos or math.isinf(ridge):
        return start
    groups = _joined(photos)
    spread = _spread([each.values for each in groups])
    spread[CONSTANT] = 1
    # A term that is the same everywhere tells nothing.
    free = np.flatnonzero((start != 0) & (spread > _FLAT) | (np.arange(len(NAMES)) == CONSTANT))
    penalty = ridge * spread[free] ** 2
    weights = start.copy()

    def at(change: Array) -> tuple[float, Array, Array]:
        moved = start.copy()
        moved[free] += change
        loss = float((penalty * change**2).sum()) / 2
        gradient, hessian = penalty * change, np.diag(penalty)
        for each in groups:
            loss += _loss(moved, each)
            first, second = _derivatives(moved, each)
            gradient = gradient + first[free]
            hessian = hessian + second[np.ix_(free, free)]
        return loss, gradient, hessian

    change = np.zeros(len(free))
    loss, gradient, hessian = at(change)
    for _ in range(_MOST_STEPS):
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < _GAIN * len(photos):
            break
        found = at(change - step)
        for _ in range(_MOST_HALVINGS):
            if found[0] <= loss:
                break
            step /= 2
            found = at(change - step)
        change = change - step
        loss, gradient, hessian = found
    weights[free] += change
    return weights


def _spread(values: Sequence[Array]) -> NDArray[np.float64]:
    """Return the standard deviation of each term."""
    rows = np.concatenate([each.reshape(-1, len(NAMES)) for each in values])
    return np.asarray(rows.std(axis=0))


def _joined(photos: Sequence[PhotoTerms]) -> list[PhotoTerms]:
    """Put superpixels with the same number of classes together: fewer and larger arrays."""
    groups: dict[int, list[PhotoTerms]] = {}
    for each in photos:
        groups.setdefault(len(each.values), []).append(each)
    return [
        PhotoTerms(
            np.concatenate([each.values for each in group], axis=1),
            np.concatenate([each.shares for each in group], axis=1),
        )
        for group in groups.values()
    ]


def _log_probabilities(weights: Array, values: Array) -> NDArray[np.float64]:
    """Return those of the background and the classes, (C + 1, S)."""
    scores = np.insert(values @ weights, 0, 0, axis=0)
    scores -= scores.max(axis=0)
    logs: NDArray[np.float64] = scores - np.log(np.exp(scores).sum(axis=0))
    return logs


def _loss(weights: Array, photos: PhotoTerms) -> float:
    """Return the cross entropy of superpixels."""
    return -float((photos.shares * _log_probabilities(weights, photos.values)).sum())


def _derivatives(weights: Array, photos: PhotoTerms) -> tuple[Array, Array]:
    """Return the first and second derivatives of the loss, (J,) and (J, J)."""
    values, shares = photos
    found, size = np.exp(_log_probabilities(weights, values)[1:]), shares.sum(axis=0)
    gradient = np.einsum("csj,cs->j", values, found * size - shares[1:])
    flat = values.reshape(-1, len(weights))
    mean = np.einsum("csj,cs->sj", values, found)
    hessian = (flat * (found * size).reshape(-1, 1)).T @ flat - (mean * size[:, None]).T @ mean
    return gradient, hessian
