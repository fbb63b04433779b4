"""The oracle: every kernel again in a few obvious lines of NumPy.

Slow on purpose and unchecked: one image at a time, no batch, arguments as the public functions
document them. The tests hold every kernel against these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cuekit.crf import CRFParams

Array = npt.NDArray[Any]
Filter = Callable[[Array], Array]
MakeFilter = Callable[[Array], Filter]


def nearest_index(size: int, out: int) -> Array:
    """Source index of every target index: floor((i + 1/2) * size / out)."""
    return (2 * np.arange(out) + 1) * size // (2 * out)


def resize_bilinear(maps: Array, size: tuple[int, int]) -> Array:
    """Half-pixel centres, edges clamped: (..., h, w) -> (..., H, W) float64."""
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


def resize_nearest(cues: Array, size: tuple[int, int]) -> Array:
    """(..., h, w) bool -> (..., H, W) bool."""
    rows = nearest_index(cues.shape[-2], size[0])
    columns = nearest_index(cues.shape[-1], size[1])
    resized: Array = (cues != 0)[..., rows[:, None], columns]
    return resized


def subtract_classes(cams: Array, present: Array, mode: str) -> Array:
    """(C, h, w) -> (C, h, w) in the dtype of `cams`."""
    out = np.zeros(cams.shape)
    maps = cams.astype(np.float64)
    for c in np.flatnonzero(present):
        others = [other for other in np.flatnonzero(present) if other != c]
        if not others:
            out[c] = np.maximum(maps[c], 0)
        elif mode == "pairwise":
            for other in others:
                out[c] += np.maximum(maps[c] - maps[other], 0)
            out[c] *= 1 / len(others)
        elif mode == "strongest":
            out[c] = np.maximum(maps[c] - maps[others].max(0), 0)
        else:
            for other in others:
                difference = maps[c] - maps[other]
                if difference.size and difference.max() > 0:
                    out[c] += np.tanh(3 * (np.maximum(difference, 0) / difference.max()))
            if out[c].size and out[c].max() > 0:
                out[c] = np.tanh(3 * (out[c] / out[c].max()))
    return out.astype(cams.dtype)


def background_map(*features: Array, size: tuple[int, int]) -> Array:
    """(D_i, h_i, w_i), ... -> (H, W) in the dtype of `features`."""
    total = np.zeros(size)
    for maps in features:
        channel_sum = np.zeros(maps.shape[1:])
        for channel in maps:
            channel_sum += channel
        total += resize_bilinear(channel_sum, size)
    span = total.max() - total.min()
    normalized = (total - total.min()) / span if span > 0 else np.zeros(size)
    return normalized.astype(features[0].dtype)


def raw_cues(
    cams: Array,
    background: Array | None,
    present: Array,
    foreground_threshold: float,
    background_threshold: float,
) -> Array:
    """(C, h, w), (h, w) -> (C + 1, h, w) bool."""
    out = np.zeros((len(cams) + 1, *cams.shape[1:]), dtype=bool)
    if background is not None:
        is_cue = background.dtype == bool
        out[0] = background if is_cue else background.astype(np.float64) < background_threshold
    for c in np.flatnonzero(present):
        maps = cams[c].astype(np.float64)
        if maps.size and maps.max() > 0:
            out[c + 1] = maps > foreground_threshold * maps.max()
    return out


def region_sums(values: Array, superpixels: Array) -> tuple[Array, Array]:
    """Raster-order float64 sums (K, S) and the sizes (S,) of the regions of (K, H, W) values."""
    labels = superpixels.ravel()
    sizes = np.bincount(labels)
    flat = values.reshape(len(values), -1).astype(np.float64)
    sums = [np.bincount(labels, weights=channel, minlength=len(sizes)) for channel in flat]
    return np.array(sums).reshape(len(values), len(sizes)), np.maximum(sizes, 1)


def gaussian_filter(values: Array, sigma: float, axis: int) -> Array:
    """Of float64 values along one axis, mirrored at the ends, cut off at 4 sigma."""
    radius = int(4 * sigma + 0.5) if sigma > 1e-15 else 0
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * steps**2) if radius else np.ones(1)
    weights = (weights / weights.sum())[radius:]
    margins = [(radius, radius) if i == axis else (0, 0) for i in range(values.ndim)]
    wide = np.pad(values, margins, mode="symmetric")
    shifted = [np.take(wide, range(j, j + values.shape[axis]), axis) for j in range(2 * radius + 1)]
    out: Array = shifted[radius] * weights[0]
    for j in range(radius, 0, -1):
        out += (shifted[radius - j] + shifted[radius + j]) * weights[j]
    return out


def felzenszwalb(image: Array, scale: float, sigma: float, min_size: int) -> Array:
    """(H, W, channels) -> (H, W) int32."""
    colours = image * (1 / 255) if image.dtype == np.uint8 else image.astype(np.float64)
    for axis in (0, 1):
        colours = gaussian_filter(colours, sigma, axis)
    pixels = np.arange(image[..., 0].size).reshape(image.shape[:2])
    right, down = (pixels[:, :-1], pixels[:, 1:]), (pixels[:-1], pixels[1:])
    down_right, up_right = (pixels[:-1, :-1], pixels[1:, 1:]), (pixels[1:, :-1], pixels[:-1, 1:])
    ends = [[end.ravel() for end in ends] for ends in (right, down, down_right, up_right)]
    u, v = np.concatenate(ends, axis=1)
    flat = colours.reshape(pixels.size, -1)
    costs = np.sqrt(((flat[u] - flat[v]) ** 2).sum(1))
    order = np.argsort(costs, kind="stable")
    regions = pixels.ravel()
    sizes, last_cost = np.ones(pixels.size), np.zeros(pixels.size)
    for merging_small in (False, True):
        for edge in order:
            a, b = sorted((regions[u[edge]], regions[v[edge]]))
            limits = [np.float32(last_cost[r] + scale / 255 / sizes[r]) for r in (a, b)]
            small = min(sizes[a], sizes[b]) < min_size
            if a != b and (small if merging_small else costs[edge] < min(limits)):
                regions[regions == b] = a
                sizes[a] += sizes[b]
                last_cost[a] = costs[edge]
    labels = np.unique(regions, return_inverse=True)[1]  # a region's number is its first pixel's
    return labels.reshape(pixels.shape).astype(np.int32)


def superpixel_mean(values: Array, superpixels: Array) -> Array:
    """(K, H, W), (H, W) -> (K, H, W)."""
    _, labels = np.unique(superpixels, return_inverse=True)
    labels = labels.reshape(superpixels.shape)
    sums, sizes = region_sums(values, labels)
    dtype = values.dtype if values.dtype.kind == "f" else np.float32
    painted: Array = (sums / sizes)[:, labels]
    return painted.astype(dtype)


def snap_cues(cues: Array, superpixels: Array, threshold: float) -> Array:
    """(K, h, w), (H, W) -> (K, H, W) bool."""
    _, labels = np.unique(superpixels, return_inverse=True)
    labels = labels.reshape(superpixels.shape)
    floating = cues.dtype.kind == "f"
    resize = resize_bilinear if floating else resize_nearest
    height, width = superpixels.shape
    sums, sizes = region_sums(resize(cues, (height, width)), labels)
    means = sums / sizes
    on: Array = (means > threshold * means.max(1, keepdims=True)) & (means > 0)
    return on[:, labels]


def snap_cues_to_masks(cues: Array, masks: Array, threshold: float, accept: str = "mean") -> Array:
    """(K, h, w), (R, H, W) bool -> (K, H, W) bool."""
    floating = cues.dtype.kind == "f"
    maps = (resize_bilinear if floating else resize_nearest)(cues, masks.shape[1:])
    out = np.zeros(maps.shape, dtype=bool)
    uncovered = ~masks.any(0)
    for k, values in enumerate(maps):
        level = max(threshold * cues[k].astype(np.float64).max(), 0) if floating else 0
        on = values > level
        out[k] = on & uncovered
        if accept == "sepl":
            both = (masks & on).sum((1, 2))
            accepted = 2 * both > masks.sum((1, 2))  # most of the mask
            if on.any():
                accepted |= 100 * both >= 85 * on.sum()  # 85 % of the input
        else:
            # cumsum adds one after the other, in raster order
            sums = [np.cumsum(values[mask], dtype=float)[-1:].sum() for mask in masks]
            means = np.array(sums, dtype=float) / np.maximum(masks.sum((1, 2)), 1)
            accepted = (means > threshold * means.max(initial=0)) & (means > 0)
        out[k] |= masks[accepted].any(0)
    return out


def fuse_cues(*cue_sets: Array) -> Array:
    """Logical OR of (K, H, W) sets."""
    fused: Array = np.any([cues != 0 for cues in cue_sets], axis=0)
    return fused


def resize_cues(cues: Array, size: tuple[int, int], rule: str) -> Array:
    """(K, H, W) bool -> (K, height, width) bool."""
    if rule == "nearest":
        return resize_nearest(cues, size)
    # Repeat every source pixel `size` times and cut into cells of `in` each: all integers.
    height, width = cues.shape[-2:]
    fine = np.repeat(np.repeat(cues != 0, size[0], axis=-2), size[1], axis=-1)
    area: Array = fine.reshape(len(cues), size[0], height, size[1], width).sum((2, 4))
    return area > 0 if rule == "any" else 2 * area >= height * width


def cues_to_labels(
    cues: Array, classes: Array, overlap: str, background_overlap: str, unknown: int
) -> Array:
    """(K, H, W) bool -> (H, W) int64."""
    out = np.full(cues.shape[1:], unknown, dtype=np.int64)
    on = cues != 0
    sizes = on.sum((1, 2))
    for y, x in np.ndindex(*out.shape):
        foreground = [k for k in range(1, len(cues)) if on[k, y, x]]
        if len(foreground) > 1 and overlap == "ignore":
            out[y, x] = 255
        elif foreground:
            out[y, x] = classes[min(foreground, key=lambda k: (sizes[k], k))]
        if on[0, y, x] and foreground and background_overlap == "ignore":
            out[y, x] = 255
        elif on[0, y, x] and not (foreground and background_overlap == "foreground"):
            out[y, x] = classes[0]
    return out


def suppress_absent(scores: Array, present: Array, margin: float) -> Array:
    """(K, H, W) -> (K, H, W), in the dtype of `scores` throughout."""
    kept = np.concatenate([[True], present])
    ceiling = scores[kept].max(0)
    below = np.nextafter(ceiling, scores.dtype.type(-np.inf))
    limit = np.minimum(ceiling - scores.dtype.type(margin), below)
    return np.where(kept[:, None, None], scores, np.minimum(scores, limit))


def exact_filter(features: Array) -> Filter:
    """(N, d) -> a function (K, N) -> (K, N): the sum over all pixels, weighted by a Gaussian."""
    wide = features.astype(np.float64)
    weights: Array = np.exp(-((wide[:, None] - wide) ** 2).sum(-1) / 2)

    def apply(values: Array) -> Array:
        summed: Array = values @ weights
        return summed

    return apply


def lattice_filter(features: Array) -> Filter:
    """(N, d) float32 -> a function (K, N) -> (K, N): the same, about, on a permutohedral lattice.

    Where a point lies in the lattice is computed in float32 and in this order, which makes every
    choice the kernel's; what follows is computed in float64.
    """
    pixels, d = features.shape
    side = np.float32(d + 1)
    deviation = float(np.float32(np.sqrt(2 / 3) * (d + 1)))  # of the filter, in lattice steps
    elevated = np.zeros((d + 1, pixels), np.float32)
    total = np.zeros(pixels, np.float32)
    for i in range(d, 0, -1):
        scaled = features[:, i - 1] * np.float32(1 / np.sqrt(i * (i + 1)) * deviation)
        elevated[i] = total - np.float32(i) * scaled
        total = total + scaled
    elevated[0] = total
    # The nearest vertex of colour 0, were it on the plane where coordinates sum to 0; the order of
    # the coordinates' remainders tells the simplex, and which coordinates bring it onto the plane.
    cells = np.rint(elevated * (1 / side))
    remainders = elevated - cells * side
    ranks = np.zeros((d + 1, pixels), int)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            below = remainders[i] < remainders[j]
            ranks[i] += below
            ranks[j] += ~below
    ranks += cells.sum(0).astype(int)
    wrapped = (d + 1) * ((ranks < 0).astype(int) - (ranks > d))
    ranks += wrapped
    origins = (cells * side).astype(int) + wrapped
    remainders = (elevated - origins.astype(np.float32)) * (1 / side)
    descending = np.empty_like(remainders)
    np.put_along_axis(descending, d - ranks, remainders, 0)
    barycentric = descending - np.roll(descending, 1, 0)
    barycentric[0] = descending[0] + (1 - descending[d])
    # A vertex is named by all of its coordinates but the last; that of colour c lies c steps on.
    colours = np.arange(d + 1)[:, None, None]
    named = origins[:d] + colours - (d + 1) * (ranks[:d] > d - colours)  # (d + 1, d, N)
    names, rows = np.unique(named.transpose(0, 2, 1).reshape(-1, d), axis=0, return_inverse=True)
    rows = rows.reshape(d + 1, pixels)
    row_of = {name: row for row, name in enumerate(map(tuple, names.tolist()))}
    neighbours = []
    for axis in range(d + 1):
        step = np.where(np.arange(d) == axis, d, -1)
        ends = [map(tuple, (names + s).tolist()) for s in (step, -step)]
        neighbours.append([[row_of.get(name, -1) for name in end] for end in ends])

    def apply(values: Array) -> Array:
        lattice = np.zeros((len(names) + 1, len(values)))  # the last row is what is not there: 0
        np.add.at(lattice, rows, barycentric[..., None] * values.T.astype(np.float64))
        for one, other in neighbours:
            lattice[:-1] = lattice[:-1] + (lattice[one] + lattice[other]) / 2
        sliced: Array = (barycentric[..., None] * lattice[rows]).sum(0).T / (1 + 2.0**-d)
        return sliced

    return apply


def crf_messages(image: Array, params: CRFParams, make_filter: MakeFilter) -> Filter:
    """(H, W, 3) -> a function of marginals (K, N): both normalised kernels, weighted and added."""
    rows, columns = np.indices(image.shape[:2]).reshape(2, -1).astype(np.float32)
    place = np.stack([columns, rows], 1)
    colour = image.reshape(-1, 3).astype(np.float32)
    near = place / np.float32(params.gaussian_sxy)
    wide = place / np.float32(params.bilateral_sxy)
    alike = np.concatenate([wide, colour / np.float32(params.bilateral_srgb)], 1)
    smoothness, appearance = make_filter(near), make_filter(alike)
    ones = np.ones((1, len(place)))
    near_norm = 1 / np.sqrt(smoothness(ones) + 1e-20)
    alike_norm = 1 / np.sqrt(appearance(ones) + 1e-20)

    def apply(marginals: Array) -> Array:
        smooth = near_norm * smoothness(near_norm * marginals)
        like_coloured = alike_norm * appearance(alike_norm * marginals)
        total: Array = params.gaussian_weight * smooth + params.bilateral_weight * like_coloured
        return total

    return apply


def softmax(values: Array) -> Array:
    """Over the first axis."""
    powers = np.exp(values - values.max(0))
    normalized: Array = powers / powers.sum(0)
    return normalized


def dense_crf(
    probabilities: Array,
    image: Array,
    params: CRFParams,
    iterations: int,
    epsilon: float,
    make_filter: MakeFilter = lattice_filter,
) -> Array:
    """(K, H, W), (H, W, 3) -> (K, H, W) float64; with `exact_filter`, the model itself."""
    clipped = np.clip(probabilities.astype(np.float64), epsilon, 1)
    energies = -np.log(clipped).reshape(len(probabilities), -1)
    messages = crf_messages(image, params, make_filter)
    marginals = softmax(-energies)
    for _ in range(iterations):
        marginals = softmax(messages(marginals) - energies)
    return marginals.reshape(probabilities.shape)


def floored(probabilities: Array) -> Array:
    """(K, H, W) -> (K, H, W) float64 that is nowhere near 0 and sums to 1, as in SEC's code."""
    raised = probabilities.astype(np.float64) + 1e-4
    out: Array = raised / raised.sum(0)
    return out


