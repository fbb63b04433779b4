"""The oracle: what every kernel computes, in a few simple lines of NumPy.

The tests compare every kernel with these functions. They are slow and check nothing. Each takes one
image without batch dimensions and arguments in the form that the public function of the same name
documents; sums and comparisons are in float64. The sections are named by the stems of the ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cuekit.crf import CRFParams
    from cuekit.labels import BackgroundOverlap, Overlap
    from cuekit.merge_scales import Merge, Normalize
    from cuekit.refine_local import Affinity
    from cuekit.resize import Rule
    from cuekit.snap import Accept
    from cuekit.subtract import Mode
    from cuekit.superpixel_graph import SuperpixelGraph

Array = npt.NDArray[Any]
Filter = Callable[[Array], Array]  # (K, N) -> (K, N)
MakeFilter = Callable[[Array], Filter]  # features (N, d) -> Filter

# ---------------------------------------------------------------------------------------- subtract


def subtract_classes(
    cams: Array,  # (C, h, w)
    present: Array,  # (C,) bool
    mode: Mode,
) -> Array:  # (C, h, w), in the dtype of cams
    """Remove from every present class what other present classes activate as well."""
    maps = cams.astype(np.float64)
    out = np.zeros(maps.shape)
    for c in np.flatnonzero(present):
        others = [maps[other] for other in np.flatnonzero(present) if other != c]
        if not others:
            out[c] = np.maximum(maps[c], 0)
        elif mode == "pairwise":
            for other in others:
                out[c] += np.maximum(maps[c] - other, 0)
            out[c] *= 1 / len(others)
        elif mode == "strongest":
            out[c] = np.maximum(maps[c] - np.max(others, axis=0), 0)
        else:  # dcsm
            for other in others:
                out[c] += saturated(difference(maps[c], other))
            out[c] = saturated(out[c])
    return out.astype(cams.dtype)


def difference(a: Array, b: Array) -> Array:  # (h, w) each -> (h, w)
    """Return a - b, or half of it where that exceeds the range of float64."""
    with np.errstate(over="ignore"):
        whole = a - b
    return whole if whole.max(initial=0) < np.inf else a / 2 - b / 2


def saturated(values: Array) -> Array:  # (h, w) -> (h, w)
    """Return tanh(3 max(v, 0) / max v), which is 0 everywhere if max v <= 0."""
    largest = values.max(initial=0)
    result = (
        np.tanh(3 * (np.maximum(values, 0) / largest)) if largest > 0 else np.zeros_like(values)
    )
    return np.asarray(result)


# -------------------------------------------------------------------------------------- background


def background_map(
    *features: Array,  # (D_i, h_i, w_i) each
    size: tuple[int, int],
) -> Array:  # (H, W), in the dtype of features
    """Sum each input over its channels, resize, add, normalise to [0, 1]."""
    total = np.zeros(size)
    for maps in features:
        channel_sum = np.zeros(maps.shape[1:])
        for channel in maps:
            channel_sum += channel
        total += resize_bilinear(channel_sum, size)
    span = total.max() - total.min()
    normalized = (total - total.min()) / span if span > 0 else np.zeros(size)
    return normalized.astype(features[0].dtype)


# ---------------------------------------------------------------------------------------- raw_cues


def raw_cues(
    cams: Array,  # (C, h, w)
    background: Array | None,  # (h, w) floating, or bool: the background cue itself
    present: Array,  # (C,) bool
    foreground_threshold: float,
    background_threshold: float,
) -> Array:  # (C + 1, h, w) bool
    """Compare each present class's map with a share of its maximum; the background is channel 0."""
    out = np.zeros((len(cams) + 1, *cams.shape[1:]), dtype=bool)
    if background is not None:
        is_cue = background.dtype == bool
        out[0] = background if is_cue else background.astype(np.float64) < background_threshold
    for c in np.flatnonzero(present):
        maps = cams[c].astype(np.float64)
        if maps.size and maps.max() > 0:
            out[c + 1] = maps > foreground_threshold * maps.max()
    return out


# -------------------------------------------------------------------------------------- rgb_to_lab


def rgb_to_lab(image: Array) -> Array:  # (H, W, 3) uint8 -> (H, W, 3)
    """Convert sRGB to CIE L*a*b*."""
    v = image / 255
    linear = np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    matrix = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    t = linear @ matrix.T / [0.95047, 1.0, 1.08883]
    x, y, z = np.moveaxis(np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# --------------------------------------------------------------------------------- colour_evidence


def colour_evidence(
    probabilities: Array,  # (K, H, W)
    image: Array,  # (H, W, 3) uint8
    superpixels: Array | None = None,  # (H, W)
    bins: int = 16,
    sigma: float = 1.0,
    floor: float = 5e-5,
    limit: float = 8.0,
) -> Array:  # (K - 1, H, W)
    """Return the log ratio of each class's histogram of colours and the background's."""
    channels, height, width = probabilities.shape
    # The public function bins float32 colours.
    lab = rgb_to_lab(image).astype(np.float32)
    gray = bins // 2 + 0.5
    bin_of = np.empty((height, width, 3), np.int64)
    for j, (step, offset) in enumerate(((100 / bins, 0), (128 / bins, gray), (128 / bins, gray))):
        bin_of[..., j] = np.clip(lab[..., j] * np.float32(1 / step) + offset, 0, bins - 1)
    counts = np.zeros((channels, bins, bins, bins))
    for y in range(height):
        for x in range(width):
            counts[(slice(None), *bin_of[y, x])] += probabilities[:, y, x].astype(np.float64)
    for axis in (1, 2, 3):
        counts = smoothed(counts, sigma, axis)
    logs = np.log(counts / (height * width) + floor)
    evidence = (logs[1:] - logs[0])[(slice(None), *np.moveaxis(bin_of, -1, 0))]
    if superpixels is not None:
        evidence = superpixel_mean(evidence, superpixels)
    clipped: Array = evidence.clip(-limit, limit)
    return clipped


def smoothed(values: Array, sigma: float, axis: int) -> Array:
    """Smooth along one axis by a Gaussian that is cut off at 4 sigma; values outside are 0."""
    radius = int(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    ends = [(radius, radius) if i == axis else (0, 0) for i in range(values.ndim)]
    padded = np.pad(values, ends)
    shifted = [
        padded.take(range(i, i + values.shape[axis]), axis=axis) * weight
        for i, weight in enumerate(weights / weights.sum())
    ]
    total: Array = np.sum(shifted, axis=0)
    return total


# -------------------------------------------------------------------------------- superpixel_graph


def superpixel_graph(
    superpixels: Array,  # (H, W): -1 is no superpixel
    image: Array | None,  # (H, W, 3) uint8
) -> tuple[Array | None, ...]:
    """Return the fields of `SuperpixelGraph`, in their order."""
    height, width = superpixels.shape
    labels = np.unique(superpixels[superpixels >= 0]).astype(np.int64)  # (S,)
    numbers: Array = np.full(superpixels.shape, -1, np.int32)
    numbers[superpixels >= 0] = np.searchsorted(labels, superpixels[superpixels >= 0])
    pairs = [
        np.stack([numbers[:, :-1].ravel(), numbers[:, 1:].ravel()], axis=-1),
        np.stack([numbers[:-1].ravel(), numbers[1:].ravel()], axis=-1),
    ]
    touching = np.sort(np.concatenate(pairs), axis=-1)  # (pairs of pixels, 2)
    touching = touching[(touching[:, 0] >= 0) & (touching[:, 0] < touching[:, 1])]
    edges, lengths = np.unique(touching, axis=0, return_counts=True)
    at_border = np.ones(superpixels.shape, dtype=bool)
    at_border[1:-1, 1:-1] = False
    inside = [numbers == i for i in range(len(labels))]
    centres = [
        ((rows.mean() + 0.5) / height, (columns.mean() + 0.5) / width)
        for rows, columns in map(np.nonzero, inside)
    ]
    lab = None if image is None else rgb_to_lab(image)
    return (
        numbers,
        labels,
        edges.astype(np.int32),
        lengths.astype(np.int64),
        np.array([each.sum() for each in inside], dtype=np.int64),
        np.array([at_border[each].sum() for each in inside], dtype=np.int64),
        np.reshape(centres, (-1, 2)),
        None if lab is None else np.reshape([lab[each].mean(0) for each in inside], (-1, 3)),
    )


# --------------------------------------------------------------------------------- superpixel_walk


def superpixel_walk(
    values: Array,  # (C, S)
    graph: SuperpixelGraph,
    restart: float,
    sigma: float,
) -> Array:  # (C, S)
    """Solve the walk's system with a dense matrix."""
    i, j = graph.edges.T
    squared = ((graph.colours[i] - graph.colours[j]) ** 2).sum(-1)
    logs = np.full((len(graph.sizes), len(graph.sizes)), -np.inf)
    logs[i, j] = logs[j, i] = np.log(graph.edge_lengths) - squared / (2 * sigma**2)
    alone = (logs == -np.inf).all(1)
    logs[alone, alone] = 0  # where it is, it stays
    weights = np.exp(logs - logs.max(1, initial=-np.inf, keepdims=True))
    steps = weights / weights.sum(1, keepdims=True)
    system = np.eye(len(steps)) - (1 - restart) * steps
    solution: Array = np.linalg.solve(system, restart * values.T).T
    return solution


# --------------------------------------------------------------------------- boundary_connectivity


def boundary_connectivity(
    graph: SuperpixelGraph,
    sigma: float,
    clip: float,
    spatial_sigma: float,
) -> tuple[Array, Array]:  # (S,), (S,)
    """Find all shortest paths by Floyd and Warshall's method, then take the sums."""
    differences = np.sqrt(((graph.colours[:, None] - graph.colours) ** 2).sum(-1))  # (S, S)
    i, j = graph.edges.T
    at_border = graph.border_pixels > 0
    joined = at_border[:, None] & at_border
    joined[i, j] = joined[j, i] = True
    distances = np.where(joined, np.maximum(differences - clip, 0), np.inf)
    np.fill_diagonal(distances, 0)
    for k in range(len(distances)):
        distances = np.minimum(distances, distances[:, k : k + 1] + distances[k])
    similar = weight(-(distances**2) / (2 * sigma**2))
    connectivity = similar @ graph.border_pixels / np.sqrt(similar @ graph.sizes)
    apart = ((graph.centres[:, None] - graph.centres) ** 2).sum(-1)
    near = weight(-apart / (2 * spatial_sigma**2))
    background = (1 - np.exp(-(connectivity**2) / 2)) * graph.sizes
    contrast = (differences * near) @ background
    largest = contrast.max(initial=0)
    return connectivity, contrast / largest if largest > 0 else contrast


def weight(exponent: Array) -> Array:
    """Return the exponential, but 0 where it is below 1e-30."""
    return np.where(exponent > -69, np.exp(exponent), 0)


# -------------------------------------------------------------------------------------------- snap


def snap_cues(
    cues: Array,  # (K, h, w)
    superpixels: Array,  # (H, W): -1 is no superpixel
    threshold: float,
) -> Array:  # (K, H, W) bool
    """Set a channel in the superpixels whose mean exceeds a share of the largest mean."""
    maps = resize(cues, superpixels.shape)  # (K, H, W)
    levels = [input_level(channel, threshold) for channel in cues]
    out = maps > np.reshape(levels, (-1, 1, 1))  # the input: what pixels in no superpixel keep
    inside = superpixels >= 0  # (H, W)
    compact = compact_labels(superpixels[inside])  # (N,)
    sums, sizes = superpixel_sums(maps[:, inside], compact)
    means = sums / sizes  # (K, S)
    on: Array = (means > threshold * means.max(1, keepdims=True, initial=0)) & (means > 0)  # (K, S)
    out[:, inside] = on[:, compact]
    return out


def snap_cues_to_masks(
    cues: Array,  # (K, h, w)
    masks: Array,  # (R, H, W) bool
    threshold: float,
    accept: Accept = "mean",
) -> Array:  # (K, H, W) bool
    """Set a channel in the masks that are accepted; pixels of no mask keep the resized cue."""
    maps = resize(cues, masks.shape[1:])  # (K, H, W)
    out = np.zeros(maps.shape, dtype=bool)
    uncovered = ~masks.any(0)  # (H, W)
    for k, values in enumerate(maps):
        on = values > input_level(cues[k], threshold)
        accepted = (
            accept_sepl(on, masks) if accept == "sepl" else accept_mean(values, masks, threshold)
        )
        out[k] = (on & uncovered) | masks[accepted].any(0)
    return out


def input_level(channel: Array, threshold: float) -> float:  # (h, w)
    """Return the value above which a channel's input is on: 0 for bool and uint8."""
    if channel.dtype.kind != "f":
        return 0.0
    return max(threshold * float(channel.astype(np.float64).max()), 0.0)


def accept_sepl(on: Array, masks: Array) -> Array:  # (H, W) bool, (R, H, W) bool -> (R,) bool
    """Accept masks that are mostly cue, or that contain 85 % of the cue."""
    overlaps = (masks & on).sum((1, 2))  # (R,)
    most_of_mask = 2 * overlaps > masks.sum((1, 2))
    accepted: Array = most_of_mask | (on.any() & (100 * overlaps >= 85 * on.sum()))
    return accepted


def accept_mean(values: Array, masks: Array, threshold: float) -> Array:  # (R,) bool
    """Accept masks whose mean value exceeds a share of the largest mean."""
    # cumsum adds one value after the other, in raster order; sum would add in pairs
    sums = [np.cumsum(values[mask], dtype=float)[-1:].sum() for mask in masks]
    means = np.array(sums, dtype=float) / np.maximum(masks.sum((1, 2)), 1)  # (R,)
    accepted: Array = (means > threshold * means.max(initial=0)) & (means > 0)
    return accepted


# -------------------------------------------------------------------------------------------- sepl


def sepl_labels(
    labels: Array,  # (H, W)
    masks: Array,  # (R, H, W) bool
    ignore: int | None,
) -> Array:  # (H, W), in the dtype of labels
    """Let every class, in ascending order, take masks that no earlier class took."""
    out = np.where(labels == ignore, labels, 0)
    free = list(masks)
    for value in np.unique(labels[(labels != 0) & (labels != ignore)]):
        on = labels == value
        covered = np.any(free, axis=0) if free else np.zeros(on.shape, dtype=bool)
        taken = [mask for mask in free if accept_sepl(on, mask[None])[0]]
        free = [mask for mask in free if not accept_sepl(on, mask[None])[0]]
        out[np.any([on & ~covered, *taken], axis=0)] = value
    return out.astype(labels.dtype)


# ------------------------------------------------------------------------------------- mask_scores


def mask_scores(
    maps: Array,  # (C, h, w)
    masks: Array,  # (R, H, W) bool
    top: float,
    threshold: float,
) -> tuple[Array, Array, Array, Array, Array]:  # (R,) int64, then four times (R, C) float64
    """Average maps over masks, and over their largest values there; intersect cues with masks."""
    resized = resize(maps, masks.shape[1:]).astype(np.float64)  # (C, H, W)
    tables = np.zeros((4, len(masks), len(maps)))  # mean, top mean, inside, covered
    for c, values in enumerate(resized):
        cue = values > input_level(maps[c], threshold)
        for r, mask in enumerate(masks):
            if mask.any():
                descending = np.sort(values[mask])[::-1]
                largest = descending[: max(1, int(top * mask.sum() + 0.5))]
                both = (mask & cue).sum()
                row = descending.mean(), largest.mean(), both / mask.sum(), both / max(cue.sum(), 1)
                tables[:, r, c] = row
    return masks.sum((1, 2)), *tables


def label_masks(
    support: Array,  # (R, C)
    present: Array,  # (C,) bool
    claims: Array,  # (R,): class labels from 1, or 0
    accept: float,
    reject: float,
    ignore: int,
) -> Array:  # (R,)
    """Confirm each mask's claim, or find another class, or none, or leave it in doubt."""
    labels = []
    for claim, row in zip(claims, np.where(present, support, -np.inf), strict=True):
        largest = row.max(initial=-np.inf)
        if claim > 0 and row[claim - 1] >= accept:
            labels.append(claim)
        elif largest >= accept:
            labels.append(list(row).index(largest) + 1)
        else:
            labels.append(0 if largest < reject else ignore)
    return np.array(labels, dtype=int)


# -------------------------------------------------------------------------------------------- fuse


def fuse_cues(*cue_sets: Array) -> Array:  # (K, H, W) each -> (K, H, W) bool
    """Return the logical OR of the sets."""
    fused: Array = np.any([cues != 0 for cues in cue_sets], axis=0)
    return fused


# ------------------------------------------------------------------------------------------ resize


def resize_cues(
    cues: Array,  # (K, h, w)
    size: tuple[int, int],
    rule: Rule,
) -> Array:  # (K, H, W) bool
    """Resize cues by the nearest pixel, or by how much of each target pixel's area they cover."""
    if rule == "nearest":
        return resize_nearest(cues, size)
    # Repeat every source pixel H x W times; a target pixel is then a block of h x w of them.
    height, width = cues.shape[-2:]
    fine = np.repeat(np.repeat(cues != 0, size[0], axis=-2), size[1], axis=-1)
    area: Array = fine.reshape(len(cues), size[0], height, size[1], width).sum((2, 4))
    return area > 0 if rule == "any" else 2 * area >= height * width


def resize(maps: Array, size: tuple[int, ...]) -> Array:  # (K, h, w) -> (K, H, W)
    """Resize floating maps bilinearly to float64, and other maps to the nearest pixel as bool."""
    height, width = size
    return (resize_bilinear if maps.dtype.kind == "f" else resize_nearest)(maps, (height, width))


def resize_nearest(cues: Array, size: tuple[int, int]) -> Array:  # (..., h, w) -> (..., H, W) bool
    """Take the source pixel that contains the centre of the target pixel."""
    rows = nearest_index(cues.shape[-2], size[0])  # (H,)
    columns = nearest_index(cues.shape[-1], size[1])  # (W,)
    resized: Array = (cues != 0)[..., rows[:, None], columns]
    return resized


def nearest_index(size: int, out: int) -> Array:  # (out,)
    """Return the source index of every target index: floor((i + 1/2) size / out)."""
    return (2 * np.arange(out) + 1) * size // (2 * out)


def resize_bilinear(maps: Array, size: tuple[int, int]) -> Array:  # (..., h, w) -> (..., H, W)
    """Interpolate in float64 with half-pixel centres; edges are clamped."""
    maps = maps.astype(np.float64)
    for axis, out in ((-2, size[0]), (-1, size[1])):
        length = maps.shape[axis]
        position = np.maximum((np.arange(out) + 0.5) * length / out - 0.5, 0.0)
        low = np.minimum(np.floor(position).astype(int), length - 1)
        weight = position - low
        if axis == -2:
            weight = weight[:, None]
        a = np.take(maps, low, axis)
        b = np.take(maps, np.minimum(low + 1, length - 1), axis)
        maps = a + weight * (b - a)
    return maps


# ------------------------------------------------------------------------------------- merge_scales


def merge_scales(
    maps: list[Array],  # (C, h_i, w_i) each
    flipped: list[Array] | None,  # (C, h_i, w_i) each
    size: tuple[int, int],
    flips: Merge,
    scales: Merge,
    normalize: Normalize | None,
    epsilon: float,
) -> Array:  # (C, H, W)
    """Merge maps of a photo at several scales, and of its mirror image, at one size."""
    merge: dict[str, Any] = {"sum": np.sum, "mean": np.mean, "max": np.max}
    resized = np.stack([resize_bilinear(each, size) for each in maps])  # (S, C, H, W)
    if flipped is not None:
        mirrored = np.stack([resize_bilinear(each, size) for each in flipped])[..., ::-1]
        resized = merge[flips]([resized, mirrored], axis=0)
    if normalize is not None:
        resized = np.maximum(resized, 0)
    merged: Array = merge[scales](resized, axis=0)
    if normalize == "minmax":
        merged = merged - merged.min((-2, -1), keepdims=True)
    if normalize is not None:
        divisor = merged.max((-2, -1), keepdims=True) + epsilon
        merged = merged / np.where(divisor == 0, 1, divisor)
    return merged


# ------------------------------------------------------------------------------------------ labels


def cues_to_labels(
    cues: Array,  # (K, H, W)
    class_ids: Array,  # (K,)
    overlap: Overlap,
    background_overlap: BackgroundOverlap,
    unknown: int,
    ignore: int = 255,
) -> Array:  # (H, W) int64
    """Write one class id per pixel: among foreground cues that of the smallest, or `ignore`."""
    out = np.full(cues.shape[1:], unknown, dtype=np.int64)
    on = cues != 0
    areas = on.sum((1, 2))  # (K,)
    for y, x in np.ndindex(*out.shape):
        foreground = [k for k in range(1, len(cues)) if on[k, y, x]]
        if len(foreground) > 1 and overlap == "ignore":
            out[y, x] = ignore
        elif foreground:
            out[y, x] = class_ids[min(foreground, key=lambda k: (areas[k], k))]
        if on[0, y, x] and foreground and background_overlap == "ignore":
            out[y, x] = ignore
        elif on[0, y, x] and not (foreground and background_overlap == "foreground"):
            out[y, x] = class_ids[0]
    return out


# -------------------------------------------------------------------------- probabilities_to_labels


def probabilities_to_labels(
    probabilities: Array,  # (K, H, W)
    present: Array,  # (K - 1,) bool
    class_ids: Array,  # (K,)
    confidence: float | None,
    ignore: int,
) -> Array:  # (H, W) int64
    """Write the class id of the largest probability, or `ignore` where it is too low."""
    channels = np.flatnonzero([True, *present])
    best = channels[np.argmax(probabilities[channels], axis=0)]
    labels: Array = class_ids[best]
    if confidence is not None:
        labels[np.max(probabilities[channels], axis=0) < confidence] = ignore
    return labels


# --------------------------------------------------------------------------------- confident_labels


def confident_labels(
    high: Array,  # (H, W)
    low: Array,  # (H, W)
    ignore: int,
) -> Array:  # (H, W)
    """Keep the foreground of one run and what is background in both."""
    out = np.full_like(high, ignore)
    for pixel in np.ndindex(*high.shape):
        if high[pixel] != 0:
            out[pixel] = high[pixel]
        elif low[pixel] == 0:
            out[pixel] = 0
    return out


# ------------------------------------------------------------------------------------ felzenszwalb


def felzenszwalb(
    image: Array,  # (H, W, channels)
    scale: float,
    sigma: float,
    min_size: int,
) -> Array:  # (H, W) int32
    """Merge neighbouring regions in order of edge cost; then merge regions that are too small."""
    u, v, costs = edges(image, sigma)
    regions = np.arange(image[..., 0].size)  # (N,): the first pixel of each pixel's region
    sizes, last_cost = np.ones(regions.size), np.zeros(regions.size)  # per region
    for merging_small in (False, True):
        for edge in np.argsort(costs, kind="stable"):
            a, b = sorted((regions[u[edge]], regions[v[edge]]))
            limits = [np.float32(last_cost[r] + scale / 255 / sizes[r]) for r in (a, b)]
            small = min(sizes[a], sizes[b]) < min_size
            if a != b and (small if merging_small else costs[edge] < min(limits)):
                regions[regions == b] = a
                sizes[a] += sizes[b]
                last_cost[a] = costs[edge]
    return np.unique(regions, return_inverse=True)[1].reshape(image.shape[:2]).astype(np.int32)


def edges(image: Array, sigma: float) -> tuple[Array, Array, Array]:  # (E,) each
    """Return both pixels and the cost of every edge between 8-connected pixels."""
    colours = image * (1 / 255) if image.dtype == np.uint8 else image.astype(np.float64)
    for axis in (0, 1):
        colours = gaussian_filter(colours, sigma, axis)
    pixels = np.arange(image[..., 0].size).reshape(image.shape[:2])
    right, down = (pixels[:, :-1], pixels[:, 1:]), (pixels[:-1], pixels[1:])
    down_right, up_right = (pixels[:-1, :-1], pixels[1:, 1:]), (pixels[1:, :-1], pixels[:-1, 1:])
    pairs = [[end.ravel() for end in pair] for pair in (right, down, down_right, up_right)]
    u, v = np.concatenate(pairs, axis=1)
    flat = colours.reshape(pixels.size, -1)  # (N, channels)
    return u, v, np.sqrt(((flat[u] - flat[v]) ** 2).sum(1))


def gaussian_filter(values: Array, sigma: float, axis: int) -> Array:
    """Smooth float64 values along one axis, mirrored at the ends, truncated at 4 sigma."""
    radius = int(4 * sigma + 0.5) if sigma > 1e-15 else 0
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * steps**2) if radius else np.ones(1)
    weights = (weights / weights.sum())[radius:]  # (radius + 1,): by distance
    margins = [(radius, radius) if i == axis else (0, 0) for i in range(values.ndim)]
    padded = np.pad(values, margins, mode="symmetric")
    shifted = [
        np.take(padded, range(j, j + values.shape[axis]), axis) for j in range(2 * radius + 1)
    ]
    out: Array = shifted[radius] * weights[0]
    for j in range(radius, 0, -1):
        out += (shifted[radius - j] + shifted[radius + j]) * weights[j]
    return out


# --------------------------------------------------------------------------------- superpixel_mean


def superpixel_mean(
    values: Array,  # (K, H, W)
    superpixels: Array,  # (H, W): -1 is no superpixel
) -> Array:  # (K, H, W), in the dtype of floating values, else float32
    """Replace every value by the mean of its channel over its superpixel, where there is one."""
    out = values.astype(np.float64)
    inside = superpixels >= 0  # (H, W)
    compact = compact_labels(superpixels[inside])  # (N,)
    sums, sizes = superpixel_sums(values[:, inside], compact)
    out[:, inside] = (sums / sizes)[:, compact]
    return out.astype(values.dtype if values.dtype.kind == "f" else np.float32)


def compact_labels(superpixels: Array) -> Array:  # any shape
    """Renumber the labels that occur, from 0 in ascending order."""
    compact: Array = np.unique(superpixels, return_inverse=True)[1]
    return compact.reshape(superpixels.shape)


def superpixel_sums(values: Array, labels: Array) -> tuple[Array, Array]:  # (K, S) and (S,)
    """Sum (K, N) values over each of S superpixels, in raster order; return sizes as well."""
    sizes = np.bincount(labels)  # of (N,) labels
    sums = [np.bincount(labels, channel.astype(float), len(sizes)) for channel in values]
    return np.array(sums).reshape(len(values), len(sizes)), np.maximum(sizes, 1)


# ---------------------------------------------------------------------------------------- suppress


def suppress_absent(
    scores: Array,  # (K, H, W)
    present: Array,  # (K - 1,) bool
    margin: float,
) -> Array:  # (K, H, W), in the dtype of scores
    """Limit absent classes to less than the largest of background and present classes."""
    kept = np.concatenate([[True], present])  # (K,)
    ceiling = scores[kept].max(0)  # (H, W)
    below = np.nextafter(ceiling, scores.dtype.type(-np.inf))
    limit = np.minimum(ceiling - scores.dtype.type(margin), below)
    return np.where(kept[:, None, None], scores, np.minimum(scores, limit))


# ------------------------------------------------------------------------------------ refine_local


def refine_local(
    maps: Array,  # (C, h, w)
    photo: Array,  # (H, W, channels)
    affinity: Affinity,
    dilations: Sequence[int],
    iterations: int,
) -> Array:  # (C, H, W), in the dtype of maps
    """Replace every value by a weighted sum over neighbours, again and again."""
    kind = np.float64 if maps.dtype == np.float64 else np.float32  # as the published modules' a
    colours, sides = photo.astype(kind), photo.shape[:2]
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    offsets = np.array([np.multiply(d, step) for d in dilations for step in steps])  # (n, 2)
    rows, columns = (
        (np.arange(side) + offsets[:, axis, None]).clip(0, side - 1)
        for axis, side in enumerate(sides)
    )
    index = rows[:, :, None], columns[:, None, :]
    around = colours[index]  # (n, H, W, channels)
    own = [colours] * len(dilations) if affinity == "pamr" else []
    deviation = np.std([*around, *own], axis=0, ddof=1, dtype=np.float64).astype(kind)
    distances = np.abs(around - colours)
    if affinity == "par":
        a = -np.square(distances / (deviation + kind(1e-8)) / kind(0.3))
        r = np.hypot(*offsets.T)
        b = -np.square(r / (r.std(ddof=1) + 1e-8) / 0.3)
        weights = softmax(a.mean(-1)) + 0.01 * softmax(b)[:, None, None]  # (n, H, W)
    else:
        weights = softmax((-distances / (kind(1e-8) + kind(0.1) * deviation)).mean(-1))
    values = resize_corners(maps, sides)
    for _ in range(iterations):
        values = np.stack([(weights * channel[index]).sum(0) for channel in values])
    return values.astype(maps.dtype)


def resize_corners(maps: Array, size: tuple[int, ...]) -> Array:  # (C, h, w) -> (C, H, W)
    """Interpolate in float64 with aligned corners."""
    maps = maps.astype(np.float64)
    for axis, out in ((-2, size[0]), (-1, size[1])):
        length = maps.shape[axis]
        position = np.arange(out) * (length - 1) / max(out - 1, 1)
        low = np.floor(position).astype(int)
        weight = position - low
        if axis == -2:
            weight = weight[:, None]
        a = np.take(maps, low, axis)
        b = np.take(maps, np.minimum(low + 1, length - 1), axis)
        maps = a + weight * (b - a)
    return maps


# -------------------------------------------------------------------------------- bilateral_filter


def exact_filter(features: Array) -> Filter:  # features (N, d)
    """Make the Gaussian filter itself: sums over all pixels, weighted by feature distance."""
    points = features.astype(np.float64)
    weights: Array = np.exp(-((points[:, None] - points) ** 2).sum(-1) / 2)  # (N, N)

    def apply(values: Array) -> Array:
        summed: Array = values @ weights
        return summed

    return apply


def lattice_filter(
    features: Array,  # (N, d) float32
    *,
    adjoint: bool = False,
) -> Filter:
    """Make the approximation of `exact_filter` on a permutohedral lattice of V vertices.

    A point's position in the lattice is computed in float32, in the same order as in the kernels,
    so that every point is in the same simplex as there. The rest is in float64. The adjoint blurs
    along the axes in the opposite order.
    """
    d = features.shape[1]
    keys, barycentric = enclosing_simplices(elevated(features))
    vertices, rows = np.unique(keys.reshape(-1, d), axis=0, return_inverse=True)  # (V, d)
    rows = rows.reshape(d + 1, -1)  # (d + 1, N): the vertices of each point's simplex
    neighbours = lattice_neighbours(vertices)

    def apply(values: Array) -> Array:
        lattice = np.zeros((len(vertices) + 1, len(values)))  # (V + 1, K); row V is always 0
        np.add.at(lattice, rows, barycentric[..., None] * values.T.astype(np.float64))
        for before, after in neighbours[:: -1 if adjoint else 1]:
            lattice[:-1] = lattice[:-1] + (lattice[before] + lattice[after]) / 2
        sliced: Array = (barycentric[..., None] * lattice[rows]).sum(0).T / (1 + 2.0**-d)
        return sliced

    return apply


def elevated(features: Array) -> Array:  # (N, d) float32 -> (d + 1, N) float32
    """Embed the points in the hyperplane of R^(d + 1) whose coordinates sum to 0."""
    pixels, d = features.shape
    deviation = float(np.float32(np.sqrt(2 / 3) * (d + 1)))  # of the filter, in lattice steps
    out = np.zeros((d + 1, pixels), np.float32)
    total = np.zeros(pixels, np.float32)
    for i in range(d, 0, -1):
        scaled = features[:, i - 1] * np.float32(1 / np.sqrt(i * (i + 1)) * deviation)
        out[i] = total - np.float32(i) * scaled
        total = total + scaled
    out[0] = total
    return out


def enclosing_simplices(points: Array) -> tuple[Array, Array]:  # points (d + 1, N) float32
    """Return the vertices of each point's simplex, and the point's barycentric coordinates.

    Vertices are (d + 1, N, d) integers, one vertex of each colour 0 to d. A vertex is identified by
    its first d coordinates, because all d + 1 sum to 0. Barycentric coordinates are (d + 1, N).
    """
    origins, ranks = nearest_origins(points)
    d = len(points) - 1
    remainders = (points - origins.astype(np.float32)) * (1 / np.float32(d + 1))
    descending = np.empty_like(remainders)
    np.put_along_axis(descending, d - ranks, remainders, 0)
    barycentric = descending - np.roll(descending, 1, 0)
    barycentric[0] = descending[0] + (1 - descending[d])
    colours = np.arange(d + 1)[:, None, None]
    # The vertex of colour c is the origin plus c in all coordinates, minus d + 1 in the c
    # coordinates with the smallest remainders.
    vertices = origins[:d] + colours - (d + 1) * (ranks[:d] > d - colours)  # (d + 1, d, N)
    return vertices.transpose(0, 2, 1), barycentric


def nearest_origins(points: Array) -> tuple[Array, Array]:  # (d + 1, N) -> (d + 1, N) twice
    """Return the nearest vertex of colour 0, and the ranks of the differences to it."""
    d = len(points) - 1
    cells = np.rint(points * (1 / np.float32(d + 1)))
    remainders = points - cells * np.float32(d + 1)
    ranks = np.zeros(points.shape, int)  # 0 for the largest remainder
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            below = remainders[i] < remainders[j]
            ranks[i] += below
            ranks[j] += ~below
    # Rounding can leave the hyperplane by some steps of d + 1. The coordinates that rounding
    # changed most, which are those of extreme rank, are corrected by one step each.
    ranks += cells.sum(0).astype(int)
    wrapped = (d + 1) * ((ranks < 0).astype(int) - (ranks > d))
    return (cells * np.float32(d + 1)).astype(int) + wrapped, ranks + wrapped


def lattice_neighbours(vertices: Array) -> list[list[list[int]]]:  # vertices (V, d)
    """Return, for each of d + 1 axes, the rows (V,) of the vertices one step back and one ahead.

    A vertex that is not in the lattice has row -1.
    """
    d = vertices.shape[1]
    row_of = {vertex: row for row, vertex in enumerate(map(tuple, vertices.tolist()))}
    neighbours = []
    for axis in range(d + 1):
        step = np.where(np.arange(d) == axis, d, -1)
        ends = [map(tuple, (vertices + s).tolist()) for s in (step, -step)]
        neighbours.append([[row_of.get(vertex, -1) for vertex in end] for end in ends])
    return neighbours


def bilateral_features(
    image: Array,  # (H, W, C)
    sxy: float | tuple[float, float],
    srgb: float | tuple[float, ...],
) -> Array:  # (N, 2 + C) float32
    """Return positions and colours of all pixels, each divided by its width."""
    positions = position_features(image, sxy)
    if image.shape[-1] != 3:
        positions = positions[:, ::-1]  # pydensecrf's order for other photos than RGB
    colours = image.reshape(-1, image.shape[-1]).astype(np.float32) / np.array(srgb, np.float32)
    return np.concatenate([positions, colours], 1)


def position_features(image: Array, sxy: float | tuple[float, float]) -> Array:  # (N, 2) float32
    """Return the positions (x, y) of all pixels, divided by their widths."""
    rows, columns = np.indices(image.shape[:2]).reshape(2, -1).astype(np.float32)
    return np.stack([columns, rows], 1) / np.array(sxy, np.float32)


def bilateral_filter(
    values: Array,  # (K, H, W)
    image: Array,  # (H, W, 3)
    sxy: float,
    srgb: float,
    normalize: bool,
    make_filter: MakeFilter = lattice_filter,
) -> Array:  # (K, H, W) float64
    """Sum over similar pixels; with `exact_filter` this is the filter without approximation."""
    kernel = make_filter(bilateral_features(image, sxy, srgb))
    filtered = kernel(values.reshape(len(values), -1).astype(np.float64))
    if normalize:
        filtered = filtered / kernel(np.ones((1, image[..., 0].size)))
    return filtered.reshape(values.shape)


# --------------------------------------------------------------------------------------------- crf


def crf_messages(
    image: Array,  # (H, W, C)
    params: CRFParams,
    make_filter: MakeFilter,
) -> Filter:
    """Make a function of marginals (K, N): the weighted sum of both normalised kernels."""
    wide = bilateral_features(image, params.bilateral_sxy, params.bilateral_srgb)
    near = position_features(image, params.gaussian_sxy)
    gaussian = normalized(make_filter(near), len(near))
    bilateral = normalized(make_filter(wide), len(wide))

    def apply(marginals: Array) -> Array:
        smooth, similar = gaussian(marginals), bilateral(marginals)
        total: Array = params.gaussian_weight * smooth + params.bilateral_weight * similar
        return total

    return apply


def normalized(kernel: Filter, pixels: int, how: str = "symmetric") -> Filter:
    """Normalise a filter: by default D^(-1/2) K D^(-1/2), where D = K 1."""
    sums = kernel(np.ones((1, pixels)))  # (1, N)
    before = after = np.ones(1)
    if how == "symmetric":
        before = after = 1 / np.sqrt(sums + 1e-20)
    elif how == "before":
        before = 1 / (sums + 1e-20)
    elif how == "after":
        after = 1 / (sums + 1e-20)

    def apply(values: Array) -> Array:
        filtered: Array = after * kernel(before * values)
        return filtered

    return apply


def softmax(values: Array) -> Array:  # (K, ...) -> (K, ...)
    """Return probabilities over the first axis."""
    powers = np.exp(values - values.max(0))
    probabilities: Array = powers / powers.sum(0)
    return probabilities


def dense_crf(
    probabilities: Array,  # (K, H, W)
    image: Array,  # (H, W, 3)
    params: CRFParams,
    iterations: int,
    epsilon: float,
    make_filter: MakeFilter = lattice_filter,
) -> Array:  # (K, H, W) float64
    """Iterate mean field; with `exact_filter` this is the model without approximation."""
    clipped = np.clip(probabilities.astype(np.float64), epsilon, 1)
    energies = -np.log(clipped).reshape(len(probabilities), -1)  # (K, N)
    messages = crf_messages(image, params, make_filter)
    marginals = softmax(-energies)  # (K, N)
    for _ in range(iterations):
        marginals = softmax(messages(marginals) - energies)
    return marginals.reshape(probabilities.shape)


def feature_messages(
    kernels: Sequence[tuple[Array, Array, str]],  # features (D, N), penalties (K, K), normalisation
    make_filter: MakeFilter = lattice_filter,
) -> Filter:
    """Make a function of marginals (K, N): what all kernels take from the energies."""
    filters = [
        (penalties, normalized(make_filter(features.T), features.shape[1], how))
        for features, penalties, how in kernels
    ]

    def apply(marginals: Array) -> Array:
        total = np.zeros_like(marginals)
        for penalties, kernel in filters:
            total = total - penalties @ kernel(marginals)
        return total

    return apply


def kl_divergence(
    marginals: Array,  # (K, N)
    energies: Array,  # (K, N)
    messages: Filter,
) -> float:
    """Return the divergence from the CRF's distribution, up to a constant."""
    logarithms = np.log(np.maximum(marginals, 1e-30))
    return float((marginals * (logarithms + energies - messages(marginals))).sum())


# ------------------------------------------------------------------------------------- random_walk


def random_walk(
    maps: Array,  # (C, h, w)
    boundary: Array | None,  # (h, w)
    affinities: Array | None,  # (K, h, w)
    radius: int,
    beta: float,
    steps: int,
) -> Array:  # (C, h, w) float64
    """Multiply the maps by a power of the dense transition matrix."""
    channels, height, width = maps.shape
    edges = np.zeros((height, width)) if boundary is None else np.clip(boundary.astype(float), 0, 1)
    matrix = np.eye(height * width)
    for k, (dy, dx) in enumerate(half_disk(radius)):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                affinity = 1 - max(edges[y + v, x + u] for v, u in path(dy, dx))
                if affinities is not None:
                    affinity = np.clip(float(affinities[k, y, x]), 0, 1)
                i, j = y * width + x, (y + dy) * width + x + dx
                matrix[i, j] = matrix[j, i] = affinity**beta
    transition = np.linalg.matrix_power(matrix / matrix.sum(0), steps)
    walked: Array = (maps * (1 - edges)).reshape(channels, -1) @ transition
    return walked.reshape(maps.shape)


def half_disk(radius: int) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) below a radius, one of each two opposite ones."""
    side = range(-radius, radius + 1)
    disk = [(dy, dx) for dy in side for dx in side if 0 < dy * dy + dx * dx < radius * radius]
    return [(dy, dx) for dy, dx in disk if (dy, dx) > (0, 0)]


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """Return the cells near the straight line from (0, 0) to (dy, dx), ends included."""
    box = [(y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)]
    return [(y, x) for y, x in box if abs(dy * x - dx * y) / np.hypot(dy, dx) < 1]


# ------------------------------------------------------------------------------------------ losses


def floored(probabilities: Array) -> Array:  # (K, H, W) -> (K, H, W) float64
    """Add 1e-4 and divide by the sum over classes, as in SEC's code."""
    raised = probabilities.astype(np.float64) + 1e-4
    out: Array = raised / raised.sum(0)
    return out