def seed_loss(probabilities: Array, cues: Array) -> float:
    """(K, H, W), (K, H, W) bool -> number."""
    marked = floored(probabilities)[cues != 0]
    return float(-np.log(marked).sum() / max(marked.size, 1))


def constrain_to_boundary_loss(probabilities: Array, smoothed: Array) -> float:
    """(K, H, W), Q (K, H, W) as the CRF returns it -> number, per pixel."""
    q = np.maximum(smoothed.astype(np.float64), 1e-4)
    q /= q.sum(0)
    return float((q * np.log(q / floored(probabilities))).sum(0).mean())


def weighted_rank_pooling(values: Array, decay: float) -> float:
    """Of (H, W), the largest value first."""
    weights = [decay**j for j in range(values.size)]
    return float(np.average(np.sort(values, axis=None)[::-1], weights=weights))


def expansion_loss(probabilities: Array, present: Array) -> float:
    """(K, H, W), (K - 1,) bool -> number."""
    background, *foreground = floored(probabilities)
    here = [m for m, tag in zip(foreground, present, strict=True) if tag]
    absent = [m for m, tag in zip(foreground, present, strict=True) if not tag]
    loss = -np.log(weighted_rank_pooling(background, 0.999))
    if here:
        loss -= np.mean([np.log(weighted_rank_pooling(m, 0.996)) for m in here])
    if absent:
        loss -= np.mean([np.log(1 - m.max()) for m in absent])
    return float(loss)