def seed_loss(
    probabilities: Array,  # (K, H, W)
    cues: Array,  # (K, H, W)
    balanced: bool = False,
) -> float:
    """Return the mean of -log p over the cues, or that of the background plus that of the rest."""
    p = floored(probabilities)
    parts = [slice(1), slice(1, None)] if balanced else [slice(None)]
    marked = [p[part][cues[part] != 0] for part in parts]
    return float(sum(-np.log(each).sum() / max(each.size, 1) for each in marked))


def constrain_to_boundary_loss(
    probabilities: Array,  # (K, H, W)
    marginals: Array,  # (K, H, W): Q as the CRF returns it
) -> float:
    """Return the mean of KL(Q || p) over pixels."""
    q = np.maximum(marginals.astype(np.float64), 1e-4)
    q /= q.sum(0)
    return float((q * np.log(q / floored(probabilities))).sum(0).mean())


def weighted_rank_pooling(values: Array, decay: float) -> float:  # values (H, W)
    """Return the mean of the values in descending order, weighted by decay^0, decay^1, ...."""
    weights = [decay**j for j in range(values.size)]
    return float(np.average(np.sort(values, axis=None)[::-1], weights=weights))


def expansion_loss(
    probabilities: Array,  # (K, H, W)
    present: Array,  # (K - 1,) bool
) -> float:
    """Return a loss that is small where present classes cover much and absent ones nothing."""
    background, *foreground = floored(probabilities)
    kept = [m for m, tag in zip(foreground, present, strict=True) if tag]
    absent = [m for m, tag in zip(foreground, present, strict=True) if not tag]
    loss = -np.log(weighted_rank_pooling(background, 0.999))
    if kept:
        loss -= np.mean([np.log(weighted_rank_pooling(m, 0.996)) for m in kept])
    if absent:
        loss -= np.mean([np.log(1 - m.max()) for m in absent])
    return float(loss)


def sampled(array: Array, size: tuple[int, int]) -> Array:  # (H, W, ...) -> (*size, ...)
    """Resize by the nearest neighbour as torch's `interpolate` does: rounded down, in float32."""
    height, width = (
        (np.arange(new) * np.float32(old / new)).astype(int)
        for old, new in zip(array.shape[:2], size, strict=True)
    )
    result: Array = array[height[:, None], width]
    return result


def dense_energy_loss(
    probabilities: Array,  # (K, H, W)
    photo: Array,  # (h, w, 3)
    roi: Array,  # (H, W) bool
    unknown: Array | None,  # (H, W) bool: which pixels have no label; None: no gate
    params: tuple[float, float, float, float],  # sxy, srgb, scale, weight
    make_filter: MakeFilter = lattice_filter,
) -> tuple[float, Array]:  # the loss, and its gradient with respect to p on the smaller grid
    """Return the energy between pixels that are alike, times the gate of one of them."""
    sxy, srgb, scale, weight = params
    size = max(1, int(roi.shape[0] * scale)), max(1, int(roi.shape[1] * scale))
    inside = sampled(roi, size)
    p = resize_bilinear(probabilities.astype(np.float64), size)
    similar = bilateral_filter(
        p * inside, sampled(photo, size), sxy * scale, srgb, False, make_filter
    )
    gate = np.ones(size)
    if unknown is not None:
        gate = np.where(sampled(unknown, size), 1, np.maximum(inside - p.max(0), 0))
    pull = weight * inside * gate * similar
    return -float((p * pull).sum()), -2 * pull
